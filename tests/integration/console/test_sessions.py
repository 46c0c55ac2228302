"""Sessions: cookies, log-out, rotation of keys."""

import hashlib
import json
from typing import Any

import pytest
from itsdangerous import TimestampSigner

from app.console.sessions import SESSION_COOKIE
from app.ledger.redis import Redis
from tests.support.console import FAST_HASHER, HASHES, KEY, OPERATORS, VIEWERS, Browser, Opened, activities


async def test_the_cookie_has_its_security_attributes(app: Any) -> None:
    response = await Browser(app).log_in()

    cookie = response.headers["set-cookie"].lower()
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
    # A signature contains the time: every process of pytest-xdist needs the same ids.
    ids=["no signature", "no time", "another key", "another use", "no such session", "no key"],
)
async def test_a_forged_cookie_is_ignored(app: Any, redis: Redis, cookie: str) -> None:
    password = hashlib.sha256(HASHES[OPERATORS].encode()).hexdigest()[:32]
    session = {"name": "x", "role": "operator", "password": password}
    await redis.command("SET", "bell:session:session", json.dumps(session))
    valid = TimestampSigner(KEY, salt="doorbell console session").sign("session").decode()

    responses = [
        await Browser(app).get("/console", headers={"cookie": f"{SESSION_COOKIE}={value}"}) for value in (cookie, valid)
    ]

    assert [303, 200] == [response.status_code for response in responses]


@pytest.mark.parametrize("password", [{}, {"password": ""}, {"password": None}, {"password": "0" * 32}], ids=str)
async def test_a_session_without_a_current_password_has_ended(app: Any, redis: Redis, password: dict[str, Any]) -> None:
    await redis.command("SET", "bell:session:session", json.dumps({"name": "x", "role": "operator", **password}))
    cookie = TimestampSigner(KEY, salt="doorbell console session").sign("session").decode()

    assert 303 == (await Browser(app).get("/console", headers={"cookie": f"{SESSION_COOKIE}={cookie}"})).status_code


@pytest.mark.parametrize(
    "template",
    ["{}", "a=1; {}", "{}; a=1", 'a="1; 2"; {}', "{};", " ; =; a; {} ", "x{0}x; {0}", 'doorbell-theme="{}; {}'],
    ids=["alone", "last", "first", "quoted", "semicolon", "blanks", "other names", "open quote"],
)
async def test_the_session_cookie_is_parsed_among_others(app: Any, template: str) -> None:
    operator = Browser(app)
    await operator.log_in()
    own_cookie = f"{SESSION_COOKIE}={operator.http.cookies[SESSION_COOKIE]}"

    response = await Browser(app).get("/console", headers={"cookie": template.format(own_cookie, own_cookie)})

    assert 200 == response.status_code


@pytest.mark.parametrize("header", ["a={0}", "{0}", f"{SESSION_COOKIE}-x={{0}}", f"x{SESSION_COOKIE}={{0}}"])
async def test_a_cookie_with_another_name_is_ignored(app: Any, header: str) -> None:
    operator = Browser(app)
    await operator.log_in()

    response = await Browser(app).get(
        "/console", headers={"cookie": header.format(operator.http.cookies[SESSION_COOKIE])}
    )

    assert 303 == response.status_code


