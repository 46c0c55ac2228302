"""Who gets in at /console, and what they may do: every route, every role, and whoever comes without being asked."""

import hashlib
import html
import json
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
from argon2 import PasswordHasher
from itsdangerous import TimestampSigner
from jinja2 import Template
from starlette.requests import Request
from starlette.routing import Route

from app.console import ALL_PAGES, erasure
from app.console.auth import (
    BROWSER_COOKIE,
    MAX_ATTEMPTS_PER_CLIENT,
    MAX_STRANGER_ATTEMPTS,
    SESSION_COOKIE,
    attempts_key,
    client_address,
    safe_redirect_target,
)
from app.ledger.redis import Redis, RedisUnavailable
from app.main import create_app
from app.operators import redaction
from app.settings.environment import read
from app.webhooks.registry import load_sources, load_specimens
from app.webhooks.specimens import sign_specimen
from tests.support.harness import CALENDLY_SECRET, SECRET, TOKEN, sign_standard, standard_body

Opened = Callable[[dict[str, str]], Awaitable[Any]]
OPERATORS, VIEWERS = "an operator's password", "a viewer's password"
#: Cheap ones: what a hash costs is for whoever tries passwords, not for tests.
_CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
HASHES = {OPERATORS: _CHEAP.hash(OPERATORS), VIEWERS: _CHEAP.hash(VIEWERS)}
KEY = "key-of-the-tests"
PAGES = [page for page in ALL_PAGES if page.method == "GET"]
ACTIONS = [page for page in ALL_PAGES if page.method == "POST"]
#: The event stream has no end: it is looked at in test_events.py.
ENDING = [page for page in ALL_PAGES if page.path != "/console/stream"]
#: As a browser sends them with a form of our own.
OURS = {"sec-fetch-site": "same-origin", "origin": "https://doorbell.example.com"}


class Browser:
    """Somebody at the console: cookies, and the token of the last page."""

    def __init__(self, app: Any, **headers: str) -> None:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("192.0.2.1", 1))
        self.http = httpx.AsyncClient(transport=transport, base_url="https://doorbell.example.com", headers=headers)
        self.token = ""

    async def get(self, path: str, **more: Any) -> httpx.Response:
        answer = await self.http.get(path, **more)
        if found := re.search(r'name="token" value="([^"]+)"', answer.text):
            self.token = found[1]
        return answer

    async def post(self, path: str, form: dict[str, str] | None = None, **headers: str) -> httpx.Response:
        return await self.http.post(path, data={"token": self.token, **(form or {})}, headers={**OURS, **headers})

    async def log_in(self, password: str = OPERATORS, to: str = "") -> httpx.Response:
        await self.get("/console/login")
        answer = await self.post("/console/login", {"password": password, "to": to})
        await self.get("/console/settings")
        return answer


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
async def opened(redis: Redis) -> AsyncIterator[Opened]:
    """An application for every environment that a test asks for, closed at its end."""
    async with AsyncExitStack() as stack:

        async def open_app(environ: dict[str, str]) -> Any:
            app = create_app(read(environ))
            await stack.enter_async_context(app.router.lifespan_context(app))
            return app

        yield open_app


@pytest.fixture
async def app(opened: Opened, environ: dict[str, str]) -> Any:
    return await opened(environ)


@pytest.fixture
async def delivery(app: Any) -> str:
    """The id of one that was accepted."""
    contact = {"email": "ada@example.com", "first_name": "Countess"}
    raw = standard_body("visit.created", "A-1042", contact=contact)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://doorbell.example.com") as http:
        return str((await http.post("/hooks/standard", content=raw, headers=sign_standard(raw))).json()["delivery"])


def path_of(page: Any, delivery: str) -> str:
    """An address that exists, for every page of the table."""
    filled = {
        "id": delivery,
        "external_id": "standard-A-1042",
        "name": "standard",
        "hook": "standard",
        "operation": "none",
        "account": "main",
        "version": "v",
    }
    return str(re.sub(r"\{(\w+)\}", lambda found: filled[found[1]], page.path))


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
    before = await redis.command("XLEN", "db:audit-log")

    path = path_of(page, delivery)
    answer = await (viewer.get(path) if page.method == "GET" else viewer.post(path))

    assert 403 == answer.status_code
    assert "role operator" in answer.text
    assert "ada@example.com" not in answer.text
    assert before == await redis.command("XLEN", "db:audit-log")


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


# -- sessions --


async def test_the_cookie_is_for_this_host_and_no_script(app: Any) -> None:
    answer = await Browser(app).log_in()

    cookie = answer.headers["set-cookie"].lower()
    assert cookie.startswith("__host-doorbell=")
    for part in ("; secure", "; httponly", "; samesite=lax", "; path=/", "; max-age=43200"):
        assert part in cookie
    assert "domain" not in cookie


