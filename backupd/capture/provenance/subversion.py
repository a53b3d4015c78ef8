"""A Subversion working copy, asked for its revision, its changes and what it does not know."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from xml.etree import ElementTree

from backupd.capture.provenance.running import (
    ProgramError,
    Programs,
    working_folder,
)

_NEW = re.compile(rb"^--- [^\n]*\t\(nonexistent\)\n(\+\+\+ )", re.MULTILINE)
_GONE = re.compile(rb"^(--- [^\n]*\n)\+\+\+ [^\n]*\t\(nonexistent\)\n", re.MULTILINE)
_MOST_XML_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Status:
    """Whether versioned files changed, and the paths that are not versioned or are ignored."""

    changed: bool
    unversioned: frozenset[bytes]
    ignored: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class WorkingCopy:
    """A working copy: the address and the revision it is of."""

    programs: Programs
    url: str
    revision: int

    def status(self) -> Status:
        """What differs from the revision. Raises `ProgramError`."""
        changed = False
        unversioned, ignored = set(), set()
        answer = _svn(self.programs, "status", "--xml", "--no-ignore", ".")
        for entry in _parsed(answer).iter("entry"):
            about = entry.find("wc-status")
            if about is None:
                continue
            item = about.get("item", "")
            path = os.fsencode(os.path.normpath(entry.get("path", "")))
            if item == "unversioned":
                unversioned.add(path)
            elif item == "ignored":
                ignored.add(path)
            elif item not in ("normal", "external", "none") or about.get("props") == "modified":
                changed = True
        return Status(changed, frozenset(unversioned), frozenset(ignored))

    def patch(self) -> bytes:
        """The changes of texts, without those of properties. Raises `ProgramError`."""
        patch = _svn(
            self.programs, "diff", "--internal-diff", "--ignore-properties", "--force", "."
        )
        # The form that says to others that a file is new or gone, and not merely empty.
        patch = _NEW.sub(rb"--- /dev/null\n\1", patch)
        return _GONE.sub(rb"\1+++ /dev/null\n", patch)


def open_working_copy(programs: Programs) -> WorkingCopy | None:
    """The working copy that the folder of `programs` is of, None where it is of none.

    Raises `ProgramError`.
    """
    if not _below_a_copy(programs.folder):
        return None
    entry = _parsed(_svn(programs, "info", "--xml", ".")).find("entry")
    if entry is None:
        return None
    # A folder that was only just added has words where its revision will be.
    revision = entry.get("revision", "")
    number = int(revision) if revision.isdigit() else 0
    return WorkingCopy(programs, entry.findtext("url", ""), number)


def _below_a_copy(folder: bytes) -> bool:
    folder = os.path.realpath(folder)
    while True:
        if os.path.isdir(os.path.join(folder, b".svn")):
            return True
        above = os.path.dirname(folder)
        if above == folder:
            return False
        folder = above


def _svn(programs: Programs, *arguments: str) -> bytes:
    """Run svn without the user's configuration, which can name programs to compare with."""
    with working_folder(programs) as configuration:
        return replace(programs, variables={}).run(
            ["svn", "--non-interactive", "--config-dir", configuration, *arguments],
            most_bytes=_MOST_XML_BYTES,
        )


def _parsed(answer: bytes) -> ElementTree.Element:
    # svn's own output has no document type; with one, entities could grow without bound.
    if re.search(rb"<!(?:DOCTYPE|ENTITY)", answer):
        raise ProgramError("svn gave what it never gives: a document type")
    try:
        return ElementTree.fromstring(answer)  # noqa: S314 - checked above
    except ElementTree.ParseError as error:
        raise ProgramError(f"svn gave no XML: {error}") from None
