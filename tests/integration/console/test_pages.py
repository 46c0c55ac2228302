"""The pages of the console."""

import html
import re
import threading
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from itsdangerous import TimestampSigner
from jinja2 import Template

from app.console.pages import erasure
from app.console.sessions import SESSION_COOKIE
from app.ledger.ledger import Ledger
from app.ledger.records import Attempt, Outcome
from app.ledger.redis import Redis
from app.operators import redaction
from tests.support.cases import each
from tests.support.console import KEY, PAGES, Browser, Opened, activities, main_text, path_of
from tests.support.harness import sign_standard, standard_body
from tests.support.ledger import start_run


async def test_a_revealed_field_of_a_body_is_shown_and_recorded(app: Any, delivery: str, redis: Redis) -> None:
    operator = Browser(app)
    await operator.log_in()
    path = f"/console/deliveries/{delivery}"

    hidden = await operator.get(path)
    other_field = await operator.post(f"{path}/reveal", {"field": "data.contact.first_name"})
    shown = await operator.post(f"{path}/reveal", {"field": "data.contact.email"})
    everything = await operator.post(f"{path}/reveal", {"field": "*"})
    reloaded = await operator.get(path)

    pages = (hidden, other_field, shown, everything, reloaded)
    assert [False, False, True, True, False] == ["ada@example.com" in page.text for page in pages]
    assert [False, True, False, True, False] == ["Countess" in page.text for page in pages]
    assert "visit.created" in hidden.text
    assert [
        (b"revealed delivery", f"{delivery}: {field}".encode())
        for field in ("data.contact.first_name", "data.contact.email", "all of the body")
    ] == await activities(redis)


async def test_a_revealed_field_of_a_visit_is_shown_and_recorded(app: Any, delivery: str, redis: Redis) -> None:
    operator = Browser(app)
    await operator.log_in()
    path = "/console/visits/standard-A-1042"

    hidden = await operator.get(path)
    shown = await operator.post(f"{path}/reveal", {"field": "contact.email"})

    assert [0, 2] == [page.text.count("ada@example.com") for page in (hidden, shown)]  # in the fact and in its change
    assert "Countess" not in shown.text
    assert [(b"revealed visit", b"standard-A-1042: contact.email")] == await activities(redis)


@each("field", ["", "ada@example.com", "a b", "x" * 201, "**"])
async def test_an_invalid_field_name_reveals_nothing(app: Any, delivery: str, redis: Redis, field: str) -> None:
    operator = Browser(app)
    await operator.log_in()

    response = await operator.post(f"/console/deliveries/{delivery}/reveal", {"field": field})

    assert 404 == response.status_code
    assert [] == await activities(redis)


@each("path", ["/console/search?q={}", "/console/visits/{}", "/console/deliveries/{}", "/console/sources/{}"])
async def test_html_in_a_url_is_escaped(app: Any, path: str) -> None:
    operator = Browser(app)
    await operator.log_in()

    response = await operator.get(path.format("%3Cscript%3Ealert(1)%3C%2Fscript%3E%22%27%3E"))

    assert response.status_code in (200, 404)
    assert "<script>alert" not in response.text


@pytest.mark.parametrize(
    "path",
    [
        *(f"/console/deliveries?cursor={value}" for value in ("nan_x", "inf_", "-inf_x", "1e400_", "9" * 400, "%00")),
        *(
            f"/console/deliveries?since={value}"
            for value in ("0001-01-01T00:00", "9999-99-99", "9999-12-31T23:59", "x")
        ),
        *(f"/console/activity?cursor={value}" for value in ("x", "1-1-1", "%0d%0a", "9" * 30 + "-1")),
        "/console/deliveries?state=deliveries:standard",
        "/console/plan?do=replay&state=jobs",
        "/console/plan?do=x&since=0001-01-01T00:00",
        "/console/deliveries/newer?newest=" + "9" * 400,
        "/console/search?q=%ff%00",
    ],
)
async def test_invalid_query_values_are_ignored(app: Any, delivery: str, path: str) -> None:
    operator = Browser(app)
    await operator.log_in()

    assert 200 == (await operator.get(path)).status_code


