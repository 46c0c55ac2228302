"""Replays: what is planned, what is sent, and that newer facts stay what they are."""

import asyncio
import json
import time
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

import app.operators.replay
import jobs.apply_visit
from app.cli.options import build_filter
from app.ledger.ids import delivery_of
from app.ledger.records import Attempt, DeliveryInfo, Lease
from app.operators.replay import Call, NoWorkerProgress, PlannedTask, Replay
from app.operators.selection import Mode, TaskSelector
from app.visits.change import Contact, VisitChange
from app.webhooks.delivery import Delivery, Event
from app.webhooks.payload import Untranslatable
from app.webhooks.source import Ignored, PartlyTranslatable
from tests.integration.jobs.translate_event.conftest import served
from tests.integration.jobs.translate_event.conftest import world as doorstep
from tests.support.harness import standard_body
from tests.support.tool_api import BOOKED, MOVED, ToolWorld
from tests.support.visit_worker import ADA, BOB, DOCUMENTED_CONTACT, World, booked, change
from tests.support.visit_worker import at as hour

__all__ = ["doorstep", "served"]  # fixtures
TOKEN = {"authorization": "Bearer t"}


def of(visit_id: str) -> str:
    return f"visit:main/standard-{visit_id}"


def made_by_hand(world: World, **fields: str) -> dict[str, Any]:
    """A visit that somebody else put into the API."""
    url = f"{world.harness.env['VISITS_API_URL']}/visits"
    answer = world.harness.http.post(url, data={"contact_id": DOCUMENTED_CONTACT, **fields}, headers=TOKEN)
    return dict(answer.raise_for_status().json())


def names(world: World) -> list[str]:
    return sorted(visit["external_id"] for visit in world.harness.visits())


# -- asking what stands there ----------------------------------------------------------------------------------------


async def test_a_visit_that_was_given_another_contact_by_hand_keeps_it(world: World) -> None:
    await world.apply(booked())
    world.harness.inject_faults(contact_can_change=True)
    url = f"{world.harness.env['VISITS_API_URL']}/visits/standard-1"
    world.harness.http.put(url, data={"contact_id": DOCUMENTED_CONTACT}, headers=TOKEN).raise_for_status()
    [by_hand] = world.harness.visits()
    world.clear_calls()

    await world.ledger.replay(of("1"), recheck=True)
    await world.run()

    assert [by_hand] == world.harness.visits()
    assert ["GET /visits/:id"] == world.calls()


async def test_another_customer_after_that_is_another_visit_all_the_same(world: World) -> None:
    await world.apply(booked())
    await world.ledger.replay(of("1"), recheck=True)
    await world.run()

    await world.apply(change(version=5, contact=BOB))

    [visit] = world.harness.visits()
    assert world.contacts("bob@example.com")[0]["id"] == visit["contact_id"]


async def test_a_fresh_replay_by_a_later_id_removes_what_stands_under_it_again(world: World) -> None:
    await world.apply(booked("1"), change("2", 2, previous_visit_id="1", time_scheduled=hour(12)))
    made_by_hand(world, external_id="standard-2", time_scheduled="2026-03-14T12:00:00Z")

    await world.ledger.replay(of("2"), recheck=True)
    await world.run()

    assert ["standard-1"] == names(world)


async def test_of_two_visits_under_one_name_the_one_that_its_name_opens_stays(world: World) -> None:
    await world.apply(booked())
    [ours] = world.harness.visits()
    second = made_by_hand(world, external_id="standard-1")
    others = made_by_hand(world, external_id="of-somebody-else")

    # The audit was wrong about two of them: the one is the right one, the other is not ours.
    await world.ledger.replay(of("1"), recheck=True, duplicate_ids=[ours["id"], second["id"], others["id"], 4711])
    await world.run()

    assert [ours["id"], others["id"]] == [visit["id"] for visit in world.harness.visits()]


# -- a visit does not grow for ever ----------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.apply_visit, "COMPACT_ABOVE", 10)
    monkeypatch.setattr(jobs.apply_visit, "COMPACT_KEEP_NEWEST", 3)


