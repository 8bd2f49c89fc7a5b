"""The audit of finished text; every leak here is planted behind the builder's back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.agents.questions import Cut, user_questions
from tastemaker.agents.reasoning import messages_of
from tastemaker.data.findings import Finding
from tastemaker.data.history import Histories, Past
from tastemaker.data.item_index import item_index
from tastemaker.data.tables import Tables, build_tables
from tastemaker.errors import LeakError, UserError
from tastemaker.prompts.audit import audit_prompts, audit_user_texts, check_no_leak, shown_ids
from tastemaker.prompts.binding import Binder
from tastemaker.prompts.catalogue import Catalogue
from tastemaker.prompts.examples import Examples
from tastemaker.prompts.mixture import Mixture
from tastemaker.prompts.source import InstructionSource
from tastemaker.prompts.template import find_template, template_names
from tastemaker.testing.world import SCHEMA, checkerboard, tied_world

CHOICES = 'choices: ["Yes.", "No."]'
WIDE = {number: f"Film {number}" for number in range(6, 13)}  # films that nobody met


def asked(
    tables: Tables,
    examples: Examples,
    *names: str,
    history: int = 10,
    index: pl.Series | None = None,
    histories: Histories | None = None,
) -> pl.DataFrame:
    """The instructions of all these templates about each example."""
    found = histories or Histories.from_interactions(tables.interactions)
    binder = Binder(found, Catalogue(tables, index=index), history=history, candidates=3)
    templates = [find_template(name) for name in names]
    mixture = Mixture.of(templates, per_example=None)
    return InstructionSource(binder, examples, mixture, "train").frame()


def built(tables: Tables, rows: Any, *names: str, **options: Any) -> pl.DataFrame:
    examples = Examples.of_rows(tables, rows)
    return asked(tables, examples, *(names or ("tallrec/movie",)), **options)


def row_of(tables: Tables, user: int, item: int) -> int:
    keys = tables.interactions.with_row_index().join(tables.users, on="user")
    keys = keys.join(tables.items, on="item")
    found = keys.filter((pl.col("user_id") == user) & (pl.col("item_id") == item))
    return int(found["index"].item())


def replaced(frame: pl.DataFrame, old: str, new: str) -> pl.DataFrame:
    """The same instructions with prompts changed behind the builder's back."""
    changed = frame.with_columns(pl.col("prompt").str.replace_all(old, new, literal=True))
    assert not frame.height or changed["prompt"][0] != frame["prompt"][0]
    return changed


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"Film 2"', '"Film 5"', "shows 'Film 5', which the user had not met before"),
        ('"Film 2"', '"Film 3"', "shows 'Film 3', which the user had not met before"),
        ('"Film 2"', '"Film 4"', "shows 'Film 4', which the user had not met before"),
        ('"Film 2"', '"Film 2", "Film 1"', "shows 3 events, at most 2 came before"),
        ('movie "Film 4"', "movie Film 4", "the target's title does not stand in double quotes"),
    ],
)
def test_the_audit_finds_what_does_not_belong(old: str, new: str, message: str) -> None:
    tables = tied_world()
    row = row_of(tables, 7, 4)
    frame = built(tables, [row, row_of(tables, 7, 5)])
    check_no_leak(tables, frame, history=10)
    broken = pl.concat([replaced(frame.head(1), old, new), frame.tail(1)])
    with pytest.raises(LeakError) as caught:
        check_no_leak(tables, broken, history=10)
    assert f"row {row}: {message}" in str(caught.value)
    assert f"row {row + 1}: " not in str(caught.value)


@pytest.mark.parametrize(
    ("column", "value"), [("user_id", 8), ("item_id", 1), ("label", 1), ("timestamp", 31)]
)
def test_the_audit_compares_provenance_with_the_interaction(column: str, value: int) -> None:
    tables = tied_world()
    row = row_of(tables, 7, 4)
    frame = built(tables, [row])
    wrong = frame.with_columns(pl.lit(value, dtype=frame.schema[column]).alias(column))
    with pytest.raises(LeakError, match=f"row {row}: its {column} is not"):
        check_no_leak(tables, wrong, history=10)


