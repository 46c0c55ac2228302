"""The encoding of jobs, for arq. The scripts of the ledger write jobs in this format (lib/jobs.lua), as arq 0.28 reads them.

A job contains a task id and nothing else, so arq's keys, arguments and logs have no personal data.
"""

import json
from typing import Any


def serialize(job: dict[str, Any]) -> bytes:
    """Encode as JSON. With arq's default, pickle, a client that writes to Redis could run code in the worker."""
    return json.dumps(job, default=lambda value: f"{type(value).__name__}").encode()


def deserialize(raw: bytes) -> dict[str, Any]:
    job: dict[str, Any] = json.loads(raw)
    return job
