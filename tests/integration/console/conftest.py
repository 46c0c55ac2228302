"""Fixtures of this folder."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from app.ledger.redis import Redis
from app.settings.environment import read_environment
from app.web import create_app
from tests.support.console import HASHES, KEY, OPERATORS, VIEWERS, Opened
from tests.support.harness import CALENDLY_SECRET, SECRET, TOKEN, sign_standard, standard_body


@pytest.fixture
def environ(redis_url: str) -> dict[str, str]:
    return {
        "REDIS_URL": redis_url,
        "VISITS_API_TOKEN": TOKEN,
        "VISITS_API_URL": "http://127.0.0.1:9/api/v1",
        "HOOKS__STANDARD__SECRETS": SECRET,
        "HOOKS__CALENDLY__SECRETS": CALENDLY_SECRET,
        "SECRET_KEY": KEY,
        "CONSOLE_PASSWORD_HASH": HASHES[OPERATORS],
        "CONSOLE_VIEWER_PASSWORD_HASH": HASHES[VIEWERS],
    }


@pytest.fixture
async def opened(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Opened]:
    """Open applications with an environment each, and close them after the test."""
    # They would keep the objects of every test in memory, and each test would go through the tasks of all.
    monkeypatch.setattr("app.web._tune_garbage_collector", lambda: None)
    monkeypatch.setattr("app.console.mount.gc.freeze", lambda: None)
    async with AsyncExitStack() as stack:

        async def open_app(environ: dict[str, str]) -> Any:
            app = create_app(read_environment(environ))
            await stack.enter_async_context(app.router.lifespan_context(app))
            return app

        yield open_app


@pytest.fixture
async def app(opened: Opened, environ: dict[str, str]) -> Any:
    return await opened(environ)


@pytest.fixture
async def delivery(app: Any) -> str:
    """Send a delivery and return its id."""
    contact = {"email": "ada@example.com", "first_name": "Countess"}
    raw = standard_body("visit.created", "A-1042", contact=contact)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://doorbell.example.com") as http:
        return str((await http.post("/hooks/standard", content=raw, headers=sign_standard(raw))).json()["delivery"])
