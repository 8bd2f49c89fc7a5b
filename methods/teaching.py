"""The stage `teach`: a chat model writes tastes and wishes that templates then show.

InstructRec (Zhang et al., 2023, arXiv 2305.07001, §3.2): a teacher turns the titles liked before a
target into a sentence about the taste, and the target's review into the wish behind it.

    rows that `build` asks about ─ questions ─ chain ─ store ─ teacher.parquet ─ build

A taste is written from likes strictly before its target; equal questions are asked once. Wishes
come from the target's own review, so what shows them is search with an oracle, no recommendation.
What the teacher does not write, or writes unusably, is the phrase from the categories that fields
have anyway, and is labelled `template`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.agents.knowledge import KnowledgeStore
from tastemaker.agents.questions import Question
from tastemaker.agents.reasoning import Asks, Single
from tastemaker.data.audit import problem_frame
from tastemaker.data.findings import Finding, judged
from tastemaker.data.splits import Split
from tastemaker.errors import LeakError
from tastemaker.methods.asking import BATCH_API_BLOCK, NOT_IN_TEXTS, asker_of, check_asking
from tastemaker.methods.base import load_split
from tastemaker.methods.keeping import STORE
from tastemaker.methods.planning import Plan, plan, weighted_templates
from tastemaker.methods.taught_texts import Taught, taste_phrase, wish_sentence
from tastemaker.prompts.examples import Examples
from tastemaker.prompts.selection import sampled
from tastemaker.prompts.source import InstructionSource
from tastemaker.prompts.template import Template, find_template
from tastemaker.prompts.written import WrittenTexts
from tastemaker.recipe import Recipe
from tastemaker.recipe_build import BuildConfig
from tastemaker.recipe_teach import TeachConfig
from tastemaker.stage import Run, Stage, Workspace, atomic_file, digest

__all__ = [
    "NOBODY",
    "audit_teach",
    "check",
    "teach_stage",
    "teacher_texts",
    "teaching_note",
    "written_texts",
]

Rows = NDArray[np.int64]
Field = Literal["preference", "vague_intention"]
ReadText = Callable[[str, str, Sequence[str]], Taught]
NOBODY = "template"  # the model that asks nobody, and the source of what nobody wrote
TEACHER = "teacher"
_FIELDS: tuple[Field, ...] = ("preference", "vague_intention")
_TABLE = "teacher.parquet"
_BLOCK = 2048  # rows at a time
_NOT_ASKED_ABOUT = {"workers", "check", "format", "shard_rows", "candidates_from", "pairs", "shots"}
_UNSEEN = "test_unseen"
_NOTHING: Mapping[Field, str] = {
    "preference": "nothing liked before",
    "vague_intention": "no review",
}


@dataclass
class _Told:
    """What is known of one field, one entry a row.

    Attributes:
        texts: Row → usable text, or nothing.
        reasons: Row → why there is none; empty where there is one.
        keys: Row → address of the answer in the store.
        events: Row → interaction rows shown.
    """

    texts: dict[int, str] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    keys: dict[int, str] = field(default_factory=dict)
    events: dict[int, tuple[int, ...]] = field(default_factory=dict)


def teach_stage(recipe: Recipe) -> Stage:
    """Stage `teach`: tastes and wishes for the rows that the recipe's templates ask about."""
    config, build = recipe.teach, recipe.build
    templates = weighted_templates(build)[0]
    sources = [*templates, *_templates(config).values()]
    return Stage(
        name="teach",
        needs=("data",),
        run=lambda space: _teach(config, build, space),
        config={
            **config.model_dump(mode="json", exclude=set(NOT_IN_TEXTS)),
            "build": build.model_dump(mode="json", exclude=_NOT_ASKED_ABOUT),
            "sources": {template.label: digest(template.source) for template in sources},
        },
    )


def check(recipe: Recipe) -> None:
    """Find unknown templates and models before anything is written; asks nobody.

    Raises:
        UserError: with what to change.
    """
    _templates(recipe.teach)
    if recipe.teach.model != NOBODY:
        check_asking(recipe.teach, section="teach")


def written_texts(run: Run) -> dict[str, WrittenTexts]:
    """Field → what the teacher of a run wrote; where it wrote nothing fields keep their phrases."""
    frame = teacher_texts(run)
    return {
        name: WrittenTexts(*_columns(frame.filter(pl.col(f"{name}_source") == TEACHER), name))
        for name in _FIELDS
        if name in frame.columns
    }


def teacher_texts(run: Run) -> pl.DataFrame:
    """The artefact of a run, one row per interaction row that was asked about.

    Returns:
        `row`, `user_id`, `model` and, for each field that templates show (`preference`,
        `vague_intention`), its text, `…_source` (`teacher` or `template`), `…_reason` (why not the
        teacher), `…_key` (of the answer in the store) and `…_events` (interaction rows shown).
    """
    return pl.read_parquet(run.artefact("teach") / _TABLE)


def teaching_note(run: Run) -> str:
    """One sentence on who wrote what, for cards and reports."""
    manifest = run.manifest("teach")
    return str(manifest.summary["note"]) if manifest else ""