def test_a_leak_in_the_system_part_is_found() -> None:
    tables = tied_world()
    frame = built(tables, [row_of(tables, 7, 4)])
    told = frame.with_columns(system=pl.lit('You know that "Film 5" comes next.'))
    with pytest.raises(LeakError, match="shows 'Film 5', which the user had not met before"):
        check_no_leak(tables, told, history=10)


def test_the_audit_limits_the_events_to_the_history_asked_for() -> None:
    tables = tied_world()
    frame = built(tables, [row_of(tables, 7, 5)], history=4)
    with pytest.raises(LeakError, match="shows 4 events, at most 3"):
        check_no_leak(tables, frame, history=3)


def test_the_target_may_be_shown_when_a_film_of_its_title_was_met_before() -> None:
    tables = tied_world({5: "Film 1"})
    frame = built(tables, [row_of(tables, 7, 5)])
    assert frame["prompt"][0].count('"Film 1"') == 2
    check_no_leak(tables, frame, history=10)


def verdicts(tables: Tables, frame: pl.DataFrame, rows: Any, **options: Any) -> dict[str, Finding]:
    found = audit_prompts(tables, frame, history=10, parts={"train": rows}, **options)
    assert len(found) == 6
    return {finding.check.removeprefix("prompts: "): finding for finding in found}


def failed(found: dict[str, Finding]) -> list[str]:
    return [name for name, finding in found.items() if finding.severity != "pass"]


def test_clean_prompts_pass_every_check() -> None:
    tables = tied_world()
    rows = np.arange(tables.interactions.height)
    found = verdicts(tables, built(tables, rows), rows)
    assert failed(found) == []
    assert found["titles"].details["targets_met_before"] == 0
    assert found["titles"].summary.startswith("6 prompts: none from the target's time or later")
    empty = built(tables, np.empty(0, dtype=np.int64))
    assert failed(verdicts(tables, empty, rows)) == []


@pytest.mark.parametrize(
    ("old", "new", "checks"),
    [
        ('"Film 2"', '"Film 5"', ["titles"]),
        ('"Film 2"', '"Film 4"', ["titles"]),
        ('"Film 2"', '"Film 3"', ["titles"]),
        ('"Film 2"', '"Film 1"', ["titles"]),
        ('"Film 2"', '"Film 2", "Film 5"', ["titles", "lengths"]),
        ("Will the", "It is Film 4. Will the", ["loose targets"]),
        ('"Film 4"?', '"Film 1"?', ["titles", "lengths"]),
    ],
)
def test_planted_leaks_name_their_row(old: str, new: str, checks: list[str]) -> None:
    tables = tied_world()
    row = row_of(tables, 7, 4)
    frame = replaced(built(tables, [row]), old, new)
    found = verdicts(tables, frame, [row])
    assert failed(found) == checks
    for check in checks:
        assert found[check].rows == [row]
        (example,) = found[check].details["examples"]
        assert (example["user_id"], example["item_id"]) == (7, 4)
        assert example["time"] == "1970-01-01 00:00:30"


def test_an_answer_or_a_part_that_is_not_the_rows_own() -> None:
    tables = tied_world()
    row = row_of(tables, 7, 4)
    frame = built(tables, [row, row + 1])
    turned = frame.with_columns(pl.col("completion").reverse())
    assert failed(verdicts(tables, turned, [row, row + 1])) == ["provenance"]
    found = verdicts(tables, frame, [row + 1])
    assert (failed(found), found["parts"].rows) == (["parts"], [row])
    nowhere = frame.with_columns(row=pl.lit(999, pl.Int64))
    assert "provenance" in failed(verdicts(tables, nowhere, [999]))


