"""What shares a row shares work, not knowledge: every target is scored as if it stood alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from tastemaker.data.builtin.base import load_builtin
from tastemaker.data.splitters import split_tables
from tastemaker.models.language import LanguageModel, load_language_model
from tastemaker.models.scoring import score_yes_no
from tastemaker.models.tree_attention import tree_attention
from tastemaker.prompts.binding import Binder
from tastemaker.prompts.catalogue import Catalogue
from tastemaker.prompts.examples import Examples as Targets
from tastemaker.prompts.formats import find_format
from tastemaker.prompts.mixture import Mixture
from tastemaker.prompts.source import InstructionSource
from tastemaker.prompts.template import find_template
from tastemaker.tuning.answer_head import AnswerHead
from tastemaker.tuning.examples import Examples, encode_examples
from tastemaker.tuning.rows import AnswerCollator, Rows, rows_of

PAD = 2


def examples_of(sequences: Sequence[Sequence[int]], starts: Sequence[int]) -> Examples:
    return Examples(
        np.concatenate([np.array(one, dtype=np.int32) for one in sequences]),
        np.cumsum([0, *map(len, sequences)]),
        np.array(starts),
        None,
    )


# A user's history that grows: every prompt is the beginning of the next, but for its question.
GROWING = examples_of(
    [
        [5, 6, 11, 12, 40, 41, 90, 3],
        [5, 6, 11, 12, 7, 8, 40, 42, 91, 3],
        [5, 6, 11, 12, 7, 8, 9, 10, 40, 43, 90, 3],
    ],
    [6, 8, 10],
)


def batch_of(examples: Examples, rows: Rows, **more: Any) -> dict[str, torch.Tensor]:
    collate = AnswerCollator(examples, rows, pad=PAD, dtype=torch.float32, **more)
    return collate([{"place": place} for place in range(len(rows.groups))])


@pytest.fixture(scope="module")
def model(folder: Path) -> LanguageModel:
    return load_language_model(str(folder), dtype=torch.float32, device="cpu")


def losses(model: LanguageModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Loss of each token to foretell, in the order of the batch's labels."""
    read = {k: batch[k] for k in ("input_ids", "position_ids", "attention_mask") if k in batch}
    head = AnswerHead(model.model)
    with torch.no_grad(), tree_attention(model.model), head.only(batch["rows"], batch["nodes"]):
        logits = model.model(**read, use_cache=False).logits[0]
    return torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="none")


def alone(model: LanguageModel, examples: Examples, place: int) -> torch.Tensor:
    """The same of one example by transformers itself, nothing around it."""
    ids = torch.tensor([examples.sequence(place)])
    start = int(examples.starts[place])
    with torch.no_grad():
        logits = model.model(input_ids=ids).logits[0, start - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, ids[0, start:], reduction="none")


def by_target(examples: Examples, rows: Rows, found: torch.Tensor) -> dict[int, torch.Tensor]:
    order = [place for group in rows.groups for place in group]
    sizes = [int(examples.lengths[place] - examples.starts[place]) for place in order]
    return dict(zip(order, found.split(sizes), strict=True))


# Arranging


def test_single_rows_are_the_examples() -> None:
    rows = rows_of(GROWING, "single", limit=1, seed=0)
    assert rows.groups == [[0], [1], [2]]
    assert rows.lengths.tolist() == [8, 10, 12]
    assert rows.dataset()[2] == {"place": 2, "length": 12}


def test_packed_rows_hold_random_examples_up_to_the_limit() -> None:
    many = examples_of([[1, place, place] for place in range(40)], [2] * 40)
    rows = rows_of(many, "packed", limit=10, seed=0)
    assert sorted(place for group in rows.groups for place in group) == list(range(40))
    assert {len(group) for group in rows.groups} == {1, 3}
    assert max(rows.lengths) <= 10
    assert rows.groups == rows_of(many, "packed", limit=10, seed=0).groups
    assert rows.groups != rows_of(many, "packed", limit=10, seed=1).groups
    assert [len(group) for group in rows_of(many, "packed", limit=2, seed=0).groups] == [1] * 40


def test_streamed_rows_hold_what_begins_alike() -> None:
    rows = rows_of(GROWING, "streamed", limit=100, seed=0)
    assert [sorted(group) for group in rows.groups] == [[0, 1, 2]]
    # The longest one whole; of the others question and answer.
    assert rows.lengths.tolist() == [12 + 4 + 4]
    strangers = examples_of([[5, 6, 40], [7, 8, 40]], [2, 2])
    assert len(rows_of(strangers, "streamed", limit=100, seed=0).groups) == 2
    assert len(rows_of(GROWING, "streamed", limit=16, seed=0).groups) == 2


# Collating


@pytest.mark.parametrize("form", ["single", "packed", "streamed"])
@pytest.mark.parametrize("merged", [False, True])
def test_labels_are_the_answers_and_states_stand_before_them(form: Any, merged: bool) -> None:
    rows = rows_of(GROWING, form, limit=100, seed=0)
    batch = batch_of(GROWING, rows, merged=merged)
    order = [place for group in rows.groups for place in group]
    answers = [GROWING.sequence(place)[GROWING.starts[place] :] for place in order]
    assert batch["labels"].tolist() == [token for answer in answers for token in answer]
    assert batch["shift_labels"].tolist() == batch["labels"].tolist()
    before = [GROWING.sequence(place)[GROWING.starts[place] - 1 : -1] for place in order]
    read = batch["input_ids"][batch["rows"], batch["nodes"]]
    assert read.tolist() == [token for part in before for token in part]
    if merged:
        assert batch["input_ids"].shape == (1, 20)


