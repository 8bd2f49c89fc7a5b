"""From a finished run to something that talks: catalogue, recommender, knowledge, chat model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from langchain_core.language_models import BaseChatModel
from numpy.typing import NDArray

from tastemaker.agents.chat import Chat
from tastemaker.agents.chat_models import chat_model
from tastemaker.agents.dialogue.answering import Answerer, PlanFirst
from tastemaker.agents.dialogue.conversations import Conversations
from tastemaker.agents.dialogue.desk import Desk, Texts
from tastemaker.agents.dialogue.lexicon import Lexicon
from tastemaker.agents.dialogue.planning import Planner
from tastemaker.agents.dialogue.understanding import (
    Decision,
    LocalDecision,
    MessageReader,
    RemoteDecision,
)
from tastemaker.agents.dialogue.wording import PlainWording, Wording
from tastemaker.methods.base import load_split
from tastemaker.methods.cataloguing import open_catalogue
from tastemaker.methods.knowledge import knowledge_of
from tastemaker.methods.pipeline import saved_recipe
from tastemaker.methods.recommending import live_recommender
from tastemaker.models.catalogue.store import Catalogue
from tastemaker.models.live import Similarity
from tastemaker.recipe_chat import ChatConfig
from tastemaker.stage import Run

__all__ = ["CONVERSATIONS", "new_chat", "open_chat", "open_desk"]

CONVERSATIONS = "conversations.sqlite"
_OWN = ("local", "llamacpp", "scripted")  # providers whose models call no tools here
_NONE = "none"
_NEAR = 200  # items that count as near to others


def open_chat(folder: Path, *, model: str | None = None, base_url: str | None = None) -> Chat:
    """The chat of a finished run; close it, or use it as a context manager.

    Args:
        folder: Of a run with a finished `catalogue` stage; conversations are kept in it.
        model: `provider:model`; `none` for words by rule; None: what the recipe says.
        base_url: Server of that model.

    Raises:
        UserError: the run has no catalogue, or the model's name is wrong.
        MissingError: a package, a model or a key is missing.
    """
    run = Run(folder)
    run.artefact("catalogue")
    config = saved_recipe(run).chat
    if model is not None:
        config = config.model_copy(update={"model": model, "base_url": base_url})
    elif base_url is not None:
        config = config.model_copy(update={"base_url": base_url})
    desk = open_desk(run, count=config.count)
    return new_chat(desk, Conversations(folder / CONVERSATIONS), config=config)


def new_chat(desk: Desk, conversations: Conversations, *, config: ChatConfig) -> Chat:
    """A chat over a desk, with the model that the configuration names.

    Raises:
        UserError: the model's name is wrong.
        MissingError: a package, a model or a key is missing.
    """
    provider, _, name = config.model.partition(":")
    plain = config.wording == "plain"
    if config.model == _NONE:
        talker: Any = None
    elif provider == "local":
        from tastemaker.models.language import load_language_model

        talker = load_language_model(name)
    else:
        talker = chat_model(
            config.model,
            max_tokens=config.max_tokens,
            temperature=config.temperature,
            base_url=config.base_url,
            timeout=config.timeout,
        )
    wording = PlainWording() if plain else _wording(talker, desk, config)
    plan_first = PlanFirst(desk, wording)
    tools = config.tools == "always" or (config.tools == "auto" and provider not in _OWN)
    answerer: Answerer = plan_first
    if tools and isinstance(talker, BaseChatModel):
        from tastemaker.agents.tool_agent import ToolAgent

        answerer = ToolAgent(
            desk,
            talker,
            plan_first=PlanFirst(desk, PlainWording()),
            max_steps=config.max_steps,
            timeout=config.timeout,
        )
        talker = None  # the agent itself decides what the words leave open
    return Chat(
        desk,
        conversations,
        understand=_reader(desk, talker, config),
        answerer=answerer,
        model=config.model if config.model != _NONE else "tastemaker",
    )


def open_desk(run: Run, *, count: int = 5) -> Desk:
    """Catalogue, recommender, tables and knowledge of a run.

    Args:
        run: Its `catalogue` stage is finished; without a `train` stage popularity ranks.
        count: Items per answer.

    Raises:
        UserError: the run has no catalogue.
    """
    catalogue = open_catalogue(run)
    split = load_split(run)
    recommender = live_recommender(run, split, similarity=_nearness(catalogue))
    return Desk(
        catalogue=catalogue,
        recommender=recommender,
        planner=Planner(catalogue, recommender, count=count),
        tables=split.tables,
        texts=_texts(run),
    )


def _nearness(catalogue: Catalogue) -> Similarity:
    """How near items are to some others: 1 for the nearest down to 0 where none of the rest is."""

    def near(others: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.float64]:
        hits = catalogue.similar(others.tolist(), count=_NEAR)
        found = {hit.item: 1 - rank / _NEAR for rank, hit in enumerate(hits)}
        return np.array([found.get(item, 0.0) for item in items.tolist()])

    return near


def _wording(talker: Any, desk: Desk, config: ChatConfig) -> Wording:
    if talker is None:
        return PlainWording()
    if isinstance(talker, BaseChatModel):
        from tastemaker.agents.dialogue.remote_wording import RemoteWording

        return RemoteWording(talker, desk.names, name=config.model, timeout=config.timeout)
    from tastemaker.agents.dialogue.local_wording import LocalWording

    return LocalWording(talker, desk.names)


def _reader(desk: Desk, talker: Any, config: ChatConfig) -> MessageReader:
    """Reads the words, then lets the model decide what they leave open."""
    titles, lexicon = desk.catalogue.titles, Lexicon.of(desk.catalogue.facets)
    counts = np.bincount(desk.tables.happened["item"].to_numpy(), minlength=len(titles))
    decide: Decision | None = None
    if talker is None or config.understanding == "words":
        decide = None
    elif isinstance(talker, BaseChatModel):
        decide = RemoteDecision(talker, lexicon, titles)
    elif config.understanding == "model" or LocalDecision.suits(talker):
        tuned = config.understanding == "model"  # whose answer to nothing is confident, too
        decide = LocalDecision(talker, titles, calibrated=not tuned)
    return MessageReader(
        lexicon,
        desk.catalogue.mentions,
        values_of=desk.values_of,
        decide=decide,
        weight=lambda item: float(counts[item]),
    )


def _texts(run: Run) -> Texts:
    """The text about each user and item; none where nothing was reasoned."""
    if run.manifest("reason") is None:
        return Texts({}, {})
    frame = knowledge_of(run)

    def of(kind: Literal["user", "item"]) -> dict[int, str]:
        rows = frame.filter(pl.col("kind") == kind).select("entity", "text")
        return dict(rows.iter_rows())

    return Texts(of("user"), of("item"))
