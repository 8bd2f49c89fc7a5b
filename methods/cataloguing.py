"""Stage `catalogue`: what conversations search, from whatever else the recipe brings.

    data ─ titles, columns ────────┐
    reason ─ fact texts ───────────┼─ documents ─ encoder ─ text vectors ─┐
    train ─ who would like them ───┴──────────────────────────────────────┴─ LanceDB table

The table and the vectors are kept beside the run and brought up to date: a changed item is encoded
and written alone. The artefact shares the files of the table, which nothing changes once written.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tastemaker import registry
from tastemaker.errors import MissingError
from tastemaker.methods.base import load_split
from tastemaker.methods.knowledge import knowledge_of
from tastemaker.methods.training import best_recommender, train_stage
from tastemaker.models.catalogue.documents import Documents, Space
from tastemaker.models.catalogue.facets import facet_of
from tastemaker.models.catalogue.store import Catalogue
from tastemaker.models.catalogue.taste import taste_vectors
from tastemaker.models.catalogue.writing import TABLE, write_catalogue
from tastemaker.models.encoders import Encoder, check_encoder, load_encoder
from tastemaker.models.live_ctr import LiveCtr
from tastemaker.models.vectors import Vectors
from tastemaker.recipe import EncodeConfig, Recipe
from tastemaker.stage import Run, Stage, Workspace, digest

__all__ = [
    "catalogue_stage",
    "check",
    "is_paid",
    "is_possible",
    "needs_of",
    "open_catalogue",
]

_INSTALL = 'Run pip install "tastemaker[serve]".'
_READ = ("data", "reason", "train")
_IMMUTABLE = ("data", "_indices", "_deletions")  # folders of a Lance table written once
_AT_ONCE = timedelta(milliseconds=1)  # nobody reads the table in the cache
_SAME, _NONE = "same", "none"


def catalogue_stage(recipe: Recipe, needs: Sequence[str]) -> Stage:
    """Stage `catalogue`: see the head of this file.

    Args:
        recipe: Its sections `catalogue` and `encode`.
        needs: Stages whose artefacts go in, of `data`, `reason` and `train`; see `needs_of`.
    """
    config = recipe.catalogue
    encoder = _encoder_config(recipe)
    told = None if encoder is None else encoder.model_dump(mode="json", exclude={"batch_size"})
    return Stage(
        name="catalogue",
        needs=tuple(needs),
        run=lambda space: _build(recipe, frozenset(needs), space),
        config={**config.model_dump(mode="json"), "encode": told},
    )


def needs_of(recipe: Recipe, available: Sequence[str]) -> tuple[str, ...]:
    """The stages among those available that this recipe's catalogue reads."""
    config = recipe.catalogue
    trains = [registry.load("method", name).stages.get("train") for name in recipe.methods]
    collaborative = config.collaborative and train_stage in trains
    wanted = {"data": True, "reason": config.texts, "train": collaborative}
    return tuple(name for name in _READ if wanted[name] and name in available)


def check(recipe: Recipe) -> None:
    """Find what is missing before anything runs.

    Raises:
        MissingError: LanceDB or the encoder is not on this machine.
        UserError: the encoder's name or an argument of it is wrong.
    """
    if not is_possible():
        raise MissingError("the catalogue needs LanceDB, which is not installed.", remedy=_INSTALL)
    config = _encoder_config(recipe)
    if config is None:
        return
    try:
        check_encoder(config.encoder, pooling=config.pooling, base_url=config.base_url)
    except MissingError as error:
        raise MissingError(
            f"catalogue: {error.what}",
            allowed=error.allowed,
            remedy=f"{error.remedy} Or leave text vectors out: --set catalogue.encoder=none",
        ) from None


def open_catalogue(run: Run) -> Catalogue:
    """The catalogue of a run, with the encoder of its text vectors.

    Raises:
        UserError: the stage has not been run.
        MissingError: LanceDB or the encoder is not on this machine.
        DataError: the artefact cannot be read.
    """
    folder, manifest = run.artefact("catalogue"), run.manifest("catalogue")
    told = manifest.config["encode"] if manifest else None
    encoder = None if told is None else _loaded(EncodeConfig.model_validate(told))
    return Catalogue.open(folder, encoder=encoder)


