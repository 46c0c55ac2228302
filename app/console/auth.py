"""Who gets in, and what they may do: passwords or a trusted proxy, sessions, roles, and what a form must carry.

The cookie holds a signed session id and nothing else; who that is stands in Redis, where it can be taken back. A form
counts only if it comes from a page of ours: by the browser's own word (Sec-Fetch-Site, or Origin) and by a token.
"""

import asyncio
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Literal
from urllib.parse import urlsplit

import orjson
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from itsdangerous import BadSignature, Signer, TimestampSigner
from starlette.requests import Request
from starlette.responses import Response

from app.console.turns import LoginQueue, Priority, TooManyAttempts
from app.ledger.redis import Redis
from app.settings.model import Settings

Role = Literal["viewer", "operator"]
ROLE_RANK: dict[str, int] = {"viewer": 1, "operator": 2}

#: `__Host-`: set by this host for itself, over https only. Browsers other than Safari take it at http://localhost too.
SESSION_COOKIE = "__Host-doorbell"
#: In bytes, of all cookies together. Ours have some 200; a browser also sends those of other applications on this host.
MAX_COOKIE_BYTES = 8_192
SESSION_TTL_S = 12 * 3600
PROXY_SECRET_HEADER = "x-doorbell-proxy-secret"

#: A browser that has logged in before shows this: strangers who try passwords do not keep it out.
BROWSER_COOKIE, BROWSER_TTL_S = "__Host-doorbell-known", 365 * 86_400

#: Counts attempts to log in: of all strangers under this key, of each browser or address under one that begins with it.
LOGIN_ATTEMPTS = "bell:login-attempts"
#: Failed attempts in a quarter of an hour: of one browser or address; of all strangers, before they are slowed down.
ATTEMPTS_WINDOW_S, MAX_ATTEMPTS_PER_CLIENT, MAX_STRANGER_ATTEMPTS = 900, 10, 200
#: The ids of all sessions, so that they can be ended together.
SESSIONS = "bell:sessions"

