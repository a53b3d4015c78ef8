"""Doing something in many threads that all begin at the same moment."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def at_once() -> Callable[[int, Callable[[int], Any]], list[Any]]:
    """Run a function in many threads that all begin at the same moment; their results."""

    def run(count: int, action: Callable[[int], Any]) -> list[Any]:
        barrier = threading.Barrier(count)
        results: list[Any] = [None] * count

        def one(number: int) -> None:
            barrier.wait()
            try:
                results[number] = action(number)
            except Exception as error:
                results[number] = error

        threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    return run
