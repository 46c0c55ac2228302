"""A client for the console in this process."""

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


#: Fast hashes, because the tests compute many.
FAST_HASHER = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)

HASHES = {OPERATORS: FAST_HASHER.hash(OPERATORS), VIEWERS: FAST_HASHER.hash(VIEWERS)}

KEY = "key-of-the-tests"


class ConsoleRoute(NamedTuple):
    """A route, and the role that it requires."""

    method: str
    path: str
    role: str


def console_route(route: Route) -> ConsoleRoute:
    assert isinstance(route.app, RequireRole)
    [method] = (route.methods or set()) - {"HEAD"}
    return ConsoleRoute(method, f"/console{route.path}".rstrip("/"), route.app.role)


CONSOLE_ROUTES = [console_route(route) for route in ROUTES]
PAGES = [page for page in CONSOLE_ROUTES if page.method == "GET"]
ACTIONS = [page for page in CONSOLE_ROUTES if page.method == "POST"]


#: Routes whose response ends. The event stream does not; test_events.py tests it.
FINITE_ROUTES = [page for page in CONSOLE_ROUTES if page.path != "/console/stream"]


#: The headers that a browser sends with a form of the console.
SAME_ORIGIN_HEADERS = {"sec-fetch-site": "same-origin", "origin": "https://doorbell.example.com"}


class Browser:
    """An operator's browser, with cookies and the form token of the last page."""

    def __init__(self, app: Any, **headers: str) -> None:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("192.0.2.1", 1))
        self.http = httpx.AsyncClient(transport=transport, base_url="https://doorbell.example.com", headers=headers)
        self.token = ""

    async def get(self, path: str, **more: Any) -> httpx.Response:
        response = await self.http.get(path, **more)
        if match := re.search(r'name="token" value="([^"]+)"', response.text):
            self.token = match[1]
        return response

    async def post(self, path: str, form: dict[str, str] | None = None, **headers: str) -> httpx.Response:
        return await self.http.post(
            path, data={"token": self.token, **(form or {})}, headers={**SAME_ORIGIN_HEADERS, **headers}
        )

    async def log_in(self, password: str = OPERATORS, to: str = "", name: str = "") -> httpx.Response:
        await self.get("/console/login")
        response = await self.post("/console/login", {"username": name, "password": password, "to": to})
        await self.get("/console/search")  # a page with a form that takes little time
        return response


def main_text(page: str) -> str:
    """Return the text of the main part, with single spaces."""
    return " ".join(re.sub("<[^>]*>", " ", page.partition("<main")[2]).split())


def path_of(page: Any, delivery: str) -> str:
    """Return an existing path for a route."""
    values = {
        "id": delivery,
        "external_id": "standard-A-1042",
        "name": "standard",
        "source": "standard",
        "hook": "standard",
        "operation": "none",
        "account": "main",
    }
    return str(re.sub(r"\{(\w+)\}", lambda match: values[match[1]], page.path))


async def activities(redis: Redis) -> list[tuple[bytes, bytes]]:
    """Return action and subject of every activity except logins."""
    lines = await redis.command("XRANGE", "bell:activity", "-", "+")
    return [(fields[5], fields[7]) for _, fields in lines if fields[5] != b"logged in"]
