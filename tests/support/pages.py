"""What a page of the documentation has its reader type, and what it says will be printed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"\s+#.*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code: its language, its text, and the text block that follows it, or nothing."""

    language: str
    text: str
    printed: str = ""


def blocks(page: str) -> list[Block]:
    """The code blocks of a page, named by its path in the project, in their order."""
    found: list[Block] = []
    for language, text in _BLOCK.findall((ROOT / page).read_text()):
        if language == "text" and found:
            found[-1] = Block(found[-1].language, found[-1].text, text)
        else:
            found.append(Block(language, text))
    return found


def commands(page: str, beginning: str) -> list[str]:
    """The lines of a page's `sh` blocks with that beginning, without their comments."""
    lines = [
        line
        for block in blocks(page)
        if block.language in ("sh", "bash")
        for line in _COMMENT.sub("", block.text).splitlines()
    ]
    return [line for line in lines if line.startswith(beginning)]


def shape(printed: str) -> list[str]:
    """The lines of an output, with one sign for every number, size and date in them.

    What differs from run to run, and so between a page and a test, is gone: `3.00 MB in 0.1 s`
    becomes `# in #`.
    """
    known = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "#", printed)
    known = re.sub(r"[\d.,]*\d [kMG]?B\b", "#", known)
    known = re.sub(r"\b\d+\.\d+ s\b", "#", known)
    known = re.sub(r"\b\d+ (packs?|blobs?)\b", r"# \1", known)
    return [" ".join(line.split()) for line in known.splitlines()]
