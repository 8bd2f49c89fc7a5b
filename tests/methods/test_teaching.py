"""The stage `teach` with scripted teachers, and what `build` makes of their texts."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tastemaker.agents.chat_models import SCRIPTS
from tastemaker.agents.knowledge import Knowledge, KnowledgeStore
from tastemaker.data.splits import Split
from tastemaker.errors import StageError, UnknownNameError, UserError
from tastemaker.methods.base import load_split
from tastemaker.methods.building import arranged
from tastemaker.methods.keeping import STORE
from tastemaker.methods.pipeline import stages
from tastemaker.methods.teaching import audit_teach, teacher_texts, teaching_note, written_texts
from tastemaker.recipe import Recipe
from tastemaker.stage import Run
from tastemaker.testing.world import checkerboard

USERS, ITEMS = 16, 20
TEMPLATES = ["instructrec/recommend-2", "instructrec/recommend-14", "instructrec/search-7"]
QUOTED = re.compile(r'"([^"]*)"')


def write_tables(folder: Path, *, genres: bool = True, reviews: bool = True) -> None:
    tables = checkerboard(n_users=USERS, n_items=ITEMS, events=12, seed=1)
    named = tables.interactions.join(tables.users, on="user").join(tables.items, on="item")
    events = named.select("user_id", "item_id", "rating", "title", timestamp="time")
    if reviews:
        # Every third event has none.
        said = pl.format("I got {} for the evening.", "title")
        told = pl.when(pl.int_range(pl.len()) % 3 > 0).then(said)
        events = events.with_columns(review=told)
    events.drop("title").write_csv(folder / "r.csv")
    columns = ["item_id", "title", *(["genres"] if genres else [])]
    tables.items.select(columns).write_csv(folder / "i.csv")


def recipe(folder: Path, *, build: Any = None, **teach: Any) -> Recipe:
    texts = ["review"] if "review" in (folder / "r.csv").read_text().partition("\n")[0] else []
    return Recipe.model_validate(
        {
            "name": "world",
            "data": {
                "interactions": str(folder / "r.csv"),
                "items": str(folder / "i.csv"),
                "columns": {"user": "user_id", "item": "item_id", "text": texts},
                "requests": {"min_history": 1},
            },
            "teach": teach,
            "build": {
                "templates": TEMPLATES,
                "per_example": "all",
                "candidates": 4,
                "history": 6,
                "min_history": 0,
                **(build or {}),
            },
        }
    )


def run_of(folder: Path, *, until: str = "build", build: Any = None, **teach: Any) -> Run:
    found = recipe(folder, build=build, **teach)
    run = Run(folder / "run", seed=found.seed)
    for stage in stages(found, until=until):
        run.execute(stage)
    return run


def summary(run: Run) -> dict[str, Any]:
    manifest = run.manifest("teach")
    assert manifest is not None
    return dict(manifest.summary)


def teacher(conversation: Any) -> str:
    """Names the newest title of a taste by its first letters; wishes for what a review says."""
    asked = conversation[-1].text
    shown = QUOTED.findall(asked)
    if "review" in asked:
        return f"The customer needs {len(shown[0])} evenings."
    return f"This user prefers things of {len(shown) - 1} kinds, {hash_of(asked)} above all."


def hash_of(text: str) -> str:
    return f"kind{sum(map(ord, text)) % 9973}"


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], str]], list[str]]:
    """Makes `scripted:teacher` answer so; returns every question it is asked."""

    def scripted(script: Callable[[Any], str]) -> list[str]:
        asked: list[str] = []

        def said(conversation: Any) -> str:
            asked.append(conversation[-1].text)
            return script(conversation)

        monkeypatch.setitem(SCRIPTS, "teacher", said)
        return asked

    return scripted


def columns_of(split: Split) -> tuple[Any, Any, Any, Any]:
    events = split.tables.interactions
    return tuple(events[name].to_numpy() for name in ("user", "item", "time", "label"))  # type: ignore[return-value]


def test_tastes_rest_on_likes_before_the_target_and_wishes_on_its_review(
    tmp_path: Path, scripted: Any
) -> None:
    write_tables(tmp_path)
    asked = scripted(teacher)
    run = run_of(tmp_path, model="scripted:teacher", history=5)
    split, frame = load_split(run), teacher_texts(run)
    users, items, times, labels = columns_of(split)
    titles = split.tables.titles
    reviews = split.tables.interactions["review"]
    assert sorted(frame["row"]) == sorted({*split.train, *split.valid, *split.test})
    seen = 0
    with KnowledgeStore(run.folder / STORE) as store:
        known = {one.key: one for one in store.each(Knowledge)}
    for one in frame.iter_rows(named=True):
        row, shown = one["row"], one["preference_events"]
        mine = (users == users[row]) & (times < times[row]) & (labels == 1)
        expected = np.flatnonzero(mine)
        expected = expected[np.argsort(times[expected], kind="stable")][-5:].tolist()
        assert shown == expected
        if not expected:
            assert one["preference_reason"] == "nothing liked before"
            continue
        seen += 1
        question = known[one["preference_key"]].messages[-1]["content"]
        told = QUOTED.findall(question)[:-1]
        assert told == [titles[item] for item in items[expected]]
        assert titles[items[row]] not in told  # nothing is met twice in this world
        assert one["preference_source"] == "teacher"
        assert (
            one["preference"]
            == f"prefers things of {len(told)} kinds, {hash_of(question)} above all"
        )
        said = reviews[row]
        if said:
            assert one["vague_intention"] == f"I need {len(said)} evenings."
            assert titles[items[row]] in known[one["vague_intention_key"]].messages[-1]["content"]
        else:
            assert one["vague_intention_reason"] == "no review"
            assert one["vague_intention"].startswith("I am in the mood for something in ")
    assert seen > 100
    assert len(asked) == len(set(asked)) == len(known)  # equal questions are asked once
    assert [one.severity for one in audit_teach(run, split)] == ["pass"]


def test_the_audit_finds_a_later_and_a_foreign_event(tmp_path: Path, scripted: Any) -> None:
    write_tables(tmp_path)
    scripted(teacher)
    run = run_of(tmp_path, until="teach", model="scripted:teacher")
    split, path = load_split(run), run.artefact("teach") / "teacher.parquet"
    frame = pl.read_parquet(path).sort("row")
    users, _, times, _ = columns_of(split)
    row = int(frame["row"][-1])
    for wrong, words in (
        (row, "not strictly earlier"),
        (int(np.flatnonzero((users != users[row]) & (times < times[row]))[0]), "another user"),
    ):
        events = [*frame["preference_events"].to_list()[:-1], [wrong]]
        frame.with_columns(preference_events=pl.Series(events)).write_parquet(path)
        (found,) = audit_teach(run, split)
        assert found.severity == "fail"
        assert words in str(found.details)


def test_built_instructions_show_what_the_teacher_wrote(tmp_path: Path, scripted: Any) -> None:
    write_tables(tmp_path)
    scripted(teacher)
    run = run_of(tmp_path, model="scripted:teacher", examples=20)
    texts = {one["row"]: one for one in teacher_texts(run).iter_rows(named=True)}
    taught = 0
    for part in ("train", "validation", "test"):
        for one in arranged(run.artefact("build"), part).iter_rows(named=True):
            found, prompt = texts[one["row"]], one["prompt"][0]["content"]
            if "search-7" in one["template"]:
                assert found["vague_intention"] in prompt
            else:
                told = found["preference"] or "has shown no clear preference yet"
                where = (
                    prompt if "recommend-2" in one["template"] else one["completion"][0]["content"]
                )
                assert f"the user {told}." in where.replace("The user", "the user")
            taught += found["preference_source"] == "teacher"
    assert taught
    counts = summary(run)["fields"]["preference"]
    assert 0 < counts["teacher"] <= 60
    assert counts["reasons"]["not asked"] > 0
    assert counts["teacher"] + counts["template"] == len(texts)
    card = (run.artefact("build") / "README.md").read_text(encoding="utf-8")
    assert teaching_note(run) in card
    assert f"preference: {counts['teacher']:,} by scripted:teacher" in card
    assert "model: scripted:teacher" in card


def test_without_a_model_nobody_is_asked_and_nothing_changes(tmp_path: Path) -> None:
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
        write_tables(tmp_path / name)
    run = run_of(tmp_path / "with", examples=None)
    assert set(teacher_texts(run)["preference_source"]) == {"template"}
    assert all(len(one) == 0 for one in written_texts(run).values())
    assert not (run.folder / STORE).exists()
    assert "no model wrote" in teaching_note(run)
    bare = recipe(tmp_path / "without")
    bare = Recipe.model_validate(bare.model_dump(exclude_unset=True, exclude={"teach"}))
    assert [one.name for one in stages(bare, until="build")] == ["data", "build"]
    other = Run(tmp_path / "without" / "run", seed=bare.seed)
    for stage in stages(bare, until="build"):
        other.execute(stage)
    for part in ("train", "test"):
        assert arranged(run.artefact("build"), part).equals(arranged(other.artefact("build"), part))


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("Horror films, mostly.", "no verb phrase"),
        ("I'm sorry, but I cannot help with that.", "refusal"),
        ("", "empty"),
        (f"The user prefers {', '.join(map(str, range(99)))}.", "too long"),
    ],
)
def test_unusable_answers_leave_the_phrase_and_are_counted(
    tmp_path: Path, scripted: Any, said: str, reason: str
) -> None:
    write_tables(tmp_path)
    scripted(lambda conversation: said)
    run = run_of(
        tmp_path,
        until="teach",
        build={"templates": ["instructrec/recommend-2"]},
        model="scripted:teacher",
        invalid_retries=0,
        max_tokens=400,
    )
    frame = teacher_texts(run)
    assert set(frame["preference_source"]) == {"template"}
    assert "vague_intention" not in frame.columns
    counts = summary(run)["fields"]["preference"]
    assert counts["teacher"] == 0
    assert counts["reasons"][reason] == (frame["preference_events"].list.len() > 0).sum()
    liked = frame.filter(pl.col("preference_events").list.len() > 0)
    assert liked["preference"].str.starts_with("mostly likes ").all()


def test_a_wish_that_names_its_target_is_not_shown(tmp_path: Path, scripted: Any) -> None:
    write_tables(tmp_path)
    scripted(lambda conversation: "I want " + QUOTED.findall(conversation[-1].text)[0])
    run = run_of(
        tmp_path,
        until="teach",
        build={"templates": ["instructrec/search-7"]},
        model="scripted:teacher",
    )
    reasons = set(teacher_texts(run)["vague_intention_reason"])
    assert reasons == {"names the target", "no review"}


def test_a_stopped_job_goes_on_and_a_finished_one_asks_nothing(
    tmp_path: Path, scripted: Any
) -> None:
    write_tables(tmp_path)
    asked = scripted(teacher)
    options: dict[str, Any] = {"until": "teach", "model": "scripted:teacher", "batch_size": 8}
    with pytest.raises(StageError, match="max_requests of 24 is reached"):
        run_of(tmp_path, max_requests=24, **options)
    assert len(asked) == 24
    assert not (tmp_path / "run" / "teach").exists()
    run = run_of(tmp_path, **options)
    assert len(asked) == len(set(asked))
    assert summary(run)["generated_now"] == len(asked) - 24
    before = teacher_texts(run)
    # Other settings of the same questions: the stage runs again, and nobody is asked.
    run = run_of(tmp_path, longest=150, **options)
    assert summary(run)["generated_now"] == 0
    assert teacher_texts(run).equals(before)


def test_parts_and_fields_limit_who_is_asked(tmp_path: Path, scripted: Any) -> None:
    write_tables(tmp_path)
    asked = scripted(teacher)
    run = run_of(
        tmp_path,
        until="teach",
        model="scripted:teacher",
        parts=["test"],
        fields=["preference"],
    )
    split, frame = load_split(run), teacher_texts(run)
    taught = frame.filter(pl.col("preference_source") == "teacher")["row"]
    assert len(taught)
    assert np.isin(taught.to_numpy(), split.test).all()
    assert set(frame["vague_intention_source"]) == {"template"}
    assert not [one for one in asked if "review" in one]


def test_without_categories_or_reviews_the_teacher_alone_tells(
    tmp_path: Path, scripted: Any
) -> None:
    write_tables(tmp_path, genres=False, reviews=False)
    scripted(teacher)
    run = run_of(tmp_path, model="scripted:teacher")
    frame = teacher_texts(run)
    first = frame.filter(pl.col("preference_source") == "template")
    assert set(first["preference"]) <= {""}
    prompts = arranged(run.artefact("build"), "train")["prompt"].to_list()
    assert any("has shown no clear preference yet" in one[0]["content"] for one in prompts)
    assert any("I am open to suggestions." in one[0]["content"] for one in prompts)


def test_mistakes_are_found_before_anything_is_asked(tmp_path: Path) -> None:
    write_tables(tmp_path)
    for wrong, kind, words in (
        ({"model": "scripted:nobody"}, UnknownNameError, "nobody"),
        ({"preference_template": "instructrec_teacher/taste"}, UnknownNameError, "preference"),
        ({"model": "local:smollm2", "batch_api": True}, UserError, r"teach\.batch_api"),
    ):
        with pytest.raises(kind, match=words):
            stages(recipe(tmp_path, **wrong), until="teach")


@pytest.mark.slow
def test_a_small_local_model_teaches(tmp_path: Path) -> None:
    write_tables(tmp_path)
    run = run_of(tmp_path, model="local:smollm2", examples=8, parts=["test"], max_tokens=40)
    counts = summary(run)["fields"]
    for name in ("preference", "vague_intention"):
        one = counts[name]
        assert one["teacher"] + one["template"] == teacher_texts(run).height
        assert sum(one["reasons"].values()) == one["template"]
        # So small a model may write nothing that can be used, but it has been asked.
        assert teacher_texts(run)[f"{name}_key"].is_not_null().any()
