"""A language model of this machine as a LangChain chat model, with true batches.

Prompts of a batch are sorted by length and padded on the left; what all begin with is encoded once.
At temperature 0 an answer is the same every time on the same machine with as many threads. Other
questions in its batch may change it only where two next tokens are as likely as the precision can
tell: in bfloat16 that happens in long answers, in float32 hardly ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from langchain_core.messages import AIMessage
from pydantic import Field
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from tastemaker.agents.batched_chat import BatchedChatModel, Conversation, role_of
from tastemaker.errors import UserError
from tastemaker.models.conversations import common_length
from tastemaker.models.language import aligned, end_tokens

__all__ = ["LocalChatModel"]


class LocalChatModel(BatchedChatModel):
    """Generates with `transformers`; stops at the model's own end tokens.

    Attributes:
        language_model: From `models.language.load_language_model`.
        max_tokens: New tokens per answer at most.
        temperature: 0 takes the likeliest token; above 0 draws from the seeded distribution, and an
            answer then depends on the other questions of its batch.
        top_p: Draw from the likeliest tokens that together have this probability; 1 for all.
        batch_size: Conversations per forward pass.
        seed: Of the draws.
        share_prefix: Encode the common beginning of a batch once.
    """

    language_model: Any = Field(exclude=True, repr=False)
    max_tokens: int = Field(gt=0)
    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    batch_size: int = Field(64, gt=0)
    seed: int = 0
    share_prefix: bool = True

    @property
    def _llm_type(self) -> str:
        return "tastemaker-local"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {
            "model": self.language_model.name,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
        }

    def answer_many(
        self,
        conversations: Sequence[Conversation],
        *,
        stop: Sequence[str] | None = None,
        seed: int | None = None,
        temperature: float | None = None,
    ) -> list[AIMessage]:
        """One answer per conversation, in their order.

        Each has `response_metadata["finish_reason"]`, `stop` or `length`, and `usage_metadata`.

        Raises:
            UserError: a message is not plain text, the tokenizer has no chat template, or a prompt
                leaves no room for `max_tokens` in the model's context.
        """
        prompts = self._encode(conversations)
        answers: list[AIMessage | None] = [None] * len(prompts)
        # Longest first: a batch that does not fit into memory fails at once, not at the end.
        order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
        heat = self.temperature if temperature is None else temperature
        chance = self.seed if seed is None else seed
        with _seeded(chance if heat > 0 else None), torch.inference_mode():
            for start in range(0, len(order), self.batch_size):
                places = order[start : start + self.batch_size]
                generated = self._generate_batch([prompts[place] for place in places], heat)
                for place, tokens in zip(places, generated, strict=True):
                    answers[place] = self._message(prompts[place], tokens, stop=stop or ())
        return [answer for answer in answers if answer is not None]

    def _encode(self, conversations: Sequence[Conversation]) -> list[list[int]]:
        tokenizer = self.language_model.tokenizer
        if not tokenizer.chat_template:
            raise UserError(
                f"model '{self.language_model.name}' has no chat template, so it cannot chat.",
                remedy="Use an instruction-tuned model.",
            )
        texts = [
            tokenizer.apply_chat_template(
                [{"role": role_of(message), "content": message.text} for message in conversation],
                tokenize=False,
                add_generation_prompt=True,
            )
            for conversation in conversations
        ]
        # The chat template has written the special tokens already.
        prompts: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
        self._check_room(max(map(len, prompts), default=0))
        return prompts

    def _check_room(self, longest: int) -> None:
        context = getattr(self.language_model.model.config, "max_position_embeddings", None)
        if context is not None and longest + self.max_tokens > context:
            raise UserError(
                f"a prompt of {longest} tokens and an answer of {self.max_tokens} do not fit into "
                f"the {context} tokens of '{self.language_model.name}'.",
                remedy="Show a shorter history or ask for fewer tokens.",
            )

    def _generate_batch(self, prompts: Sequence[list[int]], temperature: float) -> list[list[int]]:
        """New tokens of each prompt, the end token included when it came."""
        tokenizer, model = self.language_model.tokenizer, self.language_model.model
        ends = end_tokens(self.language_model)
        shared = _shared(prompts)
        inputs, mask = aligned(prompts, shared=shared, pad=tokenizer.pad_token_id)
        draws = {"do_sample": True, "temperature": temperature, "top_p": self.top_p, "top_k": 0}
        generated = model.generate(
            input_ids=inputs.to(model.device),
            attention_mask=mask.to(model.device),
            past_key_values=self._prefix_cache(prompts[0][:shared], len(prompts)),
            max_new_tokens=self.max_tokens,
            eos_token_id=sorted(ends),
            pad_token_id=tokenizer.pad_token_id,
            **(draws if temperature > 0 else {"do_sample": False}),
        )
        return [_until_end(row, ends) for row in generated[:, inputs.shape[1] :].tolist()]

    def _prefix_cache(self, prefix: list[int], rows: int) -> DynamicCache | None:
        """What the model remembers of `prefix`, once per row."""
        model = self.language_model.model
        cache = DynamicCache(config=model.config)
        plain = all(isinstance(layer, DynamicLayer) for layer in cache.layers)
        if not (prefix and plain and self.share_prefix and rows > 1):
            return None  # recurrent and sliding layers cannot be repeated for a batch
        inputs = torch.tensor([prefix], device=model.device)
        model(input_ids=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(rows)
        return cache

    def _message(
        self, prompt: Sequence[int], tokens: list[int], *, stop: Sequence[str]
    ) -> AIMessage:
        tokenizer = self.language_model.tokenizer
        ended = bool(tokens) and tokens[-1] in end_tokens(self.language_model)
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        cuts = [place for place in (text.find(one) for one in stop) if place >= 0]
        return AIMessage(
            content=text[: min(cuts)] if cuts else text,
            response_metadata={
                "finish_reason": "stop" if ended or cuts else "length",
                "model_name": self.language_model.name,
            },
            usage_metadata={
                "input_tokens": len(prompt),
                "output_tokens": len(tokens),
                "total_tokens": len(prompt) + len(tokens),
            },
        )


def _shared(prompts: Sequence[list[int]]) -> int:
    """How many tokens all prompts begin with, one of its own left to each."""
    # In lexicographic order, what the first and the last share is shared by all.
    return min(common_length(min(prompts), max(prompts)), min(map(len, prompts)) - 1)


def _until_end(tokens: list[int], ends: set[int]) -> list[int]:
    for place, token in enumerate(tokens):
        if token in ends:
            return tokens[: place + 1]
    return tokens


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Seed torch inside the block and restore its state after; nothing when `seed` is None."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
