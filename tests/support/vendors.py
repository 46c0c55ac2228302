"""Runs a fake tool in the event loop of a test."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from unittest.mock import patch

import uvicorn

from app.connections import turns
from app.connections.connect import Connections, ConnectRequest, healthy_state
from app.connections.connector import Connector, Subscribed, connection_lock
from app.connections.context import ToolContext
from app.connections.listing import ListedChanges, read_pages, translate_record
from app.connections.stored_hooks import StoredHooks
from app.ledger.connection_states import ConnectionStates
from app.ledger.ledger import Ledger
from app.ledger.redis import Redis
from app.operators.actions import Actions, Actor
from app.operators.setup_steps import new_secret
from app.settings.environment import read_environment
from app.settings.model import Hook
from app.vendors.api import create_vendors, load_vendor
from app.vendors.vendor import Vendor
from app.visits.client import http_client
from app.webhooks.registry import load_sources
from app.webhooks.subscription import ApiResponse, Window

SECRET_KEY = "a-key-of-32-characters-for-tests-0"


@asynccontextmanager
async def serve_vendor(name: str) -> AsyncIterator[tuple[Vendor, str]]:
    """Serve the fake tool, and return it with the URL of its API."""
    vendor = load_vendor(name)
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # a lost response is logged with a traceback
    config = uvicorn.Config(create_vendors([vendor]), host="127.0.0.1", port=0, log_config=None, access_log=False)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  uvicorn has no event for it
        await asyncio.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with patch.object(turns, "ROUND_S", None):  # a test waits for the end of the steps that it starts
            yield vendor, f"http://127.0.0.1:{port}/{name}{vendor.api_path}"
    finally:
        server.should_exit = True
        await task


@dataclass
class ConnectedTool:
    """A hook, the fake of its tool, and what a command needs to connect them."""

    vendor: Vendor
    context: ToolContext
    hook: Hook

    @property
    def url(self) -> str:
        return self.context.settings.hook_url(self.hook)

    @property
    def states(self) -> ConnectionStates:
        return ConnectionStates(self.context.ledger.redis)

    def connector(self) -> Connector:
        return Connector(self.context, self.hook)

    async def ensure_subscriptions(self, *, is_secret_new: bool = False) -> Subscribed:
        """Ensure the subscriptions, and store the secrets that the tool chose, and then the state, as `connect` does."""
        async with connection_lock(self.context, self.hook.name):
            subscribed = await self.connector().ensure_subscriptions(is_secret_new=is_secret_new)
        if subscribed.secrets:
            settings = self.hook.settings.model_copy(update={"secrets": subscribed.secrets})
            self.hook = replace(self.hook, settings=settings)
        state = await self.states.get(self.hook.name)
        now_ms = self.context.ledger.redis.now_ms()
        await self.states.save(healthy_state(state, subscribed, self.url, now_ms))
        return subscribed


@asynccontextmanager
async def connected_tool(name: str, redis: Redis) -> AsyncIterator[ConnectedTool]:
    source = load_sources()[name]
    prefix = f"HOOKS__{name.upper()}"
    async with serve_vendor(name) as (vendor, api_url), http_client(10) as http:
        secret = new_secret(source.definition) or vendor.secret_on_a_page
        environment = {
            "REDIS_URL": "redis://127.0.0.1/0",
            "VISITS_API_TOKEN": "visits-api-token",
            "SECRET_KEY": SECRET_KEY,
            "PUBLIC_URL": "https://doorbell.example.com",
            f"{prefix}__API_URL": api_url,
            f"{prefix}__TOKEN_URL": f"{api_url}{vendor.token_path}",
            f"{prefix}__TIMEZONE": "America/New_York",
            f"{prefix}__SECRETS": secret,
            f"{prefix}__TENANTS": vendor.tenant,
            **{f"{prefix}__CREDENTIALS__{credential}": value for credential, value in vendor.credentials.items()},
        }
        settings = read_environment({variable: value for variable, value in environment.items() if value})
        vendor.register(settings.hook_url(settings.hook(name)))
        yield ConnectedTool(vendor, ToolContext(settings, Ledger(redis, 30), http), settings.hook(name))


@asynccontextmanager
async def subscribed_tool(name: str, redis: Redis) -> AsyncIterator[ConnectedTool]:
    """Yield a tool that is subscribed to, if it can be: some lists need the account's name in a subscription."""
    async with connected_tool(name, redis) as tool:
        if tool.hook.source.subscription:
            await tool.ensure_subscriptions(is_secret_new=True)
        yield tool


@asynccontextmanager
async def stored_tool(name: str, redis: Redis) -> AsyncIterator[ConnectedTool]:
    """Yield a tool that a person connected as a stored hook."""
    async with connected_tool(name, redis) as tool:
        stored = StoredHooks(redis, tool.context.settings)
        actions = Actions(tool.context.ledger, tool.context.settings, Actor("ada", "operator"))
        settings = {"api_url": str(tool.hook.settings.api_url)}
        request = ConnectRequest(name, "east", tool.vendor.credentials, settings=settings)
        await Connections(tool.context, stored, actions).connect(request)
        tool.hook = tool.context.settings.hook("east")
        yield tool


async def listed_changes(
    tool: ConnectedTool, window: Window, earlier: Sequence[ListedChanges] = ()
) -> list[ListedChanges]:
    """Return the translated records of all pages of a window. earlier: the list whose visits Doorbell already has."""
    source, connector = tool.hook.source, tool.connector()
    assert source.listing
    account = await connector.account() if source.subscription else ApiResponse(None)
    start = list(source.listing.start(window._replace(tenants=tool.hook.settings.tenants), account))
    if source.listing.check:
        visit_ids = {change.visit_id for each in earlier for change in each.changes if change.action != "cancel"}
        start += source.listing.check(sorted(visit_ids), account)
    return [
        translate_record(source, record, datetime.now(UTC), tool.hook.settings.zone)
        async for page, _ in read_pages(source, start, connector.call)
        for record in page.records
    ]
