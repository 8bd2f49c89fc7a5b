"""LoRA steps on SmolLM2: ours against TRL's `SFTTrainer` as it comes, and streams of targets.

    python benchmarks/tuning.py [--quick] [--json] [--worker NAME]

First the same 10-item TALLRec prompts, the same batches, the same first adapter and no dropout: TRL
with its default settings and ours, in turn; tokens a second by the median step, and how far the two
loss curves are apart. Then targets a second when targets of one user share a forward pass, against
one prompt each. Ratios above 1 mean that ours is faster. `--quick` ends within a minute on two
cores, without TRL's side being run to the end of a curve.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from tastemaker.data.builtin.base import load_builtin
from tastemaker.data.splits import Split
from tastemaker.data.splitters import split_tables
from tastemaker.models.language import (
    language_model_folder,
    load_language_model,
)
from tastemaker.prompts.binding import Binder
from tastemaker.prompts.catalogue import Catalogue
from tastemaker.prompts.examples import Examples
from tastemaker.prompts.formats import find_format
from tastemaker.prompts.mixture import Mixture
from tastemaker.prompts.source import InstructionSource
from tastemaker.prompts.template import find_template
from tastemaker.tuning import causal, running
from tastemaker.tuning.answer_head import AnswerHead
from tastemaker.tuning.examples import encode_examples
from tastemaker.tuning.rows import AnswerCollator, rows_of
from tastemaker.tuning.settings import AdapterShape, TuneSettings
from tastemaker.tuning.weights import trainable

BATCH = 8
HISTORY = ANCHOR = 20
RATE = 1e-3
SHAPE = AdapterShape(8, 16, 0.0, ("q_proj", "v_proj"))


@dataclass
class Clock(TrainerCallback):
    """Seconds and loss of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._started = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self._started)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def main() -> None:
    """Measure and print one line per comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    split = movielens()
    rounds, steps = (1, 1) if options.quick else (options.rounds, options.steps)
    with tempfile.TemporaryDirectory() as folder:
        lines = against_trl(split, Path(folder), rounds=rounds, steps=steps)
    lines += streams(split, rounds=rounds, users=4 if options.quick else 12)
    for line in lines:
        print(json.dumps(line) if options.json else f"{line['name']}: {line['ratio']}x  {line}")


def movielens() -> Split:
    """The packaged ratings, by time."""
    tables = load_builtin("movielens-small")
    return split_tables(tables, "global_time", valid_from=0.8, test_from=0.9)


def instructions(
    split: Split, rows: Any, template: str, *, history: int, anchor: int | None = None
) -> Dataset:
    """Answered prompts of some interactions."""
    source = InstructionSource(
        Binder(split.histories, Catalogue(split.tables), history=history, anchor=anchor),
        Examples.of_rows(split.tables, rows),
        Mixture.of([find_template(template)]),
        "train",
    )
    frame = find_format("trl").arrange(source.frame())
    return Dataset.from_polars(frame.select("prompt", "completion"))


def against_trl(split: Split, folder: Path, *, rounds: int, steps: int) -> list[dict[str, Any]]:
    """Tokens a second, and how far the loss curves are apart."""
    full = split.train[split.histories.counts(split.train) >= 10]
    rows = np.random.default_rng(0).choice(full, size=BATCH * steps, replace=False)
    data = instructions(split, rows, "tallrec/movie", history=10)
    base = load_language_model("smollm2")
    tokens = encode_examples(
        data, "train", tokenizer=base.tokenizer, limit=2048, context=None
    ).lengths.sum()
    first = trainable(
        load_language_model("smollm2", dtype=torch.float32),
        kind="lora",
        shape=SHAPE,
        adapter=None,
        seed=0,
    )
    first.save_pretrained(folder / "first")
    sides: dict[str, Callable[[], Clock]] = {
        "theirs": partial(run_trl, data, folder),
        "ours": partial(run_ours, data, folder),
    }
    clocks: dict[str, list[Clock]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            clocks[name].append(run())
    speed = {
        name: float(tokens)
        / steps
        / statistics.median(second for clock in found for second in clock.seconds)
        for name, found in clocks.items()
    }
    pairs, apart = curves(clocks["ours"][0], clocks["theirs"][0])
    exact = run_ours(data, folder, dtype=torch.float32), run_trl(data, folder, bf16=False)
    same, exactly = curves(*exact)
    noise = [curves(clocks[name][0], exact[1])[1] for name in ("ours", "theirs")]
    seconds = [statistics.median(clock.seconds) for clock in exact]
    rates = [float(tokens) / steps / second for second in seconds]
    return [
        {
            "name": "the same in float32 on both sides",
            "ours": round(rates[0], 1),
            "theirs": round(rates[1], 1),
            "ratio": round(rates[0] / rates[1], 2),
            "unit": "tokens/s",
            "note": f"losses {same[0][1]:.3f} → {same[-1][1]:.3f}, largest difference of a step "
            f"{exactly:.4%}; one round",
        },
        {
            "name": "LoRA steps against TRL's SFTTrainer with default settings",
            "ours": round(speed["ours"], 1),
            "theirs": round(speed["theirs"], 1),
            "ratio": round(speed["ours"] / speed["theirs"], 2),
            "unit": "tokens/s",
            "note": f"SmolLM2-135M, batch {BATCH}, {tokens / len(data):.0f} tokens a prompt, "
            f"{steps} steps, {rounds} round(s), ours {base.model.dtype}; losses "
            f"{pairs[0][1]:.3f} → {pairs[-1][1]:.3f}, largest difference of a step {apart:.2%}; "
            f"from TRL in float32: ours {noise[0]:.2%}, theirs {noise[1]:.2%}",
        },
    ]


def curves(ours: Clock, theirs: Clock) -> tuple[list[tuple[float, float]], float]:
    """Both losses of each step, and the largest relative difference."""
    pairs = list(zip(ours.losses, theirs.losses, strict=True))
    return pairs, max(abs(one - other) / other for one, other in pairs)


def run_trl(data: Dataset, folder: Path, *, bf16: bool | None = None) -> Clock:
    """TRL with the settings it has when nothing is set, on the same first adapter."""
    clock = Clock()
    trainer = SFTTrainer(
        model=str(language_model_folder("smollm2")),
        args=SFTConfig(
            output_dir=str(folder / "trl"),
            per_device_train_batch_size=BATCH,
            learning_rate=RATE,
            num_train_epochs=1,
            bf16=bf16,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=not torch.cuda.is_available(),  # or it refuses to start on a CPU
            disable_tqdm=True,
            seed=0,
        ),
        train_dataset=data,
        peft_config=LoraConfig(
            r=SHAPE.rank,
            lora_alpha=SHAPE.alpha,
            lora_dropout=SHAPE.dropout,
            target_modules=list(SHAPE.target_modules),
            task_type="CAUSAL_LM",
        ),
        callbacks=[clock],
    )
    from peft.utils import load_peft_weights, set_peft_model_state_dict

    set_peft_model_state_dict(trainer.model, load_peft_weights(str(folder / "first")))
    trainer.train()
    return clock


def run_ours(data: Dataset, folder: Path, *, dtype: torch.dtype | None = None) -> Clock:
    """The trainer of `tastemaker tune`, without its checks on validation examples."""
    clock = Clock()
    base = load_language_model("smollm2", dtype=dtype)
    settings = TuneSettings(
        kind="lora",
        lora=SHAPE,
        learning_rate=RATE,
        warmup_steps=0,
        epochs=1,
        batch_size=BATCH,
        micro_batch=None,
        max_length=2048,
        loss_on="answer",
        rows="single",
        row_tokens=1024,
        group_by_length=False,
        gradient_checkpointing=None,
        evaluate_every=None,
        patience=None,
        metric="loss",
        tracker="none",
    )
    parts = causal.encode(base, data, data, settings, seed=0)
    model = trainable(base, kind="lora", shape=SHAPE, adapter=folder / "first", seed=0)
    with causal.prepared(model) as ready:
        cut = running.cut_steps(model, parts, settings)
        args = running.arguments(
            base,
            parts,
            settings,
            cut=cut,
            metric="loss",
            mixed=ready.mixed,
            out=folder / "ours",
            seed=0,
        )
        args |= {"save_strategy": "no", "eval_strategy": "no", "load_best_model_at_end": False}
        trainer = causal.trainer(base, model, parts, settings, args=args, ready=ready, choices=None)
        trainer.add_callback(clock)
        trainer.train()
    return clock


def streams(split: Split, *, rounds: int, users: int) -> list[dict[str, Any]]:
    """Targets a second in forward and backward passes, streamed and one by one."""
    counts = split.histories.counts(split.train)
    owners = split.tables.interactions["user"].to_numpy()[split.train]
    rng = np.random.default_rng(3)
    long = np.unique(owners[counts >= 60])
    chosen = rng.choice(long, size=users, replace=False)
    rows = split.train[np.isin(owners, chosen) & (counts > 20) & (counts <= 60)]
    sides = {
        "one 10-item TALLRec prompt each": (
            instructions(split, rows, "tallrec/movie", history=10),
            "single",
        ),
        "the same prompts one by one": (
            instructions(split, rows, "tallrec/stream", history=HISTORY, anchor=ANCHOR),
            "single",
        ),
        "streamed": (
            instructions(split, rows, "tallrec/stream", history=HISTORY, anchor=ANCHOR),
            "streamed",
        ),
    }
    runs = {name: Passes(data, form, 6 * rounds) for name, (data, form) in sides.items()}
    for _ in range(6 * rounds):
        for run in runs.values():
            run.step()
    rates = {name: run.rate() for name, run in runs.items()}
    ours = rates.pop("streamed")
    return [
        {
            "name": f"streamed targets against {name}",
            "ours": round(ours, 2),
            "theirs": round(theirs, 2),
            "ratio": round(ours / theirs, 2),
            "unit": "targets/s",
            "note": f"{len(rows)} targets of {users} users, histories of 1 to 20 events in "
            f"streams; {runs['streamed'].shape}; forward and backward of about "
            f"{2 * 1024} tokens, {6 * rounds} passes each, in turn",
        }
        for name, theirs in rates.items()
    ]


class Passes:
    """Forward and backward passes of one arrangement of examples."""

    def __init__(self, data: Dataset, form: Any, count: int) -> None:
        base = load_language_model("smollm2")
        examples = encode_examples(
            data, "train", tokenizer=base.tokenizer, limit=2048, context=None
        )
        rows = rows_of(examples, form, limit=2048, seed=0)
        self._rows, self._seconds, self._targets = rows, [], []  # type: ignore[var-annotated]
        self._model = trainable(base, kind="lora", shape=SHAPE, adapter=None, seed=0).train()
        self._head = AnswerHead(self._model.get_base_model())
        self._collate = AnswerCollator(
            examples, rows, pad=0, dtype=base.model.dtype, merged=base.device.type == "cpu"
        )
        order = np.random.default_rng(0).permutation(len(rows.groups)).tolist()
        self._batches: list[list[int]] = []
        size = 0
        for place in order:
            length = int(rows.lengths[place])
            if not self._batches or size + length > 2048:
                self._batches.append([])
                size = 0
            self._batches[-1].append(place)
            size += length
        self._batches = self._batches[:count]
        total = sum(len(group) for group in rows.groups)
        self.shape = (
            f"{total / len(rows.groups):.1f} targets and {rows.lengths.mean():.0f} tokens a row"
        )

    def step(self) -> None:
        """One pass over the next batch."""
        batch = self._batches[len(self._seconds) % len(self._batches)]
        started = time.perf_counter()
        inputs = self._collate([{"place": place} for place in batch])
        with causal.prepared(self._model) as ready:
            loss_of(self._model, self._head, inputs, ready.mixed).backward()
        self._model.zero_grad()
        self._seconds.append(time.perf_counter() - started)
        self._targets.append(sum(len(self._rows.groups[place]) for place in batch))

    def rate(self) -> float:
        """Targets a second, the first pass left out."""
        each = [one / two for one, two in zip(self._targets, self._seconds, strict=True)]
        return statistics.median(each[1:] or each)


def loss_of(
    model: Any, head: AnswerHead, inputs: dict[str, torch.Tensor], mixed: bool
) -> torch.Tensor:
    """What the trainer computes on a batch."""
    read = {k: inputs[k] for k in ("input_ids", "position_ids", "attention_mask") if k in inputs}
    rounding = torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=mixed)
    with head.only(inputs["rows"], inputs["nodes"]), rounding:
        logits = model(**read, use_cache=False).logits[0]
    return torch.nn.functional.cross_entropy(logits.float(), inputs["labels"])


if __name__ == "__main__":
    main()
