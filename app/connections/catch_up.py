"""Catching up: lists the appointments of a tool, and stores the changes that no webhook reported.

A listed appointment becomes a delivery of our own with the changes that its webhook would have, so it merges like any other:
a second or late catch-up is safe. Creating a visit can start a review request. Therefore appointments that began before
`since` are stored only if Doorbell has their visit.
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
from app.connections.context import CallContext
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
#: How long a worker works on one catch-up before the next one, and the number of queued visits that makes it wait.
TURN_S, MAX_QUEUED = 20.0, 200
DAY_MS = 86_400_000
NOT_CONFIGURED = "the hook, its list or its credentials are no longer configured"
FIRST_RETRY_S, MAX_RETRY_S, MAX_FAILED_ATTEMPTS = 10, 3_600, 30


def store_of(context: CallContext) -> CatchUps:
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
    hook: str, since: datetime, requested_by: str, cause: str, changed_since: datetime | None = None
) -> CatchUp:
    now = datetime.now(UTC)
    times = (since, now + HORIZON, changed_since or since)
    since_ms, until_ms, changed_since_ms = (int(each.timestamp() * 1000) for each in times)
    requested_at_ms = int(now.timestamp() * 1000)
    return CatchUp(new_token(), hook, since_ms, until_ms, changed_since_ms, requested_by, requested_at_ms, cause)


async def default_since(context: CallContext, hook: str) -> datetime:
    """Return since when webhooks may have been missed: the connection's last healthy moment, with an overlap; else now."""
    state = await ConnectionStates(context.ledger.redis).get(hook)
    if not state.healthy_at_ms:
        return datetime.now(UTC)
    return datetime.fromtimestamp(state.healthy_at_ms / 1000, UTC) - OVERLAP


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
            is_due = newest is None or (not newest.is_open and newest.requested_at_ms < now_ms - DAY_MS)
            if is_due and await take_turn(self._context.ledger.redis, f"{keys.CATCH_UP}{name}:daily:lock", TURN_S):
                since = (
                    datetime.fromtimestamp(newest.requested_at_ms / 1000, UTC) - OVERLAP
                    if newest
                    else datetime.now(UTC)
                )
                await store.save(new_catch_up(name, since, "Doorbell", "daily"))

    async def _run(self, slot: str) -> None:
        store, settings, name = store_of(self._context), self._context.settings, slot.removesuffix(PLAN)
        catch_up = await store.get(slot)
        if catch_up is None or not catch_up.is_open:
            await (store.save(catch_up) if catch_up else store.remove(slot))  # cancelled, or unreadable
            return
        if not self._is_configured(name):
            await store.save(ended(catch_up, "failed", NOT_CONFIGURED))
            return
        if not catch_up.is_due(self._context.ledger.redis.now_ms()):
            return
        hook = settings.hook(name)
        try:
            await self._continue(hook, catch_up)
        except (ClientError, Unauthorized, Refused, Untranslatable, CredentialsMissing, VisitsApiError) as error:
            current = await store.get(slot) or catch_up
            now_ms = self._context.ledger.redis.now_ms()
            await store.save(after_error(current, error, hook.source.definition.title, now_ms))

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
            await store.save(catch_up)
        async for listed, remaining in lister.pages([decode_request(each) for each in catch_up.remaining]):
            for each, result in listed:
                if result == "changed" and not catch_up.is_plan:
                    await self._store(hook, catch_up, each)
            catch_up = counted(catch_up, listed, remaining)
            current = await store.get(catch_up.slot)
            if current is None or current.id != catch_up.id:
                return  # a newer one replaces it
            if not current.is_open:
                await store.save(ended(catch_up, "cancelled"))
                return
            if not self._is_configured(hook.name):
                await store.save(ended(catch_up, "failed", NOT_CONFIGURED))
                return
            if not remaining:
                catch_up = ended(catch_up, "done")
            await store.save(catch_up)
            if time.monotonic() > deadline or await self._has_backlog():
                return
        if not catch_up.remaining and catch_up.is_open:
            await store.save(ended(catch_up, "done"))

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


def counted(
    catch_up: CatchUp, listed: Sequence[tuple[ListedChanges, CatchUpResult]], remaining: Sequence[ListRequest]
) -> CatchUp:
    counts = Counter(catch_up.counts)
    counts.update(result for _, result in listed)
    now_ms = int(time.time() * 1000)
    past = sum(result == "changed" and starts_before(each.changes, now_ms) for each, result in listed)
    return replace(
        catch_up,
        counts=dict(counts),
        new_past=catch_up.new_past + past,
        remaining=[encode_request(each) for each in remaining],
        problem="",
        failed_attempts=0,
    )


def ended(catch_up: CatchUp, status: CatchUpStatus, problem: str = "") -> CatchUp:
    log.info("catch_up_ended", hook=catch_up.hook, outcome=status, counts=dict(catch_up.counts))
    return replace(catch_up, status=status, remaining=(), problem=problem, ended_at_ms=int(time.time() * 1000))


def after_error(catch_up: CatchUp, error: Exception, title: str, now_ms: float) -> CatchUp:
    """Return the catch-up after a failed call: it waits, or it failed for good."""
    sentence = describe(error, title)
    can_retry = isinstance(error, VisitsApiError) and not isinstance(error, ClientError | Unauthorized)
    attempts = catch_up.failed_attempts + 1
    if not can_retry or attempts > MAX_FAILED_ATTEMPTS:
        return ended(catch_up, "failed", sentence)
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
