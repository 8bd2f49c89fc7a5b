"""A prompt-based CTR model for many domains: a language model with a network for each of them.

Uni-CTR (Fu et al., TOIS 2024, arXiv 2312.10743). A prompt of a known domain is scored by that
domain's network, of any other by the general one. A score depends neither on the other prompts of
a batch nor on padding, apart from rounding.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tastemaker.errors import UserError
from tastemaker.models.domain_networks import (
    GENERAL,
    DomainNetworks,
    NetworkShape,
    domain_codes,
)
from tastemaker.models.hidden_states import check_context, evaluating
from tastemaker.models.prompt_states import Lower, PromptBackbone
from tastemaker.models.seq2seq import padded, source_batches
from tastemaker.models.state_store import StateStore

__all__ = ["PromptBatch", "PromptCtr", "load_networks", "network_names", "save_networks"]

_ABOUT = "networks.json"
_BATCH_TOKENS = 4096


@dataclass(frozen=True)
class PromptBatch:
    """B prompts.

    Attributes:
        ids: Token ids int64 [B, T], padded on the right.
        mask: Int64 [B, T], 0 for padding.
        domains: Codes int64 [B]; -1: no network of its own.
        lower: What is known of them already.
    """

    ids: Tensor
    mask: Tensor
    domains: Tensor
    lower: Lower | None = None


class PromptCtr(nn.Module):
    """A backbone and the networks on it.

    Args:
        backbone: The language model.
        networks: Of the domains.
    """

    accepts_loss_kwargs = False

    def __init__(self, backbone: PromptBackbone, networks: DomainNetworks) -> None:
        super().__init__()
        self.backbone = backbone
        self.networks = networks.to(backbone.device)
        self.config = backbone.config

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.backbone.device

    def states(self, batch: PromptBatch) -> tuple[list[Tensor], Tensor]:
        """States at all depths, float [B, T, width] each, and where there is no token."""
        if batch.lower is None:
            found = self.backbone(batch.ids, batch.mask)
        else:
            found = self.backbone.upper(batch.ids, batch.mask, lower=batch.lower)
        return found, batch.mask == 0

    def forward(
        self, batch: PromptBatch, labels: Tensor, *, general: bool = True
    ) -> dict[str, Tensor]:
        """Loss of each row, float [B], and the log-odds that count.

        The cross-entropy of the row's own network plus that of the general one (arXiv 2312.10743,
        section 3): other domains' networks have no part in it.

        Args:
            batch: Prompts.
            labels: Float [B], 1 for a like.
            general: Whether the general network is trained; off where only a domain is added.
        """
        states, padding = self.states(batch)
        logits = self.networks.own(states, padding, batch.domains)
        known = batch.domains >= 0
        losses = torch.where(known, _cross_entropy(logits.nan_to_num(), labels), 0.0)
        if general or not bool(known.all()):
            shared = self.networks.general(states, padding)
            unheard = known & (not general)  # rows that only their own network learns from
            losses = losses + torch.where(unheard, 0.0, _cross_entropy(shared, labels))
            logits = torch.where(known, logits, shared)
        return {"losses": losses, "logits": logits}

    def score(
        self,
        sequences: Sequence[Sequence[int]],
        domains: Sequence[str | None],
        *,
        network: str | None = None,
        store: StateStore | None = None,
        batch_tokens: int = _BATCH_TOKENS,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> NDArray[np.float32]:
        """Log-odds of a like, float32 [n].

        Args:
            sequences: Token ids of each prompt.
            domains: Name of each prompt's domain; None or one without a network: the general one.
            network: Ask this network about all prompts, a domain's or `general`.
            store: States of these prompts that are known already.
            batch_tokens: Of a forward pass, padding included.
            on_progress: Called with the number of newly scored prompts.

        Raises:
            UserError: a prompt is longer than the model's context.
        """
        scores = np.zeros(len(sequences), dtype=np.float32)
        if not len(sequences):
            return scores
        check_context(self.backbone, sequences)
        codes = domain_codes(domains, self.networks.domains)
        asked = None if network is None else self.networks.network(network)
        with evaluating(self), torch.inference_mode(), self.products():
            for places in source_batches(sequences, batch_tokens):
                batch = self.batch(sequences, codes, places, store=store)
                states, padding = self.states(batch)
                if asked is not None:
                    found = asked(states, padding)
                else:
                    found = self.networks(states, padding, batch.domains)
                scores[places] = found.cpu().numpy()
                on_progress(len(places))
        return scores

    def batch(
        self,
        sequences: Sequence[Sequence[int]],
        codes: Sequence[int],
        places: Sequence[int],
        *,
        store: StateStore | None = None,
    ) -> PromptBatch:
        """Some of the prompts, on the model's device."""
        ids, mask = padded([sequences[one] for one in places], self.backbone.tokenizer.pad_token_id)
        lower = None if store is None else store.lower(places)
        domains = torch.tensor([codes[one] for one in places])
        return moved(PromptBatch(ids, mask, domains, lower), self.device)

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: dict[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Compute activations of the language model twice instead of keeping them; see there."""
        self.backbone.model.activation_checkpointing_enable(
            activation_checkpointing_kwargs, every_n_layers=every_n_layers, offload=offload
        )

    def products(self) -> AbstractContextManager[Any]:
        """Products in half precision where the backbone's weights are; sums in float32."""
        half = next(self.backbone.model.parameters()).dtype == torch.bfloat16
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half)


