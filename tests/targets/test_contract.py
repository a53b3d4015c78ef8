"""What every target promises, held against each kind of target in turn."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from backupd.errors import BackupdError, ObjectMissingError, TargetError
from backupd.targets.base import ObjectInfo, Target

AtOnce = Callable[[int, Callable[[int], Any]], list[Any]]
MiB = 1 << 20


def names(target: Target, prefix: str) -> list[str]:
    return [info.name for info in target.list(prefix)]


def test_an_object_is_the_parts_put_together_and_read_back(target: Target) -> None:
    parts = [b"one", bytearray(b""), memoryview(b"-two-"), b"", bytearray(b"three")]
    target.put("packs/aa/aa01", parts)
    assert target.get("packs/aa/aa01", 100) == b"one-two-three"
    assert target.stat("packs/aa/aa01") is not None


def test_an_object_without_a_byte_is_an_object(target: Target) -> None:
    for number, parts in enumerate(([], [b""], [b"", bytearray()])):
        name = f"index/empty{number}"
        target.put(name, parts)
        found = target.stat(name)
        assert found is not None
        assert found.size_bytes == 0
        assert target.get(name, 0) == b""
        target.read_into(name, 0, memoryview(bytearray()))
    assert target.put_if_absent("index/empty3", [])
    assert not target.put_if_absent("index/empty3", [b"more"])


def test_views_of_wider_numbers_and_thousands_of_parts_are_stored_in_order(target: Target) -> None:
    wide = memoryview(bytearray(range(256)) * 4).cast("I")
    parts = [wide, *(number.to_bytes(2, "big") for number in range(3000))]
    target.put("packs/ab/wide", parts)
    expected = bytes(range(256)) * 4 + b"".join(n.to_bytes(2, "big") for n in range(3000))
    assert target.get("packs/ab/wide", 1 << 20) == expected


def test_an_object_of_64_mib_and_more_is_stored_and_read_whole(target: Target) -> None:
    block = os.urandom(4 * MiB)
    parts = [memoryview(block)[number:] for number in range(17)]
    size = sum(part.nbytes for part in parts)
    assert size > 64 * MiB
    target.put("packs/ac/large", parts)
    found = target.stat("packs/ac/large")
    assert found is not None
    assert found.size_bytes == size
    buffer = bytearray(size)
    target.read_into("packs/ac/large", 0, memoryview(buffer))
    assert buffer == b"".join(parts)


def test_any_range_of_an_object_fills_the_buffer(target: Target) -> None:
    data = os.urandom(300_000)
    target.put("packs/ad/ranges", [data])
    for offset, length in ((0, 1), (0, 300_000), (1, 299_999), (299_999, 1), (12_345, 270_001)):
        buffer = bytearray(length)
        target.read_into("packs/ad/ranges", offset, memoryview(buffer))
        assert buffer == data[offset : offset + length]


def test_a_range_past_the_end_is_refused(target: Target) -> None:
    target.put("packs/ae/short", [b"0123456789"])
    for offset, length in ((0, 11), (9, 2), (10, 1), (5000, 1)):
        with pytest.raises(TargetError, match=r"packs/ae/short.* ends") as caught:
            target.read_into("packs/ae/short", offset, memoryview(bytearray(length)))
        assert not isinstance(caught.value, ObjectMissingError)


def test_an_object_larger_than_expected_is_refused_and_named(target: Target) -> None:
    target.put("index/big", [b"x" * 11])
    with pytest.raises(TargetError, match=r"index/big.* has 11 bytes, more than the 10"):
        target.get("index/big", 10)
    assert target.get("index/big", 11) == b"x" * 11


def test_what_is_absent_is_said_to_be_missing_and_named(target: Target) -> None:
    assert target.stat("keys/none.json") is None
    with pytest.raises(ObjectMissingError, match=r"keys/none\.json"):
        target.get("keys/none.json", 10)
    for length in (0, 1):
        with pytest.raises(ObjectMissingError, match=r"keys/none\.json"):
            target.read_into("keys/none.json", 0, memoryview(bytearray(length)))
    assert names(target, "keys/") == []


def test_putting_again_replaces_whole_objects(target: Target) -> None:
    target.put("index/again", [b"first and longer"])
    assert target.get("index/again", 100) == b"first and longer"
    target.put("index/again", [b"second"])
    assert target.get("index/again", 100) == b"second"
    buffer = bytearray(6)
    target.read_into("index/again", 0, memoryview(buffer))
    assert buffer == b"second"


def test_put_if_absent_keeps_what_is_there(creating_target: Target) -> None:
    target = creating_target
    assert target.put_if_absent("snapshots/m/1", [b"mi", b"ne"])
    assert not target.put_if_absent("snapshots/m/1", [b"other"])
    assert target.get("snapshots/m/1", 100) == b"mine"
    target.put("snapshots/m/2", [b"put"])
    assert not target.put_if_absent("snapshots/m/2", [b"other"])
    target.delete("snapshots/m/1")
    assert target.put_if_absent("snapshots/m/1", [b"later"])


def test_of_24_racing_writers_one_creates_the_object(
    creating_target: Target, at_once: AtOnce
) -> None:
    target = creating_target
    for version in range(2):
        name = f"snapshots/race/{version}"
        won = at_once(
            24, lambda number, name=name: target.put_if_absent(name, [b"writer", b"%d" % number])
        )
        assert sorted(won, key=str) == [False] * 23 + [True]
        assert target.get(name, 100) == b"writer%d" % won.index(True)
    assert names(target, "") == [f"snapshots/race/{version}" for version in range(2)]


def test_a_reader_beside_a_writer_sees_a_whole_object_or_none(target: Target) -> None:
    size = 200_000
    with ThreadPoolExecutor(3) as pool:
        writing = [
            pool.submit(target.put, f"packs/af/{number}", [bytes([number]) * size])
            for number in range(30)
        ]
        while not all(future.done() for future in writing):
            for info in target.list("packs/af/"):
                assert info.size_bytes == size
                data = target.get(info.name, size)
                assert data == bytes([int(info.name.rpartition("/")[2])]) * size
        for future in writing:
            future.result()
    assert len(names(target, "packs/af/")) == 30


def test_more_than_a_thousand_objects_are_listed_in_name_order(target: Target) -> None:
    wanted = sorted(
        [f"packs/{number % 7:02x}/{number:06x}" for number in range(1010)]
        # Where a folder's name begins another's, "/" sorts after "-" and "." but before digits.
        + ["packs/03-a/1", "packs/03.b/1", "packs/030/1", "packs/03x", "packs/03+"]
    )
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: target.put(name, [name.encode()]), wanted))
    target.put("index/beside", [b""])
    target.put("packsa/beside", [b""])
    assert names(target, "packs/") == wanted
    assert names(target, "packs/03/") == [name for name in wanted if name.startswith("packs/03/")]
    assert names(target, "") == ["index/beside", *wanted, "packsa/beside"]
    assert all(info.size_bytes == len(info.name) for info in target.list("packs/"))


def test_a_listing_and_a_stat_tell_size_and_time(target: Target) -> None:
    target.put("index/told", [b"12345"])
    (listed,) = target.list("index/")
    found = target.stat("index/told")
    assert isinstance(found, ObjectInfo)
    assert (listed.name, listed.size_bytes) == (found.name, found.size_bytes) == ("index/told", 5)
    # S3 tells whole seconds in a HEAD.
    assert abs(listed.modified - found.modified) < 1.0
    assert abs(listed.modified - time.time()) < 30


def test_many_are_deleted_at_once_and_absent_ones_are_no_error(target: Target) -> None:
    names = [f"packs/ab/{number:04d}" for number in range(7)]
    for name in names[:5]:
        target.put(name, [b"x"])
    target.put("packs/ab/stays", [b"x"])
    target.delete_many(names)
    target.delete_many([])
    assert [info.name for info in target.list("")] == ["packs/ab/stays"]
    with pytest.raises(BackupdError):
        target.delete_many(["packs/../other"])


def test_what_is_deleted_is_gone_and_may_be_deleted_again(target: Target) -> None:
    target.put("packs/b0/gone", [b"bytes"])
    buffer = bytearray(5)
    target.read_into("packs/b0/gone", 0, memoryview(buffer))
    for _ in range(2):
        target.delete("packs/b0/gone")
        assert target.stat("packs/b0/gone") is None
        assert names(target, "packs/") == []
        with pytest.raises(ObjectMissingError):
            target.read_into("packs/b0/gone", 0, memoryview(buffer))
    target.delete("never/was/there")


IMPOSSIBLE = ("", "/", "/abs", "a//b", "a/", "../up", "a/../b", ".hidden", "a/.tmp", "Upper")
IMPOSSIBLE += ("sp ace", "ü", "a\x00", "a\n", "a\\b", "x" * 201, "/".join("abcdefghi"))


def test_a_name_that_cannot_be_is_refused_by_every_operation(target: Target) -> None:
    operations: list[Callable[[str], object]] = [
        lambda name: target.put(name, [b""]),
        lambda name: target.put_if_absent(name, [b""]),
        lambda name: target.get(name, 1),
        lambda name: target.read_into(name, 0, memoryview(bytearray(1))),
        lambda name: target.stat(name),
        lambda name: target.delete(name),
        lambda name: list(target.list(name + "/")),
    ]
    for name in IMPOSSIBLE:
        for operation in operations:
            with pytest.raises(BackupdError, match="cannot name"):
                operation(name)
    assert names(target, "") == []


def test_every_name_that_may_be_is_stored(creating_target: Target) -> None:
    target = creating_target
    possible = ("a", "repository.json", "a+b-c_d.e", "x" * 200, "0/1/2/3/4/5/6/7")
    for name in possible:
        assert target.put_if_absent(name, [b"here"])
        assert target.get(name, 4) == b"here"
    assert names(target, "") == sorted(possible)


def test_many_threads_put_read_and_delete_at_once(target: Target, at_once: AtOnce) -> None:
    def work(number: int) -> None:
        for turn in range(5):
            name = f"packs/{number:02x}/{turn}"
            data = bytes([number, turn]) * 5000
            target.put(name, [data[:77], data[77:]])
            buffer = bytearray(2000)
            target.read_into(name, 1000, memoryview(buffer))
            assert buffer == data[1000:3000]
            if turn % 2:
                target.delete(name)

    assert at_once(12, work) == [None] * 12
    assert len(names(target, "packs/")) == 12 * 3


def test_a_target_says_its_name_and_where_it_is(target: Target) -> None:
    assert target.name
    assert target.location
    assert "Secret" not in target.location
