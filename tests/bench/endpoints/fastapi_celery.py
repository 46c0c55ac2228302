"""FastAPI and Celery."""

from tests.bench.endpoints.celery_queue import apply_visit
from tests.bench.endpoints.fastapi_app import create_app


async def enqueue(id: str, body: str) -> None:
    apply_visit.delay(id, body)


app = create_app(enqueue)
