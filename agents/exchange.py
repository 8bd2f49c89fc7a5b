"""Knowledge leaves a store as a file and comes back, and other people's knowledge comes in.

    store ─ export ─► .jsonl, .jsonl.gz, .parquet ─ import ─► store
    KAR's .klg, REKI's knowledge.json ───────────── import ─► store

A row is everything the store knows of an answer or a failure. An imported answer has the address
that the same question has here: `request_key` of model, server, parameters and messages. A recipe
finds it when its own prompt, model and parameters are equal to those, letter by letter.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import MISSING, fields, replace
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from tastemaker.agents.answers import Acceptance
from tastemaker.agents.foreign import NEVER, CutTimes, Foreign, cut_of, foreign_rows
from tastemaker.agents.knowledge import Failure, Knowledge, KnowledgeStore, Message, request_key
from tastemaker.errors import DataError, UserError
from tastemaker.stage import atomic_file

__all__ = ["NEVER", "Exchanged", "export_knowledge", "import_knowledge"]

_LINES, _PARQUET = (".jsonl", ".jsonl.gz"), (".parquet",)
_FOREIGN = (".klg", ".json")
_GROUP = 2000  # rows of a Parquet row group, and of a look into the store
_MOST_PROBLEMS = 50
_OUTCOMES: Mapping[str, type[Knowledge] | type[Failure]] = {
    "answered": Knowledge,
    "failed": Failure,
}
_AS_JSON = ("params", "messages")
_KINDS = ("user", "item", "user_group", "item_group", "scenario")
_ARROW = {
    "cut_time": pa.int64(),
    "attempts": pa.int64(),
    "prompt_tokens": pa.int64(),
    "completion_tokens": pa.int64(),
    "cost": pa.float64(),
    "seconds": pa.float64(),
    "final": pa.bool_(),
}

Found = Knowledge | Failure


class Exchanged(NamedTuple):
    """What an export wrote or an import added.

    Attributes:
        answers: Answers written, or new in the store.
        failures: Likewise.
        known: Of an import, rows whose address had an answer already, which stays as it was.
    """

    answers: int
    failures: int
    known: int = 0


def export_knowledge(
    store: KnowledgeStore, path: Path, *, where: Mapping[str, Any] | None = None
) -> Exchanged:
    """Write answers and failures to a file, whole or not at all; the store may be huge.

    Args:
        store: Is read page by page.
        path: `.jsonl`, `.jsonl.gz` or `.parquet`.
        where: Column → value that it must have, such as `{"kind": "user"}`.

    Raises:
        UserError: the file name says no known format.
    """
    counts = dict.fromkeys(_OUTCOMES, 0)

    def rows() -> Iterator[dict[str, Any]]:
        for outcome, kind in _OUTCOMES.items():
            for one in store.each(kind, where=where):
                counts[outcome] += 1
                values = {field.name: getattr(one, field.name) for field in fields(one)}
                yield {"outcome": outcome, **values}

    write = _write_parquet if _format(path, (*_LINES, *_PARQUET)) in _PARQUET else _write_lines
    with atomic_file(path) as handle:
        write(handle, rows(), path.name)
    return Exchanged(counts["answered"], counts["failed"])


def import_knowledge(
    store: KnowledgeStore,
    path: Path,
    *,
    kind: str | None = None,
    model: str | None = None,
    params: Mapping[str, Any] | None = None,
    base_url: str | None = None,
    chain: str = "",
    cut_times: CutTimes = None,
    acceptance: Acceptance | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Exchanged:
    """Add the rows of a file to the store in one transaction, or nothing when one is wrong.

    What the store has already stays as it is. Of `.klg` and `.json` files, which do not say it,
    the caller says what they are about; unusable answers in them become failures.

    Args:
        store: Where they go.
        path: `.jsonl`, `.jsonl.gz` or `.parquet` as exported; `.klg` as KAR's; `.json` as KAR's or
            REKI's.
        kind: Of a foreign file: `user` or `item` (KAR), `user_group` or `item_group` (REKI).
        model: Of a foreign file: `provider:model`.
        params: Likewise: generation parameters, equal to those of the recipe that is to find them.
        base_url: Likewise: the recipe's server, when it names one.
        chain: Likewise: the name it is listed under; empty for `imported/` and the file's name.
        cut_times: User or group → Unix second of the last event its prompt shows, for texts about
            users that do not say it; `unknown` marks them as usable for no target by themselves.
        acceptance: Of a foreign file: which answers are usable; answers cut short are, by default.
        clock: Tells when they came in.

    Raises:
        UserError: the file's format or the arguments are wrong.
        DataError: rows are wrong; all of them are named.
    """
    suffix = _format(path, (*_LINES, *_PARQUET, *_FOREIGN))
    if not path.is_file():
        raise UserError(f"{path}: no such file.")
    about = Foreign(
        kind=kind or "",
        model=model or "",
        params=dict(params or {}),
        base_url=base_url,
        chain=chain,
        cut_times=cut_times,
        acceptance=acceptance or Acceptance(truncated="keep"),
        created=clock().astimezone(UTC).isoformat(timespec="seconds"),
    )
    problems = _Problems(path)
    found = _read(path, suffix, about, problems)
    problems.raise_any()
    return _added(store, found)


def _read(path: Path, suffix: str, about: Foreign, problems: _Problems) -> list[Found]:
    if suffix in _FOREIGN:
        named = replace(about, chain=about.chain or f"imported/{path.stem}")
        return [
            one
            for place, one in foreign_rows(path, named, complain=problems.add)
            if problems.first(one.key, place)
        ]
    if about.kind or about.model or about.params or about.base_url or about.chain:
        raise UserError(
            f"{path.name}: an exported file says itself which kind, model, parameters and chain "
            "its rows have.",
            remedy="Leave them out.",
        )
    rows = _read_parquet(path) if suffix in _PARQUET else _read_lines(path, problems)
    return [one for place, row in rows for one in _native(place, row, problems, about.cut_times)]


def _added(store: KnowledgeStore, found: Sequence[Found]) -> Exchanged:
    known: set[str] = set()
    for start in range(0, len(found), _GROUP):
        known.update(store.get_many(one.key for one in found[start : start + _GROUP]))
    new = [one for one in found if one.key not in known]
    store.put_many(new)
    answers = sum(isinstance(one, Knowledge) for one in new)
    return Exchanged(answers, len(new) - answers, len(found) - len(new))


class _Problems:
    """Collects what is wrong with a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._told: list[str] = []
        self._count = 0
        self._first: dict[str, str] = {}

    def first(self, key: str, place: str) -> bool:
        """Whether no earlier row has the same address; else it is told."""
        earlier = self._first.setdefault(key, place)
        if earlier != place:
            self.add(place, f"asks the same as {earlier}")
        return earlier == place

    def add(self, place: str, what: str) -> None:
        self._count += 1
        if len(self._told) < _MOST_PROBLEMS:
            self._told.append(f"  {place}: {what}")

    def raise_any(self) -> None:
        if not self._count:
            return
        more = self._count - len(self._told)
        lines = [*self._told, *([f"  and {more:,} more"] if more else [])]
        raise DataError(
            f"{self._path}: {self._count:,} problem{'s' * (self._count > 1)}:\n" + "\n".join(lines),
            remedy="Nothing was imported. Correct the file and import it again.",
        )


