"""A full Redis accepts nothing new. Everything that was accepted before is applied, and operators can act."""

import base64
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
from argon2 import PasswordHasher
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from app.console.sessions import SESSION_COOKIE
from app.demo.valkey import valkey
from app.sandbox.store import DOCUMENTED_CONTACT
from app.webhooks.registry import load_specimens
from tests.support.harness import Harness, Server, hmac_sha256, http_client, serving, wait_until

COUNT = 20
API_KEY, PASSWORD = "acuity-api-key", "an operator's password"
FIRST_APPOINTMENT = 1_000
JOBBER = load_specimens("jobber")
BOOKED_JOBBER = JOBBER["deliveries"][0]


class ToolApis:
    """Acuity's API, with an appointment for every id, and Jobber's, with a visit and tokens that expire."""

    def __init__(self) -> None:
        self.requested_paths: list[str] = []

    async def serve(self, request: Request) -> Response:
        self.requested_paths.append(request.url.path)
        if request.url.path == "/token":
            form = parse_qs((await request.body()).decode())
            if form["refresh_token"] != ["refresh-1"]:
                return PlainTextResponse("refused", 401)
            return JSONResponse({"access_token": "access-1", "expires_in": 3_600, "refresh_token": "refresh-2"})
        if request.url.path == "/graphql":
            return JSONResponse(next(iter(BOOKED_JOBBER["records"].values())))
        return JSONResponse(appointment(int(request.url.path.rpartition("/")[2])))


def appointment(id: int) -> dict[str, Any]:
    return {
        "id": id,
        "email": f"{id}@example.com",
        "firstName": "Ada",
        "datetime": "2026-03-14T09:00:00-0500",
        "canceled": False,
    }


@pytest.fixture(scope="module")
def tools() -> Iterator[tuple[ToolApis, str]]:
    tools = ToolApis()
    with serving(Starlette(routes=[Route("/{path:path}", tools.serve, methods=["GET", "POST"])])) as url:
        yield tools, url


@pytest.fixture
def service(sandbox: Server, tools: tuple[ToolApis, str]) -> Iterator[Harness]:
    """Start Doorbell with a separate Redis and a console, and without a worker."""
    with ExitStack() as stack:
        harness = stack.enter_context(Harness(stack.enter_context(valkey()), sandbox))
        harness.env |= {
            "HOOKS__ACUITY__SECRETS": API_KEY,
            "HOOKS__ACUITY__CREDENTIALS__USER_ID": "4711",
            "HOOKS__ACUITY__CREDENTIALS__API_KEY": API_KEY,
            "HOOKS__ACUITY__API_URL": tools[1],
            "HOOKS__JOBBER__SECRETS": JOBBER["secret"],
            "HOOKS__JOBBER__CREDENTIALS__CLIENT_ID": "the-client",
            "HOOKS__JOBBER__CREDENTIALS__CLIENT_SECRET": "its-secret",
            "HOOKS__JOBBER__CREDENTIALS__REFRESH_TOKEN": "refresh-1",
            "HOOKS__JOBBER__API_URL": f"{tools[1]}/graphql",
            "HOOKS__JOBBER__TOKEN_URL": f"{tools[1]}/token",
            "SECRET_KEY": "a-key-for-tests-that-is-long-enough",
            "CONSOLE_PASSWORD_HASH": PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD),
        }
        harness.start_web()
        yield harness


def fill(harness: Harness) -> None:
    """Make the server refuse every command that may use more memory."""
    harness.redis_command("CONFIG", "SET", "maxmemory", "1")


def send_acuity(harness: Harness, id: int) -> httpx.Response:
    raw = f"action=scheduled&id={id}&calendarID=1&appointmentTypeID=2".encode()
    signature = base64.b64encode(hmac_sha256(API_KEY.encode(), raw)).decode()
    headers = {"content-type": "application/x-www-form-urlencoded", "x-acuity-signature": signature}
    return harness.post(raw, headers, "acuity")


def send_jobber(harness: Harness) -> httpx.Response:
    raw = json.dumps(BOOKED_JOBBER["body"]).encode()
    signature = base64.b64encode(hmac_sha256(JOBBER["secret"].encode(), raw)).decode()
    return harness.post(raw, {"content-type": "application/json", "x-jobber-hmac-sha256": signature}, "jobber")


def send(harness: Harness, visit_id: str, **data: Any) -> httpx.Response:
    contact = {"email": f"{visit_id}@example.com"}
    return harness.send(
        "visit.created", visit_id, time_scheduled="2026-03-14T16:00:00Z", **{"contact": contact, **data}
    )


