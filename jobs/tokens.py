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

from app.ledger.ledger import new_id
from app.ledger.redis import RedisDown
from app.settings.model import Entrance
from app.telemetry.logs import log
from app.visits.client import CONNECT_S, Broken, RateLimited, Unanswered, Unauthorized, Unreachable, ask, trouble
from app.webhooks.fetching import Exchange
from app.webhooks.payload import Json
from jobs.context import Context

#: A token is got anew so long before it ends.
EARLY_S = 60.0
#: One that is refused although it is younger is not the trouble.
YOUNG_S = 30.0
WAIT_S = 8.0
#: An exchange may take so long, also beyond the time of the job that began it. Its lock is held for longer.
EXCHANGE_S, LOCK_S = 25.0, 40.0
STORE_AGAIN_S = 0.5
CALL = "POST token"
#: Refusals of something else than the refresh token.
OTHER_REFUSALS = ("invalid_client", "unauthorized_client", "invalid_request", "unsupported_grant_type", "invalid_scope")
#: What is kept where nobody got a token yet.
NOTHING: Mapping[str, Any] = {"token": "", "at": 0, "until": 0}


class GrantRefused(Unauthorized):
    """The refresh token is refused, as far as the tool tells."""


class Busy(Exception):
    """Another worker has it in hand, or too many have."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one hook. calls: what was called and answered."""

    context: Context
    entrance: Entrance
    exchange: Exchange
    calls: list[list[object]]

    async def current(self, refused: str = "") -> str:
        """A token that counts for a minute at least. refused: one that the tool has just not accepted.

        Raises VisitsApiTrouble, Busy, RedisDown.
        """
        if usable := _usable(await self._kept(), refused):
            return usable
        async with self.context.turns.alone(self._key, WAIT_S, Busy):
            return await self._current_locked(refused)

    async def _current_locked(self, refused: str) -> str:
        ledger, lock, mine = self.context.ledger, f"{self._key}:lock", new_id()
        waits_until = time.monotonic() + WAIT_S
        while not (usable := _usable(await self._kept(), refused)):
            taken_at = time.monotonic()
            if await ledger.lock(lock, mine, LOCK_S):
                return await asyncio.shield(self._task(self._renew(refused, mine, taken_at)))
            if time.monotonic() > waits_until:
                raise Busy
            await asyncio.sleep(0.05)
        return usable

    def _task(self, renewing: Coroutine[Any, Any, str]) -> asyncio.Task[str]:
        """Of its own, so that neither the end of the job's time nor its cancellation breaks an exchange off."""
        task = asyncio.create_task(renewing)
        self.context.exchanges.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[str]) -> None:
        self.context.exchanges.discard(task)
        if not task.cancelled() and (error := task.exception()):  # the job that began it may have ended
            log.warning("no token", hook=self.entrance.name, reason=str(error) or type(error).__name__)

    @property
    def _key(self) -> str:
        return f"db:token:{self.entrance.name}"

    async def _renew(self, refused: str, mine: str, taken_at: float) -> str:
        """With the lock in hand. The token is returned once the refresh token that came with it is in Redis."""
        try:
            kept = await self._kept()
            if usable := _usable(kept, refused):
                return usable
            if time.monotonic() - taken_at > LOCK_S - EXCHANGE_S:
                raise Busy  # the lock might end before the exchange does
            async with asyncio.timeout(EXCHANGE_S):
                got = await self._exchange(kept)
            await self._store_at_last(got)
            return str(got["token"])
        except TimeoutError:
            raise Unanswered(CALL, said=f"not done within {EXCHANGE_S:.0f} s") from None
        finally:
            with suppress(RedisDown):
                await self.context.ledger.unlock(f"{self._key}:lock", mine)

    async def _exchange(self, kept: Mapping[str, Any]) -> dict[str, Any]:
        """With the newest refresh token and, should the tool refuse that one, once with the one before it: a tool may
        accept the old one until the new one was used, or for a while."""
        refresh, begun = kept.get("refresh") or self.entrance.hook.credentials.get("REFRESH_TOKEN"), kept.get("begun")
        if not refresh:
            return await self._post(None)
        kept = {**NOTHING, **kept, "of": self._origin}
        # Redis must accept a write before the tool is asked for what it may give only once.
        await self._store({**kept, "begun": begun or int(time.time())})
        try:
            return await self._post(refresh)
        except GrantRefused as failed:
            await self._store({**kept, "before": None})
            if before := kept.get("before"):
                with suppress(GrantRefused):
                    return await self._post(before)
            raise _lost(failed, begun) if begun else failed from None
        except (Unauthorized, RateLimited, Unreachable):  # nothing was exchanged
            await self._store(kept)
            raise

    async def _post(self, refresh: str | None) -> dict[str, Any]:
        exchange, given = self.exchange, dict(self.entrance.hook.credentials)
        if refresh:
            given["REFRESH_TOKEN"] = refresh
        body: dict[str, Any] = {"timeout": httpx.Timeout(EXCHANGE_S, connect=CONNECT_S)}
        if exchange.form is not None:
            body["data"] = _filled(exchange.form, given)
        if exchange.json is not None:
            body["json"] = _filled(exchange.json, given)
        headers = {"accept": "application/json", **_filled(exchange.headers, given)}
        url, asked_at = self.entrance.hook.token_url or exchange.url, time.time()
        answer = await ask(self.context.http, "POST", url, CALL, self.calls, headers=headers, **body)
        if answer.status_code in (400, 401, 403):
            raise _refusal(answer, bool(refresh))
        if not answer.is_success:
            raise trouble(CALL, answer)
        return self._got(_answered(answer), refresh, asked_at)

    def _got(self, answer: Json, refresh: str | None, asked_at: float) -> dict[str, Any]:
        """What is kept of an answer."""
        token, lives_s = answer.at(*self.exchange.at).value, answer.at("expires_in").value
        if not isinstance(token, str) or not token:
            raise Broken(CALL, 200, "the answer has no token")
        if isinstance(lives_s, bool) or not isinstance(lives_s, int | float):
            lives_s = self.exchange.lives_s
        again = answer.at("refresh_token").value
        newest = again if isinstance(again, str) and again else refresh
        return {
            "token": token,
            "at": asked_at,
            "until": asked_at + lives_s,
            "refresh": newest,
            "before": refresh if refresh != newest else None,
            "of": self._origin,
        }

    async def _store(self, kept: Mapping[str, Any]) -> None:
        await self.context.ledger.redis.commands(("SET", self._key, self._seal.encrypt(orjson.dumps(kept))))

    async def _store_at_last(self, got: Mapping[str, Any]) -> None:
        """Again and again until Redis has it, unless it has a newer one: the tool may accept no other one any more."""
        while True:
            try:
                if (await self._kept()).get("at", 0) <= got["at"]:
                    await self._store(got)
                return
            except RedisDown as error:
                log.warning("token not stored yet", hook=self.entrance.name, reason=str(error))
                await asyncio.sleep(STORE_AGAIN_S)

    async def _kept(self) -> dict[str, Any]:
        """Nothing, where nobody got one yet, where the key that sealed it is gone, and after a change of settings."""
        sealed = await self.context.ledger.redis.command("GET", self._key)
        try:
            kept: dict[str, Any] = orjson.loads(self._seal.decrypt(sealed)) if sealed else {}
        except (InvalidToken, ValueError):
            return {}
        return kept if kept.get("of") == self._origin else {}

    @property
    def _origin(self) -> str:
        given = orjson.dumps(self.entrance.hook.credentials, option=orjson.OPT_SORT_KEYS)
        return hmac.digest(b"doorbell.credentials", given, hashlib.sha256).hex()

    @property
    def _seal(self) -> MultiFernet:
        """Under SECRET_KEY, newest first. Without one there is no refresh token, and the credentials themselves do."""
        keys = self.context.settings.secret_key or (self._origin,)
        return MultiFernet([Fernet(base64.urlsafe_b64encode(_derived(key))) for key in keys])


