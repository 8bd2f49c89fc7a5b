"""What InstructRec's teacher is asked: by eye, and that it sees what it may see and no more."""

from __future__ import annotations

import pytest

from tastemaker.prompts.fields import field_named
from tastemaker.prompts.template import find_template, find_templates

TASTE = find_template("instructrec_teacher/preference")
WISH = find_template("instructrec_teacher/intention")


def test_a_taste_is_asked_for_from_a_numbered_path_of_titles() -> None:
    text = TASTE.render(liked=["Blue Kite", "Dry Season", "Ran"])
    assert '1. "Blue Kite" -> 2. "Dry Season" -> 3. "Ran"\n' in text
    assert text.startswith("These items were liked by one user, oldest first: 1.")
    assert '"The user prefers"' in text


def test_a_wish_is_asked_for_from_a_review() -> None:
    assert '"It kept my son busy."' in WISH.render(review="It kept my son busy.")
    assert WISH.given == {"review"}


def test_a_taste_needs_nothing_of_the_target() -> None:
    assert {field_named(name).role for name in TASTE.fields()} == {"past"}
    assert not any(field_named(name).reveals for name in TASTE.fields())


@pytest.mark.parametrize("template", find_templates(["instructrec_teacher/*"]), ids=str)
def test_they_have_no_answer_of_their_own(template: object) -> None:
    assert not template.has_answer  # type: ignore[attr-defined]
