from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tastemaker.errors import UnknownNameError, UserError
from tastemaker.models.language import language_model_folder
from tastemaker.prompts.formats import (
    PROVENANCE,
    dataset_info,
    find_format,
    format_names,
    load_patterns,
    read_shards,
    write_format,
    write_shard,
)

FORMS = [
    (name, pairs)
    for name in ("trl", "trl-text", "messages", "alpaca", "sharegpt", "openai")
    for pairs in (False, True)
    if (name, pairs) != ("messages", True)
]
TRL_COLUMNS = {"prompt", "completion", "chosen", "rejected", "messages"}

each_form = pytest.mark.parametrize(("name", "pairs"), FORMS)


def canonical(rows: list[dict[str, Any]], *, pairs: bool, text_ids: bool = False) -> pl.DataFrame:
    ids = pl.String() if text_ids else pl.Int64()
    types: dict[str, pl.DataType] = dict.fromkeys(("system", "prompt", "completion"), pl.String())
    if pairs:
        types["rejected"] = pl.String()
    types |= {"template": pl.String(), "user_id": ids, "item_id": ids, "label": pl.Int8()}
    types |= {"timestamp": pl.Int64(), "domain": pl.String(), "split": pl.String()}
    return pl.DataFrame(rows, schema=types | {"row": pl.Int64(), "candidates": pl.List(ids)})


def row(number: int, **given: Any) -> dict[str, Any]:
    return {
        "system": "Be brief." if number % 2 else "",
        "prompt": f"History: Film {number}\nWill it please?",
        "completion": "Yes.",
        "rejected": "No.",
        "template": "world/plain",
        "user_id": number,
        "item_id": number + 100,
        "label": 1,
        "timestamp": 1_700_000_000 + number,
        "domain": "",
        "split": "train",
        "row": number,
        "candidates": [number, number + 1],
    } | given


def some(count: int, *, pairs: bool, start: int = 0, **given: Any) -> pl.DataFrame:
    return canonical([row(start + number, **given) for number in range(count)], pairs=pairs)


def kept(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    """What a format gives back of a canonical frame."""
    if name == "trl-text":
        system = pl.col("system")
        above = pl.when(system == "").then(system).otherwise(system + "\n\n")
        frame = frame.with_columns(prompt=above + pl.col("prompt"), system=pl.lit(""))
    return frame.drop(PROVENANCE) if name == "openai" else frame


def save(folder: Path, name: str, parts: dict[str, list[pl.DataFrame]]) -> Path:
    """A data set with a card; each part given as its shards."""
    suffix = find_format(name).suffix
    for part, shards in parts.items():
        for number, frame in enumerate(shards):
            file = f"{part}-{number:05d}-of-{len(shards):05d}.{suffix}"
            write_shard(frame, folder / "data" / file, format=name)
    write_format(folder, name)
    head = {"configs": load_patterns(list(parts), name, like=next(iter(parts.values()))[0])}
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(head)}---\n# A card\n")
    return folder


def loaded(folder: Path, **given: Any) -> Any:
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    return load_dataset(given.pop("path", str(folder)), cache_dir=str(folder / "cache"), **given)


texts = st.one_of(
    st.sampled_from(["", "\n", "\n\n", "a\n", "\na", "a\nb\nc", ' "quoted" ', "\\n", "\r\n"]),
    st.sampled_from(
        ["\u2028\x85\x0b", "\x00\x1f\x7f", "Amélie 🎬 千と千尋", "2020-01-01", "null", "7"]
    ),
    st.text(max_size=20),
)


def rows(*, text_ids: bool) -> st.SearchStrategy[list[dict[str, Any]]]:
    numbers = st.integers(-(2**63), 2**63 - 1)
    ids: st.SearchStrategy[Any] = texts if text_ids else numbers
    words = ("system", "prompt", "completion", "rejected", "template", "domain", "split")
    fields: dict[str, st.SearchStrategy[Any]] = dict.fromkeys(words, texts)
    fields |= {"user_id": ids, "item_id": st.none() | ids}
    fields |= {"label": st.sampled_from([None, 0, 1]), "timestamp": st.none() | numbers}
    fields |= {"row": st.none() | numbers}
    fields |= {"candidates": st.none() | st.lists(ids, max_size=3)}
    return st.lists(st.fixed_dictionaries(fields), max_size=4)


