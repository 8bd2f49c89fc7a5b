"""Downloading the files of built-in data sets: resumed, checked, and in place whole or not at all.

A file grows as `NAME.part` and is renamed once it is complete and its checksum is right. What the
server said of it (ETag or date) stands in `NAME.part.json`: a later run asks for the rest only if
the file is still that one, and starts again otherwise. `fetched.json` records what was fetched.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol

from tastemaker.data.builtin.base import BuiltinDataset, find_builtin
from tastemaker.data.builtin.files import RemoteFile, checksum_of
from tastemaker.errors import DataError, MissingError
from tastemaker.stage import Reporter, atomic_file, locked

__all__ = ["Patience", "download", "fetch", "fetch_dataset"]

RECORD = "fetched.json"
_CHUNK = 1 << 18
_UNIT = 1_000  # progress counts kilobytes
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class Patience:
    """How long a download waits for a network that comes and goes.

    Attributes:
        tries: Failures in a row, without a byte in between, before it gives up.
        pause: Seconds before the second try; doubled for each further one.
        timeout: Seconds without a byte before a connection counts as broken.
    """

    tries: int = 5
    pause: float = 1.0
    timeout: float = 30.0


class _Answer(Protocol):
    """What is used of an answer of `urllib`."""

    status: int
    headers: Mapping[str, str]

    def read(self, amount: int, /) -> bytes:
        """At most `amount` bytes; none at the end."""


class _Broken(Exception):
    """The connection or the server failed in a way that may pass."""


class _Offline(_Broken):
    """There seems to be no network at all."""


class _Stale(_Broken):
    """What was fetched before belongs to another file than the server's present one."""


def fetch(
    name: str,
    *,
    folder: Path | None = None,
    report: Reporter,
    patience: Patience | None = None,
) -> Path:
    """Bring the files of a built-in data set; what is there already is checked, not fetched.

    Args:
        name: As written in a recipe, such as `ml-1m` or `amazon-2018:gift-cards`.
        folder: Where to put them; None is the usual place of the data set.
        report: Shows lines and progress.
        patience: With a bad network.

    Returns:
        The folder that holds the data.

    Raises:
        UnknownNameError: no such data set.
        MissingError: a package, the network, or a file that is given out on request only.
        DataError: a file is not the published one, or there is no room for it.
        BusyError: another process is fetching into the same folder.
    """
    return fetch_dataset(find_builtin(name), folder=folder, report=report, patience=patience)


def fetch_dataset(
    dataset: BuiltinDataset,
    *,
    folder: Path | None = None,
    report: Reporter,
    patience: Patience | None = None,
) -> Path:
    """As `fetch`, for a data set at hand."""
    if dataset.package:
        place = dataset.locate()
        report.line(f"{dataset.name}: comes with the package {dataset.package}, installed here")
        return place
    place = dataset.folder(folder)
    report.line(f"{dataset.name}: {dataset.licence}")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(place, error) from None
    with locked(place / ".fetch.lock", remedy="Wait for it, or name another folder."):
        unpacked = bool(dataset.complete(place))
        for file in dataset.files:
            needed = not (unpacked and file.is_archive) or (place / file.name).exists()
            if file.url is not None and needed:
                _bring(file, place, report=report, patience=patience or Patience())
    found = dataset.locate(place)
    report.line(f"{dataset.name}: ready in {found}")
    return found


def _bring(file: RemoteFile, place: Path, *, report: Reporter, patience: Patience) -> None:
    target = place / file.name
    if target.is_file():
        report.line(f"{file.name}: {_verdict(file, target, _record(place).get(file.name, {}))}")
        return
    try:
        download(file, target, report=report, patience=patience)
    except OSError as error:
        raise _unwritable(target, error) from None
    entry = _record(place)[file.name]
    told = "checksum as published"
    if file.checksum is None:
        told = f"no checksum is published; SHA-256 {entry['sha256']} is recorded in {RECORD}"
    report.line(f"{file.name}: {entry['bytes']:,} bytes, {told}")