@pytest.mark.usefixtures("few")
async def test_of_many_changes_those_that_decide_and_the_newest_stay(world: World) -> None:
    await world.apply(booked(version=1_000))
    for order in range(2, 40):
        await world.apply(change(version=order, time_scheduled=hour(order % 24)))

    member = await world.load_task()
    assert len(member.changes) <= 10
    assert 39 == member.change_count == member.applied_count
    assert 39 == len(member.changes) + member.compacted_count
    assert "2026-03-14T09:00:00Z" == (world.visit() or {})["time_scheduled"]  # what the booking said, last by the tool


@pytest.mark.usefixtures("few")
async def test_a_visit_that_does_not_settle_does_not_grow_either(world: World) -> None:
    for order in range(2, 40):
        await world.apply(change(version=order, time_scheduled=hour(order % 24)))  # of nobody yet

    member = await world.load_task()
    assert ("waiting", 0, 38) == (member.state, member.applied_count, member.change_count)
    assert len(member.changes) <= 10
    assert 38 == len(member.changes) + member.compacted_count
    await world.apply(booked(version=1_000))
    assert "2026-03-14T09:00:00Z" == (world.visit() or {})["time_scheduled"]


@pytest.mark.usefixtures("few")
async def test_of_many_discarded_changes_the_newest_are_remembered(world: World) -> None:
    for order in range(2, 40):
        await world.accept(change(version=order, time_scheduled=hour(order % 24)))
    await world.ledger.discard(of("1"))
    await world.apply(booked(version=1_000))

    assert 3 == len((await world.load_task()).discarded_changes)


async def test_a_visit_of_very_many_payments_is_parked_and_one_less_is_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.apply_visit, "MAX_PAYMENTS", 5)
    await world.apply(booked())
    for number in range(5):
        await world.apply(change(payment_id=f"p{number}", amount_collected=Decimal(10)))

    assert "50.00" == (world.visit() or {})["amount_collected"]

    await world.apply(change(payment_id="p5", amount_collected=Decimal(10)))

    member = await world.load_task()
    assert ("parked", "too_many_payments") == (member.state, member.reason)
    assert "50.00" == (world.visit() or {})["amount_collected"]


@pytest.mark.usefixtures("few")
async def test_what_was_forgotten_does_not_come_back_by_a_later_link_or_a_fresh_run(world: World) -> None:
    for order in range(2, 40):
        await world.apply(change("2", order, contact=ADA, time_scheduled=hour(order % 24)))
    assert ["standard-2"] == names(world)

    await world.apply(booked("1", version=1))
    await world.apply(change("2", 1, previous_visit_id="1", amount_collected=None))
    await world.ledger.replay(of("2"), recheck=True)
    await world.run()

    assert ["standard-1"] == names(world)
    assert "2026-03-14T15:00:00Z" == (world.visit("1") or {})["time_scheduled"]  # 39 % 24


# -- translated anew -------------------------------------------------------------------------------------------------


class Toolbox:
    """A world with a tool whose translation can be changed, as by a new version of Doorbell."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def ring(self, *changes: VisitChange, said: str = "") -> str:
        """A delivery; what today's code makes of it. Its id."""
        raw = said.encode() or standard_body("visit.updated", "1", uuid.uuid4().hex)
        delivery = Delivery("standard", "standard", (), raw, datetime.now(UTC))
        meta = DeliveryInfo("standard", "standard", int(datetime.now(UTC).timestamp() * 1000))
        written = await self.world.ledger.accept(delivery, meta, changes, "main", dedup_id=uuid.uuid4().hex)
        await self.world.run()
        return written.delivery_id

    def means(self, meaning: "list[VisitChange] | Ignored | Exception") -> None:
        """What the code of another day makes of every event."""

        def translate(event: Event) -> list[VisitChange] | Ignored:
            if isinstance(meaning, Exception):
                raise meaning
            return meaning

        tool = self.world.context.settings.active_hooks["standard"].source
        hook = replace(self.world.context.settings.active_hooks["standard"], source=replace(tool, translate=translate))
        self.world.context.settings.__dict__["active_hooks"] = {"standard": hook}

    async def rederive(self, delivery: str, meaning: "list[VisitChange] | Ignored | Exception") -> list[str]:
        self.means(meaning)
        await self.world.ledger.retranslate(delivery)
        return await self.world.run()


