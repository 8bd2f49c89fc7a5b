from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tastemaker.errors import BusyError, DataError
from tastemaker.models.encoders import HashingEncoder
from tastemaker.models.vectors import Vectors
from tastemaker.models.vectors_files import lock_folder


class Counting(HashingEncoder):
    """Remembers what it was asked for."""

    def __init__(self, dim: int = 8) -> None:
        super().__init__(dim)
        self.asked: list[str] = []

    def encode(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 64,
        on_progress: Callable[[int], None] | None = None,
    ) -> NDArray[np.float32]:
        self.asked += texts
        return super().encode(texts, batch_size=batch_size, on_progress=on_progress)


def update(folder: Path, texts: dict[str, str], **changes: Any) -> Vectors:
    settings: dict[str, Any] = {"encoder": HashingEncoder(8), **changes}
    return Vectors.update(folder, list(texts), list(texts.values()), **settings)


def assert_holds(vectors: Vectors, texts: dict[str, str], *, dtype: str = "float16") -> None:
    expected = HashingEncoder(vectors.dim).encode(list(texts.values())).astype(dtype)
    assert vectors.ids == tuple(texts)
    np.testing.assert_array_equal(vectors.take(vectors.rows(list(texts))), expected)


TEXTS = {"a": "even film", "b": "odd film", "c": "even film", "d": ""}
SAID = st.sampled_from(["even film", "odd film", "", "a third", "Été ☂ <|im_end|>"])
UPDATES = st.lists(
    st.tuples(st.dictionaries(st.sampled_from("abcdef"), SAID), st.integers(1, 4), st.booleans()),
    min_size=1,
    max_size=4,
)


def test_an_update_holds_what_it_was_given(tmp_path: Path) -> None:
    found = update(tmp_path, TEXTS)
    assert_holds(found, TEXTS)
    assert found.matrix.dtype == np.float16
    assert isinstance(found.matrix, np.memmap)
    assert len(found) == 3
    assert found.rows(["a", "c", "nobody"]).tolist() == [0, 0, -1]
    assert found.encoder == "hashing:8"
    assert {"pooling", "max_tokens", "weights", "versions", "created"} <= set(found.provenance)
    np.testing.assert_array_equal(np.load(next(tmp_path.glob("matrix-*.npy"))), found.matrix)


@settings(max_examples=25)
@given(UPDATES)
def test_any_updates_equal_one_from_scratch(
    tmp_path_factory: pytest.TempPathFactory,
    updates: list[tuple[dict[str, str], int, bool]],
) -> None:
    folder = tmp_path_factory.mktemp("vectors")
    current: dict[str, str] = {}
    seen: set[str] = set()
    for texts, flush, compact in updates:
        encoder = Counting()
        found = update(folder, texts, flush=flush, encoder=encoder)
        assert sorted(encoder.asked) == sorted(set(texts.values()) - seen)
        current |= texts
        seen |= set(texts.values())
        assert_holds(found, current)
        assert len(found) == len(seen)
        if compact:
            assert_holds(Vectors.compact(folder), current)
            seen = set(current.values())
    assert_holds(Vectors.open(folder), current)
    assert len([*folder.glob("ids-*")]) <= 1
    scratch = Vectors.create(
        folder / "scratch",
        list(current),
        HashingEncoder(8).encode(list(current.values())),
        encoder="hashing:8",
        dtype="float16",
    )
    np.testing.assert_array_equal(
        Vectors.open(folder).take(Vectors.open(folder).rows(list(current))), scratch.matrix
    )


def test_rows_are_never_rewritten(tmp_path: Path) -> None:
    old = update(tmp_path, TEXTS)
    before = next(tmp_path.glob("matrix-*.npy")).read_bytes()
    new = update(tmp_path, {"a": "another text"})
    after = next(tmp_path.glob("matrix-*.npy")).read_bytes()
    assert after[128 : len(before)] == before[128:]
    assert new.rows(["a", "c"]).tolist() == [3, 0]
    assert_holds(old, TEXTS)
    assert len(Vectors.compact(tmp_path)) == 4
    update(tmp_path, {"c": "odd film"})
    small = Vectors.compact(tmp_path, keep=["c", "d", "unknown"])
    assert_holds(small, {"c": "odd film", "d": ""})
    assert_holds(old, TEXTS)
    assert len(Vectors.compact(tmp_path, keep=[])) == 0
    assert_holds(update(tmp_path, TEXTS), TEXTS)


