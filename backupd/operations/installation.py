"""One opened configuration: its targets, its secret, its repositories, each opened when needed."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType

from backupd.config.settings import (
    KeySettings,
    LocalTarget,
    ModelSettings,
    NasTarget,
    S3Target,
    Settings,
    TargetSettings,
)
from backupd.errors import BackupdError, NotFoundError, TargetError, UsageError, WrongKeyError
from backupd.operations.identity import Identities
from backupd.operations.index_cache import StateIndexCache
from backupd.operations.object_cache import StateObjectCache
from backupd.repository.index import IndexCache
from backupd.repository.layout import DESCRIPTOR
from backupd.repository.opening import AbsentRepositoryError, open_repository
from backupd.repository.repository import Repository
from backupd.repository.small_objects import ObjectCache
from backupd.targets.bandwidth import Limits
from backupd.targets.base import Target
from backupd.targets.counting import Traffic

Clock = Callable[[], float]
Environment = Mapping[str, str]

_READS_AHEAD = 4
# Of small objects, each of which is little but waiting. boto3 gives a core some 300 a second.
_GETS_AT_ONCE = 16
_MAX_SECRET = 64 * 1024
_SECRET_TEXT = "BACKUPD_PASSPHRASE"  # noqa: S105 - a variable's name
_SECRET_FILES = ("BACKUPD_PASSPHRASE_FILE", "BACKUPD_KEY_FILE")
_COMMAND_SECONDS = 60


class Installation:
    """What the verbs work on; a context manager that closes its targets.

    `standalone` says that there is a repository and nothing else: no models, no state.
    `traffic` counts requests by target; setting `stopping` ends waits for a store. `upload` is
    the limits on what goes out, where several installations share them.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        environment: Environment,
        clock: Clock,
        random: Callable[[int], bytes] = os.urandom,
        prompt: Callable[[], str] | None = None,
        standalone: bool = False,
        upload: Limits | None = None,
    ) -> None:
        self.settings = settings
        self.environment = environment
        self.clock = clock
        self.random = random
        self.standalone = standalone
        self.identities = Identities(None if standalone else settings.state_dir)
        self.stopping = threading.Event()
        self.traffic: dict[str, Traffic] = {}
        self._upload = upload or Limits()
        self._prompt = prompt
        self._secret: str | None = None
        self._lock = threading.RLock()
        # One target that is slow to open must not hold up the others.
        self._opening: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
        self._targets: dict[str, Target] = {}
        self._repositories: dict[str, Repository] = {}

    def __enter__(self) -> Installation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every target that was opened, and add what was asked of stores to the ledger."""
        with self._lock, ExitStack() as stack:
            for target in self._targets.values():
                stack.callback(target.close)
            self._targets.clear()
            self._repositories.clear()
            asked = {
                name: traffic.counts()
                for name, traffic in self.traffic.items()
                if isinstance(self.settings.targets[name], S3Target)
            }
            self.traffic = {}
        if asked and not self.standalone:
            # Imported here, as only a store that counts requests needs it.
            from backupd.operations.ledger import add_to_ledger

            add_to_ledger(self.settings.state_dir, asked, self.clock())

    def traffic_of(self, name: str) -> Traffic:
        """The counter of what is asked of a target, whether or not it is opened."""
        with self._lock:
            return self.traffic.setdefault(name, Traffic())

    def target(self, name: str) -> Target:
        """The target of that name, whether or not there is a repository on it."""
        from backupd.targets.open import open_target

        with self._lock:
            if name not in self._targets:
                if name not in self.settings.targets:
                    known = ", ".join(self.settings.targets)
                    raise UsageError(f"there is no target {name!r}", hint=f"there are: {known}")
                self._targets[name] = open_target(
                    self.settings.targets[name],
                    upload=self._upload.of("", self.settings.limits.upload_bytes_per_second),
                    own_upload=self._upload.of(name, self._own_limit(name)),
                    traffic=self.traffic_of(name),
                    stop=self.stopping,
                    clock=self.clock,
                )
            return self._targets[name]

    def _own_limit(self, name: str) -> int:
        settings = self.settings.targets[name]
        return 0 if isinstance(settings, LocalTarget) else settings.upload_bytes_per_second

    def repository(self, name: str) -> Repository:
        """The opened repository of a target.

        Raises `TargetError` (also its unreachable form, and where another repository than before
        is in its place), `WrongKeyError` and `DamagedError`.
        """
        with self._lock:
            opening = self._opening[name]
        with opening:
            if name not in self._repositories:
                target = self.target(name)
                try:
                    opened = open_repository(
                        target,
                        self.secret,
                        self.random,
                        index_cache=self._index_cache,
                        object_cache=partial(self._object_cache, name),
                        gets_at_once=self._gets_at_once(name),
                    )
                except AbsentRepositoryError as error:
                    raise self.identities.missing(name, target.location) or error from None
                if not self._is_past(name):
                    self.identities.confirm(name, target.location, opened.descriptor.repository_id)
                self._repositories[name] = opened
            return self._repositories[name]

    def _is_past(self, name: str) -> bool:
        settings = self.settings.targets[name]
        return isinstance(settings, S3Target) and bool(settings.as_of)

    def _index_cache(self, repository_id: str) -> IndexCache | None:
        if self.standalone:
            return None
        folder = self.settings.state_dir / "cache" / "index" / repository_id
        return StateIndexCache(folder)

    def _object_cache(self, name: str, repository_id: str) -> ObjectCache | None:
        if self.standalone or self._is_past(name):
            return None
        if isinstance(self.settings.targets[name], LocalTarget):
            return None  # it is as near at hand
        return StateObjectCache(self.settings.state_dir / "cache" / "objects" / repository_id)

    def _gets_at_once(self, name: str) -> int:
        return _GETS_AT_ONCE if isinstance(self.settings.targets[name], S3Target) else 1

    def drop(self, name: str) -> None:
        """Forget an opened repository, so that the next use opens it anew."""
        with self._lock:
            self._repositories.pop(name, None)

    def repositories(
        self, names: Iterable[str] | None = None, *, failed: dict[str, BackupdError] | None = None
    ) -> list[Repository]:
        """Those of the targets (all when None) that can be opened, nearest first.

        What could not be reached goes into `failed`. Raises the first failure when none can.
        """
        errors: dict[str, BackupdError] = {} if failed is None else failed
        opened = []
        for name in self.nearest_first(self.settings.targets if names is None else names):
            try:
                opened.append(self.repository(name))
            except TargetError as error:
                errors[name] = error
        if not opened and errors:
            raise next(iter(errors.values()))
        return opened

    def nearest_first(self, names: Iterable[str]) -> list[str]:
        """Target names in the order local, NAS, S3."""
        return sorted(names, key=lambda name: _distance(self.settings.targets[name]))

    def reads_ahead(self, name: str) -> int:
        """How many reads of a target are worth having on their way beside those of the threads
        that decode: none where data is at hand, some where each waits for a network."""
        return _READS_AHEAD if isinstance(self.settings.targets.get(name), S3Target) else 0

    def model(self, name: str) -> ModelSettings:
        """The model of that name. Raises `NotFoundError` with the nearest names."""
        model = self.settings.models.get(name)
        if model is None:
            from backupd.policy.nearest import nearest_names

            near = nearest_names(name, self.settings.models)
            known = ", ".join(near or self.settings.models) or "none"
            raise NotFoundError(
                f"no model {name!r} is configured", hint=f"configured models: {known}"
            )
        return model

    def secret(self) -> str:
        """The passphrase or key, from the environment, the configuration or the prompt."""
        with self._lock:
            if self._secret is None:
                self._secret = find_secret(self.settings.key, self.environment, self._prompt)
            return self._secret


def target_answers(installation: Installation, name: str) -> bool:
    """Whether a target can be reached now and has a repository; asked once, without retries."""
    # With this set nothing is tried again.
    installation.stopping.set()
    try:
        return installation.target(name).stat(DESCRIPTOR) is not None
    except BackupdError:
        return False


def _distance(settings: TargetSettings) -> int:
    if isinstance(settings, LocalTarget):
        return 0
    return 1 if isinstance(settings, NasTarget) else 2


def find_secret(
    key: KeySettings, environment: Environment, prompt: Callable[[], str] | None
) -> str:
    """The secret that opens the repositories. Raises `WrongKeyError` where there is none."""
    if text := environment.get(_SECRET_TEXT):
        return text
    for variable in _SECRET_FILES:
        if path := environment.get(variable):
            return _read_secret(Path(path), variable)
    if file := key.file or key.passphrase_file:
        return _read_secret(_credential(file, environment), "the configuration's key")
    if key.passphrase_command:
        return _run_for_secret(key.passphrase_command)
    if prompt is not None:
        return prompt()
    raise WrongKeyError(
        "no key was given",
        hint="set BACKUPD_KEY_FILE, BACKUPD_PASSPHRASE_FILE or BACKUPD_PASSPHRASE",
    )


def environment_has_secret(environment: Environment) -> bool:
    """Whether the environment, and not the configuration, says what opens the repositories."""
    return any(environment.get(variable) for variable in (_SECRET_TEXT, *_SECRET_FILES))


def _credential(file: Path, environment: Environment) -> Path:
    """The file as systemd hands it over (LoadCredential=), where it does; else as configured."""
    folder = environment.get("CREDENTIALS_DIRECTORY")
    if folder:
        handed = Path(folder) / file.name
        if handed.exists():
            return handed
    return file


def _read_secret(path: Path, whence: str) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_SECRET + 1)
    except OSError as error:
        raise WrongKeyError(
            f"{path} ({whence}) cannot be read: {error.strerror}",
            hint="restore the key file from where you keep the recovery key, or correct its path",
        ) from None
    text = raw.decode("utf-8", "surrogateescape").rstrip("\r\n")
    if not text or len(raw) > _MAX_SECRET:
        raise WrongKeyError(
            f"{path} ({whence}) is empty or too long to be a key",
            hint="it holds one line: the key or the passphrase",
        )
    return text


def _run_for_secret(command: str) -> str:
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=False,
            timeout=_COMMAND_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise WrongKeyError(f"passphrase_command did not answer: {error}") from None
    text = done.stdout[:_MAX_SECRET].decode("utf-8", "surrogateescape").rstrip("\r\n")
    if done.returncode or not text:
        raise WrongKeyError(
            f"passphrase_command ended with status {done.returncode} and "
            + ("a passphrase that is not used" if text else "no passphrase"),
            hint="run it by hand and see what it says",
        )
    return text


def open_installation(
    settings: Settings,
    *,
    environment: Environment,
    clock: Clock = time.time,
    prompt: Callable[[], str] | None = None,
    upload: Limits | None = None,
) -> Installation:
    """Open a configuration; nothing is touched before it is used."""
    return Installation(
        settings, environment=environment, clock=clock, prompt=prompt, upload=upload
    )


def open_standalone(
    location: str,
    *,
    environment: Environment,
    clock: Clock = time.time,
    prompt: Callable[[], str] | None = None,
) -> Installation:
    """Open a repository by its place alone: a path or `s3://BUCKET/PREFIX`."""
    from backupd.targets.open import parse_location

    target = parse_location(location)
    settings = Settings(
        source=Path(location),
        state_dir=Path(),
        host=socket.gethostname(),
        key=KeySettings(),
        targets={target.name: target},
        policies={},
        models={},
    )
    return Installation(
        settings, environment=environment, clock=clock, prompt=prompt, standalone=True
    )
