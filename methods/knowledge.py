"""Generated knowledge as a stage: from the recipe's section `reason` to texts.

    users of the requests, popular items ─ questions ─ chain ─ store ─ knowledge.parquet

Methods that feed on texts (KAR, RLMRec, …) share this stage; `agents.reasoning` has the chains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain as joined
from itertools import islice
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tastemaker.agents.asking import Tally
from tastemaker.agents.knowledge import KnowledgeStore
from tastemaker.agents.questions import Cut, Question, item_questions, user_questions
from tastemaker.agents.reasoning import Asks, Chain, Reasoned, encoder_text
from tastemaker.data.audit import problem_frame
from tastemaker.data.findings import Finding, judged
from tastemaker.data.splits import Split
from tastemaker.methods.asking import (
    BATCH_API_BLOCK,
    NOT_IN_TEXTS,
    asker_of,
    chain_of,
    factors_of,
    requests_per_question,
    templates_of,
)
from tastemaker.methods.base import load_requests, load_split
from tastemaker.methods.collective import collective_rows
from tastemaker.methods.keeping import STORE
from tastemaker.prompts.audit import audit_user_texts
from tastemaker.recipe import ReasonConfig, Recipe
from tastemaker.stage import Advance, Run, Stage, Workspace, atomic_file

__all__ = [
    "KINDS",
    "STORE",
    "audit_reason",
    "blocks_of",
    "knowledge_of",
    "questions_of",
    "reason_stage",
]

KINDS = ("user", "item")
_BLOCK = 2048  # questions at a time
_SCHEMA: dict[str, Any] = {
    "kind": pl.String,
    "entity": pl.Int64,
    "entity_id": pl.String,
    "cut_time": pl.Int64,
    "events": pl.List(pl.Int64),
    "key": pl.String,
    "prompt": pl.String,
    "text": pl.String,
    "encoder_text": pl.String,
    "finish_reason": pl.String,
    "requests": pl.Int64,
    "dropped": pl.List(pl.String),
}


def reason_stage(recipe: Recipe) -> Stage:
    """Stage `reason`: texts about users and items; nothing in the store is asked again."""
    return Stage(
        name="reason",
        needs=("data",),
        run=lambda space: _reason(recipe.reason, space),
        config=recipe.reason.model_dump(mode="json", exclude=set(NOT_IN_TEXTS)),
    )


def knowledge_of(run: Run) -> pl.DataFrame:
    """The texts of a run, one per row, with what they were asked with and what an encoder reads."""
    return pl.read_parquet(run.artefact("reason") / "knowledge.parquet")


@dataclass(frozen=True)
class Asked:
    """The questions of a recipe, in the order they are asked.

    Attributes:
        items: Dense ids.
        users: Dense ids.
        cut: Which events of a user may be shown.
    """

    items: NDArray[np.int64]
    users: NDArray[np.int64]
    cut: Cut

    def __len__(self) -> int:
        return len(self.items) + len(self.users)

    def questions(self, split: Split, chain: Chain, config: ReasonConfig) -> Iterator[Question]:
        """About items first: questions about users may show what was said of items."""
        factors = {kind: factors_of(config, kind) for kind in KINDS}
        about_items: Iterator[Question] = iter(())
        if len(self.items):
            about_items = item_questions(
                split.tables,
                items=self.items,
                templates=chain.of("item"),
                factors=factors["item"],
                reviewed=split.train_events,
            )
        about_users: Iterator[Question] = iter(())
        if len(self.users):
            about_users = user_questions(
                split.tables,
                split.histories,
                users=self.users,
                cut=self.cut,
                templates=chain.of("user"),
                factors=factors["user"],
            )
        return joined(about_items, about_users)


def questions_of(config: ReasonConfig, split: Split, run: Run) -> Asked:
    """Users of the requests first, then the most active in training; items by training popularity.

    Only *which* texts are written depends on the requests, never what is in them.
    """
    events = split.tables.interactions[split.train_events]
    asked = [load_requests(run, part).users.astype(np.int64) for part in ("test", "valid")]
    activity = np.bincount(events["user"].to_numpy(), minlength=split.tables.n_users)
    popularity = np.bincount(events["item"].to_numpy(), minlength=split.tables.n_items)
    users = np.concatenate([*(np.unique(part) for part in asked), _descending(activity)])
    _, first = np.unique(users, return_index=True)
    only_items = config.chain == "summary"
    return Asked(
        items=_descending(popularity)[: config.max_items],
        users=users[np.sort(first)][: 0 if only_items else config.max_users],
        cut=cut_of(config, split),
    )


def cut_of(config: ReasonConfig, split: Split) -> Cut:
    """The cut a recipe names."""
    if config.cut == "oldest_half":
        return Cut(config.history_cap)
    if config.cut == "train":
        trained = np.zeros(len(split.tables.interactions), dtype=np.bool_)
        trained[split.train_events] = True
        return Cut(config.history_cap, rows=trained)
    return Cut(config.history_cap, before=int(config.cut.timestamp()))


def audit_reason(run: Run, split: Split) -> Sequence[Finding]:
    """Verdicts on what the chat model was told about the users: by the texts, by the rows."""
    frame = knowledge_of(run)
    manifest = run.manifest("reason")
    config = ReasonConfig.model_validate(manifest.config if manifest else {})
    users = frame.filter(pl.col("kind") == "user")
    found = [_audit_events(split, frame)]
    if config.chain != "collective" and users.height:
        asked = users.select(pl.col("entity").alias("user"), "cut_time", "prompt")
        template = templates_of(config)["user"]
        found.append(audit_user_texts(split.tables, asked, template=template))
    return found


def _audit_events(split: Split, frame: pl.DataFrame) -> Finding:
    """No event behind a text is later than the text's cut, nor somebody else's."""
    events = split.tables.interactions.select("time", "user", "item").with_row_index("row")
    shown = (
        frame.select("kind", "entity", "cut_time", row="events")
        .explode("row")
        .filter(pl.col("row").is_not_null())
        .join(events.cast({"row": pl.Int64}), on="row", how="left", maintain_order="left")
    )
    late = shown.filter((pl.col("time") > pl.col("cut_time")).fill_null(True))
    owner = pl.when(pl.col("kind") == "user").then(pl.col("user")).otherwise(pl.col("item"))
    foreign = shown.filter(pl.col("kind").is_in(KINDS), owner.cast(pl.Int64) != pl.col("entity"))
    problems = [
        problem_frame(late, pl.format("was shown although it is later than {}", "cut_time")),
        problem_frame(foreign, pl.format("was shown for {} {}", "kind", "entity")),
    ]
    return judged(
        "knowledge: events",
        pl.concat(problems),
        tables=split.tables,
        checked=frame.height,
        noun="texts",
        passed="no event behind any is later than its cut",
        failed="rest on later or foreign events",
    )


def _reason(config: ReasonConfig, space: Workspace) -> Mapping[str, Any]:
    split = load_split(space.run)
    asked = questions_of(config, split, space.run)
    counts = Counter(dict.fromkeys(KINDS, 0))
    lost = dropped = 0
    label = f"{len(asked.users):,} users, {len(asked.items):,} items"
    with (
        KnowledgeStore(space.run.folder / STORE) as store,
        space.report.track(label, len(asked)) as advance,
        atomic_file(space.out / "knowledge.parquet") as handle,
        pq.ParquetWriter(handle, pl.DataFrame(schema=_SCHEMA).to_arrow().schema) as writer,
    ):
        asker = asker_of(config, store, seed=space.seed, tell=space.report.line)
        bar = _Bar(advance, requests=requests_per_question(config))
        asker.advance = bar.answered
        for found, rows in _reasoned(config, asker, split, asked, seed=space.seed):
            writer.write_table(pl.DataFrame(rows, schema=_SCHEMA).to_arrow())
            counts.update(row["kind"] for row in rows)
            lost += sum(not one.text for one in found)
            dropped += sum(len(one.dropped) for one in found)
            bar.settled(len(rows) if config.chain == "collective" else len(found))
    return _summary(asker.tally, counts, lost=lost, dropped=dropped)


class _Bar:
    """Turns answered requests into questions done, and ends each block at the right number."""

    def __init__(self, advance: Advance, *, requests: int) -> None:
        self._advance, self._requests = advance, requests
        self._answered = self._moved = 0

    def answered(self, done: int, note: str = "") -> None:
        """Some requests of the present block have been answered."""
        self._answered += done
        step = self._answered // self._requests - self._moved
        self._moved += step
        self._advance(step, note)

    def settled(self, questions: int) -> None:
        """The present block had so many questions."""
        self._advance(max(0, questions - self._moved))
        self._answered = self._moved = 0


def _reasoned(
    config: ReasonConfig, asker: Asks, split: Split, asked: Asked, *, seed: int
) -> Iterator[tuple[list[Reasoned], list[dict[str, Any]]]]:
    """Results and the rows they make, block by block."""
    if config.chain == "collective":
        times = split.tables.interactions["time"].to_numpy()
        may = np.zeros(len(times), dtype=np.bool_)
        may[split.train_events] = True
        if isinstance(config.cut, datetime):
            may = times < int(config.cut.timestamp())
        for found, rows in collective_rows(
            config,
            asker,
            split,
            users=asked.users,
            items=asked.items,
            events=np.flatnonzero(may),
            seed=seed,
        ):
            yield found, [*_rows(found, history=False), *rows]
        return
    chain = chain_of(config, asker, split.tables)
    history = config.chain in ("single", "stepwise")
    size = BATCH_API_BLOCK if config.batch_api else _BLOCK
    for block in blocks_of(asked.questions(split, chain, config), size=size):
        found = chain.batch(block)
        yield found, _rows(found, history=history)


def _summary(tally: Tally, counts: Counter[str], *, lost: int, dropped: int) -> dict[str, Any]:
    reasons = ", ".join(f"{count:,} {name}" for name, count in sorted(tally.reasons.items()))
    line = f"{counts['user']:,} users, {counts['item']:,} items; {tally.answered:,} answers now"
    if lost:
        line += f"; {lost:,} without a text" + (f" ({reasons})" if reasons else "")
    if dropped:
        line += f"; {dropped:,} wrong sentences dropped"
    if tally.cost:
        line += f"; cost {tally.cost:.4f}"
    return {
        **{f"{kind}_texts": counts[kind] for kind in KINDS},
        "generated_now": tally.answered,
        "unanswered": lost,
        "reasons": tally.reasons,
        "sentences_dropped": dropped,
        "prompt_tokens": tally.prompt_tokens,
        "completion_tokens": tally.completion_tokens,
        "cost": tally.cost,
        "line": line,
    }


def blocks_of(questions: Iterator[Question], *, size: int = _BLOCK) -> Iterator[list[Question]]:
    """Questions so many at a time, so that a job of any size fits into memory."""
    while block := list(islice(questions, size)):
        yield block


def _rows(found: Sequence[Reasoned], *, history: bool) -> list[dict[str, Any]]:
    """One row per text; see `encoder_text` for `history`."""
    return [
        {
            "kind": one.question.kind,
            "entity": one.question.entity,
            "entity_id": one.question.entity_id,
            "cut_time": one.question.cut_time,
            "events": list(one.question.events),
            "key": one.last.key,
            "prompt": next(
                message["content"] for message in one.last.messages if message["role"] == "user"
            ),
            "text": one.text,
            "encoder_text": encoder_text(one, history=history),
            "finish_reason": getattr(one.last, "finish_reason", ""),
            "requests": len(one.outcomes),
            "dropped": list(one.dropped),
        }
        for one in found
        if one.text
    ]


def _descending(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.argsort(-counts, kind="stable").astype(np.int64)
