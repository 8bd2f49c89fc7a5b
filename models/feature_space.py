"""From rows (user, item, moment) to the arrays that a network reads; fixed by the train part.

Whatever is known of an item or a user stands in one table per catalogue, which the network holds; a
batch carries their numbers only. Histories come from `Histories`, strictly before each moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from tastemaker.data.splits import Split
from tastemaker.errors import DataError
from tastemaker.models.features import RATING, Feature, Layout
from tastemaker.models.live_trail import Trail
from tastemaker.models.statistics import OF_USERS, Statistics
from tastemaker.models.vocabulary import MISSING, Levels, Scale, Vocabulary

__all__ = ["Columns", "EntityTable", "FeatureSpace"]

Whole = NDArray[np.int64]
Columns = dict[str, NDArray[Any]]
_Coder = Vocabulary | Levels | Scale
_KINDS: dict[str, type[_Coder]] = {"values": Vocabulary, "levels": Levels, "scale": Scale}


@dataclass(frozen=True)
class EntityTable:
    """What is known of every item, or of every user; row i + 1 is that of dense number i.

    Attributes:
        codes: Categorical and list features → int32 [n + 1, values], 0 is padding; row 0 is
            nothing but padding.
        numeric: Names of the numeric features.
        numbers: float32 [n + 1, numeric features], NaN where missing.
    """

    codes: Mapping[str, NDArray[np.int32]]
    numeric: tuple[str, ...]
    numbers: NDArray[np.float32]


class FeatureSpace:
    """Features as arrays.

    Args:
        split: Gives tables and histories.
        layout: Features with their sources.
        coders: Feature → its vocabulary, levels or scale.
        share: Share of likes in the train part.
    """

    def __init__(
        self, split: Split, layout: Layout, *, coders: Mapping[str, _Coder], share: float
    ) -> None:
        self.layout = layout
        self._split, self._coders, self._share = split, dict(coders), share
        lengths = [feature.length for feature in layout.sequences]
        self.history = max(lengths, default=0)
        self._recent = self.history or 10  # events that `liked_share` looks at
        self._statistics = Statistics(split, share=share, length=self._recent)

    @classmethod
    def fit(cls, split: Split, features: Sequence[Feature], *, min_count: int) -> Self:
        """Take vocabularies and scales from the train part.

        Args:
            split: Its train part.
            features: What is declared.
            min_count: Training events a value needs for an embedding of its own.

        Raises:
            UserError: a feature that these tables cannot give.
        """
        layout = Layout.of(features, split.tables)
        labels = split.tables.interactions["label"].to_numpy()[split.train]
        share = float(labels.mean()) if len(labels) else 0.5
        space = cls(split, layout, coders={}, share=share)
        for feature in layout.everything:
            if feature.kind not in ("sequence", "statistic"):
                space._coders[feature.name] = space._fitted(feature, min_count=min_count)
        events = split.tables.interactions[split.train]
        users, items, times = (_whole(events, name) for name in ("user", "item", "time"))
        for feature in layout.context:
            if feature.kind == "statistic":
                column = space._statistics.column(
                    feature.name, users=users, items=items, times=times
                )
                space._coders[feature.name] = Scale.of(column)
        return space

    def columns(
        self,
        users: Whole,
        items: Whole,
        times: Whole,
        *,
        rows: Whole | None = None,
        trail: Trail | None = None,
    ) -> Columns:
        """Arrays [n, …], one per argument of the network.

        Args:
            users: Dense users [n]; -1 is somebody new, of whom nothing is known.
            items: Dense items [n].
            times: Moments [n]; nothing at or after them is looked at.
            rows: Interaction rows [n] that event features are read from; -1, or None for all:
                these are missing.
            trail: What the users did last, as `trail` and `judged` return it; None: what the tables
                hold.

        Returns:
            `item` and `user`: int32 [n], dense number + 1. A sequence: int32 [n, length], likewise,
            0 to the left of shorter histories, newest at the right end; `SEQUENCE.FEATURE`: codes
            of what its steps carry. An event feature: int32 [n, values]. `numbers`: float32 [n,
            k], numeric event features, then statistics.
        """
        found: Columns = {"item": _next(items)}
        if self.of_users:
            found["user"] = _next(users)
        if trail is None and self._reads_past:
            trail = self.trail(users, times)
        for sequence in self.layout.sequences:
            assert trail is not None
            found[sequence.name] = _newest(trail.items, sequence)
            for name in self._carried(sequence):
                found[f"{sequence.name}.{name}"] = _newest(trail.codes[name], sequence)
        at = np.full(len(items), -1) if rows is None else rows
        numbers = []
        for feature in self.layout.context:
            if feature.kind == "statistic":
                column = self._statistics.column(
                    feature.name, users=users, items=items, times=times, trail=trail
                )
                numbers.append(self._scale(feature.name).apply(column))
            elif feature.source == "event" and feature.kind == "numeric":
                numbers.append(self._event_numbers(feature, at))
            elif feature.source == "event":
                found[feature.name] = self._event_codes(feature, at)
        if numbers:
            found["numbers"] = np.column_stack(numbers)
        return found

    def evidence(self, users: Whole, times: Whole) -> Whole:
        """Interaction rows that the longest sequence shows, int64 [n, history].

        Newest at the right end; -1 to the left of shorter histories.
        """
        if not self.history:
            return np.zeros((len(users), 0), dtype=np.int64)
        past = self._split.histories.at(users, times, max_length=self.history)
        return past.padded(self.history)

    def trail(self, users: Whole, times: Whole) -> Trail:
        """What users [n] did last before moments [n], as the tables tell it."""
        past = self._split.histories.at(users, times)
        rows = past.newest(self._recent).padded(self._recent)
        seen, events = rows >= 0, self._split.tables.interactions
        shown, liked = np.zeros(rows.shape, dtype=np.int32), np.zeros(rows.shape, dtype=bool)
        shown[seen] = events["item"].to_numpy()[rows[seen]] + 1
        liked[seen] = events["label"].to_numpy()[rows[seen]] == 1
        coded = {}
        for name, feature in self._event_steps.items():
            coded[name] = np.zeros(rows.shape, dtype=np.int32)
            coded[name][seen] = self._codes(feature, events[name].gather(rows[seen]))[:, 0]
        return Trail(shown, liked, coded, past.lengths)

    def judged(self, trail: Trail, items: ArrayLike, *, liked: ArrayLike) -> Trail:
        """The same after further events that no table holds, such as likes in a conversation.

        A like carries the median rating of the likes in training, a dislike that of the dislikes;
        whatever else a step carries is missing. Dislikes are left out where training has none:
        the model then takes every event for a like.

        Args:
            trail: Of what came before.
            items: Dense items [m], oldest first.
            liked: Bool [m].
        """
        judged, opinions = np.asarray(items, dtype=np.int64), np.asarray(liked, dtype=bool)
        if not self._has_dislikes:
            judged, opinions = judged[opinions], opinions[opinions]
        codes = {name: of[opinions.astype(int)] for name, of in self._usual_codes.items()}
        return trail.followed_by(judged, liked=opinions, codes=codes)

    @property
    def number_names(self) -> tuple[str, ...]:
        """Which feature each column of `numbers` is."""
        return tuple(
            feature.name
            for feature in self.layout.context
            if feature.kind == "statistic"
            or (feature.source == "event" and feature.kind == "numeric")
        )

    def sizes(self) -> dict[str, int]:
        """Rows of the embedding table of each categorical or list feature."""
        return {n: len(c) for n, c in self._coders.items() if not isinstance(c, Scale)}

    def item_table(self) -> EntityTable:
        """What is known of every item."""
        return self._table(self.layout.item_features, self._split.tables.items)

    def user_table(self) -> EntityTable:
        """What is known of every user."""
        return self._table(self.of_users, self._split.tables.users)

    @property
    def of_users(self) -> tuple[Feature, ...]:
        """User features."""
        return tuple(feature for feature in self.layout.context if feature.source == "user")

    @property
    def own_items(self) -> Whole:
        """Dense items with an embedding of their own, ascending; all where ids are not read."""
        coder = self._coders.get("item")
        if not isinstance(coder, Vocabulary):
            return np.arange(self._split.tables.n_items)
        return np.flatnonzero(coder.codes(self._split.tables.items["item_id"]) > MISSING)

    @property
    def own_ratings(self) -> NDArray[np.float32]:
        """Ratings with an embedding of their own, ascending; none where no step carries one."""
        coder = self._coders.get(RATING)
        return np.array(coder.values if isinstance(coder, Levels) else (), dtype=np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        kinds = {kind: name for name, kind in _KINDS.items()}
        return {
            "features": [asdict(feature) for feature in self.declared],
            "share": self._share,
            "coders": {n: {kinds[type(c)]: asdict(c)} for n, c in self._coders.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], split: Split) -> Self:
        """Inverse of `to_dict`, for the tables of `split`: ids unknown to it are unseen.

        Raises:
            UserError: the tables lack a column of the features.
        """
        features = [
            Feature(**{**one, "steps": tuple(one["steps"]), "source": ""})
            for one in values["features"]
        ]
        coders: dict[str, _Coder] = {}
        for name, told in values["coders"].items():
            ((kind, inner),) = told.items()
            tupled: dict[str, Any] = {
                key: tuple(v) if isinstance(v, list) else v for key, v in inner.items()
            }
            coders[name] = _KINDS[kind](**tupled)
        layout = Layout.of(features, split.tables)
        return cls(split, layout, coders=coders, share=values["share"])

    @property
    def declared(self) -> tuple[Feature, ...]:
        """The features as they were declared, item features first."""
        return (*self.layout.candidate, *self.layout.context, *self.layout.sequences)

    def _fitted(self, feature: Feature, *, min_count: int) -> _Coder:
        split = self._split
        if feature.source == "event":
            rows = split.train_events if feature.name == RATING else split.train
            events = split.tables.interactions[rows]
            values, counts = events[feature.name], np.ones(len(rows), dtype=np.int64)
            if feature.name == RATING:
                return Levels(tuple(float(v) for v in np.unique(values.to_numpy())))
        else:
            frame = split.tables.items if feature.source == "item" else split.tables.users
            numbers = split.tables.interactions[feature.source].to_numpy()[split.train_events]
            counts = np.bincount(numbers, minlength=frame.height)
            values = frame[_column(feature)]
        if feature.kind == "numeric":
            return Scale.of(_numbers(values, feature), counts)
        seen = values.filter(pl.Series(counts > 0))
        return Vocabulary.of(seen, counts[counts > 0], min_count=min_count)

    def _table(self, features: Sequence[Feature], frame: pl.DataFrame) -> EntityTable:
        codes, numbers = {}, []
        for feature in features:
            values = frame[_column(feature)]
            if feature.kind == "numeric":
                numbers.append(self._scale(feature.name).apply(_numbers(values, feature)))
            else:
                codes[feature.name] = np.pad(self._codes(feature, values), ((1, 0), (0, 0)))
        matrix = np.column_stack(numbers) if numbers else np.zeros((frame.height, 0), np.float32)
        numeric = tuple(feature.name for feature in features if feature.kind == "numeric")
        return EntityTable(codes, numeric, np.pad(matrix, ((1, 0), (0, 0))))

    def _codes(self, feature: Feature, values: pl.Series) -> NDArray[np.int32]:
        coder = self._coders[feature.name]
        if isinstance(coder, Levels):
            return coder.codes(values.to_numpy()).astype(np.int32)[:, None]
        assert isinstance(coder, Vocabulary)
        if feature.kind == "list":
            return coder.list_codes(_lists(values, feature)).astype(np.int32)
        return coder.codes(values).astype(np.int32)[:, None]

    @property
    def _reads_past(self) -> bool:
        counted = any(feature.name in OF_USERS for feature in self.layout.context)
        return bool(self.layout.sequences) or counted

    @cached_property
    def _event_steps(self) -> dict[str, Feature]:
        """Event features that the steps of any sequence carry."""
        known = {feature.name: feature for feature in self.layout.everything}
        names = [name for sequence in self.layout.sequences for name in sequence.steps]
        return {name: known[name] for name in names if known[name].source == "event"}

    def _carried(self, sequence: Feature) -> list[str]:
        return [name for name in sequence.steps if name in self._event_steps]

    @cached_property
    def _has_dislikes(self) -> bool:
        labels = self._split.tables.interactions["label"].to_numpy()
        return not bool(labels[self._split.train_events].all())

    @cached_property
    def _usual_codes(self) -> dict[str, NDArray[np.int32]]:
        """For each event feature of steps, what a dislike and a like carry: int32 [2]."""
        found = {name: np.full(2, MISSING, dtype=np.int32) for name in self._event_steps}
        coder = self._coders.get(RATING)
        if RATING in found and isinstance(coder, Levels):
            events = self._split.tables.interactions[self._split.train_events]
            ratings, labels = events[RATING].to_numpy(), events["label"].to_numpy()
            for opinion in (0, 1):
                of = ratings[labels == opinion]
                if len(of):
                    found[RATING][opinion] = coder.codes(np.median(of, keepdims=True))[0]
        return found

    def _event_codes(self, feature: Feature, rows: Whole) -> NDArray[np.int32]:
        return self._codes(feature, self._event_values(feature, rows))

    def _event_numbers(self, feature: Feature, rows: Whole) -> NDArray[np.float32]:
        values = _numbers(self._event_values(feature, rows), feature)
        return self._scale(feature.name).apply(values)

    def _event_values(self, feature: Feature, rows: Whole) -> pl.Series:
        """Values of a column of the interactions; null where the row is -1."""
        places = pl.Series(rows).replace(-1, None)
        return self._split.tables.interactions[feature.name].gather(places)

    def _scale(self, name: str) -> Scale:
        coder = self._coders[name]
        assert isinstance(coder, Scale)
        return coder


def _column(feature: Feature) -> str:
    return f"{feature.name}_id" if feature.name in ("item", "user") else feature.name


def _next(numbers: Whole) -> NDArray[np.int32]:
    return (numbers + 1).astype(np.int32)


def _newest(steps: NDArray[np.int32], sequence: Feature) -> NDArray[np.int32]:
    return np.ascontiguousarray(steps[:, steps.shape[1] - sequence.length :])


def _whole(frame: pl.DataFrame, name: str) -> Whole:
    return frame[name].to_numpy().astype(np.int64)


def _numbers(values: pl.Series, feature: Feature) -> NDArray[np.float64]:
    """float64 [n], NaN where missing or not finite."""
    try:
        numbers = values.cast(pl.Float64).fill_null(float("nan")).to_numpy(writable=True)
    except pl.exceptions.PolarsError:
        raise DataError(
            f"train.features.{feature.name}: the column holds {values.dtype}, not numbers.",
            remedy="Declare it categorical, or list it under data.columns.numeric.",
        ) from None
    numbers[~np.isfinite(numbers)] = np.nan
    return numbers


def _lists(values: pl.Series, feature: Feature) -> pl.Series:
    if isinstance(values.dtype, pl.List):
        return values
    raise DataError(
        f"train.features.{feature.name}: the column holds {values.dtype}, not lists.",
        remedy="Say what parts its values under data.columns.lists, such as `genres: '|'`.",
    )
