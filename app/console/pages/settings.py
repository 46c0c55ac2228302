"""Preferences of this browser, open sessions, checks, the configuration, and data retention."""

from starlette.requests import Request
from starlette.responses import Response

from app.console.context import actions, context
from app.console.pages.login import safe_redirect_target
from app.console.rendering import redirect, render
from app.ledger.keys import KEY_KINDS
from app.operators import doctor

#: Preferences are cookies of one browser: name, and the values that differ from the default.
PREFERENCES = {"theme": ("light", "dark"), "keys": ("off",), "times": ("utc",)}
PREFERENCES_TTL_S = 365 * 86_400


async def settings(request: Request) -> Response:
    console = context(request)
    return await render(
        request,
        "settings.html",
        checks=sorted(
            [check async for check in doctor.local_checks(console.redis, console.settings)],
            key=lambda check: {"ok": 2, "warn": 1}.get(check.result, 0),  # problems first
        ),
        environment=list(console.settings.describe()),
        sessions=await console.sessions.count(),
    )


async def retention(request: Request) -> Response:
    settings = context(request).settings
    period = f"{settings.retention_days} days"
    rows = [
        (kind.title, kind.contents, kind.retention.replace("RETENTION_DAYS", period))
        for kind in KEY_KINDS
        if kind.title
    ]
    return await render(request, "retention.html", rows=rows, period=period, is_encrypted=bool(settings.body_keys))


async def save_preferences(request: Request) -> Response:
    response = redirect("/console/settings")
    for name in PREFERENCES:
        _save_preference(request, response, name)
    return response


async def save_times(request: Request) -> Response:
    """Save whether times are in UTC, and return to the page."""
    response = redirect(safe_redirect_target(request.state.form.get("to", "")))
    _save_preference(request, response, "times")
    return response


def _save_preference(request: Request, response: Response, name: str) -> None:
    value = request.state.form.get(name, "")
    if value in PREFERENCES[name]:
        response.set_cookie(f"doorbell-{name}", value, PREFERENCES_TTL_S, path="/console", samesite="lax")
    else:
        response.delete_cookie(f"doorbell-{name}", path="/console")


async def end_sessions(request: Request) -> Response:
    """End all sessions, including this one."""
    console = context(request)
    target = f"{await console.sessions.count()} of them"
    await actions(request).record("ended all sessions", target)
    await console.sessions.end_all()
    response = redirect("/console/login")
    console.sessions.delete_cookie(response)
    return response
