"""An office manager connects a tool with the console alone: a log-in at the tool, on another site."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from app.settings.model import hash_password
from app.vendors.api import create_vendors, load_vendor
from app.vendors.vendor import Vendor
from tests.support import browser as browsers
from tests.support.browser import ConsoleBrowser
from tests.support.harness import Harness, Server, free_port
from tests.support.oauth import oauth_of

pytestmark = pytest.mark.skipif(not browsers.CHROMIUM, reason="Chromium is missing: install it, or set CHROMIUM_PATH")

PASSWORD = "operate the console"


@pytest.fixture(scope="module")
def calendly() -> Iterator[tuple[Vendor, str]]:
    """Serve the fake on 127.0.0.1, which is another site than localhost."""
    vendor, port = load_vendor("calendly"), free_port()
    server = uvicorn.Server(uvicorn.Config(create_vendors([vendor]), host="127.0.0.1", port=port, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield vendor, f"http://127.0.0.1:{port}/calendly"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def office(redis_url: str, sandbox: Server, calendly: tuple[Vendor, str]) -> Iterator[Harness]:
    vendor, api_url = calendly
    with Harness(redis_url, sandbox) as harness:
        port = free_port()
        harness.env = {name: value for name, value in harness.env.items() if not name.startswith("HOOKS__")} | {
            "SECRET_KEY": "key-of-the-browser-tests-00000000",
            "CONSOLE_PASSWORD_HASH": f"ada:{hash_password(PASSWORD)}",
            "PUBLIC_URL": f"http://localhost:{port}",
            **vendor.oauth_variables(api_url),
        }
        oauth_of(vendor).redirect_uris = (f"http://localhost:{port}/console/connect/calendly/callback",)
        harness.start_web(port)
        yield harness


@pytest.fixture
def console(office: Harness, chromium: Any) -> Iterator[ConsoleBrowser]:
    browser = ConsoleBrowser(chromium, office.env["PUBLIC_URL"])
    browser.log_in(PASSWORD, "ada")
    yield browser
    browser.close()
    assert [] == browser.errors


def begin(console: ConsoleBrowser, api_url: str) -> None:
    console.open("/console/connect")
    console.click("main a:has-text('Calendly')")
    console.page.click("summary:has-text('More')")
    console.page.fill("#api-url", api_url)
    console.click("button:has-text('Log in at Calendly')")
    console.page.wait_for_selector("text=May Doorbell use this account?")


def test_a_log_in_connects_calendly(console: ConsoleBrowser, calendly: tuple[Vendor, str]) -> None:
    vendor, api_url = calendly
    begin(console, api_url)

    console.click("button:has-text('Deny')")
    console.page.wait_for_selector("text=Access was denied at Calendly. Nothing was stored.")
    assert {} == vendor.subscriptions

    begin(console, api_url)
    console.click("button:has-text('Allow')")
    console.page.wait_for_selector("h1:has-text('Calendly is connected')")

    assert 1 == len(vendor.subscriptions)
    assert "code=" not in console.page.url
    assert "code=" not in str(console.page.evaluate("document.referrer"))


def test_an_ended_log_in_is_renewed_from_the_page_of_the_hook(
    console: ConsoleBrowser, calendly: tuple[Vendor, str]
) -> None:
    vendor, _ = calendly
    before = set(vendor.subscriptions)
    oauth_of(vendor).revoke()

    console.open("/console/hooks/calendly")
    console.click("button:has-text('Reconnect')")
    console.click("button:has-text('Allow')")
    console.page.wait_for_selector("text=Connected: the tool sends its webhooks here.")

    assert before == set(vendor.subscriptions)
    assert oauth_of(vendor).is_valid(next(iter(oauth_of(vendor).grants[-1].access_tokens)))
