"""Events that only point at a record: a server plays Acuity, Square and Jobber with the records of their specimens."""

import asyncio
import base64
import contextlib
import json
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from app.demo.valkey import free_port
from app.intake.endpoint import WebhookEndpoint
from app.ledger.records import DeliveryInfo, Task
from app.ledger.redis import Redis
from app.telemetry.counters import totals
from app.telemetry.metric_names import TASKS_FINISHED
from app.telemetry.rejections import Rejections
from app.visits.change import VisitChange
from app.webhooks.delivery import Delivery, Event
from app.webhooks.fetching import RecordRequest
from app.webhooks.registry import load_specimens
from app.webhooks.source import PartlyTranslatable
from jobs.concurrency import KeyedLocks
from tests.integration.jobs.test_apply_visit import World, a_world
from tests.support.harness import Harness, Server, hmac_sha256, serving, sign_standard, standard_body, wait_until

TOOLS = ("acuity", "square", "jobber")
SPECIMENS = {name: load_specimens(name) for name in TOOLS}
ACUITY = {delivery["name"]: delivery for delivery in SPECIMENS["acuity"]["deliveries"]}
BOOKED, MOVED, MOVED_AGAIN, CANCELLED = (
    ACUITY["a client books and pays"],
    ACUITY["it is moved"],
    ACUITY["it is moved again: the same delivery to the byte"],
    ACUITY["it is cancelled, and the record says so"],
)
APPOINTMENT = "appointments/123456789"
CANARIES = ("acuity-api-key", "square-token", "jobber-token", "ada@", "Lovelace", "5550100001", "5551230001")
CREDENTIALS = {
    "HOOKS__ACUITY__CREDENTIALS__USER_ID": "4711",
    "HOOKS__ACUITY__CREDENTIALS__API_KEY": "acuity-api-key",
    "HOOKS__SQUARE__CREDENTIALS__TOKEN": "square-token",
    "HOOKS__JOBBER__CREDENTIALS__TOKEN": "jobber-token",
}

Answerer = Callable[[Request], Response]


class Tool:
    """A tool's API. `records`: what stands at a path (Jobber: at an item's id); `trouble`: what it answers instead."""

    def __init__(self) -> None:
        self.records: dict[str, Any] = {}
        self.trouble: list[Answerer] = []
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.open = threading.Event()

    async def serve(self, request: Request) -> Response:
        body = await request.body()
        self.seen.append((request.method, request.url.path, dict(request.headers), body))
        found = self.answer(request, body)
        await asyncio.to_thread(self.open.wait, 10)
        return found

    def answer(self, request: Request, body: bytes) -> Response:
        if self.trouble:
            return self.trouble.pop(0)(request) if len(self.trouble) > 1 else self.trouble[0](request)
        if request.url.path == "/jobber/graphql":
            path = json.loads(body)["variables"]["id"]
        else:
            path = request.url.path.partition("/v/")[2]
        record = self.records.get(path)
        return PlainTextResponse("no such record", 404) if record is None else JSONResponse(record)

    def reset(self) -> None:
        self.__init__()  # type: ignore[misc]
        self.__dict__.pop("answer", None)  # a test's own
        self.open.set()

    def keep(self, tool: str, delivery: Mapping[str, Any]) -> None:
        """Its records stand from now on."""
        for path, record in delivery.get("records", {}).items():
            if tool == "jobber":
                path = encoded_id(path)
            self.records[path] = record


def encoded_id(path: str) -> str:
    """As Jobber spells the id that a record's path has in the spelling for URLs."""
    id = path.partition("/")[2].replace("-", "+").replace("_", "/")
    return id + "=" * (-len(id) % 4)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Tool, str]]:
    tool = Tool()
    with serving(Starlette(routes=[Route("/{path:path}", tool.serve, methods=["GET", "POST"])])) as url:
        yield tool, url
        tool.open.set()


@pytest.fixture(scope="module")
def hands(redis_url: str, sandbox: Server) -> Iterator[Harness]:
    harness = Harness(redis_url, sandbox)
    yield harness
    harness.http.close()


