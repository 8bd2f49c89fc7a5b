"""Answered prompts as tokens: what is the answer, what is too long, what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from tastemaker.errors import DataError, UserError
from tastemaker.tuning import examples as module
from tastemaker.tuning.examples import Examples, encode_examples


def rows(count: int = 3, **columns: Any) -> Dataset:
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": f"Film {'x ' * place}?"}],
                "completion": [{"role": "assistant", "content": "Yes." if place % 2 else "No."}],
                **{name: values[place] for name, values in columns.items()},
            }
            for place in range(count)
        ]
    )


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def encoded(tokenizer: Any, data: Dataset, **changes: Any) -> Examples:
    settings = {"limit": 100, "context": None, **changes}
    return encode_examples(data, "train", tokenizer=tokenizer, **settings)


def test_tokens_are_those_of_the_chat_template(tokenizer: Any, monkeypatch: Any) -> None:
    data = rows(5)
    monkeypatch.setattr(module, "_CHUNK", 2)  # more than one portion
    found = encoded(tokenizer, data)
    assert len(found) == 5
    for place, row in enumerate(data):
        whole = tokenizer.apply_chat_template(
            [*row["prompt"], *row["completion"]], tokenize=True, return_dict=False
        )
        assert found.sequence(place) == whole
        answer = tokenizer.decode(whole[found.starts[place] :])
        assert answer == f"{row['completion'][0]['content']}<|im_end|>\n"
    assert found.sequences() == [found.sequence(place) for place in range(5)]
    assert found.lengths.tolist() == [len(one) for one in found.sequences()]
    assert (found.tokens.dtype, found.offsets[-1]) == (np.int32, len(found.tokens))


def test_labels_are_kept_where_all_rows_have_one(tokenizer: Any) -> None:
    assert encoded(tokenizer, rows()).labels is None
    assert not encoded(tokenizer, rows()).has_both_labels
    both = encoded(tokenizer, rows(label=[1, 0, 1]))
    assert both.labels is not None
    assert both.labels.tolist() == [1, 0, 1]
    assert both.has_both_labels
    assert not encoded(tokenizer, rows(label=[1, 1, 1])).has_both_labels
    assert encoded(tokenizer, rows(label=[1, None, 1])).labels is None


def test_missing_columns_and_no_rows(tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"train examples have no column completion.*\n.*prompt"):
        encoded(tokenizer, rows().remove_columns("completion"))
    with pytest.raises(DataError, match=r"train examples are empty.*\n.*data\.split"):
        encoded(tokenizer, rows().select([]))


def test_the_longest_example_is_named(tokenizer: Any) -> None:
    size = int(encoded(tokenizer, rows()).lengths.max())
    with pytest.raises(DataError, match=rf"example 2 has {size} tokens.*= {size - 1} \(1 of 3"):
        encoded(tokenizer, rows(), limit=size - 1)
    with pytest.raises(DataError, match=f"more than the {size - 1} that the model can read"):
        encoded(tokenizer, rows(), context=size - 1)
    assert len(encoded(tokenizer, rows(), limit=size, context=size)) == 3


@pytest.mark.parametrize("name", ["limit", "context"])
def test_long_examples_can_be_left_out(tokenizer: Any, name: str) -> None:
    data = rows(label=[1, 0, 1])
    whole = encoded(tokenizer, data)
    size = int(whole.lengths[1])
    found = encoded(tokenizer, data, leave_out_long=True, **{name: size})
    assert found.sequences() == whole.sequences()[:2]
    assert found.starts.tolist() == whole.starts.tolist()[:2]
    assert found.labels is not None
    assert found.labels.tolist() == [1, 0]
    with pytest.raises(DataError, match="train example 2 has"):  # unless nothing would be left
        encoded(tokenizer, data, leave_out_long=True, **{name: 3})


def test_a_tokenizer_without_template_and_an_answer_that_merges(folder: Path) -> None:
    bare = AutoTokenizer.from_pretrained(folder)
    bare.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        encoded(bare, rows())
    bare.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    data = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": "Ye"}],
                "completion": [{"role": "assistant", "content": "s"}],
            }
        ]
    )
    with pytest.raises(UserError, match="'s' merges with the end of the prompt"):
        encoded(bare, data)
