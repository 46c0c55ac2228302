"""The list of visits."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.ledger.ledger import Ledger
from app.ledger.redis import Redis
from tests.support.console import Browser
from tests.support.ledger import accept, change, done, start_run

TODAY = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)


@pytest.fixture
async def operator(app: Any, redis: Redis) -> Browser:
    """Log in, with a visit at noon of yesterday, today, tomorrow, and in a week."""
    ledger = Ledger(redis, 30)
    for visit, days in (("yesterday", -1), ("today", 0), ("tomorrow", 1), ("next-week", 7)):
        start = TODAY + timedelta(days)
        await accept(ledger, change(visit, time_scheduled=start))
        await ledger.complete(await start_run(ledger, visit), done(start=f"{start:%Y-%m-%dT%H:%M}"))
    operator = Browser(app)
    await operator.log_in()
    return operator


async def listed(operator: Browser, query: str) -> list[str]:
    page = await operator.get(f"/console/visits{query}")
    assert 200 == page.status_code
    return re.findall(r'<a class="id"[^>]*>standard-([^<]+)</a>', page.text)


@pytest.mark.parametrize(
    ("query", "visits"),
    [
        ("", ["today", "tomorrow", "next-week"]),
        ("?when=today", ["today"]),
        ("?when=tomorrow", ["tomorrow"]),
        ("?when=past", ["yesterday"]),
        ("?when=any", ["yesterday", "today", "tomorrow", "next-week"]),
        ("?since=%(today)s&until=%(tomorrow)s", ["today", "tomorrow"]),
        ("?when=past&since=%(tomorrow)s", ["tomorrow", "next-week"]),
        ("?when=today&source=calendly", []),
        ("?state=done&cancelled=no", ["today", "tomorrow", "next-week"]),
        ("?cancelled=yes", []),
        ("?amount=1", []),
        ("?when=never&since=soon&until=x&state=odd&cancelled=maybe&amount=many", ["today", "tomorrow", "next-week"]),
    ],
)
async def test_visits_are_found_by_their_day_and_fields(operator: Browser, query: str, visits: list[str]) -> None:
    dates = {"today": f"{TODAY:%Y-%m-%d}", "tomorrow": f"{TODAY + timedelta(1):%Y-%m-%d}"}

    assert visits == await listed(operator, query % dates)


async def test_days_are_those_of_the_browser(operator: Browser) -> None:
    # In this zone, noon UTC is two o'clock in the morning of the next day.
    operator.http.cookies.set("doorbell-zone", "Pacific/Kiritimati")
    local_today = (datetime.now(UTC) + timedelta(hours=14)).date()

    [visit] = await listed(operator, f"?since={local_today}&until={local_today}")

    starts = {"yesterday": -1, "today": 0, "tomorrow": 1}
    assert local_today == (TODAY + timedelta(starts[visit]) + timedelta(hours=14)).date()


async def test_an_empty_list_says_why(operator: Browser) -> None:
    nothing = (await operator.get("/console/visits?when=tomorrow&source=calendly")).text

    assert "No visit matches this filter." in nothing
    assert 'href="/console/visits?when=tomorrow">Clear the filter' in nothing


async def test_the_menu_has_the_visits(operator: Browser) -> None:
    assert '<a href="/console/visits">Visits</a>' in (await operator.get("/console")).text
