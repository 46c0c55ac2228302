"""HubSpot: meetings of a CRM. Thin: a body lists events, and each meeting is fetched with its contacts.

From https://developers.hubspot.com/docs/api/webhooks and its page on meetings, and the vendor's libraries for the
signature: a body is an array of up to 100 events, each with `subscriptionType`, `objectId`, `portalId`, `occurredAt`.
`eventId` need not be unique, and `attemptNumber` differs on retries. Ids are unique only inside their portal. The
fetched meeting is the current state, and the time of the fetch orders the changes; the time of an outcome is in the
history of that property, or else in the event. A deleted meeting is missing or `archived`: that is a cancellation only
if the event is the deletion.

RESCHEDULED has two uses: some tools move the meeting itself, others leave it unchanged and create a new one. The
history of the start distinguishes them: a meeting whose start changed with that outcome, or later, was moved and is
valid; any other meeting is cancelled, because the new meeting has its own visit. Custom outcomes of a portal cancel
nothing.

Each contact of a meeting has a visit. The visit of the contact that was listed first has the meeting's id (as every
visit had when Doorbell read only one contact), and keeps it when other contacts are added or removed. The id of every
other visit is the meeting's id and the contact's id. The visit of a contact that the meeting no longer lists is
cancelled. The deletion of a meeting cancels the visits of all contacts that it ever listed, since the deleted record
does not list them. When two contacts are merged, one contact is removed and one is added.

Second-hand: the spelling of the outcomes; HubSpot waits 5 s for a response, and tries ten times in a day after any
other status. From memory: `0-47` for meetings, the format of records and histories, `hs_email_optout`, times in
milliseconds, and the URL that renews tokens.

There is no SUBSCRIPTION. HubSpot's page on private apps says that their subscriptions can be managed only in the app's
settings; project-based apps have their subscriptions in a file. The Webhooks API serves only older public apps: it has
one URL for all accounts, and needs a different key, which belongs to the developer's account.

Lists, from the vendor's OpenAPI documents: a search finds meetings by start, and by their last change; it has neither
contacts nor histories, so each meeting is read with them. A search ends after 10,000 results; the next search begins at
the last of them. Deleted meetings are in no search, so the upcoming meetings that Doorbell has are read by their ids: a
meeting that does not exist was deleted.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from app.visits.change import Contact, VisitChange, attendee_visit_id, unix_microseconds
from app.webhooks import (
    RECORD_GONE,
    UNIX_MILLISECONDS,
    ApiResponse,
    BearerAuth,
    Event,
    Hmac,
    Ignored,
    ListedPage,
    ListedRecord,
    Listing,
    ListRequest,
    OAuth,
    Payload,
    RecordRequest,
    Source,
    Untranslatable,
    Window,
    read_records,
    refresh_token_exchange,
)

SETUP = """
1. In HubSpot, create an app (Development, or Settings, Integrations, Private Apps) with the scope
   crm.objects.contacts.read. Set HOOKS__HUBSPOT__SECRETS to its client secret. Set PUBLIC_URL, because HubSpot signs
   the URL. Restart.
2. Set HOOKS__HUBSPOT__CREDENTIALS__TOKEN to a private app's access token; for a public app, set …__CLIENT_ID,
   …__CLIENT_SECRET and …__REFRESH_TOKEN instead, with SECRET_KEY.
3. Under Webhooks, set the target URL to {url} and subscribe, for the object "Meeting event", to object.creation,
   object.deletion, object.restore, object.associationChange (with contacts), and object.propertyChange of
   hs_meeting_start_time and hs_meeting_outcome.
4. If several accounts install the app, it sends the events of all of them: set HOOKS__HUBSPOT__TENANTS to your Hub ID.
5. `doorbell connect hubspot` stores the hook with the secret of step 1 and the token of step 2, and imports the
   upcoming meetings. HubSpot has no API for step 3.

