"""A job of many questions at half the price: OpenAI's Batch API, answers within a day.

Called like `agents.asking.Asker`, and with the same promise: every request ends in the store as one
answer or one failure, and nothing is asked or paid for twice. In between a request belongs to a
part, a file that is planned in the ledger, uploaded, submitted as a batch and collected. Whatever
ends the process in between, the next call goes on where the parts are.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from openai.types import Batch

from tastemaker.agents.answers import Acceptance
from tastemaker.agents.asking import Outcome, Request, Tally, changes_of, told_of
from tastemaker.agents.batch_ledger import BatchLedger, Line, Part
from tastemaker.agents.batch_service import ENDPOINT, Answered, BatchService
from tastemaker.agents.knowledge import (
    Failure,
    Knowledge,
    KnowledgeStore,
    request_key,
    without_credentials,
)
from tastemaker.agents.limits import Budget, BudgetReached, Price
from tastemaker.agents.sending import Patience, tokens_at_most
from tastemaker.agents.troubles import Trouble
from tastemaker.errors import StageError, UserError
from tastemaker.stage import digest, locked

__all__ = ["BatchAsker"]

_MOST_LINES, _MOST_BYTES = 50_000, 200_000_000  # of a file, by OpenAI's terms
_OVER = ("completed", "failed", "expired", "cancelled")
_QUEUE_FULL = "token_limit_exceeded"
_BLOCK = 500  # answers a transaction
_SLOWER = 1.5
_MOST_ERRORS = 10  # of a file that the service did not accept, shown in full


class BatchAsker:
    """Answers requests from the store, and has the rest answered in batches.

    Hand over as many requests at a time as there are: each `ask` waits for its batches.

    Args:
        store: Where everything ends; its file holds the ledger too.
        model_name: `openai:…`, part of the address of an answer.
        params: Generation parameters, likewise.
        base_url: Server, likewise; None for OpenAI's own.
        acceptance: Which answers are usable.
        invalid_retries: How often an unusable answer is asked for again.
        tries: How often a request is handed over in one call of `ask` while it gets no answer at
            all: the service failed, or the day was over.
        patience: How calls to the service are repeated.
        budget: What may be spent; a part is counted at its highest possible cost before it leaves.
        price: Money per million tokens without the discount; None when unknown.
        discount: What the service takes of it.
        part_lines: Most requests of a file.
        part_bytes: Most bytes of a file.
        first_pause: Seconds between the first two looks at a batch; grows by half each time.
        longest_pause: Seconds, likewise.
        service: Calls the server; made from `base_url` when None.
        advance: Told how many requests are done, and a note, each time.
        tell: Told in a sentence what goes on when the job is interrupted.
        sleep: Waits so many seconds.
        clock: Tells when an answer was created.

    Attributes:
        tally: What has been done so far.
    """

    def __init__(
        self,
        store: KnowledgeStore,
        *,
        model_name: str,
        params: Mapping[str, Any],
        base_url: str | None = None,
        acceptance: Acceptance | None = None,
        invalid_retries: int = 2,
        tries: int = 3,
        patience: Patience | None = None,
        budget: Budget | None = None,
        price: Price | None = None,
        discount: float = 0.5,
        part_lines: int = _MOST_LINES,
        part_bytes: int = _MOST_BYTES,
        first_pause: float = 5.0,
        longest_pause: float = 300.0,
        service: BatchService | None = None,
        advance: Callable[..., None] = lambda done, note="": None,
        tell: Callable[[str], None] = lambda text: None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        provider, _, self._model = model_name.partition(":")
        if provider != "openai" or not self._model:
            raise UserError(
                f"'{model_name}' cannot be asked through the Batch API.",
                allowed="openai:MODEL, with base_url also for another server of its protocol",
                remedy="Name such a model as reason.model, or leave reason.batch_api out.",
            )
        self.store, self.model_name, self.params = store, model_name, dict(params)
        self._base_url, self._acceptance = base_url, acceptance or Acceptance()
        self._invalid_retries, self._tries = invalid_retries, tries
        self._budget, self._discount = budget or Budget(), discount
        self._price = price and Price(price.prompt * discount, price.completion * discount)
        self._part_lines, self._part_bytes = part_lines, part_bytes
        self._first_pause, self._longest_pause = first_pause, longest_pause
        self._service = service or BatchService(base_url, patience=patience, sleep=sleep)
        self.advance, self._tell, self._sleep, self._clock = advance, tell, sleep, clock
        self.tally = Tally(cost=None if price is None else 0.0)
        self._server = without_credentials(base_url) if base_url else ""
        self._scope = digest([model_name, self._server, self.params])
        self._reserved: dict[str, float] = {}
        self._tried: Counter[str] = Counter()
        self._wanted: frozenset[str] = frozenset()

    def key(self, request: Request) -> str:
        """The address of a request."""
        return request_key(self.model_name, self._base_url, self.params, request.messages)

    def ask(self, requests: Sequence[Request]) -> list[Outcome]:
        """One outcome per request, in their order; equal requests are asked once.

        Batches of an earlier run that are not collected yet are collected too, whatever they asked.

        Raises:
            UserError: the service refuses the key, the model or a file; its words are shown.
            StageError: the service cannot be used now, or the budget is used up.
            BusyError: another process hands over batches of the same store.
        """
        keys = [self.key(request) for request in requests]
        wanted = dict(zip(keys, requests, strict=True))
        lock = self.store.path.with_name(f".{self.store.path.name}.batches.lock")
        with locked(lock, remedy="Wait for it."), BatchLedger(self.store.path) as ledger:
            try:
                self._finish(wanted, ledger)
            except KeyboardInterrupt:
                raise self._interrupted(ledger) from None
            finally:
                for name in list(self._reserved):
                    self._settle(name)
                self._service.close()
        found: dict[str, Outcome] = {**self.store.get_many(wanted)}
        found |= self.store.failures(key for key in wanted if key not in found)
        return [told_of(found[key], request) for key, request in zip(keys, requests, strict=True)]

    def _finish(self, wanted: Mapping[str, Request], ledger: BatchLedger) -> None:
        """Plan, submit and collect until every request has its outcome."""
        self._wanted, self._tried = frozenset(wanted), Counter()
        self._recover(ledger)
        self.tally.known += len(wanted) - len(self._unanswered(wanted))
        room = self._count_running(ledger)
        while True:
            stop = self._plan(wanted, ledger) if room else None
            parts = ledger.open_parts(self._scope)
            needed = not self._wanted.isdisjoint(ledger.open_keys(self._scope))
            for part in parts:
                if part.state != "submitted":
                    self._submit(part, ledger)
            if parts:
                self._wait(ledger, patient=needed or not room)
            if room and not needed:
                break
            room = True
        if stop is not None:
            raise StageError(f"{stop}\n{self.tally.kept()}")

    def _recover(self, ledger: BatchLedger) -> None:
        """Find the batches of parts whose submission an earlier process did not write down."""
        lost = [part for part in ledger.open_parts(self._scope) if part.state != "submitted"]
        batches = self._service.find({part.part: part.planned for part in lost})
        for part in lost:
            if part.part in batches:
                ledger.submitted(part.part, batches[part.part])
            else:
                ledger.drop(part.part)  # its requests are planned anew, within the budget

    def _count_running(self, ledger: BatchLedger) -> bool:
        """Count what an earlier run handed over; False when it leaves no room for more."""
        for part in ledger.open_parts(self._scope):
            bodies = (json.loads(line.text)["body"] for line in ledger.lines(part.part))
            most = sum(tokens_at_most(body["messages"]) for body in bodies)
            try:
                self._reserve(part.part, most, answers=part.lines)
            except BudgetReached:
                return False
        return True

    def _unanswered(self, wanted: Iterable[str]) -> dict[str, Failure | None]:
        """The requests still to be asked, each with the failure it has until now."""
        keys = list(wanted)
        answered: set[str] = set()
        for some in _blocks(keys):
            answered.update(self.store.get_many(some))
        failures = self.store.failures(key for key in keys if key not in answered)
        return {
            key: failures.get(key)
            for key in keys
            if key not in answered and not self._given_up(failures.get(key))
        }

    def _given_up(self, failure: Failure | None) -> bool:
        return failure is not None and (failure.final or failure.attempts > self._invalid_retries)

    def _plan(self, wanted: Mapping[str, Request], ledger: BatchLedger) -> BudgetReached | None:
        """Put what can be handed over now into parts; returns why some could not."""
        waiting = ledger.open_keys(self._scope)
        left = {
            key: failure
            for key, failure in self._unanswered(wanted).items()
            if key not in waiting and self._tried[key] < self._tries
        }
        stop: BudgetReached | None = None
        lines: list[Line] = []
        size = 0
        for key, failure in left.items():
            try:
                self._reserve(key, tokens_at_most(wanted[key].messages))
            except BudgetReached as error:
                stop = error
                break
            line = self._line(key, wanted[key], failure.attempts if failure else 0)
            bytes_ = len(line.text.encode()) + 1
            if lines and (len(lines) == self._part_lines or size + bytes_ > self._part_bytes):
                self._written(lines, ledger)
                lines, size = [], 0
            lines.append(line)
            size += bytes_
        if lines:
            self._written(lines, ledger)
        return stop

    def _written(self, lines: Sequence[Line], ledger: BatchLedger) -> None:
        now = int(self._clock().timestamp())
        ledger.plan(self._scope, lines, model=self.model_name, now=now)

    def _reserve(self, name: str, prompt_tokens: int, *, answers: int = 1) -> None:
        # Cost is linear in tokens: fewer tokens are the discount, whatever price the budget has.
        given = answers * int(self.params.get("max_tokens") or 0)
        self._reserved[name] = self._budget.reserve(
            math.ceil(prompt_tokens * self._discount), math.ceil(given * self._discount)
        )

    def _settle(self, name: str, cost: float | None = None) -> None:
        self._budget.settle(self._reserved.pop(name, 0.0), cost)

    def _line(self, key: str, request: Request, attempt: int) -> Line:
        params = {**self.params, **changes_of(self.params, attempt)}
        if "max_tokens" in params:  # the name that all of OpenAI's models take
            params["max_completion_tokens"] = params.pop("max_tokens")
        body = {"model": self._model, "messages": list(request.messages), **params}
        text = json.dumps({"custom_id": key, "method": "POST", "url": ENDPOINT, "body": body})
        about = asdict(request)
        del about["messages"]
        return Line(key, attempt, text, about)

    def _submit(self, part: Part, ledger: BatchLedger) -> None:
        texts = (line.text for line in ledger.lines(part.part))
        file_id = self._service.upload(f"tastemaker-{part.part}.jsonl", texts)
        ledger.uploaded(part.part, file_id)
        batch_id = self._service.submit(file_id, part.part, planned=part.planned)
        ledger.submitted(part.part, batch_id)

    def _wait(self, ledger: BatchLedger, *, patient: bool) -> None:
        """Look at the open batches, ever more slowly, and collect each one that is over.

        Args:
            ledger: Knows them.
            patient: Go on until all are over; else look once: nobody asks for what they answer.
        """
        waiting = {part.batch_id: part for part in ledger.open_parts(self._scope)}
        pause, collected = self._first_pause, 0
        queued: UserError | None = None
        while waiting:
            states: list[str] = []
            for batch_id, part in list(waiting.items()):
                batch = self._service.look(batch_id)
                states.append(_told(batch))
                if batch is None or batch.status not in _OVER:
                    continue
                pause = self._first_pause
                del waiting[batch_id]
                if batch.status == "failed":
                    queued = self._not_accepted(batch, part, ledger)
                else:
                    self._collect(batch, part, ledger)
                    collected += 1
            if not patient:
                break
            if waiting:
                self.advance(0, f"{'; '.join(states)}, {self.tally.note()}")
                self._sleep(pause)
                pause = min(pause * _SLOWER, self._longest_pause)
        if queued is not None and not collected:
            raise queued

    def _not_accepted(self, batch: Batch, part: Part, ledger: BatchLedger) -> UserError:
        """Nothing of the batch was worked on: say why, unless others only have to end first."""
        errors = list((batch.errors.data if batch.errors else None) or [])
        shown = [
            f"  {f'line {one.line}: ' if one.line is not None else ''}{one.message} ({one.code})"
            for one in errors[:_MOST_ERRORS]
        ]
        more = len(errors) - len(shown)
        ledger.end(part.part, "failed")
        self._settle(part.part)
        full = bool(errors) and all(one.code == _QUEUE_FULL for one in errors)
        error = UserError(
            f"{self.model_name}: the service did not accept a batch of {part.lines:,} requests:\n"
            + "\n".join([*shown, *([f"  and {more:,} more"] if more > 0 else [])]),
            remedy="Ask about fewer users and items at a time, until the queue has room."
            if full
            else "Nothing of it was asked or paid for. Correct what is named, and run again.",
        )
        if not full:
            raise error
        return error

    def _collect(self, batch: Batch, part: Part, ledger: BatchLedger) -> None:
        """Store what a batch answered, even an expired or cancelled one, and close its part."""
        ended = batch.completed_at or batch.expired_at or batch.cancelled_at or batch.created_at
        seconds = max(0, ended - batch.created_at) / max(1, part.lines)
        seen: set[str] = set()
        stop: Trouble | None = None
        answers = self._service.answers(batch)
        while some := list(islice(answers, _BLOCK)):
            seen.update(one.key for one in some)
            stop = self._keep(some, part, ledger, seconds=seconds) or stop
        reason = "malformed" if batch.status == "completed" else "expired"
        late = Trouble("passing", reason, f"batch {batch.id} is {batch.status} and has no answer")
        missing = (
            Answered(line.key, "", "", 0, 0, late)
            for line in ledger.lines(part.part)
            if line.key not in seen
        )
        while some := list(islice(missing, _BLOCK)):
            self._keep(some, part, ledger, seconds=seconds)
        ledger.end(part.part, "collected")
        self._settle(part.part)
        if stop is not None:
            raise UserError(f"{self.model_name}: {stop.detail}", remedy=self.tally.kept())

    def _keep(
        self, answers: Sequence[Answered], part: Part, ledger: BatchLedger, *, seconds: float
    ) -> Trouble | None:
        """Store a block in one transaction; returns what makes the whole job hopeless, if it is."""
        known = self.store.get_many(one.key for one in answers)
        before = self.store.failures(one.key for one in answers)
        lines = ledger.lines_of(part.part, [one.key for one in answers])
        outcomes: dict[str, Outcome] = {}
        stop: Trouble | None = None
        for one in answers:
            line, failure = lines.get(one.key), before.get(one.key)
            if line is None or one.key in known or one.key in outcomes:
                continue
            if failure is not None and failure.attempts > line.attempt:
                continue  # stored already by a process that was killed while it collected
            if one.trouble is not None and one.trouble.scope == "job":
                stop = one.trouble
                continue
            outcomes[one.key] = self._outcome(one, line, failure, seconds=seconds)
        self.store.put_many(list(outcomes.values()))
        self._count(outcomes.values())
        return stop

    def _outcome(
        self, one: Answered, line: Line, before: Failure | None, *, seconds: float
    ) -> Outcome:
        shared = self._shared(one, line, before, seconds=seconds)
        if one.trouble is not None:
            passing = one.trouble.scope == "passing"
            self._tried[one.key] += 1
            reason, detail = one.trouble.reason, one.trouble.detail
            return Failure(**shared, reason=reason, detail=detail, final=not passing)
        keys = tuple(line.about["keys"])
        verdict = replace(self._acceptance, keys=keys).judge(one.text, one.finish_reason)
        if verdict.reason:
            final = line.attempt >= self._invalid_retries
            return Failure(**shared, reason=verdict.reason, detail=verdict.detail, final=final)
        return Knowledge(**shared, text=verdict.text, finish_reason=one.finish_reason)

    def _shared(
        self, one: Answered, line: Line, before: Failure | None, *, seconds: float
    ) -> dict[str, Any]:
        asked, given = one.prompt_tokens, one.completion_tokens
        cost = self._price.of(asked, given) if self._price and asked + given else None
        self._settle(one.key, cost)
        self.tally.paid(asked, given, cost)
        if before is not None:
            asked, given = asked + before.prompt_tokens, given + before.completion_tokens
            cost = before.cost if cost is None else cost + (before.cost or 0.0)
        about = {name: value for name, value in line.about.items() if name != "keys"}
        return {
            **about,
            "key": one.key,
            "model": self.model_name,
            "params": {**self.params, **({"base_url": self._server} if self._server else {})},
            "messages": json.loads(line.text)["body"]["messages"],
            "attempts": line.attempt + (one.trouble is None),
            "prompt_tokens": asked,
            "completion_tokens": given,
            "cost": cost,
            "seconds": seconds,
            "created": self._clock().isoformat(timespec="seconds"),
        }

    def _count(self, outcomes: Iterable[Outcome]) -> None:
        done = 0
        for one in outcomes:
            tried = self._tried[one.key] >= self._tries
            if isinstance(one, Knowledge) or self._given_up(one) or tried:
                self.tally.ended(one)
                done += one.key in self._wanted
        self.advance(done, self.tally.note())

    def _interrupted(self, ledger: BatchLedger) -> KeyboardInterrupt:
        running = [part for part in ledger.open_parts(self._scope) if part.state == "submitted"]
        message = "the next run of the same command goes on"
        if running:
            message = (
                f"{len(running)} batches with {sum(part.lines for part in running):,} requests go "
                "on at the provider; the next run of the same command collects them"
            )
            self._tell(message)
        return KeyboardInterrupt(message)


def _told(batch: Batch | None) -> str:
    if batch is None:
        return "no answer from the service"
    counts = batch.request_counts
    done = f" {counts.completed + counts.failed:,} of {counts.total:,}" if counts else ""
    return f"{batch.status}{done}"


def _blocks(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[start : start + _BLOCK] for start in range(0, len(keys), _BLOCK))
