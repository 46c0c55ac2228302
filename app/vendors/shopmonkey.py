"""Shopmonkey's API v3, as integrators describe it. A completed or paid appointment has an order."""

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.vendors.calendar import Appointment, Step
from app.vendors.vendor import JSON, Endpoint, StoredSubscription, Vendor, Webhook, iso

Row = dict[str, Any]
LOCATION = "location-1"


class Shopmonkey(Vendor):
    name = "shopmonkey"
    api_path = "/v3"

    def __init__(self) -> None:
        super().__init__()
        #: By table and number: when the row was last changed.
        self._updated_at: dict[tuple[str, int], datetime] = {}

    def endpoints(self) -> Mapping[str, Endpoint]:
        return {
            "GET /v3/user/logged-in": self._user,
            "GET /v3/webhook": self._list_webhooks,
            "POST /v3/webhook": self._create_webhook,
            "GET /v3/webhook/{id}": self._get_webhook,
            "PUT /v3/webhook/{id}": self._change_webhook,
            "DELETE /v3/webhook/{id}": self._delete_webhook,
            "GET /v3/appointment": self._list_appointments,
            "GET /v3/order": self._list_orders,
            "GET /v3/customer": self._list_customers,
            "GET /v3/customer/{id}": self._get_customer,
        }

    def error(self, status: int, text: str) -> Response:
        return JSONResponse({"success": False, "code": f"API-{status}", "message": text}, status)

    async def _user(self, _: Request) -> Response:
        return _success({"id": "user-1", "firstName": "Ada", "lastName": "Byron", "email": "owner@example.com"})

    # -- webhooks --

    async def _create_webhook(self, request: Request) -> Response:
        body = json.loads(await request.body())
        if self.faults.forbidden:
            return self.error(403, "Permission denied")
        if not all(body.get(name) for name in ("name", "url", "triggers", "secret")):
            return self.error(400, "Validation failed")
        stored = self.subscribe(body["url"], tuple(body["triggers"]), body["secret"], name=body["name"])
        stored.is_active = body.get("enabled", True)
        return _success(self._render(stored))

    async def _list_webhooks(self, request: Request) -> Response:
        return self._page(request, [self._render(stored) for stored in self.subscriptions.values()])

    async def _get_webhook(self, request: Request) -> Response:
        stored = self.subscriptions.get(request.path_params["id"])
        return _success(self._render(stored)) if stored else self.error(404, "Not found")

    async def _change_webhook(self, request: Request) -> Response:
        body, stored = json.loads(await request.body()), self.subscriptions.get(request.path_params["id"])
        if stored is None:
            return self.error(404, "Not found")
        stored.is_active = body.get("enabled", stored.is_active)
        stored.secret, stored.url = body.get("secret", stored.secret), body.get("url", stored.url)
        return _success(self._render(stored))

    async def _delete_webhook(self, request: Request) -> Response:
        is_deleted = self.subscriptions.pop(request.path_params["id"], None)
        return _success(None) if is_deleted else self.error(404, "Not found")

    def _render(self, stored: StoredSubscription) -> Row:
        return {
            "id": stored.id,
            "name": stored.attributes.get("name", ""),
            "url": stored.url,
            "triggers": list(stored.events),
            "enabled": stored.is_active,
            "version": "3",
            "locationId": None,
            "error": stored.failing_since is not None,
            "errorDate": iso(stored.failing_since) if stored.failing_since else None,
        }

    # -- rows --

    async def _list_appointments(self, request: Request) -> Response:
        return self._select(request, [self._appointment(each) for each in self.calendar.appointments.values()])

    async def _list_orders(self, request: Request) -> Response:
        return self._select(
            request, [self._order(each) for each in self.calendar.appointments.values() if _has_order(each)]
        )

    async def _list_customers(self, request: Request) -> Response:
        return self._select(request, [_customer(each) for each in self.calendar.appointments.values()])

    async def _get_customer(self, request: Request) -> Response:
        customers = (_customer(each) for each in self.calendar.appointments.values())
        customer = next((each for each in customers if each["id"] == request.path_params["id"]), None)
        return _success(customer) if customer else self.error(404, "Not found")

    def _select(self, request: Request, rows: list[Row]) -> Response:
        """Return the rows that `where` selects. Columns and operators that do not exist are ignored."""
        try:
            where, order = (json.loads(request.query_params.get(name, "{}")) for name in ("where", "orderby"))
        except ValueError:
            return self.error(400, "Invalid Usage: Unable to parse orderby")
        for column, condition in where.items():
            if rows and column in rows[0]:
                rows = [row for row in rows if _meets_condition(row[column], condition)]
        for column in order:
            rows = sorted(rows, key=lambda row: row[column])
        return self._page(request, rows)

    def _page(self, request: Request, rows: list[Row]) -> Response:
        size = min(int(request.query_params.get("limit", "100")), 100, self.faults.page_size)
        start = int(request.query_params.get("skip", "0"))
        meta = {"hasMore": start + size < len(rows), "total": len(rows)}
        return JSONResponse({"success": True, "data": rows[start : start + size], "meta": meta})

    def _appointment(self, appointment: Appointment) -> Row:
        return {
            "id": f"appointment-{appointment.number}",
            "locationId": LOCATION,
            "customerId": f"customer-{appointment.number}",
            "orderId": f"order-{appointment.number}" if _has_order(appointment) else None,
            "name": "Oil change",
            "startDate": iso(appointment.starts_at),
            "endDate": iso(appointment.ends_at),
            "createdDate": iso(appointment.created_at),
            "updatedDate": self._update_time("appointment", appointment),
            "confirmationStatus": "Declined" if appointment.is_cancelled else "Confirmed",
            "cancellationNote": "The customer is ill" if appointment.is_cancelled else None,
        }

    def _order(self, appointment: Appointment) -> Row:
        completed_at = iso(appointment.completed_at) if appointment.completed_at else None
        return {
            "id": f"order-{appointment.number}",
            "locationId": LOCATION,
            "customerId": f"customer-{appointment.number}",
            "createdDate": iso(appointment.created_at),
            "updatedDate": self._update_time("order", appointment),
            "completedDate": completed_at,
            "invoiced": completed_at is not None,
            "invoicedDate": completed_at,
            "paid": bool(appointment.paid),
            "paidCostCents": int(appointment.paid * 100),
            "totalCostCents": 7500,
        }

    def _update_time(self, table: str, appointment: Appointment) -> str:
        return iso(self._updated_at.get((table, appointment.number), appointment.created_at))

    # -- webhooks --

    def webhooks(self, appointment: Appointment, step: Step) -> list[Webhook]:
        changes: dict[Step, list[tuple[str, str, list[str]]]] = {
            "booked": [("INSERT", "appointment", [])],
            "moved": [("UPDATE", "appointment", ["startDate", "endDate"])],
            "cancelled": [("UPDATE", "appointment", ["confirmationStatus", "cancellationNote"])],
            "completed": [
                ("UPDATE", "appointment", ["orderId"]),
                ("UPDATE", "order", ["completedDate", "invoiced", "invoicedDate"]),
            ],
            "paid": [("UPDATE", "appointment", ["orderId"]), ("UPDATE", "order", ["paid", "paidCostCents"])],
        }
        for _, table, _ in changes.get(step, []):
            self._updated_at[table, appointment.number] = appointment.updated_at
        return [self._webhook(appointment, *change) for change in changes.get(step, [])]

    def _webhook(self, appointment: Appointment, operation: str, table: str, diff: list[str]) -> Webhook:
        rows: dict[str, Callable[[Appointment], Row]] = {"appointment": self._appointment, "order": self._order}
        body = {
            "apiVersion": "3",
            "operation": operation,
            "table": table,
            "data": rows[table](appointment),
            "companyId": "company-1",
        }
        return Webhook(table.capitalize(), json.dumps(body | ({"diff": diff} if diff else {})).encode(), {})

    def sign(self, webhook: Webhook, subscription: StoredSubscription) -> Mapping[str, str]:
        id, timestamp = f"msg_{secrets.token_hex(8)}", str(int(time.time()))
        signed = f"{id}.{timestamp}.".encode() + webhook.body
        signature = base64.b64encode(hmac.new(subscription.secret.encode(), signed, hashlib.sha256).digest()).decode()
        return {
            "content-type": JSON,
            "webhook-id": id,
            "webhook-timestamp": timestamp,
            "webhook-signature": f"v1,{signature}",
        }


def _success(data: Any) -> Response:
    return JSONResponse({"success": True, "data": data})


def _has_order(appointment: Appointment) -> bool:
    return bool(appointment.completed_at or appointment.paid)


def _customer(appointment: Appointment) -> Row:
    return {
        "id": f"customer-{appointment.number}",
        "firstName": appointment.first_name,
        "lastName": appointment.last_name,
        "emails": [{"email": appointment.email, "primary": True}],
        "phoneNumbers": [{"number": appointment.phone, "primary": True}],
    }


def _meets_condition(value: str, condition: Any) -> bool:
    if not isinstance(condition, dict):
        return bool(value == condition)
    operators: dict[str, Callable[[Any], bool]] = {
        "gte": lambda other: value >= other,
        "gt": lambda other: value > other,
        "lte": lambda other: value <= other,
        "lt": lambda other: value < other,
        "in": lambda other: value in other,
    }
    return all(operators[name](other) for name, other in condition.items() if name in operators)


VENDOR = Shopmonkey
