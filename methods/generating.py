"""The generate stage: a tuned model answers the questions of the test part, and is judged.

Of each task a fixed template is asked, the unseen ones, and, where a validation sample is asked
for, the seen template that does best on it. Popularity, neighbours and means answer the same
questions. What a prompt tells of its own target (an *oracle*, as in InstructRec's search tasks) is
marked, and kept apart from recommendation in every table.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tastemaker.errors import RecipeError
from tastemaker.eval.answers import Draws, Result
from tastemaker.methods.answering import Answered, Answerer, result_of
from tastemaker.methods.base_models import NEW, load_model, load_whole
from tastemaker.methods.instructrec_grid import aspects
from tastemaker.methods.planning import weighted_templates
from tastemaker.methods.posing import Posed, Posing, answer_kind
from tastemaker.methods.rules import Rules
from tastemaker.methods.teaching import written_texts
from tastemaker.methods.tuning import tuned_folder
from tastemaker.models.adapters import base_identity
from tastemaker.models.language import LanguageModel, language_model_source
from tastemaker.prompts.template import Template, find_templates
from tastemaker.recipe import Recipe
from tastemaker.stage import Run, Stage, Workspace, atomic_file

__all__ = ["RESULTS", "check_generate", "generate_stage", "load_results"]

RESULTS = "results.json"
FIXED, BEST, UNSEEN, ASKED = "fixed", "best on validation", "unseen", "asked for"


@dataclass(frozen=True)
class _Wanted:
    template: Template
    role: str


def generate_stage(recipe: Recipe, *, taught: bool = False) -> Stage:
    """Stage `generate`: `results.json`, and what was answered in `answers/`.

    Args:
        recipe: Sections `build`, `tune` and `generate`.
        taught: Whether prompts show what the stage `teach` wrote.
    """
    taught = taught or "teach" in recipe.model_fields_set
    config = recipe.generate
    elsewhere = config.model
    draws = {"bootstrap": recipe.evaluate.bootstrap, "confidence": recipe.evaluate.confidence}
    return Stage(
        name="generate",
        needs=("data", *(("teach",) if taught else ()), "build", *(() if elsewhere else ("tune",))),
        run=lambda space: _generate(recipe, space, taught=taught),
        config={
            **config.model_dump(mode="json", exclude={"batch_tokens"}),
            **draws,
            **({"weights": base_identity(Path(elsewhere))} if elsewhere else {}),
        },
    )


def check_generate(recipe: Recipe) -> None:
    """Find what cannot be asked before anything is written.

    Raises:
        UserError: an unknown template, one whose answers nothing compares, or a list longer than
            the beams.
    """
    config = recipe.generate
    if config.k > config.beams:
        raise RecipeError(
            f"generate.k = {config.k} items cannot be found with generate.beams = {config.beams}.",
            allowed="as many beams as items, or more",
        )
    if config.model:
        language_model_source(config.model)
    for template in find_templates(config.templates):
        if answer_kind(template) is None or template.per != "interaction":
            raise RecipeError(
                f"generate.templates: the answers to '{template.name}' cannot be compared.",
                allowed="templates about interactions whose answer is an item, yes or no, a "
                "rating, or a text",
            )
    if not config.templates and not any(
        answer_kind(one) for one in weighted_templates(recipe.build)[0]
    ):
        raise RecipeError(
            "generate: the answers to none of build.templates can be compared.",
            remedy="Name others in build.templates or generate.templates.",
        )


def load_results(run: Run) -> list[Result]:
    """What the generate stage of a run found."""
    text = (run.artefact("generate") / RESULTS).read_text(encoding="utf-8")
    return [Result.from_dict(one) for one in json.loads(text)]


def _generate(recipe: Recipe, space: Workspace, *, taught: bool) -> Mapping[str, Any]:
    posing = Posing.of(
        space.run,
        recipe.build,
        seed=space.seed,
        written=written_texts(space.run) if taught else None,
    )
    draws = Draws(recipe.evaluate.bootstrap, recipe.evaluate.confidence, space.seed)
    rules = Rules(posing, recipe.generate, draws=draws)
    kept = _Kept(space.scratch / "answers")
    results: list[Result] = []
    (space.out / "answers").mkdir()
    named = dict(_models(recipe, space.run))
    load: Callable[..., LanguageModel] = load_whole if recipe.generate.model else load_model
    for name, folder in named.items():
        answerer = Answerer(
            posing,
            load(recipe.tune, folder),
            config=recipe.generate,
            tune=recipe.tune,
            draws=draws,
            report=space.report,
        )
        last = name == list(named)[-1]  # whose answers are kept, and compared with rules
        for wanted in _wanted(recipe, posing, answerer, kept=kept):
            key = f"{name}-{wanted.template.label}-{wanted.role}"
            if not kept.has(key):
                rounds = _asked(wanted, posing, answerer, recipe)
                kept.add(key, list(_judged(rounds, wanted, name, rules if last else None)))
            results.extend(kept.results(key))
            if last:
                kept.copy_answers(key, space.out / "answers")
    with atomic_file(space.out / RESULTS) as handle:
        handle.write(json.dumps([one.to_dict() for one in results], indent=1).encode())
    asked = len({(one.template, one.role) for one in results})
    return {"results": len(results), "line": f"{asked} template(s) asked, {len(results)} results"}


Round = tuple[Posed, Answered]


def _judged(
    rounds: Iterable[Round], wanted: _Wanted, model: str, rules: Rules | None
) -> Iterator[tuple[list[Result], pl.DataFrame]]:
    """Results of the model and of the rules, and what was answered, round by round."""
    for posed, answered in rounds:
        found = [result_of(answered, posed, role=wanted.role, model=model)]
        if rules is not None:
            found.extend(rules.results(posed, role=wanted.role, protocol=answered.protocol))
        yield found, answered.answers


class _Kept:
    """What has been answered, template by template, so that a killed stage asks nothing twice."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def has(self, key: str) -> bool:
        return self._file(key, ".json").is_file()

    def results(self, key: str) -> list[Result]:
        found = json.loads(self._file(key, ".json").read_text(encoding="utf-8"))
        return [Result.from_dict(one) for one in found]

    def add(self, key: str, rounds: Sequence[tuple[list[Result], pl.DataFrame]]) -> None:
        for number, (_, answers) in enumerate(rounds):
            with atomic_file(self._file(key, f"-{number}.parquet")) as handle:
                answers.write_parquet(handle)
        results = [one.to_dict() for found, _ in rounds for one in found]
        with atomic_file(self._file(key, ".json")) as handle:
            handle.write(json.dumps(results).encode())

    def copy_answers(self, key: str, folder: Path) -> None:
        for file in self._folder.glob(f"{_slug(key)}-*.parquet"):
            shutil.copyfile(file, folder / file.name)

    def choice(self, key: str, choose: Callable[[], str]) -> str:
        """A name that was chosen once."""
        file = self._file(key, ".txt")
        if not file.is_file():
            with atomic_file(file) as handle:
                handle.write(choose().encode())
        return file.read_text(encoding="utf-8")

    def _file(self, key: str, ending: str) -> Path:
        return self._folder / f"{_slug(key)}{ending}"


