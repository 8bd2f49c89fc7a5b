"""Text vectors as inputs of a recommender: whose they are, from when on, and how they are fused.

Three ways lead from a vector to the network. `adaptor`: KAR's hybrid experts, shared among all
texts fused so. `project`: a linear layer of its own. Both make a field of the network's width.
`concat`: the vector itself, beside the fields. Rows without a text get a learned vector each time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tastemaker.errors import UserError
from tastemaker.models.layers.experts import Adaptor, AdaptorSizes, new_adaptor
from tastemaker.models.layers.mlp import xavier_normal_

__all__ = [
    "FUSIONS",
    "Fusion",
    "PrestoredTexts",
    "TextFusion",
    "TextVectors",
    "require_same_texts",
    "text_columns",
    "told_texts",
]

Fusion = Literal["adaptor", "project", "concat"]
FUSIONS: tuple[Fusion, ...] = get_args(Fusion)
Whole = NDArray[np.int64]
Watch = Callable[[str, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class TextVectors:
    """One vector per user or item, for those that have one.

    Attributes:
        name: Of the feature.
        of: Whose vectors they are.
        matrix: float32 [texts, width].
        rows: int64 [users or items], row of each one's vector, -1 without one.
        after: int64 [users or items]; a vector serves only rows strictly later than this moment.
            None: it rests on no event, and serves always.
        fusion: How it enters.
    """

    name: str
    of: Literal["user", "item"]
    matrix: NDArray[np.float32]
    rows: Whole
    after: Whole | None = None
    fusion: Fusion = "adaptor"

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return int(self.matrix.shape[1])

    def usable(self, owners: Whole, times: Whole) -> Whole:
        """Row of the vector that serves each of n rows, int64; -1 where there is none yet.

        An owner of -1 is somebody new, who has none.
        """
        rows = np.where(owners < 0, -1, self.rows[owners])
        return rows if self.after is None else np.where(times > self.after[owners], rows, -1)

    def randomised(self, generator: np.random.Generator) -> TextVectors:
        """Normal numbers of the same shape, mean and spread, for the same owners and moments."""
        if not self.matrix.size:  # nobody has a text
            return self
        noise = generator.standard_normal(self.matrix.shape)
        matrix = self.matrix.mean() + self.matrix.std() * noise
        return replace(self, matrix=matrix.astype(np.float32))


def text_columns(
    texts: Sequence[TextVectors], *, users: Whole, items: Whole, times: Whole
) -> dict[str, NDArray[np.int32]]:
    """Rows of the usable vectors, int32 [n] under each feature's name; -1 where there is none."""
    return {
        text.name: text.usable(users if text.of == "user" else items, times).astype(np.int32)
        for text in texts
    }


def told_texts(texts: Sequence[TextVectors]) -> list[dict[str, Any]]:
    """What a saved model notes of its texts: plain values for JSON."""
    return [
        {"name": text.name, "of": text.of, "fusion": text.fusion, "width": text.width}
        for text in texts
    ]


def require_same_texts(
    trained: Sequence[Mapping[str, Any]], texts: Sequence[TextVectors], *, folder: Path
) -> None:
    """Check that a model is given the texts it was trained with.

    Args:
        trained: What `told_texts` noted.
        texts: What is given now.
        folder: Of the model, for the message.

    Raises:
        UserError: they differ in name, owner, fusion or width.
    """
    given = told_texts(texts)
    if list(trained) != given:
        wanted, found = (
            ", ".join(f"{one['name']} ({one['fusion']}, {one['width']})" for one in told) or "none"
            for told in (trained, given)
        )
        raise UserError(
            f"{folder}: the model was trained with the text vectors {wanted}; given: {found}.",
            remedy="Give the same text vectors as in training.",
        )


