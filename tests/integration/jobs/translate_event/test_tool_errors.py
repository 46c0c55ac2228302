"""Errors of a tool's API."""

import asyncio
import base64
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from starlette.responses import JSONResponse, PlainTextResponse

from app.demo.valkey import free_port
from app.telemetry.counters import totals
from app.telemetry.metric_names import TASKS_FINISHED
from app.visits.change import VisitChange
from app.webhooks.delivery import Event
from app.webhooks.fetching import RecordRequest
from app.webhooks.source import PartlyTranslatable
from tests.support.harness import hmac_sha256, sign_standard, standard_body
from tests.support.tool_api import BOOKED, MOVED, SPECIMENS, Responder, ToolWorld, accept_a_minute_ago, respond_with

APPOINTMENT = "appointments/123456789"


# Errors of the tool's API


@pytest.mark.parametrize(
    ("responder", "reason", "tries"),
    [
        pytest.param(respond_with(500), "GET appointments: 500", 1, id="500"),
        pytest.param(respond_with(502, "<html>"), "GET appointments: 502", 1, id="502"),
        pytest.param(respond_with(503), "GET appointments: 503", 1, id="503"),
        pytest.param(respond_with(408), "GET appointments: 408", 1, id="408"),
        pytest.param(respond_with(200, "<html>maintenance</html>"), "GET appointments: 200", 1, id="not-json"),
        pytest.param(respond_with(200, ""), "GET appointments: 200", 1, id="nothing"),
        pytest.param(respond_with(200, "[1,"), "GET appointments: 200", 1, id="half-json"),
        pytest.param(respond_with(429), "GET appointments: 429", 0, id="429"),
        pytest.param(respond_with(401), "credentials_rejected", 0, id="401"),
        pytest.param(respond_with(403), "credentials_rejected", 0, id="403"),
    ],
)
async def test_an_event_waits_during_a_temporary_error(
    world: ToolWorld, responder: Responder, reason: str, tries: int
) -> None:
    world.tool.add_records("acuity", BOOKED)
    world.tool.overrides = [responder]
    response = await world.receive("acuity", BOOKED)
    await world.run()
    event = await world.load_event(response)
    world.tool.overrides = []
    await world.advance_time(3_600)
    await world.run()

    assert ("waiting", reason, tries) == (event.state, event.reason, event.failed_attempts)
    assert ["acuity-123456789"] == [visit["external_id"] for visit in world.harness.visits()]


@pytest.mark.parametrize(
    ("responder", "reason"),
    [
        pytest.param(respond_with(400, "bad"), "GET appointments: 400", id="400"),
        pytest.param(respond_with(422, "bad"), "GET appointments: 422", id="422"),
        pytest.param(respond_with(302, location="http://127.0.0.1:1/"), "GET appointments: 302", id="redirect"),
        pytest.param(respond_with(200, "[]"), "untranslatable: record", id="a-list"),
        pytest.param(respond_with(200, '"ada@example.com"'), "untranslatable: record", id="a-text"),
        pytest.param(respond_with(200, "{}"), "untranslatable: record", id="an-empty-object"),
        pytest.param(respond_with(200, '{"datetime": "soon"}'), "untranslatable: record", id="no-time"),
        pytest.param(
            respond_with(200, f'{{"x": "{"x" * 1_100_000}"}}'), "GET appointments: client_error", id="too-large"
        ),
    ],
)
async def test_a_permanent_error_parks_the_event_with_its_reason(
    world: ToolWorld, responder: Responder, reason: str
) -> None:
    world.tool.overrides = [responder]

    response = await world.receive("acuity", BOOKED)
    await world.run()

    event = await world.load_event(response)
    assert ("parked", reason) == (event.state, event.reason[: len(reason)])
    assert "ada@" not in event.reason


