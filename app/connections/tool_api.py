"""Calls to a tool's API, authenticated with the credentials of a hook."""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from random import random
from typing import Any
from urllib.parse import urljoin

import httpx

from app.connections.context import CallContext, shared_now
from app.connections.tokens import Tokens
from app.ledger import keys
from app.ledger.redis import RedisUnavailable
from app.settings.model import Hook
from app.visits.client import (
    ClientError,
    RateLimited,
    ServerError,
    Unauthorized,
    VisitsApiError,
    error_for,
    send_request,
    sent_at,
)
from app.webhooks.delivery import parse_json
from app.webhooks.fetching import RecordRequest
from app.webhooks.payload import Payload
from app.webhooks.source import Source
from app.webhooks.subscription import ApiResponse

#: The pause of a hook after a 429 without Retry-After, and the longest one: the limit may apply to one kind of call only.
DEFAULT_PAUSE_S, MAX_HOOK_PAUSE_S = 15.0, 300.0
#: The maximum random delay after a pause, which spreads the calls that waited for its end.
PAUSE_JITTER_S = 5.0


class CredentialsMissing(Exception):
    """The hook lacks credentials; the argument has their names, separated by commas."""


@dataclass(frozen=True, slots=True)
class ToolApi:
    """The API of the tool of one hook. calls: every call with its status is appended.

    The methods raise VisitsApiError, CredentialsMissing, LockContended, RedisUnavailable. After a 429, all calls of the hook
    pause, in all processes, because a tool's rate limit applies to the whole hook.
    """

    context: CallContext
    hook: Hook
    calls: list[list[object]]

    async def find(self, request: RecordRequest) -> Any:
        """Return the record; None if it does not exist."""
        response = await self.send(request)
        return None if response.status_code in (404, 410) else read_json(request.label, response)

    async def call(self, request: RecordRequest) -> ApiResponse:
        """Return a successful response; its value is None if it is empty. Raises ClientError for 404 and 410 too."""
        requested_at = shared_now(self.context)  # it orders listed values among fetched ones
        response = await self.send(request)
        if response.status_code in (404, 410):
            raise error_for(request.label, response)
        value = read_json(request.label, response) if response.content.strip() else None
        return ApiResponse(value, response.headers, requested_at)

    async def send(self, request: RecordRequest) -> httpx.Response:
        """Return the response if it is successful, 404 or 410. A token that is rejected with 401 is renewed once."""
        await self._check_pause(request.label)
        try:
            return await self._send_with_token(request)
        except RateLimited as limited:
            await self._pause(limited)
            raise

    async def _send_with_token(self, request: RecordRequest) -> httpx.Response:
        source, credentials = self.hook.source.definition, self.hook.settings.credentials
        if missing := missing_credentials(source, request, credentials):
            raise CredentialsMissing(", ".join(self._variable(name) for name in missing))
        if source.token_exchange is None or request.api or "TOKEN" in credentials:
            return await self._send(request, credentials)
        tokens = Tokens(self.context, self.hook, source.token_exchange, self.calls)
        token = await tokens.current()
        try:
            return await self._send(request, {**credentials, "TOKEN": token})
        except Unauthorized as error:
            if error.status == 403 or (renewed := await tokens.current(rejected=token)) == token:
                raise
            return await self._send(request, {**credentials, "TOKEN": renewed})

    async def _send(self, request: RecordRequest, credentials: Mapping[str, str]) -> httpx.Response:
        source = self.hook.source.definition
        scheme = request.api.credentials if request.api else source.credentials
        assert scheme
        auth = scheme.authenticate(credentials, time.time(), request)
        if auth.json is not None:
            request = replace(request, json=auth.json)
        api_url = request.api.url if request.api else source.api_url
        base = (self.hook.settings.api_url or api_url or "").rstrip("/")
        method, url, content = http_request(request, base)
        response = await send_request(
            self.context.http,
            method,
            url,
            request.label,
            self.calls,
            headers={"accept": "application/json", **source.api_headers, **request.headers, **auth.headers},
            oversized_error=ClientError,
            params={**request.params, **auth.params} or None,
            **content,
        )
        try:
            return check_status(request.label, response)
        except RateLimited as limited:
            raise until_reset(limited, response, source.rate_limit_reset_header) from None

    def _variable(self, credential: str) -> str:
        """Return the name under which a person sets a credential."""
        name, hook = self.hook.name, self.hook.settings
        is_variable = hook.uses_oauth or name in self.context.settings.environment_hooks
        return hook.credential_variable(name, credential) if is_variable else credential

    # -- pauses --

    async def _check_pause(self, label: str) -> None:
        """Raise RateLimited during the pause after a 429."""
        remaining_ms = int(await self.context.ledger.redis.command("PTTL", self._pause_key))
        if remaining_ms > 0:
            wait_s = remaining_ms / 1000 + PAUSE_JITTER_S * random()
            raise RateLimited(label, 429, "not sent: another request of this hook received this response", wait_s)

    async def _pause(self, limited: RateLimited) -> None:
        wait_s = DEFAULT_PAUSE_S if limited.wait_s is None else limited.wait_s
        if pause_ms := int(min(wait_s, MAX_HOOK_PAUSE_S) * 1000):
            with suppress(RedisUnavailable):
                await self.context.ledger.redis.commands(
                    ("SET", self._pause_key, b"1", "PX", pause_ms, "NX"),
                    ("PEXPIRE", self._pause_key, pause_ms, "GT"),  # of two pauses, the longer one
                )

    @property
    def _pause_key(self) -> str:
        return f"{keys.RETRY_AFTER}{self.hook.name}"


