"""Snapshots as plain tar archives or folders, named by a template, for those without backupd."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Protocol

from blake3 import blake3

from backupd.errors import BackupdError, DamagedError, PartialError, StoppedError, UsageError
from backupd.operations.catalog import ResolvedSnapshot, iterate_files
from backupd.operations.chunk_stream import ChunkStream
from backupd.operations.installation import Installation
from backupd.operations.names import rendered_name, words_of
from backupd.operations.placement_system import RestoreCalls
from backupd.operations.progress import NoProgress, Progress
from backupd.operations.restore import RestoreRequest, restore
from backupd.operations.swapping import remove
from backupd.operations.tar_format import END, RECORD, data_size, member_header, padding
from backupd.policy.naming import Template, parse_layout
from backupd.repository.reachable import chunks_of, placed_chunks
from backupd.repository.reader import BlobFinder, BlobReader
from backupd.repository.tree import FileType, TreeEntry

TREE, TAR, TAR_ZST = "tree", "tar", "tar.zst"
FORMS = (TREE, TAR, TAR_ZST)
STDOUT = Path("-")
_ENDINGS = {TREE: "", TAR: ".tar", TAR_ZST: ".tar.zst"}
_OTHER_ARCHIVES = (".zip", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".zst")
_ZSTD_LEVEL = 3
_READ_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Exported:
    """One thing that is made: a tar of these snapshots, or the folder of one.

    With `only_file` it is no folder, but the only file that the snapshot has.
    """

    place: Path
    snapshots: tuple[ResolvedSnapshot, ...]
    form: str
    only_file: bool = False


def plan_export(
    installation: Installation,
    snapshots: Sequence[ResolvedSnapshot],
    output: Path,
    *,
    form: str = "",
    layout: str = "",
) -> list[Exported]:
    """What an export would make; nothing is written.

    Where `output` ends in `.tar`, `.tar.zst` or `.tzst`, or is `-`, it is one archive of all
    snapshots. Else it is a folder, in which each gets its place by `layout` (the configuration's
    where empty): a folder, or with `form` an archive of its own. Raises `UsageError` for a layout
    that is none, and where two snapshots would get one place.
    """
    if form and form not in FORMS:
        raise UsageError(f"there is no form {form!r}", hint=f"the forms are {', '.join(FORMS)}")
    single = _single_form(output)
    if single or output == STDOUT:
        if form == TREE or (single and form and form != single):
            raise UsageError(
                f"{output} is no place for a {form}", hint="name a folder, or leave --format out"
            )
        return [Exported(output, tuple(snapshots), single or form or TAR)]
    form = form or TREE
    template = _template(installation, layout)
    found: dict[str, ResolvedSnapshot] = {}
    made = []
    for snapshot in snapshots:
        words = words_of(installation.settings, snapshot.info)
        ending = _ENDINGS[form]
        only = _only_ending(snapshot) if form == TREE and "ext" in template.words else ""
        if "ext" in template.words:
            words = replace(words, ext=ending or only)
            ending = ""
        path = template.render(words) + ending
        if path in found:
            raise UsageError(
                f"{_full(found[path])} and {_full(snapshot)} would both be {path}",
                hint="put {host} into the layout",
            )
        found[path] = snapshot
        if any(len(os.fsencode(part)) > 255 for part in path.split("/")):
            raise UsageError(f"{path} has a name that is too long for a file system")
        made.append(Exported(output / path, (snapshot,), form, bool(only)))
    return made


def export(
    installation: Installation,
    planned: Exported,
    *,
    layout: str = "",
    stdout: IO[bytes] | None = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> int:
    """Make one thing that was planned; every byte is verified. Returns the bytes of content.

    An archive is written beside its place, read back and then renamed. In an archive of several
    snapshots, and where `layout` is given, each has a folder by the layout, else by its name.
    Raises `BackupdError` where something is in the way, `DamagedError` where a part cannot be
    given: an archive is then not made, of a folder the rest is there.
    """
    progress = progress or NoProgress()
    stop = stop or threading.Event()
    if planned.form == TREE:
        return _export_tree(installation, planned, progress, stop)
    if planned.place == STDOUT:
        assert stdout is not None
        return _write_archive(installation, planned, layout, stdout, progress, stop)
    place = planned.place
    if os.path.lexists(place):
        raise _in_the_way(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = place.with_name(f".{place.name}.{installation.random(4).hex()}.part")
    try:
        with beside.open("xb") as file:
            counting = _Hashing(file)
            size = _write_archive(installation, planned, layout, counting, progress, stop)
            file.flush()
            os.fsync(file.fileno())
        _read_back(beside, counting.digest())
        _rename_to_free(beside, place)
    except FileExistsError:
        raise _in_the_way(place) from None
    except OSError as error:
        raise BackupdError(f"{place} cannot be written: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()
    return size


class _Writable(Protocol):
    def write(self, data: bytes, /) -> object: ...


class _Hashing:
    """Passes bytes on and hashes them."""

    def __init__(self, file: _Writable) -> None:
        self._file = file
        self._hasher = blake3()

    def write(self, data: bytes) -> int:
        self._file.write(data)
        self._hasher.update(data)
        return len(data)

    def digest(self) -> bytes:
        return self._hasher.digest()


def _write_archive(
    installation: Installation,
    planned: Exported,
    layout: str,
    file: _Writable,
    progress: Progress,
    stop: threading.Event,
) -> int:
    sizes = [snapshot.info.size_bytes for snapshot in planned.snapshots]
    progress.begin("export", sum(sizes))
    threads = installation.settings.limits.threads
    template = _template(installation, layout) if layout else None
    with _compressed(file, planned.form, threads) as write:
        written = 0
        for snapshot in planned.snapshots:
            prefix = (
                template.render(words_of(installation.settings, snapshot.info))
                if template
                else rendered_name(installation.settings, snapshot.info)
            )
            for part in _members(snapshot, prefix, threads, progress, stop):
                write(part)
                written += len(part)
        write(END + bytes(-(written + len(END)) % RECORD))
    return sum(sizes)


@contextlib.contextmanager
def _compressed(file: _Writable, form: str, threads: int) -> Iterator[Callable[[bytes], object]]:
    if form != TAR_ZST:
        yield file.write
        return
    import zstandard

    compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, threads=threads).compressobj()

    def write(data: bytes) -> None:
        file.write(compressor.compress(data))

    yield write
    file.write(compressor.flush())


def _members(
    snapshot: ResolvedSnapshot, prefix: str, threads: int, progress: Progress, stop: threading.Event
) -> Iterator[bytes]:
    repository = snapshot.repository
    finder = BlobFinder(repository, repository.load_index(progress.note), progress.note)
    reader = BlobReader(finder)
    with ChunkStream(finder, threads) as stream:
        for entry in iterate_files(snapshot):
            if stop.is_set():
                raise StoppedError("stopped; nothing is left of the archive")
            yield member_header(entry, prefix)
            if entry.type is not FileType.FILE:
                continue
            yield from _content(entry, reader, stream, progress, stop)


def _content(
    entry: TreeEntry,
    reader: BlobReader,
    stream: ChunkStream,
    progress: Progress,
    stop: threading.Event,
) -> Iterator[bytes]:
    """A file's data, padded; that it is whole is known before its last chunk is given."""
    hasher = blake3()
    refs = (ref for ref, _ in placed_chunks(entry, chunks_of(reader, entry)))
    for chunk in stream.read(refs):
        if stop.is_set():
            raise StoppedError("stopped; nothing is left of the archive")
        hasher.update(chunk)
        yield chunk
        progress.advance(len(chunk))
    if hasher.digest() != entry.content_hash:
        raise DamagedError(f"{os.fsdecode(entry.path)!r} is not what was stored")
    yield padding(data_size(entry))
    progress.advance(0, 1)


