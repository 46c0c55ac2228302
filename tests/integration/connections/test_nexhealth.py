"""NexHealth: an endpoint gets its events one by one, and an API key may reach several practices."""

from typing import Any

import pytest

from app.ledger.redis import Redis
from app.webhooks.payload import Payload
from app.webhooks.registry import load_sources
from app.webhooks.subscription import ApiResponse, Refused
from tests.support.vendors import connected_tool

SUBSCRIPTION = load_sources()["nexhealth"].subscription
assert SUBSCRIPTION
PRACTICE: dict[str, Any] = {"id": 11, "subdomain": "north", "name": "North", "locations": [{"id": 21}]}
ACCOUNT = Payload({"data": [PRACTICE]})


def event(institution_id: int, name: str, is_active: bool = True) -> dict[str, Any]:
    return {"id": 1, "institution_id": institution_id, "event": name, "active": is_active}


async def test_an_endpoint_that_lacks_an_event_is_replaced(redis: Redis) -> None:
    async with connected_tool("nexhealth", redis) as tool:
        await tool.ensure_subscriptions()
        [old] = tool.vendor.subscriptions.values()
        old.events = old.events[:1]

        await tool.ensure_subscriptions()

        [new] = tool.vendor.subscriptions.values()
        assert (new.id != old.id, 3) == (True, len(new.events))
        assert new.secret in tool.hook.settings.secrets
        assert f"{tool.url}?subdomain=example-dental" == new.url


def test_inactive_events_do_not_count_and_endpoints_of_others_stay() -> None:
    assert SUBSCRIPTION
    assert SUBSCRIPTION.read_events
    partly = ApiResponse({"data": [event(11, "appointment_created"), event(11, "appointment_updated", False)]})
    shared = ApiResponse({"data": [event(11, "appointment_created"), event(12, "appointment_created")]})

    assert frozenset({"appointment_created"}) == SUBSCRIPTION.read_events(partly, ACCOUNT)
    assert SUBSCRIPTION.read_events(shared, ACCOUNT) is None


def test_a_key_of_several_practices_needs_a_subdomain() -> None:
    assert SUBSCRIPTION
    with pytest.raises(Refused, match=r"several practices \(north, south\): add the credential SUBDOMAIN"):
        SUBSCRIPTION.check_account(Payload({"data": [PRACTICE, {**PRACTICE, "subdomain": "south"}]}))
    assert ["API_KEY"] == load_sources()["nexhealth"].definition.missing_credentials({})
