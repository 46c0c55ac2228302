"""Templates and static files."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader
from starlette.authentication import UnauthenticatedUser
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates
from starlette.types import Scope

from app.console.context import context
from app.console.sessions import cookie
from app.ledger.reasons import find_reason
from app.ledger.times import humanize, iso_timestamp
from app.webhooks.registry import source_title

STATIC = Path(__file__).with_name("static")


async def render(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """Render in a thread, so that a large page does not block the event loop."""
    return await run_in_threadpool(TEMPLATES.TemplateResponse, request, template, values, status)


def redirect(path: str) -> Response:
    return RedirectResponse(path, 303)


def _values_of_every_page(request: Request) -> dict[str, Any]:
    console = context(request)
    # Without Redis, authentication fails and the error page has no user.
    user = request.scope.get("user", UnauthenticatedUser())
    return {
        "user": user if user.is_authenticated else None,
        "may_act": user.is_authenticated and user.role == "operator",
        "failure_count": request.state.failure_count if user.is_authenticated else 0,
        "token": console.form_tokens.token(user),
        "has_passwords": console.passwords.are_configured,
        "theme": cookie(request, "doorbell-theme"),
        "keys": cookie(request, "doorbell-keys") != "off",
        "path": request.url.path.rstrip("/"),
    }


@cache
def static_version() -> str:
    """Return a digest of all static files. URLs contain it, so browsers may cache the files forever."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(STATIC.iterdir()))).hexdigest()[:12]


class VersionedFiles(StaticFiles):
    """Static files below a `{version}`; browsers may cache only the current version."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        is_current = scope["path_params"]["version"] == static_version()
        response.headers["cache-control"] = "public, max-age=31536000, immutable" if is_current else "no-cache"
        return response


# -- filters --


def _datetime(value: Any) -> datetime | None:
    if not value:
        return None
    return datetime.fromisoformat(value) if isinstance(value, str) else datetime.fromtimestamp(float(value) / 1000, UTC)


def iso(value: Any) -> str:
    """Format a time in ms or ISO 8601 as ISO 8601."""
    time = _datetime(value)
    return iso_timestamp(int(time.timestamp() * 1000)) or "" if time else ""


def ago(value: Any) -> str:
    """Format a time in ms or ISO 8601 as `3 min ago` or `in 2 h`."""
    time = _datetime(value)
    if time is None:
        return "never"
    seconds = (datetime.now(UTC) - time).total_seconds()
    distance = humanize(abs(seconds))
    return "just now" if abs(seconds) < 2 else f"{distance} ago" if seconds > 0 else f"in {distance}"


def number(value: float) -> str:
    return f"{value:,.0f}"


def due(value: Any) -> str:
    """Format the time of the next attempt as `in 2 h`, or `now` once it has passed."""
    text = ago(value)
    return text if text.startswith("in ") else "now"


def plain(value: Any) -> str:
    """Format a value of a visit for people: `yes`, `no`, and `none` for an empty one."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value in (None, "") else str(value)


def segment(text: str) -> str:
    """Quote the text as one segment of a URL's path."""
    return quote(text, safe="")


def _templates() -> Jinja2Templates:
    environment = Environment(
        loader=PackageLoader("app.console"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    filters: dict[str, Callable[[Any], Any]] = {
        "ago": ago,
        "due": due,
        "plain": plain,
        "number": number,
        "segment": segment,
        "iso": iso,
        "titled": source_title,
        "reason": find_reason,
    }
    environment.filters |= filters
    environment.globals["static"] = lambda name: f"/console/static/{static_version()}/{name}"
    return Jinja2Templates(env=environment, context_processors=[_values_of_every_page])


TEMPLATES = _templates()
