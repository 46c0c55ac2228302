"""The primary is killed, and Sentinels promote a replica, under load: `python -m tests.crash --failovers N`."""

import pytest

from tests.crash.run import Plan, run


@pytest.mark.parametrize("ack", ["replica", "write"])
async def test_failovers_lose_only_what_was_not_promised(ack: str) -> None:
    plan = Plan(kills=1, seed=7, fsync="always", kill_interval_s=1, fast=True, failovers=1, ack=ack, lose_writes=1)
    report = await run(plan)

    assert 1 == report.kills["failover"]
    assert report.visits > 5
    assert [] == report.breaches.all(), str(report)
    if ack == "replica":
        assert 0 == report.excused