class Doorstep(World):
    """A world with a door, and tools behind it."""

    def __init__(self, redis: Redis, harness: Harness, tool: Tool, url: str) -> None:
        super().__init__(redis, harness)
        self.tool, self.url = tool, url
        self.given = {
            **CREDENTIALS,
            "PUBLIC_URL": SPECIMENS["square"]["public_url"],
            **{f"HOOKS__{name.upper()}__SECRETS": SPECIMENS[name]["secret"] for name in TOOLS},
            "HOOKS__ACUITY__API_URL": f"{url}/acuity/v/",
            "HOOKS__SQUARE__API_URL": f"{url}/square/v/",
            "HOOKS__JOBBER__API_URL": f"{url}/jobber/graphql",
        }
        self.set()

    def set(self, answer_s: float = 10, **env: str) -> None:
        super().set(answer_s, **{name: value for name, value in (getattr(self, "given", {}) | env).items() if value})

    async def ring(self, tool: str, delivery: Mapping[str, Any]) -> httpx.Response:
        """The delivery as it was recorded, signature and all."""
        door = WebhookEndpoint(self.context.settings, defaultdict(lambda: self.ledger), Rejections(self.redis))
        raw = delivery["body"]
        content = raw if isinstance(raw, str) else json.dumps(raw, separators=(",", ":"), ensure_ascii=False)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://door") as client:
            return await client.post(f"/hooks/{tool}", content=content.encode(), headers=delivery["headers"])

    async def asked(self, times: int) -> None:
        """Until the tool has been asked so often."""
        await asyncio.to_thread(wait_until, lambda: len(self.tool.seen) >= times)

    async def event(self, answer: httpx.Response) -> Task:
        return await self.ledger.load_task(f"event:{answer.json()['delivery']}")


@pytest.fixture
async def world(redis: Redis, hands: Harness, served: tuple[Tool, str]) -> AsyncIterator[Doorstep]:
    served[0].reset()
    async with a_world(redis, hands):
        world = Doorstep(redis, hands, *served)
        yield world
        world.tool.open.set()
        await world.wire.aclose()


# What is asked, and what comes of it --------------------------------------------------------------------------------

POINTING = [
    pytest.param(name, delivery, id=f"{name}: {delivery['name']}")
    for name in TOOLS
    for delivery in SPECIMENS[name]["deliveries"]
    if delivery.get("requests")
]


@pytest.mark.parametrize(("tool", "delivery"), POINTING)
async def test_every_specimen_has_its_record_fetched_and_lands(
    world: Doorstep, tool: str, delivery: dict[str, Any]
) -> None:
    world.tool.keep(tool, delivery)

    answer = await world.ring(tool, delivery)
    await world.do(f"event:{answer.json()['delivery']}")

    event = await world.event(answer)
    paths = [path.partition("/v/")[2] for _, path, _, _ in world.tool.seen]
    expected = [""] * len(delivery["records"]) if tool == "jobber" else delivery["requests"]
    assert (202, expected) == (answer.status_code, paths)
    outcome, is_missing = event.attempts[-1].outcome, None in delivery.get("records", {}).values()
    if isinstance(delivery["expect"], list) and is_missing and delivery["expect"][0]["action"] != "cancel":
        assert ("waiting", "record_not_found_yet") == (outcome, event.reason)
    elif isinstance(delivery["expect"], list):
        named = sorted({f"visit:main/{tool}-{visit['visit_id']}" for visit in delivery["expect"]})
        assert ("translated", named) == (outcome, sorted(set(event.targets)))
    else:
        assert outcome != "translated"


async def test_acuity_is_asked_with_its_user_and_key(world: Doorstep) -> None:
    world.tool.keep("acuity", BOOKED)

    await world.ring("acuity", BOOKED)
    await world.run()

    ((method, path, headers, _),) = world.tool.seen
    assert ("GET", "/acuity/v/appointments/123456789") == (method, path)
    assert f"Basic {base64.b64encode(b'4711:acuity-api-key').decode()}" == headers["authorization"]


async def test_square_is_asked_with_its_token_and_version(world: Doorstep) -> None:
    delivery = SPECIMENS["square"]["deliveries"][0]
    world.tool.keep("square", delivery)

    await world.ring("square", delivery)
    await world.run()

    ((method, path, headers, _),) = world.tool.seen
    assert ("GET", "/square/v/customers/CUSTDEMO1") == (method, path)
    assert ("Bearer square-token", "2025-07-16") == (headers["authorization"], headers["square-version"])


async def test_jobber_is_asked_by_graphql_with_its_token_and_version(world: Doorstep) -> None:
    delivery = SPECIMENS["jobber"]["deliveries"][0]
    world.tool.keep("jobber", delivery)

    await world.ring("jobber", delivery)
    await world.run()

    ((method, path, headers, body),) = world.tool.seen
    asked = json.loads(body)
    assert ("POST", "/jobber/graphql", "application/json") == (method, path, headers["content-type"])
    assert ("Bearer jobber-token", "2026-04-16") == (headers["authorization"], headers["x-jobber-graphql-version"])
    assert {"id": "Z2lkOi8vSm9iYmVyL1Zpc2l0LzIxNDk1MTMzOTU="} == asked["variables"]
    assert "visit(id: $id)" in asked["query"]


