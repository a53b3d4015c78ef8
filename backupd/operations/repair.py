"""Mending one target: look, decide, mend what is read, look again, until nothing more can be done.

The order is that of every writer: packs, then index, then snapshots; only then is marked and
dropped what they stand in for. So a repair that is killed anywhere is gone on with by the next.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence

from backupd.errors import (
    BackupdError,
    DamagedError,
    StoppedError,
    TargetError,
    TargetUnreachableError,
    WrongKeyError,
)
from backupd.operations.check import diagnose
from backupd.operations.diagnosis import Diagnosis
from backupd.operations.installation import Installation
from backupd.operations.live_folder import LiveFolders
from backupd.operations.progress import NoProgress, Progress
from backupd.operations.repair_objects import Found, find_object, labels_elsewhere
from backupd.operations.repair_opening import open_damaged
from backupd.operations.repair_packs import PackMender
from backupd.operations.repair_sources import Donor, Sources
from backupd.operations.reports import CheckReport, Mended, RepairReport
from backupd.repository import layout
from backupd.repository.repair_plan import Damage, PackDamage, RepairPlan, Verb, plan_repair
from backupd.repository.repository import Repository
from backupd.repository.snapshots import SnapshotName, parse_name

# A tree that is mended shows what of its files is hurt, a chunk list what of the file is.
_ROUNDS = 6


def repair(
    installation: Installation,
    target: str,
    *,
    sources: Sequence[str] | None = None,
    read_data_percent: float | None = 100,
    dry_run: bool = False,
    known: Diagnosis | None = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> RepairReport:
    """Mend one target from the others (or only from `sources`), the live folders, and itself.

    `read_data_percent` of the data is read to find what is damaged, or what `known` says of it
    is believed. With `dry_run` the answer is what would be tried. Raises `TargetError` where the
    target cannot be reached or does not keep what it is given, `WrongKeyError`, and
    `StoppedError`; the next run goes on.
    """
    progress = progress or NoProgress()
    stop = stop or threading.Event()
    notes: list[str] = []
    mended = open_damaged(installation, target, sources, dry_run=dry_run, note=notes.append)
    run = _Repair(installation, target, sources, progress, stop, notes)
    if dry_run and mended:
        return RepairReport(target, tuple(mended), (), True, tuple(notes))
    found = run.look(known, None if known is not None else read_data_percent)
    if dry_run:
        return run.foresee(found, mended)
    if found.findings:
        done, found = run.mend(found)
        mended += done
        found = run.look(found, None)
    lost = tuple(finding for finding in found.report().findings if not finding.harmless)
    return RepairReport(target, tuple(mended), lost, False, tuple(notes))


def check_and_heal(
    installation: Installation,
    target: str,
    *,
    read_data_percent: float | None,
    progress: Progress,
    stop: threading.Event,
) -> tuple[CheckReport | None, RepairReport | None]:
    """Check one target, and mend at once what was found.

    The check's report is None where the target could not even be opened before it was mended, the
    repair's where there was nothing to mend. Raises as `check` and `repair` do.
    """
    try:
        found = diagnose(
            installation,
            target,
            read_data_percent=read_data_percent,
            progress=progress,
            stop=stop,
        )
    except (DamagedError, WrongKeyError, TargetError):
        # Raised again where the target is only away.
        report = repair(
            installation,
            target,
            read_data_percent=read_data_percent,
            progress=progress,
            stop=stop,
        )
        return None, report
    checked = found.report()
    if checked.clean:
        return checked, None
    return checked, repair(installation, target, known=found, progress=progress, stop=stop)


class _Repair:
    """One run over one target."""

    def __init__(
        self,
        installation: Installation,
        target: str,
        sources: Sequence[str] | None,
        progress: Progress,
        stop: threading.Event,
        notes: list[str],
    ) -> None:
        self._installation = installation
        self._target = target
        self._progress = progress
        self._stop = stop
        self._notes = notes
        self._donor_names = sources
        self._donors: list[Donor] | None = None
        self._objects: dict[str, Found] = {}
        self._kept: set[str] = set()
        self._not_replaced: set[bytes] = set()
        self._whence: Counter[str] = Counter()
        self._indexed = False

    @property
    def _repository(self) -> Repository:
        return self._installation.repository(self._target)

    def look(self, known: Diagnosis | None, percent: float | None) -> Diagnosis:
        """What is wrong now; with the snapshots that are to be put back looked at already."""
        pending = [f.snapshot for f in self._objects.values() if f.snapshot is not None]
        return diagnose(
            self._installation,
            self._target,
            read_data_percent=percent,
            progress=self._progress,
            stop=self._stop,
            known=known,
            also=pending,
        )

    def _open_donors(self) -> list[Donor]:
        settings = self._installation.settings
        names = settings.targets if self._donor_names is None else self._donor_names
        donors = []
        for name in self._installation.nearest_first(n for n in names if n != self._target):
            try:
                other = self._installation.repository(name)
            except BackupdError as error:
                self._notes.append(f"{name} is not asked: {error.message}")
                continue
            if other.secrets == self._repository.secrets:
                donor = Donor(other, lambda message: None)
                try:
                    len(donor.index)
                except BackupdError as error:
                    self._notes.append(f"{name} is not asked: {error.message}")
                    continue
                donors.append(donor)
            else:
                self._notes.append(f"{name} is not asked: it has another master key")
        return donors

    def _plan(self, found: Diagnosis, sources: Sources) -> RepairPlan:
        problems = {name: found.findings[n].problem for name, n in found.bad_objects.items()}
        superseded = {name for name, n in found.bad_objects.items() if found.findings[n].harmless}
        wounds = sorted(found.wounds.values(), key=lambda wound: not wound.plain)
        # Bases first: with them the deltas that stand on them are whole again.
        blobs = tuple(dict.fromkeys(wound.blob_id for wound in wounds))
        homes = {b: frozenset(c.pack_id for c in found.copies(b, plain=False)) for b in blobs}
        packs = [
            PackDamage(pack_id, found.problem_of(pack_id), found.index.avoids(pack_id))
            for pack_id in sorted(found.hurt_packs)
        ]
        damage = Damage(packs, blobs, homes, problems, frozenset(superseded), len(found.unnamed))
        return plan_repair(damage, sources.offers(sorted(problems), self._not_replaced))

    def foresee(self, found: Diagnosis, mended: Sequence[Mended]) -> RepairReport:
        """What would be tried, and what nobody offers."""
        sources = self._sources(found)
        plan = self._plan(found, sources)
        tried = [
            Mended(action.object_name, action.verb, " or ".join(action.sources), action.reason)
            for action in plan.actions
        ]
        lost_blobs = set(plan.lost_blobs)
        numbers = {w.number for w in found.wounds.values() if w.blob_id in lost_blobs}
        numbers |= {found.bad_objects[name] for name in plan.lost_objects}
        lost = tuple(found.told(number) for number in sorted(numbers))
        return RepairReport(self._target, (*mended, *tried), lost, True, tuple(self._notes))

    def _sources(self, found: Diagnosis) -> Sources:
        if self._donors is None:
            self._donors = self._open_donors()
        live = LiveFolders(self._installation, self._repository)
        return Sources(self._repository, found, self._donors, live)

    # -- mending ----------------------------------------------------------------------------------

    def mend(self, found: Diagnosis) -> tuple[list[Mended], Diagnosis]:
        """Do all that can be done: what was done with whence it came, and what is known now."""
        done: list[Mended] = []
        for _ in range(_ROUNDS):
            sources = self._sources(found)
            plan = self._plan(found, sources)
            self._progress.begin("repair")
            known = self._done()
            step = self._mend_packs(found, sources, plan)
            self._find_objects(plan, sources)
            done += step
            if not step and self._done() == known:
                break
            found = self.look(found, None)
        done += self._put_objects(plan, sources)
        for action in plan.of(Verb.DROP):
            if self._drop(action.object_name):
                done.append(Mended(action.object_name, Verb.DROP, "", action.reason))
        stored = [
            Mended(layout.PACKS, Verb.STORE, source, _blobs(number))
            for source, number in self._whence.items()
            if source
        ]
        return stored + done, found

    def _done(self) -> tuple[int, int, int]:
        """What changes when another round may do more."""
        return len(self._objects), self._whence.total(), len(self._not_replaced)

    def _mend_packs(self, found: Diagnosis, sources: Sources, plan: RepairPlan) -> list[Mended]:
        replace, store = plan.of(Verb.REPLACE), plan.of(Verb.STORE)
        packs = [a for a in replace if a.object_name.startswith(layout.PACKS)]
        rewrite = plan.of(Verb.REWRITE)
        rewrite = [a for a in rewrite if a.object_name not in self._kept]
        index = plan.of(Verb.INDEX) if not self._indexed else []
        if not packs and not store and not rewrite and not index:
            return []
        done = []
        mender = PackMender(
            self._repository, found, sources, clock=self._installation.clock, stop=self._stop
        )
        try:
            for action in packs:
                self._checkpoint()
                source = mender.replace(_pack_id(action.object_name))
                if source:
                    done.append(Mended(action.object_name, Verb.REPLACE, source, action.reason))
                else:
                    self._not_replaced.add(_pack_id(action.object_name))
            whence: Counter[str] = Counter()
            wanted = {blob for action in store for blob in action.blobs}
            wounds = [w for w in found.wounds.values() if w.blob_id in wanted]
            for wound in sorted(wounds, key=lambda wound: not wound.plain):
                found_in = mender.store(wound)
                if found_in is not None:
                    whence[found_in] += 1
            gone = [a for a in rewrite if mender.salvage(_pack_id(a.object_name))]
            self._kept |= {a.object_name for a in rewrite if a not in gone}
            mender.settle()
            if index:
                mender.index_unnamed()
                self._indexed = True
                done.append(Mended(layout.INDEX, Verb.INDEX, "", index[0].reason))
            mender.mark(_pack_id(action.object_name) for action in gone)
        except BaseException:
            mender.abandon()
            raise
        self._whence += whence
        done += [Mended(a.object_name, Verb.REWRITE, "", a.reason) for a in gone]
        return done

    def _checkpoint(self) -> None:
        if self._stop.is_set():
            raise StoppedError("stopped; what was mended is kept, and the next repair goes on")

    def _find_objects(self, plan: RepairPlan, sources: Sources) -> None:
        named = [a.object_name for a in plan.of(Verb.REPLACE)] + list(plan.lost_objects)
        for name in named:
            if name.startswith((layout.SNAPSHOTS, layout.KEYS)) and name not in self._objects:
                right = find_object(self._repository, name, sources.donors)
                if right is not None:
                    self._objects[name] = right

    def _put_objects(self, plan: RepairPlan, sources: Sources) -> list[Mended]:
        done = []
        problems = {action.object_name: action.reason for action in plan.of(Verb.REPLACE)}
        target = self._repository.target
        for name, right in self._objects.items():
            try:
                target.put(name, [right.stored], warm=True)
            except TargetUnreachableError:
                raise
            except TargetError as error:
                self._notes.append(f"{name} cannot be put right: {error.message}")
                continue
            reason = problems.get(name, "is damaged")
            done.append(Mended(name, Verb.REPLACE, right.source, reason))
        for name in {*plan.lost_objects, *problems} - self._objects.keys():
            parts = parse_name(name)
            if parts is None or not parts.amendment:
                continue
            labels = labels_elsewhere(self._repository, parts, sources.donors)
            if labels is not None:
                base = SnapshotName(parts.folder, parts.version)
                self._repository.amend(self._repository.read_snapshot(base), labels[0])
                self._drop(name)
                done.append(Mended(name, Verb.REPLACE, labels[1], "labels were lost"))
        return done

    def _drop(self, name: str) -> bool:
        try:
            self._repository.target.delete(name)
        except TargetUnreachableError:
            raise
        except TargetError as error:
            self._notes.append(f"{name} stays, which does no harm: {error.message}")
            return False
        return True


def _blobs(number: int) -> str:
    return "1 blob that snapshots need" if number == 1 else f"{number} blobs that snapshots need"


def _pack_id(name: str) -> bytes:
    return bytes.fromhex(name.rsplit("/", 1)[-1])
