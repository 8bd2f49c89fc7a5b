from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.errors import UnknownNameError, UserError
from tastemaker.prompts.fields import FIELDS, field_named
from tastemaker.prompts.template import Template, find_template, find_templates, template_names

HEAD = """{#---
family: own
task: try_out
about: Try.
fields: {title: title, liked: liked titles}
target: title
choices: ["Yes.", "No."]
---#}
"""


def own(folder: Path, text: str, name: str = "own.j2") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def head(**keys: str) -> str:
    """Front matter with the keys that must be there, and these."""
    lines = {"family": "own", "task": "click", "about": "Try.", **keys}
    return "{#---\n" + "".join(f"{key}: {value}\n" for key, value in lines.items()) + "---#}\n"


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(UserError) as caught:
        find_template(own(folder, text))
    return str(caught.value)


@pytest.mark.parametrize("name", template_names())
def test_packaged_templates_state_what_they_are(name: str) -> None:
    template = find_template(name)
    assert template.name == template.label == name
    assert template.family == name.partition("/")[0]
    assert template.task.replace("_", "").isalpha()
    assert template.per in ("interaction", "user", "item")
    assert template.about
    assert "\n" not in template.about
    assert "arXiv" in template.reference
    assert all(template.meanings.values())
    assert template.fields() == set(template.meanings)
    assert find_template(name) is template


def test_names_are_in_their_natural_order() -> None:
    names = list(template_names())
    assert len(names) == len(set(names)) > 150
    shown = [name for name in names if name.startswith("p5/2-")]
    assert shown == [f"p5/2-{number}" for number in range(1, 14)]
    assert names.index("p5/2-2") < names.index("p5/2-10") < names.index("p5/3-1")
    assert names.index("p5/5-8") < names.index("p5/z-1") < names.index("p5_yelp/1-1")
    straight = [name for name in names if name.startswith("openp5/straightforward-")]
    assert straight[:2] == ["openp5/straightforward-1", "openp5/straightforward-2"]


def names_of(*patterns: str) -> list[str]:
    return [template.name for template in find_templates(patterns)]


def test_patterns_find_templates_once_each_in_their_order() -> None:
    assert names_of("p5/2-1?") == ["p5/2-10", "p5/2-11", "p5/2-12", "p5/2-13"]
    assert names_of("tallrec/[bm]*") == ["tallrec/book", "tallrec/movie"]
    assert names_of("p5/2-3", "p5/2-*")[:3] == ["p5/2-3", "p5/2-1", "p5/2-2"]
    assert len(names_of("p5/2-*", "p5/*")) == len(names_of("p5/*"))
    assert {name.partition("/")[0] for name in names_of("openp5/*", "kar/user_*")} == {
        "openp5",
        "kar",
    }
    assert names_of() == []


@pytest.mark.parametrize(
    ("pattern", "near"), [("p6/*", "p5/"), ("tallrec/movies", "tallrec/movie"), ("*", "")]
)
def test_a_pattern_that_matches_nothing(pattern: str, near: str) -> None:
    if pattern == "*":
        assert names_of("*") == list(template_names())
        return
    with pytest.raises(UnknownNameError) as caught:
        names_of("tallrec/movie", pattern)
    assert f"unknown template '{pattern}'" in str(caught.value)
    assert near in str(caught.value)


def test_own_files_stand_beside_packaged_templates(tmp_path: Path) -> None:
    name = own(tmp_path, HEAD + "{{ liked | join(', ') }}: {{ title }}\n", "odd[1]*.j2")
    found = find_templates([name, "tallrec/movie"])
    assert [template.name for template in found] == [name, "tallrec/movie"]
    # Rows are marked with the file's name alone, which tells nothing of the machine.
    assert [template.label for template in found] == ["odd[1]*.j2", "tallrec/movie"]


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
    assert (template.label, template.per, template.seen) == ("own.j2", "interaction", True)
    assert (template.answers_by_label, template.has_answer) == (True, True)
    assert not template.names_item
    assert not template.offers


@pytest.mark.parametrize("kind", ["list", "mapping"])
def test_fields_are_a_list_or_a_mapping(tmp_path: Path, kind: str) -> None:
    fields = "[title, brand]" if kind == "list" else "{title: a title, brand: who makes it}"
    template = find_template(own(tmp_path, head(fields=fields) + "{{ title }} {{ brand }}"))
    meanings = {
        "list": {"title": FIELDS["title"].meaning, "brand": field_named("brand").meaning},
        "mapping": {"title": "a title", "brand": "who makes it"},
    }
    assert template.meanings == meanings[kind]
    assert template.render(title="A", brand="B") == "A B"


