"""Prompt templates: one Jinja file each, with its facts as YAML in a leading Jinja comment.

Names are file names: `tallrec/movie` is `library/tallrec/movie.j2`. A name that ends in `.j2` is a
file of the user's own and runs in an immutable sandbox. The fields a template declares must be
exactly the variables its text uses, which is checked when it is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import ValidationError

from tastemaker.errors import UnknownNameError, UserError, nearest
from tastemaker.recipe_data import Config

__all__ = ["Template", "find_template", "template_names"]

_LIBRARY = Path(__file__).resolve().parent / "library"
_FRONT_MATTER = re.compile(r"\A\s*\{#-?\s*---[ \t]*\n(.*?)\n---\s*-?#\}[ \t]*\n?", re.DOTALL)
_OPTIONS: dict[str, Any] = {
    "undefined": jinja2.StrictUndefined,
    "autoescape": False,
    "trim_blocks": True,
    "lstrip_blocks": True,
}


class _FrontMatter(Config):
    """Keys of the leading comment; `Template` says what they mean."""

    family: str
    task: str
    fields: dict[str, str]
    target: str = ""
    choices: tuple[str, ...] = ()
    seen: bool = True
    reference: str = ""
    factors: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class Template:
    """A compiled prompt template.

    Attributes:
        name: Library name such as `tallrec/movie`, or the path of a user's file.
        source: The file's text.
        family: Method it belongs to.
        task: What is asked, in one line.
        meanings: Field → meaning.
        target: The field that holds what is asked about; empty when the prompt is about a user.
        choices: Answers to choose from, the positive one first; empty for free text.
        seen: Whether tuning may use this wording; false keeps it for testing on new wordings.
        reference: Paper or source of the task.
        factors: KAR's factor list, handed to the template's `factors` field.
    """

    name: str
    source: str
    family: str
    task: str
    meanings: Mapping[str, str]
    target: str
    choices: tuple[str, ...]
    seen: bool
    reference: str
    factors: tuple[str, ...]
    _compiled: jinja2.Template = field(repr=False)

    def fields(self) -> frozenset[str]:
        """Names of the values `render` needs."""
        return frozenset(self.meanings)

    def render(self, **values: Any) -> str:
        """The prompt's text.

        Values must be plain text already (see `prompts.render.plain`); never read as Jinja.

        Raises:
            UserError: a declared field is missing, an unknown one is given, or the template failed.
        """
        if values.keys() != self.meanings.keys():
            raise UserError(_wrong_fields(self.name, values, self.meanings))
        try:
            return self._compiled.render(values)
        except Exception as error:
            raise UserError(
                f"template '{self.name}' failed: {type(error).__name__}: {error}",
                remedy="Correct the template file.",
            ) from error


@cache
def template_names() -> tuple[str, ...]:
    """Sorted names of the packaged templates."""
    files = _LIBRARY.glob("*/*.j2")
    return tuple(sorted(file.relative_to(_LIBRARY).with_suffix("").as_posix() for file in files))


def find_template(name: str) -> Template:
    """The template called `name`, or the one in the user's own file when `name` ends in `.j2`.

    Raises:
        UnknownNameError: no packaged template has this name; the message offers the nearest.
        UserError: a file that cannot be read, or whose front matter or Jinja is wrong.
    """
    if name.endswith(".j2"):
        return _load(Path(name), name=name, environment=ImmutableSandboxedEnvironment(**_OPTIONS))
    return _packaged(name)


@cache
def _packaged(name: str) -> Template:
    if name not in template_names():
        raise UnknownNameError("template", name, template_names())
    # Prompts are text for a language model, not HTML: escaping would corrupt titles.
    environment = jinja2.Environment(**_OPTIONS)
    return _load(_LIBRARY / f"{name}.j2", name=name, environment=environment)


def _load(path: Path, *, name: str, environment: jinja2.Environment) -> Template:
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"template {path}: cannot be read ({error}).",
            allowed=f"packaged templates: {', '.join(template_names())}",
        ) from None
    about = _front_matter(source, name=name)
    try:
        used = meta.find_undeclared_variables(environment.parse(source, filename=str(path)))
        compiled = environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"template {path}, line {error.lineno}: {error.message}") from None
    if used != set(about.fields):
        raise UserError(_wrong_declaration(name, used=used, declared=set(about.fields)))
    facts = about.model_dump(exclude={"fields"})
    return Template(name=name, source=source, meanings=about.fields, _compiled=compiled, **facts)


def _front_matter(source: str, *, name: str) -> _FrontMatter:
    found = _FRONT_MATTER.match(source)
    if found is None:
        raise UserError(
            f"template '{name}' has no front matter.",
            allowed="a Jinja comment {#--- ... ---#} of YAML on top: family, task, fields, ...",
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
    if about.target and about.target not in about.fields:
        raise UserError(
            f"template '{name}': its target '{about.target}' is none of its fields.",
            allowed=f"fields: {', '.join(sorted(about.fields))}",
        )
    return about


def _wrong_fields(name: str, values: Mapping[str, Any], declared: Mapping[str, str]) -> str:
    problems = []
    missing = sorted(declared.keys() - values.keys())
    if missing:
        problems.append(f"missing: {', '.join(missing)}")
    for unknown in sorted(values.keys() - declared.keys()):
        close = nearest(unknown, declared)
        problems.append(f"unknown: {unknown}" + (f" (did you mean '{close}'?)" if close else ""))
    return f"template '{name}' needs {', '.join(sorted(declared))}; {'; '.join(problems)}"


def _wrong_declaration(name: str, *, used: set[str], declared: set[str]) -> str:
    problems = []
    if used - declared:
        problems.append(f"used but not declared: {', '.join(sorted(used - declared))}")
    if declared - used:
        problems.append(f"declared but not used: {', '.join(sorted(declared - used))}")
    return f"template '{name}': {'; '.join(problems)} (front matter, `fields`)"
