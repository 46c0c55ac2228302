"""The contact that an operator assigns to visits."""

import re
import time

from app.ledger.times import MAX_CLOCK_SKEW_MS
from app.operators.search_index import normalize_email
from app.visits.change import Contact, VisitChange
from app.visits.merge import RecordedChange

_CONTACT_ID = re.compile(r"cont_[A-Za-z0-9_]{1,80}")


class InvalidContact(Exception):
    """The text is neither an e-mail address nor an id."""

    def __init__(self) -> None:
        super().__init__("A contact is an e-mail address, or an id of Review Rover (cont_…).")


def parse_contact(text: str) -> Contact:
    """Return the contact with this e-mail address or id. Raise InvalidContact."""
    if email := normalize_email(text):
        # The worker looks the id up, or creates the contact; an earlier id no longer has an effect.
        return Contact(id="", email=email)
    if _CONTACT_ID.fullmatch(text.strip()):
        return Contact(id=text.strip())
    raise InvalidContact


def is_contact(text: str) -> bool:
    try:
        parse_contact(text)
    except InvalidContact:
        return False
    return True


def assignment(contact: Contact) -> VisitChange:
    """Return the change of an operator. It overrides all older changes, and no newer one."""
    return VisitChange(action="update", visit_id="", version=time.time_ns() // 1000, contact=contact)


def is_assignment(change: RecordedChange, recorded_at_ms: int) -> bool:
    """Return whether the change may be an `assignment` that was recorded at this time."""
    return (
        bool(change.contact) and not change.facts and abs(change.version // 1000 - recorded_at_ms) < MAX_CLOCK_SKEW_MS
    )


def has_contact(current: Contact, assigned: Contact) -> bool:
    """Return whether the assignment would change nothing. An id takes precedence over an address."""
    if assigned.email:
        return current.email == assigned.email and not current.id
    return current.id == assigned.id
