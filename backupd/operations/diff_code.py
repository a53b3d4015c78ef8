"""How the code of two snapshots differs: its files as a unified diff, its packages by version."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from backupd.capture.folders import shown
from backupd.errors import DamagedError
from backupd.repository.reachable import chunks_of
from backupd.repository.reader import BlobReader
from backupd.repository.snapshots import SnapshotRecord
from backupd.repository.tree import FileType, TreeEntry
from backupd.repository.tree_codec import decode_tree

_REQUIREMENTS = b"requirements.txt"
_ENVIRONMENT = b"environment.json"
_MOST_BYTES = 512 << 10
_MOST_LINES = 20_000  # the algorithm of difflib is quadratic at worst
_FACTS = (
    "system", "path", "url", "revision", "remote", "branch", "commit", "dirty", "side_commit",
)  # fmt: skip
_ENVIRONMENT_FACTS = ("python", "os", "kernel", "machine", "cuda", "driver", "gpus")
_PACKAGE = re.compile(r"(?:-e )?(?P<name>[A-Za-z0-9][\w.-]*)\s*(?:==|@)\s*(?P<version>\S.*)")
_EDITABLE = re.compile(r"-e (?P<version>\S+)\s+# (?P<name>\S+)")


@dataclass(frozen=True, slots=True)
class SourceChange:
    """A file of the code that differs: `change` is added, removed or changed; `patch` its unified
    diff, empty where it is no text or too long."""

    change: str
    path: str
    patch: str


@dataclass(frozen=True, slots=True)
class PackageChange:
    """A package whose version differs; empty where it was or is not there."""

    name: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class CodeDiff:
    """How code differs. `note` says why sources were not compared, where they were not."""

    files: tuple[SourceChange, ...] = ()
    packages: tuple[PackageChange, ...] = ()
    note: str = ""


def code_facts(code: Mapping[str, Any]) -> dict[str, Any]:
    """What of a snapshot's facts is worth a line in a comparison."""
    facts = {name: code[name] for name in _FACTS if code.get(name) not in (None, "")}
    environment = code.get("environment")
    if isinstance(environment, Mapping):
        for name in _ENVIRONMENT_FACTS:
            value = environment.get(name)
            if value:
                facts[name] = ", ".join(map(str, value)) if isinstance(value, list) else value
    return facts


def compare_code(
    records: tuple[SnapshotRecord, SnapshotRecord], readers: tuple[BlobReader, BlobReader]
) -> CodeDiff:
    """Compare what two snapshots keep of their code. Raises `DamagedError`."""
    if not (records[0].code_trees or records[1].code_trees):
        return CodeDiff()
    old, new = (
        dict(_kept(record, reader)) for record, reader in zip(records, readers, strict=True)
    )
    packages = tuple(_packages(_text(old, _REQUIREMENTS, readers[0]),
                               _text(new, _REQUIREMENTS, readers[1])))  # fmt: skip
    note = ""
    if _has_source(old) != _has_source(new):
        # What one does not keep is not what it has not.
        note = "one of them keeps the source and the other does not, so only packages are compared"
        return CodeDiff((), packages, note)
    return CodeDiff(tuple(_files(old, new, readers)), packages, note)


def _kept(record: SnapshotRecord, reader: BlobReader) -> Iterator[tuple[bytes, TreeEntry]]:
    for tree in record.code_trees:
        for entry in decode_tree(bytes(reader.read(tree))):
            if entry.type is not FileType.FOLDER:
                yield entry.path, entry


def _has_source(kept: Mapping[bytes, TreeEntry]) -> bool:
    return any(path.startswith(b"source/") for path in kept)


def _files(
    old: Mapping[bytes, TreeEntry],
    new: Mapping[bytes, TreeEntry],
    readers: tuple[BlobReader, BlobReader],
) -> Iterator[SourceChange]:
    source = _has_source(new)
    for path in sorted(old.keys() | new.keys()):
        if path in (_REQUIREMENTS, _ENVIRONMENT) or (source and not path.startswith(b"source/")):
            continue
        was, now = old.get(path), new.get(path)
        if was is not None and now is not None and _same(was, now):
            continue
        change = "added" if was is None else "removed" if now is None else "changed"
        name = shown(path.removeprefix(b"source/"))
        yield SourceChange(change, name, _unified(name, (was, readers[0]), (now, readers[1])))


def _same(old: TreeEntry, new: TreeEntry) -> bool:
    return (old.type, old.content_hash, old.link, old.metadata.mode) == (
        new.type,
        new.content_hash,
        new.link,
        new.metadata.mode,
    )


def _unified(
    name: str, old: tuple[TreeEntry | None, BlobReader], new: tuple[TreeEntry | None, BlobReader]
) -> str:
    lines = []
    for entry, reader in (old, new):
        content = _content(entry, reader)
        if content is None or b"\0" in content:
            return ""
        text = content.decode("utf-8", "backslashreplace").splitlines(keepends=True)
        if len(text) > _MOST_LINES:
            return ""
        lines.append(text)
    was, now = (
        f"{side}/{name}" if entry else "/dev/null" for side, (entry, _) in (("a", old), ("b", new))
    )
    parts = difflib.unified_diff(lines[0], lines[1], was, now)
    return "".join(part if part.endswith("\n") else f"{part}\n" for part in parts)


def _content(entry: TreeEntry | None, reader: BlobReader) -> bytes | None:
    if entry is None:
        return b""
    if entry.type is FileType.SYMLINK:
        return entry.link
    if entry.metadata.size_bytes > _MOST_BYTES:
        return None
    return b"".join(bytes(reader.read(ref.blob_id)) for ref in chunks_of(reader, entry))


def _text(kept: Mapping[bytes, TreeEntry], path: bytes, reader: BlobReader) -> str:
    content = _content(kept.get(path), reader)
    if content is None:
        raise DamagedError(f"{shown(path)} of the code is longer than it can be")
    return content.decode("utf-8", "replace")


def _packages(old: str, new: str) -> Iterator[PackageChange]:
    """Empty where one of the two is not known."""
    if not old or not new:
        return
    was, now = _versions(old), _versions(new)
    for name in sorted(was.keys() | now.keys(), key=str.lower):
        if was.get(name) != now.get(name):
            yield PackageChange(name, was.get(name, ""), now.get(name, ""))


def _versions(requirements: str) -> dict[str, str]:
    found = {}
    for line in requirements.splitlines():
        match = _EDITABLE.fullmatch(line) or _PACKAGE.fullmatch(line)
        if match:
            found[match["name"]] = match["version"].strip()
    return found
