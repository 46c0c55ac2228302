"""Jane: each topic has a secret of its own, and an app has one subscription to a topic."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.connections.connect import Connections, ConnectRequest
from app.connections.stored_hooks import StoredHooks
from app.ledger.redis import Redis
from app.operators.actions import Actions, Actor
from app.webhooks.payload import Payload
from app.webhooks.registry import load_sources
from app.webhooks.subscription import Refused, Window
from tests.support.listings import NOW, changes_of, list_requests, read_page
from tests.support.vendors import ConnectedTool, connected_tool

APPOINTMENT: dict[str, Any] = {"id": "a-1", "start_at": "2026-09-25T15:00:00Z", "patient_id": "p-1", "state": "booked"}
PATIENT = {"id": "p-1", "email": "ada@example.com", "first_name": "Ada", "last_name": "Byron"}


@pytest.fixture
async def tool(redis: Redis) -> AsyncIterator[ConnectedTool]:
    async with connected_tool("jane", redis) as tool:
        yield tool


async def test_connecting_again_keeps_the_secrets_of_the_other_topics(tool: ConnectedTool) -> None:
    settings = tool.context.settings
    stored = StoredHooks(tool.context.ledger.redis, settings)
    connections = Connections(tool.context, stored, Actions(tool.context.ledger, settings, Actor("ada", "console")))
    request = ConnectRequest(
        "jane", "clinic", dict(tool.vendor.credentials), settings={"api_url": str(tool.hook.settings.api_url)}
    )
    tool.vendor.registered_url = f"{settings.public_url}/hooks/clinic"
    await connections.connect(request)
    tool.vendor.subscriptions.popitem()

    await connections.connect(request)

    secrets = {each.secret for each in tool.vendor.subscriptions.values()}
    assert 4 == len(secrets)
    assert secrets <= set(settings.hook("clinic").settings.secrets)


async def test_a_topic_that_another_address_gets_is_a_sentence(tool: ConnectedTool) -> None:
    tool.vendor.subscribe("https://other.example.com", ("APPOINTMENT_CANCELLED",), "their secret", is_of_app=True)

    with pytest.raises(Refused, match="Another URL already gets these events"):
        await tool.ensure_subscriptions()


def test_a_page_leads_to_its_patients_and_holds_are_skipped() -> None:
    account = [{"id": "w-1", "clinic_guid": 3451}]
    [request] = list_requests("jane", Window(NOW, NOW), account)
    reserved = {**APPOINTMENT, "id": "a-2", "state": "reserved"}
    no_show = {**APPOINTMENT, "id": "a-3", "state": "no_show", "no_show_at": "2026-09-21T13:00:00Z"}

    _, [patients] = read_page("jane", request, {"items": [APPOINTMENT, reserved, no_show], "hasNextPage": False})
    results, _ = read_page("jane", patients, {"items": [PATIENT], "hasNextPage": False})

    booked, missed = changes_of(results)
    assert "p-1" == patients.request.params["public_id[eq]"]
    assert ("3451-a-1", "3451-a-3") == (booked.visit_id, missed.visit_id)
    assert booked.contact
    assert "ada@example.com" == booked.contact.email
    assert missed.no_show


def test_without_a_webhook_the_clinic_is_unknown() -> None:
    listing = load_sources()["jane"].listing
    assert listing
    with pytest.raises(Refused, match="connect the hook again"):
        listing.start(Window(NOW, NOW), Payload([]))
