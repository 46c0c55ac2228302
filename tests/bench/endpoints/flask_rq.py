"""Flask and RQ."""

import os

from flask import Flask, request
from redis import Redis
from rq import Queue

from tests.bench.endpoints.checks import Rejected, check

app = Flask(__name__)
queue = Queue("rq", connection=Redis.from_url(os.environ["REDIS_URL"]))


@app.post("/")
def receive() -> tuple[dict[str, bool], int]:
    try:
        job = check(request.headers, request.get_data())
    except Rejected as rejected:
        return {"ok": False}, rejected.status
    queue.enqueue("tests.bench.endpoints.flask_rq.apply_visit", *job)
    return {"ok": True}, 202


def apply_visit(id: str, body: str) -> None:
    """Only enqueued, never run."""
