"""One run of the fuzzer, in a process of its own, as libFuzzer ends the one that it runs in.

`python -m tests.torture.fuzzing.child MODULE TARGET [libFuzzer's options]`
"""

from __future__ import annotations

import importlib
import logging
import os
import resource
import sys
import time
import warnings
from pathlib import Path

import atheris

from tests.torture.fuzzing.target import Target

# What parsers are made of. The standard library's are followed too, where Python can see into
# them: an opcode that `pickletools` knows is an opcode that is tried.
FOLLOWED = ["backupd", "picklescan", "pickletools", "tests.torture.fuzzing"]
# How many times a case's memory may be taken as addresses beyond those of the start. An
# allocation that nobody writes to shows in them alone.
ADDRESSES = 4
_PAGE_BYTES = resource.getpagesize()


def load(module: str, name: str) -> Target:
    """The target, with all that it calls made to tell the fuzzer where it goes."""
    with atheris.instrument_imports(include=FOLLOWED, enable_loader_override=False):
        found: dict[str, Target] = importlib.import_module(module).TARGETS
    return found[name]


class Bounded:
    """Gives bytes to a target, and sees to what it takes."""

    def __init__(self, target: Target) -> None:
        self._target = target
        # The kernel's word on this program; getrusage(2) also counts the one that started it.
        self._status = os.open("/proc/self/status", os.O_RDONLY)

    def __call__(self, data: bytes) -> None:
        target, before, started = self._target, self._peak(), time.process_time()
        try:
            target.check(data)
        except target.refusals:
            pass
        spent, grown = time.process_time() - started, self._peak() - before
        assert grown <= target.memory_bytes, f"took {grown} bytes of memory"
        assert spent <= target.seconds, f"took {spent:.1f} s"

    def _peak(self) -> int:
        status = os.pread(self._status, 4096, 0)
        begin = status.index(b"VmHWM:") + len(b"VmHWM:")
        return int(status[begin : status.index(b"kB", begin)]) * 1024


def limit_addresses(more: int) -> None:
    """Let this process have so many bytes of addresses more than it has."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * _PAGE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (now + more, now + more))


def main() -> None:
    """Run until libFuzzer says that it is enough, or a promise is broken."""
    module, name, *options = sys.argv[1:]
    warnings.simplefilter("ignore")
    logging.disable()
    target = load(module, name)
    check = Bounded(target)
    for seed in target.seeds:
        check(seed)
    limit_addresses(ADDRESSES * target.memory_bytes)
    atheris.Setup([sys.argv[0], *options], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
