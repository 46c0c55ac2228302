"""Jobber shows no list of its webhook endpoints, answers refusals with status 200, and removes cancelled visits."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

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
        await tool.reconcile()

    await tool.reconcile()

    declared = tool.hook.source.subscription
    assert declared
    topics = [event for each in tool.vendor.subscriptions.values() for event in each.events]
    assert sorted(declared.events) == sorted(topics)


async def test_a_missing_scope_is_a_sentence(tool: ConnectedTool) -> None:
    tool.vendor.faults = replace(tool.vendor.faults, forbidden=True)

    with pytest.raises(Refused, match="the app needs the scopes"):
        await tool.reconcile()


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
