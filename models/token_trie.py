"""The texts of a catalogue as a trie of tokens: what may follow what has been written.

Texts are sequences of tokens that end with the model's end of an answer, so that none is the
beginning of another ("Alien" and "Aliens" part at the end of the former). Items whose texts are the
same to the model cannot be told apart by it: they are merged into one text, which knows its items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tastemaker.errors import DataError
from tastemaker.models.conversations import Messages, encode_answered
from tastemaker.models.language import LanguageModel
from tastemaker.models.seq2seq import encode_targets, is_seq2seq

__all__ = ["CatalogueTexts", "TokenTrie", "answer_sequences"]

Numbers = NDArray[np.int64]

_PROBE: Messages = ({"role": "user", "content": "What comes next?"},)


@dataclass(frozen=True, eq=False)
class TokenTrie:
    """Sequences merged where they begin alike, level by level; node 0 is the root.

    A *leaf* is the end of a sequence. Leaves are numbered in the lexicographic order of their
    sequences, so those below a node are a range.

    Attributes:
        first: int64 [nodes + 1]; the children of node n are `first[n]` up to `first[n + 1]`.
        tokens: int64 [nodes], the token that leads to each node; ascending among children, -1 at
            the root.
        depths: int64 [nodes], number of tokens up to and with it.
        low: int64 [nodes], the first leaf below each node.
        high: int64 [nodes], one behind the last leaf below.
        longest: int64 [nodes], tokens of the longest sequence through it.
        sequences: int64 [leaves, longest], the tokens of each leaf, filled up with -1.
        lengths: int64 [leaves].
        order: int64 [leaves], the place of each leaf's sequence among those given.
    """

    first: Numbers
    tokens: Numbers
    depths: Numbers
    low: Numbers
    high: Numbers
    longest: Numbers
    sequences: Numbers
    lengths: Numbers
    order: Numbers

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]]) -> TokenTrie:
        """The trie of one or more sequences.

        Raises:
            ValueError: there is no sequence, an empty one, the same twice, or one that begins
                another.
        """
        lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
        if not lengths.size or not lengths.min():
            raise ValueError("a trie needs one or more sequences, and none of them empty")
        table = np.full((len(sequences), int(lengths.max())), -1, dtype=np.int64)
        for row, sequence in enumerate(sequences):
            table[row, : len(sequence)] = sequence
        order = np.lexsort(table.T[::-1])
        table, lengths = table[order], lengths[order]
        shared = _shared(table)
        inside = np.flatnonzero(shared == lengths[:-1])
        if inside.size:
            raise ValueError(f"sequence {order[inside[0]]} is, or begins, {order[inside[0] + 1]}")
        nodes, counts = _levels(table, lengths, shared)
        tokens, depths, low, high = np.concatenate(nodes, axis=1)
        first = 1 + np.concatenate([[0], np.cumsum(np.concatenate(counts))])
        spans = np.stack([low, high], axis=1).ravel()
        longest = np.maximum.reduceat(np.append(lengths, 0), spans)[::2]
        return cls(first, tokens, depths, low, high, longest, table, lengths, order)

    def __len__(self) -> int:
        """Number of leaves."""
        return len(self.lengths)

    def children(self, node: int) -> Numbers:
        """Nodes that may follow, tokens ascending; none at a leaf."""
        return np.arange(self.first[node], self.first[node + 1])

    def head(self) -> list[int]:
        """The tokens that all sequences begin with, short of where only one is left."""
        node, found = 0, []
        while self.high[node] - self.low[node] > 1 and len(self.children(node)) == 1:
            node = int(self.first[node])
            found.append(int(self.tokens[node]))
        return found


@dataclass(frozen=True, eq=False)
class CatalogueTexts:
    """What a model may answer: the distinct texts of a catalogue.

    Two texts are one where the model's tokenizer writes them alike. Texts are numbered by their
    first appearance.

    Attributes:
        texts: The distinct texts; of texts that the tokenizer writes alike, the first.
        text_of_item: int64 [items], the text of each item.
        sizes: int64 [texts], how many items have it.
        trie: Of their tokens, end of the answer included.
    """

    texts: tuple[str, ...]
    text_of_item: Numbers
    sizes: Numbers
    trie: TokenTrie

    @classmethod
    def of(
        cls, language_model: LanguageModel, texts: Sequence[str], *, limit: int | None = None
    ) -> CatalogueTexts:
        """The texts of a catalogue as this model would answer with them.

        Args:
            language_model: Whose tokenizer writes them.
            texts: One per item, in the order of the items.
            limit: Tokens that an answer may have, its end included, such as the length of targets
                in training; None for any.

        Raises:
            DataError: there is no text, an empty one, or one that is longer than the limit.
            UserError: the tokenizer has no chat template.
        """
        _check_texts(texts)
        distinct = list(dict.fromkeys(texts))
        sequences = answer_sequences(language_model, distinct)
        known: dict[tuple[int, ...], int] = {}
        kept: list[str] = []
        number: dict[str, int] = {}
        for text, sequence in zip(distinct, sequences, strict=True):
            if limit is not None and len(sequence) > limit:
                _refuse_long(text, texts.index(text), tokens=len(sequence), limit=limit)
            found = known.setdefault(tuple(sequence), len(kept))
            if found == len(kept):
                kept.append(text)
            number[text] = found
        of_item = np.array([number[text] for text in texts], dtype=np.int64)
        sizes = np.bincount(of_item, minlength=len(kept))
        return cls(tuple(kept), of_item, sizes, TokenTrie.of(list(known)))

    def __len__(self) -> int:
        """Number of distinct texts."""
        return len(self.texts)

    def members(self, text: int) -> Numbers:
        """The items that have a text, ascending."""
        return np.flatnonzero(self.text_of_item == text)

    def items(self, generated: Numbers) -> list[list[int]]:
        """Lists of texts as lists of items: members one after the other, -1 left out."""
        order = np.argsort(self.text_of_item, kind="stable")
        stops = np.cumsum(self.sizes)
        starts = stops - self.sizes
        return [
            [int(item) for text in row if text >= 0 for item in order[starts[text] : stops[text]]]
            for row in generated
        ]


def answer_sequences(language_model: LanguageModel, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts as answers of a model, the end of the answer included.

    Raises:
        UserError: a causal model's tokenizer has no chat template, or a text merges with the
            prompt before it.
    """
    if is_seq2seq(language_model.model):
        return encode_targets(language_model.tokenizer, texts)
    whole, lengths = encode_answered(language_model.tokenizer, [_PROBE] * len(texts), texts)
    return [sequence[length:] for sequence, length in zip(whole, lengths, strict=True)]


