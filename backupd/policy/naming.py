"""Names of snapshots by a template: rendered, read back, and refused where two would be one.

Pure: a name is a function of the template and of the snapshot's words, and the other way round.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from backupd.policy.ambiguity import Piece, Reading, Shape, find_clash

DEFAULT_NAMING = "{model_name}_{YYYYMMDD}_v{version}"
DEFAULT_LAYOUT = "{project_name}/{date}/{model}/"
MAX_NAME_LENGTH = 1000
NONE = "none"
"""What stands in a name for a project, a step or a label that the snapshot has not."""

_MAX_TEMPLATE = 200
_PIECE = re.compile(r"\{([^{}]*)\}|([^{}])")
_LABEL = re.compile(r"label\.([A-Za-z0-9._-]{1,64})")
_BETWEEN = re.compile(r"[A-Za-z0-9._+=,~-]")
_NAME = Shape(("[A-Za-z0-9]", "[A-Za-z0-9._-]"), more=True)
_NUMBER = Shape(("[1-9]", "[0-9]"), more=True)
_DATE = Shape(("[0-9]",) * 4 + ("-",) + ("[0-9]",) * 2 + ("-",) + ("[0-9]",) * 2)
_COMPACT_DATE = Shape(("[0-9]",) * 8)
_STEP = Shape(("[0-9n]", "[0-9one]"), more=True)
_VALUE = Shape(("[A-Za-z0-9_%]", "[A-Za-z0-9._%-]"), more=True)
_ENDING = Shape((r"\.", "[A-Za-z0-9.]"), more=True, optional=True)

# Each word's shape, and the exact form of what is rendered.
_WORDS: Mapping[str, tuple[Shape, str]] = {
    "project_name": (_NAME, "[A-Za-z0-9][A-Za-z0-9._-]*"),
    "model_name": (_NAME, "[A-Za-z0-9][A-Za-z0-9._-]*"),
    "model": (_NAME, "[A-Za-z0-9][A-Za-z0-9._-]*"),
    "host": (_NAME, "[A-Za-z0-9][A-Za-z0-9._-]*"),
    "version": (_NUMBER, "[1-9][0-9]*"),
    "date": (_DATE, "[0-9]{4}-[0-9]{2}-[0-9]{2}"),
    "YYYYMMDD": (_COMPACT_DATE, "[0-9]{8}"),
    "step": (_STEP, "(?:none|0|[1-9][0-9]*)"),
    "ext": (_ENDING, r"(?:\.[A-Za-z0-9.]+)?"),
}
_LABEL_FORM = "[A-Za-z0-9_%][A-Za-z0-9._%-]*"
_SAME = {"model": "model_name", "date": "YYYYMMDD"}


class TemplateKind(enum.Enum):
    """What a template is for, and so which words it may and must hold."""

    NAMING = "naming"
    """The name of one snapshot: one word of a file system or a command line."""
    LAYOUT = "layout"
    """A path below a folder: as a naming, with `/`, `{ext}`, and words as often as one likes."""
    PATTERN = "pattern"
    """The names of folders that others made: any words, any characters between them."""


@dataclass(frozen=True, slots=True)
class NameWords:
    """What a rendered name says; what the template has no word for is empty, 0 or None.

    `date` is `YYYY-MM-DD` in the model's time zone. `labels` are those that the snapshot has,
    or, of a name that was read, those that the template asks for and the snapshot had. `ext`
    begins with its dot.
    """

    model: str = ""
    version: int = 0
    project: str = ""
    host: str = ""
    date: str = ""
    step: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    ext: str = ""


@dataclass(frozen=True, slots=True)
class Template:
    """A naming template that is one-to-one: literals and words in turn."""

    text: str
    pieces: tuple[Piece, ...]
    pattern: re.Pattern[str]

    @property
    def words(self) -> frozenset[str]:
        """The words that it holds."""
        return frozenset(piece.text for piece in self.pieces if piece.shape is not None)

    def render(self, words: NameWords) -> str:
        """The name; where the snapshot lacks what a word asks for, `none` stands for it."""
        return "".join(
            piece.text if piece.shape is None else _render_word(piece.text, words)
            for piece in self.pieces
        )

    def parse(self, name: str) -> NameWords | None:
        """What `render` was given, as far as the name tells; None where it is no such name."""
        if len(name) > MAX_NAME_LENGTH:
            return None
        match = self.pattern.fullmatch(name)
        if match is None:
            return None
        texts = [piece.text for piece in self.pieces if piece.shape is not None]
        try:
            found = _words_of(list(zip(texts, match.groups(), strict=True)))
        except UnicodeDecodeError:
            return None
        # A word that stands there twice must say the same, and a label be written as we write it.
        return found if self.render(found) == name else None


def parse_template(text: str, kind: TemplateKind = TemplateKind.NAMING) -> Template:
    """Read a template.

    Raises `ValueError("what is wrong; the mend")` where it is none or is not one-to-one.
    """
    pieces = _split(text, kind)
    words = [piece.text for piece in pieces if piece.shape is not None]
    if kind is TemplateKind.NAMING:
        _refuse_repeated(words)
    if kind is not TemplateKind.PATTERN:
        _refuse_missing(words, kind)
    elif not words:
        raise ValueError("holds no word; write one, such as {date} or {version}")
    clash = find_clash(pieces)
    if clash is not None:
        name, first, second = clash
        raise ValueError(
            f"is not one-to-one: {name!r} would be {_tell(first)} and also {_tell(second)}; put a"
            " character between the words that names cannot hold, such as +, = or ~"
        )
    pattern = "".join(
        re.escape(piece.text) if piece.shape is None else f"({_form(piece.text)})"
        for piece in pieces
    )
    return Template(text, tuple(pieces), re.compile(pattern))


def parse_layout(layout: str, naming: str) -> Template:
    """The template of a path; one that ends in `/` is a folder, and the name goes into it.

    Where it has no `{ext}`, the ending is for the caller to add.
    Raises `ValueError("what is wrong; the mend")`.
    """
    whole = f"{layout}{naming}" if layout.endswith("/") or not layout else layout
    return parse_template(whole, TemplateKind.LAYOUT)


def _split(text: str, kind: TemplateKind) -> list[Piece]:
    pieces: list[Piece] = []
    end = 0
    for match in _PIECE.finditer(text):
        if match.start() != end:
            break
        end = match.end()
        word, literal = match[1], match[2]
        if literal is not None:
            _refuse_literal(literal, kind)
            pieces.append(Piece(literal))
        elif word in _WORDS and (word != "ext" or kind is not TemplateKind.NAMING):
            pieces.append(Piece(word, _WORDS[word][0]))
        elif _LABEL.fullmatch(word):
            pieces.append(Piece(word, _VALUE))
        elif word == "ext":
            raise ValueError("holds {ext}, which only a layout can; a snapshot has no ending")
        else:
            names = [name for name in _WORDS if name != "ext" or kind is not TemplateKind.NAMING]
            known = ", ".join(f"{{{name}}}" for name in (*names, "label.K"))
            raise ValueError(f"holds {{{word}}}, which is no word of names; the words are {known}")
    if end != len(text) or len(text) > 2 * _MAX_TEMPLATE or (
        kind is not TemplateKind.LAYOUT and len(text) > _MAX_TEMPLATE
    ):  # fmt: skip
        raise ValueError(
            "is no template; write words in braces, at most 200 characters in all, as in"
            f' "{DEFAULT_NAMING}"'
        )
    if kind is TemplateKind.LAYOUT and any(part in ("", ".", "..") for part in text.split("/")):
        raise ValueError(
            f'is no path below a folder; write names joined by single /, as in "{DEFAULT_LAYOUT}"'
        )
    return pieces


def _refuse_literal(literal: str, kind: TemplateKind) -> None:
    if kind is TemplateKind.PATTERN and literal.isprintable():
        return
    if literal == "/" and kind is TemplateKind.LAYOUT:
        return
    if not _BETWEEN.fullmatch(literal):
        raise ValueError(
            f"holds {literal!r}; between the words use letters, digits and . _ + = , ~ -"
        )


def _refuse_repeated(words: Sequence[str]) -> None:
    for word in words:
        if words.count(word) > 1:
            raise ValueError(f"holds {{{word}}} twice; keep one of the two")
        if word in _SAME and _SAME[word] in words:
            raise ValueError(
                f"holds {{{word}}} and {{{_SAME[word]}}}, which say the same; keep one"
            )


def _refuse_missing(words: Sequence[str], kind: TemplateKind) -> None:
    example = DEFAULT_NAMING if kind is TemplateKind.NAMING else DEFAULT_LAYOUT + DEFAULT_NAMING
    if "version" not in words:
        raise ValueError(
            f'gives v1 and v2 of one day the same name; put {{version}} into it, as in "{example}"'
        )
    if "model" not in words and "model_name" not in words:
        raise ValueError(
            "gives v1 of any two models the same name; put {model_name} into it, as in"
            f' "{example}"'
        )


def _form(word: str) -> str:
    return _WORDS[word][1] if word in _WORDS else _LABEL_FORM


def _render_word(word: str, words: NameWords) -> str:
    match word:
        case "version":
            return str(words.version)
        case "date":
            return words.date
        case "YYYYMMDD":
            return words.date.replace("-", "")
        case "project_name":
            return words.project or NONE
        case "host":
            return words.host
        case "step":
            return NONE if words.step is None else str(words.step)
        case "ext":
            return words.ext
        case "model" | "model_name":
            return words.model
    return _escaped(words.labels.get(word.removeprefix("label.")))


def _words_of(found: Reading) -> NameWords:
    values = dict(found)
    compact = values.get("YYYYMMDD", "")
    step = values.get("step", NONE)
    project = values.get("project_name", NONE)
    labels = {
        word.removeprefix("label."): _unescaped(value)
        for word, value in found
        if word.startswith("label.") and value != NONE
    }
    return NameWords(
        model=values.get("model_name") or values.get("model") or "",
        version=int(values.get("version", "0")),
        project="" if project == NONE else project,
        host=values.get("host", ""),
        date=values.get("date") or "-".join(filter(None, (compact[:4], compact[4:6], compact[6:]))),
        step=None if step == NONE else int(step),
        labels=labels,
        ext=values.get("ext", ""),
    )


def _escaped(value: str | None) -> str:
    """A label's value as a name can hold it: other bytes of its UTF-8 as `%` and two digits.

    `none` is of a label that is not there, `%` of an empty value; a dot or dash at the front is
    escaped too, so that no name is an option or a hidden file.
    """
    if value is None:
        return NONE
    if not value:
        return "%"
    if value == NONE:
        return f"%{ord(NONE[0]):02X}{NONE[1:]}"
    return "".join(
        chr(byte)
        if re.fullmatch("[A-Za-z0-9._-]" if place else "[A-Za-z0-9_]", chr(byte))
        else f"%{byte:02X}"
        for place, byte in enumerate(value.encode("utf-8", "surrogatepass"))
    )


def _unescaped(text: str) -> str:
    raw = re.sub(
        rb"%([0-9A-F]{2})", lambda match: bytes.fromhex(match[1].decode()), text.encode("ascii")
    )
    return "" if text == "%" else raw.decode("utf-8", "surrogatepass")


def _tell(reading: Reading) -> str:
    return " ".join(f"{word} {value!r}" for word, value in reading)
