"""Packaged templates of all families but P5 and OpenP5."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from tastemaker.prompts.columnar import is_columnar
from tastemaker.prompts.fields import field_named
from tastemaker.prompts.template import Template, find_template, template_names

NAMES = {
    "clickprompt": {"row"},
    "flip": {"row"},
    "hllm": {"item"},
    "instructrec": {
        *(f"recommend-{number}" for number in range(1, 18)),
        *(f"search-{number}" for number in range(1, 10)),
        *(f"personal-{number}" for number in range(1, 14)),
    },
    "kar": {
        *(f"{side}_{what}" for side in ("user", "item") for what in ("movies", "books", "items")),
        *(f"{step}_{side}" for side in ("user", "item") for step in ("part", "synthesis")),
        *("factors_users", "factors_items", "correction"),
        *("group_items", "group_users_liked", "group_users_disliked"),
    },
    "learn": {"item"},
    "notellm": {"category", "topics", "summary"},
    "recformer": {"item"},
    "rlmrec": {
        f"{side}_{what}"
        for side in ("user", "item")
        for what in ("books", "businesses", "games", "items")
    },
    "tallrec": {"movie", "book", "item", "stream"},
    "uni_ctr": {"full", "full_ids", "names", "ids"},
    "wishes": {
        *(f"understand-{number}" for number in range(1, 5)),
        *(f"open-{number}" for number in range(1, 9)),
    },
}
ALL = sorted(f"{family}/{name}" for family, names in NAMES.items() for name in names)
SAMPLES = {
    "factors": ["genre", "theme"],
    "intention": "Comedy, Romance",
    "preference": "mostly likes Drama and Comedy",
    "price": "$12.34",
    "profile": "a student",
    "topic_count": "2",
    "vague_intention": "I am in the mood for something in Comedy.",
}
NEEDS = {"intention", "vague_intention"}  # known from the target alone


def sample(name: str) -> Any:
    """A value of the field's kind that names the field."""
    found = field_named(name)
    if name in SAMPLES:
        return SAMPLES[name]
    if found.kind == "text":
        return f"the {name}"
    if found.kind == "texts":
        return [f"a {name} 1", f"a {name} 2"]
    return [tuple(f"{part} {place}" for part in found.parts) for place in (1, 2)]


def may_be_empty(template: Template, name: str) -> bool:
    found = field_named(name)
    return (
        name in template.optional
        or found.role == "past"
        or name in ("domain", "profile", "user_attributes", "vague_intention")
    )


def values(template: Template, section: str, *, empty: frozenset[str] = frozenset()) -> Any:
    found = {name: sample(name) for name in template.fields(section)}
    return found | {name: type(found[name])() for name in empty & found.keys()}


def texts(name: str) -> list[str]:
    """All sections, with everything there, with one thing missing, and with all that can miss."""
    template = find_template(name)
    missing = [one for one in sorted(template.fields()) if may_be_empty(template, one)]
    chosen = [frozenset(), *(frozenset([one]) for one in missing), frozenset(missing)]
    return [
        template.render_section(section, values(template, section, empty=empty))
        for section in template.sections
        for empty in chosen
    ]


@pytest.mark.parametrize("family", NAMES)
def test_a_family_has_these_templates(family: str) -> None:
    found = [name for name in template_names() if name.startswith(f"{family}/")]
    assert sorted(found) == sorted(f"{family}/{name}" for name in NAMES[family])


@pytest.mark.parametrize("name", ALL)
def test_nothing_missing_leaves_a_stump(name: str) -> None:
    stumps = ["  ", " .", " ,", ",,", "..", ": .", "()", '""', "{{", "{%", "Undefined"]
    if not name.startswith("rlmrec/"):
        stumps.append("None")
    for text in texts(name):
        assert text == text.lstrip()
        told = text.replace('"topic": ""', "")  # no words to search by, said on purpose
        assert [stump for stump in stumps if stump in told] == []


@pytest.mark.parametrize("name", ALL)
def test_templates_render_by_the_column(name: str) -> None:
    assert is_columnar(find_template(name))


@pytest.mark.parametrize("name", [name for name in ALL if name != "learn/item"])
def test_titles_stand_in_double_quotes(name: str) -> None:
    template = find_template(name)
    text = template.render(**values(template, "prompt"))
    shown = [one for one in ("title", "candidates", "history", "liked") if one in template.asked]
    for field in shown:
        value = sample(field)
        for title in [value] if isinstance(value, str) else value:
            assert text.count(title) == text.count(f'"{title}"') == 1


@pytest.mark.parametrize("name", ALL)
def test_targets_are_named_when_there_is_one(name: str) -> None:
    template = find_template(name)
    named = {"title", "item_index", "item_id"} & template.asked
    assert template.target in (named or {""}) or name == "learn/item"
    assert bool(template.choices) == (template.task == "click")


