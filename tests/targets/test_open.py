"""Which target comes of which settings, and of a location on the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from backupd.config.settings import LocalTarget, NasTarget, S3Target
from backupd.errors import UsageError
from backupd.targets.bandwidth import TokenBucket
from backupd.targets.counting import Traffic
from backupd.targets.open import open_target, parse_location, prepare_target


def test_a_path_is_a_local_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_location("/srv/repo") == LocalTarget("local", Path("/srv/repo"))
    assert parse_location("repo") == LocalTarget("local", tmp_path / "repo")


def test_an_s3_address_is_an_s3_target() -> None:
    assert parse_location("s3://bucket") == S3Target("s3", "bucket")
    assert parse_location("s3://bucket/box1/models/") == S3Target(
        "s3", "bucket", prefix="box1/models"
    )
    assert parse_location(
        "s3://bucket/p?endpoint_url=https://s3.example.org:8443&path_style=true&region=eu"
    ) == S3Target(
        "s3",
        "bucket",
        prefix="p",
        endpoint_url="https://s3.example.org:8443",
        path_style=True,
        region="eu",
    )


def test_what_a_store_needs_to_be_read_can_be_said_in_the_address() -> None:
    found = parse_location("s3://bucket?sse_customer_key_file=/k&proxy=http://proxy:3128")
    assert found == S3Target(
        "s3",
        "bucket",
        sse="customer",
        sse_customer_key_file=Path("/k"),
        proxy="http://proxy:3128",
    )


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("", "no repository is named"),
        ("s3://", "s3://BUCKET/PREFIX"),
        ("s3://key:secret@bucket/p", "without credentials"),
        ("sftp://host/path", "sftp:// is not known"),
        ("s3://bucket/p?colour=red", "'colour' is no option"),
    ],
)
def test_a_location_that_cannot_be_is_refused_with_the_mend(location: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        parse_location(location)
    assert caught.value.hint
    assert "secret" not in str(caught.value)


def test_a_prepared_target_may_be_prepared_again(tmp_path: Path) -> None:
    settings = LocalTarget("disk", tmp_path / "a" / "b")
    prepare_target(settings)
    open_target(settings).put("index/a", [b"x"])
    prepare_target(settings)
    assert open_target(settings).get("index/a", 1) == b"x"


def test_only_what_leaves_the_box_is_limited(tmp_path: Path) -> None:
    waits: list[float] = []
    bucket = TokenBucket(1.0, clock=lambda: 0.0, sleep=waits.append)
    traffic = Traffic()
    local = open_target(LocalTarget("disk", tmp_path), upload=bucket, traffic=traffic)
    nas = open_target(
        NasTarget("nas", tmp_path, require_mount=False), upload=bucket, traffic=traffic
    )
    for number in range(3):
        local.put(f"a/{number}", [b"xxx"])
    assert not waits
    for number in range(3):
        nas.put(f"b/{number}", [b"xxx"])
    assert waits == [3.0, 6.0]
    assert traffic.counts().requests == {"put": 6}


def test_a_local_target_costs_no_import_of_boto3() -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from backupd.config.settings import LocalTarget\n"
        "from backupd.targets.open import open_target\n"
        "open_target(LocalTarget('disk', Path('/nowhere')))\n"
        "print([name for name in ('boto3', 'botocore', 'urllib3') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
