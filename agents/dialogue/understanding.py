"""A message understood: what its words settle, and a model's decision on what they leave open.

    message ─ read ─► settled + questions ─ local model: constrained JSON ──────► Wish
                                          ─ remote model: structured output, validated
                                          ─ no model: defaults

No model can change what the words settle. A remote model that fails, answers nonsense or takes too
long is replaced by the defaults, and a note says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tastemaker.agents.dialogue.lexicon import Lexicon
from tastemaker.agents.dialogue.reading import Reading, ValuesOf, decided, read
from tastemaker.agents.dialogue.structured import asked_model, facets_told, validated
from tastemaker.agents.dialogue.titling import Mentions, Weight
from tastemaker.agents.dialogue.wish import State, Wish
from tastemaker.agents.dialogue.wish_json import json_of, parts_of
from tastemaker.errors import UserError
from tastemaker.prompts.render import plain
from tastemaker.prompts.template import find_template, shared_macros

__all__ = ["LocalDecision", "MessageReader", "RemoteDecision", "understand"]

_TEMPLATE = "wishes/understand-1"  # all of the family share their system text
_MESSAGE = 1000  # characters that a model is shown
_ENOUGH = 1e9  # parameters; with SmolLM2's 135 million, untuned, defaults are right more often

Decision = Callable[[Reading], tuple[Wish, str]]


class LocalDecision:
    """Open questions decided by a local model, as the open places of a JSON object.

    Args:
        language_model: From `models.language.load_language_model`.
        titles: By dense number.
        calibrated: Compare with the same prompt for an empty message, so that an answer which a
            small model gives to anything is no answer.
    """

    def __init__(
        self, language_model: Any, titles: Sequence[str], *, calibrated: bool = True
    ) -> None:
        # torch takes seconds to import, and a remote model needs none.
        from tastemaker.models.prefix_caches import PrefixCaches

        self._language_model, self._titles = language_model, titles
        self._calibrated, self._kept = calibrated, PrefixCaches()

    @staticmethod
    def suits(language_model: Any) -> bool:
        """Whether a model is large enough to decide better than the defaults."""
        return bool(language_model.model.num_parameters() >= _ENOUGH)

    def __call__(self, reading: Reading) -> tuple[Wish, str]:
        """The wish, and a note where the model could not be asked."""
        try:
            return decided(reading, self.answers(reading)), ""
        except UserError as error:
            return reading.wish, f"The model could not be asked: {error.what}"

    def answers(self, reading: Reading) -> list[str]:
        """An answer to each open question, from its options.

        Raises:
            UserError: the model has no chat template, or the message does not fit its context.
        """
        from tastemaker.models.constrained import Choice, complete

        parts = [
            part if isinstance(part, str) else Choice(part)
            for part in parts_of(reading, titles=self._titles)
        ]
        taken = complete(
            self._language_model,
            _messages(reading.message),
            parts,
            per_token=True,
            baseline=_messages("") if self._calibrated else None,
            kept=self._kept,
        )
        return _answers(reading, taken)


class RemoteDecision:
    """Open questions decided by a LangChain chat model that answers in a given structure.

    Args:
        model: A `BaseChatModel`.
        lexicon: Columns and values that exist.
        titles: By dense number.
        timeout: Seconds to wait for it.
    """

    def __init__(
        self, model: Any, lexicon: Lexicon, titles: Sequence[str], *, timeout: float = 20.0
    ) -> None:
        self._model, self._lexicon, self._titles = model, lexicon, titles
        self._timeout = timeout

    def __call__(self, reading: Reading) -> tuple[Wish, str]:
        """The wish, and a note where the model failed."""
        (_, system), (_, said) = (
            (one["role"], one["content"]) for one in _messages(reading.message)
        )
        settled = json_of(reading.settled, titles=self._titles)
        named = [plain(one.text) for one in reading.open if one.kind == "title"]
        prompt = (
            f"{said}\nColumns of the catalogue and their values:\n{facets_told(self._lexicon)}\n"
            f"Settled already, never to be changed: {settled}\nOpen titles: {named}"
        )
        try:
            found = asked_model(
                self._model, [("system", system), ("human", prompt)], timeout=self._timeout
            )
            return validated(reading, found, lexicon=self._lexicon), ""
        except Exception as error:
            # Whatever a provider raises: the conversation goes on with what the words say. Its
            # message is left out, since it may quote the prompt or a key.
            return reading.wish, f"The model could not be asked ({type(error).__name__})."


def understand(reading: Reading, *, decide: Decision | None) -> tuple[Wish, str]:
    """The wish behind a message, and a note where a model failed; empty otherwise.

    Args:
        reading: What the words say.
        decide: `LocalDecision` or `RemoteDecision`; None takes the defaults. It is only asked where
            the words leave something open.
    """
    if decide is None or not reading.open:
        return reading.wish, ""
    return decide(reading)


@dataclass(frozen=True, eq=False)
class MessageReader:
    """Turns messages about one catalogue into wishes.

    Attributes:
        lexicon: Words of the catalogue.
        mentions: Finds titles of the catalogue in a text.
        values_of: Facet values of items.
        decide: As in `understand`.
        weight: How well known an item is, where several have one name.
    """

    lexicon: Lexicon
    mentions: Mentions
    values_of: ValuesOf
    decide: Decision | None = None
    weight: Weight | None = None

    def __call__(self, message: str, *, state: State, quick: bool = False) -> tuple[Wish, str]:
        """What the message asks for, given what the conversation has come to.

        Args:
            message: As written.
            state: What the conversation has come to.
            quick: Whether words alone must do; else the model decides what they leave open.

        Returns:
            The wish, and a note where a model failed.
        """
        reading = read(
            message,
            lexicon=self.lexicon,
            catalogue_mentions=self.mentions,
            state=state,
            values_of=self.values_of,
            weight=self.weight,
        )
        return understand(reading, decide=None if quick else self.decide)


def _messages(message: str) -> list[dict[str, str]]:
    """The conversation that a model decides in, in the words that it may have been tuned on."""
    system = find_template(_TEMPLATE).render_section("system", {})
    said = str(shared_macros()["wish_prompt"](plain(message)[:_MESSAGE]))
    return [{"role": "system", "content": system}, {"role": "user", "content": said}]


def _answers(reading: Reading, taken: Sequence[str]) -> list[str]:
    """An answer per question, from the options taken in the order of the object."""
    order = sorted(range(len(reading.open)), key=lambda at: _PLACES[reading.open[at].kind])
    answers = [""] * len(order)
    for at, option in zip(order, taken, strict=True):
        question = reading.open[at]
        if question.kind == "topic":
            answers[at] = "ignore" if option == '""' else "search"
        else:
            answers[at] = option.strip('"')
    return answers


_PLACES = {"act": 0, "title": 1, "topic": 2}
