"""The URLs of hooks with a token in the path."""

import re

import pytest

from app.settings.environment import read_environment
from app.webhooks.registry import load_sources, load_specimens
from app.webhooks.specimens import sign_specimen
from tests.support.console import KEY, VIEWERS, Browser, Opened

SOURCES_WITH_TOKEN = [name for name, tool in load_sources().items() if tool.definition.signature.needs_secret_key]


#: Settings without which some of these sources cannot be configured.
REQUIRED_SETTINGS = {"API_URL": "https://api.example.com", "TIMEZONE": "UTC", "TENANTS": "t-1"}


@pytest.fixture
def environ_with_tokens(environ: dict[str, str]) -> dict[str, str]:
    for name in SOURCES_WITH_TOKEN:
        environ[f"HOOKS__{name.upper()}__SECRETS"] = load_specimens(name)["secret"]
        for setting in load_sources()[name].definition.required_settings:
            environ[f"HOOKS__{name.upper()}__{setting}"] = REQUIRED_SETTINGS[setting]
    return environ | {"PUBLIC_URL": "https://doorbell.example.com", "SECRET_KEY": KEY * 2}


def test_some_sources_have_a_token_in_their_url() -> None:
    assert {"appointlet", "gingr", "servicem8", "simplybook", "tekmetric"} <= set(SOURCES_WITH_TOKEN)


@pytest.mark.parametrize("name", SOURCES_WITH_TOKEN)
async def test_the_url_on_the_page_of_a_source_accepts_deliveries(
    opened: Opened, environ_with_tokens: dict[str, str], name: str
) -> None:
    app = await opened(environ_with_tokens)
    operator = Browser(app)
    await operator.log_in()
    settings = read_environment(environ_with_tokens)

    page = (await operator.get(f"/console/sources/{name}")).text
    overview = (await operator.get("/console")).text
    [address] = re.findall(rf'<code class="copy">(https://[^<]*/hooks/{name}[^<]*)</code>', page)
    signed = sign_specimen(name, "1", name, settings.hooks[name].secrets, settings.secret_key, address)
    response = await operator.http.request(
        signed.method, address + (signed.query and f"?{signed.query}"), content=signed.body, headers=signed.headers
    )

    assert address in overview
    assert address in page.partition('id="steps"')[2]
    assert response.status_code in (200, 202), response.text


@pytest.mark.parametrize("name", SOURCES_WITH_TOKEN)
async def test_a_viewer_sees_no_token(opened: Opened, environ_with_tokens: dict[str, str], name: str) -> None:
    app = await opened(environ_with_tokens)
    viewer = Browser(app)
    await viewer.log_in(VIEWERS)
    settings = read_environment(environ_with_tokens)
    token = settings.hook_url(settings.active_hooks[name]).rpartition("/")[2]

    pages = [
        await viewer.get(path)
        for path in (f"/console/sources/{name}", "/console/sources", "/console", "/console/settings")
    ]

    assert [] == [page.url for page in pages if token in page.text]
    assert f"/hooks/{name}/•••" in pages[0].text
    assert f'class="copy">https://doorbell.example.com/hooks/{name}' not in pages[0].text


async def test_without_public_url_only_the_path_is_shown(opened: Opened, environ_with_tokens: dict[str, str]) -> None:
    del environ_with_tokens["PUBLIC_URL"]
    settings = read_environment(environ_with_tokens)
    operator = Browser(await opened(environ_with_tokens))
    await operator.log_in()

    pages = [(await operator.get(f"/console{path}")).text for path in ("/sources/gingr", "", "/sources/gingr/listen")]

    for page in pages:
        assert f"<code>{settings.hook_url(settings.active_hooks['gingr'])}</code>" in page
        assert "set <code>PUBLIC_URL</code>" in page
        assert "://doorbell.example.com" not in page
