"""Replays: plans, calls, and the order of changes."""

import asyncio
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

import app.operators.replay
import jobs.apply_visit
from app.cli.options import build_filter
from app.ledger.ids import TaskId, delivery_of
from app.ledger.records import Attempt, DeliveryInfo, Lease, NewDelivery
from app.operators import search_index
from app.operators.explain import Explain
from app.operators.filter import Filter
from app.operators.lists import PAGE_SIZE, Lists
from app.operators.outcomes import plan_counts
from app.operators.replay import NO_CONTACTS, Call, NoWorkerProgress, PlannedTask, PlanSummary, Replay
from app.operators.selection import Mode, TaskSelector
from app.visits.change import Contact, VisitChange
from app.webhooks.delivery import Delivery, Event
from app.webhooks.payload import Untranslatable
from app.webhooks.source import Ignored, PartlyTranslatable
from tests.support.every_key import KEY
from tests.support.harness import standard_body
from tests.support.ledger import move_arrival, visit_task
from tests.support.tool_api import BOOKED, MOVED, ToolWorld
from tests.support.visit_worker import (
    ADA,
    API_HEADERS,
    BOB,
    DOCUMENTED_CONTACT,
    World,
    booked,
    change,
    create_in_api,
    external_ids,
    park_visits,
)
from tests.support.visit_worker import at as hour

# -- recheck --


async def test_a_contact_that_was_changed_in_the_api_is_kept(world: World) -> None:
    await world.apply(booked())
    world.harness.inject_faults(contact_can_change=True)
    url = f"{world.harness.env['VISITS_API_URL']}/visits/standard-1"
    world.harness.http.put(url, data={"contact_id": DOCUMENTED_CONTACT}, headers=API_HEADERS).raise_for_status()
    [by_hand] = world.harness.visits()
    world.clear_calls()

    await world.ledger.replay(visit_task("1"), recheck=True)
    await world.run()

    assert [by_hand] == world.harness.visits()
    assert ["GET /visits/:id"] == world.calls()


async def test_a_new_customer_after_a_recheck_gets_a_new_visit(world: World) -> None:
    await world.apply(booked())
    await world.ledger.replay(visit_task("1"), recheck=True)
    await world.run()

    await world.apply(change(version=5, contact=BOB))

    [visit] = world.harness.visits()
    assert world.contacts("bob@example.com")[0]["id"] == visit["contact_id"]


async def test_a_recheck_by_a_later_id_deletes_the_duplicate(world: World) -> None:
    await world.apply(booked("1"), change("2", 2, previous_visit_id="1", time_scheduled=hour(12)))
    create_in_api(world, external_id="standard-2", time_scheduled="2026-03-14T12:00:00Z")

    await world.ledger.replay(visit_task("2"), recheck=True)
    await world.run()

    assert ["standard-1"] == external_ids(world)


async def test_a_recheck_keeps_the_visit_that_the_external_id_returns(world: World) -> None:
    await world.apply(booked())
    [own] = world.harness.visits()
    second = create_in_api(world, external_id="standard-1")
    foreign = create_in_api(world, external_id="of-somebody-else")

    # Two of the duplicate_ids are wrong: one is the visit itself, one has a foreign external_id.
    await world.ledger.replay(
        visit_task("1"), recheck=True, duplicate_ids=[own["id"], second["id"], foreign["id"], 4711]
    )
    await world.run()

    assert [own["id"], foreign["id"]] == [visit["id"] for visit in world.harness.visits()]


# -- compaction --


@pytest.fixture
def low_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.apply_visit, "COMPACT_ABOVE", 10)
    monkeypatch.setattr(jobs.apply_visit, "COMPACT_KEEP_NEWEST", 3)


@pytest.mark.usefixtures("low_limits")
async def test_a_compaction_keeps_deciding_and_newest_changes(world: World) -> None:
    await world.apply(booked(version=1_000))
    for order in range(2, 40):
        await world.apply(change(version=order, time_scheduled=hour(order % 24)))

    task = await world.load_task()
    assert len(task.changes) <= 10
    assert 39 == task.change_count == task.applied_count
    assert 39 == len(task.changes) + task.compacted_count
    assert "2026-03-14T09:00:00Z" == (world.visit() or {})["time_scheduled"]  # the booking has the greatest version


