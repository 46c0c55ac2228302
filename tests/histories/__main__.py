"""`python -m tests.histories`: many histories of every source through all of Doorbell. Prints what failed, and how to run it
alone."""

import argparse
import logging
import sys
import time

import uvloop

from tests.histories import tools
from tests.histories.run import BATCH, World
from tests.support.harness import Server, redis_for_tests


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.histories", description=__doc__)
    parser.add_argument("--per-source", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="where the seeds begin")
    parser.add_argument(
        "--source", action="append", choices=sorted(tools()), help="only this one (more than once: these)"
    )
    parser.add_argument("--only", type=int, help="this one seed, with its account")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    with redis_for_tests() as redis_url, Server.sandbox() as sandbox:
        return uvloop.run(run(asked, redis_url, sandbox.url))


async def run(asked: argparse.Namespace, redis_url: str, sandbox_url: str) -> int:
    failed = 0
    async with World(redis_url, sandbox_url) as world:
        for source in asked.source or sorted(tools()):
            if asked.only is not None:
                (history,) = await world.batch([(source, asked.only)])
                print(history)
                failed += bool(history.problems)
            else:
                failed += await soak(world, source, asked.seed, asked.per_source)
    return 3 if failed else 0


async def soak(world: World, source: str, first: int, how_many: int) -> int:
    started, deliveries, failures = time.monotonic(), 0, list[int]()
    first -= first % BATCH  # so that each seed meets the same API when it runs alone
    seeds = range(first, first + how_many)
    for at in range(0, how_many, BATCH):
        for history in await world.batch([(source, seed) for seed in seeds[at : at + BATCH]]):
            deliveries += history.deliveries
            if history.problems:
                failures.append(history.seed)
                print(history, flush=True)
    seconds = time.monotonic() - started
    told = f"{len(failures)} failed: {' '.join(map(str, failures[:50]))}" if failures else "none failed"
    print(f"{source:14} {how_many} histories, {deliveries} deliveries, {seconds:.1f} s; {told}", flush=True)
    return len(failures)


if __name__ == "__main__":
    sys.exit(main())
