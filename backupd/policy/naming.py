"""Names of snapshots by a template: rendered, read back, and refused where two would be one.

Pure: a name is a function of the template and of the snapshot's words, and the other way round.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

DEFAULT_NAMING = "{model_name}_{YYYYMMDD}_v{version}"
MAX_NAME_LENGTH = 400

_PIECE = re.compile(r"\{([^{}]*)\}|([^{}])")
_LITERAL = re.compile(r"[A-Za-z0-9._+=,~-]")
_NAME_FIRST = "[A-Za-z0-9]"
_NAME_REST = "[A-Za-z0-9._-]"
_DIGIT = "[0-9]"

# What a word looks like, as a run of character classes; the last one may go on where `True`.
_SHAPES: Mapping[str, tuple[tuple[str, ...], bool]] = {
    "name": ((_NAME_FIRST, _NAME_REST), True),
    "number": (("[1-9]", _DIGIT), True),
    "date": ((_DIGIT,) * 4 + ("-",) + (_DIGIT,) * 2 + ("-",) + (_DIGIT,) * 2, False),
    "compact date": ((_DIGIT,) * 8, False),
}
WORDS: Mapping[str, str] = {
    "project_name": "name",
    "model_name": "name",
    "model": "name",
    "host": "name",
    "version": "number",
    "date": "date",
    "YYYYMMDD": "compact date",
}
_SAME = {"model": "model_name", "date": "YYYYMMDD"}


@dataclass(frozen=True, slots=True)
class NameWords:
    """What a rendered name says; what the template has no word for is empty or 0.

    `date` is `YYYY-MM-DD` in the model's time zone.
    """

    model: str
    version: int
    project: str = ""
    host: str = ""
    date: str = ""


@dataclass(frozen=True, slots=True)
class Template:
    """A naming template that is one-to-one: literals and words in turn."""

    text: str
    pieces: tuple[tuple[str, str], ...]
    pattern: re.Pattern[str]

    def render(self, words: NameWords) -> str:
        """The name; where the snapshot has no project, `none` stands for it."""
        return "".join(
            value if kind == "literal" else _render_word(value, words)
            for kind, value in self.pieces
        )

    def parse(self, name: str) -> NameWords | None:
        """What `render` was given, as far as the name tells; None where it is no such name."""
        if len(name) > MAX_NAME_LENGTH:
            return None
        match = self.pattern.fullmatch(name)
        if match is None:
            return None
        found = match.groupdict()
        date = found.get("date") or ""
        compact = found.get("YYYYMMDD")
        if compact:
            date = f"{compact[:4]}-{compact[4:6]}-{compact[6:]}"
        return NameWords(
            model=found.get("model_name") or found.get("model") or "",
            version=int(found["version"]),
            project=found.get("project_name") or "",
            host=found.get("host") or "",
            date=date,
        )


def parse_template(text: str) -> Template:
    """Read a template.

    Raises `ValueError("what is wrong; the mend")` where it is none or is not one-to-one.
    """
    pieces = _split(text)
    words = [value for kind, value in pieces if kind == "word"]
    for word in words:
        if words.count(word) > 1:
            raise ValueError(f"holds {{{word}}} twice; keep one of the two")
        if word in _SAME and _SAME[word] in words:
            raise ValueError(
                f"holds {{{word}}} and {{{_SAME[word]}}}, which say the same; keep one"
            )
    if "version" not in words:
        raise ValueError(
            "gives v1 and v2 of one day the same name; put {version} into it, as in"
            f' "{DEFAULT_NAMING}"'
        )
    if "model" not in words and "model_name" not in words:
        raise ValueError(
            "gives v1 of any two models the same name; put {model_name} into it, as in"
            f' "{DEFAULT_NAMING}"'
        )
    clash = _find_clash(pieces)
    if clash is not None:
        name, first, second = clash
        raise ValueError(
            f"is not one-to-one: {name!r} would be {_tell(first)} and also {_tell(second)}; put a"
            " character between the words that names cannot hold, such as +, = or ~"
        )
    pattern = "".join(
        re.escape(value) if kind == "literal" else f"(?P<{value}>{_word_pattern(value)})"
        for kind, value in pieces
    )
    return Template(text, tuple(pieces), re.compile(pattern))


def _split(text: str) -> list[tuple[str, str]]:
    pieces: list[tuple[str, str]] = []
    end = 0
    for match in _PIECE.finditer(text):
        if match.start() != end:
            break
        end = match.end()
        word, literal = match[1], match[2]
        if literal is not None:
            if not _LITERAL.fullmatch(literal):
                raise ValueError(
                    f"holds {literal!r}; between the words use letters, digits and . _ + = , ~ -"
                )
            pieces.append(("literal", literal))
        elif word in WORDS:
            pieces.append(("word", word))
        else:
            known = ", ".join(f"{{{name}}}" for name in WORDS)
            raise ValueError(f"holds {{{word}}}, which is no word of names; the words are {known}")
    if end != len(text) or len(text) > 200:
        raise ValueError(
            "is no template; write words in braces, at most 200 characters in all, as in"
            f' "{DEFAULT_NAMING}"'
        )
    return pieces


def _word_pattern(word: str) -> str:
    classes, more = _SHAPES[WORDS[word]]
    return "".join(classes[:-1]) + classes[-1] + ("*" if more else "")


def _render_word(word: str, words: NameWords) -> str:
    if word == "version":
        return str(words.version)
    if word == "date":
        return words.date
    if word == "YYYYMMDD":
        return words.date.replace("-", "")
    if word == "project_name":
        return words.project or "none"
    return words.host if word == "host" else words.model


def _tell(assignment: Mapping[str, str]) -> str:
    return " ".join(f"{word} {value!r}" for word, value in assignment.items())


# A state of reading a name: which piece is being read, and how many of its classes are done.
_State = tuple[int, int]


def _steps(pieces: list[tuple[str, str]], state: _State, character: str) -> list[_State]:
    """Where reading `character` leads; a word that may end goes on to the next piece as well."""
    found: list[_State] = []
    piece, done = state
    while piece < len(pieces):
        kind, value = pieces[piece]
        if kind == "literal":
            if character == value:
                found.append((piece + 1, 0))
            break
        classes, more = _SHAPES[WORDS[value]]
        if done < len(classes):
            if re.fullmatch(classes[done], character):
                following = done + 1
                if following == len(classes) and not more:
                    found.append((piece + 1, 0))
                else:
                    found.append((piece, following))
        elif more and re.fullmatch(classes[-1], character):
            found.append((piece, done))
        # A name or number is whole after its first character, so the next piece may begin.
        if not (more and done >= 1):
            break
        piece, done = piece + 1, 0
    return found


def _ends(pieces: list[tuple[str, str]], state: _State) -> bool:
    piece, done = state
    return piece == len(pieces) or (
        piece == len(pieces) - 1 and pieces[piece][0] == "word" and done >= 1
        and _SHAPES[WORDS[pieces[piece][1]]][1]
    )  # fmt: skip


def _find_clash(
    pieces: list[tuple[str, str]],
) -> tuple[str, Mapping[str, str], Mapping[str, str]] | None:
    """The shortest name that can be read in two ways, and both readings; None when there is none.

    Two readings of the same characters are walked side by side (the product of the template's
    automaton with itself); the template is ambiguous when they part and both come to the end.
    One character stands for each class, since the classes are all that the automaton sees.
    """
    alphabet = list(dict.fromkeys([*"1a0-._", *(v for kind, v in pieces if kind == "literal")]))
    start = ((0, 0), (0, 0), False)
    before: dict[tuple[_State, _State, bool], tuple[tuple[_State, _State, bool], str] | None]
    before = {start: None}
    queue = deque([start])
    while queue:
        here = queue.popleft()
        left, right, parted = here
        if parted and _ends(pieces, left) and _ends(pieces, right):
            trail = []
            step = before[here]
            while step is not None:
                trail.append((step[1], here))
                here = step[0]
                step = before[here]
            trail.reverse()
            name = "".join(character for character, _ in trail)
            lefts = _assign(pieces, [(c, states[0]) for c, states in trail])
            rights = _assign(pieces, [(c, states[1]) for c, states in trail])
            return name, lefts, rights
        for character in alphabet:
            for next_left in _steps(pieces, left, character):
                for next_right in _steps(pieces, right, character):
                    following = (next_left, next_right, parted or next_left != next_right)
                    if following not in before:
                        before[following] = (here, character)
                        queue.append(following)
    return None


def _assign(pieces: list[tuple[str, str]], trail: list[tuple[str, _State]]) -> Mapping[str, str]:
    """Which characters of a walk went to which word."""
    values: dict[str, str] = {}
    for character, (piece, done) in trail:
        # A finished fixed-width word or literal leaves the state at the start of the next piece.
        at = piece if done else piece - 1
        if pieces[at][0] == "word":
            values[pieces[at][1]] = values.get(pieces[at][1], "") + character
    return values
