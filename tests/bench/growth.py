"""The cost of a change with 1,000, 10,000 and 100,000 visits held: Redis' CPU time, bytes, and time of the console's pages.

HELD="1000 1000000" measures at other numbers. The visits start on the next 28 days.
"""

import os
import time
from statistics import median

import httpx

from app.settings.model import hash_password
from tests.bench.desk import KEY, PASSWORD, log_in
from tests.bench.servers import Endpoint, Servers, resident_mb, servers

HELD = [int(count) for count in os.environ.get("HELD", "1000 10000 100000").split()]
SAMPLE, LOADS = 2_000, 5
PAGES = {
    "overview": "/console",
    "deliveries": "/console/deliveries",
    "visits": "/console/visits",
    "a visit": "/console/visits/standard-held-7",
    "a search": "/console/search?q=standard-held-7",
}


def main() -> None:
    with servers() as stack:
        env = {"SECRET_KEY": KEY, "CONSOLE_PASSWORD_HASH": hash_password(PASSWORD)}
        endpoint, empty, held = stack.web(**env), stack.used_memory(), 0
        print(f"\nGrowth: {SAMPLE:,} further changes at each number of visits held")
        print(
            f"  {'visits':>9}{'Redis us':>10}{'Redis us':>10}{'bytes':>8}{'web':>6}"
            + "".join(f"{page:>12}" for page in PAGES)
        )
        print(f"  {'held':>9}{'accept':>10}{'apply':>10}{'a visit':>8}{'MB':>6}" + f"{'ms':>12}" * len(PAGES))
        for count in HELD:
            stack.hold_visits(held, count)
            bytes_per_visit = (stack.used_memory() - empty) / max(held, count)
            accept_us, apply_us = redis_us(stack, endpoint)
            held = max(held, count) + SAMPLE
            times = "".join(f"{ms:12.0f}" for ms in page_times_ms(endpoint))
            memory = resident_mb(endpoint.pid)
            print(
                f"  {count:9,}{accept_us:10.0f}{apply_us:10.0f}{bytes_per_visit:8.0f}{memory:6.0f}{times}", flush=True
            )


def redis_us(stack: Servers, endpoint: Endpoint) -> tuple[float, float]:
    """Return Redis' CPU time for accepting (the median of some loads) and for applying a change."""
    accept_us = list[float]()
    for _ in range(LOADS):
        before = redis_cpu_us(stack)
        stack.load(endpoint, requests=SAMPLE // LOADS)
        accept_us.append((redis_cpu_us(stack) - before) / SAMPLE * LOADS)
    before = redis_cpu_us(stack)
    with stack.sandbox() as env:
        stack.apply_queued(env)
    return median(accept_us), (redis_cpu_us(stack) - before) / SAMPLE


def redis_cpu_us(stack: Servers) -> float:
    cpu = stack.redis.info("cpu")
    return float(cpu["used_cpu_user_main_thread"] + cpu["used_cpu_sys_main_thread"]) * 1e6


def page_times_ms(endpoint: Endpoint) -> list[float]:
    url = f"http://127.0.0.1:{endpoint.port}"
    with httpx.Client(base_url=url, timeout=30, headers={"origin": url}) as http:
        headers = {"cookie": log_in(http)}
        return [median(page_ms(http, path, headers) for _ in range(7)) for path in PAGES.values()]


def page_ms(http: httpx.Client, path: str, headers: dict[str, str]) -> float:
    began = time.perf_counter()
    assert http.get(path, headers=headers).status_code in (200, 303)  # 303: the only match of a search
    return (time.perf_counter() - began) * 1000


if __name__ == "__main__":
    main()
