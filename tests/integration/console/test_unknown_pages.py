"""Addresses without a page."""

from typing import Any

from tests.support.cases import each
from tests.support.console import Browser, Opened

HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


async def test_the_root_leads_to_the_console(app: Any) -> None:
    response = await Browser(app).get("/", headers=HTML)

    assert (303, "/console") == (response.status_code, response.headers["location"])


@each("path", ["/console/nowhere", "/console/visits/a/b", "/nowhere"])
@each("is_logged_in", [True, False])
async def test_an_unknown_page_answers_a_browser_in_html(app: Any, path: str, is_logged_in: bool) -> None:
    browser = Browser(app)
    if is_logged_in:
        await browser.log_in()

    response = await browser.get(path, headers=HTML)

    assert (404, "text/html; charset=utf-8") == (response.status_code, response.headers["content-type"])
    assert 'href="/console"' in response.text


async def test_an_unknown_source_is_not_said_to_have_expired(app: Any) -> None:
    operator = Browser(app)
    await operator.log_in()

    response = await operator.get("/console/sources/nowhere")

    assert 404 == response.status_code
    assert "There is no source and no hook with this name." in response.text
    assert "expired" not in response.text


async def test_without_a_console_no_page_leads_to_it(opened: Opened, environ: dict[str, str]) -> None:
    app = await opened({name: value for name, value in environ.items() if not name.startswith("CONSOLE_")})

    pages = [await Browser(app).get(path, headers=HTML) for path in ("/", "/console", "/nowhere")]

    assert [404] * 3 == [page.status_code for page in pages]
    assert [] == [page.text for page in pages if "Doorbell is running" not in page.text or "/console" in page.text]
    assert [] == [page.text for page in pages if "CONSOLE_PASSWORD_HASH" not in page.text]


async def test_an_unknown_address_answers_a_program_in_json(app: Any) -> None:
    response = await Browser(app).get("/nowhere")

    assert (404, "not_found") == (response.status_code, response.json()["error"])
