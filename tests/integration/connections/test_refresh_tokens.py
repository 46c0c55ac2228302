"""Tools whose access tokens expire: a connection uses each refresh token once, and stores the next one before."""

from dataclasses import replace

import pytest

from app.connections.connector import Connector
from app.ledger.redis import Redis
from app.vendors.oauth import CLIENT_ID, CLIENT_SECRET, REFRESH_TOKEN, OAuthTokens
from app.visits.client import VisitsApiError
from tests.support.vendors import ConnectedTool, connected_tool

TOOLS = ("savvycal", "servicem8")


def tokens_of(tool: ConnectedTool) -> OAuthTokens:
    tokens = tool.vendor.tokens  # type: ignore[attr-defined]
    assert isinstance(tokens, OAuthTokens)
    return tokens


def with_app(tool: ConnectedTool) -> ConnectedTool:
    """Return the tool with a hook that has the credentials of an app, and no token of its own."""
    credentials = {"CLIENT_ID": CLIENT_ID, "CLIENT_SECRET": CLIENT_SECRET, "REFRESH_TOKEN": REFRESH_TOKEN}
    settings = tool.hook.settings.model_copy(update={"credentials": credentials})
    return replace(tool, hook=replace(tool.hook, settings=settings))


@pytest.mark.parametrize("name", TOOLS)
async def test_an_app_connects_and_stays_connected_when_its_token_expires(
    redis: Redis, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.connections.tokens.MIN_REPLACEABLE_AGE_S", 0)
    async with connected_tool(name, redis) as plain:
        tool = with_app(plain)
        first = await tool.reconcile(is_secret_new=True)
        tokens_of(tool).expire()

        again = await tool.reconcile()

        assert {each.id for each in first.created} == {each.id for each in again.adopted}
        assert REFRESH_TOKEN not in tokens_of(tool).refresh_tokens


@pytest.mark.parametrize("name", TOOLS)
async def test_a_revoked_app_is_refused(redis: Redis, name: str) -> None:
    async with connected_tool(name, redis) as plain:
        tool = with_app(plain)
        tokens_of(tool).refresh_tokens.clear()

        with pytest.raises(VisitsApiError) as refused:
            await Connector(tool.context, tool.hook).account()

        assert refused.value.status in (400, 401)
