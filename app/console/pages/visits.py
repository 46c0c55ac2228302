"""One visit."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Container
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from app.console.context import actions, context
from app.console.pages.reveal import field_to_reveal
from app.console.rendering import render
from app.operators.explain import Explain
from app.operators.redaction import REDACTED
from app.visits.client import VisitsApiError

#: Facts and changes on the page; `doorbell visit` shows all.
MAX_ROWS = 300


async def visit(request: Request) -> Response:
    return await _page(request)


async def reveal(request: Request) -> Response:
    field = field_to_reveal(request)
    await actions(request).reveal_visit(request.path_params["external_id"], field)
    return await _page(request, (field,))


async def fetch_remote(request: Request) -> Response:
    """Show the current state in the Visits API, without storing it."""
    console, external_id = context(request), request.path_params["external_id"]
    [visit, *_] = await console.explain.visit(external_id)
    remote: dict[str, Any] = {"account": visit["account"], "visit": None, "error": ""}
    try:
        [result, *_] = await actions(request).fetch_remote(external_id, console.visits_api)
        remote["visit"] = result.visit
    except VisitsApiError as error:
        remote["error"] = f"The Visits API could not be read: {error}."
    return await _page(request, remote=remote)


async def _page(request: Request, revealed: Container[str] = (), remote: dict[str, Any] | None = None) -> Response:
    console, external_id = context(request), request.path_params["external_id"]
    visits = await Explain(console.ledger, console.settings, revealed).visit(external_id)
    for visit in visits:
        await asyncio.to_thread(_prepare, visit)
    return await render(request, "visit.html", external_id=external_id, visits=visits, revealed=revealed, remote=remote)


def _prepare(visit: dict[str, Any]) -> None:
    """Add the reason why each value won, and drop the oldest rows above MAX_ROWS."""
    field_deliveries = {(change["delivery"], name) for change in visit["changes"] for name in change["fields"]}
    counts = Counter(name for _, name in field_deliveries)
    for name, fact in visit["facts"].items():
        fact["hidden"] = fact["value"] == REDACTED
        fact["decided_by"] = "the only value" if counts[name] < 2 else f"the newest of {counts[name]}"
    changes = sorted(visit["changes"], key=_version)
    visit["discarded_changes"] = sorted(visit["discarded_changes"], key=_version)[-MAX_ROWS:]
    visit["more_facts"] = max(0, len(visit["facts"]) - MAX_ROWS)
    visit["more_changes"] = max(0, len(changes) - MAX_ROWS)
    visit["facts"] = dict(itertools.islice(visit["facts"].items(), MAX_ROWS))
    visit["changes"] = changes[-MAX_ROWS:]


def _version(change: dict[str, Any]) -> int:
    return int(change["version"])
