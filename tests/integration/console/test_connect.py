"""Connecting a tool in the console, against fakes of the tools over HTTP."""

import asyncio
import html
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse

from app.connections import connector
from app.console.pages import connect
from app.ledger.redis import Redis
from app.telemetry import arrivals
from app.vendors.vendor import Faults, Vendor
from app.webhooks.registry import load_sources
from tests.support.cases import each
from tests.support.console import VIEWERS, Browser, Opened, activities, main_text
from tests.support.harness import sign_calendly
from tests.support.intake import new_event_body
from tests.support.vendors import serve_vendor

TOKEN = "token-of-the-account"
WRONG_TOKEN = "canary-token-that-is-wrong"


@pytest.fixture
def environ(environ: dict[str, str]) -> dict[str, str]:
    del environ["HOOKS__CALENDLY__SECRETS"]
    return environ | {"PUBLIC_URL": "https://doorbell.example.com", "SECRET_KEY": "key-of-the-tests-" * 2}


@pytest.fixture
async def operator(app: Any) -> Browser:
    browser = Browser(app)
    await browser.log_in()
    return browser


@pytest.fixture
async def calendly() -> AsyncIterator[tuple[Vendor, str]]:
    async with serve_vendor("calendly") as served:
        yield served


def form(api_url: str, **fields: str) -> dict[str, str]:
    return {"name": "calendly", "credential-TOKEN": TOKEN, "api_url": api_url, **fields}


async def post(operator: Browser, source: str, fields: dict[str, str]) -> httpx.Response:
    await operator.get(f"/console/connect/{source}")
    return await operator.post(f"/console/connect/{source}", fields)


async def test_a_tool_is_connected_and_its_first_webhook_is_shown(
    app: Any, operator: Browser, calendly: tuple[Vendor, str], redis: Redis
) -> None:
    vendor, api_url = calendly
    connected = await post(operator, "calendly", form(api_url))

    assert 303 == connected.status_code
    page = connected.headers["location"]
    assert re.fullmatch(r"/console/hooks/calendly/first-delivery\?since=\d+", page)
    [subscription] = vendor.subscriptions.values()
    assert "https://doorbell.example.com/hooks/calendly" == subscription.url
    waiting = main_text((await operator.get(page)).text)
    assert "Calendly is connected Waiting for the first webhook" in waiting
    assert "Ada&#39;s Salon" in waiting
    assert "active, checked" in waiting
    assert "Upcoming appointments Waiting for a worker" in waiting

    body = new_event_body("calendly")
    await operator.http.post("/hooks/calendly", content=body, headers=sign_calendly(body, secret=subscription.secret))

    arrived = (await operator.get(page)).text
    assert "The first webhook of Calendly arrived, and its signature is valid" in arrived
    assert TOKEN not in arrived
    assert [(b"added hook", b"calendly"), (b"connected tool", b"calendly: 1 created")] == await activities(redis)


@pytest.mark.parametrize(
    ("faults", "fields", "sentence"),
    [
        ({}, {"credential-TOKEN": WRONG_TOKEN}, "Calendly rejects the credentials (401)"),
        ({"forbidden": True}, {}, "upgrade"),
        ({"down": True}, {}, "Calendly cannot be reached"),
        ({}, {"name": "standard"}, "There is a hook standard already"),
        ({}, {"name": "A B"}, "Name of the hook: must have only lowercase letters"),
        ({}, {"timezone": "Nowhere"}, "must be the name of a time zone"),
    ],
)
async def test_a_refusal_is_a_sentence_and_nothing_typed_is_repeated(
    operator: Browser,
    calendly: tuple[Vendor, str],
    redis: Redis,
    faults: dict[str, Any],
    fields: dict[str, str],
    sentence: str,
) -> None:
    vendor, api_url = calendly
    vendor.faults = Faults(**faults)

    refused = await post(operator, "calendly", form(api_url, **fields))

    assert (409, True) == (refused.status_code, sentence in refused.text)
    assert "Calendly is not connected" in refused.text
    assert [] == [value for value in (TOKEN, WRONG_TOKEN) if value in refused.text]
    assert {} == vendor.subscriptions
    assert b"connected tool" not in [action for action, _ in await activities(redis)]