@pytest.mark.parametrize("subset", ["train_unseen", "train_16_seed0"])
def test_a_subset_of_a_part_may_hold_its_rows_only(subset: str) -> None:
    tables = tied_world()
    frame = built(tables, [3, 4]).with_columns(split=pl.lit(subset))
    assert failed(verdicts(tables, frame, [3, 4])) == []
    found = verdicts(tables, frame, [4])
    assert (failed(found), found["parts"].rows) == (["parts"], [3])


def test_an_item_consumed_again_is_counted_not_refused() -> None:
    events = [(7, 1, 10, 5.0), (7, 1, 20, 1.0), (7, 2, 20, 4.0), (7, 1, 30, 5.0)]
    frame = pl.DataFrame(events, schema=["user_id", "item_id", "timestamp", "rating"], orient="row")
    items = pl.DataFrame({"item_id": [1, 2], "title": ["Film 1", "Film 2"], "genres": ["x", "x"]})
    tables = build_tables(frame, items=items, schema=SCHEMA)
    made = built(tables, range(4))
    found = verdicts(tables, made, range(4))
    assert failed(found) == []
    assert found["titles"].details["targets_met_before"] == 2
    # At time 20 the film had been met once, not twice.
    tampered = replaced(made[[1]], '"Film 1"\n', '"Film 1", "Film 1"\n')
    assert failed(verdicts(tables, tampered, range(4))) == ["titles", "lengths"]


class WithTies(Histories):
    """The mistake that the audit is for: events of the target's own second count as past."""

    def before(self, rows: Any, *, max_length: int | None = None, **options: Any) -> Past:
        wanted = np.asarray(rows)
        return self.at(self.row_users[wanted], self.row_times[wanted] + 1, max_length=max_length)


def test_a_broken_index_does_not_deceive_the_audit() -> None:
    tables = checkerboard(12, 12, events=10)
    events = tables.interactions
    broken = WithTies.from_interactions(events)
    broken.row_users = events["user"].to_numpy()
    broken.row_times = events["time"].to_numpy()
    rows = np.arange(events.height)
    frame = built(tables, rows, histories=broken)
    found = verdicts(tables, frame, rows)
    assert "titles" in failed(found)
    assert found["titles"].details["problems"] >= len(rows)
    with pytest.raises(LeakError):
        check_no_leak(tables, frame, history=10)


INDEXED = ("p5/2-1", "p5/2-2", "p5_yelp/2-4", "openp5/sequential-1")


def numbers_of(tables: Tables, scheme: Any) -> pl.Series:
    return item_index(tables, np.arange(tables.interactions.height), scheme, seed=0).texts


@pytest.mark.parametrize("scheme", ["random", "sequential", "collaborative"])
@pytest.mark.parametrize("name", INDEXED)
@pytest.mark.parametrize("film", [3, 4, 5, 9])
def test_a_number_of_a_film_met_later_is_found(name: str, scheme: str, film: int) -> None:
    tables = tied_world(WIDE)
    index = numbers_of(tables, scheme)
    called = {number: index[tables.item_index(str(number))] for number in (2, film)}
    row = row_of(tables, 7, 3)
    frame = built(tables, [row], name, index=index)
    assert called[2] in frame["prompt"][0]
    check_no_leak(tables, frame, history=10, index=index)
    told = replaced(frame, called[2], called[film])
    with pytest.raises(LeakError) as caught:
        check_no_leak(tables, told, history=10, index=index)
    assert f"row {row}: shows 'Film {film}', which the user had not met before" in str(caught.value)
    found = verdicts(tables, told, [row], index=index)
    assert failed(found) == ["titles"]


def test_a_number_shown_twice_or_beyond_the_history_is_found() -> None:
    tables = tied_world(WIDE)
    index = numbers_of(tables, "sequential")
    one, two = (index[tables.item_index(str(film))] for film in (1, 2))
    frame = built(tables, [row_of(tables, 7, 3)], "openp5/sequential-1", index=index)
    twice = replaced(frame, two, one)
    assert failed(verdicts(tables, twice, [2, 3, 4], index=index)) == ["titles"]
    with pytest.raises(LeakError, match="shows 2 events, at most 1 came before"):
        check_no_leak(tables, frame, history=1, index=index)