@pytest.fixture
def tools(world: World) -> Toolbox:
    return Toolbox(world)


async def origins(world: World, visit_id: str = "1") -> dict[str, str]:
    member = await world.load_task(visit_id)
    return {delivery_of(origin): change.body.decode() for origin, change in member.changes.items()}


async def test_what_is_translated_anew_takes_the_place_of_what_that_delivery_said(tools: Toolbox) -> None:
    world = tools.world
    first = await tools.ring(booked(version=1, amount_collected=Decimal(5)))
    second = await tools.ring(change(version=2, amount_collected=Decimal(7)))
    before = await origins(world)

    await tools.rederive(first, [booked(version=1, hour=11, amount_collected=Decimal(99))])

    after = await origins(world)
    assert {first, second} == after.keys()
    assert before[second] == after[second]
    visit = world.visit() or {}
    assert ("2026-03-14T11:00:00Z", "7.00") == (visit["time_scheduled"], visit["amount_collected"])


async def test_the_same_code_says_the_same_however_often(tools: Toolbox) -> None:
    world = tools.world
    first = await tools.ring(booked(version=1))
    await tools.ring(change(version=2, time_scheduled=hour(15)))
    stands, before = world.harness.visits(), await origins(world)
    world.clear_calls()

    for _ in range(3):
        await tools.rederive(first, [booked(version=1)])

    assert (stands, before, []) == (world.harness.visits(), await origins(world), world.calls())


async def test_a_visit_that_never_was_one_goes(tools: Toolbox) -> None:
    first = await tools.ring(booked())

    await tools.rederive(first, Ignored("not a visit"))

    assert [] == tools.world.harness.visits()
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
    assert [f"event:{first}"] == await tools.world.ledger.task_ids("parked")
    assert ["standard-1"] == names(tools.world)

    tools.means([booked(hour=12)])
    await tools.world.ledger.replay(f"event:{first}")  # the code was mended; any replay will do
    await tools.world.run()
    assert "2026-03-14T12:00:00Z" == (tools.world.visit() or {})["time_scheduled"]


async def test_what_is_certain_is_applied_and_the_rest_is_parked(tools: Toolbox) -> None:
    first = await tools.ring()

    await tools.rederive(first, PartlyTranslatable("which other visits it means is not told", [booked()]))

    member = await tools.world.ledger.load_task(f"event:{first}")
    assert ("parked", "untranslatable: which other visits it means is not told") == (member.state, member.reason)
    assert ["standard-1"] == names(tools.world)

    await tools.rederive(first, [booked("2")])
    assert ["standard-2"] == names(tools.world), "what it said before was taken back"
    assert [] == await tools.world.ledger.task_ids("parked")


async def test_a_plan_says_what_is_certain_of_a_delivery_that_needs_an_operator(tools: Toolbox) -> None:
    world, which = tools.world, "which other visits it means is not told"
    first = await tools.ring()
    tools.means(PartlyTranslatable(which, [booked()]))

    [step] = await plan(world, "retranslate")
    assert ("", ["POST /visits"]) == (step.skip_reason, [call.call for call in step.calls])

    await tools.rederive(first, PartlyTranslatable(which, [booked()]))
    assert [f"untranslatable: {which}"] == [step.skip_reason for step in await plan(world, "retranslate")]


async def test_what_is_certain_stays_when_an_operator_is_done_with_the_rest(tools: Toolbox) -> None:
    world = tools.world
    first = await tools.ring()
    await tools.rederive(first, PartlyTranslatable("which other visits it means is not told", [booked()]))

    assert 1 == await world.ledger.discard(f"event:{first}")
    await world.run()

    assert (["standard-1"], []) == (names(world), await world.ledger.task_ids("parked"))


