from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backupd.config.settings import KeySettings, LocalTarget, Settings, UpkeepSettings
from backupd.daemon import client, service
from backupd.daemon.control import ControlServer
from backupd.daemon.engine import Engine
from backupd.daemon.queue import JobQueue
from backupd.daemon.service import Service
from backupd.errors import (
    BackupdError,
    ConfigError,
    StoppedError,
    TargetUnreachableError,
    WrongKeyError,
)
from backupd.operations.reports import (
    CheckReport,
    DrillReport,
    Finding,
    Mended,
    RepairReport,
    SnapshotReport,
    TargetResult,
)
from backupd.repository.danger import Danger
from tests.unit.daemon_fakes import (
    PATIENCE_SECONDS,
    Clock,
    LogLines,
    Recorder,
    eventually,
    good,
    info,
    model,
    settings,
    unchanged,
)

# 2026-07-01 10:07:00 UTC, so that the next quarter of an hour is eight minutes away.
NOW = 1_782_900_420.0
QUARTER = 900.0
UPKEEP_OFF = UpkeepSettings(forget="", prune="", check="")


class Daemon:
    """A service in a thread, with all that a test wants to see or set of it."""

    def __init__(self, folder: Path, configuration: Settings) -> None:
        self.configuration: Settings | Exception = configuration
        self.state_dir = configuration.state_dir
        self.recorder = Recorder()
        self.clock = Clock(NOW)
        self.lines = LogLines()
        self.aborted: list[int] = []
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(str(folder / f"notify-{id(self)}"))
        self.heard: list[str] = []
        # The kernel keeps few datagrams, and the daemon drops what finds no room.
        self.hearing = threading.Thread(target=self._hear, daemon=True)
        self.hearing.start()
        self.service = Service(
            self.load,
            environment={
                "NOTIFY_SOCKET": self.manager.getsockname(),
                "WATCHDOG_USEC": "300000",
            },
            log=self.lines.log,
            verbs=self.recorder.verbs(),
            wall=self.clock,
            abort=self.aborted.append,
        )
        self.codes: list[int] = []
        self.errors: list[BaseException] = []
        self.thread = threading.Thread(target=self._run, daemon=True)

    def load(self) -> Settings:
        if isinstance(self.configuration, Exception):
            raise self.configuration
        return self.configuration

    def _run(self) -> None:
        try:
            self.codes.append(self.service.run())
        except BackupdError as error:
            self.errors.append(error)

    def start(self) -> Daemon:
        self.thread.start()
        eventually(lambda: self.said("READY=1"))
        return self

    def stop(self) -> float:
        """The seconds that it took to end."""
        before = time.monotonic()
        self.service.stop()
        self.thread.join(PATIENCE_SECONDS)
        assert not self.thread.is_alive()
        return time.monotonic() - before

    def _hear(self) -> None:
        while heard := self.manager.recv(4096):
            self.heard.append(heard.decode())

    def said(self, part: str) -> bool:
        """Whether systemd was told so by now."""
        return any(part in message for message in list(self.heard))

    def forget_heard(self) -> None:
        """Think no more of what was said until now."""
        self.hear_all()
        self.heard.clear()

    def hear_all(self) -> None:
        """Return once all is heard that was said until now."""
        mark = f"X_MARK={time.monotonic_ns()}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(mark.encode(), self.manager.getsockname())
        eventually(lambda: self.said(mark))

    def close(self) -> None:
        """End it, where it has not ended."""
        if self.thread.is_alive():
            self.stop()
        self.manager.shutdown(socket.SHUT_RDWR)
        self.hearing.join()
        self.manager.close()

    def later(self, seconds: float) -> None:
        """Turn the clock on, and let the loop look at it."""
        self.clock.now += seconds
        self.service._send(0)

    def status(self) -> dict[str, Any]:
        return client.status(self.state_dir)

    def change(self) -> None:
        """Change something in the model's folder, and wait until that is known."""
        configured = self.load().models["llama"]
        (configured.path / f"file-{time.monotonic_ns()}").touch()
        eventually(lambda: self.of_model()["changed"])

    def of_model(self, name: str = "llama") -> dict[str, Any]:
        return next(one for one in self.status()["models"] if one["name"] == name)

    def settled(self, name: str = "llama") -> dict[str, Any]:
        """The model's status once it is watched and nothing runs."""

        def quiet() -> Any:
            found = self.of_model(name)
            busy = found["state"] in ("running", "pending") or not found["last_run"]
            return None if busy or found["watch"]["mode"] != "watching" else found

        found: dict[str, Any] = eventually(quiet)
        return found


