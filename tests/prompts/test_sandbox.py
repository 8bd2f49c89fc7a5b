from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import meta
from jinja2.sandbox import SecurityError

from tastemaker.prompts.sandbox import BoundedEnvironment, BoundExceeded, Limits, render_bounded

OPTIONS: dict[str, Any] = {
    "undefined": jinja2.StrictUndefined,
    "autoescape": False,
    "trim_blocks": True,
    "lstrip_blocks": True,
}
SMALL = Limits(seconds=0.15)
TIGHT = Limits(seconds=0.15, characters=2_000)
TRUSTED = (
    '{% macro quoted(titles) %}{% if titles %}"{{ titles | join(\'", "\') }}"{% endif %}'
    "{% endmacro %}{% macro framed() %}<{{ caller() }}>{% endmacro %}"
)


def plain_environment() -> jinja2.Environment:
    environment = jinja2.Environment(**OPTIONS)
    module = environment.from_string(TRUSTED).module
    environment.globals.update(quoted=module.quoted, framed=module.framed)
    return environment


def bounded_environment(limits: Limits = SMALL) -> BoundedEnvironment:
    environment = BoundedEnvironment(limits=limits, **OPTIONS)
    module = jinja2.Environment(**OPTIONS).from_string(TRUSTED).module
    environment.globals.update(quoted=module.quoted, framed=module.framed)
    return environment


def rendered(source: str, *, limits: Limits = SMALL, **values: Any) -> str:
    return render_bounded(bounded_environment(limits).from_string(source), values)


def loops(depth: int, body: str = "", *, over: str = "range(10)") -> str:
    heads = "".join(f"{{% for x{level} in {over} %}}" for level in range(depth))
    return heads + body + "{% endfor %}" * depth


def grown(first: str, step: str, *, times: int = 100, last: str = "{{ ns.t }}") -> str:
    """Sets `ns.t` to `first`, then to `step` many times over."""
    return (
        f"{{% set ns = namespace(t={first}) %}}{{% for i in range({times}) %}}"
        f"{{% set ns.t = {step} %}}{{% endfor %}}{last}"
    )


