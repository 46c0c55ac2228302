"""The time zone of a page: the browser's, which the script of the page stores in a cookie, or UTC.

Without the cookie, and so without JavaScript, times are in UTC.
"""

import re
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

from starlette.requests import Request

from app.console.context import context
from app.console.sessions import cookie
from app.ledger.times import iso_timestamp
from app.operators.filter import ActivityFilter, Filter

#: The first has the name of the browser's zone, the second `utc` if the user prefers UTC.
ZONE_COOKIE, PREFERENCE_COOKIE = "doorbell-zone", "doorbell-times"
#: The zone of the page that is being rendered.
PAGE_ZONE: ContextVar[tzinfo] = ContextVar("page_zone", default=UTC)


def page_zone(request: Request) -> tzinfo:
    if cookie(request, PREFERENCE_COOKIE) == "utc":
        return UTC
    return browser_zone(request) or UTC


def browser_zone(request: Request) -> ZoneInfo | None:
    return _zone(cookie(request, ZONE_COOKIE))


def _zone(name: str) -> ZoneInfo | None:
    """Return the zone, or None for a name that this computer does not know."""
    if not re.fullmatch(r"[A-Za-z0-9_+/-]{1,64}", name):
        return None
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # a folder, a name outside the database, an unknown name
        return None


def filter_of(request: Request) -> Filter:
    """Return the filter of the query or the form. Its times without an offset are in the zone of the form or the page."""
    params = _params(request)
    filter = context(request).search_tokens.with_search(Filter.from_query(params), params.get("search", ""))
    return replace(filter, since=time_field(request, filter.since))


def _params(request: Request) -> Mapping[str, str]:
    return getattr(request.state, "form", request.query_params)


def activity_filter_of(request: Request) -> ActivityFilter:
    """Return the filter of the query, as filter_of() does."""
    names = ("actor", "action", "id", "since", "until", "cursor")
    fields = {name: request.query_params.get(name, "").strip()[:300] for name in names}
    times = {name: time_field(request, fields[name]) for name in ("since", "until")}
    return ActivityFilter(**fields | times)


def time_field(request: Request, text: str) -> str:
    """Return the value of a field in UTC."""
    return _to_utc(text, _zone(_params(request).get("zone", "")) or page_zone(request))


def parse_local(request: Request, text: str) -> datetime | None:
    """Return a time of a form, which is in the zone of the page without an offset; None if it is not a time."""
    return _in_utc(text, page_zone(request))


def _to_utc(text: str, zone: tzinfo) -> str:
    time = _in_utc(text, zone)
    return (iso_timestamp(time.timestamp() * 1000) or text) if time else text


def _in_utc(text: str, zone: tzinfo) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
