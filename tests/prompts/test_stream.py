from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from tastemaker.data.splits import Split
from tastemaker.prompts.binding import Binder
from tastemaker.prompts.catalogue import Catalogue
from tastemaker.prompts.examples import Examples
from tastemaker.prompts.formats import find_format
from tastemaker.prompts.mixture import Mixture
from tastemaker.prompts.source import InstructionSource
from tastemaker.prompts.stream import InstructionStream
from tastemaker.prompts.template import find_templates
from tastemaker.testing.world import checkerboard_split


@pytest.fixture(scope="module")
def source() -> InstructionSource:
    split: Split = checkerboard_split()
    binder = Binder(split.histories, Catalogue(split.tables), history=4, candidates=5, seed=3)
    rows = split.train[split.histories.counts(split.train) >= 2]
    mixture = Mixture.of(find_templates(["tallrec/item", "p5/2-*", "instructrec/recommend-7"]))
    return InstructionSource(binder, Examples.of_rows(split.tables, rows), mixture, "train")


def rows_of(stream: InstructionStream, epoch: int) -> list[dict[str, Any]]:
    stream.set_epoch(epoch)
    return list(stream)


def test_an_epoch_has_every_example_once_and_comes_again(source: InstructionSource) -> None:
    stream = InstructionStream(source)
    first, second = rows_of(stream, 0), rows_of(stream, 1)
    assert sorted(row["row"] for row in first) == sorted(source.examples.rows.tolist())
    assert rows_of(stream, 0) == first
    assert [row["row"] for row in first] != [row["row"] for row in second]


def test_epochs_draw_other_templates_and_candidates(source: InstructionSource) -> None:
    stream = InstructionStream(source, shuffle=False)
    first, second = rows_of(stream, 0), rows_of(stream, 1)
    assert [row["row"] for row in first] == [row["row"] for row in second]
    assert np.mean([a["template"] == b["template"] for a, b in zip(first, second, strict=True)]) < 1
    pairs = [
        (a["candidates"], b["candidates"])
        for a, b in zip(first, second, strict=True)
        if a["candidates"] and b["candidates"]
    ]
    assert len(pairs) > 5
    assert any(a != b for a, b in pairs)


def test_without_shuffling_the_first_epoch_is_what_is_written(source: InstructionSource) -> None:
    rows = list(InstructionStream(source, shuffle=False))
    assert rows == find_format("trl").arrange(source.frame()).to_dicts()


def test_reading_goes_on_in_the_middle_of_an_epoch(source: InstructionSource) -> None:
    stream = InstructionStream(source, format="messages")
    stream.set_epoch(2)
    assert list(stream.skip(30)) == list(stream)[30:]


def test_trainers_read_it_as_a_datasets_iterable(source: InstructionSource) -> None:
    stream = InstructionStream(source)
    data = stream.dataset()
    for epoch in (0, 1):
        stream.set_epoch(epoch)
        assert list(islice(data, 20)) == list(islice(stream, 20))
    loader = DataLoader(data, batch_size=4, collate_fn=list)
    assert sum(len(batch) for batch in loader) == len(source)
