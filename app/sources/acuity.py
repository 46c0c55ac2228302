"""Acuity Scheduling (Squarespace). Thin: a form refers to an appointment, which is fetched.

From https://developers.acuityscheduling.com/docs/webhooks: the body has `action` and `id`, and for appointments also
`calendarID` and `appointmentTypeID`. Static webhooks are signed with the main admin's API key; webhooks that were
created through the API are signed with the key of the user who created them. `changed` is sent after any change of an
appointment, in addition to `scheduled`, `rescheduled` and `canceled`. The page does not mention payments and no-shows;
they are assumed to be such changes. The id stays the same when an appointment is moved.

A delivery has neither a time nor an id, so two reschedules are byte-identical. Therefore the record of a repeat is
fetched again, and the time of the fetch orders the changes: a record is correct at that time.

Second-hand: `canceled` is in the records in public code, but not in Acuity's reference, so it is read if it is present,
but it is not required; only cancelled appointments have `noShow`; subscriptions that were created through the API, for
events such as `appointment.scheduled`, send the short `action`, too; Acuity retries only after 5xx and lost
connections.

The API lists only active webhooks, so a webhook that Acuity disabled is missing in the list. There is no OAUTH: the
pages do not say which key signs the webhooks that an OAuth app creates. Appointments cannot be listed by the time of a
change. The list has no pages, and the maximum of its parameter `max` is not documented, so a period whose list is full
is divided. Second-hand: the fields of `/me`. From memory: days are those of the account's time zone; the API needs a
higher plan.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from app.visits.change import UNSET, Action, Contact, Unset, VisitChange, unix_microseconds
from app.webhooks import (
    RECORD_GONE,
    ApiResponse,
    BasicAuth,
    Event,
    Hmac,
    Ignored,
    ListedPage,
    ListedRecord,
    Listing,
    ListRequest,
    Payload,
    RecordRequest,
    Source,
    Subscription,
    SubscriptionPage,
    SubscriptionState,
    Target,
    Untranslatable,
    Window,
    read_records,
)

SETUP = """
1. In Acuity, open Integrations, API, "View credentials". Set HOOKS__ACUITY__CREDENTIALS__USER_ID to the user id,
   HOOKS__ACUITY__CREDENTIALS__API_KEY to the API key, and HOOKS__ACUITY__SECRETS to the same API key. It must be the
   main admin's key, because Acuity signs with that key.
2. `doorbell connect acuity` does the rest with the user id and the API key from step 1. By hand: in Integrations,
   Webhooks, paste {url} for appointments that are scheduled, rescheduled, canceled and changed. Some of these events
   overlap; that is harmless. Without `changed`, Doorbell receives no payments, no-shows or new e-mail addresses. Do not
   add the URL for orders: they are not appointments.
3. Use a URL on port 443 or 80: Acuity calls no other ports.

