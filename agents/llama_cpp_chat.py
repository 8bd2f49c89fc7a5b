"""A GGUF file through llama.cpp as a chat model: `llamacpp:/path/to/model.gguf`.

The package `llama-cpp-python` is an extra of its own (`pip install "tastemaker[llamacpp]"`): it is
compiled when it is installed. It answers one conversation at a time.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage
from pydantic import Field

from tastemaker.agents.batched_chat import BatchedChatModel, Conversation, role_of
from tastemaker.errors import MissingError, UserError

__all__ = ["LlamaCppChatModel", "check_llama_cpp", "load_llama_cpp"]


class LlamaCppChatModel(BatchedChatModel):
    """Generates with llama.cpp, with the chat template inside the file.

    Attributes:
        llama: A `llama_cpp.Llama`.
        name_of_model: The file's path, for provenance.
        max_tokens: New tokens per answer at most.
        temperature: 0 takes the likeliest token.
        top_p: Draw from the likeliest tokens that together have this probability.
        seed: Of the draws.
    """

    llama: Any = Field(exclude=True, repr=False)
    name_of_model: str
    max_tokens: int = Field(gt=0)
    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int = 0

    @property
    def _llm_type(self) -> str:
        return "tastemaker-llamacpp"

    def answer_many(
        self,
        conversations: Sequence[Conversation],
        *,
        stop: Sequence[str] | None = None,
        seed: int | None = None,
        temperature: float | None = None,
    ) -> list[AIMessage]:
        """One answer per conversation, in their order.

        Raises:
            UserError: a prompt leaves no room for `max_tokens` in the context.
        """
        answers = []
        for conversation in conversations:
            try:
                found = self.llama.create_chat_completion(
                    [
                        {"role": role_of(message), "content": message.text}
                        for message in conversation
                    ],
                    max_tokens=self.max_tokens,
                    temperature=self.temperature if temperature is None else temperature,
                    top_p=self.top_p,
                    seed=self.seed if seed is None else seed,
                    stop=list(stop or ()),
                )
            except ValueError as error:
                raise UserError(
                    f"{self.name_of_model}: {error}",
                    remedy="Show a shorter history or ask for fewer tokens.",
                ) from None
            answers.append(self._message(found))
        return answers

    def _message(self, found: Any) -> AIMessage:
        choice, usage = found["choices"][0], found["usage"]
        return AIMessage(
            content=choice["message"]["content"] or "",
            response_metadata={
                "finish_reason": choice["finish_reason"],
                "model_name": self.name_of_model,
            },
            usage_metadata={
                "input_tokens": usage["prompt_tokens"],
                "output_tokens": usage["completion_tokens"],
                "total_tokens": usage["total_tokens"],
            },
        )


def load_llama_cpp(
    name: str, *, max_tokens: int, temperature: float, top_p: float | None, seed: int
) -> LlamaCppChatModel:
    """Load a GGUF file with the context it was made for.

    Raises:
        UserError: there is no such file.
        MissingError: the package is not installed.
    """
    check_llama_cpp(name)
    from llama_cpp import Llama

    return LlamaCppChatModel(
        llama=Llama(str(Path(name).expanduser()), n_ctx=0, seed=seed, verbose=False),
        name_of_model=name,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=1.0 if top_p is None else top_p,
        seed=seed,
    )


def check_llama_cpp(name: str) -> None:
    """Find a missing file or package; loads nothing.

    Raises:
        UserError: there is no such file.
        MissingError: the package is not installed.
    """
    if not Path(name).expanduser().is_file():
        raise UserError(f"llamacpp:{name} is no file.", allowed="llamacpp:/path/to/model.gguf")
    if importlib.util.find_spec("llama_cpp") is None:
        raise MissingError(
            "provider 'llamacpp' needs the package llama-cpp-python.",
            remedy='Run: pip install "tastemaker[llamacpp]"',
        )
