"""Addresses without a page."""

from typing import Any

from app.ledger.redis import Redis
from tests.support.cases import each
from tests.support.console import Browser, Opened, main_text

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


async def test_a_page_names_what_does_not_exist_and_why_it_may_be_gone(app: Any) -> None:
    operator = Browser(app)
    await operator.log_in()
    sentences = {
        "sources/nowhere": "There is no source or active hook nowhere.",
        "sources/nowhere/listen": "There is no active hook nowhere.",
        "hooks/nowhere": "There is no hook nowhere.",
        "hooks/standard?origin=stored": "There is no hook standard.",
        "hooks/standard/catch-up": "There is no catch-up for the hook standard.",
        "connect/nowhere": "There is no source nowhere.",
        "visits/nowhere": (
            "There is no delivery or visit nowhere. It may have expired: finished tasks are stored for 30 days."
        ),
        "operations/nowhere": "There is no operation nowhere. It may have expired: operations are stored for 90 days.",
    }

    for path, sentence in sentences.items():
        response = await operator.get(f"/console/{path}")
        assert 404 == response.status_code, path
        assert f"Not found {sentence}" in main_text(response.text), path
    paused = await operator.post("/console/accounts/nowhere/pause")
    assert (404, True) == (paused.status_code, "There is no account nowhere." in paused.text)


async def test_an_unexpected_error_asks_to_check_only_after_an_action(app: Any, redis: Redis) -> None:
    operator = Browser(app)
    await operator.log_in()
    await redis.command("SET", "bell:operation:broken", "of another type")

    page = await operator.get("/console/operations/broken")
    action = await operator.post("/console/operations/broken/cancel")

    assert (500, 500) == (page.status_code, action.status_code)
    log = "The log has the stack trace (unhandled_exception)."
    assert f"An unexpected error occurred. {log}" in main_text(page.text)
    check = "Check whether the action took effect before you repeat it."
    assert f"An unexpected error occurred. {check} {log}" in main_text(action.text)


async def test_without_a_console_no_page_leads_to_it(opened: Opened, environ: dict[str, str]) -> None:
    app = await opened({name: value for name, value in environ.items() if not name.startswith("CONSOLE_")})

    pages = [await Browser(app).get(path, headers=HTML) for path in ("/", "/console", "/nowhere")]

    assert [404] * 3 == [page.status_code for page in pages]
    assert [] == [page.text for page in pages if "Doorbell is running" not in page.text or "/console" in page.text]
    assert [] == [page.text for page in pages if "CONSOLE_PASSWORD_HASH" not in page.text]


async def test_an_unknown_address_answers_a_program_in_json(app: Any) -> None:
    response = await Browser(app).get("/nowhere")

    assert (404, "not_found") == (response.status_code, response.json()["error"])
