"""Snapshot objects: what a listing needs, and the ids of the tree's blobs.

Beside the snapshot `VERSION` of a model's folder stand its amendments `VERSION+N` (labels given
later; the highest counts) and, for a version that was forgotten, `VERSION-forgotten`, which
keeps its number from being used twice. All are created with put-if-absent and never changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import zstandard

from backupd.codec.blob import ID_SIZE
from backupd.codec.sealing import Sealer, seal, unseal
from backupd.errors import DamagedError
from backupd.repository.danger import Danger
from backupd.repository.layout import MAX_SNAPSHOT, SNAPSHOTS

_ASSOCIATED = b"backupd format 1: snapshot "
_NAME = re.compile(r"snapshots/([0-9a-f]{32})/([0-9]{10})(?:\+([0-9]{6})|(-forgotten))?")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What a scheme left out of a snapshot of files of one role: how many, their bytes, some
    of their paths."""

    role: str
    files: int
    size_bytes: int
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """One snapshot as it is stored. Times in seconds since the epoch, UTC; sizes in bytes.

    `size_bytes` counts the files' content, `added_bytes` what of it was new to the target and
    `stored_bytes` what that took. `incomplete` and `skipped` name paths, for people.
    `ancestry` gives the versions behind the parent, that one included, as runs (newest, oldest).
    `left_out` accounts for what the scheme did not keep. `step` and `epoch` say how far the
    training was, None where nobody told.
    `code` holds what is known of the source code, and `code_trees` are the tree of what is kept
    of it. `findings` are files that may do harm when loaded. `secrets` is `left out` or `kept`,
    empty where they were not looked for. `config` is the text of the configuration it was taken
    with, without secrets, and `config_path` the file's. `made_by` names the version of backupd.
    """

    host: str
    model: str
    version: int
    time: float
    root: bytes
    trees: tuple[bytes, ...]
    parent: int = 0
    project: str = ""
    scheme: str = "everything"
    labels: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    code: Mapping[str, Any] = field(default_factory=dict)
    file_count: int = 0
    folder_count: int = 0
    size_bytes: int = 0
    added_bytes: int = 0
    stored_bytes: int = 0
    duration_seconds: float = 0.0
    incomplete: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    made_by: str = ""
    code_trees: tuple[bytes, ...] = ()
    findings: tuple[Danger, ...] = ()
    secrets: str = ""
    step: int | None = None
    epoch: float | None = None
    left_out: tuple[LeftOut, ...] = ()
    ancestry: tuple[tuple[int, int], ...] = ()
    config: str = ""
    config_path: str = ""

    @property
    def all_trees(self) -> tuple[bytes, ...]:
        """Every tree blob that the snapshot needs: of the model's files, then of the code's."""
        return self.trees + self.code_trees


@dataclass(frozen=True, slots=True)
class SnapshotName:
    """What the name of an object under `snapshots/` says."""

    folder: str
    version: int
    amendment: int = 0
    forgotten: bool = False

    def object_name(self) -> str:
        """The name it was parsed from."""
        name = f"{SNAPSHOTS}{self.folder}/{self.version:010d}"
        if self.amendment:
            return f"{name}+{self.amendment:06d}"
        return name + "-forgotten" if self.forgotten else name


