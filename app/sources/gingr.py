"""Gingr: reservations of pet boarding, day care and grooming. Thin: every reservation is fetched.

https://support.gingrapp.com/hc/en-us/articles/360056549612-Webhooks: `signature` is in the body and covers only
`webhook_type`, `entity_id` and `entity_type`. The signature never changes: anyone who has seen one body could send it
again with other `entity_data`. So `entity_data` is not read, and the URL contains a token, too. The signature only
proves which reservation to fetch. The fetched reservation is the current state, and the time of the fetch orders the
changes.

https://support.gingrapp.com/hc/en-us/articles/25722122517517-Gingr-API-Functions-Reference: no call returns a single
reservation. `owner` finds the owner of one, and `reservations_by_owner` lists theirs. It is not documented which
reservations are listed without a filter, so the list is also fetched with the filter that fits the event. Webhooks are
sent only for check-ins and check-outs: a reservation is unknown before its check-in, and so is a cancellation before
its check-in.

Second-hand, from integrators: a list may be an object whose keys are ids; fields may be called `reservation_id`,
`check_out_date`, `cancelled_date`, `first_name` and so on, in addition to the names in the webhook's example, where
times are Unix seconds as text.
"""

from datetime import datetime, tzinfo
from functools import partial

from app.visits.change import Contact, VisitChange, unix_microseconds
from app.webhooks import (
    RECORD_GONE,
    AllOf,
    ApiKeyAuth,
    Event,
    FieldsHmac,
    Ignored,
    PathToken,
    Payload,
    RecordRequest,
    Source,
    Untranslatable,
)

SETUP = """
1. Make up a signature key of 24 characters or more and set it as HOOKS__GINGR__SECRETS. Set SECRET_KEY to 32 random
   characters or more, and HOOKS__GINGR__API_URL to https://APP.gingrapp.com/api/v1/ with the name of your app.
2. In Gingr, open Reports and More, Users, Edit User, API Keys, and set the key as HOOKS__GINGR__CREDENTIALS__API_KEY.
   The user needs the permission "Can Access API" and sees the reservations of one location: choose a user of your
   location.
3. Restart. Under Admin, Custom Configurations, paste {url} into "Webhook URL", after a comma if there are other URLs,
   and the key of step 1 into "Webhook Signature Key".

Gingr sends a webhook when a pet is checked in or out, but not when a reservation is made, moved or cancelled. So a
visit is created at the check-in, and its review request is timed from the check-out. There are no no-shows. Visits have
no amounts: the invoice in the event is not signed. The number of a reservation is unique only inside one app: if you
have several apps, give each a Review Rover account of its own. If Gingr sends times without an offset, set
HOOKS__GINGR__TIMEZONE.
"""

SOURCE = Source(
    title="Gingr",
    docs="https://support.gingrapp.com/hc/en-us/articles/360056549612-Webhooks",
    credential_help={
        "API_KEY": (
            "API key",
            "In Gingr: Reports and More, Users, Edit User, API Keys. The user needs the permission “Can Access API”.",
        ),
    },
    evidence="second-hand",
    signature=AllOf(PathToken(), FieldsHmac("signature", (("webhook_type",), ("entity_id",), ("entity_type",)))),
    setup=SETUP,
    ids_are_global=False,
    event_name_path=("webhook_type",),
    events_may_collide=True,  # a second check-in of the same reservation has the same signature
    required_settings=("API_URL",),
    api_url="",
    credentials=ApiKeyAuth(params={"key": "API_KEY"}),
)

#: The webhooks of a reservation, with the filter that should list it among its owner's reservations.
KINDS = {
    "checking_in": "future",
    "check_in": "currently_checked_in",
    "checking_out": "currently_checked_in",
    "check_out": "past",
}


def fetch(event: Event) -> list[RecordRequest]:
    if not _is_reservation(event):
        return []
    reservation_id = event.data.at("entity_id").required_id()
    return [
        RecordRequest(
            "owner",
            params={"reservation_id": reservation_id},
            follow_up=partial(_reservation_requests, KINDS[_kind(event)]),
        )
    ]


def _reservation_requests(filter_name: str, response: Payload) -> dict[str, RecordRequest]:
    owner = {"id": _first(_owner(response), "id", "o_id", "owner_id", "system_id").required_id()}
    return {
        "all": RecordRequest("reservations_by_owner", params=owner),
        "near": RecordRequest("reservations_by_owner", params={**owner, "restrict_to": filter_name}),
    }


def translate(event: Event) -> list[VisitChange] | Ignored:
    if not _is_reservation(event):
        return Ignored(_kind(event))
    if event.fetched_at is None:
        raise Untranslatable("the reservation that this event refers to was not fetched")
    if event.record is None:
        return RECORD_GONE
    reservation, zone = _reservation(event), event.zone
    cancelled_at = _time(_first(reservation, "cancel_stamp", "cancelled_date", "cancelled_at"), zone)
    return [
        VisitChange(
            action="cancel" if cancelled_at else "update",
            visit_id=event.data.at("entity_id").required_id(),
            version=unix_microseconds(event.fetched_at),
            contact=_contact(_owner(event.record)),
            time_scheduled=_time(reservation.at("start_date"), zone),
            time_completed=_time(_first(reservation, "check_out_stamp", "check_out_date", "checked_out_at"), zone),
            date_cancelled=cancelled_at,
        )
    ]


def _kind(event: Event) -> str:
    return event.data.at("webhook_type").required_text()


def _is_reservation(event: Event) -> bool:
    return _kind(event) in KINDS and event.data.at("entity_type").required_text().lower() == "reservation"


def _first(row: Payload, *names: str) -> Payload:
    """Return the first of these fields that has a value."""
    return next((row.at(name) for name in names if row.at(name).value not in (None, "")), row.at(names[0]))


def _rows(response: Payload) -> list[Payload]:
    """Return the items of a list, or of an object whose keys are ids. Either may be inside `data`."""
    data = response.at("data") or response
    if isinstance(data.value, dict):
        return [data.at(name) for name in data.value if isinstance(data.value[name], dict)]
    return list(data)


def _owner(response: Payload) -> Payload:
    data = response.at("data") or response
    return next(iter(data), Payload(None, *data.path)) if isinstance(data.value, list) else data


def _reservation(event: Event) -> Payload:
    """Find the event's reservation among those of its owner."""
    reservation_id = event.data.at("entity_id").required_id()
    for response in event.related.values():
        for row in _rows(response):
            if _first(row, "r_id", "reservation_id", "id").text() == reservation_id:
                return row
    raise Payload(None, "reservations_by_owner").unexpected("the reservation that the event names")


def _time(value: Payload, zone: tzinfo | None) -> datetime | None:
    """Parse seconds since 1970, or ISO 8601."""
    text = value.text() or ""
    if text.isdecimal() and text.isascii():
        return Payload(int(text), *value.path).unix_seconds() if int(text) else None
    return value.time(zone)


def _contact(owner: Payload) -> Contact:
    return Contact(
        email=_first(owner, "email", "username").text(),
        first_name=_first(owner, "first_name", "o_first").text(),
        last_name=_first(owner, "last_name", "o_last").text(),
        phone=_first(owner, "cell_phone", "home_phone").text(),
    )
