"""No snapshot holds a torn checkpoint, whatever library writes it and whenever it is killed.

`BACKUPD_TORN_SNAPSHOTS` is how many snapshots of each of the eleven kinds are taken, and
`BACKUPD_TORN_SEED` where the random moments begin.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.frameworks

SNAPSHOTS = int(os.environ.get("BACKUPD_TORN_SNAPSHOTS", "8"))
SEED = int(os.environ.get("BACKUPD_TORN_SEED", "1"))
KINDS = (
    *("torch", "safetensors", "npz", "keras", "h5", "tf-checkpoint", "saved-model", "shards"),
    *("distributed", "trainer", "lightning"),
)


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kind", KINDS)
def test_every_snapshot_holds_states_that_the_program_saved(kind: str) -> None:
    assert importlib.util.find_spec("torch"), "install the extra `frameworks`"
    done = subprocess.run(
        [sys.executable, "-m", "tests.frameworks.torn", kind, str(SNAPSHOTS), str(SEED)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["torn"] == 0, found["how"]
    code, last_incomplete, last_seen, last_saved = found["last"]
    assert code == 0 and not last_incomplete
    assert last_seen == last_saved, "the state at the end was taken"
    assert found["states"] >= 2, "the test saw too little to tell anything"
