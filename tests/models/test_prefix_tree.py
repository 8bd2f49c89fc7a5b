from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.models.conversations import common_length
from tastemaker.models.prefix_tree import PrefixTree, arrange, attends_fully, batch_trees

Sequences = list[list[int]]

# Three tokens only, so that most sequences begin alike.
SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7), min_size=1, max_size=8)


def ancestors(tree: PrefixTree) -> list[set[int]]:
    """Of each token, itself included, read off the paths."""
    found: list[set[int]] = [set() for _ in range(len(tree))]
    for path in tree.paths:
        for place, node in enumerate(path):
            above = set(path[: place + 1].tolist())
            assert found[node] in (set(), above)
            found[node] = above
    return found


@given(SEQUENCES)
def test_a_path_spells_its_sequence_at_the_sequence_s_own_positions(sequences: Sequences) -> None:
    tree = PrefixTree.of(sequences)
    for sequence, path in zip(sequences, tree.paths, strict=True):
        assert tree.tokens[path].tolist() == sequence
        assert tree.depths[path].tolist() == list(range(len(sequence)))


@given(SEQUENCES)
def test_each_beginning_stands_in_the_tree_once(sequences: Sequences) -> None:
    beginnings = {
        tuple(sequence[:stop]) for sequence in sequences for stop in range(1, 1 + len(sequence))
    }
    assert len(PrefixTree.of(sequences)) == len(beginnings)


@given(SEQUENCES)
def test_ends_say_who_descends_from_whom(sequences: Sequences) -> None:
    tree = PrefixTree.of(sequences)
    above = ancestors(tree)
    for node in range(len(tree)):
        descendants = {other for other in range(len(tree)) if node in above[other]}
        assert descendants == set(range(node, tree.ends[node]))


@given(SEQUENCES)
def test_a_chain_is_one_sequence_and_its_beginnings(sequences: Sequences) -> None:
    longest = max(sequences, key=len)
    nested = all(longest[: len(sequence)] == sequence for sequence in sequences)
    assert PrefixTree.of(sequences).is_chain == nested


def test_equal_sequences_share_one_path() -> None:
    tree = PrefixTree.of([[5, 6], [5, 6], [5, 6]])
    assert tree.tokens.tolist() == [5, 6]
    assert [path.tolist() for path in tree.paths] == [[0, 1]] * 3


def test_the_beginning_of_another_sequence_ends_inside_it() -> None:
    tree = PrefixTree.of([[5, 6, 7], [5, 6]])
    assert tree.is_chain
    assert [path.tolist() for path in tree.paths] == [[0, 1, 2], [0, 1]]


def test_branches_stand_one_after_the_other() -> None:
    tree = PrefixTree.of([[1, 2, 9], [1, 2, 4, 5], [1, 3]])
    assert tree.tokens.tolist() == [1, 2, 4, 5, 9, 3]
    assert tree.depths.tolist() == [0, 1, 2, 3, 2, 1]
    assert tree.ends.tolist() == [6, 5, 4, 4, 5, 6]


@given(st.lists(SEQUENCES, min_size=1, max_size=3), st.sampled_from([torch.float32, torch.half]))
@settings(max_examples=50)
def test_a_token_sees_its_ancestors_and_itself_and_padding_itself(
    rows: list[Sequences], dtype: torch.dtype
) -> None:
    trees = [PrefixTree.of(sequences) for sequences in rows]
    batch = batch_trees(trees, pad=99, dtype=dtype)
    width = max(map(len, trees))
    assert batch.input_ids.shape == (len(trees), width)
    if batch.attention_mask is None or batch.position_ids is None:
        assert all(tree.is_chain for tree in trees)
        assert list(batch.arguments()) == ["input_ids"]
        return
    assert batch.attention_mask.dtype == dtype
    assert set(batch.attention_mask.unique().tolist()) <= {0.0, torch.finfo(dtype).min}
    for row, tree in enumerate(trees):
        size = len(tree)
        assert batch.input_ids[row].tolist() == [*tree.tokens.tolist(), *[99] * (width - size)]
        assert batch.position_ids[row, :size].tolist() == tree.depths.tolist()
        expected = [*ancestors(tree), *({place} for place in range(size, width))]
        seen = [
            set(line.nonzero().flatten().tolist()) for line in batch.attention_mask[row, 0] == 0
        ]
        assert seen == expected


