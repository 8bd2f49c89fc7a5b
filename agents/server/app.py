"""The application: routes, errors, and the two layers around them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from tastemaker.agents.server import completions, own_api, page
from tastemaker.agents.server.desk import Desk
from tastemaker.agents.server.exposure import check_exposure, is_local
from tastemaker.agents.server.gate import Gate
from tastemaker.agents.server.limits import Limits
from tastemaker.agents.server.refusals import Refusal, from_error, from_validation
from tastemaker.agents.server.service import ChatService
from tastemaker.agents.server.shapes import ErrorBody
from tastemaker.agents.server.watch import Watch
from tastemaker.errors import TastemakerError

__all__ = ["create_app"]

_SUMMARY = "Recommendations in conversation, grounded in the catalogue."


def create_app(
    chat: ChatService, *, limits: Limits, token: str | None = None, host: str = "127.0.0.1"
) -> FastAPI:
    """A server for one chat, as an ASGI application.

    Args:
        chat: What is served.
        limits: How much clients may take.
        token: That clients must know; None: anybody on this machine may ask.
        host: Address that the server listens on; on a loopback one it answers to no other name.

    Raises:
        UserError: other machines could ask without a token.
    """
    check_exposure(host, token)
    desk = Desk.of(chat, limits=limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        desk.close()

    app = FastAPI(
        title="tastemaker",
        summary=_SUMMARY,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses={"4XX": {"model": ErrorBody, "description": "Why it was refused"}},
    )
    app.state.desk = desk
    for part in (completions, own_api, page):
        app.include_router(part.ROUTER)
    app.add_exception_handler(TastemakerError, _on_error)
    app.add_exception_handler(Refusal, _on_error)
    app.add_exception_handler(RequestValidationError, _on_error)
    app.add_exception_handler(HTTPException, _on_error)
    app.add_middleware(
        Gate,
        limits=limits,
        token=token,
        local=is_local(host),
        refused=desk.metrics.refused,
    )
    app.add_middleware(Watch, metrics=desk.metrics)
    return app


async def _on_error(request: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        refusal = from_validation(error.errors())
    elif isinstance(error, HTTPException):
        refusal = Refusal(error.status_code, f"{error.detail}.", code="invalid_request")
        refusal.headers.update(error.headers or {})
    else:
        refusal = from_error(error)
    request.app.state.desk.metrics.refused(refusal.code)
    return JSONResponse(
        {"error": refusal.as_dict()}, status_code=refusal.status, headers=refusal.headers
    )
