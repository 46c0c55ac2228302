"""Records are fetched once for several events and with a limit; expiring tokens are renewed once for all workers."""

import asyncio
import base64
import json
from dataclasses import replace
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

import app.connections.tokens
import jobs.concurrency
from app.connections.tokens import _render_template
from app.connections.tool_api import http_request, until_reset
from app.visits.client import MAX_RESPONSE_BYTES, RateLimited, ServerError
from app.webhooks.fetching import ApiKeyAuth, RecordRequest, TokenExchange
from jobs.records import MAX_CONCURRENT_FETCHES, MAX_PARALLEL_CALLS, Records
from tests.support.cases import each
from tests.support.jobber import (
    BOOKED,
    FIRST_TOKEN,
    ITEM,
    SECOND_TOKEN,
    connect,
    record_requests,
    send_event,
    set_token_responses,
)
from tests.support.tool_api import ToolWorld


async def test_ten_events_of_one_record_take_two_fetches(world: ToolWorld) -> None:
    world.tool.add_records("jobber", BOOKED)
    world.tool.response_gate.clear()
    tasks = [await send_event(world, 0)]
    running = [asyncio.create_task(world.run_task(tasks[0]))]
    await world.wait_for_requests(1)
    tasks += [await send_event(world, second) for second in range(1, 10)]
    running += [asyncio.create_task(world.run_task(task)) for task in tasks[1:]]
    await asyncio.sleep(0.5)
    world.tool.response_gate.set()

    outcomes = await asyncio.gather(*running)

    assert ["translated"] * 10 == outcomes
    assert 2 == len(world.tool.requests)
    assert {"done"} == {(await world.ledger.load_task(task)).state for task in tasks}


async def test_a_record_that_was_fetched_before_the_event_arrived_is_fetched_again(world: ToolWorld) -> None:
    world.tool.add_records("jobber", BOOKED)
    await send_event(world, 1)
    await world.run()
    moved = json.loads(json.dumps(world.tool.records[ITEM]))
    moved["data"]["visit"]["startAt"] = "2026-03-20T09:00:00Z"
    world.tool.records[ITEM] = moved

    await send_event(world, 2)
    await world.run()

    assert ["2026-03-20T09:00:00Z"] == [visit["time_scheduled"] for visit in world.harness.visits()]
    assert 2 == len(world.tool.requests)


def items(count: int) -> list[str]:
    return [base64.b64encode(f"gid://Jobber/Visit/{number}".encode()).decode() for number in range(count)]


@pytest.mark.parametrize(("slot_s", "expected"), [(3_600, MAX_CONCURRENT_FETCHES), (0.05, 2 * MAX_CONCURRENT_FETCHES)])
async def test_concurrent_fetches_are_limited_except_for_slow_ones(
    world: ToolWorld, monkeypatch: pytest.MonkeyPatch, slot_s: float, expected: int
) -> None:
    monkeypatch.setattr(jobs.concurrency, "SLOT_TIMEOUT_S", slot_s)
    world.tool.response_gate.clear()
    tasks = [
        await send_event(world, number % 60, item) for number, item in enumerate(items(2 * MAX_CONCURRENT_FETCHES))
    ]
    running = [asyncio.create_task(world.run_task(task)) for task in tasks]

    await world.wait_for_requests(expected)
    await asyncio.sleep(0.2)
    concurrent = len(world.tool.requests)
    world.tool.response_gate.set()
    await asyncio.gather(*running)

    assert (expected, 2 * MAX_CONCURRENT_FETCHES) == (concurrent, len(world.tool.requests))


async def test_a_slow_tool_leaves_capacity_to_other_hooks(world: ToolWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.concurrency, "MAX_IN_FLIGHT", 8)
    world.tool.response_gate.clear()
    tasks = [await send_event(world, number, item) for number, item in enumerate(items(12))]
    running = [asyncio.create_task(world.run_task(task)) for task in tasks]
    await world.wait_for_requests(8)
    while len([task for task in running if task.done()]) < 4:
        await asyncio.wait([task for task in running if not task.done()], return_when=asyncio.FIRST_COMPLETED)

    members = [await world.ledger.load_task(task) for task in tasks]
    reasons = [member.reason for member in members if member.state == "waiting"]
    world.tool.response_gate.set()
    await asyncio.gather(*running)

    assert ["too_many_fetches"] * 4 == reasons
    assert 8 == len(world.tool.requests)


