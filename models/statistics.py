"""Counts of the training events that lie strictly before a moment, as dense features.

A training row knows no more than a row of the test part would at its own moment: neither its own
label nor those of later events. (Leaving one's own label out of a total over all training events is
not enough: together with the item's id, the rest tells the label.)
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tastemaker.data.history import Histories
from tastemaker.data.splits import Split
from tastemaker.models.live_trail import Trail

__all__ = ["OF_ITEMS", "OF_USERS", "Statistics", "smoothed_log_odds"]

OF_ITEMS = ("item_mean", "item_count")
OF_USERS = ("liked_share", "user_count")
_EDGE = 1e-4  # probabilities stay this far from 0 and 1, so that log-odds stay finite
Floats = NDArray[np.float64]
Whole = NDArray[np.int64]


class Statistics:
    """Statistics of items and users at any moment.

    Args:
        split: Items are counted in its train part; a user's own past is everything before.
        share: Share of likes in the train part, towards which small counts are drawn, 0 to 1.
        length: Events of a user that `liked_share` looks at; TALLRec: 10.
        item_strength: Average events added to every item.
        user_strength: Average events added to every history.
    """

    def __init__(
        self,
        split: Split,
        *,
        share: float,
        length: int = 10,
        item_strength: float = 10.0,
        user_strength: float = 1.0,
    ) -> None:
        self._split, self._share, self._length = split, share, length
        self._item_strength, self._user_strength = item_strength, user_strength

    def column(
        self, name: str, *, users: Whole, items: Whole, times: Whole, trail: Trail | None = None
    ) -> Floats:
        """One of the statistics, float64 [n].

        * `item_mean`: log-odds of a like among the item's earlier training rows, smoothed.
        * `item_count`: log(1 + number) of its earlier training events, drawn negatives left out.
        * `liked_share`: log-odds of a like among the user's last events, smoothed.
        * `user_count`: log(1 + number) of all earlier events of the user.

        Args:
            name: Which one.
            users: Dense users [n].
            items: Dense items [n].
            times: Moments [n], unix seconds.
            trail: The users' last events, `length` of them, instead of those that the tables hold.

        Raises:
            KeyError: another name.
        """
        if name == "item_mean":
            counts = self._rows_of_items.at(items, times).lengths
            likes = self._rows_of_items.at(items, times, only="liked").lengths
            return smoothed_log_odds(likes, counts, share=self._share, strength=self._item_strength)
        if name == "item_count":
            return np.log1p(self._events_of_items.at(items, times).lengths.astype(np.float64))
        if name == "user_count":
            past = self._split.histories.at(users, times).lengths if trail is None else trail.counts
            return np.log1p(past.astype(np.float64))
        if name == "liked_share":
            if trail is None:
                return self.liked_share(users, times)
            return self._liked_share(trail.likes, trail.shown)
        raise KeyError(name)

    def liked_share(self, users: ArrayLike, times: ArrayLike) -> Floats:
        """Log-odds of a like among the last events of dense users [n] before moments [n]."""
        past = self._split.histories.at(users, times, max_length=self._length)
        labels = self._split.tables.interactions["label"].to_numpy()
        running = np.zeros(len(past.events) + 1, dtype=np.int64)
        np.cumsum(labels[past.events], out=running[1:])
        return self._liked_share(np.diff(running[past.offsets]), past.lengths)

    def _liked_share(self, likes: Whole, counts: Whole) -> Floats:
        return smoothed_log_odds(likes, counts, share=self._share, strength=self._user_strength)

    @cached_property
    def _rows_of_items(self) -> Histories:
        """The gate to the past, turned around: training rows of each item in order of time."""
        return self._by_item(self._split.train)

    @cached_property
    def _events_of_items(self) -> Histories:
        """The same without negatives that were drawn."""
        return self._by_item(self._split.train_events)

    def _by_item(self, rows: Whole) -> Histories:
        events = self._split.tables.interactions[rows]
        items, times, labels = (events[name].to_numpy() for name in ("item", "time", "label"))
        return Histories(items, times, labels=labels)


def smoothed_log_odds(
    likes: ArrayLike, counts: ArrayLike, *, share: float, strength: float
) -> Floats:
    """Log-odds of (likes + strength · share) / (counts + strength); `share` where that is 0 / 0."""
    total = np.asarray(counts, dtype=np.float64) + strength
    liked = np.asarray(likes, dtype=np.float64) + strength * share
    known = total > 0
    smoothed = np.where(known, liked / np.where(known, total, 1.0), share)
    clipped = np.clip(smoothed, _EDGE, 1 - _EDGE)
    return np.log(clipped) - np.log1p(-clipped)