Start = Callable[..., Daemon]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    made: list[Daemon] = []

    def begin(prepare: Callable[[Daemon], object] = lambda daemon: None, **changes: Any) -> Daemon:
        of_model = changes.pop("model", {})
        (tmp_path / "run").mkdir(exist_ok=True)
        changes = {"upkeep": UPKEEP_OFF, **changes}
        daemon = Daemon(
            tmp_path, settings(tmp_path, model(tmp_path / "run", **of_model), **changes)
        )
        made.append(daemon)
        prepare(daemon)
        return daemon.start()

    yield begin
    for daemon in made:
        daemon.close()


def watched(daemon: Daemon) -> None:
    """Wait for the first snapshot, and for the one that follows as the watch was set up."""
    daemon.settled()
    daemon.later(QUARTER)
    eventually(lambda: not daemon.of_model()["changed"])
    daemon.settled()


def test_a_new_model_is_stored_at_once_and_then_by_its_schedule(
    start: Start, tmp_path: Path
) -> None:
    daemon = start()
    eventually(lambda: daemon.recorder.count("snapshot", "llama") == 1)
    assert daemon.settled()["next_run"] == NOW + 480
    daemon.later(479)
    time.sleep(0.2)
    assert daemon.recorder.count("snapshot") == 1
    daemon.change()
    daemon.later(1)
    eventually(lambda: daemon.recorder.count("snapshot") == 2)


def test_a_tick_over_an_unchanged_model_costs_nothing_and_keeps_it_from_being_stale(
    start: Start, tmp_path: Path
) -> None:
    daemon = start()
    watched(daemon)
    before = daemon.recorder.count("snapshot")
    for _ in range(8):
        daemon.later(QUARTER)
        last = daemon.clock.now
        eventually(lambda last=last: daemon.of_model()["last_run"] == last)
    assert daemon.recorder.count("snapshot") == before
    assert daemon.of_model()["state"] == "ok"
    daemon.change()
    daemon.later(QUARTER)
    eventually(lambda: daemon.recorder.count("snapshot") == before + 1)


def test_a_full_scan_is_done_once_a_day_all_the_same(start: Start) -> None:
    daemon = start()
    watched(daemon)
    before = daemon.recorder.count("snapshot")
    daemon.later(86_400)
    eventually(lambda: daemon.recorder.count("snapshot") == before + 1)
    reasons = [line["reason"] for line in daemon.lines.lines() if line.get("reason")]
    assert "the daily scan" in reasons[-1]


def test_a_run_missed_while_the_daemon_was_off_is_caught_up_at_its_start(start: Start) -> None:
    first = start()
    first.settled()
    first.stop()
    again = start(lambda daemon: setattr(daemon.clock, "now", NOW + 3 * QUARTER))
    eventually(lambda: again.recorder.count("snapshot") == 1)
    assert any("missed" in line.get("reason", "") for line in again.lines.lines())
    again.settled()
    again.stop()
    # And one that was not missed is not run again, though nobody knows what has changed.
    third = start(lambda daemon: setattr(daemon.clock, "now", NOW + 3 * QUARTER + 60))
    third.later(1)
    time.sleep(0.2)
    assert third.recorder.count("snapshot") == 0


def away(recorder: Recorder) -> Callable[..., SnapshotReport]:
    def take(*_: Any) -> SnapshotReport:
        version = recorder.count("snapshot")
        results = (
            TargetResult("disk", version, 900),
            TargetResult("nas", 0, 0, "/mnt/nas is absent"),
        )
        return SnapshotReport("llama", False, info("llama", version), results)

    return take


