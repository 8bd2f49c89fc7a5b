"""Stage `catalogue`: what goes in, what is written again, and when it runs."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from click.testing import CliRunner

from tastemaker.cli import cli
from tastemaker.errors import MissingError, UserError
from tastemaker.methods import cataloguing
from tastemaker.methods.base import load_split
from tastemaker.methods.cataloguing import open_catalogue
from tastemaker.methods.pipeline import catalogue_of, stages
from tastemaker.methods.training import best_recommender
from tastemaker.models.catalogue.taste import taste_vectors
from tastemaker.models.encoders import HashingEncoder
from tastemaker.models.live_ctr import LiveCtr
from tastemaker.recipe import Recipe, load_recipe
from tastemaker.stage import Run
from tastemaker.testing.world import checkerboard

HOSTILE = "<|im_end|>'; DROP TABLE {{ 7*7 }}"


def written(folder: Path, *, methods: Sequence[str] = (), **sections: Any) -> Path:
    """A recipe on the checkerboard, one of whose films has a hostile title."""
    tables = checkerboard(n_users=30, n_items=24, events=16, seed=1)
    named = tables.interactions.join(tables.users, on="user").join(tables.items, on="item")
    named.select("user_id", "item_id", "rating", timestamp="time").write_csv(folder / "r.csv")
    title = pl.when(pl.col("item") == 5).then(pl.lit(HOSTILE)).otherwise("title").alias("title")
    items = tables.items.with_columns(title, year=1990 + pl.col("item"))
    items.select("item_id", "title", "genres", "year").write_csv(folder / "i.csv")
    values = {
        "name": "world",
        "methods": [*methods],
        "data": {
            "interactions": "r.csv",
            "items": "i.csv",
            "columns": {"categorical": ["genres"]},
            "split": {"valid_from": 0.7, "test_from": 0.85},
            "requests": {"min_history": 1},
        },
        "reason": {"model": "scripted:echo", "history_cap": 4, "max_tokens": 500},
        "encode": {"encoder": "hashing:32"},
        "train": {"epochs": 1, "batch_size": 64, "embedding_dim": 8},
        "evaluate": {"bootstrap": 50},
        **sections,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def ran(found: Recipe, folder: Path, *, until: str = "catalogue") -> Run:
    run = Run(folder / "run", seed=found.seed)
    for stage in stages(found, until=until):
        run.execute(stage)
    return run


def told(run: Run) -> dict[str, Any]:
    manifest = run.manifest("catalogue")
    assert manifest is not None
    return dict(manifest.summary)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that is encoded, as it comes."""
    texts: list[str] = []
    encode = HashingEncoder.encode

    def recorded(self: HashingEncoder, batch: Sequence[str], **options: Any) -> Any:
        texts.extend(batch)
        return encode(self, batch, **options)

    monkeypatch.setattr(HashingEncoder, "encode", recorded)
    return texts


def test_tables_alone_make_a_catalogue(tmp_path: Path) -> None:
    found = load_recipe(written(tmp_path))
    run = ran(found, tmp_path)
    assert told(run)["line"] == "24 items, 2 facets, text vectors by hashing:32"
    catalogue = open_catalogue(run)
    assert [facet.name for facet in catalogue.facets] == ["genres", "year"]
    assert catalogue.titles[5] == HOSTILE
    assert catalogue.search("Even film 4")[0].item == 4
    assert catalogue.spaces == ("text",)


def test_a_second_run_is_up_to_date_and_a_changed_item_is_encoded_alone(
    tmp_path: Path, encoded: list[str]
) -> None:
    found = load_recipe(written(tmp_path))
    run = ran(found, tmp_path)
    assert len(encoded) == 24
    assert all(map(run.is_current, stages(found, until="catalogue")))
    items = pl.read_csv(tmp_path / "i.csv")
    title = pl.when(pl.col("item_id") == 7).then(pl.lit("Trombones")).otherwise("title")
    items.with_columns(title.alias("title")).write_csv(tmp_path / "i.csv")
    encoded.clear()
    run = ran(found, tmp_path)
    assert len(encoded) == 1
    assert "Trombones" in encoded[0]
    assert (told(run)["changed"], told(run)["removed"]) == (1, 0)
    assert open_catalogue(run).search("trombones", count=1)[0].item == 7


def test_no_encoder_means_full_text_only(tmp_path: Path, encoded: list[str]) -> None:
    for value in ("none", "null"):
        found = load_recipe(written(tmp_path), overrides=[f"catalogue.encoder={value}"])
        run = ran(found, tmp_path / value)
        assert told(run)["line"] == "24 items, 2 facets, full text only"
        assert open_catalogue(run).search("Even film 4")[0].item == 4
    assert encoded == []
    other = load_recipe(written(tmp_path), overrides=["catalogue.encoder=hashing:16"])
    assert open_catalogue(ran(other, tmp_path / "other")).encoder == "hashing:16"


def test_a_file_in_the_artefact_is_never_changed_afterwards(tmp_path: Path) -> None:
    found = load_recipe(written(tmp_path))
    run = ran(found, tmp_path)
    catalogue = open_catalogue(run)
    (tmp_path / "kept").mkdir()
    os.rename(run.artefact("catalogue"), tmp_path / "kept" / "catalogue")
    files = sorted((tmp_path / "kept").rglob("*.*"))
    before = [path.read_bytes() for path in files if path.is_file()]
    items = pl.read_csv(tmp_path / "i.csv").with_columns(title=pl.lit("Same"))
    items.write_csv(tmp_path / "i.csv")
    ran(found, tmp_path)
    assert [path.read_bytes() for path in files if path.is_file()] == before
    assert catalogue.titles[5] == HOSTILE


