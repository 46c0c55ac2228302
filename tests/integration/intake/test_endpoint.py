"""The door, as a process: every answer of the table, what is written before it, and what never is."""

import asyncio
import base64
import hashlib
import hmac
import http.client
import json
import os
import re
import signal
import socket
import struct
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.demo import valkey
from app.ledger.redis import Redis, RedisAddress, RedisUnavailable
from tests.support.harness import (
    CALENDLY_SECRET,
    SECRET,
    Server,
    sign_calendly,
    sign_standard,
    standard_body,
    wait_until,
)

OLD_SECRET = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
PUBLIC_URL = "https://doorbell.example.com"
KEYS = {"housecallpro": "hcp-secret", "acuity": "acuity-api-key", "square": "square-key", "jobber": "jobber-secret"}
METRICS_TOKEN = "metrics-canary-token"
CAP = 262_144

HOOKS = {
    "HOOKS__STANDARD__SECRETS": f"{SECRET} {OLD_SECRET}",
    "HOOKS__CALENDLY__SECRETS": CALENDLY_SECRET,
    "HOOKS__SHOP__SOURCE": "standard",
    "HOOKS__SHOP__SECRETS": SECRET,
    "HOOKS__SHOP__TOLERANCE": "30",
    "HOOKS__CALCOM__TIMEZONE": "America/New_York",  # known, and without a secret
    **{f"HOOKS__{source.upper()}__SECRETS": key for source, key in KEYS.items()},
    "PUBLIC_URL": PUBLIC_URL,
    "VISITS_API_TOKEN": "visits-canary-token",
    "LOG_LEVEL": "DEBUG",
}


# -- what tools send --


def sha256_mac(key: str, message: bytes) -> bytes:
    return hmac.digest(key.encode(), message, hashlib.sha256)


def sign_housecallpro(raw: bytes, at: float | None = None) -> dict[str, str]:
    stamp = str(int(time.time() if at is None else at))
    signature = sha256_mac(KEYS["housecallpro"], f"{stamp}.".encode() + raw).hex()
    return {"content-type": "application/json", "api-signature": signature, "api-timestamp": stamp}


def _in_base64(header: str, key: str, content_type: str, before: str = "") -> Callable[[bytes], dict[str, str]]:
    def sign(raw: bytes) -> dict[str, str]:
        signature = base64.b64encode(sha256_mac(key, before.encode() + raw)).decode()
        return {"content-type": content_type, header: signature}

    return sign


SIGN: dict[str, Callable[[bytes], dict[str, str]]] = {
    "standard": sign_standard,
    "calendly": sign_calendly,
    "housecallpro": sign_housecallpro,
    "acuity": _in_base64("x-acuity-signature", KEYS["acuity"], "application/x-www-form-urlencoded"),
    "square": _in_base64(
        "x-square-hmacsha256-signature", KEYS["square"], "application/json", f"{PUBLIC_URL}/hooks/square"
    ),
    "jobber": _in_base64("x-jobber-hmac-sha256", KEYS["jobber"], "application/json"),
}
SOURCES = list(SIGN)
BY_BODY = ["calendly", "housecallpro", "acuity", "jobber"]  # where nothing but the body names an event


def an_event(source: str) -> bytes:
    """A genuine one about a visit, each time another."""
    name, number = uuid.uuid4().hex, str(uuid.uuid4().int)[:12].replace("0", "1")
    invitee = f"https://api.calendly.com/scheduled_events/e/invitees/{name}"
    job = {"id": f"job_{name}", "work_status": "scheduled", "customer": {"email": "ada@example.com"}}
    booking = {"id": name, "version": 1, "status": "ACCEPTED", "start_at": "2026-10-01T15:00:00Z", "customer_id": "C1"}
    topic = {"topic": "VISIT_CREATE", "itemId": base64.b64encode(name.encode()).decode(), "appId": "a"}
    bodies: dict[str, Any] = {
        "standard": json.loads(standard_body("visit.created", name, time_scheduled="2026-10-01T15:00:00Z")),
        "calendly": {
            "event": "invitee.created",
            "created_at": "2026-09-21T14:13:20.123456Z",
            "payload": {
                "uri": invitee,
                "email": "ada@example.com",
                "scheduled_event": {"start_time": "2026-10-01T15:00:00Z"},
            },
        },
        "housecallpro": {"event": "job.created", "event_occurred_at": "2026-09-21T14:13:20Z", "job": job},
        "square": {"type": "booking.created", "event_id": name, "data": {"object": {"booking": booking}}},
        "jobber": {"data": {"webHookEvent": topic}},
    }
    if source == "acuity":
        return f"action=scheduled&id={number}&calendarID=1&appointmentTypeID=2".encode()
    return json.dumps(bodies[source]).encode()


#: Genuine, and nothing to do with visits: the event's name, and the body.
OTHER_EVENTS: dict[str, tuple[str, bytes]] = {
    "standard": ("invoice.paid", standard_body("invoice.paid", "A-1")),
    "calendly": (
        "routing_form_submission.created",
        b'{"event":"routing_form_submission.created","created_at":"2026-09-21T14:13:20Z","payload":{}}',
    ),
    "housecallpro": ("estimate.created", b'{"event":"estimate.created","event_occurred_at":"2026-09-21T14:13:20Z"}'),
    "acuity": ("order.completed", b"action=order.completed&id=12345"),
    "square": ("payment.created", b'{"type":"payment.created","event_id":"e-1","data":{}}'),
    "jobber": ("CLIENT_CREATE", b'{"data":{"webHookEvent":{"topic":"CLIENT_CREATE","itemId":"QQ=="}}}'),
}


# -- the process --


