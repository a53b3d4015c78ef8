"""What an accepted configuration becomes, where it is found, and what is only warned of."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from backupd.config.find import find_config
from backupd.config.load import check_config, load_config
from backupd.config.settings import LocalTarget, NasTarget, S3Target, Settings
from backupd.errors import ConfigError
from backupd.policy.retention import KeepBest, Rules

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "config/backupd.example.yaml"

# The default of state_dir depends on who runs the tests.
HERE = {"STATE_DIRECTORY": "/none/var"}
SMALL = """\
key: {encryption: none}
targets: {disk: {type: local, path: /none/backups}}
policies: {working: {keep_last: 5}}
models: {m: {path: /none/model, targets: {disk: working}}}
"""


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "backupd.yaml"
    file.write_text(text)
    return file


def load(tmp_path: Path, text: str, **environment: str) -> Settings:
    return load_config(write(tmp_path, text), {**HERE, **environment})


def test_the_example_is_accepted_and_means_what_its_comments_say() -> None:
    settings = load_config(EXAMPLE, {})
    assert settings.state_dir == Path("/var/lib/backupd")
    assert settings.key.file == Path("/etc/backupd/key")
    assert settings.key.encryption
    assert settings.targets["disk"] == LocalTarget("disk", Path("/var/backups/models"))
    assert settings.targets["nas"] == NasTarget("nas", Path("/mnt/nas/models"), True)
    far = settings.targets["s3"]
    assert isinstance(far, S3Target)
    assert (far.bucket, far.prefix, far.storage_class) == ("team-models", "box1", "STANDARD_IA")
    assert settings.policies["working"] == Rules(
        "working", keep_last=5, keep_within=timedelta(days=2), keep_hourly=24, keep_daily=7
    )
    assert settings.policies["archive"] == Rules(
        "archive",
        keep_weekly=8,
        keep_monthly=24,
        keep_yearly=5,
        keep_labels=("release",),
        keep_best=KeepBest("eval_loss", "min", 3),
    )
    model = settings.models["llama-ft"]
    assert model.targets == {
        "disk": ("working",),
        "nas": ("working", "archive"),
        "s3": ("archive",),
    }
    assert (model.schedule, model.timezone) == ("*/15 * * * *", "Europe/Berlin")
    assert model.exclude == ("tmp-*", "*.lock")
    assert settings.upkeep.read_data_percent == 5.0
    assert settings.limits.upload_bytes_per_second == 200_000_000


def test_the_example_uses_every_key_that_most_need() -> None:
    text = EXAMPLE.read_text()
    for key in ("keep_last", "keep_best", "keep_labels", "exclude", "timezone", "read_data"):
        assert f"{key}:" in text


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    settings = load(tmp_path, SMALL)
    assert settings.host == os.uname().nodename
    assert settings.naming == "{model_name}_{YYYYMMDD}_v{version}"
    assert settings.models["m"].schedule == "*/15 * * * *"
    assert settings.models["m"].one_filesystem
    assert (settings.upkeep.forget, settings.limits.threads) == ("0 3 * * *", 2)
    assert not settings.key.encryption


def test_scalars_mean_what_is_written_and_not_what_yaml_guesses(tmp_path: Path) -> None:
    text = SMALL.replace("models: {m:", "models: {no:").replace("/none/model,", "/none/010,")
    settings = load(tmp_path, text + "host: 0x1F\n")
    assert settings.host == "0x1F"
    assert settings.models["no"].path == Path("/none/010")


def test_a_tilde_is_the_home_of_the_environment(tmp_path: Path) -> None:
    settings = load(tmp_path, SMALL.replace("/none/model", "~/run"), HOME="/somewhere/me")
    assert settings.models["m"].path == Path("/somewhere/me/run")


def test_an_alias_gives_a_whole_value_twice(tmp_path: Path) -> None:
    text = (
        "key: {encryption: none}\n"
        "targets: {disk: {type: local, path: /none/b}}\n"
        "policies: {working: &w {keep_last: 5}, same: *w}\n"
        "models:\n"
        "  m: {path: /none/m, targets: {disk: [working, same]}}\n"
    )
    settings = load(tmp_path, text)
    assert settings.policies["same"].keep_last == 5
    assert settings.models["m"].targets == {"disk": ("working", "same")}


def test_never_switches_an_upkeep_job_off(tmp_path: Path) -> None:
    assert load(tmp_path, SMALL + "upkeep: {check: never}\n").upkeep.check == ""


def test_the_state_lies_where_systemd_says_when_the_file_does_not(tmp_path: Path) -> None:
    settings = load(tmp_path, SMALL, STATE_DIRECTORY="/var/lib/other:/var/lib/more")
    assert settings.state_dir == Path("/var/lib/other")
    without = load_config(write(tmp_path, SMALL), {"HOME": "/home/me"}).state_dir
    theirs = Path("/home/me/.local/state/backupd")
    assert without == (Path("/var/lib/backupd") if os.geteuid() == 0 else theirs)


def test_secrets_are_taken_from_systemd_credentials_where_they_exist(tmp_path: Path) -> None:
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "key").write_bytes(b"k")
    (folder / "s3-far").write_bytes(b"c")
    text = (
        "key: {file: /none/key}\n"
        "targets:\n"
        "  far: {type: s3, bucket: team, credentials_file: /none/far}\n"
        "  farther: {type: s3, bucket: team, prefix: x, credentials_file: /none/farther}\n"
        "policies: {working: {keep_last: 5}}\n"
        "models: {m: {path: /none/model, targets: {far: working, farther: working}}}\n"
    )
    settings = load(tmp_path, text, CREDENTIALS_DIRECTORY=str(folder))
    assert settings.key.file == folder / "key"
    far, farther = settings.targets["far"], settings.targets["farther"]
    assert isinstance(far, S3Target) and far.credentials_file == folder / "s3-far"
    # systemd gave none for this one, so the file itself is meant.
    assert isinstance(farther, S3Target) and farther.credentials_file == Path("/none/farther")


def test_a_meeting_of_paths_is_seen_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    text = SMALL.replace("/none/model", str(tmp_path / "real")).replace(
        "/none/backups", str(tmp_path / "link/backups")
    )
    with pytest.raises(ConfigError, match=r"holds .*/real/backups, the path of the target 'disk'"):
        load(tmp_path, text)


def test_folders_whose_names_only_begin_alike_do_not_meet(tmp_path: Path) -> None:
    load(tmp_path, SMALL.replace("/none/backups", "/none/model-backups"))


def test_the_state_may_hold_a_target(tmp_path: Path) -> None:
    text = SMALL.replace("/none/backups", "/none/state/repository")
    assert load(tmp_path, text + "state_dir: /none/state\n").state_dir == Path("/none/state")


def test_check_names_everything_that_is_wrong_in_the_order_of_the_file(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "key: {file: key}\n"
        "targets: {disk: {type: local, path: /none/backups}}\n"
        "policies: {working: {keep_last: none}}\n"
        "models:\n"
        "  m: {path: /none/model, shedule: '* * * * *', targets: {disk: working}}\n",
    )
    settings, problems = check_config(file, HERE)
    assert settings is None
    assert [(problem.line, problem.message.split(":")[0]) for problem in problems] == [
        (1, "key.file"),
        (3, "policies.working.keep_last"),
        (5, "models.m.shedule"),
    ]
    assert str(problems[2].error()).startswith(f"{file}:5: ")


def test_a_key_that_others_can_read_is_warned_of(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"k")
    key.chmod(0o644)
    text = SMALL.replace("{encryption: none}", f"{{file: {key}}}")
    settings = load(tmp_path, text)
    assert f"{settings.source}:1: {key} can be read by others; run chmod 600 {key}" in (
        settings.warnings
    )
    key.chmod(0o600)
    assert not any("read by others" in warning for warning in load(tmp_path, text).warnings)


def test_what_is_unwise_is_warned_of_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    text = f"""\
key: {{file: /none/backups/key}}
targets:
  disk: {{type: local, path: /none/backups}}
  spare: {{type: local, path: /none/spare}}
