from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click.testing
import pytest
import yaml

from tastemaker.commands.init import command
from tastemaker.errors import UserError
from tastemaker.eval.protocol import requests
from tastemaker.methods.prepare import check, prepared
from tastemaker.methods.starting import found_lines, start, write_recipe
from tastemaker.recipe import Recipe, load_recipe
from tastemaker.registry import package_root

START = 1_500_000_000
ROWS = 1200
USERS, ITEMS = 20, 30


def numbers() -> list[tuple[int, int, int, int]]:
    """User, item, rating from 1 to 5, second."""
    return [
        (row % USERS, row // USERS % ITEMS, 1 + row * 7 % 5, START + 60 * row)
        for row in range(ROWS)
    ]


def movielens(folder: Path) -> dict[str, Path]:
    lines = [f"{user},{item},{stars},{time}" for user, item, stars, time in numbers()]
    films = [f'{item},"Film {item}, part one",Drama|War' for item in range(ITEMS)]
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + "\n".join(lines))
    (folder / "movies.csv").write_text("movieId,title,genres\n" + "\n".join(films))
    return {"interactions": folder / "ratings.csv", "items": folder / "movies.csv"}


def amazon(folder: Path) -> dict[str, Path]:
    with (folder / "reviews.jsonl").open("w") as handle:
        for user, item, stars, time in numbers():
            row = {"user_id": f"U{user}", "parent_asin": f"B{item}", "asin": f"B{item}"}
            row |= {
                "rating": float(stars),
                "timestamp": 1000 * time,
                "text": "It works.",
                "images": [],
            }
            handle.write(json.dumps(row) + "\n")
    with gzip.open(folder / "meta.jsonl.gz", "wt") as packed:
        for item in range(ITEMS):
            row = {"parent_asin": f"B{item}", "title": f"Thing {item}", "average_rating": 4.5}
            row |= {"categories": ["A", "B"][: 1 + item % 2], "details": {"x": item}}
            packed.write(json.dumps(row | {"main_category": ["Books", "Toys"][item % 2]}) + "\n")
    return {"interactions": folder / "reviews.jsonl", "items": folder / "meta.jsonl.gz"}


def clicks(folder: Path) -> dict[str, Path]:
    lines = []
    for user, item, _, time in numbers():
        moment = datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds")
        lines.append(f"s{user};a{item + user};{moment}")
    (folder / "clicks.csv").write_text("session_id;article_id;event_time\n" + "\n".join(lines))
    return {"interactions": folder / "clicks.csv"}


def recbole(folder: Path) -> dict[str, Path]:
    lines = [f"{user}\t{item}\t{2 * stars}\t{time}" for user, item, stars, time in numbers()]
    (folder / "ml.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + "\n".join(lines)
    )
    (folder / "ml.item").write_text(
        "item_id:token\tmovie_title:token_seq\tclass:token_seq\n"
        + "\n".join(f"{item}\tFilm {item}\tDrama War" for item in range(ITEMS))
    )
    (folder / "ml.user").write_text(
        "user_id:token\tage:token\tgender:token\n"
        + "\n".join(f"{user}\t{20 + user}\t{'FM'[user % 2]}" for user in range(USERS))
    )
    return {
        "interactions": folder / "ml.inter",
        "items": folder / "ml.item",
        "users": folder / "ml.user",
    }


def untimed(folder: Path) -> dict[str, Path]:
    lines = [f"c{user},p{item + user}" for user, item, *_ in numbers()]
    (folder / "orders.csv").write_text("customer,product\n" + "\n".join(lines))
    return {"interactions": folder / "orders.csv"}


def damaged(folder: Path) -> dict[str, Path]:
    """Unknown films, a repeated row, and names that YAML and comments stumble over."""
    paths = movielens(folder)
    text = paths["interactions"].read_text().replace("rating", '"rating: #1, [x]"', 1)
    first = text.splitlines()[1]
    paths["interactions"].write_text(f"{text}\n{first}\n3,99,5,{START + 5}\n")
    films = paths["items"].read_text().replace("genres", "genres # {%", 1)
    paths["items"].write_text(films)
    return paths


Shape = Callable[[Path], dict[str, Path]]


@pytest.mark.parametrize("shape", [movielens, amazon, clicks, recbole, untimed, damaged])
def test_what_is_written_runs(shape: Shape, tmp_path: Path) -> None:
    path, found = start(tmp_path / "mine", **shape(tmp_path))
    recipe = load_recipe(path)
    check(recipe)
    split, _ = prepared(recipe.data, seed=recipe.seed)
    for part in ("valid", "test"):
        asked = requests(
            split,
            part,
            min_history=recipe.data.requests.min_history,
            per_user=recipe.data.requests.per_user,
        )
        assert len(asked) >= 20
        assert set(asked.labels) == {0, 1}
    assert (split.histories.counts(split.train) >= recipe.build.history).sum() >= 64
    text = path.read_text(encoding="utf-8")
    assert text.isprintable() or set(filter(lambda one: not one.isprintable(), text)) == {"\n"}
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("# unsure:") >= len(found.unsure)
    assert max(len(line) for line in found_lines(found)) <= 80


