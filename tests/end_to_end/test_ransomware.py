"""Someone has the box's credentials and wants everything gone: what a locked bucket makes of it.

On a real server that enforces Object Lock and bucket policies, with two users: the box, and the
keeper who owns the bucket and thins it.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from backupd.config.settings import S3Target
from backupd.errors import BackupdError, TargetError, TargetReadOnlyError, UsageError
from backupd.operations.extend import extend
from backupd.operations.forget import forget_by_policy, forget_snapshots
from backupd.operations.prune import prune
from backupd.operations.purge import notes_of, purge_hidden
from backupd.operations.undelete import undelete
from backupd.repository.snapshots import SnapshotName
from backupd.targets.s3_lock_probe import refuse_without_lock
from tests.rigs.servers import S3Server
from tests.support.world import MODEL, World, leave_unprobed, make_world
from tests.support.world import small_packs as small_packs

pytestmark = pytest.mark.usefixtures("small_packs")

POLICY = Path(__file__).parents[2] / "config/s3-append-only-policy.json"
DAYS = 10
DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Locked:
    """A bucket with Object Lock, the box's world on it, and the two who come to it."""

    world: World
    bucket: str
    prefix: str
    keeper: S3Server
    box: S3Server

    def with_target(self, **changes: Any) -> World:
        """The same world, its target seen with other settings."""
        disk = self.world.targets["disk"]
        assert isinstance(disk, S3Target)
        return replace(self.world, targets={"disk": replace(disk, **changes)})

    def keepers(self, tmp_path: Path, **changes: Any) -> World:
        """The world as the keeper has it: other credentials, and nothing is append-only."""
        credentials = self.keeper.write_credentials(tmp_path / "keeper")
        return self.with_target(credentials_file=credentials, append_only=False, **changes)

    def keys(self, client: Any) -> list[str]:
        pages = client.get_paginator("list_objects_v2")
        return [
            entry["Key"]
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix)
            for entry in page.get("Contents", [])
        ]


def append_only_policy(bucket: str, prefix: str) -> str:
    """The documented policy with this server's names in it."""
    text = POLICY.read_text().replace("BUCKET", bucket).replace("PREFIX", prefix)
    text = text.replace("arn:aws:iam::ACCOUNT:user/USER", "arn:aws:iam:::user/box")
    text = text.replace("arn:aws:iam::ACCOUNT:user/KEEPER", "arn:aws:iam:::user/test")
    return json.dumps(json.loads(text))


@pytest.fixture(autouse=True)
def unprobed(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_unprobed(monkeypatch)


@contextmanager
def locked_bucket(server: S3Server, tmp_path: Path, mode: str, policy: Callable[..., str]) -> Any:
    prefix = "box1"
    bucket = server.create_bucket(ObjectLockEnabledForBucket=True)
    server.client().put_bucket_policy(Bucket=bucket, Policy=policy(bucket, prefix))
    box = server.guest()
    disk = S3Target(
        "disk",
        bucket,
        prefix=prefix,
        endpoint_url=server.endpoint_url,
        credentials_file=box.write_credentials(tmp_path / "box"),
        path_style=True,
        object_lock_mode=mode,
        object_lock_days=DAYS,
        append_only=True,
    )
    world = make_world(tmp_path / "world", disk=disk, size=1 << 18, keys_seed=1)
    yield Locked(world, bucket, prefix, server, box)


@pytest.fixture
def locked(s3_server: S3Server, tmp_path: Path) -> Iterator[Locked]:
    """Two snapshots in a locked bucket under the append-only policy, put by the box itself."""
    with locked_bucket(s3_server, tmp_path, "COMPLIANCE", append_only_policy) as found:
        take_two(found.world)
        yield found


def take_two(world: World) -> None:
    """Two snapshots that have small files in common, and the large one not."""
    world.snapshot()
    weights = world.model_path / "weights.bin"
    weights.write_bytes(random.Random(4).randbytes(weights.stat().st_size))
    world.snapshot()


def refused(act: Callable[[], Any]) -> bool:
    try:
        act()
    except ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    return False


def versions_of(client: Any, bucket: str) -> list[tuple[str, str]]:
    return [
        (entry["Key"], entry["VersionId"])
        for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket)
        for entry in (*page.get("Versions", []), *page.get("DeleteMarkers", []))
    ]


def attack(locked: Locked, client: Any) -> None:
    """Everything that the credentials allow, against every object."""
    bucket = locked.bucket
    for key in locked.keys(client):
        for act in (
            lambda key=key: client.delete_object(Bucket=bucket, Key=key),
            lambda key=key: client.put_object(Bucket=bucket, Key=key, Body=b"pay us"),
        ):
            refused(act)
    for key, version in versions_of(client, bucket):
        refused(
            lambda key=key, version=version: client.delete_object(
                Bucket=bucket, Key=key, VersionId=version
            )
        )


