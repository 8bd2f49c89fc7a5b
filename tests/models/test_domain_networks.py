"""Networks of domains: their formulas, what they see, and that none of them touches another."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tastemaker.errors import UnknownNameError, UserError
from tastemaker.models.domain_networks import (
    GENERAL,
    DomainNetworks,
    NetworkShape,
    TokenNetwork,
    domain_codes,
)
from tastemaker.models.layers.ladder import Ladder
from tastemaker.models.layers.pooling import AttentionPooling

WIDTH, RUNGS, LENGTH = 12, 3, 7
DOMAINS = ("books", "games", "music")
LAYOUTS = ("paper", "code")


def shape(**changes: Any) -> NetworkShape:
    sizes: dict[str, Any] = {"width": WIDTH, "rungs": RUNGS, "narrow": 4, "tower": (16, 16)}
    return NetworkShape(**{**sizes, **changes})


def networks(layout: Any = "paper", domains: tuple[str, ...] = DOMAINS) -> DomainNetworks:
    return DomainNetworks(shape(layout=layout), domains=domains, seed=1).eval()


def prompts(lengths: list[int], *, seed: int = 0) -> tuple[list[Tensor], Tensor]:
    """States at each depth, and where there is no token."""
    generator = torch.Generator().manual_seed(seed)
    states = [
        torch.randn(len(lengths), max(lengths), WIDTH, generator=generator) for _ in range(RUNGS)
    ]
    return states, torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]


def cut(states: list[Tensor], padding: Tensor, row: int) -> tuple[list[Tensor], Tensor]:
    """One prompt alone, without padding."""
    size = int((~padding[row]).sum())
    return [one[row : row + 1, :size] for one in states], padding[row : row + 1, :size]


def weights(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: one.clone() for name, one in module.state_dict().items()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_attention_pooling_is_its_formula() -> None:
    pooling = AttentionPooling(WIDTH, keys=4)
    (states, *_), padding = prompts([3, 5])
    found = pooling(states, padding)
    for row, size in ((0, 3), (1, 5)):
        tokens = states[row, :size]
        keys = torch.tanh(tokens @ pooling.key.weight.T + pooling.key.bias)
        attention = torch.softmax(keys @ pooling.query.weight[0], dim=0)
        torch.testing.assert_close(found[row], attention @ tokens)


def test_a_rung_reads_its_depth_and_the_rung_below() -> None:
    ladder = Ladder(RUNGS, width=WIDTH, narrow=4, heads=2, dropout=0.0).eval()
    states, padding = prompts([4, 2])
    first = ladder.rungs[0](states[0], padding)
    second = ladder.rungs[1](states[1] + first, padding)
    expected = ladder.rungs[2](states[2] + second, padding)
    torch.testing.assert_close(ladder(states, padding)[~padding], expected[~padding])


def test_the_paper_gates_the_top_beside_the_ladder_and_the_code_adds_them() -> None:
    states, padding = prompts([4, 6])
    paper, code = (TokenNetwork(shape(layout=one), ladder=True).eval() for one in LAYOUTS)
    assert paper.ladder is not None
    assert code.ladder is not None
    both = torch.cat([states[-1], paper.ladder(states, padding)], dim=1)
    pooled = paper.pooling(both, torch.cat([padding, padding], dim=1))
    torch.testing.assert_close(paper(states, padding), paper.tower(pooled)[:, 0])
    pooled = code.pooling(states[-1] + code.ladder(states, padding), padding)
    torch.testing.assert_close(code(states, padding), code.tower(pooled)[:, 0])


def test_what_each_layout_is_made_of() -> None:
    paper, code = (networks(layout) for layout in LAYOUTS)
    assert paper.general.ladder is None
    assert code.general.ladder is not None
    norms = {
        layout: [one for one in made.general.tower.modules() if isinstance(one, torch.nn.LayerNorm)]
        for layout, made in zip(LAYOUTS, (paper, code), strict=True)
    }
    assert (len(norms["paper"]), len(norms["code"])) == (0, 2)
    wide = [made.network("books").ladder.rungs[0].up[0].out_features for made in (paper, code)]
    assert wide == [4, WIDTH]


def test_no_rungs_no_ladders() -> None:
    for layout in LAYOUTS:
        flat = DomainNetworks(shape(layout=layout, rungs=0), domains=DOMAINS, seed=1).eval()
        assert all(one.ladder is None for one in (flat.general, *flat.specific))
        states, padding = prompts([4, 2, 5])
        codes = torch.tensor([0, 1, -1])
        only_top = [torch.full_like(one, torch.nan) for one in states[:-1]] + states[-1:]
        assert torch.equal(flat(only_top, padding, codes), flat(states, padding, codes))


@given(
    layout=st.sampled_from(LAYOUTS),
    lengths=st.lists(st.integers(1, LENGTH), min_size=1, max_size=6),
    codes=st.lists(st.integers(-1, 2), min_size=6, max_size=6),
    more=st.integers(0, 5),
    seed=st.integers(0, 9),
)
@settings(max_examples=10)
def test_neither_batch_mates_nor_padding_count(
    layout: Any, lengths: list[int], codes: list[int], more: int, seed: int
) -> None:
    made = networks(layout)
    states, padding = prompts(lengths, seed=seed)
    domains = torch.tensor(codes[: len(lengths)])
    with torch.no_grad():
        found = made(states, padding, domains)
        for row in range(len(lengths)):
            alone = made(*cut(states, padding, row), domains[row : row + 1])
            torch.testing.assert_close(found[row : row + 1], alone, rtol=1e-4, atol=1e-5)
        # More padding, and other numbers in it.
        wider = torch.nn.functional.pad(padding, (0, more), value=True)
        filled = []
        for one in states:
            garbage = torch.nn.functional.pad(one, (0, 0, 0, more))
            garbage[wider] = 100 * torch.randn(int(wider.sum()), WIDTH)
            filled.append(garbage)
        torch.testing.assert_close(made(filled, wider, domains), found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("layout", "grads"), list(product(LAYOUTS, (True, False))))
def test_garbage_in_padding_changes_no_bit(layout: Any, grads: bool) -> None:
    """With gradients and without PyTorch attends by different code."""
    made = networks(layout)
    states, padding = prompts([3, 7, 1, 5])
    domains = torch.tensor([0, 1, -1, 2])
    other = [torch.where(padding[..., None], 50 * torch.randn_like(one), one) for one in states]
    with torch.set_grad_enabled(grads):
        one, two = (made(filled, padding, domains) for filled in (states, other))
    assert torch.equal(one, two)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_padding_gets_no_gradient(layout: Any) -> None:
    made = networks(layout)
    states, padding = prompts([3, 6, 1])
    for one in states:
        one.requires_grad_()
    made(states, padding, torch.tensor([0, 1, -1])).sum().backward()
    for place, one in enumerate(states):
        assert one.grad is not None
        assert not one.grad[padding].any()
        read = ~padding
        if layout == "paper" and place < RUNGS - 1:
            read[2] = False  # the general network reads the top only
        assert one.grad[read].any(dim=-1).all()
        assert not one.grad[~read].any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_row_gives_gradient_to_its_own_network_alone(layout: Any) -> None:
    made = networks(layout)
    states, padding = prompts([3, 6, 4])
    made.own(states, padding, torch.tensor([1, -1, 1])).nan_to_num().sum().backward()
    for name in (*DOMAINS, GENERAL):
        touched = [one.grad is not None and bool(one.grad.any()) for one in parameters(made, name)]
        assert any(touched) == (name == "games"), name
    dead = [one.grad is None for one in parameters(made, "games")]
    assert not any(dead)


def parameters(made: DomainNetworks, name: str) -> list[torch.nn.Parameter]:
    return list(made.network(name).parameters())


def test_own_knows_no_other_domain() -> None:
    made = networks()
    states, padding = prompts([3, 6, 4])
    found = made.own(states, padding, torch.tensor([0, -1, 2]))
    assert found.isnan().tolist() == [False, True, False]
    whole = made(states, padding, torch.tensor([0, -1, 2]))
    assert torch.equal(whole[[0, 2]], found[[0, 2]])
    assert torch.equal(whole[1:2], made.general([one[1:2] for one in states], padding[1:2]))


def test_weights_follow_from_seed_and_name_alone() -> None:
    state = torch.get_rng_state()
    one, two = networks(domains=("books", "games")), networks(domains=("games", "music", "books"))
    assert torch.equal(torch.get_rng_state(), state)
    for name in ("books", "games", GENERAL):
        assert_equal(weights(one.network(name)), weights(two.network(name)))
    other = DomainNetworks(shape(), domains=("books",), seed=2)
    for name in ("books", GENERAL):
        pair = (weights(net.network(name))["pooling.key.weight"] for net in (one, other))
        assert not torch.equal(*pair)
    keys = [weights(one.network(name))["pooling.key.weight"] for name in ("books", "games")]
    assert not torch.equal(*keys)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_domain_comes_and_goes_without_a_trace(layout: Any) -> None:
    made = networks(layout, ("books", "games"))
    states, padding = prompts([3, 6, 4, 2, 5, 7])
    names = ["books", "music", "games", "books", "music", "games"]
    old = [0, 2, 3, 5]
    kept = weights(made)
    with torch.no_grad():
        before = made(states, padding, torch.tensor(domain_codes(names, made.domains)))
        made.add("music", seed=1)
        added = made(states, padding, torch.tensor(domain_codes(names, made.domains)))
        assert torch.equal(before[old], added[old])
        assert not torch.isclose(before[[1, 4]], added[[1, 4]]).any()
        assert_equal(kept, {name: one for name, one in weights(made).items() if name in kept})
        made.remove("books")
        assert made.domains == ["games", "music"]
        codes = torch.tensor(domain_codes(names, made.domains))
        assert codes.tolist() == [-1, 1, 0, -1, 1, 0]
        removed = made(states, padding, codes)
        assert torch.equal(added[[1, 2, 4, 5]], removed[[1, 2, 4, 5]])
        general = made.general([one[[0, 3]] for one in states], padding[[0, 3]])
        assert torch.equal(removed[[0, 3]], general)


def test_log_odds_keep_their_digits_in_half_precision() -> None:
    made = networks()
    states, padding = prompts([5] * 64)
    domains = torch.arange(64) % 4 - 1
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = made(states, padding, domains)
    assert found.dtype == torch.float32
    assert (found != found.bfloat16().float()).float().mean() > 0.8


def test_bad_domains() -> None:
    made = networks()
    with pytest.raises(UserError, match="'games' has a network already"):
        made.add("games", seed=0)
    with pytest.raises(
        UserError, match=r"called 'general', like the network[^\0]*Call it otherwise"
    ):
        made.add(GENERAL, seed=0)
    with pytest.raises(UnknownNameError, match="gamse"):
        made.remove("gamse")
    with pytest.raises(UnknownNameError, match="films"):
        made.network("films")
    assert made.domains == list(DOMAINS)
    assert len(made.specific) == 3


def test_a_new_network_is_in_the_mode_of_the_others() -> None:
    made = networks()
    assert not made.add("films", seed=0).training
    assert made.train().add("news", seed=0).training


def test_heads_must_divide() -> None:
    with pytest.raises(UserError, match="heads = 3 does not divide"):
        shape(heads=3)


def test_codes() -> None:
    assert domain_codes(["b", None, "c", "a", "b"], ["a", "b"]) == [1, -1, -1, 0, 1]
