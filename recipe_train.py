"""The `train` section of a recipe: which recommender, what it reads, how it is trained."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from tastemaker.recipe_data import Config

__all__ = ["FeatureConfig", "KnowledgeConfig", "SearchConfig", "TrainConfig"]

Ablation = Literal["preference", "facts", "random", "titles"]
Setting = int | float | bool | str | tuple[int, ...]


class FeatureConfig(Config):
    """One input of a recommender; a plain text in the recipe is its `kind`."""

    kind: Literal["categorical", "numeric", "list", "statistic", "sequence", "vectors"]
    sequence: tuple[str, ...] = Field((), description="what every step carries: [item, rating]")
    length: int | None = Field(None, gt=0, description="newest events; empty: train.history")
    vectors: str | None = Field(None, description="folder of vectors")
    of: Literal["user", "item"] | None = Field(None, description="whose vectors; or by the name")
    fusion: Literal["adaptor", "project", "concat"] = "adaptor"

    @model_validator(mode="after")
    def _fits(self) -> FeatureConfig:
        given = {"sequence": bool(self.sequence), "vectors": self.vectors is not None}
        for name, there in given.items():
            if there != (self.kind == name):
                raise ValueError(
                    f"kind {name} and key `{name}` belong together: write a kind alone, or "
                    "{sequence: [item, rating]}, or {vectors: FOLDER, fusion: adaptor}"
                )
        return self


def _feature(value: Any) -> Any:
    """A text is a kind; a sequence and vectors tell their kind by their key."""
    if isinstance(value, str):
        return {"kind": value}
    if isinstance(value, dict) and "kind" not in value:
        for kind in ("sequence", "vectors"):
            if kind in value:
                return {"kind": kind, **value}
    return value


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class KnowledgeConfig(Config):
    """How texts become fields: KAR's hybrid-expert adaptor, or a plainer one for comparison."""

    adaptor: Literal["hybrid", "mixture", "mlp"] = "hybrid"
    shared_experts: int = Field(2, ge=0, description="KAR: 2")
    dedicated_experts: int = Field(2, gt=0, description="of each kind; KAR searches 2 to 6")
    hidden: int = Field(128, gt=0, description="KAR: 128")


class SearchConfig(Config):
    """Hyperparameters chosen by Optuna on validation AUC, for each model by itself."""

    trials: int = Field(20, gt=0)
    learning_rate: tuple[float, float] | None = Field(
        (1e-4, 1e-3), description="lowest, highest; KAR: 1e-4, 1e-3"
    )
    batch_size: tuple[int, ...] = Field((), description="choices; KAR: 128 to 2048")
    weight_decay: tuple[float, ...] = Field((), description="choices")
    options: dict[str, tuple[Setting, ...]] = Field({}, description="option: its choices")


class TrainConfig(Config):
    """CTR backbones, each trained with ids only and with knowledge."""

    backbone: Annotated[tuple[str, ...], BeforeValidator(_several)] = Field(
        ("din",), min_length=1, description="one or several"
    )
    options: dict[str, Setting] = Field({}, description="of the backbone, such as hidden")
    features: dict[str, Annotated[FeatureConfig, BeforeValidator(_feature)]] = Field(
        {}, description="name: kind; empty: the item, its declared columns, the last events"
    )
    embedding_dim: int = Field(32, gt=0, description="KAR: 32")
    history: int = Field(10, gt=0, description="KAR: 10")
    min_count: int = Field(2, gt=0, description="rarer values share one embedding")
    learning_rate: float = Field(1e-3, gt=0, description="KAR searches 1e-4 to 1e-3")
    weight_decay: float = Field(0.0, ge=0)
    batch_size: int = Field(512, gt=0, description="KAR searches 128 to 2048")
    epochs: int = Field(20, gt=0, description="KAR: at most 20")
    patience: int = Field(3, gt=0, description="KAR: 3")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of products in training; weights and scores are float32"
    )
    class_weight: Literal["balanced"] | Annotated[float, Field(gt=0)] | None = Field(
        None, description="weight of a like in the loss"
    )
    knowledge: KnowledgeConfig = KnowledgeConfig()
    ablations: tuple[Ablation, ...] = Field(
        (), description="further models: one text only, random vectors, titles as texts"
    )
    search: SearchConfig | None = None
