"""SavvyCal's API v1, as https://savvycal.com/docs/api describes it."""

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.vendors.calendar import Appointment, Step
from app.vendors.vendor import JSON, Endpoint, StoredSubscription, Vendor, Webhook, iso

#: A webhook gets all events; its owner cannot select some of them.
EVENTS = (
    "event.created",
    "event.requested",
    "event.approved",
    "event.declined",
    "event.rescheduled",
    "event.changed",
    "event.canceled",
    "event.checkout.pending",
    "event.checkout.expired",
    "event.checkout.completed",
    "event.attendee.added",
    "event.attendee.rescheduled",
    "event.attendee.canceled",
)


class SavvyCal(Vendor):
    name = "savvycal"
    oauth_settings: Mapping[str, Any] | None = {"rotates": False}
    api_path = "/v1"

    def endpoints(self) -> Mapping[str, Endpoint]:
        return {
            "GET /v1/me": self._me,
            "GET /v1/webhooks": self._list_webhooks,
            "POST /v1/webhooks": self._create_webhook,
            "GET /v1/webhooks/{id}": self._get_webhook,
            "DELETE /v1/webhooks/{id}": self._delete_webhook,
            "GET /v1/events": self._list_events,
            "GET /v1/events/{id}": self._get_event,
        }

    def error(self, status: int, text: str) -> Response:
        return JSONResponse({"error": text}, status)

    async def _me(self, _: Request) -> Response:
        user = {"id": "user_1", "email": "owner@example.com", "display_name": "Ada's Salon", "plan": "premium"}
        return JSONResponse(user | {"time_zone": "America/New_York"})

    # -- webhooks --

    async def _create_webhook(self, request: Request) -> Response:
        url = json.loads(await request.body()).get("url")
        if self.faults.forbidden:
            return self.error(403, "Forbidden")
        if not str(url).startswith(("https://", "http://")):
            return JSONResponse({"errors": {"url": [{"message": "must be a valid URL"}]}}, 422)
        return JSONResponse(self._render(self.subscribe(url, EVENTS, secrets.token_hex(16))), 201)

    async def _list_webhooks(self, request: Request) -> Response:
        return self._page(request, [self._render(stored) for stored in self.subscriptions.values()])

    async def _get_webhook(self, request: Request) -> Response:
        stored = self.subscriptions.get(request.path_params["id"])
        return JSONResponse(self._render(stored)) if stored else self.error(404, "Not found")

    async def _delete_webhook(self, request: Request) -> Response:
        stored = self.subscriptions.pop(request.path_params["id"], None)
        return JSONResponse(self._render(stored) | {"state": "deleted"}) if stored else self.error(404, "Not found")

    def _render(self, stored: StoredSubscription) -> dict[str, Any]:
        return {
            "id": stored.id,
            "url": stored.url,
            "secret": stored.secret,
            "state": "active" if stored.is_active else "disabled",
            "version": "2020-11-18",
            "created_at": iso(stored.created_at),
        }

    def new_subscription_id(self) -> str:
        return f"wh_{secrets.token_hex(13).upper()}"

    def _page(self, request: Request, entries: list[dict[str, Any]]) -> Response:
        query = request.query_params
        size = min(int(query.get("limit", "20")), 100, self.faults.page_size)
        start = int(query.get("after", "0"))
        after = str(start + size) if start + size < len(entries) else None
        metadata = {"before": None, "after": after, "limit": size}
        return JSONResponse({"entries": entries[start : start + size], "metadata": metadata})

    # -- events --

    async def _list_events(self, request: Request) -> Response:
        query, now = request.query_params, datetime.now(UTC)
        state, period = query.get("state", "confirmed"), query.get("period", "upcoming")
        since, until = now if period == "upcoming" else None, now if period == "past" else None
        events = [self._event(each) for each in self.calendar.between(since, until)]
        events = [event for event in events if state in ("all", event["state"])]
        return self._page(request, events[::-1] if period == "past" else events)

    async def _get_event(self, request: Request) -> Response:
        number = request.path_params["id"].removeprefix("event_")
        appointment = self.calendar.appointments.get(int(number)) if number.isdigit() else None
        return JSONResponse(self._event(appointment)) if appointment else self.error(404, "Not found")

    def _event(self, appointment: Appointment) -> dict[str, Any]:
        customer = {
            "id": f"attendee_{appointment.number}",
            "email": appointment.email,
            "display_name": f"{appointment.first_name} {appointment.last_name}",
            "first_name": appointment.first_name,
            "last_name": appointment.last_name,
            "phone_number": appointment.phone,
            "time_zone": "America/New_York",
            "is_organizer": False,
            "response_status": "accepted",
            "fields": [],
        }
        organizer = customer | {"id": "attendee_0", "email": "owner@example.com", "is_organizer": True}
        paid = {"state": "paid", "amount_total": int(appointment.paid * 100)}
        moved_at = self._moved_at.get(appointment.number)
        return {
            "id": f"event_{appointment.number}",
            "state": "canceled" if appointment.is_cancelled else "confirmed",
            "summary": "Haircut",
            "start_at": iso(appointment.starts_at),
            "end_at": iso(appointment.ends_at),
            "duration": appointment.minutes,
            "created_at": iso(appointment.created_at),
            "canceled_at": iso(appointment.cancelled_at) if appointment.cancelled_at else None,
            "cancel_reason": None,
            "rescheduled_at": iso(moved_at) if moved_at else None,
            "is_group_session": False,
            "location": "1 Main Street",
            "link": {"id": "link_1", "name": "Haircut", "slug": "haircut"},
            "scheduler": customer,
            "organizer": organizer,
            "attendees": [organizer, customer],
            "payment": paid if appointment.paid else None,
        }

    def __init__(self) -> None:
        super().__init__()
        #: When each appointment was last moved.
        self._moved_at: dict[int, datetime] = {}

    # -- webhooks --

    def webhooks(self, appointment: Appointment, step: Step) -> list[Webhook]:
        if step == "moved":
            self._moved_at[appointment.number] = appointment.updated_at
        events = {
            "booked": "event.created",
            "moved": "event.rescheduled",
            "cancelled": "event.canceled",
            "paid": "event.checkout.completed",
        }
        return [self._webhook(events[step], appointment)] if step in events else []

    def _webhook(self, event: str, appointment: Appointment) -> Webhook:
        body = {
            "id": f"payload_{secrets.token_hex(8)}",
            "type": event,
            "version": "2020-11-18",
            "occurred_at": iso(appointment.updated_at),
            "payload": self._event(appointment),
        }
        return Webhook(event, json.dumps(body).encode(), {})

    def sign(self, webhook: Webhook, subscription: StoredSubscription) -> Mapping[str, str]:
        signature = hmac.new(subscription.secret.encode(), webhook.body, hashlib.sha256).hexdigest().upper()
        return {
            "content-type": JSON,
            "x-savvycal-webhook-id": subscription.id,
            "x-savvycal-signature": f"sha256={signature}",
        }


VENDOR = SavvyCal
