"""Which paths differ between two trees, and which file became which. No content is read.

Two trees are gone through side by side, in path order; what is kept in memory are the paths that
differ and, of the containers in either, where they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from backupd.capture.folders import name_of
from backupd.repository.tree import FileType, Metadata, TreeEntry
from backupd.repository.tree_codec import entry_of, path_of

Values = Iterator[dict[str, Any]]
"""The JSON objects of a tree's entries, in path order (see `tree_codec.decode_values`)."""

_DIGITS = re.compile(rb"[0-9]+")
_NUMBERED = re.compile(rb"[0-9]+|[^0-9]+")
# Files too small to be identified as they are stored, and those of an older backupd, have no
# layout; it is found by those who want it, where the name lets expect one.
_CONTAINER_NAMES = (
    *(b".safetensors", b".npy", b".npz", b".pt", b".pth", b".bin", b".ckpt"),
    *(b".gguf", b".keras"),
)
# What a restore on the same box would find again, but which says nothing of the file itself.
_OF_THE_DISK = ("ctime", "inode", "device")


@dataclass(frozen=True, slots=True)
class FileChange:
    """One path that differs.

    `change` is one of added, removed, changed (its content), touched (nothing but what
    `attributes` names), renamed (the same content) and moved (to a folder of another number,
    as from `checkpoint-500/` to `checkpoint-1000/`, with other content). `path` is the new
    one, of what was removed the old one; `old_path` is empty for what was added. `attributes`
    are some of type, mode, owner, time, xattrs and link.
    """

    change: str
    path: bytes
    old_path: bytes
    type: FileType
    size_bytes: int
    old_size_bytes: int
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pair:
    """Two files whose content differs, of which the one became the other."""

    old: TreeEntry
    new: TreeEntry


@dataclass(slots=True)
class FileComparison:
    """What differs, in path order, and the containers among it.

    `pairs` are those that became one another; `removed` and `added` those without a partner;
    `containers` are all of the old tree, where a partner may still be found; `texts` are pairs
    that hold no tensors.
    """

    changes: list[FileChange] = field(default_factory=list)
    unchanged: int = 0
    pairs: list[Pair] = field(default_factory=list)
    removed: list[TreeEntry] = field(default_factory=list)
    added: list[TreeEntry] = field(default_factory=list)
    containers: list[TreeEntry] = field(default_factory=list)
    texts: list[Pair] = field(default_factory=list)


def compare_trees(old: Values, new: Values) -> FileComparison:
    """Compare two trees. Raises `DamagedError` where an entry is malformed."""
    found = FileComparison()
    gone: list[TreeEntry] = []
    come: list[TreeEntry] = []
    for before, after in _side_by_side(old, new):
        if before is not None and _is_container(before):
            found.containers.append(entry_of(before))
        if before is None and after is not None:
            come.append(entry_of(after))
        elif after is None and before is not None:
            gone.append(entry_of(before))
        elif before is not None and after is not None:
            if _bare(before) == _bare(after):
                found.unchanged += 1
            else:
                _take_both(found, entry_of(before), entry_of(after))
    gone, come = _take_renamed(found, gone, come)
    gone, come = _take_moved(found, gone, come)
    for entry in gone:
        found.changes.append(_change("removed", entry, None))
    for entry in come:
        found.changes.append(_change("added", None, entry))
    found.removed = [entry for entry in gone if may_hold_tensors(entry)]
    found.added = [entry for entry in come if may_hold_tensors(entry)]
    found.changes.sort(key=lambda change: change.path)
    return found


def may_hold_tensors(entry: TreeEntry) -> bool:
    """Whether a file has a layout, or may have one that was not stored."""
    if entry.type is not FileType.FILE or entry.extents:
        return False
    return bool(entry.layout) or entry.path.endswith(_CONTAINER_NAMES)


def counterpart(entry: TreeEntry, containers: Iterable[TreeEntry]) -> TreeEntry | None:
    """The container that a new one is best compared with: the newest of its name.

    One in a folder of the same name but for numbers goes before others.
    """
    named = [old for old in containers if name_of(old.path) == name_of(entry.path)]
    shape = _DIGITS.sub(b"#", entry.path)
    return max(
        named,
        key=lambda old: (_DIGITS.sub(b"#", old.path) == shape, old.metadata.mtime_ns),
        default=None,
    )


def _side_by_side(
    old: Values, new: Values
) -> Iterator[tuple[dict[str, Any] | None, dict[str, Any] | None]]:
    before, after = next(old, None), next(new, None)
    while before is not None or after is not None:
        was = path_of(before) if before is not None else None
        now = path_of(after) if after is not None else None
        if was == now:
            yield before, after
            before, after = next(old, None), next(new, None)
        elif now is None or (was is not None and was < now):
            yield before, None
            before = next(old, None)
        else:
            yield None, after
            after = next(new, None)


def _is_container(value: dict[str, Any]) -> bool:
    if value.get("type") != "f":
        return False
    return "layout" in value or path_of(value).endswith(_CONTAINER_NAMES)


def _bare(value: dict[str, Any]) -> dict[str, Any]:
    left_out = _OF_THE_DISK if value.get("type") != "d" else (*_OF_THE_DISK, "mtime", "size")
    return {key: item for key, item in value.items() if key not in left_out}


