"""Which weights of a model are trained: a low-rank adapter, one on a 4-bit base, or all."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

from tastemaker.errors import UserError
from tastemaker.models.adapters import with_adapter
from tastemaker.models.language import LanguageModel, quiet_loading
from tastemaker.models.seq2seq import is_seq2seq
from tastemaker.models.whole_words import WholeWordT5
from tastemaker.tuning.settings import AdapterShape, Kind

__all__ = ["check_kind", "quantisation", "trainable"]

_CAUSAL_DEFAULT = ("q_proj", "v_proj")  # of Llama and its kin, what a recipe says by default
_T5_DEFAULT = ("q", "v")  # the same layers


def check_kind(kind: Kind) -> None:
    """Make sure that this machine can train so.

    Raises:
        UserError: `qlora` without a CUDA device, or without the package bitsandbytes.
    """
    if kind != "qlora":
        return
    lacking = []
    if not torch.cuda.is_available():
        lacking.append("a CUDA device")
    if importlib.util.find_spec("bitsandbytes") is None:
        lacking.append("the package bitsandbytes (pip install bitsandbytes)")
    if lacking:
        raise UserError(
            f"tune.kind qlora keeps the base model in 4 bits, which needs {' and '.join(lacking)}.",
            allowed="on this machine: lora or full",
            remedy="Set tune.kind to lora.",
        )


def quantisation(kind: Kind, dtype: torch.dtype) -> Any:
    """How the base is packed: 4-bit NormalFloat, scales packed too (QLoRA, arXiv 2305.14314).

    Returns:
        A `BitsAndBytesConfig`, or None where the base stays as it is.
    """
    if kind != "qlora":
        return None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def trainable(
    base: LanguageModel,
    *,
    kind: Kind,
    shape: AdapterShape,
    adapter: Path | None,
    seed: int,
) -> Any:
    """The model with the weights that will be trained; all others are frozen.

    Args:
        base: Modified in place.
        kind: What is trained.
        shape: Of a new adapter.
        adapter: Go on with this one instead, in the shape it has.
        seed: Of the new adapter's weights.

    Raises:
        UserError: the adapter does not belong to the base, the base has no layer of a name in
            `target_modules`, or an adapter was given for training all weights.
    """
    if kind == "full":
        if adapter is not None:
            raise UserError(
                "tune.kind full trains the whole model, so there is no adapter to go on from.",
                remedy="Merge it first (tastemaker merge) and name the merged folder as "
                "tune.model, or set tune.kind to lora.",
            )
        return base.model.requires_grad_(True)
    model = base.model
    if kind == "qlora":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if adapter is not None:
        return with_adapter(base, adapter, trainable=True).model
    seq2seq = is_seq2seq(model)
    targets = shape.target_modules
    if seq2seq and targets == _CAUSAL_DEFAULT:
        targets = _T5_DEFAULT
    _check_targets(model, targets)
    with quiet_loading(), torch.random.fork_rng(devices=_devices(base)):
        torch.manual_seed(seed)
        return get_peft_model(
            model,
            LoraConfig(
                r=shape.rank,
                lora_alpha=shape.alpha,
                lora_dropout=shape.dropout,
                target_modules=list(targets),
                modules_to_save=_new_modules(model),
                task_type="SEQ_2_SEQ_LM" if seq2seq else "CAUSAL_LM",
            ),
        )


def _new_modules(model: Any) -> list[str] | None:
    """Whole-word embeddings, which no pretrained model brings, are trained besides an adapter."""
    return ["whole_words"] if isinstance(model, WholeWordT5) else None


def _devices(base: LanguageModel) -> list[int]:
    return [base.device.index or 0] if base.device.type == "cuda" else []


def _check_targets(model: Any, wanted: tuple[str, ...]) -> None:
    names = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if hasattr(module, "weight") and getattr(module.weight, "ndim", 0) == 2
    }
    missing = sorted(set(wanted) - names)
    if missing:
        raise UserError(
            f"tune.lora.target_modules: the base model has no layer {', '.join(missing)}.",
            allowed=f"its layers: {', '.join(sorted(names))}",
        )