A meeting is completed, missed or cancelled when somebody sets its outcome; otherwise the review request is timed from
its start. Each contact of a meeting has a visit, so remove colleagues from its contacts. HubSpot sends no payments.
Webhook actions of workflows are signed in a different way, so Doorbell rejects them.
"""

MEETINGS = "0-47"
WATCHED = {"object.creation", "object.deletion", "object.restore", "object.propertyChange", "object.associationChange"}
PROPERTIES = ("hs_meeting_start_time", "hs_meeting_outcome", "hs_timestamp")


def _items(event: Event) -> list[Payload]:
    return [event.data] if isinstance(event.data.value, dict) else list(event.data)


def _portal(event: Event) -> str | None:
    """Return the account of the events. A body has the events of one account."""
    portals = {item.at("portalId").text() for item in _items(event)}
    if len(portals) > 1:
        raise event.data.unexpected("events of one portal")
    return next(iter(portals), None)


def _delivery_id(event: Event) -> str:
    """Return a digest of the events without the fields that differ on retries."""
    names = ("portalId", "subscriptionId", "subscriptionType", "eventId", "objectId", "occurredAt", "propertyName")
    ends = ("fromObjectId", "toObjectId", "associationType", "associationRemoved")
    events = [[item.at(name).value for name in (*names, *ends)] for item in _items(event)]
    return hashlib.sha256(orjson.dumps(events)).hexdigest()


SOURCE = Source(
    title="HubSpot Meetings",
    is_common=True,
    docs="https://developers.hubspot.com/docs/api/webhooks",
    credential_help={
        "TOKEN": (
            "Access token of a private app",
            "In HubSpot: Settings, Integrations, Private Apps. With it, you need no client ID, client secret "
            "or refresh token.",
        ),
        "CLIENT_ID": ("Client ID", "The client ID of a public app: in its settings, under Auth."),
        "CLIENT_SECRET": ("Client secret", "In the same place, next to the client ID."),
        "REFRESH_TOKEN": ("Refresh token", "You get it when you install the app in your account."),
    },
    evidence="none",
    retries="yes",
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
    return [replace(_meeting_request(id), follow_up=_contact_requests) for id in ids]


def _meeting_request(id: str) -> RecordRequest:
    params = {
        "properties": ",".join(PROPERTIES),
        "propertiesWithHistory": "hs_meeting_outcome,hs_meeting_start_time",
        "associations": "contacts",
    }
    return RecordRequest(f"crm/v3/objects/meetings/{id}", params=params)


CONTACT_PROPERTIES = ("email", "firstname", "lastname", "phone", "mobilephone", "hs_email_optout")
#: A meeting with more contacts is parked: each contact costs a request.
MAX_CONTACTS = 50


def _contacts(meeting: Payload) -> list[str]:
    ids = [contact.at("id").required_id() for contact in meeting.at("associations", "contacts", "results")]
    return list(dict.fromkeys(ids))


def _contact_requests(meeting: Payload) -> dict[str, RecordRequest]:
    params = {"properties": ",".join(CONTACT_PROPERTIES)}
    return {
        id: RecordRequest(f"crm/v3/objects/contacts/{id}", params=params) for id in _contacts(meeting)[:MAX_CONTACTS]
    }


def people(event: Event) -> tuple[str, list[str]]:
    current = _contacts(event.record) if event.record is not None and _exists(event) else []
    return _visit_id(event), current if len(current) <= MAX_CONTACTS else []


def _visit_id(event: Event) -> str:
    return f"{_watched(event)[0].at('portalId').required_text()}-{event.record_path.rpartition('/')[2]}"


def _exists(event: Event) -> bool:
    return event.record is not None and not event.record.at("archived").boolean()


def translate(event: Event) -> list[VisitChange] | Ignored:
    watched = _watched(event)
    if not watched:
        names = [item.at("subscriptionType").required_text() for item in _items(event)]
        return Ignored(", ".join(dict.fromkeys(names)) or "nothing")
    if event.fetched_at is None:
        raise Untranslatable("the meeting that this event refers to was not fetched")
    id = event.record_path.rpartition("/")[2]
    items = [item for item in watched if _meeting_id(item).text() == id]
    if event.record is None or not _exists(event):
        deletions = [item for item in items if item.at("subscriptionType").text() == "object.deletion"]
        if not deletions:
            return RECORD_GONE
        deleted_at = deletions[-1].at("occurredAt").required_unix_ms()
        return [_cancel(event, contact, deleted_at) for contact in event.people or [""]]
    current = _contacts(event.record)
    if len(current) > MAX_CONTACTS:
        raise Untranslatable(f"a meeting with more than {MAX_CONTACTS} contacts")
    meeting_change, contacts = _meeting(event, event.record, items), event.people or tuple(current)
    removed = [_cancel(event, contact, event.fetched_at) for contact in contacts if contact not in current]
    if not contacts:
        return [meeting_change]
    return [*(_of_contact(event, meeting_change, contact) for contact in current), *removed]


def _meeting(event: Event, record: Payload, items: list[Payload]) -> VisitChange:
    """Return the change for all contacts of the meeting."""
    assert event.fetched_at
    outcome, history = _outcome(record), _history(record, "hs_meeting_outcome")
    since = _since(record, history, items) or event.fetched_at
    is_cancelled = outcome == "CANCELED" or (outcome == "RESCHEDULED" and not _was_moved(record, since))
    return VisitChange(
        action="cancel" if is_cancelled else "update",
        visit_id=_visit_id(event),
        version=unix_microseconds(event.fetched_at),
        time_scheduled=_start(record),
        time_completed=since if outcome == "COMPLETED" else None,
        date_cancelled=since if is_cancelled else None,
        no_show=since if outcome == "NO_SHOW" else None,
        times_are_observed=not history,
    )


def _of_contact(event: Event, meeting_change: VisitChange, contact: str) -> VisitChange:
    person = event.related.get(contact, Payload(None)).at("properties")
    change = replace(meeting_change, visit_id=_visit_of(event, contact))
    if not person:
        return change
    opted_out = person.at("hs_email_optout").value in (True, "true")
    return replace(change, contact=_contact(person), opted_out=opted_out)


def _cancel(event: Event, contact: str, at: datetime) -> VisitChange:
    """Cancel the visit of a deleted meeting, or of a removed contact. HubSpot does not send the time of the removal."""
    assert event.fetched_at
    version, visit_id = unix_microseconds(event.fetched_at), _visit_of(event, contact)
    return VisitChange(
        action="cancel",
        visit_id=visit_id,
        version=version,
        date_cancelled=at,
        times_are_observed=at == event.fetched_at,
    )


def _visit_of(event: Event, contact: str) -> str:
    """Return the visit id of a contact. contact: its id; empty if the meeting has no contact."""
    contacts = event.people or (_contacts(event.record) if event.record is not None else ())
    if not contact or contact == contacts[0]:
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
    """Return the meeting's id. An association has the ids of two objects."""
    if item.at("subscriptionType").text() != "object.associationChange":
        return item.at("objectId")
    return item.at("fromObjectId" if item.at("fromObjectTypeId").text() == MEETINGS else "toObjectId")


