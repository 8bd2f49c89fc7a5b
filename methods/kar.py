"""KAR: towards open-world recommendation with knowledge augmentation from large language models.

Xi et al., RecSys 2024, arXiv 2306.10933.

Idea: ask a language model, offline, what it knows about users and items; encode the answers; let a
hybrid-expert adaptor move the vectors into the recommendation space and add them to any CTR model.

    oldest history ─ LLM → preference text ─ encoder → r_user ┐
                                                              ├ adaptor → two more fields
    item title ───── LLM → factual text ──── encoder → r_item ┘

Deviations from the paper: the split is by time, not by user; a preference text serves only targets
strictly later than the last event it was written from; users and items without a text get a learned
vector and a mask; early stopping looks at validation, never at test; the learning rate is constant,
which is what the released cosine schedule amounts to.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from tastemaker.data.splits import Split
from tastemaker.eval.protocol import Requests
from tastemaker.eval.report import Curve, KnowledgeSample
from tastemaker.methods.asking import check_reason
from tastemaker.methods.base import Contender, Exhibits, Method, Scores, load_split
from tastemaker.methods.collective import check_collective
from tastemaker.methods.encoding import encode_stage
from tastemaker.methods.featuring import check_train
from tastemaker.methods.knowledge import KINDS, audit_reason, knowledge_of, reason_stage
from tastemaker.methods.searching import check_search
from tastemaker.methods.training import (
    Variant,
    audit_train,
    load_recommender,
    train_stage,
    variants,
)
from tastemaker.models.encoders import check_encoder
from tastemaker.recipe import Recipe
from tastemaker.stage import Reporter, Run

__all__ = ["METHOD"]


def models(recipe: Recipe) -> tuple[str, ...]:
    """Names of the backbones without and with knowledge, and of the ablations."""
    return tuple(variant.name for variant in variants(recipe.train))


def contenders(recipe: Recipe, run: Run, split: Split) -> Sequence[Contender]:
    """Every variant of every backbone."""
    key = {"train": run.digest_of("train")}

    def scorer(variant: Variant) -> Any:
        def score(requests: Requests, report: Reporter) -> Scores:
            del report
            model = load_recommender(run, split, variant, config=recipe.train)
            return model.score(requests)

        return score

    return tuple(
        Contender(variant.name, variant.about, {**key, "variant": variant.folder}, scorer(variant))
        for variant in variants(recipe.train)
    )


def check(recipe: Recipe) -> None:
    """Find unknown templates, backbones, encoders and chat models before anything is written."""
    check_reason(recipe.reason)
    check_collective(recipe.reason)
    check_train(recipe.train)
    check_search(recipe.train)
    encode = recipe.encode
    check_encoder(encode.encoder, pooling=encode.pooling, base_url=encode.base_url)


def exhibits(run: Run) -> Exhibits:
    """Two preference texts, two fact texts, what they cover, and validation AUC by epoch."""
    frame = knowledge_of(run)
    shown = pl.concat([frame.filter(pl.col("kind") == kind).head(2) for kind in KINDS])
    titles = load_split(run).tables.titles
    knowledge = [
        KnowledgeSample(
            kind=row["kind"],
            entity=titles[row["entity"]] if row["kind"] == "item" else row["entity_id"],
            text=row["text"],
            note=f"asked: {row['prompt']}",
        )
        for row in shown.iter_rows(named=True)
    ]
    coverage = json.loads((run.artefact("encode") / "coverage.json").read_text(encoding="utf-8"))
    manifest = run.manifest("train")
    curves = [
        Curve(
            panel="Validation AUC while training",
            name=name,
            x=[entry["epoch"] for entry in value["curve"]],
            y=[entry["valid_auc"] for entry in value["curve"]],
            x_label="epoch",
            best=int(np.argmax([entry["valid_auc"] for entry in value["curve"]])),
        )
        for name, value in (manifest.summary if manifest else {}).items()
        if isinstance(value, dict)
    ]
    return Exhibits(
        knowledge=knowledge,
        curves=curves,
        coverage={name.replace("_", " "): value for name, value in coverage.items()},
        notes=["The knowledge was written by the recipe's own chat model, not by the authors'."],
    )


METHOD = Method(
    title="Towards Open-World Recommendation with Knowledge Augmentation from Large "
    "Language Models",
    venue="RecSys 2024, arXiv 2306.10933",
    idea="Add what a language model knows about users and items to any CTR model.",
    stages={"reason": reason_stage, "encode": encode_stage, "train": train_stage},
    models=models,
    contenders=contenders,
    check=check,
    exhibits=exhibits,
    audits={"reason": audit_reason, "train": audit_train},
)