def _shared(table: Numbers) -> Numbers:
    """How many tokens each row shares with the next: int64 [rows - 1]."""
    same = (table[1:] == table[:-1]) & (table[1:] >= 0)
    return np.logical_and.accumulate(same, axis=1).sum(axis=1)


def _levels(
    table: Numbers, lengths: Numbers, shared: Numbers
) -> tuple[list[Numbers], list[Numbers]]:
    """Tokens, depths, first leaves and ends of the nodes, and child counts, level by level."""
    before = np.concatenate([[0], shared])
    level = np.array([[-1], [0], [0], [len(table)]])
    nodes, counts = [level], []
    for depth in range(1, table.shape[1] + 1):
        # A node of this depth begins where fewer tokens than that are shared with the row before.
        begins = np.flatnonzero(before < depth)
        ends = np.append(begins[1:], len(table))
        reached = lengths[begins] >= depth
        begins, ends = begins[reached], ends[reached]
        parents = np.searchsorted(level[2], begins, side="right") - 1
        counts.append(np.bincount(parents, minlength=level.shape[1]))
        level = np.stack([table[begins, depth - 1], np.full_like(begins, depth), begins, ends])
        nodes.append(level)
    counts.append(np.zeros(level.shape[1], dtype=np.int64))
    return nodes, counts


def _check_texts(texts: Sequence[str]) -> None:
    if not texts:
        raise DataError(
            "the catalogue has no items, so there is nothing to generate.",
            remedy="Check the items table.",
        )
    empty = [place for place, text in enumerate(texts) if not text.strip()]
    if empty:
        others = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
        raise DataError(
            f"the text of item {empty[0]}{others} is empty, so it cannot be generated.",
            allowed="Every item of the catalogue needs a text.",
            remedy="Give it a title, or generate item numbers instead of titles.",
        )


def _refuse_long(text: str, place: int, *, tokens: int, limit: int) -> None:
    raise DataError(
        f"the text of item {place} has {tokens} tokens with its end: {text!r}.",
        allowed=f"at most {limit}, the length of a target",
        remedy="Allow longer targets (tune.max_target_length), shorten the title, or generate item "
        "numbers instead.",
    )
