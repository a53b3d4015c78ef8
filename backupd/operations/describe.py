"""How a snapshot is stored: by file, by kind of tensor and, where asked for, by tensor.

Told from trees, layouts and the index alone; no data is read. In memory are the beginnings of
the ids of this snapshot's chunks and of those of the one before, some 100 bytes each.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from backupd.capture.containers.regions import Layout, TensorRegion
from backupd.capture.containers.stored import decode_layout
from backupd.codec.blob import Codec
from backupd.errors import BackupdError, DamagedError, TargetUnreachableError
from backupd.operations.catalog import ResolvedSnapshot
from backupd.repository.reachable import chunks_of
from backupd.repository.reader import BlobFinder, BlobReader
from backupd.repository.snapshots import StoredSnapshot
from backupd.repository.tree import FileType, TreeEntry
from backupd.repository.tree_codec import decode_tree

SHARED = "shared"
MISSING = "missing"
_METHODS: dict[int, str] = {codec: codec.name.lower() for codec in Codec}

OTHER_FILES = "files without tensors"
REST = "rest"
METADATA = "trees and lists"

# What optimizers of torch call their states; anything else is told by its type alone.
_STATES = frozenset(
    ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg", "step")
)
_KNOWN_BY = 8  # bytes of an id that two blobs of one snapshot will not share


@dataclass(frozen=True, slots=True)
class Storage:
    """How bytes are stored. `plain` and `stored` give bytes by method.

    The methods are raw, zstd, planes and delta; `shared` is what the snapshot before holds too,
    or another place in this one: it takes nothing. What the index lacks is `missing`.
    """

    plain: Mapping[str, int]
    stored: Mapping[str, int]

    @property
    def size_bytes(self) -> int:
        """All plain bytes."""
        return sum(self.plain.values())

    @property
    def stored_bytes(self) -> int:
        """What this snapshot added for them to the repository."""
        return sum(self.stored.values())

    @property
    def ratio(self) -> float | None:
        """Stored bytes by plain bytes of what is not shared; None where all is."""
        own = self.size_bytes - self.plain.get(SHARED, 0) - self.plain.get(MISSING, 0)
        return self.stored_bytes / own if own else None


@dataclass(frozen=True, slots=True)
class TensorStorage:
    """One tensor; `base` says where what it is a difference from lies: a snapshot and a path,
    as `llama@v11: checkpoint-500/model.safetensors`, or empty."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    storage: Storage
    base: str = ""


@dataclass(frozen=True, slots=True)
class FileStorage:
    """One file; `container` is what it is (see `containers.Layout`), empty where it is none."""

    path: bytes
    container: str
    storage: Storage
    tensors: tuple[TensorStorage, ...] = ()


@dataclass(frozen=True, slots=True)
class KindStorage:
    """All tensors of one kind, `count` of them; of `OTHER_FILES` that many files."""

    container: str
    kind: str
    count: int
    storage: Storage


@dataclass(frozen=True, slots=True)
class SnapshotStorage:
    """A snapshot as it is stored.

    `kinds` are in order of size; `files` those that took most, of `file_count`. `notes` are
    sentences on what could not be told.
    """

    total: Storage
    kinds: tuple[KindStorage, ...]
    files: tuple[FileStorage, ...]
    file_count: int
    notes: tuple[str, ...]


def describe(
    snapshot: ResolvedSnapshot, *, most_files: int | None = 20, tensors: bool = False
) -> SnapshotStorage:
    """How a snapshot is stored where it is read from; with `tensors` also each of them.

    Raises `DamagedError` where its tree cannot be read, `TargetUnreachableError`.
    """
    run = _Description(snapshot, tensors=tensors)
    kept: list[tuple[int, int, int, _File]] = []
    count = 0
    for file in run.files():
        count += 1
        heapq.heappush(kept, (file.sums.stored_bytes, file.sums.size_bytes, -count, file))
        if most_files is not None and len(kept) > most_files:
            heapq.heappop(kept)
    shown = [item[-1] for item in sorted(kept, reverse=True)]
    places = run.places_of({base for file in shown for base in file.bases()})
    kinds = sorted(run.kinds(), key=lambda kind: (kind.kind == METADATA, -kind.storage.size_bytes))
    return SnapshotStorage(
        run.total.storage(),
        tuple(kinds),
        tuple(file.described(places) for file in shown),
        count,
        tuple(run.notes),
    )


