"""The card of a tuned model: what it was made from, with which settings, and how to load it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import yaml

__all__ = ["CardFacts", "model_card"]

_KINDS = {
    "lora": "A low-rank adapter (LoRA)",
    "qlora": "A low-rank adapter trained on the 4-bit base (QLoRA)",
    "full": "A whole model, all weights tuned,",
}
_SHOWN_TEMPLATES = 60


@dataclass(frozen=True)
class CardFacts:
    """What a card tells.

    Attributes:
        base: Name of the base model; of a folder only the last part is shown.
        kind: `lora`, `qlora` or `full`.
        examples: Instructions it was trained on.
        templates: Names of what they were rendered with.
        settings: Setting of the training → value.
        results: What came out, such as steps, best validation loss or AUC, reload difference.
        versions: Package → version.
        seed: Of order, dropout and initialisation.
    """

    base: str
    kind: str
    examples: int
    templates: Sequence[str]
    settings: Mapping[str, object]
    results: Mapping[str, object]
    versions: Mapping[str, str]
    seed: int


def model_card(facts: CardFacts) -> str:
    """Text of a tuned model's `README.md`, with the YAML head that the hub reads."""
    base = _name(facts.base)
    sections = [
        _head(facts, base),
        f"# {base}, tuned to recommend",
        f"{_KINDS[facts.kind]} made by tastemaker from {_code(base)}. It answers instructions "
        "about users and items in the wordings below.",
        "## Data",
        f"{facts.examples:,} training instruction{'s' if facts.examples != 1 else ''}, "
        f"{_templates(facts.templates)}. Every prompt shows only events strictly earlier than its "
        "target.",
        "## Training",
        _table("setting", {**facts.settings, "seed": facts.seed}),
        "## Result",
        _table("measure", facts.results),
        "## Loading it",
        _loading(facts.kind, base),
        "## Limits",
        _limits(facts.kind, base),
        "## Versions",
        _table("package", facts.versions),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _head(facts: CardFacts, base: str) -> str:
    head = {
        "base_model": base,
        "base_model_relation": "finetune" if facts.kind == "full" else "adapter",
        "library_name": "transformers" if facts.kind == "full" else "peft",
        "pipeline_tag": "text-generation",
        "tags": ["recommendation", "tastemaker", facts.kind],
    }
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---"


def _templates(names: Sequence[str]) -> str:
    shown = ", ".join(_code(_name(name)) for name in names[:_SHOWN_TEMPLATES])
    rest = len(names) - _SHOWN_TEMPLATES
    more = f" and {rest} more" if rest > 0 else ""
    return f"rendered with {shown}{more}" if names else "in wordings that are not recorded"


def _loading(kind: str, base: str) -> str:
    ours = [
        "from pathlib import Path",
        "from tastemaker.models.adapters import tuned",
        "from tastemaker.models.language import load_language_model",
        f"base = load_language_model({base!r})",
        'model = tuned(base, Path("FOLDER"))',
    ]
    theirs = [
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        f"base = AutoModelForCausalLM.from_pretrained({base!r})",
        f"tokenizer = AutoTokenizer.from_pretrained({base!r})",
        'model = PeftModel.from_pretrained(base, "FOLDER").eval()',
    ]
    if kind == "full":
        ours = [ours[2], 'model = load_language_model("FOLDER")']
        theirs = [
            theirs[1],
            'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
            'model = AutoModelForCausalLM.from_pretrained("FOLDER").eval()',
        ]
    name = "transformers" if kind == "full" else "PEFT"
    parts = [f"With {name}; FOLDER is where this card lies:", _python(theirs)]
    parts += ["With tastemaker, which checks that it fits:", _python(ours)]
    if kind != "full" and "/" not in base:
        parts.insert(
            2, f"Write the folder or hub id of the base on your machine in place of {_code(base)}."
        )
    return "\n\n".join(parts)


def _limits(kind: str, base: str) -> str:
    told = [
        f"Trained on the weights of {_code(base)} only; on others it means nothing."
        if kind != "full"
        else f"It has the limits of {_code(base)}, and may have lost some of its skills.",
        "Answers hold for the users, items and time of the training data and for these wordings; "
        "scores are an order, not calibrated probabilities.",
        "Compare it with the trivial baselines of the run's report before using it.",
        "The licences of the base and of the data apply; this card states none of its own.",
    ]
    return "\n".join(f"* {line}" for line in told)


def _python(lines: Sequence[str]) -> str:
    return "\n".join(["```python", *lines, "```"])


def _name(text: str) -> str:
    """A name as it is, and of a path the last part; `owner/name` is a name."""
    if PureWindowsPath(text).drive:
        return PureWindowsPath(text).name
    path = PurePosixPath(text)
    is_path = text.startswith(("/", "~", "./", "../")) or len(path.parts) > 2
    return path.name if is_path else text


def _table(title: str, values: Mapping[str, object]) -> str:
    if not values:
        return "Nothing recorded."
    rows = [f"| {_cell(name)} | {_cell(_shown(value))} |" for name, value in values.items()]
    return "\n".join([f"| {title} | value |", "| --- | --- |", *rows])


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str):
        return _name(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(inner)}" for name, inner in value.items()) or "none"
    if isinstance(value, Sequence):
        return ", ".join(map(_shown, value)) or "none"
    return "none" if value is None else str(value)


def _code(text: str) -> str:
    return "`" + " ".join(text.replace("`", "'").split()) + "`"


def _cell(text: str) -> str:
    """A text on one line that ends no cell."""
    return " ".join(text.replace("|", "\\|").split())
