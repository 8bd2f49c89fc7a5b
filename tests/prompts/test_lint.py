"""Every rule finds what was planted for it, and says nothing where nothing is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tastemaker.data.history import Histories
from tastemaker.data.splits import Split
from tastemaker.data.tables import build_tables
from tastemaker.errors import UnknownNameError, UserError
from tastemaker.prompts.binding import Binder
from tastemaker.prompts.catalogue import Catalogue
from tastemaker.prompts.examples import Examples
from tastemaker.prompts.lint import (
    RULES,
    LintFinding,
    LintReport,
    Measured,
    lint_choices,
    lint_columns,
    lint_prefix,
    lint_slow,
    loaded,
)
from tastemaker.prompts.lint_rows import Sample, lint_balance, lint_leak, lint_length, shared_text
from tastemaker.prompts.template import Template, find_template, template_names
from tastemaker.testing.world import SCHEMA, checkerboard_split

SPLIT = checkerboard_split()
BODY_LINE = 8  # of the first line after the head that `own` writes


@pytest.fixture
def own(tmp_path: Path) -> Any:
    def make(fields: str, body: str, *, keys: str = "", name: str = "mine") -> Template:
        head = (
            f"{{#---\nfamily: own\ntask: click\nabout: Ask.\n{keys}\nfields: [{fields}]\n---#}}\n"
        )
        path = tmp_path / f"{name}.j2"
        path.write_text(head + body + "\n")
        return find_template(str(path))

    return make


def binder(split: Split = SPLIT) -> Binder:
    return Binder(
        split.histories, Catalogue(split.tables), history=5, candidates=4, train=split.train
    )


def sample(template: Template, *, count: int = 100) -> Sample:
    values = binder()
    examples = Examples.of_rows(SPLIT.tables, SPLIT.train)
    return Sample(
        template, values, examples.take(np.flatnonzero(values.fits(examples, template))[:count])
    )


def rules(findings: list[LintFinding]) -> list[tuple[str, str, int | None]]:
    return [(one.rule, one.severity, one.line) for one in findings]


HEAD = "{#---\nfamily: own\ntask: click\nabout: Ask.\n"


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        (HEAD + "fields: [title]\n---#}\nOne\n{{ title }} {{ titel }}\n", 8, "declared: titel"),
        (HEAD + "fields: [title,\n  brand]\n---#}\n{{ title }}\n", 6, "not used: brand"),
        (HEAD + "fields: [title]\n---#}\n{{ title }}\n{% if title %}\n", 8, "end of template"),
        (HEAD + "fields: [title]\n---#}\n{{ title | nosuch }}\n", 7, "nosuch"),
        (HEAD + "fields: [rating]\n---#}\nNow\n{{ rating }}\n", 8, "its prompt shows rating"),
        (HEAD + "seem: true\nfields: [title]\n---#}\n{{ title }}\n", 5, "seem"),
        (HEAD + "choices: [a\nfields: [title]\n---#}\n{{ title }}\n", 5, "not valid YAML"),
        (HEAD + "fields: [title]\ntarget: titel\n---#}\n{{ title }}\n", 6, "its target 'titel'"),
        ("{{ title }}\n", None, "no front matter"),
        (
            HEAD + "fields: [title]\n---#}\n{{ title }}\n{#--- answer ---#}\n{{ title }}\n",
            None,
            "its prompt shows title and its answer is title",
        ),
    ],
)
def test_load_names_file_line_and_cause(
    tmp_path: Path, text: str, line: int | None, part: str
) -> None:
    path = tmp_path / "bad.j2"
    path.write_text(text)
    (tmp_path / "good.j2").write_text(HEAD + "fields: [title]\n---#}\n{{ title }}\n")
    found, refused = loaded([str(path), str(tmp_path / "gone.j2"), str(tmp_path / "good.j2")])
    assert [template.label for template in found] == ["good.j2"]
    assert rules(refused) == [("load", "error", refused[0].line), ("load", "error", None)]
    assert refused[0].line == line or (line is None and "shows title" in part)
    assert part in refused[0].what
    assert not refused[0].what.startswith("template '/")
    assert refused[0].remedy
    assert "gone.j2" in refused[1].template
    assert "cannot be read" in refused[1].what


def test_an_unknown_packaged_name_is_the_users_mistake() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'tallrec/movie'"):
        loaded(["tallrec/movies"])


def test_prefix_finds_a_target_before_the_history(own: Any) -> None:
    early = own(
        "title, history, user_index", "Hi.\n{{ title }}? {{ history | join }} {{ user_index }}"
    )
    (found,) = lint_prefix(early)
    assert rules([found]) == [("prefix", "warning", BODY_LINE + 1)]
    assert found.what.startswith("title stands before history")
    assert found.remedy == "Write title after history."
    (measured,) = lint_prefix(early, share=0.125)
    assert "share 12% of their text" in measured.what
    late = own("title, history", "{{ history | join }} {{ title }}")
    assert lint_prefix(late) == []
    alone = own("title, user_index", "{{ title }} {{ user_index }}")
    assert lint_prefix(alone) == []


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ("item_index, candidates_index", "{{ item(item_index) }} {{ items(candidates_index) }}"),
        (
            "attributes, rated_history",
            "{{ clauses(attributes, '') }} {{ rated_list(rated_history) }}",
        ),
        ("title, liked_works", "{{ title | json }} {{ authored_list(liked_works) }}"),
        ("title, history", "{{ quoted(history) }} {{ title }} {{ quoted(history) }}"),
        ("title, preference", "{% if title %}{{ title | upper }}{% endif %}{{ preference }}"),
    ],
)
def test_prefix_follows_fields_through_macros_loops_and_filters(
    own: Any, fields: str, body: str
) -> None:
    assert [one.rule for one in lint_prefix(own(fields, body))] == ["prefix"]


def test_prefix_knows_system_parts_columns_and_what_is_not_per_interaction(own: Any) -> None:
    system = own(
        "title, history",
        "{#--- system ---#}\n{{ title }}\n{#--- prompt ---#}\n{{ history | join }}",
    )
    assert rules(lint_prefix(system)) == [("prefix", "warning", BODY_LINE + 1)]
    column = own("brand, history", "{{ brand }} {{ history | join }}")
    assert lint_prefix(column) == []
    assert [one.rule for one in lint_prefix(column, of_items={"brand"})] == ["prefix"]
    reviews = own("title, feedback", "{{ title }} {{ feedback | join }}")
    assert lint_prefix(reviews) == []
    item = own("title, feedback", "{{ title }} {{ feedback | join }}", keys="per: item")
    assert lint_prefix(item) == []
    counted = own("title, history", "{{ title }}{{ 1 + title }}{{ history | join }}")
    assert lint_prefix(counted) == []


def test_choices_that_begin_alike(own: Any) -> None:
    def found(choices: str, **options: Any) -> list[tuple[str, str, int | None]]:
        template = own("title", "{{ title }}", keys=f"choices: [{choices}]")
        return rules(lint_choices(template, **options))

    assert found('"Yes", "No"') == []
    assert found('"Yes", "Yes, maybe"') == [("choices", "warning", 5)]
    assert found('"Yes, maybe", "No", "Yes"') == [("choices", "warning", 5)]
    assert found('"Yes", "Yes"') == [("choices", "error", 5)]
    told = {("Up", "Under"): "both begin with U."}
    clash = {"clash": lambda one, other: told.get((one, other), "")}
    assert found('"Up", "Under", "Down"', **clash) == [("choices", "error", 5)]
    assert found('"Up", "Under"') == []


def test_slow_is_what_does_not_render_by_the_column(own: Any) -> None:
    assert rules(lint_slow(own("title", "{{ title | title }}"))) == [("slow", "warning", None)]
    assert lint_slow(own("title", "{{ title | upper }}")) == []


def test_columns_the_data_has_not(own: Any) -> None:
    template = own("title, brand, genre", "{{ title }}\n{{ brand }}\n{{ genre }}")
    found = lint_columns(template, binder().lacks(template))
    assert rules(found) == [
        ("columns", "error", BODY_LINE + 1),
        ("columns", "error", BODY_LINE + 2),
    ]
    assert "did you mean 'genres'" in found[1].what
    assert "build.columns: {genre: COLUMN}" in found[1].remedy


def test_a_leak_is_found_where_it_stands(own: Any) -> None:
    body = "Hello.\n{{ genres }}?\n{#--- answer ---#}\nIt is {{ category }}!"
    (found,) = lint_leak(sample(own("genres, category", body)))
    assert rules([found]) == [("leak", "error", BODY_LINE + 1)]
    assert "stands in the question as genres, such as 'Even'" in found.what
    assert "Take genres out" in found.remedy
    body = "{% for name, value in attributes %}{{ value }}, {% endfor %}\n"
    whole = own("attributes, category", body + "{#--- answer ---#}\nIt is {{ category }}!")
    (found,) = lint_leak(sample(whole))
    assert rules([found]) == [("leak", "error", BODY_LINE)]
    assert "stands in the question as attributes" in found.what
    with pytest.raises(UserError, match="its prompt shows attributes and its answer is title"):
        own("attributes, title", body + "{#--- answer ---#}\nI choose {{ title }}.")
    number = own("user_index, title", "{{ user_index }}\n{#--- answer ---#}\nI choose {{ title }}.")
    assert lint_leak(sample(number)) == []


@pytest.mark.parametrize(
    ("fields", "body", "keys"),
    [
        ("candidates, title", "{{ candidates | join }}\n{#--- answer ---#}\n{{ title }}", ""),
        ("history, title", "{{ history | join }}\n{#--- answer ---#}\n{{ title }}", ""),
        (
            "genres, category",
            "{{ genres }}\n{#--- answer ---#}\n{{ category }}",
            "given: [genres]",
        ),
        (
            "genres, category",
            "{{ genres }}\n{#--- answer ---#}\n{{ category }}",
            "choices: [Even, Odd]",
        ),
        ("title, category", "Even or Odd? {{ title }}\n{#--- answer ---#}\n{{ category }}", ""),
        ("genres, title", "{{ genres }}\n", "choices: [Even, Odd]"),
    ],
)
def test_what_may_hold_the_answer_is_no_leak(own: Any, fields: str, body: str, keys: str) -> None:
    used = fields if "title }}" in body or "title" not in fields else fields.split(",")[0]
    assert lint_leak(sample(own(used, body, keys=keys))) == []


def test_a_leak_in_few_prompts_is_a_warning(own: Any) -> None:
    count = 40
    tables = build_tables(
        pl.DataFrame(
            {
                "user_id": [1] * count,
                "item_id": list(range(count)),
                "timestamp": list(range(count)),
                "rating": [5.0] * count,
            }
        ),
        items=pl.DataFrame(
            {
                "item_id": list(range(count)),
                "title": [f"Film {place}" for place in range(count)],
                "genres": ["x"] * count,
                "note": ["see Film 3" if place < 20 else "see nothing" for place in range(count)],
            }
        ),
        schema=SCHEMA,
    )
    histories = Histories.from_interactions(tables.interactions)
    template = own("note, title", "{{ note }}\n{#--- answer ---#}\n{{ title }}")
    known = Binder(histories, Catalogue(tables), history=5)
    (found,) = lint_leak(Sample(template, known, Examples.of_rows(tables, range(count))))
    assert rules([found]) == [("leak", "warning", BODY_LINE)]
    assert "in 1 of 40 prompts" in found.what  # not Film 30, though it begins with Film 3
    assert "'Film 3'" in found.what


def test_shared_text_of_prompts_of_one_user(own: Any) -> None:
    early = own("title, history", "{{ title }} {{ history | join(', ') }}")
    late = own("title, history", "{{ history | join(', ') }} {{ title }}")
    first, last = shared_text(sample(early)), shared_text(sample(late))
    assert first is not None
    assert last is not None
    assert first + 0.25 < last < 1
    ten = own("category", "0123456{{ category }}")  # Odd, or Even: 10 or 11 characters
    share = shared_text(sample(ten))
    assert share is not None
    assert 7 / 11 < share < 1
    assert share == pytest.approx(_expected_share(ten))
    assert shared_text(sample(own("history", "{{ history | join }}"))) is None


def _expected_share(template: Template) -> float:
    """Of texts of 7 common characters: all of it where both items are of one kind, else 7 of 11."""
    parity = sample(template).examples.items % 2
    items = sample(template).examples.items
    differ = (items != np.roll(items, 1)).nonzero()[0][:50]
    same = (parity == np.roll(parity, 1))[differ]
    return float(np.mean(np.where(same, 1, 7 / 11)))


def test_length_counts_what_is_too_long(own: Any) -> None:
    template = own("title", "{{ title }}")
    assert lint_length(template, [5, 8], model="m", context=8) == []
    (found,) = lint_length(template, [5, 9, 12], model="m", context=8)
    assert rules([found]) == [("length", "warning", None)]
    assert "2 of 3 prompts" in found.what
    assert "has 12" in found.what


@pytest.mark.parametrize(
    ("choices", "counts", "found"),
    [
        ("Yes, No", {"Yes": 81, "No": 19}, 1),
        ("Yes, No", {"Yes": 80, "No": 20}, 0),
        ("Yes, No", {"Yes": 50}, 1),
        ("Yes, No", {}, 0),
        ("a, b, c, d", {"a": 30, "b": 30, "c": 30, "d": 10}, 0),
        ("a, b, c, d", {"a": 31, "b": 30, "c": 30, "d": 9}, 1),
    ],
)
def test_balance_of_answers(own: Any, choices: str, counts: dict[str, int], found: int) -> None:
    quoted = ", ".join(f'"{one}"' for one in choices.split(", "))
    template = own("title", "{{ title }}", keys=f"choices: [{quoted}]")
    findings = lint_balance(template, counts)
    assert rules(findings) == [("balance", "warning", 5)] * found
    if counts.get("No") == 19:
        assert "'Yes' 81.0%, 'No' 19.0%" in findings[0].what
    assert lint_balance(own("title", "{{ title }}"), {"a": 1, "b": 99}) == []


def test_a_report_fits_80_columns_and_counts() -> None:
    long = "folder/" * 15 + "name.j2"
    findings = [
        LintFinding(
            rule=rule,
            severity="error" if rule == "load" else "warning",
            template=long if rule == "load" else "a",
            what="something is wrong " * 9,
            remedy="do something " * 9,
            line=12,
        )
        for rule in RULES
    ]
    size = Measured(prompts=3, unit="tokens of m", middle=1, high=2, longest=12_345, shared=0.5)
    report = LintReport(
        templates=["a", "b", "c", long],
        findings=findings,
        measured={"a": size, "b": size},
        left_out={"c": ["brand", "age"]},
    )
    lines = list(report.lines())
    assert max(map(len, lines)) <= 80
    assert lines[0] == "a"
    assert "b" not in lines
    assert lines[-1] == f"4 templates: 1 error, {len(RULES) - 1} warnings"
    assert any("no column for age, brand" in line for line in lines)
    assert report.failed
    assert report.to_dict()["ok"] is False
    assert report.to_dict()["measured"]["a"]["longest"] == 12_345
    named = LintReport(templates=["b"], findings=[], measured={"b": size}, shows_all=True)
    assert next(iter(named.lines())) == "b"
    assert not named.failed


@pytest.mark.parametrize("rule", [lint_choices, lint_slow, lint_prefix])
def test_the_library_is_clean(rule: Any) -> None:
    found = [one for name in template_names() for one in rule(find_template(name))]
    assert found == []
