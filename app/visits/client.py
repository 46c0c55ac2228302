"""The client of the Visits and Contacts API, with an exception class for each reaction to a failed call.

The client relies only on the vendor's reference: any 2xx is a success, an error is classified by its status alone, and
bodies are form-encoded as in every request that the reference prints.
"""

import asyncio
import ssl
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any
from urllib.parse import quote

import httpx
import orjson

Record = dict[str, Any]

CONNECT_TIMEOUT_S, RESPONSE_TIMEOUT_S = 5.0, 10.0
MAX_QUOTED_CHARS = 500
#: No response that Doorbell needs is longer. The rest of a longer response is not read.
MAX_RESPONSE_BYTES = 1_048_576


class VisitsApiError(Exception):
    """A failed call; `response_text` quotes the response.

    ClientError        4xx, or not sent: repeating the call cannot succeed
    Unauthorized       401, 403: no call with this token succeeds
    RateLimited        429; `wait_s` is the wait that the API asked for, or None
    ServerError        5xx, 408, 425; `wait_s` as above
    ConnectionFailed   no connection: nothing was sent
    OutcomeUnknown     sent, but no readable response: the call may have succeeded, or may yet succeed
    """

    kind = "error"

    def __init__(
        self, call: str, status: int | None = None, response_text: str = "", wait_s: float | None = None
    ) -> None:
        super().__init__(f"{call}: {status or self.kind}")
        self.call, self.status, self.wait_s = call, status, wait_s
        self.response_text = response_text[:MAX_QUOTED_CHARS]


class ClientError(VisitsApiError):
    kind = "client_error"


class Unauthorized(VisitsApiError):
    kind = "unauthorized"


class RateLimited(VisitsApiError):
    kind = "rate_limited"


class ServerError(VisitsApiError):
    kind = "server_error"


class ConnectionFailed(VisitsApiError):
    kind = "connection_failed"


class OutcomeUnknown(VisitsApiError):
    kind = "outcome_unknown"


def http_client(max_connections: int = 100) -> httpx.AsyncClient:
    """Return an httpx client with aiohttp's transport, which needs a seventh of the CPU time with 32 calls in flight."""
    from httpx_aiohttp import AiohttpTransport  # imported here: it takes 0.1 s, and most web processes never call

    limits = httpx.Limits(
        max_connections=max_connections, max_keepalive_connections=max_connections, keepalive_expiry=30
    )
    timeout = httpx.Timeout(RESPONSE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S, pool=CONNECT_TIMEOUT_S)
    transport = AiohttpTransport(tls_context(), limits=limits)
    return httpx.AsyncClient(transport=transport, timeout=timeout, trust_env=False, follow_redirects=False)


@cache  # because loading the certificates takes 40 ms
def tls_context() -> ssl.SSLContext:
    return httpx.create_ssl_context()


