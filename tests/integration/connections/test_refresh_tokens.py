"""Tools whose access tokens expire: a connection uses each refresh token once, and stores the next one before."""

from dataclasses import replace
from typing import Any

import pytest

from app.connections.connect import Connections, ConnectRequest
from app.connections.connector import Connector
from app.connections.context import ToolContext
from app.connections.stored_hooks import StoredHooks
from app.connections.tokens import TokensUnreadable
from app.ledger.redis import Redis
from app.operators.actions import Actions, Actor
from app.visits.client import VisitsApiError
from tests.support.oauth import oauth_of
from tests.support.vendors import ConnectedTool, connected_tool

TOOLS = ("savvycal", "servicem8")


def with_app(tool: ConnectedTool) -> ConnectedTool:
    """Return the tool with a hook that has the credentials of an app, and no token of its own."""
    server = oauth_of(tool.vendor)
    credentials = {
        "CLIENT_ID": server.client_id,
        "CLIENT_SECRET": server.client_secret,
        "REFRESH_TOKEN": server.consent(),
    }
    settings = tool.hook.settings.model_copy(update={"credentials": credentials})
    return replace(tool, hook=replace(tool.hook, settings=settings))


@pytest.mark.parametrize("name", TOOLS)
async def test_an_app_connects_and_stays_connected_when_its_token_expires(
    redis: Redis, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.connections.tokens.MIN_REPLACEABLE_AGE_S", 0)
    async with connected_tool(name, redis) as plain:
        tool = with_app(plain)
        oauth_of(tool.vendor).rotates = True
        first_refresh_token = tool.hook.settings.credentials["REFRESH_TOKEN"]
        first = await tool.ensure_subscriptions(is_secret_new=True)
        oauth_of(tool.vendor).expire()

        again = await tool.ensure_subscriptions()

        assert {each.id for each in first.created} == {each.id for each in again.adopted}
        assert first_refresh_token not in oauth_of(tool.vendor).grants[0].refresh_tokens


@pytest.mark.parametrize("name", TOOLS)
async def test_a_revoked_app_is_refused(redis: Redis, name: str) -> None:
    async with connected_tool(name, redis) as plain:
        tool = with_app(plain)
        oauth_of(tool.vendor).revoke()

        with pytest.raises(VisitsApiError) as refused:
            await Connector(tool.context, tool.hook).account()

        assert refused.value.status in (400, 401)


def connections_of(tool: ConnectedTool, **changes: Any) -> tuple[ToolContext, Connections]:
    """Return the context and the connections of a process, whose environment has the hook of the tool."""
    environment = {"environment_hooks": {tool.hook.name: tool.hook.settings}}
    settings = tool.context.settings.model_copy(update=environment | changes).with_stored_hooks({})
    context = replace(tool.context, settings=settings)
    actions = Actions(context.ledger, context.settings, Actor("ada", "operator"))
    return context, Connections(context, StoredHooks(context.ledger.redis, context.settings), actions)


async def test_a_person_who_connects_again_replaces_tokens_whose_key_is_lost(redis: Redis) -> None:
    async with connected_tool("servicem8", redis) as plain:
        await with_app(plain).ensure_subscriptions(is_secret_new=True)
        tool = with_app(plain)  # with a refresh token of its own
        context, connections = connections_of(tool, secret_key=["the-only-key-of-32-characters-now"])

        with pytest.raises(TokensUnreadable):
            await Connector(context, tool.hook).account()
        connected = await connections.connect(ConnectRequest("servicem8", "servicem8"))

        assert connected.subscribed
        assert await Connector(context, tool.hook).account()


async def test_another_secret_key_costs_a_tool_without_log_in_one_more_exchange(redis: Redis) -> None:
    async with connected_tool("nexhealth", redis) as tool:
        await tool.ensure_subscriptions(is_secret_new=True)
        assert await redis.command("GET", "bell:token:nexhealth")
        context, _ = connections_of(tool, secret_key=["the-only-key-of-32-characters-now"])

        again = await Connector(context, tool.hook).ensure_subscriptions()

        assert again.adopted


async def test_a_person_who_connects_again_is_not_refused_because_of_an_earlier_rejection(redis: Redis) -> None:
    """The app was not allowed at the tool, and now it is."""
    async with connected_tool("servicem8", redis) as plain:
        tool = with_app(plain)
        _, connections = connections_of(tool)
        server = oauth_of(tool.vendor)
        grants, server.grants = server.grants, []
        with pytest.raises(VisitsApiError):
            await connections.connect(ConnectRequest("servicem8", "servicem8"))
        server.grants = grants

        assert (await connections.connect(ConnectRequest("servicem8", "servicem8"))).subscribed
