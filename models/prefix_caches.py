"""What a language model remembers of prompts that come again."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from typing import Any

__all__ = ["PrefixCaches"]


class PrefixCaches:
    """Keys and values of system prompts, kept between calls; the least recently used go first.

    Args:
        most: Prompts kept.
    """

    def __init__(self, most: int = 4) -> None:
        self._most = most
        self._kept: OrderedDict[tuple[int, tuple[int, ...]], Any] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, model: Any, tokens: tuple[int, ...]) -> Any:
        """A copy of what is kept for these tokens, or None."""
        with self._lock:
            found = self._kept.get((id(model), tokens))
            if found is None:
                return None
            self._kept.move_to_end((id(model), tokens))
            return copy.deepcopy(found[1])

    def keep(self, model: Any, tokens: tuple[int, ...], cache: Any) -> None:
        """Keep a copy."""
        with self._lock:
            # The model is held too, so that no other can get its identity.
            self._kept[id(model), tokens] = (model, copy.deepcopy(cache))
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
