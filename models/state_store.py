"""What does not change of many prompts, computed once and kept on disk.

States of tokens lie one after another in a memory-mapped file, all depths of a token side by side,
so that a prompt is one read. They are written batch by batch, longest prompts first; a killed
process goes on after the last batch that was complete.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tastemaker.errors import UserError
from tastemaker.models.hidden_states import evaluating
from tastemaker.models.prompt_states import Lower, PromptBackbone
from tastemaker.models.seq2seq import padded, source_batches
from tastemaker.stage import atomic_file

__all__ = ["StateStore", "store_bytes"]

_STATES, _RESUMED, _PROGRESS = "states.f16", "resumed.f32", "progress.json"
_SYNC_EVERY = 16  # batches


class StateStore:
    """Fixed states of n prompts.

    Args:
        backbone: Computes them.
        sequences: Token ids of each prompt.
        folder: Where they are kept, or found; of these prompts and this backbone only.
        batch_tokens: Of a forward pass, padding included.
        on_progress: Called with the number of prompts that are newly there.

    Raises:
        UserError: the disk has no room for them.
    """

    def __init__(
        self,
        backbone: PromptBackbone,
        sequences: Sequence[Sequence[int]],
        *,
        folder: Path,
        batch_tokens: int,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._lengths = np.array([len(one) for one in sequences], dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self._lengths)])
        tokens = int(self._starts[-1])
        folder.mkdir(parents=True, exist_ok=True)
        _check_room(folder, store_bytes(backbone, tokens))
        shape = (tokens, backbone.kept, backbone.width)
        self._states = _mapped(folder / _STATES, shape, np.float16)
        self._resumed = None
        if not backbone.is_fixed:
            self._resumed = _mapped(folder / _RESUMED, (tokens, backbone.width), np.float32)
        batches = list(source_batches(sequences, batch_tokens))
        done = _done(folder, batch_tokens)
        on_progress(sum(map(len, batches[:done])))
        for number, places in enumerate(batches[done:], start=done + 1):
            self._compute(backbone, sequences, places)
            on_progress(len(places))
            if number % _SYNC_EVERY == 0 or number == len(batches):
                self._flush()
                with atomic_file(folder / _PROGRESS) as handle:
                    handle.write(json.dumps({"of": batch_tokens, "batches": number}).encode())

    def lower(self, places: Sequence[int]) -> Lower:
        """States of some prompts, padded with zeros on the right; float32 [B, T, width] each."""
        longest = int(self._lengths[list(places)].max())
        states = _gathered(self._states, self._spans(places), longest).float()
        depths = [states[:, :, depth].contiguous() for depth in range(states.shape[2])]
        if self._resumed is None:
            return Lower(depths, None)
        return Lower(depths, _gathered(self._resumed, self._spans(places), longest))

    def _spans(self, places: Sequence[int]) -> list[tuple[int, int]]:
        return [(int(self._starts[one]), int(self._starts[one + 1])) for one in places]

    def _compute(
        self, backbone: PromptBackbone, sequences: Sequence[Sequence[int]], places: Sequence[int]
    ) -> None:
        ids, mask = padded([sequences[one] for one in places], backbone.tokenizer.pad_token_id)
        with evaluating(backbone):
            found = backbone.lower(ids.to(backbone.device), mask.to(backbone.device))
        states = torch.stack(found.states, dim=2) if found.states else None
        for row, (start, stop) in enumerate(self._spans(places)):
            if states is not None:
                self._states[start:stop] = states[row, : stop - start].half().cpu().numpy()
            if self._resumed is not None and found.resumed is not None:
                raw = found.resumed[row, : stop - start].float().cpu().numpy()
                self._resumed[start:stop] = raw

    def _flush(self) -> None:
        for kept in (self._states, self._resumed):
            if isinstance(kept, np.memmap):
                kept.flush()


def store_bytes(backbone: PromptBackbone, tokens: int) -> int:
    """Bytes that the states of so many tokens take on disk."""
    resumed = 0 if backbone.is_fixed else 4 * backbone.width
    return tokens * (2 * backbone.kept * backbone.width + resumed)


def _check_room(folder: Path, size: int) -> None:
    """A mapped file that the disk has no room for would end the process without a word.

    Raises:
        UserError: it has none.
    """
    if (folder / _PROGRESS).is_file():  # some of it is there already
        return
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"states of prompts take {size / 1e9:.1f} GB, but {folder} has {free / 1e9:.1f} GB "
            "left.",
            remedy="Set multi_domain.keep_states to false, or make room.",
        )


def _mapped(path: Path, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """A file of numbers; where it is new or of another size, nothing is done yet."""
    if 0 in shape:  # nothing can be mapped
        return np.zeros(shape, dtype=dtype)
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if not path.is_file() or path.stat().st_size != size:
        (path.parent / _PROGRESS).unlink(missing_ok=True)
        with path.open("wb") as handle:
            handle.truncate(size)
    return np.memmap(path, dtype=dtype, mode="r+", shape=shape)


def _gathered(source: NDArray[Any], spans: Sequence[tuple[int, int]], longest: int) -> Tensor:
    found = np.zeros((len(spans), longest, *source.shape[1:]), dtype=source.dtype)
    for row, (start, stop) in enumerate(spans):
        found[row, : stop - start] = source[start:stop]
    return torch.from_numpy(found)


def _done(folder: Path, batch_tokens: int) -> int:
    """Number of batches that are complete, if they were cut as they are now."""
    try:
        values = json.loads((folder / _PROGRESS).read_text(encoding="utf-8"))
        return int(values["batches"]) if values["of"] == batch_tokens else 0
    except (OSError, ValueError, LookupError, TypeError):
        return 0
