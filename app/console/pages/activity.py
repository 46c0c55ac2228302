"""The activity log."""

import asyncio
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from app.console.context import context
from app.console.rendering import render, render_newer
from app.console.timezone import activity_filter_of
from app.operators.activity_log import ACTIONS

ROWS = 50


async def activity(request: Request) -> Response:
    console, filter = context(request), activity_filter_of(request)
    page, actors = await asyncio.gather(console.explain.find_activities(filter, ROWS), console.activity_log.actors())
    names = {user.name for user in console.settings.console_users if user.name}
    return await render(
        request,
        "activity.html",
        filter=filter,
        activities=page.rows,
        newest=page.rows[0].id if page.rows else "",
        next_cursor=page.next_cursor,
        actors=sorted(names.union(actors), key=str.casefold),
        actions=ACTIONS,
    )


async def newer_count(request: Request) -> Response:
    """Render the number of activities since the list was rendered."""
    filter, newest = activity_filter_of(request), request.query_params.get("newest", "").strip()[:40]
    page = await context(request).explain.find_activities(replace(filter, cursor="", after=newest), ROWS)
    return await render_newer(
        request, len(page.rows), ("activity", "activities"), f"/console/activity?{filter.query()}"
    )
