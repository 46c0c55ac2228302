"""The live page of a hook: what arrives now, and what it means."""

from starlette.requests import Request
from starlette.responses import Response

from app.console.context import context
from app.console.pages.sources import hook_addresses
from app.console.rendering import render
from app.ledger.records import NotFound
from app.operators.arrivals import Arrivals
from app.telemetry.arrivals import listen_to

#: The page stays current for this long without a refresh: a browser without JavaScript loads it by hand.
LISTEN_S = 300
MAX_ARRIVALS = 30


async def listen(request: Request) -> Response:
    console, name = context(request), request.path_params["hook"]
    hook = console.settings.active_hooks.get(name)
    if hook is None:
        raise NotFound(name, "active hook")
    await listen_to(console.redis, name, LISTEN_S)
    arrivals = await Arrivals(console.ledger, console.settings, name, console.explain).newest(MAX_ARRIVALS)
    return await render(
        request,
        "listen.html",
        hook=name,
        source=hook.source.name,
        arrivals=arrivals,
        hook_address=hook_addresses(request)[name],
    )
