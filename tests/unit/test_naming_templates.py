"""Which naming templates are accepted, and what clash the others are refused with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backupd.policy.naming import (
    DEFAULT_LAYOUT,
    DEFAULT_NAMING,
    NameWords,
    TemplateKind,
    parse_layout,
    parse_template,
)


def test_the_default_gives_the_name_that_the_documents_show() -> None:
    words = NameWords(model="llama-ft", version=12, date="2026-11-23")
    template = parse_template(DEFAULT_NAMING)
    assert template.render(words) == "llama-ft_20261123_v12"
    assert template.parse("llama-ft_20261123_v12") == words


def test_every_word_is_rendered_and_read_back() -> None:
    words = NameWords("llama", 3, project="chat", host="box.example", date="2026-11-23")
    template = parse_template("{project_name}+{host}+{model}_v{version}_{date}")
    assert template.render(words) == "chat+box.example+llama_v3_2026-11-23"
    assert template.parse("chat+box.example+llama_v3_2026-11-23") == words


@pytest.mark.parametrize(
    "name",
    ["", "llama-ft", "llama-ft_2026_v1", "llama-ft_20261123_v0", "llama-ft_20261123_v01",
     "-x_20261123_v1", "llama-ft_20261123_v1 ", "llama-ft_20261123_v1\n", "a" * 500,
     "llama-ft_20261123_v1²"],
)  # fmt: skip
def test_what_no_snapshot_can_be_named_is_not_read(name: str) -> None:
    assert parse_template(DEFAULT_NAMING).parse(name) is None


@pytest.mark.parametrize(
    "text",
    [
        DEFAULT_NAMING,
        "{model}-{version}",
        "v{version}_{model}",
        "{version}.{model}",
        "{date}{model}+{version}",
        "{model}{YYYYMMDD}_v{version}",
        "{project_name}+{model_name}_v{version}",
        "{model}=v{version}~{host}",
    ],
)
def test_a_template_whose_names_can_be_read_in_one_way_is_accepted(text: str) -> None:
    assert parse_template(text).text == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{project_name}_{model}_v{version}",
            "is not one-to-one: '1_1_1_v1' would be project_name '1_1' model '1' version '1' and"
            " also project_name '1' model '1_1' version '1'; put a character between the words"
            " that names cannot hold, such as +, = or ~",
        ),
        (
            "{model}{version}",
            "is not one-to-one: '111' would be model '11' version '1' and also model '1' version"
            " '11'; put a character between the words that names cannot hold, such as +, = or ~",
        ),
        ("{model}_{model}_v{version}", "holds {model} twice; keep one of the two"),
        (
            "{model}_{model_name}_v{version}",
            "holds {model} and {model_name}, which say the same; keep one",
        ),
        (
            "{date}+{YYYYMMDD}+{model}+{version}",
            "holds {date} and {YYYYMMDD}, which say the same; keep one",
        ),
    ],
)
def test_a_template_that_is_not_one_to_one_is_refused_with_the_clash(
    text: str, message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        parse_template(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "text",
    ["", "{", "}", "{}", "{{model}}_{version}", "{model}_{version", "{Model}_v{version}",
     "{model}@v{version}", "{model}:{version}", "{model}_v{version}\n", "{model}/{version}",
     "{steps}_{model}_v{version}", "{label.}_{model}_v{version}", "{label.a b}+{model}+{version}",
     "{model}_v{version}{ext}", "{model.x}_v{version}", "{model!r}_v{version}",
     "{model}_v{version}" + "x" * 200],
)  # fmt: skip
def test_what_is_no_template_is_refused_with_the_mend(text: str) -> None:
    with pytest.raises(ValueError, match="; "):
        parse_template(text)


def test_the_default_layout_gives_the_path_that_the_documents_show() -> None:
    words = NameWords("llama-ft", 12, project="chat", date="2026-11-23")
    layout = parse_layout(DEFAULT_LAYOUT, DEFAULT_NAMING)
    path = "chat/2026-11-23/llama-ft/llama-ft_20261123_v12"
    assert layout.render(words) == path
    assert layout.parse(path) == words
    whole = "{project_name}/{date}/{model}/{model_name}_{YYYYMMDD}_v{version}{ext}"
    words = replace(words, ext=".tar.zst")
    assert parse_layout(whole, DEFAULT_NAMING).render(words) == path + ".tar.zst"
    assert parse_layout(whole, DEFAULT_NAMING).parse(path + ".tar.zst") == words
    assert layout.parse(path.replace("2026-11-23", "2026-11-24")) is None, "the dates differ"
    assert layout.parse(path.replace("/llama-ft/", "/other/")) is None, "the models differ"


def test_what_a_snapshot_lacks_is_none_and_no_label_is_mistaken_for_that() -> None:
    template = parse_template("{model}+v{version}+{step}+{label.stage}")
    nothing = NameWords("m", 1)
    assert template.render(nothing) == "m+v1+none+none"
    assert template.parse("m+v1+none+none") == nothing
    named = NameWords("m", 1, step=0, labels={"stage": "none"})
    assert template.render(named) == "m+v1+0+%6Eone"
    assert template.parse("m+v1+0+%6Eone") == named
    odd = NameWords("m", 1, labels={"stage": "../ä @x"})
    assert template.render(odd) == "m+v1+none+%2E.%2F%C3%A4%20%40x"
    assert template.parse(template.render(odd)) == odd
    for name in ("m+v1+none+%2e.", "m+v1+none+%FF", "m+v1+00+a", "m+v1+n+a", "m+v1+none+%4"):
        assert template.parse(name) is None, name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{model}_v{version}/../x", "is no path below a folder"),
        ("/{model}/v{version}", "is no path below a folder"),
        ("{model}//v{version}", "is no path below a folder"),
        ("{date}/{model}", "gives v1 and v2 of one day the same name"),
        ("{version}/{model}{ext}", "is not one-to-one: '1/1.' would be"),
        ("{model}/v{version}{step}", "is not one-to-one: '1/v111' would be"),
    ],
)
def test_a_layout_that_is_no_path_or_not_one_to_one_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="; ") as caught:
        parse_layout(text, DEFAULT_NAMING)
    assert str(caught.value).startswith(message)


def test_a_pattern_reads_what_others_named() -> None:
    pattern = parse_template("run {date} ({step})", TemplateKind.PATTERN)
    assert pattern.parse("run 2026-11-23 (500)") == NameWords(date="2026-11-23", step=500)
    with pytest.raises(ValueError, match="holds no word"):
        parse_template("run", TemplateKind.PATTERN)
