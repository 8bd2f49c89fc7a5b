"""How a step is cut into passes, with made-up amounts of free memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.errors import UserError
from tastemaker.tuning.memory import MicroBatch, bytes_per_token, free_bytes, micro_batch


class Config(SimpleNamespace):
    def get_text_config(self, *, decoder: bool) -> Config:
        return self


def model_on(device: str = "cpu", **changes: Any) -> Any:
    shape = {"hidden_size": 100, "intermediate_size": 200, "num_hidden_layers": 10, **changes}
    return SimpleNamespace(config=Config(**shape), device=torch.device(device))


MODEL = model_on()
KEPT = bytes_per_token(MODEL, width=4, checkpointing=False)
SPARSE = bytes_per_token(MODEL, width=4, checkpointing=True)


def cut(*, tokens: float, each: float = KEPT, **changes: Any) -> MicroBatch:
    """With memory for so many tokens."""
    given = {"rows": 8, "row_tokens": 100, "wanted": None, "checkpointing": None, "width": 4}
    model = changes.pop("model", MODEL)
    return micro_batch(model, **{**given, "free": int(tokens * each / 0.8) + 1, **changes})


def test_bytes_of_a_token() -> None:
    assert KEPT == 10 * (4 + 4) * (7 * 100 + 3 * 200)
    assert bytes_per_token(MODEL, width=2, checkpointing=False) == 0.75 * KEPT
    deep = model_on(num_hidden_layers=40)
    assert bytes_per_token(deep, width=4, checkpointing=False) == 4 * KEPT
    assert SPARSE < bytes_per_token(deep, width=4, checkpointing=True) < 4 * SPARSE < 4 * KEPT
    plain, same = model_on(intermediate_size=None), model_on(intermediate_size=400)
    assert len({bytes_per_token(one, width=4, checkpointing=False) for one in (plain, same)}) == 1


def test_all_rows_of_a_step_fit() -> None:
    assert cut(tokens=1000) == MicroBatch(8, 1, checkpointing=False)


@pytest.mark.parametrize(
    ("tokens", "rows", "passes"), [(799, 4, 2), (400, 4, 2), (399, 3, 3), (299, 2, 4), (100, 1, 8)]
)
def test_a_step_is_cut_into_equal_passes(tokens: int, rows: int, passes: int) -> None:
    assert cut(tokens=tokens) == MicroBatch(rows, passes, checkpointing=False)


def test_what_does_not_fit_is_computed_twice() -> None:
    deep = model_on(num_hidden_layers=100)
    found = cut(tokens=99, model=deep, each=10 * KEPT)
    assert found == MicroBatch(4, 2, checkpointing=True)
    assert cut(tokens=1000, checkpointing=True).checkpointing
    # The user's no is respected, even where only one row fits by force.
    assert cut(tokens=150, checkpointing=False) == MicroBatch(1, 8, checkpointing=False)


def test_what_fits_neither_way_is_refused() -> None:
    with pytest.raises(UserError, match=r"a row of 100 tokens needs more memory than the .* GB"):
        cut(tokens=99, each=SPARSE)
    with pytest.raises(UserError, match=r"\n.*tune\.row_tokens"):
        cut(tokens=99, checkpointing=False)
    assert cut(tokens=99, each=SPARSE, wanted=1) == MicroBatch(1, 8, checkpointing=True)


def test_what_was_asked_for_is_done() -> None:
    assert cut(tokens=1000, wanted=2) == MicroBatch(2, 4, checkpointing=False)
    assert cut(tokens=1000, wanted=50) == MicroBatch(8, 1, checkpointing=False)
    assert cut(tokens=1, wanted=8).rows == 8


def test_passes_are_no_larger_than_is_of_use() -> None:
    assert cut(tokens=1e6, rows=64).rows == 16  # 20 fit into 2,048 tokens: 4 passes of 16
    assert cut(tokens=1e6, rows=64, row_tokens=5000).rows == 1
    assert cut(tokens=1e6, rows=64, model=model_on("cuda")).rows == 64


@given(
    rows=st.integers(1, 200),
    row_tokens=st.integers(1, 3000),
    tokens=st.integers(3000, 10**6),
    wanted=st.none() | st.integers(1, 300),
)
def test_no_row_is_lost(rows: int, row_tokens: int, tokens: int, wanted: int | None) -> None:
    found = cut(tokens=tokens, rows=rows, row_tokens=row_tokens, wanted=wanted)
    assert rows <= found.rows * found.passes < rows + found.passes
    assert found.rows <= (wanted or rows)
    if wanted is None:
        assert found.rows * row_tokens <= tokens + 1


def test_this_machine_has_memory() -> None:
    assert free_bytes(torch.device("cpu")) > 1e8
