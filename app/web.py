"""The web process: the webhook endpoint, the console, `/healthz`, `/readyz` and `/metrics`."""

import asyncio
import gc
import hmac
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app.connections.stored_hooks import StoredHooks
from app.console import Console
from app.intake.endpoint import WebhookEndpoint
from app.intake.fast_path import FastPath
from app.intake.http_protocol import ON_SHUTDOWN, TAKE_REQUEST, raise_file_limit
from app.intake.tracing import trace_requests
from app.ledger import scripts
from app.ledger.ledger import Ledger, check_one_shard
from app.ledger.redis import Redis, RedisAddress, RedisUnavailable, ServerUnusable
from app.settings.environment import SettingsError, read_environment
from app.settings.model import Settings
from app.telemetry import logs, tracing
from app.telemetry.arrivals import Arrivals
from app.telemetry.counters import Counters
from app.telemetry.logs import log
from app.telemetry.rejections import Rejections
from app.webhooks.delivery import Delivery

#: For everything that is not a webhook, whose deadline its source sets.
REDIS_TIMEOUT_S = 3.0
READY_TIMEOUT_S = 0.5
#: Allocations between two garbage collections of the youngest generation; Python's default is 700.
GC_THRESHOLD = 20_000


class Services(NamedTuple):
    """Everything that the web process runs. The console has its own ledger, so a long reply to it delays no delivery."""

    settings: Settings
    ledgers: "Ledgers"
    console_ledger: Ledger
    rejections: Rejections
    arrivals: Arrivals
    counters: Counters
    stored_hooks: StoredHooks
    webhooks: WebhookEndpoint
    console: Console

    @property
    def ledger(self) -> Ledger:
        return self.ledgers[REDIS_TIMEOUT_S]

    @property
    def connections(self) -> list[Redis]:
        return [ledger.redis for ledger in (*self.ledgers.values(), self.console_ledger)]


