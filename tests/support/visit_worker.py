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

from app.ledger.ids import TaskId
from app.ledger.ledger import Ledger
from app.ledger.records import DeliveryInfo, NewDelivery, Task
from app.ledger.redis import Redis
from app.settings.environment import read_environment
from app.visits.change import UNSET, Contact, VisitChange, visit_start
from app.visits.merge import desired_visit, merge_changes
from app.webhooks.delivery import Delivery
from jobs.apply_visit import run_visit
from jobs.context import Context
from jobs.translate_event import run_event
from tests.support.harness import SECRET, TOKEN, Harness, unread_response, unverified_tls

DOCUMENTED_CONTACT = "cont_KYdl3lftgZXGRbxqoj"

ADA = Contact(email="ada@example.com", first_name="Ada", last_name="Lovelace", phone="+15550100001")

BOB = Contact(email="bob@example.com", first_name="Bob")

CREATE_CALLS = ["GET /visits/:id", "GET /contacts", "POST /contacts", "POST /visits"]

#: The sandbox accepts any token.
API_HEADERS = {"authorization": "Bearer t"}


def at(hour: int, day: int = 14) -> datetime:
    return datetime(2026, 3, day, hour, tzinfo=UTC)


def change(visit_id: str = "1", version: int = 1, action: Any = "update", **fields: Any) -> VisitChange:
    return VisitChange(action=action, visit_id=visit_id, version=version, **fields)


def booked(visit_id: str = "1", version: int = 1, hour: int = 9, **fields: Any) -> VisitChange:
    fields = {"contact": ADA, "time_scheduled": at(hour)} | fields
    return change(visit_id, version, "create", **fields)


def cancelled(visit_id: str = "1", version: int = 2, hour: int = 8, **fields: Any) -> VisitChange:
    return change(visit_id, version, "cancel", date_cancelled=at(hour), **fields)


class ApiTransport(httpx.AsyncBaseTransport):
    """Sends requests to the sandbox and records them in `requests`.

    `before` may return a response instead of a call, `after` may replace the response. A response waits for the event of
    its route in `response_gates`.
    """

    def __init__(self) -> None:
        self.inner = AiohttpTransport(verify=unverified_tls())
        self.requests: list[httpx.Request] = []
        self.response_gates: dict[str, asyncio.Event] = {}
        self.before: Callable[[httpx.Request], httpx.Response | None] = lambda request: None
        self.after: Callable[[httpx.Request], httpx.Response | None] = lambda request: None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if replacement := self.before(request):
            return unread_response(replacement)
        response = await self.inner.handle_async_request(request)
        if gate := self.response_gates.get(route_of(request)):
            await gate.wait()
        if replacement := self.after(request):
            await response.aread()
            await response.aclose()
            return unread_response(replacement)
        return response

    async def aclose(self) -> None:
        await self.inner.aclose()

    def sent(self, method: str) -> list[dict[str, str]]:
        """Return the forms that were sent with that method, without contact_id."""
        forms = [
            dict(parse_qsl(request.content.decode(), keep_blank_values=True))
            for request in self.requests
            if request.method == method
        ]
        return [{name: value for name, value in form.items() if name != "contact_id"} for form in forms]


