"""Connections to a store on which the kernel acknowledges an answer as it comes.

Some servers (Ceph's gateway among them) send the head of an answer and its body apart, and by
Nagle's algorithm (RFC 896) keep the body back until the head is acknowledged; Linux delays that
by 40 ms on a connection that mostly sends and answers in turn. Each small answer then takes as
long as one from another continent. TCP_QUICKACK, see tcp(7), ends the delay until the kernel
thinks anew, so it is set once for each answer.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


class _HTTPConnection(AWSHTTPConnection):
    def getresponse(self, *args: Any, **kwargs: Any) -> Any:
        _hurry(self.sock)
        return super().getresponse(*args, **kwargs)


class _HTTPSConnection(AWSHTTPSConnection):
    def getresponse(self, *args: Any, **kwargs: Any) -> Any:
        _hurry(self.sock)
        return super().getresponse(*args, **kwargs)


class _HTTPPool(AWSHTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(AWSHTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


def answer_promptly(client: S3Client) -> None:
    """Have all connections that the client is going to make ask for their answers without delay.

    A botocore in which their place is elsewhere is left as it is: what is lost is time.
    """
    with suppress(AttributeError):
        # The one table for connections with and without a proxy; botocore has no public way to it.
        pools = client._endpoint.http_session._pool_classes_by_scheme  # type: ignore[attr-defined]
        pools.update(http=_HTTPPool, https=_HTTPSPool)


def _hurry(connected: Any) -> None:
    # What is closed has no socket, what goes through a proxy's own TLS one without options.
    with suppress(AttributeError, OSError):
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