@dataclass(slots=True)
class VisitsClient:
    """Calls the Visits API with the token of one account.

    calls: every call with the status of its response, for the attempts of the task.
    before_call: awaited before every call; it raises if there is no time for a call.
    trace_headers: headers that identify the call in the logs of the API.
    on_response: called after every call with method, route, outcome and seconds.
    """

    http: httpx.AsyncClient
    url: str
    token: str
    calls: list[list[Any]]
    before_call: Callable[[], Awaitable[None]]
    trace_headers: Mapping[str, str] = field(default_factory=dict)
    on_response: Callable[[str, str, str, float], None] = lambda *_: None

    # -- visits --

    async def list_visits(self, page: int = 1, limit: int = 25) -> Record:
        """Return {"visits": […], "pagination": {…}}. limit: 1 to 100."""
        return await self._call("GET", "/visits", "/visits", params={"page": str(page), "limit": str(limit)}) or {}

    async def create_visit(self, contact_id: str, external_id: str, fields: Mapping[str, str]) -> Record:
        """Return the visit in the response; the fields that were sent, if the response is 2xx without a visit."""
        sent = {"contact_id": contact_id, "external_id": external_id, **fields}
        return _visit(await self._call("POST", "/visits", "/visits", data=sent)) or sent

    async def get_visit(self, id: str) -> Record | None:
        """Return the visit, or None if there is none. id: the API's own number, or an external_id."""
        return await self._call_or_none("GET", "/visits/:id", _path("/visits", id))

    async def update_visit(self, id: str, fields: Mapping[str, str]) -> Record | None:
        """Return the visit, {} for a 2xx without a visit, None if there is no such visit.

        fields: an empty value clears the field.
        """
        response = await self._call_or_none("PUT", "/visits/:id", _path("/visits", id), data=dict(fields))
        return response and _visit(response)

    async def delete_visit(self, id: str) -> bool:
        """Delete a visit; return False if there was no such visit."""
        return await self._call_or_none("DELETE", "/visits/:id", _path("/visits", id), reads=False) is not None

    # -- contacts --

    async def find_contacts(self, email: str) -> list[Record]:
        """Return the contacts with exactly this address."""
        response = await self._call("GET", "/contacts", "/contacts", params={"email": email}) or {}
        contacts = response.get("data")
        return [contact for contact in contacts if isinstance(contact, dict)] if isinstance(contacts, list) else []

    async def create_contact(self, fields: Mapping[str, str]) -> Record:
        """Create a contact. fields: `email`, and optionally first_name, last_name, phone, company, position."""
        return await self._call("POST", "/contacts", "/contacts", data=dict(fields)) or {}

    # -- the call --

    async def _call_or_none(self, method: str, route: str, path: str, **options: Any) -> Record | None:
        try:
            return await self._call(method, route, path, **options)
        except ClientError as error:
            if error.status in (404, 410):
                return None
            raise

    async def _call(
        self,
        method: str,
        route: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        data: dict[str, str] | None = None,
        reads: bool = True,
    ) -> Record:
        """Return the JSON object of the response, {} for an empty body. Raise VisitsApiError on failure."""
        await self.before_call()
        call = f"{method} {route}"
        headers = {"authorization": f"Bearer {self.token}", "accept": "application/json", **self.trace_headers}
        started = time.perf_counter()

        def report_response() -> None:
            status = self.calls[-1][1]
            outcome = status if isinstance(status, str) else f"{status // 100}xx"
            self.on_response(method, route, outcome, time.perf_counter() - started)

        try:
            response = await send_request(
                self.http, method, self.url + path, call, self.calls, params=params, data=data, headers=headers
            )
        except VisitsApiError:
            report_response()
            raise
        report_response()
        if not response.is_success:
            raise error_for(call, response)
        return _parse(call, response) if reads else {}


async def send_request(
    http: httpx.AsyncClient,
    method: str,
    url: str,
    call: str,
    calls: list[list[Any]],
    *,
    headers: Mapping[str, str],
    oversized_error: type[VisitsApiError] = OutcomeUnknown,
    **options: Any,
) -> httpx.Response:
    """Send one request and append it to `calls`. At most MAX_RESPONSE_BYTES of the response are in memory.

    Raise ClientError if the request cannot be sent, ConnectionFailed, OutcomeUnknown, or `oversized_error` if a
    successful response is longer.
    """
    headers = {**headers, "accept-encoding": "identity"}
    if not all(value.isascii() and value.isprintable() for value in headers.values()):
        calls.append([call, "not sent"])
        raise ClientError(call, response_text=UNSENDABLE_HEADER)
    try:
        async with (
            http.stream(method, url, headers=headers, **options) as response,
            asyncio.timeout(RESPONSE_TIMEOUT_S),
        ):
            content = await _read_body(response)
    except httpx.HTTPError as error:
        raise connection_error(call, error, calls) from None
    except TimeoutError:
        calls.append([call, OutcomeUnknown.kind])
        raise OutcomeUnknown(call, response_text="the response did not end in time") from None
    except httpx.InvalidURL:
        calls.append([call, "not sent"])
        raise ClientError(call, response_text="the URL of the request is not valid, or is too long") from None
    except Exception as error:
        if not _is_malformed_response(error):
            raise
        calls.append([call, OutcomeUnknown.kind])
        raise OutcomeUnknown(call, response_text="the response is not valid HTTP") from None
    calls.append([call, response.status_code])
    if response.is_success and len(content) > MAX_RESPONSE_BYTES:
        raise oversized_error(call, response_text=f"the response is longer than {MAX_RESPONSE_BYTES:,} bytes")
    plain_headers = [(name, value) for name, value in response.headers.multi_items() if name not in _BODY_HEADERS]
    return httpx.Response(response.status_code, headers=plain_headers, content=content)


