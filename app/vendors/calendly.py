"""Calendly's API v2, as https://developer.calendly.com/api-docs describes it."""

import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.vendors.calendar import Appointment, Step
from app.vendors.vendor import JSON, Endpoint, StoredSubscription, Vendor, Webhook, iso

API = "https://api.calendly.com"
ORGANIZATION, USER = f"{API}/organizations/ORG1", f"{API}/users/USER1"


class Calendly(Vendor):
    name = "calendly"
    oauth_settings: Mapping[str, Any] | None = {
        "client_auth": "basic",
        "needs_pkce": True,
        "scopes": ("users:read", "organizations:read", "scheduled_events:read", "webhooks:write"),
        "webhook_secret": "webhook-signing-key-of-the-app-000",
    }

    def endpoints(self) -> Mapping[str, Endpoint]:
        return {
            "GET /users/me": self._me,
            "GET /webhook_subscriptions": self._list_subscriptions,
            "POST /webhook_subscriptions": self._create_subscription,
            "GET /webhook_subscriptions/{id}": self._get_subscription,
            "DELETE /webhook_subscriptions/{id}": self._delete_subscription,
            "GET /scheduled_events": self._list_events,
            "GET /scheduled_events/{id}/invitees": self._list_invitees,
        }

    def error(self, status: int, text: str) -> Response:
        titles = {401: "Unauthenticated", 403: "Permission Denied", 404: "Resource Not Found", 409: "Already Exists"}
        return JSONResponse({"title": titles.get(status, "Invalid Argument"), "message": text}, status)

    async def _me(self, _: Request) -> Response:
        user = {"uri": USER, "name": "Ada's Salon", "email": "owner@example.com", "current_organization": ORGANIZATION}
        return JSONResponse({"resource": user})

    # -- subscriptions --

    async def _create_subscription(self, request: Request) -> Response:
        body = json.loads(await request.body())
        if self.faults.forbidden:
            return self.error(403, "Please upgrade your Calendly account to Standard")
        missing = [name for name in ("url", "events", "organization", "scope") if not body.get(name)]
        if missing or body["organization"] != ORGANIZATION or body["scope"] not in ("user", "organization"):
            return self.error(400, "The supplied parameters are invalid.")
        if any(stored.url == body["url"] for stored in self.subscriptions.values()):
            return self.error(409, "Hook with this url already exists")
        secret = self.signing_secret(request, body.get("signing_key", ""))
        stored = self.subscribe(body["url"], tuple(body["events"]), secret, scope=body["scope"])
        return JSONResponse({"resource": self._render(stored)}, 201)

    async def _list_subscriptions(self, request: Request) -> Response:
        if request.query_params.get("organization") != ORGANIZATION or not request.query_params.get("scope"):
            return self.error(400, "The supplied parameters are invalid.")
        return self._page(request, [self._render(stored) for stored in self.subscriptions.values()])

    async def _get_subscription(self, request: Request) -> Response:
        stored = self.subscriptions.get(request.path_params["id"])
        return JSONResponse({"resource": self._render(stored)}) if stored else self._not_found()

    async def _delete_subscription(self, request: Request) -> Response:
        return (
            Response(status_code=204) if self.subscriptions.pop(request.path_params["id"], None) else self._not_found()
        )

    def _not_found(self) -> Response:
        return self.error(404, "The server could not find the requested resource.")

    def _render(self, stored: StoredSubscription) -> dict[str, Any]:
        return {
            "uri": f"{API}/webhook_subscriptions/{stored.id}",
            "callback_url": stored.url,
            "created_at": iso(stored.created_at),
            "updated_at": iso(stored.created_at),
            "retry_started_at": iso(stored.failing_since) if stored.failing_since else None,
            "state": "active" if stored.is_active else "disabled",
            "events": list(stored.events),
            "scope": stored.attributes.get("scope", "organization"),
            "organization": ORGANIZATION,
            "user": None,
            "creator": USER,
        }

    def _page(self, request: Request, items: list[dict[str, Any]]) -> Response:
        size = min(int(request.query_params.get("count", "20")), self.faults.page_size)
        start = int(request.query_params.get("page_token", "0"))
        next_token = str(start + size) if start + size < len(items) else None
        pagination = {"count": len(items[start : start + size]), "next_page_token": next_token}
        return JSONResponse({"collection": items[start : start + size], "pagination": pagination})

    # -- appointments: each move creates a new event with a new invitee, and cancels the old one --

    async def _list_events(self, request: Request) -> Response:
        query = request.query_params
        if query.get("organization") != ORGANIZATION:
            return self.error(403, "You do not have permission")
        since, until = query.get("min_start_time", ""), query.get("max_start_time", "9999")
        events = [
            self._event(each, move) for each in self.calendar.appointments.values() for move in range(each.moves + 1)
        ]
        events = [event for event in events if since <= event["start_time"] < until]
        return self._page(request, sorted(events, key=lambda event: event["start_time"]))

    async def _list_invitees(self, request: Request) -> Response:
        number, _, move = request.path_params["id"].removeprefix("EV").partition("M")
        appointment = self.calendar.appointments.get(int(number)) if number.isdigit() else None
        if appointment is None or int(move) > appointment.moves:
            return self._not_found()
        return self._page(request, [self._invitee(appointment, int(move))])

    def _event(self, appointment: Appointment, move: int) -> dict[str, Any]:
        starts_at = self._start_of(appointment, move)
        is_current = move == appointment.moves
        return {
            "uri": f"{API}/scheduled_events/EV{appointment.number}M{move}",
            "name": "Haircut",
            "status": "active" if is_current and not appointment.is_cancelled else "canceled",
            "start_time": starts_at,
            "end_time": starts_at,
            "created_at": iso(appointment.created_at),
            "updated_at": iso(appointment.updated_at),
            "location": {"type": "physical", "location": "1 Main Street"},
        }

    def _start_of(self, appointment: Appointment, move: int) -> str:
        """Return the start of a version of the appointment."""
        return self._versions[appointment.number, move][0]

    def __init__(self) -> None:
        super().__init__()
        #: By number and move: the start of this version of the appointment, and when it was booked.
        self._versions: dict[tuple[int, int], tuple[str, str]] = {}

    def _invitee(self, appointment: Appointment, move: int) -> dict[str, Any]:
        is_current = move == appointment.moves
        invitee: dict[str, Any] = {
            "uri": self._invitee_uri(appointment, move),
            "email": appointment.email,
            "first_name": appointment.first_name,
            "last_name": appointment.last_name,
            "name": f"{appointment.first_name} {appointment.last_name}",
            "status": "active" if is_current and not appointment.is_cancelled else "canceled",
            "timezone": "America/New_York",
            "text_reminder_number": appointment.phone,
            "questions_and_answers": [],
            "rescheduled": not is_current,
            "old_invitee": self._invitee_uri(appointment, move - 1) if move else None,
            "new_invitee": None if is_current else self._invitee_uri(appointment, move + 1),
            "cancel_url": "https://calendly.com/cancellations/AAA",
            "no_show": None,
            "payment": None,
            "created_at": self._versions[appointment.number, move][1],
            "updated_at": iso(appointment.updated_at),
        }
        if not is_current or appointment.cancelled_at:
            cancelled_at = appointment.cancelled_at if is_current else None
            invitee["cancellation"] = {
                "canceled_by": appointment.first_name,
                "reason": "",
                "canceler_type": "invitee",
                "created_at": iso(cancelled_at) if cancelled_at else self._versions[appointment.number, move + 1][1],
            }
        if is_current and appointment.missed_at:
            uri = f"{API}/invitee_no_shows/NS{appointment.number}"
            invitee["no_show"] = {"uri": uri, "created_at": iso(appointment.missed_at)}
        return invitee

    def _invitee_uri(self, appointment: Appointment, move: int) -> str:
        id = f"EV{appointment.number}M{move}"
        return f"{API}/scheduled_events/{id}/invitees/IN{appointment.number}M{move}"

    # -- webhooks --

    def webhooks(self, appointment: Appointment, step: Step) -> list[Webhook]:
        version = appointment.number, appointment.moves
        self._versions.setdefault(version, (iso(appointment.starts_at), iso(appointment.updated_at)))
        match step:
            case "booked":
                return [self._webhook("invitee.created", appointment, appointment.moves)]
            case "moved":
                return [
                    self._webhook("invitee.created", appointment, appointment.moves),
                    self._webhook("invitee.canceled", appointment, appointment.moves - 1),
                ]
            case "cancelled":
                return [self._webhook("invitee.canceled", appointment, appointment.moves)]
            case "missed":
                return [self._webhook("invitee_no_show.created", appointment, appointment.moves)]
        return []

    def _webhook(self, event: str, appointment: Appointment, move: int) -> Webhook:
        payload = self._invitee(appointment, move) | {"scheduled_event": self._event(appointment, move)}
        body = {"event": event, "created_at": iso(appointment.updated_at), "created_by": USER, "payload": payload}
        return Webhook(event, json.dumps(body).encode(), {})

    def sign(self, webhook: Webhook, subscription: StoredSubscription) -> Mapping[str, str]:
        timestamp = str(int(time.time()))
        signature = hmac.new(
            subscription.secret.encode(), timestamp.encode() + b"." + webhook.body, hashlib.sha256
        ).hexdigest()
        return {"content-type": JSON, "calendly-webhook-signature": f"t={timestamp},v1={signature}"}


VENDOR = Calendly
