"""Small random language models with a tokenizer of a few words, and Uni-CTR's networks on them.

Their prompts are easy to judge: in every second domain even things are liked, in the others odd
ones, so that one network for all domains is wrong about half of them.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from tastemaker.models.domain_networks import DomainNetworks, Layout, NetworkShape
from tastemaker.models.language import quiet_loading
from tastemaker.models.prompt_ctr import PromptCtr
from tastemaker.models.prompt_states import PromptBackbone, load_backbone

__all__ = [
    "TinyPrompts",
    "tiny_backbone",
    "tiny_folder",
    "tiny_model",
    "tiny_prompt_ctr",
    "tiny_prompts",
]

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_WORDS = (
    *("books", "games", "music", "even", "odd", "thing", "liked", "?", ":", ".", "[", "]", "sep"),
    *("a", "quiet", "story", "of", "two", "friends", "who", "travel", "far"),
)
_SHAPE: dict[str, Any] = {
    "vocab_size": len(_SPECIAL) + len(_WORDS),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
_OWN: dict[str, dict[str, Any]] = {
    "bert": {"initializer_range": 0.1},  # or little of a word would be left at the top
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
    },
    "distilbert": {"dim": 32, "n_heads": 2, "hidden_dim": 48},
    "gemma2": {"head_dim": 16, "sliding_window": 4},
    "xlnet": {"d_model": 32, "n_head": 2, "d_inner": 48, "max_position_embeddings": None},
}
_LAYERS = {"distilbert": "n_layers", "xlnet": "n_layer"}  # what the number of layers is called


@dataclass(frozen=True, eq=False)
class TinyPrompts:
    """Prompts of several domains.

    Attributes:
        texts: Of different lengths.
        domains: Name of each prompt's domain.
        labels: int64 [n], 1 for a like.
    """

    texts: Sequence[str]
    domains: Sequence[str]
    labels: NDArray[np.int64]


def tiny_prompts(
    count: int, *, domains: Sequence[str] = ("books", "games"), seed: int = 0
) -> TinyPrompts:
    """So many prompts; labels of both kinds in every domain.

    Args:
        count: Of prompts; best a multiple of twice the number of domains.
        domains: `books`, `games`, `music`, taking turns. In games odd things are liked.
        seed: Of the words in between.
    """
    random = np.random.default_rng(seed)
    names = [domains[place % len(domains)] for place in range(count)]
    even = np.array([place // len(domains) % 2 == 0 for place in range(count)])
    texts = []
    for name, is_even in zip(names, even, strict=True):
        padding = " ".join(random.choice(_WORDS[-9:], random.integers(0, 7)))
        texts.append(f"{name} : {padding} {'even' if is_even else 'odd'} thing liked ?")
    liked = np.where([name == "games" for name in names], ~even, even)
    return TinyPrompts(texts, names, liked.astype(np.int64))


def tiny_model(kind: str, *, layers: int = 4, seed: int = 0, **changes: Any) -> Any:
    """A random model without a head, of width 32, in evaluation mode.

    Args:
        kind: As transformers calls it: `llama`, `bert`, `deberta-v2`, …
        layers: How many.
        seed: Of its weights.
        changes: Of its configuration.
    """
    wanted = {**_SHAPE, _LAYERS.get(kind, "num_hidden_layers"): layers, **_OWN.get(kind, {})}
    settings = {name: value for name, value in wanted.items() if value is not None}
    with torch.random.fork_rng(devices=[]), quiet_loading():
        torch.manual_seed(seed)
        model = AutoModel.from_config(AutoConfig.for_model(kind, **{**settings, **changes}))
    return model.requires_grad_(False).eval()


def tiny_folder(kind: str, folder: Path, *, layers: int = 4, seed: int = 0) -> Path:
    """A model folder: such a model and its tokenizer; a decoder's has no padding token.

    Args:
        kind: As for `tiny_model`.
        folder: Where; returned.
        layers: How many.
        seed: Of its weights.
    """
    vocabulary = {word: place for place, word in enumerate([*_SPECIAL, *_WORDS])}
    plain = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    plain.normalizer, plain.pre_tokenizer = Lowercase(), BertPreTokenizer()
    plain.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    if "bert" in kind:
        names["pad_token"] = "[PAD]"
    else:
        names["eos_token"] = "[SEP]"
    PreTrainedTokenizerFast(tokenizer_object=plain, **names).save_pretrained(folder)
    with quiet_loading():
        tiny_model(kind, layers=layers, seed=seed).save_pretrained(folder)
    return folder


def tiny_backbone(
    folder: Path,
    *,
    every: int = 1,
    from_embeddings: bool = False,
    precision: str = "float32",
    fixed: int | None = None,
) -> PromptBackbone:
    """A copy of what `load_backbone` reads from a folder, which is read once only.

    Args:
        folder: Of a model.
        every: Layers between rungs.
        from_embeddings: Whether depth 0 is read too.
        precision: Of the model.
        fixed: Number of lowest layers that do not change; all when None.
    """
    made = copy.deepcopy(_loaded(folder, every, from_embeddings, precision))
    made.fixed = made.layers if fixed is None else fixed
    return made


@functools.cache
def _loaded(folder: Path, every: int, from_embeddings: bool, precision: str) -> PromptBackbone:
    found = load_backbone(
        str(folder),
        every=every,
        from_embeddings=from_embeddings,
        precision=precision,
        device="cpu",
    )
    found.fixed = 0
    assert found.resumes([5, 6, 7])
    return found


def tiny_prompt_ctr(
    folder: Path,
    *,
    layout: Layout = "paper",
    domains: Sequence[str] = ("books", "games"),
    every: int = 1,
    precision: str = "float32",
    dropout: float = 0.0,
    seed: int = 0,
) -> PromptCtr:
    """Networks on the model of a folder, all of it fixed, in evaluation mode.

    Args:
        folder: Of a model.
        layout: Of the networks.
        domains: With a network.
        every: Layers between rungs.
        precision: Of the model.
        dropout: In the networks.
        seed: Of the networks.
    """
    backbone = tiny_backbone(
        folder, every=every, from_embeddings=layout == "code", precision=precision
    )
    shape = NetworkShape(
        width=backbone.width,
        rungs=len(backbone.depths),
        narrow=8,
        dropout=dropout,
        tower=(16,),
        tower_dropout=dropout,
        layout=layout,
    )
    return PromptCtr(backbone, DomainNetworks(shape, domains=domains, seed=seed)).eval()
