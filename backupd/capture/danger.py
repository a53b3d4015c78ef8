"""Which files may run code when they are loaded, told from their structure.

Nothing is ever loaded here. picklescan judges the globals that a pickle names; finding the
pickles in a file, and bounding what is read of them, is done here. Time and memory are bounded:
what cannot be looked through within that is `unscanned`.
"""

from __future__ import annotations

import bz2
import lzma
import re
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from backupd.capture.containers.bounded import BoundedFile, MalformedError, ReadAt
from backupd.capture.containers.zip_archive import ENCRYPTED, read_archive
from backupd.capture.containers.zip_archive import MAGIC as ZIP_MAGIC
from backupd.capture.danger_reading import FileSource, PickleWindow, TooLongError
from backupd.capture.folders import shown

DANGEROUS = "dangerous"
UNKNOWN = "unknown"
UNSCANNED = "unscanned"

HEAD_BYTES = 16
# From protocol 2 on a pickle begins with its number; an older one often with a name to import.
_PICKLE = re.compile(rb"\x80[\x00-\x05]|\(?c[A-Za-z_][\w.]*\n")
_PICKLE_NAME = re.compile(
    rb"\.(?:pkl|pickle|p|joblib|dill|pt|pth|ckpt|bin|dat|data|npy|npz)(?:\.(?:gz|bz2|xz|z))?\Z"
)
_NPY = b"\x93NUMPY"
_HDF5 = b"\x89HDF\r\n\x1a\n"
# The type letter of objects; the header is a Python literal, so it can be written as an escape.
_OBJECTS = re.compile(rb"[O\\]")
# Keras writes a Lambda layer's function as marshalled bytecode (keras.layers.Lambda).
_LAMBDA = re.compile(rb'"(?:class_name|registered_name)"\s*:\s*"(?:Lambda|__lambda__)"')

_MOST_SECONDS = 10.0
_MOST_MEMBERS = 20_000
_MOST_JSON_BYTES = 16 << 20
_MOST_HDF5_BYTES = 16 << 20
_MOST_PACKED_BYTES = 16 << 20
# LZMA's decoder takes what the writer chose, up to 4 GiB; `xz -9` chooses 65 MiB.
_MOST_LZMA_BYTES = 96 << 20
_NAMED = 4