def with_nas(tmp_path: Path) -> dict[str, Any]:
    return {
        "targets": {
            "disk": LocalTarget("disk", tmp_path / "disk"),
            "nas": LocalTarget("nas", tmp_path / "nas"),
        },
        "model": {"targets": {"disk": (), "nas": ()}, "schedule": "0 0 * * *"},
    }


def test_a_target_that_is_away_is_copied_to_with_back_off_and_the_daemon_lives(
    start: Start, tmp_path: Path
) -> None:
    def fails(model: str, target: str, stop: threading.Event) -> list[TargetResult]:
        if target == "nas":
            raise TargetUnreachableError("/mnt/nas is still absent")
        return []

    def prepare(daemon: Daemon) -> None:
        daemon.recorder.snapshot = away(daemon.recorder)
        daemon.recorder.copy = fails

    daemon = start(prepare, **with_nas(tmp_path))
    found = daemon.settled()
    assert found["state"] == "partial"
    by_name = {target["name"]: target for target in found["targets"]}
    assert by_name["disk"]["error"] == ""
    assert by_name["disk"]["last_good"] == NOW
    assert by_name["nas"]["error"] == "/mnt/nas is absent"
    assert (by_name["nas"]["state"], by_name["nas"]["owed"]) == ("failed", 1)
    assert by_name["nas"]["failed_since"] == NOW
    for tries, delay in enumerate((60, 120, 240), 1):
        daemon.later(delay - 1)
        time.sleep(0.1)
        assert daemon.recorder.count("copy", "llama", "nas") == tries - 1
        daemon.later(1)
        eventually(lambda tries=tries: daemon.recorder.count("copy", "llama", "nas") == tries)
        eventually(lambda tries=tries: daemon.of_model()["targets"][1]["failures"] == tries + 1)
    nas = daemon.of_model()["targets"][1]
    assert (nas["error"], nas["failed_since"]) == ("/mnt/nas is still absent", NOW)
    assert daemon.recorder.count("snapshot") == 1
    daemon.recorder.copy = None
    daemon.later(480)
    eventually(lambda: daemon.of_model()["targets"][1]["state"] == "stored")
    assert daemon.of_model()["state"] == "ok"
    nas = daemon.of_model()["targets"][1]
    assert (nas["owed"], nas["error"], nas["failed_since"]) == (0, "", None)


@pytest.mark.parametrize(
    "failure",
    [TargetUnreachableError("disk is absent"), RuntimeError("boom"), OSError(5, "I/O error")],
)
def test_whatever_a_snapshot_meets_the_daemon_lives_and_tries_again(
    start: Start, failure: Exception
) -> None:
    daemon = start(lambda daemon: setattr(daemon.recorder, "failure", failure))
    found = daemon.settled()
    assert found["state"] == "failed"
    assert str(failure) in found["error"]
    daemon.recorder.failure = None
    daemon.later(60)
    eventually(lambda: daemon.of_model()["state"] == "ok")


def test_files_that_never_held_still_wait_for_the_next_tick(start: Start) -> None:
    def take(*_: Any) -> SnapshotReport:
        return good("llama", incomplete=("log.txt: changed each of the 4 times it was read",))

    daemon = start(lambda daemon: setattr(daemon.recorder, "snapshot", take))
    found = daemon.settled()
    assert found["state"] == "partial"
    assert "log.txt" in found["error"]
    assert found["next_run"] == NOW + 480
    daemon.later(480)
    eventually(lambda: daemon.recorder.count("snapshot") == 2)


