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

# -- Orders of arrival --


async def test_a_cancel_before_the_booking_makes_nothing(world: World) -> None:
    await world.apply(cancelled(version=2, contact=ADA))
    await world.apply(booked(version=1))

    assert [] == world.harness.visits()
    assert "POST /visits" not in world.calls()


async def test_a_booking_after_the_cancel_is_a_visit(world: World) -> None:
    await world.apply(cancelled(version=2))
    await world.apply(booked(version=3, date_cancelled=None))

    assert {"time_scheduled": "2026-03-14T09:00:00Z", "event_date": "2026-03-14T09:00:00Z"} == world.visit()


async def test_a_move_before_the_booking_stands(world: World) -> None:
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
async def test_every_order_of_arrival_ends_alike(world: World, order: tuple[int, ...]) -> None:
    story = [
        booked(version=1),
        change(version=2, time_scheduled=at(15)),
        cancelled(version=3),
        booked(version=4, hour=16, date_cancelled=None, amount_collected=Decimal(10)),
    ]

    for number in order:
        await world.apply(story[number])

    assert {
        "time_scheduled": "2026-03-14T16:00:00Z",
        "event_date": "2026-03-14T16:00:00Z",
        "amount_collected": "10.00",
    } == world.visit()
    assert 1 == len(world.harness.visits())


@pytest.mark.parametrize("pair", [(0, 1), (1, 0)], ids=["one-way", "the-other"])
@pytest.mark.parametrize("action", ["create", "update", "cancel"])
async def test_two_changes_of_one_moment_end_alike_in_either_order(
    world: World, pair: tuple[int, int], action: str
) -> None:
    story = [change(version=5, action=action, time_scheduled=at(hour), contact=ADA) for hour in (9, 15)]

    for number in pair:
        await world.apply(story[number])

    assert "2026-03-14T15:00:00Z" == (world.visit() or {})["time_scheduled"]  # the greater text


# -- Histories --

FIELDS = ("time_scheduled", "time_completed", "amount_collected", "date_cancelled", "no_show")

RANKS = ("create", "update", "cancel")


def history(dice: random.Random) -> list[VisitChange]:
    """Changes of one visit, in the order in which they arrive: no two of one order and action."""
    stamps = dice.sample([(order, action) for order in range(1, 7) for action in RANKS], dice.randint(2, 8))
    return [change("1", order, action, **random_fields(dice, action)) for order, action in stamps]


def model(changes: Sequence[VisitChange]) -> tuple[dict[str, str] | None, str | None, bool]:
    """What should stand, for whom, and whether it is off: per field the last who spoke of it, later words of RANKS
    last. None: nothing that a visit could be made of."""
    last: dict[str, Any] = {}
    email = None
    for each in sorted(changes, key=lambda each: (each.version, RANKS.index(each.action))):
        last |= {name: getattr(each, name) for name in FIELDS if getattr(each, name) is not UNSET}
        email = each.contact.email if each.contact else email
    event_date = last.get("time_completed") or last.get("time_scheduled")
    off = last.get("date_cancelled") or last.get("no_show")
    stands = {
        "time_scheduled": last.get("time_scheduled"),
        "time_completed": last.get("time_completed"),
        "event_date": event_date,
        "date_cancelled": off,
        "amount_collected": last.get("amount_collected"),
    }
    shown = {
        name: f"{value:%Y-%m-%dT%H:%M:%SZ}" if isinstance(value, datetime) else f"{value:.2f}"
        for name, value in stands.items()
        if value is not None
    }
    return (shown if event_date and email else None), email, bool(off)


@pytest.mark.parametrize("seed", range(30))
async def test_any_history_in_any_order_through_any_trouble_ends_in_what_was_said_last(
    world: World, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.contacts, "LOCK_TTL_MS", 20)
    dice = random.Random(seed)
    changes = history(dice)
    arrivals = [*changes, *dice.choices(changes, k=2)]
    dice.shuffle(arrivals)
    clears = dice.random() < 0.5

    for each in arrivals:
        await world.accept(each)
        world.harness.clear_faults()
        if dice.random() < 0.5:
            trouble = dice.choice([{}, {"reset_share": 0.3}, {"truncated_share": 0.3}, {"error_share": 0.3}])
            world.harness.inject_faults(**trouble, empty_clears=clears, seed=seed)
            await cancel_at_step(world, world.run(), dice.randint(1, 60), dice.random() < 0.5)
            world.harness.journal()
            await world.advance_time(3_600)
    world.harness.clear_faults()
    world.harness.inject_faults(empty_clears=clears)
    for _ in range(4):
        await world.run()
        await world.advance_time(3_600)

    stands, email, off = model(changes)
    visits = [(visit["external_id"], visit["contact_id"]) for visit in world.harness.visits()]
    if stands is None or (off and not visits):
        assert [] == visits or off or not email
        return
    assert ["standard-1"] == [external_id for external_id, _ in visits]
    if off:
        assert stands["date_cancelled"] == (world.visit() or {})["date_cancelled"]
        return
    assert stands == world.visit()
    assert visits == [("standard-1", world.contacts(email or "")[0]["id"])]
    assert {len(world.contacts(address)) for address in ("ada@example.com", "bob@example.com")} <= {0, 1}
