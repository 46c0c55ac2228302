"""A browser without a window for the console in process."""

import re
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import httpx
from argon2 import PasswordHasher
from starlette.routing import Route

from app.console.middleware import RequireRole
from app.console.routes import ROUTES
from app.ledger.redis import Redis

Opened = Callable[[dict[str, str]], Awaitable[Any]]

OPERATORS, VIEWERS = "an operator's password", "a viewer's password"


#: Cheap ones: what a hash costs is for whoever tries passwords, not for tests.
_CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)

HASHES = {OPERATORS: _CHEAP.hash(OPERATORS), VIEWERS: _CHEAP.hash(VIEWERS)}

KEY = "key-of-the-tests"


class Listed(NamedTuple):
    """A route, and the role that it requires."""

    method: str
    path: str
    role: str


def listed(route: Route) -> Listed:
    assert isinstance(route.app, RequireRole)
    [method] = (route.methods or set()) - {"HEAD"}
    return Listed(method, f"/console{route.path}".rstrip("/"), route.app.role)


LISTED = [listed(route) for route in ROUTES]
PAGES = [page for page in LISTED if page.method == "GET"]
ACTIONS = [page for page in LISTED if page.method == "POST"]


#: The event stream has no end: it is looked at in test_events.py.
ENDING = [page for page in LISTED if page.path != "/console/stream"]


#: As a browser sends them with a form of our own.
OURS = {"sec-fetch-site": "same-origin", "origin": "https://doorbell.example.com"}


class Browser:
    """Somebody at the console: cookies, and the token of the last page."""

    def __init__(self, app: Any, **headers: str) -> None:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("192.0.2.1", 1))
        self.http = httpx.AsyncClient(transport=transport, base_url="https://doorbell.example.com", headers=headers)
        self.token = ""

    async def get(self, path: str, **more: Any) -> httpx.Response:
        answer = await self.http.get(path, **more)
        if found := re.search(r'name="token" value="([^"]+)"', answer.text):
            self.token = found[1]
        return answer

    async def post(self, path: str, form: dict[str, str] | None = None, **headers: str) -> httpx.Response:
        return await self.http.post(path, data={"token": self.token, **(form or {})}, headers={**OURS, **headers})

    async def log_in(self, password: str = OPERATORS, to: str = "") -> httpx.Response:
        await self.get("/console/login")
        answer = await self.post("/console/login", {"password": password, "to": to})
        await self.get("/console/settings")
        return answer


def path_of(page: Any, delivery: str) -> str:
    """An address that exists, for every page of the table."""
    filled = {
        "id": delivery,
        "external_id": "standard-A-1042",
        "name": "standard",
        "hook": "standard",
        "operation": "none",
        "account": "main",
    }
    return str(re.sub(r"\{(\w+)\}", lambda found: filled[found[1]], page.path))


async def noted(redis: Redis) -> list[tuple[bytes, bytes]]:
    """What was done, of what."""
    lines = await redis.command("XRANGE", "bell:activity", "-", "+")
    return [(fields[5], fields[7]) for _, fields in lines if fields[5] != b"logged in"]
