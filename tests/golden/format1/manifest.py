"""What a folder holds, as the golden manifest says it: hashes, modes, times, links, attributes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from blake3 import blake3


def manifest_of(root: Path) -> dict[str, dict[str, object]]:
    """By path (bytes that are not UTF-8 as surrogates escaped in ASCII), what must come back."""
    found: dict[str, dict[str, object]] = {}
    first: dict[int, str] = {}
    top = os.fsencode(root)
    paths = [top]
    for folder, folders, files in os.walk(top):
        paths += [os.path.join(folder, name) for name in (*folders, *files)]
    for path in sorted(paths):
        name = os.fsdecode(os.path.relpath(path, top))
        status = os.lstat(path)
        entry: dict[str, object] = {
            "mode": oct(status.st_mode),
            "mtime": status.st_mtime_ns,
        }
        if stat.S_ISLNK(status.st_mode):
            entry["link"] = os.fsdecode(os.readlink(path))
        elif stat.S_ISREG(status.st_mode):
            content = Path(os.fsdecode(path)).read_bytes()
            entry["blake3"] = blake3(content).hexdigest()
            entry["size"] = len(content)
            entry["sparse"] = status.st_blocks * 512 + (64 << 10) < len(content)
            entry["same_as"] = first.setdefault(status.st_ino, name)
        if not stat.S_ISLNK(status.st_mode):
            attributes = {a: os.getxattr(path, a).hex() for a in os.listxattr(path)}
            entry["xattrs"] = {a: v for a, v in attributes.items() if a.startswith("user.")}
        found[name] = entry
    return found
