"""Login and logout."""

from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from app.console.context import context
from app.console.login_queue import TooManyAttempts
from app.console.rendering import redirect, render

HOME = "/console"


async def login_page(request: Request) -> Response:
    if request.user.is_authenticated:
        return redirect(HOME)
    return await _page(request, request.query_params.get("to", "").strip()[:300])


async def log_in(request: Request) -> Response:
    console, form = context(request), request.state.form
    target, address = safe_redirect_target(form.get("to", "")), console.passwords.client_address(request)
    name = form.get("username", "").strip()[:80] if console.passwords.have_names else ""
    try:
        login = await console.passwords.log_in(name, form.get("password", ""), request)
    except TooManyAttempts:
        error = "Too many attempts. Wait 15 minutes, or use a browser in which you have logged in before."
        return await _page(request, target, error, 429, name)
    if login is None:
        # An unknown name is not stored: it may be a password in the wrong field.
        known_names = [user.name for user in console.passwords.users_named(name)]
        await console.activity_log.record_failed_login(known_names[0] if name and known_names else "", address)
        error = "The name or the password is wrong." if console.passwords.have_names else "The password is wrong."
        return await _page(request, target, error, 401, name)
    if request.user.is_authenticated:
        await console.sessions.end(request.user.session_id)
    user = await console.sessions.begin(login)
    await console.activity_log.record(user.name, user.role, "logged in", f"from {address}")
    response = redirect(target)
    console.sessions.set_cookie(response, user)
    console.passwords.remember_browser(request, response, login)
    return response


async def log_out(request: Request) -> Response:
    sessions = context(request).sessions
    await sessions.end(request.user.session_id)
    response = redirect("/console/login")
    sessions.delete_cookie(response)
    return response


async def _page(request: Request, target: str, error: str = "", status: int = 200, name: str = "") -> Response:
    has_names = context(request).passwords.have_names
    return await render(request, "login.html", status, error=error, to=target, has_names=has_names, name=name)


def safe_redirect_target(target: str) -> str:
    """Return the target if it is a page of the console, else the overview. An attacker may have written the target."""
    try:
        path = urlsplit(target).path
    except ValueError:
        return HOME
    is_plain = target.isascii() and target.isprintable() and "\\" not in target and ".." not in target
    # Browsers read `///console` as another host, although its path is /console.
    is_below = target.startswith(HOME) and (path == HOME or path.startswith(f"{HOME}/")) and "//" not in path
    return target if is_plain and is_below and not path.startswith(f"{HOME}/log") else HOME
