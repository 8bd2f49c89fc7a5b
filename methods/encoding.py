"""Stage `encode`: generated texts as vectors, each with the moment from which it may serve."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.data.splits import Split
from tastemaker.methods.base import load_requests, load_split
from tastemaker.methods.featuring import matched
from tastemaker.methods.knowledge import KINDS, knowledge_of
from tastemaker.models.encoders import load_encoder
from tastemaker.models.text_vectors import TextVectors
from tastemaker.models.vectors import Vectors
from tastemaker.recipe import EncodeConfig, Recipe
from tastemaker.stage import Run, Stage, Workspace, atomic_file, digest

__all__ = ["encode_stage", "knowledge_texts"]


def encode_stage(recipe: Recipe) -> Stage:
    """Stage `encode`: one vector per text, and how much of the requests they cover."""
    return Stage(
        name="encode",
        needs=("data", "reason"),
        run=lambda space: _encode(recipe.encode, space),
        config=recipe.encode.model_dump(mode="json", exclude={"batch_size"}),
    )


def knowledge_texts(run: Run, split: Split) -> tuple[TextVectors, TextVectors]:
    """`user_text` and `item_text` of a run: its vectors, and from when on each may serve."""
    cuts = _availability(knowledge_of(run), split)
    return _knowledge_text("user", run, split, cuts), _knowledge_text("item", run, split, cuts)


def _knowledge_text(
    kind: Literal["user", "item"], run: Run, split: Split, cuts: Mapping[str, NDArray[np.int64]]
) -> TextVectors:
    table = split.tables.users if kind == "user" else split.tables.items
    vectors = Vectors.open(run.artefact("encode") / kind)
    matrix, rows = matched(vectors, table[f"{kind}_id"])
    return TextVectors(f"{kind}_text", kind, matrix, rows, after=cuts[kind])


def _encode(config: EncodeConfig, space: Workspace) -> Mapping[str, Any]:
    frame = knowledge_of(space.run)
    encoder = load_encoder(config.encoder, pooling=config.pooling, base_url=config.base_url)
    for kind in KINDS:
        part = frame.filter(pl.col("kind") == kind)
        ids = part["entity_id"].to_list()
        # The cache knows every text encoded before: a few changed texts cost a few forward passes.
        known = Vectors.update(
            space.cache / digest([encoder.name, config.dtype])[:12] / kind,
            ids,
            part["encoder_text"],
            encoder=encoder,
            dtype=config.dtype,
            batch_size=config.batch_size,
        )
        Vectors.create(
            space.out / kind,
            ids,
            known.take(known.rows(ids)),
            encoder=encoder.name,
            dtype=config.dtype,
        )
    coverage = _coverage(space.run, frame)
    with atomic_file(space.out / "coverage.json") as handle:
        handle.write(json.dumps(coverage, indent=1).encode())
    line = (
        f"{frame.height:,} texts by {encoder.name}; of the test requests "
        f"{coverage['test_user_coverage']:.0%} have a user text, "
        f"{coverage['test_item_coverage']:.0%} an item text"
    )
    return {"encoder": encoder.name, "dim": encoder.dim, **coverage, "line": line}


def _coverage(run: Run, frame: pl.DataFrame) -> dict[str, float]:
    """Share of training rows and of requests with usable user and item texts."""
    split = load_split(run)
    cuts = _availability(frame, split)
    events = split.tables.interactions[split.train]
    asked = {part: load_requests(run, part).frame for part in ("valid", "test")}
    found = {}
    for part, rows in {"train": events, **asked}.items():
        users, items, times = (rows[name].to_numpy() for name in ("user", "item", "time"))
        for kind, entities in (("user", users), ("item", items)):
            usable = float((times > cuts[kind][entities]).mean())
            found[f"{part}_{kind}_coverage"] = round(usable, 4)
    return found


def _availability(frame: pl.DataFrame, split: Split) -> dict[str, NDArray[np.int64]]:
    """Moment after which each user's and each item's text may be used.

    Without a text that is never (the largest integer), without a cut always (the smallest).
    """
    found = {}
    for kind, count in zip(KINDS, (split.tables.n_users, split.tables.n_items), strict=True):
        cuts = np.full(count, np.iinfo(np.int64).max)
        texts = frame.filter(pl.col("kind") == kind)
        always = pl.col("cut_time").fill_null(np.iinfo(np.int64).min)
        cuts[texts["entity"].to_numpy()] = texts.select(always)["cut_time"].to_numpy()
        found[kind] = cuts
    return found
