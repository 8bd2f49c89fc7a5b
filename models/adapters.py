"""Adapters on a language model: read, checked against their base, attached.

Current PEFT folders (`adapter_model.safetensors`) and those of PEFT 0.3 (`adapter_model.bin`, as
alpaca-lora and TALLRec published them) are read. Everything is checked on a weightless copy of the
base first, so a refused adapter leaves the model it was meant for as it was.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from peft import LoraConfig, PeftModel, PeftModelForCausalLM, PeftModelForSeq2SeqLM
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file

from tastemaker.errors import UserError
from tastemaker.models.language import (
    LanguageModel,
    load_language_model,
    quiet_loading,
    refuse_pointer,
)
from tastemaker.models.seq2seq import is_seq2seq

__all__ = ["base_identity", "is_adapter", "tuned", "with_adapter"]

_CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")  # the first that is there counts
_RECORD = "tuning.json"  # ours; tells which base an adapter was trained on
_PREFIX = "base_model.model."
_RETIRED = {"merge_weights"}  # a switch of PEFT 0.3 for how to compute, not for what
_END = 1 << 20  # bytes at either end of a file of weights that name it
_BLOCKS, _BLOCK = 256, 1 << 12  # and those in between


@dataclass(frozen=True)
class _Adapter:
    """What an adapter folder holds: keyword arguments of `LoraConfig`, and the tensors."""

    folder: Path
    settings: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]

    def config(self, **changes: Any) -> LoraConfig:
        return LoraConfig(**{**copy.deepcopy(dict(self.settings)), **changes})


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter rather than a whole model."""
    return (folder / _CONFIG).is_file() and not (folder / "config.json").is_file()


def tuned(language_model: LanguageModel, folder: Path) -> LanguageModel:
    """The model as tuning left it, whichever way it was tuned.

    Args:
        language_model: The base; an adapter's layers are put *into* it, see `with_adapter`.
        folder: An adapter, or a whole model (full tuning), which is loaded in the base's
            precision and on its device.

    Raises:
        UserError: the folder holds neither, or an adapter that does not fit.
    """
    if (folder / "config.json").is_file():
        base = language_model.model
        return load_language_model(
            str(folder),
            dtype=base.dtype,
            device=language_model.device,
            seq2seq=is_seq2seq(base),
        )
    return with_adapter(language_model, folder)


def with_adapter(
    language_model: LanguageModel, folder: Path, *, trainable: bool = False
) -> LanguageModel:
    """The model with a saved LoRA adapter attached.

    The adapter's layers are put *into* the given model, so that one must not be used on its own any
    more; load it again for scores without the adapter. A refused adapter changes nothing.

    Args:
        language_model: The base, quantised or not.
        folder: What PEFT saved, as safetensors or in the form of PEFT 0.3.
        trainable: Whether the adapter's weights will be trained further.

    Raises:
        UserError: no adapter there, one that cannot be read, or one made for another base.
    """
    if isinstance(language_model.model, PeftModel):
        raise UserError(
            f"{language_model.name} carries an adapter already.",
            remedy="Load the base model again and attach one adapter to it.",
        )
    adapter = _read(folder)
    _refuse_other_base(language_model, folder)
    _refuse_misfit(language_model, adapter)
    with _silence():
        wrapper = _wrapper(language_model.model)
        model = wrapper(language_model.model, adapter.config(inference_mode=not trainable))
        # The return value is a report, not a model (the released TALLRec code took it for one).
        set_peft_model_state_dict(model, dict(adapter.tensors))
    return replace(language_model, model=model.eval())


