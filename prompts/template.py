"""Prompt templates: one Jinja file each, with its facts as YAML in a leading Jinja comment.

Names are file names: `tallrec/movie` is `library/tallrec/movie.j2`. A name that ends in `.j2` is a
file of the user's own and runs in a sandbox with a time and an output limit. After the head comes
the prompt; comments of their own open the other sections:

    {#--- system ---#}    what the model is told before the prompt
    {#--- answer ---#}    what it should answer; without one, a choice by the label

The fields a template declares must be exactly the variables its sections use, and nothing that the
prompt shows may give its answer away; both are checked when it is loaded. The macros of
`library/shared.j2` are at hand in every template.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Literal

import jinja2
import yaml
from jinja2 import meta, nodes
from pydantic import Field as Key
from pydantic import ValidationError, field_validator

from tastemaker.errors import UnknownNameError, UserError, nearest
from tastemaker.prompts.fields import field_named
from tastemaker.prompts.filters import TEXT_FILTERS, amount
from tastemaker.prompts.sandbox import BoundedEnvironment, render_bounded
from tastemaker.recipe_data import Config

__all__ = [
    "Section",
    "Template",
    "find_template",
    "find_templates",
    "shared_macros",
    "shared_trees",
    "template_names",
]

Per = Literal["interaction", "user", "item"]
_LIBRARY = Path(__file__).resolve().parent / "library"
_FRONT_MATTER = re.compile(r"\A\s*\{#-?\s*---[ \t]*\n(.*?)\n---\s*-?#\}[ \t]*\n?", re.DOTALL)
_MARK = re.compile(r"^\{#---[ \t]*(\w+)[ \t]*---#\}[ \t]*\n?", re.MULTILINE)
_SECTIONS = ("system", "prompt", "answer")
_OPTIONS: dict[str, Any] = {
    "undefined": jinja2.StrictUndefined,
    "autoescape": False,
    "trim_blocks": True,
    "lstrip_blocks": True,
}


class _FrontMatter(Config):
    """Keys of the leading comment; `Template` says what they mean."""

    family: str = Key(pattern=r"^[a-z][a-z0-9_]*$")
    id: str = ""
    task: str = Key(pattern=r"^[a-z][a-z_]*$")
    about: str
    per: Per = "interaction"
    fields: dict[str, str] = Key(default_factory=dict)
    optional: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    target: str = ""
    choices: tuple[str, ...] = ()
    seen: bool = True
    liked: bool = False
    reference: str = ""
    factors: tuple[str, ...] = ()

    @field_validator("fields", mode="before")
    @classmethod
    def _meanings(cls, value: Any) -> Any:
        """A list names fields of the catalogue or columns; a mapping also says what they mean."""
        if isinstance(value, list):
            return {name: field_named(name).meaning for name in map(str, value)}
        return value


@dataclass(frozen=True, eq=False)
class Section:
    """One compiled part of a template.

    Attributes:
        name: `system`, `prompt` or `answer`.
        fields: Variables it uses.
        tree: Its syntax, for columnar rendering.
    """

    name: str
    fields: frozenset[str]
    tree: nodes.Template = field(repr=False)
    _compiled: jinja2.Template = field(repr=False)
    _bounded: bool = False

    def render(self, values: Mapping[str, Any]) -> str:
        """The text, from values that must be plain already; they are never read as Jinja."""
        if self._bounded:
            return render_bounded(self._compiled, values)
        return self._compiled.render(values)


@dataclass(frozen=True, eq=False, kw_only=True)
class Template:
    """A compiled prompt template.

    Attributes:
        name: Library name such as `tallrec/movie`, or the path of a user's file.
        source: The file's text.
        family: Method it belongs to.
        id: Its number in the paper, such as `2-1`; may be empty.
        task: Kind of question in one word, such as `sequential`.
        about: What is asked, in one line.
        per: What one prompt is about: an interaction, a user or an item.
        meanings: Field → meaning.
        optional: Fields that are empty where the data has no such column.
        given: Outcomes that the prompt shows on purpose, such as the review to be summed up.
        target: The field that holds what is asked about; empty when the prompt does not name it.
        choices: Answers to choose from, the positive one first; empty for free text.
        seen: Whether tuning may use this wording; false keeps it for testing on new wordings.
        liked: Whether the prompt says that the target was wanted, so that it must be a like.
        reference: Paper or source of the task.
        factors: Handed to the template's `factors` field.
        sections: `prompt`, and `system` and `answer` where there are any.
    """

    name: str
    source: str
    family: str
    id: str
    task: str
    about: str
    per: Per
    meanings: Mapping[str, str]
    optional: frozenset[str]
    given: frozenset[str]
    target: str
    choices: tuple[str, ...]
    seen: bool
    liked: bool
    reference: str
    factors: tuple[str, ...]
    sections: Mapping[str, Section]

    def fields(self, *sections: str) -> frozenset[str]:
        """Names of the values that these sections need; without a name, all sections."""
        chosen = sections or tuple(self.sections)
        found = (self.sections[name].fields for name in chosen if name in self.sections)
        return frozenset().union(*found)

    @property
    def label(self) -> str:
        """The name for data sets and tables: of a user's file, without its folder."""
        return Path(self.name).name if self.name.endswith(".j2") else self.name

    @property
    def asked(self) -> frozenset[str]:
        """Fields of the question: system and prompt."""
        return self.fields("system", "prompt")

    @property
    def answers_by_label(self) -> bool:
        """Whether the answer is the first choice for a like and the second for anything else."""
        return "answer" not in self.sections and len(self.choices) == 2

    @property
    def has_answer(self) -> bool:
        """Whether there is anything to tune on."""
        return "answer" in self.sections or self.answers_by_label

    @property
    def offers(self) -> bool:
        """Whether it shows candidates, the target among them."""
        return bool(self.fields() & {"candidates", "candidates_index"})

    @property
    def of_a_chain(self) -> bool:
        """Whether only a reasoning chain has its values, so that `build` cannot use it."""
        return any(field_named(name).role == "chain" for name in self.fields())

    @property
    def names_item(self) -> bool:
        """Whether the answer is the target item, so that only liked items may be answers."""
        answer = self.fields("answer") if "answer" in self.sections else frozenset()
        return any(field_named(name).reveals == "item" for name in answer)

    def render(self, **values: Any) -> str:
        """The prompt's text, without its system part.

        Values must be plain text already (see `prompts.render.plain`); never read as Jinja.

        Raises:
            UserError: a field of the prompt is missing, an unknown one is given, or it failed.
        """
        wanted = {name: self.meanings[name] for name in self.meanings if name in self.asked}
        if values.keys() != wanted.keys():
            raise UserError(_wrong_fields(self.name, values, wanted))
        return self.render_section("prompt", values)

    def render_section(self, section: str, values: Mapping[str, Any]) -> str:
        """One section's text; empty when the template has no such section.

        Raises:
            UserError: the template failed.
        """
        if section not in self.sections:
            return ""
        try:
            return self.sections[section].render(values)
        except Exception as error:
            raise UserError(
                f"template '{self.name}' failed: {type(error).__name__}: {error}",
                remedy="Correct the template file.",
            ) from error


