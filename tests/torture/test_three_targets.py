"""Three targets under fire, a disk, a NAS and a bucket, and a daemon that is killed.

Each round one target is in trouble while three models change; what is lost is named when it is
looked for. After `sync` and `repair` every listed snapshot comes back from each target alone.
The short form has three rounds; `pytest -m endurance` has twenty.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import yaml

from tests.rigs.command_line import CommandLine
from tests.rigs.servers import S3Server
from tests.rigs.tcp_gate import Gate, gate
from tests.support.world import Manifest, manifest_of

ROUNDS = int(os.environ.get("BACKUPD_FIRE_ROUNDS", "20"))
SEED = int(os.environ.get("BACKUPD_FIRE_SEED", "1"))
TARGETS = ("disk", "nas", "s3")
MODELS = ("alpha", "beta", "gamma")
MIB = 1 << 20


@dataclass(slots=True)
class Fire:
    """The box, its targets and what has been meant to be stored of each model."""

    root: Path
    line: CommandLine
    gate: Gate
    server: S3Server
    bucket: str
    rng: random.Random
    daemon: subprocess.Popen[bytes] | None = None
    meant: dict[str, list[Manifest]] = field(default_factory=lambda: {m: [] for m in MODELS})
    told: dict[tuple[str, int], Manifest] = field(default_factory=dict)
    named: int = 0

    def place(self, target: str) -> Path:
        """The folder of the disk's or the NAS's repository."""
        return self.root / target / "models"

    # -- the daemon -----------------------------------------------------------------------------

    def start(self) -> None:
        self.daemon = subprocess.Popen(
            [sys.executable, "-m", "backupd", "run"],
            env=self.line.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self.root / "daemon.log").open("ab"),
        )
        # Until it answers a command does its work by itself, and tells of it by itself.
        end = time.monotonic() + 120
        while not self.line("--json", "status").document["running"]:
            assert time.monotonic() < end, "the daemon does not answer"
            time.sleep(0.2)

    def kill(self) -> None:
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait()

    # -- a round --------------------------------------------------------------------------------

    def change_models(self) -> None:
        numbers = np.random.default_rng(self.rng.getrandbits(32))
        for model in MODELS:
            folder = self.root / "models" / model
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("weights.bin", "optimizer.bin"):
                path = folder / name
                if not path.exists():
                    path.write_bytes(numbers.bytes(600_000))
                with path.open("r+b") as file:
                    file.seek(self.rng.randrange(400_000))
                    file.write(numbers.bytes(self.rng.randrange(1, 200_000)))
            (folder / f"log{self.rng.randrange(5)}.txt").write_bytes(numbers.bytes(500))

    def snapshot(self, *, killed: bool) -> dict[str, Any]:
        """Take one of each model, perhaps while the daemon dies; what was answered."""
        self.change_models()
        manifests = {model: manifest_of(self.root / "models" / model) for model in MODELS}
        for model, manifest in manifests.items():
            self.meant[model].append(manifest)
        if killed:
            threading.Timer(self.rng.uniform(0.1, 2.0), self.kill).start()
        answer = self.line("--json", "snapshot", "--wait")
        if killed:
            assert self.daemon is not None
            self.daemon.wait()
            self.start()
        document: dict[str, Any] = answer.document if answer.out.strip() else {}
        for entry in document.get("snapshots", ()):
            taken = entry.get("snapshot")
            if taken and not entry.get("unchanged"):
                place = (taken["model"], taken["version"])
                assert place not in self.told, "a version was used twice"
                self.told[place] = manifests[taken["model"]]
        return document

    def wait_until_named(self, target: str) -> None:
        """Until `status` says of some model what is wrong with the target."""
        end = time.monotonic() + 240
        while True:
            document = self.line("--json", "status").document
            states = [state for model in document["models"] for state in model["targets"]]
            # Without an error where the daemon has only just begun again.
            wrong = {state["target"] for state in states if state.get("error")}
            if target in wrong:
                self.named += 1
                return
            assert time.monotonic() < end, f"nobody says that {target} is in trouble"
            time.sleep(0.5)

    def settled(self) -> None:
        """Every model is as it was last told to be: what is owed of a round is stored."""
        document = self.snapshot(killed=False)
        assert document.get("snapshots"), document

    # -- looking behind the back of it -----------------------------------------------------------

    def objects(self, target: str) -> dict[str, bytes]:
        """The packs and snapshots of a target."""
        if target == "s3":
            client = self.server.client()
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix="box/"
            )
            keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
            names = [key.removeprefix("box/") for key in keys]
            names = [name for name in names if name.startswith("packs/")]
            return {
                name: client.get_object(Bucket=self.bucket, Key=f"box/{name}")["Body"].read()
                for name in names
            }
        place = self.place(target)
        files = [path for path in sorted(place.glob("packs/*/*")) if path.is_file()]
        return {str(path.relative_to(place)): path.read_bytes() for path in files}

    def put(self, target: str, name: str, stored: bytes | None) -> None:
        if target == "s3":
            client = self.server.client()
            if stored is None:
                client.delete_object(Bucket=self.bucket, Key=f"box/{name}")
            else:
                client.put_object(Bucket=self.bucket, Key=f"box/{name}", Body=stored)
        elif stored is None:
            (self.place(target) / name).unlink()
        else:
            (self.place(target) / name).write_bytes(stored)


# -- troubles: each is a context in which the target suffers -------------------------------------


@contextmanager
def absent(fire: Fire, target: str) -> Iterator[None]:
    if target == "s3":
        fire.gate.slam()
        yield
        fire.gate.shut = False
        return
    # As a cable that is pulled: what is open stays open, and nothing is found any more.
    subprocess.run(["umount", "--lazy", str(fire.root / target)], check=True)
    try:
        yield
    finally:
        bind(fire.root, target)


@contextmanager
def full(fire: Fire, target: str) -> Iterator[None]:
    ballast = fire.root / f"{target}-medium" / "ballast"
    with ballast.open("wb") as file:
        try:
            while True:
                file.write(bytes(MIB))
        except OSError:
            pass
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def read_only(fire: Fire, target: str) -> Iterator[None]:
    place = str(fire.root / target)
    subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,bind,rw", place], check=True)


@contextmanager
def slow(fire: Fire, target: str) -> Iterator[None]:
    assert target == "s3"
    fire.gate.delay_seconds = 0.15
    try:
        yield
    finally:
        fire.gate.delay_seconds = 0.0


@contextmanager
def shot_at(fire: Fire, target: str) -> Iterator[None]:
    """Wrong bytes and deleted objects; check names each.

    What the trouble before held up is brought everywhere first: of a snapshot that is on one target
    only, nobody could mend what is shot there.
    """
    fire.line.ok("sync")
    sound = fire.objects(target)
    chosen = fire.rng.sample(sorted(sound), min(4, len(sound)))
    for number, name in enumerate(chosen):
        stored = bytearray(sound[name])
        stored[fire.rng.randrange(len(stored))] ^= 1 << fire.rng.randrange(8)
        spoilt = (bytes(stored), bytes(stored[: len(stored) // 2]), None)[number % 3]
        fire.put(target, name, spoilt)
        print(target, name, ("flipped", "truncated", "deleted")[number % 3])
    yield
    answer = fire.line("--json", "check", "--read-data", "--target", target)
    (report,) = answer.document["targets"]
    named = {finding["object"] for finding in report["findings"]}
    missing = set(chosen) - named
    assert not missing, f"check does not name {missing} on {target}"
    fire.named += len(chosen)
    mended = fire.line("--json", "repair", "--target", target)
    assert mended.code == 0, mended


Trouble = Callable[[Fire, str], Any]
TROUBLES: Mapping[str, tuple[Trouble, ...]] = {
    "disk": (full, read_only, shot_at),
    "nas": (absent, full, read_only, shot_at),
    "s3": (absent, slow, shot_at),
}


def bind(root: Path, target: str) -> None:
    """Mount a target's medium at its place."""
    medium = root / f"{target}-medium"
    subprocess.run(["mount", "--bind", str(medium), str(root / target)], check=True)


