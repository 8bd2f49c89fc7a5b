"""What `templates render` and `templates lint` do: prompts of a recipe's real rows, and rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.data.splits import Split
from tastemaker.errors import UserError
from tastemaker.methods.planning import (
    check_askable,
    count_characters,
    count_tokens,
    length_limit,
    planned_binder,
    training_targets,
)
from tastemaker.methods.prepare import prepared
from tastemaker.prompts.binding import Binder
from tastemaker.prompts.examples import Examples
from tastemaker.prompts.fields import field_named
from tastemaker.prompts.lint import (
    LintFinding,
    LintReport,
    Measured,
    finding,
    lint_choices,
    lint_columns,
    lint_prefix,
    lint_slow,
    loaded,
)
from tastemaker.prompts.lint_rows import Sample, lint_balance, lint_leak, lint_length, shared_text
from tastemaker.prompts.mixture import Mixture
from tastemaker.prompts.source import InstructionSource, Limit
from tastemaker.prompts.template import Template, find_template, find_templates, template_names
from tastemaker.recipe import BuildConfig, Recipe

__all__ = ["Chat", "Ground", "chat", "expanded", "linted", "render_lines", "rendered"]

_SAMPLE = 400  # prompts that a rule looks at
_TRIED = 200_000  # rows among which those that fit are sought
_NONE_FITS = "Look at build.min_history and build.max_length, and at what the template needs."
_COLUMNS = 80
_SECTIONS = {"system": "system", "prompt": "prompt", "completion": "answer"}


@dataclass(frozen=True, eq=False)
class Chat:
    """A language model's tokenizer with its chat template.

    Attributes:
        name: Of the model.
        context: Most tokens it reads.
        tokenizer: Hugging Face tokenizer.
    """

    name: str
    context: int
    tokenizer: Any

    def text(self, row: dict[str, Any]) -> str:
        """The conversation of an instruction as the model gets it.

        Without an answer it ends where the model would begin to write.
        """
        roles = {"system": "system", "prompt": "user", "completion": "assistant"}
        messages = [
            {"role": role, "content": row[key]}
            for key, role in roles.items()
            if row[key] or key == "prompt"
        ]
        text: str = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=not row["completion"]
        )
        return text

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text; the template has written all special tokens already."""
        return count_tokens(self.tokenizer, texts)

    def clash(self, one: str, other: str) -> str:
        """Why this model cannot tell two answers apart; empty when it can."""
        from tastemaker.models.conversations import answer_tokens

        try:
            answer_tokens(self.tokenizer, (one, other))
        except UserError as error:
            return error.what
        return ""


def chat(name: str) -> Chat:
    """The chat template and tokenizer of a language model on this machine.

    Raises:
        MissingError: the model is not on this machine; the message names the command for it.
        UserError: it has no chat template.
    """
    from transformers import AutoConfig, AutoTokenizer

    from tastemaker.models.language import language_model_folder, quiet_loading

    folder = language_model_folder(name)
    with quiet_loading():
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if not tokenizer.chat_template:
        raise UserError(
            f"the tokenizer of '{name}' has no chat template.",
            remedy="Name an instruction-tuned model.",
        )
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    context = min(int(tokenizer.model_max_length), positions or int(tokenizer.model_max_length))
    return Chat(name, context, tokenizer)


@dataclass(frozen=True, eq=False)
class Ground:
    """The data of a recipe, on which templates are tried.

    Attributes:
        recipe: With its section `build`.
        split: Tables and parts.
        binder: Gives fields their values.
        limit: How long an instruction may be; None for no limit.
    """

    recipe: Recipe
    split: Split
    binder: Binder
    limit: Limit | None

    @classmethod
    def of(cls, recipe: Recipe, templates: Sequence[Template]) -> Ground:
        """Read, filter and split the tables of a recipe, and bind the fields of templates.

        Raises:
            UserError: see `prepare.prepared` and `planning.planned_binder`.
        """
        split, _ = prepared(recipe.data, seed=recipe.seed)
        binder, _ = planned_binder(split, recipe.build, templates, seed=recipe.seed)
        return cls(recipe, split, binder, length_limit(recipe.build))

    def examples(self, template: Template, count: int) -> Examples:
        """At most `count` training examples that fit a template, evenly spaced.

        Raises:
            UserError: a field is a column of what the template is not about.
        """
        examples = training_targets(self.split, self.recipe.build, template.per)
        examples = examples.take(_evenly(len(examples), _TRIED))
        fitting = np.flatnonzero(self.binder.fits(examples, template))
        return examples.take(fitting[_evenly(len(fitting), count)])

    def instructions(self, template: Template, examples: Examples) -> pl.DataFrame:
        """These examples as the build stage renders them (see `InstructionSource.frame`)."""
        mixture = Mixture.of([template])
        return InstructionSource(self.binder, examples, mixture, "train", limit=self.limit).frame()