def audit_teach(run: Run, split: Split) -> Sequence[Finding]:
    """Verdict on what the teacher was shown of each user, from the rows of the artefact."""
    frame = teacher_texts(run)
    if "preference_events" not in frame.columns:
        return []
    events = split.tables.interactions.select("time", "user", "item").with_row_index("shown")
    events = events.cast({"shown": pl.Int64})
    targets = events.rename({"shown": "row", "time": "moment", "user": "owner", "item": "target"})
    shown = (
        frame.select("row", shown="preference_events")
        .explode("shown")
        .filter(pl.col("shown").is_not_null())
        .join(events, on="shown", how="left", maintain_order="left")
        .join(targets, on="row", how="left", maintain_order="left")
    )
    late = shown.filter((pl.col("time") >= pl.col("moment")).fill_null(True))
    foreign = shown.filter((pl.col("user") != pl.col("owner")).fill_null(True))
    problems = [
        problem_frame(late, pl.lit("was told from an event that is not strictly earlier")),
        problem_frame(foreign, pl.lit("was told from another user's event")),
    ]
    return [
        judged(
            "teacher: tastes",
            pl.concat(problems),
            tables=split.tables,
            checked=frame.height,
            noun="tastes",
            passed="each rests on the user's own events strictly before its target",
            failed="rest on later or foreign events",
        )
    ]


def _templates(config: TeachConfig) -> dict[Field, Template]:
    return {
        "preference": find_template(config.preference_template),
        "vague_intention": find_template(config.intention_template),
    }


def _teach(config: TeachConfig, build: BuildConfig, space: Workspace) -> Mapping[str, Any]:
    split = load_split(space.run)
    shown = frozenset().union(*(one.fields() for one in weighted_templates(build)[0]))
    fields = [name for name in _FIELDS if name in shown]
    nothing: dict[str, WrittenTexts] = {name: WrittenTexts.none() for name in fields}
    found = plan(space.run.folder, build, seed=space.seed, written=nothing)
    rows, asked = _rows_of(found, config, seed=space.seed)
    told = {name: _Told() for name in fields}
    counted: dict[str, Any] = {}
    if config.model != NOBODY and len(asked):
        counted = _ask(config, space, split, found, asked=asked, told=told)
    frame = _frame(config, split, found, rows, told=told)
    with atomic_file(space.out / _TABLE) as handle:
        frame.write_parquet(handle)
    return _summary(config, frame, fields, counted)


def _rows_of(found: Plan, config: TeachConfig, *, seed: int) -> tuple[Rows, Rows]:
    """All interaction rows that are asked about, and those that the teacher is asked about."""
    whole, asked = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for name, source in found.sources.items():
        part = "test" if name == _UNSEEN else name
        if part not in ("train", "validation", "test"):
            continue  # a K-shot subset of train
        rows = _rows(source)
        whole.append(rows)
        if part in config.parts:
            asked.append(sampled(rows, config.examples, seed=seed))
    return np.unique(np.concatenate(whole)), np.unique(np.concatenate(asked))


def _rows(source: InstructionSource) -> Rows:
    rows = np.unique(source.examples.rows)
    return rows[rows >= 0]


def _ask(
    config: TeachConfig,
    space: Workspace,
    split: Split,
    found: Plan,
    *,
    asked: Rows,
    told: Mapping[Field, _Told],
) -> dict[str, Any]:
    """Ask the teacher, block by block, and fill `told`; returns what it took."""
    templates = _templates(config)
    wanted = [name for name in told if name in config.fields]
    with (
        KnowledgeStore(space.run.folder / STORE) as store,
        space.report.track("rows to teach", len(asked) * len(wanted)) as advance,
    ):
        asker = asker_of(config, store, seed=space.seed, tell=space.report.line)
        for name in wanted:
            chain = Single(asker, {"user": templates[name]})
            read = _reader(name, config)
            size = BATCH_API_BLOCK if config.batch_api else _BLOCK
            for start in range(0, len(asked), size):
                block = asked[start : start + size]
                told[name].reasons |= dict.fromkeys(block.tolist(), _NOTHING[name])
                questions = list(_questions(name, split, found, block, config=config))
                _fill(told[name], chain, questions, read=read, split=split, found=found)
                advance(len(block))
        return _spent(asker)


def _spent(asker: Asks) -> dict[str, Any]:
    tally = asker.tally
    return {
        "generated_now": tally.answered,
        "prompt_tokens": tally.prompt_tokens,
        "completion_tokens": tally.completion_tokens,
        "cost": tally.cost,
    }


def _reader(name: Field, config: TeachConfig) -> ReadText:
    """Answer, title of the target and titles shown → text."""
    most = config.longest
    if name == "preference":
        return lambda said, title, shown: taste_phrase(
            said, longest=most, hidden=(title,), shown=shown
        )
    return lambda said, title, shown: wish_sentence(said, longest=most, hidden=(title,))


