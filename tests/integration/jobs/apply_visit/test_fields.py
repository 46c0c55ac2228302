"""event_date, and fields that are cleared."""

from decimal import Decimal

import httpx
import pytest

from app.visits.change import UNSET, VisitChange
from tests.support.visit_worker import BOB, World, at, booked, cancelled, change, route_of

# event_date


@pytest.mark.parametrize(
    ("changes", "event_date"),
    [
        pytest.param([booked(hour=9)], "2026-03-14T09:00:00Z", id="booked"),
        pytest.param([booked(), change(version=2, time_scheduled=at(15))], "2026-03-14T15:00:00Z", id="moved"),
        pytest.param([booked(), change(version=2, time_completed=at(11))], "2026-03-14T11:00:00Z", id="completed"),
        pytest.param(
            [booked(), change(version=2, time_completed=at(11)), change(version=3, time_scheduled=at(15))],
            "2026-03-14T11:00:00Z",
            id="completed-then-moved",
        ),
        pytest.param(
            [booked(), change(version=2, time_completed=at(11)), change(version=3, time_completed=None)],
            "2026-03-14T09:00:00Z",
            id="completed-by-mistake",
        ),
        pytest.param([booked(time_scheduled=UNSET, time_completed=at(11))], "2026-03-14T11:00:00Z", id="walk-in"),
        pytest.param([booked(), change(version=2, time_scheduled=None)], None, id="put-off-without-a-new-time"),
    ],
)
@pytest.mark.parametrize("follows", [False, True], ids=["api-leaves-it", "api-moves-it"])
@pytest.mark.parametrize("at_once", [False, True], ids=["step-by-step", "at-once"])
async def test_event_date_is_the_completion_else_the_appointment(
    world: World, changes: list[VisitChange], event_date: str | None, follows: bool, at_once: bool
) -> None:
    world.harness.inject_faults(event_date_follows=follows)

    for each in changes:
        await world.accept(each)
        if not at_once:
            await world.run()
    await world.run()

    assert event_date == (world.visit() or {}).get("event_date")


async def test_a_visit_without_any_time_waits_for_one(world: World) -> None:
    states = await world.apply(booked(time_scheduled=UNSET))

    assert (["waiting"], "time_unknown") == (states, (await world.load_task()).reason)
    assert [] == world.harness.visits()
    assert ["done"] == await world.apply(change(version=2, time_scheduled=at(9)))
    assert 1 == len(world.harness.visits())


async def test_changes_that_only_clear_fields_wait_for_nothing(world: World) -> None:
    states = await world.apply(change(version=1, payment_id="invoice-1", amount_collected=None))

    assert ["done"] == states
    assert [] == world.harness.visits()
    assert ["done"] == await world.apply(booked(version=2))
    assert 1 == len(world.harness.visits())


# The list of a day


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        pytest.param([booked(hour=9)], "2026-03-14T09:00", id="booked"),
        pytest.param([booked(), change(version=2, time_scheduled=at(15))], "2026-03-14T15:00", id="moved"),
        pytest.param([booked(), change(version=2, time_completed=at(11))], "2026-03-14T09:00", id="completed"),
        pytest.param([booked(time_scheduled=UNSET, time_completed=at(11))], "2026-03-14T11:00", id="walk-in"),
        pytest.param([booked(), cancelled()], "2026-03-14T09:00", id="cancelled"),
        pytest.param([booked(contact=None)], "2026-03-14T09:00", id="without-a-contact"),
    ],
)
@pytest.mark.parametrize("at_once", [False, True], ids=["step-by-step", "at-once"])
async def test_a_visit_is_listed_on_the_day_of_its_appointment(
    world: World, changes: list[VisitChange], start: str, at_once: bool
) -> None:
    for each in changes:
        await world.accept(each)
        if not at_once:
            await world.run()
    await world.run()

    assert [start] == [listed for listed, _ in await world.ledger.visits_of_day("2026-03-14")]


# Cleared fields


@pytest.mark.parametrize(
    ("first", "changes", "field"),
    [
        pytest.param(
            booked(version=1, date_cancelled=UNSET),
            [cancelled(version=2), booked(version=3, date_cancelled=None)],
            "date_cancelled",
            id="booked-again",
        ),
        pytest.param(
            booked(),
            [change(version=2, no_show=at(10)), change(version=3, no_show=None)],
            "date_cancelled",
            id="no-show-withdrawn",
        ),
        pytest.param(
            booked(time_completed=at(11)),
            [change(version=3, time_completed=None)],
            "time_completed",
            id="not-completed",
        ),
        pytest.param(
            booked(amount_collected=Decimal(9)),
            [change(version=3, amount_collected=None)],
            "amount_collected",
            id="not-paid",
        ),
    ],
)
@pytest.mark.parametrize(
    ("clears", "last"),
    [(True, ["PUT /visits/:id"]), (False, ["PUT /visits/:id", "DELETE /visits/:id", "POST /visits"])],
    ids=["api-clears", "api-keeps"],
)
async def test_a_withdrawn_value_is_cleared(
    world: World, first: VisitChange, changes: list[VisitChange], field: str, clears: bool, last: list[str]
) -> None:
    world.harness.inject_faults(empty_clears=clears)
    await world.apply(first)
    for visit_change in changes:
        world.clear_calls()
        await world.apply(visit_change)

    assert last == world.calls()
    assert {"time_scheduled": "2026-03-14T09:00:00Z", "event_date": "2026-03-14T09:00:00Z"} == world.visit()
    assert field not in (world.visit() or {})


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(httpx.Response(204), id="204"),
        pytest.param(httpx.Response(200), id="empty"),
        pytest.param(httpx.Response(200, json={"ok": True}), id="another-object"),
        pytest.param(httpx.Response(200, json={"visit": {"id": 1}}), id="wrapped"),
    ],
)
@pytest.mark.parametrize("clears", [True, False], ids=["api-clears", "api-keeps"])
async def test_a_withdrawn_value_is_cleared_for_every_response_of_an_update(
    world: World, response: httpx.Response, clears: bool
) -> None:
    world.harness.inject_faults(empty_clears=clears)
    await world.apply(booked(), cancelled(version=2))
    await world.apply(change(version=3, date_cancelled=None))
    await world.apply(cancelled(version=4))
    world.transport.after = lambda request: response if request.method == "PUT" else None

    await world.apply(change(version=5, date_cancelled=None))

    assert {"time_scheduled": "2026-03-14T09:00:00Z", "event_date": "2026-03-14T09:00:00Z"} == world.visit()


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(httpx.Response(201), id="empty"),
        pytest.param(httpx.Response(204), id="204"),
        pytest.param(httpx.Response(200, json={"ok": True}), id="another-object"),
    ],
)
async def test_every_response_of_a_create_leaves_one_visit(world: World, response: httpx.Response) -> None:
    world.transport.after = lambda request: response if route_of(request) == "POST /visits" else None

    await world.apply(booked())
    await world.apply(change(version=2, time_scheduled=at(15)))

    assert 1 == len(world.harness.visits())
    assert {"time_scheduled": "2026-03-14T15:00:00Z", "event_date": "2026-03-14T15:00:00Z"} == world.visit()


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_any_2xx_is_a_success(world: World, status: int) -> None:
    world.harness.inject_faults(created_status=status, deleted_status=status)

    states = [
        *await world.apply(booked()),
        *await world.apply(change(version=2, contact=BOB, amount_collected=Decimal(2))),
    ]

    assert ["done", "done"] == states
    assert 1 == len(world.harness.visits())
    assert "2.00" == (world.visit() or {})["amount_collected"]
