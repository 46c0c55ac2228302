"""Rescheduled visits whose tool gives them a new id."""

import asyncio
import itertools
import random
from collections.abc import Sequence

import pytest

from app.visits.change import VisitChange
from tests.support.visit_worker import World, at, booked, cancelled, change


def chain(*ids: str) -> list[VisitChange]:
    """As Calendly tells it: a booking; for every move a cancel of the old half that names the new one, and a booking
    that names the old one. Each move is an hour later than the last."""
    story = [booked(ids[0], 1, 9)]
    for number, (old, new) in enumerate(itertools.pairwise(ids), 1):
        story.append(change(new, 10 * number, previous_visit_id=old))
        story.append(booked(new, 10 * number, 9 + number, previous_visit_id=old, date_cancelled=None, no_show=None))
    return story


async def tell(world: World, story: Sequence[VisitChange], stops: Sequence[bool], dice: random.Random) -> None:
    """Land a story, and let some of the work be done at the stops, in any order, several at once."""
    for each, stop in zip(story, stops, strict=True):
        await world.accept(each)
        if stop:
            works = await world.ledger.task_ids("queued")
            dice.shuffle(works)
            await asyncio.gather(*map(world.run_task, works[: dice.randint(1, 3)]))
    await world.run()
    await world.advance_time(3_600)
    await world.run()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=lambda order: "".join(map(str, order)))
async def test_a_move_under_a_new_id_is_one_visit_under_the_first_whatever_comes_when(
    world: World, order: tuple[int, ...]
) -> None:
    for stops in itertools.product([True, False], repeat=3):
        await world.redis.command("FLUSHDB")
        world.harness.http.post(f"{world.harness.sandbox.url}/_sandbox/reset")
        story = chain("b", "a")  # The later id comes first in the alphabet.

        await tell(world, [story[number] for number in order], stops, random.Random(1))

        assert ["standard-b"] == [visit["external_id"] for visit in world.harness.visits()], stops
        expected = {"time_scheduled": "2026-03-14T10:00:00Z", "event_date": "2026-03-14T10:00:00Z"}
        assert expected == world.visit("b"), stops


@pytest.mark.parametrize("seed", range(25))
async def test_a_visit_that_moves_three_times_is_one_visit_under_its_first_id(world: World, seed: int) -> None:
    dice = random.Random(seed)
    ids = dice.sample(["a", "b", "c", "d"], 4)
    story = chain(*ids)
    story += dice.choices(story, k=2)  # told twice
    dice.shuffle(story)
    stops = [dice.random() < 0.6 for _ in story]

    await tell(world, story, stops, dice)

    assert [f"standard-{ids[0]}"] == [visit["external_id"] for visit in world.harness.visits()]
    expected = {"time_scheduled": "2026-03-14T12:00:00Z", "event_date": "2026-03-14T12:00:00Z"}
    assert expected == world.visit(ids[0])
    assert 1 == len(world.contacts("ada@example.com"))


@pytest.mark.parametrize("halves", ["both halves of each move", "the cancels only, then the bookings"])
async def test_a_chain_of_five_that_arrives_backwards_is_one_visit_under_the_first_id_that_could_be_known(
    world: World, halves: str
) -> None:
    first, *moves = chain("e", "d", "c", "b", "a", "f")
    links, bookings = moves[::2], moves[1::2]
    backwards = moves[::-1] if halves.startswith("both") else [*links[::-1], *bookings[::-1]]
    known = []

    for each in [*backwards, first]:
        await world.apply(each)
        known.append([visit["external_id"] for visit in world.harness.visits()])

    # The booking that names its old half is enough to know the old half's name.
    by_moves = [[f"standard-{old}"] for old in "abcde" for _ in range(2)] + [["standard-e"]]
    by_links = [[]] * 5 + [["standard-e"]] * 6
    assert (by_moves if halves.startswith("both") else by_links) == known
    assert {"time_scheduled": "2026-03-14T14:00:00Z", "event_date": "2026-03-14T14:00:00Z"} == world.visit("e")
    assert 1 == len(world.contacts("ada@example.com"))


async def test_an_old_id_that_is_moved_from_twice_is_one_visit_at_the_time_of_the_later_move(world: World) -> None:
    asked = change("asked", 10, "cancel", previous_visit_id="old", date_cancelled=at(8))
    moved = booked("moved", 20, 15, previous_visit_id="old", date_cancelled=None, no_show=None)

    for story in itertools.permutations([booked("old"), asked, moved]):
        await world.redis.command("FLUSHDB")
        world.harness.http.post(f"{world.harness.sandbox.url}/_sandbox/reset")
        for each in story:
            await world.apply(each)

        assert ["standard-old"] == [visit["external_id"] for visit in world.harness.visits()]
        assert {"time_scheduled": "2026-03-14T15:00:00Z", "event_date": "2026-03-14T15:00:00Z"} == world.visit("old")


async def test_a_visit_made_under_a_later_id_goes_when_the_first_is_known(world: World) -> None:
    await world.apply(booked("old"))
    await world.apply(booked("new", version=2, hour=15))
    two = sorted(visit["external_id"] for visit in world.harness.visits())
    world.clear_calls()

    await world.apply(change("new", version=2, previous_visit_id="old"))

    assert ["standard-new", "standard-old"] == two
    assert ["standard-old"] == [visit["external_id"] for visit in world.harness.visits()]
    assert sorted(["DELETE /visits/:id", "PUT /visits/:id"]) == sorted(world.calls())
    assert {"time_scheduled": "2026-03-14T15:00:00Z", "event_date": "2026-03-14T15:00:00Z"} == world.visit("old")


async def test_a_cancel_of_the_moved_visit_cancels_the_one_that_stands(world: World) -> None:
    for each in chain("1", "2"):
        await world.apply(each)
    world.clear_calls()

    await world.apply(cancelled("2", version=99))

    assert ["PUT /visits/:id"] == world.calls()
    assert "2026-03-14T08:00:00Z" == (world.visit("1") or {})["date_cancelled"]


async def test_a_move_of_a_visit_we_never_heard_of_is_made_under_its_first_id(world: World) -> None:
    await world.apply(*chain("1", "2")[1:])

    assert ["standard-1"] == [visit["external_id"] for visit in world.harness.visits()]


async def test_a_moved_visit_is_kept_for_as_long_as_there_is_trouble_with_it(world: World) -> None:
    for each in chain("1", "2", "3"):
        await world.apply(each)
    world.harness.inject_faults(down=True)

    await world.apply(change("3", version=99, time_scheduled=at(20)))

    kept = [await world.redis.command("PTTL", f"bell:visit:main/standard-{number}") for number in (1, 2, 3)]
    assert [-1, -1, -1] == kept


async def test_links_that_go_in_a_circle_end(world: World) -> None:
    await world.apply(booked("1", previous_visit_id="2"))
    await world.apply(booked("2", version=2, hour=15, previous_visit_id="1"))

    assert 1 == len(world.harness.visits())
