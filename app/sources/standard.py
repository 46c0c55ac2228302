"""Standard Webhooks with a body that Doorbell defines, for systems without a source.

Senders that cannot sign, such as Zapier, Make and n8n, send the hook's secret as a bearer token, if the hook accepts it
(docs/standard.md).

    {"type": "visit.updated", "timestamp": "2026-03-14T17:32:05Z",
     "data": {"visit_id": "A-1042",
              "contact": {"id": null, "email": "ada@example.com", "first_name": "Ada", "last_name": "Lovelace",
                          "phone": "+15550100001"},
              "time_scheduled": "2026-03-14T16:00:00Z", "time_completed": null, "amount_collected": "245.00",
              "date_cancelled": null}}

A missing field changes nothing; null clears a field. Three types have a default: `visit.completed` for `time_completed`,
`visit.cancelled` for `date_cancelled`, and `visit.created` clears `date_cancelled`. `timestamp` orders the events of a
visit. `webhook-id` identifies repeats, or `id` in the body if that header is missing. See
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from datetime import datetime

from app.visits.change import CONTACT_FIELDS, UNSET, Action, Contact, Unset, VisitChange, unix_microseconds
from app.webhooks import Event, HeaderToken, Ignored, Payload, Source, StandardWebhooks

SETUP = """
1. Make up a secret: `whsec_` and 24 to 64 random bytes in base64. Set it as HOOKS__STANDARD__SECRETS and give it to the
   sender.
2. The sender must POST the body that docs/standard.md shows to {url}, signed according to Standard Webhooks: `webhook-id`,
   `webhook-timestamp`, `webhook-signature`. Libraries for most languages are linked from standardwebhooks.com.
3. A `visit_id` must be unique in all systems that share a Review Rover account, also if each has a hook of its own.
4. Send `visit.created`, `visit.updated`, `visit.completed` and `visit.cancelled`; retry after every response that is not
   2xx, with the same `webhook-id`.

A sender that cannot sign (Zapier, Make, n8n) sends `Authorization: Bearer` and the secret instead, and `id` in the body:
set HOOKS__STANDARD__AUTH=bearer and a secret of 24 random characters or more. Give such senders a hook of their own:
anyone who learns a bearer token can invent visits. docs/standard.md has a recipe for each.
"""

BEARER = HeaderToken("Authorization", prefix="Bearer ", min_length=16)

SOURCE = Source(
    title="Standard Webhooks",
    docs="https://www.standardwebhooks.com",
    signature=StandardWebhooks(),
    bearer=BEARER,
    setup=SETUP,
    evidence="vendor",
    retries="yes",
    stored_headers=("webhook-id", "svix-id"),
    repeat_key=lambda event: _header_id(event) or event.data.at("id").text(),
)


def _header_id(event: Event) -> str | None:
    return event.headers.get("svix-id") or event.headers.get("webhook-id")


ACTIONS: dict[str, Action] = {
    "visit.created": "create",
    "visit.updated": "update",
    "visit.completed": "update",
    "visit.cancelled": "cancel",
    "visit.canceled": "cancel",
}


def translate(event: Event) -> list[VisitChange] | Ignored:
    kind = event.data.at("type").required_text()
    action = ACTIONS.get(kind)
    if action is None:
        return Ignored(kind)
    happened_at = event.data.at("timestamp").required_time(event.zone)
    data = event.data.at("data")
    if not isinstance(data.value, dict):
        raise data.unexpected("an object")
    completed, cancelled = _optional_time(data, event, "time_completed"), _optional_time(data, event, "date_cancelled")
    return [
        VisitChange(
            action=action,
            visit_id=data.at("visit_id").required_text(),
            version=unix_microseconds(happened_at),
            contact=_contact(data.at("contact")),
            time_scheduled=_optional_time(data, event, "time_scheduled"),
            time_completed=happened_at if kind == "visit.completed" and not _is_time(completed) else completed,
            amount_collected=data.at("amount_collected").amount() if "amount_collected" in data.value else UNSET,
            date_cancelled=_cancelled(action, cancelled, happened_at),
        )
    ]


def _cancelled(action: Action, cancelled: datetime | None | Unset, happened_at: datetime) -> datetime | None | Unset:
    """Return `date_cancelled` with its defaults: the event's time for `cancel`, None for `create` (a new booking)."""
    if action == "cancel" and not _is_time(cancelled):
        return happened_at
    return None if action == "create" and cancelled is UNSET else cancelled


def _is_time(value: datetime | None | Unset) -> bool:
    return isinstance(value, datetime)


def _optional_time(data: Payload, event: Event, name: str) -> datetime | None | Unset:
    return data.at(name).time(event.zone) if name in data.value else UNSET


def _contact(contact: Payload) -> Contact | None:
    if not contact:
        return None
    if not isinstance(contact.value, dict):
        raise contact.unexpected("an object")
    # null and an empty text clear the field
    return Contact(**{name: contact.at(name).text() or "" for name in CONTACT_FIELDS if name in contact.value})
