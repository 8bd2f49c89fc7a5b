"""Proof, by other means than the builder's, that nothing comes from the future.

Nothing here asks `Histories`: what lies before a moment is derived anew from the interactions, by
joins and counts, so that a mistake of the index is found and not repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.data.findings import PROBLEMS, Finding, judged
from tastemaker.data.splits import PARTS, Split
from tastemaker.data.tables import Tables

__all__ = [
    "audit_evidence",
    "audit_split",
    "counts_before",
    "first_met",
    "no_problems",
    "part_frame",
    "problem_frame",
    "real_events",
    "values_before",
    "with_other_answers",
]

Rows = NDArray[np.int64]

_BY_TIME = ("global_time", "rolling")
_WITHIN_USER = ("leave_one_out", "user_time_ratio")


def real_events(tables: Tables) -> pl.DataFrame:
    """Interactions that happened, with their `row` (Int64); drawn negatives are left out."""
    events = tables.interactions.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    return events.filter(~pl.col("sampled")) if "sampled" in events.columns else events


def first_met(events: pl.DataFrame, *, by: Sequence[str]) -> pl.DataFrame:
    """First moment (`met`) and `first_row` of each combination of `by`, such as user and item."""
    return events.group_by(*by).agg(met=pl.col("time").min(), first_row=pl.col("row").min())


def counts_before(
    events: pl.DataFrame, asked: pl.DataFrame, *, by: Sequence[str] = ("user",)
) -> pl.Series:
    """Events strictly earlier than each `time` of `asked` that agree with it in `by`: Int64 [n]."""
    keys = list(by)
    kinds = {name: events.schema[name] for name in keys}
    wanted = asked.select(keys).unique().cast(kinds)  # type: ignore[arg-type]
    steps = (
        events.join(wanted, on=keys, how="semi")
        .group_by(*keys, "time")
        .agg(pl.len().cast(pl.Int64).alias("count"))
        .sort("time")
        .with_columns(pl.col("count").cum_sum().over(keys))
    )
    return values_before(steps, asked, by=keys)["count"].fill_null(0)


def values_before(steps: pl.DataFrame, asked: pl.DataFrame, *, by: Sequence[str]) -> pl.DataFrame:
    """The last row of `steps` (sorted by time) strictly before each row of `asked`, in order."""
    kinds = {name: steps.schema[name] for name in (*by, "time")}
    wanted = asked.select(*by, "time").cast(kinds).with_row_index("place")  # type: ignore[arg-type]
    return (
        wanted.sort("time")
        .join_asof(
            steps,
            on="time",
            by=list(by),
            strategy="backward",
            allow_exact_matches=False,
            check_sortedness=False,
        )
        .sort("place")
    )


def problem_frame(found: pl.DataFrame, problem: pl.Expr) -> pl.DataFrame:
    """Rows of `found` as problems; columns that it lacks are null."""
    known = [name for name in PROBLEMS if name in found.columns and name != "problem"]
    frame = found.select(*known, problem=problem)
    missing = [pl.lit(None).alias(name) for name in PROBLEMS if name not in frame.columns]
    return frame.with_columns(missing).select(*PROBLEMS).cast(dict(PROBLEMS))  # type: ignore[arg-type]


def no_problems() -> pl.DataFrame:
    """A frame of problems without any."""
    return pl.DataFrame(schema=PROBLEMS)


def audit_split(split: Split, *, protocol: str | None = None) -> list[Finding]:
    """Parts are disjoint, and in the order that the protocol promises.

    Args:
        split: What is checked.
        protocol: Name of the splitter. `global_time` and `rolling` fail when a validation or test
            row is not later than every row of the parts before it; `leave_one_out` and
            `user_time_ratio` fail when one is earlier than a training row of its own user;
            `user_holdout` fails when a user is in two parts. Whatever else can be seen from
            training is told as a warning.
    """
    disjoint = _disjoint(split)
    if disjoint.severity == "fail":
        return [disjoint]
    order = _global_order(split) if protocol in _BY_TIME else _future_of_others(split)
    found = [disjoint, order]
    if protocol in _WITHIN_USER:
        found.append(_own_order(split))
    if protocol == "user_holdout":
        found.append(_held_out(split))
    return found


def audit_evidence(
    tables: Tables, check: str, *, targets: pl.DataFrame, batches: Iterable[Rows]
) -> Finding:
    """All events that a model is shown for a target are its user's own and strictly earlier.

    Args:
        tables: What the events are rows of.
        check: Name of the check.
        targets: n targets: `row` (-1: no event), `user`, `item`, `time`.
        batches: Integers [rows, width], one after another n rows in all: interaction rows shown for
            each target; negative where there is none.
    """
    columns: dict[str, NDArray[np.generic]] = {
        name: tables.interactions[name].to_numpy()
        for name in ("user", "time", "sampled")
        if name in tables.interactions.columns
    }
    problems, start, shown = [no_problems()], 0, 0
    for batch in batches:
        part = targets[start : start + len(batch)]
        start, shown = start + len(batch), shown + int((batch >= 0).sum())
        problems.append(_late(part, batch, columns))
    if start != targets.height:
        raise ValueError(f"evidence for {start} of {targets.height} targets")
    return judged(
        check,
        pl.concat(problems),
        tables=tables,
        checked=targets.height,
        noun="feature rows",
        passed=f"all {shown:,} events shown are strictly earlier",
        failed="are shown what they must not know",
        events=shown,
    )


def with_other_answers(split: Split) -> tuple[Split, NDArray[np.bool_]]:
    """The same split with every answer changed that training must not see.

    A row outside the train part gets the opposite label, a rating that nobody gave and another
    item. Rows that stand in the past of a training row of their own user are left as they are:
    there they are evidence, not answers. Whatever is learned from training alone stays the same to
    the last bit.

    Returns:
        The changed split, and which rows were changed: bool [events].
    """
    events = split.tables.interactions.with_row_index("row")
    train = np.zeros(events.height, dtype=bool)
    train[split.train] = True
    newest = events.filter(train).group_by("user").agg(newest=pl.col("time").max())
    # Whole frames in the order of the rows: a row index names the same event in both splits.
    limits = events.join(newest, on="user", how="left", maintain_order="left")["newest"]
    changed = ~train & (events["time"] >= limits).fill_null(True).to_numpy()
    mask = pl.Series(changed)
    bounds = events["rating"].max(), events["rating"].min()
    span = pl.lit(sum(float(bound) for bound in bounds if isinstance(bound, int | float)))
    other = {
        "label": 1 - pl.col("label"),
        "rating": span - pl.col("rating") + 1,
        "item": (pl.col("item") + 1) % split.tables.n_items,
    }
    interactions = split.tables.interactions.with_columns(
        **{name: pl.when(mask).then(value).otherwise(pl.col(name)) for name, value in other.items()}
    ).cast(dict(split.tables.interactions.schema))  # type: ignore[arg-type]
    return replace(split, tables=replace(split.tables, interactions=interactions)), changed


def part_frame(split: Split, names: Iterable[str] = PARTS) -> pl.DataFrame:
    """`row`, `part`, and what the interactions say of it."""
    rows = pl.concat(
        [pl.DataFrame({"row": split.part(name)}).with_columns(part=pl.lit(name)) for name in names]
    )
    events = split.tables.interactions[rows["row"].to_numpy()].select("user", "item", "time")
    return pl.concat([rows, events], how="horizontal")


def _disjoint(split: Split) -> Finding:
    rows = np.concatenate([split.part(name) for name in PARTS])
    outside = (rows < 0) | (rows >= split.tables.interactions.height)
    problems = pl.concat(
        [
            problem_frame(pl.DataFrame({"row": rows[outside]}), pl.lit("there is no such row")),
            problem_frame(
                pl.DataFrame({"row": rows}).filter(~pl.col("row").is_first_distinct()),
                pl.lit("stands in the split more than once"),
            ),
        ]
    )
    return judged(
        "split: parts",
        problems,
        tables=split.tables,
        checked=len(rows),
        noun="rows",
        passed="none is in two parts",
        failed="are in two parts or do not exist",
    )


def _global_order(split: Split) -> Finding:
    frame = part_frame(split)
    problems, newest = [no_problems()], None
    for before, name in (("train", "valid"), ("valid", "test")):
        last = frame.filter(pl.col("part") == before)["time"].max()
        moments = [moment for moment in (newest, last) if isinstance(moment, int)]
        newest = max(moments, default=None)
        if newest is not None:
            late = frame.filter((pl.col("part") == name) & (pl.col("time") <= newest))
            problems.append(problem_frame(late, pl.lit(f"{name} row not later than all before it")))
    return judged(
        "split: order",
        pl.concat(problems),
        tables=split.tables,
        checked=frame.height,
        noun="rows",
        passed="each part is later than the ones before it",
        failed="are not later than the part before theirs",
    )


def _future_of_others(split: Split) -> Finding:
    """Rows that are not later than a training event of another user: training knows their time."""
    asked = part_frame(split, ("valid", "test"))
    train = part_frame(split, ("train",))
    newest = train.group_by("user").agg(pl.col("time").max()).sort("time", descending=True).head(2)
    leaky = asked.clear()
    if newest.height:
        others = newest["time"].to_list()
        other = pl.lit(others[1] if newest.height > 1 else None, dtype=pl.Int64)
        limit = pl.when(pl.col("user") == newest["user"][0]).then(other).otherwise(others[0])
        leaky = asked.filter((pl.col("time") <= limit).fill_null(False))
    finding = judged(
        "split: order",
        problem_frame(leaky, pl.lit("training holds later events of other users")),
        tables=split.tables,
        checked=asked.height,
        noun="valid and test rows",
        passed="later than all training events of other users",
        failed="are not later than the training events of other users, so training knows their "
        "future; a split by global_time avoids that",
        severity="warn",
    )
    # One sentence is enough: every row of such a protocol has the same reason.
    return replace(
        finding, details={key: v for key, v in finding.details.items() if key != "examples"}
    )


def _own_order(split: Split) -> Finding:
    asked = part_frame(split, ("valid", "test"))
    train = part_frame(split, ("train",))
    newest = train.group_by("user").agg(newest=pl.col("time").max())
    joined = asked.join(newest, on="user", maintain_order="left")
    return judged(
        "split: own order",
        problem_frame(
            joined.filter(pl.col("time") < pl.col("newest")),
            pl.lit("its user has a later training row"),
        ),
        tables=split.tables,
        checked=asked.height,
        noun="valid and test rows",
        passed="none is earlier than a training row of its user",
        failed="are earlier than a training row of their user",
    )


def _held_out(split: Split) -> Finding:
    frame = part_frame(split)
    shared = frame.filter(pl.col("part").n_unique().over("user") > 1)
    return judged(
        "split: held-out users",
        problem_frame(shared, pl.lit("its user is in another part, too")),
        tables=split.tables,
        checked=frame.height,
        noun="rows",
        passed="each user is in one part only",
        failed="are of users in two parts",
    )


def _late(
    targets: pl.DataFrame, batch: Rows, columns: Mapping[str, NDArray[np.generic]]
) -> pl.DataFrame:
    place, slot = np.nonzero(batch >= 0)
    shown = batch[place, slot]
    known = shown < len(columns["user"])
    safe = np.where(known, shown, 0)
    users, times = (targets[name].to_numpy()[place] for name in ("user", "time"))
    wrong = ~known | (columns["user"][safe] != users) | (columns["time"][safe] >= times)
    if "sampled" in columns:
        wrong |= columns["sampled"][safe].astype(bool)
    first = pl.DataFrame({"place": place[wrong], "shown": shown[wrong]}).unique(
        "place", keep="first", maintain_order=True
    )
    text = pl.format("is shown row {}, which is not an earlier event of its user", "shown")
    rows = pl.concat([targets[first["place"].to_numpy()], first], how="horizontal")
    return problem_frame(rows, text)
