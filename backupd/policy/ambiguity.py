"""Whether a template's names can be read in two ways, and the shortest that can. Pure.

A template is a run of literals and words; each word has a shape of character classes. The
classes may be wider than what is rendered: then a template is refused that need not be, never
the other way round.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# One character for each part into which the classes of all shapes cut the alphabet.
_ALPHABET = "1a0no-._%"


@dataclass(frozen=True, slots=True)
class Shape:
    """What a word looks like: a character of each class in turn.

    Where `more`, the word may end after its first character, and the last class may repeat.
    An `optional` word may be empty.
    """

    classes: tuple[str, ...]
    more: bool = False
    optional: bool = False

    def may_end(self, done: int) -> bool:
        """Whether a word of which so many classes are read may be whole."""
        return done >= 1 if self.more and done else self.optional and not done


@dataclass(frozen=True, slots=True)
class Piece:
    """One character that stands for itself, or a word with its shape."""

    text: str
    shape: Shape | None = None


# A state of reading a name: which piece is being read, and how many of its classes are done.
_State = tuple[int, int]
_Pair = tuple[_State, _State, bool]

Reading = Sequence[tuple[str, str]]
"""The words of a template in order, each with the characters that it took."""


def find_clash(pieces: Sequence[Piece]) -> tuple[str, Reading, Reading] | None:
    """The shortest name that can be read in two ways, and both readings; None when there is none.

    Two readings of the same characters are walked side by side (the product of the template's
    automaton with itself); the template is ambiguous when they part and both come to the end.
    """
    alphabet = list(dict.fromkeys([*_ALPHABET, *(p.text for p in pieces if p.shape is None)]))
    start: _Pair = ((0, 0), (0, 0), False)
    before: dict[_Pair, tuple[_Pair, str] | None] = {start: None}
    queue = deque([start])
    steps: dict[tuple[_State, str], list[_State]] = {}

    def step(state: _State, character: str) -> list[_State]:
        found = steps.get((state, character))
        if found is None:
            found = steps[state, character] = _steps(pieces, state, character)
        return found

    while queue:
        here = queue.popleft()
        left, right, parted = here
        if parted and _ends(pieces, left) and _ends(pieces, right):
            return _told(pieces, here, before)
        for character in alphabet:
            for next_left in step(left, character):
                for next_right in step(right, character):
                    following = (next_left, next_right, parted or next_left != next_right)
                    if following not in before:
                        before[following] = (here, character)
                        queue.append(following)
    return None


def _steps(pieces: Sequence[Piece], state: _State, character: str) -> list[_State]:
    """Where reading `character` leads; a word that may end goes on to the next piece as well."""
    found: list[_State] = []
    at, done = state
    while at < len(pieces):
        shape = pieces[at].shape
        if shape is None:
            if character == pieces[at].text:
                found.append((at + 1, 0))
            break
        if done < len(shape.classes):
            if re.fullmatch(shape.classes[done], character):
                last = done + 1 == len(shape.classes) and not shape.more
                found.append((at + 1, 0) if last else (at, done + 1))
        elif shape.more and re.fullmatch(shape.classes[-1], character):
            found.append((at, done))
        if not shape.may_end(done):
            break
        at, done = at + 1, 0
    return found


def _ends(pieces: Sequence[Piece], state: _State) -> bool:
    at, done = state
    for piece in pieces[at:]:
        if piece.shape is None or not piece.shape.may_end(done):
            return False
        done = 0
    return True


def _told(
    pieces: Sequence[Piece],
    end: _Pair,
    before: Mapping[_Pair, tuple[_Pair, str] | None],
) -> tuple[str, Reading, Reading]:
    trail: list[tuple[str, _Pair]] = []
    step = before[end]
    while step is not None:
        trail.append((step[1], end))
        end = step[0]
        step = before[end]
    trail.reverse()
    name = "".join(character for character, _ in trail)
    return (
        name,
        _assigned(pieces, [(character, pair[0]) for character, pair in trail]),
        _assigned(pieces, [(character, pair[1]) for character, pair in trail]),
    )


def _assigned(pieces: Sequence[Piece], trail: Sequence[tuple[str, _State]]) -> Reading:
    """Which characters of a walk went to which word."""
    values: dict[int, str] = {}
    for character, (piece, done) in trail:
        # A finished fixed-width word or literal leaves the state at the start of the next piece.
        at = piece if done else piece - 1
        if pieces[at].shape is not None:
            values[at] = values.get(at, "") + character
    return [(pieces[at].text, value) for at, value in sorted(values.items())]
