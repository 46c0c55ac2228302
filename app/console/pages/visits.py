"""The list of visits, and one visit."""

import asyncio
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal, InvalidOperation
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from app.console.context import actions, context
from app.console.pages.reveal_form import field_to_reveal
from app.console.rendering import redirect, render, segment
from app.console.timezone import page_zone
from app.operators.explain import FIELD_TITLES, Explain
from app.operators.filter import TASK_STATES
from app.operators.redaction import REDACTED
from app.operators.visit_lists import WHEN, VisitFilter, VisitLists, When, day_start, period, task_id_of
from app.settings.model import Settings
from app.visits.change import CONTACT_FIELDS
from app.visits.client import VisitsApiError
from app.webhooks.registry import load_sources, source_of_visit, source_title

#: The periods whose number of visits is shown.
COUNTED: tuple[When, ...] = ("today", "tomorrow")
#: Facts and changes on the page; `doorbell visit` shows all.
MAX_ROWS = 300
#: Values of one field that do not count.
MAX_OTHERS = 3
#: The field of the form that reveals the whole contact.
CONTACT = "contact"


async def visits(request: Request) -> Response:
    return await _list_page(request, VisitQuery.of(request.query_params))


async def reveal_customers(request: Request) -> Response:
    """Show the list with the customers of its visits."""
    return await _list_page(request, VisitQuery.of(request.state.form), with_customers=True)


async def _list_page(request: Request, query: "VisitQuery", *, with_customers: bool = False) -> Response:
    lists, customers = VisitLists(context(request).ledger), list[str]()
    now, zone = datetime.now(UTC), page_zone(request)
    page = await lists.visits(query.filter(now, zone))
    counts = {when: await lists.count(period(when, now, zone)) for when in COUNTED}
    if with_customers and page.rows:
        await actions(request).reveal_visits(list(map(task_id_of, page.rows)))
        customers = await lists.customers(page.rows)
    return await render(
        request,
        "visits.html",
        query=query,
        page=page,
        customers=customers,
        when=WHEN,
        counts=counts,
        states=TASK_STATES,
        tools=_tools(context(request).settings),
    )


def _tools(settings: Settings) -> dict[str, list[str]]:
    """Return the sources for the filter: the connected ones, then all others, which may have visits of earlier hooks."""
    connected = {hook.source.name for hook in settings.active_hooks.values()}
    groups = {"Connected": connected, "Others": load_sources().keys() - connected}
    return {title: sorted(names, key=source_title) for title, names in groups.items() if names}


@dataclass(frozen=True, slots=True)
class VisitQuery:
    """The query of the list. since, until: dates in the zone of the page, both included. amount: the smallest."""

    when: str = ""
    since: str = ""
    until: str = ""
    source: str = ""
    state: str = ""
    cancelled: str = ""
    amount: str = ""
    cursor: str = ""

    @classmethod
    def of(cls, values: Mapping[str, str]) -> "VisitQuery":
        """Parse the query of a URL, or a form. Values that cannot be read are ignored."""
        values = {name: values.get(name, "").strip()[:300] for name in cls.__slots__}
        allowed = {"when": WHEN, "state": TASK_STATES, "cancelled": ("yes", "no")}
        readable = {name: value for name, value in values.items() if value in allowed.get(name, (value,))}
        for name, is_valid in (("since", _is_date), ("until", _is_date), ("amount", _is_amount)):
            if not is_valid(readable[name]):
                readable[name] = ""
        return cls(**readable)

    def filter(self, now: datetime, zone: tzinfo) -> VisitFilter:
        dates = self.since or self.until
        filter = period("any" if dates else self.when, now, zone)
        if self.since:
            filter = replace(filter, since=day_start(date.fromisoformat(self.since), zone))
        if self.until:
            filter = replace(filter, until=day_start(date.fromisoformat(self.until) + timedelta(1), zone))
        return replace(
            filter,
            source=self.source,
            state=self.state,
            cancelled=self.cancelled,
            min_amount=Decimal(self.amount) if self.amount else None,
            cursor=self.cursor,
        )

    def query(self, **changes: str) -> str:
        """Return the query with changed fields, for the first page unless a cursor is given."""
        fields = asdict(self) | {"cursor": "", **changes}
        return urlencode({name: value for name, value in fields.items() if value})

    @property
    def fields(self) -> dict[str, str]:
        """The fields that are not empty."""
        return {name: value for name, value in asdict(self).items() if value}

    @property
    def is_empty(self) -> bool:
        return not replace(self, when="").query()


