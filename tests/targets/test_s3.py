"""The S3 target against a real server, and against one that behaves badly."""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backupd.config.settings import S3Target
from backupd.errors import (
    ObjectMissingError,
    TargetError,
    TargetFullError,
    TargetReadOnlyError,
    TargetUnreachableError,
)
from backupd.targets.open import open_target, prepare_target
from backupd.targets.parts import PartsReader
from backupd.targets.s3 import BucketTarget
from tests.rigs.careless_s3 import CarelessS3, careless_s3
from tests.rigs.servers import S3Server, free_ports
from tests.targets.conftest import s3_settings

MiB = 1 << 20
SECRET = "VerySecretSecretKey00000000000000"

Make = Callable[..., BucketTarget]


@pytest.fixture
def make(s3_server: S3Server, bucket: str, tmp_path: Path) -> Iterator[Make]:
    """Make a target on the real server, under a prefix of this test's own."""
    made: list[BucketTarget] = []

    def build(changes: dict[str, Any] | None = None, **options: Any) -> BucketTarget:
        values = {"prefix": f"s3/{tmp_path.name}", **(changes or {})}
        settings = s3_settings(s3_server, tmp_path, values.pop("bucket", bucket), **values)
        made.append(BucketTarget(settings, **options))
        return made[-1]

    yield build
    for target in made:
        target.close()


@pytest.fixture
def careless() -> Iterator[CarelessS3]:
    with careless_s3() as server:
        yield server


@pytest.fixture
def careless_target(careless: CarelessS3, tmp_path: Path) -> Iterator[BucketTarget]:
    server = S3Server(careless.endpoint_url, "ACCESSKEYOFTHETEST", SECRET)
    target = BucketTarget(
        s3_settings(server, tmp_path, "bucket", prefix="p", read_timeout_seconds=5.0)
    )
    yield target
    target.close()


def test_a_large_object_goes_up_in_parts_that_are_put_together(make: Make, bucket: str) -> None:
    target = make(multipart_bytes=12 * MiB, part_bytes=5 * MiB)
    data = [os.urandom(3 * MiB + 17) for _ in range(6)]
    target.put("packs/aa/large", data)
    buffer = bytearray(6 * (3 * MiB + 17))
    target.read_into("packs/aa/large", 0, memoryview(buffer))
    assert buffer == b"".join(data)
    head = target._client().head_object(Bucket=bucket, Key=target._key("packs/aa/large"))
    assert head["ETag"].endswith('-4"')


