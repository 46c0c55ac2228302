"""Cronofy: times chosen in its Scheduler or by Real-Time Scheduling, and replies to Smart Invites.

From https://docs.cronofy.com/developers (push-notifications, embedded-scheduler/receiving-updates,
workflow-triggers/scheduling-triggers, smart-invites/invite-callback): the header is a list of signatures in base64, one
for each client secret that is active. Three products send three formats, and each has only a part of a visit:

- the Scheduler (`scheduling_request_time_chosen`): has the person, and the time of the webhook (`triggered_at`, which
  orders the events). The documented example has no chosen time; if an event has one, it is read in the format that
  Cronofy uses elsewhere;
- Real-Time Scheduling, without `notification`: has the time, but not the person;
- Smart Invites: has the person and the reply, but not the time. A `proposal` is only a request, and changes nothing.

The last two have an id that the caller chooses: with the same id, they describe the same visit, and their fields do not
overlap. They have no time, so the time of arrival orders them, and an identical delivery counts as a retry. A visit
without a time or without an e-mail address waits for it, and is parked after a day. Changes of calendars (`change`)
name no visit.

Several people have several visits if the delivery has both the people and the time. If several recipients of a
Scheduler request may each choose the time, each visit's id is the request's id and a digest of the e-mail address. The
visit of a single recipient has the request's id. If there are several recipients and none may choose the time, the
customer is unknown, and the request is parked.

An invite has no time, so its visit needs the id that Real-Time Scheduling uses: `smart_invite_id`, without the
recipient. The first delivery does not show whether the caller invites others under the same id. If so, the visit
belongs to the first recipient, the replies of the others do not change it, and it is parked, so that an operator sees
those replies. An invite with several recipients at once (`recipients`, `replies`) is parked.

There is no SUBSCRIPTION and no LISTING, because Cronofy has no API for either (its SDKs and its pages were searched). A
Smart Invite and a link of Real-Time Scheduling each have a webhook URL, which the program that creates them chooses;
the URL of the embedded Scheduler is set only in the developer dashboard. `POST v1/channels` creates a subscription of
another kind: its `change` names no visit, and it belongs to the calendar of one user. Invites and links can be read one
by one, with an id and an address, but no request lists them. `GET v1/events?only_managed=true` lists what an
application wrote to the calendar of one user: the list does not have the guest's reply, and each user has a separate
token. So Doorbell cannot find what Cronofy did not send.

From memory: the other events of the Scheduler. A name with `cancelled` or `declined` is a cancellation,
`scheduling_request_rescheduled` is a chosen time; anything else is ignored.
"""

from dataclasses import replace
from datetime import datetime

from app.visits.change import UNSET, Contact, Unset, VisitChange, attendee_visit_id, unix_microseconds
from app.webhooks import (
    Event,
    Hmac,
    Ignored,
    Payload,
    Source,
    Untranslatable,
    split_name,
)

SETUP = """
1. Set HOOKS__CRONOFY__SECRETS to your application's client secret (Cronofy's developer dashboard, Credentials). While
   secrets rotate, use any active secret.
2. If you use Smart Invites and Real-Time Scheduling, set {url} as `callback_url` of the Smart Invite and as
   `callback_urls.completed_url` of Real-Time Scheduling. Choose a new id for each appointment and each guest, and use
   the same id in both (`smart_invite_id` and `event.event_id`): one of the two sends no time, and the other sends no
   guest.
3. For the embedded Scheduler, paste {url} as "Embed webhook callback URL" in the same place.
4. Do not create a notification channel with this URL: a channel only reports that a calendar changed, which Doorbell
   ignores, and after a day of failures Cronofy closes it permanently.

Cronofy has no API to subscribe this URL or to list appointments, so Doorbell cannot catch up on what Cronofy did not
deliver.

Cronofy sends no completions, no-shows or payments, so review requests are timed from the start. It does not report an
invite that you cancel through its API either. If several guests are invited under one id, only the first has a visit,
and it needs your attention in the console. A guest who accepts, declines and accepts again with the same text stays
declined: the last reply is identical to the first, and has no time.
"""

SOURCE = Source(
    title="Cronofy",
    docs="https://docs.cronofy.com/developers/push-notifications/",
    evidence="none",
    signature=Hmac(header="Cronofy-HMAC-SHA256", encoding="base64", separator=","),
    setup=SETUP,
    event_name_path=("notification", "type"),
    ordered_by_arrival=True,
)

TIME_CHOSEN = {"scheduling_request_time_chosen", "scheduling_request_rescheduled"}
CANCELLED = {f"scheduling_request_{word}" for word in ("cancelled", "canceled", "declined")}


