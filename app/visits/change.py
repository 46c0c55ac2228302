"""A change of a visit as a source produces it, and the formats of the Visits API."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from enum import Enum
from typing import Any, Literal

import orjson

Action = Literal["create", "update", "cancel"]

#: The rule for changes with the same version: the action with the greater rank wins.
ACTION_RANK: dict[str, int] = {"create": 0, "update": 1, "cancel": 2}

MAX_EXTERNAL_ID_CHARS = 120
#: An external_id that does not end like one with a digest.
_WITHOUT_DIGEST = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_EXTERNAL_ID_CHARS}}}(?<!-[0-9a-f]{{16}})")
_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9._-]")


class Unset(Enum):
    """The value of a field that a change does not mention: UNSET leaves the field unchanged, None clears it.

    A method of Payload returns None for a value that is missing in the event. Where an event may leave out a field, write
    `….time() or UNSET`: None would erase the value of an earlier event. In a Contact it is the other way round: None
    leaves a field unchanged, and an empty text clears it.
    """

    UNSET = "unset"


UNSET = Unset.UNSET


@dataclass(slots=True, kw_only=True)
class Contact:
    """The customer of a visit, as far as the tool names one. `id` is Review Rover's id (`cont_…`), where it is known.

    None leaves a field unchanged; an empty text clears it.
    """

    id: str | None = None
    email: str | None = None
    first_name: str | None = None
    last_name: str | None = None
    phone: str | None = None

    def to_dict(self) -> dict[str, str]:
        """Return the fields that are not None, cut to their maximum length.

        Addresses are in lower case: `Ada@` and `ada@` are one person and get one review request.
        """
        fields = {
            name: value.strip()[:max_chars]
            for name, max_chars in CONTACT_FIELDS.items()
            if (value := getattr(self, name)) is not None
        }
        if "email" in fields:
            fields["email"] = fields["email"].lower()
        return fields

    def cache_key(self, key: bytes) -> str | None:
        """Return Review Rover's id, else a digest of the address, else None. The address itself is never a key."""
        if self.id or not self.email:
            return self.id
        if self.is_erased:
            return self.email.removeprefix(ERASED_PREFIX)
        # The label separates these digests from all other digests with this key.
        address = b"doorbell.contact\n" + self.email.encode("utf-8", "surrogatepass")
        return hmac.digest(key, address, hashlib.sha256).hex()[:32]

    @property
    def is_too_long(self) -> bool:
        """Whether the address or the id is too long. A truncated one could belong to another person."""
        return (
            len((self.email or "").strip()) > CONTACT_FIELDS["email"]
            or len((self.id or "").strip()) > CONTACT_FIELDS["id"]
        )

    @property
    def is_erased(self) -> bool:
        return bool(self.email) and str(self.email).startswith(ERASED_PREFIX)


#: Prefix of the digest that replaces the address of an erased person: the merge still decides whose visit it is.
ERASED_PREFIX = "erased:"

#: The fields of a contact and their maximum number of characters. An address has at most 64, @, and 255 (RFC 5321).
CONTACT_FIELDS = {"id": 120, "email": 320, "first_name": 200, "last_name": 200, "phone": 50}


@dataclass(slots=True, kw_only=True)
class VisitChange:
    """What one event means for one visit: fields and values, and when they became true in the tool.

    None clears a field, UNSET leaves it unchanged (see Unset). Fields of a contact that are None stay unchanged.
    visit_id: the tool's stable id. It includes the tenant where ids are only unique per tenant.
    external_id_override: the full external_id, used instead of visit_id. The visit may belong to another source (a
        payment that names its visit). `is_external_id` must accept it.
    version: orders the changes of one visit: the tool's version number, or microseconds since 1970. A source uses one
        of the two, never both.
    observed_at_us: orders changes of the same version: the time of the fetch, for records whose version may stay the
        same when they change.
    previous_visit_id: the visit's id before the tool gave it a new one (a reschedule).
    no_show: when the tool marked the customer as a no-show; None removes the mark.
    date_left: when this person left a booking that continues for others; None undoes that. The field is separate from
        date_cancelled, so that cancelling and restoring the whole booking does not change it.
    currency: the currency of `amount_collected` (ISO 4217), if the tool tells it. People see it; the Visits API has none.
    payment_id: the payment of `amount_collected`, for tools that report payments one by one: the visit's amount is the
        sum of the newest amount of each payment. Without it, the amount is the visit's total.
    opted_out: the customer wants no review request.
    only_for_contact: the facts count only while the visit belongs to the address in `contact`, and the change does not
        decide whose visit it is. For events that name a person without the role: customer, guest or holder of a seat.
    first_contact_stays: the tool uses this id for several people. The visit belongs to the person that the tool named
        first, facts about other people do not count for it, and an operator sees that there are several.
    times_are_observed: the tool does not send when the visit was completed, cancelled or missed. Those times are the
        times of observation, and of consecutive observations the first counts.
    """

    action: Action
    version: int
    observed_at_us: int = 0
    visit_id: str = ""
    external_id_override: str | None = None
    currency: str | None = None
    payment_id: str | None = None
    previous_visit_id: str | None = None
    contact: Contact | None = None
    time_scheduled: datetime | None | Unset = UNSET
    time_completed: datetime | None | Unset = UNSET
    amount_collected: Decimal | None | Unset = UNSET
    date_cancelled: datetime | None | Unset = UNSET
    no_show: datetime | None | Unset = UNSET
    date_left: datetime | None | Unset = UNSET
    opted_out: bool | Unset = UNSET
    times_are_observed: bool = False
    only_for_contact: bool = False
    first_contact_stays: bool = False

    def facts(self) -> dict[str, str | bool | None]:
        """Return the fields that are not UNSET. Times and money have the format of the Visits API."""
        facts = {name: _serialize(value) for name in FACTS if (value := getattr(self, name)) is not UNSET}
        if self.currency and facts.get("amount_collected"):
            facts["currency"] = self.currency
        if self.payment_id:
            facts[f"{PAYMENT_PREFIX}{self.payment_id}"] = facts.pop("amount_collected")
            if "currency" in facts:
                facts[f"currency of {self.payment_id}"] = facts.pop("currency")
        return facts

    def external_id(self, source: str) -> str:
        return self.external_id_override or external_id(source, self.visit_id)


