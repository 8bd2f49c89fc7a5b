"""The search for what a finished prompt must not show, part by part.

Each method of `LeakSearch` looks at one promise and returns the rows that break it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from tastemaker.data.audit import no_problems, problem_frame
from tastemaker.data.tables import Tables
from tastemaker.errors import LeakError
from tastemaker.prompts.evidence import Evidence
from tastemaker.prompts.mentions import QUOTED, mentioned, own_words, prompt_texts, shape_of
from tastemaker.prompts.template import Template, find_template

__all__ = ["Found", "LeakSearch"]

_SHOWN_PROBLEMS = 10
_SLICE = 100_000  # prompts looked at together; their titles take some 200 MB
_REFUSED = ("provenance", "titles", "lengths", "candidates")
Templates = Mapping[str, Template]


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        problems: Check → its problems (`data.findings.PROBLEMS`).
        repeats: Prompts in whose history the target rightly stands, having been met before.
    """

    problems: Mapping[str, pl.DataFrame]
    repeats: int

    def refuse(self) -> None:
        """Stop when anything was found that must not be written.

        Raises:
            LeakError: names the first rows and what is wrong with each.
        """
        found = pl.concat([self.problems[name] for name in _REFUSED])
        if found.height:
            first = found.head(_SHOWN_PROBLEMS).select("row", "problem")
            listed = "\n".join(f"  row {row}: {problem}" for row, problem in first.iter_rows())
            raise LeakError(
                f"{found.height} problem(s) in the built prompts; first ones:\n{listed}"
            )


