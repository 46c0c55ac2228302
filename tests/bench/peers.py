"""The webhook endpoint beside those of other frameworks and queues, with the same checks and the same Redis.

Each peer checks type, size, signature, time and fields, and enqueues a job with the body, without recognizing repeats.
`make .venv/peers` installs the peers into an environment of their own.
"""

import sys

from tests.bench.intake import HEADER, arq_endpoint, measure, show
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
    endpoints = {"Starlette + arq": arq_endpoint(stack)._replace(path="/fields")}
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
    for name in sorted(results, key=lambda name: max(each["rate"] for each in results[name])):
        show(name, results, name, ("doorbell",))
    best = max(peers, key=lambda name: sorted(each["rate"] for each in results[name])[ROUNDS // 2])
    show("doorbell, beside the best peer", results, "doorbell", (best,))


if __name__ == "__main__":
    main()
