"""Boulevard's Admin API in GraphQL, as integrators describe it, for a business with one location."""

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid4, uuid5

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.vendors.calendar import Appointment, Step
from app.vendors.vendor import JSON, Endpoint, StoredSubscription, Vendor, Webhook, iso

BUSINESS, LOCATION = "11111111-2222-4333-8444-555555555555", "urn:blvd:Location:66666666-2222-4333-8444-555555555555"
SECRET = base64.b64encode(b"secret-of-the-admin-api-application").decode()
KEY = "key-of-the-application"
EVENTS = {
    f"APPOINTMENT_{name}"
    for name in ("CREATED", "UPDATED", "RESCHEDULED", "CONFIRMED", "ARRIVED", "ACTIVE", "COMPLETED", "CANCELLED")
} | {"ORDER_COMPLETED", "ORDER_REFUND_CLOSED", "CLIENT_CREATED", "CLIENT_UPDATED"}
Row = dict[str, Any]


class Boulevard(Vendor):
    name = "boulevard"
    api_path = "/api/2020-01/admin"
    credentials: Mapping[str, str] = {"API_KEY": KEY, "API_SECRET": SECRET, "BUSINESS_ID": BUSINESS}
    secret_on_a_page = SECRET

    def endpoints(self) -> Mapping[str, Endpoint]:
        return {"POST /api/2020-01/admin": self._execute}

    def is_authorized(self, request: Request) -> bool:
        """Check the token of the request: an HMAC, followed by the text that it covers, which has the time."""
        scheme, _, pair = request.headers.get("authorization", "").partition(" ")
        key, _, token = base64.b64decode(pair).decode().partition(":") if scheme == "Basic" else ("", "", "")
        signature, text = token[:44], token[44:]
        digest = hmac.digest(base64.b64decode(SECRET), text.encode(), hashlib.sha256)
        signed_at = re.fullmatch(rf"blvd-admin-v1{BUSINESS}(\d+)", text)
        is_signed = key == KEY and signature == base64.b64encode(digest).decode()
        return is_signed and signed_at is not None and abs(time.time() - int(signed_at[1])) < 300

    def error(self, status: int, text: str) -> Response:
        return _errors(text, "NOT_FOUND") if status == 404 else JSONResponse({"message": "Not authorized"}, status)

    async def _execute(self, request: Request) -> Response:
        """Execute the operation of the first field in the query."""
        body = json.loads(await request.body())
        operation = re.sub(r"^\s*(query|mutation)?[^{]*\{\s*", "", body.get("query", ""))
        name = (re.match(r"\w+", operation) or [""])[0]
        operations: dict[str, Callable[[Mapping[str, Any]], Response]] = {
            "business": self._business,
            "createWebhook": self._create,
            "deleteWebhook": self._delete,
            "webhooks": self._list_webhooks,
            "appointments": self._list_appointments,
            "appointment": self._get_appointment,
            "order": self._get_order,
        }
        if name not in operations:
            return _errors(f'Cannot query field "{name}" on type "RootQueryType".', "BAD_REQUEST")
        return operations[name](body.get("variables") or {})

    def _business(self, _: Mapping[str, Any]) -> Response:
        locations = _connection([{"id": LOCATION, "name": "Main Street"}], 0, False)
        business = {"id": f"urn:blvd:Business:{BUSINESS}", "name": "Ada's Salon"}
        return JSONResponse({"data": {"business": business, "locations": locations}})

    # -- webhooks --

    def _create(self, variables: Mapping[str, Any]) -> Response:
        webhook = variables["input"]
        events = tuple(each["eventType"] for each in webhook["subscriptions"])
        if self.faults.forbidden:
            return _errors("You need access to webhooks", "FORBIDDEN", "createWebhook")
        if unknown := sorted(set(events) - EVENTS):
            return _errors(f"Argument input has invalid value: {unknown[0]}", "BAD_REQUEST", "createWebhook")
        stored = self.subscribe(webhook["url"], events, SECRET, name=webhook["name"])
        return JSONResponse({"data": {"createWebhook": {"webhook": _webhook(stored)}}})

    def _delete(self, variables: Mapping[str, Any]) -> Response:
        deleted = self.subscriptions.pop(variables["input"]["id"], None)
        if deleted is None:
            return _errors("Webhook not found", "NOT_FOUND", "deleteWebhook")
        return JSONResponse({"data": {"deleteWebhook": {"webhook": {"id": deleted.id}}}})

    def _list_webhooks(self, variables: Mapping[str, Any]) -> Response:
        return self._page("webhooks", [_webhook(each) for each in self.subscriptions.values()], variables)

    def new_subscription_id(self) -> str:
        return f"urn:blvd:Webhook:{uuid4()}"

    # -- appointments, and the orders of those that are paid --

    def _list_appointments(self, variables: Mapping[str, Any]) -> Response:
        rows = [_appointment(each) for each in self.calendar.between(None, None)]
        for field, operator, value in re.findall(r"(\w+) (>=|<|=) '?([^' ]+)'?", variables.get("query") or ""):
            rows = [row for row in rows if _meets_condition(row[field], operator, value)]
        return self._page("appointments", rows if variables.get("location") == LOCATION else [], variables)

    def _get_appointment(self, variables: Mapping[str, Any]) -> Response:
        rows = (_appointment(each) for each in self.calendar.appointments.values())
        return JSONResponse(
            {"data": {"appointment": next((row for row in rows if row["id"] == variables["id"]), None)}}
        )

    def _get_order(self, variables: Mapping[str, Any]) -> Response:
        orders = (_order(each) for each in self.calendar.appointments.values() if each.paid)
        return JSONResponse({"data": {"order": next((row for row in orders if row["id"] == variables["id"]), None)}})

    def _page(self, name: str, rows: list[Row], variables: Mapping[str, Any]) -> Response:
        start, size = int(variables.get("after") or 0), min(variables.get("first") or 100, self.faults.page_size)
        page = _connection(rows[start : start + size], start + size, start + size < len(rows))
        return JSONResponse({"data": {name: page}})

    # -- webhooks --

    def webhooks(self, appointment: Appointment, step: Step) -> list[Webhook]:
        names = {"booked": "CREATED", "moved": "RESCHEDULED", "completed": "COMPLETED"}
        event = "ORDER_COMPLETED" if step == "paid" else f"APPOINTMENT_{names.get(step, 'CANCELLED')}"
        node = _order(appointment) if step == "paid" else _appointment(appointment)
        body = {
            "idempotencyKey": str(uuid4()),
            "businessId": f"urn:blvd:Business:{BUSINESS}",
            "event": event.lower().replace("_", ".", 1),
            "eventType": event,
            "resource": {"id": node["id"]},
            "timestamp": iso(appointment.updated_at),
            "data": {"node": node},
        }
        return [Webhook(event, json.dumps(body).encode(), {})]

    def sign(self, webhook: Webhook, subscription: StoredSubscription) -> Mapping[str, str]:
        salt = f"blvd-webhook-v1:application:{int(time.time())}"
        digest = hmac.digest(base64.b64decode(SECRET), f"{salt}:".encode() + webhook.body, hashlib.sha256)
        signature = base64.b64encode(digest).decode()
        return {"content-type": JSON, "x-blvd-hmac-salt": salt, "x-blvd-hmac-sha256": signature}


