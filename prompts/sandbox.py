"""Templates of the user's own, within limits: nothing to escape to, no endless work, no huge text.

Jinja's immutable sandbox keeps a template away from Python's internals but lets it run for ever and
fill the memory. Here loops, macros and blocks look at the clock, and whatever the template makes
(texts, lists, numbers) is measured, before it is made where one step could multiply it. Lists of
lists are measured as if written out: `{% set a = [a, a] %}` thirty times over is small in memory
and endless to print or compare. No signals and no processes, so this works in any thread.

Sources that are too long or too deep are syntax errors. What the caller adds to
`environment.globals` is not bounded: it must be trusted, and must not look up an attribute under a
name that it is given.
"""

from __future__ import annotations

import functools
import json
import re
import sys
import time
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import BuiltinMethodType, MethodType
from typing import Any, TypeVar, cast

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.runtime import BlockReference, Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS
from jinja2.utils import Namespace, pass_context, pass_environment
from jinja2.visitor import NodeTransformer

__all__ = ["BoundExceeded", "BoundedEnvironment", "Limits", "render_bounded"]

_T = TypeVar("_T")

# No template can write these names, so they hide no filter of Jinja's.
_TICK, _MADE, _CUT = " tick", " made", " cut"
# Python hashes nested tuples on the C stack: a few ten thousand levels end the process.
_DEPTH = 50
_SOURCE_DEPTH, _SOURCE_PARTS = 80, 10_000
# Some 1,200 digits: Python refuses to print numbers of more than 4,300.
_BITS = 4096
# Short texts and lists weigh more than what is in them.
_BYTES_PER_CHARACTER, _OVERHEAD = 200, 200
_NESTING = (list, tuple, set, frozenset, KeysView, ValuesView, ItemsView)
# A key in parentheses must not hold further ones: Python would balance them, this does not.
_DIRECTIVE = re.compile(r"%(?:\([^()]*\))?[-#0 +]*\d{0,2}(?:\.\d{0,2})?[diouxXeEfFgGcrsa%]")
_TEXT_METHODS = (
    "capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit "
    "islower isnumeric isspace istitle isupper lower lstrip partition removeprefix removesuffix "
    "rfind rindex rpartition rsplit rstrip split splitlines startswith strip swapcase title upper"
)
_METHODS: tuple[tuple[type, frozenset[str]], ...] = (
    (str, frozenset(_TEXT_METHODS.split())),
    (Mapping, frozenset({"get", "items", "keys", "values"})),
    (LoopContext, frozenset({"changed", "cycle"})),
)


@dataclass(frozen=True)
class Limits:
    """What one rendering may use.

    Attributes:
        seconds: Time of one rendering.
        characters: Length of one rendering, and of any text, list or range made on the way. All of
            these together may take 200 bytes for each character: 40 MB by default.
    """

    seconds: float = 2.0
    characters: int = 200_000


class BoundExceeded(SecurityError):
    """A template crossed a limit; the message names the limit and what to do."""


