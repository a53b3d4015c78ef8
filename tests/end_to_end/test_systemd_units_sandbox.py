"""The system unit with its generated drop-in, in a systemd that is really booted.

It boots in a container over a throw-away overlay of this machine's root; nothing of it is left.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from backupd.config.load import check_text
from backupd.config.settings import KeySettings, LocalTarget, NasTarget
from backupd.config.systemd import render_drop_in
from backupd.config.systemd_box import Box
from tests.rigs.systemd_rig import JOIN_GROUP, group_name, remove_groups

ROOT = Path(__file__).resolve().parents[2]
ODD = 'o d\'d "100%" $x: é\\n;#&'

PROBE = r"""
# What the daemon would do, tried from within: one line for each thing, then the end.
out="$1"; shift
report() { printf '%s\n' "$*" >> "$out/report"; }
umask 077
: > "$out/report"
while [ $# -gt 0 ]; do
  kind="$1"; path="$2"; shift 2
  case "$kind" in
    read) report "read $(cat "$path" 2>&1)" ;;
    write) if (echo x > "$path") 2>/dev/null; then report written; else report refused; fi ;;
  esac
done
report "key $(cat "$CREDENTIALS_DIRECTORY/key")"
report "nice $(nice)"
for open in /proc/[0-9]*/fdinfo; do ls "$open" > /dev/null 2>&1 || report "hidden $open"; done
report "capabilities $(grep CapEff /proc/self/status | tr -s '\t' ' ')"
"""

BOOT = (
    f"""
set -e
work="$1" group="$3"
{JOIN_GROUP}"""
    + r"""
mount -t tmpfs tmpfs "$work"
mkdir "$work/upper" "$work/scratch" "$work/merged"
cp -a "$2/." "$work/upper/"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/scratch" "$work/merged"
timeout 200 systemd-nspawn -q -D "$work/merged" --boot --register=no --keep-unit --console=pipe \
  --private-network --link-journal=no systemd.unit=backupd-test.target \
  > "$work/console" 2>&1 || true
cat "$work/merged/srv/report" 2>/dev/null || { cat "$work/console"; exit 1; }
"""
)

OVERRIDE = """\
[Unit]
SuccessAction=exit-force
FailureAction=exit-force
[Service]
Type=oneshot
Restart=no
WatchdogSec=0
ExecStopPost=+/bin/sh -c 'cp /var/lib/backupd/report /srv/report || true'
"""


@pytest.mark.system
def test_the_sandbox_reads_the_models_and_writes_to_the_targets_and_nowhere_else(
    tmp_path: Path,
) -> None:
    home_model = Path("/home/ml") / ODD
    temporary_model = Path("/var/tmp/m odel")
    target = Path("/srv") / f"target {ODD}"
    settings, problems = check_text(
        b"state_dir: /var/lib/backupd\n"
        b"key: {file: /etc/backupd/key}\n"
        b"targets: {disk: {type: local, path: /srv/b}}\n"
        b"policies: {working: {keep_last: 5}}\n"
        b"models:\n"
        b"  home: {path: /home/x, targets: {disk: working}}\n"
        b"  temporary: {path: /var/tmp/x, targets: {disk: working}}\n",
        Path("/etc/backupd/backupd.yaml"),
        {},
    )
    assert settings is not None, problems
    models = settings.models
    key = Path("/etc/backupd") / ODD
    settings = replace(
        settings,
        key=KeySettings(file=key),
        models={
            "home": replace(models["home"], path=home_model),
            "temporary": replace(models["temporary"], path=temporary_model),
        },
        targets={
            "disk": LocalTarget("disk", target),
            # Nothing is mounted there, and nothing exists: the unit starts all the same.
            "nas": NasTarget("nas", Path("/mnt/absent nas/models")),
        },
    )
    program = (
        "/bin/sh", "/opt/probe $HOME.sh", "/var/lib/backupd",
        "read", f"{home_model}/weights",
        "read", f"{temporary_model}/weights",
        "write", f"{target}/pack",
        "write", f"{home_model}/harm",
        "write", f"{temporary_model}/harm",
        "write", "/srv/harm",
        "write", "/etc/harm",
        "write", "/home/harm",
    )  # fmt: skip
    files = {
        home_model / "weights": "in home",
        temporary_model / "weights": "in tmp",
        target / "old": "old",
        key: "secret",
        Path("/opt/probe $HOME.sh"): PROBE,
        Path("/etc/systemd/system/backupd.service"): (ROOT / "systemd/backupd.service").read_text(),
        Path("/etc/systemd/system/backupd.service.d/paths.conf"): render_drop_in(
            settings, Box(program=program)
        ),
        Path("/etc/systemd/system/backupd.service.d/test.conf"): OVERRIDE,
        Path("/etc/systemd/system/backupd-test.target"): "[Unit]\nWants=backupd.service\n",
    }
    tree = tmp_path / "tree"
    for path, text in files.items():
        place = tree / path.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    for model in (home_model, temporary_model):
        # Another user's, and closed to all but that user.
        for name in ("", "weights"):
            place = tree / model.relative_to("/") / name
            os.chown(place, 1000, 1000)
            place.chmod(0o700)
    (tree / key.relative_to("/")).chmod(0o600)
    work = tmp_path / "work"
    work.mkdir()
    group = group_name()
    try:
        done = subprocess.run(
            [
                *("unshare", "--mount", "--propagation=private", "sh", "-c", BOOT, "boot"),
                *(work, tree, group),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=250,
        )
    finally:
        # nspawn leaves its control groups behind; others are of containers that run beside it.
        remove_groups(group)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    report = done.stdout.splitlines()
    assert report[:8] == [
        "read in home",
        "read in tmp",
        "written",
        "refused",
        "refused",
        "refused",
        "refused",
        "refused",
    ]
    rest = dict(line.split(" ", 1) for line in report[8:])
    assert rest["key"] == "secret"
    assert rest["nice"] == "19"
    # Of capability.h: DAC_READ_SEARCH (2), FOWNER (3) and SYS_PTRACE (19), and nothing else.
    assert rest["capabilities"].split()[-1] == f"{(1 << 2) | (1 << 3) | (1 << 19):016x}"
