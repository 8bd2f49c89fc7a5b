"""Uni-CTR: a unified framework for multi-domain CTR prediction via large language models.

Fu et al., ACM TOIS 2024, arXiv 2312.10743.

Idea: every impression becomes one prompt; a language model exposes its hidden states at several
depths; each known domain climbs them with a ladder network of its own, and a general network reads
the top. A known domain is scored by its own network, one never seen by the general network, and a
further domain is added by training one more network with everything else frozen.

    impression → prompt → language model ─ h_φ … h_L ─ ladder m → gate with h_L → tower → ŷ of m
                                         └ h_L ─ attention pooling → tower ─────────────→ ŷ general

The loss of a row is the cross-entropy of its own domain's network plus that of the general one;
other domains' networks have no gradient from it. `tune.kind` says what is trained below the
networks: a LoRA adapter (the paper: rank 8, α 32), one on the top layers only
(`tune.lora.layers`), or nothing (`frozen`).

Deviations from the paper: tokens are pooled by attention, with a mask (the paper's gate has one
vector per state and does not say where it comes from); hidden states are scaled to variance 1
before they enter a ladder; a frozen model or a partial adapter is possible, the states below are
then computed once; the learning rate falls linearly; the epoch is chosen by validation AUC over
all known domains; a price that is no plain amount is left out, not replaced by a mean. From the
released code besides (`multi_domain.layout: code` follows its shapes): ladders attend within a
prompt, not over the batch, and not to padding; towers have LayerNorm for BatchNorm; the general
network is frozen, too, when a domain is added; item numbers in prompts come from training rows.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tastemaker.data.splits import Split
from tastemaker.eval.protocol import Requests
from tastemaker.eval.report import Curve
from tastemaker.methods.base import Contender, Exhibits, Method, Scores
from tastemaker.methods.domain_auditing import audit_domain_training, audit_domain_tuning
from tastemaker.methods.domain_checks import check_domains, check_model, check_prompts
from tastemaker.methods.domain_prompts import prompts_of
from tastemaker.methods.domain_states import KeptStates
from tastemaker.methods.domain_training import (
    baseline_contenders,
    baseline_names,
    check_baselines,
    domain_train_stage,
)
from tastemaker.methods.domain_tuning import (
    MODEL,
    check_start,
    domain_tune_stage,
    load_prompt_ctr,
)
from tastemaker.methods.showing import shown_prompts
from tastemaker.models.domain_networks import GENERAL
from tastemaker.recipe import Recipe
from tastemaker.stage import Reporter, Run

__all__ = ["METHOD"]

_NAME = "Uni-CTR"
_NUMBERS = (
    "Item numbers count items in the order in which they first appear in training: a small number "
    "tells that an item is popular, also of a domain that is not trained on. build.indexing: "
    "random takes that away."
)
_SHOWN = {
    MODEL: (_NAME, "The network of each domain; of an unseen one the general network."),
    GENERAL: (f"{_NAME}, general network", "The same model's general network on every domain."),
    "no_ladders": (f"{_NAME} without ladders", "Networks that read the top states only."),
    "no_llm": (f"{_NAME} without LLM", "Networks on the prompt's word embeddings."),
    "general_only": (f"{_NAME}, one network", "Trained with the general network alone."),
}


def models(recipe: Recipe) -> tuple[str, ...]:
    """Names of the language models with networks, then of the baselines."""
    ours = tuple(_SHOWN[variant][0] for variant in _variants(recipe))
    return (*ours, *baseline_names(recipe))


def contenders(recipe: Recipe, run: Run, split: Split) -> Sequence[Contender]:
    """Uni-CTR, its general network alone, ablations, and baselines on the same rows."""
    key = {"tune": run.digest_of("tune"), "build": run.digest_of("build")}
    scoring = _Scoring(recipe, run, split)

    def entry(variant: str) -> Contender:
        name, about = _SHOWN[variant]
        return Contender(name, about, {**key, "variant": variant}, scoring.by(variant), slow=True)

    return (
        *(entry(variant) for variant in _variants(recipe)),
        *baseline_contenders(recipe, run, split),
    )


def check(recipe: Recipe) -> None:
    """Find what cannot be trained before anything is written.

    Raises:
        UserError: data without domains or wrong names of them, prompts that ask something else, a
            model, size, kind, tracker or backbone that is not there.
    """
    check_domains(recipe)
    check_prompts(recipe)
    check_model(recipe)
    check_start(recipe.multi_domain)
    check_baselines(recipe)


def exhibits(run: Run) -> Exhibits:
    """Test prompts, curves of every model, and what the reader should know."""
    manifest = run.manifest("tune")
    variants: Mapping[str, Any] = manifest.summary["variants"] if manifest else {}
    curves = [
        Curve(
            panel="Validation AUC while training, all known domains",
            name=_SHOWN[variant][0],
            x=[entry["step"] for entry in told["curve"] if "valid_auc" in entry],
            y=[entry["valid_auc"] for entry in told["curve"] if "valid_auc" in entry],
            x_label="step",
        )
        for variant, told in variants.items()
    ]
    domains = manifest.summary["domains"] if manifest else {}
    notes = [
        f"{label}: {', '.join(domains[kind])}."
        for kind, label in (
            ("known", "Domains trained together"),
            ("added", "Domains added with everything else frozen"),
            ("unseen", "Domains never trained on"),
        )
        if domains.get(kind)
    ]
    built = run.manifest("build")
    if built and built.config.get("indexing") == "sequential":
        notes.append(_NUMBERS)
    return Exhibits(prompts=shown_prompts(run), curves=curves, notes=notes)


METHOD = Method(
    title="A Unified Framework for Multi-Domain CTR Prediction via Large Language Models",
    venue="ACM TOIS 2024, arXiv 2312.10743",
    idea="One language model for many domains: a ladder network for each, one for all others.",
    stages={"tune": domain_tune_stage, "train": domain_train_stage},
    models=models,
    contenders=contenders,
    check=check,
    exhibits=exhibits,
    audits={"tune": audit_domain_tuning, "train": audit_domain_training},
)


def _variants(recipe: Recipe) -> tuple[str, ...]:
    return (MODEL, GENERAL, *recipe.multi_domain.ablations)


class _Scoring:
    """Scores requests by every variant; what all of them read of a prompt is computed once.

    Args:
        recipe: All was trained with.
        run: Its stages `build` and `tune` are finished.
        split: Of the run.
    """

    def __init__(self, recipe: Recipe, run: Run, split: Split) -> None:
        self._recipe, self._run, self._split = recipe, run, split
        folder = Path(tempfile.mkdtemp(prefix="tastemaker-states-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._states = KeptStates(recipe.multi_domain, folder)

    def by(self, variant: str) -> Callable[[Requests, Reporter], Scores]:
        """A function that scores requests by one of them."""
        return partial(self._score, MODEL if variant == GENERAL else variant, _SHOWN[variant][0])

    def _score(self, trained: str, shown: str, requests: Requests, report: Reporter) -> Scores:
        recipe, built = self._recipe, self._run.artefact("build")
        asked = prompts_of(built, requests, self._split)
        folder = self._run.artefact("tune") / trained
        model = load_prompt_ctr(recipe, folder, variant=trained)
        sequences = model.backbone.encode(asked.texts)
        store = self._states.store(model.backbone, sequences, part="test", report=report)
        with report.track(f"scoring by {shown}, prompts", len(asked)) as advance:
            return model.score(
                sequences,
                asked.domains,
                network=GENERAL if shown == _SHOWN[GENERAL][0] else None,
                store=store,
                batch_tokens=recipe.evaluate.batch_tokens,
                on_progress=advance,
            )