@pytest.mark.parametrize(
    ("tool", "name", "expected"),
    [
        (
            "acuity",
            "acuity-123456789",
            {
                "time_scheduled": "2026-10-01T15:00:00Z",
                "event_date": "2026-10-01T15:00:00Z",
                "amount_collected": "75.50",
            },
        ),
        (
            "square",
            "square-zkdemobooking1",
            {"time_scheduled": "2026-10-01T15:00:00Z", "event_date": "2026-10-01T15:00:00Z"},
        ),
        (
            "jobber",
            "jobber-Z2lkOi8vSm9iYmVyL1Zpc2l0LzIxNDk1MTMzOTU",
            {"time_scheduled": "2026-03-14T15:00:00Z", "event_date": "2026-03-14T15:00:00Z"},
        ),
    ],
)
async def test_what_was_fetched_becomes_the_visit(
    world: Doorstep, tool: str, name: str, expected: dict[str, str]
) -> None:
    delivery = SPECIMENS[tool]["deliveries"][0]
    world.tool.keep(tool, delivery)

    answer = await world.ring(tool, delivery)
    await world.run()

    (visit,) = world.harness.visits()
    assert name == visit["external_id"]
    assert expected == {field: visit[field] for field in expected | dict.fromkeys(visit) if field in expected}
    (contact,) = world.contacts("ada@example.com")
    assert ("Ada", "Lovelace", contact["id"]) == (contact["first_name"], contact["last_name"], visit["contact_id"])
    event = await world.event(answer)
    assert ("settled", [f"visit:main/{name}"]) == (event.state, event.targets)


async def test_nothing_is_fetched_for_an_event_that_means_nothing_to_us(world: Doorstep) -> None:
    answer = await world.ring("acuity", ACUITY["an order for a package"])
    await world.run()

    assert (200, []) == (answer.status_code, world.tool.seen)


def says(status: int, text: str = "", **headers: str) -> Answerer:
    return lambda _: PlainTextResponse(text, status, headers)


# The record is not there, or not yet --------------------------------------------------------------------------------


async def test_a_record_that_is_not_readable_yet_is_waited_for(world: Doorstep) -> None:
    answer = await world.ring("acuity", BOOKED)
    await world.run()
    early = await world.event(answer)
    world.tool.keep("acuity", BOOKED)
    await world.later(15)
    await world.run()

    assert ("waiting", "record_not_found_yet", 0) == (early.state, early.reason, early.failed_attempts)
    assert ["acuity-123456789"] == [visit["external_id"] for visit in world.harness.visits()]


async def a_minute_ago(world: Doorstep, tool: str, told: Mapping[str, Any]) -> str:
    """A delivery that came before a late record would have had its time; its id."""
    raw, received_at = told["body"], datetime.now(UTC) - timedelta(seconds=61)
    content = raw if isinstance(raw, str) else json.dumps(raw, separators=(",", ":"), ensure_ascii=False)
    wire = tuple((name.lower().encode(), value.encode()) for name, value in told["headers"].items())
    delivery = Delivery(tool, tool, wire, content.encode(), received_at)
    meta = DeliveryInfo(tool, tool, int(received_at.timestamp() * 1000))
    return (await world.ledger.accept(delivery, meta, [], "main", dedup_id=None, event_state="queued")).delivery_id


async def test_a_record_that_is_still_not_there_after_a_minute_is_gone(world: Doorstep) -> None:
    delivery_id = await a_minute_ago(world, "acuity", BOOKED)

    await world.run()

    event = await world.ledger.load_task(f"event:{delivery_id}")
    assert ("settled", "ignored: record_gone") == (event.state, event.attempts[-1].outcome)


async def test_whose_visit_it_is_may_not_be_readable_yet_either(world: Doorstep) -> None:
    booked = SPECIMENS["square"]["deliveries"][0]
    answer = await world.ring("square", booked)
    await world.run()
    early = await world.event(answer)
    world.tool.keep("square", booked)
    await world.later(15)
    await world.run()

    assert ("waiting", "record_not_found_yet", 0) == (early.state, early.reason, early.failed_attempts)
    assert ["square-zkdemobooking1"] == [visit["external_id"] for visit in world.harness.visits()]


async def test_a_visit_whose_customer_is_still_not_there_after_a_minute_waits_for_one(world: Doorstep) -> None:
    await a_minute_ago(world, "square", SPECIMENS["square"]["deliveries"][0])

    await world.run()

    visit = await world.ledger.load_task("visit:main/square-zkdemobooking1")
    assert ("waiting", "contact_unknown") == (visit.state, visit.reason)


@pytest.mark.parametrize("status", [404, 410])
async def test_a_cancelled_appointment_that_is_gone_is_cancelled_all_the_same(world: Doorstep, status: int) -> None:
    world.tool.keep("acuity", BOOKED)
    await world.ring("acuity", BOOKED)
    await world.run()
    world.tool.trouble = [says(status, "no such appointment")]

    await world.ring("acuity", ACUITY["it is cancelled, and gone when we ask"])
    await world.run()

    (visit,) = world.harness.visits()
    assert visit["date_cancelled"]


