"""One opened repository: its descriptor, its keys, its index and its snapshots.

Opening costs two small reads and the key; the index is loaded when somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from backupd.codec.sealing import RandomBytes, unseal
from backupd.codec.secrets import derive
from backupd.errors import DamagedError, ObjectMissingError, TargetError, WrongKeyError
from backupd.repository import keys, layout
from backupd.repository.descriptor import Descriptor
from backupd.repository.index import Index, IndexCache
from backupd.repository.index_object import ASSOCIATED as INDEX_ASSOCIATED
from backupd.repository.index_object import PackTable, parse_index
from backupd.repository.listing import list_once
from backupd.repository.pack import read_table
from backupd.repository.small_objects import RELISTINGS, SmallObjects, present
from backupd.repository.snapshots import (
    Listing,
    SnapshotName,
    StoredSnapshot,
    amended,
    decode_snapshot,
    encode_amendment,
    folder_of,
    names_of,
    parse_name,
    versions_of,
)
from backupd.repository.tombstones import Tombstone, read_tombstones
from backupd.targets.base import ObjectInfo, Target

_MARKER_SECONDS = 24 * 3600.0
# What a marker holds; a listing tells the two apart by their lengths.
_FORGOTTEN = b"forgotten\n"
_BY_HAND = b"forgotten by hand\n"


class Repository:
    """What one target holds. Safe for several threads; `target` may be used directly."""

    def __init__(
        self,
        target: Target,
        descriptor: Descriptor,
        master_key: bytes,
        random: RandomBytes,
        *,
        index_cache: IndexCache | None = None,
        small_objects: SmallObjects | None = None,
    ) -> None:
        self.target = target
        self.small_objects = small_objects or SmallObjects(target)
        self.descriptor = descriptor
        self.secrets = derive(master_key, encrypted=descriptor.encrypted)
        self.sealer = self.secrets.sealer(random)
        self._master_key = master_key
        self._random = random
        self._index_cache = index_cache

    @property
    def name(self) -> str:
        """The target's name in the configuration."""
        return self.target.name

    @property
    def is_far(self) -> bool:
        """Whether each request is a wait, so that fewer of them, or several at once, pay."""
        return self.small_objects.at_once > 1

    def sibling(self, target: Target, descriptor: Descriptor) -> Repository:
        """What another target holds that shares the master key."""
        return Repository(target, descriptor, self._master_key, self._random)

    # -- keys ---------------------------------------------------------------------------------

    def key_ids(self) -> list[str]:
        """The ids of all key objects."""
        names = [info.name for info in self.target.list(layout.KEYS)]
        return [name.removeprefix(layout.KEYS).removesuffix(".json") for name in names]

    def describe_key(self, key_id: str) -> keys.KeyInfo:
        """What a key object says of itself."""
        return keys.describe(self.key_object(key_id), key_id)

    def key_object(self, key_id: str) -> bytes:
        """A key object as it is stored."""
        return self.target.get(layout.KEYS + key_id + ".json", layout.MAX_KEY)

    def add_key(self, secret: str, *, label: str, created: str) -> str:
        """Wrap the master key for one more secret; the new key's id."""
        key_id, stored = self.wrap_key(secret, label=label, created=created)
        self.put_key_object(key_id, stored)
        return key_id

    def wrap_key(self, secret: str, *, label: str, created: str) -> tuple[str, bytes]:
        """A key object for one more secret, for every target that shares the master key."""
        return keys.wrap(
            self._master_key, secret, label=label, created=created, random=self._random
        )

    def put_key_object(self, key_id: str, stored: bytes) -> None:
        """Store a key object."""
        self.target.put(layout.KEYS + key_id + ".json", [stored])

    def opens_with(self, key_id: str, secret: str) -> bool:
        """Whether a secret opens this key object."""
        try:
            keys.unwrap(self.key_object(key_id), key_id, secret)
        except WrongKeyError:
            return False
        return True

    def remove_key(self, key_id: str) -> None:
        """Delete a key object. Raises `TargetError` when it is the last."""
        remaining = [other for other in self.key_ids() if other != key_id]
        if not remaining:
            raise TargetError(
                f"{key_id} is the last key of {self.target.location}",
                hint="add another with 'backupd key add' first; without one nothing can be read",
            )
        self.target.delete(layout.KEYS + key_id + ".json")

    # -- snapshots ----------------------------------------------------------------------------

    def list_snapshots(
        self,
        folder: str = "",
        *,
        afresh: bool = False,
        advance: Callable[[int, int], None] = lambda done_bytes, items: None,
    ) -> Listing:
        """The snapshots of one model folder, or of all. A damaged one hides no other.

        With `afresh` each is read from the target itself. `advance` is told of each that is read.
        """
        for _ in range(RELISTINGS):
            listing, moved = list_once(self, folder, afresh=afresh, advance=advance)
            if not moved:
                break
        return listing

    def listed(self, folder: str) -> dict[SnapshotName, ObjectInfo]:
        """What is listed of one model folder, or of all: snapshots, amendments, markers."""
        named = ((parse_name(info.name), info) for info in self.target.list(folder_of(folder)))
        return {name: info for name, info in named if name is not None}

    def listed_versions(self, folder: str) -> list[int]:
        """The versions of a model folder that are listed, by their names alone."""
        return sorted(versions_of(self.listed(folder)))

    def newest_snapshots(
        self, folder: str, note: Callable[[str], None]
    ) -> Iterator[StoredSnapshot]:
        """The snapshots of a model folder that can be read, newest first, read one by one."""
        infos = self.listed(folder)
        for version in sorted(versions_of(infos), reverse=True):
            name = SnapshotName(folder, version)
            try:
                found = self.small_objects.get(infos[name], layout.MAX_SNAPSHOT)
                yield self.decoded(name, 0, [present(found)])
            except ObjectMissingError:
                continue
            except DamagedError as error:
                note(f"{self.name}: {error.message}")

    def highest_version(self, folder: str) -> int:
        """The highest version ever used in a model folder, 0 where there was none."""
        return max((name.version for name in self.listed(folder)), default=0)

    def read_snapshot(self, name: SnapshotName, amendment: int = 0) -> StoredSnapshot:
        """One snapshot with the labels of an amendment. Raises `DamagedError` when damaged."""
        names = [part.object_name() for part in names_of(name.folder, name.version, amendment)]
        stored = [self.target.get(wanted, layout.MAX_SNAPSHOT) for wanted in names]
        return self.decoded(name, amendment, stored)

    def decoded(
        self, name: SnapshotName, amendment: int, stored: Sequence[bytes]
    ) -> StoredSnapshot:
        """The snapshot of its object, and of that of its amendment where it has one."""
        from blake3 import blake3

        object_name = name.object_name()
        record = decode_snapshot(stored[0], object_name, self.sealer)
        folder = self.secrets.model_folder(record.host, record.model)
        if folder != name.folder or record.version != name.version:
            raise DamagedError(f"{object_name} is damaged: it is the snapshot of another place")
        if amendment:
            later = SnapshotName(name.folder, name.version, amendment).object_name()
            try:
                record = amended(record, stored[1], later, self.sealer)
            except DamagedError:
                pass  # labels are lost, the snapshot is not; check names the object
        return StoredSnapshot(name, record, blake3(stored[0]).hexdigest(), amendment)

    def amend(self, snapshot: StoredSnapshot, labels: Mapping[str, str]) -> StoredSnapshot:
        """Give a snapshot all new labels."""
        place = layout.SNAPSHOTS + snapshot.name.folder + "/"
        while True:
            names = [parse_name(info.name) for info in self.target.list(place)]
            taken = [n.amendment for n in names if n and n.version == snapshot.name.version]
            if not taken:
                break
            number = max(taken) + 1
            name = SnapshotName(snapshot.name.folder, snapshot.name.version, number)
            text = encode_amendment(labels, name.object_name(), self.sealer)
            if not self.target.put_if_absent(name.object_name(), [text]):
                continue
            marker = SnapshotName(name.folder, name.version, forgotten=True)
            try:
                if self.target.stat(marker.object_name()) is None:
                    return self.read_snapshot(snapshot.name, number)
            except ObjectMissingError:
                pass
            # By one who did not see these labels, and so does not drop them.
            self.target.delete(name.object_name())
            break
        raise ObjectMissingError(f"{snapshot.name.object_name()} was forgotten meanwhile")

    def forget(self, *names: SnapshotName, by_hand: bool = False) -> None:
        """Drop snapshots from the listing; their numbers stay taken. Repeating it is no error.

        `by_hand` says that a person dropped them: their markers are kept for good, so that no
        other target gives them back. What a policy drops, the policy keeps from coming back.
        """
        for folder in dict.fromkeys(name.folder for name in names):
            versions = [name.version for name in names if name.folder == folder]
            self._forget(folder, versions, _BY_HAND if by_hand else _FORGOTTEN)

    def _forget(self, folder: str, versions: Sequence[int], text: bytes) -> None:
        def mark(version: int) -> None:
            marker = SnapshotName(folder, version, forgotten=True)
            self.target.put(marker.object_name(), [text])

        # The markers first: from here on none is listed, and no number is free.
        self.small_objects.do_all(mark, versions)
        there = self.listed(folder)
        markers = {name.version: info for name, info in there.items() if name.forgotten}
        # Also what an earlier run that was killed left standing under its marker: once the
        # marker is gone, that would be listed again, and prune may have taken its packs.
        gone = [name for name in there if name.version in markers and not name.forgotten]
        self.target.delete_many([name.object_name() for name in gone])
        highest = max((name.version for name in there), default=0)
        # By the store's own clock, which has just dated the markers above.
        now = max((info.modified for info in there.values()), default=0.0)
        # Below the highest number only a writer that listed the folder before that was taken
        # could still take this one; none runs for so long between its listing and its put.
        passed = [
            info.name
            for version, info in markers.items()
            if info.size_bytes == len(_FORGOTTEN)
            and version < highest
            and info.modified < now - _MARKER_SECONDS
        ]
        self.target.delete_many(passed)

    # -- index --------------------------------------------------------------------------------

    def load_index(self, note: Callable[[str], None]) -> Index:
        """The index of all packs; what is damaged of it is rebuilt from the packs, and noted.

        Packs that are marked are avoided where a blob lies elsewhere too.
        """
        # Read before the index: of a pack that prune deletes in between, one of the two tells.
        marked = self.read_tombstones(note)
        index = self._load_index(note, self._index_cache)
        index.avoid(pack for stone in marked for pack in stone.packs)
        return index

    def _load_index(self, note: Callable[[str], None], cache: IndexCache | None) -> Index:
        index, damaged = self._read_index_objects(note, cache)
        if damaged:
            names = ", ".join(sorted(damaged))
            note(f"{self.name}: rebuilding what was in damaged index objects ({names})")
            self.recover_index(index, note)
        return index

    def _reload_index(self, note: Callable[[str], None]) -> Index:
        note(f"{self.name}: the index kept in the state folder is wrong or old; it is read anew")
        if self._index_cache is not None:
            self._index_cache.drop()
        return self._load_index(note, None)

    def read_index_objects(self) -> tuple[Index, dict[str, str]]:
        """What the stored index objects say, and which of them are damaged, with why.

        Each is read from the target itself.
        """
        return self._read_index_objects(lambda message: None, None, afresh=True)

    def _read_index_objects(
        self, note: Callable[[str], None], cache: IndexCache | None, *, afresh: bool = False
    ) -> tuple[Index, dict[str, str]]:
        reload = partial(self._reload_index, note)
        for _ in range(RELISTINGS):
            infos = list(self.target.list(layout.INDEX))
            names = [info.name for info in infos]
            index, covered = cache.load(names, reload) if cache else (Index(), set[str]())
            left = [info for info in infos if info.name not in covered]
            try:
                damaged = self._add_index_objects(index, left, afresh)
            except ObjectMissingError:
                continue  # prune wrote one in its place since it was listed
            if cache and not damaged:
                index = cache.keep(index, names, reload)
            return index, damaged
        raise TargetError(
            f"the index of {self.target.location} changed all the while it was read",
            hint="try again when no prune is running",
        )

    def _add_index_objects(
        self, index: Index, infos: Sequence[ObjectInfo], afresh: bool
    ) -> dict[str, str]:
        """Add what index objects say; those that are damaged, with why."""
        damaged: dict[str, str] = {}
        got = self.small_objects.get_all(layout.INDEX, infos, layout.MAX_INDEX, afresh=afresh)
        for info, stored in zip(infos, got, strict=True):
            try:
                index.add_tables(self._tables(info.name, present(stored)))
            except DamagedError as error:
                damaged[info.name] = error.message
        return damaged

    def read_index_object(self, name: str) -> list[PackTable]:
        """The pack tables of one index object. Raises `DamagedError`."""
        return self._tables(name, self.target.get(name, layout.MAX_INDEX))

    def _tables(self, name: str, stored: bytes) -> list[PackTable]:
        try:
            return list(parse_index(unseal(self.sealer, stored, INDEX_ASSOCIATED)))
        except DamagedError as error:
            raise DamagedError(f"{name} is damaged: {error}") from None

    def recover_index(self, index: Index, note: Callable[[str], None]) -> int:
        """Add the packs that no index object names, from their own tables; how many.

        An index from a cache is read anew first, as the cache may be what lacks something.
        """
        index.distrust()
        added = 0
        for info in self.target.list(layout.PACKS):
            pack_id = layout.pack_id_of(info.name)
            if pack_id is None or index.has_pack(pack_id):
                continue
            try:
                table = read_table(self.target, pack_id, info.size_bytes, self.sealer)
                index.add_table(PackTable(pack_id, info.size_bytes, table))
                added += 1
            except ObjectMissingError:
                continue
            except DamagedError as error:
                note(f"{self.name}: {error.message}")
        return added

    # -- tombstones ---------------------------------------------------------------------------

    def read_tombstones(
        self, note: Callable[[str], None], *, afresh: bool = False
    ) -> list[Tombstone]:
        """All tombstones; see `tombstones.read_tombstones`."""
        return read_tombstones(self.target, self.small_objects, self.sealer, note, afresh=afresh)
