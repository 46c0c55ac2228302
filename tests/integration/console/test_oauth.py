"""Connecting a tool with a log-in there: OAuth, against a server of our own over HTTP."""

import asyncio
import html
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from app.connections.catch_up import store_of
from app.connections.connect import Connections, ConnectRequest
from app.connections.connector import connection_lock
from app.connections.context import ToolContext
from app.connections.guard import Guard
from app.connections.tokens import tokens_of
from app.ledger import keys
from app.ledger.connection_states import ConnectionState, ConnectionStates
from app.ledger.redis import Redis
from app.operators.actions import Actions, Actor
from app.vendors.oauth import OAuthServer
from app.vendors.vendor import Vendor
from app.webhooks.registry import load_sources
from tests.support.console import OPERATORS, VIEWERS, Browser, Opened, activities, main_text
from tests.support.oauth import PUBLIC_URL, Login, app_variables, is_connected, oauth_of, query_of
from tests.support.vendors import serve_vendor

SOURCES = [name for name in load_sources() if load_sources()[name].oauth]
KEY = "a-key-of-32-characters-for-tests-0"


@dataclass
class Tool:
    """The console, with an app that is registered at a fake tool."""

    app: Any
    vendor: Vendor
    login: Login

    @property
    def oauth(self) -> OAuthServer:
        return oauth_of(self.vendor)

    @property
    def name(self) -> str:
        return self.login.source

    @property
    def context(self) -> ToolContext:
        return self.app.state.console.context.tools  # type: ignore[no-any-return]

    @property
    def url(self) -> str:
        settings = self.context.settings
        return settings.hook_url(settings.hook(self.name))

    async def check(self) -> ConnectionState:
        """Check the connection, as a worker does."""
        guard = Guard(self.context, self.app.state.console.context.stored_hooks)
        async with connection_lock(self.context, self.name):
            return await guard.check(self.context.settings.hook(self.name))


async def problem_of(tool: Tool, response: Any) -> str:
    """Follow the redirect of a failed log-in, and return what the page says."""
    assert (303, True) == (response.status_code, "/problem?text=" in response.headers["location"])
    page = await tool.login.browser.get(response.headers["location"])
    assert 409 == page.status_code
    return main_text(page.text)


async def open_tool(name: str, vendor: Vendor, api_url: str, environ: dict[str, str], opened: Opened) -> Tool:
    vendor.registered_url = f"{PUBLIC_URL}/hooks/{name}"
    variables = {variable: value for variable, value in environ.items() if not variable.startswith("HOOKS__")}
    app = await opened(variables | {"SECRET_KEY": KEY} | app_variables(vendor, api_url))
    browser = Browser(app)
    await browser.log_in(OPERATORS)
    form = {"name": name, "api_url": api_url, "timezone": "America/New_York"}
    return Tool(app, vendor, Login(browser, name, form))


@pytest.fixture(params=SOURCES)
async def any_tool(request: Any, environ: dict[str, str], opened: Opened, redis: Redis) -> AsyncIterator[Tool]:
    async with serve_vendor(request.param) as (vendor, api_url):
        yield await open_tool(request.param, vendor, api_url, environ, opened)


@pytest.fixture
async def tool(environ: dict[str, str], opened: Opened, redis: Redis) -> AsyncIterator[Tool]:
    async with serve_vendor("calendly") as (vendor, api_url):
        yield await open_tool("calendly", vendor, api_url, environ, opened)


# -- every tool --


async def test_an_operator_connects_the_tool_with_a_log_in(any_tool: Tool, redis: Redis) -> None:
    tool = any_tool

    response = await tool.login.connect()

    assert is_connected(response)
    assert 200 == (await tool.login.browser.get(response.headers["location"])).status_code
    subscription = load_sources()[tool.name].subscription
    if subscription:
        ours = [each for each in tool.vendor.subscriptions.values() if each.url == tool.url]
        assert sorted(map(sorted, subscription.groups)) == sorted(sorted(each.events) for each in ours)
        secrets = tool.context.settings.hook(tool.name).settings.secrets
        assert {each.secret for each in ours} <= {*secrets, ""}
        assert "healthy" == (await tool.check()).state
    assert b"connected tool" in [action for action, _ in await activities(redis)]


