"""Rendering and reading names are inverse for every template that is accepted."""

from __future__ import annotations

from hypothesis import assume, example, given
from hypothesis import strategies as st

from backupd.policy.naming import NameWords, Template, parse_template

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True) | st.sampled_from(
    ["1", "v1", "a_20261123_v1", "2026-11-23", "x-1", "a.b"]
)
DATES = st.dates().map(lambda date: f"{date.year:04d}-{date.month:02d}-{date.day:02d}")
# Separators that names cannot hold come up more often, as most templates need them.
SEPARATORS = st.sampled_from(["+", "=", "~", "+", "=", "~", "_", "-", ".", "_v", "v", "1", ""])


@st.composite
def templates(draw: st.DrawFn) -> Template:
    words = ["version", draw(st.sampled_from(["model", "model_name"]))]
    words += draw(st.sampled_from([[], ["date"], ["YYYYMMDD"]]))
    words += draw(st.sampled_from([[], [], ["host"], ["project_name"], ["host", "project_name"]]))
    text = draw(SEPARATORS)
    for word in draw(st.permutations(words)):
        text += f"{{{word}}}" + draw(SEPARATORS)
    try:
        return parse_template(text)
    except ValueError:
        assume(False)
        raise


@given(templates(), NAMES, NAMES, NAMES, st.integers(1, 10**9), DATES)
def test_a_rendered_name_is_read_back_as_what_it_was_made_of(
    template: Template, model: str, project: str, host: str, version: int, date: str
) -> None:
    words = NameWords(model, version, project, host, date)
    found = template.parse(template.render(words))
    assert found is not None
    text = template.text
    assert found == NameWords(
        model=model,
        version=version,
        project=project if "{project_name}" in text else "",
        host=host if "{host}" in text else "",
        date=date if "{date}" in text or "{YYYYMMDD}" in text else "",
    )


@given(templates(), NAMES, NAMES, st.integers(1, 999), st.integers(1, 999))
def test_two_snapshots_never_share_a_name(
    template: Template, model: str, other: str, version: int, later: int
) -> None:
    assume((model, version) != (other, later))
    one = NameWords(model, version, "p", "h", "2026-11-23")
    two = NameWords(other, later, "p", "h", "2026-11-23")
    assert template.render(one) != template.render(two)


@given(st.text(alphabet="{}modelvrsin_12+-", max_size=40) | st.text(max_size=40))
@example("{project_name}{host}{model}{version}{date}")
def test_reading_a_template_raises_nothing_but_its_refusal(text: str) -> None:
    try:
        parse_template(text)
    except ValueError as error:
        assert "; " in str(error)
