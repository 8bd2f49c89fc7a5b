from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.errors import UserError
from tastemaker.models.constrained import Choice, _Path, complete
from tastemaker.models.conversations import Messages
from tastemaker.models.language import LanguageModel, load_language_model
from tastemaker.models.prefix_caches import PrefixCaches

Small = Callable[..., LanguageModel]
SYSTEM = {"role": "system", "content": "Answer with one JSON object."}
ASKED: Messages = [SYSTEM, {"role": "user", "content": "I loved Heat, anything alike?"}]
BLANK: Messages = [SYSTEM, {"role": "user", "content": ""}]
PARTS: list[str | Choice] = [
    '{"form": ',
    Choice(('"recommend"', '"small_talk"', '"more"')),
    ', "named": {"Heat": ',
    Choice(('"like"',)),
    "}, ",
    Choice(('"topic": "thieves"', '"topic": ""')),
    ', "order": "',
    Choice(("new", "newest first", "")),
    '"}',
]


def likelihood(language_model: LanguageModel, messages: Messages, answer: str) -> tuple[float, int]:
    """Log-probability of a whole text without any cache, and its number of tokens."""
    tokenizer = language_model.tokenizer
    text = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    tokens = torch.tensor([tokenizer(text + answer, add_special_tokens=False)["input_ids"]])
    with torch.inference_mode():
        logits = language_model.model(input_ids=tokens).logits[0, :-1].float().log_softmax(-1)
    return float(logits.gather(-1, tokens[0, 1:, None]).double().sum()), tokens.shape[1]


def naive(
    language_model: LanguageModel,
    messages: Messages,
    parts: list[str | Choice],
    *,
    baseline: Messages | None = None,
) -> list[str]:
    """The same choices, one whole text at a time."""
    text, taken = "", []
    for place, part in enumerate(parts):
        if isinstance(part, str):
            text += part
            continue
        ending = ""
        for later in parts[place + 1 :]:
            if isinstance(later, Choice) and len(later.options) > 1:
                break
            ending += later if isinstance(later, str) else later.options[0]
        scores = []
        for option in part.options:
            score = likelihood(language_model, messages, text + option + ending)[0]
            if baseline is not None:
                score -= likelihood(language_model, baseline, text + option + ending)[0]
            scores.append(score)
        taken.append(part.options[int(np.argmax(scores))])
        text += taken[-1]
    return taken


@pytest.fixture(scope="module")
def tiny(llama_folder: Path) -> LanguageModel:
    return load_language_model(str(llama_folder), dtype=torch.float32, device="cpu")


@pytest.mark.parametrize(
    ("name", "baseline"),
    [
        ("tiny", None),
        ("tiny", BLANK),
        pytest.param("smollm2", BLANK, marks=pytest.mark.slow),
    ],
)
def test_equals_scoring_whole_texts_without_a_cache(
    name: str, baseline: Messages | None, request: pytest.FixtureRequest
) -> None:
    model: LanguageModel = request.getfixturevalue(name)
    found = complete(model, ASKED, PARTS, baseline=baseline, kept=PrefixCaches())
    assert found == naive(model, ASKED, PARTS, baseline=baseline)
    assert found[1] == '"like"'


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_scores_are_those_of_whole_texts(architecture: str, small: Small) -> None:
    """With sliding windows too, where nothing can be cached."""
    model = small(architecture)
    answers = [f'{{"a": "{word}"}}' for word in ("x", "a longer one", "xx", "")]
    path = _Path(model, ASKED, None)
    found = path.likelihoods(answers, per_token=False)
    whole = np.array([likelihood(model, ASKED, answer)[0] for answer in answers])
    np.testing.assert_allclose(found - found[0], whole - whole[0], atol=1e-3)
    assert np.ptp(whole) > 0.1
    again = path.likelihoods(answers[::-1], per_token=False)[::-1]
    np.testing.assert_allclose(again, found, atol=1e-4)


def test_more_options_than_fit_into_one_batch(tiny: LanguageModel) -> None:
    parts: list[str | Choice] = ["number ", Choice(tuple(f"{n}." for n in range(10, 80))), " So."]
    assert complete(tiny, ASKED, parts) == naive(tiny, ASKED, parts)


