"""The fast path gives the responses, stores the keys and writes the log lines of the plain path."""

import gzip
import itertools
import json
import re
import socket
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

from app.ledger.redis import Redis
from app.webhooks.registry import load_sources
from tests.support.harness import sign_calendly, sign_standard, standard_body, wait_until
from tests.support.intake import MAX_BODY, WebProcess, start_web, stored_keys
from tests.support.specimens import BY_TOOL, Specimen

#: How many requests arrive together.
CONNECTIONS = 24
#: A web process that logs each request that takes the plain path.
COUNTING = """
import sys, uvicorn
from app.intake.endpoint import WebhookEndpoint
from app.telemetry.logs import log
plain = WebhookEndpoint.__call__
async def counted(self, scope, receive, send):
    log.info("plain_path")
    await plain(self, scope, receive, send)
WebhookEndpoint.__call__ = counted
uvicorn.run("app.main:app", port=int(sys.argv[2]), http="app.intake.http_protocol:HttpProtocol", access_log=False)
"""
PLAIN_LINE = '{"event": "plain_path", "level": "info"}'
STANDARD_EVENTS = 400


class Result(NamedTuple):
    responses: list[tuple[Any, ...]]
    keys: set[str]
    log: Counter[str]
    plain_count: int


def hooks() -> dict[str, str]:
    """Return the settings of a hook for each tool, which verifies all specimens of the tool."""
    settings = {"SECRET_KEY": "a-key-for-all-specimens-of-the-test", "PUBLIC_URL": "https://hooks.example.com"}
    for name, specimens in BY_TOOL.items():
        prefix = f"HOOKS__{name.upper()}__"
        definition = specimens[0].tool.definition
        settings |= {f"{prefix}CREDENTIALS__{credential}": "x-for-tests" for credential in definition.credential_names}
        secrets = dict.fromkeys(specimen.secret for specimen in specimens if specimen.secret)
        settings |= {
            f"{prefix}SECRETS": " ".join(secrets),
            f"{prefix}TOLERANCE": "9000000000",
            f"{prefix}API_URL": "http://127.0.0.1:1",
            f"{prefix}TIMEZONE": "America/New_York",
            f"{prefix}TENANTS": next((s.setting("tenants") for s in specimens if s.setting("tenants")), ""),
        }
    return {name: value for name, value in settings.items() if value}