async def test_the_authorization_request_is_the_declared_one(any_tool: Tool) -> None:
    declared = load_sources()[any_tool.name].oauth
    assert declared

    query = query_of(await any_tool.login.begin())

    expected = {"response_type": "code", "client_id": any_tool.oauth.client_id, "redirect_uri": redirect_uri(any_tool)}
    assert expected == {name: query[name] for name in expected}
    assert declared.scopes == tuple(query.get("scope", "").split())
    assert declared.uses_pkce == (query.get("code_challenge_method") == "S256")
    assert set(declared.extra) <= set(query)
    assert len(query["state"]) > 40


@pytest.mark.parametrize("any_tool", [name for name in SOURCES if load_sources()[name].subscription], indirect=True)
async def test_expired_tokens_are_renewed_with_the_app(any_tool: Tool) -> None:
    tool = any_tool
    tool.oauth.expires_in = 0
    await tool.login.connect()
    [grant] = tool.oauth.grants
    first = set(grant.access_tokens)

    states = [(await tool.check()).state for _ in range(2)]

    assert ["healthy", "healthy"] == states
    assert len(grant.access_tokens - first) >= 2


def redirect_uri(tool: Tool) -> str:
    return f"{PUBLIC_URL}/console/connect/{tool.name}/callback"


# -- what is refused --


async def test_nothing_is_stored_if_consent_is_denied(tool: Tool, redis: Redis) -> None:
    text = await problem_of(tool, await tool.login.connect("deny"))

    assert "Access was denied at Calendly. Nothing was stored." in text
    await assert_nothing_stored(tool, redis)


@pytest.mark.parametrize(
    "state",
    ["", "made-up", "e30.made-up.signature", f"{'x' * 43}.aGVsbG8.{'s' * 27}"],
    ids=["none", "text", "token", "long"],
)
async def test_a_wrong_state_is_refused(tool: Tool, redis: Redis, state: str) -> None:
    query = query_of(await tool.login.decide(await tool.login.begin())) | {"state": state}

    text = await problem_of(tool, await tool.login.browser.get(callback(tool), params=query))

    assert "does not belong to a log-in that this browser began" in text
    await assert_nothing_stored(tool, redis)
    assert not any(grant.access_tokens for grant in tool.oauth.grants)


async def test_a_state_works_once(tool: Tool) -> None:
    location = await tool.login.decide(await tool.login.begin())
    first, again = [await tool.login.come_back(location) for _ in range(2)]

    assert is_connected(first)
    assert "was already used" in await problem_of(tool, again)
    assert 1 == len([path for _, path, _ in tool.vendor.requests if path == "/oauth/token"])


async def test_of_two_simultaneous_answers_one_counts(tool: Tool) -> None:
    location = await tool.login.decide(await tool.login.begin())

    answers = await asyncio.gather(*(tool.login.come_back(location) for _ in range(5)))

    assert 1 == sum(map(is_connected, answers))
    assert 1 == len([path for _, path, _ in tool.vendor.requests if path == "/oauth/token"])


async def test_a_code_that_was_used_is_refused(tool: Tool, redis: Redis) -> None:
    """An attacker injects the code of somebody else into a log-in of his own."""
    code = query_of(await tool.login.decide(await tool.login.begin()))["code"]
    tool.oauth.grants[0].access_tokens.add("somebody used it")
    state = query_of(await tool.login.begin())["state"]

    response = await tool.login.browser.get(callback(tool), params={"code": code, "state": state})

    assert "Calendly rejects the credentials (400)" in await problem_of(tool, response)
    await assert_nothing_stored(tool, redis)


async def test_a_code_of_another_log_in_lacks_its_verifier(tool: Tool, redis: Redis) -> None:
    code = query_of(await tool.login.decide(await tool.login.begin()))["code"]
    state = query_of(await tool.login.begin())["state"]

    response = await tool.login.browser.get(callback(tool), params={"code": code, "state": state})

    assert "Nothing was stored" in await problem_of(tool, response)
    await assert_nothing_stored(tool, redis)


async def test_a_state_of_another_session_is_refused(tool: Tool, redis: Redis) -> None:
    """An attacker makes an operator open the answer to a log-in of the attacker."""
    location = await tool.login.decide(await tool.login.begin())
    victim = Browser(tool.app)
    await victim.log_in(OPERATORS)

    response = await victim.get(location.removeprefix(PUBLIC_URL))

    assert "/problem?text=" in response.headers["location"]
    await assert_nothing_stored(tool, redis)


