"""Gingr: reservations of pet boarding, day care and grooming. Every event is looked up before it is believed.

https://support.gingrapp.com/hc/en-us/articles/360056549612-Webhooks: `signature` stands in the body and covers no more than
`webhook_type`, `entity_id` and `entity_type`. It never changes: anyone who has seen one body could send it again with
other `entity_data`, so nothing of that is read, and the address carries a token of ours too. What the signature does prove
is which reservation to look at. That is told as it stands when it is fetched; our own clock orders.

https://support.gingrapp.com/hc/en-us/articles/25722122517517-Gingr-API-Functions-Reference: no call answers a single
reservation. `owner` finds the owner of one, and `reservations_by_owner` lists theirs; which of them without a filter is not
said, so the past ones, or those that are there now, are asked for too. Only check-ins and check-outs ring: a reservation is
known from its check-in on, and a cancel before that never.

Second-hand, from integrators: that a list may be an object with the ids as names, and the names `reservation_id`,
`check_out_date`, `cancelled_date`, `first_name` and so on, beside those of the webhook's own example, which has unix seconds
in texts.
"""

from datetime import datetime, tzinfo
from functools import partial

from app.visits.change import Contact, VisitChange, unix_microseconds
from app.webhooks.delivery import Event
from app.webhooks.fetching import ApiKeyAuth, RecordRequest
from app.webhooks.payload import Payload, Untranslatable
from app.webhooks.signatures.combined import AllOf, FieldsHmac
from app.webhooks.signatures.token import PathToken
from app.webhooks.source import RECORD_GONE, Ignored, Source

SETUP = """
1. Think of a signature key of 24 characters or more and set it as HOOKS__GINGR__SECRETS, SECRET_KEY to 32 random characters
   or more, and HOOKS__GINGR__API_URL to https://APP.gingrapp.com/api/v1/ with the name of your app.
2. In Gingr open Reports and More, Users, Edit User, API Keys, and set the key as HOOKS__GINGR__CREDENTIALS__API_KEY. The
   user needs the permission "Can Access API" and sees one location's reservations: use one of the location meant.
3. Restart. Under Admin, Custom Configurations, paste {url} into "Webhook URL", behind a comma if there are others, and the
   key of step 1 into "Webhook Signature Key".

Gingr rings when a pet is checked in or out, and not when a reservation is made, moved or cancelled; so a visit is made at
the check-in, and its review request counts from the check-out. There are no no-shows. Money is not told: the invoice in the
event is not signed. If Gingr answers times without an offset, set HOOKS__GINGR__TIMEZONE.
"""

SOURCE = Source(
    title="Gingr",
    docs="https://support.gingrapp.com/hc/en-us/articles/360056549612-Webhooks",
    evidence="second-hand",
    signature=AllOf(PathToken(), FieldsHmac("signature", (("webhook_type",), ("entity_id",), ("entity_type",)))),
    setup=SETUP,
    event_name_path=("webhook_type",),
    events_may_collide=True,  # the same pet checked in again, by mistake or not, signs the same
    required_settings=("API_URL",),
    api_url="",
    credentials=ApiKeyAuth(params={"key": "API_KEY"}),
)

#: What rings about a reservation, and among which of the owner's reservations it should be then.
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
            "owner", params={"reservation_id": reservation_id}, follow_up=partial(_beside, KINDS[_kind(event)])
        )
    ]


def _beside(among: str, answer: Payload) -> dict[str, RecordRequest]:
    owner = {"id": _first(_owner(answer), "id", "o_id", "owner_id", "system_id").required_id()}
    return {
        "all": RecordRequest("reservations_by_owner", params=owner),
        "near": RecordRequest("reservations_by_owner", params={**owner, "restrict_to": among}),
    }


def translate(event: Event) -> list[VisitChange] | Ignored:
    if not _is_reservation(event):
        return Ignored(_kind(event))
    if event.fetched_at is None:
        raise Untranslatable("the reservation that this event points at was not fetched")
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
    """The first of several names that has something."""
    return next((row.at(name) for name in names if row.at(name).value not in (None, "")), row.at(names[0]))


def _rows(answer: Payload) -> list[Payload]:
    """A list, or an object with the ids as names; as it is, or in `data`."""
    data = answer.at("data") or answer
    if isinstance(data.value, dict):
        return [data.at(name) for name in data.value if isinstance(data.value[name], dict)]
    return list(data)


def _owner(answer: Payload) -> Payload:
    data = answer.at("data") or answer
    return next(iter(data), Payload(None, *data.path)) if isinstance(data.value, list) else data


def _reservation(event: Event) -> Payload:
    """That of the event, among its owner's."""
    wanted = event.data.at("entity_id").required_id()
    for answer in event.related.values():
        for row in _rows(answer):
            if _first(row, "r_id", "reservation_id", "id").text() == wanted:
                return row
    raise Payload(None, "reservations_by_owner").unexpected("the reservation that the event names")


def _time(found: Payload, zone: tzinfo | None) -> datetime | None:
    """Seconds since 1970, or ISO 8601."""
    written = found.text() or ""
    if written.isdecimal() and written.isascii():
        return Payload(int(written), *found.path).unix_seconds() if int(written) else None
    return found.time(zone)


def _contact(owner: Payload) -> Contact:
    return Contact(
        email=_first(owner, "email", "username").text(),
        first_name=_first(owner, "first_name", "o_first").text(),
        last_name=_first(owner, "last_name", "o_last").text(),
        phone=_first(owner, "cell_phone", "home_phone").text(),
    )
