"""One visit, from its facts to the API: in process, on a real Redis, against the sandbox's own process.

Time passes only where a test says `later`.
"""

import asyncio
import contextlib
import itertools
import json
import random
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
from httpx_aiohttp import AiohttpTransport

import jobs.apply_visit
import jobs.contacts
from app.ledger.ledger import Ledger
from app.ledger.records import DeliveryInfo, Task
from app.ledger.redis import Redis
from app.settings.environment import read
from app.visits.change import UNSAID, Contact, VisitChange
from app.webhooks.delivery import Delivery
from jobs.apply_visit import run_visit
from jobs.context import Context
from jobs.translate_event import run_event
from tests.support.harness import SECRET, TOKEN, Harness, Server, unread_response, wait_until

DOCUMENTED = "cont_KYdl3lftgZXGRbxqoj"
ADA = Contact(email="ada@example.com", first_name="Ada", last_name="Lovelace", phone="+15550100001")
BOB = Contact(email="bob@example.com", first_name="Bob")
FIRST = ["GET /visits/:id", "GET /contacts", "POST /contacts", "POST /visits"]
AGAIN = ["GET /visits/:id", "POST /visits"]  # of a customer who is known


def at(hour: int, day: int = 14) -> datetime:
    return datetime(2026, 3, day, hour, tzinfo=UTC)


def change(visit_id: str = "1", order: int = 1, action: Any = "update", **said: Any) -> VisitChange:
    return VisitChange(action=action, visit_id=visit_id, order=order, **said)


def booked(visit_id: str = "1", order: int = 1, hour: int = 9, **said: Any) -> VisitChange:
    said = {"contact": ADA, "time_scheduled": at(hour)} | said
    return change(visit_id, order, "create", **said)


def cancelled(visit_id: str = "1", order: int = 2, hour: int = 8, **said: Any) -> VisitChange:
    return change(visit_id, order, "cancel", date_cancelled=at(hour), **said)


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
        return Context(read({**self.env, **env}), self.ledger, http)

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
        kind, _, subject = work.partition(":")
        if kind == "event":
            return await run_event(self.context, subject)
        account, _, external_id = subject.partition("/")
        return await run_visit(self.context, account, external_id)

    async def apply(self, *changes: VisitChange) -> list[str]:
        await self.land(*changes)
        return await self.run()

    async def later(self, seconds: float) -> None:
        """So much time passes: whatever waits for a time, waits that much less; then the sweep comes by."""
        ms = int(seconds * 1000)
        for key in ("db:waiting", "db:running"):
            for name in await self.redis.command("ZRANGE", key, 0, -1):
                await self.redis.command("ZINCRBY", key, -ms, name)
        for key in await self.redis.command("KEYS", "db:*:*"):
            if key.startswith((b"db:visit:", b"db:event:", b"db:gate:")):
                for field in (b"since", b"failed_since", b"until", b"again"):
                    if await self.redis.command("HEXISTS", key, field):
                        await self.redis.command("HINCRBY", key, field, -ms)
            elif key.endswith(b":lock") or key.startswith((b"db:answers:", b"db:pause:")):
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


@pytest.fixture(scope="module")
def hands(redis_url: str, sandbox: Server) -> Iterator[Harness]:
    harness = Harness(redis_url, sandbox)
    yield harness
    harness.http.close()


@pytest.fixture
async def world(redis: Redis, hands: Harness) -> AsyncIterator[World]:
    async with a_world(redis, hands) as world:
        yield world


@contextlib.asynccontextmanager
async def a_world(redis: Redis, harness: Harness, **env: str) -> AsyncIterator[World]:
    """Everything is empty."""
    harness.clear_faults()
    harness.http.post(f"{harness.sandbox.url}/_sandbox/reset").raise_for_status()
    world = World(redis, harness, **env)
    yield world
    harness.clear_faults()
    await world.wire.aclose()


# What it costs ------------------------------------------------------------------------------------------------------


async def test_the_first_visit_of_a_new_customer_costs_two_calls_on_each_side(world: World) -> None:
    states = await world.apply(booked())

    assert (["settled"], FIRST) == (states, world.calls())
    assert {"time_scheduled": "2026-03-14T09:00:00Z", "event_date": "2026-03-14T09:00:00Z"} == world.visit()


async def test_the_first_visit_of_a_known_customer_costs_a_look_and_a_create(world: World) -> None:
    await world.apply(booked("1"))
    world.forget_calls()

    await world.apply(booked("2"))

    assert AGAIN == world.calls()


async def test_a_customer_named_by_review_rovers_id_is_not_looked_for(world: World) -> None:
    await world.apply(booked(contact=Contact(id=DOCUMENTED)))

    assert AGAIN == world.calls()
    assert [DOCUMENTED] == [visit["contact_id"] for visit in world.harness.visits()]


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        pytest.param({"amount_collected": Decimal("245")}, {"amount_collected": "245.00"}, id="paid"),
        pytest.param(
            {"time_scheduled": at(10)},
            {"time_scheduled": "2026-03-14T10:00:00Z", "event_date": "2026-03-14T10:00:00Z"},
            id="moved",
        ),
        pytest.param(
            {"time_completed": at(11)},
            {"time_completed": "2026-03-14T11:00:00Z", "event_date": "2026-03-14T11:00:00Z"},
            id="completed",
        ),
        pytest.param({"date_cancelled": at(8)}, {"date_cancelled": "2026-03-14T08:00:00Z"}, id="cancelled"),
        pytest.param({"no_show": at(10)}, {"date_cancelled": "2026-03-14T10:00:00Z"}, id="missed"),
        pytest.param(
            {"time_completed": at(11), "amount_collected": Decimal("1.005"), "contact": ADA},
            {
                "time_completed": "2026-03-14T11:00:00Z",
                "event_date": "2026-03-14T11:00:00Z",
                "amount_collected": "1.01",  # half a cent counts up
            },
            id="everything",
        ),
    ],
)
async def test_an_update_costs_one_call_with_what_is_new(
    world: World, said: dict[str, Any], sent: dict[str, str]
) -> None:
    await world.apply(booked())
    world.forget_calls()

    await world.apply(change(order=2, **said))

    assert (["PUT /visits/:id"], [sent]) == (world.calls(), world.wire.sent("PUT"))


@pytest.mark.parametrize(
    "again",
    [
        pytest.param(booked(), id="the-same"),
        pytest.param(booked(order=7), id="the-same-later"),
        pytest.param(booked(order=0, hour=5), id="older"),
        pytest.param(change(order=9), id="nothing"),
        pytest.param(change(order=9, date_cancelled=None, time_completed=None), id="what-is-not-there-is-cleared"),
        pytest.param(booked(order=9, contact=replace(ADA, email="ADA@Example.com ")), id="the-address-in-capitals"),
        pytest.param(booked(order=9, contact=replace(ADA, phone="+1")), id="another-number"),
    ],
)
async def test_a_repeat_costs_nothing(world: World, again: VisitChange) -> None:
    await world.apply(booked())
    world.forget_calls()

    states = await world.apply(again)

    assert (["settled"], []) == (states, world.calls())


async def test_many_changes_that_wait_for_one_visit_cost_one_call(world: World) -> None:
    await world.apply(booked())
    world.forget_calls()
    for order in range(2, 12):
        await world.land(change(order=order, amount_collected=Decimal(order)))

    await world.run()

    assert [{"amount_collected": "11.00"}] == world.wire.sent("PUT")
    assert ["PUT /visits/:id"] == world.calls()


async def test_one_delivery_may_change_many_visits(world: World) -> None:
    await world.apply(booked("1"), booked("2"), booked("3"), change("1", 2, amount_collected=Decimal(5)))

    assert ["standard-1", "standard-2", "standard-3"] == sorted(
        visit["external_id"] for visit in world.harness.visits()
    )
    assert "5.00" == (world.visit("1") or {})["amount_collected"]


async def test_a_visit_that_was_made_by_others_is_updated(world: World) -> None:
    visit = {"contact_id": DOCUMENTED, "external_id": "standard-1", "amount_collected": "7.00"}
    world.harness.http.post(
        f"{world.harness.env['VISITS_API_URL']}/visits", data=visit, headers={"authorization": "Bearer t"}
    )

    await world.apply(booked(contact=Contact(id=DOCUMENTED)))

    assert ["GET /visits/:id", "PUT /visits/:id"] == world.calls()
    assert {
        "time_scheduled": "2026-03-14T09:00:00Z",
        "event_date": "2026-03-14T09:00:00Z",
        "amount_collected": "7.00",  # nobody spoke of it
    } == world.visit()


