"""A world whose model has code, and what a test asks of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from backupd.config.settings import CodeSettings, ModelSettings, Settings
from backupd.operations.catalog import ResolvedSnapshot
from backupd.operations.installation import Installation
from backupd.operations.reports import SnapshotReport
from backupd.operations.resolve import resolve
from backupd.operations.snapshot import take_snapshot
from backupd.repository.reader import BlobFinder, BlobReader
from backupd.repository.records import parse_table
from tests.support.world import MODEL, World, make_world


@dataclass(slots=True)
class Coded:
    """A small model in `world`, and its code."""

    world: World
    code: Path

    def settings(self, git: str = "record", **options: object) -> Settings:
        model = ModelSettings(
            MODEL,
            self.world.model_path,
            {"disk": ()},
            code=CodeSettings(self.code, git, options.pop("python", None)),  # type: ignore[arg-type]
            **options,  # type: ignore[arg-type]
        )
        return replace(self.world.settings, models={MODEL: model})

    def open(
        self, git: str = "record", *, path: str = "/usr/local/bin:/usr/bin:/bin", **options: object
    ) -> Installation:
        return Installation(
            self.settings(git, **options),
            environment={"PATH": path, "HOME": "/nonexistent"},
            clock=self.world.clock,
        )

    def snapshot(self, git: str = "record", **options: object) -> SnapshotReport:
        with self.open(git, **options) as installation:
            return take_snapshot(installation, installation.settings.models[MODEL])

    def resolved(self, name: str = f"{MODEL}@latest") -> ResolvedSnapshot:
        with self.open() as installation:
            return resolve(installation, name)

    def change(self) -> None:
        """So that there is something to snapshot."""
        with (self.world.model_path / "step").open("a") as file:
            file.write("1\n")

    def blobs(self) -> Iterator[bytes]:
        """Every blob of the repository, decrypted and decoded."""
        with self.open() as installation:
            repository = installation.repository("disk")
            index = repository.load_index(lambda message: None)
            reader = BlobReader(BlobFinder(repository, index, lambda message: None))
            for table in index.tables():
                for record in parse_table(table.table, table.size_bytes):
                    yield bytes(reader.read(record.blob_id))


def make_coded(root: Path) -> Coded:
    """A world with a model of a few files; the code is to be made by the test."""
    root.chmod(0o755)
    world = make_world(root / "world", size=1 << 16)
    return Coded(world, root / "code")
