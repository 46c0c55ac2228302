"""`python -m tests.crash`: under load, kill -9 a door, a worker or Redis, again and again; compare. Exits 1 on a breach."""

import argparse
import asyncio
import sys
import time

from tests.crash.run import Plan, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--fsync", choices=["everysec", "always"], default="everysec")
    parser.add_argument("--every", type=float, default=1.0, metavar="SECONDS", help="one kill in so many seconds")
    parser.add_argument("--visits", type=float, default=4.0, metavar="N", help="so many visits begin in a second")
    parser.add_argument("--torn", action="store_true", help="Redis's file loses its last bytes at every kill of it")
    parser.add_argument("--fast", action="store_true", help="in the end the leases of the dead are not waited for")
    options = parser.parse_args()
    plan = Plan(options.kills, options.seed, options.fsync, options.every, options.visits, options.torn, options.fast)
    report = asyncio.run(run(plan))
    print(report)
    return 1 if report.breaches.all() else 0


if __name__ == "__main__":
    sys.exit(main())
