"""Uni-CTR's model: what a score depends on, who learns from a prompt, and what is saved."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from torch import Tensor

from tastemaker.errors import UnknownNameError, UserError
from tastemaker.models.domain_networks import GENERAL, DomainNetworks, NetworkShape, domain_codes
from tastemaker.models.language import quiet_loading
from tastemaker.models.prompt_ctr import (
    PromptCtr,
    load_networks,
    network_names,
    save_networks,
)
from tastemaker.models.prompt_states import load_backbone
from tastemaker.models.state_store import StateStore
from tastemaker.testing.prompt_models import tiny_prompt_ctr, tiny_prompts

KINDS, LAYOUTS = ("llama", "bert"), ("paper", "code")
PROMPTS = tiny_prompts(12, domains=("books", "games", "music"), seed=5)
LABELS = torch.from_numpy(PROMPTS.labels).float()

Folders = dict[str, Path]


def adapted(folder: Path, *, layout: Any = "paper", top: int = 2) -> PromptCtr:
    """With a random adapter in the top layers."""
    model = tiny_prompt_ctr(folder, layout=layout, every=1)
    backbone = model.backbone
    backbone.fixed = backbone.layers - top
    names = [
        name
        for name, _ in backbone.model.named_modules()
        if name.rpartition(".")[2] in ("q_proj", "query")
        and any(f".{layer}." in f".{name}" for layer in range(backbone.fixed, backbone.layers))
    ]
    with torch.random.fork_rng(devices=[]), quiet_loading():
        torch.manual_seed(0)
        config = LoraConfig(r=2, target_modules=names, init_lora_weights=False)
        get_peft_model(backbone.model, config)
    return model.eval()


def encoded(model: PromptCtr) -> list[list[int]]:
    return model.backbone.encode(PROMPTS.texts)


def gradients(model: PromptCtr, *, general: bool = True, **options: Any) -> dict[str, Tensor]:
    """Of the sum of losses, by name; zeros where there is none."""
    model.zero_grad()
    outputs = batch_of(model, general=general, **options)
    outputs["losses"].sum().backward()
    return {
        name: torch.zeros_like(one) if one.grad is None else one.grad.clone()
        for name, one in model.named_parameters()
        if one.requires_grad
    }


def batch_of(
    model: PromptCtr,
    *,
    places: list[int] | None = None,
    domains: list[str | None] | None = None,
    general: bool = True,
    store: StateStore | None = None,
) -> dict[str, Tensor]:
    chosen = list(range(len(PROMPTS.texts))) if places is None else places
    names = list(PROMPTS.domains) if domains is None else domains
    codes = domain_codes(names, model.networks.domains)
    batch = model.batch(encoded(model), codes, chosen, store=store)
    outputs: dict[str, Tensor] = model(batch, LABELS[chosen], general=general)
    return outputs


def kept(model: PromptCtr, folder: Path) -> StateStore:
    return StateStore(model.backbone, encoded(model), folder=folder, batch_tokens=50)


def test_a_score_depends_on_its_prompt_alone(tiny_folders: Folders, tmp_path: Path) -> None:
    """Not on the rest of the batch, nor on padding, nor on where its states come from."""
    domains = PROMPTS.domains  # music has no network
    made: dict[Any, tuple[PromptCtr, StateStore, NDArray[np.float32]]] = {}
    sequences: list[list[int]] = []
    for kind, layout in product(KINDS, LAYOUTS):
        model = adapted(tiny_folders[kind], layout=layout)
        sequences = encoded(model)  # of the same words for all of them
        alone = model.score(sequences, domains, batch_tokens=1)
        assert np.std(alone) > 0.05
        store = kept(model, tmp_path / kind / layout)
        assert_close(model.score(sequences, domains, store=store), alone)
        made[kind, layout] = model, store, alone

    @given(
        which=st.sampled_from(sorted(made)),
        places=st.lists(st.integers(0, len(domains) - 1), min_size=1, max_size=6),
        batch_tokens=st.integers(1, 120),
        more=st.integers(0, 9),
    )
    @settings(max_examples=14)
    def check(which: Any, places: list[int], batch_tokens: int, more: int) -> None:
        model, store, alone = made[which]
        mine, names = [sequences[place] for place in places], [domains[place] for place in places]
        assert_close(model.score(mine, names, batch_tokens=batch_tokens), alone[places])
        codes = domain_codes(domains, model.networks.domains)
        known = model.batch(sequences, codes, places, store=store)
        anew = model.batch(sequences, codes, places)
        wide = (torch.nn.functional.pad(one, (0, more)) for one in (anew.ids, anew.mask))
        padded = replace(anew, **dict(zip(("ids", "mask"), wide, strict=True)))
        for batch in (known, padded):
            with torch.no_grad():
                found = model(batch, LABELS[places])["logits"].numpy()
            assert_close(found, alone[places])

    check()


def assert_close(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """Apart from states that were rounded the other way."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3)


