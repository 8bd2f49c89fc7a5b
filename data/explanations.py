"""Explanations out of reviews: a sentence that says what was good or bad, and the word it is about.

P5 takes its explanations from reviews with Sentires, which parses sentences and finds pairs of a
feature and an opinion. This stands in for it and needs no parser: a lexicon of opinions, and the
word beside one of them.

    The strings are very cheap.   strings      a noun, a verb of being, an opinion
    What a great smell!           smell        an opinion before a noun
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from zlib import crc32

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.data.hashing import hashed
from tastemaker.data.tables import Tables
from tastemaker.errors import DataError, nearest

__all__ = ["COLUMNS", "explanations", "with_explanations"]

COLUMNS = ("explanation", "feature")
_CHUNK = 50_000  # reviews whose sentences are in memory at once
_WORDS = (3, 40)  # of a sentence
_OPINIONS = """
amazing annoying attractive awesome awful awkward bad beautiful best better boring breathable bright
brilliant broken bulky calming cheap clean clear clever clumsy comfortable comfy compact confusing
convenient cool cozy crappy creamy crisp cute damaged decent defective delicate delicious delightful
difficult disappointing disgusting dull durable easy effective efficient elegant enjoyable excellent
exceptional exciting expensive fabulous fancy fantastic fast faulty favorite favourite fine flawless
flexible flimsy fluffy fresh friendly fun funny generous gentle genuine good gorgeous great greasy
handy happy harsh heavy helpful hideous high-quality horrible impressive inaccurate incredible
inexpensive inferior informative ingenious interesting lame lasting leaky light lightweight loose
loud lousy lovely low-quality luxurious magnificent marvelous mediocre messy misleading nasty
natural neat nice noisy odd okay oily outstanding overpriced painful perfect phenomenal pleasant
pleasing poor powerful practical precise pretty quick quiet realistic reasonable refreshing reliable
rich rough rude rugged safe satisfying scratchy sensitive shabby sharp shiny shoddy silky simple
sleek slick slow smelly smooth soft solid soothing spacious stiff sticky stinky strong stunning
stupid sturdy stylish superb superior sweet tasty terrible terrific thick thin tight tiny tough
uncomfortable unique unpleasant unreliable useful useless vibrant vivid warm weak wearable weird
well-made wonderful worse worst worthless yummy
"""
# Between an opinion and its noun: they judge nothing.
_PLAIN = """
big black blue brown full green grey large little long new old overall pink purple quality red short
small white whole yellow
"""
_BEING = """
is are was were be been seems seem seemed looks look looked feels feel felt smells smell smelled
sounds sound sounded tastes taste tasted works work worked stays stayed
"""
_DEGREES = """
a all also always an as at bit both extremely fairly far how incredibly just kind kinda little more
most much never not of overall pretty quite rather really so super that the this too totally truly
very way
"""
# Words beside an opinion that are no feature: they name nothing of a product.
_NO_FEATURES = """
able about above across actually after again against ago all almost along already also although
always among and another any anybody anyone anything anyway anywhere are around ask back because
been before being below best better between big both but buy buying bought came can cannot choice
come could day days did does doing done down during each either else enough even ever every
everybody everyone everything everywhere far few first five for four from gave get gets getting give
given gives giving goes going gone got gotten guess had half has hasn have having her here hers
herself him himself his hour hours how however idea into isn issue issues its itself job just keep
kept kind know last least less let like little long look looking looks lot lots love loved made make
makes making many may maybe me mean might mine minute minutes month months more most much must
myself near neither never new next nobody none nor not nothing now off often once one ones only onto
other others otherwise our ours ourselves out over own people perhaps person plus probably problem
problems purchase put quite rather really reason said same say says second see seem seems seen she
should since some somebody someone something sometimes soon still stuff such sure take taken than
thank thanks that the their theirs them themselves then there these they thing things think this
those though thought three through throughout thus time times today together told too took toward
try trying two under unless until upon use used uses using very want wanted was wasn way ways week
weeks well went were weren what whatever when where whether which while who whole whom whose why
will with within without won would wouldn year years yes yesterday yet you your yours yourself
"""
_FEATURE = r"([a-z][a-z-]*[a-z])"
_TAGS = r"</?[A-Za-z][^<>]{0,200}>"
_ENDS = r"([.!?]+[\"')\]]*)\s+|\s*[\r\n]+\s*"
_BREAK = "\n"


def _any(*words: str) -> str:
    """Pattern of any of some words, longer ones first so that none hides behind its beginning."""
    listed = sorted({word for text in words for word in text.split()}, key=lambda one: -len(one))
    return "(?:" + "|".join(listed) + ")"


# ASCII borders keep the matcher on its fast path.
_BEFORE = rf"(?-u:\b){_any(_OPINIONS)}(?:,? (?:and )?{_any(_OPINIONS, _PLAIN)})* {_FEATURE}(?-u:\b)"
_AFTER = rf"(?-u:\b){_FEATURE} {_any(_BEING)}(?: {_any(_DEGREES)}){{0,3}} {_any(_OPINIONS)}(?-u:\b)"
# Nouns among the words above.
_NOUNS = frozenset(["quality", "smell", "sound", "taste", "feel", "look", "work"])
_LEFT_OUT = (
    frozenset(" ".join((_OPINIONS, _PLAIN, _BEING, _DEGREES, _NO_FEATURES)).split()) - _NOUNS
)


def explanations(reviews: pl.Series, *, seed: int) -> pl.DataFrame:
    """Take a sentence with an opinion out of each review, and the word it is about.

    One sentence of those that hold a pair is drawn by a hash of the review's own text, so what
    comes of a review depends on no other. P5 found its pairs with Sentires; see the module.

    Args:
        reviews: String [n], null or empty where nothing was written; markup is allowed.
        seed: Another one may draw other sentences.

    Returns:
        Strings `explanation`, of 3 to 40 words, and `feature`, of 3 letters or more and in small
        letters, [n]; both null where no sentence holds a pair.
    """
    texts = reviews.cast(pl.String)
    parts = [
        _explained(texts.slice(start, _CHUNK), seed=seed) for start in range(0, len(texts), _CHUNK)
    ]
    return pl.concat(parts or [pl.DataFrame(schema=dict.fromkeys(COLUMNS, pl.String))])


def with_explanations(tables: Tables, column: str, *, seed: int) -> Tables:
    """The same tables with columns `explanation` and `feature` in the interactions.

    Both are outcomes, as the review is: they are known with the event and not before.

    Args:
        tables: Whose interactions hold reviews.
        column: Name of the column of reviews.
        seed: See `explanations`.

    Raises:
        DataError: no such column, one that is not text, or tables that hold explanations already.
    """
    events = tables.interactions
    texts = [name for name in events.columns if events[name].dtype == pl.String]
    if column not in texts:
        close = nearest(column, texts)
        raise DataError(
            f"data.explanations: the interactions have no texts '{column}'"
            + (f"; did you mean '{close}'?" if close else "."),
            allowed=f"columns of text: {', '.join(texts) or 'there are none'}",
            remedy="Name the column of the reviews, and list it in data.columns.text.",
        )
    there = [name for name in COLUMNS if name in events.columns]
    if there:
        raise DataError(
            f"data.explanations: the interactions have a column '{there[0]}' already.",
            remedy="Leave out data.explanations, or rename that column.",
        )
    found = explanations(events[column], seed=seed)
    schema = replace(tables.schema, text=(*tables.schema.text, *COLUMNS))
    return replace(tables, interactions=events.hstack(found), schema=schema)


def _explained(texts: pl.Series, *, seed: int) -> pl.DataFrame:
    """As `explanations`, all at once."""
    sentences = _sentences(texts)
    pairs = sentences.hstack([_features(sentences["sentence"])]).drop_nulls("feature")
    draws = np.array([crc32((text or "").encode()) for text in texts], dtype=np.int64)
    rows, places = pairs["row"].to_numpy(), pairs["place"].to_numpy()
    chosen = (
        pairs.with_columns(draw=pl.Series(_draws(draws[rows], places, seed=seed)))
        .sort("row", "draw", "place")
        .unique("row", keep="first", maintain_order=True)
    )
    every = pl.DataFrame({"row": np.arange(len(texts), dtype=np.int64)})
    joined = every.join(chosen, on="row", how="left", maintain_order="left")
    return joined.select(explanation="sentence", feature="feature")


def _draws(keys: NDArray[np.int64], places: NDArray[np.int64], *, seed: int) -> NDArray[np.uint64]:
    """uint64 [n], one for each sentence."""
    if not len(keys):
        return np.zeros(0, dtype=np.uint64)
    return hashed(keys, places, seed=seed)


def _sentences(texts: pl.Series) -> pl.DataFrame:
    """`row`, `place` in its text, `sentence` of those that are neither short nor long."""
    plain = pl.Series("sentence", list(_unescaped(texts)), dtype=pl.String)
    frame = pl.DataFrame({"row": np.arange(len(texts), dtype=np.int64), "sentence": plain})
    parted = pl.col("sentence").str.replace_all(_TAGS, _BREAK).str.replace_all(_ENDS, f"$1{_BREAK}")
    frame = frame.with_columns(parted.str.split(_BREAK)).explode("sentence").drop_nulls()
    frame = frame.with_columns(
        pl.col("sentence").str.replace_all(r"\s+", " ").str.strip_chars(),
        place=pl.int_range(pl.len(), dtype=pl.Int64).over("row"),
    )
    words = pl.col("sentence").str.count_matches(" ", literal=True) + 1
    return frame.filter(words.is_between(*_WORDS))


def _unescaped(texts: pl.Series) -> Iterator[str | None]:
    """Texts with the characters that entities such as `&#34;` stand for."""
    for text in texts:
        yield unescape(text) if text and "&" in text else text


def _features(sentences: pl.Series) -> pl.Series:
    """The first feature of each sentence, String [n]; null where there is none."""
    small = sentences.str.to_lowercase().alias("sentence")
    found = [
        small.to_frame()
        .select(
            pl.int_range(pl.len(), dtype=pl.Int64).alias("sentence"),
            pl.col("sentence").str.extract_all(pattern).alias("match"),
        )
        .explode("match")
        .drop_nulls()
        .with_columns(feature=pl.col("match").str.extract(pattern), way=pl.lit(way))
        for way, pattern in enumerate((_AFTER, _BEFORE))
    ]
    named = pl.concat(found).filter(_names_something(pl.col("feature")))
    first = named.sort("sentence", "way", maintain_order=True).unique(
        "sentence", keep="first", maintain_order=True
    )
    every = pl.DataFrame({"sentence": np.arange(len(sentences), dtype=np.int64)})
    return every.join(first, on="sentence", how="left", maintain_order="left")["feature"]


def _names_something(word: pl.Expr) -> pl.Expr:
    """Whether a word is like a noun: long enough, no adverb, none of those that name nothing."""
    adverb = word.str.ends_with("ly")
    return (word.str.len_chars() >= 3) & ~adverb & ~word.is_in(sorted(_LEFT_OUT))
