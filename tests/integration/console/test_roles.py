"""Every route of the console and the role that it needs."""

import re
from typing import Any

import pytest
from starlette.routing import Route

from app.console import ALL_PAGES
from app.ledger.redis import Redis
from tests.support.console import ENDING, PAGES, VIEWERS, Browser, Opened, path_of

ACTIONS = [page for page in ALL_PAGES if page.method == "POST"]


# -- closed unless configured --


async def test_without_a_password_there_is_no_console(opened: Opened, environ: dict[str, str]) -> None:
    closed = await opened({name: value for name, value in environ.items() if not name.startswith("CONSOLE")})

    statuses = set()
    for page in (*PAGES, *ACTIONS):
        answer = await Browser(closed).http.request(page.method, path_of(page, "none"))
        statuses.add((answer.status_code, answer.json()["error"]))

    assert {(404, "not_found")} == statuses


# -- every route --


def test_every_route_of_the_console_is_in_the_tables(app: Any) -> None:
    served = {
        (method, route.path)
        for route in app.routes
        if isinstance(route, Route) and route.path.startswith("/console")
        for method in route.methods or ()
    }

    assert {(page.method, page.path) for page in (*PAGES, *ACTIONS)} == {one for one in served if one[0] != "HEAD"}
    assert {page.path for page in (*PAGES, *ACTIONS) if page.role == "static"} == {"/console/static/{version}/{name}"}
    assert {page.path for page in (*PAGES, *ACTIONS) if page.role == "anybody"} == {"/console/login"}
    assert {page.role for page in ACTIONS} - {"operator"} == {"anybody", "viewer"}
    assert {page.path for page in ACTIONS if page.role == "viewer"} == {"/console/logout", "/console/settings"}


@pytest.mark.parametrize(
    "page", [p for p in (*PAGES, *ACTIONS) if p.role in ("viewer", "operator")], ids=lambda p: p.path
)
async def test_nobody_gets_in_without_a_session(app: Any, delivery: str, page: Any) -> None:
    stranger = Browser(app)
    await stranger.get("/console/login")
    path = path_of(page, delivery)

    answer = await (stranger.get(path) if page.method == "GET" else stranger.post(path))

    assert 303 == answer.status_code
    assert answer.headers["location"].startswith("/console/login")
    assert delivery not in answer.text


@pytest.mark.parametrize("page", [p for p in (*PAGES, *ACTIONS) if p.role == "operator"], ids=lambda p: p.path)
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
    assert page.role == "static" or "private, no-store" == answer.headers["cache-control"]
    assert " style=" not in answer.text
    assert "<script>" not in answer.text
    assert not re.search(r"\son\w+=", answer.text)