def test_all_that_front_matter_may_say(tmp_path: Path) -> None:
    keys = {
        "id": '"7"',
        "per": "user",
        "fields": "[brand, title, history, review]",
        "optional": "[brand]",
        "given": "[review]",
        "target": "title",
        "seen": "false",
        "liked": "true",
        "reference": "none",
        "factors": "[genre, mood]",
    }
    body = "{{ brand }}{{ history | join }}{{ review }}"
    text = head(**keys) + body + "\n{#--- answer ---#}\n{{ title }}\n"
    template = find_template(own(tmp_path, text))
    assert (template.id, template.per, template.target) == ("7", "user", "title")
    assert (template.optional, template.given) == ({"brand"}, {"review"})
    assert (template.seen, template.liked) == (False, True)
    assert template.factors == ("genre", "mood")
    assert (template.asked, template.fields("answer")) == (
        {"brand", "history", "review"},
        {"title"},
    )
    assert (template.names_item, template.answers_by_label) == (True, False)


SECTIONS = (
    head(fields="[liked, title]")
    + """
{#--- system ---#}
Be brief.

{#--- prompt ---#}
Liked: {{ liked | join(", ") }}
Next?

{#---answer---#}
{{ title }}

"""
)


def test_sections(tmp_path: Path) -> None:
    template = find_template(own(tmp_path, SECTIONS))
    values = {"liked": ["A", "B"], "title": "C"}
    assert {part: template.render_section(part, values) for part in template.sections} == {
        "system": "Be brief.",
        "prompt": "Liked: A, B\nNext?",
        "answer": "C",
    }
    assert template.render(liked=["A"]) == "Liked: A\nNext?"
    assert (template.asked, template.fields("answer")) == ({"liked"}, {"title"})
    assert (template.has_answer, template.answers_by_label) == (True, False)
    plain = find_template(own(tmp_path, head() + "Hello\n{# no {#--- answer ---#}"))
    assert list(plain.sections) == ["prompt"]
    assert plain.render_section("answer", {}) == ""
    assert not plain.has_answer


@pytest.mark.parametrize("line", [9, 12, 16])
def test_syntax_errors_name_their_line_of_the_file(tmp_path: Path, line: int) -> None:
    lines = SECTIONS.split("\n")
    assert lines[line - 1].split(":")[0] in ("Be brief.", "Liked", "{{ title }}")
    lines[line - 1] += " {% if %}"
    assert f"own.j2, line {line}: " in refusal(tmp_path, "\n".join(lines))
    lines[line - 1] = "{{ title | nothing }}"
    assert f"own.j2, line {line}: No filter named 'nothing'" in refusal(tmp_path, "\n".join(lines))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("A\n{#--- answr ---#}\nB", "section 'answr' is unknown or there twice"),
        ("A\n{#--- Answer ---#}\nB", "section 'Answer' is unknown"),
        ("A\n{#--- answer ---#}\nB\n{#--- answer ---#}\nC", "'answer' is unknown or there twice"),
        ("A\n{#--- prompt ---#}\nB", "section 'prompt' is unknown or there twice"),
        ("{#--- answer ---#}\nB", "has no prompt"),
        ("{#--- system ---#}\nB", "has no prompt"),
        ("", "has no prompt"),
        ("\n \n", "has no prompt"),
    ],
)
def test_sections_that_are_unknown_there_twice_or_missing(
    tmp_path: Path, body: str, message: str
) -> None:
    found = refusal(tmp_path, head() + body)
    assert message in found
    assert "prompt" in found or "sections: system, prompt, answer" in found


@pytest.mark.parametrize(
    ("fields", "body", "message"),
    [
        ("[rating]", "{{ rating }}", "its prompt shows rating, which is known only after"),
        ("[review]", "{{ review }}", "its prompt shows review, which is known only after"),
        ("[title]", "{{ title }}\n{#--- answer ---#}\n{{ title }}", "shows title and its answer"),
        (
            "[title, item_index]",
            "{{ title }}\n{#--- answer ---#}\n{{ item_index }}",
            "its prompt shows title and its answer is item_index, which is the same thing",
        ),
        (
            "[headline, review]",
            "{#--- system ---#}\n{{ headline }}\n{#--- prompt ---#}\nA\n"
            "{#--- answer ---#}\n{{ review }}",
            "its prompt shows headline",
        ),
        ("[category]", "{{ category }}\n{#--- answer ---#}\n{{ category }}", "shows category and"),
    ],
)
def test_a_prompt_must_not_give_its_answer_away(
    tmp_path: Path, fields: str, body: str, message: str
) -> None:
    assert message in refusal(tmp_path, head(fields=fields, choices="[a, b]") + body)


