"""Proof that saved questions, candidates and drawn negatives know nothing of the future."""

from __future__ import annotations

import polars as pl

from tastemaker.data.audit import (
    counts_before,
    first_met,
    part_frame,
    problem_frame,
    real_events,
)
from tastemaker.data.findings import Finding, judged
from tastemaker.data.splits import Split
from tastemaker.data.tables import Tables

__all__ = ["audit_negatives", "audit_requests"]

_TOLD = ("user", "item", "time", "label")


def audit_requests(split: Split, frame: pl.DataFrame, *, name: str) -> list[Finding]:
    """Saved questions are what they say: events of their part, with the right history cut.

    Args:
        split: What they were chosen from.
        frame: Columns `row` (-1: no event), `user`, `item`, `time`, `cut`, `label`, `split`, and
            for candidates `group`, the row of the liked event of the question.
        name: Of the file. One that begins with `candidates` holds one liked item among others.
    """
    tables, events = split.tables, real_events(split.tables)
    asked = frame.with_columns(
        pl.col("row", "user", "item", "time").cast(pl.Int64),
        earlier=counts_before(events, frame),
    )
    cuts = asked.filter((pl.col("cut") != pl.col("earlier")).fill_null(True))
    text = pl.format("says {} earlier events, there are {}", pl.col("cut"), pl.col("earlier"))
    found = [
        _provenance(split, asked, name=name),
        judged(
            f"{name}: history cuts",
            problem_frame(cuts, text),
            tables=tables,
            checked=frame.height,
            noun="questions",
            passed="each cut is the number of strictly earlier events",
            failed="have a wrong cut",
        ),
    ]
    return [*found, *_questions(split, asked, name=name)] if _is_ranking(name) else found


def audit_negatives(tables: Tables) -> list[Finding]:
    """Drawn events are dislikes of items that their user had not met up to that second."""
    if "sampled" not in tables.interactions.columns:
        return []
    drawn = tables.interactions.with_row_index("row").filter("sampled")
    known = _met_by_then(real_events(tables), drawn)
    liked = drawn.filter(pl.col("label") != 0)
    problems = pl.concat(
        [
            problem_frame(known, pl.lit("the user had met this item")),
            problem_frame(liked, pl.lit("its label is not 0")),
        ]
    )
    return [
        judged(
            "negatives: never met",
            problems,
            tables=tables,
            checked=drawn.height,
            noun="drawn events",
            passed="none is of an item met up to its second",
            failed="are no negatives",
        )
    ]


def _is_ranking(name: str) -> bool:
    return name.startswith("candidates")


def _provenance(split: Split, asked: pl.DataFrame, *, name: str) -> Finding:
    """Rows that are events agree with the interactions and belong to the part they name."""
    events = split.tables.interactions.with_row_index("row").select(
        pl.col("row").cast(pl.Int64), *(pl.col(n).alias(f"own_{n}") for n in _TOLD)
    )
    is_event = pl.col("row") != -1
    joined = (
        asked.filter(is_event)
        .join(events, on="row", how="left", maintain_order="left")
        .join(part_frame(split).select("row", "part"), on="row", how="left", maintain_order="left")
    )
    problems = [
        problem_frame(
            joined.filter(pl.col(n).ne_missing(pl.col(f"own_{n}"))),
            pl.format("its {} is not that of the interaction", pl.lit(n)),
        )
        for n in _TOLD
    ]
    elsewhere = joined.filter(pl.col("split").ne_missing(pl.col("part")))
    problems.append(problem_frame(elsewhere, pl.lit("it is no row of its part")))
    if not _is_ranking(name):
        problems.append(problem_frame(asked.filter(~is_event), pl.lit("it is not an event")))
    return judged(
        f"{name}: provenance",
        pl.concat(problems),
        tables=split.tables,
        checked=asked.height,
        noun="questions",
        passed=f"each {'liked item is' if _is_ranking(name) else 'is'} an event of its part",
        failed="differ from the interactions",
    )


def _questions(split: Split, asked: pl.DataFrame, *, name: str) -> list[Finding]:
    """One liked item a question, one user and moment, other items unmet and all different."""
    groups = asked.group_by("group", maintain_order=True).agg(
        pl.col("user", "time").first(),
        row=pl.col("group").first(),
        likes=(pl.col("label") == 1).sum(),
        own=((pl.col("label") == 1) & (pl.col("row") == pl.col("group"))).sum(),
        moments=pl.struct("user", "time").n_unique(),
        items=pl.col("item").n_unique(),
        size=pl.len(),
    )
    one = pl.col("likes") == 1
    wrong = [
        (~one, pl.format("has {} liked items, not one", "likes")),
        (one & (pl.col("own") != 1), pl.lit("is not about its own liked event")),
        (pl.col("moments") != 1, pl.lit("asks several users or moments")),
        (pl.col("items") != pl.col("size"), pl.lit("offers an item twice")),
    ]
    others = asked.filter(pl.col("label") != 1)
    known = _met_by_then(real_events(split.tables), others)
    return [
        judged(
            f"{name}: questions",
            pl.concat([problem_frame(groups.filter(bad), text) for bad, text in wrong]),
            tables=split.tables,
            checked=groups.height,
            noun="questions",
            passed="one liked item each, all items different",
            failed="are wrong",
        ),
        judged(
            f"{name}: negatives",
            problem_frame(known, pl.lit("the user had met this item")),
            tables=split.tables,
            checked=others.height,
            noun="sampled items",
            passed="none was met up to that second",
            failed="had been met by the user",
        ),
    ]


def _met_by_then(events: pl.DataFrame, asked: pl.DataFrame) -> pl.DataFrame:
    """Rows of `asked` whose user had met the item at their moment or earlier."""
    known = first_met(events, by=("user", "item")).cast({"user": pl.Int64, "item": pl.Int64})
    wide = asked.with_columns(pl.col("row", "user", "item").cast(pl.Int64))
    joined = wide.join(known, on=["user", "item"], maintain_order="left")
    return joined.filter(pl.col("met") <= pl.col("time"))
