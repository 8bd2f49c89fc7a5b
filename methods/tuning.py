"""The tune stage: weights trained on built instructions, in one step or two.

It is shared by all methods that tune a language model on a data set of the build stage.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import polars.selectors as cs
from datasets import Dataset

from tastemaker import processes
from tastemaker.data.item_index import ItemIndex
from tastemaker.errors import DataError, RecipeError
from tastemaker.methods.base_models import NEW, check_new, load_untuned, make_new
from tastemaker.methods.building import INDEX, arranged
from tastemaker.methods.planning import PARTS
from tastemaker.models.language import LanguageModel, language_model_source
from tastemaker.prompts.formats import find_format
from tastemaker.recipe import InstructionTuningConfig, Recipe, TuneConfig
from tastemaker.stage import Stage, Workspace, atomic_file
from tastemaker.tuning.card import CardFacts, model_card
from tastemaker.tuning.running import RECORD
from tastemaker.tuning.settings import AdapterShape, TuneResult, TuneSettings
from tastemaker.tuning.tracking import check_tracker
from tastemaker.tuning.tune import tune
from tastemaker.tuning.weights import check_kind

__all__ = ["check_tune", "settings_of", "tune_stage", "tuned_folder"]

Choices = Callable[[], tuple[str, str] | None]

_FIRST = "instruction_tuned"
_TEXTS = ("instruction", "input", "output", "system")
_UNTUNED = frozenset({"tracker"})  # changes nothing in what is trained
_SETTINGS = frozenset(TuneSettings.__dataclass_fields__) - {"lora"}


def tune_stage(recipe: Recipe, *, choices: Choices) -> Stage:
    """Stage `tune`: an adapter, or a whole model, trained on the built instructions.

    Args:
        recipe: Section `tune`.
        choices: Gives the positive and the negative answer, or None where templates share none;
            asked when the stage runs, since a recipe may only be built.
    """
    config = recipe.tune
    sources = _adapter_files(config.adapter)
    if config.instruction_tuning is not None:
        sources.append(Path(config.instruction_tuning.data))
    return Stage(
        name="tune",
        needs=("build",),
        run=lambda space: _run(config, space, choices()),
        config=config.model_dump(mode="json", exclude=set(_UNTUNED)),
        sources=tuple(sources),
        distributed=True,
    )


def check_tune(recipe: Recipe) -> None:
    """Find what cannot be tuned before anything is written.

    Raises:
        UserError: an unknown model or adapter, a kind or tracker that this machine lacks, or
            instructions that cannot be read.
    """
    config = recipe.tune
    check_new(config)
    if config.model != NEW:
        language_model_source(config.model)
    if config.kind == "frozen":
        raise RecipeError(
            "tune.kind frozen trains nothing of the language model, which here is all there is.",
            allowed="lora, qlora or full; frozen only for a method with networks of its own, such "
            "as uni_ctr",
        )
    check_kind(config.kind)
    check_tracker(config.tracker)
    if config.adapter and len(_adapter_files(config.adapter)) < 2:
        there = Path(config.adapter).is_dir()
        raise RecipeError(
            f"tune.adapter: '{config.adapter}' "
            + ("holds no adapter." if there else "is no folder."),
            allowed="a folder with adapter_config.json and adapter_model.safetensors (or .bin)",
            remedy="Name the one that tastemaker tune wrote: RUN/tune/adapter.",
        )
    if config.kind == "full" and config.adapter:
        raise RecipeError(
            "tune.adapter: tune.kind full trains the whole model.",
            remedy="Merge the adapter first (tastemaker merge) and name the result as tune.model.",
        )
    if config.loss_on == "everything" and config.rows == "streamed":
        raise RecipeError(
            "tune.loss_on everything counts the shared beginning of a stream once per target.",
            remedy="Set tune.loss_on to answer, or tune.rows to single.",
        )
    if config.instruction_tuning is not None:
        _instructions(config.instruction_tuning)


def tuned_folder(artefact: Path) -> Path:
    """Where a finished tune stage keeps its adapter, or its model."""
    return next(artefact / name for name in ("adapter", "model") if (artefact / name).is_dir())


def _run(
    config: TuneConfig, space: Workspace, choices: tuple[str, str] | None
) -> Mapping[str, Any]:
    folder = space.run.artefact("build")
    train, valid = (
        _chosen(arranged(folder, PARTS[part]), count, seed=space.seed)
        for part, count in (("train", config.shots), ("valid", config.valid_shots))
    )
    start = Path(config.adapter) if config.adapter else None
    first: TuneResult | None = None
    if config.instruction_tuning is not None:
        first = _first_stage(config, config.instruction_tuning, space)
        start = space.scratch / _FIRST / _name(config)
    out = space.out / _name(config)
    result = _tune(
        config,
        space,
        label="tuning",
        train=train,
        valid=valid,
        settings=settings_of(config),
        out=out,
        scratch=space.scratch / "tune",
        choices=choices,
        start=start,
    )
    if start is not None and first is not None and processes.is_main():
        shutil.copytree(start, space.out / _FIRST)
    summary = _summary(config, result, train, valid)
    if first is not None:
        summary["instruction_tuning"] = {
            "steps": first.steps,
            "left_out": first.left_out,
            "best_valid_loss": first.best_valid_loss,
            "curve": first.curve,
        }
    if processes.is_main():
        _write_card(config, space, summary, out)
    return summary


def _adapter_files(folder: str) -> list[Path]:
    """What an adapter consists of, configuration first; nothing for no adapter."""
    names = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
    return [Path(folder) / name for name in names if folder and (Path(folder) / name).is_file()]


def _name(config: TuneConfig) -> str:
    return "model" if config.kind == "full" else "adapter"


def settings_of(config: TuneConfig, **changes: Any) -> TuneSettings:
    """What a recipe says of training, with some of it changed."""
    values = {name: getattr(config, name) for name in _SETTINGS}
    shape = AdapterShape(**config.lora.model_dump())
    return TuneSettings(**{**values, "lora": shape, **changes})


def _chosen(frame: pl.DataFrame, count: int | None, *, seed: int) -> Dataset:
    """K rows as the paper draws them; all when `count` is None."""
    columns = [name for name in ("prompt", "completion", "label") if name in frame.columns]
    found = Dataset.from_polars(frame.select(columns))
    if count is None:
        return found
    return found.shuffle(seed=seed).select(range(min(count, len(found))))


def _tune(
    config: TuneConfig,
    space: Workspace,
    *,
    label: str,
    settings: TuneSettings,
    start: Path | None,
    **more: Any,
) -> TuneResult:
    train: Dataset = more.pop("train")
    whole = config.kind == "full"  # then it starts from a model, not from an adapter
    steps = int(-(-len(train) // settings.batch_size) * settings.epochs)
    with space.report.track(f"{label}, steps", steps) as advance:
        return tune(
            _fresh(config, space, train, start=start if whole else None),
            train,
            adapter=None if whole else start,
            settings=settings,
            seed=space.seed,
            logs=space.run.folder / "logs" / label.replace(" ", "-"),
            on_step=advance,
            **more,
        )


def _fresh(
    config: TuneConfig, space: Workspace, train: Dataset, *, start: Path | None
) -> Callable[[], LanguageModel]:
    """Loads what tuning begins with: the base, a new model, or what a first stage made of it."""
    index = space.run.artefact("build")
    tokens = ItemIndex.load(index).tokens if (index / f"{INDEX}.json").is_file() else ()
    if config.model == NEW:
        start = make_new(config, train, space.scratch / "new-model", tokens=tokens, seed=space.seed)
    return partial(load_untuned, config, folder=start, tokens=tokens, seed=space.seed)


def _first_stage(
    config: TuneConfig, stage: InstructionTuningConfig, space: Workspace
) -> TuneResult:
    """Tune on general instructions; a finished first stage is not repeated after a kill."""
    out = space.scratch / _FIRST / _name(config)
    record = out / RECORD
    done = processes.broadcast(record.is_file() if processes.is_main() else None)
    if done:
        values = json.loads(record.read_text(encoding="utf-8"))
        return TuneResult(**{name: values[name] for name in TuneResult.__dataclass_fields__})
    frame = _instructions(stage).sample(fraction=1.0, shuffle=True, seed=space.seed)
    valid = frame.head(stage.valid_examples)
    train = frame.slice(stage.valid_examples, stage.examples)
    result = _tune(
        config,
        space,
        label="instruction tuning",
        train=Dataset.from_polars(train),
        valid=Dataset.from_polars(valid),
        settings=settings_of(
            config,
            epochs=stage.epochs,
            learning_rate=stage.learning_rate,
            batch_size=stage.batch_size,
            evaluate_every=None,
            patience=None,
            metric="loss",
            rows="packed" if config.rows == "packed" else "single",
        ),
        out=out,
        scratch=space.scratch / f"{_FIRST}-checkpoints",
        start=Path(config.adapter) if config.adapter else None,
        leave_out_long=True,  # nobody has built them to a length
    )
    processes.barrier()  # the second stage begins with what the main process has saved
    return result


def _instructions(stage: InstructionTuningConfig) -> pl.DataFrame:
    """General instructions as TRL reads them.

    Raises:
        RecipeError: no such file.
        DataError: it is not JSON, lacks a column, or holds too few rows.
    """
    path = Path(stage.data)
    frame = _read_instructions(path)
    missing = {"instruction", "output"} - set(frame.columns)
    if missing:
        raise DataError(
            f"tune.instruction_tuning.data: {path.name} has no {' and no '.join(sorted(missing))}.",
            allowed=f"columns found: {', '.join(frame.columns)}",
        )
    if frame.height <= stage.valid_examples:
        raise DataError(
            f"tune.instruction_tuning.data: {path.name} has {frame.height} rows, and "
            f"{stage.valid_examples} are kept for validation.",
            remedy="Lower tune.instruction_tuning.valid_examples.",
        )
    for name in ("input", "system"):
        if name not in frame.columns:
            frame = frame.with_columns(pl.lit("").alias(name))
    # A line break at either end would merge with the text around an answer.
    texts = pl.col(*_TEXTS).fill_null("").str.strip_chars()
    return find_format("trl").arrange(find_format("alpaca").restore(frame.select(texts)))


def _read_instructions(path: Path) -> pl.DataFrame:
    """The texts of a file, other columns left out.

    Raises:
        RecipeError: no such file.
        DataError: it is not JSON, or a column is not text.
    """
    if not path.is_file():
        raise RecipeError(
            f"tune.instruction_tuning.data: there is no file '{path}'.",
            remedy="Name a JSON or JSON-lines file with instruction, input and output.",
        )
    read = pl.read_ndjson if path.suffix in (".jsonl", ".ndjson") else pl.read_json
    try:
        return read(path, infer_schema_length=None).cast(
            {cs.by_name(*_TEXTS, require_all=False): pl.String}
        )
    except (pl.exceptions.PolarsError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"tune.instruction_tuning.data: {path.name} cannot be read: {reason}",
            allowed="JSON (a list of objects whose values are texts), or JSON lines in a file "
            "ending with .jsonl",
        ) from None


def _summary(
    config: TuneConfig, result: TuneResult, train: Dataset, valid: Dataset
) -> dict[str, Any]:
    told = f"validation loss {result.best_valid_loss:.3f}"
    if result.best_valid_auc is not None:
        told += f", AUC {result.best_valid_auc:.3f}"
    return {
        "kind": config.kind,
        "examples": len(train),
        "valid_examples": len(valid),
        "steps": result.steps,
        "best_step": result.best_step,
        "metric": result.metric,
        "trained_parameters": result.trained_parameters,
        "best_valid_loss": result.best_valid_loss,
        "best_valid_auc": result.best_valid_auc,
        "reload_logit_difference": result.logit_difference,
        "tokens": result.tokens,
        "micro_batch": result.micro_batch,
        "gradient_checkpointing": result.gradient_checkpointing,
        "curve": result.curve,
        "line": f"{len(train)} examples, {result.steps} steps, {told} at step {result.best_step}, "
        "reload checked",
    }


def _write_card(
    config: TuneConfig, space: Workspace, summary: Mapping[str, Any], out: Path
) -> None:
    build = space.run.manifest("build")
    settings = config.model_dump(mode="json", exclude={"model", "kind", *_UNTUNED})
    shown = (
        "steps",
        "best_step",
        "trained_parameters",
        "best_valid_loss",
        "best_valid_auc",
        "reload_logit_difference",
    )
    card = model_card(
        CardFacts(
            base=config.model,
            kind=config.kind,
            examples=int(summary["examples"]),
            templates=build.summary["templates"] if build else (),
            settings=settings,
            results={name: summary[name] for name in shown if summary[name] is not None},
            versions=build.versions if build else {},
            seed=space.seed,
        )
    )
    with atomic_file(out / "README.md") as handle:
        handle.write(card.encode())