def parse_name(name: str) -> SnapshotName | None:
    """The parts of an object name, or None where it is not one of these."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    folder, version, amendment, forgotten = match.groups()
    return SnapshotName(folder, int(version), int(amendment or 0), forgotten is not None)


def folder_of(folder: str) -> str:
    """Where the snapshots of one model folder are, or, where none is named, of all."""
    return SNAPSHOTS + (folder + "/" if folder else "")


def names_of(folder: str, version: int, amendment: int) -> list[SnapshotName]:
    """The objects that a snapshot is read from, its own first."""
    name = SnapshotName(folder, version)
    return [name, SnapshotName(folder, version, amendment)] if amendment else [name]


def versions_of(names: Iterable[SnapshotName]) -> set[int]:
    """The versions that are listed and not forgotten, of one model folder."""
    given = list(names)
    forgotten = {name.version for name in given if name.forgotten}
    return {name.version for name in given if not name.amendment} - forgotten


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """A listed snapshot: where it is, its labels as amended, and the BLAKE3 of its object.

    `amendment` is the number of the amendment that its labels are from, 0 where there is none.
    """

    name: SnapshotName
    record: SnapshotRecord
    snapshot_id: str
    amendment: int = 0

    def same_state(self, other: StoredSnapshot) -> bool:
        """Whether both are one captured state, whatever number each has."""
        mine, others = self.record, other.record
        return (mine.time, mine.trees, mine.root) == (others.time, others.trees, others.root)


@dataclass(frozen=True, slots=True)
class Listing:
    """All snapshots in version order, and those objects that could not be read, with why.

    `highest` is the highest version number ever used, by model folder; `forgotten` are the
    folders and versions that bear a marker.
    """

    snapshots: tuple[StoredSnapshot, ...]
    damaged: Mapping[str, str]
    highest: Mapping[str, int]
    forgotten: frozenset[tuple[str, int]] = frozenset()


def _seal_json(value: Mapping[str, Any], name: str, sealer: Sealer) -> bytearray:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode()
    packed = zstandard.ZstdCompressor(level=9).compress(text)
    # The name is part of what is sealed, so that a store cannot pass one snapshot for another.
    return seal(sealer, packed, _ASSOCIATED + name.encode())


def _open_json(stored: bytes, name: str, sealer: Sealer) -> dict[str, Any]:
    try:
        packed = unseal(sealer, stored, _ASSOCIATED + name.encode())
        size = zstandard.frame_content_size(packed)
        if not 0 <= size <= MAX_SNAPSHOT:
            raise DamagedError("it claims an impossible size")
        value = json.loads(zstandard.ZstdDecompressor().decompress(packed, max_output_size=size))
        if not isinstance(value, dict):
            raise DamagedError("it is not a JSON object")
    except (zstandard.ZstdError, ValueError, RecursionError) as error:
        raise DamagedError(f"{name} is damaged: {error}") from None
    except DamagedError as error:
        raise DamagedError(f"{name} is damaged: {error}") from None
    return value


def _path_text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def encode_snapshot(record: SnapshotRecord, name: str, sealer: Sealer) -> bytearray:
    """The stored bytes of a snapshot under `name`."""
    value = {
        "host": record.host,
        "model": record.model,
        "version": record.version,
        "time": record.time,
        "root": _path_text(record.root),
        "trees": [tree.hex() for tree in record.trees],
        "parent": record.parent,
        "project": record.project,
        "scheme": record.scheme,
        "labels": dict(record.labels),
        "metrics": dict(record.metrics),
        "code": dict(record.code),
        "files": record.file_count,
        "folders": record.folder_count,
        "size": record.size_bytes,
        "added": record.added_bytes,
        "stored": record.stored_bytes,
        "duration": record.duration_seconds,
        "incomplete": list(record.incomplete),
        "skipped": list(record.skipped),
        "made_by": record.made_by,
        "code_trees": [tree.hex() for tree in record.code_trees],
        "findings": [[found.path, found.level, found.what] for found in record.findings],
        "secrets": record.secrets,
        "step": record.step,
        "epoch": record.epoch,
        "ancestry": [list(run) for run in record.ancestry],
        "left_out": [[x.role, x.files, x.size_bytes, list(x.paths)] for x in record.left_out],
        "config": record.config,
        "config_path": record.config_path,
    }
    return _seal_json(value, name, sealer)


def decode_snapshot(stored: bytes, name: str, sealer: Sealer) -> SnapshotRecord:
    """The snapshot stored under `name`. Raises `DamagedError`."""
    value = _open_json(stored, name, sealer)
    try:
        trees = tuple(bytes.fromhex(tree) for tree in value["trees"])
        code_trees = tuple(bytes.fromhex(tree) for tree in value.get("code_trees", ()))
        if any(len(tree) != ID_SIZE for tree in trees + code_trees):
            raise DamagedError(f"{name} is damaged: a tree's id has the wrong length")
        for key in ("host", "model"):
            str(value[key]).encode()  # JSON can name half a character, which UTF-8 cannot
        return SnapshotRecord(
            host=str(value["host"]),
            model=str(value["model"]),
            version=int(value["version"]),
            time=float(value["time"]),
            root=str(value["root"]).encode("utf-8", "surrogateescape"),
            trees=trees,
            parent=int(value["parent"]),
            project=str(value["project"]),
            scheme=str(value["scheme"]),
            labels={str(key): str(text) for key, text in value["labels"].items()},
            metrics={str(key): float(number) for key, number in value["metrics"].items()},
            code=dict(value["code"]),
            file_count=int(value["files"]),
            folder_count=int(value["folders"]),
            size_bytes=int(value["size"]),
            added_bytes=int(value["added"]),
            stored_bytes=int(value["stored"]),
            duration_seconds=float(value["duration"]),
            incomplete=tuple(str(path) for path in value["incomplete"]),
            skipped=tuple(str(path) for path in value["skipped"]),
            made_by=str(value["made_by"]),
            code_trees=code_trees,
            findings=tuple(
                Danger(str(path), str(level), str(what))
                for path, level, what in value.get("findings", ())
            ),
            secrets=str(value.get("secrets", "")),
            step=None if value.get("step") is None else int(value["step"]),
            epoch=None if value.get("epoch") is None else float(value["epoch"]),
            ancestry=tuple((int(new), int(old)) for new, old in value.get("ancestry", ())),
            left_out=tuple(
                LeftOut(str(role), int(files), int(size), tuple(str(path) for path in paths))
                for role, files, size, paths in value.get("left_out", ())
            ),
            config=str(value.get("config", "")),
            config_path=str(value.get("config_path", "")),
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        raise DamagedError(f"{name} is damaged: its fields are not those of a snapshot") from None


def encode_amendment(labels: Mapping[str, str], name: str, sealer: Sealer) -> bytearray:
    """The stored bytes of an amendment: all labels the snapshot has from now on."""
    return _seal_json({"labels": dict(labels)}, name, sealer)


def amended(record: SnapshotRecord, stored: bytes, name: str, sealer: Sealer) -> SnapshotRecord:
    """The snapshot with the labels of the amendment `stored`. Raises `DamagedError`."""
    try:
        labels = _open_json(stored, name, sealer)["labels"]
        return replace(record, labels={str(key): str(text) for key, text in labels.items()})
    except (TypeError, KeyError, AttributeError):
        raise DamagedError(f"{name} is damaged: its fields are not those of labels") from None
