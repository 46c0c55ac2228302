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
    """Shows what the Visits API has now, and stores nothing of it."""
    console, external_id = context(request), request.path_params["external_id"]
    [visit, *_] = await console.explain.visit(external_id)
    remote: dict[str, Any] = {"account": visit["account"], "visit": None, "error": ""}
    try:
        [answer, *_] = await actions(request).fetch_remote(external_id, console.visits_api)
        remote["visit"] = answer.visit
    except VisitsApiError as error:
        remote["error"] = f"The Visits API could not be read: {error}."
    return await _page(request, remote=remote)


async def _page(request: Request, revealed: Container[str] = (), remote: dict[str, Any] | None = None) -> Response:
    console, external_id = context(request), request.path_params["external_id"]
    stories = await Explain(console.ledger, console.settings, revealed).visit(external_id)
    for story in stories:
        await asyncio.to_thread(_prepare, story)
    return await render(
        request, "visit.html", external_id=external_id, stories=stories, revealed=revealed, remote=remote
    )


def _prepare(story: dict[str, Any]) -> None:
    """Adds to every fact why its value won, and drops the oldest rows above MAX_ROWS."""
    pairs = {(change["delivery"], name) for change in story["changes"] for name in change["fields"]}
    deliveries_naming = Counter(name for _, name in pairs)
    for name, fact in story["facts"].items():
        fact["hidden"] = fact["value"] == REDACTED
        fact["why"] = "the only value" if deliveries_naming[name] < 2 else f"the newest of {deliveries_naming[name]}"
    changes = sorted(story["changes"], key=lambda change: int(change["version"]))
    story["more_facts"] = max(0, len(story["facts"]) - MAX_ROWS)
    story["more_changes"] = max(0, len(changes) - MAX_ROWS)
    story["facts"] = dict(itertools.islice(story["facts"].items(), MAX_ROWS))
    story["changes"] = changes[-MAX_ROWS:]
