"""Access tokens of tools: renewed once for all workers, before they expire and after a 401, and stored encrypted in Redis.

A refresh token gives full access to the account at the tool, so it is encrypted with a key derived from SECRET_KEY. A
stored token belongs to the credentials in the settings: after they change, the stored token is ignored. A process that
cannot decrypt the tokens of a log-in does not replace them: the refresh token in the settings may no longer be accepted.

Many tools accept a refresh token only once, so its replacement must not be lost. Therefore an exchange is a separate task,
which outlives its job; it starts only after Redis has accepted a write; and the new access token is used only after the new
refresh token is stored, which is retried as long as the process lives. One gap remains: the process is killed, or the
response is lost, after the tool has replaced the token and before the new one is stored. Then the old one is used again,
which tools with a grace period accept. With other tools the account must be connected again, as the attempt says.
"""

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus, urljoin

import httpx
import orjson

from app.connections.context import CallContext
from app.ledger import keys
from app.ledger.connections import TOKEN_PURPOSE
from app.ledger.encryption import Keyring, TamperedValue, UnknownKey
from app.ledger.ids import new_token
from app.ledger.locks import LockContended, single_flight
from app.ledger.redis import RedisUnavailable
from app.settings.model import Hook
from app.telemetry.logs import log
from app.visits.client import (
    CONNECT_TIMEOUT_S,
    ConnectionFailed,
    OutcomeUnknown,
    RateLimited,
    ServerError,
    Unauthorized,
    error_for,
    send_request,
)
from app.webhooks.fetching import TokenExchange
from app.webhooks.payload import Payload

#: A token is renewed this many seconds before it expires.
REFRESH_BEFORE_EXPIRY_S = 60.0
#: A rejected token that is younger than this is not renewed: another one would be rejected too.
MIN_REPLACEABLE_AGE_S = 30.0
LOCK_WAIT_S = 8.0
#: After the tool rejected the credentials, it is not asked with the same ones for this time.
REJECTION_TTL_MS = 30_000
#: An exchange may outlast its job; its lock lasts longer than the exchange.
EXCHANGE_TIMEOUT_S, LOCK_TTL_S = 25.0, 40.0
STORE_RETRY_S = 0.5
CALL = "POST token"
#: The lifetime of an access token that the tool neither limits nor renews.
UNLIMITED_S = 10 * 365 * 86_400
#: OAuth errors that are not about the refresh token.
NON_GRANT_ERRORS = (
    "invalid_client",
    "unauthorized_client",
    "invalid_request",
    "unsupported_grant_type",
    "invalid_scope",
)
NO_VALUES: Mapping[str, str] = {}
NO_TOKEN: Mapping[str, Any] = {"token": "", "issued_at": 0, "expires_at": 0}


class GrantRejected(Unauthorized):
    """The tool rejects the refresh token, or does not say what it rejects."""


