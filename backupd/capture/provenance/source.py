"""Source files as they lie in a folder, for code that is in no git repository."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from backupd.capture.folders import FolderTree, OpenFolder, name_of, parent_of
from backupd.capture.scan import Scan, ScanOptions, Skipped
from backupd.errors import BackupdError
from backupd.repository.tree import FileType

# What tools make and make again; see also `docs/code.md`.
_LEFT_OUT = (
    ".git/", ".hg/", ".svn/", ".venv/", "venv/", "node_modules/", "__pycache__/", "*.pyc",
    ".mypy_cache/", ".ruff_cache/", ".pytest_cache/", ".ipynb_checkpoints/", ".tox/",
    "*.egg-info/",
)  # fmt: skip
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
MOST_FILES = 50_000


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file or link below `root`; `link` is a link's target."""

    root: bytes
    path: bytes
    mode: int
    size_bytes: int
    link: bytes | None = None


def source_files(root: bytes, *, leave: Iterable[bytes]) -> Iterator[SourceFile]:
    """The files below a folder in path order, without what tools make and what `leave` names."""
    patterns = [*_LEFT_OUT, *("/" + _escaped(path) for path in leave)]
    count = 0
    with Scan(root, ScanOptions(tuple(patterns))) as scan:
        for item in scan:
            if isinstance(item, Skipped) or item.type is FileType.FOLDER:
                continue
            count += 1
            if count > MOST_FILES:
                raise BackupdError(f"the code's folder holds more than {MOST_FILES:,} files")
            mode = 0o100755 if item.stat.st_mode & 0o100 else 0o100644
            if item.type is FileType.SYMLINK:
                yield SourceFile(root, item.path, 0o120000, len(item.link), item.link)
            else:
                yield SourceFile(root, item.path, mode, item.stat.st_size)


def read_source(file: SourceFile) -> bytes | None:
    """The content of a file, or a link's target; None where it went away or grew meanwhile."""
    if file.link is not None:
        return file.link
    try:
        tree = FolderTree(file.root, OpenFolder)
        try:
            folder = tree.folder(parent_of(file.path))
            descriptor = os.open(name_of(file.path), _OPEN, dir_fd=folder.fd)
        finally:
            tree.close()
        with open(descriptor, "rb") as opened:
            content = opened.read(file.size_bytes + 1)
    except OSError:
        return None
    return content if len(content) <= file.size_bytes else None


def _escaped(path: bytes) -> str:
    """A path as a pattern that fits it alone (gitignore(5))."""
    text = path.decode("utf-8", "surrogateescape")
    return "".join("\\" + c if c in "\\*?[]! #" else c for c in text)