# Tokens


async def test_a_token_is_exchanged_once_for_all_runs(world: ToolWorld) -> None:
    connect(world)
    forms = set_token_responses(world, FIRST_TOKEN)
    items = [base64.b64encode(f"gid://Jobber/Visit/{number}".encode()).decode() for number in range(6)]

    tasks = [await send_event(world, number, item) for number, item in enumerate(items)]
    await asyncio.gather(*(world.run_task(task) for task in tasks))

    assert [
        {
            "grant_type": "refresh_token",
            "client_id": "the-client",
            "client_secret": "its-secret",
            "refresh_token": "refresh-one",
        }
    ] == forms
    assert ["Bearer access-one"] * 6 == [headers["authorization"] for headers in record_requests(world)]


async def test_a_rejected_token_is_renewed_with_the_newest_refresh_token(
    world: ToolWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.connections.tokens, "MIN_REPLACEABLE_AGE_S", 0.0)
    connect(world)
    forms = set_token_responses(world, FIRST_TOKEN, SECOND_TOKEN)
    await send_event(world, 1)
    await world.run()
    rejections = [PlainTextResponse("expired", 401)]
    real = world.tool.respond

    def reject_once(request: Request, body: bytes) -> Response:
        if request.url.path == "/jobber/graphql" and rejections:
            return rejections.pop()
        return real(request, body)

    world.tool.respond = reject_once  # type: ignore[method-assign]
    task = await send_event(world, 2)
    outcome = await world.run_task(task)

    assert "translated" == outcome
    assert ["refresh-one", "refresh-two"] == [form["refresh_token"] for form in forms]
    assert ["access-one", "access-one", "access-two"] == [
        headers["authorization"].removeprefix("Bearer ") for headers in record_requests(world)
    ]


async def test_a_token_is_renewed_before_it_expires(world: ToolWorld) -> None:
    connect(world)
    forms = set_token_responses(world, {"access_token": "short", "expires_in": 0.5}, SECOND_TOKEN)
    await send_event(world, 1)
    await world.run()
    await asyncio.sleep(0.3)
    await send_event(world, 2)
    await world.run()

    assert 2 == len(forms)
    assert ["Bearer short", "Bearer access-two"] == [headers["authorization"] for headers in record_requests(world)]


async def test_a_rejected_new_token_is_not_renewed(world: ToolWorld) -> None:
    connect(world)
    forms = set_token_responses(world, FIRST_TOKEN)
    real = world.tool.respond

    def reject(request: Request, body: bytes) -> Response:
        return PlainTextResponse("no", 401) if request.url.path == "/jobber/graphql" else real(request, body)

    world.tool.respond = reject  # type: ignore[method-assign]
    outcome = await world.run_task(await send_event(world, 1))

    assert ("credentials_rejected", 1) == (outcome, len(forms))


async def test_a_rejected_refresh_token_is_reported(world: ToolWorld) -> None:
    connect(world)
    set_token_responses(world, 400)

    outcome = await world.run_task(await send_event(world, 1))

    assert ("credentials_rejected", []) == (outcome, record_requests(world))


async def test_stored_tokens_are_encrypted_with_secret_key(world: ToolWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.connections.tokens, "_usable_token", lambda *_: "")
    connect(world)
    forms = set_token_responses(world, FIRST_TOKEN, SECOND_TOKEN)
    await send_event(world, 1)
    await world.run()
    stored = await world.redis.command("GET", "bell:token:jobber")

    connect(world, SECRET_KEY="another-key-of-ours a-key-of-ours-for-tests")
    await send_event(world, 2)
    await world.run()

    assert not any(secret in stored for secret in (b"access-one", b"refresh-one", b"refresh-two"))
    assert ["refresh-one", "refresh-two"] == [form["refresh_token"] for form in forms]


async def test_a_process_that_lacks_the_key_leaves_the_stored_tokens_alone(world: ToolWorld) -> None:
    """The refresh token in the settings was exchanged long ago; the tool would reject it, or even end the log-in."""
    connect(world)
    forms = set_token_responses(world, FIRST_TOKEN)
    await send_event(world, 1)
    await world.run()
    stored = await world.redis.command("GET", "bell:token:jobber")

    connect(world, SECRET_KEY="a-key-that-is-not-it")
    outcome = await world.run_task(task := await send_event(world, 2))

    [attempt] = (await world.ledger.load_task(task)).attempts
    assert ("credentials_rejected", 1) == (outcome, len(forms))
    assert "its stored tokens cannot be decrypted" in attempt.response_text
    assert stored == await world.redis.command("GET", "bell:token:jobber")