def _outcome(meeting: Payload) -> str:
    outcome = (meeting.at("properties", "hs_meeting_outcome").text() or "SCHEDULED").upper().replace(" ", "_")
    return "CANCELED" if outcome == "CANCELLED" else outcome


def _history(meeting: Payload, name: str) -> list[Payload]:
    return list(meeting.at("propertiesWithHistory", name))


#: A tool may send two requests to change two properties in one action.
ONE_ACTION = timedelta(seconds=5)


def _was_moved(meeting: Payload, since: datetime) -> bool:
    """Return whether the start changed with the outcome RESCHEDULED, or later. The first start is not a change."""
    entries = [_time(entry.at("timestamp")) for entry in _history(meeting, "hs_meeting_start_time")]
    times = sorted(filter(None, entries))
    created_at = _time(meeting.at("createdAt")) or next(iter(times), since)
    return any(time - created_at > ONE_ACTION and since - time <= ONE_ACTION for time in times)


def _since(meeting: Payload, history: list[Payload], items: list[Payload]) -> datetime | None:
    """Return the time of the outcome: from its history, else from the event, else the meeting's `updatedAt`."""
    outcome = meeting.at("properties", "hs_meeting_outcome").text()
    times = [_time(entry.at("timestamp")) for entry in history if entry.at("value").text() == outcome]
    if not times:
        changes = [item for item in items if item.at("propertyName").text() == "hs_meeting_outcome"]
        times = [item.at("occurredAt").unix_ms() for item in changes if item.at("propertyValue").text() == outcome]
    return max(filter(None, times), default=None) or _time(meeting.at("updatedAt"))


