"""Creating an object only where it is absent, on stores that have no such operation.

Works on any target whose listings show at once what was put before they began, which Amazon has
promised since 2020 and every server with one index of its objects keeps. Where a listing may be
late it is not safe, and must not be used.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import blake2b

from backupd.errors import StoppedError, TargetError, TargetUnreachableError
from backupd.targets.base import Buffer, Target

_FOLDER = "claims"
_ROUNDS = 40
# The first waits for the rest to withdraw, which takes each several requests: on a busy store more
# than a second.
_LOOKS = 600
_LONGEST_SECONDS = 1.0
# On a store that is slow for so many writers the wait is as long as the requests of some rounds, or
# each would always meet others; up to this.
_SLOWEST_SECONDS = 20.0
# A writer that has not stored its object so long after its claim begins anew with another claim.
_OWN_SECONDS = 120.0
# That, and longer than one put may take until its last timeout: the claim's writer is gone.
_STALE_SECONDS = 600.0


class Claims:
    """`put_if_absent` for `target`, by its `put`, `list`, `stat`, `get` and `delete` alone.

    A writer puts an object of its own, its claim, and lists the claims for the name. Only when it
    sees none but its own does it look whether the name is free, and put. Of two writers the one
    whose claim came later sees both, so never are two past that point at once, and who comes
    after finds the object. Of those that see each other all but the first by name withdraw.
    The object is then read back: who finds another's there did not create it.

    A claim that outlived its writer is removed after ten minutes by the store's own clock. A
    writer that tries again, as the store failed in the middle, has no such wait: it knows which
    claims of its own may still stand, and takes them back once the next one does.

    Once `stop` is set no wait is finished: `StoppedError` is raised. `sleep` takes seconds (by
    default it waits for `stop`), `token` gives a fresh lower-case word each time, `clock` seconds.
    Safe for several threads.
    """

    def __init__(
        self,
        target: Target,
        *,
        token: Callable[[], str] = lambda: os.urandom(12).hex(),
        jitter: Callable[[], float] = random.random,
        stop: threading.Event | None = None,
        sleep: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._target = target
        self._token = token
        self._jitter = jitter
        self._stop = stop or threading.Event()
        self._sleep = sleep or self._stop.wait
        self._clock = clock
        self._lock = threading.Lock()
        # By what was to be stored: claims of writers that failed before they could withdraw.
        self._left: dict[bytes, list[str]] = {}

    def put_if_absent(self, name: str, parts: Sequence[Buffer], store: Callable[[], bool]) -> bool:
        """See `Target.put_if_absent`. `store` puts `parts` under `name`, and may say that it was
        not free.

        Raises what the target raises, `StoppedError`, and `TargetError` where another's claim
        stays in the way.
        """
        target = self._target
        # A digest, as a name may already be as long and deep as names may be.
        folder = f"{_FOLDER}/{blake2b(name.encode(), digest_size=16).hexdigest()}/"
        for round_ in range(_ROUNDS):
            if target.stat(name) is not None:
                self._withdraw_left(name, parts)
                return False
            claim = folder + self._token()
            begun = self._clock()
            try:
                target.put(claim, [claim.encode()])
                # Not before: of what an earlier try sent, something may yet arrive, and until
                # this one ends no other writer may take the name for free.
                self._withdraw_left(name, parts)
                won = self._compete(name, parts, store, folder, claim, begun)
                target.delete(claim)
            except TargetUnreachableError:
                self._leave(name, parts, claim)
                raise
            except BaseException:
                with suppress(TargetError):  # what led here is what is to be told
                    target.delete(claim)
                raise
            if won is not None:
                return won
            usual = min(_LONGEST_SECONDS, 0.02 * 2.0 ** min(round_, 10))
            slow = min(_SLOWEST_SECONDS, 3 * (self._clock() - begun))
            self._wait(self._jitter() * max(usual, slow))
        raise TargetError(
            f"target {target.name!r}: {name} is claimed by a writer that does not finish",
            hint="where that writer is gone its claim is given up ten minutes after it began",
        )

    def _compete(
        self,
        name: str,
        parts: Sequence[Buffer],
        store: Callable[[], bool],
        folder: str,
        claim: str,
        begun: float,
    ) -> bool | None:
        """Whether the object was created under `claim`; None where another round must tell."""
        if not self._alone(folder, claim):
            return None
        if self._target.stat(name) is not None:
            return False
        if self._clock() - begun >= _OWN_SECONDS:
            return None
        return store() and _is_stored(self._target, name, parts)

    def _alone(self, folder: str, claim: str) -> bool:
        """Whether no claim but `claim` stands; waits for that while `claim` is the first of all."""
        for _ in range(_LOOKS):
            standing = list(self._target.list(folder))
            mine = next((info for info in standing if info.name == claim), None)
            if mine is None:
                return False  # taken for stale and removed: this writer was held up too long
            others = [info for info in standing if info.name != claim]
            for info in others:
                if mine.modified - info.modified > _STALE_SECONDS:
                    self._target.delete(info.name)
            if not others:
                return True
            if min(info.name for info in others) < claim:
                return False
            self._wait(0.01 + 0.04 * self._jitter())
        return False

    def _wait(self, seconds: float) -> None:
        self._sleep(seconds)
        if self._stop.is_set():
            raise StoppedError(f"stopped while target {self._target.name!r} had another writer")

    def _leave(self, name: str, parts: Sequence[Buffer], claim: str) -> None:
        """Remember a claim that may stand and was not withdrawn."""
        with self._lock:
            self._left.setdefault(_purpose(name, parts), []).append(claim)

    def _withdraw_left(self, name: str, parts: Sequence[Buffer]) -> None:
        """Withdraw what earlier tries at the very same left behind.

        At the same bytes as well: what another thread's try may yet store is its own.
        """
        if not self._left:
            return
        purpose = _purpose(name, parts)
        with self._lock:
            left = list(self._left.get(purpose, ()))
        for claim in left:
            self._target.delete(claim)
        with self._lock:
            kept = [claim for claim in self._left.pop(purpose, ()) if claim not in left]
            if kept:
                self._left[purpose] = kept


def _purpose(name: str, parts: Sequence[Buffer]) -> bytes:
    digest = blake2b(name.encode() + b"\0", digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.digest()


def _is_stored(target: Target, name: str, parts: Sequence[Buffer]) -> bool:
    data = b"".join(parts)
    found = target.stat(name)
    if found is None or found.size_bytes != len(data):
        return False
    return target.get(name, len(data)) == data
