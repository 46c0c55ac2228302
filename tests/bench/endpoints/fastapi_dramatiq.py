"""FastAPI and Dramatiq."""

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from fastapi.concurrency import run_in_threadpool

from tests.bench.endpoints.fastapi_app import create_app

dramatiq.set_broker(RedisBroker(url=os.environ["REDIS_URL"]))


@dramatiq.actor(actor_name="visit")
def apply_visit(id: str, body: str) -> None:
    """Only enqueued, never run."""


async def enqueue(id: str, body: str) -> None:
    await run_in_threadpool(apply_visit.send, id, body)


app = create_app(enqueue)
