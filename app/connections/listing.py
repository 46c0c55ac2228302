"""Lists the appointments of a tool, and translates them with the code that translates its webhooks."""

from collections.abc import AsyncIterator, Awaitable, Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from types import MappingProxyType

from app.telemetry.logs import log
from app.visits.change import VisitChange, external_id
from app.visits.client import ClientError
from app.webhooks.delivery import Event
from app.webhooks.fetching import RecordRequest
from app.webhooks.payload import Payload, Untranslatable
from app.webhooks.source import Ignored, LoadedSource, PartlyTranslatable
from app.webhooks.subscription import ApiResponse, ListedPage, ListedRecord, Listing, ListRequest, Refused


@dataclass(frozen=True, slots=True)
class ListedChanges:
    """A listed appointment, and what it means.

    problem: why it cannot be translated, or only in part. booking: the external_id of a booking of several people, and those
    whom the record lists. is_newer: whether it has stored values at a later time, before which a late webhook must not win.
    """

    record: ListedRecord
    changes: Sequence[VisitChange] = ()
    problem: str = ""
    booking: tuple[str, Sequence[str]] | None = None
    is_newer: bool = False


KnownPeople = Mapping[str, Sequence[str]]


def translate_record(
    source: LoadedSource,
    record: ListedRecord,
    listed_at: datetime,
    zone: tzinfo | None,
    tenants: Container[str | None] = (),
    known_people: KnownPeople = MappingProxyType({}),
) -> ListedChanges:
    """Translate a listed appointment as the event that it represents.

    listed_at: when the request of its page began. tenants: the accounts of the tool that the hook accepts; empty: all. A
    record that does not name its account is from the account of the credentials. known_people: by booking, the people that
    earlier records listed.
    """
    if record.problem:
        return ListedChanges(record, problem=record.problem)
    listed_at = record.requested_at or listed_at
    event = Event(source.name, Payload(record.body), listed_at, zone=zone)
    tenant = source.definition.tenant_of(event) if tenants and source.definition.tenant_of else None
    if tenant is not None and tenant not in tenants:
        return ListedChanges(record)
    if record.record is not None:
        event = event.with_record(record.record, listed_at, record.related, record.path)
    booking = None
    try:
        if booking := booking_of(source, record, listed_at):
            event.people = tuple(dict.fromkeys([*known_people.get(booking[0], ()), *booking[1]]))
        translated = source.translate(event)
    except PartlyTranslatable as partly:
        return ListedChanges(record, partly.changes, str(partly), booking)
    except Untranslatable as error:
        return ListedChanges(record, problem=str(error))
    except Exception as error:
        log.exception("unhandled_exception", source=source.name)
        return ListedChanges(record, problem=f"internal_error: {type(error).__name__}")
    return ListedChanges(record, () if isinstance(translated, Ignored) else translated, booking=booking)


def booking_of(source: LoadedSource, record: ListedRecord, listed_at: datetime) -> tuple[str, Sequence[str]] | None:
    """Return the external_id of a booking of several people, and those whom the record lists. Raises Untranslatable."""
    if source.people is None or record.record is None:
        return None
    event = Event(source.name, Payload(record.body), listed_at)
    visit_id, people = source.people(event.with_record(record.record, listed_at, record.related, record.path))
    return external_id(source.name, visit_id), people


async def read_pages(
    source: LoadedSource,
    requests: Sequence[ListRequest],
    call: Callable[[RecordRequest], Awaitable[ApiResponse]],
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> AsyncIterator[tuple[ListedPage, list[ListRequest]]]:
    """Yield each page, with the requests that remain after it. now: the clock that all processes share.

    The newest requests are sent first, so that few remain. Several pages may lead to the same request: it is sent once.
    """
    assert source.listing
    remaining, known = list(requests), {repr(each) for each in requests}
    while remaining:
        request = remaining.pop(0)
        page = _read_page(source.listing, request, await _respond(request, call, now()))
        fresh = {text: each for each in page.requests if (text := repr(each)) not in known}
        known |= fresh.keys()
        remaining = [*fresh.values(), *remaining]
        yield page, remaining


async def _respond(
    request: ListRequest, call: Callable[[RecordRequest], Awaitable[ApiResponse]], requested_at: datetime
) -> ApiResponse:
    try:
        return await call(request.request)
    except ClientError as error:
        if request.can_be_missing and error.status in (404, 410):
            return ApiResponse(None, requested_at=requested_at)
        raise


def _read_page(listing: Listing, request: ListRequest, response: ApiResponse) -> ListedPage:
    try:
        return listing.read_page(request, response)
    except (Untranslatable, Refused):
        raise
    except Exception as error:
        log.exception("unhandled_exception", call=request.request.label)
        raise Untranslatable(f"internal_error: {type(error).__name__}") from error
