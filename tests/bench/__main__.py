"""`make bench`: medians over rounds and their ratios, measured in one run. It has no limits, since machines are shared.

The web process uses core 0, Redis and the load generator use core 1; workers and the sandbox use any core.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import redis

from app.demo import valkey
from tests.bench.load import SECRET

PARTS = ("intake", "memory", "smallest", "workers")
ROUNDS = int(os.environ.get("ROUNDS", "5"))
DELIVERIES = 8_000
VISITS = 3_000
WAITING = 100_000
API_S = 0.15
ROOT = Path(__file__).parents[2]


def pinned(core: int | None) -> Callable[[], None] | None:
    if core is None or not hasattr(os, "sched_setaffinity") or (os.cpu_count() or 1) < 2:
        return None
    return lambda: os.sched_setaffinity(0, {core})


@contextmanager
def process(arguments: list[str], env: dict[str, str], core: int | None = None) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, *arguments]
    running = subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.DEVNULL, preexec_fn=pinned(core))
    try:
        yield running
    finally:
        running.terminate()
        running.wait(30)


def run(arguments: list[str], env: dict[str, str], core: int | None = None) -> Any:
    """Run a Python command and return the JSON that it prints."""
    command = [sys.executable, *arguments]
    result = subprocess.run(
        command, env=env, cwd=ROOT, capture_output=True, text=True, preexec_fn=pinned(core), check=True
    )
    return json.loads(result.stdout) if result.stdout else None


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on {port}")


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process: they vary less than rates on a shared machine."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Bench:
    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.port = valkey.free_port()
        folder = stack.enter_context(TemporaryDirectory())
        os.sched_setaffinity(0, {1}) if pinned(1) else None
        self.server = valkey.start(self.port, Path(folder), appendfsync="always")
        os.sched_setaffinity(0, range(os.cpu_count() or 1)) if pinned(1) else None
        stack.callback(valkey.stop, self.server)
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
        }

    # Web

    def web(self, app: str) -> tuple[int, int]:
        port = valkey.free_port()
        arguments = ["-m", "uvicorn", app, "--port", str(port), "--no-access-log", "--log-level", "warning"]
        if app == "app.main:app":
            arguments = ["-m", "app", "web", "--port", str(port)]
        running = self.stack.enter_context(process(arguments, self.env, core=0))
        wait_for_port(port)
        return port, running.pid

    def load(self, port: int, path: str, deliveries: int = DELIVERIES) -> Any:
        seed = str(time.time_ns() % 10**9)
        return run(["-m", "tests.bench.load", str(port), path, "32", str(deliveries), seed], self.env, core=1)

    def intake(self) -> None:
        peers, doorbell = self.web("tests.bench.peers:app"), self.web("app.main:app")
        endpoints = {
            "bare route": (peers, "/bare"),
            "arq": (peers, "/arq"),
            "arq, fields checked": (peers, "/arq-fields"),
            "doorbell": (doorbell, "/hooks/standard"),
        }
        rates: dict[str, list[float]] = {name: [] for name in endpoints}
        cpu_us: dict[str, list[float]] = {name: [] for name in endpoints}
        p99_ms: dict[str, list[float]] = {name: [] for name in endpoints}
        for _ in range(ROUNDS):
            for name, ((port, pid), path) in endpoints.items():
                before = cpu_s(pid)
                result = self.load(port, path)
                rates[name].append(result["rate"])
                p99_ms[name].append(result["p99"])
                cpu_us[name].append((cpu_s(pid) - before) / DELIVERIES * 1e6)
                assert result["statuses"] == {"202": DELIVERIES}, result
            self.redis.flushdb()
        print(f"\nIntake: 2 KB deliveries, 32 connections, appendfsync always; medians of {ROUNDS} rounds")
        for name in endpoints:
            peer_names = ("bare route", "arq", "arq, fields checked")
            ratios = [f"{paired_ratio(rates[name], rates[peer]):.2f} x {peer}" for peer in peer_names]
            print(
                f"  {name:20} {median(rates[name]):8.0f}/s   p99 {median(p99_ms[name]):6.1f} ms"
                f"   {median(cpu_us[name]):5.0f} us CPU   {'   '.join(ratios)}"
            )
        self.backlog(doorbell[0])

    def backlog(self, port: int) -> None:
        """Compare the latency with 100,000 waiting changes with that of an empty ledger."""
        empty = []
        for _ in range(ROUNDS):
            self.redis.flushdb()
            self.load(port, "/hooks/standard", 1_000)
            empty.append(self.load(port, "/hooks/standard", 4_000)["p99"])
        self.redis.flushdb()
        run(["-m", "tests.bench.worker", "queue", self.url, str(WAITING), "waiting"], self.env)
        full = [self.load(port, "/hooks/standard", 4_000)["p99"] for _ in range(ROUNDS)]
        ratio = median(full) / median(empty)
        print(
            f"  p99 with {WAITING} changes waiting {median(full):.1f} ms"
            f"   {ratio:.2f} x {median(empty):.1f} ms with none"
        )
        self.redis.flushdb()

    # Memory

    def memory(self) -> None:
        port, _ = self.web("app.main:app")
        self.load(port, "/hooks/standard", 100)
        before = self.redis.info("memory")["used_memory"]
        self.load(port, "/hooks/standard", 2_000)
        queued = (self.redis.info("memory")["used_memory"] - before) / 2_000
        with self.api() as env, process(["-m", "jobs"], env):
            self.wait_applied()
        applied = (self.redis.info("memory")["used_memory"] - before) / 2_100
        print(
            "\nMemory of one 2 KB delivery with its change, its visit and its indexes\n"
            f"  {queued:.0f} bytes while it is queued, {applied:.0f} when it is applied"
        )
        self.redis.flushdb()

    # Heroku's smallest Redis

    def smallest(self) -> None:
        """Measure how many deliveries fit into 25 MB, and how many connections are used."""
        self.redis.config_set("maxmemory", "25mb")
        port, _ = self.web("app.main:app")
        queued = self.fill(port)
        with self.api() as env, process(["-m", "jobs"], env):
            self.wait_applied()
            drained = self.redis.info("memory")["used_memory"] / 2**20
            created = self.count_visits(env)
            self.redis.flushdb()
            applied = self.fill(port, step=200, settle=True)
            one_generation = len(self.redis.client_list())
            newer, _ = self.web("app.main:app")
            with process(["-m", "jobs"], env):
                time.sleep(3)
                self.load(newer, "/hooks/standard", 100)
                two_generations = len(self.redis.client_list())
        print("\nRedis of 25 MB, noeviction, 2 KB deliveries")
        print(
            f"  503 after {queued} queued deliveries; a worker creates {created} visits of them, and {drained:.1f} MB remain"
        )
        print(f"  503 after {applied} applied deliveries")
        print(
            f"  {one_generation - 1} connections of one web and one worker process, "
            f"{two_generations - 1} with two of each"
        )

    def count_visits(self, env: dict[str, str]) -> int:
        headers = {"authorization": f"Bearer {env['VISITS_API_TOKEN']}"}
        response = httpx.get(f"{env['VISITS_API_URL']}/visits?limit=1", headers=headers)
        return int(response.json()["pagination"]["total"])

    def fill(self, port: int, step: int = 500, settle: bool = False) -> int:
        """Send deliveries until the first 503. Return how many were accepted."""
        accepted = 0
        while True:
            statuses = self.load(port, "/hooks/standard", step)["statuses"]
            accepted += statuses.get("202", 0)
            while settle and self.redis.zcard("bell:queued") + self.redis.zcard("bell:running"):
                time.sleep(0.05)
            if "503" in statuses:
                return accepted

    # Worker

    @contextmanager
    def api(self, response_time_s: float = 0) -> Iterator[dict[str, str]]:
        port = valkey.free_port()
        with process(["-m", "app", "sandbox", "--port", str(port)], self.env):
            wait_for_port(port)
            if response_time_s:
                slow = {"slow_share": 1, "slow_s": response_time_s}
                httpx.put(f"http://127.0.0.1:{port}/_sandbox/faults", json=slow).raise_for_status()
            yield self.env | {"VISITS_API_URL": f"http://127.0.0.1:{port}/api/v1", "LOG_LEVEL": "WARNING"}

    def wait_applied(self) -> float:
        """Wait until all tasks are done. Return the seconds since the first one."""
        while self.redis.zcard("bell:queued") == self.queued_at_start():
            time.sleep(0.005)
        started = time.perf_counter()
        while self.redis.zcard("bell:queued") + self.redis.zcard("bell:running"):
            time.sleep(0.01)
        return time.perf_counter() - started

    def queued_at_start(self) -> int:
        self._queued = getattr(self, "_queued", None) or int(self.redis.zcard("bell:queued"))
        return self._queued

    def workers(self) -> None:
        calls, one_worker = list[float](), list[float]()
        slow_api: dict[int, list[float]] = {1: [], 2: [], 4: []}
        for number in range(ROUNDS):
            with self.api() as env:
                url = env["VISITS_API_URL"]
                result = run(["-m", "tests.bench.worker", "calls", url, str(VISITS), f"c{number}"], env)
                calls.append(VISITS / result["seconds"])
            one_worker.append(self.apply_rate(1, f"a{number}"))
            for count, rates in slow_api.items():
                rates.append(self.apply_rate(count, f"t{count}-{number}", API_S))
        print(f"\nWorker: first creates, 4 calls each; medians of {ROUNDS} rounds")
        print(f"  only the HTTP calls             {median(calls):6.0f} visits/s")
        print(
            f"  one worker                      {median(one_worker):6.0f} visits/s"
            f"   {paired_ratio(one_worker, calls):.2f} x"
        )
        print(f"  with an API that takes {API_S * 1000:.0f} ms for every response, as over a network:")
        for count, rates in slow_api.items():
            name = f"{count} worker" + ("s" if count > 1 else "")
            print(f"  {name:31} {median(rates):6.0f} visits/s   {paired_ratio(rates, slow_api[1]):.2f} x one worker")

    def apply_rate(self, workers: int, seed: str, response_time_s: float = 0) -> float:
        """Return the visits per second that this number of workers applies."""
        self.redis.flushdb()
        self._queued = 0
        with self.api(response_time_s) as env, ExitStack() as started:
            run(["-m", "tests.bench.worker", "queue", self.url, str(VISITS), seed], env)
            for _ in range(workers):
                started.enter_context(process(["-m", "jobs"], env))
            return VISITS / self.wait_applied()


def paired_ratio(rates: list[float], baseline: list[float]) -> float:
    """Return the median of the ratios of each round, in which other load on the machine affects both rates."""
    return median(rate / base for rate, base in zip(rates, baseline, strict=True))


if __name__ == "__main__":
    if unknown := set(sys.argv[1:]) - set(PARTS):
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
    for part in sys.argv[1:] or PARTS:
        with ExitStack() as stack:
            getattr(Bench(stack), part)()
