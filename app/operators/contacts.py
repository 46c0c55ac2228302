"""The contact that an operator assigns to visits."""

import re
import time

from app.ledger.records import Task
from app.operators.search_index import normalize_email
from app.visits.change import FIRST_TIME_US, Contact, VisitChange

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


def assignment(contact: Contact, last_alias: Task) -> VisitChange:
    """Return the change of an operator. It is recorded for the visit's last id, whose changes take precedence.

    It overrides the contact in every change that is stored, and none that the tool makes later. The tool's versions are
    times or counts. The tool's next count may be that of this change; then the tool's change has the greater rank.
    """
    newest = max((change.version for change in last_alias.recorded_changes()), default=0)
    now_us = time.time_ns() // 1000 if newest >= FIRST_TIME_US else 0
    return VisitChange(action="create", visit_id="", version=max(newest + 1, now_us), contact=contact)


def has_contact(current: Contact, assigned: Contact) -> bool:
    """Return whether the assignment would change nothing. An id takes precedence over an address."""
    if assigned.email:
        return current.email == assigned.email and not current.id
    return current.id == assigned.id
