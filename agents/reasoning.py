"""KAR's knowledge: questions about users and items, and their answers from any chat model.

KAR (Xi et al., RecSys 2024) §2 shows the language model only the oldest part of a history and
recommends from what follows, so no target is ever inside a prompt. Each question remembers the time
of the last event it shows; its answer may be used for later targets alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from numpy.typing import ArrayLike

from tastemaker.agents.knowledge import (
    Knowledge,
    KnowledgeStore,
    Message,
    request_key,
    without_credentials,
)
from tastemaker.data.history import Histories
from tastemaker.data.tables import Tables
from tastemaker.errors import StageError, TastemakerError, UserError
from tastemaker.prompts.catalogue import Catalogue
from tastemaker.prompts.fields import FIELDS
from tastemaker.prompts.render import article_first, display_titles, plain, profiles
from tastemaker.prompts.template import Template
from tastemaker.stage import Reporter

__all__ = ["Question", "answer", "encoder_text", "item_questions", "user_questions"]

_USER_FIELDS = ("profile", "rated_history", "factors")
_ITEM_FIELDS = ("title", "factors")
_CONCURRENT = 16  # requests to a remote service at a time


@dataclass(frozen=True)
class Question:
    """What a chat model is asked about one user or item.

    Attributes:
        kind: What it is about.
        entity: Dense id.
        entity_id: External id as text.
        messages: `{"role", "content"}` each.
        cut_time: Unix second of the last event shown; the answer must serve only targets strictly
            later. None for items, whose text depends on no event.
        events: Interaction rows shown, oldest first.
        chain: Name of the template.
    """

    kind: Literal["user", "item"]
    entity: int
    entity_id: str
    messages: tuple[Message, ...]
    cut_time: int | None
    events: tuple[int, ...]
    chain: str = ""


def user_questions(
    tables: Tables,
    histories: Histories,
    *,
    template: Template,
    users: ArrayLike,
    cap: int,
    factors: Sequence[str] = (),
) -> list[Question]:
    """What each user's oldest events say about their taste.

    Of a user's n events in `histories` the oldest N = min(⌊(n + 1) / 2⌋, cap) are shown (KAR §2).
    When the cut would part events of one second, all of them are left out, so that every remaining
    event is strictly later than `cut_time`. Users who have nothing left to show get no question.
    How many events are shown depends on how many came later (which ones does not); an index of the
    training part alone avoids even that.

    Args:
        tables: Users, items and interactions.
        histories: Index over the interactions of `tables`.
        template: Of the fields `profile`, `rated_history` and `factors`.
        users: int [n], dense ids.
        cap: Most events shown; KAR: 30 (ML-1M), 15 (Amazon).
        factors: What to consider; the template's own list when empty.

    Raises:
        UserError: the template needs other fields.
    """
    known = _known_fields(template, _USER_FIELDS)
    wanted = np.asarray(users, dtype=np.int64)
    totals = histories.oldest(wanted, counts=np.full(len(wanted), len(histories))).lengths
    past = histories.oldest(wanted, counts=np.minimum((totals + 1) // 2, cap))
    titles, phrases, events = _titles(tables), profiles(tables), tables.interactions[past.events]
    shown = [titles[item] for item in events["item"]]
    stars = [f"{rating:g}" for rating in events["rating"]]
    questions = []
    for place, user in enumerate(wanted.tolist()):
        start, stop = past.offsets[place : place + 2].tolist()
        if start == stop:
            continue
        values = {
            "profile": phrases[user],
            "rated_history": list(zip(shown[start:stop], stars[start:stop], strict=True)),
            "factors": _factors(template, factors),
        }
        questions.append(
            Question(
                kind="user",
                entity=user,
                entity_id=str(tables.users["user_id"][user]),
                messages=_messages(template, values, known),
                cut_time=int(events["time"][stop - 1]),
                events=tuple(past[place].tolist()),
                chain=template.name,
            )
        )
    return questions


def item_questions(
    tables: Tables, *, template: Template, items: ArrayLike, factors: Sequence[str] = ()
) -> list[Question]:
    """What is known about each item, from its title alone.

    Args:
        tables: Gives the titles.
        template: Of the fields `title` and `factors`, and of columns of the items.
        items: int [n], dense ids.
        factors: Attributes to describe; the template's own list when empty.

    Raises:
        UserError: the template needs other fields.
    """
    columns = _item_columns(tables, template)
    known = _known_fields(template, (*_ITEM_FIELDS, *columns))
    titles = _titles(tables)
    listed = _factors(template, factors)
    return [
        Question(
            kind="item",
            entity=item,
            entity_id=str(tables.items["item_id"][item]),
            messages=_messages(
                template,
                {
                    "title": titles[item],
                    "factors": listed,
                    **{name: values[item] for name, values in columns.items()},
                },
                known,
            ),
            cut_time=None,
            events=(),
            chain=template.name,
        )
        for item in np.asarray(items, dtype=np.int64).tolist()
    ]


def answer(
    questions: Sequence[Question],
    model: BaseChatModel,
    store: KnowledgeStore,
    *,
    model_name: str,
    params: Mapping[str, Any],
    batch_size: int,
    report: Reporter,
    base_url: str | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> list[Knowledge]:
    """Answers to the questions; asks only what the store does not know yet.

    Each batch is stored as soon as it is answered, so an interrupted call goes on where it stopped.
    An empty answer is asked for once more, then left out. When requests of a batch fail, the others
    of that batch are stored first.

    Args:
        questions: In any order; equal messages are asked once.
        model: Answers them.
        store: Where answers are kept.
        model_name: `provider:model`, part of the address of an answer.
        params: Generation parameters, likewise; they must hold no keys.
        batch_size: Questions per batch.
        report: Shows progress.
        base_url: Server of the model, likewise part of the address.
        clock: Tells when an answer was created.

    Returns:
        One piece of knowledge per answered question, in the order of the questions, naming the
        question's own entity. Questions with an empty answer have none.

    Raises:
        StageError: the model failed.
    """
    keys = [request_key(model_name, base_url, params, question.messages) for question in questions]
    asked = {**params, **({"base_url": without_credentials(base_url)} if base_url else {})}
    known = store.get_many(keys)
    missing = {
        key: question for key, question in zip(keys, questions, strict=True) if key not in known
    }
    asker = _Asker(model, store, model_name=model_name, params=asked, clock=clock)
    label = f"{len(missing)} of {len(questions)} questions to answer"
    with report.track(label, len(missing)) as advance:
        empty = asker(missing, batch_size=batch_size, advance=advance)
    empty = asker(empty, batch_size=batch_size, advance=lambda _: None)
    if empty:
        report.line(f"{len(empty)} question(s) got an empty answer twice and were left out")
    known |= store.get_many(missing)
    return [
        replace(known[key], kind=question.kind, entity=question.entity_id, chain=question.chain)
        for key, question in zip(keys, questions, strict=True)
        if key in known
    ]


def encoder_text(question: Question, knowledge: Knowledge) -> str:
    """What a text encoder reads (KAR §2).

    For a user, the prompt up to its last semicolon (profile and history without the question) and
    the answer; for an item, the answer alone.
    """
    said = " ".join(knowledge.text.split())
    if question.kind == "item":
        return said
    shown, semicolon, _ = question.messages[-1]["content"].rpartition(";")
    return f"{shown}. {said}" if semicolon else said


class _Asker:
    """Asks batches and stores what comes back."""

    def __init__(
        self,
        model: BaseChatModel,
        store: KnowledgeStore,
        *,
        model_name: str,
        params: Mapping[str, Any],
        clock: Callable[[], datetime],
    ) -> None:
        self._model, self._store = model, store
        self._model_name, self._params, self._clock = model_name, params, clock

    def __call__(
        self,
        questions: Mapping[str, Question],
        *,
        batch_size: int,
        advance: Callable[[int], None],
    ) -> dict[str, Question]:
        """Returns the questions whose answer was empty."""
        # Longest first: similar lengths share a batch, and too large ones fail at once.
        order = sorted(questions, key=lambda key: -_length(questions[key]))
        empty: dict[str, Question] = {}
        for start in range(0, len(order), batch_size):
            keys = order[start : start + batch_size]
            batch = {key: questions[key] for key in keys}
            answered = self._ask(batch)
            advance(len(batch))
            empty |= {key: question for key, question in batch.items() if key not in answered}
        return empty

    def _ask(self, batch: Mapping[str, Question]) -> set[str]:
        started = time.perf_counter()
        replies = self._model.batch(
            [list(question.messages) for question in batch.values()],
            {"max_concurrency": _CONCURRENT},
            return_exceptions=True,
        )
        seconds = (time.perf_counter() - started) / len(batch)
        failed = [reply for reply in replies if isinstance(reply, Exception)]
        written = [
            self._knowledge(key, question, reply, seconds=seconds)
            for (key, question), reply in zip(batch.items(), replies, strict=True)
            if isinstance(reply, AIMessage) and reply.text.strip()
        ]
        self._store.put_many(written)
        if failed:
            raise _failure(failed[0], model_name=self._model_name, count=len(failed))
        return {one.key for one in written}

    def _knowledge(
        self, key: str, question: Question, reply: AIMessage, *, seconds: float
    ) -> Knowledge:
        usage: Mapping[str, Any] = reply.usage_metadata or {}
        about = reply.response_metadata
        return Knowledge(
            key=key,
            kind=question.kind,
            entity=question.entity_id,
            model=self._model_name,
            params=self._params,
            messages=question.messages,
            text=reply.text.strip(),
            finish_reason=str(about.get("finish_reason") or about.get("stop_reason") or ""),
            prompt_tokens=int(usage.get("input_tokens", 0)),
            completion_tokens=int(usage.get("output_tokens", 0)),
            seconds=seconds,
            created=self._clock().isoformat(timespec="seconds"),
            chain=question.chain,
        )


def _failure(error: Exception, *, model_name: str, count: int) -> TastemakerError:
    if isinstance(error, TastemakerError):
        return error
    failure = StageError(
        f"{model_name} failed on {count} question(s): {type(error).__name__}: {error}\n"
        "Answers given so far are kept; run the command again to go on."
    )
    failure.__cause__ = error
    return failure


def _item_columns(tables: Tables, template: Template) -> dict[str, list[str]]:
    """Plain texts of the columns of the items that a template shows; empty where optional."""
    catalogue, found = Catalogue(tables), {}
    for name in sorted(template.asked - FIELDS.keys()):
        texts = catalogue.text(name)
        if texts is not None and texts.place == "items":
            found[name] = texts.values.to_list()
        elif name in template.optional:
            found[name] = [""] * tables.n_items
    return found


def _known_fields(template: Template, offered: Sequence[str]) -> list[str]:
    unknown = sorted(template.asked - set(offered))
    if unknown:
        raise UserError(
            f"template '{template.name}' needs {', '.join(unknown)}, which this question has not.",
            allowed=f"fields: {', '.join(offered)}",
        )
    return [name for name in offered if name in template.asked]


def _messages(
    template: Template, values: Mapping[str, Any], known: Sequence[str]
) -> tuple[Message, ...]:
    return ({"role": "user", "content": template.render(**{name: values[name] for name in known})},)


def _titles(tables: Tables) -> list[str]:
    return [article_first(title) for title in display_titles(tables)]


def _factors(template: Template, factors: Sequence[str]) -> list[str]:
    # A semicolon would move the place where `encoder_text` cuts the question off.
    return [plain(factor).replace(";", ",") for factor in factors or template.factors]


def _length(question: Question) -> int:
    return sum(len(message["content"]) for message in question.messages)