def rendered(
    name: str, recipe: Recipe, *, count: int, model: str | None = None
) -> list[dict[str, Any]]:
    """Prompts of real rows as the build stage makes them.

    Args:
        name: Of a template, or a `.j2` file.
        recipe: Whose training part.
        count: At most so many, evenly spaced over all that fit.
        model: Its chat template is applied, too.

    Returns:
        For each `template`, `user_id`, `item_id`, `label`, `timestamp`, `row`, `system`, `prompt`,
        `answer` and `characters`; with a model also `model`, `text` and `tokens`.

    Raises:
        UserError: the data lacks a column, or no row fits; names the field and the columns.
    """
    template = find_template(name)
    check_askable([template])
    talk = chat(model) if model else None
    ground = Ground.of(recipe, [template])
    lacking = ground.binder.lacks(template)
    if lacking:
        listed = "\n".join(f"  field '{field}': {reason}" for field, reason in lacking.items())
        raise UserError(
            f"the data lacks what template '{name}' needs:\n{listed}",
            remedy=f"Say which column it is, such as --set build.columns.{min(lacking)}=COLUMN",
        )
    frame = ground.instructions(template, ground.examples(template, count))
    if not frame.height:
        raise UserError(
            f"no training row of {recipe.name} fits template '{name}'.",
            remedy=_NONE_FITS,
        )
    return [_shown(row, talk) for row in frame.iter_rows(named=True)]


def _shown(row: dict[str, Any], talk: Chat | None) -> dict[str, Any]:
    names = ("template", "user_id", "item_id", "label", "timestamp", "row")
    found = {name: row[name] for name in names} | {to: row[key] for key, to in _SECTIONS.items()}
    found["characters"] = sum(len(row[key]) for key in _SECTIONS)
    if talk is not None:
        text = talk.text(row)
        found |= {"model": talk.name, "text": text, "tokens": talk.count([text])[0]}
    return found


