"""The live page of a hook."""

import asyncio
import html
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from app.ledger.redis import Redis
from app.telemetry import arrivals
from tests.support.command_line import in_2026
from tests.support.console import Browser
from tests.support.harness import sign_standard, standard_body

PAGE = "/console/sources/standard/listen"
OTHER_SECRET = "whsec_YW5vdGhlciBzZWNyZXQsIG9mIGFub3RoZXIgdG9vbA=="
ADA = {"email": "ada@example.com", "first_name": "Ada", "last_name": "Lovelace"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "FOLLOW_EVERY_S", 0.02)


@pytest.fixture
async def operator(app: Any) -> Browser:
    operator = Browser(app)
    await operator.log_in()
    return operator


def text_of(page: str) -> str:
    part = page.partition('id="live"')[2].partition("</ol>")[0]
    return " ".join(html.unescape(re.sub("<[^>]+>", " ", part)).split())


async def open_page(app: Any, operator: Browser) -> None:
    """Open the page, and wait until the web process knows that an operator listens."""
    await operator.get(PAGE)
    async with asyncio.timeout(5):
        while "standard" not in app.state.services.arrivals.hooks:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def page_with(operator: Browser, condition: Callable[[str], object]) -> str:
    async with asyncio.timeout(5):
        while not condition(text := text_of((await operator.get(PAGE)).text)):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return text


async def test_an_accepted_delivery_shows_its_secret_and_what_it_means(app: Any, operator: Browser) -> None:
    await open_page(app, operator)
    raw = standard_body("visit.created", "A-7", contact=ADA, time_scheduled="2026-03-14T16:00:00Z")
    response = await operator.http.post("/hooks/standard", content=raw, headers=sign_standard(raw))

    text = await page_with(operator, lambda text: "Accepted" in text)

    assert response.json()["delivery"] in text
    assert re.search(r"Verified with secret 1 of 1 \([0-9a-f]{6,}\)", text)
    assert f"Books standard-A-7 for •••: booked for {in_2026('Mar 14', '4:00 PM UTC')}" in text
    assert f"Start {in_2026('Mar 14', '4:00 PM UTC')}" in text
    assert [] == [value for value in ADA.values() if value in text]


async def test_a_rejected_request_shows_its_diagnosis(app: Any, operator: Browser, redis: Redis) -> None:
    await open_page(app, operator)
    raw = standard_body("visit.created", "A-7", contact=ADA)
    indented = json.dumps(json.loads(raw), indent=2).encode()
    await operator.http.post("/hooks/standard", content=indented, headers=sign_standard(raw))

    text = await page_with(operator, lambda text: "Rejected" in text)

    assert "Rejected (401)" in text
    assert "signature_mismatch" in text
    assert "The signature matches the body with spaces after , and : : a proxy rewrites the body" in text
    [stored] = await redis.command("LRANGE", "bell:arrivals:standard", 0, -1)
    assert [] == [value for value in (*ADA.values(), "A-7") if value.encode() in stored]


async def test_requests_that_change_nothing_say_why(app: Any, operator: Browser) -> None:
    await open_page(app, operator)
    raw = standard_body("visit.moved", "A-7")
    headers = sign_standard(raw)
    for _ in range(2):
        await operator.http.post("/hooks/standard", content=raw, headers=headers)
    await operator.http.post("/hooks/standart", content=raw, headers=headers)

    text = await page_with(operator, lambda text: "A repeat" in text and "no hook" in text)

    assert "Ignored: it changes no visit (visit.moved)" in text
    assert "A repeat of a delivery that arrived before: it changes nothing" in text
    assert "There is no hook with this name, or it has no secret" in text


async def test_redis_gets_no_note_while_nobody_listens(app: Any, redis: Redis) -> None:
    raw = standard_body("visit.created", "A-7")
    await Browser(app).http.post("/hooks/standard", content=raw, headers=sign_standard(raw, secret=OTHER_SECRET))
    await asyncio.sleep(0.2)

    assert frozenset() == app.state.services.arrivals.hooks
    for key in ("bell:arrivals:standard", "bell:listening"):
        assert not await redis.command("EXISTS", key)


async def test_a_flood_of_rejected_requests_writes_few_notes(app: Any, operator: Browser, redis: Redis) -> None:
    await open_page(app, operator)
    raw = standard_body("visit.created", "A-7")
    headers = sign_standard(raw, secret=OTHER_SECRET)
    for _ in range(200):
        await operator.http.post("/hooks/standard", content=raw, headers=headers)

    await page_with(operator, lambda text: "Rejected" in text)

    assert await redis.command("LLEN", "bell:arrivals:standard") <= arrivals.MAX_NOTES
    assert 0 < await redis.command("PTTL", "bell:arrivals:standard") <= arrivals.NOTES_TTL_S * 1000


async def test_an_unknown_hook_is_not_found(operator: Browser) -> None:
    assert 404 == (await operator.get("/console/sources/jobber/listen")).status_code
