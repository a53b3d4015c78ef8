"""The benchmark meets every program with the same folder, and believes no restore unseen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import inputs, report, rounds
from benchmarks.__main__ import main, parse_size
from benchmarks.inputs import Input, moved
from benchmarks.measure import Command, Cost
from benchmarks.peers import Copy, Peer, Rsync, find_program
from benchmarks.rounds import Figures

SIZE = 1 << 20


@pytest.fixture
def large(tmp_path: Path) -> Input:
    return inputs.build("large", tmp_path / "inputs", size_bytes=SIZE, cache=tmp_path / "cache")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def make_series(cache: Path, name: str) -> None:
    for step in range(50, 500, 50):
        checkpoint = cache / name / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "model.safetensors").write_bytes(str(step).encode() * 1000)


def test_an_input_is_the_same_each_time(tmp_path: Path, large: Input) -> None:
    again = inputs.build("large", tmp_path / "again", size_bytes=SIZE, cache=tmp_path / "cache")
    assert contents(again.source) == contents(large.source)
    assert large.size_bytes == SIZE


def test_a_change_replaces_one_file_of_eight_and_is_taken_back(large: Input) -> None:
    before = contents(large.source)
    with moved(large.change):
        changed = contents(large.source)
    assert changed.keys() == before.keys()
    assert sum(changed[name] != before[name] for name in before) == 1
    assert contents(large.source) == before


def test_a_change_is_taken_back_also_when_the_work_fails(large: Input) -> None:
    before = contents(large.source)
    with pytest.raises(RuntimeError, match="midway"), moved(large.change):
        raise RuntimeError("midway")
    assert contents(large.source) == before


def test_a_trained_series_holds_eight_checkpoints_and_the_next_replaces_the_oldest(
    tmp_path: Path,
) -> None:
    cache = tmp_path / "cache"
    for name in inputs.TRAINED:
        make_series(cache, name)
    given = inputs.build("scratch", tmp_path / "inputs", size_bytes=0, cache=cache)
    assert sorted(path.name for path in given.source.iterdir()) == sorted(
        f"checkpoint-{step}" for step in range(50, 450, 50)
    )
    with moved(given.change):
        names = {path.name for path in given.source.iterdir()}
    assert "checkpoint-50" not in names
    assert "checkpoint-450" in names


def test_every_verb_of_every_peer_is_measured_each_round(tmp_path: Path, large: Input) -> None:
    before = contents(large.source)
    figures = rounds.measure(large, [Copy, Rsync], work=tmp_path, repeat=2, series=False)
    assert {verb: len(costs) for verb, costs in figures["cp"].costs.items()} == {
        "first": 2,
        "restore": 2,
    }
    verbs = ("first", "unchanged", "restore", "check", "changed")
    assert {verb: len(costs) for verb, costs in figures["rsync"].costs.items()} == dict.fromkeys(
        verbs, 2
    )
    assert figures["cp"].stored_bytes["first"] == [SIZE, SIZE]
    assert contents(large.source) == before


class Keeper(Rsync):
    """Keeps what it has seen, beside what is there now."""

    name, keeps_versions = "keeper", True

    def snapshot(self) -> Command:
        return self.command("-a", f"{self.source}/", str(self.repository))


def test_a_series_is_stored_as_it_grew(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for name in inputs.TRAINED:
        make_series(cache, name)
    given = inputs.build("lora", tmp_path / "inputs", size_bytes=0, cache=cache)
    before = contents(given.source)
    figures = rounds.measure(given, [Keeper], work=tmp_path, repeat=1, series=True)
    assert len(figures["keeper"].costs["series"]) == 1
    assert len(figures["keeper"].costs["series restore"]) == 1
    assert figures["keeper"].stored_bytes["series"] == [given.size_bytes]
    assert contents(given.source) == before


class Forger(Copy):
    """Gives back another file than it was given."""

    name = "forger"

    def restore(self, to: Path) -> Command:
        line = f"cp -r {self.repository}/. {to} && printf x > {to}/part-5.bin"
        return Command(("sh", "-c", line))


def test_a_program_that_restores_other_bytes_is_named(tmp_path: Path, large: Input) -> None:
    with pytest.raises(rounds.WrongBytesError, match=r"forger did not restore part-5\.bin"):
        rounds.measure(large, [Forger], work=tmp_path, repeat=1, series=False)


def test_a_file_that_only_one_side_has_is_a_difference(tmp_path: Path) -> None:
    for side in ("left", "right"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "both").write_text("same")
    assert rounds.first_difference(tmp_path / "left", tmp_path / "right") == ""
    (tmp_path / "right" / "extra").touch()
    assert rounds.first_difference(tmp_path / "left", tmp_path / "right") == "extra"


def test_an_absent_program_is_named_with_how_to_install_it() -> None:
    class Absent(Peer):
        name, program, install = "absent", "no-such-program", "apt-get install absent"

    assert Absent.missing() == "absent is absent: apt-get install absent"
    assert find_program("sh").endswith("/sh")


def costs(*seconds: float) -> list[Cost]:
    return [Cost(value, value, 64 << 20, 0.0) for value in seconds]


def figures_of(first: list[Cost], stored: int) -> Figures:
    figures = Figures()
    figures.costs["first"] = first
    figures.stored_bytes["first"] = [stored]
    return figures


def test_the_tables_tell_medians_and_ratios(large: Input) -> None:
    figures = {
        "restic": figures_of(costs(9.0, 10.0, 20.0), SIZE),
        "backupd": figures_of(costs(4.0, 5.0, 6.0), SIZE // 2),
    }
    text = report.markdown(large, figures, against=["restic"], machine={"cores": 2})
    lines = [line.replace(" ", "") for line in text.splitlines()]
    assert "|firstsnapshot|1.00|2.00|" in lines
    assert "|firstsnapshot,s|10.00(9.00to20.00)|5.00(4.00to6.00)|" in lines
    assert "|storedbythefirstsnapshot|1.00|2.00|" in lines
    assert "quiet" not in text


def test_a_machine_that_was_busy_is_told(large: Input) -> None:
    figures = {"restic": figures_of([Cost(1.0, 1.0, 1, 0.4)], SIZE)}
    text = report.markdown(large, figures, against=["restic", "cp"], machine={})
    assert "other programs took 40% of its CPU time" in text


def test_the_command_prints_tables_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "figures.json"
    code = main(
        [
            *("--inputs", "large", "--size", "1M", "--repeat", "1", "--peers", "cp,rsync"),
            *("--against", "cp", "--json", str(target), "--work", str(tmp_path / "work")),
        ]
    )
    assert code == 0
    assert "| first snapshot" in capsys.readouterr().out
    (result,) = json.loads(target.read_text())["results"]
    assert result["input"] == "large"
    assert set(result["peers"]) == {"cp", "rsync"}
    assert list((tmp_path / "work").iterdir()) == []


def test_an_unknown_input_is_refused_with_those_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["--inputs", "huge"])
    assert "no input is named huge; there are large, small" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "size"), [("2G", 2 << 30), ("1.5m", 3 << 19), ("512", 512)])
def test_sizes_are_read_with_their_units(text: str, size: int) -> None:
    assert parse_size(text) == size
