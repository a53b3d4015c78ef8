"""Taking little of the box: CPU and disk priority of this process, as the configuration says."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from backupd.config.settings import LimitsSettings

# ioprio_set(2) has no wrapper in libc. Numbers from the kernel's syscall tables.
_IOPRIO_SET = {
    "x86_64": 251,
    "aarch64": 30,
    "riscv64": 30,
    "ppc64le": 273,
    "s390x": 282,
}
_WHO_PROCESS = 1
_CLASS_SHIFT = 13
# Class 3 is idle; class 2 is best effort, of which level 7 is the least; 0 is the kernel's default.
_CLASSES = {"idle": 3 << _CLASS_SHIFT, "best-effort": (2 << _CLASS_SHIFT) | 7, "none": 0}


def apply_limits(limits: LimitsSettings) -> list[str]:
    """Set the priorities; the sentences say what could not be set and why.

    Both are properties of a thread on Linux (sched(7), ioprio_set(2)), which new threads inherit,
    so those that run are set one by one.
    """
    problems: dict[str, None] = {}
    for thread in sorted(int(entry.name) for entry in Path("/proc/self/task").iterdir()):
        try:
            if os.getpriority(os.PRIO_PROCESS, thread) != limits.nice:
                os.setpriority(os.PRIO_PROCESS, thread, limits.nice)
        except ProcessLookupError:
            continue
        except OSError as error:
            problems[f"limits.nice {limits.nice} was not set: {error.strerror}"] = None
        failure = _set_io_priority(thread, _CLASSES[limits.io])
        if failure:
            problems[f"limits.io {limits.io} was not set: {failure}"] = None
    return list(problems)


def _set_io_priority(thread: int, value: int) -> str:
    number = _IOPRIO_SET.get(os.uname().machine)
    if number is None:
        return f"unknown on {os.uname().machine}"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, _WHO_PROCESS, thread, value) == 0:
        return ""
    return os.strerror(ctypes.get_errno())
