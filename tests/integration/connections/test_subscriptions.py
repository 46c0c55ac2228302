"""Subscriptions at every tool that has an API for them, against a fake of that API over HTTP."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

import pytest

from app.connections.connector import connection_lock
from app.ledger.connection_states import remove_connection
from app.ledger.locks import LockContended
from app.ledger.redis import Redis
from app.vendors.api import vendor_names
from app.vendors.vendor import StoredSubscription
from app.visits.client import ConnectionFailed, OutcomeUnknown, RateLimited, ServerError, Unauthorized
from app.webhooks.registry import load_sources
from app.webhooks.subscription import Refused
from tests.support.vendors import ConnectedTool, connected_tool

DECLARED = {name: source.subscription for name, source in load_sources().items() if source.subscription}
#: Tools whose subscriptions can be listed.
LISTABLE = [name for name, declared in DECLARED.items() if declared.can_ask]
#: Tools whose list has the secret of each subscription.
LISTS_SECRETS = ("nexhealth", "oncehub", "savvycal")
#: Tools whose list does not have the secret, nor does the URL: a subscription may sign with one that nobody knows.
WITH_HIDDEN_SECRET = [
    name
    for name in LISTABLE
    if DECLARED[name].secret_from in ("doorbell", "tool")
    and not load_sources()[name].definition.signature.needs_secret_key
    and name not in LISTS_SECRETS
]


def test_every_source_with_subscriptions_has_a_fake_tool() -> None:
    assert set(DECLARED) <= set(vendor_names())


@pytest.fixture(params=list(DECLARED))
async def tool(request: pytest.FixtureRequest, redis: Redis) -> AsyncIterator[ConnectedTool]:
    async with connected_tool(request.param, redis) as tool:
        yield tool


def subscriptions(tool: ConnectedTool) -> Mapping[str, frozenset[str]]:
    """Return the events of our active subscriptions at the tool, by id."""
    return {each.id: frozenset(each.events) for each in own_subscriptions(tool) if each.is_active}


def own_subscriptions(tool: ConnectedTool) -> list[StoredSubscription]:
    """Return our subscriptions at the tool. Their URL may have parameters."""
    return [each for each in tool.vendor.subscriptions.values() if each.url.partition("?")[0] == tool.url]


def assert_connected(tool: ConnectedTool) -> None:
    """Check that each event arrives once, signed with a secret of the hook."""
    declared = tool.hook.source.subscription
    assert declared
    assert sorted(map(sorted, declared.groups)) == sorted(map(sorted, subscriptions(tool).values()))
    ours = own_subscriptions(tool)
    assert len(ours) == len(declared.groups)
    assert {each.secret for each in ours} <= {*tool.hook.settings.secrets, ""}


async def test_connecting_creates_the_subscriptions(tool: ConnectedTool) -> None:
    subscribed = await tool.ensure_subscriptions(is_secret_new=True)

    assert_connected(tool)
    assert {each.id for each in subscribed.created} == set(subscriptions(tool))
    assert subscribed.adopted == subscribed.deleted == ()


async def test_connecting_twice_adopts_what_exists(tool: ConnectedTool) -> None:
    await tool.ensure_subscriptions(is_secret_new=True)
    before = subscriptions(tool)

    again = await tool.ensure_subscriptions()

    assert before == subscriptions(tool)
    assert again.created == again.deleted == ()


async def test_subscriptions_of_strangers_stay(tool: ConnectedTool) -> None:
    events = load_sources()[tool.vendor.name].subscription.groups[0]  # type: ignore[union-attr]
    foreign = tool.vendor.subscribe("https://other.example.com/hooks/x", tuple(events), "their secret")

    await tool.ensure_subscriptions(is_secret_new=True)
    async with connection_lock(tool.context, tool.hook.name):
        await tool.connector().remove()

    assert list(tool.vendor.subscriptions) == [foreign.id]


def subscribe_with_unknown_secret(tool: ConnectedTool) -> set[str]:
    """Create our subscriptions with a secret that nobody knows, and return their ids."""
    for events in DECLARED[tool.vendor.name].groups:
        tool.vendor.subscribe(tool.url, tuple(events), "a secret that nobody knows")
    return set(tool.vendor.subscriptions)


@pytest.mark.parametrize("tool", WITH_HIDDEN_SECRET, indirect=True)
async def test_a_subscription_with_another_secret_is_replaced(tool: ConnectedTool) -> None:
    old = subscribe_with_unknown_secret(tool)

    subscribed = await tool.ensure_subscriptions(is_secret_new=True)

    assert old.isdisjoint(subscriptions(tool))
    assert old == {each.id for each in subscribed.deleted}
    assert_connected(tool)


@pytest.mark.parametrize(
    "tool", [name for name in WITH_HIDDEN_SECRET if not DECLARED[name].is_url_unique], indirect=True
)
async def test_a_replaced_subscription_leaves_no_gap(tool: ConnectedTool) -> None:
    """The new one exists before the old one is deleted. Some tools refuse two with one URL; they are not here."""
    subscribe_with_unknown_secret(tool)

    await tool.ensure_subscriptions(is_secret_new=True)

    writes = [method for method, path, status in tool.vendor.requests if method in ("POST", "DELETE") and status < 300]
    assert "DELETE" in writes
    assert "POST" not in writes[writes.index("DELETE") :]


@pytest.mark.parametrize("tool", LISTABLE, indirect=True)
async def test_a_disabled_subscription_works_again(tool: ConnectedTool) -> None:
    await tool.ensure_subscriptions(is_secret_new=True)
    tool.vendor.disable_all()

    await tool.ensure_subscriptions()

    assert_connected(tool)


@pytest.mark.parametrize("tool", LISTABLE, indirect=True)
async def test_a_deleted_subscription_is_created_again(tool: ConnectedTool) -> None:
    await tool.ensure_subscriptions(is_secret_new=True)
    tool.vendor.subscriptions.clear()

    await tool.ensure_subscriptions()

    assert_connected(tool)


@pytest.mark.parametrize("tool", LISTABLE, indirect=True)
async def test_a_lost_response_doubles_nothing(tool: ConnectedTool) -> None:
    """Lose the response to each request of a connection in turn, and connect again."""
    for number in range(1, 40):
        tool.vendor.subscriptions.clear()
        await remove_connection(tool.context.ledger.redis, tool.hook.name)
        tool.vendor.faults = replace(tool.vendor.faults, hang_after=number)
        try:
            await tool.ensure_subscriptions(is_secret_new=True)
        except OutcomeUnknown:
            await tool.ensure_subscriptions(is_secret_new=DECLARED[tool.vendor.name].secret_from == "tool")
            assert_connected(tool)
        else:
            break
    else:
        pytest.fail("a connection takes 40 requests")


@pytest.mark.parametrize("tool", LISTABLE, indirect=True)
async def test_a_lost_response_to_a_repair_leaves_no_subscription_with_an_unknown_secret(tool: ConnectedTool) -> None:
    await tool.ensure_subscriptions(is_secret_new=True)
    for number in range(1, 40):
        tool.vendor.subscriptions.clear()
        tool.vendor.faults = replace(tool.vendor.faults, hang_after=number)
        try:
            await tool.ensure_subscriptions()
        except OutcomeUnknown:
            await tool.ensure_subscriptions()
            assert_connected(tool)
        else:
            break


@pytest.mark.parametrize("tool", [name for name in DECLARED if DECLARED[name].secret_from != "tool"], indirect=True)
async def test_two_processes_at_once_create_one_connection(tool: ConnectedTool) -> None:
    """Where the tool chooses the secret, the second process may know it only after the first one has stored it."""
    await asyncio.gather(tool.ensure_subscriptions(), tool.ensure_subscriptions())

    assert_connected(tool)


async def test_a_connection_is_locked(tool: ConnectedTool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.connections.connector.LOCK_WAIT_S", 0.1)
    async with connection_lock(tool.context, tool.hook.name):
        with pytest.raises(LockContended):
            await tool.ensure_subscriptions()

    await tool.ensure_subscriptions()


async def test_a_missing_plan_or_right_is_a_sentence(tool: ConnectedTool) -> None:
    tool.vendor.faults = replace(tool.vendor.faults, forbidden=True)

    with pytest.raises((Refused, Unauthorized)) as refused:
        await tool.ensure_subscriptions()

    assert isinstance(refused.value, Refused), "the module has no sentence for this refusal"
    assert str(refused.value).endswith(".")


async def test_wrong_credentials_are_refused(tool: ConnectedTool) -> None:
    tool.vendor.faults = replace(tool.vendor.faults, unauthorized=True)

    with pytest.raises(Unauthorized):
        await tool.ensure_subscriptions()


async def test_a_tool_that_is_down_is_no_refusal(tool: ConnectedTool) -> None:
    tool.vendor.faults = replace(tool.vendor.faults, down=True)

    with pytest.raises((ServerError, ConnectionFailed)):
        await tool.ensure_subscriptions()


async def test_a_rate_limit_is_waited_for(tool: ConnectedTool) -> None:
    tool.vendor.faults = replace(tool.vendor.faults, rate_limited=1, retry_after_s=0)

    await tool.ensure_subscriptions(is_secret_new=True)

    assert_connected(tool)


async def test_subscriptions_on_a_later_page_are_found(tool: ConnectedTool) -> None:
    for number in range(4):
        tool.vendor.subscribe(f"https://other.example.com/{number}", ("x",), "s")
    await tool.ensure_subscriptions(is_secret_new=True)
    tool.vendor.faults = replace(tool.vendor.faults, page_size=2)

    again = await tool.ensure_subscriptions()

    assert again.created == ()
    assert_connected(tool)


async def test_a_rate_limit_pauses_all_calls_of_the_hook(redis: Redis) -> None:
    """The limit of the tool applies to the whole hook: the next call waits too, in any process."""
    async with connected_tool("calendly", redis) as tool:
        tool.vendor.faults = replace(tool.vendor.faults, rate_limited=1, retry_after_s=60)
        with pytest.raises(RateLimited):
            await tool.ensure_subscriptions()
        requests = len(tool.vendor.requests)

        with pytest.raises(RateLimited) as paused:
            await tool.ensure_subscriptions()

    assert requests == len(tool.vendor.requests)
    assert 50 < (paused.value.wait_s or 0) <= 65
