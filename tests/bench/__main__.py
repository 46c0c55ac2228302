"""`make bench`: side by side in one run, medians over rounds, ratios. It asserts nothing: these machines are shared.

The web process has core 0, Redis and the load core 1; workers and the sandbox share what there is.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import redis

from app.demo import valkey
from tests.bench.load import SECRET

ROUNDS = int(os.environ.get("ROUNDS", "5"))
DELIVERIES = 8_000
VISITS = 3_000
WAITING = 100_000
API_S = 0.15
HERE = Path(__file__).parents[2]


def pinned(core: int | None) -> Callable[[], None] | None:
    if core is None or not hasattr(os, "sched_setaffinity") or (os.cpu_count() or 1) < 2:
        return None
    return lambda: os.sched_setaffinity(0, {core})


@contextmanager
def process(arguments: list[str], env: dict[str, str], core: int | None = None) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, *arguments]
    running = subprocess.Popen(command, env=env, cwd=HERE, stdout=subprocess.DEVNULL, preexec_fn=pinned(core))
    try:
        yield running
    finally:
        running.terminate()
        running.wait(30)


def ran(arguments: list[str], env: dict[str, str], core: int | None = None) -> Any:
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, env=env, cwd=HERE, capture_output=True, text=True, preexec_fn=pinned(core), check=True
    )
    return json.loads(done.stdout) if done.stdout else None


def listening(port: int) -> None:
    """Wait for a process that has just been started."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on {port}")