def _derived(key: str) -> bytes:
    return hmac.digest(key.encode(), b"doorbell.token", hashlib.sha256)


def _usable(kept: Mapping[str, Any], refused: str) -> str:
    now = time.time()
    if not kept or kept["until"] - now < min(EARLY_S, (kept["until"] - kept["at"]) / 2):
        return ""
    return str(kept["token"]) if kept["token"] != refused or now - kept["at"] < YOUNG_S else ""


def _filled(template: Any, given: Mapping[str, str]) -> Any:
    """With `{NAME}` replaced by that credential, and nothing else: no other brace means anything."""
    if isinstance(template, str):
        for name, value in given.items():
            template = template.replace(f"{{{name}}}", value)
        return template
    if isinstance(template, Mapping):
        return {name: _filled(value, given) for name, value in template.items()}
    if isinstance(template, list | tuple):
        return [_filled(value, given) for value in template]
    return template


def _lost(failed: Unauthorized, begun: int) -> Unauthorized:
    at = f"{datetime.fromtimestamp(begun, UTC):%Y-%m-%dT%H:%M:%SZ}"
    why = f"the answer to an exchange at {at} was lost, and a new refresh token with it: connect the account anew"
    return Unauthorized(CALL, failed.status, f"{failed.said}; {why}")


def _refusal(answer: httpx.Response, has_refresh: bool) -> Unauthorized:
    """OAuth names what it refuses (RFC 6749, 5.2). Tools that name nothing may mean the refresh token, too."""
    try:
        error = Json(orjson.loads(answer.content)).at("error").value
    except ValueError:
        error = None
    said = "the token endpoint refuses these credentials"
    if error in OTHER_REFUSALS:
        return Unauthorized(CALL, answer.status_code, f"{said}: {error}")
    return (GrantRefused if has_refresh else Unauthorized)(CALL, answer.status_code, said)


def _answered(answer: httpx.Response) -> Json:
    try:
        return Json(orjson.loads(answer.content))
    except ValueError:
        raise Broken(CALL, answer.status_code, "the answer is not JSON") from None