# Trouble with the tool's API ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trouble", "reason", "tries"),
    [
        pytest.param(says(500), "GET appointments: 500", 1, id="500"),
        pytest.param(says(502, "<html>"), "GET appointments: 502", 1, id="502"),
        pytest.param(says(503), "GET appointments: 503", 1, id="503"),
        pytest.param(says(408), "GET appointments: 408", 1, id="408"),
        pytest.param(says(200, "<html>maintenance</html>"), "GET appointments: 200", 1, id="not-json"),
        pytest.param(says(200, ""), "GET appointments: 200", 1, id="nothing"),
        pytest.param(says(200, "[1,"), "GET appointments: 200", 1, id="half-json"),
        pytest.param(says(429), "GET appointments: 429", 0, id="429"),
        pytest.param(says(401), "credentials_refused", 0, id="401"),
        pytest.param(says(403), "credentials_refused", 0, id="403"),
    ],
)
async def test_after_trouble_that_may_pass_the_event_waits_and_then_lands(
    world: Doorstep, trouble: Answerer, reason: str, tries: int
) -> None:
    world.tool.keep("acuity", BOOKED)
    world.tool.trouble = [trouble]
    answer = await world.ring("acuity", BOOKED)
    await world.run()
    event = await world.event(answer)
    world.tool.trouble = []
    await world.later(3_600)
    await world.run()

    assert ("waiting", reason, tries) == (event.state, event.reason, event.failed_attempts)
    assert ["acuity-123456789"] == [visit["external_id"] for visit in world.harness.visits()]


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        pytest.param(says(400, "bad"), "GET appointments: 400", id="400"),
        pytest.param(says(422, "bad"), "GET appointments: 422", id="422"),
        pytest.param(says(302, location="http://127.0.0.1:1/"), "GET appointments: 302", id="redirect"),
        pytest.param(says(200, "[]"), "untranslatable: record", id="a-list"),
        pytest.param(says(200, '"ada@example.com"'), "untranslatable: record", id="a-text"),
        pytest.param(says(200, "{}"), "untranslatable: record", id="an-empty-object"),
        pytest.param(says(200, '{"datetime": "soon"}'), "untranslatable: record", id="no-time"),
        pytest.param(says(200, f'{{"x": "{"x" * 1_100_000}"}}'), "GET appointments: refused", id="too-large"),
    ],
)
async def test_what_will_not_get_better_is_parked_with_its_reason(
    world: Doorstep, trouble: Answerer, reason: str
) -> None:
    world.tool.trouble = [trouble]

    answer = await world.ring("acuity", BOOKED)
    await world.run()

    event = await world.event(answer)
    assert ("parked", reason) == (event.state, event.reason[: len(reason)])
    assert "ada@" not in event.reason


async def test_what_one_record_leaves_open_keeps_none_of_the_others_back(world: Doorstep) -> None:
    for number in (1, 2, 3):
        world.tool.records[f"appointments/{number}"] = {"id": number}

    def translate(event: Event) -> list[VisitChange]:
        number = event.record.at("id").required_id()
        scheduled = datetime(2026, 3, 14, int(number), tzinfo=UTC)
        changes = [VisitChange(action="update", visit_id=number, order=1, time_scheduled=scheduled)]
        if number == "2":
            raise PartlyTranslatable("who comes", changes)
        return changes

    entrance = world.context.settings.entrances["acuity"]
    tool = replace(
        entrance.tool, translate=translate, fetch=lambda _: [RecordRequest(f"appointments/{n}") for n in (1, 2, 3)]
    )
    world.context.settings.__dict__["entrances"] = {"acuity": replace(entrance, tool=tool)}

    answer = await world.ring("acuity", BOOKED)
    await world.run()

    event = await world.event(answer)
    assert ("parked", "untranslatable: who comes") == (event.state, event.reason)
    assert [f"visit:main/acuity-{number}" for number in (1, 2, 3)] == sorted(event.targets)


TOO_LONG = "a" * 200_000 + "@example.com"


async def test_an_address_that_is_too_long_is_left_to_an_operator_and_the_rest_is_known(world: Doorstep) -> None:
    record = next(iter(BOOKED["records"].values()))
    world.tool.records[APPOINTMENT] = {**record, "email": TOO_LONG, "firstName": "A" * 201, "phone": "1" * 51}

    answer = await world.ring("acuity", BOOKED)
    await world.run()

    event, visit = await world.event(answer), await world.ledger.load_task("visit:main/acuity-123456789")
    assert "parked" == event.state
    assert event.reason.startswith("untranslatable: the contact's e-mail address or id is too long")
    assert ("waiting", "contact_unknown") == (visit.state, visit.reason)
    assert [] == world.harness.visits()


