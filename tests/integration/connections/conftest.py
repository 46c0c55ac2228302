"""Fixtures of the tests of connections."""

import pytest

from app.connections.catch_up import Lister


@pytest.fixture(autouse=True)
def unlimited_rate(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """List as fast as possible: a fake has no rate limit. The fixture `limited_rate` keeps to that of the tool."""

    async def no_wait(_: Lister) -> None:
        pass

    if "limited_rate" not in request.fixturenames:
        monkeypatch.setattr(Lister, "_wait_for_turn", no_wait)


@pytest.fixture
def limited_rate() -> None:
    pass