@each_form
@given(data=st.booleans().flatmap(lambda kind: st.tuples(st.just(kind), rows(text_ids=kind))))
@example(data=(True, []))
@example(data=(False, [row(1, item_id=None, label=None, timestamp=None, row=None)]))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_written_is_read_back(
    name: str, pairs: bool, data: tuple[bool, list[dict[str, Any]]], tmp_path: Path
) -> None:
    text_ids, given_rows = data
    frame = canonical(
        [
            {key: value for key, value in one.items() if pairs or key != "rejected"}
            for one in given_rows
        ],
        pairs=pairs,
        text_ids=text_ids,
    )
    form = find_format(name)
    assert_frame_equal(form.restore(form.arrange(frame)), kept(frame, name))
    write_shard(frame, tmp_path / "data" / f"train-00000-of-00001.{form.suffix}", format=name)
    write_format(tmp_path, name)
    assert read_shards(tmp_path, "train").to_dicts() == kept(frame, name).to_dicts()


@each_form
def test_an_empty_part_keeps_its_columns(name: str, pairs: bool, tmp_path: Path) -> None:
    frame = some(0, pairs=pairs)
    form = find_format(name)
    assert form.restore(form.arrange(frame)).schema == kept(frame, name).schema
    read = read_shards(save(tmp_path, name, {"train": [frame, frame]}), "train")
    columns = kept(frame, name).schema
    # Nothing in an empty file of JSON lines says that there were pairs.
    assert read.schema == columns or (form.suffix == "jsonl" and "rejected" not in read.columns)
    assert set(read.columns) >= set(columns) - {"rejected"}


@each_form
@pytest.mark.parametrize("ids", [pl.Int64(), pl.String()])
def test_shards_are_read_in_order_and_up_to_a_limit(
    name: str, pairs: bool, ids: pl.DataType, tmp_path: Path
) -> None:
    nothing = {"item_id": None, "label": None, "timestamp": None, "row": None, "candidates": None}
    shards = [
        some(3, pairs=pairs, **nothing),
        some(0, pairs=pairs),
        some(2, pairs=pairs, start=3, candidates=[]),
        some(4, pairs=pairs, start=5),
    ]
    shards = [
        frame.cast({"user_id": ids, "item_id": ids, "candidates": pl.List(ids)}) for frame in shards
    ]
    other = some(1, pairs=pairs, start=99)
    folder = save(tmp_path, name, {"test": shards, "test_unseen": [other]})
    whole = kept(pl.concat(shards), name)
    assert_frame_equal(read_shards(folder, "test"), whole)
    for limit in (1, 3, 4, 9, 100):
        assert read_shards(folder, "test", limit=limit).to_dicts() == whole.head(limit).to_dicts()
    assert read_shards(folder, "test", limit=0).is_empty()
    assert_frame_equal(read_shards(folder, "test_unseen"), kept(other, name))


def test_candidates_that_are_never_given_have_the_type_of_the_items(tmp_path: Path) -> None:
    one = row(0, user_id="a", item_id="b", candidates=None)
    frame = canonical([one], pairs=True, text_ids=True)
    folder = save(tmp_path, "alpaca", {"train": [frame]})
    assert_frame_equal(read_shards(folder, "train"), frame)


@each_form
def test_datasets_loads_the_folder_as_it_is(name: str, pairs: bool, tmp_path: Path) -> None:
    parts = {
        "train": [some(3, pairs=pairs, candidates=None), some(2, pairs=pairs, start=3)],
        "validation": [some(1, pairs=pairs)],
        "test": [some(2, pairs=pairs, label=None)],
        "test_unseen": [some(1, pairs=pairs), some(1, pairs=pairs, item_id=None)],
    }
    found = loaded(save(tmp_path, name, parts))
    assert {part: split.num_rows for part, split in found.items()} == {
        "train": 5,
        "validation": 1,
        "test": 2,
        "test_unseen": 2,
    }
    form = find_format(name)
    for part, shards in parts.items():
        assert found[part].to_list() == form.arrange(pl.concat(shards)).to_dicts()


