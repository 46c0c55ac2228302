"""Square's API for bookings, customers and webhooks, as https://developer.squareup.com/reference/square describes it."""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.vendors.calendar import Appointment, Step
from app.vendors.vendor import JSON, Endpoint, StoredSubscription, Vendor, Webhook

MERCHANT, LOCATION = "MLSALON", "LSALON"
CATEGORIES = {401: "AUTHENTICATION_ERROR", 403: "AUTHENTICATION_ERROR", 429: "RATE_LIMIT_ERROR"}
CODES = {401: "UNAUTHORIZED", 403: "INSUFFICIENT_SCOPES", 404: "NOT_FOUND", 429: "RATE_LIMITED"}
EVENTS = {"booking.created", "booking.updated"}
LONGEST_PERIOD = timedelta(days=31)


class Square(Vendor):
    name = "square"
    api_path = "/v2"
    credentials: Mapping[str, str] = {"TOKEN": "access-token-of-the-application"}
    disables_after = 0

    def __init__(self) -> None:
        super().__init__()
        self._versions: dict[int, int] = {}

    def endpoints(self) -> Mapping[str, Endpoint]:
        subscriptions = "/v2/webhooks/subscriptions"
        return {
            "GET /v2/merchants/me": self._merchant,
            f"GET {subscriptions}": self._list_subscriptions,
            f"POST {subscriptions}": self._create_subscription,
            f"GET {subscriptions}/{{id}}": self._get_subscription,
            f"PUT {subscriptions}/{{id}}": self._update_subscription,
            f"DELETE {subscriptions}/{{id}}": self._delete_subscription,
            "GET /v2/bookings": self._list_bookings,
            "GET /v2/bookings/{id}": self._get_booking,
            "GET /v2/customers/{id}": self._get_customer,
            "POST /v2/customers/bulk-retrieve": self._get_customers,
        }

    def error(self, status: int, text: str) -> Response:
        category, code = CATEGORIES.get(status, "INVALID_REQUEST_ERROR"), CODES.get(status, "INVALID_VALUE")
        return JSONResponse({"errors": [{"category": category, "code": code, "detail": text}]}, status)

    async def _merchant(self, _: Request) -> Response:
        merchant = {"id": MERCHANT, "business_name": "Ada's Salon", "country": "US", "status": "ACTIVE"}
        return JSONResponse({"merchant": merchant})

    # -- subscriptions of the application --

    async def _create_subscription(self, request: Request) -> Response:
        subscription = json.loads(await request.body()).get("subscription", {})
        if self.faults.forbidden:
            text = (
                "The merchant must authorize your application for the following scopes: DEVELOPER_APPLICATION_WEBHOOKS"
            )
            return self.error(403, f"The merchant has not given your application sufficient permissions. {text}")
        url, events = subscription.get("notification_url", ""), subscription.get("event_types") or []
        if not url.startswith(("https://", "http://127.0.0.1")) or not events or set(events) - EVENTS:
            return self.error(400, "The subscription is not valid")
        stored = self.subscribe(url, tuple(events), secrets.token_urlsafe(16), name=subscription.get("name", ""))
        stored.is_active = subscription.get("enabled", True)
        return JSONResponse({"subscription": self._render(stored, with_key=True)})

    async def _list_subscriptions(self, request: Request) -> Response:
        with_disabled = request.query_params.get("include_disabled") == "true"
        rendered = [self._render(stored) for stored in self.subscriptions.values() if stored.is_active or with_disabled]
        return self._page(request, "subscriptions", rendered)

    async def _get_subscription(self, request: Request) -> Response:
        stored = self.subscriptions.get(request.path_params["id"])
        return JSONResponse({"subscription": self._render(stored, with_key=True)}) if stored else self._not_found()

    async def _update_subscription(self, request: Request) -> Response:
        stored = self.subscriptions.get(request.path_params["id"])
        if stored is None:
            return self._not_found()
        changes = json.loads(await request.body()).get("subscription", {})
        stored.is_active, stored.url = (
            changes.get("enabled", stored.is_active),
            changes.get("notification_url", stored.url),
        )
        stored.events = tuple(changes.get("event_types", stored.events))
        return JSONResponse({"subscription": self._render(stored)})

    async def _delete_subscription(self, request: Request) -> Response:
        deleted = self.subscriptions.pop(request.path_params["id"], None)
        return JSONResponse({}) if deleted else self._not_found()

    def _not_found(self) -> Response:
        return self.error(404, "Resource not found.")

    def _render(self, stored: StoredSubscription, *, with_key: bool = False) -> dict[str, Any]:
        created_at = stored.created_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S +0000 UTC")
        return {
            "id": stored.id,
            "name": stored.attributes.get("name", ""),
            "enabled": stored.is_active,
            "event_types": list(stored.events),
            "notification_url": stored.url,
            "api_version": "2025-07-16",
            "created_at": created_at,
            "updated_at": created_at,
            **({"signature_key": stored.secret} if with_key else {}),
        }

    def _page(self, request: Request, name: str, items: list[dict[str, Any]]) -> Response:
        size = min(int(request.query_params.get("limit", 100)), self.faults.page_size)
        start = int(request.query_params.get("cursor", 0))
        more = {"cursor": str(start + size)} if start + size < len(items) else {}
        return JSONResponse({name: items[start : start + size], **more})

    # -- bookings and customers --

    async def _list_bookings(self, request: Request) -> Response:
        query = request.query_params
        since = datetime.fromisoformat(query.get("start_at_min") or _time(datetime.now(UTC)))
        until = datetime.fromisoformat(query.get("start_at_max") or _time(since + LONGEST_PERIOD))
        if until - since > LONGEST_PERIOD:
            return self.error(400, "The requested time range is longer than 31 days.")
        appointments = self.calendar.between(since, until)
        return self._page(request, "bookings", [self._booking(appointment) for appointment in appointments])

    async def _get_booking(self, request: Request) -> Response:
        appointment = self._appointment(request.path_params["id"], "booking")
        return JSONResponse({"booking": self._booking(appointment)}) if appointment else self._not_found()

    async def _get_customer(self, request: Request) -> Response:
        appointment = self._appointment(request.path_params["id"], "CUSTOMER")
        return JSONResponse({"customer": _customer(appointment)}) if appointment else self._not_found()

    async def _get_customers(self, request: Request) -> Response:
        ids = json.loads(await request.body()).get("customer_ids", [])
        if not 1 <= len(ids) <= 100:
            return self.error(400, "customer_ids has 1 to 100 ids")
        missing = {"errors": [{"category": "INVALID_REQUEST_ERROR", "code": "NOT_FOUND"}]}
        customers = {id: self._appointment(id, "CUSTOMER") for id in ids}
        responses = {id: {"customer": _customer(each)} if each else missing for id, each in customers.items()}
        return JSONResponse({"responses": responses})

    def _appointment(self, id: str, prefix: str) -> Appointment | None:
        number = id.removeprefix(prefix)
        return self.calendar.appointments.get(int(number)) if number.isdecimal() else None

    def _booking(self, appointment: Appointment) -> dict[str, Any]:
        return {
            "id": f"booking{appointment.number}",
            "version": self._versions[appointment.number],
            "status": _status(appointment),
            "created_at": _time(appointment.created_at),
            "updated_at": _time(appointment.updated_at),
            "start_at": _time(appointment.starts_at),
            "location_id": LOCATION,
            "customer_id": f"CUSTOMER{appointment.number}",
            "appointment_segments": [
                {
                    "duration_minutes": appointment.minutes,
                    "service_variation_id": "HAIRCUT",
                    "team_member_id": "TEAM1",
                    "service_variation_version": 1,
                }
            ],
            "all_day": False,
            "location_type": "BUSINESS_LOCATION",
        }

    # -- webhooks --

    def webhooks(self, appointment: Appointment, step: Step) -> list[Webhook]:
        if step not in ("booked", "moved", "cancelled", "missed"):
            return []
        version = self._versions[appointment.number] = self._versions.get(appointment.number, -1) + 1
        event = "booking.created" if step == "booked" else "booking.updated"
        booking = self._booking(appointment)
        body = {
            "merchant_id": MERCHANT,
            "type": event,
            "event_id": secrets.token_hex(16),
            "created_at": _time(appointment.updated_at),
            "data": {"type": "booking", "id": f"{booking['id']}:{version}", "object": {"booking": booking}},
        }
        return [Webhook(event, json.dumps(body).encode(), {})]

    def sign(self, webhook: Webhook, subscription: StoredSubscription) -> Mapping[str, str]:
        digest = hmac.digest(subscription.secret.encode(), subscription.url.encode() + webhook.body, hashlib.sha256)
        return {"content-type": JSON, "x-square-hmacsha256-signature": base64.b64encode(digest).decode()}


def _status(appointment: Appointment) -> str:
    if appointment.is_cancelled:
        return "CANCELLED_BY_CUSTOMER"
    return "NO_SHOW" if appointment.missed_at else "ACCEPTED"


def _customer(appointment: Appointment) -> dict[str, Any]:
    return {
        "id": f"CUSTOMER{appointment.number}",
        "given_name": appointment.first_name,
        "family_name": appointment.last_name,
        "email_address": appointment.email,
        "phone_number": appointment.phone,
        "preferences": {"email_unsubscribed": False},
        "version": 0,
    }


def _time(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


VENDOR = Square
