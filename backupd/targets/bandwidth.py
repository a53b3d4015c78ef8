"""A limit on what goes out, as a wrapper around any target, and the bucket it draws from.

One bucket may serve several targets, which then share its rate.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from backupd.targets.base import Buffer, Target, total_size
from backupd.targets.wrapping import WrappedTarget

_PROMPT = ("index/", "snapshots/")


class TokenBucket:
    """Lets `bytes_per_second` through on average, whoever asks.

    It may be overdrawn by one object at a time: that goes out at once and the next one waits
    until the debt is paid, so that objects of any size pass. Unused rate is kept for at most
    one second. `clock` and `sleep` are in seconds.
    """

    def __init__(
        self,
        bytes_per_second: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        if bytes_per_second <= 0:
            raise ValueError("a bandwidth limit must be above zero")
        self._rate = bytes_per_second
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        # When the debt is paid; up to a second in the past for rate that went unused.
        self._paid_at = clock()

    def take(self, size_bytes: int, *, wait: bool = True) -> None:
        """Return once `size_bytes` may go out; without `wait` at once, and others wait longer."""
        with self._lock:
            now = self._clock()
            start = max(self._paid_at, now - 1.0)
            self._paid_at = start + size_bytes / self._rate
        # Each caller has its own place in the queue, and waits for it without the lock.
        if wait and start > now:
            self._sleep(start - now)


class Limits:
    """Limits by name, each one bucket for all who run at once; safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets: dict[str, tuple[float, TokenBucket]] = {}

    def of(self, name: str, bytes_per_second: float) -> TokenBucket | None:
        """The bucket of a name with that rate, None where it is 0, which is no limit."""
        if not bytes_per_second:
            return None
        with self._lock:
            rate, bucket = self._buckets.get(name, (0.0, None))
            if bucket is None or rate != bytes_per_second:
                bucket = TokenBucket(bytes_per_second)
                self._buckets[name] = bytes_per_second, bucket
            return bucket


class LimitedTarget(WrappedTarget):
    """`target`, whose puts draw from `bucket`; what is read is not limited.

    What names the packs that have gone out counts but does not wait: a snapshot that is told to
    stop has seconds to write it, or they would all have to go out again.
    """

    def __init__(self, target: Target, bucket: TokenBucket) -> None:
        super().__init__(target)
        self._bucket = bucket

    def put(self, name: str, parts: Sequence[Buffer], *, warm: bool = False) -> None:
        """See `Target.put`."""
        self._bucket.take(total_size(parts), wait=not name.startswith(_PROMPT))
        self._target.put(name, parts, warm=warm)

    def delete_many(self, names: Sequence[str]) -> None:
        """See `Target.delete_many`."""
        self._target.delete_many(names)

    def put_if_absent(self, name: str, parts: Sequence[Buffer]) -> bool:
        """See `Target.put_if_absent`."""
        self._bucket.take(total_size(parts), wait=not name.startswith(_PROMPT))
        return self._target.put_if_absent(name, parts)
