"""What commands answer in every situation: exit codes, sentences, one JSON document, pipes."""

from __future__ import annotations

import json
import os
import pty
import random
import select
import shutil
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path

import pytest

from tests.rigs.command_line import Answer, CommandLine


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """A home with a model `llama` of three versions; tests leave it as it was."""
    base = tmp_path_factory.mktemp("answers")
    backupd = CommandLine(base / "home", in_process=True)
    backupd.home.mkdir()
    model = base / "llama"
    model.mkdir()
    # The same noise each time: some of it begins as a pickle does, and is told of.
    noise = random.Random(1)
    (model / "weights.bin").write_bytes(noise.randbytes(300_000))
    backupd.ok("quickstart", model, "--once")
    (model / "weights.bin").write_bytes(noise.randbytes(300_000))
    backupd.ok("snapshot", "--label", "release=1.0", "--metric", "loss=1.5")
    (model / "notes.txt").write_text("third\n")
    backupd.ok("snapshot", "--metric", "loss=1.25")
    return backupd


@pytest.fixture
def copied(made: CommandLine, tmp_path: Path) -> CommandLine:
    """A copy of it whose repository may be harmed."""
    shutil.copytree(made.home, tmp_path / "home", symlinks=True)
    backupd = CommandLine(tmp_path / "home", in_process=True)
    text = backupd.config.read_text().replace(str(made.home), str(backupd.home))
    backupd.config.write_text(text)
    return backupd


def model_folder(backupd: CommandLine) -> Path:
    return Path(str(backupd.ok("show", "llama@v1", "--json").document["snapshot"]["root"]))


def test_an_unknown_snapshot_is_4_with_the_nearest_names(made: CommandLine) -> None:
    for command in (["show"], ["files"], ["restore"], ["forget"]):
        answer = made(*command, "llama@v9")
        assert answer.code == 4
        assert "llama@v9" in answer.err
        assert "llama@v3" in answer.err


@pytest.mark.parametrize("command", ["list", "snapshot", "policy"])
def test_an_unknown_model_is_4_with_the_nearest_name(made: CommandLine, command: str) -> None:
    answer = made(command, "lama")
    assert answer.code == 4
    assert "'lama'" in answer.err
    assert "llama" in answer.err.splitlines()[1]


def test_a_wrong_passphrase_is_6(made: CommandLine, tmp_path: Path) -> None:
    place = ("--repository", made.repository)
    for command in (["list"], ["restore", "llama@v1", "--to", tmp_path / "to"], ["check"]):
        answer = made(*command, *place, BACKUPD_PASSPHRASE="wrong")
        assert answer.code == 6, answer
    assert not (tmp_path / "to").exists()


def test_no_key_at_all_is_6_and_says_where_one_is_looked_for(made: CommandLine) -> None:
    answer = made("list", "--repository", made.repository)
    assert answer.code == 6
    assert "BACKUPD_KEY_FILE" in answer.err


def test_an_absent_mount_is_5(copied: CommandLine, tmp_path: Path) -> None:
    text = copied.config.read_text().replace("type: local", "type: nas")
    copied.config.write_text(text)
    for command in (["list"], ["snapshot"], ["restore", "llama@v1"], ["check"]):
        answer = copied(*command)
        assert answer.code == 5, answer
        assert "mount" in answer.err


def test_no_repository_at_the_place_is_an_error_without_a_traceback(
    made: CommandLine, tmp_path: Path
) -> None:
    answer = made("list", "--repository", tmp_path / "none", BACKUPD_PASSPHRASE="x")
    assert answer.code == 5
    assert str(tmp_path / "none") in answer.err


def test_a_broken_configuration_is_2_with_file_and_line(copied: CommandLine) -> None:
    text = copied.config.read_text().replace("schedule:", "shedule:")
    copied.config.write_text(text)
    line = next(n for n, shown in enumerate(text.splitlines(), 1) if "shedule:" in shown)
    answer = copied("list")
    assert answer.code == 2
    assert answer.err.startswith(f"error: {copied.config}:{line}: ")
    checked = copied("config", "check", "--json")
    assert checked.code == 2
    assert [p["line"] for p in checked.document["problems"]] == [line]