async def test_what_an_operator_discarded_stays_discarded(tools: Toolbox) -> None:
    world = tools.world
    await tools.ring(booked())
    world.harness.inject_faults(error_share=1)
    second = await tools.ring(change(version=2, time_scheduled=hour(15)))
    await world.ledger.discard(of("1"), second)
    world.harness.clear_faults()

    await tools.rederive(second, [change(version=2, time_scheduled=hour(16))])

    assert "2026-03-14T09:00:00Z" == (world.visit() or {})["time_scheduled"]


async def test_asked_for_during_a_run_it_is_done_once_more(tools: Toolbox) -> None:
    world = tools.world
    first = await tools.ring(booked())
    tools.means([booked(hour=10)])
    await world.ledger.retranslate(first)
    hold = await world.ledger.lease(f"event:{first}")
    assert isinstance(hold, Lease)

    await world.ledger.retranslate(first)
    await world.ledger.record_changes(hold, "standard", "main", [booked(hour=10)], Attempt(1, 1, "translated"))
    tools.means(Ignored("not a visit"))
    await world.run()

    assert [] == world.harness.visits()


# -- the plan, and what is done --------------------------------------------------------------------------------------


def replay_of(world: World, mode: Mode = "retry", **how: Any) -> Replay:
    return Replay(world.ledger, world.context.settings, mode, **how)


async def plan(
    world: World, mode: Mode = "retry", recheck: bool = False, contact: str = "", **words: Any
) -> list[PlannedTask]:
    replay = replay_of(world, mode, recheck=recheck, contact=contact)
    return [step async for step in replay.plan(build_filter(words))]


async def carry_out(world: World, mode: Mode = "retry", contact: str = "", **words: Any) -> list[tuple[str, str]]:
    """What became of each."""
    done: list[tuple[str, str]] = []
    replay = replay_of(world, mode, contact=contact)
    await replay.execute(build_filter(words), lambda step, state: done.append((step.id, state)))
    return done


async def refused(world: World, *visits: str) -> None:
    """These are parked: the API does not take them."""
    world.harness.inject_faults(duplicate_external_id="unprocessable")
    for visit_id in visits:
        await world.accept(booked(visit_id, contact=Contact(id="cont_nobody")))
    await world.run()
    world.harness.clear_faults()
    assert len(visits) == len(await world.ledger.task_ids("parked"))


async def test_a_plan_says_what_would_be_sent_and_sends_nothing(world: World) -> None:
    await refused(world, "1")
    world.clear_calls()

    [step] = await plan(world, ids=("standard-1",))

    assert ("standard-1", "parked", "POST /visits: 422", "") == (step.id, step.state, step.reason, step.skip_reason)
    sends = {"time_scheduled": "2026-03-14T09:00:00Z", "event_date": "2026-03-14T09:00:00Z"}
    assert (Call("POST /visits", "standard-1", sends),) == step.calls
    assert [] == world.calls()
    assert "parked" == (await world.load_task()).state


async def test_what_the_plan_says_is_what_is_sent(world: World) -> None:
    await world.apply(booked())
    world.harness.inject_faults(error_share=1)
    await world.apply(change(version=2, time_scheduled=hour(15), amount_collected=Decimal(5)))
    world.harness.clear_faults()
    [step] = await plan(world, state="waiting")
    world.transport.requests.clear()

    assert [("standard-1", "queued")] == await carry_out(world, state="waiting")
    await world.run()

    [call] = step.calls
    assert [call.call] == world.calls()
    assert world.transport.sent("PUT") == [
        {
            "time_scheduled": "2026-03-14T15:00:00Z",
            "event_date": "2026-03-14T15:00:00Z",
            "amount_collected": "5.00",
        }
    ]
    assert world.transport.sent("PUT") == [dict(call.fields)]