async def test_an_invalid_operation_form_starts_nothing(app: Any, delivery: str, redis: Redis) -> None:
    operator = Browser(app)
    await operator.log_in()

    for form in (
        {"do": "discard", "state": "deliveries:standard", "expected": "1"},
        {"do": "replay", "state": "parked", "expected": "5"},
        {"do": "replay", "state": "parked", "expected": "0", "until": "9" * 15, "confirm": "0"},
    ):
        await operator.post("/console/operations", form)

    assert [] == await redis.command("KEYS", "bell:operation*")


@each("do", ["replay", "discard"])
@each("query", ["", "&ids=", "&ids=%20", "&state=", "&state=nonsense", "&cursor=5_x", "&until=5", "&all=0"])
async def test_an_operation_without_selection_is_rejected(
    app: Any, delivery: str, redis: Redis, do: str, query: str
) -> None:
    operator = Browser(app)
    await operator.log_in()

    plan = await operator.get(f"/console/plan?do={do}{query}")
    await operator.get("/console/settings")
    form = dict(parse_qsl(f"do={do}{query}", keep_blank_values=True))
    responses = [await operator.post("/console/operations", form | {"expected": number}) for number in ("0", "1")]

    assert "Nothing is selected" in plan.text
    assert "/console/operations" not in plan.text.partition("<main")[2]
    assert [409, 409] == [response.status_code for response in responses]
    assert [] == await redis.command("KEYS", "bell:operation*")
    assert [] == await activities(redis)


@pytest.mark.parametrize("text", ["standard-A-1042", "A-1042", "id"])
async def test_deliveries_are_filtered_and_replayed_by_a_visit_or_an_id(
    app: Any, delivery: str, redis: Redis, text: str
) -> None:
    other = standard_body("visit.created", "B-7", contact={"email": "ben@example.com"})
    operator = Browser(app)
    await operator.http.post("/hooks/standard", content=other, headers=sign_standard(other))
    await operator.log_in()

    query = urlencode({"search": delivery if text == "id" else text})
    page = await operator.get(f"/console/deliveries?{query}")
    nothing = await operator.get("/console/deliveries?search=C-9")
    [address] = re.findall(r'id="all" href="([^"]+)"', page.text)
    plan = await operator.get(html.unescape(address))
    response = await operator.post("/console/operations", dict(re.findall(r'name="(\w+)" value="([^"]*)"', plan.text)))

    assert "1 match" in page.text
    assert ["standard-A-1042"] == re.findall(r'href="/console/visits/([\w-]+)"', page.text)
    assert "No delivery matches this filter" in nothing.text
    assert "Replay 1: the plan" in plan.text
    assert 303 == response.status_code


