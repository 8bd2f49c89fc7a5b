"""Dialogues made from tables of films, with right answers that SQL can compute.

Each turn says what is asked in words, and as a condition of SQLite over `films (item_id, title,
year)` and `genres (item_id, genre)`. Nothing here shares code with what reads the words.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from tastemaker.data.tables import Tables

__all__ = ["Dialogue", "Turn", "film_database", "satisfying", "scripted_dialogues"]

# How people say a genre: as a noun behind "a", as an adjective before "film", and in the plural.
_SPOKEN: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "Action": (("an action film", "action", "action films"),),
    "Adventure": (("an adventure film", "adventure", "adventures"),),
    "Animation": (
        ("an animation", "animated", "animated films"),
        ("a cartoon", "animation", "cartoons"),
    ),
    "Children": (
        ("a children's film", "children's", "children's films"),
        ("a film for kids", "kids", "kids movies"),
    ),
    "Comedy": (("a comedy", "comedy", "comedies"), ("a comedy", "funny", "funny movies")),
    "Crime": (("a crime film", "crime", "crime movies"),),
    "Documentary": (("a documentary", "documentary", "documentaries"),),
    "Drama": (("a drama", "drama", "dramas"), ("a drama", "dramatic", "dramas")),
    "Fantasy": (("a fantasy film", "fantasy", "fantasy movies"),),
    "Film-Noir": (
        ("a film noir", "film-noir", "films noirs"),
        ("a noir", "noir", "noir films"),
    ),
    "Horror": (("a horror film", "horror", "horror movies"), ("a horror", "scary", "horror")),
    "Musical": (("a musical", "musical", "musicals"),),
    "Mystery": (("a mystery", "mystery", "mysteries"),),
    "Romance": (("a romance", "romantic", "romances"), ("a romance", "romance", "love stories")),
    "Sci-Fi": (
        ("a sci-fi film", "sci-fi", "sci-fi movies"),
        ("a science fiction film", "science fiction", "science fiction movies"),
    ),
    "Thriller": (("a thriller", "thriller", "thrillers"),),
    "War": (("a war film", "war", "war movies"),),
    "Western": (("a western", "western", "westerns"),),
}
_DECADES = {
    1930: "thirties",
    1960: "sixties",
    1970: "seventies",
    1980: "eighties",
    1990: "nineties",
}
_KINDS = (
    "decade",
    "either",
    "both",
    "without",
    "between",
    "resembling",
    "liked",
    "corrected",
    "impossible",
    "counted",
)


@dataclass(frozen=True)
class Turn:
    """One message and what a right answer must satisfy.

    Attributes:
        message: Words, or a command.
        where: Condition of SQLite on `films`, everything still demanded included.
        older: Whether the films must be older than all that were shown last, too.
        newer: Likewise, newer.
        asks: Whether items are expected; else reasons, or nothing but an acknowledgement.
        count: How many were asked for; None where nobody said.
    """

    message: str
    where: str
    older: bool = False
    newer: bool = False
    asks: bool = True
    count: int | None = None


@dataclass(frozen=True)
class Dialogue:
    """Turns of one visitor.

    Attributes:
        kind: What it is about.
        user: External id of a known user; None for a new visitor.
        turns: In order.
    """

    kind: str
    user: str | None
    turns: tuple[Turn, ...]


def film_database(tables: Tables) -> sqlite3.Connection:
    """Films and their genres in memory, for any thread.

    Args:
        tables: Items with `title`, `year` and `genres` parted by `|`.
    """
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.execute("CREATE TABLE films (item_id TEXT PRIMARY KEY, title TEXT, year INTEGER)")
    connection.execute("CREATE TABLE genres (item_id TEXT, genre TEXT)")
    films = tables.items.select(pl.col("item_id").cast(pl.String), "title", "year")
    connection.executemany("INSERT INTO films VALUES (?, ?, ?)", films.rows())
    parts = (
        tables.items.select(pl.col("item_id").cast(pl.String), pl.col("genres").str.split("|"))
        .explode("genres")
        .drop_nulls()
    )
    connection.executemany("INSERT INTO genres VALUES (?, ?)", parts.rows())
    connection.execute("CREATE INDEX genre ON genres (genre, item_id)")
    return connection


def satisfying(films: sqlite3.Connection, where: str) -> set[str]:
    """External ids of the films for which a condition holds."""
    return {str(row[0]) for row in films.execute(f"SELECT item_id FROM films WHERE {where}")}


def scripted_dialogues(tables: Tables, *, count: int = 200, seed: int = 0) -> list[Dialogue]:
    """Dialogues of ten kinds in turn; one in three is a known user's.

    Args:
        tables: As `film_database` takes them.
        count: How many.
        seed: Of what they are about.
    """
    script = _Script(tables, np.random.default_rng(seed))
    return [script.dialogue(_KINDS[place % len(_KINDS)], place) for place in range(count)]


class _Script:
    """Draws genres, years and titles, and finds words for them."""

    def __init__(self, tables: Tables, generator: np.random.Generator) -> None:
        self._generator = generator
        self._users = tables.users["user_id"].cast(pl.String).to_list()
        counts = tables.interactions.group_by("item").len()
        popular = (
            tables.items.join(counts, on="item")
            .filter((pl.col("len") >= 40) & (pl.col("title").str.len_chars() >= 12))
            .sort("item")
        )
        self._films: list[dict[str, Any]] = popular.to_dicts()

    def dialogue(self, kind: str, place: int) -> Dialogue:
        user = self._one(self._users) if place % 3 == 0 else None
        return Dialogue(kind, user, tuple(getattr(self, f"_{kind}")()))

    def _decade(self) -> Iterator[Turn]:
        genre, start = self._genre(), int(self._one(range(1950, 2010, 10)))
        where = _all(_is(genre), f"year BETWEEN {start} AND {start + 9}")
        said = self._one(
            [
                f"I'm in the mood for {self._noun(genre)} from the {start}s",
                f"Recommend {self._plural(genre)} of the {start % 100}s"
                if start < 2000
                else f"Recommend {self._plural(genre)} of the {start}s",
                f"Could you suggest some {self._plural(genre)} made in the "
                f"{_DECADES.get(start, f'{start}s')}?",
            ]
        )
        yield Turn(said, where)
        yield Turn(self._one(["older ones, please", "Something older?"]), _is(genre), older=True)
        yield Turn("why the first?", _is(genre), asks=False)

    def _either(self) -> Iterator[Turn]:
        one, other = self._genres(2)
        year = int(self._one(range(1960, 2005)))
        where = _all(f"({_is(one)} OR {_is(other)})", f"year > {year}")
        said = self._one(
            [
                f"any good {self._plural(one)} or {self._plural(other)} after {year}?",
                f"I'd like {self._noun(one)} or {self._noun(other)}, released after {year}",
            ]
        )
        yield Turn(said, where)
        yield Turn("newer ones", where, newer=True)

    def _both(self) -> Iterator[Turn]:
        one, other = self._one(
            [
                ("Romance", "Comedy"),
                ("Crime", "Thriller"),
                ("Sci-Fi", "Horror"),
                ("Action", "Comedy"),
            ]
        )
        where = _all(_is(one), _is(other))
        said = f"how about a {self._adjective(one)} {self._noun(other).partition(' ')[2]}?"
        yield Turn(said.replace("a action", "an action"), where)
        yield Turn("more like that" if self._flip() else "show me others", where)
        year = int(self._one(range(1975, 2000)))
        yield Turn(f"only those since {year}, please", _all(where, f"year >= {year}"))

    def _without(self) -> Iterator[Turn]:
        one, other = self._genres(2)
        said = self._one(
            [
                f"{self._plural(one)}, but no {self._plural(other)}",
                f"I want {self._noun(one)}. I don't want {self._noun(other)}.",
                f"Find me {self._noun(one)} that is not {self._noun(other)}",
            ]
        )
        where = _all(_is(one), f"NOT {_is(other)}")
        yield Turn(said, where)
        third = self._genre(but=(one, other))
        yield Turn(f"not {self._plural(third)} either", _all(where, f"NOT {_is(third)}"))
        year = int(self._one(range(1960, 1995)))
        last = _all(where, f"NOT {_is(third)}", f"year >= {year}")
        yield Turn(f"nothing from before {year}", last)

    def _between(self) -> Iterator[Turn]:
        genre, first = self._genre(), int(self._one(range(1940, 1990)))
        last = first + int(self._one(range(5, 25)))
        said = f"{self._noun(genre)}, but made between {first} and {last}"
        yield Turn(said, _all(_is(genre), f"year BETWEEN {first} AND {last}"))
        yield Turn("any year is fine", _is(genre))

    def _resembling(self) -> Iterator[Turn]:
        film, genre = self._one(self._films), self._genre()
        title = film["title"].rpartition(" (")[0] or film["title"]
        where = _all(f"NOT {_is(genre)}", f"item_id != '{film['item_id']}'")
        said = f"something like {_spoken_title(title)} but no {self._plural(genre)}"
        yield Turn(said, where)
        year = int(self._one(range(1970, 2000)))
        yield Turn(f"from {year} or later", _all(where, f"year >= {year}"))

    def _liked(self) -> Iterator[Turn]:
        film, genre = self._one(self._films), self._genre()
        title = _spoken_title(film["title"].rpartition(" (")[0] or film["title"])
        yield Turn(f"I loved {title}. Recommend me {self._noun(genre)}", _is(genre))
        yield Turn("/dislike 1", _is(genre), asks=False)
        year = int(self._one(range(1980, 2000)))
        yield Turn(f"made before {year}, please", _all(_is(genre), f"year < {year}"))

    def _corrected(self) -> Iterator[Turn]:
        one, other = self._genres(2)
        start = int(self._one(range(1960, 2000, 10)))
        yield Turn(f"I feel like watching {self._noun(one)}", _is(one))
        yield Turn(f"actually, make it {self._noun(other)} instead", _is(other))
        where = _all(_is(other), f"year BETWEEN {start} AND {start + 9}")
        yield Turn(f"and from the {start}s", where)

    def _impossible(self) -> Iterator[Turn]:
        genre = self._genre()
        year = int(self._one([1890, 1895, 1900]))
        where = _all(_is(genre), f"year < {year}")
        yield Turn(f"Recommend me {self._plural(genre)} released before {year}", where)
        yield Turn(f"then {self._plural(genre)} from any year", _is(genre))

    def _counted(self) -> Iterator[Turn]:
        genre, count = self._genre(), int(self._one([3, 4, 7]))
        word = {3: "three", 4: "4", 7: "seven"}[count]
        yield Turn(f"Give me {word} {self._plural(genre)}", _is(genre), count=count)
        year = int(self._one(range(1950, 1990)))
        yield Turn(f"older than {year}", _all(_is(genre), f"year < {year}"), count=count)

    def _one(self, choices: Sequence[Any]) -> Any:
        return choices[int(self._generator.integers(len(choices)))]

    def _flip(self) -> bool:
        return bool(self._generator.integers(2))

    def _genre(self, *, but: Sequence[str] = ()) -> str:
        return str(self._one([genre for genre in _SPOKEN if genre not in but]))

    def _genres(self, count: int) -> list[str]:
        chosen = self._generator.choice(len(_SPOKEN), size=count, replace=False)
        return [list(_SPOKEN)[place] for place in chosen]

    def _noun(self, genre: str) -> str:
        return str(self._one(_SPOKEN[genre])[0])

    def _adjective(self, genre: str) -> str:
        return str(self._one(_SPOKEN[genre])[1])

    def _plural(self, genre: str) -> str:
        return str(self._one(_SPOKEN[genre])[2])


def _is(genre: str) -> str:
    quoted = genre.replace("'", "''")
    return f"item_id IN (SELECT item_id FROM genres WHERE genre = '{quoted}')"


def _all(*parts: str) -> str:
    return " AND ".join(parts)


def _spoken_title(title: str) -> str:
    """`Matrix, The` as people say it."""
    for article in ("The", "A", "An"):
        if title.endswith(f", {article}"):
            return f"{article} {title.removesuffix(f', {article}')}"
    return title
