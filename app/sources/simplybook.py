"""SimplyBook.me: bookings. Thin: a callback refers to a booking, which is fetched by JSON-RPC.

From https://github.com/vetalsimplybook/simplybook_callback_example_php, by a developer of the vendor: a callback has
`booking_id`, `booking_hash`, `company` and `notification_type`; `getBookingDetails` needs md5(id + hash + secret key).
The hash belongs to the booking, and nothing is signed, so the URL contains a token. A booking's number is unique inside
its company, and does not change when the booking is moved. A callback has neither a time nor an id, so the record of a
repeat is fetched again, and the time of the fetch orders the changes. A cancellation gets the time of its arrival,
because the cancelled booking still exists and looks like any other. No callback restores a cancelled booking, so a late
`change` does not undo a cancellation.

Second-hand, from integrators: `client_email`, `client_phone`, local times such as `2026-03-14 09:00:00`; a cancelled
booking can be fetched. From memory: the last word of `client_name` is the last name. Not documented: how long a token
lives (it is renewed after 20 minutes), and the content of the webhooks of REST v2: those are ignored by their `event`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.visits.change import UNSET, Action, Contact, VisitChange, unix_microseconds
from app.webhooks import (
    RECORD_GONE,
    Event,
    Ignored,
    PathToken,
    Payload,
    RecordRequest,
    RequestAuth,
    Source,
    TokenExchange,
    Untranslatable,
    split_name,
)

SETUP = """
1. Set HOOKS__SIMPLYBOOK__SECRETS to a word that you choose, SECRET_KEY to 32 random characters or more, and
   HOOKS__SIMPLYBOOK__TIMEZONE to the company's time zone. Restart.
2. In SimplyBook.me, open Custom Features, enable API, and open its Settings. From that page, set
   HOOKS__SIMPLYBOOK__CREDENTIALS__COMPANY (the company login), …__API_KEY (the API key) and …__API_SECRET (the secret
   key).
3. On the same page, paste {url} as the callback URL, for new, changed and cancelled bookings; reminders are ignored.
4. If your company is on another domain, such as simplybook.it, set HOOKS__SIMPLYBOOK__API_URL to
   https://user-api.simplybook.it and HOOKS__SIMPLYBOOK__TOKEN_URL to the same URL followed by /login.

SimplyBook.me signs nothing: anyone who knows the URL can cancel a booking, or make Doorbell fetch a booking whose hash
they know. It sends no approvals, completions, no-shows or payments, so review requests are timed from the start. A
booking that is created again after a cancellation is another visit.
"""

API = "https://user-api.simplybook.me"


@dataclass(frozen=True, slots=True)
class SignedCall:
    """A token in a header, and a signature with the secret key as the call's last parameter."""

    @property
    def names(self) -> tuple[str, ...]:
        return ("COMPANY", "API_SECRET", "TOKEN")

    def authenticate(self, credentials: Mapping[str, str], now: float, request: RecordRequest) -> RequestAuth:
        call: dict[str, Any] = dict(request.json or {})
        id, booking_hash = call["params"]
        signature = hashlib.md5(f"{id}{booking_hash}{credentials['API_SECRET']}".encode()).hexdigest()
        headers = {"x-company-login": credentials["COMPANY"], "x-token": credentials["TOKEN"]}
        return RequestAuth(headers, json={**call, "params": [id, signature]})


SOURCE = Source(
    title="SimplyBook.me",
    docs="https://github.com/vetalsimplybook/simplybook_callback_example_php",
    credential_help={
        "COMPANY": ("Company login", "In SimplyBook.me: Custom Features, API, Settings. Enable the API first."),
        "API_KEY": ("API key", "In the same place."),
        "API_SECRET": ("Secret key", "In the same place."),
    },
    evidence="none",
    signature=PathToken(),
    setup=SETUP,
    body_format="any",
    event_name_path=("notification_type",),
    events_may_collide=True,
    tenant_of=lambda event: event.data.at("company").text(),
    required_settings=("TIMEZONE",),
    api_url=API,
    credentials=SignedCall(),
    token_exchange=TokenExchange(
        f"{API}/login",
        ("COMPANY", "API_KEY"),
        json={"jsonrpc": "2.0", "method": "getToken", "params": ["{COMPANY}", "{API_KEY}"], "id": 1},
        token_path=("result",),
        default_ttl_s=1_200,
    ),
)

KINDS: dict[str, Action] = {"create": "create", "change": "update", "cancel": "cancel"}


def fetch(event: Event) -> list[RecordRequest]:
    if _kind(event) not in KINDS:
        return []
    id, booking_hash = event.data.at("booking_id").required_id(), event.data.at("booking_hash").required_id()
    call = {"jsonrpc": "2.0", "method": "getBookingDetails", "params": [id, booking_hash], "id": 1}
    return [RecordRequest(f"booking/{id}", endpoint="", json=call)]


def translate(event: Event) -> list[VisitChange] | Ignored:
    kind = _kind(event)
    if kind not in KINDS:
        return Ignored(kind)
    if event.fetched_at is None:
        raise Untranslatable("the booking that this event refers to was not fetched")
    booking = event.record.at("result") if event.record else Payload(None)
    if not booking and kind != "cancel":
        return _missing_booking(event)
    start = booking.at("start_date_time")
    return [
        VisitChange(
            action=KINDS[kind],
            visit_id=f"{event.data.at('company').required_text()}-{event.data.at('booking_id').required_id()}",
            version=unix_microseconds(event.fetched_at),
            contact=_contact(booking) if booking else None,
            time_scheduled=start.required_time(event.zone) if booking else UNSET,
            date_cancelled=event.received_at if kind == "cancel" else UNSET,
            times_are_observed=True,
        )
    ]


def _kind(event: Event) -> str:
    """Return the kind of callback, which is called `event` in REST v2."""
    return (event.data.at("notification_type") or event.data.at("event")).required_text()


def _missing_booking(event: Event) -> Ignored:
    """Raise Untranslatable for a JSON-RPC error, which may have status 200."""
    error = event.record.at("error") if event.record else Payload(None)
    if error:
        code = error.at("code").value
        raise Untranslatable(f"SimplyBook.me does not show the booking: error {code if isinstance(code, int) else ''}")
    return RECORD_GONE


def _contact(booking: Payload) -> Contact:
    first, last = split_name(booking.at("client_name").text())
    return Contact(
        email=booking.at("client_email").text(),
        first_name=first,
        last_name=last,
        phone=booking.at("client_phone").text(),
    )
