"""Who is talking: a known user or a new one, and what was judged in the running conversation."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Visitor"]


@dataclass(frozen=True)
class Visitor:
    """Whom to recommend to. Items are dense numbers.

    Attributes:
        user: Dense number of a known user, whose history counts; None: a new visitor.
        liked: Judged so in this conversation, oldest first.
        disliked: Likewise. How likes and dislikes alternated is not kept: dislikes are taken to be
            the older ones.
    """

    user: int | None = None
    liked: tuple[int, ...] = ()
    disliked: tuple[int, ...] = ()

    @property
    def judged(self) -> tuple[int, ...]:
        """All items judged in this conversation, oldest first."""
        return (*self.disliked, *self.liked)

    @property
    def opinions(self) -> tuple[bool, ...]:
        """Whether each of `judged` is liked."""
        return (*(False for _ in self.disliked), *(True for _ in self.liked))
