"""Odd values anywhere in the responses of a tool: a sentence says what is wrong, and no request leaves the API's paths."""

import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from app.connections.listing import read_pages, translate_record
from app.ledger.redis import Redis
from app.webhooks.fetching import RecordRequest
from app.webhooks.payload import Payload, Untranslatable
from app.webhooks.registry import load_sources
from app.webhooks.subscription import ApiResponse, ListedRecord, ListRequest, Refused, Target, Window
from tests.sources.test_odd_values import _paths, _with_value
from tests.support.vendors import ConnectedTool, connected_tool

NOW = datetime.now(UTC)
WINDOW = Window(NOW - timedelta(days=1), NOW + timedelta(days=30), NOW - timedelta(days=1))
#: `...` removes the value.
VALUES = (
    ...,
    None,
    True,
    7,
    0.5,
    "",
    "../a?b#c",
    "https://evil.example/x",
    "0001-01-01T00:00:00+14:00",
    [],
    {},
    [None],
    {"x": 1},
)
TOOLS = [name for name, source in load_sources().items() if source.subscription]
SAFE_PATH = re.compile(r"/?[A-Za-z0-9_.:=-]+(/[A-Za-z0-9_.:=-]+)*/?")


@pytest.fixture(params=TOOLS)
async def tool(request: pytest.FixtureRequest, redis: Redis) -> AsyncIterator[ConnectedTool]:
    async with connected_tool(request.param, redis) as tool:
        for hours in (20, 21):
            tool.vendor.calendar.book(NOW + timedelta(hours=hours))
        tool.vendor.calendar.move(2, NOW + timedelta(hours=30))
        tool.vendor.calendar.pay(1, Decimal(5))
        yield tool


def variants(response: ApiResponse) -> Iterator[ApiResponse]:
    """Yield the response with an odd value at each place of it."""
    for path in _paths(response.value):
        for value in VALUES:
            yield ApiResponse(_with_value(response.value, path, value), response.headers, response.requested_at)


def assert_safe(requests: Sequence[RecordRequest]) -> None:
    for request in requests:
        path = request.path if request.endpoint is None else request.endpoint
        path = path.removeprefix("../")  # as a constant of the module
        assert request.query or not path or (SAFE_PATH.fullmatch(path) and ".." not in path), path


def attempt(step: Callable[[], Any], *expected: type[Exception]) -> Any:
    """Return the result; None if the response is rejected with a sentence."""
    try:
        return step()
    except (Untranslatable, *expected):
        return None


@pytest.mark.parametrize("tool", [name for name in TOOLS if load_sources()[name].listing], indirect=True)
async def test_odd_values_in_lists_of_appointments(tool: ConnectedTool) -> None:
    source, connector = tool.hook.source, tool.connector()
    listing = source.listing
    assert listing
    await tool.ensure_subscriptions(is_secret_new=True)
    remaining, kinds = list(listing.start(WINDOW, await connector.account())), set[tuple[Any, ...]]()
    while remaining:
        request = remaining.pop(0)
        response = await connector.call(request.request)
        remaining += listing.read_page(request, response).requests
        kind = (request.request.path.partition("/")[0], sorted(request.context), str(response.value)[:20])
        if str(kind) in kinds:
            continue
        kinds.add(str(kind))
        for odd in variants(response):
            page = attempt(lambda: listing.read_page(request, odd), Refused)  # noqa: B023
            if page:
                assert_safe([each.request for each in page.requests])
                for record in page.records:
                    translated = translate_record(source, record, NOW, tool.hook.settings.zone)
                    assert not translated.problem.startswith("internal_error"), record


async def test_odd_values_in_an_account(tool: ConnectedTool) -> None:
    source, account = tool.hook.source, await tool.connector().account()
    declared, listing = source.subscription, source.listing
    assert declared
    target, events = Target(tool.url, "a secret", tool.hook.name), declared.groups[0]
    for odd in variants(ApiResponse(account.value)):
        attempt(lambda: declared.check_account(odd), Refused)  # noqa: B023
        assert isinstance(attempt(lambda: declared.account_name(odd)) or "", str)  # noqa: B023
        requests = [attempt(lambda: declared.create(target, odd, events), Refused)]  # noqa: B023
        if declared.list:
            requests.append(attempt(lambda: declared.list and declared.list(odd), Refused))  # noqa: B023
        requests += [
            attempt(lambda: make("id-1", odd), Refused)  # noqa: B023
            for make in (declared.delete, declared.reactivate, declared.renew)
            if make
        ]
        started: Sequence[ListRequest] = (listing and attempt(lambda: listing.start(WINDOW, odd), Refused)) or ()  # noqa: B023
        assert_safe([request for request in requests if request] + [each.request for each in started])


async def test_odd_values_in_subscriptions(tool: ConnectedTool) -> None:
    source, connector = tool.hook.source, tool.connector()
    declared = source.subscription
    assert declared
    account = await connector.account()
    created = await connector.call(
        declared.create(Target(tool.url, "s" * 32, tool.hook.name), account, declared.groups[0])
    )
    if read_created := declared.read_created:
        for odd in variants(created):
            attempt(lambda: read_created(odd), Refused)  # noqa: B023
    if declared.list and (read_list := declared.read_list):
        request = declared.list(account)
        for odd in variants(await connector.call(request)):
            page = attempt(lambda: read_list(request, odd), Refused)  # noqa: B023
            subscriptions = page.subscriptions if page else ()
            deletions = [declared.delete(each.id, account) for each in subscriptions]
            assert_safe([each for each in deletions if each])
            assert_safe([page.next] if page and page.next else [])


def test_odd_error_responses_have_a_sentence_or_none() -> None:
    bodies: list[Any] = [None, [], {}, "x", 7, {"error": 7}, {"errors": {}}, {"errors": [None]}, {"message": {}}]
    bodies += [{"error": {"message": []}}, {"errors": 7}, {"errors": [{"code": []}]}, {"detail": [1]}, {"title": 7}]
    for name in TOOLS:
        declared = load_sources()[name].subscription
        assert declared
        for status in (400, 401, 402, 403, 404, 409, 422):
            for body in bodies:
                sentence = attempt(lambda: declared.refusal(status, Payload(body)))  # noqa: B023
                assert sentence is None or sentence.endswith("."), name


async def test_a_bug_of_a_module_is_a_problem_of_its_record_or_its_page() -> None:
    source = load_sources()["calendly"]
    assert source.listing

    def broken(*_: Any) -> Any:
        raise TypeError

    async def call(_: RecordRequest) -> ApiResponse:
        return ApiResponse({})

    translated = translate_record(source._replace(translate=broken), ListedRecord("1", {}), NOW, None)
    pages = read_pages(
        source._replace(listing=replace(source.listing, read_page=broken)), [ListRequest(RecordRequest("x"))], call
    )

    assert "internal_error: TypeError" == translated.problem
    with pytest.raises(Untranslatable, match="internal_error: TypeError"):
        await anext(pages)