def test_the_target_is_looked_for_by_its_number() -> None:
    tables = tied_world(WIDE)
    index = numbers_of(tables, "sequential")
    row = row_of(tables, 7, 3)
    frame = built(tables, [row], "p5/2-11", index=index)
    check_no_leak(tables, frame, history=10, index=index)
    own, other = (index[tables.item_index(film)] for film in ("3", "9"))
    found = verdicts(tables, replaced(frame, own, other), [row], index=index)
    assert failed(found) == ["titles", "lengths"]


def test_numbers_of_users_names_and_sources_are_no_numbers_of_items() -> None:
    tables = tied_world(WIDE)
    index = numbers_of(tables, "sequential")
    # User 7 is called what film 9 is called, and so is the shop.
    number = int(index[tables.item_index("9")])
    known = pl.when(pl.col("user_id") == 7).then(number).otherwise("user_id")
    named = replace(
        tables, users=tables.users.with_columns(user_id=known), source=f"Shop {number}, 2018"
    )
    rows = [row_of(tables, 7, 1), row_of(tables, 7, 3), row_of(tables, 7, 5)]
    frame = built(named, rows, "p5/2-5", "p5/2-8", "openp5/sequential-1", index=index)
    assert all(str(number) in prompt for prompt in frame["prompt"])
    check_no_leak(named, frame, history=10, index=index)
    # Beyond the place of the name, the number is that of the film again.
    history = index[tables.item_index("2")]
    with pytest.raises(LeakError, match="shows 'Film 9'"):
        check_no_leak(named, replaced(frame[3:4], history, str(number)), history=10, index=index)


CANDIDATES = ("p5/5-5", "p5/2-8", "instructrec/recommend-7")


def with_candidates(frame: pl.DataFrame, ids: Sequence[int]) -> pl.DataFrame:
    return frame.with_columns(candidates=pl.Series([ids], dtype=frame.schema["candidates"]))


@pytest.mark.parametrize("name", CANDIDATES)
def test_candidates_hold_the_target_once_and_nothing_met_before(name: str) -> None:
    tables = tied_world(WIDE)
    index = numbers_of(tables, "sequential")
    row = row_of(tables, 7, 3)
    frame = built(tables, [row], name, index=index)
    check_no_leak(tables, frame, history=10, index=index)
    listed = frame["candidates"][0].to_list()
    others = [item for item in listed if item != 3]
    assert len(others) == 2
    once, met = "do not hold the target once", "one of its candidates had been met before"
    for ids, message in (
        (others, once),
        ([*listed, 3], once),
        ([*listed, 1], met),
        ([*listed, 4], met),  # of the target's own second
    ):
        with pytest.raises(LeakError) as caught:
            check_no_leak(tables, with_candidates(frame, ids), history=10, index=index)
        assert f"row {row}: " in str(caught.value)
        assert message in str(caught.value)
        found = verdicts(tables, with_candidates(frame, ids), [row], index=index)
        assert "candidates" in failed(found)
        assert found["candidates"].rows == [row]


@pytest.mark.parametrize("name", ["p5/2-8", "instructrec/recommend-7"])
def test_what_is_offered_but_is_no_candidate_is_found(name: str) -> None:
    tables = tied_world(WIDE)
    index = numbers_of(tables, "sequential")
    row = row_of(tables, 7, 3)
    frame = built(tables, [row], name, index=index)
    listed = frame["candidates"][0].to_list()
    offered = next(item for item in listed if item != 3)
    other = next(item for item in range(6, 13) if item not in listed)
    shown = {}
    for film in (offered, other):
        number = tables.item_index(str(film))
        shown[film] = index[number] if name == "p5/2-8" else f'"Film {film}"'
    with pytest.raises(LeakError, match=f"shows 'Film {other}', which the user had not met"):
        check_no_leak(
            tables, replaced(frame, shown[offered], shown[other]), history=10, index=index
        )


