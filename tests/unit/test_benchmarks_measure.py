"""What the benchmark says of a command is what the command did."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.measure import Command, CommandFailedError, Cost, disk_bytes, run

HOLD_96_MIB = "import time; held = b'x' * (96 << 20); time.sleep(1.5)"


def python(code: str) -> Command:
    return Command((sys.executable, "-c", code))


def test_peak_memory_is_that_of_the_command() -> None:
    peak = run(python(HOLD_96_MIB)).peak_bytes
    assert 96 << 20 < peak < 160 << 20


def test_peak_memory_adds_up_the_processes_of_a_tree() -> None:
    code = f"import subprocess, sys; {HOLD_96_MIB}; " + (
        f"subprocess.run([sys.executable, '-c', {HOLD_96_MIB!r}])"
    )
    assert run(python(code)).peak_bytes > 2 * (96 << 20)


def test_peak_memory_leaves_out_that_of_the_measuring_program() -> None:
    ballast = bytearray(128 << 20)
    assert run(Command(("true",))).peak_bytes < len(ballast) // 2


def test_cpu_time_includes_the_children_of_the_command() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    cost = run(python(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"))
    assert cost.cpu_seconds >= 0.3


def test_waiting_costs_wall_time_and_no_cpu_time() -> None:
    cost = run(Command(("sleep", "0.3")))
    assert cost.seconds >= 0.3
    assert cost.cpu_seconds < 0.1


def test_a_command_that_fails_is_told_with_its_words() -> None:
    with pytest.raises(CommandFailedError, match=r"code 3: the disk is gone"):
        run(Command(("sh", "-c", "echo the disk is gone >&2; exit 3")))


def test_costs_add_up_but_for_the_peak() -> None:
    total = Cost(1.0, 2.0, 30, 0.5) + Cost(3.0, 1.0, 20, 0.1)
    assert total == Cost(4.0, 3.0, 30, pytest.approx(0.2))


def test_disk_bytes_is_the_sum_of_file_sizes(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "one").write_bytes(b"1" * 10)
    (tmp_path / "inner" / "two").write_bytes(b"2" * 32)
    assert disk_bytes(tmp_path) == 42
