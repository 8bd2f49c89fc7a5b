"""The page in a real browser, on a real server, with a scripted chat whose titles are hostile."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="the page is tested with playwright")
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")

DESKTOP, PHONE = (1280, 800), (390, 844)
TOKEN = "a token of sixteen or more"
IMAGE = "<img src=x onerror=\"window.hacked='image'\">"
SCRIPT = "</script><script>window.hacked='script'</script> **Bold** Tales"
LONGEST_WAIT = 20_000  # milliseconds


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=LONGEST_WAIT)
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def place(scripted: Callable[..., Any], serve: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    chat = scripted(pause=0.05)  # more than a frame of a busy browser, or pieces would merge
    with serve(chat) as url:
        yield url, chat


@pytest.fixture
def page(
    browser: Browser, place: tuple[str, Any], request: pytest.FixtureRequest
) -> Iterator[Page]:
    """A fresh tab; whatever it complains of or asks of others fails the test."""
    width, height = getattr(request, "param", DESKTOP)
    context = browser.new_context(
        viewport={"width": width, "height": height}, reduced_motion="reduce"
    )
    context.set_default_timeout(LONGEST_WAIT)
    page = context.new_page()
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda message: troubles.append(message.text))
    page.on("request", lambda sent: troubles.append(sent.url) if is_foreign(sent.url) else None)
    page.goto(place[0])
    yield page
    assert page.evaluate("window.hacked") is None
    context.close()
    assert [text for text in troubles if not text.startswith("Failed to load resource")] == []


def is_foreign(url: str) -> bool:
    return not url.startswith(("http://127.0.0.1:", "data:"))


def ask(page: Page, text: str) -> Locator:
    """The newest answer, once it is whole."""
    page.get_by_label("Message").fill(text)
    page.keyboard.press("Enter")
    return whole(page)


def whole(page: Page) -> Locator:
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    answers = page.get_by_role("article", name="Answer")
    answer = answers.nth(answers.count() - 1)
    expect(answer).to_have_attribute("aria-busy", "false")
    return answer


def titles(answer: Locator) -> list[str]:
    return answer.locator(".card h3 bdi").all_inner_texts()


def fits(page: Page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("page", [DESKTOP, PHONE], indirect=True, ids=["desktop", "phone"])
def test_asking_judging_and_asking_again(page: Page, place: tuple[str, Any]) -> None:
    expect(page.get_by_role("button", name="Something in Novel")).to_be_visible()
    page.evaluate(
        "window.lengths = new Set(); new MutationObserver(() => lengths.add("
        "document.querySelector('.words')?.textContent.length)).observe("
        "document.querySelector('#transcript'), {childList: true, subtree: true})"
    )
    first = ask(page, "A novel")
    assert page.evaluate("lengths.size") > 2  # it came in pieces
    expect(first).to_contain_text("Here is what may suit you:")
    assert titles(first) == [IMAGE, SCRIPT, "Cold Harbour"]
    expect(first.locator(".words ol > li")).to_have_count(3)
    expect(first.locator(".card").first).to_contain_text("90 %")
    expect(first.locator(".card").first).to_contain_text("Kite Press")
    assert fits(page)

    like = first.get_by_role("button", name=re.compile("^Like: Cold Harbour"))
    expect(like).to_have_attribute("aria-pressed", "false")
    like.click()
    expect(like).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_text("You like Cold Harbour. Noted")).to_be_visible()
    assert [len(talk.likes) for talk in place[1].talks.values()][-1:] == [1]

    first.get_by_role("button", name="Why: Cold Harbour").click()
    expect(whole(page)).to_contain_text("Cold Harbour is close to your taste.")
    expect(page.locator(".asked").last).to_contain_text("Why Cold Harbour?")

    second = ask(page, "Another novel")
    assert not set(titles(second)) & set(titles(first))
    expect(first.get_by_text("You like this.")).to_be_visible()
    expect(first.get_by_role("button")).to_have_count(0)
    second.get_by_role("button", name=re.compile("^More like this")).first.click()
    whole(page)
    expect(page.locator(".asked").last).to_contain_text(f'More like "{titles(second)[0]}"')
    assert fits(page)


def test_a_reload_shows_what_was_said(page: Page) -> None:
    first = ask(page, "A novel")
    first.get_by_role("button", name=re.compile("^Dislike: Cold Harbour")).click()
    expect(page.get_by_text("You do not like Cold Harbour.")).to_be_visible()
    said = page.locator("#transcript").inner_text()
    assert re.search(r"#c=[\w-]{16,}$", page.url)
    page.reload()
    expect(page.get_by_text("You do not like Cold Harbour.")).to_be_visible()
    assert page.locator("#transcript").inner_text() == said
    dislike = page.get_by_role("button", name=re.compile("^Dislike: Cold Harbour"))
    expect(dislike).to_have_attribute("aria-pressed", "true")
    assert titles(ask(page, "Another")) != titles(first)
    page.get_by_role("button", name="New conversation").click()
    expect(page.get_by_role("heading", name="What are you in the mood for?")).to_be_visible()
    assert "#" not in page.url


def test_with_the_keyboard_only(page: Page, place: tuple[str, Any]) -> None:
    expect(page.get_by_role("button", name="Surprise me")).to_be_visible()
    expect(page.get_by_label("Message")).to_be_focused()
    skip = page.get_by_role("link", name="Skip to the message box")
    skip.focus()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Message")).to_be_focused()
    skip.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Who is choosing?")
    expect(dialog).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("combobox")).to_be_focused()
    page.keyboard.type("u1")
    expect(page.get_by_role("option")).to_have_count(10)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("option", selected=True)).to_contain_text("u12")
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("button", name="User u12")).to_be_visible()
    expect(page.get_by_label("Message")).to_be_focused()
    page.keyboard.type("A novel")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("or two")
    page.keyboard.press("Enter")
    whole(page)
    assert list(place[1].talks.values())[-1].user == "u12"
    expect(page.locator(".asked")).to_contain_text("A novel\nor two")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    expect(page.get_by_role("button", name="Why: Cold Harbour")).to_be_focused()
    page.keyboard.press("Enter")
    expect(whole(page)).to_contain_text("is close to your taste")


def test_escape_stops_an_answer(page: Page, place: tuple[str, Any]) -> None:
    place[1].ended.clear()
    page.get_by_label("Message").fill("slow")
    page.keyboard.press("Enter")
    expect(page.locator(".words")).to_contain_text("Here is")
    expect(page.get_by_role("button", name="Send")).to_be_hidden()
    page.keyboard.press("Escape")
    expect(page.get_by_text("Stopped.", exact=True).first).to_be_visible()
    assert place[1].ended.wait(5)
    assert place[1].was_stopped
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    assert len(titles(ask(page, "A novel"))) == 3


def test_troubles_are_said_in_words(page: Page) -> None:
    page.get_by_label("Message").fill("please fail")
    page.keyboard.press("Enter")
    trouble = page.get_by_role("alert")
    expect(trouble).to_contain_text("Nothing like it is sold.")
    expect(page.get_by_label("Message")).to_have_value("please fail")
    page.context.set_offline(True)
    page.get_by_label("Message").fill("A novel")
    page.keyboard.press("Enter")
    expect(trouble).to_contain_text("The server cannot be reached.")
    page.context.set_offline(False)
    page.evaluate("location.hash = '#c=unknown'")
    expect(trouble).to_contain_text("That conversation is not kept here any more.")
    refused = {"error": {"message": "x", "code": "busy"}}
    page.route(
        "**/messages",
        lambda route: route.fulfill(
            status=503, body=json.dumps(refused), headers={"Retry-After": "3"}
        ),
    )
    page.get_by_label("Message").fill("A novel")
    page.keyboard.press("Enter")
    expect(trouble).to_contain_text("Others are being answered first. Try again in 3 seconds.")
    page.unroute("**/messages")
    page.get_by_role("button", name="Try again").click()
    assert len(titles(whole(page))) == 3
    expect(trouble).to_be_hidden()


def test_the_token_is_asked_for_and_kept_for_the_tab(
    browser: Browser, scripted: Callable[..., Any], serve: Callable[..., Any]
) -> None:
    with serve(scripted(), token=TOKEN) as url:
        page = browser.new_page(viewport={"width": 360, "height": 740})
        page.goto(url)
        dialog = page.get_by_role("dialog", name="This server needs a token")
        expect(dialog).to_be_visible()
        page.get_by_role("textbox", name="Token").fill("a wrong one")
        page.keyboard.press("Enter")
        expect(dialog).to_contain_text("That was not the token of this server.")
        page.get_by_role("textbox", name="Token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Surprise me")).to_be_visible()
        page.reload()
        expect(page.get_by_role("button", name="Surprise me")).to_be_visible()
        assert len(titles(ask(page, "A novel"))) == 3
        assert fits(page)
        small = page.evaluate(
            "[...document.querySelectorAll('button')].filter((one) => one.offsetWidth && "
            "(one.offsetWidth < 44 || one.offsetHeight < 44)).map((one) => one.textContent)"
        )
        assert small == []
        page.goto(f"{url}/docs")
        expect(page.get_by_text("/v1/chat/completions")).to_be_visible()
        assert fits(page)
        page.close()