def test_with_the_boxs_credentials_nothing_can_be_deleted_and_every_snapshot_restores(
    locked: Locked, tmp_path: Path
) -> None:
    good = time.time()
    time.sleep(0.05)
    client, bucket = locked.box.client(), locked.bucket
    keys = [key for key in locked.keys(client) if "probe/" not in key]
    assert any("/packs/" in key for key in keys)
    assert all(
        refused(lambda key=key: client.delete_object(Bucket=bucket, Key=key)) for key in keys
    )
    for key, version in versions_of(client, bucket):
        if "/claims/" not in key and "probe/" not in key:
            assert refused(
                lambda key=key, version=version: client.delete_object(
                    Bucket=bucket, Key=key, VersionId=version
                )
            ), key
    for act in (
        lambda: client.delete_bucket_policy(Bucket=bucket),
        lambda: client.put_bucket_policy(Bucket=bucket, Policy="{}"),
        lambda: client.put_bucket_versioning(
            Bucket=bucket, VersioningConfiguration={"Status": "Suspended"}
        ),
        lambda: client.put_bucket_lifecycle_configuration(
            Bucket=bucket,
            LifecycleConfiguration={
                "Rules": [{"ID": "x", "Status": "Enabled", "Prefix": "", "Expiration": {"Days": 1}}]
            },
        ),
        lambda: client.delete_bucket(Bucket=bucket),
    ):
        assert refused(act)
    with locked.world.open() as installation:
        folder = installation.repository("disk").list_snapshots().snapshots[0].name.folder
    mark = f"{locked.prefix}/{SnapshotName(folder, 1, forgotten=True).object_name()}"
    assert refused(lambda: client.put_object(Bucket=bucket, Key=mark, Body=b"forgotten\n"))
    # Writing over is all that is left: it makes a new version, and the old one stays.
    for key in keys:
        client.put_object(Bucket=bucket, Key=key, Body=b"pay us")
    with pytest.raises(BackupdError):
        locked.world.restore(1, tmp_path / "gone")
    past = locked.with_target(as_of=good)
    past.verify()
    with past.open() as installation, pytest.raises(TargetReadOnlyError):
        installation.target("disk").put("index/x", [b"x"])
    # The keeper mends it in place, and the box goes on.
    with locked.keepers(tmp_path).open() as installation:
        planned = undelete(installation, "disk", as_of=good, dry_run=True)
        assert len(planned.brought_back) >= len(keys) and not planned.failed
        assert undelete(installation, "disk", as_of=good).brought_back == planned.brought_back
        assert not undelete(installation, "disk", as_of=good).brought_back
    (locked.world.model_path / "weights.bin").write_bytes(random.Random(9).randbytes(9999))
    locked.world.snapshot()
    assert not locked.world.findings()


@pytest.mark.torture
def test_credentials_that_may_delete_cannot_delete_what_is_held(
    s3_server: S3Server, tmp_path: Path
) -> None:
    def everything(bucket: str, prefix: str) -> str:
        statement = {
            "Effect": "Allow",
            "Principal": {"AWS": ["arn:aws:iam:::user/box", "arn:aws:iam:::user/test"]},
            "Action": "s3:*",
            "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
        }
        return json.dumps({"Version": "2012-10-17", "Statement": [statement]})

    with locked_bucket(s3_server, tmp_path, "COMPLIANCE", everything) as locked:
        take_two(locked.world)
        good = time.time()
        time.sleep(0.05)
        client = locked.box.client()
        with locked.with_target(append_only=False).open() as installation:
            forget_snapshots(installation, [f"{MODEL}@v1"])
        attack(locked, client)
        for key in locked.keys(client):
            client.delete_object(Bucket=locked.bucket, Key=key)
        assert not locked.keys(client)
        with pytest.raises(BackupdError, match="is not there"):
            locked.world.restore(2, tmp_path / "gone")
        locked.with_target(as_of=good).verify()
        with locked.world.open() as installation:
            assert not undelete(installation, "disk", as_of=good).failed
        assert locked.world.listed() == [1, 2]
        assert not locked.world.findings()


