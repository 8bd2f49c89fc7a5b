"""Generation that stays inside the catalogue: beams over the tokens of its texts.

Only tokens that continue the text of an item are ever considered, so every answer is an item's.
Scores are log-probabilities of whole texts under the softmax over the full vocabulary, as those of
`models.scoring.score_candidates`: what is impossible in the catalogue is not taken out of the
softmax. The settings for generation that a model carries (temperature, penalties, forced tokens)
have no part in it.

Where only one text is left for a beam, the rest of it is scored in one pass instead of token by
token, and the beam makes room for others. A beam that cannot reach the k best any more is given up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tastemaker.errors import UserError
from tastemaker.models.beams import Beams, beams_of, shared_sources
from tastemaker.models.conversations import Messages
from tastemaker.models.hidden_states import evaluating
from tastemaker.models.language import LanguageModel
from tastemaker.models.output_layer import OutputLayer
from tastemaker.models.seq2seq import source_batches
from tastemaker.models.token_trie import CatalogueTexts, TokenTrie

__all__ = ["Generated", "generate_items", "rank_of_targets"]

_ROWS = 512  # hidden states that meet the whole output layer at once
_STILL = 0.75  # of a batch's prompts: with fewer to go on, the others leave the batch
Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Generated:
    """The likeliest texts of the catalogue for each prompt, best first.

    Attributes:
        texts: int64 [n, k], numbers of `CatalogueTexts.texts`; -1 where fewer are left.
        scores: float32 [n, k], natural logarithms, 0 or less; -inf where fewer are left.
    """

    texts: Numbers
    scores: NDArray[np.float32]


def generate_items(
    language_model: LanguageModel,
    prompts: Sequence[Messages],
    catalogue: CatalogueTexts,
    *,
    k: int = 10,
    beams: int = 20,
    exclude: Sequence[NDArray[np.integer[Any]]] | None = None,
    length_normalised: bool = False,
    batch_tokens: int = 4096,
    on_progress: Callable[[int], None] | None = None,
) -> Generated:
    """The k likeliest texts of the catalogue that beams find, for each prompt.

    With as many beams as the catalogue has texts they are the k likeliest. Apart from rounding, an
    answer depends neither on the other prompts nor on order or batch size.

    Args:
        language_model: Causal or encoder-decoder, with or without an adapter.
        prompts: n conversations without the answer.
        catalogue: Made with the same model's tokenizer.
        k: Texts per prompt. P5 and OpenP5 report 10.
        beams: Texts under way at a time. P5 uses 20.
        exclude: Items that must not come, for each prompt; a text is left out when all items that
            have it are. k texts still come wherever k are left.
        length_normalised: Divide scores by the number of tokens, the end included. Beams under way
            are compared by sums all the same.
        batch_tokens: Prompt tokens and beams that share a batch; a longer prompt is run alone.
        on_progress: Called with the number of prompts that have just been answered.

    Returns:
        Texts with equal scores are in the order of their numbers.

    Raises:
        UserError: fewer beams than k, or none; `exclude` is of another length than `prompts`, or
            names an item that the catalogue lacks; and what `beams_of` raises.
    """
    excluded = _excluded(catalogue, exclude, len(prompts))
    _check_counts(k, beams)
    found = Generated(
        np.full((len(prompts), k), -1), np.full((len(prompts), k), -np.inf, dtype=np.float32)
    )
    if not prompts:
        return found
    model, longest = language_model.model, int(catalogue.trie.lengths.max())
    with evaluating(model), torch.inference_mode(), shared_sources(model) as share:
        walk = beams_of(language_model, prompts, longest=longest, share=share)
        search = _Search(
            walk,
            catalogue.trie,
            beams=beams,
            normalised=length_normalised,
            device=language_model.device,
        )
        for places in source_batches([range(len(s) + beams) for s in walk.sources], batch_tokens):
            best = search.run(places, [excluded[place] for place in places], k)
            found.texts[places], found.scores[places] = best.texts, best.scores
            if on_progress:
                on_progress(len(places))
    return found


def rank_of_targets(
    generated: Generated,
    catalogue: CatalogueTexts,
    targets: NDArray[np.integer[Any]],
    *,
    exclude: Sequence[NDArray[np.integer[Any]]] | None = None,
) -> NDArray[np.float64]:
    """The rank of each prompt's target item in its list, by the tie rule of `eval.ranking`.

    Items with the same text share their places, and so do texts with equal scores: a rank is the
    average over all orders of the tie.

    Args:
        generated: Of n prompts.
        catalogue: That it was made with.
        targets: int [n], items.
        exclude: Items that take no place, as given to `generate_items`; the target takes its place
            even where it is among them.

    Returns:
        float64 [n], 1 or more; infinite where the target is not in the list.
    """
    _excluded(catalogue, exclude, len(targets))
    texts, scores = generated.texts, generated.scores
    sizes = np.where(texts >= 0, catalogue.sizes[texts], 0).astype(np.float64)
    for row, items in enumerate(exclude or []):
        gone = np.setdiff1d(items, targets[row : row + 1])
        lost = np.bincount(catalogue.text_of_item[gone], minlength=len(catalogue))
        sizes[row] -= np.where(texts[row] >= 0, lost[texts[row]], 0)
    hit = texts == catalogue.text_of_item[targets][:, None]
    own = np.where(hit, scores, -np.inf).max(axis=1, initial=-np.inf)[:, None]
    larger = np.where(scores > own, sizes, 0.0).sum(axis=1)
    equal = np.where(scores == own, sizes, 0.0).sum(axis=1)
    return np.where(hit.any(axis=1), 1 + larger + (equal - 1) / 2, np.inf)


def _check_counts(k: int, beams: int) -> None:
    if not 1 <= k <= beams:
        raise UserError(
            f"{k} items cannot be found with {beams} beams.",
            allowed="k of at least 1, and as many beams or more",
            remedy="Raise the number of beams.",
        )


def _excluded(
    catalogue: CatalogueTexts, exclude: Sequence[NDArray[np.integer[Any]]] | None, prompts: int
) -> list[Numbers]:
    """The leaves that must not come, ascending, for each prompt."""
    if exclude is None:
        return [np.zeros(0, dtype=np.int64)] * prompts
    if len(exclude) != prompts:
        raise UserError(f"items to exclude for {len(exclude)} prompts, but {prompts} prompts.")
    leaf_of_text = np.argsort(catalogue.trie.order)
    found = []
    for items in exclude:
        gone = np.unique(np.asarray(items, dtype=np.int64))
        if gone.size and not 0 <= gone[0] <= gone[-1] < len(catalogue.text_of_item):
            raise UserError(
                f"items {gone[0]} to {gone[-1]} are to be excluded.",
                allowed=f"0 to {len(catalogue.text_of_item) - 1}, the items of the catalogue",
            )
        texts, counts = np.unique(catalogue.text_of_item[gone], return_counts=True)
        found.append(np.sort(leaf_of_text[texts[counts == catalogue.sizes[texts]]]))
    return found


class _Best:
    """The k best complete texts of each prompt of a batch so far.

    Attributes:
        texts: int64 [B, k], numbers of texts; -1 where there are fewer.
        scores: float64 [B, k], best first; -inf where there are fewer.
    """

    def __init__(self, rows: int, k: int) -> None:
        self.texts = np.full((rows, k), -1)
        self.scores = np.full((rows, k), -np.inf)

    def add(self, rows: Numbers, texts: Numbers, scores: NDArray[np.float64]) -> None:
        """Add int64 [R, V] texts with float64 [R, V] scores to rows; those of -inf are none."""
        k = self.texts.shape[1]
        texts = np.concatenate([self.texts[rows], np.where(scores > -np.inf, texts, -1)], axis=1)
        scores = np.concatenate([self.scores[rows], scores], axis=1)
        best = np.lexsort((texts, -scores), axis=-1)[:, :k]
        self.texts[rows] = np.take_along_axis(texts, best, axis=1)
        self.scores[rows] = np.take_along_axis(scores, best, axis=1)


@dataclass(frozen=True, eq=False)
class _Front:
    """Beams, or what they may become: [B, W] each.

    Attributes:
        nodes: int64, where they stand in the trie.
        parents: int64, the slots that they continue.
        scores: float64, sums of log-probabilities; -inf where there is none.
    """

    nodes: Tensor
    parents: Tensor
    scores: Tensor

    def best(self, count: int) -> _Front:
        """The `count` best of each row, best first."""
        scores, chosen = self.scores.topk(min(count, self.scores.shape[1]), dim=1)
        return _Front(self.nodes.gather(1, chosen), self.parents.gather(1, chosen), scores)

    def where(self, kept: Tensor) -> _Front:
        """Those of a mask, moved to the front of rows that are as short as can be."""
        count = int(kept.sum(1).max()) if len(kept) else 0
        chosen = kept.int().argsort(dim=1, descending=True, stable=True)[:, :count]
        scores = self.scores.masked_fill(~kept, -torch.inf).gather(1, chosen)
        return _Front(self.nodes.gather(1, chosen), self.parents.gather(1, chosen), scores)

    def columns(self, start: int, stop: int) -> _Front:
        """Some columns."""
        part = slice(start, stop)
        return _Front(self.nodes[:, part], self.parents[:, part], self.scores[:, part])

    def rows(self, kept: Tensor) -> _Front:
        """Some rows."""
        return _Front(self.nodes[kept], self.parents[kept], self.scores[kept])


class _Search:
    """Beams over a trie.

    Args:
        walk: Of all prompts.
        trie: What may be said.
        beams: Nodes that are followed at a time.
        normalised: Whether scores are divided by the number of tokens.
        device: Of the model.
    """

    def __init__(
        self, walk: Beams, trie: TokenTrie, *, beams: int, normalised: bool, device: torch.device
    ) -> None:
        self._walk, self._beams, self._normalised = walk, beams, normalised
        self._head = trie.head()
        names = ("first", "tokens", "depths", "low", "high", "longest", "sequences", "lengths")
        parts = {name: torch.from_numpy(getattr(trie, name)).to(device) for name in names}
        self._first, self._tokens, self._depths = parts["first"], parts["tokens"], parts["depths"]
        self._low, self._high, self._longest = parts["low"], parts["high"], parts["longest"]
        self._sequences, self._lengths = parts["sequences"], parts["lengths"]
        self._order, self._device = trie.order, device

    def run(self, places: Sequence[int], excluded: Sequence[Numbers], k: int) -> _Best:
        """Search for some prompts; `excluded` holds ascending leaves for each."""
        best = _Best(len(places), k)
        gone = self._keys(excluded)
        users = torch.arange(len(places), device=self._device)
        hidden, front = self._begin(places)
        while True:
            found = self._children(hidden, front, users, gone).best(self._beams)
            found = self._finish(found, users, best)
            live = found.where(self._promising(found, users, best))
            if not live.nodes.shape[1]:
                return best
            going = (live.scores[:, 0] > -torch.inf).nonzero().flatten()
            if len(going) < _STILL * len(users):
                self._walk.keep(going)
                users, live = users[going], live.rows(going)
            hidden = self._walk.extend(live.parents, self._tokens[live.nodes].clamp(min=0))
            front = live

    def _begin(self, places: Sequence[int]) -> tuple[Tensor, _Front]:
        """Read the prompts; one beam each, behind what all texts begin with."""
        hidden = self._walk.begin(places, self._head)
        rows, count = len(places), len(self._head)
        scores = torch.zeros(rows, 1, dtype=torch.float64, device=self._device)
        if count:
            said = torch.tensor(self._head, device=self._device).repeat(rows)
            states = hidden[:, :-1].reshape(rows * count, -1)
            found = _log_probabilities(self._walk.output, states, said)
            scores += found.double().view(rows, count).sum(1, keepdim=True)
        # Each token of the head is the only child of the one before: nodes are numbered by level.
        nodes = torch.full((rows, 1), count, device=self._device)
        return hidden[:, -1:], _Front(nodes, torch.zeros_like(nodes), scores)

    def _keys(self, excluded: Sequence[Numbers]) -> Tensor:
        """Excluded leaves of all prompts as ascending numbers: int64 [excluded]."""
        count = len(self._order)
        keys = [row * count + leaves for row, leaves in enumerate(excluded)]
        return torch.from_numpy(np.concatenate(keys)).to(self._device)

    def _children(self, hidden: Tensor, front: _Front, users: Tensor, gone: Tensor) -> _Front:
        """Every allowed continuation of every beam by one token: [B, most of a prompt]."""
        rows, slots = (front.scores > -torch.inf).nonzero(as_tuple=True)
        nodes = front.nodes[rows, slots]
        counts = self._first[nodes + 1] - self._first[nodes]
        beam = torch.arange(len(nodes), device=self._device).repeat_interleave(counts)
        place = torch.arange(len(beam), device=self._device)
        children = self._first[nodes][beam] + place - (counts.cumsum(0) - counts)[beam]
        scores = front.scores[rows, slots][beam]
        scores += self._log_probabilities(hidden[rows, slots], beam, counts, children)
        if len(gone):
            base = users[rows][beam] * len(self._order)
            low, high = base + self._low[children], base + self._high[children]
            out = torch.searchsorted(gone, high) - torch.searchsorted(gone, low)
            scores = scores.masked_fill(out == high - low, -torch.inf)
        owner = rows[beam]
        totals = torch.bincount(owner, minlength=len(users))
        column = place - (totals.cumsum(0) - totals)[owner]
        shape = (len(users), int(totals.max()))
        found = _Front(
            torch.zeros(shape, dtype=torch.int64, device=self._device),
            torch.zeros(shape, dtype=torch.int64, device=self._device),
            torch.full(shape, -torch.inf, dtype=torch.float64, device=self._device),
        )
        found.nodes[owner, column] = children
        found.parents[owner, column] = slots[beam]
        found.scores[owner, column] = scores
        return found

    def _log_probabilities(
        self, hidden: Tensor, beam: Tensor, counts: Tensor, children: Tensor
    ) -> Tensor:
        """float32 [children], of the token of each after the hidden state of its beam."""
        found = []
        tokens = self._tokens[children]
        sizes = [int(part.sum()) for part in counts.split(_ROWS)]
        start = 0
        for states, owner, token in zip(
            hidden.split(_ROWS), beam.split(sizes), tokens.split(sizes), strict=True
        ):
            logits = self._walk.output.of_tokens(states, slice(None))
            owner = owner - start
            found.append((logits[owner, token] - logits.logsumexp(-1)[owner]).clamp(max=0))
            start += len(states)
        return torch.cat(found)

    def _finish(self, found: _Front, users: Tensor, best: _Best) -> _Front:
        """Keep what is complete, or can only become one text; what remains goes on."""
        some = found.scores > -torch.inf
        leaves = self._low[found.nodes]
        left = self._lengths[leaves] - self._depths[found.nodes]
        single = self._high[found.nodes] - leaves == 1
        done = found.where(some & single & (left == 0))
        self._add(done, users, best)
        open_ = self._promising(found, users, best)
        tails = found.where(open_ & single & (left > 0))
        k = best.scores.shape[1]
        for part in (tails.columns(0, k), tails.columns(k, self._beams)):
            # The k first may leave the others nothing to win.
            worth = part.where(self._promising(part, users, best))
            if worth.nodes.shape[1]:
                self._add(self._completed(worth), users, best)
        return _Front(found.nodes, found.parents, found.scores.masked_fill(single, -torch.inf))

    def _completed(self, tails: _Front) -> _Front:
        """Score the rest of each text in one pass."""
        leaves, depths = self._low[tails.nodes], self._depths[tails.nodes]
        left = (self._lengths[leaves] - depths).masked_fill(tails.scores == -torch.inf, 0)
        step = torch.arange(int(left.max()) + 1, device=self._device)
        column = (depths[..., None] - 1 + step).clamp(max=self._sequences.shape[1] - 1)
        tokens = self._sequences[leaves[..., None], column].clamp(min=0)
        hidden = self._walk.complete(tails.parents, tokens[..., :-1])
        wanted = step[:-1] < left[..., None]
        found = _log_probabilities(self._walk.output, hidden[wanted], tokens[..., 1:][wanted])
        rest = torch.zeros(wanted.shape, dtype=torch.float64, device=self._device)
        rest[wanted] = found.double()
        return _Front(tails.nodes, tails.parents, tails.scores + rest.sum(-1))

    def _add(self, done: _Front, users: Tensor, best: _Best) -> None:
        """Add complete texts."""
        if not done.nodes.shape[1]:
            return
        leaves = self._low[done.nodes]
        scores = done.scores / self._lengths[leaves] if self._normalised else done.scores
        texts = self._order[leaves.cpu().numpy()]
        best.add(users.cpu().numpy(), texts, scores.cpu().numpy())

    def _promising(self, found: _Front, users: Tensor, best: _Best) -> Tensor:
        """Whether a beam may still become one of the k best: bool [B, W]."""
        bound = torch.from_numpy(best.scores[users.cpu().numpy(), -1]).to(self._device)
        # Log-probabilities are 0 or less: a sum never grows, and a mean is largest at full length.
        most = found.scores / self._longest[found.nodes] if self._normalised else found.scores
        return (found.scores > -torch.inf) & (most >= bound[:, None])


def _log_probabilities(output: OutputLayer, hidden: Tensor, tokens: Tensor) -> Tensor:
    """float32 [n], of one token after each hidden state."""
    pairs = zip(hidden.split(_ROWS), tokens.split(_ROWS), strict=True)
    return torch.cat([output.log_probabilities(*pair) for pair in pairs])
