from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from backupd.daemon.state import JobRecord, StateStore, TargetRecord, failed, succeeded


def test_records_come_back_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    store = StateStore(path)
    record = JobRecord(
        first_seen=1.5,
        last_run=2.5,
        last_good=3.5,
        snapshot="llama@v3",
        error="nas: absent",
        failures=2,
        targets={"disk": TargetRecord(2.5, 3), "nas": TargetRecord(0.0, 0, "absent", 2.5)},
    )
    store.change("snapshot:llama", lambda before: record)
    store.save()
    assert StateStore(path).get("snapshot:llama") == record
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_was_not_saved_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    StateStore(path).change("a", lambda record: replace(record, last_run=1.0))
    assert not path.exists()
    assert StateStore(path).get("a") == JobRecord()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\x00" * 100,
        b"[]",
        b'{"format": 2, "jobs": {}}',
        b'{"format": 1}',
        b'{"format": 1, "jobs": {"a": 3}}',
        b'{"format": 1, "jobs": {"a": {"targets": [1]}}}',
        b'{"format": 1, "jobs": {"a": {"targets": {"x": 3}}}}',
    ],
)
def test_a_broken_file_is_said_and_not_fatal(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(data)
    store = StateStore(path)
    assert str(path) in store.problem
    assert store.get("a") == JobRecord()
    store.change("a", lambda record: replace(record, last_run=1.0))
    store.save()
    again = StateStore(path)
    assert again.problem == ""
    assert again.get("a").last_run == 1.0


def test_fields_of_another_version_or_type_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    job = {"last_run": "soon", "last_good": 7, "failures": True, "colour": "red", "error": None}
    path.write_text(json.dumps({"format": 1, "jobs": {"a": job}}))
    store = StateStore(path)
    assert store.problem == ""
    assert store.get("a") == JobRecord(last_good=7)


def test_a_write_that_fails_leaves_the_old_file_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.json"
    store = StateStore(path)
    store.change("a", lambda record: replace(record, last_run=1.0))
    store.save()
    store.change("a", lambda record: replace(record, last_run=2.0))

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", no_space)
        with pytest.raises(OSError, match="No space"):
            store.save()
    assert StateStore(path).get("a").last_run == 1.0
    store.save()
    assert StateStore(path).get("a").last_run == 2.0


def test_records_of_jobs_that_are_gone_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    store = StateStore(path)
    for key in ("a", "b"):
        store.change(key, lambda record: replace(record, last_run=1.0))
    store.keep_only(frozenset({"b"}))
    store.save()
    again = StateStore(path)
    assert again.get("a") == JobRecord()
    assert again.get("b").last_run == 1.0


def test_failures_count_up_until_a_run_is_good() -> None:
    record = JobRecord()
    for _ in range(3):
        record = failed(record, started=5.0, now=6.0, error="away", retry=True)
    assert (record.failures, record.error, record.error_time) == (3, "away", 6.0)
    assert record.last_good == 0.0
    record = succeeded(record, started=9.0)
    assert (record.failures, record.error, record.last_good, record.last_run) == (0, "", 9.0, 9.0)