def base_identity(folder: Path) -> str:
    """Short digest that tells models of the same shape but with other weights apart.

    It covers the architecture and, of each safetensors file, name, size, both ends (1 MiB each) and
    256 blocks in between: a fraction of a second however big the model is.

    Args:
        folder: A model folder.
    """
    found = hashlib.blake2b(digest_size=8)
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        found.update(f"{file.name}:{size}:".encode())
        with file.open("rb") as handle:
            found.update(handle.read(_END))
            for block in range(_BLOCKS):
                handle.seek(size * block // _BLOCKS)
                found.update(handle.read(_BLOCK))
            handle.seek(max(0, size - _END))
            found.update(handle.read())
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    found.update(json.dumps(config.get("architectures")).encode())
    return found.hexdigest()


def _read(folder: Path) -> _Adapter:
    weights = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if weights is None or not (folder / _CONFIG).is_file():
        raise UserError(
            f"{folder} holds no adapter.",
            allowed=f"An adapter folder has {_CONFIG} and {_WEIGHTS[0]} (or, of old, "
            f"{_WEIGHTS[1]}).",
            remedy="Name the folder that `tastemaker tune` wrote.",
        )
    refuse_pointer(weights)
    return _Adapter(folder, _settings(folder / _CONFIG), _tensors(weights))


def _settings(file: Path) -> dict[str, Any]:
    """Keyword arguments of `LoraConfig`; what this PEFT does not know may only be switched off."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        kind = found.get("peft_type")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{file} cannot be read: {error}.", remedy="Fetch it again.") from None
    if kind != "LORA":
        raise UserError(f"{file} describes an adapter of kind {kind}.", allowed="Allowed: LORA.")
    known = {field.name for field in fields(LoraConfig)}
    strange = [name for name, value in found.items() if value and name not in known | _RETIRED]
    # A Megatron adapter names a module to import: nothing a file may ask for.
    strange += ["megatron_config"] if found.get("megatron_config") else []
    if strange:
        raise UserError(
            f"{file} uses what is not supported here: {', '.join(sorted(strange))}.",
            allowed="LoRA as the installed PEFT knows it, with its variants.",
            remedy="If a newer PEFT wrote it, run: pip install -U peft",
        )
    dropped = {"auto_mapping", "megatron_core", "peft_type", "runtime_config"}
    return {name: value for name, value in found.items() if name in known - dropped}


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        if file.suffix == ".safetensors":
            found = load_file(file)
        else:
            # A .bin file is a pickle, and unpickling can call any function it names. With
            # weights_only torch builds tensors and plain containers and refuses all else.
            found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # readers of damaged or hostile files raise all kinds
        raise UserError(
            f"{file} cannot be read as weights ({type(error).__name__}).",
            allowed="A file of tensors only; one that holds code is never run.",
            remedy="Fetch it again, or ask its author for safetensors.",
        ) from None
    whole = isinstance(found, dict) and found
    if not whole or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise UserError(
            f"{file} holds no tensors of an adapter.",
            remedy="It was saved wrongly (alpaca-lora's first versions did so): fetch another.",
        )
    return found


def _refuse_other_base(language_model: LanguageModel, folder: Path) -> None:
    """Compare the base with the one that our own record of the training names."""
    try:
        trained_on = json.loads((folder / _RECORD).read_text(encoding="utf-8"))["base"]
        name, identity = trained_on["name"], trained_on["identity"]
    except (OSError, ValueError, LookupError, TypeError):
        return
    here = base_identity(language_model.folder)
    if here != identity:
        raise UserError(
            f"the adapter in {folder} was trained on other weights than those of "
            f"{language_model.name} ({identity}, here {here}).",
            allowed=f"Its base is {name}.",
            remedy="Load that base, or tune again on this one.",
        )


def _refuse_misfit(language_model: LanguageModel, adapter: _Adapter) -> None:
    """Attach the adapter's shapes to a copy of the base that has no weights."""
    skeleton = _skeleton(language_model.model)
    layers = {name for name, _ in skeleton.named_modules()}
    expected: Mapping[str, torch.Tensor] = {}
    try:
        with _silence():
            # Other initialisations decompose weights, which a copy without weights cannot.
            config = adapter.config(init_lora_weights=False)
            model = _wrapper(skeleton)(skeleton, config, low_cpu_mem_usage=True)
            expected = get_peft_model_state_dict(model, save_embedding_layers=False)
            shapes = {
                name: torch.empty_like(value, device="meta")
                for name, value in adapter.tensors.items()
            }
            report = set_peft_model_state_dict(model, shapes, low_cpu_mem_usage=True)
    except (TypeError, ValueError, LookupError, RuntimeError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        _refuse(language_model, adapter, _misfit(adapter, layers, expected) or reason)
    missing = [name for name in report.missing_keys if "lora_" in name or "_to_save." in name]
    if report.unexpected_keys or missing:
        told = [f"has no place for {_plain(name)}" for name in report.unexpected_keys]
        told += [f"has {_plain(name)}, which the adapter lacks" for name in missing]
        _refuse(
            language_model,
            adapter,
            _misfit(adapter, layers, expected) or f"the base {told[0]} ({len(told)} such tensors)",
        )


def _misfit(
    adapter: _Adapter, layers: set[str], expected: Mapping[str, torch.Tensor]
) -> str | None:
    """What does not fit, in words: layers the base lacks, or the first of the wrong shape."""
    touched = {_plain(name).partition(".lora_")[0] for name in adapter.tensors if ".lora_" in name}
    if absent := touched - layers:
        names = sorted({name.rpartition(".")[2] for name in absent})
        known = {layer.rpartition(".")[2] for layer in layers}
        new = [name for name in names if name not in known]
        if new:
            return f"the base has no layers named {', '.join(new)}"
        return f"the base has no {min(absent)} ({len(absent)} such layers)"
    for name, value in adapter.tensors.items():
        if name in expected and expected[name].shape != value.shape:
            shapes = [" × ".join(map(str, one.shape)) for one in (value, expected[name])]
            return f"{_plain(name)} is {shapes[0]}, the base needs {shapes[1]}"
    return None


def _refuse(language_model: LanguageModel, adapter: _Adapter, reason: str) -> NoReturn:
    base = adapter.settings.get("base_model_name_or_path")
    raise UserError(
        f"the adapter in {adapter.folder} does not fit {language_model.name}: {reason}.",
        allowed=f"It names as its base: {base}." if base else "It does not name its base.",
        remedy="Attach it to the model it was trained on.",
    )


def _wrapper(model: Any) -> Any:
    """PEFT's class for the kind of model."""
    return PeftModelForSeq2SeqLM if is_seq2seq(model) else PeftModelForCausalLM


def _plain(name: str) -> str:
    return name.removeprefix(_PREFIX).replace(".default", "")


def _skeleton(model: Any) -> Any:
    """The model's architecture without weights; of a quantised one, as it was before."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        return type(model)(config)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """PEFT's remarks on an adapter's history are nothing to act on; what matters is checked."""
    with quiet_loading(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
