"""ServiceM8's API, as https://developer.servicem8.com describes it.

The endpoints for webhooks are next to `api_1.0`, not below it.
"""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl
from uuid import NAMESPACE_URL, uuid4, uuid5
from zoneinfo import ZoneInfo

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.vendors.calendar import Appointment, Step
from app.vendors.vendor import JSON, Endpoint, StoredSubscription, Vendor, Webhook

ZONE, NEVER = ZoneInfo("America/New_York"), "0000-00-00 00:00:00"
KEY = "smk-key-of-the-account"


class ServiceM8(Vendor):
    name = "servicem8"
    oauth_settings: Mapping[str, Any] | None = {
        "scopes": ("vendor", "read_jobs", "read_schedule", "read_job_contacts"),
        "expires_in": 3_600,
    }
    api_path = "/api_1.0"
    credentials: Mapping[str, str] = {"TOKEN": KEY}

    def __init__(self) -> None:
        super().__init__()
        #: By table and number: when the record was last changed.
        self._edited_at: dict[tuple[str, int], datetime] = {}

    def endpoints(self) -> Mapping[str, Endpoint]:
        return {
            "GET /api_1.0/vendor.json": self._vendor,
            "GET /webhook_subscriptions": self._list_subscriptions,
            "POST /webhook_subscriptions/event": self._save_subscription,
            "DELETE /webhook_subscriptions": self._delete_by_unique_id,
            "DELETE /webhook_subscriptions/{id}": self._delete_subscription,
            "GET /api_1.0/job/{file}": self._get_job,
            "GET /api_1.0/{file}": self._list_records,
        }

    def is_authorized(self, request: Request) -> bool:
        return request.headers.get("x-api-key") == KEY

    def error(self, status: int, text: str) -> Response:
        return JSONResponse({"errorCode": status, "message": text}, status)

    async def _vendor(self, _: Request) -> Response:
        account = {"uuid": _uuid("vendor", 1), "name": "Ada's Plumbing", "timezone_name": str(ZONE), "active": 1}
        return JSONResponse([account])

    # -- subscriptions: each has one event; a POST with the same event and unique_id changes it in place --

    async def _save_subscription(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode()))
        event, url, unique_id = (form.get(name, "") for name in ("event", "callback_url", "unique_id"))
        if self.faults.forbidden:
            return self.error(403, "You are not permitted to manage webhooks")
        if not event or not url or not unique_id:
            return self.error(400, "event, callback_url and unique_id are required")
        stored = self._find(event, unique_id) or self.subscribe(url, (event,), "", unique_id=unique_id)
        stored.url, stored.is_active, stored.failing_since = url, True, None
        return JSONResponse({"success": True})

    async def _list_subscriptions(self, request: Request) -> Response:
        shown = {"active": (True,), "inactive": (False,), "all": (True, False)}
        states = shown[request.query_params.get("status", "active")]
        return JSONResponse([self._render(each) for each in self.subscriptions.values() if each.is_active in states])

    async def _delete_by_unique_id(self, request: Request) -> Response:
        query = request.query_params
        return self._delete(self._find(query.get("event", ""), query.get("unique_id", "")))

    async def _delete_subscription(self, request: Request) -> Response:
        return self._delete(self.subscriptions.get(request.path_params["id"]))

    def _delete(self, stored: StoredSubscription | None) -> Response:
        if stored is None:
            return self.error(404, "No matching webhook found")
        del self.subscriptions[stored.id]
        return JSONResponse({"success": True})

    def _find(self, event: str, unique_id: str) -> StoredSubscription | None:
        same = (each for each in self.subscriptions.values() if event in each.events and _unique_id(each) == unique_id)
        return next(same, None)

    def _render(self, stored: StoredSubscription) -> dict[str, Any]:
        rendered = {
            "uuid": stored.id,
            "type": "event",
            "event": stored.events[0],
            "callback_url": stored.url,
            "unique_id": _unique_id(stored),
            "active": stored.is_active,
        }
        failure = {
            "last_failure_reason": "Webhook request failed for over 12 hours",
            "last_failure_at": _local(stored.failing_since),
        }
        return rendered if stored.is_active else rendered | failure

    def new_subscription_id(self) -> str:
        return str(uuid4())

    # -- records --

    async def _get_job(self, request: Request) -> Response:
        uuid = request.path_params["file"].removesuffix(".json")
        jobs = (self._job(each) for each in self.calendar.appointments.values())
        job = next((job for job in jobs if job["uuid"] == uuid), None)
        return JSONResponse(job) if job else self.error(404, "Record not found")

    async def _list_records(self, request: Request) -> Response:
        tables = {
            "job": self._job,
            "jobactivity": self._jobactivity,
            "jobcontact": self._jobcontact,
            "jobpayment": self._jobpayment,
            "companycontact": self._companycontact,
        }
        query, table = request.query_params, tables.get(request.path_params["file"].removesuffix(".json"))
        if table is None:
            return self.error(404, "there is no such object")
        conditions = re.findall(r"(\w+) (eq|gt|lt) '([^']*)'", query.get("$filter", ""))
        records = [
            record
            for appointment in self.calendar.appointments.values()
            if (record := table(appointment))
            and all(
                _meets_condition(str(record.get(name, "")), operator, value) for name, operator, value in conditions
            )
        ]
        if "cursor" not in query:
            return JSONResponse(records)
        start, size = 0 if query["cursor"] == "-1" else int(query["cursor"]), self.faults.page_size
        headers = {"x-next-cursor": str(start + size)} if start + size < len(records) else {}
        return JSONResponse(records[start : start + size], headers=headers)

    def _job(self, appointment: Appointment) -> dict[str, Any]:
        status = "Completed" if appointment.completed_at else "Work Order"
        return {
            "uuid": _uuid("job", appointment.number),
            "active": 1,
            "status": "Unsuccessful" if appointment.is_cancelled else status,
            "company_uuid": _uuid("company", appointment.number),
            "generated_job_id": str(appointment.number),
            "job_address": "1 Main Street",
            "completion_date": _local(appointment.completed_at),
            "unsuccessful_date": _local(appointment.cancelled_at),
            "edit_date": self._edit_date("job", appointment),
        }

    def _jobactivity(self, appointment: Appointment) -> dict[str, Any]:
        return self._child("jobactivity", appointment) | {
            "start_date": _local(appointment.starts_at),
            "end_date": _local(appointment.ends_at),
            "activity_was_scheduled": 1,
            "activity_was_recorded": 0,
        }

    def _jobcontact(self, appointment: Appointment) -> dict[str, Any]:
        return self._child("jobcontact", appointment) | {"type": "JOB", **_person(appointment)}

    def _companycontact(self, appointment: Appointment) -> dict[str, Any]:
        company = {"company_uuid": _uuid("company", appointment.number), "is_primary_contact": "1"}
        return {"uuid": _uuid("companycontact", appointment.number), "active": 1, **company, **_person(appointment)}

    def _jobpayment(self, appointment: Appointment) -> dict[str, Any] | None:
        if not appointment.paid:
            return None
        return self._child("jobpayment", appointment) | {"amount": f"{appointment.paid:.2f}", "method": "Cash"}

    def _child(self, table: str, appointment: Appointment) -> dict[str, Any]:
        return {
            "uuid": _uuid(table, appointment.number),
            "active": 1,
            "job_uuid": _uuid("job", appointment.number),
            "edit_date": self._edit_date(table, appointment),
        }

    def _edit_date(self, table: str, appointment: Appointment) -> str:
        return _local(self._edited_at.get((table, appointment.number), appointment.created_at))

    # -- webhooks --

    def webhooks(self, appointment: Appointment, step: Step) -> list[Webhook]:
        table = {"moved": "jobactivity", "paid": "jobpayment"}.get(step, "job")
        self._edited_at[table, appointment.number] = appointment.updated_at
        events = {
            "booked": ["job.created"],
            "moved": ["job.updated"],
            "cancelled": ["job.updated", "job.status_changed"],
            "completed": ["job.status_changed", "job.completed"],
            "paid": ["job.invoice_paid"],
        }
        return [self._webhook(event, appointment) for event in events.get(step, [])]

    def _webhook(self, event: str, appointment: Appointment) -> Webhook:
        uuid = _uuid("job", appointment.number)
        body = {
            "object": "job",
            "entry": [{"uuid": uuid, "changed_fields": ["status"], "time": _local(appointment.updated_at)}],
            "resource_url": f"https://api.servicem8.com/api_1.0/job/{uuid}.json",
        }
        return Webhook(event, json.dumps(body).encode(), {})

    def sign(self, webhook: Webhook, subscription: StoredSubscription) -> Mapping[str, str]:
        return {"content-type": JSON}  # ServiceM8 signs nothing


def _uuid(table: str, number: int) -> str:
    return str(uuid5(NAMESPACE_URL, f"servicem8 {table} {number}"))


def _unique_id(stored: StoredSubscription) -> str:
    return str(stored.attributes.get("unique_id", stored.id))


def _local(time: datetime | None) -> str:
    return time.astimezone(ZONE).strftime("%Y-%m-%d %H:%M:%S") if time else NEVER


def _meets_condition(value: str, operator: str, other: str) -> bool:
    return {"eq": value == other, "gt": value > other, "lt": value < other}[operator]


def _person(appointment: Appointment) -> dict[str, str]:
    return {
        "first": appointment.first_name,
        "last": appointment.last_name,
        "email": appointment.email,
        "mobile": appointment.phone,
        "phone": "",
    }


VENDOR = ServiceM8
