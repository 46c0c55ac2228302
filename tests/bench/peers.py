"""What the door is measured beside: a bare route with the same body and the same HMAC, and one that gives the job to arq."""

import base64
import gc
import hashlib
import hmac
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

from tests.bench.load import KEY


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    app.state.pool = await create_pool(RedisSettings.from_dsn(os.environ["REDIS_URL"]), default_queue_name="peer")
    gc.collect()
    gc.freeze()
    yield


async def checked(request: Request) -> bytes:
    raw = await request.body()
    headers = request.headers
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + raw
    expected = base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256))
    assert hmac.compare_digest(expected, headers["webhook-signature"].encode().removeprefix(b"v1,"))
    return raw


async def bare(request: Request) -> JSONResponse:
    await checked(request)
    return JSONResponse({"ok": True}, 202)


async def with_arq(request: Request) -> JSONResponse:
    orjson.loads(await checked(request))
    await request.app.state.pool.enqueue_job("visit", uuid.uuid4().hex)
    return JSONResponse({"ok": True}, 202)


app = Starlette(
    routes=[Route("/bare", bare, methods=["POST"]), Route("/arq", with_arq, methods=["POST"])], lifespan=lifespan
)
