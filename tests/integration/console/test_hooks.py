"""The pages of hooks: they add, change, rotate and remove stored hooks, and never show a secret again."""

import re
from typing import Any

import httpx
import pytest

from app.ledger.redis import Redis
from tests.support.console import VIEWERS, Browser, Opened, activities, main_text
from tests.support.harness import sign_calendly
from tests.support.intake import new_event_body

FORM = {"source": "acuity", "name": "shop", "secret": "canary-signing-secret"}
CREDENTIALS = {"credential-USER_ID": "42", "credential-API_KEY": "canary-api-key"}


@pytest.fixture
async def operator(app: Any) -> Browser:
    browser = Browser(app)
    await browser.log_in()
    return browser


async def statuses(app: Any, hook: str, *secrets: str) -> list[int]:
    """Send a new delivery with each secret."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://doorbell.example.com") as http:
        bodies = [new_event_body("calendly") for _ in secrets]
        signed = [sign_calendly(body, secret=secret) for body, secret in zip(bodies, secrets, strict=True)]
        return [
            (await http.post(f"/hooks/{hook}", content=body, headers=headers)).status_code
            for body, headers in zip(bodies, signed, strict=True)
        ]


async def test_an_operator_adds_rotates_and_removes_a_hook(app: Any, operator: Browser) -> None:
    form = FORM | {"source": "calendly", "name": "east"}
    added = await operator.post("/console/hooks", form)
    assert (303, "/console/hooks/east?done=added") == (added.status_code, added.headers["location"])
    assert [202] == await statuses(app, "east", "canary-signing-secret")

    await operator.post("/console/hooks/east/rotate", {"secret": "canary-of-the-second"})
    assert [202, 202] == await statuses(app, "east", "canary-of-the-second", "canary-signing-secret")
    await operator.post("/console/hooks/east/finish-rotation")
    assert [401] == await statuses(app, "east", "canary-signing-secret")

    refused = await operator.post("/console/hooks/east/remove", {"confirm": "no"})
    assert (409, True) == (refused.status_code, "Nothing was removed" in refused.text)
    await operator.post("/console/hooks/east/remove", {"confirm": "east"})
    assert [404] == await statuses(app, "east", "canary-of-the-second")


async def test_settings_and_credentials_are_changed(app: Any, operator: Browser) -> None:
    await operator.post(
        "/console/hooks", FORM | {"credential-USER_ID": "42", "account": "east", "visits_api_token": "own"}
    )
    before = main_text((await operator.get("/console/hooks/shop")).text)
    await operator.post(
        "/console/hooks/shop", {"timezone": "Europe/Berlin", "account": "west", "credential-API_KEY": "canary-api-key"}
    )

    page = (await operator.get("/console/hooks/shop")).text

    hook = app.state.services.settings.hooks["shop"]
    assert ("Europe/Berlin", "west", "own") == (hook.timezone, hook.account, hook.visits_api_token)
    assert {"USER_ID": "42", "API_KEY": "canary-api-key"} == hook.credentials
    assert ("Missing: API_KEY" in before, "Missing" in page) == (True, False)
    assert ('value="Europe/Berlin"' in page, 'value="west"' in page) == (True, True)


async def test_the_token_of_a_hook_is_kept_replaced_and_removed(app: Any, operator: Browser) -> None:
    await operator.post("/console/hooks", FORM | CREDENTIALS | {"visits_api_token": "first"})
    tokens = []
    for form in ({}, {"visits_api_token": "second"}, {"remove_token": "yes"}):
        page = (await operator.get("/console/hooks/shop")).text
        assert 'name="remove_token"' in page
        assert 303 == (await operator.post("/console/hooks/shop", form)).status_code
        tokens.append(app.state.services.settings.hooks["shop"].visits_api_token)

    assert ["first", "second", None] == tokens
    assert 'name="remove_token"' not in (await operator.get("/console/hooks/shop")).text


async def test_no_page_shows_a_stored_secret_or_credential(redis: Redis, operator: Browser) -> None:
    await operator.post("/console/hooks", FORM | CREDENTIALS)
    await operator.post("/console/hooks/shop/rotate", {"secret": "canary-of-the-second"})

    paths = ("hooks", "hooks/shop", "sources", "sources/acuity", "settings", "activity")
    pages = [(await operator.get(f"/console/{path}")).text for path in paths]

    assert [] == [path for path, page in zip(paths, pages, strict=True) if "canary" in page]
    assert "shop" in pages[0]
    assert [(b"added hook", b"shop of Acuity Scheduling"), (b"rotated secret", b"shop: a new one is accepted")] == (
        await activities(redis)
    )


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        (FORM | {"name": "standard"}, "the hook standard is set in the environment"),
        (FORM | {"name": "Shop!"}, "must have only lowercase letters"),
        (FORM | {"timezone": "Nowhere"}, "must be the name of a time zone"),
        (FORM | {"source": "standard", "name": "zapier"}, "secret 1 of 1"),
    ],
)
async def test_an_invalid_hook_says_what_is_wrong_and_keeps_what_was_typed(
    redis: Redis, operator: Browser, form: dict[str, str], sentence: str
) -> None:
    response = await operator.post("/console/hooks", form)

    assert (409, True) == (response.status_code, sentence in response.text)
    assert f'value="{form["name"]}"' in response.text
    assert "canary" not in response.text
    assert not await redis.command("EXISTS", "bell:stored-hooks")


async def test_the_form_asks_for_what_the_tool_needs(operator: Browser) -> None:
    choice, acuity, standard = [
        (await operator.get(f"/console/hooks/new{query}")).text for query in ("", "?source=acuity", "?source=standard")
    ]

    assert ('<option value="calendly">' in choice, "credential-" in choice) == (True, False)
    assert ['"credential-USER_ID"', '"credential-API_KEY"'] == re.findall(r'name=("credential-\w+")', acuity)
    assert ["User ID", "API key"] == re.findall(r'<label for="credential-[^>]+>([^<]+)</label>', acuity)
    assert "Integrations" in main_text(acuity)
    assert re.search(r'name="secret" value="whsec_[^"]{20,}"', standard)


async def test_a_hook_of_the_environment_is_shown_and_says_why_it_cannot_be_changed(
    app: Any, operator: Browser
) -> None:
    page = await operator.get("/console/hooks/calendly")

    assert "HOOKS__CALENDLY__…" in page.text
    assert "cannot change the environment" in page.text
    assert 'method="post"' not in page.text.partition("<main")[2]
    for path in ("", "/rotate", "/finish-rotation"):
        assert 404 == (await operator.post(f"/console/hooks/calendly{path}", {"secret": "x"})).status_code
    assert 409 == (await operator.post("/console/hooks/calendly/remove", {"confirm": "calendly"})).status_code


async def test_viewers_see_hooks_and_change_none(app: Any, operator: Browser) -> None:
    await operator.post("/console/hooks", FORM | CREDENTIALS)
    viewer = Browser(app)
    await viewer.log_in(VIEWERS)

    page = await viewer.get("/console/hooks/shop")

    assert (200, False) == (page.status_code, 'method="post"' in page.text.partition("<main")[2])
    assert 403 == (await viewer.post("/console/hooks/shop/remove", {"confirm": "shop"})).status_code
    assert 403 == (await viewer.get("/console/hooks/new")).status_code


async def test_a_hook_that_cannot_be_decrypted_is_shown_and_can_be_removed(
    app: Any, operator: Browser, opened: Opened, environ: dict[str, str]
) -> None:
    await operator.post("/console/hooks", FORM | CREDENTIALS)
    other = Browser(await opened(environ | {"SECRET_KEY": "another-key-of-the-tests"}))
    await other.log_in()
    await other.get("/hooks/unknown")  # so that this process asks Redis

    page, overview = [(await other.get(f"/console{path}")).text for path in ("/hooks/shop", "")]
    removed = await other.post("/console/hooks/shop/remove", {"confirm": "shop"})

    assert "a key that SECRET_KEY lacks" in page
    assert "The stored hook shop cannot be used, and its tool gets 503" in overview
    assert (303, 404) == (removed.status_code, (await other.get("/console/hooks/shop")).status_code)
