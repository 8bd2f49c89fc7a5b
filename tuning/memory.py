"""How many rows a forward pass may hold, from what memory is free.

An estimate of what training keeps per token, not a trial: it is the same on every machine of the
same size, and so are the batches. It errs on the safe side (SmolLM2 on a CPU: by a factor of 1.1 to
1.5), since a job that dies of memory has cost more than one that takes a few more passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psutil
import torch

from tastemaker.errors import UserError

__all__ = ["MicroBatch", "bytes_per_token", "free_bytes", "micro_batch"]

_SHARE = 0.8  # of the free memory that activations may take
# Larger passes are no faster: on a CPU they fall out of its caches, on a GPU they fill it already.
_ENOUGH = {"cpu": 2048, "cuda": 32768}


@dataclass(frozen=True)
class MicroBatch:
    """How a step is cut.

    Attributes:
        rows: Of a forward pass, per process.
        passes: Forward passes of a step, per process.
        checkpointing: Whether activations are computed twice instead of kept.
    """

    rows: int
    passes: int
    checkpointing: bool


def micro_batch(
    model: Any,
    *,
    rows: int,
    row_tokens: int,
    wanted: int | None,
    checkpointing: bool | None,
    free: int,
    width: int,
) -> MicroBatch:
    """Cut the rows of a step, per process, into equal forward passes.

    Args:
        model: What is trained.
        rows: Of a step, per process.
        row_tokens: Tokens of the longest row.
        wanted: Rows of a pass as the user set them; by memory when None.
        checkpointing: As the user set it; only when memory asks for it when None.
        free: Bytes for activations.
        width: Bytes of an activation.

    Raises:
        UserError: not even one row fits.
    """
    kept = bytes_per_token(model, width=width, checkpointing=False)
    sparse = bytes_per_token(model, width=width, checkpointing=True)
    budget = _SHARE * free
    twice = bool(checkpointing) if checkpointing is not None else kept * row_tokens > budget
    tokens = budget / (sparse if twice else kept)
    if wanted is None and row_tokens > tokens:
        raise UserError(
            f"a row of {row_tokens} tokens needs more memory than the {free / 1e9:.1f} GB that are "
            "free.",
            remedy="Lower tune.max_length or tune.row_tokens, choose a smaller model, or set "
            "tune.micro_batch to 1 to try all the same.",
        )
    enough = _ENOUGH.get(model.device.type, _ENOUGH["cuda"])
    fitting = int(min(tokens, max(enough, row_tokens)) // row_tokens)
    size = min(rows, wanted or max(1, fitting))
    passes = -(-rows // size)
    return MicroBatch(-(-rows // passes), passes, twice)


def bytes_per_token(model: Any, *, width: int, checkpointing: bool) -> float:
    """What training keeps of one token until the backward pass has used it.

    Per layer: two normalised inputs, query, key, value and output of attention, three inner
    activations of the feed-forward part and the residual stream, each once in the precision of the
    weights and once in float32. With checkpointing: the residual stream and two layers at a time,
    three times over for what does not depend on the number of layers.
    """
    config = model.config.get_text_config(decoder=True)
    hidden = int(config.hidden_size)
    inner = int(getattr(config, "intermediate_size", None) or 4 * hidden)
    layers = int(config.num_hidden_layers)
    layer = (4.0 + width) * (7 * hidden + 3 * inner)
    return 3 * (4 * layers * hidden + 2 * layer) if checkpointing else layers * layer


def free_bytes(device: torch.device) -> int:
    """Bytes that are free on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