def test_tallrec_movie_word_for_word() -> None:
    text = find_template("tallrec/movie").render(
        liked=["Alien (1979)", "Heat (1995)"], disliked=["Cats (2019)"], title="Antz (1998)"
    )
    instruction, *lines = text.split("\n")
    assert instruction == (
        "You are given the movies a user liked and the movies the user did not like. Decide from "
        'them whether the user will like the target movie. Answer only "Yes." or "No.".'
    )
    assert lines == [
        'User Preference: "Alien (1979)", "Heat (1995)"',
        'User Unpreference: "Cats (2019)"',
        'Will the user like the target movie "Antz (1998)"?',
    ]
    bare = find_template("tallrec/movie").render(liked=[], disliked=[], title="Antz")
    assert bare.split("\n")[1:3] == ["User Preference:", "User Unpreference:"]


def test_tallrec_books_name_their_authors_where_known() -> None:
    template = find_template("tallrec/book")
    liked = [("Emma", "Jane Austen"), ("Beowulf", "")]
    text = template.render(liked_works=liked, disliked_works=[], title="Dune", author="F. Herbert")
    assert text.split("\n")[1:] == [
        'User Preference: "Emma" written by Jane Austen, "Beowulf"',
        "User Unpreference:",
        'Will the user like the target book "Dune" written by F. Herbert?',
    ]
    unknown = template.render(liked_works=liked, disliked_works=[], title="Dune", author="")
    assert unknown.endswith('the target book "Dune"?')
    movies = find_template("tallrec/movie").render(liked=["Emma"], disliked=[], title="Dune")
    items = find_template("tallrec/item").render(liked=["Emma"], disliked=[], title="Dune")
    assert items == movies.replace("movie", "item")


def instructrec(kind: str = "") -> list[Template]:
    names = [name for name in template_names() if name.startswith(f"instructrec/{kind}")]
    return [find_template(name) for name in names]


def test_instructrec_has_39_templates_of_three_kinds() -> None:
    kinds = Counter(template.id[0] for template in instructrec())
    assert kinds == {"A": 17, "B": 9, "C": 13}
    ids = {"recommend": "A", "search": "B", "personal": "C"}
    for template in instructrec():
        kind, _, number = template.name.removeprefix("instructrec/").partition("-")
        assert template.id == ids[kind] + number
        assert ("pattern" in template.reference) == (template.id in ("C10", "C11", "C12", "C13"))


def test_instructrec_slots_follow_the_list() -> None:
    recommend, search, personal = (
        instructrec(kind) for kind in ("recommend", "search", "personal")
    )
    with_candidates = {one.id for one in instructrec() if "candidates" in one.asked}
    assert with_candidates == {
        *("A7", "A8", "A9", "A10", "A13"),
        *("B7", "B8", "B9"),
        *("C10", "C11", "C12", "C13"),
    }
    assert {one.id for one in recommend if "history" not in one.asked} == {"A16", "A17"}
    assert not any("history" in one.asked for one in search)
    assert {one.id for one in personal if "history" not in one.asked} == {"C7", "C9"}
    assert {one.id for one in instructrec() if one.answers_by_label} == {"A11", "A12"}
    for field in ("preference", "vague_intention", "intention"):
        assert any(field in one.asked for one in search)
        assert any(field in one.asked for one in personal)
    assert not any(NEEDS & one.fields() for one in recommend)


def test_instructrec_answers() -> None:
    found = {
        one.id: one.render_section("answer", values(one, "answer"))
        for one in instructrec()
        if not one.answers_by_label
    }
    taste = "The user mostly likes Drama and Comedy."
    swapped = {
        "A3": f'{taste} Recommendation: "the title"',
        "A14": taste,
        "A15": taste,
        "B5": SAMPLES["vague_intention"],
        "B6": SAMPLES["intention"],
        "C5": SAMPLES["intention"],
        "C6": taste,
        "C7": '"a history 1", "a history 2"',
        "C8": 'Query: Comedy, Romance. Item: "the title"',
        "C9": 'Past: "a history 1", "a history 2". Next: "the title"',
    }
    assert {name: text for name, text in found.items() if text != "the title"} == swapped


def test_instructrec_says_which_tasks_are_oracles_and_which_strategy_they_follow() -> None:
    for one in instructrec():
        assert ("oracle" in one.about) == bool(NEEDS & one.asked), one.name
    strategies = ("Turn-around", "Relatedness", "Chain of thought")
    found = {name: {one.id for one in instructrec() if name in one.about} for name in strategies}
    assert found == {
        "Turn-around": {"A14", "A15", "B5", "B6", "C5", "C6", "C9"},
        "Relatedness": {"C7", "C8"},
        "Chain of thought": {"A3"},
    }


