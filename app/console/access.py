"""Who gets in, and what they may do: passwords or a trusted proxy, sessions, roles, and what a form must carry.

The cookie holds a signed session id and nothing else; who that is stands in Redis, where it can be taken back. A form
counts only if it comes from a page of ours: by the browser's own word (Sec-Fetch-Site, or Origin) and by a token.
"""

import asyncio
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

import orjson
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from itsdangerous import BadSignature, Signer, TimestampSigner
from starlette.requests import Request
from starlette.responses import Response

from app.connection import Redis
from app.settings import Settings

Role = Literal["viewer", "operator"]
RANK: dict[str, int] = {"viewer": 1, "operator": 2}

#: `__Host-`: set by this host for itself, over https only. Browsers other than Safari take it at http://localhost too.
COOKIE = "__Host-doorbell"
#: In bytes, of all cookies together. Ours have some 200; a browser also sends those of other applications on this host.
LONGEST_COOKIES = 8_192
SESSION_S = 12 * 3600
PROXY_SECRET = "x-doorbell-proxy-secret"

#: Failed attempts in a quarter of an hour: of one address, and of all together.
ATTEMPTS_S, MOST_OF_ONE, MOST_OF_ALL = 900, 10, 200

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    # Not `no-referrer`: browsers would then send `Origin: null` with our own forms.
    "referrer-policy": "same-origin",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class TooMany(Exception):
    """Attempts to log in; the answer is the same whether this one was right."""


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who is in. session: its id; for a proxy's user, the name stands in."""

    name: str
    role: Role
    session: str

    def may(self, role: Role) -> bool:
        return RANK[self.role] >= RANK[role]


