"""OnceHub's API v2, as https://developers.oncehub.com describes it."""

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.vendors.calendar import Appointment, Step
from app.vendors.vendor import JSON, Endpoint, StoredSubscription, Vendor, Webhook

KEY = "api-key-of-the-account"
OUTCOMES = ("canceled_then_rescheduled", "canceled_reschedule_requested", "canceled", "completed", "no_show")
EVENTS = tuple(f"booking.{name}" for name in ("scheduled", "rescheduled", "reassigned", *OUTCOMES))


class OnceHub(Vendor):
    name = "oncehub"
    api_path = "/v2"
    credentials: Mapping[str, str] = {"API_KEY": KEY}

    def endpoints(self) -> Mapping[str, Endpoint]:
        return {
            "GET /v2/test": self._test,
            "GET /v2/webhooks": self._list_webhooks,
            "POST /v2/webhooks": self._create_webhook,
            "GET /v2/webhooks/{id}": self._get_webhook,
            "DELETE /v2/webhooks/{id}": self._delete_webhook,
            "GET /v2/bookings": self._list_bookings,
        }

    def is_authorized(self, request: Request) -> bool:
        return request.headers.get("api-key") == KEY

    def error(self, status: int, text: str) -> Response:
        kind = "authentication_error" if status in (401, 403) else "invalid_request_error"
        return JSONResponse({"type": kind, "message": text}, status)

    async def _test(self, _: Request) -> Response:
        return JSONResponse({"message": "The API key is valid for account: owner@example.com"})

    # -- webhooks: their names are unique --

    async def _create_webhook(self, request: Request) -> Response:
        body = json.loads(await request.body())
        if self.faults.forbidden:
            return self.error(
                403,
                "Your account plan does not support API access. To use the OnceHub API, you must upgrade to the Enterprise"
                " plan.",
            )
        url, name, events = str(body.get("url", "")), body.get("name"), body.get("events")
        if (
            not url.startswith(("https://", "http://127.0.0.1"))
            or not name
            or not events
            or set(events) - {*EVENTS, "booking"}
        ):
            return self.error(400, "Invalid url, name or events")
        if any(stored.attributes.get("name") == name for stored in self.subscriptions.values()):
            return self.error(409, f"A webhook subscription with this name already exists: '{name}'")
        chosen = EVENTS if "booking" in events else tuple(events)
        stored = self.subscribe(url, chosen, secrets.token_hex(16), name=name)
        return JSONResponse(self._render(stored))

    async def _list_webhooks(self, request: Request) -> Response:
        return self._page(request, [self._render(stored) for stored in self.subscriptions.values()])

    async def _get_webhook(self, request: Request) -> Response:
        stored = self.subscriptions.get(request.path_params["id"])
        return JSONResponse(self._render(stored)) if stored else self._no_such_webhook(request)

    async def _delete_webhook(self, request: Request) -> Response:
        stored = self.subscriptions.pop(request.path_params["id"], None)
        return JSONResponse({"id": stored.id, "deleted": True}) if stored else self._no_such_webhook(request)

    def _no_such_webhook(self, request: Request) -> Response:
        return self.error(404, f"No such webhook: '{request.path_params['id']}'")

    def _render(self, stored: StoredSubscription) -> dict[str, Any]:
        return {
            "object": "webhook",
            "id": stored.id,
            "api_version": "v2",
            "name": stored.attributes.get("name", stored.id),
            "url": stored.url,
            "events": list(stored.events),
            "creation_time": _time(stored.created_at),
            "secret": stored.secret,
        }

    def new_subscription_id(self) -> str:
        return f"WHK-{secrets.token_hex(5).upper()}"

    def disable_all(self) -> None:
        """Hide the webhooks: the API does not describe how it shows a disabled one."""
        self.subscriptions.clear()

    def _page(self, request: Request, items: list[dict[str, Any]]) -> Response:
        query, ids = request.query_params, [item["id"] for item in items]
        size = min(int(query.get("limit", "10")), 100, self.faults.page_size)
        start = ids.index(query["after"]) + 1 if query.get("after") in ids else 0
        page = items[start : start + size]
        return JSONResponse({"object": "list", "data": page, "has_more": start + size < len(items)})

    # -- bookings --

    async def _list_bookings(self, request: Request) -> Response:
        bookings = [self._booking(each) for each in reversed(self.calendar.appointments.values())]
        for name in ("starting_time", "last_updated_time", "creation_time"):
            after, before = request.query_params.get(f"{name}.gt", ""), request.query_params.get(f"{name}.lt", "9999")
            bookings = [booking for booking in bookings if after < booking[name] < before]
        return self._page(request, bookings)

    def _booking(self, appointment: Appointment) -> dict[str, Any]:
        id = f"BKNG-{appointment.number:012}"
        return {
            "object": "booking",
            "id": id,
            "tracking_id": id,
            "subject": "Haircut",
            "status": _status(appointment),
            "in_trash": False,
            "creation_time": _time(appointment.created_at),
            "starting_time": _time(appointment.starts_at),
            "customer_timezone": "America/New_York",
            "last_updated_time": _time(appointment.updated_at),
            "owner": "USR-1",
            "duration_minutes": appointment.minutes,
            "location_description": "1 Main Street",
            "rescheduled_booking_id": "",
            "attendees": [appointment.email, "owner@example.com"],
            "form_submission": {
                "name": f"{appointment.first_name} {appointment.last_name}",
                "email": appointment.email,
                "phone": "",
                "mobile_phone": appointment.phone,
            },
            "booking_calendar": "BKC-1",
            "payment_information": None,
        }

    # -- webhooks --

    def webhooks(self, appointment: Appointment, step: Step) -> list[Webhook]:
        return [self._webhook(appointment)] if step != "paid" else []

    def _webhook(self, appointment: Appointment) -> Webhook:
        event = f"booking.{_status(appointment)}"
        body = {
            "id": f"EVNT-{secrets.token_hex(5).upper()}",
            "object": "event",
            "creation_time": _time(appointment.updated_at),
            "type": event,
            "api_version": "v2",
            "data": self._booking(appointment),
        }
        return Webhook(event, json.dumps(body).encode(), {})

    def sign(self, webhook: Webhook, subscription: StoredSubscription) -> Mapping[str, str]:
        timestamp = str(int(time.time()))
        signed = timestamp.encode() + b"." + webhook.body
        signature = hmac.new(subscription.secret.encode(), signed, hashlib.sha256).hexdigest()
        return {"content-type": JSON, "oncehub-signature": f"t={timestamp},s={signature}"}


def _status(appointment: Appointment) -> str:
    if appointment.is_cancelled:
        return "canceled"
    if appointment.missed_at:
        return "no_show"
    if appointment.completed_at:
        return "completed"
    return "rescheduled" if appointment.moves else "scheduled"


def _time(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


VENDOR = OnceHub