Acuity does not send the end of an appointment, so review requests are timed from its start. It does not send the time
of a cancellation or a no-show either, so Doorbell uses the time when it first fetched the appointment in that state.
"""

SOURCE = Source(
    title="Acuity Scheduling",
    is_common=True,
    docs="https://developers.acuityscheduling.com/docs/webhooks",
    credential_help={
        "USER_ID": ("User ID", "In Acuity: Integrations, API, “View credentials”. Log in as the main admin."),
        "API_KEY": ("API key", "In the same place, below the user ID."),
    },
    evidence="second-hand",
    retries="yes",
    signature=Hmac(header="X-Acuity-Signature", encoding="base64"),
    setup=SETUP,
    body_format="form",
    event_name_path=("action",),
    events_may_collide=True,
    api_url="https://acuityscheduling.com/api/v1/",
    credentials=BasicAuth("USER_ID", "API_KEY"),
)

ACTIONS: dict[str, Action] = {
    "scheduled": "create",
    "rescheduled": "update",
    "changed": "update",
    "canceled": "cancel",
}


def fetch(event: Event) -> list[RecordRequest]:
    # The id in `order.completed` is the id of an order, and an appointment may have the same id.
    return [RecordRequest(f"appointments/{_appointment_id(event)}")] if _action(event) else []


def translate(event: Event) -> list[VisitChange] | Ignored:
    action = _action(event)
    if action is None:
        return Ignored(event.data.at("action").required_text())
    visit_id = _appointment_id(event)
    if event.fetched_at is None:
        raise Untranslatable("the appointment that this event refers to was not fetched")
    version, record = unix_microseconds(event.fetched_at), event.record
    if record is None:
        if action != "cancel":
            return RECORD_GONE
        gone_at = event.fetched_at
        return [
            VisitChange(
                action=action, visit_id=visit_id, version=version, date_cancelled=gone_at, times_are_observed=True
            )
        ]
    cancelled = _cancelled(record, action)
    if cancelled:
        action = "cancel"
    elif action == "cancel":
        action = "update"  # the appointment was restored between the event and the fetch
    return [
        VisitChange(
            action=action,
            visit_id=visit_id,
            version=version,
            contact=_contact(record),
            time_scheduled=record.at("datetime").required_time(event.zone),
            amount_collected=_amount(record),
            date_cancelled=_since(event.fetched_at, cancelled),
            no_show=_since(event.fetched_at, _no_show(record)),
            times_are_observed=True,
        )
    ]


def _action(event: Event) -> Action | None:
    return ACTIONS.get(event.data.at("action").required_text().removeprefix("appointment."))


def _appointment_id(event: Event) -> str:
    id = event.data.at("id")
    digits = id.required_text()
    if not re.fullmatch("[1-9][0-9]{0,18}", digits):
        raise id.unexpected("a number in digits")
    return digits


def _cancelled(record: Payload, action: Action) -> bool | None:
    """Return None if neither the record nor the event shows it.

    An old `scheduled` may be replayed after a cancellation.
    """
    value = record.at("canceled").boolean()
    return True if value is None and action == "cancel" else value


def _no_show(record: Payload) -> bool | None:
    """Return None if the record does not show it. An appointment that is not cancelled has no `noShow`: False."""
    value = record.at("noShow").boolean()
    return False if value is None and record.at("canceled").boolean() is False else value


def _since(fetched_at: datetime, flag: bool | None) -> datetime | None | Unset:
    if flag is None:
        return UNSET
    return fetched_at if flag else None


def _amount(record: Payload) -> Decimal | None | Unset:
    """Return `amountPaid`, not `price`. It is in whole currency units."""
    paid = record.at("amountPaid").amount()
    if paid is None:
        return UNSET
    return paid if paid > 0 else None


def _contact(record: Payload) -> Contact:
    return Contact(
        email=record.at("email").text(),
        first_name=record.at("firstName").text(),
        last_name=record.at("lastName").text(),
        phone=record.at("phone").text(),
    )


# -- the API: https://developers.acuityscheduling.com/reference --


def _subscribe(target: Target, account: Payload, events: Sequence[str]) -> RecordRequest:
    return RecordRequest("webhooks", json={"event": events[0], "target": target.url})


def _read_subscription(webhook: Payload) -> SubscriptionState:
    return SubscriptionState(
        id=webhook.at("id").required_id(),
        url=webhook.at("target").required_text(),
        events=frozenset((webhook.at("event").required_text(),)),
        is_active=webhook.at("status").text() in ("active", None),
    )


def _account_name(account: Payload) -> str:
    names = (account.at(name).text() for name in ("businessName", "name", "email"))
    return next(filter(None, names), "")


def _refusal(status: int, response: Payload) -> str | None:
    if status != 403:
        return None
    return (
        "Acuity does not allow this API key to do that: the account needs a plan with API access, and the key must be the"
        " main admin's."
    )


SUBSCRIPTION = Subscription(
    docs="https://developers.acuityscheduling.com/page/webhooks-webhooks-webhooks",
    evidence="none",
    groups=tuple((f"appointment.{action}",) for action in ACTIONS),
    account=RecordRequest("me"),
    account_name=_account_name,
    create=_subscribe,
    read_created=_read_subscription,
    list=lambda account: RecordRequest("webhooks"),
    read_list=lambda request, response: SubscriptionPage([_read_subscription(webhook) for webhook in response]),
    delete=lambda id, account: RecordRequest(f"webhooks/{id}", method="DELETE"),
    secret_from="credential",
    secret_credential="API_KEY",
    refusal=_refusal,
)

#: The documented length of a list, and the length that is requested if a period cannot be divided.
FULL_LIST, LONGEST_LIST = 100, 1_000


def _list_appointments(window: Window, account: Payload) -> Sequence[ListRequest]:
    """Request the appointments and the cancelled appointments, for all days that the window has in any time zone."""
    days = {
        "minDate": str((window.since - timedelta(days=1)).date()),
        "maxDate": str((window.until + timedelta(days=1)).date()),
        "max": str(FULL_LIST),
        "excludeForms": "true",
    }
    context = {"since": window.since.isoformat(), "until": window.until.isoformat()}
    return [
        ListRequest(RecordRequest("appointments", params=days), {**context, "canceled": False}),
        ListRequest(RecordRequest("appointments", params={**days, "canceled": "true"}), {**context, "canceled": True}),
    ]


def _read_listed(request: ListRequest, response: ApiResponse) -> ListedPage:
    appointments, longest = list(response), int(request.request.params["max"])
    if len(appointments) >= longest and longest < LONGEST_LIST:
        return ListedPage([], _divided(request))
    since, until = (datetime.fromisoformat(request.context[name]) for name in ("since", "until"))

    def read(appointment: Payload) -> Iterator[ListedRecord]:
        if since <= appointment.at("datetime").required_time(UTC) < until:
            yield _listed(appointment, request.context["canceled"])

    return ListedPage(read_records(appointments, read))


def _divided(request: ListRequest) -> list[ListRequest]:
    """Return requests for the two halves of the period.

    A single day is listed once in each direction, with the longest list.
    """
    params = request.request.params
    first, last = date.fromisoformat(params["minDate"]), date.fromisoformat(params["maxDate"])
    middle = first + (last - first) // 2
    parts = [
        {"minDate": str(first), "maxDate": str(middle)},
        {"minDate": str(middle + timedelta(days=1)), "maxDate": str(last)},
    ]
    if first == last:
        parts = [{"direction": direction, "max": str(LONGEST_LIST)} for direction in ("ASC", "DESC")]
    return [replace(request, request=replace(request.request, params={**params, **part})) for part in parts]


def _listed(appointment: Payload, is_cancelled: bool) -> ListedRecord:
    """Return the listed appointment. If the record has no `canceled`, it is set according to the list."""
    id, record = appointment.at("id").required_id(), {"canceled": is_cancelled, **appointment.value}
    action = "canceled" if record["canceled"] else "scheduled"
    return ListedRecord(id, {"action": action, "id": id}, record, path=f"appointments/{id}")


LISTING = Listing(
    docs="https://developers.acuityscheduling.com/reference/get-appointments",
    evidence="vendor",
    start=_list_appointments,
    read_page=_read_listed,
)
