"""The activity log."""

from starlette.requests import Request
from starlette.responses import Response

from app.console.context import context
from app.console.rendering import render

ROWS = 50


async def activity(request: Request) -> Response:
    activities = await context(request).activity_log.newest(request.query_params.get("cursor", "").strip()[:300], ROWS)
    cursor = activities[-1].id if len(activities) == ROWS else ""
    return await render(request, "activity.html", activities=activities, cursor=cursor)
