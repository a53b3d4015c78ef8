"""The programs that are measured: each a small class that spells its verbs as commands.

Nothing is run here. A verb that a program does not have is None.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from benchmarks.measure import Command

PASSPHRASE = "benchmark"
PROJECT = Path(__file__).resolve().parent.parent


def find_program(name: str) -> str:
    """Absolute path of a program, also when it lies only beside this Python; "" when absent."""
    folders = f"{os.environ.get('PATH', '')}:{os.path.dirname(sys.executable)}"
    return shutil.which(name, path=folders) or ""


class Peer:
    """One program with one repository of `source` in the fresh folder `home`."""

    name: str
    program: str
    install: str
    sees_changes = True
    keeps_versions = True

    def __init__(self, home: Path, source: Path) -> None:
        self.home = home
        self.source = source
        self.repository = home / "repository"
        self.taken = 0

    @classmethod
    def missing(cls) -> str:
        """How to install the program; empty when it is there."""
        return "" if find_program(cls.program) else f"{cls.name} is absent: {cls.install}"

    @classmethod
    def version(cls) -> Command:
        return Command((find_program(cls.program), "--version"))

    def init(self) -> Command | None:
        return None

    def snapshot(self) -> Command:
        raise NotImplementedError

    def restore(self, to: Path) -> Command:
        raise NotImplementedError

    def restored(self, to: Path) -> Path:
        """Where the content of `source` lies after `restore(to)`."""
        return to

    def check(self) -> Command | None:
        return None

    def list(self) -> Command | None:
        return None

    def command(self, *arguments: str, directory: Path | None = None, **variables: str) -> Command:
        return Command((find_program(self.program), *arguments), directory, variables)


class Copy(Peer):
    """`cp -r`: what the disks and the kernel allow."""

    name, program, install = "cp", "cp", "apt-get install coreutils"
    sees_changes = keeps_versions = False

    def snapshot(self) -> Command:
        return self.command("-r", f"{self.source}/.", str(self.repository))

    def restore(self, to: Path) -> Command:
        return self.command("-r", f"{self.repository}/.", str(to))


class Rsync(Peer):
    """`rsync -a`, which keeps the newest state only."""

    name, program, install = "rsync", "rsync", "apt-get install rsync"
    keeps_versions = False

    def snapshot(self) -> Command:
        return self.command("-a", "--delete", f"{self.source}/", str(self.repository))

    def restore(self, to: Path) -> Command:
        return self.command("-a", f"{self.repository}/", str(to))

    def check(self) -> Command:
        return self.command(
            "-a", "--checksum", "--dry-run", f"{self.source}/", str(self.repository)
        )


class Restic(Peer):
    """restic with its default compression."""

    name, program, install = "restic", "restic", "apt-get install restic"
    compression = "auto"

    @classmethod
    def version(cls) -> Command:
        return Command((find_program(cls.program), "version"))

    def restic(self, *arguments: str) -> Command:
        return self.command(
            *arguments,
            RESTIC_REPOSITORY=str(self.repository),
            RESTIC_PASSWORD=PASSPHRASE,
            RESTIC_CACHE_DIR=str(self.home / "cache"),
        )

    def init(self) -> Command:
        return self.restic("init")

    def snapshot(self) -> Command:
        return self.restic("backup", "--compression", self.compression, str(self.source))

    def restore(self, to: Path) -> Command:
        return self.restic("restore", "latest", "--target", str(to))

    def restored(self, to: Path) -> Path:
        return to / self.source.relative_to("/")

    def check(self) -> Command:
        return self.restic("check", "--read-data")

    def list(self) -> Command:
        return self.restic("snapshots")


class ResticMax(Restic):
    """restic with the compression that stores least."""

    name, compression = "restic-max", "max"


class Borg(Peer):
    """borg 1.4 with zstd,3, authenticated with BLAKE2b."""

    name, program, install = "borg", "borg", "pip install 'borgbackup<2'"

    def borg(self, *arguments: str, directory: Path | None = None) -> Command:
        return self.command(
            *arguments,
            directory=directory,
            BORG_REPO=str(self.repository),
            BORG_PASSPHRASE=PASSPHRASE,
            BORG_BASE_DIR=str(self.home / "base"),
        )

    def init(self) -> Command:
        return self.borg("init", "--encryption", "repokey-blake2")

    def snapshot(self) -> Command:
        self.taken += 1
        return self.borg(
            "create", "--compression", "zstd,3", f"::v{self.taken}", ".", directory=self.source
        )

    def restore(self, to: Path) -> Command:
        to.mkdir(parents=True, exist_ok=True)
        return self.borg("extract", f"::v{self.taken}", directory=to)

    def check(self) -> Command:
        return self.borg("check", "--verify-data")

    def list(self) -> Command:
        return self.borg("list")


class Backupd(Peer):
    """backupd as a user runs it: by its command line, encrypted, without the daemon."""

    name, program, install = "backupd", "python3", "pip install -e ."

    @classmethod
    def base(cls) -> tuple[str, ...]:
        installed = Path(sys.executable).with_name("backupd")
        return (str(installed),) if installed.exists() else (sys.executable, "-m", "backupd")

    @classmethod
    def version(cls) -> Command:
        return Command((*cls.base(), "--version"), PROJECT)

    def backupd(self, *arguments: str) -> Command:
        configuration = self.home / "backupd.yaml"
        if not configuration.exists():
            configuration.parent.mkdir(parents=True, exist_ok=True)
            # JSON is YAML, and the standard library writes it.
            configuration.write_text(json.dumps(self.configuration(), indent=2))
        return Command((*self.base(), "--config", str(configuration), *arguments), PROJECT)

    def configuration(self) -> dict[str, object]:
        return {
            "state_dir": str(self.home / "state"),
            "key": {"file": str(self.home / "key")},
            "targets": {"disk": {"type": "local", "path": str(self.repository)}},
            "policies": {"all": {"keep_last": 1000}},
            "models": {"bench": {"path": str(self.source), "targets": {"disk": "all"}}},
            "limits": {"threads": 2, "nice": 0, "io": "best-effort"},
        }

    def init(self) -> Command:
        return self.backupd("init")

    def snapshot(self) -> Command:
        return self.backupd("snapshot", "bench")

    def restore(self, to: Path) -> Command:
        return self.backupd("restore", "bench@latest", "--to", str(to))

    def check(self) -> Command:
        return self.backupd("check", "--read-data")

    def list(self) -> Command:
        return self.backupd("list")


PEERS: dict[str, type[Peer]] = {
    peer.name: peer for peer in (Copy, Rsync, Restic, ResticMax, Borg, Backupd)
}
