"""Many hosts and a pruner on one bucket, all killed again and again: nothing lost, nothing shared.

Each host is a process with a state folder of its own. What it means to store it writes down before
it does, and what it was told is stored it writes down after: that is what the test believes.

The grace is seconds here, where it is a day in life. What docs/format.md assumes of it (from the
second look to the snapshot's put less than a quarter of it passes) a writer on a busy machine might
not keep: one that would break it dies instead, which is one more kill.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from backupd.config.settings import KeySettings, LimitsSettings, ModelSettings, S3Target, Settings
from backupd.errors import BackupdError
from backupd.operations.catalog import list_snapshots, read_catalog
from backupd.operations.check import check
from backupd.operations.prune import prune
from backupd.operations.restore import RestoreRequest, restore
from backupd.operations.setup import initialise
from backupd.operations.snapshot import take_snapshot
from backupd.repository.descriptor import Descriptor
from backupd.repository.layout import DESCRIPTOR
from backupd.repository.reader import BlobFinder, BlobReader
from backupd.repository.repository import Repository
from backupd.repository.snapshots import parse_name
from backupd.repository.usage import Usage
from backupd.repository.writer import Writer
from backupd.targets.base import Buffer, ObjectInfo, Target
from backupd.targets.wrapping import WrappedTarget
from tests.rigs.servers import S3Server
from tests.support.killing import kill_self
from tests.support.world import CHUNKING, Manifest, OpenInstallation, manifest_of, scratch
from tests.support.world import small_packs as small_packs
from tests.targets.conftest import s3_settings

pytestmark = pytest.mark.usefixtures("small_packs")

MODEL = "m"
KEPT = 3
SEED = int(os.environ.get("BACKUPD_HOSTS_SEED", "1"))
SHARED_BYTES = 400_000


@dataclass(frozen=True, slots=True)
class Fleet:
    """Where it all is, and how long the grace is."""

    root: Path
    target: S3Target
    grace_seconds: float

    def settings(self, number: int) -> Settings:
        """One host's; the last two share a name, as a box that was cloned with its disk."""
        home = self.root / f"home{number}"
        return Settings(
            source=home / "backupd.yaml",
            state_dir=home / "state",
            host=f"host{max(number, 1)}",
            key=KeySettings(file=self.root / "key"),
            targets={"s3": self.target},
            policies={},
            models={MODEL: ModelSettings(MODEL, home / "model", {"s3": ()})},
            limits=LimitsSettings(threads=1),
        )

    def open(
        self,
        number: int,
        wrap: Callable[[Target], Target] | None = None,
        *,
        ahead_seconds: float = 0.0,
    ) -> OpenInstallation:
        def clock() -> float:
            return time.time() + ahead_seconds

        return OpenInstallation(self.settings(number), clock=clock, wrap=wrap)

    @property
    def over(self) -> bool:
        """Whether the processes are to end."""
        return (self.root / "over").exists()

    def meant(self, number: int) -> Path:
        return self.root / f"home{number}" / "meant"

    def told(self, number: int) -> Path:
        return self.root / f"home{number}" / "told"


class PunctualTarget(WrappedTarget):
    """A target of a writer that dies rather than break what is assumed of it."""

    def __init__(self, target: Target, grace_seconds: float) -> None:
        super().__init__(target)
        self._most = grace_seconds / 6
        self._looked = self._indexed = time.monotonic()
        self._relied = False

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        if prefix == "tombstones/":
            self._looked = time.monotonic()
        if prefix == "index/":
            self._indexed, self._relied = time.monotonic(), False
        return self._target.list(prefix)

    def stat(self, name: str) -> ObjectInfo | None:
        self._rely(name)
        return self._target.stat(name)

    def put(self, name: str, parts: Sequence[Buffer], *, warm: bool = False) -> None:
        self._rely(name)
        self._target.put(name, parts, warm=warm)

    def _rely(self, name: str) -> None:
        if name.startswith("packs/") and not self._relied:
            self._relied = True
            if time.monotonic() - self._indexed > self._most:
                kill_self()

    def put_if_absent(self, name: str, parts: Sequence[Buffer]) -> bool:
        if time.monotonic() - self._looked > self._most:
            kill_self()
        return self._target.put_if_absent(name, parts)


# -- what the processes do ----------------------------------------------------------------------


