"""Makes the golden repositories of format 1: `python -m tests.golden.format1.make DIR`.

They were made once and are never made anew: every later version must read what is stored here.
The script stands beside them to say what they hold. Randomness and clock are fixed; inode
numbers and ctimes are this machine's, and so not all bytes of a second run are the same.

`encrypted.tar.gz` and `plain.tar.gz` are the repositories (git keeps no empty folders, and few
files are easier to keep), `expected.json` is what each snapshot must give back.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from backupd.codec.chunking_parameters import ChunkingParameters
from backupd.config.settings import KeySettings, LocalTarget, ModelSettings, Settings
from backupd.operations.forget import forget_snapshots
from backupd.operations.installation import Installation
from backupd.operations.prune import prune
from backupd.operations.setup import initialise
from backupd.operations.snapshot import take_snapshot
from backupd.repository.descriptor import Descriptor
from backupd.repository.layout import DESCRIPTOR
from tests.golden.format1.manifest import manifest_of

HOST = "golden"
MODEL = "llama"
PASSPHRASE = "correct horse battery staple"
START = 1_800_000_000.0
CHUNKING = ChunkingParameters(2048, 8192, 16384, 15, 10)


def make_model(path: Path, noise: random.Random) -> None:
    """Everything that a tree can hold, and files of every way to store one."""
    (path / "weights").mkdir(parents=True)
    (path / "empty").mkdir()
    (path / "weights" / "noise.bin").write_bytes(noise.randbytes(90_000))
    (path / "weights" / "text.log").write_bytes(b"step 1 loss 0.25\n" * 6000)
    write_numbers(path / "weights" / "model.safetensors", 0)
    (path / "small.bin").write_bytes(noise.randbytes(500))
    (path / "small.json").write_bytes(b'{"hidden_size": 4096}' * 20)
    (path / "nothing").write_bytes(b"")
    os.link(path / "small.bin", path / "weights" / "linked.bin")
    os.symlink("weights/noise.bin", path / "latest")
    os.symlink(b"\xff\xfe nowhere", os.fsencode(path) + b"/dangling")
    with open(os.fsencode(path) + b"/caf\xe9 \xf0\x9f.bin", "wb") as file:
        file.write(b"a name that is not UTF-8")
    (path / "modell-\u00e4\U0001f600.txt").write_text("a name that is")
    with (path / "holes.bin").open("wb") as file:
        file.write(noise.randbytes(4096))
        file.seek(1 << 20)
        file.write(noise.randbytes(4096))
        file.truncate(3 << 20)
    with (path / "hole.bin").open("wb") as file:
        file.truncate(1 << 20)
    os.setxattr(path / "small.json", "user.origin", b"hub \x00\xff")
    os.setxattr(path / "weights", "user.folder", b"yes")
    os.chmod(path / "small.bin", 0o4751)
    os.chmod(path / "weights", 0o2750)
    os.chmod(path / "nothing", 0o000)


def write_numbers(path: Path, step: int) -> None:
    """A tensor of bf16 numbers that moves a little with each step, as in a training run."""
    numbers = np.random.default_rng(20261123)
    values = numbers.standard_normal(34_000) * 0.02
    for _ in range(step):
        values += numbers.standard_normal(len(values)) * 2e-5
    tensor = (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    head = {"w": {"dtype": "BF16", "shape": [34_000], "data_offsets": [0, len(tensor)]}}
    text = json.dumps(head).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + tensor)


def set_times(path: Path) -> None:
    walk = os.walk(os.fsencode(path), topdown=False)
    for number, (folder, folders, files) in enumerate(walk):
        for name in [*folders, *files, b"."]:
            stamp = int(START - 1000) * 10**9 + 123_456_789 + number * 10**9
            os.utime(os.path.join(folder, name), ns=(stamp, stamp), follow_symlinks=False)


def change_model(path: Path, noise: random.Random) -> None:
    with (path / "weights" / "noise.bin").open("r+b") as file:
        file.seek(30_000)
        file.write(noise.randbytes(10_000))
    write_numbers(path / "weights" / "model.safetensors", 1)
    (path / "new.txt").write_text("came with the second\n")
    (path / "modell-\u00e4\U0001f600.txt").unlink()


def make(work: Path, *, encrypted: bool) -> dict[str, object]:
    """A repository at `work/repo`; what its snapshots must give back, by version."""
    noise = random.Random(20261123)
    key = KeySettings(file=work / "key") if encrypted else KeySettings(encryption=False)
    model = ModelSettings(MODEL, work / "model", {"disk": ()})
    settings = Settings(
        source=work / "backupd.yaml",
        state_dir=work / "state",
        host=HOST,
        key=key,
        targets={"disk": LocalTarget("disk", work / "repo")},
        policies={},
        models={MODEL: model},
    )
    now = [START]
    randomness: Callable[[int], bytes] = noise.randbytes
    expected: dict[str, object] = {}
    with Installation(
        settings, environment={}, clock=lambda: now[0], random=randomness
    ) as installation:
        initialise(installation)
        target = installation.target("disk")
        made = installation.repository("disk").descriptor
        target.put(DESCRIPTOR, [Descriptor(made.repository_id, made.encrypted, CHUNKING).to_json()])
        installation.drop("disk")
        repository = installation.repository("disk")
        if encrypted:
            repository.add_key(PASSPHRASE, label="passphrase", created="2027-01-15T08:00:00+00:00")
        make_model(work / "model", noise)
        for _ in range(4):
            set_times(work / "model")
            now[0] += 3600
            labels = {"kind": "golden"}
            metrics = {"loss": 0.25}
            report = take_snapshot(installation, model, labels=labels, metrics=metrics)
            assert report.snapshot is not None and not report.partial, report
            expected[str(report.snapshot.version)] = manifest_of(work / "model")
            if report.snapshot.version < 2:
                change_model(work / "model", noise)
            else:
                extra = work / "model" / f"{report.snapshot.version}.bin"
                extra.write_bytes(noise.randbytes(12_000))
        newest = repository.list_snapshots().snapshots[1]
        repository.amend(newest, {"kind": "golden", "release": "yes"})
        repository.amend(newest, {"release": "1.0"})
        forget_snapshots(installation, [f"{MODEL}@v3", f"{MODEL}@v4"])
        del expected["3"], expected["4"]
        # Long after the store's own clock, so that nothing is too young to be marked.
        now[0] = 4_000_000_000.0
        assert prune(installation, "disk").packs_marked
    shutil.rmtree(work / "repo" / ".tmp", ignore_errors=True)
    return expected


def main(out: Path) -> None:
    # So that the small repository still has several packs and index objects.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backupd.repository.pack.PACK_TARGET_SIZE", 48 << 10)
        patch.setattr("backupd.repository.writer._FLUSH_PACKS", 2)
        patch.setattr("backupd.repository.prune_plan.SMALL_PACK", 1 << 10)
        expected = {}
        for name in ("encrypted", "plain"):
            work = out / f"{name}.work"
            work.mkdir(parents=True)
            expected[name] = make(work, encrypted=name == "encrypted")
            with tarfile.open(out / f"{name}.tar.gz", "w:gz") as tar:
                tar.add(work / "repo", "repo")
            if name == "encrypted":
                shutil.copy(work / "key", out / "key")
            shutil.rmtree(work)
    (out / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