def missing_credentials(source: Source, request: RecordRequest, configured: Mapping[str, str]) -> list[str]:
    if request.api:
        return [name for name in request.api.credentials.names if name not in configured]
    return source.missing_credentials(configured)


def http_request(request: RecordRequest, base: str) -> tuple[str, str, dict[str, Any]]:
    """Return method, URL, and body as an argument of httpx. A path that begins with / or .. is relative."""
    if request.query:
        return "POST", base, {"json": {"query": request.query, "variables": dict(request.variables)}}
    path = request.path if request.endpoint is None else request.endpoint
    url = urljoin(f"{base}/", path) if path.startswith(("/", "../")) else f"{base}/{path}" if path else base
    if request.json is not None:
        return request.method or "POST", url, {"json": dict(request.json)}
    if request.form is not None:
        return request.method or "POST", url, {"data": dict(request.form)}
    return request.method or "GET", url, {}


def check_status(call: str, response: httpx.Response) -> httpx.Response:
    """Return the response if it is successful, 404 or 410; else raise VisitsApiError, by status as for the Visits API."""
    if response.is_success or response.status_code in (404, 410):
        return response
    raise error_for(call, response)


def read_json(call: str, response: httpx.Response) -> Any:
    """Return the JSON of a successful response. Raises ServerError, and VisitsApiError for the errors of GraphQL."""
    try:
        record = parse_json(response.content)
    except ValueError:
        raise ServerError(call, response.status_code, "the response is not JSON") from None
    if error_class := _graphql_error(record):
        raise error_class(call, response.status_code, "in a response with status 200")
    return record


#: GraphQL reports errors with status 200, in `errors[].extensions.code`, or `errors[].code` (Boulevard). Boulevard reports
#: its rate limit only in words: "API limit …, wait 120ms".
GRAPHQL_ERRORS = {
    "THROTTLED": RateLimited,
    "UNAUTHENTICATED": Unauthorized,
    "INTERNAL_SERVER_ERROR": ServerError,
}


def _items(errors: Payload) -> list[Payload]:
    return list(errors) if isinstance(errors.value, list) else []


def _graphql_error(record: Any) -> type[VisitsApiError] | None:
    for error in _items(Payload(record).at("errors")):
        for code in (error.at("extensions", "code").value, error.at("code").value):
            if isinstance(code, str) and code in GRAPHQL_ERRORS:
                return GRAPHQL_ERRORS[code]
        if isinstance(message := error.at("message").value, str) and "API limit" in message:
            return RateLimited
    return None


def until_reset(limited: RateLimited, response: httpx.Response, header: str | None) -> RateLimited:
    """Add the wait from the tool's own header: seconds, or a Unix time."""
    value = response.headers.get(header, "") if header else ""
    if limited.wait_s is not None or not value.isascii() or not value.isdecimal() or len(value) > 12:
        return limited
    seconds = float(value)
    wait_s = seconds - sent_at(response).timestamp() if seconds > 1_000_000_000 else seconds
    return RateLimited(limited.call, limited.status, limited.response_text, min(max(wait_s, 0.0), 86_400.0))