def encode(method: str, path: str, body: bytes, headers: list[tuple[str, str]]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: doorbell", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers), "", ""]).encode("latin-1") + body


def of_specimen(specimen: Specimen) -> Iterator[bytes]:
    """Yield the specimen as it was recorded, and wrong in several ways."""
    delivery = specimen.delivery
    headers = [(name.decode(), value.decode("latin-1")) for name, value in delivery.headers]
    path = f"/hooks/{specimen.tool.name}" + (f"/{delivery.token}" if delivery.token else "")
    path += f"?{delivery.query.decode()}" if delivery.query else ""
    body = b"" if delivery.method == "GET" else delivery.body
    yield encode(delivery.method, path, body, headers)
    yield encode("POST", path, body + b" ", headers)
    yield encode("POST", path, body, [*headers, ("content-type", "text/html")])
    yield encode("POST", path, body, [*headers, ("x-request-id", "5f2b8a80-0000-4000-8000-000000000001")])
    yield encode("POST", path, gzip.compress(body, mtime=0), [*headers, ("content-encoding", "gzip")])
    yield encode("PUT", path, body, headers)
    for position in range(len(headers)):
        yield encode("POST", path, body, headers[:position] + headers[position + 1 :])


def standard_deliveries() -> Iterator[bytes]:
    kinds = ["visit.created", "visit.updated", "visit.completed", "visit.cancelled", "other"]
    for number, kind in zip(range(STANDARD_EVENTS), itertools.cycle(kinds), strict=False):
        body = standard_body(kind, f"A-{number // 7}", time_scheduled=f"2027-10-{number % 28 + 1:02}T15:00:00Z")
        trace = {"traceparent": f"00-{number + 1:032x}-{number + 1:016x}-01", "x-request-id": f"request-{number}"}
        headers = sign_standard(body, id=f"msg_{number}", at=1_790_000_000) | (trace if number % 3 else {})
        yield encode("POST", "/hooks/standard", body, [*headers.items()])


def odd_requests() -> Iterator[bytes]:
    bodies = [
        b"",
        b"{",
        b"[1]",
        b"null",
        b'{"type": "visit.created"}',
        b'{"type": 5}',
        b"\xff",
        b"{}" + b" " * MAX_BODY,
    ]
    for number, body in enumerate(bodies):
        headers = sign_standard(body, id=f"odd_{number}", at=1_790_000_000)
        yield encode("POST", "/hooks/standard", body, [*headers.items()])
        yield encode("POST", "/hooks/calendly", body, [*sign_calendly(body, at=1_790_000_000).items()])
    for path in (
        "/hooks/",
        "/hooks/nobody",
        "/hooks/standard/",
        "/hooks/standard/token",
        "/hooks",
        "/console/login",
        "/%00",
    ):
        yield encode("POST", path, b"{}", [])


def corpus() -> list[bytes]:
    """Return all requests."""
    by_specimen = [of_specimen(specimen) for specimens in BY_TOOL.values() for specimen in specimens]
    requests = [request for requests in itertools.zip_longest(*by_specimen) for request in requests if request]
    requests += [*standard_deliveries(), *odd_requests()]
    return requests + requests[::3]


def groups(requests: list[bytes]) -> Iterator[list[bytes]]:
    """Yield requests to send at once, without two of one event: it is open which of them would be the first."""
    while requests:
        group, later, bodies = list[bytes](), list[bytes](), set[bytes]()
        remaining = deque(requests)
        while remaining and len(group) < CONNECTIONS:
            request = remaining.popleft()
            body = request.partition(b"\r\n\r\n")[2]
            (later if body and body in bodies else group).append(request)
            bodies.add(body)
        yield group
        requests = [*later, *remaining]


def send_all(web: WebProcess, requests: list[bytes]) -> Iterator[tuple[Any, ...]]:
    """Send a request on each connection at once, until all are sent. Yield the normalized responses."""
    with ExitStack() as stack:
        connections = [stack.enter_context(closing(web.connect())) for _ in range(CONNECTIONS)]
        for group in groups(requests):
            sent = list(zip(group, connections, strict=False))
            for request, connection in sent:
                connection.sendall(request)
            for position, (request, connection) in enumerate(sent):
                head, body, closes = read(connection)
                yield normalized(head, body, request)
                if closes:
                    connections[position] = stack.enter_context(closing(web.connect()))


def read(connection: socket.socket) -> tuple[bytes, bytes, bool]:
    received = b""
    while b"\r\n\r\n" not in received:
        part = connection.recv(65_536)
        assert part, "the server closed the connection without a response"
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    [length] = re.findall(rb"content-length: (\d+)", head)
    while len(body) < int(length):
        body += connection.recv(65_536)
    return head, body, b"connection: close" in head


def normalized(head: bytes, body: bytes, request: bytes) -> tuple[Any, ...]:
    """Return status, headers and body without times, and without an X-Request-ID that the server made."""
    status, *lines = head.split(b"\r\n")
    headers = [line for line in lines if not line.startswith((b"date:", b"x-request-id: d", b"x-request-id: l"))]
    return status, headers, without_times(body.decode()), request[:80]


def without_times(text: str) -> str:
    """Remove the times and random parts of ids."""
    return re.sub(r'"d[0-9a-f]{11}(?:[0-9a-f]{10}|([0-9A-Za-z]{16}))"', r'"\1"', text)


def log_lines(web: WebProcess) -> Counter[str]:
    """Return the lines of the log without times and ids."""
    lines = Counter[str]()
    for line in map(json.loads, web.log.splitlines()):
        fields = {name: value for name, value in line.items() if name not in ("ts", "took_ms")}
        lines[without_times(json.dumps(fields, sort_keys=True))] += 1
    return lines


async def run(fast_path: str, requests: list[bytes], redis: Redis, redis_url: str) -> Result:
    await redis.command("FLUSHALL")
    with start_web(redis_url, "-c", COUNTING, FAST_PATH=fast_path, LOG_LEVEL="INFO", **hooks()) as web:
        responses = list(send_all(web, requests))
        keys = {re.sub("event:d[0-9a-f]{11}", "event:d", key.decode()) for key in await stored_keys(redis)}
        handled = sum(b" /hooks/" in request[:20] for request in requests)
        wait_until(lambda: web.log.count('"webhook_handled"') == handled)
        log = log_lines(web)
    return Result(responses, keys, log, log.pop(PLAIN_LINE))


async def test_the_fast_path_answers_stores_and_logs_as_the_plain_path(redis: Redis, redis_url: str) -> None:
    requests = corpus()
    plain = await run("off", requests, redis, redis_url)
    fast = await run("on", requests, redis, redis_url)

    assert len(requests) > 6_000
    for expected, actual in zip(plain.responses, fast.responses, strict=True):
        assert expected == actual
    assert plain.keys == fast.keys
    assert plain.log == fast.log

    short = '"outcome": "(accepted|ignored|repeat)"|"reason": "signature_'
    answered = sum(count for line, count in fast.log.items() if re.search(short, line))
    parked = sum(count for line, count in fast.log.items() if '"event_parked"' in line)
    # Each timeout of the tools has a connection to Redis, which the first requests open.
    timeouts = {tool.definition.sender_timeout_s for tool in load_sources().values()}
    assert 0 <= fast.plain_count - (plain.plain_count - answered + parked) <= len(timeouts) * CONNECTIONS
