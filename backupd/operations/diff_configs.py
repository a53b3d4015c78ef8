"""Which settings differ between two configuration files: JSON, YAML and TOML, key by key.

What is read comes from models and is hostile: its size, depth and number of values are bounded,
and YAML is loaded without any of its objects.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from backupd.capture.folders import name_of
from backupd.capture.schemes import Classifier
from backupd.errors import BackupdError, TargetUnreachableError
from backupd.operations.diff_files import Pair
from backupd.policy.schemes import Role
from backupd.repository.tree import FileType, TreeEntry

_MAX_BYTES = 1 << 20
_MAX_VALUES = 20_000
_MAX_DEPTH = 50
_MAX_KEY_CHARACTERS = 4 << 20
"""Of all keys together: one long name stands before each of many values."""
_MAX_NUMBER_BITS = 4096
"""Python writes none as digits that has 14,300."""
_MAX_DOTS = 256
"""In a line of TOML: the time for a dotted key grows with the square of its parts."""

Read = Callable[[int, TreeEntry], bytes]
"""The content of a file of the old (0) or new (1) snapshot."""


@dataclass(frozen=True, slots=True)
class SettingChange:
    """A setting, as `optimizer.lr` or `layers[3]`, that was added, removed or changed.

    A value is text, a number, true, false, null or an empty list or mapping; null also where
    there is none.
    """

    key: str
    change: str
    old: Any
    new: Any


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """What differs between a configuration file and what it was.

    `note` says why settings could not be compared, or is empty.
    """

    path: bytes
    old_path: bytes
    settings: tuple[SettingChange, ...]
    note: str = ""


class _UncomparableError(Exception):
    """Says why a file's settings cannot be told."""


def is_configuration(entry: TreeEntry) -> bool:
    """Whether a file holds settings that can be compared."""
    if entry.type is not FileType.FILE or entry.extents:
        return False
    if entry.metadata.size_bytes > _MAX_BYTES or _format(entry.path) is None:
        return False
    found = Classifier({}).classify(entry.path, 0, lambda: None)
    return Role.CONFIGURATION in found.roles


def compare_configs(pairs: Iterable[Pair], read: Read) -> Iterator[ConfigChange]:
    """The settings that differ in each pair. Raises `TargetUnreachableError`."""
    for pair in pairs:
        if not (is_configuration(pair.old) and is_configuration(pair.new)):
            continue
        try:
            was = dict(_settings(pair.old.path, read(0, pair.old)))
            now = dict(_settings(pair.new.path, read(1, pair.new)))
        except _UncomparableError as error:
            yield ConfigChange(pair.new.path, pair.old.path, (), str(error))
            continue
        except TargetUnreachableError:
            raise
        except BackupdError as error:
            yield ConfigChange(pair.new.path, pair.old.path, (), error.message)
            continue
        yield ConfigChange(pair.new.path, pair.old.path, tuple(_differing(was, now)))


def _differing(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[SettingChange]:
    for key, value in was.items():
        if key not in now:
            yield SettingChange(key, "removed", value, None)
        elif not _same(value, now[key]):
            yield SettingChange(key, "changed", value, now[key])
    for key, value in now.items():
        if key not in was:
            yield SettingChange(key, "added", None, value)


def _same(old: Any, new: Any) -> bool:
    # 1, 1.0 and true are equal to Python, and not to whoever reads the file; NaN is to itself.
    return type(old) is type(new) and (old == new or (old != old and new != new))


def _format(path: bytes) -> str | None:
    ending = name_of(path).lower().rpartition(b".")[2]
    known = {b"json": "json", b"yaml": "yaml", b"yml": "yaml", b"toml": "toml"}
    return known.get(ending)


def _settings(path: bytes, content: bytes) -> Iterator[tuple[str, Any]]:
    kind = _format(path)
    if kind == "toml" and max(line.count(b".") for line in content.split(b"\n")) > _MAX_DOTS:
        raise _UncomparableError("it has a line with too many dots")
    try:
        if kind == "json":
            value = json.loads(content)
        elif kind == "toml":
            value = tomllib.loads(content.decode())
        else:
            import yaml

            value = yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    except RecursionError:
        raise _UncomparableError("it is nested too deeply") from None
    except Exception as error:
        # yaml raises what its constructors raise, such as ValueError for an odd date.
        raise _UncomparableError(f"it is no {kind.upper() if kind else ''}") from error
    return _Flat().settings("", value, 0)


class _Flat:
    """Values with their keys, of which YAML's aliases can make a small file hold without end."""

    def __init__(self) -> None:
        self._values = 0
        self._characters = 0

    def settings(self, key: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
        """The settings in `value`, which stands under `key`. Raises `_UncomparableError`."""
        self._values += 1
        self._characters += len(key)
        if self._values > _MAX_VALUES or depth > _MAX_DEPTH:
            raise _UncomparableError("it holds too many values")
        if self._characters > _MAX_KEY_CHARACTERS:
            raise _UncomparableError("its keys are too long")
        if isinstance(value, dict) and value:
            for name, item in value.items():
                inner = f"{key}.{_tellable(name)}" if key else str(_tellable(name))
                yield from self.settings(inner, item, depth + 1)
        elif isinstance(value, list | tuple) and value:  # a tuple is of YAML's pairs
            for number, item in enumerate(value):
                yield from self.settings(f"{key}[{number}]", item, depth + 1)
        elif value is None or isinstance(value, str | int | float | bool | dict | list):
            yield key, _tellable(value)
        else:
            yield key, str(value)  # a date of YAML or TOML


def _tellable(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > _MAX_NUMBER_BITS:
        raise _UncomparableError("it holds a number that is too large to tell")
    return value
