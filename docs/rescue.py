"""Reads a backupd repository of format 1 with nothing of backupd: written from docs/format.md.

    python rescue.py REPOSITORY list
    python rescue.py REPOSITORY restore HOST MODEL VERSION DIR
    python rescue.py REPOSITORY code HOST MODEL VERSION DIR      (what is kept of the code)

REPOSITORY is the folder with `repository.json` (copy a bucket to a disk first), DIR a folder that
is empty or not there. The key comes from BACKUPD_KEY_FILE (a file with the key, the recovery key
or the passphrase in it) or BACKUPD_PASSPHRASE. It needs zstandard, blake3, cryptography and
numpy. Index objects are not used: all is found in the packs. Every blob is verified; what cannot
be given is named on the standard error, the rest is given, and the exit code is then 3.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import re
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

CONTEXT = "backupd format 1: "
RECORD = struct.Struct("<32sIIIBBBB")
MAX_CHUNK = 64 << 20
EXCHANGES = (
    *((0, 1), (2, 3), (4, 5), (6, 7), (0, 2), (1, 3), (4, 6), (5, 7), (1, 2), (5, 6)),
    *((0, 4), (1, 5), (2, 6), (3, 7), (2, 4), (3, 5), (1, 2), (3, 4), (5, 6)),
)


class RescueError(Exception):
    """What cannot be read or given, in a sentence."""


class Place(NamedTuple):
    """Where a copy of a blob lies; sizes in bytes."""

    pack: Path
    offset: int
    sealed_size: int
    plain_size: int


# -- opening a repository -------------------------------------------------------------------------


def derived(master_key: bytes, purpose: str) -> bytes:
    return blake3(master_key, derive_key_context=CONTEXT + purpose).digest()


def find_secret() -> str:
    if path := os.environ.get("BACKUPD_KEY_FILE"):
        return Path(path).read_bytes().decode("utf-8", "surrogateescape").rstrip("\r\n")
    if text := os.environ.get("BACKUPD_PASSPHRASE"):
        return text
    raise RescueError("set BACKUPD_KEY_FILE or BACKUPD_PASSPHRASE")


def unlock(root: Path, secret: str) -> bytes:
    """The master key, by whichever key object the secret opens."""
    bare = re.sub(r"[\s-]", "", secret).upper()
    secret = bare if re.fullmatch("[A-Z2-7]{52}", bare) else secret.rstrip("\r\n")
    for path in sorted((root / "keys").glob("*.json")):
        try:
            key = json.loads(path.read_bytes())
            if not 0 < key["memory_kib"] <= 1 << 20 or not 0 < key["iterations"] <= 64:
                continue
            wrapping = Argon2id(
                salt=bytes.fromhex(key["salt"]),
                length=32,
                iterations=key["iterations"],
                lanes=key["lanes"],
                memory_cost=key["memory_kib"],
            ).derive(secret.encode("utf-8", "surrogateescape"))
            sealed = bytes.fromhex(key["master_key"])
            name = (CONTEXT + "master key").encode()
            return AESGCM(wrapping).decrypt(sealed[:12], sealed[12:], name)
        except InvalidTag:
            continue
        except (ValueError, TypeError, KeyError) as error:
            print(f"{path} is damaged: {error}", file=sys.stderr)
    raise RescueError(f"the key or passphrase opens none of the keys in {root / 'keys'}")


class Repository:
    """A repository's folder, opened, with the tables of all its packs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            descriptor = json.loads((root / "repository.json").read_bytes())
        except (OSError, ValueError) as error:
            encrypted = (root / "keys").is_dir()
            print(f"repository.json cannot be read ({error}); going on", file=sys.stderr)
        else:
            encrypted = descriptor["encryption"] != "none"
            if descriptor["format"] != 1:
                raise RescueError(f"{root} has format {descriptor['format']}, not 1")
        master_key = unlock(root, find_secret()) if encrypted else bytes(32)
        self.sealing_key = derived(master_key, "sealing")
        self.id_key = derived(master_key, "blob id")
        self.cipher = AESGCM(self.sealing_key) if encrypted else None
        self.blobs: dict[bytes, list[Place]] = {}

    def unseal(self, sealed: bytes, associated: bytes) -> bytes:
        if len(sealed) < 28:
            raise RescueError("sealed bytes are cut short")
        if self.cipher is not None:
            try:
                return self.cipher.decrypt(sealed[:12], sealed[12:], associated)
            except InvalidTag:
                raise RescueError("sealed bytes are damaged or misplaced") from None
        prefix = len(associated).to_bytes(8, "little") + associated
        tag = blake3(prefix + sealed[:-16], key=self.sealing_key).digest(16)
        if not hmac.compare_digest(tag, sealed[-16:]):
            raise RescueError("stored bytes do not match their checksum")
        return sealed[12:-16]

    # -- snapshots ---------------------------------------------------------------------------------

    def snapshots(self) -> Iterator[dict[str, Any]]:
        """Every listed snapshot that can be read, with its newest labels."""
        names = [str(path.relative_to(self.root)) for path in self.root.glob("snapshots/*/*")]
        for name in sorted(names):
            if not re.fullmatch("snapshots/[0-9a-f]{32}/[0-9]{10}", name):
                continue
            if f"{name}-forgotten" in names:
                continue
            try:
                snapshot = self.sealed_json(name)
                later = sorted(n for n in names if n.startswith(name + "+"))
                if later:
                    snapshot["labels"] = self.sealed_json(later[-1])["labels"]
                yield snapshot
            except (RescueError, OSError, ValueError, KeyError, zstandard.ZstdError) as error:
                print(f"{name} cannot be read: {error}", file=sys.stderr)

    def sealed_json(self, name: str) -> dict[str, Any]:
        stored = (self.root / name).read_bytes()
        packed = self.unseal(stored, (CONTEXT + "snapshot " + name).encode())
        if not 0 <= zstandard.frame_content_size(packed) <= MAX_CHUNK:
            raise RescueError("its size is impossible")
        value = json.loads(zstandard.ZstdDecompressor().decompress(packed))
        return dict(value)

    # -- blobs -------------------------------------------------------------------------------------

    def read_packs(self) -> None:
        for pack in sorted(self.root.glob("packs/*/*")):
            try:
                self.read_table(pack)
            except (RescueError, OSError) as error:
                print(f"{pack} is left out: {error}", file=sys.stderr)

    def read_table(self, pack: Path) -> None:
        size = pack.stat().st_size
        with pack.open("rb") as file:
            file.seek(max(0, size - 12))
            trailer = file.read(12)
            length = int.from_bytes(trailer[:4], "little")
            if trailer[4:] != b"backupd1" or length > size - 12:
                raise RescueError("it does not end as a pack does")
            file.seek(size - 12 - length)
            table = self.unseal(file.read(length), (CONTEXT + "pack table").encode())
        count = int.from_bytes(table[:4], "little")
        if len(table) < 4 + 48 * count:
            raise RescueError("its table is cut short")
        for fields in RECORD.iter_unpack(table[4 : 4 + 48 * count]):
            blob_id, offset, sealed_size, plain_size = fields[:4]
            if offset + sealed_size <= size and plain_size <= MAX_CHUNK:
                place = Place(pack, offset, sealed_size, plain_size)
                self.blobs.setdefault(blob_id, []).append(place)

    def blob(self, blob_id: bytes, *, may_have_base: bool = True) -> bytes:
        """The plain bytes of a blob, verified, from whichever copy is whole."""
        why = "it is in no pack"
        for place in self.blobs.get(blob_id, ()):
            try:
                with place.pack.open("rb") as file:
                    file.seek(place.offset)
                    encoded = self.unseal(file.read(place.sealed_size), blob_id)
                plain = self.decode(encoded, place.plain_size, may_have_base)
                if blake3(plain, key=self.id_key).digest() == blob_id:
                    return plain
                why = "its content has another id"
            except (RescueError, OSError, ValueError, IndexError, zstandard.ZstdError) as error:
                why = str(error)
        raise RescueError(f"blob {blob_id.hex()}: {why}")

    def decode(self, encoded: bytes, size: int, may_have_base: bool) -> bytes:
        codec, flags, begin = encoded[0], encoded[1], 4 + int.from_bytes(encoded[2:4], "little")
        base = b""
        if flags & 1:
            if not may_have_base:
                raise RescueError("the base of a blob has a base itself")
            base = self.blob(encoded[begin : begin + 32], may_have_base=False)
            begin += 32
        payload = encoded[begin:]
        if codec == 0:
            plain = payload
        elif codec == 1:
            if zstandard.frame_content_size(payload) != size:
                raise RescueError("a blob states another length than its pack")
            plain = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompress(payload)
        elif codec in (2, 3):
            plain = decode_planes(payload, size, base if codec == 3 else b"")
        else:
            raise RescueError(f"codec {codec} is not known")
        if len(plain) != size:
            raise RescueError("a blob does not have the length that its pack states")
        return plain

    def chunks(self, entry: dict[str, Any]) -> Iterator[bytes]:
        if "list" not in entry:
            for name, _ in entry.get("chunks", ()):
                yield self.blob(bytes.fromhex(name))
            return
        chunk_list = self.blob(bytes.fromhex(entry["list"]))
        for at in range(0, len(chunk_list), 36):
            yield self.blob(chunk_list[at : at + 32])


