"""FastAPI and SAQ."""

import os
from typing import Any

from saq import Queue

from tests.bench.endpoints.fastapi_app import create_app

queue = Queue.from_url(os.environ["REDIS_URL"], name="saq")


async def enqueue(id: str, body: str) -> Any:
    return await queue.enqueue("visit", id=id, body=body)


app = create_app(enqueue, queue.connect)
