"""Jobber's GraphQL API, as https://developer.getjobber.com and integrators describe it."""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.vendors.calendar import Appointment, Step
from app.vendors.vendor import JSON, Endpoint, StoredSubscription, Vendor, Webhook

SECRET = "client-secret-of-the-app"
TOPICS = {
    f"{record}_{change}" for record in ("VISIT", "INVOICE", "PAYMENT") for change in ("CREATE", "UPDATE", "DESTROY")
} | {"VISIT_COMPLETE", "JOB_CREATE", "JOB_UPDATE", "CLIENT_CREATE", "APP_DISCONNECT"}
HIDDEN = "An object of type WebhookEndpoint was hidden due to permissions"
Row = dict[str, Any]


class Jobber(Vendor):
    name = "jobber"
    oauth_settings: Mapping[str, Any] | None = {"client_secret": SECRET, "expires_in": 3_600}
    api_path = "/api/graphql"
    secret_on_a_page = SECRET
    disables_after = 0

    def endpoints(self) -> Mapping[str, Endpoint]:
        return {"POST /api/graphql": self._execute}

    def error(self, status: int, text: str) -> Response:
        return JSONResponse({"message": "Token not recognized" if status == 401 else text}, status)

    async def _execute(self, request: Request) -> Response:
        """Execute the operation of the first field in the query."""
        if not request.headers.get("x-jobber-graphql-version"):
            return self.error(400, "X-JOBBER-GRAPHQL-VERSION is required")
        body = json.loads(await request.body())
        variables = body.get("variables") or {}
        operation = re.sub(r"^\s*(query|mutation)?[^{]*\{\s*", "", body.get("query", ""))
        name = (re.match(r"\w+", operation) or [""])[0]
        operations: dict[str, Callable[[str, Mapping[str, Any]], Response]] = {
            "account": self._account,
            "webhookEndpointCreate": self._create,
            "webhookEndpointDelete": self._delete,
            "visits": self._list_visits,
            "visit": self._get_visit,
            "invoices": self._list_invoices,
            "invoice": self._get_invoice,
        }
        if name not in operations:
            return JSONResponse({"errors": [{"message": f"Field '{name}' doesn't exist on type 'Query'"}]})
        return operations[name](operation, variables)

    def _account(self, _: str, __: Mapping[str, Any]) -> Response:
        return _data("account", {"id": _id("Account", 1), "name": "Ada's Plumbing"})

    # -- webhooks: an endpoint has one topic; there is no list --

    def _create(self, _: str, variables: Mapping[str, Any]) -> Response:
        inputs = variables.get("input") or variables
        topic, url = inputs.get("topic"), inputs.get("url", "")
        if self.faults.forbidden:
            errors = [{"message": HIDDEN, "path": ["webhookEndpointCreate"]}]
            return JSONResponse({"data": {"webhookEndpointCreate": None}, "errors": errors})
        if topic not in TOPICS:
            return JSONResponse({"errors": [{"message": "Variable $topic was provided invalid value"}]})
        if any(each.url == url and topic in each.events for each in self.subscriptions.values()):
            refused = {"webhookEndpoint": None, "userErrors": [{"message": "Url has already been taken", "path": []}]}
            return _data("webhookEndpointCreate", refused)
        stored = self.subscribe(url, (topic,), SECRET)
        endpoint = {"id": stored.id, "topic": topic, "url": url, "createdAt": _time(stored.created_at)}
        return _data("webhookEndpointCreate", {"webhookEndpoint": endpoint, "userErrors": []})

    def _delete(self, _: str, variables: Mapping[str, Any]) -> Response:
        ids = next((value for value in variables.values() if isinstance(value, list)), [])
        deleted = [each for id in ids if (each := self.subscriptions.pop(id, None))]
        errors = [] if len(deleted) == len(ids) else [{"message": "Webhook endpoint not found", "path": []}]
        endpoints = [{"id": each.id, "topic": each.events[0], "url": each.url} for each in deleted]
        return _data("webhookEndpointDelete", {"deletedWebhookEndpoints": endpoints, "userErrors": errors})

    def new_subscription_id(self) -> str:
        return base64.b64encode(f"gid://Jobber/WebhookEndpoint/{super().new_subscription_id()}".encode()).decode()

    # -- visits: a cancelled one is destroyed; an invoice belongs to each visit that is paid --

    def _list_visits(self, operation: str, variables: Mapping[str, Any]) -> Response:
        filters = variables.get("filter") or {}
        appointments = [each for each in self.calendar.between(None, None) if _matches(each, filters)]
        return _data("visits", self._page([_visit(each) for each in appointments], operation, variables))

    def _get_visit(self, _: str, variables: Mapping[str, Any]) -> Response:
        return _data("visit", next((_visit(each) for each in self._existing("Visit", variables.get("id"))), None))

    def _list_invoices(self, operation: str, variables: Mapping[str, Any]) -> Response:
        after = re.search(r'updatedAt:\s*\{\s*after:\s*"([^"]+)"', operation)
        since = datetime.fromisoformat(after[1]) if after else None
        paid = [
            each
            for each in self.calendar.appointments.values()
            if each.paid and (since is None or each.updated_at >= since)
        ]
        return _data(
            "invoices", self._page([{"id": _id("Invoice", each.number)} for each in paid], operation, variables)
        )

    def _get_invoice(self, _: str, variables: Mapping[str, Any]) -> Response:
        invoices = [{"visits": {"nodes": [_visit(each)]}} for each in self._existing("Invoice", variables.get("id"))]
        return _data("invoice", next(iter(invoices), None))

    def _existing(self, kind: str, id: Any) -> list[Appointment]:
        appointments = self.calendar.appointments.values()
        return [each for each in appointments if _id(kind, each.number) == id and not each.is_cancelled]

    def _page(self, nodes: list[Row], operation: str, variables: Mapping[str, Any]) -> Row:
        literal = re.search(r"first:\s*(\d+)", operation)
        first = int(variables.get("first") or (literal[1] if literal else 100))
        size, start = min(first, self.faults.page_size), int(variables.get("after") or 0)
        end = start + size
        return {
            "nodes": nodes[start:end],
            "pageInfo": {
                "hasNextPage": end < len(nodes),
                "endCursor": str(end),
                "hasPreviousPage": start > 0,
                "startCursor": str(start),
            },
        }

    # -- webhooks --

    def webhooks(self, appointment: Appointment, step: Step) -> list[Webhook]:
        topics = {
            "booked": "VISIT_CREATE",
            "moved": "VISIT_UPDATE",
            "completed": "VISIT_COMPLETE",
            "cancelled": "VISIT_DESTROY",
            "paid": "INVOICE_UPDATE",
        }
        if step not in topics:
            return []
        topic = topics[step]
        event = {
            "topic": topic,
            "appId": "app-1",
            "accountId": _id("Account", 1),
            "itemId": _id("Invoice" if step == "paid" else "Visit", appointment.number),
            "occurredAt": _time(appointment.updated_at),
        }
        return [Webhook(topic, json.dumps({"data": {"webHookEvent": event}}).encode(), {})]

    def sign(self, webhook: Webhook, subscription: StoredSubscription) -> Mapping[str, str]:
        signature = base64.b64encode(hmac.new(SECRET.encode(), webhook.body, hashlib.sha256).digest()).decode()
        return {"content-type": JSON, "x-jobber-hmac-sha256": signature}