@pytest.mark.usefixtures("low_limits")
async def test_a_waiting_visit_is_compacted_too(world: World) -> None:
    for order in range(2, 40):
        await world.apply(change(version=order, time_scheduled=hour(order % 24)))  # without a contact

    task = await world.load_task()
    assert ("waiting", 0, 38) == (task.state, task.applied_count, task.change_count)
    assert len(task.changes) <= 10
    assert 38 == len(task.changes) + task.compacted_count
    await world.apply(booked(version=1_000))
    assert "2026-03-14T09:00:00Z" == (world.visit() or {})["time_scheduled"]


@pytest.mark.usefixtures("low_limits")
async def test_only_the_newest_discarded_changes_are_kept(world: World) -> None:
    for order in range(2, 40):
        await world.accept(change(version=order, time_scheduled=hour(order % 24)))
    await world.ledger.discard(visit_task("1"))
    await world.apply(booked(version=1_000))

    assert 3 == len((await world.load_task()).discarded_changes)


async def test_a_visit_above_the_limit_of_payments_is_parked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.apply_visit, "MAX_PAYMENTS", 5)
    await world.apply(booked())
    for number in range(5):
        await world.apply(change(payment_id=f"p{number}", amount_collected=Decimal(10)))

    assert "50.00" == (world.visit() or {})["amount_collected"]

    await world.apply(change(payment_id="p5", amount_collected=Decimal(10)))

    task = await world.load_task()
    assert ("parked", "too_many_payments") == (task.state, task.reason)
    assert "50.00" == (world.visit() or {})["amount_collected"]


@pytest.mark.usefixtures("low_limits")
async def test_compacted_values_do_not_return_after_a_link_or_a_recheck(world: World) -> None:
    for order in range(2, 40):
        await world.apply(change("2", order, contact=ADA, time_scheduled=hour(order % 24)))
    assert ["standard-2"] == external_ids(world)

    await world.apply(booked("1", version=1))
    await world.apply(change("2", 1, previous_visit_id="1", amount_collected=None))
    await world.ledger.replay(visit_task("2"), recheck=True)
    await world.run()

    assert ["standard-1"] == external_ids(world)
    assert "2026-03-14T15:00:00Z" == (world.visit("1") or {})["time_scheduled"]  # 39 % 24


# -- retranslation --


