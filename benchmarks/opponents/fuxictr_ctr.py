"""Nine click-through-rate models on FuxiCTR: its layers, loader, trainer and early stopping.

    python benchmarks/opponents/fuxictr_ctr.py --data FOLDER --model NAME --seed N --out FILE
        [--dim 32] [--hidden 200 80] [--batch-size 1024] [--learning-rate 1e-3] [--epochs 20]
        [--patience 3] [--threads N] [--workers N] [--initializer normal|xavier]
        [--first-order mean|sum|small-sum|none] [--steps project|pooled] [--gru KIND]
        [--head mlp|linear] [--throughput STEPS]

Runs in an environment of its own, without tastemaker:

    pip install torch==2.13.0 fuxictr==2.3.10
    pip install --no-deps recbole==1.2.1
    pip install colorlog colorama texttable tensorboard pandas

FuxiCTR's package has no model zoo and no layers for FiGNN, AutoInt and DIEN. The graph layer of
FiGNN and DIEN's interest evolution are RecBole's; AutoInt's projections, FiGNN's edges and read-out
and DIEN's extractor are put together here from the papers' equations. Settings are those of KAR:
no dropout, no batch normalisation (but Dice), no regulariser, a constant learning rate.

`FOLDER` holds `features.json` and `train.npz`, `valid.npz`, `test.npz` as
`benchmarks/ctr_data.py` writes them. `FILE` gets the log-odds of `valid` and `test`; one line of
JSON tells epochs, AUC and speed. With `--throughput` some steps are trained and timed, nothing is
evaluated and `--out` is not needed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.torch_utils import seed_everything
from fuxictr_models import INITIALIZERS, MODELS, Backbone, Batch, Table

WARM_UP = 10  # steps of `--throughput` that are not timed


class Steps:
    """The first batches of a loader that is gone through again and again."""

    def __init__(self, loader: Any, count: int) -> None:
        self._loader, self._count = loader, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Batch]:
        left = self._count
        while left:
            for batch in self._loader:
                yield batch
                left -= 1
                if not left:
                    return


def main() -> None:
    """Train one model and print what it reached."""
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    seed_everything(options.seed)
    with tempfile.TemporaryDirectory() as root:
        model = MODELS[options.model](Table.read(options.data), options, root=root)
        train, valid, test = RankDataLoader(
            model.feature_map,
            train_data=str(options.data / "train.npz"),
            valid_data=str(options.data / "valid.npz"),
            test_data=str(options.data / "test.npz"),
            batch_size=options.batch_size,
            num_workers=options.workers,
        )
        if options.throughput:
            model.fit(Steps(train, WARM_UP + options.throughput), epochs=1)
            found = {"rows_per_second": round(rate(model.marks), 1)}
        else:
            model.fit(train, epochs=options.epochs, validation_data=valid)
            found = trained(model, rows=train.num_samples)
            scores = {"valid": model.predict(valid), "test": model.predict(test)}
            np.savez(options.out, **{part: log_odds(one) for part, one in scores.items()})
    sizes = [weight.numel() for weight in model.parameters() if weight.requires_grad]
    print(json.dumps({"model": options.model, **found, "parameters": sum(sizes)}))


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", choices=list(MODELS), required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--hidden", type=int, nargs="+", default=[200, 80])
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--patience", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--workers", type=int, default=0, help="of the loader; FuxiCTR: 1")
    parser.add_argument("--initializer", choices=list(INITIALIZERS), default="normal")
    kinds = ("mean", "sum", "small-sum", "none")
    parser.add_argument("--first-order", choices=kinds, default="mean", help="sum: as it comes")
    parser.add_argument("--steps", choices=("project", "pooled"), default="project")
    parser.add_argument("--gru", choices=("GRU", "AIGRU", "AGRU", "AUGRU"), default="AUGRU")
    parser.add_argument("--head", choices=("mlp", "linear"), default="mlp", help="of DCN, DCNv2")
    parser.add_argument("--throughput", type=int, metavar="STEPS")
    options = parser.parse_args()
    if not (options.throughput or options.out):
        parser.error("--out is needed, but with --throughput")
    return options


def trained(model: Backbone, *, rows: int) -> dict[str, float]:
    """Epochs, validation AUC and speed."""
    seconds = statistics.median(model.seconds)
    return {
        "best_epoch": model.best_epoch,
        "epochs": len(model.seconds),
        "valid_auc": round(float(model._best_metric), 5),
        "seconds_per_epoch": round(seconds, 3),
        "rows_per_second": round(rows / seconds, 1),
    }


def rate(marks: list[tuple[float, int]]) -> float:
    """Rows a second after the warm-up, loader included."""
    return sum(rows for _, rows in marks[WARM_UP:]) / (marks[-1][0] - marks[WARM_UP - 1][0])


def log_odds(probabilities: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Of probabilities that FuxiCTR computes in float32."""
    inside = np.clip(probabilities, 1e-7, 1 - 1e-7)
    return np.log(inside) - np.log1p(-inside)


if __name__ == "__main__":
    main()