class TokensUnreadable(Unauthorized):
    """The stored tokens cannot be decrypted. The text is a sentence."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one hook. calls: every call with its status is appended."""

    context: CallContext
    hook: Hook
    exchange: TokenExchange
    calls: list[list[object]]

    async def current(self, rejected: str = "") -> str:
        """Return a token that is valid for at least a minute. rejected: the token that the tool has just rejected.

        Raises VisitsApiError, LockContended, RedisUnavailable.
        """
        if usable := _usable_token(await self._load(), rejected):
            return usable
        async with self.context.locks.hold(self._key, LOCK_WAIT_S, LockContended):
            return await asyncio.shield(self._start_renewal(rejected))

    def _start_renewal(self, rejected: str) -> asyncio.Task[str]:
        """Start the renewal in its own task, which neither the timeout nor the cancellation of the job interrupts."""
        renewal = single_flight(
            self.context.ledger,
            self._key,
            ttl_s=LOCK_TTL_S,
            wait_s=LOCK_WAIT_S,
            decode=lambda stored: _usable_token(self._decode(stored), rejected) or None,
            produce=self._renew,
            produce_s=EXCHANGE_TIMEOUT_S,
        )
        task = asyncio.create_task(renewal)
        self.context.token_exchanges.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[str]) -> None:
        self.context.token_exchanges.discard(task)
        if task.cancelled() or isinstance(error := task.exception(), LockContended | None):
            return
        # If the job has ended, nothing else reports the error.
        log.warning("token_exchange_failed", hook=self.hook.name, reason=str(error) or type(error).__name__)

    @property
    def _key(self) -> str:
        return f"{keys.TOKEN}{self.hook.name}"

    @property
    def _rejection_key(self) -> str:
        return f"{self._key}:rejected"

    async def _renew(self) -> str:
        """Return the access token after the new refresh token is stored."""
        try:
            async with asyncio.timeout(EXCHANGE_TIMEOUT_S):
                renewed = await self._exchange_unless_rejected(await self._load())
        except TimeoutError:
            raise OutcomeUnknown(CALL, response_text=f"not done within {EXCHANGE_TIMEOUT_S:.0f} s") from None
        await self._store_until_accepted(renewed)
        return str(renewed["token"])

    async def _exchange_unless_rejected(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Exchange, unless the tool has just rejected the same credentials for another task."""
        digest = _digest({**self.hook.settings.credentials, "stored": stored.get("refresh_token") or ""})
        if rejection := await self.context.ledger.redis.command("GET", self._rejection_key):
            rejected_digest, status, text = orjson.loads(rejection)
            if rejected_digest == digest:
                raise Unauthorized(CALL, status, text)
        try:
            return await self._exchange(stored)
        except Unauthorized as error:
            rejection = orjson.dumps([digest, error.status, error.response_text])
            with suppress(RedisUnavailable):
                await self.context.ledger.set_with_ttl(self._rejection_key, rejection, REJECTION_TTL_MS)
            raise

    async def _exchange(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Exchange a refresh token, or the credentials of an app without one."""
        refresh = stored.get("refresh_token") or self.hook.settings.credentials.get("REFRESH_TOKEN")
        started_at = stored.get("exchange_started_at")
        if not refresh:
            if self.hook.settings.uses_oauth:
                raise GrantRejected(CALL, None, "no refresh token is stored: connect the account again")
            return await self._post(None)
        stored = {**NO_TOKEN, **stored, "credentials_digest": self._credentials_digest}
        # The tool may replace the token only once, so first make sure that Redis accepts writes.
        await self._store({**stored, "exchange_started_at": started_at or int(time.time())})
        try:
            return await self._post_newest(refresh, stored.get("previous_refresh_token"))
        except GrantRejected as error:
            await self._store({**stored, "previous_refresh_token": None})
            raise _lost_refresh_token(error, started_at) if started_at else error from None
        except (Unauthorized, RateLimited, ConnectionFailed):  # nothing was exchanged
            await self._store(stored)
            raise

    async def _post_newest(self, refresh: str, previous: str | None) -> dict[str, Any]:
        """Exchange the newest refresh token or, if the tool rejects it, the previous one.

        Some tools accept the previous one until the new one is used, or for a grace period.
        """
        try:
            return await self._post(refresh)
        except GrantRejected:
            if previous:
                with suppress(GrantRejected):
                    return await self._post(previous)
            raise

    async def redeem(self, exchange: TokenExchange, values: Mapping[str, str]) -> dict[str, Any]:
        """Return the tokens for an authorization code; nothing is stored. values: the code, and what belongs to it."""
        return await self._post(None, exchange, values)

    async def replace(self, tokens: Mapping[str, Any]) -> None:
        """Store the tokens of a new authorization."""
        async with self._without_exchange():
            await self._store(tokens)

    async def encrypt(self) -> bool:
        """Encrypt the stored tokens with the first key of SECRET_KEY, and return whether another one had encrypted them."""
        async with self._without_exchange():
            encrypted = await self.context.ledger.redis.command("GET", self._key)
            if not encrypted or self._keyring.is_newest(encrypted):
                return False
            await self._store(self._decrypt(encrypted))
            return True

    async def forget_failures(self) -> None:
        """Forget a rejection, and tokens that cannot be decrypted, because a person connects the account again."""
        redis = self.context.ledger.redis
        async with self._without_exchange():
            await redis.command("DEL", self._rejection_key)
            try:
                await self._load()
            except TokensUnreadable:
                await redis.command("DEL", self._key)

    @asynccontextmanager
    async def _without_exchange(self) -> AsyncIterator[None]:
        """Prevent other processes from exchanging a token. Raises LockContended."""
        lock, token, deadline = f"{self._key}:lock", new_token(), time.monotonic() + LOCK_WAIT_S
        while not await self.context.ledger.acquire_lock(lock, token, LOCK_TTL_S):
            if time.monotonic() > deadline:
                raise LockContended
            await asyncio.sleep(0.1)
        try:
            yield
        finally:
            await self.context.ledger.release_lock(lock, token)

    async def _post(
        self, refresh: str | None, exchange: TokenExchange | None = None, values: Mapping[str, str] = NO_VALUES
    ) -> dict[str, Any]:
        exchange, credentials = exchange or self.exchange, {**self.hook.settings.credentials, **values}
        if refresh:
            credentials["REFRESH_TOKEN"] = refresh
        body: dict[str, Any] = {"timeout": httpx.Timeout(EXCHANGE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)}
        if exchange.form is not None:
            body["data"] = _render_template(exchange.form, credentials)
        if exchange.json is not None:
            body["json"] = _render_template(exchange.json, credentials)
        headers = {"accept": "application/json", **_render_template(exchange.headers, credentials)}
        if exchange.is_basic_auth:
            headers["authorization"] = _basic_auth(credentials["CLIENT_ID"], credentials["CLIENT_SECRET"])
        url, requested_at = self._url, time.time()
        response = await send_request(self.context.http, "POST", url, CALL, self.calls, headers=headers, **body)
        if response.status_code in (400, 401, 403):
            raise _token_error(response, bool(refresh), self.hook.settings.uses_oauth)
        if not response.is_success:
            raise error_for(CALL, response)
        return self._parse_token(_parse_json(response), refresh, requested_at)

    @property
    def _url(self) -> str:
        """Return the URL of the token endpoint, which may be a path below that of the API."""
        api_url = self.hook.settings.api_url or self.hook.source.definition.api_url or ""
        return self.hook.settings.token_url or urljoin(f"{api_url.rstrip('/')}/", self.exchange.url)

    def _parse_token(self, payload: Payload, refresh: str | None, requested_at: float) -> dict[str, Any]:
        token, ttl_s = payload.at(*self.exchange.token_path).value, payload.at("expires_in").value
        if not isinstance(token, str) or not token:
            raise ServerError(CALL, 200, "the response has no token")
        replacement = payload.at("refresh_token").value
        newest = replacement if isinstance(replacement, str) and replacement else refresh
        if isinstance(ttl_s, bool) or not isinstance(ttl_s, int | float):
            is_final = self.hook.settings.uses_oauth and not newest
            ttl_s = UNLIMITED_S if is_final else self.exchange.default_ttl_s
        return {
            "token": token,
            "issued_at": requested_at,
            "expires_at": requested_at + ttl_s,
            "refresh_token": newest,
            "previous_refresh_token": refresh if refresh != newest else None,
            "credentials_digest": self._credentials_digest,
        }

    async def _store(self, token: Mapping[str, Any]) -> None:
        encrypted = self._keyring.encrypt(orjson.dumps(token), self._key)
        await self.context.ledger.redis.commands(("SET", self._key, encrypted))

    async def _store_until_accepted(self, token: Mapping[str, Any]) -> None:
        """Retry until Redis has this token or a newer one: the tool may no longer accept any other token."""
        while True:
            try:
                if (await self._load()).get("issued_at", 0) <= token["issued_at"]:
                    await self._store(token)
                return
            except RedisUnavailable as error:
                log.warning("token_not_stored", hook=self.hook.name, reason=str(error))
                await asyncio.sleep(STORE_RETRY_S)

    async def _load(self) -> dict[str, Any]:
        """Return the stored token; empty if there is none, or one of other credentials. Raises TokensUnreadable."""
        return self._decode(await self.context.ledger.redis.command("GET", self._key))

    def _decode(self, encrypted: bytes | None) -> dict[str, Any]:
        stored = self._decrypt(encrypted) if encrypted else {}
        return stored if stored.get("credentials_digest") == self._credentials_digest else {}

    def _decrypt(self, encrypted: bytes) -> dict[str, Any]:
        try:
            stored: dict[str, Any] = orjson.loads(self._keyring.decrypt(encrypted, self._key))
        except (UnknownKey, TamperedValue) as error:
            if not self._needs_stored_tokens:
                return {}
            text = (
                f"its stored tokens cannot be decrypted with SECRET_KEY (key {error}): add that key or, if it is lost, "
                "connect the account again"
            )
            raise TokensUnreadable(CALL, None, text) from None
        return stored

    @property
    def _needs_stored_tokens(self) -> bool:
        """Whether the credentials in the settings are not enough for another token: a log-in or a refresh token made it."""
        settings = self.hook.settings
        return bool(self.context.settings.secret_key) and (
            settings.uses_oauth or "REFRESH_TOKEN" in settings.credentials
        )

    @property
    def _credentials_digest(self) -> str:
        """A digest of the credentials to which a stored token belongs.

        A refresh token belongs to the app and a log-in, also when the app gets another secret.
        """
        credentials = dict(self.hook.settings.credentials)
        if self.hook.settings.uses_oauth:
            credentials = {name: value for name, value in credentials.items() if name == "CLIENT_ID"}
        elif "REFRESH_TOKEN" in credentials:
            credentials.pop("CLIENT_SECRET", None)
        return _digest(credentials)

    @property
    def _keyring(self) -> Keyring:
        """The keys of SECRET_KEY; without it, no refresh token exists, and a digest of the credentials is the key."""
        return Keyring(self.context.settings.secret_key or (self._credentials_digest,), TOKEN_PURPOSE)


def tokens_of(context: CallContext, hook: Hook) -> Tokens:
    """Return the tokens of a hook whose source has an exchange."""
    exchange = hook.source.definition.token_exchange
    assert exchange
    return Tokens(context, hook, exchange, [])


def _digest(credentials: Mapping[str, str]) -> str:
    encoded = orjson.dumps(dict(credentials), option=orjson.OPT_SORT_KEYS)
    return hmac.digest(b"doorbell.credentials", encoded, hashlib.sha256).hex()


def _usable_token(stored: Mapping[str, Any], rejected: str) -> str:
    now = time.time()
    if not stored:
        return ""
    issued_at, expires_at = stored["issued_at"], stored["expires_at"]
    if expires_at - now < min(REFRESH_BEFORE_EXPIRY_S, (expires_at - issued_at) / 2):
        return ""
    is_valid = stored["token"] != rejected or now - issued_at < MIN_REPLACEABLE_AGE_S
    return str(stored["token"]) if is_valid else ""


def _basic_auth(client_id: str, client_secret: str) -> str:
    pair = f"{quote_plus(client_id)}:{quote_plus(client_secret)}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def _render_template(template: Any, credentials: Mapping[str, str]) -> Any:
    """Replace `{NAME}` with that credential; other braces stay."""
    if isinstance(template, str):
        for name, value in credentials.items():
            template = template.replace(f"{{{name}}}", value)
        return template
    if isinstance(template, Mapping):
        return {name: _render_template(value, credentials) for name, value in template.items()}
    if isinstance(template, list | tuple):
        return [_render_template(value, credentials) for value in template]
    return template


def _lost_refresh_token(error: Unauthorized, started_at: int) -> Unauthorized:
    at = f"{datetime.fromtimestamp(started_at, UTC):%Y-%m-%dT%H:%M:%SZ}"
    explanation = (
        f"the response to an exchange at {at} was lost, and a new refresh token with it: connect the account again"
    )
    return Unauthorized(CALL, error.status, f"{error.response_text}; {explanation}")


def _token_error(response: httpx.Response, has_refresh: bool, uses_oauth: bool) -> Unauthorized:
    """Return the error of a rejected exchange. Without an OAuth error (RFC 6749, 5.2), assume the refresh token."""
    try:
        error = Payload(orjson.loads(response.content)).at("error").value
    except ValueError:
        error = None
    summary = "the token endpoint rejects these credentials"
    if error in NON_GRANT_ERRORS:
        return Unauthorized(CALL, response.status_code, f"{summary}: {error}")
    if has_refresh and uses_oauth:
        summary = "the log-in has ended, so reconnect the hook in the console"
    return (GrantRejected if has_refresh else Unauthorized)(CALL, response.status_code, summary)


def _parse_json(response: httpx.Response) -> Payload:
    try:
        return Payload(orjson.loads(response.content))
    except ValueError:
        raise ServerError(CALL, response.status_code, "the response is not JSON") from None
