"""Starlette and arq: check the delivery, and enqueue an id, or id and body."""

import gc
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
from arq import create_pool
from arq.connections import RedisSettings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.bench.endpoints.checks import Rejected, check, verify


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    app.state.pool = await create_pool(RedisSettings.from_dsn(os.environ["REDIS_URL"]), default_queue_name="peer")
    gc.collect()
    gc.freeze()
    yield


async def check_json(request: Request) -> JSONResponse:
    raw = await request.body()
    verify(request.headers, raw)
    orjson.loads(raw)
    return await enqueue(request, uuid.uuid4().hex)


async def check_fields(request: Request) -> JSONResponse:
    check(request.headers, await request.body())
    return await enqueue(request, uuid.uuid4().hex)


async def check_and_store(request: Request) -> JSONResponse:
    return await enqueue(request, *check(request.headers, await request.body()))


async def enqueue(request: Request, *arguments: str) -> JSONResponse:
    await request.app.state.pool.enqueue_job("visit", *arguments)
    return JSONResponse({"ok": True}, 202)


async def reject(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Rejected)
    return JSONResponse({"ok": False}, error.status)


ROUTES = {"/": check_json, "/fields": check_fields, "/stored": check_and_store}
app = Starlette(
    routes=[Route(path, route, methods=["POST"]) for path, route in ROUTES.items()],
    exception_handlers={Rejected: reject},
    lifespan=lifespan,
)
