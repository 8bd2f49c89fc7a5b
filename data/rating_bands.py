"""Ratings as finer numbers: which ones stand for a star, and a random one of them.

P5 (Geng et al., RecSys 2022) does not train on whole stars but on numbers with one decimal that lie
around them: 41 answers from 1.0 to 5.0 in place of five, so that a mean of ratings can be said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from tastemaker.errors import DataError

__all__ = ["RatingBands"]

_DECIMALS = 10  # answers per unit of the scale
_TINY = 2.0**-54
Tenths = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RatingBands:
    """The band of numbers around each star.

    A band holds the tenths that are nearer to its star than to another one, the one in the middle
    going up: on a scale of whole stars 2 has 1.5 to 2.4, as in P5's code. The ends of the scale cut
    the outer bands: 1 has 1.0 to 1.4, 5 has 4.5 to 5.0.

    Attributes:
        lowest: Lowest number, in tenths.
        highest: Highest number, in tenths.
        step: Tenths from star to star.
    """

    lowest: int
    highest: int
    step: int

    @classmethod
    def of(cls, ratings: ArrayLike, *, scale: tuple[float, float] | None = None) -> Self:
        """Bands for the distinct values among ratings.

        Args:
            ratings: Numbers [n].
            scale: Lowest and highest rating; those that are there when None.

        Raises:
            DataError: less than two stars, or stars that are not evenly spaced by whole tenths.
        """
        stars = np.unique(np.asarray(ratings, dtype=np.float64))
        ends = (stars[0], stars[-1]) if scale is None and len(stars) else scale or (0.0, 0.0)
        exact = np.append(stars, ends) * _DECIMALS
        tenths = np.unique(np.rint(exact).astype(np.int64))
        steps = np.diff(tenths)
        step = int(steps.min()) if len(steps) else 0
        if step == 0 or np.abs(exact - np.rint(exact)).max() > 1e-4 or (steps % step).any():
            shown = ", ".join(f"{star:g}" for star in stars[:6]) + (", …" if len(stars) > 6 else "")
            raise DataError(
                f"ratings ({shown}) have no bands of numbers with one decimal.",
                allowed="two or more stars, evenly spaced by whole tenths, such as 1, 2, … or "
                "0.5, 1, …",
                remedy="Leave build.rating_noise out.",
            )
        return cls(int(tenths[0]), int(tenths[-1]), step)

    def bands(self, ratings: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lowest and highest number of the band of each rating [n], float64 [n]."""
        stars = np.rint(np.asarray(ratings, dtype=np.float64) * _DECIMALS).astype(np.int64)
        first = stars - self.step // 2
        low = np.maximum(first, self.lowest)
        high = np.minimum(first + self.step - 1, self.highest)
        return low / _DECIMALS, high / _DECIMALS

    def draw(self, ratings: ArrayLike, chances: ArrayLike) -> Tenths:
        """A number for each rating, in tenths.

        It is normal around the middle of the band, its deviation a quarter of the band's width, so
        that one in twenty leaves the band; it is rounded to tenths and kept on the scale.

        Args:
            ratings: Numbers [n].
            chances: Numbers [n] from 0 to 1 that decide.

        Returns:
            int64 [n].
        """
        low, high = self.bands(ratings)
        inner = np.clip(np.asarray(chances, dtype=np.float64), _TINY, 1 - _TINY)
        found = (low + high) / 2 + (high - low) / 4 * ndtri(inner)
        tenths = np.rint(found * _DECIMALS).astype(np.int64)
        return np.clip(tenths, self.lowest, self.highest)

    def texts(self) -> list[str]:
        """Every number of the scale with one decimal, ascending; P5: 41 of them."""
        return [f"{value / _DECIMALS:.1f}" for value in range(self.lowest, self.highest + 1)]

    def places(self, ratings: ArrayLike, chances: ArrayLike) -> NDArray[Any]:
        """Place of a number drawn for each rating among `texts`, int64 [n]."""
        return self.draw(ratings, chances) - self.lowest
