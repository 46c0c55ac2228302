"""Search by name, id, e-mail address or phone number."""

from starlette.requests import Request
from starlette.responses import Response

from app.console.context import context
from app.console.rendering import redirect, render, segment
from app.operators.search import MAX_HITS, Search


async def search(request: Request) -> Response:
    console, text = context(request), request.query_params.get("q", "").strip()[:300]
    hits = await Search(console.ledger, console.settings).find(text) if text else None
    if hits and len(hits.rows) == 1:
        [row] = hits.rows
        folder = "deliveries" if row["kind"] == "delivery" else "visits"
        return redirect(f"/console/{folder}/{segment(row['id'])}")
    return await render(
        request,
        "search.html",
        text=text,
        hits=hits,
        max_hits=MAX_HITS,
        retention_days=console.settings.retention_days,
    )
