"""What operators did: the activity log, and the pages of visits and deliveries."""

import re
from typing import Any, NamedTuple

import pytest

from tests.support.console import HASHES, OPERATORS, Browser, Opened, main_text

NAMED = {"CONSOLE_PASSWORD_HASH": f"ada:{HASHES[OPERATORS]} grace:{HASHES[OPERATORS]}"}


class Office(NamedTuple):
    ada: Browser
    grace: Browser


@pytest.fixture
async def office(opened: Opened, environ: dict[str, str], delivery: str) -> Office:
    """Log two users in. Ada reveals the delivery, Grace an address of its visit."""
    app = await opened(environ | NAMED)
    office = Office(await _logged_in(app, "ada"), await _logged_in(app, "grace"))
    await office.ada.post(f"/console/deliveries/{delivery}/reveal", {"field": "*"})
    await office.grace.post("/console/visits/standard-A-1042/reveal", {"field": "contact.email"})
    return office


async def _logged_in(app: Any, name: str) -> Browser:
    browser = Browser(app)
    await browser.log_in(name=name)
    return browser


def _newer_than(id: str, query: str) -> str:
    return f"/console/activity/newer?newest={id}&{query}"


async def test_a_delivery_and_its_visit_show_who_revealed_them(office: Office, delivery: str) -> None:
    of_delivery = main_text((await office.ada.get(f"/console/deliveries/{delivery}")).text)
    of_visit = main_text((await office.ada.get("/console/visits/standard-A-1042")).text)

    assert "ada : Revealed personal data" in of_delivery
    assert "grace" not in of_delivery
    assert "grace : Revealed personal data" in of_visit


async def test_the_activity_log_is_filtered_and_links_what_it_names(office: Office, delivery: str) -> None:
    async def rows(query: str) -> list[str]:
        text = (await office.ada.get(f"/console/activity?{query}")).text
        return text.split("<tbody>")[1].split("<tr ")[1:] if "<tbody>" in text else []

    [of_ada] = await rows("actor=ada&action=revealed+delivery")
    [of_visit] = await rows("id=standard-A-1042")
    assert f'href="/console/deliveries/{delivery}"' in of_ada
    assert "grace" in of_visit
    assert 'href="/console/visits/standard-A-1042"' in of_visit
    assert [2, 2, 0, 4] == [
        len(await rows(query)) for query in ("action=logged+in", "actor=grace", "since=2099-01-01T00:00", "")
    ]


async def test_a_list_of_activities_says_how_many_are_newer(office: Office, delivery: str) -> None:
    links = []
    for query in ("", "actor=grace", "id=standard-A-1042", "actor=nobody"):
        page = (await office.ada.get(f"/console/activity?{query}")).text
        links += [link.replace("&amp;", "&") for link in re.findall('hx-get="(/console/activity/newer[^"]*)"', page)]
    before = [(await office.ada.get(link)).text.strip() for link in links]

    for _ in range(2):
        await office.ada.post("/console/visits/standard-A-1042/reveal", {"field": "contact.email"})

    after = [re.sub("<[^>]+>", "", (await office.ada.get(link)).text).strip() for link in links]
    assert [""] * 4 == before
    assert 'href="/console/activity?actor=grace"' in (await office.ada.get(_newer_than("0-1", "actor=grace"))).text
    assert ["2 new activities; show", "", "2 new activities; show", ""] == after
