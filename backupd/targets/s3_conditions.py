"""Whether a bucket's server creates an object for one of several racing writers: seen, not assumed.

The answer is kept beside the repository, as all hosts that write there must go the same way: one
that relies on conditions beside one that goes by claims would be safe from neither.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from backupd.targets.capabilities import Creation
from backupd.targets.s3_errors import error_code
from backupd.targets.s3_lock import md5_option

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest
    from mypy_boto3_s3.client import S3Client

# No listing shows it, as no object's name begins with a dot.
FOLDER = ".probe/"
_RECORD = f"{FOLDER}put-if-absent."
_WRITERS = 12
_RACES = 3
# How long a request that has sent its headers waits for the others to be as far.
_GATE_SECONDS = 3.0
# A server that is busy with one of two may refuse both (Amazon's 409).
_TRIES = 5
_REFUSALS = frozenset({400, 405, 501})

Run = Callable[[Callable[["S3Client"], Any]], Any]


class Conditions:
    """What the server of one bucket makes of conditions, found at the first use.

    `run` does something with the client and turns what boto3 raises into words; `prefix` is that
    of the target's keys.
    """

    def __init__(self, run: Run, bucket: str, prefix: str) -> None:
        self._run = run
        self._bucket = bucket
        self._prefix = prefix
        self._lock = threading.Lock()
        self._seen: Creation | None = None

    def seen(self) -> Creation:
        """What is recorded beside the repository, by one request; raced for where nothing is.

        Raises what `run` raises.
        """
        with self._lock:
            if self._seen is None:
                self._seen = self._recorded() or self._look()
            return self._seen

    def look_again(self) -> Creation:
        """Race anew. What was worse before stays: one race that went well proves nothing."""
        with self._lock:
            self._seen = self._look()
            return self._seen

    def _look(self) -> Creation:
        found = worst(self._race(), self._recorded())
        text = f"Here backupd saw that a put under If-None-Match is {found}.\n".encode()
        self._run(
            lambda client: client.put_object(
                Bucket=self._bucket,
                Key=f"{self._prefix}{_RECORD}{found}",
                Body=text,
                ContentMD5=md5_option([text])["ContentMD5"],
            )
        )
        # Another host may have seen worse meanwhile.
        return worst(found, self._recorded())

    def _recorded(self) -> Creation | None:
        page = self._run(
            lambda client: client.list_objects_v2(
                Bucket=self._bucket, Prefix=f"{self._prefix}{_RECORD}", MaxKeys=len(Creation)
            )
        )
        kept = [entry["Key"].rpartition(".")[2] for entry in page.get("Contents", [])]
        found: Creation | None = None
        for creation in Creation:
            if creation in kept:
                found = worst(creation, found)
        return found

    def _race(self) -> Creation:
        """Let writers race for keys that are free: one alone first, then again, then all."""
        key = f"{self._prefix}{FOLDER}race-{os.urandom(8).hex()}"
        with ThreadPoolExecutor(_WRITERS, thread_name_prefix="s3-race") as pool:
            try:
                if self._create(f"{key}-0") is None:
                    return Creation.REFUSED
                if self._create(f"{key}-0"):
                    return Creation.IGNORED
                for number in range(1, _RACES + 1):
                    with self._gate(f"{key}-{number}"):
                        won = list(pool.map(self._create, [f"{key}-{number}"] * _WRITERS))
                    if sum(map(bool, won)) > 1:
                        return Creation.RACY
            finally:
                for number in range(_RACES + 1):
                    self._remove(f"{key}-{number}")
        return Creation.ATOMIC

    @contextmanager
    def _gate(self, key: str) -> Iterator[None]:
        """Hold the body of each put of `key` back until all have sent their headers.

        A server that looks whether the key is free before it has the body then finds it free for
        all of them: what would be a matter of luck on a busy machine is seen each time.
        """
        gate = _Gate(_WRITERS)

        def hold(request: AWSPreparedRequest, **_: object) -> None:
            mine = request.url.partition("?")[0].endswith(key.rpartition("/")[2])
            if mine and isinstance(request.body, bytes):
                request.body = _Held(request.body, gate)

        event = "before-send.s3.PutObject"
        self._run(lambda client: client.meta.events.register(event, hold, unique_id=key))
        try:
            yield
        finally:
            self._run(lambda client: client.meta.events.unregister(event, hold, unique_id=key))

    def _create(self, key: str) -> bool | None:
        """Whether the object was created; None where the server knows no conditions."""

        def send(client: S3Client) -> bool | None:
            for _ in range(_TRIES):
                try:
                    client.put_object(
                        Bucket=self._bucket,
                        Key=key,
                        Body=b"?",
                        IfNoneMatch="*",
                        ContentMD5=md5_option([b"?"])["ContentMD5"],
                    )
                except Exception as error:
                    status = error_code(error)[1]
                    if status == 409:
                        continue
                    if status == 412:
                        return False
                    if status in _REFUSALS:
                        return None
                    raise
                return True
            return False

        found: bool | None = self._run(send)
        return found

    def _remove(self, key: str) -> None:
        def delete(client: S3Client) -> None:
            try:
                client.delete_object(Bucket=self._bucket, Key=key)
            except Exception:
                return  # credentials that may not delete leave a byte behind, and that is all

        self._run(delete)


class _Gate:
    """Opens when so many have come, or when the first has waited long enough."""

    def __init__(self, wanted: int) -> None:
        self._missing = wanted
        self._changed = threading.Condition()

    def wait(self) -> None:
        with self._changed:
            self._missing -= 1
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._missing <= 0, _GATE_SECONDS):
                self._missing = 0
                self._changed.notify_all()


class _Held(io.BytesIO):
    """A request's body whose bytes come when the gate opens, after the headers were sent."""

    def __init__(self, body: bytes, gate: _Gate) -> None:
        super().__init__(body)
        self._gate: _Gate | None = gate

    def read(self, size: int | None = -1) -> bytes:
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.wait()
        return super().read(size)


def worst(first: Creation, second: Creation | None) -> Creation:
    """Of two findings the one that allows less."""
    order = list(Creation)
    return first if second is None else max(first, second, key=order.index)