SECURITY_HEADERS = {
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


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who is in. session: its id; for a proxy's user, the name stands in."""

    name: str
    role: Role
    session: str

    def has_role(self, role: Role) -> bool:
        return ROLE_RANK[self.role] >= ROLE_RANK[role]


class Access:
    """Methods that look at sessions may raise RedisUnavailable."""

    def __init__(self, settings: Settings, redis: Redis) -> None:
        self._settings, self._redis = settings, redis
        self._hasher = PasswordHasher()
        self._turns = LoginQueue()
        keys = list(reversed(settings.secret_key))  # itsdangerous signs with the last
        self._sessions = TimestampSigner(keys, salt="doorbell console session") if keys else None
        self._tokens = Signer(keys, salt="doorbell console form") if keys else None
        self._browsers = TimestampSigner(keys, salt="doorbell console known browser") if keys else None

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
        kept = await self._redis.command("GET", f"bell:session:{session}") if session else None
        if not session or not kept:
            return None
        known = orjson.loads(kept)
        # A password that was changed, or taken out of the settings, lets nobody in any more.
        is_current = known.get("password") == self._password_of(known["role"]) != ""
        return User(known["name"], known["role"], session) if is_current else None

    def session(self, request: Request) -> str | None:
        """The id in the cookie, if we signed it within the life of a session."""
        signed = cookie(request, SESSION_COOKIE)
        try:
            return self._sessions.unsign(signed, max_age=SESSION_TTL_S).decode() if self._sessions else None
        except BadSignature:
            return None

    def _proxys_user(self, request: Request) -> str:
        header, secret = self._settings.console_proxy_header, self._settings.console_proxy_secret
        if not header or not secret:
            return ""
        shown = request.headers.getlist(PROXY_SECRET_HEADER)
        names = request.headers.getlist(header)
        if len(shown) != 1 or len(names) != 1 or not hmac.compare_digest(shown[0].encode(), secret.encode()):
            return ""
        return names[0].strip()[:80]

    def _hash_of(self, role: str) -> str | None:
        settings = self._settings
        return settings.console_password_hash if role == "operator" else settings.console_viewer_password_hash

    def _password_of(self, role: str) -> str:
        """A digest of the password's hash, which a session ends with; empty where there is no password."""
        hash = self._hash_of(role)
        return hashlib.sha256(hash.encode()).hexdigest()[:32] if hash else ""

    # -- in and out --

    def address_of(self, request: Request) -> str:
        return client_address(request, self._settings.trusted_proxies)

    async def log_in(self, password: str, request: Request) -> User | None:
        """A new session; None for a wrong password. Raises TooMany."""
        browser = self._browser(request)
        attempts = attempts_key(f"browser {browser}" if browser else self.address_of(request))
        failed = int(await self._redis.command("GET", attempts) or 0)
        if failed >= MAX_ATTEMPTS_PER_CLIENT:
            raise TooManyAttempts
        async with self._turns.turn(Priority(not browser, failed)):
            await self._count(attempts, is_stranger=not browser)
            role = await self._role_of(password)
        if role is None:
            return None
        if role == "operator":  # a viewer could go on for ever guessing the operator's password
            await self._redis.command("DEL", attempts)
        return await self._begin(role)

    async def _begin(self, role: Role) -> User:
        user, now = User(role, role, secrets.token_urlsafe(32)), int(time.time())
        kept = orjson.dumps({"name": user.name, "role": role, "password": self._password_of(role)})
        await self._redis.commands(
            ("ZADD", SESSIONS, now + SESSION_TTL_S, user.session),
            ("ZREMRANGEBYSCORE", SESSIONS, "-inf", now),
            ("EXPIRE", SESSIONS, SESSION_TTL_S),
            ("SET", f"bell:session:{user.session}", kept, "EX", SESSION_TTL_S),
        )
        return user

    async def log_out(self, user: User) -> None:
        await self._end([user.session])

    async def count_sessions(self) -> int:
        return int(await self._redis.command("ZCOUNT", SESSIONS, int(time.time()), "+inf"))

    async def log_out_everybody(self) -> int:
        """End every session; how many there were."""
        sessions = await self._redis.command("ZRANGE", SESSIONS, 0, -1)
        await self._end([session.decode() for session in sessions])
        return len(sessions)

    async def _end(self, sessions: list[str]) -> None:
        if sessions:
            await self._redis.command("DEL", *(f"bell:session:{session}" for session in sessions))
            await self._redis.command("ZREM", SESSIONS, *sessions)

    def remember(self, request: Request, response: Response, user: User) -> None:
        """The session; and this browser, beyond its end."""
        assert self._sessions
        assert self._browsers
        browser = self._browser(request) or secrets.token_urlsafe(16)
        for name, value, age_s in (
            (SESSION_COOKIE, self._sessions.sign(user.session), SESSION_TTL_S),
            (BROWSER_COOKIE, self._browsers.sign(browser), BROWSER_TTL_S),
        ):
            response.set_cookie(name, value.decode(), age_s, path="/", secure=True, httponly=True, samesite="lax")

    def forget(self, response: Response) -> None:
        response.delete_cookie(SESSION_COOKIE, path="/", secure=True, httponly=True, samesite="lax")

    def _browser(self, request: Request) -> str:
        """The id of a browser that has logged in before."""
        try:
            known = cookie(request, BROWSER_COOKIE)
            return self._browsers.unsign(known, max_age=BROWSER_TTL_S).decode() if self._browsers else ""
        except BadSignature:
            return ""

    async def _count(self, attempts: str, *, is_stranger: bool) -> None:
        """Before the password is looked at, so that many at once are no way around it. Raises TooMany."""
        if await self._counted(attempts) > MAX_ATTEMPTS_PER_CLIENT:
            raise TooManyAttempts
        if is_stranger and await self._counted(LOGIN_ATTEMPTS) > MAX_STRANGER_ATTEMPTS:
            self._turns.slow_strangers_down()

    async def _counted(self, key: str) -> int:
        count, _ = await self._redis.commands(("INCR", key), ("EXPIRE", key, ATTEMPTS_WINDOW_S, "NX"))
        return int(count)

    async def _role_of(self, password: str) -> Role | None:
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

    def is_same_origin_form(self, request: Request, token: str, user: User | None) -> bool:
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
    if exceeds_cookie_limit(request):
        return ""
    for line in request.headers.getlist("cookie"):
        for pair in line.split(";"):
            given, is_pair, value = pair.partition("=")
            if is_pair and given.strip() == name:
                return value.strip()
    return ""


def exceeds_cookie_limit(request: Request) -> bool:
    return sum(map(len, request.headers.getlist("cookie"))) > MAX_COOKIE_BYTES


def attempts_key(client: str) -> str:
    """Where the failed attempts of one are counted. Of an IPv6 address the network counts: a host has all of it."""
    try:
        address = ip_address(client)
    except ValueError:
        pass
    else:
        if isinstance(address, IPv6Address):
            client = str(address.ipv4_mapped or ip_network((address, 64), strict=False))
    return f"{LOGIN_ATTEMPTS}:{hashlib.sha256(client.encode('utf-8', 'replace')).hexdigest()[:24]}"


def client_address(request: Request, proxies: int | None = None) -> str:
    """Who is asking. proxies: how many routers in front of us add themselves to X-Forwarded-For, each behind what was there;
    None: one, where the request comes from a private address, as a router's do. What stands before is the client's own
    word."""
    peer = request.client.host if request.client else ""
    if proxies is None:
        proxies = 0 if _is_public_address(peer) else 1
    forwarded = [one.strip() for line in request.headers.getlist("x-forwarded-for") for one in line.split(",")]
    given = forwarded[-proxies] if 0 < proxies <= len(forwarded) else ""
    return given[:64] or peer


def _is_public_address(address: str) -> bool:
    """Of the internet, and not of a network that a platform has between its routers and us."""
    try:
        peer = ip_address(address)
    except ValueError:  # a unix socket has no address
        return False
    return ((isinstance(peer, IPv6Address) and peer.ipv4_mapped) or peer).is_global


def safe_redirect_target(target: str) -> str:
    """Where to go after logging in: a page of the console, whatever somebody put into the address."""
    try:
        parts = urlsplit(target)
    except ValueError:
        return "/console"
    is_plain = target.isascii() and target.isprintable() and "\\" not in target and ".." not in target
    # `///console` has the path /console too, and browsers read it as another host.
    is_below = target.startswith("/console") and (parts.path == "/console" or parts.path.startswith("/console/"))
    is_ours = is_plain and is_below and "//" not in parts.path
    return target if is_ours and not parts.path.startswith("/console/log") else "/console"
