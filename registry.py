"""Names are file names: what exists is read from folders, and imported only when used.

A *kind* is a folder of one-thing-per-file modules. A file belongs to the kind when it assigns the
kind's marker at top level (`METHOD = …`, `BACKBONE = …`); its summary is the first line of its
docstring. Both are read with `ast`, so listing imports nothing.
"""

from __future__ import annotations

import ast
import importlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tastemaker.errors import UnknownNameError

__all__ = ["KINDS", "Kind", "load", "names", "package_root", "summaries"]


@dataclass(frozen=True)
class Kind:
    """A folder of modules that each define `marker`."""

    folder: str
    marker: str


KINDS: dict[str, Kind] = {
    "data set": Kind("data/builtin", "DATASET"),
    "backbone": Kind("models/ctr", "BACKBONE"),
    "re-ranker": Kind("models/rerank", "RERANKER"),
    "multi-domain backbone": Kind("models/multi_domain", "MULTI_DOMAIN"),
    "method": Kind("methods", "METHOD"),
}


def package_root() -> Path:
    """The folder of the installed package (the repository root in a checkout)."""
    return Path(__file__).resolve().parent


@cache
def summaries(kind: str) -> dict[str, str]:
    """Names of a kind with the first docstring line of each, sorted, without importing them.

    Raises:
        KeyError: `kind` is not in `KINDS`.
    """
    found: dict[str, str] = {}
    spec = KINDS[kind]
    for file in sorted((package_root() / spec.folder).glob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        if _assigns(tree, spec.marker):
            found[file.stem] = (ast.get_docstring(tree) or "").split("\n", 1)[0]
    return found


def names(kind: str) -> list[str]:
    """Sorted names of a kind."""
    return list(summaries(kind))


def load(kind: str, name: str) -> Any:
    """Import the file behind `name` and return its marker object.

    Raises:
        UnknownNameError: no such name; the message offers the nearest one.
    """
    if name not in summaries(kind):
        raise UnknownNameError(kind, name, names(kind))
    spec = KINDS[kind]
    module = importlib.import_module(f"tastemaker.{spec.folder.replace('/', '.')}.{name}")
    return getattr(module, spec.marker)


def _assigns(tree: ast.Module, marker: str) -> bool:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        if any(isinstance(target, ast.Name) and target.id == marker for target in targets):
            return True
    return False
