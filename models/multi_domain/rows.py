"""Which domain a row belongs to: the rows of some domains, and whose head answers a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from tastemaker.data.domains import domain_names, domains_of
from tastemaker.data.splits import Split
from tastemaker.data.tables import Tables
from tastemaker.errors import DataError, UnknownNameError, UserError

__all__ = [
    "answered",
    "checked_domains",
    "heads_of",
    "require_addable",
    "require_trainable",
    "rows_of_domains",
]

Floats = NDArray[np.float32]
Whole = NDArray[np.int64]


def checked_domains(domains: Sequence[str]) -> tuple[str, ...]:
    """Names of domains, at least one and each once.

    Raises:
        UserError: none, or one twice.
    """
    again = [name for name in dict.fromkeys(domains) if list(domains).count(name) > 1]
    if again or not domains:
        raise UserError(
            f"domains: '{again[0]}' stands there twice." if again else "domains: none is named.",
            remedy="Name every domain to train on, once.",
        )
    return tuple(domains)


def require_addable(split: Split, name: str, *, fitted: Split, domains: Sequence[str]) -> None:
    """A domain can be added to a model.

    Args:
        split: Holds the rows of the domain.
        name: The domain.
        fitted: What the model was fitted to.
        domains: Those that the model has.

    Raises:
        UserError: the model has it, or was fitted to other tables.
    """
    if split.tables is not fitted.tables:
        raise UserError(
            f"the domain '{name}' is to be added from other tables than those of the model.",
            remedy="Save the model, load it with this split, and add the domain then.",
        )
    if name in domains:
        raise UserError(
            f"'{name}' is one of the model's domains already.",
            allowed=f"It has {', '.join(domains)}.",
            remedy="Name another domain to add.",
        )


def heads_of(tables: Tables, items: ArrayLike, *, rows: ArrayLike, domains: Sequence[str]) -> Whole:
    """Places int64 [n] of the domains of requests in `domains`; -1 where it is not among them.

    Args:
        tables: Whose interactions have a domain.
        items: Dense items [n].
        rows: Interaction rows [n]; -1 where the request is no event, then the item tells.
        domains: The domains that have a head.

    Raises:
        DataError: the tables have no domain.
    """
    found = domains_of(tables, items, rows=rows)
    names = domain_names(tables)
    heads = [domains.index(name) if name in domains else -1 for name in names]
    codes = found.to_physical().cast(pl.Int64).fill_null(len(names))
    return np.array([*heads, -1])[codes.to_numpy()]


def rows_of_domains(split: Split, domains: Sequence[str]) -> Split:
    """The split with no row of other domains in its train and valid parts.

    Raises:
        DataError: the tables have no domain.
    """
    train, valid = (
        split.part(part)[_event_heads(split, part, domains=domains) >= 0]
        for part in ("train", "valid")
    )
    return replace(split, train=train, valid=valid)


def require_trainable(own: Split, domains: Sequence[str]) -> None:
    """Domains can be trained on: each has train rows, and valid rows can choose an epoch.

    Args:
        own: The rows of these domains.
        domains: Their names.

    Raises:
        DataError: a domain has no train row, or the valid rows do not hold both labels.
        UnknownNameError: no domain of that name.
    """
    known = domain_names(own.tables)
    present = set(_event_heads(own, "train", domains=domains).tolist())
    for head, name in enumerate(domains):
        if name not in known:
            raise UnknownNameError("domain", name, known)
        if head not in present:
            raise DataError(
                f"the domain '{name}' has no row in the train part.",
                remedy="Move the borders of data.split, or leave the domain out.",
            )
    labels = own.tables.interactions["label"].to_numpy()[own.valid]
    if len(np.unique(labels)) < 2:
        noun = f"domain '{domains[0]}'" if len(domains) == 1 else f"domains {', '.join(domains)}"
        raise DataError(
            f"the validation part of the {noun} has {len(labels)} row(s) of one label only.",
            allowed="Choosing an epoch by AUC needs likes and dislikes.",
            remedy="Move the borders of data.split, change the label rule, or leave it out.",
        )


def answered(
    heads: Whole, *, own: Callable[[int, Whole], Floats], all_heads: Callable[[Whole], Floats]
) -> Floats:
    """Scores float32 [n]: of the own head; where there is none, the mean over all heads.

    Args:
        heads: int64 [n], -1 where there is none.
        own: From a head and the places [m] of its rows to their scores float32 [m]. The rows of a
            head are asked about together and apart from all others, so that a score keeps its last
            bit when a head is added.
        all_heads: From places [m] to the scores of every head, float32 [m, heads].
    """
    found = np.empty(len(heads), dtype=np.float32)
    for head in np.unique(heads).tolist():
        places = np.flatnonzero(heads == head)
        found[places] = all_heads(places).mean(axis=1) if head < 0 else own(head, places)
    return found


def _event_heads(split: Split, part: str, *, domains: Sequence[str]) -> Whole:
    rows = split.part(part)
    items = split.tables.interactions["item"].to_numpy()[rows]
    return heads_of(split.tables, items, rows=rows, domains=domains)
