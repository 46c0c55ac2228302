"""Doorbell's processes, the sandbox and its fault switches, and an independent signer.

Deliveries are signed here from the documented rule, never by the application's `sign`: no test passes only because the same
code signs and verifies. The fixed signatures in specimens and vectors were made by openssl, or published by the vendor.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import cache, partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Self, TypeVar
from unittest.mock import patch
from urllib.parse import urlsplit

import httpx
import redis
import uvicorn
from click.testing import CliRunner

from app.cli import main
from app.cli.run import WEB_OPTIONS
from app.demo.valkey import free_port
from app.ledger.redis import Redis, RedisAddress
from tests.support.processes import run_process, start_process

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # the specification's own example
CALENDLY_SECRET = "calendly-signing-key-for-tests"
TOKEN = "visits-token-for-tests"
T = TypeVar("T")


def memory_folder() -> str | None:
    """Return a folder in memory, where a server synchronizes its file at no cost; None if there is no space."""
    folder = Path("/dev/shm")
    return str(folder) if os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > 2**30 else None


@contextmanager
def serving(app: Any, http: str = "httptools", loop: str = "uvloop", lifespan: Any = "off") -> Iterator[str]:
    """Serve an application with a real uvicorn in a thread, and yield its address."""
    settings: dict[str, Any] = {"http": http, "loop": loop, "ws": "none", "log_config": None, "access_log": False}
    server = uvicorn.Server(uvicorn.Config(app, lifespan=lifespan, **settings))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(5)


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, hashlib.sha256)


def sign_standard(
    raw: bytes, *, id: str | None = None, at: float | None = None, secret: str = SECRET
) -> dict[str, str]:
    """Return the headers of Standard Webhooks."""
    id, stamp = id or f"msg_{uuid.uuid4().hex}", str(int(time.time() if at is None else at))
    signature = hmac_sha256(base64.b64decode(secret.removeprefix("whsec_")), f"{id}.{stamp}.".encode() + raw)
    return {
        "content-type": "application/json",
        "webhook-id": id,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }


def sign_calendly(raw: bytes, *, at: float | None = None, secret: str = CALENDLY_SECRET) -> dict[str, str]:
    stamp = str(int(time.time() if at is None else at))
    signature = hmac_sha256(secret.encode(), f"{stamp}.".encode() + raw).hex()
    return {"content-type": "application/json", "calendly-webhook-signature": f"t={stamp},v1={signature}"}


def standard_body(event_type: str, visit_id: str, timestamp: str | datetime | None = None, **data: Any) -> bytes:
    """Return a body of the `standard` source. timestamp: now by default."""
    timestamp = timestamp or datetime.now(UTC)
    stamp = timestamp if isinstance(timestamp, str) else timestamp.isoformat().replace("+00:00", "Z")
    return json.dumps({"type": event_type, "timestamp": stamp, "data": {"visit_id": visit_id, **data}}).encode()


def label(value: Any) -> str:
    """Return the name of a case (`ids=label`), without backslashes: pytest doubles them each time it collects."""
    return ascii(value)[:24].replace("\\", "/")


class _Body(httpx.AsyncByteStream):
    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._content


def unread_response(response: httpx.Response) -> httpx.Response:
    """Return a copy whose body is unread, as a transport returns it."""
    return httpx.Response(response.status_code, headers=response.headers, stream=_Body(response.content))


def wait_until(condition: Callable[[], T], within_s: float = 30.0) -> T:
    """Poll until the condition is true and return its value; fail with its last value.

    Long waits and conditions that take long are polled less often.
    """
    start = time.monotonic()
    while True:
        began = time.monotonic()
        value = condition()
        if value:
            return value
        ended = time.monotonic()
        assert ended - start < within_s, f"not within {within_s} s; last seen: {value!r}"
        time.sleep(min(max(0.01, (ended - start) / 10), 0.1) + min(10 * (ended - began), 0.3))


@cache
def unverified_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def http_client(**options: Any) -> httpx.Client:
    """Return a client for http:// addresses. A TLS context takes as long as a request, loaded certificates as ten."""
    return httpx.Client(**{"timeout": 30, "trust_env": False, "verify": unverified_tls(), **options})


def http_request(method: str, url: str, json_body: Any = None, **headers: str) -> tuple[int, bytes]:
    """Return status and body. For the many small requests of the tests: a third of the processor time of httpx."""
    address = urlsplit(url)
    path = address._replace(scheme="", netloc="").geturl()
    body = None if json_body is None else json.dumps(json_body).encode()
    with closing(HTTPConnection(address.netloc, timeout=30)) as connection:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()


def status_of(url: str) -> int:
    """Return 0 if there is no response."""
    with suppress(OSError, HTTPException):
        return http_request("GET", url)[0]
    return 0


