"""Since when a catch-up lists: after an outage, after another catch-up that was not done, and after a hook was removed."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.connections.catch_up import CatchUpRunner, default_since, new_catch_up, start, start_automatic, store_of
from app.connections.catch_up_lister import Lister
from app.connections.catch_up_requests import CatchUpRequests
from app.connections.connect import Connected, Connections, ConnectRequest
from app.connections.connector import connection_lock
from app.connections.guard import Guard
from app.connections.stored_hooks import StoredHooks
from app.ledger.catch_ups import CatchUp, CatchUpStatus
from app.ledger.connection_states import ConnectionState
from app.ledger.redis import Redis, RedisUnavailable
from app.operators.actions import Actions, Actor
from app.operators.activity_log import ActivityLog
from app.operators.filter import ActivityFilter
from app.settings.environment import read_environment
from app.settings.stored import build_hook
from app.vendors.vendor import Faults
from app.visits.client import VisitsApiError
from tests.support.vendors import SECRET_KEY, ConnectedTool, connected_tool, stored_tool

NOW = datetime.now(UTC)
DAY = timedelta(days=1)


@pytest.fixture
async def tool(redis: Redis) -> AsyncIterator[ConnectedTool]:
    """Return a tool that a person connected as the stored hook `east`."""
    async with stored_tool("calendly", redis) as tool:
        await run_catch_up(tool)
        yield tool


def stored_hooks(tool: ConnectedTool) -> tuple[StoredHooks, Actions]:
    settings, ledger = tool.context.settings, tool.context.ledger
    return StoredHooks(ledger.redis, settings), Actions(ledger, settings, Actor("ada", "operator"))


async def connect(tool: ConnectedTool) -> Connected:
    stored, actions = stored_hooks(tool)
    await stored.load()
    settings = {"api_url": str(tool.hook.settings.api_url)}
    request = ConnectRequest(tool.hook.source.name, "east", tool.vendor.credentials, settings=settings)
    return await Connections(tool.context, stored, actions).connect(request)


async def remove(tool: ConnectedTool) -> None:
    stored, actions = stored_hooks(tool)
    await stored.remove("east", actions)


async def check(tool: ConnectedTool) -> ConnectionState:
    stored, _ = stored_hooks(tool)
    await stored.load()
    async with connection_lock(tool.context, tool.hook.name):
        return await Guard(tool.context, stored).check(tool.hook)


async def last_healthy(tool: ConnectedTool, at: datetime) -> None:
    """Let the connection have been healthy for the last time at this time."""
    state = await tool.states.get(tool.hook.name)
    await tool.states.save(replace(state, healthy_at_ms=ms(at)))


async def newest(tool: ConnectedTool) -> CatchUp:
    catch_up = await store_of(tool.context).get(tool.hook.name)
    assert catch_up
    return catch_up


async def run_catch_up(tool: ConnectedTool) -> CatchUp:
    runner = CatchUpRunner(tool.context, stored_hooks(tool)[0])
    while (catch_up := await newest(tool)).is_open:
        await runner.run_next()
    return catch_up


async def visit_count(tool: ConnectedTool) -> int:
    return len(await tool.context.ledger.task_ids("queued"))


def ms(time: datetime) -> int:
    return int(time.timestamp() * 1000)


def days_ago(catch_up: CatchUp) -> float:
    """Return how many days before its request a catch-up begins to list."""
    return round((catch_up.requested_at_ms - catch_up.since_ms) / 86_400_000, 2)


AN_HOUR = round(1 / 24, 2)


# -- a hook that was removed --


async def test_a_hook_that_was_removed_is_connected_again_like_a_new_one(tool: ConnectedTool) -> None:
    await last_healthy(tool, NOW - 200 * DAY)
    await remove(tool)
    tool.vendor.calendar.book(NOW - 2 * DAY, "past@example.com")
    tool.vendor.calendar.book(NOW + DAY, "coming@example.com")

    assert (await connect(tool)).is_importing
    ended = await run_catch_up(tool)

    assert ("done", {"past": 1, "changed": 1}, 1) == (ended.status, ended.counts, await visit_count(tool))


async def test_a_hook_that_was_removed_may_get_another_account(tool: ConnectedTool) -> None:
    state = await tool.states.get("east")
    await tool.states.save(replace(state, account_id="the account that the hook had before"))
    await remove(tool)

    await connect(tool)

    assert state.account_id == (await tool.states.get("east")).account_id


async def test_nothing_of_a_connection_is_left_after_its_hook_is_removed(tool: ConnectedTool) -> None:
    redis = tool.context.ledger.redis
    await start(tool.context, replace(new_catch_up("east", NOW, "ada", "operator"), is_plan=True))

    await remove(tool)

    assert None is await redis.command("HGET", "bell:connections", "east")
    assert [] == await redis.command("KEYS", "bell:catch-up:east*")
    assert [] == await redis.command("SMEMBERS", "bell:catch-ups")


async def test_a_check_does_not_restore_the_state_of_a_hook_that_is_removed_meanwhile(
    tool: ConnectedTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    examine = Guard._examine

    async def examine_and_remove(guard: Guard, *arguments: object) -> ConnectionState:
        after = await examine(guard, *arguments)  # type: ignore[arg-type]
        await remove(tool)
        return after

    monkeypatch.setattr(Guard, "_examine", examine_and_remove)
    await check(tool)

    assert "east" not in await tool.states.all()


async def test_the_connection_of_a_hook_of_the_environment_stays_when_a_stored_one_of_its_name_is_removed(
    redis: Redis,
) -> None:
    async with connected_tool("calendly", redis) as tool:
        await tool.ensure_subscriptions(is_secret_new=True)
        await start(tool.context, new_catch_up("calendly", NOW, "ada", "operator"))
        stored, actions = stored_hooks(tool)
        without_hooks = read_environment({"REDIS_URL": "redis://127.0.0.1/0", "SECRET_KEY": SECRET_KEY})
        await StoredHooks(redis, without_hooks).save("calendly", build_hook({"secrets": "a-secret-of-tests"}), actions)

        await stored.remove("calendly", actions)

        assert "calendly" in await tool.states.all()
        assert ["calendly"] == await store_of(tool.context).open_slots()


# -- outages --


@pytest.mark.parametrize(("days", "listed"), [(0, AN_HOUR), (3, 3 + AN_HOUR), (6.9, 6.9 + AN_HOUR), (60, 7)])
async def test_a_repair_catches_up_since_the_last_healthy_moment_but_not_with_more_than_a_week(
    tool: ConnectedTool, days: float, listed: float
) -> None:
    await last_healthy(tool, NOW - timedelta(days=days))
    tool.vendor.subscriptions.clear()

    await check(tool)

    assert listed == days_ago(await newest(tool))


async def test_a_person_is_told_what_a_repair_after_a_long_outage_did_not_list(tool: ConnectedTool) -> None:
    await last_healthy(tool, NOW - 60 * DAY)
    tool.vendor.subscriptions.clear()

    state = await check(tool)

    advice = f"doorbell catch-up east --since {NOW - 60 * DAY - timedelta(hours=1):%Y-%m-%d}"
    [activity] = (await ActivityLog(tool.context.ledger).newest(ActivityFilter())).rows[:1]
    assert advice in state.detail
    assert advice in activity.target
    assert ms(NOW - 60 * DAY - timedelta(hours=1)) == (await newest(tool)).missed_since_ms


async def test_connecting_again_after_long_expired_credentials_lists_one_week(tool: ConnectedTool) -> None:
    await last_healthy(tool, NOW - 60 * DAY)
    state = await tool.states.get("east")
    await tool.states.save(replace(state, state="credentials_expired"))

    connected = await connect(tool)

    assert 7 == days_ago(await newest(tool))
    assert f"doorbell catch-up east --since {NOW - 60 * DAY - timedelta(hours=1):%Y-%m-%d}" in connected.advice


async def test_an_interrupted_repair_catches_up_with_the_whole_outage(tool: ConnectedTool) -> None:
    """The check that creates the subscription does not learn that it was created."""
    await last_healthy(tool, NOW - 3 * DAY)
    tool.vendor.subscriptions.clear()
    before_creation = 3  # the account, and the list twice
    tool.vendor.faults = Faults(hang_after=before_creation + 1)

    failed = await check(tool)
    assert ("missing", 1) == (failed.state, len(tool.vendor.subscriptions))
    repaired = await check(tool)

    assert ("healthy", 1) == (repaired.state, len(tool.vendor.subscriptions))
    assert 3 + AN_HOUR == days_ago(await newest(tool))


@pytest.mark.parametrize("state", ["missing", "disabled", "degraded", "credentials_expired"])
async def test_a_person_who_repairs_it_at_the_tool_needs_no_catch_up_of_their_own(
    tool: ConnectedTool, state: str
) -> None:
    before = await tool.states.get("east")
    await tool.states.save(replace(before, state=state, connected_by=""))  # type: ignore[arg-type]
    await last_healthy(tool, NOW - 3 * DAY)

    assert "healthy" == (await check(tool)).state

    assert ("repaired", 3 + AN_HOUR) == ((await newest(tool)).cause, days_ago(await newest(tool)))


async def test_a_healthy_connection_is_not_caught_up_with(tool: ConnectedTool) -> None:
    before = await newest(tool)
    await last_healthy(tool, NOW - 3 * DAY)

    await check(tool)

    assert before == await newest(tool)


@pytest.mark.parametrize(
    ("connected", "webhook", "since"),
    [(60, 3, 3), (60, None, 60), (2, 3, 2), (None, 3, None)],
    ids=["a webhook", "none", "one of an earlier hook of this name", "never connected"],
)
async def test_the_newest_webhook_shows_when_a_connection_was_healthy_whose_tool_cannot_be_asked(
    redis: Redis, connected: int | None, webhook: int | None, since: int | None
) -> None:
    """In days ago."""
    async with connected_tool("jobber", redis) as tool:
        state = await tool.states.get("jobber")
        if connected:
            connected_ms = ms(NOW - connected * DAY)
            await tool.states.save(replace(state, connected_at_ms=connected_ms, healthy_at_ms=connected_ms))
        if webhook:
            await redis.command("ZADD", "bell:deliveries:jobber", ms(NOW - webhook * DAY), "d1")

        expected = NOW - since * DAY - timedelta(hours=1) if since else datetime.now(UTC)
        assert abs(await default_since(tool.context, "jobber") - expected) < timedelta(seconds=5)


@pytest.mark.parametrize("is_noticed", [True, False])
async def test_connecting_again_catches_up_if_it_activates_a_disabled_subscription(
    redis: Redis, is_noticed: bool
) -> None:
    async with stored_tool("calcom", redis) as tool:
        await run_catch_up(tool)
        await last_healthy(tool, NOW - 3 * DAY)
        tool.vendor.disable_all()
        if is_noticed:
            await tool.states.save(replace(await tool.states.get("east"), state="disabled"))

        connected = await connect(tool)

        assert connected.subscribed
        assert ((), True) == (connected.subscribed.created, connected.is_importing)
        assert 3 + AN_HOUR == days_ago(await newest(tool))


@pytest.mark.parametrize("name", ["housecallpro", "jobber"])
async def test_connecting_again_subscribes_again_if_the_tool_cannot_be_asked_and_the_hook_is_silent(
    redis: Redis, name: str
) -> None:
    async with connected_tool(name, redis) as tool:
        connections = Connections(tool.context, *stored_hooks(tool))
        request = ConnectRequest(name, name)
        await connections.connect(request)
        count = len(tool.vendor.subscriptions)
        not_silent, newest_at = await connections.connect(request), NOW - 3 * DAY
        tool.vendor.subscriptions.clear()
        await last_healthy(tool, newest_at)
        await tool.states.save(replace(await tool.states.get(name), connected_at_ms=ms(newest_at)))
        await redis.command("ZADD", f"bell:deliveries:{name}", ms(newest_at), "d1")

        connected = await connections.connect(request)

        assert not_silent.subscribed
        assert (count, ()) == (len(not_silent.subscribed.adopted), not_silent.subscribed.created)
        assert (count, True) == (len(tool.vendor.subscriptions), connected.is_importing)
        assert 3 + AN_HOUR == days_ago(await newest(tool))
        assert count == len((await tool.states.get(name)).subscription_ids)


async def test_a_connection_that_is_interrupted_before_its_import_imports_when_it_is_connected_again(
    tool: ConnectedTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await remove(tool)
    with monkeypatch.context() as patch:
        patch.setattr("app.connections.connect.start_automatic", fail)
        with pytest.raises(RedisUnavailable):
            await connect(tool)

    assert (await connect(tool)).is_importing
    assert not (await connect(tool)).is_importing


async def test_an_import_of_webhooks_that_a_person_sets_up_is_not_forgotten_either(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected_tool("housecallpro", redis) as tool:
        tool.vendor.faults = replace(tool.vendor.faults, forbidden=True)
        connections = Connections(tool.context, *stored_hooks(tool))
        request = ConnectRequest("housecallpro", "housecallpro")
        with monkeypatch.context() as patch:
            patch.setattr("app.connections.connect.start_automatic", fail)
            with pytest.raises(RedisUnavailable):
                await connections.connect(request)

        assert (await connections.connect(request)).is_importing
        assert not (await connections.connect(request)).is_importing


async def test_the_subscriptions_of_a_hook_that_cannot_be_used_stay_known(tool: ConnectedTool) -> None:
    stored, actions = stored_hooks(tool)
    await stored.load()
    before = await tool.states.get("east")
    settings = {name: hook for name, hook in tool.context.settings.stored_hooks.items() if name != "east"}
    unusable = replace(tool.context, settings=tool.context.settings.with_stored_hooks(settings))
    request = ConnectRequest(
        "calendly", "east", {"TOKEN": "rejected"}, settings={"api_url": str(tool.hook.settings.api_url)}
    )

    with pytest.raises(VisitsApiError):
        await Connections(unusable, stored, actions).connect(request)

    assert before.subscription_ids == (await tool.states.get("east")).subscription_ids != ()


async def fail(*_: object) -> CatchUp:
    raise RedisUnavailable("the connection is lost")


# -- after another catch-up --


async def catch_up_of(tool: ConnectedTool, status: CatchUpStatus, since: datetime, cause: str) -> CatchUp:
    """Store a catch-up that is open, or has ended like this."""
    started = await start(tool.context, new_catch_up("east", since, "ada", cause))
    await store_of(tool.context).save(replace(started, status=status))
    return started


@pytest.mark.parametrize(
    ("status", "cause", "days", "listed"),
    [
        ("running", "repaired", 3, 3),
        ("queued", "operator", 30, 30),
        ("failed", "repaired", 3, 3),
        ("failed", "operator", 30, 7),  # it may have failed because it went back too far
        ("done", "repaired", 3, 0),
        ("cancelled", "repaired", 3, 0),
    ],
)
async def test_a_catch_up_lists_what_the_one_before_it_did_not(
    tool: ConnectedTool, status: CatchUpStatus, cause: str, days: int, listed: int
) -> None:
    await catch_up_of(tool, status, datetime.now(UTC) - days * DAY, cause)

    later = await start_automatic(tool.context, "east", datetime.now(UTC), "Doorbell", "repaired")

    assert listed == days_ago(later)
    assert later.id == (await newest(tool)).id
    assert later.since_ms == later.changed_since_ms


@pytest.mark.parametrize(
    ("cause", "minutes", "is_started"), [("downtime", 61, True), ("downtime", 59, False), ("operator", 61, False)]
)
async def test_an_automatic_catch_up_that_failed_starts_again_after_an_hour(
    tool: ConnectedTool, cause: str, minutes: int, is_started: bool
) -> None:
    """A tool may reject a request by mistake, and the check of the connection may not notice it."""
    since = datetime.now(UTC) - 2 * DAY
    await start(tool.context, new_catch_up("east", since, "Doorbell", cause))
    tool.vendor.faults = Faults(unauthorized=True)
    failed = await run_catch_up(tool)
    ended_at = datetime.now(UTC) - timedelta(minutes=minutes)
    assert await store_of(tool.context).save(replace(failed, ended_at_ms=ms(ended_at)))
    tool.vendor.faults = Faults()
    runners = [CatchUpRunner(tool.context, stored_hooks(tool)[0]) for _ in range(2)]

    await asyncio.gather(*(runner.restart_failed() for runner in runners))

    later = await newest(tool)
    assert ("failed", is_started, cause) == (failed.status, later.id != failed.id, later.cause)
    assert abs(later.since_ms - ms(since)) < 1_000


async def test_the_catch_up_of_a_hook_that_was_removed_does_not_start_again_for_another_hook_of_its_name(
    tool: ConnectedTool,
) -> None:
    await start_automatic(tool.context, "east", datetime.now(UTC) - DAY, "Doorbell", "downtime")
    catch_up = await newest(tool)
    hooks = dict(tool.context.settings.stored_hooks)
    tool.context.settings.set_stored_hooks({})
    runner = CatchUpRunner(tool.context, stored_hooks(tool)[0])
    await runner._run("east")
    tool.context.settings.set_stored_hooks(hooks)
    failed = await newest(tool)
    await store_of(tool.context).save(replace(failed, ended_at_ms=ms(NOW - DAY)))

    await runner.restart_failed()

    assert ("failed", catch_up.id) == ((await newest(tool)).status, (await newest(tool)).id)


async def test_a_check_shows_that_an_automatic_catch_up_failed(tool: ConnectedTool) -> None:
    started = await start_automatic(tool.context, "east", datetime.now(UTC), "Doorbell", "downtime")
    await store_of(tool.context).save(replace(started, status="failed", problem="Calendly rejects it."))

    failed = await check(tool)
    await start_automatic(tool.context, "east", datetime.now(UTC), "Doorbell", "downtime")
    open_again = await check(tool)

    assert "the last catch-up failed, and starts again after an hour: Calendly rejects it." == failed.detail
    assert ("healthy", "") == (failed.state, open_again.detail)


@pytest.mark.parametrize(("cause", "listed"), [("repaired", 3), ("operator", 0)])
async def test_a_person_plans_with_what_an_automatic_catch_up_did_not_list(
    tool: ConnectedTool, cause: str, listed: int
) -> None:
    """Of two catch-ups that persons planned, the later one counts: its plan was confirmed."""
    await catch_up_of(tool, "running", datetime.now(UTC) - 3 * DAY, cause)
    requests = CatchUpRequests(tool.context, stored_hooks(tool)[1])
    since = datetime.now(UTC)

    plan, planned = await requests.plan("east", since), await requests.start_plan("east", since)
    started = await requests.start("east", since)

    assert listed == round((since - plan.since) / DAY, 2) == days_ago(planned) == days_ago(started)


@pytest.mark.parametrize("status", ["failed", "cancelled", "done"])
async def test_a_daily_catch_up_begins_where_the_last_complete_one_ended(redis: Redis, status: CatchUpStatus) -> None:
    """Not where a narrow, failed or cancelled one ended."""
    async with connected_tool("calcom", redis) as tool:
        runner = CatchUpRunner(tool.context, stored_hooks(tool)[0])
        await runner.start_daily()
        await run_catch_up(tool)
        first = await requested_days_ago(tool, 3)
        narrow = await start(tool.context, new_catch_up("calcom", datetime.now(UTC), "ada", "operator"))
        await (run_catch_up(tool) if status == "done" else store_of(tool.context).save(replace(narrow, status=status)))
        await requested_days_ago(tool, 2)
        await redis.command("DEL", "bell:catch-up:calcom:daily:lock")  # which lasts 20 s

        await runner.start_daily()

        later = await newest(tool)
        assert ("daily", first.requested_at_ms - 3_600_000) == (later.cause, later.since_ms)
        await run_catch_up(tool)
        assert later.requested_at_ms == await store_of(tool.context).listed_up_to_ms("calcom")


async def test_other_catch_ups_do_not_postpone_the_daily_one(redis: Redis) -> None:
    async with connected_tool("calcom", redis) as tool:
        runner = CatchUpRunner(tool.context, stored_hooks(tool)[0])
        await runner.start_daily()
        await run_catch_up(tool)
        await requested_days_ago(tool, 1.1)
        await start_automatic(tool.context, "calcom", datetime.now(UTC), "Doorbell", "repaired")
        await run_catch_up(tool)
        await redis.command("DEL", "bell:catch-up:calcom:daily:lock")

        await runner.start_daily()

        assert "daily" == (await newest(tool)).cause


async def requested_days_ago(tool: ConnectedTool, days: float) -> CatchUp:
    """Let the newest catch-up, and what it completed, be some days old."""
    store = store_of(tool.context)
    catch_up = await newest(tool)
    was_complete = await store.listed_up_to_ms(tool.hook.name) == catch_up.requested_at_ms
    catch_up = replace(catch_up, requested_at_ms=ms(datetime.now(UTC) - days * DAY))
    assert await store.save(catch_up, catch_up.requested_at_ms if was_complete else 0)
    return catch_up


@pytest.mark.parametrize("step", ["start", "_call"])
async def test_progress_does_not_replace_a_newer_catch_up(
    tool: ConnectedTool, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    tool.vendor.calendar.book(NOW + DAY, "coming@example.com")
    await start(tool.context, new_catch_up("east", NOW, "ada", "operator"))
    newer = start_another_before(step, tool, monkeypatch)

    await CatchUpRunner(tool.context, stored_hooks(tool)[0]).run_next()

    assert [(await newest(tool)).id] == newer
    assert "queued" == (await newest(tool)).status


async def test_the_error_of_a_catch_up_does_not_end_a_newer_one(
    tool: ConnectedTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool.vendor.faults = Faults(unauthorized=True)
    await start(tool.context, new_catch_up("east", NOW, "ada", "operator"))
    newer = start_another_before("start", tool, monkeypatch)

    await CatchUpRunner(tool.context, stored_hooks(tool)[0]).run_next()

    assert [(await newest(tool)).id] == newer
    assert ("queued", "") == ((await newest(tool)).status, (await newest(tool)).problem)


def start_another_before(step: str, tool: ConnectedTool, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Start another catch-up before the running one does its first step of this name. Return the list that gets its id."""
    real, started = getattr(Lister, step), list[str]()

    async def start_and_do(lister: Lister, *arguments: Any) -> Any:
        if not started:
            started.append((await start(tool.context, new_catch_up("east", NOW, "ben", "operator"))).id)
        return await real(lister, *arguments)

    monkeypatch.setattr(Lister, step, start_and_do)
    return started


async def test_a_catch_up_that_only_another_key_can_decrypt_is_left_to_the_other_workers(tool: ConnectedTool) -> None:
    newer_key = tool.context.settings.model_copy(update={"secret_key": ["another-key-of-32-characters-for-tests"]})
    other = replace(tool.context, settings=newer_key)
    started = await start(other, new_catch_up("east", NOW, "ada", "operator"))

    await CatchUpRunner(tool.context, stored_hooks(tool)[0]).run_next()

    stored = await store_of(other).get("east")
    assert stored
    assert (started.id, "queued") == (stored.id, stored.status)
    assert ["east"] == await store_of(other).open_slots()
