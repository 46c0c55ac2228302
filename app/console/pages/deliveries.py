"""The list of deliveries, and one delivery."""

import asyncio
from collections.abc import Container

from starlette.requests import Request
from starlette.responses import Response

from app.console.context import actions, context
from app.console.pages.operations import preview
from app.console.pages.reveal_form import field_to_reveal
from app.console.rendering import redirect, render, render_newer
from app.console.timezone import filter_of
from app.ledger.reasons import find_reason
from app.ledger.records import BodyUnavailable
from app.operators import redaction
from app.operators.explain import Explain
from app.operators.filter import INDEXED_STATES, RESULT_STATES, Filter
from app.operators.replay import Replay
from app.webhooks.registry import load_sources


async def deliveries(request: Request) -> Response:
    lists, filter = context(request).lists, filter_of(request)
    rows, states, hooks, newest, matching = await asyncio.gather(
        lists.deliveries(filter),
        lists.count_by_state(),
        lists.count_by_hook(),
        lists.newest_cursor(filter),
        lists.count(filter),
    )
    return await render(
        request,
        "deliveries.html",
        filter=filter,
        rows=rows,
        states={state: states[state] for state in INDEXED_STATES} | dict.fromkeys(RESULT_STATES),
        hooks=hooks,
        newest="" if filter.state or filter.reason or filter.search else newest,
        matching=matching,
    )


async def filter_deliveries(request: Request) -> Response:
    """Redirect to the list. A search is not in its URL, which histories and logs keep, but a token."""
    return redirect(f"/console/deliveries?{filter_of(request).query()}")


async def newer_count(request: Request) -> Response:
    """Render the number of deliveries that arrived after the list was rendered."""
    filter = filter_of(request)
    newest = request.query_params.get("newest", "").strip()[:300]
    count = await context(request).lists.count_newer(filter, newest)
    return await render_newer(request, count, ("delivery", "deliveries"), f"/console/deliveries?{filter.query()}")


async def state_cell(request: Request) -> Response:
    """Render the state of one delivery."""
    row = await context(request).explain.delivery_summary(request.path_params["id"])
    return await render(request, "state_cell.html", row=row)


async def delivery(request: Request) -> Response:
    return await _page(request)


async def reveal(request: Request) -> Response:
    field = field_to_reveal(request)
    await actions(request).reveal_delivery(request.path_params["id"], "all of the body" if field == "*" else field)
    return await _page(request, (field,))


async def _page(request: Request, revealed: Container[str] = ()) -> Response:
    console, id = context(request), request.path_params["id"]
    delivery_details = await Explain(console.ledger, console.settings, revealed).delivery(id)
    try:
        meta, raw = await console.ledger.load_delivery(id)
        source = load_sources().get(meta.source)
        body = await asyncio.to_thread(
            redaction.redact_body, raw, revealed, source.definition.event_name_path if source else ()
        )
    except BodyUnavailable as error:
        body = [str(error)]
    previous_id, next_id = await console.lists.neighbors(delivery_details["hook"], id)
    steps, *_ = await preview(Replay(console.ledger, console.settings).plan(Filter(ids=(id,))))
    return await render(
        request,
        "delivery.html",
        delivery=delivery_details,
        previous_id=previous_id,
        next_id=next_id,
        revealed=revealed,
        body=body,
        steps=steps,
        may_replay=not all(find_reason(step.skip_reason or step.obstacle).is_final for step in steps),
        is_open=any(
            change["state"] in ("parked", "waiting", "held", "queued") for change in delivery_details["changes"]
        ),
    )
