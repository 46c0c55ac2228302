"""The URLs of hooks with a token in the path."""

import re

import pytest

from app.settings.environment import read_environment
from app.webhooks.registry import load_sources, load_specimens
from app.webhooks.specimens import sign_specimen
from tests.support.console import KEY, VIEWERS, Browser, Opened

TOKENED = [name for name, tool in load_sources().items() if tool.definition.signature.needs_secret_key]


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
    settings = read_environment(tokened)

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
    settings = read_environment(tokened)
    token = settings.hook_url(settings.active_hooks[name]).rpartition("/")[2]

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
    settings = read_environment(tokened)
    operator = Browser(await opened(tokened))
    await operator.log_in()

    page = (await operator.get("/console/sources/gingr")).text

    assert f">https://doorbell.example.com{settings.hook_url(settings.active_hooks['gingr'])}<" in page