@pytest.mark.parametrize(
    "cookie",
    [
        "x",
        "d.x.y",
        TimestampSigner("another key", salt="doorbell console session").sign("session").decode(),
        TimestampSigner(KEY, salt="another use").sign("session").decode(),
        TimestampSigner(KEY, salt="doorbell console session").sign("no such session").decode(),
        TimestampSigner("", salt="doorbell console session").sign("session").decode(),
    ],
    # Without the time that is in a signature: every worker of a run must find the same names.
    ids=["no signature", "no time", "another key", "another use", "no such session", "no key"],
)
async def test_a_forged_cookie_is_none(app: Any, redis: Redis, cookie: str) -> None:
    password = hashlib.sha256(HASHES[OPERATORS].encode()).hexdigest()[:32]
    session = {"name": "x", "role": "operator", "password": password}
    await redis.command("SET", "db:session:session", json.dumps(session))
    ours = TimestampSigner(KEY, salt="doorbell console session").sign("session").decode()

    answers = [
        await Browser(app).get("/console", headers={"cookie": f"{SESSION_COOKIE}={one}"}) for one in (cookie, ours)
    ]

    assert [303, 200] == [answer.status_code for answer in answers]


@pytest.mark.parametrize("password", [{}, {"password": ""}, {"password": None}, {"password": "0" * 32}], ids=str)
async def test_a_session_of_no_password_is_over(app: Any, redis: Redis, password: dict[str, Any]) -> None:
    await redis.command("SET", "db:session:session", json.dumps({"name": "x", "role": "operator", **password}))
    cookie = TimestampSigner(KEY, salt="doorbell console session").sign("session").decode()

    assert 303 == (await Browser(app).get("/console", headers={"cookie": f"{SESSION_COOKIE}={cookie}"})).status_code


@pytest.mark.parametrize(
    "around",
    ["{}", "a=1; {}", "{}; a=1", 'a="1; 2"; {}', "{};", " ; =; a; {} ", "x{0}x; {0}", 'doorbell-theme="{}; {}'],
    ids=["alone", "last", "first", "quoted", "semicolon", "blanks", "other names", "open quote"],
)
async def test_our_cookie_is_found_among_others(app: Any, around: str) -> None:
    operator = Browser(app)
    await operator.log_in()
    ours = f"{SESSION_COOKIE}={operator.http.cookies[SESSION_COOKIE]}"

    answer = await Browser(app).get("/console", headers={"cookie": around.format(ours, ours)})

    assert 200 == answer.status_code


@pytest.mark.parametrize("header", ["a={0}", "{0}", f"{SESSION_COOKIE}-x={{0}}", f"x{SESSION_COOKIE}={{0}}"])
async def test_a_cookie_of_another_name_is_not_ours(app: Any, header: str) -> None:
    operator = Browser(app)
    await operator.log_in()

    answer = await Browser(app).get(
        "/console", headers={"cookie": header.format(operator.http.cookies[SESSION_COOKIE])}
    )

    assert 303 == answer.status_code


