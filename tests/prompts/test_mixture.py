"""Which templates ask about which examples."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.errors import UserError
from tastemaker.prompts.binding import Binder
from tastemaker.prompts.catalogue import Catalogue
from tastemaker.prompts.examples import Examples
from tastemaker.prompts.mixture import Mixture
from tastemaker.prompts.template import find_template, find_templates
from tastemaker.testing.world import shop_split

THREE = find_templates(["p5/2-1", "p5/2-2", "p5/2-3"])
MANY = find_templates(["p5/2-*"])


def many(count: int, *, start: int = 0) -> Examples:
    """Examples of nobody in particular."""
    rows = np.arange(start, start + count)
    return Examples(rows, rows % 97, rows % 89, rows, np.ones(count, dtype=np.int8))


def chosen(mixture: Mixture, examples: Examples, *, fits: Any = None, **options: Any) -> list[Any]:
    """The templates of each example, by their places."""
    if fits is None:
        fits = np.ones((len(examples), len(mixture.templates)), dtype=bool)
    places, templates = mixture.choose(examples, fits, **{"seed": 0, **options})
    assert (np.diff(places) >= 0).all()
    return [templates[places == place].tolist() for place in range(len(examples))]


@pytest.mark.parametrize("weights", [None, (1, 2, 5), (0.1, 0.1, 0.01)])
def test_weights_say_how_often_each_is_drawn(weights: Sequence[float] | None) -> None:
    found = chosen(Mixture.of(THREE, weights=weights), many(20_000))
    assert {len(one) for one in found} == {1}
    counts = np.bincount([one[0] for one in found], minlength=3)
    share = np.array(weights or (1, 1, 1)) / sum(weights or (1, 1, 1))
    spread = np.sqrt(20_000 * share * (1 - share))
    assert (np.abs(counts - 20_000 * share) < 4 * spread).all()


def test_several_for_each_example_are_different_ones() -> None:
    found = chosen(Mixture.of(THREE, weights=(1, 1, 4), per_example=2), many(20_000))
    assert {len(set(one)) for one in found} == {2}
    counts = np.bincount(np.ravel(found)) / 20_000
    # Drawn one after the other without replacement: 1/6 + 4/6 · 1/2 + 1/6 · 1/5.
    share = 1 / 6 + 4 / 6 / 2 + 1 / 6 / 5
    assert counts == pytest.approx([share, share, 2 - 2 * share], abs=0.015)


@pytest.mark.parametrize("per_example", [None, 3, 7])
def test_all_that_fit(per_example: int | None) -> None:
    fits = np.random.default_rng(0).random((50, 3)) < 0.5
    found = chosen(Mixture.of(THREE, per_example=per_example), many(50), fits=fits)
    assert found == [np.flatnonzero(row).tolist() for row in fits]


@given(st.integers(1, 4), st.integers(0, 2**31), st.integers(0, 3))
def test_only_what_fits_is_drawn(per_example: int, seed: int, epoch: int) -> None:
    fits = np.random.default_rng(seed).random((30, len(MANY))) < 0.2
    mixture = Mixture.of(MANY, per_example=per_example)
    for row, templates in zip(
        fits, chosen(mixture, many(30), fits=fits, seed=seed, epoch=epoch), strict=True
    ):
        assert len(templates) == min(per_example, row.sum())
        assert set(templates) <= set(np.flatnonzero(row).tolist())


@given(st.lists(st.integers(0, 60), max_size=4), st.integers(1, 3))
def test_draws_do_not_depend_on_what_else_is_asked(cuts: list[int], per_example: int) -> None:
    mixture, whole = Mixture.of(MANY, per_example=per_example), many(60)
    borders = [0, *sorted(cuts), 60]
    parts = [chosen(mixture, whole.take(slice(start, stop))) for start, stop in pairwise(borders)]
    assert [one for part in parts for one in part] == chosen(mixture, whole)
    assert chosen(mixture, whole.take(np.arange(60)[::-1])) == chosen(mixture, whole)[::-1]


def test_epochs_and_seeds_draw_anew_and_again_the_same() -> None:
    mixture, examples = Mixture.of(MANY), many(200)
    first = chosen(mixture, examples)
    assert first == chosen(mixture, examples)
    for options in ({"epoch": 1}, {"seed": 1}):
        other = chosen(mixture, examples, **options)
        assert other == chosen(mixture, examples, **options)
        same = sum(one == two for one, two in zip(first, other, strict=True))
        assert same < 200 * 3 / len(MANY)


def test_another_template_only_competes() -> None:
    few = chosen(Mixture.of(THREE[:2], weights=(1, 3)), many(500))
    more = chosen(Mixture.of(THREE, weights=(1, 3, 2)), many(500))
    assert all(two in (one, [2]) for one, two in zip(few, more, strict=True))
    assert [2] in more


def test_the_order_of_the_templates_does_not_matter() -> None:
    forwards = Mixture.of(THREE, weights=(1, 2, 3))
    backwards = Mixture.of(THREE[::-1], weights=(3, 2, 1))
    found = chosen(backwards, many(500))
    assert chosen(forwards, many(500)) == [[2 - place for place in one] for one in found]


def test_no_examples_no_draws() -> None:
    assert chosen(Mixture.of(THREE), many(0)) == []


def test_which_template_fits_which_example() -> None:
    split = shop_split()
    binder = Binder(split.histories, Catalogue(split.tables), candidates=5)
    names = ["tallrec/movie", "p5/2-1", "p5/3-12"]
    mixture = Mixture.of(find_templates(names))
    examples = Examples.of_rows(split.tables, split.train)
    fits = mixture.fits(binder, examples)
    assert fits.shape == (len(split.train), 3)
    for place, name in enumerate(names):
        assert (fits[:, place] == binder.fits(examples, find_template(name))).all()
    assert fits[:, 0].all()
    assert (fits[:, 1] == (examples.labels == 1)).all()


FAMILIES = find_templates(["p5/2-*", "p5/5-*", "p5/1-*"])
TASKS = np.array([template.task for template in FAMILIES])


def met(counts: Sequence[int], *, negatives: int = 0) -> tuple[Binder, Examples]:
    """Likes of users who have so many each, and items drawn beside each of them."""
    split = shop_split()
    binder = Binder(split.histories, Catalogue(split.tables), candidates=5)
    users = np.repeat(np.arange(len(counts)), counts)
    own = np.zeros(len(users) * (1 + negatives), dtype=np.int8)
    own[:: 1 + negatives] = 1
    rows = np.repeat(np.arange(len(users)), 1 + negatives)
    users = np.repeat(users, 1 + negatives)
    return binder, Examples(rows, users, np.arange(len(rows)) % 83, rows, own)


class Fitting(Mixture):
    """Fits whatever the label allows, without looking at any data."""

    def fits(self, binder: Binder, examples: Examples) -> Any:
        likes = np.array([one.names_item or one.offers for one in self.templates])
        return (examples.labels == 1)[:, None] | ~likes


def drawn(mixture: Mixture, binder: Binder, examples: Examples, **options: Any) -> tuple[Any, Any]:
    fits = mixture.fits(binder, examples)
    return mixture.choose(examples, fits, **{"seed": 0, **options})


def test_each_task_is_drawn_by_itself() -> None:
    binder, examples = met([4] * 20)
    mixture = Fitting.of(FAMILIES).repeated(
        binder, examples, times={"sequential": 3, "direct": 50}, per_user={}
    )
    places, templates = drawn(mixture, binder, examples)
    for task, count in {"sequential": 3, "rating": 1, "direct": (TASKS == "direct").sum()}.items():
        mine = TASKS[templates] == task
        assert (np.bincount(places[mine], minlength=80) == count).all()
    assert len(set(zip(places.tolist(), templates.tolist(), strict=True))) == len(places)
    # Templates of a task are drawn alike often, whatever the others do.
    of_rating = np.bincount(templates[TASKS[templates] == "rating"])
    assert (of_rating[of_rating > 0] > 1).sum() >= 8


def test_so_many_per_user_are_spread_over_the_rows_of_each() -> None:
    counts = [1, 2, 5, 30, 400]
    binder, examples = met(counts)
    mixture = Fitting.of(FAMILIES).repeated(
        binder, examples, times={}, per_user={"sequential": 20, "direct": 5}
    )
    sums = np.zeros((2, 5))
    for epoch in range(40):
        places, templates = drawn(mixture, binder, examples, epoch=epoch)
        for which, task in enumerate(("sequential", "direct")):
            owners = examples.users[places[TASKS[templates] == task]]
            sums[which] += np.bincount(owners, minlength=5) / 40
    most = (TASKS == "sequential").sum()
    assert sums[0] == pytest.approx([most, 20, 20, 20, 20], rel=0.12)
    assert sums[1] == pytest.approx([5] * 5, rel=0.15)
    assert sums[0, 1:3].tolist() == [20, 20]  # nothing is left to chance: 2 · 10 and 5 · 4


@pytest.mark.parametrize("negatives", [1, 3])
def test_negatives_leave_the_share_of_each_template_as_it_was(negatives: int) -> None:
    binder, examples = met([100] * 20, negatives=negatives)
    mixture = Fitting.of(FAMILIES).repeated(
        binder, examples, times={}, per_user={"sequential": 200, "direct": 200}, negatives=negatives
    )
    places, templates = drawn(mixture, binder, examples)
    by_label = np.array([one.answers_by_label for one in FAMILIES])[templates]
    for task in ("sequential", "direct"):
        mine = TASKS[templates] == task
        assert mine.sum() == pytest.approx(4000, rel=0.03)
        family = [one for one in FAMILIES if one.task == task]
        share = np.mean([one.answers_by_label for one in family])
        assert by_label[mine].mean() == pytest.approx(share, abs=0.03)
        liked = examples.labels[places[mine & by_label]].mean()
        assert liked == pytest.approx(1 / (1 + negatives), abs=0.04)


@settings(max_examples=10)
@given(st.lists(st.integers(0, 60), max_size=4), st.integers(0, 2))
def test_repeats_do_not_depend_on_what_else_is_asked(cuts: list[int], epoch: int) -> None:
    binder, whole = met([3] * 20)
    mixture = Fitting.of(FAMILIES).repeated(
        binder, whole, times={"rating": 2}, per_user={"sequential": 7, "direct": 1}
    )
    borders = [0, *sorted(cuts), 60]
    found = []
    for start, stop in pairwise(borders):
        places, templates = drawn(mixture, binder, whole.take(slice(start, stop)), epoch=epoch)
        found += zip((places + start).tolist(), templates.tolist(), strict=True)
    places, templates = drawn(mixture, binder, whole, epoch=epoch)
    assert found == list(zip(places.tolist(), templates.tolist(), strict=True))


def test_sizes_are_counted_where_a_template_of_the_task_fits() -> None:
    split = shop_split()
    binder = Binder(split.histories, Catalogue(split.tables), candidates=5)
    examples = Examples.of_rows(split.tables, split.train)
    mixture = Mixture.of(find_templates(["p5/2-3", "p5/3-9"])).repeated(
        binder, examples, times={}, per_user={"sequential": 2, "explanation": 3}
    )
    fits = mixture.fits(binder, examples)
    for place, task in enumerate(("sequential", "explanation")):
        sizes = mixture.repeats[task].sizes
        assert sizes is not None
        own = np.bincount(examples.users[fits[:, place]], minlength=split.tables.n_users)
        assert sizes.tolist() == np.maximum(own, 1).tolist()


def test_what_nobody_rated_is_not_asked_for_a_rating() -> None:
    split = shop_split()
    binder = Binder(split.histories, Catalogue(split.tables), candidates=5)
    rows = split.train[:20]
    other = Examples.of_rows(split.tables, rows, items=np.full(20, split.tables.n_items - 1))
    met_item = split.tables.interactions["item"].to_numpy()[rows] == split.tables.n_items - 1
    like_or_dislike, direct = find_templates(["p5/1-4", "p5/5-1"])
    assert (binder.fits(other, like_or_dislike) == met_item).all()
    assert binder.fits(other, direct).all()


def test_a_mixture_needs_templates_about_the_same_thing() -> None:
    with pytest.raises(UserError, match="no template is named"):
        Mixture.of([])
    with pytest.raises(UserError) as caught:
        Mixture.of(find_templates(["tallrec/movie", "kar/user_movies"]))
    assert "'tallrec/movie' is per interaction" in str(caught.value)
    assert "'kar/user_movies' is per user" in str(caught.value)
    assert Mixture.of(find_templates(["kar/user_*"])).per == "user"
