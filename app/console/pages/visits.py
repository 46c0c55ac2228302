"""One visit."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Container
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from app.console.context import context
from app.console.pages.reveal import field_to_reveal
from app.console.rendering import render
from app.operators.drift_audit import fetch_remote_visit
from app.operators.explain import REDACTED, Explain
from app.visits.client import VisitsApiTrouble

#: Facts and changes on the page; `doorbell visit` shows all.
MAX_ROWS = 300


async def visit(request: Request) -> Response:
    return await _page(request)


async def reveal(request: Request) -> Response:
    console, external_id, field = context(request), request.path_params["external_id"], field_to_reveal(request)
    await console.explain.visit_task_ids(external_id)
    what = f"{external_id}: {field}"
    await console.activity_log.record(request.user.name, request.user.role, "revealed of a visit", what)
    return await _page(request, (field,))


async def fetch_remote(request: Request) -> Response:
    """Shows what the Visits API has now, and stores nothing of it."""
    console, external_id = context(request), request.path_params["external_id"]
    [work, *_] = await console.explain.visit_task_ids(external_id)
    [root, *_] = await console.ledger.load_aliases(work)
    await console.activity_log.record(request.user.name, request.user.role, "asked the Visits API", external_id)
    remote: dict[str, Any] = {"account": root.account, "visit": None, "error": ""}
    try:
        remote["visit"] = await fetch_remote_visit(
            console.ledger, console.settings, console.visits_api, root.account, root.external_id
        )
    except VisitsApiTrouble as error:
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
