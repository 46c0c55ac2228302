"""Runs `jobs.apply_visit` in process, on a real Redis and against the sandbox."""

import asyncio
import contextlib
import itertools
import random
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

import httpx
from httpx_aiohttp import AiohttpTransport

from app.ledger.ledger import Ledger
from app.ledger.records import DeliveryInfo, Task
from app.ledger.redis import Redis
from app.settings.environment import read_environment
from app.visits.change import UNSET, Contact, VisitChange
from app.webhooks.delivery import Delivery
from jobs.apply_visit import run_visit
from jobs.context import Context
from jobs.translate_event import run_event
from tests.support.harness import SECRET, TOKEN, Harness, unread_response

DOCUMENTED = "cont_KYdl3lftgZXGRbxqoj"

ADA = Contact(email="ada@example.com", first_name="Ada", last_name="Lovelace", phone="+15550100001")

BOB = Contact(email="bob@example.com", first_name="Bob")

FIRST = ["GET /visits/:id", "GET /contacts", "POST /contacts", "POST /visits"]


def at(hour: int, day: int = 14) -> datetime:
    return datetime(2026, 3, day, hour, tzinfo=UTC)


def change(visit_id: str = "1", version: int = 1, action: Any = "update", **said: Any) -> VisitChange:
    return VisitChange(action=action, visit_id=visit_id, version=version, **said)


def booked(visit_id: str = "1", version: int = 1, hour: int = 9, **said: Any) -> VisitChange:
    said = {"contact": ADA, "time_scheduled": at(hour)} | said
    return change(visit_id, version, "create", **said)


def cancelled(visit_id: str = "1", version: int = 2, hour: int = 8, **said: Any) -> VisitChange:
    return change(visit_id, version, "cancel", date_cancelled=at(hour), **said)


class Wire(httpx.AsyncBaseTransport):
    """The way to the API. `before` may answer in its place, `after` may change its answer, which comes no sooner than
    the event in `holds`; `seen`: what was asked."""

    def __init__(self) -> None:
        self.inner = AiohttpTransport(verify=False)
        self.seen: list[httpx.Request] = []
        self.holds: dict[str, asyncio.Event] = {}
        self.before: Callable[[httpx.Request], httpx.Response | None] = lambda request: None
        self.after: Callable[[httpx.Request], httpx.Response | None] = lambda request: None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        if answer := self.before(request):
            return unread_response(answer)
        real = await self.inner.handle_async_request(request)
        if held := self.holds.get(route_of(request)):
            await held.wait()
        if answer := self.after(request):
            await real.aread()
            await real.aclose()
            return unread_response(answer)
        return real

    async def aclose(self) -> None:
        await self.inner.aclose()

    def sent(self, method: str) -> list[dict[str, str]]:
        """The forms that were sent with that method, a visit's contact left out."""
        forms = [
            dict(parse_qsl(request.content.decode(), keep_blank_values=True))
            for request in self.seen
            if request.method == method
        ]
        return [{name: value for name, value in form.items() if name != "contact_id"} for form in forms]