def cpu_s(pid: int) -> float:
    """Processor seconds of a process so far: steadier than rates on a machine that others use too."""
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
        # A rewrite of the file takes half of core 1 for a second, in whoever's round it falls.
        self.redis.config_set("auto-aof-rewrite-percentage", 0)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.env = {
            **os.environ,
            "REDIS_URL": self.url,
            "HOOKS__STANDARD__SECRETS": SECRET,
            "VISITS_API_TOKEN": "bench",
            "VISITS_API_URL": "http://127.0.0.1:1/api/v1",
        }

    # -- the door --

    def web(self, app: str) -> tuple[int, int]:
        port = valkey.free_port()
        arguments = ["-m", "uvicorn", app, "--port", str(port), "--no-access-log", "--log-level", "warning"]
        if app == "app.main:app":
            arguments = ["-m", "app", "web", "--port", str(port)]
        running = self.stack.enter_context(process(arguments, self.env, core=0))
        listening(port)
        return port, running.pid

    def load(self, port: int, path: str, deliveries: int = DELIVERIES) -> Any:
        seed = str(time.time_ns() % 10**9)
        return ran(["-m", "tests.bench.load", str(port), path, "32", str(deliveries), seed], self.env, core=1)

    def door(self) -> None:
        peers, own = self.web("tests.bench.peers:app"), self.web("app.main:app")
        ways = {
            "bare route": (peers, "/bare"),
            "arq": (peers, "/arq"),
            "arq, fields checked": (peers, "/arq-fields"),
            "doorbell": (own, "/hooks/standard"),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        spent: dict[str, list[float]] = {name: [] for name in ways}
        tails: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, ((port, pid), path) in ways.items():
                before = cpu_s(pid)
                result = self.load(port, path)
                rates[name].append(result["rate"])
                tails[name].append(result["p99"])
                spent[name].append((cpu_s(pid) - before) / DELIVERIES * 1e6)
                assert result["statuses"] == {"202": DELIVERIES}, result
            self.redis.flushdb()
        print(f"\nThe door: 2 KB deliveries, 32 connections, appendfsync always; medians of {ROUNDS} rounds")
        for name in ways:
            others = ("bare route", "arq", "arq, fields checked")
            against = [f"{paired(rates[name], rates[other]):.2f} x {other}" for other in others]
            print(
                f"  {name:20} {middle(rates[name]):8.0f}/s   p99 {middle(tails[name]):6.1f} ms"
                f"   {middle(spent[name]):5.0f} us of processor   {'   '.join(against)}"
            )
        self.backlog(own[0])

    def backlog(self, port: int) -> None:
        """The Visits API is down, and 100,000 changes wait: does the door notice?"""
        empty = []
        for _ in range(ROUNDS):
            self.redis.flushdb()
            self.load(port, "/hooks/standard", 1_000)
            empty.append(self.load(port, "/hooks/standard", 4_000)["p99"])
        self.redis.flushdb()
        ran(["-m", "tests.bench.worker", "queue", self.url, str(WAITING), "waiting"], self.env)
        full = [self.load(port, "/hooks/standard", 4_000)["p99"] for _ in range(ROUNDS)]
        ratio = middle(full) / middle(empty)
        print(
            f"  p99 with {WAITING} changes waiting {middle(full):.1f} ms"
            f"   {ratio:.2f} x {middle(empty):.1f} ms with none"
        )
        self.redis.flushdb()

    # -- memory --

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

    # -- Heroku's smallest Redis --

    def smallest(self) -> None:
        """25 MB and 20 connections: what fits, and what becomes of it when it is full."""
        self.redis.config_set("maxmemory", "25mb")
        port, _ = self.web("app.main:app")
        queued = self.fill(port)
        with self.api() as env, process(["-m", "jobs"], env):
            self.wait_applied()
            drained = self.redis.info("memory")["used_memory"] / 2**20
            made = self.made(env)
            self.redis.flushdb()
            applied = self.fill(port, step=200, settle=True)
            one = len(self.redis.client_list())
            newer, _ = self.web("app.main:app")
            with process(["-m", "jobs"], env):
                time.sleep(3)
                self.load(newer, "/hooks/standard", 100)
                two = len(self.redis.client_list())
        print("\nRedis of 25 MB, noeviction, 2 KB deliveries")
        print(
            f"  503 after {queued} that are queued; of them a worker makes {made} visits, and ends at {drained:.1f} MB"
        )
        print(f"  503 after {applied} that are applied")
        print(f"  {one - 1} connections of one web and one worker, {two - 1} of two generations of them")

    def made(self, env: dict[str, str]) -> int:
        """Visits that stand in the API."""
        headers = {"authorization": f"Bearer {env['VISITS_API_TOKEN']}"}
        answer = httpx.get(f"{env['VISITS_API_URL']}/visits?limit=1", headers=headers)
        return int(answer.json()["pagination"]["total"])

    def fill(self, port: int, step: int = 500, settle: bool = False) -> int:
        """How many were accepted before the first 503."""
        accepted = 0
        while True:
            statuses = self.load(port, "/hooks/standard", step)["statuses"]
            accepted += statuses.get("202", 0)
            while settle and self.redis.zcard("bell:queued") + self.redis.zcard("bell:running"):
                time.sleep(0.05)
            if "503" in statuses:
                return accepted

    # -- the worker --

    @contextmanager
    def api(self, answers_after_s: float = 0) -> Iterator[dict[str, str]]:
        port = valkey.free_port()
        with process(["-m", "app", "sandbox", "--port", str(port)], self.env):
            listening(port)
            if answers_after_s:
                slow = {"slow_share": 1, "slow_s": answers_after_s}
                httpx.put(f"http://127.0.0.1:{port}/_sandbox/faults", json=slow).raise_for_status()
            yield self.env | {"VISITS_API_URL": f"http://127.0.0.1:{port}/api/v1", "LOG_LEVEL": "WARNING"}

    def wait_applied(self) -> float:
        """Seconds from the first applied to the last."""
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
        calls, alone = list[float](), list[float]()
        together: dict[int, list[float]] = {1: [], 2: [], 4: []}
        for number in range(ROUNDS):
            with self.api() as env:
                url = env["VISITS_API_URL"]
                done = ran(["-m", "tests.bench.worker", "calls", url, str(VISITS), f"c{number}"], env)
                calls.append(VISITS / done["seconds"])
            alone.append(self.applied(1, f"a{number}"))
            for many, rates in together.items():
                rates.append(self.applied(many, f"t{many}-{number}", API_S))
        print(f"\nThe worker: first creates, 4 calls each; medians of {ROUNDS} rounds")
        print(f"  the same calls and nothing else {middle(calls):6.0f} visits/s")
        print(f"  one worker                      {middle(alone):6.0f} visits/s   {paired(alone, calls):.2f} x")
        print(f"  with an API that takes {API_S * 1000:.0f} ms for every answer, as one across the network may:")
        for many, rates in together.items():
            name = f"{many} worker" + ("s" if many > 1 else "")
            print(f"  {name:31} {middle(rates):6.0f} visits/s   {paired(rates, together[1]):.2f} x one worker")

    def applied(self, workers: int, seed: str, answers_after_s: float = 0) -> float:
        """Visits a second that so many workers apply."""
        self.redis.flushdb()
        self._queued = 0
        with self.api(answers_after_s) as env, ExitStack() as started:
            ran(["-m", "tests.bench.worker", "queue", self.url, str(VISITS), seed], env)
            for _ in range(workers):
                started.enter_context(process(["-m", "jobs"], env))
            return VISITS / self.wait_applied()


def middle(values: list[float]) -> float:
    return statistics.median(values)


def paired(rates: list[float], others: list[float]) -> float:
    """The median of the rounds' own ratios: what the machine does meanwhile hits both sides of one."""
    return statistics.median(rate / other for rate, other in zip(rates, others, strict=True))


if __name__ == "__main__":
    wanted = sys.argv[1:] or ["door", "memory", "smallest", "workers"]
    for part in wanted:
        with ExitStack() as stack:
            getattr(Bench(stack), part)()