def be_host(fleet: Fleet, number: int, seed: int) -> None:
    """Train, snapshot, write down; until the end."""
    rng = random.Random(seed)
    numbers = np.random.default_rng(seed)
    home = fleet.root / f"home{number}"
    model = home / "model"
    while not fleet.over:
        model.mkdir(parents=True, exist_ok=True)
        # The same base model on every box, and what its own training made of it.
        shared = np.random.default_rng(rng.randrange(3)).bytes(SHARED_BYTES)
        (model / "base.bin").write_bytes(shared)
        (model / f"own{rng.randrange(3)}.bin").write_bytes(numbers.bytes(rng.randrange(90_000)))
        with fleet.meant(number).open("a") as file:
            file.write(json.dumps(plain(manifest_of(model))) + "\n")
        before = manifest_of(model)
        with fleet.open(number, lambda target: PunctualTarget(target, fleet.grace_seconds)) as it:
            try:
                report = take_snapshot(it, fleet.settings(number).models[MODEL])
            except BackupdError as error:
                note(home, f"failed: {error}")
                continue
        assert manifest_of(model) == before
        if report.snapshot is not None and not report.partial:
            line = json.dumps([report.snapshot.version, plain(before)])
            with fleet.told(number).open("a") as file:
                file.write(line + "\n")


def be_pruner(fleet: Fleet, number: int, seed: int) -> None:
    """Forget all but the newest few, and prune; until the end."""
    home = fleet.root / f"home{number}"
    home.mkdir(exist_ok=True)
    while not fleet.over:
        with fleet.open(number) as installation:
            try:
                forget(installation.repository("s3"))
                prune(installation, "s3", grace_seconds=fleet.grace_seconds)
            except BackupdError as error:
                note(home, f"failed: {error}")


def forget(repository: Repository) -> None:
    by_folder: dict[str, list[int]] = {}
    for snapshot in repository.list_snapshots().snapshots:
        by_folder.setdefault(snapshot.name.folder, []).append(snapshot.name.version)
        newest = sorted(by_folder[snapshot.name.folder])[-KEPT:]
        if snapshot.name.version not in newest:
            repository.forget(snapshot.name)
    for folder, versions in by_folder.items():
        for version in sorted(versions)[:-KEPT]:
            name = parse_name(f"snapshots/{folder}/{version:010d}")
            assert name is not None
            repository.forget(name)


def note(home: Path, text: str) -> None:
    with (home / "notes").open("a") as file:
        file.write(text.replace("\n", " ") + "\n")


def plain(manifest: Manifest) -> dict[str, list[object]]:
    return {path: list(what) for path, what in manifest.items()}


class Crew:
    """The processes; one that is killed begins again."""

    def __init__(self, fleet: Fleet, hosts: int) -> None:
        self._fleet = fleet
        self._pruner = hosts
        self._begun = 0
        self._numbers: dict[int, int] = {}
        for number in range(hosts + 1):
            self._begin(number)

    def _begin(self, number: int) -> None:
        self._begun += 1
        child = os.fork()
        if child:
            self._numbers[child] = number
            return
        status = 1
        try:
            act = be_pruner if number == self._pruner else be_host
            act(self._fleet, number, SEED * 1000 + self._begun)
            status = 0
        except BaseException:
            note(self._fleet.root, f"{number}: {traceback.format_exc()}")
        finally:
            os._exit(status)

    def reap(self) -> None:
        """Take in who died; while there is time they begin again."""
        for child in list(self._numbers):
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                number = self._numbers.pop(pid)
                assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, number
                if not self._fleet.over:
                    self._begin(number)

    def kill_one(self, rng: random.Random) -> None:
        if self._numbers:
            os.kill(rng.choice(sorted(self._numbers)), signal.SIGKILL)

    def finish(self) -> None:
        patience = time.monotonic() + 120
        while self._numbers:
            assert time.monotonic() < patience, "a process hangs"
            self.reap()
            time.sleep(0.05)


# -- the test -------------------------------------------------------------------------------------


def run(fleet: Fleet, hosts: int, seconds: float) -> None:
    with fleet.open(0) as installation:
        initialise(installation)
        made = installation.repository("s3").descriptor
        descriptor = Descriptor(made.repository_id, made.encrypted, CHUNKING)
        installation.target("s3").put(DESCRIPTOR, [descriptor.to_json()])
    defaults = Writer.__init__.__kwdefaults__
    assert defaults is not None
    before = defaults["grace_seconds"]
    defaults["grace_seconds"] = fleet.grace_seconds
    for number in range(hosts + 1):
        (fleet.root / f"home{number}").mkdir(exist_ok=True)
    rng = random.Random(SEED)
    kills = 0
    try:
        crew = Crew(fleet, hosts)
        begun = time.monotonic()
        # On a busy machine longer, until something has happened, and with ever rarer kills, as
        # nobody there may live long enough for a snapshot.
        while (spent := time.monotonic() - begun) < seconds or (
            snapshots_told(fleet, hosts) < 2 * hosts
        ):
            assert spent < 35 * seconds, "hardly anything happens"
            time.sleep(rng.uniform(0.2, 1.8) * max(1.0, spent / seconds))
            crew.kill_one(rng)
            kills += 1
            crew.reap()
        (fleet.root / "over").touch()
        crew.finish()
    finally:
        defaults["grace_seconds"] = before
    problems = fleet.root / "notes"
    assert not problems.exists(), problems.read_text()
    attest(fleet, hosts, kills)


