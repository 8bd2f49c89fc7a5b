"""How much clients may take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.agents.server.limits import Buckets, Limits, client_key
from tastemaker.errors import UnknownNameError, UserError


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_client_may_ask_at_once_and_then_at_speed() -> None:
    clock = Clock()
    buckets = Buckets(60, clients=10, clock=clock)
    assert [buckets.take("a") for _ in range(61)] == [0] * 60 + [1]
    assert buckets.take("b") == 0
    clock.now = 1.0
    assert [buckets.take("a"), buckets.take("a")] == [0, 1]


def test_the_wait_that_is_told_is_enough() -> None:
    clock = Clock()
    buckets = Buckets(7, clients=10, clock=clock)
    while not (wait := buckets.take("a")):
        pass
    clock.now += wait
    assert buckets.take("a") == 0


@given(st.lists(st.tuples(st.integers(0, 200), st.floats(0, 5)), max_size=80))
def test_no_minute_has_more_than_two_minutes_worth_and_memory_is_bounded(
    steps: list[tuple[int, float]],
) -> None:
    clock = Clock()
    buckets = Buckets(5, clients=20, clock=clock)
    allowed: list[float] = []
    for client, pause in steps:
        clock.now += pause
        if not buckets.take("same"):
            allowed.append(clock.now)
        buckets.take(str(client))
        assert len(buckets) <= 20
    for begin in allowed:
        assert sum(begin <= moment < begin + 60 for moment in allowed) <= 10


def test_one_ipv6_network_is_one_client() -> None:
    assert client_key("2001:db8::1") == client_key("2001:db8::ffff:2")
    assert client_key("2001:db8::1") != client_key("2001:db8:0:1::1")
    assert client_key("127.0.0.1") != client_key("127.0.0.2")


def test_limits_are_changed_by_name() -> None:
    changed = Limits().changed(["messages=3", "clients=7"])
    assert (changed.messages, changed.clients) == (3, 7)
    assert changed.body_bytes == Limits().body_bytes
    with pytest.raises(UnknownNameError, match="did you mean 'messages'"):
        Limits().changed(["mesages=3"])
    for wrong in ("messages=0", "messages=-1", "messages=many", "messages"):
        with pytest.raises(UserError, match="whole number above 0"):
            Limits().changed([wrong])
