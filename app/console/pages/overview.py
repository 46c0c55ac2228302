"""The overview, and the stream that keeps pages current."""

import asyncio
from collections import Counter

from starlette.requests import Request
from starlette.responses import Response

from app.console.context import context
from app.console.events import EventStream
from app.console.pages.sources import hook_addresses
from app.console.rendering import render
from app.ledger.times import humanize
from app.operators.overview import HookStats, load_overview
from app.operators.problems import FirstStep, Problem
from app.operators.replay import Replay
from app.settings.model import Settings

#: Groups of failures that the page shows.
MAX_GROUPS = 12


async def overview(request: Request) -> Response:
    console = context(request)
    view = await load_overview(console.ledger, console.settings)
    level, summary = view.status()
    groups, replay = view.groups[:MAX_GROUPS], Replay(console.ledger, console.settings)
    may_help = await asyncio.gather(*map(replay.may_help, groups))
    connections = {each.hook: each for each in view.connections}
    failures_by_source = Counter[str]()
    for group in view.groups:
        failures_by_source[group.source] += group.count
    return await render(
        request,
        "overview.html",
        view=view,
        level=level,
        summary=summary,
        problems=[(problem, _first_step(console.settings, problem)) for problem in view.problems()],
        hooks=sorted(view.hooks, key=lambda hook: _urgency(hook, failures_by_source[hook.source])),
        groups=list(zip(groups, may_help, strict=True)),
        failures=failures_by_source,
        connections=connections,
        unconnected=[hook for hook in view.hooks if not connections[hook.name].is_managed],
        chart_top=_chart_top(max(hour.total for hour in view.hours)),
        oldest_due=humanize(view.backlog.oldest_s) if view.backlog.oldest_s >= 1 else "none",
        addresses=hook_addresses(request),
    )


def _first_step(settings: Settings, problem: Problem) -> FirstStep:
    hook = settings.active_hooks.get(problem.hook)
    return problem.first_step(hook.source.name if hook else "")


def _urgency(hook: HookStats, failures: int) -> tuple[bool, bool, bool, bool]:
    """Sort hooks with problems first, and those that never received anything last."""
    return not hook.has_problem, not failures, not hook.rejected, hook.last is None


def _chart_top(count: int) -> int:
    """Return the top of the axis: 4, 10, 20, 40, 100, … It is even, because the axis shows its half."""
    power = 1
    while True:
        for step in (4, 10, 20):
            if step * power >= count:
                return step * power
        power *= 10


async def stream(request: Request) -> Response:
    """Stream server-sent events. Above MAX_STREAMS, answer 503, and the page polls instead."""
    console = context(request)
    if request.method == "HEAD":
        return Response(media_type="text/event-stream")
    messages = console.events.subscribe()
    if messages is None:
        return Response(status_code=503, headers={"retry-after": "30"})
    return EventStream(console.events, messages, lambda: console.sessions.user(request))
