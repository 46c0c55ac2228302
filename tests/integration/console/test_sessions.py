"""Sessions: cookies, ends, rotation of keys."""

import hashlib
import json
from typing import Any

import pytest
from itsdangerous import TimestampSigner

from app.console.sessions import SESSION_COOKIE
from app.ledger.redis import Redis
from tests.support.console import _CHEAP, HASHES, KEY, OPERATORS, VIEWERS, Browser, Opened, noted


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
    await redis.command("SET", "bell:session:session", json.dumps(session))
    ours = TimestampSigner(KEY, salt="doorbell console session").sign("session").decode()

    answers = [
        await Browser(app).get("/console", headers={"cookie": f"{SESSION_COOKIE}={one}"}) for one in (cookie, ours)
    ]

    assert [303, 200] == [answer.status_code for answer in answers]


@pytest.mark.parametrize("password", [{}, {"password": ""}, {"password": None}, {"password": "0" * 32}], ids=str)
async def test_a_session_of_no_password_is_over(app: Any, redis: Redis, password: dict[str, Any]) -> None:
    await redis.command("SET", "bell:session:session", json.dumps({"name": "x", "role": "operator", **password}))
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

    [key] = await redis.command("KEYS", "bell:session:*")
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
    assert 1 == len(await redis.command("KEYS", "bell:session:*"))


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
    assert [] == await redis.command("KEYS", "bell:session*")
    assert (b"ended all sessions", b"3 of them") in await noted(redis)
    assert 303 == (await viewer.log_in(VIEWERS)).status_code