def _format(path: Path, known: Sequence[str]) -> str:
    for suffix in sorted(known, key=len, reverse=True):
        if path.name.endswith(suffix):
            return suffix
    raise UserError(
        f"'{path.name}' does not say its format.", allowed=f"a name that ends in {', '.join(known)}"
    )


def _write_lines(handle: IO[bytes], rows: Iterable[dict[str, Any]], name: str) -> None:
    with _packed(handle, name) as target:
        for row in rows:
            values = {key: value for key, value in row.items() if value is not None}
            text = json.dumps(values, ensure_ascii=False, default=dict)
            target.write(text.encode() + b"\n")


@contextmanager
def _packed(handle: IO[bytes], name: str) -> Iterator[IO[bytes]]:
    if not name.endswith(".gz"):
        yield handle
        return
    # Without name and time the bytes depend on the content alone.
    with gzip.GzipFile(filename="", mode="wb", fileobj=handle, mtime=0) as packed:
        yield packed  # type: ignore[misc]


def _write_parquet(handle: IO[bytes], rows: Iterator[dict[str, Any]], name: str) -> None:
    del name
    schema = _schema()
    with pq.ParquetWriter(handle, schema, compression="zstd") as writer:
        while some := list(islice(rows, _GROUP)):
            for row in some:
                for column in _AS_JSON:
                    row[column] = json.dumps(row[column], ensure_ascii=False, default=dict)
            writer.write_table(pa.Table.from_pylist(some, schema=schema))


