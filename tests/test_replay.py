"""Replays: what is planned, what is sent, and that newer facts stay what they are."""

from typing import Any

import pytest
from test_apply import ADA, BOB, DOCUMENTED, World, booked, change, hands, world
from test_apply import at as hour

import jobs.apply

__all__ = ["hands", "world"]
TOKEN = {"authorization": "Bearer t"}


def of(visit_id: str) -> str:
    return f"visit:main/standard-{visit_id}"


def made_by_hand(world: World, **fields: str) -> dict[str, Any]:
    """A visit that somebody else put into the API."""
    url = f"{world.rig.env['VISITS_API_URL']}/visits"
    answer = world.rig.http.post(url, data={"contact_id": DOCUMENTED, **fields}, headers=TOKEN)
    return dict(answer.raise_for_status().json())


def names(world: World) -> list[str]:
    return sorted(visit["external_id"] for visit in world.rig.visits())


# -- asking what stands there ----------------------------------------------------------------------------------------


async def test_a_visit_that_was_given_another_contact_by_hand_keeps_it(world: World) -> None:
    await world.apply(booked())
    world.rig.misbehave(contact_can_change=True)
    url = f"{world.rig.env['VISITS_API_URL']}/visits/standard-1"
    world.rig.http.put(url, data={"contact_id": DOCUMENTED}, headers=TOKEN).raise_for_status()
    [by_hand] = world.rig.visits()
    world.forget_calls()

    await world.ledger.replay(of("1"), fresh=True)
    await world.run()

    assert [by_hand] == world.rig.visits()
    assert ["GET /visits/:id"] == world.calls()


async def test_another_customer_after_that_is_another_visit_all_the_same(world: World) -> None:
    await world.apply(booked())
    await world.ledger.replay(of("1"), fresh=True)
    await world.run()

    await world.apply(change(order=5, contact=BOB))

    [visit] = world.rig.visits()
    assert world.contacts("bob@example.com")[0]["id"] == visit["contact_id"]


async def test_a_fresh_replay_by_a_later_id_removes_what_stands_under_it_again(world: World) -> None:
    await world.apply(booked("1"), change("2", 2, continues="1", time_scheduled=hour(12)))
    made_by_hand(world, external_id="standard-2", time_scheduled="2026-03-14T12:00:00Z")

    await world.ledger.replay(of("2"), fresh=True)
    await world.run()

    assert ["standard-1"] == names(world)


async def test_of_two_visits_under_one_name_the_one_that_its_name_opens_stays(world: World) -> None:
    await world.apply(booked())
    [ours] = world.rig.visits()
    second = made_by_hand(world, external_id="standard-1")
    others = made_by_hand(world, external_id="of-somebody-else")

    # The audit was wrong about two of them: the one is the right one, the other is not ours.
    await world.ledger.replay(of("1"), fresh=True, beside=[ours["id"], second["id"], others["id"], 4711])
    await world.run()

    assert [ours["id"], others["id"]] == [visit["id"] for visit in world.rig.visits()]


# -- a visit does not grow for ever ----------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.apply, "MOST_CHANGES", 10)
    monkeypatch.setattr(jobs.apply, "NEWEST_KEPT", 3)


@pytest.mark.usefixtures("few")
async def test_of_many_changes_those_that_decide_and_the_newest_stay(world: World) -> None:
    await world.apply(booked(order=1_000))
    for order in range(2, 40):
        await world.apply(change(order=order, time_scheduled=hour(order % 24)))

    member = await world.member()
    assert len(member.changes) <= 10
    assert 39 == member.n == member.done
    assert 39 == len(member.changes) + member.dropped
    assert "2026-03-14T09:00:00Z" == (world.visit() or {})["time_scheduled"]  # what the booking said, last by the tool


@pytest.mark.usefixtures("few")
async def test_what_was_forgotten_does_not_come_back_by_a_later_link_or_a_fresh_run(world: World) -> None:
    for order in range(2, 40):
        await world.apply(change("2", order, contact=ADA, time_scheduled=hour(order % 24)))
    assert ["standard-2"] == names(world)

    await world.apply(booked("1", order=1))
    await world.apply(change("2", 1, continues="1", amount_collected=None))
    await world.ledger.replay(of("2"), fresh=True)
    await world.run()

    assert ["standard-1"] == names(world)
    assert "2026-03-14T15:00:00Z" == (world.visit("1") or {})["time_scheduled"]  # 39 % 24


@pytest.mark.usefixtures("few")
async def test_what_is_not_applied_yet_is_never_forgotten(world: World) -> None:
    for order in range(2, 40):
        await world.land(change(order=order, time_scheduled=hour(order % 24)))

    assert ["waiting"] == await world.run()  # for a contact

    assert 38 == len((await world.member()).changes)