def _slug(key: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", key).strip("-")


def _asked(wanted: _Wanted, posing: Posing, answerer: Answerer, recipe: Recipe) -> Iterator[Round]:
    """Test questions of a template, and their answers; nothing where no row fits it."""
    examples = posing.chosen(wanted.template, "test", recipe.generate.examples)
    if len(examples):
        yield from _rounds(posing, posing.posed(wanted.template, examples), answerer, recipe)


def _rounds(posing: Posing, posed: Posed, answerer: Answerer, recipe: Recipe) -> Iterator[Round]:
    """The questions as their template asks them, and once more for each set of candidates."""
    sets = recipe.generate.candidates
    if answer_kind(posed.template) not in ("catalogue", "candidates"):
        sets = ()
    if not (sets and posed.template.offers):
        yield posed, answerer.answer(posed)
    for one in sets:
        offering = posing.offering(one.n, one.origin)
        if posed.template.offers:
            asked = offering.posed(posed.template, posed.examples)
        else:
            asked = replace(posed, offered=offering.candidates(posed.examples))
        yield asked, answerer.ranked(asked, origin=one.origin)


def _models(recipe: Recipe, run: Run) -> Iterator[tuple[str, Path | None]]:
    """Name → folder of what was tuned, None for the model as it was."""
    if recipe.generate.model:
        yield f"{Path(recipe.generate.model).name} tuned elsewhere", Path(recipe.generate.model)
        return
    name = Path(recipe.tune.model).name
    if recipe.generate.untuned and recipe.tune.model != NEW:
        yield f"{name} untuned", None
    yield f"{name} tuned", tuned_folder(run.artefact("tune"))


def _wanted(recipe: Recipe, posing: Posing, answerer: Answerer, *, kept: _Kept) -> list[_Wanted]:
    """Templates to ask, with the reason why."""
    config = recipe.generate
    if config.templates:
        return [_Wanted(template, ASKED) for template in find_templates(config.templates)]
    templates, _ = weighted_templates(recipe.build)
    usable = [one for one in templates if answer_kind(one) and one.per == "interaction"]
    found: list[_Wanted] = []
    for group in _groups(usable):
        seen = [one for one in group if one.seen]
        found += [_Wanted(one, FIXED) for one in seen[:1]]
        if config.valid_examples and len(seen) > 1:
            choose = partial(_best, seen, posing, answerer, config.valid_examples)
            best = kept.choice(f"best-{answerer.name}-{seen[0].label}", choose)
            found.append(_Wanted(next(one for one in seen if one.label == best), BEST))
        found += [_Wanted(one, UNSEEN) for one in group if not one.seen]
    return found


def _groups(templates: Sequence[Template]) -> list[list[Template]]:
    """Templates whose figures can be compared: same task, kind of answer, and aspects."""
    found: dict[tuple[Any, ...], list[Template]] = {}
    for one in templates:
        answer = tuple(sorted(one.fields("answer"))) if "answer" in one.sections else ()
        key = (one.task, answer_kind(one), answer, aspects(one).oracle)
        found.setdefault(key, []).append(one)
    return list(found.values())


def _best(templates: Sequence[Template], posing: Posing, answerer: Answerer, count: int) -> str:
    """Label of the template that does best on a validation sample; the first of equals."""
    scores = []
    for template in templates:
        posed = posing.posed(template, posing.chosen(template, "valid", count))
        answered = answerer.answer(posed, briefly=True) if len(posed) else None
        scores.append(-np.inf if answered is None else answered.score)
    return templates[int(np.argmax(scores))].label
