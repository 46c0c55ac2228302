"""The activity log: what operators did, and which visits and deliveries it affected."""

import asyncio

import pytest

from app.ledger.records import Cause
from app.operators import activity_log
from app.operators.actions import Actions, Actor
from app.operators.activity_log import Activity, ActivityLog
from app.operators.explain import Explain
from app.operators.filter import ActivityFilter, Filter
from tests.support.ledger import visit_task
from tests.support.operations import GRACE, run_operation
from tests.support.tool_api import BOOKED, ToolWorld
from tests.support.visit_worker import World, booked, change, park_visits


async def activities(world: World, id: str) -> list[Activity]:
    """Return the activities of a visit or delivery, oldest first."""
    page = await Explain(world.ledger, world.context.settings).find_activities(ActivityFilter(id=id))
    return page.rows[::-1]


async def delivery_ids(world: World) -> list[str]:
    ids = await world.redis.command("ZRANGE", "bell:deliveries:standard", 0, -1)
    return [id.decode() for id in ids]


async def test_a_replay_is_an_activity_of_every_visit_and_delivery_that_it_replays(world: World) -> None:
    await world.apply(booked("3"))
    await park_visits(world, "1", "2")
    deliveries = await delivery_ids(world)

    operation = await run_operation(world, "replay", Filter(state="parked"))

    subjects = ["standard-1", "standard-2", *deliveries[1:]]
    replays = [
        (activity.actor, activity.action, activity.operation)
        for id in subjects
        for activity in await activities(world, id)
    ]
    assert [("grace", "started replay", operation)] * 4 == replays
    assert [] == [activity for id in ("standard-3", deliveries[0]) for activity in await activities(world, id)]


async def test_no_activity_is_older_than_1970(world: World) -> None:
    await ActivityLog(world.ledger).record("grace", "operator", "paused", "main")
    filters = [ActivityFilter(until="1960-01-01T00:00:00Z"), ActivityFilter(since="1960-01-01T00:00:00Z")]

    assert [0, 1] == [len((await ActivityLog(world.ledger).newest(filter)).rows) for filter in filters]


@pytest.mark.parametrize(("text", "count"), [("looked up", 1), ("fetched", 1), ("replay", 0)])
async def test_an_action_is_found_by_its_words_for_people_too(world: World, text: str, count: int) -> None:
    await ActivityLog(world.ledger).record("grace", "operator", "fetched remote visit", "standard-1")

    page = await ActivityLog(world.ledger).newest(ActivityFilter(action=text))

    assert count == len(page.rows)


async def test_the_log_says_how_a_replay_differs_from_the_usual_one(world: World) -> None:
    contacts = {"standard-1": "ada@example.com", "standard-2": "bob@example.com"}
    await run_operation(world, "replay", Filter(state="parked"), contacts=contacts, recheck=True)
    await run_operation(world, "replay", Filter(state="parked"), mode="retranslate")

    page = await ActivityLog(world.ledger).newest(ActivityFilter())

    assert ["1 failure, translated again", "1 failure, after a check of Review Rover, with contacts of 2 visits"] == [
        activity.target for activity in page.rows
    ]


async def test_a_skipped_task_has_no_activity(world: World) -> None:
    await world.apply(booked())

    await run_operation(world, "replay", Filter(ids=("standard-1",)))
    await run_operation(world, "discard", Filter(ids=("standard-1",)))

    assert [] == await activities(world, "standard-1")


async def test_a_discard_of_a_delivery_affects_its_visit_and_no_other_delivery(world: World) -> None:
    await park_visits(world, "1")
    await world.accept(change(version=2))
    first, second = await delivery_ids(world)

    operation = await run_operation(world, "discard", Filter(ids=(second,)))

    [of_visit], [of_delivery] = await activities(world, "standard-1"), await activities(world, second)
    assert ("grace", "started discard", operation) == (of_visit.actor, of_visit.action, of_visit.operation)
    assert of_visit == of_delivery
    assert [] == await activities(world, first)


async def test_a_reconcile_affects_the_delivery_and_its_visit(tool_world: ToolWorld) -> None:
    tool_world.tool.add_records("acuity", BOOKED)
    delivery = (await tool_world.receive("acuity", BOOKED)).json()["delivery"]
    await tool_world.run()

    operation = await run_operation(tool_world, "replay", Filter(visit="acuity-123456789"), mode="reconcile")

    for id in (delivery, "acuity-123456789"):
        assert [operation] == [activity.operation for activity in await activities(tool_world, id)]


