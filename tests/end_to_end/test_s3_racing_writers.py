"""Boxes that take one another's version number at the same moment: none is shared, none is lost.

A model belongs to a host, so such a race needs a box that was cloned, or two daemons on one; on
servers that let one of racing writers win, that let several win, and that ignore conditions.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backupd.config.settings import KeySettings, ModelSettings, S3Target, Settings
from backupd.operations.catalog import list_snapshots
from backupd.operations.check import check
from backupd.operations.installation import Installation
from backupd.operations.resolve import resolve
from backupd.operations.restore import RestoreRequest, restore
from backupd.operations.setup import initialise
from backupd.operations.snapshot import take_snapshot
from tests.rigs.servers import S3Server

WRITERS = 4
ROUNDS = 2


def settings_of(root: Path, target: S3Target, number: int) -> Settings:
    """A box that believes to be the same as all the others, with a folder of its own."""
    model = ModelSettings("m", root / f"model{number}", {"s3": ()})
    return Settings(
        source=root / "backupd.yaml",
        state_dir=root / f"state{number}",
        host="box",
        key=KeySettings(file=root / "key"),
        targets={"s3": target},
        policies={},
        models={"m": model},
    )


def opened(settings: Settings) -> Installation:
    return Installation(settings, environment={}, clock=time.time)


@pytest.mark.parametrize(
    "server",
    [
        # Where one wins by the server's own doing, the contract has the race already.
        pytest.param("s3_server", marks=pytest.mark.torture),
        "swift_server",
        "rclone_server",
    ],
)
def test_writers_that_race_for_a_version_each_get_one_of_their_own(
    server: str, request: pytest.FixtureRequest, tmp_path: Path, at_once: Any
) -> None:
    store: S3Server = request.getfixturevalue(server)
    target = S3Target(
        "s3",
        store.create_bucket(),
        prefix="race",
        endpoint_url=store.endpoint_url,
        credentials_file=store.write_credentials(tmp_path / "credentials"),
        path_style=True,
    )
    boxes = [settings_of(tmp_path, target, number) for number in range(WRITERS)]
    with opened(boxes[0]) as installation:
        initialise(installation)

    def work(number: int) -> list[int]:
        box = boxes[number]
        folder = box.models["m"].path
        folder.mkdir()
        taken = []
        with opened(box) as installation:
            for round_ in range(ROUNDS):
                (folder / "who").write_text(f"box {number}, round {round_}\n")
                report = take_snapshot(installation, box.models["m"])
                assert report.snapshot is not None
                assert not report.partial
                taken.append(report.snapshot.version)
        return taken

    results = at_once(WRITERS, work)
    assert all(isinstance(result, list) for result in results), results
    taken = {
        version: f"box {number}, round {round_}\n"
        for number, versions in enumerate(results)
        for round_, version in enumerate(versions)
    }
    assert len(taken) == WRITERS * ROUNDS, f"a version number was shared: {results}"
    reader = replace(boxes[0], state_dir=tmp_path / "fresh")
    with opened(reader) as installation:
        listed = {info.version for info in list_snapshots(installation, model="m")}
        assert listed == set(taken)
        for version, content in taken.items():
            to = tmp_path / "restored" / str(version)
            restore(installation, resolve(installation, f"m@v{version}"), RestoreRequest(to=to))
            assert (to / "who").read_text() == content
        assert check(installation, "s3", read_data_percent=100).clean
        assert not list(installation.target("s3").list("claims/")), "a claim was left behind"
