"""The circuit of an account: rate limits, rejected tokens, outages."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import httpx
import pytest

import jobs.apply_visit
import jobs.contacts
from app.visits.change import Contact, VisitChange
from tests.support.harness import SECRET, TOKEN
from tests.support.visit_worker import ADA, CREATE_CALLS, World, at, booked, change, route_of

# Outages


@pytest.mark.parametrize(
    ("switches", "wait_s"),
    [
        pytest.param({"retry_after_s": 70}, (70, 70), id="seconds"),
        pytest.param({"retry_after_s": 70, "retry_after_date": True}, (65, 71), id="date"),
        pytest.param({"retry_after_s": None}, (2, 60), id="without"),
    ],
)
async def test_after_a_429_no_visit_calls_before_retry_after(
    world: World, switches: dict[str, Any], wait_s: tuple[int, int]
) -> None:
    for number in range(5):
        await world.accept(booked(str(number)))
    world.harness.inject_faults(rate_limited_share=1, **switches)
    states = await world.run()
    world.harness.clear_faults()
    await world.advance_time(wait_s[0] - 2)
    early = await world.run()
    calls = world.calls()
    await world.advance_time(wait_s[1] - wait_s[0] + 3)
    late = await world.run()
    await world.advance_time(0)
    late += await world.run()

    assert (["held"] * 5, [], ["GET /visits/:id"]) == (states, early, calls)
    assert ["done"] * 5 == late
    assert [0] * 5 == [(await world.load_task(str(number))).failed_attempts for number in range(5)]


async def test_a_rejected_token_holds_all_visits_and_is_probed(world: World) -> None:
    for number in range(5):
        await world.accept(booked(str(number)))
    world.harness.inject_faults(unauthorized=True)
    states = await world.run()
    probes = []
    for _ in range(10):  # more than an hour, which exceeds RETRY_FOR_S
        await world.advance_time(400)
        probes.append(await world.run())
    tries = [(await world.load_task(str(number))).failed_attempts for number in range(5)]
    calls = world.calls()
    world.harness.clear_faults()
    await world.advance_time(60)
    back = await world.run()
    await world.advance_time(1)
    back += await world.run()

    assert (["held"] * 5, [["held"]] * 10, [0] * 5) == (states, probes, tries)
    assert ["GET /visits/:id"] * 11 == calls
    assert ["done"] * 5 == back


async def test_time_with_a_rejected_token_does_not_count_as_failing(world: World) -> None:
    world.configure(RETRY_FOR_S="3600")
    world.harness.inject_faults(unauthorized=True)
    await world.apply(booked())
    await world.advance_time(4_000)
    world.harness.clear_faults()
    world.harness.inject_faults(down=True)

    states = await world.run()

    assert (["waiting"], 1) == (states, (await world.load_task()).failed_attempts)


async def test_a_429_never_parks_a_visit(world: World) -> None:
    world.configure(RETRY_FOR_S="3600")
    world.harness.inject_faults(rate_limited_share=1)
    await world.apply(booked())

    for _ in range(3):
        await world.advance_time(4_000)
        assert ["held"] == await world.run()


async def test_one_visit_probes_while_the_api_is_down(world: World) -> None:
    for number in range(10):
        await world.accept(booked(str(number), contact=replace(ADA, email=f"{number}@example.com")))
    world.harness.inject_faults(down=True)
    states = await world.run()
    world.clear_calls()
    probes = []
    for _ in range(3):
        await world.advance_time(31)
        await world.run()
        probes.append(len(world.calls()))
        world.clear_calls()
    world.harness.clear_faults()
    for _ in range(4):
        await world.advance_time(3_600)
        await world.run()

    assert ["waiting"] * 3 + ["held"] * 7 == states
    assert 10 == len(world.harness.visits())


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(booked("0", contact=None), id="waits-for-an-address"),
        pytest.param(booked("0", contact=Contact(email="no address")), id="is-rejected"),
        pytest.param(booked("0", opted_out=True), id="is-never-made"),
    ],
)
async def test_any_response_to_a_probe_closes_the_circuit(world: World, first: VisitChange) -> None:
    world.harness.inject_faults(down=True)
    for number in (7, 8, 9):
        await world.accept(booked(str(number)))
    await world.run()
    await world.accept(first)
    for number in range(1, 6):
        await world.accept(booked(str(number)))
    await world.run()
    world.harness.clear_faults()

    await world.advance_time(31)
    await world.run()
    await world.advance_time(1)
    await world.run()

    assert 5 == sum(world.visit(str(number)) is not None for number in range(1, 6))


@pytest.mark.parametrize(("count", "half_minutes"), [(1, 0), (2, 0), (5, 10)], ids=["1", "2", "5"])
async def test_visits_that_always_fail_delay_others_only_briefly(world: World, count: int, half_minutes: int) -> None:
    """The API responds with 500 to all calls for some visits."""
    ids = [f"p{number}" for number in range(count)]
    paths = {f"/api/v1/visits/standard-{id}" for id in ids}
    world.transport.before = lambda request: httpx.Response(500) if request.url.path in paths else None
    for id in ids:
        await world.apply(booked(id))

    for number in range(7):
        await world.apply(booked(str(number)))
    for _ in range(half_minutes):
        await world.advance_time(30)
        await world.run()
        await world.advance_time(1)
        await world.run()

    assert [f"standard-{number}" for number in range(7)] == [visit["external_id"] for visit in world.harness.visits()]


async def test_a_visit_is_parked_with_its_attempts_after_retry_for_s(world: World) -> None:
    world.configure(RETRY_FOR_S="7200")
    world.harness.inject_faults(error_share=1, error_status=502)
    states = await world.apply(booked())

    for _ in range(5):
        await world.advance_time(1_800)
        states += await world.run()
        await world.redis.command("DEL", "bell:outcomes:main")

    member = await world.load_task()
    assert ["waiting", "waiting", "waiting", "waiting", "parked"] == states
    assert ("parked", "GET /visits/:id: 502", 5) == (member.state, member.reason, member.failed_attempts)
    assert [["GET /visits/:id", 502]] * 5 == [call for attempt in member.attempts for call in attempt.calls]


async def test_a_replay_restarts_retry_for_s(world: World) -> None:
    world.configure(RETRY_FOR_S="3600")
    world.harness.inject_faults(down=True)
    await world.apply(booked())
    await world.advance_time(4_000)
    await world.run()
    parked = (await world.load_task()).state

    await world.ledger.replay("visit:main/standard-1")

    assert ("parked", ["waiting"]) == (parked, await world.run())


async def test_a_new_change_restarts_retry_for_s(world: World) -> None:
    world.configure(RETRY_FOR_S="3600")
    world.harness.inject_faults(down=True)
    await world.apply(booked())
    await world.advance_time(4_000)
    await world.run()
    parked = (await world.load_task()).state

    states = await world.apply(change(version=2, time_scheduled=at(15)))

    assert ("parked", ["waiting"]) == (parked, states)


async def test_a_visit_without_a_token_is_parked_without_a_call(world: World) -> None:
    await world.accept(booked())
    world.context = replace(
        world.context, settings=world.context.settings.model_copy(update={"visits_api_token": None})
    )

    assert ["parked"] == await world.run()
    assert ("token_missing", []) == ((await world.load_task()).reason, world.calls())


async def test_all_visits_together_keep_the_rate(world: World) -> None:
    world.configure(VISITS_API_RATE="100")
    for number in range(10):
        await world.accept(booked(str(number), contact=replace(ADA, email=f"{number}@example.com")))
    started = time.monotonic()

    await asyncio.gather(*map(world.run_task, await world.ledger.task_ids("queued")))

    assert 40 == len(world.calls())
    assert time.monotonic() - started > 0.38  # 39 gaps of 10 ms, minus rounding to whole ms
    assert 10 == len(world.harness.visits())


async def test_a_run_that_exceeds_the_rate_keeps_no_contact_locked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others take the slots: the second of the four calls is not made."""
    monkeypatch.setattr(jobs.apply_visit, "max_rate_wait_s", lambda rate: 0.1)
    world.configure(VISITS_API_RATE="0.5")
    await world.apply(booked())

    assert "rate_limited_locally" == (await world.load_task()).reason
    assert [] == await world.redis.command("KEYS", "bell:contact:*:lock")


