"""Starts the processes of the demo, as in production: embedded Valkey, sandbox, a tool's API, worker and web.

All processes use free ports and new secrets, and are stopped when the ExitStack is closed.
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
from typing import Any

import click
import httpx

from app.demo import valkey
from app.demo.processes import process, wait_until
from app.demo.tools import HOOKS, Tools
from app.settings.model import hash_password
from app.webhooks.registry import load_sources
from app.webhooks.specimens import sign_headers

#: The hooks of the demo, besides `standard`, and the additional hooks with --all.
SOURCES, MORE_SOURCES = ("calendly", "calcom", "acuity"), ("zoom", "housecallpro")
READY_TIMEOUT_S = 30.0
#: How long a visit waits for an e-mail address.
CONTACT_FOR_S = 2


class NotStarted(Exception):
    """The web or the worker process ended or did not become ready. The argument names it, with its log."""


class System:
    """Starts all processes, and sends requests to them. Raises NoServer, NotStarted.

    tools: the fakes of the tools, with --all. sources: the hooks in the environment.
    """

    def __init__(self, stack: ExitStack, with_more_sources: bool = False) -> None:
        self.folder = Path(stack.enter_context(TemporaryDirectory(prefix="doorbell-demo-")))
        self.sources = (*SOURCES, *MORE_SOURCES) if with_more_sources else SOURCES
        self.secrets = {name: secrets.token_hex(16) for name in self.sources}
        self.secrets["standard"] = "whsec_" + secrets.token_hex(24)
        self.password = secrets.token_urlsafe(12)
        self.http = stack.enter_context(httpx.Client(timeout=10, trust_env=False))
        self._redis_url = self._start_redis(stack)
        self.sandbox_url = self._start_sandbox(stack)
        #: The records that the APIs of the tools return, by path.
        self.records: dict[str, Any] = {}
        self.tools = Tools(stack, self.http) if with_more_sources else None
        if self.tools:
            _report("tools", f"fakes of {len(HOOKS)} tools with calendars, {self.tools.url}")
        self._web_port = valkey.free_port()
        self.web_url = f"http://127.0.0.1:{self._web_port}"
        self.env = self._environment(stack.enter_context(tool_api(self.records)))
        self._start_web_and_worker(stack)

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
            **{name: value for source in self.sources for name, value in self._tool_settings(source, tool_url)},
            **(dict(self.tools.settings()) | {"PUBLIC_URL": self.web_url} if self.tools else {}),
            "SECRET_KEY": secrets.token_hex(32),
            "CONSOLE_PASSWORD_HASH": hash_password(self.password),
            "RETRY_FIRST_S": "1",
            "CONTACT_FOR_S": str(CONTACT_FOR_S),
        }

    def _tool_settings(self, source: str, tool_url: str) -> Iterator[tuple[str, str]]:
        """Yield the settings that a source needs besides its secret.

        They are its credentials and the URL of its API, or PUBLIC_URL.
        """
        tool, prefix = load_sources()[source], f"HOOKS__{source.upper()}"
        if tool.fetch:
            yield f"{prefix}__API_URL", tool_url
            for name in tool.definition.missing_credentials({}):
                yield f"{prefix}__CREDENTIALS__{name}", self.secrets[source]
        if tool.definition.signature.needs_url:
            yield "PUBLIC_URL", self.web_url

    def _start_web_and_worker(self, stack: ExitStack) -> None:
        started = time.monotonic()
        worker = self._start_logged(stack, "worker")
        web = self._start_logged(stack, "web", "--port", str(self._web_port))
        self._wait_for("web", web, lambda: self._is_up(f"{self.web_url}/readyz"))
        self._wait_for("worker", worker, lambda: self._doorbell("worker", "--check").returncode == 0)
        _report("web + worker", f"{self.web_url}, ready in {time.monotonic() - started:.1f} s")

    def _start_logged(self, stack: ExitStack, command: str, *arguments: str) -> subprocess.Popen[bytes]:
        log = stack.enter_context((self.folder / f"{command}.log").open("wb"))
        return stack.enter_context(process(command, *arguments, env=self.env, log=log))

    def _wait_for(self, command: str, running: subprocess.Popen[bytes], is_ready: Callable[[], bool]) -> None:
        """Wait until a process is ready. Raise NotStarted if it ends before."""
        is_over = wait_until(lambda: running.poll() is not None or is_ready(), READY_TIMEOUT_S)
        if not is_over or running.poll() is not None:
            log = (self.folder / f"{command}.log").read_text("utf-8", "replace").strip()
            raise NotStarted(f"the process {command} is not ready:\n{log}")

    def _is_up(self, url: str) -> bool:
        try:
            return self.http.get(url).is_success
        except httpx.HTTPError:
            return False

    def send(
        self, source: str, body: bytes, headers: Mapping[str, str], signed_body: bytes | None = None
    ) -> httpx.Response:
        """Send a signed webhook. signed_body: the body that the signature covers, if it differs from `body`."""
        url = f"{self.web_url}/hooks/{source}"
        headers = sign_headers(
            source, body if signed_body is None else signed_body, headers, [self.secrets[source]], url
        )
        return self.http.post(url, content=body, headers=headers)

    def visits(self) -> list[dict[str, Any]]:
        return list(self._get_from_api("/visits?limit=100")["visits"])

    def visits_of(self, email: str) -> list[dict[str, Any]]:
        """Return the visits of a customer."""
        contacts = {contact["id"] for contact in self._get_from_api(f"/contacts?email={email}")["data"]}
        return [visit for visit in self.visits() if visit["contact_id"] in contacts]

    def _get_from_api(self, path: str) -> dict[str, Any]:
        url, headers = f"{self.sandbox_url}/api/v1{path}", {"Authorization": "Bearer demo"}
        return dict(self.http.get(url, headers=headers).json())

    def api_calls(self) -> list[dict[str, Any]]:
        return list(self.http.get(f"{self.sandbox_url}/_sandbox/journal").json()["journal"])

    @contextmanager
    def visits_api_down(self) -> Iterator[None]:
        self.http.put(f"{self.sandbox_url}/_sandbox/faults", json={"down": True})
        yield
        self.http.delete(f"{self.sandbox_url}/_sandbox/faults")

    def failures(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._doorbell("failures", "--json").stdout.splitlines()]

    def _doorbell(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "app", *arguments]
        return subprocess.run(command, env={**os.environ, **self.env}, capture_output=True, text=True)


@contextmanager
def tool_api(records: Mapping[str, Any]) -> Iterator[str]:
    """Start a server that returns a record for each path, as the APIs of the tools do, and yield its URL."""

    class Records(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            record = records.get(self.path.lstrip("/"))
            body = json.dumps(record).encode()
            self.send_response(404 if record is None else 200)
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


def _report(component: str, details: str) -> None:
    click.echo(f"{component:14} {details}")
