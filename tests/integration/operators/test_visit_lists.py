"""The list of visits by the time at which they start."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from app.ledger.ids import TaskId
from app.ledger.ledger import Ledger
from app.ledger.redis import Redis
from app.operators.erasure import Erasure
from app.operators.visit_lists import VisitFilter, VisitLists, period
from app.settings.environment import read_environment
from app.visits.change import Contact, VisitChange
from tests.support.ledger import accept, change, done, parked, start_run

NEW_YORK = ZoneInfo("America/New_York")


def at(hour: int, day: int = 14) -> datetime:
    return datetime(2031, 3, day, hour, tzinfo=UTC)


async def apply(ledger: Ledger, visit: str, start: datetime, **fields: Any) -> None:
    """Accept a visit and run it."""
    await accept(ledger, change(visit, time_scheduled=start, **fields))
    await ledger.complete(await start_run(ledger, visit), done(start=f"{start:%Y-%m-%dT%H:%M}"))


async def listed(ledger: Ledger, limit: int = 50, **filter: Any) -> list[str]:
    page = await VisitLists(ledger).visits(VisitFilter(**filter), limit)
    assert not page.next_cursor
    return [row["visit"].removeprefix("standard-") for row in page.rows]


async def test_visits_are_in_the_order_of_their_start(ledger: Ledger) -> None:
    for visit, start in (("late", at(16)), ("next-day", at(8, day=15)), ("early", at(9))):
        await apply(ledger, visit, start)

    assert ["early", "late", "next-day"] == await listed(ledger)
    assert ["next-day", "late", "early"] == await listed(ledger, latest_first=True)


async def test_a_range_includes_its_first_minute_and_excludes_its_last(ledger: Ledger) -> None:
    for hour in (9, 10, 11, 12):
        await apply(ledger, f"at-{hour}", at(hour))

    assert ["at-10", "at-11"] == await listed(ledger, since="2031-03-14T10:00", until="2031-03-14T12:00")


@pytest.mark.parametrize(
    ("when", "visits"),
    [
        ("today", ["today-first", "today-last"]),
        ("tomorrow", ["tomorrow-first"]),
        ("upcoming", ["today-first", "today-last", "tomorrow-first", "later"]),
        ("past", ["yesterday-last"]),
        ("any", ["yesterday-last", "today-first", "today-last", "tomorrow-first", "later"]),
    ],
)
async def test_days_begin_at_midnight_of_the_zone(ledger: Ledger, when: str, visits: list[str]) -> None:
    # In New York, the night to November 1, 2026 has an hour more.
    midnight = datetime(2026, 11, 1, 4, tzinfo=UTC)
    next_midnight = midnight + timedelta(hours=25)
    for visit, start in (
        ("yesterday-last", midnight - timedelta(minutes=1)),
        ("today-first", midnight),
        ("today-last", next_midnight - timedelta(minutes=1)),
        ("tomorrow-first", next_midnight),
        ("later", next_midnight + timedelta(days=7)),
    ):
        await apply(ledger, visit, start)
    now = datetime(2026, 11, 1, 12, tzinfo=NEW_YORK)

    page = await VisitLists(ledger).visits(period(when, now, NEW_YORK))

    assert visits == [row["visit"].removeprefix("standard-") for row in page.rows]


async def test_a_filter_matches_tool_state_cancellation_and_amount(ledger: Ledger) -> None:
    await apply(ledger, "paid", at(9), amount_collected=Decimal(245))
    await apply(ledger, "cheap", at(10), amount_collected=Decimal("9.50"))
    await apply(ledger, "cancelled", at(11), date_cancelled=at(8))
    await apply(ledger, "no-show", at(12), no_show=at(13))
    await accept(ledger, change("parked", time_scheduled=at(13)))
    await ledger.complete(await start_run(ledger, "parked"), parked("contact_unknown"))
    await accept(ledger, change("queued", time_scheduled=at(14)))

    assert ["paid"] == await listed(ledger, min_amount=Decimal(100))
    assert ["cheap"] == await listed(ledger, max_amount=Decimal(100))
    assert ["cancelled", "no-show"] == await listed(ledger, cancelled="yes")
    assert ["paid", "cheap", "parked", "queued"] == await listed(ledger, cancelled="no")
    assert ["parked"] == await listed(ledger, state="parked")
    assert ["queued"] == await listed(ledger, state="queued")
    assert ["paid", "cheap", "cancelled", "no-show"] == await listed(ledger, state="done")
    assert ["paid"] == await listed(ledger, source="standard", until="2031-03-14T10:00")
    assert [] == await listed(ledger, source="calendly")


async def test_held_visits_are_found_by_their_state(ledger: Ledger) -> None:
    await accept(ledger, change("held", time_scheduled=at(9)))
    await ledger.pause("main")
    assert "held" == await ledger.lease(TaskId.visit("main", "standard-held"), "main")

    assert ["held"] == await listed(ledger, state="held")


async def test_the_next_page_begins_after_the_last_visit(ledger: Ledger) -> None:
    visits = [f"V-{number}" for number in range(7)]
    for number, visit in enumerate(visits):
        await apply(ledger, visit, at(9 + number // 3))

    for latest_first in (False, True):
        visits_of_pages, cursor = [], ""
        while True:
            filter = VisitFilter(cursor=cursor, latest_first=latest_first)
            page = await VisitLists(ledger).visits(filter, 2)
            visits_of_pages += [row["visit"].removeprefix("standard-") for row in page.rows]
            cursor = page.next_cursor
            if not cursor:
                break
        assert visits_of_pages == (visits[::-1] if latest_first else visits)


async def test_a_row_has_what_people_look_for_and_no_personal_data(ledger: Ledger) -> None:
    await accept(ledger, change("A", time_scheduled=at(9), amount_collected=Decimal(20), date_cancelled=at(8)))
    remote = {"visit:main/standard-A": {"id": 15, "time_scheduled": "2031-03-14T09:00:00Z"}}
    await ledger.complete(await start_run(ledger, "A"), done(start="2031-03-14T09:00", remote=remote))

    [row] = (await VisitLists(ledger).visits(VisitFilter())).rows

    assert row == {
        "visit": "standard-A",
        "account": "main",
        "number": 15,
        "source": "standard",
        "start": "2031-03-14T09:00:00Z",
        "state": "done",
        "reason": None,
        "date_cancelled": "2031-03-14T08:00:00Z",
        "time_completed": None,
        "amount_collected": "20.00",
        "currency": None,
    }


async def test_a_visit_whose_changes_were_discarded_keeps_its_place(ledger: Ledger) -> None:
    await accept(ledger, change("A", time_scheduled=at(9)))
    await ledger.discard(TaskId.visit("main", "standard-A"))

    [row] = (await VisitLists(ledger).visits(VisitFilter())).rows

    assert ("discarded", "2031-03-14T09:00:00Z") == (row["state"], row["start"])


async def test_a_visit_with_two_ids_is_listed_once(ledger: Ledger) -> None:
    await accept(ledger, VisitChange(action="create", visit_id="B", version=1, time_scheduled=at(9)))
    await accept(ledger, change("A", time_scheduled=at(9)), change("B", previous_visit_id="A", time_scheduled=at(9)))

    assert ["A"] == await listed(ledger)


async def test_an_expired_visit_is_not_listed(ledger: Ledger, redis: Redis) -> None:
    await apply(ledger, "A", at(9))
    await redis.command("DEL", "bell:visit:main/standard-A")

    assert [] == await listed(ledger)


async def test_the_customers_of_many_visits_are_read_in_batches(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.ledger.redis._MAX_PENDING", 60)
    for number in range(70):
        contact = Contact(email=f"customer-{number}@example.com")
        await accept(ledger, change(f"V-{number}", time_scheduled=at(9), contact=contact))
    lists = VisitLists(ledger)

    rows = [row async for page in lists.iter_pages(VisitFilter(), 70) for row in page.rows]

    assert [f"customer-{row['visit'].rpartition('-')[2]}@example.com" for row in rows] == await lists.customers(rows)


async def test_an_erased_customer_has_no_name(redis: Redis, ledger: Ledger) -> None:
    """The digest in place of the address is nothing that people know."""
    await apply(ledger, "A", at(9), contact=Contact(email="ada@example.com", first_name="Ada"))
    await Erasure(ledger, read_environment({"REDIS_URL": "redis://127.0.0.1/0"}), "ada@example.com").execute()
    lists = VisitLists(ledger)

    assert [""] == await lists.customers((await lists.visits(VisitFilter())).rows)
