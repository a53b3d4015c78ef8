"""Secrets are found by RE2 in one pass; Python's own `re`, form by form, must say the same."""

from __future__ import annotations

import re

from hypothesis import example, given
from hypothesis import strategies as st

from backupd.capture import secrets
from backupd.capture.secrets import secret_in

FORMS = [(kind, re.compile(form)) for kind, form in secrets._FORMS]


def secret_by_re(text: bytes) -> str:
    if b"\0" in text[:8192]:
        return ""
    return next((kind for kind, form in FORMS if form.search(text)), "")


planted = st.one_of([st.from_regex(form, fullmatch=True) for _, form in FORMS])
cut = st.builds(lambda text, n: text[: -n or None], planted, st.integers(0, 3))
# What decides over a word's edge, what is white to one engine and not to another, and bytes that
# are no text.
between = st.one_of(
    st.sampled_from(
        [b"", b" ", b"\n", b"\x0b", b"\x1c", b"_", b"a", b"-", b"\x85", b"\xe9", b"\0"]
    ),
    st.binary(max_size=6),
)
texts = st.lists(st.one_of(planted, cut, between), max_size=6).map(b"".join)


@given(texts)
@example(b"AWS_SECRET_ACCESS_KEY']\x0b=\x0b'" + b"a" * 40)
@example(b"aws_secret_access_key']=" + b"a" * 40)
@example(b"x" * 8192 + b"\0 AKIA" + b"A" * 16)
@example(b"\xe9AKIA" + b"A" * 16 + b"\xe9")
def test_the_set_of_forms_finds_what_each_form_alone_finds(text: bytes) -> None:
    assert secret_in(text) == secret_by_re(text)
    assert secret_in(memoryview(text)) == secret_by_re(text)


@given(st.permutations(range(len(FORMS))), st.data())
def test_of_several_secrets_the_first_of_the_list_is_told(
    order: list[int], data: st.DataObject
) -> None:
    two = order[:2]
    text = b"\n".join(data.draw(st.from_regex(FORMS[n][1], fullmatch=True)) for n in two)
    assert secret_in(text) == secret_by_re(text)
    assert secret_in(text) in [FORMS[n][0] for n in range(min(two) + 1)]
