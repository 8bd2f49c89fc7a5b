"""One engine for every model that learns from columns: a quiet, resumable `transformers.Trainer`.

Rows live in arrays, one per column, and a batch is one gather per column: no object is made per
row. Each epoch is checked on the validation columns; the best one is kept, and training stops when
`patience` epochs brought nothing better. Every epoch leaves a checkpoint; a training that was
killed goes on from the last complete one and ends with the same weights.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.utils import logging as transformers_logging

from tastemaker.errors import DataError
from tastemaker.eval.metrics import auc
from tastemaker.models.language import best_dtype, default_device
from tastemaker.stage import atomic_file, fingerprint

__all__ = [
    "AUC",
    "Columns",
    "Curve",
    "Metric",
    "TrainingPlan",
    "ended_state",
    "newest_checkpoint",
    "seal_checkpoint",
    "train_columns",
]

Curve = list[dict[str, float]]
Arrays = Mapping[str, NDArray[Any]]

_COMPLETE = "complete"  # written into a checkpoint once all its files are on disk
_FINISHED = "finished.safetensors"
_EVALUATED_ROWS = 8192


@dataclass(frozen=True)
class Metric:
    """What chooses the epoch; larger is better.

    Attributes:
        name: Lower-case, as in the curve's `valid_NAME`.
        of: From logits, float [n, ...], and labels, int64 of the same shape, to a number.
    """

    name: str
    of: Callable[[NDArray[np.floating[Any]], NDArray[np.int64]], float]


AUC = Metric("auc", lambda logits, labels: auc(logits.ravel(), labels.ravel()))
"""Over all entries, whichever rows they stand in."""


@dataclass(frozen=True)
class TrainingPlan:
    """How to train.

    Attributes:
        learning_rate: Of AdamW, constant (KAR's cosine is constant in effect).
        weight_decay: Decoupled; not applied to biases.
        batch_size: Rows per step.
        epochs: At most so many passes over the training columns.
        patience: Epochs without a better metric on the validation rows after which training stops.
        seed: Of the initial weights, the order of the rows and dropout.
        precision: Of the products in training steps: `float32`, `bfloat16`, or `auto`, bfloat16
            where the device multiplies it in hardware. Weights, sums of gradients, checks and
            scores are float32 in any case.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    batch_size: int = 512
    epochs: int = 20
    patience: int = 3
    seed: int = 0
    precision: str = "auto"


class Columns(Dataset[dict[str, Tensor]]):
    """Equally long arrays, one per argument of the model, gathered by batch.

    Args:
        arrays: Argument name → array [n, ...].
    """

    def __init__(self, arrays: Arrays) -> None:
        self._tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        self._length = len(next(iter(arrays.values())))

    def __len__(self) -> int:
        return self._length

    @property
    def labels_per_row(self) -> int:
        """1, or the length of the lists that rows are."""
        return self._tensors["labels"][:1].numel()

    def __getitem__(self, rows: int | Tensor) -> dict[str, Tensor]:
        """One batch, every column at the rows int64 [B]; or one row, without that dimension."""
        if isinstance(rows, int):
            return {name: tensor[rows] for name, tensor in self._tensors.items()}
        return {name: tensor.index_select(0, rows) for name, tensor in self._tensors.items()}


class _Batches(Sampler[Tensor]):
    """Row numbers of each batch as one tensor: no Python object is made per row.

    Args:
        length: Number of rows.
        size: Rows of a batch; the last one may be smaller.
        seed: Of the order, which differs from epoch to epoch; None keeps the rows as they are.
    """

    def __init__(self, length: int, *, size: int, seed: int | None) -> None:
        self._length, self._size, self._seed, self._epoch = length, size, seed, 0

    def __len__(self) -> int:
        return -(-self._length // self._size)

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.arange(self._length)
        if self._seed is not None:
            generator = torch.Generator().manual_seed(self._seed + self._epoch)
            order = torch.randperm(self._length, generator=generator)
        yield from order.split(self._size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, also of one that a resumed training begins with."""
        self._epoch = epoch


class _ColumnTrainer(Trainer):
    """The Trainer, fed batch by batch from columns.

    Args:
        dtype: Of the products in training steps.
        **given: As the Trainer takes them.
    """

    def __init__(self, *, dtype: torch.dtype, **given: Any) -> None:
        super().__init__(**given)
        self._dtype = dtype

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> torch.autocast:
        """Half precision, where it is wanted, for steps and not for checks."""
        wanted = self._dtype != torch.float32 and self.model.training
        device = self.args.device.type
        return torch.autocast(device, torch.bfloat16, wanted, cache_enabled=cache_enabled)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches of the training columns."""
        return self._loader(self.train_dataset, self.args.train_batch_size, seed=self.args.seed)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Batches of the validation columns, in order."""
        columns = eval_dataset or self.eval_dataset
        return self._loader(columns, max(1, _EVALUATED_ROWS // columns.labels_per_row), seed=None)

    def _loader(self, columns: Any, size: int, *, seed: int | None) -> DataLoader[Any]:
        batches = _Batches(len(columns), size=size, seed=seed)
        return DataLoader(columns, sampler=batches, batch_size=None, collate_fn=_as_is)


def train_columns(
    model: nn.Module,
    train: Arrays,
    *,
    valid: Arrays,
    plan: TrainingPlan,
    metric: Metric = AUC,
    scratch: Path | None = None,
    on_epoch: Callable[[], None] | None = None,
) -> Curve:
    """Train in place; the model ends with the weights of its best epoch, in evaluation mode.

    Args:
        model: Called with the columns as keyword arguments; returns `{"loss", "logits"}`.
        train: Argument name → array; `labels` is among them.
        valid: The same for the rows that choose the epoch.
        plan: How to train.
        metric: Of the validation rows; its best epoch is kept.
        scratch: Folder for checkpoints, kept when the process dies; a temporary one when None.
        on_epoch: Called after every epoch, and for epochs that a killed process had finished.

    Returns:
        One entry per epoch: `epoch`, `loss` (train), `valid_loss`, `valid_auc` or the like.

    Raises:
        DataError: the validation rows do not hold both likes and dislikes.
    """
    if len(np.unique(valid["labels"])) < 2:
        raise DataError(
            f"the validation part has {len(valid['labels'])} row(s) of one label only.",
            allowed=f"Choosing an epoch by {metric.name.upper()} needs likes and dislikes.",
            remedy="Move the borders of data.split, or change the label rule.",
        )
    with contextlib.ExitStack() as stack:
        base = scratch or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = base / f"training-{_identity(model, train, valid, plan, metric)}"
        folder.mkdir(parents=True, exist_ok=True)
        finished = folder / _FINISHED
        if not finished.is_file():
            stack.enter_context(_undisturbed())
            curve = _train(model, train, valid, plan, metric, folder, on_epoch or (lambda: None))
            _finish(model, curve, finished)
        elif on_epoch:
            for _ in _read_curve(finished):
                on_epoch()
        model.load_state_dict(safetensors.torch.load_file(finished))
        model.eval()
        return _read_curve(finished)


class _Epochs(TrainerCallback):
    """Marks checkpoints as complete and tells about finished epochs."""

    def __init__(self, on_epoch: Callable[[], None], *, metric: Metric) -> None:
        self._on_epoch, self._metric = on_epoch, metric

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        for _entry in _curve(state.log_history, self._metric):
            self._on_epoch()

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        seal_checkpoint(Path(args.output_dir) / f"checkpoint-{state.global_step}")
        self._on_epoch()


def _train(
    model: nn.Module,
    train: Arrays,
    valid: Arrays,
    plan: TrainingPlan,
    metric: Metric,
    folder: Path,
    on_epoch: Callable[[], None],
) -> Curve:
    checkpoint = newest_checkpoint(folder)
    ended = ended_state(checkpoint)
    if ended is not None:  # killed between its last epoch and the final file
        best = folder / Path(ended.best_model_checkpoint).name / "model.safetensors"
        model.load_state_dict(safetensors.torch.load_file(best))
        return _curve(ended.log_history, metric)
    trainer = _ColumnTrainer(
        dtype=_dtype(plan),
        model=model,
        args=_arguments(plan, folder, metric=metric),
        train_dataset=Columns(train),
        eval_dataset=Columns(valid),
        compute_metrics=lambda prediction: _measured(prediction, metric),
        callbacks=[EarlyStoppingCallback(plan.patience), _Epochs(on_epoch, metric=metric)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return _curve(trainer.state.log_history, metric)


def _arguments(plan: TrainingPlan, folder: Path, *, metric: Metric) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        learning_rate=plan.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=plan.weight_decay,
        max_grad_norm=0.0,
        per_device_train_batch_size=plan.batch_size,
        per_device_eval_batch_size=_EVALUATED_ROWS,
        num_train_epochs=plan.epochs,
        seed=plan.seed,
        use_cpu=default_device().type == "cpu",
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=metric.name,
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,
        label_names=["labels"],
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        log_level="error",
        report_to="none",
    )


def _dtype(plan: TrainingPlan) -> torch.dtype:
    return best_dtype(default_device(), plan.precision)


def _as_is(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return batch


def _measured(prediction: EvalPrediction, metric: Metric) -> dict[str, float]:
    labels = prediction.label_ids.astype(np.int64)
    return {metric.name: metric.of(prediction.predictions, labels)}


def _curve(log: list[dict[str, float]], metric: Metric) -> Curve:
    losses = [entry["loss"] for entry in log if "loss" in entry]
    checks = [entry for entry in log if f"eval_{metric.name}" in entry]
    return [
        {
            "epoch": round(check["epoch"]),
            "loss": loss,
            "valid_loss": check["eval_loss"],
            f"valid_{metric.name}": check[f"eval_{metric.name}"],
        }
        for loss, check in zip(losses, checks, strict=False)
    ]


def _identity(
    model: nn.Module, train: Arrays, valid: Arrays, plan: TrainingPlan, metric: Metric
) -> str:
    """Names a training by all it depends on, so that a checkpoint never serves another one."""
    weights = {name: _checksum(value.numpy()) for name, value in model.state_dict().items()}
    columns = {
        f"{part}.{name}": _checksum(array)
        for part, arrays in (("train", train), ("valid", valid))
        for name, array in arrays.items()
    }
    return fingerprint(
        model=repr(model),
        weights=weights,
        columns=columns,
        plan={**asdict(plan), "precision": str(_dtype(plan))},
        metric=metric.name,
    )[:16]


def _checksum(array: NDArray[Any]) -> str:
    return f"{array.dtype} {array.shape} {zlib.crc32(np.ascontiguousarray(array).data)}"


def seal_checkpoint(checkpoint: Path) -> None:
    """Mark a checkpoint as complete, once all its files are on disk."""
    for file in checkpoint.iterdir():
        if file.is_file():
            _sync(file)
    (checkpoint / _COMPLETE).touch()


def newest_checkpoint(folder: Path) -> Path | None:
    """The latest sealed checkpoint in `folder`, or None; removes those never sealed."""
    kept: list[Path] = []
    for checkpoint in folder.glob("checkpoint-*"):
        if (checkpoint / _COMPLETE).is_file():
            kept.append(checkpoint)
        else:
            shutil.rmtree(checkpoint)
    return max(kept, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def ended_state(checkpoint: Path | None) -> TrainerState | None:
    """State of a training that had nothing left to do at its last checkpoint."""
    if checkpoint is None:
        return None
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    control = state.stateful_callbacks["TrainerControl"]["args"]
    return state if control["should_training_stop"] else None


def _finish(model: nn.Module, curve: Curve, path: Path) -> None:
    weights = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    with atomic_file(path) as handle:
        handle.write(safetensors.torch.save(weights, metadata={"curve": json.dumps(curve)}))
    for checkpoint in path.parent.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def _read_curve(path: Path) -> Curve:
    with safe_open(path, framework="pt") as handle:
        return json.loads(handle.metadata()["curve"])


def _sync(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Train on one thread, and give the process back what training changes for all of it.

    The steps of such small models take a few milliseconds: more threads save nothing on an idle
    machine, and wait for each other on a busy one (measured on two cores: 1.7 s against 5 to 30 s
    an epoch). The Trainer seeds the random generators and sets the log level of transformers.
    """
    python, numbers = random.getstate(), np.random.get_state()
    verbosity, threads = transformers_logging.get_verbosity(), torch.get_num_threads()
    devices = list(range(torch.cuda.device_count()))
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        torch.set_num_threads(threads)
        random.setstate(python)
        np.random.set_state(numbers)
        transformers_logging.set_verbosity(verbosity)
