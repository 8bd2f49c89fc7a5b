"""From the `build` section of a recipe to what will be written: examples, templates, values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.data.item_index import ItemIndex, item_index
from tastemaker.data.negatives import draw_negatives
from tastemaker.data.rating_bands import RatingBands
from tastemaker.data.splits import Split
from tastemaker.data.tables import Tables
from tastemaker.errors import RecipeError, UserError, nearest
from tastemaker.methods.base import load_requests, load_split
from tastemaker.methods.offering import candidate_source
from tastemaker.prompts.binding import Binder, answers_by_rating
from tastemaker.prompts.catalogue import Catalogue
from tastemaker.prompts.examples import Examples
from tastemaker.prompts.fields import INDEX_FIELDS, field_named
from tastemaker.prompts.mixture import Mixture
from tastemaker.prompts.selection import balanced, few, near_duplicates, sampled
from tastemaker.prompts.source import CountTokens, InstructionSource, Limit
from tastemaker.prompts.template import Template, find_templates
from tastemaker.prompts.written import WrittenTexts
from tastemaker.recipe_build import BuildConfig, PerUser
from tastemaker.stage import Run

__all__ = [
    "P5_REPEATS",
    "PARTS",
    "Plan",
    "check_askable",
    "check_training",
    "count_characters",
    "count_tokens",
    "length_limit",
    "plan",
    "planned_binder",
    "token_counter",
    "training_targets",
    "weighted_templates",
]

PARTS = {"train": "train", "valid": "validation", "test": "test"}
UNSEEN = "test_unseen"
# P5's repeats in an epoch: 5 + 5 + 10 sequential and 10 + 5 direct questions about each user.
P5_REPEATS: Mapping[str, int | PerUser] = {
    "rating": 1,
    "sequential": PerUser(per_user=20),
    "explanation": 1,
    "review": 1,
    "direct": PerUser(per_user=15),
}


@dataclass(frozen=True, eq=False)
class Plan:
    """What a build stage will write.

    Attributes:
        sources: Part → its instructions.
        binder: Gives fields their values.
        templates: All of the mixture.
        index: What items are called by number; None when no template shows it.
        left_out: Training examples dropped as near-duplicates.
    """

    sources: Mapping[str, InstructionSource]
    binder: Binder
    templates: Sequence[Template]
    index: ItemIndex | None
    left_out: int = 0


def weighted_templates(config: BuildConfig) -> tuple[list[Template], list[float]]:
    """The templates a recipe names, each with the weight of the last pattern it matches."""
    weights: dict[str, float] = {}
    found: dict[str, Template] = {}
    for pattern, weight in config.templates.items():
        for template in find_templates([pattern]):
            found[template.name], weights[template.name] = template, weight
    return list(found.values()), [weights[name] for name in found]


def plan(
    folder: Path,
    config: BuildConfig,
    *,
    seed: int,
    written: Mapping[str, WrittenTexts] | None = None,
) -> Plan:
    """What the build stage of a run writes, from the run's data stage.

    Args:
        folder: The run's.
        config: Section `build` of the recipe.
        seed: The recipe's.
        written: Field → what a teacher wrote in its place (see `methods.teaching`).

    Raises:
        UserError: the data lacks what a template needs, or nothing is left to ask about.
    """
    run = Run(folder, seed=seed)
    split = load_split(run)
    templates, weights = weighted_templates(config)
    binder, index = planned_binder(split, config, templates, seed=seed, written=written)
    _check_columns(binder, templates)
    mixture = partial(
        Mixture.of, per_example=None if config.per_example == "all" else config.per_example
    )
    seen = [place for place, template in enumerate(templates) if template.seen]
    unseen = [place for place, template in enumerate(templates) if not template.seen]
    limit = length_limit(config)
    make = partial(_source, split=split, binder=binder, config=config, limit=limit)
    sources: dict[str, InstructionSource] = {}
    left_out = 0
    if seen:
        shown = mixture([templates[i] for i in seen], weights=[weights[i] for i in seen])
        train, left_out = train_examples(split, binder, shown, config, seed=seed)
        repeated = _repeated(shown, binder, train, config)
        sources["train"] = make("train", train, repeated, binder=_training(binder, config))
        for part, name in (("valid", "validation"), ("test", "test")):
            sources[name] = make(name, _asked(run, split, shown.per, part, config, seed), shown)
    if unseen:
        hidden = mixture([templates[i] for i in unseen], weights=[weights[i] for i in unseen])
        rows = _asked(run, split, hidden.per, "test", config, seed)
        sources[UNSEEN] = make(UNSEEN, rows, hidden)
    if seen:
        sources |= _shots(sources["train"], config)
    sources = {name: source for name, source in sources.items() if len(source)}
    if not sources:
        raise UserError(
            "no example is left for these templates.",
            remedy="Look at build.min_history and data.requests, or choose other templates.",
        )
    return Plan(sources, binder, templates, index, left_out)


def planned_binder(
    split: Split,
    config: BuildConfig,
    templates: Sequence[Template],
    *,
    seed: int,
    written: Mapping[str, WrittenTexts] | None = None,
) -> tuple[Binder, ItemIndex | None]:
    """The binder of a recipe, with an item index when a template shows item numbers."""
    index = None
    if any(template.fields() & INDEX_FIELDS for template in templates):
        index = item_index(
            split.tables,
            split.train,
            config.indexing,
            seed=seed,
            clusters=config.clusters,
            tokens=config.cluster_size,
        )
    catalogue = Catalogue(
        split.tables,
        index=None if index is None else index.texts,
        columns=config.columns,
        attributes=config.attributes,
        text_words=config.text_words,
    )
    for field, column in config.columns.items():
        if not catalogue.has(column):
            raise UserError(f"build.columns: {field}: {catalogue.missing(field)}.")
    binder = Binder(
        split.histories,
        catalogue,
        history=config.history,
        anchor=config.anchor,
        likes=config.likes,
        candidates=config.candidates,
        train=split.train,
        seed=seed,
        source=candidate_source(split, config.candidates_from),
        written=written or {},
    )
    return binder, index


def training_targets(split: Split, config: BuildConfig, per: str) -> Examples:
    """Training rows with enough history; or else the users, or items, of the training part."""
    if per != "interaction":
        return _entities(split, per, "train")
    least = config.history if config.min_history is None else config.min_history
    enough = split.histories.counts(split.train) >= least
    return Examples.of_rows(split.tables, split.train[enough])


def check_training(config: BuildConfig, templates: Sequence[Template]) -> None:
    """Refuse repeats and noise that the templates cannot have.

    Raises:
        RecipeError: names the key and what is allowed.
    """
    tasks = sorted({template.task for template in templates})
    for task in config.repeats:
        if task not in tasks:
            near = nearest(task, tasks)
            raise RecipeError(
                f"build.repeats: no template of build.templates has the task '{task}'"
                + (f"; did you mean '{near}'?" if near else "."),
                allowed=f"tasks of the templates: {', '.join(tasks)}",
            )
    if any(isinstance(one, PerUser) for one in config.repeats.values()):
        of_items = [template.name for template in templates if template.per == "item"]
        if of_items:
            raise RecipeError(
                f"build.repeats: '{of_items[0]}' asks about items, so nothing is per_user.",
                allowed="a whole number for each task",
            )
    if config.rating_noise and not any(map(answers_by_rating, templates)):
        raise RecipeError(
            "build.rating_noise: no template of build.templates asks for a rating as a number.",
            allowed="templates of the task rating, such as p5/1-1",
        )


def _repeated(mixture: Mixture, binder: Binder, examples: Examples, config: BuildConfig) -> Mixture:
    """The mixture of the training part: tasks drawn as often as `build.repeats` says."""
    if not config.repeats:
        return mixture
    per_user = {
        task: one.per_user for task, one in config.repeats.items() if isinstance(one, PerUser)
    }
    times = {task: float(one) for task, one in config.repeats.items() if isinstance(one, int)}
    return mixture.repeated(
        binder, examples, times=times, per_user=per_user, negatives=config.negatives
    )


def _training(binder: Binder, config: BuildConfig) -> Binder:
    """What gives training prompts their values: with noisy ratings where these are asked for."""
    if not config.rating_noise:
        return binder
    tables = binder.tables
    ratings = tables.interactions["rating"].to_numpy()
    if tables.sampled is not None:
        ratings = ratings[~tables.sampled]
    return replace(binder, bands=RatingBands.of(ratings, scale=tables.schema.rating_range))


def token_counter(name: str) -> CountTokens:
    """Texts → number of tokens of each, by the tokenizer of a language model.

    Raises:
        MissingError: the model is not on this machine.
    """
    return partial(count_tokens, _tokenizer(name))


def count_tokens(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Tokens of each text, special ones only where the text itself holds them."""
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)
    return [len(ids) for ids in encoded["input_ids"]]


