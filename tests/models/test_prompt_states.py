"""States of prompts: those of the model, in one go or in two parts, alone or in a batch."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from tastemaker.errors import DataError, UserError
from tastemaker.models.prompt_states import Lower, PromptBackbone, load_backbone, rung_depths
from tastemaker.models.seq2seq import padded
from tastemaker.testing.prompt_models import tiny_backbone, tiny_folder, tiny_model

KINDS = ("llama", "bert")
LAYERS = 4
TEXTS = ["a quiet story", "books : even thing liked ?", "two friends who travel far . odd", "far"]

Folders = dict[str, Path]


def batch(backbone: PromptBackbone, texts: list[str]) -> tuple[Tensor, Tensor]:
    return padded(backbone.encode(texts), 0)


def bare(kind: str, *, fixed: int, **changes: Any) -> PromptBackbone:
    """A model of a kind with all its depths, without a tokenizer."""
    depths = tuple(range(LAYERS + 1))
    model = tiny_model(kind, layers=LAYERS, **changes)
    model.config.use_cache = False
    return PromptBackbone(model, None, name=kind, folder=Path(), depths=depths, fixed=fixed)


def scaled(states: Tensor) -> Tensor:
    """The formula in float64."""
    values = states.double()
    spread = (values.var(dim=-1, correction=0, keepdim=True) + 1e-5).sqrt()
    return ((values - values.mean(dim=-1, keepdim=True)) / spread).float()


def assert_equal(one: list[Tensor], other: list[Tensor]) -> None:
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize(
    ("layers", "every", "from_embeddings", "depths"),
    [
        (24, None, False, (6, 12, 18, 24)),
        (24, 4, False, (4, 8, 12, 16, 20, 24)),
        (30, None, True, (0, 6, 14, 22, 30)),
        (6, None, False, (2, 4, 6)),
        (3, None, False, (1, 2, 3)),
        (4, 4, True, (0, 4)),
    ],
)
def test_depths_of_rungs(
    layers: int, every: int | None, from_embeddings: bool, depths: tuple[int, ...]
) -> None:
    assert rung_depths(layers, every=every, from_embeddings=from_embeddings) == depths


def test_more_between_rungs_than_there_is() -> None:
    with pytest.raises(UserError, match="every = 7 layers between rungs, but the model has 6"):
        rung_depths(6, every=7, from_embeddings=False)


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_the_models_own_scaled(tiny_folders: Folders, kind: str) -> None:
    backbone = tiny_backbone(tiny_folders[kind], from_embeddings=True)
    assert (backbone.depths, backbone.width, backbone.layers) == ((0, 1, 2, 3, 4), 32, LAYERS)
    ids, mask = batch(backbone, TEXTS)
    model = AutoModel.from_pretrained(tiny_folders[kind]).eval()
    with torch.no_grad():
        whole = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        found = backbone(ids, mask)
    for one, states in zip(found, whole, strict=True):
        torch.testing.assert_close(one, scaled(states), rtol=6e-4, atol=1e-5)
        assert torch.equal(one, one.half().float())


@pytest.mark.parametrize(
    "kind", ["llama", "bert", "qwen2", "gemma2", "deberta-v2", "distilbert", "mpnet"]
)
def test_two_parts_say_what_one_says(kind: str) -> None:
    """Sliding windows, layers that give tuples, shared positions: nothing of it is lost."""
    backbone = bare(kind, fixed=0)
    assert backbone.reads([5, 6, 7])
    for fixed in (0, 1, 3, LAYERS):
        backbone.fixed = fixed
        ids = torch.randint(4, 20, (3, 9), generator=torch.Generator().manual_seed(fixed))
        mask = torch.tensor([[1] * 9, [1] * 5 + [0] * 4, [1] * 7 + [0] * 2])
        assert backbone.resumes([5, 6, 7, 8, 9, 10])
        with torch.no_grad():
            lower = backbone.lower(ids, mask)
            parts = backbone.upper(ids, mask, lower=lower)
            whole = backbone(ids, mask)
        assert len(lower.states) == backbone.kept == fixed + 1
        assert (lower.resumed is None) == backbone.is_fixed == (fixed == LAYERS)
        for one, other in zip(parts, whole, strict=True):
            assert torch.equal(one[mask == 1], other[mask == 1])


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_layers_that_are_wanted_run(
    tiny_folders: Folders, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny_backbone(tiny_folders[kind], fixed=3)
    layers = next(
        one
        for one in backbone.model.modules()
        if isinstance(one, torch.nn.ModuleList) and len(one) == LAYERS
    )
    ran: list[int] = []
    for place, layer in enumerate(layers):
        layer.register_forward_hook(functools.partial(lambda at, *_: ran.append(at), place))
    ids, mask = batch(backbone, TEXTS)
    lower = backbone.lower(ids, mask)
    assert _emptied(ran)[-3:] == [0, 1, 2]
    backbone.upper(ids, mask, lower=lower)
    assert _emptied(ran) == [3]
    backbone(ids, mask)
    assert _emptied(ran) == [0, 1, 2, 3]
    with backbone.all_fixed():
        assert (backbone.is_fixed, backbone.kept) == (True, LAYERS)
        assert_equal(backbone.lower(ids, mask).states, backbone(ids, mask))
    assert (backbone.fixed, backbone.kept) == (3, 3)


def _emptied(ran: list[int]) -> list[int]:
    found, ran[:] = list(ran), []
    return found


def test_a_model_is_whole_again_after_an_error(tiny_folders: Folders) -> None:
    backbone = tiny_backbone(tiny_folders["llama"], fixed=2)
    names = [name for name, _ in backbone.named_modules()]
    ids, mask = batch(backbone, TEXTS)
    for run in (backbone, backbone.lower):
        with pytest.raises(IndexError):
            run(ids + 10_000, mask)
    with pytest.raises(RuntimeError):
        backbone.upper(ids, mask, lower=Lower([], torch.zeros(1, 2, 3)))
    assert [name for name, _ in backbone.named_modules()] == names


def test_models_that_cannot_be_read_in_two_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose own code does more with states between its layers than hand them on."""
    backbone = bare("bert", fixed=2)
    layer = backbone.model.encoder.layer
    given = backbone.model.encoder.forward

    def forward(hidden_states: Tensor, *args: Any, **options: Any) -> Any:
        stretched = 1 + sum(type(one).__name__ == "BertLayer" for one in layer)
        return given(hidden_states * stretched, *args, **options)

    monkeypatch.setattr(backbone.model.encoder, "forward", forward)
    assert not backbone.resumes([5, 6, 7, 8])


