"""ServiceM8: webhooks beside the API's own path, and jobs that are found through their appointments and payments."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

from app.connections.catch_up import new_catch_up, plan
from app.ledger.redis import Redis
from app.visits.change import unix_microseconds
from app.webhooks.fetching import RecordRequest
from app.webhooks.payload import Payload
from app.webhooks.registry import load_sources
from app.webhooks.subscription import ApiResponse, Listing, Subscription, Window
from tests.integration.connections.test_listings import NOW, TOMORROW, listed, visits
from tests.support.cases import each
from tests.support.vendors import connected_tool

SERVICEM8 = load_sources()["servicem8"]
LISTING, SUBSCRIPTION = SERVICEM8.listing, SERVICEM8.subscription
assert isinstance(LISTING, Listing)
assert isinstance(SUBSCRIPTION, Subscription)
JOB = "123e4567-e89b-42d3-a456-426614174000"


async def test_a_disabled_webhook_is_changed_in_place(redis: Redis) -> None:
    async with connected_tool("servicem8", redis) as tool:
        await tool.ensure_subscriptions()
        before = set(tool.vendor.subscriptions)
        tool.vendor.disable_all()

        again = await tool.ensure_subscriptions()

        assert before == set(tool.vendor.subscriptions) == {each.id for each in again.created}
        assert () == again.deleted


@each(
    ("id", "expected"),
    [
        (JOB, RecordRequest(f"../webhook_subscriptions/{JOB}", method="DELETE")),
        (
            "job.created:integration-a",
            RecordRequest(
                "../webhook_subscriptions",
                method="DELETE",
                params={"event": "job.created", "unique_id": "integration-a"},
            ),
        ),
    ],
)
def test_a_subscription_is_deleted_by_its_uuid_or_its_unique_id(id: str, expected: RecordRequest) -> None:
    assert expected == SUBSCRIPTION.delete(id, Payload(None))


def test_the_documented_list_of_webhooks_is_read() -> None:
    """The vendor's page shows subscriptions without `uuid`, and some to objects, which are not ours."""
    response = [
        {
            "type": "event",
            "event": "job.created",
            "callback_url": "https://a.example.com/",
            "unique_id": "integration-a",
            "active": False,
            "last_failure_reason": "Webhook request failed for over 12 hours",
            "last_failure_at": "2026-04-14 03:25:00",
        },
        {"type": "object", "object": "job", "callback_url": "https://a.example.com/", "fields": ["uuid"]},
    ]
    assert SUBSCRIPTION.read_list

    [state] = SUBSCRIPTION.read_list(RecordRequest(""), ApiResponse(response)).subscriptions

    assert ("job.created:integration-a", False) == (state.id, state.is_active)


async def test_a_job_whose_appointment_or_payment_changed_is_listed(redis: Redis) -> None:
    """The job's own time of its last change stays then."""
    async with connected_tool("servicem8", redis) as tool:
        calendar = tool.vendor.calendar
        for email in ("moved@example.com", "paid@example.com", "same@example.com"):
            appointment = calendar.book(NOW + timedelta(days=60), email)
            appointment.created_at = NOW - timedelta(days=90)
        tool.vendor._edited_at.clear()  # type: ignore[attr-defined]
        calendar.move(1, NOW + timedelta(days=61))
        calendar.pay(2, Decimal(75))

        by_email = visits("servicem8", await listed(tool))

        assert {"moved@example.com", "paid@example.com"} == by_email.keys()
        assert "75.00" == by_email["paid@example.com"].fields["amount_collected"]


def start(account: Any) -> list[Mapping[str, str]]:
    assert LISTING
    return [each.request.params for each in LISTING.start(Window(NOW, TOMORROW), Payload(account))]


def test_times_are_written_in_the_time_zone_of_the_account() -> None:
    sydney = [{"timezone_name": "Australia/Sydney"}]
    window = Window(NOW.replace(year=2026, month=1, day=1, hour=0), NOW.replace(year=2026, month=1, day=2, hour=0))
    assert LISTING

    [request] = LISTING.start(window, Payload(sydney))

    assert "start_date gt '2026-01-01 10:59:59' and start_date lt '2026-01-02 11:00:00'" in str(request.request.params)


@each("account", [[], [{}], [{"timezone_name": "../etc/passwd"}], [{"timezone_name": "Mars"}]])
def test_without_a_time_zone_the_window_is_a_day_longer_at_each_end(account: Any) -> None:
    [params] = start(account)

    assert f"start_date gt '{NOW - timedelta(days=1, seconds=1):%Y-%m-%d %H:%M:%S}'" in params["$filter"]
    assert f"start_date lt '{TOMORROW + timedelta(days=1):%Y-%m-%d %H:%M:%S}'" in params["$filter"]


async def test_a_job_that_several_lists_lead_to_is_listed_once(redis: Redis) -> None:
    async with connected_tool("servicem8", redis) as tool:
        for number in range(3):
            tool.vendor.calendar.book(NOW + timedelta(days=28 * number), f"{number}@example.com")
            tool.vendor.calendar.pay(number + 1, Decimal(75))

        counts, _ = await plan(tool.context, tool.hook, new_catch_up(tool.hook.name, NOW, "test", "test"))

        assert (3, 0) == (counts["changed"], counts["past"])
        paths = [path for _, path, _ in tool.vendor.requests]
        assert 3 == paths.count("/api_1.0/jobcontact.json")


async def test_the_first_request_for_a_job_orders_its_changes(redis: Redis) -> None:
    """A webhook may be received while the records that belong to the job are listed."""
    async with connected_tool("servicem8", redis) as tool:
        tool.vendor.calendar.book(TOMORROW)
        tool.vendor.faults = replace(tool.vendor.faults, slow_s=0.05)

        result = (await listed(tool))[0]

        assert result.record.requested_at
        assert result.changes[0].version == unix_microseconds(result.record.requested_at)
