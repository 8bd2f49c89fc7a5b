"""An adapter merged into its base: a plain model folder that any server can load.

The sum is formed in float32 and rounded once, to the precision that is stored. The folder appears
under its name only after it was loaded back and answered like the model in memory.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from tastemaker.errors import SaveCheckError, UserError
from tastemaker.models.adapters import is_adapter, with_adapter
from tastemaker.models.language import LanguageModel, load_language_model, quiet_loading
from tastemaker.models.wrappers import Wrapper, wrapped

__all__ = ["Merged", "merge"]

RELOAD_TOLERANCE = 1e-3
MERGE_TOLERANCE = 1e-2  # float32 sums in another order; wrong sums are off by whole units
_PROBES = (
    'A user liked "Heat (1995)" and disliked "Up (2009)". Will the user like "Alien (1979)"? '
    'Answer "Yes." or "No."',
    "The next item in this list is",
)


@dataclass(frozen=True)
class Merged:
    """What merging wrote.

    Attributes:
        folder: The model folder.
        bytes: Size of its files.
        precision: Of the stored weights.
        adapter_difference: Largest absolute difference of last-token logits between the stored
            model and base plus adapter in float32.
        reload_difference: The same between the stored model read back and the one in memory.
    """

    folder: Path
    bytes: int
    precision: str
    adapter_difference: float
    reload_difference: float


def merge(
    base: str,
    adapter: Path,
    out: Path,
    *,
    dtype: torch.dtype | None = None,
    wrapper: Wrapper = "chat",
) -> Merged:
    """Write base and adapter as one model.

    Works on the CPU and needs four bytes of memory a weight, and as many again to check.

    Args:
        base: Name of the model the adapter was trained on; it is loaded in float32.
        adapter: The adapter folder.
        out: Folder to write; it appears when complete and checked.
        dtype: Precision to store; float32 when None.
        wrapper: What stood around the prompts it was trained on; becomes the chat template.

    Raises:
        UserError: `out` is taken, `adapter` is a whole model already, or does not fit the base.
        SaveCheckError: merged or read back, the model answers differently; nothing is kept.
    """
    _refuse_taken(out)
    if not is_adapter(adapter) and (adapter / "config.json").is_file():
        raise UserError(
            f"{adapter} is a whole model already; there is no adapter to merge.",
            remedy="Use that folder as the model.",
        )
    plain = load_language_model(base, dtype=torch.float32, device="cpu")
    attached = with_adapter(wrapped(plain, wrapper), adapter)
    before = _answers(attached)
    whole = _whole(attached)
    difference = _difference(_answers(whole), before)
    _insist(difference, MERGE_TOLERANCE, f"{adapter} merged into {base}")
    stored = _rounded(whole, dtype or torch.float32)
    answers = _answers(stored)
    place = out.absolute()
    new = place.with_name(f".{place.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        _write(stored, new)
        again = load_language_model(str(new), dtype=stored.model.dtype, device="cpu")
        reloaded = _difference(_answers(again), answers)
        _insist(reloaded, RELOAD_TOLERANCE, f"the model read back from {out.name}")
        new.rename(out)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return Merged(
        folder=out,
        bytes=sum(file.stat().st_size for file in out.iterdir()),
        precision=str(stored.model.dtype).removeprefix("torch."),
        adapter_difference=_difference(answers, before),
        reload_difference=reloaded,
    )


def _refuse_taken(out: Path) -> None:
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(
            f"{out} is there already and not empty.",
            remedy="Remove it, or name another folder with --out.",
        )


def _whole(attached: LanguageModel) -> LanguageModel:
    """The base with the adapter's updates added to its weights."""
    inner = attached.model.get_base_model()
    ends = [inner.get_input_embeddings(), inner.get_output_embeddings()]
    raw = [end.get_base_layer() if isinstance(end, BaseTunerLayer) else end for end in ends]
    if raw != ends and raw[1] is not None and raw[0].weight is raw[1].weight:
        # One weight serves both ends, and an update of one end would be added to the other too.
        raw[1].weight = torch.nn.Parameter(raw[1].weight.detach().clone())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the same; PEFT then writes that they are untied
        return replace(attached, model=attached.model.merge_and_unload().eval())


def _rounded(whole: LanguageModel, dtype: torch.dtype) -> LanguageModel:
    """The same with its weights in another precision; buffers stay, as they do when loading."""
    for weight in whole.model.parameters():
        weight.data = weight.data.to(dtype)
    return whole


def _write(model: LanguageModel, folder: Path) -> None:
    folder.mkdir(parents=True)
    with quiet_loading():
        model.model.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
    for part in [*folder.iterdir(), folder]:
        descriptor = os.open(part, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _answers(model: LanguageModel) -> list[torch.Tensor]:
    """Last-token logits of the fixed prompts, float32."""
    found = []
    with torch.inference_mode():
        for probe in _PROBES:
            ids: Any = model.tokenizer(probe, return_tensors="pt")["input_ids"]
            found.append(model.model(input_ids=ids).logits[0, -1].float())
    return found


def _difference(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> float:
    pairs = zip(left, right, strict=True)
    return max(float((one - other).abs().max()) for one, other in pairs)


def _insist(difference: float, allowed: float, what: str) -> None:
    if not difference <= allowed:  # a difference that is no number fails too
        raise SaveCheckError(
            f"{what} gives other logits (difference {difference:.3g}, allowed {allowed:g}); "
            "nothing was kept"
        )
