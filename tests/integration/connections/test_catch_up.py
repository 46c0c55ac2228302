"""Catching up: which listed appointments are stored, and how a catch-up goes on after an interruption."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.connections.catch_up import CatchUpRunner, counted, new_catch_up, plan, start, store_of
from app.connections.catch_up_requests import CatchUpRequests
from app.connections.connect import Connections
from app.connections.listing import ListedChanges
from app.connections.stored_hooks import StoredHooks
from app.ledger.catch_ups import CatchUp, CatchUpResult
from app.ledger.ids import is_listed
from app.ledger.moves import Mark, save_mark
from app.ledger.records import DeliveryInfo, NewDelivery
from app.ledger.redis import Redis
from app.operators.actions import Actions, Actor
from app.operators.explain import merge_visit
from app.telemetry.silence import delivery_times
from app.vendors.api import load_vendor
from app.vendors.vendor import Webhook
from app.visits.change import Action, VisitChange, format_time
from app.visits.merge import desired_visit
from app.webhooks.delivery import Delivery
from app.webhooks.registry import load_sources
from app.webhooks.source import Ignored
from app.webhooks.subscription import ListedRecord
from app.webhooks.translation import parse_event
from tests.support.vendors import ConnectedTool, connected_tool, subscribed_tool

LISTABLE = [name for name in load_sources() if load_sources()[name].listing and load_vendor(name).has_appointments]
NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
TOMORROW = NOW + timedelta(days=1)
ACTIONS: tuple[Action, ...] = ("create", "update", "cancel")


@pytest.fixture(params=LISTABLE)
async def tool(request: pytest.FixtureRequest, redis: Redis) -> AsyncIterator[ConnectedTool]:
    async with subscribed_tool(request.param, redis) as tool:
        yield tool


@pytest.fixture
async def calendly(redis: Redis) -> AsyncIterator[ConnectedTool]:
    async with connected_tool("calendly", redis) as tool:
        yield tool


async def run(tool: ConnectedTool, since: datetime | None = None) -> CatchUp:
    """Catch up as a worker does, and return the end."""
    store = store_of(tool.context)
    if since:
        await start(tool.context, new_catch_up(tool.hook.name, since, "ada", "operator"))
    runner = CatchUpRunner(tool.context, StoredHooks(tool.context.ledger.redis, tool.context.settings))
    for _ in range(20):
        await runner.run_next()
        catch_up = await store.get(tool.hook.name)
        assert catch_up
        if not catch_up.is_open:
            break
    return catch_up


async def visit_count(tool: ConnectedTool) -> int:
    return len(await tool.context.ledger.task_ids("queued"))


async def test_no_visit_of_the_past_is_created_unasked(tool: ConnectedTool) -> None:
    calendar = tool.vendor.calendar
    for days in (1, 20, 300):
        over = calendar.book(NOW - timedelta(days=days), f"past-{days}@example.com")
        calendar.complete(over.number)
    calendar.book(TOMORROW, "coming@example.com")

    ended = await run(tool, calendar.now() + timedelta(seconds=2))

    assert "done" == ended.status
    assert 1 == await visit_count(tool)


async def test_the_past_is_stored_if_a_person_asks_for_it(tool: ConnectedTool) -> None:
    tool.vendor.calendar.book(NOW - timedelta(days=20), "past@example.com")

    ended = await run(tool, NOW - timedelta(days=30))

    assert ("done", 1) == (ended.status, await visit_count(tool))


async def test_catching_up_twice_stores_nothing_new(tool: ConnectedTool) -> None:
    tool.vendor.calendar.book(TOMORROW, "coming@example.com")
    await run(tool, datetime.now(UTC))
    deliveries = await tool.context.ledger.redis.command("ZCARD", f"bell:deliveries:{tool.hook.name}")

    again = await run(tool, datetime.now(UTC))

    assert 0 == again.counts.get("changed", 0)
    assert deliveries == await tool.context.ledger.redis.command("ZCARD", f"bell:deliveries:{tool.hook.name}")


async def test_a_cancelled_appointment_of_a_visit_is_stored_when_it_is_over(calendly: ConnectedTool) -> None:
    """Doorbell has the visit, so nobody is asked wrongly: the visit is only cancelled."""
    booked = calendly.vendor.calendar.book(NOW - timedelta(days=2), "over@example.com")
    await run(calendly, NOW - timedelta(days=3))
    calendly.vendor.calendar.cancel(booked.number)

    ended = await run(calendly, NOW - timedelta(days=3))

    assert {"changed": 1} == ended.counts


@pytest.mark.parametrize("name", ["housecallpro", "oncehub"])
async def test_a_late_webhook_does_not_win_over_an_equal_but_newer_value_in_the_list(redis: Redis, name: str) -> None:
    """An appointment is moved twice, back to its first time, and only the webhook of the first move arrives, late."""
    async with subscribed_tool(name, redis) as tool:
        sent = list[Webhook]()
        calendar = tool.vendor.calendar
        calendar.on_change = lambda appointment, step: sent.extend(tool.vendor.webhooks(appointment, step))
        calendar.book(TOMORROW, "moved@example.com")
        booked, moved_at = list(sent), len(sent)
        calendar.move(1, TOMORROW + timedelta(hours=5))
        moved = sent[moved_at:]
        calendar.move(1, TOMORROW)
        await accept_webhooks(tool, booked)
        await asyncio.sleep(0.01)  # the clock of the fake may be ahead by some changes

        first, again = await run(tool, NOW), await run(tool, NOW)
        deliveries = await redis.command("ZCARD", f"bell:deliveries:{name}")
        await run(tool, NOW)
        assert deliveries == await redis.command("ZCARD", f"bell:deliveries:{name}")
        await accept_webhooks(tool, moved)

        [task_id] = await tool.context.ledger.task_ids("queued")
        visit = desired_visit(merge_visit(await tool.context.ledger.load_aliases(task_id)))
        assert format_time(TOMORROW) == visit.fields["time_scheduled"]
        assert (0, 0) == (first.counts.get("changed", 0), again.counts.get("changed", 0))


async def accept_webhooks(tool: ConnectedTool, webhooks: Sequence[Webhook]) -> None:
    """Store webhooks as intake does."""
    hook, [subscription] = tool.hook, tool.vendor.subscriptions.values()
    for webhook in webhooks:
        headers = tuple(
            (name.encode(), value.encode()) for name, value in tool.vendor.sign(webhook, subscription).items()
        )
        delivery = Delivery(hook.name, hook.source.name, headers, webhook.body, datetime.now(UTC))
        changes = hook.source.translate(parse_event(hook.source, delivery, hook.settings.zone))
        assert not isinstance(changes, Ignored)
        info = DeliveryInfo(hook.name, hook.source.name, int(time.time() * 1000))
        await tool.context.ledger.accept(NewDelivery(delivery, info, changes, hook.account, None))


async def test_a_plan_counts_and_stores_nothing(calendly: ConnectedTool) -> None:
    calendly.vendor.calendar.book(NOW - timedelta(days=2), "past@example.com")
    calendly.vendor.calendar.book(TOMORROW, "coming@example.com")
    requests = CatchUpRequests(
        calendly.context, Actions(calendly.context.ledger, calendly.context.settings, Actor("ada", "operator"))
    )

    plan = await requests.plan("calendly", NOW - timedelta(days=3))

    assert ({"changed": 2, "unchanged": 0, "past": 0, "unclear": 0}, 1) == (plan.counts, plan.new_past)
    assert 0 == await visit_count(calendly)


async def test_a_catch_up_continues_where_another_worker_stopped(
    calendly: ConnectedTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        calendly.vendor.calendar.book(TOMORROW + timedelta(hours=number), f"{number}@example.com")
    calendly.vendor.faults = replace(calendly.vendor.faults, page_size=1)
    monkeypatch.setattr("app.connections.catch_up.TURN_S", 0)  # every turn ends after one page

    ended = await run(calendly, datetime.now(UTC))

    assert ("done", {"changed": 6}) == (ended.status, ended.counts)
    paths = [path for method, path, _ in calendly.vendor.requests if path.endswith("/invitees")]
    assert len(paths) == len(set(paths)), "a page was read twice"


@pytest.mark.usefixtures("limited_rate")
async def test_the_rate_that_the_tool_allows_is_kept(calendly: ConnectedTool) -> None:
    """Of Calendly, a page of events and the invitees of each are listed."""
    for day in range(3):
        calendly.vendor.calendar.book(TOMORROW + timedelta(days=day))
    listing = calendly.hook.source.listing
    assert listing
    started = time.monotonic()

    await plan(calendly.context, calendly.hook, new_catch_up("calendly", NOW, "ada", "operator"))

    calls = [path for _, path, _ in calendly.vendor.requests if path.startswith("/scheduled_events")]
    assert 4 == len(calls)
    assert time.monotonic() - started > (len(calls) - 1) / listing.calls_per_s


async def test_a_slow_tool_does_not_delay_the_catch_ups_of_others(
    calendly: ConnectedTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    barrier = asyncio.Barrier(2)

    async def run_together(_: CatchUpRunner, hook: str) -> None:
        async with asyncio.timeout(5):
            await barrier.wait()

    monkeypatch.setattr(CatchUpRunner, "_run", run_together)
    for hook in ("calendly", "east"):
        await start(calendly.context, new_catch_up(hook, TOMORROW, "ada", "operator"))
    runner = CatchUpRunner(calendly.context, StoredHooks(calendly.context.ledger.redis, calendly.context.settings))

    await runner.run_next()


async def test_a_cancelled_catch_up_stops(calendly: ConnectedTool) -> None:
    calendly.vendor.calendar.book(TOMORROW, "coming@example.com")
    store = store_of(calendly.context)
    catch_up = new_catch_up("calendly", datetime.now(UTC), "ada", "operator")
    await start(calendly.context, catch_up)
    await store.cancel("calendly", catch_up.id)

    ended = await run(calendly)

    assert ("cancelled", 0) == (ended.status, await visit_count(calendly))


async def test_a_tool_that_is_down_is_asked_again_later(calendly: ConnectedTool) -> None:
    calendly.vendor.calendar.book(TOMORROW, "coming@example.com")
    calendly.vendor.faults = replace(calendly.vendor.faults, down=True)
    await start(calendly.context, new_catch_up("calendly", datetime.now(UTC), "ada", "operator"))
    runner = CatchUpRunner(calendly.context, StoredHooks(calendly.context.ledger.redis, calendly.context.settings))

    await runner.run_next()

    waiting = await store_of(calendly.context).get("calendly")
    assert waiting
    assert (True, 1) == (waiting.is_open, waiting.failed_attempts)
    assert "Calendly cannot be reached" in waiting.problem


@pytest.mark.parametrize(("hours_back", "attempts"), [(0, 1), (1, 2)])
async def test_a_wait_is_not_longer_after_the_clock_of_redis_went_back(
    calendly: ConnectedTool, hours_back: int, attempts: int
) -> None:
    calendly.vendor.faults = replace(calendly.vendor.faults, down=True)
    store = store_of(calendly.context)
    await start(calendly.context, new_catch_up("calendly", datetime.now(UTC), "ada", "operator"))
    runner = CatchUpRunner(calendly.context, StoredHooks(calendly.context.ledger.redis, calendly.context.settings))
    await runner.run_next()
    waiting = await store.get("calendly")
    assert waiting

    await store.save(replace(waiting, next_attempt_ms=waiting.next_attempt_ms + hours_back * 3_600_000))
    await runner.run_next()

    later = await store.get("calendly")
    assert later
    assert attempts == later.failed_attempts


async def test_rejected_credentials_end_a_catch_up_with_a_sentence(calendly: ConnectedTool) -> None:
    calendly.vendor.faults = replace(calendly.vendor.faults, unauthorized=True)

    ended = await run(calendly, datetime.now(UTC))

    assert ("failed", "Calendly rejects the credentials (401): The access token is invalid") == (
        ended.status,
        ended.problem,
    )


async def test_listed_deliveries_do_not_count_as_webhooks(calendly: ConnectedTool) -> None:
    calendly.vendor.calendar.book(TOMORROW, "coming@example.com")
    await run(calendly, datetime.now(UTC))

    [id] = await calendly.context.ledger.redis.command("ZRANGE", "bell:deliveries:calendly", 0, -1)
    assert is_listed(id.decode())
    assert [] == await delivery_times(calendly.context.ledger.redis, "calendly")


async def test_what_remains_is_encrypted(calendly: ConnectedTool, monkeypatch: pytest.MonkeyPatch) -> None:
    calendly.vendor.calendar.book(TOMORROW, "coming@example.com")
    monkeypatch.setattr("app.connections.catch_up.TURN_S", 0)
    await start(calendly.context, new_catch_up("calendly", datetime.now(UTC), "ada", "operator"))
    runner = CatchUpRunner(calendly.context, StoredHooks(calendly.context.ledger.redis, calendly.context.settings))

    await runner.run_next()

    stored = b"".join(await calendly.context.ledger.redis.command("HGETALL", "bell:catch-up:calendly"))
    assert b"Main Street" not in stored
    assert b"scheduled_events" not in stored


def test_a_cancelled_appointment_counts_as_no_past_visit_that_is_created() -> None:
    past = VisitChange(action="create", visit_id="1", version=1, time_scheduled=NOW - timedelta(days=1))
    listed: list[tuple[ListedChanges, CatchUpResult]] = [
        (ListedChanges(ListedRecord("1", {}), [replace(past, action=action)]), "changed") for action in ACTIONS
    ]

    assert 2 == counted(new_catch_up("calendly", NOW, "ada", "operator"), listed, []).new_past


async def test_a_daily_catch_up_starts_once_a_day(redis: Redis) -> None:
    async with connected_tool("calcom", redis) as tool:
        runner = CatchUpRunner(tool.context, StoredHooks(redis, tool.context.settings))
        await runner.start_daily()
        first = await store_of(tool.context).get("calcom")
        await run(tool)
        await runner.start_daily()
        second = await store_of(tool.context).get("calcom")

    assert first
    assert second
    assert ("daily", first.id) == (first.cause, second.id)


async def test_a_tool_that_retries_is_not_listed_daily(calendly: ConnectedTool) -> None:
    runner = CatchUpRunner(calendly.context, StoredHooks(calendly.context.ledger.redis, calendly.context.settings))

    await runner.start_daily()

    assert await store_of(calendly.context).get("calendly") is None


# -- a hook that is removed meanwhile --


@pytest.fixture
async def interrupted(calendly: ConnectedTool, monkeypatch: pytest.MonkeyPatch) -> ConnectedTool:
    """Return a tool with three appointments on pages of their own, whose hook `east` is stored."""
    for number in range(3):
        calendly.vendor.calendar.book(TOMORROW + timedelta(hours=number), f"{number}@example.com")
    calendly.vendor.faults = replace(calendly.vendor.faults, page_size=1)
    settings = calendly.hook.settings.model_copy(update={"source": "calendly"})
    stored, actions = stored_hooks(calendly)
    await stored.save("east", settings, actions)
    calendly.hook = calendly.context.settings.hook("east")
    return calendly


def stored_hooks(tool: ConnectedTool) -> tuple[StoredHooks, Actions]:
    settings, ledger = tool.context.settings, tool.context.ledger
    return StoredHooks(ledger.redis, settings), Actions(ledger, settings, Actor("ada", "operator"))


def after_the_first_visit(
    monkeypatch: pytest.MonkeyPatch, step: Callable[[StoredHooks, Actions], Awaitable[object]], tool: ConnectedTool
) -> None:
    """Do something as soon as the catch-up has stored an appointment."""
    store = CatchUpRunner._store
    is_done = False

    async def store_and_interrupt(runner: CatchUpRunner, *arguments: Any) -> None:
        nonlocal is_done
        await store(runner, *arguments)
        if not is_done:
            is_done = True
            stored, actions = stored_hooks(tool)
            await stored.load()
            await step(stored, actions)

    monkeypatch.setattr(CatchUpRunner, "_store", store_and_interrupt)


async def test_a_catch_up_of_a_hook_that_loses_its_credentials_ends(
    interrupted: ConnectedTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove_token(stored: StoredHooks, actions: Actions) -> Awaitable[object]:
        return stored.change("east", {}, actions, credentials={"TOKEN": ""})

    after_the_first_visit(monkeypatch, remove_token, interrupted)

    ended = await run(interrupted, datetime.now(UTC))

    problem = "the hook, its list or its credentials are no longer configured"
    assert ("failed", problem, 1) == (ended.status, ended.problem, await visit_count(interrupted))


@pytest.mark.parametrize("end", ["disconnect", "remove"])
async def test_a_catch_up_of_a_hook_that_is_disconnected_or_removed_leaves_nothing(
    interrupted: ConnectedTool, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    def remove_hook(stored: StoredHooks, actions: Actions) -> Awaitable[object]:
        if end == "remove":
            return stored.remove("east", actions)
        return Connections(interrupted.context, stored, actions).disconnect("east")

    after_the_first_visit(monkeypatch, remove_hook, interrupted)
    store = store_of(interrupted.context)
    await start(interrupted.context, new_catch_up("east", datetime.now(UTC), "ada", "operator"))

    await CatchUpRunner(interrupted.context, stored_hooks(interrupted)[0]).run_next()

    assert (None, 1) == (await store.get("east"), await visit_count(interrupted))
    assert [] == await store.open_slots()


async def test_nothing_is_caught_up_with_while_the_account_moves_to_another_cell(calendly: ConnectedTool) -> None:
    calendly.vendor.calendar.book(TOMORROW, "coming@example.com")
    mark = Mark("copying", "move-1", "elsewhere")
    redis, names = calendly.context.ledger.redis, [calendly.hook.name]
    await save_mark(redis, calendly.hook.account, names, Mark(), mark)

    catch_up = await run(calendly, NOW - timedelta(days=1))

    assert ("queued", 0) == (catch_up.status, await visit_count(calendly))
    await save_mark(redis, calendly.hook.account, names, mark, Mark())
    assert "done" == (await run(calendly)).status
    assert 1 == await visit_count(calendly)
