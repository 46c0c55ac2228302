"""Rescheduled visits whose tool gives them a new id."""

import asyncio
import itertools
import random
from collections.abc import Sequence

import pytest

from app.visits.change import VisitChange
from tests.support.visit_worker import World, at, booked, cancelled, change


def chain(*ids: str) -> list[VisitChange]:
    """Return the changes of a visit that Calendly moves to these ids, each time by an hour.

    Every move has a cancellation that names the new id, and a booking that names the old id.
    """
    changes = [booked(ids[0], 1, 9)]
    for number, (old, new) in enumerate(itertools.pairwise(ids), 1):
        changes.append(change(new, 10 * number, previous_visit_id=old))
        changes.append(booked(new, 10 * number, 9 + number, previous_visit_id=old, date_cancelled=None, no_show=None))
    return changes


async def accept_all(world: World, changes: Sequence[VisitChange], stops: Sequence[bool], rng: random.Random) -> None:
    """Accept the changes; after those with a stop, run some tasks concurrently."""
    for visit_change, stop in zip(changes, stops, strict=True):
        await world.accept(visit_change)
        if stop:
            tasks = await world.ledger.task_ids("queued")
            rng.shuffle(tasks)
            await asyncio.gather(*map(world.run_task, tasks[: rng.randint(1, 3)]))
    await world.run()
    await world.advance_time(3_600)
    await world.run()
    assert [] == await world.list_problems()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=lambda order: "".join(map(str, order)))
async def test_a_rescheduled_visit_has_its_first_id_in_every_order_of_arrival(
    world: World, order: tuple[int, ...]
) -> None:
    for stops in itertools.product([True, False], repeat=3):
        await world.redis.command("FLUSHDB")
        world.harness.control("POST", "reset")
        changes = chain("b", "a")  # the later id comes first in the alphabet

        await accept_all(world, [changes[number] for number in order], stops, random.Random(1))

        assert ["standard-b"] == [visit["external_id"] for visit in world.harness.visits()], stops
        expected = {"time_scheduled": "2026-03-14T10:00:00Z", "event_date": "2026-03-14T10:00:00Z"}
        assert expected == world.visit("b"), stops


@pytest.mark.parametrize("seed", range(25))
async def test_a_visit_that_is_rescheduled_three_times_has_its_first_id(world: World, seed: int) -> None:
    rng = random.Random(seed)
    ids = rng.sample(["a", "b", "c", "d"], 4)
    changes = chain(*ids)
    changes += rng.choices(changes, k=2)  # repeats
    rng.shuffle(changes)
    stops = [rng.random() < 0.6 for _ in changes]

    await accept_all(world, changes, stops, rng)

    assert [f"standard-{ids[0]}"] == [visit["external_id"] for visit in world.harness.visits()]
    expected = {"time_scheduled": "2026-03-14T12:00:00Z", "event_date": "2026-03-14T12:00:00Z"}
    assert expected == world.visit(ids[0])
    assert 1 == len(world.contacts("ada@example.com"))


@pytest.mark.parametrize("halves", ["both changes of each move", "all cancellations, then all bookings"])
async def test_a_chain_of_reschedules_that_arrives_backwards_is_always_one_visit(world: World, halves: str) -> None:
    first, *moves = chain("e", "d", "c", "b", "a", "f")
    links, bookings = moves[::2], moves[1::2]
    backwards = moves[::-1] if halves.startswith("both") else [*links[::-1], *bookings[::-1]]
    visible_ids = []

    for visit_change in [*backwards, first]:
        await world.apply(visit_change)
        visible_ids.append([visit["external_id"] for visit in world.harness.visits()])

    # A booking names the old id, so the visit can be created under the old id.
    by_moves = [[f"standard-{old}"] for old in "abcde" for _ in range(2)] + [["standard-e"]]
    by_links = [[]] * 5 + [["standard-e"]] * 6
    assert (by_moves if halves.startswith("both") else by_links) == visible_ids
    assert {"time_scheduled": "2026-03-14T14:00:00Z", "event_date": "2026-03-14T14:00:00Z"} == world.visit("e")
    assert 1 == len(world.contacts("ada@example.com"))


async def test_an_id_that_is_rescheduled_twice_has_the_time_of_the_later_change(world: World) -> None:
    requested = change("requested", 10, "cancel", previous_visit_id="old", date_cancelled=at(8))
    moved = booked("moved", 20, 15, previous_visit_id="old", date_cancelled=None, no_show=None)

    for changes in itertools.permutations([booked("old"), requested, moved]):
        await world.redis.command("FLUSHDB")
        world.harness.control("POST", "reset")
        for visit_change in changes:
            await world.apply(visit_change)

        assert ["standard-old"] == [visit["external_id"] for visit in world.harness.visits()]
        assert {"time_scheduled": "2026-03-14T15:00:00Z", "event_date": "2026-03-14T15:00:00Z"} == world.visit("old")


async def test_a_visit_with_a_later_id_is_deleted_when_the_ids_are_linked(world: World) -> None:
    await world.apply(booked("old"))
    await world.apply(booked("new", version=2, hour=15))
    before = sorted(visit["external_id"] for visit in world.harness.visits())
    world.clear_calls()

    await world.apply(change("new", version=2, previous_visit_id="old"))

    assert ["standard-new", "standard-old"] == before
    assert ["standard-old"] == [visit["external_id"] for visit in world.harness.visits()]
    assert sorted(["DELETE /visits/:id", "PUT /visits/:id"]) == sorted(world.calls())
    assert {"time_scheduled": "2026-03-14T15:00:00Z", "event_date": "2026-03-14T15:00:00Z"} == world.visit("old")


async def test_a_cancellation_of_the_new_id_cancels_the_visit(world: World) -> None:
    for each in chain("1", "2"):
        await world.apply(each)
    world.clear_calls()

    await world.apply(cancelled("2", version=99))

    assert ["PUT /visits/:id"] == world.calls()
    assert "2026-03-14T08:00:00Z" == (world.visit("1") or {})["date_cancelled"]


async def test_a_reschedule_of_an_unknown_visit_creates_it_with_its_first_id(world: World) -> None:
    await world.apply(*chain("1", "2")[1:])

    assert ["standard-1"] == [visit["external_id"] for visit in world.harness.visits()]


async def test_a_rescheduled_visit_does_not_expire_while_it_fails(world: World) -> None:
    for each in chain("1", "2", "3"):
        await world.apply(each)
    world.harness.inject_faults(down=True)

    await world.apply(change("3", version=99, time_scheduled=at(20)))

    ttls = [await world.redis.command("PTTL", f"bell:visit:main/standard-{number}") for number in (1, 2, 3)]
    assert [-1, -1, -1] == ttls


async def test_circular_links_are_one_visit(world: World) -> None:
    await world.apply(booked("1", previous_visit_id="2"))
    await world.apply(booked("2", version=2, hour=15, previous_visit_id="1"))

    assert 1 == len(world.harness.visits())