async def test_a_mark_of_a_person_alone_makes_no_visit_and_waits_for_nothing(world: World) -> None:
    await world.apply(change(no_show=at(10), contact=ADA, only_for_contact=True))
    assert [] == world.harness.visits()
    assert ("settled", []) == ((await world.member()).state, await world.ledger.task_ids("waiting"))

    await world.apply(booked(order=0))
    assert [] == world.harness.visits(), "the mark counts once the visit is hers"


@pytest.mark.parametrize(
    "spelling",
    [
        pytest.param({"time_scheduled": "2026-03-14T09:00:00.000Z", "event_date": "2026-03-14T09:00:00.000Z"}, id="ms"),
        pytest.param({"time_scheduled": "2026-03-14T09:00:00+00:00"}, id="offset"),
        pytest.param({"time_scheduled": "2026-03-14T04:00:00-05:00"}, id="another-zone"),
        pytest.param({"amount_collected": "245"}, id="no-cents"),
        pytest.param({"amount_collected": "245.0"}, id="one-place"),
        pytest.param({"amount_collected": 245}, id="a-whole-number"),
        pytest.param({"amount_collected": 245.0}, id="a-number"),
        pytest.param({"date_cancelled": None, "time_completed": ""}, id="nothing-spelt-out"),
    ],
)
async def test_what_stands_is_known_in_any_spelling(world: World, spelling: dict[str, Any]) -> None:
    stands = {
        "id": 7,
        "external_id": "standard-1",
        "contact_id": DOCUMENTED,
        "time_scheduled": "2026-03-14T09:00:00Z",
        "event_date": "2026-03-14T09:00:00Z",
        "amount_collected": "245.00",
    }
    world.wire.after = lambda request: httpx.Response(200, json=stands | spelling) if request.method == "POST" else None
    said = {"contact": Contact(id=DOCUMENTED), "amount_collected": Decimal(245), "date_cancelled": None}
    await world.apply(booked(**said))
    world.forget_calls()

    await world.apply(booked(order=2, **said))

    assert [] == world.calls()


# Contacts -----------------------------------------------------------------------------------------------------------


async def test_a_new_customer_is_made_with_all_that_is_known(world: World) -> None:
    await world.apply(booked())

    (contact,) = world.contacts("ada@example.com")
    assert ("Ada", "Lovelace", "+15550100001") == (contact["first_name"], contact["last_name"], contact["phone"])
    assert [contact["id"]] == [visit["contact_id"] for visit in world.harness.visits()]


async def test_a_customer_who_exists_is_found_and_left_alone(world: World) -> None:
    await world.apply(booked(contact=replace(ADA, email="first.contact@example.com")))

    assert ["GET /visits/:id", "GET /contacts", "POST /visits"] == world.calls()
    assert [DOCUMENTED] == [visit["contact_id"] for visit in world.harness.visits()]
    assert "first_name" not in world.contacts("first.contact@example.com")[0]


async def test_of_several_customers_with_one_address_everybody_takes_the_same(world: World) -> None:
    def both(request: httpx.Request) -> httpx.Response | None:
        older = {"id": DOCUMENTED, "created_at": "2025-01-01T00:00:00Z"}
        newer = {"id": "cont_AAAA", "created_at": "2025-01-02T00:00:00Z"}
        pair = [older, newer] if len(world.wire.seen) % 2 else [newer, older]
        return httpx.Response(200, json={"data": pair}) if request.url.path.endswith("/contacts") else None

    world.wire.before = both
    await world.apply(booked("1"), booked("2", contact=BOB))

    assert [DOCUMENTED] * 2 == [visit["contact_id"] for visit in world.harness.visits()]


async def test_a_customer_is_made_once_however_many_visits_need_him(world: World) -> None:
    world.harness.inject_faults(slow_share=1, slow_s=0.02)
    for number in range(8):
        await world.land(booked(str(number)))

    await asyncio.gather(*map(world.do, await world.ledger.task_ids("queued")))

    assert 1 == world.calls().count("POST /contacts")
    assert 1 == len(world.contacts("ada@example.com"))
    assert 8 == len(world.harness.visits())


async def test_a_customer_who_is_gone_is_looked_for_again_when_it_is_replayed(world: World) -> None:
    await world.apply(booked("1"))
    world.harness.http.post(f"{world.harness.sandbox.url}/_sandbox/reset")
    await world.apply(booked("2"))

    assert ("parked", "POST /visits: 422") == ((await world.member("2")).state, (await world.member("2")).reason)
    await world.ledger.replay("visit:main/standard-2")
    await world.run()

    assert ["standard-2"] == [visit["external_id"] for visit in world.harness.visits()]


@pytest.mark.parametrize("status", [200, 202, 204])
async def test_a_customer_whose_making_is_answered_without_a_body_is_looked_up(world: World, status: int) -> None:
    world.wire.after = lambda request: httpx.Response(status) if route_of(request) == "POST /contacts" else None

    states = await world.apply(booked())

    assert ["settled"] == states
    assert 1 == len(world.contacts("ada@example.com"))


async def test_a_customer_who_is_made_but_not_listed_yet_is_waited_for(world: World) -> None:
    lists = itertools.count()

    def lagging(request: httpx.Request) -> httpx.Response | None:
        if route_of(request) == "POST /contacts":
            return httpx.Response(202)
        if route_of(request) == "GET /contacts" and next(lists) < 2:
            return httpx.Response(200, json={"has_more": False, "data": []})
        return None

    world.wire.after = lagging
    first = await world.apply(booked())
    await world.later(3_600)
    await world.run()

    assert ["waiting"] == first
    assert 1 == len(world.harness.visits())
    assert 1 == len(world.contacts("ada@example.com"))


@pytest.mark.parametrize("status", [409, 422])
async def test_a_customer_made_by_somebody_else_meanwhile_is_taken(world: World, status: int) -> None:
    def taken(request: httpx.Request) -> httpx.Response | None:
        """Somebody was quicker."""
        if route_of(request) != "POST /contacts":
            return None
        url, headers = f"{world.harness.env['VISITS_API_URL']}/contacts", {"authorization": "Bearer t"}
        world.harness.http.post(url, data={"email": "ada@example.com"}, headers=headers)
        return httpx.Response(status)

    world.wire.before = taken
    states = await world.apply(booked())

    assert ["settled"] == states
    assert [world.contacts("ada@example.com")[0]["id"]] == [visit["contact_id"] for visit in world.harness.visits()]


async def test_an_address_that_the_api_does_not_take_is_parked_with_its_answer(world: World) -> None:
    await world.apply(booked(contact=Contact(email="no address")))

    member = await world.member()
    assert ("parked", "POST /contacts: 422") == (member.state, member.reason)
    assert "must be an e-mail address" in member.attempts[-1].response_text
    assert "no address" not in member.reason


async def test_another_customer_gets_a_new_visit_under_the_same_name(world: World) -> None:
    await world.apply(booked(amount_collected=Decimal(3)))
    world.forget_calls()

    await world.apply(change(order=2, contact=BOB))

    assert ["GET /contacts", "POST /contacts", "DELETE /visits/:id", "POST /visits"] == world.calls()
    assert [world.contacts("bob@example.com")[0]["id"]] == [visit["contact_id"] for visit in world.harness.visits()]
    assert {
        "time_scheduled": "2026-03-14T09:00:00Z",
        "event_date": "2026-03-14T09:00:00Z",
        "amount_collected": "3.00",
    } == world.visit()


async def test_another_customer_does_not_inherit_the_name_of_the_first(world: World) -> None:
    await world.apply(booked(), change(order=2, contact=Contact(email="bob@example.com")))

    (bob,) = world.contacts("bob@example.com")
    assert {"first_name", "last_name", "phone"}.isdisjoint(bob)


async def test_another_address_of_the_same_customer_changes_nothing(world: World) -> None:
    await world.apply(booked(contact=Contact(id=DOCUMENTED)))

    await world.apply(change(order=2, contact=Contact(id=DOCUMENTED, email="ada@example.com")))

    assert [DOCUMENTED] == [visit["contact_id"] for visit in world.harness.visits()]
    assert {"DELETE /visits/:id", "POST /contacts"}.isdisjoint(world.calls())


async def test_a_visit_that_was_off_when_its_customer_changed_is_his_when_it_is_booked_again(world: World) -> None:
    await world.apply(booked())
    await world.apply(cancelled(order=2, contact=BOB))

    await world.apply(booked(order=3, contact=BOB, date_cancelled=None))

    assert [world.contacts("bob@example.com")[0]["id"]] == [visit["contact_id"] for visit in world.harness.visits()]


