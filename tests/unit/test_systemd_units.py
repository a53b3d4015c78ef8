"""The units and the generated drop-in, judged by systemd's own tools."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backupd.config.load import load_config
from backupd.config.settings import (
    CodeSettings,
    KeySettings,
    LimitsSettings,
    LocalTarget,
    NasTarget,
    NotifySettings,
    S3Target,
    Settings,
)
from backupd.config.systemd import render_drop_in
from backupd.config.systemd_box import Box, read_box
from backupd.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "systemd/backupd.service"
USER_UNIT = ROOT / "systemd/user/backupd.service"
ODD = 'o d\'d "100%" $x: é\\n;#&'


def settings(tmp_path: Path, model: str = "/srv/model", target: str = "/srv/backups") -> Settings:
    file = tmp_path / "backupd.yaml"
    file.write_text(
        "state_dir: /var/lib/backupd\n"
        "key: {file: /etc/backupd/key}\n"
        "targets: {disk: {type: local, path: /srv/backups}}\n"
        "policies: {working: {keep_last: 5}}\n"
        "models: {m: {path: /srv/model, targets: {disk: working}}}\n"
    )
    loaded = load_config(file, {})
    return replace(
        loaded,
        source=Path("/etc/backupd/backupd.yaml"),
        models={"m": replace(loaded.models["m"], path=Path(model))},
        targets={"disk": LocalTarget("disk", Path(target))},
    )


def installed(folder: Path, unit: Path, drop_in: str = "") -> Path:
    """The unit as it would stand in a system, but starting a program that this machine has."""
    folder.mkdir(exist_ok=True)
    text = re.sub(r"(?m)^ExecStart=.*$", "ExecStart=/bin/true run", unit.read_text())
    place = folder / "backupd.service"
    place.write_text(text)
    if drop_in:
        (folder / "backupd.service.d").mkdir(exist_ok=True)
        (folder / "backupd.service.d/paths.conf").write_text(drop_in)
    return place


def analyze(*arguments: str | Path, home: Path) -> subprocess.CompletedProcess[str]:
    home.chmod(0o700)
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "XDG_RUNTIME_DIR": str(home), "LANG": "C"},
    )


def assert_verified(place: Path, *flags: str) -> None:
    found = analyze("verify", "--man=no", *flags, place, home=place.parent)
    # Its exit code is 0 for many wrong values; only silence means that all is understood.
    assert (found.returncode, found.stdout + found.stderr) == (0, "")


def test_systemd_understands_every_line_of_the_system_unit(tmp_path: Path) -> None:
    assert_verified(installed(tmp_path / "units", UNIT))


def test_systemd_understands_every_line_of_the_user_unit(tmp_path: Path) -> None:
    assert_verified(installed(tmp_path / "units", USER_UNIT), "--user")


def test_verification_would_find_a_wrong_line(tmp_path: Path) -> None:
    place = installed(tmp_path / "units", UNIT)
    place.write_text(place.read_text().replace("ProtectSystem=strict", "ProtectSystem=stricter"))
    with pytest.raises(AssertionError, match="Failed to parse protect system value"):
        assert_verified(place)


@pytest.mark.parametrize("kind", ["bare", "example", "open"])
def test_the_exposure_is_at_most_three_with_and_without_the_drop_in(
    tmp_path: Path, kind: str
) -> None:
    """`open` is the widest there is: homes, /tmp, the network, others' targets and code."""
    drop_in = ""
    if kind != "bare":
        made = load_config(ROOT / "config/backupd.example.yaml", {})
        box = Box()
        if kind == "open":
            target = LocalTarget("disk", Path("/home/ml/backups"))
            model = replace(made.models["llama-ft"], path=Path("/tmp/llama-ft"))
            made = replace(
                made,
                targets={**made.targets, "disk": target},
                models={**made.models, "llama-ft": model},
            )
            box = Box(
                foreign_folders=frozenset({target.path}),
                git_folders=(Path("/home/ml/chat/.git"),),
                foreign_code=True,
            )
        drop_in = render_drop_in(made, box)
    place = installed(tmp_path / "units", UNIT, drop_in)
    assert_verified(place)
    # `security --offline` reads no drop-ins, so they are joined to the unit.
    joined = tmp_path / "joined.service"
    joined.write_text(place.read_text() + "\n" + drop_in)
    found = analyze("security", "--offline=true", "--threshold=30", joined, home=tmp_path)
    assert found.returncode == 0, found.stdout
    overall = re.search(r"exposure level for joined.service: ([0-9.]+)", found.stdout)
    assert overall is not None
    assert float(overall[1]) <= 3.0


