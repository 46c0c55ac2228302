"""YouCanBook.me: bookings, by a body that the customer pastes into its settings (below).

From https://support.youcanbook.me/hc/en-us/articles/17321777608727-Webhooks and "Passing data to other systems" there: a
webhook is an action for one trigger (booking made, rescheduled, cancelled, marked as a no-show, follow-up), with an
address, a method, headers, and a body of the customer's own with shorthand codes in it, which are replaced as text.
Nothing is signed, so a header carries a token; no retries are mentioned.

Nothing in such a body dates it, but a booking's life has an order of its own: a move comes after the booking, and after a
cancel, a no-show or a follow-up nothing moves any more. So each counts as one step, and only of several moves the one that
arrived last wins. The same move twice, to the byte, is taken for a retry.

`{START-ISO-8601}` and `{START-MILLIS}` are in the vendor's table of codes (youcanbook.me/feature/mailmerge); an integrator
uses `{REF}`, `{LNAME}` and `{PHONE}`. By analogy only: `{END-ISO-8601}`. A code that YouCanBook.me does not know stays as
it was typed: as a reference, or as the start of a booking, it is refused; elsewhere it says nothing, so that a cancel is
never lost.

Not known: whether the reference stays when a booking moves. The vendor says that a reschedule makes a replacement of the
original, so the recipe calls a move `replaced`: what it says is applied, and an operator looks at it, because the visit
under the old reference may still be there. Who has seen that the reference stays calls it `rescheduled`.
"""

import re
from datetime import datetime

from app.visits.change import UNSET, Action, Contact, VisitChange, unix_microseconds
from app.webhooks.delivery import Event
from app.webhooks.payload import Payload
from app.webhooks.signatures.scheme import MIN_CHOSEN_SECRET_BYTES
from app.webhooks.signatures.token import HeaderToken
from app.webhooks.source import Ignored, PartlyTranslatable, Source

SETUP = """
1. Make up a token (32 random characters or more) and set it as HOOKS__YOUCANBOOKME__SECRETS.
2. In the booking page's Notifications, under "When a booking is made", press + and Webhook. Destination URL: {url}, method
   POST, delay 0. Add the headers X-Doorbell-Token with the token, and Content-Type with application/json. Payload:
   {"event": "booked", "reference": "{REF}", "start": "{START-ISO-8601}", "end": "{END-ISO-8601}", "email": "{EMAIL}",
   "first_name": "{FNAME}", "last_name": "{LNAME}", "phone": "{PHONE}"}
3. The code for the booking's reference may have another name than {REF}: take it from the list of codes. Leave out what
   your form does not ask for.
4. Do the same for the other triggers, with another `event`: replaced when a booking is rescheduled, cancelled, no_show, and
   completed for a follow-up after the booking (delay 0). Reminders need none.
5. Book once, move the booking, and compare the two deliveries. If both have the same reference, change `replaced` to
   `rescheduled`. Otherwise leave it: every move then needs an operator, who cancels the visit at the old time.
6. Where the codes give times without an offset, set HOOKS__YOUCANBOOKME__TIMEZONE.

Not told: a booking that you move or delete in your own calendar; whether a tentative booking was confirmed (it is told as
made, and counts); money; a no-show that is taken back. YouCanBook.me signs nothing: anyone who knows the token can say
anything about any booking. A quotation mark in a name breaks the payload, and such a delivery is refused with 400 and lost.
A booking that is moved to a time, away, and to that time again within eight days stays away: both moves read the same.
"""

SOURCE = Source(
    title="YouCanBook.me",
    docs="https://support.youcanbook.me/hc/en-us/articles/17321777608727-Webhooks",
    evidence="recalled",
    signature=HeaderToken("X-Doorbell-Token", min_length=MIN_CHOSEN_SECRET_BYTES),
    setup=SETUP,
    event_name_path=("event",),
)

#: What each trigger does, and how far into a booking's life it comes.
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
    start = _moment(event, "start")
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
            time_completed=(_moment(event, "end") or event.received_at) if kind == "completed" else UNSET,
            date_cancelled=event.received_at if action == "cancel" else UNSET,
            no_show=event.received_at if kind == "no_show" else UNSET,
            times_are_observed=True,
        )
    ]
    if kind == "replaced":
        raise PartlyTranslatable(REPLACED, changes)
    return changes


REPLACED = "a booking was moved, and its old reference is not told: a visit at the old time must be cancelled by hand"


def _reference(found: Payload) -> str:
    if _CODE.search(found.required_text()):
        raise found.unexpected("a booking's reference in the place of its code")
    return found.required_text()


_CODE = re.compile(r"\{[A-Z0-9_-]+\}")


def _moment(event: Event, name: str) -> datetime | None:
    """`2026-10-01T15:00:00+0000`, or the milliseconds since 1970; nothing where the code was not replaced."""
    found = event.data.at(name)
    written = found.text() or ""
    if _CODE.search(written):
        return None
    return Payload(int(written), name).unix_ms() if _MILLIS.fullmatch(written) else found.time(event.zone)


_MILLIS = re.compile("[0-9]{12,13}")


def _contact(data: Payload) -> Contact:
    """A code that was not replaced is nobody's name."""

    def said(name: str) -> str | None:
        text = data.at(name).text()
        return None if text and _CODE.search(text) else text

    return Contact(email=said("email"), first_name=said("first_name"), last_name=said("last_name"), phone=said("phone"))
