"""The daemon's daily part in Object Lock, and what it leaves to others of an append-only target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backupd.config.settings import LocalTarget, S3Target, UpkeepSettings
from backupd.operations.extend import ExtendReport
from tests.unit.daemon_fakes import eventually
from tests.unit.test_daemon_service import Start
from tests.unit.test_daemon_service import start as start


def with_bucket(folder: Path) -> dict[str, Any]:
    bucket = S3Target(
        "s3", "models", object_lock_mode="COMPLIANCE", object_lock_days=30, append_only=True
    )
    return {
        "targets": {"disk": LocalTarget("disk", folder / "repository"), "s3": bucket},
        "model": {"targets": {"disk": (), "s3": ()}},
    }


def test_what_is_held_is_extended_and_an_append_only_target_is_not_pruned(
    start: Start, tmp_path: Path
) -> None:
    upkeep = UpkeepSettings(forget="", prune="0 11 * * *", check="", extend="0 11 * * *")
    daemon = start(upkeep=upkeep, **with_bucket(tmp_path))
    daemon.settled()
    daemon.later(86_400)
    eventually(lambda: daemon.recorder.count("extend"))
    eventually(lambda: daemon.recorder.count("prune"))
    assert ("extend", "s3") in daemon.recorder.calls
    assert ("extend", "disk") not in daemon.recorder.calls
    assert ("prune", "s3") not in daemon.recorder.calls
    jobs = {(one["job"], one["target"]) for one in daemon.status()["upkeep"]}
    assert jobs == {("prune", "disk"), ("extend", "s3")}


def test_what_cannot_be_held_fails_the_job_and_is_told(start: Start, tmp_path: Path) -> None:
    report = ExtendReport("s3", 3, 1, 100, 2_000.0, False, ("packs/aa/a is missing",))
    daemon = start(
        lambda daemon: setattr(daemon.recorder, "extend_report", report),
        upkeep=UpkeepSettings(forget="", prune="", check="", extend="0 11 * * *"),
        **with_bucket(tmp_path),
    )
    daemon.settled()
    daemon.later(86_400)
    eventually(lambda: daemon.lines.has("packs/aa/a is missing"))
    (upkeep,) = daemon.status()["upkeep"]
    assert "not all that the snapshots on s3 need is held" in upkeep["error"]