def test_code_that_could_not_be_pushed_is_tried_again_though_nothing_changed(start: Start) -> None:
    taken: list[SnapshotReport] = []

    def take(*_: Any) -> SnapshotReport:
        taken.append(unchanged("llama") if taken else good("llama"))
        why = "code: backupd/llama could not be pushed; it is tried again"
        if len(taken) < 5:
            return replace(taken[-1], notes=(why,), retry=True)
        return taken[-1]

    daemon = start(lambda daemon: setattr(daemon.recorder, "snapshot", take))
    found = daemon.settled()
    assert found["state"] == "ok", "the snapshot itself is whole"
    for count in range(2, 6):
        daemon.later(QUARTER)
        eventually(lambda count=count: len(taken) == count)
        daemon.settled()
    eventually(lambda: not daemon.of_model()["changed"])
    daemon.later(QUARTER)
    last = daemon.clock.now
    eventually(lambda: daemon.of_model()["last_run"] == last)
    assert len(taken) == 5
    assert daemon.lines.has("could not be pushed")


def test_files_that_may_do_harm_are_told(start: Start) -> None:
    def take(*_: Any) -> SnapshotReport:
        found = Danger("evil.pkl", "dangerous", "names os.system")
        return good("llama", findings=(found, Danger("own.pkl", "unknown", "names own.Net")))

    daemon = start(lambda daemon: setattr(daemon.recorder, "snapshot", take))
    eventually(lambda: daemon.lines.has("may do harm"))
    told = [line for line in daemon.lines.lines() if "may do harm" in line["event"]]
    assert [line["paths"] for line in told] == [["evil.pkl"]]


def test_a_model_that_is_not_stored_becomes_stale(start: Start) -> None:
    daemon = start()
    daemon.settled()
    daemon.recorder.failure = TargetUnreachableError("disk is absent")
    daemon.change()
    daemon.later(480)
    eventually(lambda: daemon.of_model()["failures"])
    assert not daemon.of_model()["stale"]
    daemon.clock.now += 2 * QUARTER
    assert daemon.of_model()["stale"]


def test_upkeep_runs_by_its_schedule_for_every_target(start: Start, tmp_path: Path) -> None:
    # Sunday 2026-07-05 03:00 UTC is three days and some hours away.
    upkeep = UpkeepSettings(
        forget="0 11 * * *", prune="30 11 * * *", check="0 12 * * *", read_data_percent=5.0
    )
    daemon = start(upkeep=upkeep, **with_nas(tmp_path))
    daemon.settled()
    assert daemon.recorder.count("forget") == 0
    daemon.later(86_400)
    eventually(
        lambda: (
            (
                daemon.recorder.count("forget"),
                daemon.recorder.count("prune"),
                daemon.recorder.count("check"),
            )
            == (1, 2, 2)
        )
    )
    assert ("check", "nas", 5.0) in daemon.recorder.calls


def test_damage_that_check_finds_is_told_and_not_looked_for_again_before_its_time(
    start: Start,
) -> None:
    damaged = CheckReport("disk", 1, 1, 1, 10, (Finding("disk", "packs/aa", "is truncated"),))
    daemon = start(
        lambda daemon: setattr(daemon.recorder, "check_report", damaged),
        upkeep=UpkeepSettings(forget="", prune="", check="0 11 * * *"),
    )
    daemon.later(86_400)
    eventually(lambda: daemon.lines.has("check found 1 damaged"))
    daemon.later(1800)
    time.sleep(0.2)
    assert daemon.recorder.count("check") == 1
    (upkeep,) = daemon.status()["upkeep"]
    assert "damaged" in upkeep["error"]
    assert daemon.lines.has("is truncated")


def test_a_snapshot_asked_for_is_taken_with_its_labels_and_followed(start: Start) -> None:
    step = threading.Event()

    def take(model: Any, labels: Mapping[str, str], progress: Any, stop: Any) -> SnapshotReport:
        progress.begin("store", 100)
        progress.advance(60, 1)
        progress.note("one file was left out")
        assert step.wait(PATIENCE_SECONDS)
        return good("llama", 7, labels=dict(labels))

    daemon = start()
    daemon.settled()
    daemon.recorder.snapshot = take
    events: list[Mapping[str, Any]] = []

    def on_event(event: Mapping[str, Any]) -> None:
        events.append(event)
        if event.get("done_bytes") == 60:
            step.set()

    (result,) = client.snapshot(
        daemon.state_dir,
        ["llama"],
        labels={"release": "1.0"},
        metrics={"loss": 0.5},
        on_event=on_event,
    )
    assert result.state == "done"
    assert result.report is not None
    assert result.report.snapshot is not None
    assert result.report.snapshot.name == "llama@v7"
    assert daemon.recorder.count("snapshot", "llama", {"release": "1.0"}, {"loss": 0.5}) == 1
    assert {"event": "note", "model": "llama", "message": "one file was left out"} in events
    assert any(event.get("phase") == "store" for event in events)


