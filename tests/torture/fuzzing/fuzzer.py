"""Starts a run of the fuzzer and reads what came of it."""

from __future__ import annotations

import hashlib
import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.torture.fuzzing.target import Target

ROOT = Path(__file__).parents[3]
_SEED = 1
# libFuzzer goes by the clock and not by the processor, so it is there for what hangs.
_HANGS = 20
_MOST_MEMORY_MIB = 1024
_CASES = re.compile(r"stat::number_of_executed_units: +(\d+)")
_COVERED = re.compile(r"cov: (\d+)")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many cases were tried, how many places of the code they reached, and the case that
    broke a promise, if one did, with what was said of it."""

    cases: int
    covered: int
    broken: bytes | None
    said: str


def fuzz(
    module: str, name: str, target: Target, folder: Path, *, cases: int, seconds: int = 0
) -> Outcome:
    """Try `cases` inputs on the target `name` of `module`, for at most `seconds` (0: no end).

    Seeds, words and what is found lie in `folder`.
    """
    seeds, found = folder / "seeds", folder / "found"
    seeds.mkdir(parents=True)
    found.mkdir()
    for seed in target.seeds:
        (seeds / hashlib.sha256(seed).hexdigest()).write_bytes(seed)
    # libFuzzer refuses a file without a word.
    words = "".join(f'"{_escaped(word)}"\n' for word in target.words or (b"\0",))
    (folder / "words").write_text(words)
    run = subprocess.run(
        [
            *(sys.executable, "-m", "tests.torture.fuzzing.child", module, name),
            *(f"-runs={cases}", f"-max_total_time={seconds}", f"-seed={_SEED}"),
            *(f"-max_len={target.most_bytes}", f"-dict={folder / 'words'}"),
            *("-use_value_profile=1", "-print_final_stats=1", "-reload=0"),
            *(
                f"-timeout={math.ceil(_HANGS * target.seconds)}",
                f"-rss_limit_mb={_MOST_MEMORY_MIB}",
            ),
            *(f"-artifact_prefix={found}/", str(seeds)),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "1", "MALLOC_ARENA_MAX": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        errors="replace",
        check=False,
    )
    tried = _CASES.search(run.stdout)
    # A slow unit is slow by the clock, as any is on a busy machine.
    breaking = [path for path in sorted(found.iterdir()) if not path.name.startswith("slow-unit")]
    broken = breaking[0].read_bytes() if breaking else None
    if tried is None and broken is None:
        said = run.stdout[-4000:]
        raise RuntimeError(f"the fuzzer did not run (status {run.returncode}):\n{said}")
    covered = _COVERED.findall(run.stdout)
    return Outcome(
        int(tried[1]) if tried else 0,
        int(covered[-1]) if covered else 0,
        broken,
        run.stdout[-6000:],
    )


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)