def _data(name: str, value: Any) -> Response:
    cost = {"requestedQueryCost": 10, "actualQueryCost": 10}
    return JSONResponse({"data": {name: value}, "extensions": {"cost": cost}})


def _matches(appointment: Appointment, filters: Mapping[str, Any]) -> bool:
    if appointment.is_cancelled:
        return False
    if "ids" in filters and _id("Visit", appointment.number) not in filters["ids"]:
        return False
    times = {"startAt": appointment.starts_at, "completedAt": appointment.completed_at}
    return all(_is_within(time, filters[name]) for name, time in times.items() if name in filters)


def _is_within(time: datetime | None, limits: Mapping[str, str]) -> bool:
    if time is None:
        return False
    after, before = (datetime.fromisoformat(limits[name]) if name in limits else None for name in ("after", "before"))
    return (after is None or time >= after) and (before is None or time <= before)


def _visit(appointment: Appointment) -> Row:
    paid = {"amounts": {"paymentsTotal": float(appointment.paid)}, "visits": {"nodes": [{"id": "one"}]}}
    return {
        "id": _id("Visit", appointment.number),
        "startAt": _time(appointment.starts_at),
        "endAt": _time(appointment.ends_at),
        "allDay": False,
        "completedAt": _time(appointment.completed_at) if appointment.completed_at else None,
        "isComplete": appointment.completed_at is not None,
        "client": {
            "name": f"{appointment.first_name} {appointment.last_name}",
            "firstName": appointment.first_name,
            "lastName": appointment.last_name,
            "isCompany": False,
            "receivesReviewRequests": True,
            "emails": [{"address": appointment.email, "primary": True}],
            "phones": [{"number": appointment.phone, "primary": True}],
        },
        "invoice": paid if appointment.paid else None,
        "job": {
            "id": _id("Job", appointment.number),
            "visits": {"nodes": [], "pageInfo": {"hasPreviousPage": False, "startCursor": None}},
        },
    }


def _id(kind: str, number: int) -> str:
    return base64.b64encode(f"gid://Jobber/{kind}/{number}".encode()).decode()


def _time(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


VENDOR = Jobber
