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

from tastemaker.agents.chat_models import chat_model, check_chat_model
from tastemaker.agents.knowledge import Knowledge, KnowledgeStore
from tastemaker.agents.reasoning import (
    Question,
    answer,
    encoder_text,
    item_questions,
    user_questions,
)
from tastemaker.data.findings import Finding
from tastemaker.data.splits import Split
from tastemaker.eval.protocol import Requests
from tastemaker.eval.report import Curve, KnowledgeSample
from tastemaker.methods.auditing import audit_knowledge_use, audit_recommender
from tastemaker.methods.base import Contender, Exhibits, Method, Scores, load_requests, load_split
from tastemaker.models.ctr.recommender import CtrRecommender
from tastemaker.models.encoders import check_encoder, load_encoder
from tastemaker.models.layers.experts import HybridExpertAdaptor
from tastemaker.models.vectors import Vectors
from tastemaker.prompts.audit import audit_user_texts
from tastemaker.prompts.template import find_template
from tastemaker.recipe import EncodeConfig, KnowledgeConfig, ReasonConfig, Recipe, TrainConfig
from tastemaker.registry import load as load_named
from tastemaker.stage import Reporter, Run, Stage, Workspace, atomic_file

__all__ = ["METHOD", "load_features", "load_recommender"]

STORE = "knowledge.sqlite"
KINDS = ("user", "item")
PLAIN, AUGMENTED = "plain", "knowledge"


def reason_stage(recipe: Recipe) -> Stage:
    """Stage `reason`: preference and fact texts; nothing in the store is asked again."""
    return Stage(
        name="reason",
        needs=("data",),
        run=lambda space: _reason(recipe.reason, space),
        config=recipe.reason.model_dump(mode="json", exclude={"batch_size"}),
    )


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
    find_template(recipe.reason.user_template)
    find_template(recipe.reason.item_template)
    load_named("backbone", recipe.train.backbone)
    check_encoder(recipe.encode.encoder)
    check_chat_model(recipe.reason.model, base_url=recipe.reason.base_url)


def exhibits(run: Run) -> Exhibits:
    """Two preference texts, two fact texts, what they cover, and validation AUC by epoch."""
    frame = _knowledge(run)
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


def audit_reason(run: Run, split: Split) -> Sequence[Finding]:
    """Verdict on what the chat model was told about the users."""
    users = _knowledge(run).filter(pl.col("kind") == "user")
    manifest = run.manifest("reason")
    config = ReasonConfig.model_validate(manifest.config if manifest else {})
    frame = users.select(pl.col("entity").alias("user"), "cut_time", "prompt")
    template = find_template(config.user_template)
    return [audit_user_texts(split.tables, frame, template=template)]


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
    return [*found, *audit_knowledge_use(split, features, asked, texts=_knowledge(run))]


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


def _reason(config: ReasonConfig, space: Workspace) -> Mapping[str, Any]:
    questions = _questions(config, space)
    params = {"max_tokens": config.max_tokens, "temperature": config.temperature}
    model = chat_model(
        config.model,
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        base_url=config.base_url,
        batch_size=config.batch_size,
        seed=space.seed,
    )
    with KnowledgeStore(space.run.folder / STORE) as store:
        before = len(store)
        found = answer(
            questions,
            model,
            store,
            model_name=config.model,
            base_url=config.base_url,
            params={**params, "seed": space.seed},
            batch_size=config.batch_size,
            report=space.report,
        )
        generated = len(store) - before
    frame = _knowledge_frame(questions, found)
    with atomic_file(space.out / "knowledge.parquet") as handle:
        frame.write_parquet(handle)
    counts = {f"{kind}_texts": frame.filter(pl.col("kind") == kind).height for kind in KINDS}
    line = (
        f"{counts['user_texts']:,} users, {counts['item_texts']:,} items; "
        f"{generated:,} texts generated now"
    )
    unanswered = len(questions) - frame.height
    return {**counts, "generated_now": generated, "unanswered": unanswered, "line": line}


def _questions(config: ReasonConfig, space: Workspace) -> list[Question]:
    split = load_split(space.run)
    users, items = _most_wanted(config, split, space.run)
    return [
        *user_questions(
            split.tables,
            split.histories,
            template=find_template(config.user_template),
            users=users,
            cap=config.history_cap,
            factors=config.factors,
        ),
        *item_questions(
            split.tables,
            template=find_template(config.item_template),
            items=items,
            factors=config.factors,
        ),
    ]