@dataclass(slots=True)
class _Sums:
    plain: dict[str, int] = field(default_factory=dict)
    stored: dict[str, float] = field(default_factory=dict)
    count: int = 0

    def add(self, method: str, plain: int, stored: float) -> None:
        self.plain[method] = self.plain.get(method, 0) + plain
        self.stored[method] = self.stored.get(method, 0) + stored

    @property
    def size_bytes(self) -> int:
        return sum(self.plain.values())

    @property
    def stored_bytes(self) -> int:
        return round(sum(self.stored.values()))

    def storage(self) -> Storage:
        stored = {method: round(size) for method, size in self.stored.items() if size}
        return Storage(dict(self.plain), stored)


@dataclass(slots=True)
class _Tensor:
    region: TensorRegion
    sums: _Sums = field(default_factory=_Sums)
    base: bytes = b""


@dataclass(slots=True)
class _File:
    path: bytes
    container: str
    sums: _Sums = field(default_factory=_Sums)
    tensors: list[_Tensor] = field(default_factory=list)

    def bases(self) -> Iterator[bytes]:
        return (tensor.base for tensor in self.tensors if tensor.base)

    def described(self, places: Mapping[bytes, str]) -> FileStorage:
        tensors = tuple(
            TensorStorage(
                tensor.region.name,
                tensor.region.dtype,
                tensor.region.shape,
                tensor.sums.storage(),
                places.get(tensor.base, ""),
            )
            for tensor in self.tensors
        )
        return FileStorage(self.path, self.container, self.sums.storage(), tensors)


