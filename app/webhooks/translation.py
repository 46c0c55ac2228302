"""From a verified delivery to an event, and from an event to the changes that it means."""

from dataclasses import dataclass, field
from typing import Literal

from app.ledger.records import Meta
from app.settings.model import Entrance
from app.telemetry.logs import log
from app.visits.change import VisitChange
from app.webhooks.delivery import (
    Delivery,
    Event,
    parse_body,
)
from app.webhooks.payload import Untranslatable
from app.webhooks.source import Ignored, PartlyTranslatable


@dataclass(slots=True)
class Meaning:
    """What the door makes of an event.

    changes: what is known at once. ignored: why there is nothing to do, or nothing to make. state: `queued` if a record
    is to be fetched first, `parked` if only an operator can help, for the reason. expected: how many changes the tool
    is told of. is_foreign: the event is from an account of the tool that this hook is not for.
    """

    changes: list[VisitChange] = field(default_factory=list)
    ignored: str = ""
    state: Literal["", "queued", "parked"] = ""
    reason: str = ""
    expected: int = 0
    repeat_key: str | None = None
    is_foreign: bool = False


def mean(entrance: Entrance, event: Event) -> Meaning:
    """A genuine event that is not understood is parked, whatever it was that our code stumbled over."""
    tool = entrance.tool
    meaning = Meaning()
    try:
        if is_of_another(entrance, event):
            meaning.ignored, meaning.is_foreign = ANOTHER_ACCOUNT, True
            return meaning
        meaning.repeat_key = tool.source.repeat_key(event) if tool.source.repeat_key else None
        if tool.fetch and (gets := tool.fetch(event)):
            meaning.state, meaning.expected = "queued", len(gets)
            return meaning
        translated = tool.translate(event)
    except Untranslatable as error:
        meaning.state, meaning.reason = "parked", f"untranslatable: {error}"
        if isinstance(error, PartlyTranslatable):
            meaning.changes, meaning.expected = error.changes, len(error.changes)
        return meaning
    except Exception as error:
        log.exception("bug", hook=entrance.name)
        meaning.state, meaning.reason = "parked", f"bug: {type(error).__name__}"
        return meaning
    if isinstance(translated, Ignored):
        meaning.ignored = translated.why[:80]
    else:
        meaning.changes, meaning.expected = translated, len(translated)
        if translated and all(change.opted_out is True for change in translated):
            meaning.ignored = "opted_out"
    return meaning


ANOTHER_ACCOUNT = "another account"


def is_of_another(entrance: Entrance, event: Event) -> bool:
    """Is the event from an account of the tool that this hook is not for?"""
    tenants, tenant = entrance.hook.tenants, entrance.tool.source.tenant
    return bool(tenants and tenant) and tenant is not None and tenant(event) not in tenants


def believe(entrance: Entrance, delivery: Delivery) -> Event:
    """The event in a delivery whose signature held. Raises Unreadable."""
    source, at = entrance.tool.source, delivery.received_at
    return Event(
        source=entrance.tool.name,
        data=parse_body(delivery, source.form),
        received_at=at.replace(microsecond=at.microsecond // 1000 * 1000),  # as it is kept
        headers={name: value for name in source.headers if (value := delivery.header(name)) is not None},
        zone=entrance.hook.zone,
    )


def recall(entrance: Entrance, meta: Meta, raw: bytes) -> Event:
    """The event in a delivery as it was kept. Raises Unreadable."""
    headers = tuple((name.lower().encode(), value.encode("latin-1")) for name, value in meta.headers.items())
    return believe(entrance, Delivery(meta.hook, meta.source, headers, raw, meta.received_at, meta.request_id))
