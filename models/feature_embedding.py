"""From the columns of a feature space to the fields that backbones combine.

Every categorical column has one table, whoever carries it: the candidate, the steps of a history,
or both. The fields of an item are embedded once per batch and then looked up by all rows and steps
that show it: with short catalogues and long histories that saves most of the work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tastemaker.models.ctr.inputs import Inputs, Shape, Steps
from tastemaker.models.feature_space import EntityTable, FeatureSpace
from tastemaker.models.vocabulary import PADDING, UNSEEN

__all__ = ["FeatureEmbedding"]


class FeatureEmbedding(nn.Module):
    """Embeds what `FeatureSpace.columns` returns.

    Tables start Xavier-normal (KAR §3); the rows of unseen and missing values start at zero, so
    that one which training never met says nothing.

    Args:
        space: The features.
        dim: Width of a field; KAR: 32.
        texts: Module from text rows to (fields float [B, vectors, dim], raw float [B, wide]).
        vectors: Number of its fields.
        wide: Number of its raw numbers.
        reads_steps: Whether sequences are wanted step by step instead of averaged.
        first_order: Whether each value also has a first-order weight.

    Attributes:
        shape: Of the inputs that it makes.
    """

    def __init__(
        self,
        space: FeatureSpace,
        *,
        dim: int,
        texts: nn.Module | None = None,
        vectors: int = 0,
        wide: int = 0,
        reads_steps: bool = False,
        first_order: bool = False,
    ) -> None:
        super().__init__()
        layout, width = space.layout, dim + first_order
        self.tables = nn.ModuleDict(
            {_key(name): _table(size, width, dim=dim) for name, size in space.sizes().items()}
        )
        self.items = _Entities(space.item_table(), width=width, dim=dim)
        self.users = _Entities(space.user_table(), width=width, dim=dim) if space.of_users else None
        events = [f for f in layout.context if f.source == "event" and f.kind != "numeric"]
        self._events = [feature.name for feature in events]
        users = len(space.of_users)
        self.numbers = _Numbers(len(layout.context) - users - len(events), width=width, dim=dim)
        self.texts = texts
        self._dim, self._first_order, self._reads_steps = dim, first_order, reads_steps
        self._candidate = [self.items.order.index(f.name) for f in layout.candidate]
        self._steps = {
            one.name: [self.items.order.index(n) for n in one.steps if n in self.items.order]
            for one in layout.sequences
        }
        self._of_events = {
            one.name: [name for name in one.steps if name not in self.items.order]
            for one in layout.sequences
        }
        self.shape = Shape(
            dim=dim,
            candidate=len(layout.candidate),
            context=len(layout.context),
            steps=tuple(len(one.steps) for one in layout.sequences),
            vectors=vectors,
            wide=wide,
        )

    def forward(self, **columns: Tensor) -> Inputs:
        """Inputs of a backbone for B rows; arguments as `FeatureSpace.columns` returns them."""
        item = columns["item"]
        shown = {name: columns[name] for name in self._steps}
        known, item, shown = self._known_items(item, shown)
        candidate = functional.embedding(item, _pick(known, self._candidate))
        candidate = candidate.view(len(item), len(self._candidate), -1)
        context = torch.cat(self._context(columns, like=candidate), dim=1)
        steps, averages = [], []
        for name, places in shown.items():
            carried = [
                (self._weights(event), columns[f"{name}.{event}"])
                for event in self._of_events[name]
            ]
            own = _pick(known, self._steps[name])
            carried = [(own, places), *carried] if own.shape[1] else carried
            if self._reads_steps:
                mask = places != 0
                looked_up = [(table, codes[mask]) for table, codes in carried]
                steps.append(Steps(None, mask, looked_up=looked_up))
            else:
                means = torch.cat([_mean(codes, table) for table, codes in carried], dim=1)
                averages.append(means.view(len(item), -1, candidate.shape[-1]))
        history = torch.cat([candidate[:, :0], *averages], dim=1)
        linear = candidate.new_zeros(len(item))
        if self._first_order:
            weights = [part[..., self._dim].sum(dim=1) for part in (candidate, context, history)]
            linear = weights[0] + weights[1] + weights[2]
            candidate, context, history = (
                part[..., : self._dim] for part in (candidate, context, history)
            )
        vectors, wide = candidate[:, :0], candidate.new_zeros(len(item), 0)
        if self.texts is not None:
            vectors, wide = self.texts(**columns)
        return Inputs(candidate, context, history, tuple(steps), vectors, wide, linear)

    def _known_items(
        self, item: Tensor, shown: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Embedded items [U, fields, width], and where each row and step finds its own in it."""
        wanted = len(item) + sum(places.numel() for places in shown.values())
        if self.items.count <= wanted:
            return self.items(None, self.tables), item, dict(shown)
        flat = [item.new_zeros(1), item, *(places.flatten() for places in shown.values())]
        distinct, found = torch.unique(torch.cat(flat), return_inverse=True)  # 0 stays 0
        parts = found[1:].split([one.numel() for one in flat[1:]])
        placed = {
            name: part.view_as(places)
            for (name, places), part in zip(shown.items(), parts[1:], strict=True)
        }
        return self.items(distinct, self.tables), parts[0], placed

    def _context(self, columns: Mapping[str, Tensor], *, like: Tensor) -> list[Tensor]:
        parts = [like[:, :0]]
        if self.users is not None:
            parts.append(self.users(columns["user"], self.tables))
        parts += [_looked_up(columns[name], self._weights(name))[:, None] for name in self._events]
        if "numbers" in columns:
            parts.append(self.numbers(columns["numbers"].to(like.dtype)))
        return parts

    def _weights(self, name: str) -> Tensor:
        return self.tables.get_submodule(_key(name)).weight


