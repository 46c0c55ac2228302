"""`python -m tests.crash`: repeatedly kill web processes, workers and Redis under load. Exits 1 if a promise is broken."""

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
    parser.add_argument("--every", type=float, default=1.0, metavar="SECONDS", help="mean time between two kills")
    parser.add_argument("--visits", type=float, default=4.0, metavar="N", help="new visits per second")
    parser.add_argument(
        "--truncate", action="store_true", help="Redis' file loses its last bytes at every kill of Redis"
    )
    parser.add_argument("--fast", action="store_true", help="do not wait for the leases of dead workers at the end")
    options = parser.parse_args()
    plan = Plan(
        options.kills, options.seed, options.fsync, options.every, options.visits, options.truncate, options.fast
    )
    report = asyncio.run(run(plan))
    print(report)
    return 1 if report.breaches.all() else 0


if __name__ == "__main__":
    sys.exit(main())
