"""HubSpot's CRM, as its OpenAPI documents describe it: meetings with a contact each, and webhooks set up by hand."""

import base64
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

PORTAL, SECRET = 62515, "client-secret-of-the-app"
EVENTS = ("object.creation", "object.propertyChange")
Row = dict[str, Any]


class HubSpot(Vendor):
    name = "hubspot"
    oauth_settings: Mapping[str, Any] | None = {
        "client_secret": SECRET,
        "scopes": ("oauth", "crm.objects.contacts.read"),
        "rotates": False,
        "expires_in": 1_800,
    }
    secret_on_a_page = SECRET
    disables_after = 0

    def endpoints(self) -> Mapping[str, Endpoint]:
        return {
            "GET /account-info/v3/details": self._account,
            "POST /crm/v3/objects/meetings/search": self._search,
            "POST /crm/v3/objects/meetings/batch/read": self._read_meetings,
            "GET /crm/v3/objects/meetings/{id}": self._get_meeting,
            "POST /crm/v3/objects/contacts/batch/read": self._read_contacts,
            "GET /crm/v3/objects/contacts/{id}": self._get_contact,
        }

    def error(self, status: int, text: str) -> Response:
        categories = {401: "INVALID_AUTHENTICATION", 403: "MISSING_SCOPES", 404: "OBJECT_NOT_FOUND"}
        category = categories.get(status, "VALIDATION_ERROR")
        error = {"status": "error", "message": text, "correlationId": secrets.token_hex(8), "category": category}
        return JSONResponse(error, status)

    def register(self, url: str) -> None:
        super().register(url)
        self.subscribe(url, EVENTS, SECRET)

    async def _account(self, _: Request) -> Response:
        return JSONResponse({"portalId": PORTAL, "accountType": "STANDARD", "timeZone": "US/Eastern"})

    # -- meetings and contacts --

    async def _search(self, request: Request) -> Response:
        body = json.loads(await request.body())
        rows = [_meeting(each) for each in self.calendar.appointments.values()]
        rows = [row for row in rows if any(_matches(row, group["filters"]) for group in body["filterGroups"])]
        order = body["sorts"][0]["propertyName"]
        rows.sort(key=lambda row: str(row["properties"][order]))
        first, size = int(body.get("after", 0)), min(body.get("limit", 10), self.faults.page_size)
        shown = [{name: row[name] for name in ("id", "properties", "archived")} for row in rows[first : first + size]]
        paging = {"paging": {"next": {"after": str(first + size)}}} if first + size < len(rows) else {}
        return JSONResponse({"total": len(rows), "results": shown, **paging})

    async def _read_meetings(self, request: Request) -> Response:
        return await self._batch(request, [_meeting(each) for each in self.calendar.appointments.values()])

    async def _read_contacts(self, request: Request) -> Response:
        return await self._batch(request, [_contact(each) for each in self.calendar.appointments.values()])

    async def _batch(self, request: Request, rows: list[Row]) -> Response:
        ids = {each["id"] for each in json.loads(await request.body())["inputs"]}
        results = [row for row in rows if row["id"] in ids]
        return JSONResponse({"status": "COMPLETE", "results": results}, 200 if len(results) == len(ids) else 207)

    async def _get_meeting(self, request: Request) -> Response:
        return self._get(request, [_meeting(each) for each in self.calendar.appointments.values()])

    async def _get_contact(self, request: Request) -> Response:
        return self._get(request, [_contact(each) for each in self.calendar.appointments.values()])

    def _get(self, request: Request, rows: list[Row]) -> Response:
        row = next((row for row in rows if row["id"] == request.path_params["id"]), None)
        return JSONResponse(row) if row else self.error(404, "resource not found")

    # -- webhooks: lists of events --

    def webhooks(self, appointment: Appointment, step: Step) -> list[Webhook]:
        if step == "paid":
            return []
        kind = "object.creation" if step == "booked" else "object.propertyChange"
        changed = {"propertyName": f"hs_meeting_{'start_time' if step == 'moved' else 'outcome'}"}
        event = {
            "eventId": secrets.randbelow(10**6),
            "portalId": PORTAL,
            "occurredAt": int(appointment.updated_at.timestamp() * 1000),
            "subscriptionType": kind,
            "attemptNumber": 0,
            "objectId": _number(appointment),
            "objectTypeId": "0-47",
            **(changed if kind == "object.propertyChange" else {}),
        }
        return [Webhook(kind, json.dumps([event]).encode(), {})]

    def sign(self, webhook: Webhook, subscription: StoredSubscription) -> Mapping[str, str]:
        sent_at = str(int(time.time() * 1000))
        signed = f"POST{subscription.url}".encode() + webhook.body + sent_at.encode()
        signature = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
        headers = {"x-hubspot-request-timestamp": sent_at, "x-hubspot-signature-v3": signature}
        return {"content-type": JSON, **headers}


def _matches(row: Row, filters: list[Mapping[str, str]]) -> bool:
    return all(
        _meets_condition(row["properties"][each["propertyName"]], each["operator"], each["value"]) for each in filters
    )


def _meets_condition(value: str, operator: str, limit: str) -> bool:
    time, other = datetime.fromisoformat(value).timestamp() * 1000, int(limit)
    return time >= other if operator == "GTE" else time < other


def _meeting(appointment: Appointment) -> Row:
    outcomes = {
        "CANCELED": appointment.cancelled_at,
        "COMPLETED": appointment.completed_at,
        "NO_SHOW": appointment.missed_at,
    }
    outcome, since = next(((name, at) for name, at in outcomes.items() if at), ("SCHEDULED", appointment.created_at))
    start = _time(appointment.starts_at)
    return {
        "id": str(_number(appointment)),
        "properties": {
            "hs_meeting_outcome": outcome,
            "hs_meeting_start_time": start,
            "hs_timestamp": start,
            "hs_lastmodifieddate": _time(appointment.updated_at),
        },
        "propertiesWithHistory": {
            "hs_meeting_outcome": [{"value": outcome, "timestamp": _time(since)}],
            "hs_meeting_start_time": [{"value": start, "timestamp": _time(appointment.created_at)}],
        },
        "createdAt": _time(appointment.created_at),
        "updatedAt": _time(appointment.updated_at),
        "archived": False,
        "associations": {
            "contacts": {"results": [{"id": _contact_id(appointment), "type": "meeting_event_to_contact"}]}
        },
    }


def _contact(appointment: Appointment) -> Row:
    properties = {
        "email": appointment.email,
        "firstname": appointment.first_name,
        "lastname": appointment.last_name,
        "phone": appointment.phone,
        "mobilephone": None,
        "hs_email_optout": None,
    }
    return {"id": _contact_id(appointment), "properties": properties, "archived": False}


def _number(appointment: Appointment) -> int:
    return 9_000 + appointment.number


def _contact_id(appointment: Appointment) -> str:
    return str(100 + appointment.number)


def _time(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


VENDOR = HubSpot