UNSENDABLE_HEADER = "a header, such as one with a token, has a character that no header can have: copy the token again"
_BODY_HEADERS = ("content-encoding", "content-length", "transfer-encoding")


async def _read_body(response: httpx.Response) -> bytes:
    """Read the body, at most MAX_RESPONSE_BYTES + 1 bytes. Some servers compress it in spite of `identity`."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip", "deflate"):
        raise httpx.DecodingError(f"content encoding {encoding[:20]}")
    decoder = None if encoding == "identity" else zlib.decompressobj(zlib.MAX_WBITS | 32)
    content = bytearray()
    async for part in response.aiter_raw():
        try:
            content += decoder.decompress(part, MAX_RESPONSE_BYTES + 1 - len(content)) if decoder else part
        except zlib.error:
            raise httpx.DecodingError("the body does not match its content encoding") from None
        if len(content) > MAX_RESPONSE_BYTES:
            break
    return bytes(content)


def _is_malformed_response(error: Exception) -> bool:
    """Return whether the status line or headers are unreadable or too long: then the cause is aiohttp's error."""
    import aiohttp

    return isinstance(error, aiohttp.ClientResponseError)


def connection_error(call: str, error: httpx.HTTPError, calls: list[list[Any]]) -> VisitsApiError:
    """Return the error for a call without a response, and append the call to `calls`.

    Nothing was sent only if there was never a connection. httpx's error classes do not show that: the transport also
    raises ConnectError for a connection that broke.
    """
    import aiohttp

    cause = error.__cause__
    no_connection = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)
    is_aiohttp = isinstance(cause, aiohttp.ClientError)
    never_sent = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
    if isinstance(cause, no_connection) or (isinstance(error, never_sent) and not is_aiohttp):
        calls.append([call, ConnectionFailed.kind])
        return ConnectionFailed(call, response_text=type(error).__name__)
    calls.append([call, OutcomeUnknown.kind])
    return OutcomeUnknown(call, response_text=type(cause or error).__name__)


def error_for(call: str, response: httpx.Response) -> VisitsApiError:
    """Return the error for a response whose status is not 2xx."""
    status, text = response.status_code, response.content[: 4 * MAX_QUOTED_CHARS].decode("utf-8", "replace")
    wait_s = retry_after_s(response.headers.get("retry-after"), sent_at(response))
    match status:
        case 401 | 403:
            return Unauthorized(call, status, text)
        case 429:
            return RateLimited(call, status, text, wait_s)
        case 408 | 425:
            return ServerError(call, status, text)
        case _ if status >= 500:
            return ServerError(call, status, text, wait_s)
    return ClientError(call, status, text)


def sent_at(response: httpx.Response) -> datetime:
    """Return the server's time, so that a date of this server is not compared with another clock; else our own time."""
    try:
        date = parsedate_to_datetime(response.headers.get("date", ""))
    except (ValueError, OverflowError):
        return datetime.now(UTC)
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """Return the seconds to wait from a Retry-After header (seconds or a date); None if it is missing or invalid."""
    if not header:
        return None
    if header.strip().isdecimal():
        return min(float(header), 86_400.0)
    try:
        date = parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    try:
        return min(max(0.0, (date - now).total_seconds()), 86_400.0)
    except OverflowError:
        return None


def _parse(call: str, response: httpx.Response) -> Record:
    if not response.content.strip():
        return {}
    try:
        record = orjson.loads(response.content)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise OutcomeUnknown(call, response.status_code, "the response is not a JSON object")
    return record


def _visit(record: Record) -> Record:
    """Return the record if it is a visit, else {}: the response to an update is not documented."""
    return record if "id" in record or "external_id" in record else {}


def _path(collection: str, id: str) -> str:
    return f"{collection}/{quote(id, safe='')}"