async def test_an_incomplete_record_does_not_delay_the_others(world: ToolWorld) -> None:
    for number in (1, 2, 3):
        world.tool.records[f"appointments/{number}"] = {"id": number}

    def translate(event: Event) -> list[VisitChange]:
        number = event.record.at("id").required_id()
        scheduled = datetime(2026, 3, 14, int(number), tzinfo=UTC)
        changes = [VisitChange(action="update", visit_id=number, version=1, time_scheduled=scheduled)]
        if number == "2":
            raise PartlyTranslatable("who comes", changes)
        return changes

    hook = world.context.settings.active_hooks["acuity"]
    tool = hook.source._replace(
        translate=translate, fetch=lambda _: [RecordRequest(f"appointments/{n}") for n in (1, 2, 3)]
    )
    world.context.settings.__dict__["active_hooks"] = {"acuity": replace(hook, source=tool)}

    response = await world.receive("acuity", BOOKED)
    await world.run()

    event = await world.load_event(response)
    assert ("parked", "untranslatable: who comes") == (event.state, event.reason)
    assert [f"visit:main/acuity-{number}" for number in (1, 2, 3)] == sorted(event.targets)


TOO_LONG = "a" * 200_000 + "@example.com"


async def test_a_too_long_address_parks_the_event_and_applies_the_other_fields(world: ToolWorld) -> None:
    record = next(iter(BOOKED["records"].values()))
    world.tool.records[APPOINTMENT] = {**record, "email": TOO_LONG, "firstName": "A" * 201, "phone": "1" * 51}

    response = await world.receive("acuity", BOOKED)
    await world.run()

    event, visit = await world.load_event(response), await world.ledger.load_task("visit:main/acuity-123456789")
    assert "parked" == event.state
    assert event.reason.startswith("untranslatable: the contact's e-mail address or id is too long")
    assert ("waiting", "contact_unknown") == (visit.state, visit.reason)
    assert [] == world.harness.visits()


@pytest.mark.parametrize("detail", ["email", "id"])
async def test_a_too_long_address_in_the_event_parks_it_too(world: ToolWorld, detail: str) -> None:
    contact = {"email": "ada@example.com", detail: TOO_LONG}
    raw = standard_body("visit.created", "1", time_scheduled="2026-03-14T16:00:00Z", contact=contact)

    response = await world.receive("standard", {"body": raw.decode(), "headers": sign_standard(raw)})
    await world.run()

    event = await world.load_event(response)
    assert (202, "parked") == (response.status_code, event.state)
    assert "is too long" in event.reason
    assert [] == world.harness.visits()


async def test_long_names_are_truncated(world: ToolWorld) -> None:
    contact = {"email": "ada@example.com", "first_name": "A" * 201, "last_name": "L" * 200, "phone": "1" * 51}
    raw = standard_body("visit.created", "1", time_scheduled="2026-03-14T16:00:00Z", contact=contact)

    await world.receive("standard", {"body": raw.decode(), "headers": sign_standard(raw)})
    await world.run()

    [made] = world.contacts("ada@example.com")
    assert ("A" * 200, "L" * 200, "1" * 50) == (made["first_name"], made["last_name"], made["phone"])


async def test_the_retry_after_of_a_tool_is_used(world: ToolWorld) -> None:
    world.tool.overrides = [lambda _: PlainTextResponse("", 429, {"Retry-After": "70"})]

    response = await world.receive("acuity", BOOKED)
    await world.run()

    due = (await world.load_event(response)).retry_at_ms
    assert due is not None
    assert 69 < due / 1000 - time.time() < 72


async def test_a_short_pause_does_not_shorten_a_longer_one(world: ToolWorld) -> None:
    """Two requests were on their way."""
    world.tool.overrides = [respond_with(429, **{"Retry-After": "1"})]
    world.tool.response_gate.clear()
    response = await world.receive("acuity", BOOKED)
    running = asyncio.create_task(world.run_task(f"event:{response.json()['delivery']}"))
    await world.wait_for_requests(1)
    await world.redis.command("SET", "bell:retry-after:acuity", "1", "PX", 70_000)
    world.tool.response_gate.set()

    assert "GET appointments: 429" == await running
    assert 60_000 < await world.redis.command("PTTL", "bell:retry-after:acuity")


