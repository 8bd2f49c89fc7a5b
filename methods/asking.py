"""From the recipe's section `reason` to a chain that is ready to ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tastemaker.agents.answers import Acceptance, check_language
from tastemaker.agents.asking import Asker
from tastemaker.agents.batch_api import BatchAsker
from tastemaker.agents.chat_models import chat_model, check_chat_model, check_server, varied_by
from tastemaker.agents.knowledge import KnowledgeStore
from tastemaker.agents.limits import Budget, Price, Rate
from tastemaker.agents.reasoning import Asks, Chain, Profile, Single, Stepwise, Verified
from tastemaker.agents.sending import Patience
from tastemaker.agents.verification import Facts
from tastemaker.data.tables import Tables
from tastemaker.errors import RecipeError
from tastemaker.prompts.template import Template, find_template
from tastemaker.recipe import ReasonConfig
from tastemaker.recipe_reason import AskingConfig

__all__ = [
    "BATCH_API_BLOCK",
    "NOT_IN_TEXTS",
    "asker_of",
    "chain_of",
    "check_asking",
    "check_reason",
    "factors_of",
    "params_of",
    "requests_per_question",
    "templates_of",
]

BATCH_API_BLOCK = 50_000  # a file of OpenAI's holds no more, and each takes hours
# Settings of asking that change nothing in what is answered.
NOT_IN_TEXTS = frozenset(
    {
        "batch_size",
        "concurrency",
        "requests_per_minute",
        "tokens_per_minute",
        "timeout",
        "tries",
        "batch_api",
        "price",
        "max_cost",
        "max_requests",
    }
)

# Chain → kind of question → template, where the recipe names none.
_OWN: Mapping[str, Mapping[str, str]] = {
    "single": {"user": "kar/user_movies", "item": "kar/item_movies"},
    "stepwise": {"user": "kar/part_user", "item": "kar/part_item"},
    "profile": {"user": "rlmrec/user_items", "item": "rlmrec/item_items"},
    "summary": {"item": "notellm/summary"},
    "collective": {},
}
_SYNTHESIS = {"user": "kar/synthesis_user", "item": "kar/synthesis_item"}
_CORRECTION = "kar/correction"


def templates_of(config: ReasonConfig) -> dict[str, Template]:
    """Kind of question → the template that asks it.

    Raises:
        UnknownNameError: there is no such template.
    """
    own = _OWN[config.chain]
    named = {"user": config.user_template, "item": config.item_template}
    return {kind: find_template(named[kind] or name) for kind, name in own.items()}


def factors_of(config: ReasonConfig, kind: str) -> tuple[str, ...]:
    """What a chain considers: the recipe's factors, else the template's, else those for any items.

    Args:
        config: Section `reason`.
        kind: `user` or `item`.
    """
    template = templates_of(config).get(kind)
    own = template.factors if template is not None else ()
    return config.factors or own or find_template(f"kar/{kind}_items").factors


def requests_per_question(config: ReasonConfig) -> int:
    """How many requests a question takes, contradictions and repetitions aside."""
    return len(factors_of(config, "item")) + 1 if config.chain == "stepwise" else 1


def chain_of(config: ReasonConfig, asker: Asks, tables: Tables) -> Chain:
    """The chain a recipe names.

    Args:
        config: Section `reason`.
        asker: Answers its requests.
        tables: What claims are checked against.
    """
    chain = _plain_chain(config, asker)
    if config.verify == "off":
        return chain
    correction = find_template(_CORRECTION) if config.verify == "resend" else None
    return Verified(chain, Facts(tables), correction=correction, asker=asker)


def _plain_chain(config: ReasonConfig, asker: Asks) -> Chain:
    templates = templates_of(config)
    if config.chain == "stepwise":
        synthesis = {kind: find_template(name) for kind, name in _SYNTHESIS.items()}
        return Stepwise(asker, parts=templates, synthesis=synthesis)
    if config.chain == "profile":
        return Profile(asker, templates)
    keys = ("summary",) if config.chain == "summary" else ()
    return Single(asker, templates, keys=keys)


def params_of(config: AskingConfig, *, seed: int) -> dict[str, Any]:
    """Generation parameters: part of the address of every answer."""
    params = {"max_tokens": config.max_tokens, "temperature": config.temperature, "seed": seed}
    return {**params, **({"top_p": config.top_p} if config.top_p is not None else {})}


def asker_of(
    config: AskingConfig,
    store: KnowledgeStore,
    *,
    seed: int,
    tell: Callable[[str], None] = lambda line: None,
) -> Asker | BatchAsker:
    """What answers requests as the recipe says; the model is loaded when it is first needed.

    Args:
        config: How a chat model is asked.
        store: Where everything ends.
        seed: Of the model's draws.
        tell: Told what goes on without this process.
    """
    price = Price(config.price.prompt, config.price.completion) if config.price else None
    shared: dict[str, Any] = {
        "model_name": config.model,
        "params": params_of(config, seed=seed),
        "base_url": config.base_url,
        "acceptance": Acceptance(truncated=config.truncated, language=config.language),
        "invalid_retries": config.invalid_retries,
        "patience": Patience(tries=config.tries),
        "budget": Budget(
            max_requests=config.max_requests,
            max_cost=config.max_cost,
            price=price,
            spent=store.spent().cost,
        ),
        "price": price,
    }
    if config.batch_api:
        return BatchAsker(store, tell=tell, **shared)
    return Asker(
        lambda: _model(config, seed=seed),
        store,
        batch_size=config.batch_size,
        concurrency=config.concurrency,
        rate=Rate(requests=config.requests_per_minute, tokens=config.tokens_per_minute),
        context=config.context,
        varied=varied_by(config.model),
        **shared,
    )


def _model(config: AskingConfig, *, seed: int) -> Any:
    check_server(config.model, base_url=config.base_url)
    return chat_model(
        config.model,
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        base_url=config.base_url,
        batch_size=config.batch_size,
        timeout=config.timeout,
        seed=seed,
    )


def check_reason(config: ReasonConfig) -> None:
    """Find unknown templates and models, missing packages and keys; asks nobody.

    Raises:
        UserError: with what to change.
    """
    templates_of(config)
    check_asking(config, section="reason")


def check_asking(config: AskingConfig, *, section: str) -> None:
    """Find unknown models, missing packages and keys; asks nobody.

    Args:
        config: How a chat model is asked.
        section: Of the recipe, for messages.

    Raises:
        UserError: with what to change.
    """
    if config.batch_api and not config.model.startswith("openai:"):
        raise RecipeError(
            f"{section}.batch_api: '{config.model}' has no Batch API.", allowed="models openai:…"
        )
    check_chat_model(config.model, base_url=config.base_url)
    check_language(config.language)
