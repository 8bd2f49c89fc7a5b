"""Which weights of a prompt-reading language model are trained below its networks, and their files.

With an adapter on the top layers only, everything below them stays fixed: its states are computed
once. With one on all layers only the embeddings do, and with all weights trained nothing does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tastemaker.errors import UserError
from tastemaker.models.adapters import base_identity
from tastemaker.models.language import LanguageModel, quiet_loading
from tastemaker.models.prompt_states import PromptBackbone
from tastemaker.tuning.settings import Kind, TuneSettings
from tastemaker.tuning.weights import trainable

__all__ = ["make_trainable", "read_trained", "save_trained"]

_BASE, _ADAPTER, _WEIGHTS = "base.json", "adapter", "language_model.safetensors"
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, RuntimeError, SafetensorError)


class _Adapter(Protocol):
    """What PEFT wraps around a model."""

    peft_config: dict[str, Any]

    def save_pretrained(self, folder: str, **options: Any) -> None: ...


def make_trainable(
    backbone: PromptBackbone, settings: TuneSettings, *, kind: Kind, seed: int
) -> _Adapter | None:
    """Put an adapter into a backbone, or free its weights, and say which layers stay fixed.

    Args:
        backbone: Changed in place; in float32 where all its weights are trained, as half-precision
            ones would swallow small steps.
        settings: Shape of the adapter.
        kind: `frozen`, `lora` or `full`.
        seed: Of the adapter's weights.

    Returns:
        The adapter, for `save_trained`.

    Raises:
        UserError: the model has no layer of a name in `target_modules`, fewer layers than are to be
            adapted, or packed weights are asked for.
    """
    if kind == "qlora":
        raise UserError(
            "tune.kind qlora is not made for models whose states are read.",
            allowed="frozen, lora or full",
        )
    base = LanguageModel(backbone.model, backbone.tokenizer, backbone.name, backbone.folder)
    found: Any = trainable(base, kind=kind, shape=settings.lora, adapter=None, seed=seed)
    backbone.trains_embeddings = kind == "full"
    backbone.fixed = max(backbone.depths) if kind == "frozen" else 0
    if kind == "full":
        backbone.model.float()
    if kind != "lora":
        return None
    backbone.fixed = backbone.layers - (settings.lora.layers or backbone.layers)
    adapter: _Adapter = found
    return adapter


def save_trained(backbone: PromptBackbone, folder: Path, *, adapter: _Adapter | None) -> None:
    """Write what was trained of the language model, and which one it was.

    Args:
        backbone: As trained.
        folder: Created when missing.
        adapter: What `make_trainable` gave.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if adapter is not None:
        adapter.peft_config["default"].base_model_name_or_path = backbone.name
        with quiet_loading():
            adapter.save_pretrained(
                str(folder / _ADAPTER), safe_serialization=True, save_embedding_layers=False
            )
        (folder / _ADAPTER / "README.md").unlink(missing_ok=True)
    elif backbone.trains_embeddings:
        weights = {n: one.cpu().contiguous() for n, one in backbone.model.state_dict().items()}
        save_file(weights, folder / _WEIGHTS)
    about = {
        "name": backbone.name,
        "identity": base_identity(backbone.folder),
        "depths": backbone.depths,
        "fixed": backbone.fixed,
        "whole": backbone.trains_embeddings,
    }
    (folder / _BASE).write_text(json.dumps(about, indent=1), encoding="utf-8")


def read_trained(backbone: PromptBackbone, folder: Path) -> None:
    """Inverse of `save_trained`, into a backbone as it comes.

    Raises:
        UserError: the folder holds nothing of the kind, or what was trained on another model.
    """
    try:
        about = json.loads((folder / _BASE).read_text(encoding="utf-8"))
        name, identity, fixed = about["name"], about["identity"], int(about["fixed"])
        depths, whole = tuple(about["depths"]), bool(about["whole"])
    except _UNREADABLE as error:
        raise _unreadable(folder, error) from None
    here = base_identity(backbone.folder)
    if identity != here or depths != backbone.depths:
        raise UserError(
            f"{folder} was trained on {name} ({identity}, depths {depths}), not on "
            f"{backbone.name} ({here}, depths {backbone.depths}).",
            remedy="Use the recipe that it was trained with.",
        )
    try:
        if (folder / _ADAPTER).is_dir():
            _check_files(folder / _ADAPTER)
            with quiet_loading():
                PeftModel.from_pretrained(backbone.model, str(folder / _ADAPTER))
        elif whole:
            backbone.model.float().load_state_dict(load_file(folder / _WEIGHTS))
    except _UNREADABLE as error:
        raise _unreadable(folder, error) from None
    backbone.model.eval()
    backbone.fixed, backbone.trains_embeddings = fixed, whole


def _check_files(adapter: Path) -> None:
    """Where one is missing, PEFT would look for it in the network, or for a pickle.

    Raises:
        FileNotFoundError: one is missing.
    """
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (adapter / name).is_file():
            raise FileNotFoundError(name)


def _unreadable(folder: Path, error: Exception) -> UserError:
    return UserError(
        f"{folder} holds no trained language model that can be read ({type(error).__name__}).",
        remedy="Name the folder that tastemaker tune wrote.",
    )
