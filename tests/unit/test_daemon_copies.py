"""What each target is owed: remembered over restarts, tried with back-off, at once on return."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from backupd.daemon.copies import (
    LOOK_SECONDS,
    after_copy,
    after_snapshot,
    at_once,
    failing,
    is_thorough,
    next_copy,
    target_state,
)
from backupd.daemon.queue import Job, JobQueue, Kind, Outcome, State, Ticket
from backupd.daemon.returns import Returns
from backupd.daemon.state import StateStore, TargetRecord
from backupd.operations.reports import SnapshotReport, TargetResult
from tests.unit.daemon_fakes import PATIENCE_SECONDS, eventually, info, model

SINCE = 1_000.0
GOOD = TargetRecord(last_good=2_000.0, version=3, looked=2_000.0)


def report(*results: TargetResult, on: tuple[str, ...] = ("disk",)) -> SnapshotReport:
    return SnapshotReport("llama", False, info("llama", 4, targets=on), results)


def after(found: SnapshotReport, **targets: TargetRecord) -> dict[str, TargetRecord]:
    configured = model(Path("/srv"), targets={"disk": (), "nas": (), "s3": ()})
    return after_snapshot(targets, configured, found, started=3_000.0, now=3_001.0)


def test_a_snapshot_is_stored_pending_or_failed_on_each_target() -> None:
    found = after(
        report(
            TargetResult("disk", 4, 900),
            TargetResult("nas", 4, 0, pending=True),
            TargetResult("s3", 0, 0, "no route to host"),
        ),
        disk=GOOD,
        nas=GOOD,
        s3=GOOD,
    )
    assert found["disk"] == replace(GOOD, last_good=3_000.0, version=4)
    assert found["nas"] == replace(GOOD, owed=1)
    assert (found["s3"].owed, found["s3"].version, found["s3"].failed_since) == (1, 3, 3_001.0)
    states = {name: target_state("llama", name, target, ()) for name, target in found.items()}
    assert states == {"disk": "stored", "nas": "pending", "s3": "failed"}
    assert target_state("llama", "new", TargetRecord(), ()) == "new"
    running = Ticket(Job(Kind.COPY, "llama", target="nas"), threading.Event())
    running.state = State.RUNNING
    assert target_state("llama", "nas", found["nas"], [running]) == "copying"


def test_a_target_that_took_a_snapshot_may_still_be_owed_older_ones() -> None:
    away = failing(replace(GOOD, owed=2), "away", owed=0, now=2_500.0)
    found = after(report(TargetResult("disk", 4, 900)), disk=away)["disk"]
    assert (found.owed, found.error, found.failed_since, found.failures) == (2, "", 0.0, 0)
    # They lie below the one that it took, so that its newest alone does not tell of them.
    assert is_thorough(found, since=SINCE, now=3_002.0)


def test_what_is_taken_while_a_copy_runs_is_still_owed_after_it() -> None:
    meanwhile = replace(GOOD, owed=3)
    results = [TargetResult("nas", 5, 900)]
    found = after_copy(meanwhile, results, owed=2, thorough=False, now=4_000.0)
    assert (found.owed, found.version, found.last_good) == (1, 5, 4_000.0)
    assert found.looked == GOOD.looked
    assert after_copy(meanwhile, results, owed=3, thorough=True, now=4_000.0).looked == 4_000.0


def test_a_copy_that_could_not_be_whole_is_tried_again() -> None:
    results = [TargetResult("nas", 5, 900), TargetResult("nas", 4, 0, "a pack is damaged")]
    found = after_copy(replace(GOOD, owed=2), results, owed=2, thorough=True, now=4_000.0)
    assert (found.version, found.owed, found.error) == (5, 2, "a pack is damaged")
    assert next_copy(found, since=SINCE, now=4_001.0) == 4_060.0


def test_when_a_target_is_brought_up_to_date() -> None:
    def due(target: TargetRecord, now: float = 3_000.0) -> float:
        return next_copy(target, since=SINCE, now=now)

    assert due(GOOD) == 2_000.0 + LOOK_SECONDS
    assert due(replace(GOOD, owed=1)) == 3_000.0
    # Looked at before this daemon began, or by a clock that was wrong.
    assert due(replace(GOOD, looked=900.0)) == 3_000.0
    assert due(replace(GOOD, looked=9e9)) == 3_000.0
    failed = GOOD
    for delay in (60, 120, 240, 480, 960, 1800, 1800):
        failed = failing(failed, "away", owed=0, now=3_000.0)
        assert due(failed) == 3_000.0 + delay
    assert failed.failed_since == 3_000.0
    assert due(at_once(failed)) <= 3_000.0


def test_all_is_compared_at_first_daily_and_after_a_failure() -> None:
    def thorough(target: TargetRecord, now: float = 3_000.0) -> bool:
        return is_thorough(target, since=SINCE, now=now)

    assert not thorough(replace(GOOD, owed=1))
    assert thorough(replace(GOOD, looked=0.0))
    assert thorough(GOOD, 2_000.0 + LOOK_SECONDS)
    assert thorough(failing(GOOD, "away", owed=1, now=2_500.0))


def test_each_target_has_a_worker_so_that_one_that_hangs_holds_up_no_other() -> None:
    hang = threading.Event()
    done: list[str] = []

    def perform(job: Job, progress: object, stop: threading.Event) -> Outcome:
        if job.target == "nas":
            hang.wait(PATIENCE_SECONDS)
        done.append(job.key)
        return Outcome(State.DONE)

    queue = JobQueue(perform)
    queue.serve_targets(["nas"])
    queue.start()
    queue.serve_targets(["nas", "s3"])
    queue.submit(Job(Kind.COPY, "llama", target="nas"))
    queue.submit(Job(Kind.COPY, "llama", target="s3"))
    queue.submit(Job(Kind.SNAPSHOT, "llama"))
    queue.submit(Job(Kind.CHECK, "nas"))
    eventually(lambda: len(done) == 3)
    assert "copy:llama@nas" not in done
    assert queue.is_busy("copy:llama@nas")
    hang.set()
    eventually(lambda: "copy:llama@nas" in done)
    queue.stop()
    assert queue.join(PATIENCE_SECONDS)


class Place:
    """A target that answers or does not."""

    def __init__(self, *, there: bool) -> None:
        self.there = there
        self.asked = 0
        self.back: list[str] = []
        self.returns = Returns(
            self.answers, on_return=self.back.append, ask_seconds=lambda name: 0.01
        )

    def answers(self, name: str) -> bool:
        self.asked += 1
        return self.there

    def ask_more(self) -> None:
        before = self.asked
        eventually(lambda: self.asked > before + 2)


def test_a_target_that_is_away_is_noticed_when_it_is_back_each_time_once() -> None:
    place = Place(there=False)
    place.returns.watch(["nas"])
    for times in (1, 2):
        place.ask_more()
        place.there = True
        place.ask_more()
        assert place.back == ["nas"] * times
        place.there = False
    place.returns.close()


def test_a_target_that_answers_all_along_is_not_back_and_one_that_works_is_not_asked() -> None:
    place = Place(there=True)
    place.returns.watch(["nas"])
    place.ask_more()
    assert place.back == []
    place.returns.watch([])
    eventually(lambda: all(thread.name != "return-nas" for thread in threading.enumerate()))
    asked = place.asked
    time.sleep(0.1)
    assert place.asked == asked


@pytest.mark.parametrize("wrong", ["owed", "failures"])
def test_a_state_file_of_before_is_read(wrong: str, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    target = {"last_good": 5.0, "version": 2, "error": "", "error_time": 0.0, wrong: "x"}
    jobs = {"snapshot:llama": {"targets": {"nas": target}}}
    path.write_text(json.dumps({"format": 1, "jobs": jobs}))
    found = StateStore(path).get("snapshot:llama").targets["nas"]
    assert found == TargetRecord(last_good=5.0, version=2)
