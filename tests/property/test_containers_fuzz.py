"""Whatever the bytes are, a look at them raises nothing and gives regions that can be cut by."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.layouts import checked_look

GOLDEN = Path(__file__).parents[1] / "golden" / "containers"
FILES = {
    path.name: path.read_bytes()
    for path in sorted(GOLDEN.iterdir())
    if path.suffix not in (".py", ".json") and path.is_file()
}
STARTS = [b"PK\3\4", b"GGUF\3\0\0\0", b"\x93NUMPY\1\0", b"\x40\0\0\0\0\0\0\0{", b""]


numbers = st.sampled_from([0, 1, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**62, 2**63, 2**64 - 1])
replacements = st.one_of(
    st.binary(min_size=1, max_size=12),
    numbers.map(lambda number: struct.pack("<Q", number)),
    numbers.map(lambda number: struct.pack("<Q", number)[:4]),
)


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 5))):
        if not changed:
            break
        # Structure lies at both ends of most files.
        place = draw(
            st.integers(0, len(changed) - 1)
            | st.integers(0, min(200, len(changed)) - 1)
            | st.integers(max(0, len(changed) - 400), len(changed) - 1)
        )
        match draw(st.sampled_from(["over", "insert", "remove", "copy", "cut"])):
            case "over":
                piece = draw(replacements)
                changed[place : place + len(piece)] = piece
            case "insert":
                changed[place:place] = draw(replacements)
            case "remove":
                del changed[place : place + draw(st.integers(1, 64))]
            case "copy":
                start = draw(st.integers(0, len(changed) - 1))
                changed[place:place] = changed[start : start + draw(st.integers(1, 300))]
            case "cut":
                del changed[place:]
    return bytes(changed)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_container_raises_nothing_and_keeps_to_its_bytes(name: str) -> None:
    @settings(max_examples=100, deadline=None)
    @given(damaged(FILES[name]))
    @example(FILES[name])
    def look(data: bytes) -> None:
        checked_look(data)

    look()


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(STARTS), st.binary(max_size=400))
def test_arbitrary_bytes_raise_nothing_and_keep_to_their_length(start: bytes, rest: bytes) -> None:
    checked_look(start + rest)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(sorted(FILES)), min_size=2, max_size=3))
def test_containers_end_to_end_raise_nothing(names: list[str]) -> None:
    checked_look(b"".join(FILES[name] for name in names))


dtypes = st.sampled_from([("F32", 4), ("BF16", 2), ("U8", 1), ("F64", 8), ("BOOL", 1)])
tables = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=30).filter(lambda name: name != "__metadata__"),
    st.tuples(dtypes, st.lists(st.integers(0, 5), max_size=4)),
    max_size=8,
)


@settings(max_examples=100, deadline=None)
@given(tables, st.booleans(), st.booleans(), st.randoms())
def test_every_safetensors_table_is_read_back(
    table: dict[str, tuple[tuple[str, int], list[int]]],
    compact: bool,
    ascii_only: bool,
    random: Random,
) -> None:
    header: dict[str, object] = {}
    expected = {}
    end = 0
    for name, ((dtype, width), shape) in table.items():
        size = width * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        if size:
            expected[name] = (tuple(shape), end, size)
        end += size
    rows = [*header.items(), ("__metadata__", {"a": "{}", '"': "\\"})]
    random.shuffle(rows)
    separators = (",", ":") if compact else (" , ", " : ")
    text = json.dumps(dict(rows), separators=separators, ensure_ascii=ascii_only).encode()
    layout = checked_look(struct.pack("<Q", len(text)) + text + bytes(end))
    assert layout is not None
    start = 8 + len(text)
    assert {t.name: (t.shape, t.offset - start, t.size_bytes) for t in layout.tensors} == expected
