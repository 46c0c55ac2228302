"""The activity log."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from app.console.context import context
from app.console.rendering import render
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
        next_cursor=page.next_cursor,
        actors=sorted(names.union(actors), key=str.casefold),
        actions=ACTIONS,
    )
