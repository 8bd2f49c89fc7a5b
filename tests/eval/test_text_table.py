from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.eval.compare import Comparison, Row, compare
from tastemaker.eval.report import render_markdown, render_table

TRIVIAL = ("Item mean", "Liked share", "Liked share + item mean")


@pytest.fixture(scope="module")
def comparison(taste: Any) -> Comparison:
    scores, asked = taste
    return compare(scores, asked, against="DIN", trivial=TRIVIAL, bootstrap=100)


def test_seven_models_and_three_metrics_fit_80_columns(comparison: Comparison) -> None:
    text = render_table(comparison)
    assert text.isascii()
    assert max(len(line) for line in text.splitlines()) <= 80
    values, differences = text.split("Paired difference to DIN, with its interval\n")
    row = comparison.row("KAR (DIN + knowledge)", "auc")
    shown = f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]*".replace("0.", ".")
    assert shown in values
    row = comparison.row("Item mean", "log_loss")
    parts = (row.difference, row.difference_low, row.difference_high)
    shown = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*parts).replace("0.", ".")
    assert shown in differences
    assert "\nDIN " in values
    assert "\nDIN " not in differences
    assert len(re.findall(r"\[[.\d]+, [.\d]+\]", values)) == 21
    assert len(re.findall(r"\[[-+.\d]+, [-+.\d]+\]", differences)) == 18
    assert "trivial baselines: Item mean, Liked share and Liked share + item mean" in text


def test_wide_numbers_and_long_names_still_fit(comparison: Comparison) -> None:
    name = "TALLRec-with-a-name-that-nobody-can-read-in-one-breath and more words " * 2
    rows = tuple(
        replace(row, model=name, value=12.3456, low=-10.5, high=123.4, difference=-99.99)
        for row in comparison.rows[:3]
    )
    text = render_table(replace(comparison, rows=(*rows, *comparison.rows), against=name))
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "12.3 [-10.5, 123.4]" in text


@given(st.text(max_size=60))
def test_any_name_stays_one_markdown_cell_and_one_terminal_cell(name: str) -> None:
    entry = Row(name, "auc", 0.5, 0.4, 0.6, 0.0, 0.0, 0.0, True, False)
    lone = Comparison((entry,), (), name, (), 0.95, 10, 0, 5, 2, 0.5, {})
    markdown, text = render_markdown(lone), render_table(lone)
    assert len(re.findall(r"(?<!\\)\|", markdown)) == 12
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", text + markdown)
    assert max(len(line) for line in text.splitlines()) <= 80


def test_unknown_numbers_are_shown_as_such(asked: Any) -> None:
    lone = compare({"one": np.array([1.0, 0.0])}, asked([1, 1], [1, 1]), against="one")
    assert "n/a [n/a]" in render_table(lone)
    assert "| one | n/a | reference |" in render_markdown(lone)


def test_markdown_holds_values_and_differences(comparison: Comparison) -> None:
    lines = render_markdown(comparison).splitlines()
    assert lines[0] == ("| Model | AUC | − DIN | Within-user AUC | − DIN | Log loss | − DIN |")
    assert len(lines) == 2 + 7 + 2
    row = comparison.row("KAR (DIN + knowledge)", "auc")
    assert f"| **{row.value:.3f}** [{row.low:.3f}, {row.high:.3f}] | " in lines[8]
    assert lines[7].count("| reference |") == 3
    assert "Log loss: smaller is better" in lines[-1]
