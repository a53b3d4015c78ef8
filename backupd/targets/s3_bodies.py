"""The bodies of what a store answers, read into buffers that are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from botocore.response import StreamingBody

# urllib3 hands out what it read as bytes, where it is not spared that (see `s3_connections`);
# small steps keep those in the CPU's cache.
_STEP_BYTES = 256 << 10


def object_body(answer: Mapping[str, Any]) -> StreamingBody:
    """The body in what GET was answered. Raises `KeyError` where it is a web page, no object."""
    body: StreamingBody = answer["Body"]
    if answer.get("ContentType", "").startswith("text/html"):
        body.close()
        raise KeyError("Body")
    return body


def fill(body: StreamingBody, view: memoryview) -> bool:
    """Fill `view` from the body; false where it ends before."""
    done = 0
    while done < view.nbytes:
        count = body.readinto(view[done : done + _STEP_BYTES])  # type: ignore[arg-type]
        if not count:
            return False
        done += count
    return True


def skip(body: StreamingBody, count: int) -> bool:
    """Read `count` bytes for nothing; false where the body ends before."""
    waste = memoryview(bytearray(min(count, _STEP_BYTES)))
    while count:
        step = waste[: min(count, _STEP_BYTES)]
        if not fill(body, step):
            return False
        count -= step.nbytes
    return True