class World:
    """A worker in this process: a ledger, a context, a transport with faults, and control of the time."""

    def __init__(self, redis: Redis, harness: Harness, answer_s: float = 10, **env: str) -> None:
        self.redis, self.harness, self.ledger = redis, harness, Ledger(redis, retention_days=30)
        self.env = {
            "REDIS_URL": harness.redis_url,
            "VISITS_API_URL": harness.env["VISITS_API_URL"],
            "VISITS_API_TOKEN": TOKEN,
            "HOOKS__STANDARD__SECRETS": SECRET,
        }
        self.transport = ApiTransport()
        self.context = self._context(answer_s, env)

    def _context(self, answer_s: float, env: dict[str, str]) -> Context:
        timeout = httpx.Timeout(answer_s, connect=10, pool=10)
        http = httpx.AsyncClient(transport=self.transport, timeout=timeout, trust_env=False, verify=False)
        return Context(read_environment({**self.env, **env}), self.ledger, http)

    def configure(self, answer_s: float = 10, **env: str) -> None:
        """Replace the settings, as a restart does."""
        self.context = self._context(answer_s, env)

    async def accept(self, *changes: VisitChange, account: str = "main") -> None:
        """Accept one delivery with these changes."""
        delivery = Delivery("standard", "standard", (), uuid.uuid4().bytes, datetime.now(UTC))
        meta = DeliveryInfo("standard", "standard", int(time.time() * 1000))
        await self.ledger.accept(NewDelivery(delivery, meta, changes, account, dedup_id=None))

    async def run(self) -> list[str]:
        """Run queued tasks one by one until the queue is empty, and return the outcome of each."""
        outcomes = []
        while task_ids := await self.ledger.task_ids("queued"):
            outcomes += [await self.run_task(task_id) for task_id in task_ids]
            assert len(outcomes) < 500, "the queue does not become empty"
        return outcomes

    async def run_task(self, task_id: str) -> str:
        """Return the state after a run of a visit; the reason or the result after a run of an event."""
        kind, _, subject = task_id.partition(":")
        if kind == "event":
            state = await run_event(self.context, subject)
            if state not in ("done", "waiting", "parked"):
                return state
            event = await self.ledger.load_task(task_id)
            return event.reason or event.attempts[-1].outcome
        account, _, external_id = subject.partition("/")
        return await run_visit(self.context, account, external_id)

    async def apply(self, *changes: VisitChange) -> list[str]:
        await self.accept(*changes)
        return await self.run()

    async def advance_time(self, seconds: float) -> None:
        """Move every stored time back by `seconds`, then requeue due tasks and release the circuit."""
        ms = int(seconds * 1000)
        for key in ("bell:state:waiting", "bell:state:running"):
            for name in await self.redis.command("ZRANGE", key, 0, -1):
                await self.redis.command("ZINCRBY", key, -ms, name)
        for key in await self.redis.command("KEYS", "bell:*:*"):
            if key.startswith((b"bell:visit:", b"bell:event:", b"bell:circuit:")):
                for field in (
                    b"since",
                    b"pending_since",
                    b"failed_since",
                    b"until",
                    b"limited_until",
                    b"in_flight_until",
                    b"repeated_at",
                ):
                    if await self.redis.command("HEXISTS", key, field):
                        await self.redis.command("HINCRBY", key, field, -ms)
            elif key.endswith(b":lock") or key.startswith((b"bell:outcomes:", b"bell:retry-after:")):
                ttl_ms = await self.redis.command("PTTL", key)
                await self.redis.command("PEXPIRE", key, max(0, ttl_ms - ms))
        await self.ledger.requeue_due()
        await self.ledger.release_held("main")

    async def list_problems(self) -> list[str]:
        """Return the visits that the lists of days do not have exactly once, at the start that their changes say."""
        starts, expected = dict[str, list[str]](), dict[str, list[str]]()
        for day in await self.ledger.visit_days():
            for entry in await self.redis.command("LRANGE", f"bell:visit-day:{day}", 0, -1):
                time, _, subject = entry.decode().partition(" ")
                starts.setdefault(f"visit:{subject}", []).append(f"{day}T{time}")
        for key in await self.redis.command("KEYS", "bell:visit:*"):
            aliases = await self.ledger.load_aliases(TaskId(key.decode().removeprefix("bell:")))
            changes = [change for alias in aliases for change in alias.recorded_changes()]
            if start := visit_start(desired_visit(merge_changes(changes)).fields):
                expected[aliases[0].task_id] = [start]
        tasks = starts.keys() | expected.keys()
        return [
            f"{task}: {starts.get(task)}, should be {expected.get(task)}"
            for task in sorted(tasks)
            if starts.get(task) != expected.get(task)
        ]

    async def load_task(self, visit_id: str = "1") -> Task:
        return await self.ledger.load_task(f"visit:main/standard-{visit_id}")

    def visit(self, visit_id: str = "1") -> dict[str, Any] | None:
        """Return the fields of the visit in the API that Doorbell decides."""
        visit = self.harness.visit(f"standard-{visit_id}")
        names = ("time_scheduled", "time_completed", "amount_collected", "date_cancelled", "event_date")
        return visit and {name: visit[name] for name in names if name in visit}

    def contacts(self, email: str) -> list[dict[str, Any]]:
        query = httpx.QueryParams(email=email)
        return list(self.harness.get_from_api(f"/contacts?{query}")["data"])

    def clear_calls(self) -> None:
        self.harness.control("DELETE", "journal")
        self.transport.requests.clear()

    def calls(self) -> list[str]:
        """Return the worker's calls in order, without those of the tests."""
        return [route_of(request) for request in self.transport.requests]


