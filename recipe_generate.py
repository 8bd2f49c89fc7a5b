"""The section `generate` of a recipe: how a tuned model's answers are found and judged."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tastemaker.recipe_data import Config

__all__ = ["CandidateSetConfig", "GenerateConfig"]


class CandidateSetConfig(Config):
    """Candidates that each question's target is ranked among."""

    n: int = Field(10, gt=1, description="items, the target among them; InstructRec: 10 and 100")
    origin: Literal["uniform", "popularity", "hard"] = Field(
        "uniform", description="of the others; hard: those a matcher ranks highest (InstructRec)"
    )


class GenerateConfig(Config):
    """Answers of the tuned model to the questions of the test part."""

    model: str = Field(
        "",
        description="folder of a whole model tuned elsewhere (RUN/tune/model), such as on another "
        "domain; empty: what the recipe tunes",
    )
    templates: tuple[str, ...] = Field(
        (), description="that are asked; empty: of each task the first seen one, and the unseen"
    )
    examples: int | None = Field(
        None, gt=0, description="test questions of a template, seeded sample; all when empty"
    )
    valid_examples: int = Field(
        0, ge=0, description="validation questions that also choose the best seen template; 0: none"
    )
    k: int = Field(10, gt=0, description="items of a list; P5 and OpenP5: 10")
    beams: int = Field(20, gt=0, description="P5: 20, OpenP5: 10")
    length_normalised: bool = Field(False, description="compare log-probabilities per token")
    exclude_history: bool = Field(True, description="items met before do not come again")
    candidates: tuple[CandidateSetConfig, ...] = Field(
        (), description="sets that items are also ranked in; empty: what prompts list"
    )
    tournament: int = Field(
        0, ge=0, description="candidates of a group of InstructRec's two rounds (10); 0: no rounds"
    )
    ranked: int = Field(
        200, ge=0, description="questions whose candidates are also asked one by one, yes or no"
    )
    free: int = Field(
        200, ge=0, description="questions also answered without the catalogue, for error rates"
    )
    text_beams: int = Field(1, gt=0, description="of free texts; P5: 12")
    min_tokens: int = Field(0, ge=0, description="of explanations; P5: 9")
    batch_tokens: int = Field(8192, gt=0, description="tokens a forward pass, padding included")
    untuned: bool = Field(False, description="ask the model as it was before tuning, too")