@cache
def template_names() -> tuple[str, ...]:
    """Names of the packaged templates, numbers within a name in their own order."""
    files = _LIBRARY.glob("*/*.j2")
    names = (file.relative_to(_LIBRARY).with_suffix("").as_posix() for file in files)
    return tuple(sorted(names, key=_in_order))


def find_template(name: str) -> Template:
    """The template called `name`, or the one in the user's own file when `name` ends in `.j2`.

    Raises:
        UnknownNameError: no packaged template has this name; the message offers the nearest.
        UserError: a file that cannot be read, or whose front matter or Jinja is wrong.
    """
    if name.endswith(".j2"):
        environment = BoundedEnvironment(**_OPTIONS)
        environment.filters["amount"] = amount  # bounded by itself
        environment.globals.update(shared_macros())
        return _load(Path(name), name=name, environment=environment)
    return _packaged(name)


def find_templates(patterns: Iterable[str]) -> list[Template]:
    """Templates by name, by file, or by a pattern such as `p5/2-*` or `openp5/*`.

    Raises:
        UnknownNameError: a name or pattern that matches nothing; the message offers the nearest.
    """
    found: dict[str, Template] = {}
    for pattern in patterns:
        names = [pattern]
        if not pattern.endswith(".j2") and any(sign in pattern for sign in "*?["):
            names = [name for name in template_names() if fnmatchcase(name, pattern)]
        if not names:
            raise UnknownNameError("template", pattern, template_names())
        found.update((name, find_template(name)) for name in names)
    return list(found.values())


