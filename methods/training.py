"""Stage `train`: each backbone with ids only, with knowledge, and as the ablations ask.

All variants of a backbone read the same rows and features and are trained alike; they differ in
their texts only:

    plain        what the recipe's features declare
    knowledge    + preference texts of users + fact texts of items
    preference   + preference texts of users
    facts        + fact texts of items
    random       + random vectors in place of both, for the same users and items
    titles       + the titles of the same items in place of their facts, nothing of users
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tastemaker.data.findings import Finding
from tastemaker.data.splits import Split
from tastemaker.errors import StageError
from tastemaker.methods.auditing import audit_knowledge_use, audit_recommender
from tastemaker.methods.base import load_requests, load_split
from tastemaker.methods.encoding import knowledge_texts
from tastemaker.methods.featuring import declared_texts, matched, new_recommender
from tastemaker.methods.knowledge import knowledge_of
from tastemaker.methods.naming import shown_backbone
from tastemaker.methods.searching import SEARCHED, searched
from tastemaker.models.ctr.recommender import CtrRecommender
from tastemaker.models.encoders import load_encoder
from tastemaker.models.text_use import TextUse, text_use
from tastemaker.models.text_vectors import TextVectors
from tastemaker.models.vectors import Vectors
from tastemaker.recipe import EncodeConfig, Recipe, TrainConfig
from tastemaker.stage import Run, Stage, Workspace

__all__ = [
    "AUGMENTED",
    "PLAIN",
    "Variant",
    "audit_train",
    "best_recommender",
    "is_served",
    "load_recommender",
    "train_stage",
    "variants",
]

PLAIN, AUGMENTED = "plain", "knowledge"
_TITLES = "titles"
_PROBED_ROWS = 4096
_ABOUT = {
    PLAIN: "The declared features: the candidate and the last events, with their ratings.",
    AUGMENTED: "The same plus adapted vectors of the generated knowledge.",
    "preference": "The same plus adapted vectors of the users' preference texts.",
    "facts": "The same plus adapted vectors of the items' fact texts.",
    "random": "The same with random vectors in place of the knowledge, as a control.",
    "titles": "The same with the titles of these items in place of the knowledge, as a control.",
}
_SUFFIX = {AUGMENTED: "KAR", "random": "random vectors"}


@dataclass(frozen=True)
class Variant:
    """A backbone with some texts.

    Attributes:
        backbone: A file of `models/ctr`.
        texts: `plain`, `knowledge`, or an ablation.
    """

    backbone: str
    texts: str

    @property
    def name(self) -> str:
        """Shown to people."""
        shown = shown_backbone(self.backbone)
        return shown if self.texts == PLAIN else f"{shown} + {_SUFFIX.get(self.texts, self.texts)}"

    @property
    def about(self) -> str:
        """One line on what it reads."""
        return _ABOUT[self.texts]

    @property
    def folder(self) -> str:
        """Where it is saved, below the artefact of the stage."""
        return f"{self.backbone}-{self.texts}"


def variants(config: TrainConfig) -> tuple[Variant, ...]:
    """Everything that is trained: backbone by backbone."""
    texts = (PLAIN, AUGMENTED, *config.ablations)
    return tuple(Variant(backbone, kind) for backbone in config.backbone for kind in texts)


def train_stage(recipe: Recipe) -> Stage:
    """Stage `train`: see the head of this file."""
    return Stage(
        name="train",
        needs=("data", "reason", "encode"),
        run=lambda space: _train(recipe.train, recipe.encode, space),
        config=recipe.train.model_dump(mode="json"),
    )


def load_recommender(
    run: Run, split: Split, variant: Variant, *, config: TrainConfig, prestored: bool = False
) -> CtrRecommender:
    """A trained variant of a run.

    Args:
        run: Its train stage is finished.
        split: Of the run.
        variant: Which one.
        config: Section `train` of the recipe.
        prestored: Read adapted texts from the table written after training: for serving.
    """
    folder = run.artefact("train")
    texts = _texts(variant, run, split, config, folder=folder, seed=run.seed)
    return CtrRecommender.load(
        folder / variant.folder, split=split, texts=texts, prestored=prestored
    )


def is_served(run: Run) -> bool:
    """Whether the run's train stage holds recommenders that answer single users.

    Those that a method compares on several domains are none.
    """
    manifest = run.manifest("train")
    return manifest is not None and "backbone" in manifest.config


def best_recommender(run: Run, split: Split, config: TrainConfig) -> CtrRecommender:
    """The variant with the best validation AUC among those without and with knowledge."""
    manifest = run.manifest("train")
    curves = {} if manifest is None else manifest.summary
    served = [variant for variant in variants(config) if variant.texts in (PLAIN, AUGMENTED)]

    def best(variant: Variant) -> float:
        return max(entry["valid_auc"] for entry in curves[variant.name]["curve"])

    return load_recommender(run, split, max(served, key=best), config=config, prestored=True)


def audit_train(run: Run, split: Split) -> Sequence[Finding]:
    """Verdicts on what the models see: histories, vocabularies, texts."""
    manifest = run.manifest("train")
    config = TrainConfig.model_validate(manifest.config if manifest else {})
    asked = [load_requests(run, part) for part in ("valid", "test")]
    found: list[Finding] = []
    for variant in variants(config):
        model = load_recommender(run, split, variant, config=config)
        found += audit_recommender(split, model, asked)
    texts = knowledge_texts(run, split)
    return [*found, *audit_knowledge_use(split, texts, asked, texts=knowledge_of(run))]


def _train(config: TrainConfig, encode: EncodeConfig, space: Workspace) -> Mapping[str, Any]:
    split = load_split(space.run)
    if "titles" in config.ablations:
        _encode_titles(encode, space, split)
    summary: dict[str, Any] = {}
    for variant in variants(config):
        texts = _texts(variant, space.run, split, config, folder=space.out, seed=space.seed)
        chosen = searched(variant.name, variant.backbone, config, texts, space=space, split=split)
        with space.report.track(f"training {variant.name}, epochs at most", config.epochs) as step:
            model = new_recommender(
                variant.name,
                variant.backbone,
                chosen,
                split=split,
                texts=texts,
                seed=space.seed,
                scratch=space.scratch / variant.folder,
                on_progress=step,
            ).fit(split)
        model.save(space.out / variant.folder)
        told: dict[str, Any] = {"curve": model.curve}
        if texts:
            told["texts"] = {one.name: asdict(one) for one in _used(model, split)}
        if config.search:
            told["chosen"] = chosen.model_dump(mode="json", include=set(SEARCHED))
        summary[variant.name] = told
    best = {name: max(e["valid_auc"] for e in summary[name]["curve"]) for name in summary}
    line = ", ".join(f"{name} validation AUC {value:.3f}" for name, value in best.items())
    return {**summary, "line": line}


def _texts(
    variant: Variant, run: Run, split: Split, config: TrainConfig, *, folder: Path, seed: int
) -> tuple[TextVectors, ...]:
    """The texts of a variant: those that the recipe declares, then generated or control ones."""
    declared = declared_texts(config, split.tables)
    if variant.texts == PLAIN:
        return declared
    user, item = knowledge_texts(run, split)
    if variant.texts == "random":
        generator = np.random.default_rng(seed)
        return (*declared, *(text.randomised(generator) for text in (user, item)))
    if variant.texts == "titles":
        vectors = Vectors.open(folder / _TITLES)
        matrix, rows = matched(vectors, split.tables.items["item_id"])
        return (*declared, replace(item, matrix=matrix, rows=rows, after=None))
    chosen = {"preference": (user,), "facts": (item,)}.get(variant.texts, (user, item))
    return (*declared, *chosen)


def _encode_titles(config: EncodeConfig, space: Workspace, split: Split) -> None:
    """Titles of the items that have a fact text, by the same encoder."""
    _, item = knowledge_texts(space.run, split)
    items = split.tables.items.filter(pl.Series(item.rows >= 0))
    encoder = load_encoder(config.encoder, pooling=config.pooling, base_url=config.base_url)
    matrix = encoder.encode(items["title"].to_list())
    ids = items["item_id"].cast(pl.String).to_list()
    Vectors.create(space.out / _TITLES, ids, matrix, encoder=encoder.name, dtype=config.dtype)


def _used(model: CtrRecommender, split: Split) -> list[TextUse]:
    """How much the texts of a model matter on training rows.

    Raises:
        StageError: texts that serve rows of the train part do not reach the loss.
    """
    rows = split.train[-_PROBED_ROWS:]
    found = text_use(model, rows)
    for one in found:
        if one.rows and not one.used:
            raise StageError(
                f"{model.name}: the vectors of {one.name} do not reach the loss (gradient "
                f"{one.gradient:.3g}, loss {one.loss:.6f} with and {one.loss_without:.6f} without)."
            )
    return found
