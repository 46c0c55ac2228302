"""Where the time goes: a table per function for web and worker, and flame graphs with py-spy, in build/profile.

The table is of cProfile, which makes small functions look slower than they are; the flame graphs are of samples.
`make .venv/peers` installs py-spy.
"""

import os
import pstats
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.cli.run import WEB_OPTIONS
from app.demo import valkey
from tests.bench.servers import ROOT, Endpoint, Servers, servers, wait_for_port

REQUESTS = int(os.environ.get("REQUESTS", "8000"))
VISITS = int(os.environ.get("VISITS", "2000"))
FOLDER = ROOT / "build/profile"
PY_SPY = ROOT / ".venv/peers/bin/py-spy"
FUNCTIONS, SHOWN = 60, 22


class Profiler:
    """A command that runs a module of Python and writes a profile at its end."""

    def __init__(self, name: str) -> None:
        self.command = [sys.executable, "-m", "tests.bench.profiled", str(FOLDER / f"{name}.pstats")]

    def start(self, running: "subprocess.Popen[bytes]") -> None:
        """Begin to profile: what a process does to start is of no interest."""
        os.kill(running.pid, signal.SIGUSR1)

    def stop(self, running: "subprocess.Popen[bytes]") -> None:
        os.kill(running.pid, signal.SIGTERM)


class PySpy(Profiler):
    def __init__(self, name: str) -> None:
        output = str(FOLDER / f"{name}.svg")
        self.command = [str(PY_SPY), "record", "--rate", "500", "--output", output, "--", sys.executable, "-m"]

    def start(self, running: "subprocess.Popen[bytes]") -> None:
        pass

    def stop(self, running: "subprocess.Popen[bytes]") -> None:
        child, *_ = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGTERM)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with servers() as stack:
        for profiler in (Profiler, *([PySpy] if PY_SPY.exists() else [])):
            profile_web(stack, profiler("web"))
            profile_worker(stack, profiler("worker"))
    for name, count, unit in (("web", REQUESTS, "delivery"), ("worker", VISITS, "visit")):
        table = FOLDER / f"{name}.txt"
        table.write_text(format_table(FOLDER / f"{name}.pstats", count, unit))
        print("\n" + "".join(table.read_text().splitlines(keepends=True)[:SHOWN]), end="")
    files = sorted(path for path in FOLDER.iterdir() if path.suffix in (".txt", ".svg"))
    print(f"\nmore in {', '.join(str(path.relative_to(ROOT)) for path in files)}")


@contextmanager
def profiled(
    profiler: Profiler, module: str, *arguments: str, env: dict[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    command = [*profiler.command, module, *arguments]
    running = subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield running
    finally:
        profiler.stop(running)
        running.wait(60)


def profile_web(stack: Servers, profiler: Profiler) -> None:
    port = valkey.free_port()
    arguments = ["app.main:app", "--port", str(port), "--log-level", "warning", *WEB_OPTIONS]
    with profiled(profiler, "uvicorn", *arguments, env=stack.env) as running:
        wait_for_port(port, running)
        endpoint = Endpoint(port, "/hooks/standard", running.pid)
        stack.load(endpoint, requests=100)
        profiler.start(running)
        stack.load(endpoint, requests=REQUESTS)


def profile_worker(stack: Servers, profiler: Profiler) -> None:
    stack.redis.flushdb()
    with stack.sandbox() as env, profiled(profiler, "jobs", env=env) as running:
        stack.queue_visits(1, "first")
        stack.wait_applied()
        profiler.start(running)
        stack.queue_visits(VISITS, "profile")
        while stack.unfinished():
            time.sleep(0.05)


def format_table(file: Path, count: int, unit: str) -> str:
    """Return the functions with the most time of their own. count: deliveries or visits."""
    stats = pstats.Stats(str(file)).stats  # type: ignore[attr-defined]
    rows = [
        (own / count * 1e6, total / count * 1e6, calls / count, describe(*function))
        for function, (_, calls, own, total, _) in stats.items()
    ]
    lines = [
        f"{file.stem}: us per {unit}, by time of their own",
        f"{'own':>8}{'with callees':>14}{'calls':>9}  function",
    ]
    lines += [
        f"{own:8.1f}{total:14.1f}{calls:9.2f}  {name}"
        for own, total, calls, name in sorted(rows, reverse=True)[:FUNCTIONS]
    ]
    return "\n".join(lines) + "\n"


def describe(path: str, line: int, name: str) -> str:
    """Return the function without the folders above the project or above the packages."""
    short = path.partition("site-packages/")[2] or path.removeprefix(f"{ROOT}/")
    return name if path == "~" else f"{short}:{line} {name}"


if __name__ == "__main__":
    main()
