"""HubSpot: meetings of a CRM. Thin: a body lists events, and each meeting is fetched with its contact.

From https://developers.hubspot.com/docs/api/webhooks and its page on meetings, and the vendor's libraries for the signature:
a body is an array of up to 100 events, each with `subscriptionType`, `objectId`, `portalId`, `occurredAt`. `eventId` need
not be unique, and `attemptNumber` differs on retries. Ids count inside their portal. A meeting is told as it stands when it
is fetched, and our own clock orders; when its outcome became what it is stands in the history of that property, else in
the event. A deleted meeting is not there any more, or `archived`: that is a cancel only where the event is its deletion.

RESCHEDULED has two uses: some tools move the meeting itself, others leave it as it is and make a new one. The history of
the start tells them apart: a meeting whose start changed with that outcome, or later, was moved and stands; any other is
held back like a cancelled one, for its new meeting has a visit too. A portal may have outcomes of its own, which cancel
nothing.

Each contact of a meeting has a visit. The one that was listed first has the meeting's id, which was the id of all meetings
when Doorbell knew one contact only, and keeps it while others come and go; each other one has the contact's id behind it.
Whom the meeting no longer lists has a visit that is cancelled, and a meeting that is deleted cancels the visits of all whom
it ever listed: the record that is gone does not tell them. Two contacts that are merged are one who was removed and one who
was added.

Second-hand: the outcomes' spelling, the answer within 5 s, ten tries a day after any other status. Recalled: `0-47` for
meetings, the shapes of records and histories, `hs_email_optout`, times in milliseconds, where tokens are renewed.
"""

import hashlib
import re
from dataclasses import replace
from datetime import datetime, timedelta

import orjson

from app.visits.change import Contact, VisitChange, attendee_visit_id, unix_microseconds
from app.webhooks.delivery import Event
from app.webhooks.fetching import BearerAuth, RecordRequest, refresh_token_exchange
from app.webhooks.payload import Payload, Untranslatable
from app.webhooks.signatures.hmac import Hmac
from app.webhooks.signatures.scheme import UNIX_MILLISECONDS
from app.webhooks.source import RECORD_GONE, Ignored, Source

SETUP = """
1. In HubSpot make an app (Development, or Settings, Integrations, Private Apps) with the scope crm.objects.contacts.read.
   Set its client secret as HOOKS__HUBSPOT__SECRETS and PUBLIC_URL, for HubSpot signs the address, and restart.
2. Set HOOKS__HUBSPOT__CREDENTIALS__TOKEN to a private app's access token; a public app sets …__CLIENT_ID, …__CLIENT_SECRET
   and …__REFRESH_TOKEN instead, with SECRET_KEY.
3. Under Webhooks set the target URL to {url} and subscribe, for the object "Meeting event", to object.creation,
   object.deletion, object.restore, object.associationChange (with contacts), and object.propertyChange of
   hs_meeting_start_time and hs_meeting_outcome.
4. An app that several accounts install rings for all of them: set HOOKS__HUBSPOT__TENANTS to your Hub ID.

A meeting is completed, missed or cancelled when its outcome is set so; otherwise a review request counts from its start.
Each contact of a meeting has a visit, so take colleagues off its contacts. HubSpot tells no money. Webhook actions of
workflows are another thing, and refused.
"""

MEETINGS = "0-47"
WATCHED = {"object.creation", "object.deletion", "object.restore", "object.propertyChange", "object.associationChange"}
PROPERTIES = ("hs_meeting_start_time", "hs_meeting_outcome", "hs_timestamp")


def _items(event: Event) -> list[Payload]:
    return [event.data] if isinstance(event.data.value, dict) else list(event.data)


def _portal(event: Event) -> str | None:
    """A body is for one account."""
    portals = {item.at("portalId").text() for item in _items(event)}
    if len(portals) > 1:
        raise event.data.unexpected("events of one portal")
    return next(iter(portals), None)


def _delivery_id(event: Event) -> str:
    """The events in it, without what differs when they are sent again."""
    names = ("portalId", "subscriptionId", "subscriptionType", "eventId", "objectId", "occurredAt", "propertyName")
    ends = ("fromObjectId", "toObjectId", "associationType", "associationRemoved")
    told = [[item.at(name).value for name in (*names, *ends)] for item in _items(event)]
    return hashlib.sha256(orjson.dumps(told)).hexdigest()


