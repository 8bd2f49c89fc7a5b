"""The lines of a batch's input file: what they hold and what may be wrong with them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["MOST_LINES", "Line", "read_lines", "usage_of"]

MOST_LINES = 50_000


@dataclass(frozen=True)
class Line:
    """One request of a batch."""

    custom_id: str
    body: dict[str, Any]


class _Mistake(Exception):
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        self.code, self.message, self.param = code, message, param
        super().__init__(message)


def read_lines(
    content: bytes, *, url: str, models: Sequence[str] = ()
) -> tuple[list[Line], list[dict[str, Any]]]:
    """Read an input file.

    Args:
        content: The file.
        url: What every line must name.
        models: The models that exist; empty for any.

    Returns:
        The lines, and what is wrong as the API shows it in a batch's `errors`.
    """
    rows = content.splitlines()
    if not rows:
        return [], [_shown(_Mistake("empty_file", "The input file is empty."), line=None)]
    if len(rows) > MOST_LINES:
        mistake = _Mistake("too_many_tasks", f"More than {MOST_LINES} requests in the input file.")
        return [], [_shown(mistake, line=None)]
    lines: list[Line] = []
    errors: list[dict[str, Any]] = []
    seen: set[str] = set()
    model: Any = None
    for number, row in enumerate(rows, start=1):
        try:
            line = _line(row, url=url)
            _check_model(line.body.get("model"), first=model, models=models)
            if line.custom_id in seen:
                message = f"The custom_id '{line.custom_id}' stands in an earlier line too."
                raise _Mistake("duplicate_custom_id", message, "custom_id")
        except _Mistake as mistake:
            errors.append(_shown(mistake, line=number))
            continue
        model = model or line.body.get("model")
        seen.add(line.custom_id)
        lines.append(line)
    return lines, errors


def usage_of(completions: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The tokens of many chat completions, in the form of a batch's `usage`."""
    asked = given = 0
    for completion in completions:
        usage = completion.get("usage") or {}
        asked += usage.get("prompt_tokens", 0)
        given += usage.get("completion_tokens", 0)
    return {
        "input_tokens": asked,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": given,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": asked + given,
    }


def _line(row: bytes, *, url: str) -> Line:
    try:
        value = json.loads(row)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise _Mistake("invalid_json_line", "This line is not parseable as valid JSON.")
    for name, kind in (("custom_id", str), ("method", str), ("url", str), ("body", dict)):
        if not isinstance(value.get(name), kind):
            raise _Mistake("missing_required_parameter", f"'{name}' is missing or wrong.", name)
    if value["method"] != "POST":
        raise _Mistake("invalid_method", "The only method is POST.", "method")
    if value["url"] != url:
        message = f"The URL '{value['url']}' is not the batch's endpoint '{url}'."
        raise _Mistake("url_mismatch", message, "url")
    return Line(value["custom_id"], value["body"])


def _check_model(name: Any, *, first: Any, models: Sequence[str]) -> None:
    if not name:
        raise _Mistake("missing_required_parameter", "'body.model' is missing.", "body.model")
    if first is not None and name != first:
        message = f"All requests of a file must ask for one model; this one is not '{first}'."
        raise _Mistake("model_mismatch", message, "body.model")
    if models and name not in models:
        raise _Mistake("model_not_found", f"The model '{name}' does not exist.", "body.model")


def _shown(mistake: _Mistake, *, line: int | None) -> dict[str, Any]:
    return {
        "code": mistake.code,
        "line": line,
        "message": mistake.message,
        "param": mistake.param,
    }
