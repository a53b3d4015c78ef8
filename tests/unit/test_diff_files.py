"""Which paths differ and which file became which, told from trees alone."""

from __future__ import annotations

import json
from collections.abc import Iterable

from blake3 import blake3

from backupd.operations.diff_files import (
    FileComparison,
    Values,
    compare_trees,
    counterpart,
)
from backupd.repository.tree import ChunkRef, FileType, Metadata, TreeEntry
from backupd.repository.tree_codec import encode_entry

LAYOUT = b"l" * 32


def entry(
    path: str, content: str = "", kind: FileType = FileType.FILE, **more: object
) -> TreeEntry:
    data = content.encode()
    known = {key: more.pop(key) for key in list(more) if key in Metadata._fields}
    metadata = Metadata(0o644, 0, 0, 10**18, 0, 0, 0, len(data))
    found = TreeEntry(path.encode(), kind, metadata._replace(**known))  # type: ignore[arg-type]
    if kind is FileType.FILE:
        digest = blake3(data).digest()
        found = found._replace(content_hash=digest, chunks=(ChunkRef(digest, len(data)),))
    return found._replace(**more)  # type: ignore[arg-type]


def values(entries: Iterable[TreeEntry]) -> Values:
    for item in sorted(entries, key=lambda item: item.path):
        yield json.loads(encode_entry(item))


def compare(old: Iterable[TreeEntry], new: Iterable[TreeEntry]) -> FileComparison:
    return compare_trees(values(old), values(new))


def told(found: FileComparison) -> list[tuple[str, str, str]]:
    return [(c.change, c.old_path.decode(), c.path.decode()) for c in found.changes]


def test_what_is_the_same_but_for_its_place_on_the_disk_is_unchanged() -> None:
    old = [entry("a", "x"), entry("d", kind=FileType.FOLDER)]
    new = [entry("a", "x", inode=7, ctime_ns=9, device=3), entry("d", kind=FileType.FOLDER)]
    new[1] = new[1]._replace(metadata=new[1].metadata._replace(mtime_ns=5, size_bytes=4096))
    found = compare(old, new)
    assert (found.changes, found.unchanged) == ([], 2)


def test_a_file_cut_otherwise_is_the_same() -> None:
    other = (ChunkRef(b"1" * 32, 1),)
    found = compare([entry("a", "x")], [entry("a", "x", chunks=other, layout=LAYOUT)])
    assert (found.changes, found.unchanged) == ([], 1)


def test_added_removed_and_changed() -> None:
    found = compare([entry("a", "1"), entry("b", "2")], [entry("b", "3"), entry("c", "4")])
    assert told(found) == [("removed", "a", "a"), ("changed", "b", "b"), ("added", "", "c")]


def test_attributes_alone_are_named() -> None:
    new = entry("a", "x", mode=0o600, user="me", mtime_ns=5, xattrs={b"user.k": b"v"})
    [change] = compare([entry("a", "x")], [new]).changes
    assert change.change == "touched"
    assert change.attributes == ("mode", "owner", "time", "xattrs")


def test_a_link_that_points_elsewhere_and_a_file_that_became_one() -> None:
    old = [entry("l", kind=FileType.SYMLINK, link=b"x"), entry("m", "x")]
    new = [
        entry("l", kind=FileType.SYMLINK, link=b"y"),
        entry("m", kind=FileType.SYMLINK, link=b"l"),
    ]
    first, second = compare(old, new).changes
    assert (first.change, first.attributes) == ("touched", ("link",))
    assert second.change == "changed"
    assert "type" in second.attributes


def test_the_same_content_elsewhere_is_renamed_that_of_its_own_name_first() -> None:
    old = [entry("a/one", "same"), entry("a/two", "same")]
    new = [entry("b/two", "same"), entry("c/three", "same")]
    assert told(compare(old, new)) == [
        ("renamed", "a/two", "b/two"),
        ("renamed", "a/one", "c/three"),
    ]


def test_empty_files_are_not_taken_for_one_another() -> None:
    assert {change[0] for change in told(compare([entry("a")], [entry("b")]))} == {
        "added",
        "removed",
    }


def test_folders_of_other_numbers_are_moved_in_the_order_of_the_numbers() -> None:
    def run(*steps: int) -> list[TreeEntry]:
        made = []
        for step in steps:
            made.append(entry(f"checkpoint-{step}", kind=FileType.FOLDER))
            made.append(entry(f"checkpoint-{step}/w.safetensors", f"w{step}", layout=LAYOUT))
            made.append(entry(f"checkpoint-{step}/state.json", f"s{step}"))
        return made

    found = compare(run(500, 1000), run(1500, 10000))
    assert {(old.split("/")[0], new.split("/")[0]) for _, old, new in told(found)} == {
        ("checkpoint-500", "checkpoint-1500"),
        ("checkpoint-1000", "checkpoint-10000"),
    }
    assert {change[0] for change in told(found)} == {"moved"}
    assert [pair.new.path for pair in found.pairs] == [
        b"checkpoint-1500/w.safetensors",
        b"checkpoint-10000/w.safetensors",
    ]


def test_a_new_container_is_compared_with_the_newest_of_its_name() -> None:
    old = [
        entry("checkpoint-1/w.pt", "1", mtime_ns=1),
        entry("checkpoint-2/w.pt", "2", mtime_ns=2),
        entry("final/w.pt", "3", mtime_ns=3),
    ]
    new = entry("checkpoint-3/w.pt", "4")
    found = compare(old, [*old, new])
    assert found.added == [new]
    best = counterpart(new, found.containers)
    assert best is not None
    assert best.path == b"checkpoint-2/w.pt"
    assert counterpart(entry("other.pt", "x"), found.containers) is None
