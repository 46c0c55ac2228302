"""Requests that no hook accepted, and a check of pasted requests."""

import asyncio
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from app.console.context import context
from app.console.rendering import render
from app.console.timezone import parse_local
from app.operators.rejections import RejectionGroup, group_by_cause
from app.operators.signature_diagnosis import Diagnosis, InvalidHeaders, diagnose, parse_headers
from app.settings.model import Hook, Settings
from app.telemetry import rejections as stored
from app.webhooks.delivery import Delivery
from app.webhooks.registry import load_sources

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
        tools=_tools_tried(groups),
    )


def _tools_tried(groups: Iterable[RejectionGroup]) -> list[str]:
    """Return the tools whose name was tried as the hook, but has no secret."""
    details = [detail for group in groups if group.reason == "no_such_hook" for detail, _ in group.details]
    names = [match[1] for detail in details if (match := re.match(r"there is no hook (\w+),", detail))]
    return [name for name in dict.fromkeys(names) if name in load_sources()]


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