# -- numbers: docs/codec.md -----------------------------------------------------------------------


def decode_planes(payload: bytes, size: int, base: bytes) -> bytes:
    width, flags, head, groups = payload[:4]
    if width not in (1, 2, 4, 8) or head >= width or head > size:
        raise RescueError("a chunk of numbers is malformed")
    if bool(flags & 2) != bool(base) or (base and len(base) != size):
        raise RescueError("a chunk of numbers does not fit its base")
    count, tail = divmod(size - head, width)
    at = 4 + 7 * groups
    ends = payload[at : at + head + tail]
    at += head + tail
    kind = np.dtype(f"<u{width}")
    origin = np.frombuffer(base, kind, count, offset=head) if base else np.zeros(0, kind)
    planes = np.zeros((count, width), np.uint8)
    for entry in range(4, 4 + 7 * groups, 7):
        method, first, number = payload[entry : entry + 3]
        length = int.from_bytes(payload[entry + 3 : entry + 7], "little")
        stored = np.frombuffer(payload, np.uint8, length, offset=at)
        at += length
        if method == 1:
            reader = zstandard.ZstdDecompressor(
                max_window_size=1 << 23, format=zstandard.FORMAT_ZSTD1_MAGICLESS
            )
            packed = reader.decompress(stored.tobytes(), max_output_size=count * number)
            stored = np.frombuffer(packed, np.uint8)
            if flags & 4:
                stored = in_element_order(stored, origin)
        planes[:, first : first + number] = stored.reshape(-1, number)
    words = planes.view(kind).reshape(count)
    if base:
        if flags & 1:
            origin = (origin << 1) | (origin >> (8 * width - 1))
        words = words - np.frombuffer(b"\x80" * width, kind) + origin
    if flags & 1:
        words = (words >> 1) | (words << (8 * width - 1))
    return ends[:head] + words.astype(kind).tobytes() + ends[head:]


