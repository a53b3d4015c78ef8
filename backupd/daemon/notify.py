"""How the daemon tells systemd what it is doing: the protocol of sd_notify(3), and nothing else.

One datagram per message to the socket that `NOTIFY_SOCKET` names; forty lines of the standard
library, so no package is needed for it. Without systemd every call does nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping


class Notifier:
    """Messages to the service manager. A message that cannot be sent is dropped: the manager
    notices by its own timeouts, and the daemon must not end of it.
    """

    def __init__(self, environment: Mapping[str, str], *, monotonic: Callable[[], float]) -> None:
        """`monotonic` is CLOCK_MONOTONIC in seconds, which RELOADING must quote."""
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self._monotonic = monotonic
        self.watchdog_seconds = _watchdog_seconds(environment) if self._address else 0.0

    def ready(self, status: str) -> None:
        """The start, or a reload, is done."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """The configuration is being read again; `ready` must follow."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={int(self._monotonic() * 1_000_000)}")

    def stopping(self, status: str) -> None:
        """The daemon ends."""
        self._send("STOPPING=1", f"STATUS={status}")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={text}")

    def alive(self) -> None:
        """Feed the watchdog."""
        if self.watchdog_seconds:
            self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        message = "\n".join(line.replace("\n", " ") for line in lines)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                # A manager that does not read must not hold the loop up.
                sender.setblocking(False)
                sender.sendto(message.encode("utf-8", "replace"), self._address)
        except OSError:
            pass


def _address(name: str) -> str | bytes:
    """A path, or an abstract socket, whose `@` stands for the zero byte of unix(7)."""
    if name.startswith("@"):
        return b"\0" + os.fsencode(name[1:])
    return name if name.startswith("/") else ""


def _watchdog_seconds(environment: Mapping[str, str]) -> float:
    """The time within which the manager wants to hear of us (sd_watchdog_enabled(3)); 0: never."""
    usec, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not usec.isdecimal() or (pid and pid != str(os.getpid())):
        return 0.0
    return int(usec) / 1_000_000
