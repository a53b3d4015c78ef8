"""Every parser under a fuzzer that is guided by coverage: `BACKUPD_TORTURE_CASES` cases each.

It raises what it may raise, gives what it promises, ends, and takes no memory by a number that
it was told. `tests.torture.fuzzing` says what that is for each of them.
"""

from __future__ import annotations

import importlib
import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.torture.fuzzing.fuzzer import Outcome, fuzz
from tests.torture.fuzzing.target import Target

pytestmark = [
    pytest.mark.torture,
    pytest.mark.timeout(0),
    pytest.mark.skipif(find_spec("atheris") is None, reason="there is no atheris here"),
]

CASES = int(os.environ.get("BACKUPD_TORTURE_CASES", "10000"))
PLENTY = 200_000
PLACE = "tests.torture.fuzzing"
PARSERS: dict[tuple[str, str], Target] = {
    (module, name): target
    for module in ("containers", "repository", "texts")
    for name, target in importlib.import_module(f"{PLACE}.{module}").TARGETS.items()
}
PLANTED: dict[str, Target] = importlib.import_module(f"{PLACE}.planted").TARGETS


@pytest.mark.parametrize(("module", "name"), PARSERS)
def test_no_bytes_break_a_parsers_promises(module: str, name: str, tmp_path: Path) -> None:
    target = PARSERS[module, name]
    outcome = fuzz(f"{PLACE}.{module}", name, target, tmp_path, cases=CASES)
    assert outcome.broken is None, f"{outcome.said}\nbroken by {outcome.broken!r}"
    assert outcome.cases >= CASES
    assert outcome.covered > 0, "the fuzzer is blind: nothing of the parser is followed"


@pytest.mark.parametrize(("module", "name"), PARSERS)
def test_a_seed_leads_into_the_parser(module: str, name: str) -> None:
    target = PARSERS[module, name]
    taken = 0
    for seed in target.seeds:
        try:
            target.check(seed)
            taken += 1
        except target.refusals:
            pass
    assert taken


def planted(name: str, folder: Path) -> Outcome:
    return fuzz(f"{PLACE}.planted", name, PLANTED[name], folder, cases=PLENTY)


@pytest.mark.parametrize("said", [name for name in PLANTED if name != "Done"])
def test_a_fault_is_found_and_told_with_the_bytes_that_show_it(said: str, tmp_path: Path) -> None:
    outcome = planted(said, tmp_path)
    assert outcome.broken is not None
    assert said in outcome.said
    if said == "IndexError":
        assert outcome.broken.startswith(b"fuz")


def test_a_refusal_is_no_fault(tmp_path: Path) -> None:
    outcome = planted("Done", tmp_path)
    assert outcome.broken is None
    assert outcome.cases >= PLENTY
