"""The endpoints under /_sandbox, with which tests control and observe the sandbox."""

import re

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.sandbox.faults import ENDPOINTS, FaultInjector, Faults
from app.sandbox.journal import Journal
from app.sandbox.store import Store
from app.sandbox.validation import ApiError, json_object

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Control:
    def __init__(self, store: Store, injector: FaultInjector, journal: Journal) -> None:
        self._store, self._injector, self._journal = store, injector, journal

    def routes(self) -> list[Route]:
        return [
            Route("/_sandbox/faults", self._get_faults, methods=["GET"]),
            Route("/_sandbox/faults", self._put_faults, methods=["PUT"]),
            Route("/_sandbox/faults", self._delete_faults, methods=["DELETE"]),
            Route("/_sandbox/journal", self._get_journal, methods=["GET"]),
            Route("/_sandbox/journal", self._delete_journal, methods=["DELETE"]),
            Route("/_sandbox/calls", self._get_calls, methods=["GET"]),
            Route("/_sandbox/reset", self._reset, methods=["POST"]),
            Route("/_sandbox/{path:path}", self._unknown, methods=METHODS),
        ]

    async def _get_faults(self, request: Request) -> Response:
        return JSONResponse(self._injector.faults.model_dump())

    async def _put_faults(self, request: Request) -> Response:
        try:
            changes = json_object(await request.body())
            if unknown := sorted(changes.keys() - Faults.model_fields.keys()):
                detail = f"there is no fault {', '.join(unknown)}"
                raise ApiError(422, "unknown_fault", detail, known=list(Faults.model_fields))
            self._injector.update(changes)
        except ApiError as error:
            return JSONResponse(error.body, error.status)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
            return JSONResponse({"error": "bad_fault", "detail": problems.removeprefix(": ")}, 422)
        return await self._get_faults(request)

    async def _delete_faults(self, request: Request) -> Response:
        self._injector.clear()
        return await self._get_faults(request)

    async def _get_journal(self, request: Request) -> Response:
        since = request.query_params.get("since", "0")
        if not re.fullmatch("[0-9]{1,18}", since):
            return JSONResponse({"error": "unprocessable", "detail": "since must be a whole number"}, 422)
        entries = [entry._asdict() for entry in self._journal.since(int(since))]
        return JSONResponse({"journal": entries, "last": self._journal.last_number})

    async def _delete_journal(self, request: Request) -> Response:
        self._journal.clear()
        return Response(status_code=204)

    async def _get_calls(self, request: Request) -> Response:
        return JSONResponse({**dict.fromkeys(ENDPOINTS, 0), **self._journal.calls})

    async def _reset(self, request: Request) -> Response:
        self._store.clear()
        self._journal.clear()
        return Response(status_code=204)

    async def _unknown(self, request: Request) -> Response:
        return JSONResponse({"error": "no_endpoint", "detail": "see the top of app/sandbox/api.py"}, 404)
