"""What operators did: the activity log, and the pages of visits and deliveries."""

from typing import Any

from tests.support.console import HASHES, OPERATORS, Browser, Opened, main_text

NAMED = {"CONSOLE_PASSWORD_HASH": f"ada:{HASHES[OPERATORS]} grace:{HASHES[OPERATORS]}"}


async def logged_in(app: Any, name: str) -> Browser:
    browser = Browser(app)
    await browser.log_in(name=name)
    return browser


async def test_a_delivery_and_its_visit_show_who_revealed_them(
    opened: Opened, environ: dict[str, str], delivery: str
) -> None:
    app = await opened(environ | NAMED)
    ada, grace = await logged_in(app, "ada"), await logged_in(app, "grace")
    await ada.post(f"/console/deliveries/{delivery}/reveal", {"field": "*"})
    await grace.post("/console/visits/standard-A-1042/reveal", {"field": "contact.email"})

    of_delivery = main_text((await ada.get(f"/console/deliveries/{delivery}")).text)
    of_visit = main_text((await ada.get("/console/visits/standard-A-1042")).text)

    assert "ada : Revealed personal data" in of_delivery
    assert "grace" not in of_delivery
    assert "grace : Revealed personal data" in of_visit


async def test_the_activity_log_is_filtered_and_links_what_it_names(
    opened: Opened, environ: dict[str, str], delivery: str
) -> None:
    app = await opened(environ | NAMED)
    ada, grace = await logged_in(app, "ada"), await logged_in(app, "grace")
    await ada.post(f"/console/deliveries/{delivery}/reveal", {"field": "*"})
    await grace.post("/console/visits/standard-A-1042/reveal", {"field": "contact.email"})

    async def rows(query: str) -> list[str]:
        text = (await ada.get(f"/console/activity?{query}")).text
        return text.split("<tbody>")[1].split("<tr ")[1:] if "<tbody>" in text else []

    [of_ada] = await rows("actor=ada&action=revealed+delivery")
    [of_visit] = await rows("id=standard-A-1042")
    assert f'href="/console/deliveries/{delivery}"' in of_ada
    assert "grace" in of_visit
    assert 'href="/console/visits/standard-A-1042"' in of_visit
    assert [2, 2, 0, 4] == [
        len(await rows(query)) for query in ("action=logged+in", "actor=grace", "since=2099-01-01T00:00", "")
    ]
