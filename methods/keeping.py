"""What the `knowledge` commands tell of a store, and how it is moved and pruned."""

from __future__ import annotations

import csv
import json
import sqlite3
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from tastemaker.agents.batch_ledger import BatchLedger, Part
from tastemaker.agents.knowledge import Failure, Knowledge, KnowledgeStore
from tastemaker.errors import UserError
from tastemaker.recipe import load_recipe
from tastemaker.stage import Run

__all__ = [
    "STORE",
    "Group",
    "Pruning",
    "Selection",
    "found",
    "groups",
    "import_options",
    "list_lines",
    "load_cut_times",
    "opened",
    "prune",
    "prune_lines",
    "pruning",
    "show_lines",
    "store_path",
    "told",
    "where",
]

STORE = "knowledge.sqlite"
_COLUMNS = 80
_HEADS = (("kind", 10), ("outcome", 11), ("texts", 8), ("tokens", 12), ("cost", 9))
_DATES = (("first", 10), ("last", 10))
_TABLES = {"knowledge": "'answered'", "failures": "reason"}


@dataclass(frozen=True)
class Group:
    """Answers or failures of one model, chain, kind and outcome.

    Attributes:
        outcome: `answered`, or the reason of the failures.
        cost: None when no price was known.
        first: UTC time in ISO form when the first was created; empty when unknown.
        last: Likewise.
    """

    model: str
    chain: str
    kind: str
    outcome: str
    count: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    first: str
    last: str


@dataclass(frozen=True)
class Selection:
    """What is to be forgotten; at least one of the first three.

    Attributes:
        failed: Failures only.
        chain: Of this chain only.
        before: Created before this UTC time in ISO form.
        batches: Let go of batches that are not collected yet, and of nothing in the store unless
            one of the others is given.
    """

    failed: bool = False
    chain: str | None = None
    before: str | None = None
    batches: bool = False

    @property
    def texts(self) -> bool:
        """Whether anything in the store is meant."""
        return self.failed or self.chain is not None or self.before is not None