@cache
def shared_macros() -> Mapping[str, Any]:
    """Macros of `library/shared.j2` by name, compiled once."""
    module = _environment().from_string(_shared_source()).module
    return {name: getattr(module, name) for name in shared_trees()}


@cache
def shared_trees() -> Mapping[str, nodes.Macro]:
    """Syntax of the same macros, for columnar rendering."""
    tree = jinja2.Environment(**_OPTIONS).parse(_shared_source())
    return {macro.name: macro for macro in tree.find_all(nodes.Macro)}


def _shared_source() -> str:
    return (_LIBRARY / "shared.j2").read_text(encoding="utf-8")


def _environment() -> jinja2.Environment:
    # Prompts are text for a language model, not HTML: escaping would corrupt titles.
    environment = jinja2.Environment(**_OPTIONS)
    environment.filters.update(TEXT_FILTERS)
    return environment


@cache
def _packaged(name: str) -> Template:
    if name not in template_names():
        raise UnknownNameError("template", name, template_names())
    environment = _environment()
    environment.globals.update(shared_macros())
    return _load(_LIBRARY / f"{name}.j2", name=name, environment=environment)


def _in_order(name: str) -> tuple[tuple[int, str], ...]:
    """Sorts 2-2 before 2-10."""
    return tuple(
        (int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)
    )


def _load(path: Path, *, name: str, environment: jinja2.Environment) -> Template:
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"template {path}: cannot be read ({error}).",
            allowed="a packaged template (see tastemaker templates list) or a file ending in .j2",
        ) from None
    about = _front_matter(source, name=name)
    sections = {
        part: _section(part, text, path=path, environment=environment)
        for part, text in _parted(source, name=name).items()
    }
    used = frozenset().union(*(section.fields for section in sections.values()))
    if used != set(about.fields):
        raise UserError(_wrong_declaration(name, used=used, declared=set(about.fields)))
    facts = about.model_dump(exclude={"fields", "optional", "given"})
    found = Template(
        name=name,
        source=source,
        meanings=about.fields,
        optional=frozenset(about.optional),
        given=frozenset(about.given),
        sections=sections,
        **facts,
    )
    _check_answer(found)
    return found


def _section(part: str, text: str, *, path: Path, environment: jinja2.Environment) -> Section:
    try:
        tree = environment.parse(text, filename=str(path))
        compiled = environment.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"template {path}, line {error.lineno}: {error.message}") from None
    used = meta.find_undeclared_variables(tree) - environment.globals.keys()
    bounded = isinstance(environment, BoundedEnvironment)
    return Section(part, frozenset(used), tree, compiled, bounded)


