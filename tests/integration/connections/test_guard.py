"""The check of a connection: what a worker sees at the tool, and what it does then."""

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.connections.catch_up import CatchUpRunner, store_of
from app.connections.connect import Connections, ConnectRequest
from app.connections.connector import Connector, connection_lock
from app.connections.guard import Guard
from app.connections.stored_hooks import StoredHooks
from app.ledger.connection_states import ConnectionState, Health
from app.ledger.ids import TaskId
from app.ledger.moves import Mark, save_mark
from app.ledger.redis import Redis
from app.operators.actions import Actions, Actor
from app.operators.activity_log import ActivityLog
from app.operators.filter import ActivityFilter
from app.settings.environment import SettingsError, read_environment
from app.visits.change import external_id
from app.webhooks.fetching import RecordRequest
from app.webhooks.payload import Payload
from app.webhooks.subscription import ApiResponse, Refused, SubscriptionPage
from tests.support.vendors import SECRET_KEY, ConnectedTool, connected_tool, stored_tool

TOMORROW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(days=1)


@pytest.fixture
async def tool(redis: Redis) -> AsyncIterator[ConnectedTool]:
    """Return a tool whose hook is connected by Doorbell."""
    async with connected_tool("calendly", redis) as tool:
        await tool.ensure_subscriptions(is_secret_new=True)
        yield tool


async def managed(tool: ConnectedTool) -> None:
    state = await tool.states.get(tool.hook.name)
    await tool.states.save(replace(state, connected_by="ada", healthy_at_ms=_now_ms()))


def _now_ms() -> int:
    return int(time.time() * 1000)


def guard(tool: ConnectedTool) -> Guard:
    return Guard(tool.context, StoredHooks(tool.context.ledger.redis, tool.context.settings))


async def check(tool: ConnectedTool) -> ConnectionState:
    async with connection_lock(tool.context, tool.hook.name):
        return await guard(tool).check(tool.hook)


async def activities(tool: ConnectedTool) -> list[str]:
    rows = (await ActivityLog(tool.context.ledger).newest(ActivityFilter())).rows
    return [f"{row.actor} {row.action} {row.target}" for row in reversed(rows)]


async def test_an_active_subscription_is_healthy(tool: ConnectedTool) -> None:
    state = await check(tool)

    assert "healthy" == state.state
    assert _now_ms() - 5_000 < state.checked_at_ms <= _now_ms()
    assert state.healthy_at_ms == state.checked_at_ms
    assert await tool.states.get("calendly") == state


async def test_the_next_check_has_a_random_delay(tool: ConnectedTool) -> None:
    before = _now_ms()
    delays_s = [((await check(tool)).next_check_ms - before) / 1000 for _ in range(10)]

    assert len({round(delay_s) for delay_s in delays_s}) > 1
    assert all(800 < delay_s < 1_000 for delay_s in delays_s)


@pytest.mark.parametrize("problem", ["disabled", "missing"])
async def test_a_lost_subscription_is_created_again(tool: ConnectedTool, problem: Health) -> None:
    await managed(tool)
    old = set(tool.vendor.subscriptions)
    tool.vendor.disable_all() if problem == "disabled" else tool.vendor.subscriptions.clear()

    state = await check(tool)

    assert ("healthy", True) == (state.state, state.detail.startswith(f"it was {problem}"))
    assert old.isdisjoint(tool.vendor.subscriptions)
    assert [True] == [stored.is_active for stored in tool.vendor.subscriptions.values()]
    assert [
        f"Doorbell noticed connection state calendly: {problem}",
        f"Doorbell repaired connection calendly: it was {problem}",
    ] == (await activities(tool))


OLD_SECRET, NEW_SECRET = "old-signing-secret-of-32-characters-", "new-signing-secret-of-32-characters-"


def set_secrets(tool: ConnectedTool, *secrets: str) -> None:
    """Set the secrets of the hook, newest first."""
    settings = tool.hook.settings.model_copy(update={"secrets": secrets})
    tool.hook = replace(tool.hook, settings=settings)


async def connected_with_old_secret(tool: ConnectedTool) -> None:
    set_secrets(tool, OLD_SECRET)
    tool.vendor.subscriptions.clear()
    await tool.ensure_subscriptions()
    await managed(tool)
    await check(tool)


