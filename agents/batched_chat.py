"""LangChain chat models that answer many conversations in one go.

LangChain's own `batch` calls `invoke` in threads, which suits a remote service. A model in this
process is faster with real batches, so `batch` hands all conversations over at once, also as a step
of a chain (`prompt | model`). Callbacks see one run per conversation, as they would otherwise.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import CallbackManager, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult, LLMResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_config_list

from tastemaker.errors import UserError

__all__ = ["BatchedChatModel", "Conversation", "role_of"]

Conversation = Sequence[BaseMessage]

_ROLES = {"human": "user", "ai": "assistant", "system": "system"}


class BatchedChatModel(BaseChatModel):
    """Base of chat models that run in this process; a subclass defines `answer_many`."""

    @abstractmethod
    def answer_many(
        self,
        conversations: Sequence[Conversation],
        *,
        stop: Sequence[str] | None = None,
        seed: int | None = None,
        temperature: float | None = None,
    ) -> list[AIMessage]:
        """One answer per conversation, in their order.

        Args:
            conversations: Messages of each, the last one to be answered.
            stop: An answer ends before the first of these strings.
            seed: Of the draws of this call; the model's own when None.
            temperature: Of this call, likewise.
        """

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Answer all inputs together; see `Runnable.batch`, and `answer_many` for `kwargs`.

        A failure is that of the whole batch: it is raised, or returned in every place.
        """
        if not inputs:
            return []
        conversations = [self._convert_input(one).to_messages() for one in inputs]
        runs = self._start_runs(conversations, get_config_list(config, len(inputs)))
        try:
            answers = self.answer_many(conversations, **kwargs)
        except BaseException as error:
            for run in runs:
                run.on_llm_error(error, response=LLMResult(generations=[]))
            if return_exceptions and isinstance(error, Exception):
                return [error] * len(inputs)
            raise
        for run, answer in zip(runs, answers, strict=bool(runs)):
            run.on_llm_end(LLMResult(generations=[[ChatGeneration(message=answer)]]))
        return answers

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        (answer,) = self.answer_many([messages], stop=stop, **kwargs)
        return ChatResult(generations=[ChatGeneration(message=answer)])

    def _start_runs(
        self, conversations: Sequence[list[BaseMessage]], configs: Sequence[RunnableConfig]
    ) -> list[CallbackManagerForLLMRun]:
        """One run per conversation; none at all where nobody listens."""
        known: dict[str, CallbackManager] = {}
        managers = []
        for config in configs:
            told = repr((id(config.get("callbacks")), config.get("tags"), config.get("metadata")))
            if told not in known:
                known[told] = CallbackManager.configure(
                    config.get("callbacks"),
                    self.callbacks,
                    self.verbose,
                    config.get("tags"),
                    self.tags,
                    config.get("metadata"),
                    self.metadata,
                )
            managers.append(known[told])
        if not any(manager.handlers for manager in known.values()):
            return []
        return [
            run
            for manager, messages, config in zip(managers, conversations, configs, strict=True)
            for run in manager.on_chat_model_start(
                self._serialized,
                [messages],
                invocation_params=self._get_invocation_params(),
                name=config.get("run_name"),
                run_id=config.get("run_id"),
                batch_size=len(conversations),
            )
        ]


def role_of(message: BaseMessage) -> str:
    """What chat templates call the speaker of a message.

    Raises:
        UserError: it is of a tool, or of another kind that a model of this process cannot read.
    """
    if message.type not in _ROLES:
        raise UserError(
            f"a local model cannot read a message of type '{message.type}'.",
            allowed=f"types: {', '.join(sorted(_ROLES))}",
        )
    return _ROLES[message.type]
