"""A Visits and Contacts API of our own, for first runs, tests and benchmarks.

It keeps every promise that Review Rover's reference prints, under /api/v1 and at the root; what the reference
leaves open, and every way a server can fail, is a switch that can be turned while it runs:

    GET PUT DELETE /_sandbox/switches       read, change some (JSON), back to the defaults
    GET DELETE     /_sandbox/journal        what was asked and done; ?since=N gives what is newer than entry N
    GET            /_sandbox/calls          how many calls each endpoint got since the journal was last emptied
    POST           /_sandbox/reset          no visits, no journal, only the documented contact; switches stay

Nothing is logged, and no refusal repeats what was sent. Run it without an access log: addresses are in its queries.
"""

import asyncio
import contextlib
import hmac
import json
import random
import re
import socket
import struct
import time
import weakref
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from itertools import takewhile
from typing import Annotated, Any, Literal, cast
from urllib.parse import parse_qsl, unquote

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from starlette.applications import Starlette
from starlette.datastructures import URL
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from app.sandbox.store import CONTACT_COLUMNS, JOURNAL_ROWS, PREFIXES, Entry, Row, Store, _written

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Success = Literal[200, 201, 202, 204]


class Switches(BaseModel):
    """How the sandbox behaves. Shares are of the calls that `only` and `matching` name; at most one failure meets a call."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    down: bool = False  # 503 for every call
    unauthorized: bool = False  # 401 for every call
    slow_share: Share = 0  # waits before it does anything, then does it even if the caller has gone
    slow_s: Seconds = 1
    rate_limited_share: Share = 0  # 429
    retry_after_s: Annotated[int, Field(ge=0)] | None = 1  # None: without Retry-After
    retry_after_date: bool = False  # Retry-After as an HTTP date
    error_share: Share = 0  # before anything is done
    error_status: Literal[500, 502, 503] = 503
    reset_share: Share = 0  # connection reset before anything is done
    half_answer_share: Share = 0  # done, then the connection closes in the middle of the body
    commit_then_hang_share: Share = 0  # done, then silence for hang_s, then a reset connection
    hang_s: Seconds = 30
    wrong_json_share: Share = 0  # done, then 200 and a body that is no JSON
    only: tuple[str, ...] = ()  # endpoints that misbehave; empty: all
    matching: str = ""  # calls misbehave whose path or query has this text; empty: all
    after: Annotated[int, Field(ge=0)] = 0  # calls that are let through before, counted down
    times: Annotated[int, Field(ge=0)] | None = None  # calls still to be spoilt, counted down; None: no end
    seed: int = 0  # of the random choices; sending it starts them over

    duplicate_external_id: Literal["allow", "refuse", "unprocessable", "upsert"] = "allow"
    empty_clears: bool = True  # an empty value in PUT clears the field; else it says nothing
    event_date_follows: bool = False  # a PUT of time_scheduled alone moves event_date too
    contact_can_change: bool = False  # PUT heeds contact_id; else it says nothing
    created_status: Success = 201
    deleted_status: Success = 204

    @field_validator("only")
    @classmethod
    def _are_endpoints(cls, only: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in only if name not in ENDPOINTS]:
            raise ValueError(f"no endpoint {unknown[0]!r}; there are {', '.join(ENDPOINTS)}")
        return only

    @model_validator(mode="after")
    def _leave_room(self) -> "Switches":
        # One throw of the dice chooses among the failures; the small excess is what 0.7 + 0.2 + 0.1 adds up to.
        if sum(share for _, share in self.failures()) > 1 + 1e-9:
            raise ValueError(f"the shares of {', '.join(name for name, _ in self.failures())} add up to more than 1")
        return self

    def failures(self) -> tuple[tuple[str, float], ...]:
        """What may meet a call, and how often."""
        return (
            ("rate_limited", self.rate_limited_share),
            ("error", self.error_share),
            ("reset", self.reset_share),
            ("half_answer", self.half_answer_share),
            ("commit_then_hang", self.commit_then_hang_share),
            ("wrong_json", self.wrong_json_share),
        )

    def failure(self, dice: float) -> str | None:
        """The failure that a throw of 0 ≤ dice < 1 means."""
        if self.down:
            return "down"
        if self.unauthorized:
            return "unauthorized"
        for name, share in self.failures():
            if dice < share:
                return name
            dice -= share
        return None


class Refused(Exception):
    """The call cannot be done: its status, a word for machines, a sentence for people."""

    def __init__(self, status: int, code: str, detail: str, **more: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.body = {"error": code, "detail": detail, **more}


@dataclass(frozen=True, slots=True)
class Asked:
    """What an endpoint may look at. `id` is what the path says: a numeric id or an external_id."""

    id: str
    query: Mapping[str, str]
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint says, what it touched, and whether the database is now different."""

    status: int
    body: Mapping[str, Any]
    committed: bool = False
    external_id: str | None = None
    contact_id: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


