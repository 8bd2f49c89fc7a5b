"""Score requests by how likely a tuned model finds the item as its answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tastemaker.eval.protocol import Requests
from tastemaker.methods.base import Contender
from tastemaker.methods.base_models import load_model
from tastemaker.methods.instructrec_grid import aspects
from tastemaker.methods.planning import weighted_templates
from tastemaker.methods.posing import Posing, answer_kind
from tastemaker.methods.teaching import written_texts
from tastemaker.methods.tuning import tuned_folder
from tastemaker.models.candidates import candidate_scores
from tastemaker.models.language import LanguageModel
from tastemaker.prompts.examples import Examples
from tastemaker.prompts.template import Template
from tastemaker.recipe import Recipe
from tastemaker.stage import Reporter, Run

__all__ = ["item_likelihoods", "likelihood_contenders", "scoring_template"]


def scoring_template(recipe: Recipe) -> Template | None:
    """The first seen template that is answered by an item of the whole catalogue.

    Templates that tell of the target's wish (oracles) never score.
    """
    templates, _ = weighted_templates(recipe.build)
    for template in templates:
        recommends = template.seen and not aspects(template).oracle
        if recommends and answer_kind(template) == "catalogue":
            return template
    return None


def likelihood_contenders(
    name: str, recipe: Recipe, run: Run, *, needs: Sequence[str]
) -> tuple[Contender, ...]:
    """The tuned model as an entry in the comparison; none where no template can score.

    Args:
        name: As shown in the table.
        recipe: Its templates and model.
        run: Finished up to `tune`.
        needs: Stages that scores depend on.
    """
    template = scoring_template(recipe)
    if template is None:
        return ()

    def score(requests: Requests, report: Reporter) -> NDArray[np.float32]:
        model = load_model(recipe.tune, tuned_folder(run.artefact("tune")))
        return item_likelihoods(model, recipe, run, requests, report=report)

    return (
        Contender(
            name,
            f"Log-likelihood of the item as the answer to {template.label}.",
            {
                **{stage: run.digest_of(stage) for stage in needs},
                "length_normalised": recipe.generate.length_normalised,
            },
            score,
            slow=True,
        ),
    )


def item_likelihoods(
    model: LanguageModel, recipe: Recipe, run: Run, requests: Requests, *, report: Reporter
) -> NDArray[np.float32]:
    """Log-probability of each requested item's name, float32 [n].

    Args:
        model: Tuned.
        recipe: Its template is `scoring_template`.
        run: Its stages `data` and `build` are finished.
        requests: Whose rows are events.
        report: Told about progress.
    """
    template = scoring_template(recipe)
    assert template is not None
    written = written_texts(run) if run.manifest("teach") else None
    posing = Posing.of(run, recipe.build, seed=run.seed, written=written)
    examples = Examples.of_rows(posing.split.tables, requests.rows)
    names = posing.names(template)
    with report.track("scoring, items", len(requests)) as advance:
        found = candidate_scores(
            model,
            posing.asked(template, examples),
            [[names[item]] for item in requests.items],
            per_token=recipe.generate.length_normalised,
            batch_tokens=recipe.evaluate.batch_tokens,
            on_progress=advance,
        )
    return np.concatenate(found).astype(np.float32)
