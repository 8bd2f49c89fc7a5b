from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.agents.limits import Budget, BudgetReached, Price, Rate
from tastemaker.errors import UserError


class Clock:
    """Time that passes when somebody sleeps, and no faster."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> bool:
        self.now += seconds
        return False


WORK = st.lists(
    st.tuples(
        st.floats(0, 5),  # seconds that pass before
        st.integers(1, 5000),  # tokens
        st.none() | st.floats(0, 30),  # a pause the server asks for afterwards
        st.floats(0, 1),  # share of the tokens that was used
    ),
    min_size=1,
    max_size=40,
)


@given(WORK, st.none() | st.floats(1, 6000), st.none() | st.floats(100, 1e6))
def test_never_faster_than_allowed(
    work: list[tuple[float, int, float | None, float]], requests: float | None, tokens: float | None
) -> None:
    clock = Clock()
    rate = Rate(requests=requests, tokens=tokens, clock=clock)
    sent: list[tuple[float, float]] = []
    held = 0.0
    for pause, size, hold, share in work:
        clock.now += pause
        assert rate.wait(size, sleep=clock.sleep)
        assert clock.now >= held - 1e-6
        used = int(size * share)
        rate.give_back(size - used)
        sent.append((clock.now, used))
        if hold is not None:
            rate.hold(hold)
            held = max(held, clock.now + hold)
    for (earlier, size), (later, _) in pairwise(sent):
        assert later - earlier >= (60 / requests if requests else 0) - 1e-6
        assert later - earlier >= (size * 60 / tokens if tokens else 0) - 1e-6


def test_tokens_that_were_not_used_are_given_to_others() -> None:
    clock = Clock()
    rate = Rate(tokens=600, clock=clock)  # ten a second
    for _ in range(5):
        rate.wait(1000, sleep=clock.sleep)
        rate.give_back(900)
    assert clock.now == pytest.approx(100 + 4 * 10)


@given(st.floats(1, 600), st.integers(2, 20))
def test_no_slower_than_necessary(requests: float, count: int) -> None:
    clock = Clock()
    rate = Rate(requests=requests, clock=clock)
    began = clock.now
    for _ in range(count):
        rate.wait(1, sleep=clock.sleep)
    assert clock.now - began == pytest.approx((count - 1) * 60 / requests)


def test_without_limits_nobody_waits() -> None:
    clock = Clock()
    rate = Rate(clock=clock)
    assert all(rate.wait(10**9, sleep=clock.sleep) for _ in range(100))
    assert clock.now == 100.0


def test_those_who_wait_are_held_too_and_do_not_burst_afterwards() -> None:
    clock = Clock()
    rate = Rate(requests=60, clock=clock)
    rate.wait(1, sleep=clock.sleep)  # the next place is a second later
    sent: list[float] = []

    def interrupted(seconds: float) -> bool:
        if not sent:
            rate.hold(10)  # while this one waits for its place
            sent.append(clock.now)
        return clock.sleep(seconds)

    rate.wait(1, sleep=interrupted)
    assert clock.now == pytest.approx(110.0)
    rate.wait(1, sleep=clock.sleep)
    assert clock.now == pytest.approx(111.0)


def test_a_shorter_pause_does_not_end_a_longer_one() -> None:
    clock = Clock()
    rate = Rate(clock=clock)
    rate.hold(10)
    rate.hold(1)
    rate.wait(1, sleep=clock.sleep)
    assert clock.now == 110.0


def test_a_stopped_job_does_not_wait() -> None:
    rate = Rate(clock=Clock())
    rate.hold(10)
    assert not rate.wait(1, sleep=lambda seconds: True)


def test_threads_together_keep_the_rate() -> None:
    rate = Rate(requests=60 * 500)
    stopped = threading.Event()
    sent: list[float] = []

    def work(_: int) -> None:
        for _ in range(10):
            assert rate.wait(1, sleep=stopped.wait)
            sent.append(rate._clock())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert max(sent) - min(sent) >= 79 / 500 - 0.02


@given(
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 5000), st.floats(0, 1)), max_size=40),
    st.floats(0, 0.05),
    st.integers(0, 30),
)
def test_never_beyond_the_budget(
    work: list[tuple[int, int, float]], max_cost: float, max_requests: int
) -> None:
    price = Price(prompt=1.0, completion=4.0)
    budget = Budget(max_requests=max_requests, max_cost=max_cost, price=price)
    sent, paid = 0, 0.0
    open_: list[tuple[float, float]] = []
    for asked, given_, share in work:
        try:
            reserved = budget.reserve(asked, given_)
        except BudgetReached:
            continue
        sent += 1
        open_.append((reserved, reserved * share))
        if len(open_) > 3:
            budget.settle(*open_[0])
            paid += open_.pop(0)[1]
        assert paid + sum(most for most, _ in open_) <= max_cost + 1e-9
    for one in open_:
        budget.settle(*one)
        paid += one[1]
    assert sent <= max_requests
    assert budget.spent == pytest.approx(paid)
    assert budget.requests == sent


def test_threads_together_keep_the_budget_and_use_it_up() -> None:
    price = Price(prompt=1.0, completion=1.0)
    budget = Budget(max_cost=1.0, price=price)  # a million tokens
    paid: list[float] = []

    def work(_: int) -> None:
        while True:
            try:
                reserved = budget.reserve(50_000, 50_000, wait=True)
            except BudgetReached:
                return
            budget.settle(reserved, 0.01)
            paid.append(0.01)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert sum(paid) == pytest.approx(budget.spent)
    assert 0.9 - 1e-9 <= budget.spent <= 1.0 + 1e-9


def test_what_is_on_its_way_counts_at_its_highest_cost() -> None:
    budget = Budget(max_cost=1.0, price=Price(prompt=1.0, completion=1.0))
    reserved = budget.reserve(300_000, 300_000)
    with pytest.raises(BudgetReached, match=r"max_cost of 1 is reached: 0\.0000 spent"):
        budget.reserve(300_000, 300_000)
    budget.settle(reserved, 0.1)
    budget.reserve(300_000, 300_000)


def test_a_failed_request_counts_as_a_request() -> None:
    budget = Budget(max_requests=1)
    budget.settle(budget.reserve(1, 1), None)
    with pytest.raises(BudgetReached, match="max_requests of 1 is reached"):
        budget.reserve(1, 1)


def test_what_was_spent_earlier_counts() -> None:
    budget = Budget(max_cost=1.0, price=Price(prompt=1.0, completion=1.0), spent=0.95)
    with pytest.raises(BudgetReached):
        budget.reserve(100_000, 0)


def test_a_cost_needs_a_price() -> None:
    with pytest.raises(UserError, match="without a price"):
        Budget(max_cost=1.0)