@pytest.mark.parametrize("name", format_names())
def test_without_declared_types_datasets_finds_the_parts_too(name: str, tmp_path: Path) -> None:
    frame = some(2, pairs=False)
    folder = save(tmp_path, name, {"train": [frame, frame], "test": [frame]})
    head = {"configs": load_patterns(["train", "test"], name)}
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(head)}---\n")
    found = loaded(folder)
    assert {part: split.num_rows for part, split in found.items()} == {"train": 4, "test": 2}


@pytest.mark.parametrize(
    ("name", "pairs"), [one for one in FORMS if find_format(one[0]).provenance]
)
def test_provenance_stands_after_the_texts_in_one_order(name: str, pairs: bool) -> None:
    columns = find_format(name).arrange(some(1, pairs=pairs)).columns
    assert tuple(columns[-len(PROVENANCE) :]) == PROVENANCE


@each_form
def test_the_same_rows_give_the_same_bytes(name: str, pairs: bool, tmp_path: Path) -> None:
    frame = some(5_000, pairs=pairs)
    pieces = pl.concat([frame.head(2_100), frame.tail(2_900)], rechunk=False)
    for file, one in (("a", frame), ("b", frame), ("c", pieces)):
        write_shard(one, tmp_path / file, format=name)
    first, *others = ((tmp_path / file).read_bytes() for file in "abc")
    assert others == [first, first]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["trl", "trl-text", "messages"])
def test_parquet_has_32_bit_offsets(name: str, tmp_path: Path) -> None:
    write_shard(some(3, pairs=False), tmp_path / "a.parquet", format=name)
    schema = str(pq.read_schema(tmp_path / "a.parquet"))
    assert "large" not in schema
    assert "view" not in schema
    assert (
        pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).column(0).compression == "ZSTD"
    )


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(language_model_folder("smollm2"), local_files_only=True)


@pytest.mark.parametrize(("name", "pairs"), [("trl", False), ("trl", True), ("messages", False)])
def test_trl_takes_conversations(name: str, pairs: bool, tmp_path: Path, tokenizer: Any) -> None:
    from trl.data_utils import apply_chat_template, is_conversational

    folder = save(tmp_path, name, {"train": [some(2, pairs=pairs)]})
    for example_row, number in zip(loaded(folder)["train"], (0, 1), strict=True):
        assert is_conversational(example_row)
        wanted = {key: value for key, value in example_row.items() if key in TRL_COLUMNS}
        found = apply_chat_template(wanted, tokenizer)
        asked = f"<|im_start|>user\nHistory: Film {number}\nWill it please?<|im_end|>\n"
        said = "<|im_start|>assistant\n"
        whole = found.get("text", found.get("prompt"))
        assert f"{asked}{said}" in whole
        assert ("<|im_start|>system\nBe brief.<|im_end|>" in whole) == bool(number % 2)
        answers = {key: found[key] for key in ("completion", "chosen", "rejected") if key in found}
        expected = {"chosen": "Yes.<|im_end|>\n", "rejected": "No.<|im_end|>\n"}
        if name == "messages":
            assert whole.endswith(f"{said}Yes.<|im_end|>\n")
        else:
            assert answers == (expected if pairs else {"completion": expected["chosen"]})


@pytest.mark.parametrize("pairs", [False, True])
def test_trl_takes_plain_texts(pairs: bool, tmp_path: Path) -> None:
    from trl.data_utils import is_conversational

    folder = save(tmp_path, "trl-text", {"train": [some(2, pairs=pairs)]})
    first, second = loaded(folder)["train"]
    assert not is_conversational(first)
    answer = "chosen" if pairs else "completion"
    assert first["prompt"] + first[answer] == "History: Film 0\nWill it please?\nYes."
    assert second["prompt"] == "Be brief.\n\nHistory: Film 1\nWill it please?\n"
    assert ("rejected" in first) == pairs


def lines(frame: pl.DataFrame, name: str, folder: Path) -> list[dict[str, Any]]:
    write_shard(frame, folder / "lines.jsonl", format=name)
    return [json.loads(line) for line in (folder / "lines.jsonl").read_text().splitlines()]