async def test_of_what_has_nothing_to_send_the_plan_says_why(tools: Toolbox) -> None:
    world = tools.world
    old = await tools.ring(change(version=1, time_scheduled=hour(7)))
    new = await tools.ring(booked(version=2))
    await world.accept(booked("2"))
    await refused_and_discarded(world, "3")

    skips = {step.id: step.skip_reason for step in await plan(world, ids=(old, "standard-2", "standard-3", "nobody"))}

    assert {old: "superseded", "standard-2": "queued", "standard-3": "discarded", "nobody": "unknown"} == skips
    assert ["applied"] == [step.skip_reason for step in await plan(world, ids=(new,))]


async def refused_and_discarded(world: World, visit_id: str) -> None:
    world.harness.inject_faults(error_share=1)
    await world.accept(booked(visit_id))
    await world.run_task(of(visit_id))
    world.harness.clear_faults()
    await world.ledger.discard(of(visit_id))


async def test_an_unknown_id_does_not_stop_the_others(world: World) -> None:
    await refused(world, "1", "2")

    done = await carry_out(world, ids=("standard-1", "nobody", "standard-2"))

    assert [("standard-1", "queued"), ("nobody", "unknown"), ("standard-2", "queued")] == done


async def test_a_visit_with_several_ids_is_one_and_begins_its_tries_anew_by_any_of_them(world: World) -> None:
    await world.accept(booked("1"), change("2", 2, previous_visit_id="1", time_scheduled=hour(12)))
    world.harness.inject_faults(error_share=1)
    await world.run()
    world.harness.clear_faults()
    assert 1 == (await world.load_task("1")).failed_attempts

    assert [("standard-1", "visit:main/standard-1")] == [(s.id, s.task_id) for s in await plan(world, hook="standard")]
    assert [("standard-2", "queued")] == await carry_out(world, ids=("standard-2",))

    assert 0 == (await world.load_task("1")).failed_attempts
    assert ["done"] == await world.run()


async def test_a_replay_done_twice_changes_nothing(world: World) -> None:
    await world.apply(booked("1"), booked("2"), change("1", 2, time_scheduled=hour(15)))
    stands = world.harness.visits()
    world.clear_calls()

    for mode in ("retry", "retranslate", "reconcile") * 2:
        await carry_out(world, mode, hook="standard")
        await world.run()

    assert (stands, []) == (world.harness.visits(), world.calls())


async def test_an_operator_names_a_contact_once(world: World) -> None:
    await world.accept(booked(contact=None))
    await world.run()
    [step] = await plan(world, ids=("standard-1",), contact=DOCUMENTED_CONTACT)

    for _ in range(2):
        await carry_out(world, contact=DOCUMENTED_CONTACT, ids=("standard-1",))
        await world.run()

    assert ["POST /visits"] == [call.call for call in step.calls]
    assert [DOCUMENTED_CONTACT] == [visit["contact_id"] for visit in world.harness.visits()]
    assert 2 == len((await world.load_task()).changes)


async def test_words_narrow_the_deliveries_behind_a_visit_too(world: World) -> None:
    await refused(world, "1", "2")
    deliveries = await spoken(world)

    async def selected(**words: Any) -> list[str]:
        selector = TaskSelector(world.ledger, world.context.settings, "retranslate")
        return [deliveries[unit.id] async for unit in selector.iter(build_filter(words))]

    for words in ({}, {"state": "parked"}, {"hook": "standard"}, {"since": datetime.now(UTC) - timedelta(hours=1)}):
        assert [of("2")] == await selected(visit="2", **words), words
    for words in ({"state": "waiting"}, {"hook": "calendly"}, {"reason": "401"}):
        assert [] == await selected(visit="2", **words), words