class _Entities(nn.Module):
    """Embeds items, or users, by their number; what is known of them is not trained nor saved.

    Attributes:
        order: Names of the fields that `forward` returns; numbers have none and come last.
        count: Rows of the table.
    """

    values: Tensor

    def __init__(self, table: EntityTable, *, width: int, dim: int) -> None:
        super().__init__()
        self.order = [*table.codes, *table.numeric]
        self.count = len(table.numbers)
        self._coded = list(table.codes)
        for name, codes in table.codes.items():
            self.register_buffer(f"codes_{_key(name)}", torch.from_numpy(codes), persistent=False)
        self.register_buffer("values", torch.from_numpy(table.numbers), persistent=False)
        self.numbers = _Numbers(len(table.numeric), width=width, dim=dim)

    def forward(self, rows: Tensor | None, tables: nn.ModuleDict) -> Tensor:
        """Float [U, fields, width] of the rows int [U], or of all."""
        parts = []
        for name in self._coded:
            codes = self.get_buffer(f"codes_{_key(name)}")
            weight = tables.get_submodule(_key(name)).weight
            parts.append(_looked_up(codes if rows is None else codes[rows], weight))
        stacked = [torch.stack(parts, dim=1)] if parts else []
        if self.values.shape[1]:
            values = self.values if rows is None else self.values[rows]
            stacked.append(self.numbers(values))
        return torch.cat(stacked, dim=1)


class _Numbers(nn.Module):
    """A number x as the vector x · w + b of its feature; a missing one as a vector of its own."""

    def __init__(self, count: int, *, width: int, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(count, width))
        self.shift = nn.Parameter(torch.zeros(count, width))
        self.missing = nn.Parameter(torch.zeros(count, width))
        if count:
            nn.init.xavier_normal_(self.scale)
            with torch.no_grad():
                self.scale[:, dim:] = 0

    def forward(self, values: Tensor) -> Tensor:
        """Float [n, k], NaN where missing, to [n, k, width]."""
        missing = values.isnan()[..., None]
        known = torch.nan_to_num(values)[..., None].to(self.scale.dtype) * self.scale + self.shift
        return torch.where(missing, self.missing, known)


def _table(size: int, width: int, *, dim: int) -> nn.Embedding:
    table = nn.Embedding(size, width, padding_idx=PADDING)
    nn.init.xavier_normal_(table.weight[:, :dim])
    with torch.no_grad():
        table.weight[: UNSEEN + 2] = 0
        table.weight[:, dim:] = 0
    return table


def _looked_up(codes: Tensor, weight: Tensor) -> Tensor:
    """Average over the values of each entry: codes int [n, values] to float [n, width]."""
    if codes.shape[1] == 1:
        return functional.embedding(codes[:, 0], weight)
    return _mean(codes, weight)


def _mean(codes: Tensor, weight: Tensor) -> Tensor:
    """Average of the rows of `weight` float [u, width] at codes int [n, l], 0 left out: [n, width].

    Zeros where all are left out.
    """
    return functional.embedding_bag(codes, weight, mode="mean", padding_idx=PADDING)


def _pick(table: Tensor, places: Sequence[int]) -> Tensor:
    """Some fields side by side: [U, fields, width] to [U, chosen * width]."""
    if list(places) != list(range(table.shape[1])):
        table = table[:, list(places)]
    return table.flatten(1)


def _key(name: str) -> str:
    """A column's name as that of a submodule, which may hold no dot."""
    return name.replace("_", "__").replace(".", "_d")
