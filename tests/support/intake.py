"""A web process, raw connections to it, and signed deliveries of several sources."""

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
from collections.abc import Callable, Iterable, Iterator, Mapping
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
    http_client,
    sign_calendly,
    sign_standard,
    standard_body,
)

OLD_SECRET = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

PUBLIC_URL = "https://doorbell.example.com"

KEYS = {"housecallpro": "hcp-secret", "acuity": "acuity-api-key", "square": "square-key", "jobber": "jobber-secret"}

METRICS_TOKEN = "metrics-canary-token"

MAX_BODY = 262_144


HOOKS = {
    "HOOKS__STANDARD__SECRETS": f"{SECRET} {OLD_SECRET}",
    "HOOKS__CALENDLY__SECRETS": CALENDLY_SECRET,
    "HOOKS__SHOP__SOURCE": "standard",
    "HOOKS__SHOP__SECRETS": SECRET,
    "HOOKS__SHOP__TOLERANCE": "30",
    "HOOKS__CALCOM__TIMEZONE": "America/New_York",  # configured without a secret
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


def _base64_signer(header: str, key: str, content_type: str, prefix: str = "") -> Callable[[bytes], dict[str, str]]:
    def sign(raw: bytes) -> dict[str, str]:
        signature = base64.b64encode(sha256_mac(key, prefix.encode() + raw)).decode()
        return {"content-type": content_type, header: signature}

    return sign


SIGN: dict[str, Callable[[bytes], dict[str, str]]] = {
    "standard": sign_standard,
    "calendly": sign_calendly,
    "housecallpro": sign_housecallpro,
    "acuity": _base64_signer("x-acuity-signature", KEYS["acuity"], "application/x-www-form-urlencoded"),
    "square": _base64_signer(
        "x-square-hmacsha256-signature", KEYS["square"], "application/json", f"{PUBLIC_URL}/hooks/square"
    ),
    "jobber": _base64_signer("x-jobber-hmac-sha256", KEYS["jobber"], "application/json"),
}

SOURCES = list(SIGN)


def new_event_body(source: str) -> bytes:
    """Return a valid body about a visit, with a new id in each call."""
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
class RawResponse:
    """The response to raw bytes. status 0: there was none."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class WebProcess:
    """A web process, and clients for it."""

    def __init__(self, server: Server) -> None:
        self.server, self.http = server, http_client(base_url=server.url)

    def post(self, raw: Any, headers: Mapping[str, Any], hook: str = "standard") -> httpx.Response:
        return self.http.post(f"/hooks/{hook}", content=raw, headers=dict(headers))

    def send(self, source: str, raw: bytes | None = None, **more: str) -> httpx.Response:
        """Send a signed delivery. raw: a new event by default."""
        raw = new_event_body(source) if raw is None else raw
        return self.post(raw, SIGN[source](raw) | more, source)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.server.port), 10)

    def send_bytes(self, request: bytes, *, method: str = "POST", half_closes: bool = False) -> RawResponse:
        """Send these bytes and return the response. half_closes: close the sending side after them."""
        with closing(self.connect()) as connection:
            with suppress(OSError):
                connection.sendall(request)
                if half_closes:
                    connection.shutdown(socket.SHUT_WR)
            return read_response(connection, method)

    def memory_kb(self, field: str = "VmHWM") -> int:
        status = Path(f"/proc/{self.server.process.pid}/status").read_text()
        return int(re.findall(rf"{field}:\s+(\d+)", status)[0])

    @property
    def log(self) -> str:
        return self.server.log.read_text()


def read_response(connection: socket.socket, method: str = "POST") -> RawResponse:
    response = http.client.HTTPResponse(connection, method=method)
    try:
        response.begin()
        return RawResponse(
            response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        )
    except (OSError, http.client.HTTPException):
        return RawResponse(0, {}, b"")


def request(path: str = "/hooks/standard", method: str = "POST", body: bytes = b"", **headers: str) -> bytes:
    """Return the bytes of a request. Underscores in header names become hyphens."""
    lines = [f"{method} {path} HTTP/1.1", "host: doorbell", "connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def signed_headers(raw: bytes, **more: str) -> dict[str, str]:
    """Return the headers of a signed `standard` delivery as arguments of `request`."""
    return {name.replace("-", "_"): value for name, value in (sign_standard(raw) | more).items()}


UVICORN = ["-m", "uvicorn", "app.main:app", "--http", "app.intake.http_protocol:HttpProtocol", "--no-access-log"]


#: A web process with short timeouts, so that tests of timeouts are fast.
SHORT_TIMEOUTS = """
import sys, uvicorn
from app.intake import endpoint, http_protocol, request_body
from app.telemetry import rejections
request_body.BODY_TIMEOUT_S, request_body.MAX_OPEN_BODIES, endpoint.MAX_IN_FLIGHT, rejections.FLUSH_EVERY_S = 0.8, 4, 2, 0.05
http_protocol.HEAD_TIMEOUT_S, options = 0.8, {"access_log": False, "timeout_keep_alive": 1}
uvicorn.run("app.main:app", port=int(sys.argv[2]), http="app.intake.http_protocol:HttpProtocol", **options)
"""


@contextmanager
def start_web(redis_url: str, *python: str, **env: str) -> Iterator[WebProcess]:
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("HOOKS__", "RETRY_", "VISITS_"))
    }
    port = valkey.free_port()
    arguments = [sys.executable, *(python or UVICORN), "--port", str(port)]
    with Server(arguments, port, "/healthz", {**inherited, **HOOKS, "REDIS_URL": redis_url, **env}) as server:
        web = WebProcess(server)
        with web.http:
            yield web


async def stored_keys(redis: Redis) -> set[bytes]:
    """Return every key except the counters, which are written periodically, and notes for operators.

    A web process that starts for a file of tests may see that an operator listened in a test of the previous file.
    """
    return without_counters(await redis.command("KEYS", "*"))


def without_counters(keys: Iterable[bytes]) -> set[bytes]:
    counters = ("rejections", "hourly:", "secret-used:", "index", "metrics", "counted:", "arrivals:")
    return {key for key in keys if not key.startswith(tuple(f"bell:{name}".encode() for name in counters))}


def is_error_response(response: httpx.Response | RawResponse, status: int) -> bool:
    """Return True if the response has the status and the JSON of an error; else fail."""
    raw = response.content if isinstance(response, httpx.Response) else response.body
    actual = response.status_code if isinstance(response, httpx.Response) else response.status
    assert status == actual, (actual, raw[:200], getattr(response, "headers", ""))
    assert "application/json" == response.headers["content-type"]
    body = json.loads(raw)
    assert {"error", "detail"} == set(body), body
    assert re.fullmatch("[a-z_]+", body["error"])
    assert body["detail"]
    assert isinstance(body["detail"], str)
    return True


QUEUE_KEYS = ("bell:queue:visits", "bell:queue:events")


def padded_body(size: int) -> bytes:
    """Return a valid event padded with spaces to `size` bytes."""
    raw = standard_body("visit.created", "A-1", time_scheduled="2026-10-01T15:00:00Z")
    return raw + b" " * (size - len(raw))


def start_body(web: WebProcess) -> socket.socket:
    """Open a connection, send the first byte of a body, and leave it unfinished."""
    connection = web.connect()
    connection.sendall(request(body=b"{", content_length="100"))
    return connection
