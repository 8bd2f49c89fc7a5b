"""Everything a conversation looks things up in, and how it is told to people and models."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import polars as pl

from tastemaker.agents.dialogue.guard import Guard, cleaned
from tastemaker.agents.dialogue.names import TitleNames
from tastemaker.agents.dialogue.planning import Plan, Planner, visitor_of
from tastemaker.agents.dialogue.reasons import Evidence, explanation, reasons, value_told
from tastemaker.agents.dialogue.wish import Card, State
from tastemaker.data.tables import Tables
from tastemaker.errors import UnknownNameError, UserError
from tastemaker.models.catalogue.conditions import Condition, holds
from tastemaker.models.catalogue.facets import Facet
from tastemaker.models.catalogue.store import Catalogue
from tastemaker.models.live import Influence, LiveRecommender, Past
from tastemaker.models.visitor import Visitor
from tastemaker.prompts.render import plain

__all__ = ["Desk", "Texts", "specific"]

_SHOWN_VALUES = 40  # of a facet, named to a model
_PAST = 200  # events of a visitor that reasons may name
_NAMED = re.compile(r"\*\*(.+?)\*\*")
_SURE = 97.0  # of 100, for a title given in place of an id
_TEXT = 600  # characters of a knowledge text that a model is shown


@dataclass(frozen=True)
class Texts:
    """Knowledge in words.

    Attributes:
        users: Dense user → text about their taste.
        items: Dense item → facts.
    """

    users: Mapping[int, str]
    items: Mapping[int, str]


@dataclass(frozen=True, eq=False)
class Desk:
    """What tools, planning and wording share.

    Attributes:
        catalogue: What may be offered.
        recommender: Whose scores rank it.
        planner: Turns demands into items.
        tables: External ids and users.
        texts: Knowledge in words.
    """

    catalogue: Catalogue
    recommender: LiveRecommender
    planner: Planner
    tables: Tables
    texts: Texts

    @cached_property
    def facets(self) -> Mapping[str, Facet]:
        """Facets by name."""
        return {facet.name: facet for facet in self.catalogue.facets}

    @cached_property
    def columns_told(self) -> str:
        """The columns of the catalogue in one line, for a model."""
        return "; ".join(_facet_told(facet) for facet in self.catalogue.facets)

    def visitor(self, state: State) -> Visitor:
        """Whose taste counts."""
        return visitor_of(state)

    def numbers(self, item_ids: Sequence[str]) -> list[int]:
        """Dense numbers of items given by external id, or else by title.

        Raises:
            UserError: an item that is not in the catalogue.
        """
        return [self._item_number(str(one)) for one in item_ids]

    def number(self, column: str) -> str:
        """A column of numbers by its name.

        Raises:
            UnknownNameError: no such column.
        """
        known = [name for name, facet in self.facets.items() if facet.kind == "number"]
        by_told = {cleaned(name): name for name in known}
        if column not in known and column not in by_told:
            raise UnknownNameError("column of numbers", column, known)
        return column if column in known else by_told[column]

    def checked(self, conditions: Sequence[Condition]) -> tuple[Condition, ...]:
        """Conditions with the values as they stand in the catalogue.

        Raises:
            UserError: a column, value or operator that the catalogue does not have.
        """
        return tuple(_checked(one, self.facets) for one in conditions)

    def narrowed(self, state: State, conditions: Sequence[Condition]) -> State:
        """The state with further demands beside those that the visitor stated."""
        return replace(state, conditions=(*state.conditions, *self.checked(conditions)))

    def asked(
        self, state: State, *, topic: str, order: tuple[str, bool] | None, count: int
    ) -> State:
        """The state with what a tool asks for."""
        return replace(
            state,
            topic=topic or state.topic,
            order=order or state.order,
            count=count,
        )

    def told(self, items: Sequence[int], *, state: State) -> list[dict[str, Any]]:
        """Items as plain values for a model: id, title, facets, and whether all demands hold."""
        found = []
        for one in self.catalogue.items(list(items)):
            values = {name: value for name, value in one.values.items() if name in self.facets}
            told = {cleaned(name): _plain(value) for name, value in values.items()}
            entry = {**told, "item_id": self.item_id(one.item), "title": cleaned(one.title)}
            if state.conditions:
                entry["meets_the_demands"] = holds(state.conditions, one.values)
            found.append(entry)
        return found

    def item_id(self, item: int) -> str:
        """An external id as plain text of one line; `numbers` takes it."""
        return cleaned(str(self.tables.items["item_id"][item]))

    def past(self, state: State, *, count: int) -> dict[str, Any]:
        """What the visitor chose before, newest first, and what is known of their taste."""
        titles = self.catalogue.titles
        events = [
            {
                "item_id": self.item_id(one.item),
                "title": cleaned(titles[one.item]),
                "liked": one.liked,
                "rating": one.rating,
            }
            for one in self.recommender.history(visitor_of(state), count=count)
        ]
        told: dict[str, Any] = {"history": events}
        if text := self.taste(state):
            told["knowledge"] = plain(text)[:_TEXT]
        return told

    def taste(self, state: State) -> str:
        """Knowledge about the visitor in words; may be empty."""
        return "" if state.user is None else self.texts.users.get(state.user, "")

    def influences(self, item: int, state: State) -> list[Influence]:
        """What drove the score of an item, strongest first."""
        return self.recommender.influences(visitor_of(state), item)

    def explained(self, item: int, state: State) -> dict[str, Any]:
        """The same as plain values for a model, with the knowledge text of the item."""
        titles = self.catalogue.titles
        drivers = [
            {
                "what": one.kind,
                "name": one.name if one.item is None else cleaned(titles[one.item]),
                **({} if one.item is None else {"item_id": self.item_id(one.item)}),
                "effect_in_log_odds": round(one.effect, 3),
            }
            for one in self.influences(item, state)[:8]
        ]
        (told,) = self.told([item], state=state)
        said = {
            cleaned(name): plain(value)[:_TEXT]
            for name, value in self.catalogue.item(item).values.items()
            if name not in self.facets and isinstance(value, str)
        }
        if text := self.texts.items.get(item, ""):
            told["knowledge"] = plain(text)[:_TEXT]
        return {**said, **told, "drivers": drivers}

    def values_of(self, items: Sequence[int]) -> list[Mapping[str, Any]]:
        """What the catalogue says of items: column → value."""
        return [one.values for one in self.catalogue.items(list(items))]

    def title(self, item: int) -> str:
        """A title as plain text of one line."""
        return cleaned(self.catalogue.titles[item])

    def chances(self, items: Sequence[int], state: State) -> list[float]:
        """Probability of a like for each item, in their order."""
        found = dict(self.planner.ranked(items, visitor_of(state))) if items else {}
        return [found[item] for item in items]

    def cards(
        self, items: Sequence[int], chances: Sequence[float], *, state: State, why: bool = True
    ) -> tuple[Card, ...]:
        """Items as cards.

        Args:
            items: Dense numbers, in the order to show them.
            chances: Probability of a like for each.
            state: What the conversation has come to.
            why: Whether to find out what drove each score; else reasons rest on demands only.
        """
        drivers = [self.influences(item, state) if why else [] for item in items]
        past = self._latest(state) if why else {}
        found = []
        for one, chance, own in zip(
            self.catalogue.items(list(items)), chances, specific(drivers), strict=True
        ):
            values = {name: one.values[name] for name in self.facets if name in one.values}
            card = Card(one.item, one.item_id, one.title, chance, values)
            evidence = self._evidence(one.item, state, influences=own, past=past)
            found.append(replace(card, reasons=reasons(card, state=state, evidence=evidence)))
        return tuple(found)

    def explanation(self, card: Card, state: State) -> str:
        """What speaks for and against an item, in lines."""
        influences, past = self.influences(card.item, state), self._latest(state)
        evidence = self._evidence(card.item, state, influences=influences, past=past)
        return explanation(card, state=state, evidence=evidence)

    def description(self, card: Card) -> str:
        """What the catalogue and the knowledge say about an item, in lines."""
        lines = [f"**{cleaned(card.title)}**"]
        for name, value in self.catalogue.item(card.item).values.items():
            if told := value_told(value):
                lines.append(f"- {cleaned(name.replace('_', ' '))}: {told[:_TEXT]}")
        text = plain(self.texts.items.get(card.item, "")[:_TEXT])
        if told := "".join(Guard(self.names, allowed=(card.item,)).screen([text])):
            lines.append(f"- {cleaned(told)}")
        return "\n".join(lines)

    def users(self, query: str, *, count: int) -> list[dict[str, Any]]:
        """Known users whose id begins with some text: `user_id` and number of `events`."""
        begins = pl.col("user_id").str.starts_with(query.strip())
        return self._known_users.filter(begins).head(count).to_dicts()

    def named(self, text: str) -> tuple[int, ...]:
        """Items that an answer of ours named, in its order: what it shows in bold."""
        found = (self._shown_titles.get(name) for name in _NAMED.findall(text))
        return tuple(dict.fromkeys(item for item in found if item is not None))

    def nothing(self, plan: Plan) -> str:
        """Why a plan holds no item, in words."""
        if plan.allowed:
            return f"all {plan.allowed} items that fit have been met or shown"
        if not plan.relaxations:
            return "no item satisfies the demands"
        best = plan.relaxations[0]
        return f"without '{best.condition}' there would be {best.items}"

    @cached_property
    def names(self) -> TitleNames:
        """Finds titles in texts."""
        return TitleNames(self.catalogue.titles)

    @cached_property
    def _known_users(self) -> pl.DataFrame:
        """`user_id` as text and number of `events` of every user."""
        ids = self.tables.users.select("user", user_id=pl.col("user_id").cast(pl.String))
        counts = self.tables.happened.group_by("user").len("events")
        found = ids.join(counts, on="user", how="left", maintain_order="left")
        return found.select("user_id", pl.col("events").fill_null(0))

    @cached_property
    def _shown_titles(self) -> Mapping[str, int]:
        """Items by their title as answers show it."""
        return {self.title(item): item for item in range(len(self.catalogue))}

    @cached_property
    def _told_ids(self) -> Mapping[str, int]:
        """Items whose id cannot be told as it is, by what is told instead."""
        ids = map(str, self.tables.items["item_id"])
        return {cleaned(one): item for item, one in enumerate(ids) if cleaned(one) != one}

    def _item_number(self, name: str) -> int:
        try:
            return self.tables.item_index(name)
        except UserError:
            if name in self._told_ids:
                return self._told_ids[name]
            for hit in self.catalogue.lookup(name, count=1):
                if hit.score >= _SURE:
                    return hit.item
            raise

    def _latest(self, state: State) -> dict[int, Past]:
        """What the visitor did last with each item."""
        events = self.recommender.history(visitor_of(state), count=_PAST)
        return {one.item: one for one in reversed(events)}

    def _evidence(
        self,
        item: int,
        state: State,
        *,
        influences: Sequence[Influence],
        past: Mapping[int, Past],
    ) -> Evidence:
        texts = {"user_text": self.taste(state), "item_text": self.texts.items.get(item, "")}

        @cache
        def guard() -> Guard:
            return Guard(self.names, allowed=(item, *state.similar))

        return Evidence(
            titles=self.catalogue.titles,
            influences=influences,
            past=past,
            texts={name: text for name, text in texts.items() if text},
            named=state.similar,
            safe=lambda text: guard().fault(text) is None,
        )


def specific(drivers: Sequence[Sequence[Influence]]) -> list[list[Influence]]:
    """What drove each of several scores, events of the past ordered by what sets the items apart.

    An event that raises all items alike, such as the latest one, says little about any of them; it
    stands behind those that say more. What is no event keeps its order behind all events.
    """
    means: dict[int | None, float] = {}
    for one in (one for own in drivers for one in own if one.kind == "history"):
        means[one.item] = means.get(one.item, 0.0) + one.effect / len(drivers)
    found = []
    for own in drivers:
        events = [one for one in own if one.kind == "history"]
        if len(drivers) > 1:
            events.sort(key=lambda one: means[one.item] - one.effect)
        found.append([*events, *(one for one in own if one.kind != "history")])
    return found


def _plain(value: Any) -> Any:
    """A value of the catalogue for JSON: texts cleaned, lists bounded."""
    if isinstance(value, list):
        return [_plain(one) for one in value[:_SHOWN_VALUES]]
    return cleaned(value) if isinstance(value, str) and value else value


def _facet_told(facet: Facet) -> str:
    if facet.kind == "number":
        return f"{cleaned(facet.name)} (number, {facet.low:g} to {facet.high:g})"
    shown = ", ".join(cleaned(value) for value in facet.values[:_SHOWN_VALUES])
    more = ", …" if len(facet.values) > _SHOWN_VALUES else ""
    return f"{cleaned(facet.name)} ({facet.kind}: {shown}{more})"


def _checked(condition: Condition, facets: Mapping[str, Facet]) -> Condition:
    by_told = {cleaned(name): facet for name, facet in facets.items()}
    facet = facets.get(condition.column) or by_told.get(condition.column)
    if facet is None:
        raise UnknownNameError("column", condition.column, facets)
    bound = condition.operator in ("at_least", "at_most")
    if bound != (facet.kind == "number"):
        allowed = "at_least, at_most" if facet.kind == "number" else "any_of, none_of"
        raise UserError(
            f"column '{facet.name}' does not take {condition.operator}.",
            allowed=f"allowed: {allowed}",
        )
    if bound:
        return replace(condition, column=facet.name)
    known = {cleaned(value).casefold(): value for value in facet.values}
    known |= {value.casefold(): value for value in facet.values}
    values = []
    for value in map(str, condition.values):
        if value.casefold() not in known:
            raise UnknownNameError(f"value of '{facet.name}'", value, facet.values)
        values.append(known[value.casefold()])
    return Condition(facet.name, condition.operator, tuple(values))