def is_possible() -> bool:
    """Whether LanceDB is installed."""
    return importlib.util.find_spec("lancedb") is not None


def is_paid(recipe: Recipe) -> bool:
    """Whether every new document is a request to a server, which may cost."""
    config = _encoder_config(recipe)
    return config is not None and config.encoder.startswith("openai:")


def _loaded(config: EncodeConfig) -> Encoder:
    return load_encoder(config.encoder, pooling=config.pooling, base_url=config.base_url)


def _encoder_config(recipe: Recipe) -> EncodeConfig | None:
    own = recipe.catalogue
    if own.encoder is None or own.encoder == _NONE:
        return None
    if own.encoder == _SAME:
        return recipe.encode
    return recipe.encode.model_copy(
        update={"encoder": own.encoder, "pooling": own.pooling, "base_url": own.base_url}
    )


def _build(recipe: Recipe, needs: frozenset[str], space: Workspace) -> Mapping[str, Any]:
    split = load_split(space.run)
    knowledge = _knowledge(space.run) if "reason" in needs else {}
    documents = Documents.of(split.tables, knowledge=knowledge)
    config = _encoder_config(recipe)
    encoder = None if config is None else _loaded(config)
    text = None if encoder is None else _text_vectors(documents, encoder, recipe, space)
    collaborative = None
    if "train" in needs:
        model = LiveCtr(best_recommender(space.run, split, recipe.train), split)
        items, matrix = taste_vectors(model, split, seed=space.seed)
        collaborative = Space(items, matrix) if len(items) else None
    rows = documents.rows(
        text=text, collaborative=collaborative, encoder=None if encoder is None else encoder.name
    )
    table = space.cache / "table"
    written = write_catalogue(table, rows, keep=_AT_ONCE)
    _share(table / f"{TABLE}.lance", space.out / f"{TABLE}.lance")
    facets = [one for one in map(facet_of, documents.attributes) if one is not None]
    told = {
        **asdict(written),
        "facets": [facet.name for facet in facets],
        "encoder": None if encoder is None else encoder.name,
        "collaborative": 0 if collaborative is None else len(collaborative.items),
        "knowledge": len(knowledge),
    }
    return {**told, "line": _line(told)}


def _line(told: Mapping[str, Any]) -> str:
    line = f"{told['rows']:,} items, {len(told['facets'])} facets"
    line += f", text vectors by {told['encoder']}" if told["encoder"] else ", full text only"
    if told["collaborative"]:
        line += f", collaborative vectors of {told['collaborative']:,}"
    if told["knowledge"]:
        line += f", knowledge of {told['knowledge']:,}"
    return line


def _knowledge(run: Run) -> dict[int, str]:
    """Fact texts by dense item."""
    frame = knowledge_of(run).filter(pl.col("kind") == "item", pl.col("text") != "")
    return dict(frame.select("entity", "text").iter_rows())


def _text_vectors(
    documents: Documents, encoder: Encoder, recipe: Recipe, space: Workspace
) -> Space:
    """Vectors of all documents; only texts that the cache does not know are encoded."""
    known = {"pooling": encoder.pooling, "tokens": encoder.max_tokens, "weights": encoder.weights}
    folder = space.cache / "vectors" / digest([encoder.name, known])[:12]
    ids = documents.ids.cast(pl.String).to_list()
    with space.report.track(f"encoding {len(ids):,} documents", len(ids)) as advance:
        vectors = Vectors.update(
            folder,
            ids,
            documents.meanings,
            encoder=encoder,
            dtype="float32",
            batch_size=recipe.encode.batch_size,
            on_progress=advance,
        )
    if len(vectors) > 2 * len(ids):  # mostly texts that are no more
        vectors = Vectors.compact(folder, keep=ids)
    matrix = vectors.take(vectors.rows(ids))
    return Space(np.arange(len(ids), dtype=np.int64), matrix)


def _share(source: Path, target: Path) -> None:
    """The same table in another folder; files that nothing changes are shared, others copied."""
    for path in sorted(source.rglob("*")):
        if not path.is_file():
            continue
        name = path.relative_to(source)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        place: Callable[[Path, Path], Any] = _link if name.parts[0] in _IMMUTABLE else shutil.copy2
        place(path, target / name)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)