NOTHING = Answer(0, {})


def _timestamp(name: str, value: Any) -> str:
    """The moment in UTC, in whole seconds; what is smaller is cut off."""
    try:
        moment = datetime.fromisoformat(_text(name, value))
        if moment.tzinfo is not None:
            return _written(moment.astimezone(UTC))
    except (ValueError, OverflowError):
        pass
    raise _unprocessable(name, "must be an ISO 8601 timestamp with a time zone, like 2025-02-17T09:00:00Z")


def _amount(name: str, value: Any) -> str:
    """The amount with two places. A third that is not zero would be money lost, so it is refused."""
    parts = re.fullmatch(r"0*([0-9]{1,12})(?:\.([0-9]{1,2})0*)?", _text(name, value))
    if parts is None:
        raise _unprocessable(name, "must be a decimal with at most two places, like 120.00")
    return f"{parts[1]}.{parts[2] or '':0<2}"


def _text(name: str, value: Any) -> str:
    """Text; a JSON number counts as its digits. Lone surrogates, which JSON can spell, are no text."""
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        with contextlib.suppress(UnicodeEncodeError):
            return str(value).encode().decode()
    raise _unprocessable(name, "must be text")


def _unprocessable(name: str, problem: str) -> Refused:
    return Refused(422, "unprocessable", f"{name} {problem}", field=name)


UPDATABLE: dict[str, Callable[[str, Any], str]] = {
    "time_scheduled": _timestamp,
    "time_completed": _timestamp,
    "amount_collected": _amount,
    "date_cancelled": _timestamp,
    "event_date": _timestamp,
}


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _updates(fields: Mapping[str, Any]) -> Row:
    """The updatable fields that were sent, None where the value is empty. Others are passed over in silence."""
    return {
        name: None if _is_empty(fields[name]) else read(name, fields[name])
        for name, read in UPDATABLE.items()
        if name in fields
    }


def _texts(fields: Mapping[str, Any], names: tuple[str, ...]) -> Row:
    return {name: _text(name, fields[name]) for name in names if not _is_empty(fields.get(name))}


def _required(fields: Mapping[str, Any], name: str) -> str:
    if _is_empty(fields.get(name)):
        raise _unprocessable(name, "is missing")
    return _text(name, fields[name])


def _number(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    value = query.get(name)
    if value is None:
        return default
    if not re.fullmatch("[0-9]{1,9}", value) or not 1 <= int(value) <= most:
        raise _unprocessable(name, f"must be a whole number from 1 to {most}")
    return int(value)


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        # Decimals stay as they were written: 120.10 is not to become 120.1.
        sent = json.loads(body, parse_float=str)
    except (ValueError, RecursionError):
        raise Refused(422, "unreadable", "the body is not JSON") from None
    if not isinstance(sent, dict):
        raise Refused(422, "unreadable", "the body must be a JSON object")
    return sent


def _form(body: bytes) -> dict[str, Any]:
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, errors="strict"))
    except ValueError:
        raise Refused(422, "unreadable", "the form is not UTF-8") from None


