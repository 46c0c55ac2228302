"""Fixtures of this folder."""

from collections.abc import AsyncIterator

import pytest

from app.ledger.redis import Redis
from tests.support.harness import Harness
from tests.support.shared_bookings import SECRET, SIGNED, BookingWorld
from tests.support.visit_worker import open_world


@pytest.fixture
async def world(redis: Redis, module_harness: Harness) -> AsyncIterator[BookingWorld]:
    async with open_world(redis, module_harness):
        world = BookingWorld(redis, module_harness)
        world.configure(
            **{f"HOOKS__{name.upper()}__SECRETS": SECRET for name in SIGNED},
            PUBLIC_URL="https://hooks.example.com",
            SECRET_KEY="a-key-of-ours-for-tests-of-groups",
        )
        yield world
        await world.transport.aclose()
