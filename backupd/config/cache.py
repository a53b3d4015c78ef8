"""A configuration that was found valid before, kept as plain JSON for commands that are run often.

Reading YAML and checking it against the schema costs 150 ms, mostly of imports, and `backupd
list` has 250 ms in all. The copy counts only for the very bytes of the file, the same version of
backupd and the same user, host and environment, so it is never stale; only its owner
may read it, and it holds no secret that the file does not.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from backupd import __version__
from backupd.config import settings as values
from backupd.config.settings import Settings
from backupd.policy.retention import KeepBest, Rules

_MAX_BYTES = 4 << 20
_KINDS: Mapping[str, type] = {
    kind.__name__: kind
    for kind in (
        values.LocalTarget,
        values.NasTarget,
        values.S3Target,
        values.Prices,
        values.KeySettings,
        values.CodeSettings,
        values.ModelSettings,
        values.UpkeepSettings,
        values.LimitsSettings,
        values.NotifySettings,
        Settings,
        Rules,
        KeepBest,
    )
}
# What `load` looks at beside the file. Where systemd hands over credentials, which files there
# are decides too, and the copy is not used.
_VARIABLES = ("HOME", "XDG_STATE_HOME", "STATE_DIRECTORY")
_CREDENTIALS = "CREDENTIALS_DIRECTORY"


def load_config_quickly(path: Path, environment: Mapping[str, str]) -> Settings:
    """As `load.load_config`, from the copy in the cache folder where that is right.

    The copy lies in `$XDG_CACHE_HOME/backupd` or `~/.cache/backupd`; where it cannot be read or
    written, nothing is lost but time. Its `warnings` are those of when it was made.
    """
    folder = _folder(environment)
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES)
    except OSError:
        folder = None  # loading says what is wrong
    if folder is None or environment.get(_CREDENTIALS):
        return _load(path, environment)
    mark = _mark(path, text, environment)
    copy = folder / f"settings-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.json"
    settings = _read(copy, mark)
    if settings is None:
        settings = _load(path, environment)
        _write(copy, mark, settings)
    return settings


def _load(path: Path, environment: Mapping[str, str]) -> Settings:
    # Imported here: not to import it is what this module is for.
    from backupd.config.load import load_config

    return load_config(path, environment)


def _folder(environment: Mapping[str, str]) -> Path | None:
    base = environment.get("XDG_CACHE_HOME", "")
    if base.startswith("/"):
        return Path(base, "backupd")
    home = environment.get("HOME", "")
    return Path(home, ".cache/backupd") if home.startswith("/") else None


def _mark(path: Path, text: bytes, environment: Mapping[str, str]) -> str:
    """A hash of everything that the settings follow from."""
    system = os.uname()
    facts = [
        __version__,
        str(path),
        str(os.geteuid()),
        system.nodename,
        *(environment.get(name, "") for name in _VARIABLES),
    ]
    digest = hashlib.sha256("\0".join(facts).encode("utf-8", "surrogateescape"))
    digest.update(b"\0" + text)
    return digest.hexdigest()


def _read(copy: Path, mark: str) -> Settings | None:
    try:
        with copy.open("rb") as file:
            # Whoever else could have written it could point a restore at another repository.
            about = os.fstat(file.fileno())
            if about.st_uid != os.geteuid() or about.st_mode & 0o022:
                return None
            document = json.loads(file.read(_MAX_BYTES))
        if document["mark"] != mark:
            return None
        settings = _decode(document["settings"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return settings if isinstance(settings, Settings) else None


def _write(copy: Path, mark: str, settings: Settings) -> None:
    beside = copy.with_name(f"{copy.name}.{os.getpid()}.tmp")
    try:
        copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            json.dump({"mark": mark, "settings": _encode(settings)}, file)
        beside.replace(copy)
    except (OSError, TypeError):
        pass  # a cache: the next command tries again


def _encode(value: Any) -> Any:
    """Values as JSON has them; what it has not is a mapping with the one key that says what."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: _encode(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
        return {"value": type(value).__name__, "fields": fields}
    if isinstance(value, Path):
        return {"path": str(value)}
    if isinstance(value, timedelta):
        return {"seconds": value.total_seconds()}
    if isinstance(value, Mapping):
        return {"mapping": {key: _encode(item) for key, item in value.items()}}
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be kept")


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decode(item) for item in value)
    if not isinstance(value, dict):
        return value
    if "value" in value:
        fields = {name: _decode(item) for name, item in value["fields"].items()}
        return _KINDS[value["value"]](**fields)
    if "path" in value:
        return Path(value["path"])
    if "seconds" in value:
        return timedelta(seconds=value["seconds"])
    return {key: _decode(item) for key, item in value["mapping"].items()}
