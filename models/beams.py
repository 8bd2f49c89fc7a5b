"""Beams of a language model: many continuations of each prompt, extended together.

A prompt is read once, whatever the number of its beams. Nothing here decides what comes next: see
`models.generation`. Rows of a batch are prompts; the beams of a prompt are its *slots*.

A causal model keeps all beams of a prompt in one row, as a tree whose tokens see their own past
only: its cache grows and is never rearranged, and the prompt's keys and values are not repeated. An
encoder-decoder has a row per beam, but all of them meet one copy of what the encoder has read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tastemaker.errors import StageError, UserError
from tastemaker.models.conversations import encode_prompts
from tastemaker.models.hidden_states import check_context
from tastemaker.models.language import LanguageModel, aligned
from tastemaker.models.mixed_precision import half_products
from tastemaker.models.output_layer import OutputLayer
from tastemaker.models.prefix_tree import attends_fully
from tastemaker.models.seq2seq import bare, decoder_start, encode_sources, encoded, is_seq2seq

__all__ = [
    "Beams",
    "CausalBeams",
    "Seq2SeqBeams",
    "Seq2SeqOutput",
    "beams_of",
    "decoder_states",
    "shared_sources",
]

_SHARED = "tastemaker_shared_source"  # as transformers knows `_shared_source_attention`
_PROBES = (1, 2)  # any two tokens


class Beams(Protocol):
    """Continuations of prompts.

    Attributes:
        output: Gives logits from hidden states.
        sources: Token ids of the prompts.
    """

    output: OutputLayer
    sources: list[list[int]]

    def begin(self, places: Sequence[int], head: Sequence[int]) -> Tensor:
        """Read some prompts, and what all answers begin with.

        Args:
            places: Which prompts.
            head: h tokens.

        Returns:
            Float [B, h + 1, width]: hidden states that foretell the head and what comes after it.
        """

    def extend(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """Put a token behind beams.

        Args:
            parents: int64 [B, W], the slot that each new slot continues.
            tokens: int64 [B, W].

        Returns:
            Float [B, W, width], hidden states of the new slots.
        """

    def complete(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """Put several tokens behind beams, without keeping them.

        Args:
            parents: int64 [B, V], the slots that are continued.
            tokens: int64 [B, V, L].

        Returns:
            Float [B, V, L, width].
        """

    def keep(self, rows: Tensor) -> None:
        """Go on with some prompts only: int64 [B'], places among the present ones."""


def beams_of(
    language_model: LanguageModel, prompts: Sequence[Any], *, longest: int, share: bool = True
) -> Beams:
    """Beams of a causal or an encoder-decoder model.

    Args:
        language_model: With or without an adapter.
        prompts: Conversations without the answer, at least one.
        longest: Tokens of the longest answer.
        share: Whether the model is inside `shared_sources` and lets beams share a source.

    Raises:
        UserError: a prompt and an answer are longer than the model's context, or a causal model's
            layers cannot follow branches, or its tokenizer has no chat template.
        StageError: the architecture changes its logits in a way that is not known here.
    """
    if is_seq2seq(language_model.model):
        return Seq2SeqBeams(language_model, prompts, longest=longest, share=share)
    return CausalBeams(language_model, prompts, longest=longest)


class CausalBeams:
    """Beams of a causal model: one row a prompt, a tree of tokens.

    Args:
        language_model: With or without an adapter.
        prompts: Conversations without the answer.
        longest: Tokens of the longest answer.

    Raises:
        UserError: see `beams_of`.
        StageError: see `beams_of`.
    """

    def __init__(
        self, language_model: LanguageModel, prompts: Sequence[Any], *, longest: int
    ) -> None:
        self._causal = bare(language_model.model)
        self._decoder = self._causal.get_decoder()
        self._pad = language_model.tokenizer.pad_token_id
        self._dtype = next(self._causal.parameters()).dtype
        self.sources = encode_prompts(language_model.tokenizer, prompts)
        room = max(map(len, self.sources)) + longest
        check_context(self._causal, [range(room)])
        if not attends_fully(self._causal, room):
            raise UserError(
                f"'{language_model.name}' has layers that cannot follow several beams at once.",
                allowed="causal models whose tokens see all tokens before them, or "
                "encoder-decoder models",
                remedy="Choose another model, such as smollm2.",
            )
        self.output: OutputLayer = OutputLayer(self._causal)
        with half_products(self._causal):
            self.output.check()
        self._cache: Any = None

    def begin(self, places: Sequence[int], head: Sequence[int]) -> Tensor:
        """See `Beams.begin`."""
        asked = [[*self.sources[place], *head] for place in places]
        tokens, mask = (
            part.to(self._causal.device) for part in aligned(asked, shared=0, pad=self._pad)
        )
        self._cache = DynamicCache()
        self._next = mask.sum(1)  # the position of the next token
        with half_products(self._causal):
            found = self._decoder(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                past_key_values=self._cache,
                use_cache=True,
            ).last_hidden_state
        self._seen = mask[:, None].bool()
        hidden: Tensor = found[:, -len(head) - 1 :]
        return hidden

    def extend(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """See `Beams.extend`."""
        rows, slots = parents.shape
        own = torch.eye(slots, dtype=torch.bool, device=parents.device).expand(rows, -1, -1)
        seen = torch.cat([self._past(parents), own], dim=2)
        hidden = self._run(tokens, seen, self._next[:, None].expand(-1, slots))
        self._seen, self._next = seen, self._next + 1
        return hidden

    def complete(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """See `Beams.complete`."""
        rows, slots, length = tokens.shape
        step = torch.arange(length, device=tokens.device)
        chain = torch.block_diag(*[(step[:, None] >= step).float()] * slots).bool()
        past = self._past(parents).repeat_interleave(length, dim=1)
        seen = torch.cat([past, chain.to(past.device).expand(rows, -1, -1)], dim=2)
        positions = self._next[:, None] + step.repeat(slots)
        hidden = self._run(tokens.reshape(rows, -1), seen, positions)
        self._cache.crop(-slots * length)
        return hidden.view(rows, slots, length, -1)

    def keep(self, rows: Tensor) -> None:
        """See `Beams.keep`."""
        self._cache.batch_select_indices(rows)
        self._seen, self._next = self._seen[rows], self._next[rows]

    def _past(self, parents: Tensor) -> Tensor:
        """Which tokens in the cache each parent sees: bool [B, W, cached]."""
        index = parents[..., None].expand(-1, -1, self._seen.shape[2])
        return self._seen.gather(1, index)

    def _run(self, tokens: Tensor, seen: Tensor, positions: Tensor) -> Tensor:
        mask = torch.zeros(seen.shape, dtype=self._dtype, device=seen.device)
        mask.masked_fill_(~seen, torch.finfo(self._dtype).min)
        with half_products(self._causal):
            found: Tensor = self._decoder(
                input_ids=tokens,
                attention_mask=mask[:, None],
                position_ids=positions,
                past_key_values=self._cache,
                use_cache=True,
            ).last_hidden_state
        return found


class Seq2SeqBeams:
    """Beams of an encoder-decoder: one row a beam, one source a prompt.

    Args:
        language_model: With or without an adapter.
        prompts: Conversations without the answer.
        longest: Tokens of the longest answer.
        share: Let the beams of a prompt meet one copy of its source; needs `shared_sources`.

    Raises:
        UserError: a prompt or an answer is longer than the model's context, or the model does not
            say what its decoder begins with.
        StageError: the architecture changes its logits in a way that is not known here.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        prompts: Sequence[Any],
        *,
        longest: int,
        share: bool,
    ) -> None:
        self._model = bare(language_model.model)
        self._decoder = self._model.get_decoder()
        self._tokenizer = language_model.tokenizer
        self._start = decoder_start(self._model)
        self._share = share
        self.sources = encode_sources(self._tokenizer, prompts)
        check_context(self._model, [*self.sources, range(longest)])
        self.output: OutputLayer = Seq2SeqOutput(self._model)
        self.output.check()
        self._slots = 1

    def begin(self, places: Sequence[int], head: Sequence[int]) -> Tensor:
        """See `Beams.begin`."""
        asked = [self.sources[place] for place in places]
        self._states, mask = encoded(self._model, asked, pad=self._tokenizer.pad_token_id or 0)
        self._mask = mask[:, None, None].bool()
        self._own, self._cross, self._slots = DynamicCache(), DynamicCache(), 1
        tokens = torch.tensor([[self._start, *head]] * len(asked), device=self._states.device)
        return self._run(tokens, self._own, slots=1)

    def extend(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """See `Beams.extend`."""
        rows, slots = tokens.shape
        self._own, self._slots = self._continued(parents), slots
        return self._run(tokens.reshape(-1, 1), self._own, slots=slots).view(rows, slots, -1)

    def complete(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """See `Beams.complete`."""
        rows, slots, length = tokens.shape
        hidden = self._run(tokens.reshape(-1, length), self._continued(parents), slots=slots)
        return hidden.view(rows, slots, length, -1)

    def keep(self, rows: Tensor) -> None:
        """See `Beams.keep`."""
        every = torch.arange(self._slots, device=rows.device)
        self._own.batch_select_indices((rows[:, None] * self._slots + every).flatten())
        self._cross.batch_select_indices(rows)
        self._states, self._mask = self._states[rows], self._mask[rows]

    def _continued(self, parents: Tensor) -> DynamicCache:
        """What the decoder remembers of each parent, one row each."""
        begins = torch.arange(len(parents), device=parents.device) * self._slots
        return _selected(self._own, (begins[:, None] + parents).flatten())

    def _run(self, tokens: Tensor, own: DynamicCache, *, slots: int) -> Tensor:
        cross, states, mask = self._cross, self._states, self._mask
        if slots > 1 and not self._share:
            rows = torch.arange(len(states), device=states.device).repeat_interleave(slots)
            cross, states, mask = _selected(cross, rows), states[rows], mask[rows]
        found: Tensor = self._decoder(
            input_ids=tokens,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            past_key_values=EncoderDecoderCache(own, cross),
            use_cache=True,
        ).last_hidden_state
        return decoder_states(self._model, found)


def decoder_states(model: Any, decoded: Tensor) -> Tensor:
    """What a decoder gives as what the output layer takes: T5 with tied embeddings scales it."""
    scaled = getattr(model.config, "scale_decoder_outputs", False)
    return decoded * model.config.d_model**-0.5 if scaled else decoded


class Seq2SeqOutput(OutputLayer):
    """Logits from `decoder_states`, as the encoder-decoder model itself gives them.

    Args:
        model: An encoder-decoder of transformers, without its adapter's wrapper.
    """

    def check(self) -> None:
        """See `OutputLayer.check`."""
        model = self._causal
        probes = torch.tensor([_PROBES], device=model.device)
        states = model.get_encoder()(input_ids=probes).last_hidden_state
        decoded = model.get_decoder()(
            input_ids=probes, encoder_hidden_states=states, use_cache=False
        )
        found = self(decoder_states(model, decoded.last_hidden_state)[:, -1])
        expected = model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            decoder_input_ids=probes,
            use_cache=False,
        ).logits[:, -1]
        bias = getattr(model, "final_logits_bias", None)  # of BART; zeros unless trained otherwise
        biased = bias is not None and bool(bias.any())
        if biased or not torch.allclose(found, expected.float(), rtol=0.05, atol=0.25):
            raise StageError(
                f"{type(model).__name__} changes its logits after the output layer in an unknown "
                "way."
            )


@contextmanager
def shared_sources(model: Any) -> Iterator[bool]:
    """Let rows of a decoder share what its encoder has read, inside; whether they do.

    Args:
        model: A model of transformers, with or without an adapter; a causal one is left as it is.
    """
    inner = bare(model)
    before = getattr(inner.config, "_attn_implementation", None)
    if not is_seq2seq(inner) or before not in ("sdpa", "eager"):
        yield False
        return
    if not inner._can_set_attn_implementation():
        yield False
        return
    ALL_ATTENTION_FUNCTIONS.register(_SHARED, _shared_source_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(_SHARED, sdpa_mask)
    inner.set_attn_implementation(_SHARED)
    try:
        yield True
    finally:
        inner.set_attn_implementation(before)


def _shared_source_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it, where several rows of queries may share a row of keys.

    Args:
        module: The attention layer.
        query: [B x slots, heads, L, width].
        key: [B, heads, S, width].
        value: [B, heads, S, width].
        attention_mask: [B, 1, 1, S] where rows are shared.
        others: For PyTorch's attention. A bias by position is for self-attention only.

    Returns:
        [B x slots, L, heads, width], and no weights.
    """
    plain = ALL_ATTENTION_FUNCTIONS["sdpa"]
    if len(query) == len(key):
        found: tuple[Tensor, None] = plain(module, query, key, value, attention_mask, **others)
        return found
    rows, heads, length, width = query.shape
    together = query.view(len(key), -1, heads, length, width).transpose(1, 2)
    together = together.reshape(len(key), heads, -1, width)
    others = {**others, "position_bias": None, "is_causal": False}
    attended, _ = plain(module, together, key, value, attention_mask, **others)
    return attended.reshape(rows, length, heads, -1), None


def _selected(cache: Any, rows: Tensor) -> DynamicCache:
    found = DynamicCache()
    for place, layer in enumerate(cache.layers):
        found.update(layer.keys[rows], layer.values[rows], place)
    return found
