from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.eval.answers import Measure, Result
from tastemaker.eval.answers_table import ORACLE_TITLE, answer_tables, answers_table, figure

CATALOGUE = "12,101 names of items, those met before left out"


def measure(value: float, width: float = 0.01) -> Measure:
    return Measure(value, value - width, value + width)


def ranked(value: float) -> dict[str, Measure]:
    names = ("HR@1", "HR@5", "NDCG@5", "HR@10", "NDCG@10")
    return {name: measure(value * (place + 1)) for place, name in enumerate(names)}


def result(model: str, value: float, **changes: Any) -> Result:
    """A sequential one, a rule where its name says so."""
    found = Result(
        task="sequential",
        template="p5/2-1",
        role="fixed",
        model=model,
        protocol=CATALOGUE,
        rows=300,
        users=200,
        metrics=ranked(value),
        rule=model in ("Popularity", "Item kNN"),
    )
    return replace(found, **changes)


def both(first: float = 0.02, second: float = 0.03, **changes: Any) -> list[Result]:
    """A model and two rules asked with a seen and an unseen template."""
    return [
        one
        for template, role, value in (("p5/2-1", "fixed", first), ("p5/2-13", "unseen", second))
        for one in (
            result("T5 tuned", value, template=template, role=role, **changes),
            result("Popularity", 0.01, template=template, role=role, **changes),
            result("Item kNN", 0.02, template=template, role=role, **changes),
        )
    ]


def test_rules_stand_once_below_the_models() -> None:
    (table,) = answer_tables(both())
    assert [row.model for row in table.rows] == ["T5 tuned", "T5 tuned", "Popularity", "Item kNN"]
    assert [row.rule for row in table.rows] == [False, False, True, True]
    assert [table.about(row) for row in table.rows] == [
        "p5/2-1 (fixed)",
        "p5/2-13 (unseen)",
        "the same questions",
        "the same questions",
    ]


def test_rules_of_other_questions_keep_their_figures_and_sizes_apart() -> None:
    results = both()
    results[-1] = replace(results[-1], rows=7, users=1, metrics=ranked(0.5))
    (table,) = answer_tables(results)
    assert [table.about(row) for row in table.rows if row.model == "Item kNN"] == [
        "p5/2-1 (fixed); 300 questions of 200 users",
        "p5/2-13 (unseen); 7 questions of 1 user",
    ]
    assert not any("questions of" in note for note in table.notes)


def test_a_template_that_is_fixed_and_best_is_one_row() -> None:
    (table,) = answer_tables([result("T5", 0.1), result("T5", 0.1, role="best on validation")])
    assert [row.asked for row in table.rows] == ["p5/2-1 (fixed; best on validation)"]


def test_each_task_and_protocol_has_a_table_and_oracles_come_last() -> None:
    oracle = result("T5", 0.5, oracle=True, template="search", protocol="1 of 10 candidates")
    rating = result("T5", 0.5, task="rating", metrics={"RMSE": measure(1.0)})
    other = result("T5", 0.5, protocol="1 of 10 candidates")
    tables = answer_tables([oracle, *both(), rating, other])
    assert [(one.task, one.protocol, one.oracle) for one in tables] == [
        ("sequential", CATALOGUE, False),
        ("rating", CATALOGUE, False),
        ("sequential", "1 of 10 candidates", False),
        ("sequential", "1 of 10 candidates", True),
    ]
    text = answers_table([oracle, *both()])
    assert text.index(CATALOGUE) < text.index(ORACLE_TITLE) < text.index("1 of 10 candidates")
    assert ORACLE_TITLE not in answers_table(both())


@pytest.mark.parametrize(
    ("values", "tones"),
    [((0.01, 0.01), ["worse"]), ((0.021, 0.01), ["same", "worse"]), ((0.05, 0.06), ["better"])],
)
def test_a_model_is_judged_by_the_best_rule(values: tuple[float, float], tones: list[str]) -> None:
    (table,) = answer_tables(both(*values))
    assert [one.tone for one in table.findings] == tones
    assert all("Item kNN" in one.text and "NDCG@10" in one.text for one in table.findings)
    if tones == ["worse"]:
        assert table.findings[0].text == (
            "T5 tuned does worse than Item kNN on NDCG@10 with p5/2-1 (fixed) and p5/2-13 "
            "(unseen): it does not help there."
        )


def test_a_smaller_error_is_better() -> None:
    def rated(model: str, error: float) -> Result:
        metrics = {"RMSE": measure(error), "MAE": measure(error)}
        return replace(result(model, 0.0), task="rating", metrics=metrics)

    for error, tone in ((0.8, "better"), (0.9, "same"), (1.0, "worse")):
        mean, rough = rated("Item kNN", 0.9), rated("Popularity", 2.0)
        (table,) = answer_tables([rated("T5", error), rough, mean])
        assert [one.tone for one in table.findings] == [tone]
        assert "Item kNN" in table.findings[0].text
        assert any("smaller is better" in note for note in table.notes)


