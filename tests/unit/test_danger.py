"""Files that would run code when they are loaded are named, and nothing of them is run."""

from __future__ import annotations

import builtins
import bz2
import collections
import gzip
import io
import lzma
import os
import pickle
import struct
import subprocess
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupd.capture.danger import DANGEROUS, UNKNOWN, UNSCANNED, look_for_danger


class Calls:
    """Pickled as a call that leaves a mark when it is made."""

    def __init__(self, call: Callable[..., object], *arguments: object) -> None:
        self.call = call
        self.arguments = arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call, self.arguments


def archive(members: dict[str, bytes], *, method: int = zipfile.ZIP_STORED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return made.getvalue()


def saved(array: object, **options: object) -> bytes:
    made = io.BytesIO()
    np.save(made, array, **options)  # type: ignore[arg-type]
    return made.getvalue()


def npz(**arrays: object) -> bytes:
    made = io.BytesIO()
    np.savez_compressed(made, **arrays)  # type: ignore[arg-type]
    return made.getvalue()


def objects(value: object) -> np.ndarray:
    array = np.empty(1, object)
    array[0] = value
    return array


def kinds(mark: Path) -> dict[str, tuple[str, bytes]]:
    """Name of the file and content, by what is done; each would leave the mark."""
    command = f"touch {mark}"
    system = Calls(os.system, command)
    python = f"open({str(mark)!r}, 'w')"
    text = f"cposix\nsystem\n(S'{command}'\ntR.".encode()
    nested = Calls(pickle.loads, pickle.dumps(system))
    return {
        "a call of the system": ("model.pkl", pickle.dumps(system)),
        "in the oldest protocol, as text": ("model.pkl", text),
        "in the second protocol": ("model.bin", pickle.dumps(system, protocol=2)),
        "eval": ("model.pickle", pickle.dumps(Calls(builtins.eval, python))),
        "exec, deep in a dictionary": (
            "optimizer.pt",
            pickle.dumps({"state": [{"a": Calls(builtins.exec, python)}]}),
        ),
        "another process": ("x.ckpt", pickle.dumps(Calls(subprocess.Popen, ["touch", str(mark)]))),
        "a pickle within a pickle": ("x.pkl", pickle.dumps({"inner": nested})),
        "a torch archive": ("model.pt", archive({"model/data.pkl": pickle.dumps(system)})),
        "a torch archive under no known name": (
            "weights",
            archive({"model/data.pkl": pickle.dumps(system)}),
        ),
        "a compressed archive": (
            "model.pth",
            archive({"m/data.pkl": pickle.dumps(system)}, method=zipfile.ZIP_DEFLATED),
        ),
        "an old torch file, behind its first pickles": (
            "old.pt",
            pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
            + pickle.dumps(system, 2) + os.urandom(1000),
        ),
        "an array of objects": ("data.npy", saved(objects(system), allow_pickle=True)),
        "an array of objects among others": (
            "data.npz",
            npz(good=np.zeros(4), bad=objects(system)),
        ),
        "compressed with gzip": ("model.joblib", gzip.compress(pickle.dumps(system))),
        "compressed with xz": ("model.joblib", lzma.compress(pickle.dumps(system))),
        "compressed with bzip2": ("model.pkl.bz2", bz2.compress(pickle.dumps(system))),
        "a Keras Lambda layer": (
            "model.keras",
            archive({"config.json": b'{"layers": [{"class_name": "Lambda", "config": {}}]}'}),
        ),
        "a Keras Lambda layer in HDF5": (
            "model.h5",
            b"\x89HDF\r\n\x1a\n" + bytes(5000) + b'{"class_name": "Lambda", "config": {}}',
        ),
        "behind a large array": (
            "large.pkl",
            pickle.dumps({"weights": bytes(30 << 20), "then": system}),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("kind", kinds(Path("/x")))
def test_each_known_kind_is_flagged_and_not_run(kind: str, tmp_path: Path) -> None:
    mark = tmp_path / "RAN"
    name, content = kinds(mark)[kind]
    found = look_for_danger(
        lambda at, length: content[at : at + length], len(content), name.encode()
    )
    assert [suspicion.level for suspicion in found] == [DANGEROUS], found
    assert not mark.exists()


HARMLESS: dict[str, tuple[str, bytes]] = {
    "a dictionary of numbers": ("x.pkl", pickle.dumps({"a": [1, 2.5, "x"], "b": (None, True)})),
    "a state": (
        "x.pt",
        archive({
            "x/data.pkl": b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01."
            b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nq\x00.",
            "x/data/0": bytes(100),
        }),
    ),
    "ordered": ("x.pkl", pickle.dumps(collections.OrderedDict(a=np.float32(1), b=np.zeros(3)))),
    "an array": ("x.npy", saved(np.arange(12.0))),
    "arrays": ("x.npz", npz(a=np.arange(3), b=np.zeros((2, 2), np.int8))),
    "a Keras model": ("x.keras", archive({"config.json": b'{"class_name": "Dense"}'})),
    "an object array of numbers": ("x.npy", saved(objects(3), allow_pickle=True)),
    "noise with a name": ("pytorch_model.bin", bytes(range(256)) * 50),
    "nothing": ("x.pkl", b""),
}  # fmt: skip


@pytest.mark.parametrize("what", HARMLESS)
def test_what_is_harmless_is_not_flagged(what: str) -> None:
    name, content = HARMLESS[what]
    found = look_for_danger(
        lambda at, length: content[at : at + length], len(content), name.encode()
    )
    assert found == ()


def test_what_is_not_known_to_be_harmless_is_named_as_that() -> None:
    content = pickle.dumps(Path)  # a class of a library, referred to by name
    found = look_for_danger(lambda at, n: content[at : at + n], len(content), b"args.bin")
    assert found == ()  # paths are on the list
    content = b"\x80\x02ctransformers.training_args\nTrainingArguments\nq\x00."
    found = look_for_danger(lambda at, n: content[at : at + n], len(content), b"args.bin")
    assert [(one.level, "TrainingArguments" in one.what) for one in found] == [(UNKNOWN, True)]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_two_members_with_one_name_both_are_looked_into(method: int, first: bool) -> None:
    contents = [pickle.dumps(Calls(os.system, "true")), pickle.dumps({})]
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as file:
        for content in contents if first else contents[::-1]:
            file.writestr("m/data.pkl", content)
    content = made.getvalue()
    found = look_for_danger(lambda at, n: content[at : at + n], len(content), b"x.pt")
    assert [suspicion.level for suspicion in found] == [DANGEROUS]


def test_an_archive_that_contradicts_itself_is_not_believed() -> None:
    content = bytearray(archive({"m/data.pkl": pickle.dumps({"a": 1})}))
    content[8] ^= 8  # the method in the member's own header
    found = look_for_danger(lambda at, n: bytes(content[at : at + n]), len(content), b"model.pt")
    assert [suspicion.level for suspicion in found] == [UNSCANNED]


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04" + b"N0" * 2_000_000,
        b"\x80\x04" + b"\x94" * 3_000_000,
        b"\x80\x04" + b"(" * 3_000_000,
    ],
    ids=["of nothing", "of memos", "of marks"],
)
def test_an_endless_pickle_costs_bounded_memory(
    content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backupd.capture.danger_reading._MOST_READS", 30_000)
    tracemalloc.start()
    found = look_for_danger(lambda at, n: content[at : at + n], len(content), b"x.pkl")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [suspicion.level for suspicion in found] == [UNSCANNED]
    assert peak < 300 * 30_000


def test_a_pickle_that_takes_too_long_is_given_up() -> None:
    content = b"\x80\x04" + b"N0" * 100_000
    clock = iter(range(0, 1000, 3))
    found = look_for_danger(
        lambda at, n: content[at : at + n], len(content), b"x.pkl", now=lambda: float(next(clock))
    )
    assert [suspicion.level for suspicion in found] == [UNSCANNED]


def test_a_pickle_that_claims_more_than_it_has_is_not_allocated() -> None:
    content = b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x"
    found = look_for_danger(lambda at, n: content[at : at + n], len(content), b"x.pkl")
    assert all(suspicion.level != DANGEROUS for suspicion in found)


def vast_member() -> bytes:
    """An archive whose member asks for a dictionary of 2 GiB (APPNOTE 5.8.8)."""
    made = bytearray(archive({"m/data.pkl": pickle.dumps({})}, method=zipfile.ZIP_LZMA))
    begin = 30 + len("m/data.pkl") + 4 + 1
    made[begin : begin + 4] = struct.pack("<L", 2 << 30)
    return bytes(made)


def vast_stream() -> bytes:
    """An xz stream whose block asks for a dictionary of 4 GiB (xz-file-format 5.3.1)."""
    made = bytearray(lzma.compress(pickle.dumps({})))
    size = (made[12] + 1) * 4
    assert made[14:16] == b"\x21\1"
    made[16] = 40
    made[12 + size - 4 : 12 + size] = struct.pack("<L", zlib.crc32(made[12 : 12 + size - 4]))
    return bytes(made)


@pytest.mark.parametrize("content", [vast_member(), vast_stream()], ids=["member", "stream"])
def test_a_dictionary_of_the_writers_choice_is_not_allocated(content: bytes) -> None:
    tracemalloc.start()
    found = look_for_danger(lambda at, n: content[at : at + n], len(content), b"x.joblib")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [suspicion.level for suspicion in found] == [UNSCANNED]
    assert "LZMA" in found[0].what
    assert peak < 64 << 20


def test_an_error_that_no_decoder_is_known_for_is_no_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(zipfile.ZipExtFile, "read", fails)
    content = archive({"m/data.pkl": b"x" * 99}, method=zipfile.ZIP_DEFLATED)
    found = look_for_danger(lambda at, n: content[at : at + n], len(content), b"x.pt")
    assert [suspicion.level for suspicion in found] == [UNSCANNED]


@settings(max_examples=150, deadline=None)
@given(
    head=st.sampled_from(
        [b"", b"\x80\x04", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"\x1f\x8b", b"BZh"]
    ),
    rest=st.binary(max_size=300),
)
def test_hostile_bytes_break_nothing(head: bytes, rest: bytes) -> None:
    content = head + rest
    look_for_danger(lambda at, length: content[at : at + length], len(content), b"x.pkl")
