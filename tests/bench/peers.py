"""Endpoints with which the webhook endpoint is compared.

One only reads the body and computes the same HMAC. Two enqueue a job with arq: one checks the request as Doorbell does, and
one also checks the fields of the body.
"""

import base64
import gc
import hashlib
import hmac
import os
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Literal

import orjson
from arq import create_pool
from arq.connections import RedisSettings
from pydantic import AwareDatetime, BaseModel
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.bench.load import KEY

MAX_BODY = 262_144


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    app.state.pool = await create_pool(RedisSettings.from_dsn(os.environ["REDIS_URL"]), default_queue_name="peer")
    gc.collect()
    gc.freeze()
    yield


def has_valid_signature(headers: Headers, raw: bytes) -> bool:
    message = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + raw
    expected = base64.b64encode(hmac.digest(KEY, message, hashlib.sha256))
    signatures = headers["webhook-signature"].split(" ")
    return any(hmac.compare_digest(b"v1," + expected, signature.encode()) for signature in signatures)


async def bare(request: Request) -> JSONResponse:
    assert has_valid_signature(request.headers, await request.body())
    return JSONResponse({"ok": True}, 202)


async def read_limited(request: Request) -> bytes:
    raw = b""
    async for part in request.stream():
        raw += part
        if len(raw) > MAX_BODY:
            raise HTTPException(413)
    return raw


class Contact(BaseModel):
    email: str | None = None
    first_name: str | None = None
    last_name: str | None = None
    phone: str | None = None


class Visit(BaseModel):
    visit_id: str
    contact: Contact | None = None
    time_scheduled: AwareDatetime | None = None
    time_completed: AwareDatetime | None = None
    amount_collected: Decimal | None = None
    date_cancelled: AwareDatetime | None = None


class Body(BaseModel):
    type: Literal["visit.created", "visit.updated", "visit.completed", "visit.cancelled"]
    timestamp: AwareDatetime
    data: Visit


async def check_request(request: Request) -> JSONResponse:
    orjson.loads(await read_verified(request))
    return await enqueue(request)


async def check_fields(request: Request) -> JSONResponse:
    Body.model_validate_json(await read_verified(request))
    return await enqueue(request)


async def read_verified(request: Request) -> bytes:
    """Check the request as Doorbell does, and return its body."""
    headers = request.headers
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415)
    raw = await read_limited(request)
    for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        if len(headers.getlist(name)) != 1:
            raise HTTPException(401)
    if abs(time.time() - int(headers["webhook-timestamp"])) > 300 or not has_valid_signature(headers, raw):
        raise HTTPException(401)
    return raw


async def enqueue(request: Request) -> JSONResponse:
    await request.app.state.pool.enqueue_job("visit", uuid.uuid4().hex)
    return JSONResponse({"ok": True}, 202)


#: Matching takes a microsecond per route, so the slowest endpoint comes first.
ROUTES = {"/arq-fields": check_fields, "/arq": check_request, "/bare": bare}
app = Starlette(
    routes=[Route(path, endpoint, methods=["POST"]) for path, endpoint in ROUTES.items()], lifespan=lifespan
)
