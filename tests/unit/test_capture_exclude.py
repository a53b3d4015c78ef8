"""Exclude patterns mean what they mean in a .gitignore file."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from backupd.capture.exclude import Exclusion
from backupd.capture.scan import Scanned, ScanOptions, scan
from backupd.errors import ConfigError


def kept(root: Path, *patterns: str) -> set[str]:
    with scan(bytes(root), ScanOptions(exclude=patterns)) as found:
        return {entry.path.decode() for entry in found if isinstance(entry, Scanned)} - {""}


@pytest.mark.parametrize(
    ("patterns", "path", "folder", "excluded"),
    [
        (["*.lock"], b"a/b.lock", False, True),
        (["*.lock"], b"a/b.lock2", False, False),
        (["/tmp-*"], b"tmp-1", True, True),
        (["/tmp-*"], b"a/tmp-1", True, False),
        (["cache/"], b"cache", False, False),
        (["cache/"], b"a/cache", True, True),
        (["*.pt", "!best.pt"], b"best.pt", False, False),
        (["*.pt", "!best.pt"], b"last.pt", False, True),
        (["!best.pt", "*.pt"], b"best.pt", False, True),
        (["a/**/z"], b"a/b/c/z", False, True),
        (["# a comment", "", "x"], b"# a comment", False, False),
        (["*.lock"], b"\xff\xfe.lock", False, True),
        (["*.lock"], b"two\nlines.lock", False, True),
        (["x.lock"], b"x.lock\n", False, False),
        (["a/**"], b"a", True, False),
        (["a/**"], b"a/b", True, True),
        (["a/**"], b"a/b/c", False, True),
        (["foo/*", "!foo/bar/"], b"foo/bar", True, False),
        (["foo/*", "!foo/bar/"], b"foo/bar", False, True),
        (["/*", "!/foo/"], b"foo", True, False),
        (["/*", "!/foo/"], b"foo/x", False, False),
        (["**"], b"a/b", False, True),
        (["*", "!*/", "!*.pt"], b"run/model.pt", False, False),
        (["*", "!*/", "!*.pt"], b"run/notes.txt", False, True),
        (["*", "!*/", "!*.pt"], b"run", True, False),
    ],
)
def test_a_pattern_excludes_what_git_would_ignore(
    patterns: list[str], path: bytes, folder: bool, excluded: bool
) -> None:
    assert Exclusion(patterns).excludes(path, folder=folder) is excluded


@pytest.mark.parametrize(
    "patterns",
    [
        ["tmp-*", "*.lock", "!keep.lock", "/logs/", "runs/*/events", "*.py[co]", "**/old/**"],
        ["*", "!*/", "!*.py", "!x"],
        ["/*", "!/a/", "a/*", "!a/logs"],
        ["runs/**/events", "?.py", "z/**", "a\\b", "[!m]*.lock", "b/"],
        ["a/**", "!a/logs", "*.py", "!runs/**"],
        ["a", "!a/**"],
    ],
)
def test_the_scan_agrees_with_git_on_a_whole_tree(tmp_path: Path, patterns: list[str]) -> None:
    files = [
        "tmp-1", "a/tmp-2/x", "b.lock", "a/keep.lock", "logs/x", "a/logs/x", "runs/1/events",
        "runs/1/2/events", "m.pyc", "m.py", "z/old/deep/file", "old/file", "bold/file",
    ]  # fmt: skip
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    ours = {name for name in kept(tmp_path, *patterns) if name in files}
    (tmp_path / ".gitignore").write_text("\n".join(patterns))
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    listed = subprocess.run(
        ["git", "-C", str(tmp_path), "ls-files", "-o", "--exclude-standard"],
        check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    assert ours == set(listed) - {".gitignore"}
    assert 0 < len(ours) < len(files)


def test_an_excluded_folder_is_not_entered(tmp_path: Path) -> None:
    (tmp_path / "cache" / "deep").mkdir(parents=True)
    (tmp_path / "cache" / "keep.pt").touch()
    assert kept(tmp_path, "cache/", "!keep.pt") == set()


def test_a_pattern_that_is_not_valid_is_named() -> None:
    with pytest.raises(ConfigError, match="'!' is not valid"):
        Exclusion(["*.ok", "!"])


def test_without_patterns_pathspec_is_not_imported() -> None:
    code = (
        "import sys; from backupd.capture.scan import scan;"
        "list(scan(b'/proc/self/fdinfo')); sys.exit('pathspec' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_hundred_thousand_paths_are_decided_in_well_under_a_second() -> None:
    exclusion = Exclusion(["tmp-*", "*.lock", "!keep.lock", "__pycache__/"])
    paths = [b"data/part-%03d/shard-%06d.bin" % (i % 100, i) for i in range(100_000)]
    spent = []
    # The best of three, as a collection of all that a long run holds may fall into any of them.
    for _ in range(3):
        begin = time.process_time()
        assert not any(exclusion.excludes(path, folder=False) for path in paths)
        spent.append(time.process_time() - begin)
    assert min(spent) < 1.0
