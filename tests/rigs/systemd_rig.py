"""A booted systemd for tests, in a container over a throw-away overlay of this machine's root.

Debian's packages: systemd, systemd-container, dbus, util-linux; needs root. It boots in about two
seconds, has no network, and nothing of it is left. backupd is installed in it from a wheel.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "/opt/backupd"
_DEPENDENCIES = "/opt/dependencies"
_TARGET = "rig.target"

T = TypeVar("T")

# A control group of its own, `$group`, keeps two containers of parallel tests apart.
JOIN_GROUP = r"""
while IFS=: read -r number controllers path; do
  case $number:$controllers in
    0:) places="/sys/fs/cgroup /sys/fs/cgroup/unified" ;;
    *:name=systemd) places=/sys/fs/cgroup/systemd ;;
    *) continue ;;
  esac
  for place in $places; do
    [ -f "$place/cgroup.procs" ] || continue
    mkdir "$place$path/$group"
    echo $$ > "$place$path/$group/cgroup.procs"
  done
done < /proc/self/cgroup
"""
# `/run` may lie on a disk where this machine's own init is none; nspawn wants it in memory.
_BOOT = (
    f"""
set -e
work=$1 tree=$2 group=$3; shift 3
{JOIN_GROUP}"""
    + r"""
mount -t tmpfs tmpfs "$work"
mount -t tmpfs tmpfs /run
mkdir "$work/upper" "$work/scratch" "$work/merged"
cp -a "$tree/." "$work/upper/"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/scratch" "$work/merged"
exec systemd-nspawn -q -D "$work/merged" --boot --register=no --keep-unit --console=pipe \
  --private-network --link-journal=no "$@" > "$work.console" 2>&1 < /dev/null
"""
)

_UNIT = f"""\
[Unit]
Description=Enough of a machine to run a service in
Requires=basic.target dbus.service
After=basic.target dbus.service
AllowIsolate=yes
[Install]
WantedBy={_TARGET}
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """A booted machine; `leader` is its init, as this machine counts processes."""

    leader: int

    def run(
        self, *command: str | Path, check: bool = True, seconds: float = 180
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as root; with `check` its failure fails the test."""
        done = subprocess.run(
            [
                *("nsenter", f"--target={self.leader}", "--mount", "--uts", "--ipc", "--net"),
                *("--pid", "--root", "--wdns=/", "--"),
                *("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"),
                *map(str, command),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        assert not check or done.returncode == 0, (command, done.stdout, done.stderr)
        return done

    def backupd(self, *arguments: str | Path, check: bool = True) -> Any:
        """The document that `backupd --json` prints."""
        done = self.run(f"{PREFIX}/bin/backupd", "--json", *arguments, check=check)
        return json.loads(done.stdout)

    def path(self, inside: str | Path) -> Path:
        """Where this machine finds a file of it."""
        return Path(f"/proc/{self.leader}/root") / str(inside).lstrip("/")

    def write(self, inside: str | Path, text: str) -> None:
        """Write a file, its folders as needed."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def property(self, unit: str, name: str) -> str:
        """A property of a unit, as `systemctl show` gives it."""
        return self.run("systemctl", "show", "--value", "-p", name, unit).stdout.strip()

    def journal(self, unit: str, since: str = "") -> list[dict[str, Any]]:
        """The journal's entries of a unit."""
        begin = (f"--since={since}",) if since else ()
        done = self.run("journalctl", "--no-pager", "-o", "json", "-u", unit, *begin)
        return [json.loads(line) for line in done.stdout.splitlines()]


def wait_until(seen: Callable[[], T], seconds: float, what: str) -> T:
    """The first true answer; fails the test where there is none in time."""
    deadline = time.monotonic() + seconds
    while not (answer := seen()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what} ({answer!r})"
        time.sleep(0.1)
    return answer


@contextmanager
def booted_systemd(folder: Path) -> Iterator[Machine]:
    """Boot a machine that has backupd installed below `PREFIX`; `folder` is an empty one."""
    tree, work = folder / "tree", folder / "work"
    work.mkdir()
    _install(folder, tree)
    units = tree / "etc/systemd/system"
    units.mkdir(parents=True)
    (units / _TARGET).write_text(_UNIT)
    group = group_name()
    site = sysconfig.get_path("purelib")
    nspawn = subprocess.Popen(
        [
            *("unshare", "--mount", "--propagation=private", "sh", "-c", _BOOT, "boot"),
            *(work, tree, group),
            *(f"--bind-ro={site}:{_DEPENDENCIES}", f"systemd.unit={_TARGET}"),
        ],
        start_new_session=True,
    )
    try:
        machine = wait_until(lambda: _leader(nspawn), 120, "the container begins")
        wait_until(lambda: _is_up(machine), 180, "systemd is up")
        yield machine
    except AssertionError:
        console = work.with_name("work.console")
        if console.exists():
            print(console.read_text(errors="replace")[-5000:], file=sys.stderr)
        raise
    finally:
        _end(nspawn)
        remove_groups(group)


def _install(folder: Path, tree: Path) -> None:
    """The wheel of this project, in an environment that borrows its dependencies from ours."""
    python = [sys.executable, "-m"]
    pip = [*python, "pip", "-q", "--disable-pip-version-check"]
    _checked([*pip, "wheel", "--no-deps", "-w", folder, ROOT])
    (wheel,) = folder.glob("backupd-*.whl")
    environment = tree / PREFIX.lstrip("/")
    _checked([*python, "venv", "--without-pip", environment])
    _checked(
        [*pip, "--python", environment / "bin/python", "install", "--no-deps", "--no-index", wheel]
    )
    program = environment / "bin/backupd"
    program.write_text(program.read_text().replace(str(environment), PREFIX))
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(_DEPENDENCIES + "\n")


def _checked(command: list[str | Path]) -> None:
    environment = {**os.environ, "PIP_RETRIES": "10"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (command, done.stdout, done.stderr)


def _leader(nspawn: subprocess.Popen[bytes]) -> Machine | None:
    """The container's init, which is a child of nspawn."""
    assert nspawn.poll() is None, f"systemd-nspawn ended with {nspawn.returncode}"
    children = Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children").read_text().split()
    for child in children:
        try:
            # Before it has executed systemd it is nspawn itself.
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return Machine(int(child))
        except FileNotFoundError:
            continue
    return None


def _is_up(machine: Machine) -> bool:
    done = machine.run("systemctl", "is-active", _TARGET, check=False)
    return done.stdout.strip() == "active"


def _end(nspawn: subprocess.Popen[bytes]) -> None:
    """SIGTERM to nspawn is an orderly power-off; then without order."""
    for number, seconds in ((signal.SIGTERM, 20), (signal.SIGKILL, 10)):
        if nspawn.poll() is None:
            nspawn.send_signal(number)
        try:
            nspawn.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
        return


def group_name() -> str:
    """A name for a control group that no other has."""
    return f"backupd-rig-{os.getpid()}-{time.monotonic_ns()}"


def remove_groups(group: str) -> None:
    """Control groups go from the inside out, once the last process of theirs is gone."""
    for place in Path("/sys/fs/cgroup").glob(f"**/{group}"):
        folders = sorted((path for path in place.rglob("*") if path.is_dir()), reverse=True)
        for path in [*folders, place]:
            for _ in range(50):
                try:
                    path.rmdir()
                except FileNotFoundError:
                    pass
                except OSError:
                    time.sleep(0.1)
                    continue
                break


def missing_programs() -> list[str]:
    """What is not installed of what the rig needs."""
    return [name for name in ("systemd-nspawn", "nsenter", "unshare") if not shutil.which(name)]
