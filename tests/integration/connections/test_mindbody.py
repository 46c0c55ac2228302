"""Mindbody's subscriptions need the developer's API key only; its appointments need a log-in, too."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.connections.catch_up import can_list
from app.connections.connect import can_call
from app.connections.tool_api import CredentialsMissing
from app.ledger.redis import Redis
from app.visits.client import Unauthorized
from app.webhooks.subscription import Window
from tests.support.vendors import ConnectedTool, connected_tool, listed_changes

NOW = datetime.now(UTC)
WINDOW = Window(NOW, NOW + timedelta(days=30))


@pytest.fixture
async def tool(redis: Redis) -> AsyncIterator[ConnectedTool]:
    async with connected_tool("mindbody", redis) as tool:
        yield tool


def change_credentials(tool: ConnectedTool, **changes: str | None) -> None:
    credentials = {**tool.vendor.credentials, **changes}
    present = {name: value for name, value in credentials.items() if value is not None}
    tool.hook = replace(tool.hook, settings=tool.hook.settings.model_copy(update={"credentials": present}))


async def test_an_api_key_is_enough_for_subscriptions(tool: ConnectedTool) -> None:
    change_credentials(tool, SITE_ID=None, USERNAME=None, PASSWORD=None)

    subscribed = await tool.ensure_subscriptions(is_secret_new=True)

    assert [True] == [each.is_active for each in subscribed.created]
    assert (True, False) == (can_call(tool.hook), can_list(tool.hook))
    with pytest.raises(CredentialsMissing, match=r"SITE_ID.*USERNAME.*PASSWORD"):
        await listed_changes(tool, WINDOW)


async def test_a_wrong_log_in_lists_nothing(tool: ConnectedTool) -> None:
    change_credentials(tool, PASSWORD="wrong")

    with pytest.raises(Unauthorized):
        await listed_changes(tool, WINDOW)


async def test_a_deactivated_subscription_is_no_subscription(tool: ConnectedTool) -> None:
    """It stays in Mindbody's list for good."""
    first = await tool.ensure_subscriptions(is_secret_new=True)
    await tool.connector().remove()

    again = await tool.ensure_subscriptions()

    assert [each.id for each in again.created] != [each.id for each in first.created]
    assert again.adopted == again.deleted == ()
