"""Options of a backbone: the keyword arguments of its class, checked before anything is built."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from tastemaker.errors import UnknownNameError

__all__ = ["checked_options", "known_options"]


def known_options(make: Callable[..., Any]) -> dict[str, Any]:
    """Names and defaults of a backbone's own options."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(make).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def checked_options(
    make: Callable[..., Any], options: Mapping[str, Any], *, backbone: str
) -> dict[str, Any]:
    """The options, lists as tuples.

    Args:
        make: The class.
        options: What a recipe says.
        backbone: Its name, for the message.

    Raises:
        UnknownNameError: the class has no such option.
    """
    known = known_options(make)
    for name in options:
        if name not in known:
            raise UnknownNameError(f"option of {backbone}", name, known)
    return {n: tuple(v) if isinstance(v, list) else v for n, v in options.items()}
