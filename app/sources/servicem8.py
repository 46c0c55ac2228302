"""ServiceM8: jobs. Thin: an event refers to jobs, and each is fetched with its contacts, appointments and payments.

From https://developer.servicem8.com/docs/webhooks-overview: the events; `entry[].uuid`; ServiceM8 waits ten seconds for
a response; a new subscription sends a challenge, a form with `mode=subscribe`, to which the response is only the
challenge. Nothing is signed (the vendor's staff say so), so the URL contains a token. The body does not name the event,
which is not needed: the fetched job is the current state, and the time of the fetch orders the changes. `resource_url`
is not used; the URL of the request is built from the uuid.

A flexible booking is a `joballocation` and not a `jobactivity`. Its `allocation_date` is "the minimum start date" (the
vendor's reference) for somebody to begin the job, and not the time of the work, so it is not fetched: such a job has no
time until it is Completed, and gets no review request before. A completion without a date (`0000-…`) gets the time of
the first event that shows it.

Second-hand, from integrators: the fields of `job`, `jobcontact`, `jobactivity`, `jobpayment` and `companycontact`;
local times without an offset and `0000-00-00 00:00:00` for none; `Unsuccessful` and `active` 0 for a job that will not
happen; and add-ons get the same inside `eventArgs`, in a JSON Web Token signed with the App Secret. From memory: API
keys begin with `smk-`; the URL that renews tokens. Guessed: the format of `entry` in a form (JSON as text).

The endpoints for webhooks are next to `api_1.0`, not below it. Each webhook has one event, and a POST with the same
`unique_id` changes it in place. Lists have the next cursor in a header. Second-hand: the `uuid` of a subscription, by
which it is deleted (without one, by event and `unique_id`). From memory: POST activates a disabled subscription, lists
contain inactive records, and `edit_date` is in the account's time zone. A job's `edit_date` does not change with its
appointments and payments (from memory, too), so those are listed as well. No scope for payments is documented: if an
add-on may not read them, the fetch of a job fails.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from app.visits.change import Contact, VisitChange, unix_microseconds
from app.webhooks import (
    RECORD_GONE,
    ApiResponse,
    EchoField,
    Event,
    FirstPresent,
    Ignored,
    Jwt,
    ListedPage,
    ListedRecord,
    Listing,
    ListRequest,
    OAuth,
    PathToken,
    Payload,
    RecordRequest,
    RequestAuth,
    Source,
    Subscription,
    SubscriptionPage,
    SubscriptionState,
    Target,
    Untranslatable,
    Window,
    refresh_token_exchange,
)

SETUP = """
1. Set HOOKS__SERVICEM8__SECRETS to a word that you choose (for a public add-on: its App Secret), SECRET_KEY to 32
   random characters or more, and HOOKS__SERVICEM8__TIMEZONE to the account's time zone. Restart.
2. In ServiceM8, open Settings, API Keys, create a key that may read the account, jobs, the schedule, contacts and
   payments, and set it as HOOKS__SERVICEM8__CREDENTIALS__TOKEN. For a public add-on, set …__CLIENT_ID, …__CLIENT_SECRET
   and …__REFRESH_TOKEN instead. `doorbell connect servicem8` does the rest.
3. By hand: subscribe {url} to five events, with the API key from step 2. A subscription replaces the one with the same
   `unique_id`: if another Doorbell has a hook with this name, choose another word than doorbell.
   $ for event in job.created job.updated job.status_changed job.completed job.invoice_paid; do
       curl https://api.servicem8.com/webhook_subscriptions/event -H "X-API-Key: KEY" -d "event=$event" \\
       -d "unique_id=doorbell-{hook}-$event" --data-urlencode "callback_url={url}"; done
4. If ServiceM8 disables a subscription (it may do so after 12 hours of failures), do step 3 again, with the same word:
   with another one, each event would arrive twice.

