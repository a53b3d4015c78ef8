"""The README's way to a service, typed in a booted systemd."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rigs.systemd_rig import PREFIX, ROOT, booted_systemd, wait_until
from tests.support.pages import blocks

CLONE = "/srv/clone"
EDITED = """\
key: {file: /etc/backupd/key}
targets: {disk: {type: local, path: /var/backups/models}}
policies: {working: {keep_last: 5}}
models: {llama-ft: {path: /srv/runs/llama-ft, targets: {disk: working}}}
"""


@pytest.mark.system
def test_the_service_runs_after_the_lines_of_the_readme(tmp_path: Path) -> None:
    [block] = [block for block in blocks("README.md") if "enable --now" in block.text]
    lines = block.text.splitlines()
    # This machine has no network, and the wheel is where the first line would put it; the
    # configuration lies there as a person would have edited it, and root needs no sudo.
    assert lines.pop(0).startswith(f"sudo python3 -m venv {PREFIX} ")
    typed = "\n".join(line for line in lines if not line.startswith("sudoedit"))
    with booted_systemd(tmp_path) as machine:
        machine.path("/srv/runs/llama-ft").mkdir(parents=True)
        machine.write("/srv/runs/llama-ft/weights.bin", "weights")
        machine.write(f"{CLONE}/config/backupd.example.yaml", EDITED)
        unit = (ROOT / "systemd/backupd.service").read_text()
        machine.write(f"{CLONE}/systemd/backupd.service", unit)
        # As sudo's secure_path is on Debian.
        script = f'export PATH=/usr/local/bin:$PATH\nsudo() {{ "$@"; }}\ncd {CLONE}\n{typed}'
        machine.run("bash", "-ec", script)
        assert machine.run("systemctl", "is-active", "backupd").stdout.strip() == "active"
        assert machine.run("systemctl", "is-enabled", "backupd").stdout.strip() == "enabled"
        wait_until(
            lambda: "llama-ft@v1" in machine.run("/usr/local/bin/backupd", "list").stdout,
            150,
            "the first snapshot",
        )
        status = machine.run("/usr/local/bin/backupd", "status").stdout
        assert "llama-ft" in status
        assert "not running" not in status