@pytest.mark.parametrize("detail", ["email", "id"])
async def test_so_it_is_where_the_event_itself_names_it(world: Doorstep, detail: str) -> None:
    contact = {"email": "ada@example.com", detail: TOO_LONG}
    raw = standard_body("visit.created", "1", time_scheduled="2026-03-14T16:00:00Z", contact=contact)

    answer = await world.ring("standard", {"body": raw.decode(), "headers": sign_standard(raw)})
    await world.run()

    event = await world.event(answer)
    assert (202, "parked") == (answer.status_code, event.state)
    assert "is too long" in event.reason
    assert [] == world.harness.visits()


async def test_of_long_names_the_beginning_is_kept(world: Doorstep) -> None:
    contact = {"email": "ada@example.com", "first_name": "A" * 201, "last_name": "L" * 200, "phone": "1" * 51}
    raw = standard_body("visit.created", "1", time_scheduled="2026-03-14T16:00:00Z", contact=contact)

    await world.ring("standard", {"body": raw.decode(), "headers": sign_standard(raw)})
    await world.run()

    [made] = world.contacts("ada@example.com")
    assert ("A" * 200, "L" * 200, "1" * 50) == (made["first_name"], made["last_name"], made["phone"])


async def test_a_tools_retry_after_is_kept(world: Doorstep) -> None:
    world.tool.trouble = [lambda _: PlainTextResponse("", 429, {"Retry-After": "70"})]

    answer = await world.ring("acuity", BOOKED)
    await world.run()

    due = (await world.event(answer)).retry_at_ms
    assert due is not None
    assert 69 < due / 1000 - time.time() < 72


async def test_while_a_tool_limits_the_rate_nothing_else_of_that_hook_is_asked_for(world: Doorstep) -> None:
    world.tool.keep("square", (square := SPECIMENS["square"]["deliveries"][0]))
    world.tool.keep("acuity", BOOKED)
    world.tool.records["appointments/5"] = {**world.tool.records[APPOINTMENT], "id": 5}
    world.tool.trouble = [lambda _: PlainTextResponse("", 429, {"Retry-After": "70"})]
    works = [f"event:{(await world.ring('acuity', one)).json()['delivery']}" for one in (BOOKED, replace_id(BOOKED, 5))]

    outcomes = [await world.do(work) for work in works]
    asked, world.tool.trouble = len(world.tool.seen), []
    other = await world.do(f"event:{(await world.ring('square', square)).json()['delivery']}")

    assert (["GET appointments: 429"] * 2, 1, "translated") == (outcomes, asked, other)
    paused = await world.ledger.load_task(works[1])
    assert paused.retry_at_ms is not None
    assert 69 < paused.retry_at_ms / 1000 - time.time() < 77
    assert ([], 0) == (paused.attempts[-1].calls, paused.failed_attempts)
    await world.later(80)
    assert ["translated", "translated"] == [await world.do(work) for work in works]


async def test_a_tool_that_does_not_answer_is_tried_again(world: Doorstep) -> None:
    world.set(answer_s=0.1)
    world.tool.open.clear()

    answer = await world.ring("acuity", BOOKED)
    await world.run()
    world.tool.open.set()

    event = await world.event(answer)
    assert ("waiting", "GET appointments: unanswered", 1) == (event.state, event.reason, event.failed_attempts)


async def test_a_tool_that_cannot_be_reached_is_tried_again(world: Doorstep) -> None:
    world.set(HOOKS__ACUITY__API_URL=f"http://127.0.0.1:{free_port()}/")

    answer = await world.ring("acuity", BOOKED)
    await world.run()

    event = await world.event(answer)
    assert ("waiting", "GET appointments: unreachable", 1) == (event.state, event.reason, event.failed_attempts)


async def test_a_tool_that_is_down_holds_up_no_other_tool(world: Doorstep) -> None:
    square = SPECIMENS["square"]["deliveries"][0]
    world.tool.keep("square", square)
    world.set(HOOKS__ACUITY__API_URL=f"http://127.0.0.1:{free_port()}/")
    for number in range(1, 6):
        delivery = replace_id(BOOKED, number)
        await world.ring("acuity", delivery)
    await world.run()

    await world.ring("square", square)
    await world.run()

    assert ["square-zkdemobooking1"] == [visit["external_id"] for visit in world.harness.visits()]


