"""The page and the list of operations: single documents that load nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

from fastapi import APIRouter
from starlette.responses import HTMLResponse

from tastemaker.errors import StageError

__all__ = ["ROUTER", "Document", "docs_document", "page_document"]

ROUTER = APIRouter(include_in_schema=False)
_HERE = Path(__file__).parent
_STYLES, _SCRIPT = "/* styles */", "/* script */"


@dataclass(frozen=True)
class Document:
    """A document with its styles and its script inside, and the policy that allows just them.

    Attributes:
        html: The whole.
        policy: Value of Content-Security-Policy.
    """

    html: str
    policy: str

    @classmethod
    def built(cls, name: str, *, styles: Sequence[str], scripts: Sequence[str]) -> Self:
        """Put files of this folder together.

        Args:
            name: A document with places for styles and script.
            styles: Files, in their order.
            scripts: Likewise; they share one scope.

        Raises:
            StageError: a script would end its element.
        """
        html = _text(name)
        style = "\n".join(map(_text, styles))
        script = "\n".join(map(_text, scripts))
        if "</" in script or "<!--" in script or "</" in style:
            raise StageError(f"a part of {name} would end its own element.")
        html = html.replace(_STYLES, style).replace(_SCRIPT, script)
        return cls(html, _policy(style, script))

    def response(self) -> HTMLResponse:
        """The document as an answer."""
        return HTMLResponse(self.html, headers={"Content-Security-Policy": self.policy})


@ROUTER.get("/")
async def page() -> HTMLResponse:
    """The conversation, for people."""
    return page_document().response()


@ROUTER.get("/docs")
async def docs() -> HTMLResponse:
    """The list of operations, for people."""
    return docs_document().response()


@cache
def page_document() -> Document:
    """The conversation."""
    return Document.built(
        "page.html",
        styles=("page.css", "conversation.css"),
        scripts=("rendering.js", "cards.js", "asking.js", "visitors.js", "page.js"),
    )


@cache
def docs_document() -> Document:
    """The list of operations."""
    return Document.built("docs.html", styles=("page.css", "docs.css"), scripts=("docs.js",))


def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Only these texts, and only this server; nothing may be written as HTML by a script."""
    rules = {
        "default-src": "'none'",
        "style-src": f"'sha256-{_digest(style)}'",
        "script-src": f"'sha256-{_digest(script)}'",
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