def test_deliveries_from_before_redis_was_full_are_applied(service: Harness, tools: tuple[ToolApis, str]) -> None:
    jobber = send_jobber(service)
    full_events = [send(service, f"A-{number}") for number in range(COUNT)]
    thin_events = [send_acuity(service, FIRST_APPOINTMENT + number) for number in range(COUNT)]
    assert {202} == {response.status_code for response in [jobber, *full_events, *thin_events]}
    fill(service)

    rejected = send(service, "too-late"), send_acuity(service, 5)
    service.start_worker()
    wait_until(lambda: len(service.visits()) >= 2 * COUNT + 1, 60)
    wait_until(
        lambda: (
            not service.redis_command("ZCARD", "bell:state:queued")
            + service.redis_command("ZCARD", "bell:state:running")
        )
    )

    expected = {f"standard-A-{number}" for number in range(COUNT)}
    expected |= {f"acuity-{FIRST_APPOINTMENT + number}" for number in range(COUNT)}
    created = {visit["external_id"] for visit in service.visits()}
    assert expected == {name for name in created if not name.startswith("jobber-")}
    assert 2 * COUNT + 1 == len(created)
    assert {503} == {response.status_code for response in rejected}
    assert (0, 0) == (
        service.redis_command("ZCARD", "bell:state:parked"),
        service.redis_command("ZCARD", "bell:state:waiting"),
    )
    # The worker also asks the tools about the connections.
    paths = tools[0].requested_paths
    assert {"/token", "/graphql"} <= set(paths)
    appointments = [path for path in paths if path.startswith("/appointments/")]
    assert [f"/appointments/{FIRST_APPOINTMENT + n}" for n in range(COUNT)] == sorted(appointments)
    # The search index was written too.
    search = service.doorbell("deliveries", "--search", "A-1@example.com", "--json")
    assert [full_events[1].json()["delivery"]] == [json.loads(line)["delivery"] for line in search.stdout.splitlines()]


def test_operators_can_act_on_a_full_redis(service: Harness) -> None:
    service.inject_faults(duplicate_external_id="unprocessable")
    for number in range(4):
        send(service, f"A-{number}", contact={"id": "cont_nobody", "email": f"a-{number}@example.com"})
    service.start_worker()
    wait_until(lambda: service.redis_command("ZCARD", "bell:state:parked") == 4)
    fill(service)

    # By commands, whose processes connect when the server is already full
    replayed = service.doorbell_process("replay", "standard-A-0", "--contact", DOCUMENTED_CONTACT, "--yes")
    wait_until(lambda: service.visit("standard-A-0"))
    discarded = service.doorbell_process("discard", "standard-A-1", "--yes")
    paused = service.doorbell_process("pause", "standard"), service.doorbell_process("resume", "standard")
    erased = service.doorbell_process("erase", "a-1@example.com", "--yes")

    commands = [replayed, discarded, *paused, erased]
    assert [0] * 5 == [result.returncode for result in commands], [result.stderr for result in commands]

    # In the console
    with Console(service) as console:
        console.log_in()
        console.run_operation("replay", "standard-A-2", **{"contact:visit:main/standard-A-2": DOCUMENTED_CONTACT})
        console.run_operation("discard", "standard-A-3")
        assert 303 == console.post("/console/accounts/main/pause").status_code
        assert 303 == console.post("/console/accounts/main/resume").status_code

    wait_until(lambda: service.visit("standard-A-2"))
    assert ["standard-A-0", "standard-A-2"] == sorted(visit["external_id"] for visit in service.visits())
    assert 0 == service.redis_command("ZCARD", "bell:state:parked")
    actions = [json.loads(line)["action"] for line in service.doorbell("activity", "--json").stdout.splitlines()]
    assert ["resumed", "paused", "started discard", "started replay", "logged in"] == actions[:5]
    assert {"started replay", "started discard", "paused", "resumed", "erased person"} <= set(actions[5:])


def test_rejections_and_counters_are_written_to_a_full_redis(service: Harness) -> None:
    assert 202 == send(service, "A-1").status_code
    fill(service)

    unsigned = service.post(b"{}", {"content-type": "application/json"})
    rejected = wait_until(lambda: service.doorbell("rejections", "--json").stdout)

    assert 401 == unsigned.status_code
    assert ["standard"] == [json.loads(line)["hook"] for line in rejected.splitlines()]
    wait_until(lambda: service.redis_command("KEYS", "bell:secret-used:standard"))
    assert "metrics_flush_failed" not in service.web_server.log.read_text()


class Console:
    """An operator's browser."""

    def __init__(self, harness: Harness) -> None:
        self._harness = harness
        self._http = http_client(base_url=harness.web_server.url)
        self._cookie = ""

    def __enter__(self) -> "Console":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str) -> httpx.Response:
        return self._http.get(path, headers={"cookie": self._cookie})

    def post(self, path: str, **form: str) -> httpx.Response:
        page = self.get("/console/settings" if self._cookie else "/console/login").text
        token = re.findall(r'name="token" value="([^"]+)"', page)[0]
        headers = {"cookie": self._cookie, "sec-fetch-site": "same-origin"}
        return self._http.post(path, data={"token": token, **form}, headers=headers)

    def log_in(self) -> None:
        response = self.post("/console/login", password=PASSWORD)
        assert 303 == response.status_code, response.text
        self._cookie = f"{SESSION_COOKIE}={response.cookies[SESSION_COOKIE]}"

    def run_operation(self, do: str, visit: str, **fields: str) -> None:
        response = self.post("/console/operations", do=do, ids=visit, expected="1", **fields)
        assert 303 == response.status_code, response.text
        id = response.headers["location"].rpartition("/")[2]
        wait_until(lambda: self._harness.redis_command("HGET", f"bell:operation:{id}", "state") == b"done")