@pytest.mark.parametrize("lines", [1, 8], ids=["one header", "several headers"])
async def test_more_cookies_than_anybody_has_are_refused(app: Any, lines: int) -> None:
    """A quoted value is what Python before 3.11.10 reads in quadratic time (CVE-2024-7592); nothing here reads one."""
    operator = Browser(app)
    await operator.log_in()
    ours = f"{SESSION_COOKIE}={operator.http.cookies[SESSION_COOKIE]}"
    backslashes = "\\" * (60_000 // lines)
    cookies = [("cookie", f'a{line}="{backslashes}"') for line in range(lines)]

    answer = await Browser(app).http.get("/console", headers=[*cookies, ("cookie", ours)])

    assert 431 == answer.status_code
    assert "more than 8192 bytes of cookies" in answer.text


async def test_a_session_ends_when_it_is_taken_back(app: Any, redis: Redis) -> None:
    operator = Browser(app)
    await operator.log_in()
    assert 200 == (await operator.get("/console")).status_code

    [key] = await redis.command("KEYS", "db:session:*")
    assert 43_100 < await redis.command("TTL", key) <= 43_200
    await redis.command("DEL", key)

    assert 303 == (await operator.get("/console")).status_code


async def test_logging_out_ends_it_on_the_server_too(app: Any) -> None:
    operator = Browser(app)
    await operator.log_in()
    kept = operator.http.cookies[SESSION_COOKIE]

    await operator.post("/console/logout")

    assert 303 == (await Browser(app).get("/console", headers={"cookie": f"{SESSION_COOKIE}={kept}"})).status_code


async def test_logging_in_makes_a_new_session_and_ends_the_one_before(app: Any, redis: Redis) -> None:
    """Nobody can be given a session that somebody else knows."""
    operator = Browser(app)
    await operator.log_in()
    first = operator.http.cookies[SESSION_COOKIE]
    await operator.get("/console/settings")
    await operator.post("/console/login", {"password": OPERATORS})

    assert first != operator.http.cookies[SESSION_COOKIE]
    assert 1 == len(await redis.command("KEYS", "db:session:*"))


async def test_a_key_that_was_rotated_still_opens_and_one_that_is_gone_does_not(
    opened: Opened, environ: dict[str, str]
) -> None:
    operator = Browser(await opened(environ))
    await operator.log_in()
    cookie = {"cookie": f"{SESSION_COOKIE}={operator.http.cookies[SESSION_COOKIE]}"}

    rotated = Browser(await opened({**environ, "SECRET_KEY": f"a-new-key-of-ours {KEY}"}))
    gone = Browser(await opened({**environ, "SECRET_KEY": "a-new-key-of-ours"}))

    assert 200 == (await rotated.get("/console", headers=cookie)).status_code
    assert 303 == (await gone.get("/console", headers=cookie)).status_code


async def test_a_password_that_was_taken_out_ends_its_sessions(opened: Opened, environ: dict[str, str]) -> None:
    viewer = Browser(await opened(environ))
    await viewer.log_in(VIEWERS)
    cookie = {"cookie": f"{SESSION_COOKIE}={viewer.http.cookies[SESSION_COOKIE]}"}
    del environ["CONSOLE_VIEWER_PASSWORD_HASH"]

    assert 303 == (await Browser(await opened(environ)).get("/console", headers=cookie)).status_code


async def test_a_password_that_was_changed_ends_its_sessions(opened: Opened, environ: dict[str, str]) -> None:
    before = await opened(environ)
    operator, viewer = Browser(before), Browser(before)
    await operator.log_in()
    await viewer.log_in(VIEWERS)
    environ["CONSOLE_PASSWORD_HASH"] = _CHEAP.hash("another password")
    after = await opened(environ)

    async def status(browser: Browser) -> int:
        cookie = {"cookie": f"{SESSION_COOKIE}={browser.http.cookies[SESSION_COOKIE]}"}
        return (await Browser(after).get("/console", headers=cookie)).status_code

    assert (303, 200) == (await status(operator), await status(viewer))


async def test_all_sessions_can_be_ended_at_once(app: Any, redis: Redis) -> None:
    operators, viewer = [Browser(app), Browser(app)], Browser(app)
    for operator in operators:
        await operator.log_in()
    await viewer.log_in(VIEWERS)
    everybody = (*operators, viewer)

    page = await operators[0].get("/console/settings")
    answer = await operators[0].post("/console/sessions/end")

    assert "3 open." in page.text
    assert (303, "/console/login") == (answer.status_code, answer.headers["location"])
    assert [303] * 3 == [(await browser.get("/console")).status_code for browser in everybody]
    assert [] == await redis.command("KEYS", "db:session*")
    assert (b"ended all sessions", b"3 of them") in await noted(redis)
    assert 303 == (await viewer.log_in(VIEWERS)).status_code


# -- logging in --


async def test_a_wrong_password_is_told_and_makes_no_session(app: Any, redis: Redis) -> None:
    answer = await Browser(app).log_in("wrong")

    assert 401 == answer.status_code
    assert "set-cookie" not in answer.headers
    assert [] == await redis.command("KEYS", "db:session:*")


async def test_attempts_of_one_address_are_limited_whatever_the_password(app: Any, redis: Redis) -> None:
    browser = Browser(app)
    statuses = [(await browser.log_in("wrong")).status_code for _ in range(MAX_ATTEMPTS_PER_CLIENT)]

    assert {401} == set(statuses)
    assert 429 == (await browser.log_in(OPERATORS)).status_code
    elsewhere = Browser(app, **{"x-forwarded-for": "203.0.113.9"})
    assert 303 == (await elsewhere.log_in(OPERATORS)).status_code


async def test_when_very_many_strangers_try_nobody_with_the_password_is_kept_out(
    app: Any, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.console.turns.STRANGER_INTERVAL_S", 0.01)
    await redis.command("SET", "db:login-attempts", 10 * MAX_STRANGER_ATTEMPTS, "EX", 900)

    for number in range(3):
        browser = Browser(app, **{"x-forwarded-for": f"203.0.113.{number}"})
        assert [401, 303] == [(await browser.log_in(password)).status_code for password in ("wrong", OPERATORS)]


async def test_a_browser_that_was_in_before_is_not_kept_out_by_strangers_at_its_address(app: Any) -> None:
    owner = Browser(app)
    await owner.log_in()
    await owner.post("/console/logout")
    stranger = Browser(app)
    tried = [
        (await stranger.log_in(password)).status_code for password in ["wrong"] * MAX_ATTEMPTS_PER_CLIENT + [OPERATORS]
    ]

    assert [401] * MAX_ATTEMPTS_PER_CLIENT + [429] == tried
    assert 303 == (await owner.log_in()).status_code


async def test_a_browser_that_was_in_before_has_a_limit_of_its_own(app: Any) -> None:
    owner = Browser(app)
    await owner.log_in()
    await owner.post("/console/logout")

    tried = [
        (await owner.log_in(password)).status_code for password in ["wrong"] * MAX_ATTEMPTS_PER_CLIENT + [OPERATORS]
    ]

    assert [401] * MAX_ATTEMPTS_PER_CLIENT + [429] == tried


@pytest.mark.parametrize(
    "known",
    ["x", TimestampSigner(KEY, salt="doorbell console session").sign("x").decode()],
    ids=["unsigned", "another use"],
)
async def test_a_forged_word_that_it_was_in_before_counts_as_a_stranger(app: Any, redis: Redis, known: str) -> None:
    forger = Browser(app)
    forger.http.cookies.set(BROWSER_COOKIE, known)

    await forger.log_in("wrong")

    assert b"1" == await redis.command("GET", attempts_key("192.0.2.1"))


async def test_a_viewer_cannot_go_on_guessing_the_operators_password(app: Any) -> None:
    viewer = Browser(app)
    tries = [VIEWERS, *["wrong"] * 5] * 2 + [OPERATORS]

    statuses = []
    for password in tries:
        viewer.http.cookies.clear()
        statuses.append((await viewer.log_in(password)).status_code)

    assert 429 == statuses[-1]


@pytest.mark.parametrize(
    ("proxies", "lines", "expected"),
    [
        ("", [], "192.0.2.1"),
        ("", ["198.51.100.7"], "198.51.100.7"),
        ("", ["10.9.9.9", "198.51.100.7"], "198.51.100.7"),
        ("", ["10.9.9.9, 10.8.8.8, 198.51.100.7"], "198.51.100.7"),
        ("1", ["10.9.9.9", "10.8.8.8, 198.51.100.7"], "198.51.100.7"),
        ("2", ["10.9.9.9", "198.51.100.7, 203.0.113.4"], "198.51.100.7"),
        ("2", ["198.51.100.7"], "192.0.2.1"),  # it came past one of the two
        ("0", ["198.51.100.7"], "192.0.2.1"),
        ("1", [" "], "192.0.2.1"),
    ],
)
async def test_who_asks_is_whom_our_own_routers_name(
    opened: Opened, environ: dict[str, str], redis: Redis, proxies: str, lines: list[str], expected: str
) -> None:
    app = await opened(environ | {"TRUSTED_PROXIES": proxies})
    browser = Browser(app)
    await browser.get("/console/login")
    form = {"token": browser.token, "password": "wrong"}

    await browser.http.post(
        "/console/login", data=form, headers=[*OURS.items(), *(("x-forwarded-for", line) for line in lines)]
    )

    assert b"1" == await redis.command("GET", attempts_key(expected))
    [(_, told)] = await redis.command("XRANGE", "db:audit-log", "-", "+")
    assert f"the last from {expected}".encode() in told[7]


def test_from_a_public_address_nobodys_word_is_taken_for_a_routers() -> None:
    scope = {"type": "http", "headers": [(b"x-forwarded-for", b"198.51.100.7")]}

    def found(peer: str) -> str:
        return client_address(Request(scope | {"client": (peer, 1)}))

    for stranger in ("8.8.8.8", "2606:4700::1", "::ffff:8.8.8.8"):
        assert stranger == found(stranger)
    for router in ("10.1.2.3", "100.64.0.9", "169.254.8.1", "::1", "fdaa::3", "::ffff:10.1.2.3"):
        assert "198.51.100.7" == found(router)
    assert "198.51.100.7" == client_address(Request(scope | {"client": None}))  # a unix socket


def test_of_an_ipv6_address_the_network_counts() -> None:
    assert attempts_key("2001:db8:1:2::1") == attempts_key("2001:db8:1:2:ffff::9") != attempts_key("2001:db8:1:3::1")
    assert attempts_key("::ffff:192.0.2.1") == attempts_key("192.0.2.1") != attempts_key("192.0.2.2")
    assert attempts_key("unknown, \udcff") != attempts_key("unknown")


async def test_an_operator_logs_in_while_redis_is_full(app: Any, redis: Redis) -> None:
    browser = Browser(app)
    await browser.get("/console/login")
    await redis.command("CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(RedisUnavailable):
            await redis.command("SET", "x", 1)
        statuses = [(await browser.log_in(password)).status_code for password in ("wrong", OPERATORS)]
        page = await browser.get("/console/activity")
    finally:
        await redis.command("CONFIG", "SET", "maxmemory", 0)

    assert [401, 303] == statuses
    assert "logged in" in page.text
    assert "failed to log in" in page.text


async def test_failed_log_ins_are_one_line_of_the_audit_log_with_their_count(app: Any, redis: Redis) -> None:
    await Browser(app).log_in()
    for number in range(7):
        await Browser(app, **{"x-forwarded-for": f"203.0.113.{number}"}).log_in("wrong")

    lines = [fields for _, fields in await redis.command("XRANGE", "db:audit-log", "-", "+")]

    assert [b"logged in", b"failed to log in"] == [fields[5] for fields in lines]
    assert b"7 wrong passwords in a quarter of an hour, the last from 203.0.113.6" == lines[1][7]

    await redis.command("DEL", "db:login-attempts:failed")  # a quarter of an hour later
    await Browser(app).log_in("wrong")

    assert 3 == await redis.command("XLEN", "db:audit-log")


async def test_a_large_login_is_refused_before_it_is_read(app: Any) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(160):
            sent += 65_536
            yield b"x" * 65_536

    browser = Browser(app)
    claimed = await browser.http.post("/console/login", content=b"x" * 10_000_000, headers=OURS)
    streamed = await browser.http.post("/console/login", content=endless(), headers=OURS)

    assert (413, 413) == (claimed.status_code, streamed.status_code)


@pytest.mark.parametrize(
    ("expected", "target"),
    [
        ("/console/failures?reason=x", "/console/failures?reason=x"),
        ("/console", ""),
        ("/console", "https://evil.example.com/console"),
        ("/console", "//evil.example.com/console"),
        ("/console", "///console/x"),
        ("/console", "////console"),
        ("/console", "/\\evil.example.com"),
        ("/console", "/console//evil.example.com"),
        ("/console", "/console/../hooks"),
        ("/console", "/consolex"),
        ("/console", "/console\r\nset-cookie: x=y"),
        ("/console", "javascript:alert(1)"),
        ("/console", "http://[x/console"),
        ("/console", "/console/logout"),
    ],
)
async def test_after_logging_in_only_a_page_of_ours_opens(app: Any, expected: str, target: str) -> None:
    assert expected == safe_redirect_target(target)

    answer = await Browser(app).log_in(to=target)

    assert (303, expected) == (answer.status_code, answer.headers["location"])


# -- addresses with a token --

TOKENED = [name for name, tool in load_sources().items() if tool.definition.signature.needs_key]
#: What some of them need to be connected at all.
NEEDED = {"API_URL": "https://api.example.com", "TIMEZONE": "UTC", "TENANTS": "t-1"}


@pytest.fixture
def tokened(environ: dict[str, str]) -> dict[str, str]:
    for name in TOKENED:
        environ[f"HOOKS__{name.upper()}__SECRETS"] = load_specimens(name)["secret"]
        for need in load_sources()[name].definition.required_settings:
            environ[f"HOOKS__{name.upper()}__{need}"] = NEEDED[need]
    return environ | {"PUBLIC_URL": "https://doorbell.example.com", "SECRET_KEY": KEY * 2}


def test_there_are_sources_whose_address_has_a_token() -> None:
    assert {"appointlet", "gingr", "servicem8", "simplybook", "tekmetric"} <= set(TOKENED)


@pytest.mark.parametrize("name", TOKENED)
async def test_the_address_that_an_operator_is_shown_lets_the_tool_in(
    opened: Opened, tokened: dict[str, str], name: str
) -> None:
    app = await opened(tokened)
    operator = Browser(app)
    await operator.log_in()
    settings = read(tokened)

    page = (await operator.get(f"/console/sources/{name}")).text
    overview = (await operator.get("/console")).text
    [address] = re.findall(rf'<code class="copy">(https://[^<]*/hooks/{name}[^<]*)</code>', page)
    made = sign_specimen(name, "1", name, settings.hooks[name].secrets, settings.secret_key, address)
    answer = await operator.http.request(
        made.method, address + (made.query and f"?{made.query}"), content=made.body, headers=made.headers
    )

    assert address in overview
    assert address in page.partition('id="steps"')[2]
    assert answer.status_code in (200, 202), answer.text


@pytest.mark.parametrize("name", TOKENED)
async def test_a_viewer_is_shown_no_token(opened: Opened, tokened: dict[str, str], name: str) -> None:
    app = await opened(tokened)
    viewer = Browser(app)
    await viewer.log_in(VIEWERS)
    settings = read(tokened)
    token = settings.address(settings.entrances[name]).rpartition("/")[2]

    pages = [
        await viewer.get(path)
        for path in (f"/console/sources/{name}", "/console/sources", "/console", "/console/settings")
    ]

    assert [] == [page.url for page in pages if token in page.text]
    assert f"/hooks/{name}/•••" in pages[0].text
    assert f'class="copy">https://doorbell.example.com/hooks/{name}' not in pages[0].text


async def test_without_public_url_addresses_begin_as_the_console_was_called(
    opened: Opened, tokened: dict[str, str]
) -> None:
    del tokened["PUBLIC_URL"]
    settings = read(tokened)
    operator = Browser(await opened(tokened))
    await operator.log_in()

    page = (await operator.get("/console/sources/gingr")).text

    assert f">https://doorbell.example.com{settings.address(settings.entrances['gingr'])}<" in page


# -- forms that are not ours --


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"sec-fetch-site": "", "origin": "https://evil.example.com"},
    ],
)
async def test_a_form_from_elsewhere_does_nothing(app: Any, delivery: str, headers: dict[str, str]) -> None:
    operator = Browser(app)
    await operator.log_in()

    answer = await operator.post(f"/console/deliveries/{delivery}/reveal", {"field": "*"}, **headers)

    assert 403 == answer.status_code
    assert "ada@example.com" not in answer.text


