"""The webhooks of every fake tool: its source verifies them, and they mean the same visits as the tool's list."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from app.connections.listing import ListedChanges
from app.connections.tool_api import ToolApi
from app.ledger.redis import Redis
from app.vendors.vendor import StoredSubscription, Webhook
from app.visits.change import VisitChange
from app.visits.merge import DesiredVisit
from app.webhooks.delivery import Delivery, Event, header_lines
from app.webhooks.fetching import RecordRequest
from app.webhooks.payload import Payload
from app.webhooks.source import Ignored
from app.webhooks.translation import parse_event
from tests.histories.pure import merged_visits, with_people
from tests.integration.connections.test_listings import LATER, NOW, TOMORROW, WITH_APPOINTMENTS, all_visits, listed
from tests.support.vendors import ConnectedTool, subscribed_tool


@pytest.fixture(params=WITH_APPOINTMENTS)
async def tool(request: pytest.FixtureRequest, redis: Redis) -> AsyncIterator[ConnectedTool]:
    async with subscribed_tool(request.param, redis) as tool:
        yield tool


class Receiver:
    """Verifies and translates webhooks as they are sent, in place of the endpoint and the workers."""

    def __init__(self, tool: ConnectedTool) -> None:
        self._tool, self.changes = tool, list[tuple[str, VisitChange]]()
        self._people: dict[str, list[str]] = {}
        self._problems: list[str] = []
        self._api = ToolApi(tool.context, tool.hook, [])

    async def receive(self, webhook: Webhook, subscription: StoredSubscription) -> None:
        try:
            await self._receive(webhook, subscription)
        except Exception as error:  # it would end the task that sends webhooks
            self._problems.append(f"{webhook.event}: {error!r}")

    async def sent_all(self) -> None:
        """Wait until every webhook was sent, and check that each was accepted."""
        await self._tool.vendor.sent_all()
        assert [] == self._problems

    async def _receive(self, webhook: Webhook, subscription: StoredSubscription) -> None:
        hook, vendor = self._tool.hook, self._tool.vendor
        headers = header_lines({**webhook.headers, **vendor.sign(webhook, subscription)})
        token = self._tool.url.partition(f"/hooks/{hook.name}/")[2]
        delivery = Delivery(hook.name, hook.source.name, headers, webhook.body, datetime.now(UTC), token=token)
        context = hook.context._replace(secrets=hook.settings.secrets, now=datetime.now(UTC).timestamp())
        hook.source.definition.signature.verify(delivery, context)
        event = parse_event(hook.source, delivery, hook.settings.zone)
        requests = hook.source.fetch(event) if hook.source.fetch else []
        for each in [await self._with_record(event, request) for request in requests] or [event]:
            translated = hook.source.translate(each)
            changes = [] if isinstance(translated, Ignored) else translated
            self.changes += [(str(len(self.changes) + number), change) for number, change in enumerate(changes)]

    async def _with_record(self, event: Event, request: RecordRequest) -> Event:
        fetched_at, record = datetime.now(UTC), await self._api.find(request)
        follow_up = request.follow_up(Payload(record)) if record is not None else {}
        related = {name: await self._api.find(related_request) for name, related_request in follow_up.items()}
        return with_people(self._tool.hook, event.with_record(record, fetched_at, related, request.path), self._people)

    @property
    def visits(self) -> list[DesiredVisit]:
        return list(merged_visits(self._tool.hook.source.name, self.changes).values())


@pytest.fixture
def receiver(tool: ConnectedTool, monkeypatch: pytest.MonkeyPatch) -> Receiver:
    receiver = Receiver(tool)
    monkeypatch.setattr(tool.vendor, "_post", receiver.receive)
    return receiver


def by_email(visits: list[DesiredVisit]) -> dict[str, DesiredVisit]:
    return {visit.contact.email: visit for visit in visits if visit.contact.email and not visit.is_cancelled}


async def test_webhooks_mean_the_same_visits_as_the_list(tool: ConnectedTool, receiver: Receiver) -> None:
    calendar = tool.vendor.calendar
    calendar.book(TOMORROW, "booked@example.com")
    calendar.book(TOMORROW, "moved@example.com")
    calendar.book(TOMORROW, "cancelled@example.com")
    await receiver.sent_all()
    earlier = await listed(tool)
    calendar.move(2, LATER)
    calendar.cancel(3)
    await receiver.sent_all()

    listed_visits = all_visits(tool.hook.source.name, await listed(tool, earlier))

    assert {"booked@example.com", "moved@example.com"} == by_email(receiver.visits).keys()
    assert by_email(receiver.visits) == by_email(listed_visits)
    assert len(receiver.visits) == len(listed_visits) == 3


async def test_ends_and_payments_are_listed_as_webhooks_tell_them(tool: ConnectedTool, receiver: Receiver) -> None:
    """A list may have more than the webhooks: some tools send no payments, or no no-shows, or no ends.

    A tool without times of its own has those of the events or the list.
    """
    calendar = tool.vendor.calendar
    for email in ("completed@example.com", "paid@example.com", "missed@example.com"):
        calendar.book(NOW - timedelta(hours=1), email)
    await receiver.sent_all()
    calendar.complete(1)
    calendar.pay(2, Decimal(75))
    calendar.miss(3)
    await receiver.sent_all()

    results = await listed(tool)
    listed_visits = by_email(all_visits(tool.hook.source.name, results))
    observed = {"time_completed", "no_show"} if any(map(has_observed_times, results)) else set[str]()

    for email, visit in by_email(receiver.visits).items():
        if email == "missed@example.com" and email not in listed_visits:
            continue
        sent = {name: value for name, value in visit.fields.items() if value and name != "event_date"}
        fields = listed_visits[email].fields
        assert all(fields.get(name) for name in sent.keys() & observed), email
        assert all(value == fields.get(name) for name, value in sent.items() if name not in observed), email


def has_observed_times(result: ListedChanges) -> bool:
    return any(change.times_are_observed for change in result.changes)
