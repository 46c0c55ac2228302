"""Several workers with an API that takes as long as over a network."""

import os
from statistics import median

from jobs.concurrency import MAX_ACTIVE
from tests.bench.apply import VISITS
from tests.bench.servers import ROUNDS, Applied, Servers, paired_ratio, servers

API_S = 0.15
#: All slots of a worker, and so few that four workers do not need all processors of a small machine.
SLOTS = tuple(int(each) for each in os.environ.get("SLOTS", f"{MAX_ACTIVE['visits']} 20").split())


def main() -> None:
    applied: dict[tuple[int, int], list[Applied]] = {(slots, count): [] for slots in SLOTS for count in (1, 2, 4)}
    with servers() as stack:
        for number in range(ROUNDS):
            for (slots, count), results in applied.items():
                results.append(apply(stack, slots, count, f"t{slots}-{count}-{number}"))
    print(f"\nWorkers: an API that takes {API_S * 1000:.0f} ms for every response; medians of {ROUNDS} rounds")
    for (slots, count), results in applied.items():
        alone = [visits(slots) / result.seconds for result in applied[slots, 1]]
        rates = [visits(slots) / result.seconds for result in results]
        cores = median(result.cpu_s / result.seconds for result in results)
        name = f"{count} worker" + ("s" if count > 1 else "") + f", {slots} visits at once each"
        ratio = f"{paired_ratio(rates, alone):.2f} x one worker"
        print(f"  {name:36}{median(rates):6.0f} visits/s   {ratio}   they use {cores:.2f} of {os.cpu_count()} cores")


def visits(slots: int) -> int:
    return max(10, VISITS * slots // MAX_ACTIVE["visits"])


def apply(stack: Servers, slots: int, workers: int, seed: str) -> Applied:
    stack.redis.flushdb()
    with stack.sandbox(API_S) as env:
        stack.queue_visits(visits(slots), seed)
        return stack.apply_queued(env, workers, slots)


if __name__ == "__main__":
    main()
