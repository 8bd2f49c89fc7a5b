"""Fi-GNN: fields as the nodes of a graph, which tell one another (arXiv 1910.05552, as in KAR)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from tastemaker.models.ctr.inputs import Inputs, Shape
from tastemaker.models.layers.factorisation import DenseFirstOrder
from tastemaker.models.layers.field_graph import (
    AttentiveReadout,
    FieldEdges,
    FieldMessages,
    GatedUpdate,
)

__all__ = ["BACKBONE", "FiGNN"]


class FiGNN(nn.Module):
    """Feature interaction graph network.

    Every text vector is one more field, hence one more node (KAR §3). Raw text vectors are no
    nodes: a linear term of theirs is added to the logit.

    Args:
        shape: Fields that it reads.
        hidden: Hidden sizes of the MLP that weighs the nodes when they are read out. KAR's code has
            none there, which is `hidden=()`; 200 and 80 are the sizes of its other backbones.
        layers: Graph layers, at least one; KAR: 2.
        shared: Whether all layers have the same weights; KAR: yes.
        gated: Whether a GRU, shared by all layers, updates a node from what it hears, as in the
            paper and in KAR; else what it hears is added to it.
        residual: Whether the embedding of its field is added to a node after each layer; KAR: yes.
        dropout: Share of nodes' numbers and of hidden units left out in training when they are read
            out, 0 to 1; KAR: 0.
    """

    reads_steps: ClassVar[bool] = False
    first_order: ClassVar[bool] = False

    def __init__(
        self,
        shape: Shape,
        *,
        hidden: tuple[int, ...] = (200, 80),
        layers: int = 2,
        shared: bool = True,
        gated: bool = True,
        residual: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.edges = FieldEdges(shape.dim)
        self.layers = layers
        self.messages = nn.ModuleList(
            FieldMessages(shape.fields, shape.dim) for _ in range(1 if shared else layers)
        )
        self.update = GatedUpdate(shape.dim) if gated else None
        self.residual = residual
        self.dropout = nn.Dropout(dropout)
        self.readout = AttentiveReadout(shape.fields, shape.dim, hidden=hidden, dropout=dropout)
        self.wide = DenseFirstOrder(shape.wide)

    def forward(self, inputs: Inputs) -> Tensor:
        """Log-odds of a like, float [B]."""
        fields = inputs.fields
        edges, states = self.edges(fields), fields
        for layer in range(self.layers):
            heard = self.messages[layer % len(self.messages)](edges, states)
            states = states + heard if self.update is None else self.update(heard, states)
            if self.residual:
                states = states + fields
        return self.wide(self.readout(self.dropout(states)), inputs.wide)


BACKBONE = FiGNN