def test_texts_are_read_as_they_are_needed(tmp_path: Path) -> None:
    read = 0

    def texts() -> Iterator[str]:
        nonlocal read
        for number in range(200):
            read += 1
            yield f"text {number}"

    class Watching(HashingEncoder):
        def encode(self, texts: Sequence[str], **options: Any) -> NDArray[np.float32]:
            assert len(texts) <= 10
            assert Vectors.open(tmp_path).ids == tuple(map(str, range(read - 10)))
            return super().encode(texts, **options)

    told: list[int] = []
    found = Vectors.update(
        tmp_path,
        map(str, range(200)),
        texts(),
        encoder=Watching(8),
        flush=10,
        on_progress=told.append,
    )
    assert len(found.ids) == sum(told) == 200
    told.clear()
    update(tmp_path, {"0": "text 1", "new": "new"}, on_progress=told.append)
    assert sum(told) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": HashingEncoder(9)}, r"with encoder 'hashing:8'; 'hashing:9' cannot join"),
        ({"dtype": "float32"}, "with dtype 'float16'; 'float32' cannot join"),
    ],
)
def test_encoders_are_never_mixed(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    update(tmp_path, TEXTS)
    with pytest.raises(DataError, match=message):
        update(tmp_path, {"e": "more"}, **changes)
    assert_holds(Vectors.open(tmp_path), TEXTS)


@pytest.mark.parametrize(
    ("key", "value"), [("weights", "0123"), ("max_tokens", 128), ("pooling", "cls")]
)
def test_an_encoder_that_changed_is_another(tmp_path: Path, key: str, value: object) -> None:
    update(tmp_path, TEXTS)
    encoder = HashingEncoder(8)
    setattr(encoder, key, value)
    with pytest.raises(DataError, match=f"with {key} None; .* cannot join"):
        update(tmp_path, {"e": "more"}, encoder=encoder)


def test_vectors_that_were_given_can_be_added_to(tmp_path: Path) -> None:
    matrix = HashingEncoder(8).encode(["one", "two"])
    Vectors.create(tmp_path, ["a", "b"], matrix, encoder="hashing:8", dtype="float16")
    encoder = Counting()
    found = update(tmp_path, {"c": "three", "b": "two"}, encoder=encoder)
    assert_holds(found, {"a": "one", "b": "two", "c": "three"})
    assert encoder.asked == ["three", "two"]  # whether `b` was this text was not known
    with pytest.raises(DataError, match="'hashing:8'"):
        update(tmp_path, {"c": "three"}, encoder=HashingEncoder(4))


def test_folders_of_earlier_versions_can_be_read_and_added_to(tmp_path: Path) -> None:
    Vectors.create(tmp_path, ["a"], [[1.0, 2.0]], encoder="hashing:2", dtype="float16")
    about = json.loads((tmp_path / "vectors.json").read_text())
    old = {key: about[key] for key in ("number", "encoder", "shape", "dtype")}
    (tmp_path / "vectors.json").write_text(json.dumps(old))
    assert Vectors.open(tmp_path).ids == ("a",)
    found = update(tmp_path, {"b": "film"}, encoder=HashingEncoder(2))
    assert found.ids == ("a", "b")


def test_what_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    for ids, texts, message in (
        (["a", "b"], ["x"], "there is no text for the id 'b'"),
        (["a"], ["x", "y"], "more texts than ids"),
        (["a", "a"], ["x", "x"], "the id 'a' occurs twice"),
    ):
        with pytest.raises(DataError, match=message):
            Vectors.update(tmp_path / "new", ids, texts, encoder=HashingEncoder(8))
    with pytest.raises(DataError, match="no vectors"):
        Vectors.compact(tmp_path / "nothing")
    (tmp_path / "vectors.json").write_text("{")
    with pytest.raises(DataError, match=r"vectors\.json cannot be read"):
        update(tmp_path, TEXTS)


def test_numbers_that_overflow_change_nothing(tmp_path: Path) -> None:
    class Loud(HashingEncoder):
        def encode(self, texts: Sequence[str], **options: Any) -> NDArray[np.float32]:
            return super().encode(texts, **options) * 1e6

    update(tmp_path, TEXTS)
    with pytest.raises(DataError, match="the vector of 'e' holds a number that is not finite"):
        update(tmp_path, {"e": "more"}, encoder=Loud(8))
    assert_holds(Vectors.open(tmp_path), TEXTS)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    update(tmp_path, TEXTS)
    with lock_folder(tmp_path):
        for attempt in (
            lambda: update(tmp_path, TEXTS),
            lambda: Vectors.compact(tmp_path),
            lambda: Vectors.create(tmp_path, [], np.zeros((0, 8)), encoder="x"),
        ):
            with pytest.raises(BusyError, match="in use"):
                attempt()
        assert_holds(Vectors.open(tmp_path), TEXTS)


def test_rows_behind_the_index_are_overwritten(tmp_path: Path) -> None:
    update(tmp_path, TEXTS)
    path = next(tmp_path.glob("matrix-*.npy"))
    with path.open("ab") as handle:
        handle.write(b"half a row")
    (tmp_path / "ids-99.parquet").write_bytes(b"half a file")
    (tmp_path / ".vectors.json.1.tmp").write_bytes(b"{")
    assert_holds(Vectors.open(tmp_path), TEXTS)
    found = update(tmp_path, {"e": "more"})
    assert_holds(found, TEXTS | {"e": "more"})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [name.partition("-")[0] for name in names] == [".lock", "ids", "matrix", "vectors.json"]


_KILLED = """
import sys
from pathlib import Path
from tastemaker.models.encoders import HashingEncoder
from tastemaker.models.vectors import Vectors

class Telling(HashingEncoder):
    def encode(self, texts, **options):
        print("encoding", flush=True)
        return super().encode(texts, **options)

ids = [str(number) for number in range(2000)]
Vectors.update(Path(sys.argv[1]), ids, [f"text {i}" for i in ids], encoder=Telling(8), flush=20)
"""


@pytest.mark.slow
def test_a_kill_loses_little(tmp_path: Path) -> None:
    held = 0
    for flushes in (1, 6):
        with subprocess.Popen(
            [sys.executable, "-c", _KILLED, str(tmp_path)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            for _ in range(flushes + 1):  # the next one begins when one is done
                assert process.stdout.readline() == b"encoding\n"
            os.kill(process.pid, signal.SIGKILL)
        found = Vectors.open(tmp_path)
        assert held + 20 * flushes <= len(found) < 2000
        held = len(found)
        assert_holds(found, {str(i): f"text {i}" for i in range(held)})
    encoder = Counting()
    texts = {str(i): f"text {i}" for i in range(2000)}
    assert_holds(update(tmp_path, texts, encoder=encoder), texts)
    assert len(encoder.asked) == 2000 - held
