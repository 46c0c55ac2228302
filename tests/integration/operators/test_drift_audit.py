"""The audit: what the API's list shows beside our facts, and that a repair touches nothing that is not ours."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

import app.operators.drift_audit
from app.operators.drift_audit import Difference, DriftAudit
from app.visits.client import ServerError
from tests.integration.operators.test_replay import TOKEN, made_by_hand, names, of
from tests.support.harness import Harness, wait_until
from tests.support.visit_worker import BOB, DOCUMENTED_CONTACT, World, booked, cancelled, change
from tests.support.visit_worker import at as hour


def audit_of(world: World, **how: Any) -> DriftAudit:
    return DriftAudit(world.ledger, world.context.settings, world.context.http, "main", **how)


async def differences(world: World, **how: Any) -> list[Difference]:
    return [found async for found in audit_of(world).differences(**how)]


async def repaired(world: World) -> list[Difference]:
    """What is left to be said after a repair."""
    audit = audit_of(world)
    async for found in audit.differences():
        if found.is_repairable:
            await audit.repair(found)
    await world.run()
    return await differences(world)


def by_hand(world: World, method: str, name: str | int, **fields: str) -> None:
    """Somebody does this in the API."""
    url = f"{world.harness.env['VISITS_API_URL']}/visits/{name}"
    world.harness.http.request(method, url, data=fields, headers=TOKEN).raise_for_status()


async def test_what_is_as_it_should_be_is_no_difference(world: World) -> None:
    await world.apply(booked("1"), booked("2"), change("2", 2, time_completed=hour(11)), booked("3"), cancelled("3"))
    await world.apply(booked("4"), change("5", 2, previous_visit_id="4", time_scheduled=hour(12)))
    made_by_hand(world, external_id="of-somebody-else")
    made_by_hand(world)

    audit = audit_of(world)

    assert [] == [found async for found in audit.differences()]
    assert {"seen": 5, "matching": 3, "foreign": 2} == audit.progress.counts


async def test_a_visit_that_was_deleted_is_missing_and_made_again(world: World) -> None:
    await world.apply(booked("1"), booked("2"))
    by_hand(world, "DELETE", "standard-1")

    assert [Difference("missing", "main", "standard-1", of("1"))] == await differences(world)
    assert [] == await repaired(world)
    assert ["standard-1", "standard-2"] == names(world)


async def test_a_visit_that_was_made_again_since_the_last_audit_is_not_doubled(world: World) -> None:
    await world.apply(booked("1"))
    assert [] == await differences(world)
    by_hand(world, "DELETE", "standard-1")

    assert [] == await repaired(world)


async def test_a_field_that_was_changed_by_hand_is_different_and_set_back(world: World) -> None:
    await world.apply(booked("1"))
    by_hand(world, "PUT", "standard-1", time_scheduled="2026-03-20T09:00:00Z", amount_collected="3.00")

    [found] = await differences(world)

    assert ("different", "standard-1") == (found.kind, found.visit)
    # Of the amount nobody ever spoke.
    assert {"time_scheduled": ["2026-03-14T09:00:00Z", "2026-03-20T09:00:00Z"]} == found.fields
    assert [] == await repaired(world)
    assert "2026-03-14T09:00:00Z" == (world.visit() or {})["time_scheduled"]


async def test_another_contact_is_told_and_left_to_whoever_changed_it(world: World) -> None:
    await world.apply(booked("1"))
    world.harness.inject_faults(contact_can_change=True)
    by_hand(world, "PUT", "standard-1", contact_id=DOCUMENTED_CONTACT)

    [found] = await differences(world)

    assert ["contact_id"] == list(found.fields)
    assert [] == await repaired(world)
    assert [DOCUMENTED_CONTACT] == [visit["contact_id"] for visit in world.harness.visits()]


async def test_of_two_visits_under_one_name_the_second_goes(world: World) -> None:
    await world.apply(booked("1"))
    [first] = world.harness.visits()
    second = made_by_hand(world, external_id="standard-1")

    [found] = await differences(world)

    assert ("duplicate", [first["id"], second["id"]]) == (found.kind, found.remote_ids)
    assert [] == await repaired(world)
    assert [first["id"]] == [visit["id"] for visit in world.harness.visits()]


async def test_two_ids_of_one_visit_that_both_stand_are_one_too_many(world: World) -> None:
    await world.apply(booked("1"), change("2", 2, previous_visit_id="1", time_scheduled=hour(12)))
    made_by_hand(world, external_id="standard-2")

    assert [Difference("duplicate", "main", "standard-2", of("1"))] == await differences(world)
    assert [] == await repaired(world)
    assert ["standard-1"] == names(world)


async def test_a_visit_that_was_cancelled_before_it_was_made_should_not_stand(world: World) -> None:
    await world.apply(booked("1"), cancelled("1"))
    made_by_hand(world, external_id="standard-1", time_scheduled="2026-03-14T09:00:00Z")

    [found] = await differences(world)

    assert ["2026-03-14T08:00:00Z", None] == found.fields["date_cancelled"]
    assert [] == await repaired(world)


async def test_a_young_visit_of_our_name_that_nobody_heard_of_is_extra_and_never_touched(world: World) -> None:
    made_by_hand(world, external_id="standard-9")

    assert [Difference("unexpected", "main", "standard-9")] == await differences(world)
    assert ["unexpected"] == [found.kind for found in await repaired(world)]
    assert ["standard-9"] == names(world)


async def test_an_old_visit_that_was_forgotten_is_unknown_and_no_difference(world: World) -> None:
    made_by_hand(world, external_id="standard-9")
    listed = world.harness.visits()
    world.transport.before = answers(lambda page: {"visits": [{**listed[0], "created_at": "2024-01-01T00:00:00Z"}]})

    audit = audit_of(world)

    assert [] == [found async for found in audit.differences()]
    assert {"seen": 1, "unknown": 1} == audit.progress.counts


async def test_what_is_being_worked_on_is_not_compared(world: World) -> None:
    await world.apply(booked("1"))
    await world.accept(change(version=2, time_scheduled=hour(20)))
    by_hand(world, "PUT", "standard-1", amount_collected="3.00")

    audit = audit_of(world)

    assert [] == [found async for found in audit.differences()]
    assert 1 == audit.progress.counts["in_progress"]


async def test_another_customer_since_is_a_new_visit_and_no_difference(world: World) -> None:
    await world.apply(booked("1"))
    await world.apply(change(version=5, contact=BOB))

    assert [] == await differences(world)


# -- page by page ----------------------------------------------------------------------------------------------------


def answers(page: Callable[[int], dict[str, Any]]) -> Callable[[httpx.Request], httpx.Response | None]:
    """The list as somebody else tells it."""

    def answer(request: httpx.Request) -> httpx.Response | None:
        if request.method == "GET" and request.url.path.endswith("/visits"):
            return httpx.Response(200, json=page(int(request.url.params["page"])))
        return None

    return answer


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three a page; nobody waits long."""
    monkeypatch.setattr(app.operators.drift_audit, "PAGE_SIZE", 3)
    monkeypatch.setattr(app.operators.drift_audit, "RETRY_DELAY_S", 0.01)