@pytest.mark.parametrize(
    "origin", ["https://evil.example.com", "null", "", "https://doorbell.example.com.evil.example"]
)
async def test_an_old_browsers_form_needs_our_origin(app: Any, delivery: str, origin: str) -> None:
    operator = Browser(app)
    await operator.log_in()
    path, form = f"/console/deliveries/{delivery}/reveal", {"token": operator.token, "field": "*"}

    theirs = await operator.http.post(path, data=form, headers={"origin": origin} if origin else {})
    ours = await operator.http.post(path, data=form, headers={"origin": "https://doorbell.example.com"})

    assert (403, 200) == (theirs.status_code, ours.status_code)


async def test_a_form_needs_the_token_of_its_own_session(app: Any, delivery: str) -> None:
    operator, other = Browser(app), Browser(app)
    await operator.log_in()
    await other.log_in()
    path = f"/console/deliveries/{delivery}/reveal"

    for token in ("", "x", other.token):
        assert 403 == (await operator.post(path, {"token": token, "field": "*"})).status_code
    assert 200 == (await operator.post(path, {"field": "*"})).status_code


# -- a trusted proxy --


async def test_a_proxys_user_is_believed_with_its_secret_only(opened: Opened, environ: dict[str, str]) -> None:
    proxied = {
        **{name: value for name, value in environ.items() if not name.startswith("CONSOLE")},
        "CONSOLE_PROXY_HEADER": "X-Forwarded-User",
        "CONSOLE_PROXY_SECRET": "a secret of the proxy",
        "CONSOLE_PROXY_OPERATORS": "ada@example.com",
    }
    app = await opened(proxied)
    secret = {"x-doorbell-proxy-secret": "a secret of the proxy"}

    async def seen(*headers: tuple[str, str]) -> tuple[int, bool]:
        answer = await Browser(app).http.get("/console/failures", headers=list(headers))
        return answer.status_code, "operator" in answer.text

    user, known = ("x-forwarded-user", "ada@example.com"), next(iter(secret.items()))
    assert (200, True) == await seen(user, known)
    assert (200, False) == await seen(("x-forwarded-user", "grace@example.com"), known)
    assert 303 == (await seen(user))[0]
    assert 303 == (await seen(user, ("x-doorbell-proxy-secret", "another")))[0]
    assert 303 == (await seen(user, user, known))[0]
    assert 303 == (await seen(known))[0]


