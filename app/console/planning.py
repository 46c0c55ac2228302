"""What a replay or a discard would do, before anybody does it; and the operations that came of it."""

import asyncio
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from starlette.responses import Response

from app.console.desk import Ask, Desk, Page, number
from app.explain import span
from app.lists import OPEN, Filter, Lists
from app.operations import Do, Order
from app.replay import Replay, Step
from app.selection import Selection

#: More than this at once, and the number is to be typed.
MOST_UNTYPED = 25
#: Of very many only the first few are looked at, and only for so long: a page is no place to wait.
SHOWN, LOOK_S = 20, 0.15
MOST_IDS = 200


@dataclass(slots=True)
class Plan:
    """do: `replay` or `discard`. count: how many are meant. until: in ms; what comes later is not meant. steps: the first
    few, as a worker would find them now."""

    do: Do
    filter: Filter
    ids: tuple[str, ...]
    contact: str
    until: int
    count: int = 0
    steps: list[Step] = field(default_factory=list)

    @property
    def selection(self) -> Selection:
        if self.ids:
            return Selection(ids=self.ids)
        since = datetime.fromtimestamp(self.filter.since_ms / 1000, UTC) if self.filter.since_ms > 0 else None
        return Selection(
            state=self.filter.state,
            source=self.filter.source,
            hook=self.filter.hook,
            reason=self.filter.reason,
            since=since,
            until=datetime.fromtimestamp(self.until / 1000, UTC),
        )

    @property
    def must_be_typed(self) -> bool:
        return self.count > MOST_UNTYPED

    @property
    def told(self) -> str:
        """For the audit log."""
        return " ".join(self.ids)[:250] if self.ids else self.filter.query()


async def plan(desk: Desk, ask: Ask) -> Response:
    query = ask.request.query_params
    ids = tuple(dict.fromkeys(query.getlist("ids")))[:MOST_IDS]
    return await _show(desk, ask, await _look(desk, _said(dict(query), ids, int(time.time() * 1000))))


async def start(desk: Desk, ask: Ask) -> Response:
    assert ask.user
    form = ask.form
    now, given = int(time.time() * 1000), form.get("until", "")
    until = min(now, int(given)) if re.fullmatch(r"[0-9]{1,15}", given) else now
    planned = await _look(desk, _said(form, tuple(form.get("ids", "").split())[:MOST_IDS], until))
    if not planned.count or form.get("expected") != str(planned.count):
        return await _show(desk, ask, planned, "Meanwhile the number changed. Nothing was done; look again.")
    if planned.must_be_typed and form.get("confirm", "").replace(",", "").strip() != str(planned.count):
        return await _show(desk, ask, planned, f"Type {number(planned.count)} to confirm. Nothing was done.")
    order = Order(
        do=planned.do,
        selection=planned.selection,
        who=ask.user.name,
        expected=planned.count,
        contact=planned.contact,
        fresh=bool(form.get("fresh")),
    )
    did = f"started a {planned.do} of {planned.count}"
    await desk.audit_log.note(ask.user.name, ask.user.role, did, planned.told, action=planned.do)
    return desk.go(f"/console/operations/{await desk.operations.start(order)}")


async def operations(desk: Desk, ask: Ask) -> Response:
    return desk.page(ask, "operations.html", operations=await desk.operations.newest())


async def operation(desk: Desk, ask: Ask) -> Response:
    one = await desk.operations.one(ask.path("operation"))
    rate = one.seen / max(0.5, time.time() - one.at / 1000)
    left = span((one.order.expected - one.seen) / rate) if rate and one.order.expected > one.seen else ""
    return desk.page(ask, "operation.html", operation=one, left=left if one.is_open else "", told=_told(one.order))


async def cancel(desk: Desk, ask: Ask) -> Response:
    assert ask.user
    id = ask.path("operation")
    await desk.operations.one(id)
    await desk.audit_log.note(ask.user.name, ask.user.role, "cancelled an operation", id)
    await desk.operations.cancel(id)
    return desk.go(f"/console/operations/{id}")


async def steps_of(desk: Desk, selection: Selection, contact: str = "") -> list[Step]:
    """The first few, as far as they can be seen at once."""
    found: list[Step] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(LOOK_S):
            async for step in Replay(desk.ledger, desk.settings, contact=contact).plan(selection):
                found.append(step)
                if len(found) >= SHOWN:
                    break
    return found


def _said(given: dict[str, str], ids: tuple[str, ...], until: int) -> Plan:
    do: Do = "discard" if given.get("do") == "discard" else "replay"
    contact = given.get("contact", "").strip()
    is_id = contact.replace("_", "").isalnum() and contact.isascii() and len(contact) <= 80
    filter = Filter.read(given)
    filter = replace(filter, before="", state=filter.state if filter.state in OPEN else "parked")
    return Plan(do, filter, ids, contact if is_id else "", until)


async def _look(desk: Desk, planned: Plan) -> Plan:
    lists = Lists(desk.ledger, desk.settings, desk.explain)
    planned.count = len(planned.ids) or await lists.count(planned.filter, planned.until)
    planned.steps = await steps_of(desk, planned.selection, planned.contact) if planned.count else []
    return planned


async def _show(desk: Desk, ask: Ask, planned: Plan, trouble: str = "") -> Response:
    return desk.page(ask, "plan.html", 409 if trouble else 200, plan=planned, trouble=trouble)


def _told(order: Order) -> str:
    selection = order.selection
    if selection.ids:
        return ", ".join(selection.ids)
    words = {"state": selection.state, "source": selection.source, "hook": selection.hook, "reason": selection.reason}
    return ", ".join(f"{name} {word}" for name, word in words.items() if word)


PAGES = [
    Page("GET", "/console/plan", "viewer", plan),
    Page("GET", "/console/operations", "viewer", operations),
    Page("GET", "/console/operations/{operation}", "viewer", operation),
]
ACTIONS = [
    Page("POST", "/console/operations", "operator", start),
    Page("POST", "/console/operations/{operation}/cancel", "operator", cancel),
]
