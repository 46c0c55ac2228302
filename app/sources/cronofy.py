"""Cronofy: times chosen in its Scheduler or by Real-Time Scheduling, and answers to Smart Invites.

From https://docs.cronofy.com/developers (push-notifications, embedded-scheduler/receiving-updates,
workflow-triggers/scheduling-triggers, smart-invites/invite-callback): the header is a list of signatures in base64, one
for each client secret that is active. Three products ring in three shapes, and each knows a part of a visit only:

- the Scheduler (`scheduling_request_time_chosen`): the person, and the time of the webhook (`triggered_at`, which
  orders). The documented example has no chosen time; it is read where an event has one, as everywhere else at Cronofy;
- Real-Time Scheduling, without `notification`: the time, not who;
- Smart Invites: who, and whether they come; not the time. A `proposal` is a wish and changes nothing.

The last two go by an id of the caller's own: given the same, they meet in one visit, and neither speaks of what the other
knows. They carry no clock, so the moment of their arrival orders, and the same a second time, to the byte, is taken for
a retry. A visit without a time or without an address waits for it, and is parked after a day. What calendars tell of
their changes (`change`) names no visit.

Several people are several visits where the delivery tells both who and when: recipients of a Scheduler request who may each
choose the time have the request's id with their address behind it; one alone has the request's id. Of several recipients
of whom none may choose, the customer cannot be told, and the request is parked.

An invite does not tell the time, so its visit has the id under which Real-Time Scheduling tells it, which is
`smart_invite_id`, without the recipient: the first delivery cannot know whether the caller invites others under it. If so,
the visit stays the first recipient's, the answers of the others do not touch it, and the visit is parked so that an
operator sees them. An invite that names several recipients at once (`recipients`, `replies`) is parked.

Recalled: the Scheduler's events besides that one. What calls itself cancelled or declined is a cancel, a
`scheduling_request_rescheduled` is a chosen time; anything else is ignored.
"""

from dataclasses import replace
from datetime import datetime

from app.visits.change import UNSET, Contact, Unset, VisitChange, attendee_visit_id, unix_microseconds
from app.webhooks.delivery import Event
from app.webhooks.payload import Payload, Untranslatable
from app.webhooks.signatures.hmac import Hmac
from app.webhooks.source import Ignored, Source

SETUP = """
1. Set HOOKS__CRONOFY__SECRETS to your application's client secret (Cronofy's developer dashboard, Credentials). While
   secrets rotate, any that is active will do.
2. Where you ask for times or send invites yourself, give {url} as `callback_url` of the Smart Invite and as
   `callback_urls.completed_url` of Real-Time Scheduling, both with the same id of your own for the same appointment
   (`smart_invite_id` and `event.event_id`), a new one for each appointment and each guest. One without the other lacks
   the time or the guest.
3. For the embedded Scheduler, paste {url} as "Embed webhook callback URL" in the same place.
4. Make no notification channel with this address: a channel only says that some calendar changed, which is ignored here,
   and after a day of failures Cronofy closes it for good.

Cronofy tells neither completions nor no-shows nor money, so a review request counts from the start. An invite that you
cancel through its API is not told either. Of several guests invited under one id only the first has a visit, and it needs
your attention in the console. A guest who accepts, declines, and accepts again in the same words stays
declined: the last answer reads like the first, and no time tells them apart.
"""

SOURCE = Source(
    title="Cronofy",
    docs="https://docs.cronofy.com/developers/push-notifications/",
    evidence="recalled",
    signature=Hmac(header="Cronofy-HMAC-SHA256", encoding="base64", separator=","),
    setup=SETUP,
    event_name_path=("notification", "type"),
    ordered_by_arrival=True,
)

CHOSEN = {"scheduling_request_time_chosen", "scheduling_request_rescheduled"}
CALLED_OFF = {f"scheduling_request_{word}" for word in ("cancelled", "canceled", "declined")}


def translate(event: Event) -> list[VisitChange] | Ignored:
    kind = event.data.at("notification", "type")
    if not kind and event.data.at("event"):
        return _picked(event)
    match kind.required_text():
        case "smart_invite":
            return [_answered(event, event.data.at("smart_invite"))]
        case name if name in CHOSEN:
            return _chosen(event, event.data.at("scheduling_request"))
        case name if name in CALLED_OFF:
            return _called_off(event, event.data.at("scheduling_request"))
        case name:
            return Ignored(name)


