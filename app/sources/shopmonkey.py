"""Shopmonkey: appointments of repair shops, and the orders (work orders, then invoices) that they lead to.

From https://shopmonkey.dev/webhooks: each event has the current row, with `table`, `operation` and, for an update,
`diff`: the columns that changed. https://shopmonkey.dev/resources/appointment: `orderId`, `updatedDate`,
`confirmationStatus`, and a `cancellationNote` if it was cancelled. `webhook-id` identifies an attempt, so repeats are
recognized by their body.

An appointment with neither a customer nor an order is blocked time. It is ignored if it never changed; otherwise the
visit is cancelled, since its customer may have been removed.

A visit has the order's id, if there is an order: an appointment that gets its order later continues under the order's
id. The appointment has the planned time, the order has the completion and the total amount paid. `updatedDate` orders
the rows; a deleted row does not have the time of its deletion, so the signed time is used, which is in whole seconds.

Inferred from the names of the headers: they are those of Standard Webhooks. The vendor does not say how the secret
becomes a key: a secret with `whsec_` is read as base64, any other as text. Second-hand: `completedDate`, `invoiced`,
`invoicedDate` and `paidCostCents` of an order, and the `emails` and `phoneNumbers` of a customer, with `primary` in
them. From memory: `marketingOptIn`, the flags `deleted`, `cancelled` and `canceled`, and that a Declined appointment is
cancelled. The columns of a payment are not documented; its order has the sum.

Second-hand, from an integrator's measurements: filters are Prisma's, in JSON; Shopmonkey ignores a filter that it does
not know, so a list ends with an error if it has rows that were not requested; `orderby` is in lower case; recurring
appointments and deleted rows are not listed. Second-hand, too: the account, and the fields and the list of webhooks.
From memory: a webhook's triggers may be named after the operation; PUT changes only the fields that it has. There is no
OAuth for other companies.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from app.visits.change import UNSET, Contact, Unset, VisitChange, unix_microseconds
from app.webhooks import (
    ApiResponse,
    BearerAuth,
    Event,
    Ignored,
    ListedPage,
    ListedRecord,
    Listing,
    ListRequest,
    Payload,
    RecordRequest,
    Source,
    StandardWebhooks,
    Subscription,
    SubscriptionPage,
    SubscriptionState,
    Target,
    Window,
    iso_milliseconds,
    standard_webhooks_key,
    text_key,
)

SETUP = """
1. In Shopmonkey, open Settings, Integration, API Keys, create a key as a user who may manage webhooks and read
   appointments, orders and customers, and set it as HOOKS__SHOPMONKEY__CREDENTIALS__TOKEN. `doorbell connect
   shopmonkey` does the rest.
2. By hand: make up a secret of 24 characters or more, set it as HOOKS__SHOPMONKEY__SECRETS, and restart.
3. In Settings, Integration, Webhooks, add {url} with that secret and the triggers Appointment and Order, for one
   location or for all. Or POST the same to https://api.shopmonkey.cloud/v3/webhook: name, url, secret, triggers,
   enabled.
4. If every delivery is rejected, Shopmonkey derives another key from the secret: try a secret that begins with `whsec_`,
   followed by base64. To accept only some locations, set HOOKS__SHOPMONKEY__TENANTS to their `locationId`s.

