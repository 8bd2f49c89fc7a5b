"""What Uni-CTR refuses: one message, exit code 2, and nothing half-written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tastemaker.recipe import Recipe

Call = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(
    domain_recipe: Callable[..., Recipe], t5_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """`mine.yaml`, the world's recipe; `t5`, a model of another kind; `empty`, none."""
    place = tmp_path_factory.mktemp("refused")
    values = domain_recipe().model_dump(mode="json", exclude_unset=True)
    (place / "mine.yaml").write_text(yaml.safe_dump(values))
    (place / "t5").symlink_to(t5_folder)
    (place / "empty").mkdir()
    return place


def refused(tastemaker: Call, folder: Path, *overrides: str) -> str:
    """The message of a run that stops; it is one, without a traceback."""
    options = [word for override in overrides for word in ("--set", override)]
    found = tastemaker("run", "mine.yaml", *options, cwd=folder)
    assert found.returncode == 2, found.stderr
    assert "Traceback" not in found.stderr
    assert found.stderr.count("error: ") == 1
    return " ".join(found.stderr.split())


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["data.columns.domain=null"], ["uni_ctr needs domains", "data.columns.domain", "groups"]),
        (["data={source: movielens-small}"], ["uni_ctr needs domains, and the data has none"]),
        (["multi_domain.added=[Music, Toys]"], ["Music is both unseen and added"]),
        (
            [
                "data.columns.domain=null",
                "data.domains={column: kind, groups: [Music, Toys, Games]}",
                "multi_domain.unseen=Musik",
            ],
            ["unknown domain 'Musik'", "did you mean 'Music'?"],
        ),
        (
            ["data.columns.domain=null", "data.domains={column: kind, groups: [Music, Toys]}"],
            ["every domain is unseen or added", "Music, Toys"],
        ),
        (["multi_domain.ablations=[no_lader]"], ["multi_domain.ablations", "no_ladders"]),
        (["multi_domain.laddrs=2"], ["multi_domain.laddrs"]),
        (
            ["methods=[tallrec]", "build.templates=tallrec/item"],
            ["tune.kind frozen trains nothing", "lora, qlora or full", "uni_ctr"],
        ),
        (["tune.kind=qlora"], ["tune.kind qlora", "frozen, lora or full"]),
        (["tune.kind=lora", "tune.lora.layers=4"], ["tune.lora.layers = 4", "has 3 layers"]),
        (["tune.model=t5"], ["t5", "sequence-to-sequence model", "encoders such as BERT"]),
        (["tune.model=empty"], ["empty holds no model", "config.json"]),
        (["tune.model=nowhere/at-all"], ["nowhere/at-all"]),
        (["tune.adapter=empty"], ["tune.adapter is about", "Remove tune.adapter"]),
        (["tune.rows=packed"], ["tune.rows is about", "uni_ctr reads its states"]),
        (["train.backbone=[mmo]"], ["unknown backbone 'mmo'", "did you mean 'mmoe'?"]),
        (["train.options={bottum: [8]}"], ["option of train.backbone", "'bottum'"]),
        (["train.search={}"], ["are not searched", "Remove train.ablations and train.search"]),
        (["multi_domain.heads=3"], ["multi_domain.heads = 3", "does not divide", "8"]),
        (["multi_domain.every=4"], ["multi_domain.every = 4", "the model has 3", "1 to 3"]),
        (["build.format=openai"], ["which row a prompt is of", "openai"]),
        (["build.templates=p5/2-1"], ["'p5/2-1' does not ask that", "uni_ctr/full"]),
        (["build.negatives=1"], ["build.negatives = 1", "data.negatives"]),
        (["multi_domain.removed=[Toys]"], ["multi_domain.removed", "multi_domain.start"]),
        (["multi_domain.start=empty"], ["empty", "holds no domain networks", "RUN/tune/model"]),
        (["evaluate.against=Uni-CTRR"], ["did you mean 'Uni-CTR'?"]),
    ],
)
def test_before_anything_is_written(
    tastemaker: Call, folder: Path, overrides: list[str], parts: list[str]
) -> None:
    told = refused(tastemaker, folder, *overrides)
    for part in parts:
        assert part in told
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["multi_domain.unseen=Musik"], ["unknown domain 'Musik'", "did you mean 'Music'?"]),
        (["multi_domain.added=[Toys, Garden]"], ["unknown domain 'Garden'", "Books, Games, Music"]),
        (
            ["multi_domain.unseen=[Books, Games, Tools, Music]"],
            ["every domain is unseen or added", "Books, Games, Music, Tools, Toys"],
        ),
        (["tune.shots=3"], ["has no training prompt", "multi_domain.unseen", "tune.shots"]),
        (
            ["tune.valid_shots=1"],
            ["the domains Books, Games, Tools do not hold both likes and dislikes"],
        ),
    ],
)
def test_once_the_data_tells(
    tastemaker: Call, folder: Path, overrides: list[str], parts: list[str]
) -> None:
    told = refused(tastemaker, folder, "name=late", *overrides)
    for part in parts:
        assert part in told
    finished = {path.parent.name for path in (folder / "runs" / "late").glob("*/manifest.json")}
    assert finished == {"data", "build"}
    assert not (folder / "runs" / "late" / "tune").exists()
