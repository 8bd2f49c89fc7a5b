"""What a recommender reads of users, items and the past: declared by name, checked against tables.

Five kinds need nothing but a column: `categorical`, `numeric`, `list`, `statistic` and `sequence`.
Text vectors are `models.text_vectors.TextVectors`. The ids themselves are the categorical columns
`user` and `item`; `rating` is what a step of a history was given.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self, get_args

from tastemaker.data.schema import Schema
from tastemaker.data.tables import Tables
from tastemaker.errors import UnknownNameError, UserError

__all__ = [
    "KINDS",
    "STATISTICS",
    "Feature",
    "Kind",
    "Layout",
    "Source",
    "default_features",
]

Kind = Literal["categorical", "numeric", "list", "statistic", "sequence"]
Source = Literal["item", "user", "event", ""]
KINDS: tuple[Kind, ...] = get_args(Kind)
STATISTICS = ("item_mean", "item_count", "liked_share", "user_count")
RATING = "rating"
_FORBIDDEN = ("label", "time", "sampled", "row")


@dataclass(frozen=True)
class Feature:
    """One declared input.

    Attributes:
        name: Of the feature; also of its column, unless it is a sequence.
        kind: `categorical`: only equality matters. `numeric`: standardised. `list`: several
            values, averaged. `statistic`: a name of `STATISTICS`, counted from training events
            strictly before the row. `sequence`: the newest events of the user before the row.
        steps: Of a sequence: item features, event features or `rating`, which every step carries.
        length: Of a sequence: newest events looked at; KAR: 10.
        source: Where the column stands; empty before `Layout.of` has found it, and for
            statistics and sequences.
    """

    name: str
    kind: Kind
    steps: tuple[str, ...] = ()
    length: int = 10
    source: Source = ""


@dataclass(frozen=True)
class Layout:
    """Features with their sources, in the order in which a network lays them out.

    Attributes:
        candidate: Item features.
        context: User features, then event features, then statistics.
        sequences: In declared order.
        steps_only: Item features that only steps carry.
        event_steps: Event features that only steps carry; `rating` is one.
    """

    candidate: tuple[Feature, ...]
    context: tuple[Feature, ...]
    sequences: tuple[Feature, ...]
    steps_only: tuple[Feature, ...]
    event_steps: tuple[Feature, ...]

    @classmethod
    def of(cls, features: Sequence[Feature], tables: Tables) -> Self:
        """Find every column, and check that each can be what it is declared as.

        Raises:
            UserError: an unknown column or statistic, a column of two tables, a column of the
                answer itself, a sequence without steps, or nothing that tells items apart.
        """
        placed = [_placed(feature, tables) for feature in features]
        names = [feature.name for feature in placed]
        again = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        if again:
            raise UserError(f"train.features: '{again[0]}' is declared twice.")
        sequences = tuple(feature for feature in placed if feature.kind == "sequence")
        known = {feature.name: feature for feature in placed}
        extra = [
            _placed(_step(name, tables), tables)
            for name in dict.fromkeys(name for one in sequences for name in one.steps)
            if name not in known
        ]
        layout = cls(
            candidate=tuple(feature for feature in placed if feature.source == "item"),
            context=tuple(_context(placed)),
            sequences=sequences,
            steps_only=tuple(feature for feature in extra if feature.source == "item"),
            event_steps=tuple(feature for feature in extra if feature.source == "event"),
        )
        layout._check_steps(known | {feature.name: feature for feature in extra})
        if not layout.candidate:
            raise UserError(
                "train.features: nothing tells items apart.",
                remedy="Declare `item: categorical`, or a column of the items.",
            )
        return layout

    def _check_steps(self, known: dict[str, Feature]) -> None:
        for sequence in self.sequences:
            if not sequence.steps:
                raise UserError(
                    f"train.features.{sequence.name}: its steps carry nothing.",
                    remedy="Write for example `sequence: [item, rating]`.",
                )
            for name in sequence.steps:
                feature = known[name]
                if feature.source == "user" or feature.kind in ("statistic", "sequence"):
                    raise UserError(
                        f"train.features.{sequence.name}: a step cannot carry '{name}'.",
                        allowed=f"item features, event features, {RATING}",
                    )

    @property
    def item_features(self) -> tuple[Feature, ...]:
        """Item features of the candidate, then those that only steps carry."""
        return (*self.candidate, *self.steps_only)

    @property
    def everything(self) -> tuple[Feature, ...]:
        """All features, sequences included."""
        return (*self.item_features, *self.context, *self.event_steps, *self.sequences)


def default_features(
    schema: Schema, tables: Tables, *, history: int = 10, user_id: bool = False
) -> tuple[Feature, ...]:
    """What KAR's backbones read: the item with its declared attributes, and the last events.

    Declared columns (`data.columns`: categorical, lists, numeric) of items describe the candidate
    and every step, which also carries its rating; those of users are read as they are. Columns of
    the interactions are never taken by default: they may be written after the fact.

    Args:
        schema: Which columns are declared as what.
        tables: Where they stand.
        history: Length of the sequence.
        user_id: Whether the user's id is read too; KAR does not, and users unseen in training
            would all share one vector.
    """
    declared: list[tuple[str, Kind]] = [(name, "categorical") for name in schema.categorical]
    declared += [(name, "list") for name in schema.lists]
    declared += [(name, "numeric") for name in schema.numeric]
    of_items = [Feature(n, k) for n, k in declared if n in tables.items.columns]
    of_users = [
        Feature(name, kind)
        for name, kind in declared
        if name in tables.users.columns and name not in tables.items.columns
    ]
    rated = (RATING,) if schema.rating is not None else ()
    steps = ("item", *(feature.name for feature in of_items), *rated)
    ids = [Feature("item", "categorical"), *([Feature("user", "categorical")] if user_id else [])]
    past = Feature("history", "sequence", steps=steps, length=history)
    return (*ids, *of_items, *of_users, past)


def _context(placed: Iterable[Feature]) -> list[Feature]:
    features = list(placed)
    of_users = [feature for feature in features if feature.source == "user"]
    of_events = [feature for feature in features if feature.source == "event"]
    return [*of_users, *of_events, *(f for f in features if f.kind == "statistic")]


def _placed(feature: Feature, tables: Tables) -> Feature:
    """The feature with its source, its column checked."""
    name = feature.name
    if feature.kind == "sequence":
        return feature
    if feature.kind == "statistic":
        if name not in STATISTICS:
            raise UnknownNameError("statistic", name, STATISTICS)
        return feature
    if name in ("item", "user"):
        if feature.kind != "categorical":
            raise UserError(f"train.features.{name}: an id is categorical, not {feature.kind}.")
        return replace(feature, source="item" if name == "item" else "user")
    answer = (RATING, *tables.schema.label.columns, tables.schema.rating, *_FORBIDDEN)
    if name in answer and feature.source != "event":
        raise UserError(
            f"train.features.{name}: is part of the answer, which no feature may show.",
            remedy=f"A sequence may carry the {RATING} of earlier events.",
        )
    return replace(feature, source=feature.source or _source(name, tables))


def _source(name: str, tables: Tables) -> Source:
    places: dict[Source, Sequence[str]] = {
        "item": tables.items.columns,
        "user": tables.users.columns,
        "event": tables.interactions.columns,
    }
    found = [source for source, columns in places.items() if name in columns]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"train.features.{name}: stands in several tables ({', '.join(map(str, found))}).",
            remedy="Rename the column in one of them.",
        )
    known = {column for columns in places.values() for column in columns}
    raise UnknownNameError("column of train.features", name, known)


def _step(name: str, tables: Tables) -> Feature:
    """A feature that only the steps of a sequence carry: as it is declared in the schema."""
    if name == RATING:
        return Feature(name, "categorical", source="event")
    schema = tables.schema
    kind: Kind = "list" if name in schema.lists else "categorical"
    return Feature(name, "numeric" if name in schema.numeric else kind)
