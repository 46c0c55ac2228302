"""The pages of an operation: what became of its tasks, and which they are."""

import re
from typing import Any

import httpx
import pytest

from app.console.pages import operations
from app.ledger.redis import Redis
from app.operators.filter import Filter
from app.operators.operations import Operations
from tests.support.console import KEY, Browser, main_text
from tests.support.harness import sign_standard, standard_body
from tests.support.operations import park, rejecting, run_operation
from tests.support.visit_worker import World, booked, change


@pytest.fixture
async def operator(app: Any) -> Browser:
    browser = Browser(app)
    await browser.log_in()
    return browser


async def test_an_operation_shows_what_succeeded_failed_again_and_is_pending(world: World, operator: Browser) -> None:
    await park(world, "1", "2", "3")
    world.transport.before = rejecting("standard-2", "standard-3")
    id = await run_operation(world, "replay", Filter(state="parked"))

    pending = (await operator.get(f"/console/operations/{id}")).text
    await world.run()
    ended = (await operator.get(f"/console/operations/{id}")).text

    assert "All tasks are requeued, and 3 of them are not done yet." in main_text(pending)
    assert "Succeeded 0 Failed again 0 Pending 3" in main_text(pending)
    assert "Done: 1 succeeded, 2 failed again." in main_text(ended)
    assert "Succeeded 1 Failed again 2 Pending 0" in main_text(ended)
    assert "2 × The values are rejected" in main_text(ended)
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

    assert re.search(r'<dt>Failed again</dt><dd><a href="[^"]*/tasks\?outcome=failed[^"]*">1</a>', page)
    assert "→ Correct the values at the tool; the tool then sends the booking again." in page
    assert {
        "Succeeded: 1": ["standard-1"],
        "Failed again: The values are rejected: 1": ["standard-2"],
    } == linked


async def test_a_skipped_task_has_a_reason_in_words(world: World, operator: Browser) -> None:
    await world.apply(booked())
    id = await run_operation(world, "replay", Filter(ids=("standard-1",)))

    page = main_text((await operator.get(f"/console/operations/{id}")).text)

    assert "Skipped 1 × already applied" in page


async def test_a_discard_does_not_mention_failures(world: World, operator: Browser) -> None:
    await park(world, "1")
    id = await run_operation(world, "discard", Filter(state="parked"))

    page = main_text((await operator.get(f"/console/operations/{id}")).text)

    assert "Done: 1 discarded." in page
    assert "ailed" not in page
    assert "grace" in page


async def test_the_page_of_a_visit_shows_who_discarded_it_and_what(world: World, operator: Browser) -> None:
    await park(world, "1")
    id = await run_operation(world, "discard", Filter(ids=("standard-1",)))

    page = (await operator.get("/console/visits/standard-1")).text

    assert "grace : Discarded changes" in main_text(page)
    assert f'href="/console/operations/{id}"' in page
    assert "2026-03-14T09:00:00Z" in page.partition("Discarded changes")[2]


async def test_the_list_of_operations_has_their_results(world: World, operator: Browser) -> None:
    await park(world, "1", "2")
    world.transport.before = rejecting("standard-2")
    await run_operation(world, "replay", Filter(state="parked"))
    await world.run()
    await run_operation(world, "discard", Filter(state="parked"))

    page = main_text((await operator.get("/console/operations")).text)

    assert "Replay 1 failure Failed again 1 succeeded, 1 failed again" in page
    assert "Discard 1 failure Done 1 discarded" in page


# -- plans --


async def test_a_plan_begins_with_the_counts_by_outcome(world: World, operator: Browser) -> None:
    world.configure(CONTACT_FOR_S="0.001")
    await world.accept(booked("1", contact=None), booked("2", contact=None))
    await world.run()
    await park(world, "3", parked=3)

    page = (await operator.get("/console/plan?do=replay&state=parked")).text

    counts = re.findall(r"<li class=.*?</li>", page.partition("<ul")[2], re.DOTALL)
    assert [
        "1 would be sent to Review Rover, with values that it rejected before",
        "2 would fail the same way: No e-mail address",
    ] == [main_text(f"<main{count}") for count in counts]
    assert 'href="/console/visits/standard-3"' in page
    assert "create the visit: Start" in main_text(page)
    assert '<a href="/console/plan?do=replay&amp;ids=standard-3">Replay only the one that would be sent</a>' in page
    assert ["contact:visit:main/standard-1", "contact:visit:main/standard-2"] == sorted(
        re.findall(r'name="(contact:[^"]*)"', page)
    )


async def test_two_deliveries_of_one_visit_are_one_task_of_a_plan(world: World, operator: Browser) -> None:
    await park(world, "1")
    world.transport.before = rejecting()
    await world.apply(change(version=2))
    ids = [id.decode() for id in await world.redis.command("ZRANGE", "bell:deliveries:standard", 0, -1)]

    page = (await operator.get(f"/console/plan?do=replay&ids={ids[0]}&ids={ids[1]}")).text

    assert "1 would be sent to Review Rover" in main_text(page)
    assert "Of the first" not in page