def _chosen(event: Event, request: Payload) -> list[VisitChange] | Ignored:
    selection = request.at("slot_selection").text() or "complete"
    if selection != "complete":
        return Ignored(f"slot selection {selection}")
    if not _who_chooses(request) and len(_recipients(request)) > 1:
        raise Untranslatable("several recipients, and none may choose the time: the customer cannot be told")
    start = _start(event, request.at("event"))
    return [replace(known, time_scheduled=start, date_cancelled=None) for known in _requested(event, request)]


def _called_off(event: Event, request: Payload) -> list[VisitChange]:
    """Where nobody is marked as choosing the time any more, for all who may have been."""
    at, known = _triggered_at(event), _requested(event, request)
    asked = _recipients(request)
    if not _who_chooses(request) and len(asked) > 1:
        id = request.at("scheduling_request_id").required_text()
        known += [replace(known[0], visit_id=attendee_visit_id(id, email)) for email in asked]
    return [replace(one, action="cancel", date_cancelled=at) for one in known]


def _requested(event: Event, request: Payload) -> list[VisitChange]:
    """For each recipient who may choose the time; else for the only one who is asked, or for somebody unknown."""
    id, asked = request.at("scheduling_request_id").required_text(), _recipients(request)
    people = _who_chooses(request) or asked
    known = VisitChange(action="update", visit_id=id, version=unix_microseconds(_triggered_at(event)))
    if not people or (len(people) > 1 and people is asked):
        return [known]
    phone = _phone(request) if len(people) == 1 else None
    changes = {email: replace(known, contact=_contact(person, phone)) for email, person in people.items()}
    if len(changes) == 1:
        return list(changes.values())
    return [replace(change, visit_id=attendee_visit_id(id, email)) for email, change in changes.items()]


def _recipients(request: Payload) -> dict[str, Payload]:
    """By their addresses, each once."""
    found: dict[str, Payload] = {}
    for one in request.at("recipients"):
        if email := one.at("email").text():
            found.setdefault(email.lower(), one)
    return found


def _who_chooses(request: Payload) -> dict[str, Payload]:
    return {email: one for email, one in _recipients(request).items() if one.at("slot_selector").boolean()}


def _triggered_at(event: Event) -> datetime:
    return event.data.at("notification", "triggered_at").required_time()


def _phone(request: Payload) -> str | None:
    asked = request.at("event", "metadata", "scheduler")
    phones = (asked.at("captured_data.phone_number").value, asked.at("captured_data", "phone_number").value)
    return next((phone for phone in phones if isinstance(phone, str)), None)


def _contact(guest: Payload, phone: str | None = None) -> Contact:
    first, last = [*(guest.at("display_name").text() or "").rsplit(maxsplit=1), None, None][:2]
    return Contact(email=guest.at("email").text(), first_name=first, last_name=last, phone=phone)


def _start(event: Event, about: Payload) -> datetime | Unset:
    """A time with its zone beside it, or the time alone."""
    start = about.at("start")
    return (start.at("time") if isinstance(start.value, dict) else start).time(event.zone) or UNSET


def _picked(event: Event) -> list[VisitChange] | Ignored:
    """Real-Time Scheduling: a slot was picked, or none would do. Whether the guest comes is for the invite to say."""
    about = event.data.at("event")
    start = _start(event, about)
    if start is UNSET:
        return Ignored("no time was chosen")
    return [
        VisitChange(
            action="create",
            visit_id=about.at("event_id").required_text(),
            version=unix_microseconds(event.received_at),
            time_scheduled=start,
        )
    ]


def _answered(event: Event, invite: Payload) -> VisitChange:
    if len(list(invite.at("recipients"))) > 1 or len(list(invite.at("replies"))) > 1:
        raise Untranslatable("an invite with several recipients: an invite's id stands for one visit")
    recipient = invite.at("recipient") or invite.at("reply")
    status = recipient.at("status")
    if status.text() not in ("pending", "accepted", "tentative", "declined"):
        raise status.unexpected("an answer that Cronofy documents")
    is_off = status.text() == "declined"
    return VisitChange(
        action="cancel" if is_off else "update",
        visit_id=invite.at("smart_invite_id").required_text(),
        version=unix_microseconds(event.received_at),
        contact=_contact(recipient),
        date_cancelled=event.received_at if is_off else None,
        times_are_observed=True,
        first_contact_stays=True,
    )