def test_success_with_a_hint_is_no_finding_but_failure_is() -> None:
    (told,) = answer_tables(both(0.05, 0.05, oracle=True))
    assert told.findings == ()
    (told,) = answer_tables(both(0.01, 0.01, oracle=True))
    assert [one.tone for one in told.findings] == ["worse"]


def test_without_rules_chance_is_what_has_to_be_beaten() -> None:
    counts = {"chance HR@1": 0.1, "chance HR@5": 0.5, "chance HR@10": 1.0}
    (table,) = answer_tables([result("T5", 0.105, counts=counts)])
    assert [one.text for one in table.findings] == [
        "T5 is not shown to do better than chance (0.1000) on HR@1 with p5/2-1 (fixed): "
        "its interval reaches it."
    ]
    assert "Chance: HR@1 0.1000, HR@5 0.5000." in table.notes
    assert answer_tables([result("T5", 0.2, counts=counts)])[0].findings == ()
    labels = {"accuracy": measure(0.6), "AUC": measure(0.505)}
    (table,) = answer_tables([result("T5", 0.0, metrics=labels)])
    assert "chance (0.500) on AUC" in table.findings[0].text


def test_a_hit_rate_that_is_one_by_construction_is_no_column() -> None:
    counts = {"chance HR@5": 0.5, "chance HR@10": 1.0}
    (table,) = answer_tables([result("T5", 0.1, counts=counts)])
    assert table.metrics == ("HR@1", "HR@5", "NDCG@5", "NDCG@10")


def test_notes_tell_units_rates_and_counts() -> None:
    counts = {"free: invalid": 0.07, "free: out of catalogue": 0.935, "empty": 1234}
    (table,) = answer_tables([result("T5", 0.1, counts=counts)])
    assert table.notes == (
        "300 questions of 200 users.",
        "HR and NDCG are fractions from 0 to 1.",
        "Free answers of T5 with p5/2-1 (fixed): 7.0% invalid, 93.5% out of catalogue.",
        "T5 with p5/2-1 (fixed): 1,234 empty.",
    )
    (table,) = answer_tables([result("T5", 0.0, metrics={"bleu_4": measure(3.0)})])
    assert "BLEU and ROUGE go from 0 to 100." in table.notes


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["HR@1", "HR@5", "NDCG@5", "HR@10", "NDCG@10"], "HR@10 NDCG@10"),
        (["accuracy", "AUC"], "AUC accuracy"),
        (["accuracy"], "accuracy"),
        (["accuracy", "AUC", "HR@1", "HR@3", "NDCG@3"], "AUC NDCG@3"),
        (["RMSE", "MAE"], "RMSE MAE"),
        (["bleu_2", "rouge_1", "rouge_2", "rouge_l"], "BLEU-2 ROUGE-L"),
    ],
)
def test_a_terminal_shows_two_metrics(names: list[str], shown: str) -> None:
    text = answers_table([result("T5", 0.0, metrics={name: measure(0.3) for name in names})])
    (header,) = [line for line in text.splitlines() if line.startswith("Model, template")]
    assert " ".join(header.split()) == f"Model, template {shown}"


def test_candidates_show_the_first_place() -> None:
    text = answers_table([result("T5", 0.1, counts={"chance HR@1": 0.1})])
    assert re.search(r"Model, template +HR@1 +NDCG@10\n", text)


def test_a_terminal_shows_values_with_intervals() -> None:
    text = answers_table(both())
    assert re.search(r"T5 tuned, p5/2-1 \(fixed\) +\.0800 \[\.0700, \.0900\] ", text)
    some = result("T5", 0.0, metrics={"RMSE": measure(1.02), "MAE": Measure(0.7, float("nan"), 1)})
    assert re.search(r"1\.020 \[1\.010, 1\.030\] +\.700 \[n/a, 1\.000\]", answers_table([some]))


def test_a_metric_that_a_row_lacks_is_a_dash() -> None:
    lacks = result("T5 untuned", 0.0, metrics={"HR@10": measure(0.1)})
    assert re.search(r"T5 untuned.* -\n", answers_table([result("T5", 0.1), lacks]))


@given(st.text(max_size=120), st.text(max_size=120))
def test_any_name_stays_within_80_columns(name: str, protocol: str) -> None:
    results = [
        result(name, 0.1, template=name, protocol=protocol, counts={"free: invalid": 0.1}),
        result("Popularity", 0.1, template=name, protocol=protocol),
        result(name, 25.0, task=name, metrics={"bleu_4": measure(99.99), "rouge_l": measure(100)}),
    ]
    text = answers_table(results)
    assert max(len(line) for line in text.split("\n")) <= 80
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)


def test_no_results_make_no_table() -> None:
    assert answer_tables([]) == []


def test_figures_have_the_decimals_of_the_papers() -> None:
    assert figure(float("nan"), "HR@5") == "n/a"
    assert [figure(0.12345, name) for name in ("NDCG@5", "AUC", "bleu_4")] == [
        "0.1235",
        "0.123",
        "0.12",
    ]
