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
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import nn

from tastemaker.data.findings import Finding
from tastemaker.data.splits import Split
from tastemaker.eval.protocol import Requests
from tastemaker.eval.report import Curve, KnowledgeSample
from tastemaker.methods.asking import check_reason
from tastemaker.methods.auditing import audit_knowledge_use, audit_recommender
from tastemaker.methods.base import Contender, Exhibits, Method, Scores, load_requests, load_split
from tastemaker.methods.collective import check_collective
from tastemaker.methods.knowledge import KINDS, audit_reason, knowledge_of, reason_stage
from tastemaker.models.ctr.recommender import CtrRecommender
from tastemaker.models.encoders import check_encoder, load_encoder
from tastemaker.models.layers.experts import HybridExpertAdaptor
from tastemaker.models.vectors import Vectors
from tastemaker.recipe import EncodeConfig, KnowledgeConfig, Recipe, TrainConfig
from tastemaker.registry import load as load_named
from tastemaker.stage import Reporter, Run, Stage, Workspace, atomic_file, digest

__all__ = ["METHOD", "load_features", "load_recommender"]

PLAIN, AUGMENTED = "plain", "knowledge"


def encode_stage(recipe: Recipe) -> Stage:
    """Stage `encode`: one vector per text, and how much of the requests they cover."""
    return Stage(
        name="encode",
        needs=("data", "reason"),
        run=lambda space: _encode(recipe.encode, space),
        config=recipe.encode.model_dump(mode="json", exclude={"batch_size"}),
    )


def train_stage(recipe: Recipe) -> Stage:
    """Stage `train`: the backbone with ids only, and with the adapted knowledge."""
    return Stage(
        name="train",
        needs=("data", "reason", "encode"),
        run=lambda space: _train(recipe.train, models(recipe), space),
        config=recipe.train.model_dump(mode="json"),
    )


def models(recipe: Recipe) -> tuple[str, str]:
    """Names of the backbone without and with knowledge."""
    name = recipe.train.backbone
    shown = name.upper() if len(name) <= 4 else name
    return shown, f"{shown} + KAR"


def contenders(recipe: Recipe, run: Run, split: Split) -> Sequence[Contender]:
    """The backbone alone and with knowledge."""
    key = {"train": run.digest_of("train")}

    def scorer(variant: str) -> Any:
        def score(requests: Requests, report: Reporter) -> Scores:
            del report
            model = load_recommender(run, split, variant=variant, config=recipe.train)
            return model.score(requests)

        return score

    plain, augmented = models(recipe)
    return (
        Contender(
            plain,
            "Ids of the candidate and of the last events, with their ratings.",
            {**key, "variant": PLAIN},
            scorer(PLAIN),
        ),
        Contender(
            augmented,
            "The same plus adapted vectors of the generated knowledge.",
            {**key, "variant": AUGMENTED},
            scorer(AUGMENTED),
        ),
    )


def check(recipe: Recipe) -> None:
    """Find unknown templates, backbones, encoders and chat models before anything is written."""
    check_reason(recipe.reason)
    check_collective(recipe.reason)
    load_named("backbone", recipe.train.backbone)
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


def load_recommender(
    run: Run, split: Split, *, variant: str = PLAIN, config: TrainConfig
) -> CtrRecommender:
    """The trained backbone of a run, `"plain"` or with `"knowledge"`."""
    extra = load_features(run, split, config) if variant == AUGMENTED else None
    return CtrRecommender.load(run.artefact("train") / variant, split=split, extra=extra)


def audit_train(run: Run, split: Split) -> Sequence[Finding]:
    """Verdicts on what the two backbones see: histories, vocabularies, texts."""
    manifest = run.manifest("train")
    config = TrainConfig.model_validate(manifest.config if manifest else {})
    asked = [load_requests(run, part) for part in ("valid", "test")]
    found: list[Finding] = []
    for variant in (PLAIN, AUGMENTED):
        model = load_recommender(run, split, variant=variant, config=config)
        found += audit_recommender(split, model, asked)
    features = load_features(run, split, config)
    return [*found, *audit_knowledge_use(split, features, asked, texts=knowledge_of(run))]


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


