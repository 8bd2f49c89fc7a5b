"""Chat models by name, `provider:model`: of this machine, scripted, or whatever LangChain knows.

`local:smollm2` and `local:/path/or/hub-id` run in this process; `scripted:echo` answers without any
model, for tests and dry runs; `openai:gpt-4o-mini`, also with `base_url`, and all others go through
LangChain. Keys are read from the environment, or from a file `.env` in the current folder, by the
provider's own package and kept nowhere.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from pydantic import Field, PrivateAttr

from tastemaker.agents.batched_chat import BatchedChatModel, Conversation
from tastemaker.agents.knowledge import without_credentials
from tastemaker.errors import MissingError, UnknownNameError, UserError
from tastemaker.stage import digest

__all__ = [
    "SCRIPTS",
    "ScriptedChatModel",
    "chat_model",
    "check_chat_model",
    "check_server",
    "varied_by",
]

_INSTALL = re.compile(r"pip install [\w.-]*\w")
_KEY_MISSING = re.compile(r"api[_ -]?key|credentials|_KEY\b", re.IGNORECASE)
_SEEDED = ("openai", "azure_openai")
_OWN = ("local", "scripted", "llamacpp")


def chat_model(
    name: str,
    *,
    max_tokens: int,
    temperature: float,
    top_p: float | None = None,
    base_url: str | None = None,
    batch_size: int = 64,
    timeout: float | None = None,
    seed: int = 0,
) -> BaseChatModel:
    """The chat model called `provider:model`.

    A remote one repeats nothing by itself: `agents.asking` does, and knows what was answered.

    Args:
        name: `local:…`, `scripted:…`, or a provider of LangChain's with a model of its own.
        max_tokens: New tokens per answer at most.
        temperature: 0 for the likeliest answer.
        top_p: Draw from the likeliest tokens that together have this probability; all when None.
        base_url: Server to ask instead of the provider's own; a local server needs no key.
        batch_size: Conversations per forward pass of a local model.
        timeout: Seconds for one answer of a remote model; the provider's own when None.
        seed: Of random draws, where the provider takes one.

    Raises:
        UserError: `name` is not of the form `provider:model`, or a local model gets a `base_url`.
        UnknownNameError: no such provider or script.
        MissingError: the provider's package, its key, or the local model is missing.
    """
    provider, model = _parts(name, base_url)
    if provider == "scripted":
        return _scripted(model, max_tokens=max_tokens)
    if provider == "local":
        return _local(
            model,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=1.0 if top_p is None else top_p,
            batch_size=batch_size,
            seed=seed,
        )
    if provider == "llamacpp":
        from tastemaker.agents.llama_cpp_chat import load_llama_cpp

        return load_llama_cpp(
            model, max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed
        )
    options: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature}
    options |= {"max_retries": 0, "timeout": timeout}
    if top_p is not None:
        options["top_p"] = top_p
    if provider in _SEEDED:
        options["seed"] = seed
    return _remote(provider, model, base_url=base_url, options=options)


def check_chat_model(name: str, *, base_url: str | None = None) -> None:
    """Find what is wrong with a name, a package or a key; loads no weights, asks nobody.

    Raises:
        UserError: as `chat_model` would.
    """
    provider, model = _parts(name, base_url)
    if provider == "local":
        from tastemaker.models.language import language_model_source

        language_model_source(model)
    elif provider == "llamacpp":
        from tastemaker.agents.llama_cpp_chat import check_llama_cpp

        check_llama_cpp(model)
    else:
        chat_model(name, max_tokens=1, temperature=0.0, base_url=base_url)


def check_server(name: str, *, base_url: str | None = None) -> None:
    """Ask an OpenAI-compatible server for its models: free, and tells what is wrong with it.

    A server that lists none, or has no such list, is believed to know the model.

    Raises:
        MissingError: the key is refused.
        UserError: nobody answers at that address.
        UnknownNameError: the server lists models, and this one is not among them.
    """
    provider, model = _parts(name, base_url)
    if provider != "openai":
        return
    import openai

    _read_env()
    with openai.OpenAI(
        base_url=base_url, api_key=None if not base_url else _key(), max_retries=2, timeout=20
    ) as client:
        try:
            known = [one.id for one in client.models.list().data or []]
        except (openai.AuthenticationError, openai.PermissionDeniedError):
            raise MissingError(
                f"{base_url or 'the provider'} refuses the key in OPENAI_API_KEY.",
                remedy="Set a valid one in the environment or in a file .env.",
            ) from None
        except openai.APIConnectionError:
            raise UserError(
                f"nobody answers at {without_credentials(base_url or str(client.base_url))}.",
                remedy="Start the server, or correct reason.base_url (it usually ends in /v1).",
            ) from None
        except (openai.APIStatusError, ValueError, TypeError):
            return  # no list of models: the first request will tell
    if known and model not in known and not Path(model).exists():
        raise UnknownNameError("model of this server", model, known)


def varied_by(name: str) -> tuple[str, ...]:
    """Parameters of a single request that a chat model lets callers change."""
    provider, _, _ = name.partition(":")
    return ("seed", "temperature") if provider in (*_SEEDED, *_OWN) else ("temperature",)


class ScriptedChatModel(BatchedChatModel):
    """Answers by a function of the conversation; counts what it was asked.

    Attributes:
        script: Conversation → answer.
        max_tokens: Words per answer at most; longer ones finish with `length`.
    """

    script: Callable[[Conversation], str] = Field(exclude=True, repr=False)
    max_tokens: int = Field(1024, gt=0)
    _requests: int = PrivateAttr(default=0)

    @property
    def requests(self) -> int:
        """Number of conversations answered so far."""
        return self._requests

    @property
    def _llm_type(self) -> str:
        return "tastemaker-scripted"

    def answer_many(
        self,
        conversations: Sequence[Conversation],
        *,
        stop: Sequence[str] | None = None,
        seed: int | None = None,
        temperature: float | None = None,
    ) -> list[AIMessage]:
        """One scripted answer per conversation; words stand for tokens. All else is ignored."""
        self._requests += len(conversations)
        return [self._answer(conversation) for conversation in conversations]

    def _answer(self, conversation: Conversation) -> AIMessage:
        words = self.script(conversation).split(" ")
        asked = sum(len(message.text.split()) for message in conversation)
        given = min(len(words), self.max_tokens)
        return AIMessage(
            content=" ".join(words[:given]),
            response_metadata={"finish_reason": "stop" if given == len(words) else "length"},
            usage_metadata={
                "input_tokens": asked,
                "output_tokens": given,
                "total_tokens": asked + given,
            },
        )


def _echo(conversation: Conversation) -> str:
    """A word that depends on the whole conversation, then the last message."""
    seen = digest([(message.type, message.text) for message in conversation])
    return f"{seen[:8]} {conversation[-1].text}"


def _brief(conversation: Conversation) -> str:
    """A sentence that depends on the whole conversation."""
    return f"Known by the word {_echo(conversation).partition(' ')[0]}."


def _json(conversation: Conversation) -> str:
    """The same as the JSON object that RLMRec's and NoteLLM's prompts ask for."""
    said = _brief(conversation)
    return json.dumps({"summarization": said, "reasoning": "as asked", "summary": said})


SCRIPTS: dict[str, Callable[[Conversation], str]] = {
    "brief": _brief,
    "echo": _echo,
    "json": _json,
}


def _parts(name: str, base_url: str | None) -> tuple[str, str]:
    provider, _, model = name.partition(":")
    if not provider or not model:
        raise UserError(
            f"chat model '{name}' is not of the form provider:model.",
            allowed="for example local:smollm2, scripted:echo, openai:gpt-4o-mini",
        )
    if provider in _OWN and base_url:
        raise UserError(
            f"chat model '{name}' runs in this process and takes no base_url.",
            remedy="Leave base_url out, or name the provider whose protocol the server speaks.",
        )
    return provider, model


def _scripted(name: str, *, max_tokens: int) -> ScriptedChatModel:
    if name not in SCRIPTS:
        raise UnknownNameError("scripted chat model", name, SCRIPTS)
    return ScriptedChatModel(script=SCRIPTS[name], max_tokens=max_tokens)


def _local(
    name: str, *, max_tokens: int, temperature: float, top_p: float, batch_size: int, seed: int
) -> BaseChatModel:
    # torch and transformers take seconds to import; a remote model needs neither.
    from tastemaker.agents.local_chat import LocalChatModel
    from tastemaker.models.language import load_language_model

    return LocalChatModel(
        language_model=load_language_model(name),
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        batch_size=batch_size,
        seed=seed,
    )


def _remote(
    provider: str, model: str, *, base_url: str | None, options: dict[str, Any]
) -> BaseChatModel:
    from langchain.chat_models import base, init_chat_model

    known = getattr(base, "_BUILTIN_PROVIDERS", {provider: ()})
    if provider not in known:
        raise UnknownNameError("chat provider", provider, [*known, *_OWN])
    _read_env()
    if base_url:
        options["base_url"] = base_url
        if provider == "openai":
            options["api_key"] = _key()
    try:
        return init_chat_model(model, model_provider=provider, **options)
    except ImportError as error:
        command = _INSTALL.search(str(error))
        raise MissingError(
            f"provider '{provider}' needs a package that is not installed.",
            remedy=f"Run: {command[0] if command else f'pip install langchain-{provider}'}",
        ) from None
    except Exception as error:
        if not _KEY_MISSING.search(str(error)):
            raise
        # The original message is dropped on purpose: it may quote the key.
        raise MissingError(
            f"provider '{provider}' found no key.",
            remedy=f"Set it in the environment, usually: export {provider.upper()}_API_KEY=...",
        ) from None


def _key() -> str:
    """The key for a server of one's own: those ask for none, but the package does."""
    return os.environ.get("OPENAI_API_KEY") or "none"


def _read_env() -> None:
    """Keys of a file `.env` in the current folder; the environment's own come first."""
    from dotenv import load_dotenv

    load_dotenv(Path(".env"), override=False)
