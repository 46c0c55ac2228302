"""The words of the Visits API and of a change to it: what a source says, before anybody acts on it."""

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from enum import Enum
from typing import Any, Literal

import orjson

Action = Literal["create", "update", "cancel"]

#: The rule for changes that the tool dates alike: the later word in this list wins.
ACTION_RANK: dict[str, int] = {"create": 0, "update": 1, "cancel": 2}

MAX_EXTERNAL_ID_CHARS = 120
_LIKE_A_DIGEST = re.compile(r"-[0-9a-f]{16}$")
_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9._-]")


class Unset(Enum):
    """The value of a field that a change says nothing about; None clears a field, this leaves it alone."""

    UNSET = "unset"


UNSET = Unset.UNSET


@dataclass(slots=True, kw_only=True)
class Contact:
    """Whose visit it is, as far as the tool tells. `id` is Review Rover's (`cont_…`), where somebody named it.

    None says nothing; an empty text clears what was said before.
    """

    id: str | None = None
    email: str | None = None
    first_name: str | None = None
    last_name: str | None = None
    phone: str | None = None

    def to_dict(self) -> dict[str, str]:
        """What was said, up to a bound. Addresses in lower case: `Ada@` and `ada@` are one person and get one request."""
        said = {
            name: value.strip()[:most]
            for name, most in CONTACT_FIELDS.items()
            if (value := getattr(self, name)) is not None
        }
        if "email" in said:
            said["email"] = said["email"].lower()
        return said

    def cache_key(self, key: bytes) -> str | None:
        """What it is remembered by: Review Rover's id, or a digest of the address, so that no index of addresses exists;
        None if neither is known."""
        if self.id or not self.email:
            return self.id
        if self.is_erased:
            return self.email.removeprefix(ERASED_PREFIX)
        # The label keeps these digests apart from all else that is made with this key.
        address = b"doorbell.contact\n" + self.email.encode("utf-8", "surrogatepass")
        return hmac.digest(key, address, hashlib.sha256).hex()[:32]

    @property
    def is_too_long(self) -> bool:
        """Cut short, an address or an id would be somebody else's."""
        named = {"email": self.email, "id": self.id}
        return any(value and len(value.strip()) > CONTACT_FIELDS[name] for name, value in named.items())

    @property
    def is_erased(self) -> bool:
        return bool(self.email) and str(self.email).startswith(ERASED_PREFIX)


#: Before the digest that stands for the address of somebody who was forgotten: whose visit it is, is still decided.
ERASED_PREFIX = "erased:"

#: What is told of a person, and how many characters of it. An address has 64, @, and 255 at the most (RFC 5321).
CONTACT_FIELDS = {"id": 120, "email": 320, "first_name": 200, "last_name": 200, "phone": 50}


@dataclass(slots=True, kw_only=True)
class VisitChange:
    """What one event means to one visit: fields and values, and when the tool says they became true.

    visit_id: the tool's stable id, with the tenant in it where ids are only unique inside one.
    external_id_override: instead of it, the whole external_id of a visit that may be another source's (a payment that
        names the visit
        that it is for). Only one that `is_external_id` accepts.
    version: what orders changes of one visit: the tool's version number, or microseconds since 1970. Never both
        in one source.
    observed_at_us: of changes of one version the greatest counts: when the record was fetched, where a version does
    not tell that.
    previous_visit_id: the id that this visit had before the tool gave it a new one (a reschedule).
    no_show: when the customer was marked as missing; None takes the mark back.
    date_left: when this person gave up a place in a booking that goes on without them; None takes that back. It is no
        date_cancelled, so that the cancel of the whole booking, and its return, leave it alone.
    payment_id: which payment `amount_collected` is, where the tool tells of each by itself: a visit collected the sum of
        what each of them says last. Without it the amount is all that the visit collected.
    opted_out: the customer wants no review request.
    only_for_contact: the facts count only while the visit belongs to the address in `contact`, which then says nothing about
        whose visit it is: the tool names a person, and not whether it is the customer, a guest, or the holder of a seat.
    first_contact_stays: the tool uses this one id for several people. The visit belongs to whom it named first, what the
        facts say of somebody else does not count for it, and an operator sees that there are others.
    times_are_observed: the tool does not tell when it was completed, cancelled or missed, so those times are when it
        was first seen
        so: of several sightings in a row the first counts.
    """

    action: Action
    version: int
    observed_at_us: int = 0
    visit_id: str = ""
    external_id_override: str | None = None
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
        """The fields that it says something about, as they are stored: times and money as the API writes them."""
        said = {name: _serialize(value) for name in FACTS if (value := getattr(self, name)) is not UNSET}
        if self.payment_id:
            said[f"{PAYMENT_PREFIX}{self.payment_id}"] = said.pop("amount_collected")
        return said

    def external_id(self, source: str) -> str:
        """The visit's name on both sides. source: who says it."""
        return self.external_id_override or external_id(source, self.visit_id)


