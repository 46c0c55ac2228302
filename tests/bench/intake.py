"""The webhook endpoint beside a bare route and arq: connections, sizes, signatures, repeats, rejections.

The bare route reads the body and checks the same signature. arq's endpoint does all checks and enqueues an id. With BASE,
the path of another checkout of Doorbell, its endpoint is measured too.
"""

import os
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.deliveries import FORM_KEY, PUBLIC_KEY
from tests.bench.servers import ROUNDS, Endpoint, Servers, cpu_s, paired_ratio, servers

REQUESTS = int(os.environ.get("REQUESTS", "8000"))
BASE = os.environ.get("BASE", "")
#: Hooks of sources that do not sign as `standard` does.
HOOKS = {
    "HOOKS__GOHIGHLEVEL__SECRETS": PUBLIC_KEY,
    "HOOKS__GOHIGHLEVEL__TENANTS": "bench",
    "HOOKS__GOHIGHLEVEL__CREDENTIALS__TOKEN": "bench",
    "HOOKS__ACUITY__SECRETS": FORM_KEY,
    "HOOKS__ACUITY__CREDENTIALS__USER_ID": "1",
    "HOOKS__ACUITY__CREDENTIALS__API_KEY": FORM_KEY,
}
HEADER = f"  {'':32}{'/s':>8}{'p50 ms':>9}{'p99 ms':>9}{'us CPU':>8}   ratios by rate / by CPU time"
Results = dict[str, list[dict[str, Any]]]


def measure(stack: Servers, endpoints: dict[str, Endpoint], **options: Any) -> Results:
    """Load each endpoint in turn, in every round. options: of load_once."""
    results: Results = {name: [] for name in endpoints}
    for _ in range(ROUNDS):
        for name, endpoint in endpoints.items():
            results[name].append(load_once(stack, endpoint, **options))
        stack.redis.flushdb()
    return results


def load_once(stack: Servers, endpoint: Endpoint, status: str = "202", **options: Any) -> dict[str, Any]:
    """Return the result of a load, with the CPU time per request. status: that of every response."""
    before = cpu_s(endpoint.pid)
    result = stack.load(endpoint, **{"requests": REQUESTS, **options})
    assert result["statuses"] == {status: result["requests"]}, (endpoint, result)
    used_s = max(cpu_s(endpoint.pid) - before, 1 / os.sysconf("SC_CLK_TCK"))  # at least what the kernel can count
    return result | {"cpu_us": used_s / result["requests"] * 1e6}


def show(title: str, results: Results, name: str, peers: tuple[str, ...]) -> None:
    rate, p50, p99, cpu_us = (median(values(results, name, field)) for field in ("rate", "p50", "p99", "cpu_us"))
    print(f"  {title:32}{rate:8.0f}{p50:9.2f}{p99:9.2f}{cpu_us:8.0f}   {ratios(results, name, peers)}", flush=True)


def ratios(results: Results, name: str, peers: tuple[str, ...]) -> str:
    """Return the ratio to each peer by rate, and by CPU time per request, which other load distorts less."""
    parts = []
    for peer in peers:
        by_rate = paired_ratio(values(results, name, "rate"), values(results, peer, "rate"))
        by_cpu = paired_ratio(values(results, peer, "cpu_us"), values(results, name, "cpu_us"))
        parts.append(f"{by_rate:.2f} / {by_cpu:.2f} x {peer}")
    return "   ".join(parts)


def values(results: Results, name: str, field: str) -> list[float]:
    return [each[field] for each in results[name]]


def main() -> None:
    with servers() as stack:
        bare, arq = stack.asgi("tests.bench.endpoints.bare:app", "/standard"), arq_endpoint(stack)
        doorbell = stack.web(**HOOKS)
        endpoints = {"bare route": bare, "arq": arq, "arq, fields checked": arq._replace(path="/fields")}
        endpoints |= {"base": stack.web(Path(BASE), **HOOKS)} if BASE else {}
        endpoints |= {"doorbell": doorbell}
        print(f"\nIntake: 32 connections, bodies of 2 KB, appendfsync always; medians of {ROUNDS} rounds\n{HEADER}")
        results = measure(stack, endpoints)
        for name in endpoints:
            show(name, results, name, tuple(endpoints)[:-1])
        print(f"  {script_us(stack, doorbell):.0f} us of Redis per call of the accept script")
        compared = {"bare route": bare, "arq": arq, "doorbell": doorbell}
        for connections in (1, 8, 128, 1_000):
            results = measure(stack, compared, connections=connections)
            name = f"doorbell, {connections:,} connection" + ("s" if connections > 1 else "")
            show(name, results, "doorbell", ("bare route", "arq"))
        for size in (1, 4, 64):
            results = measure(stack, compared, size=size * 1024)
            show(f"doorbell, {size} KB", results, "doorbell", ("bare route", "arq"))
        for kind, hook in (("public_key", "gohighlevel"), ("form", "acuity")):
            pair = {"bare route": bare._replace(path=f"/{kind}"), "doorbell": doorbell._replace(path=f"/hooks/{hook}")}
            show(f"doorbell, {kind.replace('_', ' ')}", measure(stack, pair, kind=kind), "doorbell", ("bare route",))
        pair = {"bare route": bare, "doorbell": doorbell}
        show("doorbell, rejected", measure(stack, pair, status="401", kind="rejected"), "doorbell", ("bare route",))
        show("doorbell, repeated", measure_repeats(stack, bare, doorbell), "doorbell", ("bare route",))


def arq_endpoint(stack: Servers) -> Endpoint:
    return stack.asgi("tests.bench.endpoints.starlette_arq:app")


def script_us(stack: Servers, doorbell: Endpoint) -> float:
    """Return the server's time per script that it runs while it accepts deliveries."""
    stack.redis.config_resetstat()
    stack.load(doorbell, requests=REQUESTS)
    return float(stack.redis.info("commandstats")["cmdstat_evalsha"]["usec_per_call"])


def measure_repeats(stack: Servers, bare: Endpoint, doorbell: Endpoint) -> Results:
    """Send every delivery twice, and return the results of the second time."""
    results: Results = {"bare route": [], "doorbell": []}
    for seed in range(ROUNDS):
        stack.load(doorbell, requests=REQUESTS, seed=seed)
        results["bare route"].append(load_once(stack, bare, seed=seed))
        results["doorbell"].append(load_once(stack, doorbell, "200", seed=seed))
        stack.redis.flushdb()
    return results


if __name__ == "__main__":
    main()