@pytest.mark.parametrize("at_once", [False, True], ids=["one-by-one", "at-once"])
async def test_a_cancelled_visit_of_another_customer_is_the_same_however_many_changes_come_at_once(
    world: World, at_once: bool
) -> None:
    await world.apply(booked())

    if at_once:
        await world.apply(change(order=2, contact=BOB), cancelled(order=3))
    else:
        await world.apply(change(order=2, contact=BOB))
        await world.apply(cancelled(order=3))

    (visit,) = world.harness.visits()
    assert world.contacts("bob@example.com")[0]["id"] == visit["contact_id"]
    assert "2026-03-14T08:00:00Z" == visit["date_cancelled"]


@pytest.mark.parametrize("at_once", [False, True], ids=["one-by-one", "at-once"])
async def test_a_cancelled_visit_stays_where_the_api_cannot_clear_what_is_taken_back(
    world: World, at_once: bool
) -> None:
    world.harness.inject_faults(empty_clears=False)
    await world.apply(booked(amount_collected=Decimal(90)))
    back, off = change(order=2, amount_collected=None), cancelled(order=3)

    for changes in [[back, off]] if at_once else [[back], [off]]:
        await world.apply(*changes)

    (visit,) = world.harness.visits()
    assert "2026-03-14T08:00:00Z" == visit["date_cancelled"]
    assert "amount_collected" not in visit


async def test_a_visit_made_by_others_keeps_its_customer_where_the_api_cannot_clear(world: World) -> None:
    world.harness.inject_faults(empty_clears=False)
    visit = {"contact_id": DOCUMENTED, "external_id": "standard-1", "amount_collected": "7.00"}
    world.harness.http.post(
        f"{world.harness.env['VISITS_API_URL']}/visits", data=visit, headers={"authorization": "Bearer t"}
    )

    await world.apply(change(time_scheduled=at(9), amount_collected=None))

    (made,) = world.harness.visits()
    assert DOCUMENTED == made["contact_id"]
    assert "amount_collected" not in made


# event_date ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "event_date"),
    [
        pytest.param([booked(hour=9)], "2026-03-14T09:00:00Z", id="booked"),
        pytest.param([booked(), change(order=2, time_scheduled=at(15))], "2026-03-14T15:00:00Z", id="moved"),
        pytest.param([booked(), change(order=2, time_completed=at(11))], "2026-03-14T11:00:00Z", id="completed"),
        pytest.param(
            [booked(), change(order=2, time_completed=at(11)), change(order=3, time_scheduled=at(15))],
            "2026-03-14T11:00:00Z",
            id="completed-then-moved",
        ),
        pytest.param(
            [booked(), change(order=2, time_completed=at(11)), change(order=3, time_completed=None)],
            "2026-03-14T09:00:00Z",
            id="completed-by-mistake",
        ),
        pytest.param([booked(time_scheduled=UNSAID, time_completed=at(11))], "2026-03-14T11:00:00Z", id="walk-in"),
        pytest.param([booked(), change(order=2, time_scheduled=None)], None, id="put-off-without-a-new-time"),
    ],
)
@pytest.mark.parametrize("follows", [False, True], ids=["api-leaves-it", "api-moves-it"])
@pytest.mark.parametrize("at_once", [False, True], ids=["step-by-step", "at-once"])
async def test_a_campaign_starts_from_the_completion_else_from_the_appointment(
    world: World, changes: list[VisitChange], event_date: str | None, follows: bool, at_once: bool
) -> None:
    world.harness.inject_faults(event_date_follows=follows)

    for each in changes:
        await world.land(each)
        if not at_once:
            await world.run()
    await world.run()

    assert event_date == (world.visit() or {}).get("event_date")


async def test_a_visit_without_any_time_waits_for_one(world: World) -> None:
    states = await world.apply(booked(time_scheduled=UNSAID))

    assert (["waiting"], "time_unknown") == (states, (await world.member()).reason)
    assert [] == world.harness.visits()
    assert ["settled"] == await world.apply(change(order=2, time_scheduled=at(9)))
    assert 1 == len(world.harness.visits())


# Clearing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "then", "gone"),
    [
        pytest.param(
            booked(order=1, date_cancelled=UNSAID),
            [cancelled(order=2), booked(order=3, date_cancelled=None)],
            "date_cancelled",
            id="booked-again",
        ),
        pytest.param(
            booked(),
            [change(order=2, no_show=at(10)), change(order=3, no_show=None)],
            "date_cancelled",
            id="came-after-all",
        ),
        pytest.param(
            booked(time_completed=at(11)), [change(order=3, time_completed=None)], "time_completed", id="not-completed"
        ),
        pytest.param(
            booked(amount_collected=Decimal(9)),
            [change(order=3, amount_collected=None)],
            "amount_collected",
            id="not-paid",
        ),
    ],
)
@pytest.mark.parametrize(
    ("clears", "last"),
    [(True, ["PUT /visits/:id"]), (False, ["PUT /visits/:id", "DELETE /visits/:id", "POST /visits"])],
    ids=["api-clears", "api-keeps"],
)
async def test_what_is_taken_back_is_gone(
    world: World, first: VisitChange, then: list[VisitChange], gone: str, clears: bool, last: list[str]
) -> None:
    world.harness.inject_faults(empty_clears=clears)
    await world.apply(first)
    for each in then:
        world.forget_calls()
        await world.apply(each)

    assert last == world.calls()
    assert {"time_scheduled": "2026-03-14T09:00:00Z", "event_date": "2026-03-14T09:00:00Z"} == world.visit()
    assert gone not in (world.visit() or {})


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(httpx.Response(204), id="204"),
        pytest.param(httpx.Response(200), id="empty"),
        pytest.param(httpx.Response(200, json={"ok": True}), id="another-object"),
        pytest.param(httpx.Response(200, json={"visit": {"id": 1}}), id="wrapped"),
    ],
)
@pytest.mark.parametrize("clears", [True, False], ids=["api-clears", "api-keeps"])
async def test_what_is_taken_back_is_gone_whatever_an_update_answers(
    world: World, answer: httpx.Response, clears: bool
) -> None:
    world.harness.inject_faults(empty_clears=clears)
    await world.apply(booked(), cancelled(order=2))
    await world.apply(change(order=3, date_cancelled=None))
    await world.apply(cancelled(order=4))
    world.wire.after = lambda request: answer if request.method == "PUT" else None

    await world.apply(change(order=5, date_cancelled=None))

    assert {"time_scheduled": "2026-03-14T09:00:00Z", "event_date": "2026-03-14T09:00:00Z"} == world.visit()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(httpx.Response(201), id="empty"),
        pytest.param(httpx.Response(204), id="204"),
        pytest.param(httpx.Response(200, json={"ok": True}), id="another-object"),
    ],
)
async def test_whatever_a_create_answers_there_is_one_visit(world: World, answer: httpx.Response) -> None:
    world.wire.after = lambda request: answer if route_of(request) == "POST /visits" else None

    await world.apply(booked())
    await world.apply(change(order=2, time_scheduled=at(15)))

    assert 1 == len(world.harness.visits())
    assert {"time_scheduled": "2026-03-14T15:00:00Z", "event_date": "2026-03-14T15:00:00Z"} == world.visit()


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_any_2xx_will_do(world: World, status: int) -> None:
    world.harness.inject_faults(created_status=status, deleted_status=status)

    states = [
        *await world.apply(booked()),
        *await world.apply(change(order=2, contact=BOB, amount_collected=Decimal(2))),
    ]

    assert ["settled", "settled"] == states
    assert 1 == len(world.harness.visits())
    assert "2.00" == (world.visit() or {})["amount_collected"]


# Orders of arrival --------------------------------------------------------------------------------------------------


async def test_a_cancel_before_the_booking_makes_nothing(world: World) -> None:
    await world.apply(cancelled(order=2, contact=ADA))
    await world.apply(booked(order=1))

    assert [] == world.harness.visits()
    assert "POST /visits" not in world.calls()


async def test_a_booking_after_the_cancel_is_a_visit(world: World) -> None:
    await world.apply(cancelled(order=2))
    await world.apply(booked(order=3, date_cancelled=None))

    assert {"time_scheduled": "2026-03-14T09:00:00Z", "event_date": "2026-03-14T09:00:00Z"} == world.visit()


async def test_a_move_before_the_booking_stands(world: World) -> None:
    await world.apply(change(order=2, time_scheduled=at(15), contact=ADA))
    await world.apply(booked(order=1, hour=9))

    assert "2026-03-14T15:00:00Z" == (world.visit() or {})["time_scheduled"]


