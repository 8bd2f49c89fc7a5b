"""A need as InstructRec sees it: preference, intention and task form, in sentences.

Zhang et al., 2023, arXiv 2305.07001: a preference is implied by titles (P1) or said (P2), an
intention is vague (I1) or specific (I2), and the task form says what is to be done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tastemaker.agents.dialogue.wish import Act, State, Wish
from tastemaker.models.catalogue.conditions import Condition
from tastemaker.prompts.render import quotable

__all__ = ["Need", "condition_told", "need"]

_MOST_TITLES = 5  # the newest of each kind
_FORMS: dict[Act, str] = {
    "recommend": "Recommend items that serve this need.",
    "more": "Recommend further items that serve the same need.",
    "why": "Explain why the items were recommended.",
    "like": "Take note of what the user likes.",
    "dislike": "Take note of what the user does not like.",
    "about": "Say what is known about the item.",
    "history": "Say what the user chose before.",
    "reset": "Begin anew.",
    "small_talk": "Answer politely; nothing is asked for.",
}


@dataclass(frozen=True)
class Need:
    """What a visitor needs, in sentences; empty where there is nothing to say.

    Attributes:
        preference: What their taste shows in (P1).
        intention: What is wanted now: vague (I1) from the words of a topic, specific (I2) from
            the demands.
        form: What is to be done.
    """

    preference: str
    intention: str
    form: str

    def __str__(self) -> str:
        """All of it as one instruction."""
        return " ".join(part for part in (self.preference, self.intention, self.form) if part)


def need(wish: Wish, state: State, *, titles: Sequence[str]) -> Need:
    """The need behind a wish, given what the conversation has come to.

    Args:
        wish: The message, understood.
        state: With the message already in it.
        titles: By dense number.
    """
    return Need(_preference(state, titles), _intention(state), _FORMS[wish.act])


def condition_told(condition: Condition) -> str:
    """A demand as a phrase, such as `genres: Comedy or Drama`; hostile values are made plain."""
    return quotable(str(condition))


def _preference(state: State, titles: Sequence[str]) -> str:
    said = [
        (state.likes, "liked"),
        (state.dislikes, "did not like"),
        (state.similar, "wants something similar to"),
    ]
    phrases = []
    for items, verb in said:
        named = ", ".join(f'"{quotable(titles[item])}"' for item in items[-_MOST_TITLES:])
        phrases += [f"{verb} {named}"] if named else []
    return f"The user {' and '.join(phrases)}." if phrases else ""


def _intention(state: State) -> str:
    specific = "; ".join(condition_told(one) for one in state.conditions)
    phrases = [f"something about {quotable(state.topic)}"] if state.topic else []
    phrases += [f"items with {specific}"] if specific else []
    return f"The user wants {', and '.join(phrases)}." if phrases else ""