def burn(fire: Fire, order: Sequence[tuple[str, Trouble]]) -> None:
    for model, meant in fire.meant.items():
        # The daemon's own first run may come before the first change.
        meant.append(manifest_of(fire.root / "models" / model))
    fire.start()
    fire.settled()
    for number, (target, trouble) in enumerate(order):
        killed = fire.rng.random() < 0.4
        print(f"round {number}: {trouble.__name__} on {target}, killed {killed}", flush=True)
        with trouble(fire, target):
            document = fire.snapshot(killed=killed)
            # Whoever was asked and died has told nobody; the next round asks again.
            if trouble in (absent, full, read_only) and not killed:
                results = [r for entry in document["snapshots"] for r in entry["targets"]]
                if any(r["target"] == target and r["error"] for r in results):
                    fire.named += 1
                else:
                    fire.wait_until_named(target)
    fire.settled()
    assert fire.daemon is not None
    fire.daemon.terminate()
    assert fire.daemon.wait(timeout=120) == 0
    extinguish(fire)


def extinguish(fire: Fire) -> None:
    """After `sync` and `repair` each target alone gives every snapshot back."""
    fire.line.ok("sync")
    assert fire.line("--json", "repair").document["targets"]
    fire.line.ok("sync")
    listed = fire.line.ok("--json", "list").document["snapshots"]
    places = {(s["model"], s["version"]): s for s in listed}
    assert fire.told.keys() <= places.keys(), "what was told to be stored is lost"
    for (model, version), found in sorted(places.items()):
        assert set(found["targets"]) == set(TARGETS), found
        for target in TARGETS:
            out = fire.root / "restored"
            shutil.rmtree(out, ignore_errors=True)
            name = f"{model}@v{version}"
            fire.line.ok("restore", name, "--to", out, "--target", target)
            given = manifest_of(out)
            if (model, version) in fire.told:
                assert given == fire.told[model, version], (name, target)
            assert given in fire.meant[model], (name, target)
    checked = fire.line("--json", "check", "--read-data").document
    assert checked["clean"], checked
    print(f"{len(places)} snapshots from each of three targets, {fire.named} losses named")


