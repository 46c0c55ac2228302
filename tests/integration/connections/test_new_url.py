"""A new PUBLIC_URL: the subscriptions with the old one are replaced, at every tool that has an API for them."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from app.connections.connector import NotSubscribable, connection_lock
from app.connections.guard import Guard
from app.connections.stored_hooks import StoredHooks
from app.ledger.connection_states import ConnectionState
from app.ledger.redis import Redis
from tests.integration.connections.test_subscriptions import DECLARED, own_subscriptions
from tests.support.vendors import ConnectedTool, connected_tool

OLD, NEW = "https://doorbell.example.com", "https://new.example.com"
STRANGER = "https://stranger.example.com/hooks/x"
#: One that lists its subscriptions, one that does not, and one with a subscription for each event.
GUARDED = ["calendly", "jobber", "servicem8"]
#: Not of Housecall Pro: there, a person enters the URL on a page.
every_tool = pytest.mark.parametrize("tool", [name for name in DECLARED if name != "housecallpro"], indirect=True)
guarded_tool = pytest.mark.parametrize("tool", GUARDED, indirect=True)


@pytest.fixture
async def tool(request: pytest.FixtureRequest, redis: Redis) -> AsyncIterator[ConnectedTool]:
    """Yield a tool that Doorbell connected, and then a person changed PUBLIC_URL."""
    async with connected_tool(request.param, redis) as tool:
        await tool.ensure_subscriptions(is_secret_new=True)
        await tool.states.save(replace(await tool.states.get(tool.hook.name), connected_by="ada"))
        tool.vendor.subscribe(STRANGER, tuple(DECLARED[request.param].groups[0]), "their secret")
        change_url(tool, NEW)
        yield tool


def change_url(tool: ConnectedTool, public_url: str | None) -> None:
    hooks = {tool.hook.name: tool.hook.settings}
    settings = tool.context.settings.model_copy(update={"public_url": public_url, "environment_hooks": hooks})
    tool.context = replace(tool.context, settings=settings)
    tool.hook = settings.hook(tool.hook.name)


async def check(tool: ConnectedTool) -> ConnectionState:
    guard = Guard(tool.context, StoredHooks(tool.context.ledger.redis, tool.context.settings))
    async with connection_lock(tool.context, tool.hook.name):
        return await guard.check(tool.hook)


def urls(tool: ConnectedTool) -> set[str]:
    return {each.url.partition("/hooks/")[0] for each in tool.vendor.subscriptions.values()}


@every_tool
async def test_the_subscriptions_with_the_old_url_are_deleted_when_new_ones_work(tool: ConnectedTool) -> None:
    old = {id for id, each in tool.vendor.subscriptions.items() if each.url != STRANGER}

    subscribed = await tool.ensure_subscriptions()

    assert {NEW, STRANGER.partition("/hooks/")[0]} == urls(tool)
    assert old == {each.id for each in subscribed.deleted}
    assert len(own_subscriptions(tool)) == len(DECLARED[tool.vendor.name].groups)
    assert () == (await tool.states.get(tool.hook.name)).outdated


@guarded_tool
async def test_the_next_check_subscribes_with_the_new_url(tool: ConnectedTool) -> None:
    state = await check(tool)

    assert ("healthy", tool.url) == (state.state, state.url)
    assert {NEW, STRANGER.partition("/hooks/")[0]} == urls(tool)
    assert state.detail.startswith("it was missing")


@guarded_tool
async def test_after_a_crash_before_the_deletion_the_next_check_deletes_the_old_ones(tool: ConnectedTool) -> None:
    async with connection_lock(tool.context, tool.hook.name):
        await tool.connector().note_new_url()
    tool.vendor.faults = replace(tool.vendor.faults, down=True)
    await check(tool)
    tool.vendor.faults = replace(tool.vendor.faults, down=False)
    assert OLD in urls(tool)

    await check(tool)

    assert {NEW, STRANGER.partition("/hooks/")[0]} == urls(tool)


@guarded_tool
async def test_a_url_that_changes_back_keeps_its_subscriptions(tool: ConnectedTool) -> None:
    before = set(tool.vendor.subscriptions)
    async with connection_lock(tool.context, tool.hook.name):
        await tool.connector().note_new_url()
    change_url(tool, OLD)

    await check(tool)

    assert before == set(tool.vendor.subscriptions)


@guarded_tool
async def test_a_subscription_of_somebody_else_with_the_old_url_stays(tool: ConnectedTool) -> None:
    """Another Doorbell may use the old address now."""
    if not DECLARED[tool.vendor.name].can_ask:
        return
    foreign = tool.vendor.subscribe(f"{OLD}/hooks/{tool.hook.name}", DECLARED[tool.vendor.name].groups[0], "secret")

    await check(tool)

    assert foreign.id in tool.vendor.subscriptions


@guarded_tool
async def test_disconnecting_deletes_those_with_the_old_url_too(tool: ConnectedTool) -> None:
    async with connection_lock(tool.context, tool.hook.name):
        await tool.connector().remove()

    assert {STRANGER.partition("/hooks/")[0]} == urls(tool)


#: Jane too: an app has one subscription to an event, so the old one is deleted before a new one is created.
@pytest.mark.parametrize("tool", [*GUARDED, "jane"], indirect=True)
async def test_a_process_without_public_url_examines_and_changes_nothing(tool: ConnectedTool) -> None:
    """On Render and Railway only web learns its URL from the platform."""
    change_url(tool, None)
    at_the_tool, before = sorted(tool.vendor.subscriptions), await tool.states.get(tool.hook.name)

    after = await check(tool)
    async with connection_lock(tool.context, tool.hook.name):
        for step in (tool.connector().ensure_subscriptions, tool.connector().remove):
            with pytest.raises(NotSubscribable, match="PUBLIC_URL is not set"):
                await step()

    assert after == replace(before, detail=after.detail, next_check_ms=after.next_check_ms)
    assert "PUBLIC_URL is not set, so Doorbell does not know which subscriptions are its own" == after.detail
    assert after.next_check_ms > before.next_check_ms
    assert at_the_tool == sorted(tool.vendor.subscriptions)
