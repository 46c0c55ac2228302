"""Changes in any order of arrival end in the same visit."""

import itertools
import random
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

import jobs.apply_visit
import jobs.contacts
from app.visits.change import UNSET, VisitChange
from tests.support.visit_worker import ADA, World, at, booked, cancel_at_step, cancelled, change, random_fields

# Orders of arrival


async def test_a_cancellation_before_the_booking_creates_no_visit(world: World) -> None:
    await world.apply(cancelled(version=2, contact=ADA))
    await world.apply(booked(version=1))

    assert [] == world.harness.visits()
    assert "POST /visits" not in world.calls()


async def test_a_booking_after_the_cancellation_creates_a_visit(world: World) -> None:
    await world.apply(cancelled(version=2))
    await world.apply(booked(version=3, date_cancelled=None))

    assert {"time_scheduled": "2026-03-14T09:00:00Z", "event_date": "2026-03-14T09:00:00Z"} == world.visit()


async def test_a_reschedule_before_the_booking_decides_the_time(world: World) -> None:
    await world.apply(change(version=2, time_scheduled=at(15), contact=ADA))
    await world.apply(booked(version=1, hour=9))

    assert "2026-03-14T15:00:00Z" == (world.visit() or {})["time_scheduled"]


async def test_a_payment_before_the_booking_waits_for_it(world: World) -> None:
    states = await world.apply(change(version=3, amount_collected=Decimal(245)))
    states += await world.apply(booked(version=1))

    assert ["waiting", "done"] == states
    assert {
        "time_scheduled": "2026-03-14T09:00:00Z",
        "event_date": "2026-03-14T09:00:00Z",
        "amount_collected": "245.00",
    } == world.visit()


async def test_a_payment_before_the_completion_leaves_both(world: World) -> None:
    await world.apply(booked())
    await world.apply(change(version=3, amount_collected=Decimal(245)))
    await world.apply(change(version=2, time_completed=at(11)))

    assert {
        "time_scheduled": "2026-03-14T09:00:00Z",
        "time_completed": "2026-03-14T11:00:00Z",
        "event_date": "2026-03-14T11:00:00Z",
        "amount_collected": "245.00",
    } == world.visit()


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=lambda order: "".join(map(str, order)))
async def test_every_order_of_arrival_ends_in_the_same_visit(world: World, order: tuple[int, ...]) -> None:
    changes = [
        booked(version=1),
        change(version=2, time_scheduled=at(15)),
        cancelled(version=3),
        booked(version=4, hour=16, date_cancelled=None, amount_collected=Decimal(10)),
    ]

    for number in order:
        await world.apply(changes[number])

    assert {
        "time_scheduled": "2026-03-14T16:00:00Z",
        "event_date": "2026-03-14T16:00:00Z",
        "amount_collected": "10.00",
    } == world.visit()
    assert 1 == len(world.harness.visits())


@pytest.mark.parametrize("pair", [(0, 1), (1, 0)], ids=["forwards", "backwards"])
@pytest.mark.parametrize("action", ["create", "update", "cancel"])
async def test_two_changes_of_one_time_end_in_the_same_visit_in_either_order(
    world: World, pair: tuple[int, int], action: str
) -> None:
    changes = [change(version=5, action=action, time_scheduled=at(hour), contact=ADA) for hour in (9, 15)]

    for number in pair:
        await world.apply(changes[number])

    assert "2026-03-14T15:00:00Z" == (world.visit() or {})["time_scheduled"]  # the greater value decides


# Histories

FIELDS = ("time_scheduled", "time_completed", "amount_collected", "date_cancelled", "no_show")

RANKS = ("create", "update", "cancel")


def history(rng: random.Random) -> list[VisitChange]:
    """Generate changes of one visit in the order of arrival. No two have the same version and action."""
    stamps = rng.sample([(version, action) for version in range(1, 7) for action in RANKS], rng.randint(2, 8))
    return [change("1", version, action, **random_fields(rng, action)) for version, action in stamps]


def model(changes: Sequence[VisitChange]) -> tuple[dict[str, str] | None, str | None, bool]:
    """Return the expected fields, the e-mail address, and whether the visit is cancelled.

    The last change of a field decides; of two with the same version, the later action in RANKS. The fields are None if no
    visit can be created.
    """
    last: dict[str, Any] = {}
    email = None
    for visit_change in sorted(changes, key=lambda item: (item.version, RANKS.index(item.action))):
        last |= {name: getattr(visit_change, name) for name in FIELDS if getattr(visit_change, name) is not UNSET}
        email = visit_change.contact.email if visit_change.contact else email
    event_date = last.get("time_completed") or last.get("time_scheduled")
    cancelled_at = last.get("date_cancelled") or last.get("no_show")
    values = {
        "time_scheduled": last.get("time_scheduled"),
        "time_completed": last.get("time_completed"),
        "event_date": event_date,
        "date_cancelled": cancelled_at,
        "amount_collected": last.get("amount_collected"),
    }
    fields = {
        name: f"{value:%Y-%m-%dT%H:%M:%SZ}" if isinstance(value, datetime) else f"{value:.2f}"
        for name, value in values.items()
        if value is not None
    }
    return (fields if event_date and email else None), email, bool(cancelled_at)


@pytest.mark.parametrize("seed", range(30))
async def test_random_histories_end_in_the_last_values_despite_faults(
    world: World, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.contacts, "LOCK_TTL_S", 0.02)
    rng = random.Random(seed)
    changes = history(rng)
    arrivals = [*changes, *rng.choices(changes, k=2)]
    rng.shuffle(arrivals)
    clears = rng.random() < 0.5

    for arrival in arrivals:
        await world.accept(arrival)
        world.harness.clear_faults()
        if rng.random() < 0.5:
            faults = rng.choice([{}, {"reset_share": 0.3}, {"truncated_share": 0.3}, {"error_share": 0.3}])
            world.harness.inject_faults(**faults, empty_clears=clears, seed=seed)
            await cancel_at_step(world, world.run(), rng.randint(1, 60), rng.random() < 0.5)
            world.harness.journal()
            await world.advance_time(3_600)
    world.harness.clear_faults()
    world.harness.inject_faults(empty_clears=clears)
    for _ in range(4):
        await world.run()
        await world.advance_time(3_600)

    assert [] == await world.list_problems()
    fields, email, is_cancelled = model(changes)
    visits = [(visit["external_id"], visit["contact_id"]) for visit in world.harness.visits()]
    if fields is None or (is_cancelled and not visits):
        assert [] == visits or is_cancelled or not email
        return
    assert ["standard-1"] == [external_id for external_id, _ in visits]
    if is_cancelled:
        assert fields["date_cancelled"] == (world.visit() or {})["date_cancelled"]
        return
    assert fields == world.visit()
    assert visits == [("standard-1", world.contacts(email or "")[0]["id"])]
    assert {len(world.contacts(address)) for address in ("ada@example.com", "bob@example.com")} <= {0, 1}
