"""The pages of an operation: what became of its tasks, and which they are."""

import re
from typing import Any

import pytest

from app.operators.filter import Filter
from tests.support.console import Browser
from tests.support.operations import park, rejecting, run_operation
from tests.support.visit_worker import World, booked


@pytest.fixture
async def operator(app: Any) -> Browser:
    browser = Browser(app)
    await browser.log_in()
    return browser


def text_of(page: str) -> str:
    """Return the text of the main part, with single spaces."""
    return " ".join(re.sub("<[^>]*>", " ", page.partition("<main")[2]).split())


async def test_an_operation_shows_what_succeeded_failed_again_and_is_pending(world: World, operator: Browser) -> None:
    await park(world, "1", "2", "3")
    world.transport.before = rejecting("standard-2", "standard-3")
    id = await run_operation(world, "replay", Filter(state="parked"))

    pending = (await operator.get(f"/console/operations/{id}")).text
    await world.run()
    ended = (await operator.get(f"/console/operations/{id}")).text

    assert "All tasks are requeued, and 3 of them are not done yet." in text_of(pending)
    assert "Succeeded 0 Failed again 0 Pending 3" in text_of(pending)
    assert "Done: 1 succeeded, 2 failed again." in text_of(ended)
    assert "Succeeded 1 Failed again 2 Pending 0" in text_of(ended)
    assert "2 × The values are rejected" in text_of(ended)
    assert "hx-trigger" in pending  # it is refreshed
    assert "hx-trigger" not in ended.partition("<main")[2]


async def test_each_outcome_links_its_tasks(world: World, operator: Browser) -> None:
    await park(world, "1", "2")
    world.transport.before = rejecting("standard-2")
    id = await run_operation(world, "replay", Filter(state="parked"))
    await world.run()
    page = (await operator.get(f"/console/operations/{id}")).text

    linked = {}
    for link in re.findall(r'href="([^"]*/tasks\?outcome=[^"]*)"', page):
        tasks = (await operator.get(link.replace("&amp;", "&"))).text
        linked[re.search("<h1>(.*)</h1>", tasks)[1]] = re.findall(r'name="ids" value="([^"]*)"', tasks)  # type: ignore[index]

    assert {
        "Succeeded: 1": ["standard-1"],
        "Failed again: The values are rejected: 1": ["standard-2"],
    } == linked


async def test_a_skipped_task_has_a_reason_in_words(world: World, operator: Browser) -> None:
    await world.apply(booked())
    id = await run_operation(world, "replay", Filter(ids=("standard-1",)))

    page = text_of((await operator.get(f"/console/operations/{id}")).text)

    assert "Skipped 1 × already applied" in page


async def test_a_discard_does_not_mention_failures(world: World, operator: Browser) -> None:
    await park(world, "1")
    id = await run_operation(world, "discard", Filter(state="parked"))

    page = text_of((await operator.get(f"/console/operations/{id}")).text)

    assert "Done: 1 discarded." in page
    assert "ailed" not in page
    assert "grace" in page


async def test_the_page_of_a_visit_shows_who_discarded_it_and_what(world: World, operator: Browser) -> None:
    await park(world, "1")
    id = await run_operation(world, "discard", Filter(ids=("standard-1",)))

    page = (await operator.get("/console/visits/standard-1")).text

    assert "<strong>grace</strong> discarded changes" in page
    assert f'href="/console/operations/{id}"' in page
    assert "2026-03-14T09:00:00Z" in page.partition("Discarded changes")[2]


async def test_the_list_of_operations_has_their_results(world: World, operator: Browser) -> None:
    await park(world, "1", "2")
    world.transport.before = rejecting("standard-2")
    await run_operation(world, "replay", Filter(state="parked"))
    await world.run()
    await run_operation(world, "discard", Filter(state="parked"))

    page = text_of((await operator.get("/console/operations")).text)

    assert "1 succeeded, 1 failed again" in page
    assert "1 discarded" in page
