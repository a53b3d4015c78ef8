"""The folders that are stored: random ones made on the spot, trained ones kept in a cache.

An input also knows what changes in it, as moves of files that can be taken back, so that every
program meets the same folder again.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import disk_bytes

Moves = tuple[tuple[Path, Path], ...]

TRAINED = {
    "scratch": "trained from scratch, model and AdamW state, fp32 (a)",
    "finetune-bf16": "fine-tuned at 2e-5, bf16 safetensors (b)",
    "finetune-fp32": "fine-tuned at 2e-5, fp32 safetensors (b)",
    "finetune-pt": "the fp32 series as .pt (c)",
    "finetune-npz": "the fp32 series as .npz (c)",
    "finetune-h5": "the fp32 series as HDF5 (c)",
    "finetune-gguf": "the fp32 series as GGUF (c)",
    "lora": "LoRA: a frozen bf16 base and its adapters (d)",
}
NAMES = ("large", "small", *TRAINED)

PARTS = 8
SMALL_FILES, SMALL_FOLDERS = 100_000, 100
SMALL_BYTES = (100, 8000)


@dataclass(frozen=True, slots=True)
class Input:
    """A folder to store. `change` renews about an eighth of it; `arrivals` is its growth."""

    name: str
    title: str
    source: Path
    size_bytes: int
    change: Moves
    arrivals: tuple[Moves, ...] = ()


@contextmanager
def moved(moves: Moves) -> Iterator[None]:
    """Carry the moves out for the length of the block, and take them back after it."""
    for origin, place in moves:
        os.rename(origin, place)
    try:
        yield
    finally:
        for origin, place in reversed(moves):
            os.rename(place, origin)


def default_cache() -> Path:
    """Where trained inputs are kept: $XDG_CACHE_HOME, else beside this package."""
    chosen = os.environ.get("XDG_CACHE_HOME")
    if chosen:
        return Path(chosen) / "backupd-benchmarks"
    return Path(__file__).resolve().parent / ".cache"


def ensure_trained(cache: Path) -> None:
    """Train what the cache lacks, in about 15 minutes of one core. Raises RuntimeError."""
    if all((cache / name).is_dir() for name in TRAINED):
        return
    print(f"training the inputs into {cache}: about 15 minutes, once", file=sys.stderr)
    ended = subprocess.run(
        (sys.executable, "-m", "benchmarks.training", str(cache)),
        cwd=Path(__file__).resolve().parent.parent,
        stdout=sys.stderr,
        check=False,
    )
    if ended.returncode != 0:
        raise RuntimeError(
            "the trained inputs could not be made; they need:"
            " pip install -r benchmarks/requirements.txt"
        )


def build(name: str, work: Path, *, size_bytes: int, cache: Path) -> Input:
    """Lay out the input `name` below `work`. `size_bytes` is that of `large`.

    Raises RuntimeError when a trained input is asked for and cannot be made.
    """
    place = work / name
    source = place / "source"
    for folder in (source, place / "incoming", place / "parked"):
        folder.mkdir(parents=True)
    if name == "large":
        return _build_large(place, size_bytes)
    if name == "small":
        return _build_small(place)
    ensure_trained(cache)
    return _build_trained(name, place, cache / name)


def _replacements(place: Path, names: list[str]) -> Moves:
    moves: list[tuple[Path, Path]] = []
    for name in names:
        moves.append((place / "source" / name, place / "parked" / name.replace("/", "+")))
        moves.append((place / "incoming" / name.replace("/", "+"), place / "source" / name))
    return tuple(moves)


def _build_large(place: Path, size_bytes: int) -> Input:
    """Eight files of random bytes, one of which is replaced."""
    names = [f"part-{number}.bin" for number in range(PARTS)]
    for path in (*(place / "source" / name for name in names), place / "incoming" / names[3]):
        bytes_left = size_bytes // PARTS
        generator = random.Random(str(path.relative_to(place)))
        with open(path, "wb") as file:
            while bytes_left > 0:
                bytes_left -= file.write(generator.randbytes(min(bytes_left, 1 << 20)))
    source = place / "source"
    title = f"{PARTS} files of {size_bytes // PARTS >> 20} MiB of random bytes"
    return Input("large", title, source, disk_bytes(source), _replacements(place, names[3:4]))


def _build_small(place: Path) -> Input:
    """Many small files cut from the source text of Python's standard library."""
    library = Path(sysconfig.get_paths()["stdlib"])
    text = b"".join(path.read_bytes() for path in sorted(library.glob("*.py")))
    generator = random.Random("small")
    changed = []

    def write(path: Path) -> None:
        start = generator.randrange(len(text) - SMALL_BYTES[1])
        path.write_bytes(text[start : start + generator.randint(*SMALL_BYTES)])

    for number in range(SMALL_FILES):
        folder = place / "source" / f"{number % SMALL_FOLDERS:03}"
        folder.mkdir(exist_ok=True)
        name = f"{folder.name}/{number:06}.txt"
        write(place / "source" / name)
        if number // SMALL_FOLDERS % 8 == 3:
            write(place / "incoming" / name.replace("/", "+"))
            changed.append(name)
    source = place / "source"
    title = f"{SMALL_FILES:,} files of {SMALL_BYTES[0]} to {SMALL_BYTES[1]} bytes of text"
    return Input("small", title, source, disk_bytes(source), _replacements(place, changed))


def _build_trained(name: str, place: Path, cached: Path) -> Input:
    """A series of checkpoints; the change is that the next one comes and the oldest goes."""
    checkpoints = sorted(cached.iterdir(), key=lambda path: int(path.name.split("-")[1]))
    *held, following = checkpoints
    for checkpoint in held:
        shutil.copytree(checkpoint, place / "source" / checkpoint.name)
    shutil.copytree(following, place / "incoming" / following.name)
    source, parked = place / "source", place / "parked"
    oldest = held[0].name
    change = (
        (source / oldest, parked / oldest),
        (place / "incoming" / following.name, source / following.name),
    )
    arrivals = tuple(((parked / path.name, source / path.name),) for path in held)
    return Input(name, TRAINED[name], source, disk_bytes(source), change, arrivals)
