"""A target that is a folder on a disk: each object one file, written whole and made durable.

What only network mounts need lives in `nas`; nothing in here knows what an object holds.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from backupd.errors import ObjectMissingError, TargetError
from backupd.targets import folders
from backupd.targets.base import (
    Buffer,
    ObjectInfo,
    check_name,
    check_prefix,
    total_size,
)
from backupd.targets.exclusive import rename_if_absent
from backupd.targets.handles import Handles
from backupd.targets.oserrors import absent_root, translate

_Result = TypeVar("_Result")

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Without O_NONBLOCK opening a FIFO that someone left there would wait for its writer.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
# What open(2) answers where a name is absent, or is a link or a socket and so no object.
_NO_OBJECT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO})
_STALE_SECONDS = 86_400.0
_LARGE_BYTES = 1 << 20
# ext4 makes this folder in the root of every disk; only root may look into it.
_FOREIGN = "lost+found"


class FolderTarget:
    """A `Target` in the folder `root`, which must be there (`create_folder` makes it).

    Each operation opens `root` anew and works below that descriptor: it sees one and the same
    filesystem from its first step to its last, whatever is mounted meanwhile, and between
    operations nothing but the files kept for reading holds the mount busy.
    """

    def __init__(self, name: str, root: Path) -> None:
        self._name = name
        self._root = os.path.abspath(root)
        self._handles = Handles()
        self._folders_seen: set[str] = set()
        self._swept_at = float("-inf")

    @property
    def name(self) -> str:
        """The target's name in the configuration."""
        return self._name

    @property
    def location(self) -> str:
        """The folder's path."""
        return self._root

    def put(self, name: str, parts: Sequence[Buffer], *, warm: bool = False) -> None:
        """See `Target.put`."""
        check_name(name)
        self._run(name, lambda root: self._put(root, name, parts, replace=True), writing=True)
        self._drop(name)

    def put_if_absent(self, name: str, parts: Sequence[Buffer]) -> bool:
        """See `Target.put_if_absent`."""
        check_name(name)
        return self._run(
            name, lambda root: self._put(root, name, parts, replace=False), writing=True
        )

    def get(self, name: str, max_bytes: int) -> bytes:
        """See `Target.get`."""
        check_name(name)

        def read(descriptor: int) -> bytes:
            size = os.fstat(descriptor).st_size
            if size > max_bytes:
                raise TargetError(
                    f"target {self._name!r}: {self._path(name)} has {size} bytes, "
                    f"more than the {max_bytes} it may have"
                )
            data = bytearray(size)
            self._fill(descriptor, name, 0, memoryview(data))
            return bytes(data)

        return self._read(name, read)

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """See `Target.read_into`."""
        check_name(name)
        view = buffer.cast("B")
        self._read(name, lambda descriptor: self._fill(descriptor, name, offset, view))

    def stat(self, name: str) -> ObjectInfo | None:
        """See `Target.stat`."""
        check_name(name)

        def look(root: int) -> ObjectInfo | None:
            try:
                found = os.stat(name, dir_fd=root, follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                return None
            if not stat.S_ISREG(found.st_mode):
                return None
            return ObjectInfo(name, found.st_size, found.st_mtime)

        return self._run(name, look, writing=False)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Target.list`."""
        check_prefix(prefix)
        for entry in self._run(prefix, lambda root: folders.scan(root, prefix), writing=False):
            if isinstance(entry, ObjectInfo):
                yield entry
            elif entry != f"{_FOREIGN}/":
                yield from self.list(entry)

    def delete(self, name: str) -> None:
        """See `Target.delete`."""
        check_name(name)

        def remove(root: int) -> None:
            try:
                os.unlink(name, dir_fd=root)
            except (FileNotFoundError, NotADirectoryError):
                return

        # The folder is not flushed: a deletion that a power cut undoes is done again by whoever
        # finds the object.
        self._run(name, remove, writing=True)
        self._drop(name)

    def delete_many(self, names: Sequence[str]) -> None:
        """See `Target.delete_many`."""
        for name in names:
            self.delete(name)

    def close(self) -> None:
        """Close the files kept for reading."""
        self._handles.close()

    def _attempt(self, name: str, action: Callable[[], _Result], *, writing: bool) -> _Result:
        """Do `action`; what the system refuses becomes words.

        Every touch of the disk goes through here, so that what is to hold for all of them (a
        stale handle, a mount that hangs) is this one method of another form of this target.
        """
        try:
            return action()
        except OSError as error:
            raise translate(error, self._name, self._path(name), writing=writing) from error

    def _run(self, name: str, action: Callable[[int], _Result], *, writing: bool) -> _Result:
        """Do `action` with the root's descriptor."""

        def with_root() -> _Result:
            root = self._open_root()
            try:
                return action(root)
            finally:
                os.close(root)

        return self._attempt(name, with_root, writing=writing)

    def _read(self, name: str, action: Callable[[int], _Result]) -> _Result:
        """Do `action` with the object's descriptor, kept from before where it can be."""

        def with_object() -> _Result:
            with self._handles.reading(name, lambda: self._open_object(name)) as descriptor:
                return action(descriptor)

        return self._attempt(name, with_object, writing=False)

    def _open_root(self) -> int:
        """A descriptor of the root folder, or `TargetUnreachableError` where there is none."""
        try:
            return os.open(self._root, _FOLDER)
        except FileNotFoundError as error:
            raise absent_root(self._name, self._root) from error
        except NotADirectoryError as error:
            raise absent_root(self._name, self._root, "it is not a folder") from error

    def _confirm(self, root: int, name: str, parts: Sequence[Buffer], size_bytes: int) -> None:
        """Nothing to do on a disk, where fsync tells the truth or an error."""

    def _drop(self, name: str) -> None:
        """Forget the file that was kept for reading the object."""
        self._handles.drop(name)

    def _path(self, name: str) -> str:
        return os.path.join(self._root, name)

    def _open_object(self, name: str) -> int:
        root = self._open_root()
        try:
            descriptor = os.open(name, _READ, dir_fd=root)
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return descriptor
            os.close(descriptor)
        except OSError as error:
            if error.errno not in _NO_OBJECT:
                raise
        finally:
            os.close(root)
        raise ObjectMissingError(f"target {self._name!r}: there is no object {self._path(name)}")

    def _fill(self, descriptor: int, name: str, offset: int, view: memoryview) -> None:
        done = 0
        while done < view.nbytes:
            count = os.preadv(descriptor, [view[done:]], offset + done)
            if not count:
                raise TargetError(
                    f"target {self._name!r}: {self._path(name)} ends at byte {offset + done}, "
                    f"before byte {offset + view.nbytes} that was asked for",
                    hint="it is damaged or was cut short; `backupd check` says what that hurts",
                )
            done += count

    def _put(self, root: int, name: str, parts: Sequence[Buffer], *, replace: bool) -> bool:
        try:
            return self._store(root, name, parts, replace=replace)
        except FileNotFoundError:
            # Folders that were known are gone (removed by hand, or another disk is mounted).
            self._folders_seen.clear()
            return self._store(root, name, parts, replace=replace)

    def _store(self, root: int, name: str, parts: Sequence[Buffer], *, replace: bool) -> bool:
        """Write `parts` beside, flush, and give the file its name; true when it got it."""
        size = total_size(parts)
        self._make_folder(root, folders.TEMPORARY)
        temporary = f"{folders.TEMPORARY}/{os.urandom(12).hex()}"
        try:
            now = self._write_temporary(root, temporary, parts, size)
            self._sweep(root, now)
            created = self._give_name(root, temporary, name, replace=replace)
        finally:
            folders.remove(root, temporary)
        if created:
            folders.flush(root, os.path.dirname(name) or ".")
            self._confirm(root, name, parts, size)
        return created

    def _write_temporary(
        self, root: int, temporary: str, parts: Sequence[Buffer], size: int
    ) -> float:
        """Write and flush the file; the store's own time of doing so."""
        descriptor = folders.create(root, temporary)
        try:
            folders.write_all(descriptor, parts)
            os.fsync(descriptor)
            if size >= _LARGE_BYTES and folders.memory_is_scarce():
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            written = os.fstat(descriptor).st_mtime
        except BaseException:
            try:
                os.close(descriptor)
            except OSError:
                pass  # the first error is the one that tells
            raise
        os.close(descriptor)
        return written

    def _give_name(self, root: int, temporary: str, name: str, *, replace: bool) -> bool:
        self._make_folder(root, os.path.dirname(name))
        if replace:
            os.rename(temporary, name, src_dir_fd=root, dst_dir_fd=root)
            return True
        return rename_if_absent(root, temporary, name)

    def _make_folder(self, root: int, folder: str) -> None:
        if folder and folder not in self._folders_seen:
            folders.make(root, folder)
            self._folders_seen.add(folder)

    def _sweep(self, root: int, now: float) -> None:
        """Once a day remove what crashed writers left, by the clock that dates those files."""
        if now - self._swept_at > _STALE_SECONDS:
            self._swept_at = now
            folders.remove_older(root, folders.TEMPORARY, now - _STALE_SECONDS)


def create_folder(name: str, root: Path) -> None:
    """Create the folder `root` of the target `name` with mode 0700, and those above as needed.

    A folder that is there already is left as it is.
    """
    try:
        parent = os.path.dirname(os.path.abspath(root))
        os.makedirs(parent, exist_ok=True)
        try:
            os.mkdir(root, 0o700)
        except FileExistsError:
            if not os.path.isdir(root):
                raise
            return
        made = os.open(root, _FOLDER)
        try:
            folders.set_mode(made, 0o700)
        finally:
            os.close(made)
        descriptor = os.open(parent, _FOLDER)
        try:
            folders.flush(descriptor, ".")
        finally:
            os.close(descriptor)
    except OSError as error:
        raise translate(error, name, str(root), writing=True) from error
