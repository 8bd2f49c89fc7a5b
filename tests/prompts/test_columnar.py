"""Templates rendered by the column against Jinja row by row."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tastemaker.errors import UserError
from tastemaker.prompts.columnar import Unsupported, is_columnar, render_column, render_rows
from tastemaker.prompts.columns import Column, Listing
from tastemaker.prompts.fields import FIELDS
from tastemaker.prompts.template import Template, find_template

ODD = ["", " ", '"', "a, b", "A\nß", "😀", "{{ x }}", "$1", "\\", "None", "0"]
TEXTS = st.sampled_from(ODD) | st.text(max_size=4)
LISTS = st.lists(TEXTS, max_size=4)
PAIRS = st.lists(st.tuples(TEXTS, TEXTS), max_size=3)
KINDS = {
    "title": TEXTS,
    "domain": TEXTS,
    "separator": st.sampled_from([" , ", " -> "]),
    "history": LISTS,
    "liked": LISTS,
    "rated_history": PAIRS,
}
CONSTANTS = {"source": "the <shop>", "factors": ["genre", "mood"]}
ROW = {name: [] if FIELDS[name].kind != "text" else "" for name in KINDS}
Rows = list[dict[str, Any]]
Own = Callable[[str], Template]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Own:
    """A template of these words, with the fields that they use."""
    folder = tmp_path_factory.mktemp("own")

    @cache
    def made(body: str) -> Template:
        words = re.sub(r"'[^']*'", "", body)
        names = [name for name in (*KINDS, *CONSTANTS) if re.search(rf"\b{name}\b", words)]
        head = (
            f"{{#---\nfamily: own\ntask: try\nabout: Try.\nfields: [{', '.join(names)}]\n---#}}\n"
        )
        path = Path(folder / f"{abs(hash(body))}.j2")
        path.write_text(head + body, encoding="utf-8")
        return find_template(str(path))

    return made


@st.composite
def blocks(draw: st.DrawFn, least: int = 0) -> Rows:
    """Some rows of values."""
    height = draw(st.integers(least, 4))
    return [{name: draw(kind) for name, kind in KINDS.items()} for _ in range(height)]


def as_columns(rows: Rows, *, coded: bool) -> dict[str, Any]:
    """The same by the column."""
    found: dict[str, Any] = dict(CONSTANTS)
    for name in KINDS:
        values = [row[name] for row in rows]
        kind = FIELDS[name].kind
        if kind == "text":
            found[name] = column(values, coded=coded)
            continue
        flat = [one for value in values for one in value]
        offsets = np.cumsum([0, *map(len, values)]).astype(np.int64)
        places = (
            [[pair[place] for pair in flat] for place in (0, 1)] if kind == "tuples" else [flat]
        )
        parts = tuple(column(part, coded=coded) for part in places)
        found[name] = Listing(offsets, parts, tuples=kind == "tuples")
    return found


def column(values: list[str], *, coded: bool) -> Column:
    if not coded:
        return Column(pl.Series(values, dtype=pl.String))
    distinct = sorted({*values, "unused"})
    codes = np.array([distinct.index(value) for value in values], dtype=np.int64)
    return Column(pl.Series(distinct, dtype=pl.String), codes)


def by_jinja(template: Template, rows: Rows) -> list[str] | None:
    """The prompt of every row as Jinja writes it; None where it refuses one."""
    found = []
    for row in rows:
        values = {name: (row | CONSTANTS)[name] for name in template.fields()}
        try:
            found.append(template.render_section("prompt", values))
        except UserError:
            return None
    return found


def by_column(template: Template, rows: Rows, *, coded: bool) -> list[str] | None:
    """By the column, or by Jinja where that cannot be done; None where it is refused."""
    try:
        block = as_columns(rows, coded=coded)
        return render_rows(template, "prompt", block, height=len(rows)).to_list()
    except UserError:
        return None


SUPPORTED = [
    # Outputs
    "plain",
    "{{ title }}",
    'a "{{ title }}" {{ 7 }}{{ true }}{{ none }}{{ "x" }} z',
    "{{ title }}{{ domain }}\n\n{{ source }}\n",
    "  {{ title }}  {#- comment -#}  !",
    "{{ title }}{% raw %}{{ 7 }}{% endraw %}",
    # Texts put together
    "{{ title ~ domain }}{{ title ~ ', ' ~ 1 ~ source }}",
    "{{ title + ': ' + domain }}",
    "{{ 'a' ~ 'b' ~ true }}",
    # Conditions
    "{% if title %}a{% endif %}",
    "{% if history %}a{{ title }}{% else %}b{% endif %}",
    "{% if rated_history %}a{% else %}b{{ domain }}{% endif %}",
    "{% if title == domain %}a{% elif title %}b{{ title }}{% elif domain %}c{% else %}d{% endif %}",
    "{% if title != domain and history %}a{% endif %}",
    "{% if not title or not liked %}a{% endif %}",
    "{% if not (title and domain) %}a{% endif %}",
    "{% if title %}{% if domain %}a{% else %}b{{ title }}{% endif %}{% endif %}",
    "{% if source %}a{{ title }}{% else %}b{% endif %}",
    "{% if factors %}a{% endif %}{% if source == 'x' %}b{% endif %}",
    "{% if title and source %}a{% endif %}{% if source or title %}b{% endif %}",
    "{% if history | length > 2 %}a{% elif history | length <= 1 %}b{% else %}c{% endif %}",
    "{% if title < domain %}a{% endif %}{% if title >= 'a' %}b{% endif %}",
    "{% if title | length == history | length %}a{% endif %}",
    "{{ 'a' if title else 'b' }}{{ title if history else domain }}",
    "{{ 'yes' if title == domain else 'no' }}",
    "{{ 'a' if source else title }}{{ title if history }}{{ 'b' if not source }}",
    "{{ title or domain }}{{ title and domain }}{{ title or 'none' }}{{ 'x' and title }}",
    "{{ title or domain or source }}",
    "{{ title == domain }}{{ not title }}{{ title == 'a' and domain == 'b' }}",
    # Lists
    "{{ history | join }}",
    "{{ history | join(', ') }}{{ liked | join('\", \"') }}",
    "{{ history | join(separator) }}",
    "{{ history | join(title) }}{{ factors | join(', ') }}",
    "{{ history[:2] | join('-') }}{{ history[-2:] | join('-') }}{{ history[1:-1] | join('-') }}",
    "{% if history[1:] %}a{% endif %}",
    "{{ history | length }}{{ rated_history | count }}{{ factors | length }}{{ title | length }}",
    "{{ history | length + 1 }}{{ 3 - history | length }}{{ history | length - liked | length }}",
    "{% for one in history %}<{{ one }}>{% endfor %}",
    "{% for one in history %}{{ loop.index }}/{{ loop.length }}{% endfor %}",
    "{% for one in history %}{{ loop.index0 }}{{ loop.revindex }}{{ loop.first }}{% endfor %}",
    "{% for one in history %}{{ one }}{% if not loop.last %}, {% endif %}{% endfor %}.",
    "{% for one in history %}{% if loop.first %}{{ title }}{% else %};{% endif %}{% endfor %}",
    "{% for one in history %}{{ title }}{{ source }}{{ one ~ domain }}{% endfor %}",
    "{% for one in history %}{% if one %}{{ one }}{% elif title %}-{% endif %}{% endfor %}",
    "{% for one in history[-2:] %}{{ loop.index }}{{ one | upper }}{% endfor %}",
    "{% for one in history %}{% if loop.index > 1 %}{{ loop.index - 1 }}{% endif %}{% endfor %}",
    "{% for one, other in rated_history %}{{ one }}: {{ other }}; {% endfor %}",
    "{% for pair in rated_history %}{{ pair[0] }}{{ pair[1] if loop.last else '' }}{% endfor %}",
    "{% for one, other in rated_history[1:] %}{{ one if other == '0' else title }}{% endfor %}",
    "{% if title %}{% for one in history %}{{ one }}{% endfor %}{% endif %}",
    "{% for title in history %}{{ title }}{% endfor %}{{ title }}",
    # Filters
    "{{ title | upper }}{{ title | lower }}{{ title | capitalize }}{{ title | trim }}",
    "{{ title | json }}{{ source | json }}{{ 'ß' | upper }}",
    "{{ title | amount }}{{ ('$' ~ title ~ '.5') | amount }}{{ '12' | amount }}",
    "{{ title | replace('\"', \"'\") }}{{ title | replace('a', '$1') }}",
    "{{ title | default('none') }}{{ title | default('none', true) }}{{ title | d('-', 1) }}",
    "{{ title | d(domain, true) | upper }}{{ source | default('x', true) }}",
    "{{ '' | default(title, true) }}",
    "{{ (title ~ domain) | replace(' ', '_') | length }}",
    "{% for one in history %}{{ one | json }}{{ one | default('None', true) }}{% endfor %}",
    # Names
    "{% set shown = title ~ '!' %}{{ shown }}{{ shown | length }}",
    "{% set some = history[:2] %}{{ some | join('+') }}{% for one in some %}{{ one }}{% endfor %}",
    "{% set a = title %}{% set a = a ~ domain %}{{ a }}",
    "{% for one in history %}{% set two = one ~ one %}{{ two }}{% endfor %}",
    "{% set a = title %}{% for one in history %}{{ a }}{% set a = one %}{{ a }}{% endfor %}{{ a }}",
    "{% set a = history and title %}{% if a %}b{% endif %}{{ 'c' if liked or a else 'd' }}",
    # Macros of shared.j2
    "{{ quoted(history) }}{{ user(title) }}{{ item('7') }}{{ items(liked) }}",
    "{{ scale('1', '5') }}{{ star_options() }}{{ product(title, domain, '') }}",
    "{{ tallrec('film', 'films', quoted(liked), quoted(history), title) }}",
    "{{ tallrec_task('film') }}{{ tallrec_question(title, domain) }}",
    "{{ judged_lines(rated_history) }}{{ title }}",
    "{{ authored_list(rated_history) }}{{ clicked_list(history) }}{{ past_list(history) }}",
    "{{ taste_of(title) }}{{ wish_of(domain) }}{{ rated_list(rated_history) }}",
    "{{ ask_taste('films', 'history', factors) }}{{ introduce(title, factors) }}",
    "{{ or_none(title) }}{{ json_list(history) }}{{ topics_of_note(title) }}",
    "{{ clause(title, domain, '*') }}{{ clauses(rated_history, '') }}",
    "{{ quoted(titles=history) }}{{ user(number=title) }}",
    "{% if quoted(history) %}{{ quoted(history) | upper }}{% endif %}",
    "{% for one in history %}{{ user(one) }}{{ product(one, title, source) }}{% endfor %}",
]


@pytest.mark.parametrize("body", SUPPORTED)
@settings(max_examples=20, suppress_health_check=[HealthCheck.differing_executors])
@given(rows=blocks(), coded=st.booleans())
def test_what_is_supported_gives_what_jinja_gives(
    own: Own, body: str, rows: Rows, coded: bool
) -> None:
    template = own(body)
    block = as_columns(rows, coded=coded)
    found = render_column(template.sections["prompt"], block, height=len(rows))
    assert found.dtype == pl.String
    assert found.to_list() == by_jinja(template, rows)


UNSUPPORTED = [
    "{{ history }}",
    "{{ 1.5 }}{{ title }}",
    "{{ title.upper() }}{{ title[0:1] }}",
    "{{ history[0] if history else '' }}",
    "{{ history | sort | join }}",
    "{{ history | reverse | join(', ') }}",
    "{{ history | join(', ') | replace(title, domain) }}",
    "{{ history | join(', ') | count }}{{ history | list | join }}",
    "{{ title | replace('a', 'b', 1) }}",
    "{{ title | trim('a') }}",
    "{{ title | default('x', boolean=true) }}",
    "{{ ('x' ~ title) | first }}",
    "{{ title if history else 0 }}{{ history if title else liked }}",
    "{{ 'same' if ('a' if title) == '' else 'other' }}",
    "{{ history | map('upper') | join(', ') }}",
    "{{ rated_history | map('first') | join(', ') }}",
    "{{ title in history }}",
    "{{ title is string }}",
    "{{ 'a' < title < 'z' }}",
    "{{ history and title }}",
    "{{ title and history | length }}",
    "{{ history or 'none' }}",
    "{% set a = liked or title %}{% for one in history %}{{ 'b' if a else one }}{% endfor %}",
    "{{ title == 'a' and domain }}",
    "{{ ('a' if title) | default('z') }}",
    "{{ title | default('x', domain) }}",
    "{{ (title, domain) | join }}{{ ['a', title] | join }}",
    "{{ 7 * 7 }}{{ title * 2 }}{{ 'a%s' % title }}",
    "{% for one in history if one %}{{ one }}{% endfor %}",
    "{% for one in history %}{{ one }}{% else %}none{% endfor %}",
    "{% for one in factors %}{{ one }}{% endfor %}{{ title }}",
    "{% for one in history %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for one in history %}{% for other in liked %}{{ one }}{{ other }}{% endfor %}{% endfor %}",
    "{% for one in history %}{{ history | join }}{% endfor %}",
    "{% for one in history %}{{ loop.index % 2 }}{% endfor %}",
    "{% set a = 0 %}{% if title %}{% set a = 1 %}{% else %}{% set a = 2 %}{% endif %}{{ a }}",
    "{% for one in rated_history %}{{ one }}{% endfor %}",
    "{% set a, b = title, domain %}{{ a }}{{ b }}",
    "{% macro own(a) %}<{{ a }}>{% endmacro %}{{ own(title) }}",
    "{% set space = namespace(n=0) %}{% for one in history %}{% set space.n = loop.index %}"
    "{% endfor %}{{ space.n }}",
    "{{ quoted(history, 'more') if false else title }}{{ range(3) | join }}",
]


@pytest.mark.parametrize("body", UNSUPPORTED)
@settings(max_examples=10, suppress_health_check=[HealthCheck.differing_executors])
@given(rows=blocks(least=1), coded=st.booleans())
def test_what_is_unsupported_is_left_to_jinja(own: Own, body: str, rows: Rows, coded: bool) -> None:
    template = own(body)
    assert by_jinja(template, rows) is not None
    assert by_column(template, rows, coded=coded) == by_jinja(template, rows)


@pytest.mark.parametrize("body", UNSUPPORTED)
def test_what_is_unsupported_is_known_to_be(own: Own, body: str) -> None:
    assert not is_columnar(own(body))


def test_the_first_of_a_list_is_columnar_where_all_rows_have_one(own: Own) -> None:
    template = own("{{ history | first }}-{{ history | last }}")
    section = template.sections["prompt"]
    block = as_columns([ROW | {"history": ["a", "b"]}, ROW | {"history": ["c"]}], coded=True)
    assert render_column(section, block, height=2).to_list() == ["a-b", "c-c"]
    block = as_columns([ROW | {"history": ["a", "b"]}, ROW], coded=True)
    with pytest.raises(Unsupported):
        render_column(section, block, height=2)
    with pytest.raises(UserError, match="failed"):
        render_rows(template, "prompt", block, height=2)


def test_a_text_of_a_users_own_template_has_a_greatest_length(own: Own) -> None:
    template = own("{{ title }}{{ title }}")
    block = as_columns([ROW | {"title": "x" * 100_001}], coded=False)
    with pytest.raises(UserError, match="200,000 characters"):
        render_rows(template, "prompt", block, height=1)


def test_sections_that_are_not_there_are_empty(own: Own) -> None:
    template = own("{{ source }}")
    assert render_rows(template, "answer", CONSTANTS, height=2).to_list() == ["", ""]
    assert render_rows(template, "prompt", CONSTANTS, height=2).to_list() == ["the <shop>"] * 2
    assert render_rows(template, "prompt", CONSTANTS, height=0).to_list() == []


WORDS = st.sampled_from(["", "a", " b ", "C,", "ü"])


@st.composite
def expressions(draw: st.DrawFn, depth: int, loop: tuple[str, ...] = ()) -> str:
    """An expression that is mostly a text, of names, constants, filters and operators."""
    names = ["title", "domain", "source", *loop]
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        return draw(st.sampled_from(names) | WORDS.map(lambda word: f"'{word}'"))
    one, two = (draw(expressions(depth - 1, loop)) for _ in range(2))
    test = draw(conditions(depth - 1, loop))
    word = draw(WORDS)
    return draw(
        st.sampled_from(
            [
                f"({one} ~ {two})",
                f"({one} if {test} else {two})",
                f"({one} or {two})",
                f"({one} and {two})",
                f"({one} | default('{word}', true))",
                f"({one} | replace('{word or 'a'}', '{word}{word}'))",
                f"({one} | {draw(st.sampled_from(['upper', 'lower', 'trim', 'json', 'length']))})",
                f"({draw(lists(loop))} | join('{word}'))",
                f"({draw(lists(loop))} | length)",
                f"({test})",
                f"quoted({draw(lists(loop))})",
                f"product({one}, {two}, '')",
            ]
        )
    )


@st.composite
def conditions(draw: st.DrawFn, depth: int, loop: tuple[str, ...] = ()) -> str:
    """What stands in an `if`."""
    if depth <= 0:
        return draw(st.sampled_from(["title", "domain", "history", "liked", "rated_history"]))
    one, two = (draw(conditions(depth - 1, loop)) for _ in range(2))
    left, right = (draw(expressions(depth - 1, loop)) for _ in range(2))
    sign = draw(st.sampled_from(["==", "!=", "<", ">="]))
    return draw(
        st.sampled_from(
            [
                f"({one} and {two})",
                f"({one} or {two})",
                f"(not {one})",
                f"({left} {sign} {right})",
                f"({draw(lists(loop))} | length {sign} {draw(st.integers(0, 3))})",
            ]
        )
    )


@st.composite
def lists(draw: st.DrawFn, loop: tuple[str, ...] = ()) -> str:
    """A list of texts, or a part of one."""
    low, high = (draw(st.sampled_from(["", "1", "-2", "3", "-1"])) for _ in range(2))
    name = draw(st.sampled_from(["history", "liked"]))
    return draw(st.sampled_from([name, f"{name}[{low}:{high}]"]))


@st.composite
def bodies(draw: st.DrawFn, depth: int = 3, loop: tuple[str, ...] = ()) -> str:
    """Some outputs, conditions, loops and names, one after another."""
    parts = []
    for _ in range(draw(st.integers(1, 2))):
        kind = draw(st.sampled_from(["text", "out", "if", "for", "pairs", "set"]))
        if kind == "text" or depth == 0:
            parts.append(draw(WORDS))
        elif kind == "out":
            parts.append(f"{{{{ {draw(expressions(2, loop))} }}}}")
        elif kind == "set":
            parts.append(f"{{% set domain = {draw(expressions(1, loop))} %}}{{{{ domain }}}}")
        elif kind == "if":
            tests = [draw(conditions(1, loop)) for _ in range(2)]
            inner = [draw(bodies(depth - 1, loop)) for _ in range(3)]
            parts.append(f"{{% if {tests[0]} %}}{inner[0]}{{% elif {tests[1]} %}}{inner[1]}")
            parts.append(f"{{% else %}}{inner[2]}{{% endif %}}")
        else:
            name = draw(lists(loop)) if kind == "for" else "rated_history"
            own = ("one",) if kind == "for" else ("one", "other")
            inner = [draw(bodies(depth - 1, (*own, "loop.index", "loop.last")))]
            parts.append(f"{{% for {', '.join(own)} in {name} %}}{inner[0]}{{% endfor %}}")
    return "".join(parts)


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(body=bodies(), rows=blocks(least=1), coded=st.booleans())
def test_whatever_is_written_gives_what_jinja_gives(
    own: Own, body: str, rows: Rows, coded: bool
) -> None:
    template = own("{{ title }}{{ domain }}{# #}" + body)
    assert by_column(template, rows, coded=coded) == by_jinja(template, rows)