async def test_the_activities_of_a_visit_include_those_of_its_other_ids(world: World) -> None:
    await world.apply(booked("1"))
    actions = Actions(world.ledger, world.context.settings, GRACE)
    await actions.reveal_visit("standard-1", "contact.email")
    await world.apply(change("2", 2, previous_visit_id="1"))
    await actions.reveal_visit("standard-2")

    targets = ["standard-1: contact.email", "standard-2: everything"]
    assert targets == [activity.target for activity in await activities(world, "standard-1")]
    assert targets == [activity.target for activity in await activities(world, "standard-2")]


async def test_the_newest_hundred_activities_of_a_visit_are_indexed_for_ninety_days(world: World) -> None:
    await world.apply(booked())
    log = ActivityLog(world.ledger)
    for number in range(102):
        await log.record("grace", "operator", "revealed visit", str(number), affected=[visit_task("1")])

    assert [str(number) for number in range(2, 102)] == [
        activity.target for activity in await log.of_tasks(visit_task("1"))
    ]
    assert 89 * 86_400 < await world.redis.command("TTL", f"bell:activity:{visit_task('1')}") <= 90 * 86_400


async def test_a_discard_that_does_nothing_is_no_activity_of_the_visit(world: World) -> None:
    await world.apply(booked())
    log = ActivityLog(world.ledger)
    activity = await log.record("grace", "operator", "started discard")

    await world.ledger.discard(visit_task("1"), cause=Cause(activity, affected=(visit_task("1"),)))

    assert [] == await log.of_tasks(visit_task("1"))


# -- filters --


async def find(world: World, **fields: str) -> list[str]:
    page = await Explain(world.ledger, world.context.settings).find_activities(ActivityFilter(**fields))
    return [f"{activity.actor} {activity.action}" for activity in page.rows]


async def test_activities_are_filtered_by_user_action_visit_and_time(world: World) -> None:
    await world.apply(booked("1"), booked("2"))
    [delivery] = await delivery_ids(world)
    grace, ada = (
        Actions(world.ledger, world.context.settings, Actor(name, "operator"))
        for name in ("grace", "Ada (command line)")
    )
    await grace.reveal_visit("standard-1")
    await ada.reveal_visit("standard-2")
    await asyncio.sleep(0.005)
    between = (await world.ledger.server_time()).isoformat()
    await asyncio.sleep(0.005)
    await ada.reveal_delivery(delivery)

    first, second, third = (
        "grace revealed visit",
        "Ada (command line) revealed visit",
        "Ada (command line) revealed delivery",
    )
    assert [third, second, first] == await find(world)
    assert [third, second] == await find(world, actor="ada")
    assert [second, first] == await find(world, action="revealed visit")
    assert [first] == await find(world, id="standard-1")
    assert [third] == await find(world, id=delivery)
    assert [] == await find(world, id="standard-3")
    assert [third] == await find(world, since=between)
    assert [second, first] == await find(world, until=between)
    assert [second] == await find(world, until=between, id="standard-2", actor="ADA", action="visit")
    assert [] == await find(world, since=between, id="standard-2")


@pytest.mark.parametrize("id", ["", "standard-1"], ids=["of all", "of a visit"])
async def test_a_filtered_list_has_pages(world: World, id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity_log, "BATCH_SIZE", 3)
    await world.apply(booked())
    log, explain = ActivityLog(world.ledger), Explain(world.ledger, world.context.settings)
    for number in range(10):
        name = "grace" if number % 2 else "ada"
        await log.record(name, "operator", "revealed visit", str(number), affected=[visit_task("1")])

    pages, cursor = list[list[str]](), ""
    while len(pages) < 9:
        page = await explain.find_activities(ActivityFilter(actor="grace", id=id, cursor=cursor), limit=2)
        pages.append([activity.target for activity in page.rows])
        cursor = page.next_cursor
        if not cursor:
            break

    assert [["9", "7"], ["5", "3"], ["1"]] == pages


async def test_the_activities_of_an_expired_visit_are_listed(world: World) -> None:
    await world.apply(booked())
    await Actions(world.ledger, world.context.settings, GRACE).reveal_visit("standard-1")
    await world.redis.command("DEL", f"bell:{visit_task('1')}")

    assert ["grace revealed visit"] == await find(world, id="standard-1")