def test_the_recipe_is_as_said(tmp_path: Path) -> None:
    path, _ = start(tmp_path / "my films", **movielens(tmp_path))
    text = path.read_text(encoding="utf-8")
    written = yaml.safe_load(text)
    assert written["name"] == "my-films"
    assert written["data"]["interactions"] == "../ratings.csv"
    assert written["data"]["split"] == {"name": "global_time", "valid_from": 0.8, "test_from": 0.9}
    assert "unsure:" not in text
    quickstart = package_root() / "examples" / "quickstart.yaml"
    packaged = yaml.safe_load(quickstart.read_text(encoding="utf-8"))
    assert set(packaged) <= set(written)
    recipe = Recipe.model_validate(written)
    assert recipe.tune == Recipe.model_validate(packaged).tune


def test_other_goods_are_asked_about_in_words_that_fit(tmp_path: Path) -> None:
    path, _ = start(tmp_path / "mine", **amazon(tmp_path))
    text = path.read_text(encoding="utf-8")
    written = yaml.safe_load(text)
    assert written["build"]["templates"] == "tallrec/item"
    assert written["reason"]["item_template"] == "kar/item_items"
    films, _ = start(tmp_path / "films", **movielens(tmp_path))
    assert "templates: tallrec/movie " in films.read_text(encoding="utf-8")
    assert "# left out, items: average_rating" in text


def test_separators_are_found(tmp_path: Path) -> None:
    path, found = start(tmp_path / "mine", **clicks(tmp_path))
    entry = yaml.safe_load(path.read_text(encoding="utf-8"))["data"]["interactions"]
    assert entry == {"path": "../clicks.csv", "separator": ";"}
    assert found.rows == {"interactions": ROWS}


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    tables = movielens(tmp_path)
    path, found = start(tmp_path / "mine", **tables)
    path.write_text("mine")
    with pytest.raises(UserError, match=r"is there already[\s\S]*--force"):
        start(tmp_path / "mine", **tables)
    with pytest.raises(UserError, match="--force"):
        write_recipe(tmp_path / "mine", found, name="mine")
    assert path.read_text() == "mine"
    start(tmp_path / "mine", **tables, force=True)
    assert load_recipe(path).name == "mine"
    assert [file.name for file in path.parent.iterdir()] == ["recipe.yaml"]
    with pytest.raises(UserError, match="is a file"):
        start(path, **tables)


def test_a_guess_knows_its_own_files(tmp_path: Path) -> None:
    _, found = start(tmp_path / "mine", **movielens(tmp_path))
    path = write_recipe(tmp_path / "deep" / "er", found, name="again")
    data = load_recipe(path).data
    assert data.items is not None
    assert Path(str(data.items.path)).resolve() == (tmp_path / "movies.csv").resolve()


def test_shards(tmp_path: Path) -> None:
    tables = movielens(tmp_path)
    lines = tables["interactions"].read_text().splitlines()
    for part in range(2):
        rows = [lines[0], *lines[1 + part :: 2]]
        (tmp_path / f"part-{part}.csv").write_text("\n".join(rows))
    path, found = start(tmp_path / "mine", interactions=tmp_path / "part-*.csv")
    assert found.rows["interactions"] == ROWS
    recipe = load_recipe(path)
    assert yaml.safe_load(path.read_text())["data"]["interactions"] == "../part-*.csv"
    split, _ = prepared(recipe.data, seed=1)
    assert split.tables.interactions.height == ROWS


def test_the_command(tmp_path: Path) -> None:
    tables = movielens(tmp_path)
    called = [str(tmp_path / "mine"), "--interactions", str(tables["interactions"])]
    runner = click.testing.CliRunner()
    printed = runner.invoke(command, [*called, "--rating", "rating"])
    assert printed.exit_code == 0, printed.output
    for part in (
        "ratings.csv",
        "1,200 rows",
        "userId",
        "1. ",
        "tastemaker data validate",
        "--items",
    ):
        assert part in printed.output
    again = runner.invoke(command, called)
    assert isinstance(again.exception, UserError)
    (tmp_path / "odd.csv").write_text("alpha,beta\n1,2\n")
    odd = runner.invoke(command, [str(tmp_path / "b"), "--interactions", str(tmp_path / "odd.csv")])
    assert isinstance(odd.exception, UserError)
    assert "alpha, beta" in str(odd.exception)
    assert not (tmp_path / "b").exists()