def _export_tree(
    installation: Installation, planned: Exported, progress: Progress, stop: threading.Event
) -> int:
    """A folder, or the only file of the snapshot under the name that the layout gives it."""
    [snapshot] = planned.snapshots
    place = planned.place.absolute()
    if not planned.only_file:
        request = RestoreRequest(to=place)
        report = restore(installation, snapshot, request, progress=progress, stop=stop)
        _refuse_partial(snapshot, report.failed)
        return snapshot.info.size_bytes
    if os.path.lexists(place):
        raise _in_the_way(place)
    beside = place.with_name(f".{place.name}.{installation.random(4).hex()}.part")
    try:
        request = RestoreRequest(to=beside)
        report = restore(installation, snapshot, request, progress=progress, stop=stop)
        _refuse_partial(snapshot, report.failed)
        [only] = [path for path in beside.rglob("*") if path.is_file() and not path.is_symlink()]
        _rename_to_free(only, place)
    finally:
        remove(str(beside))
    return snapshot.info.size_bytes


def _rename_to_free(old: Path, new: Path) -> None:
    """Rename, refusing what has appeared there (FileExistsError)."""
    folder = os.open(new.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        RestoreCalls().rename_to_free(bytes(old.absolute()), os.fsencode(new.name), folder)
        os.fsync(folder)
    finally:
        os.close(folder)


def _refuse_partial(snapshot: ResolvedSnapshot, failed: Mapping[str, str]) -> None:
    if failed:
        path, why = next(iter(failed.items()))
        raise PartialError(
            f"{len(failed)} files of {_full(snapshot)} could not be given, as {path}: {why}",
            hint="backupd check says what is damaged; the other files are there",
        )


def _only_ending(snapshot: ResolvedSnapshot) -> str:
    """The ending of the snapshot's only file; empty where there are several, or links."""
    if snapshot.info.file_count != 1:
        return ""
    entries = [e for e in iterate_files(snapshot) if e.type is not FileType.FOLDER]
    if len(entries) != 1:
        return ""
    found = re.fullmatch(rb".*?((?:\.tar)?\.[A-Za-z0-9]+)", entries[0].path, re.DOTALL)
    return found[1].decode("ascii") if found else ""


def _template(installation: Installation, layout: str) -> Template:
    settings = installation.settings
    try:
        return parse_layout(layout or settings.layout, settings.naming)
    except ValueError as error:
        message, _, hint = str(error).partition("; ")
        raise UsageError(f"the layout {layout!r} {message}", hint=hint) from None


def _single_form(output: Path) -> str:
    name = output.name.lower()
    if name.endswith((".tar.zst", ".tzst")):
        return TAR_ZST
    if name.endswith(_OTHER_ARCHIVES):
        raise UsageError(
            f"{output.name} would be an archive of a form that is not made",
            hint="name a file that ends in .tar or .tar.zst, or a folder",
        )
    return TAR if name.endswith(".tar") else ""


def _read_back(path: Path, digest: bytes) -> None:
    """What a disk did not keep is not an archive. Raises `DamagedError`, OSError."""
    hasher = blake3()
    with path.open("rb") as file:
        # Else it would be read from the page cache and not from the disk.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while part := file.read(_READ_BYTES):
            hasher.update(part)
    if hasher.digest() != digest:
        raise DamagedError(f"{path} was not kept by its disk as it was written")


def _full(snapshot: ResolvedSnapshot) -> str:
    return f"{snapshot.info.host}:{snapshot.info.name}"


def _in_the_way(place: Path) -> BackupdError:
    return BackupdError(f"{place} is there already", hint="remove it, or choose another place")
