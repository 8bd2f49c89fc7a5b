"""How each field of the catalogue gets its values, for a block of examples at a time.

Whatever is said of the past comes from `Histories`, so from events strictly before the target. What
is drawn at random (candidates, an asked rating) is a hash of seed, epoch, row and item: the same
target gets the same values in whichever shard, order or process it is rendered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from tastemaker.data.hashing import fractions, hashed
from tastemaker.data.history import Only, Past
from tastemaker.data.rating_bands import RatingBands
from tastemaker.errors import UserError
from tastemaker.prompts.catalogue import Catalogue
from tastemaker.prompts.columns import Column, Listing, Value, borders, glued, joined
from tastemaker.prompts.examples import Examples
from tastemaker.prompts.render import quotable

if TYPE_CHECKING:
    from tastemaker.prompts.binding import Binder

__all__ = ["OF_CATEGORIES", "VALUES", "Block", "Bound", "noisy_rating"]

Rows = NDArray[np.int64]
Bound = Value | str | list[str]
_SEPARATOR, _ASKED, _OTHER, _PLACE, _NEED, _NOISE = range(1, 7)  # what a random number is for
_EPOCH = 1_000_003  # apart from one another, whatever the seed
_MOST_TASTES = 3
_MOST_FEEDBACK = 10


class Block:
    """Values shared by the fields of one block of examples.

    Args:
        binder: What is shown, and how much of it.
        examples: n targets, users or items.
        shown: int64 [n], most events of each history where it is less than the binder's.
    """

    def __init__(self, binder: Binder, examples: Examples, shown: Rows | None) -> None:
        self.binder, self.examples, self._shown = binder, examples, shown
        self.catalogue, self.tables = binder.catalogue, binder.tables

    @cached_property
    def past(self) -> Past:
        """Newest events before each target."""
        binder = self.binder
        return self._cut(self._before().newest(binder.history, anchor=binder.anchor))

    @cached_property
    def likes(self) -> Past:
        """Newest likes before each target."""
        return self._cut(self._before(only="liked").newest(self.binder.likes))

    def _before(self, *, only: Only | None = None) -> Past:
        examples, histories = self.examples, self.binder.histories
        if len(examples) and int(examples.rows.min()) < 0:
            return histories.at(examples.users, examples.times, only=only)
        return histories.before(examples.rows, only=only)

    def _cut(self, past: Past) -> Past:
        """Without the oldest events of histories that must be shorter."""
        return past if self._shown is None else past.newest(self._shown)

    @cached_property
    def events(self) -> pl.DataFrame:
        """Item, label and row of every event shown."""
        frame = self.tables.interactions
        return pl.DataFrame(
            {name: frame[name].to_numpy()[self.past.events] for name in ("item", "label")}
        )

    def listing(self, values: pl.Series, *, liked: bool | None = None) -> Listing:
        """A text per event of the history, from one text per item."""
        offsets, items = self.events_of(liked=liked)
        return Listing(offsets, (Column(values, items),))

    def listing_of_likes(self, values: pl.Series) -> Listing:
        """A text per like of `likes`, from one text per item."""
        items = self.tables.interactions["item"].to_numpy()[self.likes.events]
        return Listing(self.likes.offsets, (Column(values, items),))

    def events_of(self, *, liked: bool | None) -> tuple[Rows, Rows]:
        """Borders of the rows, and the items of all events or of those with this label."""
        items = self.events["item"].to_numpy()
        if liked is None:
            return self.past.offsets, items
        chosen = (self.events["label"].to_numpy() == 1) == liked
        running = borders(chosen)
        return running[self.past.offsets], items[chosen]

    def works(self, *, liked: bool) -> Listing:
        """(title, author) of the history's likes or other events."""
        offsets, items = self.events_of(liked=liked)
        author = self.catalogue.text("author")
        names = pl.Series([""]) if author is None else author.values
        codes = np.zeros_like(items) if author is None else items
        columns = (Column(self.catalogue.titles, items), Column(names, codes))
        return Listing(offsets, columns, tuples=True)

    def ratings(self, rows: Rows) -> Column:
        """Rating of each interaction row."""
        shown, places = self.catalogue.ratings
        return Column(shown, places[rows])

    def chances(self, what: int, *more: ArrayLike) -> NDArray[np.float64]:
        """Numbers from 0 to 1 that belong to the examples."""
        rows = np.where(self.examples.rows >= 0, self.examples.rows, self.examples.users)
        extra = [np.asarray(one) for one in more]
        columns = (rows, self.examples.items, np.int64(self.binder.epoch), np.int64(what))
        if extra:
            columns = tuple(np.asarray(one)[..., None] for one in columns)  # type: ignore[assignment]
        return fractions(hashed(*columns, *extra, seed=self.binder.seed))

    @cached_property
    def choices(self) -> Rows:
        """int64 [n, candidates], the target at a random place among items not met."""
        wanted, targets = self.binder.candidates, self.examples.items[:, None]
        drawn = self.binder.draws(
            self.examples.rows,
            per_row=wanted - 1,
            seed=self.binder.seed + _EPOCH * self.binder.epoch,
        )
        own = self.tables.interactions["item"].to_numpy()[self.examples.rows][:, None]
        if drawn.shape == (len(targets), wanted - 1):
            # Asked about another item than the row's own, which is then free to be offered.
            drawn = np.where((drawn == targets) & (targets != own), own, drawn)
        if drawn.shape != (len(targets), wanted - 1) or (drawn == targets).any():
            raise UserError(
                f"the candidates' source gave {drawn.shape} items, or a target among them.",
                allowed=f"{wanted - 1} other items for each target",
            )
        whole = np.concatenate([targets, drawn], axis=1)
        order = np.argsort(self.chances(_PLACE, np.arange(wanted)), axis=1, kind="stable")
        return np.take_along_axis(whole, order, axis=1).astype(np.int64)

    def candidates(self, values: pl.Series) -> Listing:
        """A text per candidate, from one text per item."""
        items = self.choices
        offsets = np.arange(len(items) + 1, dtype=np.int64) * items.shape[1]
        return Listing(offsets, (Column(values, items.ravel()),))


