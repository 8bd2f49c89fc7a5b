"""The factors that matter, named by the model itself and then fixed in the recipe (KAR §2)."""

from __future__ import annotations

from tastemaker.agents.asking import Request
from tastemaker.agents.factors import as_recipe_lines, elicitation, parse_factors
from tastemaker.agents.knowledge import Knowledge, KnowledgeStore
from tastemaker.agents.reasoning import messages_of
from tastemaker.errors import StageError
from tastemaker.methods.asking import asker_of
from tastemaker.methods.base import load_split
from tastemaker.methods.knowledge import STORE
from tastemaker.prompts.template import find_template
from tastemaker.recipe import ReasonConfig
from tastemaker.stage import Run

__all__ = ["elicited"]


def elicited(config: ReasonConfig, run: Run, *, about: str) -> str:
    """Lines for the recipe: the factors that the model names for this catalogue.

    People should read and shorten the list before they use it, as KAR's authors did.

    Args:
        config: Section `reason`.
        run: With a finished data stage.
        about: `users`: factors of taste, or `items`.

    Raises:
        StageError: the model gave no usable list.
    """
    template = find_template(f"kar/factors_{about}")
    question = elicitation(load_split(run).tables, things="items", seed=run.seed)
    request = Request(
        kind=question.kind,
        entity=about,
        messages=messages_of(template, question.values),
        chain=template.label,
    )
    with KnowledgeStore(run.folder / STORE) as store:
        (outcome,) = asker_of(config, store, seed=run.seed).ask([request])
    if not isinstance(outcome, Knowledge):
        raise StageError(f"the model named no factors: {outcome.reason} ({outcome.detail})")
    return as_recipe_lines(parse_factors(outcome.text))
