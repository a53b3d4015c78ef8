"""Files that lie are opaque: nothing is run, nothing raised, nothing allocated by their word."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import time
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backupd.capture.containers import Layout, identify
from backupd.capture.containers.bounded import READ_BUDGET_BYTES, MalformedError
from backupd.capture.containers.regions import MAX_TENSORS
from backupd.capture.containers.stored import decode_layout
from backupd.capture.containers.torch_pickle import read_tensor_table
from backupd.errors import DamagedError

GOLDEN = Path(__file__).parents[1] / "golden" / "containers"


def look(data: bytes, size: int | None = None) -> Layout | None:
    return identify(lambda at, length: data[at : at + length], size or len(data), b"model")


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin: int, end: int, shape: list[int] | None = None, dtype: str = "U8") -> dict:
    return {"dtype": dtype, "shape": shape or [end - begin], "data_offsets": [begin, end]}


def torch_file(table: bytes, storages: dict[str, bytes], method: int = 0) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("archive/data.pkl", table)
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
    return buffer.getvalue()


# safetensors


def test_a_plain_safetensors_file_is_read_however_its_header_is_spaced() -> None:
    header = b' \n{ "a" : {"shape": [2], "data_offsets" : [0,2],\t"dtype":"U8"} , "b\\u00e9":'
    header = header.strip() + b'{"dtype":"U8","shape":[],"data_offsets":[2,3]} }   '
    layout = look(safetensors(header, b"xyz"))
    assert layout is not None
    assert [(t.name, t.shape, t.size_bytes) for t in layout.tensors] == [
        ("a", (2,), 2),
        ("bé", (), 1),
    ]


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**63 - 8, 2**40, 100, 0, 1])
def test_a_safetensors_header_of_a_lying_length_is_opaque(length: int) -> None:
    asked = []

    def read_at(offset: int, count: int) -> bytes:
        asked.append(count)
        return data[offset : offset + count]

    data = safetensors({"a": entry(0, 4)}, b"abcd", length)
    assert identify(read_at, len(data), b"x") is None
    assert sum(asked) < 1000


@pytest.mark.parametrize(
    "header",
    [
        {"a": entry(0, 4), "b": entry(2, 8)},  # overlap
        {"a": entry(0, 4), "b": entry(0, 4)},  # the same bytes twice
        {"a": entry(0, 4), "b": entry(5, 8)},  # a gap
        {"a": entry(0, 9)},  # behind the file
        {"a": entry(4, 8)},  # a gap at the start
        {"a": entry(0, 4)},  # bytes left over
        {"a": entry(8, 0, [8])},  # backwards
        {"a": entry(-1, 7)},
        {"a": entry(0, 8, [3], "F32")},
        {"a": entry(0, 8, [2**62, 8])},
        {"a": entry(0, 8, [-8])},
        {"a": entry(0, 8, [-2, -4])},
        {"a": entry(0, 8, [1] * 65 + [8])},
        {"a": entry(0, 8, dtype="X9")},
        {"a": entry(0, 8, dtype="opaque")},
        {"a": {"dtype": "U8", "shape": [8.0], "data_offsets": [0, 8]}},
        {"a": {"dtype": "U8", "shape": [True], "data_offsets": [0, 8]}},
        {"a": {"dtype": [], "shape": [8], "data_offsets": [0, 8]}},
        {"a": {"dtype": "U8", "shape": "8", "data_offsets": [0, 8]}},
        {"a": {"dtype": "U8", "shape": [8], "data_offsets": [0, 4, 8]}},
        {"a": {"dtype": "U8", "shape": [8], "data_offsets": 8}},
        {"a": {"shape": [8], "data_offsets": [0, 8]}},
        {"a": 8},
        {"a" * 5000: entry(0, 8)},
        {"\ud800": entry(0, 8)},
        {"__metadata__": {"a": 1}, "b": entry(0, 8)},
        {"__metadata__": [], "b": entry(0, 8)},
        b"{" + b'"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},' * 2 + b"}",
        b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},'
        b'"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}',
        b'{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}x',
        b'{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}',
        b'{"a":{"dtype":"U8","shape":[8,],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}\xff}',
        b'{"a":' + b"[" * 3000 + b"}",
        b'{"a":' + b'{"a":' * 800 + b"1" + b"}" * 801,
        b'{"a":{"shape":[' + b"9" * 4050 + b"]}}",
        b"{" + b"[" * 200_000,
        b"{}",
    ],
    ids=lambda header: (header if isinstance(header, bytes) else json.dumps(header))[:60],
)
def test_a_safetensors_header_that_contradicts_itself_is_opaque(header: Any) -> None:
    assert look(safetensors(header, b"12345678")) is None


def test_a_million_tensors_are_refused_in_bounded_time_and_memory() -> None:
    row = b'"t%07d":{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]},'
    header = b"{" + b"".join(row % (i, i, i + 1) for i in range(MAX_TENSORS + 1))[:-1] + b"}"
    assert refused(safetensors(header, bytes(MAX_TENSORS + 1))) is None
    million = b"{" + b"".join(row % (i, i, i + 1) for i in range(1_000_000))[:-1] + b"}"
    assert refused(safetensors(million, bytes(1_000_000))) is None


def refused(data: bytes) -> Layout | None:
    started = time.process_time()
    layout = look(data)
    assert time.process_time() - started < 15  # 1 to 4 on a quiet machine
    return layout


# zip


def stored(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def test_a_stored_member_of_any_archive_is_a_region_and_a_small_one_is_not() -> None:
    data = stored(large=os.urandom(70_000), small=b"x" * 100)
    layout = look(data)
    assert layout is not None
    assert [(t.name, t.dtype, t.width, t.size_bytes) for t in layout.tensors] == [
        ("large", "opaque", 0, 70_000)
    ]
    assert layout.kind == "zip"


def test_an_archive_with_a_comment_is_read() -> None:
    buffer = io.BytesIO(stored(large=bytes(70_000)))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = b"c" * 60_000
    layout = look(buffer.getvalue())
    assert layout is not None
    assert len(layout.tensors) == 1


def test_a_file_shorter_than_the_end_of_a_zip_is_opaque() -> None:
    assert look(b"PK\3\4\10\10\0\0PK\5\6K\1\xc2 ") is None
    for size in range(16, 22):
        assert look((b"PK\3\4" + b"PK\5\6" * 5)[:size]) is None


def test_an_archive_behind_less_than_another_is_opaque() -> None:
    whole = torch_file(pickle.dumps({}, 2), {})
    for before in range(1, 30):
        assert look(b"PK\3\4" + (b"PK\5\6" * 7)[:before] + whole) is None


def test_a_zip64_member_is_found_where_it_is() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, archive.open("m", "w", force_zip64=True) as file:
        file.write(b"m" * 70_000)
    data = buffer.getvalue()
    layout = look(data)
    assert layout is not None
    (tensor,) = layout.tensors
    assert data[tensor.offset : tensor.offset + tensor.size_bytes] == b"m" * 70_000


def test_a_zip_bomb_is_not_inflated() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(64 << 20))
        archive.writestr("archive/data/0", bytes(64 << 20))
    data = buffer.getvalue()
    tracemalloc.start()
    try:
        layout = look(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert layout is not None
    assert layout.tensors == ()
    assert peak < 4 << 20


def test_members_that_share_their_bytes_make_an_archive_opaque() -> None:
    """The way of the better zip bomb (Fifield 2019): many entries, one place."""
    data = bytearray(stored(a=bytes(70_000), b=bytes(70_000)))
    second = data.rindex(b"PK\1\2")
    data[second + 42 : second + 46] = struct.pack("<L", 0)
    assert look(bytes(data)) is None
    data[second + 46 : second + 47] = b"a"
    assert look(bytes(data)) is None


@pytest.mark.parametrize(
    ("field", "form", "value"),
    [
        (20, "<L", 2**32 - 2),  # packed size
        (24, "<L", 5),  # plain size of a stored member: taken as compressed, so never cut
        (42, "<L", 2**32 - 2),  # local header's offset
        (42, "<L", 7),
        (28, "<H", 60_000),  # name's length
        (30, "<H", 60_000),  # extra field's length
        (32, "<H", 60_000),  # comment's length
        (20, "<L", 2**32 - 1),  # zip64 without its field
        (10, "<H", 8),  # deflated, says the directory
    ],
)
def test_a_directory_entry_that_lies_gives_no_region(field: int, form: str, value: int) -> None:
    data = bytearray(stored(a=bytes(70_000)))
    place = data.rindex(b"PK\1\2") + field
    struct.pack_into(form, data, place, value)
    layout = look(bytes(data))
    assert layout is None or layout.tensors == ()


def test_a_member_inside_another_makes_an_archive_opaque() -> None:
    inside = stored(b=b"x" * 10)[: 30 + 1 + 10]
    data = bytearray(stored(a=bytes(100) + inside + bytes(70_000), b=b"x" * 10))
    assert look(bytes(data)) is not None
    struct.pack_into("<L", data, data.rindex(b"PK\1\2") + 42, data.index(inside))
    assert look(bytes(data)) is None


def test_a_member_that_reaches_into_the_directory_makes_an_archive_opaque() -> None:
    data = bytearray(stored(a=bytes(70_000)))
    struct.pack_into("<2L", data, data.rindex(b"PK\1\2") + 20, 70_010, 70_010)
    assert look(bytes(data)) is None


def test_a_member_named_otherwise_in_its_own_header_makes_an_archive_opaque() -> None:
    data = bytearray(stored(a=bytes(70_000)))
    data[30:31] = b"b"
    assert look(bytes(data)) is None


@pytest.mark.parametrize("value", [2**63, 2**64 - 1, 2**32, 1, 0, 2**24])
@pytest.mark.parametrize("field", [4, 24, 32, 40, 48])
def test_a_zip64_end_that_lies_is_opaque(field: int, value: int) -> None:
    data = bytearray((GOLDEN / "checkpoint.pt").read_bytes())
    place = data.rindex(b"PK\6\6") + field
    before = data[place : place + 8]
    struct.pack_into("<Q", data, place, value)
    assert data[place : place + 8] != before
    assert look(bytes(data)) is None


def test_a_file_that_lost_its_end_is_opaque_unless_only_padding_was_lost() -> None:
    for path in GOLDEN.iterdir():
        data = path.read_bytes() if path.is_file() else b""
        for length in range(0, len(data), 1 + len(data) // 60):
            layout = look(data[:length])
            assert layout is None or layout.kind == "hdf5" or layout == look(data)
            if layout is not None:
                assert all(t.offset + t.size_bytes <= length for t in layout.tensors)


# torch's pickle


class Payload:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_with_a_payload_is_never_run(protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    payloads = [
        Payload(os.system, f"touch {mark}"),
        Payload(eval, f"open({str(mark)!r}, 'w')"),
        Payload(exec, f"open({str(mark)!r}, 'w')"),
        Payload(os.makedirs, str(tmp_path / "made")),
    ]
    table = pickle.dumps({"state": payloads, 7: [payloads]}, protocol)
    data = torch_file(table, {"0": bytes(70_000)})
    layout = look(data)
    assert layout is not None
    assert [(t.name, t.dtype) for t in layout.tensors] == [("data/0", "opaque")]
    assert not list(tmp_path.iterdir())
    pickle.loads(table)
    assert mark.exists(), "the payload would have left no mark, so this test proved nothing"


def storage(key: bytes, elements: int, kind: bytes = b"torch\nByteStorage\n") -> bytes:
    return (
        b"(" + text(b"storage") + b"c" + kind + text(key) + text(b"cpu")
        + b"J" + struct.pack("<i", elements) + b"tQ"
    )  # fmt: skip


def text(value: bytes) -> bytes:
    return b"X" + struct.pack("<L", len(value)) + value


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def view(key: bytes, elements: int, offset: int, shape: list[int], strides: list[int]) -> bytes:
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(key, elements) + number(offset)
        + b"(" + b"".join(map(number, shape)) + b"t(" + b"".join(map(number, strides)) + b"t"
        + b"\x89}tR"
    )  # fmt: skip


def only(layout: Layout | None) -> tuple[str, str, tuple[int, ...]]:
    assert layout is not None
    (tensor,) = layout.tensors
    return tensor.name, tensor.dtype, tensor.shape


SIZE = 70_000


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (view(b"0", SIZE, 0, [7, 10_000], [10_000, 1]), ("a", "u8", (7, 10_000))),
        (view(b"0", SIZE, 0, [7, 10_000], [1, 7]), ("a", "u8", (SIZE,))),
        (view(b"0", SIZE, 5, [7, 10_000], [10_000, 1]), ("a", "u8", (SIZE,))),
        (view(b"0", SIZE, 5, [7], [1]), ("a", "u8", (SIZE,))),
        (view(b"0", SIZE, 0, [2**31 - 1] * 9, [1] * 9), ("a", "u8", (SIZE,))),
        (view(b"0", SIZE, -1, [7], [1]), ("data/0", "u8", (SIZE,))),
        (view(b"0", SIZE, 0, [-7], [1]), ("data/0", "u8", (SIZE,))),
        (view(b"0", SIZE, 0, [7], []), ("data/0", "u8", (SIZE,))),
        (view(b"0", SIZE, 0, [1] * 65, [1] * 65), ("data/0", "u8", (SIZE,))),
        (view(b"0", SIZE - 1, 0, [SIZE - 1], [1]), ("data/0", "opaque", (SIZE,))),
        (view(b"../../etc/passwd", SIZE, 0, [SIZE], [1]), ("data/0", "opaque", (SIZE,))),
        (b"cos\nsystem\n(" + text(b"false") + b"tR", ("data/0", "opaque", (SIZE,))),
        (storage(b"0", SIZE, b"os\nByteStorage\n"), ("data/0", "u8", (SIZE,))),
        (storage(b"0", SIZE, b"os\nsystem\n"), ("data/0", "opaque", (SIZE,))),
        (number(1) + b"Q", ("data/0", "opaque", (SIZE,))),
    ],
)
def test_a_table_that_lies_costs_the_names_only(
    table: bytes, expected: tuple[str, str, tuple[int, ...]]
) -> None:
    data = torch_file(b"\x80\x02}" + text(b"a") + table + b"s.", {"0": bytes(SIZE)})
    assert only(look(data)) == expected


LARGE = 400_000


@pytest.mark.parametrize(
    "table",
    [
        b"]\x94" * (LARGE // 2) + b".",
        b"(" + b"}" * LARGE + b"l.",
        b"(" * LARGE + b"t.",
        b")" + b"\x85" * LARGE + b".",  # as deep as it is long
        b"]" + b"\x94h\x000" * 3 + b"(" * 1000 + b"t" * 2000,
        # every level twice the one below: 2 ** 200 leaves
        b"}" + b"".join(b"q\x00(h\x00h\x00t" for _ in range(200)) + b".",
        # a list that holds itself
        b"]q\x00h\x00a" * 1000 + b".",
        # one long tuple as shape of many tensors, as state of many things
        b"(" + b"K\x01" * 300_000 + b"tq\x00("
        + b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00h\x00h\x00tR" * 20_000 + b"t.",
        b"}(" + b"K\x01N" * 300_000 + b"uq\x00(" + b"cargparse\nNamespace\n)Rh\x00b" * 50_000
        + b"t.",
        # one long key in many dictionaries
        text(b"k" * 1_000_000) + b"q\x00(" + b"}h\x00}s" * 200_000 + b"t.",
        # a persistent id with a long word, told often
        b"(" + b"".join([text(b"storage"), b"cos\n", b"s" * 1_000_000, b"\n"]) + text(b"0")
        + text(b"") + b"K\x01tq\x00" + b"h\x00Q0" * 10_000 + b"N.",
        b"\x8b" + struct.pack("<L", 2**31 - 1) + b"1" * 1000,
        b"\x8b" + struct.pack("<L", 1_000_000) + b"\x7f" * 1_000_000 + b".",
        b"L" + b"9" * 1_000_000 + b"L\n.",
        b"X" + struct.pack("<L", 2**32 - 1) + b"a",
        b"\x8d" + struct.pack("<Q", 2**63) + b"a",
        b"\x96" + struct.pack("<Q", 2**64 - 1) + b"a",
        b"\x95" + struct.pack("<Q", 2**64 - 1) + b".",
        b"Pid\n.",
        b"\x82\x01.",
        b"h\x05.",
        b"t.",
        b"R.",
        b"s.",
        b"b.",
        b".",
        b"",
        b"N",
        b"cos\n.",
        b"S'unended",
        b"\xff",
    ],
    ids=lambda table: repr(table[:12]),
)  # fmt: skip
def test_a_pickle_made_to_exhaust_is_left_in_bounded_time(table: bytes) -> None:
    started = time.process_time()
    data = torch_file(table, {"0": bytes(SIZE)})
    assert only(look(data)) == ("data/0", "opaque", (SIZE,))
    assert time.process_time() - started < 15  # at most 3 on a quiet machine


def test_a_pickle_that_python_warns_of_is_opaque_also_where_warnings_are_errors() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layout = look(torch_file(b"S'\\h'\n.", {"0": bytes(SIZE)}))
    assert only(layout) == ("data/0", "opaque", (SIZE,))


def test_a_storage_that_several_tensors_share_is_one_flat_region() -> None:
    first, second = view(b"0", SIZE, 0, [5], [1]), view(b"0", SIZE, 5, [5], [1])
    table = b"\x80\x02}(" + text(b"x") + first + text(b"y") + second + b"u."
    assert only(look(torch_file(table, {"0": bytes(SIZE)}))) == ("x", "u8", (SIZE,))


def test_a_compressed_table_costs_the_names_only() -> None:
    data = torch_file(b"\x80\x02}.", {"0": os.urandom(SIZE)}, zipfile.ZIP_DEFLATED)
    layout = look(data)
    assert layout is not None
    assert layout.tensors == ()
    assert "compressed" in layout.note


def test_names_that_meet_twice_are_told_apart() -> None:
    table = b"\x80\x02}(" + text(b"a") + b"}" + text(b"b") + view(b"0", 4, 0, [4], [1]) + b"s"
    table += text(b"a.b") + view(b"1", 4, 0, [4], [1]) + b"u."
    layout = look(torch_file(table, {"0": b"aaaa", "1": b"bbbb"}))
    assert layout is not None
    assert [t.name for t in layout.tensors] == ["a.b", "a.b#2"]


def test_a_pickle_of_too_many_opcodes_is_not_followed_to_its_end() -> None:
    with pytest.raises(MalformedError, match="more opcodes"):
        read_tensor_table(b"N" * 1_600_000 + b".")


def test_many_archives_in_one_file_share_what_one_look_may_cost() -> None:
    one = torch_file(b"N0" * 50_000 + b"N.", {"0": bytes(SIZE)})
    started = time.process_time()
    layout = look(one * 200)
    assert time.process_time() - started < 15  # 2 on a quiet machine, 30 if each had its own
    assert layout is not None
    assert len(layout.tensors) == 200


@pytest.mark.parametrize(
    "identity",
    [
        storage(b"0" * 65, 1),
        storage(b"0", 1, b"torch\n" + b"S" * 65 + b"\n"),
        storage(b"0", 1) + storage(b"0", 2),
    ],
)
def test_a_storage_with_words_too_long_to_compare_or_told_in_two_ways_is_none(
    identity: bytes,
) -> None:
    assert read_tensor_table(storage(b"0", 1) + storage(b"0", 1) + b".").storages.keys() == {"0"}
    with pytest.raises(MalformedError):
        read_tensor_table(identity + b".")


# npy


def npy(header: bytes, data: bytes = b"", version: int = 1) -> bytes:
    length = struct.pack("<H" if version == 1 else "<L", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + data


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999999999, 4), }",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"1," * 70 + b"2), }",
        b"{'descr': '<f4', 'fortran_order': 1, 'shape': (2,), }",
        b"{'descr': '<f4', 'shape': (2,), }",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'more': 1}",
        b"{'descr': __import__('os'), 'fortran_order': False, 'shape': (2,), }",
        b"(" * 9000,
        b"-" * 9000,
        b"{'a':" * 1500,
        b"{" + b" " * 9000,
        b"{'descr': '<f4'," + b" " * 9000 + b"!}",
        b"{'shape': (" + b"1 " * 4000 + b"!)}",
        b" " * 20_000,
        b"",
    ],
    ids=lambda header: repr(header[:60]),
)
def test_an_npy_header_that_is_not_plain_numbers_is_opaque(header: bytes) -> None:
    started = time.process_time()
    assert look(npy(header, b"12345678")) is None
    assert time.process_time() - started < 1


def test_an_npy_header_of_a_lying_length_is_opaque() -> None:
    good = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }"
    assert look(npy(good, b"12345678")) is not None
    assert look(npy(good, b"12345678", version=3)) is not None
    assert look(npy(good, b"12345678", version=4)) is None
    data = npy(good, b"12345678", version=2)
    assert look(data[:8] + struct.pack("<L", 2**32 - 1) + data[12:]) is None


# GGUF


def gguf(tensors: int, entries: int, body: bytes, version: int = 3) -> bytes:
    return struct.pack("<4sLQQ", b"GGUF", version, tensors, entries) + body


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name + struct.pack("<L", kind) + value


def info(name: bytes, shape: list[int], kind: int, offset: int) -> bytes:
    head = struct.pack("<Q", len(name)) + name + struct.pack("<L", len(shape))
    return head + struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<LQ", kind, offset)


@pytest.mark.parametrize(
    "data",
    [
        gguf(2**63, 0, b""),
        gguf(0, 2**64 - 1, b""),
        gguf(MAX_TENSORS, 0, b""),
        gguf(0, 1, key(b"a", 9, struct.pack("<LQ", 8, 2**62))),
        gguf(0, 1, key(b"a", 9, struct.pack("<LQ", 0, 2**64 - 1))),
        gguf(0, 1, key(b"a", 9, struct.pack("<LQ", 9, 1))),
        gguf(0, 1, key(b"a", 8, struct.pack("<Q", 2**64 - 1))),
        gguf(0, 1, key(b"a", 9, struct.pack("<LQQcQ", 8, 2, 1, b"x", 2**40))),
        gguf(0, 1, key(b"a", 99, b"")),
        gguf(0, 1, struct.pack("<Q", 2**63)),
        gguf(0, 1, key(b"general.alignment", 4, struct.pack("<L", 0))),
        gguf(0, 1, key(b"general.alignment", 4, struct.pack("<L", 33))),
        gguf(1, 0, info(b"a", [2**40, 2**40], 0, 0)),
        gguf(1, 0, info(b"a", [2**63, 2], 0, 0)),
        gguf(1, 0, info(b"a", [8], 0, 2**63)),
        gguf(1, 0, info(b"a", [8], 0, 2**64 - 32)),
        gguf(1, 0, info(b"a", [8], 0, 7)),
        gguf(1, 0, info(b"a", [31], 2, 0)),
        gguf(1, 0, info(b"a", [8], 5, 0)),
        gguf(1, 0, info(b"a", [1] * 5, 0, 0)),
        gguf(2, 0, info(b"a", [16], 0, 0) + info(b"b", [16], 0, 32)),
        gguf(1, 0, info(b"a", [8], 0, 0), version=1),
        struct.pack(">4sLQQ", b"GGUF", 3, 0, 0) + bytes(100),
    ],
)
def test_a_gguf_file_that_lies_is_opaque(data: bytes) -> None:
    asked = 0

    def read_at(offset: int, length: int) -> bytes:
        nonlocal asked
        asked += length
        return padded[offset : offset + length]

    padded = data + bytes(120)
    assert identify(read_at, len(padded), b"x") is None
    assert asked < 1000


def test_a_gguf_file_that_tells_the_truth_is_read() -> None:
    body = info(b"a", [8], 0, 0) + info(b"b", [32, 2], 2, 32)
    layout = look(
        gguf(2, 1, key(b"general.alignment", 4, struct.pack("<L", 32)) + body) + bytes(120)
    )
    assert layout is not None
    assert [(t.name, t.dtype, t.shape, t.width, t.floating) for t in layout.tensors] == [
        ("a", "f32", (8,), 4, True),
        ("b", "q4_0", (2, 32), 1, False),
    ]


# The reader


def test_no_look_reads_more_than_its_budget_however_large_the_file() -> None:
    asked = 0
    # An archive whose table is as long as is read, end to end with itself.
    one = torch_file(text(b"x" * (31 << 20)) + b".", {"0": b"abcd"})

    def read_at(offset: int, length: int) -> bytes:
        nonlocal asked
        asked += length
        place = offset % len(one)
        return (one[place : place + length] + one)[:length]

    layout = identify(read_at, 9 * len(one), b"x")
    assert layout is not None
    assert layout.tensors == ()
    assert 64 << 20 < asked <= READ_BUDGET_BYTES


def test_a_file_that_shrinks_while_it_is_read_is_opaque() -> None:
    for path in GOLDEN.glob("model.*"):
        data = path.read_bytes()
        layout = identify(lambda at, n, d=data: d[at : at + n][: n - 1 or 1], len(data), b"x")
        assert layout is None


def test_what_reading_raises_is_passed_on() -> None:
    def read_at(offset: int, length: int) -> bytes:
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        identify(read_at, 1000, b"x")


def test_the_data_of_a_tensorflow_checkpoint_is_told_by_its_name() -> None:
    data = bytes(100)
    layout = identify(lambda at, n: data[at : at + n], 100, b"variables.data-00000-of-00001")
    assert layout == Layout("tensorflow")


# layouts as they are stored


@pytest.mark.parametrize("number", ["1e400", "-1e400", "Infinity", "NaN"])
@pytest.mark.parametrize("place", ["[N],0,4", "[1],N,4", "[1],0,N"])
def test_a_stored_layout_with_a_number_that_is_none_is_damaged(number: str, place: str) -> None:
    def stored(number: str) -> bytes:
        tensor = place.replace("N", number)
        return f'{{"kind":"npy","note":"","tensors":[["a","f32",{tensor}]]}}'.encode()

    assert decode_layout(stored("1"), 8).kind == "npy"
    with pytest.raises(DamagedError):
        decode_layout(stored(number), 8)
