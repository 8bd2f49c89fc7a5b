"""Knowledge files of published methods: KAR's `.klg` and REKI's `knowledge.json`.

KAR (Xi et al., RecSys 2024): one JSON object, raw user or item id → {prompt, ans}. REKI, by the
same authors: one chat completion a line, the n-th (from 0) about the n-th group.

Neither says which events a text about a user was written from, and KAR's released texts were
written from more events than its code's rule shows. So a moment is asked for, or the texts are
marked as usable for no target.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tastemaker.agents.answers import Acceptance
from tastemaker.agents.knowledge import (
    Failure,
    Knowledge,
    Message,
    request_key,
    without_credentials,
)
from tastemaker.errors import DataError, UserError

__all__ = ["NEVER", "CutTimes", "Foreign", "cut_of", "foreign_rows"]

NEVER = 2**63 - 1
"""A cut that no target is later than."""

CutTimes = Mapping[str, int] | Literal["unknown"] | None
"""User or group → Unix second of the last event shown; `unknown`: see `NEVER`; None: not given."""

_FROM_EVENTS = ("user", "user_group")
_KINDS = {"kar": ("user", "item"), "reki": ("user_group", "item_group")}
Complain = Callable[[str, str], None]


@dataclass(frozen=True)
class Foreign:
    """What such a file does not say.

    Attributes:
        kind: `user` or `item` (KAR), `user_group` or `item_group` (REKI).
        model: `provider:model`.
        params: Generation parameters.
        base_url: Server; None for the provider's own.
        chain: The name its texts are listed under.
        cut_times: See `CutTimes`; needed for texts about users.
        acceptance: Which answers are usable; the others become failures.
        created: UTC time in ISO form.
    """

    kind: str
    model: str
    params: Mapping[str, Any]
    base_url: str | None
    chain: str
    cut_times: CutTimes
    acceptance: Acceptance
    created: str


def cut_of(kind: str, entity: str, given: int | None, cut_times: CutTimes) -> int | str | None:
    """The moment after which a text may be used, or what is wrong.

    Args:
        kind: What the text is about.
        entity: External id.
        given: What the file says.
        cut_times: What the caller says.
    """
    if given is not None or kind not in _FROM_EVENTS:
        return given
    if cut_times == "unknown":
        return NEVER
    if cut_times is None:
        return "no cut_time: nobody can tell which targets a text about a user gives away"
    if entity not in cut_times:
        return f"no cut time is given for {kind} '{entity}'"
    return cut_times[entity]


def foreign_rows(
    path: Path, about: Foreign, *, complain: Complain
) -> Iterator[tuple[str, Knowledge | Failure]]:
    """Where each row stands, and what it says.

    Args:
        path: `.klg` or `.json`.
        about: What the file does not say.
        complain: Told the place of a row and what is wrong with it.

    Raises:
        UserError: `about` is not whole, or does not suit the file.
        DataError: the file is neither KAR's nor REKI's.
    """
    entries = _entries(path)
    layout = "reki" if isinstance(entries, list) else "kar"
    _check(about, layout, path)
    if isinstance(entries, list):
        rows = ((f"line {number}", str(place), row) for place, (number, row) in enumerate(entries))
        read = _reki
    else:
        rows = ((f"entry '{entity}'", entity, row) for entity, row in entries.items())
        read = _kar
    for place, entity, row in rows:
        found = read(row)
        cut = cut_of(about.kind, entity, None, about.cut_times)
        for wrong in (found, cut):
            if isinstance(wrong, str):
                complain(place, wrong)
        if not isinstance(found, str) and not isinstance(cut, str):
            yield place, _outcome(found, entity, cut, about)


@dataclass(frozen=True)
class _Said:
    messages: tuple[Message, ...]
    answer: str
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0


def _outcome(said: _Said, entity: str, cut: int | None, about: Foreign) -> Knowledge | Failure:
    server = without_credentials(about.base_url) if about.base_url else ""
    shared: dict[str, Any] = {
        "key": request_key(about.model, about.base_url, about.params, said.messages),
        "kind": about.kind,
        "entity": entity,
        "model": about.model,
        "params": {**about.params, **({"base_url": server} if server else {})},
        "messages": said.messages,
        "chain": about.chain,
        "cut_time": cut,
        "prompt_tokens": said.prompt_tokens,
        "completion_tokens": said.completion_tokens,
        "created": about.created,
    }
    verdict = about.acceptance.judge(said.answer, said.finish_reason)
    if verdict.reason:
        return Failure(**shared, reason=verdict.reason, detail=verdict.detail)
    return Knowledge(**shared, text=verdict.text, finish_reason=said.finish_reason)


def _check(about: Foreign, layout: str, path: Path) -> None:
    kinds = _KINDS[layout]
    if about.kind not in kinds:
        raise UserError(
            f"{path.name}: kind '{about.kind}'." if about.kind else f"{path.name}: of which kind?",
            allowed=f"Such a file is about one of {', '.join(kinds)}.",
            remedy=f"Say it: --kind {kinds[0]}",
        )
    provider, _, name = about.model.partition(":")
    if not provider or not name:
        raise UserError(
            f"{path.name}: which model wrote it? '{about.model}' does not say.",
            allowed="provider:model, equal to reason.model of the recipe that is to find the texts",
            remedy="Say it: --model openai:gpt-3.5-turbo, or name the recipe: --recipe FILE",
        )
    if about.kind in _FROM_EVENTS and about.cut_times is None:
        raise UserError(
            f"{path.name}: texts about users need the moment of the last event each was shown; "
            "without it they could serve targets that stand in them.",
            remedy="Give the moments by user: --cut-times FILE. If nobody knows them, mark the "
            "texts as usable for no target: --cut-unknown",
        )


def _entries(path: Path) -> dict[str, Any] | list[tuple[int, Any]]:
    """KAR's object, or REKI's lines with their numbers."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no UTF-8 text ({error}).") from None
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1)]
    lines = [(number, line) for number, line in lines if line.strip()]
    try:
        first = json.loads(lines[0][1]) if lines else None
    except ValueError:
        first = None  # an object over several lines
    if isinstance(first, dict) and "choices" in first:
        return [(number, _line(line)) for number, line in lines]
    try:
        found = json.loads(text, object_pairs_hook=_without_repeats)
    except ValueError as error:
        raise DataError(
            f"{path}: {error}.",
            allowed="one JSON object of id → {prompt, ans} (KAR), or one chat completion a line "
            "(REKI)",
        ) from None
    if not isinstance(found, dict) or not found:
        raise DataError(
            f"{path}: holds no texts.", allowed="one JSON object of id → {prompt, ans} (KAR)"
        )
    return found