class _Description:
    """One run through a snapshot's trees."""

    def __init__(self, snapshot: ResolvedSnapshot, *, tensors: bool) -> None:
        self.total = _Sums()
        self.notes: list[str] = []
        self._snapshot = snapshot.stored
        self._tensors = tensors
        repository = snapshot.repository
        self._finder = BlobFinder(
            repository, repository.load_index(self.notes.append), self.notes.append
        )
        self._reader = BlobReader(self._finder)
        listed = repository.list_snapshots(self._snapshot.name.folder).snapshots
        version = self._snapshot.name.version
        self._earlier = [other for other in listed if other.name.version < version]
        self._seen: set[bytes] = set()
        self._kinds: dict[tuple[str, str], _Sums] = {}
        if self._earlier:
            self._take_earlier(self._earlier[-1])

    def files(self) -> Iterator[_File]:
        """Every file in path order, with what it takes."""
        metadata = self._kind("", METADATA)
        for tree in self._snapshot.record.trees:
            self._add_blob(metadata, tree)
            for entry in decode_tree(self._reader.read(tree)):
                for blob_id in (entry.chunk_list, entry.layout):
                    if blob_id:
                        self._add_blob(metadata, blob_id)
                if entry.type is FileType.FILE:
                    yield self._file(entry)

    def kinds(self) -> Iterator[KindStorage]:
        """What was added up by kind."""
        for (container, kind), sums in self._kinds.items():
            if sums.plain:
                yield KindStorage(container, kind, sums.count, sums.storage())

    def places_of(self, wanted: set[bytes]) -> dict[bytes, str]:
        """Where blobs lie, in words: in this snapshot, else in the newest that holds them."""
        found: dict[bytes, str] = {}
        trees: set[bytes] = set()
        for snapshot in (self._snapshot, *reversed(self._earlier)):
            if len(found) == len(wanted):
                break
            try:
                for entry in self._new_entries(snapshot, trees):
                    for ref in chunks_of(self._reader, entry):
                        if ref.blob_id in wanted and ref.blob_id not in found:
                            path = entry.path.decode("utf-8", "surrogateescape")
                            version = f"{snapshot.record.model}@v{snapshot.record.version}"
                            found[ref.blob_id] = f"{version}: {path}"
            except DamagedError as error:
                self.notes.append(error.message)
        return found

    def _new_entries(self, snapshot: StoredSnapshot, trees: set[bytes]) -> Iterator[TreeEntry]:
        """The entries of those trees that were not gone through before."""
        for tree in snapshot.record.trees:
            if tree not in trees:
                trees.add(tree)
                yield from decode_tree(bytes(self._reader.read(tree)))

    def _take_earlier(self, snapshot: StoredSnapshot) -> None:
        try:
            for tree in snapshot.record.trees:
                self._seen.add(tree[:_KNOWN_BY])
                for entry in decode_tree(bytes(self._reader.read(tree))):
                    self._seen.add(entry.chunk_list[:_KNOWN_BY])
                    self._seen.add(entry.layout[:_KNOWN_BY])
                    self._seen.update(
                        ref.blob_id[:_KNOWN_BY] for ref in chunks_of(self._reader, entry)
                    )
        except DamagedError as error:
            name = f"{snapshot.record.model}@v{snapshot.record.version}"
            self.notes.append(f"what is shared with {name} is not all known: {error.message}")

    def _file(self, entry: TreeEntry) -> _File:
        layout = self._layout(entry)
        file = _File(entry.path, layout.kind)
        tensors = [_Tensor(region) for region in layout.tensors]
        if self._tensors:
            file.tensors = tensors
        rest = self._kind(layout.kind, REST) if tensors else self._kind(layout.kind, OTHER_FILES)
        rest.count += 1
        for tensor in tensors:
            self._kind(layout.kind, _kind_of(tensor.region)).count += 1
        first = begin = 0
        for ref in chunks_of(self._reader, entry):
            method, stored, base = self._taken(ref.blob_id)
            self.total.add(method, ref.size_bytes, stored)
            file.sums.add(method, ref.size_bytes, stored)
            end = begin + ref.size_bytes
            left = ref.size_bytes
            while first < len(tensors) and _end(tensors[first]) <= begin:
                first += 1
            for number in range(first, len(tensors)):
                tensor = tensors[number]
                size = min(end, _end(tensor)) - max(begin, tensor.region.offset)
                if size <= 0:
                    break
                share = stored * size / ref.size_bytes
                tensor.sums.add(method, size, share)
                tensor.base = tensor.base or base
                self._kind(layout.kind, _kind_of(tensor.region)).add(method, size, share)
                left -= size
            if left:
                rest.add(method, left, stored * left / ref.size_bytes)
            begin = end
        return file

    def _layout(self, entry: TreeEntry) -> Layout:
        if entry.layout:
            try:
                return decode_layout(self._reader.read(entry.layout), entry.metadata.size_bytes)
            except TargetUnreachableError:
                raise
            except BackupdError as error:
                self.notes.append(error.message)
        return Layout("")

    def _taken(self, blob_id: bytes) -> tuple[str, int, bytes]:
        """How a blob is stored, what it takes, and what it is a difference from."""
        if blob_id[:_KNOWN_BY] in self._seen:
            return SHARED, 0, b""
        self._seen.add(blob_id[:_KNOWN_BY])
        try:
            record = self._finder.find(blob_id).record
        except DamagedError:
            return MISSING, 0, b""
        method = _METHODS.get(record.codec, f"codec {record.codec}")
        return method, record.sealed_size, record.base_id

    def _add_blob(self, sums: _Sums, blob_id: bytes) -> None:
        plain = self._finder.find(blob_id).record.plain_size
        method, stored, _ = self._taken(blob_id)
        sums.count += 1
        sums.add(method, plain, stored)
        self.total.add(method, plain, stored)

    def _kind(self, container: str, kind: str) -> _Sums:
        return self._kinds.setdefault((container, kind), _Sums())


def _end(tensor: _Tensor) -> int:
    return tensor.region.offset + tensor.region.size_bytes


def _kind_of(tensor: TensorRegion) -> str:
    last = tensor.name.rpartition(".")[2]
    return f"{tensor.dtype} {last}" if last in _STATES else tensor.dtype


def methods(storage: Storage) -> Iterable[tuple[str, float]]:
    """The share of the plain bytes that each method has, the largest first."""
    size = storage.size_bytes
    for method, plain in sorted(storage.plain.items(), key=lambda item: -item[1]):
        if plain:
            yield method, plain / size