policies:
  working: {{keep_last: 5}}
  idle: {{keep_last: 1}}
models:
  m: {{path: /none/model, targets: {{disk: working}}}}
  f: {{path: {tmp_path}/file, targets: {{disk: working}}}}
"""
    settings = load(tmp_path, text)
    at = str(settings.source)
    assert settings.warnings == (
        f"{at}:1: /none/backups/key lies within the target 'disk', so whoever has the target has"
        " the key; move it elsewhere",
        f"{at}:4: the target 'spare' is used by no model",
        f"{at}:7: the policy 'idle' is used by no model",
        f"{at}:9: /none/model does not exist yet",
        f"{at}:10: {tmp_path}/file is no folder",
    )


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: None, "there is no such file"),
        (lambda path: path.mkdir(), "it is a folder"),
        (lambda path: path.symlink_to(path.name), "it cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_said_so(tmp_path: Path, make: object, sentence: str) -> None:
    path = tmp_path / "backupd.yaml"
    make(path)  # type: ignore[operator]
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_config(path, {})
    assert caught.value.hint


def test_the_variable_then_the_users_file_then_the_systems_is_found(tmp_path: Path) -> None:
    user = tmp_path / ".config/backupd/backupd.yaml"
    system = tmp_path / "etc.yaml"
    home = {"HOME": str(tmp_path)}
    with pytest.raises(ConfigError, match=f"no configuration at {user} or {system}") as caught:
        find_config(home, system_file=system)
    assert "quickstart" in caught.value.hint
    system.write_text("")
    assert find_config(home, system_file=system) == system
    user.parent.mkdir(parents=True)
    user.write_text("")
    assert find_config(home, system_file=system) == user
    assert find_config({}, system_file=system) == system
    named = {**home, "BACKUPD_CONFIG": "/none/named.yaml"}
    assert find_config(named, system_file=system) == Path("/none/named.yaml")
