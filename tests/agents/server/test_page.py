"""The page as one document."""

import base64
import hashlib
import re
from pathlib import Path

import pytest

from tastemaker.agents.server import page
from tastemaker.errors import StageError

FOLDER = Path(page.__file__).parent
DOCUMENTS = [page.page_document, page.docs_document]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_policy_allows_just_what_is_inside(document) -> None:
    built = document()
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", built.html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in built.policy
    assert "unsafe" not in built.policy


@pytest.mark.parametrize("document", DOCUMENTS)
def test_nothing_comes_from_elsewhere_and_nothing_is_written_as_html(document) -> None:
    html = document().html
    addresses = set(re.findall(r"https?://[^'\"\s)]+", html))
    assert addresses <= {"http://www.w3.org/2000/svg"}  # a name, not an address
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert forbidden not in html
    assert not re.search(r"\son\w+=|\sstyle=|javascript:", html)
    assert not re.search(r"<(script|link|img)[^>]*\s(src|href)=\"(?!data:)", html)


def test_every_element_that_a_script_looks_for_is_there() -> None:
    for document in DOCUMENTS:
        html = document().html
        wanted = set(re.findall(r'byId\("([\w-]+)"\)', html))
        assert len(wanted) > 3
        assert wanted <= set(re.findall(r'\sid="([\w-]+)"', html))


def test_a_script_that_would_end_its_element_is_not_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.html").write_text("<script>/* script */</script>")
    (tmp_path / "x.js").write_text("'</script>'")
    monkeypatch.setattr(page, "_HERE", tmp_path)
    with pytest.raises(StageError, match=r"x\.html"):
        page.Document.built("x.html", styles=(), scripts=("x.js",))


def test_files_of_the_page_stay_short() -> None:
    files = [path for kind in ("html", "css", "js") for path in FOLDER.glob(f"*.{kind}")]
    assert len(files) >= 8
    assert all(len(path.read_text().splitlines()) <= 500 for path in files)


def contrast(one: str, other: str) -> float:
    """As WCAG 2.2 has it."""

    def light(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_can_be_read_in_light_and_dark() -> None:
    style = (FOLDER / "page.css").read_text()
    schemes = [
        dict(re.findall(r"--([\w-]+): (#\w{6});", part)) for part in style.split("@media")[:2]
    ]
    assert len(schemes) == 2
    for colours in schemes:
        for ground in ("ground", "raised", "sunken"):
            for ink in ("ink", "quiet"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
        for ground in ("ground", "raised", "accent-soft"):
            assert contrast(colours["accent"], colours[ground]) >= 4.5, ground
        assert contrast(colours["on-accent"], colours["accent"]) >= 4.5
        assert contrast(colours["bad"], colours["bad-soft"]) >= 4.5
        assert contrast(colours["edge"], colours["raised"]) >= 3