ServiceM8 signs nothing: anyone who knows the URL can make Doorbell fetch a job, and nothing else. Quotes are not visits
yet. There are no no-shows; set the job to Unsuccessful instead. A job that is only allocated to somebody (a flexible
booking) has no time before it is Completed. If that takes more than a day, the visit needs attention until then.
"""


@dataclass(frozen=True, slots=True)
class ApiKeyOrAddOnToken:
    """An API key of the account, or the token of an add-on."""

    @property
    def names(self) -> tuple[str, ...]:
        return ("TOKEN",)

    def authenticate(self, credentials: Mapping[str, str], now: float, request: RecordRequest) -> RequestAuth:
        token = credentials["TOKEN"]
        is_key = token.startswith("smk-")
        return RequestAuth({"x-api-key": token} if is_key else {"authorization": f"Bearer {token}"})


SOURCE = Source(
    title="ServiceM8",
    docs="https://developer.servicem8.com/docs/webhooks-overview",
    credential_help={
        "TOKEN": (
            "API key",
            "In ServiceM8: Settings, API Keys. Create a key that may read the account, jobs, the schedule, "
            "contacts and payments.",
        ),
        "CLIENT_ID": ("Client ID", "The client ID of a public add-on, if you have no API key."),
        "CLIENT_SECRET": ("Client secret", "In the same place, next to the client ID."),
        "REFRESH_TOKEN": ("Refresh token", "You get it when you connect the add-on to your account."),
    },
    evidence="none",
    signature=FirstPresent(Jwt("HS256", expires=False), PathToken()),
    setup=SETUP,
    body_format="any",
    event_name_path=("object",),
    events_may_collide=True,  # times are whole seconds, and the body has nothing else that changes
    signed_handshake=EchoField(("challenge",), match=(("mode",), "subscribe")),
    required_settings=("TIMEZONE",),
    api_url="https://api.servicem8.com/api_1.0/",
    credentials=ApiKeyOrAddOnToken(),
    token_exchange=refresh_token_exchange("https://go.servicem8.com/oauth/access_token"),
)


def fetch(event: Event) -> list[RecordRequest]:
    if _object(event) != "job":
        return []
    uuids = dict.fromkeys(_uuid(entry.at("uuid")) for entry in _entries(event))
    return [RecordRequest(f"job/{uuid}.json", follow_up=_related_requests) for uuid in uuids]


def _related_requests(job: Payload) -> dict[str, RecordRequest]:
    uuid, company = _uuid(job.at("uuid")), job.at("company_uuid")
    params = {"$filter": f"job_uuid eq '{uuid}'"}
    requests = {
        name: RecordRequest(f"{name}.json", params=params) for name in ("jobcontact", "jobactivity", "jobpayment")
    }
    if company.text():
        requests["companycontact"] = RecordRequest(
            "companycontact.json", params={"$filter": f"company_uuid eq '{_uuid(company)}'"}
        )
    return requests


def translate(event: Event) -> list[VisitChange] | Ignored:
    if _object(event) != "job":
        return Ignored(_object(event))
    if event.fetched_at is None:
        raise Untranslatable("the job that this event refers to was not fetched")
    job = event.record
    if job is None:
        return RECORD_GONE
    uuid, status = _uuid(job.at("uuid")), job.at("status").required_text()
    # A quote is not a visit yet, or no longer a visit. A visit that is cancelled from the start is never created.
    is_cancelled = status in ("Quote", "Unsuccessful") or job.at("active").value in (0, "0", False)
    is_done, done_at = status == "Completed", _local(job.at("completion_date"), event.zone)
    return [
        VisitChange(
            action="cancel" if is_cancelled else "update",
            visit_id=uuid,
            version=unix_microseconds(event.fetched_at),
            contact=_contact(event),
            time_scheduled=_scheduled(event),
            time_completed=(done_at or _event_time(event, uuid)) if is_done else None,
            amount_collected=_collected(event.related.get("jobpayment", Payload(None))),
            date_cancelled=_event_time(event, uuid) if is_cancelled else None,
            times_are_observed=is_cancelled or not (is_done and done_at),
        )
    ]


def _arguments(event: Event) -> Payload:
    return event.data.at("eventArgs") or event.data


def _object(event: Event) -> str:
    return _arguments(event).at("object").required_text()


def _entries(event: Event) -> list[Payload]:
    value = _arguments(event).at("entry")
    entries = list(value.parse_embedded_json())
    if not 0 < len(entries) <= MAX_ENTRIES:
        raise value.unexpected(f"1 to {MAX_ENTRIES} jobs")
    return entries


MAX_ENTRIES = 20
_UUID = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def _uuid(value: Payload) -> str:
    if not _UUID.fullmatch(value.required_text()):
        raise value.unexpected("a uuid")
    return value.required_text().lower()


def _event_time(event: Event, uuid: str) -> datetime:
    """Return the time of the event, for a cancellation or for a completion without a date."""
    for entry in _entries(event):
        if _uuid(entry.at("uuid")) == uuid:
            return entry.at("time").time(event.zone) or event.received_at
    return event.received_at


def _local(value: Payload, zone: tzinfo | None) -> datetime | None:
    return None if (value.text() or "").startswith("0000") else value.time(zone)


def _active(items: Payload) -> Iterable[Payload]:
    return (item for item in items if item.at("active").value not in (0, "0", False))


def _scheduled(event: Event) -> datetime | None:
    """Return the start of the first planned appointment; activities that only record time do not count."""
    planned = (
        _local(activity.at("start_date"), event.zone)
        for activity in _active(event.related.get("jobactivity", Payload(None)))
        if activity.at("activity_was_scheduled").value in (1, "1", True)
    )
    return min(filter(None, planned), default=None)


def _collected(payments: Payload) -> Decimal | None:
    return sum((paid.at("amount").amount() or Decimal() for paid in _active(payments)), Decimal()) or None


def _contact(event: Event) -> Contact | None:
    """Return the contact of the job, else the first contact of the customer."""
    job_contacts = list(_active(event.related.get("jobcontact", Payload(None))))
    company_contacts = list(_active(event.related.get("companycontact", Payload(None))))
    ranked = [
        *(contact for contact in job_contacts if contact.at("type").text() == "JOB"),
        *job_contacts,
        *(contact for contact in company_contacts if contact.at("is_primary_contact").value in (1, "1", True)),
        *company_contacts,
    ]
    preferred = next((contact for contact in ranked if contact.at("email").text()), ranked[0] if ranked else None)
    if preferred is None:
        return None
    return Contact(
        email=preferred.at("email").text(),
        first_name=preferred.at("first").text(),
        last_name=preferred.at("last").text(),
        phone=preferred.at("mobile").text() or preferred.at("phone").text(),
    )


# -- the API: https://developer.servicem8.com/reference --

EVENTS = ("job.created", "job.updated", "job.status_changed", "job.completed", "job.invoice_paid")


def _subscribe(target: Target, account: Payload, events: Sequence[str]) -> RecordRequest:
    # Another Doorbell with this account has another URL, and must not change these subscriptions.
    digest = hashlib.sha256(target.url.encode()).hexdigest()[:16]
    form = {"event": events[0], "callback_url": target.url, "unique_id": f"doorbell-{digest}-{events[0]}"}
    return RecordRequest("../webhook_subscriptions/event", form=form)


def _read_subscriptions(request: RecordRequest, response: ApiResponse) -> SubscriptionPage:
    return SubscriptionPage([_read_subscription(each) for each in response if each.at("type").text() == "event"])


def _read_subscription(subscription: Payload) -> SubscriptionState:
    event = subscription.at("event").required_text()
    return SubscriptionState(
        id=subscription.at("uuid").text() or f"{event}:{subscription.at('unique_id').required_text()}",
        url=subscription.at("callback_url").required_text(),
        events=frozenset((event,)),
        is_active=subscription.at("active").value in (True, 1, "1"),
    )


def _unsubscribe(id: str, account: Payload) -> RecordRequest:
    if _UUID.fullmatch(id):
        return RecordRequest(f"../webhook_subscriptions/{id}", method="DELETE")
    event, _, unique_id = id.partition(":")
    params = {"event": event, "unique_id": unique_id}
    return RecordRequest("../webhook_subscriptions", method="DELETE", params=params)


def _refusal(status: int, response: Payload) -> str | None:
    if status != 403:
        return None
    return (
        "This API key of ServiceM8 lacks a right: it must be allowed to read the account, jobs, the schedule, contacts and"
        " payments, and to manage webhooks."
    )


SUBSCRIPTION = Subscription(
    docs="https://developer.servicem8.com/docs/webhooks-overview",
    evidence="none",
    groups=tuple((event,) for event in EVENTS),
    account=RecordRequest("vendor.json"),
    account_name=lambda account: next((vendor.at("name").text() for vendor in account), None) or "",
    create=_subscribe,
    list=lambda account: RecordRequest("../webhook_subscriptions", params={"status": "all"}),
    read_list=_read_subscriptions,
    delete=_unsubscribe,
    refusal=_refusal,
)

OAUTH = OAuth(
    docs="https://developer.servicem8.com/docs/authentication",
    evidence="second-hand",
    authorize_url="https://go.servicem8.com/oauth/authorize",
    token_url="https://go.servicem8.com/oauth/access_token",
    scopes=("vendor", "read_jobs", "read_schedule", "read_job_contacts", "read_customers", "read_customer_contacts"),
    uses_pkce=False,
    account_id=lambda account: next((vendor.at("uuid").text() for vendor in account), None) or "",
)


#: Each listed job causes several requests. One period after the other is listed, so that few are needed at a time.
PERIOD = timedelta(days=28)


def _list_jobs(window: Window, account: Payload) -> Sequence[ListRequest]:
    """Request the appointments in the window, and everything that changed; these lists refer to jobs.

    If the account's time zone is unknown, the lists begin a day earlier and end a day later.
    """
    zone, margin = _zone(account), timedelta()
    if zone is None:
        zone, margin = UTC, timedelta(days=1)
    requests, since, until = list[ListRequest](), window.since - margin, window.until + margin
    while since < until:
        end = min(since + PERIOD, until)
        just_before = since - timedelta(seconds=1)
        period = f"start_date gt '{_local_text(just_before, zone)}' and start_date lt '{_local_text(end, zone)}'"
        requests.append(_list("jobactivity", f"{period} and activity_was_scheduled eq '1' and active eq '1'"))
        since = end
    if window.changed_since:
        changed = f"edit_date gt '{_local_text(window.changed_since - timedelta(days=1), zone)}'"
        requests += [_list(name, changed) for name in ("job", "jobactivity", "jobpayment")]
    return requests


def _zone(account: Payload) -> tzinfo | None:
    names = [vendor.at("timezone_name").text() for vendor in account]
    try:
        return ZoneInfo(names[0]) if names and names[0] else None
    except (LookupError, ValueError, OSError):  # not the name of a time zone
        return None


def _local_text(time: datetime, zone: tzinfo) -> str:
    return time.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S")


def _list(name: str, condition: str) -> ListRequest:
    return ListRequest(RecordRequest(f"{name}.json", params={"cursor": "-1", "$filter": condition}), {"list": name})


def _read_listed(request: ListRequest, response: ApiResponse) -> ListedPage:
    """Read a list of objects that refer to jobs, such as appointments; or a single job; or a related list of a job."""
    name = request.context["list"]
    if "job" in request.context:
        return _with_related(request.context, {**request.context["related"], name: response.value})
    if name == "one job":
        return ListedPage([], [_related_list(job, response.requested_at) for job in response])
    column = "uuid" if name == "job" else "job_uuid"
    uuids = dict.fromkeys(_uuid(item.at(column)) for item in response if item.at(column).text())
    requests = [replace(_list("job", f"uuid eq '{uuid}'"), context={"list": "one job"}) for uuid in uuids]
    if cursor := response.headers.get("x-next-cursor"):
        params = {**request.request.params, "cursor": cursor}
        requests.append(replace(request, request=replace(request.request, params=params)))
    return ListedPage([], requests)


#: The fields of a job that `translate` reads.
JOB_FIELDS = ("uuid", "active", "status", "company_uuid", "completion_date", "unsuccessful_date", "edit_date")


def _related_list(job: Payload, requested_at: datetime) -> ListRequest:
    """Return the first list that belongs to the job."""
    fields = {name: job.value[name] for name in JOB_FIELDS if job.at(name)}
    return _with_related({"job": fields, "requested_at": requested_at.isoformat()}, {}).requests[0]


def _with_related(context: Mapping[str, Any], related: Mapping[str, Any]) -> ListedPage:
    """Return the next list that belongs to the job, or the job with all of them."""
    job = Payload(context["job"], "job")
    for name, request in _related_requests(job).items():
        if name not in related:
            return ListedPage([], [ListRequest(request, {**context, "list": name, "related": related})])
    return ListedPage([_listed(job, related, datetime.fromisoformat(context["requested_at"]))])


def _listed(job: Payload, related: Mapping[str, Any], requested_at: datetime) -> ListedRecord:
    uuid = _uuid(job.at("uuid"))
    cancelled_at = job.at("unsuccessful_date").text() if job.at("status").text() == "Unsuccessful" else None
    times = (time for time in (cancelled_at, job.at("edit_date").text()) if time and not time.startswith("0000"))
    body = {"object": "job", "entry": [{"uuid": uuid, "changed_fields": [], "time": next(times, None)}]}
    return ListedRecord(uuid, body, job.value, related, f"job/{uuid}.json", requested_at)


LISTING = Listing(
    docs="https://developer.servicem8.com/docs/pagination",
    evidence="none",
    start=_list_jobs,
    read_page=_read_listed,
    lists_changed=True,
)
