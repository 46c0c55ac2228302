"""A failover that loses writes: what a run in progress has read, and what the Visits API answered, is not lost."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import pytest

from app.ledger.losses import Losses
from app.ledger.redis import Redis, RedisAddress, RedisUnavailable
from app.operators.loss_audit import LossAudit
from tests.support.harness import Harness, Server, wait_until
from tests.support.sentinels import Replicated, replicated
from tests.support.visit_worker import World, booked, change, external_ids, open_world
from tests.support.visit_worker import at as hour


@pytest.fixture
def servers() -> Iterator[Replicated]:
    with replicated(replicas=1) as servers:
        yield servers


@pytest.fixture
async def world(servers: Replicated, sandbox: Server) -> AsyncIterator[World]:
    redis = Redis(RedisAddress(servers.url))
    with Harness(f"redis://127.0.0.1:{servers.primary}/0", sandbox) as harness:
        async with open_world(redis, harness) as world:
            yield world
    await redis.close()


def audit_of(world: World) -> LossAudit:
    return LossAudit(world.ledger, world.context.settings, world.context.http, after_s=0)


async def lose_later_writes(servers: Replicated) -> None:
    await asyncio.to_thread(wait_until, servers.is_in_sync)
    await asyncio.to_thread(servers.cut_replicas)


async def fail_over(servers: Replicated, world: World) -> None:
    await asyncio.to_thread(servers.kill_primary)
    async with asyncio.timeout(20):
        while True:
            with suppress(RedisUnavailable):
                await world.redis.command("PING")
                return
            await asyncio.sleep(0.1)


async def test_a_visit_that_was_being_created_is_kept_with_its_changes(servers: Replicated, world: World) -> None:
    created = world.transport.response_gates["POST /visits"] = asyncio.Event()
    await lose_later_writes(servers)
    await world.accept(booked("2", version=2, previous_visit_id="1"))
    running = asyncio.create_task(world.run_task("visit:main/standard-1"))
    await asyncio.to_thread(wait_until, lambda: "POST /visits" in world.calls())
    await fail_over(servers, world)

    created.set()
    assert "done" == await running
    await world.run()

    assert ["standard-1"] == external_ids(world)
    assert 1 == (await world.load_task("2")).change_count
    assert "DELETE /visits/:id" not in world.calls()


async def test_a_lost_visit_under_a_later_id_is_deleted_once_the_ids_are_linked(
    servers: Replicated, world: World
) -> None:
    """The visit was created before the first id was known; the failover, and the end of the worker, lost that it was."""
    await audit_of(world).step()
    await world.apply(booked("1"))
    await lose_later_writes(servers)
    await world.apply(booked("2"))
    await fail_over(servers, world)

    restarted = World(Redis(RedisAddress(servers.url)), world.harness)
    await restarted.apply(booked("2", version=2, previous_visit_id="1"))
    await restarted.redis.close()
    await restarted.transport.aclose()

    assert ["standard-1"] == external_ids(world)


async def test_a_change_of_a_later_id_costs_one_call_more_after_a_failover(servers: Replicated, world: World) -> None:
    await audit_of(world).step()
    await world.apply(booked("1"))
    await asyncio.to_thread(wait_until, servers.is_in_sync)
    await fail_over(servers, world)
    await audit_of(world).step()

    calls_before = len(world.calls())
    await world.apply(booked("2", version=2, hour=10, previous_visit_id="1"))
    await world.apply(change("1", version=3, time_completed=hour(11)))

    assert ["DELETE /visits/:id", "PUT /visits/:id", "PUT /visits/:id"] == world.calls()[calls_before:]


async def test_an_answer_of_the_api_that_was_lost_is_read_again(servers: Replicated, world: World) -> None:
    """Without the answer, the visit would look as if it had the right time already."""
    await world.apply(booked("1", time_scheduled=hour(9)))
    await lose_later_writes(servers)
    await world.apply(change("1", 2, time_scheduled=hour(12)))
    await fail_over(servers, world)

    await world.apply(change("1", 3, time_scheduled=hour(9)))

    assert "2026-03-14T09:00:00Z" == (world.visit() or {})["time_scheduled"]


async def test_a_visit_whose_changes_were_lost_is_noticed_and_not_created_again(
    servers: Replicated, world: World
) -> None:
    audit = audit_of(world)
    await audit.step()
    await world.apply(booked("1"))
    await lose_later_writes(servers)
    await world.apply(booked("2"))
    await fail_over(servers, world)

    for _ in range(2):
        await audit.step()
    assert ["visit:main/standard-2"] == await Losses(world.redis).lost_visits()

    await world.apply(booked("2"))
    assert [] == await Losses(world.redis).lost_visits()
    assert ["standard-1", "standard-2"] == external_ids(world)
    assert 2 == world.calls().count("POST /visits")
