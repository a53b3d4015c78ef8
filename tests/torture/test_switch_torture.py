"""A hundred switches that are killed: the folder is always wholly one version or wholly the other.

Half die at a step (any call that leaves a trace on the disk), half at a moment of the clock, which
the native threads do not stop for. `BACKUPD_SWITCH_MOMENTS` asks for more than a hundred.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from tests.support.switching import (
    attest,
    killed_after,
    killed_at_step,
    steps_of,
    switched,
    two_versions,
    without_exchange,
)

pytestmark = pytest.mark.torture

MOMENTS = int(os.environ.get("BACKUPD_SWITCH_MOMENTS", "100"))
SEED = 20261126


@pytest.mark.parametrize("exchange", [True, False], ids=["in one step", "in two"])
def test_a_hundred_killed_switches_leave_no_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    world = two_versions(tmp_path / "world", SEED)
    if not exchange:
        without_exchange(monkeypatch)
    rng = random.Random(SEED)
    started = time.monotonic()
    steps = steps_of(lambda: switched(world, "v1"))
    seconds = time.monotonic() - started
    now, kills, ends = 1, 0, {"before": 0, "after": 0}
    for moment in range(MOMENTS):
        wanted = 3 - now

        def act(to: int = wanted) -> None:
            switched(world, f"v{to}")

        if moment % 2:
            kills += killed_at_step(rng.randrange(1, steps + 1), act)
        else:
            kills += killed_after(rng.uniform(0, seconds), act)
        now = attest(world, at_once=exchange)
        ends["after" if now == wanted else "before"] += 1
    assert kills >= MOMENTS // 2, "too few died of it"
    assert all(ends.values()), ends
    world.verify()
    assert world.findings() == []