# -- what is shown --


async def noted(redis: Redis) -> list[tuple[bytes, bytes]]:
    """What was done, of what."""
    lines = await redis.command("XRANGE", "db:audit-log", "-", "+")
    return [(fields[5], fields[7]) for _, fields in lines if fields[5] != b"logged in"]


async def test_of_a_body_one_field_is_revealed_and_which_is_noted(app: Any, delivery: str, redis: Redis) -> None:
    operator = Browser(app)
    await operator.log_in()
    path = f"/console/deliveries/{delivery}"

    hidden = await operator.get(path)
    other = await operator.post(f"{path}/reveal", {"field": "data.contact.first_name"})
    shown = await operator.post(f"{path}/reveal", {"field": "data.contact.email"})
    whole = await operator.post(f"{path}/reveal", {"field": "*"})
    again = await operator.get(path)

    pages = (hidden, other, shown, whole, again)
    assert [False, False, True, True, False] == ["ada@example.com" in page.text for page in pages]
    assert [False, True, False, True, False] == ["Countess" in page.text for page in pages]
    assert "visit.created" in hidden.text
    assert [
        (b"revealed of a delivery", f"{delivery}: {field}".encode())
        for field in ("data.contact.first_name", "data.contact.email", "all of the body")
    ] == await noted(redis)


