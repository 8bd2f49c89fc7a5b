"""The base of all sections of a recipe, and its largest: where the data is and how it is used."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
)

__all__ = [
    "CandidatesConfig",
    "ColumnsConfig",
    "Config",
    "DataConfig",
    "DomainsConfig",
    "FiltersConfig",
    "GivenConfig",
    "GlobalTimeConfig",
    "LeaveOneOutConfig",
    "NegativesConfig",
    "PoliciesConfig",
    "RequestsConfig",
    "RollingConfig",
    "TableConfig",
    "UserHoldoutConfig",
    "UserTimeRatioConfig",
]


class Config(BaseModel):
    """Base of all sections: frozen, and strict about keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def _date_as_text(value: Any) -> Any:
    """YAML turns an unquoted 2015-01-01 into a date."""
    return value.isoformat() if isinstance(value, date) else value


class TableConfig(Config):
    """Where one table comes from; a plain text in the recipe is its `path`."""

    path: str | tuple[str, ...] | None = Field(None, description="file, folder, or glob of shards")
    format: Literal["auto", "csv", "parquet", "jsonl", "sequences", "dataset"] = "auto"
    separator: str | None = Field(None, description="of cells in a text file; empty: by its ending")
    encoding: str = "utf-8"
    header: tuple[str, ...] | None = Field(None, description="column names of a file without them")
    dataset: str | None = Field(None, description="Hugging Face datasets id, already on disk")
    subset: str | None = Field(None, description="configuration of that data set")
    part: str | None = Field(None, description="its part, such as train; empty: all parts")
    database: str | None = Field(None, description="SQLite or DuckDB file")
    query: str | None = Field(None, description="SQL that selects the table")


def _table(value: Any) -> Any:
    """A text or list of texts names the path."""
    if isinstance(value, str | Path):
        return {"path": str(value)}
    return {"path": value} if isinstance(value, list | tuple) else value


Table = Annotated[TableConfig, BeforeValidator(_table)]


class ColumnsConfig(Config):
    """Which columns of the tables mean what."""

    user: str = "user_id"
    item: str = "item_id"
    time: str | None = Field("timestamp", description="empty (null): the order of the rows")
    rating: str | None = Field("rating", description="empty (null): every rating is 1")
    label: str | dict[str, str] = Field(
        "rating > 3",
        description="COLUMN OPERATOR NUMBER, implicit, or domain: rule; TALLRec and KAR: > 3",
    )
    domain: str | None = Field(None, description="shop or category, in interactions or items")
    title: str | None = Field("title", description="in items; empty (null): items by their id")
    text: tuple[str, ...] = ()
    lists: dict[str, str] = Field({}, description="column: what parts its values, such as '|'")
    categorical: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    rating_range: tuple[float, float] | None = Field(None, description="[lowest, highest]")
    time_unit: Literal["auto", "s", "ms", "us", "ns", "iso", "step"] = "auto"


class PoliciesConfig(Config):
    """What happens to rows that are wrong in a way people may live with."""

    unknown_users: Literal["error", "drop", "keep"] = "error"
    unknown_items: Literal["error", "drop", "keep"] = "error"
    duplicates: Literal["error", "drop", "keep"] = Field(
        "error", description="rows that repeat user, item, time and rating of another"
    )


def _pairs(value: Any) -> Any:
    """Groups as pairs of name and values: a digest of the recipe forgets the order of a mapping."""
    if isinstance(value, Mapping):
        return list(value.items())
    if not isinstance(value, list | tuple):
        return value
    return [one if isinstance(one, list | tuple) else (one, one) for one in value]


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _distinct(groups: tuple[tuple[str, tuple[str, ...]], ...]) -> Any:
    names = [name for name, _ in groups]
    if len(set(names)) < len(names):
        raise ValueError("names a group twice; allowed: each name once")
    return groups


Word = Annotated[str, Field(min_length=1)]
Words = Annotated[tuple[Word, ...], BeforeValidator(_one_or_more), Field(min_length=1)]
Groups = Annotated[
    tuple[tuple[Word, Words], ...],
    BeforeValidator(_pairs),
    AfterValidator(_distinct),
    Field(min_length=1),
]


class DomainsConfig(Config):
    """Domains cut from a column of the items, each item in the first group that has it."""

    column: str = Field(description="of the items, with lists, words, or texts parted by |")
    groups: Groups = Field(description="domain: its values, or a list of values; the first counts")
    others: Literal["drop", "keep"] = Field(
        "drop", description="items in no group, with their events; keep: in the domain other"
    )

    @field_validator("others")
    @classmethod
    def _free_name(cls, others: str, info: ValidationInfo) -> str:
        if others == "keep" and "other" in dict(info.data.get("groups", ())):
            raise ValueError("there is a group called other; allowed: drop, or another name for it")
        return others


