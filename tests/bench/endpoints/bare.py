"""A Starlette route that only reads the body and checks its signature: the least that any endpoint can do."""

import base64
import gc
import hashlib
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.bench.deliveries import FORM_KEY, PUBLIC_KEY
from tests.bench.endpoints.checks import signature

_PUBLIC_KEY = load_der_public_key(base64.b64decode(PUBLIC_KEY))
assert isinstance(_PUBLIC_KEY, Ed25519PublicKey)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    gc.collect()
    gc.freeze()
    yield


async def standard(request: Request) -> JSONResponse:
    headers, raw = request.headers, await request.body()
    expected = signature(headers["webhook-id"], headers["webhook-timestamp"], raw)
    return answer(hmac.compare_digest(expected, headers["webhook-signature"].encode()))


async def form(request: Request) -> JSONResponse:
    expected = base64.b64encode(hmac.digest(FORM_KEY.encode(), await request.body(), hashlib.sha256))
    return answer(hmac.compare_digest(expected, request.headers["x-acuity-signature"].encode()))


async def public_key(request: Request) -> JSONResponse:
    try:
        _PUBLIC_KEY.verify(base64.b64decode(request.headers["x-ghl-signature"]), await request.body())
    except InvalidSignature:
        return answer(False)
    return answer(True)


def answer(is_valid: bool) -> JSONResponse:
    return JSONResponse({"ok": is_valid}, 202 if is_valid else 401)


#: Matching takes a microsecond per route, so the one that is measured most comes first.
ROUTES = {"/standard": standard, "/form": form, "/public_key": public_key}
app = Starlette(routes=[Route(path, route, methods=["POST"]) for path, route in ROUTES.items()], lifespan=lifespan)
