"""The recipe's section `reason`: which model is asked what about whom, how, and for how much."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from tastemaker.recipe_data import Config

__all__ = ["AskingConfig", "CollectiveConfig", "PriceConfig", "ReasonConfig"]

Chain = Literal["single", "stepwise", "profile", "summary", "collective"]


class PriceConfig(Config):
    """Money per million tokens, in a currency of your own choice."""

    prompt: float = Field(ge=0)
    completion: float = Field(ge=0)


class CollectiveConfig(Config):
    """REKI's groups: one text per group instead of one per user or item."""

    user_groups: int | None = Field(None, gt=0, description="a side; REKI: 135 for 6,040 users")
    item_groups: int | None = Field(None, gt=0, description="REKI: 107 for 3,706 items")
    members: int = Field(20, gt=0, description="titles shown of a group")
    encoder: str = Field("minilm", description="of the items' titles and columns")


class AskingConfig(Config):
    """How a chat model is asked, and what may be spent on it."""

    model: str = Field("local:smollm2", description="provider:model")
    base_url: str | None = Field(None, description="of a server that speaks the protocol")
    max_tokens: int = Field(64, gt=0)
    temperature: float = Field(0.0, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    context: int | None = Field(None, gt=0, description="tokens the model reads; empty: as known")
    truncated: Literal["fail", "trim", "keep"] = Field(
        "fail", description="an answer cut at max_tokens; trim: up to its last whole sentence"
    )
    language: str | None = Field(None, pattern=r"^[a-z]{2}$", description="answers must be in")
    invalid_retries: int = Field(2, ge=0, description="for an unusable answer, with another seed")

    batch_size: int = Field(64, gt=0, description="prompts a forward pass of a local model")
    concurrency: int = Field(16, gt=0, description="requests at a time to a server")
    requests_per_minute: float | None = Field(None, gt=0)
    tokens_per_minute: float | None = Field(None, gt=0)
    timeout: float = Field(120.0, gt=0, description="seconds for one answer")
    tries: int = Field(6, gt=0, description="for one answer, while trouble may pass")
    batch_api: bool = Field(False, description="OpenAI's half-price batches, within a day")
    price: PriceConfig | None = None
    max_cost: float | None = Field(None, gt=0, description="hard stop; needs a price")
    max_requests: int | None = Field(None, gt=0, description="hard stop of one run")

    @model_validator(mode="after")
    def _priced(self) -> Self:
        if self.max_cost is not None and self.price is None:
            raise ValueError(
                "max_cost needs a price too: {prompt: ..., completion: ...} per million tokens"
            )
        return self


class ReasonConfig(AskingConfig):
    """What a chat model is asked about users and items, and what may be spent on it."""

    chain: Chain = Field("single", description="KAR's one prompt; others: see docs/knowledge.md")
    verify: Literal["off", "drop", "resend"] = Field(
        "off", description="claims the catalogue contradicts: dropped, or sent back once"
    )
    user_template: str | None = Field(None, description="empty: the chain's own")
    item_template: str | None = Field(None, description="empty: the chain's own")
    factors: tuple[str, ...] | None = Field(None, description="empty: the templates' list")
    cut: Literal["oldest_half", "train"] | datetime = Field(
        "oldest_half", description="events shown: KAR's rule, training part, or before a moment"
    )
    history_cap: int = Field(10, gt=0, description="events shown; KAR: 30 (ML-1M), 15 (Amazon)")
    max_users: int | None = Field(None, ge=0)
    max_items: int | None = Field(None, ge=0)
    collective: CollectiveConfig = CollectiveConfig()

    @field_validator("factors")
    @classmethod
    def _some(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and not [one for one in value if one.strip()]:
            raise ValueError(
                "an empty list; leave factors out for the templates' own, or name at least one"
            )
        return value
