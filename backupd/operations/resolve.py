"""Which snapshot a person means by `llama-ft@v12` and the other forms of `policy.spec`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from backupd.errors import DamagedError, NotFoundError, UsageError
from backupd.operations.catalog import Catalog, ResolvedSnapshot, read_catalog
from backupd.operations.installation import Installation
from backupd.operations.names import is_named, rendered_name, templates_for
from backupd.operations.progress import Progress
from backupd.policy.nearest import nearest_names
from backupd.policy.retention import KeepBest
from backupd.policy.spec import Kind, SnapshotSpec, parse_names, parse_spec
from backupd.repository.snapshots import parse_name


def resolve(
    installation: Installation,
    text: str,
    *,
    target: str = "",
    progress: Progress | None = None,
) -> ResolvedSnapshot:
    """The snapshot that `text` means, read from `target` or the nearest that has it.

    Without a host this host's is meant, else the only one of that name. Raises `UsageError`
    where the text cannot name one, `NotFoundError` with the nearest names where none fits.
    """
    local_zone = datetime.now().astimezone().tzinfo
    assert local_zone is not None
    readings = parse_spec(
        text,
        templates=templates_for(installation.settings, text),
        timezone=local_zone,
    )
    catalog = read_catalog(installation, targets=[target] if target else None, progress=progress)
    for reading in readings:
        found = _choose(installation, catalog, reading)
        _refuse_in_place_of_damaged(installation, catalog, reading, found)
        if found is not None:
            return found
    raise _not_found(installation, catalog, text, readings)


def _choose(
    installation: Installation, catalog: Catalog, wanted: SnapshotSpec
) -> ResolvedSnapshot | None:
    if wanted.kind is Kind.ID:
        found = [s for s in catalog.snapshots if s.info.id.startswith(wanted.id_prefix)]
        if len(found) > 1:
            names = ", ".join(snapshot.info.name for snapshot in found[:4])
            raise UsageError(
                f"{wanted.text!r} is the beginning of {len(found)} ids ({names})",
                hint="give more of the id",
            )
        return found[0] if found else None
    snapshots = _of_model(installation, catalog, wanted)
    if wanted.kind is Kind.VERSION:
        snapshots = [s for s in snapshots if s.info.version == wanted.version]
        if wanted.words is not None:
            settings = installation.settings
            snapshots = [s for s in snapshots if is_named(settings, s.info, wanted.text)]
    elif wanted.kind is Kind.DATE:
        snapshots = [s for s in snapshots if s.info.time < wanted.before]
    elif wanted.kind is Kind.LABEL:
        snapshots = [
            s
            for s in snapshots
            if (
                wanted.label in s.info.labels
                and wanted.value in (None, s.info.labels[wanted.label])
            )
            or (wanted.value is None and wanted.label in s.info.labels.values())
        ]
    elif wanted.kind is Kind.BEST:
        snapshots = _best(installation, snapshots, wanted)
    return snapshots[-1] if snapshots else None


def _refuse_in_place_of_damaged(
    installation: Installation,
    catalog: Catalog,
    wanted: SnapshotSpec,
    found: ResolvedSnapshot | None,
) -> None:
    """Raise `DamagedError` where a damaged snapshot was meant, or may have been by `latest`.

    To give an older one instead without a word, or to say that there is none, would both be
    wrong. A sound copy on another target is as good.
    """
    if wanted.kind not in (Kind.VERSION, Kind.LATEST):
        return
    host = found.info.host if found else wanted.host or installation.settings.host
    for place, why in catalog.damaged.items():
        target, _, object_name = place.partition(": ")
        name = parse_name(object_name)
        folder = installation.repository(target).secrets.model_folder(host, wanted.model)
        if name is None or name.folder != folder:
            continue
        if wanted.kind is Kind.VERSION:
            meant = found is None and name.version == wanted.version
        else:
            meant = found is None or name.version > found.info.version
        if meant:
            raise DamagedError(
                f"{wanted.model}@v{name.version} cannot be read from {target}: {why}",
                hint="'backupd repair' may mend it; 'backupd list' shows those that can be read",
            )


def _of_model(
    installation: Installation, catalog: Catalog, wanted: SnapshotSpec
) -> list[ResolvedSnapshot]:
    """The model's snapshots in version order, all of one host."""
    found = [s for s in catalog.snapshots if s.info.model == wanted.model]
    hosts = sorted({snapshot.info.host for snapshot in found})
    host = wanted.host
    if not host and hosts:
        host = installation.settings.host
        if host not in hosts:
            if len(hosts) > 1:
                raise UsageError(
                    f"several hosts have a model {wanted.model!r}: {', '.join(hosts)}",
                    hint=f"say which: {hosts[0]}:{wanted.text}",
                )
            host = hosts[0]
    mine = [snapshot for snapshot in found if snapshot.info.host == host]
    return sorted(mine, key=lambda snapshot: snapshot.info.version)


def _best(
    installation: Installation, snapshots: list[ResolvedSnapshot], wanted: SnapshotSpec
) -> list[ResolvedSnapshot]:
    rules = [policy.keep_best for policy in installation.settings.policies.values()]
    known = [rule for rule in rules if rule is not None]
    if wanted.metric:
        mode = next((rule.mode for rule in known if rule.metric == wanted.metric), "min")
        rule = KeepBest(wanted.metric, mode, 1)
    elif known:
        rule = known[0]
    else:
        raise UsageError(
            f"{wanted.text!r}: no policy says by which metric a snapshot is best",
            hint=f"name it: {wanted.model}@best:eval_loss, or set keep_best in a policy",
        )
    sign = 1.0 if rule.mode == "max" else -1.0
    scored = [s for s in snapshots if rule.metric in s.info.metrics]
    return sorted(scored, key=lambda s: (sign * s.info.metrics[rule.metric], s.info.version))


def _not_found(
    installation: Installation,
    catalog: Catalog,
    text: str,
    readings: Sequence[SnapshotSpec],
) -> NotFoundError:
    models = {snapshot.info.model for snapshot in catalog.snapshots}
    asked = [name for name in parse_names(readings) if name in models]
    away = ", ".join(catalog.unreachable)
    also = f" (not asked, as it cannot be reached: {away})" if away else ""
    damaged = len(catalog.damaged)
    lost = f"; {damaged} cannot be read, see 'backupd check'" if damaged else ""
    settings = installation.settings
    for reading in readings:
        if reading.words is not None:
            for item in _of_model(installation, catalog, reading):
                if item.info.version == reading.version:
                    return NotFoundError(
                        f"there is no snapshot {text!r}",
                        hint=f"{item.info.name} is {rendered_name(settings, item.info)}",
                    )
    if asked:
        newest = [s.info for s in catalog.snapshots if s.info.model == asked[0]]
        near: Sequence[str] = nearest_names(text, [info.name for info in newest]) or [
            info.name for info in newest[-3:]
        ]
        return NotFoundError(
            f"there is no snapshot {text!r}{also}", hint=f"there is: {', '.join(near)}{lost}"
        )
    known = sorted(models | set(settings.models))
    candidates = nearest_names(parse_names(readings)[0] if parse_names(readings) else text, known)
    hint = ", ".join(candidates or known[:5]) or ("none" if catalog.damaged else "none yet")
    return NotFoundError(
        f"there is no model or snapshot {text!r}{also}",
        hint=f"models with snapshots: {hint}{lost}",
    )
