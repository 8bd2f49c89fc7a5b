"""States on disk: those that the model computes, whole again after a kill, and never stale."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from tastemaker.errors import UserError
from tastemaker.models.prompt_states import PromptBackbone
from tastemaker.models.seq2seq import padded, source_batches
from tastemaker.models.state_store import StateStore, store_bytes
from tastemaker.testing.prompt_models import tiny_backbone, tiny_prompts

Folders = dict[str, Path]
PROMPTS = tiny_prompts(20, seed=3).texts
ONE_EACH = 1  # tokens of a pass: every prompt is a batch of its own


class Killed(BaseException):
    pass


def store(
    backbone: PromptBackbone,
    folder: Path,
    *,
    batch_tokens: int = 64,
    on_progress: Callable[[int], None] = lambda _: None,
) -> StateStore:
    return StateStore(
        backbone,
        backbone.encode(PROMPTS),
        folder=folder,
        batch_tokens=batch_tokens,
        on_progress=on_progress,
    )


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Counted(NamedTuple):
    store: StateStore
    passes: int
    progress: list[int]


def counted(backbone: PromptBackbone, folder: Path, **options: Any) -> Counted:
    """Make a store and count the forward passes that it takes."""
    passes: list[int] = []
    progress: list[int] = []
    hook = backbone.model.register_forward_hook(lambda *_: passes.append(1))
    found = store(backbone, folder, on_progress=progress.append, **options)
    hook.remove()
    return Counted(found, len(passes), progress)


@pytest.mark.parametrize(
    ("kind", "fixed", "every", "precision"),
    [
        ("llama", 4, 1, "float32"),
        ("llama", 2, 1, "bfloat16"),
        ("bert", 2, 1, "float32"),
        ("bert", 1, 2, "float32"),  # no depth is fixed, but a layer below the first one is
        ("llama", 0, 2, "float32"),
    ],
)
def test_it_holds_what_the_model_computes(
    tiny_folders: Folders, tmp_path: Path, kind: str, fixed: int, every: int, precision: str
) -> None:
    backbone = tiny_backbone(tiny_folders[kind], fixed=fixed, every=every, precision=precision)
    sequences = backbone.encode(PROMPTS)
    kept = store(backbone, tmp_path)
    places = [7, 0, 13, 7]
    found = kept.lower(places)
    ids, mask = padded([sequences[place] for place in places], 0)
    anew = backbone.lower(ids, mask)
    assert len(found.states) == len(anew.states) == backbone.kept
    assert (found.resumed is None) == (anew.resumed is None) == backbone.is_fixed
    tokens = mask == 1
    for one, other in zip(found.states, anew.states, strict=True):
        assert one.dtype == torch.float32
        assert (one - other)[tokens].abs().max() < 0.01  # a batch of another shape rounds otherwise
        assert ((one - other)[tokens] == 0).float().mean() > 0.95
        assert not one[~tokens].any()
    if found.resumed is not None and anew.resumed is not None:
        assert not found.resumed[~tokens].any()
        wanted = anew.resumed.float()[tokens]
        torch.testing.assert_close(found.resumed[tokens], wanted, rtol=1e-3, atol=1e-3)


def test_one_prompt_at_a_time_it_is_the_same_to_the_bit(
    tiny_folders: Folders, tmp_path: Path
) -> None:
    for kind in ("llama", "bert"):
        backbone = tiny_backbone(tiny_folders[kind], fixed=2)
        sequences = backbone.encode(PROMPTS)
        kept = store(backbone, tmp_path / kind, batch_tokens=ONE_EACH)
        for place in (0, 5, 19):
            found, anew = kept.lower([place]), backbone.lower(*padded([sequences[place]], 0))
            assert found.resumed is not None
            assert anew.resumed is not None
            pairs = zip([*found.states, found.resumed], [*anew.states, anew.resumed], strict=True)
            assert all(torch.equal(one, other) for one, other in pairs)


def test_its_size_is_told_before(tiny_folders: Folders, tmp_path: Path) -> None:
    backbone = tiny_backbone(tiny_folders["llama"], fixed=3)
    tokens = sum(map(len, backbone.encode(PROMPTS)))
    store(backbone, tmp_path)
    sizes = {name: len(data) for name, data in content(tmp_path).items()}
    assert sizes["states.f16"] == 2 * 3 * 32 * tokens
    assert sizes["resumed.f32"] == 4 * 32 * tokens
    assert store_bytes(backbone, tokens) == sizes["states.f16"] + sizes["resumed.f32"]
    backbone.fixed = 4
    assert store_bytes(backbone, tokens) == 2 * 4 * 32 * tokens


@pytest.mark.parametrize("fixed", [2, 4])
def test_a_killed_one_goes_on(tiny_folders: Folders, tmp_path: Path, fixed: int) -> None:
    backbone = tiny_backbone(tiny_folders["llama"], fixed=fixed)
    whole = counted(backbone, tmp_path / "whole", batch_tokens=ONE_EACH)
    assert (whole.passes, sum(whole.progress)) == (20, 20)

    seen: list[int] = []

    def die(count: int) -> None:
        seen.append(count)
        if sum(seen) == 18:
            raise Killed

    with pytest.raises(Killed):
        store(backbone, tmp_path / "killed", batch_tokens=ONE_EACH, on_progress=die)
    # What was written after the last batch that is known to be complete may be torn.
    sequences = backbone.encode(PROMPTS)
    states = np.memmap(tmp_path / "killed" / "states.f16", dtype=np.float16, mode="r+")
    starts = np.cumsum([0, *map(len, sequences)]) * (len(states) // sum(map(len, sequences)))
    for places in list(source_batches(sequences, ONE_EACH))[16:]:
        states[starts[places[0]] : starts[places[0] + 1]] = 7
    states.flush()
    again = counted(backbone, tmp_path / "killed", batch_tokens=ONE_EACH)
    assert again.passes == 4  # 16 of 20 were known to be complete
    assert again.progress[0] == 16
    assert sum(again.progress) == 20
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    third = counted(backbone, tmp_path / "killed", batch_tokens=ONE_EACH)
    assert (third.passes, third.progress) == (0, [20])


def test_what_does_not_belong_to_it_is_not_believed(tiny_folders: Folders, tmp_path: Path) -> None:
    backbone = tiny_backbone(tiny_folders["bert"], fixed=2)
    batches = counted(backbone, tmp_path / "kept").passes

    def spoilt(name: str, change: Callable[[Path], object], **options: Any) -> int:
        folder = tmp_path / name
        shutil.copytree(tmp_path / "kept", folder)
        change(folder)
        again = counted(backbone, folder, **options)
        if not options:
            assert content(folder) == content(tmp_path / "kept")
        return again.passes

    assert spoilt("as it was", lambda folder: None) == 0
    assert spoilt("other batches", lambda folder: None, batch_tokens=ONE_EACH) == 20
    assert spoilt("no states", lambda folder: (folder / "states.f16").unlink()) == batches
    assert spoilt("cut", lambda folder: (folder / "resumed.f32").write_bytes(b"12")) == batches
    for text in ("", "[]", '{"of": 64}', '{"of": 64, "batches": "x"}'):
        assert (
            spoilt(f"progress {text!r}", lambda folder, text=text: _write(folder, text)) == batches
        )


def _write(folder: Path, text: str) -> None:
    (folder / "progress.json").write_text(text)


def test_a_full_disk_is_told(
    tiny_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny_backbone(tiny_folders["llama"], fixed=2)
    full = type(shutil.disk_usage(tmp_path))(10**9, 10**9, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(UserError, match=r"take 0.0 GB[^\0]*keep_states to false"):
        store(backbone, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_computed_without_dropout_whatever_the_mode(tiny_folders: Folders, tmp_path: Path) -> None:
    backbone = tiny_backbone(tiny_folders["bert"], fixed=2)
    calm = store(backbone, tmp_path / "calm").lower([0, 1])
    backbone.model.train()
    backbone.training = True
    lively = store(backbone, tmp_path / "lively").lower([0, 1])
    assert backbone.training
    assert all(torch.equal(a, b) for a, b in zip(calm.states, lively.states, strict=True))


def test_no_prompts(tiny_folders: Folders, tmp_path: Path) -> None:
    backbone = tiny_backbone(tiny_folders["llama"], fixed=4)
    told: list[int] = []
    StateStore(backbone, [], folder=tmp_path, batch_tokens=64, on_progress=told.append)
    assert (told, content(tmp_path)) == ([0], {})
