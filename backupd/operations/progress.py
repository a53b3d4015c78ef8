"""How an operation tells the one who asked how far it is; it never prints."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A sink for progress; methods are cheap and may be called from any thread."""

    def begin(self, phase: str, total_bytes: int | None = None) -> None:
        """A phase starts (`scan`, `store`, `restore`, ...); `total_bytes` may grow later."""
        ...

    def grow(self, total_bytes: int) -> None:
        """`total_bytes` more belong to the phase than was known."""
        ...

    def advance(self, done_bytes: int, items: int = 0) -> None:
        """So many bytes and items more are done."""
        ...

    def note(self, message: str) -> None:
        """One sentence that the user should see, such as a file that was left out."""
        ...


class NoProgress:
    """Progress for those who do not care."""

    def begin(self, phase: str, total_bytes: int | None = None) -> None:
        """See `Progress`."""

    def grow(self, total_bytes: int) -> None:
        """See `Progress`."""

    def advance(self, done_bytes: int, items: int = 0) -> None:
        """See `Progress`."""

    def note(self, message: str) -> None:
        """See `Progress`."""
