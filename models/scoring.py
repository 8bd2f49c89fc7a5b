"""How likely a language model finds answers: one forward pass, no sampling.

`score_yes_no` tells "Yes." from "No." by the difference of the two answers' logits at the first
position of the answer, that is the log-odds of the choice between them. `score_candidates` gives
the log-probability of whole answers, such as the titles of candidate items.

Four things make it fast: what all prompts begin with is encoded once and cached; prompts that share
more than that, such as those of one user about many candidates, become the branches of one tree;
trees of similar size share a batch; and only the hidden states that matter meet the output layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tastemaker.models.conversations import (
    Messages,
    answer_tokens,
    encode_answered,
    encode_prompts,
)
from tastemaker.models.hidden_states import HiddenStates, evaluating
from tastemaker.models.language import LanguageModel
from tastemaker.models.output_layer import OutputLayer
from tastemaker.models.seq2seq import (
    encode_sources,
    first_answer_tokens,
    is_seq2seq,
    score_first_tokens,
)

__all__ = ["Measure", "Messages", "score_candidates", "score_yes_no"]

Measure = Literal["log_odds", "double_softmax"]
Scores = NDArray[np.float32]

_FULL_LOGITS = 256  # hidden states that meet the whole output layer at once


def score_yes_no(
    language_model: LanguageModel,
    prompts: Sequence[Messages],
    *,
    choices: tuple[str, str] = ("Yes.", "No."),
    measure: Measure = "log_odds",
    batch_tokens: int = 2048,
    share_prefix: bool = True,
    on_progress: Callable[[int], None] | None = None,
) -> Scores:
    """How much likelier the first answer is than the second, for each prompt.

    Apart from rounding, a score depends neither on the other prompts nor on order or batch size:
    in float32 it equals that of the prompt run alone within 1e-4.

    Args:
        language_model: With or without an adapter.
        prompts: Conversations without the answer, each a list of `{"role", "content"}`.
        choices: The positive and the negative answer.
        measure: `log_odds` is the difference of the two logits. `double_softmax` is that of the two
            probabilities among the whole vocabulary, which is what a second softmax over them ranks
            by (TALLRec's evaluator); where both are small it hardly tells prompts apart.
        batch_tokens: Tokens per forward pass, padding included; a longer row is run alone.
        share_prefix: Encode what prompts begin with once. Slower without, same scores.
        on_progress: Called with the number of prompts that have just been scored.

    Returns:
        float32 [n]; positive where the first answer is the likelier. Natural log-odds, or a
        difference of probabilities from -1 to 1.

    Raises:
        UserError: the tokenizer of a causal model has no chat template, one cannot tell the answers
            apart by their first token, or a prompt is longer than the model's context.
    """
    if is_seq2seq(language_model.model):
        return _of_seq2seq(
            language_model,
            prompts,
            choices,
            measure=measure,
            batch_tokens=batch_tokens,
            on_progress=on_progress,
        )
    tokens = answer_tokens(language_model.tokenizer, choices)
    sequences = encode_prompts(language_model.tokenizer, prompts)
    scores = np.empty(len(sequences), dtype=np.float32)
    if not sequences:
        return scores
    with evaluating(language_model.model), torch.inference_mode():
        last = [slice(len(sequence) - 1, len(sequence)) for sequence in sequences]
        run = HiddenStates(
            language_model.model, sequences, last, share=share_prefix, batch_tokens=batch_tokens
        )
        for places, hidden in run:
            scores[places] = _compare(run.output, hidden, tokens, measure).cpu().numpy()
            if on_progress:
                on_progress(len(places))
    return scores


def score_candidates(
    language_model: LanguageModel,
    prompts: Sequence[Messages],
    candidates: Sequence[Sequence[str]],
    *,
    per_token: bool = False,
    batch_tokens: int = 2048,
    share_prefix: bool = True,
    on_progress: Callable[[int], None] | None = None,
) -> list[Scores]:
    """Log-probability of each candidate answer to each prompt, the end of the turn included.

    Because the end counts too, a title is not preferred for being the beginning of another one.

    Args:
        language_model: With or without an adapter.
        prompts: n conversations without the answer.
        candidates: Texts the model might answer, for each prompt.
        per_token: Divide by the number of tokens, as a measure that does not favour short answers.
        batch_tokens: Tokens per forward pass, padding included; a longer row is run alone.
        share_prefix: Encode a prompt once for all its candidates. Slower without, same scores.
        on_progress: Called with the number of candidates that have just been scored.

    Returns:
        n arrays, float32 [candidates of the prompt], natural logarithms, 0 or less.

    Raises:
        UserError: the tokenizer has no chat template, a candidate merges with its prompt into one
            token, or prompt and candidate are longer than the model's context.
    """
    asked = [messages for messages, texts in zip(prompts, candidates, strict=True) for _ in texts]
    said = [text for texts in candidates for text in texts]
    sequences, lengths = encode_answered(language_model.tokenizer, asked, said)
    scores = np.empty(len(sequences), dtype=np.float32)
    if sequences:
        with evaluating(language_model.model), torch.inference_mode():
            asking = [
                slice(length - 1, len(sequence) - 1)  # the state at a token foretells the next one
                for length, sequence in zip(lengths, sequences, strict=True)
            ]
            run = HiddenStates(
                language_model.model,
                sequences,
                asking,
                share=share_prefix,
                batch_tokens=batch_tokens,
            )
            for places, hidden in run:
                targets = [sequences[place][lengths[place] :] for place in places]
                scores[places] = _likelihood(run.output, hidden, targets, per_token=per_token)
                if on_progress:
                    on_progress(len(places))
    stops = np.cumsum([len(texts) for texts in candidates], dtype=np.int64)
    return [scores[stop - len(texts) : stop] for stop, texts in zip(stops, candidates, strict=True)]


def _of_seq2seq(
    language_model: LanguageModel,
    prompts: Sequence[Messages],
    choices: tuple[str, str],
    *,
    measure: Measure,
    batch_tokens: int,
    on_progress: Callable[[int], None] | None,
) -> Scores:
    """`score_yes_no` of a model that writes its answer with a decoder."""
    model, tokenizer = language_model.model, language_model.tokenizer
    tokens = first_answer_tokens(tokenizer, choices)
    sources = encode_sources(tokenizer, prompts)
    scores = np.empty(len(sources), dtype=np.float32)
    with evaluating(model), torch.inference_mode():
        run = score_first_tokens(
            model, sources, tokens, pad=tokenizer.pad_token_id, batch_tokens=batch_tokens
        )
        for places, found in run:
            logits = found[:, :2]
            if measure == "double_softmax":
                logits = np.exp(logits - found[:, 2:])
            scores[places] = logits[:, 0] - logits[:, 1]
            if on_progress:
                on_progress(len(places))
    return scores


def _compare(
    output: OutputLayer, hidden: Sequence[Tensor], tokens: tuple[int, int], measure: Measure
) -> Tensor:
    """float32 [B] from one hidden state [1, width] each."""
    states = torch.cat(list(hidden))
    logits = output.of_tokens(states, tokens)
    if measure == "double_softmax":
        whole = torch.cat([output.log_normaliser(part) for part in states.split(_FULL_LOGITS)])
        logits = (logits - whole[:, None]).exp()
    return logits[:, 0] - logits[:, 1]


def _likelihood(
    output: OutputLayer,
    hidden: Sequence[Tensor],
    targets: Sequence[Sequence[int]],
    *,
    per_token: bool,
) -> Scores:
    """Sum, or mean, of the log-probabilities of each sequence of targets."""
    states = torch.cat(list(hidden))
    wanted = torch.tensor([token for one in targets for token in one], device=states.device)
    parts = zip(states.split(_FULL_LOGITS), wanted.split(_FULL_LOGITS), strict=True)
    found = [output.log_probabilities(part, token) for part, token in parts]
    lengths = [len(one) for one in targets]
    sums = torch.stack([part.double().sum() for part in torch.cat(found).split(lengths)])
    scores: NDArray[np.float64] = sums.cpu().numpy()
    return (scores / lengths if per_token else scores).astype(np.float32)
