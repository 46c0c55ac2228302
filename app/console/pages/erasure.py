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

#: An erasure reads all of Redis; a page waits no longer than this, and no longer than this for the leases of workers.
TIMEOUT_S, BUSY_TIMEOUT_S = 20.0, 5.0


async def erasure_form(request: Request) -> Response:
    return await _page(request)


async def erase(request: Request) -> Response:
    person = request.state.form.get("person", "").strip()[:300]
    if not (search_index.normalize_email(person) or search_index.normalize_phone(person)):
        return await _page(request, person, error="This is neither an e-mail address nor a phone number.")
    typed, ends_at = request.state.form.get("confirm"), asyncio.get_running_loop().time() + TIMEOUT_S
    try:
        async with asyncio.timeout_at(ends_at):
            erasures = await _erasures(request, person)
            planned = await plan_all(erasures)
    except TimeoutError:
        error = "There is too much data for this page, and nothing was erased: use `doorbell erase`."
        return await _page(request, person, error=error)
    if planned.is_empty or typed is None:
        return await _page(request, person, planned=planned)
    if typed.strip() != person:
        return await _page(
            request, person, planned=planned, error="The confirmation does not match. Nothing was erased."
        )
    try:
        async with asyncio.timeout_at(ends_at):
            return await _page(request, person, erased=await actions(request).erase(erasures, planned))
    except TimeoutError:
        error = (
            "The erasure did not end in time, and a part of the data may be erased: use `doorbell erase` to finish it."
        )
        return await _page(request, person, error=error)


async def _erasures(request: Request, person: str) -> list[Erasure]:
    ledger, settings = context(request).ledger, context(request).settings
    emails = await resolve_emails(ledger, settings, person)
    return [Erasure(ledger, settings, email, busy_timeout_s=BUSY_TIMEOUT_S) for email in emails]


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
        is_number=bool(search_index.normalize_phone(person)),
        phone_note=PHONE_NOTE,
        **reports,
    )
