from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.errors import DataError
from tastemaker.models.language import LanguageModel
from tastemaker.models.token_trie import CatalogueTexts, TokenTrie

END = 9
words = st.lists(st.integers(0, 3), max_size=6).map(lambda word: (*word, END))


def walked(trie: TokenTrie, node: int = 0, said: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """All sequences, child by child; what nodes know is checked on the way."""
    children = trie.children(node)
    assert trie.depths[node] == len(said)
    if not len(children):
        assert trie.high[node] - trie.low[node] == 1
        return [said]
    assert (np.diff(trie.tokens[children]) > 0).all()
    assert trie.low[children].tolist() == [trie.low[node], *trie.high[children][:-1]]
    assert trie.high[children[-1]] == trie.high[node]
    found = []
    for child in children.tolist():
        found += walked(trie, child, (*said, int(trie.tokens[child])))
    assert trie.longest[node] == max(map(len, found))
    return found


@settings(max_examples=40)
@given(st.lists(words, min_size=1, max_size=40, unique=True))
def test_holds_its_sequences_and_no_others(sequences: list[tuple[int, ...]]) -> None:
    trie = TokenTrie.of(sequences)
    assert walked(trie) == sorted(sequences)
    assert [sequences[place] for place in trie.order] == sorted(sequences)
    for row, length, place in zip(trie.sequences, trie.lengths, trie.order, strict=True):
        assert tuple(row[:length]) == sequences[place]
        assert (row[length:] == -1).all()


@settings(max_examples=40)
@given(st.lists(words, min_size=2, max_size=20, unique=True), st.lists(st.integers(4, 6)))
def test_head_is_what_all_begin_with(sequences: list[tuple[int, ...]], head: list[int]) -> None:
    found = TokenTrie.of([(*head, *sequence) for sequence in sequences]).head()
    shared = TokenTrie.of(sequences).head()
    assert found == [*head, *shared]
    assert all(list(sequence[: len(shared)]) == shared for sequence in sequences)


def test_one_sequence_has_no_head() -> None:
    assert TokenTrie.of([(1, 2, END)]).head() == []


@pytest.mark.parametrize("wrong", [[], [()], [(1, 2), (1, 2)], [(1, 2), (1, 2, 3)]])
def test_refuses_what_is_no_set_of_ended_sequences(wrong: list[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"sequence"):
        TokenTrie.of(wrong)


def test_items_of_one_text_are_merged(tiny_t5: LanguageModel) -> None:
    texts = ["Heat", "Alien", "Heat", "Aliens", "Alien ", "Heat"]
    catalogue = CatalogueTexts.of(tiny_t5, texts)
    assert catalogue.texts == ("Heat", "Alien", "Aliens")  # a space at the end makes no token
    assert catalogue.text_of_item.tolist() == [0, 1, 0, 2, 1, 0]
    assert catalogue.sizes.tolist() == [3, 2, 1]
    assert len(catalogue) == len(catalogue.trie) == 3
    assert catalogue.members(0).tolist() == [0, 2, 5]
    assert catalogue.items(np.array([[1, 0, -1], [2, -1, -1]])) == [[1, 4, 0, 2, 5], [3]]


def test_an_empty_text_is_refused(tiny_t5: LanguageModel) -> None:
    with pytest.raises(DataError, match=r"text of item 1 \(and 1 more\) is empty") as caught:
        CatalogueTexts.of(tiny_t5, ["Heat", " ", "Fargo", ""])
    assert "item numbers" in str(caught.value)


def test_no_items_are_refused(tiny_t5: LanguageModel) -> None:
    with pytest.raises(DataError, match="no items"):
        CatalogueTexts.of(tiny_t5, [])


def test_a_text_longer_than_targets_is_refused(tiny_t5: LanguageModel) -> None:
    texts = ["Heat", "Heat 1 2 3 4 5 6 7 8"]
    longest = int(CatalogueTexts.of(tiny_t5, texts).trie.lengths.max())
    assert len(CatalogueTexts.of(tiny_t5, texts, limit=longest)) == 2
    with pytest.raises(DataError, match=rf"item 1 has {longest} tokens") as caught:
        CatalogueTexts.of(tiny_t5, texts, limit=longest - 1)
    assert f"at most {longest - 1}" in str(caught.value)


def test_a_causal_model_ends_its_turn(tiny_llama: LanguageModel) -> None:
    catalogue = CatalogueTexts.of(tiny_llama, ["Alien", "Aliens"])
    rows = zip(catalogue.trie.sequences, catalogue.trie.lengths, strict=True)
    said = [tiny_llama.tokenizer.decode(row[:length]) for row, length in rows]
    assert sorted(said) == ["Alien<|im_end|>\n", "Aliens<|im_end|>\n"]
