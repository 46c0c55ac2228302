"""Search by any id, e-mail address or phone number."""

from starlette.requests import Request
from starlette.responses import Response

from app.console.context import context
from app.console.rendering import redirect, render, segment


async def search(request: Request) -> Response:
    console, text = context(request), request.query_params.get("q", "").strip()[:300]
    results = await console.lists.search(text) if text else []
    if len(results) == 1:
        folder = "deliveries" if results[0].kind == "delivery" else "visits"
        return redirect(f"/console/{folder}/{segment(results[0].id)}")
    return await render(
        request, "search.html", text=text, results=results, retention_days=console.settings.retention_days
    )
