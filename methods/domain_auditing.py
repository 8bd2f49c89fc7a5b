"""What a finished run of several domains knew: rows of training, histories, vocabularies.

Which rows trained which network is derived anew from the saved tables and the names of the domains
in the manifest, and compared with the rows that the stages wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from tastemaker.data.audit import no_problems, problem_frame
from tastemaker.data.domains import domains_of
from tastemaker.data.findings import Finding, judged
from tastemaker.data.splits import Split
from tastemaker.methods.auditing import audit_recommender
from tastemaker.methods.base import load_requests
from tastemaker.methods.domain_training import ROWS as TRAINED
from tastemaker.methods.domain_training import Baseline, load_baseline, trained_splits
from tastemaker.methods.domain_tuning import ROWS as TUNED
from tastemaker.models.multi_domain.rows import rows_of_domains
from tastemaker.models.multi_domain.separate import SeparateDomains
from tastemaker.recipe import TrainConfig
from tastemaker.stage import Run

__all__ = ["audit_domain_training", "audit_domain_tuning"]


def audit_domain_tuning(run: Run, split: Split) -> Sequence[Finding]:
    """Every row is of its part and of a domain that may be trained, added ones apart."""
    manifest = run.manifest("tune")
    domains = manifest.summary["domains"] if manifest else {}
    frame = pl.read_parquet(run.artefact("tune") / TUNED)
    return [_judged_rows("networks: training rows", frame, split, domains)]


def audit_domain_training(run: Run, split: Split) -> Sequence[Finding]:
    """The same of the baselines, their histories and vocabularies, and the sameness of rows."""
    manifest, tuned = run.manifest("train"), run.manifest("tune")
    config = TrainConfig.model_validate(manifest.config["train"] if manifest else {})
    domains = tuned.summary["domains"] if tuned else {}
    domains = {**domains, "added": manifest.summary["added"] if manifest else ()}
    frame = pl.read_parquet(run.artefact("train") / TRAINED)
    found = [
        _judged_rows(
            "baselines: training rows",
            frame.with_columns(
                added=pl.when("added").then(_names(frame, split)).otherwise(pl.lit(""))
            ),
            split,
            domains,
        )
    ]
    asked = [load_requests(run, part) for part in ("valid", "test")]
    known, trained = trained_splits(run, split)
    for one in map(Baseline, config.backbone):
        model = load_baseline(run, split, one, config=config)
        if isinstance(model, SeparateDomains):
            for name, part in model.models.items():
                found += audit_recommender(rows_of_domains(trained, [name]), part, asked)
        else:
            found += audit_recommender(known, model, asked)
    return found


def _judged_rows(
    check: str, frame: pl.DataFrame, split: Split, domains: Mapping[str, Any]
) -> Finding:
    """Rows with `part` and `added`, the domain whose part alone they train, or nothing."""
    events = split.tables.interactions.with_row_index("row").select(
        pl.col("row").cast(pl.Int64), pl.col("user", "item", "time")
    )
    rows = frame.with_columns(domain=_names(frame, split)).join(events, on="row", how="left")
    problems = [no_problems()]
    for part in ("train", "valid"):
        own = pl.Series(split.part(part))
        odd = rows.filter((pl.col("part") == part) & ~pl.col("row").is_in(own.implode()))
        problems.append(problem_frame(odd, pl.lit(f"is not of the {part} part")))
    unseen = rows.filter(pl.col("domain").is_in(domains.get("unseen", [])))
    problems.append(problem_frame(unseen, pl.format("is of the unseen domain {}", "domain")))
    alone = pl.col("domain").is_in(domains.get("added", []))
    mixed = rows.filter(pl.col("added") != pl.when(alone).then("domain").otherwise(pl.lit("")))
    problems.append(problem_frame(mixed, pl.format("of {} trains another network", "domain")))
    return judged(
        check,
        pl.concat(problems),
        tables=split.tables,
        checked=frame.height,
        noun="rows",
        passed="each of its part, none of an unseen domain, added domains by themselves",
        failed="train what they must not",
    )


def _names(frame: pl.DataFrame, split: Split) -> pl.Series:
    """The domain of each row."""
    rows = frame["row"].to_numpy()
    items = split.tables.interactions["item"].to_numpy()[rows]
    return domains_of(split.tables, items, rows=rows).cast(pl.String)
