"""How likely a language model finds "Yes." against "No.": one forward pass per prompt, no sampling.

The score is the difference of the two answers' logits at the first position of the answer, that is
the log-odds of the choice between them. (TALLRec takes a softmax of two probabilities instead,
which ranks differently where both are small.) Three things make it fast: what all prompts begin
with is encoded once, prompts of similar length share a batch, and only the last hidden state of
each prompt meets only the two rows of the output layer that matter.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from tastemaker.errors import StageError, UserError
from tastemaker.models.language import LanguageModel

__all__ = ["Messages", "answer_tokens", "score_yes_no"]

Messages = Sequence[Mapping[str, str]]

_PROBE: Messages = ({"role": "user", "content": "Will the user like it?"},)


def score_yes_no(
    language_model: LanguageModel,
    prompts: Sequence[Messages],
    *,
    choices: tuple[str, str] = ("Yes.", "No."),
    batch_size: int = 16,
    share_prefix: bool = True,
    on_progress: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Log-odds of the first answer against the second, for each prompt.

    Apart from rounding, a score depends neither on the other prompts nor on order or batch size:
    in float32 it equals that of the prompt run alone within 1e-4.

    Args:
        language_model: With or without an adapter.
        prompts: Conversations without the answer, each a list of `{"role", "content"}`.
        choices: The positive and the negative answer.
        batch_size: Prompts per forward pass; on a CPU more than 16 is slower.
        share_prefix: Encode the longest common beginning once. Slower without, same scores.
        on_progress: Called with the number of prompts that have just been scored.

    Returns:
        float32 [n], natural log-odds; positive where the first answer is the likelier.

    Raises:
        UserError: the tokenizer has no chat template, or cannot tell the answers apart by their
            first token.
    """
    tokens = answer_tokens(language_model.tokenizer, choices)
    sequences = _encode(language_model.tokenizer, prompts)
    scores = np.empty(len(sequences), dtype=np.float32)
    # Longest first: a batch that does not fit into memory fails at once, not at the end.
    order = sorted(range(len(sequences)), key=lambda row: -len(sequences[row]))
    with _evaluating(language_model.model), torch.inference_mode():
        scorer = _Scorer(language_model, tokens, _common_prefix(sequences) if share_prefix else [])
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            scores[rows] = scorer([sequences[row] for row in rows])
            if on_progress:
                on_progress(len(rows))
    return scores


def answer_tokens(tokenizer: Any, choices: tuple[str, str] = ("Yes.", "No.")) -> tuple[int, int]:
    """The token that each answer begins with, right after the chat template's generation prompt.

    Raises:
        UserError: the tokenizer has no chat template, an answer is not a continuation of the
            prompt's tokens, or both answers begin with the same token.
    """
    (prompt,) = _render(tokenizer, [_PROBE])
    before = _tokenize(tokenizer, [prompt])[0]
    first: list[int] = []
    for choice in choices:
        whole = _tokenize(tokenizer, [prompt + choice])[0]
        if whole[: len(before)] != before or len(whole) == len(before):
            raise UserError(
                f"the answer {choice!r} merges with the end of the prompt into one token.",
                remedy="Choose another wording of the answers in the template.",
            )
        first.append(whole[len(before)])
    if first[0] == first[1]:
        shared = tokenizer.decode(first[:1])
        raise UserError(
            f"the answers {choices[0]!r} and {choices[1]!r} both begin with the token {shared!r}.",
            allowed="Answers are told apart by their first token.",
            remedy="Choose answers that begin differently.",
        )
    return first[0], first[1]


