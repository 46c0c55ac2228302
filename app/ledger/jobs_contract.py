"""The contract with `jobs`: what a job is called, and what it carries. `app` never imports `jobs`.

A job is arq's errand for one piece of work; it carries a name and no data, so that nobody's name is ever in arq's keys,
arguments or logs. ledger.lua writes it in the shape that arq 0.28 reads, in the same step that writes the facts.
"""

import json
from typing import Any

#: arq's sorted set of jobs.
QUEUE_KEY = "bell:queue:visits"
#: The sorted set of the workers that live, by their last heartbeat in ms.
WORKERS_KEY = "bell:workers"

#: What a job can be, by the name that the worker registers it under; also the first word of the work's own name.
VISIT, EVENT = "visit", "event"
JOBS = (VISIT, EVENT)


def visit_task_id(account: str, external_id: str) -> str:
    return f"{VISIT}:{account}/{external_id}"


def event_task_id(delivery_id: str) -> str:
    return f"{EVENT}:{delivery_id}"


def serialize(job: dict[str, Any]) -> bytes:
    """arq's jobs as JSON: its default, pickle, would let whoever can write to Redis run code in the worker."""
    return json.dumps(job, default=lambda value: f"{type(value).__name__}").encode()


def deserialize(raw: bytes) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(raw)
    return read