def test_openai_lines_have_the_allowed_keys_only(tmp_path: Path) -> None:
    asked = {"role": "user", "content": "History: Film 1\nWill it please?"}
    system = {"role": "system", "content": "Be brief."}
    yes, no = ({"role": "assistant", "content": text} for text in ("Yes.", "No."))
    plain, with_system = lines(some(2, pairs=False), "openai", tmp_path)
    assert [message["role"] for message in plain["messages"]] == ["user", "assistant"]
    assert with_system == {"messages": [system, asked, yes]}
    plain, with_system = lines(some(2, pairs=True), "openai", tmp_path)
    assert [message["role"] for message in plain["input"]["messages"]] == ["user"]
    assert with_system == {
        "input": {"messages": [system, asked]},
        "preferred_output": [yes],
        "non_preferred_output": [no],
    }


def factory_prompt(line: dict[str, Any]) -> str:
    """As LLaMA-Factory puts the two together: what is empty is left out."""
    return "\n".join(half for half in (line["instruction"], line["input"]) if half)


def test_alpaca_splits_at_the_first_newline() -> None:
    frame = canonical([row(0, prompt="Look.\nFilm 1\nFilm 2")], pairs=True)
    (line,) = find_format("alpaca").arrange(frame).to_dicts()
    assert (line["instruction"], line["input"]) == ("Look.", "Film 1\nFilm 2")
    assert (line["chosen"], line["rejected"]) == ("Yes.", "No.")


@given(prompt=texts)
def test_alpaca_halves_are_the_prompt_again(prompt: str) -> None:
    frame = canonical([row(0, prompt=prompt)], pairs=True)
    (line,) = find_format("alpaca").arrange(frame).to_dicts()
    assert factory_prompt(line) == prompt


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("name", ["alpaca", "sharegpt"])
def test_llama_factory_finds_every_part(name: str, pairs: bool, tmp_path: Path) -> None:
    parts = {"train": [some(2, pairs=pairs), some(1, pairs=pairs)], "test": [some(1, pairs=pairs)]}
    folder = save(tmp_path, name, parts)
    info = dataset_info("world", list(parts), format=name, pairs=pairs)
    assert json.loads(json.dumps(info)) == info
    assert list(info) == ["world_train", "world_test"]
    for entry, count in zip(info.values(), (3, 1), strict=True):
        assert entry["formatting"] == name
        assert entry["ranking"] == pairs
        place = os.path.join(folder, entry["script_url"])
        found = loaded(folder, path=place, split=entry["split"])
        assert found.num_rows == count
        assert set(entry["columns"].values()) <= set(found.column_names)
        assert {"chosen", "rejected"}.issubset(entry["columns"]) == pairs
        if name == "sharegpt":
            keys = {entry["tags"]["role_tag"], entry["tags"]["content_tag"]}
            assert all(set(turn) == keys for turn in found[0]["conversations"])
            speakers = [turn["from"] for turn in found[0]["conversations"]]
            tags = [entry["tags"]["user_tag"], entry["tags"]["assistant_tag"]]
            assert speakers == tags[: 1 if pairs else 2]


def test_user_mistakes_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'sharegpt'"):
        find_format("sharegtp")
    with pytest.raises(UserError, match=r"no form for preference pairs.*\n.*trl, trl-text, alpaca"):
        write_shard(some(1, pairs=True), tmp_path / "a.parquet", format="messages")
    assert not (tmp_path / "a.parquet").exists()
    with pytest.raises(UserError, match=r"format\.json"):
        read_shards(tmp_path, "train")
    (tmp_path / "format.json").write_text("[]")
    with pytest.raises(UserError, match=r"format\.json"):
        read_shards(tmp_path, "train")
    write_format(tmp_path, "trl")
    with pytest.raises(UserError, match="parts: none"):
        read_shards(tmp_path, "train")
    save(tmp_path, "trl", {"train": [some(1, pairs=False)], "test_unseen": [some(1, pairs=False)]})
    with pytest.raises(UserError, match=r"no part 'test'\.\nparts: test_unseen, train"):
        read_shards(tmp_path, "test")
    with pytest.raises(UserError, match="a part cannot be called 'test-unseen'"):
        load_patterns(["test-unseen"], "trl")
    with pytest.raises(
        UserError, match=r"does not read format 'openai'\.\nformats: alpaca, sharegpt"
    ):
        dataset_info("world", ["train"], format="openai", pairs=False)


def test_every_format_has_a_line_of_meaning() -> None:
    assert format_names()[0] == "trl"
    assert all(
        find_format(name).meaning and "\n" not in find_format(name).meaning
        for name in format_names()
    )