def _fields(content_type: str, body: bytes) -> dict[str, Any]:
    if not body:
        return {}
    if "json" in content_type:
        return _json_object(body)
    if "multipart" in content_type:
        raise Refused(422, "unreadable", "send a form (application/x-www-form-urlencoded) or JSON")
    return _form(body)


# Endpoints ----------------------------------------------------------------------------------------------------------


def _shown(row: Row) -> Row:
    """A row as answers have it: without what is unset."""
    shown = {name: value for name, value in row.items() if value is not None}
    if "completed" in shown:
        shown["completed"] = bool(shown["completed"])
    return shown


def _visit_answer(status: int, visit: Row, committed: bool) -> Answer:
    return Answer(status, _shown(visit), committed, visit["external_id"], visit["contact_id"])


def _visit(store: Store, name: str) -> Row:
    visit = store.visit(name)
    if visit is None:
        raise Refused(404, "not_found", "there is no visit with that id or external_id")
    return visit


def _contact_id(store: Store, fields: Mapping[str, Any]) -> str:
    contact_id = _required(fields, "contact_id")
    if not store.has_contact(contact_id):
        raise _unprocessable("contact_id", "is not a contact of this account")
    return contact_id


def list_visits(store: Store, switches: Switches, asked: Asked) -> Answer:
    limit = _number(asked.query, "limit", 25, most=100)
    page = _number(asked.query, "page", 1, most=999_999_999)
    visits, total = store.visits(limit, page)
    pagination = {"page": page, "limit": limit, "total": total, "total_pages": -(-total // limit)}
    return Answer(200, {"visits": [_shown(visit) for visit in visits], "pagination": pagination})


def create_visit(store: Store, switches: Switches, asked: Asked) -> Answer:
    contact_id = _contact_id(store, asked.fields)
    names = _texts(asked.fields, ("external_id",))
    values = {name: value for name, value in _updates(asked.fields).items() if value is not None}
    if names and (standing := store.visit_called(names["external_id"])):
        if switches.duplicate_external_id == "upsert":
            return _changed(store, switches, standing, asked.fields)
        if switches.duplicate_external_id != "allow":
            status = 409 if switches.duplicate_external_id == "refuse" else 422
            raise Refused(status, "duplicate", "external_id has already been taken", field="external_id")
    by_default = {"event_date": values.get("time_scheduled")}
    visit = store.insert_visit({"contact_id": contact_id, **names, **by_default, **values})
    return _visit_answer(switches.created_status, visit, committed=True)


def get_visit(store: Store, switches: Switches, asked: Asked) -> Answer:
    return _visit_answer(200, _visit(store, asked.id), committed=False)


def update_visit(store: Store, switches: Switches, asked: Asked) -> Answer:
    return _changed(store, switches, _visit(store, asked.id), asked.fields)


def _changed(store: Store, switches: Switches, visit: Row, fields: Mapping[str, Any]) -> Answer:
    values = _updates(fields)
    if not switches.empty_clears:
        values = {name: value for name, value in values.items() if value is not None}
    if switches.event_date_follows and values.get("time_scheduled"):
        values = {"event_date": values["time_scheduled"], **values}
    if switches.contact_can_change and not _is_empty(fields.get("contact_id")):
        values["contact_id"] = _contact_id(store, fields)
    return _visit_answer(200, store.update_visit(visit, values), committed=True)


def delete_visit(store: Store, switches: Switches, asked: Asked) -> Answer:
    visit = _visit(store, asked.id)
    store.delete_visit(visit)
    return Answer(switches.deleted_status, {}, True, visit["external_id"], visit["contact_id"])


def list_contacts(store: Store, switches: Switches, asked: Asked) -> Answer:
    limit = _number(asked.query, "limit", 10, most=100)
    found = store.contacts(asked.query.get("email"), limit + 1)
    body = {"has_more": len(found) > limit, "data": [_shown(contact) for contact in found[:limit]]}
    return Answer(200, body, contact_id=found[0]["id"] if len(found) == 1 else None)


def create_contact(store: Store, switches: Switches, asked: Asked) -> Answer:
    email = _required(asked.fields, "email")
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", email):
        raise _unprocessable("email", "must be an e-mail address")
    contact = store.insert_contact(_texts(asked.fields, CONTACT_COLUMNS[1:]))
    return Answer(switches.created_status, _shown(contact), True, contact_id=contact["id"])


def no_endpoint(store: Store, switches: Switches, asked: Asked) -> Answer:
    raise Refused(404, "no_endpoint", f"there is no such endpoint; there are {', '.join(ENDPOINTS)}")


Work = Callable[[Store, Switches, Asked], Answer]
WORK: dict[str, Work] = {
    "GET /visits": list_visits,
    "POST /visits": create_visit,
    "GET /visits/:id": get_visit,
    "PUT /visits/:id": update_visit,
    "DELETE /visits/:id": delete_visit,
    "GET /contacts": list_contacts,
    "POST /contacts": create_contact,
}
ENDPOINTS = tuple(WORK)


# Answers ------------------------------------------------------------------------------------------------------------


def _content(answer: Answer) -> tuple[str | None, int, Mapping[str, str], str | None]:
    """An answer as the arguments of a Response."""
    if answer.status == 204:
        return None, 204, answer.headers, None
    return json.dumps(answer.body, separators=(",", ":")), answer.status, answer.headers, "application/json"


class Reset(Response):
    """No answer: silence for `after_s` or until the caller leaves, then the connection is reset."""

    def __init__(self, after_s: float = 0) -> None:
        super().__init__()
        self.after_s = after_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.after_s:
            await _until_gone(receive, self.after_s)
        transport = await _transport(receive, send)
        if (connection := transport.get_extra_info("socket")) and not transport.is_closing():
            # Lingering for 0 s turns the close into a TCP reset.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
        await _until_gone(receive, 1)


class Half(Response):
    """An answer whose connection closes in the middle of its body; where there is no body, nothing arrives."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self.body or scope["method"] == "HEAD":
            await Reset()(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        half = bytes(self.body)[: len(self.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        transport = await _transport(receive, send, started=True)
        transport.close()  # Unlike abort, it still sends what was written.
        await _until_gone(receive, 1)


async def _transport(receive: Receive, send: Send, started: bool = False) -> asyncio.Transport:
    """The TCP connection. ASGI does not show it; uvicorn's receive is a method of what holds it.

    Under another server, or wrapped, all that is left is to fail in mid-answer, which makes servers close it.
    """
    transport = getattr(getattr(receive, "__self__", None), "transport", None)
    if hasattr(transport, "abort"):
        return cast(asyncio.Transport, transport)
    if not started:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
    raise ConnectionResetError("the sandbox was told to drop this connection, and cannot reach it")


async def _until_gone(receive: Receive, at_most_s: float) -> None:
    # Also after a drop of our own: uvicorn takes a return before the connection is gone for a forgotten answer.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(at_most_s):
            while (await receive())["type"] != "http.disconnect":
                pass


# The sandbox --------------------------------------------------------------------------------------------------------


class Sandbox:
    """State, switches and journal, and how a call goes through them."""

    def __init__(self, store: Store, token: str | None) -> None:
        self.store = store
        self.token = token
        self.switches = Switches()
        self.dice = random.Random(self.switches.seed)
        self.journal: deque[Entry] = deque(maxlen=JOURNAL_ROWS)
        self.calls: Counter[str] = Counter()
        self.last_number = 0

    async def serve(self, request: Request, route: str, work: Work) -> Response:
        arrived = time.time()
        trouble, slow_s = self._trouble(route, request.url)
        try:
            body = b"" if trouble == "reset" else await request.body()
        except ClientDisconnect:
            self._write(request, route, arrived, "gone", trouble, NOTHING)
            return Response()
        if slow_s:
            await asyncio.sleep(slow_s)
        answer = self._failed(trouble) or self._done(request, body, work)
        answered, response = self._sent(trouble, answer)
        self._write(request, route, arrived, answered, trouble or ("slow" if slow_s else None), answer)
        return response

    def turn(self, asked: dict[str, Any]) -> None:
        """Turn some switches; raises ValidationError and turns none where a value is not allowed."""
        self.switches = Switches.model_validate({**self.switches.model_dump(), **asked})
        if "seed" in asked:
            self.dice = random.Random(self.switches.seed)

    def turn_back(self) -> None:
        self.switches = Switches()
        self.dice = random.Random(self.switches.seed)

    def forget(self) -> None:
        """Empty the journal and the counts. Numbers go on, so that a reader's `since` stays true."""
        self.journal.clear()
        self.calls.clear()

    def _trouble(self, route: str, url: URL) -> tuple[str | None, float]:
        """What will go wrong with this call, and how long it is to wait before anything is done."""
        switches = self.switches
        if switches.times == 0 or (switches.only and route not in switches.only):
            return None, 0
        if switches.matching not in unquote(f"{url.path}?{url.query}"):
            return None, 0
        if switches.after:
            self.switches = switches.model_copy(update={"after": switches.after - 1})
            return None, 0
        # Both throws are made each time, so that turning one switch leaves the luck of the other alone.
        slow, failure = self.dice.random() < switches.slow_share, switches.failure(self.dice.random())
        if switches.times is not None and (slow or failure):
            self.switches = switches.model_copy(update={"times": switches.times - 1})
        return failure, switches.slow_s if slow else 0

    def _failed(self, trouble: str | None) -> Answer | None:
        """The answer where the trouble comes before anything is done."""
        match trouble:
            case "down":
                return Answer(503, {"error": "down", "detail": "the sandbox was told to be down"})
            case "unauthorized":
                return Answer(401, {"error": "unauthorized", "detail": "the sandbox was told to know nobody"})
            case "rate_limited":
                body = {"error": "rate_limited", "detail": "the sandbox was told to find this too much"}
                return Answer(429, body, headers=self._retry_after())
            case "error":
                return Answer(self.switches.error_status, {"error": "error", "detail": "the sandbox was told to fail"})
            case "reset":
                return NOTHING
        return None

    def _retry_after(self) -> dict[str, str]:
        seconds = self.switches.retry_after_s
        if seconds is None:
            return {}
        as_date = self.switches.retry_after_date
        return {"Retry-After": formatdate(time.time() + seconds, usegmt=True) if as_date else str(seconds)}

    def _done(self, request: Request, body: bytes, work: Work) -> Answer:
        try:
            self._check_token(request.headers.get("authorization", ""))
            fields = _fields(request.headers.get("content-type", ""), body)
            asked = Asked(request.path_params.get("id", ""), request.query_params, fields)
            return work(self.store, self.switches, asked)
        except Refused as refused:
            return Answer(refused.status, refused.body)

    def _check_token(self, authorization: str) -> None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Refused(401, "unauthorized", "send the header Authorization: Bearer {token}")
        # Headers arrive as Latin-1.
        if self.token is not None and not hmac.compare_digest(token.strip().encode("latin-1"), self.token.encode()):
            raise Refused(401, "unauthorized", "that is not the token of this account")

    def _sent(self, trouble: str | None, answer: Answer) -> tuple[int | str, Response]:
        """What the caller gets to see of an answer, and the journal's word for it."""
        match trouble:
            case "reset":
                return "reset", Reset()
            case "commit_then_hang":
                return "hang", Reset(after_s=self.switches.hang_s)
            case "half_answer":
                return "half", Half(*_content(answer))
            case "wrong_json":
                return 200, Response("<html><body>Something went wrong</body></html>", media_type="text/html")
        return answer.status, Response(*_content(answer))

    def _write(
        self, request: Request, route: str, arrived: float, answered: int | str, trouble: str | None, answer: Answer
    ) -> None:
        self.last_number += 1
        self.calls[route] += 1
        entry = Entry(
            number=self.last_number,
            at=datetime.fromtimestamp(arrived, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            took_ms=round((time.time() - arrived) * 1000, 3),
            method=request.method,
            route=route,
            id=request.path_params.get("id"),
            answered=answered,
            committed=answer.committed,
            trouble=trouble,
            external_id=answer.external_id,
            contact_id=answer.contact_id,
            request_id=request.headers.get("x-request-id", ""),
            traceparent=request.headers.get("traceparent", ""),
        )
        self.journal.append(entry)


class Control:
    """The endpoints under /_sandbox."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox

    async def get_switches(self, request: Request) -> Response:
        return JSONResponse(self.sandbox.switches.model_dump())

    async def put_switches(self, request: Request) -> Response:
        try:
            self.sandbox.turn(_switches_asked(await request.body()))
        except Refused as refused:
            return JSONResponse(refused.body, refused.status)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
            return JSONResponse({"error": "bad_switch", "detail": problems.removeprefix(": ")}, 422)
        return await self.get_switches(request)

    async def delete_switches(self, request: Request) -> Response:
        self.sandbox.turn_back()
        return await self.get_switches(request)

    async def get_journal(self, request: Request) -> Response:
        since = request.query_params.get("since", "0")
        if not re.fullmatch("[0-9]{1,18}", since):
            return JSONResponse({"error": "unprocessable", "detail": "since must be a whole number"}, 422)
        newest_first = takewhile(lambda entry: entry.number > int(since), reversed(self.sandbox.journal))
        newer = [entry._asdict() for entry in newest_first]
        return JSONResponse({"journal": newer[::-1], "last": self.sandbox.last_number})

    async def delete_journal(self, request: Request) -> Response:
        self.sandbox.forget()
        return Response(status_code=204)

    async def get_calls(self, request: Request) -> Response:
        return JSONResponse({**dict.fromkeys(ENDPOINTS, 0), **self.sandbox.calls})

    async def reset(self, request: Request) -> Response:
        self.sandbox.store.empty()
        self.sandbox.forget()
        return Response(status_code=204)

    async def unknown(self, request: Request) -> Response:
        return JSONResponse({"error": "no_endpoint", "detail": "see the top of app/sandbox/api.py"}, 404)

    def routes(self) -> list[Route]:
        return [
            Route("/_sandbox/switches", self.get_switches, methods=["GET"]),
            Route("/_sandbox/switches", self.put_switches, methods=["PUT"]),
            Route("/_sandbox/switches", self.delete_switches, methods=["DELETE"]),
            Route("/_sandbox/journal", self.get_journal, methods=["GET"]),
            Route("/_sandbox/journal", self.delete_journal, methods=["DELETE"]),
            Route("/_sandbox/calls", self.get_calls, methods=["GET"]),
            Route("/_sandbox/reset", self.reset, methods=["POST"]),
            Route("/_sandbox/{path:path}", self.unknown, methods=METHODS),
        ]


def _switches_asked(body: bytes) -> dict[str, Any]:
    asked = _json_object(body)
    if unknown := sorted(asked.keys() - Switches.model_fields.keys()):
        detail = f"there is no switch {', '.join(unknown)}"
        raise Refused(422, "unknown_switch", detail, known=list(Switches.model_fields))
    return asked


def _endpoint(sandbox: Sandbox, route: str, work: Work) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return await sandbox.serve(request, route, work)

    return endpoint


def _api_routes(sandbox: Sandbox) -> Iterator[Route]:
    for prefix in PREFIXES:
        for route, work in WORK.items():
            method, path = route.split(" ")
            # `path`, since nothing says that an external_id has no slash.
            path = path.replace(":id", "{id:path}")
            yield Route(prefix + path, _endpoint(sandbox, route, work), methods=[method])
    yield Route("/{path:path}", _endpoint(sandbox, "other", no_endpoint), methods=METHODS)


def create_sandbox(file: str = ":memory:", token: str | None = None) -> Starlette:
    """The sandbox as an ASGI app.

    file: where visits and contacts are kept; switches and journal always live in memory.
    token: the only bearer token accepted; None accepts any.
    """
    store = Store(file)
    sandbox = Sandbox(store, token)
    app = Starlette(routes=[*Control(sandbox).routes(), *_api_routes(sandbox)])
    app.router.redirect_slashes = False  # A redirect would hide a wrong path.
    weakref.finalize(app, store.connection.close)
    return app
