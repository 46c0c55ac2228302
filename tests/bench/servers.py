"""Starts what the parts measure: Redis, web processes, endpoints of peers, the sandbox, workers, and the load.

The web process uses core 0, Redis and the load generator use core 1; workers and the sandbox use any core. Everything
listens on 127.0.0.1 and ends with the part.
"""

import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import httpx
import redis

from app.demo import valkey
from tests.bench.deliveries import SECRET
from tests.bench.load import Load

ROUNDS = int(os.environ.get("ROUNDS", "5"))
ROOT = Path(__file__).parents[2]
WEB_CORE, REDIS_CORE = 0, 1
START_TIMEOUT_S = 120


def pinned(core: int | None) -> Callable[[], None] | None:
    if core is None or not hasattr(os, "sched_setaffinity") or (os.cpu_count() or 1) < 2:
        return None
    return lambda: os.sched_setaffinity(0, {core})


@contextmanager
def process(
    command: list[str], env: Mapping[str, str], core: int | None = None, root: Path = ROOT, stderr: int | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    running = subprocess.Popen(
        command, env=env, cwd=root, stdout=subprocess.DEVNULL, stderr=stderr, preexec_fn=pinned(core)
    )
    try:
        yield running
    finally:
        running.terminate()
        running.wait(60)


def run(module: str, *arguments: str, env: Mapping[str, str], core: int | None = None) -> Any:
    """Run a module of Python and return the JSON that it prints."""
    command = [sys.executable, "-m", module, *arguments]
    result = subprocess.run(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, preexec_fn=pinned(core), check=True)
    return json.loads(result.stdout) if result.stdout else None


def wait_for_port(port: int, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise TimeoutError(f"{server.args} does not listen")


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process and its children: they vary less than rates on a shared machine."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") + sum(cpu_s(int(child)) for child in children)


def resident_mb(pid: int) -> float:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def machine() -> str:
    """Return what figures depend on: processor, versions, and how busy the machine is."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    cpu = models[0].partition(": ")[2] if models else platform.machine()
    server = subprocess.run([valkey.binary(), "--version"], capture_output=True, text=True, check=True).stdout
    version = server.partition(" v=")[2].partition(" ")[0] or server.strip()
    return (
        f"{cpu}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; "
        f"Python {platform.python_version()}, Valkey {version}; {ROUNDS} rounds"
    )


def paired_ratio(values: Sequence[float], baseline: Sequence[float]) -> float:
    """Return the median of the ratios of each round, in which other load on the machine affects both values."""
    return median(value / base for value, base in zip(values, baseline, strict=True))


class Endpoint(NamedTuple):
    port: int
    path: str
    pid: int


class Applied(NamedTuple):
    """Seconds since the first visit was applied, and the CPU time of the workers since then."""

    seconds: float
    cpu_s: float


class Servers:
    """A Redis that writes every command to the disk before it responds, and the processes that use it."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.port = valkey.free_port()
        folder = stack.enter_context(TemporaryDirectory())
        self.server = valkey.start(self.port, Path(folder), appendfsync="always")
        stack.callback(valkey.stop, self.server)
        if pinned(REDIS_CORE):
            for thread in os.listdir(f"/proc/{self.server.pid}/task"):
                os.sched_setaffinity(int(thread), {REDIS_CORE})
        self.redis = redis.Redis(port=self.port)
        # A rewrite of the file would use half of core 1 for a second, in any round.
        self.redis.config_set("auto-aof-rewrite-percentage", 0)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.env = {
            **os.environ,
            "REDIS_URL": self.url,
            "HOOKS__STANDARD__SECRETS": SECRET,
            "VISITS_API_TOKEN": "bench",
            "VISITS_API_URL": "http://127.0.0.1:1/api/v1",
            "LOG_LEVEL": "WARNING",
        }

    # Web

    def web(self, root: Path = ROOT, **env: str) -> Endpoint:
        """Start Doorbell's web process. root: the checkout to run."""
        port = valkey.free_port()
        command = [sys.executable, "-m", "app", "web", "--port", str(port)]
        running = self.stack.enter_context(process(command, {**self.env, **env}, WEB_CORE, root))
        wait_for_port(port, running)
        return Endpoint(port, "/hooks/standard", running.pid)

    def asgi(self, app: str, path: str = "/", python: str = sys.executable) -> Endpoint:
        """Start another application with uvicorn."""
        port = valkey.free_port()
        options = ["--port", str(port), "--no-access-log", "--log-level", "warning", "--timeout-keep-alive", "95"]
        command = [python, "-m", "uvicorn", app, *options]
        running = self.stack.enter_context(process(command, self.env, WEB_CORE))
        wait_for_port(port, running)
        return Endpoint(port, path, running.pid)

    def wsgi(self, app: str, path: str = "/", python: str = sys.executable) -> Endpoint:
        """Start another application with gunicorn: one process with threads."""
        port = valkey.free_port()
        options = [
            "--bind",
            f"127.0.0.1:{port}",
            "--workers",
            "1",
            "--threads",
            "8",
            "--keep-alive",
            "60",
            "--log-level",
            "warning",
        ]
        command = [python, "-m", "gunicorn", *options, app]
        running = self.stack.enter_context(process(command, self.env, WEB_CORE))
        wait_for_port(port, running)
        return Endpoint(port, path, running.pid)

    def load(self, endpoint: Endpoint, **options: Any) -> dict[str, Any]:
        """Send deliveries to an endpoint, and return what tests/bench/load.py prints. options: fields of Load."""
        load = Load(endpoint.port, **{"path": endpoint.path, "seed": time.time_ns() % 10**9, **options})
        result: dict[str, Any] = run("tests.bench.load", json.dumps(asdict(load)), env=self.env, core=REDIS_CORE)
        return result

    # Worker

    @contextmanager
    def sandbox(self, response_time_s: float = 0) -> Iterator[dict[str, str]]:
        """Start a Visits API. Yields the environment for workers."""
        port = valkey.free_port()
        command = [sys.executable, "-m", "app", "sandbox", "--port", str(port)]
        with process(command, self.env, stderr=subprocess.DEVNULL) as running:
            wait_for_port(port, running)
            if response_time_s:
                slow = {"slow_share": 1, "slow_s": response_time_s}
                httpx.put(f"http://127.0.0.1:{port}/_sandbox/faults", json=slow).raise_for_status()
            yield self.env | {"VISITS_API_URL": f"http://127.0.0.1:{port}/api/v1"}

    @contextmanager
    def worker(self, env: Mapping[str, str], slots: int | None = None) -> Iterator[int]:
        """Start a worker. slots: how many visits it may apply at once. Yields its process id."""
        limit = f"import jobs.concurrency; jobs.concurrency.MAX_ACTIVE['visits'] = {slots}; " if slots else ""
        with process([sys.executable, "-c", f"{limit}import jobs.worker; jobs.worker.run()"], env) as running:
            yield running.pid

    def queued(self) -> int:
        return int(self.redis.zcard("bell:state:queued"))

    def unfinished(self) -> int:
        """Return the number of tasks that are queued or running."""
        return self.queued() + int(self.redis.zcard("bell:state:running"))

    def queue_visits(self, count: int, seed: str) -> None:
        run("tests.bench.visits", "queue", self.url, str(count), seed, env=self.env)

    def hold_visits(self, count: int, total: int) -> None:
        """Write applied visits until there are `total`. count: those that there are."""
        run(
            "tests.bench.visits",
            "hold",
            self.url,
            str(total - count),
            f"held-{count}" if count else "held",
            env=self.env,
        )

    def apply_queued(self, env: Mapping[str, str], workers: int = 1, slots: int | None = None) -> Applied:
        """Have workers apply everything that is queued."""
        with ExitStack() as started:
            return self.wait_applied([started.enter_context(self.worker(env, slots)) for _ in range(workers)])

    def wait_applied(self, workers: Sequence[int] = ()) -> Applied:
        """Wait until workers, which are just starting, have applied everything. workers: their process ids."""
        queued = self.queued()
        while self.queued() == queued:
            time.sleep(0.005)
        began, before = time.perf_counter(), sum(map(cpu_s, workers))
        while self.unfinished():
            time.sleep(0.01)
        return Applied(time.perf_counter() - began, sum(map(cpu_s, workers)) - before)

    def used_memory(self) -> int:
        return int(self.redis.info("memory")["used_memory"])


@contextmanager
def servers() -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(stack)
