"""A small model, a repository of it, and this test's own memory of what each version must be.

What a restore gives is compared with that memory, never with what backupd says of itself.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from blake3 import blake3

from backupd.codec.chunking_parameters import ChunkingParameters
from backupd.config.settings import (
    KeySettings,
    LimitsSettings,
    LocalTarget,
    ModelSettings,
    NasTarget,
    Settings,
    TargetSettings,
)
from backupd.operations.catalog import list_snapshots
from backupd.operations.check import check
from backupd.operations.installation import Installation
from backupd.operations.reports import Finding, RestoreReport, SnapshotReport
from backupd.operations.resolve import resolve
from backupd.operations.restore import RestoreRequest, restore
from backupd.operations.setup import initialise
from backupd.operations.snapshot import take_snapshot
from backupd.repository.descriptor import Descriptor
from backupd.repository.layout import DESCRIPTOR
from backupd.repository.reader import BlobFinder, BlobReader
from backupd.repository.usage import Usage
from backupd.targets.base import Target
from backupd.targets.capabilities import Capabilities, Creation, Lock, Ranges
from backupd.targets.wrapping import WrappedTarget

HOST = "box"
MODEL = "m"
KIB = 1024
# Small, so that a model of a few megabytes has dozens of chunks and packs.
CHUNKING = ChunkingParameters(16 * KIB, 48 * KIB, 128 * KIB, 17, 13)
PACK_SIZE = 128 * KIB

Manifest: TypeAlias = dict[str, tuple[object, ...]]
Wrap: TypeAlias = Callable[[Target], Target]


@pytest.fixture
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs of 128 KiB, so that there are many; index objects after every third."""
    monkeypatch.setattr("backupd.repository.pack.PACK_TARGET_SIZE", PACK_SIZE)
    monkeypatch.setattr("backupd.repository.writer._FLUSH_PACKS", 3)
    monkeypatch.setattr("backupd.repository.prune_plan.SMALL_PACK", 16 * KIB)


PROBED = Capabilities(
    creation=Creation.ATOMIC,
    ranges=Ranges.PARTIAL,
    whole=True,
    checksums=True,
    listing=True,
    deletes=True,
    versioning=False,
    object_lock=Lock.ABSENT,
    clock_ahead_seconds=0.0,
    probed=0.0,
)


def leave_unprobed(patch: pytest.MonkeyPatch) -> None:
    """Have `init` take a store on trust, where the probe's seconds would be most of a test."""
    patch.setattr("backupd.operations.probing.probe", lambda installation, name: PROBED)