def test_a_damaged_pack_is_found_by_check_and_named_by_restore(
    copied: CommandLine, tmp_path: Path
) -> None:
    largest = max(copied.repository.glob("packs/*/*"), key=lambda path: path.stat().st_size)
    spoiled = bytearray(largest.read_bytes())
    spoiled[1000] ^= 1
    largest.chmod(0o600)
    largest.write_bytes(spoiled)
    assert copied("check", "--read-data").code == 7
    assert copied("check", "--read-data", "--json").document["clean"] is False
    answers = [
        copied("restore", f"llama@v{version}", "--to", tmp_path / f"v{version}")
        for version in (1, 2, 3)
    ]
    assert {answer.code for answer in answers} == {0, 3}
    failed = [answer for answer in answers if answer.code == 3]
    assert all("weights.bin: " in answer.err for answer in failed)


@pytest.fixture
def doubled(copied: CommandLine) -> CommandLine:
    """The copy with a second target `other`, which holds nothing yet."""
    text = copied.config.read_text()
    other = copied.home / "other"
    text = text.replace("targets:\n", f"targets:\n  other: {{type: local, path: {other}}}\n", 1)
    text = text.replace("targets: {disk: working}", "targets: {disk: working, other: working}")
    copied.config.write_text(text)
    assert "other: made a repository" in copied.ok("init").out
    return copied


def test_sync_brings_a_new_target_up_to_date_and_restore_names_it_when_the_first_is_damaged(
    doubled: CommandLine, tmp_path: Path
) -> None:
    answer = doubled.ok("sync")
    assert "disk to other: copied 3 snapshots" in answer.out
    assert "disk to other: nothing was missing" in doubled.ok("sync").out
    assert (
        doubled.ok("list", "--target", "other", "--json").document["snapshots"][2]["version"] == 3
    )
    for pack in doubled.repository.glob("packs/*/*"):
        if pack.stat().st_size > 100_000:
            pack.unlink()
    answer = doubled("restore", "llama@v1", "--to", tmp_path / "v1", "--target", "disk")
    assert answer.code == 3
    assert answer.err.count("weights.bin") == 1
    assert "hint: it may be whole on other: --target other" in answer.err
    doubled.ok("restore", "llama@v1", "--to", tmp_path / "v1", "--target", "other")
    assert (tmp_path / "v1/weights.bin").stat().st_size == 300_000


def test_a_target_that_is_away_is_named_and_the_rest_is_done(doubled: CommandLine) -> None:
    text = doubled.config.read_text()
    doubled.config.write_text(text.replace("other: {type: local", "other: {type: nas"))
    listed = doubled.ok("list")
    assert "llama@v3" in listed.out
    assert "not looked at: " in listed.err
    for command in (["snapshot"], ["check"], ["prune"], ["sync"]):
        answer = doubled(*command)
        assert answer.code in (3, 5), command
        assert answer.err.count("cannot be reached") == 1, (command, answer.err)
    assert doubled("sync", "--to", "other").code == 5
    status = doubled.ok("status", "--json").document
    assert [target["error"] is None for target in status["targets"]] == [False, True]


def test_restore_refuses_to_overwrite_and_says_the_mend(made: CommandLine) -> None:
    model = model_folder(made)
    before = {path: path.read_bytes() for path in model.iterdir()}
    answer = made("restore", "llama@v1")
    assert answer.code == 1
    assert "weights.bin" in answer.err
    assert "--overwrite" in answer.err
    assert "--to DIR" in answer.err
    assert {path: path.read_bytes() for path in model.iterdir()} == before


def test_a_dry_run_tells_each_file_and_writes_none(made: CommandLine, tmp_path: Path) -> None:
    model = model_folder(made)
    before = {path: path.read_bytes() for path in model.iterdir()}
    answer = made.ok("restore", "llama@v1", "--overwrite", "--dry-run")
    assert "overwrite  300 kB  weights.bin" in answer.out
    assert "nothing was written" in answer.out
    assert {path: path.read_bytes() for path in model.iterdir()} == before
    made.ok("restore", "llama@v1", "--to", tmp_path / "to", "--dry-run")
    assert not (tmp_path / "to").exists()


def test_restore_takes_the_files_that_were_asked_for(made: CommandLine, tmp_path: Path) -> None:
    made.ok("restore", "llama@v3", "--to", tmp_path / "a", "--include", "*.txt")
    made.ok("restore", "llama@v3", "--to", tmp_path / "b", "--exclude", "*.txt")
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"notes.txt"}
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"weights.bin"}