ENDLESS = {
    "twelve loops": loops(12),
    "twelve loops that print": loops(12, "{{ '' }}"),
    "loops over literals": loops(12, over="[1, 2, 3, 4, 5, 6, 7, 8]"),
    "loops over a text": loops(12, over="'abcdefghij'"),
    "a filtered loop": loops(2, over="range(1000) if range(1000) | select('gt', 9999) | list"),
    "recursive loop": "{% for x in [1, 2] recursive %}{% if loop.depth < 60 %}{{ loop([1, 2]) }}"
    "{% endif %}{% endfor %}",
    "fan of macros": "{% macro m(n) %}{% for i in range(9) %}{{ m(n + 1) if n < 90 }}{% endfor %}"
    "{% endmacro %}{{ m(0) }}",
    "fan of arguments": "{% macro m(n) %}{% if n %}{{ m(n - 1, varargs, varargs) }}{% endif %}"
    "{{ varargs }}{% endmacro %}{{ m(40, 1, 2) }}",
    "comparisons": "{% set a, b = range(30000) | list, range(30000) | list %}"
    "{% if " + " and ".join(["a == b"] * 60) + " %}{% endif %}" + loops(12),
    "long keys": "{% set t = (1,) * 60000 %}{{ {" + ", ".join(["t: 1"] * 2000) + "} | length }}",
    "filters of filters": "{% for i in range(9999) %}{{ range(9999) | sort | first }}{% endfor %}",
    "trusted macros": "{% for i in range(99999) %}{% set x = quoted(range(900)) %}{% endfor %}",
}
HUGE = {
    "text times": "{{ 'x' * 10 ** 10 }}",
    "times text": "{{ (10 ** 10) * 'x' }}",
    "list times": "{{ [1] * 10 ** 9 }}",
    "power": "{{ 10 ** (10 ** 9) }}",
    "squares": grown("3", "ns.t * ns.t"),
    "format": "{{ '%1000000000d' % 1 }}",
    "format filter": "{{ '%1000000000d' | format(1) }}",
    "precision": "{{ '%.1000000000f' % 1 }}",
    "width as a value": "{{ '%*d' % (10 ** 9, 1) }}",
    "width after a nested key": "{{ '%((a))1000000000d' % {'(a)': 1} }}",
    "format again and again": "{{ ('%(a)s' * 9000) % {'a': 'x' * 90000} }}",
    "joined": "{{ range(99999) | join('x' * 99999) }}",
    "doubled by tilde": grown("'x'", "ns.t ~ ns.t"),
    "doubled by plus": grown("'x'", "ns.t + ns.t"),
    "doubled list": grown("['x']", "ns.t + ns.t"),
    "lists of lists": grown("['x']", "[ns.t, ns.t]", times=40),
    "tuples of tuples": grown("('x',)", "(ns.t, ns.t)", times=40, last="{{ {ns.t: 1} }}"),
    "mappings": grown("{'x': 1}", "{'a': ns.t, 'b': ns.t}", times=40, last="{{ ns.t | tojson }}"),
    "mappings by name": grown("{'x': 1}", "dict(a=ns.t, b=ns.t)", times=40),
    "views": grown("{'x': 1}", "{'a': ns.t.values(), 'b': ns.t.items()}", times=40),
    "deep tuple": grown("()", "(ns.t,)", times=99999, last="{{ {ns.t: 1} }}"),
    "deep list": grown("[]", "[ns.t]", times=99999),
    "texts kept": grown("none", "namespace(a=('x' * 99999)[i:], b=ns.t)", times=99999, last=""),
    "lists kept": grown("none", "namespace(a=range(9999) | list, b=ns.t)", times=99999, last=""),
    "parts kept": grown("none", "namespace(a=('é ' * 9999).split(), b=ns.t)", times=9999, last=""),
    "output": loops(12, "{{ 'x' * 1000 }}"),
    "captured": "{% set x %}" + loops(12, "x{{ 'x' * 1000 }}") + "{% endset %}",
    "literal output": loops(12, "x" * 1000),
    "macro": "{% macro m() %}{{ 'x' * 9999 }}{% endmacro %}" + loops(3, "{{ m() }}"),
    "nested macros": "{% macro m() %}{{ 'x' * 99999 }}{{ m() }}{% endmacro %}{{ m() }}",
    "replace": "{{ ('a' * 9999) | replace('a', 'b' * 9999) }}",
    "replace nothing": "{{ ('a' * 9999) | replace('', 'b' * 9999) }}",
    "filter block": "{% filter replace('a', 'b' * 9999) %}{{ 'a' * 9999 }}{% endfilter %}",
    "range": "{{ range(10 ** 9) | list }}",
    "sorted range": "{{ range(10 ** 9) | sort }}",
    "endless range": "{{ range(10 ** 30) }}",
    "range of long numbers": "{{ range(2 ** 500 * 2 ** 500, 2 ** 500 * 2 ** 500 + 9) | sort }}",
    "indentation": "{{ [[1]] | tojson(indent=10 ** 9) }}",
    "hexadecimal": "{{ ('f' * 99999) | int(base=16) }}",
    "stripped": "{{ ('a' * 99999).strip('b' * 99999) }}",
    "trimmed": "{{ ('a' * 99999) | trim('b' * 99999) }}",
    "found": "{{ ('a' * 99999).rfind('b' ~ 'a' * 49999) }}",
    "split by name": "{{ ('a' * 99999).rsplit(sep='b' ~ 'a' * 49999) }}",
    "trusted macro": "{{ quoted(range(99999)) }}",
}
TOO_DEEP = {
    "macro": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "block": "{% block b %}{{ self.b() }}{% endblock %}",
    "loop": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "caller": "{% macro m() %}{{ caller() }}{% endmacro %}{% macro n() %}{% call m() %}{{ n() }}"
    "{% endcall %}{% endmacro %}{{ n() }}",
}
ESCAPES = [
    "{{ ''.__class__.__mro__ }}",
    "{{ ''['__class__'] }}",
    "{{ '' | attr('__class__') }}",
    "{{ [''] | map(attribute='__class__') | first | list }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ ''['format'] }}",
    "{{ '{a}'.format_map({'a': 1}) }}",
    "{{ 'a'.center(9) }}",
    "{{ 'a'.replace('a', 'b') }}",
    "{{ ','.join(titles) }}",
    "{{ 'a'.translate({}) }}",
    "{{ 'a'.encode() }}",
    "{{ dict.__globals__ }}",
    "{{ range.__globals__ }}",
    "{{ namespace.mro() }}",
    "{{ namespace.__init__.__globals__ }}",
    "{% set ns = namespace() %}{{ ns.__class__ }}",
    "{{ quoted._func }}",
    "{{ quoted._environment }}",
    "{{ quoted.__call__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ self.__init__ }}",
    "{% for x in titles %}{{ loop._iterable }}{% endfor %}",
    "{{ titles.append('x') }}",
    "{{ titles.sort() }}",
    "{{ facts.update({}) }}",
    "{{ facts.pop('year') }}",
    "{{ function() }}",
    "{{ titles.__len__() }}",
    "{% include 'x' %}",
    "{% include ['x'] ignore missing %}",
    "{% import 'x' as x %}",
    "{% from 'x' import y %}",
    "{% extends 'x' %}",
]
HONEST = [
    "Liked: {{ titles | join(', ') }}.",
    'Liked:{% if titles %} "{{ titles | join(\'", "\') }}"{% endif %}',
    "{% for t in titles %}\n  {{ loop.index }}/{{ loop.length }} {{ t }}\n{% endfor %}\nEnd",
    "{% for t in titles if t %}{{ t }}{% if not loop.last %};{% endif %}{% else %}-{% endfor %}",
    "{% for t in titles[:3] %}{{ t ~ '!' ~ loop.index0 }}{% endfor %}{{ titles[1::2] }}",
    "{{ titles }}{{ titles | length }}{{ titles | first | default('none') }}",
    "{{ titles | map('upper') | join }}{{ titles | map('title') | sort | unique | list }}",
    "{{ titles | select('string') | list }}{{ titles | reject('in', ['a', 'b']) | list | count }}",
    "{{ titles | reverse | join('-', attribute=0) if '' not in titles }}",
    "{{ titles | groupby(0) if '' not in titles }}{{ facts | dictsort }}{{ facts.items() | list }}",
    "{% for key, value in facts.items() %}{{ key }}={{ value }}{% endfor %}{{ facts.get('x', 1) }}",
    "{{ facts.year + 1 }}{{ facts['stars'] * 2 }}{{ 7 // 2 ** 2 - 7 % 3 }}{{ 'a' * 3 + 'b' }}",
    "{{ '%s (%d), %.1f%%' % (titles | join, facts.year, facts.stars) }}{{ '%(year)05d' % facts }}",
    "{{ '%s|%r' | format(titles, facts.year) }}{{ facts.stars | round(0, 'floor') | int }}",
    "{{ titles | join | replace('a', 'bb', 2) | replace('', '.') | trim | truncate(20) }}",
    "{{ titles | join | trim('ab') }}{{ titles | join | wordy }}",
    "{{ titles | tojson }}{{ facts | tojson(indent=2) }}{{ titles | string | lower }}",
    "{% macro m(t, n=2) %}{{ t }}{{ n }}{{ varargs }}{{ kwargs }}{% endmacro %}"
    "{{ m(titles) }}{{ m(1, 2, 3, x=titles) }}",
    "{% set ns = namespace(n=0, seen=[]) %}{% for t in titles %}{% set ns.n = ns.n + t | length %}"
    "{% set ns.seen = ns.seen + [t] %}{% endfor %}{{ ns.n }}{{ ns.seen }}",
    "{% set text %}{% for t in titles %}<{{ t }}>{% endfor %}{% endset %}{{ text ~ text }}",
    "{% filter upper %}{{ titles | join }}{% endfilter %}{% block b %}{% endblock %}{{ self.b() }}",
    "{% call framed() %}{{ quoted(titles) }}{% endcall %}{{ quoted([]) }}",
    "{% for x in [[1, [2]], [3]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}",
    "{% for t in titles %}{{ loop.cycle('a', 'b') }}{{ loop.changed(t) }}"
    "{{ loop.previtem | default('-') }}{% endfor %}",
    "{{ titles == titles | list }}{{ 1 < 2 <= 3 }}{{ (1, titles) }}{{ {1: titles, 'b': (2,)} }}",
    "{% for t in titles %}{{ t.strip().lower() }}{{ t.split() }}{{ t[::-1] }}{% endfor %}",
    "{% with a = titles | length %}{{ a if a is even else 'odd' }}{% endwith %}{{ 'x' if false }}",
    "{{ dict(a=1, b=titles) }}{{ range(3) | list }}{{ [3, 1] | max }}{{ -1 | abs }}{{ '1' | int }}",
    "{% raw %}{{ x }}{% endraw %}{# a comment #}{{ none }}{{ 1.5 }}{{ 'é\\n' }}",
]