@pytest.mark.usefixtures("small")
async def test_pages_that_shift_make_neither_doubles_nor_gaps(world: World) -> None:
    """Newest first: while it reads, others make a visit, and others delete one that it has seen."""
    await world.apply(*[booked(str(number)) for number in range(8)])
    newest_first = world.harness.visits()[::-1]

    def page(number: int) -> dict[str, Any]:
        if number == 2:
            newest_first.insert(0, {"id": 99, "external_id": "of-somebody-else"})  # one is seen twice
        if number == 3:
            del newest_first[:2]  # two are on no page
        part = newest_first[(number - 1) * 3 : number * 3]
        return {"visits": part, "pagination": {"total_pages": 3}}

    world.transport.before = answers(page)

    assert [] == await differences(world)


@pytest.mark.usefixtures("small")
async def test_broken_off_it_goes_on_after_the_last_page(world: World) -> None:
    await world.apply(*[booked(str(number)) for number in range(8)])
    by_hand(world, "PUT", "standard-1", time_scheduled="2026-03-20T09:00:00Z")
    by_hand(world, "PUT", "standard-7", time_scheduled="2026-03-20T09:00:00Z")
    pages: list[int] = []
    found: list[str] = []

    def broken(request: httpx.Request) -> httpx.Response | None:
        pages.append(int(request.url.params.get("page", 0)))
        return httpx.Response(503) if pages[-1] == 3 and len(pages) < 7 else None

    async def hear(audit: DriftAudit, resume: bool = False) -> None:
        async for one in audit.differences(resume):
            found.append(one.visit)

    world.transport.before = broken
    with pytest.raises(ServerError):
        await hear(audit_of(world))
    audit = audit_of(world)
    await hear(audit, resume=True)

    assert [1, 2, 3, 3, 3, 3, 3] == pages
    assert ["standard-1", "standard-7"] == found
    assert 8 == audit.progress.counts["seen"]


