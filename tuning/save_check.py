"""A save is checked: what was written is loaded back, and must give the same logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from tastemaker.errors import SaveCheckError
from tastemaker.models.adapters import tuned
from tastemaker.models.language import LanguageModel
from tastemaker.models.seq2seq import decoder_start, is_seq2seq

__all__ = ["LOGIT_TOLERANCE", "Probe", "check_save"]

Probe = Sequence[int]

LOGIT_TOLERANCE = 1e-3


def check_save(
    model: Any, folder: Path, *, fresh: Callable[[], LanguageModel], probes: Sequence[Probe]
) -> float:
    """Load what `folder` holds onto a fresh base and compare with the trained model.

    Args:
        model: As it was trained, in memory.
        folder: The saved adapter or model.
        fresh: Loads the base as it was before training.
        probes: Token ids to compare on, at least one sequence.

    Returns:
        The largest absolute difference of last-token logits.

    Raises:
        SaveCheckError: it is above 1e-3, or not a number.
    """
    loaded = tuned(fresh(), folder).model
    difference = max(
        float((_last_logits(model, ids) - _last_logits(loaded, ids)).abs().max()) for ids in probes
    )
    if not difference <= LOGIT_TOLERANCE:
        raise SaveCheckError(
            f"what was read back from {folder.name} gives other logits (difference "
            f"{difference:.3g}, allowed {LOGIT_TOLERANCE:g}); nothing was kept"
        )
    return difference


def _last_logits(model: Any, ids: Sequence[int]) -> torch.Tensor:
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        inputs = torch.tensor([list(ids)], device=model.device)
        if is_seq2seq(model):
            begin = torch.tensor([[decoder_start(model)]], device=model.device)
            found = model(input_ids=inputs, decoder_input_ids=begin).logits
        else:
            found = model(input_ids=inputs, logits_to_keep=1).logits
        logits = found[0, -1].float().cpu()
    model.train(was_training)
    return logits
