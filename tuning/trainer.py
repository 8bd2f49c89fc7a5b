"""TRL's `SFTTrainer` with the output layer on answer positions only, and checks by AUC.

Other positions would be computed and dropped; with a vocabulary of 49,152 and answers of four
tokens that is half the time of a step on a CPU (see `tuning.answer_head`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback
from trl import SFTTrainer

from tastemaker.errors import StageError
from tastemaker.models.hidden_states import HiddenStates, evaluating
from tastemaker.models.mixed_precision import half_products
from tastemaker.models.training import seal_checkpoint
from tastemaker.tuning.answer_head import AnswerHead
from tastemaker.tuning.checks import Check, CheckedTrainer
from tastemaker.tuning.examples import Examples

__all__ = ["AnswerTrainer", "Watcher", "watch"]


class AnswerTrainer(CheckedTrainer, SFTTrainer):
    """Trains on batches of an `AnswerCollator`.

    Args:
        valid: Examples that pick the state to keep.
        choices: Tokens of the positive and the negative answer, for the AUC; None for no AUC.
        arguments: Of `SFTTrainer`.
    """

    def __init__(
        self, *, valid: Examples, choices: tuple[int, int] | None, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self._valid, self._choices = valid, choices
        peft = isinstance(self.model, PeftModel)
        self._causal = self.model.get_base_model() if peft else self.model
        self._head = AnswerHead(self._causal)

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Mean cross-entropy of the tokens to foretell, as TRL's `nll` loss; no metrics besides."""
        read = {
            name: inputs[name]
            for name in ("input_ids", "position_ids", "attention_mask")
            if name in inputs
        }
        with self._head.only(inputs["rows"], inputs["nodes"]):
            outputs = model(**read, use_cache=False)
        targets = inputs["labels"]
        total = torch.nn.functional.cross_entropy(
            outputs.logits[0].float(), targets, reduction="sum"
        )
        count = len(targets) if num_items_in_batch is None else num_items_in_batch
        loss = total / torch.as_tensor(count).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def validation(self) -> tuple[int, NDArray[np.int64] | None]:
        """Number of validation examples, and their labels where an AUC is wanted."""
        return len(self._valid), None if self._choices is None else self._valid.labels

    def checks(self, places: list[int]) -> list[Check]:
        """Losses, numbers of answer tokens and log-odds; run as in `models.scoring`."""
        model = self.accelerator.unwrap_model(self.model)
        sequences = [self._valid.sequence(place) for place in places]
        starts = [int(self._valid.starts[place]) for place in places]
        wanted = [
            slice(start - 1, len(sequence) - 1)
            for start, sequence in zip(starts, sequences, strict=True)
        ]
        checked: list[Check] = []
        with evaluating(model), torch.inference_mode():
            with half_products(self._causal):  # it is added up in float32 while it is trained
                run = HiddenStates(model, sequences, wanted, share=True, batch_tokens=2048)
            for found, hidden in run:
                answers = [sequences[one][starts[one] :] for one in found]
                states = torch.cat(hidden)
                asked = torch.tensor([t for one in answers for t in one], device=states.device)
                gains = run.output.log_probabilities(states, asked).double()
                losses = [-float(one.sum()) for one in gains.split([len(a) for a in answers])]
                odds: list[float | None] = [None] * len(found)
                if self._choices is not None:
                    first = torch.stack([states_of[0] for states_of in hidden])
                    logits = run.output.of_tokens(first, self._choices)
                    odds = (logits[:, 0] - logits[:, 1]).tolist()
                checked += [
                    Check(places[one], loss, len(answer), score)
                    for one, loss, answer, score in zip(found, losses, answers, odds, strict=True)
                ]
        return checked


class Watcher(TrainerCallback):
    """Reports steps, seals checkpoints and stops at a loss that is not a number.

    Args:
        on_step: Called with the number of newly finished steps.
        wait: Waits until all processes have come to the same place.
    """

    def __init__(self, on_step: Callable[[int], None], wait: Callable[[], None]) -> None:
        self._on_step, self._wait = on_step, wait

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Steps that a killed process had finished."""
        self._on_step(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """One more step."""
        self._on_step(1)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Every process has written its part of the checkpoint before it counts."""
        self._wait()
        if state.is_world_process_zero:
            seal_checkpoint(Path(args.output_dir) / f"checkpoint-{state.global_step}")
        self._wait()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Stop where training has diverged."""
        for name in ("loss", "eval_loss"):
            loss = (logs or {}).get(name)
            if loss is not None and not np.isfinite(float(loss)):
                raise StageError(
                    f"the {'validation ' if name == 'eval_loss' else ''}loss became {loss} at step "
                    f"{state.global_step}; lower tune.learning_rate or set tune.precision to "
                    "float32"
                )


def watch(trainer: Trainer, patience: int | None, on_step: Callable[[int], None]) -> None:
    """Progress is reported in our own way; training ends where checks no longer improve."""
    trainer.remove_callback(PrinterCallback)
    if patience is not None:
        trainer.add_callback(EarlyStoppingCallback(patience))
    trainer.add_callback(Watcher(on_step, trainer.accelerator.wait_for_everyone))
