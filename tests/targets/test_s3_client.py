"""How requests go out: by whom, through what, with which headers; and that each is counted."""

from __future__ import annotations

import base64
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from botocore.utils import parse_timestamp

from backupd.errors import TargetError, TargetUnreachableError
from backupd.targets.counting import Traffic
from backupd.targets.open import open_target
from backupd.targets.s3 import BucketTarget
from backupd.targets.s3_client import parse_time
from tests.rigs.careless_s3 import CarelessS3, careless_s3
from tests.rigs.servers import S3Server
from tests.targets.conftest import s3_settings

MiB = 1 << 20


def test_a_customers_key_from_a_file_is_needed_to_read_what_was_put_with_it(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    for name, stored in (("raw", os.urandom(32)), ("text", base64.b64encode(os.urandom(32)))):
        (tmp_path / name).write_bytes(stored)
        settings = s3_settings(
            s3_server,
            tmp_path,
            bucket,
            prefix=f"customer/{tmp_path.name}/{name}",
            sse="customer",
            sse_customer_key_file=tmp_path / name,
        )
        target = BucketTarget(settings, multipart_bytes=5 * MiB, part_bytes=5 * MiB)
        target.put("index/a", [b"hidden"])
        large = os.urandom(6 * MiB)
        target.put("packs/aa/a", [large])
        assert target.put_if_absent("snapshots/m/1", [b"once"])
        assert not target.put_if_absent("snapshots/m/1", [b"twice"])
        assert target.get("index/a", 10) == b"hidden"
        across = bytearray(2000)
        target.read_into("packs/aa/a", 5 * MiB - 1000, memoryview(across))
        assert across == large[5 * MiB - 1000 : 5 * MiB + 1000]
        found = target.stat("index/a")
        assert found is not None
        assert found.size_bytes == 6
        target.close()
        plain = BucketTarget(s3_settings(s3_server, tmp_path, bucket, prefix=settings.prefix))
        with pytest.raises(TargetError, match="cannot be read"):
            plain.get("index/a", 10)
        plain.close()


def test_a_key_of_the_stores_key_service_is_named_with_each_object(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    settings = s3_settings(
        s3_server, tmp_path, bucket, prefix="kms", sse="aws:kms", sse_kms_key="key-1"
    )
    target = BucketTarget(settings, multipart_bytes=5 * MiB, part_bytes=5 * MiB)
    for name, data in (("index/a", b"hidden"), ("packs/aa/a", os.urandom(6 * MiB))):
        target.put(name, [data])
        assert target.get(name, len(data)) == data
        head = s3_server.client().head_object(Bucket=bucket, Key=f"kms/{name}")
        assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", "key-1")
    target.close()


@pytest.mark.parametrize("content", [None, b"", b"short", b"x" * 33, b"\xff" * 40])
def test_a_customers_key_that_cannot_be_one_is_refused_and_not_shown(
    content: bytes | None, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    settings = s3_settings(
        S3Server("http://127.0.0.1:9", "A", "B"),
        tmp_path,
        "bucket",
        sse="customer",
        sse_customer_key_file=tmp_path / "key",
    )
    with pytest.raises(TargetError, match=str(tmp_path / "key")) as caught:
        BucketTarget(settings).stat("index/a")
    assert caught.value.hint
    assert content is None or not content or content.decode("latin-1") not in str(caught.value)


class _Proxy(BaseHTTPRequestHandler):
    """Passes a request on to where its absolute address says, and remembers it."""

    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.path)
        headers = {name: value for name, value in self.headers.items() if name != "Connection"}
        with urlopen(Request(self.path, headers=headers)) as answer:
            body = answer.read()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in {"transfer-encoding", "connection", "content-length"}:
                    self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[str]]]:
    seen: list[str] = []
    handler = type("Handler", (_Proxy,), {"seen": seen})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", seen
    server.shutdown()
    server.server_close()
    thread.join()


def test_requests_go_through_the_proxy_that_is_named(
    s3_server: S3Server, bucket: str, tmp_path: Path, proxy: tuple[str, list[str]]
) -> None:
    address, seen = proxy
    BucketTarget(s3_settings(s3_server, tmp_path, bucket, prefix="proxy")).put("index/a", [b"x"])
    target = BucketTarget(s3_settings(s3_server, tmp_path, bucket, prefix="proxy", proxy=address))
    assert target.get("index/a", 1) == b"x"
    assert seen == [f"{s3_server.endpoint_url}/{bucket}/proxy/index/a"]
    target.close()


