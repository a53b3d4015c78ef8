from __future__ import annotations

import threading
import time

import pytest

from backupd.daemon.queue import Job, JobQueue, Kind, Outcome, State, Ticket
from backupd.operations.progress import Progress
from tests.unit.daemon_fakes import eventually


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
        assert made.join(5)

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
    assert second.ended.wait(5)


def test_a_model_has_one_job_at_a_time_and_others_go_on(queue: JobQueue, gate: Gate) -> None:
    tickets = [queue.submit(snapshot("a", n=str(number))) for number in range(5)]
    other = queue.submit(snapshot("b"))
    eventually(lambda: other.state is State.RUNNING)
    assert [ticket.state for ticket in tickets].count(State.RUNNING) == 1
    gate.open.set()
    for ticket in tickets:
        assert ticket.ended.wait(5)
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
    assert prune.ended.wait(5)


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
    assert running.ended.wait(5)
    assert running.state is State.STOPPED
    assert waiting.outcome is not None
    assert waiting.outcome.state is State.STOPPED
    assert queue.join(5)
    late = queue.submit(snapshot("b"))
    assert late.state is State.STOPPED


def test_a_job_that_will_not_stop_does_not_hold_up_the_end() -> None:
    hang = threading.Event()

    def perform(job: Job, progress: Progress, stop: threading.Event) -> Outcome:
        hang.wait(30)
        return Outcome(State.DONE)

    queue = JobQueue(perform)
    queue.start()
    ticket = queue.submit(snapshot("a"))
    eventually(lambda: ticket.state is State.RUNNING)
    queue.stop()
    before = time.monotonic()
    assert not queue.join(0.2)
    assert time.monotonic() - before < 2
    hang.set()
    assert queue.join(5)


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
    assert good.ended.wait(5)
    assert bad.outcome is not None
    assert "boom" in bad.outcome.error
    assert [str(error) for error in told] == ["boom"]
    assert queue.alive()
    assert not queue.is_busy("snapshot:bad")
    queue.stop()
    assert queue.join(5)
    assert len(ended) == 2
