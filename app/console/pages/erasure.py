"""Erasure of one person: a plan, then the erasure after the address is typed again."""

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from app.console.context import actions, context
from app.console.rendering import render
from app.operators import search_index
from app.operators.erasure import (
    LABELS,
    NOT_COVERED,
    PHONE_NOTE,
    Erasure,
    plan_all,
    resolve_emails,
)

#: An erasure reads all of Redis; a page waits no longer than this.
TIMEOUT_S = 20.0


async def erasure_form(request: Request) -> Response:
    return await _page(request)


async def erase(request: Request) -> Response:
    person = request.state.form.get("person", "").strip()[:300]
    if not (search_index.normalize_email(person) or search_index.normalize_phone(person)):
        return await _page(request, person, error="This is neither an e-mail address nor a phone number.")
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await _plan_or_erase(request, person)
    except TimeoutError:
        error = "There is too much data for this page: use `doorbell erase`."
        if request.state.form.get("confirm"):
            error += " Some of it may already be erased."
        return await _page(request, person, error=error)


async def _plan_or_erase(request: Request, person: str) -> Response:
    console, typed = context(request), request.state.form.get("confirm")
    addresses = await resolve_emails(console.ledger, console.settings, person)
    erasures = [Erasure(console.ledger, console.settings, address) for address in addresses]
    planned = await plan_all(erasures)
    if planned.is_empty or typed is None:
        return await _page(request, person, planned=planned)
    if typed.strip() != person:
        return await _page(
            request, person, planned=planned, error="The confirmation does not match. Nothing was erased."
        )
    return await _page(request, erased=await actions(request).erase(erasures, planned))


async def _page(request: Request, person: str = "", *, error: str = "", **reports: Any) -> Response:
    """Render the page. reports: `planned` before an erasure, `erased` after it."""
    return await render(
        request,
        "erasure.html",
        409 if error else 200,
        person=person,
        error=error,
        labels=LABELS,
        not_covered=NOT_COVERED,
        by_number=PHONE_NOTE if search_index.normalize_phone(person) else "",
        **reports,
    )