def drawn(tables: Tables, row: int, item: int) -> pl.DataFrame:
    """The row's user and moment, asked about another film."""
    examples = Examples.of_rows(tables, [row], items=[tables.item_index(str(item))])
    return asked(tables, examples, "tallrec/movie")


def test_a_film_that_was_drawn_is_accepted_when_it_had_not_been_met() -> None:
    tables = tied_world(WIDE)
    row = row_of(tables, 7, 3)
    for film in (5, 9):  # met later, and never
        frame = drawn(tables, row, film)
        assert frame.select("item_id", "label", "completion").rows() == [(film, 0, "No.")]
        check_no_leak(tables, frame, history=10)
        assert failed(verdicts(tables, frame, [row])) == []


@pytest.mark.parametrize("film", [1, 2, 4])
def test_a_film_that_was_drawn_although_it_had_been_met_is_found(film: int) -> None:
    tables = tied_world(WIDE)
    row = row_of(tables, 7, 3)
    with pytest.raises(LeakError, match=f"row {row}: its item_id is not that"):
        check_no_leak(tables, drawn(tables, row, film), history=10)


def test_a_film_that_was_drawn_is_no_like() -> None:
    tables = tied_world(WIDE)
    row = row_of(tables, 7, 3)
    liked = drawn(tables, row, 9).with_columns(label=pl.lit(1, pl.Int8), completion=pl.lit("Yes."))
    with pytest.raises(LeakError, match=f"row {row}: its label is not"):
        check_no_leak(tables, liked, history=10)


@pytest.mark.parametrize("name", ["kar/user_movies", "rlmrec/user_items"])
def test_prompts_about_users_show_nothing_from_the_cut_on(name: str) -> None:
    tables = tied_world()
    user = tables.user_index("7")
    frame = asked(tables, Examples.of_users([user], before=30), name)
    assert frame.select("row", "item_id", "label", "timestamp").row(0) == (None,) * 4
    assert '"Film 2"' in frame["prompt"][0]
    assert '"Film 3"' not in frame["prompt"][0]
    check_no_leak(tables, frame, history=10, before=30)
    late = "shows 'Film 2', which the user had not met before"
    for before in (20, None):
        with pytest.raises(LeakError, match=late):
            check_no_leak(tables, frame, history=10, before=before)
    told = replaced(frame, '"Film 2"', '"Film 3"')
    with pytest.raises(LeakError, match="shows 'Film 3'"):
        check_no_leak(tables, told, history=10, before=30)


def test_the_cut_of_prompts_about_users_is_the_first_moment_not_trained_on() -> None:
    tables = tied_world()
    parts = {"train": [0, 1, 2], "validation": [3, 4], "test": [5]}
    assert tables.interactions["time"].to_list() == [10, 15, 20, 30, 30, 40]
    for before, checks in ((30, []), (31, ["titles", "lengths"])):
        users = Examples.of_users([0, 1], before=before)
        frame = asked(tables, users, "kar/user_movies")
        found = audit_prompts(tables, frame, history=10, parts=parts)
        assert [one.check for one in found if one.severity != "pass"] == [
            f"prompts: {check}" for check in checks
        ]


def test_keys_of_json_are_not_films() -> None:
    tables = tied_world({2: "None", 3: "review", 5: "title"})
    frame = asked(tables, Examples.of_users([0, 1], before=30), "rlmrec/user_items")
    assert frame["prompt"][0].count('"None"') > 1
    check_no_leak(tables, frame, history=10, before=30)


