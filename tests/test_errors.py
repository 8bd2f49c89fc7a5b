from multiprocessing.reduction import ForkingPickler

import pytest

from tastemaker import errors
from tastemaker.errors import LeakError, TastemakerError, UnknownNameError, UserError


def test_message_has_three_parts() -> None:
    error = UserError("k is 0.", allowed="1 or more", remedy="Raise k.")
    assert str(error) == "k is 0.\n1 or more\nRaise k."
    assert str(UserError("k is 0.")) == "k is 0."


def test_unknown_name_offers_the_nearest() -> None:
    assert "did you mean 'din'?" in str(UnknownNameError("backbone", "dinn", ["din", "dcn"]))
    assert "did you mean" not in str(UnknownNameError("backbone", "zzzz", ["din", "dcn"]))
    assert "available: dcn, din" in str(UnknownNameError("backbone", "zzzz", ["din", "dcn"]))


def test_of_very_many_names_the_closest_are_listed() -> None:
    names = [f"p5/2-{number}" for number in range(1, 100)]
    text = str(UnknownNameError("template", "p5/2-100", names))
    assert text.endswith(" and 87 more")
    assert "p5/2-10, " in text
    assert len(text) < 200


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name.endswith("Error")])
def test_tree_and_exit_codes(name: str) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, TastemakerError)
    assert kind.exit_code == (2 if issubclass(kind, UserError) else 1)
    assert name in str(errors.__doc__)


@pytest.mark.parametrize(
    "error",
    [
        UserError("wrong", allowed="right", remedy="do it"),
        UnknownNameError("template", "p5/2", ["p5/2-1", "kar/user_movies"]),
        LeakError("row 3 shows too much"),
    ],
)
def test_errors_come_whole_out_of_other_processes(error: TastemakerError) -> None:
    copy = ForkingPickler.loads(ForkingPickler.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
