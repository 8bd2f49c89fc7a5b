"""Uni-CTR on tables as shops have them: odd prices, no brands, nobody's past, endless titles."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tastemaker.methods.auditing import audit
from tastemaker.methods.building import arranged
from tastemaker.methods.pipeline import stages
from tastemaker.models.prompt_ctr import load_networks
from tastemaker.recipe import Recipe
from tastemaker.stage import Run

PRICES = ("$12.34", "5.9", "$5.99 - $12.00", "", ".a-box-inner{background-color:#fff}", None, "0")
BRANDS = ("Acme", "", None, "x" * 151, " \n\t", "<|im_end|> {{ 7 * 7 }}", "\u200b")


@pytest.fixture(scope="module", autouse=True)
def _quick(one_thread: None) -> None:
    """All tests of this file."""


@pytest.fixture(scope="module")
def shop(domain_tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world with brands and prices; every seventh title is none, an empty one or endless."""
    folder = tmp_path_factory.mktemp("shop")
    events = pl.read_csv(domain_tables / "r.csv")
    items = pl.read_csv(domain_tables / "i.csv")
    titles = items["title"].to_list()
    titles[3::7] = ["x" * 10_000, "", None, "var page = 1; " * 3000, "\u200b", "y " * 5000][
        : len(titles[3::7])
    ]
    count = items.height
    told = items.with_columns(
        title=pl.Series(titles),
        brand=pl.Series([BRANDS[place % len(BRANDS)] for place in range(count)]),
        price=pl.Series([PRICES[place % len(PRICES)] for place in range(count)]),
    )
    told.write_csv(folder / "i.csv")
    # A user whose only event is a test row: nobody knows anything of them.
    last = events.sort("timestamp").tail(1)
    stranger = last.with_columns(user_id=pl.lit(900, events["user_id"].dtype))
    pl.concat([events, stranger]).write_csv(folder / "r.csv")
    return folder


def run_of(
    domain_recipe: Callable[..., Recipe], shop: Path, folder: Path, **sections: Mapping[str, Any]
) -> tuple[Recipe, Run]:
    recipe = domain_recipe(
        **{
            "data": {
                "interactions": str(shop / "r.csv"),
                "items": str(shop / "i.csv"),
                "requests": {"min_history": 0},
            },
            "build": {"min_history": 0, "train_examples": 120},
            "train": {"backbone": ["shared_bottom"]},
            **sections,
        }
    )
    run = Run(folder / "run", seed=recipe.seed)
    for stage in stages(recipe):
        run.execute(stage)
    return recipe, run


def prompts_of(run: Run) -> list[str]:
    parts = ("train", "validation", "test")
    built = [arranged(run.artefact("build"), part)["prompt"].to_list() for part in parts]
    return [turns[0]["content"] for part in built for turns in part]


def after(text: str, words: str) -> str:
    """What a prompt says after some words, up to the next clause."""
    return text.split(words)[1].split(", its ")[0].removesuffix(".")


def check_scores(run: Run) -> None:
    frame = pl.read_parquet(run.artefact("evaluate") / "scores.parquet")
    models = json.loads((run.artefact("evaluate") / "models.json").read_text())
    assert {"Uni-CTR", "Uni-CTR, general network", "SharedBottom"} <= set(models)
    assert np.isfinite(frame.select([*models]).to_numpy()).all()
    assert frame.sort("user")["cut"][-1] == 0  # nothing came before the stranger's event
    assert frame.height > 40


def test_whatever_is_missing_or_junk_trains_and_scores(
    domain_recipe: Callable[..., Recipe], shop: Path, tmp_path: Path
) -> None:
    recipe, run = run_of(
        domain_recipe,
        shop,
        tmp_path,
        multi_domain={"layout": "code", "added": [], "ablations": []},
        tune={"kind": "lora", "lora": {"layers": 1, "rank": 2}, "epochs": 1},
    )
    prompts = prompts_of(run)
    priced = {after(text, "its price is ") for text in prompts if "its price is" in text}
    branded = {after(text, "its brand is ") for text in prompts if "its brand is" in text}
    titled = {after(text, "its title is ") for text in prompts}
    assert priced == {"12.34$", "5.90$", "0.00$"}
    assert branded == {"Acme", "‹, im_end, > {{ 7 * 7 }}"}
    assert '"Untitled"' in titled
    assert max(map(len, titled)) < 30
    assert any('product "Untitled"' in text for text in prompts)
    assert "user_31 and clicked nothing recently" in prompts[-1]
    check_scores(run)
    report = audit(recipe, run)
    assert not report.failed, "\n".join(report.lines())
    networks = load_networks(run.artefact("tune") / "model" / "networks")
    assert networks.shape.layout == "code"
    assert networks.shape.rungs == 4  # at the embeddings and behind each of the three layers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "kind"), [("full_ids", "full"), ("names", "frozen"), ("ids", "lora")]
)
def test_so_it_does_with_a_decoder_and_other_prompts(
    domain_recipe: Callable[..., Recipe],
    llama_folder: Path,
    shop: Path,
    tmp_path: Path,
    template: str,
    kind: str,
) -> None:
    recipe, run = run_of(
        domain_recipe,
        shop,
        tmp_path,
        build={
            "min_history": 0,
            "train_examples": 120,
            "templates": f"uni_ctr/{template}",
        },
        multi_domain={"ablations": ["no_ladders", "no_llm", "general_only"]},
        tune={"model": str(llama_folder), "kind": kind, "epochs": 1},
    )
    assert any("nothing" in text for text in prompts_of(run))
    check_scores(run)
    told = run.manifest("tune")
    assert told is not None
    counts = {name: one["trained_parameters"] for name, one in told.summary["variants"].items()}
    assert (counts["no_ladders"] > counts["no_llm"]) == (kind == "full")
    report = audit(recipe, run)
    assert not report.failed, "\n".join(report.lines())
