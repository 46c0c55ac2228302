"""The contract with `jobs`: arq's keys and the encoding of its jobs. `app` never imports `jobs`.

A job names a task and carries no data, so no personal data is in arq's keys, arguments or logs. The ledger's scripts
write it as arq 0.28 reads it, in the same step that writes the task.
"""

import json
from typing import Any


def serialize(job: dict[str, Any]) -> bytes:
    """JSON: with arq's default, pickle, anyone who can write to Redis could run code in the worker."""
    return json.dumps(job, default=lambda value: f"{type(value).__name__}").encode()


def deserialize(raw: bytes) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(raw)
    return read