def test_snapshots_are_named_in_every_way_that_the_help_tells(made: CommandLine) -> None:
    def version(name: str) -> int:
        return int(made.ok("show", name, "--json").document["snapshot"]["version"])

    snapshots = made.ok("list", "--json").document["snapshots"]
    day = snapshots[0]["time"][:10].replace("-", "")
    assert version("llama@v1") == 1
    assert version("llama@latest") == 3
    assert version("llama") == 3
    assert version("llama@release") == 2
    assert version("llama@release=1.0") == 2
    assert version("llama@best:loss") == 3
    assert version("llama@2999-01-01") == 3
    assert version(f"{snapshots[0]['host']}:llama@v1") == 1
    assert version(f"llama_{day}_v2") == 2
    assert version(snapshots[1]["id"][:12]) == 2


@pytest.mark.parametrize(
    "command",
    [
        ["list"],
        ["list", "llama", "--label", "release"],
        ["show", "llama@v1"],
        ["files", "llama@v3"],
        ["files", "llama@v3", "*.none"],
        ["snapshot"],
        ["restore", "llama@v3"],
        ["restore", "llama@v3", "--dry-run"],
        ["forget", "--dry-run"],
        ["policy", "llama", "--simulate", "30d"],
        ["prune", "--dry-run"],
        ["check", "--read-data", "50%"],
        ["status"],
        ["config", "check"],
        ["key", "list"],
        ["key", "export"],
        ["sync"],
        ["init"],
        ["show", "nothing@v1"],
        ["no-such-command"],
    ],
    ids=" ".join,
)
def test_with_json_there_is_exactly_one_document(made: CommandLine, command: list[str]) -> None:
    answer = made("--json", *command)
    assert isinstance(answer.document, dict)
    assert ("error" in answer.document) == (answer.code not in (0, 3, 7))
    if answer.code == 0:
        assert answer.err == ""


def test_quiet_leaves_only_answers(made: CommandLine) -> None:
    assert made.ok("-q", "snapshot").out == ""
    assert made.ok("-q", "check").out == ""
    assert "llama@v3" in made.ok("-q", "list").out


def test_labels_are_set_found_and_taken_off(copied: CommandLine) -> None:
    copied.ok("label", "llama@v1", "keep=yes", "by=me")
    assert "by=me, keep=yes" in copied.ok("list", "--label", "keep").out
    copied.ok("label", "llama@v1", "--remove", "keep")
    assert "no snapshot fits" in copied.ok("list", "--label", "keep").out
    assert "by=me" in copied.ok("show", "llama@v1").out


def test_what_is_forgotten_is_gone_and_its_number_is_not_used_again(copied: CommandLine) -> None:
    shown = copied.ok("forget", "llama@v3", "--dry-run")
    assert "would forget" in shown.out
    assert "llama@v3" in copied.ok("list").out
    copied.ok("forget", "llama@v3")
    assert "llama@v3" not in copied.ok("list").out
    assert "nothing to reclaim now" in copied.ok("prune").out
    copied.ok("snapshot", "--label", "again=1")
    assert "llama@v4" in copied.ok("list").out
    assert copied("check", "--read-data").code == 0


def test_a_key_is_added_used_and_removed(copied: CommandLine) -> None:
    added = copied.ok("key", "add", "--recovery", "--label", "safe", "--json").document
    place = ("--repository", copied.repository)
    assert "llama@v1" in copied.ok("list", *place, BACKUPD_PASSPHRASE=added["key"]).out
    assert "safe" in copied.ok("key", "list").out
    copied.ok("key", "remove", "safe")
    assert copied("list", *place, BACKUPD_PASSPHRASE=added["key"]).code == 6
    exported = copied.ok("key", "export").out.strip()
    assert copied.ok("list", *place, BACKUPD_PASSPHRASE=exported).code == 0


def test_the_key_in_use_is_not_removed(copied: CommandLine) -> None:
    answer = copied("key", "remove", "configuration")
    assert answer.code != 0
    assert "llama@v1" in copied.ok("list").out