SOURCE = Source(
    title="HubSpot Meetings",
    docs="https://developers.hubspot.com/docs/api/webhooks",
    evidence="recalled",
    signature=Hmac(
        header="X-HubSpot-Signature-v3",
        timestamp_header="X-HubSpot-Request-Timestamp",
        timestamp_format=UNIX_MILLISECONDS,
        signs="POST{url}{body}{t}",
        encoding="base64",
    ),
    setup=SETUP,
    event_name_path=("subscriptionType",),
    repeat_key=_delivery_id,
    tenant_of=_portal,
    api_url="https://api.hubapi.com/",
    credentials=BearerAuth("TOKEN"),
    token_exchange=refresh_token_exchange("https://api.hubapi.com/oauth/v1/token"),
)


def fetch(event: Event) -> list[RecordRequest]:
    ids = dict.fromkeys(_meeting_id(item).required_id() for item in _watched(event))
    asked = {
        "properties": ",".join(PROPERTIES),
        "propertiesWithHistory": "hs_meeting_outcome,hs_meeting_start_time",
        "associations": "contacts",
    }
    return [RecordRequest(f"crm/v3/objects/meetings/{id}", params=asked, follow_up=_beside) for id in ids]


#: More contacts of one meeting than this are an operator's turn: each is another request.
MOST_CONTACTS = 50


def _contacts(meeting: Payload) -> list[str]:
    found = [contact.at("id").required_id() for contact in meeting.at("associations", "contacts", "results")]
    return list(dict.fromkeys(found))


def _beside(meeting: Payload) -> dict[str, RecordRequest]:
    asked = {"properties": "email,firstname,lastname,phone,mobilephone,hs_email_optout"}
    return {
        id: RecordRequest(f"crm/v3/objects/contacts/{id}", params=asked) for id in _contacts(meeting)[:MOST_CONTACTS]
    }


def people(event: Event) -> tuple[str, list[str]]:
    here = _contacts(event.record) if event.record is not None and _is_there(event) else []
    return _visit_id(event), here if len(here) <= MOST_CONTACTS else []


def _visit_id(event: Event) -> str:
    return f"{_watched(event)[0].at('portalId').required_text()}-{event.record_path.rpartition('/')[2]}"


def _is_there(event: Event) -> bool:
    return event.record is not None and not event.record.at("archived").boolean()


def translate(event: Event) -> list[VisitChange] | Ignored:
    watched = _watched(event)
    if not watched:
        names = [item.at("subscriptionType").required_text() for item in _items(event)]
        return Ignored(", ".join(dict.fromkeys(names)) or "nothing")
    if event.fetched_at is None:
        raise Untranslatable("the meeting that this event points at was not fetched")
    id = event.record_path.rpartition("/")[2]
    told = [item for item in watched if _meeting_id(item).text() == id]
    if event.record is None or not _is_there(event):
        deletions = [item for item in told if item.at("subscriptionType").text() == "object.deletion"]
        if not deletions:
            return RECORD_GONE
        deleted_at = deletions[-1].at("occurredAt").required_unix_ms()
        return [_off(event, contact, deleted_at) for contact in event.people or [""]]
    here = _contacts(event.record)
    if len(here) > MOST_CONTACTS:
        raise Untranslatable(f"a meeting with more than {MOST_CONTACTS} contacts")
    whole, everybody = _meeting(event, event.record, told), event.people or tuple(here)
    removed = [_off(event, contact, event.fetched_at) for contact in everybody if contact not in here]
    if not everybody:
        return [whole]
    return [*(_of_contact(event, whole, contact) for contact in here), *removed]


def _meeting(event: Event, record: Payload, told: list[Payload]) -> VisitChange:
    """What holds for all who come."""
    assert event.fetched_at
    outcome, history = _outcome(record), _history(record, "hs_meeting_outcome")
    since = _since(record, history, told) or event.fetched_at
    is_off = outcome == "CANCELED" or (outcome == "RESCHEDULED" and not _was_moved(record, since))
    return VisitChange(
        action="cancel" if is_off else "update",
        visit_id=_visit_id(event),
        version=unix_microseconds(event.fetched_at),
        time_scheduled=_start(record),
        time_completed=since if outcome == "COMPLETED" else None,
        date_cancelled=since if is_off else None,
        no_show=since if outcome == "NO_SHOW" else None,
        times_are_observed=not history,
    )


