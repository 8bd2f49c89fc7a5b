"""TALLRec's movie set with SmolLM2-135M: K = 16, 64 and 256 shots, three seeds, real rows.

    python benchmarks/tallrec_movie.py --data FOLDER [--quick] [--json] [--out FOLDER]

FOLDER holds `train.json.gz`, `valid.json` and `*_ids.csv` of TALLRec's movie set. The released
prompts are used word for word, in the model's own chat template. K examples are drawn from the
8,000 training rows as the released code draws them; the state that is kept is picked on the last
150 of these, which are never trained on; the 1,000 validation rows are scored once, at the end.
Intervals resample users. What is done is kept in the output folder, and not done again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from datasets import Dataset
from numpy.typing import NDArray

from tastemaker.eval.metrics import auc, within_user_auc
from tastemaker.eval.resample import resample
from tastemaker.models.adapters import with_adapter
from tastemaker.models.conversations import answer_tokens, encode_prompts
from tastemaker.models.hidden_states import HiddenStates, evaluating
from tastemaker.models.language import load_language_model
from tastemaker.models.scoring import _compare
from tastemaker.tuning.settings import AdapterShape, TuneSettings
from tastemaker.tuning.tune import tune

PICKED_ON = 150
SHOTS = {16: (10, 5), 64: (4, 8), 256: (1, 8)}  # K: epochs, steps between checks
PAPER = {16: 67.24, 64: 67.48, 256: 71.98}  # test AUC of LLaMA-7B, the readme's table
SEEDS = (0, 1, 2)
MEASURES = ("log_odds", "double_softmax")


def main() -> None:
    """Tune, score and print one line per model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    pool, valid = part(options.data, "train"), part(options.data, "valid")
    if options.quick:
        valid = valid.head(60)
    with tempfile.TemporaryDirectory() as folder:
        out = options.out or Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        lines = [*trivial(pool, valid), *tuned(pool, valid, out, quick=options.quick)]
    for line in lines:
        print(json.dumps(line) if options.json else table_row(line))


def part(folder: Path, name: str) -> pl.DataFrame:
    """Prompts, answers, labels and ids of one part."""
    file = folder / f"{name}.json"
    packed = file.with_suffix(".json.gz")
    rows = json.loads(file.read_bytes() if file.is_file() else gzip.decompress(packed.read_bytes()))
    ids = pl.read_csv(folder / f"{name}_ids.csv")
    asked = [[{"role": "user", "content": f"{row['instruction']}\n{row['input']}"}] for row in rows]
    said = [[{"role": "assistant", "content": row["output"]}] for row in rows]
    labels = [int(row["output"] == "Yes.") for row in rows]
    return ids.with_columns(
        prompt=pl.Series(asked), completion=pl.Series(said), label=pl.Series(labels)
    )


def trivial(pool: pl.DataFrame, valid: pl.DataFrame) -> list[dict[str, Any]]:
    """What counts alone can do."""
    share = valid["history_rating"].str.split(" ").cast(pl.List(pl.Int64)).list.mean()
    means = pool.group_by("movie_id").agg(pl.col("label").mean().alias("mean"))
    mean = valid.join(means, on="movie_id", how="left", maintain_order="left")["mean"]
    mean = mean.fill_null(pool["label"].mean())
    return [
        measured(name, [scores.to_numpy().astype(np.float64)], valid)
        for name, scores in (
            ("liked share of the history", share),
            ("item mean of the 8,000 training rows", mean),
            ("sum of both", share + mean),
        )
    ]


def tuned(
    pool: pl.DataFrame, valid: pl.DataFrame, out: Path, *, quick: bool
) -> list[dict[str, Any]]:
    """The language model as it comes, and after K shots."""
    runs = {"zero-shot": [both(out / "zero.npz", valid, None)]}
    for shots in [16] if quick else SHOTS:
        runs[f"K = {shots}"] = [
            both(
                out / f"{shots}-{seed}.npz",
                valid,
                adapted(pool, out, shots=shots, seed=seed),
            )
            for seed in ([0] if quick else SEEDS)
        ]
    lines = []
    for name, found in runs.items():
        for place, measure in enumerate(("", ", double softmax")):
            line = measured(f"SmolLM2-135M, {name}{measure}", [one[place] for one in found], valid)
            shots_of = name.removeprefix("K = ")
            lines.append(line | ({"paper": PAPER[int(shots_of)]} if shots_of.isdigit() else {}))
    return lines


