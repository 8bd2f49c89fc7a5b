"""The guarantee, at length: hundreds of wordings over all genres, years and titles of the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tastemaker.agents.dialogue.wish import Wish
from tastemaker.models.catalogue.conditions import Condition

Case = tuple[str, list[Condition], tuple[str, str] | None]
WORDS = {
    "Animation": ("animated", "animation"),
    "Children": ("children's", "kids"),
    "Comedy": ("comedy", "comedies", "funny"),
    "Documentary": ("documentary", "documentaries"),
    "Film-Noir": ("film noir", "noir"),
    "Horror": ("horror", "scary"),
    "Romance": ("romance", "romantic"),
    "Sci-Fi": ("sci-fi", "science fiction", "scifi"),
}


def wanted(*genres: str) -> Condition:
    return Condition("genres", "any_of", genres)


def refused(*genres: str) -> Condition:
    return Condition("genres", "none_of", genres)


def least(year: int) -> Condition:
    return Condition("year", "at_least", (float(year),))


def most(year: int) -> Condition:
    return Condition("year", "at_most", (float(year),))


def cases(random: np.random.Generator, titles: list[str], genres: list[str]) -> Iterator[Case]:
    """One message of every wording, with what it states and the title it names for something."""

    def word(genre: str) -> str:
        known = (*WORDS.get(genre, ()), genre, genre.lower())
        return known[int(random.integers(len(known)))]

    g, h = (genres[int(place)] for place in random.choice(len(genres), 2, replace=False))
    a, b = word(g), word(h)
    y = int(random.integers(1920, 2016))
    z = y + int(random.integers(1, 20))
    d = 10 * int(random.integers(192, 201))
    t = titles[int(random.integers(len(titles)))]
    yield f"I'm in the mood for a {a} from the {d}s", [wanted(g), least(d), most(d + 9)], None
    yield f"Recommend me {a} movies released before {y}", [wanted(g), most(y - 1)], None
    yield f"something like {t} but no {a}", [refused(g)], ("similar", t)
    yield f"any good {a} or {b} films after {y}?", [wanted(g, h), least(y + 1)], None
    yield f"not {a}", [refused(g)], None
    yield f"only {a} please", [wanted(g)], None
    yield f"nothing from before {y}", [least(y)], None
    yield f"{a}, but made between {y} and {z}", [wanted(g), least(y), most(z)], None
    yield f"I don't want {a}", [refused(g)], None
    yield f"how about a {a} {b}", [wanted(g), wanted(h)], None
    yield f"I loved {t}, what {a} would you suggest?", [wanted(g)], ("likes", t)
    yield f"I hated {t}. Show me {a} from {y}", [wanted(g), least(y), most(y)], ("dislikes", t)
    yield f"{a} similar to {t} since {y}", [wanted(g), least(y)], ("similar", t)
    yield f'find me something like "{t}", not {a}', [refused(g)], ("similar", t)
    yield f"no {a} or {b}, nothing older than {y}", [refused(g, h), least(y)], None
    yield f"a {a} that is not a {b}, from {y} onwards", [wanted(g), refused(h), least(y)], None
    yield f"I want {a} and {b} until {y}", [wanted(g), wanted(h), most(y)], None
    yield f"two {a} films of the {d}s please", [wanted(g), least(d), most(d + 9)], None
    yield f"{t} without the {a}", [refused(g)], ("similar", t)
    yield f"can you recommend {a} films that aren't {b}?", [wanted(g), refused(h)], None
    yield f"tell me about {t}", [], ("mentioned", t)
    yield (
        f"I've had enough of {a}, rather {b} from {y}-{z}",
        [
            wanted(h),
            refused(g),
            least(y),
            most(z),
        ],
        None,
    )


def is_stated(wish: Wish, expected: list[Condition]) -> bool:
    unsaid = (wish.unchecked, wish.withdrawn, wish.lifted, wish.steps, wish.unknown)
    return set(wish.conditions) == set(expected) and not any(unsaid)


@pytest.mark.parametrize("seed", range(4))
def test_conditions_are_exactly_what_is_stated(seed: int, films: Any) -> None:
    random = np.random.default_rng(seed)
    genres = list(films.lexicon.facets["genres"].values)
    read: Callable[[str], Any] = films.read
    wrong, seen = [], Counter[bool]()
    for _ in range(60):
        for message, expected, named in cases(random, films.titles, genres):
            wish = read(message).wish
            right = is_stated(wish, expected)
            if named is not None:
                items = getattr(wish, named[0])
                right &= named[1] in {films.titles[item] for item in items}
            seen[right] += 1
            if not right:
                wrong.append((message, list(map(str, wish.conditions)), wish.unknown))
    assert seen.total() == 60 * 22
    assert seen[True] >= 0.995 * seen.total(), wrong