@pytest.mark.parametrize("unit", [UNIT, USER_UNIT], ids=["system", "user"])
def test_the_units_make_way_for_training_and_are_restarted_when_hung(unit: Path) -> None:
    text = unit.read_text()
    for line in (
        "Type=notify",
        "WatchdogSec=60s",
        "Restart=on-failure",
        "Nice=19",
        "IOSchedulingClass=idle",
        "OOMScoreAdjust=500",
        "ExecReload=/bin/kill -HUP $MAINPID",
    ):
        assert f"\n{line}\n" in text


def test_the_sandbox_opens_homes_and_tmp_only_for_who_lives_there(tmp_path: Path) -> None:
    closed = render_drop_in(settings(tmp_path))
    assert "ProtectHome" not in closed and "PrivateTmp" not in closed
    in_home = render_drop_in(settings(tmp_path, model="/home/ml/run"))
    assert "\nProtectHome=read-only\n" in in_home and "PrivateTmp" not in in_home
    in_root = render_drop_in(settings(tmp_path, target="/root/backups"))
    assert "\nProtectHome=read-only\n" in in_root
    in_tmp = render_drop_in(settings(tmp_path, model="/var/tmp/run"))
    assert "\nPrivateTmp=no\n" in in_tmp and "ProtectHome" not in in_tmp
    code = render_drop_in(settings(tmp_path), Box(code=(Path("/home/ml/venv"),)))
    assert "\nProtectHome=read-only\n" in code


def test_a_model_reached_through_a_link_into_a_home_is_seen(tmp_path: Path) -> None:
    link = tmp_path / "model"
    link.symlink_to("/home/ml/run")
    assert "\nProtectHome=read-only\n" in render_drop_in(settings(tmp_path, model=str(link)))


def with_code(folder: Path, code: Path, git: str) -> Settings:
    made = settings(folder)
    model = replace(made.models["m"], code=CodeSettings(code, git))
    return replace(made, models={"m": model})


def test_commits_open_the_repository_and_let_git_run_as_its_owner(tmp_path: Path) -> None:
    code = tmp_path / "chat"
    (code / ".git").mkdir(parents=True)
    (code / "src").mkdir()
    os.chown(code / "src", 1000, 1000)
    made = with_code(tmp_path, code / "src", "commit")
    text = render_drop_in(made, read_box(made, program=(), code=()))
    assert f"\nReadWritePaths=-{code}/.git\n" in text
    assert "\nCapabilityBoundingSet=CAP_SETUID CAP_SETGID\n" in text
    assert "\nSystemCallFilter=@setuid\n" in text
    assert "PrivateNetwork" not in text
    os.chown(code / "src", 0, 0)
    assert "CAP_SETUID" not in render_drop_in(made, read_box(made, program=(), code=()))


def test_a_work_tree_opens_its_repository_too(tmp_path: Path) -> None:
    shared = tmp_path / "chat/.git"
    own = shared / "worktrees/side"
    own.mkdir(parents=True)
    (own / "commondir").write_text("../..\n")
    tree = tmp_path / "side"
    tree.mkdir()
    (tree / ".git").write_text(f"gitdir: {own}\n")
    made = with_code(tmp_path, tree, "push")
    text = render_drop_in(made, read_box(made, program=(), code=()))
    assert f"\nReadWritePaths=-{own}\nReadWritePaths=-{shared}\n" in text
    assert "\n# Git push needs the network.\nPrivateNetwork=no\n" in text


def test_recorded_code_is_seen_and_opens_nothing(tmp_path: Path) -> None:
    made = with_code(tmp_path, Path("/home/ml/chat"), "record")
    text = render_drop_in(made, read_box(made, program=(), code=()))
    assert "\nProtectHome=read-only\n" in text and ".git" not in text


