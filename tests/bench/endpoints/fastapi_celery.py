"""FastAPI and Celery."""

from fastapi.concurrency import run_in_threadpool

from tests.bench.endpoints.celery_queue import apply_visit
from tests.bench.endpoints.fastapi_app import create_app


async def enqueue(id: str, body: str) -> None:
    await run_in_threadpool(apply_visit.delay, id, body)


app = create_app(enqueue)