async def test_the_counts_of_a_long_plan_are_loaded_afterwards(
    world: World, operator: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    await park(world, *map(str, range(20)))
    monkeypatch.setattr(operations, "PREVIEW_TIMEOUT_S", 0.0)

    page = (await operator.get("/console/plan?do=replay&state=parked")).text
    [link] = re.findall(r'<div id="counts" hx-get="([^"]*)"', page)
    counts = (await operator.get(link.replace("&amp;", "&"))).text

    assert "Of the first 0" in main_text(page)
    assert "20 would be sent to Review Rover" in main_text(counts)
    assert 'id="counts" hx-get' not in counts


async def test_each_visit_of_a_plan_gets_its_own_contact(world: World, operator: Browser) -> None:
    world.configure(SECRET_KEY=KEY)
    await world.accept(booked("1", contact=None), booked("2", contact=None))
    await world.run()
    form = {"do": "replay", "ids": "standard-1 standard-2", "expected": "2"}
    await operator.get("/console/plan?do=replay&ids=standard-1&ids=standard-2")
    first, second = "contact:visit:main/standard-1", "contact:visit:main/standard-2"

    rejected = await operator.post("/console/operations", form | {first: "ada@example.com", second: "Bob"})
    started = await operator.post("/console/operations", form | {first: "ada@example.com", second: "bob@example.com"})
    await Operations(world.ledger, world.context.settings).run_next()
    await world.run()

    assert (409, 303) == (rejected.status_code, started.status_code)
    assert "Nothing was done" in rejected.text
    assert 'value="ada@example.com"' in rejected.text  # it need not be typed again
    assert 1 == rejected.text.count('aria-invalid="true"')
    assert "Replay only" not in rejected.text  # this link would lose the address
    contact_ids = [world.contacts(f"{name}@example.com")[0]["id"] for name in ("ada", "bob")]
    assert contact_ids == [
        visit["contact_id"] for visit in sorted(world.harness.visits(), key=lambda v: v["external_id"])
    ]
    assert b"@" not in await world.redis.command("HGET", f"bell:operation:{id_of(started)}", "request")
    page = main_text((await operator.get(f"/console/operations/{id_of(started)}")).text)
    assert "Contacts assigned to 2 visits" in page
    visit = main_text((await operator.get("/console/visits/standard-1")).text)
    assert "operator : Replayed" in visit
    assert "operator : Assigned the contact" in visit


def id_of(response: httpx.Response) -> str:
    return response.headers["location"].rpartition("/")[2]


async def test_a_discard_is_red_and_can_be_cancelled(world: World, operator: Browser) -> None:
    await park(world, "1")

    page = (await operator.get("/console/plan?do=discard&ids=standard-1")).text

    assert '<button class="main danger">Discard 1</button>' in page
    assert '<a class="button" href="/console/failures">Cancel</a>' in page
    assert "1 would be discarded" in main_text(page)


async def test_a_plan_without_effect_has_no_button_for_a_discard(world: World, operator: Browser) -> None:
    await park(world, "1")
    await run_operation(world, "discard", Filter(ids=("standard-1",)))

    discard = (await operator.get("/console/plan?do=discard&ids=standard-1")).text
    replay = (await operator.get("/console/plan?do=replay&ids=standard-1")).text

    assert "1 would be skipped: nothing to discard" in main_text(discard)
    assert '<button class="main' not in discard
    assert "Nothing would be sent. Check Review Rover first" in main_text(replay)
    assert '<button class="main">Replay 1</button>' in replay


async def test_nothing_selected_is_nothing_done_whatever_the_filter_of_the_list(
    world: World, operator: Browser, redis: Redis
) -> None:
    await park(world, "1", "2")
    await operator.get("/console/failures")

    for do in ("replay", "discard"):
        page = (await operator.get(f"/console/plan?do={do}")).text
        started = await operator.post("/console/operations", {"do": do, "expected": "2"})

        assert "Nothing is selected" in page
        assert 409 == started.status_code
    assert 0 == await redis.command("EXISTS", "bell:operations")


async def test_rows_can_be_selected_only_if_there_are_several(world: World, operator: Browser) -> None:
    pages = list[str]()
    for ids in (("1",), ("1", "2")):
        await park(world, *ids)
        pages.append((await operator.get("/console/failures")).text)

    assert [False, True] == ["Discard selected…" in page for page in pages]
    assert [False, True] == ['type="checkbox" name="ids"' in page for page in pages]
    assert ["Replay…" in pages[0], "Replay all 2…" in pages[1]] == [True, True]


async def test_a_replay_is_offered_only_where_it_may_help(app: Any, world: World, operator: Browser) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://doorbell.example.com") as http:
        raw = standard_body("visit.created", "")
        delivery = (await http.post("/hooks/standard", content=raw, headers=sign_standard(raw))).json()["delivery"]
    paths = ["/console", "/console/failures", f"/console/deliveries/{delivery}"]

    final = [(await operator.get(path)).text.partition("<main")[2] for path in paths]
    await park(world, "1", parked=2)
    mixed = [(await operator.get(path)).text.partition("<main")[2] for path in paths]

    offers = [["do=replay" in page for page in pages] for pages in (final, mixed)]
    assert [[False, False, False], [True, True, False]] == offers
    assert all("do=discard" in page for page in final)
    assert "Replay all 2…" in mixed[1]
    only_one = (await operator.get("/console/failures?source=standard&reason=POST")).text
    assert ">Replay…</a>" in only_one
    assert ">Discard…</a>" in only_one