async def test_new_credentials_replace_the_stored_tokens(world: ToolWorld) -> None:
    connect(world)
    forms = set_token_responses(world, FIRST_TOKEN)
    await send_event(world, 1)
    await world.run()

    connect(world, HOOKS__JOBBER__CREDENTIALS__REFRESH_TOKEN="refresh-new")
    await send_event(world, 2)
    await world.run()

    assert ["refresh-one", "refresh-new"] == [form["refresh_token"] for form in forms]


async def test_a_new_client_secret_keeps_the_newest_refresh_token(
    world: ToolWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It belongs to the app and its log-in. The one in the settings was replaced by it, and is accepted no more."""
    monkeypatch.setattr(app.connections.tokens, "_usable_token", lambda *_: "")
    connect(world)
    forms = set_token_responses(world, FIRST_TOKEN)
    await send_event(world, 1)
    await world.run()

    connect(world, HOOKS__JOBBER__CREDENTIALS__CLIENT_SECRET="the-next-secret")
    await send_event(world, 2)
    await world.run()

    assert [("its-secret", "refresh-one"), ("the-next-secret", "refresh-two")] == [
        (form["client_secret"], form["refresh_token"]) for form in forms
    ]


async def test_rejected_credentials_are_not_sent_again_at_once(world: ToolWorld) -> None:
    connect(world)
    forms = set_token_responses(world, 400)
    first, second = [await send_event(world, each) for each in (1, 2)]

    outcomes = [await world.run_task(each) for each in (first, second)]

    texts = [(await world.ledger.load_task(each)).attempts[-1].response_text for each in (first, second)]
    assert ("credentials_rejected", 1) == (outcomes[1], len(forms))
    assert texts[0] == texts[1]
    assert 0 < await world.redis.command("PTTL", "bell:token:jobber:rejected") <= 30_000


async def test_credentials_that_replace_rejected_ones_are_tried_at_once(world: ToolWorld) -> None:
    connect(world)
    forms = set_token_responses(world, 400, FIRST_TOKEN)
    await world.run_task(await send_event(world, 1))

    connect(world, HOOKS__JOBBER__CREDENTIALS__CLIENT_SECRET="the-right-secret")

    assert "translated" == await world.run_task(await send_event(world, 2))
    assert ["its-secret", "the-right-secret"] == [form["client_secret"] for form in forms]


def test_a_template_replaces_only_credentials() -> None:
    exchange = TokenExchange("https://tool.example.com", ("A",), json={"params": ["{A}", "{B}", 1], "m": "get"})

    assert {"params": ["a{A}", "{B}", 1], "m": "get"} == _render_template(exchange.json, {"A": "a{A}"})


@each(
    ("value", "expected"), [("30", 30.0), ("soon", None), ("", None), ("9" * 20, None), ("1", 1.0), ("1000000001", 0.0)]
)
def test_the_wait_is_read_from_the_header_of_the_tool(value: str, expected: float | None) -> None:
    response = httpx.Response(429, headers={"X-Reset": value})

    assert expected == until_reset(RateLimited("GET x", 429), response, "X-Reset").wait_s


@each(
    ("record_request", "expected"),
    [
        (RecordRequest("visits/1"), ("GET", "https://api.example.com/v1/visits/1", {})),
        (RecordRequest("/visits"), ("GET", "https://api.example.com/visits", {})),
        (RecordRequest("../visits"), ("GET", "https://api.example.com/visits", {})),
        (
            RecordRequest("visits/1", endpoint="", json={"method": "x"}),
            ("POST", "https://api.example.com/v1", {"json": {"method": "x"}}),
        ),
        (
            RecordRequest("visits/1", form={"id": "1"}),
            ("POST", "https://api.example.com/v1/visits/1", {"data": {"id": "1"}}),
        ),
        (
            RecordRequest("visits/1", query="{ x }", variables={"id": "1"}),
            ("POST", "https://api.example.com/v1", {"json": {"query": "{ x }", "variables": {"id": "1"}}}),
        ),
    ],
)
def test_a_record_request_becomes_one_http_request(
    record_request: RecordRequest, expected: tuple[str, str, dict[str, Any]]
) -> None:
    assert expected == http_request(record_request, "https://api.example.com/v1")


def test_credentials_are_sent_in_headers_and_params() -> None:
    keys = ApiKeyAuth(headers={"X-Key": "API_KEY"}, params={"company": "COMPANY"})

    shown = keys.authenticate({"API_KEY": "k", "COMPANY": "c"}, 0, RecordRequest("visits/1"))

    assert (("API_KEY", "COMPANY"), {"X-Key": "k"}, {"company": "c"}) == (keys.names, shown.headers, shown.params)


async def test_a_too_long_record_parks_the_event(world: ToolWorld) -> None:
    world.tool.overrides = [lambda _: PlainTextResponse(b"[" + b"1," * MAX_RESPONSE_BYTES + b"1]")]

    outcome = await world.run_task(task := await send_event(world, 1))

    [attempt] = (await world.ledger.load_task(task)).attempts
    assert "GET visit: client_error" == outcome
    assert "the response is longer than 1,048,576 bytes" == attempt.response_text


async def test_a_record_that_cannot_be_cached_is_translated(world: ToolWorld) -> None:
    world.tool.add_records("jobber", BOOKED)
    record = json.dumps(world.tool.records[ITEM])
    nested = record.replace("{", '{"nested": ' + "[" * 300 + "]" * 300 + ",", 1)
    world.tool.overrides = [lambda _: Response(nested, media_type="application/json")]

    assert "translated" == await world.run_task(await send_event(world, 1))


# -- several records of one event --


def records_of(world: ToolWorld, requested: int) -> tuple[Records, list[RecordRequest]]:
    """Serve some records, and return what fetches them for one event, with the requests."""
    paths = [f"appointments/{number}" for number in range(requested)]
    world.tool.records |= {path: {"id": path} for path in paths}
    hook = world.context.settings.hook("acuity")
    return Records(world.context, hook, 0, []), [RecordRequest(path) for path in paths]


async def test_several_records_are_fetched_at_once_but_not_all(world: ToolWorld) -> None:
    records, requests = records_of(world, MAX_PARALLEL_CALLS + 2)
    world.tool.response_gate.clear()
    fetching = asyncio.create_task(records.find_all(requests))
    await world.wait_for_requests(MAX_PARALLEL_CALLS)
    await asyncio.sleep(0.2)
    sent, events = len(world.tool.requests), world.context.fetching_jobs_by_hook["acuity"]
    world.tool.response_gate.set()

    results = await fetching

    assert (MAX_PARALLEL_CALLS, 1) == (sent, events)
    assert [request.path for request in requests] == [each.record["id"] for each in results]


async def test_related_records_are_fetched_at_once(world: ToolWorld) -> None:
    records, [request, *related] = records_of(world, MAX_PARALLEL_CALLS + 1)
    request = replace(request, follow_up=lambda _: {each.path: each for each in related})
    fetching = asyncio.create_task(records.find_all([request]))
    await world.wait_for_requests(1)
    world.tool.response_gate.clear()
    await world.wait_for_requests(1 + MAX_PARALLEL_CALLS)
    world.tool.response_gate.set()

    [result] = await fetching

    assert {each.path: {"id": each.path} for each in related} == result.related


async def test_of_an_event_with_several_records_those_that_were_fetched_are_kept_for_its_next_runs(
    world: ToolWorld,
) -> None:
    """It may need more than one run."""
    records, requests = records_of(world, 2)
    world.tool.records.pop(requests[1].path)
    world.tool.overrides = [
        lambda request: PlainTextResponse("down", 503) if request.url.path.endswith("/1") else JSONResponse({"id": 1})
    ]

    with pytest.raises(ServerError):
        await records.find_all(requests)

    [key] = [key for key in await world.redis.command("KEYS", "bell:record:acuity:*") if not key.endswith(b":lock")]
    assert 60_000 < await world.redis.command("PTTL", key)
    assert 0 == world.context.fetching_jobs_by_hook["acuity"]


async def test_a_single_record_is_kept_for_half_a_minute(world: ToolWorld) -> None:
    records, requests = records_of(world, 1)

    await records.find_all(requests)

    [key] = [key for key in await world.redis.command("KEYS", "bell:record:acuity:*") if not key.endswith(b":lock")]
    assert 0 < await world.redis.command("PTTL", key) <= 30_000
