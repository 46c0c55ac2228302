"""Requests that no hook accepted, and a check of pasted requests."""

import asyncio
import re
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from app.console.context import ConsoleContext, context
from app.console.rendering import render, render_newer
from app.console.timezone import parse_local
from app.operators.rejections import group_by_cause
from app.operators.signature_diagnosis import Diagnosis, InvalidHeaders, diagnose, parse_headers
from app.settings.model import Hook, Settings
from app.telemetry import rejections as stored
from app.webhooks.delivery import Delivery

#: Details of a group that the page shows.
MAX_DETAILS = 10


async def rejections(request: Request) -> Response:
    console, hook = context(request), request.query_params.get("hook", "").strip()[:300]
    known_hooks = ["", *console.settings.hooks]
    groups = await group_by_cause(console.redis, known_hooks)
    counts = {name: sum(group.count for group in groups if group.hook == name) for name in known_hooks if name}
    return await render(
        request,
        "rejections.html",
        groups=[group for group in groups if hook in ("", group.hook)],
        sources={name: configured.source.name for name, configured in console.settings.active_hooks.items()},
        hooks={name: count for name, count in counts.items() if count},
        hook=hook,
        newest=stored.MAX_NEWEST,
        max_details=MAX_DETAILS,
        shown=await _count(console, hook),
    )


async def newer_count(request: Request) -> Response:
    """Render the number of rejections since the list was rendered."""
    hook, shown = request.query_params.get("hook", "").strip()[:300], request.query_params.get("shown", "")
    count = await _count(context(request), hook) - int(shown) if re.fullmatch("[0-9]{1,15}", shown) else 0
    address = f"/console/rejections?{urlencode({'hook': hook} if hook else {})}"
    return await render_newer(request, max(0, count), ("rejection", "rejections"), address)


async def _count(console: ConsoleContext, hook: str) -> int:
    """Return the number of rejections of one hook, or of all."""
    counts = await stored.counts(console.redis)
    return sum(count for (name, _), count in counts.items() if hook in ("", name))


# -- the check of a pasted request --


@dataclass(frozen=True, slots=True)
class PastedRequest:
    hook: str = ""
    headers: str = ""
    body: str = ""
    arrived: str = ""


async def check_form(request: Request) -> Response:
    return await _check_page(request, PastedRequest(hook=request.query_params.get("hook", "").strip()[:300]))


async def check(request: Request) -> Response:
    """Verify the signature of a pasted request. Nothing is stored or sent."""
    settings, form = context(request).settings, request.state.form
    pasted = PastedRequest(**{name: form.get(name, "") for name in ("hook", "headers", "body", "arrived")})
    hook = settings.active_hooks.get(pasted.hook)
    if hook is None:
        return await _check_page(request, pasted, error="Choose a hook.")
    arrived_at = parse_local(request, pasted.arrived)
    now = arrived_at.timestamp() if arrived_at else time.time()
    try:
        diagnosis = await asyncio.to_thread(_diagnose, settings, hook, pasted, now)
    except InvalidHeaders as error:
        return await _check_page(request, pasted, error=f"{error}.")
    return await _check_page(request, pasted, diagnosis=diagnosis, secrets=len(hook.settings.secrets))


def _diagnose(settings: Settings, hook: Hook, pasted: PastedRequest, now: float) -> Diagnosis:
    token, query, headers = parse_headers(hook, pasted.headers.encode().splitlines())
    # Browsers send line breaks as CR LF, so the original ones are unknown.
    body = pasted.body.replace("\r\n", "\n").encode()
    delivery = Delivery(
        hook.name, hook.source.name, headers, body, datetime.fromtimestamp(now, UTC), token=token, query=query
    )
    diagnosis = diagnose(settings, hook, delivery, now)
    if diagnosis.is_valid or b"\n" not in body:
        return diagnosis
    with_crlf = diagnose(settings, hook, replace(delivery, body=body.replace(b"\n", b"\r\n")), now)
    return with_crlf if with_crlf.is_valid else diagnosis


async def _check_page(request: Request, pasted: PastedRequest, **values: Any) -> Response:
    hooks = list(context(request).settings.active_hooks)
    return await render(request, "check.html", pasted=pasted, hooks=hooks, **values)
