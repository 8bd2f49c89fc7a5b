"""Tables of what `benchmarks/ctr.py` has measured, in Markdown, or one JSON line per figure."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.data.splits import Split
from tastemaker.eval.metrics import METRICS
from tastemaker.eval.protocol import Requests, requests
from tastemaker.eval.resample import resample

SHOWN = ("auc", "within_user_auc", "log_loss")
RESAMPLES = 1000
NAMES = {"din": "DIN", "dien": "DIEN", "dcn": "DCN", "dcnv2": "DCNv2", "deepfm": "DeepFM"}
NAMES |= {"xdeepfm": "xDeepFM", "autoint": "AutoInt", "fibinet": "FiBiNet", "fignn": "FiGNN"}
TEXTS = {"knowledge": "knowledge", "plainfacts": "plain item facts"}
TEXTS |= {"ablation preference": "preference only", "ablation facts": "item facts only"}
TEXTS |= {"ablation random": "random vectors", "ablation titles": "titles"}
Scores = dict[str, dict[str, list[NDArray[Any]]]]


def show_tables(folder: Path, split: Split, *, as_json: bool) -> None:
    """Print every table that the folder has results for."""
    asked = requests(split, "test")
    scores = read(folder)
    judged = {
        kind: {model: [judge(one, asked) for one in runs] for model, runs in models.items()}
        for kind, models in scores.items()
    }
    lines: list[dict[str, Any]] = []
    if counts := judged.pop("counts", None):
        print("\n| | AUC | within users | log loss |\n|---|---|---|---|")
        for model, runs in counts.items():
            print(row(model, runs))
    if "ours" in judged:
        quality(judged, lines)
    compared = [kind for kind in TEXTS if kind in judged]
    if compared and "ours" in judged:
        against(compared, scores, judged, asked)
    timed(folder, lines)
    if as_json:
        for line in lines:
            print(json.dumps(line))


def read(folder: Path) -> Scores:
    """Scores of all seeds by kind and model."""
    found: Scores = defaultdict(lambda: defaultdict(list))
    for path in sorted(folder.glob("*-*.npz")):
        kind, _, rest = path.stem.partition("-")
        model = rest
        if kind != "counts":
            model, _, _seed = rest.rpartition("-")
            if kind == "ablation":
                name, _, model = model.partition("-")
                kind = f"ablation {name}"
        found[kind][model].append(np.load(path)["test"])
    return found


def judge(scores: NDArray[Any], asked: Requests) -> dict[str, float]:
    """Every metric on the test rows."""
    values = np.asarray(scores, dtype=np.float64)
    return {name: METRICS[name](values, asked.labels, asked.groups) for name in SHOWN}


def mean(runs: list[dict[str, float]], name: str) -> float:
    """Over seeds."""
    return statistics.fmean(run[name] for run in runs)


def spread(runs: list[dict[str, float]], name: str) -> str:
    """Mean and standard deviation over seeds."""
    values = [run[name] for run in runs]
    told = f"{statistics.fmean(values):.4f}"
    return told + (f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else "")


def row(name: str, runs: list[dict[str, float]]) -> str:
    """One model."""
    return f"| {name} | " + " | ".join(spread(runs, metric) for metric in SHOWN) + " |"


def told(gaps: Iterable[float]) -> str:
    """Differences, with their signs."""
    return ", ".join(f"{gap:+.4f}" for gap in gaps)


def quality(judged: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    """Ours beside theirs."""
    print("\n| model | AUC | theirs | difference | within users | theirs | difference |")
    print("|---|---|---|---|---|---|---|")
    for model, ours in judged["ours"].items():
        theirs = judged.get("theirs", {}).get(model)
        cells = []
        for metric in SHOWN[:2]:
            gap = f"{mean(ours, metric) - mean(theirs, metric):+.4f}" if theirs else ""
            cells += [spread(ours, metric), spread(theirs, metric) if theirs else "", gap]
            if theirs:
                a, b = mean(ours, metric), mean(theirs, metric)
                note = f"{len(ours)} and {len(theirs)} seeds"
                line = {"name": f"{model} {metric}", "ours": a, "theirs": b, "ratio": a / b}
                lines.append({**line, "unit": "fraction", "note": note})
        print(f"| {NAMES[model]} | " + " | ".join(cells) + " |")
    for model, runs in judged.get("float32", {}).items():
        gaps = [mean(judged["ours"][model], m) - mean(runs, m) for m in SHOWN]
        print(f"{row(NAMES[model] + ' in float32', runs)} ours minus it: {told(gaps)} |")
    for model, runs in judged.get("userid", {}).items():
        print(row(f"{NAMES[model]} with the user's id", runs))


def against(kinds: Sequence[str], scores: Scores, judged: dict[str, Any], asked: Requests) -> None:
    """Texts beside the backbone alone: differences, averaged over seeds, and their intervals."""
    print("\nDifferences from the backbone alone, with 95 % intervals over users\n")
    print(
        "| texts | model | AUC | difference | within users | difference | log loss | difference |"
    )
    print("|---|---|---|---|---|---|---|---|")
    alone = {model: resampled(runs, asked) for model, runs in scores["ours"].items()}
    for kind in kinds:
        gaps = defaultdict(list)
        for model, runs in judged[kind].items():
            draws = resampled(scores[kind][model], asked)
            cells = []
            for metric in SHOWN:
                gaps[metric].append(mean(runs, metric) - mean(judged["ours"][model], metric))
                low, high = np.nanquantile(draws[metric] - alone[model][metric], [0.025, 0.975])
                interval = f"[{low:+.4f}, {high:+.4f}]"
                cells += [spread(runs, metric), f"{gaps[metric][-1]:+.4f} {interval}"]
            print(f"| {TEXTS[kind]} | {NAMES[model]} | " + " | ".join(cells) + " |")
        means = " | | ".join(f"{statistics.fmean(gaps[metric]):+.4f}" for metric in SHOWN)
        print(f"| {TEXTS[kind]} | mean | | {means} |")


def resampled(runs: Sequence[NDArray[Any]], asked: Requests) -> dict[str, NDArray[np.float64]]:
    """Every metric on resamples of users, the same ones at every call, averaged over seeds."""
    given = {str(seed): np.asarray(run, np.float64) for seed, run in enumerate(runs)}
    draws = resample(given, asked.labels, groups=asked.groups, count=RESAMPLES, seed=0)
    return {name: np.mean([draws[seed][name] for seed in given], axis=0) for name in SHOWN}


def timed(folder: Path, lines: list[dict[str, Any]]) -> None:
    """Speed of training and of serving."""
    rates = {p.stem.partition("-")[2]: json.loads(p.read_text()) for p in speeds(folder, "through")}
    if rates:
        print(
            "\n| model | rows/s | theirs | ratio | in float32 | ratio |\n|---|---|---|---|---|---|"
        )
        ratios = {"ours": [], "float32": []}
        for model, found in rates.items():
            for name, of in ratios.items():
                of.append(found[name] / found["theirs"])
            print(
                f"| {NAMES[model]} | {found['ours']:,.0f} | {found['theirs']:,.0f} | "
                f"{ratios['ours'][-1]:.2f} | {found['float32']:,.0f} | "
                f"{ratios['float32'][-1]:.2f} |"
            )
            line = {"name": f"{model} training", **found, "ratio": ratios["ours"][-1]}
            lines.append({**line, "unit": "rows/s", "note": "one thread, batch 1024"})
        middle = {name: statistics.median(of) for name, of in ratios.items()}
        print(f"| median | | | {middle['ours']:.2f} | | {middle['float32']:.2f} |")
    served = {p.stem.partition("-")[2]: json.loads(p.read_text()) for p in speeds(folder, "serv")}
    if served:
        print(
            "\n| model | alone, s | prestored | ratio | adaptor | ratio |\n"
            "|---|---|---|---|---|---|"
        )
        for model, found in served.items():
            plain, stored, adaptor = (found[name] for name in ("plain", "prestored", "adaptor"))
            print(
                f"| {NAMES[model]} | {plain:.2f} | {stored:.2f} | {stored / plain:.2f} | "
                f"{adaptor:.2f} | {adaptor / plain:.2f} |"
            )
        ratio = statistics.median(f["prestored"] / f["plain"] for f in served.values())
        print(f"| median | | | {ratio:.2f} | | |")


def speeds(folder: Path, kind: str) -> list[Path]:
    """Files of timings."""
    return sorted(folder.glob(f"{kind}*-*.json"))
