"""NexHealth's API v20240412, as its OpenAPI document describes it, for one practice with one location."""

import base64
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
from app.vendors.vendor import JSON, Endpoint, StoredSubscription, Vendor, Webhook

INSTITUTION, LOCATION, SUBDOMAIN, ZONE = 11, 21, "example-dental", "America/New_York"
EVENTS = {"appointment_created", "appointment_updated", "appointment_insertion", "appointment_requested"}
VERSIONS = {"v20240412", "v3.0.0"}
Row = dict[str, Any]


class NexHealth(Vendor):
    name = "nexhealth"
    credentials: Mapping[str, str] = {"API_KEY": "api-key-of-the-developer"}
    token_path = "/authenticates"

    def __init__(self) -> None:
        super().__init__()
        self._tokens: set[str] = set()

    def endpoints(self) -> Mapping[str, Endpoint]:
        return {
            "POST /authenticates": self._authenticate,
            "GET /locations": self._list_locations,
            "GET /webhook_endpoints": self._list_endpoints,
            "POST /webhook_endpoints": self._create_endpoint,
            "PATCH /webhook_endpoints/{id}": self._change_endpoint,
            "DELETE /webhook_endpoints/{id}": self._delete_endpoint,
            "GET /webhook_endpoints/{id}/webhook_subscriptions": self._list_subscriptions,
            "POST /webhook_endpoints/{id}/webhook_subscriptions": self._add_subscription,
            "GET /appointments": self._list_appointments,
            "GET /patients/{id}": self._get_patient,
        }

    def is_authorized(self, request: Request) -> bool:
        authorization = request.headers.get("authorization", "")
        if request.url.path.endswith(self.token_path):
            return authorization == self.credentials["API_KEY"]
        return authorization.removeprefix("Bearer ") in self._tokens

    def error(self, status: int, text: str) -> Response:
        return JSONResponse({"code": False, "description": None, "data": None, "error": [text]}, status)

    async def _authenticate(self, _: Request) -> Response:
        token = secrets.token_hex(16)
        self._tokens.add(token)
        return _data({"token": token}, 201)

    async def _list_locations(self, request: Request) -> Response:
        if request.query_params.get("subdomain", SUBDOMAIN) != SUBDOMAIN:
            return self.error(403, "You don't have access to perform this action.")
        location = {"id": LOCATION, "name": "Default", "institution_id": INSTITUTION, "tz": ZONE, "inactive": False}
        practice = {"id": INSTITUTION, "name": "Ada's Dental", "subdomain": SUBDOMAIN, "locations": [location]}
        return _data([practice])

    # -- endpoints, and their subscriptions --

    async def _create_endpoint(self, request: Request) -> Response:
        body = json.loads(await request.body())
        if self.faults.forbidden:
            return self.error(403, "You don't have access to perform this action.")
        if not str(body.get("target_url", "")).startswith(("https://", "http://127.0.0.1")):
            return self.error(400, "target_url must be https")
        stored = self.subscribe(body["target_url"], (), secrets.token_urlsafe(16))
        stored.is_active = body.get("active", True)
        return _data(_endpoint(stored), 201)

    async def _list_endpoints(self, _: Request) -> Response:
        return _data([_endpoint(stored) for stored in self.subscriptions.values()])

    async def _change_endpoint(self, request: Request) -> Response:
        stored, body = self._stored(request), json.loads(await request.body())
        if stored is None:
            return self.error(404, "Not found")
        stored.is_active, stored.url = body.get("active", stored.is_active), body.get("target_url", stored.url)
        return _data(_endpoint(stored))

    async def _delete_endpoint(self, request: Request) -> Response:
        is_deleted = self.subscriptions.pop(request.path_params["id"], None)
        return Response(status_code=204) if is_deleted else self.error(404, "Not found")

    async def _list_subscriptions(self, request: Request) -> Response:
        stored = self._stored(request)
        if stored is None:
            return self.error(404, "Not found")
        return _data([_subscription(stored, number) for number in range(len(stored.events))])

    async def _add_subscription(self, request: Request) -> Response:
        stored, body = self._stored(request), json.loads(await request.body())
        if request.query_params.get("subdomain") != SUBDOMAIN:
            return self.error(403, "You don't have access to perform this action.")
        if stored is None:
            return self.error(404, "Not found")
        if body.get("resource_type") != "Appointment" or body.get("event") not in EVENTS:
            return self.error(400, "event is not valid")
        stored.events = (*stored.events, body["event"])
        return _data(_subscription(stored, len(stored.events) - 1), 201)

    def _stored(self, request: Request) -> StoredSubscription | None:
        return self.subscriptions.get(request.path_params["id"])

    def new_subscription_id(self) -> str:
        return str(secrets.randbelow(10**6) + 1)

    # -- records --

    async def _list_appointments(self, request: Request) -> Response:
        query = request.query_params
        if request.headers.get("nex-api-version") not in VERSIONS:
            return self.error(404, "There is no such version")
        if missing := [name for name in ("subdomain", "location_id", "start", "end") if name not in query]:
            return self.error(400, f"Missing parameter: {missing[0]}")
        start, end = (datetime.fromisoformat(query[name].replace(" ", "+")) for name in ("start", "end"))
        listed = self.calendar.between(start, end) if query["location_id"] == str(LOCATION) else []
        if since := query.get("updated_since"):
            listed = [each for each in listed if each.updated_at >= datetime.fromisoformat(since.replace(" ", "+"))]
        if cancelled := query.get("cancelled"):
            listed = [each for each in listed if each.is_cancelled == (cancelled == "true")]
        size, first = min(int(query.get("per_page", 5)), self.faults.page_size), int(query.get("end_cursor", 0))
        has_next = first + size < len(listed)
        page_info = {"has_next_page": has_next, "end_cursor": str(first + size) if has_next else None}
        rows = [_appointment(each) for each in listed[first : first + size]]
        return JSONResponse({"code": True, "description": None, "data": rows, "page_info": page_info, "error": []})

    async def _get_patient(self, request: Request) -> Response:
        if request.query_params.get("subdomain") != SUBDOMAIN:
            return self.error(403, "You don't have access to perform this action.")
        patients = (_patient(each) for each in self.calendar.appointments.values())
        patient = next((each for each in patients if str(each["id"]) == request.path_params["id"]), None)
        return _data(patient) if patient else self.error(404, "Not found")

    # -- webhooks: every later change is an update --

    def webhooks(self, appointment: Appointment, step: Step) -> list[Webhook]:
        if step == "paid":
            return []
        event = "appointment_created" if step == "booked" else "appointment_updated"
        row = _appointment(appointment)
        body = {
            "resource_type": "Appointment",
            "event_name": event,
            "event_time": row["updated_at"],
            "subdomain": SUBDOMAIN,
            "institution_id": INSTITUTION,
            "data": {"appointments": [row]} if step == "booked" else {"appointment": row},
            "delivery_errors": [],
        }
        return [Webhook(event, json.dumps(body).encode(), {})]

    def sign(self, webhook: Webhook, subscription: StoredSubscription) -> Mapping[str, str]:
        sent_at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        signed = f"{sent_at}.{base64.b64encode(webhook.body).decode()}".encode()
        signature = hmac.new(subscription.secret.encode(), signed, hashlib.sha256).hexdigest()
        return {"content-type": JSON, "timestamp": sent_at, "signature": signature}


