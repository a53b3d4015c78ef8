"""What a file's structure says of it: each cut of each container is torn, the whole one is not."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from backupd.capture.wholeness.files import judge_file
from backupd.capture.wholeness.names import is_checkpoint_name
from backupd.capture.wholeness.verdict import WHOLE, Judgement, Verdict

GOLDEN = Path(__file__).parents[1] / "golden" / "containers"


def judge(data: bytes, name: str) -> Judgement:
    def read_at(offset: int, length: int) -> bytes:
        return data[offset : offset + length]

    return judge_file(read_at, len(data), name.encode())


def safetensors(count: int = 1000) -> bytes:
    header = {"w": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(4 * count)


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.arange(1000.0), b=np.arange(10))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "name", [path.name for path in sorted(GOLDEN.iterdir()) if path.suffix not in (".py", ".json")]
)
def test_every_file_of_every_library_is_whole(name: str) -> None:
    if (GOLDEN / name).is_file():
        assert judge((GOLDEN / name).read_bytes(), name) == WHOLE


@pytest.mark.parametrize(
    "name",
    ["arrays.npz", "checkpoint.pt", "model.gguf", "model.h5", "model.keras", "model.safetensors"],
)
def test_every_cut_of_a_container_is_torn(name: str) -> None:
    data = (GOLDEN / name).read_bytes()
    if name.endswith(".gguf"):
        data = data.rstrip(b"\0")  # the padding behind the last tensor
    for end in sorted({0, 1, 8, 12, 30, *range(64, len(data), max(len(data) // 97, 1))}):
        assert judge(data[:end], name).verdict is not Verdict.WHOLE, end
    # What is longer than it says was not closed, or holds the end of a longer one before it.
    if not name.endswith(".gguf"):
        assert judge(data + bytes(512), name).verdict is not Verdict.WHOLE


def test_a_file_whose_room_was_reserved_before_it_was_written_is_torn() -> None:
    for name in ("last.pt", "m.safetensors", "w.h5", "a.npz", "m.keras", "m.gguf", "x.npy"):
        assert judge(bytes(100_000), name).verdict is Verdict.TORN
        assert judge(b"", name).verdict is Verdict.TORN


def test_what_is_no_container_is_believed() -> None:
    for name, data in {
        "notes.txt": b"",
        "model.safetensors": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
        "legacy.pt": b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
        "config.json": b'{"a": 1}\n',
        "list.json": b"[1, 2]",
        "word.json": b'"text"',
        "lines.json": b'{"a": 1}\n{"a": 2}\n',
    }.items():
        assert judge(data, name) == WHOLE, name


def test_json_that_does_not_end_is_doubtful() -> None:
    assert judge(b'{"step": 500, "log', "trainer_state.json").verdict is Verdict.DOUBTFUL
    assert judge(b"[1, 2", "list.json").verdict is Verdict.DOUBTFUL


def test_an_hdf5_file_says_where_it_ends_and_whether_it_is_open() -> None:
    data = bytearray((GOLDEN / "model.h5").read_bytes())
    assert data[8] == 0  # the layout of version 0 below
    end = struct.unpack_from("<Q", data, 24 + 16)[0]
    assert end == len(data)
    struct.pack_into("<Q", data, 24 + 16, (1 << 64) - 1)
    assert "no end-of-file address" in judge(bytes(data), "w.h5").reason
    version3 = b"\x89HDF\r\n\x1a\n" + bytes([3, 8, 8, 1]) + struct.pack("<QQQQ", 0, 0, 48, 0)
    assert "open for writing" in judge(version3 + bytes(4), "w.h5").reason
    closed = version3[:11] + b"\0" + version3[12:]
    assert judge(closed + bytes(4), "w.h5") == WHOLE


def test_a_saved_model_is_a_message_that_fills_its_file() -> None:
    message = b"\x08\x01\x12\x05hello\x1d\x01\x02\x03\x04"
    assert judge(message, "saved_model.pb") == WHOLE
    assert judge(message[:-2], "saved_model.pb").verdict is Verdict.DOUBTFUL
    assert judge(message[:6], "saved_model.pb").verdict is Verdict.DOUBTFUL


def test_a_zip_of_a_hundred_thousand_members_is_not_called_torn() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(100_001):
            archive.writestr(str(number), b"")
    assert judge(buffer.getvalue(), "many.pt") == WHOLE


def test_a_header_longer_than_is_read_is_no_torn_one() -> None:
    header = b"{" + b" " * (33 << 20) + b"}"
    data = struct.pack("<Q", len(header)) + header
    assert judge(data, "m.safetensors") == WHOLE
    assert judge(data[:-1], "m.safetensors").verdict is Verdict.TORN


@pytest.mark.parametrize(
    "name",
    [
        *("last.pt", "model.safetensors", "w.H5", "a.npz", "m.keras", "ckpt.index", "__0_0.distcp"),
        *("ckpt-1.data-00000-of-00001", "trainer_state.json", "m.safetensors.index.json", "latest"),
        *(".metadata", "saved_model.pb", "pytorch_model.bin", "epoch=3.ckpt"),
    ],
)
def test_files_of_checkpoints_are_known_by_name(name: str) -> None:
    assert is_checkpoint_name(name.encode())


@pytest.mark.parametrize(
    "name",
    ["train.log", "events.out.tfevents.1700000000.box", "metrics.csv", "README.md", "a.json"],
)
def test_logs_and_other_files_hold_nothing_up(name: str) -> None:
    assert not is_checkpoint_name(name.encode())