MOVIES = (
    "genre; director and actors; time period and country; character; plot or theme; mood or tone; "
    "critical acclaim or awards; production quality; soundtrack"
)
BOOKS = (
    "genre; author; writing style; theme; setting; length and complexity; time period; "
    "literary quality; critical acclaim"
)


@pytest.mark.parametrize(
    ("name", "factors"),
    [
        ("user_movies", MOVIES),
        (
            "item_movies",
            MOVIES.replace("director and actors", "director/cast").replace(
                "time period and country", "country"
            ),
        ),
        ("user_books", BOOKS),
        ("item_books", BOOKS),
    ],
)
def test_kar_factors_are_those_of_the_paper(name: str, factors: str) -> None:
    template = find_template(f"kar/{name}")
    assert template.factors == tuple(factors.split("; "))
    text = template.render(**values(template, "prompt") | {"factors": list(template.factors)})
    assert factors.replace(";", ",") in text


def test_kar_generic_factors_are_the_same_for_users_and_items() -> None:
    assert find_template("kar/user_items").factors == find_template("kar/item_items").factors


@pytest.mark.parametrize("name", ["user_movies", "user_books", "user_items"])
def test_kar_user_prompts_end_their_history_at_the_last_semicolon(name: str) -> None:
    template = find_template(f"kar/{name}")
    rated = [("Emma", "5"), ("Dune", "2")]
    asked = values(template, "prompt") | {"rated_history": rated, "factors": template.factors}
    text = template.render(**asked)
    shown, _, question = text.rpartition("; \n")
    assert shown.endswith('over time: "Emma", 5 stars; "Dune", 2 stars')
    assert question.startswith("What kind of ")
    assert ";" not in question


def test_kar_sub_questions_of_one_user_or_item_share_their_beginning() -> None:
    rated = [("Emma", "5"), ("Dune", "2")]
    part, synthesis = (find_template(f"kar/{name}_user") for name in ("part", "synthesis"))
    shown = {"profile": "gender F", "rated_history": rated}
    texts = [part.render(factor=factor, **shown) for factor in ("genre", "mood")]
    texts.append(synthesis.render(findings=[("genre", "Novels.")], **shown))
    first = 'A user (gender F) has rated these items over time: "Emma", 5 stars; "Dune", 2 stars; '
    assert {text.split("\n")[0] for text in texts} == {first}
    assert texts[0].removesuffix("genre?") == texts[1].removesuffix("mood?")
    part = find_template("kar/part_item")
    one, other = (part.render(title="Emma", brand="", factor=it) for it in ("genre", "mood"))
    assert one.removesuffix("genre?") == other.removesuffix("mood?")
    assert one.startswith('The item is "Emma".\n')


def test_kar_syntheses_show_every_finding_on_a_line() -> None:
    findings = [("genre", "Novels."), ("mood", "Calm; quiet.")]
    text = find_template("kar/synthesis_item").render(title="Emma", findings=findings)
    assert text.split("\n")[:4] == [
        'The item is "Emma".',
        "Partial answers about this item:",
        "- genre: Novels.",
        "- mood: Calm; quiet.",
    ]
    assert text.endswith("Add nothing new.")


def test_kar_corrections_say_what_was_said_and_what_is_so() -> None:
    told = [("Emma is a western.", "genre of 'Emma': Romance"), ("It is new.", "year: 1815")]
    lines = find_template("kar/correction").render(corrections=told).split("\n")
    assert lines[1:3] == [
        "- You said: Emma is a western. The catalogue says: genre of 'Emma': Romance.",
        "- You said: It is new. The catalogue says: year: 1815.",
    ]
    assert lines[3].startswith("Write your answer again")


@pytest.mark.parametrize("name", ["group_items", "group_users_liked", "group_users_disliked"])
def test_kar_groups_show_members_then_ask_with_the_factors(name: str) -> None:
    text = find_template(f"kar/{name}").render(members=["Emma", "Dune"], factors=["genre", "mood"])
    shown, asked = text.split("\n")
    assert shown.endswith(': "Emma", "Dune".')
    assert asked.endswith("in a few plain sentences (consider genre, mood).")
    assert ("dislikes" in shown) == name.endswith("disliked")


def test_kar_books_have_a_brand_where_it_is_known() -> None:
    template = find_template("kar/item_books")
    known = template.render(title="Emma", brand="Penguin", factors=["genre"])
    assert known.endswith('The book is "Emma" from brand Penguin.')
    unknown = template.render(title="Emma", brand="", factors=["genre"])
    assert unknown.endswith('The book is "Emma".')


