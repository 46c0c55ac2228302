"""The overview, and the stream that keeps pages current."""

import asyncio
from collections import Counter
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from app.console.context import context
from app.console.events import EventStream
from app.console.pages.sources import hook_addresses
from app.console.rendering import render
from app.ledger.times import humanize
from app.operators.overview import HookStats, Problem, load_overview
from app.operators.replay import Replay
from app.settings.model import Settings

#: What an operator does first about each kind of problem: the text of the button, and its page.
ACTIONS = {
    "workers": ("Show workers", "/console/workers"),
    "api": ("Show accounts", "/console/sources#accounts"),
    "memory": ("Show data retention", "/console/settings/retention"),
    "stalled": ("Show workers", "/console/workers"),
    "moving": ("Show accounts", "/console/sources#accounts"),
    "moved": ("Show rejections", "/console/rejections?hook={hook}"),
    "unusable": ("Show the hook", "/console/hooks/{hook}"),
    "connection": ("Show the connection", "/console/hooks/{hook}#connection"),
    "credentials": ("Show the steps", "/console/sources/{source}"),
    "signatures": ("Show rejections", "/console/rejections?hook={hook}"),
    "silent": ("Show the steps", "/console/sources/{source}"),
    "paused": ("Resume…", "/console/sources#accounts"),
    "failures": ("Show failures", "/console/failures"),
    "slow": ("Show workers", "/console/workers"),
    "lost": ("Show checks", "/console/settings"),
    "payload": ("Show changes", "/console/sources/{source}#payload"),
}

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
        problems=[(problem, *_action(console.settings, problem)) for problem in view.problems()],
        hooks=sorted(view.hooks, key=lambda hook: _urgency(hook, failures_by_source[hook.source])),
        groups=list(zip(groups, may_help, strict=True)),
        failures=failures_by_source,
        connections=connections,
        unconnected=[hook for hook in view.hooks if not connections[hook.name].is_managed],
        chart_top=_chart_top(max(hour.total for hour in view.hours)),
        oldest_due=humanize(view.backlog.oldest_s) if view.backlog.oldest_s >= 1 else "none",
        addresses=hook_addresses(request),
    )


def _action(settings: Settings, problem: Problem) -> tuple[str, str]:
    """Return the text of the button and its address."""
    label, address = ACTIONS[problem.kind]
    hook = settings.active_hooks.get(problem.hook)
    return label, address.format(hook=quote(problem.hook), source=hook.source.name if hook else "")


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
