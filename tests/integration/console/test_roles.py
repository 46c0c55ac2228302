"""Every route of the console and the role that it needs."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.routing import BaseRoute, Mount, Route

from app.console.pages_app import create_pages
from app.ledger.redis import Redis
from tests.support.cases import each
from tests.support.console import (
    ACTIONS,
    CONSOLE_ROUTES,
    FINITE_ROUTES,
    VIEWERS,
    Browser,
    Opened,
    console_route,
    path_of,
)


@pytest.fixture
async def viewer(app: Any, delivery: str) -> Browser:
    viewer = Browser(app)
    await viewer.log_in(VIEWERS)
    return viewer


@pytest.fixture
async def operator(app: Any, delivery: str) -> Browser:
    operator = Browser(app)
    await operator.log_in()
    return operator


# -- without a password --


async def test_the_console_is_not_served_without_a_password(opened: Opened, environ: dict[str, str]) -> None:
    closed = await opened({name: value for name, value in environ.items() if not name.startswith("CONSOLE")})

    statuses = set()
    for page in CONSOLE_ROUTES:
        response = await Browser(closed).http.request(page.method, path_of(page, "none"))
        statuses.add((response.status_code, response.json()["error"]))

    assert {(404, "not_found")} == statuses


# -- every route --


def served(route: BaseRoute, prefix: str = "") -> Iterator[tuple[str, BaseRoute]]:
    """Yield every route without child routes, with its full path."""
    path = prefix + route.path if isinstance(route, Mount | Route) else prefix
    if isinstance(route, Mount) and route.routes:
        for child in route.routes:
            yield from served(child, path)
    else:
        yield path, route


def test_every_route_below_console_requires_a_role(app: Any) -> None:
    [console] = [route for route in app.routes if isinstance(route, Mount)]

    [(files, _), *pages] = served(Mount(console.path, create_pages(app.state.console.context)))

    assert "/console/static/{version}" == files
    assert CONSOLE_ROUTES == [console_route(route) for _, route in pages if isinstance(route, Route)]
    assert len(CONSOLE_ROUTES) == len(pages)


def test_only_the_log_in_page_needs_no_session() -> None:
    assert {"anybody", "viewer", "operator"} == {page.role for page in CONSOLE_ROUTES}
    assert {"/console/login"} == {page.path for page in CONSOLE_ROUTES if page.role == "anybody"}
    actions = {page.path for page in ACTIONS if page.role == "viewer"}
    assert {
        "/console/deliveries",
        "/console/logout",
        "/console/search",
        "/console/settings",
        "/console/times",
    } == actions


@each("page", [page for page in CONSOLE_ROUTES if page.role in ("viewer", "operator")], ids=lambda page: page.path)
async def test_a_request_without_a_session_is_redirected_to_the_log_in_page(app: Any, delivery: str, page: Any) -> None:
    stranger = Browser(app)
    await stranger.get("/console/login")
    path = path_of(page, delivery)

    response = await (stranger.get(path) if page.method == "GET" else stranger.post(path))

    assert 303 == response.status_code
    assert response.headers["location"].startswith("/console/login")
    assert delivery not in response.text


@each("page", [page for page in CONSOLE_ROUTES if page.role == "operator"], ids=lambda page: page.path)
async def test_a_viewer_gets_403_for_actions(viewer: Browser, delivery: str, redis: Redis, page: Any) -> None:
    entry_count = await redis.command("XLEN", "bell:activity")

    path = path_of(page, delivery)
    response = await (viewer.get(path) if page.method == "GET" else viewer.post(path))

    assert 403 == response.status_code
    assert "role operator" in response.text
    assert "ada@example.com" not in response.text
    assert entry_count == await redis.command("XLEN", "bell:activity")


@each(
    "page",
    [page for page in FINITE_ROUTES if (page.method, page.role) == ("GET", "viewer")],
    ids=lambda page: page.path,
)
async def test_a_viewer_sees_pages_without_personal_data(viewer: Browser, delivery: str, page: Any) -> None:
    response = await viewer.get(path_of(page, delivery))

    assert response.status_code in (200, 404)
    assert "ada@example.com" not in response.text
    assert "/reveal" not in response.text


#: The log-out is last, because it ends the session.
LOG_OUT_LAST = sorted(FINITE_ROUTES, key=lambda page: page.path == "/console/logout")


@each("page", LOG_OUT_LAST, ids=lambda page: f"{page.method} {page.path}")
async def test_every_response_has_the_security_headers(operator: Browser, delivery: str, page: Any) -> None:
    path = path_of(page, delivery)
    response = await (operator.get(path) if page.method == "GET" else operator.post(path))

    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "nosniff" == response.headers["x-content-type-options"]
    assert "same-origin" == response.headers["referrer-policy"]
    assert "private, no-store" == response.headers["cache-control"]
    assert " style=" not in response.text
    assert "<script>" not in response.text
    assert not re.search(r"\son\w+=", response.text)