def _by_user(choose: Callable[[Catalogue], pl.Series]) -> Callable[[Block], Bound]:
    return lambda block: Column(choose(block.catalogue), block.examples.users)


def _by_item(choose: Callable[[Catalogue], pl.Series]) -> Callable[[Block], Bound]:
    return lambda block: Column(choose(block.catalogue), block.examples.items)


def _rated_history(block: Block) -> Bound:
    titles = Column(block.catalogue.titles, block.events["item"].to_numpy())
    return Listing(block.past.offsets, (titles, block.ratings(block.past.events)), tuples=True)


def _judged_history(block: Block) -> Bound:
    titles = Column(block.catalogue.titles, block.events["item"].to_numpy())
    liked = (block.events["label"].to_numpy() == 1).astype(np.int64)
    judgements = Column(pl.Series(["disliked", "liked"]), liked)
    return Listing(block.past.offsets, (titles, judgements), tuples=True)


def _reviewed_history(block: Block) -> Bound:
    items, events = block.events["item"].to_numpy(), block.past.events
    columns = [Column(block.catalogue.titles, items)]
    for name in ("description", "review"):
        found = block.catalogue.text(name)
        if found is None:
            columns.append(Column(pl.Series([""]), np.zeros_like(items)))
        else:
            columns.append(Column(found.values, items if found.place == "items" else events))
    return Listing(block.past.offsets, tuple(columns), tuples=True)