@pytest.mark.parametrize("path", ["/console/deliveries?state=ignored", "/console/failures?reason=bug"])
async def test_a_page_that_stops_its_search_says_so_and_continues_on_request(
    app: Any, delivery: str, redis: Redis, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr("app.operators.lists.MAX_SCANNED", 1)
    await redis.command("ZADD", "bell:state:parked", 1, f"event:{delivery}")
    operator = Browser(app)
    await operator.log_in()

    page = await operator.get(path)
    [address] = re.findall(r'href="([^"]+)">Search further back', page.text)
    next_page = await operator.get(html.unescape(address))

    assert "matches so far." in page.text
    assert "matches so far." not in next_page.text
    assert "Search further back" not in next_page.text


@pytest.mark.parametrize("query", ["source=standard", "since=2001-01-01T00:00Z"])
async def test_a_page_of_very_many_failures_counts_only_the_newest(
    app: Any, redis: Redis, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    monkeypatch.setattr("app.operators.lists.MAX_GROUPED", 3)
    monkeypatch.setattr("app.console.pages.failures.MAX_GROUPED", 3)
    monkeypatch.setattr("app.operators.lists.REASON_BATCH", 1)
    for number in range(60):
        fields = {"state": "parked", "reason": "time_unknown", "pending_since": 1_700_000_000_000}
        pairs = (part for pair in fields.items() for part in pair)
        await redis.command("HSET", f"bell:visit:main/standard-{number}", *pairs)
        await redis.command("ZADD", "bell:state:parked", number, f"visit:main/standard-{number}")
    operator = Browser(app)
    await operator.log_in()

    some, everything = await operator.get(f"/console/failures?{query}"), await operator.get("/console/failures")

    assert "at least 50 matches" in some.text
    assert "Replay all…" in some.text
    assert "any (60)" in everything.text
    assert "Replay all 60…" in everything.text


async def test_the_replay_all_link_plans_and_starts_an_operation(app: Any, delivery: str, redis: Redis) -> None:
    operator = Browser(app)
    await operator.log_in()
    page = await operator.get("/console/deliveries")
    [address] = re.findall(r'id="all" href="([^"]+)"', page.text)

    plan = await operator.get(html.unescape(address))
    form = dict(re.findall(r'name="(\w+)" value="([^"]*)"', plan.text))
    response = await operator.post("/console/operations", form)

    assert "Replay 1: the plan" in plan.text
    assert 303 == response.status_code
    assert 1 == await redis.command("ZCARD", "bell:operations")


@pytest.mark.parametrize(
    "data",
    ["[" + "1," * 100_000 + "1]", "[" * 400 + "]" * 400, '{"a":' * 260 + '"x"' + "}" * 260],
    ids=["wide", "deep", "text"],
)
async def test_the_page_of_an_unusual_body_is_bounded(app: Any, data: str) -> None:
    raw = b'{"type":"visit.touched","data":%b}' % data.encode()
    operator = Browser(app)
    delivered = await operator.http.post("/hooks/standard", content=raw, headers=sign_standard(raw))
    await operator.log_in()
    path = f"/console/deliveries/{delivered.json()['delivery']}"

    hidden, everything = await operator.get(path), await operator.post(f"{path}/reveal", {"field": "*"})

    assert (200, 200) == (hidden.status_code, everything.status_code)
    assert len(hidden.text) < 2_000_000
    assert data.count("1") == everything.text.partition('aria-label="Body of the delivery">')[2].partition("</pre>")[
        0
    ].count("1")


async def test_pages_are_rendered_outside_the_event_loop(
    app: Any, delivery: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, threads = Browser(app), set[bool]()
    await operator.log_in()
    original_render, body = Template.render, redaction.redact_body

    def render_recorded(*args: Any, **kwargs: Any) -> str:
        threads.add(threading.current_thread() is threading.main_thread())
        return original_render(*args, **kwargs)

    def redact_recorded(*args: Any) -> Any:
        threads.add(threading.current_thread() is threading.main_thread())
        return body(*args)

    monkeypatch.setattr(Template, "render", render_recorded)
    monkeypatch.setattr(redaction, "redact_body", redact_recorded)
    for page in (page for page in PAGES if page.path != "/console/stream"):
        await operator.get(path_of(page, delivery))

    assert {False} == threads


async def test_an_event_that_cannot_be_translated_waits_for_no_worker(app: Any) -> None:
    raw = b'{"type":"visit.created","data":{}}'
    operator = Browser(app)
    delivered = await operator.http.post("/hooks/standard", content=raw, headers=sign_standard(raw))
    await operator.log_in()

    page = await operator.get(f"/console/deliveries/{delivered.json()['delivery']}")

    assert "Needs attention since it arrived: The event cannot be understood" in page.text
    assert "waits for a worker" not in page.text.lower()
    advice = page.text.partition('aria-label="What to do"')[2].partition("</section>")[0]
    assert "<li>Make the change in Review Rover by hand.</li>" in advice


async def test_a_failure_quotes_what_the_api_says(app: Any, delivery: str) -> None:
    ledger: Ledger = app.state.services.ledger
    answered = Attempt(
        started_at_ms=1,
        took_ms=1,
        outcome="http_4xx",
        calls=[("POST", "/contacts", 422)],
        response_text='{"error":"unprocessable","detail":"email must be an e-mail address"}',
    )
    outcome = Outcome(state="parked", attempt=answered, reason="POST /contacts: 422", failed_attempts=1)
    await ledger.complete(await start_run(ledger, "A-1042"), outcome)
    operator = Browser(app)
    await operator.log_in()

    pages = ("/console/visits/standard-A-1042", f"/console/deliveries/{delivery}")
    texts = [(await operator.get(page)).text for page in pages]
    listed = (await operator.get("/console/failures")).text

    assert [1, 1] == [text.count("It says: “email must be an e-mail address”") for text in texts]
    assert "“email must be an e-mail address”" in listed
    assert (True, False) == (">Enter another e-mail address…</a>" in texts[0], ">Replay…</a>" in texts[0])


async def test_a_replay_of_rejected_values_says_when_it_helps(app: Any, delivery: str) -> None:
    ledger: Ledger = app.state.services.ledger
    outcome = Outcome(state="parked", attempt=None, reason="POST /visits: 422", failed_attempts=1)
    await ledger.complete(await start_run(ledger, "A-1042"), outcome)
    operator = Browser(app)
    await operator.log_in()

    page = (await operator.get("/console/visits/standard-A-1042")).text

    assert "<li>Replay the failure if the API now accepts these values.</li>" in page
    assert ">Replay…</a>" in page


async def test_an_accepted_delivery_waits_for_a_worker(app: Any, delivery: str) -> None:
    operator = Browser(app)
    await operator.log_in()

    page = await operator.get(f"/console/deliveries/{delivery}")

    assert "Waits for a worker" in page.text


async def test_the_page_of_a_discarded_visit_shows_what_was_discarded(app: Any, delivery: str, redis: Redis) -> None:
    operator = Browser(app)
    await operator.log_in()
    await app.state.services.ledger.discard("visit:main/standard-A-1042")

    page = (await operator.get("/console/visits/standard-A-1042")).text

    discarded = page.partition('id="discarded"')[2].partition("</section>")[0]
    assert delivery in discarded
    assert "E-mail address" in discarded
    assert "ada@example.com" not in page
    assert page.count("<thead>") == 1  # no table without rows


async def test_html_in_a_delivery_is_escaped(app: Any) -> None:
    markup = "<img src=x onerror=alert(1)>"
    raw = standard_body(
        f"visit.{markup}", markup, contact={"email": "ada@example.com", "first_name": markup}, **{markup: markup}
    )
    browser = Browser(app)
    delivered = await browser.http.post("/hooks/standard", content=raw, headers=sign_standard(raw))
    await browser.log_in()
    id = delivered.json()["delivery"]

    pages = [await browser.get(path) for path in ("/console", "/console/deliveries", "/console/failures")]
    pages += [
        await browser.get(f"/console/deliveries/{id}"),
        await browser.post(f"/console/deliveries/{id}/reveal", {"field": "*"}),
    ]

    assert {200} == {page.status_code for page in pages}
    assert [] == [page.url for page in pages if "<img" in page.text]


@each("name", ["..%2f..%2faccess.py", "%2e%2e/access.py", "access.py", "", "console.css%00", "vendor.json"])
async def test_only_static_files_are_served(app: Any, name: str) -> None:
    response = await Browser(app).get(f"/console/static/v/{name}")

    assert 404 == response.status_code


async def test_a_preference_with_line_breaks_adds_no_header(app: Any) -> None:
    operator = Browser(app)
    await operator.log_in()

    response = await operator.post("/console/settings", {"theme": "dark\r\nset-cookie: x=y", "keys": "off"})

    assert 303 == response.status_code
    assert "x=y" not in str(response.headers)


async def test_a_page_without_redis_shows_the_cause_to_users_with_a_session(
    opened: Opened, environ: dict[str, str]
) -> None:
    app = await opened({**environ, "REDIS_URL": "redis://127.0.0.1:9/0"})
    cookie = TimestampSigner(KEY, salt="doorbell console session").sign("session").decode()

    stranger = await Browser(app).get("/console")
    insider = await Browser(app).get("/console", headers={"cookie": f"{SESSION_COOKIE}={cookie}"})

    assert (503, 503) == (stranger.status_code, insider.status_code)
    assert "Redis is unavailable" in stranger.text
    assert "127.0.0.1:9" not in stranger.text
    assert "127.0.0.1:9" in insider.text


async def test_a_count_of_attempts_without_a_ttl_gets_one(app: Any, redis: Redis) -> None:
    await redis.command("SET", "bell:login-attempts", 3)

    await Browser(app).log_in("a wrong password")

    assert b"4" == await redis.command("GET", "bell:login-attempts")
    assert 0 < await redis.command("TTL", "bell:login-attempts") <= 900


async def test_a_person_is_erased_after_the_address_is_typed_again(app: Any, delivery: str, redis: Redis) -> None:
    operator = Browser(app)
    await operator.log_in()

    async def submit(**form: str) -> tuple[int, str]:
        response = await operator.post("/console/settings/erasure", form)
        [message] = re.findall(
            r"neither an e-mail|Nothing is stored|would be erased|confirmation does not match|Erased\.", response.text
        )[:1]
        return response.status_code, message

    person = " Ada@Example.com"
    assert (409, "neither an e-mail") == await submit(person="ada")
    assert (200, "Nothing is stored") == await submit(person="grace@example.com", confirm="grace@example.com")
    assert (200, "would be erased") == await submit(person=person)
    assert (409, "confirmation does not match") == await submit(person=person, confirm="ada")
    assert "ada@example.com" in await raw_body(operator, delivery)
    assert (200, "Erased.") == await submit(person=person, confirm="Ada@Example.com")

    assert "its body was erased" in await raw_body(operator, delivery)
    [(action, target)] = [line for line in await activities(redis) if b"revealed" not in line[0]]
    assert b"erased person" == action
    assert re.fullmatch(rb"\S+: 1 visits, 1 deliveries", target)
    assert b"ada" not in target


ERASE = {"person": "ada@example.com", "confirm": "ada@example.com"}


async def test_an_erasure_on_a_page_has_a_time_limit(app: Any, delivery: str, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = Browser(app)
    await operator.log_in()
    monkeypatch.setattr(erasure, "TIMEOUT_S", 0.0)

    response = await operator.post("/console/settings/erasure", ERASE)

    assert 409 == response.status_code
    assert "nothing was erased: use `doorbell erase`" in html.unescape(response.text)
    assert "ada@example.com" in await raw_body(operator, delivery)


async def test_an_erasure_on_a_page_names_what_a_worker_runs(
    app: Any, delivery: str, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = Browser(app)
    await operator.log_in()
    task = "visit:main/standard-A-1042"
    assert not isinstance(await Ledger(redis, 30).lease(task), str)
    monkeypatch.setattr(erasure, "BUSY_TIMEOUT_S", 0.1)

    response = await operator.post("/console/settings/erasure", ERASE)
    preview = main_text((await operator.post("/console/settings/erasure", {"person": "ada@example.com"})).text)

    text = main_text(response.text)
    assert f"Not erased, because these tasks run, or their account moves to another cell: {task}." in text
    assert "Later events still match" not in text
    assert "deliveries 1 body and headers erased" in text
    assert "visits 1 contact" not in text
    assert "visits 1 contact and quoted responses erased" in preview
    assert "its body was erased" in await raw_body(operator, delivery)


async def test_an_erasure_on_a_page_that_ends_too_late_says_so(
    app: Any, delivery: str, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = Browser(app)
    await operator.log_in()
    assert not isinstance(await Ledger(redis, 30).lease("visit:main/standard-A-1042"), str)
    monkeypatch.setattr(erasure, "TIMEOUT_S", 3.0)
    monkeypatch.setattr(erasure, "BUSY_TIMEOUT_S", 60.0)

    response = await operator.post("/console/settings/erasure", ERASE)

    assert 409 == response.status_code
    assert "a part of the data may be erased: use `doorbell erase`" in html.unescape(response.text)


async def raw_body(operator: Browser, delivery: str) -> str:
    return (await operator.post(f"/console/deliveries/{delivery}/reveal", {"field": "*"})).text