def test_notellm_notes_are_json_and_never_hold_their_answer() -> None:
    note = {"title": "Cake", "description": 'A "moist" one\\'}
    category, topics = (find_template(f"notellm/{name}") for name in ("category", "topics"))
    by_topics = category.render(topics=["baking", "tea"], **note).split("\n")
    assert json.loads(by_topics[1].removeprefix("Note: ")) == {
        "title": "Cake",
        "topics": ["baking", "tea"],
        "content": note["description"],
    }
    assert by_topics[2] == 'The note in one word: "[EMB]". The category is:'
    bare = topics.render(topic_count="1", **note | {"description": ""}).split("\n")
    assert json.loads(bare[1].removeprefix("Note: ")) == {"title": "Cake"}
    assert bare[2] == 'The note in one word: "[EMB]". The 1 topic of the note:'
    assert "category" not in category.asked
    assert "topics" not in topics.asked
    assert topics.render_section("answer", {"topics": ["baking", "tea"]}) == "baking, tea"
    assert category.render_section("answer", {"category": "Food"}) == "Food"


def test_notellm_summary_asks_for_json() -> None:
    template = find_template("notellm/summary")
    system = template.render_section("system", {})
    assert '"summary" and "topics"' in system
    shown = template.render(title="Cake", topics=[], description='A "moist" one')
    assert json.loads(shown.removeprefix("Note: ")) == {"title": "Cake", "content": 'A "moist" one'}
    assert not template.has_answer


def test_item_texts() -> None:
    pairs = [("title", "Emma"), ("brand", ""), ("category", "Novel")]
    hllm = find_template("hllm/item")
    assert hllm.render(attributes=pairs).endswith(": title: Emmacategory: Novel")
    assert hllm.render(attributes=[]) == ""
    recformer = find_template("recformer/item")
    assert recformer.render(attributes=pairs) == "title Emma brand category Novel"
    learn = find_template("learn/item")
    known = learn.render(title="Emma", brand="Penguin", intention="Novel, Classic")
    assert known == "Title: Emma. Brand: Penguin. Category: Novel, Classic."
    assert learn.render(title="Emma", brand="", intention="") == "Title: Emma."
    for template in (hllm, recformer, learn):
        assert (template.task, template.per) == ("item_text", "item")
        assert not template.has_answer


def test_texts_of_rows_have_a_clause_for_every_column() -> None:
    row = {
        "user_id": "7",
        "user_attributes": [("gender", "F"), ("age", "")],
        "item_id": "9",
        "attributes": [("title", "Emma"), ("genre", "Novel")],
    }
    text = find_template("clickprompt/row").render(**row)
    assert text == (
        "user_id is 7. gender is F. age is unknown. item_id is 9. title is Emma. genre is Novel."
    )
    marked = find_template("flip/row").render(**row)
    assert marked.replace("[val]", "") == text
    assert marked.count("[val]") == 12
    assert "title is [val]Emma[val]." in marked


@pytest.mark.parametrize("name", sorted(NAMES["rlmrec"]))
def test_rlmrec_has_a_system_part_that_asks_for_json(name: str) -> None:
    template = find_template(f"rlmrec/{name}")
    side = name.partition("_")[0]
    assert (template.per, template.task) == (side, f"{side}_knowledge")
    assert template.fields("system") == frozenset()
    system = template.render_section("system", {})
    assert '"summarization" and "reasoning"' in system
    caps = ("200 words", "in at most 200 words") if side == "item" else ("100 words", "any length")
    summarization, reasoning = system.split("\n")[-3:-1]
    assert caps[0] in summarization
    assert caps[1] in reasoning
    shown = template.render(**values(template, "prompt"))
    for header in ("BASIC INFORMATION", "USER FEEDBACK", "PURCHASED", "PLAYED", "CHOSEN"):
        assert (header in shown) == (header in system)
    assert not template.has_answer


@pytest.mark.parametrize("name", sorted(NAMES["rlmrec"]))
@pytest.mark.parametrize("missing", [False, True])
def test_rlmrec_data_are_json_with_none_for_what_is_missing(name: str, missing: bool) -> None:
    template = find_template(f"rlmrec/{name}")
    hostile = 'a "b" \\ ] }, {'
    given: dict[str, Any] = dict.fromkeys(template.asked, "" if missing else hostile)
    lists = {"feedback": [hostile], "reviewed_history": [("Emma", "", hostile)]}
    given |= {field: lists[field] for field in lists.keys() & template.asked}
    found = [
        json.loads(line[line.index(": ") + 2 :] if line[0] != "{" else line)
        for line in template.render(**given).split("\n")
    ]
    if name.startswith("user"):
        assert found == [[{"title": "Emma", "description": "None", "review": hostile}]]
        return
    assert set(found[0].values()) == {"None" if missing else hostile}
    assert found[1:] == ([] if name == "item_books" else [[hostile]])
    system = template.render_section("system", {})
    keys = [line.split('"')[1] for line in system.split("\n") if line.startswith("- ")]
    assert list(found[0]) == keys
