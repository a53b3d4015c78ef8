"""What a store does is seen by trying, kept beside the repository, and obeyed."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backupd.config.settings import LocalTarget, NasTarget
from backupd.errors import TargetReadOnlyError, TargetUnreachableError
from backupd.targets.capabilities import (
    Capabilities,
    Creation,
    Lock,
    Ranges,
    decode_capabilities,
    encode_capabilities,
)
from backupd.targets.open import prepare_target
from backupd.targets.probe import place_of, probe_target
from backupd.targets.s3 import BucketTarget
from backupd.targets.s3_conditions import Conditions, worst
from tests.rigs.careless_s3 import CarelessS3, careless_s3
from tests.rigs.servers import S3Server
from tests.support.world import PROBED
from tests.targets.conftest import mounted_tmpfs, s3_settings

GOOD = PROBED


def seen(server: S3Server, tmp_path: Path, bucket: str) -> Capabilities:
    settings = s3_settings(server, tmp_path, bucket, prefix=f"probe/{tmp_path.name}")
    found = probe_target(settings, clock=time.time)
    left = server.client().list_objects_v2(Bucket=bucket, Prefix=settings.prefix)
    keys = [entry["Key"].rpartition("/")[2] for entry in left.get("Contents", [])]
    assert keys == [f"put-if-absent.{found.creation}"], "the probe left something behind"
    return replace(found, probed=0.0)


def test_ceph_is_seen_to_do_all_that_is_needed(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    found = seen(s3_server, tmp_path, bucket)
    assert found == GOOD
    assert found.objection() == ""
    assert found.remarks() == []


def test_versions_and_object_lock_of_a_bucket_are_seen(s3_server: S3Server, tmp_path: Path) -> None:
    client, bucket = s3_server.client(), f"lock-{time.time_ns()}"
    client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    settings = s3_settings(s3_server, tmp_path, bucket)
    found = probe_target(settings, clock=time.time)
    assert (found.versioning, found.object_lock) == (True, Lock.ENABLED)
    retention = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}}
    client.put_object_lock_configuration(
        Bucket=bucket,
        ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": retention},
    )
    target = BucketTarget(settings)
    from backupd.targets.s3_probe import _lock

    assert target.ask(lambda client, name, _: _lock(client, name)) is Lock.COMPLIANCE
    target.close()


def test_swifts_conditions_are_seen_to_race(
    swift_server: S3Server, swift_bucket: str, tmp_path: Path
) -> None:
    found = seen(swift_server, tmp_path, swift_bucket)
    assert found == replace(GOOD, creation=Creation.RACY)
    assert found.objection() == ""
    assert "claims" in found.remarks()[0]


def test_rclone_is_seen_to_ignore_conditions_and_is_served_by_claims(
    rclone_server: S3Server, tmp_path: Path, at_once: Any
) -> None:
    bucket = rclone_server.create_bucket()
    found = seen(rclone_server, tmp_path, bucket)
    assert found.creation is Creation.IGNORED
    assert found.ranges is Ranges.UNMARKED
    assert found.whole
    assert found.objection() == ""
    assert any("status 200" in remark for remark in found.remarks())
    target = BucketTarget(s3_settings(rclone_server, tmp_path, bucket, prefix="p"))
    won = at_once(6, lambda number: target.put_if_absent("snapshots/m/1", [b"%d" % number]))
    assert sorted(won, key=str) == [False] * 5 + [True]
    assert target.get("snapshots/m/1", 9) == b"%d" % won.index(True)
    target.close()


@pytest.fixture
def careless() -> Iterator[CarelessS3]:
    with careless_s3() as server:
        yield server


def test_a_server_that_answers_a_part_with_the_whole_is_seen(
    careless: CarelessS3, tmp_path: Path
) -> None:
    settings = s3_settings(S3Server(careless.endpoint_url, "A", "B"), tmp_path, "bucket")
    target = BucketTarget(settings)
    from backupd.targets.s3_probe import _ranges

    data = bytes(range(250)) * 4
    target.put("probe/x", [data])
    key = target._key("probe/x")
    assert target.ask(lambda client, name, _: _ranges(client, name, key, data)) is Ranges.WHOLE
    # The bytes are of the length that was asked for, and are not those.
    assert (
        target.ask(lambda client, name, _: _ranges(client, name, key, data[::-1])) is Ranges.WRONG
    )
    target.close()


def test_what_would_lose_snapshots_is_refused_and_said() -> None:
    assert "other bytes" in replace(GOOD, whole=False).objection()
    assert "part of an object" in replace(GOOD, ranges=Ranges.WRONG).objection()
    racy = replace(GOOD, creation=Creation.RACY)
    assert "one version number" in replace(racy, listing=False).objection()
    assert "lets nothing be deleted" in replace(racy, deletes=False).objection()
    assert replace(GOOD, listing=False, deletes=False).objection() == ""
    assert len(replace(GOOD, listing=False, deletes=False, checksums=False).remarks()) == 3
    assert "300 s behind" in replace(GOOD, clock_ahead_seconds=-300.0).remarks()[0]


def test_a_probe_is_kept_for_its_place_and_no_other() -> None:
    kept = replace(GOOD, creation=Creation.RACY, clock_ahead_seconds=3.5, probed=1e9)
    stored = encode_capabilities(kept, "s3://b/p at x")
    assert decode_capabilities(stored, "s3://b/p at x") == kept
    assert decode_capabilities(stored, "s3://b/other at x") is None
    for damaged in (b"", b"[]", b"{}", stored[:-20], stored.replace(b"racy", b"rare"), b"\xff"):
        assert decode_capabilities(damaged, "s3://b/p at x") is None


def test_what_was_seen_to_be_worse_stays(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    """All hosts must go the same way, so one that saw a race win is believed by all."""
    settings = s3_settings(s3_server, tmp_path, bucket, prefix=f"worse/{tmp_path.name}")
    first, second = BucketTarget(settings), BucketTarget(settings)
    assert first.creation() is Creation.ATOMIC
    first.ask(
        lambda client, name, prefix: client.put_object(
            Bucket=name, Key=f"{prefix}.probe/put-if-absent.racy", Body=b""
        )
    )
    assert second.creation() is Creation.RACY
    assert first.creation(anew=True) is Creation.RACY
    assert worst(Creation.ATOMIC, None) is Creation.ATOMIC
    assert worst(Creation.REFUSED, Creation.RACY) is Creation.REFUSED
    for target in (first, second):
        target.close()


def test_a_refused_condition_is_no_error(careless: CarelessS3, tmp_path: Path) -> None:
    settings = s3_settings(S3Server(careless.endpoint_url, "A", "B"), tmp_path, "bucket")
    target = BucketTarget(settings)
    conditions = Conditions(
        lambda action: action(target._client()), "bucket", settings.prefix + "/"
    )
    careless.refusal = (501, "NotImplemented")
    assert conditions._create("x") is None
    target.close()


def test_folders_on_a_disk_and_a_mount_are_seen_to_serve(tmp_path: Path) -> None:
    with mounted_tmpfs(tmp_path / "nas") as mount:
        for settings in (
            LocalTarget("disk", tmp_path / "disk"),
            NasTarget("nas", mount / "models"),
        ):
            prepare_target(settings)
            found = probe_target(settings, clock=time.time)
            assert replace(found, clock_ahead_seconds=0.0, probed=0.0) == GOOD
            assert abs(found.clock_ahead_seconds) < 5
            assert found.objection() == ""
            assert place_of(settings) == str(settings.path)
            assert not [path for path in settings.path.rglob("*") if path.is_file()]


def test_a_mount_that_is_absent_or_read_only_is_said(tmp_path: Path) -> None:
    with pytest.raises(TargetUnreachableError, match="nothing is mounted"):
        probe_target(NasTarget("nas", tmp_path), clock=time.time)
    with mounted_tmpfs(tmp_path / "ro", "size=1m,ro") as mount, pytest.raises(TargetReadOnlyError):
        probe_target(LocalTarget("disk", mount), clock=time.time)


def test_a_store_that_hangs_is_said_so_within_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backupd.targets.probe._PROBE_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = S3Server(f"http://127.0.0.1:{silent.getsockname()[1]}", "ACCESSKEY", "SECRET")
        begun = time.monotonic()
        with pytest.raises(TargetUnreachableError, match="does not answer"):
            probe_target(s3_settings(server, tmp_path, "bucket"), clock=time.time)
        assert time.monotonic() - begun < 40


def test_what_a_killed_probe_left_is_removed_by_one_an_hour_later(tmp_path: Path) -> None:
    settings = LocalTarget("disk", tmp_path / "disk")
    prepare_target(settings)
    left = tmp_path / "disk" / "probe" / "0123"
    left.mkdir(parents=True)
    for name, age in (("old", 4000), ("new", 60)):
        (left / name).write_bytes(b"x")
        os.utime(left / name, (time.time() - age, time.time() - age))
    probe_target(settings, clock=time.time)
    assert [path.name for path in left.iterdir()] == ["new"]
