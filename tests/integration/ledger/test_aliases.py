"""The ids of a rescheduled visit."""

import itertools

import pytest

from app.ledger.ledger import Ledger
from app.ledger.redis import Redis
from tests.support.ledger import accept, aliases_by_visit, change, complete_run, done, start_run, visit_task

LINKS = [("A", None), ("B", "A"), ("C", "B"), ("D", "B")]


@pytest.mark.parametrize("order", list(itertools.permutations(LINKS)), ids=lambda links: "".join(a for a, _ in links))
async def test_a_reschedule_is_one_visit_whatever_order_its_links_arrive_in(
    ledger: Ledger, order: tuple[tuple[str, str | None], ...]
) -> None:
    for visit, continues in order:
        await accept(ledger, change(visit, continues))

    whole = ("A", {"A": 0, "B": 1, "C": 2, "D": 2})
    assert dict.fromkeys("ABCD", whole) == await aliases_by_visit(ledger, "ABCD")


async def test_a_visit_that_continues_itself_continues_nothing(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A", "A"))

    assert [("A", 0)] == [(m.task_id.rpartition("-")[2], m.alias_depth) for m in (await start_run(ledger, "A")).tasks]
    assert 0 == await redis.command("HEXISTS", f"bell:{visit_task('A')}", "linked")


async def test_a_link_that_arrives_before_either_half_is_remembered(ledger: Ledger) -> None:
    await accept(ledger, change("B", "A"))
    await complete_run(ledger, "B")
    await accept(ledger, change("A"))

    hold = await start_run(ledger, "A")
    assert [visit_task("A"), visit_task("B")] == [member.task_id for member in hold.tasks]


async def test_a_link_that_joins_two_finished_visits_puts_them_to_work_as_one(ledger: Ledger) -> None:
    for visit in "AB":
        await accept(ledger, change(visit))
        await complete_run(ledger, visit)

    await accept(ledger, change("B", "A"))

    hold = await complete_run(ledger, "B")
    assert [visit_task("A"), visit_task("B")] == [member.task_id for member in hold.tasks]
    assert {"done"} == {member.state for member in await ledger.load_aliases(visit_task("A"))}


async def test_while_one_id_of_a_visit_is_worked_on_the_others_are_busy(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    await accept(ledger, change("B", "A"))
    await accept(ledger, change("C", "B"))

    hold = await start_run(ledger, "C")

    assert ["busy", "busy", "busy"] == [await ledger.lease(visit_task(visit)) for visit in "ABC"]
    await ledger.complete(hold, done())
    assert ["nothing"] * 3 == [await ledger.lease(visit_task(visit)) for visit in "ABC"]


async def test_a_link_that_lands_during_a_run_is_seen_after_it(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    hold = await start_run(ledger, "A")

    await accept(ledger, change("B", "A"))
    meanwhile = await ledger.lease(visit_task("B"))
    await ledger.complete(hold, done())

    assert "busy" == meanwhile
    assert [visit_task("A"), visit_task("B")] == [member.task_id for member in (await start_run(ledger, "A")).tasks]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
async def test_links_in_a_circle_are_one_visit_with_one_first_id(ledger: Ledger, redis: Redis, size: int) -> None:
    visits = "ABCDE"[:size]
    links = [(visit, visits[n - 1]) for n, visit in enumerate(visits)]
    seen = set()
    for order in ([*links], links[::-1], links[1:] + links[:1]):
        await redis.command("FLUSHDB")
        for visit, continues in order:
            await accept(ledger, change(visit, continues))
        found = await aliases_by_visit(ledger, visits)
        assert all(set(visits) == set(ids) for _, ids in found.values())
        seen |= {root for root, _ in found.values()}
        await complete_run(ledger, visits[-1])
        assert ["nothing"] * size == [await ledger.lease(visit_task(visit)) for visit in visits]

    assert 1 == len(seen), seen


@pytest.mark.parametrize("order", [("A", "B"), ("B", "A")], ids="".join)
async def test_an_id_that_two_claim_to_come_before_belongs_to_one_visit(ledger: Ledger, order: tuple[str, str]) -> None:
    for visit in "ABC":
        await accept(ledger, change(visit))
    for before in order:
        await accept(ledger, change("C", before))

    owners = [root for root, ids in (await aliases_by_visit(ledger, "AB")).values() if "C" in ids]
    assert 1 == len(set(owners)), owners


async def test_a_chain_of_a_hundred_reschedules_is_one_visit(ledger: Ledger) -> None:
    for n in range(100):
        await accept(ledger, change(f"v{n}", f"v{n - 1}" if n else None))

    hold = await complete_run(ledger, "v99")

    assert [f"visit:main/standard-v{n}" for n in range(100)] == [member.task_id for member in hold.tasks]
    assert {"done"} == {member.state for member in await ledger.load_aliases(visit_task("v50"))}
