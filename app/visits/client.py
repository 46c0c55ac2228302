"""The client of the Visits and Contacts API: all of its endpoints, and its trouble sorted by what to do next.

The rules stand in the vendor's reference; what it leaves open is not relied on: any 2xx is success, errors are judged by
their status alone, bodies are form-encoded as in every printed request.
"""

import asyncio
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import httpx
import orjson

Record = dict[str, Any]

CONNECT_TIMEOUT_S, RESPONSE_TIMEOUT_S = 5.0, 10.0
MAX_QUOTED_CHARS = 500
#: No answer that we need is longer. The rest of a longer one is not read.
MAX_RESPONSE_BYTES = 1_048_576


class VisitsApiError(Exception):
    """
    VisitsApiError       a failed call; `response_text` quotes the response
      ClientError        4xx, or not sent: repeating the call cannot succeed
      Unauthorized       401, 403: no call with this token succeeds
      RateLimited        429; `wait_s` is the wait that the API asked for, or None
      ServerError        5xx, 408, 425; `wait_s` as above
      ConnectionFailed   no connection: nothing was sent
      OutcomeUnknown     sent, but no readable response: the call may have succeeded, or may still
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
    """httpx over aiohttp's transport: the same calls cost a seventh of the processor with 32 in flight.

    most: connections at once. The deadlines stay inside those of a job.
    """
    from httpx_aiohttp import AiohttpTransport  # here: to import it takes 0.1 s, and few doors ever call

    limits = httpx.Limits(
        max_connections=max_connections, max_keepalive_connections=max_connections, keepalive_expiry=30
    )
    timeout = httpx.Timeout(RESPONSE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S, pool=CONNECT_TIMEOUT_S)
    transport = AiohttpTransport(limits=limits)
    return httpx.AsyncClient(transport=transport, timeout=timeout, trust_env=False, follow_redirects=False)


@dataclass(slots=True)
class VisitsClient:
    """One account's way to the API.

    before: awaited before every call; it may raise to say that there is no time for one. calls: what was called and
    answered, for the record of attempts. names: headers by which the call is found again on the other side. told: what
    is called with method, route, status and seconds of each.
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
        """{"visits": […], "pagination": {…}}. limit: 1 to 100."""
        return await self._call("GET", "/visits", "/visits", params={"page": str(page), "limit": str(limit)}) or {}

    async def create_visit(self, contact_id: str, external_id: str, fields: Mapping[str, str]) -> Record:
        """The visit as the API answers it; what was sent, where it answers 2xx and no visit."""
        sent = {"contact_id": contact_id, "external_id": external_id, **fields}
        return _visit(await self._call("POST", "/visits", "/visits", data=sent)) or sent

    async def get_visit(self, id: str) -> Record | None:
        """id: the API's own number, or an external_id. None: there is no such visit."""
        return await self._call_or_none("GET", "/visits/:id", _path("/visits", id))

    async def update_visit(self, id: str, fields: Mapping[str, str]) -> Record | None:
        """fields: an empty value clears. Returns {} for a 2xx that shows no visit, None where there is no such visit."""
        answer = await self._call_or_none("PUT", "/visits/:id", _path("/visits", id), data=dict(fields))
        return answer and _visit(answer)

    async def delete_visit(self, id: str) -> bool:
        """False: there was no such visit."""
        return await self._call_or_none("DELETE", "/visits/:id", _path("/visits", id), reads=False) is not None

    # -- contacts --

    async def find_contacts(self, email: str) -> list[Record]:
        """The contacts with exactly this address."""
        answer = await self._call("GET", "/contacts", "/contacts", params={"email": email}) or {}
        found = answer.get("data")
        return [contact for contact in found if isinstance(contact, dict)] if isinstance(found, list) else []

    async def create_contact(self, fields: Mapping[str, str]) -> Record:
        """fields: `email`, and what else is known of first_name, last_name, phone, company, position."""
        return await self._call("POST", "/contacts", "/contacts", data=dict(fields)) or {}

    # -- the call --

    async def _call_or_none(self, method: str, route: str, path: str, **more: Any) -> Record | None:
        try:
            return await self._call(method, route, path, **more)
        except ClientError as refused:
            if refused.status in (404, 410):
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
        """The JSON object that was answered; {} for an empty answer. Raises VisitsApiError."""
        await self.before_call()
        call = f"{method} {route}"
        headers = {"authorization": f"Bearer {self.token}", "accept": "application/json", **self.trace_headers}
        started = time.perf_counter()

        def told() -> None:
            status = self.calls[-1][1]
            outcome = status if isinstance(status, str) else f"{status // 100}xx"
            self.on_response(method, route, outcome, time.perf_counter() - started)

        try:
            answer = await send_request(
                self.http, method, self.url + path, call, self.calls, params=params, data=data, headers=headers
            )
        except VisitsApiError:
            told()
            raise
        told()
        if not answer.is_success:
            raise error_for(call, answer)
        return _parse(call, answer) if reads else {}