@pytest.mark.parametrize("name", ["flip/row", "clickprompt/row"])
def test_attributes_may_show_the_target_without_quotes(name: str) -> None:
    tables = tied_world()
    row = row_of(tables, 7, 4)
    frame = built(tables, [row], name)
    assert "Film 4" in frame["prompt"][0]
    assert '"Film 4"' not in frame["prompt"][0]
    assert failed(verdicts(tables, frame, [row])) == []
    told = frame.with_columns(pl.col("prompt") + ' Next is "Film 5".')
    assert failed(verdicts(tables, told, [row])) == ["titles", "lengths"]


def test_attributes_of_users_cannot_pass_for_films() -> None:
    tables = tied_world()
    users = tables.users.with_columns(occupation=pl.lit('fan of "Film 5"'))
    tables = replace(tables, users=users)
    examples = Examples.of_users([tables.user_index("7")], before=30)
    frame = asked(tables, examples, "kar/user_movies")
    assert "fan of 'Film 5'" in frame["prompt"][0]
    check_no_leak(tables, frame, history=10, before=30)


def own(folder: Path, body: str, head: str) -> str:
    path = folder / "own.j2"
    path.write_text(f"{{#---\nfamily: own\ntask: click\nabout: Try.\n{head}\n---#}}\n{body}\n")
    return str(path)


def test_a_template_of_the_users_own_is_handed_in(tmp_path: Path) -> None:
    tables = tied_world()
    body = 'After "{{ history | last }}", the last of them, "{{ title }}"?'
    name = own(tmp_path, body, f"fields: [history, title]\n{CHOICES}")
    row = row_of(tables, 7, 4)
    frame = built(tables, [row], name)
    assert frame["template"].to_list() == ["own.j2"]
    assert frame["prompt"].to_list() == ['After "Film 2", the last of them, "Film 4"?']
    given = {"templates": [find_template(name)]}
    check_no_leak(tables, frame, history=10, **given)
    told = replaced(frame, "Film 2", "Film 5")
    with pytest.raises(LeakError, match="shows 'Film 5'"):
        check_no_leak(tables, told, history=10, **given)
    assert failed(verdicts(tables, told, [row], **given)) == ["titles"]
    with pytest.raises(UserError, match=r"own\.j2"):
        check_no_leak(tables, frame, history=10)


def test_numbers_without_a_word_before_them(tmp_path: Path) -> None:
    tables = tied_world(WIDE)
    index = numbers_of(tables, "sequential")
    film = {number: index[tables.item_index(str(number))] for number in (2, 4, 9)}
    body = f"Of {film[9]} films: {{{{ history_index | join(', ') }}}}. {{{{ item_index }}}}?"
    name = own(tmp_path, body, f"fields: [history_index, item_index]\n{CHOICES}")
    row = row_of(tables, 7, 4)
    frame = built(tables, [row], name, index=index)
    assert frame["prompt"][0].endswith(f"{film[2]}. {film[4]}?")
    options: dict[str, Any] = {"index": index, "templates": [find_template(name)]}
    assert failed(verdicts(tables, frame, [row], **options)) == []
    told = replaced(frame, f"{film[2]}.", f"{film[9]}.")
    assert failed(verdicts(tables, told, [row], **options)) == ["titles"]


ABOUT_ROWS = [
    name
    for name in template_names()
    if find_template(name).per == "interaction"
    and not find_template(name).fields() & {"review", "headline", "explanation", "feature"}
]
WORLD = checkerboard(8, 40, events=8)
NUMBERS = numbers_of(WORLD, "random")


@pytest.mark.parametrize("family", sorted({name.partition("/")[0] for name in ABOUT_ROWS}))
def test_what_packaged_templates_make_of_a_clean_world_passes(family: str) -> None:
    names = [name for name in ABOUT_ROWS if name.startswith(f"{family}/")]
    rows = np.arange(0, WORLD.interactions.height, 2)
    frame = built(WORLD, rows, *names, index=NUMBERS)
    # Items have one category here, and this template mixes several.
    assert set(frame["template"]) == set(names) - {"wishes/understand-3"}
    assert failed(verdicts(WORLD, frame, rows, index=NUMBERS)) == []


