"""Access tokens that live for a while: got once for all workers, before they end and after a 401; kept sealed in Redis.

A refresh token that was replaced is worth as much as the account itself: it is kept under SECRET_KEY only. It counts as
long as the credentials that it came from are those of the settings; who connects the account anew starts anew.

Many tools accept a refresh token once, so the one in the answer must not be lost. An exchange is a task of its own, which
outlives the job that began it; it begins only after Redis has accepted a write; and the new access token is used only after
the new refresh token is in Redis, which is tried for as long as the process lives. What remains: a process that is killed,
or an answer that does not arrive, between the moment in which the tool replaces the token and our write. Then the old one is
tried again, which tools with a grace period accept; with others the account has to be connected anew, and the event says so.
"""

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import orjson
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from app.ledger.ledger import new_delivery_id
from app.ledger.redis import RedisUnavailable
from app.settings.model import Entrance
from app.telemetry.logs import log
from app.visits.client import CONNECT_S, Broken, RateLimited, Unanswered, Unauthorized, Unreachable, ask, trouble
from app.webhooks.fetching import TokenExchange
from app.webhooks.payload import Payload
from jobs.context import Context
from jobs.errors import InProgressElsewhere

#: A token is got anew so long before it ends.
REFRESH_BEFORE_EXPIRY_S = 60.0
#: One that is refused although it is younger is not the trouble.
MIN_REPLACEABLE_AGE_S = 30.0
LOCK_WAIT_S = 8.0
#: An exchange may take so long, also beyond the time of the job that began it. Its lock is held for longer.
EXCHANGE_TIMEOUT_S, LOCK_TTL_S = 25.0, 40.0
STORE_RETRY_S = 0.5
CALL = "POST token"
#: Refusals of something else than the refresh token.
NON_GRANT_ERRORS = (
    "invalid_client",
    "unauthorized_client",
    "invalid_request",
    "unsupported_grant_type",
    "invalid_scope",
)
#: What is kept where nobody got a token yet.
NO_TOKEN: Mapping[str, Any] = {"token": "", "at": 0, "until": 0}


