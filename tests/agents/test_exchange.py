from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tastemaker.agents.exchange import NEVER, Exchanged, export_knowledge, import_knowledge
from tastemaker.agents.knowledge import Failure, Knowledge, KnowledgeStore, request_key
from tastemaker.errors import DataError, UserError

MODEL, PARAMS = "openai:small", {"max_tokens": 20, "temperature": 0.0, "seed": 0}
SERVER = "http://localhost:8000/v1"
FORMATS = ("all.jsonl", "all.jsonl.gz", "all.parquet")


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]


def answer(place: int, **more: Any) -> Knowledge:
    messages = asked(f"Film {place}: “é”?\u2028")
    values: dict[str, Any] = {
        "key": request_key(MODEL, SERVER, PARAMS, messages),
        "kind": "item",
        "entity": f"f{place}",
        "model": MODEL,
        "params": {**PARAMS, "base_url": SERVER},
        "messages": messages,
        "chain": "kar/item_movies",
        "text": f"It won.\nTwice. {place}",
        "finish_reason": "stop",
        "cost": 0.25 if place % 2 else None,
        "prompt_tokens": place,
        "seconds": 0.5,
        "created": "2026-11-01T12:00:00+00:00",
    }
    return Knowledge(**{**values, **more})


def failure(text: str, **more: Any) -> Failure:
    shared = {**vars(answer(0)), "key": request_key(MODEL, SERVER, PARAMS, asked(text))}
    for name in ("text", "finish_reason"):
        del shared[name]
    shared |= {"messages": asked(text), "kind": "user", "entity": "u1", "cut_time": 99}
    return Failure(**{**shared, "reason": "empty", "detail": "no text", "final": False, **more})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KnowledgeStore]:
    with KnowledgeStore(tmp_path / "one.sqlite") as opened:
        yield opened


@pytest.fixture
def other(tmp_path: Path) -> Iterator[KnowledgeStore]:
    with KnowledgeStore(tmp_path / "two.sqlite") as opened:
        yield opened


def contents(store: KnowledgeStore) -> list[Any]:
    return [*store.each(Knowledge), *store.each(Failure)]


@pytest.mark.parametrize("name", FORMATS)
def test_all_comes_back_as_it_went(
    store: KnowledgeStore, other: KnowledgeStore, name: str, tmp_path: Path
) -> None:
    store.put_many([answer(place) for place in range(5)])
    store.put_many([failure("Ann"), failure("Bob", final=True, reason="refusal")])
    path = tmp_path / name
    assert export_knowledge(store, path) == Exchanged(5, 2)
    before = path.read_bytes()
    export_knowledge(store, path)
    assert path.read_bytes() == before
    assert import_knowledge(other, path) == Exchanged(5, 2, 0)
    assert contents(other) == contents(store)
    assert import_knowledge(other, path) == Exchanged(0, 2, 5)
    assert contents(other) == contents(store)


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_store(
    store: KnowledgeStore, other: KnowledgeStore, name: str, tmp_path: Path
) -> None:
    assert export_knowledge(store, tmp_path / name) == Exchanged(0, 0)
    assert import_knowledge(other, tmp_path / name) == Exchanged(0, 0, 0)


def test_a_part_of_the_store(store: KnowledgeStore, tmp_path: Path) -> None:
    store.put_many([answer(1), answer(2, chain="other"), failure("Ann")])
    path = tmp_path / "part.jsonl"
    assert export_knowledge(store, path, where={"chain": "other"}) == Exchanged(1, 0)
    assert json.loads(path.read_text())["entity"] == "f2"


