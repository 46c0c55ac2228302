"""`python -m tests.crash`: repeatedly kill web processes, workers and Redis under load. Exits 1 if a promise is broken.

With --failovers, Redis is a primary with a replica, and Sentinels promote the replica when the primary is killed.
"""

import argparse
import asyncio
import sys
import time

from tests.crash.run import Plan, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--kills", type=int, help="default: 1000, or as many as failovers")
    parser.add_argument("--failovers", type=int, default=0, help="kills of a primary whose replica is promoted")
    parser.add_argument("--ack", choices=["write", "fsync", "replica"], default="write", help="ACK in the settings")
    parser.add_argument(
        "--lose-writes", type=float, default=0.0, metavar="SHARE", help="of the failovers, without the last writes"
    )
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--rate", type=int, default=0, metavar="N", help="VISITS_API_RATE in the settings")
    parser.add_argument("--minutes", type=float, default=60 * 24, help="kill nothing more after this time")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--fsync", choices=["everysec", "always"], default="everysec")
    parser.add_argument("--every", type=float, default=1.0, metavar="SECONDS", help="mean time between two kills")
    parser.add_argument("--visits", type=float, default=4.0, metavar="N", help="new visits per second")
    parser.add_argument(
        "--truncate", action="store_true", help="Redis' file loses its last bytes at every kill of Redis"
    )
    parser.add_argument("--fast", action="store_true", help="do not wait for the leases of dead workers at the end")
    options = parser.parse_args()
    kills = (options.failovers or 1_000) if options.kills is None else options.kills
    plan = Plan(
        kills=kills,
        seed=options.seed,
        fsync=options.fsync,
        kill_interval_s=options.every,
        visits_per_second=options.visits,
        truncate=options.truncate,
        fast=options.fast,
        failovers=options.failovers,
        ack=options.ack,
        lose_writes=options.lose_writes,
        replicas=options.replicas,
        rate=options.rate,
        minutes=options.minutes,
    )
    report = asyncio.run(run(plan))
    print(report)
    return 1 if report.breaches.all() else 0


if __name__ == "__main__":
    sys.exit(main())