@dataclass
class Answer:
    """To a request that no HTTP client would send. status 0: none came."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Door:
    """A web process, and ways to ring at it."""

    def __init__(self, server: Server) -> None:
        self.server, self.http = server, httpx.Client(base_url=server.url, timeout=20)

    def post(self, raw: Any, headers: Mapping[str, Any], hook: str = "standard") -> httpx.Response:
        return self.http.post(f"/hooks/{hook}", content=raw, headers=dict(headers))

    def ring(self, source: str, raw: bytes | None = None, **more: str) -> httpx.Response:
        """A signed delivery."""
        raw = an_event(source) if raw is None else raw
        return self.post(raw, SIGN[source](raw) | more, source)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.server.port), 10)

    def raw(self, request: bytes, *, method: str = "POST", hangs_up: bool = False) -> Answer:
        """The answer to these very bytes."""
        with closing(self.connect()) as connection:
            with suppress(OSError):
                connection.sendall(request)
                if hangs_up:
                    connection.shutdown(socket.SHUT_WR)
            return answer_on(connection, method)

    def memory_kb(self, which: str = "VmHWM") -> int:
        status = Path(f"/proc/{self.server.process.pid}/status").read_text()
        return int(re.findall(rf"{which}:\s+(\d+)", status)[0])

    @property
    def log(self) -> str:
        return self.server.log.read_text()


def answer_on(connection: socket.socket, method: str = "POST") -> Answer:
    response = http.client.HTTPResponse(connection, method=method)
    try:
        response.begin()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    except (OSError, http.client.HTTPException):
        return Answer(0, {}, b"")


def request(path: str = "/hooks/standard", method: str = "POST", body: bytes = b"", **headers: str) -> bytes:
    """The bytes of a request. `content_length` stands for content-length."""
    lines = [f"{method} {path} HTTP/1.1", "host: doorbell", "connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


UVICORN = ["-m", "uvicorn", "app.main:app", "--http", "app.intake.http_protocol:LimitedHttpProtocol", "--no-access-log"]
#: The same with less patience, so that what needs patience is seen in a moment.
IMPATIENT = """
import sys, uvicorn
from app.intake import endpoint, http_protocol, request_body
from app.telemetry import rejections
request_body.BODY_TIMEOUT_S, request_body.MAX_OPEN_BODIES, endpoint.MAX_IN_FLIGHT, rejections.FLUSH_EVERY_S = 0.8, 4, 2, 0.05
http_protocol.HEAD_TIMEOUT_S, how = 0.8, {"access_log": False, "timeout_keep_alive": 1}
uvicorn.run("app.main:app", port=int(sys.argv[2]), http="app.intake.http_protocol:LimitedHttpProtocol", **how)
"""


@contextmanager
def web(redis_url: str, *python: str, **more: str) -> Iterator[Door]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HOOKS__", "RETRY_", "VISITS_"))}
    port = valkey.free_port()
    arguments = [sys.executable, *(python or UVICORN), "--port", str(port)]
    with Server(arguments, port, "/healthz", {**kept, **HOOKS, "REDIS_URL": redis_url, **more}) as server:
        door = Door(server)
        with door.http:
            yield door


@pytest.fixture(scope="module")
def door(redis_url: str) -> Iterator[Door]:
    with web(redis_url, METRICS_TOKEN=METRICS_TOKEN) as door:
        yield door


@pytest.fixture(scope="module")
def impatient(redis_url: str) -> Iterator[Door]:
    with web(redis_url, "-c", IMPATIENT) as door:
        yield door


async def kept(redis: Redis) -> set[bytes]:
    """Every key but what is counted for people, now and then."""
    counted = (b"db:refused", b"db:hour:", b"db:matched:", b"db:request:", b"db:counts")
    return {key for key in await redis.command("KEYS", "*") if not key.startswith(counted)}


def is_told(answer: httpx.Response | Answer, status: int) -> bool:
    """A refusal in the shape that every refusal has."""
    read = answer.content if isinstance(answer, httpx.Response) else answer.body
    given = answer.status_code if isinstance(answer, httpx.Response) else answer.status
    assert status == given, (given, read[:200], getattr(answer, "headers", ""))
    assert "application/json" == answer.headers["content-type"]
    told = json.loads(read)
    assert {"error", "detail"} == set(told), told
    assert re.fullmatch("[a-z_]+", told["error"])
    assert told["detail"]
    assert isinstance(told["detail"], str)
    return True


# -- 202: written before answered --

LANES = ("db:jobs", "db:jobs:event")


@pytest.mark.parametrize("source", SOURCES)
async def test_a_genuine_event_is_written_with_its_job_before_202(door: Door, redis: Redis, source: str) -> None:
    raw = an_event(source)

    answer = door.ring(source, raw)

    assert (202, "application/json") == (answer.status_code, answer.headers["content-type"])
    assert {"delivery", "changes"} == set(answer.json())
    assert 1 == answer.json()["changes"]
    assert await redis.command("EXISTS", f"db:delivery:{answer.json()['delivery']}")
    [job] = [job for lane in LANES for job in await redis.command("ZRANGE", lane, 0, -1)]
    assert await redis.command("EXISTS", b"arq:job:" + job)


async def test_a_hook_of_another_name_takes_what_its_source_takes(door: Door, redis: Redis) -> None:
    raw = an_event("standard")

    assert 202 == door.post(raw, sign_standard(raw), "shop").status_code


async def test_what_stands_behind_the_question_mark_does_no_harm(door: Door, redis: Redis) -> None:
    raw = an_event("standard")

    assert 202 == door.post(raw, sign_standard(raw), "standard?a=b&c").status_code


@pytest.mark.parametrize("secret", [SECRET, OLD_SECRET], ids=["newest", "oldest"])
async def test_while_secrets_rotate_both_are_believed(door: Door, redis: Redis, secret: str) -> None:
    raw = an_event("standard")

    assert 202 == door.post(raw, sign_standard(raw, secret=secret)).status_code


# -- 202: kept for the operator --

WRONG_SHAPES = [
    b"[]",
    b'"x"',
    b"null",
    b"1",
    b"1.5",
    b"true",
    b"{}",
    b'{"type":{"a":[]}}',
    b'{"type":null}',
]
WRONG_SHAPES += [
    b'{"type":"visit.created"}',
    b'{"type":"visit.created","timestamp":"2026-03-14T17:32:05Z"}',
    b'{"type":"visit.created","timestamp":"2026-03-14T17:32:05Z","data":[]}',
    b'{"type":"visit.created","timestamp":"2026-03-14T17:32:05Z","data":{"visit_id":null}}',
    b'{"type":"visit.created","timestamp":"2026-03-14T17:32:05","data":{"visit_id":"A"}}',  # no offset, no TIMEZONE
    b'{"type":"visit.created","timestamp":"0001-01-01T00:00:00+23:59","data":{"visit_id":"A"}}',
    b'{"type":"visit.created","timestamp":123456789012345678901234567890,"data":{"visit_id":"A"}}',
    b'{"type":"visit.created","timestamp":"2026-03-14T17:32:05Z","data":{"visit_id":1e300}}',
    b'{"type":"visit.created","timestamp":"2026-03-14T17:32:05Z","data":{"visit_id":"A","amount_collected":"1e999999"}}',
    b'{"type":"visit.created","timestamp":"2026-03-14T17:32:05Z","data":{"visit_id":"A","amount_collected":"NaN"}}',
    b'{"type":"visit.created","timestamp":"2026-03-14T17:32:05Z","data":{"visit_id":"A","contact":{"email":[1]}}}',
    b"[" * 900 + b"]" * 900,
]


@pytest.mark.parametrize("raw", WRONG_SHAPES, ids=lambda raw: raw[:90].decode())
async def test_a_genuine_event_that_is_not_understood_is_kept_and_parked(door: Door, redis: Redis, raw: bytes) -> None:
    answer = door.ring("standard", raw)

    assert 202 == answer.status_code, answer.text
    assert {"delivery": answer.json()["delivery"], "changes": 0} == answer.json()
    assert [f"event:{answer.json()['delivery']}".encode()] == await redis.command("ZRANGE", "db:parked", 0, -1)
    assert await redis.command("EXISTS", f"db:delivery:{answer.json()['delivery']}")


@pytest.mark.parametrize(
    ("source", "raw"),
    [
        ("calendly", b"[]"),
        ("calendly", b'{"event":"invitee.created","payload":{}}'),
        ("calendly", b'{"event":"invitee.created","created_at":"2026-01-01T00:00:00Z","payload":[]}'),
        ("housecallpro", b'{"event":"job.created"}'),
        ("housecallpro", b'{"event":"job.created","event_occurred_at":"x","job":7}'),
        ("square", b'{"type":"booking.created","event_id":"e","data":7}'),
        ("square", b'{"type":"booking.created","event_id":["e"],"data":{"object":{"booking":{"status":"NEW"}}}}'),
        ("square", b"[]"),
        ("acuity", b"action=scheduled"),
        ("acuity", b"action=scheduled&id=../../orders/1"),
        ("acuity", b"what=ever"),
        ("jobber", b'{"data":{}}'),
        ("jobber", b'{"data":[1]}'),
        ("jobber", b'{"data":{"webHookEvent":{"topic":"VISIT_CREATE","itemId":"../x y"}}}'),
    ],
    ids=lambda one: one[:80].decode() if isinstance(one, bytes) else one,
)
async def test_no_tools_odd_event_is_lost_or_crashes_the_door(
    door: Door, redis: Redis, source: str, raw: bytes
) -> None:
    answer = door.ring(source, raw)

    assert (202, 0) == (answer.status_code, answer.json().get("changes")), answer.text
    assert 1 == await redis.command("ZCARD", "db:parked")


@pytest.mark.parametrize(
    "raw",
    [
        b'{"type":"visit.created","type":"visit.created","timestamp":"2026-03-14T17:32:05Z","data":{"visit_id":"A"}}',
        b'{"type":"visit.created","timestamp":"2026-03-14T17:32:05Z","data":{"visit_id":"A"},"data":{"visit_id":"B"}}',
        b'{"type":"visit.created","timestamp":"2026-03-14T17:32:05Z","data":{"visit_id":18446744073709551615}}',
        b'{"type":"visit.created","timestamp":"9999-12-31T23:59:59Z","data":{"visit_id":"A"}}',
        b'{"type":"visit.created","timestamp":"0001-01-01T00:00:00Z","data":{"visit_id":"A"}}',
        b'{"type":"visit.created","timestamp":"2026-03-14T17:32:05Z","data":{"visit_id":"\\u0000/../\\ud83d\\ude00 \\" }"}}',
        b'{"type":"visit.created","timestamp":"2026-03-14T17:32:05Z","data":{"visit_id":"' + b"a" * 100_000 + b'"}}',
        b' \n{"type":"visit.created","timestamp":"2026-03-14T17:32:05Z","data":{"visit_id":"A"}}\n ',
    ],
    ids=["a key twice", "data twice", "2**64-1", "year 9999", "year 1", "odd id", "long id", "white space"],
)
async def test_an_odd_but_readable_event_is_taken(door: Door, redis: Redis, raw: bytes) -> None:
    answer = door.ring("standard", raw)

    assert (202, 1) == (answer.status_code, answer.json().get("changes")), answer.text
    assert 1 == await redis.command("ZCARD", "db:queued")


# -- 200: nothing to do, or not again --


@pytest.mark.parametrize("source", SOURCES)
async def test_an_event_of_no_visit_is_ignored_by_its_name(door: Door, redis: Redis, source: str) -> None:
    name, raw = OTHER_EVENTS[source]

    answer = door.ring(source, raw)

    assert 200 == answer.status_code, answer.text
    assert {"delivery": answer.json()["delivery"], "ignored": name} == answer.json()
    assert 0 == await redis.command("EXISTS", *LANES, "db:parked", "db:queued")


async def test_a_customer_who_opted_out_gets_no_visit(door: Door, redis: Redis) -> None:
    event = json.loads(an_event("housecallpro"))
    event["job"]["customer"]["notifications_enabled"] = False

    answer = door.ring("housecallpro", json.dumps(event).encode())

    assert (200, "opted_out") == (answer.status_code, answer.json()["ignored"])


async def test_an_ignored_event_of_a_long_name_is_answered_in_short(door: Door, redis: Redis) -> None:
    answer = door.ring("standard", standard_body("x" * 100_000, "A"))

    assert 200 == answer.status_code
    assert len(answer.content) < 1_000


@pytest.mark.parametrize("source", SOURCES)
async def test_the_same_delivery_again_is_a_repeat_with_the_first_id(door: Door, redis: Redis, source: str) -> None:
    raw = an_event(source)
    headers = SIGN[source](raw)
    first = door.post(raw, headers, source)
    before = await kept(redis)

    again = door.post(raw, headers, source)

    assert 200 == again.status_code
    assert {"delivery": first.json()["delivery"], "repeat": True} == again.json()
    assert before == await kept(redis)


@pytest.mark.parametrize("source", ["standard", "square"])
async def test_the_tools_own_id_names_an_event_whatever_else_changed(door: Door, redis: Redis, source: str) -> None:
    event, other = json.loads(an_event(source)), json.loads(an_event(source))
    id = {"id": "msg_1"} if source == "standard" else {}
    other["event_id"] = event.get("event_id")
    one, two = json.dumps(event).encode(), json.dumps(other).encode()

    first = door.post(one, sign_standard(one, at=time.time() - 60, **id) if id else SIGN[source](one), source)
    again = door.post(two, sign_standard(two, **id) if id else SIGN[source](two), source)

    assert (202, 200) == (first.status_code, again.status_code)
    assert {"delivery": first.json()["delivery"], "repeat": True} == again.json()


@pytest.mark.parametrize("source", ["calendly", "housecallpro"])
async def test_a_repeat_that_was_signed_anew_is_a_repeat(door: Door, redis: Redis, source: str) -> None:
    raw = an_event(source)
    sign: Any = {"calendly": sign_calendly, "housecallpro": sign_housecallpro}[source]

    first = door.post(raw, sign(raw, at=time.time() - 100), source)
    again = door.post(raw, sign(raw), source)

    assert (202, 200) == (first.status_code, again.status_code)
    assert first.json()["delivery"] == again.json()["delivery"]


async def test_two_events_with_the_same_body_are_two(door: Door, redis: Redis) -> None:
    raw = an_event("standard")

    answers = [door.post(raw, sign_standard(raw, id=id)) for id in ("msg_1", "msg_2")]

    assert [202, 202] == [answer.status_code for answer in answers]
    assert 2 == len({answer.json()["delivery"] for answer in answers})


async def test_an_unsigned_header_does_not_make_another_event_of_a_repeat(door: Door, redis: Redis) -> None:
    # Whoever recorded one delivery may add headers to it; what the signature does not cover must not count.
    raw = an_event("standard")
    headers = sign_standard(raw)
    door.post(raw, headers)

    again = door.post(raw, headers | {"svix-id": "msg_other"})

    assert again.status_code in (200, 401)
    assert 1 == await redis.command("ZCARD", "db:deliveries:standard")


async def test_the_svix_names_of_the_headers_mean_the_same(door: Door, redis: Redis) -> None:
    raw = an_event("standard")
    headers = {name.replace("webhook-", "svix-"): value for name, value in sign_standard(raw).items()}

    first, again = door.post(raw, headers), door.post(raw, headers)

    assert (202, 200) == (first.status_code, again.status_code)


@pytest.mark.parametrize("source", ["standard", "calendly"])
async def test_of_fifty_at_once_exactly_one_is_the_first(door: Door, redis: Redis, source: str) -> None:
    raw = an_event(source)
    headers = SIGN[source](raw)

    async with httpx.AsyncClient(base_url=door.server.url, timeout=20) as client:
        answers = await asyncio.gather(
            *(client.post(f"/hooks/{source}", content=raw, headers=headers) for _ in range(50))
        )

    assert [200] * 49 + [202] == sorted(answer.status_code for answer in answers)
    assert 1 == len({answer.json()["delivery"] for answer in answers})
    assert 49 == sum(answer.json().get("repeat") is True for answer in answers)
    assert (1, 1) == (await redis.command("ZCARD", "db:jobs"), await redis.command("ZCARD", "db:queued"))


async def test_a_repeat_of_what_failed_puts_it_back_to_work(door: Door, redis: Redis) -> None:
    raw, headers = b"[]", sign_standard(b"[]")
    first = door.post(raw, headers)

    again = door.post(raw, headers)

    assert (202, 200) == (first.status_code, again.status_code)
    assert [f"event:{first.json()['delivery']}".encode()] == await redis.command("ZRANGE", "db:queued", 0, -1)
    assert 0 == await redis.command("ZCARD", "db:parked")


@pytest.mark.parametrize("raw", [b'{"foo":"bar"}', b'{ "foo": "bar" }\n'], ids=repr)
async def test_housecall_pro_tries_the_address_unsigned_and_nothing_comes_of_it(
    door: Door, redis: Redis, raw: bytes
) -> None:
    answer = door.post(raw, {"content-type": "application/json"}, "housecallpro")

    assert 200 == answer.status_code
    assert set() == await kept(redis)


# -- 400 --

UNREADABLE = {
    "nothing": b"",
    "white space": b"  ",
    "not UTF-8": b'{"type":"\xff"}',
    "UTF-16": '{"type":"visit.created"}'.encode("utf-16"),
    "NaN": b'{"type":NaN}',
    "Infinity": b'{"type":-Infinity}',
    "1e400": b'{"type":1e400}',
    "10,000 deep": b"[" * 10_000 + b"]" * 10_000,
    "100,000 deep, objects": b'{"a":' * 40_000 + b"1" + b"}" * 40_000,
    "cut short": b'{"type":"visit.created"',
    "more after it": b"{} {}",
    "single quotes": b"{'type':'visit.created'}",
    "a comma too many": b'{"a":1,}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "a NUL in a text": b'{"a":"\x00"}',
}


@pytest.mark.parametrize("raw", UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_what_is_genuine_and_unreadable_is_refused_and_not_kept(door: Door, redis: Redis, raw: bytes) -> None:
    assert is_told(door.ring("standard", raw), 400)
    assert set() == await kept(redis)


@pytest.mark.parametrize(
    ("source", "raw"),
    [
        ("acuity", b""),
        ("acuity", b"action"),
        ("acuity", b"action=%ff&id=1"),
        ("acuity", b"action=\xff&id=1"),
        ("acuity", b"&".join(b"a%d=1" % n for n in range(1_000))),
        ("jobber", b""),
        ("jobber", b"{"),
        ("jobber", b"x"),
        ("square", b""),
        ("calendly", b"x"),
        ("housecallpro", b""),
    ],
    ids=lambda one: one[:20].decode("latin-1") if isinstance(one, bytes) else one,
)
async def test_no_tools_unreadable_body_is_kept(door: Door, redis: Redis, source: str, raw: bytes) -> None:
    assert is_told(door.ring(source, raw), 400)
    assert set() == await kept(redis)


# -- 401 --


def _without(name: str) -> Callable[[dict[str, Any], bytes], Any]:
    return lambda headers, raw: {key: value for key, value in headers.items() if key != name}


def _with(name: str, value: Any) -> Callable[[dict[str, Any], bytes], Any]:
    return lambda headers, raw: headers | {name: value(headers[name]) if callable(value) else value}


def _doubled(name: str) -> Callable[[dict[str, Any], bytes], Any]:
    return lambda headers, raw: [*headers.items(), (name, headers[name])]


def _signed_at(seconds: float) -> Callable[[dict[str, Any], bytes], Any]:
    return lambda headers, raw: sign_standard(raw, at=time.time() + seconds)


SIGNATURE = "webhook-signature"
FORGED: dict[str, Callable[[dict[str, Any], bytes], Any]] = {
    "no header at all": lambda headers, raw: {"content-type": "application/json"},
    "no signature": _without(SIGNATURE),
    "no id": _without("webhook-id"),
    "no time": _without("webhook-timestamp"),
    "an empty signature": _with(SIGNATURE, ""),
    "a version alone": _with(SIGNATURE, "v1,"),
    "another version": _with(SIGNATURE, lambda it: it.replace("v1,", "v2,")),
    "no version": _with(SIGNATURE, lambda it: it.removeprefix("v1,")),
    "made up": _with(SIGNATURE, "v1," + base64.b64encode(b"\0" * 32).decode()),
    "a bit less": _with(SIGNATURE, lambda it: it[:-2]),
    "a bit more": _with(SIGNATURE, lambda it: it + "A"),
    "half of it": _with(SIGNATURE, lambda it: it[:20]),
    "other letters' case": _with(SIGNATURE, lambda it: "v1," + it[3:].swapcase()),
    "not ASCII": _with(SIGNATURE, "v1,é😀".encode()),
    "a surrogate's bytes": _with(SIGNATURE, b"v1,\xed\xa0\x80"),
    "doubled signature": _doubled(SIGNATURE),
    "doubled id": _doubled("webhook-id"),
    "doubled time": _doubled("webhook-timestamp"),
    "another id": _with("webhook-id", "msg_other"),
    "an empty id": _with("webhook-id", ""),
    "another time": _with("webhook-timestamp", lambda it: str(int(it) - 1)),
    "a time that is no number": _with("webhook-timestamp", "nan"),
    "an infinite time": _with("webhook-timestamp", "inf"),
    "a time with a sign": _with("webhook-timestamp", lambda it: "+" + it),
    "a time before 1970": _with("webhook-timestamp", "-1"),
    "a time in foreign digits": _with("webhook-timestamp", "١٢٣٤٥٦٧٨٩٠".encode()),
    "a time of a thousand digits": _with("webhook-timestamp", "9" * 1_000),
    "too old": _signed_at(-310),
    "too new": _signed_at(310),
    "by a stranger": lambda headers, raw: sign_standard(raw, secret="whsec_" + base64.b64encode(b"x" * 24).decode()),
    "as Calendly signs": lambda headers, raw: sign_calendly(raw),
    "another body": lambda headers, raw: sign_standard(raw + b" "),
    "half of two families": lambda headers, raw: {
        "svix-signature": headers[SIGNATURE],
        **_without(SIGNATURE)(headers, raw),
    },
    "a thousand of them": _with(SIGNATURE, " ".join(["v1," + "A" * 43 + "="] * 1_000)),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED.keys())
async def test_what_is_not_truly_signed_is_refused_and_nothing_is_kept(
    door: Door, redis: Redis, forge: Callable[[dict[str, Any], bytes], Any]
) -> None:
    raw = an_event("standard")
    headers = forge(sign_standard(raw), raw)

    answer = door.http.post("/hooks/standard", content=raw, headers=headers)

    assert is_told(answer, 401)
    assert set() == await kept(redis)


async def test_a_signature_of_white_space_is_refused(door: Door, redis: Redis) -> None:
    raw = an_event("standard")
    signed = {name.replace("-", "_"): value for name, value in sign_standard(raw).items()} | {
        "webhook_signature": "   "
    }

    assert is_told(door.raw(request(body=raw, content_length=str(len(raw)), **signed)), 401)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("how", ["unsigned", "for another body", "of another length", "empty"])
async def test_no_tools_forged_delivery_is_believed(door: Door, redis: Redis, source: str, how: str) -> None:
    raw = an_event(source)
    headers = SIGN[source](raw + b" " if how == "for another body" else raw)
    signature = next(name for name in headers if "signature" in name or "hmac" in name)
    if how == "unsigned":
        del headers[signature]
    elif how != "for another body":
        headers[signature] = headers[signature][:-3] if how == "of another length" else ""

    assert is_told(door.post(raw, headers, source), 401)
    assert set() == await kept(redis)


@pytest.mark.parametrize(
    ("hook", "seconds", "status"),
    [
        ("standard", -290, 202),
        ("standard", 290, 202),
        ("calendly", -170, 202),
        ("calendly", -190, 401),  # Calendly's example allows three minutes
        ("calendly", 190, 401),
        ("housecallpro", -290, 202),
        ("housecallpro", -310, 401),
        ("housecallpro", 310, 401),
        ("shop", -20, 202),  # its TOLERANCE is 30
        ("shop", -40, 401),
        ("shop", 40, 401),
    ],
)
async def test_the_signed_time_may_differ_by_the_tolerance_both_ways(
    door: Door, redis: Redis, hook: str, seconds: float, status: int
) -> None:
    sign: Any = {"calendly": sign_calendly, "housecallpro": sign_housecallpro}.get(hook, sign_standard)
    raw = an_event("standard" if hook == "shop" else hook)

    assert status == door.post(raw, sign(raw, at=time.time() + seconds), hook).status_code


async def test_square_signs_the_public_address_and_not_the_one_that_was_called(door: Door, redis: Redis) -> None:
    raw = an_event("square")
    as_called = base64.b64encode(sha256_mac(KEYS["square"], f"{door.server.url}/hooks/square".encode() + raw))

    headers = {"x-square-hmacsha256-signature": as_called.decode(), "x-forwarded-host": "127.0.0.1"}

    assert is_told(door.post(raw, headers, "square"), 401)


async def test_square_signs_the_query_that_was_pasted_with_the_address(door: Door, redis: Redis) -> None:
    raw = an_event("square")
    pasted = sha256_mac(KEYS["square"], f"{PUBLIC_URL}/hooks/square?shop=1".encode() + raw)

    headers = {"x-square-hmacsha256-signature": base64.b64encode(pasted).decode()}

    assert is_told(door.post(raw, headers, "square?shop=2"), 401)
    assert is_told(door.post(raw, headers, "square"), 401)
    assert 202 == door.post(raw, headers, "square?shop=1").status_code


async def test_a_secret_of_one_hook_opens_no_other(door: Door, redis: Redis) -> None:
    raw = an_event("standard")

    assert is_told(door.post(raw, sign_standard(raw, secret=OLD_SECRET), "shop"), 401)


# -- 404, 405 --

NO_HOOKS = {
    "unknown": "/hooks/nobody",
    "without a secret": "/hooks/calcom",
    "none": "/hooks/",
    "no slash": "/hooks",
    "a slash at the end": "/hooks/standard/",
    "an encoded slash at the end": "/hooks/standard%2F",
    "something behind it": "/hooks/standard/x",
    "something encoded behind it": "/hooks/standard%2Fx",
    "in capitals": "/hooks/STANDARD",
    "doubled slash": "/hooks//standard",
    "doubled slash at first": "//hooks/standard",
    "a way up": "/hooks/x/../standard",
    "an encoded way up": "/hooks/%2e%2e/hooks/standard",
    "a blank": "/hooks/standard%20",
    "a line feed": "/hooks/standard%0a",
    "a NUL": "/hooks/standard%00",
    "not UTF-8": "/hooks/%ff%fe",
    "half an escape": "/hooks/%",
    "a parameter": "/hooks/standard;a=b",
    "10 kB": "/hooks/" + "a" * 10_000,
    "10 kB encoded": "/hooks/" + "%F0%9F%98%80" * 800,
    "a Python name": "/hooks/__class__",
}


@pytest.mark.parametrize("path", NO_HOOKS.values(), ids=NO_HOOKS.keys())
async def test_a_hook_that_does_not_exist_is_not_found_however_well_signed(door: Door, redis: Redis, path: str) -> None:
    raw = an_event("standard")
    headers = {name: value for name, value in sign_standard(raw).items() if name != "content-type"}

    answer = door.raw(request(path, body=raw, content_length=str(len(raw)), **headers))

    assert is_told(answer, 404)
    assert set() == await kept(redis)


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
@pytest.mark.parametrize("hook", ["standard", "calendly", "acuity"])
async def test_webhooks_are_posted_and_nothing_else(door: Door, redis: Redis, method: str, hook: str) -> None:
    answer = door.http.request(method, f"/hooks/{hook}")

    assert (405, "POST") == (answer.status_code, answer.headers["allow"])
    assert method == "HEAD" or is_told(answer, 405)
    assert set() == await kept(redis)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
async def test_no_method_finds_a_hook_that_does_not_exist(door: Door, method: str) -> None:
    assert [404, 404] == [door.http.request(method, path).status_code for path in ("/hooks/nobody", "/hooks/calcom")]


async def test_a_redirect_is_never_answered(door: Door) -> None:
    for path in ("/", "/hooks/standard/", "/healthz/", "/readyz/", "/metrics/"):
        answer = door.http.post(path, headers={"host": "evil.example"})

        assert not answer.is_redirect, path
        assert "evil.example" not in str(answer.headers) + answer.text


# -- 413 --


def padded(size: int) -> bytes:
    """A genuine event of so many bytes."""
    raw = standard_body("visit.created", "A-1", time_scheduled="2026-10-01T15:00:00Z")
    return raw + b" " * (size - len(raw))


def in_chunks(raw: bytes, size: int = 50_000) -> Iterator[bytes]:
    for start in range(0, len(raw), size):
        yield raw[start : start + size]


@pytest.mark.parametrize("is_chunked", [False, True], ids=["with Content-Length", "without"])
@pytest.mark.parametrize(("size", "status"), [(CAP, 202), (CAP + 1, 413), (2 * CAP, 413)])
async def test_a_body_is_taken_up_to_the_cap_and_not_a_byte_beyond(
    door: Door, redis: Redis, size: int, status: int, is_chunked: bool
) -> None:
    raw = padded(size)

    answer = door.post(in_chunks(raw) if is_chunked else raw, sign_standard(raw))

    assert status == answer.status_code
    assert status == 202 or is_told(answer, 413)
    assert (status == 202) == bool(await kept(redis))


async def test_a_claim_beyond_the_cap_is_refused_before_a_byte_of_it_came(door: Door) -> None:
    answer = door.raw(request(content_length=str(CAP + 1)))

    assert is_told(answer, 413)
    assert "close" == answer.headers["connection"]


def test_a_sender_that_listens_only_when_it_has_sent_all_hears_that_it_was_too_much(door: Door) -> None:
    # To close a connection on which unread bytes wait resets it, and most clients then never see the answer.
    heard = []
    for _ in range(3):
        with closing(http.client.HTTPConnection("127.0.0.1", door.server.port, timeout=10)) as client:
            try:
                client.request("POST", "/hooks/standard", body=b"a" * 10_000_000)
                heard.append(str(client.getresponse().status))
            except OSError as error:
                heard.append(repr(error))

    assert ["413"] * 3 == heard


@pytest.mark.parametrize("claim", ["-1", "+2", "0x2", "2x", "", "two", "2, 2", "9" * 18, "9" * 25, "1e3"])
async def test_a_claim_that_is_no_length_is_refused(door: Door, redis: Redis, claim: str) -> None:
    answer = door.raw(request(body=b"{}", content_length=claim))

    assert answer.status in (400, 413)
    assert set() == await kept(redis)


async def test_white_space_around_a_claim_is_no_part_of_it(door: Door) -> None:
    # RFC 9110, 5.5: optional white space around a field's value is not part of it.
    assert is_told(door.raw(request(body=b"{}", content_length=" 2 ")), 401)


@pytest.mark.parametrize("twice", ["content-length: 3", "transfer-encoding: chunked"])
async def test_two_claims_about_the_length_are_refused(door: Door, redis: Redis, twice: str) -> None:
    raw = an_event("standard")
    lines = "".join(f"{name}: {value}\r\n" for name, value in sign_standard(raw).items())
    head = f"POST /hooks/standard HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n{twice}\r\n{lines}\r\n"

    answer = door.raw(head.encode() + raw, hangs_up=True)

    assert 400 <= answer.status < 500
    assert set() == await kept(redis)


async def test_a_claim_of_less_than_was_sent_is_not_believed(door: Door, redis: Redis) -> None:
    raw = an_event("standard")
    signed = {name.replace("-", "_"): value for name, value in sign_standard(raw).items()}

    answer = door.raw(request(body=raw, content_length=str(len(raw) - 1), **signed))

    assert is_told(answer, 401)
    assert set() == await kept(redis)


@pytest.mark.parametrize(
    "chunks", [b"zz\r\n{}\r\n", b"-2\r\n{}\r\n", b"f" * 40 + b"\r\n{}", b"2\r\n{}XX0\r\n\r\n"], ids=repr
)
async def test_broken_chunks_are_refused(door: Door, redis: Redis, chunks: bytes) -> None:
    answer = door.raw(request(body=chunks, transfer_encoding="chunked"), hangs_up=True)

    assert 400 == answer.status
    assert set() == await kept(redis)


def test_what_follows_a_delivery_at_once_on_its_connection_is_answered_too(door: Door) -> None:
    raw = padded(CAP)

    def signed(how: str) -> bytes:
        lines = [*sign_standard(raw).items(), ("content-length", str(CAP)), ("connection", how), ("host", "x")]
        return b"POST /hooks/standard HTTP/1.1\r\n%s\r\n" % "".join(f"{a}: {b}\r\n" for a, b in lines).encode() + raw

    for _ in range(10):
        with closing(door.connect()) as connection:
            first, second = signed("keep-alive"), signed("close")
            connection.sendall(first + second[:50])
            door.http.get("/healthz")  # so that these 50 bytes were read with what stands before them
            answered = b""
            with suppress(OSError):
                connection.sendall(second[50:])
                while part := connection.recv(65_536):
                    answered += part

            assert 2 == answered.count(b"HTTP/1.1 202"), answered


# -- 415 --


@pytest.mark.parametrize(
    ("hook", "content_type", "is_taken"),
    [
        ("standard", None, True),
        ("standard", "", True),
        ("standard", "application/json", True),
        ("standard", "application/json; charset=utf-8", True),
        ("standard", 'Application/JSON;charset="UTF-8"', True),
        ("standard", "application/cloudevents+json", True),
        ("standard", "text/json", True),
        ("standard", "text/plain", False),
        ("standard", "application/xml", False),
        ("standard", "application/x-www-form-urlencoded", False),
        ("standard", "multipart/form-data; boundary=x", False),
        ("standard", "application/jsonp", False),
        ("standard", "text/html; application/json", False),
        ("acuity", "application/x-www-form-urlencoded; charset=utf-8", True),
        ("acuity", None, True),
        ("acuity", "application/json", False),
        ("acuity", "multipart/form-data; boundary=x", False),
        ("jobber", "application/json", True),
        ("jobber", "application/x-www-form-urlencoded", True),
        ("jobber", "text/plain", False),
    ],
)
async def test_a_body_that_calls_itself_something_else_is_refused(
    door: Door, redis: Redis, hook: str, content_type: str | None, is_taken: bool
) -> None:
    raw = an_event(hook)
    headers = SIGN[hook](raw)
    del headers["content-type"]

    answer = door.post(raw, headers | ({} if content_type is None else {"content-type": content_type}), hook)

    assert 202 == answer.status_code if is_taken else is_told(answer, 415)
    assert is_taken == bool(await kept(redis))


# -- slow, broken off, too many --


def begun(door: Door) -> socket.socket:
    """A connection on which a body has begun and does not go on."""
    connection = door.connect()
    connection.sendall(request(body=b"{", content_length="100"))
    return connection


async def test_a_sender_that_trickles_is_cut_off(impatient: Door, redis: Redis) -> None:
    connection = impatient.connect()
    connection.sendall(request(content_length="100000"))
    for _ in range(200):
        try:
            connection.sendall(b" ")
        except OSError:
            break
        connection.settimeout(0.05)
        with suppress(TimeoutError):
            if connection.recv(1, socket.MSG_PEEK):
                break
    connection.settimeout(5)

    answer = answer_on(connection)
    connection.close()

    assert is_told(answer, 408)
    assert "close" == answer.headers["connection"]
    assert set() == await kept(redis)


HALF_A_HEAD = b"POST /hooks/standard HTTP/1.1\r\nhost: x"
REFUSED_AT_ONCE = b"POST /hooks/nobody HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "then"),
    [
        pytest.param(b"", b"", id="nothing"),
        pytest.param(HALF_A_HEAD, b"", id="half a head"),
        pytest.param(REFUSED_AT_ONCE, b"", id="a head without its body"),
        pytest.param(REFUSED_AT_ONCE, b"{", id="half a body after the answer"),
        pytest.param(REFUSED_AT_ONCE, b"{}", id="a body after the answer"),
        pytest.param(REFUSED_AT_ONCE + b"{}", b"\r\n", id="an empty line"),
        pytest.param(REFUSED_AT_ONCE, b"{}" + HALF_A_HEAD, id="a body after the answer, and half a head"),
    ],
)
def test_who_says_no_more_is_hung_up_on(impatient: Door, first: bytes, then: bytes) -> None:
    with closing(impatient.connect()) as connection:
        connection.sendall(first)
        time.sleep(0.2)  # so that it is read, and answered where it can be
        connection.sendall(then)
        connection.settimeout(20)
        with suppress(ConnectionResetError):
            while connection.recv(65_536):
                pass


async def test_senders_that_leave_in_the_middle_cost_nothing(impatient: Door, redis: Redis) -> None:
    for _ in range(20):  # of whom four at once would fill the place
        begun(impatient).close()
    raw = an_event("standard")
    headers = sign_standard(raw)

    answer = wait_until(lambda: (got := impatient.post(raw, headers)).status_code != 503 and got)

    assert 202 == answer.status_code
    assert 1 == await redis.command("ZCARD", "db:deliveries:standard")


async def test_who_sends_nothing_takes_no_place_from_who_does(impatient: Door, redis: Redis) -> None:
    raw = an_event("standard")
    head, _, body = request(
        body=raw,
        content_length=str(len(raw)),
        **{name.replace("-", "_"): value for name, value in sign_standard(raw).items()},
    ).partition(b"\r\n\r\n")
    slow = [begun(impatient) for _ in range(8)]

    with closing(impatient.connect()) as connection:
        connection.sendall(head + b"\r\n\r\n")
        impatient.http.get("/healthz")
        connection.sendall(body)
        answer = answer_on(connection)
    first = answer_on(slow[0])
    for connection in slow:
        connection.close()

    assert 202 == answer.status
    assert is_told(first, 408)


async def test_more_than_may_wait_for_redis_at_once_are_asked_to_come_back(impatient: Door, redis: Redis) -> None:
    events = [an_event("standard") for _ in range(6)]
    await redis.command("CLIENT", "PAUSE", 800, "WRITE")

    with ThreadPoolExecutor(6) as crowd:
        told = list(crowd.map(lambda raw: impatient.post(raw, sign_standard(raw)), events))
    refused = [answer for answer in told if answer.status_code != 202]

    assert 2 == len(told) - len(refused)
    assert all(is_told(answer, 503) for answer in refused)
    assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)


async def test_a_deploy_ends_only_after_what_was_begun_is_written(redis_url: str, redis: Redis) -> None:
    raw = an_event("standard")
    signed = {name.replace("-", "_"): value for name, value in sign_standard(raw).items()}
    with web(redis_url) as door, closing(door.connect()) as connection:
        connection.sendall(request(body=raw[:10], content_length=str(len(raw)), **signed))
        for _ in range(3):  # what is answered now was read after what was sent before
            door.http.get("/healthz")
        door.server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not _is_listening(door.server.port))
        connection.sendall(raw[10:])
        answer = answer_on(connection)
        status = door.server.process.wait(10)

    assert 202 == answer.status
    assert status in (0, -signal.SIGTERM)
    assert await redis.command("EXISTS", f"db:delivery:{json.loads(answer.body)['delivery']}")


def _is_listening(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


# -- what an attack costs --


async def test_before_a_signature_holds_redis_is_not_asked(door: Door, redis: Redis) -> None:
    async def commands() -> int:
        info = await redis.command("INFO", "stats")
        return int(re.findall(rb"total_commands_processed:(\d+)", info)[0])

    before = await commands()
    for _ in range(500):
        door.post(b"{}", {})
    asked = await commands() - before

    assert asked < 250  # the look itself, and a flush of what this and other tests were refused


def test_two_hundred_senders_of_ten_megabytes_each_do_not_fill_the_memory(door: Door) -> None:
    chunk = b"%x\r\n" % 65_536 + b"a" * 65_536 + b"\r\n"
    before = door.memory_kb()

    def flood(_: int) -> int:
        with closing(door.connect()) as connection:
            with suppress(OSError):  # it may be cut off while it still sends
                connection.sendall(request(transfer_encoding="chunked"))
                for _ in range(160):  # 10 MB
                    connection.sendall(chunk)
            return answer_on(connection).status

    with ThreadPoolExecutor(20) as crowd:
        answers = set(crowd.map(flood, range(200)))

    assert answers <= {413, 0}, answers
    assert door.memory_kb() - before < 40_000
    assert 202 == door.ring("standard").status_code


def test_who_reads_no_answers_is_not_read_either_and_gets_them_all_in_the_end(door: Door) -> None:
    asked = (b"POST /hooks/standard HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n" + b"a" * 1_000) * 200
    before, sent, answers = door.memory_kb("VmRSS"), 0, bytearray()

    with closing(door.connect()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 131_072)
        connection.settimeout(1)
        with suppress(TimeoutError):
            while sent < 500:
                connection.sendall(asked)
                sent += 1
        grown = door.memory_kb("VmRSS") - before
        connection.settimeout(20)
        while answers.count(b"HTTP/1.1 401") < sent * 200:
            answers += connection.recv(1 << 20)

    assert sent < 500
    assert grown < 40_000
    assert 202 == door.ring("standard").status_code


@pytest.mark.parametrize("path", ["/hooks/standard", "/nowhere"])
def test_what_arrived_is_not_kept_while_its_connection_stays_open(door: Door, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nx-long: {'a' * 30_000}\r\ncontent-length: 60000\r\n\r\n".encode()
    before = door.memory_kb("VmRSS")

    with ExitStack() as connected:
        for _ in range(300):
            connection = connected.enter_context(closing(door.connect()))
            connection.sendall(head + b"a" * 60_000)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 40")
        assert door.memory_kb("VmRSS") - before < 12_000


def test_nothing_is_kept_of_a_connection_that_was_reset(door: Door) -> None:
    asked = b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-long: " + b"a" * 57_000 + b"\r\n\r\n"
    before = door.memory_kb("VmRSS")

    for _ in range(500):
        with closing(door.connect()) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(asked)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")

    assert door.memory_kb("VmRSS") - before < 12_000


def test_who_sends_thousands_of_requests_ahead_is_hung_up_on(door: Door) -> None:
    with closing(door.connect()) as connection:
        connection.settimeout(20)
        with suppress(OSError):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n" * 20_000)
        answers = bytearray()
        with suppress(OSError):
            while part := connection.recv(1 << 20):
                answers += part

    assert answers.count(b"HTTP/1.1 200") < 20_000
    assert 202 == door.ring("standard").status_code


@pytest.mark.parametrize("where", ["one header", "many headers", "the address", "trailers"])
async def test_a_head_without_end_does_not_fill_the_memory(door: Door, where: str) -> None:
    start = {
        "one header": b"POST /hooks/standard HTTP/1.1\r\nx-long: ",
        "many headers": b"POST /hooks/standard HTTP/1.1\r\n",
        "the address": b"POST /hooks/",
        "trailers": request(transfer_encoding="chunked") + b"2\r\n{}\r\n0\r\n",  # headers again, behind the body
    }
    part = b"x-a: %s\r\n" % (b"a" * 100) * 1_000 if where in ("many headers", "trailers") else b"a" * 100_000
    before = door.memory_kb()

    with closing(door.connect()) as connection, suppress(OSError):
        connection.sendall(start[where])
        for _ in range(320):  # 32 MB
            connection.sendall(part)

    assert door.memory_kb() - before < 8_000


# -- trouble with Redis --

PASSWORD = "redis-canary-password"


class OwnRedis:
    """A Valkey of this module's own, to be stopped, killed, filled and locked."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, valkey.free_port()
        self.url = f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        self.process = valkey.start(self.port, self.folder, appendfsync="always")
        self.ask("CONFIG", "SET", "requirepass", PASSWORD)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def ask(self, *command: str) -> Any:
        async def ask() -> Any:
            for url in (self.url, self.url.replace(f":{PASSWORD}@", "")):
                redis = Redis(RedisAddress(url))
                with suppress(RedisUnavailable):
                    try:
                        return await redis.command(*command)
                    finally:
                        await redis.close()
            raise RedisUnavailable("no way in")

        with ThreadPoolExecutor(1) as apart:  # from any running loop
            return apart.submit(asyncio.run, ask()).result()

    def keys(self) -> set[bytes]:
        """Of what is accepted: what doors count, they write now and then."""
        counted = (b"db:refused", b"db:counts", b"db:hour:", b"db:matched:", b"db:request:")
        return {key for key in self.ask("KEYS", "*") if not key.startswith(counted)}


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnRedis]:
    own = OwnRedis(tmp_path_factory.mktemp("redis"))
    try:
        yield own
    finally:
        own.kill()


