"""A real S3 server that dies in the middle of a snapshot and of a restore, and comes back.

The short form of `tests/torture/test_s3_servers_killed.py`.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.support.s3_story import MiB, Story, own_server


@pytest.mark.torture
def test_a_store_that_is_killed_and_comes_back_loses_nothing(tmp_path: Path) -> None:
    with own_server("swift") as rig:
        story = Story(tmp_path, rig, random.Random(7), file_bytes=2 * MiB)
        story.snapshot(killed_after=0.8)
        story.restore(1, killed_after=0.6)
        story.verify()


@pytest.mark.torture
def test_a_claim_that_a_killed_store_keeps_does_not_hold_up_who_made_it(tmp_path: Path) -> None:
    with own_server("swift") as rig:
        story = Story(tmp_path, rig, random.Random(8), file_bytes=1 * MiB)
        for _ in range(8):  # a claim stands for a tenth of a second, which may go unseen
            seconds = story.snapshot(killed_at="claims/")
            assert seconds < 100, "it waited for a claim of its own to be of a dead writer"
            if story.kills:
                break
            story.change()
        assert story.kills
        story.verify()