def test_models_whose_layers_cannot_be_read(tmp_path: Path, t5_folder: Path) -> None:
    for kind in ("albert", "xlnet"):
        folder = tiny_folder(kind, tmp_path / kind)
        with pytest.raises(UserError, match=f"states behind each layer of this model .{kind}."):
            load_backbone(str(folder), device="cpu")
    with pytest.raises(UserError, match="sequence-to-sequence"):
        load_backbone(str(t5_folder), device="cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_neither_batch_mates_nor_padding_count(tiny_folders: Folders, kind: str) -> None:
    backbone = tiny_backbone(tiny_folders[kind], fixed=2, from_embeddings=True)
    every = backbone.encode(TEXTS)

    @given(
        places=st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=4),
        more=st.integers(0, 6),
    )
    @settings(max_examples=6)
    def check(places: list[int], more: int) -> None:
        ids, mask = padded([every[place] for place in places], 0)
        ids, mask = (torch.nn.functional.pad(one, (0, more)) for one in (ids, mask))
        with torch.no_grad():
            found = backbone(ids, mask)
            for row, place in enumerate(places):
                alone = backbone(*padded([every[place]], 0))
                for one, other in zip(found, alone, strict=True):
                    mine = one[row, : len(every[place])]
                    torch.testing.assert_close(mine, other[0], rtol=2e-3, atol=1e-4)

    check()


@pytest.mark.parametrize("fixed", [0, 2])
def test_what_is_fixed_is_computed_without_dropout(fixed: int) -> None:
    backbone = bare("bert", fixed=fixed, hidden_dropout_prob=0.5).train()
    ids = torch.arange(4, 12)[None]
    mask = torch.ones_like(ids)
    one, other = backbone(ids, mask), backbone(ids, mask)
    same = [torch.equal(left, right) for left, right in zip(one, other, strict=True)]
    assert same == [depth <= fixed for depth in backbone.depths]
    lower = backbone.lower(ids, mask)
    assert_equal(lower.states, one[: fixed + 1])
    assert_equal(backbone.eval()(ids, mask), backbone(ids, mask))
    backbone.trains_embeddings = True
    backbone.train()
    one, other = backbone(ids, mask), backbone(ids, mask)
    assert not any(torch.equal(left, right) for left, right in zip(one, other, strict=True))