def replace_id(delivery: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The same for another appointment, signed anew."""

    body = delivery["body"].replace("123456789", str(number))
    signature = base64.b64encode(hmac_sha256(SPECIMENS["acuity"]["secret"].encode(), body.encode())).decode()
    return {**delivery, "body": body, "headers": {**delivery["headers"], "X-Acuity-Signature": signature}}


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        pytest.param(says(500), "GET appointments: 500", id="500"),
        pytest.param(says(401), "credentials_refused", id="401"),
    ],
)
async def test_after_the_time_for_tries_the_event_is_parked(world: Doorstep, trouble: Answerer, reason: str) -> None:
    world.set(RETRY_FOR_S="3600")
    world.tool.trouble = [trouble]
    answer = await world.ring("acuity", BOOKED)
    await world.run()
    await world.later(4_000)
    await world.run()

    event = await world.event(answer)
    assert ("parked", reason, 2) == (event.state, event.reason, len(event.attempts))


async def test_a_parked_event_is_replayed(world: Doorstep) -> None:
    world.tool.keep("acuity", BOOKED)
    world.tool.trouble = [says(422)]
    answer = await world.ring("acuity", BOOKED)
    await world.run()
    world.tool.trouble = []

    await world.ledger.replay(f"event:{answer.json()['delivery']}")
    await world.run()

    assert ["acuity-123456789"] == [visit["external_id"] for visit in world.harness.visits()]


async def test_what_work_came_to_is_counted_each_time_it_comes_to_an_end(world: Doorstep) -> None:
    world.tool.keep("acuity", BOOKED)
    world.tool.trouble = [says(503), says(422)]
    answer = await world.ring("acuity", BOOKED)
    await world.run()
    await world.later(3_600)
    await world.run()
    world.tool.trouble = []
    await world.ledger.replay(f"event:{answer.json()['delivery']}")
    await world.run()
    delivery_id = await a_minute_ago(world, "acuity", MOVED)
    world.tool.trouble = [says(404)]
    await world.run()
    assert "settled" == (await world.ledger.load_task(f"event:{delivery_id}")).state

    await world.context.counters.flush(world.redis)

    counted = {name.removeprefix(TASKS_FINISHED): count for name, count in (await totals(world.redis)).items()}
    ends = {name: count for name, count in counted.items() if name.startswith("|")}
    assert {"|event|parked": 1, "|event|translated": 1, "|event|ignored": 1, "|visit|created": 1} == ends


async def test_a_parked_event_is_put_back_to_work_by_the_tools_retry(world: Doorstep) -> None:
    world.tool.keep("acuity", BOOKED)
    world.tool.trouble = [says(422)]
    await world.ring("acuity", BOOKED)
    await world.run()
    world.tool.trouble = []

    answer = await world.ring("acuity", BOOKED)
    await world.run()

    assert (200, True) == (answer.status_code, answer.json()["repeat"])
    assert ["acuity-123456789"] == [visit["external_id"] for visit in world.harness.visits()]


# GraphQL ------------------------------------------------------------------------------------------------------------


def graphql(code: str | None, data: Any = None) -> Answerer:
    error = {"message": "ada@example.com is not allowed", **({"extensions": {"code": code}} if code else {})}
    return lambda _: JSONResponse({"data": data, "errors": [error]})


def with_code_beside_the_message(code: str) -> Answerer:
    """As Boulevard writes it."""
    return lambda _: JSONResponse({"data": None, "errors": [{"message": "ada@example.com", "code": code}]})


@pytest.mark.parametrize(
    ("trouble", "state", "reason"),
    [
        pytest.param(graphql("THROTTLED"), "waiting", "GET visit: 200", id="throttled"),
        pytest.param(graphql("UNAUTHENTICATED"), "waiting", "credentials_refused", id="unauthenticated"),
        pytest.param(graphql("INTERNAL_SERVER_ERROR"), "waiting", "GET visit: 200", id="internal"),
        pytest.param(
            with_code_beside_the_message("UNAUTHENTICATED"), "waiting", "credentials_refused", id="code-beside-message"
        ),
        pytest.param(graphql("undefinedField"), "parked", "untranslatable: Jobber", id="undefined-field"),
        pytest.param(graphql(None), "parked", "untranslatable: Jobber", id="no-code"),
        pytest.param(graphql("NOT_FOUND", {"visit": None}), "waiting", "record_not_found_yet", id="not-found"),
        pytest.param(lambda _: JSONResponse({"data": {"visit": None}}), "waiting", "record_not_found_yet", id="null"),
        pytest.param(lambda _: JSONResponse({"message": "no"}), "parked", "untranslatable: Jobber", id="message"),
        pytest.param(lambda _: JSONResponse({"errors": "no"}), "parked", "untranslatable: record", id="errors-is-text"),
        pytest.param(lambda _: JSONResponse(["no"]), "parked", "untranslatable: Jobber", id="a-list"),
        pytest.param(
            lambda _: JSONResponse({"errors": [None, 1, {"extensions": 5}]}),
            "parked",
            "untranslatable: Jobber",
            id="odd",
        ),
    ],
)
async def test_an_error_inside_a_200_is_an_error(world: Doorstep, trouble: Answerer, state: str, reason: str) -> None:
    delivery = SPECIMENS["jobber"]["deliveries"][0]
    world.tool.trouble = [trouble]

    answer = await world.ring("jobber", delivery)
    await world.run()

    event = await world.event(answer)
    assert (state, reason) == (event.state, event.reason[: len(reason)])
    assert "ada@" not in event.reason


# Credentials --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "missing"),
    [
        ("acuity", ("HOOKS__ACUITY__CREDENTIALS__USER_ID", "HOOKS__ACUITY__CREDENTIALS__API_KEY")),
        ("acuity", ("HOOKS__ACUITY__CREDENTIALS__API_KEY",)),
        ("square", ("HOOKS__SQUARE__CREDENTIALS__TOKEN",)),
        (
            "jobber",
            tuple(f"HOOKS__JOBBER__CREDENTIALS__{name}" for name in ("CLIENT_ID", "CLIENT_SECRET", "REFRESH_TOKEN")),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else str(len(value)),
)
async def test_missing_credentials_are_named_and_once_set_the_event_lands(
    world: Doorstep, tool: str, missing: tuple[str, ...]
) -> None:
    delivery = SPECIMENS[tool]["deliveries"][0]
    world.tool.keep(tool, delivery)
    world.set(**dict.fromkeys((*missing, "HOOKS__JOBBER__CREDENTIALS__TOKEN"), ""))
    answer = await world.ring(tool, delivery)
    await world.run()
    event = await world.event(answer)
    world.set()

    await world.ledger.replay(f"event:{answer.json()['delivery']}")
    await world.run()

    assert ("parked", f"credentials_missing: {', '.join(missing)}") == (event.state, event.reason)
    assert 1 == len(world.harness.visits())


async def test_a_hook_that_is_no_longer_configured_is_said_so(world: Doorstep) -> None:
    answer = await world.ring("acuity", BOOKED)
    world.given = {name: value for name, value in world.given.items() if "ACUITY" not in name}
    world.set()

    await world.run()

    event = await world.event(answer)
    assert ("parked", "hook_not_configured", []) == (event.state, event.reason, world.tool.seen)


async def test_credentials_do_not_follow_a_redirect(world: Doorstep) -> None:
    world.tool.trouble = [lambda _: Response(status_code=302, headers={"location": f"{world.url}/elsewhere"})]

    await world.ring("acuity", BOOKED)
    await world.run()

    assert ["/acuity/v/appointments/123456789"] == [path for _, path, _, _ in world.tool.seen]


@pytest.mark.parametrize("key", ["pässwort", "key with spaces", "a:b", "käy\u2713"])
async def test_credentials_may_hold_any_character(world: Doorstep, key: str) -> None:
    world.set(HOOKS__ACUITY__CREDENTIALS__API_KEY=key)
    world.tool.keep("acuity", BOOKED)

    await world.ring("acuity", BOOKED)
    await world.run()

    sent = base64.b64decode(world.tool.seen[0][2]["authorization"].removeprefix("Basic "))
    assert f"4711:{key}".encode() == sent


async def test_neither_credentials_nor_names_are_in_a_log(world: Doorstep, logged: list[Any]) -> None:
    said = " ".join(CANARIES)
    for tool in TOOLS:
        for trouble in ([], [says(401, said)], [says(422, said)], [says(200, said)], [says(500, said)]):
            delivery = SPECIMENS[tool]["deliveries"][0]
            world.tool.keep(tool, delivery)
            world.tool.trouble = trouble
            await world.redis.command("FLUSHDB")
            await world.ring(tool, delivery)
            await world.run()
    world.tool.trouble = []
    world.set(HOOKS__ACUITY__API_URL=f"http://127.0.0.1:{free_port()}/")
    await world.redis.command("FLUSHDB")
    await world.ring("acuity", BOOKED)
    await world.run()

    told = json.dumps(logged, default=str)
    assert len(logged) > 10
    assert [] == [canary for canary in CANARIES if canary in told]


# Repeats ------------------------------------------------------------------------------------------------------------


async def test_a_repeat_that_may_be_another_event_is_fetched_anew(world: Doorstep) -> None:
    for delivery in (BOOKED, MOVED, MOVED_AGAIN):
        world.tool.keep("acuity", delivery)
        answer = await world.ring("acuity", delivery)
        await world.run()

    assert (200, True) == (answer.status_code, answer.json()["repeat"])
    assert ["2026-10-03T13:00:00Z"] == [visit["time_scheduled"] for visit in world.harness.visits()]


async def test_a_repeat_that_rings_while_the_first_is_being_fetched_is_not_lost(world: Doorstep) -> None:
    """The first look saw the appointment before it moved again; the second ring is the only word of that."""
    world.tool.keep("acuity", MOVED)
    world.tool.open.clear()
    first = await world.ring("acuity", MOVED)
    fetching = asyncio.create_task(world.do(f"event:{first.json()['delivery']}"))
    await world.asked(1)
    world.tool.keep("acuity", MOVED_AGAIN)

    second = await world.ring("acuity", MOVED_AGAIN)
    world.tool.open.set()
    await fetching
    await world.run()

    assert 200 == second.status_code
    assert ["2026-10-03T13:00:00Z"] == [visit["time_scheduled"] for visit in world.harness.visits()]


async def test_a_repeat_that_rings_while_the_first_waits_costs_no_second_fetch(world: Doorstep) -> None:
    world.tool.keep("acuity", BOOKED)
    world.tool.trouble = [says(503)]
    await world.ring("acuity", BOOKED)
    await world.run()
    world.tool.trouble = []
    await world.ring("acuity", BOOKED)

    early = await world.run()
    await world.later(3_600)
    await world.run()

    assert ([], 2) == (early, len(world.tool.seen))
    assert 1 == len(world.harness.visits())


async def test_a_repeat_with_a_name_of_its_own_is_not_fetched_again(world: Doorstep) -> None:
    delivery = SPECIMENS["square"]["deliveries"][0]
    world.tool.keep("square", delivery)
    await world.ring("square", delivery)
    await world.run()

    again = await world.ring("square", delivery)
    await world.run()

    assert (200, 1) == (again.status_code, len(world.tool.seen))


@pytest.mark.parametrize("backwards", [False, True], ids=["in-order", "the-last-first"])
async def test_whatever_is_fetched_last_stands(world: Doorstep, backwards: bool) -> None:
    rung = [await world.ring("acuity", delivery) for delivery in (BOOKED, MOVED, CANCELLED)]
    order = rung[::-1] if backwards else rung
    world.tool.keep("acuity", CANCELLED)

    for answer in order:
        await world.do(f"event:{answer.json()['delivery']}")
    await world.run()

    assert [] == world.harness.visits()  # It was off before anybody made it.


# Defects and deaths -------------------------------------------------------------------------------------------------


async def test_a_defect_in_a_source_parks_the_event_and_quotes_nothing(world: Doorstep, logged: list[Any]) -> None:
    def defect(_: object) -> Any:
        raise ValueError("invalid literal: 'ada@example.com'")

    answer = await world.ring("acuity", BOOKED)
    world.tool.keep("acuity", BOOKED)
    entrance = world.context.settings.entrances["acuity"]
    world.context.settings.entrances["acuity"] = replace(entrance, tool=replace(entrance.tool, translate=defect))

    await world.run()

    event = await world.event(answer)
    assert ("parked", "internal_error") == (event.state, event.reason)
    [bug] = [line for line in logged if line["event"] == "unhandled_exception"]
    assert bug["error"].startswith("ValueError at test_translate_event.py:")
    assert "ada@" not in json.dumps(logged, default=str)


@pytest.mark.parametrize("charset", ["base64", "idna", "no-such-charset"])
async def test_an_error_in_any_spelling_is_only_an_error(world: Doorstep, charset: str) -> None:
    headers = {"content-type": f"text/plain; charset={charset}"}
    world.tool.trouble = [lambda _: Response(b"\xff\xfebroken", 500, headers=headers)]

    answer = await world.ring("acuity", BOOKED)
    await world.run()

    event = await world.event(answer)
    assert ("waiting", "GET appointments: 500") == (event.state, event.reason)


async def test_an_event_that_a_dead_worker_left_is_fetched_by_another(world: Doorstep) -> None:
    world.tool.keep("acuity", BOOKED)
    world.tool.open.clear()
    answer = await world.ring("acuity", BOOKED)
    fetching = asyncio.create_task(world.do(f"event:{answer.json()['delivery']}"))
    await world.asked(1)
    fetching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await fetching
    world.tool.open.set()

    at_once = await world.run()
    await world.later(60)
    await world.run()

    assert [] == at_once
    assert ["acuity-123456789"] == [visit["external_id"] for visit in world.harness.visits()]


async def test_who_lost_the_lease_on_an_event_lands_nothing(world: Doorstep) -> None:
    world.tool.keep("acuity", BOOKED)
    world.tool.open.clear()
    answer = await world.ring("acuity", BOOKED)
    fetching = asyncio.create_task(world.do(f"event:{answer.json()['delivery']}"))
    await world.asked(1)
    await world.later(60)
    world.tool.keep("acuity", MOVED)
    world.context = replace(world.context, locks=KeyedLocks())  # another worker
    second = asyncio.create_task(world.run())
    await world.asked(2)
    world.tool.open.set()

    await asyncio.gather(fetching, second)
    await world.run()

    assert ["2026-10-02T16:00:00Z"] == [visit["time_scheduled"] for visit in world.harness.visits()]
    assert 1 == len((await world.event(answer)).attempts)
