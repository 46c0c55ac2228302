"""Refresh tokens that a tool accepts once: none is lost to slow answers, to Redis, or to a worker that ends in between."""

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

import jobs.tokens
import jobs.translate_event
from app.demo import valkey
from app.visits.client import MAX_RESPONSE_BYTES
from tests.integration.jobs.translate_event.test_records import FIRST, SECOND, connect, gives
from tests.integration.jobs.translate_event.test_records import ring as ring_jobber
from tests.support.harness import Harness, Server, hmac_sha256, serving, wait_until
from tests.support.tool_api import SPECIMENS, ToolWorld

BOOKED = SPECIMENS["jobber"]["deliveries"][0]


# In one process -----------------------------------------------------------------------------------------------------


async def test_an_exchange_outlives_the_job_that_began_it(world: ToolWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.translate_event, "RUN_TIMEOUT_S", 0.3)
    connect(world)
    sent = gives(world, FIRST)
    world.tool.response_gate.clear()
    work = await ring_jobber(world, 1)

    outcome = await world.run_task(work)
    [exchange] = world.context.token_exchanges
    world.tool.response_gate.set()
    token = await exchange

    assert ("run: outcome_unknown", "access-one") == (outcome, token)
    await world.advance_time(60)
    assert ["translated"] == [await world.run_task(work)]
    assert ["refresh-one"] == [form["refresh_token"] for form in sent]
    assert set() == world.context.token_exchanges


async def test_an_exchange_is_not_begun_when_its_lock_may_end_first(
    world: ToolWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.tokens, "LOCK_TTL_S", jobs.tokens.EXCHANGE_TIMEOUT_S)
    connect(world)
    sent = gives(world, FIRST)

    outcome = await world.run_task(await ring_jobber(world, 1))

    assert ("lock_contention", []) == (outcome, sent)


def answers_by_token(world: ToolWorld, answers: dict[str, Any]) -> list[str]:
    """The token endpoint answers by the refresh token that it is shown. Returns what it is shown."""
    shown: list[str] = []
    real = type(world.tool).respond

    def answer(request: Request, body: bytes) -> Response:
        if request.url.path != "/oauth/token":
            return real(world.tool, request, body)
        [refresh] = parse_qs(body.decode())["refresh_token"]
        shown.append(refresh)
        given = answers[refresh]
        return given if isinstance(given, Response) else JSONResponse(given)

    world.tool.respond = answer  # type: ignore[method-assign]
    return shown


