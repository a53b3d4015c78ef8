"""README.md, typed as it stands, in a copy of the tree with a home folder that is empty."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from backupd.cli.main import COMMANDS
from backupd.config.load import check_text
from tests.rigs.command_line import CommandLine
from tests.support.pages import ROOT, blocks, commands

PAGES = sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"))
)
PACKAGED = ("backupd", "config", "docs", "systemd", "pyproject.toml", "README.md", "LICENSE")
FIRST_SCREEN_LINES = 45


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A person in a fresh clone, with Python and nothing else."""

    tree: Path
    home: Path
    first: str

    def type(self, line: str) -> str:
        """What the line prints; it must succeed."""
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.tree,
            env={
                "HOME": str(self.home),
                # The system's own commands, and the Python that has no packages of ours.
                "PATH": f"{sys.base_prefix}/bin:/usr/local/bin:/usr/bin:/bin",
                "LANG": "C.UTF-8",
                "COLUMNS": "80",
                # What others downloaded already need not be fetched again, nor compiled ahead.
                "PIP_CACHE_DIR": os.environ.get("PIP_CACHE_DIR", str(Path.home() / ".cache/pip")),
                "PIP_NO_COMPILE": "false",
                "PIP_RETRIES": "10",
                "PIP_DISABLE_PIP_VERSION_CHECK": "1",
                "PIP_ROOT_USER_ACTION": "ignore",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}"
        return done.stdout


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    folder = tmp_path_factory.mktemp("newcomer")
    tree, home = folder / "clone", folder / "home"
    tree.mkdir()
    home.mkdir()
    for name in PACKAGED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree / name)
    [line] = [line for line in commands("README.md", "python3 -m venv") if "quickstart" in line]
    before = Newcomer(tree, home, "")
    yield Newcomer(tree, home, before.type(line))
    shutil.rmtree(folder)


def test_the_first_command_sets_up_and_takes_a_snapshot(newcomer: Newcomer) -> None:
    assert "sample-model@v1" in newcomer.first
    assert re.search(r"(?:[A-Z2-7]{4}-){12}[A-Z2-7]{4}", newcomer.first)
    made = {path.relative_to(newcomer.home) for path in newcomer.home.glob(".*/*")}
    places = {".config/backupd", ".local/share", ".local/state"}
    assert {str(path) for path in made if path.parts[0] != ".cache"} == places
    page = (ROOT / "README.md").read_text()
    assert all(f"`~/{place}" in page for place in places)


def test_every_line_that_quickstart_offers_to_type_works_as_it_stands(newcomer: Newcomer) -> None:
    offered = re.findall(r"^    (\S*backupd .*)$", newcomer.first, re.MULTILINE)
    assert len(offered) == 2
    for line in offered:
        target = newcomer.home / "offered"
        assert "right" in newcomer.type(re.sub(r"/tmp/\S+", str(target), line)) or target.exists()


def test_the_restore_of_the_readme_gives_the_same_back(newcomer: Newcomer) -> None:
    [block] = [block for block in blocks("README.md") if "diff -r" in block.text]
    there = newcomer.home / "restored"
    said = newcomer.type("set -e\n" + block.text.replace("/tmp/sample-model", str(there)))
    assert "restored and verified" in said
    assert said.endswith("the same\n")
    assert (there / "latest/model.safetensors").stat().st_size > 1_000_000


def test_a_folder_of_ones_own_follows_the_sample_as_the_readme_has_it(newcomer: Newcomer) -> None:
    model = newcomer.home / "runs/llama-ft"
    model.mkdir(parents=True)
    (model / "weights.bin").write_bytes(b"weights")
    [line] = commands("README.md", ".venv/bin/backupd quickstart ~")
    assert "llama-ft@v1" in newcomer.type(f"{line} --once")
    assert "llama-ft@v1" in newcomer.type(".venv/bin/backupd list")


def test_the_command_that_runs_the_tests_is_the_one_that_ci_takes() -> None:
    found = subprocess.run(
        ["bash", "-c", r"grep -m1 -E '^[^#<|]*\bpytest\b' README.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert found in commands("README.md", "python3 -m venv")
    assert "pip install -q -e '.[test]'" in found
    assert "README.md" in (ROOT / ".ci/run").read_text()


def test_the_configuration_of_the_readme_is_right(tmp_path: Path) -> None:
    [block] = [block for block in blocks("README.md") if block.language == "yaml"]
    settings, problems = check_text(block.text.encode(), tmp_path / "b.yaml", {"HOME": "/root"})
    assert settings is not None, problems
    assert set(settings.targets) == {"disk", "nas", "s3"}


@pytest.mark.parametrize("page", ["docs/operating.md", "docs/disaster.md"])
def test_pieces_of_configuration_are_yaml(page: str) -> None:
    for block in blocks(page):
        if block.language == "yaml":
            assert isinstance(yaml.safe_load(block.text), dict)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_page_and_a_heading(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\((?!https?:|mailto:)([^)\s]*)\)", text):
        path, _, anchor = target.partition("#")
        linked = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}
            assert anchor in slugs, target


@pytest.mark.parametrize("page", ["README.md", "docs/operating.md", "docs/disaster.md"])
def test_every_command_and_option_of_the_pages_is_one_of_backupd(page: str, tmp_path: Path) -> None:
    text = (ROOT / page).read_text()
    typed = {
        (words[0], tuple(word for word in words[1:] if word.startswith("--")))
        for line in re.findall(r"\bbackupd ((?:[a-z]+)(?: [^`\n|>#]*)?)", text)
        if (words := line.split())[0] in COMMANDS
    }
    assert len(typed) > 4
    backupd = CommandLine(tmp_path, in_process=True)
    for name, options in typed:
        groups = {"config": ("check", "systemd"), "key": ("add", "list", "remove")}
        helps = [
            backupd.ok(name, *more, "--help").out
            for more in [(), *((sub,) for sub in groups.get(name, ()))]
        ]
        known = "\n".join([*helps, backupd.ok("--help").out])
        for option in options:
            assert option in known, (name, option)


def test_the_first_screen_shows_what_it_is_how_to_try_it_and_how_to_get_it_back() -> None:
    first = (ROOT / "README.md").read_text().splitlines()[:FIRST_SCREEN_LINES]
    screen = "\n".join(first)
    for needed in ("quickstart --once", "backupd restore", "-m pytest"):
        assert needed in screen


def test_an_empty_variable_is_as_none(tmp_path: Path) -> None:
    backupd = CommandLine(tmp_path, in_process=True)
    empty = {"BACKUPD_PASSPHRASE": "", "BACKUPD_KEY_FILE": ""}
    backupd.ok("quickstart", "--once", **empty)
    assert backupd.key.exists()
    assert "sample-model@v1" in backupd.ok("list").out


def test_a_key_of_the_environment_is_not_put_aside_for_one_that_opens_nothing(
    tmp_path: Path,
) -> None:
    backupd = CommandLine(tmp_path, in_process=True)
    mine = tmp_path / "mine"
    mine.write_text("a passphrase of my own\n")
    backupd.ok("quickstart", "--once", BACKUPD_KEY_FILE=str(mine))
    assert not backupd.key.exists()
    assert "sample-model@v1" in backupd.ok("list", BACKUPD_KEY_FILE=str(mine)).out
