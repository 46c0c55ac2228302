"""Fresh processes: time until web and worker are ready, time of commands, CPU time and memory; medians of ten.

With BASE, the path of another checkout of Doorbell, its processes are measured in the same rounds.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

from app.cli.run import WEB_OPTIONS
from app.demo import valkey
from tests.bench.servers import ROOT, Servers, cpu_s, paired_ratio, process, resident_mb, servers

STARTS = int(os.environ.get("STARTS", "10"))
BASE = os.environ.get("BASE", "")
TIMEOUT_S = 60
COMMANDS = ("--help", "--version", "sources", "deliveries", "visits", "failures --json", "show NONE", "doctor")


class Started(NamedTuple):
    """What it took until a process was ready, or until a command ended. mb: resident memory; 0 of a command."""

    ms: float
    cpu_ms: float
    mb: float


def main() -> None:
    with servers() as stack:
        stack.load(stack.web(), requests=200)
        print(f"\nFresh processes; medians of {STARTS} starts\n  {'':32}{'ms':>8}{'CPU ms':>9}{'MB':>6}")
        show("python -c pass", lambda root: command(stack, root, "-c", "pass"), has_base=False)
        show("bare route", lambda root: web(stack, root, "tests.bench.endpoints.bare:app"), has_base=False)
        show("web, ready", lambda root: web(stack, root, "app.main:app", *WEB_OPTIONS))
        show("worker, first change applied", lambda root: worker(stack, root))
        for line in COMMANDS:
            show(f"doorbell {line}", lambda root, line=line: command(stack, root, "-m", "app", *line.split()))


def show(title: str, start: Callable[[Path], Started], has_base: bool = True) -> None:
    ours, base = list[Started](), list[Started]()
    for _ in range(STARTS):
        ours.append(start(ROOT))
        if has_base and BASE:
            base.append(start(Path(BASE)))
    ms, cpu_ms, mb = (median(values) for values in zip(*ours, strict=True))
    columns = zip(zip(*ours, strict=True), zip(*base, strict=True), strict=False)
    ratios = [f"{paired_ratio(values, others):.2f}" for values, others in columns if all(others)]
    memory = f"{mb:6.0f}" if mb else f"{'':6}"
    print(f"  {title:32}{ms:8.0f}{cpu_ms:9.0f}{memory}   {' / '.join(ratios)}{' x base' if ratios else ''}", flush=True)


def web(stack: Servers, root: Path, app: str, *options: str) -> Started:
    port, began = valkey.free_port(), time.perf_counter()
    arguments = [sys.executable, "-m", "uvicorn", app, "--port", str(port), "--log-level", "warning", *options]
    with process(arguments, stack.env, root=root) as running:
        wait_until(lambda: responds(port), running)
        return started(running.pid, began)


def responds(port: int) -> bool:
    """Return whether /readyz is answered 200, or 404 by the bare application, which has no such route."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as connection:
        connection.sendall(b"GET /readyz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
        return connection.recv(64)[9:12] in (b"200", b"404")
    return False


def worker(stack: Servers, root: Path) -> Started:
    stack.redis.flushdb()
    with stack.sandbox() as env:
        stack.queue_visits(1, str(time.time_ns()))
        began = time.perf_counter()
        with process([sys.executable, "-m", "jobs"], env, root=root) as running:
            wait_until(lambda: not stack.unfinished(), running)
            return started(running.pid, began)


def wait_until(is_ready: Callable[[], bool], running: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not is_ready():
        if running.poll() is not None or time.monotonic() > deadline:
            raise TimeoutError(f"{running.args} does not start")
        time.sleep(0.003)


def started(pid: int, began: float) -> Started:
    return Started((time.perf_counter() - began) * 1000, cpu_s(pid) * 1000, resident_mb(pid))


def command(stack: Servers, root: Path, *arguments: str) -> Started:
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *arguments], env=stack.env, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as running:
        _, status, usage = os.wait4(running.pid, 0)
        running.returncode = status
    cpu_ms = (usage.ru_utime + usage.ru_stime) * 1000
    return Started((time.perf_counter() - began) * 1000, cpu_ms, 0)


if __name__ == "__main__":
    main()