def chat_tokens(name: str) -> int:
    """Tokens that a model's chat template puts around a question and its answer, at most.

    Some templates write a system text of their own where there is none, others allow none.
    """
    tokenizer = _tokenizer(name)
    if not tokenizer.chat_template:
        return 0
    sizes = [0]
    for roles in (("user", "assistant"), ("system", "user", "assistant")):
        said = [{"role": role, "content": ""} for role in roles]
        try:
            text = tokenizer.apply_chat_template(said, tokenize=False)
        except jinja2.TemplateError:
            continue
        sizes.append(len(tokenizer(text)["input_ids"]))
    return max(sizes)


@cache
def _tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    from tastemaker.models.language import language_model_folder, quiet_loading

    with quiet_loading():
        return AutoTokenizer.from_pretrained(language_model_folder(name), local_files_only=True)


def check_askable(templates: Sequence[Template]) -> None:
    """Refuse templates whose values only a reasoning chain has.

    Raises:
        UserError: names them and their fields.
    """
    of_chains = [template for template in templates if template.of_a_chain]
    if of_chains:
        first = of_chains[0]
        names = sorted(one for one in first.fields() if field_named(one).role == "chain")
        raise UserError(
            f"template '{first.name}' cannot be built: only a reasoning chain has "
            f"{', '.join(names)}.",
            allowed="templates without such fields",
            remedy=f"Leave out {', '.join(one.name for one in of_chains)}, or ask them with: "
            "tastemaker reason RECIPE",
        )