class OpenInstallation(Installation):
    """An installation whose targets are what `wrap` makes of them."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float],
        wrap: Wrap | None = None,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        super().__init__(settings, environment={}, clock=clock, random=random)
        self._wrap = wrap

    def target(self, name: str) -> Target:
        with self._lock:
            known = name in self._targets
            target = super().target(name)
            if not known and self._wrap is not None:
                target = self._targets[name] = self._wrap(target)
            return target


@dataclass(slots=True)
class World:
    """A folder that holds it all. `expected` has the manifest of each version there must be."""

    root: Path
    targets: Mapping[str, TargetSettings]
    expected: dict[int, Manifest] = field(default_factory=dict)
    highest: int = 0
    ahead: float = 0.0
    random: Callable[[int], bytes] = os.urandom
    limits: LimitsSettings = field(default_factory=LimitsSettings)

    @property
    def model_path(self) -> Path:
        return self.root / "model"

    @property
    def settings(self) -> Settings:
        return Settings(
            source=self.root / "backupd.yaml",
            state_dir=self.root / "state",
            host=HOST,
            key=KeySettings(file=self.root / "key"),
            targets=self.targets,
            policies={},
            models={MODEL: ModelSettings(MODEL, self.model_path, {"disk": ()}, settle_seconds=0.1)},
            limits=self.limits,
        )

    def clock(self) -> float:
        """The time, `ahead` of the machine's."""
        return time.time() + self.ahead

    def open(self, wrap: Wrap | None = None) -> OpenInstallation:
        return OpenInstallation(self.settings, clock=self.clock, wrap=wrap, random=self.random)

    def snapshot(self, **options: object) -> SnapshotReport:
        """Take one that must succeed, and remember what it must give back."""
        manifest = manifest_of(self.model_path)
        with self.open() as installation:
            report = take_snapshot(installation, self.settings.models[MODEL], **options)  # type: ignore[arg-type]
        assert not report.partial, report
        if report.snapshot is not None and not report.unchanged:
            assert report.snapshot.version > self.highest, "a version number was used twice"
            self.highest = report.snapshot.version
            self.expected[report.snapshot.version] = manifest
        return report

    def listed(self) -> list[int]:
        with self.open() as installation:
            found = list_snapshots(installation, model=MODEL, targets=["disk"])
            return sorted(info.version for info in found)

    def restore(self, version: int, to: Path, *, overwrite: bool = False) -> RestoreReport:
        with self.open() as installation:
            snapshot = resolve(installation, f"{MODEL}@v{version}", target="disk")
            request = RestoreRequest(to=to, overwrite=overwrite)
            return restore(installation, snapshot, request)

    def findings(self, target: str = "disk") -> list[Finding]:
        """What check finds with all data read, but for what it calls harmless."""
        with self.open() as installation:
            report = check(installation, target, read_data_percent=100)
        return [finding for finding in report.findings if not finding.harmless]

    def verify(self) -> None:
        """Every version that must be there is listed and restores to what it must be."""
        assert self.listed() == sorted(self.expected)
        for version, manifest in self.expected.items():
            with scratch(self.root / "restored") as out:
                report = self.restore(version, out)
                assert not report.failed
                assert manifest_of(out) == manifest, f"v{version} is not what was stored"

    def orphans(self, target: str = "disk") -> list[str]:
        """Objects that nothing needs: packs, tombstones, versions that were forgotten."""
        with self.open() as installation:
            repository = installation.repository(target)
            index, damaged = repository.read_index_objects()
            assert not damaged
            present = {info.name for info in repository.target.list("")}
            usage = Usage(index, ())
            reader = BlobReader(BlobFinder(repository, index, lambda message: None))
            for snapshot in repository.list_snapshots().snapshots:
                usage.add_snapshot(reader, snapshot.record)
            assert not usage.missing
            used = {pack.pack_id.hex() for pack in usage.packs() if pack.used_count}
        found = [name for name in present if name.startswith("tombstones/")]
        found += [name for name in present if name.startswith("packs/") and name[-64:] not in used]
        # A marker stays for a day: a writer that listed the folder before may still be about.
        listed = [name for name in present if name.startswith("snapshots/")]
        versions = {int(name[43:53]) for name in listed if not name.endswith("-forgotten")}
        found += [f"version {v}" for v in versions - self.expected.keys() - {self.highest}]
        return found

    def temporaries(self) -> list[str]:
        found = []
        for settings in self.targets.values():
            assert isinstance(settings, LocalTarget | NasTarget)
            folder = settings.path / ".tmp"
            found += os.listdir(folder) if folder.exists() else []
        return found


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """A path that is gone afterwards."""
    shutil.rmtree(path, ignore_errors=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def make_world(
    root: Path,
    *,
    seed: int = 1,
    copies: int = 0,
    size: int = 1 << 20,
    disk: TargetSettings | None = None,
    keys_seed: int | None = None,
) -> World:
    """A world with an empty repository on `disk` (and `copy1`...) and a model of some MB.

    With `keys_seed` keys and nonces are those of the seed, and packs are filled by one thread,
    so that the same blobs lie in the same packs each time.
    """
    root.mkdir(parents=True, exist_ok=True)
    targets: dict[str, TargetSettings] = {"disk": disk or LocalTarget("disk", root / "repo")}
    for number in range(1, copies + 1):
        targets[f"copy{number}"] = LocalTarget(f"copy{number}", root / f"copy{number}")
    world = World(root, targets)
    if keys_seed is not None:
        world.random = random.Random(keys_seed).randbytes
        world.limits = LimitsSettings(threads=1)
    with world.open() as installation:
        initialise(installation)
        for name in targets:
            target = installation.target(name)
            made = installation.repository(name).descriptor
            target.put(
                DESCRIPTOR,
                [Descriptor(made.repository_id, made.encrypted, CHUNKING).to_json()],
            )
    make_model(world.model_path, random.Random(seed), size)
    return world


def make_model(path: Path, rng: random.Random, size: int) -> None:
    """Noise, compressible numbers, small files, links of both kinds, an empty folder."""
    numbers = np.random.default_rng(rng.getrandbits(32))
    (path / "checkpoint" / "empty").mkdir(parents=True)
    (path / "logs").mkdir()
    (path / "weights.bin").write_bytes(numbers.bytes(size))
    (path / "checkpoint" / "optimizer.bin").write_bytes(
        (numbers.normal(size=size // 8).astype(np.float32)).tobytes()
    )
    (path / "logs" / "train.log").write_bytes(b"step 1 loss 0.25\n" * (size // 40))
    for number in range(24):
        (path / "logs" / f"{number}.json").write_bytes(numbers.bytes(rng.randrange(3000)))
    (path / "latest").symlink_to("checkpoint")
    (path / "weights.link").hardlink_to(path / "weights.bin")


def change_model(path: Path, rng: random.Random) -> None:
    """As a training step does: some of the large written over, small ones come and go."""
    numbers = np.random.default_rng(rng.getrandbits(32))
    large = path / rng.choice(["weights.bin", "checkpoint/optimizer.bin"])
    with large.open("r+b") as file:
        file.seek(rng.randrange(large.stat().st_size))
        file.write(numbers.bytes(rng.randrange(1, 300_000)))
    for _ in range(4):
        small = path / "logs" / f"{rng.randrange(30)}.json"
        if small.exists() and rng.random() < 0.3:
            small.unlink()
        else:
            small.write_bytes(numbers.bytes(rng.randrange(1, 3000)))


def manifest_of(path: Path) -> Manifest:
    """What a restore must give back of a folder: types, modes, times, contents, links."""
    found: Manifest = {}
    first: dict[int, str] = {}
    for folder, folders, files in os.walk(path):
        folders.sort()
        for name in [*folders, *sorted(files)]:
            full = Path(folder) / name
            status = full.lstat()
            place = str(full.relative_to(path))
            same = first.setdefault(status.st_ino, place)
            content: object = ""
            if stat.S_ISLNK(status.st_mode):
                found[place] = (status.st_mode, os.readlink(full))
                continue
            if stat.S_ISREG(status.st_mode):
                content = blake3(full.read_bytes()).hexdigest()
            found[place] = (status.st_mode, status.st_mtime_ns, content, same)
    return found


class GatedTarget(WrappedTarget):
    """A target whose writing operations call `before(verb, name)` and `after(verb, name)`."""

    def __init__(
        self,
        target: Target,
        *,
        before: Callable[[str, str], None] = lambda verb, name: None,
        after: Callable[[str, str], None] = lambda verb, name: None,
        reads: bool = False,
    ) -> None:
        super().__init__(target)
        self._before = before
        self._after = after
        self._reads = reads

    def put(self, name, parts, *, warm=False):  # type: ignore[no-untyped-def]
        self._before("put", name)
        self._target.put(name, parts, warm=warm)
        self._after("put", name)

    def put_if_absent(self, name, parts):  # type: ignore[no-untyped-def]
        self._before("put_if_absent", name)
        created = self._target.put_if_absent(name, parts)
        self._after("put_if_absent", name)
        return created

    def delete(self, name):  # type: ignore[no-untyped-def]
        self._before("delete", name)
        self._target.delete(name)
        self._after("delete", name)

    def read_into(self, name, offset, buffer):  # type: ignore[no-untyped-def]
        if self._reads:
            self._before("read_into", name)
        self._target.read_into(name, offset, buffer)
        if self._reads:
            self._after("read_into", name)


class Countdown:
    """Calls `act` at the n-th call (from 1); safe for several threads."""

    def __init__(self, number: int, act: Callable[[], None]) -> None:
        self.calls = 0
        self._number = number
        self._act = act
        self._lock = threading.Lock()

    def __call__(self, verb: str, name: str) -> None:
        with self._lock:
            self.calls += 1
            if self.calls == self._number:
                self._act()