def _fill(
    told: _Told,
    chain: Single,
    questions: Sequence[tuple[int, Question]],
    *,
    read: ReadText,
    split: Split,
    found: Plan,
) -> None:
    """Ask and keep what can be used, each answer read for every row it is for."""
    titles = found.binder.catalogue.titles
    items = split.tables.interactions["item"].to_numpy()
    results = chain.batch([question for _, question in questions])
    for (row, question), result in zip(questions, results, strict=True):
        taught = Taught("", result.reason)
        if result.text:
            shown = question.values.get("liked", ())
            taught = read(result.text, titles[int(items[row])], shown)
        told.keys[row], told.events[row] = result.last.key, question.events
        told.texts[row], told.reasons[row] = taught


def _questions(
    name: Field, split: Split, found: Plan, rows: Rows, *, config: TeachConfig
) -> Iterator[tuple[int, Question]]:
    """Row → what is asked about it; rows about which nothing can be asked are left out."""
    events, ids = split.tables.interactions, split.tables.users["user_id"]
    users, items = events["user"].to_numpy(), events["item"].to_numpy()
    times, titles = events["time"].to_numpy(), found.binder.catalogue.titles
    if name == "vague_intention":
        review = found.binder.catalogue.text("review")
        if review is None or review.place != "interactions":
            return
        for row, text in zip(rows.tolist(), review.values.gather(rows).to_list(), strict=True):
            if text:
                yield row, _question(ids, users, row, {"review": text}, events=(row,))
        return
    past = split.histories.before(rows, only="liked").newest(config.history)
    for place, row in enumerate(rows.tolist()):
        shown = past[place]
        if not len(shown):
            continue
        if int(times[shown].max()) >= int(times[row]):
            raise LeakError(f"row {row}: the teacher would be shown an event that is no past.")
        values = {"liked": titles.gather(items[shown]).to_list()}
        cut = int(times[shown[-1]])
        yield row, _question(ids, users, row, values, events=tuple(shown.tolist()), cut=cut)


def _question(
    ids: pl.Series,
    users: NDArray[Any],
    row: int,
    values: Mapping[str, Any],
    *,
    events: tuple[int, ...],
    cut: int | None = None,
) -> Question:
    user = int(users[row])
    return Question("user", user, str(ids[user]), values, cut_time=cut, events=events)


def _frame(
    config: TeachConfig, split: Split, found: Plan, rows: Rows, *, told: Mapping[Field, _Told]
) -> pl.DataFrame:
    """The artefact; see `teacher_texts`."""
    listed = rows.tolist()
    users = split.tables.interactions["user"].gather(rows)
    columns: dict[str, Any] = {
        "row": pl.Series(rows, dtype=pl.Int64),
        "user_id": split.tables.users["user_id"].gather(users),
        "model": pl.repeat(config.model, len(rows), dtype=pl.String, eager=True),
    }
    for name, one in told.items():
        phrases = _phrases(name, found, rows)
        written = [one.texts.get(row) for row in listed]
        columns |= {
            name: [text or phrase for text, phrase in zip(written, phrases, strict=True)],
            f"{name}_source": [TEACHER if text else NOBODY for text in written],
            f"{name}_reason": [one.reasons.get(row, "not asked") for row in listed],
            f"{name}_key": pl.Series([one.keys.get(row) for row in listed], dtype=pl.String),
            f"{name}_events": pl.Series(
                [list(one.events.get(row, ())) for row in listed], dtype=pl.List(pl.Int64)
            ),
        }
    return pl.DataFrame(columns)


def _phrases(name: Field, found: Plan, rows: Rows) -> list[str]:
    """What the field says where nobody wrote anything."""
    template = next(one for one in found.templates if name in one.fields())
    examples = Examples.of_rows(found.binder.tables, rows)
    value = found.binder.block(examples, template, names=[name])[name]
    return [str(text) for text in value.to_list()]  # type: ignore[union-attr]


def _columns(frame: pl.DataFrame, name: str) -> tuple[NDArray[Any], list[str]]:
    return frame["row"].to_numpy(), frame[name].to_list()


def _summary(
    config: TeachConfig, frame: pl.DataFrame, fields: Sequence[Field], counted: Mapping[str, Any]
) -> dict[str, Any]:
    """Counts of the manifest, and the sentence about them."""
    told: dict[str, Any] = {}
    said = []
    for name in fields:
        written = int((frame[f"{name}_source"] == TEACHER).sum())
        reasons = Counter(frame[f"{name}_reason"].to_list())
        reasons.pop("", None)
        told[name] = {
            TEACHER: written,
            NOBODY: frame.height - written,
            "reasons": dict(sorted(reasons.items())),
        }
        label = name.replace("_", " ")
        said.append(f"{label}: {written:,} by {config.model}, {frame.height - written:,} phrases")
    if config.model == NOBODY or not fields:
        note = "Preferences and vague intentions are phrases from the categories; no model wrote."
    else:
        note = (
            "Of the rows asked about, the rest being phrases from the categories, a chat model "
            f"wrote: {'; '.join(said)}."
        )
    line = "; ".join(said) if config.model != NOBODY else f"{frame.height:,} rows, all phrases"
    return {"rows": frame.height, "fields": told, **counted, "note": note, "line": line}