async def test_a_run_makes_all_its_calls_however_low_the_rate(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are scaled by 50: a slot every 0.1 s for 5 s, with a maximum wait of 0.04 s for 2 s."""
    monkeypatch.setattr(jobs.apply_visit, "MAX_RATE_WAIT_S", 0.04)
    world.configure(VISITS_API_RATE="10")

    assert ["done"] == await world.apply(booked())
    assert CREATE_CALLS == world.calls()


# Accounts


async def test_every_account_has_its_own_token_contacts_and_circuit(world: World) -> None:
    hooks = {
        "HOOKS__OTHER__SECRETS": SECRET,
        "HOOKS__OTHER__SOURCE": "standard",
        "HOOKS__OTHER__VISITS_API_TOKEN": "other",
    }
    world.configure(**hooks)
    (other_account,) = {*world.context.settings.tokens} - {"main"}
    rejected = f"Bearer {TOKEN}"

    def reject_main(request: httpx.Request) -> httpx.Response | None:
        return httpx.Response(401) if request.headers["authorization"] == rejected else None

    world.transport.before = reject_main
    await world.accept(booked("1"))
    await world.accept(booked("2"), account=other_account)
    states = await world.run()
    first = [(route_of(request), request.headers["authorization"]) for request in world.transport.requests]
    world.transport.before = lambda request: None
    world.clear_calls()
    await world.advance_time(60)
    await world.run()

    assert ["done", "held"] == sorted(states)
    assert [("GET /visits/:id", f"Bearer {TOKEN}")] == [call for call in first if call[1] == rejected]
    assert [(route, "Bearer other") for route in CREATE_CALLS] == [call for call in first if call[1] != rejected]
    assert "GET /contacts" in world.calls()  # the contact cache is separate for each account
    assert {f"Bearer {TOKEN}"} == {request.headers["authorization"] for request in world.transport.requests}
