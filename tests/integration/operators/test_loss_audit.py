"""The audit after a restart or failover of Redis: visits that the Visits API has and the ledger has lost."""

import asyncio

import httpx
import pytest

import app.operators.loss_audit
from app.ledger.losses import Losses
from app.ledger.moves import Mark, save_mark
from app.operators.activity_log import ActivityLog
from app.operators.doctor import local_checks
from app.operators.filter import ActivityFilter
from app.operators.loss_audit import LossAudit
from app.operators.overview import load_overview
from app.visits.change import Contact
from tests.support.visit_worker import DOCUMENTED_CONTACT, World, booked, create_in_api, external_ids


def audit_of(world: World) -> LossAudit:
    return LossAudit(world.ledger, world.context.settings, world.context.http, after_s=0)


async def change_server(world: World) -> LossAudit:
    """Let Redis look like another server than before, and return the audit of a worker that has noticed it."""
    await world.redis.command("SET", "bell:server", "another")
    audit = audit_of(world)
    await audit.step()
    return audit


async def lost_visits(world: World) -> list[str]:
    return [visit.external_id for visit in await Losses(world.redis).lost_visits()]


async def test_the_first_server_and_the_same_server_are_not_audited(world: World) -> None:
    create_in_api(world, external_id="standard-9")
    for _ in range(2):
        for _ in range(3):
            await audit_of(world).step()

    assert [] == world.calls()
    assert await Losses(world.redis).load() is None


async def test_a_visit_without_changes_is_reported_until_its_webhook_is_sent_again(world: World) -> None:
    await world.apply(booked("1"))
    create_in_api(world, external_id="standard-9")
    create_in_api(world, external_id="of-somebody-else")

    await (await change_server(world)).step()

    assert ["standard-9"] == await lost_visits(world)
    problems = {each.kind: each for each in (await load_overview(world.ledger, world.context.settings)).problems()}
    assert "the changes of 1 visit in Review Rover" in problems["lost"].sentence
    [check] = [
        check async for check in local_checks(world.redis, world.context.settings) if check.name == "redis.losses"
    ]
    assert ("warn", True) == (check.result, "standard-9" in check.detail)
    [activity] = (await ActivityLog(world.ledger).newest(ActivityFilter())).rows
    assert ("Doorbell", "noticed lost visits", "standard-9") == (activity.actor, activity.action, activity.target)

    world.clear_calls()
    await world.apply(booked("9", contact=Contact(id=DOCUMENTED_CONTACT)))
    assert [] == await lost_visits(world)
    assert "POST /visits" not in world.calls()
    assert ["of-somebody-else", "standard-1", "standard-9"] == external_ids(world)


async def test_an_account_that_moved_to_another_cell_is_not_audited(world: World) -> None:
    create_in_api(world, external_id="standard-9")
    await save_mark(world.redis, "main", ["standard"], Mark(), Mark("moved", "move-1", "elsewhere"))
    world.clear_calls()

    await (await change_server(world)).step()

    assert ([], []) == (await lost_visits(world), world.calls())


async def test_one_worker_audits_once(world: World) -> None:
    first, second = await change_server(world), audit_of(world)
    await asyncio.gather(*(audit.step() for audit in (first, second, first, second)))

    assert ["GET /visits"] == world.calls()


OLD, NEW = "2024-01-01T00:00:00Z", "2099-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("created", "lost", "pages"),
    [
        ([OLD, OLD, OLD, OLD, OLD, NEW, NEW], ["standard-6", "standard-5"], ["1", "4", "3", "2"]),
        ([NEW, NEW, NEW, OLD, OLD, OLD, OLD], ["standard-0", "standard-1", "standard-2"], ["1", "2", "3"]),
    ],
    ids=["oldest-first", "newest-first"],
)
async def test_old_visits_are_not_read(
    world: World, monkeypatch: pytest.MonkeyPatch, created: list[str], lost: list[str], pages: list[str]
) -> None:
    """Pages have two visits. The first tells the order of the list, and a page with only old ones ends the audit."""
    monkeypatch.setattr("app.operators.visit_audit.PAGE_SIZE", 2)
    visits = [{"id": n, "external_id": f"standard-{n}", "created_at": at} for n, at in enumerate(created)]
    requested = []

    def list_page(request: httpx.Request) -> httpx.Response:
        requested.append(request.url.params["page"])
        start = 2 * (int(requested[-1]) - 1)
        total_pages = -(-len(visits) // 2)
        return httpx.Response(
            200, json={"visits": visits[start : start + 2], "pagination": {"total_pages": total_pages}}
        )

    world.transport.before = list_page
    await (await change_server(world)).step()

    assert lost == await lost_visits(world)
    assert pages == requested


async def test_the_number_of_calls_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.operators.visit_audit.PAGE_SIZE", 2)
    monkeypatch.setattr(app.operators.loss_audit, "MAX_PAGES", 2)
    for number in range(9):
        create_in_api(world, external_id=f"standard-{number}")

    await (await change_server(world)).step()

    assert [f"standard-{number}" for number in range(4)] == await lost_visits(world)
    loss = await Losses(world.redis).load()
    assert loss
    assert (False, 2) == (loss.is_complete, len(world.calls()))


async def test_the_audit_is_tried_again_after_an_outage_of_the_api(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.operators.visit_audit.RETRY_DELAY_S", 0)
    create_in_api(world, external_id="standard-9")
    audit = await change_server(world)
    world.harness.inject_faults(error_share=1, error_status=503)
    await audit.step()
    loss = await Losses(world.redis).load()
    assert loss
    assert (0, True) == (loss.audited_at_ms, "503" in loss.problem)

    world.harness.clear_faults()
    await world.redis.command("DEL", "bell:loss:lock")  # a minute later
    await audit.step()

    assert ["standard-9"] == await lost_visits(world)
