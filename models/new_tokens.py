"""Whole tokens that a model does not know yet, such as those of collaborative item indexing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import AddedToken

from tastemaker.models.language import LanguageModel
from tastemaker.models.whole_words import WholeWordT5

__all__ = ["with_tokens"]


def with_tokens(
    language_model: LanguageModel, tokens: Sequence[str], *, seed: int
) -> LanguageModel:
    """The model, its tokenizer knowing each of these texts as one token.

    Their embeddings are drawn around the mean of all others, with the spread of these, so all
    weights must be trained afterwards.

    Args:
        language_model: Changed in place.
        tokens: Texts; those it knows already stay as they are.
        seed: Of the new embeddings.
    """
    tokenizer, model = language_model.tokenizer, language_model.model
    before = len(tokenizer)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in tokens])
    if len(tokenizer) == before:
        return language_model
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    generator = torch.Generator().manual_seed(seed)
    tables = {id(one.weight): one.weight for one in _embeddings(model) if one is not None}
    for weight in tables.values():
        old = weight.data[:before].float()
        size = (len(tokenizer) - before, old.shape[1])
        drawn = torch.randn(size, generator=generator).to(old.device)
        fresh = old.mean(0) + old.std(0) * drawn
        weight.data[before : len(tokenizer)] = fresh.to(weight.dtype)
    if isinstance(model, WholeWordT5):
        model.read_words(tokenizer)
    return language_model


def _embeddings(model: torch.nn.Module) -> list[torch.nn.Module]:
    return [model.get_input_embeddings(), model.get_output_embeddings()]
