"""Messages that begin with a slash: what buttons and typists say without a model in between."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tastemaker.agents.dialogue.wish import Act, State, Wish
from tastemaker.errors import UnknownNameError, UserError

__all__ = ["COMMANDS", "Command", "parse_command", "wish_of"]

COMMANDS = {
    "why": "/why 2: what speaks for the second item",
    "like": "/like 2: you like it; counts from the next answer on",
    "dislike": "/dislike 2: you do not; likewise",
    "more": "/more: others like these",
    "history": "/history: what you chose before",
    "user": "/user 15: be this known user; /user alone: a new visitor",
    "reset": "/reset: forget what was asked for and judged",
    "export": "/export: the whole conversation as JSON",
    "help": "/help: this list",
}
_ACTS: dict[str, Act] = {
    "why": "why",
    "like": "like",
    "dislike": "dislike",
    "more": "more",
    "history": "history",
    "reset": "reset",
}
_FORM = re.compile(r"/(?P<name>[A-Za-z]+)\s*(?P<rest>.*)", re.DOTALL)


@dataclass(frozen=True)
class Command:
    """A slash command.

    Attributes:
        name: One of `COMMANDS`.
        rest: What stands behind it, stripped.
    """

    name: str
    rest: str


def parse_command(message: str) -> Command | None:
    """The command that a message is; None for ordinary words.

    Raises:
        UnknownNameError: a slash and a word that is no command.
    """
    match = _FORM.fullmatch(message.strip())
    if match is None:
        return None
    name = match["name"].lower()
    if name not in COMMANDS:
        raise UnknownNameError("command", name, COMMANDS)
    return Command(name, match["rest"].strip())


def wish_of(command: Command, state: State) -> Wish:
    """What a command about items asks for.

    Raises:
        UserError: a place that the last answer does not have.
    """
    places = _places(command, len(state.last))
    items = tuple(state.last[place - 1] for place in places)
    return Wish(
        act=_ACTS[command.name],
        places=places,
        likes=items if command.name == "like" else (),
        dislikes=items if command.name == "dislike" else (),
    )


def _places(command: Command, shown: int) -> tuple[int, ...]:
    if command.name not in ("why", "like", "dislike"):
        return ()
    words = re.split(r"[\s,;#]+", command.rest.strip(" ,;#")) if command.rest else []
    if not words and command.name == "why" and shown:
        return tuple(range(1, shown + 1))
    places = tuple(int(word) for word in words if word.isascii() and word.isdigit())
    if not places or len(places) < len(words) or not all(1 <= one <= shown for one in places):
        allowed = f"a place from 1 to {shown}" if shown else "nothing yet: ask for items first"
        raise UserError(
            f"/{command.name} {command.rest}".rstrip() + ": no such item in the last answer.",
            allowed=f"allowed: {allowed}",
        )
    return places
