"""Write the pages that come from the code: commands, data sets, methods, templates.

With `--check` nothing is written; pages that differ are named and the exit code is 1.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from tastemaker.cli import COMMANDS, cli
from tastemaker.data.builtin.base import BuiltinDataset, builtin_names, find_builtin
from tastemaker.data.builtin.files import RemoteFile
from tastemaker.prompts.fields import FIELDS
from tastemaker.prompts.template import Template, find_template, template_names
from tastemaker.registry import load, names

DOCS = Path(__file__).resolve().parent
NOTE = "<!-- Written by docs/generate.py; run `make docs` after a change. -->\n"


def main() -> int:
    """Write or check all pages; returns the exit code."""
    pages = {
        "cli.md": cli_page(),
        "datasets.md": datasets_page(),
        "methods.md": methods_page(),
        "templates.md": templates_page(),
    }
    check = "--check" in sys.argv[1:]
    stale = []
    for name, text in pages.items():
        path = DOCS / name
        if check and (not path.is_file() or path.read_text(encoding="utf-8") != text):
            stale.append(name)
        elif not check:
            path.write_text(text, encoding="utf-8")
    if stale:
        click.echo(f"out of date: {', '.join(stale)}; run `make docs`", err=True)
    return 1 if stale else 0


def cli_page() -> str:
    """The help of every command."""
    context = click.Context(
        cli,
        info_name="tastemaker",
        terminal_width=88,
        max_content_width=88,
        help_option_names=["-h", "--help"],
    )
    parts = [f"{NOTE}\n# Command line\n", _block(cli.get_help(context))]
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        parts.extend(_help(command, parent=context, name=name, depth=2))
    return "\n".join(parts)


def datasets_page() -> str:
    """Every built-in data set with its terms, files, columns and what is left out of it."""
    parts = [
        f"{NOTE}\n# Built-in data sets\n",
        "Write `data: {source: NAME}` in a recipe. `tastemaker data fetch NAME` brings the files, "
        "or says where to put them.\n",
    ]
    families: dict[str, list[BuiltinDataset]] = {}
    for name in builtin_names():
        families.setdefault(name.partition(":")[0], []).append(find_builtin(name))
    for family, members in families.items():
        parts.append(f"## {family}\n")
        for text in (
            lambda one: one.url,
            lambda one: one.licence,
            lambda one: "; ".join(f"`{key}` {said}" for key, said in one.columns.items()) + ".",
            lambda one: f"Likes: `{one.schema.label}`.",
            lambda one: f"Left out: {one.left_out}." if one.left_out else "",
            lambda one: f"Comes with `{one.install}`." if one.install else "",
        ):
            said = dict.fromkeys(text(one) for one in members)
            parts.extend(f"{line}\n" for line in said if line)
        for one in members:
            parts.extend(_file_line(one.name, file) for file in one.files)
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def methods_page() -> str:
    """One row per published method."""
    rows = ["| name | method | venue | idea | stages |", "|---|---|---|---|---|"]
    for name in names("method"):
        method = load("method", name)
        stages = ", ".join(method.stages)
        rows.append(f"| `{name}` | {method.title} | {method.venue} | {method.idea} | {stages} |")
    return f"{NOTE}\n# Methods\n\n" + "\n".join(rows) + "\n"


def templates_page() -> str:
    """Fields, then every template of each family with its task and a link to its file."""
    parts = [
        f"{NOTE}\n# Prompt templates\n",
        "Each is one Jinja file with its facts on top; `tastemaker templates show NAME` prints it, "
        "`render` shows it on your rows. [Prompts and data sets](prompts.md) says how to write and "
        "combine them.\n",
        "## Fields\n",
        *_field_tables(),
    ]
    families: dict[str, list[Template]] = {}
    for name in template_names():
        families.setdefault(name.partition("/")[0], []).append(find_template(name))
    for family, members in families.items():
        papers = dict.fromkeys(_paper(one.reference) for one in members)
        parts.append(f"## {family}\n\n{'; '.join(papers)}.\n")
        rows = ["| template | task | asks | answer |", "|---|---|---|---|"]
        rows += [
            f"| [`{one.name}`](../prompts/library/{one.name}.j2){'' if one.seen else ' (unseen)'} "
            f"| {one.task} | {one.about} | {_answer(one)} |"
            for one in members
        ]
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


_ROLES = {
    "user": "The user",
    "item": "The target item",
    "past": "The past, strictly before the target",
    "choice": "Candidates",
    "outcome": "The outcome: for answers, or for prompts that say `given`",
    "constant": "The data as a whole",
    "chain": "Made by a reasoning chain, never by `build`",
}


def _field_tables() -> Iterator[str]:
    for role, title in _ROLES.items():
        yield f"{title}:\n"
        for field in FIELDS.values():
            if field.role == role:
                kind = {"text": "", "texts": " (list)", "tuples": " (list of tuples)"}[field.kind]
                yield f"* `{field.name}`{kind}: {field.meaning}"
        yield ""
    yield (
        "Any other name is a column of the items, the users or the interactions, as text; "
        "`build.columns` says which one where the names differ.\n"
    )


def _paper(reference: str) -> str:
    """Authors, venue and number, without what is said of the single template."""
    return re.split(r"[;,] (?:prompt|template|official|the|variant)", reference)[0].split(";")[0]


def _answer(template: Template) -> str:
    if template.answers_by_label:
        return " or ".join(f"`{choice}`" for choice in template.choices)
    if not template.has_answer:
        return "–"
    fields = sorted(template.fields("answer"))
    return ", ".join(f"`{name}`" for name in fields)


def _file_line(name: str, file: RemoteFile) -> str:
    place = f"<{file.url}>" if file.url else "to be asked for at the page above"
    proof = f", `{file.checksum}`" if file.checksum else ", no published checksum"
    needed = " (not needed)" if file.optional else ""
    return f"* `{name}`: `{file.name}`{needed}, {place}{proof}"


def _help(command: click.Command, *, parent: click.Context, name: str, depth: int) -> Iterator[str]:
    context = click.Context(
        command, info_name=name, parent=parent, terminal_width=88, max_content_width=88
    )
    yield f"{'#' * depth} {context.command_path}\n"
    yield _block(command.get_help(context))
    if isinstance(command, click.Group):
        for inner, found in command.commands.items():
            yield from _help(found, parent=context, name=inner, depth=depth + 1)


def _block(text: str) -> str:
    return f"```text\n{text}\n```\n"


if __name__ == "__main__":
    sys.exit(main())