class Server:
    """A process of Doorbell that listens on a port."""

    def __init__(self, arguments: list[str], port: int, ready: str, env: Mapping[str, str]) -> None:
        self.url, self.port = f"http://127.0.0.1:{port}", port
        #: Whether a test has changed the fault switches of this sandbox.
        self.has_faults = False
        self._arguments, self._ready, self._env = arguments, ready, env
        self.log = Path(tempfile.gettempdir(), f"doorbell-test-{os.getpid()}-{port}.log")
        self.start()

    def start(self) -> None:
        self.process = start_process(self._arguments, self._env, self.log)
        if self._ready:
            wait_until(self._is_ready, 60)

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return 0 < status_of(self.url + self._ready) < 500

    def kill(self, signum: signal.Signals = signal.SIGKILL) -> int:
        """Send the signal, wait, and return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        return self.process.wait(40)

    def restart(self) -> None:
        self.kill()
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.log.unlink(missing_ok=True)

    @classmethod
    def sandbox(cls, *options: str) -> "Server":
        port = free_port()
        arguments = [sys.executable, "-m", "app", "sandbox", "--port", str(port), *options]
        return cls(arguments, port, "/_sandbox/calls", os.environ)


class Harness:
    """The whole of Doorbell around an empty Redis and an empty sandbox."""

    def __init__(self, redis_url: str, sandbox: Server) -> None:
        self.redis_url, self.sandbox = redis_url, sandbox
        self.http = http_client()
        self.env = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("HOOKS__", "RETRY_", "VISITS_"))
            },
            "REDIS_URL": redis_url,
            "VISITS_API_URL": f"{sandbox.url}/api/v1",
            "VISITS_API_TOKEN": TOKEN,
            "HOOKS__STANDARD__SECRETS": SECRET,
            "HOOKS__CALENDLY__SECRETS": CALENDLY_SECRET,
            "RETRY_FIRST_S": "0.2",
            "RETRY_CAP_S": "1",
        }
        self._running = ExitStack()

    def __enter__(self) -> Self:
        self.reset()
        return self

    def reset(self) -> None:
        """Empty Redis and the sandbox, and clear the faults."""
        with redis.Redis.from_url(self.redis_url) as server:
            server.flushdb()
        self.control("POST", "reset")
        self.clear_faults()

    def __exit__(self, *_: object) -> None:
        self._running.close()
        self.http.close()

    # -- processes --

    def start_web(self, port: int = 0, **env: str) -> Server:
        port = port or free_port()
        # The command that `doorbell web` executes.
        arguments = [sys.executable, "-m", "uvicorn", "app.main:app", "--port", str(port), *WEB_OPTIONS]
        self.web_server = self._running.enter_context(Server(arguments, port, "/healthz", {**self.env, **env}))
        return self.web_server

    def start_worker(self, **env: str) -> Server:
        arguments = [sys.executable, "-m", "jobs"]
        return self._running.enter_context(Server(arguments, free_port(), "", {**self.env, **env}))

    def doorbell(self, *arguments: str, stdin: bytes = b"", **env: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in this process and raise its unexpected errors. Not for commands that replace their process."""
        run = partial(CliRunner().invoke, main, arguments, stdin, prog_name="doorbell", catch_exceptions=False)
        with patch.dict(os.environ, {**self.env, **env}, clear=True), ThreadPoolExecutor(1) as executor:
            result = executor.submit(run).result()  # in a thread, because a test may have a running event loop
        return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)

    def doorbell_process(self, *arguments: str, stdin: bytes = b"", **env: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in a process of its own, as a shell does."""
        return run_process([sys.executable, "-m", "app", *arguments], {**self.env, **env}, stdin=stdin)

    def redis_command(self, *command: Any) -> Any:
        async def once() -> Any:
            redis = Redis(RedisAddress(self.redis_url))
            try:
                return await redis.command(*command)
            finally:
                await redis.close()

        return asyncio.run(once())

    # -- deliveries --

    def post(self, raw: bytes, headers: Mapping[str, str], hook: str = "standard") -> httpx.Response:
        return self.http.post(f"{self.web_server.url}/hooks/{hook}", content=raw, headers=dict(headers))

    def send(
        self, event_type: str, visit_id: str, timestamp: str | datetime | None = None, **data: Any
    ) -> httpx.Response:
        """Send a signed `standard` delivery."""
        raw = standard_body(event_type, visit_id, timestamp, **data)
        return self.post(raw, sign_standard(raw))

    # -- the Visits API --

    def get_from_api(self, path: str) -> Any:
        _, body = http_request("GET", f"{self.sandbox.url}/api/v1{path}", authorization=f"Bearer {TOKEN}")
        return json.loads(body)

    def visits(self) -> list[dict[str, Any]]:
        pages = [self.get_from_api("/visits?limit=100")]
        for number in range(2, pages[0]["pagination"]["total_pages"] + 1):
            pages.append(self.get_from_api(f"/visits?limit=100&page={number}"))
        return [visit for page in pages for visit in page["visits"]]

    def visit(self, external_id: str) -> dict[str, Any] | None:
        matches = [visit for visit in self.visits() if visit.get("external_id") == external_id]
        assert len(matches) < 2, f"doubled: {matches}"
        return matches[0] if matches else None

    def control(self, method: str, path: str, switches: Any = None) -> Any:
        """Send a request under `/_sandbox/`, and return the JSON of the response."""
        status, body = http_request(method, f"{self.sandbox.url}/_sandbox/{path}", switches)
        assert status in (200, 204), body
        return json.loads(body or "null")

    def inject_faults(self, **switches: Any) -> None:
        """Set fault switches of the sandbox (see app/sandbox/api.py)."""
        self.sandbox.has_faults = True
        self.control("PUT", "faults", switches)

    def faults(self) -> dict[str, Any]:
        return dict(self.control("GET", "faults"))

    def clear_faults(self) -> None:
        if self.sandbox.has_faults:
            self.control("DELETE", "faults")
            self.sandbox.has_faults = False

    def journal(self) -> list[dict[str, Any]]:
        return list(self.control("GET", "journal")["journal"])

    def calls(self) -> list[str]:
        """Return the routes of the API calls (`["GET /visits/:id", …]`), without GET /visits, which the tests call."""
        return [call["route"] for call in self.journal() if call["route"] != "GET /visits"]
