"""Templates and static files."""

import hashlib
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape
from starlette.authentication import UnauthenticatedUser
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates
from starlette.types import Scope

from app.console.context import context
from app.console.sessions import cookie
from app.console.timezone import PAGE_ZONE, browser_zone, page_zone
from app.ledger.reasons import find_reason
from app.ledger.times import humanize, iso_timestamp, local_time, zone_name
from app.operators.activity_log import action_title
from app.operators.explain import field_title
from app.operators.filter import state_title
from app.operators.outcomes import call_title, outcome_title, skip_title
from app.visits.change import FIRST_TIME_US
from app.webhooks.registry import source_title

STATIC = Path(__file__).with_name("static")


async def render(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """Render in a thread, so that a large page does not block the event loop."""
    PAGE_ZONE.set(page_zone(request))
    return await run_in_threadpool(TEMPLATES.TemplateResponse, request, template, values, status)


async def render_newer(request: Request, count: int, names: tuple[str, str], address: str) -> Response:
    """Render a button that loads a list again, if it has new entries. names: of one, and of several."""
    return await render(request, "newer.html", count=count, names=names, list_address=address)


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
        "address": _address(request),
        "zones": (browser_zone(request), page_zone(request)),
    }


def _address(request: Request) -> str:
    """Return the address of this page; for the response to a form, of the page that contains it."""
    path = request.url.path
    if request.method == "POST":
        return path.rpartition("/")[0]
    return f"{path}?{request.url.query}" if request.url.query else path


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


def local(value: Any) -> str:
    """Format a time in ms or ISO 8601 in the zone of the page: `Nov 29, 2:00 PM EST`."""
    time = _datetime(value)
    return local_time(time, PAGE_ZONE.get()) if time else ""


def local_seconds(value: Any) -> str:
    """Format a time like `local`, with its seconds."""
    time = _datetime(value)
    return local_time(time, PAGE_ZONE.get(), "seconds") if time else ""


def local_hour(value: Any) -> str:
    """Format the hour of a time in the zone of the page: `2 PM`, or `2:30 PM`."""
    clock = local(value).split(", ")[-1]
    return " ".join(clock.split(" ")[:2]).replace(":00", "")


def local_input(value: str) -> str:
    """Format a time in ISO 8601 as the value of a field for a date and a time in the zone of the page."""
    try:
        return f"{datetime.fromisoformat(value).astimezone(PAGE_ZONE.get()):%Y-%m-%dT%H:%M}"
    except (ValueError, OverflowError):
        return ""


def current_zone() -> tuple[str, str]:
    """Return the abbreviation of the page's zone now, and its name: `EST`, `America/New_York`."""
    zone = PAGE_ZONE.get()
    return zone_name(datetime.now(zone)), "UTC" if zone is UTC else str(zone)


def number(value: float) -> str:
    return f"{value:,.0f}"


def due(value: Any) -> str:
    """Format the time of the next attempt as `in 2 h`, or `now` once it has passed."""
    text = ago(value)
    return text if text.startswith("in ") else "now"


def plain(value: Any) -> str:
    """Format a value of a visit for people: `yes`, `no`, a time in the zone of the page, and `none` for an empty one."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str) and _TIMESTAMP.fullmatch(value):
        return Markup('<time datetime="{}">{}</time>').format(value, local(value))
    return "none" if value in (None, "") else str(value)


#: A time as the Visits API formats it.
_TIMESTAMP = re.compile(r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]Z")


def sentence(text: str) -> Markup:
    """Format a sentence with times in ISO 8601: it begins with a capital, and its times are in the zone of the page."""
    return in_page_zone(text[:1].upper() + text[1:])


def in_page_zone(text: str) -> Markup:
    """Return the text with its times in ISO 8601 in the zone of the page."""
    return Markup(_TIMESTAMP.sub(lambda match: str(plain(match[0])), str(escape(text))))


def version(value: int) -> str | Markup:
    """Format the version of a change: a time, if the tool sends times, else a number."""
    if value < FIRST_TIME_US:
        return str(value)
    at = iso_timestamp(value / 1000) or ""
    return Markup('<time datetime="{}"><span>{}</span></time>').format(at, local_seconds(at))


def reason_option(reason: str) -> str:
    """Return a reason as one of a list to choose from."""
    return f"{find_reason(reason).title} – {reason}"[:80]


def marked(text: str) -> Markup:
    """Return the text with `code` between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def breakable(text: str) -> Markup:
    """Return a name that may break after its punctuation."""
    return Markup(re.sub(r"([._/:-])", r"\1<wbr>", str(escape(text))))


def recipe(text: str, url: str) -> Markup:
    """Return a step of a setup: the names of variables are code to copy, and the URL of a new hook, if it is complete."""
    is_complete = url and not url.startswith("/") and not url.endswith("•")
    pattern = rf"\bHOOKS__[A-Z0-9_]+\b{f'|{re.escape(str(escape(url)))}' if is_complete else ''}"
    return Markup(re.sub(pattern, r'<code class="copy">\g<0></code>', str(marked(text))))


def segment(text: str) -> str:
    """Quote the text as one segment of a URL's path."""
    return quote(text, safe="")


def _templates() -> Jinja2Templates:
    environment = Environment(
        loader=PackageLoader("app.console"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    filters: dict[str, Callable[..., Any]] = {
        "ago": ago,
        "due": due,
        "local": local,
        "local_seconds": local_seconds,
        "local_hour": local_hour,
        "local_input": local_input,
        "plain": plain,
        "number": number,
        "segment": segment,
        "iso": iso,
        "titled": source_title,
        "reason": find_reason,
        "reason_option": reason_option,
        "outcome_title": outcome_title,
        "skip_title": skip_title,
        "call_title": call_title,
        "action_title": action_title,
        "state_title": state_title,
        "marked": marked,
        "breakable": breakable,
        "recipe": recipe,
        "capitalize_first": lambda text: text[:1].upper() + text[1:],
        "field_title": field_title,
        "sentence": sentence,
        "in_page_zone": in_page_zone,
        "version": version,
    }
    environment.filters |= filters
    environment.globals["current_zone"] = current_zone
    environment.globals["static"] = lambda name: f"/console/static/{static_version()}/{name}"
    return Jinja2Templates(env=environment, context_processors=[_values_of_every_page])


TEMPLATES = _templates()
