"""Makes `golden.tar.gz` and `expected.json`: a repository whose snapshot keeps code and findings.

Run once, as `python -m tests.golden.code1.make`; what it made is read by every later version.
"""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

from tests.support.coded import make_coded
from tests.support.repositories import dirty, start

GOLDEN = Path(__file__).parent


def tree_of(folder: Path) -> dict[str, str]:
    """Texts by path, the target of a link behind an arrow."""
    found = {}
    for path in sorted(folder.rglob("*")):
        place = str(path.relative_to(folder))
        if path.is_symlink():
            found[place] = f"-> {os.readlink(path)}"
        elif path.is_file() and path.name != "environment.json":
            found[place] = path.read_text()
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as made:
        coded = make_coded(Path(made))
        start(coded.code)
        (coded.code / "link").symlink_to("train.py")
        dirty(coded.code)
        (coded.world.model_path / "evil.pkl").write_bytes(b"cposix\nsystem\n(S'true'\ntR.")
        (coded.world.model_path / ".env").write_text("A=1\n")
        report = coded.snapshot("commit", scheme="everything")
        assert report.snapshot
        world = coded.world.root
        with tarfile.open(GOLDEN / "golden.tar.gz", "w:gz") as tar:
            tar.add(world / "repo", "repo")
            tar.add(world / "key", "key")
        subprocess.run(["rm", "-rf", coded.code / ".git"], check=True)
        kept = tree_of(coded.code)
        del kept["run.log"]
        expected = {
            "source": kept,
            "commit": report.snapshot.code["commit"],
            "side_commit": report.snapshot.code["side_commit"],
            "findings": [[f.path, f.level, f.what] for f in report.snapshot.findings],
            "skipped": list(report.snapshot.skipped),
        }
        text = json.dumps(expected, indent=1, sort_keys=True)
        (GOLDEN / "expected.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