class _Meter:
    """What one rendering has used so far, against its limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._deadline = time.monotonic() + limits.seconds
        self._bytes = _BYTES_PER_CHARACTER * limits.characters

    def tick(self) -> None:
        if time.monotonic() > self._deadline:
            what = f"the template ran longer than {self._limits.seconds:g} s."
            raise BoundExceeded(f"{what}\nShorten its loops, or end the recursion of its macros.")

    def room(self, characters: int) -> None:
        """Refuses what would be longer than the limit."""
        self.tick()
        if characters > self._limits.characters:
            most = f"{self._limits.characters:,} characters"
            what = f"the template makes a text or list of more than {most}."
            raise BoundExceeded(f"{what}\nShorten it, or hand it in as a value.")

    def bits(self, count: int) -> None:
        if count > _BITS:
            what = f"the template makes a number of more than {_BITS} bits."
            raise BoundExceeded(f"{what}\nHand it in as a value.")

    def size(self, value: object) -> int:
        """About how many characters `value` takes when written out; refuses more than allowed."""
        total, level = 0, [value]
        for _ in range(_DEPTH):
            below: list[object] = []
            for item in level:
                if isinstance(item, str | bytes):
                    total += len(item)
                elif isinstance(item, Mapping):
                    total += 4 * len(item)
                    below += (*item.keys(), *item.values())
                elif isinstance(item, _NESTING):
                    total += 2 * len(item)
                    below += item
                else:
                    total += item.bit_length() // 3 if isinstance(item, int) else 20
                self.room(total)
            if not below:
                return total
            level = below
        what = f"the template nests values deeper than {_DEPTH} levels."
        raise BoundExceeded(f"{what}\nKeep them in a flat list.")

    def made(self, value: _T, *, items: bool = False) -> _T:
        """`value`, after counting what it weighs, if wanted with its items."""
        if isinstance(value, int):
            self.bits(value.bit_length())
        elif value is not None and not isinstance(value, float):
            self.room(len(value)) if isinstance(value, str) else self.size(value)
            self._bytes -= sys.getsizeof(value) + _OVERHEAD
            if items and isinstance(value, list | tuple):
                self._bytes -= sum(map(sys.getsizeof, value))
        if self._bytes < 0:
            allowed = _BYTES_PER_CHARACTER * self._limits.characters
            what = f"the template makes more than {allowed:,} bytes of texts and lists in all."
            raise BoundExceeded(f"{what}\nShorten its loops.")
        return value

    def text(self, value: object) -> str:
        if not isinstance(value, str):
            self.size(value)
        return self.made(str(value))

    def joined(self, pieces: Iterable[str], separator: str = "") -> str:
        parts: list[str] = []
        total = -len(separator)
        for piece in pieces:
            total += len(separator) + len(piece)
            self.room(total)
            parts.append(piece)
        return self.made(separator.join(parts))


_METER: ContextVar[_Meter | None] = ContextVar("tastemaker_template_meter", default=None)


def _meter() -> _Meter:
    """The meter of the rendering at hand, after a look at the clock."""
    meter = _METER.get()
    if meter is None:
        raise SecurityError("a template of the user's own renders through render_bounded only.")
    meter.tick()
    return meter


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja for text templates that were written by others.

    Filters, methods and globals are harmless ones; there is no loader. Callables that are added to
    `globals` may be called.

    Args:
        limits: What one rendering may use.
        options: Of `jinja2.Environment`, except for `loader`, `finalize` and `optimized`.
    """

    # The other operators cannot make much of little.
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, *, limits: Limits = Limits(), **options: Any) -> None:
        if options.get("autoescape") or options.get("enable_async"):
            raise ValueError("a bounded template is neither HTML nor asynchronous.")
        # An optimizer would run filters while compiling, when no clock is ticking.
        super().__init__(loader=None, finalize=_output, optimized=False, **options)
        self.limits = limits
        self.filters, self.tests = dict(_FILTERS), dict(_TESTS)
        self.globals = {
            # Not the type itself: `dict["x"]` would be a type, too.
            "dict": lambda *pairs, **items: dict(*pairs, **items),
            "namespace": _BoundedNamespace,
            "range": _new_range,
        }
        self.policies["json.dumps_function"] = _dumps

    def concat(self, pieces: Iterable[str]) -> str:
        """The pieces as one text; compiled templates join their output with it."""
        return _meter().joined(pieces)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """The operation's result, refused before it is made where it would be huge."""
        meter = _meter()
        if operator == "%" and isinstance(left, str):
            _check_format(meter, left, right)
        elif operator in {"*", "**"}:
            _check_power(meter, left, right, operator)
        return meter.made(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __called: Any, *args: Any, **kwargs: Any) -> Any:
        """What the callable returns, if a template may call it."""
        meter = _meter()
        owner = getattr(__called, "__self__", None)
        if isinstance(owner, str):
            for text in (*args, *kwargs.values()):
                # The worst methods look at every place for every character.
                meter.room(len(owner) * len(text) // 100 if isinstance(text, str) else 0)
        result = super().call(__context, __called, *args, **kwargs)
        known = isinstance(owner, Mapping | LoopContext)
        return result if known else meter.made(result, items=True)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """An item, or else an attribute that a template may see."""
        _meter()  # Hashing a key and walking an attribute path take time, however little.
        return super().getitem(obj, argument)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may see the attribute: data, exported macros and listed methods."""
        seen = not callable(value) or isinstance(value, Macro) or _is_listed(obj, attr)
        return seen and super().is_safe_attribute(obj, attr, value)

    def is_safe_callable(self, obj: Any) -> bool:
        """Whether a template may call it: macros, loops, blocks, listed methods, and globals."""
        if isinstance(obj, BuiltinMethodType | MethodType):
            listed = _is_listed(obj.__self__, obj.__name__)
        else:
            # Calling something undefined says so best itself.
            listed = isinstance(obj, Macro | LoopContext | BlockReference | jinja2.Undefined)
        return listed or any(obj is known for known in self.globals.values())

    def wrap_str_format(self, value: Any) -> None:
        """Nothing: `str.format` is an attribute like others here, and not a listed one."""

    def _load_template(self, name: Any, globals: Any) -> jinja2.Template:
        raise SecurityError("a template may not include, import or extend another. Copy its text.")

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        with _refusing_unreadable():
            if len(source) > self.limits.characters:
                raise ValueError(f"it is longer than {self.limits.characters:,} characters")
            tree = super()._parse(source, name, filename)
            _check_source(tree)
        return tree

    def _generate(self, source: nodes.Template, *args: Any, **options: Any) -> str:
        with _refusing_unreadable():
            return super()._generate(_Guarding().visit(source), *args, **options)

    def _compile(self, source: str, filename: str) -> Any:
        with _refusing_unreadable():
            return super()._compile(source, filename)


def render_bounded(template: jinja2.Template, values: Mapping[str, Any]) -> str:
    """The text of a template of a `BoundedEnvironment`, within its limits.

    Args:
        template: Compiled in a `BoundedEnvironment`.
        values: Variable → value; texts, numbers, and lists and mappings of them.

    Raises:
        BoundExceeded: the template takes too long, makes too much, or calls itself without end.
        SecurityError: the template uses something it may not.
        TypeError: the template was compiled in another environment.
    """
    environment = template.environment
    if not isinstance(environment, BoundedEnvironment):
        raise TypeError("the template has no limits. Compile it in a BoundedEnvironment.")
    token = _METER.set(_Meter(environment.limits))
    try:
        return environment.concat(template.generate(values))
    except RecursionError:
        what = "the template calls itself too deeply."
        raise BoundExceeded(f"{what}\nEnd the recursion of its macros and blocks.") from None
    finally:
        _METER.reset(token)


class _Guarding(NodeTransformer):
    """Puts the clock and the measure into a parsed template."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.test is not None:
            node.test = _through(_TICK, node.test)
        return self.visit_Block(node)

    def visit_Block(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        tick = _through(_TICK, nodes.Const(None, lineno=node.lineno))
        node.body.insert(0, nodes.ExprStmt(tick, lineno=node.lineno))
        return cast(nodes.Node, node)

    visit_Macro = visit_CallBlock = visit_Block

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        return nodes.Const(node.data, lineno=node.lineno)  # As a value it passes `_output`.

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _through("join", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Compare(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        # Comparing long lists and hashing long keys take time.
        field = "key" if isinstance(node, nodes.Pair) else "expr"
        setattr(node, field, _through(_TICK, getattr(node, field)))
        return cast(nodes.Node, node)

    visit_Operand = visit_Pair = visit_Compare

    def visit_Tuple(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        stored = isinstance(node, nodes.Tuple) and node.ctx != "load"
        return cast(nodes.Node, node) if stored else _through(_MADE, node)

    visit_List = visit_Dict = visit_Tuple

    def visit_Name(self, node: nodes.Name) -> nodes.Node:
        # Jinja makes these two of what a macro is given.
        made = node.ctx == "load" and node.name in {"varargs", "kwargs"}
        return _through(_MADE, node) if made else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        bounds = (node.arg.start, node.arg.stop, node.arg.step)
        return _through(_CUT, node.node, *(bound or nodes.Const(None) for bound in bounds))


def _through(name: str, node: Any, *arguments: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(arguments), [], None, None, lineno=node.lineno)


@contextmanager
def _refusing_unreadable() -> Iterator[None]:
    try:
        yield
    except (MemoryError, OverflowError, RecursionError, SyntaxError, ValueError) as error:
        message = f"the template cannot be compiled: {error}. Simplify it."
        raise jinja2.TemplateSyntaxError(message, 1) from None


def _check_source(tree: nodes.Template) -> None:
    count = 0
    level: list[nodes.Node] = [tree]
    for _ in range(_SOURCE_DEPTH):
        count += len(level)
        if count > _SOURCE_PARTS:
            raise ValueError(f"it has more than {_SOURCE_PARTS:,} parts")
        if any(isinstance(node, nodes.EvalContextModifier) for node in level):
            raise ValueError("plain text has no use for autoescape")
        level = [child for node in level for child in node.iter_child_nodes()]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {_SOURCE_DEPTH} levels")


def _is_listed(owner: object, name: str) -> bool:
    return any(isinstance(owner, kind) and name in names for kind, names in _METHODS)


def _check_power(meter: _Meter, left: Any, right: Any, operator: str) -> None:
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length(), right.bit_length()
        meter.bits(sum(bits) if operator == "*" else bits[0] * max(right, 0))
    for several, times in ((left, right), (right, left)):
        if isinstance(several, str | bytes | list | tuple) and isinstance(times, int):
            meter.room(len(several) * times)


def _check_format(meter: _Meter, pattern: str, values: Any) -> None:
    if "%" in _DIRECTIVE.sub("", pattern):
        what = "a template may format a text with '%s', '%5d', '%.1f' and the like only."
        raise SecurityError(f"{what}\nWrite '%%' for a per cent sign.")
    shown = values if isinstance(values, tuple) else (values,)
    # The longest float has 309 digits, and a directive adds 99 and 99 at most.
    longest = max(map(meter.size, shown), default=0) + 510
    meter.room(len(pattern) + pattern.count("%") * longest)


@pass_context
def _output(context: Context, value: object) -> str:
    # Without the context Jinja would run it on constants, while compiling.
    return _meter().text(value)


def _new_range(*bounds: int) -> range:
    numbers, meter = range(*bounds), _meter()
    # Sorting makes the numbers before they are counted: 64 bits each are little.
    meter.bits(max(map(int.bit_length, bounds)) * _BITS // 64)
    meter.room(len(numbers[: sys.maxsize]))
    return numbers


class _BoundedNamespace(Namespace):
    """A namespace whose text does not show its values: they may hold the namespace itself."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        _meter().made(dict(*args[1:], **kwargs))
        Namespace.__init__(*args, **kwargs)

    def __repr__(self) -> str:
        return "<namespace>"


def _join_items(environment: Any, value: Any, d: Any = "", attribute: Any = None) -> str:
    meter = _meter()
    if attribute is not None:
        value = map(make_attrgetter(environment, attribute), value)
    return meter.joined(map(meter.text, value), meter.text(d))


def _replace(value: Any, old: Any, new: Any, count: int | None = None) -> str:
    meter = _meter()
    value, old, new = meter.text(value), meter.text(old), meter.text(new)
    most = -1 if count is None else count
    found = min(value.count(old), most) if most >= 0 else value.count(old)
    meter.room(len(value) + found * max(len(new) - len(old), 0))
    return str(value.replace(old, new, most))


@pass_context
def _trim(context: Any, value: Any, chars: str | None = None) -> Any:
    return context.environment.call(context, _meter().text(value).strip, chars)


def _format(value: Any, *args: Any, **kwargs: Any) -> Any:
    _check_format(_meter(), _meter().text(value), kwargs or args)
    return FILTERS["format"](value, *args, **kwargs)


def _dumps(value: Any, **options: Any) -> str:
    indent = options.get("indent") or 0
    wide = len(indent) if isinstance(indent, str) else indent
    _meter().room(_meter().size(value) * (1 + wide))
    return json.dumps(value, **options)


def _guarded(function: Any) -> Callable[..., Any]:
    """`function`, its result counted; a lazy one is drawn at once, so that nothing runs later."""

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        meter = _meter()
        result = function(*args, **kwargs)
        if isinstance(result, Iterator) and not isinstance(result, LoopContext):
            found: list[Any] = []
            for item in result:
                meter.room(2 * len(found))
                found.append(item)
            result = found
        known = any(result is given for given in (*args, *kwargs.values()))
        return result if known else meter.made(result, items=True)

    return guarded


_HARMLESS = (
    "abs attr capitalize count d default dictsort first float groupby int items last length list "
    "lower map max min reject rejectattr reverse select selectattr sort title tojson unique upper"
)
_FILTERS: dict[str, Callable[..., Any]] = {
    **{name: _guarded(FILTERS[name]) for name in _HARMLESS.split()},
    "format": _guarded(_format),
    "json": _guarded(lambda value: _dumps(value, ensure_ascii=False)),
    "join": _guarded(pass_environment(_join_items)),
    "replace": _guarded(_replace),
    # Rounded to more digits no number changes, but a power of ten that large takes for ever.
    "round": _guarded(
        lambda value, precision=0, method="common": FILTERS["round"](
            value, max(-_BITS, min(precision, _BITS)), method
        )
    ),
    "string": _guarded(lambda value: _meter().text(value)),
    "trim": _guarded(_trim),
    "truncate": _guarded(FILTERS["truncate"]),
    _CUT: _guarded(lambda value, start, stop, step: value[start:stop:step]),
    _MADE: lambda value: _meter().made(value),
    _TICK: _guarded(lambda value: value),
}
_TESTS = {name: _guarded(test) for name, test in TESTS.items()}