#: The fields of a change that are facts about the visit itself.
FACTS = ("time_scheduled", "time_completed", "amount_collected", "date_cancelled", "no_show", "date_left", "opted_out")


#: What one payment collected: a fact of its own for each.
PAYMENT_PREFIX = "amount_collected of "


def _serialize(value: Any) -> str | bool | None:
    if isinstance(value, datetime):
        return format_time(value)
    if isinstance(value, Decimal):
        return format_money(value)
    return value  # type: ignore[no-any-return]


def format_time(time: datetime) -> str:
    """UTC, whole seconds, `Z`: the only form that the API prints."""
    in_utc = time if time.tzinfo is UTC else time.astimezone(UTC)
    # A third of what isoformat costs, and every delivery has some.
    return orjson.dumps(in_utc, option=orjson.OPT_UTC_Z | orjson.OPT_OMIT_MICROSECONDS)[1:-1].decode()


def format_money(amount: Decimal) -> str:
    """A decimal with two places, half up: `120.00`."""
    return str(amount.quantize(_CENT, ROUND_HALF_UP) + 0)  # + 0: never -0.00


_CENT = Decimal("0.01")


def unix_microseconds(time: datetime) -> int:
    """The `order` of a change whose tool dates it."""
    since = time - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def external_id(source: str, visit_id: str) -> str:
    """The visit's name on both sides: at most 120 characters of `A-Z a-z 0-9 . _ -`, beginning with the source.

    What would not fit is shortened or replaced, and ends in a digest of the whole: two ids never become one.
    """
    name = f"{source}-{visit_id}"
    allowed = _NOT_ALLOWED.sub("_", name)
    if allowed == name and len(name) <= MAX_EXTERNAL_ID_CHARS and not _LIKE_A_DIGEST.search(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{allowed[: MAX_EXTERNAL_ID_CHARS - 17]}-{digest}"


def attendee_visit_id(booking_id: str, attendee: str) -> str:
    """The visit id of one person where several people share one booking.

    booking_id: the tool's id of the booking, with the tenant in it where needed. attendee: the tool's own id of the
    attendee, which is used as it is, or an e-mail address, which is replaced by a digest: an external_id is logged and
    must not contain personal data. The booking id is part of the digest, so one person's visits cannot be linked.
    """
    if "@" not in attendee:
        return f"{booking_id}.{attendee}"
    address = attendee.strip().lower()
    digest = hashlib.sha256(f"{booking_id}\n{address}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"{booking_id}.{digest[:20]}"


def is_external_id(text: str) -> bool:
    """Could it be a visit's name, ours or anybody's?"""
    return bool(len(text) <= MAX_EXTERNAL_ID_CHARS and _EXTERNAL_ID.fullmatch(text))


_EXTERNAL_ID = re.compile(r"[a-z][a-z0-9_]{1,30}-[A-Za-z0-9._-]{1,118}")


def encode_change(change: VisitChange) -> bytes:
    """A change as the ledger stores it; `merge.RecordedChange.decode` is the other end."""
    stored: dict[str, Any] = {"a": change.action, "o": change.version, "f": change.facts()}
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
