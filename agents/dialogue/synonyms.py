"""Words that people use for values and columns of catalogues, beside the values themselves.

A row only counts where the catalogue has the value it leads to; a word that is itself a value of
the catalogue never leads to another one.
"""

from __future__ import annotations

__all__ = ["COLUMN_WORDS", "FAMILIES", "SAME", "WORDS_FOR"]

# Names of one thing; whichever the catalogue has is what the others mean.
SAME: tuple[tuple[str, ...], ...] = (
    ("sci fi", "scifi", "science fiction", "sf"),
    ("film noir", "noir", "filmnoir"),
    ("children", "kids", "kid", "childrens"),
    ("animation", "animated", "cartoon", "animations"),
    ("documentary", "docu", "doc"),
    ("biography", "biographical", "biopic"),
    ("history", "historical"),
    ("sport", "sports"),
    ("tv movie", "television film"),
)
# Word → values that all must hold.
WORDS_FOR: dict[str, tuple[str, ...]] = {
    "adventurous": ("adventure",),
    "comedic": ("comedy",),
    "creepy": ("horror",),
    "dramatic": ("drama",),
    "frightening": ("horror",),
    "funny": ("comedy",),
    "hilarious": ("comedy",),
    "humorous": ("comedy",),
    "humourous": ("comedy",),
    "love story": ("romance",),
    "mysterious": ("mystery",),
    "love stories": ("romance",),
    "rom com": ("romance", "comedy"),
    "rom coms": ("romance", "comedy"),
    "romcom": ("romance", "comedy"),
    "romcoms": ("romance", "comedy"),
    "romantic": ("romance",),
    "scary": ("horror",),
    "spooky": ("horror",),
    "suspense": ("thriller",),
    "suspenseful": ("thriller",),
    "thrilling": ("thriller",),
    "dramedy": ("drama", "comedy"),
    "whodunit": ("mystery",),
    "whodunits": ("mystery",),
}
# What a column of numbers is about → words that stand in its name.
FAMILIES: dict[str, frozenset[str]] = {
    "time": frozenset({"year", "date", "released", "release", "published", "premiered"}),
    "price": frozenset({"price", "cost", "prices"}),
    "length": frozenset({"runtime", "minutes", "duration", "length", "pages", "playtime"}),
}
# What a column is about → words that mean it.
COLUMN_WORDS: dict[str, tuple[str, ...]] = {
    "time": ("year", "decade", "era", "period", "release date", "release year", "date"),
    "price": ("price", "cost", "budget"),
    "length": ("length", "runtime", "running time", "duration"),
    "genre": ("genre", "genres"),
    "category": ("category", "categories"),
}