def test_the_order_of_prompts_does_not_count(tiny_folders: Folders) -> None:
    model = adapted(tiny_folders["llama"])
    sequences = encoded(model)
    order = np.random.default_rng(0).permutation(len(sequences))
    told: list[int] = []
    found = model.score(
        [sequences[place] for place in order],
        [PROMPTS.domains[place] for place in order],
        batch_tokens=40,
        on_progress=told.append,
    )
    expected = model.score(sequences, PROMPTS.domains)
    np.testing.assert_allclose(found, expected[order], atol=2e-3)
    assert (sum(told), len(told) > 1) == (len(sequences), True)


@pytest.mark.parametrize(("kind", "layout"), list(zip(KINDS, LAYOUTS, strict=True)))
def test_who_learns_from_a_prompt(tiny_folders: Folders, kind: str, layout: Any) -> None:
    model = adapted(tiny_folders[kind], layout=layout)
    books = [place for place, name in enumerate(PROMPTS.domains) if name == "books"]
    both = gradients(model, places=books)
    own = gradients(model, places=books, general=False)
    shared = gradients(model, places=books, domains=[None] * len(PROMPTS.texts))

    def any_of(found: dict[str, Tensor], part: str) -> bool:
        return any(bool(one.any()) for name, one in found.items() if part in name)

    parts = ("networks.specific.0.", "networks.specific.1.", "networks.general.", "lora_")
    assert [any_of(both, part) for part in parts] == [True, False, True, True]
    assert [any_of(own, part) for part in parts] == [True, False, False, True]
    assert [any_of(shared, part) for part in parts] == [False, False, True, True]
    for name, one in both.items():
        torch.testing.assert_close(one, own[name] + shared[name], rtol=1e-4, atol=1e-6)
    adapter = [one for name, one in both.items() if "lora_" in name]
    assert len(adapter) == 2 * 2  # two layers, two matrices each
    assert all(bool(one.any()) for one in adapter)
    assert not any(
        one.requires_grad for name, one in model.backbone.named_parameters() if "lora_" not in name
    )


@pytest.mark.parametrize("general", [True, False])
def test_the_loss_of_a_row_is_its_own(tiny_folders: Folders, general: bool) -> None:
    """Whoever shares the batch, of a known domain or not."""
    model = adapted(tiny_folders["llama"])
    known = np.array([name in model.networks.domains for name in PROMPTS.domains])
    counted, shared = (
        model.score(encoded(model), PROMPTS.domains, network=network) for network in (None, GENERAL)
    )
    expected = _cross_entropy(counted) + np.where(known & general, _cross_entropy(shared), 0)
    with torch.no_grad():
        whole = batch_of(model, general=general)
        alone = [batch_of(model, places=[place], general=general) for place in range(len(known))]
    for losses in (whole["losses"].numpy(), np.array([float(one["losses"]) for one in alone])):
        np.testing.assert_allclose(losses, expected, atol=2e-3)
    np.testing.assert_allclose(whole["logits"].numpy(), counted, atol=2e-3)


