"""What is wrong with templates, as findings of named rules.

The rules here look at the template alone, or at which columns the data has; those on prompts
rendered from real rows are in `lint_rows.py`. A finding says what is wrong and what to do; only an
error makes a template unfit for use.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from jinja2 import nodes

from tastemaker.errors import UnknownNameError, UserError
from tastemaker.prompts.columnar import is_columnar
from tastemaker.prompts.fields import field_named
from tastemaker.prompts.template import Template, find_template

__all__ = [
    "RULES",
    "LintFinding",
    "LintReport",
    "Measured",
    "finding",
    "is_of_the_user",
    "line_of_field",
    "line_of_key",
    "lint_choices",
    "lint_columns",
    "lint_prefix",
    "lint_slow",
    "loaded",
]

RULES: Mapping[str, str] = {
    "load": "the file is no template",
    "columns": "the data cannot fill a field",
    "render": "it fails on the data, or fits none of its rows",
    "leak": "the answer stands in the question",
    "prefix": "the target stands before the history, so prompts of one user share little",
    "length": "prompts are longer than the model reads",
    "balance": "one answer is rare",
    "choices": "answers begin alike",
    "slow": "renders row by row",
}
Severity = Literal["error", "warning"]
Clash = Callable[[str, str], str]

_MARKS = 0xE000  # private use: no text of a template, and no filter changes them
_COLUMNS = 80
_INDENT = 18
_BODY = re.compile(r"(?:used but not declared: |its prompt shows )(\w+)")
_HEAD = re.compile(r"(?:declared but not used: |^  |its \w+ '|section ')(\w+)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class LintFinding:
    """What a rule found in a template.

    Attributes:
        rule: Key of `RULES`.
        severity: An `error` makes the template unfit; a `warning` should be known.
        template: Its name or file.
        what: What is wrong, with numbers.
        remedy: What to do.
        line: Of the file, from 1; None where it is about the whole.
    """

    rule: str
    severity: Severity
    template: str
    what: str
    remedy: str
    line: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """For a terminal of 80 columns."""
        where = f"line {self.line}: " if self.line else ""
        yield from _indented(f"  {self.severity:<8}{self.rule:<8}{where}{self.what}")
        yield from _indented(f"{'':<{_INDENT}}{self.remedy}")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Sizes of the prompts rendered from a sample of rows, answers included.

    Attributes:
        prompts: How many.
        unit: Of the lengths, such as `tokens of smollm2`.
        middle: Length that half of them do not exceed.
        high: Length that 95 % do not exceed.
        longest: Longest one.
        shared: Share, from 0 to 1, of text that two prompts of one user begin with; None where
            that means nothing.
    """

    prompts: int
    unit: str
    middle: int
    high: int
    longest: int
    shared: float | None

    def __str__(self) -> str:
        text = (
            f"{self.prompts:,} prompts, {self.unit}: {self.middle:,} in the middle, "
            f"{self.high:,} at 95 %, {self.longest:,} the longest"
        )
        return text + ("" if self.shared is None else f"; two of one user share {self.shared:.0%}")


