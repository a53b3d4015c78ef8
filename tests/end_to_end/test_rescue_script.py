"""docs/rescue.py, run as somebody would who has lost everything but the repository and the key."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from backupd.codec.blob import BlobHeader, Encoded
from backupd.codec.planes import PlaneEncoder, payload_bound
from backupd.repository.tree import ChunkRef
from tests.end_to_end.test_golden_format1 import EXPECTED, GOLDEN, without_root
from tests.golden.format1.make import PASSPHRASE
from tests.golden.format1.manifest import manifest_of
from tests.support.deltas import encode_delta, ordered_delta
from tests.support.stored import Store

RESCUE = Path(__file__).parents[2] / "docs" / "rescue.py"


def rescue(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script in an interpreter that finds nothing of the project."""
    return subprocess.run(
        [sys.executable, "-P", str(RESCUE), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd="/",
        env={"PATH": os.environ["PATH"], **environment},
        check=False,
        timeout=180,
    )


def unpacked(name: str, tmp_path: Path) -> Path:
    with tarfile.open(GOLDEN / f"{name}.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    return tmp_path / "repo"


def test_it_imports_nothing_of_backupd() -> None:
    code = "import sys, runpy; runpy.run_path(sys.argv[1]); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(RESCUE)], capture_output=True, text=True, check=True
    )
    assert not [name for name in done.stdout.split() if name.split(".")[0] == "backupd"]


@pytest.mark.parametrize("name", ["encrypted", "plain"])
def test_it_lists_and_restores_from_the_packs_alone(name: str, tmp_path: Path) -> None:
    repository = unpacked(name, tmp_path)
    for path in (repository / "index").iterdir():
        path.unlink()
    key = {"BACKUPD_KEY_FILE": str(GOLDEN / "key")} if name == "encrypted" else {}
    listed = rescue(repository, "list", **key)
    assert listed.returncode == 0, listed.stderr
    assert [line.split()[:3] for line in listed.stdout.splitlines()] == [
        ["golden", "llama", "v1"],
        ["golden", "llama", "v2"],
    ]
    assert "release=1.0" in listed.stdout
    for version in ("1", "2"):
        out = tmp_path / f"out{version}"
        done = rescue(repository, "restore", "golden", "llama", version, out, **key)
        assert (done.returncode, done.stderr) == (0, "")
        assert manifest_of(out) == EXPECTED[name][version]


def test_a_passphrase_opens_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    repository = unpacked("encrypted", tmp_path)
    assert rescue(repository, "list", BACKUPD_PASSPHRASE=PASSPHRASE).returncode == 0
    wrong = rescue(repository, "list", BACKUPD_PASSPHRASE="wrong")
    assert wrong.returncode == 1 and "opens none of the keys" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_what_is_damaged_is_named_and_the_rest_is_given(tmp_path: Path) -> None:
    repository = unpacked("plain", tmp_path)
    for pack in repository.glob("packs/*/*"):
        content = bytearray(pack.read_bytes())
        content[100] ^= 1  # in the first blob of each
        pack.write_bytes(content)
    out = tmp_path / "out"
    done = rescue(repository, "restore", "golden", "llama", "2", out)
    assert done.returncode == 3 and "not given" in done.stderr
    assert "Traceback" not in done.stderr
    expected = without_root(EXPECTED["plain"]["2"])
    found = without_root(manifest_of(out))
    files = {path for path, entry in found.items() if "blake3" in entry}
    assert files
    assert all(found[path]["blake3"] == expected[path]["blake3"] for path in files)


@pytest.mark.parametrize(
    "path", [b"../out", b"/etc/out", b"a/../../out", b"link/out", b"a//out", b"./out", b"a\0b"]
)
def test_nothing_is_written_outside_of_the_folder(path: bytes, tmp_path: Path) -> None:
    store = Store(tmp_path / "repo")
    outside = tmp_path / "outside"
    outside.mkdir()
    store.folder(b"")
    store.folder(b"a")
    store.symlink(b"link", os.fsencode(outside))
    store.file(path, b"escaped")
    store.file(b"sound", b"given all the same")
    store.commit()
    done = rescue(store.root, "restore", "box", "m", "1", tmp_path / "deep" / "out")
    assert done.returncode == 3 and done.stderr.count("not given") == 1, done.stderr
    assert not list(outside.iterdir())
    assert sorted(p.name for p in tmp_path.rglob("out")) == ["out"]
    assert (tmp_path / "deep" / "out" / "sound").read_bytes() == b"given all the same"


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    repository = unpacked("plain", tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("precious")
    done = rescue(repository, "restore", "golden", "llama", "2", out)
    assert done.returncode == 1 and "not empty" in done.stderr
    assert [path.name for path in out.iterdir()] == ["mine"]


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize(("kind", "width"), [("<f4", 4), ("<f2", 2), ("<f8", 8)])
def test_it_reads_planes_and_deltas(kind: str, width: int, ordered: bool, tmp_path: Path) -> None:
    numbers = np.random.default_rng(width)
    old = numbers.standard_normal(40_003) * 0.02
    base = old.astype(kind).tobytes()
    new = (old + numbers.standard_normal(len(old)) * 1e-5).astype(kind).tobytes()
    planes, out = PlaneEncoder(), bytearray(payload_bound(len(base)))
    store = Store(tmp_path / "repo")
    written = planes.encode(base, width, True, out)
    data = BlobHeader(2).pack() + out[:written]
    base_id = store.encoded(base, Encoded(2, b"", data))
    encode = ordered_delta if ordered else encode_delta
    written = encode(planes, new, base, width, True, out)
    assert written and bool(out[1] & 4) >= ordered, "the order was not used"
    data = BlobHeader(3, base_id=base_id).pack() + out[:written]
    new_id = store.encoded(new, Encoded(3, base_id, data))
    store.refer(b"new", new, (ChunkRef(new_id, len(new)),))
    store.refer(b"old", base, (ChunkRef(base_id, len(base)),))
    store.commit()
    done = rescue(store.root, "restore", "box", "m", "1", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out" / "new").read_bytes() == new
    assert (tmp_path / "out" / "old").read_bytes() == base
