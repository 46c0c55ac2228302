"""Refresh tokens that a tool accepts once: none is lost to slow responses, failures of Redis, or the end of a worker."""

import base64
import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

import app.connections.tokens
import jobs.translate_event
from app.demo import valkey
from app.ledger.records import Attempt
from app.ledger.values import join_values
from app.visits.client import MAX_RESPONSE_BYTES
from tests.support.harness import Harness, Server, hmac_sha256, serving, wait_until
from tests.support.jobber import BOOKED, FIRST_TOKEN, SECOND_TOKEN, connect, send_event, set_token_responses
from tests.support.tool_api import SPECIMENS, ToolWorld

# In one process


async def test_an_exchange_outlives_its_job(world: ToolWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.translate_event, "RUN_TIMEOUT_S", 1.0)
    connect(world)
    forms = set_token_responses(world, FIRST_TOKEN)
    world.tool.response_gate.clear()
    task = await send_event(world, 1)

    outcome = await world.run_task(task)
    [exchange] = world.context.token_exchanges
    world.tool.response_gate.set()
    token = await exchange

    assert ("run: outcome_unknown", "access-one") == (outcome, token)
    await world.advance_time(60)
    assert ["translated"] == [await world.run_task(task)]
    assert ["refresh-one"] == [form["refresh_token"] for form in forms]
    assert set() == world.context.token_exchanges


async def test_an_exchange_does_not_start_if_its_lock_might_end_first(
    world: ToolWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.connections.tokens, "LOCK_TTL_S", app.connections.tokens.EXCHANGE_TIMEOUT_S)
    connect(world)
    forms = set_token_responses(world, FIRST_TOKEN)

    outcome = await world.run_task(await send_event(world, 1))

    assert ("lock_contention", []) == (outcome, forms)


def set_responses_by_token(world: ToolWorld, responses: dict[str, Any]) -> list[str]:
    """Let the token endpoint respond by refresh token. Return the refresh tokens that it receives."""
    received: list[str] = []
    real = type(world.tool).respond

    def respond(request: Request, body: bytes) -> Response:
        if request.url.path != "/oauth/token":
            return real(world.tool, request, body)
        [refresh] = parse_qs(body.decode())["refresh_token"]
        received.append(refresh)
        response = responses[refresh]
        return response if isinstance(response, Response) else JSONResponse(response)

    world.tool.respond = respond  # type: ignore[method-assign]
    return received


