"""The overview, and the stream that keeps pages current."""

from starlette.requests import Request
from starlette.responses import Response

from app.console.context import context
from app.console.events import EventStream
from app.console.pages.sources import hook_addresses
from app.console.rendering import render
from app.ledger.times import humanize
from app.operators.overview import load_overview


async def overview(request: Request) -> Response:
    console = context(request)
    view = await load_overview(console.ledger, console.settings)
    level, summary = view.status()
    return await render(
        request,
        "overview.html",
        view=view,
        level=level,
        summary=summary,
        oldest_due=humanize(view.backlog.oldest_s) if view.backlog.oldest_s >= 1 else "none",
        addresses=hook_addresses(request),
    )


async def stream(request: Request) -> Response:
    """Stream server-sent events. Above MAX_STREAMS, answer 503, and the page polls instead."""
    console = context(request)
    if request.method == "HEAD":
        return Response(media_type="text/event-stream")
    messages = console.events.subscribe()
    if messages is None:
        return Response(status_code=503, headers={"retry-after": "30"})
    return EventStream(console.events, messages, lambda: console.sessions.user(request))
