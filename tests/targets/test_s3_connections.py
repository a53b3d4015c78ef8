"""A store's answers are acknowledged at once, so that a body that waits for it comes at once, and
are read where they belong."""

from __future__ import annotations

import datetime
import fcntl
import ipaddress
import socket
import ssl
import struct
import termios
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from backupd.targets.s3 import BucketTarget
from tests.rigs.servers import S3Server
from tests.targets.conftest import s3_settings

BODY = b"small"
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Range: bytes 0-4/5\r\n"
    b"Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\n"
)
# The least by which Linux delays an acknowledgement is 40 ms; a connection is spared the first.
DELAY_SECONDS = 0.04
REQUESTS = 50
SPARED = 30


class HeadFirst:
    """Answers every request with a head, and with the body once the head is acknowledged."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.waits: list[float] = []
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        """End it; the client must have closed its connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                visitor, _ = self._listener.accept()
            except OSError:
                return
            with visitor if self._tls is None else self._tls.wrap_socket(visitor, True) as one:
                self._answer(one)

    def _answer(self, one: socket.socket) -> None:
        with one.makefile("rb") as asked:
            while asked.readline():
                while asked.readline() != b"\r\n":
                    pass
                one.sendall(HEAD)
                sent = time.perf_counter()
                while _unacknowledged(one):
                    time.sleep(0.0005)
                self.waits.append(time.perf_counter() - sent)
                one.sendall(BODY)


def _unacknowledged(connected: socket.socket) -> int:
    """Bytes that were sent and not acknowledged: SIOCOUTQ of tcp(7)."""
    (count,) = struct.unpack("i", fcntl.ioctl(connected, termios.TIOCOUTQ, bytes(4)))
    return int(count)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A key and a certificate of this machine by its address, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "store")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "store.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture(params=["plain", "proxy", "tls"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, certificate: Path
) -> Iterator[tuple[HeadFirst, BucketTarget]]:
    """The server and a target on it, reached in three ways."""
    tls = None
    if request.param == "tls":
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
    server = HeadFirst(tls)
    scheme = "http" if tls is None else "https"
    settings = s3_settings(S3Server(f"{scheme}://{server.address}", "key", "secret"), tmp_path, "b")
    if request.param == "proxy":
        settings = replace(
            settings, endpoint_url="http://store.example", proxy=f"http://{server.address}"
        )
    if tls is not None:
        settings = replace(settings, ca_bundle=certificate)
    target = BucketTarget(settings)
    yield server, target
    target.close()
    server.close()


def test_a_body_that_waits_for_an_acknowledgement_is_not_kept_waiting(
    store: tuple[HeadFirst, BucketTarget],
) -> None:
    server, target = store

    for _ in range(REQUESTS):
        assert target.get("index/a", 10) == BODY

    assert len(server.waits) == REQUESTS
    assert min(server.waits[SPARED:]) < DELAY_SECONDS / 2


def test_a_body_is_read_into_the_buffer_that_is_given(
    store: tuple[HeadFirst, BucketTarget], monkeypatch: pytest.MonkeyPatch
) -> None:
    def copied(*_: object, **__: object) -> bytes:
        raise AssertionError("the body was read as bytes of its own")

    monkeypatch.setattr("urllib3.response.HTTPResponse.read", copied)
    _, target = store
    buffer = bytearray(len(BODY))

    for _ in range(3):  # on one connection, which is given back each time
        target.read_into("packs/aa/a", 0, memoryview(buffer))

    assert buffer == BODY
