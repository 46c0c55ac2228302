"""Jane's Developer Platform, as its OpenAPI document describes it, for one clinic."""

import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any
from uuid import NAMESPACE_URL, uuid4, uuid5

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.vendors.calendar import Appointment, Step
from app.vendors.vendor import JSON, Endpoint, StoredSubscription, Vendor, Webhook

CLINIC = 3451
TOPICS = {
    "booked": "APPOINTMENT_BOOKED",
    "moved": "APPOINTMENT_RESCHEDULED",
    "cancelled": "APPOINTMENT_CANCELLED",
    "uncancelled": "APPOINTMENT_UNCANCELLED",
}
Row = dict[str, Any]


class Jane(Vendor):
    name = "jane"
    oauth_settings: Mapping[str, Any] | None = {
        "needs_pkce": True,
        "scopes": ("appointments:read", "patients:read", "webhooks:create", "webhooks:read", "webhooks:delete"),
        "expires_in": 300,
    }
    api_path = "/api/2026-01-01"

    def endpoints(self) -> Mapping[str, Endpoint]:
        paths: dict[str, Endpoint] = {
            "GET /webhooks": self._list_webhooks,
            "POST /webhooks": self._create_webhook,
            "DELETE /webhooks/{id}": self._delete_webhook,
            "GET /appointments": self._list_appointments,
            "GET /appointments/{id}": self._get_appointment,
            "GET /patients": self._list_patients,
            "GET /patients/{id}": self._get_patient,
        }
        return {path.replace(" ", f" {self.api_path}"): endpoint for path, endpoint in paths.items()}

    def error(self, status: int, text: str) -> Response:
        return JSONResponse({"error": text}, status)

    # -- webhooks: one for each topic of the app; others belong to other apps --

    def _own_subscriptions(self) -> list[StoredSubscription]:
        return [
            each
            for each in self.subscriptions.values()
            if each.attributes.get("is_of_app") or each.url == self.registered_url
        ]

    async def _create_webhook(self, request: Request) -> Response:
        body = json.loads(await request.body())
        topic, url = body.get("event_topic"), body.get("target_url", "")
        if self.faults.forbidden:
            return self.error(
                403, "authenticated partner does not have permission to register webhooks for this clinic"
            )
        if topic not in TOPICS.values() or not url.startswith("http"):
            return JSONResponse({"errors": [{"path": "event_topic", "message": "is not valid"}]}, 422)
        if existing := next((each for each in self._own_subscriptions() if topic in each.events), None):
            error = {"id": "DUPLICATE_RECORD", "message": "already subscribed", "details": _webhook(existing)}
            return JSONResponse({"errors": [error]}, 409)
        stored = self.subscribe(url, (topic,), uuid4().hex, is_of_app=True)
        return JSONResponse({**_webhook(stored), "secret": stored.secret}, 201)

    async def _list_webhooks(self, _: Request) -> Response:
        return JSONResponse([_webhook(stored) for stored in self._own_subscriptions()])

    async def _delete_webhook(self, request: Request) -> Response:
        is_deleted = self.subscriptions.pop(request.path_params["id"], None)
        return Response(status_code=204) if is_deleted else self.error(404, "Not found")

    def new_subscription_id(self) -> str:
        return str(uuid4())

    # -- records --

    async def _list_appointments(self, request: Request) -> Response:
        query, listed = request.query_params, self.calendar.between(None, None)
        times = {"start_at": attrgetter("starts_at"), "updated_at": attrgetter("updated_at")}
        for name, time_of in times.items():
            if since := query.get(f"{name}[gte]"):
                listed = [each for each in listed if time_of(each) >= datetime.fromisoformat(since)]
            if until := query.get(f"{name}[lt]"):
                listed = [each for each in listed if time_of(each) < datetime.fromisoformat(until)]
        listed.sort(key=times[query.get("sort", "start_at")])
        first, size = int(query.get("page[cursor]", 0)), min(int(query.get("page[limit]", 50)), self.faults.page_size)
        return _items([_appointment(each) for each in listed], first, size)

    async def _get_appointment(self, request: Request) -> Response:
        rows = (_appointment(each) for each in self.calendar.appointments.values())
        row = next((row for row in rows if row["id"] == request.path_params["id"]), None)
        return JSONResponse(row) if row else self.error(404, "Not found")

    async def _list_patients(self, request: Request) -> Response:
        ids = request.query_params.get("public_id[eq]", "").split(",")
        if len(ids) > 100:
            return JSONResponse({"error": "bad request", "messages": ["at most 100 values"]}, 400)
        patients = (_patient(each) for each in self.calendar.appointments.values())
        return _items([patient for patient in patients if patient["id"] in ids], 0, 100)

    async def _get_patient(self, request: Request) -> Response:
        rows = (_patient(each) for each in self.calendar.appointments.values())
        row = next((row for row in rows if row["id"] == request.path_params["id"]), None)
        return JSONResponse(row) if row else self.error(404, "Not found")

    # -- webhooks: there are none for the end of an appointment, a no-show or a payment --

    def webhooks(self, appointment: Appointment, step: Step) -> list[Webhook]:
        if step not in TOPICS:
            return []
        body = {
            "event_id": str(uuid4()),
            "event_topic": TOPICS[step],
            "event_timestamp": _time(appointment.updated_at),
            "appointment_id": _id("appointment", appointment),
            "clinic_guid": CLINIC,
            "version": "2026-01-01",
        }
        return [Webhook(TOPICS[step], json.dumps(body).encode(), {})]

    def sign(self, webhook: Webhook, subscription: StoredSubscription) -> Mapping[str, str]:
        signature = hmac.new(subscription.secret.encode(), webhook.body, hashlib.sha256).hexdigest()
        sent_at = str(int(time.time()))
        return {"content-type": JSON, "x-jane-timestamp": sent_at, "x-jane-signature": f"sha256={signature}"}


