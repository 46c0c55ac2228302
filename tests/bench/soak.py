"""An hour at half of a worker's capacity (HOURS=24 for a day): memory of web, worker and Redis must not grow.

Redis holds every visit for RETENTION_DAYS, so its bytes per visit are what must not grow.
"""

import math
import os

from tests.bench.apply import apply_rate
from tests.bench.servers import Servers, resident_mb, servers

HOURS = float(os.environ.get("HOURS", "1"))
STEPS = 60
#: Of one load: its deliveries are signed when it begins, and a signature is valid for five minutes.
MAX_LOAD_S = 60
#: Rows before this one are not compared: caches fill, and Python's memory settles.
WARM = 6
WIDTH = 14


def main() -> None:
    with servers() as stack:
        rate = apply_rate(stack, 1, "capacity") / 2
        stack.redis.flushdb()
        print(f"\nSoak: {HOURS:g} h with {rate:.0f} deliveries/s")
        columns = ("min", "visits", "p50 ms", "p99 ms", "waiting", "web MB", "worker MB", "bytes a visit")
        print("  " + "".join(f"{name:>{WIDTH}}" for name in columns))
        rows = soak(stack, rate)
        for name, first, last in zip(
            ("web", "worker", "bytes a visit"), rows[min(WARM, len(rows) - 1)], rows[-1], strict=True
        ):
            print(f"  {name}: {last / first:.3f} x of the value at {WARM / STEPS:.0%} of the time")


def soak(stack: Servers, rate: float) -> list[tuple[float, float, float]]:
    """Print a row for each step. Return memory of web and worker in MB, and bytes per visit, of each."""
    endpoint, empty, rows, visits = stack.web(), stack.used_memory(), [], 0
    step_s = HOURS * 3600 / STEPS
    loads = math.ceil(step_s / MAX_LOAD_S)
    with stack.sandbox() as env, stack.worker(env) as worker:
        for number in range(STEPS):
            for _ in range(loads):
                result = stack.load(endpoint, rate=rate, requests=int(rate * step_s / loads), connections=64)
                visits += result["requests"]
            row = resident_mb(endpoint.pid), resident_mb(worker), (stack.used_memory() - empty) / visits
            rows.append(row)
            minutes = (number + 1) * step_s / 60
            values = (
                f"{minutes:.1f}",
                f"{visits:,}",
                f"{result['p50']:.1f}",
                f"{result['p99']:.1f}",
                f"{stack.unfinished():,}",
            )
            print(
                "  " + "".join(f"{text:>{WIDTH}}" for text in (*values, *(f"{value:.1f}" for value in row))), flush=True
            )
    return rows


if __name__ == "__main__":
    main()
