"""A model of two versions, and switches between them that are killed at a chosen moment."""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backupd.operations import swapping
from backupd.operations.snapshot import take_snapshot
from backupd.operations.switch import SwitchReport, find_version, switch
from tests.support.killing import kill_self, killed_in_child
from tests.support.world import MODEL, World, change_model, make_world, manifest_of

# What Python tells an audit hook of before it does it (sys.audit): every step that leaves a trace.
_TRACES = re.compile(
    r"os\.(rename|link|symlink|mkdir|remove|rmdir|utime|chmod|truncate)|ctypes\.dlopen"
    r"|fcntl\.flock|open"
)


def two_versions(root: Path, seed: int = 1) -> World:
    """A world whose folder is v2; small, so that a switch takes a few hundred steps."""
    world = make_world(root, seed=seed, size=200_000)
    (world.model_path / "only-v1").mkdir()
    (world.model_path / "only-v1" / "note").write_text("first")
    world.snapshot()
    rng = random.Random(seed)
    for _ in range(3):
        change_model(world.model_path, rng)
    (world.model_path / "only-v1" / "note").unlink()
    (world.model_path / "only-v1").rmdir()
    (world.model_path / "latest").unlink()
    (world.model_path / "latest").symlink_to("logs")
    (world.model_path / "new" / "deep").mkdir(parents=True)
    (world.model_path / "new" / "deep" / "file").write_bytes(rng.randbytes(90_000))
    world.snapshot()
    return world


def switched(world: World, version: str, **options: bool) -> SwitchReport:
    """Switch in this process."""
    model = world.settings.models[MODEL]
    with world.open() as installation:
        return switch(installation, model, find_version(installation, model, version), **options)


def without_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """A filesystem that cannot exchange two folders in one step."""
    monkeypatch.setattr(swapping, "rename_exchange", lambda one, other: False)


def steps_of(action: Callable[[], None]) -> int:
    """How many steps an action takes, done in a process of its own that ends well."""
    read, write = os.pipe()

    def child() -> None:
        count = [0]
        _on_step(lambda: count.__setitem__(0, count[0] + 1))
        action()
        os.write(write, str(count[0]).encode())

    assert not killed_in_child(child)
    os.close(write)
    told = int(os.read(read, 100))
    os.close(read)
    return told


def killed_at_step(number: int, action: Callable[[], None]) -> bool:
    """Whether a process died when it was about to take that step of an action."""

    def child() -> None:
        left = [number]

        def step() -> None:
            left[0] -= 1
            if not left[0]:
                kill_self()

        _on_step(step)
        action()

    return killed_in_child(child)


def killed_after(seconds: float, action: Callable[[], None]) -> bool:
    """Whether a process was killed before its action was done."""
    child = os.fork()
    if not child:
        try:
            action()
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def _on_step(act: Callable[[], None]) -> None:
    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if _TRACES.fullmatch(event) and (event != "open" or _writes(arguments)):
            act()

    sys.addaudithook(hook)


def _writes(arguments: tuple[object, ...]) -> bool:
    flags = arguments[2]
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def recovered(world: World) -> None:
    """What the next snapshot does, whoever takes it."""
    with world.open() as installation:
        take_snapshot(installation, world.settings.models[MODEL])


def attest(world: World, *, at_once: bool) -> int:
    """The folder is wholly one version, at once or after recovery; says which."""
    versions = {1: world.expected[1], 2: world.expected[2]}
    if at_once:
        assert manifest_of(world.model_path) in versions.values()
    else:
        assert not world.model_path.exists() or manifest_of(world.model_path) in versions.values()
    recovered(world)
    found = manifest_of(world.model_path)
    assert found in versions.values()
    left = [name for name in os.listdir(world.root) if name.startswith(".backupd")]
    assert left == [], "nothing is left behind"
    assert world.listed() == [1, 2], "what is a version already is not saved again"
    return 1 if found == versions[1] else 2
