"""Calls that fail, and workers that are killed between two calls."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest

import jobs.apply_visit
import jobs.contacts
from app.ledger.ids import TaskId
from app.visits.change import VisitChange
from jobs.apply_visit import run_visit
from tests.support.harness import wait_until
from tests.support.visit_worker import BOB, World, at, booked, cancel_at_step, cancelled, change

# Failing calls


FAULTS = {
    "done-then-silence": {"commit_then_hang_share": 1},
    "done-then-reset": {"commit_then_hang_share": 1, "hang_s": 0.01},
    "reset": {"reset_share": 1},
    "truncated-response": {"truncated_share": 1},
    "wrong-json": {"wrong_json_share": 1},
    "502": {"error_share": 1, "error_status": 502},
    "429": {"rate_limited_share": 1},
    "401": {"unauthorized": True},
    "slow": {"slow_share": 1, "slow_s": 0.6},
}


ENDPOINTS = [
    "GET /visits/:id",
    "GET /contacts",
    "POST /contacts",
    "POST /visits",
    "PUT /visits/:id",
    "DELETE /visits/:id",
]


def faulty_calls(world: World) -> list[str]:
    return [call["route"] for call in world.harness.journal() if call["fault"]]


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_one_failed_call_causes_no_duplicates(world: World, endpoint: str, faults: dict[str, Any]) -> None:
    """Apply changes that make every call: a booking, a payment, another contact."""
    patience_s = 0.4 if "slow" in str(faults) or faults == {"commit_then_hang_share": 1} else 10
    changes = [booked(), change(version=2, amount_collected=Decimal(5)), change(version=3, contact=BOB)]
    world.harness.inject_faults(**faults, only=[endpoint], times=1)

    for visit_change in changes:
        world.configure(answer_s=patience_s)
        await world.apply(visit_change)
        if world.harness.faults()["times"] == 0:
            wait_until(lambda: faulty_calls(world))  # a slow call ends before the next attempt, which is 5 s later
        world.configure()
        for _ in range(4):
            if (await world.load_task()).state != "done":
                await world.advance_time(60)
                await world.run()
        assert "done" == (await world.load_task()).state

    assert [endpoint] == faulty_calls(world)
    assert [("standard-1", world.contacts("bob@example.com")[0]["id"])] == [
        (visit["external_id"], visit["contact_id"]) for visit in world.harness.visits()
    ]
    assert {
        "time_scheduled": "2026-03-14T09:00:00Z",
        "event_date": "2026-03-14T09:00:00Z",
        "amount_collected": "5.00",
    } == world.visit()
    assert [1, 1] == [len(world.contacts(email)) for email in ("ada@example.com", "bob@example.com")]


@pytest.mark.parametrize(
    ("faults", "outcome", "reason", "call"),
    [
        pytest.param({"down": True}, "http_5xx", "GET /visits/:id: 503", ["GET /visits/:id", 503], id="503"),
        pytest.param(
            {"truncated_share": 1, "only": ["POST /contacts"]},
            "timeout",
            "POST /contacts: outcome_unknown",
            ["POST /contacts", "outcome_unknown"],
            id="half",
        ),
    ],
)
async def test_every_attempt_is_stored_with_its_calls(
    world: World, faults: dict[str, Any], outcome: str, reason: str, call: list[Any]
) -> None:
    world.harness.inject_faults(**faults)

    states = await world.apply(booked())

    member = await world.load_task()
    assert (["waiting"], 1, reason) == (states, member.failed_attempts, member.reason)
    assert (outcome, call) == (member.attempts[-1].outcome, member.attempts[-1].calls[-1])
    assert member.retry_at_ms is not None


async def test_a_write_without_a_response_is_not_repeated_within_seconds(world: World) -> None:
    world.harness.inject_faults(truncated_share=1, only=["POST /visits"])

    await world.apply(booked())

    member = await world.load_task()
    assert member.retry_at_ms is not None
    assert member.retry_at_ms / 1000 - time.time() > 4


@pytest.mark.parametrize(
    ("slow", "then"),
    [
        pytest.param("POST /visits", booked(version=2, hour=15), id="POST /visits"),
        pytest.param("POST /contacts", booked(version=2, hour=15), id="POST /contacts"),
        pytest.param("PUT /visits/:id", booked(version=2, hour=15), id="PUT /visits/:id"),
        pytest.param("DELETE /visits/:id", booked(version=2, hour=15, contact=BOB), id="DELETE /visits/:id"),
    ],
)
async def test_a_write_that_completes_after_the_timeout_causes_no_duplicate(
    world: World, slow: str, then: VisitChange, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times are scaled by 20: a timeout of 0.5 s for 10 s, an API that takes 0.6 s for 12 s, RETRY_CAP_S=0.05 for 1 s."""
    world.configure(answer_s=0.5, RETRY_FIRST_S="0.05", RETRY_CAP_S="0.05")
    monkeypatch.setattr("jobs.retry.IN_FLIGHT_WAIT_S", 0.25)
    monkeypatch.setattr(jobs.contacts, "LOCK_TTL_S", 1.5)
    if not slow.startswith("POST"):
        await world.apply(booked(hour=7))
    world.harness.inject_faults(slow_share=1, slow_s=0.6, only=[slow], times=1)

    await world.apply(then)
    await world.accept(change(version=3, time_scheduled=at(20)))
    async with asyncio.timeout(20):
        while (await world.load_task()).state != "done":
            await world.ledger.requeue_due()
            await world.run()
            await asyncio.sleep(0.005)
    await asyncio.to_thread(wait_until, lambda: faulty_calls(world))

    assert {"time_scheduled": "2026-03-14T20:00:00Z", "event_date": "2026-03-14T20:00:00Z"} == world.visit()
    assert [1, 1] == [len(world.harness.visits()), len(world.contacts("ada@example.com"))]


