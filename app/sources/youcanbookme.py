"""YouCanBook.me: bookings, in a body that the customer pastes into its settings (see SETUP).

From https://support.youcanbook.me/hc/en-us/articles/17321777608727-Webhooks and "Passing data to other systems" there:
a webhook is an action for one trigger (booking made, rescheduled, cancelled, marked as a no-show, follow-up), with a
URL, a method, headers, and a body that the customer writes, with shorthand codes that are replaced as text. Nothing is
signed, so a header contains a token. The pages mention no retries.

Such a body has no time, but the events of a booking have a natural order: a move comes after the booking, and after a
cancel, a no-show or a follow-up there are no moves. So the version is the step in that order, and of several moves the one
that arrived last wins. An identical move counts as a retry.

`{START-ISO-8601}` and `{START-MILLIS}` are in the vendor's table of codes (youcanbook.me/feature/mailmerge); an
integrator uses `{REF}`, `{LNAME}` and `{PHONE}`. `{END-ISO-8601}` is assumed by analogy. YouCanBook.me does not replace
codes that it does not know: as a reference, or as the start of a booking, such a code is an error; elsewhere it is
ignored, so that a cancellation is never lost.

It is not known whether a booking has the same reference after a move. The vendor says that a reschedule creates a
replacement of the original, so SETUP calls a move `replaced`: it is applied and parked, because the visit under the old
reference may still exist. Customers whose references do not change call it `rescheduled`.
"""

import re
from datetime import datetime

from app.visits.change import UNSET, Action, Contact, VisitChange, unix_microseconds
from app.webhooks import MIN_CHOSEN_SECRET_BYTES, Event, HeaderToken, Ignored, PartlyTranslatable, Payload, Source

SETUP = """
1. Make up a token (32 random characters or more) and set it as HOOKS__YOUCANBOOKME__SECRETS.
2. In the booking page's Notifications, under "When a booking is made", press + and Webhook. Destination URL: {url}, method
   POST, delay 0. Add the headers X-Doorbell-Token with the token, and Content-Type with application/json. Payload:
   {"event": "booked", "reference": "{REF}", "start": "{START-ISO-8601}", "end": "{END-ISO-8601}", "email": "{EMAIL}",
   "first_name": "{FNAME}", "last_name": "{LNAME}", "phone": "{PHONE}"}
3. In the list of codes, check the code for the booking's reference: it may have another name than {REF}. Remove the
   fields that your form does not ask for.
4. Do the same for the other triggers, with another `event`: `replaced` when a booking is rescheduled, `cancelled`,
   `no_show`, and `completed` for a follow-up after the booking (delay 0). Reminders need no webhook.
5. Create a booking, move it, and compare the two deliveries. If both have the same reference, change `replaced` to
   `rescheduled`. Otherwise every move needs an operator, who cancels the visit at the old time.
6. If the codes produce times without an offset, set HOOKS__YOUCANBOOKME__TIMEZONE.

YouCanBook.me does not send: bookings that you move or delete in your own calendar; whether a tentative booking was
confirmed (it is sent as booked, and counts); payments; the removal of a no-show. It signs nothing: anyone who knows the
token can change any booking. A quotation mark in a name breaks the payload: the delivery is rejected with 400 and lost.
If a booking is moved to a time, then to another time, and back within eight days, Doorbell ignores the last move: it is
identical to the first.
"""

SOURCE = Source(
    title="YouCanBook.me",
    docs="https://support.youcanbook.me/hc/en-us/articles/17321777608727-Webhooks",
    evidence="none",
    signature=HeaderToken("X-Doorbell-Token", min_length=MIN_CHOSEN_SECRET_BYTES),
    setup=SETUP,
    event_name_path=("event",),
)

#: The action of each trigger, and its position in the order of a booking's events.
STEPS: dict[str, tuple[Action, int]] = {
    "booked": ("create", 0),
    "rescheduled": ("update", 1),
    "replaced": ("update", 1),
    "completed": ("update", 2),
    "no_show": ("update", 2),
    "cancelled": ("cancel", 2),
    "canceled": ("cancel", 2),
}


def translate(event: Event) -> list[VisitChange] | Ignored:
    kind = event.data.at("event").required_text().lower().replace("-", "_")
    if kind not in STEPS:
        return Ignored(kind)
    action, step = STEPS[kind]
    start = _time(event, "start")
    if not start and step < 2:
        raise event.data.at("start").unexpected("a time, in ISO 8601 or in milliseconds")
    changes = [
        VisitChange(
            action=action,
            visit_id=_reference(event.data.at("reference")),
            version=step,
            observed_at_us=unix_microseconds(event.received_at),
            contact=_contact(event.data),
            time_scheduled=start or UNSET,
            time_completed=(_time(event, "end") or event.received_at) if kind == "completed" else UNSET,
            date_cancelled=event.received_at if action == "cancel" else UNSET,
            no_show=event.received_at if kind == "no_show" else UNSET,
            times_are_observed=True,
        )
    ]
    if kind == "replaced":
        raise PartlyTranslatable(REPLACED, changes)
    return changes


REPLACED = "a booking was moved, and the event does not name the old one: cancel the visit at the old time by hand"


def _reference(value: Payload) -> str:
    if _CODE.search(value.required_text()):
        raise value.unexpected("a booking's reference instead of its code")
    return value.required_text()


_CODE = re.compile(r"\{[A-Z0-9_-]+\}")


def _time(event: Event, name: str) -> datetime | None:
    """Parse `2026-10-01T15:00:00+0000`, or milliseconds since 1970; return None for a code that was not replaced."""
    value = event.data.at(name)
    text = value.text() or ""
    if _CODE.search(text):
        return None
    return Payload(int(text), name).unix_ms() if _MILLIS.fullmatch(text) else value.time(event.zone)


_MILLIS = re.compile("[0-9]{12,13}")


def _contact(data: Payload) -> Contact:
    """Return the contact without codes that were not replaced."""

    def field(name: str) -> str | None:
        text = data.at(name).text()
        return None if text and _CODE.search(text) else text

    return Contact(
        email=field("email"), first_name=field("first_name"), last_name=field("last_name"), phone=field("phone")
    )
