"""Login: passwords, limits, trusted proxies."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from itsdangerous import TimestampSigner
from starlette.requests import Request

from app.console.pages.login import safe_redirect_target
from app.console.passwords import (
    BROWSER_COOKIE,
    MAX_ATTEMPTS_PER_CLIENT,
    MAX_UNKNOWN_ATTEMPTS,
    attempts_key,
    client_address,
)
from app.console.sessions import SESSION_COOKIE
from app.ledger.redis import Redis, RedisUnavailable
from tests.support.console import (
    FAST_HASHER,
    HASHES,
    KEY,
    OPERATORS,
    SAME_ORIGIN_HEADERS,
    VIEWERS,
    Browser,
    Opened,
)

# -- passwords --


async def test_a_wrong_password_is_answered_401_without_a_session(app: Any, redis: Redis) -> None:
    response = await Browser(app).log_in("wrong")

    assert 401 == response.status_code
    assert "set-cookie" not in response.headers
    assert [] == await redis.command("KEYS", "bell:session:*")


async def test_attempts_of_one_address_are_limited_even_with_the_right_password(app: Any, redis: Redis) -> None:
    browser = Browser(app)
    statuses = [(await browser.log_in("wrong")).status_code for _ in range(MAX_ATTEMPTS_PER_CLIENT)]

    assert {401} == set(statuses)
    assert 429 == (await browser.log_in(OPERATORS)).status_code
    other_address = Browser(app, **{"x-forwarded-for": "203.0.113.9"})
    assert 303 == (await other_address.log_in(OPERATORS)).status_code


async def test_attempts_of_many_unknown_browsers_do_not_lock_out_the_right_password(
    app: Any, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.console.login_queue.UNKNOWN_INTERVAL_S", 0.01)
    await redis.command("SET", "bell:login-attempts", 10 * MAX_UNKNOWN_ATTEMPTS, "EX", 900)

    for number in range(3):
        browser = Browser(app, **{"x-forwarded-for": f"203.0.113.{number}"})
        assert [401, 303] == [(await browser.log_in(password)).status_code for password in ("wrong", OPERATORS)]


async def test_a_known_browser_is_not_locked_out_by_strangers_at_its_address(app: Any) -> None:
    owner = Browser(app)
    await owner.log_in()
    await owner.post("/console/logout")
    unknown = Browser(app)
    statuses = [
        (await unknown.log_in(password)).status_code for password in ["wrong"] * MAX_ATTEMPTS_PER_CLIENT + [OPERATORS]
    ]

    assert [401] * MAX_ATTEMPTS_PER_CLIENT + [429] == statuses
    assert 303 == (await owner.log_in()).status_code


async def test_a_known_browser_has_its_own_limit(app: Any) -> None:
    owner = Browser(app)
    await owner.log_in()
    await owner.post("/console/logout")

    statuses = [
        (await owner.log_in(password)).status_code for password in ["wrong"] * MAX_ATTEMPTS_PER_CLIENT + [OPERATORS]
    ]

    assert [401] * MAX_ATTEMPTS_PER_CLIENT + [429] == statuses


@pytest.mark.parametrize(
    "cookie",
    ["x", TimestampSigner(KEY, salt="doorbell console session").sign("x").decode()],
    ids=["unsigned", "another use"],
)
async def test_a_browser_with_a_forged_cookie_counts_as_a_stranger(app: Any, redis: Redis, cookie: str) -> None:
    forger = Browser(app)
    forger.http.cookies.set(BROWSER_COOKIE, cookie)

    await forger.log_in("wrong")

    assert b"1" == await redis.command("GET", attempts_key("192.0.2.1"))


@pytest.mark.parametrize("own", [VIEWERS, OPERATORS])
async def test_a_log_in_neither_counts_nor_resets_the_failed_attempts_of_its_address(app: Any, own: str) -> None:
    """Otherwise a user could guess the password of another user without a limit."""
    browser = Browser(app)
    tries = [own, *["wrong"] * 5] * 2 + [own]

    statuses = []
    for password in tries:
        browser.http.cookies.clear()
        statuses.append((await browser.log_in(password)).status_code)

    assert [*[303, *[401] * 5] * 2, 429] == statuses


@pytest.mark.parametrize(
    ("proxies", "lines", "expected"),
    [
        ("", [], "192.0.2.1"),
        ("", ["198.51.100.7"], "198.51.100.7"),
        ("", ["10.9.9.9", "198.51.100.7"], "198.51.100.7"),
        ("", ["10.9.9.9, 10.8.8.8, 198.51.100.7"], "198.51.100.7"),
        ("1", ["10.9.9.9", "10.8.8.8, 198.51.100.7"], "198.51.100.7"),
        ("2", ["10.9.9.9", "198.51.100.7, 203.0.113.4"], "198.51.100.7"),
        ("2", ["198.51.100.7"], "192.0.2.1"),  # it bypassed one of the two proxies
        ("0", ["198.51.100.7"], "192.0.2.1"),
        ("1", [" "], "192.0.2.1"),
    ],
)
async def test_the_client_address_is_the_one_that_our_routers_append(
    opened: Opened, environ: dict[str, str], redis: Redis, proxies: str, lines: list[str], expected: str
) -> None:
    app = await opened(environ | {"TRUSTED_PROXIES": proxies})
    browser = Browser(app)
    await browser.get("/console/login")
    form = {"token": browser.token, "password": "wrong"}

    await browser.http.post(
        "/console/login",
        data=form,
        headers=[*SAME_ORIGIN_HEADERS.items(), *(("x-forwarded-for", line) for line in lines)],
    )

    assert b"1" == await redis.command("GET", attempts_key(expected))
    [(_, fields)] = await redis.command("XRANGE", "bell:activity", "-", "+")
    assert f"last from {expected}".encode() in fields[7]


def test_a_peer_with_a_public_address_is_not_a_router() -> None:
    scope = {"type": "http", "headers": [(b"x-forwarded-for", b"198.51.100.7")]}

    def address_for(peer: str) -> str:
        return client_address(Request(scope | {"client": (peer, 1)}))

    for stranger in ("8.8.8.8", "2606:4700::1", "::ffff:8.8.8.8"):
        assert stranger == address_for(stranger)
    for router in ("10.1.2.3", "100.64.0.9", "169.254.8.1", "::1", "fdaa::3", "::ffff:10.1.2.3"):
        assert "198.51.100.7" == address_for(router)
    assert "198.51.100.7" == client_address(Request(scope | {"client": None}))  # a unix socket


def test_ipv6_addresses_of_one_network_share_a_count() -> None:
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


# -- users with names --

ADAS, GRACES = "a password of Ada", "a password of Grace"
NAMED_USERS = {
    "CONSOLE_PASSWORD_HASH": f"ada:{FAST_HASHER.hash(ADAS)} Grace@Example.com:{FAST_HASHER.hash(GRACES)}",
    "CONSOLE_VIEWER_PASSWORD_HASH": f"bob:{HASHES[VIEWERS]}",
}


@pytest.mark.parametrize(
    ("name", "password", "user"),
    [
        ("ada", ADAS, "ada, operator"),
        ("ADA", ADAS, "ada, operator"),
        ("grace@example.com", GRACES, "Grace@Example.com, operator"),
        ("bob", VIEWERS, "bob, viewer"),
    ],
)
async def test_a_user_logs_in_with_name_and_password(
    opened: Opened, environ: dict[str, str], name: str, password: str, user: str
) -> None:
    browser = Browser(await opened(environ | NAMED_USERS))

    response = await browser.log_in(password, name=name)

    assert 303 == response.status_code
    assert user in (await browser.get("/console")).text


@pytest.mark.parametrize(
    ("name", "password"), [("ada", GRACES), ("nobody", ADAS), ("", ADAS), ("ada", ""), ("bob", ADAS)]
)
async def test_a_password_is_valid_for_its_user_only(
    opened: Opened, environ: dict[str, str], name: str, password: str
) -> None:
    response = await Browser(await opened(environ | NAMED_USERS)).log_in(password, name=name)

    assert 401 == response.status_code
    assert "The name or the password is wrong." in response.text
    assert f'name="username" value="{name}"' in response.text  # it need not be typed again


async def test_a_shared_password_works_beside_those_of_users(opened: Opened, environ: dict[str, str]) -> None:
    environ["CONSOLE_VIEWER_PASSWORD_HASH"] = NAMED_USERS["CONSOLE_VIEWER_PASSWORD_HASH"]
    app = await opened(environ)

    assert [303, 303, 401] == [
        (await Browser(app).log_in(password, name=name)).status_code
        for name, password in (("", OPERATORS), ("bob", VIEWERS), ("bob", OPERATORS))
    ]


async def counted_for(redis: Redis, address: str = "192.0.2.1") -> int:
    """Return the attempts that were counted for an address, and forget them."""
    return int(await redis.command("GETDEL", attempts_key(address)) or 0)


async def test_a_browser_is_known_for_log_ins_of_its_user_only(
    opened: Opened, environ: dict[str, str], redis: Redis
) -> None:
    browser = Browser(await opened(environ | NAMED_USERS))
    counted = {}
    for role, name, password in (("viewer", "bob", VIEWERS), ("operator", "ada", ADAS)):
        await browser.log_in(password, name=name)
        await browser.post("/console/logout")
        await counted_for(redis)
        for other in ("bob", "ada", "grace@example.com", "nobody"):
            await browser.log_in("wrong", name=other)
            counted[role, other] = await counted_for(redis)

    assert [("viewer", "bob"), ("operator", "ada")] == [key for key, count in counted.items() if count == 0]
    assert 6 == sum(counted.values())


async def test_collected_cookies_give_a_viewer_no_more_attempts(
    opened: Opened, environ: dict[str, str], redis: Redis
) -> None:
    for variables, viewer, operator in ((NAMED_USERS, "bob", "ada"), ({}, "", "")):
        app, cookies, statuses = await opened(environ | variables), [], []
        for _ in range(3):
            browser = Browser(app)
            await browser.log_in(VIEWERS, name=viewer)
            cookies.append(browser.http.cookies[BROWSER_COOKIE])
        await counted_for(redis)
        for cookie in cookies * 4:
            guesser = Browser(app)
            guesser.http.cookies.set(BROWSER_COOKIE, cookie)
            statuses.append((await guesser.log_in("wrong", name=operator)).status_code)

        assert len(set(cookies)) == 3
        assert [401] * MAX_ATTEMPTS_PER_CLIENT + [429] * 2 == statuses
        await counted_for(redis)


async def test_a_new_password_makes_the_browser_of_its_user_unknown(
    opened: Opened, environ: dict[str, str], redis: Redis
) -> None:
    browser = Browser(await opened(environ | NAMED_USERS))
    await browser.log_in(ADAS, name="ada")
    counted = {}
    for case, name in (("removed", "eve"), ("changed", "ada"), ("same", "")):
        variables = NAMED_USERS | ({"CONSOLE_PASSWORD_HASH": f"{name}:{FAST_HASHER.hash('new')}"} if name else {})
        other = Browser(await opened(environ | variables))
        other.http.cookies.set(BROWSER_COOKIE, browser.http.cookies[BROWSER_COOKIE])
        await counted_for(redis)
        await other.log_in("wrong", name="ada")
        counted[case] = await counted_for(redis)

    assert {"removed": 1, "changed": 1, "same": 0} == counted


async def test_log_ins_and_failed_log_ins_are_activities_of_the_user(
    opened: Opened, environ: dict[str, str], redis: Redis
) -> None:
    app = await opened(environ | NAMED_USERS)
    for name, password in (("ada", "wrong"), ("ADA", "wrong"), ("a password typed as name", "x"), ("ada", ADAS)):
        await Browser(app).log_in(password, name=name)

    entries = [fields for _, fields in await redis.command("XRANGE", "bell:activity", "-", "+")]

    assert [
        (b"ada", b"failed to log in", b"2 wrong passwords within 15 minutes, last from 192.0.2.1"),
        (b"unknown user", b"failed to log in", b"1 wrong password within 15 minutes, last from 192.0.2.1"),
        (b"ada", b"logged in", b"from 192.0.2.1"),
    ] == [(fields[1], fields[5], fields[7]) for fields in entries]


async def test_a_removed_user_has_no_session(opened: Opened, environ: dict[str, str]) -> None:
    named = await opened(environ | NAMED_USERS)
    ada, grace = Browser(named), Browser(named)
    await ada.log_in(ADAS, name="ada")
    await grace.log_in(GRACES, name="grace@example.com")
    without_ada = NAMED_USERS | {"CONSOLE_PASSWORD_HASH": NAMED_USERS["CONSOLE_PASSWORD_HASH"].split()[1]}
    app = await opened(environ | without_ada)

    async def status(browser: Browser) -> int:
        cookie = {"cookie": f"{SESSION_COOKIE}={browser.http.cookies[SESSION_COOKIE]}"}
        return (await Browser(app).get("/console", headers=cookie)).status_code

    assert [303, 200] == [await status(ada), await status(grace)]


async def test_failed_log_ins_share_one_activity_with_their_count(app: Any, redis: Redis) -> None:
    await Browser(app).log_in()
    for number in range(7):
        await Browser(app, **{"x-forwarded-for": f"203.0.113.{number}"}).log_in("wrong")

    entries = [fields for _, fields in await redis.command("XRANGE", "bell:activity", "-", "+")]

    assert [b"logged in", b"failed to log in"] == [fields[5] for fields in entries]
    assert b"7 wrong passwords within 15 minutes, last from 203.0.113.6" == entries[1][7]

    await redis.command("DEL", "bell:login-attempts:failed")  # 15 minutes later
    await Browser(app).log_in("wrong")

    assert 3 == await redis.command("XLEN", "bell:activity")


async def test_a_large_log_in_form_is_answered_413(app: Any) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(160):
            yield b"x" * 65_536

    browser = Browser(app)
    claimed = await browser.http.post("/console/login", content=b"x" * 10_000_000, headers=SAME_ORIGIN_HEADERS)
    streamed = await browser.http.post("/console/login", content=endless(), headers=SAME_ORIGIN_HEADERS)

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
async def test_log_in_redirects_to_pages_of_the_console_only(app: Any, expected: str, target: str) -> None:
    assert expected == safe_redirect_target(target)

    response = await Browser(app).log_in(to=target)

    assert (303, expected) == (response.status_code, response.headers["location"])


# -- a trusted proxy --


async def test_the_user_header_of_a_proxy_needs_its_secret(opened: Opened, environ: dict[str, str]) -> None:
    proxied = {
        **{name: value for name, value in environ.items() if not name.startswith("CONSOLE")},
        "CONSOLE_PROXY_HEADER": "X-Forwarded-User",
        "CONSOLE_PROXY_SECRET": "a secret of the proxy",
        "CONSOLE_PROXY_OPERATORS": "ada@example.com",
    }
    app = await opened(proxied)
    secret = {"x-doorbell-proxy-secret": "a secret of the proxy"}

    async def response_to(*headers: tuple[str, str]) -> tuple[int, bool]:
        response = await Browser(app).http.get("/console/failures", headers=list(headers))
        return response.status_code, "operator" in response.text

    user, proxy_secret = ("x-forwarded-user", "ada@example.com"), next(iter(secret.items()))
    assert (200, True) == await response_to(user, proxy_secret)
    assert (200, False) == await response_to(("x-forwarded-user", "grace@example.com"), proxy_secret)
    assert 303 == (await response_to(user))[0]
    assert 303 == (await response_to(user, ("x-doorbell-proxy-secret", "another")))[0]
    assert 303 == (await response_to(user, user, proxy_secret))[0]
    assert 303 == (await response_to(proxy_secret))[0]


async def test_a_user_of_the_proxy_is_recorded_once(opened: Opened, environ: dict[str, str], redis: Redis) -> None:
    proxied = {
        "CONSOLE_PROXY_HEADER": "X-Forwarded-User",
        "CONSOLE_PROXY_SECRET": "a secret of the proxy",
        "CONSOLE_PROXY_OPERATORS": "ada@example.com",
    }
    app, secret = await opened(environ | proxied), "a secret of the proxy"
    for name in ("ada@example.com", "grace", "ada@example.com"):
        browser = Browser(app, **{"x-doorbell-proxy-secret": secret, "x-forwarded-user": name})
        for path in ("/console", "/console/visits"):
            assert 200 == (await browser.get(path)).status_code

    entries = [fields for _, fields in await redis.command("XRANGE", "bell:activity", "-", "+")]
    logins = [(fields[1], fields[3], fields[7]) for fields in entries if fields[5] == b"logged in"]
    assert [
        (b"ada@example.com", b"operator", b"through the proxy"),
        (b"grace", b"viewer", b"through the proxy"),
    ] == logins
