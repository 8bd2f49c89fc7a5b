"""One YAML recipe describes a whole experiment; every section is a strict, frozen configuration.

Each stage reads its own section. A wrong key or value stops the run before anything is written; all
mistakes are reported at once, each with the nearest right name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError

from tastemaker.errors import RecipeError, UnknownNameError, nearest
from tastemaker.recipe_build import BuildConfig
from tastemaker.recipe_chat import CatalogueConfig, ChatConfig
from tastemaker.recipe_data import Config, DataConfig
from tastemaker.recipe_generate import GenerateConfig
from tastemaker.recipe_multi_domain import MultiDomainConfig
from tastemaker.recipe_reason import CollectiveConfig, PriceConfig, ReasonConfig
from tastemaker.recipe_teach import TeachConfig
from tastemaker.recipe_train import FeatureConfig, KnowledgeConfig, SearchConfig, TrainConfig
from tastemaker.recipe_tune import (
    InstructionTuningConfig,
    LoraConfig,
    NewModelConfig,
    TuneConfig,
)

__all__ = [
    "BuildConfig",
    "CatalogueConfig",
    "ChatConfig",
    "CollectiveConfig",
    "EncodeConfig",
    "EvaluateConfig",
    "FeatureConfig",
    "GenerateConfig",
    "InstructionTuningConfig",
    "KnowledgeConfig",
    "LoraConfig",
    "MultiDomainConfig",
    "NewModelConfig",
    "PriceConfig",
    "ReasonConfig",
    "Recipe",
    "SearchConfig",
    "TeachConfig",
    "TrainConfig",
    "TuneConfig",
    "load_recipe",
]

_TEMPLATE_KEYS = (
    "templates",
    "user_template",
    "item_template",
    "preference_template",
    "intention_template",
)


class EncodeConfig(Config):
    """Text to vectors."""

    encoder: str = Field("minilm", description="or a folder, a hub id, hashing:64, openai:MODEL")
    pooling: Literal["mean", "cls", "last", "first_last", "weighted"] | None = Field(
        None, description="of a plain Hugging Face model; KAR: mean"
    )
    base_url: str | None = Field(None, description="of an OpenAI-compatible server")
    batch_size: int = Field(64, gt=0)
    dtype: Literal["float32", "float16"] = "float32"


class EvaluateConfig(Config):
    """The comparison."""

    against: str | None = Field(None, description="model of the paired differences; empty: counts")
    bootstrap: int = Field(1000, gt=0, description="resamples of users")
    confidence: float = Field(0.95, gt=0, lt=1)
    batch_tokens: int = Field(2048, gt=0, description="tokens a forward pass, padding included")
    answer_score: Literal["log_odds", "double_softmax"] = Field(
        "log_odds", description="of Yes against No; TALLRec's evaluator: double_softmax"
    )


class Recipe(Config):
    """A whole experiment."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    seed: int = Field(7, ge=0, lt=2**32)
    methods: tuple[str, ...] = ()
    data: DataConfig = DataConfig()
    teach: TeachConfig = TeachConfig()
    build: BuildConfig = BuildConfig()
    tune: TuneConfig = TuneConfig()
    multi_domain: MultiDomainConfig = MultiDomainConfig()
    reason: ReasonConfig = ReasonConfig()
    generate: GenerateConfig = GenerateConfig()
    encode: EncodeConfig = EncodeConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    catalogue: CatalogueConfig = CatalogueConfig()
    chat: ChatConfig = ChatConfig()


