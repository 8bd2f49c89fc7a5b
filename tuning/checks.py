"""How every trainer checks validation examples: all of them, whichever process took which."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from numpy.typing import NDArray
from transformers import Trainer

from tastemaker.eval.metrics import auc

__all__ = ["Check", "CheckedTrainer"]


@dataclass(frozen=True)
class Check:
    """What is found out about one validation example.

    Attributes:
        place: Of the example.
        loss: Its sum of losses.
        count: Over so many tokens, or 1.
        score: Log-odds of a like; None where none is asked for.
    """

    place: int
    loss: float
    count: int = 1
    score: float | None = None


class CheckedTrainer(Trainer):
    """A trainer whose checks say the loss of validation examples and the AUC of their scores."""

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Loss of all validation examples, and AUC where wanted; processes share the work."""
        size, labels = self.validation()
        prefix = metric_key_prefix
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        places = list(range(rank, size, processes))
        found = self.checks(places) if places else []
        checked: list[Check] = gather_object(found) if processes > 1 else list(found)
        loss = sum(one.loss for one in checked) / sum(one.count for one in checked)
        metrics = {f"{prefix}_loss": loss}
        scores = np.full(size, np.nan)
        for one in checked:
            if one.score is not None:
                scores[one.place] = one.score
        if labels is not None and np.isfinite(scores).all():
            metrics[f"{prefix}_auc"] = auc(scores, labels)
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    @abstractmethod
    def validation(self) -> tuple[int, NDArray[np.int64] | None]:
        """Number of validation examples; their labels int64 [n], 1 for a like, or None."""

    @abstractmethod
    def checks(self, places: list[int]) -> Sequence[Check]:
        """Losses and scores of some validation examples."""
