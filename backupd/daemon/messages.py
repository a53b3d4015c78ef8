"""Telling people: a thread that looks at the daemon's status, and sends what has changed.

Messages go through apprise, which speaks to mail, chats and web hooks; the health check is one
GET while all is well, so that a dead box is noticed by the one that waits for it.
"""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backupd.config.settings import NotifySettings
from backupd.daemon.alarms import Event, Message, Trouble, compare, troubles_of
from backupd.errors import BackupdError, ConfigError
from backupd.operations.state_file import replace_file

if TYPE_CHECKING:
    from backupd.daemon.logs import Log

STATE_NAME = "messages.json"
LOOK_SECONDS = 15.0
HEALTH_SECONDS = 300.0
_TIMEOUT_SECONDS = 20.0
_MAX_BYTES = 1 << 20
# A message that cannot be sent is tried again at each look, and given up after so many.
_TRIES = 240
_KEPT = 100

Send = Callable[[tuple[str, ...], str, str], bool]
Ping = Callable[[str], None]


class Messenger:
    """Sends messages of a running daemon. `start`, then `close`; `settings` may change between."""

    def __init__(
        self,
        *,
        settings: Callable[[], NotifySettings],
        status: Callable[[], Mapping[str, Any]],
        host: Callable[[], str],
        state_dir: Path,
        clock: Callable[[], float],
        log: Log,
        send: Send | None = None,
        ping: Ping | None = None,
    ) -> None:
        """`send` and `ping` stand in for apprise and HTTP in tests."""
        self._settings = settings
        self._status = status
        self._host = host
        self._path = state_dir / STATE_NAME
        self._clock = clock
        self._log = log
        self._send = send or send_all
        self._ping = ping or ping_url
        self._troubles = _read(self._path)
        self._waiting: list[tuple[Message, int]] = []
        self._pinged = float("-inf")
        self._ping_failed = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="messages", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """End; a message on its way is not waited for."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            try:
                self.look()
            except Exception:
                self._log.exception("messages met a bug in backupd")

    def look(self) -> None:
        """Compare with the last look, and send what there is to say."""
        settings = self._settings()
        if not settings.enabled:
            return
        now = self._clock()
        wrong = troubles_of(self._status())
        after, messages = compare(self._troubles, wrong, now)
        if after != self._troubles:
            self._troubles = after
            self._save()
        wanted = [(message, 0) for message in messages if message.event in settings.on]
        self._waiting = [*self._waiting, *wanted][-_KEPT:]
        self._send_waiting(settings)
        # The one that waits for it is to notice a box that is dead, and one that cannot keep up.
        if settings.healthcheck and not wrong and now - self._pinged >= HEALTH_SECONDS:
            self._pinged = now
            self._check_in(settings.healthcheck)

    def _send_waiting(self, settings: NotifySettings) -> None:
        waiting, self._waiting = self._waiting, []
        for message, tries in waiting:
            try:
                urls = addresses(settings)
                sent = not urls or self._send(
                    urls, f"{message.title} on {self._host()}", message.text
                )
                why = "an address refused it"
            except BackupdError as error:
                sent, why = False, error.message
            if sent:
                continue
            if tries == 0:
                self._log.warning(f"a message could not be sent: {why}", message=message.title)
            if tries < _TRIES:
                self._waiting.append((message, tries + 1))

    def _check_in(self, url: str) -> None:
        try:
            self._ping(url)
        except OSError as error:
            if not self._ping_failed:
                reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
                self._log.warning(f"the health check was not reached: {reason}")
            self._ping_failed = True
        else:
            self._ping_failed = False

    def _save(self) -> None:
        document = {
            subject: {"event": str(trouble.event), "text": trouble.text, "said": trouble.said}
            for subject, trouble in self._troubles.items()
        }
        try:
            replace_file(self._path, json.dumps(document, indent=1, sort_keys=True).encode())
        except OSError as error:
            self._log.error(f"{self._path} cannot be written: {error.strerror}")


def addresses(settings: NotifySettings) -> tuple[str, ...]:
    """All addresses, those of `urls_file` read anew. Raises `ConfigError`."""
    if settings.urls_file is None:
        return settings.urls
    try:
        with settings.urls_file.open("rb") as file:
            lines = file.read(_MAX_BYTES).decode("utf-8", "replace").splitlines()
    except OSError as error:
        raise ConfigError(
            f"notify.urls_file: {settings.urls_file} cannot be read ({error.strerror})",
            hint="make it readable for the daemon's user",
        ) from None
    listed = (line.strip() for line in lines)
    return (*settings.urls, *(line for line in listed if line and not line.startswith("#")))


def send_all(urls: tuple[str, ...], title: str, text: str) -> bool:
    """Send one message to every address; whether all took it. Raises `ConfigError`."""
    # Imported here: it costs 200 ms, and most daemons have nothing to say.
    import apprise

    sender = apprise.Apprise()
    for number, url in enumerate(urls, 1):
        if not sender.add(url):
            # Not the address itself: it may hold a password.
            raise ConfigError(
                f"notify: address {number} ({url.partition(':')[0]}:...) is none that is known",
                hint="write it as https://github.com/caronc/apprise/wiki tells",
            )
    return bool(sender.notify(title=title, body=text))


def ping_url(url: str) -> None:
    """One GET. Raises `OSError` where it is not answered with success."""
    request = urllib.request.Request(url, headers={"User-Agent": "backupd"})  # noqa: S310 - the schema allows http(s) only
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310
        answer.read(1024)


def _read(path: Path) -> dict[str, Trouble]:
    """What was known to be wrong before the daemon was restarted; nothing where it is unknown."""
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_MAX_BYTES))
        return {
            str(subject): Trouble(Event(entry["event"]), str(entry["text"]), float(entry["said"]))
            for subject, entry in document.items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
