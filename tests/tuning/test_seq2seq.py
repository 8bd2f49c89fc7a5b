"""Tuning of a small T5: the loss, what it learns, and that nothing is lost."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch import Tensor

from tastemaker.errors import DataError, UserError
from tastemaker.eval.metrics import auc
from tastemaker.models.adapters import tuned, with_adapter
from tastemaker.models.language import LanguageModel, load_language_model
from tastemaker.models.scoring import score_yes_no
from tastemaker.models.seq2seq import encode_sources, encode_targets
from tastemaker.tuning import running, seq2seq
from tastemaker.tuning import tune as tune_module
from tastemaker.tuning.settings import AdapterShape, TuneResult, TuneSettings
from tastemaker.tuning.tune import tune
from tastemaker.tuning.weights import trainable

SHAPE = AdapterShape(rank=4, alpha=8, dropout=0.0, target_modules=("q_proj", "v_proj"))
SETTINGS = TuneSettings(
    kind="full",
    lora=SHAPE,
    learning_rate=0.01,
    warmup_steps=0,
    epochs=2,
    batch_size=8,
    micro_batch=None,
    max_length=40,
    loss_on="answer",
    rows="single",
    row_tokens=512,
    group_by_length=False,
    gradient_checkpointing=None,
    evaluate_every=None,
    patience=None,
    metric="auto",
    tracker="none",
    max_target_length=10,
)
CHOICES = ("Yes.", "No.")
ALL = "model.safetensors"
ADAPTER = "adapter_model.safetensors"

Fresh = Callable[[], LanguageModel]


@pytest.fixture
def fresh(t5_folder: Path) -> Fresh:
    return partial(
        load_language_model, str(t5_folder), dtype=torch.float32, device="cpu", seq2seq=True
    )


@pytest.fixture
def still(t5_folder: Path, tmp_path: Path) -> Fresh:
    """Without dropout."""
    folder = shutil.copytree(t5_folder, tmp_path / "still")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dropout_rate": 0.0}))
    return partial(
        load_language_model, str(folder), dtype=torch.float32, device="cpu", seq2seq=True
    )


def examples(count: int) -> Dataset:
    """Even films are liked; answers have two lengths."""
    rows = []
    for index in range(count):
        liked = index % 2 == 0
        text = f"Is item_{index} a film of the {'even' if liked else 'odd'} kind liked?"
        rows.append(
            {
                "prompt": [{"role": "user", "content": text}],
                "completion": [
                    {"role": "assistant", "content": "Yes." if liked else "No. user_131 is odd"}
                ],
                "label": int(liked),
            }
        )
    return Dataset.from_list(rows)


def run(fresh: Fresh, place: Path, **changes: Any) -> TuneResult:
    return tune(
        fresh,
        changes.pop("train", examples(24)),
        valid=changes.pop("valid", examples(4)),
        settings=replace(SETTINGS, **changes.pop("settings", {})),
        out=place / "out",
        scratch=place / "scratch",
        seed=3,
        choices=changes.pop("choices", CHOICES),
        **changes,
    )


def weights(place: Path, name: str = ALL) -> dict[str, Tensor]:
    found: dict[str, Tensor] = load_file(place / "out" / name)
    return found


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor], atol: float = 1e-5) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=atol)


def curve(result: TuneResult, key: str) -> list[float]:
    return [entry[key] for entry in result.curve if key in entry]


def hand_made_loss(language_model: LanguageModel, data: Dataset) -> float:
    """Each answer alone: mean over its tokens, then over examples."""
    found = []
    for row in data:
        source = encode_sources(language_model.tokenizer, [row["prompt"]])
        target = encode_targets(language_model.tokenizer, [row["completion"][0]["content"]])[0]
        with torch.inference_mode():
            logits = language_model.model(
                input_ids=torch.tensor(source), labels=torch.tensor([target])
            ).logits[0]
        said = logits.double().log_softmax(-1)[torch.arange(len(target)), torch.tensor(target)]
        found.append(float(-said.mean()))
    return float(np.mean(found))


def test_learns_a_rule_and_keeps_the_best_state(fresh: Fresh, tmp_path: Path) -> None:
    steps: list[int] = []
    result = run(fresh, tmp_path, settings={"epochs": 8}, on_step=steps.append)
    checks = curve(result, "valid_loss")
    assert checks[-1] < 0.5 * checks[0]
    assert result.metric == "auc"
    assert result.best_valid_auc == 1.0
    assert (result.steps, sum(steps)) == (24, 24)
    assert result.logit_difference == 0
    assert (tmp_path / "out" / "tuning.json").is_file()
    loaded = tuned(fresh(), tmp_path / "out")
    assert hand_made_loss(loaded, examples(4)) == pytest.approx(result.best_valid_loss, abs=1e-5)
    scores = score_yes_no(loaded, examples(4)["prompt"])
    assert auc(scores, np.array(examples(4)["label"])) == 1.0


def test_training_and_checks_compute_the_loss_of_the_paper(still: Fresh, tmp_path: Path) -> None:
    """The mean over examples of means over tokens, wherever a step is cut."""
    data = examples(7)  # passes of 2, 2, 2 and 1
    expected = hand_made_loss(still(), data)
    same = {"epochs": 1, "batch_size": 7, "learning_rate": 1e-30, "metric": "loss"}
    for name, micro_batch in (("whole", 7), ("cut", 2)):
        result = run(
            still,
            tmp_path / name,
            train=data,
            valid=data,
            settings={**same, "micro_batch": micro_batch},
        )
        assert result.micro_batch == micro_batch
        assert curve(result, "loss") == pytest.approx([expected], abs=1e-5)
        assert curve(result, "valid_loss") == pytest.approx([expected], abs=1e-5)


def test_accumulated_passes_equal_one(still: Fresh, tmp_path: Path) -> None:
    """Even where the last pass of an epoch is smaller than the others."""
    same = {"epochs": 2, "batch_size": 4, "learning_rate": 0.001}
    train = examples(11)
    whole = run(still, tmp_path / "a", train=train, settings=same)
    parts = run(still, tmp_path / "b", train=train, settings={**same, "micro_batch": 2})
    assert (whole.micro_batch, parts.micro_batch) == (4, 2)
    assert whole.steps == parts.steps == 6
    assert curve(parts, "loss") == pytest.approx(curve(whole, "loss"), rel=1e-4)
    assert_same(weights(tmp_path / "a"), weights(tmp_path / "b"), atol=1e-4)


def test_whole_words_are_the_same_in_training_and_checks(fresh: Fresh, tmp_path: Path) -> None:
    seen: dict[tuple[int, ...], set[tuple[int, ...]]] = {}
    modes: set[bool] = set()

    def watched() -> LanguageModel:
        found = fresh()
        encoder = found.model.encoder
        encoder.register_forward_pre_hook(note, with_kwargs=True)
        encoder.whole_words.register_forward_pre_hook(keep)
        return found

    asked: list[Tensor] = []

    def note(module: torch.nn.Module, _: Any, given: dict[str, Any]) -> None:
        modes.add(module.training)
        asked.append(given["input_ids"])

    def keep(_: torch.nn.Module, given: tuple[Tensor]) -> None:
        for tokens, words in zip(asked.pop().tolist(), given[0].tolist(), strict=True):
            size = len(tokens) - tokens[::-1].index(1)  # up to the end token
            seen.setdefault(tuple(tokens[:size]), set()).add(tuple(words[:size]))

    data = examples(6)
    run(watched, tmp_path, train=data, valid=data, settings={"epochs": 1})
    tokenizer = fresh().tokenizer
    starts = [tokenizer.convert_ids_to_tokens(tokens) for tokens in map(list, seen)]
    assert modes == {True, False}
    assert len(seen) == 6
    for pieces, found in zip(starts, seen.values(), strict=True):
        walk = np.cumsum([piece.startswith("▁") for piece in pieces]).tolist()
        assert found == {(*(min(word, 15) for word in walk[:-1]), 0)}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("kind", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_a_killed_run_ends_with_the_same_weights(fresh: Fresh, tmp_path: Path, kind: str) -> None:
    name = ALL if kind == "full" else ADAPTER
    settings = {"kind": kind, "epochs": 3, "micro_batch": 4}
    run(fresh, tmp_path / "whole", settings=settings)
    seen: list[int] = []

    def die(done: int) -> None:
        seen.append(done)
        if sum(seen) == 7:
            raise Killed

    resumed = tmp_path / "resumed"
    with pytest.raises(Killed):
        run(fresh, resumed, settings=settings, on_step=die)
    assert not (resumed / "out").exists()
    later: list[int] = []
    run(fresh, resumed, settings=settings, on_step=later.append)
    assert later[0] == 6
    assert sum(later) == 9
    assert_same(weights(tmp_path / "whole", name), weights(resumed, name))


@pytest.mark.slow
def test_killed_while_it_saves_it_only_reads_the_best_state(
    fresh: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(fresh, tmp_path / "whole")

    def die(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(running, "_save", die)
    with pytest.raises(Killed):
        run(fresh, tmp_path / "resumed")
    monkeypatch.undo()
    steps: list[int] = []
    again = run(fresh, tmp_path / "resumed", on_step=steps.append)
    assert steps == []
    assert again.curve == whole.curve
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "resumed"))


def test_an_adapter_trains_its_layers_and_the_table(fresh: Fresh, tmp_path: Path) -> None:
    model = trainable(fresh(), kind="lora", shape=SHAPE, adapter=None, seed=1)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    layers = {name.partition(".lora_")[0].rpartition(".")[2] for name in trained if "lora" in name}
    assert layers == {"q", "v"}  # what the default of Llama's names means for a T5
    others = [name for name in trained if "lora" not in name]
    assert len(others) == 1
    assert "whole_words" in others[0]
    before = fresh()
    result = run(fresh, tmp_path, settings={"kind": "lora", "epochs": 3, "learning_rate": 0.05})
    assert result.logit_difference == 0
    assert curve(result, "valid_loss")[-1] < curve(result, "valid_loss")[0]
    saved = weights(tmp_path, ADAPTER)
    table = next(value for name, value in saved.items() if "whole_words" in name)
    assert not torch.equal(table, before.model.encoder.whole_words.weight)
    plain = score_yes_no(before, examples(4)["prompt"])
    loaded = with_adapter(fresh(), tmp_path / "out")
    odds = score_yes_no(loaded, examples(4)["prompt"])
    assert np.abs(odds - plain).max() > 1e-2
    assert auc(odds, np.array(examples(4)["label"])) == result.best_valid_auc


def test_an_adapter_of_a_plain_t5_holds_no_table(t5_folder: Path, tmp_path: Path) -> None:
    from tastemaker.models.new_t5 import T5Shape, make_t5

    shape = T5Shape(
        layers=1, width=16, heads=2, feed_forward=32, vocabulary=90, dropout=0.1, whole_words=0
    )
    make_t5(
        ["Is item_1 a film of the even kind liked? Yes. No."], tmp_path / "t5", shape=shape, seed=0
    )
    base = load_language_model(
        str(tmp_path / "t5"), dtype=torch.float32, device="cpu", seq2seq=True
    )
    model = trainable(base, kind="lora", shape=SHAPE, adapter=None, seed=1)
    assert all("lora" in name for name, weight in model.named_parameters() if weight.requires_grad)


def test_layers_named_by_the_recipe_are_taken(fresh: Fresh) -> None:
    shape = replace(SHAPE, target_modules=("wi", "o"))
    model = trainable(fresh(), kind="lora", shape=shape, adapter=None, seed=1)
    layers = {
        name.partition(".lora_")[0].rpartition(".")[2]
        for name, weight in model.named_parameters()
        if weight.requires_grad and "lora" in name
    }
    assert layers == {"wi", "o"}
    with pytest.raises(UserError, match=r"no layer up_proj[^\0]*wi"):
        trainable(
            fresh(),
            kind="lora",
            shape=replace(SHAPE, target_modules=("up_proj",)),
            adapter=None,
            seed=1,
        )


@pytest.mark.slow
def test_goes_on_from_an_adapter(fresh: Fresh, tmp_path: Path) -> None:
    settings = {"kind": "lora", "learning_rate": 0.05}
    run(fresh, tmp_path / "first", settings=settings)
    run(
        fresh,
        tmp_path / "second",
        adapter=tmp_path / "first" / "out",
        settings={"kind": "lora", "epochs": 1, "learning_rate": 1e-9},
    )
    assert_same(weights(tmp_path / "first", ADAPTER), weights(tmp_path / "second", ADAPTER))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rows": "packed"}, "each prompt is a row of its own"),
        ({"rows": "streamed"}, "tune.rows single and tune.loss_on answer"),
        ({"loss_on": "everything"}, "only answers are foretold"),
    ],
)
def test_what_an_encoder_rules_out(
    fresh: Fresh, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        run(fresh, tmp_path, settings=changes)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"max_length": 5}, "the prompt of train example .* more than tune.max_length = 5"),
        ({"max_target_length": 3}, "the answer of train .* more than tune.max_target_length = 3"),
        ({"metric": "auc"}, "do not hold both likes and dislikes"),
    ],
)
def test_bad_examples(fresh: Fresh, tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        run(fresh, tmp_path, valid=examples(4).select([0, 2]), settings=changes)
    assert not (tmp_path / "out").exists()


def test_long_examples_may_be_left_out(fresh: Fresh, tmp_path: Path) -> None:
    result = run(
        fresh, tmp_path, settings={"epochs": 1, "max_target_length": 3}, leave_out_long=True
    )
    assert result.left_out == 12
    assert result.metric == "loss"  # only likes are left


def test_warm_up_share_and_weight_decay_reach_the_optimizer(
    fresh: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    decays: set[float] = set()

    def watched(trainer: Any, scratch: Path) -> None:
        step = trainer.training_step

        def training_step(*given: Any, **more: Any) -> Any:
            groups = trainer.optimizer.param_groups
            rates.append(groups[0]["lr"])
            decays.update(group["weight_decay"] for group in groups)
            return step(*given, **more)

        trainer.training_step = training_step
        running.run(trainer, scratch)

    monkeypatch.setattr(tune_module, "run", watched)
    settings = {"epochs": 4, "batch_size": 8, "warmup_share": 0.3, "weight_decay": 0.01}
    result = run(fresh, tmp_path / "share", settings=settings)
    assert result.steps == 12
    assert decays == {0.0, 0.01}  # norms and biases are not drawn to zero
    peak = math.ceil(0.3 * 12)
    expected = [step / peak for step in range(peak)]
    expected += [(12 - step) / (12 - peak) for step in range(peak, 12)]
    assert rates == pytest.approx([0.01 * rate for rate in expected])
    rates.clear()
    run(fresh, tmp_path / "steps", settings={**settings, "warmup_steps": 6})  # it goes before
    assert np.argmax(rates) == 6


def test_without_choices_there_is_no_auc(fresh: Fresh, tmp_path: Path) -> None:
    result = run(fresh, tmp_path, choices=None, settings={"epochs": 1})
    assert (result.metric, result.best_valid_auc) == ("loss", None)


def test_checks_equal_the_scorer_on_any_batch(
    fresh: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seq2seq, "_CHECKED_TOKENS", 25)  # batches of one
    valid = examples(9)
    result = run(fresh, tmp_path, valid=valid, settings={"epochs": 1, "metric": "loss"})
    loaded = tuned(fresh(), tmp_path / "out")
    scores = score_yes_no(loaded, valid["prompt"])
    assert result.best_valid_auc == auc(scores, np.array(valid["label"]))
    assert result.best_valid_loss == pytest.approx(hand_made_loss(loaded, valid), abs=1e-5)
