"""Catching up: lists the appointments of a tool, and stores the changes that no webhook reported.

A listed appointment becomes a delivery of our own with the changes that its webhook would have, so it merges like any other:
a second or late catch-up is safe. Creating a visit can start a review request. Therefore appointments that began before
`since` are stored only if Doorbell has their visit. A catch-up that no person planned goes back MAX_AUTOMATIC at most.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import orjson

from app.connections.catch_up_lister import Lister, digest_of, starts_before
from app.connections.connector import describe
from app.connections.context import CallContext, shared_now
from app.connections.listing import ListedChanges
from app.connections.stored_hooks import StoredHooks
from app.connections.tool_api import CredentialsMissing
from app.connections.turns import Turns
from app.ledger import keys
from app.ledger.catch_ups import PLAN, RESULTS, CatchUp, CatchUpResult, CatchUps, CatchUpStatus
from app.ledger.connection_states import ConnectionStates
from app.ledger.ids import new_token
from app.ledger.ledger import take_turn
from app.ledger.locks import LockContended, exclusive
from app.ledger.moves import moving_hooks
from app.ledger.records import DeliveryInfo, NewDelivery, RecordOutdated
from app.settings.model import Hook
from app.telemetry.logs import log
from app.telemetry.silence import delivery_times
from app.visits.client import ClientError, Unauthorized, VisitsApiError
from app.webhooks.delivery import Delivery
from app.webhooks.fetching import RecordRequest
from app.webhooks.payload import Untranslatable
from app.webhooks.source import LoadedSource
from app.webhooks.subscription import ListRequest, Refused

#: Appointments further ahead are not listed.
HORIZON = timedelta(days=366)
#: Before the moment at which a connection was last healthy, some webhooks may already have been lost.
OVERLAP = timedelta(hours=1)
#: A longer outage is for a person to decide on: the customers of all its appointments may be asked for a review.
MAX_AUTOMATIC = timedelta(days=7)
#: How long a worker works on one catch-up before the next one, and the number of queued visits that makes it wait.
TURN_S, MAX_QUEUED = 20.0, 200
DAY_MS = 86_400_000
#: The cause of a catch-up that a person planned.
OPERATOR = "operator"
NOT_CONFIGURED = "the hook, its list or its credentials are no longer configured"
FIRST_RETRY_S, MAX_RETRY_S, MAX_FAILED_ATTEMPTS = 10, 3_600, 30
#: An automatic catch-up that failed starts again after this time: a tool may refuse a request by mistake.
RESTART_MS = 3_600_000


def store_of(context: CallContext) -> CatchUps:
    """Return the catch-ups. Without SECRET_KEY, a token of the Visits API encrypts them: all processes have it."""
    settings = context.settings
    return CatchUps(context.ledger.redis, settings.secret_key or sorted(settings.tokens.values())[:1] or ["unset"])


def can_list(hook: Hook) -> bool:
    """Whether the appointments of this hook can be listed: the tool has a list, and the hook has its credentials."""
    source = hook.source
    return source.listing is not None and not source.definition.missing_credentials(hook.settings.credentials)


def is_daily(hook: Hook) -> bool:
    """Whether Doorbell looks for missed changes of this hook each day."""
    listing, chosen = hook.source.listing, hook.settings.reconcile
    return can_list(hook) and (chosen == "daily" or (chosen is None and listing is not None and listing.is_daily))


def new_catch_up(
    hook: str,
    since: datetime,
    requested_by: str,
    cause: str,
    changed_since: datetime | None = None,
    now: datetime | None = None,
) -> CatchUp:
    """now: by the clock that all processes share."""
    now = now or datetime.now(UTC)
    times = (since, now + HORIZON, changed_since or since)
    since_ms, until_ms, changed_since_ms = (int(each.timestamp() * 1000) for each in times)
    requested_at_ms = int(now.timestamp() * 1000)
    return CatchUp(new_token(), hook, since_ms, until_ms, changed_since_ms, requested_by, requested_at_ms, cause)


async def default_since(context: CallContext, hook: str) -> datetime:
    """Return since when webhooks may have been missed: the connection's last healthy moment, with an overlap; else now.

    If the tool cannot be asked, its newest webhook shows when the connection was healthy.
    """
    redis, subscription = context.ledger.redis, context.settings.source_for(hook).subscription
    state = await ConnectionStates(redis).get(hook)
    healthy_at_ms = state.healthy_at_ms
    if state.connected_at_ms and not (subscription and subscription.can_ask):
        webhooks_ms = [int(time * 1000) for time in await delivery_times(redis, hook)]
        healthy_at_ms = max([healthy_at_ms, *(each for each in webhooks_ms if each >= state.connected_at_ms)])
    return _time(healthy_at_ms) - OVERLAP if healthy_at_ms else shared_now(context)


async def start(context: CallContext, catch_up: CatchUp) -> CatchUp:
    """Store a catch-up for a worker. It replaces the newest one of its hook, and lists what that one did not."""
    store = store_of(context)
    while True:
        replaced_id = await store.stored_id(catch_up.slot)
        started = with_reach_of(catch_up, await store.get(catch_up.hook))
        if await store.replace(started, replaced_id):
            return started


def with_reach_of(catch_up: CatchUp, before: CatchUp | None) -> CatchUp:
    """Return the catch-up so that it lists what an unfinished or failed one before it would have listed.

    One of an operator is not widened by another of an operator. A failed one may have failed because it went back too far.
    """
    if before is None or before.status in ("done", "cancelled") or catch_up.cause == before.cause == OPERATOR:
        return catch_up
    earliest_ms = 0 if before.is_open else catch_up.requested_at_ms - _ms(MAX_AUTOMATIC)
    since_ms, changed_since_ms = (max(earliest_ms, each) for each in (before.since_ms, before.changed_since_ms))
    return _noting_missed(
        replace(
            catch_up,
            since_ms=min(catch_up.since_ms, since_ms),
            changed_since_ms=min(catch_up.changed_since_ms, changed_since_ms),
        ),
        *(each for each in (catch_up.missed_since_ms, before.missed_since_ms, before.since_ms) if each),
    )


async def start_automatic(
    context: CallContext, hook: str, missed_since: datetime, requested_by: str, cause: str
) -> CatchUp:
    """Start a catch-up that no person planned. missed_since: since when webhooks may have been missed."""
    catch_up = new_catch_up(hook, missed_since, requested_by, cause, now=shared_now(context))
    earliest_ms, missed_since_ms = catch_up.requested_at_ms - _ms(MAX_AUTOMATIC), catch_up.since_ms
    if missed_since_ms < earliest_ms:
        catch_up = replace(catch_up, since_ms=earliest_ms, changed_since_ms=earliest_ms)
        log.warning("catch_up_shortened", hook=hook, cause=cause, missed_since=f"{missed_since:%Y-%m-%dT%H:%M:%SZ}")
    return await start(context, _noting_missed(catch_up, missed_since_ms))


def _noting_missed(catch_up: CatchUp, *missed_since_ms: int) -> CatchUp:
    earliest_ms = min(missed_since_ms, default=0)
    return replace(catch_up, missed_since_ms=earliest_ms if earliest_ms < catch_up.since_ms else 0)


def advice_about(catch_up: CatchUp) -> str:
    """Return the sentence about what an automatic catch-up does not list; empty if it lists everything."""
    if not catch_up.missed_since_ms:
        return ""
    missed_since, since = (f"{_time(ms):%Y-%m-%d}" for ms in (catch_up.missed_since_ms, catch_up.since_ms))
    return (
        f"what was missed between {missed_since} and {since} is not listed automatically: plan it with "
        f"`doorbell catch-up {catch_up.hook} --since {missed_since}`"
    )


def failure_of(catch_up: CatchUp | None) -> str:
    """Return the sentence about an automatic catch-up that failed, and starts again; empty if the newest one is another.

    One of a hook that was removed does not start again: a hook that gets its name later may have another account.
    """
    if catch_up is None or catch_up.cause == OPERATOR or catch_up.status != "failed":
        return ""
    if catch_up.problem == NOT_CONFIGURED:
        return ""
    return f"the last catch-up failed, and starts again after an hour: {catch_up.problem}"


def _ms(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1000)


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


class CatchUpRunner:
    """Runs the catch-ups that are due: the step of a worker. Several workers take turns, one at a time for each hook."""

    def __init__(self, context: CallContext, stored: StoredHooks) -> None:
        self._context, self._stored, self._turns = context, stored, Turns()

    async def run_next(self) -> None:
        """Run each open catch-up and each plan for a while. Raises RedisUnavailable."""
        slots = await store_of(self._context).open_slots()
        if slots:
            await self._stored.refresh()  # a hook that was just connected may not be loaded yet
        moving = await moving_hooks(self._context.ledger.redis, [slot.removesuffix(PLAN) for slot in slots])
        await self._turns.run([slot for slot in slots if slot.removesuffix(PLAN) not in moving], self._run_alone)

    async def aclose(self) -> None:
        """Cancel what still runs."""
        await self._turns.aclose()

    async def _run_alone(self, slot: str) -> None:
        with suppress(LockContended):
            async with exclusive(self._context.ledger, f"{keys.CATCH_UP}{slot.removesuffix(PLAN)}:lock"):
                await self._run(slot)

    async def start_daily(self) -> None:
        """Start the daily reconciliations that are due. Raises RedisUnavailable."""
        settings, store = self._context.settings, store_of(self._context)
        names = [name for name in settings.active_hooks if is_daily(settings.hook(name))]
        moving = await moving_hooks(self._context.ledger.redis, names)
        for name in names:
            if name in moving:
                continue
            newest, now_ms = await store.get(name), self._context.ledger.redis.now_ms()
            listed_up_to_ms = await store.listed_up_to_ms(name)
            if _is_daily_due(newest, listed_up_to_ms, now_ms) and await take_turn(
                self._context.ledger.redis, f"{keys.CATCH_UP}{name}:daily:lock", TURN_S
            ):
                since = _time(listed_up_to_ms) - OVERLAP if listed_up_to_ms else shared_now(self._context)
                await start_automatic(self._context, name, since, "Doorbell", "daily")

    async def restart_failed(self) -> None:
        """Start automatic catch-ups again that failed an hour ago. Raises RedisUnavailable."""
        settings, store, redis = self._context.settings, store_of(self._context), self._context.ledger.redis
        names = [name for name in settings.active_hooks if can_list(settings.hook(name))]
        moving = await moving_hooks(redis, names)
        for name in names:
            newest = await store.get(name)
            if name in moving or newest is None or not failure_of(newest):
                continue
            is_due = redis.now_ms() - newest.ended_at_ms >= RESTART_MS
            if is_due and await take_turn(redis, f"{keys.CATCH_UP}{name}:daily:lock", TURN_S):
                missed_since = _time(newest.missed_since_ms or newest.since_ms)
                await start_automatic(self._context, name, missed_since, newest.requested_by, newest.cause)

    async def _run(self, slot: str) -> None:
        store, settings, name = store_of(self._context), self._context.settings, slot.removesuffix(PLAN)
        catch_up = await store.get(slot)
        if catch_up is None:  # it has expired, or only a process with another SECRET_KEY can read it
            await store.remove(slot, "")
            return
        if not catch_up.is_open:
            await store.save(catch_up)  # it is cancelled
            return
        if not self._is_configured(name):
            await store.save(self._ended(catch_up, "failed", NOT_CONFIGURED))
            return
        if not catch_up.is_due(self._context.ledger.redis.now_ms()):
            return
        hook = settings.hook(name)
        try:
            await self._continue(hook, catch_up)
        except (Refused, Untranslatable, CredentialsMissing, VisitsApiError) as error:
            current = await store.get(slot)
            if current and current.id == catch_up.id:
                now_ms = self._context.ledger.redis.now_ms()
                await store.save(after_error(current, error, hook.source.definition.title, now_ms))

    def _ended(self, catch_up: CatchUp, status: CatchUpStatus, problem: str = "") -> CatchUp:
        return ended(catch_up, status, self._context.ledger.redis.now_ms(), problem)

    def _is_configured(self, name: str) -> bool:
        settings = self._context.settings
        return name in settings.hooks and can_list(settings.hook(name))

    async def _continue(self, hook: Hook, catch_up: CatchUp) -> None:
        """Store the changes page by page. After each page the progress is stored, so that another worker can continue."""
        store, deadline = store_of(self._context), time.monotonic() + TURN_S
        lister = Lister(self._context, hook, catch_up)
        if catch_up.status == "queued":
            requests = await lister.start()
            catch_up = replace(catch_up, status="running", remaining=[encode_request(each) for each in requests])
            if not await store.save(catch_up):
                return  # a newer one replaces it, or the hook was disconnected
        async for listed, remaining in lister.pages([decode_request(each) for each in catch_up.remaining]):
            for each, result in listed:
                if (result == "changed" or each.is_newer) and not catch_up.is_plan:
                    await self._store(hook, catch_up, each)
            catch_up = counted(catch_up, listed, remaining)
            current = await store.get(catch_up.slot)
            if current and current.id == catch_up.id and not current.is_open:
                await store.save(self._ended(catch_up, "cancelled"))
                return
            if not self._is_configured(hook.name):
                await store.save(self._ended(catch_up, "failed", NOT_CONFIGURED))
                return
            if not await store.save(catch_up):
                return
            if remaining and (time.monotonic() > deadline or await self._has_backlog()):
                return
        await self._end(catch_up)

    async def _end(self, catch_up: CatchUp) -> None:
        """Store that everything was listed, and up to when, if it began where an automatic one would have begun."""
        store = store_of(self._context)
        before_ms = await store.listed_up_to_ms(catch_up.hook)
        begin_ms = max(before_ms, catch_up.requested_at_ms - _ms(MAX_AUTOMATIC))
        is_complete = not before_ms or max(catch_up.since_ms, catch_up.changed_since_ms) <= begin_ms
        is_listed = is_complete and not catch_up.is_plan
        await store.save(self._ended(catch_up, "done"), catch_up.requested_at_ms if is_listed else 0)

    async def _store(self, hook: Hook, catch_up: CatchUp, listed: ListedChanges) -> None:
        """Store a delivery of our own. The same record of the same catch-up is stored once."""
        record, now = listed.record, datetime.now(UTC)
        if listed.booking:
            booking, people = listed.booking
            with suppress(RecordOutdated):
                await self._context.ledger.add_people(hook.account, booking, record.requested_at or now, people)
        delivery = Delivery(hook.name, hook.source.name, (), encode_body(hook.source, record.body), now)
        info = DeliveryInfo(hook.name, hook.source.name, int(now.timestamp() * 1000), event_name="listed")
        await self._context.ledger.accept(
            NewDelivery(
                delivery,
                info,
                listed.changes,
                hook.account,
                dedup_id=f"{catch_up.id} {digest_of(record)}",
                event_state="parked" if listed.problem else "",
                reason=f"untranslatable: {listed.problem}" if listed.problem else "",
                is_listed=True,
            )
        )

    async def _has_backlog(self) -> bool:
        """Whether too many visits are queued: webhooks have priority."""
        return int(await self._context.ledger.redis.command("ZCARD", keys.VISITS_QUEUE)) > MAX_QUEUED


def encode_body(source: LoadedSource, body: Mapping[str, Any]) -> bytes:
    """Return the body as the tool would send it, so that the delivery can be translated again."""
    return urlencode(body).encode() if source.definition.body_format == "form" else orjson.dumps(body)


def encode_request(request: ListRequest) -> dict[str, Any]:
    sent = {
        each.name: value
        for each in fields(RecordRequest)
        if each.name != "follow_up" and (value := getattr(request.request, each.name)) not in (None, {}, ())
    }
    return {"request": sent, "context": request.context, "can_be_missing": request.can_be_missing}


def decode_request(stored: Mapping[str, Any]) -> ListRequest:
    return ListRequest(RecordRequest(**stored["request"]), stored["context"], stored.get("can_be_missing", False))


def _is_daily_due(newest: CatchUp | None, listed_up_to_ms: int, now_ms: float) -> bool:
    """Return whether a day has passed since the newest catch-up; if that listed only a part, since the last complete one."""
    if newest is None or newest.is_open:
        return newest is None
    is_partial = newest.status == "done" and 0 < listed_up_to_ms < newest.requested_at_ms
    return (listed_up_to_ms if is_partial else newest.requested_at_ms) < now_ms - DAY_MS


def counted(
    catch_up: CatchUp, listed: Sequence[tuple[ListedChanges, CatchUpResult]], remaining: Sequence[ListRequest]
) -> CatchUp:
    counts = Counter(catch_up.counts)
    counts.update(result for _, result in listed)
    now_ms = int(time.time() * 1000)
    past = sum(
        result == "changed" and starts_before(each.changes, now_ms) and not _only_cancels(each)
        for each, result in listed
    )
    return replace(
        catch_up,
        counts=dict(counts),
        new_past=catch_up.new_past + past,
        remaining=[encode_request(each) for each in remaining],
        problem="",
        failed_attempts=0,
    )


def _only_cancels(listed: ListedChanges) -> bool:
    return all(change.action == "cancel" for change in listed.changes)


def ended(catch_up: CatchUp, status: CatchUpStatus, now_ms: float, problem: str = "") -> CatchUp:
    fields = {"hook": catch_up.hook, "outcome": status, "counts": dict(catch_up.counts)}
    if status == "failed":
        log.warning("catch_up_ended", reason=problem, **fields)
    else:
        log.info("catch_up_ended", **fields)
    return replace(catch_up, status=status, remaining=(), problem=problem, ended_at_ms=int(now_ms))


def after_error(catch_up: CatchUp, error: Exception, title: str, now_ms: float) -> CatchUp:
    """Return the catch-up after a failed call: it waits, or it failed for good."""
    sentence = describe(error, title)
    can_retry = isinstance(error, VisitsApiError) and not isinstance(error, ClientError | Unauthorized)
    attempts = catch_up.failed_attempts + 1
    if not can_retry or attempts > MAX_FAILED_ATTEMPTS:
        return ended(catch_up, "failed", now_ms, sentence)
    asked_s = error.wait_s if isinstance(error, VisitsApiError) and error.wait_s is not None else 0
    wait_ms = int(1000 * max(asked_s, min(FIRST_RETRY_S * 2 ** (attempts - 1), MAX_RETRY_S)))
    return replace(
        catch_up, failed_attempts=attempts, next_attempt_ms=int(now_ms) + wait_ms, wait_ms=wait_ms, problem=sentence
    )


async def plan(context: CallContext, hook: Hook, catch_up: CatchUp) -> tuple[dict[CatchUpResult, int], int]:
    """List everything and store nothing. Return the counts by result, and how many new visits would be in the past."""
    lister = Lister(context, hook, catch_up)
    async for listed, remaining in lister.pages(await lister.start()):
        catch_up = counted(catch_up, listed, remaining)
    return {result: catch_up.counts.get(result, 0) for result in RESULTS}, catch_up.new_past
