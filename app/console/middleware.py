"""Middleware of the console: security headers for every response, a role for every route, a check of every form."""

from collections.abc import Mapping
from typing import Literal
from urllib.parse import parse_qsl, quote

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.console.context import context
from app.intake.request_body import HttpRejection
from app.settings.model import Role

#: `anybody` needs no session.
RequiredRole = Literal["anybody"] | Role
#: Defaults for headers that a response does not set.
RESPONSE_HEADERS: Mapping[str, str] = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    # Not `no-referrer`: browsers would send `Origin: null` with our own forms.
    "referrer-policy": "same-origin",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "private, no-store",
    "vary": "Cookie, HX-Request",
}


class ResponseHeaders:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in RESPONSE_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


class RequireRole:
    """Redirects users without a session to the login page, and answers 403 to users without the role.

    keeps_query: whether the log-in leads to the page with its query.
    """

    def __init__(self, app: ASGIApp, role: RequiredRole, keeps_query: bool = True) -> None:
        self._app, self.role, self._keeps_query = app, role, keeps_query

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        if self.role == "anybody" or self.role in request.auth.scopes:
            await self._app(scope, receive, send)
        elif not request.user.is_authenticated:
            await _to_login(request, self._keeps_query)(scope, receive, send)
        else:
            user = request.user
            raise HTTPException(
                403, f"This requires the role {self.role}; you are {user.name}, a {user.role}. Nothing was done."
            )


def _to_login(request: Request, keeps_query: bool) -> Response:
    if "hx-request" in request.headers:
        return Response(status_code=401, headers={"HX-Redirect": "/console/login"})
    query = f"?{request.url.query}" if request.url.query and keeps_query else ""
    target = quote(request.url.path.rstrip("/") + query) if request.method in ("GET", "HEAD") else ""
    return RedirectResponse(f"/console/login{target and '?to=' + target}", 303)


class OwnForm:
    """Reads the form into `request.state.form`, and accepts it only from a page of the console."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        console, size = context(request), request.headers.get("content-length", "")
        form = _parse_form(await console.body_deadlines.read(receive, size, self._max_bytes))
        if not console.form_tokens.is_own_form(request, form.get("token", ""), request.user):
            raise HTTPException(
                403, "This form did not come from a page of this console, or its session has ended. Nothing was done."
            )
        request.state.form = form
        await self._app(scope, receive, send)


def _parse_form(raw: bytes) -> dict[str, str]:
    """Return the fields by name. Several values of a name, such as ids of selected rows, are joined by spaces."""
    try:
        fields = parse_qsl(raw.decode(), keep_blank_values=True, max_num_fields=500)
    except ValueError:
        raise HttpRejection(400, "unreadable_form", "the form cannot be parsed") from None
    form: dict[str, str] = {}
    for name, value in fields:
        form[name] = f"{form[name]} {value}" if name in form else value
    return form