#: The fields of a change that are facts about the visit itself.
FACTS = ("time_scheduled", "time_completed", "amount_collected", "date_cancelled", "no_show", "date_left", "opted_out")


def visit_start(fields: Mapping[str, Any]) -> str:
    """Return when a visit starts, to the minute (`2026-03-14T16:00`), or when it was completed; empty if it has no time.

    fields: of a change, of merged changes, or of the Visits API.
    """
    return str(fields.get("time_scheduled") or fields.get("time_completed") or "")[:16]


#: Prefix of the fact with the amount of one payment.
PAYMENT_PREFIX = "amount_collected of "


def _serialize(value: Any) -> str | bool | None:
    if isinstance(value, datetime):
        return format_time(value)
    if isinstance(value, Decimal):
        return format_money(value)
    return value  # type: ignore[no-any-return]


def format_time(time: datetime) -> str:
    """Format a time in UTC with whole seconds and `Z`, as the Visits API does."""
    in_utc = time if time.tzinfo is UTC else time.astimezone(UTC)
    # orjson is three times as fast as isoformat, and every delivery has several timestamps.
    return orjson.dumps(in_utc, option=orjson.OPT_UTC_Z | orjson.OPT_OMIT_MICROSECONDS)[1:-1].decode()


def format_money(amount: Decimal) -> str:
    """Format an amount with two decimal places, rounded half up: `120.00`."""
    return str(amount.quantize(_CENT, ROUND_HALF_UP) + 0)  # + 0: never -0.00


_CENT = Decimal("0.01")


#: Versions are microseconds since 1970 from this on: in 1973. Counts of versions are smaller.
FIRST_TIME_US = 100_000_000_000_000


def unix_microseconds(time: datetime) -> int:
    """Return the `version` of a change for a tool that sends times."""
    since = time - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def external_id(source: str, visit_id: str) -> str:
    """Return the visit's external_id: at most 120 characters of `A-Z a-z 0-9 . _ -`, beginning with the source.

    An id that is too long or has other characters is shortened or changed, and ends in a digest of the original, so
    two ids never collide.
    """
    name = f"{source}-{visit_id}"
    if _WITHOUT_DIGEST.fullmatch(name):
        return name
    allowed = _NOT_ALLOWED.sub("_", name[: MAX_EXTERNAL_ID_CHARS - 17])
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{allowed}-{digest}"


def attendee_visit_id(booking_id: str, attendee: str) -> str:
    """Return the visit id of one person where several people share one booking.

    booking_id: the tool's id of the booking, with the tenant in it where needed.
    attendee: the tool's id of the attendee, which is used unchanged, or an e-mail address, which is replaced by a
        digest: an external_id is logged and must not contain personal data. The booking id is part of the digest, so
        one person's visits cannot be linked.
    """
    if "@" not in attendee:
        return f"{booking_id}.{attendee}"
    address = attendee.strip().lower()
    digest = hashlib.sha256(f"{booking_id}\n{address}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"{booking_id}.{digest[:20]}"


def is_external_id(text: str) -> bool:
    """Return whether the text has the format of an external_id, of Doorbell or of another client."""
    return bool(len(text) <= MAX_EXTERNAL_ID_CHARS and _EXTERNAL_ID.fullmatch(text))


_EXTERNAL_ID = re.compile(r"[a-z][a-z0-9_]{1,30}-[A-Za-z0-9._-]{1,118}")


def encode_change(change: VisitChange, facts: Mapping[str, Any] | None = None) -> bytes:
    """Encode a change as the ledger stores it; `merge.RecordedChange.decode` is the inverse.

    facts: those of the change, if they are computed already.
    """
    facts = change.facts() if facts is None else facts
    stored: dict[str, Any] = {"a": change.action, "o": change.version, "f": _rename(facts, _SHORT_NAMES)}
    if change.contact is not None:
        stored["c"] = change.contact.to_dict()
    if change.observed_at_us:
        stored["t"] = change.observed_at_us
    if change.times_are_observed:
        stored["s"] = True
    if change.only_for_contact:
        stored["w"] = True
    if change.first_contact_stays:
        stored["k"] = True
    return orjson.dumps(stored)


#: The names of facts in a stored change. Those of single payments have none.
_FULL_NAMES = {
    "s": "time_scheduled",
    "f": "time_completed",
    "m": "amount_collected",
    "u": "currency",
    "x": "date_cancelled",
    "n": "no_show",
    "l": "date_left",
    "o": "opted_out",
}
_SHORT_NAMES = {name: short for short, name in _FULL_NAMES.items()}


def _rename(facts: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in facts.items()}


def stored_facts(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of a stored change with their full names."""
    return _rename(fields["f"], _FULL_NAMES)