@pytest.mark.usefixtures("small")
async def test_a_finished_audit_leaves_nothing_to_resume(world: World) -> None:
    await world.apply(*[booked(str(number)) for number in range(4)])
    await differences(world)
    world.clear_calls()

    await differences(world, resume=True)

    assert ["GET /visits", "GET /visits"] == world.calls()


@pytest.mark.usefixtures("small")
async def test_the_apis_429_is_heeded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    sleep = asyncio.sleep

    async def slept(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    limited = iter([httpx.Response(429, headers={"retry-after": "7"}), httpx.Response(429)])
    world.transport.before = lambda request: next(limited, None)
    monkeypatch.setattr(app.operators.drift_audit.asyncio, "sleep", slept)

    assert [] == await differences(world)
    assert [7.0, 15.0] == waits


@pytest.mark.usefixtures("small")
async def test_its_calls_stand_in_the_line_of_the_workers(world: World) -> None:
    await world.apply(*[booked(str(number)) for number in range(9)])

    async for _ in audit_of(world, rate=100_000.0).differences():
        pass

    assert await world.redis.command("EXISTS", "bell:rate:main")


# -- as a command ----------------------------------------------------------------------------------------------------


def test_the_command_tells_repairs_and_then_is_content(harness: Harness) -> None:
    harness.start_web()
    harness.start_worker()
    for number in range(3):
        contact = {"email": f"ada{number}@example.com", "first_name": "Ada", "last_name": "Lovelace"}
        harness.send("visit.created", f"A-{number}", contact=contact, time_scheduled="2026-03-14T16:00:00Z")
    wait_until(lambda: len(harness.visits()) == 3)
    wait_until(lambda: harness.doorbell("audit").returncode == 0)
    harness.http.delete(f"{harness.env['VISITS_API_URL']}/visits/standard-A-1", headers=TOKEN).raise_for_status()

    told = harness.doorbell("audit", "--json")
    [row] = [json.loads(line) for line in told.stdout.splitlines()]
    mended = harness.doorbell("audit", "--repair")
    wait_until(lambda: harness.visit("standard-A-1"))

    assert (3, "missing", "standard-A-1", False) == (told.returncode, row["kind"], row["visit"], row["repaired"])
    assert "3 visits" not in told.stderr
    assert (0, True) == (mended.returncode, "requeued: 1" in mended.stderr)
    assert 0 == wait_until(lambda: (ran := harness.doorbell("audit")).returncode == 0 and [ran])[0].returncode
    assert "Lovelace" not in told.stdout + told.stderr + mended.stdout


@pytest.mark.parametrize(
    ("status", "options", "env"),
    [
        (0, [], {}),
        (2, ["--rate", "0"], {}),
        (4, [], {"VISITS_API_URL": "http://127.0.0.1:1/api/v1"}),
        (5, ["--account", "nobody"], {}),
    ],
)
@pytest.mark.usefixtures("small")
def test_how_it_ends_says_how_it_went(harness: Harness, status: int, options: list[str], env: dict[str, str]) -> None:
    ran = harness.doorbell("audit", *options, **env)

    assert status == ran.returncode, ran.stderr