def render_lines(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Rendered prompts for a terminal; the prompts themselves are shown as they are."""
    for number, one in enumerate(found, 1):
        keys = {"user_id": "user", "item_id": "item", "label": "label", "row": "row"}
        about = [f"{shown} {one[key]}" for key, shown in keys.items() if one[key] is not None]
        yield _ruled("━", f"{number} of {len(found)}: {', '.join(about)}")
        for name in ("text",) if "text" in one else ("system", "prompt", "answer"):
            if one[name] or name == "text":
                yield _ruled("─", f"{name} for {one['model']}" if name == "text" else name)
                yield one[name].rstrip("\n")
        yield _ruled("─", "")
        tokens = f", {one['tokens']:,} tokens of {one['model']}" if "text" in one else ""
        yield f"{one['characters']:,} characters{tokens}"
        yield ""


def linted(
    names: Sequence[str], *, recipe: Recipe | None = None, model: str | None = None
) -> LintReport:
    """What is wrong with templates.

    Args:
        names: Names, patterns, `.j2` files and folders of them; the whole library when empty, of
            which templates are left out that need columns the data has not.
        recipe: Whose data the templates are tried on.
        model: Whose tokens are counted.

    Raises:
        UserError: a name that nothing has, or a folder without templates.
    """
    whole = expanded(names)
    templates, findings = loaded(whole)
    talk = chat(model) if model else None
    ground = Ground.of(recipe, templates) if recipe and templates else None
    clash = None if talk is None else cache(talk.clash)
    measured: dict[str, Measured] = {}
    left_out: dict[str, list[str]] = {}
    for template in templates:
        findings += lint_choices(template, clash=clash) + lint_slow(template)
        lacking = {}
        if ground is not None and not template.of_a_chain:
            lacking = ground.binder.lacks(template)
        if ground is None or lacking or template.of_a_chain:
            findings += lint_prefix(template)
        else:
            found, sizes = _tried(template, ground, talk)
            findings += found
            measured |= {template.name: sizes} if sizes else {}
        if lacking and names:
            findings += lint_columns(template, lacking)
        elif lacking:
            left_out[template.name] = list(lacking)
    order = {name: place for place, name in enumerate(whole)}
    return LintReport(
        templates=whole,
        findings=sorted(findings, key=lambda one: order[one.template]),
        measured=measured,
        left_out=left_out,
        shows_all=bool(names),
    )


def expanded(names: Sequence[str]) -> list[str]:
    """Names of templates: patterns and folders replaced by what they hold; all when empty.

    Raises:
        UserError: a name or pattern that nothing has, or a folder without templates.
    """
    found: dict[str, None] = {}
    for name in names or template_names():
        if Path(name).is_dir():
            inside = [file.as_posix() for file in sorted(Path(name).rglob("*.j2"))]
            if not inside:
                raise UserError(f"{name}: holds no template.", allowed="files that end in .j2")
            found.update(dict.fromkeys(inside))
        elif name.endswith(".j2"):
            found[name] = None
        else:
            found.update((one.name, None) for one in find_templates([name]))
    return list(found)


def _tried(
    template: Template, ground: Ground, talk: Chat | None
) -> tuple[list[LintFinding], Measured | None]:
    """The rules that need data, and sizes of the prompts."""
    try:
        examples = ground.examples(template, _SAMPLE)
        frame = ground.instructions(template, examples)
        if frame.height:
            sample = Sample(template, ground.binder, examples)
            return _judged(sample, frame, talk, ground.recipe.build)
        found = finding("render", template, "no training row fits it.", remedy=_NONE_FITS)
    except UserError as error:
        what = error.what.removeprefix(f"template '{template.name}' failed: ")
        what = f"it failed on real rows: {' '.join(what.split())}"
        found = finding(
            "render", template, what, remedy=error.remedy or error.allowed, severity="error"
        )
    return [*lint_prefix(template), found], None


def _judged(
    sample: Sample, frame: pl.DataFrame, talk: Chat | None, build: BuildConfig
) -> tuple[list[LintFinding], Measured]:
    template = sample.template
    rows = list(frame.iter_rows(named=True))
    texts = ["".join(row[key] for key in _SECTIONS) for row in rows]
    lengths = (
        list(count_characters(texts))
        if talk is None
        else talk.count([talk.text(row) for row in rows])
    )
    sizes = Measured(
        prompts=len(lengths),
        unit="characters" if talk is None else f"tokens of {talk.name}",
        middle=int(np.quantile(lengths, 0.5, method="higher")),
        high=int(np.quantile(lengths, 0.95, method="higher")),
        longest=max(lengths),
        shared=shared_text(sample),
    )
    columns = _item_columns(template, sample.binder)
    found = lint_leak(sample) + lint_prefix(template, of_items=columns, share=sizes.shared)
    if talk is not None:
        found += lint_length(template, lengths, model=talk.name, context=talk.context)
    if not build.balance:
        found += lint_balance(template, _answers(template, frame, build.negatives))
    return found, sizes


def _answers(template: Template, frame: pl.DataFrame, negatives: int) -> Counter[str]:
    """Answer → rows; with so many items never met for each like, as the build stage adds them."""
    found = Counter(frame["completion"].to_list())
    if template.answers_by_label:
        like, other = template.choices
        found[other] += negatives * found[like]
    return found


def _item_columns(template: Template, binder: Binder) -> set[str]:
    """Fields of the question that are columns of the items."""
    columns = {name for name in template.asked if field_named(name).role == "column"}
    texts = {name: binder.catalogue.text(name) for name in columns}
    return {name for name, one in texts.items() if one is not None and one.place == "items"}


def _evenly(length: int, count: int) -> NDArray[np.int64]:
    """At most so many places, evenly spaced."""
    return np.unique(
        np.linspace(0, max(length - 1, 0), min(count, length)).round().astype(np.int64)
    )


def _ruled(line: str, text: str) -> str:
    head = f"{line * 2} {text} " if text else ""
    return head + line * (_COLUMNS - len(head))
