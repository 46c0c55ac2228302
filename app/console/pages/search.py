"""Search by name, id, e-mail address or phone number."""

from starlette.requests import Request
from starlette.responses import Response

from app.console.context import context
from app.console.rendering import redirect, render, segment
from app.operators.search import MAX_HITS, Search


async def start(request: Request) -> Response:
    """Redirect to the results. Their URL, which histories and logs keep, has a token instead of the text."""
    console = context(request)
    text = console.search_tokens.decode(request.state.form.get("q", ""))
    return redirect(f"/console/search?q={console.search_tokens.encode(text)}" if text else "/console/search")


async def search(request: Request) -> Response:
    console = context(request)
    text = console.search_tokens.decode(request.query_params.get("q", ""))
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
