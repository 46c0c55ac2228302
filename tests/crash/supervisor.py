"""Starts all processes as in production on one machine, and kills any of them but the sandbox."""

import asyncio
import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from app.cli.run import WEB_OPTIONS
from app.demo import valkey
from tests.crash.scenarios import ACUITY_KEY
from tests.support.harness import CALENDLY_SECRET, SECRET, TOKEN, Server, wait_until
from tests.support.processes import start_process
from tests.support.sentinels import Replicated, replicated

Records = dict[str, dict[str, Any]]


class RestartingProcess:
    """A process that is restarted whenever it ends."""

    def __init__(self, arguments: list[str], env: dict[str, str], log: Path) -> None:
        self._arguments, self._env, self.log = arguments, env, log
        self.unexpected_exits = 0
        self.start()

    def start(self) -> None:
        self.process = start_process([sys.executable, "-m", *self._arguments], self._env, self.log)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def restart_if_ended(self) -> None:
        if self.process.poll() is not None:
            self.unexpected_exits += 1
            self.start()


class Supervisor:
    """Two web processes, two workers, Valkey with its append-only file, the sandbox with its file, a tool's API.

    With replicas there are a primary and Sentinels instead of one server.
    """

    def __init__(self, stack: ExitStack, fsync: str, ack: str = "write", replicas: int = 0, rate: int = 0) -> None:
        """rate: the setting VISITS_API_RATE; 0 for none."""
        self.folder = Path(stack.enter_context(TemporaryDirectory(prefix="doorbell-crash-")))
        self.fsync, self.ack, self.rate, self.redis_port = fsync, ack, rate, valkey.free_port()
        self.records: Records = {}
        self.servers: Replicated | None = None
        if replicas:
            self.servers = stack.enter_context(replicated(replicas, fsync))
        else:
            self._data = self.folder / "valkey"
            self._data.mkdir()
            self._start_redis()
            stack.callback(lambda: valkey.stop(self._redis))
        self.visits_file = self.folder / "visits.db"
        self.sandbox = stack.enter_context(Server.sandbox("--file", str(self.visits_file)))
        env = self._env(stack.enter_context(tool_api(self.records)))
        ports = [valkey.free_port() for _ in range(2)]
        self.web_urls = [f"http://127.0.0.1:{port}" for port in ports]
        self.webs = [
            self._start(stack, ["uvicorn", "app.main:app", "--port", str(port), *WEB_OPTIONS], env) for port in ports
        ]
        self.workers = [self._start(stack, ["jobs"], env) for _ in range(2)]

    def _start(self, stack: ExitStack, arguments: list[str], env: dict[str, str]) -> RestartingProcess:
        process = RestartingProcess(arguments, env, self.folder / f"{arguments[0]}.log")
        stack.callback(process.kill)
        return process

    @property
    def redis_url(self) -> str:
        return self.servers.url if self.servers else f"redis://127.0.0.1:{self.redis_port}/0"

    def _env(self, tool: str) -> dict[str, str]:
        prefixes = ("HOOKS__", "RETRY_", "VISITS_", "REDIS_")
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(prefixes)},
            "REDIS_URL": self.redis_url,
            "ACK": self.ack,
            "VISITS_API_URL": f"{self.sandbox.url}/api/v1",
            "VISITS_API_TOKEN": TOKEN,
            "HOOKS__STANDARD__SECRETS": SECRET,
            "HOOKS__CALENDLY__SECRETS": CALENDLY_SECRET,
            "HOOKS__ACUITY__SECRETS": ACUITY_KEY,
            "HOOKS__ACUITY__API_URL": tool,
            "HOOKS__ACUITY__CREDENTIALS__USER_ID": "1",
            "HOOKS__ACUITY__CREDENTIALS__API_KEY": ACUITY_KEY,
            **({"VISITS_API_RATE": str(self.rate)} if self.rate else {}),
            "RETRY_FIRST_S": "0.5",
            "RETRY_CAP_S": "2",
            "LOG_LEVEL": "WARNING",
        }

    # Kills

    def _start_redis(self) -> None:
        self._redis = valkey.start(self.redis_port, self._data, appendfsync=self.fsync)

    async def kill_redis(self, lost_bytes: int = 0) -> None:
        """Kill and restart Redis. lost_bytes: removed from the end of its file, as after a power failure."""
        self._redis.kill()
        self._redis.wait()
        if lost_bytes:
            file = max((self._data / "appendonlydir").glob("*.incr.aof"), key=lambda file: file.stat().st_mtime)
            os.truncate(file, max(0, file.stat().st_size - lost_bytes))
        await asyncio.to_thread(self._start_redis)

    async def fail_over(self, lost_s: float = 0) -> float:
        """Kill the primary, wait for the promotion of a replica, and restart the old primary, which becomes a replica.

        Return when it was killed. lost_s: how long before the kill the replicas get no more writes.
        """
        assert self.servers
        if lost_s:
            await asyncio.to_thread(self.servers.cut_replicas)
            await asyncio.sleep(lost_s)
        old = await asyncio.to_thread(self.servers.kill_primary)
        await asyncio.to_thread(self.servers.start_server, old)
        return self.servers.killed_at

    async def wait_until_in_sync(self) -> None:
        """Wait until the replica has all data: a failover before that is a second failure, which no setting survives."""
        assert self.servers
        await asyncio.to_thread(wait_until, self.servers.is_in_sync, 300)

    def restart(self, process: RestartingProcess) -> None:
        process.kill()
        process.start()

    def restart_ended(self) -> None:
        for process in (*self.webs, *self.workers):
            process.restart_if_ended()


@contextmanager
def tool_api(records: Records) -> Iterator[str]:
    """Serve the records of a tool's API; yield its URL."""

    class Tool(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            with suppress(ConnectionError):  # the caller was killed
                super().handle()

        def do_GET(self) -> None:
            record = records.get(self.path.rpartition("/")[2])
            body = json.dumps(record or {}).encode()
            self.send_response(200 if record else 404)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Tool)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
