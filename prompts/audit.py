"""Proof on finished text that nothing in it is from the target's time or later.

Titles and numbers are read back from the text (`mentions`), so the checks see what a model will
see. When a user met what is derived from the interactions anew (`evidence`, or by joins);
`Histories`, which built the text, is not asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from tastemaker.data.audit import counts_before, first_met, problem_frame, real_events
from tastemaker.data.findings import Finding, judged
from tastemaker.data.tables import Tables
from tastemaker.prompts.leaks import LeakSearch
from tastemaker.prompts.mentions import constants_of, quoted_titles
from tastemaker.prompts.render import article_first, display_titles
from tastemaker.prompts.template import Template

__all__ = ["audit_prompts", "audit_user_texts", "check_no_leak", "shown_ids"]

_SUBSETS = r"_(unseen|\d+_seed\d+)$"  # of a part; the same rows belong there
_VERDICTS: tuple[tuple[str, str, str, Literal["fail", "warn"]], ...] = (
    (
        "provenance",
        "user, item, label, time and answer are those of the interaction",
        "differ from their interaction",
        "fail",
    ),
    (
        "candidates",
        "the target is one of them, and the others had not been met",
        "offer what the user had met, or not their target",
        "fail",
    ),
    (
        "loose targets",
        "the target's title stands nowhere outside double quotes",
        "have the target's title outside double quotes",
        "warn",
    ),
)
_ID_FIELDS = frozenset({"item_id", "user_id", "user_index"})


def check_no_leak(
    tables: Tables,
    frame: pl.DataFrame,
    *,
    history: int,
    before: int | None = None,
    index: pl.Series | None = None,
    templates: Iterable[Template] = (),
) -> None:
    """Refuse finished prompts that show anything from the target's time or later.

    Each title or number shown must be the target's own, that of a candidate, or that of an item the
    user had met strictly earlier, no more often than the user had; a prompt may not show more of
    them than `history`, nor than events before the target.

    Args:
        tables: What the prompts were made from.
        frame: Instructions (see `InstructionSource.frame`).
        history: Most recent events a prompt may show.
        before: Moment before which everything lies that prompts about users show.
        index: String [n_items], what items are called by number.
        templates: Those that are no packaged ones.

    Raises:
        LeakError: names the rows and what is wrong with each.
    """
    search = LeakSearch(tables, history=history, before=before, index=index, templates=templates)
    search(frame).refuse()


def audit_prompts(
    tables: Tables,
    frame: pl.DataFrame,
    *,
    history: int,
    parts: Mapping[str, ArrayLike],
    index: pl.Series | None = None,
    templates: Iterable[Template] = (),
) -> list[Finding]:
    """Verdicts on built prompts: provenance, parts, titles, lengths, candidates, loose targets.

    Args:
        tables: What the prompts were made from.
        frame: Instructions of all parts.
        history: Most recent events a prompt may show.
        parts: Name in the column `split` → interaction rows that belong there.
        index: String [n_items], what items are called by number.
        templates: Those that are no packaged ones.
    """
    before = _first_moment(tables, parts)
    search = LeakSearch(tables, history=history, before=before, index=index, templates=templates)
    result = search(frame)
    found, repeats = result.problems, result.repeats
    verdict = partial(judged, tables=tables, checked=frame.height, noun="prompts")
    return [
        verdict(
            "prompts: parts",
            _misplaced(frame, parts),
            passed="each is of a row of its part",
            failed="are of rows of another part",
        ),
        *(
            verdict(f"prompts: {name}", found[name], passed=passed, failed=failed, severity=severe)
            for name, passed, failed, severe in _VERDICTS
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
    shown = quoted_titles(frame["prompt"], titles=titles, constants=constants_of(template))
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
        fields = sorted(template.asked & _ID_FIELDS)
        if fields:
            return f"template '{template.name}' (field {fields[0]})"
    if not named or not tables.items["item_id"].dtype.is_integer():
        return None
    called = (tables.items["title"] == tables.items["item_id"].cast(pl.String)).sum()
    if called * 2 > tables.n_items:
        return f"template '{named[0].name}' (items are called by their id)"
    return None


def _first_moment(tables: Tables, parts: Mapping[str, ArrayLike]) -> int | None:
    """The first moment of the parts that are not trained on."""
    rows = [np.asarray(rows, dtype=np.int64) for name, rows in parts.items() if name != "train"]
    later = np.concatenate([np.empty(0, dtype=np.int64), *rows])
    return int(tables.interactions["time"].to_numpy()[later].min()) if len(later) else None


def _titled(tables: Tables, titles: pl.Series) -> pl.DataFrame:
    """Events that happened, with the title shown for their item."""
    events = real_events(tables)
    return events.with_columns(title=titles.gather(events["item"]))


def _misplaced(frame: pl.DataFrame, parts: Mapping[str, ArrayLike]) -> pl.DataFrame:
    right = pl.concat(
        [
            pl.DataFrame({"row": np.asarray(rows, dtype=np.int64)}).with_columns(split=pl.lit(name))
            for name, rows in parts.items()
        ]
    ).unique()
    wrong = (
        frame.select("row", pl.col("split").str.replace(_SUBSETS, ""))
        .filter(pl.col("row").is_not_null())
        .join(right, on=["row", "split"], how="anti", maintain_order="left")
    )
    return problem_frame(wrong, pl.format("is no row of the {} part", "split"))
