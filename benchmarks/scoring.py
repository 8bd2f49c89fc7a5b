"""Scoring of 20 candidates per user on SmolLM2: ours against full prompts, one by one or batched.

    python benchmarks/scoring.py [--quick] [--json] [--precision float32|bfloat16]

TALLRec prompts of MovieLens users about 20 items each. All sides run in this process on the same
prompts, alternating; medians. Then what trees and half precision change: the largest difference to
one prompt at a time in float32, and both AUCs on real targets. `--quick` ends within a minute on
two cores. Ratios above 1 mean that ours is faster.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tastemaker.data.builtin.base import load_builtin
from tastemaker.data.splits import Split
from tastemaker.data.splitters import split_tables
from tastemaker.eval.metrics import auc
from tastemaker.models.adapters import with_adapter
from tastemaker.models.conversations import answer_tokens
from tastemaker.models.language import LanguageModel, best_dtype, load_language_model
from tastemaker.models.scoring import score_candidates, score_yes_no
from tastemaker.prompts.binding import Binder
from tastemaker.prompts.catalogue import Catalogue
from tastemaker.prompts.examples import Examples
from tastemaker.prompts.formats import find_format
from tastemaker.prompts.mixture import Mixture
from tastemaker.prompts.source import InstructionSource
from tastemaker.prompts.template import find_template

CANDIDATES = 20


def main() -> None:
    """Measure and print one line per comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--adapter", type=Path, help="compare scores of this tuned model instead")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_language_model("smollm2", dtype=best_dtype(device, options.precision))
    split = movielens()
    users, rounds = (1, 1) if options.quick else (4, 3)
    lines = [] if options.adapter else [*speed(model, split, users, rounds)]
    lines += agreement(split, 60 if options.quick else 400, adapter=options.adapter)
    for line in lines:
        print(json.dumps(line) if options.json else f"{line['name']}: {line['ratio']}x  {line}")


def movielens() -> Split:
    """The packaged ratings, by time."""
    tables = load_builtin("movielens-small")
    return split_tables(tables, "global_time", valid_from=0.8, test_from=0.9)


def speed(model: LanguageModel, split: Split, users: int, rounds: int) -> list[dict[str, Any]]:
    """Prompts or candidates a second, ours and theirs."""
    count = users * CANDIDATES
    note = f"SmolLM2-135M, {users} users, {CANDIDATES} candidates, {model.model.dtype}"
    prompts = shortlists(split, users)
    sides: dict[str, Callable[[], Any]] = {
        "ours": lambda: score_yes_no(model, prompts),
        "one generate per candidate": lambda: one_by_one(model, prompts),
        "batched full prompts": lambda: batched(model, prompts),
    }
    lines = compare("yes/no of 20 candidates", sides, count, rounds, note)
    asked, titles = next_items(split, users)
    sides = {
        "ours": lambda: score_candidates(model, asked, titles),
        "one full prompt per title": lambda: [
            likelihood(model, prompt, title)
            for prompt, listed in zip(asked, titles, strict=True)
            for title in listed
        ],
    }
    return lines + compare("likelihood of 20 titles", sides, count, rounds, note)


def compare(
    name: str, sides: dict[str, Callable[[], Any]], count: int, rounds: int, note: str
) -> list[dict[str, Any]]:
    """Run all sides in turn."""
    sides["ours"]()  # kernels and caches warm up outside the clock
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, run in sides.items():
            started = time.perf_counter()
            run()
            times[side].append(time.perf_counter() - started)
    rates = {side: count / statistics.median(values) for side, values in times.items()}
    ours = rates.pop("ours")
    return [
        {
            "name": f"{name} against {side}",
            "ours": round(ours, 2),
            "theirs": round(theirs, 2),
            "ratio": round(ours / theirs, 2),
            "unit": "candidates/s",
            "note": f"{note}, {rounds} round(s)",
        }
        for side, theirs in rates.items()
    ]


