"""One worker beside a loop that makes the same calls, and the time from the 202 to the applied visit."""

import os
import random
import time
from statistics import median, quantiles

from tests.bench.deliveries import standard
from tests.bench.load import Connection
from tests.bench.servers import ROUNDS, Applied, Servers, paired_ratio, run, servers

VISITS = int(os.environ.get("VISITS", "3000"))
#: Deliveries that are sent one at a time to an idle system, in every round.
SINGLE = 40


def main() -> None:
    with servers() as stack:
        calls, worker = list[Applied](), list[Applied]()
        for number in range(ROUNDS):
            calls.append(make_calls(stack, f"c{number}"))
            worker.append(apply(stack, 1, f"a{number}"))
        print(f"\nWorker: first creates, 4 calls each; medians of {ROUNDS} rounds")
        for name, results in (("only the HTTP calls", calls), ("one worker", worker)):
            seconds, cpu_s = (median(values) for values in zip(*results, strict=True))
            print(f"  {name:32}{VISITS / seconds:6.0f} visits/s {cpu_s / VISITS * 1e6:8.0f} us CPU")
        by_rate, by_cpu = (
            paired_ratio(*pair) for pair in zip(zip(*calls, strict=True), zip(*worker, strict=True), strict=True)
        )
        print(f"  one worker: {by_rate:.2f} by rate / {by_cpu:.2f} by CPU time x only the HTTP calls")
        times_ms = idle_times_ms(stack)
        p50, p90 = median(times_ms), quantiles(times_ms, n=10)[-1]
        print(f"  from the 202 to the applied visit, idle: median {p50:.0f} ms, p90 {p90:.0f} ms")


def make_calls(stack: Servers, seed: str) -> Applied:
    """Have a loop make the calls of a first create with the worker's client, for each visit."""
    with stack.sandbox() as env:
        return Applied(**run("tests.bench.visits", "calls", env["VISITS_API_URL"], str(VISITS), seed, env=env))


def apply(stack: Servers, workers: int, seed: str, response_time_s: float = 0) -> Applied:
    stack.redis.flushdb()
    with stack.sandbox(response_time_s) as env:
        stack.queue_visits(VISITS, seed)
        return stack.apply_queued(env, workers)


def apply_rate(stack: Servers, workers: int, seed: str, response_time_s: float = 0) -> float:
    """Return the visits per second that this number of workers applies."""
    return VISITS / apply(stack, workers, seed, response_time_s).seconds


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
