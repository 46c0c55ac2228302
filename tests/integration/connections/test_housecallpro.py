"""Housecall Pro: a company's own key cannot subscribe, and jobs are read in the order of their last change."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from app.connections.connect import Connections, ConnectRequest
from app.connections.stored_hooks import StoredHooks
from app.ledger.redis import Redis
from app.operators.actions import Actions, Actor
from app.webhooks.delivery import Event
from app.webhooks.payload import Payload
from app.webhooks.registry import load_sources
from app.webhooks.subscription import Window
from tests.support.listings import changes_of, list_requests, read_page
from tests.support.specimens import events
from tests.support.vendors import connected_tool

NOW = datetime(2026, 9, 21, 14, tzinfo=UTC)


async def test_with_the_key_of_a_company_a_person_sets_up_the_webhooks(redis: Redis) -> None:
    async with connected_tool("housecallpro", redis) as tool:
        tool.vendor.faults = replace(tool.vendor.faults, forbidden=True)
        stored = StoredHooks(redis, tool.context.settings)
        actions = Actions(tool.context.ledger, tool.context.settings, Actor("ada", "console"))
        connections = Connections(tool.context, stored, actions)

        connected = await connections.connect(ConnectRequest("housecallpro", "housecallpro"))
        again = await connections.connect(ConnectRequest("housecallpro", "housecallpro"))

        assert connected.subscribed is None
        assert connected.refusal.startswith("Only applications that Housecall Pro registered")
        assert (True, False) == (connected.is_importing, again.is_importing)
        assert not (await tool.states.get("housecallpro")).is_managed


def job(number: int, changed_ago: timedelta, **fields: Any) -> dict[str, Any]:
    schedule = {"scheduled_start": "2026-09-25T15:00:00Z"}
    changed_at = f"{NOW - changed_ago:%Y-%m-%dT%H:%M:%SZ}"
    return {"id": f"job_{number}", "updated_at": changed_at, "schedule": schedule, "work_status": "scheduled", **fields}


def test_jobs_are_read_until_older_changes_come() -> None:
    window = Window(NOW, NOW + timedelta(days=30), NOW - timedelta(hours=2))
    changed = list_requests("housecallpro", window)[1]
    pages = {"page": 1, "page_size": 1, "total_pages": 3}

    _, after_recent = read_page("housecallpro", changed, {**pages, "jobs": [job(1, timedelta(hours=1))]})
    _, after_older = read_page("housecallpro", changed, {**pages, "jobs": [job(2, timedelta(hours=3))]})

    assert ["2"] == [each.request.params["page"] for each in after_recent]
    assert [] == after_older


def test_a_deleted_job_is_cancelled_and_a_done_one_completed() -> None:
    request = list_requests("housecallpro", Window(NOW, NOW + timedelta(days=30)))[0]
    done = {"work_status": "complete unrated", "work_timestamps": {"completed_at": "2026-09-20T10:00:00Z"}}
    jobs = [job(1, timedelta(hours=1), deleted_at="2026-09-21T12:00:00Z"), job(2, timedelta(hours=1), **done)]

    results, _ = read_page("housecallpro", request, {"page": 1, "total_pages": 1, "jobs": jobs})

    deleted, completed = changes_of(results)
    assert ("cancel", datetime(2026, 9, 21, 12, tzinfo=UTC)) == (deleted.action, deleted.date_cancelled)
    assert datetime(2026, 9, 20, 10, tzinfo=UTC) == completed.time_completed


def test_a_void_clears_the_amount_of_the_job_only_if_the_invoice_was_paid() -> None:
    [paid] = [each for each in events("housecallpro") if each.recorded["name"] == "that invoice is voided"]
    unpaid = paid.recorded["body"] | {
        "invoice": paid.recorded["body"]["invoice"] | {"payments": [], "due_amount": 24500}
    }

    invoice = "invoice_99990000111122223333444455556666"
    assert [invoice, None] == payments_of(paid.recorded["body"])
    assert [invoice] == payments_of(unpaid)


def payments_of(body: Any) -> list[str | None]:
    translated = load_sources()["housecallpro"].translate(Event("housecallpro", Payload(body), NOW))
    assert isinstance(translated, list)
    return [change.payment_id for change in translated]