async def test_a_payment_before_the_booking_waits_for_it(world: World) -> None:
    states = await world.apply(change(order=3, amount_collected=Decimal(245)))
    states += await world.apply(booked(order=1))

    assert ["waiting", "settled"] == states
    assert {
        "time_scheduled": "2026-03-14T09:00:00Z",
        "event_date": "2026-03-14T09:00:00Z",
        "amount_collected": "245.00",
    } == world.visit()


async def test_a_payment_before_the_completion_leaves_both(world: World) -> None:
    await world.apply(booked())
    await world.apply(change(order=3, amount_collected=Decimal(245)))
    await world.apply(change(order=2, time_completed=at(11)))

    assert {
        "time_scheduled": "2026-03-14T09:00:00Z",
        "time_completed": "2026-03-14T11:00:00Z",
        "event_date": "2026-03-14T11:00:00Z",
        "amount_collected": "245.00",
    } == world.visit()


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=lambda order: "".join(map(str, order)))
async def test_every_order_of_arrival_ends_alike(world: World, order: tuple[int, ...]) -> None:
    story = [
        booked(order=1),
        change(order=2, time_scheduled=at(15)),
        cancelled(order=3),
        booked(order=4, hour=16, date_cancelled=None, amount_collected=Decimal(10)),
    ]

    for number in order:
        await world.apply(story[number])

    assert {
        "time_scheduled": "2026-03-14T16:00:00Z",
        "event_date": "2026-03-14T16:00:00Z",
        "amount_collected": "10.00",
    } == world.visit()
    assert 1 == len(world.harness.visits())


@pytest.mark.parametrize("pair", [(0, 1), (1, 0)], ids=["one-way", "the-other"])
@pytest.mark.parametrize("action", ["create", "update", "cancel"])
async def test_two_changes_of_one_moment_end_alike_in_either_order(
    world: World, pair: tuple[int, int], action: str
) -> None:
    story = [change(order=5, action=action, time_scheduled=at(hour), contact=ADA) for hour in (9, 15)]

    for number in pair:
        await world.apply(story[number])

    assert "2026-03-14T15:00:00Z" == (world.visit() or {})["time_scheduled"]  # the greater text


# What is missing ----------------------------------------------------------------------------------------------------


async def test_a_visit_without_an_address_waits_for_one(world: World) -> None:
    states = await world.apply(booked(contact=None))

    member = await world.member()
    assert (["waiting"], "contact_unknown") == (states, member.reason)
    assert member.retry_at_ms is not None
    assert 86_390 < member.retry_at_ms / 1000 - time.time() < 86_401
    assert ["settled"] == await world.apply(change(order=2, contact=ADA))
    assert 1 == len(world.harness.visits())


async def test_a_name_without_an_address_is_no_customer(world: World) -> None:
    states = await world.apply(booked(contact=Contact(first_name="Ada", phone="+15550100001", email=" ")))

    assert (["waiting"], []) == (states, world.harness.visits())


async def test_after_a_day_without_an_address_it_is_parked(world: World) -> None:
    await world.apply(booked(contact=None))
    await world.later(86_000)
    await world.apply(change(order=2, amount_collected=Decimal(2)))
    before = (await world.member()).state
    await world.later(500)
    await world.run()

    member = await world.member()
    assert ("waiting", "parked", "contact_unknown") == (before, member.state, member.reason)


async def test_the_wait_for_an_address_is_a_setting(world: World) -> None:
    world.set(CONTACT_FOR_S="60")
    await world.apply(booked(contact=None))
    await world.later(61)

    assert ["parked"] == await world.run()


async def test_an_operator_names_the_customer(world: World) -> None:
    await world.apply(booked(contact=None))
    await world.later(86_500)
    await world.run()

    await world.ledger.assign_contact("visit:main/standard-1", change(order=2**60, contact=Contact(id=DOCUMENTED)))
    await world.ledger.replay("visit:main/standard-1")
    states = await world.run()

    assert ["settled"] == states
    assert [(DOCUMENTED, "standard-1")] == [
        (visit["contact_id"], visit["external_id"]) for visit in world.harness.visits()
    ]
    assert ["settled"] == await world.apply(change(order=3, time_scheduled=at(15)))
    assert "2026-03-14T15:00:00Z" == (world.visit() or {})["event_date"]


async def test_an_operators_word_alone_puts_it_to_work(world: World) -> None:
    await world.apply(booked(contact=None))

    await world.ledger.assign_contact("visit:main/standard-1", change(order=2**60, contact=Contact(id=DOCUMENTED)))

    assert ["settled"] == await world.run()


TROUBLE_BEFORE = {
    "down": {"down": True},
    "401": {"unauthorized": True},
    "429": {"rate_limited_share": 1},
    "reset": {"reset_share": 1},
}


@pytest.mark.parametrize("switches", TROUBLE_BEFORE.values(), ids=TROUBLE_BEFORE)
async def test_the_address_that_was_waited_for_is_used_at_once_also_after_trouble(
    world: World, switches: dict[str, Any]
) -> None:
    world.harness.inject_faults(**switches)
    await world.apply(booked(contact=None))
    world.harness.clear_faults()
    await world.later(60)
    await world.run()
    assert "contact_unknown" == (await world.member()).reason

    states = await world.apply(change(order=2, contact=ADA))

    assert ["settled"] == states
    assert 1 == len(world.harness.visits())


# Opt-out ------------------------------------------------------------------------------------------------------------


async def test_who_wants_no_request_gets_no_visit(world: World) -> None:
    states = await world.apply(booked(opted_out=True))

    assert (["settled"], []) == (states, world.harness.visits())
    assert [] == world.contacts("ada@example.com")


async def test_who_opts_out_later_has_his_visit_cancelled_and_may_come_back(world: World) -> None:
    await world.apply(booked(opted_out=False))
    await world.apply(change(order=2, opted_out=True))
    off = (world.visit() or {}).get("date_cancelled")

    await world.apply(change(order=3, opted_out=False))

    assert off
    assert {"time_scheduled": "2026-03-14T09:00:00Z", "event_date": "2026-03-14T09:00:00Z"} == world.visit()


# An id that is taken, and visits that go ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy", [pytest.param("conflict", id="409"), pytest.param("unprocessable", id="422"), "upsert"]
)
async def test_a_visit_that_a_look_did_not_show_is_not_doubled(world: World, policy: str) -> None:
    await world.apply(booked(contact=ADA))
    await world.redis.command("FLUSHDB")
    world.forget_calls()
    looks = itertools.count()

    def lagging(request: httpx.Request) -> httpx.Response | None:
        """The first look reads from a replica that has not heard of it yet."""
        first = route_of(request) == "GET /visits/:id" and next(looks) == 0
        return httpx.Response(404) if first else None

    world.wire.before = lagging
    world.harness.inject_faults(duplicate_external_id=policy)
    states = await world.apply(booked(order=2, hour=15))

    assert (["settled"], 1) == (states, len(world.harness.visits()))
    assert {"time_scheduled": "2026-03-14T15:00:00Z", "event_date": "2026-03-14T15:00:00Z"} == world.visit()


@pytest.mark.parametrize("policy", ["allow", "conflict", "unprocessable", "upsert"])
async def test_no_policy_on_ids_that_are_taken_is_relied_on(world: World, policy: str) -> None:
    world.harness.inject_faults(
        duplicate_external_id=policy, commit_then_hang_share=1, hang_s=0.01, only=["POST /visits"], times=1
    )

    await world.apply(booked())
    await world.later(3_600)
    await world.run()
    await world.apply(change(order=2, contact=BOB))
    await world.apply(cancelled(order=3))
    world.harness.inject_faults(empty_clears=False)
    await world.apply(booked(order=4, hour=15, date_cancelled=None, contact=BOB))

    assert 1 == len(world.harness.visits())
    assert {"time_scheduled": "2026-03-14T15:00:00Z", "event_date": "2026-03-14T15:00:00Z"} == world.visit()


@pytest.mark.parametrize("status", [400, 409, 422, 302])
async def test_a_refused_visit_is_parked_with_the_answer(world: World, status: int) -> None:
    quoted = f"no visit for ada@example.com {'x' * 600}"
    world.wire.before = lambda request: (
        httpx.Response(status, text=quoted) if route_of(request) == "POST /visits" else None
    )

    states = await world.apply(booked())

    member = await world.member()
    assert (["parked"], f"POST /visits: {status}") == (states, member.reason)
    assert quoted[:500] == member.attempts[-1].response_text
    assert ["POST /visits", status] in member.attempts[-1].calls