class Access:
    """Methods that look at sessions may raise RedisDown."""

    def __init__(self, settings: Settings, redis: Redis) -> None:
        self._settings, self._redis = settings, redis
        self._hasher = PasswordHasher()
        self._one_at_a_time = asyncio.Semaphore(1)  # a check takes 64 MB
        keys = list(reversed(settings.secret_key))  # itsdangerous signs with the last
        self._sessions = TimestampSigner(keys, salt="doorbell console session") if keys else None
        self._tokens = Signer(keys, salt="doorbell console form") if keys else None

    @property
    def is_open(self) -> bool:
        return self._settings.has_console

    @property
    def has_passwords(self) -> bool:
        return bool(self._settings.console_password_hash or self._settings.console_viewer_password_hash)

    # -- who is it --

    async def user(self, request: Request) -> User | None:
        if name := self._proxys_user(request):
            role: Role = "operator" if name in self._settings.console_proxy_operators else "viewer"
            return User(name, role, f"proxy {name}")
        session = self.session(request)
        kept = await self._redis.command("GET", f"db:session:{session}") if session else None
        if not session or not kept:
            return None
        known = orjson.loads(kept)
        # A password that was taken out of the settings lets nobody in any more.
        return User(known["name"], known["role"], session) if self._hash_of(known["role"]) else None

    def session(self, request: Request) -> str | None:
        """The id in the cookie, if we signed it within the life of a session."""
        signed = cookie(request, COOKIE)
        try:
            return self._sessions.unsign(signed, max_age=SESSION_S).decode() if self._sessions else None
        except BadSignature:
            return None

    def _proxys_user(self, request: Request) -> str:
        header, secret = self._settings.console_proxy_header, self._settings.console_proxy_secret
        if not header or not secret:
            return ""
        shown = request.headers.getlist(PROXY_SECRET)
        names = request.headers.getlist(header)
        if len(shown) != 1 or len(names) != 1 or not hmac.compare_digest(shown[0].encode(), secret.encode()):
            return ""
        return names[0].strip()[:80]

    def _hash_of(self, role: str) -> str | None:
        settings = self._settings
        return settings.console_password_hash if role == "operator" else settings.console_viewer_password_hash

    # -- in and out --

    async def log_in(self, password: str, address: str) -> User | None:
        """A new session; None for a wrong password. Raises TooMany."""
        await self._check_attempts(address)
        role = await self._role_of(password)
        if role is None:
            return None
        await self._redis.command("DEL", self._attempts_of(address))
        user = User(role, role, secrets.token_urlsafe(32))
        kept = orjson.dumps({"name": user.name, "role": user.role})
        await self._redis.command("SET", f"db:session:{user.session}", kept, "EX", SESSION_S)
        return user

    async def log_out(self, user: User) -> None:
        await self._redis.command("DEL", f"db:session:{user.session}")

    def remember(self, response: Response, user: User) -> None:
        assert self._sessions
        value = self._sessions.sign(user.session).decode()
        response.set_cookie(COOKIE, value, SESSION_S, path="/", secure=True, httponly=True, samesite="lax")

    def forget(self, response: Response) -> None:
        response.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="lax")

    async def _check_attempts(self, address: str) -> None:
        """Counted before the password is looked at, so that many at once are no way around it. The number of all bounds
        how many addresses are remembered."""
        if await self._counted("db:attempts") > MOST_OF_ALL:
            raise TooMany
        if await self._counted(self._attempts_of(address)) > MOST_OF_ONE:
            raise TooMany

    async def _counted(self, key: str) -> int:
        count = int(await self._redis.command("INCR", key))
        await self._redis.command("EXPIRE", key, ATTEMPTS_S, "NX")
        return count

    def _attempts_of(self, address: str) -> str:
        return f"db:attempts:{hashlib.sha256(address.encode()).hexdigest()[:24]}"

    async def _role_of(self, password: str) -> Role | None:
        async with self._one_at_a_time:
            roles: tuple[Role, ...] = ("operator", "viewer")
            for role in roles:
                hash = self._hash_of(role)
                if hash is not None and await asyncio.to_thread(self._fits, password, hash):
                    return role
        return None

    def _fits(self, password: str, hash: str) -> bool:
        try:
            return self._hasher.verify(hash, password)
        except (VerificationError, InvalidHashError):
            return False

    # -- forms --

    def token(self, user: User | None) -> str:
        """Of every form: signed, and bound to the session."""
        return self._tokens.get_signature(user.session if user else "nobody").decode() if self._tokens else ""

    def is_ours(self, request: Request, token: str, user: User | None) -> bool:
        """Was this form sent from a page of ours?"""
        named = user.session if user else "nobody"
        if not self._tokens or not self._tokens.verify_signature(named.encode(), token.encode()):
            return False
        site = request.headers.get("sec-fetch-site")
        if site is not None:
            return site == "same-origin"
        # Browsers send it over https and to localhost only.
        origin = request.headers.get("origin") or request.headers.get("referer", "")
        return bool(origin) and urlsplit(origin).netloc == request.headers.get("host")


def hash_password(password: str) -> str:
    return PasswordHasher().hash(password)


def cookie(request: Request, name: str) -> str:
    """One of our own cookies, none of which is quoted; empty where it was not sent.

    Not `request.cookies`: on Python before 3.11.10 and 3.12.6 the time that takes grows with the square of a quoted value
    (CVE-2024-7592), and a stranger writes the header.
    """
    if has_too_many_cookies(request):
        return ""
    for line in request.headers.getlist("cookie"):
        for pair in line.split(";"):
            given, is_pair, value = pair.partition("=")
            if is_pair and given.strip() == name:
                return value.strip()
    return ""


def has_too_many_cookies(request: Request) -> bool:
    return sum(map(len, request.headers.getlist("cookie"))) > LONGEST_COOKIES


def address_of(request: Request) -> str:
    """Who is asking: what the router in front of us appended, else the peer."""
    forwarded = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
    return forwarded[:64] or (request.client.host if request.client else "")


def own_path(target: str) -> str:
    """Where to go after logging in: a page of the console, whatever somebody put into the address."""
    try:
        parts = urlsplit(target)
    except ValueError:
        return "/console"
    is_plain = target.isascii() and target.isprintable() and "\\" not in target and ".." not in target
    is_below = parts.path == "/console" or parts.path.startswith("/console/")
    is_ours = is_plain and not parts.scheme and not parts.netloc and is_below and "//" not in parts.path
    return target if is_ours and not parts.path.startswith("/console/log") else "/console"
