from __future__ import annotations

import threading
import time

import pytest

from backupd.daemon.queue import Job, JobQueue, Kind, Later, Outcome, State, Ticket
from backupd.operations.progress import Progress
from tests.unit.daemon_fakes import PATIENCE_SECONDS, eventually


class Gate:
    """Jobs that begin, note so, and end when they are let go or stopped."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.running: list[str] = []
        self.most: dict[str, int] = {}
        self.began: list[Job] = []
        self.open = threading.Event()

    def __call__(self, job: Job, progress: Progress, stop: threading.Event) -> Outcome:
        with self.lock:
            self.began.append(job)
            self.running.append(job.key)
            count = self.running.count(job.key)
            self.most[job.key] = max(self.most.get(job.key, 0), count)
        progress.begin("store", 100)
        progress.advance(40, 2)
        progress.note("half way")
        while not self.open.wait(0.005):
            if stop.is_set():
                break
        with self.lock:
            self.running.remove(job.key)
        return Outcome(State.STOPPED if stop.is_set() else State.DONE)


def snapshot(name: str, **labels: str) -> Job:
    return Job(Kind.SNAPSHOT, name, labels=tuple(labels.items()))


@pytest.fixture
def gate(request: pytest.FixtureRequest) -> Gate:
    return Gate()


@pytest.fixture
def queue(gate: Gate, request: pytest.FixtureRequest) -> JobQueue:
    made = JobQueue(gate, snapshot_workers=2)
    made.start()

    def end() -> None:
        made.stop()
        assert made.join(PATIENCE_SECONDS)

    request.addfinalizer(end)
    return made


def test_equal_jobs_that_wait_are_one(queue: JobQueue, gate: Gate) -> None:
    first = queue.submit(snapshot("a"))
    eventually(lambda: first.state is State.RUNNING)
    # The running one may have read what has changed since; the next two are the same.
    second, third = queue.submit(snapshot("a")), queue.submit(snapshot("a"))
    assert second is third
    assert second is not first
    # Another label is another job, and why it runs is not.
    assert queue.submit(snapshot("a", release="1")) is not second
    assert queue.submit(Job(Kind.SNAPSHOT, "a", reason="schedule")) is second
    gate.open.set()
    assert second.ended.wait(PATIENCE_SECONDS)


def test_a_model_has_one_job_at_a_time_and_others_go_on(queue: JobQueue, gate: Gate) -> None:
    tickets = [queue.submit(snapshot("a", n=str(number))) for number in range(5)]
    other = queue.submit(snapshot("b"))
    eventually(lambda: other.state is State.RUNNING)
    assert [ticket.state for ticket in tickets].count(State.RUNNING) == 1
    gate.open.set()
    for ticket in tickets:
        assert ticket.ended.wait(PATIENCE_SECONDS)
    assert gate.most["snapshot:a"] == 1
    assert [job.labels for job in gate.began if job.name == "a"] == [t.job.labels for t in tickets]


def test_no_more_run_than_there_are_workers(queue: JobQueue, gate: Gate) -> None:
    for name in "abcd":
        queue.submit(snapshot(name))
    eventually(lambda: len(gate.running) == 2)
    time.sleep(0.05)
    assert sorted(gate.running) == ["snapshot:a", "snapshot:b"]
    assert len(queue.tickets()) == 4


def test_upkeep_does_not_hold_up_snapshots_nor_they_it(queue: JobQueue, gate: Gate) -> None:
    jobs = [Job(Kind.CHECK, "disk"), Job(Kind.PRUNE, "disk"), snapshot("a"), snapshot("b")]
    check, prune, one, two = (queue.submit(job) for job in jobs)
    eventually(lambda: {t.state for t in (check, one, two)} == {State.RUNNING})
    assert prune.state is State.PENDING
    gate.open.set()
    assert prune.ended.wait(PATIENCE_SECONDS)


def test_progress_of_a_job_can_be_seen_while_it_runs(queue: JobQueue, gate: Gate) -> None:
    ticket = queue.submit(snapshot("a"))
    eventually(lambda: ticket.progress.notes())
    assert ticket.progress.seen() == {
        "phase": "store",
        "done_bytes": 40,
        "total_bytes": 100,
        "items": 2,
    }
    assert ticket.progress.notes() == ("half way",)


def test_stopping_stops_what_runs_and_drops_what_waits(queue: JobQueue, gate: Gate) -> None:
    running, waiting = queue.submit(snapshot("a")), queue.submit(snapshot("a", x="y"))
    eventually(lambda: running.state is State.RUNNING)
    queue.stop()
    assert running.ended.wait(PATIENCE_SECONDS)
    assert running.state is State.STOPPED
    assert waiting.outcome is not None
    assert waiting.outcome.state is State.STOPPED
    assert queue.join(PATIENCE_SECONDS)
    late = queue.submit(snapshot("b"))
    assert late.state is State.STOPPED


def test_a_job_that_will_not_stop_does_not_hold_up_the_end() -> None:
    hang = threading.Event()

    def perform(job: Job, progress: Progress, stop: threading.Event) -> Outcome:
        hang.wait(PATIENCE_SECONDS)
        return Outcome(State.DONE)

    queue = JobQueue(perform)
    queue.start()
    ticket = queue.submit(snapshot("a"))
    eventually(lambda: ticket.state is State.RUNNING)
    queue.stop()
    before = time.monotonic()
    assert not queue.join(0.2)
    assert time.monotonic() - before < PATIENCE_SECONDS / 2
    hang.set()
    assert queue.join(PATIENCE_SECONDS)


def test_a_crash_in_a_job_ends_the_job_and_not_the_worker() -> None:
    told: list[BaseException] = []
    ended: list[Ticket] = []

    def perform(job: Job, progress: Progress, stop: threading.Event) -> Outcome:
        if job.name == "bad":
            raise RuntimeError("boom")
        return Outcome(State.DONE)

    queue = JobQueue(
        perform,
        snapshot_workers=1,
        on_crash=lambda job, error: told.append(error),
        on_end=lambda: ended.append(bad),
    )
    bad = queue.submit(snapshot("bad"))
    good = queue.submit(snapshot("good"))
    queue.start()
    assert good.ended.wait(PATIENCE_SECONDS)
    assert bad.outcome is not None
    assert "boom" in bad.outcome.error
    assert [str(error) for error in told] == ["boom"]
    assert queue.alive()
    assert not queue.is_busy("snapshot:bad")
    queue.stop()
    assert queue.join(PATIENCE_SECONDS)
    assert len(ended) == 2


def test_a_job_that_cannot_be_done_yet_waits_without_a_worker() -> None:
    tries: list[str] = []
    ready = threading.Event()

    def perform(job: Job, progress: Progress, stop: threading.Event) -> Outcome | Later:
        tries.append(job.name)
        if job.name == "unsettled" and not ready.is_set():
            return Later(0.05, "last.pt is open for writing by python (pid 7)")
        return Outcome(State.DONE)

    queue = JobQueue(perform, snapshot_workers=1)
    queue.start()
    waiting = queue.submit(snapshot("unsettled"))
    eventually(lambda: tries.count("unsettled") > 1)
    assert queue.is_busy(waiting.job.key) and not waiting.ended.is_set()
    other = queue.submit(snapshot("other"))
    assert other.ended.wait(PATIENCE_SECONDS), "the only worker was free"
    notes = waiting.progress.notes()
    assert notes == ("waiting: last.pt is open for writing by python (pid 7)",), "said once"
    ready.set()
    assert waiting.ended.wait(PATIENCE_SECONDS) and waiting.outcome == Outcome(State.DONE)
    queue.stop()
    assert queue.join(PATIENCE_SECONDS)


def test_a_job_that_waits_is_ended_by_a_stop() -> None:
    queue = JobQueue(lambda *_: Later(60, "it is being written"), snapshot_workers=1)
    queue.start()
    ticket = queue.submit(snapshot("llama"))
    eventually(lambda: ticket.not_before > 0)
    queue.stop()
    assert ticket.ended.wait(PATIENCE_SECONDS)
    assert ticket.outcome is not None and ticket.outcome.state is State.STOPPED
    assert queue.join(PATIENCE_SECONDS)


def test_of_what_a_trainer_says_the_newest_stands_for_all_that_wait(
    queue: JobQueue, gate: Gate
) -> None:
    said = [Job(Kind.SNAPSHOT, "llama", step=step, asked=True, newest=True) for step in range(1, 5)]
    first = queue.submit(said[0])
    eventually(lambda: bool(gate.began))
    later = [queue.submit(job) for job in said[1:]]
    by_hand = queue.submit(snapshot("llama", release="1.0"))
    assert len(set(map(id, later))) == 1 and by_hand is not later[0]
    gate.open.set()
    assert all(ticket.ended.wait(PATIENCE_SECONDS) for ticket in (first, later[0], by_hand))
    assert [job.step for job in gate.began] == [1, 4, None]