def test_parquet_is_written_in_row_groups(
    store: KnowledgeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tastemaker.agents.exchange._GROUP", 4)
    store.put_many([answer(place) for place in range(10)])
    export_knowledge(store, tmp_path / "all.parquet")
    assert pq.ParquetFile(tmp_path / "all.parquet").num_row_groups == 3


def test_an_export_that_breaks_leaves_nothing(store: KnowledgeStore, tmp_path: Path) -> None:
    store.put_many([answer(1)])
    with pytest.raises(Exception, match="colour"):
        export_knowledge(store, tmp_path / "all.jsonl", where={"colour": "red"})
    assert not [path for path in tmp_path.iterdir() if "jsonl" in path.name]


def test_what_is_known_stays_and_an_answer_ends_a_failure(
    store: KnowledgeStore, tmp_path: Path
) -> None:
    store.put_many([answer(1)])
    path = tmp_path / "all.jsonl"
    export_knowledge(store, path)
    row = json.loads(path.read_text())
    path.write_text(json.dumps({**row, "text": "Another text."}))
    assert import_knowledge(store, path) == Exchanged(0, 0, 1)
    assert next(store.each(Knowledge)).text == answer(1).text
    store.remove([answer(1).key])
    lost = {name: row[name] for name in row if name not in ("outcome", "text", "finish_reason")}
    store.put_many([Failure(**lost, reason="empty")])
    import_knowledge(store, path)
    assert [type(one) for one in contents(store)] == [Knowledge]


def test_every_problem_is_named_with_its_line_and_nothing_is_imported(
    store: KnowledgeStore, other: KnowledgeStore, tmp_path: Path
) -> None:
    store.put_many([answer(1)])
    path = tmp_path / "all.jsonl"
    export_knowledge(store, path)
    good = json.loads(path.read_text())
    user = {**good, "key": None, "kind": "user", "messages": asked("Ann")}
    lines = [
        json.dumps(good),
        "no JSON",
        "[1]",
        json.dumps({**good, "outcome": "maybe"}),
        json.dumps({**good, "messages": asked("changed")}),
        json.dumps({**good, "attempts": "two"}),
        json.dumps({**good, "colour": "red"}),
        json.dumps({name: good[name] for name in good if name != "text"}),
        "",
        json.dumps(good),
        json.dumps(user),
        json.dumps({**good, "kind": "movie"}),
        json.dumps({**good, "text": "  "}),
    ]
    path.write_text("\n".join(lines))
    with pytest.raises(DataError) as stop:
        import_knowledge(other, path)
    message = str(stop.value)
    for part in (
        "11 problems",
        "line 2: is no JSON",
        "line 3: is no JSON object",
        "line 4: outcome is 'maybe', not answered or failed",
        "line 5: key is not that of model, params and messages",
        "line 6: attempts: Input should be a valid integer",
        "line 7: colour: Extra inputs are not permitted",
        "line 8: text: Field required",
        "line 10: asks the same as line 1",
        "line 11: no cut_time",
        "line 12: kind is 'movie'",
        "line 13: text is empty",
        "Nothing was imported",
    ):
        assert part in message
    assert contents(other) == []


def test_texts_about_users_need_a_cut(
    store: KnowledgeStore, other: KnowledgeStore, tmp_path: Path
) -> None:
    store.put_many([answer(1, kind="user"), answer(2, kind="user", cut_time=7), answer(3)])
    path = tmp_path / "all.parquet"
    export_knowledge(store, path)
    with pytest.raises(DataError, match="a text about a user"):
        import_knowledge(other, path)
    import_knowledge(other, path, cut_times={"f1": 5})
    assert {one.entity: one.cut_time for one in other.each(Knowledge)} == {
        "f1": 5,
        "f2": 7,
        "f3": None,
    }


def test_damaged_files(store: KnowledgeStore, other: KnowledgeStore, tmp_path: Path) -> None:
    store.put_many([answer(place) for place in range(300)])
    path = tmp_path / "all.jsonl.gz"
    export_knowledge(store, path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="the file is damaged"):
        import_knowledge(other, path)
    path = tmp_path / "all.parquet"
    path.write_bytes(b"PAR1 or not")
    with pytest.raises(DataError, match="is no Parquet file"):
        import_knowledge(other, path)
    (tmp_path / "strange.jsonl").write_bytes(gzip.compress(b"{}"))
    with pytest.raises(DataError, match="line 1: is no JSON"):
        import_knowledge(other, tmp_path / "strange.jsonl")
    with pytest.raises(UserError, match="does not say its format"):
        import_knowledge(other, tmp_path / "all.csv")
    with pytest.raises(UserError, match="no such file"):
        import_knowledge(other, tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="says itself"):
        import_knowledge(other, tmp_path / "strange.jsonl", kind="user")
    assert contents(other) == []


KLG = {
    "12": {"prompt": "A user watched “Heat”, 4 stars; Analyse.", "ans": " Likes crime films. "},
    "7": {"prompt": "A user watched “Up”, 5 stars; Analyse.", "ans": "Likes animation."},
}


def klg(folder: Path, content: Any = KLG) -> Path:
    path = folder / "user.klg"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def test_kar_texts_stand_under_the_address_of_their_prompt(
    store: KnowledgeStore, tmp_path: Path
) -> None:
    done = import_knowledge(
        store,
        klg(tmp_path),
        kind="user",
        model=MODEL,
        params=PARAMS,
        cut_times={"12": 100, "7": 200},
        clock=lambda: datetime(2026, 11, 1, tzinfo=UTC),
    )
    assert done == Exchanged(2, 0, 0)
    messages = [{"role": "user", "content": KLG["12"]["prompt"]}]
    key = request_key(MODEL, None, PARAMS, messages)
    found = store.get_many([key])[key]
    assert found == Knowledge(
        key=key,
        kind="user",
        entity="12",
        model=MODEL,
        params=PARAMS,
        messages=messages,
        chain="imported/user",
        cut_time=100,
        text="Likes crime films.",
        created="2026-11-01T00:00:00+00:00",
    )


def test_kar_texts_are_found_by_a_job_that_asks_the_same(
    store: KnowledgeStore, tmp_path: Path
) -> None:
    from tastemaker.agents.asking import Asker, Request
    from tastemaker.agents.chat_models import SCRIPTS, ScriptedChatModel

    path = klg(tmp_path)
    import_knowledge(
        store, path, kind="item", model="scripted:echo", params=PARAMS, chain="kar/item_movies"
    )
    model = ScriptedChatModel(script=SCRIPTS["echo"])
    job = Asker(model, store, model_name="scripted:echo", params=PARAMS)
    prompts = [KLG["7"]["prompt"], "Something else."]
    texts = [
        Request("item", "7", ({"role": "user", "content": text},), "kar/item_movies")
        for text in prompts
    ]
    assert job.ask(texts)[0].text == "Likes animation."
    assert model.requests == 1


def test_kar_texts_about_users_do_not_slip_into_use(store: KnowledgeStore, tmp_path: Path) -> None:
    path = klg(tmp_path)
    about: dict[str, Any] = {"kind": "user", "model": MODEL, "params": PARAMS}
    with pytest.raises(UserError, match="need the moment of the last event"):
        import_knowledge(store, path, **about)
    with pytest.raises(DataError, match="entry '7': no cut time is given for user '7'"):
        import_knowledge(store, path, **about, cut_times={"12": 1})
    assert contents(store) == []
    import_knowledge(store, path, **about, cut_times="unknown")
    assert {one.cut_time for one in store.each(Knowledge)} == {NEVER}
    assert np.iinfo(np.int64).max == NEVER  # what KAR's features take for: of no use
    store.remove([one.key for one in store.each(Knowledge)])
    import_knowledge(store, path, **{**about, "kind": "item"})
    assert {one.cut_time for one in store.each(Knowledge)} == {None}


def test_problems_of_kar_files(store: KnowledgeStore, tmp_path: Path) -> None:
    about: dict[str, Any] = {"kind": "item", "model": MODEL, "params": PARAMS}
    wrong = {"1": "text", "2": {"prompt": "Ask."}, "3": {"prompt": "", "ans": "x"}, **KLG}
    with pytest.raises(DataError) as stop:
        import_knowledge(store, klg(tmp_path, wrong), **about)
    for part in (
        "3 problems",
        "entry '1': is no object {prompt, ans}",
        "entry '2': has no text under 'ans'",
        "entry '3': has no text under 'prompt'",
    ):
        assert part in str(stop.value)
    with pytest.raises(DataError, match="entry '2': asks the same as entry '1'"):
        import_knowledge(store, klg(tmp_path, {"1": KLG["7"], "2": KLG["7"]}), **about)
    (tmp_path / "user.klg").write_text('{"1": {}, "1": {}}')
    with pytest.raises(DataError, match="'1' stands there twice"):
        import_knowledge(store, tmp_path / "user.klg", **about)
    (tmp_path / "user.klg").write_text("[]")
    with pytest.raises(DataError, match="holds no texts"):
        import_knowledge(store, tmp_path / "user.klg", **about)
    with pytest.raises(UserError, match="of which kind"):
        import_knowledge(store, klg(tmp_path), **{**about, "kind": None})
    with pytest.raises(UserError, match="kind 'user_group'"):
        import_knowledge(store, klg(tmp_path), **{**about, "kind": "user_group"})
    with pytest.raises(UserError, match="which model wrote it"):
        import_knowledge(store, klg(tmp_path), **{**about, "model": "gpt-4"})
    assert contents(store) == []


def test_unusable_answers_of_others_are_failures(store: KnowledgeStore, tmp_path: Path) -> None:
    wrong = {**KLG, "3": {"prompt": "Ask.", "ans": "I'm sorry, I cannot help with that."}}
    done = import_knowledge(store, klg(tmp_path, wrong), kind="item", model=MODEL, params=PARAMS)
    assert done == Exchanged(2, 1, 0)
    (one,) = store.each(Failure)
    assert (one.entity, one.reason, one.final) == ("3", "refusal", True)


def test_reki_groups(store: KnowledgeStore, tmp_path: Path) -> None:
    def completion(text: str, **more: Any) -> str:
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
        return json.dumps({"id": "chatcmpl-1", "choices": [choice], "usage": usage, **more})

    path = tmp_path / "knowledge.json"
    chat = [{"role": "user", "content": "Films “A”, “B”. What is common?"}]
    lines = [
        completion("All are old.", prompt=chat, prompt_txt="ignored"),
        completion("All are new.", prompt="Films “C”?", prompt_txt="Films “C”, “D”?"),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    about: dict[str, Any] = {"model": "openai:gpt-3.5-turbo-0613", "params": {}}
    assert import_knowledge(store, path, kind="item_group", **about) == Exchanged(2, 0, 0)
    found = {one.entity: one for one in store.each(Knowledge)}
    assert found["0"].messages == chat
    assert found["1"].messages == [{"role": "user", "content": "Films “C”, “D”?"}]
    assert (found["1"].text, found["1"].finish_reason) == ("All are new.", "stop")
    assert (found["1"].prompt_tokens, found["1"].completion_tokens) == (5, 2)
    with pytest.raises(UserError, match="kind 'item'"):
        import_knowledge(store, path, kind="item", **about)
    with pytest.raises(UserError, match="need the moment"):
        import_knowledge(store, path, kind="user_group", **about)
    path.write_text(lines[0] + "\nbroken\n" + json.dumps({"choices": [], "prompt": "x"}))
    with pytest.raises(DataError) as stop:
        import_knowledge(store, path, kind="item_group", **about)
    assert "line 2: is no JSON object" in str(stop.value)
    assert "line 3: has no text under choices[0]" in str(stop.value)


def test_an_upgraded_failure_is_unchanged(
    store: KnowledgeStore, other: KnowledgeStore, tmp_path: Path
) -> None:
    store.put_many([replace(failure("Ann"), detail="line\nbreak", attempts=2)])
    export_knowledge(store, tmp_path / "all.parquet")
    import_knowledge(other, tmp_path / "all.parquet")
    assert contents(other) == contents(store)
