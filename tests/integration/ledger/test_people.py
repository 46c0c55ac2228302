"""The people whom the records of a booking have listed, stored in the order of their arrival."""

import asyncio
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from app.ledger.ledger import Ledger
from app.ledger.records import RecordOutdated
from app.ledger.redis import Redis
from tests.support.source_world import SourceWorld
from tests.support.specimens import BY_TOOL

NOON = datetime(2025, 11, 29, 12, tzinfo=UTC)


async def add_people(redis: Redis, minute: float, *people: str, booking: str = "hubspot-5-1") -> tuple[str, ...]:
    return await Ledger(redis, retention_days=30).add_people("main", booking, NOON + timedelta(minutes=minute), people)


async def test_people_stay_in_the_order_in_which_records_listed_them(redis: Redis) -> None:
    assert ("b",) == await add_people(redis, 0, "b")
    assert ("b", "c", "a") == await add_people(redis, 1, "c", "b", "a")
    assert ("b", "c", "a") == await add_people(redis, 2)
    assert ("b", "c", "a", "d") == await add_people(redis, 3, "d", "a")


async def test_each_booking_of_each_account_has_its_own_people(redis: Redis) -> None:
    await add_people(redis, 0, "a")

    assert ("b",) == await add_people(redis, 0, "b", booking="hubspot-5-2")
    assert ("c",) == await Ledger(redis, retention_days=30).add_people("other", "hubspot-5-1", NOON, ["c"])


async def test_an_older_record_with_a_new_person_is_outdated(
    redis: Redis,
) -> None:
    await add_people(redis, 1, "a")

    with pytest.raises(RecordOutdated):
        await add_people(redis, 0.5, "a", "b")

    assert ("a",) == await add_people(redis, 0.5, "a")
    assert ("a",) == await add_people(redis, 2)


async def test_the_same_record_for_two_events_is_not_outdated(redis: Redis) -> None:
    await add_people(redis, 1)

    assert ("a",) == await add_people(redis, 1, "a")


async def test_a_record_without_people_makes_older_records_outdated(redis: Redis) -> None:
    assert () == await add_people(redis, 1)

    with pytest.raises(RecordOutdated):
        await add_people(redis, 0, "a")


async def test_a_record_from_the_future_makes_no_record_outdated(redis: Redis) -> None:
    """It was fetched before the clock of the server went back."""
    ledger = Ledger(redis, retention_days=30)
    now = await ledger.server_time()
    await ledger.add_people("main", "hubspot-5-1", now + timedelta(days=1), ["a"])

    assert ("a", "b") == await ledger.add_people("main", "hubspot-5-1", now, ["b"])


async def test_the_people_of_a_booking_expire_after_two_years(redis: Redis) -> None:
    await add_people(redis, 0, "a")

    ms = await redis.command("PTTL", "bell:people:main/hubspot-5-1")

    assert 731 * 86_400_000 < ms <= 732 * 86_400_000


async def test_an_event_whose_record_is_outdated_waits_and_is_fetched_again(
    redis: Redis, source_world: SourceWorld
) -> None:
    specimen = next(
        specimen for specimen in BY_TOOL["hubspot"] if specimen.recorded["name"] == "a meeting of two contacts"
    )
    source_world.configure_source(specimen)
    source_world.api.add_records(specimen)
    newer = list[asyncio.Task[tuple[str, ...]]]()

    def store_a_newer_record(_: httpx.Request) -> None:
        """Another worker fetched later, and is faster."""
        if not newer:
            people = source_world.ledger.add_people("main", "hubspot-62515-9001", datetime.now(UTC), [])
            newer.append(asyncio.ensure_future(people))

    source_world.transport.before = store_a_newer_record
    await source_world.receive(specimen)
    outcomes = await source_world.run()
    cached = await redis.command("KEYS", "bell:record:*")
    await redis.command("DEL", "bell:people:main/hubspot-62515-9001")
    await source_world.advance_time(60)
    await source_world.run()

    assert (["record_not_found_yet"], []) == (outcomes, cached)
    names = {visit["external_id"] for visit in source_world.harness.visits()}
    assert {"hubspot-62515-9001"} == names  # the other contact opted out of e-mail


async def test_contacts_of_a_deleted_meeting_are_known_from_its_earlier_records(source_world: SourceWorld) -> None:
    specimens = {specimen.recorded["name"]: specimen for specimen in BY_TOOL["hubspot"]}
    booked, deleted = specimens["a meeting of two contacts"], specimens["it is deleted"]
    source_world.configure_source(booked)
    source_world.api.add_records(booked)
    contact = next(name for name in booked.recorded["records"] if "contacts/102" in name)
    for request, record in source_world.api.records.items():
        if record == booked.recorded["records"][contact]:
            source_world.api.records[request] = {
                **record,
                "properties": {**record["properties"], "hs_email_optout": None},
            }
    await source_world.receive(booked)
    await source_world.run()
    source_world.api.records.clear()
    for key in await source_world.redis.command("KEYS", "bell:record:*"):
        await source_world.redis.command("DEL", key)

    await source_world.receive(deleted)
    await source_world.run()

    is_cancelled = {visit["external_id"]: bool(visit["date_cancelled"]) for visit in source_world.harness.visits()}
    assert {"hubspot-62515-9001": True, "hubspot-62515-9001.102": True} == is_cancelled
