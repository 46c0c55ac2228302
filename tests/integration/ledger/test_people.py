"""Whom the records of a booking ever listed: the ledger remembers it, in the order in which they came."""

from datetime import UTC, datetime, timedelta

import pytest

from app.ledger.ledger import Ledger
from app.ledger.records import RecordOutdated
from app.ledger.redis import Redis
from tests.integration.sources import test_end_to_end
from tests.integration.sources.test_end_to_end import Doorstep
from tests.support.specimens import BY_TOOL

served, doorstep = test_end_to_end.served, test_end_to_end.world
NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


async def listed(redis: Redis, minute: float, *people: str, booking: str = "hubspot-5-1") -> tuple[str, ...]:
    return await Ledger(redis, retention_days=30).add_people("main", booking, NOON + timedelta(minutes=minute), people)


async def test_who_was_listed_first_stays_first_whatever_later_records_say(redis: Redis) -> None:
    assert ("b",) == await listed(redis, 0, "b")
    assert ("b", "c", "a") == await listed(redis, 1, "c", "b", "a")
    assert ("b", "c", "a") == await listed(redis, 2)
    assert ("b", "c", "a", "d") == await listed(redis, 3, "d", "a")


async def test_each_booking_of_each_account_has_its_own_people(redis: Redis) -> None:
    await listed(redis, 0, "a")

    assert ("b",) == await listed(redis, 0, "b", booking="hubspot-5-2")
    assert ("c",) == await Ledger(redis, retention_days=30).add_people("other", "hubspot-5-1", NOON, ["c"])


async def test_an_older_record_that_lists_somebody_new_is_outdated_for_who_was_removed_since_is_not_known(
    redis: Redis,
) -> None:
    await listed(redis, 1, "a")

    with pytest.raises(RecordOutdated):
        await listed(redis, 0.5, "a", "b")

    assert ("a",) == await listed(redis, 0.5, "a")
    assert ("a",) == await listed(redis, 2)


async def test_the_same_record_for_two_events_is_not_outdated(redis: Redis) -> None:
    await listed(redis, 1)

    assert ("a",) == await listed(redis, 1, "a")


async def test_a_record_that_is_gone_counts_as_seen(redis: Redis) -> None:
    assert () == await listed(redis, 1)

    with pytest.raises(RecordOutdated):
        await listed(redis, 0, "a")


async def test_it_is_forgotten_two_years_after_the_last_record(redis: Redis) -> None:
    await listed(redis, 0, "a")

    ms = await redis.command("PTTL", "bell:people:main/hubspot-5-1")

    assert 731 * 86_400_000 < ms <= 732 * 86_400_000


async def test_an_event_whose_record_is_outdated_waits_and_is_fetched_again(redis: Redis, doorstep: Doorstep) -> None:
    specimen = next(found for found in BY_TOOL["hubspot"] if found.told["name"] == "a meeting of two contacts")
    doorstep.configure_source(specimen)
    doorstep.api.keep(specimen)
    newer = datetime.now(UTC) + timedelta(minutes=1)
    assert () == await doorstep.ledger.add_people("main", "hubspot-62515-9001", newer, [])

    await doorstep.ring(specimen)
    came_of_it = await doorstep.run()
    await redis.command("DEL", "bell:people:main/hubspot-62515-9001")
    await doorstep.advance_time(60)
    await doorstep.run()

    assert ["record_not_found_yet"] == came_of_it
    names = {visit["external_id"] for visit in doorstep.harness.visits()}
    assert {"hubspot-62515-9001"} == names  # the other contact wants no e-mail


async def test_contacts_of_a_deleted_meeting_are_known_from_its_earlier_records(doorstep: Doorstep) -> None:
    specimens = {found.told["name"]: found for found in BY_TOOL["hubspot"]}
    booked, deleted = specimens["a meeting of two contacts"], specimens["it is deleted"]
    doorstep.configure_source(booked)
    doorstep.api.keep(booked)
    contact = next(name for name in booked.told["records"] if "contacts/102" in name)
    for asked, record in doorstep.api.records.items():
        if record == booked.told["records"][contact]:
            doorstep.api.records[asked] = {**record, "properties": {**record["properties"], "hs_email_optout": None}}
    await doorstep.ring(booked)
    await doorstep.run()
    doorstep.api.records.clear()
    await doorstep.redis.command("DEL", *await doorstep.redis.command("KEYS", "bell:record:*"))

    await doorstep.ring(deleted)
    await doorstep.run()

    off = {visit["external_id"]: bool(visit["date_cancelled"]) for visit in doorstep.harness.visits()}
    assert {"hubspot-62515-9001": True, "hubspot-62515-9001.102": True} == off
