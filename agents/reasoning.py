"""Reasoning chains: from a question about a user, an item or a group to one text about it.

Each chain is a LangChain runnable from `Question` to `Reasoned`. Its `batch` asks step by step for
all inputs together, so that a local model gets real batches and a remote one works concurrently;
the asker behind it keeps every answer and asks nothing twice.

* `Single`: one prompt that lists what to consider (KAR's factorisation prompting, §2).
* `Stepwise`: one question per factor, then a synthesis that sees the partial answers, for models
  that answer sub-questions but fail the compound one (KAR's "compositional gap").
* `Profile`: item profiles first, user profiles from them (RLMRec §3.2).
* `Verified`: any of them, its claims checked against the catalogue.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

from langchain_core.runnables import Runnable, RunnableConfig

from tastemaker.agents.answers import json_object
from tastemaker.agents.asking import Outcome, Request, Tally
from tastemaker.agents.knowledge import Failure, Knowledge, Message
from tastemaker.agents.questions import Question
from tastemaker.agents.verification import Facts, without
from tastemaker.errors import UserError
from tastemaker.prompts.render import plain
from tastemaker.prompts.template import Template
from tastemaker.stage import digest

__all__ = [
    "Asks",
    "Chain",
    "Profile",
    "Reasoned",
    "Single",
    "Stepwise",
    "Verified",
    "encoder_text",
    "messages_of",
]

Templates = Mapping[str, Template]  # by kind of question
ReadAnswer = Callable[[str], str]
CONTRADICTED = "contradicted"


class Asks(Protocol):
    """What answers requests: `agents.asking.Asker` or `agents.batch_api.BatchAsker`."""

    tally: Tally

    def ask(self, requests: Sequence[Request]) -> list[Outcome]:
        """One outcome per request, in their order."""


@dataclass(frozen=True)
class Reasoned:
    """What a chain made of a question.

    Attributes:
        question: The question.
        text: What was found out; empty when it failed.
        outcomes: What each request ended in, the last one giving the text.
        reason: Why there is no text; empty when there is one.
        dropped: Sentences that contradicted the catalogue and were left out.
    """

    question: Question
    text: str
    outcomes: tuple[Outcome, ...]
    reason: str = ""
    dropped: tuple[str, ...] = ()

    @property
    def last(self) -> Outcome:
        """The last request's outcome."""
        return self.outcomes[-1]