@pytest.mark.parametrize(
    ("fields", "given", "body"),
    [
        ("[review, headline]", "[review]", "{{ review }}\n{#--- answer ---#}\n{{ headline }}"),
        ("[title]", "[title]", "{{ title }}\n{#--- answer ---#}\n{{ title }}"),
        ("[title, category]", "[]", "{{ title }}\n{#--- answer ---#}\n{{ category }}"),
        ("[asked_rating, rating]", "[]", "{{ asked_rating }}\n{#--- answer ---#}\n{{ rating }}"),
    ],
)
def test_what_a_prompt_may_show(tmp_path: Path, fields: str, given: str, body: str) -> None:
    template = find_template(own(tmp_path, head(fields=fields, given=given) + body))
    assert template.has_answer


def hostile(folder: Path, body: str) -> Template:
    return find_template(own(folder, HEAD + body))


@pytest.mark.parametrize(
    "body",
    [
        "{{ title.__class__.__mro__ }}{{ liked }}",
        "{{ liked.append(title) }}",
        "{% for _ in range(10 ** 9) %}{{ title }}{{ liked }}{% endfor %}",
        "{% include title %}{{ liked }}",
        "{{ title.nothing }}{{ liked }}",
        "{{ title / 0 }}{{ liked }}",
        "{{ liked | attr('__class__') }}{{ title }}",
        "{{ quoted.__globals__ }}{{ liked }}{{ title }}",
        "{{ quoted(liked) * 10 ** 9 }}{{ title }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}{{ liked }}{{ title }}",
    ],
)
def test_a_users_own_file_runs_in_a_sandbox(tmp_path: Path, body: str) -> None:
    template = hostile(tmp_path, body)
    with pytest.raises(UserError, match=r"own\.j2' failed"):
        template.render(liked=["A"], title="C")


def test_every_section_of_a_users_own_file_runs_in_the_sandbox(tmp_path: Path) -> None:
    text = head(fields="[liked, title]") + (
        "{#--- system ---#}\n{{ liked.__class__ }}\n{#--- prompt ---#}\nA\n"
        "{#--- answer ---#}\n{{ title.__class__ }}"
    )
    template = find_template(own(tmp_path, text))
    for section in ("system", "answer"):
        with pytest.raises(UserError, match=r"own\.j2' failed"):
            template.render_section(section, {"liked": ["A"], "title": "C"})


def test_shared_macros_are_at_hand_in_a_users_own_file(tmp_path: Path) -> None:
    template = hostile(tmp_path, "{{ quoted(liked) }} {{ item(title) }} {{ title | json }}")
    assert template.render(liked=["A", "B"], title="é") == '"A", "B" item_é "é"'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ title }}", "has no front matter"),
        (HEAD + "{{ title }}", "declared but not used: liked"),
        (HEAD + "{{ title }}{{ liked }}{{ liekd }}", "used but not declared: liekd"),
        (HEAD + "\n{{ title }}\n{% if %}", "line 11"),
        ("{#---\nfamily: [\n---#}\n", "not valid YAML"),
        ("{#---\nfamily: a\nabout: b\n---#}\n", "task: Field required"),
        ("{#---\nfamily: a\ntask: b\n---#}\n", "about: Field required"),
        ("{#---\n[]\n---#}\n", "wrong front matter"),
        (head(task="Try it."), "task: String should match pattern"),
        (head(per="film"), "per: Input should be 'interaction', 'user' or 'item'"),
        (head(choises="[]"), "choises: Extra inputs are not permitted"),
        (head(fields="{}", target="x"), "target 'x' is none"),
        (head(fields="[title]", optional="[brand]"), "optional 'brand' is none"),
        (head(fields="[title]", given="[review]"), "given 'review' is none"),
    ],
)
def test_what_is_wrong_with_a_users_own_file(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal(tmp_path, text)


def test_a_file_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read") as caught:
        find_template(str(tmp_path / "none.j2"))
    assert "a packaged template" in str(caught.value)
    (tmp_path / "bytes.j2").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="cannot be read"):
        find_template(str(tmp_path / "bytes.j2"))


def test_line_ends_of_any_system(tmp_path: Path) -> None:
    path = tmp_path / "dos.j2"
    path.write_bytes(SECTIONS.replace("\n", "\r\n").encode())
    template = find_template(str(path))
    assert template.render_section("prompt", {"liked": ["A"]}) == "Liked: A\nNext?"