def test_tiny_gradients_arrive(tiny_folders: Folders) -> None:
    """In half precision they would be zero."""
    backbone = tiny_backbone(tiny_folders["llama"], fixed=2)
    weight = backbone.model.layers[3].mlp.up_proj.weight.requires_grad_()
    grads = []
    for scale in (1.0, 2.0**-40):
        ids, mask = batch(backbone, TEXTS)
        total = (backbone(ids, mask)[-1] * torch.linspace(0, 1, 32)).mean() * scale
        grads.append(torch.autograd.grad(total, weight)[0] / scale)
    assert grads[0].any()
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_the_same_in_one_go_or_two(tiny_folders: Folders, kind: str) -> None:
    for fixed in (2, LAYERS):
        backbone = tiny_backbone(tiny_folders[kind], fixed=fixed, precision="bfloat16")
        assert next(backbone.model.parameters()).dtype == torch.bfloat16
        ids, mask = batch(backbone, TEXTS)
        assert backbone.resumes(ids[0].tolist())
        with torch.no_grad():
            lower = backbone.lower(ids, mask)
            parts = backbone.upper(ids, mask, lower=lower)
            with torch.autocast("cpu", dtype=torch.bfloat16):  # as training and scoring do
                whole = backbone(ids, mask)
        if lower.resumed is not None and kind == "llama":  # what all layers add to is not rounded
            assert lower.resumed.dtype == torch.float32
        for one, other in zip(parts, whole, strict=True):
            assert one.dtype == torch.float32
            assert torch.equal(one[mask == 1], other[mask == 1])


def test_embeddings_only(tiny_folders: Folders) -> None:
    backbone = load_backbone(
        str(tiny_folders["llama"]), every=2, embeddings_only=True, precision="float32", device="cpu"
    )
    assert (backbone.depths, backbone.kept, backbone.is_fixed) == ((0, 0), 2, True)
    ids, mask = batch(backbone, TEXTS)
    found = backbone(ids, mask)
    assert_equal(found, [found[0], found[0]])
    embedded = backbone.model.get_input_embeddings()(ids)
    torch.testing.assert_close(found[0], scaled(embedded), rtol=6e-4, atol=1e-5)


def test_nothing_is_fixed_where_all_weights_are_trained(tiny_folders: Folders) -> None:
    backbone = tiny_backbone(tiny_folders["llama"], fixed=0, from_embeddings=True)
    assert (backbone.kept, backbone.is_fixed) == (1, False)
    backbone.trains_embeddings = True
    assert (backbone.kept, backbone.is_fixed) == (0, False)
    backbone.model.requires_grad_(True)
    ids, mask = batch(backbone, TEXTS)
    (backbone(ids, mask)[0] ** 3).sum().backward()
    assert backbone.model.get_input_embeddings().weight.grad.any()


def test_special_tokens_in_a_text_are_plain_text(tiny_folders: Folders) -> None:
    for kind in KINDS:
        backbone = tiny_backbone(tiny_folders[kind])
        assert backbone.tokenizer.pad_token is not None
        plain, fake = backbone.encode(["two friends", "two [SEP] friends"])
        assert (plain[0], plain[-1]) == (2, 3)
        tokens = AutoTokenizer.from_pretrained(tiny_folders[kind]).convert_ids_to_tokens(fake)
        assert tokens == ["[CLS]", "two", "[", "sep", "]", "friends", "[SEP]"]
        assert backbone.encode([]) == []


def test_a_prompt_without_tokens_is_refused(tiny_folders: Folders) -> None:
    backbone = tiny_backbone(tiny_folders["llama"])
    assert backbone.encode([""]) == [[2, 3]]
    backbone.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A")
    with pytest.raises(DataError, match="prompt 1 has no token"):
        backbone.encode(["far", ""])


def test_identity_tells_weights_apart(tiny_folders: Folders) -> None:
    backbone, same = (tiny_backbone(tiny_folders["llama"]) for _ in range(2))
    assert backbone.identity() == same.identity()
    with torch.no_grad():
        same.model.layers[2].mlp.up_proj.weight[0, 0] += 1e-3
    assert backbone.identity() != same.identity()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["minilm", "smollm2"])
def test_packaged_models(name: str) -> None:
    backbone = load_backbone(name, precision="float32", device="cpu")
    texts = ["Restaurants: the user liked Pho 24.", "Is the café liked? " * 9, "Yes"]
    every = backbone.encode(texts)
    ids, mask = padded(every, 0)
    for fixed in (0, backbone.layers // 2, backbone.layers):
        backbone.fixed = fixed
        assert backbone.resumes(every[1])
        with torch.no_grad():
            whole = backbone(ids, mask)
            parts = backbone.upper(ids, mask, lower=backbone.lower(ids, mask))
            for row, tokens in enumerate(every):
                alone = backbone(*padded([tokens], 0))
                for one, two, three in zip(whole, parts, alone, strict=True):
                    assert torch.equal(one[row, : len(tokens)], two[row, : len(tokens)])
                    difference = (one[row, : len(tokens)] - three[0]).abs()
                    assert difference.max() < 0.02
                    assert difference.mean() < 1e-4
