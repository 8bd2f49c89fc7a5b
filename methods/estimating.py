"""What a job of reasoning will take, before it is begun: requests, tokens, time and money.

All questions go through the chain once without being asked, which counts the requests and their
size exactly where they do not depend on earlier answers. A few are then asked for real; their
answers are kept like all others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from tastemaker.agents.asking import Outcome, Request, Tally
from tastemaker.agents.knowledge import Knowledge, KnowledgeStore
from tastemaker.agents.limits import Price
from tastemaker.agents.questions import Question
from tastemaker.methods.asking import asker_of, chain_of
from tastemaker.methods.base import load_split
from tastemaker.methods.knowledge import STORE, blocks_of, questions_of
from tastemaker.recipe import ReasonConfig
from tastemaker.stage import Reporter, Run

__all__ = ["Estimate", "estimate"]

_BYTES_PER_TOKEN = 4.0  # English; a probe tells better


@dataclass(frozen=True)
class Estimate:
    """What a job will take.

    Attributes:
        users: Questions about users.
        items: Questions about items.
        answered: Requests whose answer, or final failure, is in the store.
        requests: Requests still to be sent, repeated ones not counted.
        prompt_tokens: Of these.
        completion_tokens: Of these; the limit where nothing was probed.
        seconds: Until the end at the probe's speed; None where nothing was probed.
        cost: In the currency of the recipe's prices; None when they are unknown.
        probed: Requests asked for the estimate.
        failed: Those of them without a usable answer.
    """

    users: int
    items: int
    answered: int
    requests: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float | None
    cost: float | None
    probed: int
    failed: int

    def lines(self) -> list[str]:
        """The estimate as people read it."""
        per = f" ({self.requests / self.seconds:.2g} requests/s)" if self.seconds else ""
        lasting = "unknown: nothing was probed" if self.seconds is None else _span(self.seconds)
        money = "unknown: set reason.price" if self.cost is None else f"{self.cost:.4f}"
        told = f"{self.probed:,} requests asked, answers kept"
        return [
            f"questions  {self.users:,} users, {self.items:,} items",
            f"requests   {self.requests:,} to send, {self.answered:,} in the store",
            f"tokens     {self.prompt_tokens:,} to read, {self.completion_tokens:,} to write",
            f"time       {lasting}{per}",
            f"cost       {money}",
            f"probe      {told}" + (f", {self.failed:,} unusable" if self.failed else ""),
        ]

    def as_json(self) -> dict[str, Any]:
        """All numbers by name."""
        return asdict(self)


class _Dry:
    """Looks requests up and counts those that would be sent."""

    def __init__(self, store: KnowledgeStore, key: Callable[[Request], str]) -> None:
        self._store, self._key = store, key
        self.tally = Tally()
        self.requests, self.bytes, self.answered = 0, 0, 0

    def ask(self, requests: Sequence[Request]) -> list[Outcome]:
        """What is known, and an empty-handed answer for everything else."""
        keys = [self._key(request) for request in requests]
        known: dict[str, Outcome] = {**self._store.get_many(keys)}
        known |= {key: one for key, one in self._store.failures(keys).items() if one.final}
        new = {key: one for key, one in zip(keys, requests, strict=True) if key not in known}
        self.answered += len(set(keys)) - len(new)
        self.requests += len(new)
        self.bytes += sum(map(_size, new.values()))
        return [
            known.get(key) or _placeholder(key, request)
            for key, request in zip(keys, requests, strict=True)
        ]


def estimate(config: ReasonConfig, run: Run, *, probe: int, report: Reporter) -> Estimate:
    """Count all questions of a recipe and ask a few.

    Args:
        config: Section `reason`.
        run: With a finished data stage.
        probe: Questions of each kind to ask; 0 asks nothing.
        report: Shows progress.

    Raises:
        UserError: the model cannot be asked.
    """
    split = load_split(run)
    asked = questions_of(config, split, run)
    with KnowledgeStore(run.folder / STORE) as store:
        asker = asker_of(config, store, seed=run.seed)
        sample: dict[str, list[Question]] = {"user": [], "item": []}
        if probe:
            chain = chain_of(config, asker, split.tables)
            few = replace(asked, users=asked.users[:probe], items=asked.items[:probe])
            for question in few.questions(split, chain, config):
                sample[question.kind].append(question)
        began = time.perf_counter()
        for questions in sample.values():
            if questions:
                chain.batch(questions)
        seconds = time.perf_counter() - began
        dry = _Dry(store, asker.key)
        with report.track("counting questions", len(asked)) as advance:
            counting = chain_of(_unchecked(config), dry, split.tables)
            for block in blocks_of(asked.questions(split, counting, config)):
                counting.batch(block)
                advance(len(block))
    return _extrapolated(config, asked.users.size, asked.items.size, dry, asker.tally, seconds)


def _unchecked(config: ReasonConfig) -> ReasonConfig:
    """The same without checks: what an answer will contradict is unknown."""
    return config.model_copy(update={"verify": "off"})


def _extrapolated(
    config: ReasonConfig, users: int, items: int, dry: _Dry, tally: Tally, seconds: float
) -> Estimate:
    probed = tally.answered + tally.failed
    prompt_tokens = round(dry.bytes / _BYTES_PER_TOKEN)
    completion_tokens = dry.requests * config.max_tokens
    lasting = None
    if probed:
        prompt_tokens = round(dry.requests * tally.prompt_tokens / probed) or prompt_tokens
        completion_tokens = round(dry.requests * tally.completion_tokens / probed)
        lasting = round(dry.requests * seconds / probed, 1)
    price = Price(config.price.prompt, config.price.completion) if config.price else None
    return Estimate(
        users=users,
        items=items,
        answered=dry.answered,
        requests=dry.requests,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        seconds=lasting,
        cost=round(price.of(prompt_tokens, completion_tokens), 6) if price else None,
        probed=probed,
        failed=tally.failed,
    )


def _placeholder(key: str, request: Request) -> Knowledge:
    return Knowledge(
        key=key,
        kind=request.kind,
        entity=request.entity,
        model="",
        params={},
        messages=request.messages,
        chain=request.chain,
        text="…",
    )


def _size(request: Request) -> int:
    return sum(len(message["content"].encode()) for message in request.messages)


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (rest, "s")]
    shown = [f"{count:,} {unit}" for count, unit in parts if count]
    return " ".join(shown[:2]) or "less than a second"