async def test_a_parked_visit_is_tried_again_with_the_next_change(world: World) -> None:
    world.wire.before = lambda request: httpx.Response(422) if route_of(request) == "POST /visits" else None
    await world.apply(booked())
    world.wire.before = lambda request: None

    assert ["settled"] == await world.apply(change(order=2, amount_collected=Decimal(1)))
    assert "1.00" == (world.visit() or {})["amount_collected"]


async def test_a_visit_that_somebody_deleted_is_made_again_by_the_next_change(world: World) -> None:
    await world.apply(booked())
    url = f"{world.harness.env['VISITS_API_URL']}/visits/standard-1"
    world.harness.http.delete(url, headers={"authorization": "Bearer t"}).raise_for_status()
    world.forget_calls()

    await world.apply(change(order=2, amount_collected=Decimal(5)))

    assert ["PUT /visits/:id", "POST /visits"] == world.calls()
    assert {
        "time_scheduled": "2026-03-14T09:00:00Z",
        "event_date": "2026-03-14T09:00:00Z",
        "amount_collected": "5.00",
    } == world.visit()


async def test_a_visit_that_somebody_deleted_is_made_again_by_a_fresh_replay(world: World) -> None:
    await world.apply(booked())
    url = f"{world.harness.env['VISITS_API_URL']}/visits/standard-1"
    world.harness.http.delete(url, headers={"authorization": "Bearer t"}).raise_for_status()

    await world.ledger.replay("visit:main/standard-1", recheck=True)
    await world.run()

    assert {"time_scheduled": "2026-03-14T09:00:00Z", "event_date": "2026-03-14T09:00:00Z"} == world.visit()


async def test_a_replay_of_what_stands_changes_nothing(world: World) -> None:
    await world.apply(booked(), change(order=2, time_scheduled=at(15), amount_collected=Decimal(5)))
    stands = world.harness.visits()
    world.forget_calls()

    for fresh in (False, True, True):
        await world.ledger.replay("visit:main/standard-1", recheck=fresh)
        await world.run()

    assert stands == world.harness.visits()
    assert ["GET /visits/:id"] * 2 == world.calls()


# Calls that go wrong ------------------------------------------------------------------------------------------------

SPOILT = {
    "done-then-silence": {"commit_then_hang_share": 1},
    "done-then-reset": {"commit_then_hang_share": 1, "hang_s": 0.01},
    "reset": {"reset_share": 1},
    "half-answer": {"truncated_share": 1},
    "wrong-json": {"wrong_json_share": 1},
    "502": {"error_share": 1, "error_status": 502},
    "429": {"rate_limited_share": 1},
    "401": {"unauthorized": True},
    "slow": {"slow_share": 1, "slow_s": 0.6},
}
ENDPOINTS = [
    "GET /visits/:id",
    "GET /contacts",
    "POST /contacts",
    "POST /visits",
    "PUT /visits/:id",
    "DELETE /visits/:id",
]


def spoilt(world: World) -> list[str]:
    return [call["route"] for call in world.harness.journal() if call["fault"]]


@pytest.mark.parametrize("switches", SPOILT.values(), ids=SPOILT)
@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_any_call_may_go_wrong_and_there_is_one_visit_and_one_customer(
    world: World, endpoint: str, switches: dict[str, Any]
) -> None:
    """A story that makes every call: a booking, a payment, another customer."""
    patience_s = 0.4 if "slow" in str(switches) or switches == {"commit_then_hang_share": 1} else 10
    story = [booked(), change(order=2, amount_collected=Decimal(5)), change(order=3, contact=BOB)]
    world.harness.inject_faults(**switches, only=[endpoint], times=1)

    for each in story:
        world.set(answer_s=patience_s)
        await world.apply(each)
        if world.harness.http.get(f"{world.harness.sandbox.url}/_sandbox/faults").json()["times"] == 0:
            wait_until(lambda: spoilt(world))  # What is slow is done before the next try, which comes 5 s later.
        world.set()
        for _ in range(4):
            if (await world.member()).state != "settled":
                await world.later(60)
                await world.run()
        assert "settled" == (await world.member()).state

    assert [endpoint] == spoilt(world)
    assert [("standard-1", world.contacts("bob@example.com")[0]["id"])] == [
        (visit["external_id"], visit["contact_id"]) for visit in world.harness.visits()
    ]
    assert {
        "time_scheduled": "2026-03-14T09:00:00Z",
        "event_date": "2026-03-14T09:00:00Z",
        "amount_collected": "5.00",
    } == world.visit()
    assert [1, 1] == [len(world.contacts(email)) for email in ("ada@example.com", "bob@example.com")]


@pytest.mark.parametrize(
    ("switches", "outcome", "reason", "call"),
    [
        pytest.param({"down": True}, "broken", "GET /visits/:id: 503", ["GET /visits/:id", 503], id="503"),
        pytest.param(
            {"truncated_share": 1, "only": ["POST /contacts"]},
            "unanswered",
            "POST /contacts: unanswered",
            ["POST /contacts", "unanswered"],
            id="half",
        ),
    ],
)
async def test_every_attempt_is_told_with_its_calls(
    world: World, switches: dict[str, Any], outcome: str, reason: str, call: list[Any]
) -> None:
    world.harness.inject_faults(**switches)

    states = await world.apply(booked())

    member = await world.member()
    assert (["waiting"], 1, reason) == (states, member.failed_attempts, member.reason)
    assert (outcome, call) == (member.attempts[-1].outcome, member.attempts[-1].calls[-1])
    assert member.retry_at_ms is not None


async def test_a_call_without_an_answer_is_not_repeated_within_seconds(world: World) -> None:
    world.harness.inject_faults(truncated_share=1, only=["POST /visits"])

    await world.apply(booked())

    member = await world.member()
    assert member.retry_at_ms is not None
    assert member.retry_at_ms / 1000 - time.time() > 4


@pytest.mark.parametrize(
    ("slow", "then"),
    [
        pytest.param("POST /visits", booked(order=2, hour=15), id="POST /visits"),
        pytest.param("POST /contacts", booked(order=2, hour=15), id="POST /contacts"),
        pytest.param("PUT /visits/:id", booked(order=2, hour=15), id="PUT /visits/:id"),
        pytest.param("DELETE /visits/:id", booked(order=2, hour=15, contact=BOB), id="DELETE /visits/:id"),
    ],
)
async def test_a_write_that_is_done_after_patience_ended_does_no_harm_also_on_a_short_schedule(
    world: World, slow: str, then: VisitChange, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scaled by 20: patience 0.5 s for 10 s, an API that takes 0.6 s for 12 s; RETRY_CAP_S=1 is 0.05 s."""
    world.set(answer_s=0.5, RETRY_FIRST_S="0.05", RETRY_CAP_S="0.05")
    monkeypatch.setattr("jobs.retry.IN_FLIGHT_WAIT_S", 0.25)
    monkeypatch.setattr(jobs.contacts, "LOCK_TTL_MS", 1_500)
    if not slow.startswith("POST"):
        await world.apply(booked(hour=7))
    world.harness.inject_faults(slow_share=1, slow_s=0.6, only=[slow], times=1)

    await world.apply(then)
    await world.land(change(order=3, time_scheduled=at(20)))
    async with asyncio.timeout(20):
        while (await world.member()).state != "settled":
            await world.ledger.requeue_due()
            await world.run()
            await asyncio.sleep(0.005)
    await asyncio.to_thread(wait_until, lambda: spoilt(world))

    assert {"time_scheduled": "2026-03-14T20:00:00Z", "event_date": "2026-03-14T20:00:00Z"} == world.visit()
    assert [1, 1] == [len(world.harness.visits()), len(world.contacts("ada@example.com"))]


async def test_an_api_that_is_slow_but_answers_in_time_gets_its_visits(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scaled by 10: every call takes 0.8 s of the 1 s (8 s of 10 s) that it may, a job has 2 s."""
    for name, value in (("jobs.apply_visit.RUN_TIMEOUT_S", 2), ("jobs.apply_visit.ANSWER_S", 1)):
        monkeypatch.setattr(name, value)
    monkeypatch.setattr(jobs.contacts, "LOCK_WAIT_S", 0.1)
    world.set(answer_s=1)
    world.harness.inject_faults(slow_share=1, slow_s=0.8)

    await world.apply(booked())
    for _ in range(10):
        if (await world.member()).state != "settled":
            await world.later(60)
            await world.run()

    assert "settled" == (await world.member()).state
    assert [1, 1] == [len(world.harness.visits()), len(world.contacts("ada@example.com"))]


# Trouble for everybody ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("switches", "wait_s"),
    [
        pytest.param({"retry_after_s": 70}, (70, 70), id="seconds"),
        pytest.param({"retry_after_s": 70, "retry_after_date": True}, (65, 70), id="date"),
        pytest.param({"retry_after_s": None}, (2, 60), id="without"),
    ],
)
async def test_after_a_429_nobody_calls_before_its_time(
    world: World, switches: dict[str, Any], wait_s: tuple[int, int]
) -> None:
    for number in range(5):
        await world.land(booked(str(number)))
    world.harness.inject_faults(rate_limited_share=1, **switches)
    states = await world.run()
    world.harness.clear_faults()
    await world.later(wait_s[0] - 2)
    early = await world.run()
    calls = world.calls()
    await world.later(wait_s[1] - wait_s[0] + 3)
    late = await world.run()

    assert (["held"] * 5, [], ["GET /visits/:id"]) == (states, early, calls)
    assert ["settled"] * 5 == late
    assert [0] * 5 == [(await world.member(str(number))).failed_attempts for number in range(5)]


