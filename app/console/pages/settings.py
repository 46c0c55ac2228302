"""Preferences of this browser, open sessions, checks, the environment, and retention."""

from starlette.requests import Request
from starlette.responses import Response

from app.console.context import actions, context
from app.console.rendering import redirect, render
from app.ledger.keys import KEY_KINDS
from app.operators import doctor

#: Preferences are cookies of one browser: name, and the values that differ from the default.
PREFERENCES = {"theme": ("light", "dark"), "keys": ("off",)}
PREFERENCES_TTL_S = 365 * 86_400


async def settings(request: Request) -> Response:
    console = context(request)
    return await render(
        request,
        "settings.html",
        checks=[check async for check in doctor.local_checks(console.redis, console.settings)],
        environment=list(console.settings.describe()),
        kinds=KEY_KINDS,
        sessions=await console.sessions.count(),
    )


async def save_preferences(request: Request) -> Response:
    response = redirect("/console/settings")
    for name, allowed in PREFERENCES.items():
        value = request.state.form.get(name, "")
        if value in allowed:
            response.set_cookie(f"doorbell-{name}", value, PREFERENCES_TTL_S, path="/console", samesite="lax")
        else:
            response.delete_cookie(f"doorbell-{name}", path="/console")
    return response


async def end_sessions(request: Request) -> Response:
    """End all sessions, including this one."""
    console = context(request)
    target = f"{await console.sessions.count()} of them"
    await actions(request).record("ended all sessions", target)
    await console.sessions.end_all()
    response = redirect("/console/login")
    console.sessions.delete_cookie(response)
    return response