async def test_of_a_visit_one_field_is_revealed_and_which_is_noted(app: Any, delivery: str, redis: Redis) -> None:
    operator = Browser(app)
    await operator.log_in()
    path = "/console/visits/standard-A-1042"

    hidden = await operator.get(path)
    shown = await operator.post(f"{path}/reveal", {"field": "contact.email"})

    assert [0, 2] == [page.text.count("ada@example.com") for page in (hidden, shown)]  # the fact, and who said it
    assert "Countess" not in shown.text
    assert [(b"revealed of a visit", b"standard-A-1042: contact.email")] == await noted(redis)


@pytest.mark.parametrize("field", ["", "ada@example.com", "a b", "x" * 201, "**"])
async def test_what_is_no_field_reveals_nothing(app: Any, delivery: str, redis: Redis, field: str) -> None:
    operator = Browser(app)
    await operator.log_in()

    answer = await operator.post(f"/console/deliveries/{delivery}/reveal", {"field": field})

    assert 404 == answer.status_code
    assert [] == await noted(redis)


@pytest.mark.parametrize(
    "path", ["/console/search?q={}", "/console/visits/{}", "/console/deliveries/{}", "/console/sources/{}"]
)
async def test_html_in_a_name_is_text(app: Any, path: str) -> None:
    operator = Browser(app)
    await operator.log_in()

    answer = await operator.get(path.format("%3Cscript%3Ealert(1)%3C%2Fscript%3E%22%27%3E"))

    assert answer.status_code in (200, 404)
    assert "<script>alert" not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        *(f"/console/deliveries?cursor={odd}" for odd in ("nan_x", "inf_", "-inf_x", "1e400_", "9" * 400, "%00")),
        *(f"/console/deliveries?since={odd}" for odd in ("0001-01-01T00:00", "9999-99-99", "9999-12-31T23:59", "x")),
        *(f"/console/activity?cursor={odd}" for odd in ("x", "1-1-1", "%0d%0a", "9" * 30 + "-1")),
        "/console/deliveries?state=deliveries:standard",
        "/console/plan?do=replay&state=jobs",
        "/console/plan?do=x&since=0001-01-01T00:00",
        "/console/deliveries/newer?newest=" + "9" * 400,
        "/console/search?q=%ff%00",
    ],
)
async def test_nonsense_in_an_address_is_no_defect(app: Any, delivery: str, path: str) -> None:
    operator = Browser(app)
    await operator.log_in()

    assert 200 == (await operator.get(path)).status_code


