"""The aliases of a rescheduled visit."""

import itertools

import pytest

from app.ledger.ledger import Ledger
from app.ledger.redis import Redis
from tests.support.ledger import accept, aliases_by_visit, change, complete_run, done, start_run, visit_task

LINKS = [("A", None), ("B", "A"), ("C", "B"), ("D", "B")]


@pytest.mark.parametrize("order", list(itertools.permutations(LINKS)), ids=lambda links: "".join(a for a, _ in links))
async def test_a_reschedule_is_one_visit_in_any_order_of_its_links(
    ledger: Ledger, order: tuple[tuple[str, str | None], ...]
) -> None:
    for visit, previous in order:
        await accept(ledger, change(visit, previous))

    expected = ("A", {"A": 0, "B": 1, "C": 2, "D": 2})
    assert dict.fromkeys("ABCD", expected) == await aliases_by_visit(ledger, "ABCD")


async def test_a_link_of_a_visit_to_itself_is_ignored(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A", "A"))

    assert [("A", 0)] == [(m.task_id.rpartition("-")[2], m.alias_depth) for m in (await start_run(ledger, "A")).tasks]
    assert 0 == await redis.command("HEXISTS", f"bell:{visit_task('A')}", "linked")


async def test_a_link_that_arrives_before_its_visits_is_stored(ledger: Ledger) -> None:
    await accept(ledger, change("B", "A"))
    await complete_run(ledger, "B")
    await accept(ledger, change("A"))

    lease = await start_run(ledger, "A")
    assert [visit_task("A"), visit_task("B")] == [task.task_id for task in lease.tasks]


async def test_a_link_between_two_done_visits_queues_them_as_one(ledger: Ledger) -> None:
    for visit in "AB":
        await accept(ledger, change(visit))
        await complete_run(ledger, visit)

    await accept(ledger, change("B", "A"))

    lease = await complete_run(ledger, "B")
    assert [visit_task("A"), visit_task("B")] == [task.task_id for task in lease.tasks]
    assert {"done"} == {task.state for task in await ledger.load_aliases(visit_task("A"))}


async def test_all_aliases_of_a_running_visit_are_busy(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    await accept(ledger, change("B", "A"))
    await accept(ledger, change("C", "B"))

    lease = await start_run(ledger, "C")

    assert ["busy", "busy", "busy"] == [await ledger.lease(visit_task(visit)) for visit in "ABC"]
    await ledger.complete(lease, done())
    assert ["nothing"] * 3 == [await ledger.lease(visit_task(visit)) for visit in "ABC"]


async def test_a_link_that_arrives_during_a_run_applies_to_the_next_run(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    lease = await start_run(ledger, "A")

    await accept(ledger, change("B", "A"))
    during_run = await ledger.lease(visit_task("B"))
    await ledger.complete(lease, done())

    assert "busy" == during_run
    assert [visit_task("A"), visit_task("B")] == [task.task_id for task in (await start_run(ledger, "A")).tasks]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
async def test_circular_links_are_one_visit_with_one_primary(ledger: Ledger, redis: Redis, size: int) -> None:
    visits = "ABCDE"[:size]
    links = [(visit, visits[n - 1]) for n, visit in enumerate(visits)]
    primaries = set()
    for order in ([*links], links[::-1], links[1:] + links[:1]):
        await redis.command("FLUSHDB")
        for visit, previous in order:
            await accept(ledger, change(visit, previous))
        aliases = await aliases_by_visit(ledger, visits)
        assert all(set(visits) == set(ids) for _, ids in aliases.values())
        primaries |= {primary for primary, _ in aliases.values()}
        await complete_run(ledger, visits[-1])
        assert ["nothing"] * size == [await ledger.lease(visit_task(visit)) for visit in visits]

    assert 1 == len(primaries), primaries


@pytest.mark.parametrize("order", [("A", "B"), ("B", "A")], ids="".join)
async def test_an_id_with_two_previous_ids_belongs_to_one_visit(ledger: Ledger, order: tuple[str, str]) -> None:
    for visit in "ABC":
        await accept(ledger, change(visit))
    for previous in order:
        await accept(ledger, change("C", previous))

    primaries = [primary for primary, ids in (await aliases_by_visit(ledger, "AB")).values() if "C" in ids]
    assert 1 == len(set(primaries)), primaries


async def test_a_chain_of_a_hundred_reschedules_is_one_visit(ledger: Ledger) -> None:
    for n in range(100):
        await accept(ledger, change(f"v{n}", f"v{n - 1}" if n else None))

    lease = await complete_run(ledger, "v99")

    assert [f"visit:main/standard-v{n}" for n in range(100)] == [task.task_id for task in lease.tasks]
    assert {"done"} == {task.state for task in await ledger.load_aliases(visit_task("v50"))}
