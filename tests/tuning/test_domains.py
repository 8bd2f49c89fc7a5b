"""Training of networks of domains: what is learned, what stays as it was, and what a kill costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tastemaker.errors import DataError, StageError
from tastemaker.eval.metrics import auc
from tastemaker.models.domain_networks import GENERAL, DomainNetworks, Layout, NetworkShape
from tastemaker.models.prompt_ctr import PromptCtr
from tastemaker.models.prompt_states import load_backbone
from tastemaker.models.state_store import StateStore
from tastemaker.testing.prompt_models import tiny_prompt_ctr, tiny_prompts
from tastemaker.tuning.backbones import make_trainable
from tastemaker.tuning.domains import DomainExamples, train_networks
from tastemaker.tuning.settings import AdapterShape, TuneResult, TuneSettings

Folders = dict[str, Path]
SETTINGS = TuneSettings(
    kind="frozen",
    lora=AdapterShape(rank=4, alpha=16, dropout=0.0, target_modules=("q_proj", "v_proj"), layers=2),
    learning_rate=0.01,
    warmup_steps=0,
    epochs=2,
    batch_size=8,
    micro_batch=None,
    max_length=64,
    loss_on="answer",
    rows="single",
    row_tokens=64,
    group_by_length=False,
    gradient_checkpointing=None,
    evaluate_every=None,
    patience=None,
    metric="auto",
    tracker="none",
)
BOTH = ("books", "games")


CHECKPOINTING = {"gradient_checkpointing": True}


class Killed(BaseException):
    pass


def make(
    folder: Path,
    *,
    kind: Any = "frozen",
    domains: Sequence[str] = BOTH,
    dropout: float = 0.0,
    layout: Layout = "paper",
) -> PromptCtr:
    model = tiny_prompt_ctr(folder, layout=layout, domains=domains, dropout=dropout, every=2)
    make_trainable(model.backbone, SETTINGS, kind=kind, seed=1)
    model.networks.requires_grad_(True)
    return model


def examples(
    model: PromptCtr,
    count: int,
    *,
    seed: int = 0,
    domains: Sequence[str] = BOTH,
    store: Path | None = None,
) -> DomainExamples:
    prompts = tiny_prompts(count, domains=domains, seed=seed)
    sequences = model.backbone.encode(prompts.texts)
    kept = None
    if store is not None:
        kept = StateStore(model.backbone, sequences, folder=store, batch_tokens=128)
    return DomainExamples(sequences, prompts.domains, prompts.labels, kept)


def train(
    model: PromptCtr, scratch: Path, *, store: Path | None = None, count: int = 32, **changes: Any
) -> TuneResult:
    settings = replace(SETTINGS, **changes.pop("settings", {}))
    domains = changes.pop("domains", BOTH)
    parts = {"train": (count, 0), "valid": (16, 1)}
    made = {
        name: examples(model, size, seed=seed, domains=domains, store=store and store / name)
        for name, (size, seed) in parts.items()
    }
    return train_networks(
        model,
        changes.pop("train", made["train"]),
        valid=changes.pop("valid", made["valid"]),
        settings=settings,
        scratch=scratch,
        seed=3,
        **changes,
    )


def weights(model: PromptCtr) -> dict[str, Tensor]:
    return {name: one.detach().clone() for name, one in model.named_parameters()}


def changed(one: dict[str, Tensor], other: dict[str, Tensor]) -> set[str]:
    return {name for name in one if not torch.equal(one[name], other[name])}


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def aucs(model: PromptCtr, part: DomainExamples, **options: Any) -> dict[str, float]:
    """Of each domain."""
    scores = model.score(part.sequences, part.domains, **options)
    names = np.array(part.domains)
    return {one: auc(scores[names == one], part.labels[names == one]) for one in sorted({*names})}


@pytest.mark.parametrize(("kind", "model"), [("frozen", "bert"), ("lora", "llama")])
def test_every_domain_learns_its_own_taste(
    tiny_folders: Folders, tmp_path: Path, model: str, kind: Any
) -> None:
    """In games what is liked is the opposite; one network for all can at best read the domain."""
    made = make(tiny_folders[model], kind=kind)
    start = weights(made)
    steps: list[int] = []
    result = train(
        made,
        tmp_path / "scratch",
        store=tmp_path / "store",
        count=64,
        settings={"learning_rate": 0.02, "batch_size": 16, "epochs": 5, "evaluate_every": 10},
        on_step=steps.append,
    )
    assert (result.steps, sum(steps), result.metric) == (20, 20, "auc")
    losses = [entry["loss"] for entry in result.curve if "loss" in entry]
    assert np.mean(losses[-4:]) < 0.8 * losses[0]
    valid = examples(made, 16, seed=1)
    assert_told(result, made, valid)
    assert min(aucs(made, valid).values()) > 0.9
    other = {"books": "games", "games": "books"}
    for name, wrong in other.items():  # whoever likes odd things is wrong about even ones
        assert aucs(made, valid, network=wrong)[name] < 0.5
    trained = {name for name, one in made.named_parameters() if one.requires_grad}
    moved = changed(start, weights(made))
    assert moved <= trained
    assert {name.split(".")[1] for name in moved} == (
        {"specific", "general"} if kind == "frozen" else {"specific", "general", "model"}
    )
    assert not made.training


def assert_told(result: TuneResult, model: PromptCtr, valid: DomainExamples) -> None:
    """The figures of the validation part are those of the scorer."""
    own, shared = (
        model.score(valid.sequences, valid.domains, network=network) for network in (None, GENERAL)
    )
    signs = np.where(valid.labels == 1, -1, 1)
    loss = float(np.mean(np.logaddexp(0, signs * own) + np.logaddexp(0, signs * shared)))
    assert result.best_valid_loss == pytest.approx(loss, abs=1e-3)
    assert result.best_valid_auc == pytest.approx(auc(own, valid.labels), abs=1e-6)
    checks = [entry["valid_auc"] for entry in result.curve if "valid_auc" in entry]
    assert len(checks) == 2
    assert result.best_valid_auc == pytest.approx(max(checks), abs=1e-6)
    assert result.trained_parameters == sum(
        one.numel() for one in model.parameters() if one.requires_grad
    )


@pytest.mark.parametrize(("kind", "model"), [("frozen", "llama"), ("lora", "bert")])
def test_states_from_disk_train_the_same_weights(
    tiny_folders: Folders, tmp_path: Path, kind: Any, model: str
) -> None:
    first, with_store, without = (
        make(tiny_folders[model], kind=kind, dropout=0.1) for _ in range(3)
    )
    start = weights(with_store)
    for part, seed in (("train", 0), ("valid", 1)):
        examples(first, 16, seed=seed, store=tmp_path / "store" / part)
    ran: list[int] = []
    _layers(with_store)[0].register_forward_hook(lambda *_: ran.append(1))
    once = {"epochs": 1}
    train(with_store, tmp_path / "a", store=tmp_path / "store", count=16, settings=once)
    assert ran == []  # the lowest layer has not run at all: everything was read from disk
    train(without, tmp_path / "b", count=16, settings=once)
    moved = distance(start, weights(with_store))
    apart = distance(weights(with_store), weights(without))
    assert moved > 0.01
    assert apart < 0.05 * moved


def _layers(model: PromptCtr) -> Any:
    return next(
        one
        for one in model.backbone.model.modules()
        if isinstance(one, torch.nn.ModuleList) and len(one) == 4
    )


def kill_after(steps: int) -> Callable[[int], None]:
    seen: list[int] = []

    def die(done: int) -> None:
        seen.append(done)
        if sum(seen) == steps:
            raise Killed

    return die


def test_a_killed_training_ends_with_the_same_weights(
    tiny_folders: Folders, tmp_path: Path
) -> None:
    settings = {"epochs": 2, "batch_size": 16}
    whole, killed, again = (make(tiny_folders["llama"], kind="lora", dropout=0.2) for _ in range(3))
    result = train(whole, tmp_path / "whole", settings=settings)
    with pytest.raises(Killed):
        train(killed, tmp_path / "killed", settings=settings, on_step=kill_after(3))
    later: list[int] = []
    resumed = train(again, tmp_path / "killed", settings=settings, on_step=later.append)
    assert (later[0], sum(later)) == (2, 4)
    assert distance(weights(again), weights(whole)) < 1e-6
    assert [entry["step"] for entry in resumed.curve] == [entry["step"] for entry in result.curve]
    assert resumed.best_step == result.best_step


@pytest.mark.parametrize("kind", ["frozen", "lora", "full"])
def test_checkpoints_hold_the_trained_weights_only(
    tiny_folders: Folders, tmp_path: Path, kind: Any
) -> None:
    made = make(tiny_folders["bert"], kind=kind)
    start = weights(made)
    train(made, tmp_path, count=8, settings={"epochs": 1})
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    held = load_file(checkpoint / "model.safetensors")
    assert held.keys() == {name for name, one in made.named_parameters() if one.requires_grad}
    assert {name: torch.equal(one, made.get_parameter(name)) for name, one in held.items()} == (
        dict.fromkeys(held, True)
    )
    language = {name for name in held if name.startswith("backbone.")}
    total = len(list(made.backbone.parameters()))
    assert len(language) == {"frozen": 0, "lora": 2 * 2 * 2, "full": total}[kind]
    assert bool(language & changed(start, weights(made))) == (kind != "frozen")


def test_a_checkpoint_of_another_model_is_refused(tiny_folders: Folders, tmp_path: Path) -> None:
    small: dict[str, Any] = {"count": 16, "on_step": kill_after(3)}
    with pytest.raises(Killed):
        train(make(tiny_folders["llama"], kind="lora"), tmp_path, **small)
    with pytest.raises(StageError, match=r"weights of another model: backbone.*lora_"):
        train(make(tiny_folders["llama"]), tmp_path, count=16)


def test_an_added_domain_changes_its_own_network_alone(
    tiny_folders: Folders, tmp_path: Path
) -> None:
    made = make(tiny_folders["bert"], kind="lora")
    train(made, tmp_path / "first", count=16, settings={"epochs": 1})
    mixed = examples(made, 24, seed=2, domains=(*BOTH, "music"))
    old = np.array([name != "music" for name in mixed.domains])
    before = made.score(mixed.sequences, mixed.domains, batch_tokens=80)

    made.requires_grad_(False)
    made.networks.add("music", seed=5).requires_grad_(True)
    start = weights(made)
    asked: list[int] = []
    hook = made.networks.general.register_forward_hook(lambda *_: asked.append(1))
    with made.backbone.all_fixed():
        result = train(
            made,
            tmp_path / "second",
            domains=["music"],
            store=tmp_path / "store",
            general=False,
            settings={"learning_rate": 0.02, "epochs": 4},
        )
    hook.remove()
    assert asked == []  # the general network has no part in it
    moved = changed(start, weights(made))
    assert moved
    assert all(name.startswith("networks.specific.2.") for name in moved)
    after = made.score(mixed.sequences, mixed.domains, batch_tokens=80)
    assert np.array_equal(after[old], before[old])
    assert np.isclose(after[~old], before[~old], atol=1e-3).mean() < 0.5
    assert result.best_valid_auc is not None
    assert result.best_valid_auc > 0.9
    held = load_file(next((tmp_path / "second").glob("*/model.safetensors")))
    assert all(name.startswith("networks.specific.2.") for name in held)
    valid = examples(made, 16, seed=1, domains=["music"])
    scores = made.score(valid.sequences, valid.domains)
    loss = np.mean(np.logaddexp(0, np.where(valid.labels == 1, -scores, scores)))
    assert result.best_valid_loss == pytest.approx(float(loss), abs=1e-3)


def test_the_general_network_can_be_all_there_is(tiny_folders: Folders, tmp_path: Path) -> None:
    made = make(tiny_folders["bert"], domains=(), layout="code")
    valid = examples(made, 16, seed=1)
    signs = np.where(valid.labels == 1, -1, 1)

    def loss() -> float:
        return float(np.logaddexp(0, signs * made.score(valid.sequences, valid.domains)).mean())

    before = loss()
    result = train(made, tmp_path, count=16, settings={"metric": "loss"})
    assert loss() < before - 0.02
    assert result.best_valid_loss == pytest.approx(loss(), abs=1e-3)


def test_how_a_step_is_computed_changes_nothing(tiny_folders: Folders, tmp_path: Path) -> None:
    """Layers whose activations are computed twice get the states from disk twice, too."""
    found = {}
    for name, change in (("plain", {}), ("parts", {"micro_batch": 2}), ("twice", CHECKPOINTING)):
        made = make(tiny_folders["llama"], kind="lora")
        start = weights(made)
        settings = {"epochs": 1, **change}
        result = train(made, tmp_path / name, store=tmp_path / "store", count=16, settings=settings)
        assert result.gradient_checkpointing == (name == "twice")
        assert result.micro_batch == (2 if name == "parts" else 8)
        found[name] = weights(made)
    moved = distance(start, found["plain"])
    assert moved > 0.01
    for name in ("parts", "twice"):
        assert distance(found["plain"], found[name]) < 0.02 * moved


def test_labels_of_one_kind_are_judged_by_loss(tiny_folders: Folders, tmp_path: Path) -> None:
    made = make(tiny_folders["llama"])
    valid = examples(made, 4)
    liked = replace(valid, labels=np.ones_like(valid.labels))
    result = train(made, tmp_path / "a", count=8, valid=liked, settings={"epochs": 1})
    assert (result.metric, result.best_valid_auc) == ("loss", None)
    with pytest.raises(DataError, match="do not hold both likes and dislikes"):
        train(made, tmp_path / "b", valid=liked, settings={"metric": "auc"})


@pytest.mark.parametrize(
    ("part", "sequences", "limit", "message"),
    [
        ("train", [], 64, "the train prompts are empty"),
        ("valid", [], 64, "the validation prompts are empty"),
        ("train", [[5] * 9, [5] * 33], 32, "example 1 has 33 .* more than tune.max_length = 32"),
        ("valid", [[5] * 65], 99, "more than the 64 that the model can read"),
    ],
)
def test_bad_examples(
    tiny_folders: Folders,
    tmp_path: Path,
    part: str,
    sequences: list[list[int]],
    limit: int,
    message: str,
) -> None:
    made = make(tiny_folders["llama"])
    bad = DomainExamples(
        sequences, ["books"] * len(sequences), np.zeros(len(sequences), dtype=np.int64)
    )
    changes: dict[str, Any] = {part: bad}
    with pytest.raises(DataError, match=message):
        train(made, tmp_path / "scratch", settings={"max_length": limit}, **changes)
    assert not (tmp_path / "scratch").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["minilm", "smollm2"])
def test_packaged_models_learn(name: str, tmp_path: Path) -> None:
    """The same prompts, with an adapter on the top two layers and states from disk below them."""
    backbone = load_backbone(name, precision="float32", device="cpu")
    make_trainable(backbone, SETTINGS, kind="lora", seed=1)
    shape = NetworkShape(width=backbone.width, rungs=len(backbone.depths), narrow=32, tower=(32,))
    model = PromptCtr(backbone, DomainNetworks(shape, domains=BOTH, seed=0))
    model.networks.requires_grad_(True)
    result = train(
        model,
        tmp_path / "scratch",
        store=tmp_path / "store",
        count=48,
        settings={"learning_rate": 0.002, "epochs": 8},
    )
    assert result.best_valid_auc is not None
    assert result.best_valid_auc > 0.95