class LeakSearch:
    """Finds prompts that show what must not be shown; sorts the events once, then any frames.

    Args:
        tables: What the prompts were made from.
        history: Most recent events a prompt may show.
        before: Moment before which everything lies that prompts about users show.
        index: String [n_items], what items are called by number.
        templates: Those that are no packaged ones.
    """

    def __init__(
        self,
        tables: Tables,
        *,
        history: int,
        before: int | None = None,
        index: pl.Series | None = None,
        templates: Iterable[Template] = (),
    ) -> None:
        self._tables, self._history, self._before = tables, history, before
        self._index = index
        self._given = {template.label: template for template in templates}
        self._evidence = Evidence(tables)

    def __call__(self, frame: pl.DataFrame) -> Found:
        """Look at instructions (see `InstructionSource.frame`)."""
        names = frame["template"].unique().sort()
        known = {name: self._given.get(name) or find_template(name) for name in names}
        frame = frame.filter(pl.col("user_id").is_not_null())  # others are about items only
        targets = self._targets(frame, known)
        found = {name: [no_problems()] for name in (*_REFUSED, "loose targets")}
        found["provenance"].append(self._provenance(frame, targets, known))
        found["candidates"].append(self._wrong_candidates(frame, targets))
        repeats, evidence = 0, self._evidence
        for start in range(0, frame.height, _SLICE):
            part, own = frame[start : start + _SLICE], targets[start : start + _SLICE]
            own = own.with_row_index("place")
            texts = prompt_texts(part)
            counted = self._counted(part, texts, own, known)
            found["titles"].append(_late_titles(counted))
            found["lengths"].append(_wrong_lengths(counted, own, history=self._history))
            found["loose targets"].append(_loose_targets(part, texts, own, known, evidence.names))
            again = (pl.col("code") == pl.col("target")) & (pl.col("past") > 0)
            repeats += counted.filter(again & (pl.col("allowed") > 0)).height
        return Found({name: pl.concat(frames) for name, frames in found.items()}, repeats)

    def _targets(self, frame: pl.DataFrame, known: Templates) -> pl.DataFrame:
        """The interaction behind each prompt, in order; its item is the one asked about."""
        tables = self._tables
        rows = frame["row"].fill_null(-1).to_numpy()
        there = (rows >= 0) & (rows < tables.interactions.height)
        of_events = tables.interactions[np.where(there, rows, 0)]
        people = tables.users.select(user_id="user_id", person=pl.col("user").cast(pl.Int32))
        things = tables.items.select(item_id="item_id", item=pl.col("item").cast(pl.Int32))
        shapes = pl.DataFrame(
            [(name, shape_of(one).own, shape_of(one).pasts) for name, one in known.items()],
            schema={"template": pl.String, "own": pl.Int64, "pasts": pl.Int64},
            orient="row",
        )
        found = (
            frame.select("row", "user_id", "item_id", "template")
            .with_columns(
                of_events["user"].set(pl.Series(~there), None),
                of_events["time"].set(pl.Series(~there), None),
                of_events["label"].set(pl.Series(~there), None),
                of_events["item"].set(pl.Series(~there), None).alias("happened"),
            )
            .join(people, on="user_id", how="left", maintain_order="left")
            .join(things, on="item_id", how="left", maintain_order="left")
            .join(shapes, on="template", how="left", maintain_order="left")
        )
        about_user = pl.col("row").is_null()
        codes = pl.Series(self._evidence.codes)
        found = found.with_columns(
            user=pl.when(about_user).then("person").otherwise("user"),
            time=pl.when(about_user).then(pl.lit(self._before, dtype=pl.Int64)).otherwise("time"),
            target=codes.gather(found["item"]),
        )
        earlier = self._evidence.events_before(
            found["user"].fill_null(-1).to_numpy(), found["time"].fill_null(0).to_numpy()
        )
        return found.drop("person", "user_id", "item_id", "template").with_columns(
            earlier=pl.Series(earlier)
        )

    def _counted(
        self, frame: pl.DataFrame, texts: pl.Series, own: pl.DataFrame, known: Templates
    ) -> pl.DataFrame:
        """Each title that a prompt names: how often, and how often its user had met it before."""
        evidence = self._evidence
        shown = mentioned(
            frame, texts, names=evidence.names, codes=evidence.codes, index=self._index, known=known
        )
        counted = (
            shown.group_by("place", "code")
            .len("times")
            .join(self._offered(frame), on=["place", "code"], how="left")
            .join(own, on="place", how="left")
            .sort("place", "code")
        )
        is_target = (pl.col("code") == pl.col("target")).fill_null(False)
        beyond = pl.col("times").cast(pl.Int64) - pl.when(is_target).then("own").otherwise(0)
        allowed = evidence.titles_before(
            counted["user"].fill_null(-1).to_numpy(),
            counted["code"].to_numpy(),
            counted["time"].fill_null(0).to_numpy(),
        )
        return counted.with_columns(
            past=beyond - pl.col("choices").fill_null(0).cast(pl.Int64),
            allowed=pl.Series(allowed),
            is_target=is_target,
        ).join(evidence.names, on="code", how="left", maintain_order="left")

    def _offered(self, frame: pl.DataFrame) -> pl.DataFrame:
        """How often each title stands among the candidates of a prompt."""
        ids = self._tables.items["item_id"]
        called = pl.DataFrame({"item_id": ids, "code": self._evidence.codes})
        listed = frame.select(item_id="candidates").with_row_index("place")
        listed = listed.filter(pl.col("item_id").is_not_null()).explode("item_id")
        listed = listed.cast({"item_id": ids.dtype}).join(called, on="item_id")
        return listed.group_by("place", "code").len("choices").cast({"code": pl.UInt32})

    def _provenance(
        self, frame: pl.DataFrame, targets: pl.DataFrame, known: Templates
    ) -> pl.DataFrame:
        """Columns that differ from the interaction they are said to come from."""
        of_events = frame["row"].is_not_null()
        frame, targets = frame.filter(of_events), targets.filter(of_events)
        drawn = (targets["item"] != targets["happened"]).fill_null(True)
        true = {
            "user_id": self._tables.users["user_id"].gather(targets["user"]),
            "label": targets["label"].cast(pl.Int8).set(drawn, 0),
            "timestamp": targets["time"],
        }
        problems = [
            problem_frame(
                targets.filter(frame[column].ne_missing(values)),
                pl.lit(f"its {column} is not that of the interaction"),
            )
            for column, values in true.items()
        ]
        problems.append(self._wrong_items(targets.filter(drawn)))
        said, labels = frame["completion"], frame["label"].fill_null(0).clip(0, 1)
        for name, template in known.items():
            if template.answers_by_label:
                due = pl.Series([*template.choices[::-1]]).gather(labels)
                wrong = (frame["template"] == name) & said.ne_missing(due)
                problems.append(
                    problem_frame(targets.filter(wrong), pl.lit("its answer is not its label's"))
                )
        return pl.concat(problems)

    def _wrong_items(self, drawn: pl.DataFrame) -> pl.DataFrame:
        """Items other than the interaction's, unless the user had not met them by then."""
        known = self._met(drawn, "item") | drawn["item"].is_null()
        return problem_frame(
            drawn.filter(known), pl.lit("its item_id is not that of the interaction")
        )

    def _wrong_candidates(self, frame: pl.DataFrame, targets: pl.DataFrame) -> pl.DataFrame:
        """Candidates without the target, or with what the user had met."""
        ids = self._tables.items["item_id"]
        things = self._tables.items.select(item_id="item_id", offered=pl.col("item").cast(pl.Int32))
        listed = (
            targets.with_columns(item_id=frame["candidates"])
            .filter(pl.col("item_id").is_not_null())
            .with_row_index("place")
            .explode("item_id")
            .cast({"item_id": ids.dtype})
            .join(things, on="item_id", how="left", maintain_order="left")
        )
        if not listed.height:
            return no_problems()
        own = pl.col("offered") == pl.col("item")
        times = listed.group_by("place", maintain_order=True).agg(
            pl.col("row", "user", "item", "time").first(), times=own.sum()
        )
        known = listed.filter(self._met(listed, "offered")).filter(~own)
        return pl.concat(
            [
                problem_frame(
                    times.filter(pl.col("times") != 1),
                    pl.lit("its candidates do not hold the target once"),
                ),
                problem_frame(known, pl.lit("one of its candidates had been met before")),
            ]
        )

    def _met(self, asked: pl.DataFrame, column: str) -> pl.Series:
        """Whether the user had met the item in a column at the moment or before."""
        numbers = [asked[name].fill_null(-1).to_numpy() for name in ("user", column, "time")]
        return pl.Series(self._evidence.items_by(*numbers) > 0)


