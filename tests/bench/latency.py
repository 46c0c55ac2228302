"""Latency at fixed arrival rates, of 25, 50 and 80 % of the capacity, and with 100,000 changes on hold.

The load is open: requests are due at fixed times, and each latency counts from the time at which its request was due.
"""

import os
import time
from statistics import median
from typing import Any

from tests.bench.intake import REQUESTS
from tests.bench.servers import ROUNDS, Endpoint, Servers, servers

SECONDS = float(os.environ.get("SECONDS", "10"))
WAITING = int(os.environ.get("WAITING", "100000"))
CONNECTIONS = 256
PERCENTILES = ("p50", "p99", "p99.9")


def main() -> None:
    with servers() as stack:
        endpoints = {"bare route": stack.asgi("tests.bench.endpoints.bare:app", "/standard"), "doorbell": stack.web()}
        print(f"\nLatency at fixed rates: bodies of 2 KB, {SECONDS:.0f} s each; medians of {ROUNDS} rounds, in ms")
        print(f"  {'':32}{'due/s':>8}" + "".join(f"{name:>9}" for name in PERCENTILES))
        for name, endpoint in endpoints.items():
            capacity = median(stack.load(endpoint, requests=REQUESTS)["rate"] for _ in range(ROUNDS))
            for share in (25, 50, 80):
                results = [open_load(stack, endpoint, capacity * share / 100) for _ in range(ROUNDS)]
                show(f"{name}, {share} % of {capacity:.0f}/s", capacity * share / 100, results)
                stack.redis.flushdb()
        backlog(stack, endpoints["doorbell"], capacity / 4)


def open_load(stack: Servers, endpoint: Endpoint, rate: float) -> dict[str, Any]:
    result = stack.load(endpoint, rate=rate, requests=int(rate * SECONDS), connections=CONNECTIONS)
    assert result["statuses"] == {"202": result["requests"]}, result
    return result


def show(title: str, rate: float, results: list[dict[str, Any]]) -> None:
    values = "".join(f"{median(result[name] for result in results):9.2f}" for name in PERCENTILES)
    print(f"  {title:32}{rate:8.0f}{values}", flush=True)


def backlog(stack: Servers, endpoint: Endpoint, rate: float) -> None:
    """Compare 100,000 changes on hold with as many applied ones: Redis is slower with more memory, whatever is in it.

    A worker runs, but the Visits API is down. At half of the capacity, web, worker and Redis would want more than two cores,
    and the latency would be that of a queue.
    """

    def loads() -> list[dict[str, Any]]:
        with stack.worker(stack.env):
            while stack.queued():  # the worker puts them on hold
                time.sleep(0.1)
            results = [open_load(stack, endpoint, rate) for _ in range(ROUNDS)]
        stack.redis.flushdb()
        return results

    empty = loads()
    stack.hold_visits(0, WAITING)
    applied = loads()
    stack.queue_visits(WAITING, "waiting")
    on_hold = loads()
    show("API down, empty ledger", rate, empty)
    show(f"API down, {WAITING:,} applied", rate, applied)
    show(f"API down, {WAITING:,} on hold", rate, on_hold)
    p99_applied, p99_on_hold = (median(result["p99"] for result in results) for results in (applied, on_hold))
    print(f"  p99 with {WAITING:,} on hold: {p99_on_hold / p99_applied:.2f} x with as many applied")


if __name__ == "__main__":
    main()
