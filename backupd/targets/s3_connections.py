"""Connections to a store: answers are acknowledged as they come, and read where they belong.

Some servers (Ceph's gateway among them) send the head of an answer and its body apart, and by
Nagle's algorithm (RFC 896) keep the body back until the head is acknowledged; Linux delays that
by 40 ms on a connection that mostly sends and answers in turn. Each small answer then takes as
long as one from another continent. TCP_QUICKACK, see tcp(7), ends the delay until the kernel
thinks anew, so it is set once for each answer.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)
from urllib3.response import HTTPResponse

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


class _Answer(HTTPResponse):
    """An answer whose body is read into the buffer that is given, without a copy made on the way.

    urllib3's own reads a new `bytes` of the same size and copies it, with the GIL held.
    """

    def readinto(self, b: Any) -> int:
        # botocore asks for the body as it came, so there is nothing to decode.
        source = self._original_response
        if source is None or self.tell():
            return super().readinto(b)
        with self._error_catcher():  # which also gives the connection back at the end
            return source.readinto(b)


def _answer_of(connection: Any, get: Callable[[], HTTPResponse]) -> HTTPResponse:
    # What is closed has no socket, what goes through a proxy's own TLS one without options.
    with suppress(AttributeError, OSError):
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    answer = get()
    # urllib3 names no place for a class of one's own; this one adds a method and nothing else.
    if type(answer) is HTTPResponse and hasattr(answer, "_error_catcher"):
        answer.__class__ = _Answer
    return answer


class _HTTPConnection(AWSHTTPConnection):
    def getresponse(self, *args: Any, **kwargs: Any) -> Any:
        return _answer_of(self, partial(super().getresponse, *args, **kwargs))


class _HTTPSConnection(AWSHTTPSConnection):
    def getresponse(self, *args: Any, **kwargs: Any) -> Any:
        return _answer_of(self, partial(super().getresponse, *args, **kwargs))


class _HTTPPool(AWSHTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(AWSHTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


def use_direct_connections(client: S3Client) -> None:
    """Have the client make connections of these kinds, from now on.

    A botocore in which their place is elsewhere is left as it is: what is lost is time.
    """
    with suppress(AttributeError):
        # The one table for connections with and without a proxy; botocore has no public way to it.
        pools = client._endpoint.http_session._pool_classes_by_scheme  # type: ignore[attr-defined]
        pools.update(http=_HTTPPool, https=_HTTPSPool)
