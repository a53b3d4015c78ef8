"""What ran the code: Python and its packages, the system, the GPUs.

Packages are read from their metadata, and nothing of the code is run; only an interpreter that
the configuration names is asked for where its packages lie. `pip freeze` is followed in form.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from backupd.capture.provenance.git import without_credentials
from backupd.capture.provenance.running import ProgramError, Programs

_PYTHON_SECONDS = 20.0
_GPU_SECONDS = 10.0
_MOST_PACKAGES = 10_000
_MOST_BYTES = 1 << 20
# Prints where an interpreter looks for packages; -I keeps the folder and PYTHON* variables out.
_ASK = (
    "import json, platform, sys;"
    "print(json.dumps({'version': platform.python_version(),"
    " 'implementation': platform.python_implementation(), 'path': sys.path}))"
)
_VIRTUAL = (".venv", "venv", "env")
# The files that pin packages, by the tools that write them.
LOCK_FILES = frozenset(
    (
        b"uv.lock", b"poetry.lock", b"pdm.lock", b"pixi.lock", b"Pipfile.lock", b"conda-lock.yml",
        b"pylock.toml", b"requirements.txt", b"environment.yml", b"environment.yaml",
        b"pyproject.toml",
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PythonPackages:
    """An interpreter's version and its packages, as lines of a requirements file."""

    version: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RanOn:
    """What ran the code. `facts` are those of docs/format.md; `python` is None where unknown."""

    facts: dict[str, Any]
    python: PythonPackages | None
    notes: tuple[str, ...] = ()

    def requirements(self) -> bytes:
        """A requirements file that gives the same packages, empty where they are not known."""
        if self.python is None:
            return b""
        head = f"# Python {self.python.version}, {self.facts['os']}, {self.facts['machine']}\n"
        return (head + "".join(line + "\n" for line in self.python.lines)).encode()

    def document(self) -> bytes:
        """All of it as JSON."""
        return json.dumps(self.facts, indent=1, sort_keys=True).encode() + b"\n"


def ran_on(
    programs: Programs, folder: Path, python: Path | None, *, root: Path = Path("/")
) -> RanOn:
    """The environment of the code in `folder`; `python` is the interpreter that was configured.

    `root` is where the system's own files lie.
    """
    notes: list[str] = []
    packages = None
    try:
        if python is None:
            packages = next(filter(None, (_virtual(folder / name) for name in _VIRTUAL)), None)
        else:
            packages = _virtual(python.parent.parent) or _asked(programs, python)
    except (ProgramError, OSError, ValueError) as error:
        notes.append(f"packages: {error}")
    system = os.uname()
    facts: dict[str, Any] = {
        "os": _system(root),
        "kernel": f"{system.sysname} {system.release}",
        "machine": system.machine,
        "processors": os.cpu_count() or 0,
    }
    if packages is not None:
        facts |= {"python": packages.version, "packages": len(packages.lines)}
    facts |= _gpus(programs, root)
    return RanOn(facts, packages, tuple(notes))


def _asked(programs: Programs, python: Path) -> PythonPackages:
    """Of an interpreter, by running it. Raises `ProgramError`, `ValueError`."""
    if programs.account is None and os.geteuid() == 0:
        for path in (python, python.parent, python.parent.parent):
            if os.lstat(path).st_uid != 0:
                raise ProgramError(f"{python} is not root's, so it is not run as root")
    quick = replace(programs, seconds=_PYTHON_SECONDS, variables={})
    answer = json.loads(quick.run([str(python), "-I", "-c", _ASK], most_bytes=_MOST_BYTES))
    try:
        version, paths = str(answer["version"])[:40], list(answer["path"])
    except (KeyError, TypeError):
        raise ProgramError(f"{python} answers as no interpreter does") from None
    folders = [path for path in paths if isinstance(path, str) and os.path.isdir(path)]
    return PythonPackages(version, _lines(folders))


def _virtual(folder: Path) -> PythonPackages | None:
    """Of a virtual environment, without running anything of it; None where it is none (PEP 405)."""
    try:
        text = _small(folder / "pyvenv.cfg").decode("utf-8", "replace")
    except OSError:
        return None
    found = re.search(r"^version(?:_info)?\s*=\s*(\d+(?:\.\d+)*)", text, re.MULTILINE)
    packages = sorted((folder / "lib").glob("python3*/site-packages"))
    packages += sorted((folder / "lib64").glob("python3*/site-packages"))
    unique = dict.fromkeys(os.path.realpath(path) for path in packages)
    return PythonPackages(found[1] if found else "of unknown version", _lines(list(unique)))