@pytest.fixture
def fire(s3_server: S3Server, tmp_path: Path) -> Iterator[Fire]:
    """Three targets, each on a medium of its own, and a daemon's configuration."""
    bucket = s3_server.create_bucket()
    with ExitStack() as stack:
        door = stack.enter_context(gate(urlsplit(s3_server.endpoint_url).port or 0))
        for target in ("disk", "nas"):
            medium = tmp_path / f"{target}-medium"
            (tmp_path / target).mkdir()
            medium.mkdir()
            options = ["mount", "-t", "tmpfs", "-o", "size=192m", "tmpfs", str(medium)]
            subprocess.run(options, check=True)
            stack.callback(subprocess.run, ["umount", "--lazy", str(medium)], check=False)
            bind(tmp_path, target)
            place = str(tmp_path / target)
            stack.callback(subprocess.run, ["umount", "--lazy", place], check=False)
        home = tmp_path / "home"
        config = home / ".config" / "backupd" / "backupd.yaml"
        config.parent.mkdir(parents=True)
        credentials = s3_server.write_credentials(tmp_path / "credentials")
        everywhere = dict.fromkeys(TARGETS, "all")
        config.write_text(
            yaml.safe_dump(
                {
                    "state_dir": str(tmp_path / "state"),
                    "host": "box",
                    "key": {"file": str(tmp_path / "key")},
                    "limits": {"nice": 0, "io": "none"},
                    "targets": {
                        "disk": {"type": "local", "path": str(tmp_path / "disk" / "models")},
                        "nas": {"type": "nas", "path": str(tmp_path / "nas" / "models")},
                        "s3": {
                            "type": "s3",
                            "bucket": bucket,
                            "prefix": "box",
                            "endpoint_url": door.url,
                            "credentials_file": str(credentials),
                            "path_style": True,
                        },
                    },
                    "policies": {"all": {"keep_last": 1000}},
                    "models": {
                        model: {
                            "path": str(tmp_path / "models" / model),
                            # Not by itself: each round says when.
                            "schedule": "0 0 1 1 *",
                            "targets": everywhere,
                        }
                        for model in MODELS
                    },
                    "upkeep": dict.fromkeys(("forget", "prune", "check", "drill"), "never"),
                }
            )
        )
        line = CommandLine(home, in_process=True)
        for model in MODELS:
            (tmp_path / "models" / model).mkdir(parents=True)
        line.ok("init")
        made = Fire(tmp_path, line, door, s3_server, bucket, random.Random(SEED))
        try:
            yield made
        finally:
            if made.daemon is not None and made.daemon.poll() is None:
                made.kill()
            time.sleep(0.1)


@pytest.mark.system
@pytest.mark.torture
@pytest.mark.timeout(600)
def test_three_targets_hold_through_three_rounds(fire: Fire) -> None:
    burn(fire, [("s3", shot_at), ("nas", absent), ("disk", read_only)])


@pytest.mark.system
@pytest.mark.endurance
@pytest.mark.timeout(3600)
def test_three_targets_hold_through_twenty_rounds(fire: Fire) -> None:
    all_of_them = [(target, trouble) for target in TARGETS for trouble in TROUBLES[target]]
    order = all_of_them * 2
    fire.rng.shuffle(order)
    burn(fire, order[:ROUNDS])