def test_writing_beside_models_that_can_be_cloned_is_left_to_the_admin(tmp_path: Path) -> None:
    text = render_drop_in(settings(tmp_path), Box(cloning=(Path("/srv/runs/llama ft"),)))
    assert "\n#   ReadWritePaths=/srv/runs\n#   CapabilityBoundingSet=CAP_DAC_OVERRIDE\n" in text


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"notify": NotifySettings(urls=("ntfy://topic",))}, "# Notify needs the network."),
        ({"status_listen": "127.0.0.1:9731"}, "# The status page needs the network."),
    ],
)
def test_the_network_is_opened_for_messages_and_the_page(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    text = render_drop_in(replace(settings(tmp_path), **changes))
    assert f"\n{why}\nPrivateNetwork=no\n" in text


def test_the_network_is_opened_for_an_s3_target_alone(tmp_path: Path) -> None:
    assert "RestrictAddressFamilies" not in render_drop_in(settings(tmp_path))
    example = render_drop_in(load_config(ROOT / "config/backupd.example.yaml", {}))
    assert "\nPrivateNetwork=no\nIPAddressDeny=\nRestrictAddressFamilies=AF_INET AF_INET6\n" in (
        example
    )


def test_secrets_are_handed_over_by_systemd(tmp_path: Path) -> None:
    example = render_drop_in(load_config(ROOT / "config/backupd.example.yaml", {}))
    assert "\nLoadCredential=key:/etc/backupd/key\n" in example
    assert "\nLoadCredential=s3-s3:/etc/backupd/s3-credentials\n" in example
    store = S3Target("s3", "b", sse="customer", sse_customer_key_file=Path("/etc/backupd/s3-key"))
    with_key = render_drop_in(replace(settings(tmp_path), targets={"s3": store}))
    assert "\nLoadCredential=s3-key-s3:/etc/backupd/s3-key\n" in with_key
    phrase = replace(settings(tmp_path), key=KeySettings(passphrase_file=Path("/etc/100% x")))
    assert "\nLoadCredential=passphrase:/etc/100%% x\n" in render_drop_in(phrase)


def test_a_nas_is_waited_for_and_not_required(tmp_path: Path) -> None:
    there = replace(settings(tmp_path), targets={"n": NasTarget("n", Path("/mnt/my nas/models"))})
    absent = render_drop_in(there)
    for mount in (r"mnt-my\x20nas-models.mount", r"mnt-my\x20nas.mount", "mnt.mount"):
        assert f"\nWants={mount}\nAfter={mount}\n" in absent
    mounted = render_drop_in(there, Box(mount_points=frozenset({Path("/"), Path("/mnt/my nas")})))
    assert "\nWants=mnt-my\\x20nas.mount\nAfter=mnt-my\\x20nas.mount\n" in mounted
    assert "models.mount" not in mounted
    # The mount itself is opened: a mount of our own within it would hold on to it.
    assert "\nReadWritePaths='-/mnt/my nas'\n" in mounted
    for text in (absent, mounted):
        assert "RequiresMountsFor=/var/lib/backupd\n" in text
        assert "Requires=" not in text


def test_mount_units_are_named_as_systemd_escape_does(tmp_path: Path) -> None:
    for folder in ("/mnt/nas", "/mnt/.x/a-b", f"/mnt/{ODD}", "/mnt/ü/..."):
        there = replace(settings(tmp_path), targets={"n": NasTarget("n", Path(folder))})
        text = render_drop_in(there, Box(mount_points=frozenset({Path(folder)})))
        name = subprocess.run(
            ["systemd-escape", "--path", "--suffix=mount", folder],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        assert f"\nAfter={name}\n" in text


def test_the_limits_of_the_configuration_are_the_units(tmp_path: Path) -> None:
    text = render_drop_in(
        replace(settings(tmp_path), limits=LimitsSettings(nice=5, io="best-effort"))
    )
    assert text.endswith("\nNice=5\nIOSchedulingClass=best-effort\nIOSchedulingPriority=7\n")


def test_a_target_of_another_owner_can_be_written_to(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    mine.mkdir()
    theirs.mkdir()
    here = settings(tmp_path, target=str(mine))
    facts = read_box(here, program=(), code=())
    assert Path("/proc") in facts.mount_points
    foreign = replace(facts, foreign_folders=frozenset({theirs}))
    assert "CAP_DAC_OVERRIDE" not in render_drop_in(
        here, replace(facts, foreign_folders=frozenset())
    )
    there = settings(tmp_path, target=str(theirs))
    assert "\nCapabilityBoundingSet=CAP_DAC_OVERRIDE\n" in render_drop_in(there, foreign)


@pytest.mark.parametrize("path", ["/srv/new\nline", "/srv/bell\x07", "/srv/\udcff"])
def test_a_path_that_no_unit_can_hold_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigError, match="systemd cannot be given") as caught:
        render_drop_in(settings(tmp_path, target=path))
    assert caught.value.hint


def test_a_program_of_any_name_is_started(tmp_path: Path) -> None:
    program = ("/opt/my $venv/bin/python", "-m", "backupd", "--config", '/etc/100% $x "y".yaml')
    text = render_drop_in(settings(tmp_path), Box(program=program))
    assert (
        '\nExecStart=\nExecStart="/opt/my $venv/bin/python" -m backupd --config'
        ' "/etc/100%% $$x \\"y\\".yaml"\n'
    ) in text
