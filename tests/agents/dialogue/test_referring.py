from __future__ import annotations

from dataclasses import replace

import pytest

from tastemaker.agents.dialogue.desk import Desk
from tastemaker.agents.dialogue.referring import References
from tastemaker.models.catalogue.documents import Documents
from tastemaker.models.catalogue.store import Catalogue
from tastemaker.testing.world import tied_world

TITLES = {
    1: "Airplane! (1980)",
    2: "Waking Ned Devine (a.k.a. Waking Ned) (1998)",
    3: "Monsters, Inc. (2001)",
    4: "Matrix, The (1999)",
    5: "Big (1988)",
}


@pytest.fixture(scope="module")
def films(shop_desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Five films with years in their titles and signs inside them; ids from 1."""
    tables = tied_world(TITLES)
    folder = tmp_path_factory.mktemp("films")
    Catalogue.update(folder, Documents.of(tables).rows())
    return replace(shop_desk, catalogue=Catalogue.open(folder), tables=tables)


@pytest.fixture
def references(films: Desk) -> References:
    found = References(films)
    found.know(films.numbers([str(number) for number in TITLES]))
    return found


@pytest.mark.parametrize(
    ("written", "ids", "marked"),
    [
        ("The Matrix (1999) [4] is fun.", "4", "[1] is fun."),
        ("Matrix, The (1999) is fun.", "4", "[1] is fun."),
        ("**Airplane! (1980)** is fun.", "1", "[1] is fun."),
        ("Airplane! is fun, and so is Airplane! (1980).", "1", "[1] is fun, and so is [1]."),
        ("Waking Ned Devine (a.k.a. Waking Ned) (1998) [2]", "2", "[1]"),
        ("See waking ned devine (a.k.a. waking ned) (1998)!", "2", "See [1]!"),
        ("Monsters, Inc. is fun.", "3", "[1] is fun."),
        ("I like Monsters, Inc.", "3", "I like [1]."),
        ("Big is fun; bigger than Big.", "5", "[1] is fun; bigger than [1]."),
        ("Big fans of a big film.", "", "Big fans of a big film."),
        ("A big one: The matrix of it.", "", "A big one: The matrix of it."),
        ("[1], [2] and [1]", "12", "[1], [2] and [1]"),
        ("[3; 4] (fun)", "34", "[1, 2] (fun)"),
        ("[laughs] [not an id]", "", "[laughs] [not an id]"),
        ("The Matrix (2003) is fun.", "", "The Matrix (2003) is fun."),
    ],
)
def test_ids_and_titles_become_marks(
    references: References, written: str, ids: str, marked: str
) -> None:
    assert references.marked(written, prefer=bool) == marked
    assert [str(card.item_id) for card in references.cards] == list(ids)
    assert [str(item + 1) for item in references.items(marked)] == list(ids)


@pytest.mark.parametrize("written", ["See [6].", "See [4-5].", "Big [4] is fun.", "See [4, 77]."])
def test_what_is_unknown_or_contradicts_itself_is_refused(
    references: References, written: str
) -> None:
    assert references.marked(written, prefer=bool) is None


def test_what_no_tool_has_told_is_unknown(films: Desk) -> None:
    references = References(films)
    references.know([0])
    assert references.marked("See [2].", prefer=bool) is None
    assert references.marked("See The Matrix.", prefer=bool) == "See The Matrix."


def test_titles_are_put_in_bold_where_they_are_offered(references: References) -> None:
    marked = references.marked("Since you like [4], try [1, 5].", prefer=bool)
    assert marked == "Since you like [1], try [2, 3]."
    told = references.told(marked, bold=[0])
    assert told == "Since you like Matrix, The (1999), try **Airplane! (1980)** and Big (1988)."


def test_items_that_fit_are_meant_rather_than_others_of_their_name(shop_desk: Desk) -> None:
    towers = [12, 20]
    for item in towers:
        references = References(shop_desk)
        references.know(towers)
        assert references.marked("Try The Tower.", prefer=item.__eq__) == "Try [1]."
        assert references.cards[0].item == item


def test_sentences_are_not_cut_inside_titles_or_bold_words(references: References) -> None:
    pieces = [
        "Take Airplane! ",
        "(1980) now. ",
        "Monsters, Inc. ",
        "is fun. ",
        "Or **Jam. ",
        "And Honey**? ",
        "Yes.\n",
        "An **open end\n",
        "stays. ",
    ]
    assert list(references.whole(pieces)) == [
        "Take Airplane! (1980) now. ",
        "Monsters, Inc. is fun. ",
        "Or **Jam. And Honey**? ",
        "Yes.\n",
        "An **open end\n",
        "stays. ",
    ]
