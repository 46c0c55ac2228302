"""The lists of visits by the day on which they start."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from app.ledger.cleanup import trim_deliveries
from app.ledger.ledger import Ledger
from app.ledger.records import Outcome
from app.ledger.redis import Redis
from tests.support.ledger import accept, attempt, change, done, parked, short_retention_ledger, start_run, visit_task

MORNING, NOON = datetime(2031, 3, 14, 9, 30, tzinfo=UTC), datetime(2031, 3, 14, 12, tzinfo=UTC)
NEXT_DAY = datetime(2031, 3, 15, 9, 30, tzinfo=UTC)
DAY = "2031-03-14"


def remote(visit: str, time: datetime | None) -> dict[str, dict[str, object] | None]:
    return {visit_task(visit): {"id": 1, "time_scheduled": time.isoformat()} if time else None}


async def run(ledger: Ledger, visit: str, start: datetime | None, outcome: Outcome | None = None) -> None:
    """Run the visit, whose merged changes say that it starts at this time."""
    text = start.isoformat()[:16] if start else ""
    outcome = outcome or done(start=text, remote=remote(visit, start))
    await ledger.complete(await start_run(ledger, visit), outcome)


async def listed(ledger: Ledger) -> dict[str, list[str]]:
    """Return the external_ids of each day, without the source."""
    return {
        day: [task_id.external_id.removeprefix("standard-") for _, task_id in await ledger.visits_of_day(day)]
        for day in await ledger.visit_days()
    }


async def test_a_visit_is_listed_when_its_booking_is_accepted(ledger: Ledger) -> None:
    await accept(ledger, change("A", time_scheduled=NOON))

    assert [("2031-03-14T12:00", visit_task("A"))] == await ledger.visits_of_day(DAY)


async def test_the_visits_of_a_day_are_in_the_order_of_their_times(ledger: Ledger) -> None:
    await accept(ledger, change("A", time_scheduled=NOON), change("B", time_scheduled=NEXT_DAY))
    await accept(ledger, change("C", time_scheduled=MORNING))

    assert {DAY: ["C", "A"], "2031-03-15": ["B"]} == await listed(ledger)


async def test_a_moved_visit_changes_its_place_when_it_is_applied(ledger: Ledger) -> None:
    await accept(ledger, change("A", time_scheduled=NOON))
    await run(ledger, "A", NOON)
    for start in (MORNING, NEXT_DAY):
        await accept(ledger, change("A", time_scheduled=start))
        await run(ledger, "A", start)

        assert {start.isoformat()[:10]: ["A"]} == await listed(ledger)


async def test_a_moved_visit_changes_its_place_when_it_is_parked(ledger: Ledger) -> None:
    await accept(ledger, change("A", time_scheduled=NOON))
    await run(ledger, "A", NOON)
    await accept(ledger, change("A", time_scheduled=NEXT_DAY))
    await run(ledger, "A", NEXT_DAY, parked(start="2031-03-15T09:30"))

    assert {"2031-03-15": ["A"]} == await listed(ledger)

    await accept(ledger, change("A", time_scheduled=NOON))
    await run(ledger, "A", NOON)

    assert {DAY: ["A"]} == await listed(ledger)


async def test_a_run_that_did_not_merge_the_changes_leaves_the_visit_where_it_is(ledger: Ledger) -> None:
    await accept(ledger, change("A", time_scheduled=NOON))
    await run(ledger, "A", None, Outcome(state="parked", attempt=attempt(), reason="token_missing"))

    assert {DAY: ["A"]} == await listed(ledger)


async def test_a_visit_that_is_not_in_the_visits_api_stays_listed_once(ledger: Ledger) -> None:
    # A visit that was cancelled before it was created.
    await accept(ledger, change("A", time_scheduled=NOON))
    for _ in range(2):
        await run(ledger, "A", NOON, done(start="2031-03-14T12:00"))
        await accept(ledger, change("A"))

    assert 1 == await ledger.redis.command("LLEN", f"bell:visit-day:{DAY}")


async def test_a_visit_that_loses_its_time_is_not_listed(ledger: Ledger) -> None:
    await accept(ledger, change("A", time_scheduled=NOON))
    await run(ledger, "A", None)

    assert {} == await listed(ledger)


async def test_a_renamed_visit_is_listed_once_under_its_first_id(ledger: Ledger) -> None:
    for visit in "AB":
        await accept(ledger, change(visit, time_scheduled=NOON))
        await run(ledger, visit, NOON)
    await accept(ledger, change("B", previous_visit_id="A", time_scheduled=NEXT_DAY))
    outcome = done(start="2031-03-15T09:30", remote=remote("A", NEXT_DAY) | remote("B", None))
    await ledger.complete(await start_run(ledger, "B"), outcome)

    assert {"2031-03-15": ["A"]} == await listed(ledger)


async def test_a_visit_that_is_applied_needs_no_field_for_its_time(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A", time_scheduled=NOON))
    await run(ledger, "A", NOON)

    assert 0 == await redis.command("HEXISTS", f"bell:{visit_task('A')}", "start")


async def test_a_visit_uses_less_than_60_bytes_in_the_list_of_its_day(ledger: Ledger, redis: Redis) -> None:
    visits = [change(f"0b6f4d6e-{number:04}", time_scheduled=NOON) for number in range(1_000)]
    for start in range(0, 1_000, 50):
        await accept(ledger, *visits[start : start + 50])

    assert 60 > await redis.command("MEMORY", "USAGE", f"bell:visit-day:{DAY}", "SAMPLES", 0) / 1_000


@pytest.mark.parametrize("days", [-40, 1_000])
async def test_an_expired_visit_is_removed_from_the_list_of_its_day(redis: Redis, days: int) -> None:
    ledger = short_retention_ledger(redis)
    start = datetime.now(UTC) + timedelta(days)
    await accept(ledger, change("A", time_scheduled=start))
    await run(ledger, "A", start, done(start=start.isoformat()[:16]))
    await accept(ledger, change("B", time_scheduled=start))
    await run(ledger, "B", start, parked(start=start.isoformat()[:16]))
    await asyncio.sleep(0.1)

    await trim_deliveries(ledger)

    assert {start.isoformat()[:10]: ["B"]} == await listed(ledger)
