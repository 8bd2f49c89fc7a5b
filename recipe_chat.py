"""The sections of a recipe that a conversation reads: its catalogue, and how it talks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tastemaker.recipe_data import Config

__all__ = ["CatalogueConfig", "ChatConfig"]


class CatalogueConfig(Config):
    """What conversations search; `run` builds it when the recipe has this section."""

    encoder: str | None = Field(
        "same", description="of documents; same: as in encode; none: full-text search only"
    )
    pooling: Literal["mean", "cls", "last", "first_last", "weighted"] | None = Field(
        None, description="of an encoder of its own that is a plain model"
    )
    base_url: str | None = Field(None, description="of an encoder of its own on a server")
    collaborative: bool = Field(True, description="vectors by who likes what, from train")
    texts: bool = Field(True, description="whether generated knowledge is searched, too")


class ChatConfig(Config):
    """How a conversation goes; no stage depends on it."""

    model: str = Field("local:smollm2", description="reads requests and words answers")
    base_url: str | None = Field(None, description="of an OpenAI-compatible server")
    tools: Literal["auto", "always", "never"] = Field(
        "auto", description="whether the model calls tools itself; auto: where it is able to"
    )
    wording: Literal["model", "plain"] = "model"
    understanding: Literal["auto", "model", "words"] = Field(
        "auto", description="who decides what words leave open; auto: models that are able to"
    )
    count: int = Field(5, ge=1, le=20, description="items of an answer")
    max_steps: int = Field(8, gt=0, description="calls of the model for one answer")
    max_tokens: int = Field(256, gt=0)
    temperature: float = Field(0.0, ge=0)
    timeout: float = Field(60.0, gt=0, description="seconds for one answer")
