"""Fixtures of this folder."""

from collections.abc import AsyncIterator

import pytest

from app.ledger.redis import Redis
from tests.support.harness import Harness
from tests.support.shared_bookings import SECRET, SIGNED, Door
from tests.support.visit_worker import a_world


@pytest.fixture
async def door(redis: Redis, hands: Harness) -> AsyncIterator[Door]:
    async with a_world(redis, hands):
        door = Door(redis, hands)
        door.set(
            **{f"HOOKS__{name.upper()}__SECRETS": SECRET for name in SIGNED},
            PUBLIC_URL="https://hooks.example.com",
            SECRET_KEY="a-key-of-ours-for-tests-of-groups",
        )
        yield door
        await door.wire.aclose()