@cache
def _schema() -> Any:
    names = ["outcome", *(field.name for field in fields(Knowledge))]
    names += [field.name for field in fields(Failure) if field.name not in names]
    return pa.schema([(name, _ARROW.get(name, pa.string())) for name in names])


def _read_lines(path: Path, problems: _Problems) -> Iterator[tuple[str, Mapping[str, Any]]]:
    opened = gzip.open if path.name.endswith(".gz") else open
    number = 0
    with opened(path, "rb") as handle:
        try:
            for number, line in enumerate(handle, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError:
                    problems.add(f"line {number}", "is no JSON")
                    continue
                if isinstance(row, dict):
                    yield f"line {number}", row
                else:
                    problems.add(f"line {number}", "is no JSON object")
        except (EOFError, OSError) as error:
            problems.add(f"after line {number}", f"the file is damaged ({error})")


def _read_parquet(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: is no Parquet file ({error}).") from None
    number = 0
    with file:
        for batch in file.iter_batches(batch_size=_GROUP):
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", row


def _native(
    place: str, row: Mapping[str, Any], problems: _Problems, cut_times: CutTimes
) -> Iterator[Found]:
    """The answer or failure of an exported row, if nothing is wrong with it."""
    values = {name: value for name, value in row.items() if value is not None}
    outcome = values.pop("outcome", None)
    if outcome not in _OUTCOMES:
        problems.add(place, f"outcome is {outcome!r}, not {' or '.join(_OUTCOMES)}")
        return
    for name in _AS_JSON:
        if isinstance(values.get(name), str):
            with suppress(ValueError):  # told below: it is no object and no list
                values[name] = json.loads(values[name])
    given = values.pop("key", None)
    try:
        checked = _model(outcome).model_validate({"key": "", **values})
    except ValidationError as error:
        for one in error.errors():
            problems.add(place, f"{'.'.join(map(str, one['loc']))}: {one['msg']}")
        return
    found = _OUTCOMES[outcome](**{**checked.model_dump(), "key": ""})
    wrong = _wrong(found, given)
    cut: int | str | None = found.cut_time
    if isinstance(found, Knowledge):
        cut = cut_of(found.kind, found.entity, found.cut_time, cut_times)
    if isinstance(cut, str):
        wrong.append(cut)
    for what in wrong:
        problems.add(place, what)
    address = _address(found)
    if not isinstance(cut, str) and not wrong and problems.first(address, place):
        yield replace(found, key=address, cut_time=cut)


def _wrong(found: Found, given: Any) -> list[str]:
    """What pydantic cannot see."""
    wrong = []
    if found.kind not in _KINDS:
        wrong.append(f"kind is '{found.kind}', not one of {', '.join(_KINDS)}")
    if not found.messages or any(set(one) != {"role", "content"} for one in found.messages):
        wrong.append("messages are not a list of {role, content}")
    if isinstance(found, Knowledge) and not found.text.strip():
        wrong.append("text is empty")
    if given is not None and given != _address(found):
        wrong.append(
            "key is not that of model, params and messages, so one of them was changed; leave key "
            "out if that was meant"
        )
    return wrong


def _address(found: Found) -> str:
    params = dict(found.params)
    server = params.pop("base_url", None)
    return request_key(found.model, server, params, found.messages)


@cache
def _model(outcome: str) -> type[BaseModel]:
    """What a row must look like: the fields of the record, strictly."""
    kind = _OUTCOMES[outcome]
    hints: dict[str, Any] = get_type_hints(kind)
    hints |= {"messages": list[Message], "params": dict[str, Any]}
    wanted: dict[str, Any] = {
        field.name: (hints[field.name], ... if field.default is MISSING else field.default)
        for field in fields(kind)
    }
    return create_model("Row", __config__=ConfigDict(extra="forbid", strict=True), **wanted)
