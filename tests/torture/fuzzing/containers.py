"""Files of models: every parser of a container, and all that is judged from a file's structure."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import pickletools  # noqa: F401 - here, as what a parser imports late the fuzzer cannot follow
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import picklescan.scanner  # noqa: F401

from backupd.capture.containers import Layout
from backupd.capture.containers.bounded import BoundedFile, MalformedError
from backupd.capture.containers.gguf import parse_gguf
from backupd.capture.containers.npy import parse_npy
from backupd.capture.containers.safetensors import parse_safetensors
from backupd.capture.containers.stored import decode_layout, encode_layout
from backupd.capture.containers.torch_pickle import read_tensor_table
from backupd.capture.containers.zip_container import parse_zip
from backupd.capture.danger import look_for_danger
from backupd.capture.training import read_standing
from backupd.capture.wholeness.files import judge_file
from backupd.capture.wholeness.hdf5 import judge_hdf5
from backupd.capture.wholeness.sets import Member, judge_sets, spread
from backupd.capture.wholeness.tensorflow import check_message, data_sizes
from backupd.capture.wholeness.verdict import Judgement, Verdict
from backupd.errors import DamagedError
from tests.support.layouts import check_layout, checked_look, watched
from tests.torture.fuzzing.target import Target

GOLDEN = Path(__file__).parents[2] / "golden"
FILES = {
    path.name: path.read_bytes()
    for path in sorted((GOLDEN / "containers").iterdir())
    if path.suffix != ".py" and path.name != "expected.json" and path.is_file()
}
INDEX = (GOLDEN / "tensorflow" / "ckpt.index").read_bytes()
MESSAGE = b"\x08\x01\x12\x05hello\x1d\x01\x02\x03\x04"
# A superblock of version 3: eight bytes an address, closed, and 48 bytes as it says.
HDF5 = b"\x89HDF\r\n\x1a\n\3\x08\x08\0" + bytes(16) + (48).to_bytes(8, "little") + bytes(12)


def files(*endings: str) -> tuple[bytes, ...]:
    return tuple(data for name, data in FILES.items() if name.endswith(endings))


def bounded(data: bytes) -> BoundedFile:
    return BoundedFile(watched(data), len(data))


def laid_out(parse: Callable[[BoundedFile], Layout]) -> Callable[[bytes], None]:
    return lambda data: check_layout(parse(bounded(data)), len(data))


def pickles() -> tuple[bytes, ...]:
    found = [FILES["legacy.pt"]]
    for data in files(".pt"):
        if data.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                found += [archive.read(n) for n in archive.namelist() if n.endswith(".pkl")]
    return tuple(found)


def check_pickle(data: bytes) -> None:
    table = read_tensor_table(data)
    assert table.opcodes <= len(data)
    for name, view in table.views:
        assert type(name) is str
        assert table.storages[view.storage.key] == view.storage
        assert len(view.shape) == len(view.strides)


# -- judgements, of files whose first byte says which name they have ------------------------------

NAMES = (
    *(b"last.pt", b"a.npz", b"w.h5", b"m.safetensors", b"m.gguf", b"x.npy", b"saved_model.pb"),
    *(b"a.json", b"o.pkl", b"tokens.bin", b"notes.txt", b"o.joblib", b"m.keras", b"p.pkl.gz"),
)


def named(data: bytes) -> tuple[bytes, bytes]:
    return NAMES[data[0] % len(NAMES)] if data else NAMES[0], data[1:]


def as_named(*pairs: tuple[bytes, bytes]) -> tuple[bytes, ...]:
    return tuple(bytes([NAMES.index(name)]) + content for name, content in pairs)


def check_judgement(judgement: Judgement) -> None:
    assert bool(judgement.reason) == (judgement.verdict is not Verdict.WHOLE)
    judgement.reason.encode()


def check_judged_file(data: bytes) -> None:
    name, content = named(data)
    check_judgement(judge_file(watched(content), len(content), name))


def check_danger(data: bytes) -> None:
    name, content = named(data)
    found = look_for_danger(
        lambda offset, length: content[offset : offset + length], len(content), name
    )
    assert len({suspicion.level for suspicion in found}) == len(found)
    for suspicion in found:
        assert suspicion.what.isprintable()
        assert len(suspicion.what) < 2000


def archive(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as file:
        for name, content in members.items():
            file.writestr(zipfile.ZipInfo(name), content, method)
    return made.getvalue()


HARMFUL = b"cposix\nsystem\n(S'true'\ntR."
ODD = pickle.dumps(complex, 2)
LAMBDA = json.dumps({"class_name": "Lambda"}).encode()
DANGERS = as_named(
    (b"o.pkl", HARMFUL),
    (b"o.pkl", ODD),
    (b"o.pkl", pickle.dumps({"a": [1, "b", 2.0, b"c"]}, 4)),
    (b"o.joblib", zlib.compress(HARMFUL)),
    (b"p.pkl.gz", gzip.compress(HARMFUL, mtime=0)),
    (b"o.joblib", bz2.compress(HARMFUL)),
    (b"o.joblib", lzma.compress(HARMFUL)),
    (b"last.pt", archive({"archive/data.pkl": HARMFUL, "archive/data/0": bytes(9)})),
    (b"last.pt", archive({"archive/data.pkl": HARMFUL}, zipfile.ZIP_DEFLATED)),
    (b"last.pt", archive({"archive/data.pkl": HARMFUL}, zipfile.ZIP_BZIP2)),
    (b"last.pt", archive({"archive/data.pkl": HARMFUL}, zipfile.ZIP_LZMA)),
    (b"m.keras", archive({"config.json": LAMBDA}, zipfile.ZIP_DEFLATED)),
    (b"a.npz", FILES["compressed.npz"]),
    (b"x.npy", FILES["objects.npy"]),
    (b"w.h5", FILES["model.h5"] + LAMBDA),
    (b"last.pt", FILES["script.pt"]),
    (b"last.pt", FILES["legacy.pt"]),
)

# -- sets of files, each a name's number, a time and the content, with a separator between --------

PATHS = (
    *(b"model.safetensors.index.json", b"model-00001-of-00002.safetensors"),
    *(b"model-00002-of-00002.safetensors", b"ckpt.index", b"ckpt.data-00000-of-00001"),
    *(b"checkpoint-5/trainer_state.json", b"checkpoint-5/optimizer.pt", b"latest"),
    *(b"global_step5/mp_rank_00_model_states.pt", b"global_step5/mp_rank_01_model_states.pt"),
    *(b"__0_0.distcp", b".metadata", b"variables/variables.data-00000-of-00001"),
    *(b"saved_model.pb", b"global_step5/zero_pp_rank_1_mp_rank_00_optim_states.pt"),
)
BETWEEN = b"\xff\xfe"


def check_sets(data: bytes) -> None:
    found: dict[bytes, tuple[int, bytes]] = {}
    for part in data.split(BETWEEN):
        if len(part) >= 2:
            found[PATHS[part[0] % len(PATHS)]] = part[1], part[2:]
    folders: dict[bytes, dict[bytes, Member]] = {}
    for path, (time, content) in found.items():
        above, _, name = path.rpartition(b"/")
        member = Member(path, len(content), time & 7, bool(time & 8), bool(time & 16))
        folders.setdefault(above, {})[name] = member

    def read(path: bytes) -> BoundedFile | None:
        return bounded(found[path][1]) if path in found else None

    lost = {b"": {b"ckpt.data-00000-of-00001", b"__1_0.distcp"}}
    sets = judge_sets(folders, read, lost if data[:1] == b"\1" else None)
    for one in sets:
        check_judgement(one.judgement)
    files, inner = spread({}, sets)
    for judgement in (*files.values(), *inner.values()):
        check_judgement(judgement)


def in_sets(*sets: dict[bytes, bytes]) -> tuple[bytes, ...]:
    return tuple(
        BETWEEN.join(
            bytes([PATHS.index(path), 8 + number]) + content
            for number, (path, content) in enumerate(files.items())
        )
        for files in sets
    )


SETS = in_sets(
    {
        PATHS[1]: b"x",
        PATHS[2]: b"y",
        PATHS[0]: json.dumps({"weight_map": {"a": PATHS[1].decode()}}).encode(),
    },
    {PATHS[4]: bytes(4845), PATHS[3]: INDEX},
    {PATHS[6]: b"x", PATHS[5]: b'{"global_step": 5}'},
    {PATHS[8]: b"x", PATHS[9]: b"x", PATHS[14]: b"x", PATHS[7]: b"global_step5"},
    {PATHS[10]: b"x", PATHS[11]: b"x"},
    {PATHS[12]: b"x", PATHS[13]: MESSAGE},
)

# -- where a training stands ----------------------------------------------------------------------

TRAININGS = (b"trainer_state.json", b"history.json", b"metrics.csv")


def check_training(data: bytes) -> None:
    path, content = TRAININGS[data[0] % 3] if data else TRAININGS[0], data[1:]
    standing = read_standing(path, len(content), lambda at, length: content[at : at + length])
    if standing is not None:
        assert standing.step is None or 0 <= standing.step < 1 << 64
        assert all(len(name) <= 128 for name in standing.metrics)
        assert len(standing.metrics) <= 256


def check_stored_layout(data: bytes) -> None:
    layout = decode_layout(data, 1 << 20)
    assert decode_layout(encode_layout(layout), 1 << 20) == layout


PICKLE_WORDS = (
    *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"X\7\0\0\0storage"),
    *(b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_parameter\n", b"\x80\2", b"\x80\4"),
    *(b"\x8c\1a", b"Q", b"tR", b"(", b")R", b"}(", b"u.", b"\x94", b"q\0", b"h\0", b"\x95"),
    *(b"\x93", b"b", b"\x81", b"\x92", b"\x8e", b"\x96", b"I01\n", b"L9L\n", b"F1\n", b"S'a'\n"),
)
ZIP_WORDS = (b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"\1\0\x10\0", b"data.pkl",
             b".npy", b"byteorder", b"\xff\xff\xff\xff", b"/data/0")  # fmt: skip
SAFETENSORS_WORDS = (b'"dtype":"F32"', b'"shape":[', b'"data_offsets":[', b'"__metadata__":{',
                     b"},", b'"BF16"', b"\\ud800", b"1e400", b'"a":')  # fmt: skip
NPY_WORDS = (b"\x93NUMPY\1\0", b"'descr': ", b"'fortran_order': True", b"'shape': (", b"'<f4'",
             b"'|O'", b"9999999999999999999")  # fmt: skip
GGUF_WORDS = (b"GGUF\3\0\0\0", b"general.alignment", b"\4\0\0\0", b"\x09\0\0\0\x08\0\0\0")

TARGETS = {
    "safetensors": Target(
        laid_out(parse_safetensors), files(".safetensors"), (MalformedError,), SAFETENSORS_WORDS
    ),
    "zip": Target(
        laid_out(parse_zip),
        tuple(data for data in FILES.values() if data.startswith(b"PK")),
        (MalformedError,),
        ZIP_WORDS,
        most_bytes=16384,
    ),
    "npy": Target(
        laid_out(lambda file: parse_npy(file, "x")), files(".npy"), (MalformedError,), NPY_WORDS
    ),
    "gguf": Target(laid_out(parse_gguf), files(".gguf"), (MalformedError,), GGUF_WORDS),
    "container": Target(
        checked_look,
        tuple(FILES.values()),
        (),
        (*ZIP_WORDS, *SAFETENSORS_WORDS, *NPY_WORDS, *GGUF_WORDS),
        most_bytes=16384,
    ),
    "pickle": Target(check_pickle, pickles(), (MalformedError,), PICKLE_WORDS, most_bytes=8192),
    "hdf5": Target(
        lambda data: check_judgement(judge_hdf5(bounded(data))),
        (FILES["model.h5"][:512], HDF5),
        (MalformedError,),
        most_bytes=512,
    ),
    "tensorflow index": Target(lambda data: data_sizes(bounded(data)), (INDEX,), (MalformedError,)),
    "protobuf message": Target(
        lambda data: check_message(bounded(data)), (MESSAGE,), (MalformedError,), most_bytes=512
    ),
    "judged file": Target(
        check_judged_file,
        as_named(
            *((b"last.pt", data) for data in FILES.values() if len(data) < 4000),
            (b"saved_model.pb", MESSAGE),
            (b"a.json", b'{"a": 1}'),
            (b"o.pkl", HARMFUL),
        ),
    ),
    "judged set": Target(check_sets, SETS, (), (BETWEEN, b"\\ud800", b'"weight_map":')),
    "danger": Target(
        check_danger,
        DANGERS,
        (),
        (*PICKLE_WORDS, *ZIP_WORDS, *NPY_WORDS, b'"class_name":"Lambda"', b"\x1f\x8b", b"BZh"),
        # Ten seconds is what a look at one file may take, and 16 MiB what is unpacked of it.
        seconds=12.0,
        memory_bytes=320 << 20,
    ),
    "training": Target(
        check_training,
        (
            b'\0{"global_step": 5, "epoch": 1.5, "log_history": [{"loss": 1, "step": 5}]}',
            b'\1{"loss": [1.0, 0.5], "accuracy": [0, "0.5"]}',
            b"\2epoch,step,loss\n0,5,0.25\n1,,x\n",
        ),
        (),
        (b'"log_history":', b"1e400", b"NaN", b"epoch,", b'""'),
        most_bytes=2048,
    ),
    "stored layout": Target(
        check_stored_layout,
        (
            b'{"kind":"npy","note":"","tensors":[["a","f32",[2,1],0,8],["b","q4_0",[],8,18]]}',
            encode_layout(parse_safetensors(bounded(FILES["model.safetensors"]))),
        ),
        (DamagedError,),
        (b"1e400", b"Infinity", b"\\ud800", b'["a","f32",[1],0,4]'),
    ),
}