async def first_exchange(world: ToolWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves refresh-two, with refresh-one before it, and an access token that is over."""
    connect(world)
    gives(world, FIRST)
    await ring_jobber(world, 1)
    await world.run()
    monkeypatch.setattr(jobs.tokens, "REFRESH_BEFORE_EXPIRY_S", 1e6)
    monkeypatch.setattr(jobs.tokens, "_usable_token", lambda kept, refused: "")


async def test_should_the_newest_be_refused_the_one_before_is_tried_once(
    world: ToolWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await first_exchange(world, monkeypatch)
    refused = PlainTextResponse("no", 401)
    shown = answers_by_token(world, {"refresh-two": refused, "refresh-one": refused})

    outcomes = [await world.run_task(await ring_jobber(world, second)) for second in (2, 3)]
    then = answers_by_token(world, {"refresh-two": SECOND})
    outcomes.append(await world.run_task(await ring_jobber(world, 4)))

    assert ["credentials_rejected", "credentials_rejected", "translated"] == outcomes
    assert (["refresh-two", "refresh-one", "refresh-two"], ["refresh-two"]) == (shown, then)


async def test_the_one_before_may_still_be_accepted(world: ToolWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    await first_exchange(world, monkeypatch)
    invalid = JSONResponse({"error": "invalid_grant"}, 400)
    shown = answers_by_token(world, {"refresh-two": invalid, "refresh-one": {**SECOND, "refresh_token": "refresh-3"}})

    assert "translated" == await world.run_task(await ring_jobber(world, 2))

    then = answers_by_token(world, {"refresh-3": SECOND})
    assert "translated" == await world.run_task(await ring_jobber(world, 3))
    assert (["refresh-two", "refresh-one"], ["refresh-3"]) == (shown, then)


async def test_where_the_app_itself_is_refused_no_older_token_is_shown(
    world: ToolWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await first_exchange(world, monkeypatch)
    shown = answers_by_token(world, {"refresh-two": JSONResponse({"error": "invalid_client"}, 401)})

    work = await ring_jobber(world, 2)
    outcome = await world.run_task(work)

    member = await world.ledger.load_task(work)
    said = "the token endpoint rejects these credentials: invalid_client"
    assert ("credentials_rejected", ["refresh-two"], said) == (outcome, shown, member.attempts[-1].response_text)


async def test_a_token_endpoint_that_answers_without_end_is_unanswered(world: ToolWorld) -> None:
    connect(world)
    gives(world, {"access_token": "x" * MAX_RESPONSE_BYTES})

    assert "POST token: outcome_unknown" == await world.run_task(await ring_jobber(world, 1))


# With a worker of its own -------------------------------------------------------------------------------------------


class StrictTool:
    """Jobber's API, whose refresh tokens count once: what was exchanged is refused, unless `grace`.

    exchanged: the refresh tokens that came. Its answers come no sooner than `open`.
    """

    def __init__(self) -> None:
        self.exchanged: list[str] = []
        self.answered, self.newest, self.grace = 0, 1, False
        self.open = threading.Event()

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
        await run_in_threadpool(self.open.wait, 60)
        self.answered += 1
        if not (is_newest or (is_last and self.grace)):
            return PlainTextResponse("refused", 401)
        return JSONResponse(
            {
                "access_token": f"access-{self.newest}",
                "refresh_token": f"refresh-{self.newest}",
                "expires_in": 3_600,
            }
        )


class Service:
    """A Redis that can be restarted, a door, and workers."""

    def __init__(self, harness: Harness, tool: StrictTool, port: int, folder: Path) -> None:
        self.harness, self.tool, self._port, self._folder = harness, tool, port, folder
        self.start_redis()
        harness.start_web()

    def start_redis(self) -> None:
        self.redis = valkey.start(self._port, self._folder, appendfsync="always")

    def ring(self) -> str:
        raw = json.dumps(BOOKED["body"]).encode()
        signature = base64.b64encode(hmac_sha256(SPECIMENS["jobber"]["secret"].encode(), raw)).decode()
        headers = {"content-type": "application/json", "x-jobber-hmac-sha256": signature}
        return str(self.harness.post(raw, headers, "jobber").raise_for_status().json()["delivery"])

    def is_asked(self) -> None:
        wait_until(lambda: self.tool.exchanged)

    def answer(self) -> None:
        """The tool's answer leaves, and has arrived by then."""
        self.tool.open.set()
        wait_until(lambda: self.tool.answered)
        time.sleep(0.2)

    def forget_the_dead(self) -> None:
        """What a worker held that was killed ends now and not in half a minute."""
        for work in self.harness.redis_command("ZRANGE", "bell:running", 0, -1):
            self.harness.redis_command("ZADD", "bell:running", 1, work)
        for lock in self.harness.redis_command("KEYS", "bell:*:lock"):
            self.harness.redis_command("DEL", lock)

    def is_made(self) -> None:
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
        stack.callback(tool.open.set)
        yield service


def killed_before_it_could_read_the_answer(service: Service) -> str:
    """A worker dies after the tool replaced its refresh token. The event."""
    worker = service.harness.start_worker()
    delivery = service.ring()
    service.is_asked()
    worker.process.send_signal(signal.SIGSTOP)
    service.answer()
    worker.kill()
    service.forget_the_dead()
    service.harness.start_worker()
    return delivery


def test_a_worker_that_is_killed_with_the_answer_unread_costs_nothing_where_the_tool_has_a_grace_period(
    service: Service,
) -> None:
    service.tool.grace = True

    killed_before_it_could_read_the_answer(service)

    service.is_made()
    assert (["refresh-1", "refresh-1"], 2) == (service.tool.exchanged, service.tool.newest)


def test_where_the_tool_has_none_the_event_waits_and_says_what_happened(service: Service) -> None:
    delivery = killed_before_it_could_read_the_answer(service)

    def attempts() -> list[dict[str, Any]]:
        kept = service.harness.redis_command("HGETALL", f"bell:event:{delivery}")
        stored = dict(zip(kept[::2], kept[1::2], strict=True))
        return [json.loads(value) for name, value in stored.items() if name.startswith(b"attempt:")]

    [attempt] = wait_until(attempts)
    assert b"credentials_rejected" == service.harness.redis_command("HGET", f"bell:event:{delivery}", "reason")
    assert "was lost" in attempt["response_text"]
    assert "connect the account again" in attempt["response_text"]
    assert ["refresh-1", "refresh-1"] == service.tool.exchanged


def test_while_redis_is_away_the_answer_is_kept_in_the_process_until_it_can_be_written(service: Service) -> None:
    service.harness.start_worker()
    service.ring()
    service.is_asked()
    valkey.stop(service.redis)
    service.answer()
    time.sleep(1)
    service.start_redis()

    service.is_made()
    assert (["refresh-1"], 2) == (service.tool.exchanged, service.tool.newest)


def test_a_worker_that_is_told_to_end_writes_the_answer_before_it_goes(service: Service) -> None:
    worker = service.harness.start_worker()
    service.ring()
    service.is_asked()
    worker.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    service.tool.open.set()
    worker.process.wait(40)
    service.forget_the_dead()
    service.harness.start_worker()

    service.is_made()
    assert (["refresh-1"], 2) == (service.tool.exchanged, service.tool.newest)