def test_an_upload_that_fails_leaves_no_parts(
    make: Make, bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = make(multipart_bytes=6 * MiB, part_bytes=5 * MiB)
    client = target._client()
    real_upload = client.upload_part

    def failing_upload(**request: Any) -> Any:
        if request["PartNumber"] == 3:
            raise TimeoutError
        return real_upload(**request)

    monkeypatch.setattr(client, "upload_part", failing_upload)
    with pytest.raises(TargetUnreachableError):
        target.put("packs/aa/large", [os.urandom(4 * MiB)] * 5)
    assert target.stat("packs/aa/large") is None
    prefix = target._key("")
    assert "Uploads" not in s3_server.client().list_multipart_uploads(Bucket=bucket, Prefix=prefix)


def test_packs_and_metadata_have_storage_classes_of_their_own(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    settings = s3_settings(
        s3_server,
        tmp_path,
        bucket,
        prefix=f"class/{tmp_path.name}",
        storage_class="GLACIER_IR",
        metadata_storage_class="STANDARD_IA",
    )
    sent: dict[str, str] = {}

    def note(request: Any, **_: object) -> None:
        name = request.url.rpartition(f"{settings.prefix}/")[2]
        sent[name] = request.headers.get("x-amz-storage-class", "")
        # This server has one class; what matters is what it was asked for.
        del request.headers["x-amz-storage-class"]

    target = open_target(settings)
    inner = target._target  # type: ignore[attr-defined]
    inner._client().meta.events.register("before-sign.s3.PutObject", note)
    target.put("packs/aa/a", [b"x"])
    target.put("packs/aa/trees", [b"x"], warm=True)
    for name in ("index/a", "snapshots/m/1", "keys/a.json", "tombstones/a", "repository.json"):
        target.put(name, [b"x"])
    assert sent == {
        "packs/aa/a": "GLACIER_IR",
        "packs/aa/trees": "STANDARD_IA",
        "index/a": "STANDARD_IA",
        "snapshots/m/1": "STANDARD_IA",
        "keys/a.json": "STANDARD_IA",
        "tombstones/a": "",
        "repository.json": "",
    }
    target.close()


def test_whether_conditions_are_honoured_is_asked_once(make: Make, bucket: str) -> None:
    target = make()
    requests: list[str] = []
    target._client().meta.events.register(
        "before-send.s3", lambda request, **_: requests.append(request.method)
    )
    assert target.put_if_absent("snapshots/m/1", [b"x"])
    first = len(requests)
    assert not target.put_if_absent("snapshots/m/1", [b"y"])
    assert len(requests) == first + 1
    again = make()
    del requests[:]
    again._client().meta.events.register(
        "before-send.s3", lambda request, **_: requests.append(request.method)
    )
    assert again.put_if_absent("snapshots/m/2", [b"x"])
    # What the first saw is kept beside the repository, and one listing tells it.
    assert requests == ["GET", "PUT"]
    assert [info.name for info in again.list("")] == ["snapshots/m/1", "snapshots/m/2"]


def test_one_request_stores_and_one_reads(make: Make) -> None:
    target = make()
    requests: list[str] = []
    target._client().meta.events.register(
        "before-send.s3", lambda request, **_: requests.append(request.method)
    )
    target.put("packs/aa/a", [os.urandom(9 * MiB)] * 2)
    target.read_into("packs/aa/a", MiB, memoryview(bytearray(MiB)))
    target.get("packs/aa/a", 18 * MiB)
    assert requests == ["PUT", "GET", "GET"]


def test_a_bucket_that_is_not_there_is_named_by_every_operation(make: Make) -> None:
    target = make({"bucket": "no-such-bucket-here"})
    for operation in (
        target.check_bucket,
        lambda: target.put("index/a", [b"x"]),
        lambda: target.put_if_absent("index/a", [b"x"]),
        lambda: target.get("index/a", 1),
        lambda: target.stat("index/a"),
        lambda: list(target.list("index/")),
        lambda: target.delete("index/a"),
    ):
        with pytest.raises(TargetError, match="no bucket 'no-such-bucket-here' at 127") as caught:
            operation()
        assert not isinstance(caught.value, ObjectMissingError)
        assert "create the bucket" in caught.value.hint


def test_wrong_credentials_are_said_without_showing_them(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    for server in (
        S3Server(s3_server.endpoint_url, s3_server.access_key, SECRET),
        S3Server(s3_server.endpoint_url, "UNKNOWNACCESSKEY", SECRET),
    ):
        target = BucketTarget(s3_settings(server, tmp_path, bucket))
        for operation in (
            lambda target=target: target.put("index/a", [b"x"]),
            lambda target=target: target.stat("index/a"),
            lambda target=target: list(target.list("")),
        ):
            with pytest.raises(TargetError, match=r"127\.0\.0\.1") as caught:
                operation()
            assert not isinstance(caught.value, TargetUnreachableError)
            assert "credentials" in f"{caught.value} {caught.value.hint}"
            said = f"{caught.value!r} {caught.value} {caught.value.hint}"
            assert SECRET not in said
            assert server.access_key not in said
        target.close()


def test_a_policy_that_forbids_writing_is_a_read_only_target(
    s3_server: S3Server, make: Make
) -> None:
    bucket = s3_server.create_bucket()
    target = make({"bucket": bucket})
    target.put("index/a", [b"x"])
    policy = (
        '{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*", "Action": '
        f'["s3:PutObject", "s3:DeleteObject"], "Resource": "arn:aws:s3:::{bucket}/*"}}]}}'
    )
    s3_server.client().put_bucket_policy(Bucket=bucket, Policy=policy)
    for operation in (
        lambda: target.put("index/b", [b"x"]),
        lambda: target.put_if_absent("index/b", [b"x"]),
        lambda: target.delete("index/a"),
    ):
        with pytest.raises(TargetReadOnlyError, match="AccessDenied") as caught:
            operation()
        assert bucket in caught.value.hint
    assert target.get("index/a", 1) == b"x"


def test_a_server_that_is_not_there_is_unreachable_and_named(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    server = S3Server(f"http://user:{SECRET}@127.0.0.1:{port}", "ACCESSKEY", SECRET)
    target = BucketTarget(s3_settings(server, tmp_path, "bucket"))
    with pytest.raises(TargetUnreachableError, match=f"127.0.0.1:{port} does not answer") as caught:
        target.stat("index/a")
    assert SECRET not in f"{caught.value} {caught.value.hint} {target.location}"


def test_a_server_that_never_answers_is_given_up_on(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = S3Server(f"http://127.0.0.1:{silent.getsockname()[1]}", "ACCESSKEY", SECRET)
        target = BucketTarget(s3_settings(server, tmp_path, "bucket", read_timeout_seconds=0.3))
        begin = time.monotonic()
        with pytest.raises(TargetUnreachableError, match="does not answer"):
            target.put("index/a", [b"x"])
        assert time.monotonic() - begin < 40


def test_credentials_that_are_not_there_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    common = {"bucket": "b", "endpoint_url": "http://127.0.0.1:9"}
    for settings in (
        S3Target("s3", **common),
        S3Target("s3", **common, credentials_file=tmp_path / "absent"),
        S3Target("s3", **common, profile="nobody"),
    ):
        with pytest.raises(TargetError, match="no credentials") as caught:
            BucketTarget(settings).stat("a")
        assert "credentials_file" in caught.value.hint


def test_a_credentials_file_goes_before_the_environment(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "WRONG")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "WRONG")
    make().put("index/a", [b"x"])


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        ((507, "InsufficientStorage"), TargetFullError),
        ((403, "QuotaExceeded"), TargetFullError),
        ((503, "SlowDown"), TargetUnreachableError),
        ((500, "InternalError"), TargetUnreachableError),
        ((429, "TooManyRequests"), TargetUnreachableError),
        ((409, "ConditionalRequestConflict"), TargetUnreachableError),
        ((411, "MissingContentLength"), TargetError),
        ((400, "Odd"), TargetError),
    ],
)
def test_what_a_server_refuses_becomes_the_right_error(
    careless: CarelessS3,
    careless_target: BucketTarget,
    refusal: tuple[int, str],
    kind: type[TargetError],
) -> None:
    careless.refusal = refusal
    for put in (careless_target.put, careless_target.put_if_absent):
        careless.requests.clear()
        with pytest.raises(kind, match=r"s3://bucket/p/") as caught:
            put("index/a", [b"x"])
        assert type(caught.value) is kind
        # boto3 tries nothing twice: that is the retry wrapper's.
        assert len(careless.requests) == 1
        # The server repeats the request's Authorization header in its message.
        assert "ACCESSKEYOFTHETEST" not in f"{caught.value} {caught.value.hint}"


def test_a_range_answered_with_the_whole_object_is_read_right(
    careless_target: BucketTarget,
) -> None:
    data = os.urandom(700_000)
    careless_target.put("packs/aa/a", [data[:5], data[5:]])
    for offset, length in ((0, 10), (0, 700_000), (600_000, 100_000), (123, 4567)):
        buffer = bytearray(length)
        careless_target.read_into("packs/aa/a", offset, memoryview(buffer))
        assert buffer == data[offset : offset + length]
    # As long as the whole object, so that only the offset tells that it cannot be.
    with pytest.raises(TargetError, match="ends"):
        careless_target.read_into("packs/aa/a", 1, memoryview(bytearray(700_000)))


def test_an_answer_cut_off_is_no_object(
    careless: CarelessS3, careless_target: BucketTarget
) -> None:
    careless_target.put("packs/aa/a", [b"x" * 100_000])
    careless.cut_after = 50_000
    with pytest.raises(TargetUnreachableError):
        careless_target.get("packs/aa/a", 100_000)
    with pytest.raises(TargetUnreachableError):
        careless_target.read_into("packs/aa/a", 0, memoryview(bytearray(100_000)))


def test_where_conditions_are_ignored_writers_agree_by_claims(
    careless: CarelessS3, careless_target: BucketTarget, at_once: Any
) -> None:
    won = at_once(
        8, lambda number: careless_target.put_if_absent("snapshots/m/1", [b"%d" % number])
    )
    assert sorted(won, key=str) == [False] * 7 + [True]
    assert careless_target.get("snapshots/m/1", 9) == b"%d" % won.index(True)
    assert [info.name for info in careless_target.list("")] == ["snapshots/m/1"]


def test_the_retry_wrapper_stands_before_a_bucket(careless: CarelessS3, tmp_path: Path) -> None:
    server = S3Server(careless.endpoint_url, "ACCESSKEYOFTHETEST", SECRET)
    settings = s3_settings(server, tmp_path, "bucket")
    prepare_target(settings)
    careless.refusal = (503, "SlowDown")
    target = open_target(settings)
    target._sleep = lambda _: setattr(careless, "refusal", None)  # type: ignore[attr-defined]
    target.put("index/a", [b"x"])
    assert target.get("index/a", 1) == b"x"
    target.close()


def test_parts_read_as_one_file_from_any_place() -> None:
    parts = [b"abc", b"", bytearray(b"defgh"), memoryview(b"i")]
    for start in range(10):
        for stop in range(start, 10):
            reader = PartsReader(parts, start, stop)
            assert len(reader) == stop - start
            for place in range(stop - start + 1):
                assert reader.seek(place) == reader.tell() == place
                got = b"".join(iter(lambda reader=reader: bytes(reader.read(1 << 20)), b""))
                assert got == b"abcdefghi"[start + place : stop]
                assert reader.tell() == stop - start
            assert reader.seek(0, io.SEEK_END) == stop - start


def test_a_thousand_deletions_cost_one_request(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    sent: list[str] = []
    settings = s3_settings(s3_server, tmp_path, bucket, prefix="many")
    target = BucketTarget(settings, on_request=sent.append)
    names = [f"packs/ab/{number:04d}" for number in range(1200)]
    for name in names[::100]:
        target.put(name, [b"x"])
    sent.clear()
    target.delete_many(names)
    assert sent.count("delete") <= 2, sent[:5]
    assert len(sent) <= 3
    assert list(target.list("")) == []
    target.close()