def _parted(source: str, *, name: str) -> dict[str, str]:
    """Section → its text, after a comment of as many lines as stand before it in the file."""
    head = _FRONT_MATTER.match(source)
    place, part, found = head.end() if head else 0, "prompt", {}
    marks = [*_MARK.finditer(source, place), None]
    for mark in marks:
        text = source[place : mark.start() if mark else len(source)]
        if text.strip() or part != "prompt":
            if part in found or part not in _SECTIONS:
                raise UserError(
                    f"template '{name}': section '{part}' is unknown or there twice.",
                    allowed=f"sections: {', '.join(_SECTIONS)}, each at most once",
                )
            before = source.count("\n", 0, place)
            found[part] = "{#" + "\n" * before + "#}" + text.rstrip("\n")
        if mark:
            place, part = mark.end(), mark[1]
    if "prompt" not in found:
        raise UserError(f"template '{name}' has no prompt.", allowed="text after its head")
    return found


def _front_matter(source: str, *, name: str) -> _FrontMatter:
    found = _FRONT_MATTER.match(source)
    if found is None:
        raise UserError(
            f"template '{name}' has no front matter.",
            allowed="a Jinja comment {#--- ... ---#} of YAML on top: family, task, about, fields …",
            remedy="Copy the head of a packaged template and adapt it.",
        )
    try:
        about = _FrontMatter.model_validate(yaml.safe_load(found[1]))
    except yaml.YAMLError as error:
        raise UserError(f"template '{name}': front matter is not valid YAML: {error}") from None
    except ValidationError as error:
        problems = [f"  {'.'.join(map(str, it['loc']))}: {it['msg']}" for it in error.errors()]
        raise UserError(
            f"template '{name}': wrong front matter\n" + "\n".join(problems),
            allowed=f"keys: {', '.join(_FrontMatter.model_fields)}",
        ) from None
    for key in ("target", "optional", "given"):
        value = getattr(about, key)
        for one in (value,) if isinstance(value, str) else value:
            if one and one not in about.fields:
                raise UserError(
                    f"template '{name}': its {key} '{one}' is none of its fields.",
                    allowed=f"fields: {', '.join(sorted(about.fields))}",
                )
    return about


def _check_answer(template: Template) -> None:
    """Refuse a prompt that shows an outcome, or anything its answer would give."""
    asked = {name: field_named(name) for name in sorted(template.asked - template.given)}
    shown = [name for name, found in asked.items() if found.role == "outcome" and found.reveals]
    answer = {field_named(name).reveals: name for name in template.fields("answer")}
    answer.pop("", None)
    same = [(name, answer[it.reveals]) for name, it in asked.items() if it.reveals in answer]
    if shown:
        raise UserError(
            f"template '{template.name}': its prompt shows {', '.join(shown)}, which is known only "
            "after the target.",
            remedy="Use it in the answer, or say `given: [...]` when the question is about it.",
        )
    if same:
        raise UserError(
            f"template '{template.name}': its prompt shows {same[0][0]} and its answer is "
            f"{same[0][1]}, which is the same thing.",
            remedy="Take one of them out, or say `given: [...]` when the question is about it.",
        )


def _wrong_fields(name: str, values: Mapping[str, Any], declared: Mapping[str, str]) -> str:
    problems = []
    missing = sorted(declared.keys() - values.keys())
    if missing:
        problems.append(f"missing: {', '.join(missing)}")
    for unknown in sorted(values.keys() - declared.keys()):
        close = nearest(unknown, declared)
        problems.append(f"unknown: {unknown}" + (f" (did you mean '{close}'?)" if close else ""))
    return f"template '{name}' needs {', '.join(sorted(declared))}; {'; '.join(problems)}"


def _wrong_declaration(name: str, *, used: Iterable[str], declared: Iterable[str]) -> str:
    used, declared = set(used), set(declared)
    problems = []
    if used - declared:
        problems.append(f"used but not declared: {', '.join(sorted(used - declared))}")
    if declared - used:
        problems.append(f"declared but not used: {', '.join(sorted(declared - used))}")
    return f"template '{name}': {'; '.join(problems)} (front matter, `fields`)"