# What torch itself loads with weights_only (torch/_weights_only_unpickler.py), and what NumPy's own
# arrays and scalars name; picklescan's list of what is harmless is shorter.
_HARMLESS = re.compile(
    r"torch\.(?:\w+Storage|Size|Tensor|device|(?:u?int|float|bfloat|complex|q|qu)\w*|bool|half|double"
    r"|long|short)"
    r"|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type_v2"
    r"|torch\.nn\.parameter\.(?:Parameter|Buffer|UninitializedParameter)"
    r"|torch\.storage\.\w+Storage|torch\.serialization\._get_layout"
    r"|collections\.(?:OrderedDict|Counter|defaultdict|deque)"
    r"|(?:builtins|__builtin__)\.(?:set|frozenset|bytearray|bytes|complex|dict|list|tuple|object|slice"
    r"|range|int|float|str|bool)"
    r"|_codecs\.encode|numpy\.(?:_core|core)\.(?:multiarray\.(?:scalar|_reconstruct)"
    r"|numeric\._frombuffer)|numpy\.dtypes\.\w+|numpy\.(?:dtype|ndarray|[a-z]+\d*_?)"
    r"|datetime\.(?:datetime|date|time|timedelta|timezone)|copyreg\._reconstructor"
    r"|numpy\.random\.(?:_pickle|_pcg64|_mt19937|_philox|_sfc64|bit_generator|mtrand)\.\w+"
    r"|torch\.per_\w+_affine\w*|torch\.jit\._pickle\.\w+|__torch__\.[\w.]+"
    r"|copy_reg\._reconstructor|argparse\.Namespace|pathlib\.\w*Path"
)


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What was found in a file; `what` goes after its path in a sentence."""

    level: str
    what: str


def _is_worth_unpacking(name: str, head: bytes) -> bool:
    """Whether a compressed member may be what `_Look._member` looks into."""
    ends = (".pkl", ".pickle", ".joblib", "config.json")
    return (
        head.startswith((_NPY, _HDF5))
        or _PICKLE.match(head) is not None
        or name.lower().endswith(ends)
    )


def _is_stored(info: zipfile.ZipInfo) -> bool:
    """Whether its bytes lie in the archive as they are, so that it was looked into there."""
    return (
        info.compress_type == zipfile.ZIP_STORED
        and info.compress_size == info.file_size
        and not info.flag_bits & ENCRYPTED
    )


def may_be_dangerous(head: bytes, name: bytes) -> bool:
    """Whether a file that begins with `head` (16 bytes) and has that name is worth a look."""
    return (
        head.startswith((ZIP_MAGIC, _NPY, _HDF5))
        or _PICKLE.match(head) is not None
        or _PICKLE_NAME.search(name.lower()) is not None
    )


def look_for_danger(
    read_at: ReadAt, size: int, name: bytes, *, now: Callable[[], float] = time.monotonic
) -> tuple[Suspicion, ...]:
    """What is suspicious in a file of `size` bytes whose last path component is `name`.

    Raises what `read_at` raises, and nothing else.
    """
    head = read_at(0, HEAD_BYTES)
    if not may_be_dangerous(head, name):
        return ()
    look = _Look(read_at, size, now() + _MOST_SECONDS, now)
    try:
        look.file(head, name)
    except TooLongError:
        look.found[UNSCANNED] = {"holds more than is looked through": None}
    return tuple(look.suspicions())


class _Look:
    """One pass over one file."""

    def __init__(self, read_at: ReadAt, size: int, until: float, now: Callable[[], float]) -> None:
        self.found: dict[str, dict[str, None]] = {}
        self._read_at = read_at
        self._size = size
        self._until = until
        self._now = now

    def suspicions(self) -> Iterator[Suspicion]:
        """One for each level, the worst first."""
        for level, words in (
            (DANGEROUS, "may do harm when it is loaded: it names {}"),
            (UNKNOWN, "names what is not known to be harmless when it is loaded: {}"),
            (UNSCANNED, "{}, so nobody can say whether it is safe to load"),
        ):
            names = list(self.found.get(level, ()))
            if names:
                more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
                yield Suspicion(level, words.format(", ".join(names[:_NAMED]) + more))

    def file(self, head: bytes, name: bytes) -> None:
        """A whole file, whatever it is. Raises `TooLongError`."""
        if head.startswith(ZIP_MAGIC):
            self._archive()
        elif head.startswith(_NPY):
            self._array(self._read_at, self._size)
        elif head.startswith(_HDF5):
            self._keras(self._read_at(0, min(self._size, _MOST_HDF5_BYTES)))
        elif head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x78")):
            self._packed(head)
        else:
            self._pickle(self._read_at, self._size)

    # -- containers -------------------------------------------------------------------------------

    def _archive(self) -> None:
        try:
            members = read_archive(BoundedFile(self._read_at, self._size), self._size).members
        except MalformedError:
            # Readers differ in what they make of such a one, so a look proves nothing.
            self._note(UNSCANNED, "is a zip archive that contradicts itself")
            return
        for member in members[:_MOST_MEMBERS]:
            if member.stored:
                offset = member.data_offset
                self._member(member.name, self._within(offset), member.size_bytes)
        if not all(member.stored for member in members):
            self._packed_members()
        if len(members) > _MOST_MEMBERS:
            raise TooLongError

    def _within(self, start: int) -> ReadAt:
        return lambda offset, length: self._read_at(start + offset, length)

    def _member(self, name: str, read_at: ReadAt, size: int) -> None:
        if size < 2:
            return
        head = read_at(0, min(HEAD_BYTES, size))
        lower = name.lower()
        if lower.endswith("config.json"):
            self._keras(read_at(0, min(size, _MOST_JSON_BYTES)))
        elif head.startswith(_NPY):
            self._array(read_at, size)
        elif head.startswith(_HDF5):
            self._keras(read_at(0, min(size, _MOST_HDF5_BYTES)))
        elif _PICKLE.match(head) or lower.endswith((".pkl", ".pickle", ".joblib")):
            self._pickle(read_at, size)

    def _packed_members(self) -> None:
        source = FileSource(self._read_at, self._size)
        try:
            with zipfile.ZipFile(source) as archive:
                # Not by name: of two that share one, loaders differ in which they take.
                for info in archive.infolist()[:_MOST_MEMBERS]:
                    if _is_stored(info):
                        continue
                    name = info.filename
                    if info.compress_type == zipfile.ZIP_LZMA:
                        # zipfile sets its decoder no bounds, and nobody's models are packed so.
                        self._note(UNSCANNED, "has a member that is packed by LZMA")
                        continue
                    with archive.open(info) as member:
                        content = member.read(HEAD_BYTES)
                        if _is_worth_unpacking(name, content):
                            content += member.read(_MOST_PACKED_BYTES)
                            self._member(name, _bytes_at(content), len(content))
                    self._check_time()
        except TooLongError:
            raise
        except Exception as error:  # whatever zipfile and its decoders make of hostile bytes
            self._note(UNSCANNED, f"has a member that cannot be read ({type(error).__name__})")

    def _packed(self, head: bytes) -> None:
        """A compressed pickle, as joblib writes it."""
        packed = self._read_at(0, min(self._size, _MOST_PACKED_BYTES))
        try:
            if head.startswith(b"BZh"):
                content = bz2.BZ2Decompressor().decompress(packed, _MOST_PACKED_BYTES)
            elif head.startswith(b"\xfd"):
                content = self._unpacked_lzma(packed)
            else:
                bits = 31 if head.startswith(b"\x1f\x8b") else 15
                content = zlib.decompressobj(bits).decompress(packed, _MOST_PACKED_BYTES)
        except (OSError, EOFError, zlib.error):
            return
        if content:
            self._pickle(_bytes_at(content), len(content))

    def _unpacked_lzma(self, packed: bytes) -> bytes:
        decoder = lzma.LZMADecompressor(memlimit=_MOST_LZMA_BYTES)
        try:
            return decoder.decompress(packed, _MOST_PACKED_BYTES)
        except lzma.LZMAError:
            # Of a broken file and of one that asks for too much the same is said.
            self._note(UNSCANNED, "is packed by LZMA and cannot be unpacked")
            return b""

    def _array(self, read_at: ReadAt, size: int) -> None:
        """An array of objects is a pickle behind its header (numpy/lib/format.py)."""
        start = read_at(0, min(size, 12))
        if len(start) < 12:
            return
        wide = start[6] >= 2
        length = int.from_bytes(start[8:12] if wide else start[8:10], "little")
        begin = (12 if wide else 10) + length
        if begin > size or length > 1 << 16:
            return
        header = read_at(12 if wide else 10, length)
        if _OBJECTS.search(header):
            self._pickle(lambda offset, count: read_at(begin + offset, count), size - begin)

    def _keras(self, text: bytes) -> None:
        if _LAMBDA.search(text):
            self._note(DANGEROUS, "a Keras Lambda layer")

    # -- pickles ----------------------------------------------------------------------------------

    def _pickle(self, read_at: ReadAt, size: int) -> None:
        import logging

        from picklescan.scanner import SafetyLevel, scan_pickle_bytes

        logging.getLogger("picklescan").setLevel(logging.CRITICAL + 1)
        window = PickleWindow(read_at, size, self._check_time)
        try:
            # The file's name would only go into the log.
            result = scan_pickle_bytes(window, "a file")
        except TooLongError:
            raise
        except Exception as error:  # whatever hostile bytes make a scanner do
            self._note(UNSCANNED, f"is a pickle that cannot be read ({type(error).__name__})")
            return
        for found in result.globals:
            name = _printable(f"{found.module}.{found.name}")
            if found.safety is SafetyLevel.Dangerous:
                self._note(DANGEROUS, name)
            elif found.safety is SafetyLevel.Suspicious and not _HARMLESS.fullmatch(name):
                self._note(UNKNOWN, name)
        if window.too_long:
            raise TooLongError

    def _check_time(self) -> None:
        if self._now() > self._until:
            raise TooLongError

    def _note(self, level: str, name: str) -> None:
        self.found.setdefault(level, {})[name] = None


def _bytes_at(content: bytes) -> ReadAt:
    return lambda offset, length: content[offset : offset + length]


def _printable(name: str) -> str:
    return shown(name.encode("utf-8", "surrogatepass")[:120])
