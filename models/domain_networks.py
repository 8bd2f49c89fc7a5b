"""Uni-CTR's heads: one network per domain and a general one, over states of a prompt's tokens.

Fu et al., TOIS 2024, arXiv 2312.10743, section 3. Each part knows nothing of the others, so that
one can be added, trained or taken away and all others give the same bits as before.

    states at depths φ, 2φ, … L ─ ladder of domain m ─ gate with h_L ─ tower → log-odds of m
                          h_L ─ attention pooling ─ tower → general log-odds

With `layout="code"` as the authors' repository has it: a further rung reads the embeddings, the
ladder's states are added to h_L instead of standing beside them, rungs have a wide feed-forward
part, the general network has a ladder of its own, and towers are normalised (by LayerNorm here, by
BatchNorm there).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tastemaker.errors import UnknownNameError, UserError
from tastemaker.models.layers.ladder import Ladder
from tastemaker.models.layers.mlp import Mlp
from tastemaker.models.layers.pooling import AttentionPooling

__all__ = ["GENERAL", "DomainNetworks", "Layout", "NetworkShape", "TokenNetwork", "domain_codes"]

Layout = Literal["paper", "code"]
GENERAL = "general"
UNKNOWN = -1  # the code of a domain without a network


@dataclass(frozen=True)
class NetworkShape:
    """How large the networks are.

    Attributes:
        width: Of the language model's hidden states.
        rungs: Of a ladder; 0: no ladders (the paper's ablation).
        narrow: Width inside a rung and of the pooling's keys; the code: a quarter of `width`.
        heads: Attention heads of a rung; the code: 2.
        dropout: In rungs, 0 to 1; the code: .2.
        tower: Hidden sizes; the paper: 512, 256, 128, the code: 1024, 512, 256.
        tower_dropout: In towers; the code: .3.
        layout: `paper` or `code`.
    """

    width: int
    rungs: int
    narrow: int
    heads: int = 2
    dropout: float = 0.2
    tower: tuple[int, ...] = (512, 256, 128)
    tower_dropout: float = 0.3
    layout: Layout = "paper"

    def __post_init__(self) -> None:
        if self.narrow % self.heads:
            raise UserError(
                f"multi_domain.heads = {self.heads} does not divide the width of a rung's "
                f"attention, {self.narrow}.",
                allowed="1, 2 or another divisor of it",
            )


class TokenNetwork(nn.Module):
    """From states of tokens to one logit: ladder, pooling, tower.

    Args:
        shape: Sizes.
        ladder: Whether it climbs; else it reads the top states only.
    """

    def __init__(self, shape: NetworkShape, *, ladder: bool) -> None:
        super().__init__()
        self._beside = shape.layout == "paper"
        self.ladder: Ladder | None = None
        if ladder and shape.rungs:
            self.ladder = Ladder(
                shape.rungs,
                width=shape.width,
                narrow=shape.narrow,
                heads=shape.heads,
                dropout=shape.dropout,
                wide=not self._beside,
            )
        self.pooling = AttentionPooling(shape.width, keys=shape.narrow)
        self.tower = Mlp(
            (shape.width, *shape.tower, 1),
            activation=_plain if self._beside else _normalised,
            dropout=shape.tower_dropout,
        )

    def forward(self, states: Sequence[Tensor], padding: Tensor) -> Tensor:
        """Log-odds of a like, float32 [B].

        Args:
            states: Float [B, T, width] at each depth, the top one last.
            padding: Bool [B, T], true where there is no token.
        """
        top = states[-1]
        if self.ladder is not None:
            climbed = self.ladder(states, padding)
            if self._beside:
                top = torch.cat([top, climbed], dim=1)
                padding = torch.cat([padding, padding], dim=1)
            else:
                top = top + climbed
        pooled = self.pooling(top, padding)
        # In half precision log-odds would have three digits, and many prompts the same ones.
        with torch.autocast(pooled.device.type, enabled=False):
            return self.tower(pooled.float()).squeeze(-1)


class DomainNetworks(nn.Module):
    """The networks of all known domains, and the general one.

    Args:
        shape: Of each network.
        domains: Names; may be none, then there is the general network only.
        seed: Of the weights; those of a domain follow from it and from the domain's name.

    Attributes:
        shape: As given.
        domains: Names in the order of their codes, which `domain_codes` gives.

    Raises:
        UserError: two domains of a name, or one that is called like the general network.
    """

    def __init__(self, shape: NetworkShape, *, domains: Iterable[str] = (), seed: int) -> None:
        super().__init__()
        self.shape = shape
        self.domains: list[str] = []
        self.general = _seeded(shape, GENERAL, seed=seed, ladder=shape.layout == "code")
        self.specific = nn.ModuleList()
        for name in domains:
            self.add(name, seed=seed)

    def add(self, name: str, *, seed: int) -> TokenNetwork:
        """A fresh network for a further domain; all others stay as they are.

        Raises:
            UserError: the domain has a network already, or is called like the general one.
        """
        if name in self.domains:
            raise UserError(
                f"the domain '{name}' has a network already.",
                remedy="Remove it first to train it anew.",
            )
        if name == GENERAL:
            raise UserError(
                f"a domain is called '{GENERAL}', like the network that answers for unseen ones.",
                remedy="Call it otherwise in the data or in data.domains.",
            )
        network = _seeded(self.shape, name, seed=seed, ladder=True)
        self.domains.append(name)
        network.to(next(self.general.parameters()).device).train(self.training)
        self.specific.append(network)
        return network

    def remove(self, name: str) -> None:
        """Forget a domain: from now on the general network answers for it.

        Raises:
            UnknownNameError: it has no network.
        """
        place = self._place(name)
        self.domains.pop(place)
        del self.specific[place]

    def network(self, name: str) -> TokenNetwork:
        """The network of a domain, or that of `GENERAL`.

        Raises:
            UnknownNameError: it has none.
        """
        found = self.general if name == GENERAL else self.specific[self._place(name)]
        assert isinstance(found, TokenNetwork)
        return found

    def own(self, states: Sequence[Tensor], padding: Tensor, domains: Tensor) -> Tensor:
        """Log-odds by the network of each row's own domain, float32 [B]; NaN where it has none.

        Each network sees the rows of its domain only.

        Args:
            states: Float [B, T, width] at each depth.
            padding: Bool [B, T].
            domains: Int64 [B], codes.
        """
        logits = torch.full((len(domains),), float("nan"), device=domains.device)
        for code in domains.unique().tolist():
            if code != UNKNOWN:
                rows = (domains == code).nonzero().squeeze(-1)
                mine = [one[rows] for one in states]
                found = self.specific[code](mine, padding[rows])
                logits = logits.index_copy(0, rows, found)
        return logits

    def forward(self, states: Sequence[Tensor], padding: Tensor, domains: Tensor) -> Tensor:
        """Log-odds that count: of the own network, of the general one where there is none."""
        logits = self.own(states, padding, domains)
        rows = (domains == UNKNOWN).nonzero().squeeze(-1)
        if len(rows):
            unseen = self.general([one[rows] for one in states], padding[rows])
            logits = logits.index_copy(0, rows, unseen)
        return logits

    def _place(self, name: str) -> int:
        if name not in self.domains:
            raise UnknownNameError("domain", name, self.domains)
        return self.domains.index(name)


def domain_codes(names: Iterable[str | None], known: Sequence[str]) -> list[int]:
    """The code of each domain among those with a network; -1 for all others."""
    code = {name: place for place, name in enumerate(known)}
    return [UNKNOWN if name is None else code.get(name, UNKNOWN) for name in names]


def _seeded(shape: NetworkShape, name: str, *, seed: int, ladder: bool) -> TokenNetwork:
    """Weights that depend on seed and name, not on which networks were made before."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=7).digest()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(digest, "big"))
        return TokenNetwork(shape, ladder=ladder)


def _plain(width: int) -> nn.Module:
    del width
    return nn.ReLU()


def _normalised(width: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(width), nn.ReLU())