class _Scorer:
    """Scores batches of token sequences that all begin with `prefix`."""

    def __init__(
        self, language_model: LanguageModel, tokens: tuple[int, int], prefix: list[int]
    ) -> None:
        model = language_model.model
        # The layers of an adapter live inside the base model, so it stays active.
        causal = model.get_base_model() if isinstance(model, PeftModel) else model
        self._decoder = causal.get_decoder()
        self._device = language_model.device
        self._head = _AnswerHead(causal, tokens)
        self._check(causal, tokens)
        self._cache = self._encode_prefix(prefix, causal.config)
        self._skip = len(prefix) if self._cache is not None else 0

    def __call__(self, sequences: Sequence[list[int]]) -> NDArray[np.float32]:
        """float32 [B], log-odds for sequences in any order."""
        suffixes = [torch.tensor(sequence[self._skip :]) for sequence in sequences]
        # Padding stands to the right: no real token ever looks at it, so no mask is needed.
        inputs = torch.nn.utils.rnn.pad_sequence(suffixes, batch_first=True).to(self._device)
        cache = None
        if self._cache is not None:
            cache = copy.deepcopy(self._cache)  # a forward pass appends to the cache it is given
            cache.batch_repeat_interleave(len(sequences))
        hidden = self._decoder(
            input_ids=inputs, past_key_values=cache, use_cache=cache is not None
        ).last_hidden_state
        last = torch.tensor([len(suffix) - 1 for suffix in suffixes], device=hidden.device)
        logits = self._head(hidden[torch.arange(len(suffixes), device=hidden.device), last])
        return (logits[:, 0] - logits[:, 1]).cpu().numpy()

    def _check(self, causal: Any, tokens: tuple[int, int]) -> None:
        """Fail where the architecture does more to its logits than is known here."""
        inputs = torch.tensor([tokens], device=self._device)
        expected = causal(input_ids=inputs, use_cache=False).logits[:, -1, list(tokens)].float()
        found = self._head(
            self._decoder(input_ids=inputs, use_cache=False).last_hidden_state[:, -1]
        )
        if not torch.allclose(found, expected, rtol=0.05, atol=0.25):
            raise StageError(
                f"{type(causal).__name__} changes its logits after the output layer in an unknown "
                f"way: {expected.tolist()} instead of {found.tolist()}."
            )

    def _encode_prefix(self, prefix: list[int], config: Any) -> DynamicCache | None:
        if not prefix:
            return None
        cache = DynamicCache(config=config)
        if not all(isinstance(layer, DynamicLayer) for layer in cache.layers):
            return None  # recurrent layers: their state cannot be repeated for a batch
        inputs = torch.tensor([prefix], device=self._device)
        self._decoder(input_ids=inputs, past_key_values=cache, use_cache=True)
        return cache


class _AnswerHead:
    """Two rows of the output layer, in float32.

    Half-precision logits of this size lie up to 1/8 apart and would tie most scores.
    """

    def __init__(self, causal: Any, tokens: tuple[int, int]) -> None:
        self._layer = causal.get_output_embeddings()
        self._tokens = list(tokens)
        config = causal.config.get_text_config(decoder=True)
        # What some architectures do to logits after the output layer: Cohere, Granite, Gemma.
        self._factor = getattr(config, "logit_scale", None) or 1.0
        self._factor /= getattr(config, "logits_scaling", None) or 1.0
        self._cap = getattr(config, "final_logit_softcapping", None)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Float [B, width] to float32 [B, 2], logits of both answers."""
        logits = self._project(hidden) * self._factor
        return torch.tanh(logits / self._cap) * self._cap if self._cap else logits

    def _project(self, hidden: Tensor) -> Tensor:
        if type(self._layer) is not nn.Linear:  # an adapter sits on it: let it do its own work
            return self._layer(hidden)[:, self._tokens].float()
        logits = hidden.float() @ self._layer.weight[self._tokens].float().T
        bias = self._layer.bias
        return logits if bias is None else logits + bias[self._tokens].float()


def _encode(tokenizer: Any, prompts: Sequence[Messages]) -> list[list[int]]:
    return _tokenize(tokenizer, _render(tokenizer, prompts)) if len(prompts) else []


def _render(tokenizer: Any, prompts: Iterable[Messages]) -> list[str]:
    if not tokenizer.chat_template:
        raise UserError(
            "the tokenizer has no chat template, so it is unknown where an answer begins.",
            remedy="Use an instruction-tuned model.",
        )
    return [
        tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        for messages in prompts
    ]


def _tokenize(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    # The template has written all special tokens already.
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]


def _common_prefix(sequences: Sequence[list[int]]) -> list[int]:
    """Longest beginning that all share, leaving each at least one token of its own."""
    if len(sequences) < 2:
        return []
    # In lexicographic order, what the first and the last share is shared by all.
    first, last = min(sequences), max(sequences)
    pairs = zip(first, last, strict=False)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return first[: min(shared, min(map(len, sequences)) - 1)]


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