def test_chains_need_no_mask() -> None:
    batch = batch_trees([PrefixTree.of([[4, 5, 6]]), PrefixTree.of([[7], [7, 8]])], pad=1)
    assert batch.input_ids.tolist() == [[4, 5, 6], [7, 8, 1]]
    assert batch.position_ids is None
    assert batch.attention_mask is None


@given(
    SEQUENCES,
    st.integers(1, 30),
    st.none() | st.integers(1, 4),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
)
def test_groups_hold_every_sequence_once_within_the_limits(
    sequences: Sequences, limit: int, most: int | None, least_shared: float
) -> None:
    groups = arrange(sequences, limit=limit, most=most, least_shared=least_shared)
    assert sorted(place for group in groups for place in group) == list(range(len(sequences)))
    for group in groups:
        members = [sequences[place] for place in group]
        assert len(members) == 1 or len(PrefixTree.of(members)) <= limit
        assert most is None or len(members) <= most
        for before, after in pairwise(members):
            assert common_length(before, after) >= least_shared * len(after)


@given(SEQUENCES)
def test_without_limits_all_share_one_tree(sequences: Sequences) -> None:
    assert len(arrange(sequences, limit=10**6, least_shared=0.0)) == 1


def test_sequences_that_share_enough_meet_wherever_they_stand() -> None:
    one, other = [1, 2, 3, 4], [7, 7, 7, 7]
    groups = arrange([[*one, 5], other, [*one, 6, 6]], limit=100)
    assert groups == [[0, 2], [1]]


@pytest.mark.parametrize(
    ("architecture", "changes", "longest", "expected"),
    [
        ("llama", {}, 1000, True),
        ("qwen3", {}, 1000, True),
        ("phi", {}, 1000, True),
        ("gpt2", {}, 1000, True),
        ("mamba", {}, 4, False),
        ("bloom", {}, 4, False),
        ("falcon", {"alibi": False}, 1000, True),
        ("falcon", {"alibi": True}, 4, False),
        ("gemma2", {}, 16, True),
        ("gemma2", {}, 17, False),
        ("mistral", {"sliding_window": 8}, 8, True),
        ("mistral", {"sliding_window": 8}, 9, False),
        ("mistral", {"sliding_window": None}, 1000, True),
        ("gpt_neo", {"num_layers": 2, "attention_types": [[["global"], 2]]}, 1000, True),
        ("gpt_neo", {"num_layers": 2, "attention_types": [[["global", "local"], 1]]}, 4, False),
        ("llama", {"attn_implementation": "flex_attention"}, 4, False),
        ("llama", {"attn_implementation": "eager"}, 4, True),
    ],
)
def test_trees_need_attention_to_everything_before(
    build: Callable[..., Any],
    architecture: str,
    changes: dict[str, Any],
    longest: int,
    expected: bool,
) -> None:
    with torch.device("meta"):
        causal = build(architecture, **changes)
    assert attends_fully(causal, longest) is expected


def test_a_row_equals_its_sequences_run_alone(build: Callable[..., Any]) -> None:
    causal = build("llama")
    random = np.random.default_rng(0)
    history = random.integers(3, 100, 12).tolist()
    sequences = [history[:cut] + random.integers(3, 100, 5).tolist() for cut in (12, 12, 12, 6, 0)]
    tree = PrefixTree.of(sequences)
    assert len(tree) < sum(map(len, sequences))
    with torch.inference_mode():
        logits = causal(**batch_trees([tree]).arguments()).logits[0]
        for sequence, path in zip(sequences, tree.paths, strict=True):
            alone = causal(input_ids=torch.tensor([sequence])).logits[0]
            torch.testing.assert_close(logits[torch.from_numpy(path)], alone, atol=1e-4, rtol=0)