async def test_a_rate_limit_pauses_all_fetches_of_the_hook(world: ToolWorld) -> None:
    world.tool.add_records("square", (square := SPECIMENS["square"]["deliveries"][0]))
    world.tool.add_records("acuity", BOOKED)
    world.tool.records["appointments/5"] = {**world.tool.records[APPOINTMENT], "id": 5}
    world.tool.overrides = [lambda _: PlainTextResponse("", 429, {"Retry-After": "70"})]
    tasks = [
        f"event:{(await world.receive('acuity', delivery)).json()['delivery']}"
        for delivery in (BOOKED, replace_id(BOOKED, 5))
    ]

    outcomes = [await world.run_task(task) for task in tasks]
    request_count, world.tool.overrides = len(world.tool.requests), []
    square_outcome = await world.run_task(f"event:{(await world.receive('square', square)).json()['delivery']}")

    assert (["GET appointments: 429"] * 2, 1, "translated") == (outcomes, request_count, square_outcome)
    paused = await world.ledger.load_task(tasks[1])
    assert paused.retry_at_ms is not None
    assert 69 < paused.retry_at_ms / 1000 - time.time() < 77
    assert ([], 0) == (paused.attempts[-1].calls, paused.failed_attempts)
    await world.advance_time(80)
    assert ["translated", "translated"] == [await world.run_task(task) for task in tasks]


async def test_a_timeout_of_a_tool_is_retried(world: ToolWorld) -> None:
    world.configure(answer_s=0.1)
    world.tool.response_gate.clear()

    response = await world.receive("acuity", BOOKED)
    await world.run()
    world.tool.response_gate.set()

    event = await world.load_event(response)
    assert ("waiting", "GET appointments: outcome_unknown", 1) == (event.state, event.reason, event.failed_attempts)


async def test_an_unreachable_tool_is_retried(world: ToolWorld) -> None:
    world.configure(HOOKS__ACUITY__API_URL=f"http://127.0.0.1:{free_port()}/")

    response = await world.receive("acuity", BOOKED)
    await world.run()

    event = await world.load_event(response)
    assert ("waiting", "GET appointments: connection_failed", 1) == (event.state, event.reason, event.failed_attempts)


async def test_a_tool_that_is_down_does_not_delay_other_tools(world: ToolWorld) -> None:
    square = SPECIMENS["square"]["deliveries"][0]
    world.tool.add_records("square", square)
    world.configure(HOOKS__ACUITY__API_URL=f"http://127.0.0.1:{free_port()}/")
    for number in range(1, 6):
        delivery = replace_id(BOOKED, number)
        await world.receive("acuity", delivery)
    await world.run()

    await world.receive("square", square)
    await world.run()

    assert ["square-zkdemobooking1"] == [visit["external_id"] for visit in world.harness.visits()]