Moment = Annotated[str, BeforeValidator(_date_as_text)]


class FiltersConfig(Config):
    """Which interactions take part, in this order; empty: all."""

    time_from: Moment | None = Field(None, description="first moment kept, a date or time")
    time_to: Moment | None = Field(None, description="first moment left out")
    k_core: int | None = Field(None, gt=0, description="events of every user and of every item")
    min_history: int | None = Field(None, gt=0, description="events a user needs, counted once")
    users: int | None = Field(None, gt=0, description="seeded sample of so many users")


class GlobalTimeConfig(Config):
    """The same two moments for everyone, as a deployed system meets its data."""

    name: Literal["global_time"] = "global_time"
    valid_from: float | Moment = Field(0.8, description="share of rows before it, or a date")
    test_from: float | Moment = Field(0.9, description="share of rows before it, or a date")


class LeaveOneOutConfig(Config):
    """A user's last event is test, the one before it validation."""

    name: Literal["leave_one_out"]
    min_events: int = Field(3, ge=3, description="users with fewer are train only; S3-Rec: 3")


class UserTimeRatioConfig(Config):
    """The newest share of each user's own events."""

    name: Literal["user_time_ratio"]
    valid: float = Field(0.1, gt=0, lt=1)
    test: float = Field(0.1, gt=0, lt=1)


class UserHoldoutConfig(Config):
    """Users of validation and test are never trained on."""

    name: Literal["user_holdout"]
    valid: float = Field(0.1, gt=0, lt=1, description="share of users")
    test: float = Field(0.1, gt=0, lt=1, description="share of users")


class RollingConfig(Config):
    """Global time again and again: fold f trains on everything before its validation window."""

    name: Literal["rolling"]
    folds: int = Field(3, gt=0)
    fold: int = Field(-1, description="which one, from 0; -1 is the newest")
    window: float = Field(0.05, gt=0, lt=0.5, description="share of rows in each window")


class GivenConfig(Config):
    """The parts are written in a column of the interactions."""

    name: Literal["given"]
    column: str = Field("split", description="holds train, valid (or validation, dev) and test")


def _splitter(value: Any) -> Any:
    """Which splitter a mapping names; anything else is left to pydantic's own message."""
    return (
        value.get("name", "global_time")
        if isinstance(value, dict)
        else getattr(value, "name", None)
    )


SplitConfig = Annotated[
    Annotated[GlobalTimeConfig, Tag("global_time")]
    | Annotated[LeaveOneOutConfig, Tag("leave_one_out")]
    | Annotated[UserTimeRatioConfig, Tag("user_time_ratio")]
    | Annotated[UserHoldoutConfig, Tag("user_holdout")]
    | Annotated[RollingConfig, Tag("rolling")]
    | Annotated[GivenConfig, Tag("given")],
    Discriminator(_splitter),
]


class NegativesConfig(Config):
    """Events that never happened, for data that knows only likes; drawn in the domain of each."""

    per_positive: int = Field(1, gt=0, description="Uni-CTR: 1")
    strategy: Literal["uniform", "popularity"] = "uniform"


class CandidatesConfig(Config):
    """One liked item among sampled others, for ranking metrics."""

    n: int = Field(100, gt=1, description="items a question, the liked one included; P5: 100")
    strategy: Literal["uniform", "popularity"] = "uniform"


class RequestsConfig(Config):
    """Which rows of validation and test are scored by every model."""

    min_history: int = Field(10, ge=0, description="rows with fewer earlier events are left out")
    per_user: int | None = Field(None, gt=0, description="at most so many rows of a user, seeded")
    candidates: CandidatesConfig | None = Field(None, description="also write 1-of-N files")


class DataConfig(Config):
    """Where the tables are, what their columns mean, how they are split."""

    source: str | None = Field(None, description="name of a built-in data set")
    folder: Path | None = Field(None, description="where the files of that data set lie")
    interactions: Table | None = None
    items: Table | None = None
    users: Table | None = None
    columns: ColumnsConfig = ColumnsConfig()
    policies: PoliciesConfig = PoliciesConfig()
    domains: DomainsConfig | None = Field(
        None, description="cut from a column of the items, before the filters; empty: as they are"
    )
    filters: FiltersConfig = FiltersConfig()
    explanations: str | None = Field(
        None, description="column of reviews to take explanations and their features from (P5)"
    )
    split: SplitConfig = GlobalTimeConfig()
    negatives: NegativesConfig | None = Field(None, description="for implicit data; empty: none")
    requests: RequestsConfig = RequestsConfig()
