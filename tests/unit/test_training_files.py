"""Step, epoch and metrics, from what the libraries leave in a training's folder."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from backupd.capture.training import Standing, read_standing


def told(name: str, content: str | bytes) -> Standing | None:
    data = content.encode() if isinstance(content, str) else content
    return read_standing(name.encode(), len(data), lambda at, length: data[at : at + length])


def test_a_trainers_state_tells_its_newest_figures() -> None:
    state = {
        "global_step": 500,
        "epoch": 1.25,
        "log_history": [
            {"loss": 2.0, "step": 100, "epoch": 0.5},
            {"eval_loss": 1.5, "eval_runtime": 3.0, "step": 500, "epoch": 1.25},
            {"loss": 1.0, "step": 500, "epoch": 1.25},
        ],
    }
    found = told("checkpoint-500/trainer_state.json", json.dumps(state))
    assert found == Standing(500, 1.25, {"loss": 1.0, "eval_loss": 1.5})


def test_lightnings_table_has_each_figure_in_a_row_of_its_own() -> None:
    table = "epoch,step,train_loss,val_loss\n0,9,2.5,\n0,9,,3.5\n1,19,1.5,\n"
    assert told("metrics.csv", table) == Standing(19, 1.0, {"train_loss": 1.5, "val_loss": 3.5})


def test_keras_counts_its_epochs_from_nothing() -> None:
    assert told("log.csv", "epoch,accuracy,loss\n0,0.5,2.0\n1,0.75,1.0\n") == Standing(
        None, 2.0, {"accuracy": 0.75, "loss": 1.0}
    )
    assert told("history.json", '{"loss": [2.0, 1.0], "val_loss": [3.0, 2.5]}') == Standing(
        None, 2.0, {"loss": 1.0, "val_loss": 2.5}
    )


def test_a_row_that_is_being_written_does_not_count() -> None:
    assert told("log.csv", "epoch,loss\n0,2.0\n1,1.") == Standing(None, 1.0, {"loss": 2.0})
    assert told("log.csv", "epoch,loss\n") is None
    assert told("log.csv", "epoch,lo") is None


def test_a_long_table_is_read_from_its_end() -> None:
    rows = "".join(f"{epoch},{1000 - epoch}.5\n" for epoch in range(100_000))
    found = told("log.csv", "epoch,loss\n" + rows)
    assert found == Standing(None, 100_000.0, {"loss": -98999.5})


def test_other_tables_and_other_json_tell_nothing() -> None:
    assert told("data.csv", "x,y\n1,2\n") is None
    assert told("history.json", '{"events": "many"}') is None
    assert told("trainer_state.json", '{"global_step": 5') is None
    assert told("trainer_state.json", "[1]") is None
    assert told("trainer_state.json", '{"global_step": "x", "log_history": 3}') == Standing()


@given(st.sampled_from(["trainer_state.json", "history.json", "log.csv"]), st.binary(max_size=300))
def test_whatever_lies_there_nothing_is_raised(name: str, data: bytes) -> None:
    told(name, data)


@given(st.text("epochstep,0123456789.\n\"'einf-", max_size=300))
def test_whatever_a_table_says_nothing_is_raised(text: str) -> None:
    told("log.csv", "epoch,step,loss\n" + text)


def test_json_of_very_many_values_tells_nothing() -> None:
    found = [
        told("trainer_state.json", '{"global_step": 5, "x": [' + "[]," * lists + "0]}")
        for lists in (999_000, 1_000_000)
    ]
    assert found == [Standing(5), None]