@dataclass(frozen=True)
class Pruning:
    """What a selection means in one store."""

    path: Path
    groups: Sequence[Group]
    keys: Sequence[str]
    batches: Sequence[Part]

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to forget."""
        return not self.keys and not self.batches


def store_path(place: Path) -> Path:
    """The store of a run folder, or the file itself.

    Raises:
        UserError: there is none.
    """
    path = place / STORE if place.is_dir() else place
    if not path.is_file():
        raise UserError(
            f"{place} holds no knowledge." if place.is_dir() else f"{place}: no such file.",
            allowed=f"a run folder with {STORE}, or such a file",
            remedy="Run first: tastemaker reason RECIPE",
        )
    return path


@contextmanager
def opened(place: Path, *, changing: bool = False, new: bool = False) -> Iterator[KnowledgeStore]:
    """The store of a run folder or file.

    Args:
        place: Run folder or file.
        changing: Hold the run folder meanwhile, so that no job writes there too.
        new: Create a store that is missing in a folder that is there, or a file that ends in
            `.sqlite`.

    Raises:
        UserError: there is none, or another process holds the run.
    """
    if new and place.is_dir():
        path = place / STORE
    elif new and place.suffix == ".sqlite":
        path = place
    else:
        path = store_path(place)
    lock = Run(place).lock() if changing and place.is_dir() else nullcontext()
    with lock, KnowledgeStore(path) as store:
        yield store


def where(**values: str | None) -> dict[str, str]:
    """Those of the columns that have a value."""
    return {name: value for name, value in values.items() if value is not None}


def groups(path: Path, selection: Selection | None = None) -> list[Group]:
    """Sums by model, chain, kind and outcome.

    Args:
        path: Of a store.
        selection: Only what it means.
    """
    columns = (
        "model, chain, kind, outcome, count(*), sum(prompt_tokens), sum(completion_tokens), "
        "sum(cost), coalesce(min(nullif(created, '')), ''), max(created)"
    )
    query, values = _selected(selection)
    with _reading(path) as connection:
        rows = connection.execute(
            f"SELECT {columns} FROM ({query}) GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4", values
        )
        return [Group(*row) for row in rows]


def told(path: Path) -> dict[str, Any]:
    """Groups and open batches of a store, as plain values."""
    return {
        "groups": [asdict(group) for group in groups(path)],
        "batches": [asdict(part) for part in _open_batches(path)],
    }


def list_lines(path: Path) -> Iterator[str]:
    """What a store holds, for a terminal of 80 columns."""
    found = groups(path)
    yield from _table(found) if found else ["The store is empty."]
    for part in _open_batches(path):
        at = f" as {part.batch_id}" if part.batch_id else ""
        yield from textwrap.wrap(
            f"Not collected yet: {part.lines:,} requests to {part.model}, {part.state}{at}.",
            _COLUMNS,
        )


def found(
    store: KnowledgeStore, entity: str, *, kind: str | None = None, most: int = 3
) -> list[Knowledge | Failure]:
    """What the store knows of a user, item or group: answers first.

    Raises:
        UserError: nothing.
    """
    wanted = where(entity=entity, kind=kind)
    texts: list[Knowledge | Failure] = []
    for table in (Knowledge, Failure):
        texts += islice(store.each(table, where=wanted), most - len(texts))
    if not texts:
        about = f"{kind} '{entity}'" if kind else f"'{entity}'"
        raise UserError(
            f"{store.path} knows nothing of {about}.",
            allowed="an external id as in your tables, or the number of a group",
        )
    return texts


def show_lines(texts: Sequence[Knowledge | Failure]) -> Iterator[str]:
    """Prompt, answer and provenance, with control characters shown as such."""
    for place, one in enumerate(texts):
        if place:
            yield ""
        yield _plain(f"{one.kind} {one.entity}", line=True)
        for name, value in _provenance(one):
            yield f"  {name:<9} {_plain(value, line=True)}"
        for message in one.messages:
            yield f"  {message['role']}:"
            yield textwrap.indent(_plain(message["content"]), "    ")
        if isinstance(one, Knowledge):
            yield "  answer:"
            yield textwrap.indent(_plain(one.text), "    ")


def pruning(place: Path, selection: Selection) -> Pruning:
    """What would be forgotten; nothing is changed.

    Raises:
        UserError: nothing is selected.
    """
    if not selection.texts and not selection.batches:
        raise UserError(
            "prune what?", allowed="at least one of --failed, --chain, --before, --batches"
        )
    path = store_path(place)
    with KnowledgeStore(path):
        pass  # says what is wrong with the file
    batches = _open_batches(path) if selection.batches else []
    if not selection.texts:
        return Pruning(path, [], [], batches)
    query, values = _selected(selection)
    with _reading(path) as connection:
        keys = [row[0] for row in connection.execute(f"SELECT key FROM ({query})", values)]
    return Pruning(path, groups(path, selection), keys, batches)


def prune_lines(plan: Pruning) -> Iterator[str]:
    """What would be forgotten, for a terminal of 80 columns."""
    if plan.nothing:
        yield "Nothing to prune."
    yield from _table(plan.groups) if plan.groups else []
    for part in plan.batches:
        yield (
            f"Batch of {part.lines:,} requests to {part.model}; its answers are lost, although "
            "they may be paid for."
        )


def prune(place: Path, plan: Pruning) -> int:
    """Forget what was planned, and give the space back; returns by how many bytes it shrank."""
    before = _size(plan.path)
    with opened(place, changing=True) as store:
        store.remove(plan.keys)
        with BatchLedger(plan.path) as ledger:
            for part in plan.batches:
                ledger.end(part.part, "forgotten")
    with _reading(plan.path) as connection:
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return max(0, before - _size(plan.path))


def import_options(
    *,
    kind: str | None,
    model: str | None,
    params: str | None,
    recipe: Path | None,
    chain: str,
    cut_times: Path | None,
    cut_unknown: bool,
) -> dict[str, Any]:
    """The arguments of `import_knowledge` from those of the command.

    Raises:
        UserError: they contradict each other, or a file cannot be read.
    """
    if cut_times and cut_unknown:
        raise UserError("--cut-times and --cut-unknown exclude each other.")
    if recipe and (model or params):
        raise UserError("--recipe says model and parameters; leave out --model and --params.")
    given: dict[str, Any] = {"kind": kind, "model": model, "chain": chain}
    given["cut_times"] = (
        "unknown" if cut_unknown else load_cut_times(cut_times) if cut_times else None
    )
    if params:
        given["params"] = _parsed(params)
    if recipe:
        from tastemaker.methods.asking import params_of

        loaded = load_recipe(recipe)
        reason = loaded.reason
        given |= {"model": reason.model, "base_url": reason.base_url}
        given["params"] = params_of(reason, seed=loaded.seed)
    return given


def load_cut_times(path: Path) -> dict[str, int]:
    """User or group → Unix second, from a JSON object or a CSV file of two columns.

    Raises:
        UserError: the file is something else.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".json":
            pairs = list(json.loads(text).items())
        else:
            pairs = [(row[0], row[1]) for row in csv.reader(text.splitlines())]
            if pairs and not pairs[0][1].strip().isdecimal():
                del pairs[0]  # the header
        found = {str(name): int(moment) for name, moment in pairs}
        if len(found) < len(pairs) or not found:
            raise ValueError("an id stands there twice" if found else "no moments")
        return found
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise UserError(
            f"{path}: cannot be read as cut times ({type(error).__name__}: {error}).",
            allowed="a JSON object {id: Unix second}, or CSV with the columns id, Unix second",
        ) from None


