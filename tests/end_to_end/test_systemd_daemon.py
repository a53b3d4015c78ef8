"""The daemon as systemd runs it: the installed wheel, the shipped unit, its generated drop-in."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rigs.systemd_rig import PREFIX, ROOT, Machine, booted_systemd, wait_until

pytestmark = pytest.mark.system

UNIT = "backupd.service"
CONFIG = "/etc/backupd/backupd.yaml"
RUN = "/srv/runs/llama"
STATE = "/var/lib/backupd"
LOCAL = "{type: local, path: /srv/backups}"
# As slow as a network may be: `limits.upload` counts for it.
NAS = "{type: nas, path: /srv/backups, require_mount: false}"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with booted_systemd(tmp_path_factory.mktemp("systemd")) as booted:
        yield booted


class Box:
    """A training box with backupd set up on it, the unit installed and not yet started."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        machine.run("systemctl", "stop", UNIT, check=False)
        machine.run(
            *("rm", "-rf", STATE, "/etc/backupd", "/srv/runs", "/srv/backups"),
            f"/etc/systemd/system/{UNIT}.d",
        )
        machine.path(RUN).mkdir(parents=True)
        (machine.path(RUN) / "weights").write_bytes(os.urandom(1 << 20))
        machine.write(f"/etc/systemd/system/{UNIT}", (ROOT / "systemd" / UNIT).read_text())

    def set_up(self, schedule: str = "* * * * *", *, unit: str = "", **more: str) -> None:
        self.configure(schedule, **more)
        self.machine.backupd("init")
        drop_in = self.machine.run(f"{PREFIX}/bin/backupd", "config", "systemd").stdout
        folder = f"/etc/systemd/system/{UNIT}.d"
        self.machine.write(f"{folder}/paths.conf", drop_in)
        if unit:
            self.machine.write(f"{folder}/test.conf", f"[Service]\n{unit}")
        self.machine.run("systemctl", "daemon-reload")
        self.machine.run("systemctl", "reset-failed", UNIT, check=False)

    def configure(
        self, schedule: str = "* * * * *", more: str = "", target: str = LOCAL, model: str = ""
    ) -> None:
        self.machine.write(
            CONFIG,
            f"""\
state_dir: {STATE}
key: {{file: /etc/backupd/key}}
targets: {{disk: {target}}}
policies: {{working: {{keep_last: 50}}}}
models:
  llama: {{path: {RUN}, settle: 1s, schedule: "{schedule}", targets: {{disk: working}}{model}}}
{more}
""",
        )

    def start(self) -> None:
        done = self.machine.run("systemctl", "start", UNIT, check=False)
        said = [entry.get("MESSAGE") for entry in self.machine.journal(UNIT)[-12:]]
        assert done.returncode == 0, said

    def stop(self) -> float:
        """The seconds that it took."""
        before = time.monotonic()
        self.machine.run("systemctl", "stop", UNIT)
        return time.monotonic() - before

    @property
    def pid(self) -> int:
        return int(self.machine.property(UNIT, "MainPID"))

    def status(self) -> Any:
        """The daemon's own answer, whatever the configuration file says meanwhile."""
        program = (
            "import json, pathlib; from backupd.daemon import client\n"
            f"print(json.dumps(client.status(pathlib.Path({STATE!r}))))"
        )
        return json.loads(self.machine.run(f"{PREFIX}/bin/python", "-c", program).stdout)

    def lines(self) -> list[dict[str, Any]]:
        """What the daemon itself logged, since the unit was last started by this test."""
        found = []
        invocation = self.machine.property(UNIT, "InvocationID")
        for entry in self.machine.journal(UNIT):
            message = entry.get("MESSAGE")
            if entry.get("_SYSTEMD_INVOCATION_ID") != invocation:
                continue
            if isinstance(message, str) and message.startswith("{"):
                found.append({"PRIORITY": entry["PRIORITY"], **json.loads(message)})
        return found

    def stored(self) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["event"] == "snapshot done"]

    def wait_stored(self, count: int, seconds: float = 150) -> list[dict[str, Any]]:
        return wait_until(
            lambda: found if len(found := self.stored()) >= count else None,
            seconds,
            f"{count} snapshots, {self.lines()}",
        )  # type: ignore[return-value]


def commit_as_user(machine: Machine, code: str) -> None:
    """A repository with one commit, of uid 1000 and closed to others."""
    machine.run("install", "-d", "-o", "1000", "-g", "1000", "-m", "700", code)
    git = (
        *("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"),
        *("git", "-C", code, "-c", "user.name=ml", "-c", "user.email=ml@example.org"),
    )
    machine.run(*git, "init", "-q")
    machine.write(f"{code}/train.py", "print('train')\n")
    machine.run("chown", "1000:1000", f"{code}/train.py")
    machine.run(*git, "add", "train.py")
    machine.run(*git, "commit", "-q", "-m", "Begin")


@pytest.fixture
def box(machine: Machine) -> Iterator[Box]:
    made = Box(machine)
    yield made
    machine.run("systemctl", "stop", UNIT, check=False)


