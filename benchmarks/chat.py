"""Time to the first words of an answer in a conversation, and to its end.

    python benchmarks/chat.py [RUN] [--quick] [--json]

The words around the items of an answer are measured on the packaged ratings: SmolLM2, checked and
unchecked, against the same prompts one by one through `generate`. With the folder of a finished
run, whole answers are, too: from the message to the first words, which includes understanding,
filtering, searching and ranking. A message outside the clock warms everything up; medians, with the
worst in the note.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tastemaker.agents.dialogue.local_wording import (
    CLAUSE_TOKENS,
    LEAD_TOKENS,
    LocalWording,
    clause_prompt,
    lead_prompt,
)
from tastemaker.agents.dialogue.names import TitleNames
from tastemaker.agents.dialogue.wish import Card, State
from tastemaker.agents.dialogue.wording import WordingRequest
from tastemaker.data.builtin.base import load_builtin
from tastemaker.models.language import LanguageModel, load_language_model

MESSAGES = (
    "I'm in the mood for a comedy from the 1990s",
    "we need a film for a rainy afternoon with the kids",
    "older ones, please",
    "any good thriller or crime films after 2000?",
    "how about a romantic comedy",
    "something my grandmother would enjoy",
    "a short funny film with a twist",
    "surprise me",
    "sad film about war please",
    "what should I watch tonight?",
)
CARDS = 5
Reply = Callable[[str], Iterator[Any]]
Times = list[tuple[float, float]]


def main() -> None:
    """Measure and print one line per comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, nargs="?", help="folder of a finished run")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    messages = MESSAGES[:4] if options.quick else MESSAGES
    lines = wordings(messages)
    if options.run:
        lines += whole_answers(options.run, messages)
    for line in lines:
        print(json.dumps(line) if options.json else f"{line['name']}: {line['ours']} {line}")


def wordings(messages: Sequence[str]) -> list[dict[str, Any]]:
    """The words around the same five items, against the same prompts asked one by one."""
    tables = load_builtin("movielens-small")
    titles = tables.items["title"].to_list()
    model, names = load_language_model("smollm2"), TitleNames(titles)
    picks = np.random.default_rng(0).choice(len(titles), size=(len(messages), CARDS))
    values = tables.items.select("year", "genres").rows(named=True)
    requests = {
        message: WordingRequest(
            message,
            State(user=1),
            "recommend",
            cards=tuple(Card(item, str(item), titles[item], None, values[item]) for item in row),
        )
        for message, row in zip(messages, picks.tolist(), strict=True)
    }
    dtype = str(model.model.dtype).removeprefix("torch.")
    note = f"{len(messages)} messages, {CARDS} items, {dtype}; against one generate per prompt"
    lines = []
    for name, free in (("checked", False), ("unchecked, with clauses", True)):
        wording = LocalWording(model, names, free=free)
        ours = timed(lambda message, by=wording: by.words(requests[message]), messages)
        theirs = timed(
            lambda message, every=free: one_by_one(model, requests[message], clauses=every),
            messages,
        )
        lines += told(f"words of SmolLM2, {name}", ours, against=theirs, note=note)
    return lines


def one_by_one(model: LanguageModel, request: WordingRequest, *, clauses: bool) -> Iterator[str]:
    """The first sentence, and what is said about each item, without anything shared or kept."""
    prompts = [(lead_prompt(request), LEAD_TOKENS)]
    if clauses:
        prompts += [(clause_prompt(request, card), CLAUSE_TOKENS) for card in request.cards]
    for prompt, most in prompts:
        inputs = model.tokenizer.apply_chat_template(
            list(prompt), add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(model.device)
        with torch.inference_mode():
            tokens = model.model.generate(**inputs, max_new_tokens=most, do_sample=False)
        yield model.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :])


def whole_answers(run: Path, messages: Sequence[str]) -> list[dict[str, Any]]:
    """From the message to the first words and to the end, each in a conversation of its own."""
    from tastemaker.methods.chatting import open_chat

    with open_chat(run) as chat:

        def reply(message: str) -> Iterator[Any]:
            events = chat.reply(chat.start(user=None), message)
            return (event for event in events if event.kind == "text")

        note = f"{len(messages)} messages of new visitors, run {run.name}"
        return told("whole answers", timed(reply, messages), against=None, note=note)


def timed(reply: Reply, messages: Sequence[str]) -> Times:
    """Seconds to the first words and to the end, for each message."""
    list(reply(messages[-1]))  # kernels, caches and the kept prompt warm up outside the clock
    found = []
    for message in messages:
        started = time.perf_counter()
        words = reply(message)
        next(words)
        first = time.perf_counter() - started
        list(words)
        found.append((first, time.perf_counter() - started))
    return found


def told(name: str, times: Times, *, against: Times | None, note: str) -> list[dict[str, Any]]:
    """Two lines: the first words and the end; medians, with the worst in the note."""
    lines = []
    for place, part in enumerate(("first words", "the end")):
        ours = [pair[place] for pair in times]
        middle = statistics.median(ours)
        theirs = statistics.median(pair[place] for pair in against) if against else None
        lines.append(
            {
                "name": f"{name}: {part}",
                "ours": round(middle, 3),
                "theirs": None if theirs is None else round(theirs, 3),
                "ratio": None if theirs is None else round(theirs / middle, 2),
                "unit": "s",
                "note": f"{note}; worst {max(ours):.3f}",
            }
        )
    return lines


if __name__ == "__main__":
    main()
