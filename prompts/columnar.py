"""Templates rendered by the column: one pass over the syntax for thousands of prompts.

The syntax tree of a Jinja template is walked once; every node becomes an operation on columns. What
this file does not know raises `Unsupported`, and Jinja itself renders row by row instead. A test
renders every packaged template both ways and compares. Loops only run over lists of the data, so
rendering this way always ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from inspect import signature
from operator import eq, ge, gt, le, lt, ne
from typing import Any

import numpy as np
import polars as pl
from jinja2 import nodes

from tastemaker.errors import UserError
from tastemaker.prompts.columns import Column, Listing, Part, Value, glued, joined
from tastemaker.prompts.fields import field_named
from tastemaker.prompts.filters import TEXT_FILTERS
from tastemaker.prompts.template import Section, Template, shared_trees

__all__ = ["Unsupported", "is_columnar", "render_column", "render_rows"]

Block = Mapping[str, Value | str | list[str]]
_LONGEST = 200_000  # characters of one text of a user's own template, as in the sandbox


class Unsupported(Exception):
    """A node that has no columnar form."""


@dataclass(frozen=True, eq=False)
class _Tuple:
    """The element of a list of tuples."""

    columns: tuple[Column, ...]


@dataclass(frozen=True, eq=False)
class _Loop:
    """The variable `loop`."""

    listing: Listing


@dataclass(frozen=True, eq=False)
class _Test:
    """Truths of which Jinja would print something else, such as the list that was tested."""

    truths: pl.Series


_Found = str | int | bool | None | list[Any] | Value | _Tuple | _Loop | _Test


@dataclass
class _Scope:
    """Names at a place of the template.

    Attributes:
        height: Rows, or elements inside a loop.
        names: What is known here.
        outer: The scope around a loop, and which row each element belongs to.
        fixed: Whether a name may not be set here, since that would hold for some rows only.
    """

    height: int
    names: dict[str, _Found] = field(default_factory=dict)
    outer: tuple[_Scope, Any] | None = None
    fixed: bool = False

    def find(self, name: str) -> _Found:
        if name in self.names:
            return self.names[name]
        if self.outer is None:
            raise Unsupported(name)
        scope, rows = self.outer
        found = scope.find(name)
        if isinstance(found, Column):
            return found.take(rows)
        if isinstance(found, Listing | _Tuple | _Loop | _Test):
            raise Unsupported(f"{name} of an outer loop")
        return found


def render_column(section: Section, block: Block, *, height: int) -> pl.Series:
    """The section's text for every row of the block: String [height].

    Raises:
        Unsupported: the section uses what only Jinja can do.
    """
    scope = _Scope(height, dict(block))
    text = glued(_body(section.tree.body, scope), height=height)
    if text.null_count():
        raise Unsupported("a value that some rows do not have")
    return text


def render_rows(template: Template, section: str, block: Block, *, height: int) -> pl.Series:
    """A section for every row: by the column where that can be done, else by Jinja row by row.

    Args:
        template: Whose section.
        section: `system`, `prompt` or `answer`; one it does not have is empty.
        block: Field → its values.
        height: Number of rows.

    Raises:
        UserError: the template failed, or made a text of more than 200,000 characters.
    """
    if section not in template.sections:
        return pl.repeat("", height, dtype=pl.String, eager=True)
    part = template.sections[section]
    wanted = {name: block[name] for name in part.fields}
    try:
        text = render_column(part, wanted, height=height)
    except Unsupported:
        return _by_jinja(template, section, wanted, height=height)
    if template.name.endswith(".j2") and (text.str.len_chars() > _LONGEST).any():
        raise UserError(
            f"template '{template.name}' made a text of more than {_LONGEST:,} characters.",
            remedy="Show less of the history.",
        )
    return text


def is_columnar(template: Template) -> bool:
    """Whether all sections render by the column."""
    try:
        for section in template.sections.values():
            render_column(section, {name: _nothing(name) for name in section.fields}, height=0)
    except Unsupported:
        return False
    return True


def _nothing(name: str) -> Value | list[str]:
    """No rows of a field."""
    if name == "factors":
        return []
    empty, found = Column(pl.Series([], dtype=pl.String)), field_named(name)
    if found.kind == "text":
        return empty
    return Listing(
        np.zeros(1, dtype=np.int64), (empty,) * max(len(found.parts), 1), found.kind == "tuples"
    )


def _by_jinja(template: Template, section: str, block: Block, *, height: int) -> pl.Series:
    constant = {name: value for name, value in block.items() if isinstance(value, str | list)}
    columns = {
        name: value.to_list() for name, value in block.items() if not isinstance(value, str | list)
    }
    texts = [
        template.render_section(
            section, constant | {name: rows[row] for name, rows in columns.items()}
        )
        for row in range(height)
    ]
    return pl.Series(texts, dtype=pl.String)


def _body(found: Sequence[nodes.Node], scope: _Scope) -> list[Part]:
    """What the nodes write, part by part."""
    parts: list[Part] = []
    for node in found:
        writer = _WRITERS.get(type(node))
        if writer is None:
            raise Unsupported(type(node).__name__)
        parts.extend(writer(node, scope))
    return parts


def _output(node: nodes.Output, scope: _Scope) -> list[Part]:
    return [_printed(child, scope) for child in node.nodes]


def _printed(node: nodes.Expr, scope: _Scope) -> Part:
    if isinstance(node, nodes.CondExpr) and node.expr2 is None:
        node = nodes.CondExpr(node.test, node.expr1, nodes.Const(""))  # undefined, so it is bare
    return _shown(_value(node, scope), scope)


def _shown(value: _Found, scope: _Scope) -> Part:
    if isinstance(value, Column):
        return value.text()
    if isinstance(value, str | int) or value is None:
        return str(value)
    raise Unsupported("a list that is printed")


def _if(node: nodes.If, scope: _Scope) -> list[Part]:
    test = _test(_value(node.test, scope), scope)
    otherwise = [_nested_if(node)] if node.elif_ else node.else_
    if isinstance(test, bool):
        return _body(node.body if test else otherwise, scope)
    inner = replace(scope, fixed=True)
    sides = [glued(_body(side, inner), height=scope.height) for side in (node.body, otherwise)]
    return [Column(sides[0].zip_with(test, sides[1]))]


def _nested_if(node: nodes.If) -> nodes.If:
    first, *rest = node.elif_
    return nodes.If(first.test, first.body, rest, node.else_)


def _for(node: nodes.For, scope: _Scope) -> list[Part]:
    listing = _value(node.iter, scope)
    if not isinstance(listing, Listing) or node.test or node.recursive or node.else_:
        raise Unsupported("this loop")
    inner = _Scope(int(listing.offsets[-1]), outer=(scope, listing.rows))
    inner.names["loop"] = _Loop(listing)
    element: Column | _Tuple = _Tuple(listing.columns) if listing.tuples else listing.columns[0]
    if isinstance(node.target, nodes.Name):
        inner.names[node.target.name] = element
    elif (
        isinstance(element, _Tuple)
        and isinstance(node.target, nodes.Tuple)
        and len(node.target.items) == len(element.columns)
    ):
        names = [getattr(target, "name", "") for target in node.target.items]
        inner.names.update(zip(names, element.columns, strict=True))
    else:
        raise Unsupported("a loop over parts")
    text = Column(glued(_body(node.body, inner), height=inner.height))
    return [joined(Listing(listing.offsets, (text,)))]


def _assign(node: nodes.Assign, scope: _Scope) -> list[Part]:
    if scope.fixed or not isinstance(node.target, nodes.Name):
        raise Unsupported("set")
    scope.names[node.target.name] = _value(node.node, scope)
    return []


_WRITERS: dict[type[nodes.Node], Callable[[Any, _Scope], list[Part]]] = {
    nodes.Output: _output,
    nodes.If: _if,
    nodes.For: _for,
    nodes.Assign: _assign,
}


def _value(node: nodes.Node, scope: _Scope) -> Any:
    reader = _READERS.get(type(node))
    if reader is None:
        raise Unsupported(type(node).__name__)
    return reader(node, scope)


def _test(value: _Found, scope: _Scope) -> bool | pl.Series:
    """What an `if` makes of a value."""
    if isinstance(value, Column):
        return value.truth()
    if isinstance(value, _Test):
        return value.truths
    if isinstance(value, Listing):
        return pl.Series(value.lengths > 0)
    if isinstance(value, _Tuple | _Loop):
        raise Unsupported("the truth of a tuple")
    return bool(value)


def _call(node: nodes.Call, scope: _Scope) -> _Found:
    """A macro of `shared.j2`, written in place."""
    macro = shared_trees().get(node.node.name) if isinstance(node.node, nodes.Name) else None
    if macro is None or node.dyn_args or node.dyn_kwargs or macro.defaults:
        raise Unsupported("call")
    given = [_value(argument, scope) for argument in node.args]
    named = {pair.key: _value(pair.value, scope) for pair in node.kwargs}
    names = [argument.name for argument in macro.args]
    inner = _Scope(scope.height, dict(zip(names, given, strict=False)) | named)
    if inner.names.keys() != set(names) or len(given) + len(named) != len(names):
        raise Unsupported("a macro's arguments")
    return _whole(_body(macro.body, inner), scope)


def _whole(parts: Sequence[Part], scope: _Scope) -> _Found:
    if all(isinstance(part, str) for part in parts):
        return "".join(map(str, parts))
    return Column(glued(parts, height=scope.height))


def _concat(node: nodes.Concat, scope: _Scope) -> _Found:
    return _whole([_shown(_value(child, scope), scope) for child in node.nodes], scope)


def _choice(node: nodes.CondExpr, scope: _Scope) -> _Found:
    if node.expr2 is None:
        raise Unsupported("an undefined value")
    test = _test(_value(node.test, scope), scope)
    if isinstance(test, bool):
        return _value(node.expr1 if test else node.expr2, scope)
    return _picked(test, _value(node.expr1, scope), _value(node.expr2, scope))


def _picked(test: pl.Series, first: _Found, second: _Found) -> Column:
    """Row by row one of two texts."""
    sides = []
    for value in (first, second):
        if isinstance(value, Column) and value.dtype == pl.String:
            sides.append(value.series())
        elif isinstance(value, str):
            sides.append(pl.repeat(value, len(test), dtype=pl.String, eager=True))
        else:
            raise Unsupported("a choice between other things than texts")
    return Column(sides[0].zip_with(test, sides[1]))


def _logic(node: nodes.And | nodes.Or, scope: _Scope) -> _Found:
    left, right = _value(node.left, scope), _value(node.right, scope)
    test = _test(left, scope)
    either = isinstance(node, nodes.Or)
    if isinstance(test, bool):
        return left if test == either else right
    if all(isinstance(one, str) or _is(one, pl.String) for one in (left, right)):
        return _picked(test, left, right) if either else _picked(test, right, left)
    other = _test(right, scope)
    if isinstance(other, bool):
        other = pl.repeat(other, scope.height, dtype=pl.Boolean, eager=True)
    truths = test | other if either else test & other
    plain = all(isinstance(one, bool) or _is(one, pl.Boolean) for one in (left, right))
    return Column(truths) if plain else _Test(truths)


def _is(value: _Found, dtype: Any) -> bool:
    return isinstance(value, Column) and value.dtype == dtype


def _not(node: nodes.Not, scope: _Scope) -> _Found:
    test = _test(_value(node.node, scope), scope)
    return not test if isinstance(test, bool) else Column(~test)


_COMPARED: dict[str, Any] = {"eq": eq, "ne": ne, "gt": gt, "gteq": ge, "lt": lt, "lteq": le}


def _compare(node: nodes.Compare, scope: _Scope) -> _Found:
    if len(node.ops) != 1 or node.ops[0].op not in _COMPARED:
        raise Unsupported("this comparison")
    sides = [_value(one, scope) for one in (node.expr, node.ops[0].expr)]
    texts = {isinstance(one, str) or _is(one, pl.String) for one in sides}
    if len(texts) > 1 or not all(isinstance(one, str | int | Column) for one in sides):
        raise Unsupported("a comparison of lists, or of a text with a number")
    plain = [one.series() if isinstance(one, Column) else one for one in sides]
    found = _COMPARED[node.ops[0].op](*plain)
    return Column(found) if isinstance(found, pl.Series) else found


def _sum(node: nodes.Add | nodes.Sub, scope: _Scope) -> _Found:
    left, right = _value(node.left, scope), _value(node.right, scope)
    texts = [isinstance(one, str) or _is(one, pl.String) for one in (left, right)]
    if all(texts) and isinstance(node, nodes.Add):
        return _whole([_shown(one, scope) for one in (left, right)], scope)
    if any(texts) or not all(isinstance(one, int | Column) for one in (left, right)):
        raise Unsupported("this sum")
    sides = [one.series() if isinstance(one, Column) else one for one in (left, right)]
    found = sides[0] + sides[1] if isinstance(node, nodes.Add) else sides[0] - sides[1]
    return Column(found) if isinstance(found, pl.Series) else found


def _attribute(node: nodes.Getattr, scope: _Scope) -> _Found:
    loop = _value(node.node, scope)
    if not isinstance(loop, _Loop):
        raise Unsupported("attribute")
    places, listing = loop.listing.places, loop.listing
    lengths = np.repeat(listing.lengths, listing.lengths)
    found = {
        "index": places + 1,
        "index0": places,
        "revindex": lengths - places,
        "length": lengths,
        "first": places == 0,
        "last": places == lengths - 1,
    }
    if node.attr not in found:
        raise Unsupported(f"loop.{node.attr}")
    return Column(pl.Series(found[node.attr]))


def _element(node: nodes.Getitem, scope: _Scope) -> _Found:
    value = _value(node.node, scope)
    if isinstance(value, Listing) and isinstance(node.arg, nodes.Slice) and node.arg.step is None:
        ends = (node.arg.start, node.arg.stop)
        bounds = [None if one is None else _value(one, scope) for one in ends]
        if all(one is None or isinstance(one, int) for one in bounds):
            return value.sliced(*bounds)
    if isinstance(value, _Tuple) and isinstance(node.arg, nodes.Const):
        place, width = node.arg.value, len(value.columns)
        if isinstance(place, int) and -width <= place < width:
            return value.columns[place]
    raise Unsupported("this element")


def _filter(node: nodes.Filter, scope: _Scope) -> _Found:
    found = _FILTERS.get(node.name)
    if found is None or node.kwargs or node.dyn_args or node.dyn_kwargs or node.node is None:
        raise Unsupported(f"filter {node.name}")
    arguments = [_value(node.node, scope), scope, *(_value(one, scope) for one in node.args)]
    try:
        signature(found).bind(*arguments)
    except TypeError:
        raise Unsupported(f"arguments of {node.name}") from None
    return found(*arguments)


def _join(value: _Found, scope: _Scope, separator: Any = "") -> _Found:
    if isinstance(value, list) and isinstance(separator, str):
        return separator.join(map(str, value))
    if not isinstance(value, Listing) or value.tuples or not isinstance(separator, str | Column):
        raise Unsupported("join")
    return joined(value, separator)


def _length(value: _Found, scope: _Scope) -> _Found:
    if isinstance(value, Listing):
        return Column(pl.Series(value.lengths))
    if isinstance(value, list | str):
        return len(value)
    if isinstance(value, Column) and value.dtype == pl.String:
        return value.map(lambda one: one.str.len_chars().cast(pl.Int64))
    raise Unsupported("length")


def _first(value: _Found, scope: _Scope, *, last: bool = False) -> _Found:
    if not isinstance(value, Listing) or value.tuples or not (value.lengths > 0).all():
        raise Unsupported("the first of nothing")
    return value.columns[0].take(value.offsets[1:] - 1 if last else value.offsets[:-1])


def _default(value: _Found, scope: _Scope, other: Any = "", empty: Any = False) -> _Found:
    if not isinstance(empty, bool | int | str):
        raise Unsupported("default")
    if not empty:
        return value  # every declared field is defined
    test = _test(value, scope)
    if isinstance(test, bool):
        return value if test else other
    return _picked(test, value, other)


def _replace(value: _Found, scope: _Scope, old: Any, new: Any) -> _Found:
    if not isinstance(old, str) or not isinstance(new, str) or not old:
        raise Unsupported("replace")
    return _on_text(lambda one: one.str.replace_all(old, new, literal=True))(value, scope)


def _on_text(function: Callable[[pl.Series], pl.Series]) -> Callable[..., _Found]:
    def changed(value: _Found, scope: _Scope) -> _Found:
        if isinstance(value, str):
            return str(function(pl.Series([value]))[0])
        if isinstance(value, Column) and value.dtype == pl.String:
            return value.map(function)
        raise Unsupported("a text filter")

    return changed


def _by_python(function: Callable[[str], str]) -> Callable[..., _Found]:
    """A filter that polars does differently from Python; done once per distinct value."""
    return _on_text(lambda one: pl.Series(map(function, one.to_list()), dtype=pl.String))


_FILTERS: dict[str, Callable[..., _Found]] = {
    "join": _join,
    "length": _length,
    "count": _length,
    "first": _first,
    "last": lambda value, scope: _first(value, scope, last=True),
    "default": _default,
    "d": _default,
    "replace": _replace,
    "upper": _by_python(str.upper),
    "lower": _by_python(str.lower),
    "capitalize": _by_python(str.capitalize),
    "trim": _by_python(str.strip),
    **{name: _by_python(function) for name, function in TEXT_FILTERS.items()},
}
_READERS: dict[type[nodes.Node], Callable[[Any, _Scope], Any]] = {
    nodes.Const: lambda node, scope: node.value,
    nodes.TemplateData: lambda node, scope: node.data,
    nodes.Name: lambda node, scope: scope.find(node.name),
    nodes.Call: _call,
    nodes.Concat: _concat,
    nodes.CondExpr: _choice,
    nodes.And: _logic,
    nodes.Or: _logic,
    nodes.Not: _not,
    nodes.Compare: _compare,
    nodes.Add: _sum,
    nodes.Sub: _sum,
    nodes.Getattr: _attribute,
    nodes.Getitem: _element,
    nodes.Filter: _filter,
}
