"""Actions of a person on the connection of a hook: check, disconnect, and catch up on changes that no webhook reported."""

import asyncio
from collections.abc import Awaitable
from datetime import UTC, date, datetime, time
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from app.connections.catch_up import can_list
from app.connections.catch_up_requests import RESULT_TEXTS, CatchUpRequests, PlanNotConfirmed
from app.connections.connect import Connections
from app.connections.connector import OUTAGES, REFUSALS, describe
from app.connections.guard import Guard
from app.console.context import actions, context
from app.console.pages import hooks
from app.console.pages.connect import CONNECT_TIMEOUT_S
from app.console.rendering import redirect, render
from app.console.timezone import page_zone
from app.ledger.records import NotFound
from app.settings.model import Hook


async def check(request: Request) -> Response:
    """Ask the tool about its subscription now. A worker repairs what the answer shows, if Doorbell connected the hook."""
    console, name = context(request), _hook(request).name
    guard = Guard(console.tools, console.stored_hooks, actions(request))
    if problem := await _problem(request, guard.check_now(name)):
        return await hooks.page(request, message=problem)
    return redirect(f"/console/hooks/{name}?done=checked#connection")


async def disconnect(request: Request) -> Response:
    console, name = context(request), _hook(request).name
    if request.state.form.get("confirm", "").strip() != name:
        return await hooks.page(request, message="The confirmation does not match. Nothing was disconnected.")
    connections = Connections(console.tools, console.stored_hooks, actions(request))
    if problem := await _problem(request, connections.disconnect(name)):
        return await hooks.page(request, message=f"{problem} The hook is still there.")
    return redirect(f"/console/hooks?{urlencode({'disconnected': name})}")


async def _problem(request: Request, step: Awaitable[object]) -> str:
    """Return why a step failed, as sentences; empty if it did not."""
    title = _hook(request).source.definition.title
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await step
    except TimeoutError:
        return f"{title} answers too slowly: try again in a minute."
    except (*REFUSALS, *OUTAGES) as error:
        sentence = describe(error, title).rstrip(".")
        return f"{sentence[:1].upper()}{sentence[1:]}."
    return ""


# -- catching up --


async def catch_up(request: Request) -> Response:
    return await _catch_up_page(request)


async def plan(request: Request) -> Response:
    """Let a worker count what a catch-up would do. Without a date: since the connection was last healthy."""
    name, typed = _hook(request).name, request.state.form.get("since", "").strip()
    try:
        day = date.fromisoformat(typed) if typed else None
    except ValueError:
        return await _catch_up_page(request, "The date cannot be read: it must look like 2026-11-30.")
    since = datetime.combine(day, time(), page_zone(request)).astimezone(UTC) if day else None
    await _requests(request).start_plan(name, since)
    return redirect(f"/console/hooks/{name}/catch-up")


async def start(request: Request) -> Response:
    name, form = _hook(request).name, request.state.form
    try:
        await _requests(request).start_planned(name, form.get("plan", ""), form.get("confirm", ""))
    except PlanNotConfirmed as error:
        return await _catch_up_page(request, str(error))
    return redirect(f"/console/hooks/{name}/catch-up")


async def cancel(request: Request) -> Response:
    name = _hook(request).name
    await _requests(request).cancel(name)
    return redirect(f"/console/hooks/{name}/catch-up")


async def _catch_up_page(request: Request, error: str = "") -> Response:
    hook, requests = _hook(request), _requests(request)
    if not can_list(hook):
        raise NotFound(hook.name, "catch-up for the hook")
    newest_plan, newest, has_worker = await asyncio.gather(
        requests.get_plan(hook.name), requests.get(hook.name), requests.has_worker()
    )
    return await render(
        request,
        "catch_up.html",
        409 if error else 200,
        hook=hook.name,
        tool=hook.source,
        plan=newest_plan,
        catch_up=newest,
        has_worker=has_worker,
        result_texts=RESULT_TEXTS,
        error=error,
    )


def _requests(request: Request) -> CatchUpRequests:
    return CatchUpRequests(context(request).tools, actions(request))


def _hook(request: Request) -> Hook:
    """Return the hook of the path, which is in use: only such a hook has a connection."""
    summary = hooks.find_hook(request)
    if not summary.is_in_use:
        raise NotFound(summary.name, "connection of the stored hook")
    return context(request).settings.hook(summary.name)
