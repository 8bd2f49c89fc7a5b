"""What cannot be trained over several domains, found before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tastemaker.data.builtin.base import find_builtin
from tastemaker.errors import RecipeError, UnknownNameError
from tastemaker.methods.building import check_provenance
from tastemaker.methods.planning import weighted_templates
from tastemaker.models.domain_networks import NetworkShape
from tastemaker.models.encoders import transformer_source
from tastemaker.models.prompt_states import rung_depths
from tastemaker.models.token_encoders import check_plain_model
from tastemaker.recipe import MultiDomainConfig, Recipe, TuneConfig
from tastemaker.tuning.tracking import check_tracker
from tastemaker.tuning.weights import top_layers

__all__ = ["check_domains", "check_model", "check_names", "check_prompts", "network_shape"]

_OTHER = "other"  # see `data.domains.with_domains`
# Settings of language models that answer, which one whose states are read has no use for.
_OF_ANSWERS = ("adapter", "instruction_tuning", "loss_on", "rows", "whole_words", "wrapper")


def check_domains(recipe: Recipe) -> None:
    """Find wrong names of domains, as far as the recipe alone tells.

    Raises:
        RecipeError: data without domains, a domain in both lists, or none left to train on.
        UnknownNameError: a domain that `data.domains` does not make.
    """
    data, config = recipe.data, recipe.multi_domain
    brought = data.source is not None and find_builtin(data.source).schema.domain is not None
    if data.domains is None and data.columns.domain is None and not brought:
        raise RecipeError(
            "methods: uni_ctr needs domains, and the data has none.",
            allowed="data.columns.domain, a column of interactions or items; data.domains, "
            "groups of the values of a column; or a built-in data set of several categories",
        )
    both = sorted(set(config.unseen) & set(config.added))
    if both:
        raise RecipeError(
            f"multi_domain: {', '.join(both)} is both unseen and added.",
            remedy="Leave it in one of the two lists.",
        )
    if data.domains is not None:
        kept = (_OTHER,) if data.domains.others == "keep" else ()
        check_names(config, (*dict(data.domains.groups), *kept))


def check_prompts(recipe: Recipe) -> None:
    """Find prompts that do not ask whether one item is liked.

    Raises:
        RecipeError: prompts that do not tell their row, templates without two answers, or drawn
            rows that only prompts would have.
    """
    check_provenance(recipe, "uni_ctr")
    for template in weighted_templates(recipe.build)[0]:
        if not template.answers_by_label:
            raise RecipeError(
                f"methods: uni_ctr learns whether an item is liked; '{template.name}' does not "
                "ask that.",
                allowed="templates whose answer is one of two choices by the label, such as "
                "uni_ctr/full",
            )
    if recipe.build.negatives:
        raise RecipeError(
            f"build.negatives = {recipe.build.negatives}: only prompts would have these rows, and "
            "the other models of uni_ctr learn from the same ones.",
            remedy="Draw them for all models: data.negatives.",
        )


def check_model(recipe: Recipe) -> None:
    """Find a language model that cannot be read or trained as the recipe says.

    Raises:
        MissingError: the model is not on this machine.
        UserError: an encoder-decoder model, a kind or tracker that there is not, settings of
            answers, or sizes that the model does not have.
    """
    tune = recipe.tune
    if tune.kind == "qlora":
        raise RecipeError(
            "tune.kind qlora is not made for models whose states are read (uni_ctr).",
            allowed="frozen, lora or full",
        )
    plain = TuneConfig()
    for name in _OF_ANSWERS:
        if getattr(tune, name) != getattr(plain, name):
            raise RecipeError(
                f"tune.{name} is about a language model that answers; uni_ctr reads its states.",
                remedy=f"Remove tune.{name}.",
            )
    check_tracker(tune.tracker)
    folder = transformer_source(tune.model)
    if folder.is_dir():  # else it is packed, and unpacking it takes a while
        _check_sizes(recipe, check_plain_model(tune.model, folder).get_text_config())


def network_shape(config: MultiDomainConfig, *, width: int, rungs: int) -> NetworkShape:
    """How large the networks are.

    Args:
        config: What the recipe says of them.
        width: Of the language model's states.
        rungs: Of a ladder.

    Raises:
        UserError: heads that do not divide the width of a rung.
    """
    return NetworkShape(
        width=width,
        rungs=rungs,
        narrow=max(1, width // config.narrow_by),
        heads=config.heads,
        dropout=config.dropout,
        tower=config.tower,
        tower_dropout=config.tower_dropout,
        layout=config.layout,
    )


def _check_sizes(recipe: Recipe, model: Any) -> None:
    config, layers = recipe.multi_domain, int(model.num_hidden_layers)
    depths = rung_depths(layers, every=config.every, from_embeddings=config.layout == "code")
    network_shape(config, width=int(model.hidden_size), rungs=len(depths))
    if recipe.tune.kind == "lora":
        top_layers(layers, recipe.tune.lora.layers)


def check_names(config: MultiDomainConfig, known: Sequence[str]) -> None:
    """Compare the recipe's domains with those of the data.

    Args:
        config: Names the unseen and the added ones.
        known: All domains of the data.

    Raises:
        UnknownNameError: a domain that is not there.
        RecipeError: none is left to train on.
    """
    for name in (*config.unseen, *config.added):
        if name not in known:
            raise UnknownNameError("domain", name, known)
    if not config.start and not set(known) - {*config.unseen, *config.added}:
        raise RecipeError(
            "multi_domain: every domain is unseen or added, so none is left to train on.",
            allowed=f"domains of the data: {', '.join(known)}",
        )
