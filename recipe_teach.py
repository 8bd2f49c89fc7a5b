"""The section `teach` of a recipe: a chat model that writes tastes and wishes into instructions."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tastemaker.recipe_reason import AskingConfig

__all__ = ["TeachConfig"]


class TeachConfig(AskingConfig):
    """Who writes the preferences and vague intentions that templates show (InstructRec §3.2)."""

    model: str = Field(
        "template", description="provider:model; template: nobody, phrases from the categories"
    )
    fields: tuple[Literal["preference", "vague_intention"], ...] = Field(
        ("preference", "vague_intention"), description="written where a template has them"
    )
    parts: tuple[Literal["train", "validation", "test"], ...] = Field(
        ("train", "validation", "test"), description="of the data set; others keep the phrases"
    )
    examples: int | None = Field(None, gt=0, description="rows of a part; empty: all")
    history: int = Field(20, gt=0, description="newest likes shown; InstructRec: at most 20")
    longest: int = Field(200, gt=0, description="characters of a text; longer ones are unusable")
    preference_template: str = "instructrec_teacher/preference"
    intention_template: str = "instructrec_teacher/intention"
    truncated: Literal["fail", "trim", "keep"] = Field(
        "trim", description="an answer cut at max_tokens; trim: up to its last whole sentence"
    )
