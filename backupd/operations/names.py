"""The names that the configuration's templates give to snapshots, and whose name a text is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, tzinfo

from backupd.config.settings import Settings
from backupd.operations.reports import SnapshotInfo
from backupd.policy.naming import NameWords, Template, parse_layout, parse_template


def templates_for(settings: Settings, text: str) -> tuple[Template, ...]:
    """The templates of which `text` may be a name; the configuration's were found valid."""
    if "@" in text:
        return ()
    if "/" in text:
        return (parse_layout(settings.layout, settings.naming),)
    return (parse_template(settings.naming),)


def words_of(settings: Settings, info: SnapshotInfo) -> NameWords:
    """What names say of a snapshot, with the day in its model's time zone, else the box's."""
    return _words(info, next(_zones(settings, info)))


def rendered_name(settings: Settings, info: SnapshotInfo) -> str:
    """The snapshot's name by `naming`."""
    return parse_template(settings.naming).render(words_of(settings, info))


def is_named(settings: Settings, info: SnapshotInfo, text: str) -> bool:
    """Whether a template gives a snapshot the name `text`.

    The day of a snapshot of another box may be counted in a zone that is not known here, so
    that of UTC is as good.
    """
    for template in templates_for(settings, text):
        words = template.parse(text)
        for zone in _zones(settings, info) if words else ():
            assert words is not None
            if template.render(replace(_words(info, zone), ext=words.ext)) == text:
                return True
    return False


def _zones(settings: Settings, info: SnapshotInfo) -> Iterator[tzinfo]:
    model = settings.models.get(info.model)
    if model is not None and model.timezone:
        from zoneinfo import ZoneInfo

        yield ZoneInfo(model.timezone)
    local = datetime.now().astimezone().tzinfo
    assert local is not None
    yield local
    yield UTC


def _words(info: SnapshotInfo, zone: tzinfo) -> NameWords:
    return NameWords(
        model=info.model,
        version=info.version,
        project=info.project,
        host=info.host,
        date=datetime.fromtimestamp(info.time, zone).strftime("%Y-%m-%d"),
        step=info.step,
        labels=info.labels,
    )