async def test_another_session_does_not_end_the_log_in(tool: Tool) -> None:
    """Nor does a second request with the same answer connect it twice."""
    location = (await tool.login.decide(await tool.login.begin())).removeprefix(PUBLIC_URL)
    other = Browser(tool.app)
    await other.log_in(OPERATORS)
    await other.get(location)

    own, again = [(await tool.login.browser.get(location)).headers["location"] for _ in range(2)]

    assert "/problem?text=" not in own
    assert "/problem?text=" in again


async def test_an_answer_without_a_session_leads_to_the_log_in_page_without_its_code(tool: Tool, redis: Redis) -> None:
    location = await tool.login.decide(await tool.login.begin())

    response = await Browser(tool.app).get(location.removeprefix(PUBLIC_URL))

    assert (303, f"/console/login?to={callback(tool)}") == (response.status_code, response.headers["location"])
    await assert_nothing_stored(tool, redis)


async def test_an_answer_of_another_tool_is_refused(
    environ: dict[str, str], opened: Opened, redis: Redis, tool: Tool
) -> None:
    async with serve_vendor("calcom") as (calcom, api_url):
        variables = app_variables(calcom, api_url)
        both = environ | {"SECRET_KEY": KEY} | app_variables(tool.vendor, "http://127.0.0.1:9/calendly")
        app = await opened({name: value for name, value in both.items() if "HOOKS" not in name} | variables)
        login = Login(Browser(app), "calcom", {"name": "calcom", "api_url": api_url})
        await login.browser.log_in(OPERATORS)
        query = query_of(await login.decide(await login.begin()))

        response = await login.browser.get(callback(tool), params=query)

        assert "/console/connect/calendly/problem" in response.headers["location"]
        assert not any(path.endswith("/oauth/token") for _, path, _ in [*calcom.requests, *tool.vendor.requests])


async def test_a_state_expires(tool: Tool, redis: Redis) -> None:
    location = await tool.login.decide(await tool.login.begin())
    [key] = [key async for key in redis_keys(redis, keys.OAUTH)]
    assert 590_000 < await redis.command("PTTL", key) <= 600_000
    await redis.command("PEXPIRE", key, 1)
    await asyncio.sleep(0.01)

    assert "in the last ten minutes" in await problem_of(tool, await tool.login.come_back(location))
    await assert_nothing_stored(tool, redis)


@pytest.mark.parametrize("header", ["host", "x-forwarded-host", "origin"])
async def test_the_redirect_uri_is_that_of_public_url(tool: Tool, header: str) -> None:
    """Whatever the request says, the tool redirects to PUBLIC_URL."""
    form = dict(tool.login.form) | {"redirect_uri": "https://attacker.example.com/"}

    response = await tool.login.browser.post(
        "/console/connect/calendly/authorize", form, **{header: "attacker.example.com"}
    )

    assert "attacker" not in response.text + response.headers.get("location", "")


async def test_the_fake_redirects_to_no_foreign_address(tool: Tool) -> None:
    url = await tool.login.begin()

    with pytest.raises(AssertionError, match="not registered"):
        await tool.login.decide(url.replace("doorbell.example.com", "attacker.example.com"))


async def test_a_log_in_must_begin_at_the_public_url(tool: Tool) -> None:
    response = await tool.login.browser.post(
        "/console/connect/calendly/authorize", dict(tool.login.form), origin="https://10.0.0.5"
    )

    assert (409, True) == (response.status_code, f"Open {PUBLIC_URL}/console" in response.text)


async def test_only_operators_connect_tools(tool: Tool) -> None:
    location = await tool.login.decide(await tool.login.begin())
    viewer = Browser(tool.app)
    await viewer.log_in(VIEWERS)

    begun = await viewer.post("/console/connect/calendly/authorize", dict(tool.login.form))
    ended = await viewer.get(location.removeprefix(PUBLIC_URL))

    assert [403, 403] == [begun.status_code, ended.status_code]
    assert (
        403
        == (
            await Login(tool.login.browser, "calendly", {"token": "forged"}).browser.post(
                "/console/connect/calendly/authorize", {"token": "forged"}
            )
        ).status_code
    )


