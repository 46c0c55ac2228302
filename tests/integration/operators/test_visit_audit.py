"""The audit: differences between the Visits API and the merged changes, and their repair."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

import app.operators.visit_audit
from app.ledger.ledger import Ledger
from app.ledger.locks import exclusive
from app.ledger.moves import Mark, save_mark
from app.operators.visit_audit import AccountMoves, Difference, VisitAudit
from app.visits.client import ServerError
from tests.support.harness import Harness, wait_until
from tests.support.ledger import visit_task
from tests.support.visit_worker import (
    API_HEADERS,
    BOB,
    DOCUMENTED_CONTACT,
    World,
    booked,
    cancelled,
    change,
    create_in_api,
    external_ids,
)
from tests.support.visit_worker import at as hour


def audit_of(world: World, **options: Any) -> VisitAudit:
    return VisitAudit(world.ledger, world.context.settings, world.context.http, "main", **options)


async def differences(world: World, **options: Any) -> list[Difference]:
    return [difference async for difference in audit_of(world).differences(**options)]


async def repair_and_audit(world: World) -> list[Difference]:
    """Repair all differences, then audit again."""
    audit = audit_of(world)
    async for difference in audit.differences():
        if difference.is_repairable:
            await audit.repair(difference)
    await world.run()
    return await differences(world)


def change_in_api(world: World, method: str, name: str | int, **fields: str) -> None:
    """Change the visit in the API without Doorbell."""
    url = f"{world.harness.env['VISITS_API_URL']}/visits/{name}"
    world.harness.http.request(method, url, data=fields, headers=API_HEADERS).raise_for_status()


async def test_an_audit_without_differences_counts_matching_and_foreign_visits(world: World) -> None:
    await world.apply(booked("1"), booked("2"), change("2", 2, time_completed=hour(11)), booked("3"), cancelled("3"))
    await world.apply(booked("4"), change("5", 2, previous_visit_id="4", time_scheduled=hour(12)))
    create_in_api(world, external_id="of-somebody-else")
    create_in_api(world)

    audit = audit_of(world)

    assert [] == [difference async for difference in audit.differences()]
    assert {"seen": 5, "matching": 3, "foreign": 2} == audit.progress.counts


async def test_a_deleted_visit_is_missing_and_created_again(world: World) -> None:
    await world.apply(booked("1"), booked("2"))
    change_in_api(world, "DELETE", "standard-1")

    assert [Difference("missing", "main", "standard-1", visit_task("1"))] == await differences(world)
    assert [] == await repair_and_audit(world)
    assert ["standard-1", "standard-2"] == external_ids(world)


async def test_a_visit_created_after_the_last_audit_is_not_a_duplicate(world: World) -> None:
    await world.apply(booked("1"))
    assert [] == await differences(world)
    change_in_api(world, "DELETE", "standard-1")

    assert [] == await repair_and_audit(world)


async def test_a_field_that_was_changed_in_the_api_is_different_and_repaired(world: World) -> None:
    await world.apply(booked("1"))
    change_in_api(world, "PUT", "standard-1", time_scheduled="2026-03-20T09:00:00Z", amount_collected="3.00")

    [difference] = await differences(world)

    assert ("different", "standard-1") == (difference.kind, difference.visit)
    # No change has an amount.
    assert {"time_scheduled": ["2026-03-14T09:00:00Z", "2026-03-20T09:00:00Z"]} == difference.fields
    assert [] == await repair_and_audit(world)
    assert "2026-03-14T09:00:00Z" == (world.visit() or {})["time_scheduled"]


async def test_another_contact_is_a_difference_that_a_repair_keeps(world: World) -> None:
    await world.apply(booked("1"))
    world.harness.inject_faults(contact_can_change=True)
    change_in_api(world, "PUT", "standard-1", contact_id=DOCUMENTED_CONTACT)

    [difference] = await differences(world)

    assert ["contact_id"] == list(difference.fields)
    assert [] == await repair_and_audit(world)
    assert [DOCUMENTED_CONTACT] == [visit["contact_id"] for visit in world.harness.visits()]


async def test_the_second_visit_with_an_external_id_is_deleted(world: World) -> None:
    await world.apply(booked("1"))
    [first] = world.harness.visits()
    second = create_in_api(world, external_id="standard-1")

    [difference] = await differences(world)

    assert ("duplicate", [first["id"], second["id"]]) == (difference.kind, difference.remote_ids)
    assert [] == await repair_and_audit(world)
    assert [first["id"]] == [visit["id"] for visit in world.harness.visits()]


async def test_a_visit_with_the_id_of_an_alias_is_a_duplicate(world: World) -> None:
    await world.apply(booked("1"), change("2", 2, previous_visit_id="1", time_scheduled=hour(12)))
    create_in_api(world, external_id="standard-2")

    assert [Difference("duplicate", "main", "standard-2", visit_task("1"))] == await differences(world)
    assert [] == await repair_and_audit(world)
    assert ["standard-1"] == external_ids(world)


async def test_a_visit_that_was_cancelled_before_it_was_created_is_different(world: World) -> None:
    await world.apply(booked("1"), cancelled("1"))
    create_in_api(world, external_id="standard-1", time_scheduled="2026-03-14T09:00:00Z")

    [difference] = await differences(world)

    assert ["2026-03-14T08:00:00Z", None] == difference.fields["date_cancelled"]
    assert [] == await repair_and_audit(world)


async def test_a_new_visit_without_changes_is_unexpected_and_kept(world: World) -> None:
    create_in_api(world, external_id="standard-9")

    assert [Difference("unexpected", "main", "standard-9")] == await differences(world)
    assert ["unexpected"] == [difference.kind for difference in await repair_and_audit(world)]
    assert ["standard-9"] == external_ids(world)


async def test_an_old_visit_without_changes_is_unknown(world: World) -> None:
    create_in_api(world, external_id="standard-9")
    visits = world.harness.visits()
    world.transport.before = list_response(
        lambda page: {"visits": [{**visits[0], "created_at": "2024-01-01T00:00:00Z"}]}
    )

    audit = audit_of(world)

    assert [] == [difference async for difference in audit.differences()]
    assert {"seen": 1, "unknown": 1} == audit.progress.counts


async def test_an_account_has_one_audit_at_a_time(world: World, ledger: Ledger) -> None:
    """Two would take the marks of the other for their own: each difference would be reported twice."""
    await world.apply(booked("1"))

    async with exclusive(ledger, audit_of(world).lock):
        during = world.harness.doorbell("audit")
    after = world.harness.doorbell("audit")

    assert (3, 0) == (during.returncode, after.returncode)
    assert "main: another audit is running" in during.stderr


async def test_the_audit_after_a_failover_does_not_disturb_another_audit(world: World) -> None:
    await world.apply(*[booked(str(number)) for number in range(4)])
    change_in_api(world, "PUT", "standard-1", time_scheduled="2026-03-20T09:00:00Z")
    audit, reported = audit_of(world), list[str]()

    async for difference in audit.differences():
        reported.append(difference.visit)
        async for _ in audit_of(world).recent_differences(datetime(2026, 1, 1, tzinfo=UTC), 5):
            pass

    assert (["standard-1"], 4) == (reported, audit.progress.counts["seen"])


async def test_a_visit_in_progress_is_not_compared(world: World) -> None:
    await world.apply(booked("1"))
    await world.accept(change(version=2, time_scheduled=hour(20)))
    change_in_api(world, "PUT", "standard-1", amount_collected="3.00")

    audit = audit_of(world)

    assert [] == [difference async for difference in audit.differences()]
    assert 1 == audit.progress.counts["in_progress"]


async def test_a_new_customer_is_not_a_difference(world: World) -> None:
    await world.apply(booked("1"))
    await world.apply(change(version=5, contact=BOB))

    assert [] == await differences(world)


# -- pages --


def list_response(page: Callable[[int], dict[str, Any]]) -> Callable[[httpx.Request], httpx.Response | None]:
    """Replace the API's list of visits by the result of `page`."""

    def respond(request: httpx.Request) -> httpx.Response | None:
        if request.method == "GET" and request.url.path.endswith("/visits"):
            return httpx.Response(200, json=page(int(request.url.params["page"])))
        return None

    return respond


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set three visits per page, and short delays."""
    monkeypatch.setattr(app.operators.visit_audit, "PAGE_SIZE", 3)
    monkeypatch.setattr(app.operators.visit_audit, "RETRY_DELAY_S", 0.01)


@pytest.mark.usefixtures("small_pages")
async def test_shifting_pages_cause_no_differences(world: World) -> None:
    """A visit is created and two are deleted during the audit. The list is sorted newest first."""
    await world.apply(*[booked(str(number)) for number in range(8)])
    newest_first = world.harness.visits()[::-1]

    def page(number: int) -> dict[str, Any]:
        if number == 2:
            newest_first.insert(0, {"id": 99, "external_id": "of-somebody-else"})  # page 2 repeats a visit of page 1
        if number == 3:
            del newest_first[:2]  # two visits are on no page
        part = newest_first[(number - 1) * 3 : number * 3]
        return {"visits": part, "pagination": {"total_pages": 3}}

    world.transport.before = list_response(page)

    assert [] == await differences(world)


@pytest.mark.usefixtures("small_pages")
async def test_an_interrupted_audit_resumes_after_the_last_page(world: World) -> None:
    await world.apply(*[booked(str(number)) for number in range(8)])
    change_in_api(world, "PUT", "standard-1", time_scheduled="2026-03-20T09:00:00Z")
    change_in_api(world, "PUT", "standard-7", time_scheduled="2026-03-20T09:00:00Z")
    pages: list[int] = []
    changed_visits: list[str] = []

    def failing_transport(request: httpx.Request) -> httpx.Response | None:
        pages.append(int(request.url.params.get("page", 0)))
        return httpx.Response(503) if pages[-1] == 3 and len(pages) < 7 else None

    async def collect(audit: VisitAudit, resume: bool = False) -> None:
        async for difference in audit.differences(resume):
            changed_visits.append(difference.visit)

    world.transport.before = failing_transport
    with pytest.raises(ServerError):
        await collect(audit_of(world))
    audit = audit_of(world)
    await collect(audit, resume=True)

    assert [1, 2, 3, 3, 3, 3, 3] == pages
    assert ["standard-1", "standard-7"] == changed_visits
    assert 8 == audit.progress.counts["seen"]


@pytest.mark.usefixtures("small_pages")
async def test_a_resumed_audit_reports_the_differences_of_the_first_part_too(world: World) -> None:
    await world.apply(*[booked(str(number)) for number in range(4)])
    for name in ("standard-0", "standard-1"):
        change_in_api(world, "PUT", name, time_scheduled="2026-03-20T09:00:00Z")
    audit, reported = audit_of(world), list[Difference]()
    world.transport.before = lambda request: (
        httpx.Response(503) if request.url.params.get("page") == "2" and reported else None
    )

    async def repair_the_first() -> None:
        async for difference in audit.differences():
            reported.append(difference)
            if difference.visit == "standard-0":
                await audit.repair(difference)

    with pytest.raises(ServerError):
        await repair_the_first()
    await world.run()

    resumed = world.harness.doorbell("audit", "--resume")

    assert ["standard-0", "standard-1"] == sorted(difference.visit for difference in reported)
    assert (3, "") == (resumed.returncode, resumed.stdout)
    assert "2 different" in resumed.stderr


@pytest.mark.parametrize("method", ["differences", "recent_differences"])
async def test_an_audit_ends_when_its_account_moves(world: World, method: str) -> None:
    """Then the data here is removed, and every visit in the API would be unexpected."""
    await world.apply(*[booked(str(number)) for number in range(3)])
    create_in_api(world, external_id="standard-9")
    create_in_api(world, external_id="standard-8")
    audit, reported = audit_of(world), list[str]()
    options = () if method == "differences" else (datetime(2026, 1, 1, tzinfo=UTC), 5)

    async def move_meanwhile() -> None:
        async for difference in getattr(audit, method)(*options):
            reported.append(difference.visit)
            await save_mark(world.redis, "main", ["standard"], Mark(), Mark("moved", "move-1", "elsewhere"))

    with pytest.raises(AccountMoves):
        await move_meanwhile()

    assert ["standard-9"] == reported
    assert {"unexpected": 1} == {name: count for name, count in audit.progress.counts.items() if name == "unexpected"}


@pytest.mark.usefixtures("small_pages")
async def test_a_finished_audit_has_no_progress_to_resume(world: World) -> None:
    await world.apply(*[booked(str(number)) for number in range(4)])
    await differences(world)
    world.clear_calls()

    await differences(world, resume=True)

    assert ["GET /visits", "GET /visits"] == world.calls()


@pytest.mark.usefixtures("small_pages")
async def test_an_audit_waits_after_429(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    sleep = asyncio.sleep

    async def record_sleep(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    limited = iter([httpx.Response(429, headers={"retry-after": "7"}), httpx.Response(429)])
    world.transport.before = lambda request: next(limited, None)
    monkeypatch.setattr(app.operators.visit_audit.asyncio, "sleep", record_sleep)

    assert [] == await differences(world)
    assert [7.0, 15.0] == waits


@pytest.mark.usefixtures("small_pages")
async def test_an_audit_uses_the_rate_limit_of_the_workers(world: World) -> None:
    await world.apply(*[booked(str(number)) for number in range(9)])

    async for _ in audit_of(world, rate=100_000.0).differences():
        pass

    assert await world.redis.command("EXISTS", "bell:rate:main")


# -- command --


def test_the_command_reports_and_repairs_differences(harness: Harness) -> None:
    harness.start_web()
    harness.start_worker()
    for number in range(3):
        contact = {"email": f"ada{number}@example.com", "first_name": "Ada", "last_name": "Lovelace"}
        harness.send("visit.created", f"A-{number}", contact=contact, time_scheduled="2026-03-14T16:00:00Z")
    wait_until(lambda: len(harness.visits()) == 3)
    wait_until(lambda: harness.doorbell("audit").returncode == 0)
    harness.http.delete(f"{harness.env['VISITS_API_URL']}/visits/standard-A-1", headers=API_HEADERS).raise_for_status()

    audited = harness.doorbell("audit", "--json")
    [row] = [json.loads(line) for line in audited.stdout.splitlines()]
    repaired = harness.doorbell("audit", "--repair")
    wait_until(lambda: harness.visit("standard-A-1"))

    assert (3, "missing", "standard-A-1", False) == (audited.returncode, row["kind"], row["visit"], row["repaired"])
    assert "3 visits" not in audited.stderr
    assert (0, True) == (repaired.returncode, "requeued: 1" in repaired.stderr)
    [activity] = [
        json.loads(line) for line in harness.doorbell("activity", "standard-A-1", "--json").stdout.splitlines()
    ]
    assert "repaired visit" == activity["action"]
    assert 0 == wait_until(lambda: (result := harness.doorbell("audit")).returncode == 0 and [result])[0].returncode
    assert "Lovelace" not in audited.stdout + audited.stderr + repaired.stdout


@pytest.mark.parametrize(
    ("status", "options", "env"),
    [
        (0, [], {}),
        (2, ["--rate", "0"], {}),
        (4, [], {"VISITS_API_URL": "http://127.0.0.1:1/api/v1"}),
        (5, ["--account", "nobody"], {}),
    ],
)
@pytest.mark.usefixtures("small_pages")
def test_the_exit_status_of_the_command(harness: Harness, status: int, options: list[str], env: dict[str, str]) -> None:
    result = harness.doorbell("audit", *options, **env)

    assert status == result.returncode, result.stderr
