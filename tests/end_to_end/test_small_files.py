"""Small files go through batches; what comes between them, and what is left out, keeps its turn."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from backupd.config.settings import LimitsSettings
from backupd.errors import StoppedError
from backupd.operations import small_files, storing
from tests.support.world import World, make_world, manifest_of

SECRET = "token: hf_" + "S3cret" * 8 + "\n"


def many_files(path: Path, rng: random.Random) -> None:
    """Small files of all kinds, with larger ones, folders and links between them."""
    words = [rng.randbytes(4).hex() for _ in range(200)]
    for number in range(700):
        folder = path / f"{number % 7}" / f"{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{number:04}"
        size = rng.choice([0, 1, 50, 4000, 16_380, 16_384, 16_385, 40_000, 65_535])
        if number % 90 == 0:
            file.write_bytes(rng.randbytes(300_000))
        elif number % 25 == 0:
            file.symlink_to("nowhere")
        elif number % 17 == 0:
            with file.open("wb") as sparse:  # is stored at once, but for its turn
                sparse.seek(40_000)
                sparse.write(b"%d" % number)
        elif number % 10 == 0:
            file.write_bytes(rng.randbytes(size))
        elif number % 13 == 0:
            file.write_bytes(b"the same again and again")
        else:
            file.write_text(" ".join(rng.choices(words, k=size // 9)))
        if number % 50 == 1:
            (folder / f"{number:04}-too").hardlink_to(file)


@pytest.fixture(params=[1, 2, 4])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    world = make_world(tmp_path / "world", size=1 << 16)
    world.limits = LimitsSettings(threads=request.param)
    return world


@pytest.mark.parametrize("batch", [1, 3000, 2 << 20])
def test_every_file_comes_back_whatever_batches_they_went_in(
    world: World, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_files, "_BATCH_BYTES", batch)
    monkeypatch.setattr(small_files, "_BUFFER_BYTES", batch + (128 << 10))
    monkeypatch.setattr(storing, "_MOST_WAITING", 5)
    rng = random.Random(5)
    many_files(world.model_path / "many", rng)
    first = world.snapshot()
    assert first.snapshot is not None
    (world.model_path / "many" / "3" / "1" / "0010").write_text("changed")
    for number in range(0, 700, 31):
        found = list((world.model_path / "many").glob(f"*/*/{number:04}"))
        if number % 2 and not found[0].is_symlink():
            found[0].write_bytes(rng.randbytes(500))
        elif not number % 3:
            found[0].unlink()
    world.snapshot()
    assert world.snapshot().unchanged
    world.verify()
    assert world.findings() == [] and world.orphans() == []


def test_secrets_among_them_are_left_out_and_all_else_is_kept(world: World) -> None:
    many = world.model_path / "many"
    many_files(many, random.Random(6))
    expected = manifest_of(world.model_path)
    for number in range(0, 700, 60):
        (many / f"secret-{number}").write_text("x" * number + "\n" + SECRET)
    # One inode of two names, and the same secret twice: neither is to come in by its second name.
    (many / "a-first").write_text(SECRET)
    (many / "a-second").hardlink_to(many / "a-first")
    (many / "b-again").write_text(SECRET)
    # A token that two files make together is none, nor is one in what is no text.
    (many / "c-1").write_text("hf_" + "a" * 20)
    (many / "c-2").write_text("a" * 20)
    (many / "c-3").write_bytes(b"\0" + SECRET.encode())
    report = world.snapshot()
    assert report.snapshot is not None
    left_out = [line for line in report.snapshot.skipped if "a Hugging Face token" in line]
    assert len(left_out) == len(report.snapshot.skipped) == 12 + 3
    out = world.root / "out"
    assert not world.restore(report.snapshot.version, out).failed
    restored = manifest_of(out)
    kept = {"many/c-1", "many/c-2", "many/c-3"}
    assert {os.fsdecode(p) for p in restored.keys() - expected.keys()} == kept
    assert expected.keys() <= restored.keys()
    assert world.snapshot().unchanged
    assert world.findings() == [] and world.orphans() == []


def test_a_snapshot_that_is_stopped_among_them_is_resumed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    monkeypatch.setattr(small_files, "_BATCH_BYTES", 20_000)
    many_files(world.model_path / "many", random.Random(7))
    stop = threading.Event()
    squeeze = small_files.SmallBatch.squeeze
    calls = []

    def stop_at_the_tenth(self: small_files.SmallBatch, stream: object) -> None:
        calls.append(self)
        if len(calls) == 10:
            stop.set()
        squeeze(self, stream)  # type: ignore[arg-type]

    monkeypatch.setattr(small_files.SmallBatch, "squeeze", stop_at_the_tenth)
    with pytest.raises(StoppedError):
        world.snapshot(stop=stop)
    assert world.listed() == []
    world.snapshot()
    world.verify()


def test_a_worker_that_fails_fails_the_snapshot(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    many_files(world.model_path / "many", random.Random(8))

    def fail(self: object, stream: object) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr(small_files.SmallBatch, "squeeze", fail)
    with pytest.raises(RuntimeError, match="no room"):
        world.snapshot()
    monkeypatch.undo()
    world.snapshot()
    world.verify()