def replace_id(delivery: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return the delivery for another appointment, with a new signature."""
    body = delivery["body"].replace("123456789", str(number))
    signature = base64.b64encode(hmac_sha256(SPECIMENS["acuity"]["secret"].encode(), body.encode())).decode()
    return {**delivery, "body": body, "headers": {**delivery["headers"], "X-Acuity-Signature": signature}}


@pytest.mark.parametrize(
    ("responder", "reason"),
    [
        pytest.param(respond_with(500), "GET appointments: 500", id="500"),
        pytest.param(respond_with(401), "credentials_rejected", id="401"),
    ],
)
async def test_an_event_is_parked_after_retry_for_s(world: ToolWorld, responder: Responder, reason: str) -> None:
    world.configure(RETRY_FOR_S="3600")
    world.tool.overrides = [responder]
    response = await world.receive("acuity", BOOKED)
    await world.run()
    await world.advance_time(4_000)
    await world.run()

    event = await world.load_event(response)
    assert ("parked", reason, 2) == (event.state, event.reason, len(event.attempts))


@pytest.mark.parametrize("interruption", ["429", "too many fetches"])
async def test_rejected_credentials_are_parked_after_retry_for_s_also_with_another_problem_in_between(
    world: ToolWorld, interruption: str
) -> None:
    world.configure(RETRY_FOR_S="3600")
    world.tool.overrides = [respond_with(401)]
    response = await world.receive("acuity", BOOKED)
    await world.run()

    world.tool.overrides = [respond_with(429)]
    fetches = world.context.fetching_jobs_by_hook
    fetches["acuity"] = 10**6 if interruption == "too many fetches" else 0
    await world.advance_time(2_000)
    await world.run()
    reason = (await world.load_event(response)).reason

    fetches["acuity"] = 0
    await world.redis.command("DEL", "bell:retry-after:acuity")
    world.tool.overrides = [respond_with(401)]
    await world.advance_time(2_000)
    await world.run()

    event = await world.load_event(response)
    assert {"429": "GET appointments: 429", "too many fetches": "too_many_fetches"}[interruption] == reason
    assert ("parked", "credentials_rejected") == (event.state, event.reason)


async def test_a_parked_event_is_replayed(world: ToolWorld) -> None:
    world.tool.add_records("acuity", BOOKED)
    world.tool.overrides = [respond_with(422)]
    response = await world.receive("acuity", BOOKED)
    await world.run()
    world.tool.overrides = []

    await world.ledger.replay(f"event:{response.json()['delivery']}")
    await world.run()

    assert ["acuity-123456789"] == [visit["external_id"] for visit in world.harness.visits()]


async def test_every_end_of_a_task_is_counted(world: ToolWorld) -> None:
    world.tool.add_records("acuity", BOOKED)
    world.tool.overrides = [respond_with(503), respond_with(422)]
    response = await world.receive("acuity", BOOKED)
    await world.run()
    await world.advance_time(3_600)
    await world.run()
    world.tool.overrides = []
    await world.ledger.replay(f"event:{response.json()['delivery']}")
    await world.run()
    delivery_id = await accept_a_minute_ago(world, "acuity", MOVED)
    world.tool.overrides = [respond_with(404)]
    await world.run()
    assert "done" == (await world.ledger.load_task(f"event:{delivery_id}")).state

    await world.context.counters.flush(world.redis)

    counted = {name.removeprefix(TASKS_FINISHED): count for name, count in (await totals(world.redis)).items()}
    ends = {name: count for name, count in counted.items() if name.startswith("|")}
    assert {"|event|parked": 1, "|event|translated": 1, "|event|ignored": 1, "|visit|created": 1} == ends


async def test_a_repeat_of_a_parked_event_requeues_it(world: ToolWorld) -> None:
    world.tool.add_records("acuity", BOOKED)
    world.tool.overrides = [respond_with(422)]
    await world.receive("acuity", BOOKED)
    await world.run()
    world.tool.overrides = []

    response = await world.receive("acuity", BOOKED)
    await world.run()

    assert (200, True) == (response.status_code, response.json()["repeat"])
    assert ["acuity-123456789"] == [visit["external_id"] for visit in world.harness.visits()]


# GraphQL


def graphql(code: str | None, data: Any = None) -> Responder:
    error = {"message": "ada@example.com is not allowed", **({"extensions": {"code": code}} if code else {})}
    return lambda _: JSONResponse({"data": data, "errors": [error]})


def with_code_beside_the_message(code: str) -> Responder:
    """As Boulevard writes it."""
    return lambda _: JSONResponse({"data": None, "errors": [{"message": "ada@example.com", "code": code}]})


@pytest.mark.parametrize(
    ("responder", "state", "reason"),
    [
        pytest.param(graphql("THROTTLED"), "waiting", "GET visit: 200", id="throttled"),
        pytest.param(graphql("UNAUTHENTICATED"), "waiting", "credentials_rejected", id="unauthenticated"),
        pytest.param(graphql("INTERNAL_SERVER_ERROR"), "waiting", "GET visit: 200", id="internal"),
        pytest.param(
            with_code_beside_the_message("UNAUTHENTICATED"), "waiting", "credentials_rejected", id="code-beside-message"
        ),
        pytest.param(
            lambda _: JSONResponse({"errors": [{"message": "API limit exceeded, wait 120ms"}]}),
            "waiting",
            "GET visit: 200",
            id="limit-in-words",
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
async def test_an_error_inside_a_200_is_an_error(
    world: ToolWorld, responder: Responder, state: str, reason: str
) -> None:
    delivery = SPECIMENS["jobber"]["deliveries"][0]
    world.tool.overrides = [responder]

    response = await world.receive("jobber", delivery)
    await world.run()

    event = await world.load_event(response)
    assert (state, reason) == (event.state, event.reason[: len(reason)])
    assert "ada@" not in event.reason
