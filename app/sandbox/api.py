"""The sandbox as an ASGI application.

It implements everything that Review Rover's reference documents, under /api/v1 and at the root. Faults, and behavior that
the reference does not specify, can be changed while the sandbox runs:

    GET PUT DELETE /_sandbox/faults         read, change some (JSON), restore the defaults
    GET DELETE     /_sandbox/journal        the calls and their results; ?since=N returns those after entry N
    GET            /_sandbox/calls          the number of calls by endpoint since the journal was last cleared
    POST           /_sandbox/reset          delete all visits, contacts and the journal, and execute no call that waits;
                                            keep the documented contact and the faults

The sandbox logs nothing, and no error quotes the request. Run it without an access log, because queries contain e-mail
addresses.
"""

import asyncio
import hmac
import json
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from email.utils import formatdate

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from app.sandbox.control import METHODS, Control
from app.sandbox.endpoints import HANDLERS, ApiRequest, Handler, Result, unknown_endpoint
from app.sandbox.faults import ConnectionReset, FaultInjector, TruncatedResponse
from app.sandbox.journal import Journal
from app.sandbox.store import Store
from app.sandbox.validation import ApiError, body_fields

PREFIXES = ("/api/v1", "")
NO_RESULT = Result(0, {})


def create_sandbox(file: str = ":memory:", token: str | None = None) -> Starlette:
    """Create the application.

    file: the SQLite database of visits and contacts; faults and journal are always in memory. token: the only bearer
    token that is accepted; None accepts any.
    """
    store, injector, journal = Store(file), FaultInjector(), Journal()
    api = VisitsApi(store, injector, journal, token)
    app = Starlette(routes=[*Control(store, injector, journal).routes(), *api.routes()])
    app.router.redirect_slashes = False  # A redirect would hide a wrong path.
    weakref.finalize(app, store.connection.close)
    return app


class VisitsApi:
    """Executes each call, or simulates a fault instead, and writes the call to the journal."""

    def __init__(self, store: Store, injector: FaultInjector, journal: Journal, token: str | None) -> None:
        self._store, self._injector, self._journal, self._token = store, injector, journal, token

    def routes(self) -> Iterator[Route]:
        for prefix in PREFIXES:
            for route, handler in HANDLERS.items():
                method, path = route.split(" ")
                # `path`, because the reference does not exclude a slash in an external_id.
                path = path.replace(":id", "{id:path}")
                yield Route(prefix + path, self._endpoint(route, handler), methods=[method])
        yield Route("/{path:path}", self._endpoint("other", unknown_endpoint), methods=METHODS)

    def _endpoint(self, route: str, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            return await self._serve(request, route, handler)

        return endpoint

    async def _serve(self, request: Request, route: str, handler: Handler) -> Response:
        received_at, generation = time.time(), self._store.generation
        failure, slow_s = self._injector.choose(route, request.url)
        try:
            body = b"" if failure == "reset" else await request.body()
        except ClientDisconnect:
            self._journal.write(request, route, received_at, "gone", fault=failure)
            return Response()
        if slow_s:
            await asyncio.sleep(slow_s)
        if self._store.generation != generation:
            return ConnectionReset()
        result = self._rejected(failure) or self._execute(request, body, handler)
        outcome, response = self._response(failure, result)
        self._journal.write(
            request,
            route,
            received_at,
            outcome,
            fault=failure or ("slow" if slow_s else None),
            committed=result.committed,
            external_id=result.external_id,
            contact_id=result.contact_id,
        )
        return response

    def _rejected(self, failure: str | None) -> Result | None:
        """Return the result of a failure that happens before the call is executed."""
        match failure:
            case "down":
                return Result(503, {"error": "down", "detail": "the sandbox was set to be down"})
            case "unauthorized":
                return Result(401, {"error": "unauthorized", "detail": "the sandbox was set to reject every token"})
            case "rate_limited":
                return Result(429, {"error": "rate_limited", "detail": "the sandbox was set to limit the rate"})
            case "error":
                status = self._injector.faults.error_status
                return Result(status, {"error": "error", "detail": "the sandbox was set to fail"})
            case "reset":
                return NO_RESULT
        return None

    def _execute(self, request: Request, body: bytes, handler: Handler) -> Result:
        try:
            self._check_token(request.headers.get("authorization", ""))
            fields = body_fields(request.headers.get("content-type", ""), body)
            parsed = ApiRequest(request.path_params.get("id", ""), request.query_params, fields)
            return handler(self._store, self._injector.faults, parsed)
        except ApiError as error:
            return Result(error.status, error.body)

    def _check_token(self, authorization: str) -> None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise ApiError(401, "unauthorized", "send the header Authorization: Bearer {token}")
        # Headers arrive as Latin-1.
        if self._token is not None and not hmac.compare_digest(token.strip().encode("latin-1"), self._token.encode()):
            raise ApiError(401, "unauthorized", "this is not the token of the account")

    def _response(self, failure: str | None, result: Result) -> tuple[int | str, Response]:
        """Return the journal's `response`, and the HTTP response."""
        match failure:
            case "reset":
                return "reset", ConnectionReset()
            case "commit_then_hang":
                return "hang", ConnectionReset(after_s=self._injector.faults.hang_s)
            case "truncated":
                return "truncated", _http_response(result, TruncatedResponse)
            case "wrong_json":
                return 200, Response("<html><body>Something went wrong</body></html>", media_type="text/html")
            case "rate_limited":
                return 429, _http_response(result, headers=self._retry_after())
        return result.status, _http_response(result)

    def _retry_after(self) -> dict[str, str]:
        faults = self._injector.faults
        if faults.retry_after_s is None:
            return {}
        as_date = formatdate(time.time() + faults.retry_after_s, usegmt=True)
        return {"Retry-After": as_date if faults.retry_after_date else str(faults.retry_after_s)}


def _http_response(result: Result, kind: type[Response] = Response, headers: dict[str, str] | None = None) -> Response:
    if result.status == 204:
        return kind(None, 204, headers)
    return kind(json.dumps(result.body, separators=(",", ":")), result.status, headers, "application/json")