def _of_contact(event: Event, whole: VisitChange, contact: str) -> VisitChange:
    person = event.related.get(contact, Payload(None)).at("properties")
    change = replace(whole, visit_id=_visit_of(event, contact))
    if not person:
        return change
    opted_out = person.at("hs_email_optout").value in (True, "true")
    return replace(change, contact=_contact(person), opted_out=opted_out)


def _off(event: Event, contact: str, at: datetime) -> VisitChange:
    """Of a meeting that is gone, or a contact that it no longer lists; when the latter was removed is not told."""
    assert event.fetched_at
    order, visit_id = unix_microseconds(event.fetched_at), _visit_of(event, contact)
    return VisitChange(
        action="cancel", visit_id=visit_id, version=order, date_cancelled=at, times_are_observed=at == event.fetched_at
    )


def _visit_of(event: Event, contact: str) -> str:
    """contact: its id, or nothing where no contact is known."""
    everybody = event.people or (_contacts(event.record) if event.record is not None else ())
    if not contact or contact == everybody[0]:
        return _visit_id(event)
    return attendee_visit_id(_visit_id(event), contact)


def _watched(event: Event) -> list[Payload]:
    return [item for item in _items(event) if _is_watched(item)]


def _is_watched(item: Payload) -> bool:
    kind = item.at("subscriptionType").required_text()
    if kind == "object.propertyChange" and item.at("propertyName").text() not in PROPERTIES:
        return False
    types = ("fromObjectTypeId", "toObjectTypeId") if kind == "object.associationChange" else ("objectTypeId",)
    return kind in WATCHED and MEETINGS in [item.at(name).text() for name in types]


def _meeting_id(item: Payload) -> Payload:
    """An association has two ends."""
    if item.at("subscriptionType").text() != "object.associationChange":
        return item.at("objectId")
    return item.at("fromObjectId" if item.at("fromObjectTypeId").text() == MEETINGS else "toObjectId")


def _outcome(meeting: Payload) -> str:
    said = (meeting.at("properties", "hs_meeting_outcome").text() or "SCHEDULED").upper().replace(" ", "_")
    return "CANCELED" if said == "CANCELLED" else said


def _history(meeting: Payload, name: str) -> list[Payload]:
    return list(meeting.at("propertiesWithHistory", name))


#: One action of a tool may change two properties by two requests.
ONE_ACTION = timedelta(seconds=5)


def _was_moved(meeting: Payload, since: datetime) -> bool:
    """Did the start change when the outcome became RESCHEDULED, or later? The start that it was made with is no change."""
    entries = [_moment(entry.at("timestamp")) for entry in _history(meeting, "hs_meeting_start_time")]
    times = sorted(filter(None, entries))
    made_at = _moment(meeting.at("createdAt")) or next(iter(times), since)
    return any(time - made_at > ONE_ACTION and since - time <= ONE_ACTION for time in times)


def _since(meeting: Payload, history: list[Payload], told: list[Payload]) -> datetime | None:
    """When the outcome became what it is: by its history, else by the event that tells it, or at the latest since then."""
    outcome = meeting.at("properties", "hs_meeting_outcome").text()
    times = [_moment(entry.at("timestamp")) for entry in history if entry.at("value").text() == outcome]
    if not times:
        changes = [item for item in told if item.at("propertyName").text() == "hs_meeting_outcome"]
        times = [item.at("occurredAt").unix_ms() for item in changes if item.at("propertyValue").text() == outcome]
    return max(filter(None, times), default=None) or _moment(meeting.at("updatedAt"))


def _start(meeting: Payload) -> datetime:
    properties = meeting.at("properties")
    start = properties.at("hs_meeting_start_time")
    found = _moment(start) or _moment(properties.at("hs_timestamp"))
    if found is None:
        raise start.unexpected("a time")
    return found


def _moment(found: Payload) -> datetime | None:
    """ISO 8601, or milliseconds since 1970, also as text."""
    written = found.text() or ""
    if re.fullmatch("[0-9]{9,15}", written):
        return Payload(int(written), *found.path).unix_ms()
    return found.time()


def _contact(properties: Payload) -> Contact:
    return Contact(
        email=properties.at("email").text(),
        first_name=properties.at("firstname").text(),
        last_name=properties.at("lastname").text(),
        phone=properties.at("phone").text() or properties.at("mobilephone").text(),
    )
