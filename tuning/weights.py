"""Which weights of a model are trained: a low-rank adapter, one on a 4-bit base, or all."""

from __future__ import annotations

import importlib.util
import re
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

__all__ = ["check_kind", "quantisation", "top_layers", "trainable"]

_DEFAULT = ("q_proj", "v_proj")  # of Llama and its kin, what a recipe says by default
# The same layers of others: T5, BERT, DeBERTa, DistilBERT.
_LIKE_DEFAULT = (("q", "v"), ("query", "value"), ("query_proj", "value_proj"), ("q_lin", "v_lin"))
_LAYER = re.compile(r"(?:^|\.)(\d+)\.")  # the first number in a module's name is its layer's


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
    if kind == "frozen":
        return base.model.requires_grad_(False)
    model = base.model
    if kind == "qlora":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if adapter is not None:
        return with_adapter(base, adapter, trainable=True).model
    targets = _targets(model, shape)
    with quiet_loading(), torch.random.fork_rng(devices=_devices(base)):
        torch.manual_seed(seed)
        return get_peft_model(
            model,
            LoraConfig(
                r=shape.rank,
                lora_alpha=shape.alpha,
                lora_dropout=shape.dropout,
                target_modules=targets,
                modules_to_save=_new_modules(model),
                task_type=_task(model),
            ),
        )


def _new_modules(model: Any) -> list[str] | None:
    """Whole-word embeddings, which no pretrained model brings, are trained besides an adapter."""
    return ["whole_words"] if isinstance(model, WholeWordT5) else None


def _devices(base: LanguageModel) -> list[int]:
    return [base.device.index or 0] if base.device.type == "cuda" else []


def _task(model: Any) -> str:
    """PEFT's word for what the model is for; one without a head gives states."""
    if is_seq2seq(model):
        return "SEQ_2_SEQ_LM"
    return "CAUSAL_LM" if hasattr(model, "prepare_inputs_for_generation") else "FEATURE_EXTRACTION"


def top_layers(total: int, count: int | None) -> list[int] | None:
    """Numbers of the layers that get an adapter; None for all.

    Args:
        total: Layers of the model.
        count: How many, from the top; all when None.

    Raises:
        UserError: more than there are.
    """
    if count is None:
        return None
    if count > total:
        raise UserError(
            f"tune.lora.layers = {count}, but the model has {total} layers.",
            allowed=f"1 to {total}, or empty for all",
        )
    return list(range(total - count, total))


def _targets(model: Any, shape: AdapterShape) -> list[str]:
    """Names of the modules that get an adapter, in full where only the top layers do.

    They are the wanted ones; where the default is wanted, what it is called here.
    """
    matrices = [
        name
        for name, module in model.named_modules()
        if hasattr(module, "weight") and getattr(module.weight, "ndim", 0) == 2
    ]
    names = {name.rpartition(".")[2] for name in matrices}
    wanted = shape.target_modules
    if wanted == _DEFAULT and not names.issuperset(wanted):
        wanted = next((own for own in _LIKE_DEFAULT if names.issuperset(own)), wanted)
    missing = sorted(set(wanted) - names)
    if missing:
        raise UserError(
            f"tune.lora.target_modules: the base model has no layer {', '.join(missing)}.",
            allowed=f"its layers: {', '.join(sorted(names))}",
        )
    total = int(getattr(model.config.get_text_config(), "num_hidden_layers", 0))
    top = top_layers(total, shape.layers)
    if top is None:
        return list(wanted)
    # PEFT's own choice of layers wants a name before the list of layers, which a bare model lacks.
    mine = [name for name in matrices if name.rpartition(".")[2] in wanted]
    return [name for name in mine if (found := _LAYER.search(name)) and int(found[1]) in top]