def _data(data: Any, status: int = 200) -> Response:
    return JSONResponse({"code": True, "description": None, "error": [], "data": data}, status)


def _endpoint(stored: StoredSubscription) -> Row:
    created_at = _time(stored.created_at)
    return {
        "id": int(stored.id),
        "target_url": stored.url,
        "secret_key": stored.secret,
        "active": stored.is_active,
        "created_at": created_at,
        "updated_at": created_at,
    }


def _subscription(stored: StoredSubscription, number: int) -> Row:
    return {
        "id": int(stored.id) * 10 + number,
        "webhook_endpoint_id": int(stored.id),
        "institution_id": INSTITUTION,
        "resource_type": "Appointment",
        "event": stored.events[number],
        "active": True,
    }


def _appointment(appointment: Appointment) -> Row:
    return {
        "id": 700_000 + appointment.number,
        "patient_id": 5_000 + appointment.number,
        "provider_id": 9,
        "provider_name": "Grace Hopper",
        "start_time": _time(appointment.starts_at),
        "end_time": _time(appointment.ends_at),
        "confirmed": False,
        "patient_missed": appointment.missed_at is not None,
        "created_at": _time(appointment.created_at),
        "updated_at": _time(appointment.updated_at),
        "unavailable": False,
        "cancelled": appointment.is_cancelled,
        "cancelled_at": _time(appointment.cancelled_at) if appointment.cancelled_at else None,
        "checked_out": appointment.completed_at is not None,
        "checked_out_at": _time(appointment.completed_at) if appointment.completed_at else None,
        "timezone": ZONE,
        "institution_id": INSTITUTION,
        "location_id": LOCATION,
    }


def _patient(appointment: Appointment) -> Row:
    return {
        "id": 5_000 + appointment.number,
        "email": appointment.email,
        "first_name": appointment.first_name,
        "last_name": appointment.last_name,
        "institution_id": INSTITUTION,
        "bio": {"phone_number": appointment.phone, "cell_phone_number": appointment.phone},
        "inactive": False,
    }


def _time(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


VENDOR = NexHealth
