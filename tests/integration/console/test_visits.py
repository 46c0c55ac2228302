"""The list of visits, one visit, and its deliveries."""

import asyncio
import html
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from app.ledger.ledger import Ledger
from app.ledger.records import Attempt, Outcome
from app.ledger.redis import Redis
from app.visits.change import UNSET, Contact
from tests.support.console import VIEWERS, Browser, activities, main_text
from tests.support.ledger import accept, change, done, start_run, waiting

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
        ("?since=9999-12-31&until=9999-12-31", ["today", "tomorrow", "next-week"]),
        ("?since=0001-01-01&amount=NaN&cursor=%%00", ["today", "tomorrow", "next-week"]),
        ("?until=20261301&amount=Infinity", ["today", "tomorrow", "next-week"]),
        ("?when=never&since=soon&until=x&state=odd&cancelled=maybe&amount=many", ["today", "tomorrow", "next-week"]),
    ],
)
async def test_visits_are_found_by_their_day_and_fields(operator: Browser, query: str, visits: list[str]) -> None:
    dates = {"today": f"{TODAY:%Y-%m-%d}", "tomorrow": f"{TODAY + timedelta(1):%Y-%m-%d}"}

    assert visits == await listed(operator, query % dates)


async def test_the_visits_of_today_and_tomorrow_are_counted(operator: Browser, redis: Redis) -> None:
    await accept(Ledger(redis, 30), change("later-today", time_scheduled=TODAY + timedelta(hours=1)))

    page = (await operator.get("/console/visits?when=past&source=calendly")).text

    tabs = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", page.partition('class="tabs"')[2].partition("</nav>")[0]))
    assert "Upcoming Today 2 Tomorrow 1 Past All" in tabs


async def test_days_are_those_of_the_browser(operator: Browser) -> None:
    # In this zone, noon UTC is two o'clock in the morning of the next day.
    operator.http.cookies.set("doorbell-zone", "Pacific/Kiritimati")
    local_today = (datetime.now(UTC) + timedelta(hours=14)).date()

    [visit] = await listed(operator, f"?since={local_today}&until={local_today}")

    starts = {"yesterday": -1, "today": 0, "tomorrow": 1}
    assert local_today == (TODAY + timedelta(starts[visit]) + timedelta(hours=14)).date()


async def test_the_filter_has_the_connected_tools_first(operator: Browser) -> None:
    select = (await operator.get("/console/visits")).text.partition('id="source"')[2].partition("</select>")[0]

    connected, others = [re.findall(r'value="(\w+)"', group) for group in select.split("<optgroup")[1:]]

    assert ["calendly", "standard"] == connected
    assert 27 == len({*others} - {*connected}) == len(others)


async def test_the_next_attempt_of_a_visit_is_now_once_its_time_has_passed(app: Any, redis: Redis) -> None:
    """No worker runs. In the list of a delivery's visits too."""
    ledger, operator = Ledger(redis, 30), Browser(app)
    delivery = (await accept(ledger, change("overdue"))).delivery_id
    await ledger.complete(await start_run(ledger, "overdue"), waiting(retry_in_s=0))
    await operator.log_in()
    await asyncio.sleep(1.1)  # from then on it would be `1 s ago`

    pages = [
        (await operator.get(f"/console/{page}")).text for page in ("visits/standard-overdue", f"deliveries/{delivery}")
    ]

    for page in pages:
        [shown] = re.findall(r'Next attempt(?:</dt><dd>|">)\s*<time [^>]*><span>([^<]*)</span>', page)
        assert "now" == shown


async def test_an_empty_list_says_why(operator: Browser) -> None:
    nothing = (await operator.get("/console/visits?when=tomorrow&source=calendly")).text

    assert "No visit matches this filter." in nothing
    assert 'href="/console/visits?when=tomorrow">Clear the filter' in nothing


async def test_the_menu_has_the_visits(operator: Browser) -> None:
    menu = (await operator.get("/console")).text.partition("<nav")[2].partition("</nav>")[0]

    assert 'href="/console/visits"' in menu


