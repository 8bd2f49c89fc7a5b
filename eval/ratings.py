"""Ratings read from generated texts, and their errors, without dropping any.

P5's evaluation keeps predictions from "1.0" to "4.9" only, so a predicted "5.0" leaves the error.
Here every question counts: a text without a number is answered by a fallback, a number beyond the
scale by the end of the scale, and both are counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tastemaker.eval.resample import resampled_sums

__all__ = ["ParsedRatings", "RatingErrors", "parse_ratings", "rating_draws", "rating_errors"]

Floats = NDArray[np.float64]
# A number that is no part of a word or a name such as user_12; minus signs are - and U+2212.
_NUMBER = re.compile(r"(?<![\w.\-\u2212])[-\u2212]?(?:\d+(?:\.\d+)?|\.\d+)")
_BETWEEN = " \t\n,;:"  # what parts a rating from the text after it


@dataclass(frozen=True, eq=False)
class ParsedRatings:
    """Ratings read from n texts.

    Attributes:
        values: float64 [n], on the scale; NaN where a text holds no number.
        outside: bool [n], whether the number was beyond the scale and was moved to its end.
        rests: n texts, what stands behind the number; the whole text where there is none.
    """

    values: Floats
    outside: NDArray[np.bool_]
    rests: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class RatingErrors:
    """Errors of n predicted ratings, in units of the scale.

    Attributes:
        n: Questions, every one of them counted.
        rmse: Root of the mean squared error; NaN without questions.
        mae: Mean absolute error; likewise.
        unparsable: Questions answered by the fallback.
        out_of_range: Answers beyond the scale, counted as its end.
    """

    n: int
    rmse: float
    mae: float
    unparsable: int
    out_of_range: int


def parse_ratings(texts: Sequence[str], *, lowest: float, highest: float) -> ParsedRatings:
    """Read the first number of each text: `4`, `5.0`, `4 stars`, `Rating: 3.5`, `4.2 , great`.

    On a scale without negative ratings a minus sign is the dash of a list of options, as in P5's
    prompt 1-5: `-4` is 4. Digits within words and names are no ratings: `item_12`.

    Args:
        texts: n generated answers.
        lowest: Of the scale.
        highest: Of the scale, above `lowest`.

    Raises:
        ValueError: the scale is empty.
    """
    if not lowest < highest:
        raise ValueError(f"a scale from {lowest} to {highest} holds no ratings")
    given = np.full(len(texts), np.nan)
    rests = []
    for place, text in enumerate(texts):
        found = _NUMBER.search(text)
        rests.append((text if found is None else text[found.end() :]).strip(_BETWEEN))
        if found is not None:
            given[place] = float(found.group().replace("\u2212", "-"))
    if lowest >= 0:
        given = np.abs(given)
    values = np.clip(given, lowest, highest)
    return ParsedRatings(values, (values != given) & ~np.isnan(given), tuple(rests))


def rating_errors(
    predicted: ParsedRatings | ArrayLike, actual: ArrayLike, *, fallback: float
) -> RatingErrors:
    """Errors of all predictions.

    Args:
        predicted: What `parse_ratings` read, or numbers [n]; NaN for no answer.
        actual: Numbers [n], the true ratings.
        fallback: Stands in for no answer, such as the mean of the train part.

    Raises:
        ValueError: arrays of several lengths, or a true rating or fallback that is no number.
    """
    errors, unparsable = _errors(predicted, actual, fallback=fallback)
    outside = int(predicted.outside.sum()) if isinstance(predicted, ParsedRatings) else 0
    some = len(errors) > 0
    return RatingErrors(
        n=len(errors),
        rmse=float(np.sqrt((errors**2).mean())) if some else float("nan"),
        mae=float(np.abs(errors).mean()) if some else float("nan"),
        unparsable=unparsable,
        out_of_range=outside,
    )


def rating_draws(
    predicted: ParsedRatings | ArrayLike,
    actual: ArrayLike,
    users: ArrayLike,
    *,
    fallback: float,
    count: int = 1000,
    seed: int = 0,
) -> dict[str, Floats]:
    """`rmse` and `mae` on resamples of users, float64 [count] each; one seed draws alike.

    Args:
        predicted: As for `rating_errors`.
        actual: Likewise.
        users: Integers [n], who gave each rating.
        fallback: Stands in for no answer.
        count: Resamples.
        seed: Of the draws.
    """
    errors, _ = _errors(predicted, actual, fallback=fallback)
    columns = np.stack([errors**2, np.abs(errors), np.ones(len(errors))], axis=1)
    squared, absolute, rows = resampled_sums(columns, users, count=count, seed=seed).T
    return {"rmse": np.sqrt(squared / rows), "mae": absolute / rows}


def _errors(
    predicted: ParsedRatings | ArrayLike, actual: ArrayLike, *, fallback: float
) -> tuple[Floats, int]:
    """Differences of all answers, and how many the fallback gave."""
    given = predicted.values if isinstance(predicted, ParsedRatings) else predicted
    values, true = np.asarray(given, dtype=np.float64), np.asarray(actual, dtype=np.float64)
    if values.shape != true.shape or values.ndim != 1:
        raise ValueError(f"predicted ratings {values.shape}, true ones {true.shape}")
    if np.isnan(true).any() or np.isnan(fallback):
        raise ValueError("a true rating or the fallback is no number (NaN)")
    missing = np.isnan(values)
    return np.where(missing, fallback, values) - true, int(missing.sum())
