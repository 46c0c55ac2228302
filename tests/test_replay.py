"""Replays: what is planned, what is sent, and that newer facts stay what they are."""

import uuid
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from rig import Rig, standard_body
from test_apply import ADA, BOB, DOCUMENTED, World, a_world, booked, change, hands, world
from test_apply import at as hour

import jobs.apply
from app.connection import Redis
from app.delivery import Delivery, Event
from app.intake import believe, mean, recall
from app.ledger import Attempt, Hold, Meta
from app.reading import Untranslatable
from app.ring import body_of
from app.sources import Ignored, load, specimens
from app.visits.words import VisitChange, encode_change

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


# -- translated anew -------------------------------------------------------------------------------------------------


class Toolbox:
    """A world with a tool whose translation can be changed, as by a new version of Doorbell."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def ring(self, *changes: VisitChange, said: str = "") -> str:
        """A delivery; what today's code makes of it. Its id."""
        raw = said.encode() or standard_body("visit.updated", "1", uuid.uuid4().hex)
        delivery = Delivery("standard", "standard", (), raw, datetime.now(UTC))
        meta = Meta("standard", "standard", int(datetime.now(UTC).timestamp() * 1000))
        written = await self.world.ledger.accept(delivery, meta, changes, "main", repeat_key=uuid.uuid4().hex)
        await self.world.run()
        return written.delivery

    def means(self, meaning: "list[VisitChange] | Ignored | Exception") -> None:
        """What the code of another day makes of every event."""

        def translate(event: Event) -> list[VisitChange] | Ignored:
            if isinstance(meaning, Exception):
                raise meaning
            return meaning

        tool = self.world.context.settings.entrances["standard"].tool
        entrance = replace(self.world.context.settings.entrances["standard"], tool=replace(tool, translate=translate))
        self.world.context.settings.__dict__["entrances"] = {"standard": entrance}

    async def rederive(self, delivery: str, meaning: "list[VisitChange] | Ignored | Exception") -> list[str]:
        self.means(meaning)
        await self.world.ledger.rederive(delivery)
        return await self.world.run()


@pytest.fixture
def tools(world: World) -> Toolbox:
    return Toolbox(world)


async def origins(world: World, visit_id: str = "1") -> dict[str, str]:
    member = await world.member(visit_id)
    return {origin.rpartition(".")[0]: change.partition(b" ")[2].decode() for origin, change in member.changes.items()}


async def test_what_is_translated_anew_takes_the_place_of_what_that_delivery_said(tools: Toolbox) -> None:
    world = tools.world
    first = await tools.ring(booked(order=1, amount_collected=Decimal(5)))
    second = await tools.ring(change(order=2, amount_collected=Decimal(7)))
    before = await origins(world)

    await tools.rederive(first, [booked(order=1, hour=11, amount_collected=Decimal(99))])

    after = await origins(world)
    assert {first, second} == after.keys()
    assert before[second] == after[second]
    visit = world.visit() or {}
    assert ("2026-03-14T11:00:00Z", "7.00") == (visit["time_scheduled"], visit["amount_collected"])


async def test_the_same_code_says_the_same_however_often(tools: Toolbox) -> None:
    world = tools.world
    first = await tools.ring(booked(order=1))
    await tools.ring(change(order=2, time_scheduled=hour(15)))
    stands, before = world.rig.visits(), await origins(world)
    world.forget_calls()

    for _ in range(3):
        await tools.rederive(first, [booked(order=1)])

    assert (stands, before, []) == (world.rig.visits(), await origins(world), world.calls())


async def test_a_visit_that_never_was_one_goes(tools: Toolbox) -> None:
    first = await tools.ring(booked())

    await tools.rederive(first, Ignored("not a visit"))

    assert [] == tools.world.rig.visits()
    assert {} == await origins(tools.world)


async def test_what_belongs_to_another_visit_moves_there(tools: Toolbox) -> None:
    first = await tools.ring(booked("1"), booked("2"))

    await tools.rederive(first, [booked("3"), booked("2", hour=10)])

    assert ["standard-2", "standard-3"] == names(tools.world)
    assert "2026-03-14T10:00:00Z" == (tools.world.visit("2") or {})["time_scheduled"]


async def test_what_was_ignored_can_mean_something_today(tools: Toolbox) -> None:
    first = await tools.ring()

    await tools.rederive(first, [booked()])

    assert ["standard-1"] == names(tools.world)


async def test_what_cannot_be_translated_today_is_parked_and_what_it_said_stays(tools: Toolbox) -> None:
    first = await tools.ring(booked())

    await tools.rederive(first, Untranslatable("data.when: not a moment"))
    assert [f"event:{first}"] == await tools.world.ledger.works("parked")
    assert ["standard-1"] == names(tools.world)

    tools.means([booked(hour=12)])
    await tools.world.ledger.replay(f"event:{first}")  # the code was mended; any replay will do
    await tools.world.run()
    assert "2026-03-14T12:00:00Z" == (tools.world.visit() or {})["time_scheduled"]


async def test_what_an_operator_discarded_stays_discarded(tools: Toolbox) -> None:
    world = tools.world
    await tools.ring(booked())
    world.rig.misbehave(error_share=1)
    second = await tools.ring(change(order=2, time_scheduled=hour(15)))
    await world.ledger.discard(of("1"), second)
    world.rig.behave()

    await tools.rederive(second, [change(order=2, time_scheduled=hour(16))])

    assert "2026-03-14T09:00:00Z" == (world.visit() or {})["time_scheduled"]


async def test_asked_for_during_a_run_it_is_done_once_more(tools: Toolbox) -> None:
    world = tools.world
    first = await tools.ring(booked())
    tools.means([booked(hour=10)])
    await world.ledger.rederive(first)
    hold = await world.ledger.begin(f"event:{first}")
    assert isinstance(hold, Hold)

    await world.ledger.rederive(first)
    await world.ledger.land(hold, "standard", "main", [booked(hour=10)], Attempt(1, 1, "landed"))
    tools.means(Ignored("not a visit"))
    await world.run()

    assert [] == world.rig.visits()


@pytest.mark.parametrize("name", [name for name, tool in load().items() if not tool.fetch])
async def test_every_specimen_translated_anew_says_the_same(redis: Redis, hands: Rig, name: str) -> None:
    """Whatever a tool's code reads beside the body (the time of arrival, headers) is kept as it was."""
    secret = specimens(name)["secret"]
    async with a_world(redis, hands, **{f"HOOKS__{name.upper()}__SECRETS": secret}) as world:
        entrance, seen = world.context.settings.entrances[name], 0
        for recorded in specimens(name)["deliveries"]:
            headers = tuple((key.lower().encode(), value.encode()) for key, value in recorded["headers"].items())
            delivery = Delivery(name, name, headers, body_of(recorded), datetime.now(UTC))
            event = believe(entrance, delivery)
            at = int(event.received_at.timestamp() * 1000)
            recalled = recall(entrance, Meta(name, name, at, headers=dict(event.headers)), delivery.raw)
            assert [encode_change(one) for one in mean(entrance, event).changes] == [
                encode_change(one) for one in mean(entrance, recalled).changes
            ]
            seen += len(mean(entrance, event).changes)
        assert seen
