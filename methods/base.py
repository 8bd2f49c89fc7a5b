"""What a method is: the stages it contributes to a recipe and the models it enters.

A method file assigns `METHOD`, a `Method`. Its stages are built from the recipe; its contenders are
the scorers that the comparison puts beside all others, on the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tastemaker.data.findings import Finding
from tastemaker.data.splits import Split
from tastemaker.data.tables import Tables
from tastemaker.eval.answers import Result
from tastemaker.eval.protocol import Requests
from tastemaker.eval.report import Curve, KnowledgeSample, PromptSample
from tastemaker.recipe import Recipe
from tastemaker.stage import Reporter, Run, Stage

__all__ = ["Contender", "Exhibits", "Method", "load_requests", "load_split"]

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Contender:
    """A model in the comparison.

    Attributes:
        name: As shown in the table.
        about: One line on what it is.
        key: Everything its scores depend on besides the requests; equal keys, equal scores.
        score: Log-odds of a like, float32 [n], for the requests given.
        slow: Scoring takes long enough to be kept when the process dies.
        trivial: A baseline that fits nothing but counts.
    """

    name: str
    about: str
    key: Mapping[str, object]
    score: Callable[[Requests, Reporter], Scores]
    slow: bool = False
    trivial: bool = False


@dataclass(frozen=True)
class Exhibits:
    """What a method shows in the report.

    Attributes:
        prompts: Rendered instructions.
        knowledge: Generated texts.
        curves: Training curves.
        coverage: Label → share from 0 to 1.
        notes: Caveats, one sentence each.
        results: How good generated answers are.
    """

    prompts: Sequence[PromptSample] = ()
    knowledge: Sequence[KnowledgeSample] = ()
    curves: Sequence[Curve] = ()
    coverage: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()
    results: Sequence[Result] = ()


@dataclass(frozen=True)
class Method:
    """A published method.

    Attributes:
        title: Of the paper.
        venue: Where and when it appeared, with the arXiv number.
        idea: One sentence.
        stages: Stage name → builder from the recipe.
        models: Names of the models it enters, as the comparison shows them.
        contenders: These models, able to score, from a finished run.
        check: Raises a `UserError` when the recipe names something that does not exist.
        exhibits: What the report shows of a finished run.
        audits: Stage name → verdicts on its artefact, derived by other means than the stage's own.
    """

    title: str
    venue: str
    idea: str
    stages: Mapping[str, Callable[[Recipe], Stage]]
    models: Callable[[Recipe], Sequence[str]]
    contenders: Callable[[Recipe, Run, Split], Sequence[Contender]]
    check: Callable[[Recipe], None]
    exhibits: Callable[[Run], Exhibits]
    audits: Mapping[str, Callable[[Run, Split], Sequence[Finding]]] = field(default_factory=dict)


def load_split(run: Run) -> Split:
    """Tables and split of a run's data stage."""
    folder = run.artefact("data")
    return Split.load(folder / "split", tables=Tables.load(folder / "tables"))


def load_requests(run: Run, part: str) -> Requests:
    """The saved requests of `"valid"` or `"test"`, the same rows for every model."""
    return Requests.load(run.artefact("data") / f"requests-{part}.parquet")
