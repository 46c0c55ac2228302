"""`python -m tests.histories`: runs many histories of every source through all of Doorbell.

Prints every history that failed, with the command that runs it alone.
"""

import argparse
import logging
import sys
import time

import uvloop

from tests.histories import tools
from tests.histories.run import BATCH, World
from tests.support.clusters import redis_for_tests
from tests.support.harness import Server


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.histories", description=__doc__)
    parser.add_argument("--per-source", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument(
        "--source", action="append", choices=sorted(tools()), help="run only this source (may be repeated)"
    )
    parser.add_argument("--only", type=int, help="run only this seed, and print its log")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    with redis_for_tests() as redis_url, Server.sandbox() as sandbox:
        return uvloop.run(run(options, redis_url, sandbox.url))


async def run(options: argparse.Namespace, redis_url: str, sandbox_url: str) -> int:
    failed = 0
    async with World(redis_url, sandbox_url) as world:
        for source in options.source or sorted(tools()):
            if options.only is not None:
                (history,) = await world.batch([(source, options.only)])
                print(history)
                failed += bool(history.problems)
            else:
                failed += await soak(world, source, options.seed, options.per_source)
    return 3 if failed else 0


async def soak(world: World, source: str, first_seed: int, count: int) -> int:
    started, deliveries, failures = time.monotonic(), 0, list[int]()
    first_seed -= first_seed % BATCH  # so that a seed has the same API behavior when it runs alone
    seeds = range(first_seed, first_seed + count)
    for at in range(0, count, BATCH):
        for history in await world.batch([(source, seed) for seed in seeds[at : at + BATCH]]):
            deliveries += history.deliveries
            if history.problems:
                failures.append(history.seed)
                print(history, flush=True)
    seconds = time.monotonic() - started
    result = f"{len(failures)} failed: {' '.join(map(str, failures[:50]))}" if failures else "none failed"
    print(f"{source:14} {count} histories, {deliveries} deliveries, {seconds:.1f} s; {result}", flush=True)
    return len(failures)


if __name__ == "__main__":
    sys.exit(main())
