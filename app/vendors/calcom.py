"""Cal.com's API v2, as https://cal.com/docs/api-reference/v2 and its code describe it."""

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.vendors.calendar import Appointment, Step
from app.vendors.vendor import JSON, Endpoint, StoredSubscription, Vendor, Webhook

USER_ID, OWNER = 7, "owner@example.com"
TRIGGERS = {
    "BOOKING_CREATED",
    "BOOKING_PAYMENT_INITIATED",
    "BOOKING_PAID",
    "BOOKING_RESCHEDULED",
    "BOOKING_REQUESTED",
    "BOOKING_CANCELLED",
    "BOOKING_REJECTED",
    "BOOKING_NO_SHOW_UPDATED",
    "FORM_SUBMITTED",
    "MEETING_ENDED",
    "MEETING_STARTED",
}
ERRORS = {
    400: "BadRequestException",
    401: "UnauthorizedException",
    403: "ForbiddenException",
    404: "NotFoundException",
    409: "ConflictException",
}


class Calcom(Vendor):
    name = "calcom"
    oauth_settings: Mapping[str, Any] | None = {
        "scopes": ("PROFILE_READ", "BOOKING_READ", "WEBHOOK_READ", "WEBHOOK_WRITE"),
        "expires_in": 1_800,
    }
    api_path = "/v2"
    credentials: Mapping[str, str] = {"TOKEN": "cal_live_token-of-the-account"}
    disables_after = 0

    def __init__(self) -> None:
        super().__init__()
        #: By number and move: the start of this version of the appointment, and when it was booked.
        self._versions: dict[tuple[int, int], tuple[datetime, datetime]] = {}

    def endpoints(self) -> Mapping[str, Endpoint]:
        return {
            "GET /v2/me": self._me,
            "GET /v2/webhooks": self._list_webhooks,
            "POST /v2/webhooks": self._create_webhook,
            "GET /v2/webhooks/{id}": self._get_webhook,
            "PATCH /v2/webhooks/{id}": self._update_webhook,
            "DELETE /v2/webhooks/{id}": self._delete_webhook,
            "GET /v2/bookings": self._list_bookings,
            "GET /v2/bookings/{uid}": self._get_booking,
        }

    def error(self, status: int, text: str) -> Response:
        error = {"code": ERRORS.get(status, "Error"), "message": text}
        return JSONResponse({"status": "error", "timestamp": _iso(datetime.now(UTC)), "error": error}, status)

    async def _me(self, _: Request) -> Response:
        return _data({"id": USER_ID, "username": "ada", "name": "Ada's Salon", "email": OWNER, "timeZone": "UTC"})

    # -- webhooks of the user --

    async def _create_webhook(self, request: Request) -> Response:
        body = json.loads(await request.body())
        if self.faults.forbidden:
            text = "insufficient_scope: token does not have the required scopes. Required: WEBHOOK_WRITE."
            return self.error(403, text)
        if problem := _problem(body, required=("active", "subscriberUrl", "triggers")):
            return self.error(400, problem)
        if any(stored.url == body["subscriberUrl"] for stored in self.subscriptions.values()):
            return self.error(409, "Webhook with this subscriber url already exists for this user")
        stored = self.subscribe(body["subscriberUrl"], tuple(body["triggers"]), body.get("secret") or "")
        stored.is_active = body["active"]
        return _data(self._render(stored), 201)

    async def _list_webhooks(self, request: Request) -> Response:
        take, skip = int(request.query_params.get("take", 250)), int(request.query_params.get("skip", 0))
        webhooks = [self._render(stored) for stored in self.subscriptions.values()]
        return _data(webhooks[skip : skip + min(take, self.faults.page_size)])

    async def _get_webhook(self, request: Request) -> Response:
        stored = self.subscriptions.get(request.path_params["id"])
        return _data(self._render(stored)) if stored else self._not_found(request)

    async def _update_webhook(self, request: Request) -> Response:
        stored, body = self.subscriptions.get(request.path_params["id"]), json.loads(await request.body())
        if stored is None:
            return self._not_found(request)
        if problem := _problem(body):
            return self.error(400, problem)
        stored.is_active = body.get("active", stored.is_active)
        stored.url, stored.secret = body.get("subscriberUrl", stored.url), body.get("secret", stored.secret)
        stored.events = tuple(body.get("triggers", stored.events))
        return _data(self._render(stored))

    async def _delete_webhook(self, request: Request) -> Response:
        stored = self.subscriptions.pop(request.path_params["id"], None)
        return _data(self._render(stored)) if stored else self._not_found(request)

    def _not_found(self, request: Request) -> Response:
        return self.error(404, f"Webhook ({request.path_params['id']}) not found")

    def _render(self, stored: StoredSubscription) -> dict[str, Any]:
        return {
            "id": stored.id,
            "userId": USER_ID,
            "payloadTemplate": stored.attributes.get("template"),
            "triggers": list(stored.events),
            "subscriberUrl": stored.url,
            "active": stored.is_active,
            "secret": stored.secret,
        }

    # -- bookings: each move creates a booking with a new uid, and cancels the old one --

    async def _list_bookings(self, request: Request) -> Response:
        query = request.query_params
        if request.headers.get("cal-api-version") != "2024-08-13":
            return self.error(400, "this fake only has version 2024-08-13")
        bookings = [self._booking(*version) for version in self._versions]
        limits: Iterable[tuple[str, str, bool]] = (
            ("afterStart", "start", True),
            ("beforeEnd", "end", False),
            ("afterCreatedAt", "createdAt", True),
            ("beforeCreatedAt", "createdAt", False),
            ("afterUpdatedAt", "updatedAt", True),
            ("beforeUpdatedAt", "updatedAt", False),
        )
        for name, field, is_minimum in limits:
            if limit := query.get(name):
                bookings = [b for b in bookings if (b[field] >= limit if is_minimum else b[field] <= limit)]
        if statuses := [status for status in query.get("status", "").split(",") if status]:
            bookings = [booking for booking in bookings if _class(booking) in statuses]
        orders = {"sortStart": "start", "sortEnd": "end", "sortCreated": "createdAt", "sortUpdatedAt": "updatedAt"}
        for name, field in orders.items():
            if order := query.get(name):
                bookings.sort(key=lambda booking: booking[field], reverse=order == "desc")
        return self._page(request, bookings)

    def _page(self, request: Request, bookings: list[dict[str, Any]]) -> Response:
        take, skip = int(request.query_params.get("take", 100)), int(request.query_params.get("skip", 0))
        if not 1 <= take <= 250:
            return self.error(400, "take must not be greater than 250")
        page = bookings[skip : skip + min(take, self.faults.page_size)]
        remaining = max(len(bookings) - skip - len(page), 0)
        pagination = {
            "totalItems": len(bookings),
            "remainingItems": remaining,
            "returnedItems": len(page),
            "itemsPerPage": take,
            "hasNextPage": remaining > 0,
            "hasPreviousPage": skip > 0,
        }
        return JSONResponse({"status": "success", "data": page, "pagination": pagination})

    async def _get_booking(self, request: Request) -> Response:
        uid = request.path_params["uid"]
        version = next((each for each in self._versions if _uid(*each) == uid), None)
        return _data(self._booking(*version)) if version else self.error(404, f"Booking with uid {uid} was not found")

    def _booking(self, number: int, move: int) -> dict[str, Any]:
        appointment = self.calendar.appointments[number]
        starts_at, booked_at = self._versions[number, move]
        is_current = move == appointment.moves
        is_cancelled = not is_current or appointment.is_cancelled
        updated_at = appointment.updated_at if is_current else self._versions[number, move + 1][1]
        booking = {
            "id": number * 100 + move,
            "uid": _uid(number, move),
            "title": "Haircut",
            "status": "cancelled" if is_cancelled else "accepted",
            "hosts": [{"id": USER_ID, "name": "Ada's Salon", "email": OWNER, "timeZone": "UTC"}],
            "start": _iso(starts_at),
            "end": _iso(starts_at + (appointment.ends_at - appointment.starts_at)),
            "duration": appointment.minutes,
            "eventTypeId": 50,
            "eventType": {"id": 50, "slug": "haircut"},
            "absentHost": False,
            "createdAt": _iso(booked_at),
            "updatedAt": _iso(updated_at),
            "metadata": {},
            "icsUid": f"{_uid(number, 0)}@Cal.com",
            "attendees": [
                {
                    "name": _name(appointment),
                    "email": appointment.email,
                    "timeZone": "Europe/London",
                    "language": "en",
                    "absent": is_current and appointment.missed_at is not None,
                    "phoneNumber": appointment.phone,
                }
            ],
            "guests": [],
            "bookingFieldsResponses": {"email": appointment.email, "name": _name(appointment)},
        }
        if move:
            booking["rescheduledFromUid"] = _uid(number, move - 1)
            booking["bookingFieldsResponses"]["rescheduleReason"] = "another day"  # type: ignore[index]
        if not is_current:
            booking["rescheduledToUid"] = _uid(number, move + 1)
        return booking

    # -- webhooks --

    def webhooks(self, appointment: Appointment, step: Step) -> list[Webhook]:
        version = appointment.number, appointment.moves
        self._versions.setdefault(version, (appointment.starts_at, appointment.updated_at))
        match step:
            case "booked":
                return [self._webhook("BOOKING_CREATED", appointment)]
            case "moved":
                old = appointment.number, appointment.moves - 1
                return [
                    self._webhook(
                        "BOOKING_RESCHEDULED",
                        appointment,
                        rescheduleUid=_uid(*old),
                        rescheduleStartTime=_iso(self._versions[old][0]),
                    )
                ]
            case "cancelled":
                return [self._webhook("BOOKING_CANCELLED", appointment, status="CANCELLED")]
            case "missed":
                marks = [{"email": appointment.email, "noShow": True}]
                payload = {"bookingUid": _uid(*version), "attendees": marks}
                return [self._wrap("BOOKING_NO_SHOW_UPDATED", appointment, payload)]
            case "completed":
                return [self._meeting_ended(appointment)]
        return []

    def _webhook(self, trigger: str, appointment: Appointment, **fields: Any) -> Webhook:
        attendee = {
            "name": _name(appointment),
            "email": appointment.email,
            "timeZone": "Europe/London",
            "phoneNumber": appointment.phone,
        }
        payload = {
            "type": "haircut",
            "title": "Haircut",
            "uid": _uid(appointment.number, appointment.moves),
            "bookingId": appointment.number * 100 + appointment.moves,
            "iCalUID": f"{_uid(appointment.number, 0)}@Cal.com",
            "iCalSequence": appointment.moves,
            "startTime": _iso(appointment.starts_at),
            "endTime": _iso(appointment.ends_at),
            "organizer": {"id": USER_ID, "name": "Ada's Salon", "email": OWNER},
            "attendees": [attendee],
            "responses": {"email": {"label": "email", "value": appointment.email}},
            "status": "ACCEPTED",
            **fields,
        }
        return self._wrap(trigger, appointment, payload)

    def _wrap(self, trigger: str, appointment: Appointment, payload: Mapping[str, Any]) -> Webhook:
        body = {"triggerEvent": trigger, "createdAt": _iso(appointment.updated_at), "payload": payload}
        return Webhook(trigger, json.dumps(body).encode(), {})

    def _meeting_ended(self, appointment: Appointment) -> Webhook:
        """Return the booking as it was saved when it was made, without `payload` around it."""
        body = {
            "triggerEvent": "MEETING_ENDED",
            "id": appointment.number * 100 + appointment.moves,
            "uid": _uid(appointment.number, appointment.moves),
            "startTime": _iso(appointment.starts_at),
            "endTime": _iso(appointment.ends_at),
            "createdAt": _iso(self._versions[appointment.number, appointment.moves][1]),
            "attendees": [{"name": _name(appointment), "email": appointment.email, "noShow": False}],
            "status": "ACCEPTED",
            "paid": False,
        }
        return Webhook("MEETING_ENDED", json.dumps(body).encode(), {})

    def sign(self, webhook: Webhook, subscription: StoredSubscription) -> Mapping[str, str]:
        signature = hmac.new(subscription.secret.encode(), webhook.body, hashlib.sha256).hexdigest()
        return {"content-type": JSON, "x-cal-signature-256": signature if subscription.secret else "no-secret-provided"}


def _problem(body: Mapping[str, Any], required: Iterable[str] = ()) -> str:
    missing = [name for name in required if name not in body]
    unknown = [trigger for trigger in body.get("triggers", ()) if trigger not in TRIGGERS]
    if missing or unknown:
        return f"{', '.join(missing + unknown)} is wrong"
    is_allowed = body.get("subscriberUrl", "https://").startswith(("https://", "http://127.0.0.1"))
    return "" if is_allowed else "Webhook URL is not allowed: only HTTPS"


def _class(booking: Mapping[str, Any]) -> str:
    if booking["status"] in ("cancelled", "rejected"):
        return "cancelled"
    return "past" if booking["end"] <= _iso(datetime.now(UTC)) else "upcoming"


def _data(data: Any, status: int = 200) -> Response:
    return JSONResponse({"status": "success", "data": data}, status)


def _uid(number: int, move: int) -> str:
    return f"booking{number}move{move}"


def _name(appointment: Appointment) -> str:
    return f"{appointment.first_name} {appointment.last_name}"


def _iso(time: datetime) -> str:
    """Return a time in UTC with milliseconds, as JavaScript writes it."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


VENDOR = Calcom
