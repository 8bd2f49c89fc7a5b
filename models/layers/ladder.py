"""Uni-CTR's ladder: small transformer blocks that climb a language model's hidden states.

Fu et al., TOIS 2024, arXiv 2312.10743, section 3. Rung f reads the states of its depth plus what
the rung below made of its own. Tokens attend within their own prompt only: the released code
attends over the batch instead, so that its scores depend on batch-mates.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["Ladder", "Rung"]


class Rung(nn.Module):
    """One block: down to a narrow width, self-attention there, and up again, both residual.

    Args:
        width: Of the hidden states.
        narrow: Of attention and feed-forward; the code takes a quarter of `width`.
        heads: Attention heads, a divisor of `narrow`; the code: 2.
        dropout: Share of units left out in training, 0 to 1; the code: .2.
        wide: Whether the feed-forward part works at the full width on its way up, as in the code;
            most of a rung's work is then done there.
    """

    def __init__(
        self, width: int, *, narrow: int, heads: int, dropout: float, wide: bool = False
    ) -> None:
        super().__init__()
        inner = width if wide else narrow
        self.down = nn.Sequential(
            nn.Linear(width, narrow), nn.ReLU(), nn.Linear(narrow, narrow), nn.Dropout(dropout)
        )
        self.attention = nn.MultiheadAttention(narrow, heads, batch_first=True)
        self.attended = nn.LayerNorm(narrow)
        self.up = nn.Sequential(
            nn.Linear(narrow, inner), nn.ReLU(), nn.Linear(inner, width), nn.Dropout(dropout)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, states: Tensor, padding: Tensor) -> Tensor:
        """Float [B, T, width] to the same shape.

        Args:
            states: Of tokens.
            padding: Bool [B, T], true where there is no token; such places are attended by none.
        """
        narrow = self.down(states)
        seen, _ = self.attention(
            narrow, narrow, narrow, key_padding_mask=padding, need_weights=False
        )
        return self.norm(states + self.up(self.attended(narrow + seen)))


class Ladder(nn.Module):
    """Rungs from the lowest depth to the highest: lad_f = Rung_f(h_f + lad_{f-1}).

    Args:
        rungs: Number of depths.
        width: Of the hidden states.
        narrow: Of each rung's attention.
        heads: Attention heads of a rung.
        dropout: In each rung.
        wide: See `Rung`.
    """

    def __init__(
        self,
        rungs: int,
        *,
        width: int,
        narrow: int,
        heads: int,
        dropout: float,
        wide: bool = False,
    ) -> None:
        super().__init__()
        self.rungs = nn.ModuleList(
            Rung(width, narrow=narrow, heads=heads, dropout=dropout, wide=wide)
            for _ in range(rungs)
        )

    def forward(self, states: Sequence[Tensor], padding: Tensor) -> Tensor:
        """What the last rung says of every token, float [B, T, width].

        Args:
            states: One float [B, T, width] per rung, lowest first.
            padding: Bool [B, T], true where there is no token.
        """
        below: Tensor | None = None
        for rung, at_depth in zip(self.rungs, states, strict=True):
            below = rung(at_depth if below is None else at_depth + below, padding)
        assert below is not None
        return below