async def test_a_hook_that_could_not_be_connected_is_refused_before_the_log_in(tool: Tool) -> None:
    browser = tool.login.browser

    response = await browser.post("/console/connect/calendly/authorize", {"name": "Shop!"})

    assert (409, True) == (response.status_code, "must have only lowercase letters" in response.text)
    assert [] == tool.vendor.requests


async def test_of_two_log_ins_for_one_new_hook_the_first_one_counts(tool: Tool) -> None:
    """Two operators connect two accounts, and both leave the name as it is."""
    first, second = [await tool.login.decide(await tool.login.begin()) for _ in range(2)]
    assert is_connected(await tool.login.come_back(first))

    text = await problem_of(tool, await tool.login.come_back(second))

    assert "Meanwhile a hook calendly was added" in text
    assert not tool.oauth.grants[1].access_tokens


async def test_a_second_log_in_does_not_replace_a_hook(tool: Tool) -> None:
    await tool.login.connect()

    response = await tool.login.browser.post("/console/connect/calendly/authorize", dict(tool.login.form))

    assert (409, True) == (response.status_code, "There is a hook calendly already" in response.text)


async def test_the_form_offers_the_log_in_where_an_app_is_configured(tool: Tool) -> None:
    browser = tool.login.browser

    calendly, savvycal, tools = [
        (await browser.get(f"/console/connect{path}")).text for path in ("/calendly", "/savvycal", "")
    ]

    assert ["authorize" in page for page in (calendly, savvycal)] == [True, False]
    assert 1 == tools.count('<span class="faint">with a log-in')


async def test_a_tool_without_an_app_says_what_is_missing(tool: Tool) -> None:
    response = await tool.login.browser.post("/console/connect/savvycal/authorize", {"name": "savvycal"})

    assert (409, True) == (response.status_code, "OAUTH__SAVVYCAL__CLIENT_ID" in response.text)


async def test_nobody_writes_a_sentence_into_the_page_about_a_problem(tool: Tool) -> None:
    page = await tool.login.browser.get("/console/connect/calendly/problem?text=Call+0900+123")

    assert (404, False) == (page.status_code, "0900" in page.text)


async def test_a_refused_account_stores_nothing(tool: Tool, redis: Redis) -> None:
    tool.vendor.faults = replace(tool.vendor.faults, forbidden=True)

    text = await problem_of(tool, await tool.login.connect())

    assert "Webhooks need a paid plan of Calendly" in text
    await assert_nothing_stored(tool, redis)