async def test_only_what_is_open_can_be_meant_by_a_form(app: Any, delivery: str, redis: Redis) -> None:
    operator = Browser(app)
    await operator.log_in()

    for form in (
        {"do": "discard", "state": "deliveries:standard", "expected": "1"},
        {"do": "replay", "state": "parked", "expected": "5"},
        {"do": "replay", "state": "parked", "expected": "0", "until": "9" * 15, "confirm": "0"},
    ):
        await operator.post("/console/operations", form)

    assert [] == await redis.command("KEYS", "db:operation*")


@pytest.mark.parametrize("do", ["replay", "discard"])
@pytest.mark.parametrize(
    "rest", ["", "&ids=", "&ids=%20", "&state=", "&state=nonsense", "&cursor=5_x", "&until=5", "&all=0"]
)
async def test_with_nothing_ticked_nothing_is_planned_and_nothing_done(
    app: Any, delivery: str, redis: Redis, do: str, rest: str
) -> None:
    operator = Browser(app)
    await operator.log_in()

    planned = await operator.get(f"/console/plan?do={do}{rest}")
    await operator.get("/console/settings")
    form = dict(parse_qsl(f"do={do}{rest}", keep_blank_values=True))
    started = [await operator.post("/console/operations", form | {"expected": number}) for number in ("0", "1")]

    assert "Nothing was ticked" in planned.text
    assert "/console/operations" not in planned.text.partition("<main")[2]
    assert [409, 409] == [answer.status_code for answer in started]
    assert [] == await redis.command("KEYS", "db:operation*")
    assert [] == await noted(redis)


async def test_everything_can_be_replayed_where_that_is_said(app: Any, delivery: str, redis: Redis) -> None:
    operator = Browser(app)
    await operator.log_in()
    page = await operator.get("/console/deliveries")
    [address] = re.findall(r'id="all" href="([^"]+)"', page.text)

    planned = await operator.get(html.unescape(address))
    form = dict(re.findall(r'name="(\w+)" value="([^"]*)"', planned.text))
    started = await operator.post("/console/operations", form)

    assert "Replay 1: the plan" in planned.text
    assert 303 == started.status_code
    assert 1 == await redis.command("ZCARD", "db:operations")


@pytest.mark.parametrize(
    "inside",
    ["[" + "1," * 100_000 + "1]", "[" * 400 + "]" * 400, '{"a":' * 260 + '"x"' + "}" * 260],
    ids=["wide", "deep", "text"],
)
async def test_whatever_a_body_is_its_page_is_bounded_and_no_defect(app: Any, inside: str) -> None:
    raw = b'{"type":"visit.touched","data":%b}' % inside.encode()
    operator = Browser(app)
    rang = await operator.http.post("/hooks/standard", content=raw, headers=sign_standard(raw))
    await operator.log_in()
    path = f"/console/deliveries/{rang.json()['delivery']}"

    hidden, whole = await operator.get(path), await operator.post(f"{path}/reveal", {"field": "*"})

    assert (200, 200) == (hidden.status_code, whole.status_code)
    assert len(hidden.text) < 2_000_000
    assert inside.count("1") == whole.text.partition('aria-label="Body of the delivery">')[2].partition("</pre>")[
        0
    ].count("1")


