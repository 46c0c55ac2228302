"""Error pages of the console."""

from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app.console.context import context
from app.console.rendering import render
from app.intake.request_body import HttpRejection
from app.ledger.keys import OPERATIONS_TTL_S
from app.ledger.records import NotFound
from app.ledger.redis import RedisUnavailable
from app.telemetry.logs import log

TITLES = {403: "Not allowed", 404: "Not found", 405: "Method not allowed", 500: "Internal error"}


async def error_page(request: Request, status: int, detail: str, headers: Any = None) -> Response:
    title = TITLES.get(status, "Request rejected")
    response = await render(request, "error.html", status, title=title, detail=detail)
    response.headers.update(headers or {})
    return response


async def http_error(request: Request, error: HTTPException) -> Response:
    detail = "This page does not exist." if error.detail == "Not Found" else error.detail
    return await error_page(request, error.status_code, detail, error.headers)


async def rejected(request: Request, error: HttpRejection) -> Response:
    return await error_page(request, error.status, f"{error}.", error.headers)


#: Why each kind may be gone, if it can be.
EXPIRIES = {
    "delivery or visit": "It may have expired: finished tasks are stored for {days} days.",
    "operation": f"It may have expired: operations are stored for {OPERATIONS_TTL_S // 86_400} days.",
}


async def not_found(request: Request, error: NotFound) -> Response:
    sentence = f"{error.sentence[:1].upper()}{error.sentence[1:]}."
    expiry = EXPIRIES.get(error.kind, "").format(days=context(request).settings.retention_days)
    return await error_page(request, 404, f"{sentence} {expiry}".rstrip())


async def redis_unavailable(request: Request, error: RedisUnavailable) -> Response:
    # The cause contains the address of the server, so only users with a session see it.
    has_session = "user" in request.scope and request.user.is_authenticated
    has_session = has_session or context(request).sessions.session_id(request) is not None
    response = await render(request, "redis_unavailable.html", 503, cause=str(error) if has_session else "")
    response.headers["retry-after"] = "5"
    return response


async def unhandled(request: Request, _: Exception) -> Response:
    log.exception("unhandled_exception", page=getattr(request.scope.get("endpoint"), "__qualname__", ""))
    check = "Check whether the action took effect before you repeat it. " if request.method == "POST" else ""
    detail = f"An unexpected error occurred. {check}The log has the stack trace (unhandled_exception)."
    return await error_page(request, 500, detail)


HANDLERS: dict[Any, Callable[[Request, Any], Any]] = {
    HTTPException: http_error,
    HttpRejection: rejected,
    NotFound: not_found,
    RedisUnavailable: redis_unavailable,
    Exception: unhandled,
}