async def test_the_customers_of_a_list_are_revealed_and_recorded(app: Any, moved: list[str], redis: Redis) -> None:
    await accept(Ledger(redis, 30), change("later", time_scheduled=datetime(2027, 1, 16, tzinfo=UTC)))
    operator, viewer = Browser(app), Browser(app)
    await operator.log_in()
    await viewer.log_in(VIEWERS)

    hidden = await operator.get("/console/visits?since=2027-01-15")
    form = {"since": "2027-01-15", "until": "2027-01-15"}
    revealed, refused = [await browser.post("/console/visits/reveal", form) for browser in (operator, viewer)]

    assert "Lovelace" not in hidden.text
    assert "Ada Lovelace" in revealed.text
    assert "standard-later" not in revealed.text
    assert 403 == refused.status_code
    assert [(b"revealed visit", b"the customers of 1 visit")] == await activities(redis)
    assert "Revealed personal data" in (await operator.get("/console/visits/standard-A")).text
    assert "Revealed personal data" not in (await operator.get("/console/visits/standard-later")).text


# -- one visit --


@pytest.fixture
async def moved(app: Any, redis: Redis) -> list[str]:
    """Return the deliveries of a visit that was booked, moved, and then booked again by an older message."""
    ledger, contact = Ledger(redis, 30), Contact(email="ada@example.com", first_name="Ada", last_name="Lovelace")
    three, two, four = (datetime(2027, 1, 15, hour, tzinfo=UTC) for hour in (20, 19, 21))
    messages = [(1, three, Decimal("79.50")), (3, two, UNSET), (2, four, UNSET)]
    ids = []
    for version, start, amount in messages:
        sent = change("A", version=version, contact=contact, time_scheduled=start, amount_collected=amount)
        ids.append((await accept(ledger, sent)).delivery_id)
        await asyncio.sleep(0.002)
    remote = {"visit:main/standard-A": {"id": 15, "time_scheduled": "2027-01-15T19:00:00Z"}}
    at = int((await ledger.server_time()).timestamp() * 1000)
    created = Attempt(started_at_ms=at, took_ms=7, outcome="created", calls=[["POST /visits", 201]])
    outcome = Outcome(state="done", attempt=created, start="2027-01-15T19:00", remote=remote)
    await ledger.complete(await start_run(ledger, "A"), outcome)
    return ids


def lines(page: str) -> list[str]:
    """Return the sentences of the history, without their times."""
    history = page.partition('id="history"')[2].partition("</section>")[0] or page.partition('id="timeline"')[2]
    texts = [re.sub("<[^>]+>", " ", text) for text in re.findall(r"<li.*?<div>(.*?)</div></li>", history, re.DOTALL)]
    return [re.sub(r" ([,;])", r"\1", " ".join(html.unescape(text).split())) for text in texts]


async def test_a_visit_tells_its_story_in_the_zone_of_the_browser(app: Any, moved: list[str]) -> None:
    operator = Browser(app)
    operator.http.cookies.set("doorbell-zone", "America/New_York")
    await operator.log_in()

    page = (await operator.get("/console/visits/standard-A")).text

    assert [
        "Booked for Jan 15, 2027, 3:00 PM EST, amount 79.50 only the amount counts delivery",
        "Moved to Jan 15, 2027, 2:00 PM EST counts delivery",
        "An older message, for Jan 15, 2027, 4:00 PM EST, arrived late and changed nothing delivery the newer delivery",
        "Created in Review Rover",
    ] == lines(page)
    heading = re.sub("<[^>]+>", "", page.partition("<h1>")[2].partition("</h1>")[0]).strip()
    assert "Visit on Jan 15, 2027, 2:00 PM EST" == heading
    assert "<dd>#15</dd>" in page
    assert "<details" in page.partition("All fields and messages")[0]


async def test_a_moved_visit_has_its_first_id_on_every_page(app: Any, redis: Redis) -> None:
    ledger, start = Ledger(redis, 30), TODAY + timedelta(2)
    await accept(ledger, change("first", version=1, time_scheduled=start))
    accepted = await accept(ledger, change("second", "first", version=2, time_scheduled=start + timedelta(hours=1)))
    viewer = Browser(app)
    await viewer.log_in(VIEWERS)

    of_delivery = f"/console/deliveries/{accepted.delivery_id}"
    plans = [f"/console/plan?do={do}&ids={accepted.delivery_id}" for do in ("replay", "discard")]
    for path in ("/console/deliveries", "/console/visits?when=any", of_delivery, *plans):
        page = (await viewer.get(path)).text
        assert "/console/visits/standard-first" in page, path
        assert "/console/visits/standard-second" not in page, path
    assert "standard-first as standard-second" in main_text((await viewer.get(of_delivery)).text)

    answer = await viewer.get("/console/visits/standard-second")
    assert (303, "/console/visits/standard-first") == (answer.status_code, answer.headers["location"])
    assert "Other ids standard-second" in main_text((await viewer.get("/console/visits/standard-first")).text)