def early_in_a_minute() -> None:
    """Return when so much is left of the minute that a daemon is at work before the next."""
    left = 60 - time.time() % 60
    if left < 30:
        time.sleep(left)


class Writer:
    """A training run that goes on: files whose names tell what they must hold, some in place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._write, daemon=True)

    def __enter__(self) -> Writer:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.thread.join()

    def _write(self) -> None:
        while not self.stopping.wait(0.2):
            data = os.urandom(200_000)
            temporary = self.folder / "tmp"
            temporary.write_bytes(data)
            temporary.rename(self.folder / f"checkpoint-{hashlib.sha256(data).hexdigest()}")


def test_a_folder_that_a_writer_changes_is_stored_by_cron_and_comes_back_whole(box: Box) -> None:
    box.set_up()
    with Writer(box.machine.path(RUN)):
        early_in_a_minute()
        box.start()
        # `systemctl start` returns at READY=1.
        assert box.machine.property(UNIT, "ActiveState") == "active"
        assert box.machine.property(UNIT, "StatusText").startswith("1 model")
        assert box.machine.backupd("status")["running"] is True
        first = box.wait_stored(1)[0]
        assert first["PRIORITY"] == "6"
        assert first["snapshot"] == "llama@v1"
        reasons = [line["reason"] for line in box.lines() if line["event"] == "snapshot begins"]
        assert reasons == ["first run"]
        box.wait_stored(2)
        reasons = [line["reason"] for line in box.lines() if line["event"] == "snapshot begins"]
        assert reasons[1] == "schedule; the folder changed"
        due = box.status()["models"][0]["next_run"]
    # At the top of the minute, and not merely some time later: what is busy may take its time.
    assert due % 60 == 0
    begun = next(
        line["timestamp"]
        for line in box.lines()
        if line["event"] == "snapshot begins" and line["reason"].startswith("schedule")
    )
    assert re.search(r":[0-2]\d\.\d+Z$", begun), begun
    box.machine.backupd("restore", "llama@v2", "--to", "/srv/back")
    restored = list(box.machine.path("/srv/back").glob("checkpoint-*"))
    assert restored
    for path in restored:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name.partition("-")[2]
    box.machine.run("rm", "-rf", "/srv/back")


def test_the_sandbox_is_on_and_systemd_has_nothing_to_say_of_the_unit(box: Box) -> None:
    box.set_up()
    box.start()
    box.wait_stored(1)
    checked = box.machine.run("systemd-analyze", "verify", UNIT)
    assert checked.stdout + checked.stderr == ""
    judged = box.machine.run("systemd-analyze", "security", "--no-pager", UNIT).stdout
    (exposure,) = re.findall(r"exposure level for \S+: ([\d.]+)", judged)
    assert float(exposure) <= 3.0, judged
    status = box.machine.path(f"/proc/{box.pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    # Neither the model nor the machine can be written to from within, and the target can.
    inside = f"/proc/{box.pid}/root"
    for place, expected in ((RUN, 1), ("/etc", 1), ("/srv/backups", 0), (STATE, 0)):
        done = box.machine.run(
            *("nsenter", f"--target={box.pid}", "--mount", "--", "touch", f"{place}/touched"),
            check=False,
        )
        assert (done.returncode != 0) == bool(expected), (place, inside, done.stderr)
    # It gives way to training: nice 19, idle disk class.
    assert box.machine.run("ps", "-o", "ni=", "-p", str(box.pid)).stdout.strip() == "19"
    assert box.machine.run("ionice", "-p", str(box.pid)).stdout.strip() == "idle"


def test_a_reload_takes_a_good_configuration_and_survives_a_bad_one(box: Box) -> None:
    box.set_up("@hourly")
    box.start()
    box.wait_stored(1)
    pid = box.pid
    box.machine.path("/srv/runs/other").mkdir()
    other = "  other: {path: /srv/runs/other, targets: {disk: working}}"
    box.configure("@daily", other)
    box.machine.run("systemctl", "reload", UNIT)
    box.wait_stored(2)
    models = {model["name"]: model for model in box.status()["models"]}
    assert sorted(models) == ["llama", "other"]
    assert box.machine.property(UNIT, "ActiveState") == "active"
    box.configure("@weekly", f"{other}\n  third: {{path: /srv/runs/third, shedule: x}}")
    box.machine.run("systemctl", "reload", UNIT)
    refused = wait_until(
        lambda: [line for line in box.lines() if "the old one stays" in line["event"]],
        120,
        "the refusal is logged",
    )
    assert f"{CONFIG}:8" in refused[0]["event"]
    assert "shedule" in refused[0]["event"]
    assert refused[0]["PRIORITY"] == "3"
    wait_until(
        lambda: "refused" in box.machine.property(UNIT, "StatusText"), 120, "the status says so"
    )
    assert box.machine.property(UNIT, "ActiveState") == "active"
    assert sorted(model["name"] for model in box.status()["models"]) == ["llama", "other"]
    assert box.pid == pid
    # It goes on by the configuration that was good; the file is mended, and not yet taken.
    box.configure("@weekly", other)
    done = box.machine.backupd("snapshot", "llama", "--label", "after=reload", "--wait")
    assert "llama@v2" in json.dumps(done)


def test_a_daemon_that_is_frozen_is_restarted_by_the_watchdog(box: Box) -> None:
    # Long enough that a daemon which gives way to all else on a busy machine is fed in time.
    box.set_up("@hourly", unit="WatchdogSec=9s\nRestartSec=100ms\nTimeoutAbortSec=3s\n")
    box.start()
    box.wait_stored(1)
    # Fed: it outlives its watchdog.
    pid = box.pid
    time.sleep(11)
    assert box.pid == pid
    assert box.machine.property(UNIT, "NRestarts") == "0"
    box.machine.run("kill", "-STOP", str(pid))
    wait_until(
        lambda: box.pid not in (0, pid) and box.machine.property(UNIT, "ActiveState") == "active",
        120,
        "another process is active",
    )
    assert box.machine.property(UNIT, "NRestarts") == "1"
    assert box.status()["pid"] == box.pid
    done = box.machine.backupd("snapshot", "llama", "--label", "after=freeze", "--wait")
    assert "llama@v2" in json.dumps(done)


def test_it_stops_within_ten_seconds_during_a_snapshot_which_then_resumes(box: Box) -> None:
    size = 64 << 20
    (box.machine.path(RUN) / "large").write_bytes(os.urandom(size))
    box.set_up("@hourly", more="limits: {upload: 3MB/s}", target=NAS)
    box.start()
    backups = box.machine.path("/srv/backups/packs")
    wait_until(
        lambda: sum(p.stat().st_size for p in backups.rglob("*") if p.is_file()) > 16 << 20,
        150,
        "some packs are stored",
    )
    assert box.stored() == []
    assert box.stop() < 10
    assert box.machine.property(UNIT, "Result") == "success"
    assert box.machine.backupd("list")["snapshots"] == []
    kept = sum(p.stat().st_size for p in backups.rglob("*") if p.is_file())
    assert kept > 8 << 20
    box.configure("@hourly", target=NAS)
    box.start()
    (line,) = box.wait_stored(1)
    # What had been stored is not stored again, but for what was on its way.
    assert line["stored_bytes"] < size + (1 << 20) - (kept >> 1)
    assert line["bytes"] >= size


def test_a_run_missed_while_the_box_was_off_is_caught_up(box: Box) -> None:
    # The next run is half an hour away, whenever this test runs.
    minute = (time.gmtime().tm_min + 30) % 60
    box.set_up(f"{minute} * * * *")
    box.start()
    box.wait_stored(1)
    box.stop()
    (box.machine.path(RUN) / "changed").write_text("while the daemon was off")
    box.start()
    time.sleep(3)
    assert box.stored() == [], "it was not off when it should have run"
    box.stop()
    # Off for two hours, as its own memory has it.
    state = box.machine.path(f"{STATE}/state.json")
    memory = json.loads(state.read_text())
    memory["jobs"]["snapshot:llama"]["last_run"] -= 7200
    state.write_text(json.dumps(memory))
    box.start()
    (line,) = box.wait_stored(1)
    assert line["snapshot"] == "llama@v2"
    (begun,) = (line for line in box.lines() if line["event"] == "snapshot begins")
    assert begun["reason"].startswith("a run was missed")


def test_a_configuration_that_is_wrong_ends_the_start_and_is_not_tried_again(box: Box) -> None:
    box.set_up()
    box.machine.write(CONFIG, "models: {}\n")
    done = box.machine.run("systemctl", "start", UNIT, check=False)
    assert done.returncode != 0
    assert box.machine.property(UNIT, "ExecMainStatus") == "2"
    time.sleep(1)
    assert box.machine.property(UNIT, "ActiveState") == "failed"
    said = " ".join(str(entry.get("MESSAGE")) for entry in box.machine.journal(UNIT)[-6:])
    assert CONFIG in said


def test_versions_are_committed_beside_a_users_branches_from_within_the_sandbox(box: Box) -> None:
    code = "/home/ml/chat"
    box.machine.run("rm", "-rf", code)
    commit_as_user(box.machine, code)
    box.set_up(model=f", code: {{path: {code}, git: commit}}")
    box.start()
    box.wait_stored(1)
    log = ("git", "-c", "safe.directory=*", "-C", code, "log", "--format=%s %an")
    found = box.machine.run(*log, "backupd/llama", check=False).stdout.splitlines()
    assert found, "\n".join(str(line) for line in box.lines())
    assert found == ["Update llama to version 1 backupd", "Begin ml"]
    assert box.machine.run(*log, "HEAD").stdout == "Begin ml\n"
    owners = box.machine.run("find", f"{code}/.git", "!", "-uid", "1000").stdout
    assert owners == "", "what git wrote belongs to the user"