@pytest.fixture(scope="module")
def shaky(own_redis: OwnRedis) -> Iterator[Door]:
    with web(own_redis.url) as door:
        yield door


def _restart(own: OwnRedis) -> None:
    own.start()


TROUBLES: dict[str, tuple[Callable[[OwnRedis], Any], Callable[[OwnRedis], Any]]] = {
    "stopped": (
        lambda own: own.process.send_signal(signal.SIGSTOP),
        lambda own: own.process.send_signal(signal.SIGCONT),
    ),
    "killed": (OwnRedis.kill, _restart),
    "read-only": (lambda own: own.ask("REPLICAOF", "127.0.0.1", "1"), lambda own: own.ask("REPLICAOF", "NO", "ONE")),
    "full": (
        lambda own: own.ask("CONFIG", "SET", "maxmemory", "1"),
        lambda own: own.ask("CONFIG", "SET", "maxmemory", "0"),
    ),
    "without its replicas": (
        lambda own: own.ask("CONFIG", "SET", "min-replicas-to-write", "1"),
        lambda own: own.ask("CONFIG", "SET", "min-replicas-to-write", "0"),
    ),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_while_redis_cannot_write_every_tool_is_asked_to_come_back_and_nothing_is_lost(
    shaky: Door, own_redis: OwnRedis, trouble: str
) -> None:
    begin, end = TROUBLES[trouble]
    deliveries = {source: (raw := an_event(source), SIGN[source](raw)) for source in SOURCES}

    def ring(source: str) -> tuple[httpx.Response, float]:
        started = time.monotonic()
        return shaky.post(*deliveries[source], source), time.monotonic() - started

    assert 202 == wait_until(lambda: (got := shaky.ring("standard").status_code) == 202 and got)
    before = own_redis.keys()

    begin(own_redis)
    try:
        with ThreadPoolExecutor(len(SOURCES)) as crowd:
            refused = dict(zip(SOURCES, crowd.map(ring, SOURCES), strict=True))
    finally:
        end(own_redis)

    for source, (answer, took_s) in refused.items():
        assert is_told(answer, 503), source
        assert 0 < int(answer.headers["retry-after"]) <= 60
        assert took_s < 10, source  # so long Calendly and Square wait, and more
    if trouble == "stopped":  # Jobber waits for one second: it must not have the same 3 s as the others
        assert refused["jobber"][1] < min(took_s for source, (_, took_s) in refused.items() if source != "jobber")
    if trouble != "stopped":  # a stopped one may have read them already, and writes them whole when it goes on
        assert before == own_redis.keys()
    for source in SOURCES:
        answer = wait_until(lambda source=source: (got := ring(source)[0]).status_code != 503 and got)
        assert answer.status_code in ((200, 202) if trouble == "stopped" else (202,)), (source, answer.text)
    assert before < own_redis.keys()
    new = own_redis.keys() - before
    assert 6 == len([key for key in new if key.startswith(b"db:delivery:")])
    assert 6 == len([key for key in new if key.startswith(b"db:seen:")])
    assert {b"1"} == {
        own_redis.ask("HGET", key.decode(), "n") for key in new if key.startswith((b"db:visit:", b"db:event:"))
    }
    assert 6 == len([key for key in new if key.startswith(b"arq:job:")])


def test_an_event_whose_writing_broke_off_is_no_repeat_when_it_rings_again(shaky: Door, own_redis: OwnRedis) -> None:
    # A script that fails in the middle is not undone by Redis. Here it may not use one of its commands any more.
    raw = an_event("standard")
    headers = sign_standard(raw)
    own_redis.ask("ACL", "SETUSER", "default", "-zadd")
    try:
        refused = shaky.post(raw, headers)
    finally:
        own_redis.ask("ACL", "SETUSER", "default", "+zadd")

    again = shaky.post(raw, headers)

    assert is_told(refused, 503)
    assert (202, 1) == (again.status_code, again.json().get("changes")), again.text


def test_readiness_tells_of_redis_and_health_does_not(shaky: Door, own_redis: OwnRedis) -> None:
    assert [200, 200] == [shaky.http.get(path).status_code for path in ("/healthz", "/readyz")]
    own_redis.kill()
    try:
        during = [
            shaky.http.request(method, path).status_code
            for path in ("/healthz", "/readyz")
            for method in ("GET", "HEAD")
        ]
    finally:
        own_redis.start()

    assert [200, 200, 503, 503] == during
    assert 200 == wait_until(lambda: (got := shaky.http.get("/readyz").status_code) == 200 and got)


def test_refusals_during_trouble_are_counted_after_it(own_redis: OwnRedis) -> None:
    counted = ("HGET", "db:refused", "standard:signature_missing")
    with web(own_redis.url, "-c", IMPATIENT) as door:
        own_redis.kill()
        try:
            statuses = [door.post(b"{}", {}).status_code for _ in range(7)]
            time.sleep(0.2)  # some flushes go wrong
        finally:
            own_redis.start()
        count = wait_until(lambda: own_redis.ask(*counted))

    assert [401] * 7 == statuses
    assert b"7" == count


def test_with_ack_fsync_a_delivery_is_accepted_once(own_redis: OwnRedis) -> None:
    raw = an_event("standard")
    headers = sign_standard(raw)
    with web(own_redis.url, ACK="fsync") as door:
        answers = [door.post(raw, headers) for _ in range(2)]
        with ThreadPoolExecutor(10) as crowd:
            more = list(crowd.map(lambda _: door.ring("standard").status_code, range(30)))

    assert [202, 200] == [answer.status_code for answer in answers]
    assert [202] * 30 == more


def test_with_ack_fsync_a_redis_without_a_disk_still_accepts_a_first_delivery() -> None:
    with valkey.valkey(appendonly=False) as url, web(url, ACK="fsync") as door:
        answer = door.ring("standard")

    assert 202 == answer.status_code, answer.text


async def test_refusals_leave_bounded_notes_that_quote_nothing(own_redis: OwnRedis) -> None:
    url = own_redis.url.removesuffix("0") + "7"  # where no other process flushes what it refused
    redis = Redis(RedisAddress(url))
    with web(url, "-c", IMPATIENT) as door:
        for n in range(130):
            headers = {"webhook-id": f"canary-{n}", "webhook-timestamp": "1", "webhook-signature": f"v1,canary{n}"}
            door.post(b'{"email":"canary@example.com"}', headers)
            door.post(b"canary", {}, f"canary-{n}@example.com")
        counts = await _flushed(redis, 260)
    notes = {key: await redis.command("LRANGE", key, 0, -1) for key in await redis.command("KEYS", "db:refused:*")}
    left = await kept(redis)
    await redis.close()

    assert set() == left
    assert [130, 130] == list(counts.values())
    assert 2 == len(notes)
    assert all(50 <= len(lines) <= 100 for lines in notes.values())  # 50, and 50 more until they are cut off
    assert "canary" not in repr(notes) + repr(counts)


async def _flushed(redis: Redis, total: int) -> dict[str, int]:
    for _ in range(1_500):
        flat = await redis.command("HGETALL", "db:refused")
        counts = {name.decode(): int(count) for name, count in zip(flat[::2], flat[1::2], strict=True)}
        if sum(counts.values()) >= total:
            break
        await asyncio.sleep(0.02)
    assert total == sum(counts.values())
    return counts


def test_no_trouble_told_of_is_told_with_the_password(shaky: Door, own_redis: OwnRedis) -> None:
    own_redis.kill()
    try:
        shaky.ring("standard")
        shaky.http.get("/readyz")
    finally:
        own_redis.start()

    assert "redis_unavailable" in shaky.log
    assert PASSWORD not in shaky.log


# -- health, metrics --


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_health_is_told_to_everybody_and_nothing_else_is(door: Door, path: str, method: str) -> None:
    answer = door.http.request(method, path)

    assert 200 == answer.status_code
    assert method == "HEAD" or {"status": "ok"} == answer.json()


def test_metrics_do_not_exist_without_a_token(impatient: Door) -> None:
    for headers in ({}, {"authorization": "Bearer"}, {"authorization": "Bearer None"}):
        assert is_told(impatient.http.get("/metrics", headers=headers), 404)


@pytest.mark.parametrize(
    "authorization",
    [
        b"",
        b"Bearer",
        b"Bearer x",
        METRICS_TOKEN.encode(),
        b"Basic " + METRICS_TOKEN.encode(),
        b"Bearer \xff\xfe",
    ],
    ids=repr,
)
def test_metrics_are_for_who_has_the_token(door: Door, authorization: bytes) -> None:
    answer = door.http.get("/metrics", headers={"authorization": authorization})  # type: ignore[dict-item]

    assert is_told(answer, 401)
    assert METRICS_TOKEN not in answer.text


async def test_metrics_count_what_stands_in_the_ledger(door: Door, redis: Redis) -> None:
    door.ring("standard")
    door.ring("standard", b"[]")

    answer = door.http.get("/metrics", headers={"authorization": f"Bearer {METRICS_TOKEN}"})

    assert (200, "text/plain") == (answer.status_code, answer.headers["content-type"].partition(";")[0])
    [jobs] = [family for family in text_string_to_metric_families(answer.text) if family.name == "doorbell_tasks"]
    by_state = {sample.labels["state"]: sample.value for sample in jobs.samples}
    assert {"queued": 1, "parked": 1}.items() <= by_state.items()


# -- nobody's name in a log --

CANARIES = ("canary", "zebediah", "0177777")
PERSON = {
    "id": "cont_Canary",
    "email": "zebediah@canary.example",
    "first_name": "Zebediah",
    "last_name": "Canary",
    "phone": "+15550177777",
}


async def test_nothing_of_a_delivery_is_in_the_log(door: Door, redis: Redis) -> None:
    before = len(door.log)
    good = standard_body("visit.created", "canary-1", time_scheduled="2026-10-01T15:00:00Z", contact=PERSON)
    bodies = [
        good,
        good,
        standard_body("visit.canary", "A", contact=PERSON),
        standard_body("visit.created", "A", contact={"email": ["zebediah@canary.example"]}),
        standard_body("visit.created", "A", time_scheduled="zebediah@canary.example"),
        standard_body("visit.created", "A", amount_collected="canary"),
        json.dumps({"canary": PERSON, "type": PERSON}).encode(),
        b'{"email":"zebediah@canary.example"',
        b"zebediah@canary.example",
        b"\xffcanary",
        b"canary" * 100_000,
    ]

    for raw in bodies:
        door.post(raw, sign_standard(raw))
        door.post(raw, {"webhook-signature": "v1,canary", "webhook-id": "canary", "webhook-timestamp": "canary"})
        door.post(raw, {"authorization": "Bearer canary", "cookie": "canary", "x-request-id": "canary-zebediah"})
        door.post(raw, {"content-type": "text/canary", "user-agent": "canary"})
    for source in SOURCES[1:]:
        raw = json.dumps({"event": "canary", "type": "canary", "payload": PERSON}).encode()
        door.ring(source, raw if source != "acuity" else b"action=canary&email=zebediah%40canary.example")
    for path in (
        "/hooks/zebediah@canary.example",
        "/hooks/%0acanary",
        "/canary",
        "/hooks/standard?email=zebediah@canary",
    ):
        door.raw(request(path, body=b"canary", content_length="6"))
        door.http.get(path.replace("%0a", ""))
    door.raw(b"canary zebediah\r\n\r\n")
    door.raw(b"POST /hooks/standard HTTP/1.1\r\ncanary\xff: zebediah\r\n\r\n")
    door.http.get("/metrics", headers={"authorization": "Bearer canary"})

    said = door.log[before:]
    assert "webhook_handled" in said
    assert [] == [line for line in said.splitlines() if any(name in line.lower() for name in CANARIES)]


def test_no_secret_is_in_the_log(door: Door) -> None:
    for secret in (SECRET, OLD_SECRET, CALENDLY_SECRET, *KEYS.values(), METRICS_TOKEN, "visits-canary-token"):
        assert secret not in door.log
        assert secret.removeprefix("whsec_") not in door.log


def test_every_line_of_the_log_is_one_fact_in_json(door: Door) -> None:
    door.post(b"{}", {})
    door.raw(request("/hooks/%0a%0d%22", body=b"", content_length="0"))

    for line in door.log.splitlines():
        assert {"ts", "level", "event"} <= set(json.loads(line))
