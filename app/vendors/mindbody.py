"""Mindbody's Push API and Public API v6, as https://developers.mindbodyonline.com describes them, under one URL."""

import base64
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.vendors.calendar import Appointment, Step
from app.vendors.vendor import JSON, Endpoint, StoredSubscription, Vendor, Webhook, iso

SITE, ZONE = 12345, ZoneInfo("America/Los_Angeles")
PUSH_PATHS = ("/subscriptions", "/metrics")
CODES = {401: "InvalidAPIKey", 403: "DeniedAccess", 404: "NotFound"}


class Mindbody(Vendor):
    name = "mindbody"
    credentials: Mapping[str, str] = {
        "API_KEY": "api-key-of-the-developer",
        "SITE_ID": str(SITE),
        "USERNAME": "_DoorbellSource",
        "PASSWORD": "password-of-the-source",
    }
    token_path = "/usertoken/issue"

    def __init__(self) -> None:
        super().__init__()
        self._tokens: set[str] = set()
        #: Deleted subscriptions, which stay in the list.
        self._deactivated: dict[str, StoredSubscription] = {}

    def endpoints(self) -> Mapping[str, Endpoint]:
        return {
            "GET /subscriptions": self._list_subscriptions,
            "POST /subscriptions": self._create_subscription,
            "GET /subscriptions/{id}": self._get_subscription,
            "PATCH /subscriptions/{id}": self._update_subscription,
            "DELETE /subscriptions/{id}": self._deactivate_subscription,
            "POST /usertoken/issue": self._issue_token,
            "GET /site/sites": self._list_sites,
            "GET /appointment/staffappointments": self._list_appointments,
            "GET /client/clients": self._list_clients,
        }

    def is_authorized(self, request: Request) -> bool:
        headers, path = request.headers, request.url.path.removeprefix(f"/{self.name}")
        if headers.get("api-key") != self.credentials["API_KEY"]:
            return False
        if path.startswith((*PUSH_PATHS, "/site/sites", self.token_path)):
            return True
        return headers.get("siteid") == str(SITE) and headers.get("authorization") in self._tokens

    def error(self, status: int, text: str) -> Response:
        return JSONResponse({"Error": {"Message": text, "Code": CODES.get(status, "InvalidParameter")}}, status)

    def _push_error(self, status: int, text: str) -> Response:
        return JSONResponse({"errorCode": CODES.get(status, "invalidRequest"), "message": text}, status)

    # -- Push API: subscriptions of the developer --

    async def _create_subscription(self, request: Request) -> Response:
        body = json.loads(await request.body())
        if self.faults.forbidden:
            return self._push_error(403, "This API key has not gone live.")
        if not body.get("webhookUrl") or not body.get("eventIds") or body.get("eventSchemaVersion") != 1:
            return self._push_error(400, "The subscription is not valid.")
        key = base64.b64encode(secrets.token_bytes(24)).decode() + "="
        stored = self.subscribe(body["webhookUrl"], tuple(body["eventIds"]), key, reference=body.get("referenceId"))
        stored.is_active = False
        stored.attributes["status"] = "PendingActivation"
        return JSONResponse({**self._render(stored), "messageSignatureKey": key})

    async def _list_subscriptions(self, _: Request) -> Response:
        stored = [*self.subscriptions.values(), *self._deactivated.values()]
        return JSONResponse({"items": [self._render(each) for each in stored]})

    async def _get_subscription(self, request: Request) -> Response:
        stored = self._stored(request)
        return JSONResponse(self._render(stored)) if stored else self._push_error(404, "There is no such subscription.")

    async def _update_subscription(self, request: Request) -> Response:
        stored, body = self._stored(request), json.loads(await request.body())
        if stored is None:
            return self._push_error(404, "There is no such subscription.")
        if body.get("status") not in (None, "Active"):
            return self._push_error(400, "A subscription can only be activated.")
        if body.get("status") == "Active":
            stored.is_active = True
            self._deactivated.pop(stored.id, None)
            self.subscriptions[stored.id] = stored
        stored.url, stored.events = body.get("webhookUrl", stored.url), tuple(body.get("eventIds", stored.events))
        return JSONResponse(self._render(stored))

    async def _deactivate_subscription(self, request: Request) -> Response:
        stored = self._stored(request)
        if stored is None:
            return self._push_error(404, "There is no such subscription.")
        self.subscriptions.pop(stored.id, None)
        self._deactivated[stored.id] = stored
        stored.is_active = False
        message = "Subscription deactivated successfully."
        return JSONResponse(
            {"subscriptionId": stored.id, "deactivationDateTime": _utc(datetime.now(UTC)), "message": message}
        )

    def _stored(self, request: Request) -> StoredSubscription | None:
        id = request.path_params["id"]
        return self.subscriptions.get(id) or self._deactivated.get(id)

    def _render(self, stored: StoredSubscription) -> dict[str, Any]:
        return {
            "subscriptionId": stored.id,
            "status": self._status(stored),
            "eventIds": list(stored.events),
            "eventSchemaVersion": 1,
            "referenceId": stored.attributes.get("reference"),
            "webhookUrl": stored.url,
            "statusChangeDate": _utc(stored.created_at),
            "statusChangeMessage": None,
            "statusChangeUser": "developer",
            "subscriptionCreationDateTime": _utc(stored.created_at),
        }

    def _status(self, stored: StoredSubscription) -> str:
        if stored.id in self._deactivated:
            return "DeactivatedByUser"
        failed = "DeactivatedTooManyFailedMessageDeliveryAttempts"
        return "Active" if stored.is_active else str(stored.attributes.get("status", failed))

    def disable_all(self) -> None:
        super().disable_all()
        for stored in self.subscriptions.values():
            stored.attributes.pop("status", None)

    # -- Public API: one site --

    async def _issue_token(self, request: Request) -> Response:
        body = json.loads(await request.body())
        if (body.get("Username"), body.get("Password")) != (self.credentials["USERNAME"], self.credentials["PASSWORD"]):
            return self.error(401, "The username and password are not valid.")
        token = secrets.token_hex(16)
        self._tokens.add(token)
        expires = _utc(datetime.now(UTC) + timedelta(days=1))
        return JSONResponse({"TokenType": "Bearer", "AccessToken": token, "Expires": expires, "User": {"Id": 1}})

    async def _list_sites(self, request: Request) -> Response:
        is_asked = request.query_params.get("request.siteIds") == str(SITE)
        details = {"TimeZone": str(ZONE), "CurrencyIsoCode": "USD", "PricingLevel": "Accelerate"} if is_asked else {}
        return JSONResponse({"Sites": [{"Id": SITE, "Name": "Ada's Salon", **details}]})

    async def _list_appointments(self, request: Request) -> Response:
        query = request.query_params
        today = datetime.now(ZONE).strftime("%Y-%m-%d")
        start = query.get("request.startDate", today)
        end = query.get("request.endDate", start)[:10]
        appointments = [
            each for each in self.calendar.between(None, None) if start[:10] <= _local(each.starts_at)[:10] <= end
        ]
        offset = int(query.get("request.offset", 0))
        page = appointments[offset : offset + min(int(query.get("request.limit", 100)), self.faults.page_size)]
        pagination = {
            "RequestedLimit": int(query.get("request.limit", 100)),
            "RequestedOffset": offset,
            "PageSize": len(page),
            "TotalResults": len(appointments),
        }
        return JSONResponse({"PaginationResponse": pagination, "Appointments": [_appointment(each) for each in page]})

    async def _list_clients(self, request: Request) -> Response:
        ids = {value for name, value in request.query_params.items() if re.match(r"request\.clientIDs", name)}
        if len(ids) > 20:
            return self.error(400, "The maximum number of client ids is 20.")
        appointments = self.calendar.appointments.values()
        return JSONResponse({"Clients": [_client(each) for each in appointments if _client_id(each) in ids]})

    # -- webhooks: there are none for the end of an appointment, nor for a no-show --

    def webhooks(self, appointment: Appointment, step: Step) -> list[Webhook]:
        if step not in ("booked", "moved", "cancelled"):
            return []
        names = {"booked": "created", "moved": "updated", "cancelled": "cancelled"}
        event = f"appointmentBooking.{names[step]}"
        ids = {"siteId": SITE, "appointmentId": appointment.number}
        client = {
            "status": "Scheduled",
            "startDateTime": _utc(appointment.starts_at),
            "endDateTime": _utc(appointment.ends_at),
            "clientId": _client_id(appointment),
            "clientFirstName": appointment.first_name,
            "clientLastName": appointment.last_name,
            "clientEmail": appointment.email,
            "clientPhone": appointment.phone,
        }
        body = {
            "messageId": secrets.token_hex(12),
            "eventId": event,
            "eventSchemaVersion": 1,
            "eventInstanceOriginationDateTime": iso(appointment.updated_at),
            "eventData": ids if step == "cancelled" else {**ids, **client},
        }
        return [Webhook(event, json.dumps(body).encode(), {})]

    def sign(self, webhook: Webhook, subscription: StoredSubscription) -> Mapping[str, str]:
        digest = hmac.digest(subscription.secret.encode(), webhook.body, hashlib.sha256)
        return {"content-type": JSON, "x-mindbody-signature": f"sha256={base64.b64encode(digest).decode()}"}


def _appointment(appointment: Appointment) -> dict[str, Any]:
    return {
        "Id": appointment.number,
        "Status": _status(appointment),
        "StartDateTime": _local(appointment.starts_at),
        "EndDateTime": _local(appointment.ends_at),
        "Duration": appointment.minutes,
        "ClientId": _client_id(appointment),
        "StaffId": 5,
        "LocationId": 1,
        "SessionTypeId": 3,
    }


def _status(appointment: Appointment) -> str:
    if appointment.is_cancelled:
        return "Cancelled"
    if appointment.missed_at:
        return "NoShow"
    return "Completed" if appointment.completed_at else "Booked"


def _client(appointment: Appointment) -> dict[str, Any]:
    return {
        "Id": _client_id(appointment),
        "FirstName": appointment.first_name,
        "LastName": appointment.last_name,
        "Email": appointment.email,
        "MobilePhone": appointment.phone,
        "HomePhone": None,
    }


def _client_id(appointment: Appointment) -> str:
    return str(100_000_000 + appointment.number)


def _local(time: datetime) -> str:
    """Return the local time of the site, without an offset."""
    return time.astimezone(ZONE).strftime("%Y-%m-%dT%H:%M:%S")


def _utc(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


VENDOR = Mindbody