def _lines(folders: Sequence[str]) -> tuple[str, ...]:
    """The packages below `folders` as `pip freeze` writes them, sorted; the first of a name counts,
    as in an import."""
    found: dict[str, str] = {}
    for package in metadata.distributions(path=list(folders)):
        try:
            name, version = package.metadata["Name"], package.version
        except (KeyError, OSError, ValueError):
            continue
        if not name or not version:
            continue
        key = re.sub(r"[-_.]+", "-", name).lower()  # PEP 503
        if key not in found and len(found) < _MOST_PACKAGES:
            line = f"{name}=={version}"
            found[key] = _direct(package, name) or line
    lines = (line for _, line in sorted(found.items()))
    return tuple("".join(c if c.isprintable() else "?" for c in line)[:500] for line in lines)


def _direct(package: metadata.Distribution, name: str) -> str:
    """Where a package came from when it was no index (PEP 610)."""
    try:
        told = json.loads(package.read_text("direct_url.json") or "{}")
        url = without_credentials(str(told["url"]))
        if "vcs_info" in told:
            vcs = told["vcs_info"]
            return f"{name} @ {vcs['vcs']}+{url}@{vcs['commit_id']}"
        if "dir_info" in told:
            editable = bool(told["dir_info"].get("editable"))
            return f"-e {url}  # {name}" if editable else f"{name} @ {url}"
        return f"{name} @ {url}"
    except (KeyError, TypeError, ValueError, OSError, AttributeError):
        return ""


def _system(root: Path) -> str:
    """os-release(5)."""
    for place in ("etc/os-release", "usr/lib/os-release"):
        try:
            text = _small(root / place).decode("utf-8", "replace")
        except OSError:
            continue
        found = re.search(r"^PRETTY_NAME=[\"']?([^\"'\n]+)", text, re.MULTILINE)
        if found:
            return found[1]
    return os.uname().sysname


def _gpus(programs: Programs, root: Path) -> dict[str, Any]:
    """What nvidia-smi tells, where it is there."""
    quick = replace(programs, seconds=_GPU_SECONDS, variables={})
    facts: dict[str, Any] = {}
    try:
        asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        rows = quick.run(asked, most_bytes=_MOST_BYTES).decode("utf-8", "replace").splitlines()
        names = [row.rpartition(",")[0].strip() for row in rows if "," in row][:64]
        if names:
            facts = {"gpus": names, "driver": rows[0].rpartition(",")[2].strip()}
            told = quick.run(["nvidia-smi"], most_bytes=_MOST_BYTES).decode("utf-8", "replace")
            cuda = re.search(r"CUDA Version:\s*([\d.]+)", told)
            if cuda:
                facts["cuda"] = cuda[1]
    except ProgramError:
        pass  # a box without GPUs, or whose driver is away
    if "cuda" not in facts:
        try:
            version = json.loads(_small(root / "usr/local/cuda/version.json"))
            facts["cuda"] = str(version["cuda"]["version"])[:40]
        except (OSError, ValueError, KeyError, TypeError):
            pass
    return facts


def shown_environment(facts: Mapping[str, Any]) -> str:
    """`Python 3.11.2, 41 packages, Debian GNU/Linux 12, 2 x NVIDIA A100, CUDA 12.2`."""
    parts = []
    if facts.get("python"):
        parts.append(f"Python {facts['python']}")
        parts.append(f"{facts.get('packages', 0):,} packages")
    parts += [str(facts[key]) for key in ("os",) if facts.get(key)]
    gpus = [str(name) for name in facts.get("gpus", ())]
    parts += [f"{gpus.count(name)} x {name}" for name in dict.fromkeys(gpus)]
    if facts.get("cuda"):
        parts.append(f"CUDA {facts['cuda']}")
    if facts.get("driver"):
        parts.append(f"driver {facts['driver']}")
    return ", ".join(parts)


def _small(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MOST_BYTES)
