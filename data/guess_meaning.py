"""Which columns of the interactions are time and rating, and which ratings are likes."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from tastemaker.data.guess_columns import Column, Draft, described
from tastemaker.data.guess_names import RATINGS, STEPS, STRENGTHS, TIMES
from tastemaker.data.schema import LabelRule, TimeUnit

__all__ = ["guess_label", "guess_rating", "guess_time"]

_UNITS = {
    "s": "unix seconds",
    "ms": "unix milliseconds",
    "us": "unix microseconds",
    "ns": "unix nanoseconds",
    "iso": "dates",
    "step": "steps, no clock",
}
_MOST_RATINGS = 201


def guess_time(events: Sequence[Column], given: str | None, draft: Draft) -> TimeUnit:
    """Choose the time and its unit; a column given is believed."""
    if given is not None:
        column = next(one for one in events if one.name == given)
        unit: TimeUnit = column.time_unit() or "step"
        draft.choose("columns.time", given, _UNITS[unit])
        draft.choose("columns.time_unit", unit)
        return unit
    free = [one for one in events if one.name not in draft.columns.values()]
    clocks = [one for one in TIMES.order(free) if one.time_unit() is not None]
    if not clocks:
        clocks = [one for one in free if one.kind == "moment"]
    if clocks:
        chosen = clocks[0]
        unit = chosen.time_unit() or "auto"
        draft.choose("columns.time", chosen.name, _UNITS.get(unit, ""))
        draft.choose("columns.time_unit", unit)
        if len(clocks) > 1:
            draft.doubt(
                "columns.time",
                f"{described(clocks)} could each be the time of the event; '{chosen.name}' was "
                "chosen, check that it is when the event happened.",
                about=clocks,
            )
        return unit
    return _steps(free, draft)


def _steps(free: Sequence[Column], draft: Draft) -> TimeUnit:
    """Without a clock: a column that counts, or the order of the rows."""
    counting = [one for one in free if set(one.tokens) & STEPS and one.is_numeric]
    if counting:
        draft.choose("columns.time", counting[0].name, _UNITS["step"])
        draft.choose("columns.time_unit", "step")
        draft.doubt(
            "columns.time",
            f"'{counting[0].name}' holds numbers that are no moments of a clock; it is taken as a "
            "mere order of events, check that it grows with time for every user.",
        )
    else:
        draft.choose("columns.time", None, "no column holds moments: the order of the rows")
        draft.doubt(
            "columns.time",
            "No column holds the time of the events, so the order of the rows stands for it; name "
            "one with --time, or check that older events come first.",
        )
    return "step"


def guess_rating(
    events: Sequence[Column], given: str | None, draft: Draft, *, frame: pl.DataFrame
) -> None:
    """Choose the rating; none where all rows have the same, or where a column only counts."""
    if given is not None:
        draft.choose("columns.rating", given, "as given")
        return
    free = [one for one in events if one.name not in draft.columns.values()]
    named = [one for one in RATINGS.order(free) if one.is_numeric or one.cells.dtype == pl.Boolean]
    varied = [one for one in named if frame[one.name].n_unique() > 1]
    usable = [one for one in varied if one.distinct <= _MOST_RATINGS and one.is_numeric]
    if usable:
        draft.choose("columns.rating", usable[0].name)
        if len(usable) > 1:
            draft.doubt(
                "columns.rating",
                f"{described(usable)} could each be the rating; '{usable[0].name}' was chosen, "
                "check that it says how much the user liked the item.",
                about=usable,
            )
        return
    draft.choose("columns.rating", None, "implicit: that it happened is all that is known")
    if named:
        draft.doubt(
            "columns.rating",
            f"{described(named)} {'has' if len(named) == 1 else 'have'} one and the same value or "
            "too many different ones to be a rating; every interaction counts as a like.",
            about=named,
        )
    strengths = [one for one in free if set(one.tokens) & STRENGTHS and one.is_numeric]
    if strengths:
        draft.doubt(
            "columns.label",
            f"{described(strengths)} may say how strong an interaction was; it is not used, write "
            f'a label such as "{strengths[0].name} > 1" if weak ones are no likes.',
            about=strengths,
        )


def guess_label(ratings: pl.Series, draft: Draft) -> None:
    """Choose the rule of a like and the range of ratings.

    Args:
        ratings: All of them; null where a cell cannot be read.
        draft: Names the column of ratings; gets the choices.
    """
    name = draft.columns["rating"]
    if name is None:
        draft.choose("columns.label", "implicit", "every interaction is a like")
        draft.choose("negatives.per_positive", 1, "models need something that is no like")
        return
    low, high = float(ratings.min() or 0), float(ratings.max() or 0)  # type: ignore[arg-type]
    rule, span, doubt = _rule(ratings, low, high)
    draft.choose("columns.label", f"{name} {rule}")
    draft.choose("columns.rating_range", [int(one) if one == int(one) else one for one in span])
    share = _liked(ratings, rule)
    draft.reasons["columns.label"] = f"{_percent(share)} of the interactions"
    if doubt:
        draft.doubt("columns.label", doubt.format(name=name, rule=rule, share=_percent(share)))
    elif not 0.05 <= share <= 0.95:
        draft.doubt(
            "columns.label",
            f"By '{name} {rule}' {_percent(share)} of the interactions are likes, which leaves "
            "little of one kind to learn from; check the threshold.",
        )


def _rule(ratings: pl.Series, low: float, high: float) -> tuple[str, tuple[float, float], str]:
    """Operator and threshold, range of the scale, and what is unsure about them."""
    values = set(ratings.drop_nulls().unique().head(_MOST_RATINGS).to_list())
    if values <= {0.0, 1.0}:
        return "== 1", (0, 1), ""
    if values <= {-1.0, 0.0, 1.0}:
        return "> 0", (-1, 1), ""
    if low >= 0 and high <= 5:
        start = 1.0 if low >= 1 else 0.5 if low >= 0.5 else 0.0
        zero = (
            "'{name}' goes from 0 to 5; a like is '{rule}' ({share}), check whether 0 means that "
            "there is no rating."
        )
        return "> 3", (start, 5), "" if start else zero
    if low >= 0 and high <= 10:
        start = 1.0 if low >= 1 else 0.0
        ten = (
            "'{name}' goes up to 10; a like is '{rule}' ({share} of the interactions), as TALLRec "
            "has it for books, check whether that is what a like means here."
        )
        return "> 5", (start, 10), ten
    if low >= 0 and high <= 100 and high > 50:
        start, high = 0.0, 100.0
        rule = "> 60"
    else:
        start = low
        middle = ratings.median()
        rule = f"> {float(middle or 0):g}"  # type: ignore[arg-type]
    odd = (
        f"'{{name}}' goes from {low:g} to {high:g}, no common scale; a like is '{{rule}}' "
        "({share} of the interactions), check the threshold."
    )
    return rule, (start, high), odd


def _liked(ratings: pl.Series, rule: str) -> float:
    """Share of ratings that are likes by a rule without its column."""
    labels = LabelRule.parse(f"rating {rule}").apply(
        ratings.drop_nulls().alias("rating").to_frame()
    )
    return float(labels.cast(pl.Float64).mean() or 0)  # type: ignore[arg-type]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
