"""The base model of a recipe: a T5 that starts from nothing, and one that is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from tastemaker.data.item_index import ItemIndex
from tastemaker.errors import RecipeError, UserError
from tastemaker.methods import base_models
from tastemaker.methods.base_models import check_new, load_model, load_untuned, make_new
from tastemaker.methods.pipeline import stages
from tastemaker.methods.tuning import check_tune, tuned_folder
from tastemaker.models.seq2seq import encode_targets
from tastemaker.models.whole_words import WholeWordT5
from tastemaker.recipe import Recipe, TuneConfig
from tastemaker.stage import Run
from tastemaker.testing.world import checkerboard

SHAPE = {"layers": 1, "width": 16, "heads": 2, "feed_forward": 16, "vocabulary": 200}
TUNE: dict[str, Any] = {
    "model": "new-t5",
    "kind": "full",
    "epochs": 2,
    "whole_words": 32,
    "precision": "float32",
    "new_model": SHAPE,
}
CLUSTERS = ("<CI0>", "<CI1>")
TRAIN = Dataset.from_list(
    [
        {
            "prompt": [{"role": "user", "content": f"What comes after item_{place} ?"}],
            "completion": [{"role": "assistant", "content": f"item_{place + 1}"}],
        }
        for place in range(20)
    ]
)


def config(**changes: Any) -> TuneConfig:
    return TuneConfig.model_validate({**TUNE, **changes})


@pytest.mark.parametrize(
    ("changes", "told", "remedy"),
    [
        ({"kind": "lora"}, "tune.kind lora: new-t5 starts from random", "Set tune.kind to full."),
        ({"kind": "qlora"}, "tune.kind qlora: new-t5 starts", "Set tune.kind to full."),
        ({"adapter": "some/adapter"}, "nothing can come before it", "Remove tune.instr"),
        ({"instruction_tuning": {"data": "a.json"}}, "nothing can come before it", "Remove tune"),
        ({"rows": "packed"}, "each prompt is a row of its own", "Set tune.rows to single"),
        ({"loss_on": "everything"}, "only answers are foretold", "tune.loss_on to answer"),
        (
            {"new_model": {**SHAPE, "heads": 3}},
            "a width of 16 cannot be shared by 3 heads",
            "Change tune.new_model.heads",
        ),
    ],
)
def test_what_a_new_model_cannot_have(changes: dict[str, Any], told: str, remedy: str) -> None:
    with pytest.raises(UserError) as caught:
        check_new(config(**changes))
    assert told in str(caught.value)
    assert remedy in str(caught.value)
    check_new(config())
    if "new_model" not in changes:
        check_new(config(**{**changes, "model": "smollm2"}))  # whoever tunes a known one may


def test_the_new_model_is_made_once_of_the_training_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_new(config(), TRAIN, tmp_path / "new", tokens=CLUSTERS, seed=1)
    model = load_untuned(config(), folder=folder, tokens=CLUSTERS, seed=1)
    assert model.name == "new-t5"
    assert model.folder == folder
    assert isinstance(model.model, WholeWordT5)
    assert model.model.encoder.whole_words.num_embeddings == 32
    tokenizer = model.tokenizer
    for row in TRAIN:
        for text in (row["prompt"][0]["content"], row["completion"][0]["content"]):
            assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]
    assert len(encode_targets(tokenizer, ["item_<CI0><CI1>"])[0]) == 4
    monkeypatch.setattr(base_models, "make_t5", lambda *_, **__: pytest.fail("made again"))
    assert make_new(config(), TRAIN, folder, tokens=CLUSTERS, seed=1) == folder


class Killed(BaseException):
    pass


def test_a_killed_making_leaves_no_half_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_t5 = base_models.make_t5

    def die(texts: Any, folder: Path, **more: Any) -> None:
        make_t5(texts, folder, **more)
        (folder / "tokenizer.json").unlink()  # it had not come so far
        (folder / "rest.tmp").touch()
        raise Killed

    place = tmp_path / "new"
    monkeypatch.setattr(base_models, "make_t5", die)
    with pytest.raises(Killed):
        make_new(config(), TRAIN, place, tokens=(), seed=1)
    assert not place.exists()
    monkeypatch.undo()
    make_new(config(), TRAIN, place, tokens=(), seed=1)
    assert {path.name for path in tmp_path.iterdir()} == {"new"}
    assert not (place / "rest.tmp").exists()
    make_new(config(), TRAIN, tmp_path / "other", tokens=(), seed=1)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("new", "other"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("name", ["t5", pytest.param("llama", marks=pytest.mark.slow)])
def test_tokens_of_an_index_are_whole_where_all_weights_are_trained(
    t5_folder: Path, llama_folder: Path, name: str
) -> None:
    folder = str(t5_folder if name == "t5" else llama_folder)
    tokens = ("<CI0>", "<CI98>", "<CI99>")  # the T5 knows the first
    found = {}
    for kind in ("full", "lora"):
        settings = config(model=folder, kind=kind, whole_words=0, new_model=SHAPE)
        found[kind] = load_untuned(settings, tokens=tokens, seed=1)
        assert found[kind].name == folder
    whole, pieces = (
        model.tokenizer("<CI98><CI99>", add_special_tokens=False)["input_ids"]
        for model in found.values()
    )
    assert whole == found["full"].tokenizer.convert_tokens_to_ids(["<CI98>", "<CI99>"])
    assert len(pieces) > 2
    again = load_untuned(
        config(model=folder, whole_words=0, new_model=SHAPE), tokens=tokens, seed=1
    )
    weights = [one.model.get_input_embeddings().weight for one in (found["full"], again)]
    assert torch.equal(*weights)  # the base that a save is checked on is the one that was trained


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    tables = checkerboard(16, 20, events=8, seed=1)
    named = tables.interactions.join(tables.users, on="user").join(tables.items, on="item")
    named.select("user_id", "item_id", "rating", timestamp="time").write_csv(folder / "r.csv")
    tables.items.select("item_id", "title").write_csv(folder / "i.csv")
    return folder


def test_a_run_tunes_a_new_model_that_writes_indexed_items(world: Path, tmp_path: Path) -> None:
    recipe = Recipe.model_validate(
        {
            "name": "p5",
            "methods": ["p5"],
            "data": {
                "interactions": str(world / "r.csv"),
                "items": str(world / "i.csv"),
                "split": {"name": "leave_one_out"},
                "requests": {"min_history": 1},
            },
            "build": {
                "templates": ["p5/2-1"],
                "history": 4,
                "min_history": 1,
                "indexing": "collaborative",
                "clusters": 3,
            },
            "tune": {**TUNE, "shots": 32, "valid_shots": 8, "learning_rate": 0.01},
        }
    )
    run = Run(tmp_path / "run", seed=recipe.seed)
    for stage in stages(recipe, until="tune"):
        run.execute(stage)
    manifest = run.manifest("tune")
    assert manifest is not None
    assert manifest.summary["reload_logit_difference"] == 0
    tuned = load_model(recipe.tune, tuned_folder(run.artefact("tune")))
    assert isinstance(tuned.model, WholeWordT5)
    index = ItemIndex.load(run.artefact("build"))
    assert index.tokens
    ids = set(tuned.tokenizer.convert_tokens_to_ids(list(index.tokens)))
    texts = index.texts.to_list()
    for text, tokens in zip(texts, encode_targets(tuned.tokenizer, texts), strict=True):
        assert sum(token in ids for token in tokens) == text.count("<CI")
    curve = [one["valid_loss"] for one in manifest.summary["curve"] if "valid_loss" in one]
    assert curve[-1] < curve[0]


def test_the_check_before_a_run_says_so_too() -> None:
    found = Recipe.model_validate(
        {"name": "a", "data": {"interactions": "r.csv"}, "tune": {**TUNE, "kind": "lora"}}
    )
    with pytest.raises(RecipeError, match=r"Set tune\.kind to full"):
        check_tune(found)