async def test_a_refused_token_holds_everybody_and_is_probed(world: World) -> None:
    for number in range(5):
        await world.land(booked(str(number)))
    world.harness.inject_faults(unauthorized=True)
    states = await world.run()
    probes = []
    for _ in range(10):  # An hour and more, which is over RETRY_FOR_S here.
        await world.later(400)
        probes.append(await world.run())
    tries = [(await world.member(str(number))).failed_attempts for number in range(5)]
    calls = world.calls()
    world.harness.clear_faults()
    await world.later(60)
    back = await world.run()
    await world.later(1)
    back += await world.run()

    assert (["held"] * 5, [["held"]] * 10, [0] * 5) == (states, probes, tries)
    assert ["GET /visits/:id"] * 11 == calls
    assert ["settled"] * 5 == back


async def test_time_spent_with_a_refused_token_is_not_held_against_a_visit(world: World) -> None:
    world.set(RETRY_FOR_S="3600")
    world.harness.inject_faults(unauthorized=True)
    await world.apply(booked())
    await world.later(4_000)
    world.harness.clear_faults()
    world.harness.inject_faults(down=True)

    states = await world.run()

    assert (["waiting"], 1) == (states, (await world.member()).failed_attempts)


async def test_a_429_is_never_parked_for_its_age(world: World) -> None:
    world.set(RETRY_FOR_S="3600")
    world.harness.inject_faults(rate_limited_share=1)
    await world.apply(booked())

    for _ in range(3):
        await world.later(4_000)
        assert ["held"] == await world.run()


async def test_when_the_api_is_down_one_probe_asks_and_the_others_wait(world: World) -> None:
    for number in range(10):
        await world.land(booked(str(number), contact=replace(ADA, email=f"{number}@example.com")))
    world.harness.inject_faults(down=True)
    states = await world.run()
    world.forget_calls()
    probes = []
    for _ in range(3):
        await world.later(31)
        await world.run()
        probes.append(len(world.calls()))
        world.forget_calls()
    world.harness.clear_faults()
    for _ in range(4):
        await world.later(3_600)
        await world.run()

    assert ["waiting"] * 3 + ["held"] * 7 == states
    assert 10 == len(world.harness.visits())


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(booked("0", contact=None), id="waits-for-an-address"),
        pytest.param(booked("0", contact=Contact(email="no address")), id="is-refused"),
        pytest.param(booked("0", opted_out=True), id="is-never-made"),
    ],
)
async def test_when_the_api_is_back_whatever_the_probe_meets_everybody_goes_on(
    world: World, first: VisitChange
) -> None:
    world.harness.inject_faults(down=True)
    for number in (7, 8, 9):
        await world.land(booked(str(number)))
    await world.run()
    await world.land(first)
    for number in range(1, 6):
        await world.land(booked(str(number)))
    await world.run()
    world.harness.clear_faults()

    await world.later(31)
    await world.run()
    await world.later(1)
    await world.run()

    assert 5 == sum(world.visit(str(number)) is not None for number in range(1, 6))


@pytest.mark.parametrize(("poisoned", "half_minutes"), [(1, 0), (2, 0), (5, 10)], ids=["1", "2", "5"])
async def test_poisoned_visits_hold_up_no_other_for_long(world: World, poisoned: int, half_minutes: int) -> None:
    """The API answers 500 to some visits, for ever."""
    ids = [f"p{number}" for number in range(poisoned)]
    paths = {f"/api/v1/visits/standard-{id}" for id in ids}
    world.wire.before = lambda request: httpx.Response(500) if request.url.path in paths else None
    for id in ids:
        await world.apply(booked(id))

    for number in range(7):
        await world.apply(booked(str(number)))
    for _ in range(half_minutes):
        await world.later(30)
        await world.run()
        await world.later(1)
        await world.run()

    assert [f"standard-{number}" for number in range(7)] == [visit["external_id"] for visit in world.harness.visits()]


async def test_after_the_time_for_tries_it_is_parked_with_its_reason_and_all_attempts(world: World) -> None:
    world.set(RETRY_FOR_S="7200")
    world.harness.inject_faults(error_share=1, error_status=502)
    states = await world.apply(booked())

    for _ in range(5):
        await world.later(1_800)
        states += await world.run()
        await world.redis.command("DEL", "db:answers:main")

    member = await world.member()
    assert ["waiting", "waiting", "waiting", "waiting", "parked"] == states
    assert ("parked", "GET /visits/:id: 502", 5) == (member.state, member.reason, member.failed_attempts)
    assert [["GET /visits/:id", 502]] * 5 == [call for attempt in member.attempts for call in attempt.calls]


async def test_a_replay_begins_the_time_for_tries_anew(world: World) -> None:
    world.set(RETRY_FOR_S="3600")
    world.harness.inject_faults(down=True)
    await world.apply(booked())
    await world.later(4_000)
    await world.run()
    parked = (await world.member()).state

    await world.ledger.replay("visit:main/standard-1")

    assert ("parked", ["waiting"]) == (parked, await world.run())


async def test_a_new_change_begins_the_time_for_tries_anew(world: World) -> None:
    world.set(RETRY_FOR_S="3600")
    world.harness.inject_faults(down=True)
    await world.apply(booked())
    await world.later(4_000)
    await world.run()
    parked = (await world.member()).state

    states = await world.apply(change(order=2, time_scheduled=at(15)))

    assert ("parked", ["waiting"]) == (parked, states)


async def test_without_a_token_it_is_parked_and_nothing_is_called(world: World) -> None:
    await world.land(booked())
    world.context = replace(
        world.context, settings=world.context.settings.model_copy(update={"visits_api_token": None})
    )

    assert ["parked"] == await world.run()
    assert ("token_missing", []) == ((await world.member()).reason, world.calls())


async def test_a_rate_is_kept_by_all_together(world: World) -> None:
    world.set(VISITS_API_RATE="100")
    for number in range(10):
        await world.land(booked(str(number), contact=replace(ADA, email=f"{number}@example.com")))
    started = time.monotonic()

    await asyncio.gather(*map(world.do, await world.ledger.task_ids("queued")))

    assert 40 == len(world.calls())
    assert time.monotonic() - started > 0.38  # 39 gaps of 10 ms, less what a clock of whole ms may cut
    assert 10 == len(world.harness.visits())


