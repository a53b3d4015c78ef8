"""Torn checkpoints are waited for, named, and never hide the last whole one."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backupd.capture.settle import immediate_rules, scheduled_rules
from backupd.operations.reports import SnapshotReport
from backupd.operations.settle_plan import NotSettledError, Settling
from backupd.operations.snapshot import take_snapshot
from tests.support.world import MODEL, World, make_world, manifest_of, scratch

NOW = Settling(immediate_rules(1))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with scratch(tmp_path / "world") as root:
        yield make_world(root, size=1000)


def state(number: int, count: int = 50_000) -> bytes:
    header = {"w": {"dtype": "U8", "shape": [count], "data_offsets": [0, count]}}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes([number]) * count


def take(world: World, settling: Settling | None = None, **said: object) -> SnapshotReport:
    with world.open() as installation:
        model = world.settings.models[MODEL]
        return take_snapshot(installation, model, settling=settling, **said)  # type: ignore[arg-type]


def held(world: World, report: SnapshotReport, path: str) -> bytes | None:
    assert report.snapshot is not None
    with scratch(world.root / "out") as out:
        world.restore(report.snapshot.version, out)
        found = out / path
        return found.read_bytes() if found.exists() else None


def test_a_torn_file_is_named_and_the_last_whole_state_of_it_is_kept(world: World) -> None:
    last = world.model_path / "last.safetensors"
    last.write_bytes(state(1))
    (world.model_path / "notes.txt").write_text("one")
    assert not take(world).partial
    last.write_bytes(state(2)[:-1])
    (world.model_path / "notes.txt").write_text("two")
    report = take(world, NOW)
    assert report.partial and not report.unchanged and report.snapshot is not None
    assert report.snapshot.incomplete == report.incomplete
    assert report.incomplete[0].startswith("last.safetensors: ends early")
    assert report.incomplete[0].endswith("; kept as v1 has it")
    assert held(world, report, "last.safetensors") == state(1)
    assert held(world, report, "notes.txt") == b"two"
    last.write_bytes(state(2))
    healed = take(world, NOW)
    assert not healed.partial and held(world, healed, "last.safetensors") == state(2)


def test_a_torn_file_that_was_never_whole_is_left_out_and_said_again(world: World) -> None:
    (world.model_path / "first.pt").write_bytes(b"PK\3\4" + bytes(1000))
    report = take(world, NOW)
    assert report.partial and held(world, report, "first.pt") is None
    again = take(world, NOW)
    assert again.unchanged and again.partial and again.incomplete == report.incomplete


def test_what_only_looks_torn_is_stored_and_named_where_the_model_says_so(world: World) -> None:
    odd = b"PK\3\4" + bytes(1000)
    (world.model_path / "odd.pt").write_bytes(odd)
    with world.open() as installation:
        model = replace(world.settings.models[MODEL], keep_torn=True)
        report = take_snapshot(installation, model, settling=NOW)
    assert report.partial and report.snapshot is not None
    assert report.incomplete[0].startswith("odd.pt: ")
    assert report.incomplete[0].endswith("; stored as it is, as keep_torn says")
    assert report.snapshot.incomplete == report.incomplete
    assert held(world, report, "odd.pt") == odd


def test_a_file_in_the_making_is_waited_for(world: World) -> None:
    path = world.model_path / "last.safetensors"
    path.write_bytes(state(1)[:1000])

    def finish() -> None:
        time.sleep(0.4)
        path.write_bytes(state(1))

    thread = threading.Thread(target=finish)
    thread.start()
    report = take(world, Settling(scheduled_rules(0.1, 30)))
    thread.join()
    assert not report.partial and held(world, report, "last.safetensors") == state(1)


def test_one_who_does_not_wait_here_is_told_when_to_look_again(world: World) -> None:
    take(world)
    (world.model_path / "last.safetensors").write_bytes(state(1))
    with pytest.raises(NotSettledError, match=r"last\.safetensors changed \d+ s ago") as caught:
        take(world, Settling(scheduled_rules(300, 3600), wait_here=False))
    assert 200 < caught.value.seconds <= 300


def test_a_file_that_another_process_writes_is_not_taken_though_it_looks_whole(
    world: World,
) -> None:
    path = world.model_path / "state.npy"
    program = (
        "import sys, time, numpy as np\n"
        "np.save(sys.argv[1], np.zeros(1000))\n"
        "file = open(sys.argv[1], 'r+b')\n"
        "print('open', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        report = take(world, NOW)
        assert report.partial
        assert "is open for writing by python" in report.incomplete[0]
        assert str(process.pid) in report.incomplete[0]
        process.stdin.close()
    assert not take(world, NOW).partial


def test_a_log_that_is_always_open_holds_nothing_up(world: World) -> None:
    take(world)
    log = world.model_path / "train.log"
    program = "import sys\nopen(sys.argv[1], 'w').write('x')\nf = open(sys.argv[1], 'a')\n"
    program += "print(flush=True)\nsys.stdin.read()\n"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(log)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        began = time.monotonic()
        report = take(world, Settling(scheduled_rules(200, 3600)))
        assert time.monotonic() - began < 150 and not report.partial
        assert process.stdin is not None
        process.stdin.close()
    assert held(world, report, "train.log") == b"x"


def test_half_a_trainers_checkpoint_is_left_out_with_all_that_lies_in_it(world: World) -> None:
    folder = world.model_path / "checkpoint-500"
    folder.mkdir()
    for name in ("model.safetensors", "optimizer.pt", "tokenizer.txt"):
        (folder / name).write_bytes(state(1) if name.startswith("model") else b"x")
    report = take(world, NOW)
    assert report.partial
    assert all("trainer_state.json" in line for line in report.incomplete)
    assert held(world, report, "checkpoint-500/model.safetensors") is None
    assert held(world, report, "checkpoint-500/tokenizer.txt") is None
    (folder / "trainer_state.json").write_text('{"global_step": 500}')
    report = take(world, NOW)
    assert not report.partial
    assert held(world, report, "checkpoint-500/model.safetensors") == state(1)


def test_a_checkpoint_that_is_written_anew_is_kept_in_all_its_files(world: World) -> None:
    """The trainer deletes a folder and fills it again: the last file of it is not there yet."""
    folder = world.model_path / "dcp"
    folder.mkdir()
    (folder / "__0_0.distcp").write_bytes(b"one")
    (folder / ".metadata").write_bytes(b"of one")
    assert not take(world, NOW).partial
    (folder / ".metadata").unlink()
    (folder / "__0_0.distcp").write_bytes(b"two")
    (world.model_path / "notes.txt").write_text("new")
    report = take(world, NOW)
    assert report.partial
    assert held(world, report, "dcp/__0_0.distcp") == b"one"
    assert held(world, report, "dcp/.metadata") == b"of one"
    assert take(world, NOW).unchanged
    (folder / ".metadata").write_bytes(b"of two")
    report = take(world, NOW)
    assert not report.partial and held(world, report, "dcp/.metadata") == b"of two"
    (folder / ".metadata").unlink()
    report = take(world, NOW)
    assert "it is kept without that" in report.incomplete[0]
    assert held(world, report, "dcp/.metadata") is None, "what was deleted is deleted"
    assert held(world, report, "dcp/__0_0.distcp") == b"two"


def test_a_checkpoint_deleted_by_rotation_while_it_is_read_is_looked_at_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer removes checkpoint-1 after its first file was read."""
    for number in (1, 2):
        folder = world.model_path / f"checkpoint-{number}"
        folder.mkdir()
        for name in ("model.safetensors", "optimizer.bin", "scheduler.bin"):
            (folder / name).write_bytes(state(number))
        (folder / "trainer_state.json").write_text("{}")
    from backupd.operations.tree_sink import TreeSink

    accept = TreeSink.accept
    gone = threading.Event()

    def accepting(sink: TreeSink, *given: object) -> None:
        if not gone.is_set():
            gone.set()
            for path in (world.model_path / "checkpoint-1").iterdir():
                path.unlink()
            (world.model_path / "checkpoint-1").rmdir()
        accept(sink, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(TreeSink, "accept", accepting)
    report = take(world, NOW)
    assert gone.is_set() and not report.partial and report.snapshot is not None
    world.expected[report.snapshot.version] = manifest_of(world.model_path)
    world.highest = report.snapshot.version
    world.verify()


def test_a_file_renamed_over_meanwhile_is_taken_in_its_new_state(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = world.model_path / "last.safetensors"
    path.write_bytes(state(1))
    import backupd.operations.settling as settling

    settle = settling.settle

    def settled_then_replaced(*given: object, **more: object) -> object:
        plan = settle(*given, **more)  # type: ignore[arg-type]
        new = path.with_suffix(".tmp")
        new.write_bytes(state(2))
        os.replace(new, path)
        return plan

    monkeypatch.setattr(settling, "settle", settled_then_replaced)
    report = take(world, NOW)
    assert not report.partial and held(world, report, "last.safetensors") == state(2)


def test_step_and_epoch_come_back(world: World) -> None:
    report = take(world, NOW, step=500, epoch=1.25, metrics={"loss": 0.5})
    assert report.snapshot is not None
    assert (report.snapshot.step, report.snapshot.epoch) == (500, 1.25)
