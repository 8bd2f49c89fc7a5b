"""Slash commands name places of the last answer, or are refused with what is allowed."""

import pytest

from tastemaker.agents.dialogue.commands import COMMANDS, parse_command, wish_of
from tastemaker.agents.dialogue.wish import State, Wish
from tastemaker.errors import UnknownNameError, UserError

STATE = State(last=(30, 10, 20))


def asked(text: str, state: State = STATE) -> Wish:
    command = parse_command(text)
    assert command is not None
    return wish_of(command, state)


def test_places_become_items() -> None:
    assert asked("/like 2") == Wish(act="like", places=(2,), likes=(10,))
    assert asked("  /DISLIKE 1, 3 ") == Wish(act="dislike", places=(1, 3), dislikes=(30, 20))
    assert asked("/why #3").places == (3,)
    assert asked("/why").places == (1, 2, 3)
    assert asked("/more").act == "more"
    assert asked("/reset").act == "reset"


def test_words_are_no_command() -> None:
    assert parse_command("a comedy / drama") is None
    assert parse_command("24/7") is None


def test_unknown_commands_offer_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'dislike'"):
        parse_command("/dislik 2")


@pytest.mark.parametrize(
    "text", ["/like", "/like 4", "/like 0", "/like two", "/like 1 x", "/dislike -1", "/why ²"]
)
def test_wrong_places_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="a place from 1 to 3"):
        asked(text)


def test_before_any_answer_there_is_no_place() -> None:
    with pytest.raises(UserError, match="ask for items first"):
        asked("/like 1", State())
    assert asked("/history", State()).act == "history"


def test_the_list_tells_every_command() -> None:
    assert all(told.startswith(f"/{name}") for name, told in COMMANDS.items())
