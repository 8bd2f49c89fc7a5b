"""Small worlds: the checkerboard for recommenders, two others for checks by eye.

On the checkerboard even users like even items, odd users odd ones, and the texts say so. Every
recommender has a known right answer there. What a user liked before tells their parity, and an
item's number, title and genre tell its own; the mean of an item or a user tells nothing.

The tied world has six events; the shop has every column that the packaged templates know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from tastemaker.data.hashing import fractions, hashed
from tastemaker.data.schema import LabelRule, Schema
from tastemaker.data.splits import Split
from tastemaker.data.splitters import global_time
from tastemaker.data.tables import Tables, build_tables

__all__ = [
    "SCHEMA",
    "SHOP_SCHEMA",
    "checkerboard",
    "checkerboard_split",
    "shop_split",
    "shop_world",
    "tied_world",
]

SCHEMA = Schema(
    user="user_id",
    item="item_id",
    time="timestamp",
    rating="rating",
    label=LabelRule("rating", ">", 3.0),
    title="title",
    text=("genres",),
)
SHOP_SCHEMA = replace(
    SCHEMA,
    text=("description", "review", "headline", "explanation"),
    domain="domain",
    lists={"categories": "|"},
    categorical=("gender", "brand", "author", "publisher", "city", "feature"),
    numeric=("age", "price"),
    rating_range=(1.0, 5.0),
    time_unit="s",
)
_TIED = [
    (7, 1, 10, 5.0),
    (7, 2, 20, 1.0),
    (7, 3, 30, 4.0),
    (7, 4, 30, 2.0),
    (7, 5, 40, 3.5),
    (8, 2, 15, 4.0),
]
_FIRST_SECOND = 1_500_000_000
_STEP = 3600
_PARITY = ("Even", "Odd")
Whole = NDArray[np.int64]
_SHOP_SEED = 7
_SHOP_HOURS = 80
_SHOP_SIZES = (*([11] * 21), 5, 2, 1)  # different items of each user
_SHOP_COLUMNS = (
    "title",
    "categories",
    "brand",
    "price",
    "author",
    "publisher",
    "city",
    "tags",
    "description",
)
# Half of them books, half games; what is missing is missing on purpose, as are odd signs.
_BOOKS = r"""
Amber Road; Novel|Travel; Kite Press; 12.5; Anna Bell;; Berlin;; A slow walk along an old road.
Blue Kite; Children; Kite Press; 8; Omar Diaz;; Lyon;; A boy and his kite.
Cold Harbour; Crime|Novel; Moor House; 11.99; Ida Frey;; Oslo;; Who sank the ferry?
Dry Season; Novel; Moor House;; Li Wei;;;;
East of "Nowhere"; Travel|Humour;; 14; Anna Bell;; Berlin;; Says "no" to \maps\.
Fifty Bridges; Travel; Kite Press; 22.75;;; Porto;; Every bridge of one river.
Glass Orchard; Poetry|Nature|Essays; Moor House; 9.5; Nia Okoro;; Lagos;; Poems on fruit.
High Tide, The; Crime; Moor House; 10; Ida Frey;; Oslo;;
Iron Winter; History|War;; 19.9; Jan Kos;; Gdańsk;; A siege told day by day.
Jam and Honey; Cooking; Kite Press; 15; Omar Diaz;; Lyon;; Recipes without a scale.
Café Zürich; Novel|Humour; Moor House; 12; Li Wei;; Zürich;; Regulars and their rows.
Little <|im_end|> Moons; Poetry;; 7.25; Nia Okoro;;;; Haiku.
The Tower; Fantasy|Novel; Kite Press; 13; Jan Kos;; Gdańsk;; A tower without a door.
Mountains of Salt;; Moor House;;;;;;
Night Trains; Travel|History; Kite Press; 17.5; Ida Frey;; Berlin;; Sleeping cars, 1880 to 1990.
"""
_GAMES = """
Orbit Nine; Space|Strategy;; 29.9;; Pixel Oak; Lyon; slow|hard; Nine planets, one tank of fuel.
Paper Knights; Family|Strategy; Oak; 24;; Pixel Oak;; paper|short; Fold your own army.
Quiet Forest; Family; Oak; 18;; Green Die; Porto; calm; Plant, wait, share.
River Race; Sport; Oak;;; Green Die; Porto; fast|short; Down the rapids.
Stone and Sand; Strategy; Dune; 35;; Sandbox Ltd; Lagos;; Build a city that lasts.
The Tower; Puzzle; Dune; 9.99;; Sandbox Ltd;; hard; Climb by thinking.
Under the Lamp; Puzzle|Crime;; 12;; Green Die; Oslo; calm|short;
Violet Storm; Space|Sport|Action; Dune; 49.5;; Pixel Oak; Lyon; fast|hard|loud; Race in the dark.
Word Mill; Puzzle|Family; Oak; 6;;;; calm; Grind letters to words.
Xylo; Music; Oak; 14.25;; Green Die; Porto; loud; Play along.
Yellow Fleet; War|Strategy; Dune; 31;; Sandbox Ltd; Lagos; slow; Steer {{ 7 * 7 }} ships.
Zigzag; Sport|Family;; 11;; Pixel Oak;; fast;
Ice Market; Strategy|Economy; Dune; 27;; Sandbox Ltd; Oslo; slow|hard; Sell ice before it melts.
Lost Luggage;; Oak; 5.5;; Green Die;;; Find it again.
Desert Rose; Action; Dune; 39;; Pixel Oak; Lyon; loud|fast; One rider, no water.
"""
_NAMES = "Ada,,Ben,Cleo,Dan,,Eva,Finn,Gül,,Hans,Ira,Jo,Kim,,Lea,Max,Noor,,Otto,Pia,Ravi,,Sue"
_SHOP_TEXTS = ("review", "headline", "explanation", "feature")
_FEATURES = ("plot", "art", "", "pace", "style", "sound", "", "price", "setting")
_SHOPPERS = (
    "said all of us",
    'and the box said "Blue Kite"',
    "as a friend had told me",
    "<|im_end|>\n[INST] or so it seems",
    "after a week",
    r"{{ rating }} \o/",
    "on a rainy day",
    "even for {% endfor %} beginners",
)
_PRAISE = ("charming", "clever", "moving")
_BLAME = ("dull", "clumsy", "far too long")


def checkerboard(
    n_users: int = 40, n_items: int = 40, *, events: int = 20, seed: int = 0
) -> Tables:
    """Build the world.

    Every user rates `events` random items, 5 for their own parity and 1 for the other, at random
    hours; an hour holds about three events of the whole world, so some of a user's events share
    their second.

    Args:
        n_users: Users `0` … `n_users - 1`; the dense number is the external id.
        n_items: Items, likewise.
        events: Events of each user, at most `n_items`.
        seed: Of the random generator.
    """
    random = np.random.default_rng(seed)
    users = np.repeat(np.arange(n_users), events)
    items = np.concatenate([random.permutation(n_items)[:events] for _ in range(n_users)])
    hours = random.integers(max(n_users * events // 3, 3), size=len(users))
    interactions = pl.DataFrame(
        {
            "user_id": users,
            "item_id": items,
            "timestamp": _FIRST_SECOND + _STEP * hours,
            "rating": np.where(users % 2 == items % 2, 5.0, 1.0),
        }
    )
    catalogue = pl.DataFrame(
        {
            "item_id": np.arange(n_items),
            "title": [f"{_PARITY[item % 2]} film {item}" for item in range(n_items)],
            "genres": [_PARITY[item % 2] for item in range(n_items)],
        }
    )
    people = pl.DataFrame({"user_id": np.arange(n_users)})
    return build_tables(
        interactions,
        items=catalogue,
        users=people,
        schema=SCHEMA,
        source="checkerboard",
        licence="CC0-1.0",
    )


def checkerboard_split(
    n_users: int = 40,
    n_items: int = 40,
    *,
    events: int = 20,
    seed: int = 0,
    valid_from: float = 0.7,
    test_from: float = 0.85,
) -> Split:
    """The world cut by global time; every part holds both parities."""
    tables = checkerboard(n_users, n_items, events=events, seed=seed)
    return global_time(tables, valid_from=valid_from, test_from=test_from)


def tied_world(titles: Mapping[int, str] | None = None) -> Tables:
    """Six events for checks by eye: user 7 has two at time 30, users 7 and 8 both met film 2.

    Args:
        titles: Item id (1 to 5) → title, where it is not to be `Film N`.
    """
    named = {number: f"Film {number}" for number in range(1, 6)} | dict(titles or {})
    columns = ["user_id", "item_id", "timestamp", "rating"]
    items = {"item_id": list(named), "title": list(named.values()), "genres": ["x"] * len(named)}
    return build_tables(
        pl.DataFrame(_TIED, schema=columns, orient="row"), items=pl.DataFrame(items), schema=SCHEMA
    )


def shop_world() -> Tables:
    """A shop of books and games with every column that the packaged templates know.

    24 users (3 of them with few events), 30 items and 283 events, the same every time. Users have
    `name`, `gender` and `age`; items `title`, `categories` (List), `brand`, `price`, `author`
    (books), `publisher` and `tags` (games; parted by `|`), `city` and `description`; events a
    rating from 1 to 5, `domain`, `review`, `headline`, `explanation` and `feature`. Any of them but
    title, rating and domain is empty somewhere. Some users meet an item again, some events of a
    user share their second, a book and a game share their title, and some texts hold what could be
    taken for a special token, for Jinja or for the end of a title.

    At most 11 items are met by anyone, so that 20 candidates can always be drawn.
    """
    items = _shop_items()
    users, met, hours = _shop_events(items.height)
    is_game = met >= items.height // 2
    likes = (is_game == (users % 2 == 1)) ^ (_chances(users, met, hours, 2) < 0.25)
    stars = (_chances(users, met, hours, 3) * np.where(likes, 2, 3)).astype(np.int64)
    told = [_shop_texts(event, liked=liked) for event, liked in enumerate(likes.tolist())]
    interactions = pl.DataFrame(
        {
            "user_id": [f"u{user:02}" for user in users],
            "item_id": items["item_id"].to_numpy()[met],
            "timestamp": _FIRST_SECOND + _STEP * hours,
            "rating": np.where(likes, 4, 1) + stars,
            "domain": np.where(is_game, "Games", "Books"),
        }
    ).hstack(pl.DataFrame(told, schema=list(_SHOP_TEXTS), orient="row"))
    numbers = range(len(_SHOP_SIZES))
    people = pl.DataFrame(
        {
            "user_id": [f"u{user:02}" for user in numbers],
            "name": _NAMES.split(","),
            "gender": [("F", "M", "")[user % 3] for user in numbers],
            "age": [None if user % 5 == 0 else 18 + user * 2 for user in numbers],
        }
    )
    return build_tables(
        interactions,
        items=items,
        users=people,
        schema=SHOP_SCHEMA,
        source="shop",
        licence="CC0-1.0",
    )


def shop_split() -> Split:
    """The shop cut by global time: 70 % to train, 15 % each to validate and test."""
    return global_time(shop_world(), valid_from=0.7, test_from=0.85)


def _shop_items() -> pl.DataFrame:
    """What the shop sells, as it would stand in a file."""
    lines = [line for part in (_BOOKS, _GAMES) for line in part.strip().split("\n")]
    cells = [[cell.strip() for cell in line.split(";")] for line in lines]
    frame = pl.DataFrame(cells, schema=list(_SHOP_COLUMNS), orient="row")
    return frame.with_columns(item_id=101 + pl.int_range(pl.len()))


def _shop_events(n_items: int) -> tuple[Whole, Whole, Whole]:
    """User, item and hour of each event; every other user meets four items twice."""
    users, items, hours = [], [], []
    for user, size in enumerate(_SHOP_SIZES):
        met = np.argsort(_chances(user, np.arange(n_items), 0))[:size]
        moments = (_SHOP_HOURS * _chances(user, np.arange(size), 1)).astype(np.int64)
        twice = 4 if user % 2 == 0 and size > 4 else 0
        users.append(np.full(size + twice, user))
        items += [met, met[:twice]]
        hours += [moments, (moments[:twice] + _SHOP_HOURS // 2) % _SHOP_HOURS]
    return np.concatenate(users), np.concatenate(items), np.concatenate(hours)


def _chances(*columns: ArrayLike) -> NDArray[np.float64]:
    """Numbers from 0 to 1 that no version of a random generator changes."""
    return fractions(hashed(*columns, seed=_SHOP_SEED))


def _shop_texts(event: int, *, liked: bool) -> tuple[str, str, str, str]:
    """Review, headline, explanation and feature of an event."""
    feature = _FEATURES[event % len(_FEATURES)]
    word = (_PRAISE if liked else _BLAME)[event % 3]
    about = f"The {feature} is {word}" if feature else f"Simply {word}"
    shop = _SHOPPERS[event // 3 % len(_SHOPPERS)]
    review = "" if event % 7 == 3 else f"{about}, {shop}."
    headline = "" if event % 5 == 4 else f"{word.capitalize()}!"
    explanation = "" if event % 6 == 5 else f"{about}."
    return review, headline, explanation, feature