def _take_both(found: FileComparison, old: TreeEntry, new: TreeEntry) -> None:
    """One path with two different entries."""
    attributes = _attributes(old, new)
    if _same_content(old, new):
        if attributes:
            found.changes.append(_change("touched", old, new, attributes))
        else:
            found.unchanged += 1  # it is cut otherwise, or its layout is known by now
        return
    found.changes.append(_change("changed", old, new, attributes))
    _take_pair(found, old, new)


def _take_pair(found: FileComparison, old: TreeEntry, new: TreeEntry) -> None:
    tensors = may_hold_tensors(old) or may_hold_tensors(new)
    (found.pairs if tensors else found.texts).append(Pair(old, new))


def _take_renamed(
    found: FileComparison, gone: list[TreeEntry], come: list[TreeEntry]
) -> tuple[list[TreeEntry], list[TreeEntry]]:
    """Take files of the same content for renamed, those that kept their name first."""

    def content(entry: TreeEntry) -> object:
        if entry.type is not FileType.FILE or not entry.metadata.size_bytes:
            return None  # every empty file has the content of every other
        return entry.content_hash, entry.extents, entry.metadata.size_bytes

    def taken(old: TreeEntry, new: TreeEntry) -> None:
        found.changes.append(_change("renamed", old, new, _attributes(old, new)))

    gone, come = _match(gone, come, lambda entry: _with_name(content(entry), entry), taken)
    return _match(gone, come, content, taken)


def _with_name(content: object, entry: TreeEntry) -> object:
    return (content, name_of(entry.path)) if content is not None else None


def _take_moved(
    found: FileComparison, gone: list[TreeEntry], come: list[TreeEntry]
) -> tuple[list[TreeEntry], list[TreeEntry]]:
    """Take what lies in folders that differ in nothing but numbers for the same, in order."""

    def place(entry: TreeEntry) -> object:
        name = name_of(entry.path) if entry.type is FileType.FILE else b""
        folder = entry.path.removesuffix(name)
        if entry.type not in (FileType.FILE, FileType.FOLDER) or not _DIGITS.search(folder):
            return None
        return entry.type, _DIGITS.sub(b"#", folder), name

    def taken(old: TreeEntry, new: TreeEntry) -> None:
        found.changes.append(_change("moved", old, new, _attributes(old, new)))
        _take_pair(found, old, new)

    gone.sort(key=lambda entry: _natural(entry.path))
    come.sort(key=lambda entry: _natural(entry.path))
    return _match(gone, come, place, taken)


def _natural(path: bytes) -> list[tuple[int, bytes]]:
    """An order in which 500 comes before 1000."""
    return [
        (int(part), b"") if part.isdigit() and len(part) < 19 else (-1, part)
        for part in _NUMBERED.findall(path)
    ]


def _match(
    gone: list[TreeEntry],
    come: list[TreeEntry],
    key: Callable[[TreeEntry], object],
    taken: Callable[[TreeEntry, TreeEntry], None],
) -> tuple[list[TreeEntry], list[TreeEntry]]:
    """Give each pair of one key to `taken`, the first with the first; what is left of both.

    A key of None is nobody's.
    """
    waiting: dict[object, list[TreeEntry]] = {}
    for entry in reversed(gone):
        if (of := key(entry)) is not None:
            waiting.setdefault(of, []).append(entry)
    used: set[bytes] = set()
    left = []
    for entry in come:
        of = key(entry)
        partners = waiting.get(of) if of is not None else None
        if partners:
            partner = partners.pop()
            used.add(partner.path)
            taken(partner, entry)
        else:
            left.append(entry)
    return [entry for entry in gone if entry.path not in used], left


def _same_content(old: TreeEntry, new: TreeEntry) -> bool:
    if old.type is not new.type or old.type is not FileType.FILE:
        return old.type is new.type
    return (old.content_hash, old.extents, old.metadata.size_bytes) == (
        new.content_hash,
        new.extents,
        new.metadata.size_bytes,
    )


def _attributes(old: TreeEntry, new: TreeEntry) -> tuple[str, ...]:
    was, now = old.metadata, new.metadata
    differs = {
        "type": old.type is not new.type,
        "mode": was.mode & 0o7777 != now.mode & 0o7777,
        "owner": _owner(was) != _owner(now),
        # A folder's time changes with what is in it, which is told already.
        "time": was.mtime_ns != now.mtime_ns and new.type is not FileType.FOLDER,
        "xattrs": was.xattrs != now.xattrs,
        "link": old.link != new.link,
    }
    return tuple(name for name, differing in differs.items() if differing)


def _owner(metadata: Metadata) -> tuple[int, int, str, str]:
    return metadata.uid, metadata.gid, metadata.user, metadata.group


def _change(
    change: str, old: TreeEntry | None, new: TreeEntry | None, attributes: tuple[str, ...] = ()
) -> FileChange:
    entry = new or old
    assert entry is not None
    return FileChange(
        change,
        entry.path,
        old.path if old else b"",
        entry.type,
        new.metadata.size_bytes if new else 0,
        old.metadata.size_bytes if old else 0,
        attributes,
    )
