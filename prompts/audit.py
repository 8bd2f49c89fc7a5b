"""Proof on finished text that nothing in it is from the target's time or later.

Titles are read back from their double quotes, so the checks see what a model will see. When a user
met what is derived from the interactions by joins; `Histories`, which built the text, is not asked.
Items that share a title count as one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import partial

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from tastemaker.data.audit import (
    counts_before,
    first_met,
    no_problems,
    problem_frame,
    real_events,
)
from tastemaker.data.findings import Finding, judged
from tastemaker.data.tables import Tables
from tastemaker.errors import LeakError
from tastemaker.prompts.render import article_first, display_titles
from tastemaker.prompts.template import Template, find_template

__all__ = ["audit_prompts", "audit_user_texts", "check_no_leak", "shown_ids"]

_SHOWN_PROBLEMS = 10
_QUOTED = r'"[^"\n]*"'
_SLICE = 100_000  # prompts looked at together; their titles take some 200 MB
_ID_FIELDS = frozenset({"id", "ids", "item", "items", "item_id", "item_ids", "user", "user_id"})
_REFUSED = ("provenance", "titles", "lengths")


def check_no_leak(tables: Tables, frame: pl.DataFrame, *, history: int) -> None:
    """Refuse finished prompts that show anything from the target's time or later.

    Each title shown must be the target's own, once, or that of an item the user had met strictly
    earlier, no more often than the user had; a prompt may not show more of them than `history`, nor
    than events before the target.

    Args:
        tables: What the prompts were made from.
        frame: Instructions.
        history: Most recent events a prompt may show.

    Raises:
        LeakError: names the rows and what is wrong with each.
    """
    found, _ = _problems(tables, frame, history=history)
    problems = pl.concat([found[name] for name in _REFUSED])
    if problems.height:
        first = problems.head(_SHOWN_PROBLEMS)
        listed = "\n".join(
            f"  row {row}: {problem}" for row, problem in first.select("row", "problem").iter_rows()
        )
        raise LeakError(f"{problems.height} problem(s) in the built prompts; first ones:\n{listed}")


def audit_prompts(
    tables: Tables, frame: pl.DataFrame, *, history: int, parts: Mapping[str, ArrayLike]
) -> list[Finding]:
    """Verdicts on built prompts: provenance, parts, titles, lengths, loose targets.

    Args:
        tables: What the prompts were made from.
        frame: Instructions of all parts.
        history: Most recent events a prompt may show.
        parts: Name in the column `split` → interaction rows that belong there.
    """
    found, repeats = _problems(tables, frame, history=history)
    verdict = partial(judged, tables=tables, checked=frame.height, noun="prompts")
    return [
        verdict(
            "prompts: provenance",
            found["provenance"],
            passed="user, item, label, time and answer are those of the interaction",
            failed="differ from their interaction",
        ),
        verdict(
            "prompts: parts",
            _misplaced(frame, parts),
            passed="each is of a row of its part",
            failed="are of rows of another part",
        ),
        verdict(
            "prompts: titles",
            found["titles"],
            passed=f"none from the target's time or later; in {repeats:,} the target stood in its "
            "own history because it had been met before",
            failed="show what the user had not met before",
            targets_met_before=repeats,
        ),
        verdict(
            "prompts: lengths",
            found["lengths"],
            passed=f"at most {history} events, never more than came before the target",
            failed="show more events than came before, or not their target",
        ),
        verdict(
            "prompts: loose targets",
            found["loose"],
            passed="the target's title stands nowhere outside double quotes",
            failed="have the target's title outside double quotes",
            severity="warn",
        ),
    ]


def audit_user_texts(tables: Tables, frame: pl.DataFrame, *, template: Template) -> Finding:
    """Texts about users were asked for with events up to their cut only.

    Args:
        tables: What the questions were made from.
        frame: `user` (dense), `cut_time` and `prompt` (the question's text).
        template: Of the questions.
    """
    titles = pl.Series([article_first(title) for title in display_titles(tables)])
    events = _titled(tables, titles)
    places = frame.with_row_index("place").select(
        "place", pl.col("user").cast(pl.Int64), time=pl.col("cut_time") + 1
    )
    shown = _read_back(frame["prompt"], titles=titles, constants=_constants(template))
    shown = shown.join(places, on="place").group_by("place", "user", "time", "title").len("times")
    met = first_met(events, by=("user", "title")).cast({"user": pl.Int64})
    shown = shown.join(met, on=["user", "title"], how="left", maintain_order="left")
    # A title may be shown once for each event up to the cut.
    allowed = counts_before(events, shown, by=("user", "title"))
    late = shown.with_columns(allowed=allowed).filter(pl.col("times") > pl.col("allowed"))
    late = late.sort("place", "title").with_columns(
        row=pl.col("first_row").fill_null(-1), time="met"
    )
    silent = places.join(shown, on="place", how="anti", maintain_order="left").with_columns(row=-1)
    problems = [
        problem_frame(late, pl.format("the text shows '{}', met after its cut", "title")),
        problem_frame(silent, pl.lit("no title can be read back from the question")),
    ]
    return judged(
        "knowledge: user texts",
        pl.concat(problems),
        tables=tables,
        checked=frame.height,
        noun="texts",
        passed="each was asked for with events up to its cut only",
        failed="were asked for with later events",
    )


def shown_ids(tables: Tables, templates: Iterable[Template]) -> str | None:
    """What puts item or user numbers into a prompt, in words; None when nothing does.

    A template does when it has a field of that name; any template does when items have no title of
    their own and are called by their id.
    """
    named = list(templates)
    for template in named:
        fields = sorted(template.fields() & _ID_FIELDS)
        if fields:
            return f"template '{template.name}' (field {fields[0]})"
    if not named or not tables.items["item_id"].dtype.is_integer():
        return None
    called = (tables.items["title"] == tables.items["item_id"].cast(pl.String)).sum()
    if called * 2 > tables.n_items:
        return f"template '{named[0].name}' (items are called by their id)"
    return None


def _problems(
    tables: Tables, frame: pl.DataFrame, *, history: int
) -> tuple[dict[str, pl.DataFrame], int]:
    """Problems by check, and in how many prompts the target rightly stands in its own history."""
    titles = pl.Series(display_titles(tables), dtype=pl.String)
    events = _titled(tables, titles)
    targets = _targets(tables, frame, titles=titles)
    found = {name: [no_problems()] for name in (*_REFUSED, "loose")}
    found["provenance"].append(_provenance(tables, frame, targets))
    targets = targets.with_columns(earlier=counts_before(events, targets))
    met = first_met(events, by=("user", "title"))
    repeats = 0
    for start in range(0, frame.height, _SLICE):
        part, own = frame[start : start + _SLICE], targets[start : start + _SLICE]
        own = own.with_row_index("place")
        texts = _texts(part)
        counted = _shown(part, texts, titles=titles).group_by("place", "title").len("times")
        counted = counted.join(own, on="place", how="left").sort("place", "title")
        counted = counted.join(met, on=["user", "title"], how="left", maintain_order="left")
        found["titles"].append(_late_titles(events, counted))
        found["lengths"].append(_wrong_lengths(counted, own, history=history))
        found["loose"].append(_loose_targets(part, texts, own))
        asked = (pl.col("title") == pl.col("target")) & (pl.col("times") > 1)
        repeats += counted.filter(asked & (pl.col("met") < pl.col("time"))).height
    return {name: pl.concat(frames) for name, frames in found.items()}, repeats


def _titled(tables: Tables, titles: pl.Series) -> pl.DataFrame:
    """Events that happened, with the title shown for their item."""
    events = real_events(tables)
    return events.with_columns(title=titles.gather(events["item"]))


def _targets(tables: Tables, frame: pl.DataFrame, *, titles: pl.Series) -> pl.DataFrame:
    """The interaction behind each prompt, in order; nulls where there is none."""
    rows = tables.interactions.with_row_index("row").select(
        pl.col("row").cast(pl.Int64), "user", "item", "time", "label"
    )
    found = frame.select("row").join(rows, on="row", how="left", maintain_order="left")
    return found.with_columns(target=titles.gather(found["item"]))


def _provenance(tables: Tables, frame: pl.DataFrame, targets: pl.DataFrame) -> pl.DataFrame:
    """Columns that differ from the interaction they are said to come from."""
    true = {
        "user_id": tables.users["user_id"].gather(targets["user"]),
        "item_id": tables.items["item_id"].gather(targets["item"]),
        "label": targets["label"],
        "timestamp": targets["time"],
    }
    problems = [
        problem_frame(
            targets.filter(frame[column].ne_missing(values)),
            pl.lit(f"its {column} is not that of the interaction"),
        )
        for column, values in true.items()
    ]
    said = _texts(frame, column="completion")
    for name in frame["template"].unique().sort():
        choices = find_template(name).choices
        if len(choices) == 2:
            due = (
                pl.when(pl.col("label") == 1).then(pl.lit(choices[0])).otherwise(pl.lit(choices[1]))
            )
            wrong = (frame["template"] == name) & said.ne_missing(targets.select(due).to_series())
            problems.append(
                problem_frame(targets.filter(wrong), pl.lit("its answer is not its label's"))
            )
    return pl.concat(problems)


def _misplaced(frame: pl.DataFrame, parts: Mapping[str, ArrayLike]) -> pl.DataFrame:
    right = pl.concat(
        [
            pl.DataFrame({"row": np.asarray(rows, dtype=np.int64)}).with_columns(split=pl.lit(name))
            for name, rows in parts.items()
        ]
    )
    wrong = frame.select("row", "split").join(
        right, on=["row", "split"], how="anti", maintain_order="left"
    )
    return problem_frame(wrong, pl.format("is no row of the {} part", "split"))


def _texts(frame: pl.DataFrame, *, column: str = "prompt") -> pl.Series:
    """All messages of each row, one after another."""
    text = pl.col(column).list.eval(pl.element().struct.field("content")).list.join("\n")
    return frame.select(text).to_series()


def _shown(frame: pl.DataFrame, texts: pl.Series, *, titles: pl.Series) -> pl.DataFrame:
    """`place` and `title` of each known title in double quotes."""
    found = []
    for name in frame["template"].unique().sort():
        mine = frame["template"] == name
        places = pl.Series("place", mine.arg_true(), dtype=pl.UInt32)
        own = _read_back(
            texts.filter(mine), titles=titles, constants=_constants(find_template(name))
        )
        found.append(own.with_columns(places.gather(own["place"])))
    return pl.concat(found)


def _read_back(texts: pl.Series, *, titles: pl.Series, constants: Iterable[str]) -> pl.DataFrame:
    """`place` of the text and `title`, for each known title in double quotes."""
    for constant in constants:
        texts = texts.str.replace(constant, "", literal=True)
    quoted = pl.DataFrame({"title": texts.str.extract_all(_QUOTED)}).with_row_index("place")
    said = quoted.explode("title").with_columns(pl.col("title").str.strip_chars('"'))
    return said.join(titles.unique().alias("title").to_frame(), on="title", how="semi")


def _constants(template: Template) -> list[str]:
    """What stands in double quotes in every prompt of the template, such as its choices."""
    quoted = re.findall(_QUOTED, _bare(template))
    return [text for text in quoted if text != '""']


def _bare(template: Template) -> str:
    """The template's own words."""
    # An empty text is an empty list, too: joined, looped over or tested, it leaves nothing.
    return template.render(**dict.fromkeys(template.fields(), ""))


def _late_titles(events: pl.DataFrame, counted: pl.DataFrame) -> pl.DataFrame:
    """Titles not met strictly before the target, or shown more often than they had been met."""
    history = pl.col("times").cast(pl.Int64) - (pl.col("title") == pl.col("target"))
    unmet = (pl.col("met") >= pl.col("time")).fill_null(True)
    late = counted.filter(unmet & (history > 0))
    often = counted.filter(~unmet & (history > 1))
    often = often.with_columns(allowed=counts_before(events, often, by=("user", "title")))
    return pl.concat(
        [
            problem_frame(
                late, pl.format("shows '{}', which the user had not met before", "title")
            ),
            problem_frame(
                often.filter(history > pl.col("allowed")),
                pl.format("shows '{}' more often than the user had met it before", "title"),
            ),
        ]
    )


def _wrong_lengths(counted: pl.DataFrame, own: pl.DataFrame, *, history: int) -> pl.DataFrame:
    is_target = pl.col("title") == pl.col("target")
    sums = counted.group_by("place").agg(
        shown=pl.col("times").sum().cast(pl.Int64) - 1, asked=is_target.any()
    )
    joined = own.join(sums, on="place", how="left", maintain_order="left")
    joined = joined.with_columns(limit=pl.min_horizontal("earlier", pl.lit(history)))
    asked = pl.col("asked").fill_null(False)
    many = pl.format("shows {} events, at most {} came before the target", "shown", "limit")
    nowhere = pl.lit("the target's title does not stand in double quotes in the prompt")
    return pl.concat(
        [
            problem_frame(joined.filter(~asked), nowhere),
            problem_frame(joined.filter(asked & (pl.col("shown") > pl.col("limit"))), many),
        ]
    )


def _loose_targets(frame: pl.DataFrame, texts: pl.Series, own: pl.DataFrame) -> pl.DataFrame:
    """The target's title outside double quotes, where the template's own words do not hold it."""
    bare = {name: _bare(find_template(name)) for name in frame["template"].unique()}
    rest = texts.str.replace_all(_QUOTED, "")
    joined = own.with_columns(
        rest=rest, bare=frame["template"].replace_strict(bare, return_dtype=pl.String)
    )
    title = pl.col("target")
    loose = pl.col("rest").str.contains(title, literal=True) & ~pl.col("bare").str.contains(
        title, literal=True
    )
    text = pl.format("has the target's title '{}' outside double quotes", "target")
    return problem_frame(joined.filter(loose), text)
