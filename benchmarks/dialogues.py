"""Scripted dialogues about films, every answer judged by SQL.

    python benchmarks/dialogues.py [--run FOLDER] [--encoder minilm|hashing] [--quick] [--json]
        [--count 200] [--seed 0] [--model local:smollm2] [--ways chat whole streamed]

The same dialogues are held with the chat itself, and with a server in a process of its own through
the official `openai` client, answers in one piece and streamed. For each way: the share of named
items that are in the catalogue, of recommended items that satisfy everything stated, of satisfiable
wishes that got at least three items, and of impossible ones that were said to be so, each against
what is asked of it. What was wrong goes to standard error. Without --run one is made of packaged
data; --quick holds 20 dialogues.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from chat_run import borrowed, run_of, run_options
from openai import OpenAI

from tastemaker.agents.chat import Chat
from tastemaker.data.tables import Tables
from tastemaker.methods.base import load_split
from tastemaker.methods.chatting import open_chat
from tastemaker.stage import Run
from tastemaker.testing.dialogues import film_database, scripted_dialogues
from tastemaker.testing.judging import Answered, Verdict, judged
from tastemaker.testing.server_process import free_port, running_server

WAYS = ("chat", "whole", "streamed")
NAMES = {
    "chat": "the chat itself",
    "whole": "OpenAI's client, in one piece",
    "streamed": "OpenAI's client, streamed",
}
Begin = Callable[[str | None], Callable[[str], Answered]]


def main() -> None:
    """Hold the dialogues every way and print four lines for each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    run_options(parser)
    parser.add_argument("--count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="local:smollm2")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    options = parser.parse_args()
    count = options.count or (20 if options.quick else 200)
    run = run_of(options)
    tables = load_split(Run(run)).tables
    seen = histories(tables)
    dialogues = scripted_dialogues(tables, count=count, seed=options.seed)
    for way, begin in begins(run, options.ways, options.model):
        began = time.perf_counter()
        verdict = judged(
            dialogues, film_database(tables), begin, met=lambda user: seen.get(user, set())
        )
        seconds = time.perf_counter() - began
        note = f"{count} dialogues, {verdict.turns} wishes, {options.model}, {seconds:.0f} s"
        for line in told(verdict, NAMES[way], note):
            print(json.dumps(line) if options.json else f"{line['name']}: {line['ours']}  {line}")
        for fault in verdict.faults:
            print(f"{NAMES[way]}: {fault}", file=sys.stderr)


def histories(tables: Tables) -> dict[str, set[str]]:
    """Ids of the films that each user has met, by the user's id."""
    users, items = (
        tables.users["user_id"].cast(str).to_list(),
        tables.items["item_id"].cast(str).to_list(),
    )
    found: dict[str, set[str]] = {}
    for user, item in tables.interactions.select("user", "item").iter_rows():
        found.setdefault(users[user], set()).add(items[item])
    return found


def begins(run: Path, ways: Sequence[str], model: str) -> Iterator[tuple[str, Begin]]:
    """What begins conversations, each way in turn."""
    if "chat" in ways:
        with borrowed(run) as folder, open_chat(folder, model=model) as chat:
            yield "chat", lambda user: spoken(chat, user)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    arguments = ["-m", "tastemaker.cli", "serve", "--port", str(port), "--model", model]
    arguments += ["--limit", "chat_per_minute=1000000", "--run"]
    if written_ways := [way for way in ways if way != "chat"]:
        with (
            borrowed(run) as folder,
            tempfile.TemporaryDirectory() as logs,
            running_server(
                [*arguments, str(folder)], ready=f"{url}/health", log=Path(logs) / "log", limit=120
            ),
            OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
        ):
            for way in written_ways:
                streamed = way == "streamed"
                yield way, lambda user, by=streamed: written(client, user, model, streamed=by)


def spoken(chat: Chat, user: str | None) -> Callable[[str], Answered]:
    """A conversation with the chat itself."""
    conversation = chat.start(user=user)

    def talk(message: str) -> Answered:
        last = chat.answer(conversation, message)
        return Answered(last.text, [str(card.item_id) for card in last.cards])

    return talk


def written(
    client: OpenAI, user: str | None, model: str, *, streamed: bool
) -> Callable[[str], Answered]:
    """A conversation that the client keeps, as clients of OpenAI do."""
    messages: list[Any] = []
    settings: dict[str, Any] = {"model": model} | ({} if user is None else {"user": user})

    def talk(message: str) -> Answered:
        messages.append({"role": "user", "content": message})
        found = client.chat.completions.create(messages=messages, stream=streamed, **settings)
        text, own = joined(found) if streamed else (content(found), found.tastemaker)
        messages.append({"role": "assistant", "content": text})
        return Answered(text, [item["item_id"] for item in own["items"]])

    return talk


def content(completion: Any) -> str:
    """Text of an answer in one piece."""
    return completion.choices[0].message.content or ""


def joined(chunks: Any) -> tuple[str, dict[str, Any]]:
    """Text of a streamed answer, and what the last chunk says of its items."""
    text, own = "", None
    for chunk in chunks:
        for choice in chunk.choices:
            text += choice.delta.content or ""
        own = (chunk.model_extra or {}).get("tastemaker", own)
    if own is None:
        raise ValueError("the stream has ended early")
    return text, own


def told(verdict: Verdict, name: str, note: str) -> list[dict[str, Any]]:
    """Four shares, each against what is asked of it."""
    admitted = verdict.admitted / max(verdict.unsatisfiable, 1)
    shares = (
        ("named items that exist", verdict.exist, 1.0, verdict.named),
        ("recommended items that fit", verdict.fit, 0.98, verdict.demanded),
        ("satisfiable wishes with three items", verdict.helped, 0.9, verdict.satisfiable),
        ("impossible wishes said to be so", admitted, 1.0, verdict.unsatisfiable),
    )
    return [
        {
            "name": f"{name}: {what}",
            "ours": round(share, 4),
            "theirs": target,
            "ratio": round(share / target, 4),
            "unit": "share (theirs: asked of it)",
            "note": f"of {of:,}; {note}",
        }
        for what, share, target, of in shares
        if of
    ]


if __name__ == "__main__":
    main()
