"""One verb on a world in a process of its own: `python -m tests.support.measured ROOT VERB`.

Prints the most memory that the process ever held, in bytes: VmHWM of proc(5), as ru_maxrss of
getrusage(2) begins with what the parent held when it forked.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from backupd.config.settings import LocalTarget
from backupd.operations.resolve import resolve
from backupd.operations.restore import RestoreRequest, restore
from backupd.operations.snapshot import take_snapshot
from tests.support.world import MODEL, World

REPOSITORY = Path(__file__).parents[2]


def peak_bytes(world: World, verb: str) -> int:
    """What `verb` (snapshot, restore) takes of memory at most."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.measured", str(world.root), verb],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def main(root: Path, verb: str) -> None:
    world = World(root, {"disk": LocalTarget("disk", root / "repo")})
    with world.open() as installation:
        if verb == "snapshot":
            report = take_snapshot(installation, world.settings.models[MODEL])
            assert report.snapshot is not None and not report.partial
        else:
            snapshot = resolve(installation, f"{MODEL}@latest")
            request = RestoreRequest(to=root / "restored", overwrite=True)
            assert not restore(installation, snapshot, request).failed
    lines = Path("/proc/self/status").read_text().splitlines()
    print(1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
