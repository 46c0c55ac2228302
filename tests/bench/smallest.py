"""Heroku's smallest Redis: how many deliveries fit into 25 MB, and how many connections are used."""

import time

import httpx

from tests.bench.servers import Endpoint, Servers, servers

DELIVERIES = 2_000


def main() -> None:
    with servers() as stack:
        queued, applied = bytes_per_delivery(stack)
        print("\nRedis: one 2 KB delivery with its change, its visit and its indexes")
        print(f"  {queued:.0f} bytes queued, {applied:.0f} applied")
        stack.redis.flushdb()
        print("\nRedis of 25 MB, noeviction, 2 KB deliveries")
        stack.redis.config_set("maxmemory", "25mb")
        show_capacity(stack)


def bytes_per_delivery(stack: Servers) -> tuple[float, float]:
    endpoint = stack.web()
    stack.load(endpoint, requests=100)
    before = stack.used_memory()
    stack.load(endpoint, requests=DELIVERIES)
    queued = (stack.used_memory() - before) / DELIVERIES
    with stack.sandbox() as env:
        stack.apply_queued(env)
    return queued, (stack.used_memory() - before) / (DELIVERIES + 100)


def show_capacity(stack: Servers) -> None:
    endpoint = stack.web()
    queued = fill(stack, endpoint)
    with stack.sandbox() as env:
        stack.apply_queued(env)
        drained, created = stack.used_memory() / 2**20, count_visits(env)
        print(f"  503 after {queued} queued deliveries; a worker creates {created} visits, and {drained:.1f} MB remain")
        stack.redis.flushdb()
        with stack.worker(env):
            print(f"  503 after {fill(stack, endpoint, step=200, settle=True)} applied deliveries")
            one_generation = len(stack.redis.client_list()) - 1
            newer = stack.web()
            with stack.worker(env):
                time.sleep(3)
                stack.load(newer, requests=100)
                two_generations = len(stack.redis.client_list()) - 1
    print(f"  {one_generation} connections of one web and one worker process, {two_generations} with two of each")


def count_visits(env: dict[str, str]) -> int:
    headers = {"authorization": f"Bearer {env['VISITS_API_TOKEN']}"}
    response = httpx.get(f"{env['VISITS_API_URL']}/visits?limit=1", headers=headers)
    return int(response.json()["pagination"]["total"])


def fill(stack: Servers, endpoint: Endpoint, step: int = 500, settle: bool = False) -> int:
    """Send deliveries until the first 503. Return how many were accepted."""
    accepted = 0
    while True:
        statuses = stack.load(endpoint, requests=step)["statuses"]
        accepted += statuses.get("202", 0)
        while settle and stack.unfinished():
            time.sleep(0.05)
        if "503" in statuses:
            return accepted


if __name__ == "__main__":
    main()
