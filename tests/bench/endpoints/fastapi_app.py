"""A FastAPI application with one route that checks a delivery and hands it to a queue."""

import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response

from tests.bench.endpoints.checks import Rejected, check


def create_app(
    enqueue: Callable[[str, str], Awaitable[Any]], start: Callable[[], Awaitable[Any]] | None = None
) -> FastAPI:
    """enqueue: takes id and body of a delivery. start: connects to Redis."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if start:
            await start()
        gc.collect()
        gc.freeze()
        yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/", status_code=202)
    async def receive(request: Request, response: Response) -> dict[str, bool]:
        try:
            job = check(request.headers, await request.body())
        except Rejected as rejected:
            response.status_code = rejected.status
            return {"ok": False}
        await enqueue(*job)
        return {"ok": True}

    return app