def test_credentials_come_from_a_process_that_a_profile_names(
    s3_server: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """boto3's whole chain: here `credential_process`, as password managers and roles use it."""
    script = tmp_path / "credentials.py"
    script.write_text(
        "import json\n"
        f"print(json.dumps({{'Version': 1, 'AccessKeyId': {s3_server.access_key!r},"
        f" 'SecretAccessKey': {s3_server.secret_key!r}}}))\n"
    )
    config = tmp_path / "aws-config"
    config.write_text(f"[profile backup]\ncredential_process = {sys.executable} {script}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    settings = s3_settings(
        s3_server, tmp_path, bucket, prefix="process", profile="backup", credentials_file=None
    )
    target = BucketTarget(settings)
    target.put("index/a", [b"x"])
    assert target.get("index/a", 1) == b"x"
    target.close()


def test_every_request_is_counted_by_its_kind(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    traffic = Traffic()
    settings = s3_settings(s3_server, tmp_path, bucket, prefix=f"count/{tmp_path.name}")
    target = open_target(settings, traffic=traffic)
    target.put("packs/aa/a", [os.urandom(65 * MiB)])  # begun, five parts, completed
    assert traffic.counts().requests == {"put": 7, "list": 1}
    target.put("index/a", [b"12345"])
    target.get("index/a", 5)
    target.read_into("index/a", 1, memoryview(bytearray(2)))
    target.stat("index/a")
    list(target.list(""))
    target.delete("index/a")
    counts = traffic.counts()
    assert counts.requests == {"put": 8, "get": 2, "stat": 1, "list": 2, "delete": 1}
    assert (counts.bytes_written, counts.bytes_read) == (65 * MiB + 5, 7)
    target.close()


@pytest.mark.parametrize(
    "written",
    [
        "2026-11-27T02:50:33.123Z",
        "2026-11-27T02:50:33Z",
        "2026-11-27T02:50:33.123+02:00",
        "Thu, 01 Jan 2026 00:00:00 GMT",
        "Thu, 01 Jan 2026 00:00:00 -0500",
        "1 January 2026 12:00 UTC",
        "20260101T000000Z",
        "1700000000",
        1700000000,
        1700000000.5,
    ],
)
def test_a_moment_is_the_one_that_botocore_reads(written: str) -> None:
    assert parse_time(written) == parse_timestamp(written)


@pytest.mark.parametrize(
    "written",
    ["", "yesterday", "2026-13-01T00:00:00Z", "1 January " + "9" * 40, "9" * 40, "inf", "x" * 9999],
)
def test_an_answer_with_what_is_no_moment_is_not_one_of_s3(written: str, tmp_path: Path) -> None:
    with careless_s3() as server:
        target = careless_target(server, tmp_path)
        target.put("index/a", [b"x"])
        server.moment = server.written = written
        for ask in (lambda: target.stat("index/a"), lambda: list(target.list("index/"))):
            with pytest.raises(TargetError, match="is not what an S3 server does"):
                ask()
        target.close()


@pytest.mark.parametrize(
    "page",
    [
        b"<a><Contents><Key>box1/models/index/a</Key></Contents></a>",
        b"<a><Contents><Size>1</Size></Contents></a>",
        b"<a><IsTruncated>true</IsTruncated></a>",
        b"<a><IsTruncated>true</IsTruncated><NextContinuationToken/></a>",
    ],
)
def test_a_listing_that_lacks_what_each_has_is_not_one_of_s3(page: bytes, tmp_path: Path) -> None:
    with careless_s3() as server:
        target = careless_target(server, tmp_path)
        server.page = page
        with pytest.raises(TargetError, match="is not what an S3 server does") as raised:
            list(target.list("index/"))
        target.close()
    assert "web pages" in str(raised.value.hint)


def test_a_web_page_is_no_object_and_no_error_of_the_server(tmp_path: Path) -> None:
    with careless_s3() as server:
        target = careless_target(server, tmp_path)
        server.page = b"<!doctype html><title>Console</title><p>Welcome<br>"
        for read in (
            lambda: target.get("repository.json", 1000),
            lambda: target.read_into("repository.json", 0, memoryview(bytearray(10))),
        ):
            with pytest.raises(TargetError, match="is not what an S3 server does"):
                read()
        # botocore takes what it cannot read for an error of the server.
        for ask in (lambda: list(target.list("")), lambda: target.put("index/a", [b"x"])):
            with pytest.raises(TargetUnreachableError, match="with a web page") as raised:
                ask()
            assert "endpoint_url" in str(raised.value.hint)
        target.close()


def careless_target(server: CarelessS3, tmp_path: Path) -> BucketTarget:
    """A target on a server that answers as it is told."""
    there = S3Server(server.endpoint_url, "key", "secret")
    return BucketTarget(s3_settings(there, tmp_path, "b"))
