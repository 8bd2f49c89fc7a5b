"""Yes/No scoring of TALLRec prompts on SmolLM2: ours against one `generate` call per prompt.

    python benchmarks/scoring.py [--quick] [--json]

Both sides run in this process on the same prompts, alternating; medians. `--quick` ends within a
minute on two cores. Ratios above 1 mean that ours is faster.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from tastemaker.data.builtin.base import load_builtin
from tastemaker.data.splitters import split_tables
from tastemaker.models.language import LanguageModel, load_language_model
from tastemaker.models.scoring import answer_tokens, score_yes_no
from tastemaker.prompts.binding import Binder
from tastemaker.prompts.catalogue import Catalogue
from tastemaker.prompts.examples import Examples
from tastemaker.prompts.formats import find_format
from tastemaker.prompts.mixture import Mixture
from tastemaker.prompts.source import InstructionSource
from tastemaker.prompts.template import find_template


def main() -> None:
    """Measure and print one line per comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    count, rounds = (16, 1) if options.quick else (96, 5)
    model = load_language_model("smollm2")
    prompts = real_prompts(count)
    sides: dict[str, Callable[[], Any]] = {
        "ours": lambda: score_yes_no(model, prompts, batch_size=32),
        "one generate per prompt": lambda: one_by_one(model, prompts),
        "batched full prompts": lambda: score_yes_no(
            model, prompts, batch_size=32, share_prefix=False
        ),
    }
    sides["ours"]()  # kernels and caches warm up outside the clock
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - started)
    rates = {name: count / statistics.median(values) for name, values in times.items()}
    ours = rates.pop("ours")
    for name, theirs in rates.items():
        line = {
            "name": f"yes/no scoring against {name}",
            "ours": round(ours, 2),
            "theirs": round(theirs, 2),
            "ratio": round(ours / theirs, 2),
            "unit": "prompts/s",
            "note": f"SmolLM2-135M, {count} prompts, {model.model.dtype}, {rounds} round(s)",
        }
        print(json.dumps(line) if options.json else f"{line['name']}: {line['ratio']}x  {line}")


def real_prompts(count: int) -> list[Any]:
    """Prompts of MovieLens test rows."""
    tables = load_builtin("movielens-small")
    split = split_tables(tables, "global_time", valid_from=0.8, test_from=0.9)
    rows = np.random.default_rng(0).choice(split.test, size=count, replace=False)
    source = InstructionSource(
        Binder(split.histories, Catalogue(tables), history=10),
        Examples.of_rows(tables, rows),
        Mixture.of([find_template("tallrec/movie")]),
        "test",
    )
    return find_format("trl").arrange(source.frame())["prompt"].to_list()


def one_by_one(model: LanguageModel, prompts: Sequence[Any]) -> list[float]:
    """What TALLRec's evaluator does, shortened to the one token it needs."""
    yes, no = answer_tokens(model.tokenizer)
    scores = []
    for messages in prompts:
        inputs = model.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            found = model.model.generate(
                **inputs,
                max_new_tokens=1,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
        logits = found.logits[0][0]
        scores.append(float(logits[yes] - logits[no]))
    return scores


if __name__ == "__main__":
    main()