def moved(batch: PromptBatch, device: torch.device) -> PromptBatch:
    """The batch on a device."""
    lower = batch.lower
    if lower is not None:
        resumed = None if lower.resumed is None else lower.resumed.to(device)
        lower = Lower([one.to(device) for one in lower.states], resumed)
    return PromptBatch(batch.ids.to(device), batch.mask.to(device), batch.domains.to(device), lower)


def save_networks(networks: DomainNetworks, folder: Path) -> None:
    """One file of weights for each domain and one for the general network, and their shape.

    Args:
        networks: What to write.
        folder: Created when missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: _file(name) for name in networks.domains}
    for name, file in {GENERAL: "general.safetensors", **files}.items():
        weights = networks.network(name).state_dict()
        save_file({key: one.cpu().contiguous() for key, one in weights.items()}, folder / file)
    about = {"shape": asdict(networks.shape), "domains": files}
    (folder / _ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding="utf-8")


def network_names(folder: Path) -> tuple[str, ...]:
    """Domains that have a network in a folder; no weights are read.

    Raises:
        UserError: the folder holds no such networks.
    """
    return tuple(_about(folder)["domains"])


def load_networks(folder: Path) -> DomainNetworks:
    """Inverse of `save_networks`.

    Raises:
        UserError: the folder holds no such networks.
    """
    about = _about(folder)
    try:
        shape = NetworkShape(**{**about["shape"], "tower": tuple(about["shape"]["tower"])})
        networks = DomainNetworks(shape, domains=about["domains"], seed=0)
        for name, file in {GENERAL: "general.safetensors", **about["domains"]}.items():
            networks.network(name).load_state_dict(load_file(folder / file))
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, SafetensorError) as error:
        raise _unreadable(folder, error) from None
    return networks


def _about(folder: Path) -> Mapping[str, Any]:
    try:
        about: Mapping[str, Any] = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from None
    return about


def _unreadable(folder: Path, error: Exception) -> UserError:
    return UserError(
        f"{folder} holds no domain networks that can be read ({type(error).__name__}).",
        remedy="Name the folder that tastemaker tune wrote: RUN/tune/model.",
    )


def _file(domain: str) -> str:
    """A file name of the domain's own, whichever others there are."""
    words = re.sub(r"[^a-z0-9]+", "-", domain.lower()).strip("-")[:40]
    digest = hashlib.blake2b(domain.encode(), digest_size=4).hexdigest()
    return f"{words or 'domain'}-{digest}.safetensors"


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