def _parsed(params: str) -> dict[str, Any]:
    try:
        found = json.loads(params)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(
            f"--params '{params}' is no JSON object.",
            allowed='for example \'{"max_tokens": 64, "temperature": 0.0, "seed": 0}\'',
        )
    return found


def _selected(selection: Selection | None) -> tuple[str, list[str]]:
    """Query for the rows of both tables that are meant, and its values."""
    chosen = selection or Selection()
    tests, values = ["TRUE"], []
    if chosen.chain is not None:
        tests.append("chain = ?")
        values.append(chosen.chain)
    if chosen.before is not None:
        tests.append("created < ? AND created <> ''")
        values.append(chosen.before)
    tables = {
        table: outcome
        for table, outcome in _TABLES.items()
        if table == "failures" or not chosen.failed
    }
    columns = "key, model, chain, kind, prompt_tokens, completion_tokens, cost, created"
    query = " UNION ALL ".join(
        f"SELECT {columns}, {outcome} AS outcome FROM {table} WHERE {' AND '.join(tests)}"
        for table, outcome in tables.items()
    )
    return query, values * len(tables)


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, timeout=60.0, isolation_level=None)) as connection:
        yield connection


def _open_batches(path: Path) -> list[Part]:
    with BatchLedger(path) as ledger:
        return ledger.open_parts()


def _table(found: Sequence[Group]) -> Iterator[str]:
    last: tuple[str, str] | None = None
    for group in found:
        if (group.model, group.chain) != last:
            if last is not None:
                yield ""
            last = (group.model, group.chain)
            yield from textwrap.wrap(_plain(" · ".join(filter(None, last)), line=True), _COLUMNS)
            left = "".join(f" {name:<{width}}" for name, width in _HEADS[:2])
            yield " " + left + "".join(f" {name:>{width}}" for name, width in _HEADS[2:] + _DATES)
        cost = "–" if group.cost is None else f"{group.cost:,.4f}"
        tokens = group.prompt_tokens + group.completion_tokens
        cells = [f"{group.count:,}", f"{tokens:,}", cost, group.first[:10], group.last[:10]]
        left = f"  {group.kind:<10} {_short(group.outcome):<11}"
        widths = [width for _, width in _HEADS[2:] + _DATES]
        yield left + "".join(
            f" {cell or '–':>{width}}" for cell, width in zip(cells, widths, strict=True)
        )


def _short(text: str, width: int = 11) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _provenance(one: Knowledge | Failure) -> Iterator[tuple[str, str]]:
    if isinstance(one, Failure):
        yield "failed", f"{one.reason}{'' if one.final else ' (a later run tries again)'}"
        yield "detail", one.detail or "–"
    yield "model", one.model
    yield "params", json.dumps(dict(one.params), ensure_ascii=False)
    step = f", step {one.step}" if one.step else ""
    yield "chain", f"{one.chain or '–'}{step}{f', version {one.version}' if one.version else ''}"
    if one.cut_time is not None:
        yield "cut", _moment(one.cut_time)
    spent = f"{one.prompt_tokens:,} + {one.completion_tokens:,} tokens, {one.attempts} attempts"
    yield "spent", spent + (f", cost {one.cost:.6f}" if one.cost is not None else "")
    yield "created", one.created or "–"
    yield "key", one.key


def _moment(second: int) -> str:
    try:
        return f"{second} ({datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M:%S} UTC)"
    except (ValueError, OverflowError, OSError):
        return "never usable: nobody knows which events it was written from"


def _plain(text: str, *, line: bool = False) -> str:
    kept = "" if line else "\n\t"
    return "".join(one if one.isprintable() or one in kept else "\ufffd" for one in text)


def _size(path: Path) -> int:
    files = (path, path.with_name(f"{path.name}-wal"))
    return sum(file.stat().st_size for file in files if file.is_file())