def _cross_entropy(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.logaddexp(0, np.where(PROMPTS.labels == 1, -scores, scores))


@pytest.mark.parametrize("kind", KINDS)
def test_with_and_without_the_store_gradients_are_the_same(
    tiny_folders: Folders, tmp_path: Path, kind: str
) -> None:
    model = adapted(tiny_folders[kind])
    one, other = gradients(model), gradients(model, store=kept(model, tmp_path))
    for name, grad in one.items():
        torch.testing.assert_close(
            grad, other[name], rtol=0.02, atol=2e-3 * float(grad.abs().max())
        )


@pytest.mark.parametrize(("kind", "layout"), list(zip(KINDS, LAYOUTS, strict=True)))
def test_a_domain_added_and_removed(
    tiny_folders: Folders, tmp_path: Path, kind: str, layout: Any
) -> None:
    """Scores of all others stay the same to the bit, and so do their files."""
    model = adapted(tiny_folders[kind], layout=layout)
    sequences, domains = encoded(model), PROMPTS.domains
    music = np.array([name == "music" for name in domains])
    files = {step: tmp_path / step for step in ("before", "added", "removed")}

    def scores(step: str) -> NDArray[np.float32]:
        save_networks(model.networks, files[step])
        return model.score(sequences, domains, batch_tokens=80)  # of all domains in each batch

    before = scores("before")
    model.networks.add("music", seed=0)
    added = scores("added")
    assert np.array_equal(added[~music], before[~music])
    assert not np.isclose(added[music], before[music], atol=1e-3).any()
    model.networks.remove("books")
    removed = scores("removed")
    books = np.array([name == "books" for name in domains])
    assert np.array_equal(removed[~books], added[~books])
    assert np.array_equal(
        model.score(sequences, domains, network="music")[music], _of(model)[music]
    )
    general = model.score(sequences, domains, network=GENERAL, batch_tokens=80)
    np.testing.assert_allclose(removed[books], general[books], atol=2e-3)
    weights = {step: _weights(folder) for step, folder in files.items()}
    assert [len(found) for found in weights.values()] == [3, 4, 3]
    assert weights["before"].items() < weights["added"].items()
    assert weights["removed"].items() < weights["added"].items()


def _of(model: PromptCtr) -> NDArray[np.float32]:
    return model.score(encoded(model), ["music"] * len(PROMPTS.texts))


def _weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def test_networks_are_read_as_they_were_written(tiny_folders: Folders, tmp_path: Path) -> None:
    names = ("books", "games", "Café / “Bar”", "../up")
    model = tiny_prompt_ctr(tiny_folders["llama"], layout="code", domains=names)
    save_networks(model.networks, tmp_path / "networks")
    assert network_names(tmp_path / "networks") == names
    again = load_networks(tmp_path / "networks")
    assert (again.shape, again.domains) == (model.networks.shape, model.networks.domains)
    state = model.networks.state_dict()
    assert all(torch.equal(one, state[name]) for name, one in again.state_dict().items())
    asked = [names[place % 4] for place in range(len(PROMPTS.texts))]
    found = PromptCtr(model.backbone, again).score(encoded(model), asked)
    assert np.array_equal(found, model.score(encoded(model), asked))
    assert len(list((tmp_path / "networks").iterdir())) == 1 + 1 + len(names)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("networks.json", None),
        ("networks.json", b"[]"),
        ("networks.json", b'{"shape": {"width": 3}, "domains": {}}'),
        ("general.safetensors", None),
        ("general.safetensors", b"no weights at all"),
    ],
)
def test_damaged_files_are_told(tmp_path: Path, name: str, data: bytes | None) -> None:
    shape = NetworkShape(width=8, rungs=1, narrow=2, tower=(4,))
    save_networks(DomainNetworks(shape, domains=["a"], seed=0), tmp_path)
    (tmp_path / name).unlink()
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match="holds no domain networks that can be read"):
        load_networks(tmp_path)


