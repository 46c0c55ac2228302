"""Nylas' API v3, as its OpenAPI document describes it: webhooks of the application, and one grant with its calendar."""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.vendors.calendar import Appointment, Step
from app.vendors.vendor import JSON, Endpoint, StoredSubscription, Vendor, Webhook

TRIGGERS = {f"booking.{name}" for name in ("created", "pending", "rescheduled", "cancelled", "reminder")}
TYPES = {401: "unauthorized", 403: "insufficient_scopes", 404: "not_found_error", 429: "rate_limit_error"}
GRANT, CALENDAR, HOST = "0d9c2e9e-6f0f-4a7b-9a0e-8f1f3c2b1a00", "primary", "host@example.com"
CONFIGURATION = UUID("5b1f0c5e-2f57-4f35-9a55-7a2f6c0e9d11")
Row = dict[str, Any]


class Nylas(Vendor):
    name = "nylas"
    credentials: Mapping[str, str] = {"TOKEN": "nyk_v0-key-of-the-application"}

    def __init__(self) -> None:
        super().__init__()
        self.calendar.step = timedelta(seconds=1)  # the times of Nylas are whole seconds

    def endpoints(self) -> Mapping[str, Endpoint]:
        return {
            "GET /v3/applications": self._application,
            "GET /v3/webhooks": self._list_webhooks,
            "POST /v3/webhooks": self._create_webhook,
            "PUT /v3/webhooks/{id}": self._change_webhook,
            "DELETE /v3/webhooks/{id}": self._delete_webhook,
            "GET /v3/grants": self._list_grants,
            "GET /v3/grants/{grant}/scheduling/configurations": self._list_configurations,
            "GET /v3/grants/{grant}/events": self._list_events,
        }

    def error(self, status: int, text: str) -> Response:
        error = {"type": TYPES.get(status, "invalid_request_error"), "message": text}
        return JSONResponse({"request_id": str(uuid4()), "error": error}, status)

    async def _application(self, _: Request) -> Response:
        return _data({"application_id": "app-1", "region": "us", "branding": {"name": "Ada's Studio"}})

    # -- webhooks: Nylas tests the URL when a webhook is created; only that response has the secret --

    async def _create_webhook(self, request: Request) -> Response:
        body = json.loads(await request.body())
        if self.faults.forbidden:
            return self.error(403, "Insufficient scopes")
        if not body.get("webhook_url") or not set(body.get("trigger_types", [])) <= TRIGGERS:
            return self.error(400, "Invalid request")
        if not await self._answers_challenge(body["webhook_url"]):
            return self.error(400, "Destination not created: the challenge was not answered")
        stored = self.subscribe(body["webhook_url"], tuple(body["trigger_types"]), uuid4().hex)
        return _data({**_webhook(stored), "webhook_secret": stored.secret})

    async def _answers_challenge(self, url: str) -> bool:
        """Return whether the URL answers a challenge. The URL of a test without a server is not called."""
        if not url.startswith("http://127.0.0.1"):
            return True
        challenge = uuid4().hex
        async with httpx.AsyncClient(timeout=10, trust_env=False) as http:
            response = await http.get(url, params={"challenge": challenge})
        return response.status_code == 200 and response.text == challenge

    async def _list_webhooks(self, _: Request) -> Response:
        return _data([_webhook(stored) for stored in self.subscriptions.values()])

    async def _change_webhook(self, request: Request) -> Response:
        stored, body = self.subscriptions.get(request.path_params["id"]), json.loads(await request.body())
        if stored is None:
            return self.error(404, "Webhook not found")
        if "status" in body:
            stored.is_active = body["status"] == "active"
        stored.url, stored.events = body.get("webhook_url", stored.url), tuple(body.get("trigger_types", stored.events))
        return _data(_webhook(stored))

    async def _delete_webhook(self, request: Request) -> Response:
        is_deleted = self.subscriptions.pop(request.path_params["id"], None)
        return _data({"status": "success"}) if is_deleted else self.error(404, "Webhook not found")

    # -- calendars --

    async def _list_grants(self, _: Request) -> Response:
        return _data([{"id": GRANT, "provider": "google", "email": HOST, "grant_status": "valid"}])

    async def _list_configurations(self, _: Request) -> Response:
        organizer = {"email": HOST, "is_organizer": True, "booking": {"calendar_id": CALENDAR}}
        return _data([{"id": str(CONFIGURATION), "name": "Consultation", "participants": [organizer]}])

    async def _list_events(self, request: Request) -> Response:
        query = request.query_params
        if query.get("calendar_id") != CALENDAR:
            return self.error(400, "calendar_id is required")
        start, end = (datetime.fromtimestamp(int(query[name])).astimezone() for name in ("start", "end"))
        listed = self.calendar.between(start, end)
        if query.get("show_cancelled") != "true":
            listed = [each for each in listed if not each.is_cancelled]
        first, size = int(query.get("page_token", 0)), min(int(query.get("limit", 50)), self.faults.page_size)
        following = {"next_cursor": str(first + size)} if first + size < len(listed) else {}
        return _data([_event(each) for each in listed[first : first + size]], **following)

    # -- webhooks --

    def webhooks(self, appointment: Appointment, step: Step) -> list[Webhook]:
        events = {"booked": "booking.created", "moved": "booking.rescheduled", "cancelled": "booking.cancelled"}
        if step not in events:
            return []
        booking = {
            "object": "booking",
            "booking_id": str(_booking_id(appointment)),
            "booking_ref": _reference(appointment),
            "configuration_id": str(CONFIGURATION),
            "booking_info": {
                "event_id": f"event-{appointment.number}",
                "start_time": int(appointment.starts_at.timestamp()),
                "end_time": int(appointment.ends_at.timestamp()),
                "participants": [_guest(appointment)],
                "additional_fields": None,
                "organizer_calendar_id": CALENDAR,
            },
        }
        body = {
            "specversion": "1.0",
            "type": events[step],
            "source": "/nylas/passthru",
            "id": f"notification-{uuid4()}",
            "time": int(appointment.updated_at.timestamp()),
            "webhook_delivery_attempt": 1,
            "data": {"application_id": "app-1", "grant_id": GRANT, "object": booking},
        }
        return [Webhook(events[step], json.dumps(body).encode(), {})]

    def sign(self, webhook: Webhook, subscription: StoredSubscription) -> Mapping[str, str]:
        signature = hmac.new(subscription.secret.encode(), webhook.body, hashlib.sha256).hexdigest()
        return {"content-type": JSON, "x-nylas-signature": signature}


