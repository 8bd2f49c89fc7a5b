"""From the `train` section of a recipe to a recommender and what it reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.data.splits import Split
from tastemaker.data.tables import Tables
from tastemaker.errors import UserError
from tastemaker.models.ctr.inputs import Shape
from tastemaker.models.ctr.options import checked_options, known_options
from tastemaker.models.ctr.recommender import CtrRecommender
from tastemaker.models.features import Feature, default_features
from tastemaker.models.layers.experts import AdaptorSizes
from tastemaker.models.text_vectors import TextVectors
from tastemaker.models.training import TrainingPlan
from tastemaker.models.vectors import Vectors
from tastemaker.recipe import FeatureConfig, TrainConfig
from tastemaker.registry import load as load_named

__all__ = [
    "check_train",
    "declared_features",
    "declared_texts",
    "matched",
    "new_recommender",
    "plan_of",
]


def declared_features(config: TrainConfig, tables: Tables) -> tuple[Feature, ...]:
    """Features without vectors; the default ones where the recipe declares none of these."""
    declared = tuple(
        Feature(name, one.kind, steps=one.sequence, length=one.length or config.history)
        for name, one in config.features.items()
        if one.kind != "vectors"
    )
    return declared or default_features(tables.schema, tables, history=config.history)


def declared_texts(config: TrainConfig, tables: Tables) -> tuple[TextVectors, ...]:
    """The vectors that the recipe names, for the users or items of these tables.

    Raises:
        UserError: no such folder, vectors of nobody here, or it is not said whose they are.
    """
    return tuple(
        _text(name, one, tables) for name, one in config.features.items() if one.kind == "vectors"
    )


def matched(vectors: Vectors, ids: pl.Series) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The vectors of these ids, float32 [texts, width], and the row of each id, -1 without one."""
    places = vectors.rows(ids.cast(pl.String).to_list())
    kept = np.unique(places[places >= 0])  # in the order of the folder
    rows = np.where(places >= 0, np.searchsorted(kept, places), -1)
    return vectors.take(kept), rows


def new_recommender(
    name: str,
    backbone: str,
    config: TrainConfig,
    *,
    split: Split,
    texts: Sequence[TextVectors] = (),
    seed: int,
    scratch: Path | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> CtrRecommender:
    """A recommender as the recipe wants it, not trained yet.

    Args:
        name: Shown to people.
        backbone: One of `config.backbone`.
        config: Section `train` of the recipe.
        split: What it will be trained on; its tables give the default features.
        texts: What it reads of texts.
        seed: Of weights and order.
        scratch: Where checkpoints survive a killed process.
        on_progress: Called with 1 after each epoch.
    """
    experts = config.knowledge
    return CtrRecommender(
        name,
        backbone,
        features=declared_features(config, split.tables),
        dim=config.embedding_dim,
        min_count=config.min_count,
        plan=plan_of(config, seed=seed),
        options=config.options,
        class_weight=config.class_weight,
        adaptor=AdaptorSizes(
            experts.adaptor, experts.shared_experts, experts.dedicated_experts, experts.hidden
        ),
        texts=texts,
        scratch=scratch,
        on_progress=on_progress,
    )


def plan_of(config: TrainConfig, *, seed: int) -> TrainingPlan:
    """How the recipe trains recommenders; `seed` is that of weights and order."""
    return TrainingPlan(
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        batch_size=config.batch_size,
        epochs=config.epochs,
        patience=config.patience,
        seed=seed,
        precision=config.precision,
    )


def check_train(config: TrainConfig) -> None:
    """Find, before anything runs, what needs no tables to be found.

    Raises:
        UserError: an unknown backbone or option, a folder of vectors that is not there, or it is
            not said whose they are.
    """
    for backbone in config.backbone:
        _check_options(backbone, config)
    for name, one in config.features.items():
        if one.kind == "vectors":
            _owner(name, one)
            Vectors.open(Path(str(one.vectors)))
        if not name.isidentifier():
            raise UserError(
                f"train.features: '{name}' is no name.",
                allowed="letters, digits and underscores",
                remedy="Rename the column in the tables.",
            )


def _check_options(backbone: str, config: TrainConfig) -> None:
    """Build a small network: what an option may be, its class knows best."""
    make = load_named("backbone", backbone)
    options = checked_options(make, config.options, backbone=backbone)
    try:
        make(Shape(config.embedding_dim, candidate=2, context=1, steps=(2,), vectors=2), **options)
    except UserError:
        raise
    except Exception as error:  # whatever a layer says of a size, a name or a share
        told = ", ".join(f"{name}: {default}" for name, default in known_options(make).items())
        raise UserError(
            f"train.options: {backbone} cannot be built with {options} ({error}).",
            allowed=f"its options and their defaults: {told}",
        ) from None


def _text(name: str, config: FeatureConfig, tables: Tables) -> TextVectors:
    owner = _owner(name, config)
    frame = tables.users if owner == "user" else tables.items
    vectors = Vectors.open(Path(str(config.vectors)))
    matrix, rows = matched(vectors, frame[f"{owner}_id"])
    if not len(matrix):
        raise UserError(
            f"train.features.{name}: {config.vectors} has a vector of none of the "
            f"{frame.height:,} {owner}s.",
            remedy=f"Its ids must be those of the column {owner}_id; set `of:` if they are of "
            "the other kind.",
        )
    return TextVectors(name, owner, matrix, rows, fusion=config.fusion)


def _owner(name: str, config: FeatureConfig) -> Literal["user", "item"]:
    if config.of is not None:
        return config.of
    if name.startswith("user"):
        return "user"
    if name.startswith("item"):
        return "item"
    raise UserError(
        f"train.features.{name}: whose vectors are these?",
        allowed="of: user, of: item, or a name that begins with user or item",
    )
