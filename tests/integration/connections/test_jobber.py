"""Jobber shows no list of its webhook endpoints, answers refusals with status 200, and removes cancelled visits."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.connections.catch_up import CatchUpRunner, Lister, new_catch_up, start
from app.connections.connect import Connections, ConnectRequest
from app.connections.stored_hooks import StoredHooks
from app.ledger.redis import Redis
from app.operators.actions import Actions, Actor
from app.visits.client import OutcomeUnknown
from app.webhooks.subscription import Refused, Window
from tests.support.vendors import ConnectedTool, connected_tool, listed_changes

NOW = datetime.now(UTC).replace(microsecond=0)
WINDOW = Window(NOW - timedelta(days=1), NOW + timedelta(days=30), NOW - timedelta(days=1))


@pytest.fixture
async def tool(redis: Redis) -> AsyncIterator[ConnectedTool]:
    async with connected_tool("jobber", redis) as tool:
        yield tool


async def test_an_endpoint_whose_creation_was_not_answered_is_adopted(tool: ConnectedTool) -> None:
    tool.vendor.faults = replace(tool.vendor.faults, hang_after=4)
    with pytest.raises(OutcomeUnknown):
        await tool.ensure_subscriptions()

    await tool.ensure_subscriptions()

    declared = tool.hook.source.subscription
    assert declared
    topics = [event for each in tool.vendor.subscriptions.values() for event in each.events]
    assert sorted(declared.events) == sorted(topics)


async def test_a_missing_scope_is_a_sentence(tool: ConnectedTool) -> None:
    tool.vendor.faults = replace(tool.vendor.faults, forbidden=True)

    with pytest.raises(Refused, match="the app needs the scopes"):
        await tool.ensure_subscriptions()


async def test_a_visit_that_was_destroyed_is_cancelled(tool: ConnectedTool) -> None:
    tool.vendor.calendar.book(NOW + timedelta(days=2))
    tool.vendor.calendar.book(NOW + timedelta(days=3))
    earlier = await listed_changes(tool, WINDOW)
    tool.vendor.calendar.cancel(2)
    tool.vendor.faults = replace(tool.vendor.faults, page_size=1)  # what a page lacks is asked for, not cancelled

    later = [change for each in await listed_changes(tool, WINDOW, earlier) for change in each.changes]

    booked, cancelled = (change.visit_id for each in earlier for change in each.changes)
    assert {(booked, "update"), (cancelled, "cancel")} == {(change.visit_id, change.action) for change in later}


async def test_the_client_secret_of_the_app_verifies_its_webhooks(tool: ConnectedTool) -> None:
    settings = tool.context.settings
    stored = StoredHooks(tool.context.ledger.redis, settings)
    connections = Connections(tool.context, stored, Actions(tool.context.ledger, settings, Actor("ada", "console")))
    credentials = {**tool.vendor.credentials, "CLIENT_SECRET": tool.vendor.secret_on_a_page}

    await connections.connect(
        ConnectRequest("jobber", "plumbing", credentials, settings={"api_url": str(tool.hook.settings.api_url)})
    )

    assert (tool.vendor.secret_on_a_page,) == settings.hook("plumbing").settings.secrets


async def test_visits_of_an_earlier_connection_are_not_asked_for(tool: ConnectedTool) -> None:
    """They may belong to another account of Jobber, in which they would be missing."""
    tool.vendor.calendar.book(NOW + timedelta(days=2))
    catch_up = new_catch_up("jobber", NOW, "ada", "operator")
    await start(tool.context, catch_up)
    await CatchUpRunner(tool.context, StoredHooks(tool.context.ledger.redis, tool.context.settings)).run_next()

    async def has_request() -> bool:
        requests = await Lister(tool.context, tool.hook, catch_up).start()
        return any("ids" in request.context for request in requests)

    before = await has_request()
    later_ms = int((NOW + timedelta(hours=1)).timestamp() * 1000)
    await tool.states.save(replace(await tool.states.get("jobber"), connected_at_ms=later_ms))

    assert (True, False) == (before, await has_request())
