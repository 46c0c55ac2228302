"""The pages of the settings."""

import re

import pytest

from app.ledger.keys import KEY_KINDS
from tests.support.console import VIEWERS, Browser, Opened

PAGES = ["/console/settings", "/console/settings/retention", "/console/settings/erasure"]


async def test_the_settings_have_three_pages_without_key_patterns(opened: Opened, environ: dict[str, str]) -> None:
    operator = Browser(await opened(environ))
    await operator.log_in()

    pages = [(await operator.get(path)).text.partition("<main")[2] for path in PAGES]

    for path, page in zip(PAGES, pages, strict=True):
        tabs = page.partition('<nav class="tabs"')[2].partition("</nav>")[0]
        assert PAGES == re.findall(r'href="([^"]+)"', tabs)
        assert [path] == re.findall(r'href="([^"]+)" aria-current="page"', tabs)
        assert [] == [kind.pattern for kind in KEY_KINDS if kind.pattern in page]
    assert ["VISITS_API_URL" in page for page in pages] == [True, False, False]


@pytest.mark.parametrize(
    ("env", "sentences"),
    [
        ({}, ["is 30 days", "compressed, but not encrypted"]),
        ({"RETENTION_DAYS": "90", "BODY_KEYS": "0123456789abcdef" * 2}, ["is 90 days", "encrypted with <code>BODY"]),
    ],
)
async def test_data_retention_has_the_periods_of_this_installation(
    opened: Opened, environ: dict[str, str], env: dict[str, str], sentences: list[str]
) -> None:
    operator = Browser(await opened(environ | env))
    await operator.log_in()

    page = (await operator.get("/console/settings/retention")).text.partition("<main")[2]

    assert [] == [sentence for sentence in sentences if sentence not in page]
    assert {"Deliveries", "Visits", "Activity", "Sessions"} <= set(re.findall(r'data-name="Data">([^<]+)<', page))
    assert page.count(f"{env.get('RETENTION_DAYS', 30)} days after it") >= 2


async def test_a_viewer_sees_no_erasure(opened: Opened, environ: dict[str, str]) -> None:
    viewer = Browser(await opened(environ))
    await viewer.log_in(VIEWERS)

    page = (await viewer.get("/console/settings")).text

    assert PAGES[2] not in page
    assert 403 == (await viewer.get(PAGES[2])).status_code
