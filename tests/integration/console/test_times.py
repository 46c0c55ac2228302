"""The time zone of the console's pages."""

import html
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from app.ledger.redis import Redis
from tests.support.console import Browser
from tests.support.ledger import move_arrival


@pytest.fixture
async def delivery(delivery: str, redis: Redis) -> str:
    """Return the id of a delivery that arrived at 7:00 PM UTC on January 15."""
    arrived_at_ms = int(datetime(2027, 1, 15, 19, 0, 5, tzinfo=UTC).timestamp() * 1000)
    await redis.command("DEL", "bell:deliveries:standard")
    delivery = await move_arrival(redis, delivery, arrived_at_ms)
    await redis.command("ZADD", "bell:deliveries:standard", arrived_at_ms, delivery)
    return delivery


@pytest.fixture
async def operator(app: Any, delivery: str) -> Browser:
    operator = Browser(app)
    await operator.log_in()
    return operator


def times(page: str) -> list[str]:
    """Return the times in the main part of a page, as people read them."""
    tags = re.findall(r"<time[^>]*>(.*?)</time>", page.partition("<main")[2], re.DOTALL)
    return [html.unescape(re.sub("<[^>]+>", "", text)) for text in tags]


async def test_times_are_in_the_zone_of_the_browser(operator: Browser, delivery: str) -> None:
    operator.http.cookies.set("doorbell-zone", "America/New_York")

    pages = [await operator.get(path) for path in ("/console/deliveries", f"/console/deliveries/{delivery}")]

    assert ["Jan 15, 2027, 2:00 PM EST", "Jan 15, 2027, 2:00:05 PM EST"] == [
        next(time for page in times(response.text)[:1] for time in re.findall(r"Jan.*(?:EST|UTC)", page))
        for response in pages
    ]
    assert 'datetime="2027-01-15T19:00:05Z"' in pages[0].text


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "../../etc/passwd", "America", "x" * 100, "%00"])
async def test_times_are_in_utc_if_the_zone_of_the_browser_is_unknown(operator: Browser, zone: str) -> None:
    operator.http.cookies.set("doorbell-zone", zone)

    page = (await operator.get("/console/deliveries")).text

    assert "Jan 15, 2027, 7:00 PM UTC" in times(page)[0]
    [note] = re.findall(r'<span class="faint zone">(.*?)</noscript>', page)
    assert "Times in UTC (the local zone needs JavaScript)" == re.sub("<[^>]+>", "", note)


async def test_a_user_switches_to_utc_and_back(operator: Browser) -> None:
    operator.http.cookies.set("doorbell-zone", "America/New_York")
    path, shown = "/console/deliveries?hook=standard", list[str]()

    for choice in ("utc", ""):
        await operator.get(path)
        response = await operator.post("/console/times", {"times": choice, "to": path})
        assert (303, path) == (response.status_code, response.headers["location"])
        shown += times((await operator.get(path)).text)[:1]

    assert ["UTC", "EST"] == [time[-3:] for time in shown]


async def test_the_switch_leads_to_no_other_site(operator: Browser) -> None:
    response = await operator.post("/console/times", {"times": "utc", "to": "https://example.com/console"})

    assert "/console" == response.headers["location"]


@pytest.mark.parametrize(
    ("query", "is_found"),
    [
        ("since=2027-01-15T14:00", True),
        ("since=2027-01-15T14:01", False),
        ("since=2027-01-15T19:01&zone=UTC", False),
        ("since=2027-01-15T19:00&zone=UTC", True),
        ("since=2027-01-15T19:00:00Z", True),
    ],
)
async def test_a_filter_by_time_is_in_the_zone_of_the_page(
    operator: Browser, delivery: str, query: str, is_found: bool
) -> None:
    operator.http.cookies.set("doorbell-zone", "America/New_York")

    page = (await operator.get(f"/console/deliveries?{query}")).text

    assert is_found == (f'value="{delivery}"' in page)
    [field] = re.findall(r'<label for="since">([^<]*)</label>\s*<input[^>]* value="([^"]*)"', page)
    assert ("Since (EST)", "2027-01-15T14:0") == (field[0], field[1][:-1])
