"""The section `build` of a recipe: which templates turn which rows into instructions, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from tastemaker.recipe_data import Config

__all__ = ["BuildConfig", "PerUser"]


def _weighted(value: Any) -> Any:
    """A name, or a list of names, has weight 1 each."""
    if isinstance(value, str):
        return {value: 1.0}
    return dict.fromkeys(value, 1.0) if isinstance(value, Sequence) else value


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, int) else value


Weights = Annotated[
    dict[str, Annotated[float, Field(gt=0)]], BeforeValidator(_weighted), Field(min_length=1)
]
Counts = Annotated[tuple[Annotated[int, Field(gt=0)], ...], BeforeValidator(_several)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_several)]


class PerUser(Config):
    """So many templates for all training examples of a user together, on average."""

    per_user: float = Field(gt=0, description="P5: 20 sequential, 15 direct")


def _asked(value: Any) -> Any:
    """Says in one sentence what both forms are, which a union cannot."""
    if isinstance(value, PerUser):
        return value
    named = isinstance(value, Mapping) and set(value) == {"per_user"}
    number = value["per_user"] if named else value
    kinds = (int, float) if named else int
    if isinstance(number, bool) or not isinstance(number, kinds) or not number > 0:
        raise ValueError(
            "neither a whole number of templates for each example nor {per_user: NUMBER}; "
            "allowed: above 0"
        )
    return value


class BuildConfig(Config):
    """Which templates turn which rows into instructions, and in which form they are written."""

    templates: Weights = Field(
        {"tallrec/movie": 1.0},
        description="name, pattern such as p5/2-*, own .j2 file, a list of them, or name: weight",
    )
    per_example: Annotated[int, Field(gt=0)] | Literal["all"] = Field(
        1, description="templates that ask about each example"
    )
    repeats: dict[str, Annotated[int | PerUser, BeforeValidator(_asked)]] = Field(
        {},
        description="task: templates of it that ask about each training example, or "
        "{per_user: number}; empty: per_example of all",
    )
    history: int = Field(10, gt=0, description="events shown; TALLRec: 10")
    anchor: int | None = Field(
        None, gt=0, description="events after which the oldest one shown moves on; empty: each"
    )
    likes: int = Field(5, gt=0, description="likes shown by liked_before; Uni-CTR: 5")
    min_history: int | None = Field(
        None, ge=0, description="events before a training target; empty: history (TALLRec)"
    )
    candidates: int = Field(20, gt=1, description="items to choose from; P5: 100")
    candidates_from: Literal["uniform", "popularity", "hard"] = Field(
        "uniform", description="the others: drawn, or what a matcher ranks highest (InstructRec)"
    )
    indexing: Literal["random", "sequential", "collaborative"] = Field(
        "sequential", description="numbers of items in prompts; OpenP5: all three"
    )
    clusters: int = Field(20, gt=1, description="of collaborative indexing; OpenP5: 20")
    cluster_size: int = Field(500, gt=1, description="items in the smallest ones; OpenP5: 500")
    columns: dict[str, str] = Field({}, description="field: column that holds it")
    attributes: tuple[str, ...] = Field((), description="item columns in feature texts; empty: all")
    text_words: int | None = Field(
        None, gt=0, description="words shown of a text of an event, such as a review; empty: all"
    )
    train_examples: int | None = Field(None, gt=0, description="seeded sample; all when empty")
    valid_examples: int | None = Field(None, gt=0)
    shots: Counts = Field((), description="also write K-shot subsets; TALLRec: [16, 64, 256]")
    shot_seeds: Seeds = (0,)
    balance: bool = Field(False, description="as many likes as dislikes to train on")
    near_duplicates: float | None = Field(
        None, gt=0, le=1, description="drop training examples that share so much; such as 0.9"
    )
    negatives: int = Field(0, ge=0, description="items never met, per like; P5's direct task: 1")
    rating_noise: bool = Field(
        False, description="train on 4.2 or 3.9 in place of a rating of 4; P5: true"
    )
    pairs: bool = Field(False, description="preference pairs: a rejected answer for each")
    tokenizer: str = Field("", description="model whose tokens are counted; empty: characters")
    max_length: int | None = Field(
        None, gt=0, description="tokens (or characters) of prompt and answer"
    )
    format: Literal["trl", "trl-text", "messages", "alpaca", "sharegpt", "openai"] = "trl"
    shard_rows: int = Field(50_000, gt=0, description="examples in a file")
    workers: int = Field(1, gt=0, description="processes")
    check: float = Field(
        1.0, ge=0, le=1, description="share of prompts checked for leaks while building"
    )

    @field_validator("anchor")
    @classmethod
    def _within_history(cls, anchor: int | None, info: ValidationInfo) -> int | None:
        history = info.data.get("history")
        if anchor is not None and history is not None and anchor > history:
            raise ValueError(
                f"more than build.history = {history}, so no event would be left at times; "
                f"allowed: 1 to {history}"
            )
        return anchor