def secrets_at_the_tool(tool: ConnectedTool) -> list[str]:
    return [stored.secret for stored in tool.vendor.subscriptions.values()]


async def test_a_subscription_whose_secret_is_no_longer_accepted_is_replaced(tool: ConnectedTool) -> None:
    await connected_with_old_secret(tool)

    set_secrets(tool, NEW_SECRET, OLD_SECRET)
    rotating, while_rotating = await check(tool), secrets_at_the_tool(tool)
    set_secrets(tool, NEW_SECRET)
    rotated = await check(tool)

    assert ("", [OLD_SECRET]) == (rotating.detail, while_rotating)
    assert ("healthy", [NEW_SECRET]) == (rotated.state, secrets_at_the_tool(tool))
    assert rotated.detail.startswith("it signed with another secret, and was subscribed again at")
    assert "Doorbell noticed connection state calendly: degraded" in await activities(tool)
    assert rotated.secret_fingerprint != rotating.secret_fingerprint
    assert "" == (await check(tool)).detail


async def test_connecting_again_moves_the_subscription_to_the_newest_secret(tool: ConnectedTool) -> None:
    await connected_with_old_secret(tool)
    set_secrets(tool, NEW_SECRET, OLD_SECRET)

    async with connection_lock(tool.context, tool.hook.name):
        subscribed = await tool.connector().ensure_subscriptions(newest_secret=True)

    assert ([NEW_SECRET], 1) == (secrets_at_the_tool(tool), len(subscribed.deleted))


async def test_a_rotated_secret_key_replaces_no_subscription(tool: ConnectedTool) -> None:
    await connected_with_old_secret(tool)
    before = list(tool.vendor.subscriptions)
    new_key = "another-key-of-32-characters-for-tests"
    old = tool.context
    for keys in ([new_key, SECRET_KEY], [new_key]):
        settings = old.settings.model_copy(update={"secret_key": keys})
        tool.context = replace(old, settings=settings)
        assert "" == (await check(tool)).detail

    assert before == list(tool.vendor.subscriptions)


@pytest.mark.parametrize("problem", ["disabled", "missing"])
async def test_a_subscription_that_doorbell_did_not_make_is_only_reported(tool: ConnectedTool, problem: Health) -> None:
    tool.vendor.disable_all() if problem == "disabled" else tool.vendor.subscriptions.clear()
    count = len(tool.vendor.subscriptions)

    state = await check(tool)

    assert (problem, count) == (state.state, len(tool.vendor.subscriptions))
    findings = {"disabled": "Calendly disabled a subscription", "missing": "Calendly has no active subscription"}
    assert f"{findings[problem]} with this URL: run `doorbell connect calendly --hook calendly`" == state.detail


async def test_a_hook_that_was_set_up_by_hand_may_work_although_the_tool_refuses(
    tool: ConnectedTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_: Connector) -> None:
        raise Refused("Webhooks need a paid plan.")

    monkeypatch.setattr(Connector, "own_subscriptions", refuse)
    before = await tool.states.get("calendly")

    by_hand = await check(tool)
    await managed(tool)
    by_doorbell = await check(tool)

    assert (before.state, "Webhooks need a paid plan.") == (by_hand.state, by_hand.detail)
    assert before.checked_at_ms == by_hand.checked_at_ms  # so that its deliveries decide
    assert "credentials_expired" == by_doorbell.state