def load_recipe(path: Path, *, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, apply `section.key=value` overrides, check everything.

    Relative paths of tables, templates, instructions, adapters and vectors are taken from the
    recipe's own folder.

    Raises:
        RecipeError: unreadable file, not YAML, or wrong keys or values, all in one message.
    """
    values = _read(path)
    for text in overrides:
        _override(values, text)
    _anchor(values.get("data"), folder=path.parent)
    _anchor_others(values, folder=path.parent)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        problems = "\n".join(f"  {_explain(problem)}" for problem in error.errors())
        raise RecipeError(
            f"{path}: {error.error_count()} problem(s)\n{problems}",
            remedy="Correct the recipe (or the --set option) and run the command again.",
        ) from None


def _anchor(data: Any, *, folder: Path) -> None:
    """Take relative paths of the data section from the recipe's own folder, in place."""
    if not isinstance(data, dict):
        return
    if isinstance(data.get("folder"), str):
        data["folder"] = _beside(folder, data["folder"])
    for name in ("interactions", "items", "users"):
        table = data.get(name)
        if isinstance(table, dict):
            for key in ("path", "database"):
                if key in table and table[key] != ":memory:":
                    table[key] = _beside(folder, table[key])
        elif table is not None:
            data[name] = _beside(folder, table)


def _anchor_others(values: dict[str, Any], *, folder: Path) -> None:
    """Take relative paths of other sections from the recipe's own folder, in place."""

    def found(name: Any) -> Any:
        own = isinstance(name, str) and name.endswith(".j2")
        return _beside(folder, name) if own else name

    tune = values.get("tune")
    if isinstance(tune, dict):
        if tune.get("adapter"):
            tune["adapter"] = _beside(folder, tune["adapter"])
        first = tune.get("instruction_tuning")
        if isinstance(first, dict) and "data" in first:
            first["data"] = _beside(folder, first["data"])
    several = values.get("multi_domain")
    if isinstance(several, dict) and several.get("start"):
        several["start"] = _beside(folder, several["start"])
    _anchor_features(values.get("train"), folder=folder)
    for section in ("build", "reason", "teach"):
        keys = values.get(section)
        for key in _TEMPLATE_KEYS:
            if isinstance(keys, dict) and key in keys:
                value = keys[key]
                if isinstance(value, dict):
                    keys[key] = {found(name): weight for name, weight in value.items()}
                else:
                    keys[key] = [*map(found, value)] if isinstance(value, list) else found(value)


def _anchor_features(train: Any, *, folder: Path) -> None:
    """Take relative folders of vectors from the recipe's own folder, in place."""
    features = train.get("features") if isinstance(train, dict) else None
    for feature in features.values() if isinstance(features, dict) else ():
        if isinstance(feature, dict) and "vectors" in feature:
            feature["vectors"] = _beside(folder, feature["vectors"])


def _beside(folder: Path, place: Any) -> Any:
    """A path, or each of a list of paths, seen from `folder`; other values stay as they are."""
    if isinstance(place, list | tuple):
        return [_beside(folder, one) for one in place]
    return str(folder / Path(place).expanduser()) if isinstance(place, str) else place


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(
            f"{path}: cannot be read ({error.strerror}).", remedy="Name an existing recipe file."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise RecipeError(
            f"{path}: a recipe is a mapping of sections, found {type(values).__name__}.",
            allowed=f"sections: {', '.join(Recipe.model_fields)}",
        )
    return values


def _override(values: dict[str, Any], text: str) -> None:
    name, sign, raw = text.partition("=")
    if not sign or not name.strip():
        raise RecipeError(f"--set {text}: expected section.key=value.")
    *parents, last = name.strip().split(".")
    place = values
    for parent in parents:
        inner = place.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {text}: '{parent}' is a value, not a section.")
        place = inner
    try:
        place[last] = yaml.safe_load(raw)
    except yaml.YAMLError:
        raise RecipeError(f"--set {text}: the value is not valid YAML.") from None


def _explain(problem: Any) -> str:
    place = ".".join(str(part) for part in _keys(problem["loc"]))
    if problem["type"] == "union_tag_invalid":
        name = str(problem["ctx"]["tag"])
        known = problem["ctx"]["expected_tags"].replace("'", "").split(", ")
        return f"{place}.name: {UnknownNameError('splitter', name, known)}".replace("\n", " ")
    if problem["type"] != "extra_forbidden":
        return f"{place} = {problem['input']!r}: {problem['msg']}"
    known = _known_keys(problem["loc"][:-1])
    close = nearest(str(problem["loc"][-1]), known)
    hint = f"did you mean '{close}'? " if close else ""
    return f"{place}: unknown key; {hint}allowed: {', '.join(known)}"


def _keys(place: Sequence[Any]) -> list[str]:
    """The keys of a recipe on the way to a problem, without the tags of unions."""
    return _walk(place)[0]


def _known_keys(place: Sequence[Any]) -> list[str]:
    models = _walk(place)[1]
    return list((models[0] if models else Recipe).model_fields)


def _walk(place: Sequence[Any]) -> tuple[list[str], list[type[BaseModel]]]:
    """Keys on the way, and the section (or the sections of a union) where it ends."""
    keys: list[str] = []
    models: list[type[BaseModel]] = [Recipe]
    named = False  # whether the next part is a name of the user's own, such as a feature's
    for part in map(str, place):
        tagged = [model for model in models if len(models) > 1 and _tag(model) == part]
        if tagged:
            models = tagged
            continue
        keys.append(part)
        if named:
            named = False
            continue
        field = models[0].model_fields.get(part) if models else None
        models = _sections(field.annotation) if field else []
        named = field is not None and get_origin(field.annotation) is dict
    return keys, models


def _tag(model: type[BaseModel]) -> str:
    return str(get_args(model.model_fields["name"].annotation)[0])


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """The section classes named anywhere in a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _sections(part)]