def _check_columns(binder: Binder, templates: Sequence[Template]) -> None:
    lacking = {template.name: binder.lacks(template) for template in templates}
    listed = [
        f"  {name}: field '{field}': {reason}"
        for name, fields in lacking.items()
        for field, reason in fields.items()
    ]
    if listed:
        shown = "\n".join(listed[:10])
        more = f"\n  … and {len(listed) - 10} more" if len(listed) > 10 else ""
        raise UserError(
            f"the data lacks what these templates need:\n{shown}{more}",
            remedy="Say which columns they are (build.columns), or leave the templates out.",
        )


def train_examples(
    split: Split, binder: Binder, mixture: Mixture, config: BuildConfig, *, seed: int
) -> tuple[Examples, int]:
    """What is trained on, and how many near-duplicates were left out."""
    if mixture.per != "interaction":
        return _entities(split, mixture.per, "train"), 0
    examples = _with_negatives(
        split.tables, training_targets(split, config, mixture.per), mixture, config, seed=seed
    )
    examples = examples.take(_fitting(binder, mixture, examples))
    before = len(examples)
    if config.near_duplicates is not None:
        titles = pl.Series(binder.catalogue.titles).rank("dense").to_numpy()
        shown = titles[split.tables.interactions["item"].to_numpy()]
        again = near_duplicates(
            examples,
            split.histories,
            shown,
            history=config.history,
            anchor=config.anchor,
            threshold=config.near_duplicates,
            seed=seed,
        )
        examples = examples.take(~again)
    left_out = before - len(examples)
    if config.balance:
        examples = examples.take(balanced(examples, seed=seed))
    places = sampled(np.arange(len(examples)), config.train_examples, seed=seed)
    return examples.take(places), left_out


