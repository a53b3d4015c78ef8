"""Two snapshots compared: files, tensors, layers, and what is known of each.

Nothing is restored and nothing is written. Which files became which is decided in `diff_files`,
how far tensors moved in `diff_tensors`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from backupd.capture.containers import identify
from backupd.capture.containers.regions import TensorRegion
from backupd.capture.containers.stored import decode_layout
from backupd.capture.folders import name_of, parent_of, shown
from backupd.errors import BackupdError, DamagedError, TargetUnreachableError
from backupd.operations.catalog import ResolvedSnapshot
from backupd.operations.diff_code import CodeDiff, code_facts, compare_code
from backupd.operations.diff_configs import ConfigChange, compare_configs
from backupd.operations.diff_files import (
    FileComparison,
    Values,
    compare_trees,
    counterpart,
    may_hold_tensors,
)
from backupd.operations.diff_numbers import ELEMENTS, Figures, Sums
from backupd.operations.diff_report import DiffReport, LayerChange, TensorChange
from backupd.operations.diff_tensors import (
    Comparison,
    StoredBytes,
    StoredFile,
    TensorPair,
    comparable,
    compare_tensors,
)
from backupd.operations.progress import NoProgress, Progress
from backupd.repository.reader import BlobFinder, BlobReader
from backupd.repository.snapshots import SnapshotRecord
from backupd.repository.tree import TreeEntry
from backupd.repository.tree_codec import decode_values


def diff(
    old: ResolvedSnapshot,
    new: ResolvedSnapshot,
    *,
    tensors: bool = True,
    threads: int = 1,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> DiffReport:
    """Compare two snapshots, of one model or of two; without `tensors` by their trees alone.

    Raises `DamagedError` where a tree cannot be read, `TargetUnreachableError`, `StoppedError`.
    """
    progress = progress or NoProgress()
    sides = _Side(old, progress), _Side(new, progress)
    files = compare_trees(sides[0].values(), sides[1].values())
    run = _TensorRun(sides)
    configs: tuple[ConfigChange, ...] = ()
    if tensors:
        configs = tuple(compare_configs(files.texts, lambda side, e: sides[side].content(e)))
        run.find_pairs(files)
        progress.begin("read", sum(pair.new.size_bytes for pair in run.pairs))
        compared = compare_tensors(
            run.pairs,
            (sides[0].finder, sides[1].finder),
            threads=threads,
            advance=progress.advance,
            stop=stop or threading.Event(),
        )
        run.take(compared)
    records = old.stored.record, new.stored.record
    return DiffReport(
        old=old.info,
        new=new.info,
        files=tuple(files.changes),
        unchanged_files=files.unchanged,
        tensors=tuple(sorted(run.changes, key=_by_change)),
        unchanged_tensors=run.unchanged,
        layers=tuple(sorted(run.layers(), key=_by_change)),
        labels=_differences(old.info.labels, new.info.labels),
        metrics=_differences(old.info.metrics, new.info.metrics),
        code=_differences(code_facts(records[0].code), code_facts(records[1].code)),
        source=_compare_code(records, sides, run.failed),
        configs=configs,
        failed=run.failed,
    )


def layer_prefix(name: str) -> str:
    """The layer of a tensor: its name up to the first number, else without the last part.

    `model.layers.7.mlp.weight` is of `model.layers.7`, `lm_head.weight` of `lm_head`.
    """
    parts = name.split(".")
    for place, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: place + 1])
    return ".".join(parts[:-1]) or name


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {
        key: (old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    }


def _compare_code(
    records: tuple[SnapshotRecord, SnapshotRecord],
    sides: tuple[_Side, _Side],
    failed: dict[str, str],
) -> CodeDiff:
    try:
        return compare_code(records, (sides[0].reader, sides[1].reader))
    except DamagedError as error:
        failed["(the code)"] = error.message
        return CodeDiff()


def _by_change(item: TensorChange | LayerChange) -> tuple[float, float, str]:
    """The largest mean change first, then the largest share, then names."""
    name = item.name if isinstance(item, TensorChange) else item.prefix
    figures = item.figures
    if figures is None:
        return 1.0, 0.0, name
    return -(figures.mean or 0.0), -figures.share, name


class _Side:
    """One of the two snapshots, opened for reading."""

    def __init__(self, snapshot: ResolvedSnapshot, progress: Progress) -> None:
        self._record = snapshot.stored.record
        index = snapshot.repository.load_index(progress.note)
        self.finder = BlobFinder(snapshot.repository, index, progress.note)
        self.reader = BlobReader(self.finder)
        self._bytes = StoredBytes(self.finder)

    def values(self) -> Values:
        for tree in self._record.trees:
            yield from decode_values(bytes(self.reader.read(tree)))

    def content(self, entry: TreeEntry) -> bytes:
        """All bytes of a small file. Raises `DamagedError`."""
        file = StoredFile.of(entry, self.reader)
        size = entry.metadata.size_bytes
        return bytes(self._bytes.read(file, 0, size)) if size else b""

    def tensors(self, entry: TreeEntry) -> tuple[TensorRegion, ...]:
        """The tensors of a file, none where it is no container. Raises `DamagedError`."""
        size = entry.metadata.size_bytes
        if entry.layout:
            return decode_layout(self.reader.read(entry.layout), size).tensors
        if not may_hold_tensors(entry):
            return ()
        file = StoredFile.of(entry, self.reader)

        def read_at(offset: int, length: int) -> bytes:
            end = min(offset + length, size)
            return bytes(self._bytes.read(file, offset, end)) if offset < end else b""

        layout = identify(read_at, size, name_of(entry.path))
        return layout.tensors if layout else ()


_Tensor = tuple[TensorRegion, TreeEntry]


class _TensorRun:
    """Which tensor became which, and what came of it."""

    def __init__(self, sides: tuple[_Side, _Side]) -> None:
        self.pairs: list[TensorPair] = []
        self.changes: list[TensorChange] = []
        self.unchanged = 0
        self.failed: dict[str, str] = {}
        self._sides = sides
        self._files: dict[tuple[int, bytes], StoredFile] = {}
        self._layers: dict[tuple[bytes, str], _Layer] = {}

    # -- which became which ------------------------------------------------------------------

    def find_pairs(self, files: FileComparison) -> None:
        """Match by name: within a file and what it was; then what is left anywhere; then what
        is in a container without any counterpart, with the newest of that name."""
        removed: list[_Tensor] = []
        added: list[_Tensor] = []
        for pair in files.pairs:
            was, now = self._table(0, pair.old), self._table(1, pair.new)
            for name, tensor in now.items():
                if name in was:
                    self._pair((was.pop(name), pair.old), (tensor, pair.new))
                else:
                    added.append((tensor, pair.new))
            removed += [(tensor, pair.old) for tensor in was.values()]
        for entry in files.removed:
            removed += [(tensor, entry) for tensor in self._table(0, entry).values()]
        for entry in files.added:
            added += [(tensor, entry) for tensor in self._table(1, entry).values()]
        removed, added = self._pair_by_name(removed, added)
        added = self._pair_with_newest(files, added)
        self.changes += [
            TensorChange("added", t.name, e.path, t.dtype, t.shape, t.size_bytes) for t, e in added
        ]
        self.changes += [
            TensorChange("removed", t.name, e.path, t.dtype, t.shape, t.size_bytes)
            for t, e in removed
        ]

    def _pair_by_name(
        self, removed: list[_Tensor], added: list[_Tensor]
    ) -> tuple[list[_Tensor], list[_Tensor]]:
        """Pair names that are there once on either side: a tensor in another shard file."""
        was, now = _unique(removed), _unique(added)
        both = was.keys() & now.keys()
        for name, tensor in now.items():
            if name in both:
                self._pair(was[name], tensor)
        return (
            [tensor for tensor in removed if tensor[0].name not in both],
            [tensor for tensor in added if tensor[0].name not in both],
        )

    def _pair_with_newest(self, files: FileComparison, added: list[_Tensor]) -> list[_Tensor]:
        whole = {entry.path: entry for entry in files.added}
        tables: dict[bytes, tuple[TreeEntry | None, dict[str, TensorRegion]]] = {}
        left = []
        for tensor, entry in added:
            if entry.path not in tables:
                old = counterpart(entry, files.containers) if entry.path in whole else None
                tables[entry.path] = (old, self._table(0, old) if old is not None else {})
            old, table = tables[entry.path]
            if old is not None and tensor.name in table:
                self._pair((table[tensor.name], old), (tensor, entry))
            else:
                left.append((tensor, entry))
        return left

    def _pair(self, old: _Tensor, new: _Tensor) -> None:
        if comparable(old[0], new[0]):
            files = self._file(0, old[1]), self._file(1, new[1])
            if files[0] is not None and files[1] is not None:
                self.pairs.append(TensorPair(old[0], files[0], new[0], files[1]))
        else:
            self.changes.append(_tensor_change("replaced", old, new, None))

    def _table(self, side: int, entry: TreeEntry) -> dict[str, TensorRegion]:
        try:
            return {tensor.name: tensor for tensor in self._sides[side].tensors(entry)}
        except TargetUnreachableError:
            raise
        except BackupdError as error:
            self._fail(entry, error.message)
            return {}

    def _file(self, side: int, entry: TreeEntry) -> StoredFile | None:
        known = self._files.get((side, entry.path))
        if known is not None or shown(entry.path) in self.failed:
            return known
        try:
            file = StoredFile.of(entry, self._sides[side].reader)
        except TargetUnreachableError:
            raise
        except BackupdError as error:
            self._fail(entry, error.message)
            return None
        self._files[side, entry.path] = file
        return file

    def _fail(self, entry: TreeEntry, why: str) -> None:
        self.failed.setdefault(shown(entry.path), why)

    # -- what came of it ----------------------------------------------------------------------

    def take(self, compared: Iterable[Comparison]) -> None:
        """Make changes and layers of what was compared."""
        for comparison in compared:
            pair = comparison.pair
            new, entry = pair.new, pair.new_file.entry
            if comparison.error:
                self._fail(entry, f"{new.name}: {comparison.error}")
                continue
            self._layer(entry, new.name).add(comparison)
            if comparison.same:
                self.unchanged += 1
                continue
            figures = comparison.sums.figures(comparison.unit)
            old = pair.old, pair.old_file.entry
            self.changes.append(_tensor_change("changed", old, (new, entry), figures))

    def layers(self) -> Iterator[LayerChange]:
        """The layers in which something changed."""
        for (folder, prefix), layer in self._layers.items():
            if layer.changed:
                yield layer.summary(folder, prefix)

    def _layer(self, entry: TreeEntry, name: str) -> _Layer:
        return self._layers.setdefault((parent_of(entry.path), layer_prefix(name)), _Layer())


@dataclass(slots=True)
class _Layer:
    tensors: int = 0
    changed: int = 0
    size_bytes: int = 0
    numbers: int = 0
    sums: Sums = field(default_factory=Sums)

    def add(self, comparison: Comparison) -> None:
        self.tensors += 1
        self.changed += not comparison.same
        self.size_bytes += comparison.pair.new.size_bytes
        if comparison.unit == ELEMENTS and not comparison.same:
            self.numbers += 1
            self.sums.add(comparison.sums)

    def summary(self, folder: bytes, prefix: str) -> LayerChange:
        figures = self.sums.figures(ELEMENTS) if self.numbers else None
        return LayerChange(folder, prefix, self.tensors, self.changed, self.size_bytes, figures)


def _unique(tensors: Iterable[_Tensor]) -> dict[str, _Tensor]:
    found: dict[str, _Tensor] = {}
    twice = set()
    for tensor in tensors:
        name = tensor[0].name
        if name in found:
            twice.add(name)
        found[name] = tensor
    return {name: tensor for name, tensor in found.items() if name not in twice}


def _tensor_change(
    change: str, old: _Tensor, new: _Tensor, figures: Figures | None
) -> TensorChange:
    return TensorChange(
        change,
        new[0].name,
        new[1].path,
        new[0].dtype,
        new[0].shape,
        new[0].size_bytes,
        old[1].path,
        old[0].dtype,
        old[0].shape,
        figures,
    )
