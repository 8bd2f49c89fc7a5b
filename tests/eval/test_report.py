from __future__ import annotations

import re
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tastemaker.eval.answers import Measure, Result
from tastemaker.eval.answers_table import ORACLE_TITLE
from tastemaker.eval.compare import Comparison, compare
from tastemaker.eval.report import (
    Curve,
    KnowledgeSample,
    PromptSample,
    ReportData,
    render_report,
)
from tastemaker.eval.wording import basis, summary, verdict_lines

HOSTILE = (
    "<script>alert(1)</script><img src=https://evil.example/x onerror=alert(1)> \"'>{{ 7*7 }}"
    "{% raw %} $\\frac{1}$ &amp; </style></pre> 漢字 עברית <|im_start|>"
)
TRIVIAL = ("Item mean", "Liked share", "Liked share + item mean")


class _Page(HTMLParser):
    """Tags with attributes, text outside the style sheet, and the style sheets."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.styles = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "br", "img"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.styles += data
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def comparison(taste: Any) -> Comparison:
    scores, asked = taste
    return compare(scores, asked, against="DIN", trivial=TRIVIAL, bootstrap=100)


@pytest.fixture(scope="module")
def data(comparison: Comparison) -> ReportData:
    return ReportData(
        title="Do language models help?",
        comparison=comparison,
        subtitle="TALLRec and KAR beside DIN",
        created="2026-01-05",
        models={"DIN": "attention over the history"},
        results=_answers("T5"),
        facts={"Interactions": 100004, "Density": 0.016437, "First event": "1995"},
        curves=[
            Curve("Validation AUC", "DIN", [1, 2, 3], [0.6, 0.7, 0.65], "epoch", best=1),
            Curve("Loss", "TALLRec", [1, 2], [0.7, float("nan")], "step"),
            Curve("Validation AUC", "KAR", [1, 2], [0.61, 0.72], "epoch"),
            Curve("Empty", "Nothing", [], [], "epoch"),
        ],
        timings={"data": 2.0, "tune": 311.2},
        coverage={"users with knowledge": 0.43},
        knowledge=[KnowledgeSample("user", "User 15", "Likes crime films.", "61 tokens")],
        prompts=[PromptSample("tallrec/movie", [("user", "Will it?"), ("assistant", "Yes.")])],
        notes=["The model is small."],
        recipe="name: quickstart\nseed: 7\n",
        versions={"torch": "2.13.0"},
    )


def _answers(name: str) -> list[Result]:
    """A model, which has seen the target in its last prompt, and a rule that does better."""
    figures = {"HR@10": Measure(0.25, 0.125, 0.375)}
    model = Result("sequential", name, "fixed", name, name, 40, 30, {"NDCG@10": Measure(0, 0, 0)})
    best = {"NDCG@10": Measure(0.5, 0.4, 0.6)}
    return [
        replace(model, counts={"free: invalid": 0.125}),
        replace(model, model="Popularity", metrics=best, rule=True),
        replace(model, task=f"told {name}", metrics=figures, oracle=True),
    ]


def test_the_page_says_what_ran_and_how_it_ended(data: ReportData) -> None:
    text = _Page(render_report(data)).text
    comparison = data.comparison
    for part in (summary(comparison), basis(comparison), *verdict_lines(comparison)):
        assert part in text
    row = comparison.row("KAR (DIN + knowledge)", "within_user_auc")
    assert f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]" in text
    for part in (
        "Do language models help?", "TALLRec and KAR beside DIN", "attention over the history",
        "100,004", "0.0164", "5 min 11 s", "43 %", "Likes crime films.", "Will it?",
        "The model is small.", "name: quickstart seed: 7", "torch 2.13.0", "Validation AUC",
    ):  # fmt: skip
        assert part in text
    assert "Nothing" not in text


def test_every_figure_is_drawn(data: ReportData) -> None:
    page = _Page(render_report(data))
    svgs = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert [svg["aria-label"] for svg in svgs] == [
        "AUC of each model with interval",
        "Within-user AUC of each model with interval",
        "Validation AUC",
        "Loss",
    ]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for name in set(re.findall(r"url\(#([^)]+)\)", render_report(data))):
        assert name in ids


def test_nothing_is_loaded_from_elsewhere(data: ReportData) -> None:
    page = _Page(render_report(data))
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "img", "iframe", "object", "embed", "base"}
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"src", "href", "xlink:href", "data", "action", "srcset"}:
                assert value is not None
                assert value.startswith("#")
            if name == "style":
                assert "url(" not in (value or "").replace("url(#", "")
    assert "url(" not in page.styles
    assert "@import" not in page.styles
    policies = [a["content"] for _, a in page.tags if "http-equiv" in a]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


def _hostile(data: ReportData) -> ReportData:
    rows = tuple(replace(row, model=f"{HOSTILE}{row.model}") for row in data.comparison.rows)
    verdicts = tuple(
        replace(verdict, model=f"{HOSTILE}{verdict.model}", baseline=HOSTILE)
        for verdict in data.comparison.verdicts
    )
    comparison = replace(
        data.comparison,
        rows=rows,
        verdicts=verdicts,
        against=f"{HOSTILE}DIN",
        unscored={HOSTILE: 3},
    )
    return ReportData(
        title=HOSTILE,
        comparison=comparison,
        subtitle=HOSTILE,
        created=HOSTILE,
        models={f"{HOSTILE}DIN": HOSTILE},
        results=_answers(HOSTILE),
        facts={HOSTILE: HOSTILE},
        curves=[Curve(HOSTILE, f"_{HOSTILE}", [1, 2], [1, 2], HOSTILE)],
        timings={HOSTILE: 1.0},
        coverage={HOSTILE: 0.5},
        knowledge=[KnowledgeSample(HOSTILE, HOSTILE, HOSTILE, HOSTILE)],
        prompts=[PromptSample(HOSTILE, [(HOSTILE, HOSTILE)], HOSTILE)],
        notes=[HOSTILE],
        recipe=HOSTILE,
        versions={HOSTILE: HOSTILE},
    )


def test_hostile_text_stays_text(data: ReportData) -> None:
    tame, page = _Page(render_report(data)), _Page(render_report(_hostile(data)))
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in tame.tags}
    names = {name for _, attributes in page.tags for name in attributes}
    assert names <= {name for _, attributes in tame.tags for name in attributes}
    assert page.styles == tame.styles
    # Title twice, 7 models, verdicts, and one or more for each other field.
    assert page.text.count(HOSTILE) > 40
    assert not page.open


def test_characters_that_html_forbids_are_replaced(data: ReportData) -> None:
    odd = "null\x00 escape\x1b[2J half\ud83d back\u202e end\uffff"
    page = render_report(replace(data, title=odd, recipe=odd, notes=[odd]))
    page.encode("utf-8")
    assert "null\ufffd escape\ufffd[2J half\ufffd back\ufffd end\ufffd" in page
    assert not re.search("[\x00-\x08\x0b-\x1f\ud800-\udfff]", page)


def test_a_bare_comparison_is_enough(comparison: Comparison, asked: Any, taste: Any) -> None:
    page = _Page(render_report(ReportData("Bare", comparison)))
    headings = [tag for tag, _ in page.tags if tag == "h2"]
    assert len(headings) == 2
    scores, requests = taste
    lone = compare({"DIN": scores["DIN"]}, requests, against="DIN", bootstrap=5)
    assert "Dashed line" not in _Page(render_report(ReportData("Lone", lone))).text
    one = compare({"m": scores["DIN"][:2]}, asked([1, 1], [1, 1]), against="m", bootstrap=5)
    assert "n/a" in _Page(render_report(ReportData("Undefined", one))).text


def test_the_same_data_give_the_same_page(data: ReportData) -> None:
    assert render_report(data) == render_report(data)


def test_rendering_leaves_matplotlib_and_the_folder_alone(
    data: ReportData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib

    monkeypatch.chdir(tmp_path)
    before = dict(matplotlib.rcParams)
    render_report(data)
    assert dict(matplotlib.rcParams) == before
    assert not list(tmp_path.iterdir())


def test_optional_fields_have_defaults() -> None:
    needed = [field.name for field in fields(ReportData)][:2]
    assert needed == ["title", "comparison"]
    with pytest.raises(TypeError, match="comparison"):
        ReportData("only a title")  # type: ignore[call-arg]


def test_generated_answers_have_their_tables_oracles_last() -> None:
    lone = ReportData("Lone", "Nothing is compared.", results=_answers("T5"))
    text = _Page(render_report(lone)).text
    assert "T5 does worse than Popularity on NDCG@10 with T5 (fixed)" in text
    assert "Free answers of T5 with T5 (fixed): 12.5% invalid." in text
    plain, told = text.split(ORACLE_TITLE)
    assert "Generated answers" in plain
    assert "0.0000 [0.0000, 0.0000]" in plain
    assert "0.2500 [0.1250, 0.3750]" not in plain
    assert "0.2500 [0.1250, 0.3750]" in told
    assert "Popularity" not in told
    without = _Page(render_report(replace(lone, results=lone.results[:2]))).text
    assert ORACLE_TITLE not in without


def test_without_a_comparison_the_page_says_why_and_shows_the_answers() -> None:
    why = "Scores are not compared: all 9 test rows are likes."
    page = _Page(render_report(ReportData("Lone", why, results=_answers("T5"))))
    headings = [tag for tag, _ in page.tags if tag == "h2"]
    assert len(headings) == 2
    assert page.text.count(why) == 1
    verdict = page.text.split("Generated answers")[0]
    assert "sequential, T5: T5 does worse than Popularity" in verdict
    assert not {"Comparison", "nan", "n/a"} & set(page.text.split())
    assert not page.open
    assert why in _Page(render_report(ReportData("Bare", why))).text
