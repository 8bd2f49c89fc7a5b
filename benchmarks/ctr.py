"""Nine CTR backbones: against a public implementation, in speed, with knowledge, when serving.

    python benchmarks/ctr.py PART ... --out FOLDER [--data ML-100K] [--opponent PYTHON]
        [--knowledge FOLDER] [--models din dcn ...] [--seeds 3] [--json] [--quick]

PART is one or several of

    counts      item mean, liked share, logistic regression and LightGBM on both
    ours        test AUC, within-user AUC and log loss of each backbone
    float32     the same without half-precision products in training steps
    user-id     the same with the user's id as one more field
    theirs      the same models on FuxiCTR's layers, loader and trainer, identical rows and codes
    throughput  training rows a second, loader included, both sides alternating
    knowledge   each backbone with texts by a small language model (--knowledge: what
                benchmarks/ctr_knowledge.py wrote)
    plain-facts each backbone with title, genre and year of every item as its text
    ablation    titles as texts, with --knowledge also one text only and random vectors: DIN, DCNv2
    serving     time to score 100,000 rows with prestored texts, against the backbone alone
    tables      what has been measured so far, as Markdown

Every training leaves one file in --out; what is there is not trained again. Without --data the
packaged MovieLens is taken. --opponent is the Python of the environment that
`benchmarks/opponents/fuxictr_ctr.py` describes. Each training runs on one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from ctr_data import MIN_COUNT, export, features, ml_100k, movielens
from ctr_tables import show_tables
from numpy.typing import NDArray
from transformers import TrainerCallback

from tastemaker.data.splits import Split
from tastemaker.eval.protocol import Requests, requests
from tastemaker.methods.encoding import knowledge_texts
from tastemaker.models.baselines import ItemMean, LikedShare, LikedShareAndItemMean
from tastemaker.models.ctr.recommender import CtrRecommender
from tastemaker.models.encoders import load_encoder
from tastemaker.models.statistics import Statistics
from tastemaker.models.text_vectors import TextVectors
from tastemaker.models.training import (
    AUC,
    Columns,
    TrainingPlan,
    _arguments,
    _ColumnTrainer,
    _dtype,
)
from tastemaker.registry import names
from tastemaker.stage import Run

BATCH, RATE, DIM, EPOCHS, PATIENCE = 1024, 1e-3, 32, 20, 3
ABLATED = ("din", "dcnv2")
ROUNDS, STEPS, WARM_UP = 3, 40, 5
SERVED = 100_000
OPPONENT = Path(__file__).parent / "opponents" / "fuxictr_ctr.py"
PARTS = ("counts", "ours", "float32", "user-id", "theirs", "throughput", "knowledge")
PARTS += ("plain-facts", "ablation", "serving")


def main() -> None:
    """Measure the parts asked for, then show what is there."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, "tables", []], default=[])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--opponent", type=Path)
    parser.add_argument("--knowledge", type=Path)
    parser.add_argument("--models", nargs="+", default=names("backbone"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one backbone, one seed, two epochs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as kept:
        if options.quick:
            options.parts = options.parts or ["counts", "ours"]
            options.models, options.seeds = options.models[:1], 1
        options.out = options.out or Path(kept)
        options.out.mkdir(parents=True, exist_ok=True)
        bench = Bench(options)
        for part in options.parts:
            if part != "tables":
                getattr(bench, part.replace("-", "_"))()
        show_tables(options.out, bench.split, as_json=options.json)


class Bench:
    """One data set, one folder of results."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, options.out
        self.split = ml_100k(options.data) if options.data else movielens()
        self.asked = requests(self.split, "test")
        self.epochs = 2 if options.quick else EPOCHS

    def counts(self) -> None:
        """Two numbers, and two models of them."""
        for model in (ItemMean(), LikedShare(), LikedShareAndItemMean()):
            self._keep(f"counts-{model.name}", lambda m=model: m.fit(self.split).score(self.asked))
        self._keep("counts-LightGBM on the two", self._boosted)

    def ours(self) -> None:
        """Every backbone on the default features."""
        for model, seed in self._runs():
            self._train(f"ours-{model}-{seed}", model, seed)

    def float32(self) -> None:
        """The same in single precision throughout."""
        for model, seed in self._runs():
            self._train(f"float32-{model}-{seed}", model, seed, precision="float32")

    def user_id(self) -> None:
        """The same with the id of the user."""
        for model, seed in self._runs(("din", "deepfm")):
            self._train(
                f"userid-{model}-{seed}", model, seed, features=features(self.split, user_id=True)
            )

    def theirs(self) -> None:
        """The same models elsewhere."""
        folder = self.out / "arrays"
        if not (folder / "test.npz").is_file():
            export(self.split, folder)
        for model, seed in self._runs():
            file = self.out / f"theirs-{model}-{seed}.npz"
            if not file.is_file():
                told = self._elsewhere(
                    *("--model", model, "--seed", str(seed), "--out", str(file)),
                    *("--epochs", str(self.epochs), "--patience", str(PATIENCE)),
                )
                say(file.stem, told)

    def throughput(self) -> None:
        """Rows a second of one training loop, medians of alternating rounds."""
        folder = self.out / "arrays"
        if not (folder / "test.npz").is_file():
            export(self.split, folder)
        for model in self.options.models:
            file = self.out / f"throughput-{model}.json"
            if file.is_file():
                continue
            rates: dict[str, list[float]] = {"ours": [], "float32": [], "theirs": []}
            for _ in range(ROUNDS):
                rates["ours"].append(self._rate(model, "auto"))
                rates["float32"].append(self._rate(model, "float32"))
                told = self._elsewhere("--model", model, "--throughput", str(STEPS))
                rates["theirs"].append(told["rows_per_second"])
            found = {name: statistics.median(values) for name, values in rates.items()}
            file.write_text(json.dumps(found), encoding="utf-8")
            say(file.stem, found)

    def knowledge(self) -> None:
        """Every backbone with texts of users and items."""
        texts = self._texts()
        for model, seed in self._runs():
            self._train(f"knowledge-{model}-{seed}", model, seed, texts=texts)

    def plain_facts(self) -> None:
        """Every backbone with what the tables say of the items."""
        texts = (written(plain_facts(self.split)),)
        for model, seed in self._runs():
            self._train(f"plainfacts-{model}-{seed}", model, seed, texts=texts)

    def ablation(self) -> None:
        """What of the texts matters, and what anything else in their place does."""
        titles = {"titles": (written(self.split.tables.titles),)}
        for model, seed in self._runs(ABLATED):
            variants = titles | self._parts_of_texts(np.random.default_rng(seed))
            for name, texts in variants.items():
                self._train(f"ablation-{name}-{model}-{seed}", model, seed, texts=texts)

    def _parts_of_texts(self, generator: np.random.Generator) -> dict[str, tuple[TextVectors, ...]]:
        if self.options.knowledge is None:
            return {}
        user, item = self._texts()
        noise = (user.randomised(generator), item.randomised(generator))
        return {"preference": (user,), "facts": (item,), "random": noise}

    def serving(self) -> None:
        """Seconds to score many rows: backbone alone, with prestored texts, with the adaptor."""
        texts = self._texts()
        rows = np.resize(self.asked.rows, SERVED)
        frame = self.asked.frame[np.resize(np.arange(len(self.asked)), len(rows))]
        asked = Requests(frame)
        for model in self.options.models:
            file = self.out / f"serving-{model}.json"
            if file.is_file():
                continue
            times: dict[str, list[float]] = {"plain": [], "prestored": [], "adaptor": []}
            served = dict(zip(times, self._served(model, texts), strict=True))
            for _ in range(ROUNDS + 2):
                for name, one in served.items():
                    start = time.perf_counter()
                    one.score(asked)
                    times[name].append(time.perf_counter() - start)
            found = {name: statistics.median(values) for name, values in times.items()}
            file.write_text(json.dumps(found), encoding="utf-8")
            say(file.stem, found)

    def _served(
        self, model: str, texts: tuple[TextVectors, ...]
    ) -> tuple[CtrRecommender, CtrRecommender, CtrRecommender]:
        """Backbone alone, with prestored texts, with the adaptor; all as a server loads them."""
        plan, split = TrainingPlan(batch_size=BATCH, epochs=1), self.split
        with tempfile.TemporaryDirectory() as folder:
            plain, whole = Path(folder, "plain"), Path(folder, "whole")
            CtrRecommender(model, model, plan=plan).fit(split).save(plain)
            CtrRecommender(model, model, plan=plan, texts=texts).fit(split).save(whole)
            return (
                CtrRecommender.load(plain, split=split),
                CtrRecommender.load(whole, split=split, texts=texts, prestored=True),
                CtrRecommender.load(whole, split=split, texts=texts),
            )

    def _runs(self, models: Sequence[str] | None = None) -> list[tuple[str, int]]:
        wanted = [m for m in self.options.models if models is None or m in models]
        return [(model, seed) for seed in range(self.options.seeds) for model in wanted]

    def _train(
        self, name: str, model: str, seed: int, *, precision: str = "auto", **changes: Any
    ) -> None:
        def scores() -> NDArray[np.float32]:
            plan = TrainingPlan(RATE, 0.0, BATCH, self.epochs, PATIENCE, seed, precision)
            given = {"features": features(self.split), **changes}
            made = CtrRecommender(model, model, dim=DIM, min_count=MIN_COUNT, plan=plan, **given)
            return made.fit(self.split).score(self.asked)

        self._keep(name, scores)

    def _keep(self, name: str, scores: Callable[[], NDArray[np.floating[Any]]]) -> None:
        file = self.out / f"{name}.npz"
        if not file.is_file():
            start = time.perf_counter()
            found = scores()
            np.savez(file, test=found)
            say(name, {"seconds": round(time.perf_counter() - start, 1)})

    def _boosted(self) -> NDArray[np.floating[Any]]:
        import lightgbm

        split, events = self.split, self.split.tables.interactions
        labels = events["label"].to_numpy()
        statistic = Statistics(split, share=float(labels[split.train].mean()))

        def columns(rows: NDArray[np.int64]) -> NDArray[np.float64]:
            users, items, times = (
                events[name].to_numpy()[rows].astype(np.int64) for name in ("user", "item", "time")
            )
            wanted = ("item_mean", "liked_share")
            return np.column_stack(
                [statistic.column(n, users=users, items=items, times=times) for n in wanted]
            )

        model = lightgbm.LGBMClassifier(n_estimators=500, learning_rate=0.05, verbose=-1)
        model.fit(
            columns(split.train),
            labels[split.train],
            eval_set=[(columns(split.valid), labels[split.valid])],
            eval_metric="auc",
            callbacks=[lightgbm.early_stopping(20, verbose=False)],
        )
        return model.predict(columns(self.asked.rows), raw_score=True)

    def _texts(self) -> tuple[TextVectors, TextVectors]:
        if self.options.knowledge is None:
            raise SystemExit("--knowledge FOLDER is needed; see benchmarks/ctr_knowledge.py")
        return knowledge_texts(Run(self.options.knowledge / "run", seed=7), self.split)

    def _elsewhere(self, *arguments: str) -> dict[str, Any]:
        if self.options.opponent is None:
            raise SystemExit(f"--opponent PYTHON is needed; see {OPPONENT.name}")
        command = [str(self.options.opponent), str(OPPONENT), "--data", str(self.out / "arrays")]
        settings = ["--batch-size", str(BATCH), "--learning-rate", str(RATE), "--threads", "1"]
        done = subprocess.run(
            [*command, *settings, *("--initializer", "xavier", "--gru", "AIGRU"), *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return told

    def _rate(self, model: str, precision: str) -> float:
        """Training rows a second of one model, the loader included."""
        plan = TrainingPlan(RATE, 0.0, BATCH, 1, 1, 0, precision)
        made = CtrRecommender(model, model, dim=DIM, plan=plan, features=features(self.split))
        timer = Timer()
        with tempfile.TemporaryDirectory() as folder:
            columns = made.prepared(self.split)
            arguments = _arguments(plan, Path(folder), metric=AUC)
            arguments.max_steps = WARM_UP + STEPS
            arguments.eval_strategy = arguments.save_strategy = "no"
            arguments.load_best_model_at_end = False
            trainer = _ColumnTrainer(
                dtype=_dtype(plan),
                model=made.network,
                args=arguments,
                train_dataset=Columns(columns),
                callbacks=[timer],
            )
            trainer.train()
        return BATCH * STEPS / (timer.marks[-1] - timer.marks[WARM_UP - 1])


class Timer(TrainerCallback):
    """The moment after each step."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note it."""
        self.marks.append(time.perf_counter())


def written(texts: Sequence[str]) -> TextVectors:
    """Vectors of one text per item, for all items."""
    matrix = load_encoder("minilm").encode(list(texts))
    return TextVectors("item_text", "item", matrix, rows=np.arange(len(texts)))


def plain_facts(split: Split) -> list[str]:
    """What the table says of every item, as words."""
    told = split.tables.items.select(
        pl.format("{}. Genre: {}. Year: {}.", "title", "genre", pl.col("release_year")).fill_null(
            pl.col("title")
        )
    )
    return told.to_series().to_list()


def say(name: str, found: dict[str, Any]) -> None:
    """One line on the way."""
    print(f"{name}: {json.dumps(found)}", flush=True)


if __name__ == "__main__":
    main()