def test_networks_of_another_shape_are_told(tmp_path: Path) -> None:
    shape = NetworkShape(width=8, rungs=1, narrow=2, tower=(4,))
    save_networks(DomainNetworks(shape, domains=["a"], seed=0), tmp_path)
    about = json.loads((tmp_path / "networks.json").read_text())
    about["shape"]["rungs"] = 2
    (tmp_path / "networks.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="holds no domain networks"):
        load_networks(tmp_path)


def test_asking_one_network_about_all(tiny_folders: Folders) -> None:
    model = tiny_prompt_ctr(tiny_folders["llama"])
    sequences = encoded(model)
    unknown: list[Any] = [None, "films"] * 6
    general = model.score(sequences, unknown)
    assert np.array_equal(general, model.score(sequences, PROMPTS.domains, network=GENERAL))
    games = model.score(sequences, unknown, network="games")
    assert np.array_equal(games, model.score(sequences, ["games"] * 12))
    with pytest.raises(UnknownNameError, match="films"):
        model.score(sequences, unknown, network="films")


def test_odd_inputs(tiny_folders: Folders) -> None:
    model = tiny_prompt_ctr(tiny_folders["llama"])
    assert model.score([], []).shape == (0,)
    with pytest.raises(UserError, match="a prompt has 65 tokens, more than the 64"):
        model.score([[5] * 65], ["books"])
    assert model.score([[5] * 64], ["books"]).dtype == np.float32


def test_scoring_leaves_the_mode_as_it_was(tiny_folders: Folders) -> None:
    model = tiny_prompt_ctr(tiny_folders["bert"], dropout=0.5).train()
    one, other = (model.score(encoded(model), PROMPTS.domains) for _ in range(2))
    assert np.array_equal(one, other)
    assert model.training
    assert model.networks.network("books").training


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision(tiny_folders: Folders, tmp_path: Path, kind: str) -> None:
    """Scores keep their digits, and states from disk are those computed anew."""
    exact, half = (
        tiny_prompt_ctr(tiny_folders[kind], precision=one) for one in ("float32", "bfloat16")
    )
    sequences = encoded(half)
    scores = half.score(sequences, PROMPTS.domains)
    assert len(np.unique(scores)) > len({*PROMPTS.texts}) - 3
    np.testing.assert_allclose(scores, exact.score(sequences, PROMPTS.domains), atol=0.15)
    again = half.score(sequences, PROMPTS.domains, store=kept(half, tmp_path))
    np.testing.assert_allclose(again, scores, atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["minilm", "smollm2"])
def test_packaged_models(name: str, tmp_path: Path) -> None:
    """Alone or in a batch, with states from disk or without, a prompt's score is the same."""
    backbone = load_backbone(name, precision="float32", device="cpu")
    shape = NetworkShape(width=backbone.width, rungs=len(backbone.depths), narrow=32, tower=(16,))
    model = PromptCtr(backbone, DomainNetworks(shape, domains=["books"], seed=0)).eval()
    texts = ["books: Dune", "games: the user liked Tetris. Is Doom liked?" * 3, "books: " * 20]
    sequences, domains = backbone.encode(texts), ["books", "games", "books"]
    alone = model.score(sequences, domains, batch_tokens=1)
    for fixed in (backbone.layers, backbone.layers // 2):
        backbone.fixed = fixed
        store = StateStore(backbone, sequences, folder=tmp_path / f"{fixed}", batch_tokens=2048)
        for known in (None, store):
            found = model.score(sequences, domains, store=known)
            np.testing.assert_allclose(found, alone, atol=2e-3)
