"""InstructRec's grid: which preference, intention and form of task a template puts together.

Zhang et al., 2023, arXiv 2305.07001, §3.1: an instruction is made of a preference (none, the titles
of the past, a sentence about the taste), an intention (none, vague, specific) and a form of task.
All is read from the fields that a template shows and answers with, so own templates count too.

Vague intentions come from the target's own review and specific ones from its categories: a prompt
that shows one knows something of the target, and its results must not stand beside recommendation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tastemaker.prompts.fields import field_named
from tastemaker.prompts.template import Template

__all__ = ["Aspects", "Scenario", "aspects"]

Scenario = Literal["recommendation", "product_search", "personal_search", "other"]
_TASTE, _VAGUE, _SPECIFIC = "preference", "vague_intention", "intention"


@dataclass(frozen=True)
class Aspects:
    """What an instruction is made of (InstructRec §3.1).

    Attributes:
        preference: `P1` titles of the past, `P2` a sentence about the taste, both, or `P0` none.
        intention: `I1` vague, `I2` specific, `I0` none; of those that the prompt shows.
        form: `T0` yes or no about one item, `T2` an item out of all, `T3` one of the candidates, or
            other where the answer is no item. T1, of pairs, is defined by the paper and never used.
        oracle: Whether the prompt shows an intention, made from the target.
        turned_around: Whether the answer is what other instructions show: a taste, a query, a past.
        related: Whether one side shows a query and the other side the past (templates C7, C8).
        chain_of_thought: Whether the answer states the taste and then the item (A3).
    """

    preference: Literal["P0", "P1", "P2", "P1+P2"]
    intention: Literal["I0", "I1", "I2"]
    form: Literal["T0", "T2", "T3", "other"]
    oracle: bool
    turned_around: bool
    related: bool
    chain_of_thought: bool

    @property
    def scenario(self) -> Scenario:
        """What it is used for (InstructRec §3.1): with an intention it is a kind of search.

        A taste in place of a query (B4, C1) tells nothing of the target: it is recommendation.
        """
        if self.form == "other" or self.turned_around or self.related:
            return "other"
        if not self.oracle:
            return "recommendation"
        return "product_search" if self.preference == "P0" else "personal_search"

    def __str__(self) -> str:
        return f"⟨{self.preference}, {self.intention}, {self.form}⟩"


def aspects(template: Template) -> Aspects:
    """What a template's instructions are made of, from its fields.

    >>> from tastemaker.prompts.template import find_template
    >>> str(aspects(find_template("instructrec/recommend-7")))
    '⟨P1+P2, I0, T3⟩'
    """
    shown = template.asked
    answered = template.fields("answer")
    past = any(map(_tells_the_past, shown))
    tastes = [name for name, there in (("P1", past), ("P2", _TASTE in shown)) if there]
    intention = "I2" if _SPECIFIC in shown else "I1" if _VAGUE in shown else "I0"
    query_answered = bool({_VAGUE, _SPECIFIC} & answered)
    past_answered = any(map(_tells_the_past, answered))
    names_item = template.names_item
    related = (intention != "I0" and past_answered) or (past and query_answered and names_item)
    thought = names_item and _TASTE in answered
    swapped = past_answered or query_answered or _TASTE in answered
    return Aspects(
        preference="+".join(tastes) or "P0",  # type: ignore[arg-type]
        intention=intention,  # type: ignore[arg-type]
        form=_form(template),
        oracle=intention != "I0",
        turned_around=swapped and not related and not thought,
        related=related,
        chain_of_thought=thought,
    )


def _form(template: Template) -> Literal["T0", "T2", "T3", "other"]:
    if template.answers_by_label:
        return "T0"
    if not template.names_item:
        return "other"
    return "T3" if template.offers else "T2"


def _tells_the_past(name: str) -> bool:
    """Whether a field lists events before the target, in titles or numbers."""
    field = field_named(name)
    return field.role == "past" and field.kind != "text" and name != "feedback"
