"""The build stage: instructions of all parts as a data set with a card.

It belongs to no method: any recipe with a `build` section or a method that tunes has it, and
`tastemaker build` runs it alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from tastemaker.data.findings import Finding
from tastemaker.data.id_probe import id_probe, probe_finding
from tastemaker.data.item_index import ItemIndex
from tastemaker.data.splits import Split
from tastemaker.errors import RecipeError, StageError, UserError
from tastemaker.eval.protocol import Requests
from tastemaker.methods.planning import (
    PARTS,
    Plan,
    check_askable,
    check_training,
    count_characters,
    plan,
    token_counter,
)
from tastemaker.prompts.audit import audit_prompts
from tastemaker.prompts.card import CardFacts, dataset_card
from tastemaker.prompts.formats import dataset_info, find_format, read_shards, write_format
from tastemaker.prompts.leaks import LeakSearch
from tastemaker.prompts.mixture import Mixture
from tastemaker.prompts.source import CountTokens
from tastemaker.prompts.template import Template, find_templates
from tastemaker.prompts.writing import Layout, write_parts
from tastemaker.recipe import Recipe
from tastemaker.recipe_build import BuildConfig
from tastemaker.recipe_data import DataConfig
from tastemaker.recipe_teach import TeachConfig
from tastemaker.stage import Run, Stage, Workspace, atomic_file, digest

__all__ = [
    "INDEX",
    "arranged",
    "audit_build",
    "build_stage",
    "built_for",
    "check",
    "check_provenance",
]

_UNBUILT = frozenset({"workers", "check"})  # change nothing in what is written
INDEX = "item_index"
_SAMPLE = 2_000  # prompts of a part whose tokens are counted for the card


def build_stage(recipe: Recipe, *, taught: bool = False) -> Stage:
    """Stage `build`: instructions of all parts as a Hugging Face data set with a card.

    Args:
        recipe: Its section `build`.
        taught: Whether it shows what the stage `teach` wrote.
    """
    config = recipe.build
    found = find_templates(config.templates)
    return Stage(
        name="build",
        needs=("data", "teach") if taught else ("data",),
        run=lambda space: _build(config, space, taught=taught),
        config={
            **config.model_dump(mode="json", exclude=set(_UNBUILT)),
            "sources": {template.label: digest(template.source) for template in found},
        },
    )


def check(recipe: Recipe) -> None:
    """Find wrong templates and settings before anything is written.

    Raises:
        UserError: an unknown template or tokenizer, templates about different things, a template
            without an answer or of a reasoning chain, or a format without preference pairs.
    """
    config = recipe.build
    templates = find_templates(config.templates)
    check_askable(templates)
    check_training(config, templates)
    mixture = Mixture.of(templates)
    for template in mixture.templates:
        if not template.has_answer:
            raise RecipeError(
                f"build.templates: '{template.name}' has no answer to tune on.",
                remedy="Choose another; `tastemaker templates list` shows which have answers.",
            )
    if config.pairs and not any(map(_has_wrong_answers, mixture.templates)):
        raise RecipeError(
            "build.pairs: none of build.templates has an answer that another could replace.",
            allowed="with build.pairs: templates of two choices, or whose answer is an item",
        )
    if config.pairs and find_format(config.format).pair_column is None:
        raise RecipeError(
            f"build.format: {config.format} has no form for preference pairs.",
            allowed="with build.pairs: trl, trl-text, alpaca, sharegpt or openai",
        )
    if config.tokenizer:
        from tastemaker.models.language import language_model_source

        language_model_source(config.tokenizer)


def check_provenance(recipe: Recipe, method: str) -> None:
    """Refuse files that do not tell which row a prompt is of, to a method that must know.

    Raises:
        RecipeError: names the format.
    """
    if not find_format(recipe.build.format).provenance:
        raise RecipeError(
            f"methods: {method} needs to know which row a prompt is of; {recipe.build.format} "
            "files do not tell.",
            remedy=f"Choose another build.format, or leave {method} out.",
        )


def _has_wrong_answers(template: Template) -> bool:
    return len(template.choices) == 2 or template.names_item


def arranged(folder: Path, part: str, *, limit: int | None = None) -> pl.DataFrame:
    """One part as TRL reads it, whatever the format of its files.

    Args:
        folder: A built data set.
        part: Such as `train`.
        limit: Read the first so many rows; all when None.
    """
    return find_format("trl").arrange(read_shards(folder, part, limit=limit))


def built_for(built: Path, requests: Requests) -> pl.DataFrame:
    """The built example of each request, in their order; the first one where several ask.

    Args:
        built: A built data set that tells the row of each example.
        requests: Of one part.

    Raises:
        StageError: a request has no prompt.
    """
    part = PARTS[str(requests.frame["split"][0])]
    frame = arranged(built, part).unique("row", keep="first", maintain_order=True)
    wanted = pl.DataFrame({"row": requests.rows})
    found = wanted.join(frame, on="row", how="left", maintain_order="left")
    missing = found["prompt"].null_count()
    if missing:
        raise StageError(
            f"{missing} of {len(requests)} requests have no prompt in {part}; build.max_length "
            "leaves no room for their question."
        )
    return found


def audit_build(run: Run, split: Split) -> Sequence[Finding]:
    """Verdicts on the built instructions of all parts."""
    manifest = run.manifest("build")
    folder = run.artefact("build")
    config = BuildConfig.model_validate(
        {
            name: value
            for name, value in (manifest.config if manifest else {}).items()
            if name != "sources"
        }
    )
    parts = [name for name, rows in manifest.summary["parts"].items() if rows] if manifest else []
    if not find_format(config.format).provenance:
        return [Finding("prompts: provenance", "warn", f"{config.format} files keep none")]
    index = ItemIndex.load(folder).texts if (folder / f"{INDEX}.json").is_file() else None
    found = [] if index is None else _audit_index(split, index)
    return found + audit_prompts(
        split.tables,
        pl.concat([read_shards(folder, part) for part in parts]),
        history=max(config.history, config.likes),
        parts={PARTS[part]: split.part(part) for part in PARTS},
        templates=find_templates(config.templates),
        index=index,
    )


def _audit_index(split: Split, index: pl.Series) -> list[Finding]:
    """Whether the numbers that prompts show tell the next item by themselves."""
    numbers = index.cast(pl.Int64, strict=False)
    probe = None if numbers.null_count() else id_probe(split, numbers=numbers)
    if probe is None:
        return []  # tokens of clusters follow no order
    return [probe_finding(probe, "ids: item numbers in prompts", shown_by="a template")]


def _again(folder: Path, config: BuildConfig, seed: int, taught: bool = False) -> tuple[Any, Any]:
    """The plan in another process."""
    found = _planned(folder, config, seed=seed, taught=taught)
    return found.sources, _checker(found, config, seed=seed)


def _planned(folder: Path, config: BuildConfig, *, seed: int, taught: bool) -> Plan:
    written = None
    if taught:
        # What asks chat models takes long to import, and most recipes ask none here.
        from tastemaker.methods.teaching import written_texts

        written = written_texts(Run(folder, seed=seed))
    return plan(folder, config, seed=seed, written=written)


def _checker(found: Plan, config: BuildConfig, *, seed: int) -> Callable[[pl.DataFrame], None]:
    index = None if found.index is None else found.index.texts
    # Users and items are all asked about at one moment; interactions bring their own.
    first = next(iter(found.sources.values())).examples.take(slice(0, 1))
    search = LeakSearch(
        found.binder.tables,
        history=max(config.history, config.likes),
        before=int(first.times[0]),
        index=index,
        templates=found.templates,
    )

    def checked(frame: pl.DataFrame) -> None:
        share = round(frame.height * config.check)
        search(frame if share >= frame.height else frame.sample(share, seed=seed)).refuse()

    return checked


def _build(config: BuildConfig, space: Workspace, *, taught: bool) -> Mapping[str, Any]:
    found = _planned(space.run.folder, config, seed=space.seed, taught=taught)
    layout = Layout(config.format, find_format(config.format).suffix, config.shard_rows)
    facts = write_parts(
        space.out,
        found.sources,
        layout=layout,
        scratch=space.scratch / "shards",
        report=space.report,
        check=_checker(found, config, seed=space.seed) if config.check else None,
        workers=config.workers,
        again=partial(_again, space.run.folder, config, space.seed, taught),
    )
    if not any(one.rows for one in facts.values()):
        examples = sum(one.examples for one in facts.values())
        raise UserError(
            f"none of {examples:,} examples became an instruction.",
            allowed="with build.max_length: prompts that keep it without any history",
            remedy="Raise build.max_length, or choose other templates.",
        )
    write_format(space.out, config.format)
    if found.index is not None:
        found.index.save(space.out)
    name = Path(found.binder.tables.source).name or "tastemaker"
    filled = [part for part, one in facts.items() if one.rows]
    if config.format in ("alpaca", "sharegpt"):
        info = dataset_info(name, filled, format=config.format, pairs=config.pairs)
        with atomic_file(space.out / "dataset_info.json") as handle:
            handle.write(json.dumps(info, indent=1, ensure_ascii=False).encode())
    card = dataset_card(
        CardFacts(
            parts=facts,
            sources=found.sources,
            templates=found.templates,
            format=config.format,
            checked=config.check,
            near_duplicates=found.left_out,
            recipe=_recipe_text(space, config, source=found.binder.tables.source, taught=taught),
            counters=_counters(config),
            sample=_SAMPLE,
            note=_teaching_note(space.run) if taught else "",
        ),
    )
    with atomic_file(space.out / "README.md") as handle:
        handle.write(card.encode())
    rows = {part: one.rows for part, one in facts.items()}
    line = ", ".join(f"{count:,} {part}" for part, count in rows.items()) + " instructions"
    return {
        **{part: rows.get(name, 0) for part, name in PARTS.items()},
        "parts": rows,
        "templates": [template.label for template in found.templates],
        "line": line,
    }


def _teaching_note(run: Run) -> str:
    from tastemaker.methods.teaching import teaching_note

    return teaching_note(run)


def _recipe_text(space: Workspace, config: BuildConfig, *, source: str, taught: bool) -> str:
    """What makes the data set again: everything that is not a default, files without folders."""
    manifest = space.run.manifest("data")
    data = DataConfig.model_validate(manifest.config if manifest else {})
    build = config.model_dump(mode="json", exclude_defaults=True, exclude=set(_UNBUILT))
    build["templates"] = {
        Path(name).name if name.endswith(".j2") else name: weight
        for name, weight in config.templates.items()
    }
    if config.tokenizer:
        build["tokenizer"] = Path(config.tokenizer).name
    told = {
        "name": re.sub(r"[^A-Za-z0-9]+", "-", source).strip("-") or "instructions",
        "seed": space.seed,
        "data": _without_folders(data.model_dump(mode="json", exclude_defaults=True)),
        "build": build,
    }
    teach = space.run.manifest("teach") if taught else None
    if teach is not None:
        kept = {
            name: teach.config[name] for name in TeachConfig.model_fields if name in teach.config
        }
        found = TeachConfig.model_validate(kept)
        told["teach"] = found.model_dump(mode="json", exclude_defaults=True, exclude={"base_url"})
    return yaml.safe_dump(told, sort_keys=False, allow_unicode=True, width=100)


def _without_folders(data: dict[str, Any]) -> dict[str, Any]:
    """The data section with each file by its name alone."""

    def named(place: Any) -> Any:
        if isinstance(place, list):
            return [named(one) for one in place]
        return Path(place).name if isinstance(place, str) else place

    for table in ("interactions", "items", "users"):
        for key in ("path", "database"):
            if isinstance(data.get(table), dict) and data[table].get(key):
                data[table][key] = named(data[table][key])
    data.pop("folder", None)
    return data


def _counters(config: BuildConfig) -> dict[str, CountTokens]:
    counters: dict[str, CountTokens] = {"characters": count_characters}
    if config.tokenizer:
        counters[f"tokens of {Path(config.tokenizer).name}"] = token_counter(config.tokenizer)
    return counters
