"""Who can reach the server, and the token that they must then know."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path

from tastemaker.errors import UserError

__all__ = ["TOKEN_VARIABLE", "check_exposure", "is_local", "read_token"]

TOKEN_VARIABLE = "TASTEMAKER_TOKEN"
_SHORTEST_TOKEN = 16


def read_token(file: Path | None, *, environment: Mapping[str, str] = os.environ) -> str | None:
    """The token that clients must know, from a file or else from the environment.

    Args:
        file: Its only line is the token.
        environment: Where `TASTEMAKER_TOKEN` is looked for.

    Returns:
        The token; None when there is none.

    Raises:
        UserError: the file cannot be read, or the token is short or no plain text.
    """
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"--token-file {file} cannot be read.", remedy="Give a text file with one line."
            ) from error
        return _checked(text.strip(), place=f"in {file}")
    text = environment.get(TOKEN_VARIABLE, "")
    return _checked(text.strip(), place=f"in {TOKEN_VARIABLE}") if text else None


def check_exposure(host: str, token: str | None) -> None:
    """Refuse to serve other machines without a token.

    Raises:
        UserError: `host` is no loopback address, and there is no token.
    """
    if token is None and not is_local(host):
        raise UserError(
            f"--host {host} lets other machines ask, and there is no token.",
            allowed="without a token: 127.0.0.1, ::1, localhost",
            remedy=(
                f"Put a secret of {_SHORTEST_TOKEN} characters or more into a file and name it "
                f"with --token-file, or into the variable {TOKEN_VARIABLE}; clients send it as "
                "Authorization: Bearer TOKEN."
            ),
        )


def is_local(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _checked(token: str, *, place: str) -> str:
    if len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isprintable():
        raise UserError(
            f"the token {place} cannot be used.",
            allowed=f"{_SHORTEST_TOKEN} or more printable ASCII characters on one line",
        )
    return token