async def first_exchange(world: ToolWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Store refresh-two, with refresh-one as the previous token, and an expired access token."""
    connect(world)
    set_token_responses(world, FIRST_TOKEN)
    await send_event(world, 1)
    await world.run()
    monkeypatch.setattr(app.connections.tokens, "REFRESH_BEFORE_EXPIRY_S", 1e6)
    monkeypatch.setattr(app.connections.tokens, "_usable_token", lambda stored, rejected: "")


async def test_the_previous_refresh_token_is_tried_once(world: ToolWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    await first_exchange(world, monkeypatch)
    rejected = PlainTextResponse("no", 401)
    received = set_responses_by_token(world, {"refresh-two": rejected, "refresh-one": rejected})

    outcomes = []
    for second in (2, 3):
        outcomes.append(await world.run_task(await send_event(world, second)))
        await forget_rejection(world)
    received_later = set_responses_by_token(world, {"refresh-two": SECOND_TOKEN})
    outcomes.append(await world.run_task(await send_event(world, 4)))

    assert ["credentials_rejected", "credentials_rejected", "translated"] == outcomes
    assert (["refresh-two", "refresh-one", "refresh-two"], ["refresh-two"]) == (received, received_later)


async def forget_rejection(world: ToolWorld) -> None:
    """Let the tool be asked again at once, not only after 30 s."""
    await world.redis.command("DEL", "bell:token:jobber:rejected")


async def test_the_previous_refresh_token_is_tried_again_if_the_tool_did_not_answer(
    world: ToolWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await first_exchange(world, monkeypatch)
    received = set_responses_by_token(
        world, {"refresh-two": PlainTextResponse("no", 401), "refresh-one": PlainTextResponse("later", 429)}
    )
    await world.run_task(await send_event(world, 2))
    await world.redis.command("DEL", "bell:retry-after:jobber")
    received_later = set_responses_by_token(
        world, {"refresh-two": PlainTextResponse("no", 401), "refresh-one": SECOND_TOKEN}
    )

    assert "translated" == await world.run_task(await send_event(world, 3))
    assert ["refresh-two", "refresh-one"] == received == received_later


async def test_the_previous_refresh_token_may_still_be_accepted(
    world: ToolWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await first_exchange(world, monkeypatch)
    invalid = JSONResponse({"error": "invalid_grant"}, 400)
    received = set_responses_by_token(
        world, {"refresh-two": invalid, "refresh-one": {**SECOND_TOKEN, "refresh_token": "refresh-3"}}
    )

    assert "translated" == await world.run_task(await send_event(world, 2))

    received_later = set_responses_by_token(world, {"refresh-3": SECOND_TOKEN})
    assert "translated" == await world.run_task(await send_event(world, 3))
    assert (["refresh-two", "refresh-one"], ["refresh-3"]) == (received, received_later)


async def test_the_previous_refresh_token_is_not_sent_after_invalid_client(
    world: ToolWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await first_exchange(world, monkeypatch)
    received = set_responses_by_token(world, {"refresh-two": JSONResponse({"error": "invalid_client"}, 401)})

    task = await send_event(world, 2)
    outcome = await world.run_task(task)

    member = await world.ledger.load_task(task)
    text = "the token endpoint rejects these credentials: invalid_client"
    assert ("credentials_rejected", ["refresh-two"], text) == (outcome, received, member.attempts[-1].response_text)


async def test_a_too_long_token_response_has_an_unknown_outcome(world: ToolWorld) -> None:
    connect(world)
    set_token_responses(world, {"access_token": "x" * MAX_RESPONSE_BYTES})

    assert "POST token: outcome_unknown" == await world.run_task(await send_event(world, 1))


# With real workers


class StrictTool:
    """Jobber's API, which accepts a refresh token once, or with `has_grace_period` also the previous token.

    exchanged: the refresh tokens that it received. It responds only after `response_gate` is set.
    """

    def __init__(self) -> None:
        self.exchanged: list[str] = []
        self.response_count, self.newest, self.has_grace_period = 0, 1, False
        self.response_gate = threading.Event()

    async def serve(self, request: Request) -> Response:
        body = await request.body()
        if request.url.path == "/graphql":
            assert f"Bearer access-{self.newest}" == request.headers["authorization"]
            return JSONResponse(next(iter(BOOKED["records"].values())))
        [refresh] = parse_qs(body.decode())["refresh_token"]
        self.exchanged.append(refresh)
        is_newest, is_last = refresh == f"refresh-{self.newest}", refresh == f"refresh-{self.newest - 1}"
        if is_newest:
            self.newest += 1
        await run_in_threadpool(self.response_gate.wait, 60)
        self.response_count += 1
        if not (is_newest or (is_last and self.has_grace_period)):
            return PlainTextResponse("rejected", 401)
        return JSONResponse(
            {
                "access_token": f"access-{self.newest}",
                "refresh_token": f"refresh-{self.newest}",
                "expires_in": 3_600,
            }
        )


class Service:
    """A Redis that can be restarted, a web process, and workers."""

    def __init__(self, harness: Harness, tool: StrictTool, port: int, folder: Path) -> None:
        self.harness, self.tool, self._port, self._folder = harness, tool, port, folder
        self.start_redis()
        harness.start_web()

    def start_redis(self) -> None:
        self.redis = valkey.start(self._port, self._folder, appendfsync="always")

    def send_event(self) -> str:
        raw = json.dumps(BOOKED["body"]).encode()
        signature = base64.b64encode(hmac_sha256(SPECIMENS["jobber"]["secret"].encode(), raw)).decode()
        headers = {"content-type": "application/json", "x-jobber-hmac-sha256": signature}
        return str(self.harness.post(raw, headers, "jobber").raise_for_status().json()["delivery"])

    def wait_for_exchange(self) -> None:
        wait_until(lambda: self.tool.exchanged)

    def respond(self) -> None:
        """Let the tool respond, and wait until the response has arrived."""
        self.tool.response_gate.set()
        wait_until(lambda: self.tool.response_count)
        time.sleep(0.2)

    def end_leases(self) -> None:
        """End the leases and locks of a killed worker at once."""
        for task in self.harness.redis_command("ZRANGE", "bell:state:running", 0, -1):
            self.harness.redis_command("ZADD", "bell:state:running", 1, task)
        for lock in self.harness.redis_command("KEYS", "bell:*:lock"):
            self.harness.redis_command("DEL", lock)

    def wait_for_visit(self) -> None:
        wait_until(lambda: len(self.harness.visits()) == 1, 60)


@pytest.fixture
def service(sandbox: Server, tmp_path: Path) -> Iterator[Service]:
    tool, port = StrictTool(), valkey.free_port()
    with ExitStack() as stack:
        routes = [Route("/{path:path}", tool.serve, methods=["POST"])]
        url = stack.enter_context(serving(Starlette(routes=routes)))
        harness = Harness(f"redis://127.0.0.1:{port}/0", sandbox)
        harness.env |= {
            "HOOKS__JOBBER__SECRETS": SPECIMENS["jobber"]["secret"],
            "HOOKS__JOBBER__CREDENTIALS__CLIENT_ID": "the-client",
            "HOOKS__JOBBER__CREDENTIALS__CLIENT_SECRET": "its-secret",
            "HOOKS__JOBBER__CREDENTIALS__REFRESH_TOKEN": "refresh-1",
            "HOOKS__JOBBER__API_URL": f"{url}/graphql",
            "HOOKS__JOBBER__TOKEN_URL": f"{url}/token",
            "SECRET_KEY": "a-key-for-tests-that-is-long-enough",
        }
        service = Service(harness, tool, port, tmp_path)
        stack.callback(lambda: valkey.stop(service.redis))
        stack.enter_context(harness)
        stack.callback(tool.response_gate.set)
        yield service


def kill_before_response(service: Service) -> str:
    """Kill a worker after the tool has replaced its refresh token. Return the delivery."""
    worker = service.harness.start_worker()
    delivery = service.send_event()
    service.wait_for_exchange()
    worker.process.send_signal(signal.SIGSTOP)
    service.respond()
    worker.kill()
    service.end_leases()
    service.harness.start_worker()
    return delivery


def test_a_lost_token_response_is_repaired_if_the_tool_has_a_grace_period(
    service: Service,
) -> None:
    service.tool.has_grace_period = True

    kill_before_response(service)

    service.wait_for_visit()
    assert (["refresh-1", "refresh-1"], 2) == (service.tool.exchanged, service.tool.newest)


def test_a_lost_token_response_is_reported_if_the_tool_has_no_grace_period(service: Service) -> None:
    delivery = kill_before_response(service)

    def attempts() -> list[Attempt]:
        flat = service.harness.redis_command("HGETALL", f"bell:event:{delivery}")
        return [Attempt.decode(value) for name, value in join_values(flat).items() if name.startswith(b"attempt:")]

    [attempt] = wait_until(attempts)
    assert b"credentials_rejected" == service.harness.redis_command("HGET", f"bell:event:{delivery}", "reason")
    assert "was lost" in attempt.response_text
    assert "connect the account again" in attempt.response_text
    assert {"refresh-1"} == set(service.tool.exchanged)  # the check of the connection may try it once more


def test_a_new_token_is_stored_when_redis_is_back(service: Service) -> None:
    service.harness.start_worker()
    service.send_event()
    service.wait_for_exchange()
    valkey.stop(service.redis)
    service.respond()
    time.sleep(1)
    service.start_redis()

    service.wait_for_visit()
    assert (["refresh-1"], 2) == (service.tool.exchanged, service.tool.newest)


def test_a_worker_stores_a_new_token_before_it_ends(service: Service) -> None:
    worker = service.harness.start_worker()
    service.send_event()
    service.wait_for_exchange()
    worker.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    service.tool.response_gate.set()
    worker.process.wait(40)
    service.end_leases()
    service.harness.start_worker()

    service.wait_for_visit()
    assert (["refresh-1"], 2) == (service.tool.exchanged, service.tool.newest)
