"""Latency at fixed arrival rates, of 25, 50 and 80 % of the capacity, and with 100,000 changes on hold.

The load is open: requests are due at fixed times, and each latency counts from the time at which its request was due.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from tests.bench.intake import REQUESTS
from tests.bench.servers import ROUNDS, Endpoint, Servers, paired_ratio, servers

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
    outage(capacity / 4)


def open_load(stack: Servers, endpoint: Endpoint, rate: float) -> dict[str, Any]:
    result = stack.load(endpoint, rate=rate, requests=int(rate * SECONDS), connections=CONNECTIONS)
    assert result["statuses"] == {"202": result["requests"]}, result
    return result


def show(title: str, rate: float, results: list[dict[str, Any]]) -> None:
    values = "".join(f"{median(result[name] for result in results):9.2f}" for name in PERCENTILES)
    print(f"  {title:32}{rate:8.0f}{values}", flush=True)


@contextmanager
def api_down(applied: int = 0, on_hold: int = 0) -> Iterator[tuple[Servers, Endpoint]]:
    """Start web and a worker whose Visits API does not respond, with visits of both kinds."""
    with servers() as stack:
        if applied:
            stack.hold_visits(0, applied)
        if on_hold:
            stack.queue_visits(on_hold, "waiting")
        with stack.worker(stack.env):
            wait_until_held(stack)
            yield stack, stack.web()


def wait_until_held(stack: Servers) -> None:
    while stack.queued():
        time.sleep(0.1)


def outage(rate: float) -> None:
    """Compare changes on hold with as many applied ones and with none. In turn, since other load changes within minutes."""
    with api_down() as empty, api_down(applied=WAITING) as applied, api_down(on_hold=WAITING) as on_hold:
        stacks = {"empty ledger": empty, f"{WAITING:,} applied": applied, f"{WAITING:,} on hold": on_hold}
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in stacks}
        for _ in range(ROUNDS):
            for name, (stack, endpoint) in stacks.items():
                results[name].append(open_load(stack, endpoint, rate))
                wait_until_held(stack)
            empty[0].redis.flushdb()
        for name in stacks:
            show(f"API down, {name}", rate, results[name])
        nothing, as_many, held = ([result["p99"] for result in rows] for rows in results.values())
    print(f"  p99 with {WAITING:,} on hold: {paired_ratio(held, nothing):.2f} x with an empty ledger, ", end="")
    print(f"{paired_ratio(held, as_many):.2f} x with as many applied")


if __name__ == "__main__":
    main()
