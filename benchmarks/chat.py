"""Time to the first words of an answer in a conversation, and to its end.

    python benchmarks/chat.py [--run FOLDER] [--encoder minilm|hashing] [--quick] [--json]
        [--count 60] [--model local:smollm2] [--only words|answers]

* The words around five items, on packaged data: SmolLM2, checked and unchecked, against the same
  prompts one by one through `generate`.
* Whole answers, from the message to the first words, which includes understanding, filtering,
  searching and ranking: scripted dialogues with known users and new visitors, against the three
  seconds that first words may take. Without --run one is made of packaged data.

A message outside the clock warms everything up. Medians; of whole answers the 95th percentile, with
median and worst in the note.
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
from chat_run import borrowed, run_of, run_options

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
from tastemaker.methods.base import load_split
from tastemaker.methods.chatting import open_chat
from tastemaker.models.language import LanguageModel, load_language_model
from tastemaker.stage import Run
from tastemaker.testing.dialogues import scripted_dialogues

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
FIRST_WORDS = 3.0  # seconds
Reply = Callable[[str], Iterator[str]]
Times = list[tuple[float, float]]


def main() -> None:
    """Measure and print one line per comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    run_options(parser)
    parser.add_argument("--count", type=int, help="messages of whole answers, at least")
    parser.add_argument("--model", default="local:smollm2")
    parser.add_argument("--only", choices=["words", "answers"])
    options = parser.parse_args()
    lines: list[dict[str, Any]] = []
    if options.only != "answers":
        lines += wordings(MESSAGES[:2] if options.quick else MESSAGES)
    if options.only != "words":
        count = options.count or (20 if options.quick else 60)
        with borrowed(run_of(options)) as run:
            lines += whole_answers(run, count, model=options.model)
    for line in lines:
        print(json.dumps(line) if options.json else f"{line['name']}: {line['ours']} s  {line}")


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


def whole_answers(run: Path, count: int, *, model: str) -> list[dict[str, Any]]:
    """From the message to the first words and to the end, dialogue by dialogue."""
    dialogues = scripted_dialogues(load_split(Run(run)).tables, count=count, seed=1)
    times: Times = []
    with open_chat(run, model=model) as chat:
        list(chat.reply(chat.start(), MESSAGES[0]))  # kernels, caches and the kept prompt warm up
        for dialogue in dialogues:
            conversation = chat.start(user=dialogue.user)
            for turn in dialogue.turns:
                spent = timed_once(texts(chat.reply(conversation, turn.message)))
                if not turn.message.startswith("/"):  # buttons: nothing to understand
                    times.append(spent)
            if len(times) >= count:
                break
    lines = []
    for place, part in enumerate(("first words", "the end")):
        found = np.array([pair[place] for pair in times])
        middle, late = np.percentile(found, [50, 95])
        lines.append(
            {
                "name": f"whole answers: {part}, 95th percentile",
                "ours": round(float(late), 3),
                "theirs": FIRST_WORDS,
                "ratio": round(FIRST_WORDS / float(late), 2),
                "unit": "s (theirs: allowed for the first words)",
                "note": f"{len(times)} messages, {model}; median {middle:.3f}, "
                f"worst {found.max():.3f}",
            }
        )
    return lines


def texts(events: Iterator[Any]) -> Iterator[str]:
    """The words among the events of an answer."""
    return (event.text for event in events if event.kind == "text")


def timed_once(words: Iterator[str]) -> tuple[float, float]:
    """Seconds to the first words and to the end."""
    started = time.perf_counter()
    next(words)
    first = time.perf_counter() - started
    list(words)
    return first, time.perf_counter() - started


def timed(reply: Reply, messages: Sequence[str]) -> Times:
    """Seconds to the first words and to the end, for each message."""
    list(reply(messages[-1]))  # kernels, caches and the kept prompt warm up outside the clock
    return [timed_once(reply(message)) for message in messages]


def told(name: str, times: Times, *, against: Times, note: str) -> list[dict[str, Any]]:
    """Two lines: the first words and the end; medians, with the worst in the note."""
    lines = []
    for place, part in enumerate(("first words", "the end")):
        ours = [pair[place] for pair in times]
        middle = statistics.median(ours)
        theirs = statistics.median(pair[place] for pair in against)
        lines.append(
            {
                "name": f"{name}: {part}",
                "ours": round(middle, 3),
                "theirs": round(theirs, 3),
                "ratio": round(theirs / middle, 2),
                "unit": "s",
                "note": f"{note}; worst {max(ours):.3f}",
            }
        )
    return lines


if __name__ == "__main__":
    main()
