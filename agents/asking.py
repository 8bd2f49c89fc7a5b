"""A job of many questions to a chat model that loses nothing and asks nothing twice.

Every request ends in the store as exactly one answer or one failure. What the store knows is not
asked; an answer is stored as soon as it arrives; an unusable one is asked for again with another
seed, then recorded as a failure with its reason. A stopped, failed or killed job goes on where it
was.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, TypeGuard

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage

from tastemaker.agents.answers import REASONS, Acceptance
from tastemaker.agents.batched_chat import BatchedChatModel
from tastemaker.agents.knowledge import (
    Failure,
    Knowledge,
    KnowledgeStore,
    Message,
    request_key,
    without_credentials,
)
from tastemaker.agents.limits import Budget, Price, Rate
from tastemaker.agents.sending import Batches, Carrier, Patience, Reply, Sender, tokens_about
from tastemaker.agents.troubles import Trouble
from tastemaker.errors import StageError, UserError

__all__ = ["Asker", "Outcome", "Request", "Tally", "changes_of", "told_of"]

Outcome = Knowledge | Failure

_RETRY_TEMPERATURE = 0.7
_OF_THE_REQUEST = ("kind", "entity", "chain", "step", "version", "cut_time")


@dataclass(frozen=True)
class Request:
    """One question to a chat model.

    Attributes:
        kind: What it is about: `user`, `item`, `user_group`, `item_group` or `scenario`.
        entity: External id as text.
        messages: `{"role", "content"}` each.
        chain: Name of the template or chain that asks.
        step: Which of the chain's questions; empty when it has one.
        version: Digest of the chain's templates.
        cut_time: Unix second of the last event shown; None when no event is.
        keys: Keys of the JSON object that is wanted; empty for plain text.
    """

    kind: str
    entity: str
    messages: tuple[Message, ...]
    chain: str
    step: str = ""
    version: str = ""
    cut_time: int | None = None
    keys: tuple[str, ...] = ()


@dataclass
class Tally:
    """What a job has done since it began.

    Attributes:
        known: Requests that the store had an answer or a final failure for.
        answered: Usable answers received.
        failed: Requests recorded as failures.
        prompt_tokens: Of all answers received, unusable ones included.
        completion_tokens: Likewise.
        cost: Likewise; None while no price is known.
        reasons: Reason of failure → how many.
    """

    known: int = 0
    answered: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    reasons: dict[str, int] = field(default_factory=dict)

    def paid(self, prompt_tokens: int, completion_tokens: int, cost: float | None) -> None:
        """Count one answer, usable or not."""
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        if cost is not None:
            self.cost = (self.cost or 0.0) + cost

    def ended(self, outcome: Outcome) -> None:
        """Count a request that nothing more is tried for."""
        if isinstance(outcome, Failure):
            self.failed += 1
            self.reasons[outcome.reason] = self.reasons.get(outcome.reason, 0) + 1
        else:
            self.answered += 1

    def kept(self) -> str:
        """What a job that ends early leaves."""
        return f"{self.answered:,} answers of this run are kept; run the command again to go on."

    def note(self) -> str:
        """Tokens, cost and failures in a few words, for a progress bar."""
        parts = [f"{self.completion_tokens:,} tokens written"]
        if self.cost is not None:
            parts.append(f"cost {self.cost:.4f}")
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        return ", ".join(parts)


class Asker:
    """Answers requests from the store, and asks the model for the rest.

    Args:
        model: Answers; a `BatchedChatModel` gets batches, any other concurrent requests. A function
            is called when the first question is to be asked.
        store: Where everything ends.
        model_name: `provider:model`, part of the address of an answer.
        params: Generation parameters, likewise; `max_tokens`, `temperature` and `seed` among them.
        base_url: Server of the model, likewise.
        acceptance: Which answers are usable.
        batch_size: Conversations a batch of a model of this process.
        concurrency: Requests at a time to a remote model.
        invalid_retries: How often an unusable answer is asked for again.
        patience: How failed requests are repeated.
        rate: Requests and tokens a minute.
        budget: What may be spent.
        price: Money per million tokens; None when unknown.
        context: Tokens that a remote model reads, prompt and answer; when None, what LangChain
            knows of it. A model of this process counts by itself.
        varied: Parameters that a repeated question may change (`seed`, `temperature`).
        advance: Told how many requests are done, and a note, each time.
        clock: Tells when an answer was created.

    Attributes:
        tally: What has been done so far.
    """

    def __init__(
        self,
        model: BaseChatModel | Callable[[], BaseChatModel],
        store: KnowledgeStore,
        *,
        model_name: str,
        params: Mapping[str, Any],
        base_url: str | None = None,
        acceptance: Acceptance | None = None,
        batch_size: int = 64,
        concurrency: int = 16,
        invalid_retries: int = 2,
        patience: Patience | None = None,
        rate: Rate | None = None,
        budget: Budget | None = None,
        price: Price | None = None,
        context: int | None = None,
        varied: Sequence[str] = ("seed", "temperature"),
        advance: Callable[..., None] = lambda done, note="": None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.store, self.model_name, self.params = store, model_name, dict(params)
        self._given, self._base_url = model, base_url
        self._acceptance = acceptance or Acceptance()
        self._batch_size, self._concurrency = batch_size, concurrency
        self._invalid_retries, self._patience = invalid_retries, patience or Patience()
        self._rate, self._budget, self._price = rate or Rate(), budget or Budget(), price
        self._context = context
        self._varied, self._clock = frozenset(varied), clock
        self.advance = advance
        self.tally = Tally(cost=None if price is None else 0.0)
        self._in_a_row, self._works = 0, False

    @cached_property
    def _model(self) -> BaseChatModel:
        return self._given if isinstance(self._given, BaseChatModel) else self._given()

    def key(self, request: Request) -> str:
        """The address of a request."""
        return request_key(self.model_name, self._base_url, self.params, request.messages)

    def ask(self, requests: Sequence[Request]) -> list[Outcome]:
        """One outcome per request, in their order; equal requests are asked once.

        Each outcome names the request's own entity, chain and cut.

        Raises:
            UserError: the model cannot be asked at all.
            StageError: the model failed for good, too often in a row, or the budget is used up;
                what was answered until then is stored.
        """
        keys = [self.key(request) for request in requests]
        wanted = dict(zip(keys, requests, strict=True))
        found: dict[str, Outcome] = {**self.store.get_many(wanted)}
        failures = self.store.failures(key for key in wanted if key not in found)
        found |= {key: one for key, one in failures.items() if self._given_up(one)}
        self.tally.known += len(found)
        before = {key: one for key, one in failures.items() if key not in found}
        self._check_room([one for key, one in wanted.items() if key not in found])
        for attempt in range(self._invalid_retries + 1):
            # Those with the fewest answers first, each round with another seed.
            now = {
                key: request
                for key, request in wanted.items()
                if key not in found and _attempts(before.get(key)) == attempt
            }
            for one in self._round(now, before, attempt).values() if now else ():
                if self._goes_on(one):
                    before[one.key] = one
                else:
                    found[one.key] = one
        return [told_of(found[key], request) for key, request in zip(keys, requests, strict=True)]

    def _check_room(self, requests: Collection[Request]) -> None:
        """Refuse prompts that are too long before the first of them is paid for."""
        if not requests or isinstance(self._model, BatchedChatModel):
            return
        profile: Mapping[str, Any] = getattr(self._model, "profile", None) or {}
        context = self._context or profile.get("max_input_tokens")
        longest = max(tokens_about(request.messages) for request in requests)
        room = int(self.params.get("max_tokens") or 0)
        if context and longest + room > context:
            raise UserError(
                f"a prompt of about {longest:,} tokens and an answer of {room:,} do not fit into "
                f"the {context:,} tokens of {self.model_name}.",
                remedy="Lower reason.history_cap or reason.max_tokens, or correct reason.context.",
            )

    def _given_up(self, failure: Failure) -> bool:
        return failure.final or failure.attempts > self._invalid_retries

    def _goes_on(self, outcome: Outcome) -> TypeGuard[Failure]:
        """Whether it is an unusable answer that another round may better."""
        return isinstance(outcome, Failure) and outcome.reason in REASONS and not outcome.final

    def _round(
        self, requests: Mapping[str, Request], before: Mapping[str, Failure], attempt: int
    ) -> dict[str, Outcome]:
        """Ask about each once, and store what comes at once."""
        keys, found = list(requests), dict[str, Outcome]()
        carrier = self._carrier([requests[key].messages for key in keys], attempt)
        stop: Trouble | None = None

        def collect() -> None:
            nonlocal stop
            while replies := carrier.arrived():
                stop = stop or self._hopeless(replies)
                outcomes = [
                    self._outcome(keys[one.place], requests[keys[one.place]], one, before, attempt)
                    for one in replies
                    if one.trouble is None or one.trouble.scope != "job"
                ]
                self.store.put_many(outcomes)
                carrier.stored(len(replies))
                found.update((one.key, one) for one in outcomes)
                self._count(replies, outcomes)
                if stop is not None:
                    carrier.stop()

        try:
            collect()
        except BaseException:
            # Ctrl-C, mostly. What is on its way has been paid for; a second Ctrl-C leaves at once.
            carrier.stop()
            collect()
            raise
        if stop is not None:
            raise self._ended(stop)
        return found

    def _hopeless(self, replies: Sequence[Reply]) -> Trouble | None:
        """What ends the job, if something does."""
        for reply in replies:
            if reply.trouble is None:
                self._in_a_row, self._works = 0, True
                continue
            self._in_a_row += reply.trouble.scope != "job"
            if reply.trouble.scope == "job" or self._in_a_row >= self._patience.in_a_row:
                return reply.trouble
        return None

    def _carrier(self, conversations: Sequence[Sequence[Message]], attempt: int) -> Carrier:
        changes = changes_of(self.params, attempt, varied=self._varied)
        if isinstance(self._model, BatchedChatModel):
            return Batches(
                self._model,
                conversations,
                batch_size=self._batch_size,
                budget=self._budget,
                changes=changes,
            )
        return Sender(
            self._model,
            conversations,
            concurrency=self._concurrency,
            patience=self._patience,
            rate=self._rate,
            budget=self._budget,
            price=self._price,
            max_tokens=int(self.params.get("max_tokens") or 0),
            changes=changes,
        )

    def _outcome(
        self,
        key: str,
        request: Request,
        reply: Reply,
        before: Mapping[str, Failure],
        attempt: int,
    ) -> Outcome:
        shared = self._shared(key, request, reply, before.get(key))
        if reply.message is None:
            trouble = reply.trouble or Trouble("request", "rejected", "no answer")
            # What a server turns down is hopeless only if it has shown that it takes others.
            final = trouble.scope == "request" and self._works
            return Failure(**shared, reason=trouble.reason, detail=trouble.detail, final=final)
        finish = _finish_reason(reply.message)
        acceptance = self._acceptance
        if request.keys:
            acceptance = replace(acceptance, keys=request.keys)
        verdict = acceptance.judge(reply.message.text, finish)
        if verdict.reason:
            final = attempt >= self._invalid_retries
            return Failure(**shared, reason=verdict.reason, detail=verdict.detail, final=final)
        return Knowledge(**shared, text=verdict.text, finish_reason=finish)

    def _shared(
        self, key: str, request: Request, reply: Reply, before: Failure | None
    ) -> dict[str, Any]:
        asked, given, cost = self._paid(reply)
        if before is not None:
            asked, given = asked + before.prompt_tokens, given + before.completion_tokens
            cost = before.cost if cost is None else cost + (before.cost or 0.0)
        server = {"base_url": without_credentials(self._base_url)} if self._base_url else {}
        return {
            "key": key,
            "kind": request.kind,
            "entity": request.entity,
            "model": self.model_name,
            "params": {**self.params, **server},
            "messages": list(request.messages),
            "chain": request.chain,
            "step": request.step,
            "version": request.version,
            "cut_time": request.cut_time,
            "attempts": _attempts(before) + (reply.message is not None),
            "prompt_tokens": asked,
            "completion_tokens": given,
            "cost": cost,
            "seconds": reply.seconds,
            "created": self._clock().isoformat(timespec="seconds"),
        }

    def _paid(self, reply: Reply) -> tuple[int, int, float | None]:
        """Tokens asked and given, and the cost where it is known."""
        usage: Any = reply.message.usage_metadata if reply.message is not None else None
        if not usage:
            return 0, 0, None
        asked, given = int(usage.get("input_tokens") or 0), int(usage.get("output_tokens") or 0)
        return asked, given, self._price.of(asked, given) if self._price else None

    def _count(self, replies: Sequence[Reply], outcomes: Sequence[Outcome]) -> None:
        for asked, given, cost in map(self._paid, replies):
            self.tally.paid(asked, given, cost)
        over = [one for one in outcomes if not self._goes_on(one)]
        for one in over:
            self.tally.ended(one)
        self.advance(len(over), self.tally.note())

    def _ended(self, trouble: Trouble) -> Exception:
        kept = self.tally.kept()
        if trouble.reason == "budget":
            return StageError(f"{trouble.detail}\n{kept}")
        if trouble.reason == "refused":
            return UserError(f"{self.model_name}: {trouble.detail}", remedy=kept)
        times = "" if trouble.scope == "job" else f" {self._in_a_row} times in a row"
        return StageError(f"{self.model_name} failed{times}.\n{trouble.detail}\n{kept}")


def _attempts(failure: Failure | None) -> int:
    """Unusable answers received so far."""
    return failure.attempts if failure is not None else 0


def told_of(outcome: Outcome, request: Request) -> Outcome:
    """The outcome as that of this request: equal questions may be about different entities."""
    about = {name: getattr(request, name) for name in _OF_THE_REQUEST}
    same = all(getattr(outcome, name) == value for name, value in about.items())
    return outcome if same else replace(outcome, **about)


def _finish_reason(message: AIMessage) -> str:
    """As the provider names it; each package has a place of its own for that."""
    if message.additional_kwargs.get("refusal"):
        return "refusal"
    about = message.response_metadata
    if incomplete := about.get("incomplete_details"):
        about = {**about, "finish_reason": dict(incomplete).get("reason")}
    names = ("finish_reason", "stop_reason", "done_reason", "stopReason")
    return next((str(about[name]) for name in names if about.get(name)), "")


def changes_of(
    params: Mapping[str, Any], attempt: int, *, varied: Collection[str] = ("seed", "temperature")
) -> dict[str, Any]:
    """What a repeated question changes: without chance the same answer would come again.

    Args:
        params: Generation parameters.
        attempt: Unusable answers so far.
        varied: Parameters that may be changed.
    """
    if not attempt:
        return {}
    changes: dict[str, Any] = {"seed": int(params.get("seed") or 0) + attempt}
    if not params.get("temperature"):
        changes["temperature"] = _RETRY_TEMPERATURE
    return {name: value for name, value in changes.items() if name in varied}
