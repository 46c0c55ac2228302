"""Every route of the console and the role that it needs."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.routing import BaseRoute, Mount, Route

from app.ledger.redis import Redis
from tests.support.console import ACTIONS, ENDING, LISTED, VIEWERS, Browser, Opened, listed, path_of

# -- closed unless configured --


async def test_without_a_password_there_is_no_console(opened: Opened, environ: dict[str, str]) -> None:
    closed = await opened({name: value for name, value in environ.items() if not name.startswith("CONSOLE")})

    statuses = set()
    for page in LISTED:
        answer = await Browser(closed).http.request(page.method, path_of(page, "none"))
        statuses.add((answer.status_code, answer.json()["error"]))

    assert {(404, "not_found")} == statuses


# -- every route --


def served(route: BaseRoute, prefix: str = "") -> Iterator[tuple[str, BaseRoute]]:
    """Every route without routes below it, with its whole path."""
    path = prefix + route.path if isinstance(route, Mount | Route) else prefix
    if isinstance(route, Mount) and route.routes:
        for inner in route.routes:
            yield from served(inner, path)
    else:
        yield path, route


def test_every_route_below_console_requires_a_role(app: Any) -> None:
    [console] = [route for route in app.routes if isinstance(route, Mount)]

    [(files, _), *pages] = served(console)

    assert "/console/static/{version}" == files
    assert LISTED == [listed(route) for _, route in pages if isinstance(route, Route)]
    assert len(LISTED) == len(pages)


def test_only_logging_in_needs_no_session() -> None:
    assert {"anybody", "viewer", "operator"} == {page.role for page in LISTED}
    assert {"/console/login"} == {page.path for page in LISTED if page.role == "anybody"}
    assert {"/console/logout", "/console/settings"} == {page.path for page in ACTIONS if page.role == "viewer"}


@pytest.mark.parametrize("page", [p for p in LISTED if p.role in ("viewer", "operator")], ids=lambda p: p.path)
async def test_nobody_gets_in_without_a_session(app: Any, delivery: str, page: Any) -> None:
    stranger = Browser(app)
    await stranger.get("/console/login")
    path = path_of(page, delivery)

    answer = await (stranger.get(path) if page.method == "GET" else stranger.post(path))

    assert 303 == answer.status_code
    assert answer.headers["location"].startswith("/console/login")
    assert delivery not in answer.text


@pytest.mark.parametrize("page", [p for p in LISTED if p.role == "operator"], ids=lambda p: p.path)
async def test_a_viewer_may_not_act(app: Any, delivery: str, redis: Redis, page: Any) -> None:
    viewer = Browser(app)
    await viewer.log_in(VIEWERS)
    before = await redis.command("XLEN", "bell:activity")

    path = path_of(page, delivery)
    answer = await (viewer.get(path) if page.method == "GET" else viewer.post(path))

    assert 403 == answer.status_code
    assert "role operator" in answer.text
    assert "ada@example.com" not in answer.text
    assert before == await redis.command("XLEN", "bell:activity")


@pytest.mark.parametrize(
    "page", [page for page in ENDING if (page.method, page.role) == ("GET", "viewer")], ids=lambda p: p.path
)
async def test_a_viewer_may_look_and_sees_nobodys_data(app: Any, delivery: str, page: Any) -> None:
    viewer = Browser(app)
    await viewer.log_in(VIEWERS)

    answer = await viewer.get(path_of(page, delivery))

    assert answer.status_code in (200, 404)
    assert "ada@example.com" not in answer.text
    assert "/reveal" not in answer.text


@pytest.mark.parametrize("page", ENDING, ids=lambda page: f"{page.method} {page.path}")
async def test_every_answer_has_the_headers_that_keep_it_private(app: Any, delivery: str, page: Any) -> None:
    operator = Browser(app)
    await operator.log_in()

    path = path_of(page, delivery)
    answer = await (operator.get(path) if page.method == "GET" else operator.post(path))

    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "nosniff" == answer.headers["x-content-type-options"]
    assert "same-origin" == answer.headers["referrer-policy"]
    assert "private, no-store" == answer.headers["cache-control"]
    assert " style=" not in answer.text
    assert "<script>" not in answer.text
    assert not re.search(r"\son\w+=", answer.text)
