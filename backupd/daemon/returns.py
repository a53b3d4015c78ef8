"""Noticing that a target which failed is back, so that what it is owed need not wait.

Each target that fails is asked by a thread of its own, as a mount that hangs keeps whoever asks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

ASK_SECONDS = 5.0
# A store on the network is asked less often: each question is a request that may cost.
ASK_FAR_SECONDS = 60.0


class Returns:
    """Watches the targets that it is told of; `on_return` is called once for each that is back.

    A target is back when it answers after it did not. One that answers all along failed for
    another reason, and the back-off of its jobs is right for it.
    """

    def __init__(
        self,
        answers: Callable[[str], bool],
        *,
        on_return: Callable[[str], None],
        ask_seconds: Callable[[str], float],
    ) -> None:
        """`answers` says whether a target can be used; `ask_seconds` how often it is asked."""
        self._answers = answers
        self._on_return = on_return
        self._ask_seconds = ask_seconds
        self._lock = threading.Lock()
        self._asked: dict[str, threading.Event] = {}

    def watch(self, names: Collection[str]) -> None:
        """Watch these targets from now on, and no others."""
        with self._lock:
            for name in self._asked.keys() - set(names):
                self._asked.pop(name).set()
            for name in set(names) - self._asked.keys():
                ended = self._asked[name] = threading.Event()
                threading.Thread(
                    target=self._ask, args=(name, ended), name=f"return-{name}", daemon=True
                ).start()

    def close(self) -> None:
        """Watch none any longer."""
        self.watch(())

    def _ask(self, name: str, ended: threading.Event) -> None:
        was_away = False
        while not ended.wait(self._ask_seconds(name)):
            if not self._answers(name):
                was_away = True
            elif was_away:
                was_away = False
                if not ended.is_set():
                    self._on_return(name)