async def test_a_page_is_laid_out_beside_the_event_loop(
    app: Any, delivery: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, threads = Browser(app), set[bool]()
    await operator.log_in()
    render, body = Template.render, redaction.redact_body

    def rendered(*given: Any, **more: Any) -> str:
        threads.add(threading.current_thread() is threading.main_thread())
        return render(*given, **more)

    def laid_out(*given: Any) -> Any:
        threads.add(threading.current_thread() is threading.main_thread())
        return body(*given)

    monkeypatch.setattr(Template, "render", rendered)
    monkeypatch.setattr(redaction, "redact_body", laid_out)
    for page in (page for page in PAGES if page.path != "/console/stream"):
        await operator.get(path_of(page, delivery))

    assert {False} == threads


async def test_html_in_what_rang_is_text(app: Any) -> None:
    nasty = "<img src=x onerror=alert(1)>"
    raw = standard_body(
        f"visit.{nasty}", nasty, contact={"email": "ada@example.com", "first_name": nasty}, **{nasty: nasty}
    )
    browser = Browser(app)
    rang = await browser.http.post("/hooks/standard", content=raw, headers=sign_standard(raw))
    await browser.log_in()
    id = rang.json()["delivery"]

    pages = [await browser.get(path) for path in ("/console", "/console/deliveries", "/console/failures")]
    pages += [
        await browser.get(f"/console/deliveries/{id}"),
        await browser.post(f"/console/deliveries/{id}/reveal", {"field": "*"}),
    ]

    assert {200} == {page.status_code for page in pages}
    assert [] == [page.url for page in pages if "<img" in page.text]


@pytest.mark.parametrize(
    "name", ["..%2f..%2faccess.py", "%2e%2e/access.py", "access.py", "", "console.css%00", "vendor.json"]
)
async def test_only_the_files_of_the_folder_are_served(app: Any, name: str) -> None:
    answer = await Browser(app).get(f"/console/static/v/{name}")

    assert 404 == answer.status_code


async def test_a_cookie_with_line_breaks_adds_no_header(app: Any) -> None:
    operator = Browser(app)
    await operator.log_in()

    answer = await operator.post("/console/settings", {"theme": "dark\r\nset-cookie: x=y", "keys": "off"})

    assert 303 == answer.status_code
    assert "x=y" not in str(answer.headers)


async def test_the_page_is_served_also_when_redis_is_not_there(opened: Opened, environ: dict[str, str]) -> None:
    app = await opened({**environ, "REDIS_URL": "redis://127.0.0.1:9/0"})
    known = TimestampSigner(KEY, salt="doorbell console session").sign("session").decode()

    stranger = await Browser(app).get("/console")
    insider = await Browser(app).get("/console", headers={"cookie": f"{SESSION_COOKIE}={known}"})

    assert (503, 503) == (stranger.status_code, insider.status_code)
    assert "Redis cannot be reached" in stranger.text
    assert "127.0.0.1:9" not in stranger.text
    assert "127.0.0.1:9" in insider.text


async def test_a_count_of_attempts_that_lost_its_end_gets_another(app: Any, redis: Redis) -> None:
    await redis.command("SET", "db:login-attempts", 3)

    await Browser(app).log_in("a wrong password")

    assert b"4" == await redis.command("GET", "db:login-attempts")
    assert 0 < await redis.command("TTL", "db:login-attempts") <= 900


async def test_a_person_is_forgotten_once_the_address_was_typed_again(app: Any, delivery: str, redis: Redis) -> None:
    operator = Browser(app)
    await operator.log_in()

    async def said(**form: str) -> tuple[int, str]:
        answer = await operator.post("/console/erasure", form)
        [told] = re.findall(r"no e-mail address|hold nothing|would be removed|once more|Removed\.", answer.text)[:1]
        return answer.status_code, told

    whom = " Ada@Example.com"
    assert (409, "no e-mail address") == await said(person="ada")
    assert (200, "hold nothing") == await said(person="grace@example.com", confirm="grace@example.com")
    assert (200, "would be removed") == await said(person=whom)
    assert (409, "once more") == await said(person=whom, confirm="ada")
    assert "ada@example.com" in await raw_body(operator, delivery)
    assert (200, "Removed.") == await said(person=whom, confirm="Ada@Example.com")

    assert "its body was removed" in await raw_body(operator, delivery)
    [(did, what)] = [line for line in await noted(redis) if b"revealed" not in line[0]]
    assert b"forgot a person" == did
    assert re.fullmatch(rb"\S+: 1 visits, 1 deliveries", what)
    assert b"ada" not in what


async def test_a_page_waits_for_a_bounded_time_until_somebody_is_forgotten(
    app: Any, delivery: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = Browser(app)
    await operator.log_in()
    monkeypatch.setattr(erasure, "TIMEOUT_S", 0.0)

    for form in ({"person": "ada@example.com"}, {"person": "ada@example.com", "confirm": "ada@example.com"}):
        answer = await operator.post("/console/erasure", form)

        assert 409 == answer.status_code
        assert "use `doorbell erase`" in html.unescape(answer.text)
        assert ("removed already" in answer.text) == ("confirm" in form)


async def raw_body(operator: Browser, delivery: str) -> str:
    return (await operator.post(f"/console/deliveries/{delivery}/reveal", {"field": "*"})).text
