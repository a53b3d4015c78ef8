"""Which entries of a snapshot a restore is asked for, by gitignore-style patterns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from backupd.capture.exclude import Exclusion
from backupd.repository.tree import FileType, TreeEntry


def select(
    entries: Iterable[TreeEntry], include: Sequence[str], exclude: Sequence[str]
) -> Iterator[TreeEntry]:
    """The entries that `include` (all where empty) names and `exclude` does not, in path order.

    A pattern that names a folder names all below it. The folders above what is included come
    with it, so that they get their modes and times too. Raises `ConfigError` for a pattern that
    is none.
    """
    wanted = Exclusion(tuple(include))
    unwanted = Exclusion(tuple(exclude))
    above: list[TreeEntry] = []
    taken = b""  # the innermost folder that is included with all below it
    dropped = b""
    for entry in entries:
        path = entry.path
        folder = entry.type is FileType.FOLDER
        if dropped and path.startswith(dropped):
            continue
        dropped = b""
        if unwanted and path and unwanted.excludes(path, folder=folder):
            if folder:
                dropped = path + b"/"
            continue
        if not include:
            yield entry
            continue
        while above and not _is_below(path, above[-1].path):
            above.pop()
        if not (taken and path.startswith(taken)):
            taken = b""
            if not (path and wanted.excludes(path, folder=folder)):
                if folder:
                    above.append(entry)
                continue
            if folder:
                taken = path + b"/"
        yield from above
        above.clear()
        yield entry


def _is_below(path: bytes, folder: bytes) -> bool:
    return not folder or path.startswith(folder + b"/")