class Chain(Runnable[Question, Reasoned]):
    """Base of all chains; a subclass defines `templates`, `about` and `reason`."""

    @property
    @abstractmethod
    def templates(self) -> Sequence[Template]:
        """All templates it renders."""

    @abstractmethod
    def reason(self, questions: Sequence[Question]) -> list[Reasoned]:
        """One result per question, in their order."""

    @cached_property
    def version(self) -> str:
        """Digest of the templates: another wording is another version."""
        return digest([template.source for template in self.templates])[:12]

    @abstractmethod
    def of(self, kind: str) -> Sequence[Template]:
        """The templates that questions of a kind need values for."""

    def invoke(
        self, input: Question, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Reasoned:
        """Reason about one question."""
        return self.reason([input])[0]

    def batch(
        self,
        inputs: list[Question],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Reasoned]:
        """Reason about all questions, each step for all of them together.

        What goes wrong with single requests is in the results; what ends a job is raised.
        """
        return self.reason(inputs)


class Single(Chain):
    """One prompt per question.

    Args:
        asker: Answers.
        templates: Kind of question → template.
        keys: Keys of the JSON object that is wanted; empty for plain text.
        read: Makes the text from an answer.
    """

    def __init__(
        self,
        asker: Asks,
        templates: Templates,
        *,
        keys: Sequence[str] = (),
        read: ReadAnswer = str,
    ) -> None:
        self._asker, self._templates = asker, dict(templates)
        self._keys, self._read = tuple(keys), read

    @property
    def templates(self) -> Sequence[Template]:
        """One per kind."""
        return list(self._templates.values())

    def of(self, kind: str) -> Sequence[Template]:
        """The one of this kind."""
        return [_named(self._templates, kind)]

    def reason(self, questions: Sequence[Question]) -> list[Reasoned]:
        """Ask once about each."""
        requests = [
            _request(
                question,
                _named(self._templates, question.kind),
                version=self.version,
                keys=self._keys,
            )
            for question in questions
        ]
        outcomes = self._asker.ask(requests)
        return [
            _result(question, (outcome,), read=self._read)
            for question, outcome in zip(questions, outcomes, strict=True)
        ]


class Stepwise(Chain):
    """A sub-question per factor, then one that sees the partial answers.

    A sub-question that fails is left out of the synthesis; a question fails when all do.

    Args:
        asker: Answers.
        parts: Kind of question → template of the field `factor`.
        synthesis: Kind of question → template of the field `findings`.
    """

    def __init__(self, asker: Asks, *, parts: Templates, synthesis: Templates) -> None:
        self._asker, self._parts, self._synthesis = asker, dict(parts), dict(synthesis)

    @property
    def templates(self) -> Sequence[Template]:
        """Those of the parts, then those of the synthesis."""
        return [*self._parts.values(), *self._synthesis.values()]

    def of(self, kind: str) -> Sequence[Template]:
        """Part and synthesis of this kind."""
        return [_named(self._parts, kind), _named(self._synthesis, kind)]

    def reason(self, questions: Sequence[Question]) -> list[Reasoned]:
        """Ask all sub-questions, then all syntheses."""
        places, requests = [], []
        for place, question in enumerate(questions):
            part = _named(self._parts, question.kind)
            for factor in _listed(question, part):
                places.append((place, factor))
                requests.append(
                    _request(question, part, version=self.version, step=factor, factor=factor)
                )
        answered: list[list[tuple[str, Outcome]]] = [[] for _ in questions]
        for (place, factor), outcome in zip(places, self._asker.ask(requests), strict=True):
            answered[place].append((factor, outcome))
        return self._composed(questions, answered)

    def _composed(
        self,
        questions: Sequence[Question],
        answered: Sequence[Sequence[tuple[str, Outcome]]],
    ) -> list[Reasoned]:
        found = [
            [(name, plain(one.text)) for name, one in parts if isinstance(one, Knowledge)]
            for parts in answered
        ]
        usable = [place for place, parts in enumerate(found) if parts]
        requests = [
            _request(
                questions[place],
                _named(self._synthesis, questions[place].kind),
                version=self.version,
                step="synthesis",
                findings=found[place],
            )
            for place in usable
        ]
        last = dict(zip(usable, self._asker.ask(requests), strict=True))
        return [
            _result(
                question,
                (*(one for _, one in answered[place]), *([last[place]] if place in last else ())),
            )
            for place, question in enumerate(questions)
        ]


class Profile(Single):
    """RLMRec's profiles: those of items first; users' questions then show the items' profiles.

    The answers are JSON objects of `summarization` and `reasoning`; the text is the former, which
    is what RLMRec embeds. Ask about items before users.

    Args:
        asker: Answers.
        templates: Kind of question → template.
    """

    def __init__(self, asker: Asks, templates: Templates) -> None:
        super().__init__(asker, templates, keys=("summarization", "reasoning"), read=_summarization)
        self._profiles: dict[int, str] = {}

    def reason(self, questions: Sequence[Question]) -> list[Reasoned]:
        """Ask about items, remember their profiles, and show them to the questions about users."""
        found: dict[int, Reasoned] = {}
        for kind in ("item", "user"):
            places = [place for place, one in enumerate(questions) if one.kind == kind]
            asked = [self._profiled(questions[place]) for place in places]
            for place, one in zip(places, super().reason(asked), strict=True):
                found[place] = one
                if kind == "item" and one.text:
                    self._profiles[one.question.entity] = plain(one.text).replace('"', "'")
        return [found[place] for place in range(len(questions))]

    def _profiled(self, question: Question) -> Question:
        if question.kind != "user" or "reviewed_history" not in question.values:
            return question
        shown = [
            (title, self._profiles.get(item, description), review)
            for item, (title, description, review) in zip(
                question.items, question.values["reviewed_history"], strict=True
            )
        ]
        return replace(question, values={**question.values, "reviewed_history": shown})


class Verified(Chain):
    """Another chain whose claims about items are checked against the catalogue.

    Args:
        chain: Makes the texts.
        facts: What the catalogue says.
        correction: Template of the field `corrections` that sends contradictions back once; None
            drops the sentences at once.
        asker: Answers what is sent back.
    """

    def __init__(
        self, chain: Chain, facts: Facts, *, correction: Template | None, asker: Asks
    ) -> None:
        self._chain, self._facts = chain, facts
        self._correction, self._asker = correction, asker

    @property
    def templates(self) -> Sequence[Template]:
        """Those of the chain, and the correction's."""
        return [*self._chain.templates, *([self._correction] if self._correction else [])]

    def of(self, kind: str) -> Sequence[Template]:
        """Those of the chain."""
        return self._chain.of(kind)

    def reason(self, questions: Sequence[Question]) -> list[Reasoned]:
        """Reason, send contradictions back if asked to, and drop what is still wrong."""
        found = self._chain.reason(questions)
        if self._correction is not None:
            found = self._corrected(found, self._correction)
        return [self._checked(one) for one in found]

    def _corrected(self, found: Sequence[Reasoned], template: Template) -> list[Reasoned]:
        wrong = [
            (place, self._facts.corrections(one.text, one.question))
            for place, one in enumerate(found)
            if one.text
        ]
        wrong = [(place, corrections) for place, corrections in wrong if corrections]
        requests = [
            replace(
                _request(
                    found[place].question,
                    template,
                    version=self.version,
                    step="correction",
                    corrections=corrections,
                ),
                messages=(
                    *found[place].last.messages,
                    {"role": "assistant", "content": found[place].text},
                    *messages_of(template, {"corrections": corrections}),
                ),
            )
            for place, corrections in wrong
        ]
        again = list(found)
        for (place, _), outcome in zip(wrong, self._asker.ask(requests), strict=True):
            if isinstance(outcome, Knowledge):
                again[place] = replace(
                    found[place],
                    text=outcome.text,
                    outcomes=(*found[place].outcomes, outcome),
                )
        return again

    def _checked(self, one: Reasoned) -> Reasoned:
        contradictions = self._facts.contradictions(one.text, one.question) if one.text else ()
        if not contradictions:
            return one
        left = without(one.text, contradictions)
        return replace(
            one,
            text=left,
            reason="" if left else CONTRADICTED,
            dropped=tuple(dict.fromkeys(each.sentence for each in contradictions)),
        )


def messages_of(template: Template, values: Mapping[str, Any]) -> tuple[Message, ...]:
    """The messages of a prompt: what its system section says, if there is one, and the question.

    Args:
        template: Rendered with those of `values` that it asks for.
        values: Plain texts, lists and tuples.

    Raises:
        UserError: a field is missing.
    """
    missing = sorted(template.asked - values.keys())
    if missing:
        raise UserError(f"template '{template.name}' needs {', '.join(missing)}, not given here.")
    known = {name: values[name] for name in template.asked}
    said = [
        (role, template.render_section(section, known))
        for role, section in (("system", "system"), ("user", "prompt"))
        if section in template.sections
    ]
    return tuple({"role": role, "content": text} for role, text in said)


def encoder_text(reasoned: Reasoned, *, history: bool) -> str:
    """What a text encoder reads (KAR §2).

    Args:
        reasoned: With a text.
        history: For a user, put profile and history before the answer, as KAR does: the first line
            of the prompt up to its last semicolon. Items have the answer alone.
    """
    said = " ".join(reasoned.text.split())
    if not history or reasoned.question.kind != "user":
        return said
    asked = next(one for one in reasoned.last.messages if one["role"] == "user")
    shown, semicolon, _ = asked["content"].partition("\n")[0].rpartition(";")
    return f"{shown}. {said}" if semicolon else said


def _request(
    question: Question,
    template: Template,
    *,
    version: str,
    step: str = "",
    keys: tuple[str, ...] = (),
    **more: Any,
) -> Request:
    return Request(
        kind=question.kind,
        entity=question.entity_id,
        messages=messages_of(template, {**question.values, **more}),
        chain=template.label,
        step=step,
        version=version,
        cut_time=question.cut_time,
        keys=keys,
    )


def _result(
    question: Question, outcomes: tuple[Outcome, ...], *, read: ReadAnswer = str
) -> Reasoned:
    last = outcomes[-1]
    if isinstance(last, Failure):
        return Reasoned(question, "", outcomes, reason=last.reason)
    return Reasoned(question, read(last.text), outcomes)


def _summarization(answer: str) -> str:
    found = json_object(answer) or {}
    return str(found.get("summarization", "")).strip()


def _listed(question: Question, template: Template) -> Sequence[str]:
    factors: Sequence[str] = question.values.get("factors") or template.factors
    if not factors:
        raise UserError(
            f"template '{template.name}' asks about one factor at a time, but there are none.",
            remedy="List them as reason.factors, or let the model name some: "
            "tastemaker reason RECIPE --factors",
        )
    return factors


def _named(templates: Templates, kind: str) -> Template:
    if kind not in templates:
        raise UserError(f"this chain has no template for questions about a {kind}.")
    return templates[kind]
