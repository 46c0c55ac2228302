"""Password checks, with limits per client and for all clients together.

Attempts are counted before the password is checked, so that parallel requests cannot exceed a limit. The browser of a user
has a cookie and its own count for log-ins as this user, so other clients at the same IP address cannot lock the user out.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address, ip_network

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from itsdangerous import BadSignature
from starlette.requests import HTTPConnection
from starlette.responses import Response

from app.console.login_queue import LoginQueue, Priority, TooManyAttempts
from app.console.sessions import cookie, set_signed_cookie
from app.ledger.keys import LOGIN_ATTEMPTS
from app.ledger.redis import Redis
from app.settings.model import ConsoleUser, Settings
from app.settings.signing import signer

#: Identifies a browser, and the user who last logged in with it.
BROWSER_COOKIE, BROWSER_TTL_S = "__Host-doorbell-known", 365 * 86_400
#: Attempts per window: of a known browser until its user logs in, or failed ones of an address; and of all unknown browsers
#: together, which are then slowed down.
ATTEMPTS_WINDOW_S, MAX_ATTEMPTS_PER_CLIENT, MAX_UNKNOWN_ATTEMPTS = 900, 10, 200


class Passwords:
    def __init__(self, settings: Settings, redis: Redis) -> None:
        self._settings, self._redis = settings, redis
        self._hasher = PasswordHasher()
        self._queue = LoginQueue()
        self._browsers = signer(settings, "doorbell console known browser")

    @property
    def are_configured(self) -> bool:
        return bool(self._settings.console_users)

    @property
    def have_names(self) -> bool:
        return any(user.name for user in self._settings.console_users)

    def users_named(self, name: str) -> list[ConsoleUser]:
        """Return the user with this name, in any case. Without a name, those whose passwords have none."""
        return [user for user in self._settings.console_users if user.name.casefold() == name.casefold()]

    async def log_in(self, name: str, password: str, request: HTTPConnection) -> ConsoleUser | None:
        """Return the user, or None if the name or the password is wrong. Raises TooManyAttempts."""
        browser = self._known_browser(request, self.users_named(name))
        attempts = attempts_key(f"browser {browser}" if browser else self.client_address(request))
        failed_attempts = int(await self._redis.command("GET", attempts) or 0)
        if failed_attempts >= MAX_ATTEMPTS_PER_CLIENT:
            raise TooManyAttempts
        async with self._queue.turn(Priority(not browser, failed_attempts)):
            await self._count_attempt(attempts, is_unknown=not browser)
            user = await self._matching_user(name, password)
        if user and browser:
            await self._redis.command("DEL", attempts)  # all were log-ins as this user
        elif user:
            await self._uncount_attempt(attempts)
        return user

    def client_address(self, request: HTTPConnection) -> str:
        return client_address(request, self._settings.trusted_proxies)

    def remember_browser(self, request: HTTPConnection, response: Response, user: ConsoleUser) -> None:
        assert self._browsers
        browser = self._known_browser(request, [user]) or secrets.token_urlsafe(16)
        signed = self._browsers.sign(f"{browser}:{_user_version(user)}")
        set_signed_cookie(response, BROWSER_COOKIE, signed, BROWSER_TTL_S)

    def _known_browser(self, request: HTTPConnection, users: Sequence[ConsoleUser]) -> str:
        """Return the id of the browser if one of these users last logged in with it; else an empty string.

        Operators and viewers may both have a password without a name. Then a viewer's browser is unknown: with each log-in
        that sends no cookie, the viewer would get another browser to guess the operators' password.
        """
        try:
            signed = cookie(request, BROWSER_COOKIE)
            value = self._browsers.unsign(signed, max_age=BROWSER_TTL_S).decode() if self._browsers else ""
        except BadSignature:
            return ""
        browser, _, version = value.partition(":")
        operators = [user for user in users if user.role == "operator"]
        return browser if version in map(_user_version, operators or users) else ""

    async def _count_attempt(self, attempts: str, *, is_unknown: bool) -> None:
        if await self._increment(attempts) > MAX_ATTEMPTS_PER_CLIENT:
            raise TooManyAttempts
        if is_unknown and await self._increment(LOGIN_ATTEMPTS) > MAX_UNKNOWN_ATTEMPTS:
            self._queue.slow_unknown_down()

    async def _uncount_attempt(self, attempts: str) -> None:
        """Leave the failed attempts of the address: else a user could guess the passwords of others without a limit."""
        await self._redis.commands(("DECR", attempts), ("EXPIRE", attempts, ATTEMPTS_WINDOW_S, "NX"))

    async def _increment(self, key: str) -> int:
        count, _ = await self._redis.commands(("INCR", key), ("EXPIRE", key, ATTEMPTS_WINDOW_S, "NX"))
        return int(count)

    async def _matching_user(self, name: str, password: str) -> ConsoleUser | None:
        users = self.users_named(name)
        # An unknown name takes as long as a wrong password.
        for user in users or self._settings.console_users[:1]:
            if await asyncio.to_thread(self._matches, password, user.password_hash) and user in users:
                return user
        return None

    def _matches(self, password: str, password_hash: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False


def _user_version(user: ConsoleUser) -> str:
    """Return a digest of the user that changes with the password."""
    return hashlib.sha256("\0".join(user).encode()).hexdigest()[:32]


def attempts_key(client: str) -> str:
    """Return the key that counts the failed attempts of one client.

    One host may own a whole IPv6 /64, so the network counts as the client.
    """
    try:
        address = ip_address(client)
    except ValueError:
        pass
    else:
        if isinstance(address, IPv6Address):
            client = str(address.ipv4_mapped or ip_network((address, 64), strict=False))
    return f"{LOGIN_ATTEMPTS}:{hashlib.sha256(client.encode('utf-8', 'replace')).hexdigest()[:24]}"


def client_address(request: HTTPConnection, proxies: int | None = None) -> str:
    """Return the address of the client.

    proxies: the number of routers in front of Doorbell that append to X-Forwarded-For. None: one if the address of the peer
    is private, else none. The client can write the earlier entries, so they are ignored.
    """
    peer = request.client.host if request.client else ""
    if proxies is None:
        proxies = 0 if _is_public_address(peer) else 1
    forwarded = [entry.strip() for line in request.headers.getlist("x-forwarded-for") for entry in line.split(",")]
    address = forwarded[-proxies] if 0 < proxies <= len(forwarded) else ""
    return address[:64] or peer


def _is_public_address(text: str) -> bool:
    try:
        address = ip_address(text)
    except ValueError:  # a unix socket has no address
        return False
    return ((isinstance(address, IPv6Address) and address.ipv4_mapped) or address).is_global
