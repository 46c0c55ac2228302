"""Reads a page of a tool's list, and merges what its records mean."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from app.connections.listing import ListedChanges, translate_record
from app.visits.change import VisitChange
from app.visits.merge import DesiredVisit
from app.webhooks.payload import Payload
from app.webhooks.registry import load_sources
from app.webhooks.subscription import ApiResponse, ListRequest, Window
from tests.histories.pure import HOOKS, merged_visits

NOW = datetime(2026, 9, 21, 14, tzinfo=UTC)


def list_requests(source: str, window: Window, account: Any = None) -> list[ListRequest]:
    listing = load_sources()[source].listing
    assert listing
    return list(listing.start(window, Payload(account, "account")))


def read_page(
    source: str, request: ListRequest, response: Any, headers: Mapping[str, str] | None = None, now: datetime = NOW
) -> tuple[list[ListedChanges], list[ListRequest]]:
    """Return the translated records of a page, and the next requests."""
    loaded = load_sources()[source]
    assert loaded.listing
    page = loaded.listing.read_page(request, ApiResponse(response, headers, now))
    zone = HOOKS[source].settings.zone
    return [translate_record(loaded, record, now, zone) for record in page.records], list(page.requests)


def changes_of(results: list[ListedChanges]) -> list[VisitChange]:
    assert [] == [result.problem for result in results if result.problem]
    return [change for result in results for change in result.changes]


def visits_of(source: str, changes: list[VisitChange]) -> dict[str, DesiredVisit]:
    """Return the visits after these changes, by external_id."""
    return merged_visits(source, [(f"c{number}", change) for number, change in enumerate(changes)])
