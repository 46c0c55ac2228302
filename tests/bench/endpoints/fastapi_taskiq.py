"""FastAPI and taskiq."""

import os
from typing import Any

from taskiq_redis import ListQueueBroker

from tests.bench.endpoints.fastapi_app import create_app

broker = ListQueueBroker(os.environ["REDIS_URL"], queue_name="taskiq")


@broker.task(task_name="visit")
async def apply_visit(id: str, body: str) -> None:
    """Only enqueued, never run."""


async def enqueue(id: str, body: str) -> Any:
    return await apply_visit.kiq(id, body)


app = create_app(enqueue, broker.startup)
