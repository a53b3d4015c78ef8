"""The part of `show` that tells how a snapshot is stored."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from backupd.cli import output
from backupd.cli.app import App
from backupd.cli.formatting import Column, count, percent, printable, size

if TYPE_CHECKING:
    from backupd.operations.describe import FileStorage, SnapshotStorage, Storage

MOST_FILES = 20
_WORTH_A_WORD = 0.005

_STORAGE_COLUMNS = (
    Column("SIZE", right=True),
    Column("STORED", right=True),
    Column("RATIO", right=True),
    Column("HOW", shrink=16, wrap=True),
)
_KIND_COLUMNS = (Column("KIND", shrink=20, wrap=True), Column("COUNT", right=True, drop=1))
_FILE_COLUMNS = (Column("FILE", shrink=24, wrap=True),)
_TENSOR_COLUMNS = (
    Column("TENSOR", shrink=24, wrap=True),
    Column("TYPE"),
    Column("SHAPE", drop=1),
)
_BASE_COLUMN = Column("BASE", shrink=14, wrap=True)


def say_storage(app: App, described: SnapshotStorage) -> None:
    """Tables of kinds and of files; with `--verbose` of every file and tensor."""
    rows = [
        (f"{kind.container} {kind.kind}".strip(), f"{kind.count:,}", *_cells(kind.storage))
        for kind in described.kinds
    ]
    output.result(app, "")
    output.table(
        app,
        (*_KIND_COLUMNS, *_STORAGE_COLUMNS),
        [*rows, ("all together", "", *_cells(described.total))],
    )
    if described.files:
        output.result(app, "")
    output.table(
        app,
        (*_FILE_COLUMNS, *_STORAGE_COLUMNS),
        [(printable(file.path), *_cells(file.storage)) for file in described.files],
    )
    if described.file_count > len(described.files):
        more = count(described.file_count - len(described.files), "file")
        output.say(app, f"and {more} that took less, which -v shows")
    for file in described.files:
        if file.tensors:
            _say_tensors(app, file)
    for line in described.notes:
        output.warn(app, printable(line))


def _say_tensors(app: App, file: FileStorage) -> None:
    bases = {tensor.base for tensor in file.tensors if tensor.base}
    output.result(app, f"\n{printable(file.path)}")
    if len(bases) == 1:
        output.result(app, f"its differences are from {printable(*bases)}")
    output.table(
        app,
        (*_TENSOR_COLUMNS, *_STORAGE_COLUMNS, _BASE_COLUMN),
        [
            (
                printable(tensor.name),
                tensor.dtype,
                "x".join(map(str, tensor.shape)) or "1",
                *_cells(tensor.storage),
                printable(tensor.base) if len(bases) > 1 else "",
            )
            for tensor in file.tensors
        ],
    )


def _cells(storage: Storage) -> tuple[str, str, str, str]:
    ratio = storage.ratio
    return (
        size(storage.size_bytes),
        size(storage.stored_bytes),
        "" if ratio is None else percent(ratio, 1),
        ", ".join(_methods(storage)),
    )


def _methods(storage: Storage) -> Iterable[str]:
    from backupd.operations.describe import methods

    # A header's few bytes are not worth a word, but in the document.
    shares = [(method, share) for method, share in methods(storage) if share >= _WORTH_A_WORD]
    for method, share in shares:
        yield method if len(shares) == 1 else f"{method} {percent(share, 1)}"