@pytest.mark.parametrize("mode", ["retry", "retranslate", "reconcile"])
async def test_words_are_asked_of_the_delivery_that_was_found(world: World, mode: Mode) -> None:
    ten_days_ago = int(time.time() * 1000) - 10 * 86_400_000
    await world.ledger.accept(
        Delivery("standard", "standard", (), b"old", datetime.now(UTC)),
        DeliveryInfo("standard", "standard", ten_days_ago),
        [booked("1")],
        "main",
        dedup_id=None,
    )
    await asyncio.sleep(0.005)  # their names sort by the ms
    await world.accept(change("1", 2))
    await asyncio.sleep(0.005)
    await world.accept()  # it spoke of nothing
    old, new, nothing = sorted(await spoken(world))

    async def found(id: str, **words: Any) -> bool:
        selector = TaskSelector(world.ledger, world.context.settings, mode)
        return bool([unit async for unit in selector.iter(build_filter(words, search=id))])

    recent = datetime.now(UTC) - timedelta(hours=1)
    assert [False, True] == [await found(id, since=recent) for id in (old, new)]
    assert [True, True] == [await found(id, state="queued", hook="standard") for id in (old, new)]
    assert [False, False] == [await found(id, **words) for id in (old, nothing) for words in [{"state": "parked"}]]
    assert (mode != "retry") == await found(nothing, hook="standard")


async def test_a_visit_is_found_by_its_later_id_whatever_is_the_matter_with_it(world: World) -> None:
    world.harness.inject_faults(duplicate_external_id="unprocessable")
    await world.accept(booked("1", contact=Contact(id="cont_nobody")), change("2", 2, previous_visit_id="1"))
    await world.run()

    for name in ("1", "2"):
        [step] = await plan(world, visit=name, state="parked", reason="422")
        assert (of("1"), "parked", "") == (step.task_id, step.state, step.skip_reason)


async def spoken(world: World) -> dict[str, str]:
    """Each delivery with the visit that it spoke of."""
    ids = [id.decode() for id in await world.redis.command("ZRANGE", "bell:deliveries:standard", 0, -1)]
    return {id: " ".join((await world.ledger.load_delivery_info(id)).task_ids) for id in ids}


async def test_words_of_a_filter_narrow_what_is_selected(world: World) -> None:
    await refused(world, "1", "2")
    await world.accept(booked("3", contact=None))
    await world.run()
    now = datetime.now(UTC)

    async def selected(**words: Any) -> list[str]:
        return sorted(step.id for step in await plan(world, **words) if not step.skip_reason)

    both = ["standard-1", "standard-2"]
    assert both == await selected(state="parked")
    assert ["standard-3"] == await selected(state="waiting")
    assert both == await selected(reason="POST /visits: 4")
    assert both == await selected(reason="422", source="standard", hook="standard")
    assert ["standard-3"] == await selected(reason="contact_unknown")
    assert ["standard-2"] == await selected(visit="standard-2")
    assert ["standard-2"] == await selected(visit="2", hook="standard", since=now - timedelta(hours=1))
    assert [] == await selected(state="parked", source="calendly")
    assert [] == await selected(state="parked", hook="calendly")
    assert [] == await selected(state="parked", since=now)
    assert both == await selected(state="parked", since=now - timedelta(hours=1), until=now)
    assert [*both, "standard-3"] == await selected(source="standard")
    assert [*both, "standard-3"] == await selected(since=now - timedelta(hours=1))
    assert [] == await selected(until=now - timedelta(hours=1))


async def test_what_came_of_a_delivery_narrows_what_is_selected(world: World) -> None:
    await world.accept(booked("1"))
    await world.accept(booked("2", hour=9))
    await world.run()
    await world.accept(booked("2", version=2, hour=11))
    await world.run()

    async def selected(state: str) -> list[str]:
        return [step.id for step in await plan(world, recheck=True, state=state)]

    assert ["standard-1", "standard-2"] == await selected("applied")
    assert ["standard-2"] == await selected("superseded")
    assert [] == await selected("ignored")


