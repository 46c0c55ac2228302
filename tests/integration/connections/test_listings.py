"""The lists of appointments of every tool, against a fake of its API over HTTP."""

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.connections.listing import ListedChanges, read_pages
from app.ledger.redis import Redis
from app.vendors.api import load_vendor, vendor_names
from app.visits.change import format_time
from app.visits.client import ClientError
from app.visits.merge import DesiredVisit
from app.webhooks.fetching import RecordRequest
from app.webhooks.registry import load_sources
from app.webhooks.subscription import ApiResponse, Window
from tests.histories.pure import merged_visits
from tests.support.vendors import ConnectedTool, listed_changes, subscribed_tool

LISTABLE = [name for name in load_sources() if load_sources()[name].listing]
WITH_APPOINTMENTS = [name for name in LISTABLE if load_vendor(name).has_appointments]
#: Tools that do not also list what changed, whenever it starts.
BY_START = [name for name in WITH_APPOINTMENTS if not load_sources()[name].listing.lists_changed]  # type: ignore[union-attr]
NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
TOMORROW = NOW + timedelta(days=1)
LATER = TOMORROW + timedelta(hours=5)


def test_every_source_with_a_listing_has_a_fake_tool() -> None:
    assert set(LISTABLE) <= set(vendor_names())


@pytest.fixture(params=WITH_APPOINTMENTS)
async def tool(request: pytest.FixtureRequest, redis: Redis) -> AsyncIterator[ConnectedTool]:
    async with subscribed_tool(request.param, redis) as tool:
        yield tool


async def listed(tool: ConnectedTool, earlier: Sequence[ListedChanges] = ()) -> list[ListedChanges]:
    """Return the translated appointments of 30 days. earlier: the list whose visits Doorbell already has."""
    since = NOW - timedelta(days=1)
    return await listed_changes(tool, Window(since, since + timedelta(days=30), since), earlier)


def visits(source: str, results: Iterable[ListedChanges]) -> dict[str, DesiredVisit]:
    """Return what the visits that are not cancelled should be after these changes, by e-mail address."""
    wanted = [visit for visit in all_visits(source, results) if not visit.is_cancelled]
    return {visit.contact.email: visit for visit in wanted if visit.contact.email}


def all_visits(source: str, results: Iterable[ListedChanges]) -> list[DesiredVisit]:
    """Return the visits after these changes. Cancelled ones may have no address: some tools give no customer then."""
    changes = [(str(number), change) for number, result in enumerate(results) for change in result.changes]
    return list(merged_visits(source, changes).values())


async def test_appointments_are_listed_as_their_webhooks_describe_them(tool: ConnectedTool) -> None:
    calendar = tool.vendor.calendar
    calendar.book(TOMORROW, "booked@example.com")
    moved = calendar.book(TOMORROW + timedelta(hours=1), "moved@example.com")
    calendar.move(moved.number, LATER)
    cancelled = calendar.book(TOMORROW + timedelta(hours=2), "cancelled@example.com")
    earlier = await listed(tool)
    calendar.cancel(cancelled.number)

    results = await listed(tool, earlier)

    assert [] == [result.problem for result in results if result.problem]
    by_email = visits(tool.hook.source.name, results)
    booked, moved_to = by_email["booked@example.com"], by_email["moved@example.com"]
    assert format_time(TOMORROW) == booked.fields["time_scheduled"]
    assert format_time(LATER) == moved_to.fields["time_scheduled"]
    assert "cancelled@example.com" not in by_email
    assert 1 == sum(visit.is_cancelled for visit in all_visits(tool.hook.source.name, results))


async def test_every_page_is_read(tool: ConnectedTool) -> None:
    emails = {f"customer-{number}@example.com" for number in range(1, 8)}
    for number, email in enumerate(sorted(emails)):
        tool.vendor.calendar.book(TOMORROW + timedelta(hours=number), email)
    tool.vendor.faults = replace(tool.vendor.faults, page_size=2)

    assert emails == visits(tool.hook.source.name, await listed(tool)).keys()


@pytest.mark.parametrize(
    ("tool", "places"),
    [("acuity", (0, "datetime")), ("oncehub", ("data", 0, "status")), ("savvycal", ("entries", 0, "start_at"))],
    indirect=["tool"],
)
async def test_an_appointment_that_cannot_be_read_does_not_end_the_list(
    tool: ConnectedTool, places: tuple[int | str, ...]
) -> None:
    for number in range(2):
        tool.vendor.calendar.book(TOMORROW + timedelta(hours=number), f"{number}@example.com")
    listing, connector = tool.hook.source.listing, tool.connector()
    assert listing
    request = next(iter(listing.start(Window(NOW, NOW + timedelta(days=30)), await connector.account())))
    response = await connector.call(request.request)
    [*path, name], item = places, response.value
    for place in path:
        item = item[place]
    item[name] = None

    unreadable, other = listing.read_page(request, response).records

    assert str(name) in unreadable.problem
    assert "" == other.problem


@pytest.mark.parametrize(("tool", "path"), [("calendly", "/invitees"), ("nylas", "/events")], indirect=["tool"])
async def test_what_was_deleted_meanwhile_does_not_end_the_list(tool: ConnectedTool, path: str) -> None:
    """Of Calendly, the event of an appointment; of Nylas, a calendar that a configuration still names."""
    for number in range(2):
        tool.vendor.calendar.book(TOMORROW + timedelta(hours=number), f"{number}@example.com")
    source, connector, requested = tool.hook.source, tool.connector(), list[str]()
    assert source.listing
    requests = list(source.listing.start(Window(NOW, NOW + timedelta(days=30), NOW), await connector.account()))

    async def call(request: RecordRequest) -> ApiResponse:
        requested.append(request.path)
        if request.path.endswith(path) and sum(each.endswith(path) for each in requested) == 1:
            raise ClientError(request.label, 404, "not found")
        return await connector.call(request)

    pages = [page async for page, _ in read_pages(source, requests, call)]

    others = sum(each.endswith(path) for each in requested) - 1
    assert others == sum(len(page.records) for page in pages)
    assert others == (path == "/invitees")


@pytest.mark.parametrize("tool", BY_START, indirect=True)
async def test_appointments_outside_the_window_are_not_listed(tool: ConnectedTool) -> None:
    tool.vendor.calendar.book(NOW - timedelta(days=40), "past@example.com")
    tool.vendor.calendar.book(TOMORROW, "coming@example.com")

    assert {"coming@example.com"} == visits(tool.hook.source.name, await listed(tool)).keys()


async def test_lists_of_different_times_converge_in_any_order(tool: ConnectedTool) -> None:
    calendar, source = tool.vendor.calendar, tool.hook.source.name
    calendar.book(TOMORROW, "moved@example.com")
    calendar.book(TOMORROW, "cancelled@example.com")
    earlier = await listed(tool)
    calendar.move(1, LATER)
    calendar.cancel(2)
    later = await listed(tool, earlier)

    assert visits(source, later) == visits(source, [*earlier, *later]) == visits(source, [*later, *earlier])