def translate(event: Event) -> list[VisitChange] | Ignored:
    kind = event.data.at("notification", "type")
    if not kind and event.data.at("event"):
        return _slot_chosen(event)
    match kind.required_text():
        case "smart_invite":
            return [_invite_reply(event, event.data.at("smart_invite"))]
        case name if name in TIME_CHOSEN:
            return _chosen(event, event.data.at("scheduling_request"))
        case name if name in CANCELLED:
            return _cancelled(event, event.data.at("scheduling_request"))
        case name:
            return Ignored(name)


def _chosen(event: Event, request: Payload) -> list[VisitChange] | Ignored:
    selection = request.at("slot_selection").text() or "complete"
    if selection != "complete":
        return Ignored(f"slot selection {selection}")
    if not _slot_selectors(request) and len(_recipients(request)) > 1:
        raise Untranslatable("several recipients, and none may choose the time: the customer is unknown")
    start = _start(event, request.at("event"))
    return [replace(change, time_scheduled=start, date_cancelled=None) for change in _requested(event, request)]


def _cancelled(event: Event, request: Payload) -> list[VisitChange]:
    """Return a cancellation for each visit of the request; if nobody may select the slot, for every recipient."""
    at, changes = _triggered_at(event), _requested(event, request)
    recipients = _recipients(request)
    if not _slot_selectors(request) and len(recipients) > 1:
        id = request.at("scheduling_request_id").required_text()
        changes += [replace(changes[0], visit_id=attendee_visit_id(id, email)) for email in recipients]
    return [replace(change, action="cancel", date_cancelled=at) for change in changes]


def _requested(event: Event, request: Payload) -> list[VisitChange]:
    """Return an update for each recipient who may choose the time.

    If there is none, return one for the only recipient, or one without a contact.
    """
    id, recipients = request.at("scheduling_request_id").required_text(), _recipients(request)
    people = _slot_selectors(request) or recipients
    base = VisitChange(action="update", visit_id=id, version=unix_microseconds(_triggered_at(event)))
    if not people or (len(people) > 1 and people is recipients):
        return [base]
    phone = _phone(request) if len(people) == 1 else None
    changes = {email: replace(base, contact=_contact(person, phone)) for email, person in people.items()}
    if len(changes) == 1:
        return list(changes.values())
    return [replace(change, visit_id=attendee_visit_id(id, email)) for email, change in changes.items()]


def _recipients(request: Payload) -> dict[str, Payload]:
    """Return the recipients by address, each once."""
    by_email: dict[str, Payload] = {}
    for recipient in request.at("recipients"):
        if email := recipient.at("email").text():
            by_email.setdefault(email.lower(), recipient)
    return by_email


def _slot_selectors(request: Payload) -> dict[str, Payload]:
    return {
        email: recipient for email, recipient in _recipients(request).items() if recipient.at("slot_selector").boolean()
    }


def _triggered_at(event: Event) -> datetime:
    return event.data.at("notification", "triggered_at").required_time()


def _phone(request: Payload) -> str | None:
    scheduler = request.at("event", "metadata", "scheduler")
    phones = (scheduler.at("captured_data.phone_number").value, scheduler.at("captured_data", "phone_number").value)
    return next((phone for phone in phones if isinstance(phone, str)), None)


def _contact(guest: Payload, phone: str | None = None) -> Contact:
    first, last = split_name(guest.at("display_name").text())
    return Contact(email=guest.at("email").text(), first_name=first, last_name=last, phone=phone)


def _start(event: Event, details: Payload) -> datetime | Unset:
    """Return the start, which is an object with a time and a zone, or a time."""
    start = details.at("start")
    return (start.at("time") if isinstance(start.value, dict) else start).time(event.zone) or UNSET


def _slot_chosen(event: Event) -> list[VisitChange] | Ignored:
    """Translate an event of Real-Time Scheduling: a slot was chosen, or none. The guest's reply is in the invite."""
    details = event.data.at("event")
    start = _start(event, details)
    if start is UNSET:
        return Ignored("no time was chosen")
    return [
        VisitChange(
            action="create",
            visit_id=details.at("event_id").required_text(),
            version=unix_microseconds(event.received_at),
            time_scheduled=start,
        )
    ]


def _invite_reply(event: Event, invite: Payload) -> VisitChange:
    if len(list(invite.at("recipients"))) > 1 or len(list(invite.at("replies"))) > 1:
        raise Untranslatable("an invite with several recipients: an invite's id identifies one visit")
    recipient = invite.at("recipient") or invite.at("reply")
    status = recipient.at("status")
    if status.text() not in ("pending", "accepted", "tentative", "declined"):
        raise status.unexpected("a status that Cronofy documents")
    is_declined = status.text() == "declined"
    return VisitChange(
        action="cancel" if is_declined else "update",
        visit_id=invite.at("smart_invite_id").required_text(),
        version=unix_microseconds(event.received_at),
        contact=_contact(recipient),
        date_cancelled=event.received_at if is_declined else None,
        times_are_observed=True,
        first_contact_stays=True,
    )