def _data(data: Any, **fields: Any) -> Response:
    return JSONResponse({"request_id": str(uuid4()), "data": data, **fields})


def _webhook(stored: StoredSubscription) -> Row:
    is_failing = stored.failing_since is not None
    changed_at = stored.failing_since or stored.created_at
    return {
        "id": stored.id,
        "description": "",
        "trigger_types": list(stored.events),
        "webhook_url": stored.url,
        "status": ("failing" if is_failing else "active") if stored.is_active else "failed",
        "status_updated_at": int(changed_at.timestamp()),
        "notification_email_addresses": [],
        "compressed_delivery": False,
    }


def _event(appointment: Appointment) -> Row:
    link = f"https://book.example.com/cancel/{_reference(appointment)}"
    return {
        "id": f"event-{appointment.number}",
        "grant_id": GRANT,
        "calendar_id": CALENDAR,
        "object": "event",
        "title": "Consultation",
        "description": f'Need to make a change? <a href="{link}">Cancel</a>',
        "status": "cancelled" if appointment.is_cancelled else "confirmed",
        "when": {
            "object": "timespan",
            "start_time": int(appointment.starts_at.timestamp()),
            "end_time": int(appointment.ends_at.timestamp()),
        },
        "organizer": {"email": HOST, "name": "Ada"},
        "participants": [{"email": HOST, "name": "Ada", "status": "yes"}, _guest(appointment)],
        "metadata": {"source": "scheduler", "key5": str(CONFIGURATION)},
        "created_at": int(appointment.created_at.timestamp()),
        "updated_at": int(appointment.updated_at.timestamp()),
    }


def _guest(appointment: Appointment) -> Row:
    return {"email": appointment.email, "name": f"{appointment.first_name} {appointment.last_name}"}


def _booking_id(appointment: Appointment) -> UUID:
    return uuid5(NAMESPACE_URL, f"nylas/{appointment.number}")


def _reference(appointment: Appointment) -> str:
    """Return the configuration's id, the booking's id and a salt in base64."""
    return base64.b64encode(CONFIGURATION.bytes + _booking_id(appointment).bytes + b"some salt").decode()


VENDOR = Nylas