def _with_negatives(
    tables: Tables, examples: Examples, mixture: Mixture, config: BuildConfig, *, seed: int
) -> Examples:
    """These, and for each like so many items never met, asked about at the same moment."""
    asks_label = any(template.answers_by_label for template in mixture.templates)
    if not config.negatives or not asks_label:
        return examples
    liked = examples.rows[examples.labels == 1]
    drawn = draw_negatives(tables, liked, per_row=config.negatives, seed=seed)
    added = Examples.of_rows(tables, np.repeat(liked, config.negatives), items=drawn.ravel())
    return examples.followed_by(added)


def _fitting(binder: Binder, mixture: Mixture, examples: Examples) -> NDArray[np.bool_]:
    step = 200_000
    return np.concatenate(
        [
            mixture.fits(binder, examples.take(slice(start, start + step))).any(axis=1)
            for start in range(0, len(examples), step)
        ]
        or [np.zeros(0, dtype=bool)]
    )


def _asked(run: Run, split: Split, per: str, part: str, config: BuildConfig, seed: int) -> Examples:
    """What validation and test ask: the rows that every model is asked."""
    if per != "interaction":
        return _entities(split, per, part)
    rows = load_requests(run, part).rows
    if part == "valid":
        rows = sampled(rows, config.valid_examples, seed=seed)
    return Examples.of_rows(split.tables, rows)


def _entities(split: Split, per: str, part: str) -> Examples:
    """Users of the training part, or the items first met in a part."""
    events = split.tables.interactions
    rest = np.concatenate([split.valid, split.test])
    times = events["time"].to_numpy()
    before = int(times[rest].min()) if len(rest) else int(times.max()) + 1
    if per == "user":
        rows = split.train if part == "train" else np.zeros(0, dtype=np.int64)
        return Examples.of_users(np.unique(events["user"].to_numpy()[rows]), before=before)
    items = events["item"].to_numpy()
    found = np.unique(items[split.part(part)])
    for earlier in ("train", "valid"):
        if earlier == part:
            break
        found = np.setdiff1d(found, items[split.part(earlier)])
    return Examples.of_items(found, before=before)


def _source(
    name: str,
    examples: Examples,
    mixture: Mixture,
    *,
    split: Split,
    binder: Binder,
    config: BuildConfig,
    limit: Limit | None,
) -> InstructionSource:
    rejected = None
    if config.pairs and any(template.names_item for template in mixture.templates):
        rejected = _disliked_nearby(split, name, examples)
    return InstructionSource(
        binder, examples, mixture, name, limit=limit, pairs=config.pairs, rejected=rejected
    )


def _disliked_nearby(split: Split, name: str, examples: Examples) -> NDArray[np.int64]:
    """The item the same user disliked nearest in time, in the same part; -1 for none."""
    part = {"validation": "valid", "train": "train"}.get(name, "test")
    events = split.tables.interactions[split.part(part)]
    other = events.filter(pl.col("label") == 0).select(
        pl.col("user", "time").cast(pl.Int64), disliked=pl.col("item").cast(pl.Int64)
    )
    asked = pl.DataFrame({"user": examples.users, "time": examples.times}).with_row_index("place")
    nearest = asked.sort("time").join_asof(
        other.sort("time"),
        on="time",
        by="user",
        strategy="nearest",
        check_sortedness=False,
    )
    return nearest.sort("place")["disliked"].fill_null(-1).to_numpy()


def _shots(train: InstructionSource, config: BuildConfig) -> dict[str, InstructionSource]:
    found = {}
    for count in config.shots:
        for seed in config.shot_seeds:
            places = few(train.examples, count, seed=seed)
            name = f"train_{count}_seed{seed}"
            found[name] = train.of_places(places, split=name)
    return found


def length_limit(config: BuildConfig) -> Limit | None:
    """How long an instruction may be, the chat template's own tokens taken off; None for no limit.

    Raises:
        MissingError: the tokenizer's model is not on this machine.
    """
    if config.max_length is None:
        return None
    if not config.tokenizer:
        return Limit(config.max_length, count_characters)
    count = token_counter(config.tokenizer)
    around = chat_tokens(config.tokenizer) if config.format != "trl-text" else 0
    return Limit(max(config.max_length - around, 1), count)


def count_characters(texts: Sequence[str]) -> Sequence[int]:
    """Characters of each text."""
    return [len(text) for text in texts]