def snapshots_told(fleet: Fleet, hosts: int) -> int:
    return sum(len(lines(fleet.told(number))) for number in range(hosts))


def attest(fleet: Fleet, hosts: int, kills: int) -> None:
    with fleet.open(0) as installation:
        listing = installation.repository("s3").list_snapshots()
        assert not listing.damaged
        listed = {(s.record.host, s.record.version) for s in listing.snapshots}
        newest = {host: max(v for h, v in listed if h == host) for host, _ in listed}
        found = check(installation, "s3", read_data_percent=100).findings
        assert not [finding for finding in found if not finding.harmless], found
    told: dict[tuple[str, int], dict[str, list[object]]] = {}
    meant: dict[str, list[dict[str, list[object]]]] = {}
    for number in range(hosts):
        host = fleet.settings(number).host
        for line in lines(fleet.told(number)):
            version, manifest = json.loads(line)
            if (host, version) in told:
                # One who found nothing changed is told of the version that there is.
                assert told[host, version] == manifest, "a version was shared"
            told[host, version] = manifest
        meant.setdefault(host, []).extend(json.loads(line) for line in lines(fleet.meant(number)))
    for host, version in told:
        kept = (host, version) in listed or version <= newest.get(host, 0) - KEPT
        assert kept, f"{host}@v{version} was stored, and is lost"
    with fleet.open(0) as installation:
        for snapshot in read_catalog(installation).snapshots:
            host, version = snapshot.info.host, snapshot.info.version
            with scratch(fleet.root / "restored") as out:
                report = restore(installation, snapshot, RestoreRequest(to=out))
                assert not report.failed
                given = plain(manifest_of(out))
            if (host, version) in told:
                assert given == told[host, version]
            assert given in meant[host], "what is listed is not what any host meant to store"
        host = fleet.settings(hosts - 1).host
        assert {found.host for found in list_snapshots(installation, host=host)} <= {host}
    orphans_go(fleet, len(listed))
    print(f"{kills} kills, {len(told)} snapshots told of, {len(listed)} listed")


def lines(path: Path) -> list[str]:
    """Whole lines: the last may have been cut short by a kill."""
    text = path.read_text() if path.exists() else ""
    return [line for line in text.split("\n")[:-1] if line]


def orphans_go(fleet: Fleet, listed: int) -> None:
    """Half an hour later nothing is left but what snapshots need, and there never was a lock."""
    for hour in range(1, 5):
        with fleet.open(0, ahead_seconds=3600.0 * hour) as installation:
            prune(installation, "s3", grace_seconds=1800.0)
    with fleet.open(0) as installation:
        repository = installation.repository("s3")
        names = [info.name for info in repository.target.list("")]
        kinds = {name.partition("/")[0] for name in names}
        assert kinds <= {"repository.json", "keys", "packs", "index", "snapshots"}, kinds
        index, damaged = repository.read_index_objects()
        assert not damaged
        usage = Usage(index, ())
        reader = BlobReader(BlobFinder(repository, index, lambda message: None))
        for snapshot in repository.list_snapshots().snapshots:
            usage.add_snapshot(reader, snapshot.record)
        assert not usage.missing
        packs = usage.packs()
        assert {pack.pack_id.hex() for pack in packs if pack.used_count} == {
            name[-64:] for name in names if name.startswith("packs/")
        }
        stored = sum(pack.used_bytes for pack in packs)
        # Boxes that begin at the same moment do not see each other's packs yet.
        assert stored < listed * SHARED_BYTES * 2 / 3, "what all boxes have is stored once"


def fleet_on(server: S3Server, root: Path, grace_seconds: float) -> Fleet:
    bucket = server.create_bucket()
    place = s3_settings(server, root, bucket, prefix="team")
    return Fleet(root, place, grace_seconds)


@pytest.mark.torture
@pytest.mark.timeout(600)
def test_hosts_and_a_pruner_share_a_bucket_under_kills(s3_server: S3Server, tmp_path: Path) -> None:
    run(fleet_on(s3_server, tmp_path, 6.0), 4, 10.0)


@pytest.mark.endurance
@pytest.mark.timeout(1500)
def test_sixteen_hosts_and_a_pruner_share_a_bucket_for_two_minutes(
    s3_server: S3Server, tmp_path: Path
) -> None:
    run(fleet_on(s3_server, tmp_path, 24.0), 16, 120.0)
