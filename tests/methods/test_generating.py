"""The generate stage of P5 and InstructRec: one small model, all kinds of questions, judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from tastemaker.data.id_probe import audit_ids
from tastemaker.errors import DataError, UserError
from tastemaker.eval.answers import Result
from tastemaker.methods import generating
from tastemaker.methods.answering import Answerer, ranks_in_table
from tastemaker.methods.base import load_split
from tastemaker.methods.building import audit_build
from tastemaker.methods.generating import check_generate, load_results
from tastemaker.methods.pipeline import stages
from tastemaker.methods.posing import Posing, answer_kind
from tastemaker.prompts.examples import Examples
from tastemaker.prompts.template import find_template
from tastemaker.recipe import Recipe, load_recipe
from tastemaker.stage import Run
from tastemaker.testing.world import checkerboard

TUNE: dict[str, Any] = {
    "model": "new-t5",
    "kind": "full",
    "shots": 64,
    "valid_shots": 8,
    "epochs": 1,
    "max_target_length": 24,
    "whole_words": 64,
    "new_model": {"layers": 1, "width": 16, "heads": 2, "feed_forward": 16, "vocabulary": 300},
}
P5: dict[str, Any] = {
    "name": "p5",
    "methods": ["p5"],
    "build": {
        "templates": ["p5/1-1", "p5/1-3", "p5/1-10", "p5/2-1", "p5/2-13", "p5/5-1", "p5/5-7"],
        "history": 4,
        "min_history": 1,
        "candidates": 5,
        "negatives": 1,
    },
    "tune": TUNE,
    "generate": {"examples": 12, "k": 5, "beams": 8, "free": 3, "ranked": 4},
}
INSTRUCTREC: dict[str, Any] = {
    "name": "instructrec",
    "methods": ["instructrec"],
    "teach": {},
    "build": {
        "templates": [
            *(f"instructrec/recommend-{number}" for number in (1, 4, 7, 14)),
            "instructrec/search-3",
        ],
        "history": 4,
        "min_history": 1,
        "candidates": 4,
        "columns": {"category": "genres"},
    },
    "tune": TUNE,
    "generate": {
        "examples": 4,
        "k": 5,
        "beams": 5,
        "free": 0,
        "valid_examples": 2,
        "candidates": [{"n": 4}, {"n": 4, "origin": "hard"}, {"n": 12}],
        "tournament": 4,
    },
}


def made(folder: Path, values: dict[str, Any]) -> tuple[Recipe, Run]:
    """A finished run of the checkerboard, up to its answers."""
    tables = checkerboard(24, 30, events=10, seed=1)
    tables.interactions.select(
        user_id=pl.format("u{}", "user"),
        item_id=pl.format("i{}", "item"),
        timestamp="time",
        rating="rating",
    ).write_csv(folder / "events.csv")
    tables.items.select(item_id=pl.format("i{}", "item"), title="title", genres="genres").write_csv(
        folder / "items.csv"
    )
    data = {
        "interactions": "events.csv",
        "items": "items.csv",
        "columns": {"text": ["genres"], "rating_range": [1, 5]},
        "requests": {"min_history": 1},
    }
    whole = {"data": data, "evaluate": {"bootstrap": 20}, **values}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(whole), encoding="utf-8")
    recipe = load_recipe(folder / "recipe.yaml")
    run = Run(folder / "run", seed=recipe.seed)
    for stage in stages(recipe, until="generate"):
        run.execute(stage)
    return recipe, run


@pytest.fixture(scope="module")
def p5(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Run]:
    return made(tmp_path_factory.mktemp("p5"), P5)


@pytest.fixture(scope="module")
def instructrec(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Run]:
    return made(tmp_path_factory.mktemp("instructrec"), INSTRUCTREC)


def of(run: Run, template: str, *, rule: bool = False) -> list[Result]:
    return [one for one in load_results(run) if one.template == template and one.rule == rule]


def answers(run: Run, template: str, number: int = 0) -> pl.DataFrame:
    slug = template.replace("/", "-")
    files = (run.artefact("generate") / "answers").glob(f"*-{slug}-*-{number}.parquet")
    return pl.read_parquet(next(files))


def test_every_kind_of_question_is_answered(p5: tuple[Recipe, Run]) -> None:
    _, run = p5
    found = {one.template: one for one in load_results(run) if not one.rule}
    assert set(found) == {"p5/1-1", "p5/1-3", "p5/1-10", "p5/2-1", "p5/2-13", "p5/5-1", "p5/5-7"}
    assert found["p5/1-1"].metrics.keys() == {"RMSE", "MAE"}
    assert found["p5/1-10"].role == found["p5/2-13"].role == "unseen"
    assert {"HR@5", "NDCG@5"} <= found["p5/2-1"].metrics.keys()
    assert "free: out of catalogue" in found["p5/2-1"].counts
    assert {"AUC", "HR@1"} <= found["p5/5-1"].metrics.keys()
    assert found["p5/5-7"].counts["chance HR@1"] == pytest.approx(0.2)
    for one in found.values():
        for measure in one.metrics.values():
            assert measure.low <= measure.value <= measure.high or measure.low == measure.high
    rules = {one.model for one in load_results(run) if one.rule}
    assert {"Popularity", "Item kNN", "User mean", "Item mean"} <= rules


def test_lists_hold_items_of_the_catalogue_that_were_not_met(p5: tuple[Recipe, Run]) -> None:
    _, run = p5
    split = load_split(run)
    ids = split.tables.items["item_id"]
    items = split.tables.interactions["item"].to_numpy()
    frame = answers(run, "p5/2-1")
    past = split.histories.before(frame["row"].to_numpy())
    hits = []
    for place, (row, listed) in enumerate(zip(frame["row"], frame["items"], strict=True)):
        assert len(listed) == len(set(listed)) == 5
        assert set(listed) <= set(ids)
        target = ids[int(items[row])]
        assert not set(listed) & (set(ids.gather(items[past[place]])) - {target})
        hits.append(target in listed)
    (result,) = of(run, "p5/2-1")
    assert result.metrics["HR@5"].value == pytest.approx(np.mean(hits))


def test_no_rating_is_dropped(p5: tuple[Recipe, Run]) -> None:
    _, run = p5
    frame = answers(run, "p5/1-1")
    (result,) = of(run, "p5/1-1")
    assert frame.height == result.rows == 12


def test_candidates_are_the_same_in_every_run(p5: tuple[Recipe, Run]) -> None:
    recipe, run = p5
    template = find_template("p5/5-7")
    lists = []
    for _ in range(2):
        posing = Posing.of(run, recipe.build, seed=recipe.seed)
        posed = posing.posed(template, posing.chosen(template, "test", 5))
        lists.append(posed.offered)
        assert (posed.offered == posed.examples.items[:, None]).sum(axis=1).tolist() == [1] * 5
    np.testing.assert_array_equal(*lists)


def test_a_killed_stage_asks_no_template_twice(
    p5: tuple[Recipe, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run = p5
    expected = load_results(run)
    (stage,) = [one for one in stages(recipe, until="generate") if one.name == "generate"]
    asked: list[str] = []
    answer = Answerer.answer

    def counted(self: Answerer, posed: Any, **options: Any) -> Any:
        asked.append(posed.template.name)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return answer(self, posed, **options)

    monkeypatch.setattr(Answerer, "answer", counted)
    with pytest.raises(KeyboardInterrupt):
        run.execute(stage, force=True)
    first = asked[:2]
    run.execute(stage, force=True)
    assert not set(asked[3:]) & set(first)
    assert load_results(run) == expected


def test_training_first_numbers_pass_the_audit_and_p5s_own_do_not(
    p5: tuple[Recipe, Run], tmp_path: Path
) -> None:
    _, run = p5
    split = load_split(run)
    assert {one.severity for one in audit_build(run, split)} == {"pass"}
    # P5 counts items through complete sequences: here, users who each take what nobody took yet.
    rows = [(user, 6 * user + step, step) for user in range(60) for step in range(6)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    frame.write_csv(tmp_path / "events.csv")
    recipe = Recipe.model_validate(
        {
            "name": "leaking",
            "data": {
                "interactions": str(tmp_path / "events.csv"),
                "columns": {"rating": None, "label": "implicit", "title": None},
                "split": {"name": "leave_one_out"},
                "requests": {"min_history": 1},
            },
            "build": {"templates": ["p5/2-1"], "history": 4, "min_history": 1},
        }
    )
    leaking = Run(tmp_path / "run", seed=1)
    for stage in stages(recipe, until="build"):
        leaking.execute(stage)
    split = load_split(leaking)
    failed = audit_ids(split, shown_by="p5's own item numbers")
    assert {one.severity for one in failed} == {"fail"}
    honest = [one for one in audit_build(leaking, split) if one.check.startswith("ids:")]
    assert [one.severity for one in honest] == ["pass"]


def test_instructrec_keeps_oracles_apart_and_reports_both_templates(
    instructrec: tuple[Recipe, Run],
) -> None:
    _, run = instructrec
    found = [one for one in load_results(run) if not one.rule]
    assert {one.template for one in found if one.oracle} == {"instructrec/search-3"}
    roles = {one.role for one in found}
    assert {"fixed", "best on validation"} <= roles
    listed = [one for one in found if one.role == "fixed" and one.template.endswith("recommend-7")]
    assert [one.protocol for one in listed] == [
        "1 of 4 uniform candidates",
        "1 of 4 hard candidates",
        "1 of 12 uniform candidates in two rounds of groups of 4",
    ]
    matching = [one for one in found if one.role == "fixed" and one.template.endswith("-1")]
    assert "names of items" in matching[0].protocol
    assert matching[3].protocol == "1 of 12 uniform candidates"
    rules = {one.model for one in load_results(run) if one.rule}
    assert {"Popularity", "Item kNN", "Favourite categories"} <= rules


def test_a_model_tuned_elsewhere_answers_without_tuning(
    p5: tuple[Recipe, Run], tmp_path: Path
) -> None:
    recipe, run = p5
    told = recipe.generate.model_copy(
        update={
            "model": str(run.artefact("tune") / "model"),
            "templates": ("p5/2-13",),
            "examples": 3,
        }
    )
    other = recipe.model_copy(update={"generate": told})
    elsewhere = Run(tmp_path / "elsewhere", seed=recipe.seed)
    wanted = stages(other, until="generate")
    assert [stage.name for stage in wanted] == ["data", "build", "generate"]
    for stage in wanted:
        elsewhere.execute(stage)
    (result,) = [one for one in load_results(elsewhere) if not one.rule]
    assert (result.model, result.role, result.rows) == ("model tuned elsewhere", "asked for", 3)


@pytest.mark.slow
@pytest.mark.parametrize("values", [P5, INSTRUCTREC], ids=["p5", "instructrec"])
def test_a_causal_model_is_the_other_backbone(
    values: dict[str, Any], llama_folder: Path, tmp_path: Path
) -> None:
    shape = {"target_modules": ["q_proj", "v_proj"]}
    tune = {
        **{name: TUNE[name] for name in ("shots", "valid_shots", "epochs", "max_target_length")},
        "model": str(llama_folder),
        "kind": "lora",
        "lora": shape,
    }
    _, run = made(tmp_path, {**values, "tune": tune})
    found = [one for one in load_results(run) if not one.rule]
    assert len({one.template for one in found}) >= 4
    for one in found:
        assert all(np.isfinite(measure.value) for measure in one.metrics.values())


def test_a_user_without_history_is_answered_too(p5: tuple[Recipe, Run]) -> None:
    recipe, run = p5
    split = load_split(run)
    first = split.tables.interactions.with_row_index("row").filter(pl.col("label") == 1)
    new = first.unique("user", keep="first", maintain_order=True)["row"].to_numpy()
    new = new[split.histories.counts(new) == 0][:2]
    posing = Posing.of(run, recipe.build, seed=recipe.seed)
    template = find_template("p5/2-1")
    posed = posing.posed(template, Examples.of_rows(split.tables, new))
    assert [len(items) for items in posing.past_items(posed.examples)] == [0] * len(new)
    assert all("Predict" in prompt[-1]["content"] for prompt in posed.prompts)


def test_a_list_without_its_own_item_is_refused() -> None:
    table = np.zeros((2, 3))
    offered = np.array([[1, 2, 3], [4, 5, 6]])
    with pytest.raises(DataError, match="question 1 lists its own item 0 times"):
        ranks_in_table(table, offered, np.array([2, 9]))


@pytest.mark.parametrize(
    ("generate", "message"),
    [
        ({"k": 10, "beams": 5}, "generate.k = 10 items cannot be found with generate.beams = 5"),
        ({"templates": ["instructrec/recommend-3"]}, "cannot be compared"),
        ({"templates": ["p5/2-99"]}, "p5/2-9"),
        ({"model": "runs/nowhere/tune/model"}, "is not on this machine"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_written(
    generate: dict[str, Any], message: str
) -> None:
    recipe = Recipe.model_validate(
        {"name": "r", "data": {"source": "movielens-small"}, "generate": generate}
    )
    with pytest.raises(UserError, match=message):
        check_generate(recipe)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("p5/1-1", "rating"),
        ("p5/1-3", "choice"),
        ("p5/2-1", "catalogue"),
        ("p5/2-7", "candidates"),
        ("p5/3-7", "text"),
        ("p5/4-1", "text"),
        ("p5/4-2", "rating"),
        ("p5/5-1", "label"),
        ("openp5/sequential-1", "catalogue"),
        ("instructrec/recommend-3", None),
        ("instructrec/recommend-14", "text"),
    ],
)
def test_kinds_of_answers(name: str, kind: str | None) -> None:
    assert answer_kind(find_template(name)) == kind


def test_results_of_a_killed_stage_are_read_as_written(tmp_path: Path) -> None:
    kept = generating._Kept(tmp_path / "answers")
    result = Result("t", "p5/2-1", "fixed", "m", "p", 3, 2, {})
    kept.add("m-p5/2-1-fixed", [([result], pl.DataFrame({"row": [1]}))])
    assert kept.has("m-p5/2-1-fixed")
    assert not kept.has("m-p5/2-13-fixed")
    assert kept.results("m-p5/2-1-fixed") == [result]
    assert kept.choice("best", lambda: "a") == kept.choice("best", lambda: "b") == "a"