def _line(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"'{repeated}' stands there twice")
    return found


def _kar(row: Any) -> _Said | str:
    if not isinstance(row, dict):
        return "is no object {prompt, ans}"
    prompt, answer = row.get("prompt"), row.get("ans")
    if not isinstance(prompt, str) or not prompt.strip():
        return "has no text under 'prompt'"
    if not isinstance(answer, str):
        return "has no text under 'ans'"
    return _Said(({"role": "user", "content": prompt},), answer)


def _reki(row: Any) -> _Said | str:
    if not isinstance(row, dict):
        return "is no JSON object"
    messages = _messages(row)
    if not messages:
        return "has no text under 'prompt_txt' or 'prompt'"
    try:
        choice = row["choices"][0]
        answer = choice["message"]["content"]
    except (LookupError, TypeError):
        answer = None
    if not isinstance(answer, str):
        return "has no text under choices[0].message.content"
    found = row.get("usage")
    usage: Mapping[str, Any] = found if isinstance(found, dict) else {}
    return _Said(
        messages,
        answer,
        finish_reason=str(choice.get("finish_reason") or ""),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
    )


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0


def _messages(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """A list of messages as it was sent, or a plain prompt as one message."""
    prompt = row.get("prompt")
    if isinstance(prompt, list):
        found = [one for one in prompt if isinstance(one, dict)]
        pairs = [(one.get("role"), one.get("content")) for one in found]
        if pairs and all(isinstance(role, str) and isinstance(said, str) for role, said in pairs):
            return tuple({"role": str(role), "content": str(said)} for role, said in pairs)
    for text in (row.get("prompt_txt"), prompt):
        if isinstance(text, str) and text.strip():
            return ({"role": "user", "content": text},)
    return ()