@settings(max_examples=30)
@given(
    name=st.sampled_from([*INDEXED, *CANDIDATES, "tallrec/movie", "uni_ctr/full"]),
    row=st.integers(0, WORLD.interactions.height - 1),
    data=st.data(),
)
def test_whatever_was_not_met_is_found_wherever_it_stands(
    name: str, row: int, data: st.DataObject
) -> None:
    frame = built(WORLD, [row], name, index=NUMBERS)
    if not frame.height:
        return  # a like is needed
    events, (user, item, time) = WORLD.interactions, WORLD.interactions.row(row)[:3]
    met = events.filter((pl.col("user") == user) & (pl.col("time") < time))["item"]
    listed = frame["candidates"][0]
    shown = [] if listed is None else listed.to_list()
    unmet = sorted(set(range(WORLD.n_items)) - set(met) - set(shown) - {item})
    planted = data.draw(st.sampled_from(unmet))
    prompt = frame["prompt"][0]
    place = data.draw(st.integers(0, prompt.count("\n")), label="line")
    lines = prompt.split("\n")
    lines[place] += f' "{WORLD.titles[planted]}"'
    told = frame.with_columns(prompt=pl.lit("\n".join(lines)))
    found = verdicts(WORLD, told, [row], index=NUMBERS)
    assert found["titles"].rows == [row]
    if "index" in " ".join(find_template(name).asked) and name != "uni_ctr/full":
        lines[place] = f"{lines[place].rpartition(' ')[0]} item_{NUMBERS[planted]}"
        told = frame.with_columns(prompt=pl.lit("\n".join(lines)))
        assert "titles" in failed(verdicts(WORLD, told, [row], index=NUMBERS))


def questions_of(tables: Tables, users: Sequence[int]) -> pl.DataFrame:
    template = find_template("kar/user_movies")
    histories = Histories.from_interactions(tables.interactions)
    questions = [*user_questions(tables, histories, users=users, cut=Cut(4), templates=[template])]
    return pl.DataFrame(
        {
            "user": [question.entity for question in questions],
            "cut_time": [question.cut_time for question in questions],
            "prompt": [
                messages_of(template, question.values)[-1]["content"] for question in questions
            ],
        }
    )


def test_texts_about_users_show_events_up_to_their_cut() -> None:
    tables = checkerboard(12, 12, events=10)
    template = find_template("kar/user_movies")
    frame = questions_of(tables, range(12))
    assert frame.height > 8
    assert audit_user_texts(tables, frame, template=template).severity == "pass"
    earlier = frame.with_columns(pl.col("cut_time") - 1)
    found = audit_user_texts(tables, earlier, template=template)
    assert found.severity == "fail"
    assert found.details["problems"] >= frame.height
    events = tables.interactions[found.rows]
    assert events["user"].to_list() == [
        tables.user_index(str(example["user_id"])) for example in found.details["examples"]
    ]
    silent = frame.with_columns(prompt=pl.lit("What does this user like?"))
    found = audit_user_texts(tables, silent, template=template)
    assert found.details["problems"] == frame.height


def test_what_shows_item_numbers(tmp_path: Path) -> None:
    tables = tied_world()
    tallrec = find_template("tallrec/movie")
    assert shown_ids(tables, [tallrec]) is None
    mine = find_template(own(tmp_path, "Item {{ item_id }}?", f"fields: [item_id]\n{CHOICES}"))
    assert "field item_id" in str(shown_ids(tables, [tallrec, mine]))
    untitled = build_tables(
        tables.interactions.select("rating", user_id="user", item_id="item", timestamp="time"),
        schema=replace(SCHEMA, title=None, text=()),
    )
    assert "called by their id" in str(shown_ids(untitled, [tallrec]))
    assert shown_ids(untitled, []) is None
