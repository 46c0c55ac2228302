"""What the door is measured beside: a bare route with the same body and the same HMAC, and one with the same checks that
gives the job to arq."""

import base64
import gc
import hashlib
import hmac
import os
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
from arq import create_pool
from arq.connections import RedisSettings
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.bench.load import KEY

MOST = 262_144


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    app.state.pool = await create_pool(RedisSettings.from_dsn(os.environ["REDIS_URL"]), default_queue_name="peer")
    gc.collect()
    gc.freeze()
    yield


def signed(headers: Headers, raw: bytes) -> bool:
    message = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + raw
    expected = base64.b64encode(hmac.digest(KEY, message, hashlib.sha256))
    given = headers["webhook-signature"].split(" ")
    return any(hmac.compare_digest(b"v1," + expected, one.encode()) for one in given)


async def bare(request: Request) -> JSONResponse:
    assert signed(request.headers, await request.body())
    return JSONResponse({"ok": True}, 202)


async def capped(request: Request) -> bytes:
    raw = b""
    async for part in request.stream():
        raw += part
        if len(raw) > MOST:
            raise HTTPException(413)
    return raw


async def with_arq(request: Request) -> JSONResponse:
    """What the door checks, before the job."""
    headers = request.headers
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415)
    raw = await capped(request)
    for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        if len(headers.getlist(name)) != 1:
            raise HTTPException(401)
    if abs(time.time() - int(headers["webhook-timestamp"])) > 300 or not signed(headers, raw):
        raise HTTPException(401)
    orjson.loads(raw)
    await request.app.state.pool.enqueue_job("visit", uuid.uuid4().hex)
    return JSONResponse({"ok": True}, 202)


app = Starlette(
    routes=[Route("/bare", bare, methods=["POST"]), Route("/arq", with_arq, methods=["POST"])], lifespan=lifespan
)
