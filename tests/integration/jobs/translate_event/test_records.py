"""Records are fetched once for many events, a few at a time; expiring tokens are renewed once for all workers."""

import asyncio
import base64
import json
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

import jobs.concurrency
import jobs.tokens
from app.visits.client import MAX_RESPONSE_BYTES, RateLimited
from app.webhooks.fetching import ApiKeyAuth, RecordRequest, TokenExchange
from jobs.records import MAX_CONCURRENT_FETCHES, _request, _until_reset
from jobs.tokens import _render_template
from tests.support.harness import hmac_sha256
from tests.support.tool_api import SPECIMENS, ToolApi, ToolWorld

BOOKED = SPECIMENS["jobber"]["deliveries"][0]
ITEM = BOOKED["body"]["data"]["webHookEvent"]["itemId"]
OAUTH = {
    "HOOKS__JOBBER__CREDENTIALS__TOKEN": "",
    "HOOKS__JOBBER__CREDENTIALS__CLIENT_ID": "the-client",
    "HOOKS__JOBBER__CREDENTIALS__CLIENT_SECRET": "its-secret",
    "HOOKS__JOBBER__CREDENTIALS__REFRESH_TOKEN": "refresh-one",
    "SECRET_KEY": "a-key-of-ours-for-tests",
}


async def ring(world: ToolWorld, second: int, item: str = ITEM) -> str:
    """An event of its own about a visit. Returns the event's work."""
    told = {**BOOKED["body"]["data"]["webHookEvent"], "itemId": item, "occurredAt": f"2026-03-10T15:20:{second:02d}Z"}
    body = {"data": {"webHookEvent": told}}
    raw = json.dumps(body, separators=(",", ":")).encode()
    signature = base64.b64encode(hmac_sha256(SPECIMENS["jobber"]["secret"].encode(), raw)).decode()
    headers = {"Content-Type": "application/json", "X-Jobber-Hmac-SHA256": signature}
    answer = await world.receive("jobber", {"body": body, "headers": headers})
    assert 202 == answer.status_code, answer.text
    return f"event:{answer.json()['delivery']}"


def asked_for_records(world: ToolWorld) -> list[dict[str, str]]:
    return [headers for _, path, headers, _ in world.tool.requests if path == "/jobber/graphql"]


async def test_ten_events_of_one_record_cost_two_fetches(world: ToolWorld) -> None:
    world.tool.add_records("jobber", BOOKED)
    world.tool.response_gate.clear()
    works = [await ring(world, 0)]
    running = [asyncio.create_task(world.run_task(works[0]))]
    await world.wait_for_requests(1)
    works += [await ring(world, second) for second in range(1, 10)]
    running += [asyncio.create_task(world.run_task(work)) for work in works[1:]]
    await asyncio.sleep(0.5)
    world.tool.response_gate.set()

    outcomes = await asyncio.gather(*running)

    assert ["translated"] * 10 == outcomes
    assert 2 == len(world.tool.requests)
    assert {"done"} == {(await world.ledger.load_task(work)).state for work in works}


async def test_a_record_that_was_asked_for_before_an_event_rang_is_too_old_for_it(world: ToolWorld) -> None:
    world.tool.add_records("jobber", BOOKED)
    await ring(world, 1)
    await world.run()
    moved = json.loads(json.dumps(world.tool.records[ITEM]))
    moved["data"]["visit"]["startAt"] = "2026-03-20T09:00:00Z"
    world.tool.records[ITEM] = moved

    await ring(world, 2)
    await world.run()

    assert ["2026-03-20T09:00:00Z"] == [visit["time_scheduled"] for visit in world.harness.visits()]
    assert 2 == len(world.tool.requests)


def items(most: int) -> list[str]:
    return [base64.b64encode(f"gid://Jobber/Visit/{number}".encode()).decode() for number in range(most)]


@pytest.mark.parametrize(("slot_s", "asked"), [(3_600, MAX_CONCURRENT_FETCHES), (0.05, 2 * MAX_CONCURRENT_FETCHES)])
async def test_a_tool_is_asked_by_a_few_at_a_time_but_for_calls_that_hang(
    world: ToolWorld, monkeypatch: pytest.MonkeyPatch, slot_s: float, asked: int
) -> None:
    monkeypatch.setattr(jobs.concurrency, "SLOT_TIMEOUT_S", slot_s)
    world.tool.response_gate.clear()
    works = [await ring(world, number % 60, item) for number, item in enumerate(items(2 * MAX_CONCURRENT_FETCHES))]
    running = [asyncio.create_task(world.run_task(work)) for work in works]

    await world.wait_for_requests(asked)
    await asyncio.sleep(0.2)
    so_far = len(world.tool.requests)
    world.tool.response_gate.set()
    await asyncio.gather(*running)

    assert (asked, 2 * MAX_CONCURRENT_FETCHES) == (so_far, len(world.tool.requests))