def _verdict(file: RemoteFile, target: Path, entry: Mapping[str, Any]) -> str:
    """What can be said of a file that is there.

    Raises:
        DataError: it is not what was published, or not what was fetched.
    """
    if not file.matches(target):
        raise DataError(
            f"{target}: is not the published file; its checksum is "
            f"{checksum_of(target, str(file.checksum).partition(':')[0])}.",
            allowed=str(file.checksum),
            remedy="Remove it and run the command again.",
        )
    if file.checksum is not None:
        return "there already, checksum as published"
    size, known = target.stat().st_size, entry.get("bytes")
    if known is None:
        return "there already, not checked: no checksum is published"
    if size != known:
        raise DataError(
            f"{target}: has {size:,} bytes, {known:,} were fetched.",
            remedy="Remove it and run the command again.",
        )
    return "there already, of the size that was fetched"


def download(file: RemoteFile, target: Path, *, report: Reporter, patience: Patience) -> None:
    """Fetch one file and record it beside `target`; interrupted, it goes on where it stopped.

    Raises:
        MissingError: the server cannot be reached, or does not give the file.
        DataError: what came is not the published file, or there is no room for it.
    """
    part = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    failures, initial = 0, _size(part)
    while True:
        before = _size(part)
        try:
            _continue(file, part, report=report, patience=patience)
            break
        except _Broken as error:
            failures = 1 if _size(part) > before else failures + 1
            hopeless = isinstance(error, _Offline) and _size(part) == initial
            if hopeless or failures >= patience.tries:
                raise _unreachable(file, target, str(error)) from None
            if isinstance(error, _Stale):
                _discard(part)
            report.line(f"{file.name}: {error}; trying again")
            time.sleep(patience.pause * 2 ** (failures - 1))
    if not file.matches(part):
        found = checksum_of(part, str(file.checksum).partition(":")[0])
        _discard(part)
        raise DataError(
            f"{file.url}: what came is not the published file; its checksum is {found}.",
            allowed=str(file.checksum),
            remedy="Run the command again; if it fails again, the published file has changed.",
        )
    _enter(file, part, target.parent)
    part.replace(target)
    _discard(part)