class TextFusion(nn.Module):
    """Looks vectors up and fuses them; the vectors themselves are neither trained nor saved.

    Each distinct text of a batch is adapted once, however many rows it serves.

    Args:
        texts: The features.
        dim: Width of a field.
        sizes: Experts of the adaptor, and which one it is.

    Attributes:
        vectors: Number of fields that `forward` returns.
        wide: Number of raw numbers.

    Raises:
        UserError: texts of several widths share the adaptor.
    """

    def __init__(self, texts: Sequence[TextVectors], *, dim: int, sizes: AdaptorSizes) -> None:
        super().__init__()
        self._dim = dim
        self._fusions = {text.name: text.fusion for text in texts}
        adapted = {text.name: text.width for text in texts if text.fusion == "adaptor"}
        if len(set(adapted.values())) > 1:
            told = ", ".join(f"{name}: {width}" for name, width in adapted.items())
            raise UserError(
                f"train.features: vectors of several widths share the adaptor ({told}).",
                remedy="Encode them with one encoder, or give some of them `fusion: project`.",
            )
        self.adaptor: Adaptor | None = None
        if adapted:
            self.adaptor = new_adaptor(
                list(adapted), next(iter(adapted.values())), dim=dim, sizes=sizes
            )
        self.projections = nn.ModuleDict(
            {text.name: nn.Linear(text.width, dim) for text in texts if text.fusion == "project"}
        )
        self.projections.apply(xavier_normal_)
        self.missing = nn.ParameterDict(
            {
                text.name: torch.zeros(text.width if text.fusion == "concat" else dim)
                for text in texts
            }
        )
        for text in texts:
            matrix = torch.from_numpy(np.asarray(text.matrix, np.float32))
            self.register_buffer(f"matrix_{text.name}", matrix, persistent=False)
        self._watch: Watch = lambda name, fused: fused
        self.vectors = sum(text.fusion != "concat" for text in texts)
        self.wide = sum(text.width for text in texts if text.fusion == "concat")

    def forward(self, **columns: Tensor) -> tuple[Tensor, Tensor]:
        """Fused texts of B rows.

        Args:
            **columns: Integers [B] under each feature's name, -1 where there is no text; further
                columns are left aside.

        Returns:
            Fields float [B, vectors, dim] and raw vectors float [B, wide].
        """
        fields: list[Tensor] = []
        raw: list[Tensor] = []
        for name, fusion in self._fusions.items():
            rows = columns[name]
            # Only what a batch shows is adapted, and once: rows often share users and items.
            shown, places = torch.unique(rows, return_inverse=True)
            fused = self._watch(name, self.fused(name, shown))
            (raw if fusion == "concat" else fields).append(fused[places])
        return _side_by_side(fields, raw, dim=self._dim)

    @contextlib.contextmanager
    def watched(self, watch: Watch) -> Iterator[None]:
        """Let `watch` see, and replace, the fused texts of each feature meanwhile."""
        before, self._watch = self._watch, watch
        try:
            yield
        finally:
            self._watch = before

    def fused(self, name: str, rows: Tensor) -> Tensor:
        """Fused vectors of some texts of one feature; -1 is the missing text.

        Args:
            name: Of the feature.
            rows: Integers [n], rows of its matrix.
        """
        known = rows >= 0
        vectors = self.get_buffer(f"matrix_{name}")[rows[known]]
        missing = self.missing[name]
        vectors = vectors.to(missing.dtype)
        if self._fusions[name] == "adaptor":
            assert self.adaptor is not None
            vectors = self.adaptor(name, vectors)
        elif self._fusions[name] == "project":
            vectors = self.projections[name](vectors)
        fused = vectors.to(missing.dtype)  # a training step may have multiplied in half precision
        return missing.expand(len(rows), -1).masked_scatter(known[:, None], fused)

    @torch.no_grad()
    def tables(self, *, batch: int = 8192) -> dict[str, Tensor]:
        """All texts fused, float [texts + 1, dim or width] each; the missing text comes last."""
        found = {}
        for name in self._fusions:
            count = len(self.get_buffer(f"matrix_{name}"))
            rows = torch.arange(-1, count).roll(-1)
            found[name] = torch.cat([self.fused(name, part) for part in rows.split(batch)])
        return found


class PrestoredTexts(nn.Module):
    """What `TextFusion` returns, read from tables made once: serving needs no adaptor (KAR §5).

    Args:
        tables: Feature → float [texts + 1, width], the missing text last.
        dim: Width of a field.
        wide: Features that are no fields.
    """

    def __init__(self, tables: Mapping[str, Tensor], *, dim: int, wide: Sequence[str]) -> None:
        super().__init__()
        self._dim = dim
        self._names, self._wide = list(tables), frozenset(wide)
        for name, table in tables.items():
            self.register_buffer(f"table_{name}", table, persistent=False)

    @classmethod
    def of(cls, tables: Mapping[str, Tensor], texts: Sequence[TextVectors], *, dim: int) -> Self:
        """What `TextFusion.tables` returned, in the order of the texts."""
        wide = [text.name for text in texts if text.fusion == "concat"]
        return cls({text.name: tables[text.name] for text in texts}, dim=dim, wide=wide)

    def forward(self, **columns: Any) -> tuple[Tensor, Tensor]:
        """As `TextFusion.forward`."""
        fields: list[Tensor] = []
        raw: list[Tensor] = []
        for name in self._names:
            table, rows = self.get_buffer(f"table_{name}"), columns[name]
            found = table[torch.where(rows < 0, len(table) - 1, rows)]
            (raw if name in self._wide else fields).append(found)
        return _side_by_side(fields, raw, dim=self._dim)


def _side_by_side(
    fields: Sequence[Tensor], raw: Sequence[Tensor], *, dim: int
) -> tuple[Tensor, Tensor]:
    """Fused texts as fields [B, vectors, dim] and raw vectors [B, wide]; at least one is there."""
    like = (*fields, *raw)[0]
    return (
        torch.stack(list(fields), dim=1) if fields else like.new_zeros(len(like), 0, dim),
        torch.cat(list(raw), dim=1) if raw else like.new_zeros(len(like), 0),
    )
