"""Packs in an archive class: asked for, waited for, and given back; what is not needed is left.

No server here has archives: a proxy makes one class of a real server cold (`rigs.glacier`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from backupd.config.settings import LocalTarget, S3Target
from backupd.errors import ColdError
from backupd.operations.check import check
from backupd.operations.forget import forget_snapshots
from backupd.operations.prune import prune
from backupd.operations.repair import repair
from backupd.operations.replicate import replicate
from backupd.operations.setup import initialise
from backupd.operations.undelete import undelete
from backupd.targets.open import open_target
from backupd.targets.s3_cold import ColdBucket, Warmth
from tests.rigs.command_line import CommandLine
from tests.rigs.glacier import Glacier, glacier
from tests.rigs.servers import ACCESS_KEY, SECRET_KEY, S3Server
from tests.support.world import MODEL, PACK_SIZE, World, leave_unprobed, make_world, manifest_of

DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Frozen:
    """A world on a bucket whose packs are cold, and the proxy that makes them so."""

    world: World
    proxy: Glacier
    config: Path
    disk: S3Target

    def run(self, cli: CommandLine, *arguments: str | Path) -> tuple[int, str, str]:
        answer = cli("--config", self.config, *arguments)
        return answer.code, answer.out, answer.err


@pytest.fixture(scope="module")
def made(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Frozen]:
    """Two snapshots that share small files, and not the large one."""
    tmp_path = tmp_path_factory.mktemp("frozen")
    with glacier(s3_server.endpoint_url) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setattr("backupd.repository.pack.PACK_TARGET_SIZE", PACK_SIZE)
        leave_unprobed(patch)
        disk = S3Target(
            "disk",
            s3_server.create_bucket(),
            prefix="box1",
            endpoint_url=proxy.endpoint_url,
            credentials_file=s3_server.write_credentials(tmp_path / "credentials"),
            path_style=True,
            storage_class="GLACIER",
        )
        world = make_world(tmp_path / "world", disk=disk, size=1 << 18, keys_seed=1)
        world.snapshot()
        weights = world.model_path / "weights.bin"
        weights.write_bytes(random.Random(4).randbytes(weights.stat().st_size))
        world.snapshot()
        config = tmp_path / "backupd.yaml"
        config.write_text(
            f"host: box\nstate_dir: {world.root}/state\nkey: {{file: {world.root}/key}}\n"
            f"targets:\n  disk: {{type: s3, bucket: {disk.bucket}, prefix: box1,"
            f" endpoint_url: '{proxy.endpoint_url}', credentials_file: {disk.credentials_file},"
            " path_style: true, storage_class: GLACIER}\n"
            "policies: {all: {keep_last: 9}}\n"
            f"models: {{m: {{path: {world.model_path}, targets: {{disk: all}}}}}}\n"
        )
        yield Frozen(world, proxy, config, disk)


@pytest.fixture
def frozen(made: Frozen) -> Frozen:
    """The same for each test, with nothing asked for."""
    made.proxy.asked.clear()
    made.proxy.refused.clear()
    made.proxy.thaw_seconds = 3600.0
    return made


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    home = tmp_path / "home"
    home.mkdir()
    return CommandLine(home, in_process=True)


def boto_client(frozen: Frozen) -> Any:
    """A client that goes past the proxy."""
    assert frozen.disk.credentials_file is not None
    server = S3Server(f"http://{frozen.proxy.upstream}", ACCESS_KEY, SECRET_KEY)
    return server.client()


def cold_packs(frozen: Frozen) -> set[str]:
    return {path for path in frozen.proxy.cold if "/packs/" in path}


def test_a_restore_asks_for_what_it_needs_and_goes_on_when_it_is_thawed(
    frozen: Frozen, cli: CommandLine, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    restore = ("restore", "m@v2", "--to", out)
    code, said, warned = frozen.run(cli, *restore)
    assert code == 3
    assert not out.exists()
    asked = dict(frozen.proxy.asked)
    # Only packs, and not those that only the other snapshot needs.
    assert asked and asked.keys() < cold_packs(frozen)
    assert {tier for _, tier in asked.values()} == {"Standard"}
    assert "must be thawed" in warned and "GLACIER" in warned
    assert "within 5 h" in said and "$" in said and "run the same restore again" in said
    # Asking twice asks for nothing new, and says so.
    code, said, _ = frozen.run(cli, *restore)
    assert code == 3 and "were asked for already" in said
    assert frozen.proxy.asked == asked
    frozen.proxy.thaw_seconds = 0
    code, said, _ = frozen.run(cli, *restore)
    assert code == 0, said
    assert manifest_of(out) == frozen.world.expected[2]
    assert frozen.proxy.asked == asked


def test_what_describes_a_snapshot_is_never_cold(frozen: Frozen, cli: CommandLine) -> None:
    before = len(frozen.proxy.gets)
    for command in (
        ("list",),
        ("show", "m@v1"),
        ("files", "m@v1"),
        ("diff", "m@v1", "m@v2"),
        ("restore", "m@v1", "--to", "/nowhere", "--dry-run", "--thaw", "no"),
    ):
        code, _, err = frozen.run(cli, *command)
        assert code == 0 or command[0] == "diff", (command, err)
    assert len(frozen.proxy.gets) > before
    assert not any("/index/" in path or "/snapshots/" in path for path in frozen.proxy.cold)


def test_the_choice_of_tiers_is_shown_before_anything_is_asked_for(
    frozen: Frozen, cli: CommandLine, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, said, _ = frozen.run(cli, "restore", "m@v2", "--to", out, "--thaw", "no")
    assert code == 3 and not frozen.proxy.asked
    for tier, hours in (("expedited", "5 min"), ("standard", "5 h"), ("bulk", "12 h")):
        assert f"--thaw {tier}: within {hours}" in said
    code, said, _ = frozen.run(
        cli, "--json", "restore", "m@v2", "--to", out, "--thaw", "bulk", "--include", "logs/*.json"
    )
    assert code == 3
    assert '"tier": "bulk"' in said
    some = len(frozen.proxy.asked)
    assert {tier for _, tier in frozen.proxy.asked.values()} == {"Bulk"}
    frozen.run(cli, "restore", "m@v2", "--to", out)
    assert len(frozen.proxy.asked) > some


def test_with_wait_a_restore_goes_on_by_itself(
    frozen: Frozen, cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backupd.operations.thaw._LOOK_SECONDS", 0.05)
    frozen.proxy.thaw_seconds = 1.0
    out = tmp_path / "out"
    code, _, err = frozen.run(cli, "restore", "m@v1", "--to", out, "--wait")
    assert code == 0, err
    assert manifest_of(out) == frozen.world.expected[1]


def test_packs_that_a_rule_of_the_bucket_moved_are_met_and_asked_for(
    frozen: Frozen, cli: CommandLine, tmp_path: Path
) -> None:
    config = tmp_path / "backupd.yaml"
    config.write_text(frozen.config.read_text().replace(", storage_class: GLACIER", ""))
    frozen = replace(frozen, config=config)
    out = tmp_path / "out"
    code, _, err = frozen.run(cli, "restore", "m@v1", "--to", out)
    assert code == 3
    assert "archive class" in err and frozen.proxy.asked
    # A pack that was found cold is not asked for its bytes again and again.
    assert len(frozen.proxy.refused) <= 2 * len(set(frozen.proxy.refused))
    frozen.proxy.thaw_seconds = 0
    code, _, err = frozen.run(cli, "restore", "m@v1", "--to", out)
    assert code == 0, err
    assert manifest_of(out) == frozen.world.expected[1]


def test_check_sync_and_prune_do_not_trip_over_cold_packs(frozen: Frozen, tmp_path: Path) -> None:
    with frozen.world.open() as installation:
        report = check(installation, "disk", read_data_percent=100)
        assert report.clean
        assert any("archive class and are not read" in f.problem for f in report.findings)
        assert report.read_bytes > 0  # the packs of trees are not cold
        forget_snapshots(installation, [f"{MODEL}@v1"])
    frozen.world.expected.pop(1)
    for days in (2, 4):
        later = replace(frozen.world, ahead=days * DAY)
        with later.open() as installation:
            pruned = prune(installation, "disk")
    # What nobody needs is deleted; what is half needed is not read to be written anew.
    assert pruned.packs_deleted
    assert not frozen.proxy.refused
    more = {**frozen.world.targets, "copy": LocalTarget("copy", tmp_path / "copy")}
    with replace(frozen.world, targets=more).open() as installation:
        initialise(installation)
        (result,) = replicate(installation, "disk", "copy")
        assert "archive class" in result.error
        frozen.proxy.thaw_seconds = 0
        for path in frozen.proxy.cold:
            frozen.proxy.asked.setdefault(path, (0.0, "Standard"))
        (result,) = replicate(installation, "disk", "copy")
        assert not result.error
        # A cold pack that is lost comes back from the copy, under its name and then in a new one.
        client = boto_client(frozen)
        frozen.proxy.thaw_seconds = 3600.0
        frozen.proxy.asked.clear()
        with_bucket = f"/{frozen.disk.bucket}/"
        lost = [path.removeprefix(with_bucket) for path in sorted(cold_packs(frozen))]
        there = [info.name for info in installation.target("disk").list("packs/") if info.cold]
        lost = [key for key in lost if key.removeprefix("box1/") in there][:2]
        for key in lost:
            client.delete_object(Bucket=frozen.disk.bucket, Key=key)
        assert not check(installation, "disk").clean
        mended = repair(installation, "disk", sources=["copy"])
        assert mended.mended and not mended.lost
        assert check(installation, "disk", read_data_percent=100).clean


def test_cold_packs_that_somebody_deleted_are_thawed_and_unmarked(
    frozen: Frozen, s3_server: S3Server, tmp_path: Path
) -> None:
    bucket = s3_server.create_bucket(ObjectLockEnabledForBucket=True)
    settings = replace(frozen.disk, bucket=bucket, name="s3")
    target = open_target(settings)
    target.put("packs/aa/a", [b"cold"])
    good = time.time()
    time.sleep(0.05)
    s3_server.client().delete_object(Bucket=bucket, Key="box1/packs/aa/a")
    past = replace(settings, as_of=good)
    with pytest.raises(ColdError):
        open_target(past).get("packs/aa/a", 9)
    cold = ColdBucket(past)
    state = cold.state("packs/aa/a")
    assert (state.warmth, state.storage_class) == (Warmth.COLD, "GLACIER")
    cold.thaw(state, tier="bulk", days=1)
    assert cold.state("packs/aa/a").warmth is Warmth.THAWING
    frozen.proxy.thaw_seconds = 0
    assert cold.state("packs/aa/a").warmth is Warmth.READY
    assert open_target(past).get("packs/aa/a", 9) == b"cold"
    # No copy is made, which would have to be thawed first: the mark goes.
    frozen.proxy.asked.clear()
    frozen.proxy.thaw_seconds = 3600
    world = replace(frozen.world, targets={"s3": settings})
    with world.open() as installation:
        report = undelete(installation, "s3", as_of=good)
    assert report.brought_back == ("packs/aa/a",) and not report.failed
    found = target.stat("packs/aa/a")
    assert found is not None and found.cold
