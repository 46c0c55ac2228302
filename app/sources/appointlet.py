"""Appointlet: meetings. https://kb.appointlet.help/en/articles/4968412-using-webhooks-with-appointlet

One webhook rings for everything: meetings, their attendees, meeting types, members, fields. An event is an activity, with
`id`, `action` and `created_at`, about the `entity` in it. Nothing is signed, so the address carries a token. In the vendor's
sample of a meeting that was just scheduled `approved` is null and `confirmed` is false, so neither is read: what happened
is in `action`.

The page spells out one action, `Meeting.scheduled`; the others are made from its list of names and compared whatever
their case, with one l or two. Recalled: `entity.attendees` with their names and addresses, and an attendee's `meeting`.
Guessed: that a meeting keeps its id when it is rescheduled.

Each attendee of a meeting is a visit, named by the meeting's id and a digest of the address (without an address: the
attendee's id), so the same person twice is one visit. Who is alone in the meeting as it is made keeps the meeting's id as
the visit's name. Whoever left is not taken back by an event of the meeting that lists others too.
A meeting that lists nobody is parked, and so is whatever cannot be told apart. Somebody who joins is told without the
meeting's time: the visit waits for an event of the meeting.

Older accounts send `{"type": "booking", "action": …}`. No description of it was found, so it is parked.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from app.visits.change import UNSET, Contact, VisitChange, attendee_visit_id, unix_microseconds
from app.webhooks.delivery import Event
from app.webhooks.payload import Payload, Untranslatable
from app.webhooks.signatures.token import PathToken
from app.webhooks.source import Ignored, PartlyTranslatable, Source

SETUP = """
1. Set HOOKS__APPOINTLET__SECRETS to a word of your own and SECRET_KEY to 32 random characters or more. Restart.
2. In Appointlet open Settings, Webhooks, Add Webhook, and paste {url}
   There is nothing to tick: it rings for everything, and what is not about meetings is ignored.

Appointlet signs nothing: keep that address to yourself. It tells neither completions nor no-shows nor payments, so a review
request counts from the start. Every attendee of a group meeting is a visit; one who joins later becomes one as soon as an
event of the meeting lists them, and needs an operator after a day without one. Phone numbers on the form are not read. The
webhooks of legacy accounts are not understood: each delivery needs an operator.
"""

SOURCE = Source(
    title="Appointlet",
    docs="https://kb.appointlet.help/en/articles/4968412-using-webhooks-with-appointlet",
    evidence="recalled",
    signature=PathToken(),
    setup=SETUP,
    event_name_path=("action",),
    repeat_key=lambda event: event.data.at("id").text(),
)


BOOKS = {"meeting.scheduled", "meeting.approved", "meeting.rescheduled"}
ENDS = {"meeting.cancelled", "meeting.canceled", "meeting.declined"}
JOINS = {"attendee.scheduled", "attendee.approved"}
LEAVES = {"attendee.cancelled", "attendee.canceled", "attendee.declined"}

LEGACY = "a booking of a legacy account, whose webhooks are not understood"
NOBODY_LISTED = "a meeting ended, and whose visits end with it is not told"
UNTOLD = "an attendee has neither an e-mail address nor an id"
#: An activity that follows the making of its meeting within this time is what made it.
MADE_WITHIN = timedelta(minutes=1)


def translate(event: Event) -> list[VisitChange] | Ignored:
    if (event.data.at("type").text() or "").lower() == "booking":
        raise Untranslatable(LEGACY)
    action, entity = event.data.at("action").required_text(), event.data.at("entity")
    kind = action.lower().replace(" ", ".")
    if kind in BOOKS | ENDS:
        return _meeting(event, kind, entity)
    if kind in LEAVES or (kind in JOINS and _id(entity.at("meeting"))):
        return [_attended(event, entity, kind in LEAVES)]
    return Ignored(action)


def _meeting(event: Event, kind: str, meeting: Payload) -> list[VisitChange]:
    meeting_id, people = meeting.at("id").required_text(), list(meeting.at("attendees"))
    happened_at, is_off, start = event.data.at("created_at").required_time(), kind in ENDS, meeting.at("start")
    bare = VisitChange(
        action="cancel" if is_off else "create" if kind == "meeting.scheduled" else "update",
        visit_id=meeting_id,
        version=unix_microseconds(happened_at),
        time_scheduled=(start.time(event.zone) or UNSET) if is_off else start.required_time(event.zone),
        date_cancelled=happened_at if is_off else None,
    )
    known = {key: person for person in people if (key := _key(person))}
    is_alone = len(known) == len(people) == 1
    is_made = kind == "meeting.scheduled" and is_alone and _is_made_by(happened_at, meeting)
    changes = [
        replace(
            bare,
            visit_id=attendee_visit_id(meeting_id, key),
            previous_visit_id=meeting_id if is_made else None,
            contact=_contact(person),
            date_left=None if is_alone and not is_off else UNSET,
        )
        for key, person in known.items()
    ]
    if not people and not is_off:
        raise meeting.at("attendees").unexpected("the attendees")
    if not people:
        # A change for a person who was alone in it outranks a cancel under the meeting's own id, but tells no no-show.
        raise PartlyTranslatable(NOBODY_LISTED, [replace(bare, no_show=happened_at)])
    if not all(map(_key, people)):
        raise PartlyTranslatable(UNTOLD, changes)
    return changes


def _is_made_by(happened_at: datetime, meeting: Payload) -> bool:
    """Is it not somebody else's booking in a meeting that is there already?"""
    made_at = meeting.at("created_at").time()
    return made_at is None or abs(happened_at - made_at) <= MADE_WITHIN


def _attended(event: Event, attendee: Payload, leaves: bool) -> VisitChange:
    meeting_id, key = _id(attendee.at("meeting")), _key(attendee)
    if not meeting_id:
        raise attendee.at("meeting").unexpected("the meeting that the attendee left")
    if not key:
        raise Untranslatable(UNTOLD)
    happened_at = event.data.at("created_at").required_time()
    start = attendee.at("meeting", "start").time(event.zone) or UNSET
    return VisitChange(
        action="cancel" if leaves else "update",
        visit_id=attendee_visit_id(meeting_id, key),
        version=unix_microseconds(happened_at),
        contact=_contact(attendee),
        time_scheduled=start,
        date_left=happened_at if leaves else None,
    )


def _id(found: Payload) -> str | None:
    return found.at("id").text() if isinstance(found.value, dict) else found.text()


def _key(attendee: Payload) -> str | None:
    """What an attendee of one meeting is told by."""
    email = (attendee.at("email").text() or "").lower()
    return email if "@" in email else attendee.at("id").text()


def _contact(attendee: Payload) -> Contact:
    first, last = attendee.at("first_name").text(), attendee.at("last_name").text()
    if not (first or last):
        first, last = [*(attendee.at("name").text() or "").rsplit(maxsplit=1), None, None][:2]
    return Contact(
        email=attendee.at("email").text(),
        first_name=first,
        last_name=last,
        phone=attendee.at("phone").text() or attendee.at("phone_number").text(),
    )
