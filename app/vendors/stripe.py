"""Stripe's API for webhook endpoints and events, as https://docs.stripe.com/api describes it.

Its calendar has orders. A paid order is a payment for a visit of another tool; a cancelled order is refunded.
"""

import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.vendors.calendar import Appointment, Step
from app.vendors.vendor import JSON, Endpoint, StoredSubscription, Vendor, Webhook

API_VERSION = "2026-06-24.dahlia"


class Stripe(Vendor):
    name = "stripe"
    has_appointments = False
    api_path = "/v1"
    credentials: Mapping[str, str] = {"TOKEN": "rk_test_key-of-the-account"}

    def __init__(self) -> None:
        super().__init__()
        #: Newest first.
        self._events: list[dict[str, Any]] = []

    def endpoints(self) -> Mapping[str, Endpoint]:
        return {
            "GET /v1/account": self._account,
            "GET /v1/webhook_endpoints": self._list_endpoints,
            "POST /v1/webhook_endpoints": self._create_endpoint,
            "GET /v1/webhook_endpoints/{id}": self._get_endpoint,
            "POST /v1/webhook_endpoints/{id}": self._update_endpoint,
            "DELETE /v1/webhook_endpoints/{id}": self._delete_endpoint,
            "GET /v1/events": self._list_events,
            "GET /v1/events/{id}": self._get_event,
        }

    def error(self, status: int, text: str) -> Response:
        code = {"code": "resource_missing"} if status == 404 else {}
        return JSONResponse({"error": {"type": "invalid_request_error", "message": text, **code}}, status)

    async def _account(self, _: Request) -> Response:
        return JSONResponse({"id": "acct_1", "object": "account", "email": "owner@example.com"})

    # -- webhook endpoints --

    async def _create_endpoint(self, request: Request) -> Response:
        form = await _form(request)
        if self.faults.forbidden:
            right = "Having the 'rak_webhook_write' permission would allow this request to continue."
            return self.error(403, f"The provided key 'rk_test_***' does not have the required permissions. {right}")
        if not form.get("url", "").startswith(("https://", "http://127.0.0.1")):
            return self.error(400, "Invalid URL: URL must be publicly accessible")
        events = _items(form, "enabled_events")
        if not events:
            return self.error(400, "Missing required param: enabled_events.")
        stored = self.subscribe(form["url"], events, f"whsec_{secrets.token_urlsafe(24)}")
        return JSONResponse({**self._render(stored), "secret": stored.secret})

    async def _list_endpoints(self, request: Request) -> Response:
        return self._page(request, [self._render(stored) for stored in self.subscriptions.values()])

    async def _get_endpoint(self, request: Request) -> Response:
        stored = self.subscriptions.get(request.path_params["id"])
        return JSONResponse(self._render(stored)) if stored else self._missing(request)

    async def _update_endpoint(self, request: Request) -> Response:
        stored, form = self.subscriptions.get(request.path_params["id"]), await _form(request)
        if stored is None:
            return self._missing(request)
        stored.url, stored.events = form.get("url", stored.url), _items(form, "enabled_events") or stored.events
        stored.is_active = form["disabled"] == "false" if "disabled" in form else stored.is_active
        return JSONResponse(self._render(stored))

    async def _delete_endpoint(self, request: Request) -> Response:
        id = request.path_params["id"]
        if self.subscriptions.pop(id, None) is None:
            return self._missing(request)
        return JSONResponse({"id": id, "object": "webhook_endpoint", "deleted": True})

    def _missing(self, request: Request) -> Response:
        return self.error(404, f"No such webhook endpoint: '{request.path_params['id']}'")

    def _render(self, stored: StoredSubscription) -> dict[str, Any]:
        return {
            "id": stored.id,
            "object": "webhook_endpoint",
            "api_version": None,
            "created": int(stored.created_at.timestamp()),
            "description": None,
            "enabled_events": list(stored.events),
            "livemode": False,
            "metadata": {},
            "status": "enabled" if stored.is_active else "disabled",
            "url": stored.url,
        }

    def _page(self, request: Request, items: list[dict[str, Any]]) -> Response:
        query = request.query_params
        size, after = min(int(query.get("limit", 10)), self.faults.page_size), query.get("starting_after")
        ids = [item["id"] for item in items]
        if after and after not in ids:
            return self.error(400, f"No such object: '{after}'")
        start = ids.index(after) + 1 if after else 0
        page, has_more = items[start : start + size], start + size < len(items)
        return JSONResponse({"object": "list", "data": page, "has_more": has_more, "url": request.url.path})

    # -- events --

    async def _list_events(self, request: Request) -> Response:
        query = dict(request.query_params)
        types, since = _items(query, "types"), int(query.get("created[gte]", 0))
        if len(types) > 20:
            return self.error(400, "You may pass up to 20 types.")
        until = int(query.get("created[lte]", 2**40))
        events = [event for event in self._events if since <= event["created"] <= until]
        return self._page(request, [event for event in events if not types or event["type"] in types])

    async def _get_event(self, request: Request) -> Response:
        id = request.path_params["id"]
        event = next((event for event in self._events if event["id"] == id), None)
        return JSONResponse(event) if event else self.error(404, f"No such event: '{id}'")

    # -- webhooks --

    def webhooks(self, appointment: Appointment, step: Step) -> list[Webhook]:
        kinds = ["payment_intent.succeeded", "charge.succeeded"] if step == "paid" else []
        if step == "cancelled" and appointment.paid:
            kinds = ["charge.refunded"]
        events = [self._event(kind, appointment) for kind in kinds]
        self._events[:0] = reversed(events)
        return [Webhook(event["type"], json.dumps(event).encode(), {}) for event in events]

    def _event(self, kind: str, appointment: Appointment) -> dict[str, Any]:
        return {
            "id": f"evt_{secrets.token_hex(12)}",
            "object": "event",
            "api_version": API_VERSION,
            "created": int(appointment.updated_at.timestamp()),
            "data": {"object": _payment_intent(appointment) if kind.startswith("payment") else _charge(appointment)},
            "livemode": False,
            "pending_webhooks": 1,
            "request": {"id": None, "idempotency_key": None},
            "type": kind,
        }

    def sign(self, webhook: Webhook, subscription: StoredSubscription) -> Mapping[str, str]:
        timestamp = str(int(time.time()))
        signed = timestamp.encode() + b"." + webhook.body
        signature = hmac.new(subscription.secret.encode(), signed, hashlib.sha256).hexdigest()
        return {"content-type": f"{JSON}; charset=utf-8", "stripe-signature": f"t={timestamp},v1={signature}"}


def _payment_intent(order: Appointment) -> dict[str, Any]:
    return {
        "id": f"pi_{order.number}",
        "object": "payment_intent",
        "amount": _cents(order),
        "amount_received": _cents(order),
        "currency": "usd",
        "metadata": _metadata(order),
        "status": "succeeded",
    }


def _charge(order: Appointment) -> dict[str, Any]:
    return {
        "id": f"ch_{order.number}",
        "object": "charge",
        "amount": _cents(order),
        "amount_captured": _cents(order),
        "amount_refunded": _cents(order) if order.is_cancelled else 0,
        "captured": True,
        "currency": "usd",
        "metadata": _metadata(order),
        "payment_intent": f"pi_{order.number}",
        "refunded": order.is_cancelled,
        "status": "succeeded",
    }


def _metadata(order: Appointment) -> dict[str, str]:
    return {"visit_external_id": f"acuity-{order.number}"}


def _cents(order: Appointment) -> int:
    return int(order.paid * 100)


async def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl((await request.body()).decode()))


def _items(form: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Return a list: its items are named `name[0]`, `name[1]` and so on."""
    return tuple(value for key, value in form.items() if re.fullmatch(rf"{name}\[[0-9]+\]", key))


VENDOR = Stripe
