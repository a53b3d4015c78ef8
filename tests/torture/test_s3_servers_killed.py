"""Real S3 servers killed with `kill -9` and started again in the middle of every verb.

`BACKUPD_TORTURE_ROUNDS` says how often each verb meets it (1); moments are drawn anew from
`BACKUPD_TORTURE_SEED` (1).
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.s3_story import Killable, Story, own_server

pytestmark = [pytest.mark.torture, pytest.mark.timeout(1800)]

ROUNDS = int(os.environ.get("BACKUPD_TORTURE_ROUNDS", "1"))
SEED = int(os.environ.get("BACKUPD_TORTURE_SEED", "1"))


@pytest.fixture(params=["rgw", "swift"])
def rig(request: pytest.FixtureRequest) -> Iterator[Killable]:
    with own_server(request.param) as made:
        yield made


def test_a_server_killed_in_the_middle_of_any_verb_loses_nothing(
    rig: Killable, tmp_path: Path
) -> None:
    story = Story(tmp_path, rig, random.Random(SEED))
    usual = {"snapshot": story.snapshot()}
    story.change()
    story.snapshot()
    usual["restore"] = story.restore(1)
    for number in range(ROUNDS):
        # A process of its own first imports for some half second.
        def moment(verb: str) -> float:
            return 0.4 + story.random.random() * (usual[verb] + 0.2)

        story.change()
        story.snapshot(killed_after=moment("snapshot"))
        story.verify()
        story.restore(max(story.versions), killed_after=moment("restore"))
        story.forget(min(story.versions))
        usual["prune"] = story.do("prune", "--target", "s3")
        story.forget(min(story.versions))
        story.do("prune", "--target", "s3", killed_after=moment("prune"))
        sync_killed(story, number)
        story.change()
        story.snapshot()
        story.verify()


def sync_killed(story: Story, number: int) -> None:
    """A snapshot that only the disk has is copied to the store while that dies."""
    other = story.home / "other"
    for name in ("a.bin", "b.bin", "c.bin"):
        (other / name).write_bytes(story.random.randbytes(8 << 20))
    story.rig.kill()
    answer = story.run("snapshot", "n")
    assert answer.code == 3, answer  # the disk has it, the store is named as lacking it
    assert "s3" in answer.err
    story.rig.restart()
    story.do("sync", "n", "--to", "s3", killed_after=0.4 + story.random.random())
    story.run.ok("sync", "n", "--to", "s3")
    to = story.home / "synced"
    shutil.rmtree(to, ignore_errors=True)
    story.run.ok("restore", f"n@v{number + 1}", "--to", to, "--target", "s3")
    for name in ("a.bin", "b.bin", "c.bin"):
        assert (to / name).read_bytes() == (other / name).read_bytes()
