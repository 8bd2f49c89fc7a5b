"""Hidden states of prompts at several depths of a language model, causal or encoder.

What lies below the lowest layer that can change is the same at every epoch: `lower` computes it,
`upper` goes on from there. Both are the model's own code: layers that are not wanted let the states
pass, and the first one that is wanted gets the states computed before in place of those of the
layers below. Whether a model bears that is tried out by `resumes`; in one go, all are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

from tastemaker.errors import DataError, UserError
from tastemaker.models.adapters import base_identity
from tastemaker.models.encoders import transformer_folder
from tastemaker.models.hidden_states import evaluating
from tastemaker.models.language import best_dtype, default_device, quiet_loading
from tastemaker.models.mixed_precision import half_products
from tastemaker.models.token_encoders import check_plain_model

__all__ = ["Lower", "PromptBackbone", "load_backbone", "rung_depths"]

_PROBE = (1, 2, 3)  # tokens that every vocabulary has
_TOLERANCE = 1e-3  # of states that are scaled to variance 1, resumed against in one go


@dataclass(frozen=True)
class Lower:
    """What does not change of B prompts of T tokens at most.

    Attributes:
        states: Float [B, T, width] at each depth that is fixed, lowest first, scaled.
        resumed: Float [B, T, width], what the layer `fixed` reads; None where all layers are fixed.
    """

    states: list[Tensor]
    resumed: Tensor | None


class PromptBackbone(nn.Module):
    """A language model whose states at some depths are read.

    States are scaled to mean 0 and variance 1 for each token, and rounded to half precision, so
    that those kept on disk and those computed anew are the same. (A deviation from Uni-CTR: in
    models that normalise inside their layers, single entries of raw states grow to thousands.)

    Args:
        model: Of transformers, without a head; an adapter's layers may be inside. Its mode,
            training or evaluation, is that of the whole.
        tokenizer: Its own.
        name: As asked for.
        folder: Where its weights were read from.
        depths: Ascending, from 0 (the embeddings) to the number of layers; the last one is the top.
        fixed: Number of lowest layers that do not change.

    Attributes:
        width: Of a state.
        layers: Number of layers.
        config: Of the model.
        trains_embeddings: Whether all weights are trained, so that nothing at all is fixed.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        folder: Path,
        depths: Sequence[int],
        fixed: int,
    ) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.name, self.folder = name, folder
        self.depths, self.fixed = tuple(depths), fixed
        self.config = model.config
        self.width, self.layers = _sizes(model)
        self.trains_embeddings = False
        self.train(bool(model.training))

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.model.parameters()).device

    @property
    def kept(self) -> int:
        """How many of the depths are fixed."""
        return 0 if self.trains_embeddings else sum(depth <= self.fixed for depth in self.depths)

    @property
    def is_fixed(self) -> bool:
        """Whether nothing that is read can change."""
        return self.kept == len(self.depths)

    def identity(self) -> str:
        """A short digest of all that fixed states depend on, an adapter among it included."""
        seen = hashlib.blake2b(base_identity(self.folder).encode(), digest_size=8)
        above = list(_stack(self.model, self.layers))[self.fixed :]
        open_weights = {id(weight) for layer in above for weight in layer.parameters()}
        for weight in self.model.parameters():
            if id(weight) not in open_weights:
                seen.update(weight.detach().float().cpu().numpy().tobytes())
        return seen.hexdigest()

    @contextmanager
    def all_fixed(self) -> Iterator[None]:
        """Nothing of the model changes inside, whatever was trained of it before."""
        before = self.fixed, self.trains_embeddings
        self.fixed, self.trains_embeddings = max(self.depths), False
        try:
            yield
        finally:
            self.fixed, self.trains_embeddings = before

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of prompts; what looks like a special token inside a text is plain text.

        Raises:
            DataError: a text without any token.
        """
        if not texts:
            return []
        found: list[list[int]] = self.tokenizer(
            list(texts), split_special_tokens=True, return_attention_mask=False, verbose=False
        )["input_ids"]
        if not all(found):
            raise DataError(
                f"prompt {found.index([])} has no token.",
                remedy="Choose a template that shows something of every item.",
            )
        return found

    def lower(self, ids: Tensor, mask: Tensor) -> Lower:
        """Run the fixed layers only.

        Args:
            ids: Token ids int64 [B, T], padded on the right.
            mask: Int64 [B, T], 0 for padding.
        """
        with self._watched(range(self.fixed)) as seen, torch.no_grad():
            top = self._run(ids, mask)
        states = self._at(self.depths[: self.kept], seen, top)
        return Lower(states, None if self.is_fixed else seen[self.fixed])

    def upper(self, ids: Tensor, mask: Tensor, *, lower: Lower) -> list[Tensor]:
        """All depths, float32 [B, T, width] each, going on from what is known."""
        if lower.resumed is None:
            return lower.states
        with self._watched(range(self.fixed, self.layers), resumed=lower.resumed) as seen:
            top = self._run(ids, mask)
        return [*lower.states, *self._at(self.depths[len(lower.states) :], seen, top)]

    def forward(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        """All depths in one go, float32 [B, T, width] each."""
        if self.is_fixed:
            return self.lower(ids, mask).states
        with self._watched(range(self.layers)) as seen:
            top = self._run(ids, mask)
        return self._at(self.depths, seen, top)

    def train(self, mode: bool = True) -> Self:
        """Training mode for what can change; what is fixed is computed without dropout."""
        super().train(mode)
        if mode and not self.trains_embeddings:
            self.model.eval()
            for layer in list(_stack(self.model, self.layers))[self.fixed :]:
                layer.train()
        return self

    def resumes(self, ids: Sequence[int]) -> bool:
        """Whether the model, run in two parts, says what it says in one."""
        return self._agrees(
            ids, lambda ids, mask: self.upper(ids, mask, lower=self.lower(ids, mask))
        )

    def reads(self, ids: Sequence[int]) -> bool:
        """Whether what is read at the depths is what the model says of its layers."""
        return self._agrees(ids, self)

    def _agrees(
        self, ids: Sequence[int], read: Callable[[Tensor, Tensor], Sequence[Tensor]]
    ) -> bool:
        tokens = torch.tensor([list(ids)], device=self.device)
        mask = torch.ones_like(tokens)
        with evaluating(self), torch.no_grad():
            try:
                whole = self._run(tokens, mask, output_hidden_states=True)
                pairs = zip(read(tokens, mask), self.depths, strict=True)
                return all(_close(one, _scaled(whole[depth])) for one, depth in pairs)
            except (AttributeError, LookupError, TypeError, ValueError, RuntimeError):
                return False  # a model's own code meets what it was not written for

    def _run(self, ids: Tensor, mask: Tensor, *, output_hidden_states: bool = False) -> Any:
        """The model's top states, or all; of half-precision weights always in the same way."""
        half = next(self.model.parameters()).dtype == torch.bfloat16
        with half_products(self.model) if half else nullcontext():
            found = self.model(
                input_ids=ids, attention_mask=mask, output_hidden_states=output_hidden_states
            )
        return found.hidden_states if output_hidden_states else found.last_hidden_state

    def _at(self, depths: Sequence[int], seen: Mapping[int, Tensor], top: Tensor) -> list[Tensor]:
        """States at some depths, scaled; `top` comes last, behind the final normalisation."""
        return [_scaled(top if depth == self.layers else seen[depth]) for depth in depths]

    @contextmanager
    def _watched(
        self, wanted: range, *, resumed: Tensor | None = None
    ) -> Iterator[dict[int, Tensor]]:
        """Collect what each layer reads; run these layers only, the first one on `resumed`."""
        answers = 0 if len(wanted) == self.layers else self._answers
        stack = _stack(self.model, self.layers)
        own = list(stack)
        seen: dict[int, Tensor] = {}
        for place, layer in enumerate(own):
            given = resumed if place == wanted.start else None
            runs = place in wanted
            stack[place] = _Watched(
                layer, place, seen=seen, given=given, runs=runs, answers=answers
            )
        try:
            yield seen
        finally:
            for place, layer in enumerate(own):
                stack[place] = layer

    @cached_property
    def _answers(self) -> int:
        """How many things a layer gives back as a tuple, its states first; 0: the states alone."""
        found: list[Any] = []
        last = _stack(self.model, self.layers)[-1]
        hook = last.register_forward_hook(lambda _module, _inputs, output: found.append(output))
        token = torch.ones((1, 1), dtype=torch.int64, device=self.device)
        try:
            with evaluating(self), torch.no_grad():
                self._run(token, token)
        finally:
            hook.remove()
        return len(found[0]) if isinstance(found[0], tuple) else 0