class KnowledgeFeatures:
    """The two adapted knowledge fields, as extra input of a CTR model (§3 of the paper).

    Args:
        user_vectors: float32 [texts, d].
        item_vectors: float32 [texts, d].
        user_rows: int64 [users], row of each user's text, -1 without one.
        item_rows: int64 [items], likewise.
        user_cuts: int64 [users]; a user's text serves only targets strictly later than this.
        item_cuts: int64 [items], likewise; None where no item's text rests on an event.
        experts: Shared and dedicated experts per kind, hidden units, output size.

    Attributes:
        dim: Width of the two adapted vectors side by side.
    """

    def __init__(
        self,
        user_vectors: NDArray[np.float32],
        item_vectors: NDArray[np.float32],
        *,
        user_rows: NDArray[np.int64],
        item_rows: NDArray[np.int64],
        user_cuts: NDArray[np.int64],
        item_cuts: NDArray[np.int64] | None = None,
        experts: KnowledgeConfig,
    ) -> None:
        self._vectors = (user_vectors, item_vectors)
        self._user_rows, self._item_rows, self._user_cuts = user_rows, item_rows, user_cuts
        always = np.full(len(item_rows), np.iinfo(np.int64).min)
        self._item_cuts = always if item_cuts is None else item_cuts
        self._experts = experts
        self.dim = 2 * experts.dim

    def module(self) -> nn.Module:
        """A fresh adaptor."""
        return _AdaptedKnowledge(*self._vectors, experts=self._experts)

    def columns(
        self, users: NDArray[Any], items: NDArray[Any], times: NDArray[Any]
    ) -> dict[str, NDArray[np.int64]]:
        """Rows of the usable texts, int64 [n] each; -1 where there is none yet."""
        of_user, of_item = times > self._user_cuts[users], times > self._item_cuts[items]
        return {
            "user_text": np.where(of_user, self._user_rows[users], -1),
            "item_text": np.where(of_item, self._item_rows[items], -1),
        }


class _AdaptedKnowledge(nn.Module):
    """Looks the vectors up and adapts them; the vectors themselves are not trained nor saved."""

    def __init__(self, users: Any, items: Any, *, experts: KnowledgeConfig) -> None:
        super().__init__()
        self.adaptor = HybridExpertAdaptor(
            users.shape[1],
            shared_experts=experts.shared_experts,
            dedicated_experts=experts.dedicated_experts,
            hidden=experts.hidden,
            dim=experts.dim,
        )
        for name, matrix in (("users", users), ("items", items)):
            padded = np.concatenate([matrix, np.zeros((1, users.shape[1]), np.float32)])
            self.register_buffer(name, torch.from_numpy(padded), persistent=False)

    def forward(self, user_text: torch.Tensor, item_text: torch.Tensor) -> torch.Tensor:
        return self.adaptor(
            self.users[user_text], user_text >= 0, self.items[item_text], item_text >= 0
        )


def load_features(run: Run, split: Split, config: TrainConfig) -> KnowledgeFeatures:
    """The vectors of a run, for the rows whose moment they may serve."""
    frame = knowledge_of(run)
    cuts = _availability(frame, split)
    matrices, rows = {}, {}
    for kind, table in (("user", split.tables.users), ("item", split.tables.items)):
        vectors = Vectors.open(run.artefact("encode") / kind)
        rows[kind] = vectors.rows([str(entity) for entity in table[f"{kind}_id"].to_list()])
        matrices[kind] = vectors.take(np.arange(len(vectors)))
    return KnowledgeFeatures(
        matrices["user"],
        matrices["item"],
        user_rows=rows["user"],
        item_rows=rows["item"],
        user_cuts=cuts["user"],
        item_cuts=cuts["item"],
        experts=config.knowledge,
    )


def _train(config: TrainConfig, shown: tuple[str, str], space: Workspace) -> Mapping[str, Any]:
    split = load_split(space.run)
    names = dict(zip((PLAIN, AUGMENTED), shown, strict=True))
    summary: dict[str, Any] = {}
    for variant, name in names.items():
        with space.report.track(f"training {name}, epochs at most", config.epochs) as advance:
            recommender = CtrRecommender(
                name,
                backbone=config.backbone,
                dim=config.embedding_dim,
                history=config.history,
                min_count=config.min_count,
                learning_rate=config.learning_rate,
                weight_decay=config.weight_decay,
                batch_size=config.batch_size,
                epochs=config.epochs,
                patience=config.patience,
                seed=space.seed,
                extra=load_features(space.run, split, config) if variant == AUGMENTED else None,
                scratch=space.scratch / variant,
                on_progress=advance,
            ).fit(split)
        recommender.save(space.out / variant)
        summary[name] = {"curve": recommender.curve}
    best = {name: max(e["valid_auc"] for e in summary[name]["curve"]) for name in summary}
    line = ", ".join(f"{name} validation AUC {value:.3f}" for name, value in best.items())
    return {**summary, "line": line}
