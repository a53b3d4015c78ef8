"""Doing something in a process of its own that is killed, as `kill -9` does, at a chosen moment."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable

from backupd.targets.base import Target
from tests.support.world import Countdown, GatedTarget, World

_PATIENCE_SECONDS = 200.0


def kill_self() -> None:
    """What the kernel does to a process that is killed: no handler, no flush, no farewell."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(_PATIENCE_SECONDS)


def killed_in_child(action: Callable[[], None]) -> bool:
    """Whether a forked process was killed while it did `action`; false when it ended well."""
    child = os.fork()
    if not child:
        status = 1
        try:
            action()
            status = 0
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(status)
    end = time.monotonic() + _PATIENCE_SECONDS
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError("the process hangs")
        time.sleep(0.002)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "it failed for another reason; see above"
    return False


def killed_at(
    number: int,
    world: World,
    work: Callable[[World, Callable[[Target], Target]], None],
    *,
    after: bool,
    reads: bool = False,
) -> bool:
    """Do `work(world, wrap)` in a process that dies at its `number`-th operation on a target.

    It dies before the operation took effect, or `after`. False when it ended before that.
    """

    def child() -> None:
        fatal = Countdown(number, kill_self)

        def wrap(target: Target) -> Target:
            if after:
                return GatedTarget(target, after=fatal, reads=reads)
            return GatedTarget(target, before=fatal, reads=reads)

        work(world, wrap)

    return killed_in_child(child)