@dataclass(frozen=True, kw_only=True)
class LintReport:
    """What was found in some templates.

    Attributes:
        templates: Names of all that were looked at, in order.
        findings: What is wrong with them.
        measured: Template → sizes of its prompts, where there was data.
        left_out: Template → fields the data cannot fill, where nobody asked for the template.
        shows_all: Whether templates without findings are shown, too.
    """

    templates: Sequence[str]
    findings: Sequence[LintFinding]
    measured: Mapping[str, Measured] = field(default_factory=dict)
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)
    shows_all: bool = False

    @property
    def failed(self) -> bool:
        """Whether any finding is an error."""
        return any(one.severity == "error" for one in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return {
            "ok": not self.failed,
            "templates": list(self.templates),
            "findings": [one.to_dict() for one in self.findings],
            "measured": {name: asdict(one) for name, one in self.measured.items()},
            "left_out": {name: list(fields) for name, fields in self.left_out.items()},
        }

    def lines(self) -> Iterator[str]:
        """For a terminal of 80 columns: a block for each template, and the counts."""
        for name in self.templates:
            mine = [one for one in self.findings if one.template == name]
            if mine or (self.shows_all and name in self.measured):
                yield from textwrap.wrap(name, _COLUMNS)
                for one in mine:
                    yield from one.lines()
                if name in self.measured:
                    yield from _indented(f"  {'measured':<{_INDENT - 2}}{self.measured[name]}")
                yield ""
        if self.left_out:
            lacking = sorted({field for fields in self.left_out.values() for field in fields})
            yield from textwrap.wrap(
                f"{_counted(len(self.left_out), 'template')} left out, since the data has no "
                f"column for {', '.join(lacking)} (see build.columns).",
                _COLUMNS,
            )
        counts = Counter(one.severity for one in self.findings)
        yield (
            f"{_counted(len(self.templates), 'template')}: {_counted(counts['error'], 'error')}, "
            f"{_counted(counts['warning'], 'warning')}"
        )


def loaded(names: Iterable[str]) -> tuple[list[Template], list[LintFinding]]:
    """The templates of these names and files, and why others could not be loaded.

    Raises:
        UnknownNameError: a name that no packaged template has.
    """
    found: list[Template] = []
    refused: list[LintFinding] = []
    for name in names:
        try:
            found.append(find_template(name))
        except UnknownNameError:
            raise
        except UserError as error:
            refused.append(_refusal(name, error))
    return found, refused


def lint_slow(template: Template) -> list[LintFinding]:
    """Rule `slow`: not all sections render by the column."""
    if is_columnar(template):
        return []
    return [
        finding(
            "slow",
            template,
            "renders row by row, some hundred times slower than by the column.",
            remedy="Keep to loops over lists, conditions, macros and the filters join, length, "
            "first, last, default, replace, upper, lower, capitalize, trim, amount and json.",
        )
    ]


def lint_choices(template: Template, *, clash: Clash | None = None) -> list[LintFinding]:
    """Rule `choices`: answers that cannot be told apart by how they begin.

    Args:
        template: Any.
        clash: Two answers → why a model cannot tell them apart, or nothing; begins of texts are
            compared when None.
    """
    line = line_of_key(template, "choices")
    found = []
    for one, other in combinations(template.choices, 2):
        short, long = sorted((one, other), key=len)
        why = clash(one, other) if clash else ""
        if short == long:
            what = f"the answer '{one}' is there twice."
        elif why:
            what = why
        elif long.startswith(short):
            what = f"the answer '{long}' begins with the answer '{short}'."
        else:
            continue
        severity: Severity = "error" if why or short == long else "warning"
        remedy = "Choose answers that begin differently."
        found.append(
            finding("choices", template, what, severity=severity, remedy=remedy, line=line)
        )
    return found


def lint_prefix(
    template: Template, *, of_items: Iterable[str] = (), share: float | None = None
) -> list[LintFinding]:
    """Rule `prefix`: what is asked about stands before the last list of the user's events.

    A model reads what two prompts begin with only once, so a user's prompts about many items are
    cheap when the item comes last. Fields are followed through macros by rendering with marks.

    Args:
        template: Any; only those per interaction are looked at.
        of_items: Further fields known to be about the target, such as columns of the items.
        share: Of the text that two prompts of one user have in common, where it was measured.
    """
    marked = _marked(template) if template.per == "interaction" else {}
    about = {name for name in marked if field_named(name).reveals == "item"}
    about |= {"attributes", *of_items}
    own = [(first, name) for name, (first, _) in marked.items() if name in about]
    past = [(last, name) for name, (_, last) in marked.items() if is_of_the_user(name)]
    if not own or not past or min(own) > max(past):
        return []
    name, list_name = min(own)[1], max(past)[1]
    what = f"{name} stands before {list_name}, so prompts of one user differ from there on"
    what += "." if share is None else f"; two of them share {share:.0%} of their text."
    return [
        finding(
            "prefix",
            template,
            what,
            remedy=f"Write {name} after {list_name}.",
            line=line_of_field(template, name),
        )
    ]


def lint_columns(template: Template, lacking: Mapping[str, str]) -> list[LintFinding]:
    """Rule `columns`: fields that the data cannot fill, with the reasons of `Binder.lacks`."""
    return [
        finding(
            "columns",
            template,
            f"field '{name}': {reason}.",
            severity="error",
            remedy=f"Say which column it is (build.columns: {{{name}: COLUMN}}), or declare it as "
            "optional.",
            line=line_of_field(template, name),
        )
        for name, reason in lacking.items()
    ]


def finding(
    rule: str,
    template: Template,
    what: str,
    *,
    remedy: str,
    severity: Severity = "warning",
    line: int | None = None,
) -> LintFinding:
    """A finding about a template; see `LintFinding`."""
    return LintFinding(
        rule=rule, severity=severity, template=template.name, what=what, remedy=remedy, line=line
    )


def _refusal(name: str, error: UserError) -> LintFinding:
    what = error.what
    line = re.search(r"\bline (\d+)", what)
    number = int(line[1]) if line else None
    if "front matter is not valid YAML" in what and number:
        number += 1  # its first line is the opening of the comment
    paths = "|".join(re.escape(path) for path in (name, str(Path(name))))
    what = re.sub(rf"^template '?(?:{paths})'?(?:, line \d+)?: ", "", what)
    what = re.sub(rf"^template '(?:{paths})' has ", "it has ", what)
    allowed = f"Allowed: {error.allowed}" if error.allowed else ""
    return LintFinding(
        rule="load",
        severity="error",
        template=name,
        what=" ".join(what.split()),
        remedy=" ".join(f"{error.remedy or 'Correct the file.'} {allowed}".split()),
        line=number or _line_of_refusal(name, error.what),
    )


def _line_of_refusal(name: str, what: str) -> int | None:
    """Line of the field or key that the message is about."""
    try:
        source = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    for pattern, start in ((_BODY, max(source.find("#}"), 0)), (_HEAD, 0)):
        found = pattern.search(what)
        place = re.compile(rf"\b{found[1]}\b").search(source, start) if found else None
        if place:
            return source.count("\n", 0, place.start()) + 1
    return None


def line_of_key(template: Template, key: str) -> int | None:
    """Where the front matter gives a key; None when it does not."""
    found = re.search(rf"^{key}:", template.source, re.MULTILINE)
    return template.source.count("\n", 0, found.start()) + 1 if found else None


def line_of_field(template: Template, name: str) -> int | None:
    """Where a field is first used."""
    lines = [
        node.lineno
        for section in template.sections.values()
        for node in section.tree.find_all(nodes.Name)
        if node.name == name
    ]
    return min(lines, default=None)


def is_of_the_user(name: str) -> bool:
    """Whether the field shows events of the user's past, or what there is to choose from."""
    return field_named(name).role in ("past", "choice") and name != "feedback"


def _marked(template: Template) -> dict[str, tuple[int, int]]:
    """Where each field first and last stands in the question, of those it shows."""
    marks = {name: chr(_MARKS + place) for place, name in enumerate(sorted(template.fields()))}
    values = {name: _as_kind(name, mark) for name, mark in marks.items()}
    try:
        parts = [template.render_section(part, values) for part in ("system", "prompt")]
    except UserError:
        return {}  # it calculates with its values
    text = "\n".join(parts)
    return {
        name: (text.find(mark), text.rfind(mark)) for name, mark in marks.items() if mark in text
    }


def _as_kind(name: str, mark: str) -> Any:
    found = field_named(name)
    if found.kind == "text":
        return mark
    return [mark] if found.kind == "texts" else [(mark,) * len(found.parts)]


def _indented(text: str) -> list[str]:
    return textwrap.wrap(text, _COLUMNS, subsequent_indent=" " * _INDENT, break_on_hyphens=False)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
