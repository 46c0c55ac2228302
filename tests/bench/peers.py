"""The webhook endpoint beside those of other frameworks and queues, with the same checks and the same Redis.

Each peer checks type, size, signature, time and fields, and enqueues a job with the body, without recognizing repeats.
`make .venv/peers` installs the peers into an environment of their own.
"""

import sys
from statistics import median

from tests.bench.intake import HEADER, arq_endpoint, measure, show, values
from tests.bench.servers import ROOT, ROUNDS, Endpoint, Servers, servers

PYTHON = ROOT / ".venv/peers/bin/python"
ASGI = {
    "FastAPI + taskiq": "fastapi_taskiq",
    "FastAPI + SAQ": "fastapi_saq",
    "FastAPI + Dramatiq": "fastapi_dramatiq",
    "FastAPI + Celery": "fastapi_celery",
}
WSGI = {"Flask + RQ": "flask_rq", "Django + Celery": "django_celery"}


def start(stack: Servers) -> dict[str, Endpoint]:
    endpoints = {"Starlette + arq": arq_endpoint(stack)._replace(path="/stored")}
    endpoints |= {
        name: stack.asgi(f"tests.bench.endpoints.{module}:app", python=str(PYTHON)) for name, module in ASGI.items()
    }
    endpoints |= {
        name: stack.wsgi(f"tests.bench.endpoints.{module}:app", python=str(PYTHON)) for name, module in WSGI.items()
    }
    return endpoints


def main() -> None:
    if not PYTHON.exists():
        sys.exit("the peers are not installed; run `make .venv/peers`")
    with servers() as stack:
        peers = start(stack)
        results = measure(stack, {**peers, "doorbell": stack.web()})
    print(f"\nPeers: 32 connections, bodies of 2 KB, appendfsync always; medians of {ROUNDS} rounds\n{HEADER}")
    by_rate = sorted(results, key=lambda name: median(values(results, name, "rate")))
    for name in by_rate:
        show(name, results, name, ("doorbell",))
    best = next(name for name in reversed(by_rate) if name in peers)
    show("doorbell, beside the best peer", results, "doorbell", (best,))


if __name__ == "__main__":
    main()