async def test_a_refused_repair_leaves_the_state_that_was_found(
    tool: ConnectedTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The credentials are accepted."""

    async def refuse(*_: object) -> None:
        raise Refused("Webhooks need a paid plan.")

    await managed(tool)
    tool.vendor.subscriptions.clear()
    monkeypatch.setattr(Connector, "_create", refuse)

    state = await check(tool)

    assert ("missing", "Webhooks need a paid plan.") == (state.state, state.detail)
    assert _now_ms() - 5_000 < state.checked_at_ms


async def test_failing_deliveries_degrade_a_connection_until_one_arrives(tool: ConnectedTool) -> None:
    [stored] = tool.vendor.subscriptions.values()
    stored.failing_since = datetime.now(UTC)

    degraded = await check(tool)
    await tool.context.ledger.redis.command("ZADD", "bell:deliveries:calendly", _now_ms() + 1_000, "d1")
    healthy = await check(tool)

    assert ("degraded", "healthy") == (degraded.state, healthy.state)
    assert "Calendly reports failing deliveries since" in degraded.detail


async def test_rejected_credentials_are_reported(tool: ConnectedTool) -> None:
    tool.vendor.faults = replace(tool.vendor.faults, unauthorized=True)

    expired = await check(tool)
    tool.vendor.faults = replace(tool.vendor.faults, unauthorized=False)
    healthy = await check(tool)

    assert ("credentials_expired", "healthy") == (expired.state, healthy.state)
    assert "Calendly rejects the credentials (401): The access token is invalid" == expired.detail


async def test_a_tool_that_does_not_answer_changes_no_state(tool: ConnectedTool) -> None:
    healthy = await check(tool)
    tool.vendor.faults = replace(tool.vendor.faults, down=True)

    state = await check(tool)

    assert ("healthy", healthy.checked_at_ms) == (state.state, state.checked_at_ms)
    assert state.next_check_ms < _now_ms() + 61_000
    assert "Calendly cannot be reached" in state.detail


async def test_only_due_connections_are_checked(tool: ConnectedTool) -> None:
    await guard(tool).check_due()
    count = len(tool.vendor.requests)
    await guard(tool).check_due()

    assert count == len(tool.vendor.requests)


async def test_a_connection_is_checked_after_the_clock_of_redis_went_back(tool: ConnectedTool) -> None:
    state = await check(tool)
    await tool.states.save(replace(state, next_check_ms=state.next_check_ms + 3_600_000))

    await guard(tool).check_due()

    assert state.next_check_ms + 3_000_000 > (await tool.states.get("calendly")).next_check_ms


async def test_two_workers_check_a_connection_once(tool: ConnectedTool) -> None:
    await tool.states.save(replace(await tool.states.get("calendly"), next_check_ms=0))
    tool.vendor.requests.clear()
    async with connection_lock(tool.context, "calendly"):
        await guard(tool).check_due()

    assert [] == tool.vendor.requests


async def test_what_was_missed_is_stored_after_a_repair(tool: ConnectedTool) -> None:
    await managed(tool)
    tool.vendor.disable_all()
    calendar = tool.vendor.calendar
    lost = calendar.book(TOMORROW, "lost@example.com")
    calendar.book(TOMORROW - timedelta(days=30), "past@example.com")
    await tool.vendor.sent_all()

    await check(tool)
    runner = CatchUpRunner(tool.context, StoredHooks(tool.context.ledger.redis, tool.context.settings))
    await runner.run_next()

    ended = await store_of(tool.context).get("calendly")
    assert ended
    assert ("done", "repaired", {"changed": 1}) == (ended.status, ended.cause, ended.counts)
    visit = await tool.context.ledger.load_task(TaskId.visit("main", external_id("calendly", f"IN{lost.number}M0")))
    assert "queued" == visit.state


@pytest.mark.parametrize(("minutes", "cause"), [(25, None), (28, "downtime")])
@pytest.mark.parametrize("first_check_fails", [False, True])
async def test_what_was_missed_while_no_worker_ran_is_stored(
    tool: ConnectedTool, minutes: int, cause: str | None, first_check_fails: bool
) -> None:
    """A check is due after 15 minutes, and may have a delay of a tenth and ten minutes."""
    last_ms = _now_ms() - minutes * 60_000
    state = await tool.states.get("calendly")
    await tool.states.save(replace(state, checked_at_ms=last_ms, healthy_at_ms=last_ms))
    tool.vendor.faults = replace(tool.vendor.faults, drop_every=1)
    missed = tool.vendor.calendar.book(TOMORROW, "missed@example.com")
    await tool.vendor.sent_all()
    if first_check_fails:
        tool.vendor.faults = replace(tool.vendor.faults, down=True)
        await check(tool)
        tool.vendor.faults = replace(tool.vendor.faults, down=False)

    after = await check(tool)
    await CatchUpRunner(tool.context, StoredHooks(tool.context.ledger.redis, tool.context.settings)).run_next()

    catch_up = await store_of(tool.context).get("calendly")
    assert ("healthy", cause) == (after.state, catch_up and catch_up.cause)
    visit = TaskId.visit("main", external_id("calendly", f"IN{missed.number}M0"))
    assert [visit] * bool(cause) == await tool.context.ledger.task_ids("queued")


async def test_a_hook_that_was_just_disconnected_is_not_checked(redis: Redis) -> None:
    """The process that checks it has not heard of it yet."""
    async with connected_tool("calendly", redis) as tool:
        settings = tool.context.settings
        stored = StoredHooks(redis, settings)
        actions = Actions(tool.context.ledger, settings, Actor("ada", "operator"))
        await stored.save("east", settings.hooks["calendly"].model_copy(update={"source": "calendly"}), actions)
        other = read_environment({"REDIS_URL": "redis://127.0.0.1/0", "SECRET_KEY": SECRET_KEY})
        await StoredHooks(redis, other).remove("east", Actions(tool.context.ledger, other, Actor("ben", "operator")))

        await Guard(tool.context, stored).check_due()

        assert "calendly" in await tool.states.all()
        assert "east" not in await tool.states.all()


async def test_a_hook_of_the_environment_gets_no_secret_that_it_cannot_keep(redis: Redis) -> None:
    """The tool chooses the secret of a new subscription, and only a stored hook can take it over."""
    async with connected_tool("stripe", redis) as tool:
        set_secrets(tool, "whsec_of_a_lost_subscription")
        await managed(tool)

        state = await check(tool)

        assert ("missing", {}) == (state.state, tool.vendor.subscriptions)
        assert "set HOOKS__STRIPE__SECRETS to its secret" in state.detail


async def test_connecting_a_hook_of_the_environment_leaves_no_subscription_with_an_unknown_secret(redis: Redis) -> None:
    async with connected_tool("stripe", redis) as tool:
        settings = tool.context.settings
        environment = settings.environment_hooks["stripe"].model_copy(update={"secrets": ("whsec_of_nothing",)})
        settings = settings.model_copy(update={"environment_hooks": {"stripe": environment}})
        context = replace(tool.context, settings=settings)
        actions = Actions(context.ledger, settings, Actor("ada", "operator"))
        connections = Connections(context, StoredHooks(redis, settings), actions)

        for _ in range(2):
            with pytest.raises(SettingsError, match="chooses another secret"):
                await connections.connect(ConnectRequest("stripe", "stripe"))

        assert {} == tool.vendor.subscriptions


def with_expiry(tool: ConnectedTool, expires_at: datetime, *, can_renew: bool) -> list[str]:
    """Let the tool report when subscriptions expire. Return the ids that are renewed, as they are."""
    declared, renewed = tool.hook.source.subscription, list[str]()
    assert declared
    assert declared.read_list
    read_list = declared.read_list
    old = set(tool.vendor.subscriptions)

    def read_with_expiry(request: RecordRequest, response: ApiResponse) -> SubscriptionPage:
        page = read_list(request, response)
        expiring = [
            replace(each, expires_at=expires_at if each.id in old - set(renewed) else None)
            for each in page.subscriptions
        ]
        return SubscriptionPage(expiring, page.next)

    def renew(id: str, account: Payload) -> RecordRequest:
        renewed.append(id)
        return RecordRequest("users/me")

    declaration = replace(declared, read_list=read_with_expiry, renew=renew if can_renew else None)
    tool.hook = replace(tool.hook, source=tool.hook.source._replace(subscription=declaration))
    return renewed


async def test_an_expiring_subscription_is_renewed_in_time(tool: ConnectedTool) -> None:
    await managed(tool)
    [id] = tool.vendor.subscriptions
    renewed = with_expiry(tool, datetime.now(UTC) + timedelta(hours=1), can_renew=True)

    state = await check(tool)

    assert ("healthy", [id], [id]) == (state.state, renewed, list(tool.vendor.subscriptions))
    assert ["Doorbell renewed connection calendly"] == await activities(tool)


async def test_an_expiring_subscription_that_cannot_be_renewed_is_replaced(tool: ConnectedTool) -> None:
    await managed(tool)
    [old] = tool.vendor.subscriptions
    with_expiry(tool, datetime.now(UTC) + timedelta(hours=1), can_renew=False)

    state = await check(tool)

    [new] = tool.vendor.subscriptions
    assert ("healthy", True) == (state.state, new != old)


async def test_a_subscription_that_expires_late_is_left_alone(tool: ConnectedTool) -> None:
    await managed(tool)
    before = dict(tool.vendor.subscriptions)
    renewed = with_expiry(tool, datetime.now(UTC) + timedelta(days=9), can_renew=True)

    state = await check(tool)

    assert ([], before) == (renewed, tool.vendor.subscriptions)
    assert state.expires_at_ms > _now_ms()


# -- secrets that the tool chooses --


async def check_stored(tool: ConnectedTool) -> ConnectionState:
    stored = StoredHooks(tool.context.ledger.redis, tool.context.settings)
    await stored.load()
    async with connection_lock(tool.context, tool.hook.name):
        state = await Guard(tool.context, stored).check(tool.hook)
    tool.hook = tool.context.settings.hook(tool.hook.name)
    return state


async def test_a_secret_that_was_rotated_at_the_tool_is_stored_if_the_tool_shows_it(redis: Redis) -> None:
    async with stored_tool("savvycal", redis) as tool:
        [subscription] = tool.vendor.subscriptions.values()
        before = tool.hook.settings.secrets
        subscription.secret = "the-next-secret-of-savvycal"

        state = await check_stored(tool)

        assert ("healthy", (subscription.secret, *before)) == (state.state, tool.hook.settings.secrets)
        assert state.detail.startswith("it signed with another secret, and its secret was stored at")
        assert [subscription.id] == list(tool.vendor.subscriptions)
        caught_up = await store_of(tool.context).get("east")
        assert caught_up
        assert "repaired" == caught_up.cause


async def test_a_hook_of_the_environment_is_told_which_variable_lacks_the_secret(redis: Redis) -> None:
    async with connected_tool("savvycal", redis) as tool:
        await tool.ensure_subscriptions(is_secret_new=True)
        await managed(tool)
        set_secrets(tool, "the secret before its rotation")

        state = await check(tool)

        expected = (
            "SavvyCal signs with a secret that this hook does not accept: set HOOKS__SAVVYCAL__SECRETS to its secret"
        )
        assert ("degraded", expected) == (state.state, state.detail)


async def test_a_subscription_that_somebody_created_again_has_a_lost_secret_and_is_replaced(redis: Redis) -> None:
    """The tool shows the secret only once, to the one who creates the subscription."""
    async with stored_tool("stripe", redis) as tool:
        [(id, lost)] = tool.vendor.subscriptions.items()
        before = tool.hook.settings.secrets
        del tool.vendor.subscriptions[id]
        again = tool.vendor.subscribe(lost.url, lost.events, "whsec_that_nobody_knows", **lost.attributes)

        state = await check_stored(tool)

        [new] = tool.vendor.subscriptions.values()
        assert ("healthy", True) == (state.state, new.id not in (id, again.id))
        assert (new.secret, *before) == tool.hook.settings.secrets
        assert state.detail.startswith("it signed with another secret, and was subscribed again at")
        assert "Doorbell repaired connection east: it signed with another secret" in await activities(tool)


@pytest.mark.parametrize("name", ["calcom", "calendly", "shopmonkey"])
async def test_a_subscription_that_somebody_created_again_does_not_have_the_secret_of_doorbell(
    redis: Redis, name: str
) -> None:
    async with stored_tool(name, redis) as tool:
        await check_stored(tool)
        [(id, own)] = tool.vendor.subscriptions.items()
        del tool.vendor.subscriptions[id]
        again = tool.vendor.subscribe(own.url, own.events, "a-secret-that-somebody-chose-at-the-tool", **own.attributes)

        state = await check_stored(tool)

        [new] = tool.vendor.subscriptions.values()
        assert ("healthy", True) == (state.state, new.id not in (id, again.id))
        assert (new.secret,) == tool.hook.settings.secrets
        assert state.detail.startswith("it signed with another secret, and was subscribed again at")
        assert "" == (await check_stored(tool)).detail


async def test_a_hook_whose_account_moves_to_another_cell_is_not_checked(tool: ConnectedTool) -> None:
    redis, names = tool.context.ledger.redis, [tool.hook.name]
    await tool.states.save(replace(await tool.states.get(tool.hook.name), next_check_ms=0))
    mark = Mark("moved", "move-1", "elsewhere")
    await save_mark(redis, tool.hook.account, names, Mark(), mark)
    tool.vendor.requests.clear()

    await guard(tool).check_due()
    assert [] == tool.vendor.requests

    await save_mark(redis, tool.hook.account, names, mark, Mark())
    await guard(tool).check_due()
    assert tool.vendor.requests
