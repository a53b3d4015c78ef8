from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from backupd.daemon.mounts import parse_mounts, remote_mount
from backupd.daemon.watcher import Mode, ModelWatch, WatchState
from tests.unit.daemon_fakes import PATIENCE_SECONDS, eventually, model

Watching = Callable[..., ModelWatch]


@pytest.fixture
def watching() -> Iterator[Watching]:
    """A watch that is begun, has been waited for, and whose marks have been taken."""
    made: list[ModelWatch] = []

    def begin(path: Path, mode: Mode = Mode.WATCHING, **options: Any) -> ModelWatch:
        changes = options.pop("model", {})
        watch = ModelWatch(model(path, **changes), look_seconds=0.05, **options)
        made.append(watch)
        assert watch.seen().changed, "what changed before the watch is not known"
        watch.start()
        eventually(lambda: watch.state.mode is mode)
        watch.take()
        return watch

    yield begin
    for watch in made:
        watch.stop()


def folder(tmp_path: Path) -> Path:
    made = tmp_path / "run"
    (made / "checkpoint-1").mkdir(parents=True)
    (made / "checkpoint-1" / "weights").write_bytes(b"1")
    return made


CHANGES: dict[str, Callable[[Path], object]] = {
    "written in place": lambda run: (run / "checkpoint-1" / "weights").write_bytes(b"2"),
    "a new file": lambda run: (run / "new").touch(),
    "a new folder": lambda run: (run / "checkpoint-2").mkdir(),
    "deleted": lambda run: (run / "checkpoint-1" / "weights").unlink(),
    "renamed": lambda run: (run / "checkpoint-1").rename(run / "final"),
    "chmod": lambda run: (run / "checkpoint-1" / "weights").chmod(0o600),
    "a link": lambda run: (run / "latest").symlink_to("checkpoint-1"),
    "moved away": lambda run: (run / "checkpoint-1").rename(run.parent / "elsewhere"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_marks_the_model(tmp_path: Path, watching: Watching, change: str) -> None:
    run = folder(tmp_path)
    watch = watching(run)
    assert watch.seen().reliable
    assert not watch.seen().changed
    CHANGES[change](run)
    eventually(lambda: watch.seen().changed)


def test_a_file_that_is_appended_to_and_stays_open_marks_the_model(
    tmp_path: Path, watching: Watching
) -> None:
    run = folder(tmp_path)
    with (run / "log").open("ab", buffering=0) as log:
        watch = watching(run)
        log.write(b"step 1")
        eventually(lambda: watch.seen().changed)


def test_a_folder_made_later_is_watched_too(tmp_path: Path, watching: Watching) -> None:
    run = folder(tmp_path)
    watch = watching(run)
    (run / "a" / "b" / "c").mkdir(parents=True)
    eventually(lambda: watch.seen().changed)
    time.sleep(0.2)
    watch.take()
    (run / "a" / "b" / "c" / "deep").touch()
    eventually(lambda: watch.seen().changed)


def test_reading_is_no_change(tmp_path: Path, watching: Watching) -> None:
    run = folder(tmp_path)
    watch = watching(run)
    for _ in range(3):
        assert (run / "checkpoint-1" / "weights").read_bytes() == b"1"
        assert sorted(os.listdir(run)) == ["checkpoint-1"]
    time.sleep(0.3)
    assert not watch.seen().changed


def test_what_is_excluded_does_not_mark_the_model(tmp_path: Path, watching: Watching) -> None:
    run = folder(tmp_path)
    (run / "tmp-2").mkdir()
    watch = watching(run, model={"exclude": ("tmp-*", "*.lock")})
    (run / "tmp-1").mkdir()
    (run / "tmp-2" / "part").write_bytes(b"x")
    (run / "train.lock").touch()
    (run / "train.lock").unlink()
    time.sleep(0.4)
    assert not watch.seen().changed
    (run / "tmp-2" / "part").rename(run / "weights")
    eventually(lambda: watch.seen().changed)


def test_a_folder_that_goes_and_comes_back_is_told_and_watched_again(
    tmp_path: Path, watching: Watching
) -> None:
    run = folder(tmp_path)
    told: list[WatchState] = []
    watch = watching(run, on_state=told.append)
    shutil.rmtree(run)
    eventually(lambda: watch.state.mode is Mode.MISSING)
    assert str(run) in watch.state.why
    assert not watch.seen().reliable
    folder(tmp_path)
    eventually(lambda: watch.state.mode is Mode.WATCHING)
    assert watch.seen().changed
    watch.take()
    (run / "new").touch()
    eventually(lambda: watch.seen().changed)
    modes = [Mode.WATCHING, Mode.MISSING, Mode.WATCHING]
    # A state is told of just after it can be seen.
    eventually(lambda: len(told) == len(modes))
    assert [state.mode for state in told] == modes


def test_a_link_that_is_turned_to_another_folder_is_followed(
    tmp_path: Path, watching: Watching
) -> None:
    folder(tmp_path)
    (tmp_path / "other").mkdir()
    current = tmp_path / "current"
    current.symlink_to("run")
    watch = watching(current)
    (tmp_path / "next").symlink_to("other")
    (tmp_path / "next").rename(current)
    eventually(lambda: watch.seen().changed)
    eventually(lambda: watch.seen().reliable)
    time.sleep(0.3)
    watch.take()
    (tmp_path / "other" / "file").touch()
    eventually(lambda: watch.seen().changed)


def test_a_model_that_is_absent_at_the_start_is_watched_when_it_comes(
    tmp_path: Path, watching: Watching
) -> None:
    watch = watching(tmp_path / "run", Mode.MISSING)
    folder(tmp_path)
    eventually(lambda: watch.state.mode is Mode.WATCHING)
    assert watch.seen().changed


def test_a_network_mount_is_polled_and_says_so(tmp_path: Path, watching: Watching) -> None:
    run = folder(tmp_path)
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 8:1 / / rw - ext4 /dev/root rw\n"
        f"2 1 0:9 / {tmp_path} rw shared:1 master:2 - nfs4 server:/export rw\n"
    )
    watch = watching(run, Mode.POLLING, mountinfo=mounts)
    assert not watch.seen().reliable
    assert "nfs4" in watch.state.why


def test_where_inotify_has_no_room_the_model_is_polled_and_says_so(
    tmp_path: Path, watching: Watching
) -> None:
    answers = iter(["", "", ""])
    watch = watching(folder(tmp_path), probe=lambda path: next(answers, "the limit is reached"))
    # Met later, as another program takes the last watches.
    eventually(lambda: watch.state.mode is Mode.POLLING)
    assert watch.state.why == "the limit is reached"
    assert watch.seen().changed
    assert not watch.seen().reliable


_IN_A_SMALL_NAMESPACE = """
import sys, time
from pathlib import Path
from backupd.daemon.watcher import ModelWatch, Mode, probe_inotify
from tests.unit.daemon_fakes import eventually, model
Path("/proc/sys/user/max_inotify_watches").write_text("20")
run = Path(sys.argv[1])
watch = ModelWatch(model(run), look_seconds=0.05)
watch.start()
eventually(lambda: watch.state.mode is Mode.WATCHING)
for number in range(30):
    (run / str(number)).mkdir()
eventually(lambda: watch.state.mode is Mode.POLLING)
print(watch.state.why)
assert not watch.seen().reliable
"""


def test_the_kernel_s_own_limit_is_noticed_also_when_it_is_reached_later(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            "unshare",
            "--user",
            "--map-root-user",
            sys.executable,
            "-c",
            _IN_A_SMALL_NAMESPACE,
            str(folder(tmp_path)),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert "max_user_watches" in done.stdout


def test_the_probe_leaves_nothing_open(tmp_path: Path) -> None:
    # In a process of its own, as in this one other threads open and close files.
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from backupd.daemon.watcher import probe_inotify\n"
        "before = os.listdir('/proc/self/fd')\n"
        "assert probe_inotify(Path(sys.argv[1])) == ''\n"
        "assert probe_inotify(Path(sys.argv[1], 'absent'))\n"
        "assert os.listdir('/proc/self/fd') == before\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], check=True, cwd=Path(__file__).parents[2]
    )


def test_beginning_a_watch_returns_at_once(tmp_path: Path) -> None:
    # A path on a dead mount would hang where a FIFO's reader does not exist: use a probe that does.
    answers = threading.Event()

    def probe(path: Path) -> str:
        answers.wait(PATIENCE_SECONDS)
        return ""

    watch = ModelWatch(model(folder(tmp_path)), look_seconds=0.05, probe=probe)
    watch.start()
    assert watch.state.mode is Mode.STARTING
    assert not watch.seen().reliable
    answers.set()
    eventually(lambda: watch.state.mode is Mode.WATCHING)
    watch.stop()


MOUNTS = parse_mounts(
    r"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:25 / /mnt/my\040nas rw - nfs4 server:/export rw,vers=4.2
31 22 0:26 / /home rw - fuse.sshfs me@host: rw
32 31 8:2 / /home/ml rw - xfs /dev/sdb1 rw
33 22 0:27 / /data rw - fuse.mergerfs pool rw
34 22 0:28 / /srv rw - 9p host rw
35 34 8:3 / /srv rw - btrfs /dev/sdc rw
broken line
"""
)


@pytest.mark.parametrize(
    ("path", "below", "expected"),
    [
        ("/var/run", False, None),
        ("/mnt/my nas/run", False, "nfs4"),
        ("/home/me", False, "fuse.sshfs"),
        ("/home/ml/run", False, None),
        ("/homework", False, None),
        ("/data/run", False, None),
        ("/srv/run", False, None),
        ("/mnt", False, None),
        ("/mnt", True, "nfs4"),
    ],
)
def test_the_filesystem_under_a_path_is_found(path: str, below: bool, expected: str | None) -> None:
    found = remote_mount(PurePosixPath(path), MOUNTS, below=below)
    assert (found.type if found else None) == expected