class _Watched(nn.Module):
    """Stands in place of a layer, and answers like it when asked what kind it is.

    Args:
        layer: Which.
        place: Its number.
        seen: Gets what it reads.
        given: What it is to read instead of what it is handed.
        runs: Whether it is run; else states pass.
        answers: How many things a layer gives back as a tuple; 0: states alone.
    """

    def __init__(
        self,
        layer: nn.Module,
        place: int,
        *,
        seen: dict[int, Tensor],
        given: Tensor | None,
        runs: bool,
        answers: int,
    ) -> None:
        super().__init__()
        self._layer = (layer,)  # not as a part, or its weights would be found in two places
        self._place, self._seen, self._given = place, seen, given
        self._runs, self._answers = runs, answers

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_layer"][0], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the layer makes of its states."""
        states = args[0] if args else kwargs.pop("hidden_states")
        if self._given is not None:
            states = self._given.to(states.dtype)
        self._seen[self._place] = states
        if self._runs:
            return self._layer[0](states, *args[1:], **kwargs)
        return (states, *[None] * (self._answers - 1)) if self._answers else states


def load_backbone(
    name: str,
    *,
    every: int | None = None,
    from_embeddings: bool = False,
    embeddings_only: bool = False,
    precision: str = "auto",
    device: torch.device | str | None = None,
) -> PromptBackbone:
    """Load a language model, causal or encoder, from this machine.

    Args:
        name: `smollm2`, `minilm`, a folder, or a hub id in the local cache.
        every: Layers between rungs (φ); a quarter of all when None, as the paper's four ladders.
        from_embeddings: Whether depth 0 is read too, as in the released code.
        embeddings_only: Read the embeddings at every depth and run no layer: the ablation without
            a language model.
        precision: `auto`, `float32` or `bfloat16`.
        device: See `default_device` when None.

    Returns:
        The model in evaluation mode, all of it fixed.

    Raises:
        MissingError: the model is not on this machine.
        UserError: no such depth, an encoder-decoder model, or one whose layers cannot be read.
    """
    folder = transformer_folder(name)
    check_plain_model(name, folder)
    place = torch.device(device) if device is not None else default_device()
    with quiet_loading():
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(
            folder,
            dtype=best_dtype(place, precision),
            use_safetensors=True,
            local_files_only=True,
        )
    model.config.use_cache = False
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = model.requires_grad_(False).to(place).eval()
    _, count = _sizes(model)
    _stack(model, count)
    depths = rung_depths(count, every=every, from_embeddings=from_embeddings)
    if embeddings_only:
        depths, count = (0,) * len(depths), 0
    made = PromptBackbone(model, tokenizer, name=name, folder=folder, depths=depths, fixed=count)
    if not made.reads(_PROBE):
        raise _unreadable(model)
    return made


