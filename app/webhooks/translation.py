"""Converts a verified delivery to an event, and an event to changes. Pure: the caller logs."""

from collections.abc import Container
from dataclasses import dataclass, field
from datetime import tzinfo
from typing import Literal

from app.visits.change import VisitChange
from app.webhooks.delivery import Delivery, Event, parse_body
from app.webhooks.payload import Untranslatable
from app.webhooks.source import Ignored, LoadedSource, PartlyTranslatable


@dataclass(slots=True)
class Translation:
    """The result of translating an event.

    changes: the changes that need no record.
    ignored: the reason why the event changes no visit, or creates none.
    state: `queued` if a record must be fetched first, `parked` if only an operator can help (see reason).
    change_count: the number of changes that the response to the tool reports.
    is_foreign: the event is from an account of the tool that is not in TENANTS.
    error: an unexpected exception, which is a bug in Doorbell.
    """

    changes: list[VisitChange] = field(default_factory=list)
    ignored: str = ""
    state: Literal["", "queued", "parked"] = ""
    reason: str = ""
    change_count: int = 0
    repeat_key: str | None = None
    is_foreign: bool = False
    error: Exception | None = None


def translate_event(source: LoadedSource, event: Event, tenants: Container[str | None] = ()) -> Translation:
    """Translate an event. An exception in the source's code parks the event.

    tenants: the accounts of the tool whose events the hook accepts; empty: all accounts.
    """
    translation = Translation()
    try:
        if is_foreign_tenant(source, event, tenants):
            translation.ignored, translation.is_foreign = FOREIGN_TENANT, True
            return translation
        translation.repeat_key = source.definition.repeat_key(event) if source.definition.repeat_key else None
        if source.fetch and (requests := source.fetch(event)):
            translation.state, translation.change_count = "queued", len(requests)
            return translation
        translated = source.translate(event)
    except Untranslatable as error:
        translation.state, translation.reason = "parked", f"untranslatable: {error}"
        if isinstance(error, PartlyTranslatable):
            translation.changes, translation.change_count = error.changes, len(error.changes)
        return translation
    except Exception as error:
        translation.state, translation.reason = "parked", f"internal_error: {type(error).__name__}"
        translation.error = error
        return translation
    if isinstance(translated, Ignored):
        translation.ignored = translated.reason[:80]
    else:
        translation.changes, translation.change_count = translated, len(translated)
        if translated and False not in [change.opted_out is True for change in translated]:
            translation.ignored = "opted_out"
    return translation


FOREIGN_TENANT = "foreign_tenant"


def is_foreign_tenant(source: LoadedSource, event: Event, tenants: Container[str | None]) -> bool:
    """Return whether the event is from an account of the tool that is not in `tenants`."""
    tenant_of = source.definition.tenant_of
    return bool(tenants) and tenant_of is not None and tenant_of(event) not in tenants


def parse_event(source: LoadedSource, delivery: Delivery, zone: tzinfo | None = None) -> Event:
    """Parse a delivery whose signature was verified. zone: the time zone of local times. Raise UnreadableBody."""
    at = delivery.received_at
    return Event(
        source=source.name,
        data=parse_body(delivery, source.definition.body_format),
        received_at=at.replace(microsecond=at.microsecond // 1000 * 1000),  # in milliseconds, as it is stored
        headers={
            name: value for name in source.definition.stored_headers if (value := delivery.header(name)) is not None
        },
        zone=zone,
    )