async def test_the_table_of_fields_has_the_values_that_do_not_count(app: Any, moved: list[str]) -> None:
    operator = Browser(app)
    await operator.log_in()

    page = (await operator.get("/console/visits/standard-A")).text

    [start] = re.findall(r'<tr><th scope="row" data-name="Field">Start</th>.*?</tr>', page, re.DOTALL)
    assert ["7:00", "9:00", "8:00"] == re.findall(r"Jan 15, 2027, (\d+:00) PM UTC", start)[:3]
    assert [moved[1], moved[2], moved[0]] == re.findall(r"/console/deliveries/(\w+)", start)


async def test_the_customer_is_hidden_until_an_operator_reveals_it(app: Any, moved: list[str], redis: Redis) -> None:
    operator = Browser(app)
    await operator.log_in()
    path = "/console/visits/standard-A"

    hidden, revealed = await operator.get(path), await operator.post(f"{path}/reveal", {"field": "contact"})

    assert "••• (name, e-mail address)" in hidden.text
    assert [] == [word for word in ("Ada", "Lovelace", "ada@example.com") if word in hidden.text]
    assert "Ada Lovelace · ada@example.com" in revealed.text
    assert [(b"revealed visit", b"standard-A: contact")] == await activities(redis)
    assert "revealed personal data" in (await operator.get(path)).text.lower()


# -- one delivery --


async def test_a_delivery_tells_its_own_story_with_a_link_to_the_newer_one(app: Any, moved: list[str]) -> None:
    operator = Browser(app)
    await operator.log_in()

    first, second, late = [(await operator.get(f"/console/deliveries/{id}")).text for id in moved]

    assert "Created in Review Rover" in lines(second)
    assert "Created in Review Rover" not in lines(late)
    assert f'href="/console/deliveries/{moved[1]}">the newer delivery' in late
    assert "Outdated: a newer message decides the newer delivery" == lines(late)[-1]
    size = next(iter(re.findall(r"<dt>Size</dt><dd>(\d+) bytes", first)))
    assert int(size) > 0


async def test_a_delivery_links_its_neighbors_on_the_same_hook(app: Any, moved: list[str]) -> None:
    operator = Browser(app)
    await operator.log_in()

    pages = [(await operator.get(f"/console/deliveries/{id}")).text for id in moved]

    links = [dict(re.findall(r'rel="(prev|next)" href="/console/deliveries/(\w+)"', page)) for page in pages]
    assert [{"next": moved[1]}, {"prev": moved[0], "next": moved[2]}, {"prev": moved[1]}] == links


# -- search --


async def test_results_show_title_time_tool_and_state(app: Any, moved: list[str], redis: Redis) -> None:
    await accept(Ledger(redis, 30), change("A-later", time_scheduled=TODAY))
    operator = Browser(app)
    operator.http.cookies.set("doorbell-zone", "America/New_York")
    await operator.log_in()

    page = (await operator.get("/console/search?q=standard")).text

    rows = [
        re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", row)) for row in re.findall(r"<tr tabindex.*?</tr>", page, re.DOTALL)
    ]
    [row] = [row for row in rows if "Visit #15" in row]
    for text in ("standard-A", "Jan 15, 2027, 2:00 PM EST", "Standard Webhooks", "Up to date", "79.50"):
        assert text in row


async def test_a_search_without_result_says_what_was_searched(app: Any) -> None:
    operator = Browser(app)
    await operator.log_in()

    page = (await operator.get("/console/search?q=nobody")).text

    for text in ("Nothing matches.", "ids of visits", "beginnings of the ids", "phone number or name"):
        assert text in page


async def test_the_only_result_is_opened(app: Any, moved: list[str]) -> None:
    operator = Browser(app)
    await operator.log_in()

    answers = [await operator.get(f"/console/search?q={text}") for text in ("standard-A", moved[0], moved[0][:16])]

    targets = ["/console/visits/standard-A", *[f"/console/deliveries/{moved[0]}"] * 2]
    assert targets == [answer.headers["location"] for answer in answers]
