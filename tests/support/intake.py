"""A web process, raw connections to it, and genuine deliveries of several sources."""

import base64
import hashlib
import hmac
import http.client
import json
import os
import re
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from app.demo import valkey
from app.ledger.redis import Redis
from tests.support.harness import (
    CALENDLY_SECRET,
    SECRET,
    Server,
    sign_calendly,
    sign_standard,
    standard_body,
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


UVICORN = ["-m", "uvicorn", "app.main:app", "--http", "app.intake.http_protocol:HttpProtocol", "--no-access-log"]


#: The same with less patience, so that what needs patience is seen in a moment.
IMPATIENT = """
import sys, uvicorn
from app.intake import endpoint, http_protocol, request_body
from app.telemetry import rejections
request_body.BODY_TIMEOUT_S, request_body.MAX_OPEN_BODIES, endpoint.MAX_IN_FLIGHT, rejections.FLUSH_EVERY_S = 0.8, 4, 2, 0.05
http_protocol.HEAD_TIMEOUT_S, how = 0.8, {"access_log": False, "timeout_keep_alive": 1}
uvicorn.run("app.main:app", port=int(sys.argv[2]), http="app.intake.http_protocol:HttpProtocol", **how)
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


async def kept(redis: Redis) -> set[bytes]:
    """Every key but what is counted for people, now and then."""
    counted = (b"bell:rejections", b"bell:hourly:", b"bell:secret-used:", b"bell:request-index:", b"bell:metrics")
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


LANES = ("bell:queue:visits", "bell:queue:events")


def padded(size: int) -> bytes:
    """A genuine event of so many bytes."""
    raw = standard_body("visit.created", "A-1", time_scheduled="2026-10-01T15:00:00Z")
    return raw + b" " * (size - len(raw))


def begun(door: Door) -> socket.socket:
    """A connection on which a body has begun and does not go on."""
    connection = door.connect()
    connection.sendall(request(body=b"{", content_length="100"))
    return connection
