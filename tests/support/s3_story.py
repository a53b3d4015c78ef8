"""The whole story of a model at a real S3 server, while that server is killed and started again.

The commands are the real program in processes of its own. What a restore gives is held against
this test's own memory of what each version was.
"""

from __future__ import annotations

import filecmp
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from tests.rigs.command_line import CommandLine
from tests.rigs.rgw import Rgw, refuse_missing_programs
from tests.rigs.servers import S3Server, fast_folder
from tests.rigs.swift import Swift

MiB = 1 << 20
# Retries take most of a minute at worst, and the machine may be busy.
SECONDS = 240
_PREFIX = "box/1"


class Killable(Protocol):
    """A server that outlives `kill -9` with what it had acknowledged."""

    server: S3Server

    def kill(self) -> None: ...

    def restart(self) -> None: ...


@contextmanager
def own_server(kind: str) -> Iterator[Killable]:
    """A server of a test's own, `rgw` or `swift`, that keeps its objects in files."""
    folder = fast_folder(f"killed-{kind}")
    if kind == "rgw":
        refuse_missing_programs()
    made = Rgw(folder, "bluestore") if kind == "rgw" else Swift(folder)
    try:
        made.create()
        yield made
    finally:
        made.kill()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(slots=True)
class Story:
    """One model on a local disk and a bucket; `versions` remembers what each must give back."""

    home: Path
    rig: Killable
    random: random.Random
    file_bytes: int = 6 * MiB
    files: int = 4
    run: CommandLine = field(init=False)
    versions: dict[int, Path] = field(default_factory=dict)
    ends: list[str] = field(default_factory=list)
    bucket: str = field(init=False)
    kills: int = 0

    def __post_init__(self) -> None:
        # What is not killed runs within this process, which is quicker.
        self.run = CommandLine(self.home, in_process=True)
        self.model.mkdir()
        server = self.rig.server
        self.bucket = server.create_bucket()
        store = {
            "type": "s3",
            "bucket": self.bucket,
            "prefix": _PREFIX,
            "endpoint_url": server.endpoint_url,
            "credentials_file": str(server.write_credentials(self.home / "credentials")),
            "path_style": True,
            "connect_timeout": "5s",
            "read_timeout": "20s",
        }
        config = {
            "state_dir": str(self.home / "state"),
            "key": {"file": str(self.home / "key")},
            "targets": {"s3": store, "disk": {"type": "local", "path": str(self.home / "disk")}},
            "policies": {"all": {"keep_last": 100}},
            "models": {
                "m": {"path": str(self.model), "targets": {"s3": "all"}},
                "n": {"path": str(self.home / "other"), "targets": {"disk": "all", "s3": "all"}},
            },
        }
        (self.home / "other").mkdir()
        path = self.home / ".config/backupd/backupd.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(yaml.safe_dump(config))
        self.change()
        self.run.ok("init")

    @property
    def model(self) -> Path:
        return self.home / "model"

    def change(self) -> None:
        """Give some of the files other bytes."""
        there = sorted(self.model.iterdir())
        names = [path.name for path in there] or [f"{number}.bin" for number in range(self.files)]
        for name in names if not there else self.random.sample(names, len(names) // 2):
            (self.model / name).write_bytes(self.random.randbytes(self.file_bytes))

    def snapshot(self, *, killed_after: float | None = None, killed_at: str | None = None) -> float:
        """Take one; it is remembered when it is listed. The seconds that it took."""
        number = max(self.versions, default=0) + 1
        seconds = self.do("snapshot", "m", killed_after=killed_after, killed_at=killed_at)
        self.run.ok("snapshot", "m")  # after trouble; unchanged where it had ended well
        keep = self.home / "kept" / str(number)
        shutil.copytree(self.model, keep)
        self.versions[number] = keep
        return seconds

    def do(
        self,
        *arguments: str,
        killed_after: float | None = None,
        killed_at: str | None = None,
    ) -> float:
        """Run a command. With `killed_after` the server dies after so many seconds, with
        `killed_at` as soon as it is seen to have an object below that prefix, and is started
        again: `kills` counts that. Then the command may end well, or with exit code 5 and one
        sentence."""
        begun = time.monotonic()
        if killed_after is None and killed_at is None:
            self.run.ok(*arguments)
            return time.monotonic() - begun
        process = subprocess.Popen(
            [sys.executable, "-m", "backupd", *arguments],
            env=self.run.environment(),
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        alive = True
        if killed_at is not None:
            client = self.rig.server.client()
            while alive and not self._has(client, killed_at):
                alive = process.poll() is None
        else:
            time.sleep(killed_after or 0.0)
        if alive:
            self.kills += 1
            self.rig.kill()
            self.rig.restart()
        out, err = process.communicate(timeout=SECONDS)
        code = process.returncode
        self.ends.append(f"{arguments[0]} {killed_at or killed_after}: {code}")
        assert "Traceback" not in err, err
        assert code in (0, 5), (arguments, code, out, err)
        if code:
            said = [line for line in err.splitlines() if line.strip()]
            assert any("s3" in line for line in said), err
            assert len(said) <= 4, err
        return time.monotonic() - begun

    def _has(self, client: Any, folder: str) -> bool:
        page = client.list_objects_v2(Bucket=self.bucket, Prefix=f"{_PREFIX}/{folder}", MaxKeys=1)
        return bool(page.get("Contents"))

    def forget(self, number: int) -> None:
        """Drop a version."""
        self.run.ok("forget", f"m@v{number}")
        del self.versions[number]

    def listed(self) -> set[int]:
        document = self.run.ok("list", "m", "--json").document
        return {int(item["version"]) for item in document["snapshots"]}

    def verify(self) -> None:
        """What is listed is what must be, check finds nothing, and each restores bit for bit."""
        assert self.listed() == set(self.versions)
        answer = self.run("check", "--target", "s3", "--read-data")
        assert answer.code == 0, answer
        for number in self.versions:
            self.restore(number)

    def restore(self, number: int, *, killed_after: float | None = None) -> float:
        """Restore a version from the store to an empty folder and compare."""
        to = self.home / "restored"
        shutil.rmtree(to, ignore_errors=True)
        command = ("restore", f"m@v{number}", "--to", str(to), "--target", "s3")
        seconds = self.do(*command, killed_after=killed_after)
        if killed_after is not None:
            self.run.ok(*command, "--overwrite")
        same(self.versions[number], to)
        return seconds


def same(one: Path, other: Path) -> None:
    """Whether two flat folders hold the same files."""
    names = sorted(os.listdir(one))
    assert sorted(os.listdir(other)) == names
    match, mismatch, errors = filecmp.cmpfiles(one, other, names, shallow=False)
    assert (mismatch, errors) == ([], [])
    assert len(match) == len(names)
