"""Starts the processes of the demo: embedded Valkey, sandbox, a tool's API, worker and web, as in production.

All processes use free ports and new secrets, and end with the ExitStack.
"""

import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import click
import httpx

from app.console.passwords import hash_password
from app.demo import valkey
from app.webhooks.registry import load_specimens
from app.webhooks.specimens import sign_headers

SOURCES = ("calendly", "calcom", "acuity")
STEP_TIMEOUT_S = 30.0
WEB_READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
T = TypeVar("T")


class NotStarted(Exception):
    """The web process ended or did not become ready. The argument is its log."""


class System:
    """Starts all processes, and is a client of them. Raises NoServer, NotStarted."""

    def __init__(self, stack: ExitStack) -> None:
        self.folder = Path(stack.enter_context(TemporaryDirectory(prefix="doorbell-demo-")))
        self.secrets = {name: secrets.token_hex(16) for name in SOURCES}
        self.secrets["standard"] = "whsec_" + secrets.token_hex(24)
        self.password = secrets.token_urlsafe(12)
        self.http = stack.enter_context(httpx.Client(timeout=10, trust_env=False))
        self._redis_url = self._start_redis(stack)
        self.sandbox_url = self._start_sandbox(stack)
        self.env = self._environment(stack.enter_context(tool_api()))
        self.web_url = self._start_web_and_worker(stack)

    def _start_redis(self, stack: ExitStack) -> str:
        if url := os.environ.get("REDIS_URL"):
            _report("redis", "the server in REDIS_URL; the demo's data stays there")
            return url
        port = valkey.free_port()
        data = self.folder / "valkey"
        data.mkdir()
        stack.callback(valkey.stop, valkey.start(port, data))
        _report("redis", f"embedded Valkey with an append-only file, 127.0.0.1:{port}")
        return f"redis://127.0.0.1:{port}/0"

    def _start_sandbox(self, stack: ExitStack) -> str:
        port = valkey.free_port()
        url = f"http://127.0.0.1:{port}"
        stack.enter_context(process("sandbox", "--port", str(port)))
        wait_until(lambda: self._is_up(f"{url}/_sandbox/calls"))
        _report("visits api", f"a sandbox, {url}/api/v1")
        return url

    def _environment(self, tool_url: str) -> dict[str, str]:
        return {
            "REDIS_URL": self._redis_url,
            "VISITS_API_URL": f"{self.sandbox_url}/api/v1",
            "VISITS_API_TOKEN": secrets.token_hex(16),
            **{f"HOOKS__{name.upper()}__SECRETS": secret for name, secret in self.secrets.items()},
            "HOOKS__ACUITY__CREDENTIALS__USER_ID": "1",
            "HOOKS__ACUITY__CREDENTIALS__API_KEY": self.secrets["acuity"],
            "HOOKS__ACUITY__API_URL": tool_url,
            "SECRET_KEY": secrets.token_hex(32),
            "CONSOLE_PASSWORD_HASH": hash_password(self.password),
            "RETRY_FIRST_S": "1",
            "CONTACT_FOR_S": "2",
        }

    def _start_web_and_worker(self, stack: ExitStack) -> str:
        started, port = time.monotonic(), valkey.free_port()
        log = stack.enter_context((self.folder / "log").open("wb"))
        stack.enter_context(process("worker", env=self.env, log=log))
        web = stack.enter_context(process("web", "--port", str(port), env=self.env, log=log))
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: web.poll() is not None or self._is_up(f"{url}/readyz"), WEB_READY_TIMEOUT_S)
        if not self._is_up(f"{url}/readyz"):
            raise NotStarted((self.folder / "log").read_text("utf-8", "replace").strip())
        _report("web + worker", f"{url}, ready in {time.monotonic() - started:.1f} s")
        return url

    def _is_up(self, url: str) -> bool:
        try:
            return self.http.get(url).is_success
        except httpx.HTTPError:
            return False

    def send(
        self, source: str, body: bytes, headers: Mapping[str, str], signed_body: bytes | None = None
    ) -> httpx.Response:
        """Send a signed webhook. signed_body: the body that the signature covers, if it is another one."""
        url = f"{self.web_url}/hooks/{source}"
        headers = sign_headers(
            source, body if signed_body is None else signed_body, headers, [self.secrets[source]], url
        )
        return self.http.post(url, content=body, headers=headers)

    def visits(self) -> list[dict[str, Any]]:
        url, headers = f"{self.sandbox_url}/api/v1/visits?limit=100", {"Authorization": "Bearer demo"}
        return list(self.http.get(url, headers=headers).json()["visits"])

    def api_calls(self) -> list[dict[str, Any]]:
        return list(self.http.get(f"{self.sandbox_url}/_sandbox/journal").json()["journal"])

    @contextmanager
    def visits_api_down(self) -> Iterator[None]:
        self.http.put(f"{self.sandbox_url}/_sandbox/faults", json={"down": True})
        yield
        self.http.delete(f"{self.sandbox_url}/_sandbox/faults")

    def failures(self) -> list[dict[str, Any]]:
        command = [sys.executable, "-m", "app", "failures", "--json"]
        result = subprocess.run(command, env={**os.environ, **self.env}, capture_output=True, text=True)
        return [json.loads(line) for line in result.stdout.splitlines()]


@contextmanager
def process(
    *arguments: str, env: Mapping[str, str] | None = None, log: Any = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a `doorbell` command in its own session, so that Ctrl-C in the terminal does not reach it."""
    running = subprocess.Popen(
        [sys.executable, "-m", "app", *arguments],
        env={**os.environ, **(env or {})},
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


@contextmanager
def tool_api() -> Iterator[str]:
    """Start Acuity's API, which returns the specimen's record for every request; yield its URL."""
    [record] = load_specimens("acuity")["deliveries"][0]["records"].values()

    class Records(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(record).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Records)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def wait_until(condition: Callable[[], T], timeout_s: float = STEP_TIMEOUT_S) -> T | None:
    """Return the first true value of the condition; None after the timeout."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    return None


def _report(component: str, details: str) -> None:
    click.echo(f"{component:14} {details}")