class Ledgers(dict[float, Ledger]):
    """The ledger for each deadline of a sender, with its own connection: a deadline per request would cost more."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings

    def __missing__(self, timeout_s: float) -> Ledger:
        ledger = self[timeout_s] = _open_ledger(self._settings, timeout_s)
        return ledger


def build_services(settings: Settings) -> Services:
    ledgers, console_ledger = Ledgers(settings), _open_ledger(settings, REDIS_TIMEOUT_S, is_intake=False)
    ledger = ledgers[REDIS_TIMEOUT_S]
    rejections = Rejections(ledger.redis)
    arrivals = Arrivals(console_ledger.redis, partial(_diagnose, settings))
    counters = Counters(settings.retention_days, settings.secret_key)
    stored_hooks = StoredHooks(ledger.redis, settings)
    discover = stored_hooks.discover if settings.secret_key else None
    webhooks = WebhookEndpoint(settings, ledgers, rejections, counters, arrivals, discover)
    stored_hooks.on_change = webhooks.update_hooks
    return Services(
        settings,
        ledgers,
        console_ledger,
        rejections=rejections,
        arrivals=arrivals,
        counters=counters,
        stored_hooks=stored_hooks,
        webhooks=webhooks,
        console=Console(settings, console_ledger, counters, stored_hooks),
    )


def _diagnose(settings: Settings, hook: str, request: Delivery) -> Sequence[str]:
    from app.operators.signature_diagnosis import find_causes  # readiness does not need it

    return find_causes(settings, hook, request)


def _open_ledger(settings: Settings, timeout_s: float, *, is_intake: bool = True) -> Ledger:
    address = RedisAddress.from_url(settings.redis_url, settings.redis_tls_verify)
    redis = Redis(address, timeout_s, acknowledge=settings.ack if is_intake else "write")
    return Ledger(redis, settings.retention_days, settings.body_keys)


class Doorbell(Starlette):
    """Starlette, with the webhooks in front of its middleware and router: most requests are webhooks."""

    def __init__(self, services: Services) -> None:
        routes: list[BaseRoute] = [
            Route("/", index),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", show_metrics),
            *services.console.routes(),
        ]
        super().__init__(routes=routes, lifespan=lifespan, exception_handlers={404: not_found})
        self.router.redirect_slashes = False
        self.state.services, self.state.console = services, services.console
        self._webhooks = services.webhooks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/hooks/"):
            await self._webhooks(scope, receive, send)
        elif scope["type"] == "lifespan" and (problem := await self._server_problem()):
            await receive()
            await send({"type": "lifespan.startup.failed", "message": f"doorbell web cannot start:\n{problem}"})
        else:
            await super().__call__(scope, receive, send)

    async def _server_problem(self) -> str:
        """Return why this Redis cannot be used. An unreachable one is no problem: it may be reachable later."""
        services: Services = self.state.services
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                await check_one_shard(services.ledger.redis)
        except ServerUnusable as error:
            return str(error)
        except (RedisUnavailable, TimeoutError) as error:
            log.warning("redis_unavailable", reason=str(error) or "Redis does not answer in time")
        return ""


def create_app(settings: Settings) -> Starlette:
    return Doorbell(build_services(settings))


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    services: Services = app.state.services
    background = asyncio.gather(
        services.rejections.run(),
        services.arrivals.run(),
        services.webhooks.run(),
        services.stored_hooks.follow(),
        services.console.run(),
        services.counters.run(services.ledger.redis),
        _send_alerts(services),
        return_exceptions=True,  # so that the end of one is not taken for the end of all
    )
    scripts.check_callers()
    _tune_garbage_collector()
    log.info("web_started", hooks=sorted(services.settings.active_hooks))

    def start_draining() -> None:
        services.webhooks.start_draining()
        services.console.start_draining()

    state: dict[str, Any] = {ON_SHUTDOWN: start_draining}
    if services.settings.fast_path == "on" and not tracing.is_enabled():
        state[TAKE_REQUEST] = FastPath(services.webhooks).take
    yield state
    background.cancel()
    with suppress(asyncio.CancelledError):
        await background
    await services.rejections.flush()
    await services.counters.flush(services.ledger.redis)
    await services.console.close()
    for connection in services.connections:
        await connection.close()
    log.info("web_stopped")


async def _send_alerts(services: Services) -> None:
    if services.settings.alert_webhook_url:
        # Imported beside the event loop, because readiness does not need it.
        alerts = await asyncio.to_thread(import_module, "app.telemetry.alerts")
        await alerts.AlertMonitor(services.ledger.redis, services.settings).run(is_worker=False)


def _tune_garbage_collector() -> None:
    """Exclude from collection what start-up made: full collections over it are most of the 99th percentile."""
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    gc.enable()


# -- pages beside webhooks and console --


async def healthz(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            await _services(request).ledger.redis.command("PING")
    except (RedisUnavailable, TimeoutError):
        return JSONResponse({"status": "unavailable", "check": "redis"}, 503)
    return JSONResponse({"status": "ok"})


async def show_metrics(request: Request) -> Response:
    services = _services(request)
    token = services.settings.metrics_token
    if not token:
        return JSONResponse({"error": "not_found", "detail": "METRICS_TOKEN is not set"}, 404)
    authorization = request.headers.get("authorization", "").encode()
    if not hmac.compare_digest(authorization, f"Bearer {token}".encode()):
        return JSONResponse({"error": "unauthorized", "detail": "Authorization: Bearer <METRICS_TOKEN>"}, 401)
    # Imported late, beside the event loop, because readiness does not need it.
    metrics = await asyncio.to_thread(import_module, "app.telemetry.metrics")
    exposition = await metrics.snapshot(services.ledger, services.settings)
    body, content_type = exposition.encode(request.headers.get("accept", ""))
    return Response(body, headers={"content-type": content_type})


async def index(request: Request) -> Response:
    if _services(request).settings.has_console:
        return RedirectResponse("/console", 303)
    return await not_found(request, Exception())


async def not_found(request: Request, _: Exception) -> Response:
    """Answer people in HTML and programs in JSON."""
    headers = {"vary": "Accept", "content-security-policy": "default-src 'none'"}
    if "text/html" in request.headers.get("accept", ""):
        hint = CONSOLE_LINK if _services(request).settings.has_console else NO_CONSOLE
        return HTMLResponse(NOT_FOUND_PAGE.format(hint=hint), 404, headers)
    return JSONResponse({"error": "not_found", "detail": "there is nothing at this address"}, 404, headers)


CONSOLE_LINK = '<p><a href="/console">Open the console</a></p>'
NO_CONSOLE = """<p>It has no console, because no password is set: set <code>CONSOLE_PASSWORD_HASH</code> to the output of
<code>doorbell hash-password</code>, and restart.</p>"""
NOT_FOUND_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Not found · Doorbell</title>
</head>
<body>
<h1>Not found</h1>
<p>Doorbell is running, but there is nothing at this address.</p>
{hint}
</body>
</html>
"""


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


# -- start --


def start() -> ASGIApp:
    """Exit with every problem of the settings at once, as sentences and not as a traceback."""
    try:
        settings = read_environment()
    except SettingsError as error:
        print(f"doorbell web cannot start:\n{error}", file=sys.stderr)
        sys.exit(3)
    logs.configure(settings)
    logs.warn_of_unknown_variables()
    tracing.configure("web")
    raise_file_limit()
    return trace_requests(create_app(settings))
