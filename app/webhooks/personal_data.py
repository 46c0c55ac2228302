"""Decides by the name of a field whether its values may be personal data, or are certainly not."""

import re

#: Keys whose values describe the event and its time, and no person.
SAFE_KEYS = frozenset(
    """action amount amount_collected api_version cancelled canceled completed created created_at createdat currency
    date_cancelled duration end end_at end_time ends_at endtime event event_id event_type eventtype id kind object order
    price rescheduled start start_at start_time starts_at starttime status time_completed time_scheduled time_zone timestamp
    timezone topic trigger triggerevent type uid updated updated_at updatedat uri uuid version visit_id""".split()  # noqa: SIM905
)
#: SAFE_KEYS whose value is a sentence with the name of a person in some tools. A single word is shown. A sentence is
#: shown only if the source declares the field as the name of the event.
EVENT_NAME_KEYS = frozenset("action event event_type eventtype kind object topic trigger triggerevent type".split())  # noqa: SIM905

GIVEN_NAME_KEY = re.compile(
    r"^first$|first_?-?name|given|(?:^|_)f_?name$|forename|middle|nick|salutation", re.IGNORECASE
)
FAMILY_NAME_KEY = re.compile(r"last_?-?name|^last$|family|surname|l_?name$", re.IGNORECASE)
NAME_KEY = re.compile(
    r"name|title$|^owner$|^author$|company|organi[sz]ation|attendee|organizer|customer$|client$", re.IGNORECASE
)
PHONE_KEY = re.compile(
    r"phone|mobile|^cell|cell_?number|^tel$|telephone|sms|fax|whatsapp|text_reminder_number", re.IGNORECASE
)
PLACE_KEY = re.compile(
    r"address|street|line_?\d|^city|town|zip|postal|post_?code|location$|suburb|province|county|region$", re.IGNORECASE
)
BIRTHDAY_KEY = re.compile(r"birth|^dob$", re.IGNORECASE)
#: Any field whose values may be about a person.
PERSONAL_KEY = re.compile(
    "|".join(
        pattern.pattern for pattern in (GIVEN_NAME_KEY, FAMILY_NAME_KEY, NAME_KEY, PHONE_KEY, PLACE_KEY, BIRTHDAY_KEY)
    )
    + r"|e-?mail|note|comment|description|message|answer|text|summary|subject|gender|sex$|user$|password|secret|token|host",
    re.IGNORECASE,
)
