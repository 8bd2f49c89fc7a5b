"""Stage `tune` of Uni-CTR: the networks of known domains together, then each added one alone.

The artefact holds one folder per model: `model`, and one for each ablation. In each are the
networks, a file for every domain, and what was changed in the language model. Adding a domain
writes a further file; nothing that was there before is touched.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tastemaker.errors import RecipeError, SaveCheckError, UnknownNameError
from tastemaker.methods.base import load_split
from tastemaker.methods.domain_checks import network_shape
from tastemaker.methods.domain_prompts import (
    read_domains,
    training_prompts,
)
from tastemaker.methods.domain_states import KeptStates
from tastemaker.methods.tuning import settings_of
from tastemaker.models.domain_networks import DomainNetworks, NetworkShape
from tastemaker.models.prompt_ctr import (
    PromptCtr,
    load_networks,
    network_names,
    save_networks,
)
from tastemaker.models.prompt_states import PromptBackbone, load_backbone
from tastemaker.recipe import MultiDomainConfig, Recipe
from tastemaker.stage import Stage, Workspace, atomic_file, digest
from tastemaker.tuning.backbones import make_trainable, read_trained, save_trained
from tastemaker.tuning.domains import DomainExamples, train_networks
from tastemaker.tuning.settings import TuneResult

__all__ = ["MODEL", "ROWS", "check_start", "domain_tune_stage", "load_prompt_ctr", "new_backbone"]

MODEL = "model"  # of all ablations, none
_ABOUT = "uni_ctr.json"
ROWS = "rows.parquet"
_PROBES = 4
_PROBE_TOLERANCE = 1e-3


def domain_tune_stage(recipe: Recipe) -> Stage:
    """Stage `tune`: see the head of this file."""
    config = {
        "tune": recipe.tune.model_dump(mode="json", exclude={"tracker"}),
        "multi_domain": recipe.multi_domain.model_dump(
            mode="json", exclude={"keep_states", "states_gb"}
        ),
    }
    start = recipe.multi_domain.start
    return Stage(
        name="tune",
        needs=("data", "build"),
        run=lambda space: _Tuning(recipe, space).run(),
        config=config,
        sources=tuple(sorted(one for one in Path(start).rglob("*") if one.is_file()))
        if start
        else (),
    )


def check_start(config: MultiDomainConfig) -> None:
    """Find what is wrong with the model to go on from before anything is written.

    Raises:
        UnknownNameError: a domain to be removed that it does not have.
        RecipeError: it has an added or unseen domain already, nothing is to be added or removed,
            ablations are asked for, or domains are to be removed from nothing.
        UserError: the folder holds no such model.
    """
    if not config.start:
        if config.removed:
            raise RecipeError(
                "multi_domain.removed takes networks from the model of multi_domain.start, and "
                "there is none.",
                remedy="Name a tuned model: RUN/tune/model.",
            )
        return
    names = network_names(Path(config.start) / "networks")
    for name in config.removed:
        if name not in names:
            raise UnknownNameError("domain", name, names)
    kept = [name for name in config.unseen if name in names and name not in config.removed]
    if kept:
        raise RecipeError(
            f"multi_domain.unseen: {config.start} has a network of {kept[0]}.",
            remedy="Name it under multi_domain.removed, too: then the general network scores it.",
        )
    again = [name for name in config.added if name in names and name not in config.removed]
    if again:
        raise RecipeError(
            f"multi_domain.added: {config.start} has a network of {again[0]} already.",
            remedy="Name it under multi_domain.removed as well, to train it anew.",
        )
    if config.ablations or not (config.added or config.removed):
        what = "ablations are trained from the start" if config.ablations else "nothing to do"
        raise RecipeError(
            f"multi_domain.start: {what}.",
            remedy="Name domains under multi_domain.added or removed, and no ablations.",
        )


def new_backbone(recipe: Recipe, variant: str = MODEL) -> PromptBackbone:
    """The language model of a variant as it comes, all of it fixed."""
    config = recipe.multi_domain
    return load_backbone(
        recipe.tune.model,
        every=config.every,
        from_embeddings=config.layout == "code",
        embeddings_only=variant == "no_llm",
        precision=recipe.tune.precision,
    )


def load_prompt_ctr(recipe: Recipe, folder: Path, *, variant: str) -> PromptCtr:
    """A trained model.

    Args:
        recipe: It was tuned with.
        folder: Of this model, below the artefact of the stage.
        variant: `MODEL`, or an ablation.

    Raises:
        UserError: the folder holds none, or it was trained on another language model.
    """
    backbone = new_backbone(recipe, variant)
    read_trained(backbone, folder)
    return PromptCtr(backbone, load_networks(folder / "networks")).eval()


@dataclass(frozen=True)
class _Parts:
    """Prompts of some domains as token ids, with what is known of them."""

    train: DomainExamples
    valid: DomainExamples


class _Tuning:
    """One run of the stage.

    Args:
        recipe: Sections `tune` and `multi_domain`.
        space: Where it works.
    """

    def __init__(self, recipe: Recipe, space: Workspace) -> None:
        self._recipe, self._space = recipe, space
        self._settings = settings_of(recipe.tune)
        self._states = KeptStates(recipe.multi_domain, space.scratch / "states")
        self._domains = read_domains(recipe.multi_domain, load_split(space.run))
        self._prompts = {
            part: training_prompts(space.run, recipe, part) for part in ("train", "valid")
        }

    def run(self) -> Mapping[str, Any]:
        """Train all variants; what was found out about each."""
        summary: dict[str, Any] = {}
        for variant in (MODEL, *self._recipe.multi_domain.ablations):
            summary[variant] = self._variant(variant)
        shutil.rmtree(self._space.scratch / "states", ignore_errors=True)
        self._rows().write_parquet(self._space.out / ROWS)
        return {
            "domains": asdict(self._domains),
            "variants": summary,
            "line": self._line(summary[MODEL]),
        }

    def _rows(self) -> pl.DataFrame:
        """Columns `row`, `part`, and `added`: the domain whose network alone it trained, or ""."""
        config, frames = self._recipe.multi_domain, []
        for part, prompts in self._prompts.items():
            known = () if config.start else self._domains.known
            mine = prompts.of((*known, *self._domains.added))
            added = [name if name in self._domains.added else "" for name in mine.domains]
            frame = pl.DataFrame({"row": mine.rows, "part": part, "added": added})
            frames.append(frame.unique(maintain_order=True))
        return pl.concat(frames)

    def _line(self, told: Mapping[str, Any]) -> str:
        known = len(self._domains.known)
        if told["steps"]:
            line = f"{told['examples']:,} prompts of {known} domains, {told['steps']} steps, "
            line += f"validation AUC {told['best_valid_auc']:.3f}"
        else:
            line = f"{known} domains kept as they were"
        added = "".join(
            f", {name} added ({one['examples']:,} prompts, validation AUC "
            f"{one['best_valid_auc']:.3f})"
            for name, one in told["added"].items()
        )
        return f"{line}{added}, reload checked"

    def _variant(self, variant: str) -> dict[str, Any]:
        """Train one model, save it, and check what was saved."""
        done = self._space.scratch / f"{variant}-done"
        if not (done / _ABOUT).is_file():  # else it was finished before the process was killed
            made = self._space.scratch / f".{variant}-new"
            shutil.rmtree(made, ignore_errors=True)
            continued = bool(self._recipe.multi_domain.start)
            model, told = self._kept(made) if continued else self._new(variant, made)
            added = () if variant == "general_only" else self._domains.added
            told["added"] = {name: self._added(model, name, label=variant) for name in added}
            save_networks(model.networks, made / "networks")
            told["reload_difference"] = self._check(model, made, variant)
            with atomic_file(made / _ABOUT) as handle:
                handle.write(json.dumps(told, indent=1).encode())
            made.rename(done)
        shutil.copytree(done, self._space.out / variant)
        return dict(json.loads((done / _ABOUT).read_text(encoding="utf-8")))

    def _new(self, variant: str, made: Path) -> tuple[PromptCtr, dict[str, Any]]:
        """A model of the known domains; what was trained of the language model is in `made`."""
        backbone, seed = new_backbone(self._recipe, variant), self._space.seed
        known = () if variant == "general_only" else self._domains.known
        kind = "frozen" if variant == "no_llm" else self._recipe.tune.kind
        adapter = make_trainable(backbone, self._settings, kind=kind, seed=seed)
        networks = DomainNetworks(self._shape(backbone, variant), domains=known, seed=seed)
        model = PromptCtr(backbone, networks)
        model.networks.requires_grad_(True)
        told = self._trained(model, self._domains.known, label=variant)
        save_trained(model.backbone, made, adapter=adapter)
        return model, told

    def _kept(self, made: Path) -> tuple[PromptCtr, dict[str, Any]]:
        """The model that the recipe starts from, without the networks that it removes."""
        config = self._recipe.multi_domain
        shutil.copytree(config.start, made)
        shutil.rmtree(made / "networks")
        model = load_prompt_ctr(self._recipe, Path(config.start), variant=MODEL)
        for name in config.removed:
            model.networks.remove(name)
        return model, {"examples": 0, "steps": 0, "curve": []}

    def _shape(self, backbone: PromptBackbone, variant: str) -> NetworkShape:
        rungs = 0 if variant == "no_ladders" else len(backbone.depths)
        return network_shape(self._recipe.multi_domain, width=backbone.width, rungs=rungs)

    def _trained(
        self, model: PromptCtr, names: Sequence[str], *, label: str, general: bool = True
    ) -> dict[str, Any]:
        """Train what wants to be trained on the prompts of some domains."""
        space, settings = self._space, self._settings
        parts = self._parts(model.backbone, names)
        steps = int(-(-len(parts.train) // settings.batch_size) * settings.epochs)
        shown = label.replace("_", " ") if label != MODEL else "Uni-CTR"
        with space.report.track(f"training {shown}, steps", steps) as advance:
            result = train_networks(
                model,
                parts.train,
                valid=parts.valid,
                settings=settings,
                scratch=space.scratch / f"{label}-{digest(list(names))[:8]}",
                seed=space.seed,
                general=general,
                logs=space.run.folder / "logs" / label,
                on_step=advance,
            )
        return _told(result, len(parts.train))

    def _added(self, model: PromptCtr, name: str, *, label: str) -> dict[str, Any]:
        """One more domain; all that was there before is frozen."""
        model.requires_grad_(False)
        model.networks.add(name, seed=self._space.seed).requires_grad_(True)
        with model.backbone.all_fixed():
            return self._trained(model, [name], label=f"{label}-{name}", general=False)

    def _parts(self, backbone: PromptBackbone, names: Sequence[str]) -> _Parts:
        found = {}
        for part, prompts in self._prompts.items():
            mine = prompts.of(names)
            sequences = backbone.encode(mine.texts)
            store = self._states.store(backbone, sequences, part=part, report=self._space.report)
            found[part] = DomainExamples(sequences, mine.domains, mine.labels, store)
        return _Parts(**found)

    def _check(self, model: PromptCtr, folder: Path, variant: str) -> float:
        """Read back what was saved and compare scores.

        Raises:
            SaveCheckError: they differ.
        """
        probes = self._prompts["valid"]
        places = [probes.domains.index(name) for name in sorted(set(probes.domains))][:_PROBES]
        sequences = model.backbone.encode([probes.texts[place] for place in places])
        names = [probes.domains[place] for place in places]
        again = load_prompt_ctr(self._recipe, folder, variant=variant)
        pairs = [one.score(sequences, names) for one in (model, again)]
        difference = float(np.abs(pairs[0] - pairs[1]).max())
        if not difference <= _PROBE_TOLERANCE:
            raise SaveCheckError(
                f"what was read back of {variant} scores differently (difference "
                f"{difference:.3g}, allowed {_PROBE_TOLERANCE:g}); nothing was kept"
            )
        return difference


def _told(result: TuneResult, examples: int) -> dict[str, Any]:
    names = ("steps", "best_step", "trained_parameters", "best_valid_loss", "best_valid_auc")
    more = ("micro_batch", "seconds", "curve")
    return {"examples": examples, **{name: getattr(result, name) for name in (*names, *more)}}
