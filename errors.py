"""Every error tastemaker raises on purpose, as one tree.

TastemakerError
├── UserError               the input was wrong; printed without a traceback, exit code 2
│   ├── RecipeError         a recipe key or value
│   ├── UnknownNameError    a template, model, backbone, method or stage that does not exist
│   ├── DataError           a table, a row or a column
│   ├── MissingError        a package, model or data set that is not installed here
│   └── BusyError           another process is working in the same run folder
├── StageError              a stage failed although its input was right; exit code 1
│   └── SaveCheckError      what was read back differs from what was saved
└── LeakError               something from the future reached a prompt, feature or text; exit code 1

A message has three parts: what was wrong with its value, what is allowed, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

__all__ = [
    "BusyError",
    "DataError",
    "LeakError",
    "MissingError",
    "RecipeError",
    "SaveCheckError",
    "StageError",
    "TastemakerError",
    "UnknownNameError",
    "UserError",
    "nearest",
]


_MOST_NAMES = 24  # listed in full


class TastemakerError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class UserError(TastemakerError):
    """The user's input was wrong.

    Args:
        what: What was wrong, with the offending value and its place.
        allowed: What would have been right.
        remedy: What to do now.
    """

    exit_code = 2

    def __init__(self, what: str, *, allowed: str = "", remedy: str = "") -> None:
        self.what, self.allowed, self.remedy = what, allowed, remedy
        super().__init__("\n".join(part for part in (what, allowed, remedy) if part))

    def __reduce__(self) -> tuple[Any, ...]:
        """Comes whole out of another process, whatever its own arguments are called."""
        return _rebuilt, (type(self), self.args, self.__dict__)


class RecipeError(UserError):
    """A recipe has a wrong key or value."""


class DataError(UserError):
    """A table has a missing column or a bad value; names file, row and column."""


class MissingError(UserError):
    """A package, model or data set is not installed; names the command that brings it."""


class BusyError(UserError):
    """Another process holds the run folder."""


class UnknownNameError(UserError):
    """A name that is not among the known ones; the message offers the nearest.

    Args:
        kind: What was looked for, such as `"template"`.
        name: The name given.
        known: The names that exist.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        close = nearest(name, names)
        what = f"unknown {kind} '{name}'"
        what += f"; did you mean '{close}'?" if close else "."
        shown = names
        if len(names) > _MOST_NAMES:
            shown = sorted(difflib.get_close_matches(name, names, n=_MOST_NAMES // 2, cutoff=0))
        more = f" and {len(names) - len(shown)} more" if len(shown) < len(names) else ""
        super().__init__(what, allowed=f"available: {', '.join(shown) or 'none'}{more}")


class StageError(TastemakerError):
    """A stage could not finish although its input was right."""


class SaveCheckError(StageError):
    """An adapter, model or matrix read back from disk differs from what was saved."""


class LeakError(TastemakerError):
    """Evidence at or after the target's time was found."""


def _rebuilt(kind: type[UserError], args: tuple[Any, ...], parts: dict[str, Any]) -> UserError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(parts)
    return error


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to `name`, or None when nothing is close.

    >>> nearest("lerning_rate", ["learning_rate", "epochs"])
    'learning_rate'
    """
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return found[0] if found else None
