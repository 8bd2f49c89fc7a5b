"""The section `multi_domain` of a recipe: a network per domain on one language model (Uni-CTR)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from tastemaker.recipe_data import Config

__all__ = ["MultiDomainConfig"]


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_several)]


class MultiDomainConfig(Config):
    """Which domains are trained, and the shape of their networks."""

    unseen: Names = Field(
        (), description="domains never trained on, scored by the general network; Uni-CTR: one"
    )
    added: Names = Field(
        (), description="domains trained afterwards, everything else frozen; Uni-CTR: one"
    )
    start: str = Field(
        "", description="folder of a tuned model: keep its networks, train the added domains only"
    )
    removed: Names = Field((), description="domains of that model whose networks are left out")
    layout: Literal["paper", "code"] = Field(
        "paper",
        description="code: a rung on the embeddings, states added, not stacked, a ladder "
        "of the general network",
    )
    every: int | None = Field(
        None, gt=0, description="layers between rungs (φ); empty: a quarter of all (Uni-CTR)"
    )
    narrow_by: int = Field(4, gt=0, description="a rung attends at this part of the width; 4")
    heads: int = Field(2, gt=0, description="attention heads of a rung; Uni-CTR's code: 2")
    dropout: float = Field(0.2, ge=0, lt=1, description="of rungs; Uni-CTR's code: .2")
    tower: tuple[Annotated[int, Field(gt=0)], ...] = Field(
        (512, 256, 128), description="hidden sizes; Uni-CTR: 512, 256, 128"
    )
    tower_dropout: float = Field(0.3, ge=0, lt=1, description="Uni-CTR: .3")
    ablations: tuple[Literal["no_ladders", "no_llm", "general_only"], ...] = Field(
        (), description="further models: without ladders, on embeddings, one network for all"
    )
    keep_states: bool = Field(
        True, description="compute states that cannot change once, and keep them on disk"
    )
    states_gb: float = Field(
        20.0, gt=0, description="disk space that they may take; else they are computed each time"
    )
