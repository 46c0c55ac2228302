"""Access tokens that live for a while: got once for all workers, before they end and after a 401; kept sealed in Redis.

A refresh token that was replaced is worth as much as the account itself: it is kept under SECRET_KEY only. It counts as
long as the credentials that it came from are those of the settings; who connects the account anew starts anew.
"""

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from app.connection import RedisDown
from app.ledger import new_id
from app.reading import Json
from app.settings import Entrance
from app.sources import Exchange
from app.visits.client import Broken, Unauthorized, silence, trouble
from jobs.context import Context

#: A token is got anew so long before it ends.
EARLY_S = 60.0
#: One that is refused although it is younger is not the trouble.
YOUNG_S = 30.0
LOCK_S, WAIT_S = 25.0, 8.0


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
        ledger, lock, mine = self.context.ledger, f"{self._key}:lock", new_id()
        waits_until = time.monotonic() + WAIT_S
        while not (usable := _usable(await self._kept(), refused)):
            if await ledger.lock(lock, mine, LOCK_S):
                break
            if time.monotonic() > waits_until:
                raise Busy
            await asyncio.sleep(0.05)
        if usable:
            return usable
        try:
            kept = await self._kept()
            return _usable(kept, refused) or await self._exchange(kept)
        finally:
            with suppress(RedisDown):
                await ledger.unlock(lock, mine)

    @property
    def _key(self) -> str:
        return f"db:token:{self.entrance.name}"

    async def _exchange(self, kept: Mapping[str, Any]) -> str:
        exchange, given = self.exchange, dict(self.entrance.hook.credentials)
        if kept.get("refresh"):
            given["REFRESH_TOKEN"] = kept["refresh"]
        body: dict[str, Any] = {}
        if exchange.form is not None:
            body["data"] = _filled(exchange.form, given)
        if exchange.json is not None:
            body["json"] = _filled(exchange.json, given)
        headers = {"accept": "application/json", **_filled(exchange.headers, given)}
        url, call, asked_at = self.entrance.hook.token_url or exchange.url, "POST token", time.time()
        try:
            answer = await self.context.http.post(url, headers=headers, **body)
        except httpx.HTTPError as error:
            raise silence(call, error, self.calls) from None
        self.calls.append([call, answer.status_code])
        if answer.status_code in (400, 401, 403):
            raise Unauthorized(call, answer.status_code, "the token endpoint refuses these credentials")
        if not answer.is_success:
            raise trouble(call, answer)
        return await self._keep(_answered(call, answer), given.get("REFRESH_TOKEN"), asked_at)

    async def _keep(self, answer: Json, refresh: str | None, asked_at: float) -> str:
        token, lives_s = answer.at(*self.exchange.at).value, answer.at("expires_in").value
        if not isinstance(token, str) or not token:
            raise Broken("POST token", 200, "the answer has no token")
        if isinstance(lives_s, bool) or not isinstance(lives_s, int | float):
            lives_s = self.exchange.lives_s
        again = answer.at("refresh_token").value
        kept = {
            "token": token,
            "at": asked_at,
            "until": asked_at + lives_s,
            "refresh": again if isinstance(again, str) and again else refresh,
            "of": self._origin,
        }
        await self.context.ledger.redis.commands(("SET", self._key, self._seal.encrypt(orjson.dumps(kept))))
        return token

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


def _answered(call: str, answer: httpx.Response) -> Json:
    try:
        return Json(orjson.loads(answer.content))
    except ValueError:
        raise Broken(call, answer.status_code, "the answer is not JSON") from None