def test_per_token_does_not_favour_short_options(smollm2: LanguageModel) -> None:
    parts: list[str | Choice] = ["I mean ", Choice(("no.", "the film that everybody knows.")), ""]
    short, long = (complete(smollm2, ASKED, parts, per_token=one)[0] for one in (False, True))
    assert (short, long) == ("no.", "the film that everybody knows.")


def test_a_baseline_takes_out_what_a_model_says_anyway(smollm2: LanguageModel) -> None:
    same: Messages = ASKED
    path, blank = _Path(smollm2, ASKED, None), _Path(smollm2, same, None)
    answers = ['{"a": "x"}', '{"a": "chess"}']
    gain = path.likelihoods(answers, per_token=False) - blank.likelihoods(answers, per_token=False)
    np.testing.assert_allclose(gain, 0, atol=1e-6)


def test_nothing_runs_when_nothing_is_open(tiny: LanguageModel) -> None:
    class Deaf(torch.nn.Module):
        config, device = tiny.model.config, tiny.model.device

        def forward(self, **_: Any) -> Any:
            raise AssertionError("a forward pass")

    deaf = replace(tiny, model=Deaf())
    assert complete(deaf, ASKED, ["{", Choice(("a",)), "}", Choice(("b",))]) == ["a", "b"]
    assert complete(deaf, ASKED, ["{}"]) == []
    with pytest.raises(AssertionError, match="a forward pass"):
        complete(deaf, ASKED, [Choice(("a", "b")), "."])


def test_the_system_prompt_is_read_once_and_kept_within_bounds(tiny: LanguageModel) -> None:
    read: list[int] = []
    kept = PrefixCaches(most=2)

    def count(_: Any, __: Any, given: dict[str, Any]) -> None:
        read.append(given["input_ids"].numel())

    hook = tiny.model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        first = complete(tiny, ASKED, PARTS, kept=kept)
        once = sum(read)
        read.clear()
        assert complete(tiny, ASKED, PARTS, kept=kept) == first
        assert sum(read) < once - 8
    finally:
        hook.remove()
    for number in range(4):
        system = {"role": "system", "content": f"Prompt {number}"}
        complete(tiny, [system, ASKED[1]], PARTS, kept=kept)
    assert len(kept) == 2
    assert complete(tiny, ASKED, PARTS, kept=kept) == first


def test_what_is_kept_belongs_to_its_model(tiny: LanguageModel, small: Small) -> None:
    kept = PrefixCaches()
    complete(tiny, ASKED, PARTS, kept=kept)
    other = small("llama")
    assert complete(other, ASKED, PARTS, kept=kept) == complete(other, ASKED, PARTS)
    assert len(kept) == 2


@given(
    options=st.lists(st.text(min_size=1, max_size=12), min_size=2, max_size=4, unique=True),
    before=st.text(max_size=8),
)
@settings(max_examples=15)
def test_whatever_the_options_are(tiny: LanguageModel, options: list[str], before: str) -> None:
    parts: list[str | Choice] = [before, Choice(tuple(f"{one}\n\n" for one in options)), '"}']
    try:
        found = complete(tiny, ASKED, parts)
    except UserError as error:
        assert "begins with another" in str(error)  # noqa: PT017
        return
    scores = {
        option: likelihood(tiny, ASKED, before + option + '"}')[0] for option in parts[1].options
    }
    assert scores[found[0]] >= max(scores.values()) - 1e-3


def test_options_that_cannot_be_compared_are_refused(tiny: LanguageModel) -> None:
    with pytest.raises(UserError, match="begins with another"):
        complete(tiny, ASKED, [Choice(("Heat", "Heat and dust"))])
    with pytest.raises(UserError, match="different options"):
        Choice(("a", "a"))
    with pytest.raises(UserError, match="different options"):
        Choice(())


def test_too_long_a_text_is_refused(tiny: LanguageModel) -> None:
    long: Messages = [{"role": "user", "content": "a word " * 400}]
    with pytest.raises(UserError, match="does not fit"):
        complete(tiny, long, [Choice(("a.", "b."))])
