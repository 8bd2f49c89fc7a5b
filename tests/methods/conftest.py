"""Shared by the tests of methods: a world of five domains and a small encoder that reads it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from tastemaker.models.language import quiet_loading
from tastemaker.recipe import Recipe
from tastemaker.testing.multi_domain import domain_split
from tastemaker.testing.prompt_models import tiny_model

DOMAINS = ("Books", "Games", "Music", "Toys", "Tools")
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_WORDS = (
    "The user is called clicked product now shown its title brand price nothing recently and "
    'Even Odd film Untitled user id products _ & : , . " $'
)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """What many small trainings in one module need to be quick."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine two threads mostly wait for each other
    gc.collect()
    gc.freeze()  # every training collects garbage, which takes longer than training here
    yield
    gc.unfreeze()
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three random layers of width 32 that know the words of Uni-CTR's prompts on this world."""
    folder = tmp_path_factory.mktemp("bert")
    words = [
        *_SPECIAL,
        *_WORDS.split(),
        *DOMAINS,
        *map(str, range(60)),
        *map(str, range(1000, 1060)),
    ]
    vocabulary = {word: place for place, word in enumerate(dict.fromkeys(words))}
    plain = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    plain.pre_tokenizer = BertPreTokenizer()
    plain.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name[1:-1].lower()}_token": name for name in _SPECIAL}
    PreTrainedTokenizerFast(tokenizer_object=plain, **names).save_pretrained(folder)
    shape = {"vocab_size": len(vocabulary), "max_position_embeddings": 160}
    with quiet_loading():
        tiny_model("bert", layers=3, initializer_range=0.5, **shape).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def domain_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`r.csv` and `i.csv`: the checkerboard, item i in domain i modulo five."""
    folder = tmp_path_factory.mktemp("domains")
    tables = domain_split(30, 40, events=18, domains=DOMAINS, seed=1).tables
    named = tables.interactions.join(tables.users, on="user").join(tables.items, on="item")
    columns = ("user_id", "item_id", "rating", "domain")
    named.select(*columns, timestamp="time").write_csv(folder / "r.csv")
    shown = pl.col("domain").first().cast(pl.String)
    of_items = tables.interactions.group_by("item").agg(shown)
    listed = tables.items.join(of_items, on="item", how="left", maintain_order="left")
    listed.select("item_id", "title", "genres", kind="domain").write_csv(folder / "i.csv")
    return folder


@pytest.fixture(scope="session")
def domain_recipe(domain_tables: Path, bert_folder: Path) -> Callable[..., Recipe]:
    """A recipe of Uni-CTR on this world: three known domains, Toys added, Music unseen."""
    values: dict[str, Any] = {
        "data": {
            "interactions": str(domain_tables / "r.csv"),
            "items": str(domain_tables / "i.csv"),
            "columns": {"domain": "domain"},
            "requests": {"min_history": 1},
        },
        "build": {
            "templates": "uni_ctr/full",
            "likes": 3,
            "min_history": 1,
            "train_examples": 200,
        },
        "multi_domain": {
            "unseen": "Music",
            "added": "Toys",
            "tower": [8],
            "ablations": ["no_ladders"],
        },
        "tune": {
            "model": str(bert_folder),
            "kind": "frozen",
            "shots": None,
            "batch_size": 64,
            "epochs": 2,
            "learning_rate": 0.01,
            "precision": "float32",
        },
        "train": {
            "backbone": ["shared_bottom", "deepfm"],
            "epochs": 1,
            "batch_size": 128,
            "embedding_dim": 4,
        },
        "evaluate": {"bootstrap": 20},
    }

    def make(**sections: Mapping[str, Any]) -> Recipe:
        """The recipe, with some sections changed."""
        changed = {name: {**part, **sections.get(name, {})} for name, part in values.items()}
        head = {"name": "mine", "seed": 3, "methods": ["uni_ctr"]}
        return Recipe.model_validate({**head, **changed})

    return make
