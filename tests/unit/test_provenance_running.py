"""Programs that are asked something end in time, say a bounded lot, and run as the owner."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from backupd.capture.provenance.git import without_credentials
from backupd.capture.provenance.running import (
    Account,
    ProgramError,
    Programs,
    account_of,
    working_folder,
)
from tests.unit.daemon_fakes import eventually

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/home/x", "GIT_DIR": "/evil", "LD_PRELOAD": "/x"}
OTHER = Account(12345, 12345, (), "/", "12345")


@pytest.fixture
def programs() -> Programs:
    return Programs(b"/", ENVIRONMENT)


def test_a_program_gets_an_environment_of_its_own(programs: Programs) -> None:
    assert programs.run(["env"]).split(b"\n")[:-1] == [
        b"PATH=/usr/bin:/bin", b"HOME=/home/x", b"LC_ALL=C.UTF-8", b"TZ=UTC",
    ]  # fmt: skip


def command_lines() -> list[bytes]:
    """Those of all processes; some end while they are looked at."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.append(path.read_bytes())
    return found


@pytest.mark.parametrize(
    ("account", "allowed"),
    [(None, True), (OTHER, True), (OTHER, False)],
    ids=["as root", "as another", "as another, whom root may not end"],
)
def test_a_program_that_hangs_is_ended_with_all_it_started(
    account: Account | None, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    killpg = os.killpg

    def refuse(group: int, number: int) -> None:
        if not allowed:
            raise PermissionError  # as in systemd's sandbox, which root cannot be put into here
        killpg(group, number)

    monkeypatch.setattr(os, "killpg", refuse)
    length = 10**6 + os.getpid()
    quick = Programs(b"/", ENVIRONMENT, account, seconds=0.5)
    before = time.monotonic()
    with pytest.raises(ProgramError, match="did not end"):
        quick.run(["sh", "-c", f"sleep {length} & sleep {length}"])
    assert time.monotonic() - before < 60
    # Whoever is killed is there until the kernel has had the time to end it.
    eventually(lambda: b"sleep\x00%d\x00" % length not in command_lines())


def test_a_program_that_says_too_much_is_ended(programs: Programs) -> None:
    with pytest.raises(ProgramError, match="says more than 1,000 bytes"):
        programs.run(["yes"], most_bytes=1000)


def test_what_a_program_said_of_its_failure_is_told(programs: Programs) -> None:
    with pytest.raises(ProgramError, match="fatal: it is so") as caught:
        programs.run(["sh", "-c", "echo fatal: it is so >&2; echo advice >&2; exit 7"])
    assert caught.value.code == 7
    with pytest.raises(ProgramError, match="no-such-program is not installed"):
        programs.run(["no-such-program"])


def test_programs_run_as_the_owner_of_the_folder(tmp_path: Path) -> None:
    os.chown(tmp_path, OTHER.uid, OTHER.gid)
    account = account_of(os.fsencode(tmp_path))
    assert account is not None
    theirs = replace(Programs(b"/", ENVIRONMENT), account=account)
    assert theirs.run(["id", "-u"]) == b"12345\n"
    assert theirs.run(["id", "-G"]).split() == [b"12345"]


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://user:token@host/x.git", "https://host/x.git"),
        ("https://token@host/x.git", "https://host/x.git"),
        ("https://host/x.git?token=1#f", "https://host/x.git"),
        ("ssh://git:pw@host:22/x", "ssh://git@host:22/x"),
        ("ssh://git@host/x", "ssh://git@host/x"),
        ("git@host:team/x.git", "git@host:team/x.git"),
        ("/srv/x.git", "/srv/x.git"),
        ("svn+ssh://me:pw@host/x", "svn+ssh://me@host/x"),
        ("HTTPS://A:B@host/p@th", "HTTPS://host/p@th"),
    ],
)
def test_addresses_are_kept_without_credentials(address: str, shown: str) -> None:
    assert without_credentials(address) == shown


def test_what_a_killed_run_left_is_swept_a_day_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: Programs
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    old, young, other = (tmp_path / f"{name}" for name in ("backupd-code-a", "backupd-code-b", "x"))
    for folder in (old, young, other):
        (folder / "objects").mkdir(parents=True)
        (folder / "objects" / "x").write_text("x")
    for folder in (old, other):
        os.utime(folder, (1, 1))
    with working_folder(programs) as folder:
        assert os.listdir(folder) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backupd-code-b", "x"]
