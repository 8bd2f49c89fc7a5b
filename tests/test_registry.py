import subprocess
import sys

import pytest

from tastemaker import registry
from tastemaker.errors import UnknownNameError


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("method", "kar"),
        ("method", "tallrec"),
        ("backbone", "din"),
        ("data set", "movielens_small"),
    ],
)
def test_names_are_file_names_with_a_summary(kind: str, name: str) -> None:
    assert name in registry.names(kind)
    assert registry.summaries(kind)[name].endswith(".")


def test_files_without_the_marker_are_no_members() -> None:
    assert not {"base", "pipeline", "__init__"} & set(registry.names("method"))


def test_listing_imports_nothing() -> None:
    script = (
        "import sys; from tastemaker import registry\n"
        "for kind in registry.KINDS: registry.names(kind)\n"
        "assert not {'torch', 'polars', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_unknown_name() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'tallrec'"):
        registry.load("method", "talrec")
