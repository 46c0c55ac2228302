"""Acuity Scheduling (Squarespace): a form names an appointment, and the appointment is fetched.

From https://developers.acuityscheduling.com/docs/webhooks: the body is `action` and `id`, for appointments also
`calendarID` and `appointmentTypeID`; static webhooks are signed with the main admin's API key, those made through the
API with the key of the user who made them. `changed` comes when an appointment is changed in any way (payments and
no-shows are not named, but taken to be among them), beside `scheduled`, `rescheduled` and `canceled`. The id stays the
same when an appointment moves.

Nothing in a delivery dates it or tells it from the next one: two reschedules are the same to the byte. So a repeat is
fetched again, and what orders two deliveries is when each was fetched, since a record is the truth at that moment.

Second-hand: `canceled` stands in the records that public code shows, but not in Acuity's reference, so it is believed
where it is there and not missed where it is not; `noShow` stands only in cancelled appointments; subscriptions made
through the API, named `appointment.scheduled` and so on, send the short `action` too; and Acuity tries again only after
5xx and lost connections.
"""

import re
from datetime import datetime
from decimal import Decimal

from app.visits.change import UNSET, Action, Contact, Unset, VisitChange, unix_microseconds
from app.webhooks.delivery import Event
from app.webhooks.fetching import BasicAuth, RecordRequest
from app.webhooks.payload import Payload, Untranslatable
from app.webhooks.signatures.hmac import Hmac
from app.webhooks.source import RECORD_GONE, Ignored, Source

SETUP = """
1. In Acuity, open Integrations, API, "View credentials". Set HOOKS__ACUITY__CREDENTIALS__USER_ID to the user id,
   HOOKS__ACUITY__CREDENTIALS__API_KEY to the API key, and HOOKS__ACUITY__SECRETS to the same API key. It must be the
   main admin's key: Acuity signs with that one.
2. In Integrations, Webhooks, paste {url} for appointments that are scheduled, rescheduled, canceled and changed. Some
   of these overlap, and that does no harm; without `changed` we see neither payments nor no-shows nor new e-mails.
   Leave orders out: they are no appointments.
3. Acuity calls ports 443 and 80 only.

Acuity does not tell when an appointment is over, so a review request counts from its start. It does not say either when
one was cancelled or marked as a no-show: that is the time at which we first saw it so.
"""

SOURCE = Source(
    title="Acuity Scheduling",
    docs="https://developers.acuityscheduling.com/docs/webhooks",
    evidence="second-hand",
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
    # The id of `order.completed` is an order's, which may be some appointment's too.
    return [RecordRequest(f"appointments/{_appointment_id(event)}")] if _action(event) else []


def translate(event: Event) -> list[VisitChange] | Ignored:
    action = _action(event)
    if action is None:
        return Ignored(event.data.at("action").required_text())
    visit_id = _appointment_id(event)
    if event.fetched_at is None:
        raise Untranslatable("the appointment that this event points at was not fetched")
    order, record = unix_microseconds(event.fetched_at), event.record
    if record is None:
        if action != "cancel":
            return RECORD_GONE
        gone_at = event.fetched_at
        return [
            VisitChange(
                action=action, visit_id=visit_id, version=order, date_cancelled=gone_at, times_are_observed=True
            )
        ]
    cancelled = _cancelled(record, action)
    if cancelled:
        action = "cancel"
    elif action == "cancel":
        action = "update"  # Booked again between the event and the fetch.
    return [
        VisitChange(
            action=action,
            visit_id=visit_id,
            version=order,
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
    found = event.data.at("id")
    written = found.required_text()
    if not re.fullmatch("[1-9][0-9]{0,18}", written):
        raise found.unexpected("a number in digits")
    return written


def _cancelled(record: Payload, action: Action) -> bool | None:
    """None: neither the record nor the event tells. An old `scheduled`, replayed, is no proof that it still stands."""
    said = record.at("canceled").boolean()
    return True if said is None and action == "cancel" else said


def _no_show(record: Payload) -> bool | None:
    """None: the record does not tell. An appointment that stands has no `noShow`, and is none."""
    said = record.at("noShow").boolean()
    return False if said is None and record.at("canceled").boolean() is False else said


def _since(fetched_at: datetime, flag: bool | None) -> datetime | None | Unset:
    if flag is None:
        return UNSET
    return fetched_at if flag else None


def _amount(record: Payload) -> Decimal | None | Unset:
    """`price` is what it costs, `amountPaid` what was collected; both in whole currency units."""
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
