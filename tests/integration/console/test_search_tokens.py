"""Searches for personal data: no URL contains them."""

import html
import re
from typing import Any

import pytest

from tests.support.console import VIEWERS, Browser, Opened, main_text


@pytest.fixture
async def viewer(app: Any, delivery: str) -> Browser:
    viewer = Browser(app)
    await viewer.log_in(VIEWERS)
    return viewer


@pytest.mark.parametrize("text", ["ada@example.com", "Ada Lovelace", "+1 555 010 0001", "A-1042"])
async def test_a_search_is_not_in_the_url_of_its_results(viewer: Browser, text: str) -> None:
    posted = await viewer.post("/console/search", {"q": f" {text} "})

    address = posted.headers["location"]
    results = await viewer.get(address)

    assert re.fullmatch(r"/console/search\?q=~[\w-]{40,}", address)
    if text == "A-1042":
        assert "/console/visits/standard-A-1042" == results.headers["location"]
    else:
        assert "Nothing matches." in main_text(results.text)
    assert text not in results.text.partition("<main")[2]


async def test_the_links_of_a_filtered_list_have_no_search(viewer: Browser, delivery: str) -> None:
    posted = await viewer.post(
        "/console/deliveries", {"search": "A-1042", "hook": "standard", "since": "", "state": ""}
    )
    page = (await viewer.get(posted.headers["location"])).text

    links = [html.unescape(link) for link in re.findall('(?:href|hx-get)="([^"]*search=[^"]*)"', page)]
    assert {"/console/deliveries/newer", "/console/deliveries"} >= {link.partition("?")[0] for link in links}
    assert not any("A-1042" in link for link in [*links, posted.headers["location"]])
    assert 'value="A-1042"' in page
    assert "1 match" in page


async def test_a_plan_and_the_next_page_keep_the_search(app: Any, delivery: str) -> None:
    operator = Browser(app)
    await operator.log_in()
    posted = await operator.post("/console/deliveries", {"search": "A-1042"})
    page = (await operator.get(posted.headers["location"])).text
    [address] = re.findall(r'id="all" href="([^"]+)"', page)

    plan = (await operator.get(html.unescape(address))).text

    assert "A-1042" not in address
    assert "Replay 1: the plan" in main_text(plan)


@pytest.mark.parametrize("token", ["~", "~x", "~" + "A" * 60, "~" + "é" * 40, "~" + "A" * 4_000])
async def test_an_invalid_token_finds_nothing(viewer: Browser, token: str) -> None:
    for path, message in (
        ("/console/search", "Nothing matches."),
        ("/console/deliveries", "No delivery matches this filter."),
        ("/console/plan", "Nothing matches."),
    ):
        response = await viewer.get(path, params={"q": token, "search": token, "do": "replay", "all": "1"})
        assert message in main_text(response.text), path


async def test_a_token_is_readable_until_its_key_is_removed(opened: Opened, environ: dict[str, str]) -> None:
    app = await opened(environ)
    first, rotated, other = [
        (await opened(environ | {"SECRET_KEY": key})).state.console.context.search_tokens
        for key in (environ["SECRET_KEY"], f"a-new-secret-key-0123 {environ['SECRET_KEY']}", "another-secret-key-0123")
    ]

    token = first.encode("ada@example.com")

    assert ["ada@example.com"] * 2 == [tokens.decode(token) for tokens in (first, rotated)]
    assert token == other.decode(token)
    assert app.state.console.context.search_tokens.encode("ada@example.com") != token
