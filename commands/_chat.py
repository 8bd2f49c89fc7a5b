"""A conversation on the terminal: what is typed, what is streamed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tastemaker.agents.chat import Chat

__all__ = ["answer_once", "chat_options", "plain", "shown", "talk"]

_BOLD, _NORMAL = "\x1b[1m", "\x1b[0m"
_PROMPT = "you> "
Decorated = Callable[..., Any]


def chat_options(function: Decorated) -> Decorated:
    """Add --run, --model and --base-url."""
    for option in (
        click.option("--base-url", help="Server of that model, up to /v1."),
        click.option(
            "--model", help="provider:model that talks [default: chat.model of the recipe]."
        ),
        click.option(
            "--run",
            "run_folder",
            default="runs/quickstart",
            show_default=True,
            type=click.Path(path_type=Path),
            help="Folder of a run with a catalogue.",
        ),
    ):
        function = option(function)
    return function


def answer_once(chat: Chat, conversation: str, message: str, *, as_json: bool) -> None:
    """Print one answer: streamed, or whole as JSON with its items."""
    if not as_json:
        _stream(chat, conversation, message)
        return
    from tastemaker.agents.dialogue.states import plain_card

    last = chat.answer(conversation, message, trusted=True)
    found = {
        "conversation": conversation,
        "text": last.text,
        "items": [plain_card(card) for card in last.cards],
        "state": chat.transcript(conversation)["state"],
    }
    click.echo(json.dumps(found, indent=1, ensure_ascii=False))


def talk(chat: Chat, conversation: str) -> None:
    """Read and answer until the input ends."""
    from tastemaker.errors import UserError

    if sys.stdin.isatty():
        import readline  # noqa: F401  arrow keys and earlier lines

        click.echo("Say what you are looking for; /help lists the commands, Ctrl-D ends.")
    while True:
        try:
            message = input(_PROMPT if sys.stdin.isatty() else "")
        except EOFError:
            click.echo(f"\nGo on later with: --conversation {conversation}")
            return
        if not message.strip():
            continue
        if message.strip() == "/export":
            click.echo(json.dumps(chat.transcript(conversation), indent=1, ensure_ascii=False))
            continue
        try:
            _stream(chat, conversation, message)
        except UserError as error:
            click.echo(f"{error}", err=True)
        except KeyboardInterrupt:
            click.echo("\n(stopped)")


def shown(pieces: Iterable[str], *, bold: bool) -> Iterator[str]:
    """Streamed Markdown for a terminal: `**` becomes bold or nothing, control signs vanish.

    Args:
        pieces: Text, cut anywhere.
        bold: Whether the terminal shows bold.
    """
    held, inside = "", False
    for piece in pieces:
        text = held + piece
        held = "*" if text.endswith("*") and not text.endswith("**") else ""
        *marked, last = text.removesuffix(held).split("**") if held else text.split("**")
        for part in marked:
            inside = not inside
            yield plain(part) + ((_BOLD if inside else _NORMAL) if bold else "")
        yield plain(last)
    yield plain(held) + (_NORMAL if inside and bold else "")


def plain(text: str) -> str:
    """`text` without control characters but newlines and tabs: nothing moves the cursor."""
    return "".join(sign for sign in text if sign in "\n\t" or sign.isprintable())


def _stream(chat: Chat, conversation: str, message: str) -> None:
    events = chat.reply(conversation, message, trusted=True)
    words = (event.text for event in events if event.kind == "text")
    try:
        for piece in shown(words, bold=sys.stdout.isatty()):
            click.echo(piece, nl=False)
            sys.stdout.flush()
        click.echo()
    finally:
        events.close()  # an answer that is stopped is kept as far as it came