def _start(meeting: Payload) -> datetime:
    properties = meeting.at("properties")
    start = properties.at("hs_meeting_start_time")
    time = _time(start) or _time(properties.at("hs_timestamp"))
    if time is None:
        raise start.unexpected("a time")
    return time


def _time(value: Payload) -> datetime | None:
    """Parse ISO 8601, or milliseconds since 1970 as a number or text."""
    text = value.text() or ""
    if re.fullmatch("[0-9]{9,15}", text):
        return Payload(int(text), *value.path).unix_ms()
    return value.time()


def _contact(properties: Payload) -> Contact:
    return Contact(
        email=properties.at("email").text(),
        first_name=properties.at("firstname").text(),
        last_name=properties.at("lastname").text(),
        phone=properties.at("phone").text() or properties.at("mobilephone").text(),
    )


# -- lists: https://developers.hubspot.com/docs/api/crm/search --

MEETINGS_PATH = "crm/v3/objects/meetings"
PAGE_SIZE, MAX_RESULTS, MAX_IDS = 100, 10_000, 100


def _list_account(window: Window, _: Payload) -> Sequence[ListRequest]:
    """Ask for the account first: its id is part of each visit's id."""
    times = {"since": window.since, "until": window.until, "changed_since": window.changed_since}
    context = {name: _ms(time) for name, time in times.items() if time}
    return [ListRequest(RecordRequest("account-info/v3/details"), context)]


def _check_meetings(visit_ids: Sequence[str], _: Payload) -> Sequence[ListRequest]:
    """Ask for the account first: only meetings of this account can be missing."""
    return [ListRequest(RecordRequest("account-info/v3/details"), {"visits": list(visit_ids)})]


def _batches(visit_ids: Sequence[str], portal: str) -> Iterator[ListRequest]:
    """Yield requests for meetings by id. A visit id is the account, the meeting, and perhaps the contact."""
    own = [visit_id.removeprefix(f"{portal}-") for visit_id in visit_ids if visit_id.startswith(f"{portal}-")]
    ids = list(dict.fromkeys(meeting.partition(".")[0] for meeting in own))
    for first in range(0, len(ids), MAX_IDS):
        batch = ids[first : first + MAX_IDS]
        body = {"inputs": [{"id": id} for id in batch], "properties": ["hs_meeting_outcome"]}
        yield ListRequest(RecordRequest(f"{MEETINGS_PATH}/batch/read", json=body), {"portal": portal, "ids": batch})


def _read_listed(request: ListRequest, response: ApiResponse) -> ListedPage:
    """Read the account, a page of a search, a meeting, its contacts, or the meetings that exist."""
    context, portal = request.context, request.context.get("portal", "")
    if "visits" in context:
        return ListedPage([], list(_batches(context["visits"], response.at("portalId").required_text())))
    if "since" in context:
        return ListedPage([], list(_searches(context, response.at("portalId").required_text())))
    if "ids" in context:
        existing = {meeting.at("id").required_text() for meeting in response.at("results")}
        missing = [id for id in context["ids"] if id not in existing]
        return ListedPage(
            [], [ListRequest(_meeting_request(id), {"portal": portal, "id": id}, can_be_missing=True) for id in missing]
        )
    if "id" in context and response.value is None:
        return ListedPage([_listed(portal, context["id"], {"archived": True}, {}, response.requested_at)])
    if "property" in context:
        ids = [meeting.at("id").required_id() for meeting in response.at("results")]
        requests = [ListRequest(_meeting_request(id), {"portal": portal}, can_be_missing=True) for id in ids]
        return ListedPage([], [*requests, *_next_search(request, response)])
    if "meeting" in context:
        contacts = {contact.at("id").required_text(): contact.value for contact in response.at("results")}
        requested_at = datetime.fromisoformat(context["requested_at"])
        meeting = context["meeting"]
        return ListedPage([_listed(portal, meeting["id"], meeting, contacts, requested_at)])
    return ListedPage([]) if response.value is None else _read_meeting(portal, response)  # deleted since the search