def _late_titles(counted: pl.DataFrame) -> pl.DataFrame:
    """Titles not met strictly before the target, or shown more often than they had been met."""
    past, allowed = pl.col("past"), pl.col("allowed")
    late = counted.filter((past > 0) & (allowed == 0))
    often = counted.filter((allowed > 0) & (past > allowed * pl.col("pasts")))
    return pl.concat(
        [
            problem_frame(
                late, pl.format("shows '{}', which the user had not met before", "title")
            ),
            problem_frame(
                often, pl.format("shows '{}' more often than the user had met it before", "title")
            ),
        ]
    )


def _wrong_lengths(counted: pl.DataFrame, own: pl.DataFrame, *, history: int) -> pl.DataFrame:
    sums = counted.group_by("place").agg(
        shown=pl.col("past").clip(0).sum(), asked=pl.col("is_target").any()
    )
    limit = pl.min_horizontal("earlier", pl.lit(history)) * pl.col("pasts")
    joined = own.join(sums, on="place", how="left", maintain_order="left").with_columns(
        limit=limit, shown=pl.col("shown").fill_null(0)
    )
    asked = pl.col("asked").fill_null(False) | (pl.col("own") == 0)
    many = pl.format("shows {} events, at most {} came before the target", "shown", "limit")
    nowhere = pl.lit("the target's title does not stand in double quotes in the prompt")
    return pl.concat(
        [
            problem_frame(joined.filter(~asked), nowhere),
            problem_frame(joined.filter(asked & (pl.col("shown") > pl.col("limit"))), many),
        ]
    )


def _loose_targets(
    frame: pl.DataFrame, texts: pl.Series, own: pl.DataFrame, known: Templates, names: pl.DataFrame
) -> pl.DataFrame:
    """The target's title outside double quotes, where the template's own words do not hold it."""
    bare = {name: own_words(template) for name, template in known.items()}
    free = [name for name, template in known.items() if shape_of(template).attributes]
    joined = own.with_columns(
        rest=texts.str.replace_all(QUOTED, ""),
        bare=frame["template"].replace_strict(bare, return_dtype=pl.String),
        title=names["title"].gather(own["target"]),
    ).filter(~frame["template"].is_in(free))
    title = pl.col("title")
    loose = pl.col("rest").str.contains(title, literal=True) & ~pl.col("bare").str.contains(
        title, literal=True
    )
    text = pl.format("has the target's title '{}' outside double quotes", "title")
    return problem_frame(joined.filter(loose), text)
