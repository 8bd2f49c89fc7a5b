"""The build stage, from a recipe to a data set that `datasets` reads and the audit passes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from tastemaker.data.findings import Finding
from tastemaker.data.item_index import ItemIndex
from tastemaker.errors import RecipeError, TastemakerError, UnknownNameError, UserError
from tastemaker.methods.base import load_requests, load_split
from tastemaker.methods.building import arranged, audit_build
from tastemaker.methods.pipeline import stages
from tastemaker.methods.planning import PARTS
from tastemaker.prompts.formats import find_format, format_names, read_shards
from tastemaker.recipe import Recipe, load_recipe
from tastemaker.stage import Run
from tastemaker.testing.world import checkerboard

Call = Callable[..., Any]
BUILD: dict[str, Any] = {"history": 4, "min_history": 1, "candidates": 3}


def write_world(folder: Path) -> None:
    """The checkerboard as files, with makers, moods, names of users, and reviews."""
    tables = checkerboard(30, 24, events=16, seed=1)
    number = pl.col("item")
    events = tables.interactions.select(
        "rating",
        user_id=pl.format("u{}", "user"),
        item_id="item",
        timestamp="time",
        body=pl.when(number % 3 > 0).then(pl.format("I saw it, number {} of all.", number)),
        subject=pl.format("Number {}", number),
    )
    films = tables.items.select(
        "item_id",
        "title",
        genres=pl.col("genres")
        + pl.when(number % 4 > 1).then(pl.lit("|Drama")).otherwise(pl.lit("")),
        maker=pl.format("Maker {}", number % 5),
    )
    users = tables.users.select(
        user_id=pl.format("u{}", "user"), name=pl.format("Ann {}", pl.col("user") + 1001)
    )
    for name, frame in (("ratings", events), ("films", films), ("people", users)):
        frame.write_parquet(folder / f"{name}.parquet")


def data_of(folder: Path) -> dict[str, Any]:
    return {
        "interactions": str(folder / "ratings.parquet"),
        "items": str(folder / "films.parquet"),
        "users": str(folder / "people.parquet"),
        "columns": {"text": ["body", "subject"], "lists": {"genres": "|"}},
        "split": {"valid_from": 0.7, "test_from": 0.85},
        "requests": {"min_history": 1},
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files, and a run whose data stage is finished."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    found = recipe(folder)
    (data, _) = stages(found, until="build")
    Run(folder / "run", seed=found.seed).execute(data)
    return folder


def recipe(folder: Path, **build: Any) -> Recipe:
    return Recipe.model_validate(
        {"name": "world", "data": data_of(folder), "build": {**BUILD, **build}}
    )


def execute(found: Recipe, folder: Path) -> Run:
    run = Run(folder, seed=found.seed)
    for stage in stages(found, until="build"):
        run.execute(stage)
    return run


Build = Callable[..., Run]


@pytest.fixture
def build(world: Path, tmp_path: Path) -> Build:
    """Build with these settings, on data that is prepared already."""

    def made(**settings: Any) -> Run:
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(world / "run", folder)
        return execute(recipe(world, **settings), folder)

    return made


def parts_of(run: Run) -> dict[str, pl.DataFrame]:
    manifest = run.manifest("build")
    assert manifest is not None
    return {part: read_shards(run.artefact("build"), part) for part in manifest.summary["parts"]}


def card_of(run: Run) -> str:
    return (run.artefact("build") / "README.md").read_text(encoding="utf-8")


def audited(run: Run) -> dict[str, Finding]:
    found = audit_build(run, load_split(run))
    return {one.check.removeprefix("prompts: "): one for one in found}


def failed(run: Run) -> list[str]:
    return [check for check, one in audited(run).items() if one.severity == "fail"]


def loaded(run: Run, folder: Path) -> Any:
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    return load_dataset(str(run.artefact("build")), cache_dir=str(folder / "cache"))


@pytest.mark.parametrize(
    ("form", "pairs"),
    [
        (form, pairs)
        for form in format_names()
        for pairs in (False, True)
        if not pairs or find_format(form).pair_column
    ],
)
def test_datasets_reads_every_format_as_it_is(
    build: Build, tmp_path: Path, form: str, pairs: bool
) -> None:
    run = build(
        templates=["tallrec/movie", "p5/2-1", "p5/2-13"],
        format=form,
        pairs=pairs,
        shots=4,
        shard_rows=100,
    )
    found, parts = loaded(run, tmp_path), parts_of(run)
    manifest = run.manifest("build")
    assert manifest is not None
    counts = {name: part.num_rows for name, part in found.items()}
    assert counts == manifest.summary["parts"]
    assert counts == {name: frame.height for name, frame in parts.items()}
    assert set(counts) == {"train", "validation", "test", "test_unseen", "train_4_seed0"}
    assert counts["train"] > 100  # so of several shards
    for name, frame in parts.items():
        assert ("rejected" in frame.columns) == pairs
        assert found[name].to_list() == find_format(form).arrange(frame).to_dicts()
    if form in ("alpaca", "sharegpt"):
        info = json.loads((run.artefact("build") / "dataset_info.json").read_text())
        assert [entry["split"] for entry in info.values()] == list(counts)
    trl = arranged(run.artefact("build"), "train", limit=3)
    assert trl["prompt"][0][-1]["role"] == "user"


def test_a_part_that_lost_all_its_rows_is_no_split(build: Build, tmp_path: Path) -> None:
    # The only row of validation is a dislike, of which nobody is asked for the next item.
    run = build(templates="p5/2-1", format="alpaca", valid_examples=1)
    parts = parts_of(run)
    assert {part: frame.height > 0 for part, frame in parts.items()} == {
        "train": True,
        "validation": False,
        "test": True,
    }
    assert set(loaded(run, tmp_path)) == {"train", "test"}
    info = json.loads((run.artefact("build") / "dataset_info.json").read_text())
    assert [entry["split"] for entry in info.values()] == ["train", "test"]
    assert failed(run) == []


def test_validation_and_test_ask_the_rows_that_every_model_is_asked(build: Build) -> None:
    run = build()
    split, parts = load_split(run), parts_of(run)
    for part, name in PARTS.items():
        if part == "train":
            least = split.histories.counts(split.train) >= 1
            assert parts[name]["row"].to_list() == split.train[least].tolist()
        else:
            assert parts[name]["row"].to_list() == load_requests(run, part).rows.tolist()  # type: ignore[arg-type]
    assert [one for one in audited(run).values() if one.severity != "pass"] == []


def test_samples_are_seeded_subsets(build: Build) -> None:
    whole = parts_of(build())
    some = parts_of(build(train_examples=20, valid_examples=5))
    assert [some[part].height for part in ("train", "validation")] == [20, 5]
    assert some["test"].equals(whole["test"])
    for part in ("train", "validation"):
        assert set(some[part]["row"]) < set(whole[part]["row"])
        assert some[part]["row"].is_sorted()


def test_weights_share_examples_among_templates(build: Build) -> None:
    counts = {"tallrec/movie": 3.0, "tallrec/item": 1.0}
    frame = parts_of(build(templates=counts))["train"]
    shares = dict(frame["template"].value_counts(normalize=True).iter_rows())
    assert shares["tallrec/movie"] == pytest.approx(0.75, abs=0.08)
    assert frame["row"].is_unique().all()
    assert frame["row"].is_sorted()


def test_a_later_pattern_corrects_a_weight(build: Build) -> None:
    frame = parts_of(build(templates={"tallrec/*": 1e-9, "tallrec/item": 1e9}))["train"]
    assert set(frame["template"]) == {"tallrec/item"}


def test_several_templates_or_all_ask_about_an_example(build: Build) -> None:
    names = ["tallrec/movie", "tallrec/item", "instructrec/recommend-11"]
    one = parts_of(build(templates=names))["train"].height
    for count, wanted in ((2, 2), (3, 3), (9, 3), ("all", 3)):
        frame = parts_of(build(templates=names, per_example=count))["train"]
        assert frame.height == one * wanted
        assert frame.select("row", "template").is_unique().all()


def test_unseen_templates_are_tested_only(build: Build) -> None:
    run = build(templates="p5/2-*", per_example="all")
    parts = parts_of(run)
    assert set(parts["test_unseen"]["template"]) == {"p5/2-13"}
    seen = {"p5/2-1", "p5/2-10"}
    for name in ("train", "validation", "test"):
        assert seen <= set(parts[name]["template"])
        assert "p5/2-13" not in set(parts[name]["template"])
    assert set(parts["test_unseen"]["row"]) <= set(parts["test"]["row"])
    assert failed(run) == []
    alone = parts_of(build(templates="p5/2-13"))
    assert list(alone) == ["test_unseen"]
    assert alone["test_unseen"].drop("split").equals(parts["test_unseen"].drop("split"))


def test_shots_are_nested_subsets_of_train(build: Build) -> None:
    run = build(shots=[4, 16], shot_seeds=[0, 1])
    parts = parts_of(run)
    shots = [name for name in parts if name.startswith("train_")]
    assert shots == ["train_4_seed0", "train_4_seed1", "train_16_seed0", "train_16_seed1"]
    rows = {name: set(frame["row"]) for name, frame in parts.items()}
    for seed in (0, 1):
        four, sixteen = rows[f"train_4_seed{seed}"], rows[f"train_16_seed{seed}"]
        assert (len(four), len(sixteen)) == (4, 16)
        assert four < sixteen < rows["train"]
    assert rows["train_16_seed0"] != rows["train_16_seed1"]
    train = parts["train"].filter(pl.col("row").is_in(sorted(rows["train_4_seed0"])))
    assert train.drop("split").equals(parts["train_4_seed0"].drop("split"))
    assert failed(run) == []


@pytest.mark.parametrize("name", ["tallrec/movie", "p5/5-1"])
def test_negatives_were_never_met(build: Build, name: str) -> None:
    run = build(templates=name, negatives=2)
    split, frame = load_split(run), parts_of(run)["train"]
    events = split.tables.interactions
    items = split.tables.items["item_id"]
    own = frame.with_columns(true=items.gather(events["item"].gather(frame["row"])))
    drawn = own.filter(pl.col("item_id") != pl.col("true"))
    likes = own.filter(pl.col("item_id") == pl.col("true"), label=1)
    assert drawn.height == 2 * likes.height > 100
    assert set(drawn["row"]) == set(likes["row"])
    assert set(drawn["label"]) == {0}
    met = {(row["user"], row["item"]): row["time"] for row in events.iter_rows(named=True)}
    for row, item in drawn.select("row", "item_id").iter_rows():
        user, time = events["user"][row], events["time"][row]
        assert met.get((user, items.index_of(item)), time + 1) > time
    assert "p5" in name or set(drawn["completion"]) == {"No."}
    assert failed(run) == []


def test_negatives_are_not_drawn_where_nothing_asks_for_a_label(build: Build) -> None:
    assert parts_of(build(templates="p5/2-1", negatives=2))["train"]["label"].unique().item() == 1


def test_balance_keeps_as_many_likes_as_others(build: Build) -> None:
    whole, even = parts_of(build())["train"], parts_of(build(balance=True))["train"]
    rarer = min(whole["label"].sum(), whole.height - whole["label"].sum())
    assert (even.height, even["label"].sum()) == (2 * rarer, rarer)
    assert set(even["row"]) < set(whole["row"])
    drawn = parts_of(build(balance=True, negatives=3))["train"]
    assert drawn["label"].mean() == 0.5


def test_pairs_of_a_label_are_its_two_answers(build: Build) -> None:
    frame = parts_of(build(pairs=True))["train"]
    expected = pl.when(label=1).then(pl.lit("Yes.|No.")).otherwise(pl.lit("No.|Yes."))
    said = frame.select(pl.concat_str("completion", "rejected", separator="|")).to_series()
    assert said.equals(frame.select(expected).to_series().rename(said.name))


def test_pairs_of_items_reject_what_the_user_disliked_nearest_in_time(build: Build) -> None:
    run = build(templates="instructrec/recommend-1", pairs=True)
    tables, split = load_split(run).tables, load_split(run)
    events = tables.interactions
    for part, name in PARTS.items():
        frame = parts_of(run)[name]
        own = events[split.part(part)].filter(label=0)
        for row, said, rejected in frame.select("row", "completion", "rejected").iter_rows():
            target = events.row(row, named=True)
            disliked = own.filter(user=target["user"])
            gaps = (disliked["time"] - target["time"]).abs()
            nearest = disliked.filter(gaps == gaps.min())["item"]
            assert said == tables.titles[target["item"]]
            assert rejected in [tables.titles[item] for item in nearest]
        asked = split.train if part == "train" else load_requests(run, part).rows  # type: ignore[arg-type]
        least = 1 if part == "train" else 0
        kept = events[asked].filter(pl.Series(split.histories.counts(asked) >= least), label=1)
        assert frame.height == kept.join(own, on="user", how="semi").height


def test_near_duplicates_are_left_out_of_train(build: Build) -> None:
    whole = parts_of(build(min_history=0))
    run = build(min_history=0, near_duplicates=1.0)
    split, some = load_split(run), parts_of(run)
    events = split.tables.interactions
    past = split.histories.before(whole["train"]["row"].to_numpy(), max_length=4)
    shown = [frozenset(events["item"][past[place]].to_list()) for place in range(len(past))]
    asked = events.select("item", "label")[whole["train"]["row"]].rows()
    questions = [*zip(asked, shown, strict=True)]
    firsts = [place for place, one in enumerate(questions) if one not in questions[:place]]
    assert len(questions) - len(firsts) > 3
    assert some["train"]["row"].to_list() == whole["train"]["row"][firsts].to_list()
    assert some["test"].equals(whole["test"])
    left = len(questions) - len(firsts)
    assert f"{left} near-duplicate training examples were left out" in card_of(run)
    fewer = parts_of(build(min_history=0, near_duplicates=0.5))["train"]
    assert fewer.height < some["train"].height


def lengths(frame: pl.DataFrame) -> pl.Series:
    return frame["prompt"].str.len_chars() + frame["completion"].str.len_chars()


def test_histories_are_cut_to_the_longest_length(build: Build) -> None:
    whole = parts_of(build())["train"]
    limit = int(lengths(whole).median())
    run = build(max_length=limit)
    cut = parts_of(run)["train"]
    assert lengths(cut).max() <= limit
    assert cut["row"].equals(whole["row"])
    fitting = (lengths(whole) <= limit).to_list()
    for long, short, fits in zip(whole["prompt"], cut["prompt"], fitting, strict=True):
        assert (long == short) == fits
        # The oldest titles are gone; what is left of each line is its end.
        for before, after in zip(long.split("\n"), short.split("\n"), strict=True):
            assert before.endswith(after.split(": ", 1)[-1]) or after.endswith(":")
    assert failed(run) == []


def test_a_length_that_no_question_keeps(build: Build) -> None:
    with pytest.raises(UserError, match=r"build\.max_length"):
        build(max_length=30)


def test_tokens_of_a_chat_are_counted_whole(build: Build) -> None:
    from transformers import AutoTokenizer

    from tastemaker.models.language import language_model_folder

    run = build(max_length=120, tokenizer="smollm2", train_examples=40)
    tokenizer = AutoTokenizer.from_pretrained(language_model_folder("smollm2"))
    frame = arranged(run.artefact("build"), "train")
    chats = [[*row["prompt"], *row["completion"]] for row in frame.to_dicts()]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
    sizes = [len(ids) for ids in tokenizer(texts)["input_ids"]]
    assert 100 < max(sizes) <= 120
    assert "tokens of smollm2" in card_of(run)


@pytest.mark.parametrize("scheme", ["random", "sequential", "collaborative"])
def test_items_are_called_by_every_indexing(build: Build, scheme: str) -> None:
    run = build(templates=["p5/2-1", "p5/2-8", "openp5/*"], indexing=scheme, clusters=3)
    index = ItemIndex.load(run.artefact("build"))
    assert index.scheme == scheme
    frame = parts_of(run)["test"].filter(pl.col("template").str.starts_with("p5/"))
    items = load_split(run).tables.items["item_id"]
    due = [index.texts[items.index_of(item)] for item in frame["item_id"]]
    assert frame["completion"].to_list() == due
    called = set(index.texts)
    for prompt in frame["prompt"]:
        assert set(prompt.split("\n")[1].replace(" -> ", " , ").split(" , ")) <= called
    assert failed(run) == []


def test_no_index_is_kept_where_no_template_shows_one(build: Build) -> None:
    assert not (build().artefact("build") / "item_index.json").exists()


def test_columns_are_called_by_other_names(build: Build) -> None:
    columns = {"brand": "maker", "review": "body", "headline": "subject"}
    run = build(templates="p5/4-1", columns=columns)
    frame = parts_of(run)["train"]
    assert frame.height > 50
    for prompt, said, item in frame.select("prompt", "completion", "item_id").iter_rows():
        assert prompt.endswith(f":\nI saw it, number {item} of all.")
        assert said == f"Number {item}"
        assert item % 3  # others have no review
    makers = parts_of(build(templates="p5/z-1", columns=columns))["test_unseen"]
    for text, item in makers.select("prompt", "item_id").iter_rows():
        assert f"brand Maker {item % 5}" in text
    assert failed(run) == []


def test_prompts_about_items_belong_to_the_part_that_met_them_first(build: Build) -> None:
    run = build(templates="notellm/category", columns={"category": "genres"})
    split, parts = load_split(run), parts_of(run)
    items = split.tables.interactions["item"].to_numpy()
    frame = parts["train"]
    assert frame["item_id"].to_list() == sorted(set(items[split.train].tolist()))
    assert set(frame["completion"]) == {"Even", "Odd"}
    nothing = frame.select("user_id", "label", "timestamp", "row")
    assert nothing.null_count().row(0) == (frame.height,) * 4
    met = [set(frame["item_id"]) for frame in parts.values()]
    assert sum(map(len, met)) == len(set.union(*met))
    assert failed(run) == []


OWN = """{#---
family: own
task: click
about: Try.
fields: [history, title, maker]
choices: ["Fine.", "Bad."]
---#}
{#--- system ---#}
Be brief.
{#--- prompt ---#}
After "{{ history | join('", "') }}": "{{ title }}" by {{ maker }}?
"""


@pytest.mark.parametrize("form", ["text", "list", "mapping"])
def test_a_template_beside_the_recipe(world: Path, tmp_path: Path, form: str) -> None:
    home = tmp_path / "home"
    (home / "mine").mkdir(parents=True)
    (home / "mine" / "own.j2").write_text(OWN)
    name = "mine/own.j2"
    templates = {"text": name, "list": [name], "mapping": {name: 2.0}}[form]
    values = {"name": "w", "data": data_of(world), "build": {**BUILD, "templates": templates}}
    (home / "recipe.yaml").write_text(yaml.safe_dump(values))
    found = load_recipe(home / "recipe.yaml")
    run = execute(found, tmp_path / "run")
    frame = parts_of(run)["train"]
    assert set(frame["template"]) == {"own.j2"}
    assert set(frame["system"]) == {"Be brief."}
    assert set(frame["completion"]) == {"Fine.", "Bad."}
    assert failed(run) == []
    assert str(tmp_path) not in card_of(run)
    # A changed wording is another data set.
    (_, stage) = stages(found, until="build")
    assert run.is_current(stage)
    (home / "mine" / "own.j2").write_text(OWN.replace("brief", "short"))
    (_, stage) = stages(load_recipe(home / "recipe.yaml"), until="build")
    assert not run.is_current(stage)


def test_workers_and_checks_make_no_other_data_set(build: Build, world: Path) -> None:
    run = build()
    for same in ({"workers": 4}, {"check": 0.5}, {"workers": 2, "check": 0.0}):
        (_, stage) = stages(recipe(world, **same), until="build")
        assert run.is_current(stage)
    for other in ({"history": 5}, {"templates": "tallrec/item"}, {"shard_rows": 7}):
        (_, stage) = stages(recipe(world, **other), until="build")
        assert not run.is_current(stage)


@pytest.mark.parametrize(("check", "promise"), [(0.0, "no finished"), (0.5, "50% of the finished")])
def test_a_share_of_prompts_is_checked(build: Build, check: float, promise: str) -> None:
    run, whole = build(check=check), build()
    assert promise in card_of(run)
    assert "every finished prompt" in card_of(whole)
    assert all(parts_of(run)[part].equals(frame) for part, frame in parts_of(whole).items())


class Dying:
    """A reporter that ends the process after some shards."""

    def __init__(self, last: int) -> None:
        self.last, self.calls, self.total = last, 0, 0

    def line(self, text: str) -> None:
        del text

    @contextmanager
    def track(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        del label
        self.total = total

        def advance(count: int) -> None:
            del count
            self.calls += 1
            if self.calls == self.last:
                raise KeyboardInterrupt

        yield advance


def test_a_killed_stage_goes_on_where_it_was(build: Build, world: Path, tmp_path: Path) -> None:
    whole = build(shard_rows=50)
    shutil.copytree(world / "run", tmp_path / "killed")
    (_, stage) = stages(recipe(world, shard_rows=50), until="build")
    dying = Run(tmp_path / "killed", seed=whole.seed, report=Dying(3))
    with pytest.raises(KeyboardInterrupt):
        dying.execute(stage)
    assert dying.manifest("build") is None
    report = Dying(-1)
    run = Run(tmp_path / "killed", seed=whole.seed, report=report)
    run.execute(stage)
    assert report.total == dying.report.total - 150  # type: ignore[attr-defined]
    assert run.digest_of("build") == whole.digest_of("build")
    assert not [*(run.folder / ".scratch").iterdir()]


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"templates": "kar/user_movies"}, RecipeError, "'kar/user_movies' has no answer"),
        ({"templates": "hllm/item"}, RecipeError, "'hllm/item' has no answer to tune on"),
        ({"templates": ["tallrec/movie", "tallrec/movies"]}, UnknownNameError, "tallrec/movies"),
        ({"templates": "p9/*"}, UnknownNameError, "unknown template 'p9/*'"),
        ({"templates": ["p5/2-1", "notellm/category"]}, UserError, "about the same thing"),
        ({"pairs": True, "format": "messages"}, RecipeError, "no form for preference pairs"),
        ({"pairs": True, "templates": "p5/1-1"}, RecipeError, "that another could replace"),
        ({"tokenizer": "smollm3"}, TastemakerError, "smollm3"),
        ({"templates": "nowhere/own.j2"}, UserError, "cannot be read"),
    ],
)
def test_wrong_settings_are_found_before_anything_runs(
    world: Path, settings: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as caught:
        stages(recipe(world, **settings), until="build")
    assert message in str(caught.value)


def test_what_is_tuned_and_scored_must_tell_its_rows(world: Path) -> None:
    found = recipe(world, format="openai").model_copy(update={"methods": ("tallrec",)})
    with pytest.raises(RecipeError, match="openai files do not tell"):
        stages(found, until="tune")


def test_own_templates_of_one_file_name_are_refused(world: Path, tmp_path: Path) -> None:
    names = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own.j2").write_text(OWN)
        names.append(str(tmp_path / folder / "own.j2"))
    with pytest.raises(UserError, match="have the same file name"):
        stages(recipe(world, templates=names), until="build")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"templates": ["p5/4-1", "tallrec/movie"]}, "  p5/4-1: field 'review': no table has"),
        ({"templates": "p5/3-1"}, "field 'explanation': no table has a column 'explanation'"),
        ({"templates": "p5/4-1", "columns": {"review": "bode"}}, "did you mean 'body'"),
    ],
)
def test_what_the_data_cannot_give_is_told(
    build: Build, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        build(**settings)
    assert message in str(caught.value)
    assert "build.columns" in str(caught.value)


def test_a_template_of_a_reasoning_chain_cannot_be_built(build: Build) -> None:
    with pytest.raises(UserError) as caught:
        build(templates=["kar/user_items", "kar/synthesis_user"])
    assert str(caught.value).startswith(
        "template 'kar/synthesis_user' cannot be built: only a reasoning chain has findings."
    )
    assert "Leave out kar/synthesis_user, or ask them with: tastemaker reason RECIPE" in str(
        caught.value
    )


def test_no_history_is_long_enough_to_train_on(build: Build) -> None:
    assert list(parts_of(build(min_history=99))) == ["validation", "test"]


def test_a_missing_column_ends_the_command_without_a_traceback(
    world: Path, tmp_path: Path, tastemaker: Call
) -> None:
    values = {"name": "w", "data": data_of(world), "build": {**BUILD, "templates": "p5/4-1"}}
    (tmp_path / "w.yaml").write_text(yaml.safe_dump(values))
    found = tastemaker("build", "w.yaml", cwd=tmp_path)
    assert found.returncode == 2
    assert "Traceback" not in found.stderr
    assert "the data lacks what these templates need:" in found.stderr
    assert "p5/4-1: field 'headline'" in found.stderr
    assert "Say which columns they are (build.columns)" in found.stderr
    assert not (tmp_path / "runs" / "w" / "build").exists()
    columns = "build.columns={review: body, headline: subject}"
    found = tastemaker("build", "w.yaml", "--set", columns, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "train" in found.stdout + found.stderr


def rewrite(run: Run, part: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    path = next((run.artefact("build") / "data").glob(f"{part}-00000-*"))
    frame = pl.read_parquet(path)
    change(frame).write_parquet(path)


@pytest.mark.parametrize("part", ["train", "validation", "test", "train_16_seed0"])
def test_a_title_of_later_in_a_shard_is_found(build: Build, part: str) -> None:
    run = build(shots=16)
    assert failed(run) == []
    split, frame = load_split(run), parts_of(run)[part]
    events = split.tables.interactions
    row = frame["row"][3]
    user, time = events["user"][row], events["time"][row]
    met = set(events.filter((pl.col("user") == user) & (pl.col("time") < time))["item"])
    own = events["item"][row]
    title = next(name for item, name in enumerate(split.tables.titles) if item not in {*met, own})

    def planted(found: pl.DataFrame) -> pl.DataFrame:
        prompts = found["prompt"].to_list()
        text = prompts[3][0]["content"]
        prompts[3][0]["content"] = text.replace("Preference:", f'Preference: "{title}",', 1)
        return found.with_columns(prompt=pl.Series(prompts, dtype=found.schema["prompt"]))

    rewrite(run, part, planted)
    assert "titles" in failed(run)
    assert audited(run)["titles"].rows == [row]


@pytest.mark.parametrize(
    ("change", "checks"),
    [
        (pl.col("label") * 0 + 1, ["provenance"]),
        (pl.col("timestamp") - 1, ["provenance"]),
        (pl.lit("train").alias("split"), ["parts"]),
        (pl.col("completion").reverse(), ["provenance"]),
        (pl.col("row").reverse(), ["provenance"]),
    ],
)
def test_rows_that_tell_something_else_are_found(
    build: Build, change: pl.Expr, checks: list[str]
) -> None:
    run = build()
    rewrite(run, "test", lambda frame: frame.with_columns(change))
    assert set(checks) <= set(failed(run))


def test_candidates_of_a_tampered_shard_are_found(build: Build) -> None:
    run = build(templates="p5/5-5")
    assert failed(run) == []
    rewrite(run, "test", lambda frame: frame.with_columns(pl.col("candidates").list.slice(1)))
    assert "candidates" in failed(run)


def test_files_without_provenance_are_not_judged(build: Build) -> None:
    run = build(format="openai")
    (found,) = audit_build(run, load_split(run))
    assert (found.severity, found.summary) == ("warn", "openai files keep none")


def test_a_build_is_the_same_again(world: Path, tmp_path: Path) -> None:
    settings = {
        "templates": ["p5/2-*", "tallrec/movie"],
        "negatives": 1,
        "shots": 8,
        "balance": True,
    }
    digests = []
    for name in ("one", "two"):
        found = Recipe.model_validate(
            {"name": "w", "seed": 8, "data": data_of(world), "build": {**BUILD, **settings}}
        )
        digests.append(execute(found, tmp_path / name).digest_of("build"))
    assert digests[0] == digests[1]


def test_the_card_tells_the_recipe_that_makes_it_again(
    build: Build, world: Path, tmp_path: Path
) -> None:
    run = build(templates={"tallrec/movie": 2, "p5/2-*": 1}, shots=4, negatives=1, history=3)
    card = card_of(run)
    text = card.split("~~~~yaml\n")[-1].split("~~~~")[0]
    assert str(world) not in card
    assert "interactions:\n    path: " in text
    again = world / "again.yaml"
    again.write_text(text, encoding="utf-8")
    other = execute(load_recipe(again), tmp_path / "other")
    for file in sorted((run.artefact("build") / "data").iterdir()):
        assert file.read_bytes() == (other.artefact("build") / "data" / file.name).read_bytes()