@pytest.fixture
def measured() -> Iterator[Callable[[], int]]:
    """Gives a function that says how many bytes were allocated at most."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


@pytest.mark.parametrize("name", ENDLESS)
def test_endless_templates_end(name: str) -> None:
    started = time.monotonic()
    with pytest.raises(BoundExceeded):
        rendered(ENDLESS[name])
    assert time.monotonic() - started < SMALL.seconds + 1


@pytest.mark.parametrize("name", HUGE)
def test_huge_templates_stay_small(name: str, measured: Callable[[], int]) -> None:
    started = time.monotonic()
    with pytest.raises(SecurityError):
        rendered(HUGE[name])
    assert time.monotonic() - started < SMALL.seconds + 1
    assert measured() < 100_000_000


@pytest.mark.parametrize("name", TOO_DEEP)
def test_templates_that_call_themselves(name: str) -> None:
    with pytest.raises(BoundExceeded, match="calls itself too deeply"):
        rendered(TOO_DEEP[name], limits=Limits())  # depth is met before the time, on busy cores too


@pytest.mark.parametrize("source", ESCAPES)
def test_nothing_to_escape_to(source: str) -> None:
    values = {"titles": ["A"], "facts": {"year": 1979}, "function": lambda: 1}
    with pytest.raises(SecurityError):
        rendered(source, **values)
    assert values["titles"] == ["A"]
    assert values["facts"] == {"year": 1979}


@pytest.mark.parametrize("name", ["lipsum", "cycler", "joiner"])
def test_globals_that_make_much_of_little_are_gone(name: str) -> None:
    with pytest.raises(jinja2.UndefinedError):
        rendered(f"{{{{ {name}('x') }}}}")


def count_words(text: str) -> int:
    return len(text.split())


@cache
def compiled(source: str) -> tuple[jinja2.Template, jinja2.Template]:
    """The template without and with limits."""
    plain, bounded = plain_environment(), bounded_environment(Limits(seconds=30.0))
    for environment in (plain, bounded):
        environment.filters["wordy"] = count_words
    return plain.from_string(source), bounded.from_string(source)


@settings(deadline=None)
@given(
    titles=st.lists(st.text(max_size=20), max_size=6),
    stars=st.floats(0, 5),
    year=st.integers(0, 10**9),
)
def test_honest_templates_render_as_ever(titles: list[str], stars: float, year: int) -> None:
    values = {"titles": titles, "facts": {"year": year, "stars": stars}}
    for source in HONEST:
        plain, bounded = compiled(source)
        assert render_bounded(bounded, values) == plain.render(values), source


@settings(deadline=None)
@given(st.text())
def test_values_are_never_read_as_jinja(title: str) -> None:
    for value in (title, "{{ 7 * 7 }}", "{% for %}", "{#" + title):
        assert rendered("{{ title }}|{{ quoted([title]) }}", title=value) == f'{value}|"{value}"'


def test_the_same_variables_are_found_as_without_limits() -> None:
    plain, bounded = plain_environment(), bounded_environment()
    for source in HONEST:
        found = meta.find_undeclared_variables(bounded.parse(source.replace("wordy", "upper")))
        expected = meta.find_undeclared_variables(plain.parse(source.replace("wordy", "upper")))
        assert found == expected


def test_a_limit_can_be_reached() -> None:
    exact = "{% for i in range(200) %}0123456789{% endfor %}"
    assert len(rendered(exact, limits=TIGHT)) == TIGHT.characters
    assert rendered("{{ 'x' * 2000 }}", limits=TIGHT) == "x" * 2000
    for more in (exact + "!", "{{ 'x' * 2001 }}", "{{ ('x' * 1999) ~ 'yz' }}"):
        with pytest.raises(BoundExceeded, match=r"more than 2,000 characters\.\nShorten it"):
            rendered(more, limits=TIGHT)


def test_messages_say_which_limit_and_what_to_do() -> None:
    with pytest.raises(BoundExceeded, match=r"longer than 0\.15 s\.\nShorten its loops"):
        rendered(loops(12))
    with pytest.raises(BoundExceeded, match=r"more than 400,000 bytes.*\nShorten its loops"):
        rendered(loops(3, "{% set x = 'x' * 1500 %}"), limits=TIGHT)
    with pytest.raises(BoundExceeded, match="more than 4096 bits"):
        rendered("{{ 2 ** 9999 }}")
    with pytest.raises(BoundExceeded, match="deeper than 50 levels"):
        rendered(HUGE["deep list"])
    with pytest.raises(SecurityError, match="may not include, import or extend"):
        rendered("{% include 'x' %}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x" * 200_001, "longer than 200,000 characters"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "recursion"),
        ("{% if x %}" * 900 + "{% endif %}" * 900, "recursion"),
        ("{{ x" + ".x" * 5000 + " }}", "nested deeper than 80 levels"),
        ("{% if x %}" + "{% elif x %}" * 3000 + "{% endif %}", "recursion"),
        (loops(30), "too many statically nested blocks"),
        ("{% set x = y %}" * 9000, "more than 10,000 parts"),
        ("{{ " + "9" * 9999 + " }}", "digits"),
        ("{{ 0x" + "f" * 9999 + " }}", "digits"),
        ("{% autoescape true %}{{ x }}{% endautoescape %}", "no use for autoescape"),
        ("{{ x | center(9) }}", "No filter named 'center'"),
        ("{% if %}", "Expected an expression"),
    ],
)
def test_sources_that_are_refused(source: str, message: str) -> None:
    started = time.monotonic()
    with pytest.raises(jinja2.TemplateSyntaxError, match=message):
        bounded_environment().from_string(source)
    assert time.monotonic() - started < 1.5


def test_threads_render_side_by_side_each_by_its_own_clock() -> None:
    environment = bounded_environment()
    honest = environment.from_string("{% for i in range(9) %}{{ i }}{% endfor %}{{ x }}")
    endless = environment.from_string(loops(12))
    texts: list[list[str]] = [[], []]
    errors: list[Exception] = []

    def stop() -> None:
        try:
            render_bounded(endless, {})
        except Exception as error:
            errors.append(error)

    def work(place: int) -> None:
        until = time.monotonic() + 2 * SMALL.seconds
        while time.monotonic() < until:
            texts[place].append(render_bounded(honest, {"x": place}))

    threads = [threading.Thread(target=work, args=(place,)) for place in (0, 1)]
    threads.append(threading.Thread(target=stop))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert [set(found) for found in texts] == [{"0123456780"}, {"0123456781"}]
    assert [type(error) for error in errors] == [BoundExceeded]


def test_each_rendering_starts_afresh() -> None:
    template = bounded_environment(TIGHT).from_string("{{ 'x' * 1500 }}")
    assert {render_bounded(template, {}) for _ in range(500)} == {"x" * 1500}


def test_limits_cannot_be_forgotten() -> None:
    with pytest.raises(SecurityError, match="through render_bounded only"):
        bounded_environment().from_string("x{{ 1 }}").render()
    with pytest.raises(TypeError, match="Compile it in a BoundedEnvironment"):
        render_bounded(plain_environment().from_string("x"), {})
    with pytest.raises(ValueError, match="neither HTML"):
        BoundedEnvironment(autoescape=True)


def test_equal_hashes_do_not_hold_it_up() -> None:
    # Every multiple of 2 ** 61 - 1 has the hash of zero, which makes a set of them a list.
    step = 2**61 - 1
    values = {"numbers": range(0, 90_000 * step, step)}
    started = time.monotonic()
    with pytest.raises(BoundExceeded):
        rendered("{{ numbers | unique | list }}", **values)
    assert time.monotonic() - started < SMALL.seconds + 1
