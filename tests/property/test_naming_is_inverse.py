"""Rendering and reading names are inverse for every template that is accepted."""

from __future__ import annotations

from hypothesis import assume, example, given
from hypothesis import strategies as st

from backupd.policy.naming import (
    NameWords,
    Template,
    TemplateKind,
    parse_layout,
    parse_template,
)

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True) | st.sampled_from(
    ["1", "v1", "a_20261123_v1", "2026-11-23", "x-1", "a.b"]
)
DATES = st.dates().map(lambda date: f"{date.year:04d}-{date.month:02d}-{date.day:02d}")
# Separators that names cannot hold come up more often, as most templates need them.
SEPARATORS = st.sampled_from(["+", "=", "~", "+", "=", "~", "_", "-", ".", "_v", "v", "1", ""])


STEPS = st.none() | st.integers(0, 10**9)
LABELS = st.none() | st.text(max_size=12) | st.sampled_from(["none", "", "%", ".", "a b", "1.0"])
ENDINGS = st.sampled_from(["", ".tar", ".tar.zst", ".h5"])


@st.composite
def templates(draw: st.DrawFn, separators: st.SearchStrategy[str] = SEPARATORS) -> Template:
    words = ["version", draw(st.sampled_from(["model", "model_name"]))]
    words += draw(st.sampled_from([[], ["date"], ["YYYYMMDD"]]))
    words += draw(st.sampled_from([[], [], ["host"], ["project_name"], ["host", "project_name"]]))
    words += draw(st.sampled_from([[], [], ["step"], ["label.k"], ["label.k", "step"]]))
    text = draw(separators)
    for word in draw(st.permutations(words)):
        text += f"{{{word}}}" + draw(separators)
    try:
        return parse_template(text)
    except ValueError:
        assume(False)
        raise


@st.composite
def layouts(draw: st.DrawFn) -> Template:
    """Paths, in which words may come more than once."""
    words = ["model", "model_name", "date", "YYYYMMDD", "project_name", "step", "label.k", "host"]
    separators = st.sampled_from(["/", "/", "+", "_", "v"])
    chosen = draw(st.lists(st.sampled_from(words), max_size=5))
    text = "".join(f"{{{word}}}{draw(separators)}" for word in chosen)
    text += draw(st.sampled_from(["{model}+{version}{ext}", "{model}/v{version}{ext}", "x/"]))
    try:
        return parse_layout(text, "{model_name}_v{version}")
    except ValueError:
        assume(False)
        raise


def told(template: Template, words: NameWords) -> NameWords:
    """As much of `words` as a name of the template can tell."""
    held = template.words
    labels = words.labels if "label.k" in held else {}
    return NameWords(
        model=words.model,
        version=words.version,
        project=words.project if "project_name" in held else "",
        host=words.host if "host" in held else "",
        date=words.date if held & {"date", "YYYYMMDD"} else "",
        step=words.step if "step" in held else None,
        labels=labels,
        ext=words.ext if "ext" in held else "",
    )


@given(
    templates() | layouts(), NAMES, NAMES, NAMES, st.integers(1, 10**9), DATES, STEPS, LABELS,
    ENDINGS,
)  # fmt: skip
def test_a_rendered_name_is_read_back_as_what_it_was_made_of(
    template: Template,
    model: str,
    project: str,
    host: str,
    version: int,
    date: str,
    step: int | None,
    label: str | None,
    ext: str,
) -> None:
    labels = {} if label is None else {"k": label}
    words = NameWords(model, version, project, host, date, step, labels, ext)
    assert template.parse(template.render(words)) == told(template, words)


@given(templates(), NAMES, NAMES, st.integers(1, 999), st.integers(1, 999), LABELS, LABELS)
def test_two_snapshots_never_share_a_name(
    template: Template,
    model: str,
    other: str,
    version: int,
    later: int,
    label: str | None,
    change: str | None,
) -> None:
    assume((model, version) != (other, later))
    labels = [{} if value is None else {"k": value} for value in (label, change)]
    one = NameWords(model, version, "p", "h", "2026-11-23", 5, labels[0])
    two = NameWords(other, later, "p", "h", "2026-11-23", None, labels[1])
    assert template.render(one) != template.render(two)


@given(templates() | layouts(), st.text(alphabet="a1v.none_%26EF/+-", max_size=30) | st.text())
def test_what_is_read_is_what_would_be_rendered(template: Template, name: str) -> None:
    words = template.parse(name)
    assert words is None or template.render(words) == name


@given(
    st.text(alphabet="{}modelvrsin_12+-", max_size=40) | st.text(max_size=40),
    st.sampled_from(list(TemplateKind)),
)
@example("{project_name}{host}{model}{version}{date}", TemplateKind.NAMING)
@example("{label.a}{label.b}{step}{ext}{model}{version}", TemplateKind.LAYOUT)
def test_reading_a_template_raises_nothing_but_its_refusal(text: str, kind: TemplateKind) -> None:
    try:
        parse_template(text, kind)
    except ValueError as error:
        assert "; " in str(error)
