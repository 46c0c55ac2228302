"""Appointlet: meetings. https://kb.appointlet.help/en/articles/4968412-using-webhooks-with-appointlet

One webhook rings for everything: meetings, their attendees, meeting types, members, fields. An event is an activity, with
`id`, `action` and `created_at`, about the `entity` in it. Nothing is signed, so the address carries a token. In the vendor's
sample of a meeting that was just scheduled `approved` is null and `confirmed` is false, so neither is read: what happened
is in `action`.

The page spells out one action, `Meeting.scheduled`; the others are made from its list of names and compared whatever
their case, with one l or two. Recalled: `entity.attendees` with their names and addresses, and an attendee's `meeting`.
Guessed: that a meeting keeps its id when it is rescheduled.

A group meeting is one visit here, of whoever joined it last. When somebody leaves it, nothing says whose visit that was, so
it ends until somebody is named again: an attendee may be asked for no review, and nobody is asked who did not come.
"""

from app.delivery import Event
from app.reading import Json
from app.signatures import PathToken
from app.sources import Ignored, Source
from app.visits.words import UNSAID, Contact, VisitChange, microseconds

SETUP = """
1. Set HOOKS__APPOINTLET__SECRETS to a word of your own and SECRET_KEY to 32 random characters or more. Restart.
2. In Appointlet open Settings, Webhooks, Add Webhook, and paste {url}
   There is nothing to tick: it rings for everything, and what is not about meetings is ignored.

Appointlet signs nothing: keep that address to yourself. It tells neither completions nor no-shows nor payments, so a review
request counts from the start. A group meeting is one visit, of whoever joined last, and none once somebody left it. Phone
numbers on the form are not read.
"""

SOURCE = Source(
    title="Appointlet",
    docs="https://kb.appointlet.help/en/articles/4968412-using-webhooks-with-appointlet",
    evidence="recalled",
    signature=PathToken(),
    setup=SETUP,
    event=("action",),
    repeat_key=lambda event: event.data.at("id").text(),
)


BOOKS = {"meeting.scheduled", "meeting.approved", "meeting.rescheduled"}
ENDS = {"meeting.cancelled", "meeting.canceled", "meeting.declined"}
JOINS = {"attendee.scheduled", "attendee.approved"}
LEAVES = {"attendee.cancelled", "attendee.canceled", "attendee.declined"}


def translate(event: Event) -> list[VisitChange] | Ignored:
    action, entity = event.data.at("action").needed_text(), event.data.at("entity")
    kind = action.lower().replace(" ", ".")
    if kind in JOINS | LEAVES:
        return _attended(event, entity, kind in LEAVES) or Ignored(action)
    if kind not in BOOKS | ENDS:
        return Ignored(action)
    happened_at, is_off = event.data.at("created_at").needed_moment(), kind in ENDS
    start, contact = entity.at("start"), _contact(entity.at("attendees"))
    is_of_somebody = bool(contact and contact.email)
    return [
        VisitChange(
            action="cancel" if is_off else "create" if kind == "meeting.scheduled" else "update",
            visit_id=entity.at("id").needed_text(),
            order=microseconds(happened_at),
            contact=contact,
            time_scheduled=(start.moment(event.zone) or UNSAID) if is_off else start.needed_moment(event.zone),
            date_cancelled=happened_at if is_off else None if is_of_somebody else UNSAID,
        )
    ]


def _attended(event: Event, attendee: Json, leaves: bool) -> list[VisitChange]:
    """Whose meeting it is, where an attendee says which that is."""
    meeting_id, contact = _id(attendee.at("meeting")), _attendee(attendee)
    if not meeting_id or not (leaves or contact.email):
        return []
    happened_at = event.data.at("created_at").needed_moment()
    return [
        VisitChange(
            action="cancel" if leaves else "update",
            visit_id=meeting_id,
            order=microseconds(happened_at),
            contact=None if leaves else contact,
            date_cancelled=happened_at if leaves else None,
        )
    ]


def _id(found: Json) -> str | None:
    return found.at("id").text() if isinstance(found.value, dict) else found.text()


def _contact(attendees: Json) -> Contact | None:
    """The first who can be written to."""
    known = [_attendee(attendee) for attendee in attendees]
    return next((contact for contact in known if contact.email), known[0] if known else None)


def _attendee(attendee: Json) -> Contact:
    first, last = attendee.at("first_name").text(), attendee.at("last_name").text()
    if not (first or last):
        first, last = [*(attendee.at("name").text() or "").rsplit(maxsplit=1), None, None][:2]
    return Contact(
        email=attendee.at("email").text(),
        first_name=first,
        last_name=last,
        phone=attendee.at("phone").text() or attendee.at("phone_number").text(),
    )