def _gathered(listing: Listing, wanted: Rows) -> Listing:
    """The lists of the rows wanted."""
    lengths = listing.lengths[wanted]
    offsets = borders(lengths)
    starts = np.repeat(listing.offsets[:-1][wanted] - offsets[:-1], lengths)
    places = np.arange(int(offsets[-1])) + starts
    return Listing(offsets, tuple(one.take(places) for one in listing.columns), listing.tuples)


def _categories(block: Block) -> Listing:
    found = block.catalogue.categories
    if found is None:
        raise UserError(
            "no column of the items holds categories.",
            remedy="Say which one does: build.columns: {category: COLUMN}",
        )
    return _gathered(found, block.examples.items)


def _first_category(block: Block) -> Column:
    return joined(_categories(block).sliced(0, 1))


def _vague_intention(block: Block) -> Bound:
    """One of the target's categories, drawn, in the first person."""
    found = _categories(block)
    place = (block.chances(_NEED) * np.maximum(found.lengths, 1)).astype(np.int64)
    chosen = found.places == np.repeat(place, found.lengths)
    offsets = borders(np.minimum(found.lengths, 1))
    one = Listing(offsets, (found.columns[0].take(np.flatnonzero(chosen)),))
    text = glued(["I am in the mood for something in ", joined(one), "."])
    return Column(text.set(pl.Series(found.lengths == 0), ""))


def _preference(block: Block) -> Bound:
    """The commonest categories of the history's likes, as a phrase."""
    if block.catalogue.categories is None:
        _categories(block)
    offsets, items = block.events_of(liked=True)
    of_likes = _gathered(block.catalogue.categories, items)  # type: ignore[arg-type]
    counted = (
        pl.DataFrame(
            {
                "row": np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))[of_likes.rows],
                "code": of_likes.columns[0].codes,
            }
        )
        .group_by("row", "code")
        .len()
        .sort("row", "len", "code", descending=[False, True, False])
        .group_by("row", maintain_order=True)
        .head(_MOST_TASTES)
    )
    lengths = np.bincount(counted["row"].to_numpy(), minlength=len(block.examples))
    offsets = borders(lengths)
    column = Column(of_likes.columns[0].values, counted["code"].to_numpy())
    tastes = Listing(offsets, (column,))
    return Column(_enumerated(tastes, before="mostly likes "))


def _enumerated(listing: Listing, *, before: str) -> pl.Series:
    """`before A, B and C` for each row; empty for an empty one."""
    last = np.repeat(listing.lengths, listing.lengths) - 1
    signs = np.select([listing.places == 0, listing.places == last], [0, 2], default=1)
    sign = Column(pl.Series([before, ", ", " and "]), signs)
    whole = Column(glued([sign, listing.columns[0]], height=len(signs)))
    return joined(Listing(listing.offsets, (whole,))).series()


def _feedback(block: Block) -> Bound:
    """Newest training reviews of each item."""
    found, train = block.catalogue.text("review"), block.binder.train
    none = Column(pl.Series([], dtype=pl.String))
    if found is None or found.place != "interactions" or train is None:
        return Listing(np.zeros(len(block.examples) + 1, dtype=np.int64), (none,))
    frame = pl.DataFrame(
        {
            "row": train,
            "item": block.tables.interactions["item"].to_numpy()[train],
            "time": block.tables.interactions["time"].to_numpy()[train],
        }
    ).filter(found.values.gather(train) != "")
    wanted = pl.DataFrame({"item": block.examples.items, "before": block.examples.times})
    newest = (
        wanted.with_row_index("place")
        .join(frame, on="item")
        .filter(pl.col("time") < pl.col("before"))
        .sort("place", "time", "row", descending=[False, True, True])
        .group_by("place", maintain_order=True)
        .head(_MOST_FEEDBACK)
    )
    lengths = np.bincount(newest["place"].to_numpy(), minlength=len(block.examples))
    offsets = borders(lengths)
    return Listing(offsets, (Column(found.values, newest["row"].to_numpy()),))


