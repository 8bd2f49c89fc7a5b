"""Results of generated answers side by side: one table for each task and protocol, and in words.

Tables of questions whose prompt tells something of their own target (*oracles*) come last: what is
found with such a hint is no recommendation. A model stands beside the rules that answered the same
questions, and where it does no better than they do, or than chance, a sentence says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tastemaker.eval.answers import Measure, Result
from tastemaker.eval.text_table import text_table, wrapped
from tastemaker.eval.wording import clean, listed

__all__ = [
    "ORACLE_NOTE",
    "ORACLE_TITLE",
    "AnswerRow",
    "AnswerTable",
    "Finding",
    "answer_tables",
    "answers_table",
    "figure",
    "measure_title",
]

ORACLE_TITLE = "Told something of the target: no recommendation"
ORACLE_NOTE = (
    "The prompts of these questions were made with knowledge of the item asked for, such as an "
    "intention drawn from its review. They show how well a wish is matched; no recommender has "
    "that hint."
)
_CHANCE, _FREE = "chance ", "free: "
_SMALLER = ("RMSE", "MAE")
_RANKS, _TEXTS = ("HR@", "NDCG@"), ("bleu", "rouge")
_EVEN = 0.5  # AUC of scores that know nothing

Question = tuple[str, str]  # template, role


@dataclass(frozen=True)
class AnswerRow:
    """What a model or rule reaches with the templates that give it the same figures.

    Attributes:
        model: Who answered.
        questions: Template and role of each.
        rule: Whether it is a rule that reads no prompt.
        rows: Questions.
        users: Who they are about.
        metrics: Name → figure.
        counts: What else is known.
    """

    model: str
    questions: tuple[Question, ...]
    rule: bool
    rows: int
    users: int
    metrics: Mapping[str, Measure]
    counts: Mapping[str, float]

    @property
    def templates(self) -> set[str]:
        """Names of its templates."""
        return {template for template, _ in self.questions}

    @property
    def asked(self) -> str:
        """Its templates, each with its roles, in a sentence.

        >>> AnswerRow("T5", (("p5/2-1", "fixed"),), False, 9, 3, {}, {}).asked
        'p5/2-1 (fixed)'
        """
        return _templates(self.questions)


@dataclass(frozen=True)
class Finding:
    """How a model compares with the best rule, or with chance.

    Attributes:
        text: One sentence.
        tone: `better`, `same` (not told apart) or `worse`.
    """

    text: str
    tone: str


@dataclass(frozen=True)
class AnswerTable:
    """Figures that can be compared.

    Attributes:
        task: Kind of question.
        protocol: What was ranked or compared, and against what.
        oracle: Whether prompts tell something of the target.
        metrics: Columns in order; a hit rate that is 1 by construction is none of them.
        rows: Models, then rules.
        chance: Metric → what guessing reaches, where it is known.
        notes: What to know when reading, one sentence each.
        findings: What they show.
    """

    task: str
    protocol: str
    oracle: bool
    metrics: tuple[str, ...]
    rows: tuple[AnswerRow, ...]
    chance: Mapping[str, float]
    notes: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def same_size(self) -> bool:
        """Whether all rows rest on as many questions and users."""
        return len({(row.rows, row.users) for row in self.rows}) == 1

    def about(self, row: AnswerRow) -> str:
        """With which templates a row came about, and on how many questions if these differ."""
        whole = row.rule and all(row.templates >= one.templates for one in self.rows)
        text = "the same questions" if whole else row.asked
        return text if self.same_size else f"{text}; {_size(row)}"


def answer_tables(results: Sequence[Result]) -> list[AnswerTable]:
    """Results in tables: recommendation first, oracles last, tasks in order of appearance.

    Rows of a model with equal figures become one, so a rule, which reads no prompt, has one row.
    """
    groups: dict[tuple[bool, str, str], list[Result]] = {}
    for one in results:
        groups.setdefault((one.oracle, one.task, one.protocol), []).append(one)
    ordered = sorted(groups.items(), key=lambda group: group[0][0])
    return [_table(*key, members) for key, members in ordered]


def answers_table(results: Sequence[Result]) -> str:
    """The same for a terminal: at most 80 columns, two metrics of each table.

    Of lists of candidates the first place and the longest NDCG are shown, of lists of the whole
    catalogue the longest hit rate.
    """
    parts, told = ["Generated answers"], False
    for table in answer_tables(results):
        if table.oracle and not told:
            parts += [f"{ORACLE_TITLE}\n{wrapped(ORACLE_NOTE)}"]
            told = True
        parts.append(_terminal(table))
    return "\n\n".join(parts)


def measure_title(metric: str) -> str:
    """How a metric is called on paper.

    >>> measure_title("rouge_l"), measure_title("HR@10")
    ('ROUGE-L', 'HR@10')
    """
    return metric.replace("_", "-").upper() if metric.startswith(_TEXTS) else metric


def figure(value: float, metric: str) -> str:
    """A figure with the decimals its metric is printed with; "n/a" for NaN.

    >>> figure(0.0254, "HR@10"), figure(1.97131, "rouge_l"), figure(0.0, "AUC")
    ('0.0254', '1.97', '0.000')
    """
    if math.isnan(value):
        return "n/a"
    decimals = 4 if metric.startswith(_RANKS) else 2 if metric.startswith(_TEXTS) else 3
    return f"{value:.{decimals}f}"


def _table(oracle: bool, task: str, protocol: str, results: Sequence[Result]) -> AnswerTable:
    rows = _merged(results)
    chance = {
        name.removeprefix(_CHANCE): value
        for row in rows
        for name, value in row.counts.items()
        if name.startswith(_CHANCE)
    }
    names = dict.fromkeys(name for row in rows for name in row.metrics)
    metrics = tuple(name for name in names if chance.get(name, 0.0) < 1)
    findings = tuple(_findings(rows, chance))
    return AnswerTable(
        task=task,
        protocol=protocol,
        oracle=oracle,
        metrics=metrics,
        rows=rows,
        chance=chance,
        notes=tuple(_notes(rows, metrics, chance)),
        findings=tuple(one for one in findings if not (oracle and one.tone == "better")),
    )


def _merged(results: Sequence[Result]) -> tuple[AnswerRow, ...]:
    """Models, then rules, those with equal figures in one row."""
    rows: list[AnswerRow] = []
    for one in results:
        row = AnswerRow(
            model=one.model,
            questions=((one.template, one.role),),
            rule=one.rule,
            rows=one.rows,
            users=one.users,
            metrics=one.metrics,
            counts=one.counts,
        )
        for place, other in enumerate(rows):
            if _alike(row, other):
                joined = (*other.questions, *row.questions)
                rows[place] = _asked(other, tuple(dict.fromkeys(joined)))
                break
        else:
            rows.append(row)
    return tuple(sorted(rows, key=lambda row: row.rule))


def _alike(row: AnswerRow, other: AnswerRow) -> bool:
    return _asked(row, ()) == _asked(other, ())


def _asked(row: AnswerRow, questions: tuple[Question, ...]) -> AnswerRow:
    size = {"rows": row.rows, "users": row.users}
    return AnswerRow(row.model, questions, row.rule, **size, metrics=row.metrics, counts=row.counts)


def _templates(questions: Sequence[Question]) -> str:
    """Templates with their roles, such as `p5/2-1 (fixed; best on validation) and p5/2-13`."""
    roles: dict[str, list[str]] = {}
    for template, role in questions:
        roles.setdefault(template, []).append(role)
    return listed(f"{template} ({'; '.join(known)})" for template, known in roles.items())


def _size(row: AnswerRow) -> str:
    questions = "1 question" if row.rows == 1 else f"{row.rows:,} questions"
    return f"{questions} of {'1 user' if row.users == 1 else f'{row.users:,} users'}"


def _notes(
    rows: Sequence[AnswerRow], metrics: Sequence[str], chance: Mapping[str, float]
) -> Iterator[str]:
    if len({(row.rows, row.users) for row in rows}) == 1:
        yield f"{_size(rows[0])}."
    if any(name.startswith(_RANKS) for name in metrics):
        yield "HR and NDCG are fractions from 0 to 1."
    if any(name.startswith(_TEXTS) for name in metrics):
        yield "BLEU and ROUGE go from 0 to 100."
    if any(name in _SMALLER for name in metrics):
        yield "RMSE and MAE are in points of the scale; smaller is better."
    if "AUC" in metrics:
        yield "An AUC of 0.5 is chance."
    known = [f"{name} {figure(chance[name], name)}" for name in metrics if name in chance]
    if known:
        yield f"Chance: {', '.join(known)}."
    for row in rows:
        yield from _counted(row)


def _counted(row: AnswerRow) -> Iterator[str]:
    """What else is known of a row: error rates of free generation, and plain counts."""
    who = f"{clean(row.model)} with {row.asked}"
    rates = [
        f"{share:.1%} {name.removeprefix(_FREE)}"
        for name, share in row.counts.items()
        if name.startswith(_FREE)
    ]
    if rates:
        yield f"Free answers of {who}: {', '.join(rates)}."
    counts = [
        f"{count:,.0f} {name}"
        for name, count in row.counts.items()
        if not name.startswith((_FREE, _CHANCE))
    ]
    if counts:
        yield f"{who}: {', '.join(counts)}."


def _findings(rows: Sequence[AnswerRow], chance: Mapping[str, float]) -> Iterator[Finding]:
    """A sentence for each model and outcome, all its templates together."""
    found: dict[tuple[str, str, str, str], list[Question]] = {}
    for row in rows:
        judged = None if row.rule else _judged(row, rows, chance)
        if judged is not None:
            found.setdefault((clean(row.model), *judged), []).extend(row.questions)
    for (model, metric, tone, rival), questions in found.items():
        yield Finding(_sentence(model, metric, tone, rival, asked=_templates(questions)), tone)


def _judged(
    row: AnswerRow, rows: Sequence[AnswerRow], chance: Mapping[str, float]
) -> tuple[str, str, str] | None:
    """Metric, tone and rival of a model; None where nothing simple stands beside it."""
    rules = [one for one in rows if one.rule and one.templates & row.templates]
    shared = [name for name in row.metrics if all(name in one.metrics for one in rules)]
    ranks = [name for name in shared if name.startswith("NDCG@")]
    metric = next((name for name in (*ranks[-1:], "RMSE") if name in shared), None)
    if rules and metric is not None:
        smaller = metric in _SMALLER
        sign = -1 if smaller else 1
        best = max(rules, key=lambda one: _or_least(sign * one.metrics[metric].value))
        own, other = row.metrics[metric], best.metrics[metric]
        tone = _tone((other, own) if smaller else (own, other))
        return metric, tone, clean(best.model)
    guessed = {name: chance[name] for name in ("HR@1",) if name in chance} or {"AUC": _EVEN}
    for name, share in guessed.items():
        if name in row.metrics and not row.metrics[name].low > share:
            return name, "same", f"chance ({figure(share, name)})"
    return None


def _or_least(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _tone(ordered: tuple[Measure, Measure]) -> str:
    """How the first figure stands to the second, where larger is better."""
    own, other = ordered
    return "better" if own.low > other.high else "worse" if own.high < other.low else "same"


def _sentence(model: str, metric: str, tone: str, rival: str, *, asked: str) -> str:
    where = f"on {measure_title(metric)} with {asked}"
    if tone == "better":
        return f"{model} does better than {rival}, the best rule here, {where}."
    if tone == "worse":
        return f"{model} does worse than {rival} {where}: it does not help there."
    why = "its interval reaches it" if rival.startswith(_CHANCE) else "their intervals overlap"
    return f"{model} is not shown to do better than {rival} {where}: {why}."


def _terminal(table: AnswerTable) -> str:
    """Heading, figures, notes and findings."""
    shown = _shown(table)
    lines = [
        [
            clean(f"{row.model}, {table.about(row)}"),
            *(_cell(row.metrics.get(name), name) for name in shown),
        ]
        for row in table.rows
    ]
    header = ["Model, template", *map(measure_title, shown)]
    texts = [clean(text) for text in (" ".join(table.notes), *(f.text for f in table.findings))]
    return "\n".join(
        [
            wrapped(clean(f"{table.task}: {table.protocol}")),
            text_table(header, lines),
            *map(wrapped, texts),
        ]
    )


def _shown(table: AnswerTable) -> list[str]:
    """The two metrics that a terminal has room for."""
    names = table.metrics
    hits = [name for name in names if name.startswith("HR@")]
    gains = [name for name in names if name.startswith("NDCG@")]
    ranked = hits if table.chance else hits[::-1]
    known: list[str] = [name for name in ("AUC", "accuracy", "RMSE") if name in names]
    first = [*known, *ranked, *names][0]
    rest = gains or [name for name in names if name != first]
    return [first, *rest[-1:]]


def _cell(measure: Measure | None, metric: str) -> str:
    if measure is None:
        return "-"
    value, low, high = (
        re.sub(r"^(-?)0\.", r"\1.", figure(number, metric))
        for number in (measure.value, measure.low, measure.high)
    )
    return f"{value} [{low}, {high}]"
