"""Requests that no hook accepted."""

from collections import Counter

from starlette.requests import Request
from starlette.responses import Response

from app.console.context import context
from app.console.rendering import render
from app.operators.signature_diagnosis import with_likely_causes
from app.telemetry import rejections as stored

ROWS = 100


async def rejections(request: Request) -> Response:
    console, hook = context(request), request.query_params.get("hook", "").strip()[:300]
    by_hook, by_reason = Counter[str](), Counter[str]()
    for (name, reason), count in (await stored.counts(console.redis)).items():
        by_hook[name] += count
        by_reason[reason] += count
    hooks = ([hook] if hook in by_hook else []) if hook else ["", *console.settings.hooks]
    notes = with_likely_causes(await stored.newest(console.redis, hooks))
    return await render(
        request,
        "rejections.html",
        notes=stored.senders_first(notes, ROWS),
        reasons=dict(by_reason.most_common(6)),
        hooks={name: count for name, count in by_hook.items() if name},
        hook=hook,
        newest=stored.MAX_NEWEST,
    )
