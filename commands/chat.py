"""`tastemaker chat`."""

from __future__ import annotations

from pathlib import Path

import click

from tastemaker.commands._chat import chat_options


@click.command("chat")
@chat_options
@click.option("--user", help="User id as in the tables, whose history counts.")
@click.option("--once", "message", metavar="TEXT", help="Answer TEXT and end.")
@click.option("--conversation", metavar="ID", help="Go on with an earlier conversation.")
@click.option("--json", "as_json", is_flag=True, help="With --once: the answer as JSON.")
def command(
    run_folder: Path,
    model: str | None,
    base_url: str | None,
    user: str | None,
    message: str | None,
    conversation: str | None,
    as_json: bool,
) -> None:
    """Talk about what to choose next; every item named is in the catalogue.

    Commands while talking: /why 2, /like 2, /dislike 2, /more, /history, /user 15, /reset, /export,
    /help. Ctrl-C stops an answer, Ctrl-D ends.
    """
    if as_json and message is None:
        raise click.UsageError("--json goes with --once TEXT.")
    if user is not None and conversation is not None:
        raise click.UsageError("--conversation has its user already; leave --user out.")
    from tastemaker.commands._chat import answer_once, talk
    from tastemaker.methods.chatting import open_chat

    with open_chat(run_folder, model=model, base_url=base_url) as chat:
        name = conversation or chat.start(user=user)
        if message is None:
            talk(chat, name)
        else:
            answer_once(chat, name, message, as_json=as_json)
