"""One worker beside a loop that makes the same calls, and the time from the 202 to the applied visit."""

import os
import random
import time
from statistics import median, quantiles

from tests.bench.deliveries import standard
from tests.bench.load import Connection
from tests.bench.servers import ROUNDS, Servers, paired_ratio, run, servers

VISITS = int(os.environ.get("VISITS", "3000"))
#: Deliveries that are sent one at a time to an idle system, in every round.
SINGLE = 40


def main() -> None:
    with servers() as stack:
        calls, worker = list[float](), list[float]()
        for number in range(ROUNDS):
            calls.append(call_rate(stack, f"c{number}"))
            worker.append(apply_rate(stack, 1, f"a{number}"))
        print(f"\nWorker: first creates, 4 calls each; medians of {ROUNDS} rounds")
        print(f"  only the HTTP calls             {median(calls):6.0f} visits/s")
        print(f"  one worker                      {median(worker):6.0f} visits/s   {paired_ratio(worker, calls):.2f} x")
        times_ms = idle_times_ms(stack)
        p50, p90 = median(times_ms), quantiles(times_ms, n=10)[-1]
        print(f"  from the 202 to the applied visit, idle: median {p50:.0f} ms, p90 {p90:.0f} ms")


def call_rate(stack: Servers, seed: str) -> float:
    """Return the visits per second of a loop that makes the calls of a first create with the worker's client."""
    with stack.sandbox() as env:
        result = run("tests.bench.visits", "calls", env["VISITS_API_URL"], str(VISITS), seed, env=env)
    return VISITS / float(result["seconds"])


def apply_rate(stack: Servers, workers: int, seed: str, response_time_s: float = 0) -> float:
    """Return the visits per second that this number of workers applies."""
    stack.redis.flushdb()
    with stack.sandbox(response_time_s) as env:
        stack.queue_visits(VISITS, seed)
        return VISITS / stack.apply_queued(env, workers)


def idle_times_ms(stack: Servers) -> list[float]:
    """Return the milliseconds from each 202 until its visit is applied."""
    stack.redis.flushdb()
    connection, times_ms, rng = Connection(stack.web().port), list[float](), random.Random(1)
    with stack.sandbox() as env, stack.worker(env):
        for number in range(SINGLE * ROUNDS + 1):
            time.sleep(0.05 + rng.random() / 10)
            connection.send(standard("/hooks/standard", number, seed=1), 0)
            while not (status := connection.receive()):
                pass
            answered = time.perf_counter()
            assert status == 202
            while stack.unfinished():
                time.sleep(0.0005)
            times_ms.append((time.perf_counter() - answered) * 1000)
    return times_ms[1:]  # the first one waits until the worker has started


if __name__ == "__main__":
    main()
