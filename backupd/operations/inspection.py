"""What a snapshot looks for in files while it captures them: secrets, which it leaves out, and
dangers, which it names. A file that did not change is what was found of it before.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

from backupd.capture.folders import name_of, shown
from backupd.capture.reading import CaptureFile, open_for_capture
from backupd.capture.scan import LeftOutError, Scan, Scanned, SkipKind, Skipped
from backupd.capture.secrets import MOST_BYTES, is_secret_name, may_hold_secrets, secret_in
from backupd.operations.previous import PreviousEntry
from backupd.repository.danger import Danger
from backupd.repository.snapshots import SnapshotRecord
from backupd.repository.tree import FileType

if TYPE_CHECKING:
    from backupd.capture.danger import Suspicion

LEFT_OUT = "left out"
KEPT = "kept"
_MOST_FILES = 10_000
_LOOKED_AT_BESIDE = 4 << 20  # bytes; a smaller file is read in less time than a thread takes
_FILES = frozenset({FileType.FILE, FileType.HARDLINK})


class Inspection:
    """One snapshot's. Files are told in path order by one thread."""

    def __init__(self, scan: Scan, before: SnapshotRecord | None, *, include_secrets: bool) -> None:
        """`before` is the previous snapshot, from which unchanged files are kept."""
        self.secrets = KEPT if include_secrets else LEFT_OUT
        self._scan = scan
        self._leaves_secrets = not include_secrets
        self._known: dict[str, list[Danger]] = {}
        for found in before.findings if before else ():
            self._known.setdefault(found.path, []).append(found)
        # An older backupd, or one told to keep secrets, did not look.
        self._looked_for_secrets = before is not None and before.secrets == LEFT_OUT
        self._looked_for_danger = before is not None and before.secrets != ""
        self._findings: dict[bytes, tuple[Danger, ...]] = {}

    def leaves(self, item: Scanned) -> Skipped | None:
        """Why a path is left out by its name alone, or None."""
        if not self._leaves_secrets or item.type not in _FILES or not is_secret_name(item.path):
            return None
        self._scan.release_link(item)
        return _secret(item.path, "holds secrets by its name")

    def knows(self, item: Scanned, before: PreviousEntry) -> bool:
        """Whether an unchanged file needs no look; what was found of it before is taken over."""
        if item.type is not FileType.FILE:
            return True
        if (
            self._leaves_secrets
            and not self._looked_for_secrets
            and before.size_bytes <= MOST_BYTES
        ):
            return False
        if not self._looked_for_danger:
            self._look_again(item)
        else:
            self.take_over(item.path)
        return True

    def take_over(self, path: bytes) -> None:
        """A file is kept as the previous snapshot has it."""
        if self._known and (found := self._known.get(shown(path))):
            self._findings[path] = tuple(found)

    def _look_again(self, item: Scanned) -> None:
        try:
            with open_for_capture(self._scan, item) as file:
                self.file(item.path, file)
        except LeftOutError:
            return  # it is kept as it was

    def suspects(self, texts: memoryview) -> bool:
        """Whether a secret may stand in files of which `small` is to be told; in any thread.

        There is a zero byte between any two of them. False is certain.
        """
        return self._leaves_secrets and may_hold_secrets(texts)

    def small(self, path: bytes, content: memoryview, *, suspected: bool) -> None:
        """A file's whole content, before it is stored. Raises `LeftOutError`."""
        if suspected and self._leaves_secrets and (kind := secret_in(content)):
            raise LeftOutError(_secret(path, f"holds {kind}"))
        danger = _danger()
        name = name_of(path)
        if danger.may_be_dangerous(bytes(content[: danger.HEAD_BYTES]), name):
            data = bytes(content)
            found = danger.look_for_danger(lambda at, n: data[at : at + n], len(data), name)
            self._take(path, found)

    def file(self, path: bytes, file: CaptureFile) -> None:
        """An open file, before it is stored. Raises `LeftOutError`."""
        self._refuse_secrets(path, file)
        self._take(path, _dangers(path, file))

    @contextmanager
    def beside(self, path: bytes, file: CaptureFile) -> Iterator[None]:
        """As `file`, but of a large file the dangers are looked for while the block stores it.

        Raises `LeftOutError`, also after the block.
        """
        self._refuse_secrets(path, file)
        if file.stat.st_size < _LOOKED_AT_BESIDE:
            self._take(path, _dangers(path, file))
            yield
            return
        look = _Look(path, file)
        try:
            yield
        finally:
            found = look.end()
        if isinstance(found, BaseException):
            raise found
        self._take(path, found)

    def _refuse_secrets(self, path: bytes, file: CaptureFile) -> None:
        size = file.stat.st_size
        if not self._leaves_secrets or size > MOST_BYTES:
            return
        if kind := secret_in(_part(file, 0, size)):
            raise LeftOutError(_secret(path, f"holds {kind}"))

    def _take(self, path: bytes, suspicions: tuple[Suspicion, ...]) -> None:
        self.forget(path)
        if suspicions and len(self._findings) < _MOST_FILES:
            self._findings[path] = tuple(
                Danger(shown(path), found.level, found.what) for found in suspicions
            )

    def forget(self, path: bytes) -> None:
        """A file that was looked at is not kept."""
        self._findings.pop(path, None)

    def findings(self) -> tuple[Danger, ...]:
        """What was found of the files that the snapshot keeps."""
        return tuple(danger for found in self._findings.values() for danger in found)


@cache
def _danger() -> ModuleType:
    # Imported where a file is new or changed: most snapshots find none.
    from backupd.capture import danger

    return danger


class _Look:
    """A search of one file for dangers, in a thread of its own."""

    def __init__(self, path: bytes, file: CaptureFile) -> None:
        self._path = path
        self._file = file
        self._found: tuple[Suspicion, ...] | BaseException = ()
        self._thread = threading.Thread(target=self._run, name="dangers", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._found = _dangers(self._path, self._file)
        except BaseException as error:
            self._found = error

    def end(self) -> tuple[Suspicion, ...] | BaseException:
        """Wait for what was found, or for what failed."""
        self._thread.join()
        return self._found


def _dangers(path: bytes, file: CaptureFile) -> tuple[Suspicion, ...]:
    from backupd.capture.danger import look_for_danger

    def read_at(offset: int, length: int) -> bytes:
        return _part(file, offset, length)

    return look_for_danger(read_at, file.stat.st_size, name_of(path))


def _part(file: CaptureFile, offset: int, length: int) -> bytes:
    buffer = bytearray(min(length, max(0, file.stat.st_size - offset)))
    return bytes(memoryview(buffer)[: file.read_into(buffer, offset)])


def _secret(path: bytes, why: str) -> Skipped:
    return Skipped(path, SkipKind.SECRET, f"{why}, so it was left out (include_secrets keeps it)")