async def test_no_more_than_a_batch_is_put_in_front_of_the_live_work(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.operators.replay, "BATCH_SIZE", 5)
    monkeypatch.setattr(app.operators.replay, "STALL_TIMEOUT_S", 0.3)
    await refused(world, *map(str, range(1, 24)))

    with pytest.raises(NoWorkerProgress):
        await carry_out(world, state="parked")
    assert 5 == len(await world.ledger.task_ids("queued"))

    most, broken_off = 0, asyncio.create_task(carry_out(world, state="parked"))
    while not broken_off.done():
        most = max(most, len(await world.ledger.task_ids("queued")))
        await world.run()
        await asyncio.sleep(0)
    assert 0 < most <= 8  # a batch, and of the one before at most the half
    assert await broken_off


async def test_a_walk_sees_everything_that_stays_while_others_leave_and_join(world: World) -> None:
    for number in range(1_300):
        await world.redis.command("ZADD", "bell:parked", 1_000 + number // 600, f"visit:main/standard-{number:04}")
    seen = []

    async for work in world.ledger.scan_by_time("parked"):
        seen.append(work)
        await world.redis.command("ZREM", "bell:parked", work)
        await world.redis.command("ZADD", "bell:parked", 9_000, f"{work}-again")
        if len(seen) == 1_300:
            break

    assert 1_300 == len(set(seen)) == len([work for work in seen if not work.endswith("again")])


async def test_a_plan_of_translating_anew_says_what_today_differs(tools: Toolbox) -> None:
    world = tools.world
    same = await tools.ring(booked("1"))
    other = await tools.ring(booked("2"))
    tools.means([booked("1")])

    steps = {step.id: step for step in await plan(world, "retranslate", hook="standard")}

    assert "unchanged" == steps[same].skip_reason
    assert {("DELETE /visits/:id", "standard-2")} == {(call.call, call.visit) for call in steps[other].calls}


async def test_what_is_older_than_what_is_remembered_is_not_translated_anew(tools: Toolbox) -> None:
    """Newer facts may be forgotten already: an old one would come to stand in their place."""
    first = await tools.ring(booked())
    tools.means([booked(hour=20)])
    record = await tools.world.redis.command("GET", f"bell:delivery:{first}")
    head, _, body = record.partition(b"\n")
    meta = json.loads(head)
    meta["received_at_ms"] -= 31 * 86_400_000
    await tools.world.redis.command("SET", f"bell:delivery:{first}", json.dumps(meta).encode() + b"\n" + body)

    [step] = await plan(tools.world, "retranslate", ids=(first,))

    assert "expired" == step.skip_reason


# -- the truth from the tool -----------------------------------------------------------------------------------------


async def test_the_truth_is_fetched_from_the_tool(doorstep: ToolWorld) -> None:
    doorstep.tool.add_records("acuity", BOOKED)
    await doorstep.receive("acuity", BOOKED)
    await doorstep.run()
    doorstep.tool.add_records("acuity", MOVED)  # and nobody rang
    [step] = await plan(doorstep, "reconcile", visit="acuity-123456789")

    await carry_out(doorstep, "reconcile", visit="acuity-123456789")
    await doorstep.run()

    assert (Call("GET appointments", "appointments/123456789"),) == step.calls
    [visit] = doorstep.harness.visits()
    assert MOVED["expect"][0]["time_scheduled"] == visit["time_scheduled"]


async def test_a_record_that_is_gone_takes_nothing_back(doorstep: ToolWorld) -> None:
    doorstep.tool.add_records("acuity", BOOKED)
    answer = await doorstep.receive("acuity", BOOKED)
    await doorstep.run()
    stands = doorstep.harness.visits()
    doorstep.tool.records.clear()

    for mode in ("reconcile", "retranslate"):
        await carry_out(doorstep, mode, ids=(answer.json()["delivery"],))
        await doorstep.run()
        await doorstep.advance_time(600)
        await doorstep.run()

    assert stands == doorstep.harness.visits()


async def test_what_a_full_event_said_cannot_be_fetched(world: World) -> None:
    await world.apply(booked())

    [step] = await plan(world, "reconcile", visit="standard-1")

    assert "record_not_fetchable" == step.skip_reason