def _errors(message: str, code: str, name: str = "") -> Response:
    data = {"data": {name: None}} if name else {}
    return JSONResponse({**data, "errors": [{"message": message, "code": code}]})


def _connection(rows: list[Row], end: int, has_next: bool) -> Row:
    return {"edges": [{"node": row} for row in rows], "pageInfo": {"hasNextPage": has_next, "endCursor": str(end)}}


def _webhook(stored: StoredSubscription) -> Row:
    events = [
        {"id": str(uuid5(NAMESPACE_URL, f"{stored.id}/{event}")), "eventType": event, "enabled": stored.is_active}
        for event in stored.events
    ]
    return {"id": stored.id, "name": stored.attributes.get("name", ""), "url": stored.url, "subscriptions": events}


def _meets_condition(value: str, operator: str, limit: str) -> bool:
    time, other = datetime.fromisoformat(value), datetime.fromisoformat(limit)
    return {">=": time >= other, "<": time < other, "=": time == other}[operator]


def _appointment(appointment: Appointment) -> Row:
    is_off = appointment.is_cancelled or appointment.missed_at is not None
    reason, ended_at = "CLIENT_CANCEL" if appointment.is_cancelled else "NO_SHOW", _ended_at(appointment)
    return {
        "id": _urn("Appointment", appointment),
        "startAt": iso(appointment.starts_at),
        "endAt": iso(appointment.ends_at),
        "createdAt": iso(appointment.created_at),
        "state": "CANCELLED" if is_off else "FINAL" if appointment.completed_at else "BOOKED",
        "cancelled": is_off,
        "cancellation": {"cancelledAt": iso(ended_at), "reason": reason} if ended_at else None,
        "orderId": _urn("Order", appointment) if appointment.paid else None,
        "client": {
            "id": _urn("Client", appointment),
            "firstName": appointment.first_name,
            "lastName": appointment.last_name,
            "email": appointment.email,
            "mobilePhone": appointment.phone,
        },
    }


def _ended_at(appointment: Appointment) -> datetime | None:
    return appointment.cancelled_at or appointment.missed_at


def _order(appointment: Appointment) -> Row:
    group = {"__typename": "OrderAppointmentLineGroup", "id": _urn("Appointment", appointment)}
    return {
        "id": _urn("Order", appointment),
        "closedAt": iso(appointment.updated_at.astimezone(UTC)),
        "summary": {"currentTotal": int(appointment.paid * 100)},
        "lineGroups": [group],
    }


def _urn(kind: str, appointment: Appointment) -> str:
    return f"urn:blvd:{kind}:{uuid5(NAMESPACE_URL, f'{kind}/{appointment.number}')}"


VENDOR = Boulevard