@pytest.mark.parametrize("lines", [1, 8], ids=["one header", "several headers"])
async def test_too_many_bytes_of_cookies_are_answered_431(app: Any, lines: int) -> None:
    # Python before 3.11.10 parses quoted values in quadratic time (CVE-2024-7592).
    operator = Browser(app)
    await operator.log_in()
    own_cookie = f"{SESSION_COOKIE}={operator.http.cookies[SESSION_COOKIE]}"
    backslashes = "\\" * (60_000 // lines)
    cookies = [("cookie", f'a{line}="{backslashes}"') for line in range(lines)]

    response = await Browser(app).http.get("/console", headers=[*cookies, ("cookie", own_cookie)])

    assert 431 == response.status_code
    assert "more than 8192 bytes of cookies" in response.text


async def test_a_deleted_session_has_ended(app: Any, redis: Redis) -> None:
    operator = Browser(app)
    await operator.log_in()
    assert 200 == (await operator.get("/console")).status_code

    [key] = await redis.command("KEYS", "bell:session:*")
    assert 43_100 < await redis.command("TTL", key) <= 43_200
    await redis.command("DEL", key)

    assert 303 == (await operator.get("/console")).status_code


async def test_log_out_ends_the_session_on_the_server(app: Any) -> None:
    operator = Browser(app)
    await operator.log_in()
    cookie = operator.http.cookies[SESSION_COOKIE]

    await operator.post("/console/logout")

    assert 303 == (await Browser(app).get("/console", headers={"cookie": f"{SESSION_COOKIE}={cookie}"})).status_code


async def test_log_in_replaces_the_session(app: Any, redis: Redis) -> None:
    # Otherwise an attacker could fix the session before the user logs in.
    operator = Browser(app)
    await operator.log_in()
    first = operator.http.cookies[SESSION_COOKIE]
    await operator.get("/console/settings")
    await operator.post("/console/login", {"password": OPERATORS})

    assert first != operator.http.cookies[SESSION_COOKIE]
    assert 1 == len(await redis.command("KEYS", "bell:session:*"))


async def test_a_rotated_key_is_valid_until_it_is_removed(opened: Opened, environ: dict[str, str]) -> None:
    operator = Browser(await opened(environ))
    await operator.log_in()
    cookie = {"cookie": f"{SESSION_COOKIE}={operator.http.cookies[SESSION_COOKIE]}"}

    rotated = Browser(await opened({**environ, "SECRET_KEY": f"a-new-key-of-ours {KEY}"}))
    without_old_key = Browser(await opened({**environ, "SECRET_KEY": "a-new-key-of-ours"}))

    assert 200 == (await rotated.get("/console", headers=cookie)).status_code
    assert 303 == (await without_old_key.get("/console", headers=cookie)).status_code


async def test_a_removed_password_ends_its_sessions(opened: Opened, environ: dict[str, str]) -> None:
    viewer = Browser(await opened(environ))
    await viewer.log_in(VIEWERS)
    cookie = {"cookie": f"{SESSION_COOKIE}={viewer.http.cookies[SESSION_COOKIE]}"}
    del environ["CONSOLE_VIEWER_PASSWORD_HASH"]

    assert 303 == (await Browser(await opened(environ)).get("/console", headers=cookie)).status_code


async def test_a_changed_password_ends_its_sessions(opened: Opened, environ: dict[str, str]) -> None:
    old_app = await opened(environ)
    operator, viewer = Browser(old_app), Browser(old_app)
    await operator.log_in()
    await viewer.log_in(VIEWERS)
    environ["CONSOLE_PASSWORD_HASH"] = FAST_HASHER.hash("another password")
    new_app = await opened(environ)

    async def status(browser: Browser) -> int:
        cookie = {"cookie": f"{SESSION_COOKIE}={browser.http.cookies[SESSION_COOKIE]}"}
        return (await Browser(new_app).get("/console", headers=cookie)).status_code

    assert (303, 200) == (await status(operator), await status(viewer))


async def test_all_sessions_can_be_ended_at_once(app: Any, redis: Redis) -> None:
    operators, viewer = [Browser(app), Browser(app)], Browser(app)
    for operator in operators:
        await operator.log_in()
    await viewer.log_in(VIEWERS)
    browsers = (*operators, viewer)

    page = await operators[0].get("/console/settings")
    response = await operators[0].post("/console/sessions/end")

    assert "3 open." in page.text
    assert (303, "/console/login") == (response.status_code, response.headers["location"])
    assert [303] * 3 == [(await browser.get("/console")).status_code for browser in browsers]
    assert [] == await redis.command("KEYS", "bell:session*")
    assert (b"ended all sessions", b"3 of them") in await activities(redis)
    assert 303 == (await viewer.log_in(VIEWERS)).status_code
