"""Speed of generated knowledge: local generation, the store, and a job of a million users.

    python benchmarks/reasoning.py [--quick] [--json] [--only generation|store|million]

* KAR item prompts through the local chat model, against `pipeline("text-generation")` one by one (a
  sample of the same prompts, for each takes seconds). Both in the same precision.
* What the store costs a record, synced to disk.
* A million users through questions, chain and store with a scripted model, in a process
  of its own: rate and peak memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from transformers import pipeline

from tastemaker.agents.answers import Acceptance
from tastemaker.agents.asking import Asker
from tastemaker.agents.chat_models import SCRIPTS, ScriptedChatModel
from tastemaker.agents.knowledge import Knowledge, KnowledgeStore, request_key
from tastemaker.agents.local_chat import LocalChatModel
from tastemaker.agents.questions import Cut, item_questions, user_questions
from tastemaker.agents.reasoning import Single, messages_of
from tastemaker.data.builtin.base import load_builtin
from tastemaker.data.history import Histories
from tastemaker.data.tables import build_tables
from tastemaker.methods.knowledge import blocks_of
from tastemaker.models.language import load_language_model
from tastemaker.prompts.template import find_template
from tastemaker.testing.world import SCHEMA

PROMPTS, TOKENS = 512, 64


def main() -> None:
    """Measure and print one line per comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=["generation", "store", "million"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--users", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.users:
        print(json.dumps(job(options.users)))
        return
    lines: list[dict[str, Any]] = []
    if options.only in (None, "generation"):
        lines += generation(
            48 if options.quick else PROMPTS, 1 if options.quick else options.rounds
        )
    if options.only in (None, "store"):
        lines += store_overhead(200 if options.quick else 2000)
    if options.only in (None, "million"):
        lines += million(20_000 if options.quick else 1_000_000)
    for line in lines:
        print(json.dumps(line) if options.json else f"{line['name']}: {line['ratio']}x  {line}")


def generation(count: int, rounds: int) -> list[dict[str, Any]]:
    """Tokens a second of both, in alternating rounds."""
    tables = load_builtin("movielens-small")
    template = find_template("kar/item_movies")
    popular = np.argsort(
        -np.bincount(tables.interactions["item"].to_numpy(), minlength=tables.n_items),
        kind="stable",
    )[:count]
    questions = item_questions(tables, items=popular, templates=[template])
    prompts = [list(messages_of(template, one.values)) for one in questions]
    model = load_language_model("smollm2")
    ours = LocalChatModel(language_model=model, max_tokens=TOKENS, batch_size=128)
    theirs = pipeline("text-generation", model=model.model, tokenizer=model.tokenizer)
    sample = prompts[:: max(1, len(prompts) // (4 if rounds == 1 else 12))]
    rates: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(rounds):
        began, written = time.perf_counter(), 0
        for prompt in sample:
            (found,) = theirs(
                prompt, max_new_tokens=TOKENS, do_sample=False, return_full_text=False
            )
            written += len(model.tokenizer(found["generated_text"])["input_ids"])
        rates["theirs"].append(written / (time.perf_counter() - began))
        began = time.perf_counter()
        answers = ours.answer_many([ours._convert_input(one).to_messages() for one in prompts])
        written = sum(one.usage_metadata["output_tokens"] for one in answers)
        rates["ours"].append(written / (time.perf_counter() - began))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    return [
        {
            "name": "local generation of KAR item texts against pipeline one by one",
            "ours": round(medians["ours"], 1),
            "theirs": round(medians["theirs"], 1),
            "ratio": round(medians["ours"] / medians["theirs"], 2),
            "unit": "tokens/s",
            "note": f"SmolLM2-135M, {len(prompts)} prompts (pipeline: {len(sample)} of them), "
            f"{TOKENS} new tokens, batches of 128, {model.model.dtype}, {rounds} round(s)",
        }
    ]


def store_overhead(count: int) -> list[dict[str, Any]]:
    """Milliseconds a record to look up and to put, with every commit on disk."""
    lines = []
    for size in (1, 16, 128):
        with tempfile.TemporaryDirectory() as folder, KnowledgeStore(Path(folder) / "s") as store:
            records = [_record(number) for number in range(count)]
            began = time.perf_counter()
            for start in range(0, count, size):
                part = records[start : start + size]
                store.get_many(one.key for one in part)
                store.put_many(part)
            spent = (time.perf_counter() - began) / count * 1000
        lines.append(
            {
                "name": f"store, {size} answer(s) a commit",
                "ours": round(spent, 3),
                "theirs": 2.0,
                "ratio": round(2.0 / spent, 2),
                "unit": "ms a record (theirs: the limit set)",
                "note": f"{count} records of 2 kB, WAL, synchronous FULL",
            }
        )
    return lines


def million(users: int) -> list[dict[str, Any]]:
    """Rate and peak memory of a whole job, in a process of its own."""
    command = [sys.executable, __file__, "--users", str(users)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return [
        {
            "name": f"a job of {users:,} users with a scripted model",
            "ours": found["peak_gb"],
            "theirs": 1.5,
            "ratio": round(1.5 / found["peak_gb"], 2),
            "unit": "GB of memory (theirs: the limit set)",
            "note": f"{found['rate']:.0f} users/s, {found['seconds']:.0f} s; tables alone "
            f"{found['tables_gb']} GB; store {found['store_gb']} GB",
        }
    ]


def job(users: int) -> dict[str, Any]:
    """Ask about all users; what a stage does, without the recipe around it."""
    rng = np.random.default_rng(0)
    events = 8 * users
    frame = pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(users), 8),
            "item_id": rng.integers(2000, size=events),
            "timestamp": rng.integers(10**9, size=events),
            "rating": rng.integers(1, 6, size=events).astype(np.float32),
        }
    )
    items = pl.DataFrame({"item_id": range(2000), "title": [f"Film {n}" for n in range(2000)]})
    tables = build_tables(frame, items=items.with_columns(genres=pl.lit("Drama")), schema=SCHEMA)
    del frame
    histories = Histories.from_interactions(tables.interactions)
    template = find_template("kar/user_movies")
    tables_gb = _peak()
    with tempfile.TemporaryDirectory() as folder, KnowledgeStore(Path(folder) / "s") as store:
        asker = Asker(
            ScriptedChatModel(script=SCRIPTS["brief"]),
            store,
            model_name="scripted:brief",
            params={"max_tokens": 64},
            acceptance=Acceptance(),
            batch_size=1024,
        )
        chain = Single(asker, {"user": template})
        asked = user_questions(
            tables, histories, users=np.arange(users), cut=Cut(4), templates=[template]
        )
        began, done = time.perf_counter(), 0
        for block in blocks_of(asked):
            done += sum(bool(one.text) for one in chain.batch(block))
        seconds = time.perf_counter() - began
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    return {
        "peak_gb": _peak(),
        "tables_gb": tables_gb,
        "seconds": seconds,
        "rate": done / seconds,
        "store_gb": round(size / 1e9, 2),
    }


def _peak() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 3)


def _record(number: int) -> Knowledge:
    messages = [{"role": "user", "content": f"{number} " + "Introduce a movie. " * 60}]
    params = {"max_tokens": 64, "temperature": 0.0}
    return Knowledge(
        key=request_key("local:smollm2", None, params, messages),
        kind="item",
        entity=str(number),
        model="local:smollm2",
        params=params,
        messages=messages,
        chain="kar/item_movies",
        text="A film about a town. " * 40,
        finish_reason="stop",
    )


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
