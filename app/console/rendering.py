"""What every page works with: settings, ledger, who asks, and how an answer is written."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib.resources import files
from typing import Any, Literal
from urllib.parse import quote

import httpx
from jinja2 import Environment, PackageLoader
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from app.console.auth import Access, User, cookie
from app.console.events import EventHub
from app.ledger.ledger import Ledger
from app.ledger.times import iso_timestamp
from app.operators.activity_log import ActivityLog
from app.operators.explain import Explain, humanize
from app.operators.operations import Operations
from app.settings.model import Settings
from app.visits.client import http_client
from app.webhooks.registry import source_title


@dataclass(slots=True)
class Ask:
    """One request to the console. user: who is in, once that is known; form: what was posted; parked: how many failures
    there are."""

    request: Request
    user: User | None = None
    form: dict[str, str] = field(default_factory=dict)
    parked: int = 0

    def query(self, name: str) -> str:
        return self.request.query_params.get(name, "").strip()[:300]

    def path(self, name: str) -> str:
        return str(self.request.path_params[name])

    @property
    def name(self) -> str:
        assert self.user
        return self.user.name


@dataclass(frozen=True, slots=True)
class Page:
    """A line of the table of pages. role: who it is for; `anybody` may be without a session, `static` is a file."""

    method: Literal["GET", "POST"]
    path: str
    role: Literal["static", "anybody", "viewer", "operator"]
    endpoint: "Endpoint"


class Desk:
    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self.settings, self.ledger, self.redis = settings, ledger, ledger.redis
        self.access = Access(settings, ledger.redis)
        self.audit_log = ActivityLog(ledger.redis)
        self.explain = Explain(ledger, settings)
        self.operations = Operations(ledger, settings)
        self.live = EventHub(ledger, settings)
        self._templates = _environment()
        self._http: httpx.AsyncClient | None = None

    @property
    def http(self) -> httpx.AsyncClient:
        """To the Visits API; made when it is first needed."""
        self._http = self._http or http_client(5)
        return self._http

    async def close(self) -> None:
        if self._http:
            await self._http.aclose()

    # -- answers --

    async def page(self, ask: Ask, template: str, status: int = 200, **values: Any) -> Response:
        """Laid out in a thread: a large page must not keep deliveries waiting."""
        user = ask.user
        known = {
            "user": user,
            "may_act": bool(user and user.has_role("operator")),
            "token": self.access.token(user),
            "theme": _one_of(cookie(ask.request, "doorbell-theme"), "light", "dark"),
            "keys": cookie(ask.request, "doorbell-keys") != "off",
            "parked": ask.parked if user else 0,
            "path": ask.request.url.path,
            "has_passwords": self.access.has_passwords,
        }
        render = self._templates.get_template(template).render
        return await asyncio.to_thread(lambda: HTMLResponse(render(known | values), status))

    async def problem(self, ask: Ask, status: int, title: str, sentence: str) -> Response:
        return await self.page(ask, "error.html", status, title=title, sentence=sentence)

    async def redis_down(self, ask: Ask, why: str) -> Response:
        """The page that is served when nothing else can be."""
        response = await self.page(ask, "redis_unavailable.html", 503, why=why)
        response.headers["retry-after"] = "5"
        return response

    def go(self, path: str) -> Response:
        return RedirectResponse(path, 303)


Endpoint = Callable[[Desk, Ask], Awaitable[Response]]


def _one_of(value: str, *allowed: str) -> str:
    return value if value in allowed else ""


# -- templates --


class Static:
    """What a browser gets beside the pages, by the digest of all of it: it may keep it for ever."""

    TYPES: Mapping[str, str] = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}

    @cached_property
    def files(self) -> dict[str, bytes]:
        folder = files("app.console").joinpath("static")
        return {file.name: file.read_bytes() for file in folder.iterdir() if file.name.rpartition(".")[2] in self.TYPES}

    @cached_property
    def version(self) -> str:
        return hashlib.sha256(b"".join(self.files[name] for name in sorted(self.files))).hexdigest()[:12]


STATIC = Static()


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("app.console"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"ago": ago, "number": number, "segment": segment, "iso": iso, "titled": source_title}
    environment.globals["static"] = lambda name: f"/console/static/{STATIC.version}/{name}"
    return environment


def _moment(when: Any) -> datetime | None:
    if not when:
        return None
    return datetime.fromisoformat(when) if isinstance(when, str) else datetime.fromtimestamp(float(when) / 1000, UTC)


def iso(when: Any) -> str:
    """ms or ISO 8601 to ISO 8601."""
    found = _moment(when)
    return iso_timestamp(int(found.timestamp() * 1000)) or "" if found else ""


def ago(when: Any) -> str:
    """`3 min ago`, `in 2 h`: of a time in ms, or in ISO 8601."""
    found = _moment(when)
    if found is None:
        return "never"
    seconds = (datetime.now(UTC) - found).total_seconds()
    told = humanize(abs(seconds))
    return "just now" if abs(seconds) < 2 else f"{told} ago" if seconds > 0 else f"in {told}"


def number(value: float) -> str:
    return f"{value:,.0f}"


def segment(text: str) -> str:
    """One part of an address."""
    return quote(text, safe="")
