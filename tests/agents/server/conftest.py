"""A chat over the shop world that follows a script, and servers for it."""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pytest
import uvicorn

from tastemaker.agents.dialogue.wish import Card
from tastemaker.agents.server.app import create_app
from tastemaker.agents.server.limits import Limits
from tastemaker.agents.server.serving import listening
from tastemaker.errors import BusyError, DataError, UserError
from tastemaker.models.catalogue.conditions import Condition, holds
from tastemaker.models.catalogue.facets import Facet, facets_of
from tastemaker.testing.world import shop_world

IMAGE = "<img src=x onerror=\"window.hacked='image'\">"
SCRIPT = "</script><script>window.hacked='script'</script> **Bold** Tales"
TOKEN = "a token of sixteen or more"
GREETING = "Here is what may suit you:"


@dataclass(frozen=True)
class Piece:
    """An event of the script."""

    kind: str
    text: str = ""
    cards: tuple[Card, ...] = ()


@dataclass
class Talk:
    """A conversation of the script; items are places in the catalogue."""

    user: str | None
    messages: list[dict[str, Any]] = field(default_factory=list)
    likes: list[int] = field(default_factory=list)
    dislikes: list[int] = field(default_factory=list)
    last: list[int] = field(default_factory=list)


class ScriptedChat:
    """Shows three items a message, none twice, and what was judged moves the next ones on.

    Words of a message choose what happens: `slow` answers for half a minute, `late` says nothing
    for a while, `fail` and `broken` end in errors.
    """

    models: Sequence[str] = ("scripted", "scripted-2")

    def __init__(self, pause: float = 0.0) -> None:
        world = shop_world()
        self.facets: tuple[Facet, ...] = facets_of(world)
        rows = world.items.to_dicts()
        rows[0]["title"], rows[1]["title"] = IMAGE, SCRIPT
        self.rows = rows
        self.ids = [str(name) for name in world.users["user_id"]]
        self.pause, self.talks = pause, dict[str, Talk]()
        self.begun, self.ended, self.was_stopped = threading.Event(), threading.Event(), False
        self.most_at_once, self.at_once = 0, 0
        self.heard: list[tuple[Sequence[tuple[str, str]], str | None]] = []

    def start(self, *, user: str | None = None) -> str:
        if user is not None and user not in self.ids:
            raise UserError(f"unknown user '{user}'.")
        name = secrets.token_urlsafe(16)
        self.talks[name] = Talk(user)
        return name

    def continued(self, messages: Sequence[tuple[str, str]], *, user: str | None = None) -> str:
        self.heard.append((messages, user))
        return self.start(user=user)

    def reply(
        self, conversation: str, message: str, *, stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[Piece]:
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        self.begun.set()
        try:
            yield from self._reply(self._talk(conversation), message, stopped)
        finally:
            self.at_once -= 1
            self.was_stopped = stopped()
            self.ended.set()

    def _reply(self, talk: Talk, message: str, stopped: Callable[[], bool]) -> Iterator[Piece]:
        talk.messages.append({"role": "user", "text": message, "cards": [], "at": "now"})
        told, cards = "", ()
        if "late" in message:
            time.sleep(0.5)
        if "busy" in message:
            raise BusyError("a lock of /some/folder")
        if "fail" in message:
            raise UserError("nothing like it is sold.", remedy="Ask for something else.")
        for piece in self._pieces(talk, message):
            if stopped():
                break
            told += piece.text
            cards = piece.cards or cards
            yield piece
            if "slow" in message:
                time.sleep(0.1)
            time.sleep(self.pause)
        talk.messages.append(
            {
                "role": "assistant",
                "text": told,
                "cards": [asdict(one) for one in cards],
                "at": "now",
            }
        )
        yield Piece("done", told, cards)

    def _pieces(self, talk: Talk, message: str) -> Iterator[Piece]:
        word, _, place = message.partition(" ")
        if word in {"/like", "/dislike", "/why"}:
            item = talk.last[int(place) - 1]
            if word == "/why":
                yield from self._texts(f"**{self.rows[item]['title']}** is close to your taste.")
                return
            (talk.likes if word == "/like" else talk.dislikes).append(item)
            yield Piece("text", "Noted; it counts from the next answer on.")
            return
        shift = 3 * len(talk.likes) + 5 * len(talk.dislikes) + len(talk.messages) // 2
        talk.last = [(shift + number) % len(self.rows) for number in range(3)]
        cards = tuple(self._card(item) for item in talk.last)
        yield Piece("cards", cards=cards)
        yield from self._texts(GREETING)
        if "broken" in message:
            raise DataError("/some/folder/items.parquet cannot be read")
        for number, card in enumerate(cards, start=1):
            yield from self._texts(f"\n{number}. **{card.title}**, which others liked")
        for _ in range(300 if "slow" in message else 0):
            yield Piece("text", " and so on")

    def _texts(self, text: str) -> Iterator[Piece]:
        for number, word in enumerate(text.split(" ")):
            yield Piece("text", word if number == 0 else f" {word}")

    def _card(self, item: int) -> Card:
        row = self.rows[item]
        names = [facet.name for facet in self.facets]
        values = {name: row[name] for name in names if row.get(name)}
        reasons = ("Others with a taste like yours liked it", "matches what you asked for")
        return Card(item, str(row["item_id"]), row["title"], 0.9 - item / 50, values, reasons)

    def _talk(self, conversation: str) -> Talk:
        if conversation not in self.talks:
            raise UserError("unknown conversation.")
        return self.talks[conversation]

    def transcript(self, conversation: str) -> dict[str, Any]:
        talk = self._talk(conversation)
        judged = {
            name: [str(self.rows[item]["item_id"]) for item in getattr(talk, name)]
            for name in ("likes", "dislikes", "last")
        }
        return {"id": conversation, "user": talk.user, "messages": talk.messages, "state": judged}

    def users(self, query: str = "", *, count: int = 20) -> list[dict[str, Any]]:
        found = [name for name in self.ids if name.startswith(query)]
        return [{"user_id": name, "events": 7} for name in found[:count]]

    def recommend(
        self,
        *,
        user: str | None = None,
        likes: Sequence[str] = (),
        dislikes: Sequence[str] = (),
        conditions: Sequence[Condition] = (),
        count: int = 10,
    ) -> tuple[Card, ...]:
        if user is not None and user not in self.ids:
            raise UserError(f"unknown user '{user}'.")
        items = [item for item, row in enumerate(self.rows) if holds(conditions, row)]
        return tuple(self._card(item) for item in items[:count])

    def similar(
        self, *, items: Sequence[str], conditions: Sequence[Condition] = (), count: int = 10
    ) -> tuple[Card, ...]:
        return self.recommend(conditions=conditions, count=count)


Serve = Callable[..., contextlib.AbstractContextManager[str]]


@contextlib.contextmanager
def serving(
    chat: ScriptedChat, *, limits: Limits | None = None, token: str | None = None
) -> Iterator[str]:
    """A real server in a thread, for as long as the block lasts; its address."""
    app = create_app(chat, limits=limits or Limits(), token=token)
    with listening("127.0.0.1", 0) as listener:
        config = uvicorn.Config(
            app, log_config=None, access_log=False, timeout_graceful_shutdown=1, ws="none"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            until = time.monotonic() + 20
            while not server.started and time.monotonic() < until:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


@pytest.fixture(scope="session")
def scripted() -> Callable[..., ScriptedChat]:
    """Makes a chat."""
    return ScriptedChat


@pytest.fixture(scope="session")
def serve() -> Serve:
    """Runs a server."""
    return serving
