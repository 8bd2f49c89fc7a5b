"""Understanding by a remote chat model: it answers open questions and adds what words left unread.

Where words were left over, such as those of another language, the model may state demands of its
own. They count only when the catalogue has their values and nothing that the words settle, or what
they lift, says otherwise; everything else in its answer is dropped.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tastemaker.agents.dialogue.lexicon import Lexicon, Value
from tastemaker.agents.dialogue.reading import Question, Reading, decided
from tastemaker.agents.dialogue.wish import Wish
from tastemaker.agents.dialogue.words import forms_of
from tastemaker.models.catalogue.conditions import Condition
from tastemaker.prompts.render import plain, quotable

__all__ = ["Understood", "asked_model", "facets_told", "validated"]

_MOST_DEMANDS = 8  # that a model may add
_SHOWN_VALUES = 60  # of a facet, told to a model


class TitleMeant(BaseModel):
    """What a title of the message is named for."""

    model_config = ConfigDict(extra="ignore")
    title: str = Field(description="The title exactly as in the list of open titles.")
    meant: Literal["similar", "like", "about", "seen"] = Field(
        description="similar: the answer should resemble it. like: the visitor says to like it. "
        "about: the visitor asks about it. seen: it is only said to be known."
    )


class NumberBounds(BaseModel):
    """The least and the most of a number."""

    model_config = ConfigDict(extra="ignore")
    column: str
    least: float | None = None
    most: float | None = None


class Understood(BaseModel):
    """What a visitor of a catalogue wants: task form, preference and intention."""

    model_config = ConfigDict(extra="ignore")
    form: Literal["recommend", "small_talk"] = Field(
        "recommend", description="recommend: items are asked for. small_talk: nothing is."
    )
    titles: list[TitleMeant] = Field(
        default_factory=list, description="Preference: what each open title is named for."
    )
    topic: str | None = Field(
        None,
        description="Intention: words of the message to search by that are no value of a column; "
        "an empty text when there are none.",
    )
    wanted: list[list[str]] = Field(
        default_factory=list,
        description="Intention: lists of values of the catalogue of which one must hold each.",
    )
    refused: list[str] = Field(
        default_factory=list, description="Intention: values that must not hold."
    )
    bounds: list[NumberBounds] = Field(
        default_factory=list, description="Intention: bounds of numbers."
    )


def asked_model(model: Any, messages: Sequence[tuple[str, str]], *, timeout: float) -> Understood:
    """What a LangChain chat model understands.

    Args:
        model: A `BaseChatModel` that can answer in a given structure.
        messages: (role, text) pairs.
        timeout: Seconds to wait at most.

    Raises:
        TimeoutError: no answer in time.
        Exception: whatever the model raises, or an answer that is no such object.
    """
    answers: SimpleQueue[Any] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put(model.with_structured_output(Understood).invoke(list(messages)))
        except Exception as error:
            answers.put(error)

    # Some providers hang beyond any limit of their own; nobody waits for this thread.
    threading.Thread(target=ask, daemon=True, name="understanding").start()
    try:
        found = answers.get(timeout=timeout)
    except Empty:
        raise TimeoutError(f"no answer within {timeout:g} s") from None
    if isinstance(found, Exception):
        raise found
    return found if isinstance(found, Understood) else Understood.model_validate(found)


def validated(reading: Reading, found: Understood, *, lexicon: Lexicon) -> Wish:
    """The wish with what a model understood, as far as the words leave it open."""
    answers = [_answer(question, found, reading) for question in reading.open]
    wish = decided(reading, answers)
    topic = next((one for one in reading.open if one.kind == "topic"), None)
    if topic is None:
        return wish
    if answers[reading.open.index(topic)] == "search":
        wish = replace(wish, topic=_topic(topic, found))
    added = tuple(_added(reading.settled, found, lexicon))[:_MOST_DEMANDS]
    if not added:
        return wish
    act = "recommend" if wish.act == "small_talk" else wish.act
    return replace(wish, conditions=(*wish.conditions, *added), act=act)


def facets_told(lexicon: Lexicon) -> str:
    """The columns of a catalogue and their values, a line each."""
    lines = []
    for facet in lexicon.facets.values():
        if facet.kind == "number":
            lines.append(f"{quotable(facet.name)}: numbers from {facet.low:g} to {facet.high:g}")
            continue
        shown = ", ".join(plain(value) for value in facet.values[:_SHOWN_VALUES])
        lines.append(f"{quotable(facet.name)}: {shown}")
    return "\n".join(lines)


def _answer(question: Question, found: Understood, reading: Reading) -> str:
    if question.kind == "act":
        return found.form
    if question.kind == "topic":
        ignored = found.topic is not None and not found.topic.strip()
        return "ignore" if ignored else question.default
    meant = {quotable(one.title): one.meant for one in found.titles}
    answer = meant.get(quotable(question.text), question.default)
    return answer if answer in question.options else question.default


def _topic(question: Question, found: Understood) -> str:
    """The model's words where all of them stand in the message, else what was left over."""
    said = set(forms_of(question.text))
    words = plain(found.topic or "")
    forms = forms_of(words)
    return words if forms and said.issuperset(forms) else question.text


def _added(settled: Wish, found: Understood, lexicon: Lexicon) -> Iterator[Condition]:
    wanted = {(one.column, v) for one in settled.conditions if one.operator == "any_of"
              for v in one.values}  # fmt: skip
    refused = {(one.column, v) for one in settled.conditions if one.operator == "none_of"
               for v in one.values}  # fmt: skip
    known = _known_values(lexicon)
    settled_columns = {column for column, _ in wanted} | set(settled.withdrawn)
    lifted = set(settled.lifted)
    for alternatives in found.wanted:
        pairs = [known[name] for one in alternatives if (name := plain(one).casefold()) in known]
        fitting = [pair for pair in pairs if pair not in refused | lifted]
        columns = {column for column, _ in fitting}
        if len(columns) == 1 and not columns & settled_columns and len(pairs) == len(fitting):
            values = tuple(dict.fromkeys(value for _, value in fitting))
            yield Condition(columns.pop(), "any_of", values)
            wanted |= set(fitting)
    for one in found.refused:
        pair = known.get(plain(one).casefold())
        if pair is not None and pair not in wanted | lifted | refused:
            yield Condition(pair[0], "none_of", (pair[1],))
    yield from _added_bounds(settled, found, lexicon)


def _added_bounds(settled: Wish, found: Understood, lexicon: Lexicon) -> Iterator[Condition]:
    numbers = lexicon.families.keys() - set(settled.withdrawn)
    numbers -= {one.column for one in settled.conditions} | {one.column for one in settled.steps}
    for bounds in found.bounds:
        if bounds.column not in numbers:
            continue
        low, high = bounds.least, bounds.most
        if low is not None and high is not None and low > high:
            continue
        numbers = numbers - {bounds.column}
        for operator, number in (("at_least", low), ("at_most", high)):
            if number is not None and abs(number) < 1e12:
                yield Condition(bounds.column, operator, (float(number),))  # type: ignore[arg-type]


def _known_values(lexicon: Lexicon) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for facet in lexicon.facets.values():
        for value in facet.values:
            found.setdefault(plain(value).casefold(), (facet.name, value))
    return found