def in_element_order(plane: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Undo the order by the base's exponents."""
    shift = {1: 0, 2: 7, 4: 23, 8: 52}[origin.itemsize]
    keys = (origin << 1 if origin.itemsize == 1 else origin >> shift).astype(np.uint8)
    columns = len(plane) // 8
    key = keys[: 8 * columns].reshape(8, columns).copy()
    swaps = []
    for a, b in EXCHANGES:
        swap = key[a] > key[b]
        key[a], key[b] = np.where(swap, key[b], key[a]), np.where(swap, key[a], key[b])
        swaps.append(swap)
    out = plane.copy()
    rows = out[: 8 * columns].reshape(8, columns)
    for (a, b), swap in reversed(list(zip(EXCHANGES, swaps, strict=True))):
        rows[a], rows[b] = np.where(swap, rows[b], rows[a]), np.where(swap, rows[a], rows[b])
    return out


# -- giving it back -------------------------------------------------------------------------------


def bytes_of(entry: dict[str, Any], key: str) -> bytes:
    if key in entry:
        return str(entry[key]).encode()
    return base64.b64decode(entry.get(key + "64", ""))


class Restore:
    """Puts entries below one folder and nowhere else: no name is trusted, no link followed."""

    def __init__(self, repository: Repository, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise RescueError(f"{folder} is not empty")
        self.repository = repository
        self.root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self.failed = 0
        self.folders: list[tuple[bytes, dict[str, Any]]] = []
        self.links: list[tuple[bytes, dict[str, Any]]] = []

    def parent(self, path: bytes) -> tuple[int, bytes]:
        """A descriptor of the path's folder, to be closed, and its last name."""
        *folders, name = path.split(b"/")
        if any(part in (b"", b".", b"..") or b"\0" in part for part in (*folders, name)):
            raise RescueError("its name leads elsewhere, and is refused")
        here = os.dup(self.root)
        for part in folders:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            try:
                below = os.open(part, flags, dir_fd=here)
            finally:
                os.close(here)
            here = below
        return here, name

    def attempt(self, path: bytes, act: Callable[[], None]) -> None:
        try:
            act()
        except (RescueError, OSError, ValueError, TypeError, KeyError, OverflowError) as error:
            self.failed += 1
            shown = path.decode("utf-8", "backslashreplace")
            print(f"{shown}: not given: {error}", file=sys.stderr)

    def tree(self, blob_id: bytes) -> None:
        for line in self.repository.blob(blob_id).splitlines():
            entry = json.loads(line)
            path = bytes_of(entry, "path")
            self.attempt(path, lambda path=path, entry=entry: self.entry(path, entry))

    def entry(self, path: bytes, entry: dict[str, Any]) -> None:
        if entry["type"] == "d" and not path:
            self.folders.append((path, entry))
            return
        folder, name = self.parent(path)
        try:
            if entry["type"] == "d":
                os.mkdir(name, 0o700, dir_fd=folder)
                self.folders.append((path, entry))
            elif entry["type"] == "l":
                os.symlink(bytes_of(entry, "link"), name, dir_fd=folder)
                if os.geteuid() == 0:
                    os.chown(name, entry["uid"], entry["gid"], dir_fd=folder, follow_symlinks=False)
                times = (entry["mtime"], entry["mtime"])
                os.utime(name, ns=times, dir_fd=folder, follow_symlinks=False)
            elif entry["type"] == "h":
                self.links.append((path, entry))
            elif entry["type"] == "f":
                self.file(folder, name, entry)
        finally:
            os.close(folder)

    def file(self, folder: int, name: bytes, entry: dict[str, Any]) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        descriptor = os.open(name, flags, 0o600, dir_fd=folder)
        try:
            os.ftruncate(descriptor, entry["size"])
            runs = (entry.get("extents") or [[0, entry["size"]]])[::-1]
            offset = end = 0
            hasher = blake3()
            for chunk in self.repository.chunks(entry):
                while offset == end and runs:
                    offset, length = runs.pop()
                    end = offset + length
                if offset + len(chunk) > min(end, entry["size"]):
                    raise RescueError("more bytes are stored than it has")
                os.pwrite(descriptor, chunk, offset)
                hasher.update(chunk)
                offset += len(chunk)
            if offset != end or any(length for _, length in runs):
                raise RescueError("fewer bytes are stored than it has")
            if hasher.hexdigest() != entry["blake3"]:
                raise RescueError("its content is not what was stored")
            self.metadata(descriptor, entry)
        except BaseException:
            os.unlink(name, dir_fd=folder)
            raise
        finally:
            os.close(descriptor)

    def metadata(self, descriptor: int, entry: dict[str, Any]) -> None:
        if os.geteuid() == 0:
            os.fchown(descriptor, entry["uid"], entry["gid"])
        for name, value in entry.get("xattrs", {}).items():
            try:
                os.setxattr(descriptor, base64.b64decode(name), base64.b64decode(value))
            except OSError as error:
                print(f"an attribute could not be set: {error}", file=sys.stderr)
        os.fchmod(descriptor, entry["mode"] & 0o7777)
        os.utime(descriptor, ns=(entry["mtime"], entry["mtime"]))

    def link(self, path: bytes, entry: dict[str, Any]) -> None:
        source, source_name = self.parent(bytes_of(entry, "link"))
        folder, name = self.parent(path)
        os.link(source_name, name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
        os.close(source)
        os.close(folder)

    def finish_folder(self, path: bytes, entry: dict[str, Any]) -> None:
        here, _ = self.parent(path + b"/-" if path else b"-")
        self.metadata(here, entry)
        os.close(here)

    def run(self, snapshot: dict[str, Any]) -> int:
        for tree in snapshot["trees"]:
            self.attempt(b"(a part of the tree)", lambda tree=tree: self.tree(bytes.fromhex(tree)))
        for path, entry in self.links:
            self.attempt(path, lambda path=path, entry=entry: self.link(path, entry))
        for path, entry in reversed(self.folders):
            self.attempt(path, lambda path=path, entry=entry: self.finish_folder(path, entry))
        return 3 if self.failed else 0


def main(arguments: list[str]) -> int:
    match arguments:
        case [root, "list"]:
            for found in Repository(Path(root)).snapshots():
                labels = " ".join(f"{key}={text}" for key, text in found["labels"].items())
                print(found["host"], found["model"], f"v{found['version']}", found["time"], labels)
            return 0
        case [root, "restore" | "code" as what, host, model, version, folder]:
            repository = Repository(Path(root))
            wanted = (host, model, int(version.removeprefix("v")))
            for found in repository.snapshots():
                if (found["host"], found["model"], found["version"]) == wanted:
                    repository.read_packs()
                    if what == "code":
                        found["trees"] = found.get("code_trees", [])
                    return Restore(repository, Path(folder)).run(found)
            raise RescueError(f"there is no snapshot v{wanted[2]} of {model} of {host}")
        case _:
            print(__doc__, file=sys.stderr)
            return 2


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (RescueError, OSError, ValueError) as error:
        sys.exit(f"rescue: {error}")