async def send_request(
    http: httpx.AsyncClient,
    method: str,
    url: str,
    call: str,
    calls: list[list[Any]],
    *,
    headers: Mapping[str, str],
    oversized_error: type[VisitsApiError] = OutcomeUnknown,
    **more: Any,
) -> httpx.Response:
    """The answer to one request, noted among the calls, with no more than LARGEST_ANSWER bytes of it in memory.

    Raises ClientError where the request cannot be sent, ConnectionFailed, OutcomeUnknown, and `oversized_error` for a
    success that is longer.
    """
    headers = {**headers, "accept-encoding": "identity"}
    try:
        async with http.stream(method, url, headers=headers, **more) as answer, asyncio.timeout(RESPONSE_TIMEOUT_S):
            content = await _read_body(answer)
    except httpx.HTTPError as error:
        raise connection_error(call, error, calls) from None
    except TimeoutError:
        calls.append([call, OutcomeUnknown.kind])
        raise OutcomeUnknown(call, response_text="the answer does not end in time") from None
    except httpx.InvalidURL:
        calls.append([call, "not sent"])
        raise ClientError(call, response_text="the address of the request is not valid, or is too long") from None
    except Exception as error:
        if not _is_malformed_response(error):
            raise
        calls.append([call, OutcomeUnknown.kind])
        raise OutcomeUnknown(call, response_text="the answer is not valid HTTP") from None
    calls.append([call, answer.status_code])
    if answer.is_success and len(content) > MAX_RESPONSE_BYTES:
        raise oversized_error(call, response_text=f"the answer is longer than {MAX_RESPONSE_BYTES:,} bytes")
    plain = [(name, value) for name, value in answer.headers.multi_items() if name not in _BODY_HEADERS]
    return httpx.Response(answer.status_code, headers=plain, content=content)


_BODY_HEADERS = ("content-encoding", "content-length", "transfer-encoding")


async def _read_body(answer: httpx.Response) -> bytes:
    """The body up to one byte more than LARGEST_ANSWER. Some servers compress it although they are asked not to."""
    encoding = answer.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip", "deflate"):
        raise httpx.DecodingError(f"content encoding {encoding[:20]}")
    decoder = None if encoding == "identity" else zlib.decompressobj(zlib.MAX_WBITS | 32)
    content = bytearray()
    async for part in answer.aiter_raw():
        try:
            content += decoder.decompress(part, MAX_RESPONSE_BYTES + 1 - len(content)) if decoder else part
        except zlib.error:
            raise httpx.DecodingError("not compressed as it says") from None
        if len(content) > MAX_RESPONSE_BYTES:
            break
    return bytes(content)


def _is_malformed_response(error: Exception) -> bool:
    """The transport has no name of httpx's for a head that cannot be read, or is too long."""
    import aiohttp

    return isinstance(error, aiohttp.ClientResponseError)


def connection_error(call: str, error: httpx.HTTPError, calls: list[list[Any]]) -> VisitsApiError:
    """No answer, noted among the calls. Only where no connection came about is it sure that nothing was done: the names of
    httpx's errors do not tell, since the transport gives one that broke the name of one that never was."""
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
    """What a status that is not 2xx means."""
    status, said = response.status_code, response.content[: 4 * MAX_QUOTED_CHARS].decode("utf-8", "replace")
    match status:
        case 401 | 403:
            return Unauthorized(call, status, said)
        case 429:
            return RateLimited(
                call, status, said, retry_after_s(response.headers.get("retry-after"), datetime.now(UTC))
            )
        case 408 | 425:
            return ServerError(call, status, said)
        case _ if status >= 500:
            return ServerError(
                call, status, said, retry_after_s(response.headers.get("retry-after"), datetime.now(UTC))
            )
    return ClientError(call, status, said)


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """Seconds to wait by a Retry-After header, which holds seconds or a date; None if it says nothing usable."""
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


def _parse(call: str, answer: httpx.Response) -> Record:
    if not answer.content.strip():
        return {}
    try:
        read = orjson.loads(answer.content)
    except ValueError:
        read = None
    if not isinstance(read, dict):
        raise OutcomeUnknown(call, answer.status_code, "the answer is not a JSON object")
    return read


def _visit(answer: Record) -> Record:
    """The answer, if it is a visit: what an update answers is not documented."""
    return answer if "id" in answer or "external_id" in answer else {}


def _path(collection: str, id: str) -> str:
    return f"{collection}/{quote(id, safe='')}"