def _asked_rating(block: Block) -> Bound:
    """The true rating half of the time, else one of the others (P5, prompts 1-3 and 1-8)."""
    shown, places = block.catalogue.ratings
    true = places[block.examples.rows]
    other = (block.chances(_OTHER) * max(len(shown) - 1, 1)).astype(np.int64)
    other = (true + 1 + other) % max(len(shown), 1)
    return Column(shown, np.where(block.chances(_ASKED) < 0.5, true, other))


def noisy_rating(block: Block, bands: RatingBands) -> Column:
    """A number with one decimal out of the band of each target's rating (P5, training answers)."""
    ratings = block.tables.interactions["rating"].to_numpy()[block.examples.rows]
    shown = pl.Series(bands.texts(), dtype=pl.String)
    return Column(shown, bands.places(ratings, block.chances(_NOISE)))


def _separator(block: Block) -> Bound:
    return Column(pl.Series([" , ", " -> "]), (block.chances(_SEPARATOR) >= 0.5).astype(np.int64))


def _domain(block: Block) -> Bound:
    frame = block.tables.interactions
    if "domain" not in frame.columns or (block.examples.rows < 0).any():
        return ""
    kind = frame.schema["domain"]
    assert isinstance(kind, pl.Enum)
    names = kind.categories
    codes = frame["domain"].to_physical().fill_null(len(names)).to_numpy()[block.examples.rows]
    shown = [*map(quotable, names.to_list()), ""]
    return Column(pl.Series(shown, dtype=pl.String), codes.astype(np.int64))


OF_CATEGORIES = frozenset(
    {"category", "topics", "topic_count", "intention", "vague_intention", "preference"}
)
VALUES: Mapping[str, Callable[[Block], Bound]] = {
    "user_id": _by_user(lambda known: known.user_ids),
    "user_index": _by_user(lambda known: known.user_index),
    "user_name": _by_user(lambda known: known.user_names),
    "profile": _by_user(lambda known: known.profiles),
    "user_attributes": lambda block: _gathered(
        block.catalogue.user_attributes, block.examples.users
    ),
    "title": _by_item(lambda known: known.titles),
    "item_id": _by_item(lambda known: known.item_ids),
    "item_index": _by_item(lambda known: known.item_index),
    "attributes": lambda block: _gathered(block.catalogue.attributes, block.examples.items),
    "category": _first_category,
    "topics": lambda block: _categories(block).sliced(1, None),
    "topic_count": lambda block: Column(
        pl.Series(np.maximum(_categories(block).lengths - 1, 0))
    ).text(),
    "intention": lambda block: joined(_categories(block), ", "),
    "vague_intention": _vague_intention,
    "history": lambda block: block.listing(block.catalogue.titles),
    "history_index": lambda block: block.listing(block.catalogue.item_index),
    "liked": lambda block: block.listing(block.catalogue.titles, liked=True),
    "disliked": lambda block: block.listing(block.catalogue.titles, liked=False),
    "liked_works": lambda block: block.works(liked=True),
    "disliked_works": lambda block: block.works(liked=False),
    "liked_before": lambda block: block.listing_of_likes(block.catalogue.titles),
    "liked_before_index": lambda block: block.listing_of_likes(block.catalogue.item_index),
    "rated_history": _rated_history,
    "judged_history": _judged_history,
    "reviewed_history": _reviewed_history,
    "preference": _preference,
    "feedback": _feedback,
    "candidates": lambda block: block.candidates(block.catalogue.titles),
    "candidates_index": lambda block: block.candidates(block.catalogue.item_index),
    "rating": lambda block: block.ratings(block.examples.rows),
    "asked_rating": _asked_rating,
    "lowest": lambda block: block.catalogue.scale[0],
    "highest": lambda block: block.catalogue.scale[1],
    "source": lambda block: quotable(block.tables.source),
    "separator": _separator,
    "domain": _domain,
}
