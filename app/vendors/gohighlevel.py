"""GoHighLevel's calendars and contacts, as its OpenAPI documents describe them; webhooks are set up by hand."""

import base64
import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.vendors.calendar import Appointment, Step
from app.vendors.vendor import JSON, Endpoint, StoredSubscription, Vendor, Webhook

LOCATION = "loc_8BWpSzSwfiuSl0tR2"
CALENDARS = ("BqTwX8QFwXzpegMve9EQ", "CVokAlI8fgw4WYWoCtQz")
EVENTS = ("AppointmentCreate", "AppointmentUpdate", "AppointmentDelete")
KEY = Ed25519PrivateKey.from_private_bytes(b"the key of the fake GoHighLevel.")
PUBLIC_KEY = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
Row = dict[str, Any]


class GoHighLevel(Vendor):
    """deleted: the numbers of the deleted appointments, which are in no list."""

    name = "gohighlevel"
    tenant = LOCATION
    secret_on_a_page = base64.b64encode(PUBLIC_KEY).decode()
    disables_after = 0

    def __init__(self) -> None:
        super().__init__()
        self.deleted: set[int] = set()

    def endpoints(self) -> Mapping[str, Endpoint]:
        return {
            "GET /calendars/": self._list_calendars,
            "GET /calendars/events": self._list_events,
            "GET /calendars/events/appointments/{id}": self._get_appointment,
            "GET /contacts/{id}": self._get_contact,
        }

    def error(self, status: int, text: str) -> Response:
        return JSONResponse({"statusCode": status, "message": text, "traceId": secrets.token_hex(16)}, status)

    def register(self, url: str) -> None:
        super().register(url)
        self.subscribe(url, EVENTS, self.secret_on_a_page)

    async def _list_calendars(self, request: Request) -> Response:
        if request.query_params.get("locationId") != LOCATION:
            return self.error(403, "The token does not have access to this location.")
        rows = [{"id": id, "locationId": LOCATION, "name": f"Calendar {id[:2]}", "isActive": True} for id in CALENDARS]
        return JSONResponse({"calendars": rows})

    async def _list_events(self, request: Request) -> Response:
        params = request.query_params
        if params.get("locationId") != LOCATION or params.get("calendarId") not in CALENDARS:
            return self.error(400, "Either of userId, groupId or calendarId is required")
        since, until = (datetime.fromtimestamp(int(params[name]) / 1000, UTC) for name in ("startTime", "endTime"))
        rows = [_event(each) for each in self.calendar.between(since, until) if each.number not in self.deleted]
        return JSONResponse({"events": [row for row in rows if row["calendarId"] == params["calendarId"]]})

    async def _get_appointment(self, request: Request) -> Response:
        existing = [each for each in self.calendar.appointments.values() if each.number not in self.deleted]
        row = next((row for row in map(_event, existing) if row["id"] == request.path_params["id"]), None)
        return JSONResponse({"event": row}) if row else self.error(404, "The appointment does not exist.")

    async def _get_contact(self, request: Request) -> Response:
        contacts = map(_contact, self.calendar.appointments.values())
        contact = next((each for each in contacts if each["id"] == request.path_params["id"]), None)
        return JSONResponse({"contact": contact}) if contact else self.error(404, "Contact not found")

    # -- webhooks --

    def webhooks(self, appointment: Appointment, step: Step) -> list[Webhook]:
        if step == "paid":
            return []
        kind = "AppointmentCreate" if step == "booked" else "AppointmentUpdate"
        body = {
            "type": kind,
            "locationId": LOCATION,
            "appointment": _event(appointment),
            "timestamp": _time(appointment.updated_at),
            "webhookId": secrets.token_hex(8),
        }
        return [Webhook(kind, json.dumps(body).encode(), {})]

    def sign(self, webhook: Webhook, subscription: StoredSubscription) -> Mapping[str, str]:
        return {"content-type": JSON, "X-GHL-Signature": base64.b64encode(KEY.sign(webhook.body)).decode()}


def _event(appointment: Appointment) -> Row:
    statuses = {
        "cancelled": appointment.cancelled_at,
        "noshow": appointment.missed_at,
        "showed": appointment.completed_at,
    }
    return {
        "id": f"apt{appointment.number:017}",
        "title": f"{appointment.first_name} {appointment.last_name}",
        "calendarId": CALENDARS[appointment.number % 2],
        "locationId": LOCATION,
        "contactId": _contact_id(appointment),
        "groupId": "9NkT25Vor1v4aQatFsv2",
        "appointmentStatus": next((status for status, at in statuses.items() if at), "confirmed"),
        "assignedUserId": "YlWd2wuCAZQzh2cH1fVZ",
        "users": [],
        "startTime": _local(appointment.starts_at),
        "endTime": _local(appointment.ends_at),
        "dateAdded": _time(appointment.created_at),
        "dateUpdated": _time(appointment.updated_at),
    }


def _contact(appointment: Appointment) -> Row:
    return {
        "id": _contact_id(appointment),
        "locationId": LOCATION,
        "firstName": appointment.first_name,
        "lastName": appointment.last_name,
        "email": appointment.email,
        "phone": appointment.phone,
        "dnd": False,
        "dndSettings": {},
    }


def _contact_id(appointment: Appointment) -> str:
    return f"con{appointment.number:017}"


def _time(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _local(time: datetime) -> str:
    """Return the local time of the location, which is one hour behind UTC in this fake."""
    return (time.astimezone(UTC) - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S-01:00")


VENDOR = GoHighLevel