class Retranslator:
    """Deliveries of a source whose translation changes, as with a new version of Doorbell."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def receive(self, *changes: VisitChange) -> str:
        """Store a delivery that was translated to `changes`, apply them, and return its id."""
        raw = standard_body("visit.updated", "1", uuid.uuid4().hex)
        delivery = Delivery("standard", "standard", (), raw, datetime.now(UTC))
        meta = DeliveryInfo("standard", "standard", int(datetime.now(UTC).timestamp() * 1000))
        receipt = await self.world.ledger.accept(
            NewDelivery(delivery, meta, changes, "main", dedup_id=uuid.uuid4().hex)
        )
        await self.world.run()
        return receipt.delivery_id

    def set_translation(self, translation: "list[VisitChange] | Ignored | Exception") -> None:
        """Translate every event to `translation` from now on."""

        def translate(event: Event) -> list[VisitChange] | Ignored:
            if isinstance(translation, Exception):
                raise translation
            return translation

        tool = self.world.context.settings.active_hooks["standard"].source
        hook = replace(self.world.context.settings.active_hooks["standard"], source=tool._replace(translate=translate))
        self.world.context.settings.__dict__["active_hooks"] = {"standard": hook}

    async def retranslate(self, delivery: str, translation: "list[VisitChange] | Ignored | Exception") -> list[str]:
        self.set_translation(translation)
        await self.world.ledger.retranslate(delivery)
        return await self.world.run()


@pytest.fixture
def retranslator(world: World) -> Retranslator:
    return Retranslator(world)


async def origins(world: World, visit_id: str = "1") -> dict[str, str]:
    task = await world.load_task(visit_id)
    return {delivery_of(origin): change.body.decode() for origin, change in task.changes.items()}


async def test_a_retranslation_replaces_the_changes_of_its_delivery(retranslator: Retranslator) -> None:
    world = retranslator.world
    first = await retranslator.receive(booked(version=1, amount_collected=Decimal(5)))
    second = await retranslator.receive(change(version=2, amount_collected=Decimal(7)))
    changes_before = await origins(world)

    await retranslator.retranslate(first, [booked(version=1, hour=11, amount_collected=Decimal(99))])

    changes_after = await origins(world)
    assert {first, second} == changes_after.keys()
    assert changes_before[second] == changes_after[second]
    visit = world.visit() or {}
    assert ("2026-03-14T11:00:00Z", "7.00") == (visit["time_scheduled"], visit["amount_collected"])


async def test_a_retranslation_with_the_same_result_changes_nothing(retranslator: Retranslator) -> None:
    world = retranslator.world
    first = await retranslator.receive(booked(version=1))
    await retranslator.receive(change(version=2, time_scheduled=hour(15)))
    visits_before, changes_before = world.harness.visits(), await origins(world)
    world.clear_calls()

    for _ in range(3):
        await retranslator.retranslate(first, [booked(version=1)])

    assert (visits_before, changes_before, []) == (world.harness.visits(), await origins(world), world.calls())


async def test_a_visit_is_deleted_when_its_delivery_is_ignored_now(retranslator: Retranslator) -> None:
    first = await retranslator.receive(booked())

    await retranslator.retranslate(first, Ignored("not a visit"))

    assert [] == retranslator.world.harness.visits()
    assert {} == await origins(retranslator.world)


async def test_a_change_moves_to_another_visit(retranslator: Retranslator) -> None:
    first = await retranslator.receive(booked("1"), booked("2"))

    await retranslator.retranslate(first, [booked("3"), booked("2", hour=10)])

    assert ["standard-2", "standard-3"] == external_ids(retranslator.world)
    assert "2026-03-14T10:00:00Z" == (retranslator.world.visit("2") or {})["time_scheduled"]


async def test_an_ignored_delivery_can_get_changes(retranslator: Retranslator) -> None:
    first = await retranslator.receive()

    await retranslator.retranslate(first, [booked()])

    assert ["standard-1"] == external_ids(retranslator.world)


async def test_an_untranslatable_delivery_is_parked_and_keeps_its_changes(retranslator: Retranslator) -> None:
    first = await retranslator.receive(booked())

    await retranslator.retranslate(first, Untranslatable("data.when: not a moment"))
    assert [f"event:{first}"] == await retranslator.world.ledger.task_ids("parked")
    assert ["standard-1"] == external_ids(retranslator.world)

    retranslator.set_translation([booked(hour=12)])
    await retranslator.world.ledger.replay(f"event:{first}")  # the translation is fixed; any replay translates again
    await retranslator.world.run()
    assert "2026-03-14T12:00:00Z" == (retranslator.world.visit() or {})["time_scheduled"]


async def test_a_partly_translatable_delivery_is_applied_and_parked(retranslator: Retranslator) -> None:
    first = await retranslator.receive()

    await retranslator.retranslate(first, PartlyTranslatable("the other visits are unknown", [booked()]))

    task = await retranslator.world.ledger.load_task(f"event:{first}")
    assert ("parked", "untranslatable: the other visits are unknown") == (task.state, task.reason)
    assert ["standard-1"] == external_ids(retranslator.world)

    await retranslator.retranslate(first, [booked("2")])
    assert ["standard-2"] == external_ids(retranslator.world)
    assert [] == await retranslator.world.ledger.task_ids("parked")


async def test_the_plan_of_a_partly_translatable_delivery_has_its_calls(retranslator: Retranslator) -> None:
    world, problem = retranslator.world, "the other visits are unknown"
    first = await retranslator.receive()
    retranslator.set_translation(PartlyTranslatable(problem, [booked()]))

    [step] = await plan(world, "retranslate")
    assert ("", ["POST /visits"]) == (step.skip_reason, [call.call for call in step.calls])

    await retranslator.retranslate(first, PartlyTranslatable(problem, [booked()]))
    assert [f"untranslatable: {problem}"] == [step.skip_reason for step in await plan(world, "retranslate")]


async def test_a_discard_of_a_partly_translatable_event_keeps_its_changes(retranslator: Retranslator) -> None:
    world = retranslator.world
    first = await retranslator.receive()
    await retranslator.retranslate(first, PartlyTranslatable("the other visits are unknown", [booked()]))

    assert 1 == await world.ledger.discard(f"event:{first}")
    await world.run()

    assert (["standard-1"], []) == (external_ids(world), await world.ledger.task_ids("parked"))


async def test_a_retranslation_does_not_restore_discarded_changes(retranslator: Retranslator) -> None:
    world = retranslator.world
    await retranslator.receive(booked())
    world.harness.inject_faults(error_share=1)
    second = await retranslator.receive(change(version=2, time_scheduled=hour(15)))
    await world.ledger.discard(visit_task("1"), second)
    world.harness.clear_faults()

    await retranslator.retranslate(second, [change(version=2, time_scheduled=hour(16))])

    assert "2026-03-14T09:00:00Z" == (world.visit() or {})["time_scheduled"]


async def test_a_retranslation_during_a_run_runs_again(retranslator: Retranslator) -> None:
    world = retranslator.world
    first = await retranslator.receive(booked())
    retranslator.set_translation([booked(hour=10)])
    await world.ledger.retranslate(first)
    lease = await world.ledger.lease(f"event:{first}")
    assert isinstance(lease, Lease)

    await world.ledger.retranslate(first)
    await world.ledger.record_changes(lease, "standard", "main", [booked(hour=10)], Attempt(1, 1, "translated"))
    retranslator.set_translation(Ignored("not a visit"))
    await world.run()

    assert [] == world.harness.visits()


# -- plan and execution --


def replay_of(world: World, mode: Mode = "retry", **options: Any) -> Replay:
    return Replay(world.ledger, world.context.settings, mode, **options)


async def plan(
    world: World,
    mode: Mode = "retry",
    recheck: bool = False,
    contacts: Mapping[str, str] = NO_CONTACTS,
    **conditions: Any,
) -> list[PlannedTask]:
    replay = replay_of(world, mode, recheck=recheck, contacts=contacts)
    return [step async for step in replay.plan(build_filter(conditions))]


async def execute(
    world: World, mode: Mode = "retry", contacts: Mapping[str, str] = NO_CONTACTS, **conditions: Any
) -> list[tuple[str, str]]:
    """Execute a replay and return each id with its state."""
    done: list[tuple[str, str]] = []
    replay = replay_of(world, mode, contacts=contacts)
    await replay.execute(build_filter(conditions), lambda step, state: done.append((step.id, state)))
    return done


async def test_a_plan_has_the_calls_and_makes_none(world: World) -> None:
    await park_visits(world, "1")
    world.clear_calls()

    [step] = await plan(world, ids=("standard-1",))

    assert ("standard-1", "parked", "POST /visits: 422", "") == (step.id, step.state, step.reason, step.skip_reason)
    sends = {"time_scheduled": "2026-03-14T09:00:00Z", "event_date": "2026-03-14T09:00:00Z"}
    assert (Call("POST /visits", "standard-1", sends),) == step.calls
    assert [] == world.calls()
    assert "parked" == (await world.load_task()).state


async def test_a_replay_makes_the_planned_calls(world: World) -> None:
    await world.apply(booked())
    world.harness.inject_faults(error_share=1)
    await world.apply(change(version=2, time_scheduled=hour(15), amount_collected=Decimal(5)))
    world.harness.clear_faults()
    [step] = await plan(world, state="waiting")
    world.transport.requests.clear()

    assert [("standard-1", "queued")] == await execute(world, state="waiting")
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


async def test_a_skipped_task_has_a_reason(retranslator: Retranslator) -> None:
    world = retranslator.world
    older = await retranslator.receive(change(version=1, time_scheduled=hour(7)))
    newer = await retranslator.receive(booked(version=2))
    await world.accept(booked("2"))
    await discard_waiting(world, "3")

    skip_reasons = {
        step.id: step.skip_reason for step in await plan(world, ids=(older, "standard-2", "standard-3", "nobody"))
    }

    assert {older: "superseded", "standard-2": "queued", "standard-3": "discarded", "nobody": "unknown"} == skip_reasons
    assert ["applied"] == [step.skip_reason for step in await plan(world, ids=(newer,))]


async def discard_waiting(world: World, visit_id: str) -> None:
    world.harness.inject_faults(error_share=1)
    await world.accept(booked(visit_id))
    await world.run_task(visit_task(visit_id))
    world.harness.clear_faults()
    await world.ledger.discard(visit_task(visit_id))


async def test_an_unknown_id_does_not_stop_the_others(world: World) -> None:
    await park_visits(world, "1", "2")

    done = await execute(world, ids=("standard-1", "nobody", "standard-2"))

    assert [("standard-1", "queued"), ("nobody", "unknown"), ("standard-2", "queued")] == done


async def test_a_replay_by_any_alias_resets_the_attempts_of_the_visit(world: World) -> None:
    await world.accept(booked("1"), change("2", 2, previous_visit_id="1", time_scheduled=hour(12)))
    world.harness.inject_faults(error_share=1)
    await world.run()
    world.harness.clear_faults()
    assert 1 == (await world.load_task("1")).failed_attempts

    assert [("standard-1", "visit:main/standard-1")] == [
        (step.id, step.task_id) for step in await plan(world, hook="standard")
    ]
    assert [("standard-2", "queued")] == await execute(world, ids=("standard-2",))

    assert 0 == (await world.load_task("1")).failed_attempts
    assert ["done"] == await world.run()


async def test_a_second_replay_changes_nothing(world: World) -> None:
    await world.apply(booked("1"), booked("2"), change("1", 2, time_scheduled=hour(15)))
    visits_before = world.harness.visits()
    world.clear_calls()

    for mode in ("retry", "retranslate", "reconcile") * 2:
        await execute(world, mode, hook="standard")
        await world.run()

    assert (visits_before, []) == (world.harness.visits(), world.calls())


async def test_an_operator_assigns_a_contact_by_its_address(world: World) -> None:
    await world.accept(booked(contact=None))
    await world.run()
    [step] = await plan(world, ids=("standard-1",), contacts={"standard-1": "Ada@Example.com"})

    for _ in range(2):
        await execute(world, contacts={"standard-1": "Ada@Example.com"}, ids=("standard-1",))
        await world.run()

    [contact] = world.contacts("ada@example.com")
    assert ["POST /visits"] == [call.call for call in step.calls]
    assert [contact["id"]] == [visit["contact_id"] for visit in world.harness.visits()]
    assert 2 == len((await world.load_task()).changes)


async def test_each_visit_gets_the_contact_that_an_operator_names_for_it(world: World) -> None:
    await world.accept(booked("1", contact=None), booked("2", contact=None), booked("3", contact=None))
    await world.run()
    contacts = {"standard-1": "ada@example.com", "visit:main/standard-2": "bob@example.com"}
    calls = {
        step.id: [call.call for call in step.calls] for step in await plan(world, contacts=contacts, state="waiting")
    }

    await execute(world, contacts=contacts, state="waiting")
    await world.run()

    created = ["POST /visits"]
    assert {"standard-1": created, "standard-2": created, "standard-3": ["wait: contact_unknown"]} == calls
    [ada], [bob] = world.contacts("ada@example.com"), world.contacts("bob@example.com")
    contact_by_visit = {visit["external_id"]: visit["contact_id"] for visit in world.harness.visits()}
    assert {"standard-1": ada["id"], "standard-2": bob["id"]} == contact_by_visit


async def test_a_plan_counts_what_would_be_sent_and_what_would_fail_the_same_way(world: World) -> None:
    world.configure(CONTACT_FOR_S="0.001")
    await world.apply(booked("1"))
    await world.accept(booked("2", contact=None), booked("3", contact=None))
    await world.run()
    await park_visits(world, "4", parked=3)

    summary = PlanSummary()
    for step in await plan(world, hook="standard"):
        summary.add(step)

    assert [
        (1, "would be sent to Review Rover, with values that it rejected before", "off"),
        (2, "would fail the same way: No e-mail address", "bad"),
        (1, "would be skipped: already applied", "off"),
    ] == plan_counts(summary, "replay")


async def test_a_plan_knows_the_missing_credential_and_the_missing_token(tool_world: ToolWorld) -> None:
    tool_world.tool.add_records("acuity", BOOKED)
    await tool_world.receive("acuity", BOOKED)
    tool_world.configure(HOOKS__ACUITY__CREDENTIALS__API_KEY="")
    await tool_world.run()

    [step] = await plan(tool_world, state="parked")
    assert ("credentials_missing", "credentials_missing") == (step.reason.partition(":")[0], step.obstacle)

    tool_world.configure()
    [fixed] = await plan(tool_world, state="parked")
    assert "" == fixed.obstacle


async def test_an_address_replaces_an_assigned_contact_id(world: World) -> None:
    await world.apply(booked(contact=Contact(id=DOCUMENTED_CONTACT, email="ada@example.com")))

    await execute(world, contacts={"standard-1": "ada@example.com"}, ids=("standard-1",))
    await world.run()

    [contact] = world.contacts("ada@example.com")
    assert [contact["id"]] == [visit["contact_id"] for visit in world.harness.visits()]


async def customer_of(world: World) -> str:
    await world.run()
    [visit] = world.harness.visits()
    [email] = [
        each for each in ("ada@example.com", "bob@example.com") if visit["contact_id"] in str(world.contacts(each))
    ]
    return email


async def test_an_operator_assigns_the_contact_of_a_rescheduled_visit(world: World) -> None:
    moved = booked("2", 2, 15, contact=ADA, previous_visit_id="1")
    await world.accept(booked("1", contact=ADA), moved)
    before = await customer_of(world)
    [step] = await plan(world, ids=("standard-2",), contacts={"standard-1": "bob@example.com"})

    await execute(world, contacts={"standard-1": "bob@example.com"}, ids=("standard-1",))

    assert ("ada@example.com", "bob@example.com") == (before, await customer_of(world))
    assert ["GET /contacts, then the fields that differ"] == [call.call for call in step.calls]


COUNTS, TIMES = (1, 2, 3), (1_790_000_000_000_000, 1_790_000_000_000_001, 2**60)


@pytest.mark.parametrize("versions", [COUNTS, TIMES], ids=["counts", "times"])
@pytest.mark.parametrize("is_rescheduled", [False, True])
async def test_a_later_change_of_the_customer_overrides_an_assigned_contact(
    world: World, versions: tuple[int, int, int], is_rescheduled: bool
) -> None:
    first, second, later = versions
    if is_rescheduled:
        await world.accept(booked("1", later))
    visit, previous = ("2", "1") if is_rescheduled else ("1", None)
    await world.accept(booked(visit, first, contact=Contact(email="wrong@example.com"), previous_visit_id=previous))
    await world.run()
    await execute(world, contacts={"standard-1": "ada@example.com"}, ids=("standard-1",))
    assigned = await customer_of(world)

    customers = []
    for version, fields in ((second, {"time_scheduled": hour(10)}), (later, {"contact": BOB})):
        await world.accept(change(visit, version, **fields))
        customers.append(await customer_of(world))

    assert ("ada@example.com", ["ada@example.com", "bob@example.com"]) == (assigned, customers)


@pytest.mark.parametrize("email", ["aaa@example.com", "zzz@example.com"])
async def test_the_next_count_of_a_tool_overrides_an_assigned_contact(world: World, email: str) -> None:
    await world.accept(booked("1", 7, contact=Contact(email="wrong@example.com")))
    await execute(world, contacts={"standard-1": "mmm@example.com"}, ids=("standard-1",))

    await world.apply(change("1", 8, contact=Contact(email=email)))

    [contact], [visit] = world.contacts(email), world.harness.visits()
    assert contact["id"] == visit["contact_id"]


async def test_an_operator_assigns_a_contact_once(world: World) -> None:
    await world.accept(booked(contact=None))
    await world.run()
    [step] = await plan(world, ids=("standard-1",), contacts={"standard-1": DOCUMENTED_CONTACT})

    for _ in range(2):
        await execute(world, contacts={"standard-1": DOCUMENTED_CONTACT}, ids=("standard-1",))
        await world.run()

    assert ["POST /visits"] == [call.call for call in step.calls]
    assert [DOCUMENTED_CONTACT] == [visit["contact_id"] for visit in world.harness.visits()]
    assert 2 == len((await world.load_task()).changes)


async def test_a_filter_applies_to_the_deliveries_of_a_visit_too(world: World) -> None:
    await park_visits(world, "1", "2")
    deliveries = await visits_by_delivery(world)

    async def selected(**conditions: Any) -> list[str]:
        selector = TaskSelector(world.ledger, world.context.settings, "retranslate")
        return [deliveries[selected.id] async for selected in selector.iter(build_filter(conditions))]

    for conditions in (
        {},
        {"state": "parked"},
        {"hook": "standard"},
        {"since": datetime.now(UTC) - timedelta(hours=1)},
    ):
        assert [visit_task("2")] == await selected(visit="2", **conditions), conditions
    for conditions in ({"state": "waiting"}, {"hook": "calendly"}, {"reason": "401"}):
        assert [] == await selected(visit="2", **conditions), conditions


@pytest.mark.parametrize("mode", ["retry", "retranslate", "reconcile"])
async def test_a_filter_applies_to_a_searched_delivery(world: World, mode: Mode) -> None:
    ten_days_ago = int(time.time() * 1000) - 10 * 86_400_000
    await world.ledger.accept(
        NewDelivery(
            Delivery("standard", "standard", (), b"old", datetime.now(UTC)),
            DeliveryInfo("standard", "standard", ten_days_ago),
            [booked("1")],
            "main",
            dedup_id=None,
        )
    )
    await asyncio.sleep(0.005)  # ids sort by their ms
    await world.accept(change("1", 2))
    await asyncio.sleep(0.005)
    await world.accept()  # without changes
    older, newer, unrelated = sorted(await visits_by_delivery(world))

    async def is_selected(id: str, **conditions: Any) -> bool:
        selector = TaskSelector(world.ledger, world.context.settings, mode)
        return bool([selected async for selected in selector.iter(build_filter(conditions, search=id))])

    recent = datetime.now(UTC) - timedelta(hours=1)
    assert [False, True] == [await is_selected(id, since=recent) for id in (older, newer)]
    assert [True, True] == [await is_selected(id, state="queued", hook="standard") for id in (older, newer)]
    assert [False, False] == [
        await is_selected(id, **conditions) for id in (older, unrelated) for conditions in [{"state": "parked"}]
    ]
    assert (mode != "retry") == await is_selected(unrelated, hook="standard")


async def test_a_searched_address_selects_all_its_visits(world: World) -> None:
    """Not only those that fit on a page."""
    world.configure(SECRET_KEY=KEY)
    for number in range(2 * PAGE_SIZE):
        task_id = TaskId.visit("main", f"standard-{number}")
        await world.accept(booked(str(number)))
        await search_index.index(world.redis, task_id, ADA, KEY, 60_000)
    selector = TaskSelector(world.ledger, world.context.settings, "retry")

    assert 2 * PAGE_SIZE == len([selected async for selected in selector.iter(Filter(search="ada@example.com"))])


async def test_a_failure_is_selected_by_its_source_after_its_delivery_expired(world: World) -> None:
    """A failure is stored without a limit, as the list of failures shows it."""
    await park_visits(world, "1")
    for key in await world.redis.command("KEYS", "bell:delivery:*"):
        await world.redis.command("DEL", key)
    filter = Filter(state="parked", source="standard")

    selector = TaskSelector(world.ledger, world.context.settings, "retry")
    listed = await Lists(world.ledger, world.context.settings, Explain(world.ledger, world.context.settings)).tasks(
        filter
    )

    assert ["standard-1"] == [row["id"] for row in listed.rows]
    assert ["standard-1"] == [selected.id async for selected in selector.iter(filter)]
    assert [] == [selected async for selected in selector.iter(replace(filter, source="square"))]


async def test_a_filter_matches_a_visit_by_any_alias(world: World) -> None:
    world.harness.inject_faults(duplicate_external_id="unprocessable")
    await world.accept(booked("1", contact=Contact(id="cont_nobody")), change("2", 2, previous_visit_id="1"))
    await world.run()

    for name in ("1", "2"):
        [step] = await plan(world, visit=name, state="parked", reason="422")
        assert (visit_task("1"), "parked", "") == (step.task_id, step.state, step.skip_reason)


async def visits_by_delivery(world: World) -> dict[str, str]:
    """Return the tasks of each delivery."""
    ids = [id.decode() for id in await world.redis.command("ZRANGE", "bell:deliveries:standard", 0, -1)]
    return {id: " ".join((await world.ledger.load_delivery_info(id)).task_ids) for id in ids}


async def test_every_field_of_a_filter_restricts_the_selection(world: World) -> None:
    await park_visits(world, "1", "2")
    await world.accept(booked("3", contact=None))
    await world.run()
    now = datetime.now(UTC)

    async def selected(**conditions: Any) -> list[str]:
        return sorted(step.id for step in await plan(world, **conditions) if not step.skip_reason)

    parked = ["standard-1", "standard-2"]
    assert parked == await selected(state="parked")
    assert ["standard-3"] == await selected(state="waiting")
    assert parked == await selected(reason="POST /visits: 4")
    assert parked == await selected(reason="422", source="standard", hook="standard")
    assert ["standard-3"] == await selected(reason="contact_unknown")
    assert ["standard-2"] == await selected(visit="standard-2")
    assert ["standard-2"] == await selected(visit="2", hook="standard", since=now - timedelta(hours=1))
    assert [] == await selected(state="parked", source="calendly")
    assert [] == await selected(state="parked", hook="calendly")
    assert [] == await selected(state="parked", since=now)
    assert parked == await selected(state="parked", since=now - timedelta(hours=1), until=now)
    assert [*parked, "standard-3"] == await selected(source="standard")
    assert [*parked, "standard-3"] == await selected(since=now - timedelta(hours=1))
    assert [] == await selected(until=now - timedelta(hours=1))


async def test_the_result_of_a_delivery_restricts_the_selection(world: World) -> None:
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


async def test_at_most_one_batch_is_requeued_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.operators.replay, "BATCH_SIZE", 5)
    monkeypatch.setattr(app.operators.replay, "STALL_TIMEOUT_S", 0.3)
    await park_visits(world, *map(str, range(1, 24)))

    with pytest.raises(NoWorkerProgress):
        await execute(world, state="parked")
    assert 5 == len(await world.ledger.task_ids("queued"))

    max_queued, execution = 0, asyncio.create_task(execute(world, state="parked"))
    while not execution.done():
        max_queued = max(max_queued, len(await world.ledger.task_ids("queued")))
        await world.run()
        await asyncio.sleep(0)
    assert 0 < max_queued <= 8  # a batch, and at most half of the previous one
    assert await execution


async def test_a_scan_yields_all_tasks_while_the_set_changes(world: World) -> None:
    for number in range(1_300):
        await world.redis.command(
            "ZADD", "bell:state:parked", 1_000 + number // 600, f"visit:main/standard-{number:04}"
        )
    scanned = []

    async for task_id in world.ledger.scan_by_time("bell:state:parked"):
        scanned.append(task_id)
        await world.redis.command("ZREM", "bell:state:parked", task_id)
        await world.redis.command("ZADD", "bell:state:parked", 9_000, f"{task_id}-again")
        if len(scanned) == 1_300:
            break

    assert 1_300 == len(set(scanned)) == len([task_id for task_id in scanned if not task_id.endswith("again")])


async def test_the_plan_of_a_retranslation_has_the_differences(retranslator: Retranslator) -> None:
    world = retranslator.world
    unchanged = await retranslator.receive(booked("1"))
    changed = await retranslator.receive(booked("2"))
    retranslator.set_translation([booked("1")])

    steps = {step.id: step for step in await plan(world, "retranslate", hook="standard")}

    assert "unchanged" == steps[unchanged].skip_reason
    assert {("DELETE /visits/:id", "standard-2")} == {(call.call, call.visit) for call in steps[changed].calls}


async def test_a_delivery_older_than_the_retention_is_not_retranslated(retranslator: Retranslator) -> None:
    """Newer changes may have expired, and the retranslation would undo them."""
    first = await retranslator.receive(booked())
    retranslator.set_translation([booked(hour=20)])
    first = await move_arrival(retranslator.world.redis, first, int(time.time() * 1000) - 31 * 86_400_000)

    [step] = await plan(retranslator.world, "retranslate", ids=(first,))

    assert "expired" == step.skip_reason


# -- reconcile --


async def test_a_reconcile_applies_the_current_record(tool_world: ToolWorld) -> None:
    tool_world.tool.add_records("acuity", BOOKED)
    await tool_world.receive("acuity", BOOKED)
    await tool_world.run()
    tool_world.tool.add_records("acuity", MOVED)  # without a delivery
    [step] = await plan(tool_world, "reconcile", visit="acuity-123456789")

    await execute(tool_world, "reconcile", visit="acuity-123456789")
    await tool_world.run()

    assert (Call("GET appointments", "appointments/123456789"),) == step.calls
    [visit] = tool_world.harness.visits()
    assert MOVED["expect"][0]["time_scheduled"] == visit["time_scheduled"]


async def test_a_deleted_record_changes_nothing(tool_world: ToolWorld) -> None:
    tool_world.tool.add_records("acuity", BOOKED)
    response = await tool_world.receive("acuity", BOOKED)
    await tool_world.run()
    visits_before = tool_world.harness.visits()
    tool_world.tool.records.clear()

    for mode in ("reconcile", "retranslate"):
        await execute(tool_world, mode, ids=(response.json()["delivery"],))
        await tool_world.run()
        await tool_world.advance_time(600)
        await tool_world.run()

    assert visits_before == tool_world.harness.visits()


async def test_an_event_without_a_record_is_skipped(world: World) -> None:
    await world.apply(booked())

    [step] = await plan(world, "reconcile", visit="standard-1")

    assert "record_not_fetchable" == step.skip_reason
