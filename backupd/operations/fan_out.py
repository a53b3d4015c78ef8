"""From the target that a snapshot was stored on to the model's others, all at once.

Each target has a thread of its own, so that a slow or absent one holds up none of the others.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence

from backupd.config.settings import ModelSettings
from backupd.errors import BackupdError, StoppedError
from backupd.operations.installation import Installation
from backupd.operations.progress import Progress
from backupd.operations.reports import TargetResult

# How long a snapshot waits for the other targets to say which versions they have.
_ANSWER_SECONDS = 5.0


def highest_elsewhere(
    installation: Installation, model: ModelSettings, names: Sequence[str]
) -> int:
    """The highest version that a model had on any of these targets, asked at the same time.

    One that cannot be reached, or does not answer within seconds, is left out: if it holds
    another snapshot under the number that is taken then, `sync` keeps both.
    """
    answers: queue.SimpleQueue[int] = queue.SimpleQueue()

    def ask(name: str) -> None:
        highest = 0
        try:
            repository = installation.repository(name)
            folder = repository.secrets.model_folder(installation.settings.host, model.name)
            highest = repository.highest_version(folder)
        except BackupdError:
            pass
        finally:
            answers.put(highest)

    for name in names:
        threading.Thread(target=ask, args=(name,), name=f"ask-{name}", daemon=True).start()
    until = time.monotonic() + _ANSWER_SECONDS
    found = [0]
    for _ in names:
        try:
            found.append(answers.get(timeout=max(0.0, until - time.monotonic())))
        except queue.Empty:
            break
    return max(found)


def copy_on(
    installation: Installation,
    model: ModelSettings,
    names: Sequence[str],
    *,
    newest: int,
    progress: Progress,
    stop: threading.Event,
) -> list[TargetResult]:
    """Bring these targets up to date with the model's others, side by side.

    `newest` is the version just taken. What failed is in the results. Raises `StoppedError`.
    """
    if not names:
        return []
    from backupd.operations.replicate import catch_up

    progress.begin(f"copy to {', '.join(names)}", 0)
    joined = _Joined(progress)
    found: dict[str, list[TargetResult]] = {}
    stopped: list[StoppedError] = []

    def bring(name: str) -> None:
        try:
            found[name] = catch_up(
                installation, model, name, newest=newest, progress=joined, stop=stop
            )
        except StoppedError as error:
            stopped.append(error)
        except BackupdError as error:
            found[name] = [TargetResult(name, 0, 0, error.message, model=model.name)]

    threads = [
        threading.Thread(target=bring, args=(name,), name=f"copy-{name}", daemon=True)
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if stopped:
        raise stopped[0]
    return [result for name in names for result in found.get(name, [])]


class _Joined:
    """The progress of several copies as one."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.advance = progress.advance
        self.grow = progress.grow
        self.note = progress.note

    def begin(self, phase: str, total_bytes: int | None = None) -> None:
        """What one copy expects is more of the whole."""
        self._progress.grow(total_bytes or 0)