class GrantRejected(Unauthorized):
    """The refresh token is refused, as far as the tool tells."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one hook. calls: what was called and answered."""

    context: Context
    entrance: Entrance
    exchange: TokenExchange
    calls: list[list[object]]

    async def current(self, rejected: str = "") -> str:
        """A token that counts for a minute at least. refused: one that the tool has just not accepted.

        Raises VisitsApiTrouble, Busy, RedisUnavailable.
        """
        if usable := _usable_token(await self._load(), rejected):
            return usable
        async with self.context.locks.hold(self._key, LOCK_WAIT_S, InProgressElsewhere):
            return await self._current_or_renewed(rejected)

    async def _current_or_renewed(self, rejected: str) -> str:
        ledger, lock, lock_token = self.context.ledger, f"{self._key}:lock", new_delivery_id()
        waits_until = time.monotonic() + LOCK_WAIT_S
        while not (usable := _usable_token(await self._load(), rejected)):
            locked_at = time.monotonic()
            if await ledger.acquire_lock(lock, lock_token, LOCK_TTL_S):
                return await asyncio.shield(self._start_renewal(self._renew(rejected, lock_token, locked_at)))
            if time.monotonic() > waits_until:
                raise InProgressElsewhere
            await asyncio.sleep(0.05)
        return usable

    def _start_renewal(self, renewal: Coroutine[Any, Any, str]) -> asyncio.Task[str]:
        """Of its own, so that neither the end of the job's time nor its cancellation breaks an exchange off."""
        task = asyncio.create_task(renewal)
        self.context.token_exchanges.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[str]) -> None:
        self.context.token_exchanges.discard(task)
        if not task.cancelled() and (error := task.exception()):  # the job that began it may have ended
            log.warning("no token", hook=self.entrance.name, reason=str(error) or type(error).__name__)

    @property
    def _key(self) -> str:
        return f"bell:token:{self.entrance.name}"

    async def _renew(self, rejected: str, lock_token: str, locked_at: float) -> str:
        """With the lock in hand. The token is returned once the refresh token that came with it is in Redis."""
        try:
            stored = await self._load()
            if usable := _usable_token(stored, rejected):
                return usable
            if time.monotonic() - locked_at > LOCK_TTL_S - EXCHANGE_TIMEOUT_S:
                raise InProgressElsewhere  # the lock might end before the exchange does
            async with asyncio.timeout(EXCHANGE_TIMEOUT_S):
                renewed = await self._exchange(stored)
            await self._store_until_accepted(renewed)
            return str(renewed["token"])
        except TimeoutError:
            raise Unanswered(CALL, said=f"not done within {EXCHANGE_TIMEOUT_S:.0f} s") from None
        finally:
            with suppress(RedisUnavailable):
                await self.context.ledger.release_lock(f"{self._key}:lock", lock_token)

    async def _exchange(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """With the newest refresh token and, should the tool refuse that one, once with the one before it: a tool may
        accept the old one until the new one was used, or for a while."""
        refresh, started_at = (
            stored.get("refresh") or self.entrance.hook.credentials.get("REFRESH_TOKEN"),
            stored.get("begun"),
        )
        if not refresh:
            return await self._post(None)
        stored = {**NO_TOKEN, **stored, "of": self._credentials_digest}
        # Redis must accept a write before the tool is asked for what it may give only once.
        await self._store({**stored, "begun": started_at or int(time.time())})
        try:
            return await self._post(refresh)
        except GrantRejected as failed:
            await self._store({**stored, "before": None})
            if previous := stored.get("before"):
                with suppress(GrantRejected):
                    return await self._post(previous)
            raise _lost_refresh_token(failed, started_at) if started_at else failed from None
        except (Unauthorized, RateLimited, Unreachable):  # nothing was exchanged
            await self._store(stored)
            raise

    async def _post(self, refresh: str | None) -> dict[str, Any]:
        exchange, given = self.exchange, dict(self.entrance.hook.credentials)
        if refresh:
            given["REFRESH_TOKEN"] = refresh
        body: dict[str, Any] = {"timeout": httpx.Timeout(EXCHANGE_TIMEOUT_S, connect=CONNECT_S)}
        if exchange.form is not None:
            body["data"] = _render_template(exchange.form, given)
        if exchange.json is not None:
            body["json"] = _render_template(exchange.json, given)
        headers = {"accept": "application/json", **_render_template(exchange.headers, given)}
        url, requested_at = self.entrance.hook.token_url or exchange.url, time.time()
        answer = await ask(self.context.http, "POST", url, CALL, self.calls, headers=headers, **body)
        if answer.status_code in (400, 401, 403):
            raise _token_error(answer, bool(refresh))
        if not answer.is_success:
            raise trouble(CALL, answer)
        return self._parse_token(_parse_json(answer), refresh, requested_at)

    def _parse_token(self, answer: Payload, refresh: str | None, requested_at: float) -> dict[str, Any]:
        """What is kept of an answer."""
        token, ttl_s = answer.at(*self.exchange.token_path).value, answer.at("expires_in").value
        if not isinstance(token, str) or not token:
            raise Broken(CALL, 200, "the answer has no token")
        if isinstance(ttl_s, bool) or not isinstance(ttl_s, int | float):
            ttl_s = self.exchange.default_ttl_s
        replacement = answer.at("refresh_token").value
        newest = replacement if isinstance(replacement, str) and replacement else refresh
        return {
            "token": token,
            "at": requested_at,
            "until": requested_at + ttl_s,
            "refresh": newest,
            "before": refresh if refresh != newest else None,
            "of": self._credentials_digest,
        }

    async def _store(self, token: Mapping[str, Any]) -> None:
        await self.context.ledger.redis.commands(("SET", self._key, self._fernet.encrypt(orjson.dumps(token))))

    async def _store_until_accepted(self, token: Mapping[str, Any]) -> None:
        """Again and again until Redis has it, unless it has a newer one: the tool may accept no other one any more."""
        while True:
            try:
                if (await self._load()).get("at", 0) <= token["at"]:
                    await self._store(token)
                return
            except RedisUnavailable as error:
                log.warning("token_not_stored", hook=self.entrance.name, reason=str(error))
                await asyncio.sleep(STORE_RETRY_S)

    async def _load(self) -> dict[str, Any]:
        """Nothing, where nobody got one yet, where the key that sealed it is gone, and after a change of settings."""
        encrypted = await self.context.ledger.redis.command("GET", self._key)
        try:
            stored: dict[str, Any] = orjson.loads(self._fernet.decrypt(encrypted)) if encrypted else {}
        except (InvalidToken, ValueError):
            return {}
        return stored if stored.get("of") == self._credentials_digest else {}

    @property
    def _credentials_digest(self) -> str:
        given = orjson.dumps(self.entrance.hook.credentials, option=orjson.OPT_SORT_KEYS)
        return hmac.digest(b"doorbell.credentials", given, hashlib.sha256).hex()

    @property
    def _fernet(self) -> MultiFernet:
        """Under SECRET_KEY, newest first. Without one there is no refresh token, and the credentials themselves do."""
        keys = self.context.settings.secret_key or (self._credentials_digest,)
        return MultiFernet([Fernet(base64.urlsafe_b64encode(_derive_key(key))) for key in keys])


def _derive_key(key: str) -> bytes:
    return hmac.digest(key.encode(), b"doorbell.token", hashlib.sha256)


def _usable_token(stored: Mapping[str, Any], rejected: str) -> str:
    now = time.time()
    if not stored or stored["until"] - now < min(REFRESH_BEFORE_EXPIRY_S, (stored["until"] - stored["at"]) / 2):
        return ""
    return str(stored["token"]) if stored["token"] != rejected or now - stored["at"] < MIN_REPLACEABLE_AGE_S else ""


def _render_template(template: Any, credentials: Mapping[str, str]) -> Any:
    """With `{NAME}` replaced by that credential, and nothing else: no other brace means anything."""
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
        f"the answer to an exchange at {at} was lost, and a new refresh token with it: connect the account anew"
    )
    return Unauthorized(CALL, error.status, f"{error.said}; {explanation}")


def _token_error(answer: httpx.Response, has_refresh: bool) -> Unauthorized:
    """OAuth names what it refuses (RFC 6749, 5.2). Tools that name nothing may mean the refresh token, too."""
    try:
        error = Payload(orjson.loads(answer.content)).at("error").value
    except ValueError:
        error = None
    summary = "the token endpoint refuses these credentials"
    if error in NON_GRANT_ERRORS:
        return Unauthorized(CALL, answer.status_code, f"{summary}: {error}")
    return (GrantRejected if has_refresh else Unauthorized)(CALL, answer.status_code, summary)


def _parse_json(answer: httpx.Response) -> Payload:
    try:
        return Payload(orjson.loads(answer.content))
    except ValueError:
        raise Broken(CALL, answer.status_code, "the answer is not JSON") from None
