"""How long visits whose look-up of the contact hangs delay others, with one worker."""

import time
from statistics import median

import httpx

from tests.bench.servers import ROUNDS, Servers, servers

HANGING, OTHERS, HANG_S = 200, 20, 30


def main() -> None:
    with servers() as stack:
        alone, behind = list[float](), list[float]()
        for number in range(ROUNDS):
            alone.append(seconds_of_others(stack, 0, number))
            behind.append(seconds_of_others(stack, HANGING, number))
    delays = [late - early for early, late in zip(alone, behind, strict=True)]
    print(f"\n{OTHERS} visits behind {HANGING} whose look-up hangs for {HANG_S} s; one worker, {ROUNDS} rounds")
    print(f"  applied {median(alone):.1f} s after the worker starts without them, {median(behind):.1f} s with them")
    print(f"  delayed by {median(delays):.1f} s (median), {max(delays):.1f} s (longest)")


def seconds_of_others(stack: Servers, hanging: int, number: int) -> float:
    """Return the seconds from the start of the worker until the others are applied. The hanging ones are queued first."""
    stack.redis.flushdb()
    with stack.sandbox() as env, httpx.Client(base_url=env["VISITS_API_URL"].removesuffix("/api/v1")) as sandbox:
        faults = {"slow_share": 1, "slow_s": HANG_S, "only": ["GET /contacts"], "matching": "hanging"}
        sandbox.put("/_sandbox/faults", json=faults).raise_for_status()
        if hanging:
            stack.queue_visits(hanging, f"hanging{number}")
        stack.queue_visits(OTHERS, f"other{number}")
        with stack.worker(env):
            started = time.perf_counter()
            while created(sandbox) < OTHERS:
                time.sleep(0.02)
            return time.perf_counter() - started


def created(sandbox: httpx.Client) -> int:
    return [call["route"] for call in sandbox.get("/_sandbox/journal").json()["journal"]].count("POST /visits")


if __name__ == "__main__":
    main()