A visit is completed when its order is invoiced or completed. Orders in progress are ignored until then, or until there is a
payment. There are no no-shows; cancel or delete the appointment instead. Customers who opted out of marketing get no review
request. Two appointments of one order are one visit.
"""


def _key(secret: str) -> bytes:
    return standard_webhooks_key(secret) if secret.startswith("whsec_") else text_key(secret)


def _location(event: Event) -> str | None:
    return event.data.at("data", "locationId").text()


SOURCE = Source(
    title="Shopmonkey",
    docs="https://shopmonkey.dev/webhooks",
    credential_help={
        "TOKEN": (
            "API key",
            "In Shopmonkey: Settings, Integration, API Keys. Create it as a user who may manage webhooks and "
            "read appointments, orders and customers.",
        ),
    },
    evidence="none",
    retries="yes",
    signature=StandardWebhooks(key=_key),
    setup=SETUP,
    event_name_path=("table",),
    tenant_of=_location,
    stored_headers=("webhook-timestamp",),
    api_url="https://api.shopmonkey.cloud/v3/",
    credentials=BearerAuth("TOKEN"),
)

OPERATIONS = {"INSERT", "UPDATE", "DELETE"}
#: Columns of an order whose change may undo a completion or a payment.
REVERSIBLE_COLUMNS = {"invoiced", "invoicedDate", "completedDate", "paid", "paidCostCents"}


def fetch(event: Event) -> list[RecordRequest]:
    """Fetch the customer unless the visit is cancelled."""
    customer_id = _row(event).at("customerId")
    if isinstance(change := translate(event), Ignored) or change[0].action == "cancel" or not customer_id.text():
        return []
    return [RecordRequest(f"customer/{customer_id.required_id()}")]


def translate(event: Event) -> list[VisitChange] | Ignored:
    match table := event.data.at("table").required_text().lower():
        case "appointment":
            return Ignored("blocked time") if _is_blocked(event) and _is_as_added(event) else [_appointment(event)]
        case "order":
            return _order(event)
    return Ignored(table)


def _appointment(event: Event) -> VisitChange:
    row, visit_id = _row(event), _row(event).at("id").required_text()
    order_id, happened_at = row.at("orderId").text(), _happened_at(event)
    is_cancelled = _is_cancelled(event) or _is_blocked(event)
    got_order = _operation(event) == "UPDATE" and "orderId" in _diff(event, {"orderId"})
    starts_at = row.at("startDate")
    return VisitChange(
        action="cancel" if is_cancelled else "create" if _operation(event) == "INSERT" else "update",
        visit_id=order_id or visit_id,
        previous_visit_id=visit_id if order_id and got_order else None,
        version=unix_microseconds(happened_at),
        observed_at_us=_observed_at(event),
        contact=_contact(event),
        time_scheduled=(starts_at.time(event.zone) or UNSET) if is_cancelled else starts_at.required_time(event.zone),
        date_cancelled=happened_at if is_cancelled else None,
        opted_out=_opted_out(event),
        times_are_observed=True,
    )


def _is_blocked(event: Event) -> bool:
    row = _row(event)
    return not (row.at("customerId").text() or row.at("orderId").text())


def _is_as_added(event: Event) -> bool:
    """Return whether the row never changed, so it never was a visit."""
    added_at = _row(event).at("createdDate").time()
    is_unchanged = added_at is not None and added_at == _row(event).at("updatedDate").time()
    return _operation(event) == "INSERT" or (is_unchanged and not _is_deleted(event))


def _order(event: Event) -> list[VisitChange] | Ignored:
    row, happened_at, is_deleted = _row(event), _happened_at(event), _is_deleted(event)
    (is_done, done_at), paid = _done(row), _paid(row)
    if not (is_deleted or is_done or isinstance(paid, Decimal) or REVERSIBLE_COLUMNS & _diff(event, set())):
        return Ignored("order in progress")
    return [
        VisitChange(
            action="cancel" if is_deleted else "update",
            visit_id=row.at("id").required_text(),
            version=unix_microseconds(happened_at),
            observed_at_us=_observed_at(event),
            contact=_contact(event),
            time_completed=(done_at or happened_at) if is_done else UNSET if is_done is None else None,
            amount_collected=paid,
            date_cancelled=happened_at if is_deleted else None if is_done else UNSET,
            opted_out=_opted_out(event),
            times_are_observed=not (is_done and done_at),
        )
    ]


def _row(event: Event) -> Payload:
    return event.data.at("data")


def _operation(event: Event) -> str:
    operation = event.data.at("operation")
    if operation.required_text() not in OPERATIONS:
        raise operation.unexpected("INSERT, UPDATE or DELETE")
    return operation.required_text()


def _diff(event: Event, default: set[str]) -> set[str]:
    """Return the columns that changed. default: for events without `diff`."""
    diff = event.data.at("diff")
    return {column.required_text() for column in diff} if diff else default


def _happened_at(event: Event) -> datetime:
    """Return the row's time; for a deletion the end of the signed second, and never a time before the row's."""
    updated_at, signed_time = _row(event).at("updatedDate").time(), event.headers.get("webhook-timestamp", "")
    if updated_at and _operation(event) != "DELETE":
        return updated_at
    second = Payload(int(signed_time)).required_unix_seconds() if signed_time.isdecimal() else event.received_at
    end_of_second = second.replace(microsecond=0) + timedelta(microseconds=999_999)
    return max(end_of_second, updated_at or end_of_second)


def _is_deleted(event: Event) -> bool:
    return _operation(event) == "DELETE" or _row(event).at("deleted").boolean() is True


def _is_cancelled(event: Event) -> bool:
    row = _row(event)
    confirmation = row.at("confirmationStatus").text()
    has_flag = any(row.at(name).boolean() for name in ("cancelled", "canceled")) or confirmation == "Declined"
    return _is_deleted(event) or has_flag or bool(row.at("cancellationNote").text() and confirmation != "Confirmed")


def _done(row: Payload) -> tuple[bool | None, datetime | None]:
    """Return whether the work is done (None if the row does not show it), and when."""
    completed_at, is_invoiced = row.at("completedDate").time(), row.at("invoiced").boolean()
    return (True if completed_at else is_invoiced), completed_at or row.at("invoicedDate").time()


def _paid(row: Payload) -> Decimal | None | Unset:
    """Convert the amount paid from cents."""
    cents = row.at("paidCostCents") or row.at("totalCostCents" if row.at("paid").boolean() else "paidCostCents")
    return (cents.amount(100) or None) if cents else UNSET


def _observed_at(event: Event) -> int:
    return unix_microseconds(event.fetched_at) if event.fetched_at else 0


def _customer(event: Event) -> Payload:
    """Return the fetched customer, which may be inside `data`."""
    record = event.record or Payload(None)
    return record.at("data") or record


def _contact(event: Event) -> Contact | None:
    customer = _customer(event)
    if not customer:
        return None
    return Contact(
        email=_primary(customer.at("emails"), "email") or customer.at("email").text(),
        first_name=customer.at("firstName").text() or customer.at("companyName").text(),
        last_name=customer.at("lastName").text(),
        phone=_primary(customer.at("phoneNumbers"), "number"),
    )


def _primary(items: Payload, name: str) -> str | None:
    candidates = [item for item in items if item.at(name).text()]
    preferred = next(
        (item for item in candidates if item.at("primary").boolean()), candidates[0] if candidates else None
    )
    return preferred.at(name).text() if preferred else None


def _opted_out(event: Event) -> bool | Unset:
    accepts_marketing = _customer(event).at("marketingOptIn").boolean()
    return UNSET if accepts_marketing is None else not accepts_marketing


# -- the API: https://shopmonkey.dev --


def _subscribe(target: Target, account: Payload, events: Sequence[str]) -> RecordRequest:
    body = {
        "name": f"Doorbell {target.hook}",
        "url": target.url,
        "triggers": list(events),
        "secret": target.secret,
        "enabled": True,
    }
    return RecordRequest("webhook", json=body)


def _read_subscriptions(request: RecordRequest, response: ApiResponse) -> SubscriptionPage:
    webhooks = [_read_subscription(webhook) for webhook in response.at("data")]
    if not webhooks or not _has_more(response):
        return SubscriptionPage(webhooks)
    skip = str(int(request.params["skip"]) + len(webhooks))
    return SubscriptionPage(webhooks, replace(request, params={**request.params, "skip": skip}))


def _has_more(response: Payload) -> bool:
    return response.at("meta", "hasMore").boolean() is True


def _read_subscription(webhook: Payload) -> SubscriptionState:
    """Read a webhook. Its triggers may be named after the operation, too: AppointmentInsert."""
    triggers = (trigger.required_text() for trigger in webhook.at("triggers"))
    return SubscriptionState(
        id=webhook.at("id").required_id(),
        url=webhook.at("url").required_text(),
        events=frozenset(re.sub("(Insert|Update|Delete)$", "", trigger) for trigger in triggers),
        is_active=webhook.at("enabled").boolean() is not False,
        failing_since=webhook.at("errorDate").time() if webhook.at("error").value is True else None,
    )


def _account_name(account: Payload) -> str:
    user = account.at("data")
    names = [user.at(name).text() for name in ("firstName", "lastName")]
    return " ".join(filter(None, names)) or user.at("email").text() or ""


def _refusal(status: int, response: Payload) -> str | None:
    if status != 403:
        return None
    return (
        "This API key of Shopmonkey lacks a right: the user who created it must be allowed to manage webhooks, and to read"
        " appointments, orders and customers."
    )


SUBSCRIPTION = Subscription(
    docs="https://shopmonkey.dev/webhooks",
    evidence="none",
    groups=(("Appointment", "Order"),),
    account=RecordRequest("user/logged-in"),
    account_name=_account_name,
    create=_subscribe,
    read_created=lambda response: _read_subscription(response.at("data")),
    list=lambda account: RecordRequest("webhook", params={"limit": "100", "skip": "0"}),
    read_list=_read_subscriptions,
    delete=lambda id, account: RecordRequest(f"webhook/{id}", method="DELETE"),
    reactivate=lambda id, account: RecordRequest(f"webhook/{id}", method="PUT", json={"enabled": True}),
    refusal=_refusal,
)

#: The columns that `translate`, `fetch` and `tenant_of` read.
COLUMNS = (
    *("id", "customerId", "orderId", "locationId", "createdDate", "updatedDate", "startDate", "deleted"),
    *("confirmationStatus", "cancelled", "canceled", "cancellationNote"),
    *("completedDate", "invoiced", "invoicedDate", "paid", "paidCostCents", "totalCostCents"),
)
#: How many rows to request by their ids in one URL.
MAX_IDS = 50


def _list_rows(window: Window, account: Payload) -> Sequence[ListRequest]:
    """Request the appointments in the window, and the rows that changed."""
    requests = [
        _list_period("appointment", "startDate", iso_milliseconds(window.since), iso_milliseconds(window.until))
    ]
    if window.changed_since:
        since = iso_milliseconds(window.changed_since)
        requests += [_list_period(table, "updatedDate", since, "") for table in ("appointment", "order")]
    return requests


def _list_period(table: str, column: str, since: str, until: str, skip: int = 0) -> ListRequest:
    """Return the list of the rows with a time in this period, oldest first."""
    condition = {"gte": since, "lt": until} if until else {"gte": since}
    params = {
        "where": _json({column: condition}),
        "orderby": _json({column: "asc"}),  # `orderBy` is ignored
        "limit": "100",
        "skip": str(skip),
    }
    context = {"table": table, "column": column, "since": since, "until": until, "skip": skip}
    return ListRequest(RecordRequest(table, params=params), context)


def _list_by_id(table: str, ids: Sequence[str], context: Mapping[str, Any]) -> ListRequest:
    params = {"where": _json({"id": {"in": ids}}), "limit": "100", "skip": "0"}
    return ListRequest(RecordRequest(table, params=params), {**context, "table": table, "ids": ids})


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _read_listed(request: ListRequest, response: ApiResponse) -> ListedPage:
    """Read a list of appointments or orders and request their customers, or read the customers of such rows."""
    context, rows = request.context, list(response.at("data"))
    _check_filter(context, rows)
    if context["table"] == "customer":
        customers = {row.at("id").text(): row.value for row in rows}
        return ListedPage([_listed(context["of"], row, customers.get(row["customerId"])) for row in context["rows"]])
    records, requests = _with_customers(context["table"], rows)
    if context.get("column") == "startDate":
        ids = dict.fromkeys(row.at("orderId").required_id() for row in rows if row.at("orderId").text())
        requests += [_list_by_id("order", part, {}) for part in _parts(list(ids))]
    if rows and "column" in context and _has_more(response):
        requests.append(_next_page(context, rows))
    return ListedPage(records, requests)


def _check_filter(context: Mapping[str, Any], rows: Sequence[Payload]) -> None:
    """Raise Untranslatable for rows that were not requested: Shopmonkey ignores a filter that it does not know."""
    for row in rows:
        if "ids" in context:
            is_wanted = row.at("id").text() in context["ids"]
        else:
            time = row.at(context["column"]).required_time()
            until = context["until"] and datetime.fromisoformat(context["until"])
            is_wanted = datetime.fromisoformat(context["since"]) <= time and not (until and time >= until)
        if not is_wanted:
            raise row.unexpected("a row that was requested")


def _next_page(context: Mapping[str, Any], rows: Sequence[Payload]) -> ListRequest:
    """Request the rows from the time of the last row on.

    With an offset, rows that change meanwhile would shift the others.
    """
    table, column, since, until = (context[name] for name in ("table", "column", "since", "until"))
    last = rows[-1].at(column).required_text()
    if datetime.fromisoformat(last) > datetime.fromisoformat(since):
        return _list_period(table, column, last, until)
    return _list_period(table, column, since, until, context["skip"] + len(rows))


def _with_customers(table: str, rows: Sequence[Payload]) -> tuple[list[ListedRecord], list[ListRequest]]:
    """Return the rows without a customer, and requests for the customers of the others."""
    customers = [row.at("customerId").text() for row in rows]
    objects = [row.required_object() for row in rows]
    trimmed = [{name: each[name] for name in COLUMNS if name in each} for each in objects]
    with_customer = [row for row, customer in zip(trimmed, customers, strict=True) if customer]
    without_customer = [row for row, customer in zip(trimmed, customers, strict=True) if not customer]
    requests = [
        _list_by_id("customer", list(dict.fromkeys(row["customerId"] for row in part)), {"of": table, "rows": part})
        for part in _parts(with_customer)
    ]
    return [_listed(table, row, None) for row in without_customer], requests


def _parts(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (items[start : start + MAX_IDS] for start in range(0, len(items), MAX_IDS))


def _listed(table: str, row: Mapping[str, Any], customer: Any) -> ListedRecord:
    """Return the row as an update. An appointment with an order may have been stored before it had the order."""
    diff = {"diff": ["orderId"]} if table == "appointment" and row.get("orderId") else {}
    body = {"apiVersion": "3", "operation": "UPDATE", "table": table, "data": row, **diff}
    path = f"customer/{row['customerId']}" if customer else ""
    return ListedRecord(str(row["id"]), body, customer, path=path)


LISTING = Listing(
    docs="https://shopmonkey.dev/resources/appointment",
    evidence="second-hand",
    start=_list_rows,
    read_page=_read_listed,
    lists_changed=True,
)
