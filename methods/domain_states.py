"""States of prompts that no training changes: kept on disk where they fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tastemaker.models.prompt_states import PromptBackbone
from tastemaker.models.state_store import StateStore, store_bytes
from tastemaker.recipe import MultiDomainConfig
from tastemaker.stage import Reporter, digest

__all__ = ["KeptStates"]

_BATCH_TOKENS = 2048  # of a forward pass that computes what is kept


class KeptStates:
    """Stores in one folder, each named by what it is made from.

    Args:
        config: Whether states may be kept, and how many.
        folder: Where.
    """

    def __init__(self, config: MultiDomainConfig, folder: Path) -> None:
        self._config, self._folder = config, folder

    def store(
        self,
        backbone: PromptBackbone,
        sequences: Sequence[Sequence[int]],
        *,
        part: str,
        report: Reporter,
    ) -> StateStore | None:
        """What cannot change of these prompts; None where there is nothing, or no room for it.

        Args:
            backbone: Computes them.
            sequences: Token ids of each prompt.
            part: What people call the prompts.
            report: Told about progress, and why nothing is kept.
        """
        config = self._config
        if not config.keep_states or backbone.trains_embeddings or backbone.fixed == 0:
            return None  # embeddings alone are looked up faster than they are read
        size = store_bytes(backbone, sum(map(len, sequences)))
        if size > config.states_gb * 1e9:
            report.line(
                f"  states of {len(sequences):,} {part} prompts would take {size / 1e9:.1f} GB, "
                f"more than multi_domain.states_gb = {config.states_gb:g}; they are computed anew "
                "whenever they are read"
            )
            return None
        if sequences and not backbone.resumes(sequences[0]):
            report.line(f"  {backbone.name} cannot go on from kept states; they are not kept")
            return None
        name = digest([backbone.identity(), backbone.depths, backbone.fixed, sequences])
        label = f"states of {part} prompts, layers 1 to {backbone.fixed} of {backbone.layers}"
        with report.track(label, len(sequences)) as advance:
            return StateStore(
                backbone,
                sequences,
                folder=self._folder / name[:16],
                batch_tokens=_BATCH_TOKENS,
                on_progress=advance,
            )