async def change_of_an_alias(world: World) -> None:
    await world.accept(booked("2", version=3, hour=20))


async def another_reschedule(world: World) -> None:
    await world.accept(booked("3", version=3, hour=20, previous_visit_id="2"))


async def earlier_id(world: World) -> None:
    await world.accept(booked("1", version=3, previous_visit_id="0"), booked("2", version=3, hour=20))


async def replay(world: World) -> None:
    await world.accept(booked("2", version=3, hour=20))
    await world.ledger.replay(TaskId.visit("main", "standard-2"))


async def change_after_a_discard(world: World) -> None:
    await world.ledger.discard(TaskId.visit("main", "standard-1"))
    await world.accept(booked("2", version=3, hour=20))


@pytest.mark.parametrize(
    "then",
    [change_of_an_alias, another_reschedule, earlier_id, replay, change_after_a_discard],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("slow", ["POST /visits", "PUT /visits/:id"])
async def test_no_id_of_a_visit_runs_while_a_write_may_be_in_progress(
    world: World, slow: str, then: Callable[[World], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times are scaled by 20, as above."""
    world.configure(answer_s=0.5, RETRY_FIRST_S="0.05", RETRY_CAP_S="0.05")
    monkeypatch.setattr("jobs.retry.IN_FLIGHT_WAIT_S", 0.4)
    if slow.startswith("PUT"):
        await world.apply(booked("1", hour=7))
    world.harness.inject_faults(slow_share=1, slow_s=0.7, only=[slow], times=1)

    await world.accept(booked("1"), booked("2", version=2, hour=10, previous_visit_id="1"))
    await world.run_task("visit:main/standard-1")
    await then(world)
    async with asyncio.timeout(20):
        while await has_unfinished_visits(world):
            await world.ledger.requeue_due()
            await world.run()
            await asyncio.sleep(0.005)
    await asyncio.to_thread(wait_until, lambda: faulty_calls(world))

    first = "standard-0" if then is earlier_id else "standard-1"
    expected = [(first, "2026-03-14T20:00:00Z")]
    assert expected == [(visit["external_id"], visit["time_scheduled"]) for visit in world.harness.visits()]


async def has_unfinished_visits(world: World) -> bool:
    return any([await world.ledger.task_ids(state) for state in ("queued", "running", "waiting")])


async def test_a_slow_api_gets_its_visits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are scaled by 10: every call takes 0.8 s for 8 s, with a timeout of 1 s for 10 s; a job has 2 s for 20 s."""
    for name, value in (("jobs.apply_visit.RUN_TIMEOUT_S", 2), ("jobs.apply_visit.RESPONSE_TIMEOUT_S", 1)):
        monkeypatch.setattr(name, value)
    monkeypatch.setattr(jobs.contacts, "LOCK_WAIT_S", 0.1)
    world.configure(answer_s=1)
    world.harness.inject_faults(slow_share=1, slow_s=0.8)

    await world.apply(booked())
    for _ in range(10):
        if (await world.load_task()).state != "done":
            await world.advance_time(60)
            await world.run()

    assert "done" == (await world.load_task()).state
    assert [1, 1] == [len(world.harness.visits()), len(world.contacts("ada@example.com"))]


# Killed at any instruction


STORIES = {
    "first": ([], [booked()]),
    "update": ([booked()], [change(version=2, amount_collected=Decimal(5))]),
    "another-contact": ([booked()], [change(version=2, contact=BOB, amount_collected=Decimal(5))]),
    "not-cleared": ([booked(), cancelled(version=2)], [booked(version=3, date_cancelled=None)]),
    "renamed": ([booked("0", version=2), booked("1")], [change("0", version=3, previous_visit_id="1")]),
}


@pytest.mark.parametrize("lets", [False, True], ids=["at-once", "when-it-is-done"])
@pytest.mark.parametrize(("before", "then"), STORIES.values(), ids=STORIES)
async def test_a_run_that_is_cancelled_at_any_await_leaves_no_duplicates(
    world: World, before: list[VisitChange], then: list[VisitChange], lets: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = "1"
    for k in range(200):
        await world.redis.command("FLUSHDB")
        world.harness.control("POST", "reset")
        world.harness.inject_faults(empty_clears=False)
        for each in before:
            await world.apply(each)
        for each in then:
            await world.accept(each)

        with monkeypatch.context() as patch:
            patch.setattr(jobs.contacts, "LOCK_TTL_S", 0.02)
            was_cut = await cancel_at_step(world, run_visit(world.context, "main", f"standard-{root}"), k, lets)
        for _ in range(2):
            world.harness.journal()  # returns after the sandbox has executed the calls in progress
        for _ in range(3):
            await world.advance_time(3_600)
            await world.run()

        context = f"cut at {k}"
        assert "done" == (await world.load_task(root)).state, context
        assert [f"standard-{root}"] == [visit["external_id"] for visit in world.harness.visits()], context
        expected = "2026-03-14T09:00:00Z"
        assert expected == (world.visit(root) or {})["time_scheduled"], context
        assert "date_cancelled" not in (world.visit(root) or {}), context
        emails = {change.contact.email for change in (*before, *then) if change.contact}
        assert {1} == {len(world.contacts(email)) for email in emails if email}, context
        if not was_cut:
            break
    assert k >= 3
    assert not was_cut