def test_a_snapshot_asked_for_without_waiting_is_queued(start: Start) -> None:
    daemon = start()
    daemon.settled()
    (result,) = client.snapshot(daemon.state_dir, [], wait=False)
    assert (result.model, result.state) == ("llama", "pending")
    eventually(lambda: daemon.recorder.count("snapshot") == 2)


def test_a_failed_snapshot_is_answered_with_its_exit_code(start: Start) -> None:
    daemon = start()
    daemon.settled()
    daemon.recorder.failure = TargetUnreachableError("disk is absent", hint="mount it")
    (result,) = client.snapshot(daemon.state_dir, ["llama"])
    assert (result.state, result.error, result.hint) == ("failed", "disk is absent", "mount it")
    assert result.exit_code == 5
    assert result.report is None


def test_an_unknown_model_is_refused_with_the_nearest_names(start: Start) -> None:
    daemon = start()
    with pytest.raises(client.DaemonRefusedError) as refused:
        client.snapshot(daemon.state_dir, ["lama"])
    assert refused.value.exit_code == 4
    assert "llama" in refused.value.hint


@pytest.mark.parametrize(
    "request_",
    [
        {"op": "fly"},
        {},
        {"op": "snapshot", "models": "llama"},
        {"op": "snapshot", "labels": {"a": 1}},
        {"op": "snapshot", "metrics": {"a": "x"}},
        {"op": "snapshot", "metrics": {"a": True}},
        {"op": "list", "model": 3},
        {"op": "list", "targets": [1]},
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    start: Start, request_: Mapping[str, Any]
) -> None:
    daemon = start()
    daemon.settled()
    with pytest.raises(client.DaemonRefusedError) as refused:
        client.ask(daemon.state_dir, request_)
    assert refused.value.exit_code == 2
    assert daemon.recorder.count("snapshot") == 1


def test_snapshots_are_listed_by_the_daemon(start: Start) -> None:
    daemon = start()
    found = client.list_snapshots(daemon.state_dir, model="llama", labels={"release": ""})
    assert [one.name for one in found] == ["llama@v1", "llama@v2"]
    (asked,) = (call[1] for call in daemon.recorder.calls if call[0] == "list")
    assert asked == {"model": "llama", "host": "", "labels": {"release": ""}, "targets": None}


def test_a_reload_takes_a_new_configuration_whole(start: Start, tmp_path: Path) -> None:
    daemon = start()
    daemon.settled()
    before = daemon.load()
    (tmp_path / "other").mkdir()
    daemon.configuration = replace(
        before,
        models={
            "llama": replace(before.models["llama"], schedule="* * * * *"),
            "other": model(tmp_path / "other", "other"),
        },
    )
    daemon.forget_heard()
    daemon.service.reload()
    eventually(lambda: daemon.said("READY=1"))
    assert any("RELOADING=1" in message for message in daemon.heard)
    eventually(lambda: daemon.recorder.count("snapshot", "other") == 1)
    assert daemon.settled()["next_run"] == NOW + 60
    assert daemon.status()["reload"]["error"] == ""
    daemon.configuration = replace(daemon.configuration, models=dict(before.models))
    daemon.service.reload()
    eventually(lambda: len(daemon.status()["models"]) == 1)


@pytest.mark.parametrize("wrong", ["refused", "state_dir", "bug"])
def test_a_reload_that_is_refused_changes_nothing_and_says_why(
    start: Start, tmp_path: Path, wrong: str
) -> None:
    daemon = start()
    daemon.settled()
    before = daemon.load()
    daemon.configuration = {
        "refused": ConfigError("models.x.path is missing", file="backupd.yaml", line=7),
        "state_dir": replace(before, state_dir=tmp_path / "elsewhere"),
        "bug": RuntimeError("boom"),
    }[wrong]
    daemon.forget_heard()
    daemon.service.reload()
    eventually(lambda: daemon.said("READY=1"))
    why = {"refused": "backupd.yaml:7: models.x.path is missing", "bug": "boom"}
    error = eventually(lambda: daemon.status()["reload"]["error"])
    assert why.get(wrong, "state_dir cannot change") in error
    assert daemon.lines.has("the old one stays")
    assert daemon.of_model()["schedule"] == "*/15 * * * *"
    daemon.configuration = before
    daemon.change()
    daemon.later(QUARTER)
    eventually(lambda: daemon.recorder.count("snapshot") == 2)


def test_it_ends_within_ten_seconds_and_a_running_snapshot_is_told_to_stop(start: Start) -> None:
    began = threading.Event()

    def take(model: Any, labels: Any, progress: Any, stop: threading.Event) -> SnapshotReport:
        began.set()
        assert stop.wait(PATIENCE_SECONDS)
        raise StoppedError("stopped; what was stored is kept")

    daemon = start(lambda daemon: setattr(daemon.recorder, "snapshot", take))
    assert began.wait(PATIENCE_SECONDS)
    replies: list[Any] = []
    asking = threading.Thread(
        target=lambda: replies.extend(client.snapshot(daemon.state_dir, ["llama"]))
    )
    asking.start()
    eventually(lambda: any(job["state"] == "pending" for job in daemon.status()["jobs"]))
    assert daemon.stop() < 10
    assert daemon.aborted == []
    asking.join(PATIENCE_SECONDS)
    assert [reply.state for reply in replies] == ["stopped"]
    assert daemon.codes == [0]
    daemon.hear_all()
    assert daemon.said("STOPPING=1")
    with pytest.raises(client.DaemonAbsentError):
        daemon.status()
    # Stopped is not done: it is the first thing at the next start.
    again = start(lambda daemon: setattr(daemon.clock, "now", NOW + 5))
    eventually(lambda: again.recorder.count("snapshot") == 1)


def test_a_snapshot_that_does_not_stop_does_not_keep_the_daemon(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert service.STOP_JOBS_SECONDS < service.STOP_SECONDS < 10
    monkeypatch.setattr(service, "STOP_JOBS_SECONDS", 0.5)
    began, hang = threading.Event(), threading.Event()

    def take(*_: Any) -> SnapshotReport:
        began.set()
        hang.wait(PATIENCE_SECONDS)
        return unchanged("llama")

    daemon = start(lambda daemon: setattr(daemon.recorder, "snapshot", take))
    assert began.wait(PATIENCE_SECONDS)
    assert daemon.stop() < 10
    assert daemon.aborted == [0]
    hang.set()


def test_the_watchdog_is_fed_by_the_loop_and_not_where_a_thread_of_it_died(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = start()
    eventually(lambda: daemon.said("WATCHDOG=1"))
    for kind in (JobQueue, ControlServer):
        asked: list[object] = []
        with monkeypatch.context() as patched:
            patched.setattr(kind, "alive", lambda self, asked=asked: bool(asked.append(self)))
            # The turn that was under way may feed it yet; the next ones must not.
            eventually(lambda asked=asked: asked)
            daemon.forget_heard()
            before = len(asked)
            eventually(lambda asked=asked, before=before: len(asked) > before + 5)
            daemon.hear_all()
            assert not daemon.said("WATCHDOG=1")
        eventually(lambda: daemon.said("WATCHDOG=1"))


def test_the_watchdog_is_not_fed_while_the_loop_is_stuck(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = start()
    eventually(lambda: daemon.said("WATCHDOG=1"))
    stuck, over = threading.Event(), threading.Event()

    def tick(engine: Engine) -> float:
        stuck.set()
        over.wait(PATIENCE_SECONDS)
        return 1.0

    with monkeypatch.context() as patched:
        patched.setattr(Engine, "tick", tick)
        assert stuck.wait(PATIENCE_SECONDS)
        daemon.forget_heard()
        time.sleep(0.5)
        daemon.hear_all()
        assert not daemon.said("WATCHDOG=1")
    over.set()
    eventually(lambda: daemon.said("WATCHDOG=1"))


def test_two_daemons_do_not_share_a_state_folder(start: Start, tmp_path: Path) -> None:
    first = start()
    second = Daemon(tmp_path, first.load())
    second.thread.start()
    second.thread.join(PATIENCE_SECONDS)
    second.close()
    (error,) = second.errors
    assert "runs in" in str(error)
    assert first.status()["ok"]


def test_a_key_that_is_absent_ends_the_start(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, settings(tmp_path, key=KeySettings(file=tmp_path / "absent")))

    def absent() -> str:
        raise WrongKeyError("the key file is absent")

    daemon.recorder.secret = absent
    daemon.thread.start()
    daemon.thread.join(PATIENCE_SECONDS)
    daemon.hear_all()
    daemon.close()
    (error,) = daemon.errors
    assert isinstance(error, WrongKeyError)
    assert not daemon.said("READY=1")


def test_the_log_names_the_model_the_snapshot_its_duration_and_bytes(start: Start) -> None:
    daemon = start()
    daemon.settled()
    (line,) = (one for one in daemon.lines.lines() if one["event"] == "snapshot done")
    assert line["model"] == "llama"
    assert line["snapshot"] == "llama@v1"
    assert line["bytes"] == 3000
    assert "duration_seconds" in line
    assert json.dumps(line)


def test_a_check_that_heals_mends_what_it_finds_and_says_so(start: Start) -> None:
    damaged = CheckReport("disk", 1, 1, 1, 10, (Finding("disk", "packs/aa", "is truncated"),))
    mended = Mended("packs/aa", "replace", "s3", "is truncated")

    def prepare(daemon: Any) -> None:
        daemon.recorder.check_report = damaged
        daemon.recorder.repair_report = RepairReport("disk", (mended,), (), False)

    daemon = start(
        prepare,
        upkeep=UpkeepSettings(forget="", prune="", check="0 11 * * *", heal=True),
    )
    daemon.later(86_400)
    eventually(lambda: daemon.lines.has("1 objects were mended"))
    assert daemon.lines.has("is truncated")

    def noted() -> Any:
        return next((one for one in daemon.status()["upkeep"] if one["note"]), None)

    upkeep = eventually(noted)
    assert not upkeep["error"]
    assert "mended" in upkeep["note"]


def test_a_check_that_cannot_heal_everything_fails_and_names_the_rest(start: Start) -> None:
    lost = Finding("disk", "packs/aa", "is truncated", snapshots=("llama@v1",))

    def prepare(daemon: Any) -> None:
        daemon.recorder.check_report = CheckReport("disk", 1, 1, 1, 10, (lost,))
        daemon.recorder.repair_report = RepairReport("disk", (), (lost,), False)

    daemon = start(
        prepare,
        upkeep=UpkeepSettings(forget="", prune="", check="0 11 * * *", heal=True),
    )
    daemon.later(86_400)
    eventually(lambda: daemon.lines.has("check found 1 damaged"))
    (upkeep,) = daemon.status()["upkeep"]
    assert "damaged" in upkeep["error"]


def test_a_drill_that_fails_is_told(start: Start) -> None:
    failed = DrillReport("llama@v1", "disk", 3, 10, 0, 0, {"w.bin": "is damaged"}, 0.1)
    daemon = start(
        lambda daemon: setattr(daemon.recorder, "drill_report", failed),
        upkeep=UpkeepSettings(forget="", prune="", check="", drill="0 11 * * *"),
    )
    daemon.later(86_400)
    eventually(lambda: daemon.lines.has("did not come back as they were stored"))
    (upkeep,) = daemon.status()["upkeep"]
    assert upkeep["job"] == "drill"
    assert "llama@v1" in upkeep["error"]
