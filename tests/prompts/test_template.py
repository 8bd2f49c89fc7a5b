from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.errors import UnknownNameError, UserError
from tastemaker.prompts.template import find_template, template_names

HEAD = """{#---
family: own
task: Try.
fields: {title: title, liked: liked titles}
target: title
choices: ["Yes.", "No."]
---#}
"""


def own(folder: Path, text: str) -> str:
    path = folder / "own.j2"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", template_names())
def test_packaged_templates_state_what_they_are(name: str) -> None:
    template = find_template(name)
    assert template.name == name
    assert template.family == name.partition("/")[0]
    assert template.task
    assert "arXiv" in template.reference
    assert all(template.meanings.values())
    assert find_template(name) is template


def test_the_three_packaged_templates() -> None:
    assert template_names() == ("kar/item_movies", "kar/user_movies", "tallrec/movie")


def test_tallrec_prompt_word_for_word() -> None:
    text = find_template("tallrec/movie").render(
        liked=["Alien (1979)", "Heat (1995)"], disliked=["Cats (2019)"], title="Antz (1998)"
    )
    instruction, *lines = text.split("\n")
    assert instruction.endswith('Answer only "Yes." or "No.".')
    assert lines == [
        'User Preference: "Alien (1979)", "Heat (1995)"',
        'User Unpreference: "Cats (2019)"',
        'Will the user like the target movie "Antz (1998)"?',
    ]


def test_tallrec_leaves_nothing_after_the_label_of_an_empty_list() -> None:
    text = find_template("tallrec/movie").render(liked=[], disliked=[], title="Antz")
    assert text.split("\n")[1:3] == ["User Preference:", "User Unpreference:"]


def test_kar_user_prompt_lists_the_history_before_the_question() -> None:
    template = find_template("kar/user_movies")
    history = [("Alien (1979)", "5"), ("Cats (2019)", "0.5")]
    text = template.render(profile="", history=history, factors=template.factors)
    shown, question = text.split("\n")
    assert shown == (
        "A user has this movie viewing history over time: "
        '"Alien (1979)", 5 stars; "Cats (2019)", 0.5 stars; '
    )
    assert "genre, director and actors, time period and country" in question
    assert ";" not in question
    described = template.render(profile="age 25", history=history, factors=["genre"])
    assert described.startswith("A user (age 25) has this")


def test_kar_item_prompts_differ_only_at_their_end() -> None:
    template = find_template("kar/item_movies")
    text = template.render(title="Alien (1979)", factors=template.factors)
    assert "including but not limited to genre, director/cast, country" in text
    assert text.endswith('The movie is "Alien (1979)".')


@given(st.text(min_size=1))
def test_values_are_never_read_as_jinja(title: str) -> None:
    template = find_template("tallrec/movie")
    for value in (title, "{{ 7 * 7 }}", "{% for %}", "{#" + title):
        text = template.render(liked=[value], disliked=[], title=value)
        assert text.endswith(f'movie "{value}"?')
        assert f'User Preference: "{value}"\n' in text


def test_render_names_missing_and_unknown_fields() -> None:
    with pytest.raises(UserError) as caught:
        find_template("tallrec/movie").render(like=[], disliked=[], title="Antz")
    assert "missing: liked" in str(caught.value)
    assert "unknown: like (did you mean 'liked'?)" in str(caught.value)


def test_unknown_template_offers_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'tallrec/movie'"):
        find_template("talrec/movie")


def test_a_users_own_file(tmp_path: Path) -> None:
    name = own(tmp_path, HEAD + "{{ liked | join(', ') }}: {{ title }}\n")
    template = find_template(name)
    assert template.fields() == {"liked", "title"}
    assert template.render(liked=["A", "B"], title="C") == "A, B: C"
    assert (template.name, template.family, template.choices) == (name, "own", ("Yes.", "No."))


@pytest.mark.parametrize(
    "body",
    [
        "{{ title.__class__.__mro__ }}{{ liked }}",
        "{{ liked.append(title) }}",
        "{% for _ in range(10 ** 9) %}{{ title }}{{ liked }}{% endfor %}",
        "{% include title %}{{ liked }}",
        "{{ title.nothing }}{{ liked }}",
        "{{ title / 0 }}{{ liked }}",
    ],
)
def test_a_users_own_file_runs_in_a_sandbox(tmp_path: Path, body: str) -> None:
    template = find_template(own(tmp_path, HEAD + body))
    with pytest.raises(UserError, match=r"own\.j2' failed"):
        template.render(liked=["A"], title="C")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ title }}", "has no front matter"),
        (HEAD + "{{ title }}", "declared but not used: liked"),
        (HEAD + "{{ title }}{{ liked }}{{ liekd }}", "used but not declared: liekd"),
        (HEAD + "\n{{ title }}\n{% if %}", "line 10"),
        ("{#---\nfamily: [\n---#}\n", "not valid YAML"),
        ("{#---\nfamily: a\n---#}\n", "task: Field required"),
        ("{#---\nfamily: a\ntask: b\nfields: {}\nchoises: []\n---#}\n", "choises"),
        ("{#---\nfamily: a\ntask: b\nfields: {}\ntarget: x\n---#}\n", "target 'x' is none"),
    ],
)
def test_what_is_wrong_with_a_users_own_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        find_template(own(tmp_path, text))
    assert message in str(caught.value)


def test_a_file_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read") as caught:
        find_template(str(tmp_path / "none.j2"))
    assert "tallrec/movie" in str(caught.value)
