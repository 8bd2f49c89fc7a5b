"""Marks of a message, interpreted: which words are demanded, refused, liked, or asked about.

A clause ends at a full stop and at "but". Within one, "not" reaches to the next comma and "no" also
over the list that follows; a cue such as "I loved" says what the titles behind it are for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from tastemaker.agents.dialogue.demands import Phrase
from tastemaker.agents.dialogue.findings import Clause, Cursor, Findings, Named, Role
from tastemaker.agents.dialogue.lexicon import Lexicon, Value
from tastemaker.agents.dialogue.marks import Mark
from tastemaker.agents.dialogue.numbers import Bound, Comparison, negated
from tastemaker.agents.dialogue.titling import Title
from tastemaker.agents.dialogue.wish import State, Step
from tastemaker.agents.dialogue.words import Word

__all__ = ["ValuesOf", "interpreted"]

ValuesOf = Callable[[Sequence[int]], Sequence[Mapping[str, Any]]]
_ARTICLES = frozenset(["a", "an"])
_NOUNS = frozenset(["film", "films", "movie", "movies", "book", "books", "product", "products"])
_PREFERRING = frozenset(["rather", "prefer", "sooner", "preferably"])
_OPENING = frozenset(["filler", "pause", "please", "and", "but", "small_talk", "also"])


def interpreted(
    words: Sequence[Word],
    marks: Sequence[Mark],
    *,
    message: str,
    lexicon: Lexicon,
    state: State,
    values_of: ValuesOf,
) -> Findings:
    """Say what the marks of a message are for.

    Args:
        words: Of the message.
        marks: Cover them.
        message: As written.
        lexicon: Columns and what they are about.
        state: What the conversation has come to: places point into its last answer.
        values_of: Facet values of items, for "older than Heat".
    """
    cursor = Cursor(words, marks, message)
    return _Interpreter(cursor, lexicon=lexicon, state=state, values_of=values_of).run()


class _Interpreter:
    def __init__(
        self,
        cursor: Cursor,
        *,
        lexicon: Lexicon,
        state: State,
        values_of: ValuesOf,
    ) -> None:
        self._cursor, self._words, self._marks = cursor, cursor.words, cursor.marks
        self._lexicon, self._state, self._values_of = lexicon, state, values_of
        self._found, self._clause = Findings(), Clause()
        self._handlers: dict[str, Callable[[Mark], None]] = {
            kind: getattr(self, f"_on_{kind}", self._on_signal)
            for kind in {mark.kind for mark in cursor.marks}
        }

    def run(self) -> Findings:
        while self._cursor.place < len(self._marks):
            mark = self._marks[self._cursor.place]
            self._handlers[mark.kind](mark)
            self._cursor.place += 1
        return self._found

    # What ends or joins

    def _on_end(self, mark: Mark) -> None:
        self._clause = Clause()

    def _on_but(self, mark: Mark) -> None:
        # "I loved Heat but hated Casino": what was named stays at hand for a later verdict.
        self._clause = Clause(named=self._clause.named)

    def _on_pause(self, mark: Mark) -> None:
        clause = self._clause
        if clause.joint in ("", ","):
            clause.joint = ","
        clause.scope = ""

    def _on_and(self, mark: Mark) -> None:
        self._clause.joint = "and"

    def _on_or(self, mark: Mark) -> None:
        self._clause.joint = "or"

    def _on_with(self, mark: Mark) -> None:
        self._clause.joint = "and"
        if not self._clause.fresh:
            self._clause.refusing = ""

    def _on_restart(self, mark: Mark) -> None:
        clause = self._clause
        self._found.signals.add("ask")
        if clause.refusing and (not clause.fresh or clause.joint in (",", "and")):
            clause.refusing = ""
        if clause.role and (clause.named or clause.joint):
            clause.role = ""
        clause.scope = ""

    def _on_only(self, mark: Mark) -> None:
        if not self._clause.fresh:
            self._clause.refusing = ""

    # What refuses, lifts or leaves open

    def _on_no(self, mark: Mark) -> None:
        following = self._cursor.next_kind()
        single = mark.stop - mark.start == 1 and self._cursor.form(mark) in ("no", "never", "less")
        if single and following in ("", "pause", "end", "please"):
            return
        self._refuse("no")

    def _on_not(self, mark: Mark) -> None:
        if self._cursor.next_kind() in ("", "pause", "end"):
            return
        self._refuse("not")

    def _refuse(self, kind: Literal["no", "not"]) -> None:
        clause = self._clause
        clause.refusing, clause.fresh, clause.scope = kind, True, ""
        clause.joint, clause.chain, clause.role = "", None, ""
        clause.refused_at, clause.refused_words = self._marks[self._cursor.place].start, 0
        self._found.signals.add("refuse")

    def _on_than(self, mark: Mark) -> None:
        """Rather a drama than a comedy; anything else is compared with, so alike."""
        before = {word.form for word in self._words[max(0, mark.start - 12) : mark.start + 1]}
        if before & _PREFERRING:
            self._refuse("not")
        else:
            self._clause.role = "similar"

    def _on_less(self, mark: Mark) -> None:
        self._refuse("not")
        self._clause.scope = "less"

    def _on_widen(self, mark: Mark) -> None:
        self._clause.scope = "drop"

    def _on_drop(self, mark: Mark) -> None:
        self._clause.scope, self._clause.refusing = "drop", ""
        self._found.signals.add("drop")

    def _on_every(self, mark: Mark) -> None:
        self._found.signals.add("ask")
        following = self._cursor.following()
        if following is not None and following.kind == "column":
            self._withdraw(following.data)

    def _on_indifferent(self, mark: Mark) -> None:
        self._clause.scope, self._clause.refusing = "indifferent", ""
        self._found.signals.add("drop")

    def _on_matters_not(self, mark: Mark) -> None:
        for column in self._clause.columns:
            self._withdraw(column)
        self._lift_chain()

    def _on_fine(self, mark: Mark) -> None:
        self._lift_chain()

    def _lift_chain(self) -> None:
        """What was just demanded was only said to be allowed."""
        clause, demands = self._clause, self._found.demands
        if clause.chain:
            self._found.lifted += [value for phrase in clause.chain for value in phrase.values]
            demands.chains = [chain for chain in demands.chains if chain is not clause.chain]
            clause.chain = None
        self._found.signals.add("drop")

    def _withdraw(self, column: str) -> None:
        if column not in self._found.withdrawn:
            self._found.withdrawn.append(column)
        self._found.signals.add("drop")

    # What is demanded

    def _on_value(self, mark: Mark) -> None:
        clause, values = self._clause, list(mark.data)
        if clause.scope == "topic":
            self._add_topic(mark)
        elif clause.scope in ("drop", "indifferent"):
            self._found.lifted += values
        elif clause.scope == "less":
            self._refuse_words(mark)
        elif self._refuses(mark):
            self._found.demands.refused += values
            clause.fresh, clause.joint, clause.chain = False, "", None
        else:
            self._demand(values)

    def _refuses(self, mark: Mark) -> bool:
        """Whether "not" still reaches a value; where it does not, it is over."""
        clause = self._clause
        if self._before_is_too():
            return True
        if clause.refusing and clause.joint == "," and not clause.fresh:
            listed = self._list_goes_on()
            after_title = bool(clause.named) and not self._found.demands.refused
            new = self._words[mark.start - 1].form in _ARTICLES or clause.refusing == "not"
            if after_title or (not listed and (new or self._is_wanted_behind())):
                clause.refusing = ""
        return bool(clause.refusing)

    def _before_is_too(self) -> bool:
        """Too scary, as a complaint."""
        before = self._marks[self._cursor.place - 1] if self._cursor.place else None
        return before is not None and self._cursor.form(before) == "too" and before.kind == "also"

    def _list_goes_on(self) -> bool:
        """Whether "or" or "and" closes the list that a comma has begun."""
        for mark in self._marks[self._cursor.place + 1 :]:
            if mark.kind in ("or", "and"):
                return True
            if mark.kind not in ("value", "filler", "pause", "word"):
                return False
        return False

    def _is_wanted_behind(self) -> bool:
        following = self._cursor.following()
        return following is not None and following.kind in ("please", "only")

    def _demand(self, values: list[Value]) -> None:
        clause = self._clause
        if clause.chain is None:
            clause.chain = []
            self._found.demands.chains.append(clause.chain)
        if clause.chain and clause.joint == "" and not clause.topical:
            clause.chain[-1].values += values
        else:
            clause.chain.append(Phrase(clause.joint or "and", values))
        clause.joint, clause.topical, clause.refusing = "", 0, ""

    def _on_comparison(self, mark: Mark) -> None:
        comparison: Comparison = mark.data
        clause = self._clause
        if clause.scope == "topic" and not clause.topical:
            self._add_topic(mark)
        elif clause.refusing and clause.fresh and comparison.bound is None:
            self._refuse_words(mark)
        elif comparison.unknown:
            self._found.unchecked.append(self._cursor.text(mark))
        elif comparison.bound is not None:
            self._bound(comparison.bound, mark)
        else:
            self._relative(comparison, mark)

    def _bound(self, bound: Bound, mark: Mark) -> None:
        clause, joint = self._clause, self._clause.joint
        if clause.scope in ("drop", "indifferent"):
            self._withdraw(bound.column)
            return
        words = self._cursor.text(mark)
        if clause.refusing and clause.fresh:
            whole = self._lexicon.families[bound.column] == "time"
            inverse = negated(bound, whole=whole)
            clause.fresh = False
            if inverse is None:
                self._found.unchecked.append(f"not {words}")
                return
            bound = inverse
        self._found.demands.bounds.append((joint, bound, words))
        if joint != "or":
            clause.joint = ""

    def _relative(self, comparison: Comparison, mark: Mark) -> None:
        """Older than Heat, cheaper than the second, or just older."""
        items = self._compared() if comparison.against else self._resembled()
        values = [one.get(comparison.column) for one in self._values_of(items)] if items else []
        known = [float(value) for value in values if isinstance(value, int | float)]
        lower = comparison.direction == "lower"
        if known:
            edge = min(known) if lower else max(known)
            column = comparison.column
            past = negated(
                Bound(column, low=edge) if lower else Bound(column, high=edge),
                whole=self._lexicon.families[column] == "time",
            )
            if past is not None:
                self._bound(past, mark)
        else:
            step = Step(comparison.column, comparison.direction)
            self._found.steps += [step] if step not in self._found.steps else []

    def _resembled(self) -> tuple[int, ...]:
        """Items that the message names as examples: "like Heat but newer"."""
        examples = [one for one in self._found.named if one.role in ("similar", "liked")]
        return tuple(item for one in examples for item in one.items)

    def _compared(self) -> tuple[int, ...]:
        """Items of the title or the places that follow, which are then done with."""
        following = self._cursor.following()
        if following is None or following.kind not in ("title", "places"):
            return ()
        self._cursor.place = self._marks.index(following, self._cursor.place)
        if following.kind == "title":
            return tuple(following.data.items)
        return self._items_at(following.data)

    def _on_order(self, mark: Mark) -> None:
        if self._clause.scope == "topic":
            self._add_topic(mark)
        elif mark.data is None:
            self._found.unchecked.append(self._cursor.text(mark))
        else:
            self._found.order = mark.data
            self._found.signals.add("ask")

    def _on_count(self, mark: Mark) -> None:
        if self._clause.scope == "topic":
            self._add_topic(mark)
            return
        self._found.count = mark.data
        self._found.signals.add("ask")

    def _on_column(self, mark: Mark) -> None:
        self._clause.columns.append(mark.data)
        if self._clause.scope in ("drop", "indifferent"):
            self._withdraw(mark.data)

    def _on_also(self, mark: Mark) -> None:
        if self._cursor.form(mark) == "but also":
            self._on_but(mark)
        last = self._cursor.next_kind() in ("", "end", "pause", "please", "and", "but")
        if self._cursor.form(mark) != "too" or last:
            self._found.additional = True

    def _on_word(self, mark: Mark) -> None:
        clause = self._clause
        if clause.refusing and clause.joint == "," and not clause.fresh:
            clause.refusing = ""
        if clause.refusing:
            self._refuse_words(mark)
        elif clause.scope not in ("drop", "indifferent"):
            self._add_topic(mark)
            if clause.joint != "or":
                clause.joint = ""

    def _refuse_words(self, mark: Mark) -> None:
        """Note a refusal that no column can check, all its words together."""
        clause, unchecked = self._clause, self._found.unchecked
        if clause.refused_words:
            unchecked.pop()
        unchecked.append(self._cursor.between(clause.refused_at, mark.stop))
        clause.fresh, clause.refused_words = False, clause.refused_words + 1

    def _on_topic(self, mark: Mark) -> None:
        self._clause.scope, self._clause.topical, self._clause.refusing = "topic", 0, ""

    def _add_topic(self, mark: Mark) -> None:
        self._found.topic.append(self._cursor.text(mark))
        self._clause.topical += 1

    # What is named

    def _on_title(self, mark: Mark) -> None:
        title: Title = mark.data
        if self._clause.scope == "topic":
            self._add_topic(mark)
            return
        items = title.items
        self._name(Named(self._role(), title.text, items, known=bool(title.items)))

    def _on_places(self, mark: Mark) -> None:
        places: tuple[int, ...] = mark.data
        self._found.places += [one for one in places if one not in self._found.places]
        self._name(Named(self._role(), "", self._items_at(places)))

    def _items_at(self, places: Sequence[int]) -> tuple[int, ...]:
        last = self._state.last
        return tuple(last[place - 1] for place in places if place <= len(last))

    def _role(self) -> Role:
        clause = self._clause
        if clause.refusing and (clause.fresh or clause.named):
            return "disliked"
        return clause.role

    def _name(self, named: Named) -> None:
        clause = self._clause
        self._found.named.append(named)
        clause.named.append(named)
        clause.fresh, clause.joint = False, ""

    def _on_pronoun(self, mark: Mark) -> None:
        clause = self._clause
        if not clause.role or clause.named:
            return
        earlier = [one for one in self._found.named if one.known]
        if earlier:
            items = tuple(item for one in earlier for item in one.items)
        elif len(self._state.last) == 1:
            items = self._state.last
            self._found.places = [1]
        else:
            self._found.signals |= {"more"} if clause.role == "similar" else set()
            return
        self._name(Named(self._role(), "", items))

    def _on_similar(self, mark: Mark) -> None:
        clause = self._clause
        refused = clause.refusing and clause.fresh
        clause.role, clause.named = "disliked" if refused else "similar", []
        if not refused:
            clause.refusing = ""

    def _on_liked(self, mark: Mark) -> None:
        self._judge("liked")
        self._clause.refusing = ""

    def _on_hated(self, mark: Mark) -> None:
        self._judge("disliked")
        self._clause.refusing, self._clause.fresh = "no", True

    def _judge(self, role: Role) -> None:
        clause = self._clause
        clause.role, clause.chain, clause.named, clause.scope = role, None, [], ""
        if clause.joint == "or":
            clause.joint = ""

    def _on_seen(self, mark: Mark) -> None:
        clause = self._clause
        clause.role = "" if clause.refusing and clause.fresh else "seen"
        if clause.fresh:
            clause.refusing = ""

    def _on_about(self, mark: Mark) -> None:
        self._found.signals.add("about")
        self._clause.role = "about"

    def _on_history(self, mark: Mark) -> None:
        self._found.signals.add("history")
        self._clause.role = "history"

    def _on_why(self, mark: Mark) -> None:
        before = self._marks[: self._cursor.place]
        opening = next((one for one in reversed(before) if one.kind not in _OPENING), None)
        if opening is None or opening.kind == "end":
            self._found.signals.add("why")
            self._clause.role = "why"

    def _on_praise(self, mark: Mark) -> None:
        self._verdict("liked")

    def _on_blame(self, mark: Mark) -> None:
        self._verdict("disliked")

    def _verdict(self, role: Role) -> None:
        for named in self._clause.named:
            if named.role in ("", "seen"):
                named.role = role

    def _on_more(self, mark: Mark) -> None:
        following = self._cursor.following()
        adjective = following is not None and following.kind == "value"
        if adjective and following is not None and self._cursor.form(mark) == "more":
            plural = self._words[following.stop - 1].form.endswith("s")
            self._found.additional |= not plural
            self._found.signals.add("ask")
            return
        self._found.signals.add("more")

    def _on_filler(self, mark: Mark) -> None:
        if self._cursor.form(mark) in _NOUNS:
            self._found.signals.add("noun")
        when = self._cursor.form(mark) in ("when", "how old")
        column = self._lexicon.column_of("time") if when else None
        if column is not None:
            self._clause.columns.append(column)
            if self._clause.scope == "indifferent":
                self._withdraw(column)

    def _on_signal(self, mark: Mark) -> None:
        self._found.signals.add(mark.kind)