def agreement(split: Split, count: int, *, adapter: Path | None) -> list[dict[str, Any]]:
    """How far scores are from one full prompt at a time in float32, and what AUC makes of it."""
    rows = np.random.default_rng(1).choice(split.test, size=count, replace=False)
    labels = split.tables.interactions["label"].to_numpy()[rows]
    prompts = rendered(split, Examples.of_rows(split.tables, rows))
    plain = loaded(torch.float32, adapter)
    naive = np.array([one_by_one(plain, [prompt])[0] for prompt in prompts])
    lines = []
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        scores = score_yes_no(loaded(dtype, adapter), prompts)
        pair = [auc(values.astype(np.float64), labels) for values in (scores, naive)]
        apart = np.abs(scores - naive)
        lines.append(
            {
                "name": f"yes/no in {name} against one float32 prompt at a time",
                "ours": round(pair[0], 5),
                "theirs": round(pair[1], 5),
                "ratio": round(pair[0] / pair[1], 5),
                "unit": "AUC",
                "note": f"{count} real targets; largest difference of log-odds "
                f"{apart.max():.2g}, median {np.median(apart):.2g}",
            }
        )
    return lines


def loaded(dtype: torch.dtype, adapter: Path | None) -> LanguageModel:
    """SmolLM2, with an adapter on it if there is one."""
    model = load_language_model("smollm2", dtype=dtype)
    return with_adapter(model, adapter) if adapter else model


def rendered(split: Split, examples: Examples) -> list[Any]:
    """TALLRec prompts."""
    source = InstructionSource(
        Binder(split.histories, Catalogue(split.tables), history=10),
        examples,
        Mixture.of([find_template("tallrec/movie")]),
        "test",
    )
    return find_format("trl").arrange(source.frame())["prompt"].to_list()


def shortlists(split: Split, users: int) -> list[Any]:
    """Prompts of some test rows, each about 20 items."""
    rng = np.random.default_rng(0)
    rows = np.repeat(_with_history(split, rng, users), CANDIDATES)
    items = rng.integers(split.tables.items.height, size=len(rows))
    return rendered(split, Examples.of_rows(split.tables, rows, items=items))


def next_items(split: Split, users: int) -> tuple[list[Any], list[list[str]]]:
    """A question for the next title per user, and 20 titles each."""
    rng = np.random.default_rng(2)
    titles = list(Catalogue(split.tables).titles)
    asked, listed = [], []
    for row in _with_history(split, rng, users):
        seen = split.histories.before(np.array([row]))[0][-10:]
        shown = [titles[item] for item in split.tables.interactions["item"].to_numpy()[seen]]
        text = "A user watched: " + "; ".join(shown) + ". Name the film to watch next."
        asked.append([{"role": "user", "content": text}])
        chosen = rng.choice(len(titles), size=CANDIDATES, replace=False)
        listed.append([titles[item] for item in chosen])
    return asked, listed


def _with_history(split: Split, rng: np.random.Generator, count: int) -> Any:
    full = split.test[split.histories.counts(split.test) >= 10]
    return rng.choice(full, size=count, replace=False)


def one_by_one(model: LanguageModel, prompts: Sequence[Any]) -> list[float]:
    """What TALLRec's evaluator does, shortened to the one token it needs."""
    yes, no = answer_tokens(model.tokenizer)
    scores = []
    for messages in prompts:
        inputs = model.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(model.device)
        with torch.inference_mode():
            found = model.model.generate(
                **inputs,
                max_new_tokens=1,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
        logits = found.logits[0][0].float()
        scores.append(float(logits[yes] - logits[no]))
    return scores


def batched(model: LanguageModel, prompts: Sequence[Any], *, size: int = CANDIDATES) -> list[float]:
    """Full prompts, padded on the left, the last position's logits of each."""
    yes, no = answer_tokens(model.tokenizer)
    scores: list[float] = []
    for start in range(0, len(prompts), size):
        inputs = model.tokenizer.apply_chat_template(
            prompts[start : start + size],
            add_generation_prompt=True,
            padding=True,
            return_tensors="pt",
            return_dict=True,
        ).to(model.device)
        with torch.inference_mode():
            logits = model.model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1].float()
        scores.extend((logits[:, yes] - logits[:, no]).tolist())
    return scores


def likelihood(model: LanguageModel, prompt: Any, title: str) -> float:
    """Log-probability of one answer by a forward pass over prompt and answer."""
    tokenizer = model.tokenizer
    before = tokenizer.apply_chat_template(
        prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]
    whole = tokenizer.apply_chat_template(
        [*prompt, {"role": "assistant", "content": title}], return_tensors="pt", return_dict=True
    )["input_ids"].to(model.device)
    with torch.inference_mode():
        logits = model.model(input_ids=whole, use_cache=False).logits[0].float().log_softmax(-1)
    start = before.shape[1]
    return float(logits[start - 1 : -1].gather(-1, whole[0, start:, None]).sum())


if __name__ == "__main__":
    main()
