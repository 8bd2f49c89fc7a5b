"""What the server counts, for Prometheus."""

from __future__ import annotations

from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from tastemaker.agents.server.lanes import Lane

__all__ = ["Metrics"]

_FAST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SLOW = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0)


class Metrics:
    """Counters of one server, in a registry of their own.

    Labels are routes and reasons, never paths, users or texts, so that their number is bounded.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        made: dict[str, Any] = {"registry": self.registry}
        self._requests = Counter(
            "tastemaker_requests", "Requests answered.", ("method", "route", "status"), **made
        )
        self._seconds = Histogram(
            "tastemaker_request_seconds",
            "From the first byte of a request to the last of its answer.",
            ("route",),
            buckets=_FAST,
            **made,
        )
        self._in_flight = Gauge("tastemaker_in_flight", "Requests being answered.", **made)
        self._refused = Counter(
            "tastemaker_refused", "Requests refused, by reason.", ("reason",), **made
        )
        self._answers = Counter(
            "tastemaker_answers", "Answers in words, by how they ended.", ("end",), **made
        )
        self._first = Histogram(
            "tastemaker_first_text_seconds",
            "From a message to the first words of its answer.",
            buckets=_SLOW,
            **made,
        )
        self._whole = Histogram(
            "tastemaker_answer_seconds",
            "From a message to the end of its answer.",
            buckets=_SLOW,
            **made,
        )
        self._tokens = Counter(
            "tastemaker_answer_tokens", "Of answers, estimated from their length.", **made
        )
        self._made = made

    def watch(self, lane: Lane) -> None:
        """Show how much work a lane has."""
        name = lane.name
        running = Gauge(f"tastemaker_{name}_running", f"Work in hand: {name}.", **self._made)
        waiting = Gauge(f"tastemaker_{name}_waiting", f"Work in the queue: {name}.", **self._made)
        running.set_function(lambda: lane.running)
        waiting.set_function(lambda: lane.waiting)

    def began(self) -> None:
        """A request has come."""
        self._in_flight.inc()

    def ended(self, method: str, route: str, *, status: int, seconds: float) -> None:
        """A request has been answered.

        Args:
            method: Of HTTP.
            route: Its pattern, such as `/api/conversations/{conversation}`.
            status: Of the answer; 499 when the client left first.
            seconds: That it took.
        """
        self._in_flight.dec()
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def refused(self, reason: str) -> None:
        """A request was refused; the reason is a code of a `Refusal`."""
        self._refused.labels(reason).inc()

    def answered(self, end: str, *, first: float | None, whole: float, tokens: int) -> None:
        """An answer in words is over.

        Args:
            end: `done`, `stopped` by the client, `expired` or `failed`.
            first: Seconds to the first words; None when none came.
            whole: Seconds to the end.
            tokens: Of its text.
        """
        self._answers.labels(end).inc()
        self._whole.observe(whole)
        self._tokens.inc(tokens)
        if first is not None:
            self._first.observe(first)

    def as_text(self) -> bytes:
        """In Prometheus' text form."""
        return generate_latest(self.registry)
