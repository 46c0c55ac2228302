"""What the pages show."""

import html
import re
import threading
from typing import Any
from urllib.parse import parse_qsl

import pytest
from itsdangerous import TimestampSigner
from jinja2 import Template

from app.console.pages import erasure
from app.console.sessions import SESSION_COOKIE
from app.ledger.redis import Redis
from app.operators import redaction
from tests.support.console import KEY, PAGES, Browser, Opened, noted, path_of
from tests.support.harness import sign_standard, standard_body


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
        (b"revealed delivery", f"{delivery}: {field}".encode())
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
    assert [(b"revealed visit", b"standard-A-1042: contact.email")] == await noted(redis)


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

    assert [] == await redis.command("KEYS", "bell:operation*")


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

    assert "Nothing is selected" in planned.text
    assert "/console/operations" not in planned.text.partition("<main")[2]
    assert [409, 409] == [answer.status_code for answer in started]
    assert [] == await redis.command("KEYS", "bell:operation*")
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
    assert 1 == await redis.command("ZCARD", "bell:operations")


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
    assert "Redis is unavailable" in stranger.text
    assert "127.0.0.1:9" not in stranger.text
    assert "127.0.0.1:9" in insider.text


async def test_a_count_of_attempts_that_lost_its_end_gets_another(app: Any, redis: Redis) -> None:
    await redis.command("SET", "bell:login-attempts", 3)

    await Browser(app).log_in("a wrong password")

    assert b"4" == await redis.command("GET", "bell:login-attempts")
    assert 0 < await redis.command("TTL", "bell:login-attempts") <= 900


async def test_a_person_is_erased_after_the_address_is_typed_again(app: Any, delivery: str, redis: Redis) -> None:
    operator = Browser(app)
    await operator.log_in()

    async def said(**form: str) -> tuple[int, str]:
        answer = await operator.post("/console/erasure", form)
        [told] = re.findall(
            r"neither an e-mail|Nothing is stored|would be erased|confirmation is different|Erased\.", answer.text
        )[:1]
        return answer.status_code, told

    whom = " Ada@Example.com"
    assert (409, "neither an e-mail") == await said(person="ada")
    assert (200, "Nothing is stored") == await said(person="grace@example.com", confirm="grace@example.com")
    assert (200, "would be erased") == await said(person=whom)
    assert (409, "confirmation is different") == await said(person=whom, confirm="ada")
    assert "ada@example.com" in await raw_body(operator, delivery)
    assert (200, "Erased.") == await said(person=whom, confirm="Ada@Example.com")

    assert "its body was erased" in await raw_body(operator, delivery)
    [(did, what)] = [line for line in await noted(redis) if b"revealed" not in line[0]]
    assert b"erased person" == did
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
        assert ("erased already" in answer.text) == ("confirm" in form)


async def raw_body(operator: Browser, delivery: str) -> str:
    return (await operator.post(f"/console/deliveries/{delivery}/reveal", {"field": "*"})).text