def _enter(file: RemoteFile, part: Path, place: Path) -> None:
    """Record what was fetched, before it gets its name: a file without a record was not fetched."""
    entry = {
        "url": file.url,
        "bytes": _size(part),
        "sha256": checksum_of(part).partition(":")[2],
        "checked": file.checksum,
        "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with atomic_file(place / RECORD) as handle:
        handle.write(json.dumps({**_record(place), file.name: entry}, indent=1).encode())


def _continue(file: RemoteFile, part: Path, *, report: Reporter, patience: Patience) -> None:
    """Ask for what is missing and append it; from the start when the file is another one now."""
    start = _size(part)
    validator = _remembered(part)
    if start and not validator:
        _discard(part)  # nothing could tell whether the rest belongs to it
        start = 0
    headers = {"User-Agent": "tastemaker", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    with _asked(file, headers, patience=patience) as answer:
        if answer is None:  # the server has nothing beyond what is here
            return
        resumed = answer.status == 206
        _check_answer(file, answer, start=start, validator=validator)
        length = answer.headers.get("Content-Length")
        total = None if length is None else int(length) + (start if resumed else 0)
        _make_room(part, needed=(total or 0) - start)
        if not resumed:
            _discard(part)  # before the note, lest old bytes get the note of a new file
        _remember(part, answer)
        _copy(answer, part, start=start if resumed else 0, total=total, report=report)


@contextmanager
def _asked(
    file: RemoteFile, headers: Mapping[str, str], *, patience: Patience
) -> Iterator[_Answer | None]:
    """The answer of the server; None when the range that was asked for is empty."""
    request = urllib.request.Request(str(file.url), headers=dict(headers))
    try:
        with urllib.request.urlopen(request, timeout=patience.timeout) as answer:
            yield answer
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:
                whole = error.headers.get("Content-Range", "").rpartition("/")[2]
                first = headers.get("Range", "").removeprefix("bytes=").rstrip("-")
                if whole == first:
                    yield None
                    return
                raise _Stale("the file is shorter now") from None
            if error.code in _PASSING:
                raise _Broken(f"the server answered {error.code} {error.reason}") from None
            raise MissingError(
                f"{file.url}: the server answered {error.code} {error.reason}.",
                remedy=f"Get {file.name} in another way and put it into the folder by hand.",
            ) from None
    except urllib.error.URLError as error:
        offline = isinstance(error.reason, socket.gaierror)
        raise (_Offline if offline else _Broken)(_reason(error.reason)) from None
    except (HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        raise _Broken(_reason(error)) from None


def _copy(answer: _Answer, part: Path, *, start: int, total: int | None, report: Reporter) -> None:
    done = start
    label = f"{part.name.removesuffix('.part')}, kB"
    with (
        part.open("r+b" if start else "wb") as handle,
        report.track(label, (total or 0) // _UNIT) as advance,
    ):
        handle.seek(start)
        advance(start // _UNIT)
        while chunk := answer.read(_CHUNK):
            handle.write(chunk)
            advance((done + len(chunk)) // _UNIT - done // _UNIT)
            done += len(chunk)
        handle.flush()
        os.fsync(handle.fileno())
    if total is not None and done < total:
        raise _Broken(f"the connection broke after {done:,} of {total:,} bytes")


def _check_answer(file: RemoteFile, answer: _Answer, *, start: int, validator: str) -> None:
    if answer.headers.get("Content-Type", "").startswith("text/html"):
        raise MissingError(
            f"{file.url}: the server sent a web page instead of the file.",
            remedy="Open the address in a browser to see what it asks for.",
        )
    if answer.status != 206:
        return
    rest = answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
    if not rest or _validator_of(answer) != validator:
        raise _Stale("the file has changed since the first part was fetched")


def _make_room(part: Path, *, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise DataError(
            f"{part.parent}: {needed:,} more bytes are needed, {free:,} are free.",
            remedy="Make room, or name another folder.",
        )


def _remember(part: Path, answer: _Answer) -> None:
    """Keep what a later run needs to ask for the rest of the same file."""
    with atomic_file(_note(part)) as handle:
        handle.write(json.dumps({"validator": _validator_of(answer)}).encode())


def _validator_of(answer: _Answer) -> str:
    """Its ETag or date; empty when there is neither. A weak ETag cannot vouch for bytes."""
    tag = answer.headers.get("ETag", "")
    if tag and not tag.startswith("W/"):
        return tag
    return answer.headers.get("Last-Modified", "")


def _remembered(part: Path) -> str:
    try:
        return str(json.loads(_note(part).read_text(encoding="utf-8"))["validator"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _record(place: Path) -> dict[str, Any]:
    try:
        found = json.loads((place / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _reason(error: object) -> str:
    if isinstance(error, socket.gaierror):
        return "the server's name cannot be resolved"
    if isinstance(error, TimeoutError):
        return "the server does not answer"
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def _unreachable(file: RemoteFile, target: Path, reason: str) -> MissingError:
    return MissingError(
        f"{file.name}: cannot be fetched from {file.url} ({reason}).",
        remedy=f"Run the command again with a network: it goes on where it stopped. Or put a copy "
        f"of {file.name} into {target.parent}",
    )


def _unwritable(target: Path, error: OSError) -> DataError:
    why = "the disk is full" if error.errno in _FULL else str(error.strerror or error)
    return DataError(
        f"{target}: cannot be written ({why}).", remedy="Make room, or name another folder."
    )
