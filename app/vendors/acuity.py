"""Acuity Scheduling's API v1, as https://developers.acuityscheduling.com/reference describes it."""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.vendors.calendar import Appointment, Step
from app.vendors.vendor import Endpoint, StoredSubscription, Vendor, Webhook

ZONE = ZoneInfo("America/New_York")
USER_ID, API_KEY = "10001", "api-key-of-the-account"
EVENTS = ("scheduled", "rescheduled", "canceled", "changed")
MAX_WEBHOOKS = 25


class Acuity(Vendor):
    name = "acuity"
    api_path = "/api/v1"
    credentials: Mapping[str, str] = {"USER_ID": USER_ID, "API_KEY": API_KEY}
    secret_on_a_page = API_KEY

    def endpoints(self) -> Mapping[str, Endpoint]:
        return {
            "GET /api/v1/me": self._me,
            "GET /api/v1/webhooks": self._list_webhooks,
            "POST /api/v1/webhooks": self._create_webhook,
            "DELETE /api/v1/webhooks/{id}": self._delete_webhook,
            "GET /api/v1/appointments": self._list_appointments,
            "GET /api/v1/appointments/{id}": self._get_appointment,
        }

    def is_authorized(self, request: Request) -> bool:
        pair = base64.b64encode(f"{USER_ID}:{API_KEY}".encode()).decode()
        return request.headers.get("authorization") == f"Basic {pair}"

    def error(self, status: int, text: str) -> Response:
        names = {400: "bad_request", 401: "unauthorized", 403: "forbidden", 404: "not_found"}
        return JSONResponse({"status_code": status, "message": text, "error": names[status]}, status)

    async def _me(self, _: Request) -> Response:
        account = {"id": int(USER_ID), "email": "owner@example.com", "name": "Ada's Salon", "timezone": str(ZONE)}
        return JSONResponse(account)

    # -- webhooks: each has one event, and only active ones are listed --

    async def _create_webhook(self, request: Request) -> Response:
        body = json.loads(await request.body())
        if self.faults.forbidden:
            return self.error(403, "Forbidden")
        if body.get("event") not in {f"appointment.{event}" for event in EVENTS} | {"order.completed"}:
            return self.error(400, "The event is not valid")
        if not str(body.get("target", "")).startswith(("https://", "http://")):
            return self.error(400, "The target is not a URL")
        if len(self.subscriptions) >= MAX_WEBHOOKS:
            return self.error(400, "The account has 25 webhooks")
        return JSONResponse(self._render(self.subscribe(body["target"], (body["event"],), API_KEY)))

    async def _list_webhooks(self, _: Request) -> Response:
        return JSONResponse([self._render(stored) for stored in self.subscriptions.values() if stored.is_active])

    async def _delete_webhook(self, request: Request) -> Response:
        is_deleted = self.subscriptions.pop(request.path_params["id"], None)
        return Response(status_code=204) if is_deleted else self.error(404, "The webhook does not exist.")

    def _render(self, stored: StoredSubscription) -> dict[str, Any]:
        return {"id": int(stored.id), "event": stored.events[0], "target": stored.url, "status": "active"}

    def new_subscription_id(self) -> str:
        return str(secrets.randbelow(10**9) + 1)

    def disable_all(self) -> None:
        """Delete the webhooks: Acuity does not list disabled ones."""
        self.subscriptions.clear()

    # -- appointments --

    async def _list_appointments(self, request: Request) -> Response:
        query = request.query_params
        first, last = query.get("minDate", ""), query.get("maxDate", "9999")
        shown = {True, False} if query.get("showall") == "true" else {query.get("canceled") == "true"}
        listed = [
            appointment
            for appointment in self.calendar.between(None, None)
            if first <= str(appointment.starts_at.astimezone(ZONE).date()) <= last
            and _is_cancelled(appointment) in shown
        ]
        if query.get("direction", "DESC") == "DESC":
            listed.reverse()
        return JSONResponse([self._appointment(each) for each in listed[: int(query.get("max", "100"))]])

    async def _get_appointment(self, request: Request) -> Response:
        id = request.path_params["id"]
        appointment = self.calendar.appointments.get(int(id)) if id.isdigit() else None
        return (
            JSONResponse(self._appointment(appointment))
            if appointment
            else self.error(404, "The appointment does not exist.")
        )

    def _appointment(self, appointment: Appointment) -> dict[str, Any]:
        start, end = (each.astimezone(ZONE) for each in (appointment.starts_at, appointment.ends_at))
        rendered = {
            "id": appointment.number,
            "firstName": appointment.first_name,
            "lastName": appointment.last_name,
            "phone": appointment.phone,
            "email": appointment.email,
            "date": start.strftime("%B %d, %Y"),
            "time": start.strftime("%I:%M%p").lower(),
            "endTime": end.strftime("%I:%M%p").lower(),
            "dateCreated": appointment.created_at.astimezone(ZONE).strftime("%B %d, %Y"),
            "datetime": start.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "price": "75.00",
            "paid": "yes" if appointment.paid else "no",
            "amountPaid": f"{appointment.paid:.2f}",
            "type": "Haircut",
            "appointmentTypeID": 1,
            "duration": str(appointment.minutes),
            "calendar": "Ada",
            "calendarID": 27238,
            "canceled": _is_cancelled(appointment),
            "notes": "",
            "timezone": str(ZONE),
            "forms": [],
        }
        # Only cancelled appointments have `noShow`.
        return rendered | ({"noShow": appointment.missed_at is not None} if _is_cancelled(appointment) else {})

    # -- webhooks --

    def webhooks(self, appointment: Appointment, step: Step) -> list[Webhook]:
        actions = {"booked": "scheduled", "moved": "rescheduled", "cancelled": "canceled", "missed": "canceled"}
        if step == "completed":
            return []
        names = [actions[step], "changed"] if step in actions else ["changed"]
        return [self._webhook(name, appointment) for name in names]

    def _webhook(self, action: str, appointment: Appointment) -> Webhook:
        fields = {"action": action, "id": appointment.number, "calendarID": 27238, "appointmentTypeID": 1}
        return Webhook(f"appointment.{action}", urlencode(fields).encode(), {})

    def sign(self, webhook: Webhook, subscription: StoredSubscription) -> Mapping[str, str]:
        signature = base64.b64encode(hmac.new(API_KEY.encode(), webhook.body, hashlib.sha256).digest()).decode()
        return {"content-type": "application/x-www-form-urlencoded", "x-acuity-signature": signature}


def _is_cancelled(appointment: Appointment) -> bool:
    """Return whether Acuity shows the appointment as cancelled, which includes no-shows."""
    return appointment.is_cancelled or appointment.missed_at is not None


VENDOR = Acuity
