"""Reads the people of a booking: names in one field, answers of booking forms, and ids of attendees."""

import re

from app.webhooks.payload import Payload

#: Why an event with such an attendee is parked.
NO_ATTENDEE_ID = "an attendee has neither an e-mail address nor an id"


def split_name(name: str | None) -> tuple[str | None, str | None]:
    """Return the first names and the last name of a person whose tool has one field for both."""
    first, last = [*(name or "").strip().rsplit(maxsplit=1), None, None][:2]
    return first, last


def phone_answer(question: str | None, answer: str | None) -> str | None:
    """Return the answer on a booking form if it looks like a phone number and the question asks for one."""
    number = (answer or "").strip()
    return number if _ASKS_FOR_PHONE.search(question or "") and _PHONE_NUMBER.fullmatch(number) else None


_ASKS_FOR_PHONE = re.compile(r"phone|mobile|\bcell\b|tel[eé]fon|m[oó]vil|handynummer|whatsapp", re.IGNORECASE)
_PHONE_NUMBER = re.compile(r"[+(]?[0-9][0-9 ()./-]{5,24}")


def attendee_key(attendee: Payload) -> str | None:
    """Return what identifies an attendee within a booking: the e-mail address, else the tool's id."""
    email = (attendee.at("email").text() or "").lower()
    return email if "@" in email else attendee.at("id").text()
