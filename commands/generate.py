"""`tastemaker generate RECIPE`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tastemaker.cli import COMMANDS
from tastemaker.commands._recipe import command_until

if TYPE_CHECKING:
    from tastemaker.stage import Run


def _results(run: Run) -> str:
    from tastemaker.eval.answers_table import answers_table
    from tastemaker.methods.generating import load_results

    return answers_table(load_results(run))


command = command_until("generate", COMMANDS["generate"], shown=_results)