async def test_tokens_codes_and_secrets_are_in_no_log_and_in_redis_only_encrypted(
    tool: Tool, redis: Redis, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    location = await tool.login.decide(await tool.login.begin())
    [pending] = [await redis.command("GET", key) async for key in redis_keys(redis, keys.OAUTH)]
    await tool.login.come_back(location)
    [grant] = tool.oauth.grants
    hidden = [
        *grant.access_tokens,
        *grant.refresh_tokens,
        grant.code,
        tool.oauth.client_secret,
        tool.oauth.webhook_secret,
    ]

    stored = pending + b"".join([await dump(redis, key) async for key in redis_keys(redis, "bell:")])
    output = caplog.text + "".join(capfd.readouterr())

    assert [] == [value for value in hidden if value.encode() in stored or value in output]
    assert query_of(location)["state"] not in output


# -- tokens --


async def test_a_revoked_connection_is_connected_again(tool: Tool, redis: Redis) -> None:
    await tool.login.connect()
    subscriptions, before = dict(tool.vendor.subscriptions), await store_of(tool.context).get("calendly")
    tool.oauth.revoke()
    assert "credentials_expired" == (await tool.check()).state
    page = main_text((await tool.login.browser.get("/console/hooks/calendly")).text)
    overview = (await tool.login.browser.get("/console")).text

    response = await tool.login.reconnect()

    assert "Calendly no longer accepts the log-in of this hook" in page
    assert "The hook calendly is not connected" in overview
    assert "/console/hooks/calendly?done=connected" == response.headers["location"]
    assert "healthy" == (await tool.check()).state
    assert subscriptions == tool.vendor.subscriptions
    after = await store_of(tool.context).get("calendly")
    assert before
    assert after
    assert after.id != before.id, "what changed meanwhile is caught up"


async def test_a_log_in_again_catches_up_and_subscribes_again_where_the_tool_cannot_be_asked(
    any_tool: Tool, redis: Redis
) -> None:
    """The app may have been removed at the tool, and its subscriptions with it."""
    await any_tool.login.connect()
    store = store_of(any_tool.context)
    before, subscribed = await store.get(any_tool.name), len(any_tool.vendor.subscriptions)
    connected = await ConnectionStates(redis).get(any_tool.name)
    any_tool.vendor.subscriptions.clear()

    response = await any_tool.login.reconnect()

    assert f"/console/hooks/{any_tool.name}?done=connected" == response.headers["location"]
    after = await store.get(any_tool.name)
    assert before
    assert after
    assert (True, "connected") == (before.id != after.id, after.cause)
    assert subscribed == len(any_tool.vendor.subscriptions)
    assert connected.connected_at_ms == (await ConnectionStates(redis).get(any_tool.name)).connected_at_ms


async def test_a_rotated_refresh_token_is_used_next(tool: Tool) -> None:
    tool.oauth.expires_in = 0
    await tool.login.connect()

    states = [(await tool.check()).state for _ in range(3)]

    assert ["healthy"] * 3 == states
    [grant] = tool.oauth.grants
    assert 1 == len(grant.refresh_tokens)


async def test_a_lost_response_to_a_rotation_asks_for_a_new_log_in(tool: Tool) -> None:
    """The tool has replaced the refresh token, and nobody knows the new one."""
    tool.oauth.expires_in = 0
    await tool.login.connect()
    tool.vendor.faults = replace(tool.vendor.faults, hang_after=1)

    interrupted, after = await tool.check(), await tool.check()

    assert ("healthy", "credentials_expired") == (interrupted.state, after.state)
    assert "connect the account again" in after.detail

    tool.oauth.expires_in = 7_200
    await tool.login.reconnect()
    assert "healthy" == (await tool.check()).state


async def test_a_new_secret_of_the_app_keeps_the_tokens(
    tool: Tool, environ: dict[str, str], opened: Opened, redis: Redis
) -> None:
    tool.oauth.expires_in = 0
    await tool.login.connect()
    tool.oauth.client_secret = "the next secret of the app & more"
    api_url = tool.login.form["api_url"]

    after = await open_tool("calendly", tool.vendor, api_url, environ, opened)
    await after.app.state.console.context.stored_hooks.load()

    assert "healthy" == (await after.check()).state


async def test_connecting_again_without_credentials_uses_the_stored_tokens(tool: Tool) -> None:
    """As `doorbell connect calendly` does, which cannot log in."""
    await tool.login.connect()
    actions = Actions(tool.context.ledger, tool.context.settings, Actor("ada", "operator"))
    connections = Connections(tool.context, tool.app.state.console.context.stored_hooks, actions)

    connected = await connections.connect(ConnectRequest("calendly", "calendly"))

    assert connected.subscribed
    assert (1, 0) == (len(connected.subscribed.adopted), len(connected.subscribed.created))
    assert tool.context.settings.hooks["calendly"].uses_oauth


async def test_a_token_replaces_the_log_in(tool: Tool) -> None:
    await tool.login.connect()
    tool.oauth.revoke()
    form = dict(tool.login.form) | {"again": "1", "credential-TOKEN": tool.vendor.credentials["TOKEN"]}

    await tool.login.browser.post("/console/connect/calendly", form)

    assert not tool.context.settings.hooks["calendly"].uses_oauth
    assert "healthy" == (await tool.check()).state


async def test_without_its_app_the_hook_says_what_is_missing(
    tool: Tool, environ: dict[str, str], opened: Opened
) -> None:
    await tool.login.connect()
    app = await opened(environ | {"SECRET_KEY": KEY, "PUBLIC_URL": PUBLIC_URL, "HOOKS__CALENDLY__SECRETS": ""})
    await app.state.console.context.stored_hooks.load()
    browser = Browser(app)
    await browser.log_in(OPERATORS)

    page = (await browser.get("/console/hooks/calendly")).text

    assert "Missing: OAUTH__CALENDLY__CLIENT_ID, OAUTH__CALENDLY__CLIENT_SECRET" in main_text(page)


async def test_tokens_are_encrypted_with_another_key(tool: Tool, redis: Redis) -> None:
    await tool.login.connect()
    before = await redis.command("GET", f"{keys.TOKEN}calendly")
    settings = tool.context.settings.model_copy(update={"secret_key": ("another-key-of-32-characters-0000", KEY)})
    context = ToolContext(settings, tool.context.ledger, tool.context.http)
    tokens = tokens_of(context, settings.hook("calendly"))

    changed = [await tokens.encrypt() for _ in range(2)]

    after = await redis.command("GET", f"{keys.TOKEN}calendly")
    assert [True, False] == changed
    assert before[1:5] != after[1:5], "the id of the key"
    assert oauth_of(tool.vendor).is_valid(await tokens.current())


async def test_a_removed_hook_leaves_no_token(tool: Tool, redis: Redis) -> None:
    await tool.login.connect()

    await tool.login.browser.post("/console/hooks/calendly/remove", {"confirm": "calendly"})

    assert [] == [key async for key in redis_keys(redis, keys.TOKEN)]


# -- helpers --


def callback(tool: Tool) -> str:
    return f"/console/connect/{tool.name}/callback"


async def redis_keys(redis: Redis, prefix: str) -> AsyncIterator[bytes]:
    for key in await redis.command("KEYS", f"{prefix}*"):
        yield key


async def dump(redis: Redis, key: bytes) -> bytes:
    kind = await redis.command("TYPE", key)
    reads = {b"string": ("GET",), b"hash": ("HGETALL",), b"list": ("LRANGE", 0, -1), b"zset": ("ZRANGE", 0, -1)}
    reads |= {b"set": ("SMEMBERS",), b"stream": ("XRANGE", "-", "+")}
    name, *arguments = reads[kind if isinstance(kind, bytes) else kind.encode()]
    return repr(await redis.command(name, key, *arguments)).encode()


async def assert_nothing_stored(tool: Tool, redis: Redis) -> None:
    assert "calendly" not in tool.context.settings.hooks
    assert [] == [key async for key in redis_keys(redis, keys.TOKEN)]
    assert 0 == await redis.command("HLEN", keys.STORED_HOOKS)
    assert {} == tool.vendor.subscriptions


# -- the account --


async def test_another_account_does_not_replace_that_of_the_hook(
    tool: Tool, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tool.login.connect()
    before, subscriptions = await stored_tokens(redis), dict(tool.vendor.subscriptions)
    monkeypatch.setattr("app.vendors.calendly.ORGANIZATION", "https://api.calendly.com/organizations/OTHER")

    problem = html.unescape(await problem_of(tool, await tool.login.reconnect()))

    own = "Ada's Salon (https://api.calendly.com/organizations/ORG1)"
    assert f"is not that of the hook calendly, which is {own}. Nothing was changed." in problem
    assert before == await stored_tokens(redis)
    assert subscriptions == tool.vendor.subscriptions


async def stored_tokens(redis: Redis) -> Any:
    return await redis.command("GET", f"{keys.TOKEN}calendly")


async def test_the_account_of_a_log_in_is_known_and_may_log_in_again(any_tool: Tool) -> None:
    tool = any_tool
    await tool.login.connect()

    again = await tool.login.reconnect()

    assert f"/console/hooks/{tool.name}?done=connected" == again.headers["location"]
    assert (await ConnectionStates(tool.context.ledger.redis).get(tool.name)).account_id


async def test_the_page_of_a_log_in_asks_for_no_secret_and_no_token(tool: Tool) -> None:
    await tool.login.connect()
    browser, settings = tool.login.browser, tool.context.settings
    secrets = settings.hook("calendly").settings.secrets

    page = (await browser.get("/console/hooks/calendly")).text
    rotated = await browser.post("/console/hooks/calendly/rotate", {"secret": "another-secret-of-32-characters-000"})
    changed = await browser.post("/console/hooks/calendly", {"credential-TOKEN": "another token"})

    assert "New secret" not in page
    assert "credential-TOKEN" not in page
    assert [409, 409] == [rotated.status_code, changed.status_code]
    assert secrets == settings.hook("calendly").settings.secrets
    assert "TOKEN" not in settings.stored_hooks["calendly"].credentials
