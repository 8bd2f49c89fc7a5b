"""A desk over the shop world, ranked by popularity."""

from pathlib import Path

import numpy as np
import pytest

from tastemaker.agents.dialogue.desk import Desk, Texts
from tastemaker.agents.dialogue.planning import Planner
from tastemaker.models.catalogue.documents import Documents, Space
from tastemaker.models.catalogue.store import Catalogue
from tastemaker.models.encoders import HashingEncoder
from tastemaker.models.live import PopularItems
from tastemaker.testing.world import shop_split

FACTS = {3: "A dry novel of a failing farm.", 15: "Slow turns; fuel is scarce."}


@pytest.fixture(scope="session")
def shop_desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Thirty books and games, 24 users; titles hold signs of templates and of markup."""
    return new_desk(tmp_path_factory.mktemp("shop_catalogue"))


def new_desk(folder: Path) -> Desk:
    """The same, with its catalogue in a given folder."""
    split, encoder = shop_split(), HashingEncoder(64)
    documents = Documents.of(split.tables, knowledge=FACTS)
    items = np.arange(len(documents))
    likes = np.column_stack([items < 15, items >= 15, items * 1e-3]).astype(np.float32)
    rows = documents.rows(
        text=Space(items, encoder.encode(documents.meanings)),
        collaborative=Space(items, likes),
        encoder=encoder.name,
    )
    Catalogue.update(folder, rows)
    catalogue = Catalogue.open(folder, encoder=encoder)
    recommender = PopularItems(split)
    return Desk(
        catalogue=catalogue,
        recommender=recommender,
        planner=Planner(catalogue, recommender, count=5),
        tables=split.tables,
        texts=Texts({0: "Likes books about travel and quiet games."}, FACTS),
    )
