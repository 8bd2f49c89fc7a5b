"""The library as a table, and one template with all that is known of it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Literal

from tastemaker.errors import UnknownNameError, UserError
from tastemaker.prompts.columnar import is_columnar
from tastemaker.prompts.fields import field_named
from tastemaker.prompts.template import Template, find_templates

__all__ = ["answer_kind", "chosen", "facts", "list_lines", "show_lines", "summary"]

Answer = Literal["label", "choice", "text", "none"]
_COLUMNS = 80
_LONGEST = 32  # characters of a name or task in the list
_SIGNS: Mapping[str, str] = {
    "interaction": "R",
    "user": "U",
    "item": "I",
    "label": "L",
    "choice": "C",
    "text": "T",
    "none": "-",
}
_LEGEND = (
    "R, U, I: a prompt for each row, user or item; s: seen in tuning, u: kept unseen;",
    "L: answered by the label, C: with another choice, T: with text, -: not at all.",
)
_SAID: Mapping[Answer, str] = {
    "label": "the first choice for a like, else the second",
    "choice": "one of the choices",
    "text": "text",
    "none": "none; not for tuning",
}


def chosen(
    patterns: Sequence[str] = (), *, family: str | None = None, task: str | None = None
) -> list[Template]:
    """Templates by name, pattern or file (all where none is given) of one family and task.

    Raises:
        UnknownNameError: a family, task, name or pattern that none has; offers the nearest.
        UserError: some have the family and others the task, but none both.
    """
    found = find_templates(patterns or ["*"])
    for kind, wanted in (("family", family), ("task", task)):
        known = {getattr(template, kind) for template in found}
        if wanted is not None and wanted not in known:
            raise UnknownNameError(kind, wanted, known)
    of_family = [one for one in found if family in (None, one.family)]
    kept = [one for one in of_family if task in (None, one.task)]
    if not kept:
        tasks = sorted({template.task for template in of_family})
        raise UserError(
            f"no template of the family '{family}' has the task '{task}'.",
            allowed=f"its tasks: {', '.join(tasks)}",
        )
    return kept


def answer_kind(template: Template) -> Answer:
    """How its prompts are answered: by the label, by another choice, with text, or not at all."""
    if not template.has_answer:
        return "none"
    if template.answers_by_label:
        return "label"
    return "choice" if template.choices else "text"


def summary(template: Template) -> dict[str, Any]:
    """A line of the list, JSON-able."""
    return {
        "name": template.name,
        "family": template.family,
        "task": template.task,
        "per": template.per,
        "seen": template.seen,
        "answer": answer_kind(template),
        "about": template.about,
    }


def list_lines(templates: Sequence[Template]) -> Iterator[str]:
    """A line of at most 80 columns for each template, by family, and what the marks mean."""
    for _, group in groupby(templates, key=lambda one: one.family):
        yield from _family_lines(list(group))
        yield ""
    yield from _LEGEND
    yield f"{len(templates)} template" + ("" if len(templates) == 1 else "s")


def _family_lines(templates: Sequence[Template]) -> Iterator[str]:
    name = min(max(len(one.name) for one in templates), _LONGEST)
    task = min(max(len(one.task) for one in templates), _LONGEST)
    for one in templates:
        signs = f"{_SIGNS[one.per]} {'s' if one.seen else 'u'} {_SIGNS[answer_kind(one)]}"
        head = f"{_cut(one.name, name):<{name}} {_cut(one.task, _LONGEST):<{task}} {signs}  "
        yield head + _cut(one.about, max(_COLUMNS - len(head), 1))


def facts(template: Template) -> dict[str, Any]:
    """All that is known of a template, JSON-able."""
    return {
        **summary(template),
        "id": template.id,
        "target": template.target,
        "choices": list(template.choices),
        "liked": template.liked,
        "factors": list(template.factors),
        "columnar": is_columnar(template),
        "reference": template.reference,
        "fields": [_field(template, name) for name in template.meanings],
        "source": template.source,
    }


def show_lines(template: Template) -> Iterator[str]:
    """The template for a terminal: facts and fields in 80 columns, then the file as it is."""
    known = facts(template)
    yield from textwrap.wrap(template.name, _COLUMNS)
    yield from _wrapped("about", template.about)
    yield from _wrapped("family", template.family + (f", {template.id}" if template.id else ""))
    yield from _wrapped("task", template.task)
    yield from _wrapped("per", template.per)
    yield from _wrapped("answer", _SAID[answer_kind(template)])
    if template.choices:
        yield from _wrapped("choices", " | ".join(template.choices))
    yield from _wrapped("seen", "yes" if template.seen else "no, kept for testing")
    yield from _wrapped("renders", "by the column" if known["columnar"] else "row by row (slow)")
    if template.reference:
        yield from _wrapped("reference", template.reference)
    yield ""
    yield "Fields"
    width = max((len(one["name"]) for one in known["fields"]), default=0)
    for one in known["fields"]:
        marks = [mark for mark in ("target", "optional", "given") if one[mark]]
        meaning = one["meaning"] + (f" ({', '.join(marks)})" if marks else "")
        head = f"  {one['name']:<{width}}  {one['kind']:<6}  {one['role']:<8}  "
        yield from textwrap.wrap(
            head + meaning,
            _COLUMNS,
            subsequent_indent=" " * min(len(head), _COLUMNS // 2),
            break_on_hyphens=False,
        )
    yield ""
    yield "Source"
    yield template.source.rstrip("\n")


def _field(template: Template, name: str) -> dict[str, Any]:
    known = field_named(name)
    return {
        "name": name,
        "meaning": template.meanings[name],
        "kind": known.kind,
        "role": known.role,
        "target": name == template.target,
        "optional": name in template.optional,
        "given": name in template.given,
    }


def _wrapped(key: str, text: str) -> list[str]:
    return textwrap.wrap(
        f"  {key:<11}{text}", _COLUMNS, subsequent_indent=" " * 13, break_on_hyphens=False
    )


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1].rstrip()}…"