async def test_who_waits_in_a_long_line_keeps_no_customer_locked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line before the API is a tenth of a second long, and the second of the four calls does not fit in."""
    monkeypatch.setattr(jobs.apply_visit, "MAX_RATE_WAIT_S", 0.1)
    world.set(VISITS_API_RATE="0.5")
    await world.apply(booked())

    assert "rate_limited_locally" == (await world.member()).reason
    assert [] == await world.redis.command("KEYS", "db:contact:*:lock")


# Accounts -----------------------------------------------------------------------------------------------------------


async def test_every_account_has_its_own_token_customers_and_gate(world: World) -> None:
    hooks = {
        "HOOKS__OTHER__SECRETS": SECRET,
        "HOOKS__OTHER__SOURCE": "standard",
        "HOOKS__OTHER__VISITS_API_TOKEN": "other",
    }
    world.set(**hooks)
    (other,) = {*world.context.settings.tokens} - {"main"}
    refused = f"Bearer {TOKEN}"

    def refuse_main(request: httpx.Request) -> httpx.Response | None:
        return httpx.Response(401) if request.headers["authorization"] == refused else None

    world.wire.before = refuse_main
    await world.land(booked("1"))
    await world.land(booked("2"), account=other)
    states = await world.run()
    first = [(route_of(request), request.headers["authorization"]) for request in world.wire.seen]
    world.wire.before = lambda request: None
    world.forget_calls()
    await world.later(60)
    await world.run()

    assert ["held", "settled"] == sorted(states)
    assert [("GET /visits/:id", f"Bearer {TOKEN}")] == [call for call in first if call[1] == refused]
    assert [(route, "Bearer other") for route in FIRST] == [call for call in first if call[1] != refused]
    assert "GET /contacts" in world.calls()  # What is known of one account's customers says nothing of another's.
    assert {f"Bearer {TOKEN}"} == {request.headers["authorization"] for request in world.wire.seen}


# One writer ---------------------------------------------------------------------------------------------------------


def overlaps(journal: Sequence[dict[str, Any]], external_id: str) -> list[tuple[Any, Any]]:
    """Pairs of calls on one visit of which the second began before the first was over."""
    mine = [call for call in journal if external_id in (call["id"], call["external_id"])]
    spans = sorted((datetime.fromisoformat(call["at"]), call["took_ms"], call["number"]) for call in mine)
    return [
        (one, other)
        for one, other in itertools.pairwise(spans)
        if other[0] < one[0] + timedelta(milliseconds=one[1] - 2)  # `at` is in whole milliseconds
    ]


async def test_two_workers_never_write_one_visit_at_once(world: World) -> None:
    world.harness.inject_faults(slow_share=1, slow_s=0.01, empty_clears=False)
    dice = random.Random(5)

    async def worker() -> None:
        while not telling.done():
            await run_visit(world.context, "main", "standard-1")
            await asyncio.sleep(dice.random() / 100)

    async def tool() -> None:
        for order in range(1, 30):
            said = {"date_cancelled": at(8) if order % 3 == 0 else None, "contact": (ADA, BOB)[order // 7 % 2]}
            await world.land(booked("1", order, order % 24, **said))
            await asyncio.sleep(0.02)

    telling = asyncio.create_task(tool())
    await asyncio.gather(telling, *(worker() for _ in range(8)))
    await world.run()

    journal = world.harness.journal()
    assert len(journal) > 10
    assert [] == overlaps(journal, "standard-1")
    assert {"time_scheduled": "2026-03-14T05:00:00Z", "event_date": "2026-03-14T05:00:00Z"} == world.visit()


async def test_a_change_that_lands_during_a_run_is_picked_up_by_the_next(world: World) -> None:
    landed = asyncio.Event()

    async def land_when_asked() -> None:
        await landed.wait()
        await world.land(change(order=2, time_scheduled=at(15)))

    def on_the_way(request: httpx.Request) -> None:
        if route_of(request) == "POST /visits":
            landed.set()

    world.wire.before = on_the_way
    world.harness.inject_faults(slow_share=1, slow_s=0.05, only=["POST /visits"])
    landing = asyncio.create_task(land_when_asked())
    states = await world.apply(booked())
    await landing

    assert ["settled", "settled"] == states
    assert "2026-03-14T15:00:00Z" == (world.visit() or {})["event_date"]


async def test_who_lost_the_lease_leaves_no_mark(world: World) -> None:
    world.wire.holds = {"POST /visits": asyncio.Event()}
    await world.land(booked())
    first = asyncio.create_task(run_visit(world.context, "main", "standard-1"))
    await asyncio.to_thread(wait_until, world.harness.visits)
    await world.later(60)

    states = await world.run()
    world.wire.holds["POST /visits"].set()
    await first

    member = await world.member()
    assert ["settled"] == states
    assert ("settled", 1, 1) == (member.state, len(member.attempts), len(world.harness.visits()))


# Killed at any instruction ------------------------------------------------------------------------------------------


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


STORIES = {
    "first": ([], [booked()]),
    "update": ([booked()], [change(order=2, amount_collected=Decimal(5))]),
    "another-customer": ([booked()], [change(order=2, contact=BOB, amount_collected=Decimal(5))]),
    "not-cleared": ([booked(), cancelled(order=2)], [booked(order=3, date_cancelled=None)]),
    "renamed": ([booked("0", order=2), booked("1")], [change("0", order=3, continues="1")]),
}


@pytest.mark.parametrize("lets", [False, True], ids=["at-once", "when-it-is-done"])
@pytest.mark.parametrize(("before", "then"), STORIES.values(), ids=STORIES)
async def test_killed_wherever_it_waits_and_run_again_there_is_one_visit_and_one_customer(
    world: World, before: list[VisitChange], then: list[VisitChange], lets: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.contacts, "LOCK_TTL_MS", 20)
    root = "1"
    for k in range(200):
        await world.redis.command("FLUSHDB")
        world.harness.http.post(f"{world.harness.sandbox.url}/_sandbox/reset")
        world.harness.inject_faults(empty_clears=False)
        for each in before:
            await world.apply(each)
        for each in then:
            await world.land(each)

        was_cut = await cut(world, run_visit(world.context, "main", f"standard-{root}"), k, lets)
        for _ in range(2):
            world.harness.journal()  # What was on its way to the sandbox is done.
        for _ in range(3):
            await world.later(3_600)
            await world.run()

        context = f"cut at {k}"
        assert "settled" == (await world.member(root)).state, context
        assert [f"standard-{root}"] == [visit["external_id"] for visit in world.harness.visits()], context
        expected = "2026-03-14T09:00:00Z"
        assert expected == (world.visit(root) or {})["time_scheduled"], context
        assert "date_cancelled" not in (world.visit(root) or {}), context
        emails = {change.contact.email for change in (*before, *then) if change.contact}
        assert {1} == {len(world.contacts(email)) for email in emails if email}, context
        if not was_cut:
            break
    assert k >= 3
    assert not was_cut


# Renamed visits -----------------------------------------------------------------------------------------------------


def chain(*ids: str) -> list[VisitChange]:
    """As Calendly tells it: a booking; for every move a cancel of the old half that names the new one, and a booking
    that names the old one. Each move is an hour later than the last."""
    story = [booked(ids[0], 1, 9)]
    for number, (old, new) in enumerate(itertools.pairwise(ids), 1):
        story.append(change(new, 10 * number, continues=old))
        story.append(booked(new, 10 * number, 9 + number, continues=old, date_cancelled=None, no_show=None))
    return story


async def tell(world: World, story: Sequence[VisitChange], stops: Sequence[bool], dice: random.Random) -> None:
    """Land a story, and let some of the work be done at the stops, in any order, several at once."""
    for each, stop in zip(story, stops, strict=True):
        await world.land(each)
        if stop:
            works = await world.ledger.task_ids("queued")
            dice.shuffle(works)
            await asyncio.gather(*map(world.do, works[: dice.randint(1, 3)]))
    await world.run()
    await world.later(3_600)
    await world.run()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=lambda order: "".join(map(str, order)))
async def test_a_move_under_a_new_id_is_one_visit_under_the_first_whatever_comes_when(
    world: World, order: tuple[int, ...]
) -> None:
    for stops in itertools.product([True, False], repeat=3):
        await world.redis.command("FLUSHDB")
        world.harness.http.post(f"{world.harness.sandbox.url}/_sandbox/reset")
        story = chain("b", "a")  # The later id comes first in the alphabet.

        await tell(world, [story[number] for number in order], stops, random.Random(1))

        assert ["standard-b"] == [visit["external_id"] for visit in world.harness.visits()], stops
        expected = {"time_scheduled": "2026-03-14T10:00:00Z", "event_date": "2026-03-14T10:00:00Z"}
        assert expected == world.visit("b"), stops


@pytest.mark.parametrize("seed", range(25))
async def test_a_visit_that_moves_three_times_is_one_visit_under_its_first_id(world: World, seed: int) -> None:
    dice = random.Random(seed)
    ids = dice.sample(["a", "b", "c", "d"], 4)
    story = chain(*ids)
    story += dice.choices(story, k=2)  # told twice
    dice.shuffle(story)
    stops = [dice.random() < 0.6 for _ in story]

    await tell(world, story, stops, dice)

    assert [f"standard-{ids[0]}"] == [visit["external_id"] for visit in world.harness.visits()]
    expected = {"time_scheduled": "2026-03-14T12:00:00Z", "event_date": "2026-03-14T12:00:00Z"}
    assert expected == world.visit(ids[0])
    assert 1 == len(world.contacts("ada@example.com"))


@pytest.mark.parametrize("halves", ["both halves of each move", "the cancels only, then the bookings"])
async def test_a_chain_of_five_that_arrives_backwards_is_one_visit_under_the_first_id_that_could_be_known(
    world: World, halves: str
) -> None:
    first, *moves = chain("e", "d", "c", "b", "a", "f")
    links, bookings = moves[::2], moves[1::2]
    backwards = moves[::-1] if halves.startswith("both") else [*links[::-1], *bookings[::-1]]
    known = []

    for each in [*backwards, first]:
        await world.apply(each)
        known.append([visit["external_id"] for visit in world.harness.visits()])

    # The booking that names its old half is enough to know the old half's name.
    by_moves = [[f"standard-{old}"] for old in "abcde" for _ in range(2)] + [["standard-e"]]
    by_links = [[]] * 5 + [["standard-e"]] * 6
    assert (by_moves if halves.startswith("both") else by_links) == known
    assert {"time_scheduled": "2026-03-14T14:00:00Z", "event_date": "2026-03-14T14:00:00Z"} == world.visit("e")
    assert 1 == len(world.contacts("ada@example.com"))


async def test_an_old_id_that_is_moved_from_twice_is_one_visit_at_the_time_of_the_later_move(world: World) -> None:
    asked = change("asked", 10, "cancel", continues="old", date_cancelled=at(8))
    moved = booked("moved", 20, 15, continues="old", date_cancelled=None, no_show=None)

    for story in itertools.permutations([booked("old"), asked, moved]):
        await world.redis.command("FLUSHDB")
        world.harness.http.post(f"{world.harness.sandbox.url}/_sandbox/reset")
        for each in story:
            await world.apply(each)

        assert ["standard-old"] == [visit["external_id"] for visit in world.harness.visits()]
        assert {"time_scheduled": "2026-03-14T15:00:00Z", "event_date": "2026-03-14T15:00:00Z"} == world.visit("old")


async def test_a_visit_made_under_a_later_id_goes_when_the_first_is_known(world: World) -> None:
    await world.apply(booked("old"))
    await world.apply(booked("new", order=2, hour=15))
    two = sorted(visit["external_id"] for visit in world.harness.visits())
    world.forget_calls()

    await world.apply(change("new", order=2, continues="old"))

    assert ["standard-new", "standard-old"] == two
    assert ["standard-old"] == [visit["external_id"] for visit in world.harness.visits()]
    assert sorted(["DELETE /visits/:id", "PUT /visits/:id"]) == sorted(world.calls())
    assert {"time_scheduled": "2026-03-14T15:00:00Z", "event_date": "2026-03-14T15:00:00Z"} == world.visit("old")


async def test_a_cancel_of_the_moved_visit_cancels_the_one_that_stands(world: World) -> None:
    for each in chain("1", "2"):
        await world.apply(each)
    world.forget_calls()

    await world.apply(cancelled("2", order=99))

    assert ["PUT /visits/:id"] == world.calls()
    assert "2026-03-14T08:00:00Z" == (world.visit("1") or {})["date_cancelled"]


async def test_a_move_of_a_visit_we_never_heard_of_is_made_under_its_first_id(world: World) -> None:
    await world.apply(*chain("1", "2")[1:])

    assert ["standard-1"] == [visit["external_id"] for visit in world.harness.visits()]


async def test_a_moved_visit_is_kept_for_as_long_as_there_is_trouble_with_it(world: World) -> None:
    for each in chain("1", "2", "3"):
        await world.apply(each)
    world.harness.inject_faults(down=True)

    await world.apply(change("3", order=99, time_scheduled=at(20)))

    kept = [await world.redis.command("PTTL", f"db:visit:main/standard-{number}") for number in (1, 2, 3)]
    assert [-1, -1, -1] == kept


async def test_links_that_go_in_a_circle_end(world: World) -> None:
    await world.apply(booked("1", continues="2"))
    await world.apply(booked("2", order=2, hour=15, continues="1"))

    assert 1 == len(world.harness.visits())


# Histories ----------------------------------------------------------------------------------------------------------

FIELDS = ("time_scheduled", "time_completed", "amount_collected", "date_cancelled", "no_show")
RANKS = ("create", "update", "cancel")


def history(dice: random.Random) -> list[VisitChange]:
    """Changes of one visit, in the order in which they arrive: no two of one order and action."""
    stamps = dice.sample([(order, action) for order in range(1, 7) for action in RANKS], dice.randint(2, 8))
    return [change("1", order, action, **said(dice, action)) for order, action in stamps]


def said(dice: random.Random, action: str) -> dict[str, Any]:
    """Some fields: some cleared, some not spoken of."""
    values = {
        "time_scheduled": [UNSAID, at(9), at(12)],
        "time_completed": [UNSAID, UNSAID, None, at(10), at(13)],
        "amount_collected": [UNSAID, UNSAID, None, Decimal("5"), Decimal("7.50")],
        "date_cancelled": [UNSAID, None] if action != "cancel" else [at(7), at(8)],
        "no_show": [UNSAID, UNSAID, UNSAID, None, at(11)],
        "contact": [None, ADA, ADA, BOB],
    }
    return {name: dice.choice(choices) for name, choices in values.items()}


def model(changes: Sequence[VisitChange]) -> tuple[dict[str, str] | None, str | None, bool]:
    """What should stand, for whom, and whether it is off: per field the last who spoke of it, later words of RANKS
    last. None: nothing that a visit could be made of."""
    last: dict[str, Any] = {}
    email = None
    for each in sorted(changes, key=lambda each: (each.order, RANKS.index(each.action))):
        last |= {name: getattr(each, name) for name in FIELDS if getattr(each, name) is not UNSAID}
        email = each.contact.email if each.contact else email
    event_date = last.get("time_completed") or last.get("time_scheduled")
    off = last.get("date_cancelled") or last.get("no_show")
    stands = {
        "time_scheduled": last.get("time_scheduled"),
        "time_completed": last.get("time_completed"),
        "event_date": event_date,
        "date_cancelled": off,
        "amount_collected": last.get("amount_collected"),
    }
    shown = {
        name: f"{value:%Y-%m-%dT%H:%M:%SZ}" if isinstance(value, datetime) else f"{value:.2f}"
        for name, value in stands.items()
        if value is not None
    }
    return (shown if event_date and email else None), email, bool(off)


@pytest.mark.parametrize("seed", range(30))
async def test_any_history_in_any_order_through_any_trouble_ends_in_what_was_said_last(
    world: World, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.contacts, "LOCK_TTL_MS", 20)
    dice = random.Random(seed)
    changes = history(dice)
    arrivals = [*changes, *dice.choices(changes, k=2)]
    dice.shuffle(arrivals)
    clears = dice.random() < 0.5

    for each in arrivals:
        await world.land(each)
        world.harness.clear_faults()
        if dice.random() < 0.5:
            trouble = dice.choice([{}, {"reset_share": 0.3}, {"truncated_share": 0.3}, {"error_share": 0.3}])
            world.harness.inject_faults(**trouble, empty_clears=clears, seed=seed)
            await cut(world, world.run(), dice.randint(1, 60), dice.random() < 0.5)
            world.harness.journal()
            await world.later(3_600)
    world.harness.clear_faults()
    world.harness.inject_faults(empty_clears=clears)
    for _ in range(4):
        await world.run()
        await world.later(3_600)

    stands, email, off = model(changes)
    visits = [(visit["external_id"], visit["contact_id"]) for visit in world.harness.visits()]
    if stands is None or (off and not visits):
        assert [] == visits or off or not email
        return
    assert ["standard-1"] == [external_id for external_id, _ in visits]
    if off:
        assert stands["date_cancelled"] == (world.visit() or {})["date_cancelled"]
        return
    assert stands == world.visit()
    assert visits == [("standard-1", world.contacts(email or "")[0]["id"])]
    assert {len(world.contacts(address)) for address in ("ada@example.com", "bob@example.com")} <= {0, 1}


# Logs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 204, 302, 400, 401, 404, 409, 422, 429, 500], ids=lambda status: f"{status}")
async def test_nobodys_name_is_in_a_log(world: World, logged: list[Any], status: int) -> None:
    quoted = "ada@example.com Ada Lovelace +15550100001"
    await world.apply(booked("0"))
    world.wire.before = lambda request: httpx.Response(status, text=quoted, headers={"location": "/?ada@example.com"})

    await world.apply(booked("1"))
    await world.apply(change("0", order=2, amount_collected=Decimal(77), contact=replace(BOB, last_name="Babbage")))

    told = json.dumps(logged, default=str)
    assert logged
    assert [] == [word for word in ("ada@", "Lovelace", "5550100001", "bob@", "Babbage", TOKEN) if word in told]