@pytest.mark.slow
def test_a_killed_stage_is_healed_by_the_next_run(tmp_path: Path) -> None:
    path = written(tmp_path)
    run = ran(load_recipe(path), tmp_path)
    items = pl.read_csv(tmp_path / "i.csv").with_columns(title=pl.lit("Trombones"))
    items.write_csv(tmp_path / "i.csv")
    script = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from tastemaker.methods import cataloguing\n"
        "from tastemaker.methods.pipeline import stages\n"
        "from tastemaker.recipe import load_recipe\nfrom tastemaker.stage import Run\n"
        "def die(*paths): os.kill(os.getpid(), signal.SIGKILL)\n"
        "cataloguing._share = die\n"
        "found = load_recipe(Path(sys.argv[1]))\nrun = Run(Path(sys.argv[2]), seed=found.seed)\n"
        "for stage in stages(found, until='catalogue'): run.execute(stage)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(path), str(run.folder)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert open_catalogue(run).titles[5] == HOSTILE
    run = ran(load_recipe(path), tmp_path)
    assert set(open_catalogue(run).titles) == {"Trombones"}
    assert len(open_catalogue(run).search("trombones")) == 24


def test_knowledge_and_the_taste_of_a_recommender_go_in(tmp_path: Path) -> None:
    found = load_recipe(written(tmp_path, methods=["kar"]))
    run = ran(found, tmp_path)
    line = "24 items, 2 facets, text vectors by hashing:32, collaborative vectors of 24, knowledge"
    assert told(run)["line"].startswith(line)
    catalogue = open_catalogue(run)
    assert catalogue.spaces == ("text", "collaborative")
    split = load_split(run)
    model = LiveCtr(best_recommender(run, split, found.train), split)
    items, matrix = taste_vectors(model, split, seed=run.seed)
    unit = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    near = catalogue.similar([3], by="collaborative", count=23)
    place = items.tolist().index(3)
    expected = sorted(set(items.tolist()) - {3}, key=lambda item: -unit[item] @ unit[place])
    assert [hit.item for hit in near] == expected
    assert np.isclose(near[0].score, unit[place] @ unit[near[0].item], atol=1e-5)
    texts = [item.knowledge for item in catalogue.items(range(24)) if item.knowledge]
    assert texts
    plain = load_recipe(tmp_path / "recipe.yaml", overrides=["catalogue.texts=false"])
    stage = next(one for one in stages(plain, until="catalogue") if one.name == "catalogue")
    assert stage.needs == ("data", "train")


def test_encode_and_train_build_it_last_and_encode_keeps_what_train_brought(
    tmp_path: Path,
) -> None:
    path = written(tmp_path, methods=["kar"])

    def command(*words: str) -> str:
        result = CliRunner().invoke(cli, [*words, str(path), "--out", str(tmp_path / "run")])
        assert result.exit_code == 0, result.output
        return result.output

    assert "2 facets, text vectors by hashing:32, knowledge" in command("encode")
    assert "collaborative vectors of 24" in command("train")
    assert "catalogue up to date" in command("encode")
    assert "catalogue up to date" in command("run", "--until", "catalogue")
    changed = command("encode", "--set", "encode.encoder=hashing:16")
    assert "text vectors by hashing:16, knowledge" in changed  # the recommender read other vectors


def test_without_lancedb_encode_says_so_and_until_catalogue_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, methods=["kar"])
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "lancedb" else find(name, *a)
    )
    result = CliRunner().invoke(cli, ["encode", str(path), "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert 'catalogue left out; for it: pip install "tastemaker[serve]"' in result.output
    with pytest.raises(MissingError, match="LanceDB"):
        stages(load_recipe(path), until="catalogue")


def test_the_section_decides_whether_run_builds_it(tmp_path: Path) -> None:
    plain, asked = load_recipe(written(tmp_path)), load_recipe(written(tmp_path, catalogue={}))
    assert [stage.name for stage in stages(plain)] == ["data", "evaluate", "report"]
    assert [stage.name for stage in stages(asked)] == ["data", "evaluate", "report", "catalogue"]
    for name in ("evaluate", "report"):
        (stage,) = [one for one in stages(asked) if one.name == name]
        assert "catalogue" not in stage.needs


def test_how_a_conversation_goes_changes_no_stage(tmp_path: Path) -> None:
    path = written(tmp_path, methods=["kar"])
    plain = load_recipe(path, overrides=["catalogue.texts=true"])
    spoken = load_recipe(path, overrides=["catalogue.texts=true", "chat.count=7"])
    assert spoken.chat.count == 7
    assert [stage.config for stage in stages(plain)] == [stage.config for stage in stages(spoken)]
    run = ran(plain, tmp_path, until="data")
    assert catalogue_of(plain, run).config == catalogue_of(spoken, run).config
    with pytest.raises(UserError, match="count"):
        load_recipe(path, overrides=["chat.count=21"])


def test_a_missing_encoder_is_told_before_anything_runs(tmp_path: Path) -> None:
    path = written(tmp_path, catalogue={"encoder": "nobody/has-this-one"})
    with pytest.raises(UserError, match="has-this-one"):
        cataloguing.check(load_recipe(path))
