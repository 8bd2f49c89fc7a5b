"""Prompts and answers as what an encoder-decoder model reads and writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from tastemaker.errors import DataError
from tastemaker.models.language import load_language_model
from tastemaker.tuning.pairs import UNASKED, PairCollator, PairExamples, encode_pairs


@pytest.fixture(scope="module")
def tokenizer(t5_folder: Path) -> Any:
    return load_language_model(str(t5_folder), device="cpu", seq2seq=True).tokenizer


def rows(*pairs: tuple[str, str], labels: tuple[int | None, ...] = ()) -> Dataset:
    found = [
        {
            "prompt": [{"role": "user", "content": prompt}],
            "completion": [{"role": "assistant", "content": answer}],
            **({"label": labels[place]} if labels else {}),
        }
        for place, (prompt, answer) in enumerate(pairs)
    ]
    return Dataset.from_list(found)


PAIRS = (("user_7", "item_131131"), ("Is a film of the even kind liked?", "No."), ("user_14", ""))


def encode(tokenizer: Any, data: Dataset, **changes: Any) -> PairExamples:
    limits = {"limit": 40, "target_limit": 6, **changes}
    return encode_pairs(data, "train", tokenizer=tokenizer, **limits)


def test_each_side_ends_with_the_end_token(tokenizer: Any) -> None:
    found = encode(tokenizer, rows(*PAIRS))
    assert len(found) == 3
    for place, (prompt, answer) in enumerate(PAIRS):
        assert found.question(place) == tokenizer(prompt)["input_ids"]
        assert found.answer(place) == tokenizer(answer)["input_ids"]
    assert found.answer(2) == [tokenizer.eos_token_id]
    lengths = [len(found.question(place)) + len(found.answer(place)) for place in range(3)]
    assert found.lengths.tolist() == lengths
    assert found.labels is None
    assert not found.has_both_labels


@pytest.mark.parametrize(
    ("labels", "both"), [((1, 0, 0), True), ((1, 1, 1), False), ((1, None, 0), False)]
)
def test_labels_are_kept_where_all_rows_have_one(
    tokenizer: Any, labels: tuple[int | None, ...], both: bool
) -> None:
    found = encode(tokenizer, rows(*PAIRS, labels=labels))
    assert (None if found.labels is None else tuple(found.labels)) == (
        None if None in labels else labels
    )
    assert found.has_both_labels == both


def test_a_batch_is_filled_up_apart(tokenizer: Any) -> None:
    found = encode(tokenizer, rows(*PAIRS))
    batch = PairCollator(found, pad=0)([{"place": 1}, {"place": 0}])
    assert {name: value.dtype for name, value in batch.items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "labels"), torch.int64
    )
    width = len(found.question(1))
    gap = [0] * (width - len(found.question(0)))
    assert batch["input_ids"].tolist() == [found.question(1), found.question(0) + gap]
    assert batch["attention_mask"].sum(1).tolist() == [width, len(found.question(0))]
    gap = [UNASKED] * (len(found.answer(0)) - len(found.answer(1)))
    assert batch["labels"].tolist() == [found.answer(1) + gap, found.answer(0)]


LONG = (("user_7", "No."), ("even " * 60, "No."), ("user_7", "item_" + "1" * 30))


@pytest.mark.parametrize(
    ("place", "told", "hint"),
    [
        (1, "the prompt of train example 1 has 61 tokens, more than tune.max_length = 40", True),
        (2, "the answer of train example 1 has 12 tokens, more than tune.max_target_length", False),
    ],
)
def test_too_long_is_refused_by_name(tokenizer: Any, place: int, told: str, hint: bool) -> None:
    with pytest.raises(DataError) as caught:
        encode(tokenizer, rows(LONG[0], LONG[place]))
    assert told in str(caught.value)
    assert "(1 of 2 are longer)" in str(caught.value)
    assert ("lower build.history" in str(caught.value)) == hint


def test_too_long_may_be_left_out(tokenizer: Any) -> None:
    found = encode(tokenizer, rows(*LONG, labels=(1, 0, 0)), leave_out_long=True)
    assert len(found) == 1
    assert found.labels is not None
    assert found.labels.tolist() == [1]
    with pytest.raises(DataError, match=r"tune\.max_length"):  # but not everything
        encode(tokenizer, rows(LONG[1]), leave_out_long=True)


def test_columns_and_rows_are_needed(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="no column completion, prompt"):
        encode(tokenizer, Dataset.from_list([{"text": "a"}]))
    with pytest.raises(DataError, match="train examples are empty"):
        encode(tokenizer, rows(*PAIRS).select([]))