def test_rows_are_filled_up_on_the_right() -> None:
    batch = batch_of(GROWING, rows_of(GROWING, "single", limit=1, seed=0))
    assert sorted(batch) == ["input_ids", "labels", "nodes", "rows", "shift_labels"]
    assert batch["input_ids"].tolist()[0] == [5, 6, 11, 12, 40, 41, 90, 3, PAD, PAD, PAD, PAD]


def test_everything_is_all_tokens_but_the_first() -> None:
    batch = batch_of(GROWING, rows_of(GROWING, "single", limit=1, seed=0), everything=True)
    expected = [token for sequence in GROWING.sequences() for token in sequence[1:]]
    assert batch["labels"].tolist() == expected
    read = batch["input_ids"][batch["rows"], batch["nodes"]].tolist()
    assert read == [token for sequence in GROWING.sequences() for token in sequence[:-1]]


# Scoring


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("form", ["single", "packed", "streamed"])
def test_one_tree_or_many_rows_give_the_same_loss(
    model: LanguageModel, form: Any, everything: bool
) -> None:
    rows = rows_of(GROWING, form, limit=20, seed=0)
    plain, merged = (
        losses(model, batch_of(GROWING, rows, merged=one, everything=everything))
        for one in (False, True)
    )
    torch.testing.assert_close(merged, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", ["packed", "streamed"])
@pytest.mark.parametrize("merged", [False, True])
def test_each_target_has_the_loss_it_has_alone(
    model: LanguageModel, form: Any, merged: bool
) -> None:
    rows = rows_of(GROWING, form, limit=100, seed=0)
    found = by_target(GROWING, rows, losses(model, batch_of(GROWING, rows, merged=merged)))
    for place, loss in found.items():
        torch.testing.assert_close(loss, alone(model, GROWING, place), atol=1e-5, rtol=1e-5)


def test_another_answer_changes_no_other_target(model: LanguageModel) -> None:
    changed = examples_of(GROWING.sequences(), GROWING.starts.tolist())
    changed.tokens[changed.offsets[1] + 8] = 90  # the answer of target 1 is the other one
    first, second = (
        by_target(one, rows, losses(model, batch_of(one, rows, merged=True)))
        for one in (GROWING, changed)
        for rows in [Rows([[0, 1, 2]], np.array([20]))]
    )
    assert abs(float(first[1][0] - second[1][0])) > 0.01
    for place in (0, 2):
        torch.testing.assert_close(first[place], second[place], atol=1e-6, rtol=1e-6)


def test_targets_of_one_moment_do_not_see_each_other(model: LanguageModel) -> None:
    """They share their history, and nothing that comes after it."""
    past = [5, 6, 7, 8]
    both = examples_of([[*past, 40, 41, 90, 3], [*past, 40, 42, 91, 3]], [6, 6])
    rows = rows_of(both, "streamed", limit=100, seed=0)
    assert rows.lengths.tolist() == [5 + 3 + 3]
    batch = batch_of(both, rows)
    mask = batch["attention_mask"][0, 0] == 0
    question, other = (batch["input_ids"][0] == token for token in (41, 42))
    assert not mask[other.nonzero()[0, 0], question.nonzero()[0, 0]]
    assert batch["position_ids"][0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 5, 6, 7]
    for place, loss in by_target(both, rows, losses(model, batch)).items():
        torch.testing.assert_close(loss, alone(model, both, place), atol=1e-5, rtol=1e-5)


# Real prompts of a real user


def stream_of_a_user(count: int) -> Dataset:
    split = split_tables(
        load_builtin("movielens-small"), "global_time", valid_from=0.8, test_from=0.9
    )
    counts = split.histories.counts(split.train)
    owners = split.tables.interactions["user"].to_numpy()[split.train]
    user = np.unique(owners[counts > 40])[0]
    rows = split.train[(owners == user) & (counts > 20) & (counts <= 40)][:count]
    source = InstructionSource(
        Binder(split.histories, Catalogue(split.tables), history=20, anchor=20),
        Targets.of_rows(split.tables, rows),
        Mixture.of([find_template("tallrec/stream")]),
        "train",
    )
    frame = find_format("trl").arrange(source.frame())
    return Dataset.from_polars(frame.select("prompt", "completion"))


@pytest.mark.slow
def test_streamed_log_odds_of_a_real_user() -> None:
    model = load_language_model("smollm2", dtype=torch.float32)
    data = stream_of_a_user(6)
    examples = encode_examples(data, "train", tokenizer=model.tokenizer, limit=4096, context=8192)
    rows = rows_of(examples, "streamed", limit=4096, seed=0)
    assert len(rows.groups) < len(data)  # some of them share a row, or nothing is shown here
    assert rows.lengths.sum() < 0.7 * examples.lengths.sum()
    batch = batch_of(examples, rows, merged=True)
    head = AnswerHead(model.model)
    read = {k: batch[k] for k in ("input_ids", "position_ids", "attention_mask")}
    with torch.no_grad(), tree_attention(model.model), head.only(batch["rows"], batch["nodes"]):
        logits = model.model(**read, use_cache=False).logits[0]
    answers = [model.tokenizer.encode(word)[0] for word in ("Yes", "No")]
    odds = logits[:, answers[0]] - logits[:, answers[1]]
    found = {place: float(one[0]) for place, one in by_target(examples, rows, odds).items()}
    expected = score_yes_no(model, data["prompt"], batch_tokens=1, share_prefix=False)
    assert [found[place] for place in range(len(data))] == pytest.approx(expected, abs=1e-4)