async def test_a_tool_that_hangs_leaves_places_to_others_and_loses_nothing(
    world: ToolWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.concurrency, "MAX_IN_FLIGHT", 8)
    world.tool.response_gate.clear()
    works = [await ring(world, number, item) for number, item in enumerate(items(12))]
    running = [asyncio.create_task(world.run_task(work)) for work in works]
    await world.wait_for_requests(8)
    while len([task for task in running if task.done()]) < 4:
        await asyncio.wait([task for task in running if not task.done()], return_when=asyncio.FIRST_COMPLETED)

    members = [await world.ledger.load_task(work) for work in works]
    reasons = [member.reason for member in members if member.state == "waiting"]
    world.tool.response_gate.set()
    await asyncio.gather(*running)

    assert ["too_many_fetches"] * 4 == reasons
    assert 8 == len(world.tool.requests)


# -- tokens --


def gives(world: ToolWorld, *tokens: dict[str, Any] | int) -> list[dict[str, str]]:
    """The token endpoint answers these, the last one for ever. Returns what it is sent."""
    sent: list[dict[str, str]] = []
    left = list(tokens)
    real = ToolApi.respond

    def answer(request: Request, body: bytes) -> Response:
        if request.url.path != "/oauth/token":
            return real(world.tool, request, body)
        sent.append({name: value for name, [value] in parse_qs(body.decode()).items()})
        given = left.pop(0) if len(left) > 1 else left[0]
        return PlainTextResponse("no", given) if isinstance(given, int) else JSONResponse(given)

    world.tool.respond = answer  # type: ignore[method-assign]
    return sent


def connect(world: ToolWorld, **other: str) -> None:
    world.configure(**{**OAUTH, "HOOKS__JOBBER__TOKEN_URL": f"{world.url}/oauth/token", **other})
    world.tool.add_records("jobber", BOOKED)


FIRST = {"access_token": "access-one", "expires_in": 3600, "refresh_token": "refresh-two"}
SECOND = {"access_token": "access-two", "expires_in": 3600}


async def test_a_token_is_got_once_for_all_who_need_one(world: ToolWorld) -> None:
    connect(world)
    sent = gives(world, FIRST)
    items = [base64.b64encode(f"gid://Jobber/Visit/{number}".encode()).decode() for number in range(6)]

    works = [await ring(world, number, item) for number, item in enumerate(items)]
    await asyncio.gather(*(world.run_task(work) for work in works))

    assert [
        {
            "grant_type": "refresh_token",
            "client_id": "the-client",
            "client_secret": "its-secret",
            "refresh_token": "refresh-one",
        }
    ] == sent
    assert ["Bearer access-one"] * 6 == [headers["authorization"] for headers in asked_for_records(world)]


async def test_a_token_that_ended_early_is_got_anew_with_the_refresh_token_that_came_last(
    world: ToolWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.tokens, "MIN_REPLACEABLE_AGE_S", 0.0)
    connect(world)
    sent = gives(world, FIRST, SECOND)
    await ring(world, 1)
    await world.run()
    refusals = [PlainTextResponse("expired", 401)]
    real = world.tool.respond

    def once(request: Request, body: bytes) -> Response:
        if request.url.path == "/jobber/graphql" and refusals:
            return refusals.pop()
        return real(request, body)

    world.tool.respond = once  # type: ignore[method-assign]
    work = await ring(world, 2)
    outcome = await world.run_task(work)

    assert "translated" == outcome
    assert ["refresh-one", "refresh-two"] == [form["refresh_token"] for form in sent]
    assert ["access-one", "access-one", "access-two"] == [
        headers["authorization"].removeprefix("Bearer ") for headers in asked_for_records(world)
    ]


async def test_a_token_is_got_anew_before_it_ends(world: ToolWorld) -> None:
    connect(world)
    sent = gives(world, {"access_token": "short", "expires_in": 0.5}, SECOND)
    await ring(world, 1)
    await world.run()
    await asyncio.sleep(0.3)
    await ring(world, 2)
    await world.run()

    assert 2 == len(sent)
    assert ["Bearer short", "Bearer access-two"] == [headers["authorization"] for headers in asked_for_records(world)]


async def test_a_young_token_that_is_refused_is_not_got_anew_again_and_again(world: ToolWorld) -> None:
    connect(world)
    sent = gives(world, FIRST)
    real = world.tool.respond

    def refuse(request: Request, body: bytes) -> Response:
        return PlainTextResponse("no", 401) if request.url.path == "/jobber/graphql" else real(request, body)

    world.tool.respond = refuse  # type: ignore[method-assign]
    outcome = await world.run_task(await ring(world, 1))

    assert ("credentials_rejected", 1) == (outcome, len(sent))