def piped(backupd: CommandLine, line: str, **environment: str) -> Answer:
    """What `bash` makes of a line in which `backupd` is this program."""
    program = f'backupd() {{ {sys.executable} -m backupd "$@"; }}'
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {program}; {line}"],
        env=backupd.environment(**environment),
        cwd=backupd.home,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def test_a_reader_that_goes_away_is_no_error(made: CommandLine) -> None:
    answer = piped(made, "backupd help json; backupd files llama@v3 | true")
    assert answer.err == ""
    many = piped(made, "for i in $(seq 3); do backupd list; done | head -1")
    assert many.err == ""
    assert many.out.startswith("SNAPSHOT")


def test_a_full_disk_behind_standard_output_is_one_sentence(made: CommandLine) -> None:
    answer = piped(made, "backupd list > /dev/full")
    assert answer.code == 1
    assert answer.err.startswith("error: no space left on device")
    assert "Traceback" not in answer.err


def test_a_table_that_is_piped_is_whole(made: CommandLine) -> None:
    answer = made.ok("list")
    assert "release=1.0" in answer.out
    assert "…" not in answer.out


def on_terminal(
    backupd: CommandLine, columns: int, *arguments: str, **environment: str
) -> tuple[int, str]:
    """Exit code and screen text of a command on a terminal of so many columns."""
    master, slave = pty.openpty()
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "backupd", *arguments],
        env=backupd.environment(TERM="xterm-256color", **environment),
        cwd=backupd.home,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    shown = b"".join(_read_all(master))
    os.close(master)
    return process.wait(180), shown.decode().replace("\r\n", "\n")


def _read_all(master: int) -> Iterator[bytes]:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if select.select([master], [], [], 1.0)[0]:
            try:
                data = os.read(master, 65536)
            except OSError:  # Linux says EIO when the last writer is gone
                return
            if not data:
                return
            yield data


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_tables_fit_the_terminal(made: CommandLine, columns: int) -> None:
    for command in (["list"], ["policy", "llama"], ["status"], ["key", "list"]):
        code, shown = on_terminal(made, columns, *command, NO_COLOR="1")
        assert code == 0
        prose = ("systemctl", "daemon is not", "llama on disk")
        lines = [line for line in shown.splitlines() if not any(word in line for word in prose)]
        assert max(map(len, lines)) <= columns, (command, shown)


def test_colours_are_for_terminals_and_no_color_turns_them_off(made: CommandLine) -> None:
    assert "\x1b[1m" in on_terminal(made, 80, "list")[1]
    assert "\x1b" not in on_terminal(made, 80, "list", NO_COLOR="1")[1]
    assert "\x1b" not in made.ok("list").out


def test_list_and_status_import_nothing_heavy(made: CommandLine) -> None:
    heavy = ("numpy", "boto3", "botocore", "rich", "structlog", "apscheduler", "watchdog")
    for command in ("list", "status"):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "backupd", command],
            env=made.environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
        assert {name for name in imported if name.split(".")[0] in heavy} == set()


def test_completion_of_the_shells_offers_names(made: CommandLine) -> None:
    script = made.ok("completion", "bash").out
    line = """
    COMP_WORDBREAKS=$' \\t\\n"\\'@><=;|&(:'
    complete_line() {
        COMP_LINE=$1 COMP_POINT=${#1} COMPREPLY=()
        _backupd_completion backupd
        echo "${COMPREPLY[*]}"
    }
    """
    runner = (
        "mkdir bin 2>/dev/null; printf '#!/bin/sh\\nexec %s -m backupd \"$@\"\\n' "
        f"{sys.executable} > bin/backupd; chmod +x bin/backupd; PATH=$PWD/bin:$PATH\n"
    )
    done = subprocess.run(
        [
            "bash",
            "-c",
            f"{runner}{script}{line}\n"
            "complete_line 'backupd resto'; complete_line 'backupd restore ll';"
            "complete_line 'backupd restore llama@v'; complete_line 'backupd check --target d';"
            "complete_line 'backupd list ll'; complete_line 'backupd --config /none list x'",
        ],
        env=made.environment(),
        cwd=made.home,
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    shutil.rmtree(made.home / "bin")
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "restore",
        "llama@latest llama@v3 llama@v2 llama@v1",
        "v3 v2 v1",
        "disk",
        "llama",
        "",
    ]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(made: CommandLine, shell: str) -> None:
    assert "_BACKUPD_COMPLETE" in made.ok("completion", shell).out


def test_the_schema_and_the_drop_in_are_printed(made: CommandLine) -> None:
    assert "$defs" in json.loads(made.ok("config", "schema").out)
    assert "[Service]" in made.ok("config", "systemd").out