def route_of(request: httpx.Request) -> str:
    path = request.url.path.removeprefix("/api/v1")
    return f"{request.method} {re.sub('^/visits/.+', '/visits/:id', path)}"


@contextlib.asynccontextmanager
async def open_world(redis: Redis, harness: Harness, **env: str) -> AsyncIterator[World]:
    """Empty the sandbox and yield a `World`; the `redis` fixture has emptied Redis."""
    harness.clear_faults()
    harness.control("POST", "reset")
    world = World(redis, harness, **env)
    yield world
    harness.clear_faults()
    await world.transport.aclose()


def create_in_api(world: World, **fields: str) -> dict[str, Any]:
    """Create a visit in the API without Doorbell."""
    url = f"{world.harness.env['VISITS_API_URL']}/visits"
    response = world.harness.http.post(url, data={"contact_id": DOCUMENTED_CONTACT, **fields}, headers=API_HEADERS)
    return dict(response.raise_for_status().json())


def external_ids(world: World) -> list[str]:
    return sorted(visit["external_id"] for visit in world.harness.visits())


async def park_visits(world: World, *visits: str, parked: int = 0) -> None:
    """Store visits that the API rejects, so that they are parked. parked: how many tasks are parked then."""
    world.harness.inject_faults(duplicate_external_id="unprocessable")
    for visit_id in visits:
        await world.accept(booked(visit_id, contact=Contact(id="cont_nobody")))
    await world.run()
    world.harness.clear_faults()
    assert (parked or len(visits)) == len(await world.ledger.task_ids("parked"))


class CancelAtStep:
    """Runs an awaitable and cancels its task at suspension `cancel_step`, counted from 0.

    With `wait_completes` the cancellation comes after the awaited operation is complete, before its result is read.
    """

    def __init__(self, operation: Awaitable[Any], cancel_step: int, wait_completes: bool) -> None:
        self.operation, self.cancel_step, self.wait_completes = operation, cancel_step, wait_completes

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self.operation.__await__()
        resume: Callable[[], Any] = partial(inner.send, None)
        for step in itertools.count():
            try:
                awaited = resume()
            except StopIteration as done:
                return done.value
            if step == self.cancel_step:
                if self.wait_completes:
                    yield from asyncio.sleep(0.006).__await__()
                task = asyncio.current_task()
                assert task
                task.cancel()
            try:
                yield awaited
                resume = partial(inner.send, None)
            except BaseException as error:
                resume = partial(inner.throw, error)


async def cancel_at_step(world: World, operation: Awaitable[Any], step: int, wait_completes: bool) -> bool:
    """Return True if the operation was cancelled, False if it ended before that step."""

    async def run() -> None:
        await CancelAtStep(operation, step, wait_completes)

    try:
        await asyncio.create_task(run())
    except asyncio.CancelledError:
        return True
    return False


def random_fields(rng: random.Random, action: str) -> dict[str, Any]:
    """Return random values: set, cleared or unset."""
    values = {
        "time_scheduled": [UNSET, at(9), at(12)],
        "time_completed": [UNSET, UNSET, None, at(10), at(13)],
        "amount_collected": [UNSET, UNSET, None, Decimal("5"), Decimal("7.50")],
        "date_cancelled": [UNSET, None] if action != "cancel" else [at(7), at(8)],
        "no_show": [UNSET, UNSET, UNSET, None, at(11)],
        "contact": [None, ADA, ADA, BOB],
    }
    return {name: rng.choice(choices) for name, choices in values.items()}
