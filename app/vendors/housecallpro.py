"""Housecall Pro's API, as its OpenAPI file describes it, for a registered application: its webhooks have a fixed URL."""

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.vendors.calendar import Appointment, Step
from app.vendors.vendor import JSON, Endpoint, StoredSubscription, Vendor, Webhook

SECRET, COMPANY = "signing-secret-of-the-application", "3f0c8f4e-5b7a-4f2e-9a51-0d8f6c1b2a3d"
EVENTS = (
    *(
        f"job.{name}"
        for name in (
            *("created", "scheduled", "updated", "on_my_way", "started", "completed", "paid", "canceled", "deleted"),
            *(f"appointment.{name}" for name in ("scheduled", "rescheduled", "appointment_discarded")),
        )
    ),
    *(f"invoice.{name}" for name in ("paid", "updated", "amount_updated", "payment.succeeded", "refund.succeeded")),
    *("invoice.voided", "invoice.canceled"),
)
TOTAL = Decimal(150)
Row = dict[str, Any]


class HousecallPro(Vendor):
    name = "housecallpro"
    oauth_settings: Mapping[str, Any] | None = {"webhook_secret": SECRET}
    secret_on_a_page = SECRET
    disables_after = 0

    def endpoints(self) -> Mapping[str, Endpoint]:
        return {
            "GET /company": self._company,
            "POST /webhooks/subscription": self._subscribe,
            "DELETE /webhooks/subscription": self._unsubscribe,
            "GET /jobs": self._list_jobs,
            "GET /jobs/{id}": self._get_job,
            "GET /invoices": self._list_invoices,
        }

    def is_authorized(self, request: Request) -> bool:
        return request.headers.get("authorization") == f"Token {self.credentials['TOKEN']}"

    def error(self, status: int, text: str) -> Response:
        return JSONResponse({"error": text}, status)

    async def _company(self, _: Request) -> Response:
        return JSONResponse({"id": COMPANY, "name": "Ada's Plumbing", "time_zone": "America/New_York", "locations": []})

    # -- webhooks: on or off for the company; their URL and events belong to the application --

    async def _subscribe(self, request: Request) -> Response:
        json.loads(await request.body())
        if self.faults.forbidden:
            return self.error(403, "Forbidden")
        if not self._own_subscriptions():
            stored = StoredSubscription("company", self.registered_url, EVENTS, SECRET, self.calendar.now())
            self.subscriptions[stored.id] = stored
        return Response()

    async def _unsubscribe(self, _: Request) -> Response:
        for stored in self._own_subscriptions():
            del self.subscriptions[stored.id]
        return Response()

    def _own_subscriptions(self) -> list[StoredSubscription]:
        return [each for each in self.subscriptions.values() if each.url == self.registered_url]

    # -- jobs and invoices --

    async def _list_jobs(self, request: Request) -> Response:
        jobs = [_job(each) for each in self.calendar.appointments.values()]
        for name, value in request.query_params.items():
            if name == "scheduled_start_min":
                jobs = [job for job in jobs if job["schedule"]["scheduled_start"] >= value]
            if name == "scheduled_start_max":
                jobs = [job for job in jobs if job["schedule"]["scheduled_start"] <= value]
        return self._page(
            request, "jobs", jobs, lambda job: str(job[request.query_params.get("sort_by", "created_at")])
        )

    async def _get_job(self, request: Request) -> Response:
        jobs = (_job(each) for each in self.calendar.appointments.values())
        job = next((job for job in jobs if job["id"] == request.path_params["id"]), None)
        return JSONResponse(job) if job else self.error(404, "Not found")

    async def _list_invoices(self, request: Request) -> Response:
        query = request.query_params
        if "status" in query:
            return self.error(422, "status must be an array")
        since = query.get("paid_at_min", "")
        invoices = [_invoice(each) for each in self.calendar.appointments.values() if each.paid]
        invoices = [each for each in invoices if each["paid_at"] >= since]
        return self._page(request, "invoices", invoices, lambda invoice: str(invoice["paid_at"]))

    def _page(self, request: Request, name: str, rows: list[Row], order: Callable[[Row], str]) -> Response:
        query = request.query_params
        rows = sorted(rows, key=order, reverse=query.get("sort_direction", "desc") == "desc")
        page, size = int(query.get("page", 1)), min(int(query.get("page_size", 10)), self.faults.page_size)
        shown = rows[(page - 1) * size : page * size]
        pages = {"page": page, "page_size": size, "total_pages": -(-len(rows) // size), "total_items": len(rows)}
        return JSONResponse({**pages, name: shown})

    # -- webhooks --

    def webhooks(self, appointment: Appointment, step: Step) -> list[Webhook]:
        names = {
            "booked": "job.scheduled",
            "moved": "job.updated",
            "completed": "job.completed",
            "cancelled": "job.canceled",
        }
        if step == "paid":
            return [
                self._webhook("job.paid", appointment, {"job": _job(appointment)}),
                self._webhook("invoice.paid", appointment, {"invoice": _invoice(appointment)}),
            ]
        return [self._webhook(names[step], appointment, {"job": _job(appointment)})] if step in names else []

    def _webhook(self, event: str, appointment: Appointment, record: Row) -> Webhook:
        body = {"event": event, "event_occurred_at": _time(appointment.updated_at), "company_id": COMPANY, **record}
        return Webhook(event, json.dumps(body).encode(), {})

    def sign(self, webhook: Webhook, subscription: StoredSubscription) -> Mapping[str, str]:
        sent_at = str(int(time.time()))
        signature = hmac.new(SECRET.encode(), f"{sent_at}.".encode() + webhook.body, hashlib.sha256).hexdigest()
        return {"content-type": JSON, "api-signature": signature, "api-timestamp": sent_at}


def _job(appointment: Appointment) -> Row:
    status = "complete unrated" if appointment.completed_at else "scheduled"
    return {
        "id": f"job_{appointment.number}",
        "invoice_number": str(appointment.number),
        "description": "Repair",
        "customer": {
            "id": f"cus_{appointment.number}",
            "first_name": appointment.first_name,
            "last_name": appointment.last_name,
            "email": appointment.email,
            "mobile_number": appointment.phone,
            "home_number": None,
            "work_number": None,
            "notifications_enabled": True,
        },
        "work_status": "pro canceled" if appointment.is_cancelled else status,
        "work_timestamps": {
            "on_my_way_at": None,
            "started_at": None,
            "completed_at": _time(appointment.completed_at) if appointment.completed_at else None,
        },
        "schedule": {
            "scheduled_start": _time(appointment.starts_at),
            "scheduled_end": _time(appointment.ends_at),
            "arrival_window": 0,
        },
        "total_amount": int(TOTAL * 100),
        "outstanding_balance": int((TOTAL - appointment.paid) * 100),
        "created_at": _time(appointment.created_at),
        "updated_at": _time(appointment.updated_at),
        "canceled_at": _time(appointment.cancelled_at) if appointment.cancelled_at else None,
        "deleted_at": None,
        "company_id": COMPANY,
    }


def _invoice(appointment: Appointment) -> Row:
    cents, paid_at = int(appointment.paid * 100), _time(appointment.updated_at)
    payment = {"id": f"pay_{appointment.number}", "status": "succeeded", "amount": cents, "paid_at": paid_at}
    return {
        "id": f"inv_{appointment.number}",
        "status": "paid",
        "amount": int(TOTAL * 100),
        "due_amount": int(TOTAL * 100) - cents,
        "paid_at": paid_at,
        "payments": [payment],
        "job_id": f"job_{appointment.number}",
    }


def _time(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


VENDOR = HousecallPro
