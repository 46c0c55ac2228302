"""The share of a core that Redis uses for four idle workers, over 30 s."""

import time
from contextlib import ExitStack

from tests.bench.servers import Servers, servers

WORKERS, SECONDS = 4, 30


def main() -> None:
    with servers() as stack, stack.sandbox() as env, ExitStack() as started:
        alone = redis_cpu_share(stack)
        for _ in range(WORKERS):
            started.enter_context(stack.worker(env))
        time.sleep(10)  # they start
        share = redis_cpu_share(stack)
        commands = commands_per_s(stack)
    print(
        f"\nRedis with {WORKERS} idle workers: {share:.2%} of a core, {commands:.0f} commands/s; {alone:.2%} without them"
    )


def redis_cpu_share(stack: Servers) -> float:
    before = used_cpu_s(stack)
    time.sleep(SECONDS)
    return (used_cpu_s(stack) - before) / SECONDS


def used_cpu_s(stack: Servers) -> float:
    usage = stack.redis.info("cpu")
    return float(usage["used_cpu_sys"] + usage["used_cpu_user"])


def commands_per_s(stack: Servers) -> float:
    before = stack.redis.info("stats")["total_commands_processed"]
    time.sleep(SECONDS)
    return float(stack.redis.info("stats")["total_commands_processed"] - before) / SECONDS


if __name__ == "__main__":
    main()
