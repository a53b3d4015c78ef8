"""Parsers with one fault each, which the fuzzer has to find for its silence to mean anything."""

from __future__ import annotations

from backupd.capture.containers import Layout, TensorRegion
from backupd.capture.containers.bounded import MalformedError
from tests.support.layouts import check_layout
from tests.torture.fuzzing.target import Target


def behind_a_mark(data: bytes) -> None:
    """Fails where three bytes are right, which nobody guesses who is not told of each."""
    if len(data) > 2 and data[0] == 102 and data[1] == 117 and data[2] == 122:
        [][len(data)]
    raise MalformedError("no mark")


def leaving_the_file(data: bytes) -> None:
    check_layout(Layout("x", (TensorRegion("a", "u8", (9,), len(data), 9),)), len(data))


def large(data: bytes) -> None:
    if len(data) > 4:
        b"x" * (100 << 20)


def claimed(data: bytes) -> None:
    if len(data) > 4:
        bytearray(4 << 30)


def slow(data: bytes) -> None:
    if len(data) > 4:
        sum(range(20_000_000))


def endless(data: bytes) -> None:
    while len(data) > 4:
        pass


def sound(data: bytes) -> None:
    if len(data) > 4:
        raise MalformedError("too long")


TARGETS = {
    "IndexError": Target(behind_a_mark, (b"x",), (MalformedError,)),
    "AssertionError": Target(leaving_the_file, ()),
    "bytes of memory": Target(large, (b"x",)),
    "MemoryError": Target(claimed, (b"x",)),
    "took ": Target(slow, (b"x",), seconds=0.1),
    "timeout": Target(endless, (b"x",), seconds=0.1),
    "Done": Target(sound, (b"x", b"longer"), (MalformedError,)),
}
"""By what is said of the fault."""