def adapted(pool: pl.DataFrame, out: Path, *, shots: int, seed: int) -> Path:
    """Folder of an adapter tuned on K of the training rows."""
    folder = out / f"{shots}-{seed}"
    if (folder / "tuning.json").is_file():
        return folder
    columns = ["prompt", "completion", "label"]
    picked_on = pool.tail(PICKED_ON).select(columns)
    train = Dataset.from_polars(pool.head(len(pool) - PICKED_ON).select(columns))
    epochs, every = SHOTS[shots]
    started = time.perf_counter()
    result = tune(
        partial(load_language_model, "smollm2"),
        train.shuffle(seed=seed).select(range(shots)),
        valid=Dataset.from_polars(picked_on),
        settings=TuneSettings(
            kind="lora",
            lora=AdapterShape(8, 16, 0.05, ("q_proj", "v_proj")),
            learning_rate=2e-3,
            warmup_steps=2,
            epochs=epochs,
            batch_size=16,
            micro_batch=None,
            max_length=512,
            loss_on="answer",
            rows="single",
            row_tokens=2048,
            group_by_length=True,
            gradient_checkpointing=None,
            evaluate_every=every,
            patience=None,
            metric="auc",
            tracker="none",
        ),
        out=folder,
        scratch=out / f"scratch-{shots}-{seed}",
        seed=seed,
        choices=("Yes.", "No."),
    )
    print(
        f"# K = {shots}, seed {seed}: best at step {result.best_step} of {result.steps}, "
        f"AUC {result.best_valid_auc:.3f} on {PICKED_ON} held-out training rows, "
        f"{time.perf_counter() - started:.0f} s",
        flush=True,
    )
    return folder


def both(file: Path, valid: pl.DataFrame, adapter: Path | None) -> list[NDArray[np.float64]]:
    """Scores of the validation rows by log-odds and by the released double softmax, kept."""
    if not file.is_file():
        model = load_language_model("smollm2")
        if adapter is not None:
            model = with_adapter(model, adapter)
        tokens = answer_tokens(model.tokenizer)
        sequences = encode_prompts(model.tokenizer, valid["prompt"].to_list())
        last = [slice(len(one) - 1, len(one)) for one in sequences]
        scores = {measure: np.empty(len(sequences)) for measure in MEASURES}
        with evaluating(model.model), torch.inference_mode():
            run = HiddenStates(model.model, sequences, last, share=True, batch_tokens=2048)
            for places, hidden in run:
                for measure in MEASURES:
                    found = _compare(run.output, hidden, tokens, measure)
                    scores[measure][places] = found.numpy()
        np.savez(file, **scores)
    kept = np.load(file)
    return [kept[measure] for measure in MEASURES]


def measured(name: str, scores: list[NDArray[np.float64]], valid: pl.DataFrame) -> dict[str, Any]:
    """Mean and standard deviation over seeds, and the interval of the mean over users."""
    labels, users = valid["label"].to_numpy(), valid["user_id"].to_numpy()
    draws = resample(
        {str(place): one for place, one in enumerate(scores)},
        labels,
        groups=users,
        count=2000,
        seed=0,
    )
    found: dict[str, Any] = {"name": name, "rows": len(valid), "users": len(np.unique(users))}
    for key, metric in (("auc", auc), ("within_user_auc", within_user_auc)):
        values = [float(metric(one, labels, users)) for one in scores]
        drawn = np.mean([of_seed[key] for of_seed in draws.values()], axis=0)
        found[key] = round(statistics.mean(values), 4)
        found[f"{key}_sd"] = round(statistics.stdev(values), 4) if len(values) > 1 else None
        interval = np.nanquantile(drawn, [0.025, 0.975])
        found[f"{key}_interval"] = [round(float(bound), 3) for bound in interval]
    return found


def table_row(line: dict[str, Any]) -> str:
    """One line of a Markdown table."""

    def shown(key: str) -> str:
        spread = f" ± {line[f'{key}_sd']:.3f}" if line[f"{key}_sd"] is not None else ""
        low, high = line[f"{key}_interval"]
        return f"{line[key]:.3f}{spread} [{low:.3f}, {high:.3f}]"

    paper = f"{line['paper'] / 100:.3f}" if "paper" in line else "–"
    return f"| {line['name']} | {shown('auc')} | {shown('within_user_auc')} | {paper} |"


if __name__ == "__main__":
    main()