def _items(rows: list[Row], first: int, size: int) -> Response:
    end = first + size
    has_next = end < len(rows)
    page = {"items": rows[first:end], "limit": size, "cursor": str(end) if has_next else None, "hasNextPage": has_next}
    return JSONResponse(page)


def _webhook(stored: StoredSubscription) -> Row:
    created_at = _time(stored.created_at)
    return {
        "id": stored.id,
        "event_topic": stored.events[0],
        "target_url": stored.url,
        "clinic_guid": CLINIC,
        "status": "active" if stored.is_active else "inactive",
        "created_at": created_at,
        "updated_at": created_at,
    }


def _appointment(appointment: Appointment) -> Row:
    state = "no_show" if appointment.missed_at else "booked"
    return {
        "id": _id("appointment", appointment),
        "start_at": _time(appointment.starts_at),
        "end_at": _time(appointment.ends_at),
        "patient_id": _id("patient", appointment),
        "cancelled_at": _time(appointment.cancelled_at) if appointment.cancelled_at else None,
        "cancelled_reason": None,
        "booked_at": _time(appointment.created_at),
        "no_show_at": _time(appointment.missed_at) if appointment.missed_at else None,
        "arrived_at": None,
        "archived_at": None,
        "state": "cancelled" if appointment.is_cancelled else state,
    }


def _patient(appointment: Appointment) -> Row:
    return {
        "id": _id("patient", appointment),
        "first_name": appointment.first_name,
        "last_name": appointment.last_name,
        "email": appointment.email,
        "send_marketing_emails": True,
        "do_not_email": False,
        "status": "active",
        "phone_numbers": [{"type": "mobile", "number": appointment.phone, "is_primary": True}],
    }


def _id(kind: str, appointment: Appointment) -> str:
    return str(uuid5(NAMESPACE_URL, f"jane/{kind}/{appointment.number}"))


def _time(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


VENDOR = Jane