async def test_a_refused_refresh_token_waits_for_an_operator(world: ToolWorld) -> None:
    connect(world)
    gives(world, 400)

    outcome = await world.run_task(await ring(world, 1))

    assert ("credentials_rejected", []) == (outcome, asked_for_records(world))


async def test_what_is_kept_of_tokens_can_be_read_under_our_key_only(
    world: ToolWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.tokens, "REFRESH_BEFORE_EXPIRY_S", 1e6)
    connect(world)
    sent = gives(world, FIRST, SECOND)
    await ring(world, 1)
    await world.run()
    kept = await world.redis.command("GET", "bell:token:jobber")

    # A new key in front of the old one reads it; a key that never saw it does not, and begins anew.
    for second, key in enumerate(["another-key-of-ours a-key-of-ours-for-tests", "a-key-that-is-not-it"], 2):
        connect(world, SECRET_KEY=key)
        await world.redis.command("SET", "bell:token:jobber", kept)
        monkeypatch.setattr(jobs.tokens, "_usable_token", lambda *_: "")
        await ring(world, second)
        await world.run()

    assert not any(secret in kept for secret in (b"access-one", b"refresh-one", b"refresh-two"))
    assert ["refresh-one", "refresh-two", "refresh-one"] == [form["refresh_token"] for form in sent]


async def test_who_connects_the_account_anew_begins_with_the_new_refresh_token(world: ToolWorld) -> None:
    connect(world)
    sent = gives(world, FIRST)
    await ring(world, 1)
    await world.run()

    connect(world, HOOKS__JOBBER__CREDENTIALS__REFRESH_TOKEN="refresh-new")
    await ring(world, 2)
    await world.run()

    assert ["refresh-one", "refresh-new"] == [form["refresh_token"] for form in sent]


def test_a_template_takes_credentials_and_no_other_brace() -> None:
    exchange = TokenExchange("https://tool.example.com", ("A",), json={"params": ["{A}", "{B}", 1], "m": "get"})

    assert {"params": ["a{A}", "{B}", 1], "m": "get"} == _render_template(exchange.json, {"A": "a{A}"})


@pytest.mark.parametrize(
    ("said", "expected"), [("30", 30.0), ("soon", None), ("", None), ("9" * 20, None), ("1", 1.0), ("1000000001", 0.0)]
)
def test_a_tools_own_header_says_how_long_to_wait_or_until_when(said: str, expected: float | None) -> None:
    answer = httpx.Response(429, headers={"X-Reset": said})

    assert expected == _until_reset(RateLimited("GET x", 429), answer, "X-Reset").wait_s


@pytest.mark.parametrize(
    ("get", "expected"),
    [
        (RecordRequest("visits/1"), ("GET", "https://api.example.com/v1/visits/1", {})),
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
def test_a_get_is_one_request_below_the_tools_api(
    get: RecordRequest, expected: tuple[str, str, dict[str, Any]]
) -> None:
    assert expected == _request(get, "https://api.example.com/v1")


def test_credentials_are_shown_in_headers_and_params() -> None:
    keys = ApiKeyAuth(headers={"X-Key": "API_KEY"}, params={"company": "COMPANY"})

    shown = keys.authenticate({"API_KEY": "k", "COMPANY": "c"}, 0, RecordRequest("visits/1"))

    assert (("API_KEY", "COMPANY"), {"X-Key": "k"}, {"company": "c"}) == (keys.names, shown.headers, shown.params)


async def test_a_record_that_is_too_long_is_parked_and_says_so(world: ToolWorld) -> None:
    world.tool.overrides = [lambda _: PlainTextResponse(b"[" + b"1," * MAX_RESPONSE_BYTES + b"1]")]

    outcome = await world.run_task(work := await ring(world, 1))

    [attempt] = (await world.ledger.load_task(work)).attempts
    assert "GET visit: client_error" == outcome
    assert "the answer is longer than 1,048,576 bytes" == attempt.response_text


async def test_a_record_that_is_nested_too_deep_to_be_kept_counts_all_the_same(world: ToolWorld) -> None:
    world.tool.add_records("jobber", BOOKED)
    whole = json.dumps(world.tool.records[ITEM])
    nested = whole.replace("{", '{"nested": ' + "[" * 300 + "]" * 300 + ",", 1)
    world.tool.overrides = [lambda _: Response(nested, media_type="application/json")]

    assert "translated" == await world.run_task(await ring(world, 1))
