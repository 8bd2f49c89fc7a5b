"""The recommender's own API: items without words, conversations for the page, and what is kept."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from tastemaker.agents.server.answering import Answer, EventStream, frame
from tastemaker.agents.server.desk import TheDesk
from tastemaker.agents.server.lanes import Stopped
from tastemaker.agents.server.refusals import Refusal, is_told
from tastemaker.agents.server.service import Event
from tastemaker.agents.server.shapes import (
    CardBody,
    Cards,
    FacetBody,
    NewConversation,
    NewMessage,
    RecommendBody,
    SimilarBody,
    conditions_of,
    plain,
)
from tastemaker.errors import UserError

__all__ = ["ROUTER"]

ROUTER = APIRouter()
_T = TypeVar("_T")
_MOST_USERS = 50
_MOST_VALUES = 200  # of one facet


@ROUTER.post("/v1/recommend", tags=["Items"])
async def recommend(body: RecommendBody, desk: TheDesk) -> Cards:
    """The best items for a user, or for a new visitor with a few likes."""

    def work() -> Cards:
        return Cards.of(
            desk.chat.recommend(
                user=body.user,
                likes=body.likes,
                dislikes=body.dislikes,
                conditions=conditions_of(body.conditions, desk.chat),
                count=body.count,
            )
        )

    return await desk.look_up(work)


@ROUTER.post("/v1/similar", tags=["Items"])
async def similar(body: SimilarBody, desk: TheDesk) -> Cards:
    """Items that resemble others."""

    def work() -> Cards:
        conditions = conditions_of(body.conditions, desk.chat)
        return Cards.of(
            desk.chat.similar(items=body.items, conditions=conditions, count=body.count)
        )

    return await desk.look_up(work)


@ROUTER.post("/api/conversations", status_code=201, tags=["Conversations"])
async def start(body: NewConversation, desk: TheDesk) -> dict[str, str]:
    """Begin a conversation; its id is the key to it."""
    return {"id": await desk.look_up(lambda: _named(lambda: desk.chat.start(user=body.user)))}


@ROUTER.get("/api/conversations/{conversation}", tags=["Conversations"])
async def transcript(conversation: str, desk: TheDesk) -> dict[str, Any]:
    """What was said, and what the conversation has come to."""
    found = await desk.look_up(lambda: _named(lambda: desk.chat.transcript(conversation)))
    told: dict[str, Any] = plain(found)
    return told


@ROUTER.post("/api/conversations/{conversation}/messages", tags=["Conversations"])
async def say(conversation: str, body: NewMessage, request: Request, desk: TheDesk) -> Response:
    """Answer a message, as events: notes, text, cards, done, or error."""
    if len(body.text) > desk.limits.message_chars:
        message = f"A message may have {desk.limits.message_chars:,} characters."
        raise Refusal(400, message, code="message_too_long")
    answer = Answer(desk)

    def work(stopped: Stopped) -> Iterator[Event]:
        return desk.chat.reply(conversation, body.text, stopped=stopped)

    await answer.begin(work, receive=request.receive)
    return EventStream(_frames(answer), failed=_failed)


@ROUTER.get("/api/users", tags=["Page"])
async def users(
    desk: TheDesk,
    query: Annotated[str, Query(max_length=100)] = "",
    count: Annotated[int, Query(ge=1, le=_MOST_USERS)] = 20,
) -> JSONResponse:
    """Known users whose id holds a text, and how many events they have."""
    found = await desk.look_up(lambda: desk.chat.users(query, count=count))
    return JSONResponse(plain(found))


@ROUTER.get("/api/facets", tags=["Page"])
async def facets(desk: TheDesk) -> list[FacetBody]:
    """What items can be asked for by."""
    return [
        FacetBody(
            name=facet.name,
            kind=facet.kind,
            values=list(facet.values[:_MOST_VALUES]),
            low=plain(facet.low),
            high=plain(facet.high),
        )
        for facet in desk.chat.facets
    ]


@ROUTER.get("/health", tags=["Server"])
async def health() -> dict[str, str]:
    """Whether the server serves."""
    return {"status": "ok"}


@ROUTER.get("/metrics", tags=["Server"])
async def metrics(desk: TheDesk) -> Response:
    """Counters in Prometheus' text form."""
    return Response(desk.metrics.as_text(), media_type="text/plain; version=0.0.4")


async def _frames(answer: Answer) -> AsyncGenerator[str, None]:
    async with contextlib.aclosing(answer.events()) as events:
        async for event in events:
            yield "" if event is None else frame(_told(event))
    yield frame({"kind": "done", "expired": answer.expired})


def _told(event: Event) -> dict[str, Any]:
    if event.kind == "cards":
        return {"kind": "cards", "cards": [CardBody.of(card).model_dump() for card in event.cards]}
    return {"kind": event.kind, "text": event.text}


def _failed(refusal: Refusal) -> str:
    return frame({"kind": "error", "error": refusal.as_dict()})


def _named(look: Callable[[], _T]) -> _T:
    """What was looked for by its name; 404 where there is no such thing."""
    try:
        return look()
    except UserError as error:
        if is_told(error):
            raise Refusal(404, str(error), code="not_found") from error
        raise
