"""The web process: `uvicorn app.main:app`."""

import asyncio
import gc
import hmac
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from app.console import Console
from app.intake.endpoint import WebhookEndpoint
from app.intake.http_protocol import ON_SHUTDOWN, raise_file_limit
from app.intake.tracing import trace_requests
from app.ledger.ledger import Ledger
from app.ledger.redis import Redis, RedisAddress, RedisUnavailable
from app.settings.environment import SettingsError, read
from app.settings.model import Settings
from app.telemetry import logs, metrics, tracing
from app.telemetry.alerts import AlertMonitor
from app.telemetry.counters import Counters
from app.telemetry.logs import log
from app.telemetry.rejections import Rejections

#: How long Redis may take where no tool is in a hurry.
REDIS_TIMEOUT_S = 3.0


def create_app(settings: Settings) -> Starlette:
    # A connection for each patience: a deadline of its own for every request would cost more than a connection.
    entrances = settings.entrances
    patiences = {entrance.tool.definition.sender_timeout_s for entrance in entrances.values()}
    connections = {
        s: Redis(RedisAddress.from_url(settings.redis_url, settings.redis_tls_verify), s, fsync=settings.ack == "fsync")
        for s in patiences | {REDIS_TIMEOUT_S}
    }
    ledgers = {
        s: Ledger(connection, settings.retention_days, settings.body_keys) for s, connection in connections.items()
    }
    redis, ledger = connections[REDIS_TIMEOUT_S], ledgers[REDIS_TIMEOUT_S]
    refusals = Rejections(redis)
    secrets = {name: entrance.hook.secrets for name, entrance in entrances.items()}
    tally = Counters(settings.retention_days, secrets, settings.secret_key)
    intake = WebhookEndpoint(settings, ledgers, refusals, tally)
    # A connection of its own: a long answer to the console stands in front of no delivery.
    desk = Redis(RedisAddress.from_url(settings.redis_url, settings.redis_tls_verify), REDIS_TIMEOUT_S)
    console = Console(settings, Ledger(desk, settings.retention_days, settings.body_keys))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        running = asyncio.gather(
            refusals.run(),
            intake.run(),
            console.keep_cutting(),
            tally.run(redis),
            AlertMonitor(redis, settings).run(is_worker=False),
        )
        # Whatever start-up made stays for good: full collections over it are most of the 99th percentile.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000)
        log.info("web_started", hooks=sorted(settings.entrances))

        def leave() -> None:
            intake.start_draining()
            console.leave()

        yield {ON_SHUTDOWN: leave}
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await refusals.flush()
        await tally.flush(redis)
        await console.close()
        for connection in (*connections.values(), desk):
            await connection.close()

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> Response:
        try:
            async with asyncio.timeout(0.5):
                await redis.command("PING")
        except (RedisUnavailable, TimeoutError):
            return JSONResponse({"status": "unavailable", "check": "redis"}, 503)
        return JSONResponse({"status": "ok"})

    async def show_metrics(request: Request) -> Response:
        if not settings.metrics_token:
            return JSONResponse({"error": "not_found", "detail": "METRICS_TOKEN is not set"}, 404)
        given = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, f"Bearer {settings.metrics_token}".encode()):
            return JSONResponse({"error": "unauthorized", "detail": "Authorization: Bearer <METRICS_TOKEN>"}, 401)
        body, content_type = (await metrics.snapshot(ledger, settings)).encode(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    async def root(request: Request) -> Response:
        return RedirectResponse("/console", 303) if settings.has_console else await _no_such_page(request, Exception())

    routes = [
        Route("/", root),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", show_metrics),
        *console.routes(),
    ]
    return Doorbell(intake, routes, lifespan)


class Doorbell(Starlette):
    """The door stands in front of Starlette's middleware and router: most of what comes is for it."""

    def __init__(self, intake: WebhookEndpoint, routes: list[Route], lifespan: Lifespan[Any]) -> None:
        super().__init__(routes=routes, lifespan=lifespan, exception_handlers={404: _no_such_page})
        self.router.redirect_slashes = False
        self._intake = intake

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/hooks/"):
            await self._intake(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


async def _no_such_page(_: Request, __: Exception) -> Response:
    return JSONResponse({"error": "not_found", "detail": "there is nothing at this address"}, 404)


def _start() -> ASGIApp:
    """Refuses to start with every problem at once, as sentences and not as a traceback."""
    try:
        settings = read()
    except SettingsError as error:
        print(f"doorbell web cannot start:\n{error}", file=sys.stderr)
        sys.exit(3)
    logs.configure(settings)
    tracing.configure("web")
    raise_file_limit()
    return trace_requests(create_app(settings))


def __getattr__(name: str) -> ASGIApp:
    """`app` is made when uvicorn asks for it, so that importing this module needs no settings."""
    if name == "app":
        return _start()
    raise AttributeError(name)
