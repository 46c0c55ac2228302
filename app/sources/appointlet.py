"""Appointlet: meetings and their attendees.

From https://kb.appointlet.help/en/articles/4968412-using-webhooks-with-appointlet: one webhook gets all events: those
of meetings, their attendees, meeting types, members and fields. An event is an activity with `id`, `action` and
`created_at`; it is about its `entity`. Nothing is signed, so the URL contains a token. In the vendor's sample of a
meeting that was just scheduled, `approved` is null and `confirmed` is false, so neither is read: `action` shows what
happened.

The page has the exact name of only one action, `Meeting.scheduled`. The other names are derived from its list. Names
are compared without regard to case, and `canceled` may have one l or two. From memory: `entity.attendees` with names
and e-mail addresses, and an attendee's `meeting`. Guessed: a meeting has the same id after a reschedule.

Each attendee of a meeting has a visit. Its id is the meeting's id and a digest of the e-mail address (without an
address: the attendee's id), so a person who is listed twice has one visit. The visit of the only attendee of a new
meeting has the meeting's id. An event of the meeting that lists several attendees does not restore the visit of an
attendee who left. A meeting without attendees is parked, and so is an attendee who has neither an e-mail address nor an
id. The event of an attendee who joins does not have the start of the meeting, so the visit waits for an event of the
meeting.

Older accounts send `{"type": "booking", "action": …}`. No documentation of this format was found, so it is parked.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from app.visits.change import UNSET, Contact, VisitChange, attendee_visit_id, unix_microseconds
from app.webhooks import (
    NO_ATTENDEE_ID,
    Event,
    Ignored,
    PartlyTranslatable,
    PathToken,
    Payload,
    Source,
    Untranslatable,
    attendee_key,
    split_name,
)

SETUP = """
1. Set HOOKS__APPOINTLET__SECRETS to a word that you choose, and SECRET_KEY to 32 random characters or more. Restart.
2. In Appointlet, open Settings, Webhooks, Add Webhook, and paste {url} there. You do not select events: Appointlet
   sends all of them, and Doorbell ignores those that are not about meetings.

Appointlet signs nothing, so do not share that URL. It sends no completions, no-shows or payments, so review requests
are timed from the start of the meeting. Every attendee of a group meeting has a visit. The visit of an attendee who
joins later waits for an event of the meeting that lists them; without such an event, it needs an operator after a day.
Doorbell does not read phone numbers on the form. It does not support webhooks of legacy accounts: each of their
deliveries needs an operator.
"""

SOURCE = Source(
    title="Appointlet",
    docs="https://kb.appointlet.help/en/articles/4968412-using-webhooks-with-appointlet",
    evidence="none",
    signature=PathToken(),
    setup=SETUP,
    event_name_path=("action",),
    repeat_key=lambda event: event.data.at("id").text(),
)


BOOKED = {"meeting.scheduled", "meeting.approved", "meeting.rescheduled"}
CANCELLED = {"meeting.cancelled", "meeting.canceled", "meeting.declined"}
JOINED = {"attendee.scheduled", "attendee.approved"}
LEFT_EVENTS = {"attendee.cancelled", "attendee.canceled", "attendee.declined"}

LEGACY = "a booking of a legacy account, whose webhooks are not supported"
NOBODY_LISTED = "a meeting was cancelled, and the event does not list its attendees"
#: An activity this soon after the creation of its meeting is the booking that created it.
CREATED_WITHIN = timedelta(minutes=1)


def translate(event: Event) -> list[VisitChange] | Ignored:
    if (event.data.at("type").text() or "").lower() == "booking":
        raise Untranslatable(LEGACY)
    action, entity = event.data.at("action").required_text(), event.data.at("entity")
    kind = action.lower().replace(" ", ".")
    if kind in BOOKED | CANCELLED:
        return _meeting(event, kind, entity)
    if kind in LEFT_EVENTS or (kind in JOINED and _id(entity.at("meeting"))):
        return [_attendee_change(event, entity, kind in LEFT_EVENTS)]
    return Ignored(action)


def _meeting(event: Event, kind: str, meeting: Payload) -> list[VisitChange]:
    meeting_id, attendees = meeting.at("id").required_text(), list(meeting.at("attendees"))
    happened_at, is_cancelled = event.data.at("created_at").required_time(), kind in CANCELLED
    start = meeting.at("start")
    base = VisitChange(
        action="cancel" if is_cancelled else "create" if kind == "meeting.scheduled" else "update",
        visit_id=meeting_id,
        version=unix_microseconds(happened_at),
        time_scheduled=(start.time(event.zone) or UNSET) if is_cancelled else start.required_time(event.zone),
        date_cancelled=happened_at if is_cancelled else None,
    )
    by_key = {key: attendee for attendee in attendees if (key := attendee_key(attendee))}
    is_alone = len(by_key) == len(attendees) == 1
    creates_meeting = kind == "meeting.scheduled" and is_alone and _creates_meeting(happened_at, meeting)
    changes = [
        replace(
            base,
            visit_id=attendee_visit_id(meeting_id, key),
            previous_visit_id=meeting_id if creates_meeting else None,
            contact=_contact(attendee),
            date_left=None if is_alone and not is_cancelled else UNSET,
        )
        for key, attendee in by_key.items()
    ]
    if not attendees and not is_cancelled:
        raise meeting.at("attendees").unexpected("the attendees")
    if not attendees:
        # The meeting's id is an alias of the visit of an only attendee, so the changes of that visit outrank a
        # cancellation of the meeting's id. None of them sets no_show.
        raise PartlyTranslatable(NOBODY_LISTED, [replace(base, no_show=happened_at)])
    if not all(map(attendee_key, attendees)):
        raise PartlyTranslatable(NO_ATTENDEE_ID, changes)
    return changes


def _creates_meeting(happened_at: datetime, meeting: Payload) -> bool:
    """Return whether this booking created the meeting, rather than added an attendee to it."""
    created_at = meeting.at("created_at").time()
    return created_at is None or abs(happened_at - created_at) <= CREATED_WITHIN


def _attendee_change(event: Event, attendee: Payload, has_left: bool) -> VisitChange:
    meeting_id, key = _id(attendee.at("meeting")), attendee_key(attendee)
    if not meeting_id:
        raise attendee.at("meeting").unexpected("the meeting that the attendee left")
    if not key:
        raise Untranslatable(NO_ATTENDEE_ID)
    happened_at = event.data.at("created_at").required_time()
    start = attendee.at("meeting", "start").time(event.zone) or UNSET
    return VisitChange(
        action="cancel" if has_left else "update",
        visit_id=attendee_visit_id(meeting_id, key),
        version=unix_microseconds(happened_at),
        contact=_contact(attendee),
        time_scheduled=start,
        date_left=happened_at if has_left else None,
    )


def _id(reference: Payload) -> str | None:
    return reference.at("id").text() if isinstance(reference.value, dict) else reference.text()


def _contact(attendee: Payload) -> Contact:
    first, last = attendee.at("first_name").text(), attendee.at("last_name").text()
    if not (first or last):
        first, last = split_name(attendee.at("name").text())
    return Contact(
        email=attendee.at("email").text(),
        first_name=first,
        last_name=last,
        phone=attendee.at("phone").text() or attendee.at("phone_number").text(),
    )