@pytest.mark.torture
def test_forget_and_prune_leave_the_box_and_are_done_by_the_keeper(
    locked: Locked, tmp_path: Path
) -> None:
    with locked.world.open() as installation:
        left = forget_by_policy(installation, now=time.time())
        assert left.append_only == ("disk",)
        assert not left.kept and not left.forgotten
        assert forget_snapshots(installation, [f"{MODEL}@v1"]).append_only == ("disk",)
        with pytest.raises(UsageError, match="append-only"):
            prune(installation, "disk")
    keeper = locked.keepers(tmp_path)
    with keeper.open() as installation:
        forget_snapshots(installation, [f"{MODEL}@v1"])
    locked.world.expected.pop(1)
    later = replace(keeper, ahead=2 * DAY)
    with later.open() as installation:
        assert prune(installation, "disk").packs_marked
    later = replace(keeper, ahead=4 * DAY)
    with later.open() as installation:
        # Nothing fails on what is held: it is hidden, and waits.
        report = prune(installation, "disk")
    assert report.packs_deleted
    assert report.waiting_bytes >= report.deleted_bytes
    assert any("wait for their Object Lock to end" in note for note in report.notes)
    locked.world.verify()
    # By the keeper's clock the time is up, by the store's it is not: refused, and no failure.
    later = replace(keeper, ahead=(4 + DAYS + 1) * DAY)
    with later.open() as installation:
        report = prune(installation, "disk")
    assert any("refuses to remove" in note for note in report.notes)
    locked.world.verify()


@pytest.mark.torture
def test_what_snapshots_need_is_held_on_and_what_they_do_not_is_left_to_run_out(
    locked: Locked, tmp_path: Path
) -> None:
    client = locked.box.client()

    def held_until(key: str) -> float:
        head = client.head_object(Bucket=locked.bucket, Key=key)
        return head["ObjectLockRetainUntilDate"].timestamp()  # type: ignore[no-any-return]

    kept = ("packs/", "index/", "snapshots/", "keys/", "repository.json")
    keys = [
        key for key in locked.keys(client) if key.removeprefix(f"{locked.prefix}/").startswith(kept)
    ]
    before = {key: held_until(key) for key in keys}
    assert all(DAYS * DAY - 600 < end - time.time() < DAYS * DAY + 600 for end in before.values())
    with locked.world.open() as installation:
        assert extend(installation, "disk").extended == 0
    with locked.keepers(tmp_path).open() as installation:
        forget_snapshots(installation, [f"{MODEL}@v1"])
    later = replace(locked.world, ahead=(DAYS / 2 + 1) * DAY)
    with later.open() as installation:
        planned = extend(installation, "disk", dry_run=True)
        assert {key: held_until(key) for key in keys[:5]} == {key: before[key] for key in keys[:5]}
        report = extend(installation, "disk")
        assert report.extended == planned.extended == report.needed
        assert not report.problems
        assert extend(installation, "disk").extended == 0
        repository = installation.repository("disk")
        forgotten = SnapshotName(
            repository.list_snapshots().snapshots[0].name.folder, 1
        ).object_name()
    after = {key: held_until(key) for key in keys if not key.endswith(forgotten)}
    grown = [key for key in after if after[key] > before[key] + DAY]
    assert len(grown) == report.needed
    # What only the forgotten snapshot needed is no more held than before.
    assert {key for key in after if key not in grown}
    # What is missing is said, and what somebody wrote over is never purged.
    first, second = [key for key in grown if "/packs/" in key][:2]
    locked.keeper.client().delete_object(Bucket=locked.bucket, Key=first)
    with locked.world.open() as installation:
        problems = extend(installation, "disk").problems
        assert any("missing" in problem for problem in problems), problems
    client.put_object(Bucket=locked.bucket, Key=second, Body=b"pay us")
    with replace(locked.keepers(tmp_path), ahead=(DAYS + 9) * DAY).open() as installation:
        purged = purge_hidden(installation, "disk", dry_run=True, stop=threading.Event())
        assert second.removeprefix(f"{locked.prefix}/") in purged.written_over
        assert "wrote other bytes over" in " ".join(notes_of(purged))


def test_a_bucket_that_does_not_hold_what_it_is_told_to_is_refused(
    s3_server: S3Server, swift_server: S3Server, tmp_path: Path
) -> None:
    for server, problem in (
        (s3_server, "has no Object Lock"),
        (swift_server, "does not hold it"),
    ):
        disk = S3Target(
            "disk",
            server.create_bucket(),
            endpoint_url=server.endpoint_url,
            credentials_file=server.write_credentials(tmp_path / "plain"),
            path_style=True,
            object_lock_mode="GOVERNANCE",
            object_lock_days=DAYS,
        )
        with pytest.raises(TargetError, match=problem):
            refuse_without_lock(disk, now=time.time())
    with pytest.raises(TargetError, match="`object_lock` is set"):
        make_world(tmp_path / "world", disk=disk, size=1 << 16)
