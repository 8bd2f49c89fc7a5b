"""Hyperparameters by Optuna, on request: for each model by itself, on validation AUC only."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from typing import Any

from tastemaker.data.splits import Split
from tastemaker.errors import MissingError, UserError
from tastemaker.methods.featuring import new_recommender
from tastemaker.models.text_vectors import TextVectors
from tastemaker.recipe import SearchConfig, TrainConfig
from tastemaker.stage import Workspace, digest

__all__ = ["SEARCHED", "check_search", "searched"]

SEARCHED = ("learning_rate", "batch_size", "weight_decay", "options")


def check_search(config: TrainConfig) -> None:
    """Find a search that cannot be done.

    Raises:
        MissingError: Optuna is not installed.
        UserError: nothing to choose from, or a range upside down.
    """
    search = config.search
    if search is None:
        return
    if importlib.util.find_spec("optuna") is None:
        raise MissingError(
            "train.search needs Optuna, which is not installed.",
            remedy='Run pip install "tastemaker[search]".',
        )
    span = search.learning_rate
    if span is not None and not 0 < span[0] <= span[1]:
        raise UserError(
            f"train.search.learning_rate: [{span[0]}, {span[1]}] is no range.",
            allowed="lowest, highest; both above 0",
        )
    if not (span or search.batch_size or search.weight_decay or search.options):
        raise UserError("train.search: nothing is to be chosen.", remedy="Name choices.")


def searched(
    name: str,
    backbone: str,
    config: TrainConfig,
    texts: Sequence[TextVectors],
    *,
    space: Workspace,
    split: Split,
) -> TrainConfig:
    """The section with the best settings of so many trials; as it is without `search`.

    Trials stand in a file of the stage's scratch folder: a killed search goes on behind the last
    finished one.

    Args:
        name: Of the model.
        backbone: One of `config.backbone`.
        config: Section `train` of the recipe.
        texts: What the model reads of texts.
        space: Gives scratch folder, seed and progress.
        split: What is trained on; its valid part chooses.
    """
    search = config.search
    if search is None:
        return config
    optuna = importlib.import_module("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    key = digest([name, config.model_dump(mode="json")])[:12]
    space.scratch.mkdir(parents=True, exist_ok=True)
    journal = optuna.storages.journal.JournalFileBackend(str(space.scratch / f"search-{key}.log"))
    study = optuna.create_study(
        study_name=key,
        storage=optuna.storages.JournalStorage(journal),
        sampler=optuna.samplers.TPESampler(seed=space.seed),
        direction="maximize",
        load_if_exists=True,
    )
    done = sum(trial.state.is_finished() for trial in study.trials)
    with space.report.track(f"searching {name}, trials", search.trials) as advance:
        advance(min(done, search.trials))

        def objective(trial: Any) -> float:
            tried = _suggested(trial, search, config)
            model = new_recommender(
                name, backbone, tried, split=split, texts=texts, seed=space.seed
            ).fit(split)
            advance(1)
            return max(entry["valid_auc"] for entry in model.curve)

        study.optimize(objective, n_trials=max(search.trials - done, 0))
    return _with(config, study.best_params)


def _suggested(trial: Any, search: SearchConfig, config: TrainConfig) -> TrainConfig:
    chosen: dict[str, Any] = {}
    if search.learning_rate:
        low, high = search.learning_rate
        chosen["learning_rate"] = trial.suggest_float("learning_rate", low, high, log=True)
    for key in ("batch_size", "weight_decay"):
        if choices := getattr(search, key):
            chosen[key] = trial.suggest_categorical(key, list(choices))
    for option, values in search.options.items():
        texts = [json.dumps(value) for value in values]  # Optuna takes no lists as choices
        chosen[f"options.{option}"] = trial.suggest_categorical(f"options.{option}", texts)
    return _with(config, chosen)


def _with(config: TrainConfig, chosen: dict[str, Any]) -> TrainConfig:
    options = {
        name.removeprefix("options."): json.loads(value)
        for name, value in chosen.items()
        if name.startswith("options.")
    }
    plain = {name: value for name, value in chosen.items() if not name.startswith("options.")}
    values = {**config.model_dump(), **plain, "options": {**config.options, **options}}
    return TrainConfig.model_validate(values)
