"""Authentication of users: by a session that is stored in Redis, or by a trusted proxy that names the user.

The session cookie contains a signed session id and nothing else. Name and role are stored in Redis, so a session can be
revoked. A session also ends when the password of its user is changed or removed.
"""

import asyncio
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass

import orjson
from itsdangerous import BadSignature
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser
from starlette.requests import HTTPConnection
from starlette.responses import Response

from app.intake.request_body import HttpRejection
from app.ledger.keys import PARKED, PROXY_LOGIN, SESSION, SESSIONS
from app.ledger.ledger import Ledger
from app.operators.activity_log import ActivityLog
from app.settings.model import ConsoleUser, Role, Settings
from app.settings.signing import signer

SCOPES: dict[Role, list[str]] = {"operator": ["operator", "viewer"], "viewer": ["viewer"]}

#: `__Host-`: over https only, and for this host only. Browsers except Safari accept it at http://localhost too.
SESSION_COOKIE, SESSION_TTL_S = "__Host-doorbell", 12 * 3600
#: Our own cookies take about 200 bytes; a browser also sends those of other applications on this host.
MAX_COOKIE_BYTES = 8_192
PROXY = "proxy "
PROXY_SECRET_HEADER = "x-doorbell-proxy-secret"


@dataclass(frozen=True)
class User(BaseUser):
    """A logged-in user. session_id: PROXY and the name, if a proxy names the user."""

    name: str
    role: Role
    session_id: str

    @property
    def is_authenticated(self) -> bool:
        return True

    @property
    def display_name(self) -> str:
        return self.name

    @property
    def identity(self) -> str:
        return self.session_id


class Sessions(AuthenticationBackend):
    """Stores sessions and authenticates requests. Methods that read sessions may raise RedisUnavailable."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._settings, self._redis = settings, ledger.redis
        self._activity_log = ActivityLog(ledger)
        self._signer = signer(settings, "doorbell console session")

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        if exceeds_cookie_limit(conn):
            detail = f"the browser sent more than {MAX_COOKIE_BYTES} bytes of cookies; remove those of this host"
            raise HttpRejection(431, "cookies_too_long", detail)
        # Every page shows the number of failures, so both are read at once.
        user, conn.state.failure_count = await asyncio.gather(self.user(conn), self._redis.command("ZCARD", PARKED))
        if user and user.session_id.startswith(PROXY):
            await self._record_proxy_login(user)
        return (AuthCredentials(SCOPES[user.role]), user) if user else None

    async def user(self, conn: HTTPConnection) -> User | None:
        if name := self._proxy_user(conn):
            role: Role = "operator" if name in self._settings.console_proxy_operators else "viewer"
            return User(name, role, PROXY + name)
        session_id = self.session_id(conn)
        stored = await self._redis.command("GET", f"{SESSION}{session_id}") if session_id else None
        if not session_id or not stored:
            return None
        session = orjson.loads(stored)
        login = session.get("login", ""), session["role"]
        is_current = session.get("password") in (
            _password_version(user) for user in self._settings.console_users if (user.name, user.role) == login
        )
        return User(session["name"], session["role"], session_id) if is_current else None

    def session_id(self, conn: HTTPConnection) -> str | None:
        """Return the id in the cookie, or None if its signature is wrong or older than SESSION_TTL_S."""
        try:
            signed = cookie(conn, SESSION_COOKIE)
            return self._signer.unsign(signed, max_age=SESSION_TTL_S).decode() if self._signer else None
        except BadSignature:
            return None

    def _proxy_user(self, conn: HTTPConnection) -> str:
        header, secret = self._settings.console_proxy_header, self._settings.console_proxy_secret
        if not header or not secret:
            return ""
        secrets_sent = conn.headers.getlist(PROXY_SECRET_HEADER)
        names = conn.headers.getlist(header)
        if (
            len(secrets_sent) != 1
            or len(names) != 1
            or not hmac.compare_digest(secrets_sent[0].encode(), secret.encode())
        ):
            return ""
        return names[0].strip()[:80]

    async def _record_proxy_login(self, user: User) -> None:
        """Record a user of the proxy once in SESSION_TTL_S: the proxy reports no log-in."""
        digest = hashlib.sha256(user.session_id.encode("utf-8", "replace")).hexdigest()[:24]
        if await self._redis.command("SET", f"{PROXY_LOGIN}{digest}", 1, "NX", "EX", SESSION_TTL_S):
            await self._activity_log.record(user.name, user.role, "logged in", "through the proxy")

    async def begin(self, login: ConsoleUser) -> User:
        user, now = User(login.display_name, login.role, secrets.token_urlsafe(32)), int(time.time())
        session = orjson.dumps(
            {"name": user.name, "login": login.name, "role": user.role, "password": _password_version(login)}
        )
        await self._redis.commands(
            ("ZADD", SESSIONS, now + SESSION_TTL_S, user.session_id),
            ("ZREMRANGEBYSCORE", SESSIONS, "-inf", now),
            ("EXPIRE", SESSIONS, SESSION_TTL_S),
            ("SET", f"{SESSION}{user.session_id}", session, "EX", SESSION_TTL_S),
        )
        return user

    async def end(self, *session_ids: str) -> None:
        if session_ids:
            await self._redis.pipeline([("DEL", f"{SESSION}{session_id}") for session_id in session_ids])
            await self._redis.command("ZREM", SESSIONS, *session_ids)

    async def end_all(self) -> None:
        await self.end(*[session_id.decode() for session_id in await self._redis.command("ZRANGE", SESSIONS, 0, -1)])

    async def count(self) -> int:
        return int(await self._redis.command("ZCOUNT", SESSIONS, int(time.time()), "+inf"))

    def set_cookie(self, response: Response, user: User) -> None:
        assert self._signer
        set_signed_cookie(response, SESSION_COOKIE, self._signer.sign(user.session_id), SESSION_TTL_S)

    def delete_cookie(self, response: Response) -> None:
        response.delete_cookie(SESSION_COOKIE, path="/", secure=True, httponly=True, samesite="lax")


def _password_version(user: ConsoleUser) -> str:
    """Return a digest that changes with the password."""
    return hashlib.sha256(user.password_hash.encode()).hexdigest()[:32]


def set_signed_cookie(response: Response, name: str, value: bytes, ttl_s: int) -> None:
    response.set_cookie(name, value.decode(), ttl_s, path="/", secure=True, httponly=True, samesite="lax")


def cookie(conn: HTTPConnection, name: str) -> str:
    """Return one of our own cookies, which are never quoted; empty if the browser did not send it.

    `conn.cookies` is not used: before Python 3.11.10 and 3.12.6 parsing a quoted value takes quadratic time
    (CVE-2024-7592), and anybody can send the header.
    """
    if exceeds_cookie_limit(conn):
        return ""
    for line in conn.headers.getlist("cookie"):
        for pair in line.split(";"):
            key, is_pair, value = pair.partition("=")
            if is_pair and key.strip() == name:
                return value.strip()
    return ""


def exceeds_cookie_limit(conn: HTTPConnection) -> bool:
    return sum(map(len, conn.headers.getlist("cookie"))) > MAX_COOKIE_BYTES