def _most_wanted(
    config: ReasonConfig, split: Split, run: Run
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Users of the requests first, then the most active in training; items by training popularity.

    Only *which* texts are written depends on the requests, never what is in them.
    """
    events = split.tables.interactions[split.train_events]
    asked = [load_requests(run, part).users.astype(np.int64) for part in ("test", "valid")]
    activity = np.bincount(events["user"].to_numpy(), minlength=split.tables.n_users)
    popularity = np.bincount(events["item"].to_numpy(), minlength=split.tables.n_items)
    users = np.concatenate([*(np.unique(part) for part in asked), _descending(activity)])
    _, first = np.unique(users, return_index=True)
    return users[np.sort(first)][: config.max_users], _descending(popularity)[: config.max_items]


def _descending(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.argsort(-counts, kind="stable").astype(np.int64)


def _knowledge_frame(questions: Sequence[Question], found: Sequence[Knowledge]) -> pl.DataFrame:
    by_entity = {(knowledge.kind, knowledge.entity): knowledge for knowledge in found}
    rows = [
        {
            "kind": question.kind,
            "entity": question.entity,
            "entity_id": question.entity_id,
            "cut_time": question.cut_time,
            "key": knowledge.key,
            "prompt": question.messages[-1]["content"],
            "text": knowledge.text,
            "encoder_text": encoder_text(question, knowledge),
            "finish_reason": knowledge.finish_reason,
        }
        for question in questions
        if (knowledge := by_entity.get((question.kind, question.entity_id))) is not None
    ]
    integers = {"entity": pl.Int64, "cut_time": pl.Int64}
    return pl.DataFrame(rows, schema_overrides=integers)


def _knowledge(run: Run) -> pl.DataFrame:
    return pl.read_parquet(run.artefact("reason") / "knowledge.parquet")


def _encode(config: EncodeConfig, space: Workspace) -> Mapping[str, Any]:
    frame = _knowledge(space.run)
    encoder = load_encoder(config.encoder)
    for kind in KINDS:
        part = frame.filter(pl.col("kind") == kind)
        matrix = encoder.encode(part["encoder_text"].to_list(), batch_size=config.batch_size)
        Vectors.create(
            space.out / kind,
            part["entity_id"].to_list(),
            matrix,
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
    cuts, known = _availability(frame, split)
    events = split.tables.interactions[split.train]
    asked = {part: load_requests(run, part).frame for part in ("valid", "test")}
    found = {}
    for part, rows in {"train": events, **asked}.items():
        users, items, times = (rows[name].to_numpy() for name in ("user", "item", "time"))
        found[f"{part}_user_coverage"] = round(float((times > cuts[users]).mean()), 4)
        found[f"{part}_item_coverage"] = round(float(known[items].mean()), 4)
    return found


def _availability(frame: pl.DataFrame, split: Split) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Moment after which each user's text may be used (never: the largest integer); known items."""
    cuts = np.full(split.tables.n_users, np.iinfo(np.int64).max)
    known = np.zeros(split.tables.n_items, dtype=np.bool_)
    users = frame.filter(pl.col("kind") == "user")
    cuts[users["entity"].to_numpy()] = users["cut_time"].to_numpy()
    known[frame.filter(pl.col("kind") == "item")["entity"].to_numpy()] = True
    return cuts, known


class KnowledgeFeatures:
    """The two adapted knowledge fields, as extra input of a CTR model (§3 of the paper).

    Args:
        user_vectors: float32 [texts, d].
        item_vectors: float32 [texts, d].
        user_rows: int64 [users], row of each user's text, -1 without one.
        item_rows: int64 [items], likewise.
        user_cuts: int64 [users]; a user's text serves only targets strictly later than this.
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
        experts: KnowledgeConfig,
    ) -> None:
        self._vectors = (user_vectors, item_vectors)
        self._user_rows, self._item_rows, self._user_cuts = user_rows, item_rows, user_cuts
        self._experts = experts
        self.dim = 2 * experts.dim

    def module(self) -> nn.Module:
        """A fresh adaptor."""
        return _AdaptedKnowledge(*self._vectors, experts=self._experts)

    def columns(
        self, users: NDArray[Any], items: NDArray[Any], times: NDArray[Any]
    ) -> dict[str, NDArray[np.int64]]:
        """Rows of the usable texts, int64 [n] each; -1 where there is none yet."""
        usable = times > self._user_cuts[users]
        return {
            "user_text": np.where(usable, self._user_rows[users], -1),
            "item_text": self._item_rows[items],
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
    frame = _knowledge(run)
    cuts, _ = _availability(frame, split)
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
        user_cuts=cuts,
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