class World:
    """A worker without its process: a ledger, a context, and both hands on the API and on the clock."""

    def __init__(self, redis: Redis, harness: Harness, answer_s: float = 10, **env: str) -> None:
        self.redis, self.harness, self.ledger = redis, harness, Ledger(redis, retention_days=30)
        self.env = {
            "REDIS_URL": harness.redis_url,
            "VISITS_API_URL": harness.env["VISITS_API_URL"],
            "VISITS_API_TOKEN": TOKEN,
            "HOOKS__STANDARD__SECRETS": SECRET,
        }
        self.wire = Wire()
        self.context = self._context(answer_s, env)

    def _context(self, answer_s: float, env: dict[str, str]) -> Context:
        patience = httpx.Timeout(answer_s, connect=10, pool=10)
        http = httpx.AsyncClient(transport=self.wire, timeout=patience, trust_env=False, verify=False)
        return Context(read_environment({**self.env, **env}), self.ledger, http)

    def set(self, answer_s: float = 10, **env: str) -> None:
        """Other settings, as after a restart."""
        self.context = self._context(answer_s, env)

    async def land(self, *changes: VisitChange, account: str = "main") -> None:
        """One delivery that means these changes."""
        delivery = Delivery("standard", "standard", (), uuid.uuid4().bytes, datetime.now(UTC))
        meta = DeliveryInfo("standard", "standard", int(time.time() * 1000))
        await self.ledger.accept(delivery, meta, changes, account, dedup_id=None)

    async def run(self) -> list[str]:
        """Do all work that is queued, one after the other, until there is none; what came of each."""
        came_of_it = []
        while works := await self.ledger.task_ids("queued"):
            came_of_it += [await self.do(work) for work in works]
            assert len(came_of_it) < 500, "work without end"
        return came_of_it

    async def do(self, work: str) -> str:
        """The state after a run of a visit; the reason or the result after a run of an event."""
        kind, _, subject = work.partition(":")
        if kind == "event":
            state = await run_event(self.context, subject)
            if state not in ("done", "waiting", "parked"):
                return state
            event = await self.ledger.load_task(work)
            return event.reason or event.attempts[-1].outcome
        account, _, external_id = subject.partition("/")
        return await run_visit(self.context, account, external_id)

    async def apply(self, *changes: VisitChange) -> list[str]:
        await self.land(*changes)
        return await self.run()

    async def later(self, seconds: float) -> None:
        """So much time passes: whatever waits for a time, waits that much less; then the sweep comes by."""
        ms = int(seconds * 1000)
        for key in ("bell:waiting", "bell:running"):
            for name in await self.redis.command("ZRANGE", key, 0, -1):
                await self.redis.command("ZINCRBY", key, -ms, name)
        for key in await self.redis.command("KEYS", "bell:*:*"):
            if key.startswith((b"bell:visit:", b"bell:event:", b"bell:circuit:")):
                for field in (b"since", b"pending_since", b"failed_since", b"until", b"repeated_at"):
                    if await self.redis.command("HEXISTS", key, field):
                        await self.redis.command("HINCRBY", key, field, -ms)
            elif key.endswith(b":lock") or key.startswith((b"bell:outcomes:", b"bell:retry-after:")):
                left = await self.redis.command("PTTL", key)
                await self.redis.command("PEXPIRE", key, max(0, left - ms))
        await self.ledger.requeue_due()
        await self.ledger.release_circuit("main")

    async def member(self, visit_id: str = "1") -> Task:
        return await self.ledger.load_task(f"visit:main/standard-{visit_id}")

    def visit(self, visit_id: str = "1") -> dict[str, Any] | None:
        """What stands in the API, without what the API alone decides."""
        visit = self.harness.visit(f"standard-{visit_id}")
        names = ("time_scheduled", "time_completed", "amount_collected", "date_cancelled", "event_date")
        return visit and {name: visit[name] for name in names if name in visit}

    def contacts(self, email: str) -> list[dict[str, Any]]:
        query = httpx.QueryParams(email=email)
        return list(self.harness.get_from_api(f"/contacts?{query}")["data"])

    def forget_calls(self) -> None:
        self.harness.http.delete(f"{self.harness.sandbox.url}/_sandbox/journal").raise_for_status()
        self.wire.seen.clear()

    def calls(self) -> list[str]:
        """The worker's own calls, in order: the tests look around too."""
        return [route_of(request) for request in self.wire.seen]


def route_of(request: httpx.Request) -> str:
    path = request.url.path.removeprefix("/api/v1")
    return f"{request.method} {re.sub('^/visits/.+', '/visits/:id', path)}"


@contextlib.asynccontextmanager
async def a_world(redis: Redis, harness: Harness, **env: str) -> AsyncIterator[World]:
    """Everything is empty."""
    harness.clear_faults()
    harness.http.post(f"{harness.sandbox.url}/_sandbox/reset").raise_for_status()
    world = World(redis, harness, **env)
    yield world
    harness.clear_faults()
    await world.wire.aclose()


class CutAt:
    """Runs a coroutine, and cancels the task around it when it waits for the k-th time; `lets`: after what it waits for
    has been done by others, but before it hears of it."""

    def __init__(self, work: Awaitable[Any], k: int, lets: bool) -> None:
        self.work, self.k, self.lets = work, k, lets

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self.work.__await__()
        resume: Callable[[], Any] = partial(inner.send, None)
        for step in itertools.count():
            try:
                waits_for = resume()
            except StopIteration as done:
                return done.value
            if step == self.k:
                if self.lets:
                    yield from asyncio.sleep(0.006).__await__()
                task = asyncio.current_task()
                assert task
                task.cancel()
            try:
                yield waits_for
                resume = partial(inner.send, None)
            except BaseException as error:
                resume = partial(inner.throw, error)


async def cut(world: World, work: Awaitable[Any], k: int, lets: bool) -> bool:
    """True if it was cut; False if it was over before."""

    async def run() -> None:
        await CutAt(work, k, lets)

    try:
        await asyncio.create_task(run())
    except asyncio.CancelledError:
        return True
    return False


def said(dice: random.Random, action: str) -> dict[str, Any]:
    """Some fields: some cleared, some not spoken of."""
    values = {
        "time_scheduled": [UNSET, at(9), at(12)],
        "time_completed": [UNSET, UNSET, None, at(10), at(13)],
        "amount_collected": [UNSET, UNSET, None, Decimal("5"), Decimal("7.50")],
        "date_cancelled": [UNSET, None] if action != "cancel" else [at(7), at(8)],
        "no_show": [UNSET, UNSET, UNSET, None, at(11)],
        "contact": [None, ADA, ADA, BOB],
    }
    return {name: dice.choice(choices) for name, choices in values.items()}