def rung_depths(layers: int, *, every: int | None, from_embeddings: bool) -> tuple[int, ...]:
    """Depths of a ladder's rungs: every φ layers, counted from the top.

    >>> rung_depths(24, every=None, from_embeddings=False)
    (6, 12, 18, 24)
    >>> rung_depths(30, every=None, from_embeddings=False)
    (6, 14, 22, 30)

    Raises:
        UserError: more layers between rungs than there are.
    """
    step = every or -(-layers // 4)
    if step > layers:
        raise UserError(
            f"multi_domain.every = {step} layers between rungs, but the model has {layers}.",
            allowed=f"1 to {layers}",
        )
    top_down = tuple(range(layers, 0, -step))
    return (*((0,) if from_embeddings else ()), *reversed(top_down))


def _scaled(states: Tensor) -> Tensor:
    """Mean 0 and variance 1 for each token; rounded to half precision, float32.

    Gradients pass as they are: rounded like the states, most of a token's would be zero.
    """
    exact = functional.layer_norm(states.float(), (states.shape[-1],))
    rounded = exact.detach().half().float()
    return exact + (rounded - exact.detach()) if exact.requires_grad else rounded


def _close(one: Tensor, other: Tensor) -> bool:
    return bool(((one - other).abs() <= _TOLERANCE * (1 + other.abs())).float().mean() > 0.999)


def _sizes(model: Any) -> tuple[int, int]:
    """Width of a state and number of layers."""
    config = model.config.get_text_config()
    return int(config.hidden_size), int(config.num_hidden_layers)


def _stack(model: Any, layers: int) -> nn.ModuleList:
    """The list of the model's layers.

    Raises:
        UserError: there is none of that length.
    """
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == layers:
            return module
    raise _unreadable(model)


def _unreadable(model: Any) -> UserError:
    return UserError(
        f"the states behind each layer of this model ({model.config.model_type}) cannot be read.",
        allowed="encoders such as BERT and decoders such as SmolLM2",
    )