def _read_meeting(portal: str, response: ApiResponse) -> ListedPage:
    requests: list[ListRequest] = []

    def read(meeting: Payload) -> list[ListedRecord]:
        """Return the meeting if it has no contacts; else add the request for them."""
        id, ids = meeting.at("id").required_id(), _contacts(meeting)
        if not ids or len(ids) > MAX_CONTACTS:
            return [_listed(portal, id, meeting.value, {}, response.requested_at)]
        body = {"inputs": [{"id": id} for id in ids], "properties": list(CONTACT_PROPERTIES)}
        following = {"portal": portal, "meeting": meeting.value, "requested_at": response.requested_at.isoformat()}
        requests.append(ListRequest(RecordRequest("crm/v3/objects/contacts/batch/read", json=body), following))
        return []

    return ListedPage(read_records([response], read), requests)


def _searches(context: Mapping[str, Any], portal: str) -> Iterator[ListRequest]:
    start, changed = "hs_meeting_start_time", "hs_lastmodifieddate"
    filters = [_filter(start, "GTE", context["since"]), _filter(start, "LT", context["until"])]
    yield _search(start, filters, portal)
    if "changed_since" in context:
        yield _search(changed, [_filter(changed, "GTE", context["changed_since"])], portal)


def _search(name: str, filters: Sequence[Mapping[str, str]], portal: str) -> ListRequest:
    body = {
        "filterGroups": [{"filters": list(filters)}],
        "properties": [*PROPERTIES, "hs_lastmodifieddate"],
        "sorts": [{"propertyName": name, "direction": "ASCENDING"}],
        "limit": PAGE_SIZE,
    }
    return ListRequest(RecordRequest(f"{MEETINGS_PATH}/search", json=body), {"property": name, "portal": portal})


def _filter(name: str, operator: str, value: str) -> dict[str, str]:
    return {"propertyName": name, "operator": operator, "value": value}


def _next_search(request: ListRequest, response: ApiResponse) -> Iterator[ListRequest]:
    """Yield the next page.

    After the last page that a search can have, yield a search that begins with its last result.
    """
    after, body, name = (
        response.at("paging", "next", "after").text(),
        request.request.json or {},
        request.context["property"],
    )
    if not after:
        return
    if not after.isdecimal() or int(after) < MAX_RESULTS:
        yield replace(request, request=replace(request.request, json={**body, "after": after}))
        return
    last = [_time(meeting.at("properties", name)) for meeting in response.at("results")][-1]
    filters = [each for each in body["filterGroups"][0]["filters"] if each["operator"] != "GTE"]
    if last:
        yield _search(name, [_filter(name, "GTE", _ms(last)), *filters], request.context["portal"])


def _listed(
    portal: str, id: str, record: Mapping[str, Any], contacts: Mapping[str, Any], requested_at: datetime
) -> ListedRecord:
    kind = "object.deletion" if record.get("archived") else "object.propertyChange"
    body = {
        "subscriptionType": kind,
        "objectTypeId": MEETINGS,
        "objectId": id,
        "portalId": portal,
        "propertyName": "hs_meeting_start_time",
        "occurredAt": int(_ms(requested_at)),
    }
    return ListedRecord(id, body, record, contacts, f"{MEETINGS_PATH}/{id}", requested_at)


def _ms(time: datetime) -> str:
    return str(int(time.astimezone(UTC).timestamp() * 1000))


LISTING = Listing(
    docs="https://developers.hubspot.com/docs/api/crm/search",
    evidence="second-hand",
    start=_list_account,
    check=_check_meetings,
    read_page=_read_listed,
    lists_changed=True,
    calls_per_s=4.0,
)

OAUTH = OAuth(
    docs="https://developers.hubspot.com/docs/api/working-with-oauth",
    evidence="vendor",
    authorize_url="https://app.hubspot.com/oauth/authorize",
    token_url="https://api.hubapi.com/oauth/v1/token",
    scopes=("oauth", "crm.objects.contacts.read"),
    signs_with="client_secret",
    account=RecordRequest("account-info/v3/details"),
    account_id=lambda account: account.at("portalId").text() or "",
)
