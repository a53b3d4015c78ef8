"""Which of a model's files a snapshot keeps by its scheme, and the account of those it leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from backupd.capture.folders import name_of, shown
from backupd.capture.scan import LeftOutError, Scan, Scanned
from backupd.errors import BackupdError, UsageError
from backupd.policy.schemes import EVERYTHING, SCHEMES
from backupd.repository.snapshots import LeftOut
from backupd.repository.tree import FileType

if TYPE_CHECKING:
    from backupd.capture.containers.regions import Layout
    from backupd.capture.schemes import Classifier

_EXAMPLES = 5
_NEVER_LEFT = frozenset({FileType.FOLDER, FileType.SYMLINK})


def check_scheme(scheme: str) -> str:
    """`scheme`, where it is one. Raises `UsageError`."""
    if scheme not in SCHEMES:
        raise UsageError(
            f"there is no scheme {scheme!r}", hint=f"the schemes are {', '.join(SCHEMES)}"
        )
    return scheme


class Choice:
    """Decides file by file; folders and symlinks are always kept, as they hold nothing.

    A hard link is judged by its own name, and by the content that it shares.
    """

    def __init__(self, scheme: str, roles: Mapping[str, Sequence[str]], scan: Scan) -> None:
        """`roles` are the configuration's patterns by name of a role. Raises `ConfigError`."""
        self.scheme = check_scheme(scheme)
        self._kept = SCHEMES[scheme]
        self._scan = scan
        self._classifier = None if scheme == EVERYTHING else _classifier(roles)
        self._left: dict[str, tuple[int, int, tuple[str, ...]]] = {}

    def leaves(self, item: Scanned) -> bool:
        """Whether the scheme leaves a path out; its account is kept."""
        if self._classifier is None or item.type in _NEVER_LEFT:
            return False
        size = item.stat.st_size
        found = self._classifier.classify(item.path, size, lambda: self._layout(item))
        if found.roles & self._kept:
            return False
        role = min(role.value for role in found.roles)
        count, total, examples = self._left.get(role, (0, 0, ()))
        if len(examples) < _EXAMPLES:
            examples = (*examples, shown(item.path))
        # Another name of an inode that was counted takes no room.
        total += size if item.type is FileType.FILE else 0
        self._left[role] = (count + 1, total, examples)
        self._scan.release_link(item)
        return True

    def left_out(self) -> tuple[LeftOut, ...]:
        """What was left out so far, by role."""
        return tuple(LeftOut(role, *account) for role, account in sorted(self._left.items()))

    def _layout(self, item: Scanned) -> Layout | None:
        from backupd.capture.containers import identify, read_at_descriptor
        from backupd.capture.reading import open_for_capture

        try:
            with open_for_capture(self._scan, item) as file:
                read_at = read_at_descriptor(file.fd)
                return identify(read_at, file.stat.st_size, name_of(item.path))
        except (LeftOutError, BackupdError, OSError):
            return None  # capturing it says what is wrong


def _classifier(roles: Mapping[str, Sequence[str]]) -> Classifier:
    # Its patterns take milliseconds to compile, which a model that is kept whole need not pay.
    from backupd.capture.schemes import Classifier

    return Classifier(roles)
