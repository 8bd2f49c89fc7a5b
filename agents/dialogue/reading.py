"""What the words of a message say, by rule: the part of understanding that no model may change.

    message ─ marks ─ interpreting ─► conditions, titles, places … + questions left open

Conditions are exactly those that the words state. What words alone cannot settle is left open as a
question with a default: what a title is named for, whether other words are to be searched by, and
whether anything is asked at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tastemaker.agents.dialogue.demands import bounds_of, conditions_of
from tastemaker.agents.dialogue.findings import Findings, Named
from tastemaker.agents.dialogue.interpreting import ValuesOf, interpreted
from tastemaker.agents.dialogue.lexicon import Lexicon
from tastemaker.agents.dialogue.marks import marks_of
from tastemaker.agents.dialogue.titling import Mentions, Weight
from tastemaker.agents.dialogue.wish import Act, State, Wish

__all__ = ["Question", "Reading", "ValuesOf", "decided", "read"]

_TOPIC = 200  # characters
_MOST_UNKNOWN = 5
_MOST_COUNTED = 20
_ROLES = {"similar": "similar", "liked": "likes", "disliked": "dislikes"}


@dataclass(frozen=True)
class Question:
    """Something that the words of a message leave open.

    Attributes:
        kind: `title`: what a title is named for. `topic`: whether words are to be searched by.
            `act`: whether anything is asked.
        text: The words in question.
        options: Possible answers.
        default: The answer where nobody decides.
        items: Of a title.
    """

    kind: Literal["title", "topic", "act"]
    text: str
    options: tuple[str, ...]
    default: str
    items: tuple[int, ...] = ()


@dataclass(frozen=True)
class Reading:
    """A message read by its words.

    Attributes:
        message: As written.
        settled: What the words settle; `act` is the default one where a question asks for it.
        open: What they do not.
    """

    message: str
    settled: Wish
    open: tuple[Question, ...] = ()

    @property
    def wish(self) -> Wish:
        """With every question answered by its default."""
        return decided(self, [question.default for question in self.open])


def read(
    message: str,
    *,
    lexicon: Lexicon,
    catalogue_mentions: Mentions,
    state: State,
    values_of: ValuesOf,
    weight: Weight | None = None,
) -> Reading:
    """Read one message; never fails, whatever it holds.

    Args:
        message: As written.
        lexicon: Words of the catalogue.
        catalogue_mentions: Finds titles of the catalogue named in a text.
        state: What the conversation has come to.
        values_of: Facet values of items by their numbers.
        weight: How well known an item is: of several with one name the best known is meant; the
            first without it.
    """
    words, marks = marks_of(
        message,
        lexicon=lexicon,
        mentions=catalogue_mentions,
        shown=len(state.last),
        weight=weight,
    )
    found = interpreted(
        words, marks, message=message, lexicon=lexicon, state=state, values_of=values_of
    )
    settled = _settled(found, lexicon)
    if settled.count is None and _is_count(found.topic):  # "make that 8"
        settled = replace(settled, count=int(found.topic[0]))
        found.topic.clear()
    questions = tuple(_questions(found, settled, message))
    return Reading(message, replace(settled, act=_act(found, settled)), questions)


def decided(reading: Reading, answers: Sequence[str]) -> Wish:
    """The wish once every open question has an answer.

    Args:
        reading: With its questions.
        answers: One for each, among its options.
    """
    wish = reading.settled
    for question, answer in zip(reading.open, answers, strict=True):
        wish = _answered(wish, question, answer)
    return wish


def _answered(wish: Wish, question: Question, answer: str) -> Wish:
    if question.kind == "topic":
        return replace(wish, topic=question.text if answer == "search" else "")
    if question.kind == "act":
        return replace(wish, act="recommend" if answer == "recommend" else "small_talk")
    if answer == "seen":
        return replace(wish, mentioned=_distinct([*wish.mentioned, *question.items]))
    if answer == "about":
        mentioned = _distinct([*wish.mentioned, *question.items])
        return replace(wish, mentioned=mentioned, act=_once("about", wish))
    if answer == "like":
        likes = _distinct([*wish.likes, *question.items])
        return replace(wish, likes=likes, act=_once("like", wish))
    return replace(wish, similar=_distinct([*wish.similar, *question.items]))


def _once(act: Act, wish: Wish) -> Act:
    """An act that only holds where nothing else is asked for."""
    asks = wish.conditions or wish.topic or wish.similar or wish.steps or wish.order or wish.count
    return wish.act if asks or wish.act != "recommend" else act


def _settled(found: Findings, lexicon: Lexicon) -> Wish:
    bounds, failed = bounds_of(found.demands)
    conditions = (*conditions_of(found.demands, lexicon=lexicon), *bounds)
    items: dict[str, list[int]] = {"similar": [], "likes": [], "dislikes": [], "mentioned": []}
    for named in found.named:
        if not _is_open(named):
            items[_ROLES.get(named.role, "mentioned")] += named.items
    unknown = [one.text.strip(' "“”') for one in found.named if not one.known]
    return Wish(
        conditions=conditions,
        withdrawn=tuple(found.withdrawn),
        lifted=tuple(dict.fromkeys(found.lifted)),
        additional=found.additional,
        likes=_distinct(items["likes"]),
        dislikes=_distinct(items["dislikes"]),
        similar=_distinct(items["similar"]),
        mentioned=_distinct(items["mentioned"]),
        unknown=tuple(dict.fromkeys(unknown))[:_MOST_UNKNOWN],
        steps=tuple(found.steps),
        order=found.order,
        count=found.count,
        places=tuple(found.places),
        unchecked=tuple(dict.fromkeys([*found.unchecked, *failed])),
    )


def _questions(found: Findings, settled: Wish, message: str) -> list[Question]:
    questions = [_about_title(one, found, settled, message) for one in found.named if _is_open(one)]
    topic = " ".join(found.topic)[:_TOPIC].strip()
    if topic:
        questions.append(Question("topic", topic, ("search", "ignore"), "search"))
    signals = found.signals - {"noun"}
    nothing = not (found.named or signals or _demands(settled))
    if nothing and topic and "noun" in found.signals:
        return questions  # "films about chess": items are named in general, so items are wanted
    if nothing or (signals == {"small_talk"} and topic):
        wanted = not signals and (topic or "noun" in found.signals)
        default = "recommend" if wanted else "small_talk"
        questions.append(Question("act", message[:_TOPIC], ("recommend", "small_talk"), default))
    return questions


def _is_count(topic: Sequence[str]) -> bool:
    """Whether nothing is left of a message but a small number."""
    only = topic[0] if len(topic) == 1 else ""
    return only.isascii() and only.isdigit() and 1 <= int(only) <= _MOST_COUNTED


def _is_open(named: Named) -> bool:
    return named.known and named.role in ("", "seen") and bool(named.text)


def _about_title(named: Named, found: Findings, settled: Wish, message: str) -> Question:
    alone = not _demands(settled) and message.rstrip().endswith("?")
    default = "about" if alone else "similar"
    if "more" in found.signals and named.role == "seen":
        default = "seen"
    return Question("title", named.text, ("similar", "like", "about", "seen"), default, named.items)


def _demands(wish: Wish) -> bool:
    return bool(
        wish.conditions
        or wish.withdrawn
        or wish.lifted
        or wish.similar
        or wish.steps
        or wish.order
        or wish.count
        or wish.unknown
        or wish.unchecked
    )


def _act(found: Findings, wish: Wish) -> Act:
    """What a message is for; demands and questions about items outweigh everything but a reset."""
    signals = found.signals
    if "reset" in signals:
        return "reset"
    for act in ("why", "history"):
        if act in signals:
            return act
    if "about" in signals and wish.mentioned and not wish.conditions:
        return "about"
    if "more" in signals and not (_demands(wish) or found.topic):
        return "more"
    if _demands(wish) or found.topic or any(_is_open(one) for one in found.named):
        return "recommend"
    if wish.places and not (wish.likes or wish.dislikes):
        return "about"
    if (wish.likes or wish.dislikes) and "ask" not in signals:
        return "like" if wish.likes else "dislike"
    if wish.mentioned and "ask" not in signals:
        return "about"
    asks = signals & {"ask", "drop", "about"} or wish.likes or wish.dislikes or wish.mentioned
    return "recommend" if asks else "small_talk"


def _distinct(items: Sequence[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(items))