def _is_date(text: str) -> bool:
    """Return whether the text is a date whose midnight exists in every zone."""
    try:
        return date.min < date.fromisoformat(text) - timedelta(1) and date.fromisoformat(text) + timedelta(2) < date.max
    except (ValueError, OverflowError):
        return False


def _is_amount(text: str) -> bool:
    try:
        return Decimal(text).is_finite()
    except InvalidOperation:
        return False


async def visit(request: Request) -> Response:
    return await _page(request)


async def reveal(request: Request) -> Response:
    field = field_to_reveal(request)
    await actions(request).reveal_visit(request.path_params["external_id"], field)
    return await _page(
        request, (CONTACT, *(f"contact.{name}" for name in CONTACT_FIELDS)) if field == CONTACT else (field,)
    )


async def fetch_remote(request: Request) -> Response:
    """Show the current state in the Visits API, without storing it."""
    console, external_id = context(request), request.path_params["external_id"]
    [visit, *_] = await console.explain.visit(external_id)
    remote: dict[str, Any] = {"account": visit["account"], "visit": None, "error": ""}
    try:
        [result, *_] = await actions(request).fetch_remote(external_id, console.visits_api)
        remote["visit"] = result.visit
    except VisitsApiError as error:
        remote["error"] = f"Review Rover could not be read: {error}."
    return await _page(request, remote=remote)


async def _page(request: Request, revealed: Container[str] = (), remote: dict[str, Any] | None = None) -> Response:
    console, external_id = context(request), request.path_params["external_id"]
    visits = await Explain(console.ledger, console.settings, revealed).visit(external_id)
    # A moved visit has several ids; people see one of them everywhere.
    primary_ids = {visit["visit"] for visit in visits}
    if request.method != "POST" and len(primary_ids) == 1 and external_id not in primary_ids:
        return redirect(f"/console/visits/{segment(primary_ids.pop())}")
    for visit in visits:
        await asyncio.to_thread(_prepare, visit, revealed)
    return await render(request, "visit.html", external_id=external_id, visits=visits, revealed=revealed, remote=remote)


def _prepare(visit: dict[str, Any], revealed: Container[str]) -> None:
    """Add what the head of the page shows, and for each field the values that do not count; drop rows above MAX_ROWS."""
    facts, changes = visit["facts"], sorted(visit["changes"], key=_version)
    desired = visit["desired"]
    visit |= {
        "start": desired.get("time_scheduled") or desired.get("time_completed"),
        "source": source_of_visit(visit["visit"]),
        "customer": _customer({name: fact["value"] for name, fact in facts.items()}, CONTACT in revealed),
    }
    for name, fact in facts.items():
        others = [
            {"value": change["fields"][name], "delivery": change["delivery"]}
            for change in reversed(changes)
            if change["delivery"] != fact["delivery"] and change["fields"].get(name, fact["value"]) != fact["value"]
        ]
        fact |= {
            "hidden": fact["value"] == REDACTED,
            "others": others[:MAX_OTHERS],
            "more_others": max(0, len(others) - MAX_OTHERS),
        }
    for name, rows in (("changes", changes), ("discarded_changes", sorted(visit["discarded_changes"], key=_version))):
        visit[name] = rows[-MAX_ROWS:]
    visit["more_changes"] = max(0, len(changes) - MAX_ROWS)
    visit["more_facts"] = max(0, len(facts) - MAX_ROWS)
    order = [*FIELD_TITLES]
    in_order = sorted(facts.items(), key=lambda fact: order.index(fact[0]) if fact[0] in order else len(order))
    visit["facts"] = dict(in_order[:MAX_ROWS])


def _customer(values: Mapping[str, Any], is_revealed: bool) -> list[str]:
    """Return the name, address and number of the customer, or which of them there are."""
    names = [values.get("contact.first_name"), values.get("contact.last_name")]
    parts = {
        "name": " ".join(filter(None, names)),
        "e-mail address": values.get("contact.email"),
        "phone number": values.get("contact.phone"),
    }
    return [value if is_revealed else label for label, value in parts.items() if value]


def _version(change: dict[str, Any]) -> int:
    return int(change["version"])