async def test_a_token_that_the_tool_repeats_is_hidden(
    operator: Browser, calendly: tuple[Vendor, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor, api_url = calendly
    repeat = {"message": f"There is no token {WRONG_TOKEN}."}
    monkeypatch.setattr(vendor, "error", lambda status, text: JSONResponse(repeat, status))

    refused = await post(operator, "calendly", form(api_url, **{"credential-TOKEN": WRONG_TOKEN}))

    assert "There is no token •••" in refused.text
    assert WRONG_TOKEN not in refused.text


async def test_after_an_outage_the_same_form_continues(
    app: Any, operator: Browser, calendly: tuple[Vendor, str]
) -> None:
    vendor, api_url = calendly
    vendor.faults = Faults(hang_after=3)  # the subscription is created, and the response is lost
    first = await post(operator, "calendly", form(api_url))
    again = re.search(r'name="again" value="1"', first.text)
    fields = {"again": "1"} if again else {}
    second = await operator.post("/console/connect/calendly", form(api_url, **fields))

    assert (409, 303) == (first.status_code, second.status_code)
    assert "Nothing is lost: try again" in first.text
    assert 1 == len(vendor.subscriptions)


async def test_a_slow_tool_ends_the_request_with_a_sentence(
    operator: Browser, calendly: tuple[Vendor, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor, api_url = calendly
    vendor.faults = Faults(slow_s=5)
    monkeypatch.setattr(connect, "CONNECT_TIMEOUT_S", 0.2)

    assert "Calendly answers too slowly" in (await post(operator, "calendly", form(api_url))).text


async def test_while_another_process_connects_the_hook_nothing_is_done(
    app: Any, operator: Browser, calendly: tuple[Vendor, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor, api_url = calendly
    monkeypatch.setattr(connector, "LOCK_WAIT_S", 0.1)
    async with connector.connection_lock(app.state.services.console.context.tools, "calendly"):
        refused = await post(operator, "calendly", form(api_url))

    assert "Another process works on this connection" in refused.text
    assert {} == vendor.subscriptions


async def test_a_connected_hook_is_connected_again_with_new_credentials_only_on_purpose(
    app: Any, operator: Browser, calendly: tuple[Vendor, str]
) -> None:
    vendor, api_url = calendly
    await post(operator, "calendly", form(api_url))
    vendor.credentials = {"TOKEN": "another-token-of-the-account"}
    other = (await operator.get("/console/connect/calendly")).text
    again = (await operator.get("/console/connect/calendly?hook=calendly")).text

    by_accident = await operator.post("/console/connect/calendly", form(api_url))
    on_purpose = await operator.post(
        "/console/connect/calendly", {"name": "calendly", "again": "1", "credential-TOKEN": vendor.credentials["TOKEN"]}
    )

    assert 'value="calendly-2"' in other
    assert "This form connects another account of Calendly" in other
    assert "(stored; empty keeps it)" in again
    assert (409, 303) == (by_accident.status_code, on_purpose.status_code)
    hook = app.state.services.settings.hooks["calendly"]
    assert (vendor.credentials, api_url) == (hook.credentials, hook.api_url)
    assert 1 == len(vendor.subscriptions)


async def test_without_an_api_the_secret_is_shown_once_with_the_steps(app: Any, operator: Browser) -> None:
    shown = await post(operator, "workiz", {"name": "workiz", "timezone": "America/New_York"})
    secret = app.state.services.settings.hooks["workiz"].secrets[0]
    later = await operator.get("/console/hooks/workiz/first-delivery?since=0")

    assert (200, True, False) == (shown.status_code, secret in shown.text, secret in later.text)
    for page in (shown.text, later.text):
        assert '<code class="copy">https://doorbell.example.com/hooks/workiz</code>' in page
        assert "In Workiz, open the Automation center" in page
        assert "Waiting for the first webhook" in page
        assert "HOOKS__" not in page


async def test_any_time_in_the_address_of_the_first_delivery_is_accepted(operator: Browser) -> None:
    for since in ("9" * 5_000, "-1", "now", "1e3", "٣", ""):
        page = await operator.get(f"/console/hooks/standard/first-delivery?since={since}")
        assert 200 == page.status_code, since


async def test_a_secret_that_is_only_in_the_url_is_not_shown(app: Any, operator: Browser) -> None:
    shown = html.unescape((await post(operator, "appointlet", {"name": "appointlet"})).text)

    [address] = re.findall('The URL of this hook: <code class="copy">([^<]+)</code>', shown)
    assert re.fullmatch(r"https://doorbell\.example\.com/hooks/appointlet/[\w-]{20,}", address)
    assert app.state.services.settings.hooks["appointlet"].secrets[0] not in shown
    assert "signing secret" not in main_text(shown).lower()


async def test_a_secret_that_the_tool_shows_is_entered_below_the_steps(app: Any, operator: Browser) -> None:
    page = (await operator.get("/console/connect/zoom")).text
    stored = await post(operator, "zoom", {"name": "zoom", "secret": "canary-token-of-zoom"})

    assert page.index("https://doorbell.example.com/hooks/zoom") < page.index('name="secret"')
    assert "“Signing secret”" in page
    assert 303 == stored.status_code
    assert ("canary-token-of-zoom",) == app.state.services.settings.hooks["zoom"].secrets
    assert "canary" not in (await operator.get(stored.headers["location"])).text


async def test_a_rejected_webhook_is_explained_while_the_page_waits(
    app: Any, operator: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "FOLLOW_EVERY_S", 0.02)
    page = (await post(operator, "zoom", {"name": "zoom", "secret": "token-of-zoom"})).headers["location"]
    await operator.get(page)
    async with asyncio.timeout(5):
        while "zoom" not in app.state.services.arrivals.hooks:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await operator.http.post("/hooks/zoom", content=b"{}", headers={"content-type": "application/json"})
        while "and was rejected" not in (text := (await operator.get(page)).text):  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    assert "signature" in main_text(text)


async def test_the_choice_lists_common_tools_first_and_finds_others(
    operator: Browser, calendly: tuple[Vendor, str]
) -> None:
    await post(operator, "calendly", form(calendly[1]))
    everything, search, nothing = [
        html.unescape((await operator.get(f"/console/connect{query}")).text)
        for query in ("", "?q=workIZ", "?q=nosuchtool")
    ]

    titles = re.findall("<strong>([^<]+)</strong>", everything)
    common = {source.definition.title for source in load_sources().values() if source.definition.is_common}
    assert common == set(titles[: len(common)])
    assert len(load_sources()) == len(titles)
    assert "with a token · connected as calendly" in main_text(everything)
    assert ["Workiz"] == re.findall("<strong>([^<]+)</strong>", search)
    assert "No tool has “nosuchtool” in its name" in nothing


@each("source", sorted(load_sources()))
async def test_the_form_of_each_tool_asks_for_what_it_needs(operator: Browser, source: str) -> None:
    page = (await operator.get(f"/console/connect/{source}")).text

    definition = load_sources()[source].definition
    shown = set(re.findall(r'name="credential-(\w+)"', page))
    assert set(definition.missing_credentials({})) <= shown
    assert all(f'name="{setting.lower()}"' in page for setting in definition.required_settings)
    assert "HOOKS__" not in page


async def test_viewers_connect_nothing(app: Any) -> None:
    viewer = Browser(app)
    await viewer.log_in(VIEWERS)

    assert [403, 403, 403] == [
        (await viewer.get("/console/connect")).status_code,
        (await viewer.get("/console/connect/calendly")).status_code,
        (await viewer.post("/console/connect/calendly", form("https://api.example.com"))).status_code,
    ]


@each("path", ["/console/connect/nosuchtool", "/console/hooks/nosuchhook/first-delivery"])
async def test_unknown_names_are_not_found(operator: Browser, path: str) -> None:
    assert 404 == (await operator.get(path)).status_code


async def test_without_its_own_address_the_form_says_who_can_help(opened: Opened, environ: dict[str, str]) -> None:
    del environ["PUBLIC_URL"]
    browser = Browser(await opened(environ))
    await browser.log_in()

    page = main_text((await browser.get("/console/connect/calendly")).text)

    assert "The person who runs Doorbell must set PUBLIC_URL first" in page


async def test_a_webhook_after_a_long_import_is_found(
    app: Any, operator: Browser, calendly: tuple[Vendor, str], redis: Redis
) -> None:
    page = (await post(operator, "calendly", form(calendly[1]))).headers["location"]
    at = int((datetime.now(UTC) + timedelta(seconds=1)).timestamp() * 1000)
    listed = [argument for number in range(1500) for argument in (at, f"l{number:021d}")]
    await redis.command("ZADD", "bell:deliveries:calendly", *listed)
    before = (await operator.get(page)).text
    await redis.command("ZADD", "bell:deliveries:calendly", at + 5, "d0000000000000000000001")

    assert "Waiting for the first webhook" in before
    assert "d0000000000000000000001" in (await operator.get(page)).text


async def test_an_account_that_cannot_use_the_api_gets_the_steps_and_the_reason(operator: Browser) -> None:
    async with serve_vendor("housecallpro") as (vendor, api_url):
        vendor.faults = Faults(forbidden=True)
        fields = {"name": "housecallpro", "secret": "signing-secret-of-the-page", "api_url": api_url}
        connected = await post(operator, "housecallpro", {**fields, "credential-TOKEN": TOKEN})

        page = (await operator.get(connected.headers["location"])).text

    text = main_text(page)
    assert "Connect Housecall Pro Waiting for the first webhook. After the steps below" in text
    assert "Only applications that Housecall Pro registered can turn on webhooks" in text
    assert "Steps in Housecall Pro" in text
    assert "Upcoming appointments" in text


async def test_credentials_that_only_some_accounts_need_are_not_required(operator: Browser) -> None:
    page = (await operator.get("/console/connect/nexhealth")).text

    assert re.search(r'name="credential-API_KEY"[^>]* required', page)
    assert re.search(r'name="credential-SUBDOMAIN"', page)
    assert not re.search(r'name="credential-SUBDOMAIN"[^>]* required', page)
